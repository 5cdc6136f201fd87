//! `customers`, whom the CRM knows, and `customerMergeHistory`, who turned out to be one and the same.

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::{CustomerId, OpenId, UserId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::members::Phone;
use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

/// Collections whose rows belong to a customer by `customerId` and move when customers are merged.
const RECORDS: &str = "prepaidRecords";
const ADDRESSES: &str = "customerAddresses";

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

    /// The user it is linked to.
    pub fn link(&self) -> Option<Link> {
        let (user_id, open_id) = (self.linked_user_id.clone()?, self.linked_open_id.clone()?);
        Some(Link { user_id, open_id, at: self.link_time.unwrap_or(self.created_at) })
    }
}

impl Row for Customer {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, self.id.as_str())
    }
}

/// Who a customer is in the mini-program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub user_id: UserId,
    pub open_id: OpenId,
    pub at: DateTime<Utc>,
}

/// What staff may change of a customer; `None` leaves it alone.
#[derive(Clone, Debug, Default)]
pub struct CustomerChange {
    pub name: Option<String>,
    pub phone: Option<String>,
    pub remark: Option<String>,
}

/// `customerMergeHistory.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MergeStatus {
    #[serde(rename = "merged")]
    Merged,
    #[serde(rename = "undone")]
    Undone,
}

/// What moved when one customer was merged into another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Merge {
    #[serde(rename = "_id")]
    pub id: String,
    pub source_id: CustomerId,
    pub target_id: CustomerId,
    pub record_ids: Vec<String>,
    pub address_ids: Vec<String>,
    /// The user whose link moved, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked_user_id: Option<UserId>,
    pub status: MergeStatus,
    /// A service key's or a staff member's id.
    pub merged_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<String>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub undone_at: Option<DateTime<Utc>>,
}

impl Store {
    pub async fn customer(&self, id: &CustomerId) -> Result<Option<Customer>, Error> {
        Ok(self.collection::<Customer>("customers").await?.find_one(doc! { "_id": id.as_str() }).await?)
    }

    /// The active customers with this phone, newest first.
    pub async fn customers_by_phone(&self, phone: &str, page: &PageRequest) -> Result<Page<Customer>, Error> {
        self.page("customers", doc! { "phone": phone, "status": "active" }, page).await
    }

    /// The active customers whose name begins like this, newest first.
    pub async fn customers_by_name(&self, name: &str, page: &PageRequest) -> Result<Page<Customer>, Error> {
        let range = doc! { "$gte": name, "$lt": format!("{name}\u{10FFFF}") };
        self.page("customers", doc! { "name": range, "status": "active" }, page).await
    }
}

/// Adds the mark that every writer of a customer leaves, so that two of them at once always meet.
fn revised(mut change: Document, now: DateTime<Utc>) -> Document {
    change.insert("$inc", doc! { "revision": 1i64 });
    match change.get_document_mut("$set") {
        Ok(set) => {
            set.insert("updatedAt", date::bson(now));
        }
        Err(_) => {
            change.insert("$set", doc! { "updatedAt": date::bson(now) });
        }
    }
    change
}

impl Tx {
    pub async fn customer(&mut self, id: &CustomerId) -> Result<Option<Customer>, Error> {
        self.find_by_id("customers", id.as_str()).await
    }

    /// Marks an active customer as written, so that what is done for them and a link or a merge at the same time cannot both
    /// commit without seeing each other. False if the customer is not active.
    pub async fn hold_customer(&mut self, id: &CustomerId, now: DateTime<Utc>) -> Result<bool, Error> {
        let active = doc! { "_id": id.as_str(), "status": "active" };
        self.update("customers", active, revised(doc! {}, now)).await
    }

