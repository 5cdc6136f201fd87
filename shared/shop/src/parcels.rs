//! Couriers' parcels: asking where one is, having its news pushed, and what that means for the orders in it.
//!
//! Kuaidi100 locks a number that is asked about too often, so each query is written down before it is made, by a write that only one
//! of many can win; everybody else is told what is known. Its pushes repeat, come late and out of order, or not at all: whatever
//! comes, by push or query, goes through [`take_trace`].

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::text::mask_phones;
use domain::{Code, Failure, Logistics, OrderId, OrderStatus, ParcelState, Refusal, ShopRules, Tells};
use providers::kuaidi100::lock::{QUERIES_APART, may_query, may_subscribe};
use providers::kuaidi100::push::{Push, PushStatus};
use providers::kuaidi100::{
    Account, Class, Company, Kuaidi100Error, ParcelStatus, Query, ResultForm, Subscription, Trace, advances,
    is_waybill_number,
};
use serde::{Deserialize, Serialize};
use store::orders::{Order, Shipping};
use store::outbox::OutboxItem;
use store::parcels::{At, Attention, Following, ORDERS_MAX, Parcel, ParcelSubscription, ParcelTrace, TRACES_KEPT};
use store::{Error, Store, Tx, crashpoint};

use crate::delivery::{Outcome, Why};
use crate::events;
use crate::views::iso;

/// `outbox.kind` of a subscription to a parcel's news.
pub const KIND: &str = "parcelSubscription";

/// As long as news come by themselves, nothing is asked so soon after the last ones.
const FOLLOWED_APART: TimeDelta = TimeDelta::hours(4);
/// The longest pause after queries that told nothing.
const QUERIES_APART_MAX: TimeDelta = TimeDelta::hours(4);
/// While the account is refused, no parcel is subscribed to.
const ACCOUNT_PAUSE: Duration = Duration::from_secs(600);
/// A subscription that may only be made later than that is given up.
const WORTH_WAITING: TimeDelta = TimeDelta::days(7);
/// An entry that lies further in the future is a courier's mistake, and would hide all that follow.
const AHEAD_MAX: TimeDelta = TimeDelta::hours(24);
const TEXT_MAX: usize = 500;
const LOCATION_MAX: usize = 100;
/// Two orders may meet in making the parcel that both are in.
const MEETINGS_MAX: u32 = 3;

/// Why nothing new is told about a parcel, as a stable code.
pub const NOT_CONFIGURED: &str = "NOT_CONFIGURED";
pub const PHONE_NEEDED: &str = "PHONE_NEEDED";

/// A company and number that Kuaidi100 may know.
#[derive(Clone, Copy, Debug)]
pub struct Waybill<'a> {
    company: &'static Company,
    number: &'a str,
}

