//! The Open API of mini programs: login, phone number, and the access token that everything else needs.
//!
//! Its habits: HTTP 200 for nearly every failure, `errcode` absent or 0 for success, JSON labelled `text/plain`, and tokens in
//! URLs. So the body decides, never the content type, and no URL and no `errmsg` gets into an error or a log; only its `rid` does.
//!
//! Sources: developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/ — mp-access-token/getStableAccessToken,
//! user-login/code2Session, user-info/phone-number/getPhoneNumber, mp-message-management/subscribe-message/sendMessage.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use upstream::{client, exchange};

use crate::subscribe::Sent;
pub use crate::subscribe::Template;
use crate::{ANSWER_MAX_BYTES, IDLE_PER_HOST, TransportError, clip};
use crate::{Now, Personal, Secret};

/// The Open API's own host.
pub const DEFAULT_BASE_URL: &str = "https://api.weixin.qq.com";

/// A token is renewed this long before it ends: from then on WeChat hands out the next one, and both work.
const RENEW_BEFORE: TimeDelta = TimeDelta::seconds(300);

/// How long one instance keeps the others from fetching too.
const LOCK_TTL: Duration = Duration::from_secs(5);
/// How often, and how many times, the others look whether it has finished. Together no longer than the lock.
const LOCK_POLL: Duration = Duration::from_millis(100);
const LOCK_POLLS: u32 = 20;

