//! The HTTP client: carried roots, no proxies, no redirects, bounded bodies, errors without URLs.
//!
//! Roots are carried because the function host may have no CA bundle; a proxy from the environment would see tokens and phone
//! numbers and may strip the `Wechatpay-*` headers; a redirect would send a signed request somewhere it was not signed for.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use rustls::{ClientConfig, RootCertStore};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// No usable answer came back. Whether the request was carried out is unknown, except after [`TransportKind::Connect`].
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct TransportError {
    /// What went wrong, as far as it can be told.
    pub kind: TransportKind,
    /// The HTTP library's error, its URL removed: URLs carry tokens and codes.
    #[source]
    source: Option<reqwest::Error>,
}

/// The ways an exchange can fail before there is an answer to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportKind {
    /// No connection (name lookup, refused, TLS), so nothing was sent.
    #[error("could not connect to the upstream")]
    Connect,
    /// Connected, but no whole answer in time.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The connection broke, or what came back was not HTTP.
    #[error("the connection to the upstream broke")]
    Broken,
    /// The answer was longer than anything the API sends.
    #[error("the upstream answer is too long")]
    TooLong,
}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> Self {
        // A connect that timed out is both, and only as a connect does it say that nothing was sent.
        let kind = if error.is_connect() {
            TransportKind::Connect
        } else if error.is_timeout() {
            TransportKind::Timeout
        } else {
            TransportKind::Broken
        };
        Self { kind, source: Some(error.without_url()) }
    }
}

/// The client could not be built; only a broken build of the TLS library does that.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The TLS library refused its settings.
    #[error("TLS set-up failed")]
    Tls(#[from] rustls::Error),
    /// The HTTP library refused its settings.
    #[error("HTTP client set-up failed")]
    Http(#[from] reqwest::Error),
}

/// Build a client whose requests take at most `timeout` each, connecting included, and are never repeated behind the caller's back.
///
/// `idle_per_host` connections are kept; 0 where what is lost on one that died in a frozen instance must not be sent again.
pub fn client(timeout: Duration, idle_per_host: usize) -> Result<reqwest::Client, BuildError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    // The provider is named here, so nothing depends on a process-wide default being installed first.
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(idle_per_host)
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .timeout(timeout)
        .user_agent(concat!("jinlu/", env!("CARGO_PKG_VERSION")))
        .build()?;
    Ok(client)
}

/// An answer as received: nothing parsed, nothing trusted.
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Send and read the whole answer, of at most `max_bytes`.
pub async fn exchange(request: reqwest::RequestBuilder, max_bytes: usize) -> Result<Reply, TransportError> {
    let mut response = request.send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len().saturating_add(chunk.len()) > max_bytes {
            return Err(TransportError { kind: TransportKind::TooLong, source: None });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
}
