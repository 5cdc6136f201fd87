//! What fits into a template, what a template must look like, and what an answer to a send means.

use std::collections::BTreeMap;

use serde_json::json;

use super::open::{TOKEN_PATH, client, text_plain, token_answer};
use super::*;
use crate::open::Error;
use crate::subscribe::{NAMES, OnUnknown, SendClass, Sent, Template, fit, problems};

#[test]
fn values_fit_their_keys() {
    let twenty = "字".repeat(20);
    let cases: &[(&str, &str, &str)] = &[
        ("thing12", &"字".repeat(30), &twenty),
        ("thing1", "王 小明", "王 小明"),
        ("thing1", " 第一行\r\n\t第二行 ", "第一行 第二行"),
        ("thing1", "a\u{0}\u{7}b\u{2028}c", "ab c"),
        ("thing1", " \n\u{200B}\u{FEFF}\u{202E}", "无"),
        ("thing1", "\u{200D}\u{FE0F}", "无"),
        // An emoji of 11 units comes whole or not at all, and so does an accent.
        ("thing1", "👨‍👩‍👧‍👦👨‍👩‍👧‍👦好", "👨‍👩‍👧‍👦"),
        ("thing1", "0123456789012345678😀", "0123456789012345678"),
        ("thing1", "012345678901234567😀", "012345678901234567😀"),
        ("thing1", "0123456789012345678e\u{301}", "0123456789012345678"),
        ("thing1", "🇨🇳🇨🇳🇨🇳🇨🇳🇨🇳🇨🇳", "🇨🇳🇨🇳🇨🇳🇨🇳🇨🇳"),
        ("thing1", &format!("a{}b", "\u{301}".repeat(40)), "b"),
        ("what1", &"字".repeat(30), &twenty),
        ("number1", "1,234.50元", "1234.50"),
        ("number1", "１２", "12"),
        ("number1", ".5", "0.5"),
        ("number1", "5.", "5"),
        ("number1", "1.2.3", "1.23"),
        ("number1", "无", "0"),
        ("number1", &"7".repeat(40), &"7".repeat(32)),
        ("letter1", "A-b 3c", "Abc"),
        ("letter1", "字", "NA"),
        ("symbol1", "a!b？1", "!?"),
        ("symbol1", "字😀", "-"),
        ("character_string1", "订单 20261121-AB", "20261121-AB"),
        ("character_string1", "ＡＢ１２", "AB12"),
        ("character_string1", &"x".repeat(40), &"x".repeat(32)),
        ("character_string1", "订单", "-"),
        ("time1", "15:01", "15:01"),
        ("time1", "2019年10月1日 15:01:30", "2019年10月1日 15:01"),
        ("time1", "2026-11-21T16:56:17.000Z", "2026年11月22日 00:56"),
        ("time1", "2026/1/2 8:05", "2026年1月2日 08:05"),
        ("time1", "2026年1月2日", "2026年1月2日 00:00"),
        ("time1", "15:01～16:00", "15:01~16:00"),
        ("time1", "25:01", "00:00"),
        ("time1", "随时", "00:00"),
        ("date1", "2018-01-01", "2018年1月1日"),
        ("date1", "2018-01-01 10:30 ~ 2018-01-02", "2018年1月1日 10:30~2018年1月2日"),
        ("date1", "2026年2月30日", "1970年1月1日"),
        ("date1", "15:01", "1970年1月1日"),
        ("date1", "0001-01-01", "1970年1月1日"),
        ("amount1", "¥1,234.50元", "¥1234.50元"),
        ("amount1", "50.5", "50.5"),
        ("amount1", "$0.05", "$0.05"),
        ("amount1", "007", "7"),
        ("amount1", "", "0元"),
        ("amount1", "12345678901.99元", "9999999999元"),
        ("amount1", "123456789.99", "123456789.9"),
        ("phone_number1", "+86 139-0000-0001", "+86139-0000-0001"),
        ("phone_number1", "139****0001", "139----0001"),
        ("phone_number1", "(0086)-(0571)-8888-8888", "0086057188888888"),
        ("phone_number1", "无", "0"),
        ("car_number1", "粤A8Z888挂", "粤A8Z888挂"),
        ("car_number1", "粤A·8Z888", "粤A8Z888"),
        ("car_number1", "😀", "无"),
        ("name1", "李小明😀2号", "李小明号"),
        ("name1", "阿卜杜拉·买买提", "阿卜杜拉买买提"),
        ("name1", "一二三四五六七八九十一", "一二三四五六七八九十"),
        ("name1", "John Fitzgerald Kennedy Jr", "JohnFitzgeraldKenned"),
        ("name1", "12345", "无"),
        ("phrase2", "候补中签", "候补中签"),
        ("phrase2", "一二三四五六", "一二三四五"),
        ("phrase2", "OK", "无"),
        ("enum1", " 已 完成 ", "已 完成"),
        ("const1", "", "无"),
    ];
    for (key, value, wanted) in cases {
        assert_eq!(fit(key, value), *wanted, "{key} {value:?}");
    }
}