/// Before asking again when WeChat is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// A call to the Open API failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The code is wrong, expired or used; ask the client for a new one. (40029, 40163)
    #[error("the code is invalid or used (errcode {errcode}, rid {rid})")]
    InvalidCode {
        /// WeChat's number for the error.
        errcode: i64,
        /// WeChat's id of the request, for their support.
        rid: String,
    },
    /// WeChat considers the user high-risk and does not let it log in. (40226)
    #[error("the user is blocked by WeChat (rid {rid})")]
    Blocked {
        /// WeChat's id of the request.
        rid: String,
    },
    /// Too often: this user or minute (45011), or the daily quota (45009).
    #[error("rate limited (errcode {errcode}, rid {rid})")]
    RateLimited {
        /// 45011: wait a minute. 45009: until tomorrow.
        errcode: i64,
        /// WeChat's id of the request.
        rid: String,
    },
    /// WeChat is busy. (-1)
    #[error("the Open API is busy (rid {rid})")]
    Busy {
        /// WeChat's id of the request.
        rid: String,
    },
    /// The access token was refused, and so was its successor. (40001, 40014, 42001)
    #[error("the access token is refused (errcode {errcode}, rid {rid})")]
    InvalidToken {
        /// WeChat's number for the error.
        errcode: i64,
        /// WeChat's id of the request.
        rid: String,
    },
    /// There is no access token, so the call was not made.
    #[error("no access token")]
    Token(#[source] Box<Self>),
    /// Appid, secret, IP list or account state: somebody must act in the portal.
    #[error("the Open API refuses this configuration (errcode {errcode}, rid {rid})")]
    Config {
        /// WeChat's number for the error.
        errcode: i64,
        /// WeChat's id of the request.
        rid: String,
    },
    /// Any other `errcode`.
    #[error("refused by the Open API (errcode {errcode}, rid {rid})")]
    Rejected {
        /// WeChat's number for the error.
        errcode: i64,
        /// WeChat's id of the request.
        rid: String,
    },
    /// An HTTP status other than 2xx.
    #[error("the Open API answered {0}")]
    Http(StatusCode),
    /// No whole answer. Whether it was carried out is unknown; a code may be spent.
    #[error("no answer from the Open API")]
    Transport(#[from] TransportError),
    /// A success whose content is not what the documentation promises.
    #[error("unexpected answer from the Open API: {0}")]
    Malformed(&'static str),
    /// The phone number was made for another mini program.
    #[error("the answer belongs to another appid")]
    OtherApp,
    /// The arguments or the configuration can never work; nothing was sent.
    #[error("{0}")]
    Misuse(&'static str),
    /// The HTTP client could not be built.
    #[error("could not build the HTTP client")]
    Build(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the same call can succeed later without anybody changing anything. It says nothing about whether the call may be
    /// made twice: login and phone codes may not after [`Error::Transport`], and a message may be sent twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::RateLimited { .. } | Self::Transport(_) | Self::InvalidToken { .. } => true,
            Self::Token(error) => error.is_retryable(),
            Self::Http(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }

    /// Whether the call may have been carried out although it failed here.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Transport(_) | Self::Malformed(_) => true,
            Self::Http(status) => status.is_server_error(),
            _ => false,
        }
    }

    /// WeChat's number for the error, when it gave one.
    pub fn errcode(&self) -> Option<i64> {
        match self {
            Self::InvalidCode { errcode, .. }
            | Self::RateLimited { errcode, .. }
            | Self::InvalidToken { errcode, .. }
            | Self::Config { errcode, .. }
            | Self::Rejected { errcode, .. } => Some(*errcode),
            Self::Blocked { .. } => Some(40226),
            Self::Busy { .. } => Some(-1),
            Self::Token(error) => error.errcode(),
            _ => None,
        }
    }

    /// WeChat's id of the refused request, for their support.
    pub fn rid(&self) -> Option<&str> {
        match self {
            Self::InvalidCode { rid, .. }
            | Self::Blocked { rid }
            | Self::RateLimited { rid, .. }
            | Self::Busy { rid }
            | Self::InvalidToken { rid, .. }
            | Self::Config { rid, .. }
            | Self::Rejected { rid, .. } => Some(rid),
            Self::Token(error) => error.rid(),
            _ => None,
        }
    }

    fn from_errcode(errcode: i64, errmsg: &str) -> Self {
        let rid = rid(errmsg);
        match errcode {
            -1 => Self::Busy { rid },
            40029 | 40163 => Self::InvalidCode { errcode, rid },
            40226 => Self::Blocked { rid },
            45009 | 45011 => Self::RateLimited { errcode, rid },
            40001 | 40014 | 42001 => Self::InvalidToken { errcode, rid },
            40002 | 40013 | 40125 | 40164 | 40243 | 41002 | 41004 | 43002 | 50007 | 89503 | 89506 | 89507 => {
                Self::Config { errcode, rid }
            }
            _ => Self::Rejected { errcode, rid },
        }
    }

    fn no_token(self) -> Self {
        Self::Token(Box::new(self))
    }

    /// Where no access token was sent, "invalid credential" is about the secret.
    fn without_token(self) -> Self {
        match self {
            Self::InvalidToken { errcode, rid } => Self::Config { errcode, rid },
            other => other,
        }
    }
}

/// The id in `errmsg: "… rid: 5f7f…"`. The rest of the text is not kept, for it may repeat what was sent.
fn rid(errmsg: &str) -> String {
    let id = errmsg.split_once("rid:").map(|(_, rest)| rest.trim()).unwrap_or_default();
    let id: String = id.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    if id.is_empty() { "-".to_owned() } else { clip(&id, 64) }
}

/// An access token and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedToken {
    /// The token, up to 512 characters and more.
    pub token: Secret,
    /// When it ends. It is renewed five minutes earlier.
    pub expires_at: DateTime<Utc>,
}

impl CachedToken {
    fn is_fresh(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.signed_duration_since(now) > RENEW_BEFORE
    }
}

/// What a [`TokenCache`] returns. Errors are logged and worked around: fetching a token twice is harmless.
pub type CacheFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, domain::BoxError>> + Send + 'a>>;

/// A place where all instances find the same access token.
pub trait TokenCache: Send + Sync {
    /// The token last put, expired or not.
    fn get(&self) -> CacheFuture<'_, Option<CachedToken>>;

    /// Keep this token in place of any other, and end the lock: whoever needs the next token need not wait for it.
    fn put<'a>(&'a self, token: &'a CachedToken) -> CacheFuture<'a, ()>;

    /// Forget the token if it is still this one; leave a newer one alone.
    fn remove<'a>(&'a self, token: &'a Secret) -> CacheFuture<'a, ()>;

    /// Whether the caller may fetch a token now. The lock ends with the next `put`, or by itself after `ttl`.
    fn try_lock(&self, ttl: Duration) -> CacheFuture<'_, bool>;
}

/// Everything a [`Client`] needs.
#[derive(Clone)]
pub struct Config {
    /// Usually [`DEFAULT_BASE_URL`].
    pub base_url: String,
    /// The mini program.
    pub appid: String,
    /// Its app secret.
    pub secret: Secret,
    /// The longest one exchange may take.
    pub timeout: Duration,
    /// The clock.
    pub now: Now,
    /// Where the access token is shared.
    pub cache: Arc<dyn TokenCache>,
}

/// A mini program's connection to the Open API. Make one per process and share it.
pub struct Client {
    http: reqwest::Client,
    base: String,
    appid: String,
    secret: Secret,
    now: Now,
    cache: Arc<dyn TokenCache>,
    /// This process's copy. Held while fetching, so a process fetches once however many ask.
    token: Mutex<Option<CachedToken>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("appid", &self.appid).finish_non_exhaustive()
    }
}

