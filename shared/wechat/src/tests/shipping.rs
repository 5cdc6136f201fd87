//! Reports of shipping: what is sent, what is refused before it is, and what the answers mean.

use serde_json::json;

use super::open::{TOKEN_PATH, client, text_plain, token_answer};
use super::*;
use crate::Personal;
use crate::open::Error;
use crate::shipping::{
    Logistics, OrderKey, OrderState, Parcel, ShippingClass, ShippingOrder, ShippingReport, item_desc,
};

fn express(company: &str) -> ShippingReport {
    ShippingReport {
        order_key: OrderKey::Transaction("4200001".to_owned()),
        logistics: Logistics::Express,
        parcel: Parcel {
            tracking_no: Some("YT1".to_owned()),
            express_company: Some(company.to_owned()),
            item_desc: "苹果 5 斤".to_owned(),
            receiver_phone: Some("+86 13900001234".to_owned()),
        },
        upload_time: DateTime::from_timestamp_millis(1_717_200_000_045).unwrap(),
        openid: Personal::new("o-alice"),
    }
}

fn pickup() -> ShippingReport {
    ShippingReport {
        order_key: OrderKey::Merchant { mchid: "1900000001".to_owned(), out_trade_no: "A1".to_owned() },
        logistics: Logistics::Pickup,
        parcel: Parcel { item_desc: "茶".to_owned(), ..Parcel::default() },
        ..express("")
    }
}

async fn answering(answer: Answer) -> Server {
    Server::start(move |seen, _| match seen.target.as_str() {
        TOKEN_PATH => token_answer("T1"),
        _ => answer.clone(),
    })
    .await
}

async fn sent(report: &ShippingReport) -> Value {
    let server = answering(text_plain(json!({ "errcode": 0 }))).await;
    client(&server.url, &Clock::new()).upload_shipping_info(report).await.unwrap();
    assert_eq!(server.seen()[1].target, "/wxa/sec/order/upload_shipping_info?access_token=T1");
    serde_json::from_str(&server.seen()[1].body).unwrap()
}

#[tokio::test]
async fn a_report_is_sent_as_documented() {
    let wanted = json!({
        "order_key": { "order_number_type": 2, "transaction_id": "4200001" },
        "logistics_type": 1,
        "delivery_mode": 1,
        "shipping_list": [{ "tracking_no": "YT1", "express_company": "YTO", "item_desc": "苹果 5 斤" }],
        "upload_time": "2024-06-01T08:00:00.045+08:00",
        "payer": { "openid": "o-alice" },
    });
    assert_eq!(sent(&express("YTO")).await, wanted);
    let sf = sent(&express("SF")).await;
    assert_eq!(sf["shipping_list"][0]["contact"], json!({ "receiver_contact": "139****1234" }));
    let wanted = json!({
        "order_key": { "order_number_type": 1, "mchid": "1900000001", "out_trade_no": "A1" },
        "logistics_type": 4,
        "delivery_mode": 1,
        "shipping_list": [{ "item_desc": "茶" }],
        "upload_time": "2024-06-01T08:00:00.045+08:00",
        "payer": { "openid": "o-alice" },
    });
    assert_eq!(sent(&pickup()).await, wanted);
    for (logistics, number) in [(Logistics::City, 2), (Logistics::Virtual, 3)] {
        assert_eq!(sent(&ShippingReport { logistics, ..pickup() }).await["logistics_type"], number);
    }
    let shown = format!("{:?}", express("SF"));
    assert!(!shown.contains("139") && !shown.contains("o-alice"), "{shown}");
}

