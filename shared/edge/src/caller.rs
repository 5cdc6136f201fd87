//! Who is calling. Every call is resolved to one [`Caller`] before its handler runs.
//!
//! A credential that is presented and does not hold is refused; it is never passed over in favour of a weaker one.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use domain::{Code, Failure, OpenId, Refusal};
use http::HeaderMap;
use serde_json::Value;

use crate::app::App;
use crate::function::{Accept, Function};
use crate::session::Kind;
use crate::signature::{self, Presented, Reason};

/// Who is calling, proven.
#[derive(Clone, PartialEq, Eq)]
pub enum Caller {
    /// A person in the mini-program.
    User { open_id: OpenId, union_id: Option<String> },
    /// A member of the shop's staff.
    Staff { id: String, permissions: Vec<String> },
    /// Another server, such as the CRM.
    Service { key_id: String, scopes: Vec<String> },
    /// A timer of the platform, or the local cloud's.
    Timer { trigger: String, time: DateTime<Utc> },
    /// A provider whose own signature the handler checks.
    Provider,
    /// Nobody in particular.
    Anonymous,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { open_id, .. } => write!(f, "User({open_id:?})"),
            Self::Staff { id, .. } => write!(f, "Staff({id})"),
            Self::Service { key_id, .. } => write!(f, "Service({key_id})"),
            Self::Timer { trigger, .. } => write!(f, "Timer({trigger})"),
            Self::Provider => f.write_str("Provider"),
            Self::Anonymous => f.write_str("Anonymous"),
        }
    }
}

impl Caller {
    /// The user this call acts for, given the `openId` of the input.
    ///
    /// A user acts for themselves: naming someone else is `FORBIDDEN`. A service or staff member must name one:
    /// `INVALID_ARGUMENT` on `openId` otherwise. Nobody else acts for a user.
    pub fn acting_open_id(&self, input_open_id: Option<&str>) -> Result<OpenId, Refusal> {
        match self {
            Self::User { open_id, .. } => match input_open_id {
                Some(named) if named != open_id.as_str() => Err(Refusal::new(Code::Forbidden)),
                _ => Ok(open_id.clone()),
            },
            Self::Service { .. } | Self::Staff { .. } => {
                let named = input_open_id.ok_or_else(|| Refusal::invalid("openId", "请指定 openId"))?;
                OpenId::parse(named).map_err(|_| Refusal::invalid("openId", "openId 格式不正确"))
            }
            Self::Anonymous => Err(Refusal::new(Code::Unauthenticated)),
            Self::Timer { .. } | Self::Provider => Err(Refusal::new(Code::Forbidden)),
        }
    }

    /// What to answer when the user this call acts for is unknown: a user must sign in, a server has named nobody.
    pub fn code_if_unknown(&self) -> Code {
        match self {
            Self::Service { .. } | Self::Staff { .. } => Code::NotFound,
            _ => Code::Unauthenticated,
        }
    }

    /// Whether staff or a service hold a permission; for functions that others may call, too.
    pub fn may(&self, permission: &str) -> bool {
        match self {
            Self::Staff { permissions: held, .. } | Self::Service { scopes: held, .. } => holds(held, permission),
            Self::User { .. } | Self::Timer { .. } | Self::Provider | Self::Anonymous => false,
        }
    }

    /// Who acts for the shop, as documents name them: `staff:…` or `service:…`. `FORBIDDEN` for everybody else.
    pub fn operator(&self) -> Result<String, Refusal> {
        match self {
            Self::Staff { id, .. } => Ok(format!("staff:{id}")),
            Self::Service { key_id, .. } => Ok(format!("service:{key_id}")),
            Self::User { .. } | Self::Timer { .. } | Self::Provider | Self::Anonymous => {
                Err(Refusal::new(Code::Forbidden))
            }
        }
    }

    /// The caller's kind, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User { .. } => "user",
            Self::Staff { .. } => "staff",
            Self::Service { .. } => "service",
            Self::Timer { .. } => "timer",
            Self::Provider => "provider",
            Self::Anonymous => "anonymous",
        }
    }
}

/// How the caller of an invocation is to be established.
#[derive(Clone, Debug)]
pub enum Proof {
    /// From the request's headers. `path` is the request path as we see it, without query; nothing is proven by the query.
    Http { method: String, path: String, query: String },
    /// Already proven by the host: a timer, a checked TC3 request, an identity that the platform injected.
    Caller(Caller),
    /// An event without headers: a signed payload, or else nobody. `function` is the name the caller asked for.
    SignedEvent { function: String },
}