impl<'a> Waybill<'a> {
    /// `COMPANY_UNKNOWN` or `NUMBER_UNKNOWN` otherwise.
    pub fn of(company: &str, number: &'a str) -> Result<Self, &'static str> {
        let company = Company::of(company).ok_or("COMPANY_UNKNOWN")?;
        if is_waybill_number(number) { Ok(Self { company, number }) } else { Err("NUMBER_UNKNOWN") }
    }

    fn of_shipping(shipping: &'a Shipping) -> Result<Self, &'static str> {
        let text = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
        Self::of(text(&shipping.express_company), text(&shipping.tracking_no))
    }

    /// `parcels._id`.
    pub fn key(&self) -> String {
        Parcel::key(self.company.code, self.number)
    }

    fn parcel(&self, now: DateTime<Utc>) -> Result<Parcel, Error> {
        Parcel::new(self.company.code, self.company.kuaidi100, self.number, now)
    }
}

/// Puts an order that is being shipped into its courier's parcel, and has the parcel followed, where the shop follows parcels.
pub(crate) async fn put_in(
    tx: &mut Tx,
    rules: &ShopRules,
    order: &Order,
    shipping: &mut Shipping,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if !rules.parcels_followed || shipping.logistics != Logistics::Express {
        return Ok(());
    }
    match Waybill::of_shipping(shipping) {
        Err(reason) => shipping.untracked = Some(reason.to_owned()),
        Ok(waybill) => {
            let parcel = attach(tx, &waybill, order, &rules.tells, true, now).await?;
            match parcel {
                Some(parcel) => shipping.parcel = Some(parcel.summary(order)),
                None => shipping.untracked = Some("PARCEL_FULL".to_owned()),
            }
        }
    }
    Ok(())
}

/// Whether to repeat a transaction that failed because another one made the same parcel meanwhile.
pub(crate) fn met(error: &Error, tries: &mut u32) -> bool {
    *tries = tries.saturating_add(1);
    *tries < MEETINGS_MAX && error.is_duplicate_of("parcels")
}

/// The parcel with this order in it, made if it is new, and followed if that is wanted and possible; none if too many orders are
/// in it, as in one whose number was made up.
async fn attach(
    tx: &mut Tx,
    waybill: &Waybill<'_>,
    order: &Order,
    tells: &Tells,
    follow: bool,
    now: DateTime<Utc>,
) -> Result<Option<Parcel>, Error> {
    let found = tx.parcel(&waybill.key()).await?;
    let is_new = found.is_none();
    let mut parcel = found.map_or_else(|| waybill.parcel(now), Ok)?;
    if parcel.orders.len() >= ORDERS_MAX {
        return Ok(None);
    }
    parcel.add_order(order);
    let ended = parcel.subscription.as_ref().is_none_or(|s| s.state == Following::Aborted);
    if follow && ended && !parcel.state.is_final() {
        subscribe_later(tx, &mut parcel, &order.id, now).await?;
    }
    if is_new {
        tx.insert_parcel(&parcel).await?;
    } else {
        write(tx, &mut parcel, tells, now).await?;
    }
    Ok(Some(parcel))
}

/// Puts the next subscription to a parcel's news into the outbox.
async fn subscribe_later(tx: &mut Tx, parcel: &mut Parcel, order: &OrderId, now: DateTime<Utc>) -> Result<(), Error> {
    let n = parcel.subscription.as_ref().map_or(0, |s| s.n).saturating_add(1);
    parcel.subscription = Some(ParcelSubscription { n, state: Following::Pending, reason: None });
    parcel.attention = parcel.attention.filter(|attention| *attention != Attention::Lost);
    let follow = Follow { parcel_id: parcel.id.clone(), n };
    let mut item = OutboxItem::new(format!("parcel:{}:{n}", parcel.id), KIND, &follow, now)?;
    item.order_id = Some(order.clone());
    // Kuaidi100 takes one again half an hour after it has ended one.
    if let Some(ended) = parcel.unsubscribed_at {
        item.next_attempt_at = now.max(ended + QUERIES_APART);
    }
    tx.enqueue(&item).await
}

/// Writes a parcel and what its orders show of it, and tells the buyers whose goods have arrived.
async fn write(tx: &mut Tx, parcel: &mut Parcel, tells: &Tells, now: DateTime<Utc>) -> Result<(), Error> {
    parcel.updated_at = now;
    parcel.open = !parcel.state.is_final();
    tx.write_parcel(parcel).await?;
    for entry in &parcel.orders {
        let Some(order) = tx.order(&entry.order_id).await? else { continue };
        let summary = parcel.summary(&order);
        let Some(shipping) = &order.shipping else { continue };
        let Some(shown) = &shipping.parcel else { continue };
        if *shown == summary {
            continue;
        }
        if !tx.show_parcel(&order.id, &summary).await? {
            return Err(Error::Invariant(format!("order {} shows another parcel", order.id)));
        }
        if let Some(arrived_at) = summary.arrived_at.filter(|_| shown.arrived_at.is_none())
            && order.status == OrderStatus::Shipped
        {
            events::order_arrived(tx, &order, shipping, arrived_at, tells, now).await?;
        }
    }
    Ok(())
}

/// What a state asks of staff.
fn attention_of(state: ParcelState) -> Option<Attention> {
    if state.is_return() {
        Some(Attention::Returning)
    } else if state == ParcelState::Problem {
        Some(Attention::Problem)
    } else {
        None
    }
}

/// What a trace changes in a parcel; false if it is not news. Traces are whole, so an older one is one that ends earlier, or ends at
/// the same moment with fewer entries.
fn take_trace(parcel: &mut Parcel, trace: &Trace, now: DateTime<Utc>) -> bool {
    let nodes: Vec<_> = trace.nodes.iter().filter(|node| node.at <= now + AHEAD_MAX).collect();
    let (newest_at, count) = (nodes.first().map(|node| node.at), i64::try_from(nodes.len()).unwrap_or(i64::MAX));
    let is_news = match (parcel.newest_at, newest_at) {
        (Some(known), Some(new)) => (new, count) >= (known, parcel.trace_count),
        (None, _) => true,
        (Some(_), None) => false,
    };
    if !is_news {
        return false;
    }
    let ParcelStatus { state, code } = trace.status.clone();
    if advances(Some((parcel.state, parcel.newest_at)), (state, newest_at)) {
        parcel.state = state;
        parcel.code = code;
        parcel.attention =
            attention_of(state).or(parcel.attention.filter(|a| *a == Attention::Lost && !state.is_final()));
        if state.is_signed() {
            parcel.signed_at = Some(newest_at.unwrap_or(now).min(now));
        }
    } else if parcel.state.is_signed() && state.is_return() {
        // Nothing leads back from a receipt, but somebody should look.
        parcel.attention = Some(Attention::Returning);
    } else if state == ParcelState::Unknown && !code.is_empty() {
        parcel.code = code.chars().take(64).collect();
    }
    let cut = |text: &str, max: usize| mask_phones(text).chars().take(max).collect::<String>();
    parcel.newest_at = newest_at;
    parcel.trace_count = count;
    parcel.traces = nodes
        .into_iter()
        .take(TRACES_KEPT)
        .map(|node| ParcelTrace {
            at: node.at,
            text: cut(&node.text, TEXT_MAX),
            location: node.location.as_deref().map(|location| cut(location, LOCATION_MAX)),
            state: node.status.as_ref().map(|status| status.state),
        })
        .collect();
    true
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    Taken,
    /// The same push was taken before.
    Repeated,
    /// No parcel of ours has this subscription.
    Unknown,
    /// It tells of another parcel than the one that was subscribed to.
    OtherParcel,
}

/// The parcel's `ref` and the number of the subscription in its name.
pub fn read_name(name: &str) -> Option<(&str, i64)> {
    let (reference, n) = name.split_once('-')?;
    Some((reference, n.parse().ok()?))
}

fn name(parcel: &Parcel, n: i64) -> String {
    format!("{}-{n}", parcel.reference)
}

/// Takes a proven push of the `n`th subscription to a parcel.
pub async fn receive(
    store: &Store,
    tells: &Tells,
    reference: &str,
    n: i64,
    push: &Push,
    now: DateTime<Utc>,
) -> Result<Received, Failure> {
    let received = store.transaction(|tx, _| {
        Box::pin(async move {
            let Some(mut parcel) = tx.parcel_by_ref(reference).await? else { return Ok(Received::Unknown) };
            let number = push.trace.as_ref().and_then(|trace| trace.number.as_deref());
            if number.is_some_and(|number| !number.trim().eq_ignore_ascii_case(&parcel.number)) {
                return Ok(Received::OtherParcel);
            }
            if !parcel.pushed(format!("{n}:{}", push.param_sha256), now) {
                return Ok(Received::Repeated);
            }
            take_push(tx, &mut parcel, n, push, now).await?;
            write(tx, &mut parcel, tells, now).await?;
            crashpoint("parcel.inside").await;
            Ok(Received::Taken)
        })
    });
    let received = received.await?;
    crashpoint("parcel.received").await;
    Ok(received)
}

async fn take_push(tx: &mut Tx, parcel: &mut Parcel, n: i64, push: &Push, now: DateTime<Utc>) -> Result<(), Error> {
    let is_code = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    // A correction may be told again with every later push.
    let corrected = push.correction.as_ref().map(|correction| correction.to.as_str()).filter(|com| *com != parcel.com);
    if let Some(com) = corrected.filter(|com| (1..=64).contains(&com.len()) && com.chars().all(is_code)) {
        parcel.com = com.to_owned();
    }
    if let Some(trace) = &push.trace {
        take_trace(parcel, trace, now);
    }
    let Some(subscription) = parcel.subscription.as_mut().filter(|subscription| subscription.n == n) else {
        return Ok(());
    };
    let live = matches!(subscription.state, Following::Pending | Following::Active | Following::Refused);
    match &push.status {
        // With a correction they have subscribed to the right company's parcel by themselves.
        PushStatus::Abort if corrected.is_none() && live => {
            subscription.state = Following::Aborted;
            parcel.unsubscribed_at = Some(now);
            if parcel.state.is_final() {
                return Ok(());
            }
            match parcel.orders.last().map(|entry| entry.order_id.clone()) {
                Some(order) if n == 1 => subscribe_later(tx, parcel, &order, now).await?,
                _ => parcel.attention = parcel.attention.or(Some(Attention::Lost)),
            }
        }
        PushStatus::Shutdown if live => {
            subscription.state = Following::Ended;
            parcel.unsubscribed_at = Some(now);
        }
        _ if live => subscription.state = Following::Active,
        _ => {}
    }
    Ok(())
}

/// The payload of a subscription in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Follow {
    pub parcel_id: String,
    /// The number of the subscription.
    pub n: i64,
}

/// Subscribes to a parcel's news. Repeating it is harmless: it then is a subscription that Kuaidi100 knows already.
pub(crate) async fn deliver(
    store: &Store,
    account: &Account,
    follow: &Follow,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    let Some(parcel) = store.parcel(&follow.parcel_id).await? else {
        return Ok(Outcome::Dead(Why::new("PARCEL_MISSING", "the parcel is not there")));
    };
    let own = parcel.subscription.as_ref().filter(|subscription| subscription.n == follow.n);
    match own.map(|subscription| subscription.state) {
        Some(Following::Pending | Following::Refused) => {}
        // An earlier try was taken, as its answer or its news tell.
        Some(Following::Active | Following::Ended | Following::Aborted) => return Ok(Outcome::Delivered),
        None => return Ok(Outcome::Skipped(Why::new("SUPERSEDED", "a newer subscription takes its place"))),
    }
    if parcel.state.is_final() {
        stand(store, follow, Following::Ended, None, now).await?;
        return Ok(Outcome::Skipped(Why::new("PARCEL_ENDED", "nothing more is expected of the parcel")));
    }
    if let Err(at) = may_subscribe(&times(&parcel.subscribed), parcel.unsubscribed_at, now) {
        let why = Why::new("SUBSCRIBED_TOO_OFTEN", "Kuaidi100 takes no subscription to this parcel before some time");
        if at - now > WORTH_WAITING {
            stand(store, follow, Following::Refused, Some(why.reason), now).await?;
            return Ok(Outcome::Skipped(why));
        }
        return Ok(Outcome::Later { why, at_least: (at - now).to_std().unwrap_or_default() });
    }
    let phone = phone_of(store, &parcel).await?;
    let name = name(&parcel, follow.n);
    let subscription = Subscription {
        company: &parcel.com,
        number: &parcel.number,
        phone: phone.as_deref(),
        from: None,
        to: None,
        callback_url: &account.callback_url(&name),
        salt: &account.salt(&name),
        form: ResultForm::Advanced,
    };
    let error = match account.client.subscribe(&subscription).await {
        Ok(_) => {
            crashpoint("parcel.subscribed").await;
            stand(store, follow, Following::Active, None, now).await?;
            return Ok(Outcome::Delivered);
        }
        Err(error) => error,
    };
    let why = |reason| Why::new(reason, error.to_string());
    let (reason, outcome): (_, fn(Why) -> Outcome) = match error.class() {
        Class::Retry => return Ok(Outcome::later(why("KUAIDI100_BUSY"))),
        Class::WaitHalfHour => {
            let at_least = QUERIES_APART.to_std().unwrap_or_default();
            return Ok(Outcome::Later { why: why("KUAIDI100_UNCLEAR"), at_least });
        }
        Class::Alarm => return Ok(Outcome::Paused { why: why("KUAIDI100_ACCOUNT"), pause: ACCOUNT_PAUSE }),
        Class::AskPhone => (PHONE_NEEDED, Outcome::Skipped),
        Class::Config => ("REFUSED_BY_KUAIDI100", Outcome::Dead),
    };
    stand(store, follow, Following::Refused, Some(reason), now).await?;
    Ok(outcome(why(reason)))
}

/// Writes down how a subscription stands, unless its news were faster.
async fn stand(
    store: &Store,
    follow: &Follow,
    state: Following,
    reason: Option<&'static str>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    store
        .transaction(|tx, _| {
            Box::pin(async move {
                let Some(mut parcel) = tx.parcel(&follow.parcel_id).await? else { return Ok(()) };
                if state == Following::Active {
                    parcel.followed(now);
                }
                if let Some(own) = parcel.subscription.as_mut().filter(|own| own.n == follow.n)
                    && matches!(own.state, Following::Pending | Following::Refused)
                {
                    own.state = state;
                    own.reason = reason.map(str::to_owned);
                }
                parcel.updated_at = now;
                tx.write_parcel(&parcel).await
            })
        })
        .await
}

fn times(list: &[At]) -> Vec<DateTime<Utc>> {
    list.iter().map(|at| at.0).collect()
}

/// The receiver's phone, for the companies that tell nothing without one; no more of it than they want.
async fn phone_of(store: &Store, parcel: &Parcel) -> Result<Option<String>, Error> {
    let company = Company::by_kuaidi100(&parcel.com).filter(|company| company.needs_phone());
    let (Some(company), Some(entry)) = (company, parcel.orders.last()) else { return Ok(None) };
    let order = store.order(&entry.order_id).await?;
    Ok(order.map(|order| as_wanted(company, &order.address.phone)))
}

fn as_wanted(company: &Company, phone: &str) -> String {
    let skip = if company.takes_four_digits() { phone.chars().count().saturating_sub(4) } else { 0 };
    phone.chars().skip(skip).collect()
}

/// What is known of a parcel, and why it is not more, as a stable code.
#[derive(Debug)]
pub struct Known {
    pub parcel: Parcel,
    pub reason: Option<String>,
}

/// What is known of a parcel, asked anew where that is allowed and promises news.
pub async fn look(
    store: &Store,
    account: Option<&Account>,
    tells: &Tells,
    parcel: Parcel,
    phone: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Known, Failure> {
    let known = |parcel: Parcel| Known { reason: parcel.query_error.clone(), parcel };
    let because = |parcel, reason: &str| Known { parcel, reason: Some(reason.to_owned()) };
    let Some(account) = account else { return Ok(because(parcel, NOT_CONFIGURED)) };
    if !is_worth_asking(&parcel, now) {
        return Ok(known(parcel));
    }
    let company = Company::by_kuaidi100(&parcel.com).filter(|company| company.needs_phone());
    let phone = match (company, phone) {
        (None, _) => None,
        (Some(company), Some(phone)) => Some(as_wanted(company, phone)),
        (Some(_), None) => phone_of(store, &parcel).await?,
    };
    if company.is_some() && phone.is_none() {
        return Ok(because(parcel, PHONE_NEEDED));
    }
    let mut claimed = parcel.clone();
    claimed.asked(now);
    claimed.next_query_at = Some(now + QUERIES_APART);
    claimed.updated_at = now;
    if !store.write_parcel(&claimed).await? {
        // Somebody else asks, or has just heard.
        return Ok(known(store.parcel(&parcel.id).await?.unwrap_or(parcel)));
    }
    crashpoint("parcel.asking").await;
    let query = Query {
        company: &parcel.com,
        number: &parcel.number,
        phone: phone.as_deref(),
        from: None,
        to: None,
        form: ResultForm::Advanced,
    };
    let answer = account.client.query(&query).await;
    if let Err(error) = &answer {
        let class = error.class();
        let error = error.to_string();
        match class {
            Class::Alarm => tracing::error!(error, "Kuaidi100 refuses the shop"),
            _ => tracing::info!(error, "nothing new about a parcel"),
        }
    }
    let answer = answer.as_ref();
    let heard = store.transaction(|tx, _| {
        let id = &parcel.id;
        Box::pin(async move {
            let Some(mut parcel) = tx.parcel(id).await? else { return Ok(None) };
            take_answer(&mut parcel, answer, now);
            write(tx, &mut parcel, tells, now).await?;
            Ok(Some(parcel))
        })
    });
    let heard = heard.await?;
    Ok(known(heard.unwrap_or(parcel)))
}

fn take_answer(parcel: &mut Parcel, answer: Result<&Trace, &Kuaidi100Error>, now: DateTime<Utc>) {
    match answer {
        Ok(trace) => {
            take_trace(parcel, trace, now);
            parcel.failures = 0;
            parcel.query_error = None;
        }
        Err(error) => {
            parcel.failures = parcel.failures.saturating_add(1);
            parcel.query_error = Some(reason_of(error).to_owned());
            let doublings = u32::try_from(parcel.failures.saturating_sub(1).clamp(0, 3)).unwrap_or(3);
            let pause = (QUERIES_APART * 2i32.pow(doublings)).min(QUERIES_APART_MAX);
            parcel.next_query_at = Some(now + pause);
        }
    }
}

fn reason_of(error: &Kuaidi100Error) -> &'static str {
    match (error, error.class()) {
        (Kuaidi100Error::NoTrace(_), _) => "NO_TRACE",
        (_, Class::AskPhone) => PHONE_NEEDED,
        (_, Class::Config) => "REFUSED",
        (_, Class::Alarm) => "ACCOUNT",
        (_, Class::Retry | Class::WaitHalfHour) => "UPSTREAM",
    }
}

/// Whether a query is allowed and may tell something that is not pushed anyway.
fn is_worth_asking(parcel: &Parcel, now: DateTime<Utc>) -> bool {
    let asked = times(&parcel.queries);
    let heard = parcel.last_push_at.into_iter().chain(asked.iter().copied()).max();
    let pushed = parcel.subscription.as_ref().is_some_and(|s| s.state == Following::Active)
        && heard.is_some_and(|heard| now < heard + FOLLOWED_APART);
    parcel.open && !pushed && parcel.next_query_at.is_none_or(|at| at <= now) && may_query(&asked, now).is_ok()
}

/// The parcel of a shipped order, into which it is put if it was shipped when parcels were not followed; none if Kuaidi100 cannot
/// know it. With `follow` its news are subscribed to, also again after they ended or were refused.
pub async fn of_order(
    store: &Store,
    tells: &Tells,
    order: &Order,
    follow: bool,
    now: DateTime<Utc>,
) -> Result<Option<Parcel>, Failure> {
    let Some(shipping) = &order.shipping else {
        return Err(Refusal::new(Code::OrderStateInvalid).with_message("订单尚未发货").into());
    };
    if shipping.logistics != Logistics::Express {
        return Ok(None);
    }
    let Ok(waybill) = Waybill::of_shipping(shipping) else { return Ok(None) };
    if !follow && let Some(shown) = &shipping.parcel {
        return Ok(store.parcel(&shown.id).await?);
    }
    let (id, waybill) = (&order.id, &waybill);
    let mut tries = 0;
    loop {
        let parcel = store
            .transaction(|tx, _| Box::pin(async move { put_in_afterwards(tx, waybill, id, tells, follow, now).await }));
        match parcel.await {
            Err(error) if met(&error, &mut tries) => {}
            done => return Ok(Some(done?)),
        }
    }
}

async fn put_in_afterwards(
    tx: &mut Tx,
    waybill: &Waybill<'_>,
    id: &OrderId,
    tells: &Tells,
    follow: bool,
    now: DateTime<Utc>,
) -> Result<Parcel, Error> {
    let order = tx.order(id).await?.ok_or(Code::OrderNotFound)?;
    let in_it = order.shipping.as_ref().is_some_and(|shipping| shipping.parcel.is_some());
    if !in_it {
        let full = || Refusal::new(Code::Conflict).with_message("同一运单的订单过多");
        let parcel = attach(tx, waybill, &order, tells, follow, now).await?.ok_or_else(full)?;
        return match tx.put_into_parcel(id, &parcel.summary(&order)).await? {
            true => Ok(parcel),
            false => Err(gone(&order)),
        };
    }
    let mut parcel = tx.parcel(&waybill.key()).await?.ok_or_else(|| gone(&order))?;
    let state = parcel.subscription.as_ref().map(|subscription| subscription.state);
    let again = matches!(state, None | Some(Following::Aborted | Following::Refused));
    if follow && again && !parcel.state.is_final() {
        subscribe_later(tx, &mut parcel, id, now).await?;
        write(tx, &mut parcel, tells, now).await?;
    }
    Ok(parcel)
}

fn gone(order: &Order) -> Error {
    Error::Invariant(format!("the parcel of order {} is not there", order.id))
}

/// The parcel with this waybill, kept from now on if it is new.
pub async fn of_waybill(store: &Store, waybill: &Waybill<'_>, now: DateTime<Utc>) -> Result<Parcel, Failure> {
    match store.parcel(&waybill.key()).await? {
        Some(parcel) => Ok(parcel),
        None => Ok(store.keep_parcel(waybill.parcel(now)?).await?),
    }
}

/// One entry of a trace.
#[derive(Debug, Serialize)]
pub struct TraceView {
    at: String,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<ParcelState>,
}

/// A parcel, for its receiver and for staff.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelView {
    parcel_id: String,
    express_company: String,
    company_name: String,
    tracking_no: String,
    state: ParcelState,
    state_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrived_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<Attention>,
    #[serde(skip_serializing_if = "Option::is_none")]
    following: Option<Following>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queried_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_query_at: Option<String>,
    /// Newest first.
    traces: Vec<TraceView>,
}

