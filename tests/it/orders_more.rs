//! Orders after they are shipped, and what staff see and write of them.

use futures_util::future::join_all;
use it::{Answer, World, order_of};
use serde_json::{Value, json};

use crate::parcels::moved;
use crate::shipping::{paid, ship};

const DAY: i64 = 86_400;

async fn confirm(world: &World, token: &str, order: &str) -> anyhow::Result<Answer> {
    world.client.call("orders", token, json!({ "action": "confirmReceipt", "orderId": order })).await
}

async fn get(world: &World, token: &str, order: &str) -> anyhow::Result<Value> {
    let got = world.client.call("orders", token, json!({ "action": "get", "orderId": order })).await?;
    Ok(got.ok().clone())
}

#[tokio::test]
async fn a_buyer_says_that_the_goods_have_come() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let order = paid(&world, &token).await?;
    let early = confirm(&world, &token, &order).await?;
    early.refused(409, "ORDER_STATE_INVALID");
    assert_eq!(early.body["details"]["status"], "paid");
    ship(&world, &order, "1").await?.ok();
    let other = c.login("bob").await?;
    confirm(&world, &other, &order).await?.refused(403, "FORBIDDEN");
    confirm(&world, &token, "20261121000000000NONENONE").await?.refused(404, "ORDER_NOT_FOUND");
    let done = confirm(&world, &token, &order).await?;
    assert_eq!((&done.ok()["status"], &done.body["replayed"]), (&json!("completed"), &Value::Null));
    let at = get(&world, &token, &order).await?["completedAt"].clone();
    assert!(at.is_string());
    c.advance(60).await?;
    assert_eq!(confirm(&world, &token, &order).await?.ok()["replayed"], true);
    let seen = get(&world, &token, &order).await?;
    assert_eq!((&seen["status"], &seen["completedAt"]), (&json!("completed"), &at));
    c.call("orders", &token, json!({ "action": "cancel", "orderId": order }))
        .await?
        .refused(409, "ORDER_STATE_INVALID");
    // Shipping it again with the same data is still answered as it was.
    assert_eq!(ship(&world, &order, "1").await?.ok()["status"], "completed");
    world.finish().await
}

#[tokio::test]
async fn what_was_shipped_long_ago_completes_by_itself() -> anyhow::Result<()> {
    let world = World::start_with(|config| config.rules.auto_complete_days = 3).await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (old, asked, waiting) = (paid(&world, &token).await?, paid(&world, &token).await?, paid(&world, &token).await?);
    ship(&world, &old, "1").await?.ok();
    ship(&world, &asked, "2").await?.ok();
    let asks = json!({ "action": "apply", "orderId": asked, "reason": "不想要了" });
    let refund = c.call("refunds", &token, asks).await?.ok()["refund"]["refundId"].clone();
    c.timer("deliverOutbox").await?.ok();
    c.advance(2 * DAY).await?;
    let young = paid(&world, &token).await?;
    ship(&world, &young, "3").await?.ok();
    c.timer("deliverOutbox").await?.ok();
    assert_eq!(c.timer("autoComplete").await?.ok()["completed"], 0);
    c.advance(DAY).await?;
    let ran = c.timer("autoComplete").await?;
    assert_eq!((&ran.ok()["completed"], &ran.body["remaining"]), (&json!(1), &json!(false)));
    assert_eq!(c.timer("autoComplete").await?.ok()["completed"], 0);
    for (order, status) in [(&old, "completed"), (&asked, "shipped"), (&waiting, "paid"), (&young, "shipped")] {
        assert_eq!(get(&world, &token, order).await?["status"], status);
    }
    // Its refund is done with: nothing holds it any more.
    let no = json!({ "action": "reject", "refundId": refund, "reason": "已经发货" });
    c.call("refunds", &world.staff("refunds")?, no).await?.ok();
    assert_eq!(c.timer("autoComplete").await?.ok()["completed"], 1);
    world.finish().await
}