/// Who a login code belongs to.
#[derive(Debug, Clone)]
pub struct Session {
    /// The user under this appid.
    pub openid: Personal,
    /// The user under the whole Open Platform account, when the appid is bound to one.
    pub unionid: Option<Personal>,
    /// Decrypts data of the client. Never to be returned to it.
    pub session_key: Secret,
}

/// A phone number that the user agreed to share.
#[derive(Debug, Clone)]
pub struct PhoneNumber {
    /// With the country code if it is not a mainland number.
    pub phone_number: Personal,
    /// Without the country code.
    pub pure_phone_number: Personal,
    /// `86`.
    pub country_code: String,
}

impl Client {
    /// Check the configuration; nothing is sent.
    pub fn new(config: Config) -> Result<Self, Error> {
        let url = Url::parse(&config.base_url).map_err(|_| Error::Misuse("the base URL is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.query().is_some() {
            return Err(Error::Misuse("the base URL must be http(s) with a host and without a query"));
        }
        Ok(Self {
            http: client(config.timeout, IDLE_PER_HOST).map_err(|e| Error::Build(Box::new(e)))?,
            base: url.as_str().trim_end_matches('/').to_owned(),
            appid: config.appid,
            secret: config.secret,
            now: config.now,
            cache: config.cache,
            token: Mutex::new(None),
        })
    }

    /// The mini program.
    pub fn appid(&self) -> &str {
        &self.appid
    }

    /// Exchange a `wx.login` code. A code works once and for five minutes, so nothing is repeated here: after any failure the client
    /// must get a new one.
    pub async fn code2session(&self, code: &str) -> Result<Session, Error> {
        #[derive(Deserialize)]
        struct Answer {
            openid: String,
            session_key: String,
            unionid: Option<String>,
        }
        check_code(code)?;
        let request = self.http.get(format!("{}/sns/jscode2session", self.base)).query(&[
            ("appid", self.appid.as_str()),
            ("secret", self.secret.expose()),
            ("js_code", code),
            ("grant_type", "authorization_code"),
        ]);
        let answer = self.exchange("/sns/jscode2session", request).await.map_err(Error::without_token)?;
        let answer: Answer = read(answer, "session")?;
        if answer.openid.is_empty() {
            return Err(Error::Malformed("session"));
        }
        Ok(Session {
            openid: Personal::new(answer.openid),
            unionid: answer.unionid.filter(|id| !id.is_empty()).map(Personal::new),
            session_key: Secret::new(answer.session_key),
        })
    }

    /// Exchange the code of the phone-number button (not of `wx.login`). Give the caller's openid when known; WeChat then checks
    /// that the code is theirs. Works once and for five minutes.
    pub async fn phone_number(&self, code: &str, openid: Option<&str>) -> Result<PhoneNumber, Error> {
        #[derive(Deserialize)]
        struct Answer {
            phone_info: Info,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Info {
            phone_number: String,
            pure_phone_number: String,
            country_code: Value,
            watermark: Watermark,
        }
        #[derive(Deserialize)]
        struct Watermark {
            appid: String,
        }
        check_code(code)?;
        let mut body = json!({ "code": code });
        if let (Some(openid), Some(fields)) = (openid, body.as_object_mut()) {
            fields.insert("openid".to_owned(), openid.into());
        }
        let answer = self.post("/wxa/business/getuserphonenumber", &body).await?;
        let Answer { phone_info } = read(answer, "phone number")?;
        if phone_info.watermark.appid != self.appid {
            return Err(Error::OtherApp);
        }
        let country_code = match phone_info.country_code {
            Value::String(text) => text,
            // A number in WeChat's own sample, a string in its table.
            Value::Number(number) => number.to_string(),
            _ => return Err(Error::Malformed("country code")),
        };
        Ok(PhoneNumber {
            phone_number: Personal::new(phone_info.phone_number),
            pure_phone_number: Personal::new(phone_info.pure_phone_number),
            country_code,
        })
    }

    /// Sends a subscribe message, once. `data` is by the template's keys, such as `thing1`. After [`Error::outcome_unknown`] it may
    /// have arrived, and sending again may use up a second permission of the user.
    ///
    /// 43101: the user has not subscribed, or has used up the permission.
    pub async fn send_subscribe_message(
        &self,
        openid: &str,
        template_id: &str,
        data: &BTreeMap<String, String>,
        page: Option<&str>,
    ) -> Result<Sent, Error> {
        let data: BTreeMap<&str, Value> =
            data.iter().map(|(key, value)| (key.as_str(), json!({ "value": value }))).collect();
        let mut body = json!({
            "touser": openid,
            "template_id": template_id,
            "data": data,
            "miniprogram_state": "formal",
            "lang": "zh_CN",
        });
        if let (Some(page), Some(fields)) = (page, body.as_object_mut()) {
            fields.insert("page".to_owned(), page.into());
        }
        let answer = self.post("/cgi-bin/message/subscribe/send", &body).await?;
        // Not in the documented answer, yet there; a number here, text elsewhere.
        let msgid = match answer.get("msgid") {
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(Value::String(text)) => Some(clip(text, 64)),
            _ => None,
        };
        Ok(Sent { msgid })
    }

    /// POST JSON to any path that takes an access token, and return the answer once its `errcode` says success.
    ///
    /// If WeChat refuses the token, it is dropped, a new one is fetched, and the call is made once more; a refused token means that
    /// nothing was carried out, so that is safe for every call. Nothing else is repeated.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        if !path.starts_with('/') {
            return Err(Error::Misuse("the path must begin with a slash"));
        }
        let token = self.access_token().await.map_err(Error::no_token)?;
        match self.post_with(path, body, &token).await {
            Err(Error::InvalidToken { errcode, rid }) => {
                tracing::info!(path = bare(path), errcode, rid, "access token refused, fetching another");
                self.forget(&token).await;
                let token = self.access_token().await.map_err(Error::no_token)?;
                self.post_with(path, body, &token).await
            }
            other => other,
        }
    }

