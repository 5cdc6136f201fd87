//! `refunds`: what buyers want back of a paid order, how far it is, and what was given.
//!
//! Every change of a refund also raises `refundRevision` of its order, in the same transaction: refunds of one order, its
//! shipping and its receipt therefore meet, and never pass each other.

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use domain::machine::refund::{Event, State, next, stands};
use domain::refund::{Frozen, Plan, Taken, Wanted};
use domain::{Code, OpenId, OrderId, ProductId, Refusal, SkuId, UserId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::orders::Order;
use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

const REFUNDS: &str = "refunds";

/// `refunds.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefundType {
    /// 仅退款
    #[serde(rename = "refundOnly")]
    RefundOnly,
    /// 退货退款: the goods come back first.
    #[serde(rename = "returnGoods")]
    ReturnGoods,
}

/// `orders.refundState`; absent where nothing was ever given back and nothing is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefundState {
    /// Something is asked for or under way.
    #[serde(rename = "applied")]
    Applied,
    /// A part is back.
    #[serde(rename = "partial")]
    Partial,
    /// All pieces are back.
    #[serde(rename = "refunded")]
    Refunded,
}

/// Pieces of a line, as they were called when they were bought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundItem {
    pub line_id: String,
    pub product_id: ProductId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<SkuId>,
    pub name: String,
    #[serde(deserialize_with = "domain::money::whole")]
    pub quantity: i64,
}

/// A number under which WeChat Pay is asked. Only after CLOSED does a refund get another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundNumber {
    pub out_refund_no: String,
    /// When it was first and last sent; written before the exchange.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub first_sent_at: Option<DateTime<Utc>>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub last_sent_at: Option<DateTime<Utc>>,
    /// What WeChat has proven of it: `SUCCESS`, `CLOSED` or `ABNORMAL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// When WeChat accepted it: the bill of that day has it.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<DateTime<Utc>>,
    /// The business day whose bill has it as we do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bill_day: Option<String>,
}

impl RefundNumber {
    pub fn is_closed(&self) -> bool {
        self.state.as_deref() == Some("CLOSED")
    }
}

/// How the buyer sends the goods back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReturnParcel {
    pub express_company: String,
    pub tracking_no: String,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
}

/// Why WeChat's part failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundFailure {
    /// A stable code.
    pub reason: String,
    /// For staff.
    pub text: String,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
}

/// What went back in the transaction that gave back what is ours. The amounts are those of `plan.given`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Given {
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    /// The pieces are for sale again.
    pub restocked: bool,
    /// Points that the order earned and that the net spend no longer earns, at so many fen a point.
    #[serde(deserialize_with = "domain::money::whole")]
    pub points_taken: i64,
    /// Those of them that were spent already.
    #[serde(deserialize_with = "domain::money::whole")]
    pub points_owed: i64,
    #[serde(deserialize_with = "domain::money::whole")]
    pub points_earn_fen: i64,
    /// Coins that the order granted.
    #[serde(deserialize_with = "domain::money::whole")]
    pub coins_taken: i64,
    #[serde(deserialize_with = "domain::money::whole")]
    pub coins_owed: i64,
    /// The order's coupon can be used again.
    pub coupon_returned: bool,
}

/// A step in a refund's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    pub status: State,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    /// `user`, `staff:…`, `service:…`, `shop` or `wechat`.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// A refund. Amounts in fen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refund {
    /// `{orderId}-R{seq}`
    #[serde(rename = "_id")]
    pub id: String,
    pub order_id: OrderId,
    pub user_id: UserId,
    pub open_id: OpenId,
    /// Counts the refunds of an order from 1.
    #[serde(deserialize_with = "domain::money::whole")]
    pub seq: i64,
    /// The order's `refundRevision` of the newest change.
    #[serde(deserialize_with = "domain::money::whole")]
    pub revision: i64,
    #[serde(rename = "type")]
    pub refund_type: RefundType,
    pub status: State,
    pub items: Vec<RefundItem>,
    pub plan: Plan,
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_parcel: Option<ReturnParcel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Given>,
    /// The newest one counts; none as long as WeChat has nothing to do with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<RefundNumber>,
    /// How often it was put into the outbox.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub sends: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RefundFailure>,
    /// Staff gave WeChat's part another way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled_elsewhere: bool,
    /// Products whose pieces still have to go back to the shelf.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stock_release: Vec<ProductId>,
    pub timeline: Vec<Moment>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub refunded_at: Option<DateTime<Utc>>,
}