    /// The active customers with this phone, newest first.
    pub async fn customers_by_phone(&mut self, phone: &str) -> Result<Vec<Customer>, Error> {
        let customers = self.collection::<Customer>("customers");
        let find =
            customers.find(doc! { "phone": phone, "status": "active" }).sort(doc! { "createdAt": -1 }).limit(100);
        let mut cursor = find.session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    pub async fn insert_customer(&mut self, customer: &Customer) -> Result<(), Error> {
        self.insert("customers", customer).await
    }

    /// Changes an active customer; false if there is none.
    pub async fn change_customer(
        &mut self,
        id: &CustomerId,
        change: &CustomerChange,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let mut set = doc! {};
        let fields = [("name", &change.name), ("phone", &change.phone), ("remark", &change.remark)];
        for (field, value) in fields {
            if let Some(value) = value {
                set.insert(field, value);
            }
        }
        let active = doc! { "_id": id.as_str(), "status": "active" };
        self.update("customers", active, revised(doc! { "$set": set }, now)).await
    }

    /// Whether a member other than this one has proven the phone.
    pub async fn phone_is_anothers(&mut self, phone: &str, user: &UserId) -> Result<bool, Error> {
        let members = self.collection::<Document>("member_user");
        let found = members.find_one(doc! { "phone": phone }).session(&mut self.session).await?;
        Ok(found.is_some_and(|member| member.get_str("_id").is_ok_and(|id| id != user.as_str())))
    }

    /// Links a member who is not linked to a customer, and keeps the phone that proved it. `Duplicate` of `member_user` if
    /// another has either; false if the member is linked already.
    pub async fn link_member(&mut self, user: &UserId, customer: &CustomerId, phone: &str) -> Result<bool, Error> {
        self.update(
            "member_user",
            doc! { "_id": user.as_str(), "customerId": { "$exists": false } },
            doc! { "$set": { "customerId": customer.as_str(), "phone": phone } },
        )
        .await
    }

    /// Links an active customer who is not linked; false if they are.
    pub async fn link_customer(&mut self, id: &CustomerId, link: &Link, now: DateTime<Utc>) -> Result<bool, Error> {
        let free = doc! { "_id": id.as_str(), "status": "active", "linkedUserId": { "$exists": false } };
        let set = doc! {
            "linkedUserId": link.user_id.as_str(),
            "linkedOpenId": link.open_id.as_str(),
            "linkTime": date::bson(link.at),
        };
        self.update("customers", free, revised(doc! { "$set": set }, now)).await
    }

    /// Gives all of a customer's records the customer's link, or none; returns how many there are.
    pub async fn link_records(&mut self, customer: &CustomerId, link: Option<&Link>) -> Result<u64, Error> {
        let change = match link {
            Some(link) => doc! { "$set": {
                "linkStatus": "linked", "linkedUserId": link.user_id.as_str(), "linkTime": date::bson(link.at),
            } },
            None => doc! { "$set": { "linkStatus": "unlinked" }, "$unset": { "linkedUserId": "", "linkTime": "" } },
        };
        let records = self.collection::<Document>(RECORDS);
        let update = records.update_many(doc! { "customerId": customer.as_str() }, change);
        Ok(update.session(&mut self.session).await?.matched_count)
    }

    pub async fn count_records(&mut self, customer: &CustomerId) -> Result<u64, Error> {
        Ok(self.owned(RECORDS, customer).await?.len().try_into().unwrap_or(u64::MAX))
    }

    async fn owned(&mut self, collection: &str, customer: &CustomerId) -> Result<Vec<String>, Error> {
        let rows = self.collection::<Document>(collection);
        let find = rows.find(doc! { "customerId": customer.as_str() }).sort(doc! { "createdAt": 1, "_id": 1 });
        let mut cursor = find.projection(doc! { "_id": 1i32 }).session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        let id = |row: &Document| row.get_str("_id").map(str::to_owned);
        rows.iter()
            .map(id)
            .collect::<Result<_, _>>()
            .map_err(|_| Error::Invariant(format!("{collection}: no text _id")))
    }

    /// Gives these rows to another customer; false if one of them does not belong to `from`.
    async fn hand_over(
        &mut self,
        collection: &str,
        ids: &[String],
        from: &CustomerId,
        to: &CustomerId,
    ) -> Result<bool, Error> {
        if ids.is_empty() {
            return Ok(true);
        }
        let rows = self.collection::<Document>(collection);
        let theirs = doc! { "_id": { "$in": ids }, "customerId": from.as_str() };
        let update = rows.update_many(theirs, doc! { "$set": { "customerId": to.as_str() } });
        let moved = update.session(&mut self.session).await?.matched_count;
        Ok(usize::try_from(moved) == Ok(ids.len()))
    }

    /// The prepaid records and addresses of a customer.
    pub async fn belongings(&mut self, customer: &CustomerId) -> Result<(Vec<String>, Vec<String>), Error> {
        Ok((self.owned(RECORDS, customer).await?, self.owned(ADDRESSES, customer).await?))
    }

    /// Gives exactly what a merge lists to `to`; false if any of it does not belong to `from`.
    pub async fn move_belongings(&mut self, merge: &Merge, from: &CustomerId, to: &CustomerId) -> Result<bool, Error> {
        Ok(self.hand_over(RECORDS, &merge.record_ids, from, to).await?
            && self.hand_over(ADDRESSES, &merge.address_ids, from, to).await?)
    }

    /// Takes a customer's link off and points the member to another customer, who is to get it; false if it is not this user's.
    pub async fn move_link(
        &mut self,
        user: &UserId,
        from: &CustomerId,
        to: &CustomerId,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let off = doc! { "$unset": { "linkedUserId": "", "linkedOpenId": "", "linkTime": "" } };
        let linked = doc! { "_id": from.as_str(), "linkedUserId": user.as_str() };
        if !self.update("customers", linked, revised(off, now)).await? {
            return Ok(false);
        }
        let member = doc! { "_id": user.as_str(), "customerId": from.as_str() };
        self.update("member_user", member, doc! { "$set": { "customerId": to.as_str() } }).await
    }

    /// `active → merged`; false if it is not active.
    pub async fn mark_customer_merged(
        &mut self,
        source: &CustomerId,
        target: &CustomerId,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let set = doc! { "status": "merged", "mergedInto": target.as_str() };
        let active = doc! { "_id": source.as_str(), "status": "active" };
        self.update("customers", active, revised(doc! { "$set": set }, now)).await
    }

    /// `merged → active`; false if it is not merged into `target`.
    pub async fn mark_customer_active(
        &mut self,
        source: &CustomerId,
        target: &CustomerId,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let change = doc! { "$set": { "status": "active" }, "$unset": { "mergedInto": "" } };
        let merged = doc! { "_id": source.as_str(), "status": "merged", "mergedInto": target.as_str() };
        self.update("customers", merged, revised(change, now)).await
    }

    pub async fn merge(&mut self, id: &str) -> Result<Option<Merge>, Error> {
        self.find_by_id("customerMergeHistory", id).await
    }

    pub async fn insert_merge(&mut self, merge: &Merge) -> Result<(), Error> {
        self.insert("customerMergeHistory", merge).await
    }

    /// `merged → undone`; false if it was undone already.
    pub async fn mark_merge_undone(&mut self, id: &str, by: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let set = doc! { "status": "undone", "undoneBy": by, "undoneAt": date::bson(now) };
        self.update("customerMergeHistory", doc! { "_id": id, "status": "merged" }, doc! { "$set": set }).await
    }
}
