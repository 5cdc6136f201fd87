//! Messages to people: subscribe messages of the mini-program, written to the outbox with their cause.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::OpenId;
use serde::{Deserialize, Serialize};
use store::Error;
use store::outbox::OutboxItem;
use wechat::open::{self, Template};
use wechat::subscribe::{OnUnknown, SendClass, fit};

use crate::delivery::{Outcome, Why};

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

/// Reasons with which a message may end; see also [`SendClass::Operator`].
pub const NO_SUBSCRIPTION: &str = "NO_SUBSCRIPTION";
pub const NO_TEMPLATE: &str = "NO_TEMPLATE";
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";

/// Another message to the same person is on its way: it will have arrived by then.
const CONCURRENT_PAUSE: Duration = Duration::from_secs(2);

impl Message {
    /// The template that the shop has for it, if any.
    pub fn template<'t>(&self, templates: &'t [Template]) -> Option<&'t Template> {
        templates.iter().find(|template| template.name == self.template)
    }

    /// The values of the template's keys, as WeChat accepts them.
    fn data(&self, template: &Template) -> BTreeMap<String, String> {
        let value = |name: &String| self.values.get(name).map_or("", String::as_str);
        template.fields.iter().map(|(key, name)| (key.clone(), fit(key, value(name)))).collect()
    }
}

/// Whether one more try may follow when nobody knows whether the message has arrived.
pub fn resends(template: Option<&Template>) -> bool {
    template.is_some_and(|template| template.on_unknown == OnUnknown::Resend)
}

/// Makes sure that there is an access token. By itself, so that a failure is known to have sent nothing.
pub async fn ready(client: &open::Client) -> Result<(), Outcome> {
    client.access_token().await.map(drop).map_err(|error| outcome(&open::Error::Token(Box::new(error))))
}

/// Sends one message, once.
pub async fn send(client: &open::Client, template: &Template, message: &Message) -> Outcome {
    let (id, data, page) = (&template.template_id, message.data(template), template.page.as_deref());
    match client.send_subscribe_message(message.open_id.as_str(), id, &data, page).await {
        Ok(_) => Outcome::Delivered,
        Err(error) => outcome(&error),
    }
}

fn outcome(error: &open::Error) -> Outcome {
    let why = Why::from(error);
    match error.send_class() {
        SendClass::NotSubscribed => Outcome::Skipped(why.because(NO_SUBSCRIPTION)),
        SendClass::Concurrent => Outcome::Later { why: why.because("CONCURRENT_MESSAGE"), at_least: CONCURRENT_PAUSE },
        SendClass::Retry => Outcome::later(why.because("WECHAT_BUSY")),
        SendClass::Pause(pause) => Outcome::Paused { why: why.because("WECHAT_LIMIT"), pause },
        SendClass::Operator(reason) => Outcome::Dead(why.because(reason)),
        SendClass::Unknown => Outcome::Unknown(why.because(OUTCOME_UNKNOWN)),
        SendClass::NotSent => Outcome::later(why.because("WECHAT_UNREACHABLE")),
    }
}