impl Refund {
    pub fn key(order: &OrderId, seq: i64) -> String {
        format!("{order}-R{seq}")
    }

    /// The next number: the refund's own id, then `{id}-2`, …
    pub fn next_number(&self) -> RefundNumber {
        let n = self.numbers.len().saturating_add(1);
        let out_refund_no = if n == 1 { self.id.clone() } else { format!("{}-{n}", self.id) };
        RefundNumber {
            out_refund_no,
            first_sent_at: None,
            last_sent_at: None,
            state: None,
            accepted_at: None,
            bill_day: None,
        }
    }

    pub fn number(&self) -> Option<&RefundNumber> {
        self.numbers.last()
    }

    /// The key of the entry that gives back what is ours and owes the rest to WeChat.
    pub fn back_key(&self) -> String {
        format!("afterSale:{}:back", self.id)
    }

    /// The key of the entry for WeChat's part: paid by WeChat, or by staff another way.
    pub fn paid_key(&self) -> String {
        format!("afterSale:{}:paid", self.id)
    }

    /// `outbox._id` of the newest order to WeChat.
    pub fn item_id(&self) -> String {
        format!("afterSale:{}:{}", self.id, self.sends)
    }

    /// Whether it counts as taken of its order.
    pub fn stands(&self) -> bool {
        stands(self.status)
    }

    /// Moves it along its state machine; `ORDER_STATE_INVALID` where there is no such edge.
    pub fn step(&mut self, event: Event, by: &str, remark: Option<&str>, now: DateTime<Utc>) -> Result<(), Refusal> {
        let Some(status) = next(self.status, event) else {
            let refusal = Refusal::new(Code::OrderStateInvalid).with_message("退款单当前状态不能进行此操作");
            return Err(refusal.detail("status", self.status.as_str()));
        };
        self.status = status;
        // Of two calls at once the one that began first may come last.
        let at = self.timeline.last().map_or(now, |last| now.max(last.at));
        self.timeline.push(Moment { status, at, by: by.to_owned(), remark: remark.map(str::to_owned) });
        if status == State::Refunded {
            self.refunded_at = Some(at);
        }
        Ok(())
    }
}

impl Row for Refund {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

/// What an order's refunds make of it.
pub fn refund_state(frozen: &Frozen, refunds: &[Refund]) -> Result<Option<RefundState>, Error> {
    if refunds.iter().any(|r| r.stands() && r.status != State::Refunded) {
        return Ok(Some(RefundState::Applied));
    }
    let back: Vec<&Plan> = refunds.iter().filter(|r| r.status == State::Refunded).map(|r| &r.plan).collect();
    if back.is_empty() {
        return Ok(None);
    }
    let all = Wanted::rest(frozen, &Taken::by(frozen, back)?).is_empty();
    Ok(Some(if all { RefundState::Refunded } else { RefundState::Partial }))
}

/// Which refunds a list shows.
#[derive(Clone, Debug, Default)]
pub struct RefundFilter {
    pub user: Option<UserId>,
    pub order: Option<OrderId>,
    pub status: Option<State>,
}

impl Store {
    pub async fn refund(&self, id: &str) -> Result<Option<Refund>, Error> {
        Ok(self.collection::<Refund>(REFUNDS).await?.find_one(doc! { "_id": id }).await?)
    }

    /// The refund that WeChat knows, or may know, under this number.
    pub async fn refund_by_number(&self, out_refund_no: &str) -> Result<Option<Refund>, Error> {
        let refunds = self.collection::<Refund>(REFUNDS).await?;
        Ok(refunds.find_one(doc! { "numbers.outRefundNo": out_refund_no }).await?)
    }

    /// The refunds of an order, oldest first.
    pub async fn refunds_of(&self, order: &OrderId) -> Result<Vec<Refund>, Error> {
        let refunds = self.collection::<Refund>(REFUNDS).await?;
        Ok(refunds.find(doc! { "orderId": order.as_str() }).sort(doc! { "seq": 1 }).await?.try_collect().await?)
    }

