//! Stock without a hot row inside a transaction.
//!
//! *Reserve*: before the order's transaction, one guarded update per product takes the pieces and leaves a marker. The
//! transaction then books `order:{id}:reserve`; afterwards the marker is pulled. A marker that was left behind is settled by the
//! sweeper: its entry exists, so it is pulled; or it does not, so a *void* entry takes the key first (the order can never be
//! booked any more) and the pieces go back.
//!
//! *Release*: the closing transaction books the reversal and notes the product in the order's `stockRelease`. The pieces go back
//! in batches, one guarded update per product: it adds the pieces of all waiting orders, names them in `lastReleased` and raises
//! `releaseVersion`, which guards it. Whoever makes the next batch first clears the note of the orders in `lastReleased`; so each
//! order's pieces go back exactly once, whoever is killed or frozen where. Pieces of refunds go back in the same batches, with
//! `stockRelease` of the refund and `lastRefunded` of the product.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Code, OrderId, ProductId, Refusal, SkuId};
use futures_util::TryStreamExt;
use mongodb::options::{Hint, UpdateModifications, WriteConcern};
use serde::Deserialize;

use crate::book::{Entry, Posting, RESERVED};
use crate::orders::Order;
use crate::products::{MarkerItem, Product, StockMarker};
use crate::refunds::Refund;
use crate::{Error, Store, crashpoint, date, tx};

/// What an order wants of one product.
#[derive(Clone, Debug)]
pub struct Want {
    pub product: ProductId,
    pub items: Vec<MarkerItem>,
}

/// Groups lines by product, and the lines of one SKU into one.
pub fn wants(lines: impl IntoIterator<Item = (ProductId, Option<SkuId>, i64)>) -> Vec<Want> {
    let mut by_product: BTreeMap<ProductId, BTreeMap<Option<SkuId>, i64>> = BTreeMap::new();
    for (product, sku, quantity) in lines {
        let sum = by_product.entry(product).or_default().entry(sku).or_default();
        *sum = sum.saturating_add(quantity);
    }
    by_product
        .into_iter()
        .map(|(product, items)| Want {
            product,
            items: items.into_iter().map(|(sku_id, quantity)| MarkerItem { sku_id, quantity }).collect(),
        })
        .collect()
}

/// The key of the entry that books an order's reservation.
pub fn reserve_key(order: &OrderId) -> String {
    format!("order:{order}:reserve")
}

/// The entry that books a reservation: pieces leave the shelf and are held.
pub fn reserve_entry(order: &OrderId, wants: &[Want], now: DateTime<Utc>) -> Entry {
    let mut entry = Entry::new(reserve_key(order), now).order(order);
    for want in wants {
        for item in &want.items {
            let sku = item.sku_id.as_ref().map(SkuId::as_str);
            let posting = Posting::stock(want.product.as_str(), sku, item.quantity.saturating_neg());
            let held = Posting::system(RESERVED, &posting.asset, item.quantity);
            entry.postings.extend([posting, held]);
        }
    }
    entry
}

/// A guarded move of a product's stock fields: the filter's part, the `$inc`, and the array filters for SKUs.
pub(crate) struct Move {
    pub(crate) guards: Vec<Document>,
    pub(crate) inc: Document,
    pub(crate) array_filters: Vec<Document>,
}

pub(crate) fn stock_move(items: &[MarkerItem], sign: i64) -> Move {
    let mut result = Move { guards: Vec::new(), inc: Document::new(), array_filters: Vec::new() };
    for (i, item) in items.iter().enumerate() {
        let amount = item.quantity.saturating_mul(sign);
        match &item.sku_id {
            None => {
                if sign < 0 {
                    result.guards.push(doc! { "stock": { "$gte": item.quantity } });
                }
                result.inc.insert("stock", amount);
            }
            Some(sku) => {
                if sign < 0 {
                    let enough = doc! { "skuId": sku.as_str(), "stock": { "$gte": item.quantity } };
                    result.guards.push(doc! { "skus": { "$elemMatch": enough } });
                }
                result.inc.insert(format!("skus.$[s{i}].stock"), amount);
                result.array_filters.push(doc! { format!("s{i}.skuId"): sku.as_str() });
            }
        }
    }
    result
}

/// Why a product could not be reserved.
#[derive(Debug)]
pub enum Reserve {
    /// All pieces are held under the order's markers.
    Done,
    /// Nothing is held any more.
    Refused(Refusal),
    /// Nothing is held, but a twin of this command holds pieces: its outcome decides.
    Twin,
}

impl Store {
    async fn update_stock(
        &self,
        filter: Document,
        change: Document,
        array_filters: Vec<Document>,
    ) -> Result<bool, Error> {
        let products = self.collection::<Document>("shopProducts").await?;
        let mut update = products.update_one(filter, UpdateModifications::Document(change));
        if !array_filters.is_empty() {
            update = update.array_filters(array_filters);
        }
        Ok(update.await?.matched_count == 1)
    }

