//! The SMS client against a server that answers by script.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::OriginalUri;
use axum::http::{HeaderMap, Method, Response};
use chrono::{DateTime, Utc};
use domain::Failure;
use serde_json::{Value, json};

use crate::sms::{Config, SendReceipt, SmsError, TencentSms};
use crate::tc3::{self, Call};
use crate::{Secret, TransportKind};

const PHONE: &str = "13800138000";
const CODE: &str = "482913";
const KEY: &str = "unprintable-key";
const SECRET_ID: &str = "unprintable-id";
const REQUEST_ID: &str = "a0aabda6-cf91-4f3e-a81f-9198114a2279";

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().unwrap_or_else(|| panic!("no {name}")).to_str().unwrap();
        assert!(values.next().is_none(), "{name} twice");
        value
    }
}

#[derive(Clone)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    delay: Duration,
}

impl Answer {
    fn ok(body: &Value) -> Self {
        Self { status: 200, body: body.to_string().into_bytes(), delay: Duration::ZERO }
    }

    fn raw(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), delay: Duration::ZERO }
    }
}

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = seen.clone();
        let router = axum::Router::new().fallback(
            move |method: Method, OriginalUri(uri): OriginalUri, headers: HeaderMap, body: Bytes| {
                let path = uri.path_and_query().unwrap().to_string();
                log.lock().unwrap().push(Seen { method: method.to_string(), path, headers, body });
                let answer = answer.clone();
                async move {
                    tokio::time::sleep(answer.delay).await;
                    Response::builder().status(answer.status).body(Body::from(answer.body)).unwrap()
                }
            },
        );
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// Ten in the evening in Beijing, two hours before the day ends.
fn now() -> DateTime<Utc> {
    "2026-11-21T14:00:00.250Z".parse().unwrap()
}

fn config(base_url: &str) -> Config {
    Config {
        base_url: base_url.to_owned(),
        secret_id: SECRET_ID.to_owned(),
        secret_key: Secret::new(KEY),
        region: "ap-guangzhou".to_owned(),
        sdk_app_id: "1400006666".to_owned(),
        sign_name: "金鹿商城".to_owned(),
        template_id: "1110".to_owned(),
        timeout: Duration::from_millis(500),
        now: Arc::new(now),
    }
}

fn client(base_url: &str) -> TencentSms {
    TencentSms::new(config(base_url)).unwrap()
}

fn status(code: &str) -> Value {
    let accepted = code == "Ok";
    let status = json!({
        "SerialNo": if accepted { "2640:198387204417321834567890" } else { "" },
        "PhoneNumber": format!("+86{PHONE}"), "Fee": u8::from(accepted), "SessionContext": "", "Code": code,
        "Message": format!("about +86{PHONE} and {CODE}"), "IsoCode": "CN",
    });
    json!({ "Response": { "SendStatusSet": [status], "RequestId": REQUEST_ID } })
}

fn error(code: &str) -> Value {
    json!({ "Response": { "Error": { "Code": code, "Message": format!("about +86{PHONE} {CODE} {KEY}") }, "RequestId": REQUEST_ID } })
}

/// Everything a log would print about an error, by both formats.
fn printed(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error:?}");
    let mut next = Some(error);
    while let Some(error) = next {
        text.push_str(&format!(" | {error}"));
        next = error.source();
    }
    text
}

/// What comes of an answer; nobody is asked twice, and nothing private is printed.
async fn outcome(answer: Answer) -> Result<SendReceipt, SmsError> {
    let server = Server::start(answer).await;
    let outcome = client(&server.url).send_code(PHONE, CODE, 5).await;
    assert_eq!(server.count(), 1, "{outcome:?}");
    if let Err(error) = &outcome {
        let printed = printed(error);
        for private in [PHONE, CODE, KEY, SECRET_ID, "about"] {
            assert!(!printed.contains(private), "{private} in {printed}");
        }
    }
    outcome
}

