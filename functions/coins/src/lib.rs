//! `coins`: activity coins: balance and statement.

use domain::{Code, Failure};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::members::active_member;
use shop::views;
use store::coins::{CoinRecord, CoinRecordType};
use store::page::PageRequest;

pub fn function() -> Function {
    Function::new("coins", handle)
        .summary("活动币余额与明细")
        .accepts(&[Accept::User])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    Account,
    Records,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `records`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `records`: `nextCursor` of the page before.
    after: Option<String>,
}

/// `balance = totalEarned − totalSpent − totalExpired`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccountOutput {
    balance: i64,
    /// When the first of them expire.
    next_expiry: Option<String>,
    total_earned: i64,
    total_spent: i64,
    total_expired: i64,
    /// Coins of refunded orders that were spent before they could be taken back.
    owed: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordsOutput {
    data: Vec<RecordView>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordView {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "type")]
    record_type: CoinRecordType,
    change: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    lot_id: String,
    created_at: String,
}

impl From<CoinRecord> for RecordView {
    fn from(record: CoinRecord) -> Self {
        Self {
            id: record.id,
            record_type: record.record_type,
            change: record.change,
            order_id: record.order_id.map(String::from),
            lot_id: record.lot_id,
            created_at: views::iso(record.created_at),
        }
    }
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let open_id = ctx.caller.acting_open_id(None)?;
    let member = active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
    match input.action {
        Action::Account => {
            let account = shop::coins::account(ctx.store(), &member.id, ctx.now).await?;
            Reply::of(&AccountOutput {
                balance: account.balance,
                next_expiry: account.next_expiry.map(views::iso),
                total_earned: account.earned,
                total_spent: account.spent,
                total_expired: account.expired,
                owed: member.coins_owed,
            })
        }
        Action::Records => {
            let page = ctx.store().coin_records(&member.id, &request).await?.map(RecordView::from);
            Reply::of(&RecordsOutput { data: page.data, next_cursor: page.next_cursor })
        }
    }
}