    /// Holds the pieces for an order that is about to be made: all or nothing.
    pub async fn reserve_stock(
        &self,
        order: &OrderId,
        request: Option<&str>,
        wants: &[Want],
        now: DateTime<Utc>,
    ) -> Result<Reserve, Error> {
        for (done, want) in wants.iter().enumerate() {
            let Move { guards, inc, array_filters } = stock_move(&want.items, -1);
            let marker = StockMarker {
                order_id: order.clone(),
                at: now,
                request: request.map(str::to_owned),
                items: want.items.clone(),
            };
            let filter = doc! {
                "_id": want.product.as_str(), "status": "onSale", "$and": guards,
                "stockMarkers.orderId": { "$ne": order.as_str() },
            };
            let change = doc! { "$inc": inc, "$push": { "stockMarkers": bson::serialize_to_document(&marker)? } };
            if self.update_stock(filter, change, array_filters).await? {
                crashpoint("submit.reservedOne").await;
                continue;
            }
            let held: Vec<ProductId> = wants.iter().take(done).map(|w| w.product.clone()).collect();
            if !held.is_empty() {
                self.undo_reservation(order, &held, now).await?;
            }
            return self.why_not(want, request).await;
        }
        Ok(Reserve::Done)
    }

    async fn why_not(&self, want: &Want, request: Option<&str>) -> Result<Reserve, Error> {
        let refusal = |code| Refusal::new(code).detail("productId", want.product.as_str());
        let Some(product) = self.product(&want.product).await?.filter(Product::is_on_sale) else {
            return Ok(Reserve::Refused(refusal(Code::ProductNotFound)));
        };
        if request.is_some() && product.stock_markers.iter().any(|m| m.request.as_deref() == request) {
            return Ok(Reserve::Twin);
        }
        let message = format!("「{}」库存不足", product.name);
        Ok(Reserve::Refused(refusal(Code::OutOfStock).with_message(message).detail("available", product.available())))
    }

    /// Gives back a reservation whose order was not made, unless it was made after all.
    ///
    /// Taking the reserve entry's key first decides between this and a transaction that is still under way.
    pub async fn undo_reservation(
        &self,
        order: &OrderId,
        products: &[ProductId],
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let key = reserve_key(order);
        let ledger = self.collection::<Entry>("ledger").await?;
        let void = Entry { void: true, ..Entry::new(key.clone(), now).order(order) };
        match ledger.insert_one(&void).await.map_err(Error::from) {
            Ok(_) => {}
            Err(Error::Duplicate { .. }) => {
                let existing = ledger.find_one(doc! { "_id": &key }).await?;
                if existing.is_some_and(|e| !e.void) {
                    return self.pull_markers(order, products).await;
                }
            }
            Err(error) => return Err(error),
        }
        crashpoint("submit.voided").await;
        for id in products {
            let Some(product) = self.product(id).await? else { continue };
            let Some(marker) = product.stock_markers.iter().find(|m| m.order_id == *order) else { continue };
            let Move { inc, array_filters, .. } = stock_move(&marker.items, 1);
            self.update_stock(
                doc! { "_id": id.as_str(), "stockMarkers.orderId": order.as_str() },
                doc! { "$inc": inc, "$pull": { "stockMarkers": { "orderId": order.as_str() } } },
                array_filters,
            )
            .await?;
        }
        Ok(())
    }

    /// Removes the markers of an order that is booked.
    pub async fn pull_markers(&self, order: &OrderId, products: &[ProductId]) -> Result<(), Error> {
        let collection = self.collection::<Document>("shopProducts").await?;
        for id in products {
            collection
                .update_one(
                    doc! { "_id": id.as_str(), "stockMarkers.orderId": order.as_str() },
                    doc! { "$pull": { "stockMarkers": { "orderId": order.as_str() } } },
                )
                // A pull that a failover forgets leaves a marker whose entry exists, which the sweeper pulls: no need to wait.
                .write_concern(WriteConcern::nodes(1))
                .await?;
        }
        Ok(())
    }

    /// Settles markers older than `age` that a killed process left behind; returns how many.
    pub async fn settle_markers(&self, age: TimeDelta, now: DateTime<Utc>) -> Result<u64, Error> {
        let cutoff = now - age;
        let stale: Vec<Product> = self
            .collection::<Product>("shopProducts")
            .await?
            .find(doc! { "stockMarkers.at": { "$lt": date::bson(cutoff) } })
            .limit(200)
            .await?
            .try_collect()
            .await?;
        let mut settled = 0u64;
        for product in stale {
            for marker in product.stock_markers.iter().filter(|m| m.at < cutoff) {
                self.undo_reservation(&marker.order_id, std::slice::from_ref(&product.id), now).await?;
                settled = settled.saturating_add(1);
            }
        }
        Ok(settled)
    }