#[tokio::test]
async fn a_code_is_sent_as_documented_and_as_signed() {
    for mount in ["", "/", "/sim/sms"] {
        let server = Server::start(Answer::ok(&status("Ok"))).await;
        let receipt = client(&format!("{}{mount}", server.url)).send_code(PHONE, CODE, 5).await.unwrap();
        assert_eq!(receipt.serial_no, "2640:198387204417321834567890");
        assert_eq!((receipt.request_id.as_str(), receipt.fee), (REQUEST_ID, 1));

        let seen = server.seen.lock().unwrap()[0].clone();
        assert_eq!((seen.method.as_str(), seen.path.trim_end_matches('/')), ("POST", mount.trim_end_matches('/')));
        assert_eq!(seen.header("content-type"), "application/json; charset=utf-8");
        assert_eq!(seen.header("x-tc-action"), "SendSms");
        assert_eq!(seen.header("x-tc-version"), "2021-01-11");
        assert_eq!(seen.header("x-tc-region"), "ap-guangzhou");
        assert_eq!(seen.header("x-tc-timestamp"), "1795269600");
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        let expected = json!({
            "PhoneNumberSet": ["+8613800138000"], "SmsSdkAppId": "1400006666", "SignName": "金鹿商城",
            "TemplateId": "1110", "TemplateParamSet": ["482913", "5"],
        });
        assert_eq!(body, expected);
        // The signature is over what arrived, and over `/` wherever the service is mounted.
        let host = server.url.strip_prefix("http://").unwrap();
        assert_eq!(seen.header("host"), host);
        let call = Call { service: "sms", host, action: "SendSms", payload: &seen.body };
        assert_eq!(seen.header("authorization"), tc3::authorization(SECRET_ID, &Secret::new(KEY), &call, now()));
    }
}

#[tokio::test]
async fn numbers_are_completed_and_foreign_or_broken_ones_refused_unsent() {
    let server = Server::start(Answer::ok(&status("Ok"))).await;
    let client = client(&server.url);
    for phone in ["13800138000", "+8613800138000", "8613800138000", "008613800138000"] {
        client.send_code(phone, CODE, 5).await.unwrap();
        let body: Value = serde_json::from_slice(&server.seen.lock().unwrap().last().unwrap().body).unwrap();
        assert_eq!(body["PhoneNumberSet"], json!(["+8613800138000"]), "{phone}");
    }
    let sent = server.count();
    let wrong = [
        "",
        "1380013800",
        "138001380000",
        "12800138000",
        "23800138000",
        "1380013800a",
        "138 0013 8000",
        "+13800138000",
        "+85291234567",
        "+86",
        "８６13800138000",
        "13800138000,13900139000",
        "+86+8613800138000",
    ];
    for phone in wrong {
        let error = client.send_code(phone, CODE, 5).await.unwrap_err();
        assert!(matches!(error, SmsError::InvalidNumber(_)) && !error.outcome_unknown(), "{phone}: {error}");
        assert!(phone.len() < 3 || !printed(&error).contains(phone));
    }
    for (code, minutes) in [("", 5), ("1234567", 5), ("12a4", 5), ("１２３４", 5), (CODE, 0), (CODE, 1_000_000)] {
        let error = client.send_code(PHONE, code, minutes).await.unwrap_err();
        assert!(matches!(error, SmsError::Misuse(_)), "{code} {minutes}: {error}");
    }
    assert_eq!(server.count(), sent);
}

/// What a code means, in one word and as a wire code, and whether it may be asked for again.
fn meaning(error: &SmsError) -> (&'static str, bool) {
    let word = match error {
        SmsError::InvalidNumber(_) => "number",
        SmsError::Unsubscribed(_) => "unsubscribed",
        SmsError::RateLimited { .. } => "limited",
        SmsError::Config(_) => "config",
        SmsError::Busy(_) => "busy",
        SmsError::Internal(_) => "internal",
        SmsError::Rejected(_) => "rejected",
        _ => "other",
    };
    (word, error.is_retryable())
}