#[tokio::test]
async fn a_field_that_cannot_pass_is_named_and_nothing_is_sent() {
    let change = |change: fn(&mut ShippingReport)| {
        let mut report = express("SF");
        change(&mut report);
        report
    };
    let client = client(&closed_port().await, &Clock::new());
    for (report, field) in [
        (change(|r| r.order_key = OrderKey::Transaction(String::new())), "order_key"),
        (
            change(|r| r.order_key = OrderKey::Merchant { mchid: String::new(), out_trade_no: "A".to_owned() }),
            "order_key",
        ),
        (change(|r| r.parcel.item_desc = " ".to_owned()), "item_desc"),
        (change(|r| r.parcel.item_desc = "果".repeat(121)), "item_desc"),
        (change(|r| r.parcel.item_desc = "a\nb".to_owned()), "item_desc"),
        (change(|r| r.parcel.tracking_no = None), "tracking_no"),
        (change(|r| r.parcel.tracking_no = Some("单号".to_owned())), "tracking_no"),
        (change(|r| r.parcel.tracking_no = Some("1".repeat(129))), "tracking_no"),
        (change(|r| r.parcel.express_company = Some(String::new())), "express_company"),
        (change(|r| r.parcel.express_company = None), "express_company"),
        (change(|r| r.parcel.receiver_phone = None), "phone"),
        (change(|r| r.parcel.receiver_phone = Some("123".to_owned())), "phone"),
        (change(|r| r.openid = Personal::new("")), "openid"),
        (change(|r| r.logistics = Logistics::City), "express only"),
    ] {
        let result = client.upload_shipping_info(&report).await;
        let Err(Error::Misuse(what)) = &result else { panic!("{field}: {result:?}") };
        assert!(what.contains(field), "{field}: {what}");
        assert_eq!(ShippingClass::of(&result), ShippingClass::FixData(0));
    }
    // Too short to hide anything but the beginning.
    let short = change(|r| r.parcel.receiver_phone = Some("66888866".to_owned()));
    assert_eq!(sent(&short).await["shipping_list"][0]["contact"]["receiver_contact"], "****8866");
}

#[test]
fn any_text_becomes_a_description() {
    assert_eq!(item_desc("苹果\n5 斤"), "苹果 5 斤");
    assert_eq!(item_desc(&"👨‍👩‍👧".repeat(20)).encode_utf16().count(), 120);
    assert_eq!(item_desc(&"果".repeat(200)), "果".repeat(120));
    assert_eq!(item_desc(" \u{200B}"), "商品");
}

#[tokio::test]
async fn every_answer_to_a_report_has_its_class() {
    use ShippingClass::{CheckOrder, Done, FixData, NotSent, NotYetKnown, Operator, Pause, RetryLater};
    let fix = |codes: &[i64]| codes.iter().map(|code| (*code, FixData(*code))).collect::<Vec<_>>();
    let mut cases = vec![
        (0, Done),
        (10_060_023, Done),
        (-1, RetryLater),
        (10_060_012, RetryLater),
        (10_060_019, RetryLater),
        (10_060_001, NotYetKnown),
        (10_060_002, CheckOrder),
        (10_060_003, CheckOrder),
        (10_060_004, CheckOrder),
        (40001, NotSent),
        (40014, NotSent),
        (42001, NotSent),
        (45011, Pause(Duration::from_secs(60))),
        (45009, Pause(Duration::from_secs(3600))),
        (40003, Operator("OPENID_INVALID")),
        (40013, Operator("WECHAT_CONFIG")),
        (48001, Operator("WECHAT_CONFIG")),
        (99999, Operator("REFUSED_BY_WECHAT")),
    ];
    cases.extend(fix(&[10_060_005, 10_060_006, 10_060_007, 10_060_008, 10_060_009, 10_060_014, 10_060_020]));
    cases.extend(fix(&[10_060_024, 10_060_025, 10_060_026, 10_060_031, 47_001]));
    cases.extend(fix(&[268_485_194, 268_485_195, 268_485_196, 268_485_197, 268_485_216, 268_485_224]));
    cases.extend(fix(&[268_485_226, 268_485_227, 268_485_228]));
    for (errcode, wanted) in cases {
        let server = answering(text_plain(json!({ "errcode": errcode, "errmsg": "x rid: 1" }))).await;
        let result = client(&server.url, &Clock::new()).upload_shipping_info(&pickup()).await;
        assert_eq!(ShippingClass::of(&result), wanted, "{errcode}");
    }
    for (answer, wanted) in [
        (Answer::new(502, ""), ShippingClass::Unknown),
        (Answer::new(200, "<html>"), ShippingClass::Unknown),
        (Answer::new(429, ""), RetryLater),
        (Answer::new(404, ""), Operator("REFUSED_BY_WECHAT")),
    ] {
        let server = answering(answer).await;
        let result = client(&server.url, &Clock::new()).upload_shipping_info(&pickup()).await;
        assert_eq!(ShippingClass::of(&result), wanted, "{result:?}");
    }
    let result = client(&closed_port().await, &Clock::new()).upload_shipping_info(&pickup()).await;
    assert_eq!(ShippingClass::of(&result), NotSent);
}

