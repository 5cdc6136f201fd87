//! The wire input and what it means.

use domain::{CustomerId, Fen, ProductId, Refusal, Yuan};
use schemars::JsonSchema;
use serde::Deserialize;
use store::prepaid::PrepaidType;

/// No more records may be named in one call.
const RECORDS_MAX: usize = 100;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    customer_id: String,
    /// Must be the customer's, if given.
    customer_phone: Option<String>,
    /// Yuan for `amount`, whole pieces for `product`. Not needed to restore.
    #[schemars(with = "Option<f64>")]
    amount: Option<Yuan>,
    /// What it is for; an order of the shop or of the CRM. It deducts once per type and product.
    order_id: String,
    /// `amount` or `product`.
    #[schemars(with = "String")]
    prepaid_type: PrepaidType,
    /// For `product`, unless `recordIds` are all of one product.
    product_id: Option<String>,
    /// Only these records may pay; the oldest pays first unless given.
    record_ids: Option<Vec<String>>,
    /// Take what is there if it is less. For `amount` only; goods are all or nothing.
    allow_partial: Option<bool>,
    /// Give back what was taken for this order. For services and staff.
    restore: Option<bool>,
}

/// What is to be done with a customer's prepaid.
pub(crate) struct Command {
    pub(crate) customer: CustomerId,
    pub(crate) phone: Option<String>,
    pub(crate) order_id: String,
    pub(crate) prepaid_type: PrepaidType,
    /// Only ever for goods.
    pub(crate) product: Option<ProductId>,
    pub(crate) record_ids: Option<Vec<String>>,
    pub(crate) action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Fen or pieces, at least 1.
    Deduct {
        amount: i64,
        allow_partial: bool,
    },
    Restore,
}

impl Input {
    pub(crate) fn parse(self) -> Result<Command, Refusal> {
        let customer = CustomerId::parse(&self.customer_id)
            .map_err(|_| Refusal::invalid("customerId", "customerId 格式不正确"))?;
        let phone = self.customer_phone.map(|p| p.trim().to_owned()).filter(|p| !p.is_empty());
        if !is_order_id(&self.order_id) {
            return Err(Refusal::invalid("orderId", "orderId 须为 1 到 64 位字母、数字、下划线或连字符"));
        }
        let prepaid_type = self.prepaid_type;
        let product = match self.product_id.as_deref() {
            None | Some("") => None,
            Some(id) => Some(ProductId::parse(id).map_err(|_| Refusal::invalid("productId", "productId 格式不正确"))?),
        };
        if let Some(ids) = &self.record_ids
            && (ids.is_empty() || ids.len() > RECORDS_MAX || ids.iter().any(|id| id.is_empty() || id.len() > 64))
        {
            return Err(Refusal::invalid("recordIds", format!("recordIds 应有 1 到 {RECORDS_MAX} 个有效的记录编号")));
        }
        let product = product.filter(|_| prepaid_type == PrepaidType::Product);
        if prepaid_type == PrepaidType::Product && product.is_none() && self.record_ids.is_none() {
            return Err(Refusal::invalid("productId", "请指定 productId"));
        }
        let action = if self.restore == Some(true) {
            Action::Restore
        } else {
            let amount = self.amount.ok_or_else(|| Refusal::invalid("amount", "请填写 amount"))?.0;
            Action::Deduct {
                amount: quantity(prepaid_type, amount)?,
                allow_partial: self.allow_partial == Some(true) && prepaid_type == PrepaidType::Amount,
            }
        };
        Ok(Command {
            customer,
            phone,
            order_id: self.order_id,
            prepaid_type,
            product,
            record_ids: self.record_ids,
            action,
        })
    }
}

fn is_order_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Fen or pieces. The wire has one field for both: `2` is two yuan or two pieces.
fn quantity(prepaid_type: PrepaidType, amount: Fen) -> Result<i64, Refusal> {
    let bad = |reason: &'static str| Err(Refusal::invalid("amount", reason));
    match (prepaid_type, amount.get()) {
        (_, 0) => bad("amount 应大于 0"),
        (PrepaidType::Amount, fen) => Ok(fen),
        (PrepaidType::Product, hundredths) if hundredths.rem_euclid(100) != 0 => bad("预存商品的数量须为整数"),
        (PrepaidType::Product, hundredths) => Ok(hundredths.div_euclid(100)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_counts_yuan_or_pieces() {
        for (prepaid_type, hundredths, expected) in [
            (PrepaidType::Amount, 5001, Some(5001)),
            (PrepaidType::Amount, 0, None),
            (PrepaidType::Product, 200, Some(2)),
            (PrepaidType::Product, 250, None),
            (PrepaidType::Product, 0, None),
        ] {
            let read = quantity(prepaid_type, Fen::new(hundredths).unwrap());
            assert_eq!(read.ok(), expected, "{prepaid_type:?} {hundredths}");
        }
    }

    #[test]
    fn order_ids_keep_to_their_alphabet() {
        for (text, good) in [("CRM_2026-1", true), (&"x".repeat(64), true), ("", false), ("a|b", false), ("a b", false)]
        {
            assert_eq!(is_order_id(text), good, "{text}");
        }
        assert!(!is_order_id(&"x".repeat(65)));
    }
}
