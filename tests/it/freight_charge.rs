//! What sending costs, charged: by place and weight, shown before it is asked for, and taken off by its coupon.

use it::{Answer, World, order_of};
use serde_json::{Value, json};

use crate::coupons::claim;

/// An order of `p-oil` (5.2 kg a piece, sent by `ft-heavy`) to a province.
fn oil_to(province: &str, quantity: i64) -> Value {
    let mut event = order_of("p-oil", quantity);
    event["address"]["province"] = json!(province);
    event["address"]["city"] = json!("");
    event
}

fn amounts(answer: &Answer) -> [Value; 4] {
    ["totalAmount", "freightAmount", "discountAmount", "paymentAmount"].map(|field| answer.ok()[field].clone())
}

async fn preview(world: &World, token: &str, more: Value) -> anyhow::Result<Answer> {
    let mut event = json!({ "action": "preview", "items": [{ "productId": "p-oil", "quantity": 1 }] });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.client.call("coupons", token, event).await
}

#[tokio::test]
async fn freight_is_charged_by_place_and_weight_and_free_beyond_an_amount() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    for (province, quantity, expected) in [
        ("浙江省", 1, json!([146, 18, 0, 146])),
        ("浙江省", 2, json!([284, 28, 0, 284])),
        ("浙江省", 3, json!([384, 0, 0, 384])),
        ("新疆维吾尔自治区", 1, json!([221, 93, 0, 221])),
        // A free amount is each tariff's own.
        ("西藏", 3, json!([627, 243, 0, 627])),
    ] {
        let order = c.call("submitOrder", &token, oil_to(province, quantity)).await?;
        assert_eq!(json!(amounts(&order)), expected, "{province} {quantity}");
        let id = order.text("orderId");
        let got = c.call("orders", &token, json!({ "action": "get", "orderId": id })).await?;
        assert_eq!(got.ok()["freightAmount"], expected[1]);
    }
    // Goods without a template beside it change nothing.
    let mut mixed = oil_to("浙江", 1);
    mixed["items"].as_array_mut().unwrap().push(json!({ "productId": "p-apple", "quantity": 2 }));
    let mixed = c.call("submitOrder", &token, mixed).await?;
    assert_eq!(json!(amounts(&mixed)), json!([246, 18, 0, 246]));

    let refused = c.call("submitOrder", &token, oil_to("台湾省", 1)).await?;
    refused.refused(400, "INVALID_ARGUMENT");
    let details = &refused.body["details"];
    assert_eq!((&details["field"], &details["reason"]), (&json!("address"), &json!("NOT_DELIVERABLE")));
    for unclear in ["", "中国新疆", "XJ"] {
        let refused = c.call("submitOrder", &token, oil_to(unclear, 1)).await?;
        refused.refused(400, "INVALID_ARGUMENT");
        assert_eq!(refused.body["details"]["field"], "address.province", "{unclear}");
    }
    let mut claimed = oil_to("浙江省", 1);
    claimed["paymentAmount"] = json!(128);
    c.call("submitOrder", &token, claimed).await?.refused(409, "AMOUNT_MISMATCH");

    // The payment is of all of it, and stands in the book.
    let order = c.call("submitOrder", &token, oil_to("浙江省", 1)).await?.text("orderId");
    assert_eq!(c.call("wxPay", &token, json!({ "orderId": order })).await?.ok()["paymentAmount"], 146);
    c.pay(&order, "once").await?;
    let got = c.call("orders", &token, json!({ "action": "get", "orderId": order })).await?;
    assert_eq!((&got.ok()["status"], &got.body["pointsEarned"]), (&json!("paid"), &json!(1)));
    world.finish().await
}

