//! Messages to people: subscribe messages of the mini-program, written to the outbox with their cause.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::OpenId;
use serde::{Deserialize, Serialize};
use store::Error;
use store::outbox::OutboxItem;
use wechat::open::{self, Template};
use wechat::{TransportKind, subscribe};

use crate::refunds::Delivery;

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

/// Delivers messages.
pub struct Messenger<'a> {
    pub client: &'a open::Client,
    pub templates: &'a [Template],
}

/// WeChat's number for "the user has not subscribed, or the permission is used up".
const NOT_SUBSCRIBED: i64 = 43101;
/// Another message to the same user is on its way.
const CONCURRENT: i64 = 43108;

impl Messenger<'_> {
    /// Sends one message, once: after any doubt it is not sent again, because that could use up the user's next permission.
    pub async fn deliver(&self, message: &Message) -> Delivery {
        let Some(template) = self.templates.iter().find(|template| template.name == message.template) else {
            return Delivery::Skipped(format!("no template {} is configured", message.template));
        };
        let data: BTreeMap<String, String> = template
            .fields
            .iter()
            .map(|(key, value)| {
                (key.clone(), subscribe::fit(key, message.values.get(value).map_or("", String::as_str)))
            })
            .collect();
        // Fetched by itself, so that a failure here is known to have sent nothing.
        if let Err(error) = self.client.access_token().await {
            return Delivery::Later(format!("access token: {error}"));
        }
        let page = template.page.as_deref();
        let sent =
            self.client.send_subscribe_message(message.open_id.as_str(), &template.template_id, &data, page).await;
        match sent {
            Ok(_) => Delivery::Done,
            Err(error) => after(&error),
        }
    }
}

fn after(error: &open::Error) -> Delivery {
    let reason = error.to_string();
    match error {
        open::Error::Transport(transport) if transport.kind == TransportKind::Connect => Delivery::Later(reason),
        error if error.outcome_unknown() => Delivery::Dead(format!("it may have arrived: {reason}")),
        error if error.errcode() == Some(NOT_SUBSCRIBED) => Delivery::Skipped(reason),
        error if error.errcode() == Some(CONCURRENT) || error.is_retryable() => Delivery::Later(reason),
        _ => Delivery::Dead(reason),
    }
}
