//! `orders`: what was bought, at which price, in which state.

use bson::doc;
use chrono::{DateTime, Utc};
use domain::machine::order::{Event, sources};
use domain::quote::{Adjustment, Proof, Share};
use domain::refund::{Frozen, FrozenLine, LineFacts};
use domain::{
    CustomerId, Fen, Logistics, OpenId, OrderId, OrderStatus, OrderType, ParcelState, PaymentMethod, Points, ProductId,
    SkuId, UserCouponId, UserId,
};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::page::{Page, PageRequest, Row};
use crate::parcels::Attention;
use crate::refunds::RefundState;
use crate::{Error, Store, Tx, date};

/// Where the goods go.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    pub name: String,
    pub phone: String,
    #[serde(default)]
    pub province: String,
    #[serde(default)]
    pub city: String,
    #[serde(default)]
    pub district: String,
    pub detail: String,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address(***)")
    }
}

/// One line: what was bought and what it costs after its share of the discounts. Amounts in fen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderItem {
    /// `1`, `2`, … within the order.
    pub line_id: String,
    pub product_id: ProductId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<SkuId>,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub price: Fen,
    #[serde(deserialize_with = "domain::money::whole")]
    pub quantity: i64,
    /// price × quantity
    pub amount: Fen,
    /// This line's share of what the coupon took off.
    #[serde(default)]
    pub coupon_discount: Fen,
    /// This line's share of what points took off.
    pub points_discount: Fen,
    /// This line's share of what staff took off before it was paid.
    #[serde(default, skip_serializing_if = "no_fen")]
    pub staff_discount: Fen,
    /// amount − discounts
    pub payable: Fen,
    /// Pieces that prepaid goods pay for.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub prepaid_quantity: i64,
    /// What those pieces are worth, out of `payable`.
    #[serde(default)]
    pub prepaid_covered: Fen,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grants_coin: bool,
}

impl OrderItem {
    /// What coupon, points and staff took off.
    pub fn discount(&self) -> Fen {
        Fen::sum([self.coupon_discount, self.points_discount, self.staff_discount]).unwrap_or(self.amount)
    }

    fn facts(&self) -> LineFacts<'_> {
        LineFacts { line_id: &self.line_id, quantity: self.quantity, grants_coin: self.grants_coin }
    }

    /// The line of an order without a price proof, before points, prepaid money and balance are spread.
    fn frozen(&self) -> Result<FrozenLine, Error> {
        let share = Share {
            amount: self.amount,
            coupon_discount: self.coupon_discount,
            points_discount: self.points_discount,
            prepaid_quantity: self.prepaid_quantity,
            prepaid_covered: self.prepaid_covered,
            payment_amount: self.payable.checked_sub(self.prepaid_covered)?,
            ..Share::default()
        };
        let LineFacts { line_id, quantity, grants_coin } = self.facts();
        Ok(FrozenLine { line_id: line_id.to_owned(), quantity, share, grants_coin })
    }
}

fn no_fen(amount: &Fen) -> bool {
    amount.is_zero()
}

/// More notes and more changes of its price than this an order does not keep.
pub const NOTES_MAX: usize = 20;
pub const CHANGES_MAX: usize = 20;

/// What staff wrote down about an order. Its buyer does not see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    pub text: String,
    /// `staff:…`
    pub by: String,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
}

/// A change of what an order costs, before it was paid: the price proof says how the price follows from it. Amounts in fen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PriceChange {
    pub change: Adjustment,
    /// What was left for WeChat Pay before and after.
    pub payment_before: Fen,
    pub payment_after: Fen,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// `staff:…` or `buyer`.
    pub by: String,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
}

/// What an order shows of its parcel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelSummary {
    /// `parcels._id`.
    pub id: String,
    pub state: ParcelState,
    /// When the newest thing that is known happened.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// When it was signed for.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub arrived_at: Option<DateTime<Utc>>,
    /// Why staff should look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
}

