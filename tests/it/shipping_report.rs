//! Reports of shipping, from our client to a WeChat that knows what was paid.

use std::time::Duration;

use chrono::TimeDelta;
use it::{World, order_of};
use serde_json::json;
use wechat::Personal;
use wechat::shipping::{Logistics, OrderKey, OrderState, Parcel, ShippingClass, ShippingReport, item_desc};

#[tokio::test]
async fn a_paid_order_is_reported_looked_up_and_shipped_again_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let order = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": order })).await?.ok();
    c.control("shipping", json!({ "lagSeconds": 60 })).await?.ok();
    c.pay(&order, "once").await?;
    let paid = world.sim.orders(&order)[0].clone();
    let client = world.app.open_api()?;
    let report = ShippingReport {
        order_key: OrderKey::Transaction(paid.transaction_id.clone().unwrap()),
        logistics: Logistics::Express,
        parcel: Parcel {
            tracking_no: Some("SF1000000001".to_owned()),
            express_company: Some("SF".to_owned()),
            item_desc: item_desc("苹果\n5 斤 👨‍👩‍👧"),
            receiver_phone: Some("13800138000".to_owned()),
        },
        upload_time: world.app.clock.now(),
        openid: Personal::new("o-alice"),
    };
    let class = async |report: &ShippingReport| ShippingClass::of(&client.upload_shipping_info(report).await);

    assert!(client.is_trade_managed().await?);
    assert_eq!(class(&report).await, ShippingClass::NotYetKnown);
    world.app.clock.advance(Duration::from_secs(60));
    assert_eq!(
        class(&ShippingReport { openid: Personal::new("o-bob"), ..report.clone() }).await,
        ShippingClass::FixData(10_060_031)
    );
    assert_eq!(client.get_shipping_order(&report.order_key).await?.state, OrderState::ToShip);

    // It takes effect, and the answer is lost: the same again is known.
    let fault = json!({ "target": "wechat", "path": "upload_shipping_info", "mode": "dropAfterCommit" });
    c.control("faults", fault).await?.ok();
    assert_eq!(class(&report).await, ShippingClass::Unknown);
    assert_eq!(class(&report).await, ShippingClass::Done);
    let found = client.get_shipping_order(&report.order_key).await?;
    assert!(found.matches(&report) && found.finished_count == 1, "{found:?}");
    let shown = c.get(&format!("/sim/control/shipping?orderId={order}")).await?;
    assert_eq!(shown["shipping"][0]["shippingList"][0]["contact"]["receiver_contact"], "138****8000");

    // By the merchant's number, with other content, once; after that what WeChat knows decides.
    let again = |number: &str, seconds: i64| ShippingReport {
        order_key: OrderKey::Merchant {
            mchid: simulators::keys::MCHID.to_owned(),
            out_trade_no: paid.out_trade_no.clone(),
        },
        parcel: Parcel { tracking_no: Some(number.to_owned()), ..report.parcel.clone() },
        upload_time: report.upload_time + TimeDelta::seconds(seconds),
        ..report.clone()
    };
    assert_eq!(class(&again("SF1000000002", 1)).await, ShippingClass::Done);
    assert_eq!(class(&again("SF1000000003", 2)).await, ShippingClass::CheckOrder);
    let found = client.get_shipping_order(&again("", 0).order_key).await?;
    assert!(found.matches(&again("SF1000000002", 1)) && !found.matches(&again("SF1000000003", 2)), "{found:?}");
    assert_eq!((found.state, found.finished_count), (OrderState::Shipped, 2));
    world.finish().await
}
