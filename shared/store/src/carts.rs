//! `carts`: what members mean to buy. One document per member: a change reads it, decides, and replaces its lines, and of two
//! changes at once the later one sees the earlier one.

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::{Fen, ProductId, SkuId, UserId};
use serde::{Deserialize, Serialize};

use crate::{Error, Store, Tx, date};

const CARTS: &str = "carts";

/// One line. Goods are on one line only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CartLine {
    pub line_id: String,
    pub product_id: ProductId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<SkuId>,
    #[serde(deserialize_with = "domain::money::whole")]
    pub quantity: i64,
    pub selected: bool,
    /// Per piece, when it was last put in. Only ever compared, never charged.
    pub price: Fen,
    #[serde(with = "date")]
    pub added_at: DateTime<Utc>,
}

impl CartLine {
    /// `lineId` of these goods. No id holds a slash.
    pub fn key(product: &ProductId, sku: Option<&SkuId>) -> String {
        match sku {
            None => product.as_str().to_owned(),
            Some(sku) => format!("{}/{}", product.as_str(), sku.as_str()),
        }
    }
}

#[derive(Deserialize)]
struct Cart {
    lines: Vec<CartLine>,
}

impl Store {
    /// The lines of a member's cart, newest first.
    pub async fn cart(&self, user: &UserId) -> Result<Vec<CartLine>, Error> {
        let cart = self.collection::<Cart>(CARTS).await?.find_one(doc! { "_id": user.as_str() }).await?;
        Ok(cart.map(|cart| cart.lines).unwrap_or_default())
    }
}

impl Tx {
    /// The lines of a member's cart, newest first.
    pub async fn cart(&mut self, user: &UserId) -> Result<Vec<CartLine>, Error> {
        let cart: Option<Cart> = self.find_by_id(CARTS, user.as_str()).await?;
        Ok(cart.map(|cart| cart.lines).unwrap_or_default())
    }

    /// Replaces the lines of a member's cart.
    pub async fn write_cart(&mut self, user: &UserId, lines: &[CartLine], now: DateTime<Utc>) -> Result<(), Error> {
        let lines: Vec<Document> = lines.iter().map(bson::serialize_to_document).collect::<Result<_, _>>()?;
        let change = doc! {
            "$set": { "lines": lines, "updatedAt": date::bson(now) },
            "$setOnInsert": { "createdAt": date::bson(now) },
            "$inc": { "revision": 1i64 },
        };
        let carts = self.collection::<Document>(CARTS);
        let update = carts.update_one(doc! { "_id": user.as_str() }, change).upsert(true);
        update.session(&mut self.session).await?;
        Ok(())
    }
}
