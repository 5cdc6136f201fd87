//! Coupons: limits that hold, states that follow the order, and never more than the goods are worth.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use it::{Answer, World, order_of};
use serde_json::{Value, json};

/// A coupon over everything that may be claimed for a day, with these fields besides.
pub(crate) async fn issue(world: &World, id: &str, more: Value) -> anyhow::Result<()> {
    let time = |hours: i64| {
        let at = world.app.clock.now() + chrono::TimeDelta::hours(hours);
        at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    let mut coupon = json!({ "name": "满减券", "type": "off", "off": 10, "validDays": 1,
        "claimFrom": time(-1), "claimUntil": time(24) });
    coupon.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let event = json!({ "action": "create", "couponId": id, "coupon": coupon });
    world.client.call_service("couponAdmin", event).await?.ok();
    Ok(())
}

pub(crate) async fn claim(world: &World, token: &str, id: &str) -> anyhow::Result<Answer> {
    world.client.call("coupons", token, json!({ "action": "claim", "couponId": id })).await
}

async fn states(world: &World, token: &str) -> anyhow::Result<Vec<String>> {
    let mine = world.client.call("coupons", token, json!({ "action": "mine" })).await?;
    let rows = mine.ok()["data"].as_array().unwrap();
    Ok(rows.iter().map(|c| c["status"].as_str().unwrap().to_owned()).collect())
}

fn with_coupon(mut event: Value, coupon: &str) -> Value {
    event["userCouponId"] = json!(coupon);
    event
}

#[tokio::test]
async fn a_coupon_is_locked_released_and_used_with_its_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    issue(&world, "cp-10", json!({ "threshold": 100 })).await?;
    let coupon = claim(&world, &token, "cp-10").await?.text("userCouponId");
    assert_eq!(states(&world, &token).await?, ["unused"]);

    let few = c.call("submitOrder", &token, with_coupon(order_of("p-apple", 1), &coupon)).await?;
    few.refused(422, "COUPON_NOT_APPLICABLE");
    assert_eq!(
        (&few.body["details"]["reason"], &few.body["details"]["lacks"]),
        (&json!("BELOW_THRESHOLD"), &json!("50.00"))
    );

    let order = c.call("submitOrder", &token, with_coupon(order_of("p-apple", 2), &coupon)).await?;
    assert_eq!(
        (&order.ok()["totalAmount"], &order.body["couponDiscount"], &order.body["paymentAmount"]),
        (&json!(100), &json!(10), &json!(90))
    );
    assert_eq!(states(&world, &token).await?, ["locked"]);
    let twice = c.call("submitOrder", &token, with_coupon(order_of("p-apple", 2), &coupon)).await?;
    twice.refused(422, "COUPON_NOT_APPLICABLE");
    assert_eq!(twice.body["details"]["reason"], "LOCKED");

    let id = order.text("orderId");
    c.call("orders", &token, json!({ "action": "cancel", "orderId": id })).await?.ok();
    c.call("orders", &token, json!({ "action": "cancel", "orderId": id })).await?.ok();
    assert_eq!(states(&world, &token).await?, ["unused"]);

    let order = c.call("submitOrder", &token, with_coupon(order_of("p-apple", 2), &coupon)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": order })).await?.ok();
    c.pay(&order, "duplicate").await?;
    assert_eq!(states(&world, &token).await?, ["used"]);
    let again = c.call("submitOrder", &token, with_coupon(order_of("p-apple", 2), &coupon)).await?;
    again.refused(422, "COUPON_NOT_APPLICABLE");
    assert_eq!(again.body["details"]["reason"], "USED");
    world.finish().await
}

#[tokio::test]
async fn coupon_larger_than_the_cart() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    issue(&world, "cp-500", json!({ "off": 500 })).await?;
    let coupon = claim(&world, &token, "cp-500").await?.text("userCouponId");
    let order = c.call("submitOrder", &token, with_coupon(order_of("p-apple", 1), &coupon)).await?;
    assert_eq!(
        (&order.ok()["status"], &order.body["discountAmount"], &order.body["paymentAmount"]),
        (&json!("paid"), &json!(50), &json!(0))
    );
    assert_eq!(states(&world, &token).await?, ["used"]);
    world.finish().await
}