#[test]
fn what_fits_is_left_alone() {
    let cases = [
        ("thing1", "九点抢签 No.1"),
        ("number1", "12.50"),
        ("character_string1", "20261121-AB"),
        ("amount1", "￥12.34元"),
        ("phone_number1", "+86-0766-66888866"),
        ("name1", "李小明"),
    ];
    for (key, value) in cases {
        assert_eq!(fit(key, value), value);
        assert_eq!(fit(key, &fit(key, value)), value);
    }
}

fn template(json: Value) -> Template {
    serde_json::from_value(json).unwrap()
}

#[test]
fn a_template_has_defaults_and_only_known_settings() {
    let given =
        template(json!({ "name": "assignment", "templateId": "AbC-_1", "fields": { "thing1": "customerName" } }));
    assert_eq!((given.page, given.long_term, given.on_unknown), (None, false, OnUnknown::Stop));
    let given = template(json!({
        "name": "assignment", "templateId": "t", "fields": {}, "page": "p", "longTerm": true, "onUnknown": "resend"
    }));
    assert_eq!((given.page.as_deref(), given.long_term, given.on_unknown), (Some("p"), true, OnUnknown::Resend));
    for wrong in [json!({ "onUnknown": "never" }), json!({ "longterm": true }), json!({ "longTerm": 1 })] {
        let mut whole = json!({ "name": "assignment", "templateId": "t", "fields": {} });
        whole.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert!(serde_json::from_value::<Template>(whole).is_err(), "{wrong}");
    }
}

#[test]
fn mistakes_in_templates_are_named() {
    let good = |name: &str| {
        template(
            json!({ "name": name, "templateId": "local-order-paid", "fields": { "thing1": "productName" }, "page": "pages/a?b=1" }),
        )
    };
    let all: Vec<Template> = NAMES.map(good).into();
    assert_eq!(problems(&all, &NAMES), Vec::<String>::new());
    assert!(
        problems(&[good("orderPaid"), good("orderPaid")], &NAMES)[0].contains("\"orderPaid\": the name is there twice")
    );
    let fields = |fields: Value| template(json!({ "name": "orderPaid", "templateId": "t", "fields": fields }));
    let six: BTreeMap<String, String> = (1..=6).map(|n| (format!("thing{n}"), "a".to_owned())).collect();
    for (wrong, part) in [
        (good("orderpaid"), "template \"orderpaid\": the name is unknown; it must be one of assignment, orderPaid"),
        (Template { template_id: String::new(), ..good("orderPaid") }, "template \"orderPaid\": templateId"),
        (Template { template_id: "a b".to_owned(), ..good("orderPaid") }, "templateId"),
        (Template { template_id: "a".repeat(65), ..good("orderPaid") }, "templateId"),
        (Template { page: Some(String::new()), ..good("orderPaid") }, "page"),
        (Template { page: Some("a b".to_owned()), ..good("orderPaid") }, "page"),
        (fields(json!({})), "1 to 5 keys"),
        (fields(json!(six)), "1 to 5 keys"),
        (fields(json!({ "thing": "a" })), "field \"thing\" must be a type of the portal and a number"),
        (fields(json!({ "thing0x": "a" })), "field \"thing0x\""),
        (fields(json!({ "things1": "a" })), "field \"things1\""),
        (fields(json!({ "thing1": "" })), "field \"thing1\" must name a value"),
        (fields(json!({ "thing1": "product name" })), "field \"thing1\" must name a value"),
    ] {
        let found = problems(&[wrong], &NAMES);
        assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
    }
}

#[tokio::test]
async fn every_answer_to_a_send_has_its_class() {
    let minute = SendClass::Pause(Duration::from_secs(60));
    let hour = SendClass::Pause(Duration::from_secs(3600));
    let operator = SendClass::Operator;
    for (errcode, wanted) in [
        (43101, SendClass::NotSubscribed),
        (43108, SendClass::Concurrent),
        (-1, SendClass::Retry),
        (45011, minute),
        (45009, hour),
        (47003, operator("VALUES_REFUSED")),
        (40003, operator("OPENID_INVALID")),
        (40037, operator("TEMPLATE_INVALID")),
        (43107, operator("MESSAGES_BANNED")),
        (45168, operator("SENSITIVE_WORD")),
        (40001, SendClass::NotSent),
        (40014, SendClass::NotSent),
        (42001, SendClass::NotSent),
        (40013, operator("WECHAT_CONFIG")),
        (40125, operator("WECHAT_CONFIG")),
        (40164, operator("WECHAT_CONFIG")),
        (40243, operator("WECHAT_CONFIG")),
        (50007, operator("WECHAT_CONFIG")),
        (41002, operator("WECHAT_CONFIG")),
        (41004, operator("WECHAT_CONFIG")),
        (40002, operator("WECHAT_CONFIG")),
        (43002, operator("WECHAT_CONFIG")),
        (89503, operator("WECHAT_CONFIG")),
        (89506, operator("WECHAT_CONFIG")),
        (89507, operator("WECHAT_CONFIG")),
        // Not in the table of this call.
        (20001, operator("REFUSED_BY_WECHAT")),
        (20002, operator("REFUSED_BY_WECHAT")),
        (40029, operator("REFUSED_BY_WECHAT")),
        (40226, operator("REFUSED_BY_WECHAT")),
        (99999, operator("REFUSED_BY_WECHAT")),
    ] {
        let server = Server::start(move |seen, _| match seen.target.as_str() {
            TOKEN_PATH => token_answer("T1"),
            _ => text_plain(json!({ "errcode": errcode, "errmsg": "to o-secret rid: 6-7-8" })),
        })
        .await;
        let error = send(&server).await.unwrap_err();
        assert_eq!(error.send_class(), wanted, "{errcode}");
        assert_eq!((error.errcode(), error.rid()), (Some(errcode), Some("6-7-8")), "{errcode}");
        assert!(!printed(&error).contains("o-secret"));
    }
}

