//! Paying with prepaid money and goods in `submitOrder`.

use futures_util::future::join_all;
use it::{Answer, World, order_of};
use serde_json::{Value, json};

fn order(product: &str, quantity: i64, more: Value) -> Value {
    let mut event = order_of(product, quantity);
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

async fn balances(world: &World) -> anyhow::Result<Vec<i64>> {
    let records = world.store.all_prepaid_records(&domain::CustomerId::parse("c-lin")?).await?;
    Ok(records.iter().map(|r| r.balance).collect())
}

fn amounts(answer: &Answer) -> (Value, Value, Value) {
    (answer.ok()["status"].clone(), answer.body["prepaidAmount"].clone(), answer.body["paymentAmount"].clone())
}

#[tokio::test]
async fn prepaid_money_pays_as_much_as_it_can_and_comes_back() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = world.linked_member().await?;
    // 89.90 of the 100.00 yuan, the older record first; nothing is left for WeChat.
    let whole = c.call("submitOrder", &token, order("p-rice", 1, json!({ "paymentMethod": "prestore" }))).await?;
    assert_eq!(amounts(&whole), (json!("paid"), json!(89.9), json!(0)));
    assert_eq!(balances(&world).await?, [0, 1010, 2, 3]);
    // The 10.10 that are left, and WeChat for the rest.
    let part = c.call("submitOrder", &token, order("p-apple", 1, json!({ "paymentMethod": "prestore" }))).await?;
    assert_eq!(amounts(&part), (json!("pendingPayment"), json!(10.1), json!(39.9)));
    let id = part.text("orderId");
    c.call("submitOrder", &token, order("p-apple", 1, json!({ "paymentMethod": "prestore" })))
        .await?
        .refused(422, "PREPAID_INSUFFICIENT");
    c.call("orders", &token, json!({ "action": "cancel", "orderId": id })).await?.ok();
    assert_eq!(balances(&world).await?, [0, 1010, 2, 3]);
    // A given amount is used exactly, and what is not there is refused before anything is held.
    let some = json!({ "paymentMethod": "prestore", "prepaidAmount": "10.00", "prepaidRecordIds": ["pr-1"] });
    let exact = c.call("submitOrder", &token, order("p-apple", 1, some)).await?;
    assert_eq!(amounts(&exact), (json!("pendingPayment"), json!(10), json!(40)));
    let id = exact.text("orderId");
    let pay = c.call("wxPay", &token, json!({ "orderId": id })).await?;
    assert_eq!(pay.ok()["paymentAmount"], 40);
    c.pay(&id, "once").await?;
    assert_eq!(c.call("orders", &token, json!({ "action": "get", "orderId": id })).await?.ok()["status"], "paid");
    let stock = world.stock("p-apple").await?;
    let more = json!({ "paymentMethod": "prestore", "prepaidAmount": 0.11 });
    c.call("submitOrder", &token, order("p-apple", 1, more)).await?.refused(422, "PREPAID_INSUFFICIENT");
    assert_eq!((world.stock("p-apple").await?, balances(&world).await?), (stock, vec![0, 10, 2, 3]));
    world.finish().await
}