#[tokio::test]
async fn the_status_of_the_number_decides() {
    let table = [
        ("InvalidParameterValue.IncorrectPhoneNumber", "number", false, "INVALID_ARGUMENT"),
        ("FailedOperation.PhoneNumberInBlacklist", "unsubscribed", false, "INVALID_ARGUMENT"),
        ("LimitExceeded.PhoneNumberThirtySecondLimit", "limited", true, "RATE_LIMITED"),
        ("LimitExceeded.PhoneNumberOneHourLimit", "limited", true, "RATE_LIMITED"),
        ("LimitExceeded.PhoneNumberDailyLimit", "limited", true, "RATE_LIMITED"),
        ("LimitExceeded.PhoneNumberSameContentDailyLimit", "limited", true, "RATE_LIMITED"),
        ("LimitExceeded.DeliveryFrequencyLimit", "limited", true, "RATE_LIMITED"),
        ("LimitExceeded.AppDailyLimit", "config", false, "INTERNAL"),
        ("LimitExceeded.AppMainlandChinaDailyLimit", "config", false, "INTERNAL"),
        ("LimitExceeded.PhoneNumberCountLimit", "config", false, "INTERNAL"),
        ("InvalidParameterValue.TemplateParameterFormatError", "config", false, "INTERNAL"),
        ("InvalidParameterValue.SdkAppIdNotExist", "config", false, "INTERNAL"),
        ("FailedOperation.SignatureIncorrectOrUnapproved", "config", false, "INTERNAL"),
        ("FailedOperation.TemplateUnapprovedOrNotExist", "config", false, "INTERNAL"),
        ("FailedOperation.TemplateParamSetNotMatchApprovedTemplate", "config", false, "INTERNAL"),
        ("FailedOperation.InsufficientBalanceInSmsPackage", "config", false, "INTERNAL"),
        ("UnauthorizedOperation.ServiceSuspendDueToArrears", "config", false, "INTERNAL"),
        ("UnauthorizedOperation.RequestIpNotInWhitelist", "config", false, "INTERNAL"),
        ("InternalError.RequestTimeException", "config", false, "INTERNAL"),
        ("InternalError.Timeout", "internal", true, "UPSTREAM_ERROR"),
        ("InternalError.SendAndRecvFail", "internal", true, "UPSTREAM_ERROR"),
        ("FailedOperation.SomethingNew", "rejected", false, "UPSTREAM_ERROR"),
        ("OK", "rejected", false, "UPSTREAM_ERROR"),
    ];
    for (code, word, retryable, wire) in table {
        let error = outcome(Answer::ok(&status(code))).await.unwrap_err();
        assert_eq!(meaning(&error), (word, retryable), "{code}");
        assert_eq!(error.outcome_unknown(), word == "internal", "{code}");
        let printed = printed(&error);
        assert!(printed.contains(code) && printed.contains(REQUEST_ID), "{printed}");
        assert_eq!(Failure::from(error).code().as_str(), wire, "{code}");
    }
}

#[tokio::test]
async fn an_error_of_the_whole_request_decides_too() {
    let table = [
        ("AuthFailure.SignatureFailure", "config", "INTERNAL"),
        ("AuthFailure.SignatureExpire", "config", "INTERNAL"),
        ("AuthFailure.SecretIdNotFound", "config", "INTERNAL"),
        ("MissingParameter", "config", "INTERNAL"),
        ("UnsupportedRegion", "config", "INTERNAL"),
        ("NoSuchVersion", "config", "INTERNAL"),
        ("RequestLimitExceeded", "busy", "UPSTREAM_ERROR"),
        ("RequestLimitExceeded.UinLimitExceeded", "busy", "UPSTREAM_ERROR"),
        ("ResourceUnavailable", "busy", "UPSTREAM_ERROR"),
        ("InternalError", "internal", "UPSTREAM_ERROR"),
        ("FailedOperation", "rejected", "UPSTREAM_ERROR"),
    ];
    for (code, word, wire) in table {
        let error = outcome(Answer::ok(&error(code))).await.unwrap_err();
        assert_eq!(meaning(&error), (word, matches!(word, "busy" | "internal")), "{code}");
        assert_eq!(error.outcome_unknown(), word == "internal", "{code}");
        assert_eq!(Failure::from(error).code().as_str(), wire, "{code}");
    }
    // Also beside a status that says otherwise.
    let mut both = status("Ok");
    both["Response"]["Error"] = json!({ "Code": "InternalError", "Message": "" });
    assert!(matches!(outcome(Answer::ok(&both)).await, Err(SmsError::Internal(_))));
}

#[tokio::test]
async fn a_limit_says_how_long() {
    let table =
        [("ThirtySecondLimit", 30), ("OneHourLimit", 3_600), ("DailyLimit", 7_200), ("SameContentDailyLimit", 7_200)];
    for (limit, seconds) in table {
        let error = outcome(Answer::ok(&status(&format!("LimitExceeded.PhoneNumber{limit}")))).await.unwrap_err();
        let Failure::Refused(refusal) = Failure::from(error) else { panic!("{limit}") };
        assert_eq!(refusal.details["retryAfterSeconds"], seconds, "{limit}");
    }
    let error = outcome(Answer::ok(&status("InvalidParameterValue.IncorrectPhoneNumber"))).await.unwrap_err();
    let Failure::Refused(refusal) = Failure::from(error) else { panic!() };
    assert_eq!(refusal.details["field"], "phone");
}

