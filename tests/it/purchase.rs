//! The purchase loop as a user walks through it.

use it::{World, order_of};
use serde_json::json;

#[tokio::test]
async fn login_order_pay_points() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let first = c.call("login", "", json!({ "code": "dev-alice" })).await?;
    assert_eq!((&first.ok()["isNew"], &first.body["user"]["openId"]), (&json!(true), &json!("o-alice")));
    assert_eq!(first.body["user"]["balance"], 0);
    let token = first.text("token");
    assert_eq!(c.call("login", "", json!({ "code": "dev-alice" })).await?.ok()["isNew"], false);

    let list = c.call("products", "", json!({ "action": "list" })).await?;
    let products = list.ok()["data"].as_array().unwrap();
    assert!(products.len() >= 8 && products.iter().all(|p| p["price"].is_number() && p["stock"].is_i64()));
    assert!(!products.iter().any(|p| p["_id"] == "p-off"));
    let tea = products.iter().find(|p| p["_id"] == "p-tea").unwrap();
    assert_eq!((tea["skus"].as_array().unwrap().len(), &tea["stock"]), (3, &json!(143)));

    let order = c.call("submitOrder", &token, order_of("p-apple", 3)).await?;
    let id = order.ok()["orderId"].as_str().unwrap().to_owned();
    assert_eq!(
        (&order.body["status"], &order.body["totalAmount"], &order.body["paymentAmount"]),
        (&json!("pendingPayment"), &json!(150), &json!(150))
    );
    assert_eq!(world.stock("p-apple").await?, 997);

    let pay = c.call("wxPay", &token, json!({ "orderId": id })).await?;
    let payment = &pay.ok()["payment"];
    assert_eq!((&payment["signType"], &pay.body["paymentAmount"]), (&json!("RSA"), &json!(150)));
    // The simulator checks paySign with the merchant's certificate, as the WeChat client does.
    let paid = c.control("pay", json!({ "payment": payment, "notify": "once" })).await?;
    assert_eq!(paid.body["noticeStatus"], 204, "{paid:?}");

    let got = c.call("orders", &token, json!({ "action": "get", "orderId": id })).await?;
    assert_eq!((&got.ok()["status"], &got.body["pointsEarned"]), (&json!("paid"), &json!(1)));
    assert_eq!(got.body["payments"][0]["status"], "paid");
    let points = c.call("getUserPoints", &token, json!({})).await?;
    assert_eq!((&points.ok()["points"], &points.body["carryAmount"]), (&json!(1), &json!(50)));
    assert_eq!(points.body["logs"]["data"][0]["change"], 1);

    // The remainder of 50 and another 50 make the second point.
    let second = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": second })).await?.ok();
    c.pay(&second, "once").await?;
    let points = c.call("getUserPoints", &token, json!({})).await?;
    assert_eq!((&points.ok()["points"], &points.body["carryAmount"]), (&json!(2), &json!(0)));
    let query = c.call("wxPay", &token, json!({ "orderId": second, "action": "query" })).await?;
    assert_eq!((&query.ok()["status"], &query.body["tradeState"]), (&json!("paid"), &json!("SUCCESS")));
    c.call("wxPay", &token, json!({ "orderId": second })).await?.refused(409, "ORDER_STATE_INVALID");
    world.finish().await
}

