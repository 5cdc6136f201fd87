//! Reports of shipping.

use super::*;

const OPEN_ID: &str = "o-alice";

impl World {
    async fn wechat(&self, path: &str, body: &Value) -> Value {
        let token = self.stable_token(false).await["access_token"].as_str().unwrap().to_owned();
        self.wechat_post(&format!("{path}?access_token={token}"), body).await
    }

    async fn ship(&self, body: &Value) -> i64 {
        let reply = self.wechat("/wxa/sec/order/upload_shipping_info", body).await;
        reply["errcode"].as_i64().unwrap()
    }

    async fn paid(&self, number: &str) -> String {
        self.prepay(number, NOWHERE).await;
        let reply = self.control("/pay", json!({ "outTradeNo": number, "notify": "none" })).await.json();
        reply["transactionId"].as_str().unwrap().to_owned()
    }

    async fn order(&self, transaction_id: &str) -> Value {
        self.wechat("/wxa/sec/order/get_order", &json!({ "transaction_id": transaction_id })).await
    }
}

fn parcel(number: &str) -> Value {
    json!({ "tracking_no": number, "express_company": "YTO", "item_desc": "苹果 5 斤" })
}

/// A report by express, second by second later.
fn report(transaction_id: &str, second: u32) -> Value {
    json!({
        "order_key": { "order_number_type": 2, "transaction_id": transaction_id },
        "logistics_type": 1,
        "delivery_mode": 1,
        "shipping_list": [parcel("YT1")],
        "upload_time": format!("2026-11-21T10:00:{second:02}.000+08:00"),
        "payer": { "openid": OPEN_ID },
    })
}

fn changed(body: &Value, pointer: &str, value: Value) -> Value {
    let mut body = body.clone();
    *body.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    body
}

#[tokio::test]
async fn a_payment_is_shipped_once_and_once_more() {
    let world = World::new().await;
    let id = world.paid("order-1").await;
    assert_eq!(world.order(&id).await["order"]["order_state"], 1);
    assert_eq!(world.ship(&report(&id, 1)).await, 0);
    let order = world.order(&id).await["order"].clone();
    assert_eq!((&order["order_state"], &order["shipping"]["finish_shipping"]), (&json!(2), &json!(true)));
    assert_eq!(order["shipping"]["shipping_list"][0]["tracking_no"], "YT1");

    assert_eq!(world.ship(&report(&id, 2)).await, 10_060_023);
    let other = changed(&report(&id, 3), "/shipping_list/0/tracking_no", json!("YT2"));
    assert_eq!(world.ship(&changed(&other, "/upload_time", report(&id, 1)["upload_time"].clone())).await, 268_485_216);
    assert_eq!(world.ship(&other).await, 0);
    assert_eq!(world.ship(&report(&id, 4)).await, 10_060_003);
    let shipping = world.look("/shipping?orderId=order-1").await["shipping"].clone();
    assert_eq!((&shipping[0]["reports"], &shipping[0]["reships"]), (&json!(2), &json!(1)));
    assert_eq!(shipping[0]["shippingList"], json!([parcel("YT2")]));

    world.control("/shipping", json!({ "confirmOrderId": "order-1" })).await;
    assert_eq!(world.order(&id).await["order"]["order_state"], 3);
    assert_eq!(world.ship(&report(&id, 5)).await, 10_060_002);
    assert_eq!(world.ship(&other).await, 10_060_023, "what is known is known");
}

#[tokio::test]
async fn only_a_payment_that_is_known_and_kept_can_be_shipped() {
    let world = World::new().await;
    world.prepay("order-1", NOWHERE).await;
    let by_number = |mchid: &str, number: &str| {
        changed(&report("", 1), "/order_key", json!({ "order_number_type": 1, "mchid": mchid, "out_trade_no": number }))
    };
    assert_eq!(world.ship(&by_number(keys::MCHID, "order-1")).await, 10_060_001, "not paid");
    assert_eq!(world.ship(&report("4200", 1)).await, 10_060_001);
    world.control("/shipping", json!({ "lagSeconds": 60 })).await;
    let id = world.paid("order-1").await;
    assert_eq!(world.ship(&report(&id, 1)).await, 10_060_001, "not yet known");
    assert_eq!(world.order(&id).await["errcode"], 10_060_001);
    world.clock.advance(TimeDelta::seconds(60));
    assert_eq!(world.ship(&changed(&report(&id, 1), "/payer/openid", json!("o-bob"))).await, 10_060_031);
    assert_eq!(world.ship(&by_number("1900000009", "order-1")).await, 10_060_001);
    assert_eq!(world.ship(&by_number(keys::MCHID, "order-1")).await, 0);
    let by_number = json!({ "merchant_id": keys::MCHID, "merchant_trade_no": "order-1" });
    assert_eq!(world.wechat("/wxa/sec/order/get_order", &by_number).await["order"]["transaction_id"], id);

    let id = world.paid("order-2").await;
    world.clock.advance(TimeDelta::seconds(60));
    world.post("/v3/refund/domestic/refunds", &refund("order-2", "r-1", 1234, NOWHERE)).await.good();
    assert_eq!(world.ship(&report(&id, 1)).await, 10_060_004);
    assert_eq!(world.order(&id).await["order"]["order_state"], 5);
}