    async fn post_with(&self, path: &str, body: &Value, token: &Secret) -> Result<Value, Error> {
        let url = format!("{}{path}", self.base);
        self.exchange(path, self.http.post(url).query(&[("access_token", token.expose())]).json(body)).await
    }

    /// A token that works for at least five more minutes, from this process, the shared cache, or WeChat.
    pub async fn access_token(&self) -> Result<Secret, Error> {
        let mut held = self.token.lock().await;
        if let Some(token) = held.as_ref().filter(|token| token.is_fresh((self.now)())) {
            return Ok(token.token.clone());
        }
        let token = match self.shared_or_turn().await {
            Some(token) => token,
            None => {
                let token = self.fetch_token().await?;
                if let Err(error) = self.cache.put(&token).await {
                    tracing::warn!(error = &*error, "access token not shared");
                }
                token
            }
        };
        let secret = token.token.clone();
        *held = Some(token);
        Ok(secret)
    }

    /// A fresh token that another instance has shared, or `None` when it is our turn to fetch one.
    async fn shared_or_turn(&self) -> Option<CachedToken> {
        for round in 0..=LOCK_POLLS {
            match self.cache.get().await {
                Ok(token) => {
                    if let Some(token) = token.filter(|token| token.is_fresh((self.now)())) {
                        return Some(token);
                    }
                }
                Err(error) => {
                    tracing::warn!(error = &*error, "shared access token not readable");
                    return None;
                }
            }
            if round == 0 {
                match self.cache.try_lock(LOCK_TTL).await {
                    Ok(false) => {}
                    Ok(true) => return None,
                    Err(error) => {
                        tracing::warn!(error = &*error, "access token lock not available");
                        return None;
                    }
                }
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
        // Whoever holds the lock is slow or gone. A second fetch in normal mode returns the same token.
        None
    }

    /// `stable_token` in normal mode: the same token while it is valid, so asking twice harms nothing. `force_refresh` is for
    /// leaks, by hand.
    async fn fetch_token(&self) -> Result<CachedToken, Error> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String,
            expires_in: i64,
        }
        const PATH: &str = "/cgi-bin/stable_token";
        let body = json!({
            "grant_type": "client_credential",
            "appid": self.appid,
            "secret": self.secret.expose(),
            "force_refresh": false,
        });
        let url = format!("{}{PATH}", self.base);
        let asked_at = (self.now)();
        let answer = match self.exchange(PATH, self.http.post(&url).json(&body)).await {
            Err(Error::Busy { .. } | Error::Transport(_) | Error::Http(_)) => {
                tokio::time::sleep(BUSY_PAUSE).await;
                self.exchange(PATH, self.http.post(&url).json(&body)).await
            }
            other => other,
        };
        let answer: Answer = read(answer.map_err(Error::without_token)?, "access token")?;
        if answer.access_token.is_empty() || !(1..=86_400).contains(&answer.expires_in) {
            return Err(Error::Malformed("access token"));
        }
        let expires_at = asked_at
            .checked_add_signed(TimeDelta::seconds(answer.expires_in))
            .ok_or(Error::Malformed("access token"))?;
        Ok(CachedToken { token: Secret::new(answer.access_token), expires_at })
    }