#[tokio::test]
async fn an_order_tells_whether_it_matches_a_report() {
    let order = |state: i64, shipping: Value| {
        json!({ "errcode": 0, "errmsg": "ok", "order": {
            "transaction_id": "4200001", "merchant_trade_no": "A1", "order_state": state, "shipping": shipping,
        } })
    };
    let shipped = |number: &str, company: &str| {
        json!({ "delivery_mode": 1, "logistics_type": 1, "finish_shipping": true, "finish_shipping_count": 1,
            "shipping_list": [{ "tracking_no": number, "express_company": company, "goods_desc": "苹果", "upload_time": 1 }] })
    };
    for (answer, state, matches) in [
        (order(1, Value::Null), OrderState::ToShip, false),
        (order(2, shipped("YT1", "YTO")), OrderState::Shipped, true),
        (order(2, shipped("YT2", "YTO")), OrderState::Shipped, false),
        (order(2, shipped("YT1", "STO")), OrderState::Shipped, false),
        (order(2, json!({ "logistics_type": 4, "finish_shipping": true })), OrderState::Shipped, false),
        (order(3, shipped("YT2", "YTO")), OrderState::Confirmed, true),
        (order(4, Value::Null), OrderState::Done, true),
        (order(5, shipped("YT1", "YTO")), OrderState::Refunded, false),
        (order(6, Value::Null), OrderState::Settling, true),
        (order(9, shipped("YT1", "YTO")), OrderState::Other(9), true),
    ] {
        let server = answering(text_plain(&answer)).await;
        let key = OrderKey::Transaction("4200001".to_owned());
        let found = client(&server.url, &Clock::new()).get_shipping_order(&key).await.unwrap();
        assert_eq!((found.state, found.matches(&express("YTO"))), (state, matches), "{answer}");
        assert_eq!(
            serde_json::from_str::<Value>(&server.seen()[1].body).unwrap(),
            json!({ "transaction_id": "4200001" })
        );
    }
    let picked_up = json!({ "logistics_type": 4, "finish_shipping": true, "shipping_list": [{ "tracking_no": null }] });
    let server = answering(text_plain(order(2, picked_up))).await;
    let found = client(&server.url, &Clock::new()).get_shipping_order(&pickup().order_key).await.unwrap();
    assert!(found.matches(&pickup()));
    assert_eq!(
        serde_json::from_str::<Value>(&server.seen()[1].body).unwrap(),
        json!({ "merchant_id": "1900000001", "merchant_trade_no": "A1" })
    );
    let ShippingOrder { transaction_id, merchant_trade_no, .. } = found;
    assert_eq!((transaction_id.as_str(), merchant_trade_no.as_str()), ("4200001", "A1"));

    let server = answering(text_plain(json!({ "errcode": 10_060_001, "errmsg": "no rid: 9" }))).await;
    let error = client(&server.url, &Clock::new()).get_shipping_order(&pickup().order_key).await.unwrap_err();
    assert_eq!((error.errcode(), error.rid()), (Some(10_060_001), Some("9")));
}

#[tokio::test]
async fn the_duty_to_report_can_be_asked_for() {
    let server = answering(text_plain(json!({ "errcode": 0, "is_trade_managed": true }))).await;
    let client = client(&server.url, &Clock::new());
    assert!(client.is_trade_managed().await.unwrap());
    assert_eq!(serde_json::from_str::<Value>(&server.seen()[1].body).unwrap(), json!({ "appid": client.appid() }));
}