#[tokio::test]
async fn points_and_balance_pay_and_come_back() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;

    // 100 points are there; 20 of them take 20 yuan off and the rest is left to WeChat.
    let mut event = order_of("p-apple", 1);
    event["pointsUsed"] = json!(20);
    let order = c.call("submitOrder", &token, event.clone()).await?;
    assert_eq!(
        (&order.ok()["discountAmount"], &order.body["paymentAmount"], &order.body["pointsUsed"]),
        (&json!(20), &json!(30), &json!(20))
    );
    assert_eq!(c.call("getUserPoints", &token, json!({})).await?.ok()["points"], 80);
    let id = order.text("orderId");
    let cancelled =
        c.call("orders", &token, json!({ "action": "cancel", "orderId": id, "reason": "不想要了" })).await?;
    assert_eq!(cancelled.ok()["status"], "closed");
    c.call("orders", &token, json!({ "action": "cancel", "orderId": id })).await?.ok();
    let points = c.call("getUserPoints", &token, json!({})).await?;
    assert_eq!(points.ok()["points"], 100);
    assert_eq!(points.body["logs"]["data"][0]["type"], "return");
    assert_eq!(world.stock("p-apple").await?, 1000);

    // Balance pays the rest at once; nothing is left for WeChat.
    event["paymentMethod"] = json!("balance");
    let order = c.call("submitOrder", &token, event.clone()).await?;
    assert_eq!(
        (&order.ok()["status"], &order.body["balanceAmount"], &order.body["paymentAmount"]),
        (&json!("paid"), &json!(30), &json!(0))
    );
    let me = c.call("login", "", json!({ "code": "dev-demo" })).await?;
    assert_eq!((&me.ok()["user"]["balance"], &me.body["user"]["points"]), (&json!(470), &json!(80)));
    c.call("orders", &token, json!({ "action": "cancel", "orderId": order.text("orderId") }))
        .await?
        .refused(409, "ORDER_STATE_INVALID");
    c.call("wxPay", &token, json!({ "orderId": order.text("orderId") })).await?.refused(409, "ORDER_STATE_INVALID");

    // Points alone can pay the whole order.
    event["pointsUsed"] = json!(50);
    event["paymentMethod"] = json!("wechat");
    let free = c.call("submitOrder", &token, event.clone()).await?;
    assert_eq!((&free.ok()["status"], &free.body["paymentAmount"]), (&json!("paid"), &json!(0)));

    // Not enough of either: no order, no stock taken.
    let before = world.stock("p-apple").await?;
    event["pointsUsed"] = json!(31);
    c.call("submitOrder", &token, event.clone()).await?.refused(422, "POINTS_INSUFFICIENT");
    event["pointsUsed"] = json!(51);
    c.call("submitOrder", &token, event).await?.refused(400, "INVALID_ARGUMENT");
    let mut dear = order_of("p-tea", 1);
    dear["items"][0]["skuId"] = json!("s-grade3");
    dear["items"][0]["quantity"] = json!(3);
    dear["paymentMethod"] = json!("balance");
    c.call("submitOrder", &token, dear).await?.refused(422, "BALANCE_INSUFFICIENT");
    assert_eq!((world.stock("p-apple").await?, world.stock("p-tea").await?), (before, 143));
    world.finish().await
}

#[tokio::test]
async fn skus_have_their_own_price_and_stock() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("bob").await?;
    let mut event = order_of("p-tea", 1);
    event["items"] = json!([
        { "productId": "p-tea", "skuId": "s-grade1", "quantity": 2 },
        { "productId": "p-tea", "skuId": "s-grade3", "quantity": 3 },
        { "productId": "p-sticker", "quantity": 7 },
    ]);
    let order = c.call("submitOrder", &token, event.clone()).await?;
    assert_eq!(order.ok()["totalAmount"], json!(256.0 + 1764.0 + 0.7));
    // The last pieces of one SKU are gone: the other lines of the next order take nothing either.
    event["items"][1]["quantity"] = json!(1);
    c.call("submitOrder", &token, event).await?.refused(409, "OUT_OF_STOCK");
    assert_eq!((world.stock("p-tea").await?, world.stock("p-sticker").await?), (138, 99_993));
    c.call("submitOrder", &token, order_of("p-tea", 1)).await?.refused(400, "INVALID_ARGUMENT");
    let mut unknown = order_of("p-tea", 1);
    unknown["items"][0]["skuId"] = json!("s-none");
    c.call("submitOrder", &token, unknown).await?.refused(404, "PRODUCT_NOT_FOUND");
    c.call("orders", &token, json!({ "action": "cancel", "orderId": order.text("orderId") })).await?.ok();
    assert_eq!((world.stock("p-tea").await?, world.stock("p-sticker").await?), (143, 100_000));
    world.finish().await
}

#[tokio::test]
async fn lists_are_paged_newest_first_and_show_only_ones_own() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (alice, bob) = (c.login("alice").await?, c.login("bob").await?);
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(c.call("submitOrder", &alice, order_of("p-sticker", 1)).await?.text("orderId"));
    }
    ids.reverse();
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = c.call("orders", &alice, json!({ "action": "list", "limit": 2, "after": after })).await?;
        let rows = page.ok()["data"].as_array().unwrap();
        assert!(rows.len() <= 2);
        seen.extend(rows.iter().map(|o| o["orderId"].as_str().unwrap().to_owned()));
        match page.body["nextCursor"].as_str() {
            Some(cursor) => after = cursor.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    assert_eq!(c.call("orders", &bob, json!({ "action": "list" })).await?.ok()["data"], json!([]));
    c.call("orders", &alice, json!({ "action": "cancel", "orderId": ids[0] })).await?.ok();
    let closed = c.call("orders", &alice, json!({ "action": "list", "status": "closed", "type": "normal" })).await?;
    assert_eq!(closed.ok()["data"].as_array().unwrap().len(), 1);
    for bad in [
        json!({ "action": "list", "limit": 0 }),
        json!({ "action": "list", "limit": 101 }),
        json!({ "action": "list", "after": "x" }),
    ] {
        c.call("orders", &alice, bad).await?.refused(400, "INVALID_ARGUMENT");
    }
    let products = c.call("products", "", json!({ "action": "list", "limit": 3, "category": "文创" })).await?;
    assert_eq!(products.ok()["data"].as_array().unwrap().len(), 2);
    assert_eq!(c.call("products", "", json!({ "action": "get", "productId": "p-tea" })).await?.ok()["_id"], "p-tea");
    c.call("products", "", json!({ "action": "get", "productId": "p-off" })).await?.refused(404, "PRODUCT_NOT_FOUND");

    // Staff see everybody's, by any filter; the permission decides.
    let staff = |permission: &str| {
        let permissions = vec![permission.to_owned()];
        world
            .app
            .issue_staff_token("s-1", &permissions, chrono::TimeDelta::hours(1), world.app.clock.now())
            .map(|(token, _)| token)
    };
    let (clerk, other) = (staff("orders")?, staff("products")?);
    for filter in [json!({}), json!({ "status": "closed" }), json!({ "type": "normal" })] {
        let mut event = filter.clone();
        event["action"] = json!("list");
        assert!(!c.call("orders", &clerk, event).await?.ok()["data"].as_array().unwrap().is_empty(), "{filter}");
    }
    c.call("orders", &other, json!({ "action": "list" })).await?.refused(403, "FORBIDDEN");
    world.finish().await
}

