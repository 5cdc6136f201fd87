mod config;
mod event;
mod host;
mod identity;
mod input;
mod outcome;

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{Secret, ServiceKey, SessionSecret};
use crate::{Accept, Answer, App, Clock, Config, Context, Function, Invocation, Proof, Reply, invoke};

const K1: &str = "first-secret-first-secret-first-secret";
const K2: &str = "second-secret-second-secret-second-se";
const CRM_SECRET: &str = "the-secret-of-the-crm";

fn noon() -> DateTime<Utc> {
    "2026-11-21T04:00:00.123Z".parse().unwrap()
}

fn config() -> Config {
    let session = |id: &str, secret: &str| SessionSecret { id: id.to_owned(), secret: Secret::from(secret) };
    let service = |id: &str, scope: &str| ServiceKey {
        id: id.to_owned(),
        secret: Secret::from(CRM_SECRET),
        scopes: vec![scope.to_owned()],
    };
    Config {
        session_secrets: vec![session("k1", K1), session("k2", K2)],
        service_keys: vec![service("crm", "points"), service("root", "*")],
        ..Config::default()
    }
}

/// An app without a database: whatever gets as far as the store ends in `INTERNAL`.
fn app() -> Arc<App> {
    app_with(config())
}

fn app_with(config: Config) -> Arc<App> {
    App::new(config, Clock::standing_at(noon())).unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    headers
}

fn http(path: &str) -> Proof {
    Proof::Http { method: "POST".to_owned(), path: path.to_owned(), query: String::new() }
}

async fn call(
    app: &Arc<App>,
    function: &Function,
    proof: Proof,
    pairs: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let (headers, body) = (headers(pairs), body.into());
    invoke(app, function, Invocation { proof, headers, body, trace_id: Some("trace-0001".to_owned()) }).await
}

fn code(answer: &Answer) -> &str {
    answer.body.as_ref().and_then(|body| body["code"].as_str()).unwrap_or("(none)")
}

fn body(answer: &Answer) -> &Value {
    answer.body.as_ref().unwrap()
}

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

/// Answers with who called.
fn whoami(accepts: &'static [Accept]) -> Function {
    let tell = async |context: Context, _: Nothing| Reply::of(&json!({ "caller": format!("{:?}", context.caller) }));
    Function::new("whoami", tell).accepts(accepts)
}
