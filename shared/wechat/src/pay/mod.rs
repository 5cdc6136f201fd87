//! WeChat Pay APIv3: prepare, query, close, refund, read notices, fetch bills.
//!
//! Owns the wire: exact bytes, signatures, hosts, the one automatic repetition. Does not own policy: what to do about an unknown
//! outcome, an order paid twice or a refused refund is the caller's business, for only it knows what it stored.
//!
//! Sources: pay.weixin.qq.com/doc/v3/merchant/4012791859 (hosts), 4012791897 (prepay), 4012365339 (`wx.requestPayment`),
//! 4012791870 (states), 4013071036 and 4013071041 (refunds), 4012551764 (certificates).

pub mod bill;
pub(crate) mod error;
pub mod legacy;
pub mod notice;
pub(crate) mod signing;
pub(crate) mod wire;

use std::fmt;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, Method, StatusCode};
use reqwest::Url;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::Now;
use crate::crypto::{ApiV3Key, MerchantKey, PUBLIC_KEY_SERIAL_PREFIX, PlatformKeys, SignatureError};
use crate::{ANSWER_MAX_BYTES, IDLE_PER_HOST, clip};
use upstream::{Reply, client, exchange};

pub use error::Error;
pub use notice::{Notice, NoticeError, NoticeResource, Verifier};
pub use wire::{
    PayParams, PlatformCertificate, PrepayId, PrepayOrder, Refund, RefundNotice, RefundRequest, RefundStatus,
    TradeState, Transaction,
};

/// WeChat Pay's own host.
pub const DEFAULT_BASE_URL: &str = "https://api.mch.weixin.qq.com";
/// Its second host, for repetitions.
pub const DEFAULT_BACKUP_BASE_URL: &str = "https://api2.mch.weixin.qq.com";

/// A serial nobody has heard of may be a forgery, so it causes at most one certificate download in this time.
const REFRESH_INTERVAL: TimeDelta = TimeDelta::seconds(60);

/// Everything a [`Client`] needs.
#[derive(Clone)]
pub struct Config {
    /// Usually [`DEFAULT_BASE_URL`]. A path is kept in front of every call, and is part of what is signed.
    pub base_url: String,
    /// Where the automatic repetition goes; the same host when absent.
    pub backup_base_url: Option<String>,
    /// The merchant.
    pub mchid: String,
    /// The mini program; bound to the merchant in the portal.
    pub appid: String,
    /// Signs our requests.
    pub merchant_key: MerchantKey,
    /// Check their answers and notices.
    pub platform_keys: PlatformKeys,
    /// Opens notices and certificates.
    pub api_v3_key: ApiV3Key,
    /// Where payment notices go: public https, no query string.
    pub notify_url: String,
    /// The longest one exchange may take. A call that repeats can take twice this.
    pub timeout: Duration,
    /// The clock.
    pub now: Now,
}

/// A direct merchant's connection to WeChat Pay. Make one per process and share it.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    backup: Url,
    mchid: String,
    appid: String,
    merchant_key: MerchantKey,
    keys: PlatformKeys,
    api_v3_key: ApiV3Key,
    notices: Verifier,
    notify_url: String,
    now: Now,
    /// When certificates were last asked for on account of an unknown serial.
    refreshed: Mutex<Option<DateTime<Utc>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("mchid", &self.mchid).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// Whether the client itself sends a request a second time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Once, after no answer, an unproven answer or a 5xx. Only for what changes nothing when done twice.
    Once,
    /// Never: the caller asks first what became of it.
    Never,
}

