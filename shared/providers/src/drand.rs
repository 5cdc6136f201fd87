//! Public randomness: drand's HTTP interface, and the check of its signatures.
//!
//! An answer is worth what its signature is worth: relays are strangers, so nothing they say about a round is used but the
//! signature, which is verified against the chain's key before anything is returned.
//!
//! Source: docs.drand.love, "HTTP API" and "Cryptography"; the scheme is `bls-unchained-g1-rfc9380`.

use std::fmt;
use std::time::{Duration, Instant};

use blst::BLST_ERROR;
use blst::min_sig::{PublicKey, Signature};
use domain::Failure;
use http::StatusCode;
use reqwest::Url;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use crate::TransportError;
use upstream::{Reply, client, exchange};

pub use domain::draw::Chain;

/// The relays of the League of Entropy.
pub const DEFAULT_BASE_URL: &str = "https://api.drand.sh";

/// The longest answer read. Real ones are some three hundred bytes.
const ANSWER_MAX_BYTES: usize = 16 * 1024;

/// Domain separation of signatures in G1, by RFC 9380.
const DST: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

/// A round of a chain; its signature has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Its number.
    pub round: u64,
    /// SHA-256 of the signature: 64 lower-case hexadecimal digits.
    pub randomness: String,
    /// A point of G1: 96 lower-case hexadecimal digits.
    pub signature: String,
}

/// Why there is no beacon although there may be one. All but the last two pass by themselves or at another relay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrandError {
    /// Neither an answer nor "not yet".
    #[error("drand answered {0}")]
    Http(StatusCode),
    /// No whole answer.
    #[error("no answer from drand")]
    Transport(#[from] TransportError),
    /// An answer that is not what the documentation promises.
    #[error("unexpected answer from drand: {0}")]
    Malformed(&'static str),
    /// The answer is about another round.
    #[error("asked drand for round {asked}, got round {got}")]
    WrongRound {
        /// What was asked for.
        asked: u64,
        /// What came.
        got: u64,
    },
    /// The chain has not signed this.
    #[error("the beacon does not hold")]
    Forged(#[from] NotABeacon),
    /// The address or the chain's key can never work.
    #[error("{0}")]
    Misuse(&'static str),
    /// The HTTP client could not be built.
    #[error("could not build the HTTP client")]
    Build(#[source] domain::BoxError),
}

impl DrandError {
    /// Whether asking again later may help. A forged answer is another relay's fault, not a fact about the round.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Misuse(_) | Self::Build(_))
    }
}

impl From<DrandError> for Failure {
    fn from(error: DrandError) -> Self {
        match error {
            DrandError::Misuse(_) | DrandError::Build(_) => Self::Internal(Box::new(error)),
            _ => Self::Upstream(Box::new(error)),
        }
    }
}

/// Why a signature is not a chain's beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotABeacon {
    /// The chain's key is not a point of G2 in 192 hexadecimal digits.
    #[error("the chain's public key is not usable")]
    Key,
    /// Not a point of G1 in 96 lower-case hexadecimal digits.
    #[error("the signature is not a point of the curve in 96 lower-case hexadecimal digits")]
    Encoding,
    /// A signature, but not by this chain for this round.
    #[error("the signature is not this chain's for this round")]
    Signature,
}

/// Verify a round's signature and return its randomness.
pub fn verify(chain: &Chain, round: u64, signature: &str) -> Result<Beacon, NotABeacon> {
    let key = public_key(chain)?;
    let lower = signature.bytes().all(|byte| !byte.is_ascii_uppercase());
    let bytes = hex::decode(signature).ok().filter(|_| lower).ok_or(NotABeacon::Encoding)?;
    // Only the compressed form: the uncompressed one would be a second text, with other randomness, for the same point.
    let bytes: [u8; 48] = bytes.try_into().map_err(|_| NotABeacon::Encoding)?;
    let point = Signature::from_bytes(&bytes).map_err(|_| NotABeacon::Encoding)?;
    let message = digest(&SHA256, &round.to_be_bytes());
    match point.verify(true, message.as_ref(), DST, &[], &key, true) {
        BLST_ERROR::BLST_SUCCESS => {
            Ok(Beacon { round, randomness: hex::encode(digest(&SHA256, &bytes)), signature: signature.to_owned() })
        }
        _ => Err(NotABeacon::Signature),
    }
}

fn public_key(chain: &Chain) -> Result<PublicKey, NotABeacon> {
    let bytes: [u8; 96] =
        hex::decode(&chain.public_key).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(NotABeacon::Key)?;
    PublicKey::key_validate(&bytes).map_err(|_| NotABeacon::Key)
}

/// Everything a [`Client`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Usually [`DEFAULT_BASE_URL`]; any relay will do.
    pub base_url: String,
    /// Whose rounds are asked for.
    pub chain: Chain,
    /// The longest one call may take, connecting included.
    pub timeout: Duration,
}

/// One chain at one relay. Make one per process and share it.
pub struct Client {
    http: reqwest::Client,
    base: String,
    chain: Chain,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("chain", &self.chain.hash).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer {
    round: u64,
    signature: String,
}

impl Client {
    /// Check the configuration; nothing is asked yet.
    pub fn new(config: Config) -> Result<Self, DrandError> {
        let url = Url::parse(&config.base_url).map_err(|_| DrandError::Misuse("the drand base URL is not a URL"))?;
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !matches!(url.scheme(), "http" | "https") || !plain {
            return Err(DrandError::Misuse("the drand base URL must be http(s) without query, fragment or user"));
        }
        if hex::decode(&config.chain.hash).map_or(0, |bytes| bytes.len()) != 32 {
            return Err(DrandError::Misuse("the drand chain hash is not 64 hexadecimal digits"));
        }
        public_key(&config.chain).map_err(|_| DrandError::Misuse("the drand chain's public key is not usable"))?;
        let http = client(config.timeout, 0).map_err(|error| DrandError::Build(Box::new(error)))?;
        Ok(Self { http, base: config.base_url.trim_end_matches('/').to_owned(), chain: config.chain })
    }

    /// Whose rounds these are.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// A round's beacon, verified; none while it is not published. Safe to repeat.
    pub async fn fetch(&self, round: u64) -> Result<Option<Beacon>, DrandError> {
        let request = self.http.get(format!("{}/{}/public/{round}", self.base, self.chain.hash));
        let started = Instant::now();
        let reply = exchange(request, ANSWER_MAX_BYTES).await;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Reply { status, body, .. } = reply.inspect_err(|error| {
            tracing::debug!(round, kind = %error.kind, duration_ms, "drand did not answer");
        })?;
        tracing::debug!(round, status = status.as_u16(), duration_ms, "drand answered");
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::TOO_EARLY) {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(DrandError::Http(status));
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| DrandError::Malformed("not a round"))?;
        if answer.round != round {
            return Err(DrandError::WrongRound { asked: round, got: answer.round });
        }
        Ok(Some(verify(&self.chain, round, &answer.signature)?))
    }
}
