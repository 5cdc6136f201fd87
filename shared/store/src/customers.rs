//! `customers`: whom the CRM knows.

use bson::doc;
use chrono::{DateTime, Utc};
use domain::{CustomerId, OpenId, UserId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::members::Phone;
use crate::{Error, Store, Tx, date};

/// `customers.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CustomerStatus {
    #[serde(rename = "active")]
    Active,
    /// Its records, addresses and link went to `merged_into`.
    #[serde(rename = "merged")]
    Merged,
}

/// A customer of the CRM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Customer {
    #[serde(rename = "_id")]
    pub id: CustomerId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Phone>,
    pub status: CustomerStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<CustomerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked_user_id: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked_open_id: Option<OpenId>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub link_time: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

impl Customer {
    pub fn is_active(&self) -> bool {
        self.status == CustomerStatus::Active
    }
}

impl Store {
    pub async fn customer(&self, id: &CustomerId) -> Result<Option<Customer>, Error> {
        Ok(self.collection::<Customer>("customers").await?.find_one(doc! { "_id": id.as_str() }).await?)
    }

    /// The active customers with this phone, newest first.
    pub async fn customers_by_phone(&self, phone: &str) -> Result<Vec<Customer>, Error> {
        let customers = self.collection::<Customer>("customers").await?;
        let found =
            customers.find(doc! { "phone": phone, "status": "active" }).sort(doc! { "createdAt": -1 }).limit(100);
        Ok(found.await?.try_collect().await?)
    }
}

impl Tx {
    pub async fn customer(&mut self, id: &CustomerId) -> Result<Option<Customer>, Error> {
        self.find_by_id("customers", id.as_str()).await
    }
}
