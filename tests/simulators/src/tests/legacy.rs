//! Refund notices in XML, opened by hand.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherDecrypt as _, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use serde_json::json;

use super::{World, receiver, refund};
use crate::keys;

/// What stands in an element, in CDATA.
fn field(xml: &str, name: &str) -> String {
    let rest = xml.split(&format!("<{name}><![CDATA[")).nth(1).unwrap_or_else(|| panic!("no {name} in {xml}"));
    rest.split(&format!("]]></{name}>")).next().unwrap().to_owned()
}

fn opened(body: &Bytes, key: &str) -> String {
    let xml = String::from_utf8(body.to_vec()).unwrap();
    let mut bytes = STANDARD.decode(field(&xml, "req_info")).unwrap();
    let cipher = Aes256::new_from_slice(hex::encode(Md5::digest(key)).as_bytes()).unwrap();
    for chunk in bytes.chunks_exact_mut(16) {
        let mut block = Array::try_from(&*chunk).unwrap();
        cipher.decrypt_block(&mut block);
        chunk.copy_from_slice(&block);
    }
    let padding = usize::from(*bytes.last().unwrap());
    bytes.truncate(bytes.len().saturating_sub(padding));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_refund_of_the_portal_is_told_in_xml_and_can_be_queried() {
    let world = World::new().await;
    let (url, received) = receiver(&[]).await;
    world.prepay("ORDER-LEGACY", &url).await;
    let body = json!({ "outTradeNo": "ORDER-LEGACY", "refundFen": 34 });
    assert_eq!(world.control("/legacyRefund", body.clone()).await.status, 404, "not paid yet");
    world.control("/pay", json!({ "outTradeNo": "ORDER-LEGACY", "notify": "none" })).await;
    let got = world.control("/legacyRefund", body).await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.json()["noticeStatus"], 204);
    let number = got.json()["outRefundNo"].as_str().unwrap().to_owned();

    let (headers, body) = received.lock().unwrap().remove(0);
    assert_eq!(headers["content-type"], "text/xml");
    assert!(headers.get("wechatpay-signature").is_none());
    let xml = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!((field(&xml, "return_code"), field(&xml, "mch_id")), ("SUCCESS".to_owned(), keys::MCHID.to_owned()));
    let plain = opened(&body, keys::API_V2_KEY);
    for (name, expected) in [
        ("out_refund_no", number.as_str()),
        ("out_trade_no", "ORDER-LEGACY"),
        ("refund_fee", "34"),
        ("total_fee", "1234"),
        ("refund_status", "SUCCESS"),
        ("refund_request_source", "VENDOR_PLATFORM"),
        ("success_time", "2026-11-21 10:00:00"),
    ] {
        assert_eq!(field(&plain, name), expected, "{name}");
    }
    let query = world.get(&format!("/v3/refund/domestic/refunds/{number}")).await.good().json();
    assert_eq!((&query["status"], &query["amount"]["refund"]), (&json!("SUCCESS"), &json!(34)));
    assert_eq!(world.trade_state("ORDER-LEGACY").await, "REFUND");
    // The ledger gives back no more than was paid.
    let more = json!({ "outTradeNo": "ORDER-LEGACY", "refundFen": 1201 });
    assert_eq!(world.control("/legacyRefund", more).await.status, 400);
}

#[tokio::test]
async fn xml_notices_come_with_every_defect() {
    let world = World::new().await;
    let (url, received) = receiver(&[]).await;
    world.prepay("ORDER-LEGACY", &url).await;
    world.control("/pay", json!({ "outTradeNo": "ORDER-LEGACY", "notify": "none" })).await;
    world.post("/v3/refund/domestic/refunds", &refund("ORDER-LEGACY", "R-LEGACY", 100, &url)).await.good();
    let send = async |mode: &str| {
        received.lock().unwrap().clear();
        let got = world.control("/legacyRefund", json!({ "outRefundNo": "R-LEGACY", "notify": mode })).await;
        assert_eq!(got.status, 200, "{}", got.body);
        received.lock().unwrap().iter().map(|(_, body)| body.clone()).collect::<Vec<_>>()
    };
    assert!(send("none").await.is_empty());
    let once = send("once").await;
    assert_eq!(field(&opened(&once[0], keys::API_V2_KEY), "refund_request_source"), "API");
    let twice = send("duplicate").await;
    assert!(twice.len() == 2 && twice[0] == twice[1]);
    assert!(!opened(&send("wrongKey").await[0], keys::API_V2_KEY).contains("<root>"));
    assert_eq!(field(&opened(&send("wrongAmount").await[0], keys::API_V2_KEY), "refund_fee"), "101");
    assert!(send("doctype").await[0].starts_with(b"<!DOCTYPE"));
    for odd in
        [json!({}), json!({ "outTradeNo": "ORDER-LEGACY" }), json!({ "outRefundNo": "R-LEGACY", "refundFen": 1 })]
    {
        assert_eq!(world.control("/legacyRefund", odd).await.status, 400);
    }
    assert_eq!(world.control("/legacyRefund", json!({ "outRefundNo": "R-NONE" })).await.status, 404);
}