impl From<&Parcel> for ParcelView {
    fn from(parcel: &Parcel) -> Self {
        let company = Company::by_kuaidi100(&parcel.com).or_else(|| Company::by_code(&parcel.company));
        let trace = |trace: &ParcelTrace| TraceView {
            at: iso(trace.at),
            text: trace.text.clone(),
            location: trace.location.clone(),
            state: trace.state,
        };
        Self {
            parcel_id: parcel.id.clone(),
            express_company: parcel.company.clone(),
            company_name: company.map_or(parcel.com.as_str(), |company| company.name).to_owned(),
            tracking_no: parcel.number.clone(),
            state: parcel.state,
            state_text: text_of(parcel.state, &parcel.code),
            updated_at: parcel.newest_at.map(iso),
            arrived_at: parcel.signed_at.map(iso),
            attention: parcel.attention,
            following: parcel.subscription.as_ref().map(|subscription| subscription.state),
            queried_at: parcel.queries.last().map(|at| iso(at.0)),
            next_query_at: parcel.next_query_at.filter(|_| parcel.open).map(iso),
            traces: parcel.traces.iter().map(trace).collect(),
        }
    }
}

impl ParcelView {
    /// The newest entry alone, for lists.
    pub fn brief(mut self) -> Self {
        self.traces.truncate(1);
        self
    }
}

/// What is wrong with a parcel is told by the finer code.
fn text_of(state: ParcelState, code: &str) -> &'static str {
    let finer = ParcelStatus::of(code).name().filter(|_| state == ParcelState::Problem);
    finer.unwrap_or_else(|| state.message())
}

#[cfg(test)]
mod tests;
