//! The upstreams of the shop, simulated: WeChat Pay APIv3, the mini program's Open API, Tencent Cloud's text messages and
//! identity check, drand's randomness, Kuaidi100's parcels, and the steering that makes a payer pay, a notice get lost or an upstream fail.
//!
//! Owns: the upstream's ledger, its signatures, its strictness. Must not know: any other crate of this workspace. What it
//! checks it checks by itself, so that a mistake in the client under test has no twin here.

mod control;
mod crypto;
pub mod drand;
mod faceid;
mod faults;
pub mod keys;
mod kuaidi100;
mod legacy;
mod notice;
mod openapi;
mod shipping;
mod sms;
mod state;
mod tc3;
#[cfg(test)]
mod tests;
mod wxpay;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use chrono::{DateTime, FixedOffset, SecondsFormat, TimeDelta, Utc};
use http::Uri;
use percent_encoding::percent_decode_str;

pub use crate::control::{
    BillMode, ChangeBill, CompleteRefund, PaidReply, Pay, Payment, Refused, ShippingRules, Subscribe,
};
pub use crate::faults::{Fault, FaultMode, Target};
pub use crate::kuaidi100::{MoveParcel, MovedParcel, Parcel, ParcelNode, ParcelSubscription, PushMode};
pub use crate::legacy::{LegacyMode, LegacyRefund};
pub use crate::notice::{NoticeMode, NoticeResult};
pub use crate::openapi::keyword;
pub use crate::state::{Duplicate, Message, Order, Prepay, Quota, Refund, RefundStatus, ShippedParcel, Shipping, Sms};

/// What the simulators read the time from; the local cloud passes its movable clock.
pub type Now = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// How a [`Sim`] behaves where the real upstream leaves a choice.
#[derive(Clone)]
pub struct SimConfig {
    /// The clock of the upstream.
    pub now: Now,
    /// The notice sent for a payment whose steering call names no mode.
    pub notify: NoticeMode,
    /// A refund that is `PROCESSING` becomes `SUCCESS` at its first query. Without this only `control/refund` completes it.
    pub settle_refunds_on_query: bool,
    /// A subscribe message needs a granted permission (`control/subscribe`); otherwise only pairs once granted are counted.
    pub strict_quota: bool,
    /// How long after its payment an order is not yet known to the reports of shipping; on the real one about a minute.
    pub shipping_lag: TimeDelta,
    /// Behave as for a new merchant that has no platform certificate: `/v3/certificates` answers 404.
    pub public_key_only: bool,
    /// Where the upstream's memory outlives the process: a journal of JSON lines, rewritten atomically when it grows.
    pub state_file: Option<PathBuf>,
}

impl SimConfig {
    /// One notice per payment, refunds that settle when asked about, no quotas, both key modes, memory only.
    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self {
            now: Arc::new(now),
            notify: NoticeMode::Once,
            settle_refunds_on_query: true,
            strict_quota: false,
            shipping_lag: TimeDelta::zero(),
            public_key_only: false,
            state_file: None,
        }
    }
}

impl fmt::Debug for SimConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimConfig")
            .field("notify", &self.notify)
            .field("state_file", &self.state_file)
            .finish_non_exhaustive()
    }
}

/// Why a simulator could not start or could not answer. None of these is part of the simulated behaviour.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A built-in test key does not parse.
    #[error("unusable test key: {0}")]
    Key(&'static str),
    /// A cryptographic operation failed.
    #[error("cryptography failed: {0}")]
    Crypto(&'static str),
    /// The state file cannot be read or written.
    #[error("state file {path}")]
    StateFile {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
    /// The client that sends notices cannot be built.
    #[error("HTTP client for notices")]
    Client(#[source] reqwest::Error),
    /// A value could not be written as JSON.
    #[error("JSON")]
    Json(#[from] serde_json::Error),
}

/// The simulated upstreams; clones share one state.
#[derive(Clone)]
pub struct Sim {
    inner: Arc<Inner>,
}

struct Inner {
    config: SimConfig,
    keyring: crypto::Keyring,
    state: Mutex<state::State>,
    faults: Mutex<Vec<Fault>>,
    counts: Mutex<BTreeMap<(Target, String), u64>>,
    http: reqwest::Client,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Sim {
    /// Loads the state file, if there is one.
    ///
    /// Installs ring as the process's TLS provider when none is installed yet: the notice client cannot be built without one.
    pub fn new(config: SimConfig) -> Result<Self, Error> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // A second caller may win the race; then a provider is installed and that is all we need.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .timeout(NOTICE_TIMEOUT)
            .build()
            .map_err(Error::Client)?;
        let mut state = state::State::open(config.state_file.as_deref())?;
        state.shipping_lag = config.shipping_lag;
        let inner = Inner {
            config,
            keyring: crypto::Keyring::load()?,
            state: Mutex::new(state),
            faults: Mutex::default(),
            counts: Mutex::default(),
            http,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Serves `/wxpay/…`, `/wechat/…`, `/sms`, `/faceid`, `/drand/…`, `/kuaidi100/…` and `/control/…`; mount it at the root or nest it, for example under `/sim`.
    pub fn router(&self) -> Router {
        Router::new()
            .nest("/wxpay", wxpay::router(self.clone()))
            .nest("/wechat", openapi::router(self.clone()))
            .merge(sms::router(self.clone()))
            .nest("/drand", drand::router(self.clone()))
            .merge(faceid::router(self.clone()))
            .nest("/kuaidi100", kuaidi100::router(self.clone()))
            .nest("/control", control::router(self.clone()))
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        (self.inner.config.now)()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, state::State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self) -> &SimConfig {
        &self.inner.config
    }

    pub(crate) fn keyring(&self) -> &crypto::Keyring {
        &self.inner.keyring
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.inner.http
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<(Target, String), u64>> {
        self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.inner.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// WeChat Pay waits five seconds for the answer to a notice.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);

/// Times on the wire carry Beijing's offset, as the real ones do.
pub(crate) fn beijing(at: DateTime<Utc>) -> String {
    match FixedOffset::east_opt(8 * 3600) {
        Some(offset) => at.with_timezone(&offset).to_rfc3339_opts(SecondsFormat::Secs, false),
        None => at.to_rfc3339_opts(SecondsFormat::Secs, false),
    }
}

/// The first value of a name in the query, percent-decoded.
pub(crate) fn query_value(uri: &Uri, name: &str) -> Option<String> {
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
    })
}