/// How an order was shipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shipping {
    pub logistics: Logistics,
    /// The courier by WeChat's id, e.g. `SF`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub express_company: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_no: Option<String>,
    #[serde(with = "date")]
    pub shipped_at: DateTime<Utc>,
    /// Who said so: `staff:…` or `service:…`.
    pub by: String,
    /// A report to WeChat was put into the outbox with it.
    #[serde(default)]
    pub reported: bool,
    /// The courier's parcel that it is in, where the shop follows parcels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parcel: Option<ParcelSummary>,
    /// Why its parcel cannot be followed, as a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untracked: Option<String>,
}

impl Shipping {
    /// Whether the parcel is the same, whoever shipped it and when.
    pub fn same_parcel(&self, other: &Self) -> bool {
        let parcel = |s: &Self| (s.logistics, s.express_company.clone(), s.tracking_no.clone());
        parcel(self) == parcel(other)
    }
}

/// An order. Amounts in fen; `total = lines + freight = discount + prepaid goods + prepaid + balance + payment`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    #[serde(rename = "_id")]
    pub id: OrderId,
    pub user_id: UserId,
    pub open_id: OpenId,
    #[serde(rename = "type")]
    pub order_type: OrderType,
    pub status: OrderStatus,
    pub items: Vec<OrderItem>,
    pub total_amount: Fen,
    /// Of the total.
    #[serde(default)]
    pub freight_amount: Fen,
    /// Everything that is neither a tender nor paid: what coupon, points and staff took off.
    pub discount_amount: Fen,
    pub points_used: Points,
    /// Taken from the member's balance.
    pub balance_amount: Fen,
    /// The customer whose prepaid money or goods it uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<CustomerId>,
    /// What the pieces are worth that prepaid goods pay for.
    #[serde(default)]
    pub prepaid_goods_amount: Fen,
    /// Taken from prepaid money.
    #[serde(default)]
    pub prepaid_amount: Fen,
    /// Left for WeChat Pay.
    pub payment_amount: Fen,
    pub payment_method: PaymentMethod,
    pub address: Address,
    #[serde(default)]
    pub remark: String,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub expire_time: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipping: Option<Shipping>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<String>,
    /// When the buyer had it, or was silent for long enough.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub points_earned: Points,
    /// Fen that earned one of them: a refund takes them back at the same rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points_earn_fen: Option<i64>,
    /// Coins that a points-mall order cost.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub coins_used: i64,
    /// Coins that it granted when it was paid.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub coins_earned: i64,
    /// The right to buy that it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qualification_id: Option<String>,
    /// The coupon that it uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_coupon_id: Option<UserCouponId>,
    /// The number of payment attempts begun; guards closing against an attempt that begins meanwhile.
    #[serde(default)]
    pub payment_attempts: i64,
    /// Products whose pieces still have to go back to the shelf.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stock_release: Vec<ProductId>,
    /// Grows by one with each change of its refunds: refunds and shipping meet in it.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub refund_revision: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_state: Option<RefundState>,
    /// What its price follows from, with each line's share of every tender. Orders made before it was kept have none, and those
    /// of the points mall, which cost no money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_proof: Option<Proof>,
    /// What was changed about its price, one after another: those of the price proof.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adjustments: Vec<PriceChange>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

impl Order {
    /// What a user spends on it: the base of earned points.
    pub fn net_spend(&self) -> Result<Fen, Error> {
        Ok(self.payment_amount.checked_add(self.balance_amount)?)
    }

    /// What prepaid money and goods pay together.
    pub fn prepaid_total(&self) -> Result<Fen, Error> {
        Ok(self.prepaid_amount.checked_add(self.prepaid_goods_amount)?)
    }

    /// What the coupon took off goods and freight.
    pub fn coupon_discount(&self) -> Fen {
        self.price_proof.as_ref().map_or(Fen::ZERO, |p| p.quote.total.coupon_discount)
    }

    /// What staff took off goods and freight before it was paid.
    pub fn staff_discount(&self) -> Fen {
        self.price_proof.as_ref().map_or(Fen::ZERO, |p| p.quote.total.staff_discount)
    }

