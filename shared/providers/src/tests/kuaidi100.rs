//! Parcels: check values, every code, every shape of failure, pushes, locking rules.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::OriginalUri;
use axum::http::{HeaderMap, Method, Response};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Code, Failure};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::kuaidi100::lock::{may_query, may_subscribe};
use crate::kuaidi100::push::{self, PushError, PushStatus};
use crate::kuaidi100::{
    CODES, COMPANIES, Class, Company, Config, Kuaidi100, Kuaidi100Error, ParcelState, ParcelStatus, Query, ResultForm,
    Subscribed, Subscription, advances, beijing_time, query_param, sign,
};
use crate::{Secret, TransportKind};

const KEY: &str = "testkey1";
const CUSTOMER: &str = "TESTCUSTOMER";
const NUMBER: &str = "YT0000000000001";
const SALT: &str = "0123456789abcdef";
const CALLBACK: &str = "https://shop.example/logisticsCallback?oid=o-1";

fn query() -> Query<'static> {
    Query { company: "yuantong", number: NUMBER, phone: None, from: None, to: None, form: ResultForm::Advanced }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn field(&self, name: &str) -> String {
        let pair = self.body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap();
        percent_encoding::percent_decode_str(pair).decode_utf8().unwrap().into_owned()
    }
}

struct Server {
    client: Kuaidi100,
    seen: Arc<Mutex<Vec<Seen>>>,
}

async fn server(status: u16, body: impl Into<String>) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/sim/kuaidi100/", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let (log, body) = (seen.clone(), body.into());
    let router = axum::Router::new().fallback(
        move |method: Method, OriginalUri(uri): OriginalUri, headers: HeaderMap, sent: Bytes| {
            let sent = String::from_utf8(sent.to_vec()).unwrap();
            log.lock().unwrap().push(Seen { method, path: uri.to_string(), headers, body: sent });
            let body = body.clone();
            async move { Response::builder().status(status).body(axum::body::Body::from(body)).unwrap() }
        },
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    Server { client: client(&url), seen }
}

fn client(base_url: &str) -> Kuaidi100 {
    Kuaidi100::new(Config {
        base_url: base_url.to_owned(),
        customer: CUSTOMER.to_owned(),
        key: Secret::new(KEY),
        timeout: Duration::from_secs(2),
    })
    .unwrap()
}

fn trace() -> Value {
    json!({
        "message": "ok", "nu": NUMBER, "ischeck": "0", "com": "yuantong", "status": "200", "state": "1002",
        "condition": "00", "isLoop": false,
        "routeInfo": { "from": { "number": "CN330000000000", "name": "浙江" }, "cur": null, "to": { "number": null, "name": "广东,深圳市" } },
        "data": [
            { "time": "2026-11-20 08:00:00", "ftime": "2026-11-20 08:00:00", "context": "已揽收，快递员 13900000001", "location": "", "status": "揽收", "statusCode": "103", "areaCode": "CN330100000000", "areaName": "浙江,杭州市", "areaCenter": null, "areaPinYin": null },
            { "time": "2026-11-21 09:30:05", "ftime": "2026-11-21 09:30:05", "context": "离开杭州", "location": null, "statusCode": 1002 },
            { "time": "soon", "ftime": null, "context": "no time" },
        ],
    })
}

#[test]
fn the_check_values_are_reproduced() {
    let param = query_param(&query()).unwrap();
    assert_eq!(
        param,
        r#"{"com":"yuantong","num":"YT0000000000001","phone":"","from":"","to":"","resultv2":"4","show":"0","order":"desc"}"#
    );
    assert_eq!(sign(&param, &Secret::new(KEY), CUSTOMER), "CDC126B2378325A9020BD83ABB360E64");
    let pushed = r#"{"status":"polling","message":"","lastResult":{"state":"0"}}"#;
    assert_eq!(push::sign(pushed, &Secret::new("salt-1")), "3A0A3938C961078297D9CB11C56D41BE");
}

