//! Failures on request: the next `count` matching requests of a target, or a share of them, fail in a chosen way. And how many
//! requests came at all.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Sim;

/// A simulated upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// WeChat Pay APIv3, under `/wxpay`.
    Wxpay,
    /// The Open API, under `/wechat`.
    Wechat,
    /// Text messages, under `/sms`.
    Sms,
    /// Public randomness, under `/drand`.
    Drand,
    /// The identity check, under `/faceid`.
    FaceId,
    /// Parcels, under `/kuaidi100`.
    Kuaidi100,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultMode {
    /// Nothing happens and nothing is answered for `ms` (default 30 000); then the connection is cut.
    #[serde(rename = "timeout")]
    Timeout,
    /// HTTP 500 before anything happens.
    #[serde(rename = "500")]
    ServerError,
    /// HTTP 429 `FREQUENCY_LIMITED` before anything happens; on the Open API `45011`, for messages `RequestLimitExceeded`,
    /// for parcels `502`.
    #[serde(rename = "429")]
    TooMany,
    /// The request takes effect, its reply is signed with a key nobody knows (WeChat Pay), or its signature is
    /// another round's (drand).
    #[serde(rename = "badSignature")]
    BadSignature,
    /// The error in `errcode`: a number on the Open API, a code such as `SYSTEM_ERROR` on WeChat Pay or
    /// `LimitExceeded.PhoneNumberDailyLimit` for messages; for parcels text gives the documented body and a number the other
    /// one. Nothing happens.
    #[serde(rename = "errcode")]
    Errcode,
    /// The connection is cut before anything happens.
    #[serde(rename = "reset")]
    Reset,
    /// The request takes effect, then the connection is cut.
    #[serde(rename = "dropAfterCommit")]
    DropAfterCommit,
    /// The request takes effect, but nothing is answered for `ms` (default 30 000); then the connection is cut.
    #[serde(rename = "silence")]
    Silence,
    /// The request takes effect at once; the reply comes `ms` later (default 6 000).
    #[serde(rename = "slow")]
    Slow,
}

/// A failure to inject; the body of `POST control/faults`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Whose requests fail.
    pub target: Target,
    /// Only requests whose path contains this text, such as `/close`; a whole path with the mount fits too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How.
    pub mode: FaultMode,
    /// For [`FaultMode::Errcode`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errcode: Option<Value>,
    /// How many requests; 0 removes the target's faults. One, or without end when `rate` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Which share of the matching requests fails, from 0 to 1; all of them when absent. A request that passes one fault may
    /// meet the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Which of them: the same seed picks the same requests, by their order.
    #[serde(default)]
    pub seed: u64,
    /// Milliseconds for [`FaultMode::Timeout`], [`FaultMode::Silence`] and [`FaultMode::Slow`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// Matching requests so far.
    #[serde(default, skip_deserializing)]
    pub seen: u64,
    /// Those of them that failed.
    #[serde(default, skip_deserializing)]
    pub hits: u64,
}

impl Fault {
    /// A fault for the next `count` requests of `target`.
    pub fn new(target: Target, mode: FaultMode, count: u32) -> Self {
        Self {
            target,
            path: None,
            mode,
            errcode: None,
            count: Some(count),
            rate: None,
            seed: 0,
            ms: None,
            seen: 0,
            hits: 0,
        }
    }

    /// A fault for this share of the requests of `target` whose path contains `path`.
    pub fn some(target: Target, path: &str, mode: FaultMode, rate: f64, seed: u64) -> Self {
        Self { path: Some(path.to_owned()), count: None, rate: Some(rate), seed, ..Self::new(target, mode, 1) }
    }

    /// Whether the request that has just arrived fails.
    fn strikes(&mut self) -> bool {
        self.seen = self.seen.saturating_add(1);
        let hit = self.rate.is_none_or(|rate| draw(self.seed, self.seen) < rate);
        self.hits = self.hits.saturating_add(u64::from(hit));
        hit
    }