    /// Refunds, newest first.
    pub async fn refunds(&self, filter: &RefundFilter, page: &PageRequest) -> Result<Page<Refund>, Error> {
        let mut query = doc! {};
        if let Some(user) = &filter.user {
            query.insert("userId", user.as_str());
        }
        if let Some(order) = &filter.order {
            query.insert("orderId", order.as_str());
        }
        if let Some(status) = filter.status {
            query.insert("status", status.as_str());
        }
        if query.is_empty() {
            query.insert("createdAt", doc! { "$gt": date::bson(DateTime::<Utc>::UNIX_EPOCH) });
        }
        self.page(REFUNDS, query, page).await
    }

    /// Writes down that a number is about to be sent; false if the refund does not wait for WeChat under it any more.
    pub async fn refund_sending(&self, id: &str, out_refund_no: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let refunds = self.collection::<Document>(REFUNDS).await?;
        let ours = doc! { "$elemMatch": { "outRefundNo": out_refund_no, "state": { "$exists": false } } };
        let guard = doc! { "_id": id, "status": State::Refunding.as_str(), "numbers": ours };
        let at = date::bson(now);
        let change = doc! { "$set": { "numbers.$.lastSentAt": at.clone() }, "$min": { "numbers.$.firstSentAt": at } };
        Ok(refunds.update_one(guard, change).await?.matched_count == 1)
    }
}

impl Tx {
    pub async fn refund(&mut self, id: &str) -> Result<Option<Refund>, Error> {
        self.find_by_id(REFUNDS, id).await
    }

    pub async fn refund_by_number(&mut self, out_refund_no: &str) -> Result<Option<Refund>, Error> {
        let found: Vec<Refund> = self.find(REFUNDS, doc! { "numbers.outRefundNo": out_refund_no }).await?;
        Ok(found.into_iter().next())
    }

    /// The refunds of an order, oldest first.
    pub async fn refunds_of(&mut self, order: &OrderId) -> Result<Vec<Refund>, Error> {
        let mut found: Vec<Refund> = self.find(REFUNDS, doc! { "orderId": order.as_str() }).await?;
        found.sort_by_key(|refund| refund.seq);
        Ok(found)
    }

    pub async fn insert_refund(&mut self, refund: &Refund) -> Result<(), Error> {
        self.insert(REFUNDS, refund).await
    }

    /// Writes the fields that differ; the refund must be as it was read.
    pub async fn update_refund(&mut self, before: &Refund, after: &Refund) -> Result<(), Error> {
        let (old, new) = (bson::serialize_to_document(before)?, bson::serialize_to_document(after)?);
        let mut set = Document::new();
        set.extend(new.iter().filter(|(k, v)| old.get(k.as_str()) != Some(*v)).map(|(k, v)| (k.clone(), v.clone())));
        let mut unset = Document::new();
        unset.extend(old.keys().filter(|k| !new.contains_key(k.as_str())).map(|k| (k.clone(), Bson::from(""))));
        let mut change = doc! { "$set": set };
        if !unset.is_empty() {
            change.insert("$unset", unset);
        }
        let guard = doc! { "_id": &before.id, "status": before.status.as_str(), "revision": before.revision };
        if self.update(REFUNDS, guard, change).await? {
            return Ok(());
        }
        Err(Error::Invariant(format!("refund {} changed within a snapshot", before.id)))
    }

    /// Raises an order's `refundRevision` and says what its refunds make of it. It must be as it was read.
    pub async fn bump_refunds(&mut self, order: &Order, state: Option<RefundState>) -> Result<i64, Error> {
        let revision = order.refund_revision.saturating_add(1);
        let mut guard = doc! {
            "_id": order.id.as_str(), "status": order.status.as_str(), "refundRevision": order.refund_revision,
        };
        if order.refund_revision == 0 {
            guard.insert("refundRevision", doc! { "$in": [0i64, Bson::Null] });
        }
        let mut change = doc! { "$set": { "refundRevision": revision } };
        match state {
            Some(state) => change.insert(
                "$set",
                doc! {
                    "refundRevision": revision, "refundState": bson::serialize_to_bson(&state)?,
                },
            ),
            None => change.insert("$unset", doc! { "refundState": "" }),
        };
        if self.update("orders", guard, change).await? {
            return Ok(revision);
        }
        Err(Error::Invariant(format!("order {} changed within a snapshot", order.id)))
    }
}