impl Proof {
    /// The query of the request's address, where it had one.
    pub(crate) fn query(&self) -> &str {
        match self {
            Self::Http { query, .. } => query,
            Self::Caller(_) | Self::SignedEvent { .. } => "",
        }
    }
}

/// The caller of an invocation and the input that is left once the proof is taken off.
pub(crate) async fn resolve(
    app: &App,
    function: &Function,
    proof: Proof,
    headers: &HeaderMap,
    body: Bytes,
    now: DateTime<Utc>,
) -> Result<(Caller, Bytes), Failure> {
    match proof {
        Proof::Caller(caller) => {
            admit(function, &caller)?;
            Ok((caller, body))
        }
        Proof::Http { method, path, .. } => {
            let caller = from_headers(app, function, &method, &path, headers, &body, now).await?;
            Ok((caller, body))
        }
        Proof::SignedEvent { function: named } => from_event(app, function, &named, body).await,
    }
}

async fn from_headers(
    app: &App,
    function: &Function,
    method: &str,
    path: &str,
    headers: &HeaderMap,
    body: &Bytes,
    now: DateTime<Utc>,
) -> Result<Caller, Failure> {
    // The provider signs in its own way, over the raw body; its handler knows how.
    if function.accepts_provider() {
        return Ok(Caller::Provider);
    }
    let app_session = header(headers, "x-app-session").map_err(|Repeated| unauthenticated())?;
    let signed = SIGNATURE_HEADERS.iter().any(|name| headers.contains_key(*name));
    if signed {
        if app_session.is_some() {
            return Err(unauthenticated().with_message("请只使用一种身份凭证").into());
        }
        let name = function.name();
        let presented = presented_in(headers)?;
        // A route may cut off the part of the path that it matched. Then all we see is "/", while the client signed
        // what it asked for; the function's name in it still ties the signature to this function.
        let (plain, http_api) = (format!("/{name}"), format!("/v1/functions/{name}"));
        let paths: &[&str] = if path == "/" || path.is_empty() { &["/", &plain, &http_api] } else { &[path] };
        return service(app, function, presented, method, paths, body).await;
    }
    let token = match app_session {
        Some(token) => Some(token),
        None => bearer(headers)?,
    };
    let caller = if let Some(token) = token {
        match from_token(app, token, now) {
            // Where nobody needs to be anybody, as in `login`, an old session must not lock its owner out.
            Err(refusal) if refusal.code == Code::SessionExpired && function.callers() == [Accept::Anonymous] => {
                Caller::Anonymous
            }
            other => other?,
        }
    } else if let Some(caller) = from_platform(app, headers)? {
        caller
    } else {
        Caller::Anonymous
    };
    admit(function, &caller)?;
    Ok(caller)
}

/// Who a session token belongs to.
pub(crate) fn from_token(app: &App, token: &str, now: DateTime<Utc>) -> Result<Caller, Refusal> {
    let claims = app.sessions().verify(token, now)?;
    match claims.kind {
        Kind::User => {
            let open_id = OpenId::parse(&claims.sub).map_err(|_| unauthenticated())?;
            let union_id = claims.unionid;
            Ok(Caller::User { open_id, union_id })
        }
        Kind::Staff => {
            let (id, permissions) = (claims.sub, claims.permissions);
            Ok(Caller::Staff { id, permissions })
        }
    }
}

/// The identity headers of the private WeChat link. On a public route anyone can send them, so they count only where
/// the deployment says that there is none; everywhere else they are as good as absent.
fn from_platform(app: &App, headers: &HeaderMap) -> Result<Option<Caller>, Refusal> {
    if !app.config.trust_wx_headers {
        return Ok(None);
    }
    let get = |name| header(headers, name).map_err(|Repeated| unauthenticated());
    let (Some(open_id), Some(_source)) = (get("x-wx-openid")?, get("x-wx-source")?) else {
        return Ok(None);
    };
    let open_id = OpenId::parse(open_id).map_err(|_| unauthenticated())?;
    let union_id = get("x-wx-unionid")?.map(str::to_owned);
    Ok(Some(Caller::User { open_id, union_id }))
}

const SIGNATURE_HEADERS: [&str; 4] = ["x-jinlu-key", "x-jinlu-timestamp", "x-jinlu-nonce", "x-jinlu-signature"];

fn presented_in(headers: &HeaderMap) -> Result<Presented<'_>, Refusal> {
    let get = |name| match header(headers, name) {
        Ok(Some(value)) => Ok(value),
        Ok(None) | Err(Repeated) => Err(signature::refused(
            Reason::Form,
            "签名请求须带 x-jinlu-key、x-jinlu-timestamp、x-jinlu-nonce、x-jinlu-signature 各一个",
        )),
    };
    let [key, timestamp, nonce, signature] = SIGNATURE_HEADERS;
    Ok(Presented { key: get(key)?, timestamp: get(timestamp)?, nonce: get(nonce)?, signature: get(signature)? })
}

