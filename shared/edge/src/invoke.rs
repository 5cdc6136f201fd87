//! One call from beginning to end: limits, caller, input, handler, envelope, one line in the log.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use domain::{Code, Failure, Refusal};
use futures_util::FutureExt;
use http::HeaderMap;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::app::{App, Context};
use crate::caller::{self, Proof};
use crate::function::{Function, Handler, RawReply, RawRequest, Reply};
use crate::input;
use crate::logs;

/// A call as a host received it.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub proof: Proof,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Where the host has it from somewhere else than the headers.
    pub trace_id: Option<String>,
}

/// What goes back. The body is the finished envelope; `None` only for a raw reply without one.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Option<Value>,
    pub trace_id: String,
}

impl Answer {
    /// A refusal by the host itself, before any function was called, e.g. `FUNCTION_NOT_FOUND`.
    pub fn refused(refusal: &Refusal, trace_id: String) -> Self {
        Self { status: status(refusal.code), body: Some(refusal_body(refusal, &trace_id)), trace_id }
    }

    /// The refusal in the form that this function's callers expect.
    pub(crate) fn refused_for(function: &Function, refusal: &Refusal, trace_id: String) -> Self {
        if !function.is_raw() {
            return Self::refused(refusal, trace_id);
        }
        let body = json!({ "code": "FAIL", "message": refusal.message });
        Self { status: status(refusal.code), body: Some(body), trace_id }
    }
}

enum Output {
    Reply(Reply),
    Raw(RawReply),
}