#[tokio::test]
async fn an_answer_that_is_none_leaves_the_outcome_unknown() {
    for body in [
        json!({}),
        json!([]),
        json!({ "Response": {} }),
        json!({ "Response": { "SendStatusSet": [], "RequestId": REQUEST_ID } }),
        json!({ "Response": { "SendStatusSet": [{ "Code": "Ok" }, { "Code": "Ok" }] } }),
        json!({ "Response": { "SendStatusSet": [{ "Fee": 1 }] } }),
    ] {
        let error = outcome(Answer::ok(&body)).await.unwrap_err();
        assert!(matches!(error, SmsError::Malformed(_)) && error.outcome_unknown(), "{body}: {error}");
    }
    assert!(matches!(outcome(Answer::raw(200, "about <html>")).await, Err(SmsError::Malformed(_))));
    // A code that is not one gets no further.
    let strange = outcome(Answer::ok(&status("订单\n{}"))).await.unwrap_err();
    assert_eq!(strange.to_string(), format!("refused by the SMS service (-, request {REQUEST_ID})"));

    for (status, unknown) in [(500, true), (502, true), (404, false), (302, false)] {
        let error = outcome(Answer::raw(status, "about")).await.unwrap_err();
        assert!(matches!(error, SmsError::Http(_)), "{error}");
        assert_eq!((error.outcome_unknown(), error.is_retryable()), (unknown, unknown), "{status}");
    }
    let error = outcome(Answer::raw(200, vec![b' '; 70_000])).await.unwrap_err();
    assert!(matches!(&error, SmsError::Transport(e) if e.kind == TransportKind::TooLong) && error.outcome_unknown());
}

#[tokio::test]
async fn silence_is_unknown_and_no_connection_is_not() {
    let late = Answer { delay: Duration::from_secs(5), ..Answer::ok(&status("Ok")) };
    let error = outcome(late).await.unwrap_err();
    assert!(matches!(&error, SmsError::Transport(e) if e.kind == TransportKind::Timeout), "{error:?}");
    assert!(error.outcome_unknown() && error.is_retryable());
    assert_eq!(Failure::from(error).code().as_str(), "UPSTREAM_ERROR");

    // A peer that hangs up without a word.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let peer = tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    });
    let error = client(&url).send_code(PHONE, CODE, 5).await.unwrap_err();
    assert!(matches!(&error, SmsError::Transport(e) if e.kind == TransportKind::Broken), "{error:?}");
    assert!(error.outcome_unknown());
    peer.await.unwrap();

    // The listener is gone now.
    let error = client(&url).send_code(PHONE, CODE, 5).await.unwrap_err();
    assert!(matches!(&error, SmsError::Transport(e) if e.kind == TransportKind::Connect), "{error:?}");
    assert!(!error.outcome_unknown() && error.is_retryable());
    assert!(!printed(&error).contains("http://"), "{}", printed(&error));
}

#[test]
fn a_configuration_that_cannot_work_is_refused_at_once() {
    let refused = |change: fn(&mut Config)| {
        let mut config = config("https://sms.tencentcloudapi.com");
        change(&mut config);
        matches!(TencentSms::new(config), Err(SmsError::Misuse(_)))
    };
    assert!(!refused(|_| {}));
    assert!(refused(|config| config.base_url = "sms.tencentcloudapi.com".to_owned()));
    assert!(refused(|config| config.base_url = "ftp://sms.tencentcloudapi.com".to_owned()));
    assert!(refused(|config| config.base_url = "https://sms.tencentcloudapi.com/?a=1".to_owned()));
    assert!(refused(|config| config.base_url = "https://:b@sms.tencentcloudapi.com".to_owned()));
    assert!(refused(|config| config.secret_id = "AKID\n".to_owned()));
    assert!(refused(|config| config.secret_id = "AKID/x".to_owned()));
    assert!(refused(|config| config.region = String::new()));
    assert!(refused(|config| config.secret_key = Secret::new(" ")));
    assert!(refused(|config| config.sign_name = String::new()));
}

#[test]
fn keys_are_not_in_debug() {
    let config = config("https://sms.tencentcloudapi.com");
    let printed = format!("{config:?} {:?} {:?}", Secret::new(KEY), TencentSms::new(config.clone()).unwrap());
    assert!(!printed.contains(KEY) && !printed.contains(SECRET_ID), "{printed}");
    assert!(printed.contains("1400006666"));
}