#[tokio::test]
async fn a_preview_knows_the_freight_of_its_destination_and_the_order_is_held_to_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    let near = json!({ "address": { "province": "浙江省", "city": "杭州市" } });
    let shown = preview(&world, &token, near.clone()).await?;
    assert_eq!(
        (&shown.ok()["quote"]["freightAmount"], &shown.body["quote"]["paymentAmount"], &shown.body["goodsAmount"]),
        (&json!(18), &json!(146), &json!(128))
    );
    assert_eq!(preview(&world, &token, json!({})).await?.ok()["quote"]["freightAmount"], 0);
    let address = json!({ "action": "create", "address": oil_to("新疆", 1)["address"] });
    let saved = c.call("addresses", &token, address).await?.text("_id");
    let far = preview(&world, &token, json!({ "addressId": saved })).await?;
    assert_eq!(far.ok()["quote"]["freightAmount"], 93);
    let nowhere = preview(&world, &token, json!({ "address": { "province": "澳门" } })).await?;
    nowhere.refused(400, "INVALID_ARGUMENT");
    assert_eq!(nowhere.body["details"]["reason"], "NOT_DELIVERABLE");
    for (more, field) in [
        (json!({ "address": { "province": " " } }), "address.province"),
        (json!({ "addressId": saved, "address": { "province": "浙江" } }), "addressId"),
        (json!({ "addressId": "a b" }), "addressId"),
    ] {
        let answer = preview(&world, &token, more.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{more}");
    }
    preview(&world, &token, json!({ "addressId": "a-none" })).await?.refused(404, "NOT_FOUND");

    // Shown for one place, asked for at another.
    let mut event = oil_to("新疆", 1);
    event["quoteId"] = shown.body["quote"]["quoteId"].clone();
    let refused = c.call("submitOrder", &token, event.clone()).await?;
    refused.refused(409, "AMOUNT_MISMATCH");
    assert_eq!(
        refused.body["details"]["differences"][1],
        json!({ "field": "freightAmount", "expected": "93.00", "actual": "18.00" })
    );
    event["address"]["province"] = json!("江苏省");
    assert_eq!(c.call("submitOrder", &token, event).await?.ok()["freightAmount"], 18);
    world.finish().await
}

#[tokio::test]
async fn a_coupon_for_the_freight_needs_freight_and_takes_it_off() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    let coupon = claim(&world, &token, "cp-freight").await?.text("userCouponId");
    let near = json!({ "address": { "province": "浙江省" } });
    // No freight is known without a destination, so there is nothing that it could take off.
    let unfit = preview(&world, &token, json!({})).await?;
    assert_eq!(
        (&unfit.ok()["data"][0]["fits"], &unfit.body["data"][0]["reason"]),
        (&json!(false), &json!("NO_FREIGHT"))
    );
    let fits = preview(&world, &token, near.clone()).await?;
    assert_eq!(
        (&fits.ok()["bestUserCouponId"], &fits.body["saving"], &fits.body["data"][0]["saving"]),
        (&json!(coupon), &json!(18), &json!(18))
    );
    let mut event = json!({ "action": "best", "items": [{ "productId": "p-oil", "quantity": 1 }] });
    event["address"] = near["address"].clone();
    assert_eq!(c.call("coupons", &token, event).await?.ok()["saving"], 18);

    let mut apples = order_of("p-apple", 1);
    apples["userCouponId"] = json!(coupon);
    let refused = c.call("submitOrder", &token, apples).await?;
    refused.refused(422, "COUPON_NOT_APPLICABLE");
    assert_eq!(refused.body["details"]["reason"], "NO_FREIGHT");

    let mut event = oil_to("浙江省", 1);
    event["userCouponId"] = json!(coupon);
    let order = c.call("submitOrder", &token, event).await?;
    assert_eq!(json!(amounts(&order)), json!([146, 18, 18, 128]));
    let id = order.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
    c.pay(&id, "once").await?;
    world.finish().await
}

#[tokio::test]
async fn prepaid_money_and_balance_pay_freight_and_points_and_pieces_do_not() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = world.linked_member().await?;
    let mut by_points = oil_to("浙江省", 1);
    by_points["pointsUsed"] = json!(2);
    let by_points = c.call("submitOrder", &token, by_points).await?;
    assert_eq!(by_points.ok()["freightAmount"], 18);
    // The pieces pay for the apples, the money for the freight and more.
    let weigh = json!({ "action": "assign", "templateId": "ft-heavy", "productIds": ["p-apple"], "weightG": 1000 });
    c.call_service("freight", weigh).await?.ok();
    let mut apples = order_of("p-apple", 1);
    apples["paymentMethod"] = json!("prepaid");
    apples["prepaidAmount"] = json!(5);
    let order = c.call("submitOrder", &token, apples).await?;
    assert_eq!(
        ["totalAmount", "freightAmount", "prepaidAmount", "paymentAmount"].map(|field| order.ok()[field].clone()),
        [json!(58), json!(8), json!(55), json!(3)]
    );
    c.call("orders", &token, json!({ "action": "cancel", "orderId": order.text("orderId") })).await?.ok();
    world.finish().await
}