async fn from_event(app: &App, function: &Function, named: &str, body: Bytes) -> Result<(Caller, Bytes), Failure> {
    let Some(event) = signed_event(&body) else {
        admit(function, &Caller::Anonymous)?;
        return Ok((Caller::Anonymous, body));
    };
    let form = || signature::refused(Reason::Form, "签名事件须带 key、timestamp、nonce、payload、signature");
    let text = |name: &str| event.get(name).and_then(Value::as_str).ok_or_else(form);
    // Clients write it as they like; what was signed is its decimal text either way.
    let timestamp = match event.get("timestamp") {
        Some(Value::Number(seconds)) => seconds.to_string(),
        _ => text("timestamp")?.to_owned(),
    };
    let presented =
        Presented { key: text("key")?, timestamp: &timestamp, nonce: text("nonce")?, signature: text("signature")? };
    let payload = Bytes::copy_from_slice(text("payload")?.as_bytes());
    // Whose word would it be, the outer signer's or the inner one's? Nobody has a reason to send this.
    if signed_event(&payload).is_some() {
        return Err(signature::refused(Reason::Form, "payload 中不能再有签名").into());
    }
    let path = format!("/{named}");
    let caller = service(app, function, presented, "EVENT", &[&path], &payload).await?;
    Ok((caller, payload))
}

/// Whether an event claims to be signed.
pub(crate) fn is_signed_event(body: &[u8]) -> bool {
    signed_event(body).is_some()
}

/// The event, if it claims to be signed.
fn signed_event(body: &[u8]) -> Option<Value> {
    let event: Value = serde_json::from_slice(body).ok()?;
    let has = |name: &str| event.get(name).is_some();
    (has("signature") || (has("payload") && has("key"))).then_some(event)
}

async fn service(
    app: &App,
    function: &Function,
    presented: Presented<'_>,
    method: &str,
    paths: &[&str],
    body: &[u8],
) -> Result<Caller, Failure> {
    let keys = &app.config.service_keys;
    let verified = signature::verify(keys, presented, method, paths, body, &app.clock.client_times())?;
    let caller = Caller::Service { key_id: verified.key.id.clone(), scopes: verified.key.scopes.clone() };
    admit(function, &caller)?;
    // Last, so that neither a forger nor a refused caller can fill the store or burn someone's nonce.
    let first_use = app.store().use_nonce(&verified.key.id, presented.nonce, verified.nonce_expires_at).await?;
    if !first_use {
        return Err(signature::refused(Reason::Nonce, "nonce 已使用过").into());
    }
    Ok(caller)
}

/// Whether the function lets this caller in. Fails with `UNAUTHENTICATED` for nobody and `FORBIDDEN` for somebody.
fn admit(function: &Function, caller: &Caller) -> Result<(), Refusal> {
    if function.callers().iter().any(|accept| lets_in(*accept, caller)) {
        return Ok(());
    }
    match caller {
        Caller::Anonymous => Err(Refusal::new(Code::Unauthenticated)),
        _ => Err(Refusal::new(Code::Forbidden)),
    }
}

fn lets_in(accept: Accept, caller: &Caller) -> bool {
    match (accept, caller) {
        (Accept::Anonymous, _)
        | (Accept::User, Caller::User { .. })
        | (Accept::Timer, Caller::Timer { .. })
        | (Accept::Provider, Caller::Provider) => true,
        (Accept::Service(scope), Caller::Service { scopes, .. }) => holds(scopes, scope),
        (Accept::Staff(permission), Caller::Staff { permissions, .. }) => holds(permissions, permission),
        _ => false,
    }
}

fn holds(held: &[String], wanted: &str) -> bool {
    wanted.is_empty() || held.iter().any(|have| have == wanted || have == "*")
}

fn unauthenticated() -> Refusal {
    Refusal::new(Code::Unauthenticated).with_message("登录凭证无效，请重新登录")
}

/// A header came more than once, or as something other than text: two readers could see two identities.
struct Repeated;

/// A header's value. An empty one counts as absent.
fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Repeated> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    match (first, second) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
            Err(_) => Err(Repeated),
        },
        (Some(_), Some(_)) => Err(Repeated),
    }
}

/// The token of `Authorization: Bearer`. Other schemes are not credentials of ours.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = header(headers, "authorization").map_err(|Repeated| unauthenticated())? else {
        return Ok(None);
    };
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Ok(None) }
}
