//! Telling staff which customers they were assigned: one message per person and call, each assignment told once.
//!
//! A plan is made in one transaction: the assignments with their natural keys, the permission that a message takes, and the
//! message in the outbox. So a repeat or a racing twin finds what was planned and answers with how far that has come.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use domain::day::clock_text;
use domain::{CustomerId, OpenId, StaffId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::assignments::{Assignment, Progress, Replan};
use store::outbox::{OutboxItem, OutboxStatus};
use store::staff::StaffMember;
use store::subscriptions::Subscription;
use store::{Error, Tx};
use wechat::open::Template;
use wechat::subscribe;

use crate::messages::{self, Message};
use crate::texts::{self, Text};

/// The template that tells them.
pub const TEMPLATE: &str = "assignment";

/// For so long an assignment without a time is the same one when it comes again.
const SAME: TimeDelta = TimeDelta::minutes(10);
/// How long a text message is worth sending.
const USEFUL: TimeDelta = TimeDelta::hours(24);
/// Follows the natural key of a message for the text message in its place.
const TEXT_SUFFIX: &str = ":sms";

/// Whom the caller named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignee {
    Staff(StaffId),
    OpenId(OpenId),
}

impl Assignee {
    /// As it is stored.
    fn key(&self) -> String {
        match self {
            Self::Staff(id) => format!("u:{}", id.as_str()),
            Self::OpenId(open_id) => format!("o:{}", open_id.as_str()),
        }
    }
}

/// One customer assigned to one person, as the caller says.
#[derive(Clone, Debug)]
pub struct Assigned {
    pub customer_id: CustomerId,
    pub customer_name: String,
    pub customer_phone: Option<String>,
    pub assignee: Assignee,
    pub assigned_by: Option<String>,
    pub assigned_at: Option<DateTime<Utc>>,
    pub source: Option<String>,
    pub remark: Option<String>,
}

/// What a person can be told by.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    pub template: Option<&'a Template>,
    /// The approved template of text messages, where the shop wants them.
    pub text_template: Option<&'a str>,
}

/// What became of one assignment: told by a message, or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    pub customer_id: String,
    pub message_id: Option<String>,
    pub reason: Option<String>,
}

/// A plan for a whole call, in the order of its input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub results: Vec<Planned>,
    /// Messages that this plan made, without those that go by text.
    pub fresh: Vec<String>,
}

/// Everything that one person is told by one call.
struct Bundle<'a> {
    /// Of the first way in which the caller named them.
    staff: Option<&'a StaffMember>,
    open_id: Option<&'a OpenId>,
    items: Vec<&'a Assigned>,
    /// Natural keys, with the time of an earlier plan that told nobody, or told it too long ago to count.
    keys: Vec<(String, Option<DateTime<Utc>>)>,
    known: Vec<String>,
}

