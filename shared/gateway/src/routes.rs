//! The ways in. On the plain routes a function's answer goes out as it is; on the others it is a text inside the
//! transport's own reply, where only a failure of the transport itself uses the transport's error form.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{any, get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use domain::{Code, Refusal};
use edge::{Answer, Caller, Proof, http_response, read_body, trace_id_of};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::tc3;
use crate::{Gateway, Invoked};

/// A function's input of up to 100 KB as a text inside JSON, where quotes and line ends take two bytes.
const WRAPPED_BYTES_MAX: usize = 220 * 1024;

pub(crate) fn router(gateway: &Gateway) -> Router {
    let routes = Router::new()
        .route("/healthz", get(health))
        .route("/{name}", any(plain))
        .route("/v1/functions/{name}", any(http_api))
        .route("/admin", post(admin).fallback(not_post))
        .route("/web", post(web).fallback(not_post))
        .route("/tcb/invokecloudfunction", any(wechat));
    let routes = match gateway.inner.options.local {
        Some(_) => routes
            .route("/auth/v1/signin/anonymously", post(local_sign_in))
            .route("/auth/v1/token", post(local_sign_in))
            .route("/auth/v1/user/me", get(local_user)),
        None => routes,
    };
    routes.fallback(nowhere).with_state(gateway.clone())
}

async fn health(State(gateway): State<Gateway>) -> Response {
    let (status, text) = match edge::host::store_answers(&gateway.inner.app).await {
        true => (200, "ok"),
        false => (503, "unavailable"),
    };
    http_response(Answer { status, body: Some(json!({ "status": text })), trace_id: trace_id_of(&HeaderMap::new()) })
}

async fn nowhere(request: Request) -> Response {
    http_response(Answer::refused(&Refusal::new(Code::FunctionNotFound), trace_id_of(request.headers())))
}

async fn not_post(request: Request) -> Response {
    method_not_allowed(trace_id_of(request.headers()))
}

fn method_not_allowed(trace_id: String) -> Response {
    let mut answer = Answer::refused(&Refusal::invalid("method", "只支持 POST"), trace_id);
    answer.status = StatusCode::METHOD_NOT_ALLOWED.as_u16();
    let mut response = http_response(answer);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

/// `POST /{name}`
async fn plain(State(gateway): State<Gateway>, Path(name): Path<String>, request: Request) -> Response {
    over_http(&gateway, &name, "http", request).await
}

/// `POST /v1/functions/{name}`, the HTTP API of the platform.
async fn http_api(State(gateway): State<Gateway>, Path(name): Path<String>, mut request: Request) -> Response {
    // The platform's clients always send a token of their own, an anonymous login's or a publishable key. It is not a
    // credential of ours and grants nothing; a session of ours may come beside it in x-app-session.
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|value| value.split_once(' ')).map_or("", |(_, token)| token.trim());
    if !is_ours(&gateway, token) {
        request.headers_mut().remove(header::AUTHORIZATION);
    }
    over_http(&gateway, &name, "v1", request).await
}

async fn over_http(gateway: &Gateway, name: &str, via: &'static str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let trace_id = trace_id_of(&parts.headers);
    let Some(function) = gateway.function(name) else {
        return http_response(Answer::refused(&Refusal::new(Code::FunctionNotFound), trace_id));
    };
    if parts.method != Method::POST {
        return method_not_allowed(trace_id);
    }
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(refusal) => return http_response(Answer::refused(&refusal, trace_id)),
    };
    let proof = Proof::Http {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
    };
    let request = Invoked { proof, headers: parts.headers, body, trace_id: Some(trace_id) };
    http_response(gateway.call(function, via, request).await)
}

/// Whether a token claims to be signed with one of our session secrets. Whether it is, `edge` finds out.
fn is_ours(gateway: &Gateway, token: &str) -> bool {
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header: Option<Value> = header.and_then(|header| serde_json::from_slice(&header).ok());
    let kid = header.as_ref().and_then(|header| header.get("kid")).and_then(Value::as_str);
    kid.is_some_and(|kid| gateway.inner.app.config.session_secrets.iter().any(|secret| secret.id == kid))
}

