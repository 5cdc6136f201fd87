//! Messages to people: subscribe messages of the mini-program, written to the outbox with their cause.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::OpenId;
use serde::{Deserialize, Serialize};
use store::Error;
use store::outbox::OutboxItem;

/// `outbox.kind` of a message.
pub const KIND: &str = "message";

/// A message to one user. Which template of the mini-program it uses, and how its values fill the fields, is configuration.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub open_id: OpenId,
    /// What it is about, e.g. `lotteryResult`.
    pub template: String,
    /// The values by their own names, e.g. `activityName`, `result`.
    pub values: BTreeMap<String, String>,
}

/// The outbox item of a message; `id` is the natural key of what it tells.
pub fn item(id: &str, message: &Message, now: DateTime<Utc>) -> Result<OutboxItem, Error> {
    OutboxItem::new(format!("message:{id}"), KIND, message, now)
}