/// Plans what is not planned yet. Only database calls; the transaction may run it again.
pub async fn plan(tx: &mut Tx, assigned: &[Assigned], means: Means<'_>, now: DateTime<Utc>) -> Result<Plan, Error> {
    let keys: Vec<String> =
        assigned.iter().map(|one| Assignment::key(&one.customer_id, &one.assignee.key(), one.assigned_at)).collect();
    let known: BTreeMap<String, Assignment> =
        tx.assignments(&keys).await?.into_iter().map(|row| (row.id.clone(), row)).collect();
    let progress = look_up(tx, known.values().filter_map(|row| row.message_id.as_deref())).await?;

    let staff = staff_of(tx, assigned).await?;
    let mut settled: BTreeMap<String, Result<String, String>> = BTreeMap::new();
    let mut refused: BTreeMap<&'static str, Vec<(String, &Assigned)>> = BTreeMap::new();
    let mut bundles: BTreeMap<String, Bundle<'_>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (one, key) in assigned.iter().zip(&keys) {
        if !seen.insert(key.clone()) {
            continue;
        }
        let row = known.get(key);
        if let Some(message) = row.and_then(|row| standing_message(row, &progress, now)) {
            settled.insert(key.clone(), Ok(message));
            continue;
        }
        let member = match &one.assignee {
            Assignee::Staff(id) => staff.iter().find(|member| member.id == *id),
            Assignee::OpenId(open_id) => staff.iter().find(|member| member.open_id.as_ref() == Some(open_id)),
        };
        let open_id = match (&one.assignee, member) {
            (Assignee::Staff(_), None) => {
                refused.entry("ASSIGNEE_NOT_FOUND").or_default().push((key.clone(), one));
                continue;
            }
            (_, Some(member)) if !member.active => {
                refused.entry("ASSIGNEE_INACTIVE").or_default().push((key.clone(), one));
                continue;
            }
            (Assignee::Staff(_), Some(member)) => member.open_id.as_ref(),
            (Assignee::OpenId(open_id), _) => Some(open_id),
        };
        // One person may be named in both ways.
        let person = match (open_id, member) {
            (Some(open_id), _) => format!("o:{}", open_id.as_str()),
            (None, Some(member)) => format!("u:{}", member.id.as_str()),
            (None, None) => one.assignee.key(),
        };
        let bundle = bundles.entry(person).or_insert_with(|| Bundle {
            staff: member,
            open_id,
            items: Vec::new(),
            keys: Vec::new(),
            known: Vec::new(),
        });
        bundle.items.push(one);
        bundle.keys.push((key.clone(), row.map(|row| row.planned_at)));
        bundle.known.extend(row.map(|row| row.id.clone()));
    }

    let mut rows: Vec<Assignment> = Vec::new();
    let row = |key: &str, one: &Assigned, open_id: Option<&OpenId>, message: Result<&str, &str>| Assignment {
        id: key.to_owned(),
        customer_id: one.customer_id.clone(),
        assigned_to: one.assignee.key(),
        assigned_at: one.assigned_at,
        open_id: open_id.cloned(),
        message_id: message.ok().map(str::to_owned),
        reason: message.err().map(str::to_owned),
        planned_at: now,
        created_at: now,
    };
    for (reason, of_reason) in &refused {
        let again: Vec<String> =
            of_reason.iter().filter(|(key, _)| known.contains_key(key)).map(|(key, _)| key.clone()).collect();
        if !again.is_empty() {
            tx.replan_assignments(&again, Replan { open_id: None, message: Err(reason) }, now).await?;
        }
        for (key, one) in of_reason {
            if !known.contains_key(key) {
                rows.push(row(key, one, None, Err(reason)));
            }
            settled.insert(key.clone(), Err((*reason).to_owned()));
        }
    }

    let permissions = take_permissions(tx, &bundles, means, now).await?;
    let mut items: Vec<OutboxItem> = Vec::new();
    // In the order of the input, so that the first ones are also tried first.
    let mut fresh: BTreeMap<String, ()> = BTreeMap::new();
    for (person, bundle) in &bundles {
        let message = match compose(bundle, means, permissions.get(person), now)? {
            Ok(item) => {
                fresh.insert(item.id.clone(), ());
                Ok(item)
            }
            Err(reason) => text_for(tx, bundle, means.text_template, now).await?.ok_or(reason),
        };
        let told = message.as_ref().map(|item| item.id.as_str()).map_err(|reason| *reason);
        if !bundle.known.is_empty() {
            tx.replan_assignments(&bundle.known, Replan { open_id: bundle.open_id, message: told }, now).await?;
        }
        for ((key, _), one) in bundle.keys.iter().zip(&bundle.items) {
            if !known.contains_key(key) {
                rows.push(row(key, one, bundle.open_id, told));
            }
            settled.insert(key.clone(), told.map(str::to_owned).map_err(str::to_owned));
        }
        items.extend(message.ok());
    }
    tx.insert_assignments(&rows).await?;
    if !items.is_empty() {
        tx.enqueue_all(&items).await?;
    }

    let mut plan = Plan::default();
    for (one, key) in assigned.iter().zip(&keys) {
        let (message_id, reason) = match settled.get(key) {
            Some(Ok(message)) => (Some(message.clone()), None),
            Some(Err(reason)) => (None, Some(reason.clone())),
            None => return Err(Error::Invariant("an assignment was not planned".to_owned())),
        };
        if let Some(id) = &message_id
            && fresh.remove(id).is_some()
        {
            plan.fresh.push(id.clone());
        }
        plan.results.push(Planned { customer_id: one.customer_id.as_str().to_owned(), message_id, reason });
    }
    Ok(plan)
}

