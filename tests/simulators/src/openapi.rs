//! The mini program's Open API: login, access tokens, phone numbers, subscribe messages; reports of shipping are next door.
//!
//! Like the real one it answers HTTP 200 for nearly every failure, labels JSON `text/plain`, and leaves `errcode` out of a
//! successful code2Session.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::crypto::random_hex;
use crate::faults::{FaultMode, Target, afterwards, cut};
use crate::state::{Message, State as Memory, Token, TokenKind};
use crate::{Sim, keys, query_value, shipping};

const BODY_MAX: usize = 256 * 1024;
const TOKEN_LIFE: TimeDelta = TimeDelta::seconds(7_200);
/// In this last stretch a stable token is renewed; the old one stays valid for as long.
const OVERLAP: TimeDelta = TimeDelta::seconds(300);
const FORCED_PER_DAY: usize = 20;
const FORCED_APART: TimeDelta = TimeDelta::seconds(30);

pub(crate) fn router(sim: Sim) -> Router {
    Router::new().route("/{*path}", any(entry)).with_state(sim)
}

/// `errcode` and `errmsg`.
#[derive(Debug)]
pub(crate) struct Refusal(i64, String);

impl Refusal {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self(code, message.into())
    }
}

async fn entry(State(sim): State<Sim>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let fault = sim.take_fault(Target::Wechat, parts.uri.path());
    if let Some(fault) = &fault {
        match fault.mode {
            FaultMode::Timeout => {
                tokio::time::sleep(fault.delay(30_000)).await;
                return cut();
            }
            FaultMode::Reset => return cut(),
            FaultMode::ServerError => return plain(StatusCode::INTERNAL_SERVER_ERROR, "injected".to_owned()),
            FaultMode::TooMany => {
                return error(&Refusal::new(
                    45011,
                    "api minute-quota reach limit, must slower, retry next minute (injected)",
                ));
            }
            FaultMode::Errcode => {
                return error(&Refusal::new(fault.errcode.as_ref().and_then(Value::as_i64).unwrap_or(-1), "injected"));
            }
            FaultMode::BadSignature | FaultMode::DropAfterCommit | FaultMode::Silence | FaultMode::Slow => {}
        }
    }
    let Ok(body) = to_bytes(body, BODY_MAX).await else { return plain(StatusCode::PAYLOAD_TOO_LARGE, String::new()) };
    let response = match answer(&sim, &parts.method, &parts.uri, &body) {
        Some(Ok(value)) => plain(StatusCode::OK, value.to_string()),
        Some(Err(refusal)) => {
            tracing::debug!(errcode = refusal.0, path = parts.uri.path(), "refused");
            error(&refusal)
        }
        None => plain(StatusCode::NOT_FOUND, String::new()),
    };
    afterwards(fault.as_ref(), response).await
}

fn answer(sim: &Sim, method: &Method, uri: &Uri, body: &[u8]) -> Option<Result<Value, Refusal>> {
    let now = sim.now();
    let get = *method == Method::GET;
    Some(match uri.path() {
        "/sns/jscode2session" if get => code_to_session(sim, uri),
        "/sns/jscode2session" => Err(Refusal::new(43001, "require GET method")),
        // The old call takes its parameters from the query whatever the method.
        "/cgi-bin/token" => legacy_token(sim, uri, now),
        "/cgi-bin/stable_token"
        | "/wxa/business/getuserphonenumber"
        | "/wxa/msg_sec_check"
        | "/cgi-bin/message/subscribe/send"
            if get =>
        {
            Err(Refusal::new(43002, "require POST method"))
        }
        path if get && shipping::PATHS.contains(&path) => Err(Refusal::new(43002, "require POST method")),
        "/cgi-bin/stable_token" => stable_token(sim, body, now),
        "/wxa/business/getuserphonenumber" => token(&sim.state(), uri, now).and_then(|()| phone_number(body, now)),
        "/wxa/msg_sec_check" => {
            let checked = token(&sim.state(), uri, now);
            checked.and_then(|()| check_text(sim, body, now))
        }
        "/cgi-bin/message/subscribe/send" => {
            let checked = token(&sim.state(), uri, now);
            checked.and_then(|()| send(sim, body, now))
        }
        path if shipping::PATHS.contains(&path) => {
            let checked = token(&sim.state(), uri, now);
            checked.and_then(|()| shipping::answer(sim, path, body, now))
        }
        _ => return None,
    })
}

