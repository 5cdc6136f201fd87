//! `updatePrepaidBalance`: takes prepaid money or goods for an order, or gives them back.
//!
//! The order, the type and the product are the natural key: an order takes once, whatever is repeated.

mod input;

use chrono::{DateTime, Utc};
use domain::{Code, Failure, ProductId, Refusal};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use serde::{Deserialize, Serialize};
use shop::prepaid::{Deduct, deduct, restore};
use shop::prepaid_views::{DetailView, Quantity, own_customer};
use store::customers::Customer;
use store::prepaid::{DeductionDetail, DeductionStatus, PrepaidDeduction, PrepaidType};
use store::{Error, Tx};

use input::{Action, Command};

pub use input::Input;

pub fn function() -> Function {
    Function::new("updatePrepaidBalance", handle)
        .summary("扣减或退回预存")
        .accepts(&[Accept::User, Accept::Service("prepaid"), Accept::Staff("prepaid")])
        .needs(&[Need::Store, Need::Session])
}

/// What is remembered for a repeat, in the store's units.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    deduction_id: String,
    prepaid_type: PrepaidType,
    total_amount: i64,
    deducted_amount: i64,
    remaining_balance: i64,
    details: Vec<DeductionDetail>,
    status: DeductionStatus,
    /// The same was done before, under the natural key.
    repeated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    deduction_id: String,
    total_amount: Quantity,
    deducted_amount: Quantity,
    /// Of all the customer's records of this kind, afterwards.
    remaining_balance: Quantity,
    details: Vec<DetailView>,
    status: DeductionStatus,
}

/// How often a twin that was first may send us back to read what it did.
const TWINS_MAX: u32 = 3;

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let command = input.parse()?;
    let by_user = matches!(ctx.caller, Caller::User { .. });
    if let Caller::User { open_id, .. } = &ctx.caller {
        // Before anything is looked up, so that the answer does not tell which customers there are.
        own_customer(ctx.store(), open_id, Some(&command.customer)).await?;
        if command.action == Action::Restore {
            return Err(Refusal::new(Code::Forbidden).with_message("退回预存请联系工作人员").into());
        }
    }

    let key = ctx.command_key();
    let mut attempt = 0;
    let done = loop {
        let result = ctx
            .store()
            .once(key.as_ref(), ctx.now, |tx, _| {
                let (command, now) = (&command, ctx.now);
                Box::pin(async move { book(tx, command, by_user, now).await })
            })
            .await;
        match result {
            Err(Error::Duplicate { .. }) if attempt < TWINS_MAX => attempt += 1,
            other => break other?,
        }
    };
    let (replayed, done) = (done.replayed || done.value.repeated, done.value);
    let quantity = |amount| Quantity::of(done.prepaid_type, amount);
    let output = Output {
        total_amount: quantity(done.total_amount)?,
        deducted_amount: quantity(done.deducted_amount)?,
        remaining_balance: quantity(done.remaining_balance)?,
        details: done.details.iter().map(|d| DetailView::of(done.prepaid_type, d)).collect::<Result<_, _>>()?,
        deduction_id: done.deduction_id,
        status: done.status,
    };
    Ok(Reply::of(&output)?.with_replayed(replayed))
}

async fn book(tx: &mut Tx, command: &Command, by_user: bool, now: DateTime<Utc>) -> Result<Done, Error> {
    let customer = tx.customer(&command.customer).await?.filter(Customer::is_active).ok_or(Code::CustomerNotFound)?;
    let known = customer.phone.as_ref().map(|p| p.0.as_str());
    if command.phone.is_some() && command.phone.as_deref() != known {
        return Err(match by_user {
            true => Code::Forbidden.into(),
            false => Refusal::invalid("customerPhone", "customerPhone 与客户不符").into(),
        });
    }
    let product = named_product(tx, command).await?;
    let (row, repeated) = match command.action {
        Action::Deduct { amount, allow_partial } => {
            let wanted = Deduct {
                customer: &command.customer,
                order_id: &command.order_id,
                prepaid_type: command.prepaid_type,
                product: product.as_ref(),
                amount,
                record_ids: command.record_ids.as_deref(),
                allow_partial,
            };
            deduct(tx, &wanted, now).await?
        }
        Action::Restore => {
            let id = PrepaidDeduction::key(&command.order_id, command.prepaid_type, product.as_ref());
            let row = tx.prepaid_deduction(&id).await?.ok_or(Code::NotFound)?;
            if !belongs(tx, &row, &customer).await? {
                return Err(Code::NotFound.into());
            }
            restore(tx, &id, now).await?
        }
    };
    let asset = command.prepaid_type.asset(product.as_ref());
    let left = tx.paying_records(&command.customer, &asset, None).await?;
    Ok(Done {
        deduction_id: row.id,
        prepaid_type: row.prepaid_type,
        total_amount: row.total_amount,
        deducted_amount: row.deducted_amount,
        remaining_balance: left.iter().fold(0, |sum: i64, r| sum.saturating_add(r.balance)),
        details: row.details,
        status: row.status,
        repeated,
    })
}

/// Whose a deduction is: the customer it was taken from, or the one who has its records since the two were merged.
async fn belongs(tx: &mut Tx, row: &PrepaidDeduction, customer: &Customer) -> Result<bool, Error> {
    if row.customer_id == customer.id {
        return Ok(true);
    }
    let Some(detail) = row.details.first() else { return Ok(false) };
    Ok(tx.prepaid_record(&detail.record_id).await?.is_some_and(|r| r.customer_id == customer.id))
}

/// The product, given or fixed by the named records. Records that are unknown or another customer's are `NOT_FOUND`, those of
/// another type or product `PREPAID_PRODUCT_MISMATCH`.
async fn named_product(tx: &mut Tx, command: &Command) -> Result<Option<ProductId>, Error> {
    let mut product = command.product.clone();
    for id in command.record_ids.iter().flatten() {
        let record = tx.prepaid_record(id).await?.filter(|r| r.customer_id == command.customer);
        let record = record.ok_or_else(|| Refusal::new(Code::NotFound).with_message("预存记录不存在"))?;
        if record.prepaid_type != command.prepaid_type || (command.product.is_some() && record.product_id != product) {
            return Err(Code::PrepaidProductMismatch.into());
        }
        if product.is_some() && record.product_id != product {
            return Err(Refusal::invalid("productId", "recordIds 属于不同商品，请指定 productId").into());
        }
        product = record.product_id;
    }
    if command.prepaid_type == PrepaidType::Product && product.is_none() {
        return Err(Refusal::invalid("productId", "请指定 productId").into());
    }
    Ok(product.filter(|_| command.prepaid_type == PrepaidType::Product))
}
