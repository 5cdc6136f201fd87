//! Checks the invariants over the whole database, in batches, on one snapshot.
//!
//! | name | what must hold |
//! |---|---|
//! | `entry-balance` | every entry sums to zero per asset, reverses an entry that is there, and moves known accounts in their own asset |
//! | `account-value` | a field account = the sum of its postings, counting reservations and releases that are under way |
//! | `account-negative` | no field account is below zero |
//! | `statement` | every statement row has its entry, and every entry its statement row |
//! | `owed` | whoever owes points has none; what is owed is paid right when something comes in, and with no more than that |
//! | `order-amounts` | an order's amounts and lines add up |
//! | `order-price` | an order's amounts are those that its price proof gives when it is calculated again, before and after each change of its price |
//! | `order-effects` | the book holds for each order exactly the entries that its state calls for, to the posting |
//! | `stock` | pieces moved by hand: every entry has exactly its rows in `records`, and every row its entry; goods that are deleted are not on sale |
//! | `right` | a used right to buy and its order name each other; an order of type lottery has one, and no other has |
//! | `payment` | attempts fit their orders; money that fits no order is recorded, booked and given back |
//! | `bill` | a difference from a bill is kept under its day and kind, and its day counts it; who resolved it said why; a payment that is in a bill as with us is paid; what belongs to a day that was compared is in its bill, or recorded as a difference |
//! | `prepaid` | each deduction's details add up and are what the book took; it was given back or not, as the book says |
//! | `coins` | each lot: granted = spent − returned + expired + revoked + remaining; nothing is spent at or after its expiry or written off before; each move has its row; what is owed was spent |
//! | `coupon` | a definition counts what is handed out of it, within its total; a coupon is locked or used exactly by the order that names it and is priced by its terms |
//! | `refund` | standing refunds stay within what each line was paid with; what is ours went back exactly once and as the refund says; WeChat's part is in the book exactly if WeChat said SUCCESS or staff gave it another way; a number is replaced only after CLOSED; the order's `refundState` and `refundRevision` are those of its refunds |
//! | `link` | one customer and one user at most belong to each other, and the customer's prepaid records know it |
//! | `identity` | a member is verified if and only if a sealed identity is stored; one number, one user; no number can be read there, at members, customers or in `accessLogs`; who waits for goods of the points mall is verified |
//! | `seal` | every sealed day has the entries it was sealed with, and the days form one chain without gaps |
//! | `draw` | each draw recomputes from its list, seed and beacon to its recorded ranking and winners; rights follow the ranks, hold their pieces and grant one coin each; no seed is in clear before its draw |
//! | `shipping` | an order has shipping data exactly from its shipping on, and knows when it was completed exactly once it is; a report that it says was made is in the outbox |
//! | `review` | a review is of a line that its author has received; it is shown only after WeChat passed it or staff published it; the stars are those of the published reviews |
//! | `parcel` | a parcel's state, trace and marks fit; its orders show it as it is, arrival included; it was not asked about too often; subscriptions are those that parcels of orders made |
//! | `event` | what is told or reported has happened, and to the one who is told: order paid, shipped, arrived, refunded, draw, coins that expire |
//! | `outbox` | nothing waits beyond its limit without being dead; what has ended has one end, is leased to nobody and not being sent; tries are numbered, and the last says what the state says; only messages hold permissions; a text beside a message takes the place of one that its user did not allow; a refund has its cause and its outcome |
//! | `subscription` | messages that a user agreed to = those still available + those that items of the outbox hold + those found void |
//! | `assignment` | who was assigned a customer is told by a message that names the customer, and no such message was delivered without its assignment |
//!
//! A document that cannot be read by the shop's own types is reported under its collection's invariant.

