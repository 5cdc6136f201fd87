//! drand: published vectors, and the client against a relay that answers by script.

use std::time::Duration;

use axum::body::Body;
use axum::extract::OriginalUri;
use axum::http::Response;
use domain::Failure;
use serde_json::{Value, json};

use crate::TransportKind;
use crate::drand::{Beacon, Chain, Client, Config, DrandError, NotABeacon, verify};

/// Round 1000 of quicknet, as api.drand.sh serves it.
const ROUND: u64 = 1000;
const SIGNATURE: &str =
    "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";
const RANDOMNESS: &str = "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd";

fn beacon() -> Beacon {
    Beacon { round: ROUND, randomness: RANDOMNESS.to_owned(), signature: SIGNATURE.to_owned() }
}

#[test]
fn a_round_of_quicknet_verifies_and_nothing_else_does() {
    let chain = Chain::quicknet();
    assert_eq!(verify(&chain, ROUND, SIGNATURE), Ok(beacon()));
    assert_eq!(verify(&chain, ROUND + 1, SIGNATURE), Err(NotABeacon::Signature));
    assert_eq!(verify(&Chain::local(), ROUND, SIGNATURE), Err(NotABeacon::Signature));
    assert_eq!(verify(&chain, ROUND, &SIGNATURE.to_uppercase()), Err(NotABeacon::Encoding));
    assert_eq!(verify(&chain, ROUND, SIGNATURE.trim_start_matches("b4")), Err(NotABeacon::Encoding));
    assert_eq!(verify(&chain, ROUND, ""), Err(NotABeacon::Encoding));
    // The same point with the other sign, and the point at infinity.
    assert_eq!(verify(&chain, ROUND, &SIGNATURE.replacen("b4", "94", 1)), Err(NotABeacon::Signature));
    let infinity = format!("c0{}", "00".repeat(47));
    assert!(verify(&chain, ROUND, &infinity).is_err());
    let broken = Chain { public_key: "00".repeat(96), ..chain.clone() };
    assert_eq!(verify(&broken, ROUND, SIGNATURE), Err(NotABeacon::Key));
    let infinite = Chain { public_key: format!("c0{}", "00".repeat(95)), ..chain };
    assert_eq!(verify(&infinite, ROUND, &infinity), Err(NotABeacon::Key));
}

/// A relay that gives one answer, and only at the path that was meant.
async fn relay(status: u16, body: String, delay: Duration) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let path = format!("/relay/{}/public/{ROUND}", Chain::quicknet().hash);
    let router = axum::Router::new().fallback(move |OriginalUri(uri): OriginalUri| {
        let (right, body) = (uri.path() == path, body.clone());
        async move {
            tokio::time::sleep(delay).await;
            let status = if right { status } else { 418 };
            Response::builder().status(status).body(Body::from(body)).unwrap()
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("{url}/relay/")
}

async fn ask_text(status: u16, body: String, delay: Duration) -> Result<Option<Beacon>, DrandError> {
    let base_url = relay(status, body, delay).await;
    let config = Config { base_url, chain: Chain::quicknet(), timeout: Duration::from_millis(500) };
    Client::new(config).unwrap().fetch(ROUND).await
}

async fn ask(status: u16, body: Value) -> Result<Option<Beacon>, DrandError> {
    ask_text(status, body.to_string(), Duration::ZERO).await
}

#[tokio::test]
async fn randomness_is_computed_and_never_believed() {
    let honest = json!({ "round": ROUND, "randomness": RANDOMNESS, "signature": SIGNATURE });
    assert_eq!(ask(200, honest).await.unwrap(), Some(beacon()));
    let lying = json!({ "round": ROUND, "randomness": "00".repeat(32), "signature": SIGNATURE, "more": 1 });
    assert_eq!(ask(200, lying).await.unwrap(), Some(beacon()));
}

#[tokio::test]
async fn a_round_of_the_future_is_not_there_yet() {
    assert_eq!(ask(404, json!({ "error": "not found" })).await.unwrap(), None);
    assert_eq!(ask(425, json!({})).await.unwrap(), None);
}

#[tokio::test]
async fn what_does_not_hold_is_an_upstream_failure() {
    let forged = SIGNATURE.replacen("b4", "94", 1);
    let upstream = |error: DrandError| {
        assert!(error.is_retryable());
        assert!(matches!(Failure::from(error), Failure::Upstream(_)));
    };
    let error = ask(200, json!({ "round": ROUND, "randomness": RANDOMNESS, "signature": forged })).await.unwrap_err();
    assert!(matches!(error, DrandError::Forged(NotABeacon::Signature)), "{error:?}");
    upstream(error);
    let error = ask(200, json!({ "round": 999, "signature": SIGNATURE })).await.unwrap_err();
    assert!(matches!(error, DrandError::WrongRound { asked: ROUND, got: 999 }), "{error:?}");
    upstream(error);
    for malformed in
        [json!({}), json!({ "round": ROUND }), json!([]), json!({ "round": "1000", "signature": SIGNATURE })]
    {
        let error = ask(200, malformed).await.unwrap_err();
        assert!(matches!(error, DrandError::Malformed(_)), "{error:?}");
        upstream(error);
    }
    for status in [302, 400, 429, 500, 503] {
        let error = ask(status, json!({ "round": ROUND, "signature": SIGNATURE })).await.unwrap_err();
        assert!(matches!(&error, DrandError::Http(got) if got.as_u16() == status), "{error:?}");
        upstream(error);
    }
    let error = ask_text(200, " ".repeat(17 * 1024), Duration::ZERO).await.unwrap_err();
    assert!(matches!(&error, DrandError::Transport(error) if error.kind == TransportKind::TooLong), "{error:?}");
    upstream(error);
    let error = ask_text(200, String::new(), Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(&error, DrandError::Transport(error) if error.kind == TransportKind::Timeout), "{error:?}");
    upstream(error);
}

#[test]
fn what_can_never_work_is_refused_at_the_start() {
    let config =
        |base_url: &str, chain| Config { base_url: base_url.to_owned(), chain, timeout: Duration::from_secs(1) };
    assert!(Client::new(config("https://api.drand.sh", Chain::quicknet())).is_ok());
    for base in ["", "api.drand.sh", "ftp://api.drand.sh", "https://api.drand.sh?x=1", "https://me@api.drand.sh"] {
        assert!(matches!(Client::new(config(base, Chain::quicknet())), Err(DrandError::Misuse(_))), "{base}");
    }
    let chain = Chain { hash: "52".to_owned(), ..Chain::quicknet() };
    assert!(matches!(Client::new(config("https://api.drand.sh", chain)), Err(DrandError::Misuse(_))));
    let chain = Chain { public_key: "83".to_owned(), ..Chain::quicknet() };
    assert!(matches!(Client::new(config("https://api.drand.sh", chain)), Err(DrandError::Misuse(_))));
}
