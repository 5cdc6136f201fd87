//! Checks the invariants over the whole database, in batches, on one snapshot.
//!
//! | name | what must hold |
//! |---|---|
//! | `entry-balance` | every entry sums to zero per asset |
//! | `account-value` | a field account = the sum of its postings, counting reservations and releases that are under way |
//! | `account-negative` | no field account is below zero |
//! | `statement` | every statement row has its entry, and every entry its statement rows |
//! | `order-amounts` | an order's amounts and lines add up |
//! | `order-effects` | a paid order has each effect once, an unpaid one none, a closed one has everything given back |
//! | `payment` | a paid attempt belongs to an order paid by it; an exception is recorded |
//! | `outbox` | nothing waits beyond its limit without being dead; a refund has its cause |

use std::collections::{BTreeMap, HashMap};

use bson::{Bson, Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{OrderId, OrderStatus};
use futures_util::TryStreamExt;
use mongodb::ClientSession;
use mongodb::options::Hint;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::book::Entry;
use crate::collections::{Definition, definitions};
use crate::members::{PointsLog, StockRecord};
use crate::orders::Order;
use crate::outbox::{OutboxItem, OutboxStatus};
use crate::payments::{Payment, PaymentException, PaymentStatus};
use crate::products::Product;
use crate::stock::reserve_key;
use crate::{Error, Store};

const BATCH: usize = 500;

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
    report: AuditReport,
}

/// The keys of an order's entries.
fn key(order: &OrderId, reason: &str) -> String {
    format!("order:{order}:{reason}")
}

impl Store {
    /// Checks every invariant. Reads one snapshot, so it may run beside live traffic.
    pub async fn audit(&self, now: DateTime<Utc>) -> Result<AuditReport, Error> {
        let session = self.db().await?.client().start_session().snapshot(true).await?;
        let mut audit = Audit { store: self, session, now, report: AuditReport::default() };
        audit.entries().await?;
        audit.accounts().await?;
        audit.statements().await?;
        audit.orders().await?;
        audit.payments().await?;
        audit.outbox().await?;
        Ok(audit.report)
    }
}