#[tokio::test]
async fn what_is_no_answer_has_its_class() {
    let refused = SendClass::Operator("REFUSED_BY_WECHAT");
    for (answer, wanted) in [
        (Answer::new(500, ""), SendClass::Unknown),
        (Answer::new(502, "bad gateway"), SendClass::Unknown),
        (Answer::new(408, ""), SendClass::Unknown),
        (Answer::new(302, ""), SendClass::Unknown),
        (Answer::new(429, ""), SendClass::Retry),
        (Answer::new(413, ""), refused),
        (Answer::new(200, "<html>"), SendClass::Unknown),
        (Answer::new(200, r#"{"errcode":"none"}"#), SendClass::Unknown),
        (Answer::new(200, "{}").after(Duration::from_secs(30)), SendClass::Unknown),
    ] {
        let server = Server::start(move |seen, _| match seen.target.as_str() {
            TOKEN_PATH => token_answer("T1"),
            _ => answer.clone(),
        })
        .await;
        let error = send(&server).await.unwrap_err();
        assert_eq!(error.send_class(), wanted, "{error:?}");
        assert_eq!(error.rid(), None);
    }
    let unreachable = client(&closed_port().await, &Clock::new()).access_token().await.unwrap_err();
    assert_eq!(unreachable.send_class(), SendClass::NotSent);
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    for (answer, wanted) in [
        (text_plain(json!({ "errcode": -1 })), SendClass::NotSent),
        (text_plain(json!({ "errcode": 40125 })), SendClass::Pause(Duration::from_secs(300))),
        (text_plain(json!({ "errcode": 45009 })), SendClass::Pause(Duration::from_secs(3600))),
        (text_plain(json!({ "errcode": 45011 })), SendClass::Pause(Duration::from_secs(60))),
        (Answer::new(500, ""), SendClass::NotSent),
        (Answer::new(200, "<html>"), SendClass::NotSent),
        (text_plain("{}").after(Duration::from_secs(30)), SendClass::NotSent),
    ] {
        let server = Server::start(move |_, _| answer.clone()).await;
        let error = send(&server).await.unwrap_err();
        assert!(matches!(error, Error::Token(_)), "{error:?}");
        assert_eq!(error.send_class(), wanted, "{error:?}");
        assert!(!error.outcome_unknown());
        assert_eq!(server.count(), server.count_of(TOKEN_PATH));
    }
}

#[tokio::test]
async fn a_message_that_was_accepted_may_have_a_number() {
    for (msgid, wanted) in
        [(json!(1_234_567_890_123_u64), Some("1234567890123")), (json!("77"), Some("77")), (Value::Null, None)]
    {
        let server = Server::start(move |seen, _| match seen.target.as_str() {
            TOKEN_PATH => token_answer("T1"),
            _ => text_plain(json!({ "errcode": 0, "errmsg": "ok", "msgid": msgid })),
        })
        .await;
        assert_eq!(send(&server).await.unwrap(), Sent { msgid: wanted.map(str::to_owned) });
        let body: Value = serde_json::from_str(&server.seen()[1].body).unwrap();
        let wanted = json!({
            "touser": "o-alice", "template_id": "t", "page": "pages/a", "data": { "thing1": { "value": "好" } },
            "miniprogram_state": "formal", "lang": "zh_CN",
        });
        assert_eq!(body, wanted);
    }
}

async fn send(server: &Server) -> Result<Sent, Error> {
    let client = crate::open::Client::new(crate::open::Config {
        timeout: Duration::from_millis(300),
        ..super::open::config(&server.url, &Clock::new())
    });
    let data = BTreeMap::from([("thing1".to_owned(), "好".to_owned())]);
    client.unwrap().send_subscribe_message("o-alice", "t", &data, Some("pages/a")).await
}
