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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use upstream::{client, exchange};

pub use crate::subscribe::Template;
use crate::subscribe::{PAUSE_CONFIG, Sent};
use crate::{ANSWER_MAX_BYTES, IDLE_PER_HOST, TransportError, clip};
use crate::{Now, Personal, Secret};

/// The Open API's own host.
pub const DEFAULT_BASE_URL: &str = "https://api.weixin.qq.com";

/// A token is renewed this long before it ends: from then on WeChat hands out the next one, and both work.
const RENEW_BEFORE: TimeDelta = TimeDelta::seconds(300);

/// A token with less than this left would end on its way.
const USABLE_FOR: TimeDelta = TimeDelta::seconds(5);

/// How long one instance keeps the others from fetching too: longer than a fetch and sharing its result may take together, so
/// that it ends by itself only when its holder is gone.
const LOCK_TTL: Duration = Duration::from_secs(11);
/// A whole fetch, with its second try.
const FETCH_MAX: Duration = Duration::from_secs(8);
/// Its first try, so that there is time for a second one.
const FETCH_TRY_MAX: Duration = Duration::from_secs(5);
/// Telling the others.
const SHARE_MAX: Duration = Duration::from_secs(2);
/// How often the others look whether it has finished, and a random part so that they do not all look at once.
const LOCK_POLL: Duration = Duration::from_millis(80);
const LOCK_POLL_JITTER_MS: u64 = 80;
/// How long they wait for it: longer than the lock of one that died.
const WAIT_MAX: Duration = Duration::from_secs(13);

/// How long nobody asks again after a failure that may be over in a moment.
const REST_SHORT: Duration = Duration::from_secs(2);
/// How long this process, when it has waited for another in vain.
const WAITED_REST: TimeDelta = TimeDelta::seconds(2);
/// How long when WeChat handed out a token that is as old, because it has not made the next one yet.
const REST_UNCHANGED: Duration = Duration::from_secs(15);
/// How long when calls refuse the token that was just fetched.
const REST_REFUSED: Duration = Duration::from_secs(5);

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
    /// WeChat refused a token lately, to this process or another, and is left alone for a while.
    #[error("not asked for an access token again for {} s (errcode {errcode})", left.as_secs())]
    Resting {
        /// WeChat's number for the error; 0 when it gave none.
        errcode: i64,
        /// How much longer.
        left: Duration,
    },
    /// Another process is fetching a token, or has died doing so, and takes longer than it may.
    #[error("no other process has fetched an access token in time")]
    Waited,
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
            Self::Resting { .. } | Self::Waited => true,
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
            Self::Resting { errcode, .. } => Some(*errcode).filter(|code| *code != 0),
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

    /// WeChat still takes it, though it should be renewed.
    fn is_usable(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.signed_duration_since(now) > USABLE_FOR
    }
}

/// Until when nobody should ask WeChat for a token, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// WeChat's number for the refusal; 0 when it gave none.
    pub errcode: i64,
    /// When one may ask again.
    pub until: DateTime<Utc>,
}

/// What a [`TokenCache`] returns. Errors are logged and worked around: fetching a token twice is harmless.
pub type CacheFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, domain::BoxError>> + Send + 'a>>;

/// A place where all instances find the same access token.
pub trait TokenCache: Send + Sync {
    /// The token last put, expired or not.
    fn get(&self) -> CacheFuture<'_, Option<CachedToken>>;

    /// Keep this token in place of any other.
    fn put<'a>(&'a self, token: &'a CachedToken) -> CacheFuture<'a, ()>;

    /// Forget the token if it is still this one; leave a newer one alone.
    fn remove<'a>(&'a self, token: &'a Secret) -> CacheFuture<'a, ()>;

    /// Whether the caller may fetch a token now. The lock ends with `unlock`, or by itself after `ttl`.
    fn try_lock(&self, ttl: Duration) -> CacheFuture<'_, bool>;

    /// End the lock if it is still the caller's.
    fn unlock(&self) -> CacheFuture<'_, ()>;

    /// The last rest, over or not.
    fn rest(&self) -> CacheFuture<'_, Option<Rest>>;

    /// Let all instances rest, unless they rest longer already.
    fn set_rest<'a>(&'a self, rest: &'a Rest) -> CacheFuture<'a, ()>;
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
    /// Opens a connection for each exchange: on a kept one that died meanwhile, nobody could say whether a message was sent.
    fresh: reqwest::Client,
    base: String,
    appid: String,
    secret: Secret,
    timeout: Duration,
    now: Now,
    cache: Arc<dyn TokenCache>,
    /// This process's copy.
    held: Mutex<Held>,
    /// Whoever has it renews for the whole process, which so fetches once however many ask.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    token: Option<CachedToken>,
    /// This process's last failure: counts even when the cache cannot be reached.
    rest: Option<Rest>,
}

