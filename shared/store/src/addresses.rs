//! `customerAddresses`: where goods may go. Members keep their own (`userId`); the CRM knows those of its customers
//! (`customerId`), which a linked member may use but not change.
//!
//! Which one is the default stands in the member's document, so there is never more than one.

use bson::{Bson, doc};
use chrono::{DateTime, Utc};
use domain::{CustomerId, UserId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::members::Member;
use crate::orders::Address;
use crate::{Error, Store, Tx, date};

const ADDRESSES: &str = "customerAddresses";

/// So many of a linked customer's addresses are shown.
const CUSTOMERS_SHOWN: i64 = 80;

/// One address. The CRM's may lack fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedAddress {
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<CustomerId>,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub phone: String,
    #[serde(default)]
    pub province: String,
    #[serde(default)]
    pub city: String,
    #[serde(default)]
    pub district: String,
    #[serde(default)]
    pub detail: String,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<DateTime<Utc>>,
}

impl SavedAddress {
    /// A member's own.
    pub fn of_member(id: String, user: &UserId, address: Address, now: DateTime<Utc>) -> Self {
        let Address { name, phone, province, city, district, detail } = address;
        let (user_id, customer_id) = (Some(user.clone()), None);
        Self {
            id,
            user_id,
            customer_id,
            name,
            phone,
            province,
            city,
            district,
            detail,
            created_at: now,
            updated_at: None,
        }
    }

    pub fn is_own(&self, user: &UserId) -> bool {
        self.user_id.as_ref() == Some(user)
    }

    /// Whether this member may send goods there.
    pub fn is_visible_to(&self, member: &Member) -> bool {
        let customers = member.customer_id.is_some() && self.customer_id == member.customer_id;
        self.is_own(&member.id) || (self.user_id.is_none() && customers)
    }

    /// As an order keeps it.
    pub fn address(&self) -> Address {
        Address {
            name: self.name.clone(),
            phone: self.phone.clone(),
            province: self.province.clone(),
            city: self.city.clone(),
            district: self.district.clone(),
            detail: self.detail.clone(),
        }
    }
}

impl Store {
    pub async fn address(&self, id: &str) -> Result<Option<SavedAddress>, Error> {
        Ok(self.collection::<SavedAddress>(ADDRESSES).await?.find_one(doc! { "_id": id }).await?)
    }

    /// A member's own addresses, newest first, then those of the customer that they are linked to.
    pub async fn addresses(&self, member: &Member) -> Result<Vec<SavedAddress>, Error> {
        let rows = self.collection::<SavedAddress>(ADDRESSES).await?;
        let newest = doc! { "createdAt": -1, "_id": -1 };
        let own = rows.find(doc! { "userId": member.id.as_str() }).sort(newest.clone()).await?;
        let mut all: Vec<SavedAddress> = own.try_collect().await?;
        if let Some(customer) = &member.customer_id {
            let theirs = doc! { "customerId": customer.as_str() };
            let found = rows.find(theirs).sort(newest).limit(CUSTOMERS_SHOWN).await?;
            let found: Vec<SavedAddress> = found.try_collect().await?;
            all.extend(found.into_iter().filter(|row| row.user_id.is_none()));
        }
        Ok(all)
    }
}

impl Tx {
    pub async fn address(&mut self, id: &str) -> Result<Option<SavedAddress>, Error> {
        self.find_by_id(ADDRESSES, id).await
    }

    /// A member as they are now, marked as written, so that of two changes to their addresses at once the later one sees the
    /// earlier one.
    pub async fn hold_addresses(&mut self, user: &UserId) -> Result<Option<Member>, Error> {
        let by_id = doc! { "_id": user.as_str() };
        if !self.update("member_user", by_id, doc! { "$inc": { "addressRevision": 1i64 } }).await? {
            return Ok(None);
        }
        self.find_by_id("member_user", user.as_str()).await
    }

    /// A member's own addresses, newest first.
    pub async fn own_addresses(&mut self, user: &UserId) -> Result<Vec<SavedAddress>, Error> {
        let mut rows: Vec<SavedAddress> = self.find(ADDRESSES, doc! { "userId": user.as_str() }).await?;
        rows.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok(rows)
    }

    pub async fn insert_address(&mut self, row: &SavedAddress) -> Result<(), Error> {
        self.insert(ADDRESSES, row).await
    }

    /// Replaces what a member's own address says; false if it is not theirs.
    pub async fn change_address(
        &mut self,
        id: &str,
        user: &UserId,
        address: &Address,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let set = doc! {
            "name": &address.name,
            "phone": &address.phone,
            "province": &address.province,
            "city": &address.city,
            "district": &address.district,
            "detail": &address.detail,
            "updatedAt": date::bson(now),
        };
        self.update(ADDRESSES, doc! { "_id": id, "userId": user.as_str() }, doc! { "$set": set }).await
    }

    /// Removes a member's own address; false if it is not theirs.
    pub async fn delete_address(&mut self, id: &str, user: &UserId) -> Result<bool, Error> {
        let rows = self.collection::<bson::Document>(ADDRESSES);
        let own = doc! { "_id": id, "userId": user.as_str() };
        Ok(rows.delete_one(own).session(&mut self.session).await?.deleted_count == 1)
    }

    /// Points a member to their default address, or to none.
    pub async fn set_default_address(&mut self, user: &UserId, id: Option<&str>) -> Result<(), Error> {
        let change = match id {
            Some(id) => doc! { "$set": { "defaultAddressId": id } },
            None => doc! { "$unset": { "defaultAddressId": Bson::Null } },
        };
        self.update("member_user", doc! { "_id": user.as_str() }, change).await?;
        Ok(())
    }
}