    /// What each line and the freight were paid with: what refunds give back, piece by piece.
    pub fn frozen(&self) -> Result<Frozen, Error> {
        if let Some(proof) = &self.price_proof {
            let facts: Vec<LineFacts<'_>> = self.items.iter().map(OrderItem::facts).collect();
            return Frozen::of(&proof.quote, &facts, self.coins_earned).ok_or_else(|| {
                Error::Invariant(format!("order {} has another number of lines than its price", self.id))
            });
        }
        let lines = self.items.iter().map(OrderItem::frozen).collect::<Result<Vec<_>, _>>()?;
        let (points, prepaid) = (self.points_used, self.prepaid_amount);
        let mut frozen = Frozen::of_totals(lines, points, prepaid, self.balance_amount, self.coins_earned)?;
        // An order of the points mall has one line.
        if let Some(line) = frozen.lines.first_mut() {
            line.share.coins_used = self.coins_used;
        }
        Ok(frozen)
    }

    /// The distinct products of its lines.
    pub fn products(&self) -> Vec<ProductId> {
        let set: std::collections::BTreeSet<_> = self.items.iter().map(|i| i.product_id.clone()).collect();
        set.into_iter().collect()
    }

    /// The products that it took pieces of from the shelf: none if it uses a right to buy, whose grant took them.
    pub fn shelf_products(&self) -> Vec<ProductId> {
        if self.qualification_id.is_some() { Vec::new() } else { self.products() }
    }
}

/// What a paid order earned its buyer.
#[derive(Clone, Copy, Debug)]
pub struct Earned {
    pub points: Points,
    /// Fen that earned one of them.
    pub points_earn_fen: i64,
    pub coins: i64,
}

impl Row for Order {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, self.id.as_str())
    }
}

#[derive(Deserialize)]
struct Due {
    #[serde(rename = "_id")]
    id: OrderId,
}

/// Which orders a list shows.
#[derive(Clone, Debug, Default)]
pub struct OrderFilter {
    pub user: Option<UserId>,
    pub status: Option<OrderStatus>,
    pub order_type: Option<OrderType>,
    pub refund_state: Option<RefundState>,
}

impl Store {
    pub async fn order(&self, id: &OrderId) -> Result<Option<Order>, Error> {
        Ok(self.collection::<Order>("orders").await?.find_one(doc! { "_id": id.as_str() }).await?)
    }

    /// Orders, newest first.
    pub async fn orders(&self, filter: &OrderFilter, page: &PageRequest) -> Result<Page<Order>, Error> {
        let mut query = doc! {};
        if let Some(user) = &filter.user {
            query.insert("userId", user.as_str());
        }
        if let Some(status) = filter.status {
            query.insert("status", status.as_str());
        }
        if let Some(order_type) = filter.order_type {
            query.insert("type", order_type.as_str());
            if filter.user.is_none() && filter.status.is_none() {
                // One index serves a type with a status and, merged over all of them, without.
                query.insert("status", doc! { "$in": OrderStatus::ALL.map(OrderStatus::as_str).to_vec() });
            }
        }
        if let Some(state) = filter.refund_state {
            query.insert("refundState", bson::serialize_to_bson(&state)?);
        }
        if query.is_empty() {
            // The index on createdAt serves an unfiltered list only when the query names the field.
            query.insert("createdAt", doc! { "$gt": date::bson(DateTime::<Utc>::UNIX_EPOCH) });
        }
        self.page("orders", query, page).await
    }

    /// `shipped → completed`; false if the order is in any other state.
    pub async fn complete_order(&self, id: &OrderId, now: DateTime<Utc>) -> Result<bool, Error> {
        let orders = self.collection::<bson::Document>("orders").await?;
        let from = doc! { "_id": id.as_str(), "status": { "$in": states(Event::Receive) } };
        Ok(orders.update_one(from, completed(now)).await?.modified_count == 1)
    }

