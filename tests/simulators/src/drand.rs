//! Public randomness as drand's HTTP interface shows it, scheme `bls-unchained-g1-rfc9380`: `/{chain}/info`,
//! `/{chain}/public/{round}` and `/{chain}/public/latest`.
//!
//! Rounds follow from the clock, signatures from the key, so there is nothing to remember. A round of the future is 404, as it is
//! at the real relays. The key is in [`keys`], so this chain proves nothing to anybody.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use blst::min_sig::SecretKey;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::faults::{FaultMode, Target, cut};
use crate::{Error, Sim, keys};

/// Domain separation of signatures in G1, by RFC 9380.
const DST: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

pub(crate) fn router(sim: Sim) -> Router {
    Router::new().route("/{*path}", any(entry)).with_state(sim)
}

/// The chain's public key in hexadecimal.
pub fn public_key() -> Result<String, Error> {
    Ok(hex::encode(secret_key()?.sk_to_pk().compress()))
}

/// A round's signature in hexadecimal; the same at every call.
pub fn signature(round: u64) -> Result<String, Error> {
    let message = Sha256::digest(round.to_be_bytes());
    Ok(hex::encode(secret_key()?.sign(&message, DST, &[]).compress()))
}

fn secret_key() -> Result<SecretKey, Error> {
    SecretKey::from_bytes(keys::DRAND_SECRET_KEY).map_err(|_| Error::Key("drand"))
}

async fn entry(State(sim): State<Sim>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let fault = sim.take_fault(Target::Drand, path.trim_end_matches('/'));
    let mut forged = false;
    if let Some(fault) = &fault {
        match fault.mode {
            FaultMode::Timeout | FaultMode::Silence => {
                tokio::time::sleep(fault.delay(30_000)).await;
                return cut();
            }
            FaultMode::Reset | FaultMode::DropAfterCommit => return cut(),
            FaultMode::ServerError | FaultMode::Errcode => {
                return respond(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "injected" }));
            }
            FaultMode::TooMany => return respond(StatusCode::TOO_MANY_REQUESTS, &json!({ "error": "injected" })),
            FaultMode::BadSignature => forged = true,
            FaultMode::Slow => tokio::time::sleep(fault.delay(6_000)).await,
        }
    }
    if request.method() != Method::GET {
        return respond(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "use GET" }));
    }
    match answer(&sim, &path, forged) {
        Ok(Some(body)) => respond(StatusCode::OK, &body),
        Ok(None) => respond(StatusCode::NOT_FOUND, &json!({ "error": "not found" })),
        Err(error) => {
            tracing::error!(%error, "the drand simulator cannot sign");
            respond(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "cannot sign" }))
        }
    }
}

fn answer(sim: &Sim, path: &str, forged: bool) -> Result<Option<Value>, Error> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let asked = match parts.as_slice() {
        [keys::DRAND_CHAIN, "info"] => {
            return Ok(Some(json!({
                "public_key": public_key()?,
                "period": keys::DRAND_PERIOD,
                "genesis_time": keys::DRAND_GENESIS,
                "hash": keys::DRAND_CHAIN,
                "schemeID": "bls-unchained-g1-rfc9380",
                "metadata": { "beaconID": "jinlu-local" },
            })));
        }
        [keys::DRAND_CHAIN, "public", round] => *round,
        _ => return Ok(None),
    };
    let elapsed = u64::try_from(sim.now().timestamp().saturating_sub(keys::DRAND_GENESIS)).ok();
    let Some(latest) = elapsed.map(|seconds| seconds / keys::DRAND_PERIOD + 1) else { return Ok(None) };
    let round = if asked == "latest" { Some(latest) } else { asked.parse::<u64>().ok() };
    let Some(round) = round.filter(|round| (1..=latest).contains(round)) else { return Ok(None) };
    // A real signature, but of another round: only the curve arithmetic can tell.
    let signature = signature(if forged { round.saturating_add(1) } else { round })?;
    let randomness = Sha256::digest(hex::decode(&signature).unwrap_or_default());
    Ok(Some(json!({ "round": round, "randomness": hex::encode(randomness), "signature": signature })))
}

fn respond(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