    /// Puts the pieces of closed orders and of refunds back on the shelf of one product; returns of how many.
    pub async fn release_stock(&self, product_id: &ProductId) -> Result<u64, Error> {
        let orders = self.collection::<Order>("orders").await?;
        let refunds = self.collection::<Refund>("refunds").await?;
        let noted = doc! { "stockRelease": product_id.as_str() };
        let mut released = 0u64;
        for attempt in 0..200 {
            let Some(product) = self.product(product_id).await? else { return Ok(released) };
            let last: Vec<&str> = product.last_released.iter().map(OrderId::as_str).collect();
            self.clear_release("orders", &last, product_id).await?;
            let last: Vec<&str> = product.last_refunded.iter().map(String::as_str).collect();
            self.clear_release("refunds", &last, product_id).await?;
            crashpoint("release.cleared").await;
            let waiting: Vec<Order> = orders.find(noted.clone()).limit(100).await?.try_collect().await?;
            let refunded: Vec<Refund> = refunds.find(noted.clone()).limit(100).await?.try_collect().await?;
            let count = waiting.len().saturating_add(refunded.len());
            if count == 0 {
                return Ok(released);
            }
            let closed = waiting.iter().flat_map(|o| &o.items).map(|l| (&l.product_id, &l.sku_id, l.quantity));
            let given = refunded.iter().flat_map(|r| &r.items).map(|l| (&l.product_id, &l.sku_id, l.quantity));
            let lines = closed.chain(given).filter(|(product, _, _)| *product == product_id);
            let pieces = wants(lines.map(|(product, sku, quantity)| (product.clone(), sku.clone(), quantity)));
            let items = pieces.into_iter().next().map(|w| w.items).unwrap_or_default();
            let Move { inc, array_filters, .. } = stock_move(&items, 1);
            let mut inc = inc;
            inc.insert("releaseVersion", 1i64);
            let ids: Vec<&str> = waiting.iter().map(|o| o.id.as_str()).collect();
            let refund_ids: Vec<&str> = refunded.iter().map(|r| r.id.as_str()).collect();
            let mut guard = doc! { "_id": product_id.as_str(), "releaseVersion": product.release_version };
            if product.release_version == 0 {
                guard.insert("releaseVersion", doc! { "$in": [0i64, bson::Bson::Null] });
            }
            let change = doc! { "$inc": inc, "$set": { "lastReleased": ids, "lastRefunded": refund_ids } };
            if self.update_stock(guard, change, array_filters).await? {
                released = released.saturating_add(u64::try_from(count).unwrap_or(0));
                crashpoint("release.applied").await;
            } else {
                tokio::time::sleep(tx::backoff(attempt.min(5))).await;
            }
        }
        Ok(released)
    }

    /// Clears the note of those whose pieces the newest batch gave back.
    async fn clear_release(&self, collection: &str, ids: &[&str], product: &ProductId) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let documents = self.collection::<Document>(collection).await?;
        let noted = doc! { "_id": { "$in": ids }, "stockRelease": product.as_str() };
        documents.update_many(noted, doc! { "$pull": { "stockRelease": product.as_str() } }).await?;
        Ok(())
    }

    /// Releases whatever closed orders and refunds still hold, for the sweeper; returns of how many.
    pub async fn release_all_stock(&self) -> Result<u64, Error> {
        let mut products: BTreeSet<ProductId> = BTreeSet::new();
        for collection in ["orders", "refunds"] {
            let documents = self.collection::<Releasing>(collection).await?;
            let find = documents.find(doc! { "stockRelease": { "$gt": "" } });
            let find = find.hint(Hint::Name("stockRelease".to_owned())).projection(doc! { "stockRelease": 1 });
            let waiting: Vec<Releasing> = find.limit(500).await?.try_collect().await?;
            products.extend(waiting.into_iter().flat_map(|one| one.stock_release));
        }
        let mut released = 0u64;
        for product in products {
            released = released.saturating_add(self.release_stock(&product).await?);
        }
        Ok(released)
    }
}

/// A document with products whose pieces still have to go back.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Releasing {
    #[serde(default)]
    stock_release: Vec<ProductId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_sku_become_one_want() {
        let p = |s: &str| ProductId::parse(s).unwrap();
        let s = |s: &str| Some(SkuId::parse(s).unwrap());
        let wants = wants([(p("b"), None, 1), (p("a"), s("x"), 2), (p("a"), s("x"), 3), (p("a"), s("y"), 1)]);
        let flat: Vec<_> = wants
            .iter()
            .map(|w| (w.product.as_str(), w.items.iter().map(|i| i.quantity).collect::<Vec<_>>()))
            .collect();
        assert_eq!(flat, [("a", vec![5, 1]), ("b", vec![1])]);
    }
}
