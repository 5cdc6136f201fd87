//! All functions behind one port: the local cloud and the self-hosted server.
//!
//! Owns the routes of `CloudBase` and WeChat that lead to functions, the timers, and the page of the local cloud.
//! Knows nothing about what any function does: every route ends in [`edge::invoke`].

mod calls;
pub mod clock_file;
mod control;
mod cors;
mod functions;
mod page;
mod routes;
mod schedule;
mod scheduler;
mod tc3;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use bytes::Bytes;
use chrono::TimeDelta;
use edge::{Answer, App, Function, Invocation, Proof};
use http::HeaderMap;
use serde_json::Value;

pub use calls::Call;
pub use functions::functions;
pub use schedule::{Timer, TimerError, timers};
pub use scheduler::{Run, TimerStatus};
pub use tc3::Tc3Key;

use calls::Calls;
use scheduler::Scheduler;

/// What differs between one gateway and another.
#[derive(Debug, Clone)]
pub struct Options {
    /// The environment id that clients of the platform must name.
    pub env_id: String,
    /// The key pair that `/admin` accepts; without one, `/admin` refuses everyone.
    pub tc3: Option<Tc3Key>,
    /// What only the local cloud has: the page, `/local`, and answers to browsers of other origins.
    pub local: Option<Local>,
}

/// Facts that the local cloud's page shows.
#[derive(Debug, Clone)]
pub struct Local {
    /// The address that the page is served on.
    pub url: String,
    /// Where its state is kept.
    pub data_dir: String,
    /// Where its database is, without any credentials.
    pub database: String,
    /// Whether the timers run by themselves.
    pub timers_run: bool,
    /// Where it keeps how far its clock was moved.
    pub clock_file: Option<PathBuf>,
}

/// All functions behind one port. Clones share everything.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) app: Arc<App>,
    pub(crate) functions: Vec<Function>,
    pub(crate) options: Options,
    pub(crate) calls: Calls,
    pub(crate) scheduler: Scheduler,
    /// Held while the clock is moved, so that the file and the clock go together.
    moving: Mutex<()>,
}

impl Gateway {
    /// A gateway to `functions`. Does no IO; the timers run only inside [`Gateway::run_timers`].
    pub fn new(app: Arc<App>, functions: Vec<Function>, timers: Vec<Timer>, options: Options) -> Self {
        let (calls, scheduler) = (Calls::default(), Scheduler::new(timers));
        let inner = Inner { app, functions, options, calls, scheduler, moving: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// All routes, to be mounted at the root.
    pub fn router(&self) -> Router {
        let routes = routes::router(self);
        match &self.inner.options.local {
            Some(_) => cors::layer(routes).merge(page::router(self)),
            None => routes,
        }
    }

    /// `POST /clock` and `POST /timers`, to be mounted beside the simulators' steering routes. Local cloud only.
    pub fn control_router(&self) -> Router {
        control::router(self)
    }

    /// Runs the timers until it is dropped. Several processes may do so at once: each tick is run by one of them.
    pub async fn run_timers(&self) {
        scheduler::run(self).await;
    }

    /// Runs a timer now, by the name of its function or of its trigger, and returns the function's answer.
    pub async fn fire(&self, name: &str) -> Answer {
        scheduler::fire(self, name).await
    }

    /// Every timer with its next tick and its last run.
    pub fn timer_statuses(&self) -> Vec<TimerStatus> {
        self.inner.scheduler.statuses(self.inner.app.clock.now())
    }

    /// The last calls, newest first.
    pub fn recent_calls(&self) -> Vec<Call> {
        self.inner.calls.newest()
    }

    /// Moves the clock of the functions forward and runs the timers that have become due. The new time is kept first: no
    /// document may be younger than what a restart would remember.
    pub fn advance_clock(&self, by: Duration) -> io::Result<()> {
        let clock = &self.inner.app.clock;
        let _moving = self.inner.moving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = self.inner.options.local.as_ref().and_then(|local| local.clock_file.as_ref()) {
            let by = TimeDelta::from_std(by).map_err(io::Error::other)?;
            let shift = clock.shift().checked_add(&by).ok_or_else(|| io::Error::other("too far"))?;
            clock_file::write(path, shift)?;
        }
        clock.advance(by);
        self.inner.scheduler.wake();
        Ok(())
    }

    pub(crate) fn function(&self, name: &str) -> Option<&Function> {
        self.inner.functions.iter().find(|function| function.name() == name)
    }

    /// Calls a function and remembers that it was called.
    pub(crate) async fn call(&self, function: &Function, via: &'static str, request: Invoked) -> Answer {
        let caller = request.caller_kind();
        let Invoked { proof, headers, body, trace_id } = request;
        let started = Instant::now();
        let answer = edge::invoke(&self.inner.app, function, Invocation { proof, headers, body, trace_id }).await;
        let code = answer.body.as_ref().and_then(|body| body.get("code")).and_then(Value::as_str);
        self.inner.calls.record(Call {
            at: self.inner.app.clock.now(),
            function: function.name().to_owned(),
            via,
            caller,
            status: answer.status,
            code: code.map(str::to_owned),
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            trace_id: answer.trace_id.clone(),
        });
        answer
    }
}

/// A call as one of the routes understood it.
pub(crate) struct Invoked {
    pub(crate) proof: Proof,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trace_id: Option<String>,
}

impl Invoked {
    /// The kind of credential that the call presents; whether it holds is for `edge` to say.
    fn caller_kind(&self) -> &'static str {
        match &self.proof {
            Proof::Caller(caller) => caller.kind(),
            Proof::SignedEvent { .. } => "event",
            Proof::Http { .. } => {
                let has = |name: &str| self.headers.contains_key(name);
                if has("x-jinlu-key") {
                    "service"
                } else if has("x-app-session") || has("authorization") {
                    "session"
                } else if has("wechatpay-signature") {
                    "provider"
                } else {
                    "anonymous"
                }
            }
        }
    }
}
