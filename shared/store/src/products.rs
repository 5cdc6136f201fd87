//! `shopProducts`: what is for sale.

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::{Fen, OrderId, ProductId, SkuId, TemplateId};
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use crate::collections::Definition;
use crate::migrate::is_current;
use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, date};

/// Products that one search looks at.
const LOOKED_AT_MAX: i64 = 1_000;
/// A category of more products than this is as good as one of so many.
const COUNTED_MAX: u64 = 1_000;
const CATEGORIES_MAX: usize = 200;

/// A variant of a product with its own price and stock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sku {
    pub sku_id: SkuId,
    pub name: String,
    pub price: Fen,
    #[serde(deserialize_with = "domain::money::whole")]
    pub stock: i64,
}

/// A reservation whose order is not settled in the book yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StockMarker {
    pub order_id: OrderId,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    /// The command that made it, so that a twin of the command can recognise it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    pub items: Vec<MarkerItem>,
}

/// Pieces of the product, or of one of its SKUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarkerItem {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<SkuId>,
    #[serde(deserialize_with = "domain::money::whole")]
    pub quantity: i64,
}

/// How a product may be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaleMode {
    /// Anyone may buy it.
    #[default]
    #[serde(rename = "shop")]
    Shop,
    /// Only with a right to buy that a draw gave.
    #[serde(rename = "lottery")]
    Lottery,
    /// Only for coins and points, in the points mall.
    #[serde(rename = "mall")]
    Mall,
}

/// A product. Amounts in fen; `stock` counts pieces and is 0 where the SKUs hold the stock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Product {
    #[serde(rename = "_id")]
    pub id: ProductId,
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub category: String,
    /// More words that a search finds it by.
    #[serde(default)]
    pub keywords: Vec<String>,
    #[serde(default)]
    pub images: Vec<String>,
    pub price: Fen,
    /// `onSale` or `offSale`.
    pub status: String,
    #[serde(deserialize_with = "domain::money::whole")]
    pub stock: i64,
    #[serde(default)]
    pub skus: Vec<Sku>,
    #[serde(default)]
    pub sale_mode: SaleMode,
    /// Points and coins that one piece costs in the points mall; both at least 1 there.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub points_price: i64,
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub coin_price: i64,
    #[serde(default)]
    pub grants_coin: bool,
    /// What sends it; none: sent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freight_template_id: Option<TemplateId>,
    /// Grams of one piece.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub weight_g: i64,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default)]
    pub stock_markers: Vec<StockMarker>,
    /// Grows by one with each batch of releases.
    #[serde(default)]
    pub release_version: i64,
    /// The orders whose pieces the newest batch gave back.
    #[serde(default)]
    pub last_released: Vec<OrderId>,
    /// The refunds whose pieces the newest batch gave back.
    #[serde(default)]
    pub last_refunded: Vec<String>,
}

impl Product {
    pub fn is_on_sale(&self) -> bool {
        self.status == "onSale"
    }

    /// Pieces that can be bought now, over all SKUs.
    pub fn available(&self) -> i64 {
        if self.skus.is_empty() {
            self.stock
        } else {
            self.skus.iter().fold(0i64, |sum, s| sum.saturating_add(s.stock))
        }
    }

    pub fn sku(&self, id: &SkuId) -> Option<&Sku> {
        self.skus.iter().find(|s| s.sku_id == *id)
    }
}

/// A product that a search may have found: what of it is compared with the query, which is much less than all of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Candidate {
    #[serde(rename = "_id")]
    pub id: ProductId,
    name: String,
    #[serde(default)]
    skus: Vec<Named>,
    #[serde(default)]
    category: String,
    #[serde(default)]
    keywords: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Named {
    name: String,
}

impl Candidate {
    /// What a search compares, in the order of its weight.
    pub fn search_fields(&self) -> Vec<&str> {
        let skus = self.skus.iter().map(|sku| sku.name.as_str());
        let words = self.keywords.iter().map(String::as_str);
        [self.name.as_str()].into_iter().chain(skus).chain([self.category.as_str()]).chain(words).collect()
    }

    fn fields() -> Document {
        doc! { "name": 1i32, "skus.name": 1i32, "category": 1i32, "keywords": 1i32 }
    }
}