#[tokio::test]
async fn points_are_added_and_taken_by_the_crm() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("carol").await?;
    let add = |points: i64, kind: &str, more: serde_json::Value| {
        let mut event = json!({ "openId": "o-carol", "points": points, "type": kind, "reason": "活动奖励" });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let first = c.call_service("addPoints", add(10, "earn", json!({ "requestId": "req-00000001" }))).await?;
    assert_eq!((&first.ok()["points"], &first.body["change"]), (&json!(10), &json!(10)));
    let again = c.call_service("addPoints", add(10, "earn", json!({ "requestId": "req-00000001" }))).await?;
    assert_eq!(
        (&again.ok()["points"], &again.body["replayed"], &again.body["logId"]),
        (&json!(10), &json!(true), &first.body["logId"])
    );
    c.call_service("addPoints", add(11, "earn", json!({ "requestId": "req-00000001" })))
        .await?
        .refused(409, "IDEMPOTENCY_KEY_REUSED");
    // Without a requestId the order, the type and the reason are the natural key.
    for replayed in [json!(null), json!(true)] {
        let order =
            c.call_service("addPoints", add(-4, "spend", json!({ "orderId": "20260101000000000AAAAAAAA" }))).await?;
        assert_eq!(
            (&order.ok()["points"], &order.body["change"], &order.body["replayed"]),
            (&json!(6), &json!(-4), &replayed)
        );
    }
    c.call_service("addPoints", add(5, "spend", json!({ "orderId": "20260101000000000AAAAAAAA" })))
        .await?
        .refused(409, "CONFLICT");
    c.call_service("addPoints", add(7, "spend", json!({}))).await?.refused(422, "POINTS_INSUFFICIENT");
    c.call_service("addPoints", add(0, "earn", json!({}))).await?.refused(400, "INVALID_ARGUMENT");
    c.call_service("addPoints", json!({ "openId": "o-nobody", "points": 1, "type": "earn", "reason": "x" }))
        .await?
        .refused(404, "NOT_FOUND");
    c.call("addPoints", &token, add(1, "earn", json!({}))).await?.refused(403, "FORBIDDEN");
    assert_eq!(c.call_service("getUserPoints", json!({ "openId": "o-carol" })).await?.ok()["points"], 6);
    c.call_service("getUserPoints", json!({ "openId": "o-nobody" })).await?.refused(404, "NOT_FOUND");
    world.finish().await
}

#[tokio::test]
async fn an_order_that_is_not_paid_in_time_closes() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("dora").await?;
    let unpaid = c.call("submitOrder", &token, order_of("p-honey", 2)).await?.text("orderId");
    let begun = c.call("submitOrder", &token, order_of("p-honey", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": begun })).await?.ok();
    assert_eq!(world.stock("p-honey").await?, 197);
    c.advance(31 * 60).await?;
    c.call("wxPay", &token, json!({ "orderId": unpaid })).await?.refused(409, "ORDER_STATE_INVALID");
    let run = c.timer("closeExpiredOrders").await?;
    assert_eq!(run.body["closed"].as_i64().or(run.body["result"]["closed"].as_i64()), Some(2), "{run:?}");
    assert_eq!(world.stock("p-honey").await?, 200);
    for id in [&unpaid, &begun] {
        assert_eq!(c.call("orders", &token, json!({ "action": "get", "orderId": id })).await?.ok()["status"], "closed");
    }
    // WeChat was told: the payer cannot pay any more.
    assert_eq!(c.pay(&begun, "once").await?.status, 409);
    world.finish().await
}
