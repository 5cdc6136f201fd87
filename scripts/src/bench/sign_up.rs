//! Many people sign up at once, and beside them the driver inserts the same documents.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue};
use domain::draw::TicketId;
use domain::{OpenId, UserId};
use edge::{App, Caller, Clock, Function, Invocation, Proof};
use serde::Serialize;
use serde_json::{Value, json};
use store::Store;
use store::baseline;
use store::lottery::Ticket;
use tokio::task::JoinSet;

use super::stats::{Spread, count};

/// The functions of one process, their database, and the yardstick's.
pub(super) struct Place {
    pub(super) app: Arc<App>,
    pub(super) clock: Clock,
    pub(super) direct: Store,
    pub(super) people: Vec<Person>,
    functions: Vec<Function>,
}

/// Somebody with a session.
pub(super) struct Person {
    pub(super) user: UserId,
    pub(super) open_id: OpenId,
    token: String,
}

/// Answers by code; those that were accepted have none.
pub(super) type Answers = BTreeMap<String, usize>;

/// How fast one side was, round by round.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rates {
    pub(super) clients: usize,
    pub(super) rounds: usize,
    pub(super) sign_ups_per_second: Option<Spread>,
    pub(super) inserts_per_second: Option<Spread>,
    pub(super) ratio: Option<Spread>,
}

impl Place {
    /// `n` members with sessions, in the functions' database.
    pub(super) async fn new(app: Arc<App>, clock: Clock, direct: Store, n: usize) -> Result<Self> {
        let mut people = Vec::with_capacity(n);
        for i in 0..n {
            let open_id = OpenId::parse(&format!("oBench-{i:021}"))?;
            let (token, _) = app.issue_user_token(&open_id, None, clock.now()).map_err(anyhow::Error::new)?;
            people.push(Person { user: UserId::parse(&format!("u-bench-{i:07}"))?, open_id, token });
        }
        let members: Vec<_> = people.iter().map(|p| (p.user.clone(), p.open_id.clone())).collect();
        baseline::insert_members(app.store(), &members, clock.now()).await?;
        Ok(Self { app, clock, direct, people, functions: gateway::functions() })
    }

    async fn invoke(&self, function: &str, proof: Proof, headers: HeaderMap, input: &Value) -> Result<(u16, Value)> {
        let function = self.functions.iter().find(|f| f.name() == function).context("no such function")?;
        let body = Bytes::from(input.to_string());
        let answer = edge::invoke(&self.app, function, Invocation { proof, headers, body, trace_id: None }).await;
        Ok((answer.status, answer.body.unwrap_or_default()))
    }

    /// Calls a function as somebody whom the host has identified; anything but success is an error.
    pub(super) async fn call(&self, function: &str, caller: Caller, input: Value) -> Result<Value> {
        let (status, body) = self.invoke(function, Proof::Caller(caller), HeaderMap::new(), &input).await?;
        ensure!(status == 200, "{function} answered {status}: {body}");
        Ok(body)
    }

    /// As the shop's own systems.
    pub(super) async fn call_service(&self, function: &str, input: Value) -> Result<Value> {
        let caller = Caller::Service { key_id: "bench".to_owned(), scopes: vec!["lottery".to_owned()] };
        self.call(function, caller, input).await
    }

    async fn sign_up(&self, person: usize, activity: &str) -> Result<String> {
        let person = self.people.get(person).context("no such person")?;
        let mut headers = HeaderMap::new();
        headers.insert("x-app-session", HeaderValue::from_str(&person.token)?);
        let proof = Proof::Http { method: "POST".to_owned(), path: "/".to_owned(), query: String::new() };
        let input = json!({ "action": "signUp", "activityId": activity });
        let (status, body) = self.invoke("lottery", proof, headers, &input).await?;
        let code = body.get("code").and_then(Value::as_str);
        ensure!(code.is_some() || status == 200, "lottery answered {status}: {body}");
        Ok(code.unwrap_or_default().to_owned())
    }

    async fn insert(&self, person: usize, round: &str, activity: &str) -> Result<()> {
        let person = self.people.get(person).context("no such person")?;
        let ticket = random_ticket(round, activity, person, &self.clock);
        Ok(self.direct.insert_ticket(&ticket).await?)
    }
}