    /// Drop a refused token, here and in the cache, unless somebody has replaced it already.
    async fn forget(&self, token: &Secret) {
        let mut held = self.token.lock().await;
        if held.as_ref().is_some_and(|current| current.token == *token) {
            *held = None;
        }
        if let Err(error) = self.cache.remove(token).await {
            tracing::warn!(error = &*error, "refused access token not removed");
        }
    }

    /// Send, and read JSON whatever its content type says.
    async fn exchange(&self, path: &str, request: RequestBuilder) -> Result<Value, Error> {
        let path = bare(path);
        let started = Instant::now();
        let reply = exchange(request, ANSWER_MAX_BYTES).await;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let reply = reply.inspect_err(|error| {
            tracing::debug!(path, kind = %error.kind, duration_ms, "the Open API did not answer");
        })?;
        let status = reply.status;
        if !status.is_success() {
            tracing::debug!(path, status = status.as_u16(), duration_ms, "the Open API answered");
            return Err(Error::Http(status));
        }
        let answer: Value = serde_json::from_slice(&reply.body).map_err(|_| Error::Malformed("not JSON"))?;
        if !answer.is_object() {
            return Err(Error::Malformed("not a JSON object"));
        }
        let errcode = match answer.get("errcode") {
            None | Some(Value::Null) => 0,
            Some(code) => code.as_i64().ok_or(Error::Malformed("errcode"))?,
        };
        tracing::debug!(path, errcode, duration_ms, "the Open API answered");
        if errcode != 0 {
            let errmsg = answer.get("errmsg").and_then(Value::as_str).unwrap_or_default();
            return Err(Error::from_errcode(errcode, errmsg));
        }
        Ok(answer)
    }
}

/// A path as it may be logged.
fn bare(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// Codes are about 32 characters; anything far from that is not worth a call.
fn check_code(code: &str) -> Result<(), Error> {
    if code.is_empty() || code.len() > 512 || code.chars().any(char::is_control) {
        return Err(Error::InvalidCode { errcode: 40029, rid: "-".to_owned() });
    }
    Ok(())
}

fn read<T: DeserializeOwned>(answer: Value, what: &'static str) -> Result<T, Error> {
    // The parser's message can quote values, so it is not kept.
    serde_json::from_value(answer).map_err(|_| Error::Malformed(what))
}
