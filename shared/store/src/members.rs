//! `member_user` and what members see of their points; `records`, the stock movements.

use std::collections::BTreeMap;

use bson::doc;
use chrono::{DateTime, Utc};
use domain::{CustomerId, Fen, OpenId, OrderId, Points, ProductId, SkuId, UserId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::inventory::Kind;
use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

/// A mini-program user. Amounts in fen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    #[serde(rename = "_id")]
    pub id: UserId,
    pub open_id: OpenId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub union_id: Option<String>,
    #[serde(default)]
    pub nick_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Phone>,
    pub points: Points,
    #[serde(deserialize_with = "domain::money::whole")]
    pub level: i64,
    pub balance: Fen,
    /// Net spend that has not earned a point yet.
    pub carry_fen: Fen,
    /// Coins of refunded orders that were spent before they could be taken back.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub coins_owed: i64,
    /// Points that refunded orders had earned and that were spent before they could be taken back.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub points_owed: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<CustomerId>,
    /// The address that orders go to unless another is chosen. It may be gone: who reads it looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_address_id: Option<String>,
    #[serde(default)]
    pub is_verified: bool,
    #[serde(default)]
    pub blocked: bool,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

/// A phone number that shows itself masked in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Phone(pub String);

impl std::fmt::Debug for Phone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&domain::text::mask_phone(&self.0))
    }
}

/// `member_points_log`: what a member reads of one change of their points. `_id` is the entry's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PointsLog {
    #[serde(rename = "_id")]
    pub id: String,
    pub user_id: UserId,
    pub open_id: OpenId,
    /// Signed.
    #[serde(deserialize_with = "domain::money::whole")]
    pub change: i64,
    /// Points after the change.
    #[serde(deserialize_with = "domain::money::whole")]
    pub points: i64,
    /// `earn`, `spend` or `return`.
    #[serde(rename = "type")]
    pub log_type: String,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    pub entry_id: String,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

impl Row for PointsLog {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

/// `records`: pieces that went out with a paid order, came back with a points-mall order that was cancelled, or were moved by
/// hand. `_id` = `{entry}:{line}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StockRecord {
    #[serde(rename = "_id")]
    pub id: String,
    /// `out` or `in`
    #[serde(rename = "type")]
    pub record_type: String,
    pub product_id: ProductId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<SkuId>,
    #[serde(deserialize_with = "domain::money::whole")]
    pub quantity: i64,
    /// None where they were moved by hand: then the next three are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A service key's or a staff member's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub entry_id: String,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

impl Row for StockRecord {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

/// As much of a member as tells whether they may take part.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    #[serde(rename = "_id")]
    pub user_id: UserId,
    open_id: OpenId,
    #[serde(default)]
    pub blocked: bool,
}

impl Store {
    /// The standing of the members among these openids.
    pub async fn standings(&self, open_ids: &[OpenId]) -> Result<BTreeMap<OpenId, Standing>, Error> {
        let ids: Vec<&str> = open_ids.iter().map(OpenId::as_str).collect();
        let members = self.collection::<Standing>("member_user").await?;
        let found = members.find(doc! { "openId": { "$in": ids } }).projection(doc! { "openId": 1, "blocked": 1 });
        found.await?.map_ok(|m| (m.open_id.clone(), m)).map_err(Error::from).try_collect().await
    }

    pub async fn member_by_open_id(&self, open_id: &OpenId) -> Result<Option<Member>, Error> {
        Ok(self.collection::<Member>("member_user").await?.find_one(doc! { "openId": open_id.as_str() }).await?)
    }

    pub async fn member(&self, id: &UserId) -> Result<Option<Member>, Error> {
        Ok(self.collection::<Member>("member_user").await?.find_one(doc! { "_id": id.as_str() }).await?)
    }

    /// Creates a member; `Duplicate` if the openid is known.
    pub async fn insert_member(&self, member: &Member) -> Result<(), Error> {
        self.collection::<Member>("member_user").await?.insert_one(member).await?;
        Ok(())
    }

    /// Sets what WeChat told us of a known member.
    pub async fn update_member_contact(
        &self,
        id: &UserId,
        union_id: Option<&str>,
        phone: Option<&str>,
    ) -> Result<(), Error> {
        let mut set = doc! {};
        if let Some(union_id) = union_id {
            set.insert("unionId", union_id);
        }
        if let Some(phone) = phone {
            set.insert("phone", phone);
        }
        if !set.is_empty() {
            let members = self.collection::<Member>("member_user").await?;
            members.update_one(doc! { "_id": id.as_str() }, doc! { "$set": set }).await?;
        }
        Ok(())
    }

    /// A member's points statement, newest first.
    pub async fn points_log(&self, user: &UserId, page: &PageRequest) -> Result<Page<PointsLog>, Error> {
        self.page("member_points_log", doc! { "userId": user.as_str() }, page).await
    }
}

impl Tx {
    pub async fn member(&mut self, id: &UserId) -> Result<Option<Member>, Error> {
        self.find_by_id("member_user", id.as_str()).await
    }

    /// Those of these members who owe coins.
    pub async fn members_owing_coins(&mut self, ids: &[&UserId]) -> Result<Vec<Member>, Error> {
        let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        let owing = doc! { "_id": { "$in": ids }, "coinsOwed": { "$gt": 0i64 } };
        let members = self.collection::<Member>("member_user");
        let mut cursor = members.find(owing).session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    /// Makes sure that a member has the field of the points that they owe; members from before it lack it.
    pub async fn open_points_owed(&mut self, user: &UserId) -> Result<(), Error> {
        let missing = doc! { "_id": user.as_str(), "pointsOwed": { "$exists": false } };
        self.update("member_user", missing, doc! { "$set": { "pointsOwed": 0i64 } }).await?;
        Ok(())
    }

    pub async fn points_log(&mut self, id: &str) -> Result<Option<PointsLog>, Error> {
        self.find_by_id("member_points_log", id).await
    }

    pub async fn insert_points_log(&mut self, log: &PointsLog) -> Result<(), Error> {
        self.insert("member_points_log", log).await
    }

    pub async fn insert_stock_records(&mut self, records: &[StockRecord]) -> Result<(), Error> {
        self.insert_many("records", records).await
    }
}
