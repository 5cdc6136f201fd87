//! The payment client against a server that signs like WeChat Pay, or badly.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderValue, StatusCode};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::json;

use super::*;
use crate::Personal;
use crate::crypto::{ApiV3Key, KeyError, PlatformKeys, SignatureError};
use crate::pay::error::canonical_code;
use crate::pay::*;

const API_V3_KEY: &str = "0123456789abcdef0123456789abcdef";
const MCHID: &str = "1900000001";
const APPID: &str = "wxd678efh567hg6787";
const ORDER: &str = "ORDER_2024-1";

fn config(url: &str, clock: &Clock) -> Config {
    Config {
        base_url: url.to_owned(),
        backup_base_url: None,
        mchid: MCHID.to_owned(),
        appid: APPID.to_owned(),
        merchant_key: merchant_key(),
        platform_keys: public_keys(),
        api_v3_key: ApiV3Key::new(API_V3_KEY).unwrap(),
        notify_url: "https://shop.example/pay/callback".to_owned(),
        timeout: Duration::from_secs(5),
        now: clock.now(),
    }
}

fn client(url: &str, clock: &Clock) -> Client {
    Client::new(config(url, clock)).unwrap()
}

/// A client in certificate mode that knows no certificate yet.
fn certificate_client(url: &str, clock: &Clock) -> Client {
    Client::new(Config { platform_keys: PlatformKeys::new(), ..config(url, clock) }).unwrap()
}

fn openid() -> Personal {
    Personal::new("oUpF8uMuAJO_M2pxb1Q9zNjWeS6o")
}

fn order<'a>(openid: &'a Personal, clock: &Clock) -> PrepayOrder<'a> {
    PrepayOrder {
        out_trade_no: ORDER,
        description: "锦鲤商城-手办",
        amount_fen: 100,
        payer_openid: openid,
        time_expire: clock.time() + TimeDelta::minutes(30),
        attach: None,
    }
}

fn refund_request() -> RefundRequest<'static> {
    RefundRequest {
        transaction_id: "4200000000000000000000000001",
        out_refund_no: "REFUND-1",
        refund_fen: 40,
        total_fen: 100,
        reason: "退货",
        notify_url: "https://shop.example/refund/callback",
    }
}

fn refund_json(status: &str) -> String {
    json!({
        "refund_id": "50000000382019052709732678859", "out_refund_no": "REFUND-1", "out_trade_no": ORDER,
        "transaction_id": "4200000000000000000000000001", "channel": "ORIGINAL", "status": status,
        "create_time": "2024-06-01T08:00:00+08:00", "amount": {"refund": 40, "total": 100, "payer_refund": 40},
    })
    .to_string()
}

fn transaction_json(out_trade_no: &str, state: &str) -> serde_json::Value {
    json!({
        "appid": APPID, "mchid": MCHID, "out_trade_no": out_trade_no, "transaction_id": "4200000000000000000000000001",
        "trade_type": "JSAPI", "trade_state": state, "trade_state_desc": "支付成功", "bank_type": "OTHERS", "attach": "",
        "success_time": "2024-06-01T08:00:01+08:00", "payer": {"openid": openid().as_str()},
        "amount": {"total": 100, "payer_total": 90, "currency": "CNY", "payer_currency": "CNY"},
    })
}