#[tokio::test]
async fn what_is_still_on_its_way_does_not_complete_by_itself() -> anyhow::Result<()> {
    let world = World::start_with(|config| config.rules.auto_complete_days = 3).await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut orders = Vec::new();
    for number in ["YT0000000801", "YT0000000802", "YT0000000803"] {
        let order = paid(&world, &token).await?;
        ship(&world, &order, number).await?.ok();
        orders.push(order);
    }
    c.timer("deliverOutbox").await?.ok();
    c.advance(2 * DAY).await?;
    moved(&world, "YT0000000801", json!({ "state": "301" })).await?;
    moved(&world, "YT0000000802", json!({ "state": "1002" })).await?;
    c.timer("deliverOutbox").await?.ok();
    c.advance(DAY).await?;
    let statuses = async || -> anyhow::Result<Vec<Value>> {
        let (token, mut all) = (c.login("alice").await?, Vec::new());
        for order in &orders {
            all.push(get(&world, &token, order).await?["status"].clone());
        }
        Ok(all)
    };
    // The first has arrived, the second is under way, and of the third nobody tells anything.
    assert_eq!(c.timer("autoComplete").await?.ok()["completed"], 2);
    assert_eq!(statuses().await?, ["completed", "shipped", "completed"]);
    c.advance(DAY).await?;
    moved(&world, "YT0000000802", json!({ "state": "5" })).await?;
    c.advance(2 * DAY).await?;
    assert_eq!(c.timer("autoComplete").await?.ok()["completed"], 0);
    moved(&world, "YT0000000802", json!({ "state": "301" })).await?;
    assert_eq!(c.timer("autoComplete").await?.ok()["completed"], 1);
    assert_eq!(statuses().await?, ["completed", "completed", "completed"]);
    c.timer("deliverOutbox").await?.ok();
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn buyers_and_the_timer_complete_many_orders_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    let mut orders = Vec::new();
    for n in 0..12 {
        let mut event = order_of("p-sticker", 1);
        event["paymentMethod"] = json!("balance");
        let order = c.call("submitOrder", &token, event).await?.text("orderId");
        ship(&world, &order, &n.to_string()).await?.ok();
        orders.push(order);
    }
    c.timer("deliverOutbox").await?.ok();
    c.advance(10 * DAY).await?;
    let token = c.login("demo").await?;
    let confirms = orders.iter().flat_map(|order| [confirm(&world, &token, order), confirm(&world, &token, order)]);
    let (confirms, one, two) = tokio::join!(join_all(confirms), c.timer("autoComplete"), c.timer("autoComplete"));
    let timers = one?.ok()["completed"].as_u64().unwrap() + two?.ok()["completed"].as_u64().unwrap();
    let mut by_hand = 0;
    for answer in confirms {
        by_hand += u64::from(answer?.ok()["replayed"] != true);
    }
    assert_eq!(timers + by_hand, 12, "each completes once");
    for order in &orders {
        assert_eq!(get(&world, &token, order).await?["status"], "completed");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_write_notes_that_the_buyer_does_not_see() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (token, staff) = (c.login("alice").await?, world.staff("orders")?);
    let order = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    let note = |text: &str| json!({ "action": "note", "orderId": order, "text": text });
    c.call("orders", &token, note("x")).await?.refused(403, "FORBIDDEN");
    c.call_service("orders", note("x")).await?.refused(403, "FORBIDDEN");
    let mut event = note("客人要求周末送货");
    event["requestId"] = json!("note-0001");
    let first = c.call("orders", &staff, event.clone()).await?;
    assert_eq!(
        (&first.ok()["notes"][0]["text"], &first.body["notes"][0]["by"]),
        (&json!("客人要求周末送货"), &json!("staff:lily"))
    );
    assert_eq!(c.call("orders", &staff, event).await?.ok()["replayed"], true);
    // Twenty in all, however many are written at once.
    let events: Vec<Value> = (0..24).map(|n| note(&format!("第 {n} 条"))).collect();
    let answers = join_all(events.into_iter().map(|event| c.call("orders", &staff, event))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 19, "{answers:?}");
    answers.iter().filter(|answer| answer.status != 200).for_each(|answer| answer.refused(409, "CONFLICT"));
    let seen = get(&world, &staff, &order).await?;
    assert_eq!((seen["notes"].as_array().unwrap().len(), &seen["adjustments"]), (20, &json!([])));
    let seen = get(&world, &token, &order).await?;
    assert_eq!((&seen["notes"], &seen["adjustments"]), (&Value::Null, &Value::Null));
    for (event, field) in [
        (note(" "), "text"),
        (json!({ "action": "note", "orderId": order }), "text"),
        (note(&"字".repeat(501)), "text"),
        (json!({ "action": "note", "text": "x" }), "orderId"),
    ] {
        let answer = c.call("orders", &staff, event).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field);
    }
    let unknown = json!({ "action": "note", "orderId": "20261121000000000NONENONE", "text": "x" });
    c.call("orders", &staff, unknown).await?.refused(404, "ORDER_NOT_FOUND");
    world.finish().await
}