    /// Completes orders that were shipped at `before` or earlier, those shipped first in front, but none of which a refund is asked
    /// for or under way, and none whose parcel goes back, was lost, or was on its way at `before` or later without having arrived.
    /// How many were found, at most `limit`, and how many of them completed.
    pub async fn complete_silent_orders(
        &self,
        before: DateTime<Utc>,
        limit: i64,
        now: DateTime<Utc>,
    ) -> Result<(u64, u64), Error> {
        #[derive(Deserialize)]
        struct Found {
            #[serde(rename = "_id")]
            id: String,
        }
        // The status stands by itself: an index of shipped orders alone serves it.
        let due = doc! {
            "status": OrderStatus::Shipped.as_str(), "shipping.shippedAt": { "$lte": date::bson(before) },
            "refundState": { "$ne": "applied" },
            "shipping.parcel.attention": { "$nin": [Attention::Returning.as_str(), Attention::Lost.as_str()] },
            "$or": [
                { "shipping.parcel.arrivedAt": { "$exists": true } },
                // A parcel of which nobody has told anything for as long does not hold its order for ever.
                { "shipping.parcel.at": { "$not": { "$gt": date::bson(before) } } },
            ],
        };
        let orders = self.collection::<Found>("orders").await?;
        let find = orders.find(due.clone()).projection(doc! { "_id": 1i32 });
        let found: Vec<Found> =
            find.sort(doc! { "shipping.shippedAt": 1i32 }).limit(limit).await?.try_collect().await?;
        let (count, ids) = (u64::try_from(found.len()).unwrap_or(0), found.into_iter().map(|f| f.id));
        if count == 0 {
            return Ok((0, 0));
        }
        let mut guarded = due;
        guarded.insert("_id", doc! { "$in": ids.collect::<Vec<_>>() });
        guarded.insert("status", doc! { "$in": states(Event::AutoComplete) });
        let done = orders.update_many(guarded, completed(now)).await?;
        Ok((count, done.modified_count))
    }

    /// Unpaid orders whose time is over and that nobody failed to close since `now`: those that were not tried yet first, oldest
    /// first, then those whose last try is the longest ago.
    pub async fn expired_orders(&self, now: DateTime<Utc>, limit: i64) -> Result<Vec<OrderId>, Error> {
        let now = date::bson(now);
        let due = doc! {
            "status": OrderStatus::PendingPayment.as_str(), "expireTime": { "$lte": now.clone() },
            "closeTriedAt": { "$not": { "$gte": now } },
        };
        let orders = self.collection::<Due>("orders").await?;
        let find = orders.find(due).projection(doc! { "_id": 1i32 }).sort(doc! { "closeTriedAt": 1, "expireTime": 1 });
        Ok(find.limit(limit).await?.map_ok(|due| due.id).try_collect().await?)
    }

    /// Writes down that an expired order could not be closed now, so that others have their turn first.
    pub async fn close_tried(&self, id: &OrderId, now: DateTime<Utc>) -> Result<(), Error> {
        let guard = doc! { "_id": id.as_str(), "status": OrderStatus::PendingPayment.as_str() };
        let change = doc! { "$set": { "closeTriedAt": date::bson(now) } };
        self.collection::<bson::Document>("orders").await?.update_one(guard, change).await?;
        Ok(())
    }
}

/// The states that an event may start from, as a guard names them.
fn states(event: Event) -> Vec<&'static str> {
    sources(event).into_iter().map(OrderStatus::as_str).collect()
}

fn completed(now: DateTime<Utc>) -> Vec<bson::Document> {
    // A call that began before the shipment was noted may come after it.
    let at = doc! { "$max": [date::bson(now), "$shipping.shippedAt"] };
    vec![doc! { "$set": { "status": OrderStatus::Completed.as_str(), "completedAt": at } }]
}

impl Tx {
    pub async fn order(&mut self, id: &OrderId) -> Result<Option<Order>, Error> {
        self.find_by_id("orders", id.as_str()).await
    }

    pub async fn insert_order(&mut self, order: &Order) -> Result<(), Error> {
        self.insert("orders", order).await
    }