fn code_to_session(sim: &Sim, uri: &Uri) -> Result<Value, Refusal> {
    let query = |name: &str| query_value(uri, name).filter(|value| !value.is_empty());
    credentials(query("appid").as_deref(), query("secret").as_deref())?;
    if query("grant_type").as_deref() != Some("authorization_code") {
        return Err(Refusal::new(40002, "invalid grant_type"));
    }
    let code = query("js_code").ok_or_else(|| Refusal::new(41008, "missing code"))?;
    let name = code.strip_prefix("dev-").or_else(|| code.strip_prefix("once-")).filter(|name| plain_name(name));
    let name = name.ok_or_else(|| Refusal::new(40029, "invalid code (use dev-NAME or once-NAME)"))?;
    if code.starts_with("once-") && !sim.state().use_code(&code) {
        return Err(Refusal::new(40163, "code been used"));
    }
    sim.state().visited(&format!("o-{name}"), sim.now());
    let session_key = STANDARD.encode(rand::random::<[u8; 16]>());
    Ok(json!({ "openid": format!("o-{name}"), "unionid": format!("u-{name}"), "session_key": session_key }))
}

fn plain_name(name: &str) -> bool {
    (1..=60).contains(&name.len())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_' || character == '-')
}

fn credentials(appid: Option<&str>, secret: Option<&str>) -> Result<(), Refusal> {
    match appid {
        None => return Err(Refusal::new(41002, "appid missing")),
        Some(keys::APPID) => {}
        Some(_) => return Err(Refusal::new(40013, "invalid appid")),
    }
    match secret {
        None => Err(Refusal::new(41004, "appsecret missing")),
        Some(keys::APP_SECRET) => Ok(()),
        Some(_) => Err(Refusal::new(40125, "invalid appsecret")),
    }
}

#[derive(Deserialize)]
struct StableToken {
    grant_type: Option<String>,
    appid: Option<String>,
    secret: Option<String>,
    #[serde(default)]
    force_refresh: bool,
}

fn stable_token(sim: &Sim, body: &[u8], now: DateTime<Utc>) -> Result<Value, Refusal> {
    let request: StableToken = body_json(body)?;
    if request.grant_type.as_deref() != Some("client_credential") {
        return Err(Refusal::new(40002, "invalid grant_type"));
    }
    credentials(request.appid.as_deref(), request.secret.as_deref())?;
    let mut state = sim.state();
    if request.force_refresh {
        let day_ago = now - TimeDelta::days(1);
        state.forced.retain(|at| *at > day_ago);
        if state.forced.len() >= FORCED_PER_DAY {
            return Err(Refusal::new(45009, "reach max api daily quota limit: force_refresh 20 times a day"));
        }
        if state.forced.back().is_some_and(|last| now - *last < FORCED_APART) {
            return Err(Refusal::new(45011, "api minute-quota reach limit: force_refresh once in 30 seconds"));
        }
        state.forced.push_back(now);
    } else if let Some(current) =
        newest(&state, TokenKind::Stable, now).filter(|token| token.expires_at - now > OVERLAP)
    {
        return Ok(token_reply(current, now));
    }
    let mut tokens = state.tokens().to_vec();
    if request.force_refresh {
        // A forced renewal is for a leaked token: the old one dies at once.
        tokens.iter_mut().filter(|token| token.kind == TokenKind::Stable).for_each(|token| token.revoked = true);
    }
    Ok(issue(&mut state, tokens, TokenKind::Stable, now))
}