/// What whoever needs a token may do.
enum Turn {
    /// Use this one.
    Use(CachedToken),
    /// Fetch one, holding the lock.
    Locked,
    /// Fetch one without a lock, which nobody can hold: the cache is out of reach.
    Alone,
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
            fresh: client(config.timeout, 0).map_err(|e| Error::Build(Box::new(e)))?,
            base: url.as_str().trim_end_matches('/').to_owned(),
            appid: config.appid,
            secret: config.secret,
            timeout: config.timeout,
            now: config.now,
            cache: config.cache,
            held: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
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
        let answer = self.call(&self.fresh, "/cgi-bin/message/subscribe/send", &body).await?;
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
    /// nothing was carried out, so that is safe for every call. Nothing else is repeated. [`Error::Token`] means that there is no
    /// token and nothing was sent.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.call(&self.http, path, body).await
    }

    async fn call(&self, http: &reqwest::Client, path: &str, body: &Value) -> Result<Value, Error> {
        if !path.starts_with('/') {
            return Err(Error::Misuse("the path must begin with a slash"));
        }
        let token = self.access_token().await?;
        match self.post_with(http, path, body, &token).await {
            Err(Error::InvalidToken { errcode, rid }) => {
                tracing::info!(path = bare(path), errcode, rid, "access token refused, fetching another");
                self.forget(&token).await;
                let next = self.token_but(Some(&token)).await?;
                let answer = self.post_with(http, path, body, &next).await;
                if let Err(Error::InvalidToken { errcode, .. }) = &answer {
                    self.rest(*errcode, REST_REFUSED).await;
                }
                answer
            }
            other => other,
        }
    }

    async fn post_with(
        &self,
        http: &reqwest::Client,
        path: &str,
        body: &Value,
        token: &Secret,
    ) -> Result<Value, Error> {
        let url = format!("{}{path}", self.base);
        self.exchange(path, http.post(url).query(&[("access_token", token.expose())]).json(body)).await
    }

    /// A token that works, from this process, the shared cache, or WeChat. Fails with [`Error::Token`].
    ///
    /// From five minutes before its end on it is renewed by whoever gets to it first, and by all others still used.
    pub async fn access_token(&self) -> Result<Secret, Error> {
        self.token_but(None).await
    }

    /// A token other than the one that was refused, unless WeChat hands out the same again.
    async fn token_but(&self, refused: Option<&Secret>) -> Result<Secret, Error> {
        if let Some(token) = self.held_token(refused).filter(|token| token.is_fresh((self.now)())) {
            return Ok(token.token);
        }
        let usable = self.held_token(refused).filter(|token| token.is_usable((self.now)()));
        let _renewing = match usable {
            None => self.renewing.lock().await,
            Some(old) => match self.renewing.try_lock() {
                Ok(guard) => guard,
                Err(_) => return Ok(old.token),
            },
        };
        // Whoever had the guard before may have brought one.
        if let Some(token) = self.held_token(refused).filter(|token| token.is_fresh((self.now)())) {
            return Ok(token.token);
        }
        self.renew(refused).await.map(|token| token.token).map_err(|error| Error::Token(Box::new(error)))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_token(&self, refused: Option<&Secret>) -> Option<CachedToken> {
        self.held().token.clone().filter(|token| refused != Some(&token.token))
    }

    /// The next token, from another instance or from WeChat; the old one while it can be used and the next is not to be had.
    async fn renew(&self, refused: Option<&Secret>) -> Result<CachedToken, Error> {
        let mut old = self.held_token(refused);
        let locked = match self.turn(refused, &mut old).await {
            Ok(Turn::Use(token)) => return Ok(token),
            Ok(Turn::Locked) => true,
            Ok(Turn::Alone) => false,
            Err(error) => return self.old_instead(old, error),
        };
        let result = match self.fetch_token().await {
            Ok(token) => {
                self.share("access token not shared", self.cache.put(&token)).await;
                let now = (self.now)();
                if token.is_usable(now) && !token.is_fresh(now) {
                    // WeChat's clock is a little behind: the same again until it makes the next one.
                    self.rest(0, REST_UNCHANGED).await;
                }
                self.held().token = Some(token.clone());
                Ok(token)
            }
            Err(error) => {
                let (errcode, pause) = match &error {
                    // Nobody knows this refusal, so nobody knows that it will pass soon.
                    Error::Rejected { errcode, .. } => (*errcode, PAUSE_CONFIG),
                    error => (error.errcode().unwrap_or_default(), error.pause().unwrap_or(REST_SHORT)),
                };
                self.rest(errcode, pause).await;
                self.old_instead(old, error)
            }
        };
        if locked {
            self.share("access token lock not ended", self.cache.unlock()).await;
        }
        result
    }

    fn old_instead(&self, old: Option<CachedToken>, error: Error) -> Result<CachedToken, Error> {
        match old.filter(|token| token.is_usable((self.now)())) {
            Some(token) => {
                // A rest was logged when it began.
                if !matches!(error, Error::Resting { .. }) {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "access token not renewed, the old one is used");
                }
                Ok(token)
            }
            None => Err(error),
        }
    }

    /// Wait until there is a token to use, or until it is our turn to fetch one. `old` becomes the best token seen.
    async fn turn(&self, refused: Option<&Secret>, old: &mut Option<CachedToken>) -> Result<Turn, Error> {
        let started = tokio::time::Instant::now();
        let mut locked = false;
        loop {
            let now = (self.now)();
            let own_rest = self.held().rest.filter(|rest| rest.until > now);
            match self.cache.get().await {
                Ok(found) => {
                    let found = found.filter(|token| refused != Some(&token.token) && token.is_usable(now));
                    if let Some(token) = found {
                        let fresh = token.is_fresh(now);
                        if old.as_ref().is_none_or(|old| old.expires_at < token.expires_at) {
                            self.held().token = Some(token.clone());
                            *old = Some(token.clone());
                        }
                        if fresh {
                            if locked {
                                self.share("access token lock not ended", self.cache.unlock()).await;
                            }
                            return Ok(Turn::Use(token));
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(error = &*error, "shared access token not readable");
                    return match own_rest {
                        _ if locked => Ok(Turn::Locked),
                        Some(rest) => Err(resting(rest, now)),
                        None => Ok(Turn::Alone),
                    };
                }
            }
            match self.cache.rest().await {
                Ok(rest) => {
                    if let Some(rest) = rest.filter(|rest| rest.until > now).or(own_rest) {
                        if locked {
                            self.share("access token lock not ended", self.cache.unlock()).await;
                        }
                        return Err(resting(rest, now));
                    }
                }
                Err(error) if !locked => {
                    tracing::warn!(error = &*error, "shared access token not readable");
                    return Ok(Turn::Alone);
                }
                Err(_) => {}
            }
            if locked {
                return Ok(Turn::Locked);
            }
            match self.cache.try_lock(LOCK_TTL).await {
                // Look once more: the one before us may have ended, either way, between our look and our lock.
                Ok(true) => {
                    locked = true;
                    continue;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = &*error, "access token lock not available");
                    return Ok(Turn::Alone);
                }
            }
            if let Some(token) = old.take_if(|token| token.is_usable(now)) {
                return Ok(Turn::Use(token));
            }
            if started.elapsed() >= WAIT_MAX {
                // Whoever waits behind us in this process need not wait as long again.
                self.held().rest = now.checked_add_signed(WAITED_REST).map(|until| Rest { errcode: 0, until });
                return Err(Error::Waited);
            }
            let jitter = Duration::from_millis(rand::random_range(0..LOCK_POLL_JITTER_MS));
            tokio::time::sleep(LOCK_POLL.saturating_add(jitter)).await;
        }
    }

    /// Something for the others to know, which must not take longer than the lock lasts.
    async fn share(&self, failed: &'static str, step: CacheFuture<'_, ()>) {
        match tokio::time::timeout(SHARE_MAX, step).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = &*error, "{failed}"),
            Err(_) => tracing::warn!("{failed} in time"),
        }
    }

    /// Leave WeChat alone for a while, here and everywhere.
    async fn rest(&self, errcode: i64, pause: Duration) {
        let pause = TimeDelta::from_std(pause).unwrap_or_default();
        let until = (self.now)().checked_add_signed(pause).unwrap_or_default();
        let rest = Rest { errcode, until };
        {
            let mut held = self.held();
            if held.rest.is_none_or(|current| current.until < until) {
                held.rest = Some(rest);
            }
        }
        self.share("the failure to get an access token not shared", self.cache.set_rest(&rest)).await;
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
        let ask = |limit: Duration| self.exchange(PATH, self.http.post(&url).json(&body).timeout(limit));
        let (asked_at, started) = ((self.now)(), Instant::now());
        let answer = match ask(self.timeout.min(FETCH_TRY_MAX)).await {
            Err(Error::Busy { .. } | Error::Transport(_) | Error::Http(_)) => {
                tokio::time::sleep(BUSY_PAUSE).await;
                ask(self.timeout.min(FETCH_MAX.saturating_sub(started.elapsed()))).await
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

    /// Drop a refused token, in the cache and here, unless somebody has replaced it already. In this order, so that nobody finds
    /// it in the cache when it is gone here.
    async fn forget(&self, token: &Secret) {
        self.share("refused access token not removed", self.cache.remove(token)).await;
        self.held().token.take_if(|held| held.token == *token);
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

fn resting(rest: Rest, now: DateTime<Utc>) -> Error {
    let left = rest.until.signed_duration_since(now).to_std().unwrap_or_default();
    Error::Resting { errcode: rest.errcode, left }
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

pub(crate) fn read<T: DeserializeOwned>(answer: Value, what: &'static str) -> Result<T, Error> {
    // The parser's message can quote values, so it is not kept.
    serde_json::from_value(answer).map_err(|_| Error::Malformed(what))
}