/// The search tokens of a product, also of one that the shop cannot read otherwise.
pub(crate) fn search_tokens(product: &Document) -> Vec<String> {
    let text = |name: &str| product.get_str(name).unwrap_or_default();
    let list = |name: &str| product.get_array(name).map(Vec::as_slice).unwrap_or_default();
    let skus = list("skus").iter().filter_map(|sku| sku.as_document()?.get_str("name").ok());
    let words = list("keywords").iter().filter_map(bson::Bson::as_str);
    let fields: Vec<&str> = [text("name")].into_iter().chain(skus).chain([text("category")]).chain(words).collect();
    domain::search::document_tokens(&fields)
}

/// Nobody who has found a product needs what it was found by, which is most of it.
fn without_tokens() -> Document {
    doc! { "searchTokens": 0 }
}

/// Which products on sale a list wants.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub category: Option<String>,
    pub sale_mode: Option<SaleMode>,
    /// Leave out what is sold out.
    pub in_stock: bool,
    pub price_min: Option<Fen>,
    pub price_max: Option<Fen>,
}

impl Wanted {
    fn filter(&self) -> Document {
        let mut filter = doc! { "status": "onSale" };
        if let Some(category) = &self.category {
            filter.insert("category", category);
        }
        match self.sale_mode {
            None => {}
            // Products from before there were modes have none.
            Some(SaleMode::Shop) => {
                filter.insert("saleMode", doc! { "$in": ["shop", null] });
            }
            Some(SaleMode::Lottery) => {
                filter.insert("saleMode", "lottery");
            }
            Some(SaleMode::Mall) => {
                filter.insert("saleMode", "mall");
            }
        }
        let mut price = Document::new();
        if let Some(min) = self.price_min {
            price.insert("$gte", min.get());
        }
        if let Some(max) = self.price_max {
            price.insert("$lte", max.get());
        }
        if !price.is_empty() {
            filter.insert("price", price);
        }
        if self.in_stock {
            let some = doc! { "$or": [{ "stock": { "$gt": 0i64 } }, { "skus.stock": { "$gt": 0i64 } }] };
            filter.insert("$and", vec![some]);
        }
        filter
    }
}

impl Row for Product {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, self.id.as_str())
    }
}

impl Store {
    /// The products with these ids, in no order.
    pub async fn products_by_id(&self, ids: &[ProductId]) -> Result<Vec<Product>, Error> {
        let ids: Vec<&str> = ids.iter().map(ProductId::as_str).collect();
        let products = self.collection::<Product>("shopProducts").await?;
        let find = products.find(doc! { "_id": { "$in": ids } }).projection(without_tokens());
        Ok(find.await?.try_collect().await?)
    }

    pub async fn product(&self, id: &ProductId) -> Result<Option<Product>, Error> {
        let products = self.collection::<Product>("shopProducts").await?;
        Ok(products.find_one(doc! { "_id": id.as_str() }).projection(without_tokens()).await?)
    }

    /// Products of the points mall on sale, newest first.
    pub async fn mall_products(&self, page: &PageRequest) -> Result<Page<Product>, Error> {
        let filter = doc! { "status": "onSale", "saleMode": "mall" };
        self.page_without("shopProducts", Some(without_tokens()), filter, page).await
    }

    /// Products on sale, newest first.
    pub async fn products_on_sale(&self, wanted: &Wanted, page: &PageRequest) -> Result<Page<Product>, Error> {
        self.page_without("shopProducts", Some(without_tokens()), wanted.filter(), page).await
    }