/// How far messages have come, and the text messages in their place.
async fn look_up<'m>(
    tx: &mut Tx,
    messages: impl Iterator<Item = &'m str>,
) -> Result<BTreeMap<String, Progress>, Error> {
    let ids = with_texts(messages);
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    Ok(tx.progress(&ids).await?.into_iter().map(|one| (one.id.clone(), one)).collect())
}

/// The ids to look up for these messages: their own, and those of text messages that may have taken their place.
pub fn with_texts<'m>(messages: impl Iterator<Item = &'m str>) -> Vec<String> {
    let ids: BTreeSet<String> = messages
        .flat_map(|id| [Some(id.to_owned()), (!id.ends_with(TEXT_SUFFIX)).then(|| format!("{id}{TEXT_SUFFIX}"))])
        .flatten()
        .collect();
    ids.into_iter().collect()
}

/// The message that already tells an assignment; none if it may be planned (again), because nothing was sent or, where the
/// caller gave no time, because it is too long ago to be the same.
fn standing_message(row: &Assignment, progress: &BTreeMap<String, Progress>, now: DateTime<Utc>) -> Option<String> {
    let message = row.message_id.as_ref()?;
    let is_another = row.assigned_at.is_none() && row.planned_at <= now - SAME;
    let nobody_was_told = current(message, progress).is_some_and(|one| one.status == OutboxStatus::Skipped);
    (!is_another && !nobody_was_told).then(|| message.clone())
}

/// The newest item that stands for a message.
fn current<'p>(message: &str, progress: &'p BTreeMap<String, Progress>) -> Option<&'p Progress> {
    progress.get(&format!("{message}{TEXT_SUFFIX}")).or_else(|| progress.get(message))
}

async fn staff_of(tx: &mut Tx, assigned: &[Assigned]) -> Result<Vec<StaffMember>, Error> {
    let (mut ids, mut open_ids) = (BTreeSet::new(), BTreeSet::new());
    for one in assigned {
        match &one.assignee {
            Assignee::Staff(id) => ids.insert(id.as_str()),
            Assignee::OpenId(open_id) => open_ids.insert(open_id.as_str()),
        };
    }
    let (ids, open_ids): (Vec<&str>, Vec<&str>) = (ids.into_iter().collect(), open_ids.into_iter().collect());
    tx.staff_among(&ids, &open_ids).await
}

/// The permissions that the messages of these people have taken. A long-term template needs none.
async fn take_permissions(
    tx: &mut Tx,
    bundles: &BTreeMap<String, Bundle<'_>>,
    means: Means<'_>,
    now: DateTime<Utc>,
) -> Result<BTreeMap<String, String>, Error> {
    let Some(template) = means.template.filter(|template| !template.long_term) else { return Ok(BTreeMap::new()) };
    let wanted: BTreeMap<String, &String> = bundles
        .iter()
        .filter_map(|(person, bundle)| Some((Subscription::key(bundle.open_id?, &template.template_id), person)))
        .collect();
    let ids: Vec<String> = wanted.keys().cloned().collect();
    let taken = tx.take_permissions(&ids, now).await?;
    Ok(taken.into_iter().filter_map(|id| Some(((*wanted.get(&id)?).clone(), id))).collect())
}

/// The message of a bundle, or why there cannot be one.
fn compose(
    bundle: &Bundle<'_>,
    means: Means<'_>,
    permission: Option<&String>,
    now: DateTime<Utc>,
) -> Result<Result<OutboxItem, &'static str>, Error> {
    let Some(template) = means.template else { return Ok(Err("NO_TEMPLATE")) };
    let Some(open_id) = bundle.open_id else { return Ok(Err("NO_OPENID")) };
    if permission.is_none() && !template.long_term {
        return Ok(Err("NO_SUBSCRIPTION"));
    }
    let mut message = Message::new(open_id.clone(), TEMPLATE, values(&bundle.items, now));
    message.customer_ids = customer_ids(&bundle.items);
    let mut item = messages::item(&message_key(&bundle.keys), &message, now)?;
    item.permission = permission.cloned();
    Ok(Ok(item))
}