/// Check the `Authorization` of a request like WeChat Pay does, over what was on the request line.
fn assert_authorized(seen: &Seen, clock: &Clock) {
    let value = seen.headers["authorization"].to_str().unwrap();
    let fields = value.strip_prefix("WECHATPAY2-SHA256-RSA2048 ").unwrap();
    let field = |name: &str| {
        let (_, rest) = fields.split_once(&format!("{name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    assert_eq!(field("mchid"), MCHID);
    assert_eq!(field("serial_no"), MERCHANT_SERIAL);
    assert_eq!(field("timestamp"), clock.time().timestamp().to_string());
    let message =
        format!("{}\n{}\n{}\n{}\n{}\n", seen.method, seen.target, field("timestamp"), field("nonce_str"), seen.body);
    let merchant = PlatformKeys::new();
    merchant.add_pem(MERCHANT_SERIAL, &pem("java-merchant-certificate")).unwrap();
    merchant.verify(MERCHANT_SERIAL, message.as_bytes(), &field("signature"), clock.time()).unwrap();
}

fn seal(nonce: &str, aad: &str, plain: &str) -> String {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, API_V3_KEY.as_bytes()).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(nonce.as_bytes()).unwrap();
    let mut data = plain.as_bytes().to_vec();
    key.seal_in_place_append_tag(nonce, Aad::from(aad.as_bytes()), &mut data).unwrap();
    BASE64.encode(data)
}

// ---- requests ----

#[test]
fn the_prepay_request_has_exactly_these_bytes() {
    let clock = Clock::new();
    let client = client("http://127.0.0.1:1", &clock);
    let payer = openid();
    let body = client.prepay_request(&order(&payer, &clock)).unwrap();
    assert_eq!(
        body,
        "{\"appid\":\"wxd678efh567hg6787\",\"mchid\":\"1900000001\",\"description\":\"锦鲤商城-手办\",\
         \"out_trade_no\":\"ORDER_2024-1\",\"time_expire\":\"2024-06-01T08:30:00+08:00\",\
         \"notify_url\":\"https://shop.example/pay/callback\",\"amount\":{\"total\":100,\"currency\":\"CNY\"},\
         \"payer\":{\"openid\":\"oUpF8uMuAJO_M2pxb1Q9zNjWeS6o\"}}"
    );
    let with_attach = client.prepay_request(&PrepayOrder { attach: Some("v1"), ..order(&payer, &clock) }).unwrap();
    assert!(with_attach.contains(r#""attach":"v1""#));
}

#[test]
fn descriptions_are_cleaned_and_cut() {
    let clock = Clock::new();
    let client = client("http://127.0.0.1:1", &clock);
    let payer = openid();
    let described = |text: &str| {
        let body = client.prepay_request(&PrepayOrder { description: text, ..order(&payer, &clock) })?;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        Ok::<_, Error>(body["description"].as_str().unwrap().to_owned())
    };
    assert_eq!(described("  手办\u{1F600}\n\t盲盒\u{0} ").unwrap(), "手办盲盒");
    assert_eq!(described(&"福".repeat(200)).unwrap(), "福".repeat(127));
    assert!(matches!(described("\u{1F600}\n"), Err(Error::Misuse(_))));
}

#[test]
fn orders_that_cannot_work_are_refused_before_sending() {
    let clock = Clock::new();
    let client = client("http://127.0.0.1:1", &clock);
    let (payer, nobody) = (openid(), Personal::new(""));
    let good = order(&payer, &clock);
    let long = "x".repeat(129);
    let bad = [
        PrepayOrder { out_trade_no: "short", ..good.clone() },
        PrepayOrder { out_trade_no: "ORDER|2024", ..good.clone() },
        PrepayOrder { out_trade_no: "../certificates", ..good.clone() },
        PrepayOrder { out_trade_no: "123456789012345678901234567890123", ..good.clone() },
        PrepayOrder { amount_fen: 0, ..good.clone() },
        PrepayOrder { amount_fen: -1, ..good.clone() },
        PrepayOrder { payer_openid: &nobody, ..good.clone() },
        PrepayOrder { attach: Some(""), ..good.clone() },
        PrepayOrder { attach: Some(&long), ..good.clone() },
    ];
    for order in bad {
        assert!(matches!(client.prepay_request(&order), Err(Error::Misuse(_))), "{order:?}");
    }
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let clock = Clock::new();
    let own = PlatformKeys::new();
    own.add_pem(MERCHANT_SERIAL, &pem("java-merchant-certificate")).unwrap();
    let good = || config("https://api.mch.weixin.qq.com", &clock);
    let bad = [
        Config { base_url: "api.mch.weixin.qq.com".into(), ..good() },
        Config { base_url: "https://a.example/?x=1".into(), ..good() },
        Config { backup_base_url: Some("ftp://a.example".into()), ..good() },
        Config { notify_url: "https://a.example/cb?x=1".into(), ..good() },
        Config { mchid: "19\"".into(), ..good() },
        Config { platform_keys: own, ..good() },
    ];
    for config in bad {
        assert!(matches!(Client::new(config), Err(Error::Misuse(_))));
    }
    assert!(Client::new(good()).is_ok());
}

#[test]
fn pay_params_carry_the_wire_names() {
    let clock = Clock::new();
    let client = client("http://127.0.0.1:1", &clock);
    let params = client.pay_params(&PrepayId::new("wx2014"), clock.time(), "NONCE").unwrap();
    let message = format!("{APPID}\n1717200000\nNONCE\nprepay_id=wx2014\n");
    let sign = merchant_key().sign(message.as_bytes()).unwrap();
    assert_eq!(
        serde_json::to_value(&params).unwrap(),
        json!({"timeStamp": "1717200000", "nonceStr": "NONCE", "package": "prepay_id=wx2014", "signType": "RSA", "paySign": sign})
    );
    assert!(!format!("{params:?}").contains(&sign));
    assert_eq!(crate::nonce().len(), 32);
    for nonce in ["", "a\nb", &"x".repeat(33)] {
        assert!(matches!(client.pay_params(&PrepayId::new("wx2014"), clock.time(), nonce), Err(Error::Misuse(_))));
    }
}

#[tokio::test]
async fn prepay_sends_the_stored_bytes_and_signs_the_request_line() {
    let clock = Clock::new();
    let at = clock.time();
    let server =
        Server::start(move |_, _| Answer::new(200, r#"{"prepay_id":"wx201410"}"#).signed(PUBLIC_SERIAL, at)).await;
    let client = client(&format!("{}/mch/", server.url), &clock);
    let body = client.prepay_request(&order(&openid(), &clock)).unwrap();
    assert_eq!(client.prepay(&body).await.unwrap().as_str(), "wx201410");

    let seen = server.seen().remove(0);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/mch/v3/pay/transactions/jsapi"));
    assert_eq!(seen.body, body);
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["accept"], "application/json");
    assert_eq!(seen.headers["wechatpay-serial"], PUBLIC_SERIAL);
    assert!(!seen.headers["user-agent"].is_empty());
    assert_authorized(&seen, &clock);
}

#[tokio::test]
async fn query_signs_its_query_string_and_reads_the_answer() {
    let clock = Clock::new();
    let at = clock.time();
    let server = Server::start(move |_, _| {
        Answer::new(200, transaction_json(ORDER, "REFUND").to_string()).signed(PUBLIC_SERIAL, at)
    })
    .await;
    let paid = client(&server.url, &clock).query(ORDER).await.unwrap().unwrap();
    assert!(paid.is_paid());
    assert_eq!(paid.trade_state, TradeState::Refund);
    assert_eq!((paid.amount_total, paid.amount_payer_total), (Some(100), Some(90)));
    assert_eq!(paid.currency.as_deref(), Some("CNY"));
    assert_eq!(paid.attach, None);
    assert_eq!(paid.payer_openid, Some(openid()));
    assert_eq!(paid.success_time, DateTime::from_timestamp(1_717_200_001, 0));
    assert!(!format!("{paid:?}").contains(openid().as_str()));

    let seen = server.seen().remove(0);
    assert_eq!(seen.target, "/v3/pay/transactions/out-trade-no/ORDER_2024-1?mchid=1900000001");
    assert!(!seen.headers.contains_key("content-type"));
    assert_authorized(&seen, &clock);
}

#[tokio::test]
async fn unpaid_and_unknown_states_are_not_paid() {
    let clock = Clock::new();
    for (state, paid) in [("SUCCESS", true), ("REFUND", true), ("NOTPAY", false), ("CLOSED", false), ("NEW_ONE", false)]
    {
        let at = clock.time();
        let body = json!({"appid": APPID, "mchid": MCHID, "out_trade_no": ORDER, "trade_state": state}).to_string();
        let server = Server::start(move |_, _| Answer::new(200, body.clone()).signed(PUBLIC_SERIAL, at)).await;
        let found = client(&server.url, &clock).query(ORDER).await.unwrap().unwrap();
        assert_eq!(found.is_paid(), paid, "{state}");
        assert_eq!(found.trade_state.as_str(), state);
        assert_eq!(found.transaction_id, None);
    }
}

// ---- proof of answers ----

#[tokio::test]
async fn a_success_that_is_not_proven_is_unverified() {
    let clock = Clock::new();
    let at = clock.time();
    let body = r#"{"prepay_id":"wx201410"}"#;
    let good = Answer::new(200, body).signed(PUBLIC_SERIAL, at);
    let signature = good.headers.iter().find(|(n, _)| *n == "Wechatpay-Signature").unwrap().1.clone();
    let cases: Vec<(Answer, SignatureError)> = vec![
        (Answer::new(200, body), SignatureError::MissingHeader("Wechatpay-Timestamp")),
        (good.clone().header("Wechatpay-Signature", ""), SignatureError::MissingHeader("Wechatpay-Signature")),
        (
            Answer::new(200, body).signed(PUBLIC_SERIAL, at - TimeDelta::seconds(301)),
            SignatureError::Stale { skew_seconds: 301 },
        ),
        (
            Answer::new(200, body).signed(PUBLIC_SERIAL, at + TimeDelta::seconds(301)),
            SignatureError::Stale { skew_seconds: -301 },
        ),
        (good.clone().header("Wechatpay-Timestamp", "soon"), SignatureError::Timestamp),
        (good.clone().header("Wechatpay-Serial", "PUB_KEY_ID_9"), SignatureError::UnknownSerial("PUB_KEY_ID_9".into())),
        (good.clone().header("Wechatpay-Signature-Type", "WECHATPAY2-SM2-WITH-SM3"), SignatureError::Type),
        (
            good.clone().header("Wechatpay-Signature", &format!("WECHATPAY/SIGNTEST/{signature}")),
            SignatureError::Base64,
        ),
        // A probe of the right length is valid base64 and fails one check later.
        (
            good.clone().header("Wechatpay-Signature", &format!("WECHATPAY/SIGNTEST/{}", signature.split_at(19).1)),
            SignatureError::Mismatch,
        ),
        (good.clone().header("Wechatpay-Signature", "not base64!"), SignatureError::Base64),
        (
            Answer::new(200, r#"{"prepay_id": "wx201410"}"#).signed_over(body, PUBLIC_SERIAL, at),
            SignatureError::Mismatch,
        ),
    ];
    for (answer, expected) in cases {
        let server = Server::start(move |_, _| answer.clone()).await;
        let error = client(&server.url, &clock).prepay("{}").await.unwrap_err();
        assert!(matches!(&error, Error::Unverified(found) if *found == expected), "{expected:?}: {error:?}");
        assert!(error.outcome_unknown() && error.is_retryable());
        assert_eq!(server.count(), 2, "repeated once: {expected:?}");
    }
    // The edge of the window is inside it.
    let edge = Answer::new(200, body).signed(PUBLIC_SERIAL, at - TimeDelta::seconds(300));
    let server = Server::start(move |_, _| edge.clone()).await;
    client(&server.url, &clock).prepay("{}").await.unwrap();
}

#[tokio::test]
async fn a_probe_is_answered_by_one_equal_repetition_on_the_backup_host() {
    let clock = Clock::new();
    let at = clock.time();
    let body = r#"{"prepay_id":"wx201410"}"#;
    let probe = Answer::new(200, body).signed_over("other", PUBLIC_SERIAL, at);
    let main = Server::start(move |_, _| probe.clone()).await;
    let backup = Server::start(move |_, _| Answer::new(200, body).signed(PUBLIC_SERIAL, at)).await;
    let client =
        Client::new(Config { backup_base_url: Some(backup.url.clone()), ..config(&main.url, &clock) }).unwrap();
    client.prepay(r#"{"a": 1}"#).await.unwrap();
    let (first, second) = (main.seen().remove(0), backup.seen().remove(0));
    assert_eq!(first.body, second.body);
    assert_authorized(&second, &clock);
    assert_ne!(first.headers["authorization"], second.headers["authorization"]);
}

#[tokio::test]
async fn a_verified_answer_must_be_about_what_was_asked() {
    let clock = Clock::new();
    let at = clock.time();
    let other_merchant = json!({"appid": APPID, "mchid": "1", "out_trade_no": ORDER, "trade_state": "SUCCESS"});
    for body in [transaction_json("ORDER_2024-2", "SUCCESS"), other_merchant, json!({}), json!([])] {
        let body = body.to_string();
        let server = Server::start(move |_, _| Answer::new(200, body.clone()).signed(PUBLIC_SERIAL, at)).await;
        let error = client(&server.url, &clock).query(ORDER).await.unwrap_err();
        assert!(matches!(error, Error::Malformed(_)), "{error:?}");
        assert_eq!(server.count(), 1);
    }
}

#[tokio::test]
async fn an_accepted_answer_is_not_a_success() {
    let clock = Clock::new();
    let at = clock.time();
    let server = Server::start(move |_, _| Answer::new(202, "").signed(PUBLIC_SERIAL, at)).await;
    let error = client(&server.url, &clock).close(ORDER).await.unwrap_err();
    assert!(error.is_rejection(StatusCode::ACCEPTED, "HTTP_202"), "{error:?}");
    assert!(error.outcome_unknown() && error.is_retryable());
}

// ---- refusals ----

#[tokio::test]
async fn refusals_are_read_without_a_signature_and_say_so() {
    let clock = Clock::new();
    let at = clock.time();
    let body =
        r#"{"code":"SIGN_ERROR","message":"签名\n错误","detail":{"sign_information":{"sign_message":"SECRET-BYTES"}}}"#;
    for signed in [false, true] {
        let server = Server::start(move |_, _| {
            let answer = Answer::new(401, body);
            if signed { answer.signed(PUBLIC_SERIAL, at) } else { answer.header("Request-ID", "08A1-268443699") }
        })
        .await;
        let error = client(&server.url, &clock).prepay("{}").await.unwrap_err();
        let Error::Rejected { status, code, message, request_id, signed: proven } = &error else { panic!("{error:?}") };
        assert_eq!((status.as_u16(), code.as_str(), message.as_str()), (401, "SIGN_ERROR", "签名错误"));
        assert!(request_id.is_some());
        assert_eq!(*proven, signed);
        assert!(!error.is_retryable() && !error.outcome_unknown());
        assert!(!printed(&error).contains("SECRET-BYTES"));
        assert_eq!(server.count(), 1, "refusals are not repeated");
    }
}

#[tokio::test]
async fn a_server_error_on_prepay_is_repeated_once() {
    let clock = Clock::new();
    let at = clock.time();
    let server = Server::start(move |_, count| match count {
        0 => Answer::new(500, r#"{"code":"SYSTEMERROR","message":"busy"}"#),
        _ => Answer::new(200, r#"{"prepay_id":"wx201410"}"#).signed(PUBLIC_SERIAL, at),
    })
    .await;
    client(&server.url, &clock).prepay("{}").await.unwrap();
    assert_eq!(server.count(), 2);

    let always = Server::start(|_, _| Answer::new(503, "<html>")).await;
    let error = client(&always.url, &clock).prepay("{}").await.unwrap_err();
    assert_eq!(error.code(), Some("HTTP_503"));
    assert!(error.outcome_unknown());
    assert_eq!(always.count(), 2);
}

#[tokio::test]
async fn only_the_documented_404_means_there_is_no_such_payment() {
    let clock = Clock::new();
    for (status, body, none) in [
        (404, r#"{"code":"ORDER_NOT_EXIST","message":"订单不存在"}"#, true),
        (404, r#"{"code":"ORDERNOTEXIST"}"#, true),
        (404, "", false),
        (404, r#"{"code":"RESOURCE_NOT_EXISTS"}"#, false),
        (400, r#"{"code":"ORDER_NOT_EXIST"}"#, false),
    ] {
        let server = Server::start(move |_, _| Answer::new(status, body)).await;
        let found = client(&server.url, &clock).query(ORDER).await;
        assert_eq!(matches!(found, Ok(None)), none, "{status} {body}: {found:?}");
        assert_eq!(found.is_err(), !none);
    }
}

#[test]
fn old_spellings_of_codes_are_the_new_ones() {
    for (old, new) in [
        ("ORDERNOTEXIST", "ORDER_NOT_EXIST"),
        ("SYSTEMERROR", "SYSTEM_ERROR"),
        ("NOAUTH", "NO_AUTH"),
        ("RULELIMIT", "RULE_LIMIT"),
        ("NOTENOUGH", "NOT_ENOUGH"),
        ("BANKERROR", "BANK_ERROR"),
        ("USERPAYING", "USER_PAYING"),
        ("out_trade_no_used", "OUT_TRADE_NO_USED"),
        ("SOMETHING_NEW", "SOMETHING_NEW"),
    ] {
        assert_eq!(canonical_code(old), new);
    }
}

// ---- close and refund ----

#[tokio::test]
async fn close_verifies_an_empty_204_and_never_repeats() {
    let clock = Clock::new();
    let at = clock.time();
    let server = Server::start(move |_, count| match count {
        0 => Answer::new(204, "").signed(PUBLIC_SERIAL, at),
        1 => Answer::new(204, ""),
        _ => Answer::new(500, ""),
    })
    .await;
    let client = client(&server.url, &clock);
    client.close(ORDER).await.unwrap();
    assert!(matches!(client.close(ORDER).await, Err(Error::Unverified(_))));
    assert!(matches!(client.close(ORDER).await, Err(Error::Rejected { .. })));
    assert_eq!(server.count(), 3);
    let seen = server.seen().remove(0);
    assert_eq!(seen.target, "/v3/pay/transactions/out-trade-no/ORDER_2024-1/close");
    assert_eq!(seen.body, r#"{"mchid":"1900000001"}"#);
    assert_authorized(&seen, &clock);
}

#[tokio::test]
async fn refund_is_sent_once_with_equal_bytes_each_time() {
    let clock = Clock::new();
    let at = clock.time();
    let server = Server::start(move |_, count| match count {
        0 => Answer::new(500, r#"{"code":"SYSTEM_ERROR"}"#),
        _ => Answer::new(200, refund_json("PROCESSING")).signed(PUBLIC_SERIAL, at),
    })
    .await;
    let client = client(&server.url, &clock);
    let error = client.refund(&refund_request()).await.unwrap_err();
    assert!(error.outcome_unknown());
    assert_eq!(server.count(), 1);
    let refund = client.refund(&refund_request()).await.unwrap();
    assert_eq!((refund.status, refund.amount_refund, refund.amount_total), (RefundStatus::Processing, 40, 100));
    let seen = server.seen();
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(
        seen[0].body,
        r#"{"transaction_id":"4200000000000000000000000001","out_refund_no":"REFUND-1","reason":"退货","notify_url":"https://shop.example/refund/callback","amount":{"refund":40,"total":100,"currency":"CNY"}}"#
    );
    assert_authorized(&seen[1], &clock);
}

#[tokio::test]
async fn refunds_that_cannot_work_are_refused_before_sending() {
    let clock = Clock::new();
    let client = client("http://127.0.0.1:1", &clock);
    let good = refund_request();
    for bad in [
        RefundRequest { refund_fen: 0, ..good.clone() },
        RefundRequest { refund_fen: 101, ..good.clone() },
        RefundRequest { notify_url: "", ..good.clone() },
        RefundRequest { out_refund_no: "a@b", ..good.clone() },
        RefundRequest { transaction_id: "", ..good.clone() },
    ] {
        assert!(matches!(client.refund(&bad).await, Err(Error::Misuse(_))), "{bad:?}");
    }
}

#[tokio::test]
async fn query_refund_finds_or_not() {
    let clock = Clock::new();
    let at = clock.time();
    let server = Server::start(move |_, count| match count {
        0 => Answer::new(404, r#"{"code":"RESOURCE_NOT_EXISTS"}"#),
        _ => Answer::new(200, refund_json("ABNORMAL")).signed(PUBLIC_SERIAL, at),
    })
    .await;
    let client = client(&server.url, &clock);
    assert_eq!(client.query_refund("REFUND-1").await.unwrap(), None);
    assert_eq!(client.query_refund("REFUND-1").await.unwrap().unwrap().status, RefundStatus::Abnormal);
    assert!(matches!(client.query_refund("REFUND-2").await, Err(Error::Malformed(_))));
    assert_eq!(server.seen()[0].target, "/v3/refund/domestic/refunds/REFUND-1");
}

// ---- transport ----

#[tokio::test]
async fn silence_is_a_timeout_with_unknown_outcome_and_prints_no_url() {
    let clock = Clock::new();
    let server = Server::start(|_, _| Answer::new(200, "{}").after(Duration::from_secs(30))).await;
    let impatient =
        |url: &str| Client::new(Config { timeout: Duration::from_millis(200), ..config(url, &clock) }).unwrap();
    let error = impatient(&server.url).refund(&refund_request()).await.unwrap_err();
    assert!(matches!(&error, Error::Transport(e) if e.kind == crate::TransportKind::Timeout), "{error:?}");
    assert!(error.outcome_unknown() && error.is_retryable());
    assert_eq!(server.count(), 1);

    let error = impatient(&server.url).query(ORDER).await.unwrap_err();
    assert!(matches!(error, Error::Transport(_)));
    assert_eq!(server.count(), 3, "a query is repeated once");
    assert!(!printed(&error).contains(ORDER) && !printed(&error).contains("mchid"), "{}", printed(&error));

    let error = impatient(&closed_port().await).query(ORDER).await.unwrap_err();
    assert!(matches!(&error, Error::Transport(e) if e.kind == crate::TransportKind::Connect), "{error:?}");
}

#[tokio::test]
async fn tls_needs_no_provider_set_up_by_the_process() {
    let clock = Clock::new();
    // The server speaks no TLS, so the handshake starts and fails.
    let server = Server::start(|_, _| Answer::new(204, "")).await;
    let url = server.url.replace("http://", "https://");
    let error = client(&url, &clock).close(ORDER).await.unwrap_err();
    assert!(matches!(&error, Error::Transport(e) if e.kind == crate::TransportKind::Connect), "{error:?}");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_dead_host_is_replaced_by_the_backup() {
    let clock = Clock::new();
    let at = clock.time();
    let backup = Server::start(move |_, _| {
        Answer::new(200, transaction_json(ORDER, "NOTPAY").to_string()).signed(PUBLIC_SERIAL, at)
    })
    .await;
    let client =
        Client::new(Config { backup_base_url: Some(backup.url.clone()), ..config(&closed_port().await, &clock) })
            .unwrap();
    assert_eq!(client.query(ORDER).await.unwrap().unwrap().trade_state, TradeState::NotPay);
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    let clock = Clock::new();
    let server = Server::start(|_, _| Answer::new(200, "x".repeat(2 << 20))).await;
    let error = client(&server.url, &clock).close(ORDER).await.unwrap_err();
    assert!(matches!(&error, Error::Transport(e) if e.kind == crate::TransportKind::TooLong), "{error:?}");
}

#[tokio::test]
async fn redirects_are_refusals() {
    let clock = Clock::new();
    let server = Server::start(|_, _| Answer::new(302, "").header("Location", "http://127.0.0.1:1/")).await;
    let error = client(&server.url, &clock).close(ORDER).await.unwrap_err();
    assert_eq!(error.code(), Some("HTTP_302"));
}

// ---- certificate mode ----

fn certificates_json() -> String {
    let nonce = "0123456789ab";
    json!({"data": [{
        "serial_no": PLATFORM_SERIAL, "effective_time": "2022-05-10T10:04:30+08:00", "expire_time": 1_746_756_270,
        "encrypt_certificate": {
            "algorithm": "AEAD_AES_256_GCM", "nonce": nonce, "associated_data": "certificate",
            "ciphertext": seal(nonce, "certificate", &pem("java-wechat-pay-certificate")),
        },
    }]})
    .to_string()
}

#[tokio::test]
async fn an_unknown_certificate_is_downloaded_once_and_then_known() {
    let clock = Clock::new();
    let at = clock.time();
    let server = Server::start(move |seen, _| match seen.target.as_str() {
        "/v3/certificates" => Answer::new(200, certificates_json()).signed(PLATFORM_SERIAL, at),
        _ => Answer::new(204, "").signed(PLATFORM_SERIAL, at),
    })
    .await;
    let client = certificate_client(&server.url, &clock);
    client.close(ORDER).await.unwrap();
    client.close(ORDER).await.unwrap();
    assert_eq!(server.count_of("/v3/certificates"), 1);
    assert!(client.platform_keys().contains(PLATFORM_SERIAL));
    assert!(!server.seen()[0].headers.contains_key("wechatpay-serial"));
    for seen in server.seen() {
        assert_authorized(&seen, &clock);
    }
}

#[tokio::test]
async fn forged_serials_cause_one_download_a_minute() {
    let clock = Clock::new();
    let at = clock.time();
    let server = Server::start(move |_, _| Answer::new(200, certificates_json()).signed(PLATFORM_SERIAL, at)).await;
    let client = certificate_client(&server.url, &clock);
    let forged = |serial: &str| notice_headers("{}", serial, clock.time());
    for serial in ["AA01", "AA02", "AA03", "PUB_KEY_ID_AA04"] {
        let refused = client.verify_notice(&forged(serial), b"{}", clock.time()).await.unwrap_err();
        assert!(matches!(refused, NoticeError::Signature(SignatureError::UnknownSerial(_))), "{refused:?}");
    }
    assert_eq!(server.count(), 1);
    clock.advance(TimeDelta::seconds(61));
    client.verify_notice(&forged("AA05"), b"{}", clock.time()).await.unwrap_err();
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn an_unproven_certificate_list_adds_nothing() {
    let clock = Clock::new();
    let at = clock.time();
    // Signed over other bytes, and sealed by somebody who does not know the APIv3 key.
    let stranger = certificates_json().replace(&seal_of_certificate(), &BASE64.encode([0_u8; 64]));
    for answer in [
        Answer::new(200, certificates_json()).signed_over("{}", PLATFORM_SERIAL, at),
        Answer::new(200, certificates_json()),
        Answer::new(200, stranger.clone()).signed(PLATFORM_SERIAL, at),
        Answer::new(200, "nonsense").signed(PLATFORM_SERIAL, at),
    ] {
        let server = Server::start(move |_, _| answer.clone()).await;
        let client = certificate_client(&server.url, &clock);
        client.certificates().await.unwrap_err();
        assert!(client.platform_keys().is_empty());
    }
}

fn seal_of_certificate() -> String {
    seal("0123456789ab", "certificate", &pem("java-wechat-pay-certificate"))
}

#[tokio::test]
async fn a_merchant_without_certificates_is_told_about_public_key_mode() {
    let clock = Clock::new();
    let server =
        Server::start(|_, _| Answer::new(404, r#"{"code":"RESOURCE_NOT_EXISTS","message":"无可用的平台证书"}"#)).await;
    let error = certificate_client(&server.url, &clock).certificates().await.unwrap_err();
    assert!(matches!(error, Error::PublicKeyMode));
    assert!(error.to_string().contains("PUB_KEY_ID_"));
}

// ---- notices ----

fn notice_body(original_type: &str, event_type: &str, plain: &str) -> String {
    let nonce = "0123456789ab";
    json!({
        "id": "EV-2018022511223320873", "create_time": "2024-06-01T08:00:02+08:00", "resource_type": "encrypt-resource",
        "event_type": event_type, "summary": "支付成功",
        "resource": {
            "original_type": original_type, "algorithm": "AEAD_AES_256_GCM", "nonce": nonce,
            "associated_data": original_type, "ciphertext": seal(nonce, original_type, plain),
        },
    })
    .to_string()
}

fn notice_headers(body: &str, serial: &str, at: DateTime<Utc>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in signature_headers(body, serial, at) {
        map.insert(name, HeaderValue::from_str(&value).unwrap());
    }
    map
}

async fn read_notice(body: &str) -> Result<Notice, NoticeError> {
    let clock = Clock::new();
    let client = client("http://127.0.0.1:1", &clock);
    client.verify_notice(&notice_headers(body, PUBLIC_SERIAL, clock.time()), body.as_bytes(), clock.time()).await
}

#[tokio::test]
async fn a_payment_notice_is_opened() {
    let plain = transaction_json(ORDER, "SUCCESS").to_string();
    let body = notice_body("transaction", "TRANSACTION.SUCCESS", &plain);
    let notice = read_notice(&body).await.unwrap();
    assert_eq!((notice.id.as_str(), notice.event_type.as_str()), ("EV-2018022511223320873", "TRANSACTION.SUCCESS"));
    assert_eq!(notice.serial, PUBLIC_SERIAL);
    let hash = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
    assert_eq!(notice.body_sha256, hex::encode(hash));
    let NoticeResource::Transaction(transaction) = notice.resource else { panic!() };
    assert!(transaction.is_paid());
    assert_eq!((transaction.out_trade_no.as_str(), transaction.amount_total), (ORDER, Some(100)));
}

#[tokio::test]
async fn a_refund_notice_is_opened() {
    let plain = json!({
        "mchid": MCHID, "out_trade_no": ORDER, "transaction_id": "4200000000000000000000000001",
        "out_refund_no": "REFUND-1", "refund_id": "50000000382019052709732678859", "refund_status": "SUCCESS",
        "success_time": "2024-06-01T08:00:01+08:00", "user_received_account": "招商银行信用卡0403",
        "amount": {"total": 100, "refund": 40, "payer_total": 100, "payer_refund": 40},
    });
    let notice = read_notice(&notice_body("refund", "REFUND.SUCCESS", &plain.to_string())).await.unwrap();
    let NoticeResource::Refund(refund) = notice.resource else { panic!() };
    assert_eq!((refund.out_refund_no.as_str(), refund.status), ("REFUND-1", RefundStatus::Success));
    assert_eq!((refund.amount_refund, refund.amount_total), (40, 100));
}

#[tokio::test]
async fn other_notices_are_opened_but_not_printed() {
    let notice = read_notice(&notice_body("payscore", "PAYSCORE.USER_OPEN_SERVICE", "{\"a\":1}")).await.unwrap();
    assert!(!format!("{notice:?}").contains(r#"a\""#));
    let NoticeResource::Other { original_type, plaintext } = notice.resource else { panic!() };
    assert_eq!((original_type.as_str(), plaintext.expose()), ("payscore", "{\"a\":1}"));
}

#[tokio::test]
async fn unreadable_notices_are_refused() {
    let plain = transaction_json(ORDER, "SUCCESS").to_string();
    assert!(matches!(read_notice("{}").await, Err(NoticeError::Malformed("envelope"))));
    assert!(matches!(
        read_notice(&notice_body("transaction", "TRANSACTION.SUCCESS", "{}")).await,
        Err(NoticeError::Malformed("transaction"))
    ));
    let body = notice_body("transaction", "TRANSACTION.SUCCESS", &plain);
    let unsealed = body.replace("\"associated_data\":\"transaction\"", "\"associated_data\":\"\"");
    assert_ne!(body, unsealed);
    assert!(matches!(read_notice(&unsealed).await, Err(NoticeError::Decrypt(KeyError::Unsealed))));
    let algorithm = body.replace("AEAD_AES_256_GCM", "AEAD_AES_128_GCM");
    assert!(matches!(read_notice(&algorithm).await, Err(NoticeError::Malformed("unknown algorithm"))));
}

#[tokio::test]
async fn notices_are_checked_in_order() {
    let clock = Clock::new();
    let now = clock.time();
    let verifier = Verifier::new(public_keys(), ApiV3Key::new(API_V3_KEY).unwrap());
    let body = notice_body("transaction", "TRANSACTION.SUCCESS", &transaction_json(ORDER, "SUCCESS").to_string());
    let good = notice_headers(&body, PUBLIC_SERIAL, now);
    assert!(verifier.verify(&good, body.as_bytes(), now).is_ok());

    // Each later defect is present too; the earliest check is the one that speaks.
    let mut headers = good.clone();
    headers.insert("Wechatpay-Signature", HeaderValue::from_static("%%%"));
    let refused = |headers: &HeaderMap, body: &str, now| match verifier.verify(headers, body.as_bytes(), now) {
        Err(NoticeError::Signature(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&headers, "nonsense", now), SignatureError::Base64);
    headers.insert("Wechatpay-Serial", HeaderValue::from_static("ABCD"));
    assert_eq!(refused(&headers, "nonsense", now), SignatureError::UnknownSerial("ABCD".into()));
    let late = now + TimeDelta::seconds(301);
    assert_eq!(refused(&headers, "nonsense", late), SignatureError::Stale { skew_seconds: 301 });
    headers.remove("Wechatpay-Nonce");
    assert_eq!(refused(&headers, "nonsense", late), SignatureError::MissingHeader("Wechatpay-Nonce"));

    // Two values of one header would let a proxy and this code see different ones.
    let mut twice = good.clone();
    twice.append("Wechatpay-Serial", HeaderValue::from_static("ABCD"));
    assert_eq!(refused(&twice, &body, now), SignatureError::MissingHeader("Wechatpay-Serial"));

    let probe = format!("WECHATPAY/SIGNTEST/{}", good["Wechatpay-Signature"].to_str().unwrap());
    let mut signtest = good.clone();
    signtest.insert("Wechatpay-Signature", HeaderValue::from_str(&probe).unwrap());
    assert_eq!(refused(&signtest, &body, now), SignatureError::Base64);

    assert_eq!(refused(&good, &format!("{body} "), now), SignatureError::Mismatch);
}

#[tokio::test]
async fn a_v2_xml_notice_is_recognised_only_without_v3_headers() {
    let verifier = Verifier::new(public_keys(), ApiV3Key::new(API_V3_KEY).unwrap());
    let now = Clock::new().time();
    let xml = b"\n<xml><return_code>SUCCESS</return_code></xml>";
    assert!(matches!(verifier.verify(&HeaderMap::new(), xml, now), Err(NoticeError::LegacyXml)));
    assert!(matches!(
        verifier.verify(&HeaderMap::new(), b"{}", now),
        Err(NoticeError::Signature(SignatureError::MissingHeader(_)))
    ));
}

#[test]
fn failures_become_upstream_or_internal() {
    let rejected = Error::rejected(StatusCode::FORBIDDEN, b"{}", None, false);
    assert!(matches!(domain::Failure::from(rejected), domain::Failure::Upstream(_)));
    assert!(matches!(domain::Failure::from(Error::Misuse("x")), domain::Failure::Internal(_)));
    assert!(matches!(domain::Failure::from(Error::PublicKeyMode), domain::Failure::Internal(_)));
}