#[tokio::test]
async fn a_query_signs_the_text_it_sends_and_reads_the_trace() {
    let server = server(200, trace().to_string()).await;
    let asked = Query { from: Some("浙江省 杭州市&x=1"), ..query() };
    let trace = server.client.query(&asked).await.unwrap();

    let seen = server.seen.lock().unwrap().remove(0);
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/sim/kuaidi100/poll/query.do"));
    assert_eq!(seen.headers["content-type"], "application/x-www-form-urlencoded; charset=utf-8");
    assert_eq!(seen.body.matches('&').count(), 2);
    let param = seen.field("param");
    assert_eq!(param, query_param(&asked).unwrap());
    assert_eq!(seen.field("sign"), sign(&param, &Secret::new(KEY), CUSTOMER));
    assert_eq!(seen.field("customer"), CUSTOMER);

    assert_eq!(trace.status, ParcelStatus { state: ParcelState::InTransit, code: "1002".to_owned() });
    assert_eq!(trace.status.name(), Some("干线"));
    assert_eq!((trace.number.as_deref(), trace.checked, trace.n_unreadable), (Some(NUMBER), false, 1));
    let times: Vec<_> = trace.nodes.iter().map(|node| node.at).collect();
    assert_eq!(times, [at("2026-11-21T01:30:05Z"), at("2026-11-20T00:00:00Z")], "newest first, eight hours earlier");
    assert_eq!(trace.updated_at(), Some(at("2026-11-21T01:30:05Z")));
    assert_eq!(trace.nodes[0].status.as_ref().unwrap().code, "1002", "a number is read as text");
    assert_eq!(trace.nodes[1].area_name.as_deref(), Some("浙江,杭州市"));
    assert_eq!(trace.nodes[1].location, None);
    assert_eq!(trace.route.to.as_deref(), Some("广东,深圳市"));
    let shown = format!("{trace:?} {asked:?} {:?}", server.client);
    for secret in ["13900000001", KEY, CUSTOMER] {
        assert!(!shown.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn every_failure_has_its_class_in_every_shape() {
    let cases = [
        ("400", Class::Config),
        ("408", Class::AskPhone),
        ("500", Class::WaitHalfHour),
        ("201", Class::WaitHalfHour),
        ("501", Class::Retry),
        ("502", Class::Retry),
        ("503", Class::Alarm),
        ("600", Class::Alarm),
        ("601", Class::Alarm),
        ("999", Class::WaitHalfHour),
    ];
    for (code, class) in cases {
        let number: i64 = code.parse().unwrap();
        let shapes = [
            json!({ "result": false, "returnCode": code, "message": "no" }),
            json!({ "result": "false", "returnCode": number }),
            json!({ "status": code, "message": "no", "data": [] }),
            json!({ "status": number, "message": null, "data": null }),
            // A code of a failure wins over whatever else is there.
            json!({ "returnCode": code, "status": "200", "data": trace()["data"] }),
        ];
        for shape in shapes {
            let error = server(200, shape.to_string()).await.client.query(&query()).await.unwrap_err();
            assert_eq!(error.class(), class, "{shape}: {error}");
        }
    }
    let empty = json!({ "message": "ok", "status": "200", "state": "0", "data": [] });
    let error = server(200, empty.to_string()).await.client.query(&query()).await.unwrap_err();
    assert!(matches!(error, Kuaidi100Error::NoTrace(_)), "{error}");
}

#[tokio::test]
async fn a_400_names_its_sentence_and_no_text_of_theirs_is_kept() {
    let body = json!({ "result": false, "returnCode": "400", "message": "找不到对应公司 YT0000000000001 13900000001" });
    let error = server(200, body.to_string()).await.client.query(&query()).await.unwrap_err();
    assert_eq!(error.to_string(), "Kuaidi100 refuses the request (400, 找不到对应公司)");
    assert!(!format!("{error:?}").contains("13900000001"));
    let body = json!({ "returnCode": "5 00<script>", "message": "x" });
    let error = server(200, body.to_string()).await.client.query(&query()).await.unwrap_err();
    assert_eq!(error.to_string(), "Kuaidi100 answered with an unknown code (500script)");
}

#[tokio::test]
async fn what_is_no_answer_is_no_trace() {
    for body in ["", "<html>", "[]", "{}", r#"{"data":[{}]}"#, r#"{"data":"x","status":"200"}"#] {
        let error = server(200, body).await.client.query(&query()).await.unwrap_err();
        assert!(matches!(error, Kuaidi100Error::Malformed(_)), "{body}: {error}");
    }
    let mut other = trace();
    other["nu"] = json!("YT0000000000002");
    let error = server(200, other.to_string()).await.client.query(&query()).await.unwrap_err();
    assert_eq!(error.to_string(), "unexpected answer from Kuaidi100: the answer is about another parcel");

    for (status, class) in [(500, Class::Retry), (503, Class::Retry), (429, Class::Retry), (404, Class::Alarm)] {
        let error = server(status, trace().to_string()).await.client.query(&query()).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
    }
    let error = client("http://127.0.0.1:9").query(&query()).await.unwrap_err();
    assert!(matches!(&error, Kuaidi100Error::Transport(e) if e.kind == TransportKind::Connect));
    assert_eq!(error.class(), Class::Retry);
}

#[test]
fn phone_numbers_go_only_where_they_are_asked_for() {
    let sent = |company, phone| {
        query_param(&Query { company, phone, ..query() })
            .map(|param| serde_json::from_str::<Value>(&param).unwrap()["phone"].as_str().unwrap().to_owned())
    };
    assert_eq!(sent("yuantong", Some("13800138000")).unwrap(), "");
    for (company, phone, expected) in [
        ("shunfeng", "13800138000", "13800138000"),
        ("shunfeng", " +86 138 0013 8000", "13800138000"),
        ("shunfeng", "8000", "8000"),
        ("shunfengkuaiyun", "8000", "8000"),
        ("zhongtong", "13800138000", "13800138000"),
        ("zhongtong", "13800138000-1234", "1234"),
        ("shunfeng", "0755-12345678-123", "0755-12345678"),
        ("zhongtong", "010-1234567", "010-1234567"),
        ("zhongtong", "075512345678", "075512345678"),
    ] {
        assert_eq!(sent(company, Some(phone)).unwrap(), expected, "{company} {phone}");
    }
    for (company, phone) in [
        ("shunfeng", None),
        ("shunfengkuaiyun", Some("")),
        ("zhongtong", None),
        ("zhongtong", Some("8000")),
        ("zhongtong", Some("13800138000-12345")),
        ("shunfeng", Some("1380013800")),
        ("shunfeng", Some("1380013800a")),
        ("shunfeng", Some("-")),
    ] {
        let error = sent(company, phone).unwrap_err();
        assert_eq!(error.class(), Class::AskPhone, "{company} {phone:?}");
        let Failure::Refused(refusal) = Failure::from(error) else { panic!("{company} {phone:?}") };
        assert_eq!((refusal.code, &refusal.details["field"]), (Code::InvalidArgument, &json!("phone")));
    }
}

#[test]
fn what_can_never_work_is_not_sent() {
    let wrong = [
        Query { company: "", ..query() },
        Query { company: "YuanTong", ..query() },
        Query { number: "12345", ..query() },
        Query { number: "123456789012345678901234567890123", ..query() },
        Query { number: "中文单号一二三", ..query() },
        Query { form: ResultForm::Arrival, ..query() },
    ];
    for query in wrong {
        assert!(matches!(query_param(&query), Err(Kuaidi100Error::Misuse(_))), "{query:?}");
    }
    assert!(query_param(&Query { form: ResultForm::Arrival, to: Some("广东省深圳市南山区"), ..query() }).is_ok());
    for (base_url, customer, key) in [
        ("ftp://x", CUSTOMER, KEY),
        ("https://x?y=1", CUSTOMER, KEY),
        ("https://u@x", CUSTOMER, KEY),
        ("https://x", "", KEY),
        ("https://x", CUSTOMER, " "),
    ] {
        let config = Config {
            base_url: base_url.to_owned(),
            customer: customer.to_owned(),
            key: Secret::new(key),
            timeout: Duration::from_secs(1),
        };
        assert!(matches!(Kuaidi100::new(config), Err(Kuaidi100Error::Misuse(_))), "{base_url}");
    }
}

fn subscription(salt: &Secret) -> Subscription<'_> {
    Subscription {
        company: "shunfeng",
        number: "SF1234567890",
        phone: Some("8000"),
        from: None,
        to: None,
        callback_url: CALLBACK,
        salt,
        form: ResultForm::Advanced,
    }
}

#[tokio::test]
async fn a_subscription_carries_key_callback_and_salt() {
    let server = server(200, json!({ "result": true, "returnCode": "200", "message": "提交成功" }).to_string()).await;
    let salt = Secret::new(SALT);
    assert_eq!(server.client.subscribe(&subscription(&salt)).await.unwrap(), Subscribed::New);
    let seen = server.seen.lock().unwrap().remove(0);
    assert_eq!(seen.path, "/sim/kuaidi100/poll");
    assert_eq!(seen.field("schema"), "json");
    assert_eq!(
        serde_json::from_str::<Value>(&seen.field("param")).unwrap(),
        json!({
            "company": "shunfeng", "number": "SF1234567890", "from": "", "to": "", "key": KEY,
            "parameters": { "callbackurl": CALLBACK, "salt": SALT, "resultv2": "4", "phone": "8000" },
        })
    );
    assert!(!format!("{:?}", subscription(&salt)).contains(SALT));
}

#[tokio::test]
async fn codes_of_a_subscription_mean_other_things_than_those_of_a_query() {
    let salt = Secret::new(SALT);
    let answer = |code: &str| json!({ "result": false, "returnCode": code, "message": "x" }).to_string();
    let again = server(200, answer("501")).await.client.subscribe(&subscription(&salt)).await.unwrap();
    assert_eq!(again, Subscribed::Already);
    for (code, class) in [
        ("700", Class::Config),
        ("701", Class::Config),
        ("702", Class::Config),
        ("600", Class::Alarm),
        ("601", Class::Alarm),
        ("500", Class::Retry),
        ("200", Class::WaitHalfHour),
        ("777", Class::WaitHalfHour),
    ] {
        let error = server(200, answer(code)).await.client.subscribe(&subscription(&salt)).await.unwrap_err();
        assert_eq!(error.class(), class, "{code}: {error}");
    }
    for body in ["", "{}", r#"{"result":true}"#] {
        let error = server(200, body).await.client.subscribe(&subscription(&salt)).await.unwrap_err();
        assert!(matches!(error, Kuaidi100Error::Malformed(_)), "{body}");
    }
    let client = client("http://127.0.0.1:9");
    for salt in ["", "short", "0123456789abcdef0123456789abcdef0", "0123456789abcde&"] {
        let salt = Secret::new(salt);
        let error = client.subscribe(&subscription(&salt)).await.unwrap_err();
        assert!(matches!(error, Kuaidi100Error::Misuse(_)), "{error}");
    }
    let relative = Subscription { callback_url: "/callback", ..subscription(&salt) };
    assert!(matches!(client.subscribe(&relative).await, Err(Kuaidi100Error::Misuse(_))));
}

fn form(param: &str, sign: &str) -> Vec<u8> {
    let encoded = percent_encoding::utf8_percent_encode(param, percent_encoding::NON_ALPHANUMERIC).to_string();
    format!("sign={sign}&param={}", encoded.replace("%20", "+")).into_bytes()
}

#[test]
fn pushes_of_both_forms_are_proven_and_read() {
    let salt = Secret::new(SALT);
    for (state, expected) in [("3", ParcelState::Signed), ("304", ParcelState::Signed), ("4", ParcelState::Returned)] {
        let mut last = trace();
        last["state"] = json!(state);
        let param = json!({ "status": "shutdown", "billstatus": "check", "message": "", "autoCheck": "0", "comOld": "", "comNew": "", "lastResult": last }).to_string();
        let push = push::verify_form(&form(&param, &push::sign(&param, &salt)), &salt).unwrap();
        assert_eq!(push.status, PushStatus::Shutdown);
        assert!(push.status.ends());
        assert_eq!(push.correction, None);
        let trace = push.trace.unwrap();
        assert_eq!((trace.status.state, trace.status.code.as_str()), (expected, state));
        assert_eq!(trace.nodes.len(), 2);
        // Decoded by somebody else, and with the signature in lower case.
        let lower = push::sign(&param, &salt).to_lowercase();
        assert_eq!(push::verify(&param, Some(&lower), &salt).unwrap().param_sha256, push.param_sha256);
    }
    let moved = r#"{"status":"abort","comOld":"yuantong","comNew":"ems","lastResult":{"state":"0","data":[]}}"#;
    let push = push::verify(moved, Some(&push::sign(moved, &salt)), &salt).unwrap();
    let correction = push.correction.unwrap();
    assert_eq!(
        (push.status, correction.from.as_deref(), correction.to.as_str()),
        (PushStatus::Abort, Some("yuantong"), "ems")
    );
}

#[test]
fn forged_pushes_are_refused() {
    let salt = Secret::new(SALT);
    let param = r#"{"status":"polling","lastResult":{"state":"3"}}"#;
    let good = push::sign(param, &salt);
    assert!(push::verify(param, Some(&good), &salt).is_ok());
    for (param, sign, salt, error) in [
        (param.replace('3', "1").as_str(), Some(good.as_str()), SALT, PushError::Signature),
        (param, Some(good.as_str()), "0123456789abcdeg", PushError::Signature),
        (param, good.get(1..), SALT, PushError::Signature),
        (param, Some("x"), SALT, PushError::Signature),
        (param, Some(""), SALT, PushError::Unsigned),
        (param, None, SALT, PushError::Unsigned),
    ] {
        assert_eq!(push::verify(param, sign, &Secret::new(salt)), Err(error));
    }
    // Without a salt everybody can sign.
    let unsalted = Secret::new("");
    assert_eq!(push::verify(param, Some(&push::sign(param, &unsalted)), &unsalted), Err(PushError::Unsigned));

    let form_of = |text: &str| push::verify_form(text.as_bytes(), &salt);
    assert_eq!(form_of(""), Err(PushError::Form));
    assert_eq!(form_of("sign=ABC"), Err(PushError::Form));
    assert_eq!(form_of("param=%7B%7D"), Err(PushError::Unsigned));
    assert_eq!(form_of("param=%FF&sign=1"), Err(PushError::Form));
    assert_eq!(form_of("param=a&param=b&sign=1"), Err(PushError::Form));
    assert_eq!(form_of(r#"{"param":"x"}"#), Err(PushError::Form));
    for odd in ["[]", "null", "{}", r#"{"status":"polling","lastResult":7}"#, "not json"] {
        assert_eq!(push::verify(odd, Some(&push::sign(odd, &salt)), &salt), Err(PushError::Malformed), "{odd}");
    }
}

#[test]
fn every_code_is_in_the_table_once() {
    for (index, (code, state, name)) in CODES.iter().enumerate() {
        assert!(CODES.iter().skip(index + 1).all(|(other, ..)| other != code), "{code}");
        let status = ParcelStatus::of(code);
        assert_eq!((status.state, status.name()), (*state, Some(*name)));
    }
    let signed: Vec<&str> = CODES.iter().filter(|(_, state, _)| state.is_signed()).map(|(code, ..)| *code).collect();
    assert_eq!(signed, ["3", "301", "302", "303", "304"]);
    let returns: Vec<&str> = CODES.iter().filter(|(_, state, _)| state.is_return()).map(|(code, ..)| *code).collect();
    assert_eq!(returns, ["4", "6", "14", "401"]);
    for code in ["", "9", "305", "3 04", "签收"] {
        let status = ParcelStatus::of(code);
        assert_eq!((status.state, status.code.as_str(), status.name()), (ParcelState::Unknown, code, None));
    }
    assert_eq!(serde_json::to_value(ParcelState::AtPickupPoint).unwrap(), "atPickupPoint");
}

#[test]
fn nothing_leads_back_from_a_receipt() {
    let (early, late) = (Some(at("2026-11-20T00:00:00Z")), Some(at("2026-11-21T00:00:00Z")));
    for (known, new, expected) in [
        (None, (ParcelState::Collected, early), true),
        (None, (ParcelState::Unknown, late), false),
        (Some((ParcelState::Collected, early)), (ParcelState::InTransit, late), true),
        (Some((ParcelState::InTransit, late)), (ParcelState::Collected, early), false),
        (Some((ParcelState::InTransit, late)), (ParcelState::Delivering, late), true),
        (Some((ParcelState::Delivering, late)), (ParcelState::Unknown, late), false),
        (Some((ParcelState::Signed, early)), (ParcelState::InTransit, late), false),
        (Some((ParcelState::Signed, early)), (ParcelState::Returned, late), false),
        (Some((ParcelState::Returning, early)), (ParcelState::Returned, late), true),
        (Some((ParcelState::InTransit, late)), (ParcelState::Problem, None), false),
        (Some((ParcelState::Ordered, None)), (ParcelState::Collected, None), true),
    ] {
        assert_eq!(advances(known, new), expected, "{known:?} {new:?}");
    }
}

#[test]
fn times_are_beijings() {
    assert_eq!(beijing_time("2026-01-01 00:00:00"), Some(at("2025-12-31T16:00:00Z")));
    assert_eq!(beijing_time(" 2026-01-01 00:00:00 "), Some(at("2025-12-31T16:00:00Z")));
    for text in [
        "",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-13-01 00:00:00",
        "2026-01-01 24:00:00",
        "2026-01-01 00:00:00+08:00",
    ] {
        assert_eq!(beijing_time(text), None, "{text}");
    }
}

#[test]
fn companies_have_one_name_in_each_list() {
    for (index, company) in COMPANIES.iter().enumerate() {
        for other in COMPANIES.iter().skip(index + 1) {
            assert!(company.code != other.code && company.kuaidi100 != other.kuaidi100 && company.name != other.name);
            assert!(company.wechat.is_none() || company.wechat != other.wechat);
        }
        assert_eq!(Company::by_code(company.code), Some(company));
        assert_eq!(Company::by_kuaidi100(company.kuaidi100), Some(company));
    }
    assert_eq!(Company::by_wechat("SF").unwrap().kuaidi100, "shunfeng");
    assert_eq!(Company::by_code("DB").unwrap().kuaidi100, "debangkuaidi");
    assert_eq!(Company::by_wechat(""), None);
    let phone: Vec<&str> =
        COMPANIES.iter().filter(|company| company.needs_phone()).map(|company| company.code).collect();
    assert_eq!(phone, ["SF", "SF_FREIGHT", "ZTO"]);
}

#[test]
fn a_number_is_asked_about_every_half_hour_and_48_times_a_day() {
    let now = at("2026-11-21T00:00:00Z");
    let ago = |minutes: i64| now - TimeDelta::minutes(minutes);
    assert_eq!(may_query(&[], now), Ok(()));
    assert_eq!(may_query(&[ago(29), ago(500)], now), Err(now + TimeDelta::minutes(1)));
    assert_eq!(may_query(&[ago(500), ago(30)], now), Ok(()));
    // A clock that went back does not free the number.
    assert_eq!(may_query(&[now + TimeDelta::minutes(5)], now), Err(now + TimeDelta::minutes(35)));
    // 48 that somebody else asked closer together.
    let many: Vec<_> = (0..48).map(|n| ago(31 + n)).collect();
    assert_eq!(may_query(&many, now), Err(ago(78) + TimeDelta::hours(24)));
    assert_eq!(may_query(&many[..47], now), Ok(()));

    let subscribed = [ago(60 * 24 * 30), ago(60 * 24 * 20), ago(60 * 24 * 10), ago(31)];
    assert_eq!(may_subscribe(&subscribed, None, now), Err(now + TimeDelta::days(1)));
    assert_eq!(may_subscribe(&subscribed[1..], None, now), Ok(()));
    assert_eq!(may_subscribe(&[], Some(ago(10)), now), Err(now + TimeDelta::minutes(20)));
    assert_eq!(may_subscribe(&[], Some(ago(30)), now), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever asks whenever it is allowed never breaks a rule, however the tries fall.
    #[test]
    fn the_lock_is_never_met(steps in proptest::collection::vec(1_i64..3_000, 200..400)) {
        let mut now = at("2026-11-21T00:00:00Z");
        let mut asked: Vec<DateTime<Utc>> = Vec::new();
        for step in steps {
            now += TimeDelta::seconds(step);
            match may_query(&asked, now) {
                Ok(()) => {
                    let in_a_day = asked.iter().filter(|at| now - **at < TimeDelta::hours(24)).count();
                    prop_assert!(in_a_day < 48);
                    prop_assert!(asked.last().is_none_or(|last| now - *last >= TimeDelta::minutes(30)));
                    asked.push(now);
                }
                Err(at) => {
                    prop_assert!(at > now);
                    prop_assert_eq!(may_query(&asked, at), Ok(()));
                }
            }
        }
    }

    /// No bytes make the reader of pushes panic or believe.
    #[test]
    fn noise_is_never_a_push(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(push::verify_form(&body, &Secret::new(SALT)).is_err());
    }
}