/// The text message of a bundle; none if there are none, the person has no phone, or has had enough of them for a day.
async fn text_for(
    tx: &mut Tx,
    bundle: &Bundle<'_>,
    text_template: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Option<OutboxItem>, Error> {
    let Some((template, member)) = text_template.zip(bundle.staff) else { return Ok(None) };
    let values = values(&bundle.items, now);
    let id = format!("message:{}{TEXT_SUFFIX}", message_key(&bundle.keys));
    text(tx, &id, template, member, &values, customer_ids(&bundle.items), now).await
}

async fn text(
    tx: &mut Tx,
    id: &str,
    template: &str,
    member: &StaffMember,
    values: &BTreeMap<String, String>,
    customer_ids: Vec<String>,
    now: DateTime<Utc>,
) -> Result<Option<OutboxItem>, Error> {
    let Some(phone) = member.phone.clone().filter(|_| member.active) else { return Ok(None) };
    if !tx.count_text(&member.id, now).await? {
        tracing::warn!(staff = member.id.as_str(), "no more text messages about assignments today");
        return Ok(None);
    }
    let value = |name: &str| values.get(name).map_or_else(String::new, |text| subscribe::fit("thing1", text));
    let text = Text {
        staff_id: member.id.clone(),
        phone,
        template_id: template.to_owned(),
        params: vec![value("customerName"), value("assignedBy")],
        customer_ids,
    };
    let mut item = OutboxItem::new(id.to_owned(), texts::KIND, &text, now)?;
    item.queue = Some(format!("sms:{}", member.id.as_str()));
    item.expires_at = now.checked_add_signed(USEFUL);
    Ok(Some(item))
}

/// Orders a text of what a message could not tell, because WeChat says that the person has not subscribed; in the transaction that
/// ends the message. None if it is not about assignments, or there is nobody to send a text to.
pub async fn text_instead(
    tx: &mut Tx,
    message_id: &str,
    message: &Message,
    text_template: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if message.template != TEMPLATE {
        return Ok(());
    }
    let id = format!("{message_id}{TEXT_SUFFIX}");
    if !tx.progress(std::slice::from_ref(&id)).await?.is_empty() {
        return Ok(());
    }
    let found = tx.staff_among(&[], &[message.open_id.as_str()]).await?;
    let Some(member) = found.first() else { return Ok(()) };
    let customers = message.customer_ids.clone();
    let Some(item) = text(tx, &id, text_template, member, &message.values, customers, now).await? else {
        return Ok(());
    };
    tx.enqueue(&item).await
}

fn customer_ids(items: &[&Assigned]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let ids = items.iter().map(|one| one.customer_id.as_str()).filter(|id| seen.insert(*id));
    ids.map(str::to_owned).collect()
}

/// The natural key of a message: what it tells, and when the same was planned before.
fn message_key(keys: &[(String, Option<DateTime<Utc>>)]) -> String {
    let mut sorted: Vec<_> = keys.iter().collect();
    sorted.sort();
    let mut hash = Sha256::new();
    for (key, earlier) in sorted {
        hash.update(key.as_bytes());
        hash.update(b"\n");
        hash.update(earlier.map_or_else(String::new, |at| at.timestamp_millis().to_string()).as_bytes());
        hash.update(b"\n");
    }
    let mut hex = hex::encode(hash.finalize());
    hex.truncate(32);
    format!("assignment:{hex}")
}

/// The values of the one message that tells all of these. What differs between them is the first one's.
fn values(items: &[&Assigned], now: DateTime<Utc>) -> BTreeMap<String, String> {
    let first = items.first();
    let any =
        |field: fn(&Assigned) -> Option<&String>| items.iter().find_map(|one| field(one)).cloned().unwrap_or_default();
    let n_customers = customer_ids(items).len();
    let name = first.map_or("", |one| one.customer_name.as_str());
    let customer_name = if n_customers > 1 {
        // The count says more than the end of a long name.
        let rest = format!("等{n_customers}位客户");
        let room = subscribe::THING_MAX.saturating_sub(rest.encode_utf16().count());
        format!("{}{rest}", subscribe::cut(name, room))
    } else {
        name.to_owned()
    };
    let at = items.iter().find_map(|one| one.assigned_at).unwrap_or(now);
    let by = any(|one| one.assigned_by.as_ref());
    let values = [
        ("customerName", customer_name),
        ("customerPhone", any(|one| one.customer_phone.as_ref())),
        ("customerCount", n_customers.to_string()),
        ("assignedBy", if by.is_empty() { "系统".to_owned() } else { by }),
        ("assignedAt", clock_text(at)),
        ("source", any(|one| one.source.as_ref())),
        ("remark", any(|one| one.remark.as_ref())),
    ];
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

/// What the caller is told about one assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    pub customer_id: String,
    /// `sent`, `queued` or `refused`.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// `sms` where a text message takes the message's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<&'static str>,
}

/// The present state of a plan; `progress` is what [`with_texts`] of its messages finds.
pub fn told(planned: &Planned, progress: &BTreeMap<String, Progress>) -> Told {
    let customer_id = planned.customer_id.clone();
    let Some(message) = &planned.message_id else {
        let reason = planned.reason.clone();
        return Told { customer_id, status: "refused", reason, message_id: None, via: None };
    };
    let item = current(message, progress);
    let message_id = item.map_or_else(|| message.clone(), |item| item.id.clone());
    let via = message_id.ends_with(TEXT_SUFFIX).then_some("sms");
    let or = |reason: &str| Some(item.and_then(|item| item.reason.clone()).unwrap_or_else(|| reason.to_owned()));
    let (status, reason) = match item.map(|item| item.status) {
        Some(OutboxStatus::Pending) => ("queued", None),
        Some(OutboxStatus::Delivered) => ("sent", None),
        Some(OutboxStatus::Skipped) => ("refused", or("SKIPPED")),
        Some(OutboxStatus::Dead) => ("refused", or("ATTEMPTS_EXHAUSTED")),
        // A message is never removed; if somebody did, nobody knows what became of it.
        Some(OutboxStatus::Unknown) | None => ("refused", Some("OUTCOME_UNKNOWN".to_owned())),
    };
    Told { customer_id, status, reason, message_id: Some(message_id), via }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(customer: &str, name: &str) -> Assigned {
        Assigned {
            customer_id: CustomerId::parse(customer).unwrap(),
            customer_name: name.to_owned(),
            customer_phone: None,
            assignee: Assignee::Staff(StaffId::parse("s-li").unwrap()),
            assigned_by: None,
            assigned_at: None,
            source: None,
            remark: None,
        }
    }

    #[test]
    fn one_message_names_the_first_and_counts_the_rest() {
        let now: DateTime<Utc> = "2026-11-21T16:05:00Z".parse().unwrap();
        let (a, b, c) = (assigned("c-1", "王小明"), assigned("c-2", "李四"), assigned("c-3", "赵六"));
        let all = values(&[&a, &b, &c, &a], now);
        assert_eq!((all["customerName"].as_str(), all["customerCount"].as_str()), ("王小明等3位客户", "3"));
        assert_eq!((all["assignedBy"].as_str(), all["assignedAt"].as_str()), ("系统", "2026年11月22日 00:05"));
        assert_eq!(values(&[&a], now)["customerName"], "王小明");
        let long = assigned("c-4", &"👨‍👩‍👧长".repeat(50));
        let named = values(&[&long, &a], now)["customerName"].clone();
        assert!(named.ends_with("等2位客户") && named.encode_utf16().count() <= subscribe::THING_MAX, "{named}");
    }

    #[test]
    fn a_message_is_named_by_what_it_tells_in_any_order() {
        let key = |key: &str, earlier: Option<i64>| (key.to_owned(), earlier.and_then(DateTime::from_timestamp_millis));
        let one = message_key(&[key("a", None), key("b", None)]);
        assert_eq!(one, message_key(&[key("b", None), key("a", None)]));
        assert_ne!(one, message_key(&[key("a", None), key("b", Some(1))]));
        assert_ne!(one, message_key(&[key("a", None)]));
        assert_eq!(one.len(), "assignment:".len() + 32);
    }
}