/// Call a function. Never fails: every error becomes an answer.
///
/// The call runs to its end or its time limit even if the caller stops waiting for it.
pub async fn invoke(app: &Arc<App>, function: &Function, invocation: Invocation) -> Answer {
    let Invocation { proof, mut headers, body, trace_id } = invocation;
    let trace_id = trace_id.filter(|id| input::is_request_id(id)).unwrap_or_else(|| trace_id_of(&headers));
    drop_platform_headers(&mut headers);
    let started = Instant::now();

    let Ok(slot) = Arc::clone(app.slots()).try_acquire_owned() else {
        let failure = Failure::Unavailable("too many calls at once in this process".into());
        return finish(function, &trace_id, started, "unknown", Err(failure));
    };
    let call = {
        let (app, function, trace_id) = (Arc::clone(app), function.clone(), trace_id.clone());
        async move {
            let _slot = slot;
            let deadline = started + function.time_limit();
            let caller_kind = OnceLock::new();
            let work = work(&app, &function, proof, headers, body, &trace_id, deadline, &caller_kind);
            // The future is dropped in either case, and what it shares with others survives a kill at any point anyway.
            let result = match tokio::time::timeout_at(deadline, AssertUnwindSafe(work).catch_unwind()).await {
                Ok(Ok(result)) => result,
                Ok(Err(_panic)) => Err(Failure::invariant("INVARIANT_NO_PANIC the handler panicked")),
                Err(_elapsed) => Err(Failure::Timeout),
            };
            let kind = caller_kind.get().copied().unwrap_or("unknown");
            finish(&function, &trace_id, started, kind, result)
        }
    };
    // In a task of its own: a client that hangs up must not cut a payment short half-way.
    match tokio::spawn(call).await {
        Ok(answer) => answer,
        Err(_) => {
            let failure = Failure::invariant("INVARIANT_NO_PANIC the call's task ended early");
            finish(function, &trace_id, started, "unknown", Err(failure))
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one invocation, taken apart once")]
async fn work(
    app: &Arc<App>,
    function: &Function,
    proof: Proof,
    headers: HeaderMap,
    body: Bytes,
    trace_id: &str,
    deadline: Instant,
    caller_kind: &OnceLock<&'static str>,
) -> Result<Output, Failure> {
    if body.len() > input::BODY_BYTES_MAX {
        return Err(Code::PayloadTooLarge.into());
    }
    let now = app.clock.now();
    let query = proof.query().to_owned();
    let (caller, body) = caller::resolve(app, function, proof, &headers, body, now).await?;
    caller_kind.get_or_init(|| caller.kind());
    let mut context = Context {
        function: function.name(),
        caller,
        now,
        trace_id: trace_id.to_owned(),
        deadline,
        request: None,
        app: Arc::clone(app),
    };
    match function.handler() {
        Handler::Raw(start) => Ok(Output::Raw(start(context, RawRequest { headers, query, body }).await?)),
        Handler::Typed(typed) => {
            let text = input::text_of(&body);
            let fields = input::object(text, typed.probe)?;
            context.request = input::request_key(&fields)?;
            input::no_array_for_object(function.schema(), &fields)?;
            let pending = (typed.start)(context, text).map_err(|error| input::explain(&error, &fields))?;
            Ok(Output::Reply(pending.await?))
        }
    }
}

/// Log the outcome once and put it into its envelope.
fn finish(
    function: &Function,
    trace_id: &str,
    started: Instant,
    caller: &str,
    result: Result<Output, Failure>,
) -> Answer {
    let (name, duration_ms) = (function.name(), logs::millis(started.elapsed()));
    let result = result.and_then(|output| success(output, trace_id));
    let failure = match result {
        Ok((status, body)) => {
            tracing::info!(function = name, trace_id, caller, status, duration_ms, "done");
            return Answer { status, body, trace_id: trace_id.to_owned() };
        }
        Err(failure) => failure,
    };
    let code = failure.code();
    match &failure {
        Failure::Refused(refusal) => {
            let field = refusal.details.get("field").and_then(Value::as_str);
            tracing::info!(function = name, trace_id, caller, code = code.as_str(), field, duration_ms, "refused");
        }
        Failure::Internal(cause) => {
            let error = logs::chain(cause.as_ref());
            tracing::error!(function = name, trace_id, caller, code = code.as_str(), error, duration_ms, "failed");
        }
        Failure::Unavailable(cause) | Failure::Upstream(cause) => {
            let error = logs::chain(cause.as_ref());
            tracing::warn!(function = name, trace_id, caller, code = code.as_str(), error, duration_ms, "failed");
        }
        Failure::Timeout => {
            tracing::warn!(function = name, trace_id, caller, code = code.as_str(), duration_ms, "failed");
        }
    }
    Answer::refused_for(function, &public(failure), trace_id.to_owned())
}

/// The part of a failure that the caller may see.
fn public(failure: Failure) -> Refusal {
    let code = failure.code();
    match (failure, code) {
        (_, Code::Internal) => Refusal::new(code),
        (Failure::Refused(refusal), Code::UpstreamError | Code::Unavailable | Code::Timeout) => {
            Refusal::new(code).with_message(refusal.message)
        }
        (Failure::Refused(refusal), _) => refusal,
        (_, code) => Refusal::new(code),
    }
}

/// Fields that the envelope owns. `code` above all: clients of the platform take any reply that has it for an error.
const RESERVED: [&str; 4] = ["success", "code", "requestId", "replayed"];

fn success(output: Output, trace_id: &str) -> Result<(u16, Option<Value>), Failure> {
    let reply = match output {
        Output::Raw(RawReply { status, body }) => return Ok((status, body)),
        Output::Reply(reply) => reply,
    };
    let Value::Object(fields) = reply.fields else {
        return Err(Failure::invariant("INVARIANT_REPLY_SHAPE a reply must be an object"));
    };
    if let Some(name) = RESERVED.iter().find(|name| fields.contains_key(**name)) {
        return Err(Failure::invariant(format!("INVARIANT_REPLY_SHAPE a reply must not have the field {name}")));
    }
    let mut body = Map::new();
    body.insert("success".to_owned(), Value::Bool(true));
    body.extend(fields);
    body.insert("requestId".to_owned(), Value::from(trace_id));
    if reply.replayed {
        body.insert("replayed".to_owned(), Value::Bool(true));
    }
    Ok((200, Some(Value::Object(body))))
}

fn refusal_body(refusal: &Refusal, trace_id: &str) -> Value {
    let mut body = json!({
        "success": false,
        "code": refusal.code.as_str(),
        "message": refusal.message,
        "requestId": trace_id,
        "retryable": refusal.code.retryable(),
    });
    if let Some(body) = body.as_object_mut()
        && !refusal.details.is_empty()
    {
        body.insert("details".to_owned(), Value::Object(refusal.details.clone()));
    }
    body
}

/// The HTTP status of a code.
pub fn status(code: Code) -> u16 {
    match code {
        Code::InvalidArgument | Code::InvalidJson => 400,
        Code::Unauthenticated | Code::SignatureInvalid | Code::SessionExpired => 401,
        Code::Forbidden | Code::UserBlocked | Code::IdentityRequired => 403,
        Code::NotFound
        | Code::FunctionNotFound
        | Code::CustomerNotFound
        | Code::OrderNotFound
        | Code::ProductNotFound => 404,
        Code::Conflict
        | Code::IdempotencyKeyReused
        | Code::OrderStateInvalid
        | Code::OutOfStock
        | Code::PhoneAlreadyLinked
        | Code::CustomerAlreadyLinked
        | Code::AlreadySignedUp
        | Code::AmountMismatch => 409,
        Code::PayloadTooLarge => 413,
        Code::PrepaidInsufficient
        | Code::PrepaidProductMismatch
        | Code::PointsInsufficient
        | Code::CoinsInsufficient
        | Code::BalanceInsufficient
        | Code::CouponNotApplicable
        | Code::VerifyCodeInvalid
        | Code::VerifyCodeExpired
        | Code::IdCardInvalid
        | Code::SignupClosed
        | Code::QualificationInvalid
        | Code::CustomerAmbiguous => 422,
        Code::RateLimited => 429,
        Code::Internal => 500,
        Code::UpstreamError => 502,
        Code::Unavailable => 503,
        Code::Timeout => 504,
    }
}

/// The id to find a call by: the gateway's if it sent a usable one, else a new one.
pub fn trace_id_of(headers: &HeaderMap) -> String {
    ["x-request-id", "x-scf-request-id"]
        .iter()
        .filter_map(|name| headers.get(*name)?.to_str().ok())
        .find(|id| input::is_request_id(id))
        .map_or_else(|| hex::encode(rand::random::<[u8; 16]>()), str::to_owned)
}

/// The platform puts temporary credentials into `x-scf-*` headers. No code of ours has a use for them.
fn drop_platform_headers(headers: &mut HeaderMap) {
    let theirs: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("x-scf-")).cloned().collect();
    for name in theirs {
        headers.remove(name);
    }
}