#[tokio::test]
async fn prepaid_goods_cover_pieces_and_wechat_pays_the_rest() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = world.linked_member().await?;
    let eight = c.call("submitOrder", &token, order("p-apple", 8, json!({ "paymentMethod": "prepaid" }))).await?;
    assert_eq!(amounts(&eight), (json!("pendingPayment"), json!(250), json!(150)));
    assert_eq!(
        (&eight.body["items"][0]["payable"], &eight.body["items"][0]["prepaidQuantity"]),
        (&json!(150), &json!(5))
    );
    assert_eq!(balances(&world).await?, [4000, 6000, 0, 0]);
    // Not paid in time: every record gets back exactly what it gave.
    world.client.advance(31 * 60).await?;
    c.timer("closeExpiredOrders").await?;
    assert_eq!(balances(&world).await?, [4000, 6000, 2, 3]);
    // Goods, money and points together: 3 boxes covered, 5 points off, 20 yuan of money, the rest by WeChat.
    let token = world.client.login("lin").await?;
    let mut event = order("p-apple", 3, json!({ "paymentMethod": "prepaid", "prepaidAmount": 20, "pointsUsed": 5 }));
    event["items"] = json!([{ "productId": "p-apple", "quantity": 3 }, { "productId": "p-eggs", "quantity": 1 }]);
    let mixed = c.call("submitOrder", &token, event).await?;
    let (total, discount) =
        (mixed.ok()["totalAmount"].as_f64().unwrap(), mixed.body["discountAmount"].as_f64().unwrap());
    let rest = mixed.body["prepaidAmount"].as_f64().unwrap() + mixed.body["paymentAmount"].as_f64().unwrap();
    assert_eq!((total, discount), (195.5, 5.0));
    assert!((rest - 190.5).abs() < 1e-9, "{mixed:?}");
    assert_eq!(mixed.body["items"][0]["payable"], 0);
    assert_eq!(balances(&world).await?, [2000, 6000, 0, 2]);
    // Two boxes alone are covered whole: nothing to pay, paid at once.
    let two = c.call("submitOrder", &token, order("p-apple", 2, json!({ "paymentMethod": "prepaid" }))).await?;
    assert_eq!(amounts(&two), (json!("paid"), json!(100), json!(0)));
    c.call("submitOrder", &token, order("p-apple", 1, json!({ "paymentMethod": "prepaid" })))
        .await?
        .refused(422, "PREPAID_INSUFFICIENT");
    world.finish().await
}

#[tokio::test]
async fn a_tender_that_fails_makes_no_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = world.linked_member().await?;
    let stranger = c.login("stranger").await?;
    let cases = [
        (&stranger, "p-apple", json!({ "paymentMethod": "prestore" }), (404, "CUSTOMER_NOT_FOUND")),
        (&token, "p-eggs", json!({ "paymentMethod": "prepaid" }), (422, "PREPAID_PRODUCT_MISMATCH")),
        (
            &token,
            "p-apple",
            json!({ "paymentMethod": "prestore", "prepaidRecordIds": ["pr-demo-amount"] }),
            (400, "INVALID_ARGUMENT"),
        ),
        (&token, "p-apple", json!({ "paymentMethod": "prestore", "prepaidRecordIds": [] }), (400, "INVALID_ARGUMENT")),
        (&token, "p-apple", json!({ "paymentMethod": "prestore", "prepaidAmount": 0 }), (400, "INVALID_ARGUMENT")),
        (&token, "p-apple", json!({ "paymentMethod": "prestore", "prepaidAmount": 1.001 }), (400, "INVALID_ARGUMENT")),
        (&token, "p-apple", json!({ "paymentMethod": "wechat", "prepaidAmount": 10 }), (400, "INVALID_ARGUMENT")),
        (
            &token,
            "p-apple",
            json!({ "paymentMethod": "balance", "prepaidRecordIds": ["pr-0"] }),
            (400, "INVALID_ARGUMENT"),
        ),
        (
            &token,
            "p-apple",
            json!({ "paymentMethod": "prestore", "prepaidRecordIds": ["pr-2"] }),
            (422, "PREPAID_INSUFFICIENT"),
        ),
    ];
    for (token, product, more, (status, code)) in cases {
        c.call("submitOrder", token, order(product, 1, more)).await?.refused(status, code);
    }
    assert_eq!((world.stock("p-apple").await?, world.stock("p-eggs").await?), (1000, 300));
    assert_eq!(balances(&world).await?, [4000, 6000, 2, 3]);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_orders_at_once_cannot_use_the_same_prepaid() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.linked_member().await?;
    let calls = (0..16).map(|i| {
        let (client, token) = (world.client.clone(), token.clone());
        let more = if i % 2 == 0 {
            json!({ "paymentMethod": "prestore", "prepaidAmount": 25 })
        } else {
            json!({ "paymentMethod": "prepaid" })
        };
        async move { client.call("submitOrder", &token, order("p-apple", 1, more)).await.map(|answer| (i % 2, answer)) }
    });
    let mut made = [0, 0];
    for outcome in join_all(calls).await {
        let (kind, answer) = outcome?;
        match answer.status {
            200 => made[kind] += 1,
            _ => answer.refused(422, "PREPAID_INSUFFICIENT"),
        }
    }
    assert_eq!((made, balances(&world).await?), ([4, 5], vec![0, 0, 0, 0]));
    world.finish().await
}