impl Client {
    /// Check the configuration; nothing is sent.
    ///
    /// Fails with [`Error::Misuse`] when a URL cannot work or the merchant's own certificate is among the platform keys.
    pub fn new(config: Config) -> Result<Self, Error> {
        let base = base_url(&config.base_url)?;
        let backup = match &config.backup_base_url {
            Some(url) => base_url(url)?,
            None => base.clone(),
        };
        if !is_notify_url(&config.notify_url) {
            return Err(Error::Misuse(
                "notify_url must be a full http(s) URL of at most 255 bytes without a query string",
            ));
        }
        let mchid_ok = (1..=32).contains(&config.mchid.len()) && config.mchid.bytes().all(|b| b.is_ascii_digit());
        if !mchid_ok {
            return Err(Error::Misuse("mchid must be 1 to 32 digits"));
        }
        if config.platform_keys.contains_key_of(&config.merchant_key) {
            return Err(Error::Misuse(
                "a WeChat Pay key is the merchant's own certificate; answers are signed by WeChat Pay",
            ));
        }
        Ok(Self {
            http: client(config.timeout, IDLE_PER_HOST)?,
            base,
            backup,
            mchid: config.mchid,
            appid: config.appid,
            merchant_key: config.merchant_key,
            notices: Verifier::new(config.platform_keys.clone(), config.api_v3_key.clone()),
            keys: config.platform_keys,
            api_v3_key: config.api_v3_key,
            notify_url: config.notify_url,
            now: config.now,
            refreshed: Mutex::new(None),
        })
    }

    /// The merchant.
    pub fn mchid(&self) -> &str {
        &self.mchid
    }

    /// The mini program.
    pub fn appid(&self) -> &str {
        &self.appid
    }

    /// Where notices of payments and refunds go.
    pub fn notify_url(&self) -> &str {
        &self.notify_url
    }

    /// The keys in use; certificates downloaded later appear here too.
    pub fn platform_keys(&self) -> &PlatformKeys {
        &self.keys
    }

