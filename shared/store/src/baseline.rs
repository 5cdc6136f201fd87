//! The benchmark's yardsticks: the statements of functions, issued straight through the driver; and what it works on, in bulk.
//!
//! No function uses it, so no function carries it. What it writes is a copy of what the function wrote, with its own ids; it
//! checks no rule and must never run on a shop's own database.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Fen, OpenId, OrderId, OrderStatus, OrderType, ProductId, UserId};
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::options::{ReadConcern, WriteConcern};
use serde::Serialize;

use crate::book::{COINS_EXPIRED, COINS_ISSUED, Entry, number};
use crate::coins::{self, CoinLot, CoinRecord, CoinRecordType};
use crate::lottery::Ticket;
use crate::payments::{Payment, PaymentStatus};
use crate::products::{SaleMode, search_tokens};
use crate::stock::reserve_key;
use crate::{CommandKey, Error, Store, date};

/// An order that the function made, to be copied.
#[derive(Clone, Debug)]
pub struct Sample {
    pub product: ProductId,
    pub order: OrderId,
    pub key: CommandKey,
}

/// Whose order it is.
#[derive(Clone, Copy, Debug)]
pub struct Buyer<'a> {
    pub user: &'a UserId,
    pub open_id: &'a OpenId,
}

struct Template {
    product: ProductId,
    order: Document,
    entry: Document,
    request: Document,
}

/// Makes orders without the function. Ready to share between clients.
pub struct Yardstick {
    target: Database,
    templates: Vec<Template>,
}

impl Yardstick {
    /// Reads the samples in `source` and will write copies of them to `target`, over the connections of `target`.
    pub async fn copy(source: &Store, target: &Store, samples: &[Sample]) -> Result<Self, Error> {
        let from = source.db().await?;
        let find = async |collection: &str, id: &str| {
            let found = from.collection::<Document>(collection).find_one(doc! { "_id": id }).await?;
            found.ok_or_else(|| Error::Invariant(format!("the sample {collection}/{id} is missing")))
        };
        let mut templates = Vec::new();
        for sample in samples {
            templates.push(Template {
                product: sample.product.clone(),
                order: find("orders", sample.order.as_str()).await?,
                entry: find("ledger", &reserve_key(&sample.order)).await?,
                request: find("requests", sample.key.id()).await?,
            });
        }
        Ok(Self { target: target.db().await?.clone(), templates })
    }

    /// Issues the statements of one new order of one piece, a copy of sample number `sample`, in the function's order:
    /// look for the key, the member and the product; hold the piece; entry, order and key in one transaction; clear the marker.
    pub async fn submit(
        &self,
        sample: usize,
        buyer: Buyer<'_>,
        key: &CommandKey,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let template = self.templates.get(sample).ok_or_else(|| missing("sample"))?;
        let collection = |name: &str| self.target.collection::<Document>(name);
        let product = template.product.as_str();
        let products = collection("shopProducts");

        if collection("requests").find_one(doc! { "_id": key.id() }).await?.is_some() {
            return Err(Error::Invariant("the key was used before".to_owned()));
        }
        collection("member_user")
            .find_one(doc! { "openId": buyer.open_id.as_str() })
            .await?
            .ok_or_else(|| missing("member"))?;
        let found: Vec<Document> = products.find(doc! { "_id": { "$in": [product] } }).await?.try_collect().await?;
        if found.is_empty() {
            return Err(missing("product"));
        }

        let id = OrderId::generate(now, rand::random());
        let marker = doc! {
            "orderId": id.as_str(), "at": date::bson(now), "request": key.id(), "items": [{ "quantity": 1i64 }],
        };
        let held = products
            .update_one(
                doc! {
                    "_id": product, "status": "onSale", "$and": [{ "stock": { "$gte": 1i64 } }],
                    "stockMarkers.orderId": { "$ne": id.as_str() },
                },
                doc! { "$inc": { "stock": -1i64 }, "$push": { "stockMarkers": marker } },
            )
            .await?;
        if held.matched_count != 1 {
            return Err(missing("stock"));
        }

        let (mut order, mut entry, mut request) =
            (template.order.clone(), template.entry.clone(), template.request.clone());
        let until = |hours| date::bson(now + TimeDelta::hours(hours));
        order.extend(doc! {
            "_id": id.as_str(), "userId": buyer.user.as_str(), "openId": buyer.open_id.as_str(),
            "createdAt": date::bson(now), "expireTime": until(1),
        });
        entry.extend(doc! { "_id": reserve_key(&id), "orderId": id.as_str(), "at": date::bson(now) });
        request.extend(doc! { "_id": key.id(), "createdAt": date::bson(now), "expiresAt": until(24 * 30) });
        let mut session = self.target.client().start_session().await?;
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(WriteConcern::majority())
            .await?;
        collection("ledger").insert_one(entry).session(&mut session).await?;
        collection("orders").insert_one(order).session(&mut session).await?;
        collection("requests").insert_one(request).session(&mut session).await?;
        session.commit_transaction().await?;

        products
            .update_one(
                doc! { "_id": product, "stockMarkers.orderId": id.as_str() },
                doc! { "$pull": { "stockMarkers": { "orderId": id.as_str() } } },
            )
            .write_concern(WriteConcern::nodes(1))
            .await?;
        Ok(())
    }
}