impl Audit<'_> {
    fn violation(&mut self, invariant: &'static str, message: String, documents: Vec<String>) {
        self.report.violations.push(Violation { invariant, message, documents });
    }

    /// Up to [`BATCH`] documents after `after`, in `_id` order.
    async fn batch<T: DeserializeOwned + Send + Sync>(
        &mut self,
        name: &str,
        after: Option<&Bson>,
    ) -> Result<Vec<T>, Error> {
        let filter = after.map_or_else(|| doc! {}, |id| doc! { "_id": { "$gt": id.clone() } });
        let collection = self.store.collection::<T>(name).await?;
        let limit = i64::try_from(BATCH).unwrap_or(500);
        let find = collection.find(filter).hint(Hint::Keys(doc! { "_id": 1 })).sort(doc! { "_id": 1 }).limit(limit);
        let mut cursor = find.session(&mut self.session).await?;
        let rows: Vec<T> = cursor.stream(&mut self.session).try_collect().await?;
        let seen = self.report.checked.entry(name.to_owned()).or_default();
        *seen = seen.saturating_add(u64::try_from(rows.len()).unwrap_or(0));
        Ok(rows)
    }

    async fn by_ids<T: DeserializeOwned + Send + Sync>(
        &mut self,
        name: &str,
        field: &str,
        ids: Vec<String>,
    ) -> Result<Vec<T>, Error> {
        let collection = self.store.collection::<T>(name).await?;
        let mut cursor = collection.find(doc! { field: { "$in": ids } }).session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    async fn aggregate(&mut self, name: &str, pipeline: Vec<Document>) -> Result<Vec<Document>, Error> {
        let collection = self.store.collection::<Document>(name).await?;
        let run = collection.aggregate(pipeline).hint(Hint::Keys(doc! { "_id": 1 })).allow_disk_use(true);
        let mut cursor = run.session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    async fn entries(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Vec<Entry> = self.batch("ledger", after.as_ref()).await?;
            for entry in &batch {
                let mut sums: BTreeMap<&str, i128> = BTreeMap::new();
                for posting in &entry.postings {
                    let sum = sums.entry(&posting.asset).or_default();
                    *sum = sum.saturating_add(i128::from(posting.amount));
                }
                for (asset, sum) in sums.into_iter().filter(|(_, sum)| *sum != 0) {
                    self.violation(
                        "entry-balance",
                        format!("entry is off by {sum} {asset}"),
                        vec![format!("ledger/{}", entry.id)],
                    );
                }
            }
            let reversed: Vec<String> = batch.iter().filter_map(|e| e.reverses.clone()).collect();
            if !reversed.is_empty() {
                let originals: Vec<Entry> = self.by_ids("ledger", "_id", reversed.clone()).await?;
                for id in reversed.iter().filter(|id| !originals.iter().any(|e| e.id == **id)) {
                    self.violation(
                        "entry-balance",
                        "an entry reverses one that is not there".to_owned(),
                        vec![format!("ledger/{id}")],
                    );
                }
            }
            match batch.last() {
                Some(last) if batch.len() == BATCH => after = Some(Bson::String(last.id.clone())),
                _ => return Ok(()),
            }
        }
    }

    /// What the book says of each account of these documents.
    async fn account_sums(&mut self, accounts: Vec<String>) -> Result<HashMap<String, i64>, Error> {
        let collection = self.store.collection::<Document>("ledger").await?;
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
            .map(|r| (r.get_str("_id").unwrap_or_default().to_owned(), crate::book::number(&r, "sum")))
            .collect())
    }

    async fn accounts(&mut self) -> Result<(), Error> {
        for definition in definitions()?.into_iter().filter(|d| !d.accounts.is_empty()) {
            let mut after: Option<Bson> = None;
            loop {
                let batch: Vec<Document> = self.batch(&definition.name, after.as_ref()).await?;
                self.check_accounts(&definition, &batch).await?;
                match batch.last().and_then(|d| d.get("_id")) {
                    Some(last) if batch.len() == BATCH => after = Some(last.clone()),
                    _ => break,
                }
            }
        }
        Ok(())
    }

    async fn check_accounts(&mut self, definition: &Definition, batch: &[Document]) -> Result<(), Error> {
        let mut values = Vec::new();
        let mut corrections: HashMap<String, i64> = HashMap::new();
        for document in batch {
            let id = document.get_str("_id").unwrap_or_default();
            values.extend(definition.account_values(id, document).into_iter().map(|v| (id.to_owned(), v)));
            if definition.name == "shopProducts" {
                let product: Product = bson::deserialize_from_document(document.clone())?;
                self.stock_under_way(&product, &mut corrections).await?;
            }
        }
        let sums = self.account_sums(values.iter().map(|(_, v)| v.account.clone()).collect()).await?;
        for (id, value) in values {
            let posted = sums.get(&value.account).copied().unwrap_or(0);
            let expected = posted.saturating_add(corrections.get(&value.account).copied().unwrap_or(0));
            let document = format!("{}/{id}", definition.name);
            if value.value < 0 {
                self.violation(
                    "account-negative",
                    format!("{} is {}", value.account, value.value),
                    vec![document.clone()],
                );
            }
            if value.value != expected {
                let message = format!("{} is {}, the book says {expected}", value.account, value.value);
                self.violation("account-value", message, vec![document]);
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
            let account = crate::book::Posting::stock(product.id.as_str(), sku, 0).account;
            let sum = corrections.entry(account).or_default();
            *sum = sum.saturating_add(amount);
        };
        let keys = product.stock_markers.iter().map(|m| reserve_key(&m.order_id)).collect();
        let booked: Vec<Entry> =
            if product.stock_markers.is_empty() { Vec::new() } else { self.by_ids("ledger", "_id", keys).await? };
        for marker in &product.stock_markers {
            let key = reserve_key(&marker.order_id);
            if !booked.iter().any(|e| e.id == key && !e.void) {
                for item in &marker.items {
                    correct(item.sku_id.as_ref().map(|s| s.as_str()), item.quantity.saturating_neg());
                }
            }
        }
        let waiting: Vec<Order> = self.by_ids("orders", "stockRelease", vec![product.id.as_str().to_owned()]).await?;
        for order in waiting.iter().filter(|o| !product.last_released.contains(&o.id)) {
            for line in order.items.iter().filter(|l| l.product_id == product.id) {
                correct(line.sku_id.as_ref().map(|s| s.as_str()), line.quantity.saturating_neg());
            }
        }
        Ok(())
    }

    async fn statements(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Vec<PointsLog> = self.batch("member_points_log", after.as_ref()).await?;
            let entries: Vec<Entry> =
                self.by_ids("ledger", "_id", batch.iter().map(|r| r.entry_id.clone()).collect()).await?;
            for row in &batch {
                let account = crate::book::member_account(&row.user_id, "points");
                let posted = entries.iter().find(|e| e.id == row.entry_id).map(|e| {
                    e.postings.iter().filter(|p| p.account == account).fold(0i64, |s, p| s.saturating_add(p.amount))
                });
                if posted != Some(row.change) {
                    let message = format!("statement says {}, its entry {posted:?}", row.change);
                    self.violation("statement", message, vec![format!("member_points_log/{}", row.id)]);
                }
            }
            match batch.last() {
                Some(last) if batch.len() == BATCH => after = Some(Bson::String(last.id.clone())),
                _ => break,
            }
        }
        // The other way round: every entry on a member's points, openings aside, has its row.
        let missing = self
            .aggregate(
                "ledger",
                vec![
                    doc! { "$match": { "postings": { "$elemMatch": {
                        "account": { "$regex": "^member_user/.*#points$" }, "amount": { "$ne": 0i64 } } },
                        "_id": { "$not": { "$regex": "^opening:" } } } },
                    doc! { "$lookup": { "from": "member_points_log", "localField": "_id", "foreignField": "entryId", "as": "rows" } },
                    doc! { "$match": { "rows": { "$size": 0i32 } } },
                    doc! { "$project": { "_id": 1i32 } },
                ],
            )
            .await?;
        for row in missing {
            let id = row.get_str("_id").unwrap_or_default().to_owned();
            self.violation(
                "statement",
                "an entry on points has no statement row".to_owned(),
                vec![format!("ledger/{id}")],
            );
        }
        Ok(())
    }

    async fn orders(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Vec<Order> = self.batch("orders", after.as_ref()).await?;
            self.check_orders(&batch).await?;
            match batch.last() {
                Some(last) if batch.len() == BATCH => after = Some(Bson::String(last.id.as_str().to_owned())),
                _ => break,
            }
        }
        let orphans = self
            .aggregate(
                "ledger",
                vec![
                    doc! { "$match": { "_id": { "$regex": "^order:" }, "void": { "$ne": true } } },
                    doc! { "$lookup": { "from": "orders", "localField": "orderId", "foreignField": "_id", "as": "orders" } },
                    doc! { "$match": { "orders": { "$size": 0i32 } } },
                    doc! { "$project": { "_id": 1i32 } },
                ],
            )
            .await?;
        for row in orphans {
            let id = row.get_str("_id").unwrap_or_default().to_owned();
            self.violation("order-effects", "an entry belongs to no order".to_owned(), vec![format!("ledger/{id}")]);
        }
        Ok(())
    }

    async fn check_orders(&mut self, batch: &[Order]) -> Result<(), Error> {
        let ids: Vec<String> = batch.iter().map(|o| o.id.as_str().to_owned()).collect();
        let reasons = ["reserve", "reserve-reversal", "tender", "tender-reversal", "settle"];
        let keys = batch.iter().flat_map(|o| reasons.iter().map(|r| key(&o.id, r))).collect();
        let entries: Vec<Entry> = self.by_ids("ledger", "_id", keys).await?;
        let entries: HashMap<&str, &Entry> = entries.iter().map(|e| (e.id.as_str(), e)).collect();
        let payments: Vec<Payment> = self.by_ids("payments", "orderId", ids.clone()).await?;
        let records: Vec<StockRecord> = self.by_ids("records", "orderId", ids).await?;
        for order in batch {
            let here = vec![format!("orders/{}", order.id)];
            for message in amounts_off(order) {
                self.violation("order-amounts", message, here.clone());
            }
            let has = |reason: &str| entries.get(key(&order.id, reason).as_str()).is_some_and(|e| !e.void);
            let pieces = |entry: Option<&&Entry>, system: &str| {
                entry.map_or(0, |e| {
                    e.postings.iter().filter(|p| p.account == system).fold(0i64, |s, p| s.saturating_add(p.amount))
                })
            };
            let wanted = order.items.iter().fold(0i64, |s, l| s.saturating_add(l.quantity));
            let reserved = pieces(entries.get(reserve_key(&order.id).as_str()), crate::book::RESERVED);
            let tendered = order.points_used.get() > 0 || order.balance_amount.get() > 0;
            let paid_by: Vec<&Payment> =
                payments.iter().filter(|p| p.order_id == order.id && p.status == PaymentStatus::Paid).collect();
            let mut say = |what: &str| self.violation("order-effects", what.to_owned(), here.clone());
            if !has("reserve") || reserved != wanted {
                say("the reservation in the book is not what the lines say");
            }
            if has("tender") != tendered {
                say("points or balance taken do not match the book");
            }
            let closed = order.status == OrderStatus::Closed;
            if has("reserve-reversal") != closed || has("tender-reversal") != (closed && tendered) {
                say("what was given back does not match the state");
            }
            if has("settle") != order.status.is_paid() {
                say("settled in the book, but not paid, or the other way round");
            }
            if order.status.is_paid() && order.payment_amount.get() > 0 {
                let fits = paid_by.len() == 1
                    && paid_by
                        .iter()
                        .all(|p| p.transaction_id == order.transaction_id && p.amount == order.payment_amount);
                if !fits {
                    say("a paid order needs exactly one paid attempt with its amount and transaction");
                }
            } else if !paid_by.is_empty() {
                say("a paid attempt without a paid order");
            }
            let out = records.iter().filter(|r| r.order_id == order.id).count();
            if out != if order.status.is_paid() { order.items.len() } else { 0 } {
                say("stock records do not match the state");
            }
            if !order.stock_release.is_empty() && !closed {
                say("stock waits for release although the order is not closed");
            }
        }
        Ok(())
    }

    async fn payments(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Vec<Payment> = self.batch("payments", after.as_ref()).await?;
            let exceptions: Vec<PaymentException> = self
                .by_ids("paymentExceptions", "outTradeNo", batch.iter().map(|p| p.out_trade_no.clone()).collect())
                .await?;
            for payment in &batch {
                let here = vec![format!("payments/{}", payment.out_trade_no)];
                let recorded = exceptions.iter().any(|e| e.out_trade_no == payment.out_trade_no);
                if payment.status == PaymentStatus::Exception && !recorded {
                    self.violation("payment", "an exception is not recorded".to_owned(), here.clone());
                }
                if payment.status.is_open() != payment.next_query_at.is_some() {
                    self.violation(
                        "payment",
                        "an open attempt nobody will ask about, or a finished one still asked about".to_owned(),
                        here,
                    );
                }
            }
            match batch.last() {
                Some(last) if batch.len() == BATCH => after = Some(Bson::String(last.out_trade_no.clone())),
                _ => return Ok(()),
            }
        }
    }

    async fn outbox(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Vec<OutboxItem> = self.batch("outbox", after.as_ref()).await?;
            for item in &batch {
                if item.status == OutboxStatus::Pending && self.now - item.created_at > TimeDelta::days(14) {
                    self.violation(
                        "outbox",
                        "undelivered for two weeks and not dead".to_owned(),
                        vec![format!("outbox/{}", item.id)],
                    );
                }
            }
            match batch.last() {
                Some(last) if batch.len() == BATCH => after = Some(Bson::String(last.id.clone())),
                _ => return Ok(()),
            }
        }
    }
}

/// What does not add up in an order by itself.
fn amounts_off(order: &Order) -> Vec<String> {
    let sum = |f: fn(&crate::orders::OrderItem) -> i64| order.items.iter().fold(0i64, |s, l| s.saturating_add(f(l)));
    let mut off = Vec::new();
    let mut check = |what: &str, left: i64, right: i64| {
        if left != right {
            off.push(format!("{what}: {left} is not {right}"));
        }
    };
    let (total, discount) = (order.total_amount.get(), order.discount_amount.get());
    let tenders = order.balance_amount.get().saturating_add(order.payment_amount.get());
    check("total = discount + tenders", total, discount.saturating_add(tenders));
    check("total = sum of lines", total, sum(|l| l.amount.get()));
    check("discount = sum of lines", discount, sum(|l| l.points_discount.get()));
    check("tenders = sum of payable", tenders, sum(|l| l.payable.get()));
    for line in &order.items {
        check("line amount", line.amount.get(), line.price.get().saturating_mul(line.quantity));
        check("line payable", line.payable.get(), line.amount.get().saturating_sub(line.points_discount.get()));
    }
    off
}
