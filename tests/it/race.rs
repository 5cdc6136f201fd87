//! Many at once.

use futures_util::future::join_all;
use it::{World, order_of};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_buyers_for_fifty_pieces() -> anyhow::Result<()> {
    let world = World::start().await?;
    let few = json!({
        "_id": "p-few", "name": "限量纪念币", "price": 9900, "status": "onSale", "stock": 50, "skus": [],
        "createdAt": { "$date": "2026-01-01T00:00:00Z" },
    });
    world.store.open_document("shopProducts", &few, world.app.clock.now()).await?;
    let tokens = join_all((0..20).map(|i| {
        let c = world.client.clone();
        async move { c.login(&format!("buyer{i}")).await }
    }))
    .await;
    let tokens = tokens.into_iter().collect::<Result<Vec<_>, _>>()?;
    let calls = (0..200).map(|i| {
        let (client, token) = (world.client.clone(), tokens[i % 20].clone());
        async move { client.call("submitOrder", &token, order_of("p-few", 1)).await }
    });
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let made = answers.iter().filter(|a| a.status == 200).count();
    assert_eq!(made, 50);
    for answer in answers.iter().filter(|a| a.status != 200) {
        answer.refused(409, "OUT_OF_STOCK");
    }
    assert_eq!(world.stock("p-few").await?, 0);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn double_submit_makes_one_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("twin").await?;
    // The last piece: only one of the twins can hold it, and all must answer with its order.
    let mut event = order_of("p-last", 1);
    event["requestId"] = json!("twin-request-1");
    let calls = (0..20).map(|_| {
        let (client, token, event) = (world.client.clone(), token.clone(), event.clone());
        async move { client.call("submitOrder", &token, event).await }
    });
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let ids: std::collections::BTreeSet<String> =
        answers.iter().map(|a| a.ok()["orderId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|a| a.body["replayed"] != true).count(), 1);
    event["remark"] = json!("另一个请求");
    world.client.call("submitOrder", &token, event).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_orders_cannot_spend_the_same_points_or_balance() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    // 500 yuan and 100 points: at most ten orders of 40 yuan and 10 points each.
    let calls = (0..24).map(|_| {
        let (client, token) = (world.client.clone(), token.clone());
        let mut event = order_of("p-apple", 1);
        event["paymentMethod"] = json!("balance");
        event["pointsUsed"] = json!(10);
        async move { client.call("submitOrder", &token, event).await }
    });
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let made = answers.iter().filter(|a| a.status == 200).count();
    // Earned points of the paid orders may let one more through.
    assert!((10..=11).contains(&made), "{made}");
    for answer in answers.iter().filter(|a| a.status != 200) {
        assert!(matches!(answer.code(), "POINTS_INSUFFICIENT" | "BALANCE_INSUFFICIENT"), "{answer:?}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn first_sign_ins_at_once_make_one_member() -> anyhow::Result<()> {
    let world = World::start().await?;
    let calls = (0..16).map(|_| {
        let c = world.client.clone();
        async move { c.call("login", "", json!({ "code": "dev-newcomer" })).await }
    });
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let ids: std::collections::BTreeSet<_> = answers.iter().map(|a| a.ok()["user"]["_id"].to_string()).collect();
    assert_eq!((ids.len(), answers.iter().filter(|a| a.body["isNew"] == true).count()), (1, 1));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wx_pay_at_once_is_one_attempt() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("payer").await?;
    let id = world.client.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    let calls = (0..12).map(|_| {
        let (client, token, id) = (world.client.clone(), token.clone(), id.clone());
        async move { client.call("wxPay", &token, json!({ "orderId": id })).await }
    });
    for answer in join_all(calls).await {
        answer?.ok();
    }
    let order = domain::OrderId::parse(&id)?;
    assert_eq!(world.store.payments_of(&order).await?.len(), 1);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_racing_with_pay() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("hasty").await?;
    for round in 0..16 {
        let id = c.call("submitOrder", &token, order_of("p-eggs", 2)).await?.text("orderId");
        c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
        let cancel = json!({ "action": "cancel", "orderId": id });
        // The payer pays at the same moment, and every other time somebody asks, too.
        let query = async {
            match round % 2 {
                0 => Some(c.call("wxPay", &token, json!({ "orderId": id, "action": "query" })).await),
                _ => None,
            }
        };
        let (cancelled, paid, queried) =
            tokio::join!(c.call("orders", &token, cancel.clone()), c.pay(&id, "duplicate"), query);
        let (cancelled, paid) = (cancelled?, paid?);
        queried.transpose()?;
        let seen = c.call("orders", &token, json!({ "action": "get", "orderId": id })).await?;
        match seen.ok()["status"].as_str() {
            // Paid wins: who cancelled is told so, or asks again and is.
            Some("paid") => {
                assert_eq!(paid.status, 200, "{paid:?}");
                c.call("orders", &token, cancel).await?.refused(409, "ORDER_STATE_INVALID");
            }
            // WeChat took no money, or what it took is going back.
            Some("closed") => {
                cancelled.ok();
                let money = seen.body["paymentExceptions"].as_array().unwrap().len();
                assert!(paid.status != 200 || money == 1, "{paid:?} {seen:?}");
            }
            other => assert!(cancelled.body["retryable"] == true, "{other:?} {cancelled:?}"),
        }
    }
    for _ in 0..2 {
        c.advance(1200).await?;
        it::settle_down(c).await?;
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_and_cancellations_of_one_product_add_up() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("fickle").await?;
    let rounds = (0..24).map(|i| {
        let (client, token) = (world.client.clone(), token.clone());
        async move {
            let id = client.call("submitOrder", &token, order_of("p-eggs", 2)).await?.text("orderId");
            if i % 3 != 0 {
                let cancel = json!({ "action": "cancel", "orderId": id });
                let (one, two) =
                    tokio::join!(client.call("orders", &token, cancel.clone()), client.call("orders", &token, cancel));
                one?.ok();
                two?.ok();
            }
            anyhow::Ok(())
        }
    });
    for round in join_all(rounds).await {
        round?;
    }
    assert_eq!(world.stock("p-eggs").await?, 300 - 8 * 2);
    world.finish().await
}