#[tokio::test]
async fn a_coupon_of_somebody_else_or_none_is_refused_alike() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (token, other) = (c.login("demo").await?, c.login("alice").await?);
    issue(&world, "cp-10", json!({})).await?;
    let coupon = claim(&world, &other, "cp-10").await?.text("userCouponId");
    for id in [coupon.as_str(), "nope", "a b"] {
        let refused = c.call("submitOrder", &token, with_coupon(order_of("p-apple", 1), id)).await?;
        refused.refused(422, "COUPON_NOT_APPLICABLE");
        assert_eq!(refused.body["details"]["reason"], "NOT_FOUND");
    }
    assert_eq!(world.stock("p-apple").await?, 1000);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_in_all_and_per_user_hold_when_all_claim_at_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    issue(&world, "cp-few", json!({ "total": 7, "perUser": 2 })).await?;
    let mut tokens = Vec::new();
    for name in ["demo", "alice", "bob", "carol", "dave", "eve"] {
        tokens.push(world.client.login(name).await?);
    }
    let claims = tokens.iter().flat_map(|token| (0..4).map(|_| claim(&world, token, "cp-few")));
    let answers = join_all(claims).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let won: BTreeSet<_> = answers.iter().filter(|a| a.status == 200).map(|a| a.text("userCouponId")).collect();
    assert_eq!(won.len(), answers.iter().filter(|a| a.status == 200).count());
    for token in &tokens {
        assert!(states(&world, token).await?.len() <= 2);
    }
    // Who was refused while a rival held the last one that came back may ask again.
    for token in &tokens {
        for _ in 0..2 {
            claim(&world, token, "cp-few").await?;
        }
    }
    let stats = world.client.call_service("couponAdmin", json!({ "action": "stats", "couponId": "cp-few" })).await?;
    assert_eq!(
        (&stats.ok()["claimed"], &stats.body["left"], &stats.body["states"]["unused"]),
        (&json!(7), &json!(0), &json!(7))
    );
    let late = claim(&world, &tokens[0], "cp-few").await?;
    late.refused(422, "COUPON_NOT_APPLICABLE");
    world.finish().await
}

#[tokio::test]
async fn a_claim_with_a_key_is_made_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    issue(&world, "cp-3", json!({ "perUser": 3 })).await?;
    let event = json!({ "action": "claim", "couponId": "cp-3", "requestId": "claim-0001" });
    let answers = join_all((0..4).map(|_| world.client.call("coupons", &token, event.clone()))).await;
    let ids: BTreeSet<_> = answers.into_iter().map(|a| a.unwrap().text("userCouponId")).collect();
    assert_eq!((ids.len(), states(&world, &token).await?.len()), (1, 1));
    world.finish().await
}

#[tokio::test]
async fn coupons_are_given_tried_and_expire() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    issue(&world, "cp-10", json!({ "threshold": 60 })).await?;
    issue(&world, "cp-85", json!({ "type": "rate", "rateBp": 8500, "off": null, "cap": 12 })).await?;
    let grant =
        json!({ "action": "grant", "couponId": "cp-85", "openIds": ["o-demo", "o-nobody"], "requestId": "grant-0001" });
    let given = c.call_service("couponAdmin", grant.clone()).await?;
    assert_eq!((&given.ok()["granted"], &given.body["refused"]), (&json!(1), &json!(1)));
    let again = c.call_service("couponAdmin", grant).await?;
    assert_eq!(again.ok()["results"][0]["userCouponId"], given.body["results"][0]["userCouponId"]);
    claim(&world, &token, "cp-10").await?.ok();

    let items = |quantity: i64| json!([{ "productId": "p-apple", "quantity": quantity }]);
    let one = c.call("coupons", &token, json!({ "action": "preview", "items": items(1) })).await?;
    assert_eq!((&one.ok()["goodsAmount"], &one.body["saving"]), (&json!(50), &json!(7.5)));
    let tried: Vec<_> = one.body["data"].as_array().unwrap().iter().map(|t| t["fits"].as_bool().unwrap()).collect();
    assert_eq!(tried.iter().filter(|fits| **fits).count(), 1);
    let two = c.call("coupons", &token, json!({ "action": "best", "items": items(2) })).await?;
    assert_eq!(
        (&two.ok()["saving"], &two.body["bestUserCouponId"]),
        (&json!(12), &given.body["results"][0]["userCouponId"])
    );

    c.advance(3 * 24 * 3600).await?;
    let token = c.login("demo").await?;
    let run = c.call_service("expireCoupons", json!({})).await?;
    assert_eq!(run.ok()["expired"], 2);
    assert_eq!(states(&world, &token).await?, ["expired", "expired"]);
    world.finish().await
}