#[tokio::test]
async fn staff_find_orders_by_member_and_by_their_refunds() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (alice, staff) = (c.login("alice").await?, world.staff("orders")?);
    let demo = c.login("demo").await?;
    let theirs = paid(&world, &alice).await?;
    let own = c.call("submitOrder", &demo, order_of("p-apple", 1)).await?.text("orderId");
    let asks = json!({ "action": "apply", "orderId": theirs, "reason": "不想要了" });
    c.call("refunds", &alice, asks).await?.ok();
    let list = |more: Value| {
        let mut event = json!({ "action": "list" });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        c.call("orders", &staff, event)
    };
    let ids = |answer: Answer| -> Vec<String> {
        let rows = answer.ok()["data"].as_array().unwrap().clone();
        rows.iter().map(|row| row["orderId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(list(json!({})).await?).len(), 2);
    assert_eq!(ids(list(json!({ "userId": "u-demo" })).await?), std::slice::from_ref(&own));
    assert_eq!(ids(list(json!({ "userId": "u-demo", "status": "pendingPayment" })).await?), [own]);
    for more in [json!({}), json!({ "status": "paid" }), json!({ "type": "normal" })] {
        let mut more = more;
        more["refundState"] = json!("applied");
        assert_eq!(ids(list(more).await?), std::slice::from_ref(&theirs));
    }
    assert!(ids(list(json!({ "refundState": "refunded", "userId": "u-demo" })).await?).is_empty());
    for (more, field) in [(json!({ "userId": "a b" }), "userId"), (json!({ "refundState": "x" }), "refundState")] {
        let answer = list(more).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field);
    }
    let prying = c.call("orders", &alice, json!({ "action": "list", "userId": "u-demo" })).await?;
    assert_eq!(ids(prying), std::slice::from_ref(&theirs));
    world.finish().await
}

#[tokio::test]
async fn an_order_goes_elsewhere_while_it_is_not_paid() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let place = |province: &str, detail: &str| json!({ "name": "张三", "phone": "13800138000", "province": province, "detail": detail });
    let change =
        |order: &str, address: Value| json!({ "action": "changeAddress", "orderId": order, "address": address });
    let order = c.call("submitOrder", &token, order_of("p-oil", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": order })).await?.ok();

    // The same fee there: only the address changes, and the attempt to pay stays open.
    let near = c.call("orders", &token, change(&order, place("江苏省", "中山路 1 号"))).await?;
    assert_eq!((&near.ok()["paymentAmount"], &near.body["freightAmount"]), (&json!(146), &json!(18)));
    assert_eq!(get(&world, &token, &order).await?["address"]["detail"], "中山路 1 号");
    assert_eq!(c.call("orders", &token, change(&order, place("江苏省", "中山路 1 号"))).await?.ok()["replayed"], true);
    assert_eq!(get(&world, &token, &order).await?["payments"].as_array().unwrap().len(), 1);

    let far = change(&order, place("新疆", "解放路 1 号"));
    let refused = c.call("orders", &token, far.clone()).await?;
    refused.refused(409, "AMOUNT_MISMATCH");
    assert_eq!(
        refused.body["details"]["differences"][1],
        json!({ "field": "freightAmount", "expected": "93.00", "actual": "18.00" })
    );
    let mut agreed = far;
    agreed["acceptFreight"] = json!(true);
    let agreed = c.call("orders", &token, agreed).await?;
    assert_eq!((&agreed.ok()["paymentAmount"], &agreed.body["freightAmount"]), (&json!(221), &json!(93)));
    let nowhere = c.call("orders", &token, change(&order, place("台湾", "x"))).await?;
    nowhere.refused(400, "INVALID_ARGUMENT");
    assert_eq!(nowhere.body["details"]["reason"], "NOT_DELIVERABLE");
    assert_eq!(c.call("wxPay", &token, json!({ "orderId": order })).await?.ok()["paymentAmount"], 221);
    c.pay(&order, "once").await?;
    let seen = get(&world, &token, &order).await?;
    assert_eq!((&seen["status"], &seen["address"]["province"]), (&json!("paid"), &json!("新疆")));
    let late = c.call("orders", &token, change(&order, place("江苏省", "x"))).await?;
    late.refused(409, "ORDER_STATE_INVALID");

    // Staff for the buyer, by one of the buyer's addresses; nobody else.
    let order = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    let saved = json!({ "action": "create", "address": place("新疆", "人民路 9 号") });
    let saved = c.call("addresses", &token, saved).await?.text("_id");
    let event = json!({ "action": "changeAddress", "orderId": order, "addressId": saved });
    let bob = c.login("bob").await?;
    c.call("orders", &bob, event.clone()).await?.refused(403, "FORBIDDEN");
    c.call("orders", &world.staff("orders")?, event).await?.ok();
    assert_eq!(get(&world, &token, &order).await?["address"]["detail"], "人民路 9 号");
    let seen = get(&world, &world.staff("orders")?, &order).await?;
    assert_eq!(
        (&seen["adjustments"][0]["type"], &seen["adjustments"][0]["by"]),
        (&json!("place"), &json!("staff:lily"))
    );
    world.finish().await
}

/// What staff have agreed on with the buyer is about the place before: another place costs the difference, and no more.
#[tokio::test]
async fn a_freight_that_staff_set_moves_with_the_address_by_the_difference() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (token, staff) = (c.login("alice").await?, world.staff("orders")?);
    let order = c.call("submitOrder", &token, order_of("p-oil", 1)).await?.text("orderId");
    let freight =
        |yuan: f64| json!({ "action": "changePrice", "orderId": order, "freightAmount": yuan, "reason": "运费约定" });
    let to = |province: &str, accept: bool| {
        json!({ "action": "changeAddress", "orderId": order, "acceptFreight": accept, "address":
            { "name": "张三", "phone": "13800138000", "province": province, "detail": "解放路 1 号" } })
    };
    c.call("orders", &staff, freight(0.0)).await?.ok();
    // The same fee there: what was agreed on holds, and nothing has to be accepted.
    let near = c.call("orders", &token, to("江苏省", false)).await?;
    assert_eq!((&near.ok()["freightAmount"], &near.body["paymentAmount"]), (&json!(0), &json!(128)));
    let far = c.call("orders", &token, to("新疆", false)).await?;
    far.refused(409, "AMOUNT_MISMATCH");
    assert_eq!(
        far.body["details"]["differences"][1],
        json!({ "field": "freightAmount", "expected": "75.00", "actual": "0.00" })
    );
    let far = c.call("orders", &token, to("新疆", true)).await?;
    assert_eq!((&far.ok()["freightAmount"], &far.body["paymentAmount"]), (&json!(75), &json!(203)));
    // What is agreed on for the far place takes no more off the near one than there is, and comes back with it.
    c.call("orders", &staff, freight(50.5)).await?.ok();
    let near = c.call("orders", &token, to("浙江省", true)).await?;
    assert_eq!((&near.ok()["freightAmount"], &near.body["paymentAmount"]), (&json!(0), &json!(128)));
    let far = c.call("orders", &token, to("新疆", true)).await?;
    assert_eq!((&far.ok()["freightAmount"], &far.body["paymentAmount"]), (&json!(50.5), &json!(178.5)));
    assert_eq!(c.call("wxPay", &token, json!({ "orderId": order })).await?.ok()["paymentAmount"], 178.5);
    c.pay(&order, "once").await?;
    let seen = get(&world, &token, &order).await?;
    assert_eq!((&seen["status"], &seen["freightAmount"]), (&json!("paid"), &json!(50.5)));
    world.finish().await
}

#[tokio::test]
async fn staff_read_what_an_order_moved() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (token, staff) = (c.login("alice").await?, world.staff("orders")?);
    let order = paid(&world, &token).await?;
    let ask = json!({ "action": "book", "orderId": order });
    c.call("orders", &token, ask.clone()).await?.refused(403, "FORBIDDEN");
    c.call_service("orders", ask.clone()).await?.refused(403, "FORBIDDEN");
    let none = json!({ "action": "book", "orderId": "20261121000000000NONENONE" });
    c.call("orders", &staff, none).await?.refused(404, "ORDER_NOT_FOUND");
    let book = c.call("orders", &staff, ask).await?;
    let entries = book.ok()["data"].as_array().unwrap().clone();
    assert!(entries.len() >= 2, "reserved, then settled: {entries:?}");
    for entry in &entries {
        let mut sums = std::collections::BTreeMap::new();
        for posting in entry["postings"].as_array().unwrap() {
            *sums.entry(posting["asset"].to_string()).or_insert(0) += posting["amount"].as_i64().unwrap();
        }
        assert!(sums.values().all(|sum| *sum == 0), "{entry}");
    }
    let sold = entries.iter().flat_map(|e| e["postings"].as_array().unwrap()).any(|p| p["account"] == "@sales");
    assert!(sold, "{entries:?}");
    world.finish().await
}
