//! `addPrestore`: puts prepaid money or goods in for a customer, by the CRM or by staff.

use domain::money::POINTS_MAX;
use domain::{CustomerId, Failure, ProductId, Refusal, Yuan, text};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::prepaid::{Deposit, deposit};
use shop::prepaid_views::Quantity;
use store::prepaid::PrepaidType;

pub fn function() -> Function {
    Function::new("addPrestore", handle)
        .summary("新增预存款或预存商品")
        .accepts(&[Accept::Service("prepaid"), Accept::Staff("prepaid")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    customer_id: String,
    #[serde(rename = "type")]
    /// `amount` or `product`.
    #[schemars(with = "String")]
    prepaid_type: PrepaidType,
    /// For `amount`, in yuan.
    #[schemars(with = "Option<f64>")]
    amount: Option<Yuan>,
    /// For `product`: whole pieces.
    quantity: Option<i64>,
    /// For `product`. A product that is no longer sold may be named.
    product_id: Option<String>,
    /// The product's own name unless given.
    product_name: Option<String>,
    remark: Option<String>,
}

/// What is remembered for a repeat, in the store's units.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    record_id: String,
    prepaid_type: PrepaidType,
    balance: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    record_id: String,
    balance: Quantity,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let (customer, mut record) = input.parse()?;
    if let (Some(product), None) = (&record.product, &record.product_name) {
        record.product_name = ctx.store().product(product).await?.map(|p| p.name);
    }

    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (customer, record, now) = (&customer, &record, ctx.now);
            Box::pin(async move {
                let made = deposit(tx, customer, record, now).await?;
                Ok(Done { record_id: made.id, prepaid_type: made.prepaid_type, balance: made.balance })
            })
        })
        .await?;
    let Done { record_id, prepaid_type, balance } = done.value;
    let output = Output { record_id, balance: Quantity::of(prepaid_type, balance)? };
    Ok(Reply::of(&output)?.with_replayed(done.replayed))
}

impl Input {
    fn parse(self) -> Result<(CustomerId, Deposit), Refusal> {
        let customer = CustomerId::parse(&self.customer_id)
            .map_err(|_| Refusal::invalid("customerId", "customerId 格式不正确"))?;
        let remark = text::clean("remark", self.remark.as_deref().unwrap_or_default(), 200)?;
        let record_id = format!("pr-{:032x}", rand::random::<u128>());
        let deposit = match self.prepaid_type {
            PrepaidType::Amount => Deposit {
                record_id,
                prepaid_type: PrepaidType::Amount,
                amount: within("amount", self.amount.map(|yuan| yuan.0.get()))?,
                product: None,
                product_name: None,
                remark,
            },
            PrepaidType::Product => {
                let product = self.product_id.ok_or_else(|| Refusal::invalid("productId", "请指定 productId"))?;
                let product =
                    ProductId::parse(&product).map_err(|_| Refusal::invalid("productId", "productId 格式不正确"))?;
                let name = text::clean("productName", self.product_name.as_deref().unwrap_or_default(), 100)?;
                Deposit {
                    record_id,
                    prepaid_type: PrepaidType::Product,
                    amount: within("quantity", self.quantity)?,
                    product: Some(product),
                    product_name: Some(name).filter(|n| !n.is_empty()),
                    remark,
                }
            }
        };
        Ok((customer, deposit))
    }
}

/// At least 1, and no more than a record can hold.
fn within(field: &str, amount: Option<i64>) -> Result<i64, Refusal> {
    let amount = amount.ok_or_else(|| Refusal::invalid(field, format!("请填写 {field}")))?;
    if !(1..=POINTS_MAX).contains(&amount) {
        let reason = if amount > POINTS_MAX { "超出范围" } else { "应大于 0" };
        return Err(Refusal::invalid(field, format!("{field} {reason}")));
    }
    Ok(amount)
}