/// A failure of the transport on `/admin` and `/web`: status 200, as the SDKs expect it.
struct TransportError {
    code: &'static str,
    message: String,
}

impl TransportError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// A call of the form `{"action":"functions.invokeFunction","function_name":…,"request_data":…}`.
struct WrappedCall {
    function: String,
    data: Bytes,
    /// The client wants the result as JSON and not as a text.
    parse: bool,
}

impl WrappedCall {
    fn of(fields: &serde_json::Map<String, Value>) -> Result<Self, TransportError> {
        let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if text("action") != Some("functions.invokeFunction") {
            return Err(TransportError::new(
                "INVALID_PARAM",
                "action must be functions.invokeFunction: only functions are served here",
            ));
        }
        let function =
            text("function_name").ok_or_else(|| TransportError::new("INVALID_PARAM", "function_name is missing"))?;
        let data = match fields.get("request_data") {
            None | Some(Value::Null) => "{}".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let parse = fields.get("parse") == Some(&Value::Bool(true));
        Ok(Self { function: function.to_owned(), data: Bytes::from(data), parse })
    }
}

/// `POST /admin?env=`, node-sdk and wx-server-sdk.
async fn admin(State(gateway): State<Gateway>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let trace_id = trace_id_of(&parts.headers);
    let outcome = admin_call(&gateway, &parts.method, &parts.uri, &parts.headers, body, &trace_id).await;
    wrapped_response(outcome, trace_id)
}

async fn admin_call(
    gateway: &Gateway,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
    trace_id: &str,
) -> Result<Value, TransportError> {
    let body = wrapped_body(body).await?;
    let query = uri.query().unwrap_or_default();
    let unsigned = |message: String| TransportError::new("SIGN_PARAM_INVALID", message);
    let key = gateway
        .inner
        .options
        .tc3
        .as_ref()
        .ok_or_else(|| unsigned("no key pair is configured for /admin".to_owned()))?;
    let presented = tc3::Presented { method: method.as_str(), path: uri.path(), query, headers };
    let fields = tc3::verify(key, &presented, &body, &gateway.inner.app.clock.client_times())
        .map_err(|refused| unsigned(refused.to_string()))?;
    let named = [query_value(query, "env"), fields.get("envname").and_then(Value::as_str).map(str::to_owned)];
    check_env(gateway, &named)?;
    let call = WrappedCall::of(&fields)?;
    let caller = Caller::Service { key_id: key.secret_id.clone(), scopes: vec!["*".to_owned()] };
    wrapped_call(gateway, call, "admin", Proof::Caller(caller), HeaderMap::new(), trace_id).await
}

/// `POST /web?env=`, js-sdk in its classic mode.
async fn web(State(gateway): State<Gateway>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let trace_id = trace_id_of(&parts.headers);
    let outcome = web_call(&gateway, &parts.uri, body, &trace_id).await;
    wrapped_response(outcome, trace_id)
}

async fn web_call(gateway: &Gateway, uri: &Uri, body: Body, trace_id: &str) -> Result<Value, TransportError> {
    let body = wrapped_body(body).await?;
    let Ok(Value::Object(fields)) = serde_json::from_slice(&body) else {
        return Err(TransportError::new("INVALID_PARAM", "the body is not a JSON object"));
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    check_env(gateway, &[query_value(uri.query().unwrap_or_default(), "env"), text("env").map(str::to_owned)])?;
    let mut headers = HeaderMap::new();
    let session = text("access_token").filter(|token| is_ours(gateway, token));
    let proof = match session.and_then(|token| HeaderValue::from_str(token).ok()) {
        Some(token) => {
            headers.insert("x-app-session", token);
            Proof::Http { method: "POST".to_owned(), path: uri.path().to_owned(), query: String::new() }
        }
        None => Proof::Caller(Caller::Anonymous),
    };
    wrapped_call(gateway, WrappedCall::of(&fields)?, "web", proof, headers, trace_id).await
}

async fn wrapped_body(body: Body) -> Result<Bytes, TransportError> {
    let too_large =
        |_| TransportError::new("EXCEED_MAX_PAYLOAD_SIZE", "the request body is broken or larger than 220 KB");
    to_bytes(body, WRAPPED_BYTES_MAX).await.map_err(too_large)
}

fn check_env(gateway: &Gateway, named: &[Option<String>]) -> Result<(), TransportError> {
    let mut named = named.iter().flatten().filter(|env| !env.is_empty()).peekable();
    if named.peek().is_none() || named.any(|env| *env != gateway.inner.options.env_id) {
        return Err(TransportError::new(
            "INVALID_ENV",
            format!("the environment here is {}", gateway.inner.options.env_id),
        ));
    }
    Ok(())
}

async fn wrapped_call(
    gateway: &Gateway,
    call: WrappedCall,
    via: &'static str,
    proof: Proof,
    headers: HeaderMap,
    trace_id: &str,
) -> Result<Value, TransportError> {
    let function = gateway
        .function(&call.function)
        .ok_or_else(|| TransportError::new("FUNCTION_NOT_FOUND", Code::FunctionNotFound.message()))?;
    let request = Invoked { proof, headers, body: call.data, trace_id: Some(trace_id.to_owned()) };
    let result = gateway.call(function, via, request).await.body.unwrap_or(Value::Null);
    Ok(if call.parse { result } else { Value::String(result.to_string()) })
}

fn wrapped_response(outcome: Result<Value, TransportError>, trace_id: String) -> Response {
    let body = match outcome {
        Ok(result) => json!({ "requestId": trace_id, "data": { "response_data": result } }),
        Err(error) => json!({ "code": error.code, "message": error.message, "requestId": trace_id }),
    };
    http_response(Answer { status: 200, body: Some(body), trace_id })
}

/// `POST /tcb/invokecloudfunction?access_token=&env=&name=`, WeChat's server interface.
async fn wechat(State(gateway): State<Gateway>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let trace_id = trace_id_of(&parts.headers);
    let body = match wechat_call(&gateway, &parts.method, parts.uri.query().unwrap_or_default(), body, &trace_id).await
    {
        Ok(result) => json!({ "errcode": 0, "errmsg": "ok", "resp_data": result }),
        Err((errcode, errmsg)) => json!({ "errcode": errcode, "errmsg": format!("{errmsg} rid: {trace_id}") }),
    };
    http_response(Answer { status: 200, body: Some(body), trace_id })
}

async fn wechat_call(
    gateway: &Gateway,
    method: &Method,
    query: &str,
    body: Body,
    trace_id: &str,
) -> Result<String, (i32, String)> {
    if method != Method::POST {
        return Err((43002, "require POST method".to_owned()));
    }
    let value = |name| query_value(query, name).filter(|value| !value.is_empty());
    // WeChat checks it before it calls us, and it says nothing about who is calling; here it only has to be there.
    value("access_token").ok_or_else(|| (41001, "access_token missing".to_owned()))?;
    let name = value("name").ok_or_else(|| (40101, "missing parameter: name".to_owned()))?;
    check_env(gateway, &[value("env")]).map_err(|error| (-501005, error.message))?;
    let function =
        gateway.function(&name).ok_or_else(|| (-501000, "FunctionName parameter could not be found".to_owned()))?;
    let body = wrapped_body(body).await.map_err(|error| (-1, error.message))?;
    if body.is_empty() {
        return Err((44002, "empty post data".to_owned()));
    }
    let proof = Proof::SignedEvent { function: name };
    let request = Invoked { proof, headers: HeaderMap::new(), body, trace_id: Some(trace_id.to_owned()) };
    let result = gateway.call(function, "tcb", request).await.body.unwrap_or(Value::Null);
    Ok(result.to_string())
}

fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
    })
}

/// The anonymous sign-in that js-sdk insists on before its first call. The token is worth nothing here, on purpose.
async fn local_sign_in() -> Response {
    local(json!({
        "token_type": "Bearer",
        "access_token": "local-anonymous",
        "refresh_token": "local-anonymous",
        "expires_in": 7200,
        "scope": "anonymous",
        "sub": "local-anonymous",
        "groups": [],
    }))
}

async fn local_user() -> Response {
    local(json!({ "sub": "local-anonymous", "name": "anonymous", "provider_user_id": "", "groups": [] }))
}

fn local(body: Value) -> Response {
    http_response(Answer { status: 200, body: Some(body), trace_id: trace_id_of(&HeaderMap::new()) })
}
