//! What only the shop does with orders.

use domain::{Code, Failure, Logistics, OrderStatus, Refusal, text};
use edge::{Caller, Context, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::adjust::Change;
use shop::batch::{Batch, Job, ORDERS_MAX, Step};
use shop::members::order_id;
use shop::shipping::{self, Parcel};
use shop::views::{NoteView, ShippingView, iso};
use store::book::{Entry, Posting};
use store::orders::{NOTES_MAX, Note};

use crate::{Input, change_by};

/// One order of `shipBatch`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shipment {
    order_id: String,
    /// `express`, `city`, `virtual` or `pickup`.
    #[schemars(with = "Option<String>")]
    logistics: Option<Logistics>,
    express_company: Option<String>,
    tracking_no: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShipOutput {
    order_id: String,
    status: OrderStatus,
    shipping: ShippingView,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NoteOutput {
    order_id: String,
    notes: Vec<NoteView>,
}

/// Entries of one order: more than all its refunds can make.
const ENTRIES_MAX: i64 = 500;

#[derive(Serialize)]
struct BookOutput {
    data: Vec<EntryView>,
}

/// An entry of the book. Amounts are in the smallest unit of their asset.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryView {
    entry_id: String,
    at: String,
    /// The entry that this one takes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverses: Option<String>,
    postings: Vec<Posting>,
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        Self { entry_id: entry.id, at: iso(entry.at), reverses: entry.reverses, postings: entry.postings }
    }
}

fn parcel(logistics: Option<Logistics>, company: Option<&str>, number: Option<&str>) -> Result<Parcel, Refusal> {
    let logistics = logistics.ok_or_else(|| Refusal::invalid("logistics", "请指定 logistics"))?;
    Parcel::parse(logistics, company, number)
}

/// Staff, or a server that acts for the shop.
pub(crate) async fn ship(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let by = ctx.caller.operator()?;
    let id = order_id(input.order_id.as_deref())?;
    let parcel = parcel(input.logistics, input.express_company.as_deref(), input.tracking_no.as_deref())?;
    let shipped = shipping::ship(ctx.store(), ctx.rules(), &id, &parcel, &by, ctx.now).await?;
    let output = ShipOutput {
        order_id: id.as_str().to_owned(),
        status: shipped.status,
        shipping: ShippingView::from(&shipped.shipping),
    };
    Ok(Reply::of(&output)?.with_replayed(shipped.replayed))
}

/// Staff, or a server that acts for the shop.
pub(crate) async fn ship_batch(ctx: &Context, shipments: Option<Vec<Shipment>>) -> Result<Reply, Failure> {
    let by = ctx.caller.operator()?;
    let shipments = shipments.unwrap_or_default();
    if shipments.is_empty() || shipments.len() > ORDERS_MAX {
        return Err(Refusal::invalid("shipments", format!("shipments 应有 1 到 {ORDERS_MAX} 个")).into());
    }
    let job = |s: Shipment| {
        let step = parcel(s.logistics, s.express_company.as_deref(), s.tracking_no.as_deref()).map(Step::Ship);
        Job { order_id: s.order_id, step }
    };
    let jobs: Vec<Job> = shipments.into_iter().map(job).collect();
    let key = ctx.command_key();
    let batch = Batch {
        store: ctx.store(),
        client: ctx.pay()?,
        rules: ctx.rules(),
        by: &by,
        key: key.as_ref(),
        time_left: &|| ctx.time_left(),
        now: ctx.now,
    };
    let done = batch.run(&jobs).await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

/// The signature of a member of the staff; nobody else may.
fn staff_only(ctx: &Context) -> Result<String, Refusal> {
    match ctx.caller {
        Caller::Staff { .. } => ctx.caller.operator(),
        _ => Err(Refusal::new(Code::Forbidden)),
    }
}

pub(crate) async fn change_price(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let by = staff_only(ctx)?;
    let id = order_id(input.order_id.as_deref())?;
    let change = match (input.amount, input.freight_amount) {
        (Some(to), None) => Change::Price { to: to.0 },
        (None, Some(to)) => Change::Freight { to: to.0 },
        (Some(_), Some(_)) => {
            return Err(Refusal::invalid("freightAmount", "amount 与 freightAmount 只能填写一个").into());
        }
        (None, None) => return Err(Refusal::invalid("amount", "请填写 amount 或 freightAmount").into()),
    };
    let reason = text::required("reason", input.reason.as_deref().unwrap_or_default(), 100)?;
    change_by(ctx, &id, &change, &reason, &by).await
}

/// Adds a note; none is ever changed or taken away.
pub(crate) async fn note(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let by = staff_only(ctx)?;
    let id = order_id(input.order_id.as_deref())?;
    let text = text::required("text", input.text.as_deref().unwrap_or_default(), 500)?;
    let note = Note { text, by, at: ctx.now };
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, note) = (&id, &note);
            Box::pin(async move {
                let added = tx.note_order(id, note).await?;
                let order = tx.order(id).await?.ok_or(Code::OrderNotFound)?;
                if !added {
                    let text = format!("一个订单最多 {NOTES_MAX} 条备注");
                    return Err(Refusal::new(Code::Conflict).with_message(text).into());
                }
                let notes = order.notes.iter().map(NoteView::from).collect();
                Ok(NoteOutput { order_id: id.as_str().to_owned(), notes })
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

/// What the order moved: money, points, coins, prepaid goods and pieces.
pub(crate) async fn book(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    if !matches!(ctx.caller, Caller::Staff { .. }) {
        return Err(Code::Forbidden.into());
    }
    let id = order_id(input.order_id.as_deref())?;
    ctx.store().order(&id).await?.ok_or(Code::OrderNotFound)?;
    let entries = ctx.store().book_of(&id, ENTRIES_MAX).await?;
    Reply::of(&BookOutput { data: entries.into_iter().map(EntryView::from).collect() })
}
