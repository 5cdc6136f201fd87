//! Steering that needs the clock and the timers: `POST /clock {advanceSeconds}` and `POST /timers {name}`.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use chrono::SecondsFormat;
use domain::{Code, Refusal};
use edge::{Answer, http_response, read_body, trace_id_of};
use http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::Gateway;
use crate::page::guard;

/// Ten years: beyond that something was meant in other units.
const ADVANCE_MAX_S: u64 = 10 * 366 * 86_400;

pub(crate) fn router(gateway: &Gateway) -> Router {
    let routes = Router::new().route("/clock", post(clock)).route("/timers", post(timers));
    guard(routes).with_state(gateway.clone())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Clock {
    advance_seconds: u64,
}

#[derive(Deserialize)]
struct Fire {
    name: String,
}

async fn clock(State(gateway): State<Gateway>, body: Body) -> Response {
    let result = input::<Clock>(body).await.and_then(|input| match input.advance_seconds {
        seconds @ 0..=ADVANCE_MAX_S => gateway.advance_clock(Duration::from_secs(seconds)).map_err(|error| {
            tracing::error!(%error, "the moved clock cannot be kept");
            Refusal::new(Code::Internal).with_message("无法把时钟写入数据目录")
        }),
        _ => Err(Refusal::invalid("advanceSeconds", "最多前进十年")),
    });
    http_response(match result {
        Ok(()) => {
            let now = gateway.inner.app.clock.now().to_rfc3339_opts(SecondsFormat::Millis, true);
            success(
                json!({ "success": true, "now": now, "offsetSeconds": gateway.inner.app.clock.shift().num_seconds() }),
            )
        }
        Err(refusal) => refused(&refusal),
    })
}

async fn timers(State(gateway): State<Gateway>, body: Body) -> Response {
    http_response(match input::<Fire>(body).await {
        Ok(input) => gateway.fire(&input.name).await,
        Err(refusal) => refused(&refusal),
    })
}

/// The body of a steering call or of one of the page's.
pub(crate) async fn input<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let body = read_body(body).await?;
    serde_json::from_slice(&body).map_err(|error| Refusal::invalid("body", error.to_string()))
}

pub(crate) fn success(body: serde_json::Value) -> Answer {
    Answer { status: 200, body: Some(body), trace_id: trace_id_of(&HeaderMap::new()) }
}

pub(crate) fn refused(refusal: &Refusal) -> Answer {
    Answer::refused(refusal, trace_id_of(&HeaderMap::new()))
}
