//! `prepaid`: a customer's prepaid records, what was taken from them, and the sums.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use domain::{Code, CustomerId, Failure, Fen, Refusal, Yuan};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::prepaid_views::{DeductionView, RecordView, own_customer};
use store::page::{Page, PageRequest};
use store::prepaid::{PrepaidRecord, PrepaidType};

pub fn function() -> Function {
    Function::new("prepaid", handle)
        .summary("预存记录、扣减明细与统计")
        .accepts(&[Accept::User, Accept::Service("prepaid"), Accept::Staff("prepaid")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    Records,
    Deductions,
    Stats,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// A user may leave it out, and name only the customer they are linked to.
    customer_id: Option<String>,
    /// For lists: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For lists: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    customer_id: CustomerId,
    /// Yuan of all records of money.
    total_amount: Yuan,
    /// Since the month began in Shanghai.
    deductions_this_month: u64,
    products: Vec<Pieces>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pieces {
    product_id: String,
    product_name: Option<String>,
    pieces: i64,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let page = PageRequest::parse(input.limit, input.after.as_deref())?;
    let customer = customer(&ctx, input.customer_id.as_deref()).await?;
    let for_staff = !matches!(ctx.caller, Caller::User { .. });
    match input.action {
        Action::Records => {
            let records = ctx.store().prepaid_records(&customer, &page).await?;
            Reply::of(&list(records, |r| RecordView::of(r, for_staff))?)
        }
        Action::Deductions => {
            let rows = ctx.store().prepaid_deductions(&customer, &page).await?;
            Reply::of(&list(rows, DeductionView::of)?)
        }
        Action::Stats => {
            let records = ctx.store().all_prepaid_records(&customer).await?;
            let since = month_start(ctx.now);
            let deductions_this_month = ctx.store().count_deductions_since(&customer, since).await?;
            let (total_amount, products) = sums(&records)?;
            Reply::of(&Stats { customer_id: customer, total_amount, deductions_this_month, products })
        }
    }
}

fn list<T, V>(page: Page<T>, view: impl Fn(T) -> Result<V, Failure>) -> Result<List<V>, Failure> {
    let data = page.data.into_iter().map(view).collect::<Result<_, _>>()?;
    Ok(List { data, next_cursor: page.next_cursor })
}

async fn customer(ctx: &Context, named: Option<&str>) -> Result<CustomerId, Failure> {
    let named = named.map(CustomerId::parse).transpose();
    let named = named.map_err(|_| Refusal::invalid("customerId", "customerId 格式不正确"))?;
    if let Caller::User { open_id, .. } = &ctx.caller {
        return own_customer(ctx.store(), open_id, named.as_ref()).await;
    }
    let named = named.ok_or_else(|| Refusal::invalid("customerId", "请指定 customerId"))?;
    ctx.store().customer(&named).await?.map(|c| c.id).ok_or_else(|| Code::CustomerNotFound.into())
}

/// Yuan of all records of money, and the pieces per product, by product id.
fn sums(records: &[PrepaidRecord]) -> Result<(Yuan, Vec<Pieces>), Failure> {
    let mut total = Fen::ZERO;
    let mut products: BTreeMap<&str, Pieces> = BTreeMap::new();
    for record in records {
        match (record.prepaid_type, &record.product_id) {
            (PrepaidType::Amount, _) => {
                let sum = Fen::new(record.balance).and_then(|fen| total.checked_add(fen));
                total = sum.map_err(|e| Failure::Internal(Box::new(e)))?;
            }
            (PrepaidType::Product, Some(product)) => {
                let fresh = || Pieces { product_id: product.as_str().to_owned(), product_name: None, pieces: 0 };
                let held = products.entry(product.as_str()).or_insert_with(fresh);
                held.pieces = held.pieces.saturating_add(record.balance);
                // The newest name wins; records come oldest first.
                held.product_name = record.product_name.clone().or(held.product_name.take());
            }
            (PrepaidType::Product, None) => {}
        }
    }
    Ok((Yuan(total), products.into_values().collect()))
}

/// When this month began in Shanghai, which is 8 hours ahead and has no summer time.
fn month_start(now: DateTime<Utc>) -> DateTime<Utc> {
    let ahead = TimeDelta::hours(8);
    let today = (now + ahead).date_naive();
    let first = today.with_day(1).unwrap_or(today);
    first.and_time(chrono::NaiveTime::MIN).and_utc() - ahead
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_at_midnight_in_shanghai() {
        for (now, start) in [
            ("2026-11-21T12:00:00Z", "2026-10-31T16:00:00Z"),
            ("2026-10-31T15:59:59.999Z", "2026-09-30T16:00:00Z"),
            ("2026-10-31T16:00:00Z", "2026-10-31T16:00:00Z"),
            ("2026-12-31T20:00:00Z", "2026-12-31T16:00:00Z"),
        ] {
            assert_eq!(month_start(now.parse().unwrap()), start.parse::<DateTime<Utc>>().unwrap(), "{now}");
        }
    }
}
