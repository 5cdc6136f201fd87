//! The wire input and what it means.

use domain::{Fen, PaymentMethod, Points, ProductId, Refusal, SkuId, UserCouponId, Yuan, text};
use schemars::JsonSchema;
use serde::Deserialize;
use shop::address::AddressInput;
use store::orders::Address;

/// More lines than this are refused.
pub(crate) const ITEMS_MAX: usize = 100;
/// More pieces of one line than this are refused.
pub(crate) const QUANTITY_MAX: i64 = 9_999;

/// The event of `submitOrder`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    items: Vec<ItemInput>,
    address: Option<AddressInput>,
    payment_method: Method,
    /// Points to use; whole, at most what the goods are worth.
    points_used: Option<i64>,
    remark: Option<String>,
    /// Services name the user here; a user may name only themselves.
    pub(crate) open_id: Option<String>,
    /// What the client believes the goods cost. Never used as a price; a difference is refused.
    #[schemars(with = "Option<f64>")]
    total_amount: Option<Yuan>,
    /// What the client believes is left to pay. Never used as a price; a difference is refused.
    #[schemars(with = "Option<f64>")]
    payment_amount: Option<Yuan>,
    /// Prepaid money to use, in yuan. With `prestore` as much as possible unless given; with `prepaid` none unless given.
    #[schemars(with = "Option<f64>")]
    prepaid_amount: Option<Yuan>,
    /// Only these prepaid records may pay.
    prepaid_record_ids: Option<Vec<String>>,
    /// A coupon that the user holds, for the whole order.
    user_coupon_id: Option<String>,
    /// A right to buy that a draw gave: the order has then one line, of exactly its goods.
    qualification_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ItemInput {
    product_id: String,
    sku_id: Option<String>,
    quantity: i64,
    /// What the client believes one piece costs. Never used as a price; a difference is refused.
    #[schemars(with = "Option<f64>")]
    price: Option<Yuan>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Method {
    Wechat,
    Balance,
    /// Prepaid money; the remainder is paid through WeChat.
    Prestore,
    /// Prepaid goods; the remainder is paid through WeChat.
    Prepaid,
}

/// One wanted line.
pub(crate) struct Wanted {
    pub(crate) product_id: ProductId,
    pub(crate) sku_id: Option<SkuId>,
    pub(crate) quantity: i64,
    pub(crate) claimed_price: Option<Fen>,
}

/// A checked command.
pub(crate) struct Command {
    pub(crate) lines: Vec<Wanted>,
    pub(crate) address: Address,
    pub(crate) method: PaymentMethod,
    pub(crate) points: Points,
    pub(crate) prepaid_amount: Option<Fen>,
    pub(crate) prepaid_record_ids: Option<Vec<String>>,
    pub(crate) user_coupon_id: Option<UserCouponId>,
    pub(crate) qualification_id: Option<String>,
    pub(crate) remark: String,
    pub(crate) claimed_total: Option<Fen>,
    pub(crate) claimed_payment: Option<Fen>,
}

impl Input {
    /// Checks every field; a refusal names it.
    pub(crate) fn parse(self) -> Result<Command, Refusal> {
        if self.items.is_empty() {
            return Err(Refusal::invalid("items", "请选择商品"));
        }
        if self.items.len() > ITEMS_MAX {
            return Err(Refusal::invalid("items", format!("一个订单最多 {ITEMS_MAX} 行商品")));
        }
        let by_prepaid = matches!(self.payment_method, Method::Prestore | Method::Prepaid);
        let stray = |given: bool, field: &str| {
            // Dropped silently, the buyer would pay more than they think.
            let refusal = || Refusal::invalid(field, format!("{field} 只能用于 prestore 或 prepaid 支付方式"));
            if given && !by_prepaid { Err(refusal()) } else { Ok(()) }
        };
        stray(self.prepaid_amount.is_some(), "prepaidAmount")?;
        stray(self.prepaid_record_ids.is_some(), "prepaidRecordIds")?;
        if self.prepaid_amount.is_some_and(|a| a.0.is_zero()) {
            return Err(Refusal::invalid("prepaidAmount", "prepaidAmount 应大于 0"));
        }
        if self.prepaid_record_ids.as_ref().is_some_and(|ids| ids.is_empty() || ids.len() > 50) {
            return Err(Refusal::invalid("prepaidRecordIds", "prepaidRecordIds 应有 1 到 50 个"));
        }
        let points = Points::new(self.points_used.unwrap_or(0))
            .map_err(|_| Refusal::invalid("pointsUsed", "pointsUsed 应为不小于 0 的整数"))?;
        let mut lines: Vec<Wanted> = Vec::with_capacity(self.items.len());
        for (i, item) in self.items.into_iter().enumerate() {
            let wanted = item.parse(i)?;
            // The same goods on two lines are one line: stock, prices and refunds then have one answer.
            match lines.iter_mut().find(|l| l.product_id == wanted.product_id && l.sku_id == wanted.sku_id) {
                Some(line) => {
                    line.quantity = line.quantity.saturating_add(wanted.quantity);
                    check_quantity(i, line.quantity)?;
                }
                None => lines.push(wanted),
            }
        }
        let address = self.address.ok_or_else(|| Refusal::invalid("address", "请填写收货地址"))?;
        Ok(Command {
            lines,
            address: address.parse()?,
            method: match self.payment_method {
                Method::Wechat => PaymentMethod::Wechat,
                Method::Balance => PaymentMethod::Balance,
                Method::Prestore => PaymentMethod::Prestore,
                Method::Prepaid => PaymentMethod::Prepaid,
            },
            points,
            prepaid_amount: self.prepaid_amount.map(|y| y.0),
            prepaid_record_ids: self.prepaid_record_ids,
            user_coupon_id: coupon_id(self.user_coupon_id.as_deref())?,
            qualification_id: self.qualification_id.filter(|id| !id.is_empty()),
            remark: text::clean("remark", &self.remark.unwrap_or_default(), 200)?,
            claimed_total: self.total_amount.map(|y| y.0),
            claimed_payment: self.payment_amount.map(|y| y.0),
        })
    }
}

/// A text that can be no id is answered as an unknown one, never dropped: the buyer would pay more than they think.
fn coupon_id(text: Option<&str>) -> Result<Option<UserCouponId>, Refusal> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => UserCouponId::parse(text).map(Some).map_err(|_| store::coupons::not_found()),
    }
}

