//! `assignments`: which customer was assigned to whom, and which message tells it.

use bson::doc;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::{CustomerId, OpenId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::outbox::OutboxStatus;
use crate::{Error, Store, Tx, date};

/// So many messages that others have replaced are remembered of an assignment.
const REPLACED_KEPT: i64 = 20;

/// One customer assigned to one person.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    #[serde(rename = "_id")]
    pub id: String,
    pub customer_id: CustomerId,
    /// `u:` and the staff id, or `o:` and the openid, as the caller named the person.
    pub assigned_to: String,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub assigned_at: Option<DateTime<Utc>>,
    /// Whom the message goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_id: Option<OpenId>,
    /// `outbox._id`; absent while refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was last planned or refused.
    #[serde(with = "date")]
    pub planned_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

impl Assignment {
    /// The natural key. No part before the last has a colon except `assigned_to` after its first letter, so two keys never meet.
    pub fn key(customer: &CustomerId, assigned_to: &str, assigned_at: Option<DateTime<Utc>>) -> String {
        let at = assigned_at.map_or_else(|| "-".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
        format!("{customer}|{assigned_to}|{at}")
    }
}

/// What became of rows that are planned alike.
#[derive(Clone, Copy, Debug)]
pub struct Replan<'a> {
    pub open_id: Option<&'a OpenId>,
    /// The message that tells them, or else the reason why none does.
    pub message: Result<&'a str, &'a str>,
}

/// How far an item of the outbox has come.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Progress {
    #[serde(rename = "_id")]
    pub id: String,
    pub status: OutboxStatus,
    #[serde(default)]
    pub reason: Option<String>,
}

impl Store {
    /// How far these items of the outbox have come.
    pub async fn progress(&self, ids: &[String]) -> Result<Vec<Progress>, Error> {
        let outbox = self.collection::<Progress>("outbox").await?;
        let found = outbox.find(doc! { "_id": { "$in": ids } }).projection(doc! { "status": 1, "reason": 1 });
        Ok(found.await?.try_collect().await?)
    }
}

impl Tx {
    /// How far these items of the outbox have come.
    pub async fn progress(&mut self, ids: &[String]) -> Result<Vec<Progress>, Error> {
        let outbox = self.collection::<Progress>("outbox");
        let found = outbox.find(doc! { "_id": { "$in": ids } }).projection(doc! { "status": 1, "reason": 1 });
        let mut cursor = found.session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    /// Those of these assignments that are known.
    pub async fn assignments(&mut self, ids: &[String]) -> Result<Vec<Assignment>, Error> {
        self.find("assignments", doc! { "_id": { "$in": ids } }).await
    }

    /// Records new assignments.
    pub async fn insert_assignments(&mut self, rows: &[Assignment]) -> Result<(), Error> {
        self.insert_many("assignments", rows).await
    }

    /// Records what became of known assignments.
    pub async fn replan_assignments(
        &mut self,
        ids: &[String],
        replan: Replan<'_>,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let so_far = doc! { "$ifNull": ["$replaced", []] };
        let more = doc! { "$slice": [{ "$concatArrays": [so_far, ["$messageId"]] }, -REPLACED_KEPT] };
        let same = doc! { "$ifNull": ["$replaced", "$$REMOVE"] };
        let replaced = doc! { "$cond": [{ "$eq": [{ "$type": "$messageId" }, "string"] }, more, same] };
        let mut set = doc! { "plannedAt": date::bson(now) };
        if let Some(open_id) = replan.open_id {
            set.insert("openId", doc! { "$literal": open_id.as_str() });
        }
        let other = match replan.message {
            Ok(message) => {
                set.insert("messageId", doc! { "$literal": message });
                "reason"
            }
            Err(reason) => {
                set.insert("reason", doc! { "$literal": reason });
                "messageId"
            }
        };
        let target = self.collection::<bson::Document>("assignments");
        let change = vec![doc! { "$set": { "replaced": replaced } }, doc! { "$set": set }, doc! { "$unset": [other] }];
        target.update_many(doc! { "_id": { "$in": ids } }, change).session(&mut self.session).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_customer_person_and_time() {
        let customer = CustomerId::parse("c-1").unwrap();
        let at = "2026-11-21T18:00:00+08:00".parse::<DateTime<Utc>>().unwrap();
        assert_eq!(Assignment::key(&customer, "u:s-li", Some(at)), "c-1|u:s-li|2026-11-21T10:00:00.000Z");
        assert_eq!(Assignment::key(&customer, "o:o-x", None), "c-1|o:o-x|-");
    }
}