fn legacy_token(sim: &Sim, uri: &Uri, now: DateTime<Utc>) -> Result<Value, Refusal> {
    let query = |name: &str| query_value(uri, name).filter(|value| !value.is_empty());
    if query("grant_type").as_deref() != Some("client_credential") {
        return Err(Refusal::new(40002, "invalid grant_type"));
    }
    credentials(query("appid").as_deref(), query("secret").as_deref())?;
    let mut state = sim.state();
    let mut tokens = state.tokens().to_vec();
    for token in tokens.iter_mut().filter(|token| token.kind == TokenKind::Legacy) {
        token.expires_at = token.expires_at.min(now + OVERLAP);
    }
    Ok(issue(&mut state, tokens, TokenKind::Legacy, now))
}

fn newest(state: &Memory, kind: TokenKind, now: DateTime<Utc>) -> Option<&Token> {
    state.tokens().iter().rev().find(|token| token.kind == kind && !token.revoked && token.expires_at > now)
}

fn issue(state: &mut Memory, mut tokens: Vec<Token>, kind: TokenKind, now: DateTime<Utc>) -> Value {
    let token =
        Token { value: format!("sim-{}", random_hex::<48>()), kind, expires_at: now + TOKEN_LIFE, revoked: false };
    let reply = token_reply(&token, now);
    tokens.push(token);
    state.put_tokens(tokens);
    reply
}

fn token_reply(token: &Token, now: DateTime<Utc>) -> Value {
    json!({ "access_token": token.value, "expires_in": (token.expires_at - now).num_seconds() })
}

fn token(state: &Memory, uri: &Uri, now: DateTime<Utc>) -> Result<(), Refusal> {
    let given = query_value(uri, "access_token")
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Refusal::new(41001, "access_token missing"))?;
    match state.tokens().iter().find(|token| token.value == given) {
        Some(token) if token.revoked => {
            Err(Refusal::new(40001, "invalid credential, access_token is invalid or not latest"))
        }
        Some(token) if token.expires_at <= now => Err(Refusal::new(42001, "access_token expired")),
        Some(_) => Ok(()),
        None => Err(Refusal::new(40001, "invalid credential, access_token is invalid or not latest")),
    }
}

impl Sim {
    /// Makes every access token invalid, as a secret reset or another server's forced renewal would.
    pub fn revoke_tokens(&self) {
        let mut state = self.state();
        let mut tokens = state.tokens().to_vec();
        tokens.iter_mut().for_each(|token| token.revoked = true);
        state.put_tokens(tokens);
    }
}

/// The body of a check of text. A field that is not documented is an error, which the real one does not say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckText {
    version: i64,
    openid: String,
    scene: i64,
    content: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    nickname: String,
}

/// Text with 违规 is risky, with 可疑 wants a person, and everything else passes.
fn check_text(sim: &Sim, body: &[u8], now: DateTime<Utc>) -> Result<Value, Refusal> {
    let request: CheckText = body_json(body)?;
    if request.version != 2 {
        return Err(Refusal::new(40003, "version must be 2"));
    }
    if !plain_name(&request.openid) {
        return Err(Refusal::new(40003, "invalid openid"));
    }
    if !(1..=4).contains(&request.scene) {
        return Err(Refusal::new(40129, "invalid scene"));
    }
    if request.content.is_empty() {
        return Err(Refusal::new(44991, "content is empty"));
    }
    if request.content.chars().count() > 2_500 {
        return Err(Refusal::new(40258, "content is too long"));
    }
    if sim.state().last_visit(&request.openid).is_some_and(|at| now - at > TimeDelta::hours(2)) {
        return Err(Refusal::new(61010, "code is expired: the user has not visited in the last two hours"));
    }
    let has = |word: &str| [&request.content, &request.title, &request.nickname].iter().any(|text| text.contains(word));
    let (suggest, label) = match () {
        () if has("违规") => ("risky", 20_006),
        () if has("可疑") => ("review", 21_000),
        () => ("pass", 100),
    };
    Ok(json!({
        "errcode": 0,
        "errmsg": "ok",
        "result": { "suggest": suggest, "label": label },
        "detail": [{ "strategy": "content_model", "errcode": 0, "suggest": suggest, "label": label, "prob": 90 }],
        "trace_id": random_hex::<16>(),
    }))
}

