//! Messages to people: subscribe messages of the mini-program, written to the outbox with their cause.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use domain::OpenId;
use serde::{Deserialize, Serialize};
use store::Error;
use store::outbox::OutboxItem;
use wechat::open::{self, Template};
use wechat::{TransportKind, subscribe};

use crate::refunds::Delivery;

/// `outbox.kind` of a message.
pub const KIND: &str = "message";
/// `outbox.kind` of a message of which one event makes very many: results of draws, coins about to expire.
pub const MASS_KIND: &str = "massMessage";

/// How long a message is worth sending, unless its event says otherwise.
const USEFUL: TimeDelta = TimeDelta::hours(24);

/// A message to one user. Which template of the mini-program it uses, and how its values fill the fields, is configuration.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub open_id: OpenId,
    /// What it is about, e.g. `lotteryResult`.
    pub template: String,
    /// The values by their own names, e.g. `activityName`, `result`.
    pub values: BTreeMap<String, String>,
    /// The customers that it is about, where it tells of assignments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub customer_ids: Vec<String>,
}

impl Message {
    /// A message about no customer in particular.
    pub fn new(open_id: OpenId, template: &str, values: BTreeMap<String, String>) -> Self {
        Self { open_id, template: template.to_owned(), values, customer_ids: Vec::new() }
    }
}

/// The outbox item of a message; `id` is the natural key of what it tells. Messages to one person arrive in order; a day later
/// they are given up, unless the caller changes `expires_at`.
pub fn item(id: &str, message: &Message, now: DateTime<Utc>) -> Result<OutboxItem, Error> {
    let mut item = OutboxItem::new(format!("message:{id}"), KIND, message, now)?;
    item.queue = Some(message.open_id.as_str().to_owned());
    item.expires_at = now.checked_add_signed(USEFUL);
    Ok(item)
}

/// The same for one of very many, which never wait in front of the others.
pub fn mass_item(id: &str, message: &Message, now: DateTime<Utc>) -> Result<OutboxItem, Error> {
    Ok(OutboxItem { kind: MASS_KIND.to_owned(), ..item(id, message, now)? })
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
