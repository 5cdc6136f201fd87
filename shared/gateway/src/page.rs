//! The local cloud's page and the calls behind it. Everything here is for one developer on one machine: it hands out
//! sessions and calls functions as anyone, so it answers only to pages that were served from this machine's own name.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use domain::{Code, Refusal};
use edge::config::local;
use edge::{Accept, Answer, Caller, Function, Proof, http_response, trace_id_of};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::control::{input, refused, success};
use crate::{Gateway, Invoked};

const PAGE: &str = include_str!("page.html");
const NONCE_MARK: &str = "{{nonce}}";

pub(crate) fn router(gateway: &Gateway) -> Router {
    let routes = Router::new()
        .route("/", get(page))
        .route("/local/state", get(state))
        .route("/local/session", post(session))
        .route("/local/invoke", post(invoke));
    guard(routes.layer(middleware::from_fn(only_json))).with_state(gateway.clone())
}

/// Lets in only requests to this machine by its own name, from its own page or from a program.
///
/// A hostile page can make a browser send requests here: under a name of its own that it points to 127.0.0.1 (the Host
/// header tells), or across origins (the Origin header tells).
pub(crate) fn guard<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(middleware::from_fn(check))
}

async fn check(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let own_origin = format!("http://{host}");
    let foreign = text(header::ORIGIN).is_some_and(|origin| origin != own_origin);
    if !is_own_name(host) || foreign {
        return http_response(refused(
            &Refusal::new(Code::Forbidden).with_message("本地云页面只能从本机访问（127.0.0.1 或 localhost）"),
        ));
    }
    next.run(request).await
}

/// Browsers ask first before they send this type across origins, so a form cannot change anything here.
async fn only_json(request: Request, next: Next) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = kind.is_some_and(|kind| kind.trim().to_ascii_lowercase().starts_with("application/json"));
    if request.method() != Method::GET && !is_json {
        return http_response(refused(&Refusal::invalid("content-type", "请使用 application/json")));
    }
    next.run(request).await
}

fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "127.0.0.1" | "localhost" | "[::1]")
}

async fn page() -> Response {
    let nonce = hex::encode(rand::random::<[u8; 16]>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Response::new(Body::from(PAGE.replace(NONCE_MARK, &nonce)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn state(State(gateway): State<Gateway>) -> Response {
    let inner = &gateway.inner;
    let facts = inner.options.local.as_ref();
    http_response(success(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "envId": inner.options.env_id,
        "url": facts.map(|facts| &facts.url),
        "dataDir": facts.map(|facts| &facts.data_dir),
        "database": facts.map(|facts| &facts.database),
        "timersRun": facts.is_some_and(|facts| facts.timers_run),
        "now": inner.app.clock.now(),
        "offsetSeconds": gateway.inner.app.clock.shift().num_seconds(),
        // Published constants of the local cloud, not secrets.
        "credentials": {
            "secretId": local::TC3_SECRET_ID,
            "secretKey": local::TC3_SECRET_KEY,
            "serviceKey": local::SERVICE_KEY_ID,
            "serviceSecret": local::SERVICE_SECRET,
        },
        "functions": inner.functions.iter().map(described).collect::<Vec<_>>(),
        "timers": gateway.timer_statuses(),
        "calls": gateway.recent_calls(),
    })))
}

fn described(function: &Function) -> Value {
    let callers: Vec<Value> = function.callers().iter().map(|accept| caller_label(*accept)).collect();
    json!({
        "name": function.name(),
        "summary": function.summary_text(),
        "callers": callers,
        "raw": function.is_raw(),
        "timeoutSeconds": function.time_limit().as_secs(),
        "schema": function.input_schema(),
    })
}

fn caller_label(accept: Accept) -> Value {
    match accept {
        Accept::User => json!({ "kind": "user" }),
        Accept::Service(scope) => json!({ "kind": "service", "needs": scope }),
        Accept::Staff(permission) => json!({ "kind": "staff", "needs": permission }),
        Accept::Timer => json!({ "kind": "timer" }),
        Accept::Provider => json!({ "kind": "provider" }),
        Accept::Anonymous => json!({ "kind": "anonymous" }),
    }
}

#[derive(Deserialize)]
struct Session {
    name: String,
}

/// Signs in `o-NAME` through the login function, as the mini-program would.
async fn session(State(gateway): State<Gateway>, body: Body) -> Response {
    let session: Session = match input(body).await {
        Ok(session) => session,
        Err(refusal) => return http_response(refused(&refusal)),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if session.name.is_empty() || session.name.len() > 40 || !session.name.bytes().all(plain) {
        return http_response(refused(&Refusal::invalid("name", "用户名为 1 到 40 个字母、数字、- 或 _")));
    }
    let code = format!("dev-{}", session.name);
    http_response(
        call(&gateway, "login", Proof::Caller(Caller::Anonymous), HeaderMap::new(), &json!({ "code": code })).await,
    )
}

#[derive(Deserialize)]
struct Call {
    function: String,
    r#as: As,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    input: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum As {
    Anonymous,
    User,
    Service,
    Staff,
    Timer,
}

/// Calls a function as the chosen kind of caller.
async fn invoke(State(gateway): State<Gateway>, body: Body) -> Response {
    let request: Call = match input(body).await {
        Ok(request) => request,
        Err(refusal) => return http_response(refused(&refusal)),
    };
    let mut headers = HeaderMap::new();
    let all = || vec!["*".to_owned()];
    let proof = match request.r#as {
        As::Anonymous => Proof::Caller(Caller::Anonymous),
        As::Service => Proof::Caller(Caller::Service { key_id: local::SERVICE_KEY_ID.to_owned(), scopes: all() }),
        As::Staff => Proof::Caller(Caller::Staff { id: "local-staff".to_owned(), permissions: all() }),
        As::Timer => return http_response(gateway.fire(&request.function).await),
        As::User => {
            if let Some(token) = request.token.as_deref().and_then(|token| HeaderValue::from_str(token).ok()) {
                headers.insert("x-app-session", token);
            }
            Proof::Http { method: "POST".to_owned(), path: format!("/{}", request.function), query: String::new() }
        }
    };
    http_response(call(&gateway, &request.function, proof, headers, &Value::Object(request.input)).await)
}

async fn call(gateway: &Gateway, name: &str, proof: Proof, headers: HeaderMap, input: &Value) -> Answer {
    let trace_id = trace_id_of(&HeaderMap::new());
    let Some(function) = gateway.function(name) else {
        return Answer::refused(&Refusal::new(Code::FunctionNotFound), trace_id);
    };
    let body = Bytes::from(input.to_string());
    gateway.call(function, "page", Invoked { proof, headers, body, trace_id: Some(trace_id) }).await
}
