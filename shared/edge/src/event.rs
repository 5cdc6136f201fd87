//! The event host: calls come line by line from the Node shim that started this process, and answers go back the same way.
//!
//! CloudBase gives HTTP functions no timers and no event calls; those come to a small Node function (`shim/index.js`), which
//! passes them on. The channel is standard input and output, so nobody else can reach it and neither side outlives the other.
//! A line to us is a [`Call`]; ours are `{"ready":true}` once, and `{"id","status","body"}` for each call. Logs go to standard error.

use std::collections::HashMap;
use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use domain::OpenId;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::app::App;
use crate::caller::{Caller, Proof, is_signed_event};
use crate::function::Function;
use crate::invoke::{Invocation, invoke};

/// The platform lets events of 6 MB through; as JSON in JSON one grows, and what is too long for a function is refused by it.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Lines that wait for a call to be begun.
const LINES_AHEAD: usize = 16;

/// One call, as the shim writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Call {
    pub(crate) id: u64,
    /// The event as JSON text.
    pub(crate) event: String,
    /// What the platform says about this call: the variables of its context, such as `WX_OPENID`.
    #[serde(default)]
    pub(crate) context: HashMap<String, String>,
    #[serde(default)]
    pub(crate) request_id: Option<String>,
    /// How long the answer may take, in milliseconds, until the shim gives up.
    pub(crate) remaining_ms: u64,
}

/// Serves calls from standard input until it ends, then lets running ones finish for at most `drain`.
pub(crate) async fn serve(app: Arc<App>, function: Function, drain: Duration) -> std::io::Result<()> {
    let (send, mut lines) = mpsc::channel(LINES_AHEAD);
    std::thread::Builder::new().name("events".to_owned()).spawn(move || read_lines(std::io::stdin().lock(), &send))?;
    say(&json!({ "ready": true }))?;
    let mut calls = JoinSet::new();
    while let Some(line) = lines.recv().await {
        while calls.try_join_next().is_some() {}
        let (app, function) = (Arc::clone(&app), function.clone());
        calls.spawn(async move {
            let call: Call = match serde_json::from_slice(&line) {
                Ok(call) => call,
                Err(error) => return tracing::error!(column = error.column(), "a line from the shim is no call"),
            };
            let answer = answer(&app, &function, call).await;
            if let Err(error) = say(&answer) {
                tracing::error!(%error, "the shim does not listen any more");
            }
        });
    }
    let all_done = async { while calls.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all_done).await.is_err() {
        tracing::warn!("stopped with calls still running");
    }
    Ok(())
}

/// Hands on whole lines until the input ends. One that is too long or cut off ends it too: what follows could not be told apart.
pub(crate) fn read_lines(mut input: impl BufRead, lines: &mpsc::Sender<Vec<u8>>) {
    loop {
        let mut line = Vec::new();
        match input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if line.last() != Some(&b'\n') => {
                return tracing::error!("a line from the shim is cut off or too long");
            }
            Ok(_) if lines.blocking_send(line).is_err() => return,
            Ok(_) => {}
            Err(error) => return tracing::error!(%error, "nothing can be read from the shim"),
        }
    }
}

fn say(message: &Value) -> std::io::Result<()> {
    let mut line = message.to_string();
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// Calls the function, and waits for what outlives the call too: the platform freezes this process once it has the answer.
pub(crate) async fn answer(app: &Arc<App>, function: &Function, call: Call) -> Value {
    let until = tokio::time::Instant::now() + Duration::from_millis(call.remaining_ms);
    let proof = proof(function, &call);
    let invocation =
        Invocation { proof, headers: HeaderMap::new(), body: Bytes::from(call.event), trace_id: call.request_id };
    let answer = invoke(app, function, invocation).await;
    tokio::time::timeout_at(until, app.nothing_left()).await.ok();
    json!({ "id": call.id, "status": answer.status, "body": answer.body })
}

/// Whose call it is. Only what the platform says about the call counts; `userInfo` in an event can be written by anybody.
fn proof(function: &Function, call: &Call) -> Proof {
    let signed = Proof::SignedEvent { function: function.name().to_owned() };
    let told = |name: &str| call.context.get(name).filter(|value| !value.is_empty());
    if is_signed_event(call.event.as_bytes()) {
        return signed;
    }
    if let Some(open_id) = told("WX_OPENID") {
        return match OpenId::parse(open_id) {
            Ok(open_id) => Proof::Caller(Caller::User { open_id, union_id: told("WX_UNIONID").cloned() }),
            Err(_) => Proof::Caller(Caller::Anonymous),
        };
    }
    let by_timer = match told("TRIGGER_SRC") {
        Some(source) => source.eq_ignore_ascii_case("timer"),
        // Said by clients, and only by them; nothing at all is what a timer's call has on older platforms.
        None => !["TCB_SOURCE", "TCB_UUID", "LOGINTYPE", "WX_APPID"].into_iter().any(|name| told(name).is_some()),
    };
    match timer_of(&call.event).filter(|_| by_timer) {
        Some((trigger, time)) => Proof::Caller(Caller::Timer { trigger, time }),
        None => signed,
    }
}

/// The trigger and time of a timer's event: `{"Type":"Timer","TriggerName":…,"Time":…,"Message":…}`.
fn timer_of(event: &str) -> Option<(String, DateTime<Utc>)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Timer {
        r#type: String,
        trigger_name: String,
        time: DateTime<Utc>,
    }
    let timer: Timer = serde_json::from_str(event).ok()?;
    timer.r#type.eq_ignore_ascii_case("timer").then_some((timer.trigger_name, timer.time))
}