fn missing(what: &str) -> Error {
    Error::Invariant(format!("no {what} for the yardstick"))
}

/// How often the server ran each of the commands that a function sends, and the bytes it read, since it started.
pub async fn server_counts(store: &Store) -> Result<BTreeMap<&'static str, i64>, Error> {
    let status = store.db().await?.run_command(doc! { "serverStatus": 1 }).await?;
    let at = |path: &[&str]| -> i64 {
        let mut here = Some(&status);
        let (last, folders) = path.split_last().unwrap_or((&"", &[]));
        for name in folders {
            here = here.and_then(|d| d.get_document(name).ok());
        }
        match here.and_then(|d| d.get(last)) {
            Some(Bson::Int64(n)) => *n,
            Some(Bson::Int32(n)) => i64::from(*n),
            _ => 0,
        }
    };
    let mut counts: BTreeMap<&'static str, i64> =
        ["find", "insert", "update", "findAndModify", "commitTransaction", "abortTransaction"]
            .into_iter()
            .map(|name| (name, at(&["metrics", "commands", name, "total"])))
            .collect();
    counts.insert("bytesIn", at(&["network", "bytesIn"]));
    Ok(counts)
}

/// Documents per bulk insert.
const BULK: usize = 5_000;

/// Inserts many documents at once, in any order.
async fn insert_bulk<T: Serialize + Send + Sync>(
    store: &Store,
    collection: &str,
    documents: &[T],
) -> Result<(), Error> {
    let target = store.collection::<T>(collection).await?;
    for some in documents.chunks(BULK) {
        target.insert_many(some).ordered(false).await?;
    }
    Ok(())
}

/// Signs many people in at once: members with nothing but their openid.
pub async fn insert_members(store: &Store, members: &[(UserId, OpenId)], now: DateTime<Utc>) -> Result<(), Error> {
    let document = |(id, open_id): &(UserId, OpenId)| {
        doc! {
            "_id": id.as_str(), "openId": open_id.as_str(), "nickName": "", "points": 0i64, "level": 1i64, "balance": 0i64,
            "carryFen": 0i64, "coinsOwed": 0i64, "isVerified": false, "blocked": false, "createdAt": date::bson(now),
        }
    };
    let documents: Vec<Document> = members.iter().map(document).collect();
    insert_bulk(store, "member_user", &documents).await
}

/// Signs many people up at once.
pub async fn insert_tickets(store: &Store, tickets: &[Ticket]) -> Result<(), Error> {
    insert_bulk(store, "lotteryTickets", tickets).await
}

/// Grants many full lots at once, each with its entry and its statement row.
pub async fn insert_lots(store: &Store, lots: &[CoinLot]) -> Result<(), Error> {
    let (mut entries, mut rows) = (Vec::new(), Vec::new());
    for lot in lots {
        let entry = Entry::new(format!("coins:{}:grant", lot.id), lot.granted_at).user(&lot.user_id).transfer(
            coins::ASSET,
            COINS_ISSUED,
            &CoinLot::account(&lot.id),
            lot.granted,
        );
        rows.push(coin_row(lot, CoinRecordType::Earn, lot.granted, &entry.id, lot.granted_at));
        entries.push(entry);
    }
    insert_bulk(store, "ledger", &entries).await?;
    insert_bulk(store, "activityCoinRecords", &rows).await?;
    insert_bulk(store, "activityCoinLots", lots).await
}