    fn over(&self) -> bool {
        let limit = self.count.map(u64::from).or(self.rate.is_none().then_some(1));
        limit.is_some_and(|limit| self.hits >= limit)
    }

    pub(crate) fn delay(&self, default_ms: u64) -> Duration {
        Duration::from_millis(self.ms.unwrap_or(default_ms))
    }
}

impl Sim {
    /// Adds a fault behind those already waiting; `count` 0 removes all faults of the target.
    pub fn fault(&self, fault: Fault) {
        let mut faults = self.faults();
        if fault.count == Some(0) {
            faults.retain(|waiting| waiting.target != fault.target);
        } else {
            faults.push(fault);
        }
    }

    /// The faults still waiting, oldest first.
    pub fn waiting_faults(&self) -> Vec<Fault> {
        self.faults().clone()
    }

    /// Counts the request, and takes the oldest fault that matches and strikes.
    pub(crate) fn take_fault(&self, target: Target, path: &str) -> Option<Fault> {
        self.count(target, path);
        let mut faults = self.faults();
        // A path copied from a request line, mount and all, ends with what is seen here.
        let fits = |part: &str| path.contains(part) || part.ends_with(path);
        let matching = |fault: &Fault| fault.target == target && fault.path.as_deref().is_none_or(fits);
        let taken =
            faults.iter_mut().filter(|fault| matching(fault)).find_map(|fault| fault.strikes().then(|| fault.clone()));
        faults.retain(|fault| !fault.over());
        taken
    }

    /// How many requests of `target` have come since the start, whatever became of them, whose path contains `path`.
    pub fn requests(&self, target: Target, path: &str) -> u64 {
        let counts = self.counts();
        counts
            .iter()
            .filter(|((of, at), _)| *of == target && at.contains(path))
            .fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// The same for each path of each target.
    pub fn all_requests(&self) -> BTreeMap<Target, BTreeMap<String, u64>> {
        let mut all: BTreeMap<Target, BTreeMap<String, u64>> = BTreeMap::new();
        for ((target, path), count) in self.counts().iter() {
            all.entry(*target).or_default().insert(path.clone(), *count);
        }
        all
    }

    fn count(&self, target: Target, path: &str) {
        let mut counts = self.counts();
        if counts.len() < PATHS_MAX || counts.contains_key(&(target, path.to_owned())) {
            let count = counts.entry((target, path.to_owned())).or_default();
            *count = count.saturating_add(1);
        }
    }
}

/// Paths hold order numbers, so there can be many.
const PATHS_MAX: usize = 10_000;

/// From 0 up to 1; splitmix64, so that neighbours have nothing in common.
fn draw(seed: u64, n: u64) -> f64 {
    let mut bits = seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let high = u32::try_from((bits ^ (bits >> 31)) >> 32).unwrap_or_default();
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

/// What becomes of the reply to a request that has taken effect.
pub(crate) async fn afterwards(fault: Option<&Fault>, response: Response) -> Response {
    let Some(fault) = fault else { return response };
    match fault.mode {
        FaultMode::DropAfterCommit => cut(),
        FaultMode::Silence => {
            tokio::time::sleep(fault.delay(30_000)).await;
            cut()
        }
        FaultMode::Slow => {
            tokio::time::sleep(fault.delay(6_000)).await;
            response
        }
        _ => response,
    }
}

/// A reply whose body breaks off, so that the server cuts the connection instead of ending the message.
///
/// The status line may still reach the client; a body never does.
pub(crate) fn cut() -> Response {
    let broken = stream::once(async {
        Err::<Bytes, io::Error>(io::Error::new(io::ErrorKind::ConnectionReset, "fault injected"))
    });
    let mut response = Response::new(Body::from_stream(broken));
    *response.status_mut() = StatusCode::OK;
    response
}