    /// Products on sale by their price, then their id; `after` is where the page before ended.
    pub async fn products_by_price(
        &self,
        wanted: &Wanted,
        descending: bool,
        limit: usize,
        after: Option<&(Fen, ProductId)>,
    ) -> Result<Vec<Product>, Error> {
        let mut filter = wanted.filter();
        let (way, beyond) = if descending { (-1i32, "$lt") } else { (1i32, "$gt") };
        if let Some((price, id)) = after {
            let (price, id) = (price.get(), id.as_str());
            let further = doc! { "$or": [
                { "price": { beyond: price } },
                { "price": price, "_id": { beyond: id } },
            ] };
            filter.entry("$and").or_insert_with(|| bson::Bson::Array(Vec::new()));
            filter.get_array_mut("$and").map_err(|e| Error::Invariant(e.to_string()))?.push(further.into());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let products = self.collection::<Product>("shopProducts").await?;
        let find = products.find(filter).sort(doc! { "price": way, "_id": way }).limit(limit);
        Ok(find.projection(without_tokens()).await?.try_collect().await?)
    }

    /// The newest products on sale that have all these tokens, which are not none: `limit` at most, of the newest [`LOOKED_AT_MAX`]
    /// that have the rarest of them.
    ///
    /// One token is looked up in the index; the others are compared with what it finds. Without a bound two frequent words that
    /// seldom meet would cost as much as there are products.
    pub async fn products_with_tokens(
        &self,
        tokens: &[String],
        wanted: &Wanted,
        limit: i64,
    ) -> Result<Vec<Candidate>, Error> {
        let products = self.collection::<Candidate>("shopProducts").await?;
        let mut indexed = doc! { "status": "onSale" };
        if let Some(category) = &wanted.category {
            indexed.insert("category", category);
        }
        let mut rarest = tokens.first();
        if tokens.len() > 1 {
            let counts = tokens.iter().map(|token| {
                let mut filter = indexed.clone();
                filter.insert("searchTokens", token);
                products.count_documents(filter).limit(u64::try_from(limit).unwrap_or(u64::MAX)).into_future()
            });
            let counts = try_join_all(counts).await?;
            rarest = tokens.iter().zip(counts).min_by_key(|(_, count)| *count).map(|(token, _)| token);
        }
        indexed.insert("searchTokens", rarest);
        let newest = doc! { "createdAt": -1, "_id": -1 };
        let mut others = wanted.filter();
        others.remove("status");
        others.remove("category");
        if tokens.len() > 1 {
            others.insert("searchTokens", doc! { "$all": tokens });
        }
        if others.is_empty() {
            // The index has answered everything.
            let find = products.find(indexed).sort(newest).limit(limit).projection(Candidate::fields());
            return Ok(find.await?.try_collect().await?);
        }
        let stages = [
            doc! { "$match": indexed },
            doc! { "$sort": newest },
            doc! { "$limit": LOOKED_AT_MAX },
            doc! { "$match": others },
            doc! { "$limit": limit },
            doc! { "$project": Candidate::fields() },
        ];
        Ok(products.aggregate(stages).with_type::<Candidate>().await?.try_collect().await?)
    }

    /// The categories of products on sale in the order of their names, with how many there are of each, [`COUNTED_MAX`] at most.
    pub async fn categories(&self) -> Result<Vec<(String, i64)>, Error> {
        let products = self.collection::<Document>("shopProducts").await?;
        // Both walk along the index only, the first from one category to the next.
        let names = products.distinct("category", doc! { "status": "onSale" }).await?;
        let mut names: Vec<&str> = names.iter().filter_map(bson::Bson::as_str).filter(|n| !n.is_empty()).collect();
        names.sort_unstable();
        names.truncate(CATEGORIES_MAX);
        let counts = names.iter().map(|name| {
            let filter = doc! { "status": "onSale", "category": name };
            products.count_documents(filter).limit(COUNTED_MAX).into_future()
        });
        let counts = try_join_all(counts).await?;
        let row = |(name, count): (&str, u64)| (name.to_owned(), i64::try_from(count).unwrap_or(i64::MAX));
        Ok(names.into_iter().zip(counts).map(row).collect())
    }

    /// Writes the search tokens of products that have none; returns how many. Every writer of a product writes them: this is
    /// for those from before. Those of the old system get theirs when they are migrated.
    pub(crate) async fn backfill_search(&self, definition: &Definition) -> Result<u64, Error> {
        let products = self.collection::<Document>("shopProducts").await?;
        let mut after: Option<String> = None;
        let mut written = 0u64;
        loop {
            let from = after.as_deref().map_or_else(|| doc! { "$gt": "" }, |id| doc! { "$gt": id });
            let find = products.find(doc! { "_id": from }).sort(doc! { "_id": 1 }).limit(500);
            let batch: Vec<Document> = find.await?.try_collect().await?;
            let Some(last) = batch.last().and_then(|row| row.get_str("_id").ok()) else { return Ok(written) };
            after = Some(last.to_owned());
            let unsearchable = |row: &&Document| !row.contains_key("searchTokens") && is_current(definition, row);
            for row in batch.iter().filter(unsearchable) {
                let Ok(id) = row.get_str("_id") else { continue };
                let guard = doc! { "_id": id, "name": row.get("name"), "searchTokens": { "$exists": false } };
                let set = doc! { "$set": { "searchTokens": search_tokens(row) } };
                written = written.saturating_add(products.update_one(guard, set).await?.matched_count);
            }
        }
    }
}