mod bills;
mod coins;
mod coupons;
mod draws;
mod events;
mod identities;
mod messages;
mod owed;
mod parcels;
mod refunds;
mod reviews;
mod rights;
mod rules;
mod seals;
mod stock;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::machine::refund::State;
use futures_util::TryStreamExt;
use mongodb::options::{CollectionOptions, Hint, ReadConcern};
use mongodb::{ClientSession, Collection};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::book::{self, Entry, Posting};
use crate::collections::{Definition, definitions};
use crate::customers::Customer;
use crate::members::{Member, PointsLog, StockRecord};
use crate::orders::Order;
use crate::outbox::{OutboxItem, OutboxStatus};
use crate::payments::{ExceptionStatus, Payment, PaymentException};
use crate::prepaid::{LinkStatus, PrepaidChange, PrepaidDeduction, PrepaidRecord};
use crate::products::Product;
use crate::refunds::Refund;
use crate::stock::reserve_key;
use crate::{Error, Store};
use rules::{
    amounts_off, deduction_off, effects_off, entry_faults, exception_off, given_back, money_back, money_elsewhere,
    money_in, payment_off, posted_on, price_off,
};

const BATCH: usize = 500;

/// The system accounts with the kind of asset that each holds.
const SYSTEM_ACCOUNTS: &[(&str, &str)] = &[
    (book::WECHAT, "fen"),
    (book::SALES, "fen"),
    (book::EXCEPTIONS, "fen"),
    (book::ISSUED, "points"),
    (book::REDEEMED, "points"),
    (book::SPEND, "spend"),
    (book::RESERVED, "stock"),
    (book::SOLD, "stock"),
    (book::INVENTORY, "stock"),
    (book::DEPOSITS, "fen"),
    (book::DEPOSITS, "pieces"),
    (book::PREPAID_USED, "fen"),
    (book::PREPAID_USED, "pieces"),
    (book::COINS_ISSUED, "coins"),
    (book::COINS_SPENT, "coins"),
    (book::COINS_EXPIRED, "coins"),
    (book::COINS_OWED, "coins"),
    (book::QUALIFIED, "stock"),
    (book::REFUNDS, "fen"),
    (book::ELSEWHERE, "fen"),
    (book::POINTS_OWED, "points"),
];

/// The reasons under which an order may have entries.
const ORDER_REASONS: [&str; 7] =
    ["reserve", "reserve-reversal", "tender", "tender-reversal", "settle", "settle-reversal", "coin-revoke"];

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    pub message: String,
    /// The documents concerned, as `collection/_id`.
    pub documents: Vec<String>,
}

/// What was checked and what was found.
#[derive(Debug, Default, Serialize)]
pub struct AuditReport {
    /// Documents read, by collection.
    pub checked: BTreeMap<String, u64>,
    pub violations: Vec<Violation>,
}

struct Audit<'a> {
    store: &'a Store,
    session: ClientSession,
    now: DateTime<Utc>,
    definitions: Vec<Definition>,
    report: AuditReport,
}

/// A page of documents in `_id` order.
struct Batch<T> {
    rows: Vec<T>,
    /// Where the next page begins; none at the end.
    next: Option<Bson>,
}

/// The refund that an item of the outbox orders from WeChat: `afterSale:{refund}:{count}`.
fn after_sale_of(item: &str) -> Option<String> {
    let (refund, _) = item.strip_prefix("afterSale:")?.rsplit_once(':')?;
    Some(refund.to_owned())
}

/// Whether a stock record tells of pieces that a refund brought back.
fn of_refund(record: &StockRecord) -> bool {
    record.entry_id.starts_with("afterSale:")
}

/// The key of one of an order's entries.
fn key(order: &OrderId, reason: &str) -> String {
    format!("order:{order}:{reason}")
}

impl Store {
    /// Checks every invariant. Reads one snapshot, so it may run beside live traffic; the server keeps a snapshot for
    /// `minSnapshotHistoryWindowInSeconds` (five minutes unless set), and a longer audit fails and says so.
    pub async fn audit(&self, now: DateTime<Utc>) -> Result<AuditReport, Error> {
        let session = self.db().await?.client().start_session().snapshot(true).await?;
        let mut audit =
            Audit { store: self, session, now, definitions: definitions()?, report: AuditReport::default() };
        audit.entries().await?;
        audit.accounts().await?;
        audit.owed().await?;
        audit.statements().await?;
        audit.orders().await?;
        audit.stock().await?;
        audit.rights().await?;
        audit.payments().await?;
        audit.exceptions().await?;
        audit.bills().await?;
        audit.deductions().await?;
        audit.corrections().await?;
        audit.coins().await?;
        audit.coupons().await?;
        audit.refunds().await?;
        audit.customers().await?;
        audit.members().await?;
        audit.identities().await?;
        audit.seals().await?;
        audit.parcels().await?;
        audit.outbox().await?;
        audit.reviews().await?;
        audit.subscriptions().await?;
        audit.assignments().await?;
        audit.draws().await?;
        Ok(audit.report)
    }
}