#[derive(Deserialize)]
struct PhoneNumber {
    code: Option<String>,
}

fn phone_number(body: &[u8], now: DateTime<Utc>) -> Result<Value, Refusal> {
    let request: PhoneNumber = body_json(body)?;
    let code = request.code.unwrap_or_default();
    let number = code
        .strip_prefix("phone-")
        .filter(|number| number.len() == 11 && number.chars().all(|character| character.is_ascii_digit()));
    let number = number.ok_or_else(|| Refusal::new(40029, "invalid code (use phone-13900000001)"))?;
    Ok(json!({
        "errcode": 0,
        "errmsg": "ok",
        "phone_info": {
            "phoneNumber": number,
            "purePhoneNumber": number,
            "countryCode": "86",
            "watermark": { "timestamp": now.timestamp(), "appid": keys::APPID },
        },
    }))
}

#[derive(Deserialize)]
struct Send {
    touser: Option<String>,
    template_id: Option<String>,
    page: Option<String>,
    data: Option<Map<String, Value>>,
    miniprogram_state: Option<String>,
    lang: Option<String>,
}

fn send(sim: &Sim, body: &[u8], now: DateTime<Utc>) -> Result<Value, Refusal> {
    let request: Send = body_json(body)?;
    let open_id =
        request.touser.filter(|open_id| plain_name(open_id)).ok_or_else(|| Refusal::new(40003, "invalid openid"))?;
    let template_id = request
        .template_id
        .filter(|id| !id.trim().is_empty())
        .ok_or_else(|| Refusal::new(40037, "invalid template_id"))?;
    let miniprogram_state = one_of("miniprogram_state", request.miniprogram_state, &["formal", "trial", "developer"])?;
    let lang = one_of("lang", request.lang, &["zh_CN", "en_US", "zh_HK", "zh_TW"])?;
    let data = request.data.filter(|data| !data.is_empty()).ok_or_else(|| argument("data", "is empty"))?;
    for (key, field) in &data {
        let value = match field.get("value") {
            Some(Value::String(value)) => value.clone(),
            Some(Value::Number(value)) => value.to_string(),
            _ => return Err(argument(&format!("data.{key}.value"), "is missing")),
        };
        keyword(key, &value).map_err(|why| argument(&format!("data.{key}.value"), why))?;
    }
    let mut state = sim.state();
    let quota = state.quota(&open_id, &template_id);
    match quota {
        Some(left) if left > 0 => state.put_quota(&open_id, &template_id, left.saturating_sub(1)),
        None if !sim.config().strict_quota => {}
        Some(_) | None => return Err(Refusal::new(43101, "user refuse to accept the msg")),
    }
    let msg_id = state.next_message();
    state.put_message(Message {
        msg_id,
        open_id,
        template_id,
        page: request.page,
        data: Value::Object(data),
        miniprogram_state,
        lang,
        sent_at: now,
    });
    Ok(json!({ "errcode": 0, "errmsg": "ok", "msgid": msg_id }))
}

fn argument(field: &str, why: &str) -> Refusal {
    Refusal::new(47003, format!("argument invalid! {field} {why}"))
}

/// The first of `allowed` when absent.
fn one_of(field: &str, value: Option<String>, allowed: &[&str]) -> Result<String, Refusal> {
    match value {
        None => Ok(allowed.first().copied().unwrap_or_default().to_owned()),
        Some(value) if allowed.contains(&value.as_str()) => Ok(value),
        Some(_) => Err(argument(field, "is unknown")),
    }
}