#[tokio::test]
async fn an_edit_changes_only_what_is_handed_out_from_then_on() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (token, other) = (c.login("demo").await?, c.login("alice").await?);
    issue(&world, "cp-10", json!({})).await?;
    let old = claim(&world, &token, "cp-10").await?.text("userCouponId");
    let list = c.call_service("couponAdmin", json!({ "action": "list" })).await?;
    let there = list.ok()["data"][0].clone();
    let coupon = json!({ "name": "满减券", "type": "off", "off": 20, "validDays": 1,
        "claimFrom": there["claimFrom"], "claimUntil": there["claimUntil"] });
    let edit = json!({ "action": "update", "couponId": "cp-10", "version": 1, "coupon": coupon });
    assert_eq!(c.call_service("couponAdmin", edit.clone()).await?.ok()["coupon"]["version"], 2);
    assert_eq!(c.call_service("couponAdmin", edit).await?.ok()["replayed"], true);
    let new = claim(&world, &other, "cp-10").await?.text("userCouponId");
    for (token, coupon, off) in [(&token, &old, 10), (&other, &new, 20)] {
        let order = c.call("submitOrder", token, with_coupon(order_of("p-apple", 1), coupon)).await?;
        assert_eq!(order.ok()["couponDiscount"], off);
    }
    c.call_service("couponAdmin", json!({ "action": "pause", "couponId": "cp-10" })).await?.ok();
    let refused = claim(&world, &token, "cp-10").await?;
    refused.refused(422, "COUPON_NOT_APPLICABLE");
    assert_eq!(refused.body["details"]["reason"], "PAUSED");
    world.finish().await
}

#[tokio::test]
async fn a_price_that_was_shown_is_held_to_or_refused_with_the_differences() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (token, other) = (c.login("demo").await?, c.login("alice").await?);
    issue(&world, "cp-10", json!({})).await?;
    let coupon = claim(&world, &token, "cp-10").await?.text("userCouponId");
    let items = json!([{ "productId": "p-apple", "quantity": 2 }]);
    let event = json!({ "action": "preview", "items": items, "userCouponId": coupon });
    let shown = c.call("coupons", &token, event).await?;
    let quote = shown.ok()["quote"].clone();
    assert_eq!((&quote["totalAmount"], &quote["paymentAmount"]), (&json!(100), &json!(90)));
    let with_quote = |event: Value| {
        let mut event = event;
        event["quoteId"] = quote["quoteId"].clone();
        event
    };
    // Without the coupon it costs more than was shown.
    let dearer = c.call("submitOrder", &token, with_quote(order_of("p-apple", 2))).await?;
    dearer.refused(409, "AMOUNT_MISMATCH");
    assert_eq!(
        dearer.body["details"]["differences"],
        json!([
            { "field": "couponDiscount", "expected": "0.00", "actual": "10.00" },
            { "field": "paymentAmount", "expected": "100.00", "actual": "90.00" },
        ])
    );
    // It was shown to somebody else.
    let stolen = c.call("submitOrder", &other, with_quote(order_of("p-apple", 2))).await?;
    stolen.refused(409, "CONFLICT");
    let order = c.call("submitOrder", &token, with_quote(with_coupon(order_of("p-apple", 2), &coupon))).await?;
    assert_eq!(order.ok()["paymentAmount"], 90);
    c.advance(15 * 60).await?;
    let late = c.call("submitOrder", &token, with_quote(order_of("p-apple", 2))).await?;
    late.refused(409, "CONFLICT");
    assert_eq!(late.body["details"]["reason"], "QUOTE_EXPIRED");
    world.finish().await
}