    /// `pendingPayment → paid`; false if the order is in any other state.
    pub async fn mark_order_paid(
        &mut self,
        id: &OrderId,
        transaction_id: Option<&str>,
        earned: Earned,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let mut set = doc! {
            "status": OrderStatus::Paid.as_str(), "paidAt": date::bson(now),
            "pointsEarned": earned.points.get(), "coinsEarned": earned.coins, "pointsEarnFen": earned.points_earn_fen,
        };
        if let Some(transaction_id) = transaction_id {
            set.insert("transactionId", transaction_id);
        }
        self.update(
            "orders",
            doc! { "_id": id.as_str(), "status": { "$in": states(Event::Pay) } },
            doc! { "$set": set },
        )
        .await
    }

    /// `paid → shipped`; false if the order is in any other state.
    pub async fn mark_order_shipped(&mut self, id: &OrderId, shipping: &Shipping) -> Result<bool, Error> {
        self.update(
            "orders",
            doc! { "_id": id.as_str(), "status": { "$in": states(Event::Ship) } },
            doc! { "$set": {
                "status": OrderStatus::Shipped.as_str(), "shipping": bson::serialize_to_bson(shipping)?,
            } },
        )
        .await
    }

    /// Closes an order in the state that was read, noting the products whose pieces must go back; false if it has another
    /// state by now or a payment attempt began since.
    pub async fn mark_order_closed(&mut self, order: &Order, reason: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let products: Vec<String> = order.shelf_products().into_iter().map(String::from).collect();
        self.update(
            "orders",
            doc! {
                "_id": order.id.as_str(), "status": order.status.as_str(),
                "paymentAttempts": order.payment_attempts,
            },
            doc! { "$set": {
                "status": OrderStatus::Closed.as_str(), "closedAt": date::bson(now), "closeReason": reason,
                "stockRelease": products,
            } },
        )
        .await
    }

    /// Writes what changed of an order that waits for payment: price, proof, address. False if it has another state or price by
    /// now, another change was first, or a payment attempt began since.
    pub async fn change_order(&mut self, before: &Order, after: &Order) -> Result<bool, Error> {
        let mut set = doc! {
            "address": bson::serialize_to_bson(&after.address)?,
            "totalAmount": after.total_amount.get(),
            "freightAmount": after.freight_amount.get(),
            "discountAmount": after.discount_amount.get(),
            "paymentAmount": after.payment_amount.get(),
        };
        if let Some(proof) = &after.price_proof {
            set.insert("priceProof", bson::serialize_to_bson(proof)?);
            set.insert("adjustments", bson::serialize_to_bson(&after.adjustments)?);
        }
        for (i, line) in after.items.iter().enumerate() {
            set.insert(format!("items.{i}.payable"), line.payable.get());
            set.insert(format!("items.{i}.staffDiscount"), line.staff_discount.get());
        }
        // Changes are only ever added.
        let next = format!("adjustments.{}", before.adjustments.len());
        let guard = doc! {
            "_id": before.id.as_str(), "status": before.status.as_str(), "paymentAttempts": before.payment_attempts,
            "paymentAmount": before.payment_amount.get(), next: { "$exists": false },
        };
        self.update("orders", guard, doc! { "$set": set }).await
    }

    /// Adds a note; false if there is no such order, or no room.
    pub async fn note_order(&mut self, id: &OrderId, note: &Note) -> Result<bool, Error> {
        let full = format!("notes.{}", NOTES_MAX.saturating_sub(1));
        let guard = doc! { "_id": id.as_str(), full: { "$exists": false } };
        self.update("orders", guard, doc! { "$push": { "notes": bson::serialize_to_bson(note)? } }).await
    }

    /// Counts a new payment attempt on an order that can still be paid at this price; false if it cannot or another attempt was
    /// first.
    pub async fn begin_payment_attempt(
        &mut self,
        order: &Order,
        attempt: i64,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        self.update(
            "orders",
            doc! {
                "_id": order.id.as_str(), "status": OrderStatus::PendingPayment.as_str(),
                "paymentAttempts": attempt.saturating_sub(1), "paymentAmount": order.payment_amount.get(),
                "expireTime": { "$gt": date::bson(now) },
            },
            doc! { "$set": { "paymentAttempts": attempt } },
        )
        .await
    }
}