fn check_quantity(i: usize, quantity: i64) -> Result<(), Refusal> {
    if (1..=QUANTITY_MAX).contains(&quantity) {
        return Ok(());
    }
    Err(Refusal::invalid(&format!("items[{i}].quantity"), format!("数量应在 1 到 {QUANTITY_MAX} 之间")))
}

impl ItemInput {
    fn parse(self, i: usize) -> Result<Wanted, Refusal> {
        check_quantity(i, self.quantity)?;
        let bad = |name: &str| Refusal::invalid(&format!("items[{i}].{name}"), format!("{name} 格式不正确"));
        let sku_id = match self.sku_id.as_deref() {
            None | Some("") => None,
            Some(text) => Some(SkuId::parse(text).map_err(|_| bad("skuId"))?),
        };
        Ok(Wanted {
            product_id: ProductId::parse(&self.product_id).map_err(|_| bad("productId"))?,
            sku_id,
            quantity: self.quantity,
            claimed_price: self.price.map(|y| y.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Command, Refusal> {
        serde_json::from_str::<Input>(json).unwrap().parse()
    }

    const ADDRESS: &str = r#""address":{"name":"张三","phone":"13800138000","detail":"文三路 1 号"}"#;

    fn with_items(items: &str) -> Result<Command, Refusal> {
        parse(&format!(r#"{{"items":{items},{ADDRESS},"paymentMethod":"wechat"}}"#))
    }

    #[test]
    fn same_goods_become_one_line() {
        let command = with_items(r#"[{"productId":"p","quantity":2},{"productId":"p","skuId":"","quantity":3},{"productId":"p","skuId":"s","quantity":1}]"#).ok().unwrap();
        let lines: Vec<_> = command.lines.iter().map(|l| (l.sku_id.is_some(), l.quantity)).collect();
        assert_eq!(lines, [(false, 5), (true, 1)]);
    }

    #[test]
    fn each_refusal_names_its_field() {
        let many = format!("[{}]", vec![r#"{"productId":"p","quantity":1}"#; 101].join(","));
        let cases = [
            ("[]", "items"),
            (many.as_str(), "items"),
            (r#"[{"productId":"p","quantity":0}]"#, "items[0].quantity"),
            (r#"[{"productId":"p","quantity":-1}]"#, "items[0].quantity"),
            (r#"[{"productId":"p","quantity":9999},{"productId":"p","quantity":1}]"#, "items[1].quantity"),
            (r#"[{"productId":"{\"$ne\":1}","quantity":1}]"#, "items[0].productId"),
        ];
        for (items, field) in cases {
            let refusal = with_items(items).err().unwrap();
            assert_eq!(refusal.details["field"], field, "{items}");
        }
    }

    #[test]
    fn the_address_of_wx_choose_address_is_taken() {
        let json = r#"{"items":[{"productId":"p","quantity":1}],"paymentMethod":"balance","address":{"userName":"李四","telNumber":"020-81167888","provinceName":"广东省","cityName":"广州市","countyName":"海珠区","detailInfo":"新港中路397号"}}"#;
        let address = parse(json).ok().unwrap().address;
        assert_eq!((address.name.as_str(), address.district.as_str()), ("李四", "海珠区"));
        let none = parse(r#"{"items":[{"productId":"p","quantity":1}],"paymentMethod":"wechat"}"#).err().unwrap();
        assert_eq!(none.details["field"], "address");
    }
}