/// Whoever claims while staff edit gets the terms of one version, counted under that version.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_meets_an_edit() -> anyhow::Result<()> {
    let world = World::start().await?;
    issue(&world, "cp", json!({ "perUser": 3, "total": 40 })).await?;
    let time = |hours: i64| {
        let at = world.app.clock.now() + chrono::TimeDelta::hours(hours);
        at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    let edits = async {
        let mut versions = 0;
        for off in 11..31 {
            let list = world.client.call_service("couponAdmin", json!({ "action": "list" })).await?;
            let version = list.ok()["data"][0]["version"].clone();
            let coupon = json!({ "name": "满减券", "type": "off", "off": off, "validDays": 1, "perUser": 3, "total": 40,
                "claimFrom": time(-1), "claimUntil": time(24) });
            let edit = json!({ "action": "update", "couponId": "cp", "version": version, "coupon": coupon });
            world.client.call_service("couponAdmin", edit).await?.ok();
            versions += 1;
        }
        anyhow::Ok(versions)
    };
    let claims = join_all((0..8).map(|i| {
        let world = &world;
        async move {
            let token = world.client.login(&format!("user-{i}")).await?;
            let mut got = 0;
            // One that meets several edits in a row may give up; whoever asks again gets it.
            for _ in 0..60 {
                let answer = claim(world, &token, "cp").await?;
                match answer.code() {
                    "" => got += 1,
                    "CONFLICT" => {}
                    _ => {
                        answer.refused(422, "COUPON_NOT_APPLICABLE");
                        break;
                    }
                }
            }
            anyhow::Ok((token, got))
        }
    }));
    let (edited, claimed) = tokio::join!(edits, claims);
    assert_eq!(edited?, 20);
    for claimed in claimed {
        let (token, got) = claimed?;
        assert_eq!(got, 3);
        let mine = world.client.call("coupons", &token, json!({ "action": "mine" })).await?;
        for coupon in mine.ok()["data"].as_array().unwrap() {
            assert!((10..=30).contains(&coupon["terms"]["off"].as_i64().unwrap()), "{coupon}");
        }
    }
    let stats = world.client.call_service("couponAdmin", json!({ "action": "stats", "couponId": "cp" })).await?;
    assert_eq!((&stats.ok()["claimed"], &stats.body["states"]["unused"]), (&json!(24), &json!(24)));
    world.finish().await
}

#[tokio::test]
async fn a_grant_is_one_command_for_the_people_that_it_names() -> anyhow::Result<()> {
    let world = World::start().await?;
    issue(&world, "cp", json!({})).await?;
    for name in ["alice", "bob"] {
        world.client.login(name).await?;
    }
    let grant = |users: Value| {
        let event = json!({ "action": "grant", "couponId": "cp", "openIds": users, "requestId": "grant-0001" });
        world.client.call_service("couponAdmin", event)
    };
    let first = grant(json!(["o-alice"])).await?;
    let again = grant(json!(["o-alice"])).await?;
    assert_eq!(first.ok()["results"], again.ok()["results"]);
    for users in [json!(["o-bob"]), json!(["o-alice", "o-bob"])] {
        grant(users).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    }
    let stats = world.client.call_service("couponAdmin", json!({ "action": "stats", "couponId": "cp" })).await?;
    assert_eq!(stats.ok()["claimed"], 1);
    world.finish().await
}

/// Somebody changed the coupon by hand: the payment counts all the same, and the audit tells of the coupon.
#[tokio::test]
async fn a_damaged_coupon_stops_neither_payment_nor_closing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let db = crate::audit::database(&world).await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    issue(&world, "cp", json!({ "perUser": 2 })).await?;
    let mut orders = Vec::new();
    let mut undo = Vec::new();
    for _ in 0..2 {
        let coupon = claim(&world, &token, "cp").await?.text("userCouponId");
        let order = c.call("submitOrder", &token, with_coupon(order_of("p-apple", 1), &coupon)).await?.text("orderId");
        let free = bson::doc! { "$set": { "status": "unused" }, "$unset": { "orderId": "", "lockedAt": "" } };
        let edit = crate::audit::Edit::Update("userCoupons", coupon.clone(), free);
        undo.push((coupon, crate::audit::apply(&db, &edit).await?));
        orders.push(order);
    }
    c.call("wxPay", &token, json!({ "orderId": orders[0] })).await?.ok();
    assert_eq!(c.pay(&orders[0], "once").await?.body["noticeStatus"], 204);
    c.call("orders", &token, json!({ "action": "cancel", "orderId": orders[1] })).await?.ok();
    for (order, status) in orders.iter().zip(["paid", "closed"]) {
        let seen = c.call("orders", &token, json!({ "action": "get", "orderId": order })).await?;
        assert_eq!(seen.ok()["status"], status, "{seen:?}");
    }
    let found = world.violations().await?;
    assert!(found.iter().any(|line| line.starts_with("coupon: the order does not hold its coupon")), "{found:?}");
    // Put right: used by the one, free again after the other.
    let (used, before) = undo.remove(0);
    crate::audit::undo(&db, before).await?;
    let at = bson::DateTime::from_chrono(world.app.clock.now());
    let put_right = bson::doc! { "$set": { "status": "used", "usedAt": at } };
    crate::audit::apply(&db, &crate::audit::Edit::Update("userCoupons", used, put_right)).await?;
    world.finish().await
}