    /// Write the prepay request. Store this text before [`Client::prepay`] is called the first time and send exactly it ever after:
    /// WeChat Pay compares repetitions byte by byte and refuses others with `OUT_TRADE_NO_USED`.
    ///
    /// Fails with [`Error::Misuse`] when a field breaks a rule that WeChat Pay would refuse.
    pub fn prepay_request(&self, order: &PrepayOrder<'_>) -> Result<String, Error> {
        // Field order is part of the stored bytes, not of the protocol. Absent fields are left out: null is refused.
        #[derive(Serialize)]
        struct Body<'a> {
            appid: &'a str,
            mchid: &'a str,
            description: &'a str,
            out_trade_no: &'a str,
            time_expire: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            attach: Option<&'a str>,
            notify_url: &'a str,
            amount: Amount,
            payer: Payer<'a>,
        }
        #[derive(Serialize)]
        struct Amount {
            total: i64,
            currency: &'static str,
        }
        #[derive(Serialize)]
        struct Payer<'a> {
            openid: &'a str,
        }

        check_number(order.out_trade_no, 6, 32)?;
        if order.amount_fen < 1 {
            return Err(Error::Misuse("a payment must be at least 1 fen"));
        }
        if order.payer_openid.is_empty() || order.payer_openid.len() > 128 {
            return Err(Error::Misuse("the payer's openid must have 1 to 128 bytes"));
        }
        if order.attach.is_some_and(|attach| attach.is_empty() || attach.len() > 128) {
            return Err(Error::Misuse("attach must have 1 to 128 bytes"));
        }
        let description = display_text(order.description, 127);
        if description.is_empty() {
            return Err(Error::Misuse("the description is empty"));
        }
        write_json(&Body {
            appid: &self.appid,
            mchid: &self.mchid,
            description: &description,
            out_trade_no: order.out_trade_no,
            time_expire: &beijing_time(order.time_expire)?,
            attach: order.attach,
            notify_url: &self.notify_url,
            amount: Amount { total: order.amount_fen, currency: "CNY" },
            payer: Payer { openid: order.payer_openid },
        })
    }

    /// Send a text made by [`Client::prepay_request`]. Repeated once by itself when the outcome is unknown, which is safe because
    /// equal bytes are answered with a fresh id of the same payment. After `OUT_TRADE_NO_USED` or a still unknown outcome: query.
    pub async fn prepay(&self, body: &str) -> Result<PrepayId, Error> {
        #[derive(serde::Deserialize)]
        struct Answer {
            prepay_id: String,
        }
        let answer = self.call(Method::POST, "/v3/pay/transactions/jsapi", Some(body), Repeat::Once).await?;
        let Answer { prepay_id } = read(&answer, "prepay")?;
        if prepay_id.is_empty() {
            return Err(Error::Malformed("empty prepay_id"));
        }
        Ok(PrepayId(prepay_id))
    }

    /// Sign what `wx.requestPayment` needs. `nonce` is at most 32 characters; [`crate::nonce`] makes one.
    pub fn pay_params(&self, prepay_id: &PrepayId, now: DateTime<Utc>, nonce: &str) -> Result<PayParams, Error> {
        if !(1..=32).contains(&nonce.len()) || !nonce.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::Misuse("a nonce must be 1 to 32 letters or digits"));
        }
        let package = format!("prepay_id={}", prepay_id.as_str());
        let timestamp = now.timestamp();
        let message = signing::pay_message(&self.appid, timestamp, nonce, &package);
        Ok(PayParams {
            time_stamp: timestamp.to_string(),
            nonce_str: nonce.to_owned(),
            package,
            sign_type: "RSA".to_owned(),
            pay_sign: self.merchant_key.sign(message.as_bytes())?,
        })
    }

    /// Ask about a payment by our number.
    ///
    /// `None` stands for 404 `ORDER_NOT_EXIST` only. That answer is not signed, so it is a hint that nothing exists there: never
    /// take it as a reason to release goods reserved for a payment whose prepay had an unknown outcome without closing it first.
    pub async fn query(&self, out_trade_no: &str) -> Result<Option<Transaction>, Error> {
        check_number(out_trade_no, 6, 32)?;
        let path = format!("/v3/pay/transactions/out-trade-no/{out_trade_no}?mchid={}", self.mchid);
        let answer = match self.call(Method::GET, &path, None, Repeat::Once).await {
            Err(e) if e.is_rejection(StatusCode::NOT_FOUND, "ORDER_NOT_EXIST") => return Ok(None),
            other => other?,
        };
        let transaction: Transaction = read::<wire::TransactionWire>(&answer, "transaction")?.into();
        if transaction.out_trade_no != out_trade_no || transaction.mchid != self.mchid {
            return Err(Error::Malformed("the answer is about another payment"));
        }
        Ok(Some(transaction))
    }

    /// Close an unpaid payment for good; closing twice is fine. Not repeated by itself: after any failure query, and if it was paid
    /// treat it as paid.
    pub async fn close(&self, out_trade_no: &str) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            mchid: &'a str,
        }
        check_number(out_trade_no, 6, 32)?;
        let path = format!("/v3/pay/transactions/out-trade-no/{out_trade_no}/close");
        let body = write_json(&Body { mchid: &self.mchid })?;
        self.call(Method::POST, &path, Some(&body), Repeat::Never).await?;
        Ok(())
    }

    /// Ask for a refund, once. A success means "taken"; look at the status.
    ///
    /// After any failure ask [`Client::query_refund`] first. Found and not `CLOSED`: taken. Not found: send equal values again under
    /// the same number. Never take a new number in doubt. Wait a minute between two refunds of one payment; at most 50 of them.
    pub async fn refund(&self, request: &RefundRequest<'_>) -> Result<Refund, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            transaction_id: &'a str,
            out_refund_no: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            reason: &'a str,
            notify_url: &'a str,
            amount: Amount,
        }
        #[derive(Serialize)]
        struct Amount {
            refund: i64,
            total: i64,
            currency: &'static str,
        }
        check_number(request.out_refund_no, 1, 64)?;
        check_number(request.transaction_id, 1, 32)?;
        if request.refund_fen < 1 || request.refund_fen > request.total_fen {
            return Err(Error::Misuse("a refund must be between 1 fen and the whole payment"));
        }
        if !is_notify_url(request.notify_url) {
            return Err(Error::Misuse("the refund's notify_url must be a full http(s) URL without a query string"));
        }
        let body = write_json(&Body {
            transaction_id: request.transaction_id,
            out_refund_no: request.out_refund_no,
            reason: &display_text(request.reason, 80),
            notify_url: request.notify_url,
            amount: Amount { refund: request.refund_fen, total: request.total_fen, currency: "CNY" },
        })?;
        let answer = self.call(Method::POST, "/v3/refund/domestic/refunds", Some(&body), Repeat::Never).await?;
        let refund: Refund = read::<wire::RefundWire>(&answer, "refund")?.into();
        if refund.out_refund_no != request.out_refund_no {
            return Err(Error::Malformed("the answer is about another refund"));
        }
        Ok(refund)
    }

    /// Ask about a refund by our number. `None` stands for 404 `RESOURCE_NOT_EXISTS`, which is unsigned: a hint, see [`Client::query`].
    pub async fn query_refund(&self, out_refund_no: &str) -> Result<Option<Refund>, Error> {
        check_number(out_refund_no, 1, 64)?;
        let path = format!("/v3/refund/domestic/refunds/{out_refund_no}");
        let answer = match self.call(Method::GET, &path, None, Repeat::Once).await {
            Err(e) if e.is_rejection(StatusCode::NOT_FOUND, "RESOURCE_NOT_EXISTS") => return Ok(None),
            other => other?,
        };
        let refund: Refund = read::<wire::RefundWire>(&answer, "refund")?.into();
        if refund.out_refund_no != out_refund_no {
            return Err(Error::Malformed("the answer is about another refund"));
        }
        Ok(Some(refund))
    }

    /// Download the platform certificates, add them to the keys, and return them.
    ///
    /// The very first download is signed with a key that only its own content holds. Such an answer is believed when the
    /// certificate that signed it opens with the APIv3 key, which nobody else has. A merchant in public-key mode has no
    /// certificates: [`Error::PublicKeyMode`].
    pub async fn certificates(&self) -> Result<Vec<PlatformCertificate>, Error> {
        let reply = match self.send(&self.base, &Method::GET, "/v3/certificates", None).await {
            Err(Error::Transport(_)) => self.send(&self.backup, &Method::GET, "/v3/certificates", None).await?,
            other => other?,
        };
        if !reply.status.is_success() {
            let error = self.rejection(&reply);
            if error.is_rejection(StatusCode::NOT_FOUND, "RESOURCE_NOT_EXISTS") {
                return Err(Error::PublicKeyMode);
            }
            return Err(error);
        }
        let list: wire::CertificateList = match serde_json::from_slice(&reply.body) {
            Ok(list) => list,
            // Whether it is at least genuine decides what the caller hears.
            Err(_) => {
                self.prove(&self.keys, &reply)?;
                return Err(Error::Malformed("certificates"));
            }
        };
        // Decrypt into a separate set first: nothing joins the keys before the whole answer is proven.
        let candidates = PlatformKeys::new();
        let mut certificates = Vec::new();
        for item in list.data {
            let sealed = item.encrypt_certificate;
            let aad = sealed.associated_data.as_deref().unwrap_or_default();
            let plain = self.api_v3_key.decrypt(&sealed.nonce, aad, &sealed.ciphertext)?;
            let pem = String::from_utf8(plain).map_err(|_| Error::Malformed("certificate"))?;
            candidates.add_pem(&item.serial_no, &pem)?;
            certificates.push(PlatformCertificate { serial: item.serial_no.to_ascii_uppercase(), pem });
        }
        match self.prove(&self.keys, &reply) {
            Err(Error::Unverified(SignatureError::UnknownSerial(_))) => self.prove(&candidates, &reply)?,
            other => other?,
        }
        for certificate in &certificates {
            self.keys.add_certificate(&certificate.pem)?;
        }
        Ok(certificates)
    }

    /// Prove and open a notice; `body` must be the bytes as received. In certificate mode an unknown serial causes one download
    /// of certificates, at most once a minute.
    ///
    /// The caller still compares mchid, appid, number, amount, currency and state with what it stored.
    pub async fn verify_notice(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Notice, NoticeError> {
        match self.notices.verify(headers, body, now) {
            Err(NoticeError::Signature(SignatureError::UnknownSerial(serial))) if self.refresh_for(&serial).await => {
                self.notices.verify(headers, body, now)
            }
            other => other,
        }
    }

    /// The proven body of a success, after at most one repetition.
    async fn call(&self, method: Method, path: &str, body: Option<&str>, repeat: Repeat) -> Result<Vec<u8>, Error> {
        let first = self.attempt(&self.base, &method, path, body).await;
        match first {
            Err(error) if repeat == Repeat::Once && deserves_repeat(&error) => {
                tracing::debug!(path = redact(path), error = %error, "repeating a WeChat Pay request");
                self.attempt(&self.backup, &method, path, body).await
            }
            other => other,
        }
    }

    async fn attempt(&self, base: &Url, method: &Method, path: &str, body: Option<&str>) -> Result<Vec<u8>, Error> {
        let reply = self.send(base, method, path, body).await?;
        if !reply.status.is_success() {
            return Err(self.rejection(&reply));
        }
        match self.prove(&self.keys, &reply) {
            Err(Error::Unverified(SignatureError::UnknownSerial(serial))) if self.refresh_for(&serial).await => {
                self.prove(&self.keys, &reply)?;
            }
            other => other?,
        }
        if reply.status == StatusCode::ACCEPTED {
            return Err(Error::rejected(reply.status, &reply.body, request_id(&reply), true));
        }
        Ok(reply.body)
    }

    /// Sign and send. The signed target is taken from the URL that is sent, so a prefix or an escape cannot make them differ.
    async fn send(&self, base: &Url, method: &Method, path: &str, body: Option<&str>) -> Result<Reply, Error> {
        let text = format!("{}{path}", base.as_str().trim_end_matches('/'));
        let url = Url::parse(&text).map_err(|_| Error::Misuse("the request URL cannot be built"))?;
        self.send_to(method.clone(), url, body, ANSWER_MAX_BYTES, None).await
    }

    /// Sign and send to a whole address; `timeout` in place of the usual one.
    async fn send_to(
        &self,
        method: Method,
        url: Url,
        body: Option<&str>,
        max_bytes: usize,
        timeout: Option<Duration>,
    ) -> Result<Reply, Error> {
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        // Of the path only: query strings are never logged.
        let path = url.path().to_owned();
        let nonce = crate::nonce();
        let timestamp = (self.now)().timestamp();
        let message = signing::request_message(method.as_str(), &target, timestamp, &nonce, body.unwrap_or_default());
        let authorization = signing::authorization(&self.merchant_key, &self.mchid, timestamp, &nonce, &message)?;

        let mut request = self
            .http
            .request(method.clone(), url)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::AUTHORIZATION, authorization);
        // Without this the answer may be signed with a platform certificate even in public-key mode.
        if let Some(serial) = self.keys.preferred_serial() {
            request = request.header("Wechatpay-Serial", serial);
        }
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        if let Some(body) = body {
            request = request.header(http::header::CONTENT_TYPE, "application/json").body(body.to_owned());
        }
        let started = Instant::now();
        let outcome = exchange(request, max_bytes).await;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(reply) => {
                let status = reply.status.as_u16();
                let request_id = request_id(&reply);
                tracing::debug!(%method, path, status, request_id, duration_ms, "WeChat Pay answered");
                Ok(reply)
            }
            Err(error) => {
                tracing::debug!(%method, path, kind = %error.kind, duration_ms, "WeChat Pay did not answer");
                Err(error.into())
            }
        }
    }

    fn prove(&self, keys: &PlatformKeys, reply: &Reply) -> Result<(), Error> {
        match signing::verify(keys, &reply.headers, &reply.body, (self.now)()) {
            Ok(_) => Ok(()),
            Err(error) => {
                // A proxy that strips headers is found by looking at which ones arrived.
                let names: Vec<&str> = reply.headers.keys().map(|name| name.as_str()).collect();
                tracing::debug!(?names, %error, "a WeChat Pay answer could not be verified");
                Err(Error::Unverified(error))
            }
        }
    }

    fn rejection(&self, reply: &Reply) -> Error {
        let signed = signing::verify(&self.keys, &reply.headers, &reply.body, (self.now)()).is_ok();
        Error::rejected(reply.status, &reply.body, request_id(reply), signed)
    }

    /// Try to learn the key of an unknown serial; true when it is known now.
    async fn refresh_for(&self, serial: &str) -> bool {
        // Public keys cannot be downloaded.
        if serial.starts_with(PUBLIC_KEY_SERIAL_PREFIX) {
            return false;
        }
        // Held during the download, so that calls that meet the same new serial wait for one answer.
        let mut refreshed = self.refreshed.lock().await;
        if self.keys.contains(serial) {
            return true;
        }
        let now = (self.now)();
        if refreshed.is_some_and(|last| now.signed_duration_since(last).abs() < REFRESH_INTERVAL) {
            return false;
        }
        *refreshed = Some(now);
        // Boxed: downloading is itself a call, and futures must have a size.
        if let Err(error) = Box::pin(self.certificates()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, serial, "platform certificates not refreshed");
        }
        self.keys.contains(serial)
    }
}

