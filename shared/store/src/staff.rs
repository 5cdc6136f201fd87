//! `staff`: the people whom the CRM assigns customers to, and where messages reach them.

use bson::{Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{OpenId, StaffId};
use serde::{Deserialize, Serialize};

use crate::members::Phone;
use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

/// Text messages about assignments that one person may get in a day. `rateLimits` keeps as many instants.
const TEXTS_A_DAY: u8 = 10;
const DAY: TimeDelta = TimeDelta::days(1);

/// Somebody who is assigned customers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StaffMember {
    /// The CRM's id of the person.
    #[serde(rename = "_id")]
    pub id: StaffId,
    pub name: String,
    /// The person in the mini-program; nobody else has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_id: Option<OpenId>,
    /// For text messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Phone>,
    /// Whether messages go there.
    pub active: bool,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub updated_at: DateTime<Utc>,
}

impl Row for StaffMember {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, self.id.as_str())
    }
}

/// What to write of a person; what is `None` stays as it is, and an inner `None` takes it away.
#[derive(Clone, Debug, Default)]
pub struct StaffChange {
    pub name: Option<String>,
    pub open_id: Option<Option<OpenId>>,
    pub phone: Option<Option<Phone>>,
    pub active: Option<bool>,
}

impl Store {
    /// Somebody by the CRM's id.
    pub async fn staff_member(&self, id: &StaffId) -> Result<Option<StaffMember>, Error> {
        Ok(self.collection::<StaffMember>("staff").await?.find_one(doc! { "_id": id.as_str() }).await?)
    }

    /// Everybody, newest first.
    pub async fn staff_page(&self, request: &PageRequest) -> Result<Page<StaffMember>, Error> {
        self.page("staff", doc! {}, request).await
    }
}

impl Tx {
    /// Those with one of these ids or openids.
    pub async fn staff_among(&mut self, ids: &[&str], open_ids: &[&str]) -> Result<Vec<StaffMember>, Error> {
        // Two queries, since one with `$or` would not use the partial index.
        let mut found = Vec::new();
        if !ids.is_empty() {
            found.extend(self.find::<StaffMember>("staff", doc! { "_id": { "$in": ids } }).await?);
        }
        if !open_ids.is_empty() {
            found.extend(self.find::<StaffMember>("staff", doc! { "openId": { "$in": open_ids } }).await?);
        }
        Ok(found)
    }

    /// Adds somebody. `Duplicate` of `staff` if somebody else has the openid.
    pub async fn insert_staff_member(&mut self, member: &StaffMember) -> Result<(), Error> {
        self.insert("staff", member).await
    }

    /// Changes what the change names. `Duplicate` of `staff` if somebody else has the openid.
    pub async fn change_staff_member(
        &mut self,
        id: &StaffId,
        change: &StaffChange,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let mut set = doc! { "updatedAt": date::bson(now) };
        let mut unset = doc! {};
        if let Some(name) = &change.name {
            set.insert("name", name);
        }
        if let Some(active) = change.active {
            set.insert("active", active);
        }
        let texts = [
            ("openId", change.open_id.as_ref().map(|open_id| open_id.as_ref().map(OpenId::as_str))),
            ("phone", change.phone.as_ref().map(|phone| phone.as_ref().map(|phone| phone.0.as_str()))),
        ];
        for (field, value) in texts {
            match value {
                None => {}
                Some(Some(text)) => {
                    set.insert(field, text);
                }
                Some(None) => {
                    unset.insert(field, "");
                }
            }
        }
        let mut update = doc! { "$set": set };
        if !unset.is_empty() {
            update.insert("$unset", unset);
        }
        self.update("staff", doc! { "_id": id.as_str() }, update).await
    }

    /// Counts one text message to somebody, unless that would be more than a day allows; false then.
    pub async fn count_text(&mut self, id: &StaffId, now: DateTime<Utc>) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Counted {
            at: Vec<bson::DateTime>,
        }
        let key = format!("sms|staff|{}", id.as_str());
        let counted: Option<Counted> = self.find_by_id("rateLimits", &key).await?;
        let oldest = usize::from(TEXTS_A_DAY.saturating_sub(1));
        if counted.is_some_and(|row| row.at.get(oldest).is_some_and(|at| at.to_chrono() > now - DAY)) {
            return Ok(false);
        }
        let change = doc! {
            "$push": { "at": { "$each": [date::bson(now)], "$position": 0i32, "$slice": i32::from(TEXTS_A_DAY) } },
            "$set": { "expiresAt": date::bson(now + DAY) },
        };
        let limits = self.collection::<Document>("rateLimits");
        limits.update_one(doc! { "_id": key }, change).upsert(true).session(&mut self.session).await?;
        Ok(true)
    }
}