/// A ticket as the function would store it, with an id of its own.
pub(super) fn random_ticket(round: &str, activity: &str, person: &Person, clock: &Clock) -> Ticket {
    Ticket {
        id: TicketId::from(baseline::random_bytes()).to_string(),
        round_id: round.to_owned(),
        activity_id: activity.to_owned(),
        user_id: person.user.clone(),
        open_id: person.open_id.clone(),
        request_key: None,
        at: clock.now(),
    }
}

/// Runs `work` for all of `wishes`, always `clients` at a time, and counts what it returns.
async fn run_all<F>(
    clients: usize,
    wishes: Vec<usize>,
    work: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Result<(Answers, Duration)>
where
    F: Future<Output = Result<String>> + Send + 'static,
{
    let (wishes, next) = (Arc::new(wishes), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (wishes, next, work) = (Arc::clone(&wishes), Arc::clone(&next), work.clone());
        tasks.spawn(async move {
            let mut answers = Answers::new();
            while let Some(wish) = wishes.get(next.fetch_add(1, Ordering::Relaxed)) {
                let seen = answers.entry(work(*wish).await?).or_default();
                *seen = seen.saturating_add(1);
            }
            anyhow::Ok(answers)
        });
    }
    let mut all = Answers::new();
    while let Some(ended) = tasks.join_next().await {
        for (code, n) in ended?? {
            let seen = all.entry(code).or_default();
            *seen = seen.saturating_add(n);
        }
    }
    Ok((all, begun.elapsed()))
}

/// Signs these people up with `clients` clients.
pub(super) async fn sign_up(
    place: &Arc<Place>,
    clients: usize,
    people: Vec<usize>,
    activity: &str,
) -> Result<(Answers, Duration)> {
    let (place, activity): (_, Arc<str>) = (Arc::clone(place), activity.into());
    let work = move |person| {
        let (place, activity) = (Arc::clone(&place), Arc::clone(&activity));
        async move { place.sign_up(person, &activity).await }
    };
    run_all(clients, people, work).await
}

async fn insert(
    place: &Arc<Place>,
    clients: usize,
    people: Vec<usize>,
    round: &str,
    activity: &str,
) -> Result<Duration> {
    let place = Arc::clone(place);
    let (round, activity): (Arc<str>, Arc<str>) = (round.into(), activity.into());
    let work = move |person| {
        let (place, round, activity) = (Arc::clone(&place), Arc::clone(&round), Arc::clone(&activity));
        async move { place.insert(person, &round, &activity).await.map(|()| String::new()) }
    };
    Ok(run_all(clients, people, work).await?.1)
}

/// Signs `people` up in `rounds` rounds, and lets the driver insert as many documents beside each.
pub(super) async fn compare(
    place: &Arc<Place>,
    clients: usize,
    rounds: usize,
    people: Vec<usize>,
    (round, activity): (&str, &str),
) -> Result<(Answers, Rates)> {
    let mut all = Answers::new();
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let size = people.len().div_ceil(rounds.max(1)).max(1);
    for (n, some) in people.chunks(size).enumerate() {
        let rate = |time: Duration| count(some.len()) / time.as_secs_f64();
        // The other way round each time, so that a machine that slows down slows down both.
        let function_first = n.is_multiple_of(2);
        let mut direct = None;
        if !function_first {
            direct = Some(insert(place, clients, some.to_vec(), round, activity).await?);
        }
        let (answers, time) = sign_up(place, clients, some.to_vec(), activity).await?;
        let direct = match direct {
            Some(direct) => direct,
            None => insert(place, clients, some.to_vec(), round, activity).await?,
        };
        add(&mut all, answers);
        ours.push(rate(time));
        theirs.push(rate(direct));
        ratios.push(rate(time) / rate(direct));
        eprintln!("    {:.0}/s, {:.0}/s", rate(time), rate(direct));
    }
    let rates = Rates {
        clients,
        rounds: ratios.len(),
        sign_ups_per_second: Spread::of(ours),
        inserts_per_second: Spread::of(theirs),
        ratio: Spread::of(ratios),
    };
    Ok((all, rates))
}

/// Adds answers up.
pub(super) fn add(all: &mut Answers, more: Answers) {
    for (code, n) in more {
        let seen = all.entry(code).or_default();
        *seen = seen.saturating_add(n);
    }
}