/// Whether a template's keyword takes the value; keys are a kind followed by a number, such as `thing1`.
///
/// As strict as the documents can be read. Characters are counted as UTF-16 units, the count that never comes out smaller.
pub fn keyword(key: &str, value: &str) -> Result<(), &'static str> {
    let length = value.encode_utf16().count();
    if value.trim().is_empty() {
        return Err("is empty");
    }
    if value.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err("contains a control character");
    }
    let all = |allowed: fn(char) -> bool| value.chars().all(allowed);
    let kind = key.trim_end_matches(|character: char| character.is_ascii_digit());
    if kind == key {
        return Err("has a key without a number");
    }
    let good = match kind {
        "thing" => length <= 20,
        "number" => length <= 32 && decimal(value, 32),
        "letter" => length <= 32 && all(|character| character.is_ascii_alphabetic()),
        "symbol" => length <= 5 && all(|character| !character.is_alphanumeric() && !character.is_whitespace()),
        "character_string" => length <= 32 && all(|character| character.is_ascii_graphic() || character == ' '),
        "time" => one_or_two(value, |part| match part.rsplit_once(' ') {
            Some((day, clock)) => is_day(day) && is_clock(clock),
            None => is_clock(part),
        }),
        "date" => one_or_two(value, |part| match part.split_once(' ') {
            Some((day, clock)) => is_day(day) && is_clock(clock),
            None => is_day(part),
        }),
        "amount" => amount(value),
        "phone_number" => {
            length <= 17
                && value.contains(|character: char| character.is_ascii_digit())
                && all(|character| character.is_ascii_digit() || "+-() ".contains(character))
        }
        "car_number" => length <= 8 && car_number(value),
        "name" => {
            let max = if value.is_ascii() { 20 } else { 10 };
            length <= max && all(|character| character.is_ascii_alphabetic() || is_chinese(character))
        }
        "phrase" => length <= 5 && all(is_chinese),
        // Only the template knows its list.
        "enum" | "const" => true,
        _ => return Err("has a key of an unknown kind"),
    };
    if good { Ok(()) } else { Err("does not fit its kind") }
}

fn is_chinese(character: char) -> bool {
    ('\u{4E00}'..='\u{9FFF}').contains(&character)
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Digits with at most one point between them.
fn decimal(text: &str, whole_max: usize) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    all_digits(whole) && all_digits(fraction) && whole.len() <= whole_max
}

/// One point in time, or a span with `~` in it.
fn one_or_two(value: &str, good: impl Fn(&str) -> bool) -> bool {
    let mut parts = value.split('~');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(one), None, _) => good(one),
        (Some(from), Some(to), None) => good(from) && good(to),
        _ => false,
    }
}

/// `15:01`.
fn is_clock(text: &str) -> bool {
    let Some((hour, minute)) = text.split_once(':') else { return false };
    let within = |text: &str, max: u32| all_digits(text) && text.parse::<u32>().is_ok_and(|number| number <= max);
    matches!(hour.len(), 1 | 2) && minute.len() == 2 && within(hour, 23) && within(minute, 59)
}

/// `2019年10月1日` or `2018-01-01`.
fn is_day(text: &str) -> bool {
    let parse = |text: &str, format: &str| chrono::NaiveDate::parse_from_str(text, format).is_ok();
    let digits = text.chars().take(4).filter(char::is_ascii_digit).count();
    digits == 4 && !text.contains(' ') && (parse(text, "%Y年%m月%d日") || parse(text, "%Y-%m-%d"))
}

/// The first and the last place may be Chinese, the others are letters and digits.
fn car_number(value: &str) -> bool {
    let places: Vec<char> = value.chars().collect();
    let last = places.len().saturating_sub(1);
    places
        .iter()
        .enumerate()
        .all(|(at, place)| place.is_ascii_alphanumeric() || ((at == 0 || at == last) && is_chinese(*place)))
}

/// One currency sign at most, up to ten digits, decimals, and an optional 元.
fn amount(value: &str) -> bool {
    let bare = value.strip_suffix('元').unwrap_or(value);
    let bare = bare.strip_prefix(['￥', '¥', '$', '€', '£']).unwrap_or(bare);
    decimal(bare, 10)
}

pub(crate) fn body_json<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() {
        return Err(Refusal::new(44002, "empty post data"));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::new(47001, format!("data format error: {error}")))
}

fn error(refusal: &Refusal) -> Response {
    plain(
        StatusCode::OK,
        json!({ "errcode": refusal.0, "errmsg": format!("{} rid: {}", refusal.1, random_hex::<8>()) }).to_string(),
    )
}

fn plain(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