impl Audit<'_> {
    fn violation(&mut self, invariant: &'static str, message: impl Into<String>, document: String) {
        self.report.violations.push(Violation { invariant, message: message.into(), documents: vec![document] });
    }

    /// A collection as the audit's one snapshot shows it. The client's own read concern would win over the session's.
    async fn collection(&self, name: &str) -> Result<Collection<Document>, Error> {
        let options = CollectionOptions::builder().read_concern(ReadConcern::snapshot()).build();
        Ok(self.store.db().await?.collection_with_options(name, options))
    }

    /// Up to [`BATCH`] documents after `after`. One that cannot be read is a violation of `invariant`.
    async fn batch<T: DeserializeOwned>(
        &mut self,
        name: &str,
        invariant: &'static str,
        after: Option<Bson>,
    ) -> Result<Batch<T>, Error> {
        let filter = after.map_or_else(|| doc! {}, |id| doc! { "_id": { "$gt": id } });
        let collection = self.collection(name).await?;
        let limit = i64::try_from(BATCH).unwrap_or(500);
        let find = collection.find(filter).hint(Hint::Keys(doc! { "_id": 1 })).sort(doc! { "_id": 1 }).limit(limit);
        let mut cursor = find.session(&mut self.session).await?;
        let documents: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        let seen = self.report.checked.entry(name.to_owned()).or_default();
        *seen = seen.saturating_add(u64::try_from(documents.len()).unwrap_or(0));
        let next = documents.last().filter(|_| documents.len() == BATCH).and_then(|d| d.get("_id")).cloned();
        let mut rows = Vec::with_capacity(documents.len());
        for document in documents {
            let id = format!("{name}/{}", document.get_str("_id").unwrap_or("?"));
            match bson::deserialize_from_document(document) {
                Ok(row) => rows.push(row),
                Err(error) => self.violation(invariant, format!("the document cannot be read: {error}"), id),
            }
        }
        Ok(Batch { rows, next })
    }

    /// The readable documents whose `field` is one of `values`.
    async fn matching<T: DeserializeOwned>(
        &mut self,
        name: &str,
        field: &str,
        values: Vec<String>,
    ) -> Result<Vec<T>, Error> {
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let collection = self.collection(name).await?;
        let mut cursor = collection.find(doc! { field: { "$in": values } }).session(&mut self.session).await?;
        let documents: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        Ok(documents.into_iter().filter_map(|d| bson::deserialize_from_document(d).ok()).collect())
    }

    /// The `_id`s that a pipeline over a whole collection ends with.
    async fn ids_of(&mut self, name: &str, mut pipeline: Vec<Document>) -> Result<Vec<String>, Error> {
        pipeline.push(doc! { "$project": { "_id": 1i32 } });
        let collection = self.collection(name).await?;
        let run = collection.aggregate(pipeline).hint(Hint::Keys(doc! { "_id": 1 })).allow_disk_use(true);
        let mut cursor = run.session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        Ok(rows.iter().map(|r| r.get_str("_id").unwrap_or_default().to_owned()).collect())
    }

    async fn entries(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Entry> = self.batch("ledger", "entry-balance", after).await?;
            let reversed = batch.rows.iter().filter_map(|e| e.reverses.clone()).collect();
            let originals: Vec<Entry> = self.matching("ledger", "_id", reversed).await?;
            let causes = batch.rows.iter().filter_map(owed::cause_of).map(str::to_owned).collect();
            let causes: Vec<Entry> = self.matching("ledger", "_id", causes).await?;
            let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for entry in &batch.rows {
                if let Some(message) = owed::repayment_off(entry, &causes) {
                    self.violation(owed::NAME, message, format!("ledger/{}", entry.id));
                }
                for message in entry_faults(entry, &originals) {
                    self.violation("entry-balance", message, format!("ledger/{}", entry.id));
                }
                for posting in &entry.postings {
                    if let Some((collection, id)) =
                        posting.account.split_once('#').and_then(|(document, _)| document.split_once('/'))
                    {
                        owners.entry(collection.to_owned()).or_default().insert(id.to_owned());
                    }
                }
            }
            let mut known: BTreeSet<(String, String)> = BTreeSet::new();
            for (collection, ids) in owners {
                let Some(position) = self.definitions.iter().position(|d| d.name == collection) else { continue };
                let documents: Vec<Document> = self.matching(&collection, "_id", ids.into_iter().collect()).await?;
                let definition = self.definitions.get(position);
                for document in &documents {
                    let id = document.get_str("_id").unwrap_or_default();
                    let values = definition.map(|d| d.account_values(id, document)).unwrap_or_default();
                    known.extend(values.into_iter().map(|v| (v.account, v.asset)));
                }
            }
            for entry in &batch.rows {
                for posting in entry.postings.iter().filter(|p| !p.account.starts_with('@')) {
                    if !known.contains(&(posting.account.clone(), posting.asset.clone())) {
                        let message = format!("{} in {} is no account of any document", posting.account, posting.asset);
                        self.violation("account-value", message, format!("ledger/{}", entry.id));
                    }
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// What the book says of each of these accounts.
    async fn account_sums(&mut self, accounts: Vec<String>) -> Result<HashMap<String, i64>, Error> {
        let collection = self.collection("ledger").await?;
        let pipeline = vec![
            doc! { "$match": { "postings.account": { "$in": &accounts } } },
            doc! { "$unwind": "$postings" },
            doc! { "$match": { "postings.account": { "$in": &accounts } } },
            doc! { "$group": { "_id": "$postings.account", "sum": { "$sum": "$postings.amount" } } },
        ];
        let mut cursor = collection.aggregate(pipeline).session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        Ok(rows
            .into_iter()
            .map(|r| (r.get_str("_id").unwrap_or_default().to_owned(), book::number(&r, "sum")))
            .collect())
    }

    async fn accounts(&mut self) -> Result<(), Error> {
        let names: Vec<String> =
            self.definitions.iter().filter(|d| !d.accounts.is_empty()).map(|d| d.name.clone()).collect();
        for name in names {
            let mut after: Option<Bson> = None;
            loop {
                let batch: Batch<Document> = self.batch(&name, "account-value", after).await?;
                self.check_accounts(&name, &batch.rows).await?;
                match batch.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn check_accounts(&mut self, name: &str, batch: &[Document]) -> Result<(), Error> {
        let mut values = Vec::new();
        let mut corrections: HashMap<String, i64> = HashMap::new();
        for document in batch {
            let id = document.get_str("_id").unwrap_or_default();
            let definition = self.definitions.iter().find(|d| d.name == name);
            let accounts = definition.map(|d| d.account_values(id, document)).unwrap_or_default();
            values.extend(accounts.into_iter().map(|v| (id.to_owned(), v)));
            if name == "shopProducts" {
                match bson::deserialize_from_document::<Product>(document.clone()) {
                    Ok(product) => self.stock_under_way(&product, &mut corrections).await?,
                    Err(error) => {
                        self.violation(
                            "account-value",
                            format!("the document cannot be read: {error}"),
                            format!("{name}/{id}"),
                        );
                    }
                }
            }
        }
        let sums = self.account_sums(values.iter().map(|(_, v)| v.account.clone()).collect()).await?;
        for (id, value) in values {
            let posted = sums.get(&value.account).copied().unwrap_or(0);
            let expected = posted.saturating_add(corrections.get(&value.account).copied().unwrap_or(0));
            let document = format!("{name}/{id}");
            if value.value < 0 {
                self.violation("account-negative", format!("{} is {}", value.account, value.value), document.clone());
            }
            if value.value != expected {
                let message = format!("{} is {}, the book says {expected}", value.account, value.value);
                self.violation("account-value", message, document);
            }
        }
        Ok(())
    }

    /// Pieces that left the field without an entry yet (markers), or whose entry came back before the field (releases).
    async fn stock_under_way(
        &mut self,
        product: &Product,
        corrections: &mut HashMap<String, i64>,
    ) -> Result<(), Error> {
        let mut correct = |sku: Option<&str>, amount: i64| {
            let account = Posting::stock(product.id.as_str(), sku, 0).account;
            let sum = corrections.entry(account).or_default();
            *sum = sum.saturating_add(amount);
        };
        let keys = product.stock_markers.iter().map(|m| reserve_key(&m.order_id)).collect();
        let booked: Vec<Entry> = self.matching("ledger", "_id", keys).await?;
        for marker in &product.stock_markers {
            let key = reserve_key(&marker.order_id);
            if !booked.iter().any(|e| e.id == key && !e.void) {
                for item in &marker.items {
                    correct(item.sku_id.as_ref().map(|s| s.as_str()), item.quantity.saturating_neg());
                }
            }
        }
        let waiting: Vec<Order> = self.matching("orders", "stockRelease", vec![product.id.as_str().to_owned()]).await?;
        for order in waiting.iter().filter(|o| !product.last_released.contains(&o.id)) {
            for line in order.items.iter().filter(|l| l.product_id == product.id) {
                correct(line.sku_id.as_ref().map(|s| s.as_str()), line.quantity.saturating_neg());
            }
        }
        let waiting: Vec<Refund> =
            self.matching("refunds", "stockRelease", vec![product.id.as_str().to_owned()]).await?;
        for refund in waiting.iter().filter(|r| !product.last_refunded.contains(&r.id)) {
            for item in refund.items.iter().filter(|i| i.product_id == product.id) {
                correct(item.sku_id.as_ref().map(|s| s.as_str()), item.quantity.saturating_neg());
            }
        }
        Ok(())
    }

    async fn statements(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<PointsLog> = self.batch("member_points_log", "statement", after).await?;
            let entries: Vec<Entry> =
                self.matching("ledger", "_id", batch.rows.iter().map(|r| r.entry_id.clone()).collect()).await?;
            for row in &batch.rows {
                let account = book::member_account(&row.user_id, "points");
                let posted = entries.iter().find(|e| e.id == row.entry_id).map(|e| {
                    e.postings.iter().filter(|p| p.account == account).fold(0i64, |s, p| s.saturating_add(p.amount))
                });
                if posted != Some(row.change) || row.id != row.entry_id {
                    let message = format!("the row says {}, its entry {posted:?}", row.change);
                    self.violation("statement", message, format!("member_points_log/{}", row.id));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // The other way round: every entry on a member's points, openings aside, has its row.
        let on_points = doc! { "postings": { "$elemMatch": {
        "account": { "$regex": "^member_user/.*#points$" }, "amount": { "$ne": 0i64 } } } };
        let missing = self
            .ids_of(
                "ledger",
                vec![
                    doc! { "$match": { "$and": [ on_points, { "_id": { "$not": { "$regex": "^opening:" } } } ] } },
                    doc! { "$lookup": { "from": "member_points_log", "localField": "_id", "foreignField": "_id", "as": "rows" } },
                    doc! { "$match": { "rows": { "$size": 0i32 } } },
                ],
            )
            .await?;
        for id in missing {
            self.violation("statement", "an entry on points has no statement row", format!("ledger/{id}"));
        }
        self.standings().await
    }

    /// Each row's standing must continue another's: over one member, the standings after minus those before, squared, leave
    /// only the last minus the first. Holds in any order, so rows of one moment need none.
    async fn standings(&mut self) -> Result<(), Error> {
        let before = doc! { "$subtract": ["$points", "$change"] };
        let collection = self.collection("member_points_log").await?;
        let pipeline = vec![
            doc! { "$group": {
                "_id": "$userId",
                "change": { "$sum": "$change" },
                "squares": { "$sum": { "$subtract": [
                    { "$multiply": [ { "$toDecimal": "$points" }, { "$toDecimal": "$points" } ] },
                    { "$multiply": [ { "$toDecimal": before.clone() }, { "$toDecimal": before } ] },
                ] } },
            } },
            doc! { "$lookup": { "from": "member_user", "localField": "_id", "foreignField": "_id", "as": "member" } },
            doc! { "$set": { "points": { "$toDecimal": { "$first": "$member.points" } } } },
            doc! { "$set": { "first": { "$subtract": ["$points", { "$toDecimal": "$change" }] } } },
            doc! { "$match": { "$expr": { "$ne": [ "$squares", { "$subtract": [
            { "$multiply": ["$points", "$points"] }, { "$multiply": ["$first", "$first"] } ] } ] } } },
        ];
        let run = collection.aggregate(pipeline).hint(Hint::Keys(doc! { "_id": 1 })).allow_disk_use(true);
        let mut cursor = run.session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        for row in rows {
            let id = row.get_str("_id").unwrap_or_default();
            self.violation(
                "statement",
                "the standings of the points statement do not continue each other",
                format!("member_user/{id}"),
            );
        }
        Ok(())
    }

    async fn orders(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Order> = self.batch("orders", "order-amounts", after).await?;
            self.check_orders(&batch.rows).await?;
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let no_order = |local: &str| {
            vec![
                doc! { "$lookup": { "from": "orders", "localField": local, "foreignField": "_id", "as": "orders" } },
                doc! { "$match": { "orders": { "$size": 0i32 } } },
            ]
        };
        let mut of_entries = vec![doc! { "$match": { "_id": { "$regex": "^order:" }, "void": { "$ne": true } } }];
        of_entries.extend(no_order("orderId"));
        let mut of_records = vec![doc! { "$match": { "orderId": { "$exists": true } } }];
        of_records.extend(no_order("orderId"));
        let reasons = format!("^order:[0-9A-Z]+:({})$", ORDER_REASONS.join("|"));
        let of_reasons = vec![doc! { "$match": { "_id": { "$regex": "^order:", "$not": { "$regex": reasons } } } }];
        for (collection, pipeline, message) in [
            ("ledger", of_entries, "an entry belongs to no order"),
            ("ledger", of_reasons, "an entry of an order under a reason of no rule"),
            ("records", of_records, "a stock record belongs to no order"),
        ] {
            for id in self.ids_of(collection, pipeline).await? {
                self.violation("order-effects", message, format!("{collection}/{id}"));
            }
        }
        Ok(())
    }

    async fn check_orders(&mut self, batch: &[Order]) -> Result<(), Error> {
        self.check_rights_of(batch).await?;
        self.check_coupons_of(batch).await?;
        self.check_shipping_of(batch).await?;
        self.check_parcels_of(batch).await?;
        let ids: Vec<String> = batch.iter().map(|o| o.id.as_str().to_owned()).collect();
        let keys = batch.iter().flat_map(|o| ORDER_REASONS.iter().map(|r| key(&o.id, r))).collect();
        let entries: Vec<Entry> = self.matching("ledger", "_id", keys).await?;
        let entries: HashMap<&str, &Entry> = entries.iter().map(|e| (e.id.as_str(), e)).collect();
        let payments: Vec<Payment> = self.matching("payments", "orderId", ids.clone()).await?;
        let records: Vec<StockRecord> = self.matching("records", "orderId", ids.clone()).await?;
        let deductions: Vec<PrepaidDeduction> = self.matching("prepaidDeductions", "orderId", ids).await?;
        self.check_refunds_of(batch, &records, &deductions, &entries).await?;
        for order in batch {
            let here = format!("orders/{}", order.id);
            for message in amounts_off(order) {
                self.violation("order-amounts", message, here.clone());
            }
            for message in price_off(order) {
                self.violation("order-price", message, here.clone());
            }
            let payments: Vec<&Payment> = payments.iter().filter(|p| p.order_id == order.id).collect();
            let records: Vec<&StockRecord> =
                records.iter().filter(|r| r.order_id.as_ref() == Some(&order.id) && !of_refund(r)).collect();
            let deductions: Vec<&PrepaidDeduction> =
                deductions.iter().filter(|d| d.order_id == order.id.as_str()).collect();
            for message in effects_off(order, &entries, &payments, &records, &deductions) {
                self.violation("order-effects", message, here.clone());
            }
        }
        Ok(())
    }

    async fn deductions(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<PrepaidDeduction> = self.batch("prepaidDeductions", "prepaid", after).await?;
            let of_row = |d: &PrepaidDeduction| {
                let refunds = d.refunds.iter().map(|r| r.entry_id.clone());
                [d.entry_id.clone(), given_back(d)].into_iter().chain(refunds).collect::<Vec<_>>()
            };
            let keys = batch.rows.iter().flat_map(of_row).collect();
            let entries: Vec<Entry> = self.matching("ledger", "_id", keys).await?;
            for row in &batch.rows {
                let entry = |id: &str| entries.iter().find(|e| e.id == id);
                for message in deduction_off(row, entry) {
                    self.violation("prepaid", message, format!("prepaidDeductions/{}", row.id));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let rowless = vec![
            doc! { "$match": { "_id": { "$regex": "^prepaid:.*:deduct$" } } },
            doc! { "$lookup": { "from": "prepaidDeductions", "localField": "_id", "foreignField": "entryId", "as": "rows" } },
            doc! { "$match": { "rows": { "$size": 0i32 } } },
        ];
        for id in self.ids_of("ledger", rowless).await? {
            self.violation("prepaid", "an entry took prepaid without a row", format!("ledger/{id}"));
        }
        Ok(())
    }

    async fn corrections(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<PrepaidChange> = self.batch("updatePrepaidProduct", "prepaid", after).await?;
            let keys = batch.rows.iter().map(|c| c.entry_id.clone()).collect();
            let entries: Vec<Entry> = self.matching("ledger", "_id", keys).await?;
            for row in &batch.rows {
                let account = PrepaidRecord::account(&row.record_id);
                let posted = entries.iter().find(|e| e.id == row.entry_id).map(|e| posted_on(e, &account));
                if posted != Some(row.change) || row.id != row.entry_id {
                    let message = format!("the row says {}, its entry {posted:?}", row.change);
                    self.violation("prepaid", message, format!("updatePrepaidProduct/{}", row.id));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn customers(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Customer> = self.batch("customers", "link", after).await?;
            let users =
                batch.rows.iter().filter_map(|c| c.linked_user_id.as_ref().map(|u| u.as_str().to_owned())).collect();
            let members: Vec<Member> = self.matching("member_user", "_id", users).await?;
            let ids = batch.rows.iter().map(|c| c.id.as_str().to_owned()).collect();
            let records: Vec<PrepaidRecord> = self.matching("prepaidRecords", "customerId", ids).await?;
            for customer in &batch.rows {
                let here = format!("customers/{}", customer.id);
                let member = members.iter().find(|m| customer.linked_user_id.as_ref() == Some(&m.id));
                if customer.linked_user_id.is_some()
                    && member.is_none_or(|m| m.customer_id.as_ref() != Some(&customer.id))
                {
                    self.violation("link", "the linked user does not name this customer", here.clone());
                }
                let mut own = records.iter().filter(|r| r.customer_id == customer.id);
                if own.any(|r| {
                    r.linked_user_id != customer.linked_user_id
                        || (r.link_status == LinkStatus::Linked) != r.linked_user_id.is_some()
                }) {
                    self.violation("link", "a prepaid record does not know the customer's link", here.clone());
                }
                if !customer.is_active() && (customer.merged_into.is_none() || customer.linked_user_id.is_some()) {
                    self.violation("link", "a merged customer is still linked, or names no target", here);
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn members(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Member> = self.batch("member_user", "account-value", after).await?;
            let ids = batch.rows.iter().filter_map(|m| m.customer_id.as_ref().map(|c| c.as_str().to_owned())).collect();
            let customers: Vec<Customer> = self.matching("customers", "_id", ids).await?;
            for member in batch.rows.iter().filter(|m| m.customer_id.is_some()) {
                let customer = customers.iter().find(|c| Some(&c.id) == member.customer_id.as_ref());
                if customer.is_none_or(|c| c.linked_user_id.as_ref() != Some(&member.id)) {
                    self.violation(
                        "link",
                        "the customer does not name this user",
                        format!("member_user/{}", member.id),
                    );
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn payments(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Payment> = self.batch("payments", "payment", after).await?;
            let numbers = batch.rows.iter().map(|p| p.out_trade_no.clone()).collect();
            let exceptions: Vec<PaymentException> = self.matching("paymentExceptions", "outTradeNo", numbers).await?;
            let ids = batch.rows.iter().map(|p| p.order_id.as_str().to_owned()).collect();
            let orders: Vec<Order> = self.matching("orders", "_id", ids).await?;
            self.check_bill_days_of(&batch.rows).await?;
            for payment in &batch.rows {
                let order = orders.iter().find(|o| o.id == payment.order_id);
                let of_payment = |e: &&PaymentException| {
                    e.out_trade_no == payment.out_trade_no && !e.kind.is_refund() && !e.kind.is_difference()
                };
                let exceptions: Vec<_> = exceptions.iter().filter(of_payment).collect();
                for message in payment_off(payment, order, &exceptions) {
                    self.violation("payment", message, format!("payments/{}", payment.out_trade_no));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn exceptions(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<PaymentException> = self.batch("paymentExceptions", "payment", after).await?;
            let refund = |e: &PaymentException| e.out_refund_no.clone().unwrap_or_default();
            let keys = |e: &PaymentException| [money_in(e), money_back(&refund(e)), money_elsewhere(&refund(e))];
            let keys = batch.rows.iter().flat_map(keys).collect();
            let entries: Vec<Entry> = self.matching("ledger", "_id", keys).await?;
            let items: Vec<OutboxItem> = self
                .matching("outbox", "_id", batch.rows.iter().map(|e| format!("refund:{}", refund(e))).collect())
                .await?;
            self.check_days_of(&batch.rows).await?;
            for exception in batch.rows.iter().filter(|e| !e.kind.is_difference()) {
                let number = refund(exception);
                let entry = |id: &str| entries.iter().find(|e| e.id == id);
                let item = items.iter().find(|i| i.id == format!("refund:{number}"));
                let (money_in, back) = (entry(&money_in(exception)), entry(&money_back(&number)));
                for message in exception_off(exception, money_in, back, entry(&money_elsewhere(&number)), item) {
                    self.violation("payment", message, format!("paymentExceptions/{}", exception.id));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn outbox(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<OutboxItem> = self.batch("outbox", "outbox", after).await?;
            self.check_causes_of(&batch.rows).await?;
            self.check_subscriptions_of(&batch.rows).await?;
            self.check_texts_of(&batch.rows).await?;
            let numbers = batch.rows.iter().filter_map(|i| i.id.strip_prefix("refund:").map(str::to_owned)).collect();
            let causes: Vec<PaymentException> = self.matching("paymentExceptions", "outRefundNo", numbers).await?;
            let numbers = batch.rows.iter().filter_map(|i| after_sale_of(&i.id)).collect();
            let refunds: Vec<Refund> = self.matching("refunds", "_id", numbers).await?;
            for item in &batch.rows {
                let faults = messages::item_off(item, self.now);
                let mut say = |message: &str| self.violation("outbox", message, format!("outbox/{}", item.id));
                faults.into_iter().for_each(&mut say);
                let cause = item
                    .id
                    .strip_prefix("refund:")
                    .and_then(|n| causes.iter().find(|c| c.out_refund_no.as_deref() == Some(n)));
                if item.kind == "afterSaleRefund" {
                    let refund = after_sale_of(&item.id).and_then(|id| refunds.iter().find(|r| r.id == id));
                    let back = refund.is_some_and(|r| r.status == State::Refunded && !r.settled_elsewhere);
                    match (refund, item.status) {
                        (None, _) => say("delivers a refund that nothing caused"),
                        (_, OutboxStatus::Skipped) => say("money that goes back must not be skipped"),
                        (_, OutboxStatus::Delivered) if !back => say("delivered, but the money is not back"),
                        _ => {}
                    }
                }
                match cause {
                    _ if item.kind != "refund" => {}
                    Some(_) if item.status == OutboxStatus::Skipped => say("money that goes back must not be skipped"),
                    None => say("delivers a refund that nothing caused"),
                    Some(cause)
                        if item.status == OutboxStatus::Delivered && cause.status != ExceptionStatus::Refunded =>
                    {
                        say("delivered, but the money is not back");
                    }
                    Some(_) => {}
                }
            }
            self.told_of_assignments(&batch.rows).await?;
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}