fn deserves_repeat(error: &Error) -> bool {
    match error {
        Error::Transport(_) | Error::Unverified(_) => true,
        Error::Rejected { status, .. } => status.is_server_error(),
        _ => false,
    }
}

fn request_id(reply: &Reply) -> Option<String> {
    reply.headers.get("Request-ID").and_then(|v| v.to_str().ok()).map(|id| clip(id, 128))
}

/// Query strings are never logged; here they are harmless, elsewhere not, and one habit is easier to keep.
fn redact(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

fn base_url(text: &str) -> Result<Url, Error> {
    let url = Url::parse(text).map_err(|_| Error::Misuse("the base URL is not a URL"))?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if matches!(url.scheme(), "http" | "https") && url.has_host() && plain {
        Ok(url)
    } else {
        Err(Error::Misuse("the base URL must be http(s) with a host and without query, fragment or user"))
    }
}

fn is_notify_url(text: &str) -> bool {
    text.len() <= 255 && base_url(text).is_ok()
}

/// Narrower than WeChat allows: `|` and `@` are percent-encoded by some clients and not by others, which breaks signatures.
fn check_number(number: &str, min: usize, max: usize) -> Result<(), Error> {
    let fits = (min..=max).contains(&number.len());
    if fits && number.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        Ok(())
    } else {
        Err(Error::Misuse("a number has a wrong length or characters other than letters, digits, '_' and '-'"))
    }
}

/// Text shown to the payer. Characters outside the BMP are reported to be refused, so they are dropped.
fn display_text(text: &str, max: usize) -> String {
    let cleaned: String = text.chars().filter(|c| !c.is_control() && u32::from(*c) <= 0xFFFF).collect();
    let mut clipped: String = cleaned.trim().chars().take(max).collect();
    clipped.truncate(clipped.trim_end().len());
    clipped
}

/// RFC 3339 at +08:00 without fractions, as in every sample.
fn beijing_time(time: DateTime<Utc>) -> Result<String, Error> {
    let local = time
        .naive_utc()
        .checked_add_signed(TimeDelta::hours(8))
        .ok_or(Error::Misuse("the expiry time is out of range"))?;
    Ok(local.format("%Y-%m-%dT%H:%M:%S+08:00").to_string())
}

fn write_json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| Error::Misuse("the request cannot be written as JSON"))
}

fn read<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Error> {
    // The parser's message can quote values, so it is not kept.
    serde_json::from_slice(bytes).map_err(|_| Error::Malformed(what))
}
