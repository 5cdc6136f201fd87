//! `shopProducts`: what is for sale.

use bson::doc;
use chrono::{DateTime, Utc};
use domain::{Fen, OrderId, ProductId, SkuId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, date};

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

impl Row for Product {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, self.id.as_str())
    }
}

impl Store {
    /// The products with these ids, in no order.
    pub async fn products_by_id(&self, ids: &[ProductId]) -> Result<Vec<Product>, Error> {
        let ids: Vec<&str> = ids.iter().map(ProductId::as_str).collect();
        let found = self.collection::<Product>("shopProducts").await?.find(doc! { "_id": { "$in": ids } }).await?;
        Ok(found.try_collect().await?)
    }

    pub async fn product(&self, id: &ProductId) -> Result<Option<Product>, Error> {
        Ok(self.collection::<Product>("shopProducts").await?.find_one(doc! { "_id": id.as_str() }).await?)
    }

    /// Products of the points mall on sale, newest first.
    pub async fn mall_products(&self, page: &PageRequest) -> Result<Page<Product>, Error> {
        self.page("shopProducts", doc! { "status": "onSale", "saleMode": "mall" }, page).await
    }

    /// Products on sale, newest first, optionally of one category.
    pub async fn products_on_sale(&self, category: Option<&str>, page: &PageRequest) -> Result<Page<Product>, Error> {
        let mut filter = doc! { "status": "onSale" };
        if let Some(category) = category {
            filter.insert("category", category);
        }
        self.page("shopProducts", filter, page).await
    }
}
