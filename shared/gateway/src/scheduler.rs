//! Runs timers by the functions' clock, which may jump ahead: then each timer runs once, for its latest tick.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use domain::{Code, Refusal};
use edge::{Answer, Caller, Proof};
use http::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::schedule::Timer;
use crate::{Gateway, Invoked};

/// How late a tick may be noticed. The platform promises a second.
const POLL: Duration = Duration::from_millis(250);
/// How long a tick is remembered as taken: longer than the clocks of two processes differ.
const LEASE: TimeDelta = TimeDelta::hours(1);

pub(crate) struct Scheduler {
    entries: Vec<Arc<Entry>>,
    /// This process, as the holder of leases.
    owner: String,
    woken: Notify,
}

struct Entry {
    timer: Timer,
    running: AtomicBool,
    last: Mutex<Option<Run>>,
}

/// How a timer's last run ended.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// The tick that it ran for.
    pub tick: DateTime<Utc>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// How long it took.
    pub duration_ms: u64,
    /// What the function answered.
    pub result: Value,
}

/// A timer as the page shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TimerStatus {
    /// The function that it calls.
    pub function: String,
    /// The trigger's name.
    pub trigger: String,
    /// The cron expression.
    pub expression: String,
    /// Its next tick.
    pub next: Option<DateTime<Utc>>,
    /// Whether it is running in this process now.
    pub running: bool,
    /// Its last run in this process.
    pub last: Option<Run>,
}

impl Scheduler {
    pub(crate) fn new(timers: Vec<Timer>) -> Self {
        let entry = |timer| Arc::new(Entry { timer, running: AtomicBool::new(false), last: Mutex::new(None) });
        Self {
            entries: timers.into_iter().map(entry).collect(),
            owner: hex::encode(rand::random::<[u8; 8]>()),
            woken: Notify::new(),
        }
    }

    pub(crate) fn wake(&self) {
        self.woken.notify_one();
    }

    pub(crate) fn statuses(&self, now: DateTime<Utc>) -> Vec<TimerStatus> {
        let status = |entry: &Arc<Entry>| TimerStatus {
            function: entry.timer.function.clone(),
            trigger: entry.timer.trigger.clone(),
            expression: entry.timer.expression.clone(),
            next: entry.timer.next_after(now),
            running: entry.running.load(Ordering::SeqCst),
            last: entry.last.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        self.entries.iter().map(status).collect()
    }
}

/// Looks for due ticks until it is dropped. A run that has begun goes on to its end.
pub(crate) async fn run(gateway: &Gateway) {
    let scheduler = &gateway.inner.scheduler;
    let clock = &gateway.inner.app.clock;
    let start = clock.now();
    let mut seen: Vec<DateTime<Utc>> = scheduler.entries.iter().map(|_| start).collect();
    loop {
        let now = clock.now();
        for (entry, seen) in scheduler.entries.iter().zip(seen.iter_mut()) {
            let Some(tick) = entry.timer.latest_due(*seen, now) else { continue };
            // A run that takes longer than its interval is not doubled; its latest tick waits.
            if entry.running.swap(true, Ordering::SeqCst) {
                continue;
            }
            *seen = tick;
            let (gateway, entry) = (gateway.clone(), Arc::clone(entry));
            tokio::spawn(async move {
                run_tick(&gateway, &entry, tick, now).await;
                entry.running.store(false, Ordering::SeqCst);
            });
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = scheduler.woken.notified() => {}
        }
    }
}

async fn run_tick(gateway: &Gateway, entry: &Entry, tick: DateTime<Utc>, now: DateTime<Utc>) {
    let timer = &entry.timer;
    let lease = format!("timer:{}:{}:{}", timer.function, timer.trigger, wire_time(tick));
    let owner = &gateway.inner.scheduler.owner;
    match gateway.inner.app.store().acquire_lease(&lease, owner, LEASE, now).await {
        Ok(true) => {
            invoke(gateway, entry, tick).await;
        }
        // Another process has it.
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(function = timer.function, trigger = timer.trigger, error = %error, "tick skipped: no lease");
        }
    }
}

/// Runs a timer outside of its schedule.
pub(crate) async fn fire(gateway: &Gateway, name: &str) -> Answer {
    let entries = &gateway.inner.scheduler.entries;
    let found = entries.iter().find(|entry| entry.timer.function == name || entry.timer.trigger == name);
    match found {
        Some(entry) => invoke(gateway, entry, gateway.inner.app.clock.now()).await,
        None => {
            let known: Vec<&str> = entries.iter().map(|entry| entry.timer.function.as_str()).collect();
            let refusal = Refusal::new(Code::NotFound).with_message("没有这个定时器").detail("timers", known);
            Answer::refused(&refusal, edge::trace_id_of(&HeaderMap::new()))
        }
    }
}

async fn invoke(gateway: &Gateway, entry: &Entry, tick: DateTime<Utc>) -> Answer {
    let timer = &entry.timer;
    let trace_id = edge::trace_id_of(&HeaderMap::new());
    let Some(function) = gateway.function(&timer.function) else {
        tracing::error!(
            function = timer.function,
            trigger = timer.trigger,
            "a timer calls a function that is not here"
        );
        return Answer::refused(&Refusal::new(Code::FunctionNotFound), trace_id);
    };
    let event = json!({ "Type": "Timer", "TriggerName": timer.trigger, "Time": wire_time(tick), "Message": "" });
    let request = Invoked {
        proof: Proof::Caller(Caller::Timer { trigger: timer.trigger.clone(), time: tick }),
        headers: HeaderMap::new(),
        body: Bytes::from(event.to_string()),
        trace_id: Some(trace_id),
    };
    let started = Instant::now();
    let answer = gateway.call(function, "timer", request).await;
    let run = Run {
        at: gateway.inner.app.clock.now(),
        tick,
        status: answer.status,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        result: answer.body.clone().unwrap_or(Value::Null),
    };
    *entry.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(run);
    answer
}

/// As the platform writes it: UTC, whole seconds.
fn wire_time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
