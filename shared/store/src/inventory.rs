//! Pieces that come in, go out or are counted by hand: the move on the product, its entry and its rows in `records`.

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::{Code, ProductId, Refusal, SkuId};
use serde::{Deserialize, Serialize};

use crate::book::{Entry, INVENTORY, Posting, stock_asset};
use crate::members::StockRecord;
use crate::page::{Page, PageRequest};
use crate::products::{MarkerItem, Product};
use crate::stock::{Move, stock_move};
use crate::{Error, Store, Tx, date};

/// `records.kind`: why somebody moved pieces by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    #[serde(rename = "in")]
    In,
    #[serde(rename = "out")]
    Out,
    /// Counted, and found to be another number.
    #[serde(rename = "count")]
    Count,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Count => "count",
        }
    }
}

/// A signed change of a product's pieces, or of one SKU's.
#[derive(Clone, Debug)]
pub struct StockMove {
    pub product_id: ProductId,
    pub sku_id: Option<SkuId>,
    pub change: i64,
}

/// A command with all its moves; goods are named once.
#[derive(Clone, Copy, Debug)]
pub struct Movement<'a> {
    /// `stock:{command}:{kind}`.
    pub entry_id: &'a str,
    pub kind: Kind,
    pub reason: &'a str,
    pub by: &'a str,
    pub moves: &'a [StockMove],
    pub now: DateTime<Utc>,
}

/// What a move made of a stock.
#[derive(Clone, Debug)]
pub struct Moved {
    pub product_id: ProductId,
    pub sku_id: Option<SkuId>,
    pub change: i64,
    pub stock: i64,
}

impl Store {
    /// Stock movements, newest first, optionally of one product.
    pub async fn stock_records(
        &self,
        product: Option<&ProductId>,
        page: &PageRequest,
    ) -> Result<Page<StockRecord>, Error> {
        let filter = product.map_or_else(Document::new, |id| doc! { "productId": id.as_str() });
        self.page("records", filter, page).await
    }

    /// Products on sale of which, or of one of whose SKUs, so many pieces or fewer are left; newest first.
    pub async fn low_products(&self, pieces: i64, page: &PageRequest) -> Result<Page<Product>, Error> {
        let few = doc! { "$lte": pieces };
        let low = doc! { "$or": [{ "skus": [], "stock": few.clone() }, { "skus.stock": few }] };
        self.page("shopProducts", doc! { "status": "onSale", "$and": [low] }, page).await
    }
}

impl Tx {
    /// Moves pieces, all or nothing, with their entry and rows; nothing is booked where nothing changes.
    ///
    /// `PRODUCT_NOT_FOUND`; `OUT_OF_STOCK` where more would go out than can be bought: what orders hold is not there to be taken.
    pub async fn move_stock(&mut self, movement: &Movement<'_>) -> Result<Vec<Moved>, Error> {
        let Movement { entry_id, kind, reason, by, moves, now } = *movement;
        let mut entry = Entry::new(entry_id, now);
        let (mut moved, mut records) = (Vec::with_capacity(moves.len()), Vec::new());
        for (line, one) in moves.iter().enumerate() {
            let stock = self.move_pieces(one).await?;
            let StockMove { product_id, sku_id, change } = one.clone();
            moved.push(Moved { product_id: product_id.clone(), sku_id: sku_id.clone(), change, stock });
            if change == 0 {
                continue;
            }
            let sku = sku_id.as_ref().map(SkuId::as_str);
            let other = Posting::system(INVENTORY, &stock_asset(product_id.as_str(), sku), change.saturating_neg());
            entry.postings.extend([Posting::stock(product_id.as_str(), sku, change), other]);
            records.push(StockRecord {
                id: format!("{entry_id}:{}", line.saturating_add(1)),
                record_type: if change > 0 { "in" } else { "out" }.to_owned(),
                product_id,
                sku_id,
                quantity: change.saturating_abs(),
                order_id: None,
                kind: Some(kind),
                reason: Some(reason.to_owned()),
                by: Some(by.to_owned()),
                entry_id: entry_id.to_owned(),
                created_at: now,
            });
        }
        if !records.is_empty() {
            self.post(&entry).await?;
            self.insert_stock_records(&records).await?;
        }
        Ok(moved)
    }

    /// The pieces that can be bought after the move.
    async fn move_pieces(&mut self, one: &StockMove) -> Result<i64, Error> {
        let id = one.product_id.as_str();
        let item = MarkerItem { sku_id: one.sku_id.clone(), quantity: one.change.saturating_abs() };
        let Move { guards, inc, array_filters } = stock_move(&[item], if one.change < 0 { -1 } else { 1 });
        let mut filter = doc! { "_id": id, "deletedAt": { "$exists": false } };
        // Pieces are where the SKUs are, and only there.
        match &one.sku_id {
            Some(sku) => filter.insert("skus.skuId", sku.as_str()),
            None => filter.insert("skus", Vec::<Document>::new()),
        };
        if !guards.is_empty() {
            filter.insert("$and", guards);
        }
        let products = self.collection::<Document>("shopProducts");
        let mut update = products.update_one(filter, doc! { "$inc": inc });
        if !array_filters.is_empty() {
            update = update.array_filters(array_filters);
        }
        let done = update.session(&mut self.session).await?.matched_count == 1;
        let product: Option<Product> = self.find_by_id("shopProducts", id).await?;
        let missing = || Refusal::new(Code::ProductNotFound).detail("productId", id);
        let product = product.ok_or_else(missing)?;
        let stock = match &one.sku_id {
            Some(sku) => product.sku(sku).map(|sku| sku.stock),
            None => product.skus.is_empty().then_some(product.stock),
        };
        let stock = stock.ok_or_else(missing)?;
        if done {
            return Ok(stock);
        }
        if one.change < 0 && stock.saturating_add(one.change) < 0 {
            return Err(Refusal::new(Code::OutOfStock).detail("productId", id).detail("available", stock).into());
        }
        Err(missing().into())
    }

    /// Takes a product off the shelf for good; again, it changes nothing. False if there is none.
    pub async fn delete_product(&mut self, id: &ProductId, now: DateTime<Utc>) -> Result<bool, Error> {
        let there = doc! { "_id": id.as_str(), "deletedAt": { "$exists": false } };
        let gone = doc! { "$set": { "status": "offSale", "deletedAt": date::bson(now) } };
        if self.update("shopProducts", there, gone).await? {
            return Ok(true);
        }
        Ok(self.find_by_id::<Document>("shopProducts", id.as_str()).await?.is_some())
    }
}
