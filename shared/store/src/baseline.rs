//! The benchmark's yardstick: the statements of `submitOrder`, issued straight through the driver.
//!
//! No function uses it, so no function carries it. What it writes is a copy of what the function wrote, with its own ids; it
//! checks no rule and must never run on a shop's own database.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{OpenId, OrderId, ProductId, UserId};
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::options::{ReadConcern, WriteConcern};

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