#[tokio::test]
async fn every_field_of_a_report_is_checked() {
    let world = World::new().await;
    let id = world.paid("order-1").await;
    let good = report(&id, 1);
    let long = "x".repeat(129);
    for (pointer, value, errcode) in [
        ("/order_key", Value::Null, 268_485_194),
        ("/order_key", json!({ "order_number_type": 3 }), 268_485_194),
        ("/order_key/transaction_id", json!(""), 268_485_195),
        ("/order_key", json!({ "order_number_type": 1, "out_trade_no": "order-1" }), 268_485_196),
        ("/order_key", json!({ "order_number_type": 1, "mchid": keys::MCHID }), 268_485_197),
        ("/order_key/transaction_id", json!(1), 47_001),
        ("/logistics_type", json!(5), 10_060_005),
        ("/logistics_type", json!("LOGISTICS_TYPE_EXPRESS"), 47_001),
        ("/delivery_mode", json!(3), 268_485_224),
        ("/delivery_mode", json!(2), 10_060_007),
        ("/shipping_list", parcel("YT1"), 47_001),
        ("/shipping_list", json!([]), 10_060_014),
        ("/shipping_list", json!([parcel("YT1"), parcel("YT2")]), 268_485_228),
        ("/shipping_list/0/item_desc", json!(" "), 10_060_008),
        ("/shipping_list/0/item_desc", json!("果".repeat(121)), 10_060_009),
        ("/shipping_list/0/tracking_no", json!(""), 268_485_226),
        ("/shipping_list/0/tracking_no", json!(long), 10_060_026),
        ("/shipping_list/0/express_company", json!(""), 268_485_227),
        ("/shipping_list/0/express_company", json!(long), 10_060_025),
        ("/shipping_list/0/express_company", json!("SF"), 10_060_014),
        ("/upload_time", json!("2026-11-21 10:00:00"), 268_485_216),
        ("/upload_time", Value::Null, 268_485_216),
        ("/payer", Value::Null, 10_060_014),
    ] {
        assert_eq!(world.ship(&changed(&good, pointer, value.clone())).await, errcode, "{pointer} {value}");
    }
    let sf = |contact: Value| {
        let parcel = json!({ "tracking_no": "SF1", "express_company": "SF", "item_desc": "茶", "contact": contact });
        changed(&good, "/shipping_list/0", parcel)
    };
    assert_eq!(world.ship(&sf(json!({ "receiver_contact": "13900001234" }))).await, 10_060_014, "not masked");
    assert_eq!(world.ship(&sf(json!({ "receiver_contact": "139****12**" }))).await, 10_060_014);
    assert_eq!(world.ship(&sf(json!({ "receiver_contact": "139****1234" }))).await, 0);
    let get = world.http.get(format!("{}/sim/wechat/wxa/sec/order/get_order", world.base)).send().await.unwrap();
    assert!(get.text().await.unwrap().contains("43002"));
    assert_eq!(
        world.wechat("/wxa/sec/order/is_trade_managed", &json!({ "appid": keys::APPID })).await["is_trade_managed"],
        true
    );
    assert_eq!(world.wechat("/wxa/sec/order/is_trade_managed", &json!({ "appid": "wx1" })).await["errcode"], 40013);
}

#[tokio::test]
async fn a_split_shipment_grows_until_it_is_finished() {
    let world = World::new().await;
    let id = world.paid("order-1").await;
    let part = |second: u32, number: &str, all: bool| {
        let mut body = changed(&report(&id, second), "/shipping_list/0/tracking_no", json!(number));
        body["delivery_mode"] = json!(2);
        body["is_all_delivered"] = json!(all);
        body
    };
    assert_eq!(world.ship(&changed(&part(1, "YT1", false), "/logistics_type", json!(2))).await, 10_060_006);
    assert_eq!(world.ship(&part(1, "YT1", false)).await, 0);
    assert_eq!(world.order(&id).await["order"]["order_state"], 1);
    assert_eq!(world.ship(&part(2, "YT1", false)).await, 10_060_023);
    assert_eq!(world.ship(&part(3, "YT2", true)).await, 0);
    let shipping = world.look("/shipping?orderId=order-1").await["shipping"][0].clone();
    assert_eq!((shipping["shippingList"].as_array().unwrap().len(), &shipping["reships"]), (2, &json!(0)));
    assert_eq!(world.order(&id).await["order"]["order_state"], 2);
}

#[tokio::test]
async fn a_restarted_upstream_remembers_what_was_shipped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    let world = World::with(|config| config.state_file = Some(file.clone())).await;
    let id = world.paid("order-1").await;
    assert_eq!(world.ship(&report(&id, 1)).await, 0);
    let world = World::with(|config| config.state_file = Some(file.clone())).await;
    assert_eq!(world.ship(&report(&id, 2)).await, 10_060_023);
}