fn coin_row(lot: &CoinLot, record_type: CoinRecordType, change: i64, entry: &str, at: DateTime<Utc>) -> CoinRecord {
    CoinRecord {
        id: CoinRecord::key(entry, &lot.id),
        user_id: lot.user_id.clone(),
        lot_id: lot.id.clone(),
        record_type,
        change,
        entry_id: entry.to_owned(),
        order_id: None,
        created_at: at,
    }
}

/// The yardstick of the write-off: the same documents found, changed and inserted in bulk, without a transaction.
pub async fn write_off(store: &Store, limit: i64, now: DateTime<Utc>) -> Result<usize, Error> {
    let collection = store.collection::<CoinLot>("activityCoinLots").await?;
    let over = doc! { "remaining": { "$gt": 0i64 }, "expiresAt": { "$lte": date::bson(now) } };
    let find = collection.find(over).sort(doc! { "expiresAt": 1, "_id": 1 }).limit(limit);
    let lots: Vec<CoinLot> = find.await?.try_collect().await?;
    let ids: Vec<&str> = lots.iter().map(|l| l.id.as_str()).collect();
    let change = vec![doc! { "$set": {
        "expired": { "$add": ["$expired", "$remaining"] }, "sweeps": { "$add": ["$sweeps", 1i64] }, "remaining": 0i64,
    } }];
    collection.update_many(doc! { "_id": { "$in": ids } }, change).await?;
    let (mut entries, mut rows) = (Vec::new(), Vec::new());
    for lot in &lots {
        let key = coins::expire_key(&lot.id, lot.sweeps.saturating_add(1));
        rows.push(coin_row(lot, CoinRecordType::Expire, lot.remaining.saturating_neg(), &key, now));
        let account = CoinLot::account(&lot.id);
        entries.push(Entry::new(key, now).user(&lot.user_id).transfer(
            coins::ASSET,
            &account,
            COINS_EXPIRED,
            lot.remaining,
        ));
    }
    if !lots.is_empty() {
        insert_bulk(store, "ledger", &entries).await?;
        insert_bulk(store, "activityCoinRecords", &rows).await?;
    }
    Ok(lots.len())
}

/// Whether a lot holds nothing any more.
pub async fn is_written_off(store: &Store, lot: &str) -> Result<bool, Error> {
    let lots = store.collection::<Document>("activityCoinLots").await?;
    Ok(lots.find_one(doc! { "_id": lot, "remaining": 0i64 }).await?.is_some())
}

/// What a write-off of all lots left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteOff {
    pub lots: u64,
    /// Lots that were written off once, whole, and hold nothing.
    pub once: u64,
    /// Entries that wrote a lot off for the first time, and for any later one.
    pub entries: u64,
    pub entries_again: u64,
    /// Statement rows of write-offs.
    pub rows: u64,
}

impl WriteOff {
    pub async fn count(store: &Store) -> Result<Self, Error> {
        let count = async |collection: &str, filter: Document| -> Result<u64, Error> {
            let pipeline = vec![doc! { "$match": filter }, doc! { "$count": "n" }];
            let target = store.collection::<Document>(collection).await?;
            let found: Vec<Document> = target.aggregate(pipeline).await?.try_collect().await?;
            Ok(found.first().map_or(0, |d| number(d, "n")).unsigned_abs())
        };
        let every = || doc! { "_id": { "$gte": "" } };
        let once = doc! {
            "_id": { "$gte": "" }, "remaining": 0i64, "sweeps": 1i64, "revoked": 0i64,
            "$expr": { "$eq": ["$expired", "$granted"] },
        };
        let keys = |end: &str| doc! { "_id": { "$gte": "coins:", "$lt": "coins;", "$regex": end } };
        Ok(Self {
            lots: count("activityCoinLots", every()).await?,
            once: count("activityCoinLots", once).await?,
            entries: count("ledger", keys(":expire-1$")).await?,
            entries_again: count("ledger", keys(":expire-([2-9]|1.)")).await?,
            rows: count("activityCoinRecords", doc! { "_id": { "$gte": "" }, "type": "expire" }).await?,
        })
    }
}

/// A product for a long list of them.
#[derive(Clone, Debug)]
pub struct Goods {
    pub id: ProductId,
    pub name: String,
    pub category: String,
    pub keyword: String,
    pub price: Fen,
    pub stock: i64,
    pub sale_mode: SaleMode,
    pub created_at: DateTime<Utc>,
}

