//! Granting and ending rights to buy, with the pieces they hold.

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::{ProductId, SkuId};
use futures_util::TryStreamExt;

use crate::book::{Entry, Posting, QUALIFIED};
use crate::outbox::OutboxItem;
use crate::products::{MarkerItem, Product};
use crate::qualifications::Qualification;
use crate::stock::{Move, stock_move};
use crate::{Error, Store, Tx, date};

const RIGHTS: &str = "lotteryQualifications";

impl Qualification {
    /// The key of the entry that took its pieces off the shelf.
    pub fn grant_key(id: &str) -> String {
        format!("qualification:{id}:grant")
    }

    /// The key of the entry that put its pieces back.
    pub fn return_key(id: &str) -> String {
        format!("qualification:{id}:return")
    }

    /// The entry that takes its pieces off the shelf.
    pub fn grant_entry(&self) -> Entry {
        self.entry(Self::grant_key(&self.id), self.granted_at, self.quantity)
    }

    /// The entry that puts its pieces back on the shelf.
    pub fn return_entry(&self, now: DateTime<Utc>) -> Entry {
        self.entry(Self::return_key(&self.id), now, self.quantity.saturating_neg())
    }

    fn entry(&self, key: String, at: DateTime<Utc>, pieces: i64) -> Entry {
        let sku = self.sku_id.as_ref().map(SkuId::as_str);
        let shelf = Posting::stock(self.product_id.as_str(), sku, pieces.saturating_neg());
        let held = Posting::system(QUALIFIED, &shelf.asset, pieces);
        let mut entry = Entry::new(key, at).user(&self.user_id);
        entry.postings.extend([shelf, held]);
        entry
    }
}

impl Store {
    /// Rights whose time ran out, the longest waiting first, but for those of the rounds in `except`.
    pub async fn expired_rights(
        &self,
        except: &[String],
        now: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<Qualification>, Error> {
        let filter =
            doc! { "status": "active", "expireTime": { "$lte": date::bson(now) }, "roundId": { "$nin": except } };
        let rights = self.collection::<Qualification>(RIGHTS).await?;
        Ok(rights.find(filter).sort(doc! { "expireTime": 1 }).limit(limit).await?.try_collect().await?)
    }

    /// Whether a round has a right that may still be used.
    pub async fn has_active_rights(&self, round: &str) -> Result<bool, Error> {
        let rights = self.collection::<Qualification>(RIGHTS).await?;
        Ok(rights.find_one(doc! { "roundId": round, "status": "active" }).await?.is_some())
    }
}

impl Tx {
    /// Pieces on the shelf of a product or SKU; none when it is not there.
    pub async fn on_shelf(&mut self, product: &ProductId, sku: Option<&SkuId>) -> Result<i64, Error> {
        let found: Option<Product> = self.find_by_id("shopProducts", product.as_str()).await?;
        Ok(found.map_or(0, |p| match sku {
            Some(sku) => p.sku(sku).map_or(0, |s| s.stock),
            // Where there are SKUs they hold the stock.
            None if p.skus.is_empty() => p.stock,
            None => 0,
        }))
    }

    /// Moves pieces off (negative) or onto the shelf; false when there are not so many, or no such product. The entries are the caller's.
    pub async fn move_shelf(&mut self, product: &ProductId, sku: Option<&SkuId>, pieces: i64) -> Result<bool, Error> {
        if pieces == 0 {
            return Ok(true);
        }
        let items = [MarkerItem { sku_id: sku.cloned(), quantity: pieces.saturating_abs() }];
        let Move { guards, inc, array_filters } = stock_move(&items, pieces.signum());
        let mut filter = doc! { "_id": product.as_str() };
        if !guards.is_empty() {
            filter.insert("$and", guards);
        }
        let products = self.collection::<Document>("shopProducts");
        let mut update = products.update_one(filter, doc! { "$inc": inc });
        if !array_filters.is_empty() {
            update = update.array_filters(array_filters);
        }
        Ok(update.session(&mut self.session).await?.modified_count == 1)
    }

    /// Books entries that move nothing but stock, whose field [`Tx::move_shelf`] moves.
    pub async fn post_stock(&mut self, entries: &[Entry]) -> Result<(), Error> {
        for entry in entries {
            entry.check_balanced()?;
            if entry.postings.iter().any(|p| !p.asset.starts_with("stock:")) {
                return Err(Error::Invariant(format!("entry {} moves more than stock", entry.id)));
            }
        }
        self.insert_many("ledger", entries).await
    }

    pub async fn insert_rights(&mut self, rights: &[Qualification]) -> Result<(), Error> {
        self.insert_many(RIGHTS, rights).await
    }

    /// Ends a right that was not used in time; false when it was, or ended already.
    pub async fn expire_right(&mut self, id: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        self.update(
            RIGHTS,
            doc! { "_id": id, "status": "active", "expireTime": { "$lte": date::bson(now) } },
            doc! { "$set": { "status": "expired" } },
        )
        .await
    }

    /// Enqueues many items with the effect that causes them.
    pub async fn enqueue_all(&mut self, items: &[OutboxItem]) -> Result<(), Error> {
        self.insert_many("outbox", items).await
    }
}