/// Puts many products on sale at once. The book knows nothing of their pieces.
pub async fn insert_products(store: &Store, goods: &[Goods]) -> Result<(), Error> {
    let mut documents = Vec::with_capacity(goods.len());
    for one in goods {
        let mut document = doc! {
            "_id": one.id.as_str(), "name": &one.name, "description": "产地直发，坏果包赔；收到请尽快放入冰箱。",
            "category": &one.category, "keywords": [&one.keyword], "images": ["https://img.example.com/goods.jpg"],
            "price": one.price.get(), "status": "onSale", "stock": one.stock, "skus": [], "grantsCoin": false,
            "saleMode": bson::serialize_to_bson(&one.sale_mode)?, "createdAt": date::bson(one.created_at),
        };
        if one.sale_mode == SaleMode::Mall {
            document.extend(doc! { "pointsPrice": 5i64, "coinPrice": 1i64 });
        }
        document.insert("searchTokens", search_tokens(&document));
        documents.push(document);
    }
    insert_bulk(store, "shopProducts", &documents).await
}

/// An order of the past, to be copied from a sample.
#[derive(Clone, Debug)]
pub struct Past<'a> {
    pub buyer: Buyer<'a>,
    pub at: DateTime<Utc>,
    pub status: OrderStatus,
    pub order_type: OrderType,
}

/// Copies the sample into an order for each of `pasts`, all but closed ones paid by one attempt; returns their numbers. The book
/// knows nothing of them.
pub async fn copy_orders(store: &Store, sample: &OrderId, pasts: &[Past<'_>]) -> Result<Vec<OrderId>, Error> {
    let orders = store.collection::<Document>("orders").await?;
    let sample = orders.find_one(doc! { "_id": sample.as_str() }).await?.ok_or_else(|| missing("sample"))?;
    let (mut ids, mut copies, mut payments) = (Vec::new(), Vec::new(), Vec::new());
    for past in pasts {
        let id = OrderId::generate(past.at, rand::random());
        let mut order = sample.clone();
        order.extend(doc! {
            "_id": id.as_str(), "userId": past.buyer.user.as_str(), "openId": past.buyer.open_id.as_str(),
            "status": past.status.as_str(), "type": past.order_type.as_str(), "createdAt": date::bson(past.at),
            "expireTime": date::bson(past.at + TimeDelta::minutes(30)), "paymentAttempts": 1i64,
        });
        if past.status.is_paid() {
            order.insert("paidAt", date::bson(past.at));
        }
        if matches!(past.status, OrderStatus::Shipped | OrderStatus::Completed) {
            let shipping = doc! {
                "logistics": "express", "expressCompany": "SF", "trackingNo": id.as_str(), "shippedAt": date::bson(past.at),
                "by": "staff:bench", "reported": true,
            };
            order.insert("shipping", shipping);
        }
        if past.status == OrderStatus::Closed {
            order.extend(doc! { "closedAt": date::bson(past.at), "closeReason": "超时未支付" });
        }
        copies.push(order);
        let paid = past.status.is_paid();
        payments.push(Payment {
            out_trade_no: id.as_str().to_owned(),
            order_id: id.clone(),
            user_id: past.buyer.user.clone(),
            open_id: past.buyer.open_id.clone(),
            attempt: 1,
            amount: Fen::new(sample.get_i64("paymentAmount").unwrap_or(1)).unwrap_or_default(),
            status: match past.status {
                OrderStatus::PendingPayment => PaymentStatus::Prepaid,
                OrderStatus::Closed => PaymentStatus::Closed,
                _ => PaymentStatus::Paid,
            },
            request: "x".repeat(400),
            prepay_id: Some(format!("wx{id}")),
            prepay_at: Some(past.at),
            transaction_id: paid.then(|| format!("4200{id}")),
            paid_at: paid.then_some(past.at),
            success_at: paid.then_some(past.at),
            created_at: past.at,
            next_query_at: None,
            queries: 0,
            bill_day: None,
        });
        ids.push(id);
    }
    insert_bulk(store, "orders", &copies).await?;
    insert_bulk(store, "payments", &payments).await?;
    Ok(ids)
}

/// Random bytes for a ticket that nobody signed up with.
pub fn random_bytes() -> [u8; 16] {
    rand::random()
}
