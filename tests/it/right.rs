//! Buying with a right that a draw gave.

use bson::{Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use it::{Answer, Client, World, mongod_uri, order_of};
use mongodb::Database;
use serde_json::{Value, json};
use store::qualifications::QualificationStatus;

const PRODUCT: &str = "p-lottery";
const SECONDS: i64 = 30 * 60;

/// Draws a right to `quantity` pieces of `p-lottery` for half an hour, as its only entrant. `now` is the functions' time, which
/// moves on by half a minute.
pub(crate) async fn win(client: &Client, token: &str, quantity: i64, now: DateTime<Utc>) -> anyhow::Result<String> {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let activity = json!({
        "activityName": "限量酒抢签", "productId": PRODUCT, "mode": "auto", "quota": 1, "quantity": quantity,
        "windows": [{ "start": "00:00", "end": "12:00" }, { "start": "12:00", "end": "00:00" }],
        "startTime": time(now - TimeDelta::hours(1)), "endTime": time(now + TimeDelta::seconds(25)),
    });
    let made = client.call_service("lotteryAdmin", json!({ "action": "create", "activity": activity })).await?;
    let sign_up = json!({ "action": "signUp", "activityId": made.ok()["activityId"] });
    let round = client.call("lottery", token, sign_up).await?.text("roundId");
    client.advance(30).await?;
    client.call_service("lotteryDraw", json!({ "roundId": round })).await?.ok();
    let result = client.call("lottery", token, json!({ "action": "result", "roundId": round })).await?;
    assert_eq!(result.ok()["won"], true, "{result:?}");
    Ok(result.text("qualificationId"))
}

/// A world with a winner.
struct Won {
    world: World,
    db: Database,
    token: String,
    right: String,
}

async fn won() -> anyhow::Result<Won> {
    let world = World::start().await?;
    let token = world.client.login("winner").await?;
    let name = world.app.config.store.as_ref().map(|s| s.database.clone()).unwrap_or_default();
    let uri = mongod_uri().await?;
    let db = mongodb::Client::with_uri_str(&uri).await?.database(&name);
    let right = win(&world.client, &token, 1, world.app.clock.now()).await?;
    Ok(Won { world, db, token, right })
}

fn order_with(right: &str) -> Value {
    let mut event = order_of(PRODUCT, 1);
    event["qualificationId"] = json!(right);
    event
}

impl Won {
    async fn submit(&self, event: Value) -> anyhow::Result<Answer> {
        self.world.client.call("submitOrder", &self.token, event).await
    }

    async fn status(&self) -> anyhow::Result<QualificationStatus> {
        Ok(self.world.store.qualification(&self.right).await?.unwrap().status)
    }

    /// What the pieces account of this asset holds.
    async fn held(&self, account: &str) -> anyhow::Result<i64> {
        let pipeline = [
            doc! { "$match": { "postings.account": account } },
            doc! { "$unwind": "$postings" },
            doc! { "$match": { "postings.account": account, "postings.asset": format!("stock:{PRODUCT}") } },
            doc! { "$group": { "_id": null, "sum": { "$sum": "$postings.amount" } } },
        ];
        let mut cursor = self.db.collection::<Document>("ledger").aggregate(pipeline).await?;
        Ok(if cursor.advance().await? { cursor.deserialize_current()?.get_i64("sum")? } else { 0 })
    }
}

#[track_caller]
fn invalid(answer: &Answer, reason: &str) {
    answer.refused(422, "QUALIFICATION_INVALID");
    assert_eq!(answer.body["details"]["reason"], reason, "{answer:?}");
}

#[tokio::test]
async fn a_winner_buys_and_pays() -> anyhow::Result<()> {
    let won = won().await?;
    let c = &won.world.client;
    invalid(&won.submit(order_of(PRODUCT, 1)).await?, "REQUIRED");
    let made = won.submit(order_with(&won.right)).await?;
    let id = made.ok()["orderId"].as_str().unwrap().to_owned();
    assert_eq!(made.body["paymentAmount"], 1499);
    // No second piece leaves the shelf.
    assert_eq!(
        (won.world.stock(PRODUCT).await?, won.held("@qualified").await?, won.held("@reserved").await?),
        (49, 0, 1)
    );
    let view = c.call("orders", &won.token, json!({ "action": "get", "orderId": id })).await?;
    assert_eq!((&view.ok()["type"], &view.body["qualificationId"]), (&json!("lottery"), &json!(won.right)));
    assert_eq!(view.body["coinsUsed"], 0);
    c.call("wxPay", &won.token, json!({ "orderId": id })).await?.ok();
    assert_eq!(c.pay(&id, "once").await?.body["noticeStatus"], 204);
    assert_eq!(won.held("@sold").await?, 1);
    invalid(&won.submit(order_with(&won.right)).await?, "USED");
    won.world.finish().await
}

#[tokio::test]
async fn a_right_is_for_its_owner_its_goods_and_its_time() -> anyhow::Result<()> {
    let won = won().await?;
    let c = &won.world.client;
    let other = c.login("other").await?;
    let theirs = c.call("submitOrder", &other, order_with(&won.right)).await?;
    let nobodys = c.call("submitOrder", &other, order_with("r-1-00")).await?;
    invalid(&theirs, "NOT_FOUND");
    // Whether a right of somebody else exists is nobody's business.
    assert_eq!(
        (&theirs.body["message"], &theirs.body["details"]),
        (&nobodys.body["message"], &nobodys.body["details"])
    );

    let mut two = order_with(&won.right);
    two["items"][0]["quantity"] = json!(2);
    invalid(&won.submit(two).await?, "QUANTITY_MISMATCH");
    let mut apples = order_of("p-apple", 1);
    apples["qualificationId"] = json!(won.right);
    invalid(&won.submit(apples).await?, "PRODUCT_MISMATCH");
    let mut both = order_with(&won.right);
    both["items"].as_array_mut().unwrap().push(json!({ "productId": "p-apple", "quantity": 1 }));
    invalid(&won.submit(both).await?, "PRODUCT_MISMATCH");
    let mut sku = order_with(&won.right);
    sku["items"][0]["skuId"] = json!("s-grade1");
    invalid(&won.submit(sku).await?, "PRODUCT_MISMATCH");
    // The same goods on two lines are one line, of two pieces.
    let mut twice = order_with(&won.right);
    twice["items"].as_array_mut().unwrap().push(json!({ "productId": PRODUCT, "quantity": 1 }));
    invalid(&won.submit(twice).await?, "QUANTITY_MISMATCH");

    // Off sale: the right stays, the goods are not sold.
    let products = won.db.collection::<Document>("shopProducts");
    let status = |s: &str| doc! { "$set": { "status": s } };
    products.update_one(doc! { "_id": PRODUCT }, status("offSale")).await?;
    won.submit(order_with(&won.right)).await?.refused(404, "PRODUCT_NOT_FOUND");
    products.update_one(doc! { "_id": PRODUCT }, status("onSale")).await?;
    assert_eq!(won.status().await?, QualificationStatus::Active);

    // A tender that fails uses nothing up.
    let mut poor = order_with(&won.right);
    poor["paymentMethod"] = json!("balance");
    won.submit(poor).await?.refused(422, "BALANCE_INSUFFICIENT");
    assert_eq!(won.status().await?, QualificationStatus::Active);
    won.submit(order_with(&won.right)).await?.ok();
    won.world.finish().await
}

/// The store's rule at the exact millisecond; the functions' clock cannot be stopped there.
#[tokio::test]
async fn a_right_ends_at_its_millisecond() -> anyhow::Result<()> {
    let won = won().await?;
    let right = won.world.store.qualification(&won.right).await?.unwrap();
    let one_ms = TimeDelta::milliseconds(1);
    let order = domain::OrderId::generate(right.granted_at, rand::random());
    let try_at = |at: DateTime<Utc>| {
        let (store, right, order) = (&won.world.store, &right, &order);
        async move {
            let run = store.transaction(|tx, _| {
                Box::pin(async move {
                    tx.use_qualification(right, order, at).await?;
                    // What is only asked must not be written.
                    Err::<(), _>(store::Error::Invariant("it would have worked".to_owned()))
                })
            });
            run.await.unwrap_err().to_string()
        }
    };
    assert!(try_at(right.expire_time - one_ms).await.contains("it would have worked"));
    for late in [right.expire_time, right.expire_time + one_ms] {
        let error = try_at(late).await;
        assert!(!error.contains("it would have worked"), "{error}");
        let refusal = right.check(&right.product_id, None, 1, late).unwrap_err();
        assert_eq!(refusal.details["reason"], "EXPIRED");
    }
    assert!(right.check(&right.product_id, None, 1, right.expire_time - one_ms).is_ok());
    won.world.client.advance(SECONDS).await?;
    invalid(&won.submit(order_with(&won.right)).await?, "EXPIRED");
    assert_eq!(won.status().await?, QualificationStatus::Active);
    won.world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_right_makes_one_order_however_many_try() -> anyhow::Result<()> {
    let won = won().await?;
    let calls = (0..12).map(|i| {
        let mut event = order_with(&won.right);
        event["requestId"] = json!(format!("right-rival-{i}"));
        won.submit(event)
    });
    let answers: Vec<Answer> = futures_util::future::join_all(calls).await.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 1);
    for answer in answers.iter().filter(|a| a.status != 200) {
        invalid(answer, "USED");
    }
    won.world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_with_a_right_sent_often_is_one_order() -> anyhow::Result<()> {
    let won = won().await?;
    let mut event = order_with(&won.right);
    event["requestId"] = json!("right-twin-1");
    let answers = futures_util::future::join_all((0..12).map(|_| won.submit(event.clone()))).await;
    let answers: Vec<Answer> = answers.into_iter().collect::<Result<_, _>>()?;
    let ids: std::collections::BTreeSet<String> = answers.iter().map(|a| a.ok()["orderId"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(won.submit(event).await?.ok()["replayed"], true);
    won.world.finish().await
}

#[tokio::test]
async fn a_closed_order_gives_the_right_back() -> anyhow::Result<()> {
    let won = won().await?;
    let c = &won.world.client;
    let before = won.world.store.qualification(&won.right).await?.unwrap();
    let first = won.submit(order_with(&won.right)).await?.text("orderId");
    let cancel = json!({ "action": "cancel", "orderId": first });
    let (one, two) = tokio::join!(c.call("orders", &won.token, cancel.clone()), c.call("orders", &won.token, cancel));
    one?.ok();
    two?.ok();
    let after = won.world.store.qualification(&won.right).await?.unwrap();
    assert_eq!((after.status, after.order_id.is_none()), (QualificationStatus::Active, true));
    assert_eq!(after.expire_time, before.expire_time);
    // The piece is held for the winner, not on the shelf.
    assert_eq!(
        (won.world.stock(PRODUCT).await?, won.held("@qualified").await?, won.held("@reserved").await?),
        (49, 1, 0)
    );
    let found = won.world.violations().await?;
    assert!(found.is_empty(), "{found:?}");

    let second = won.submit(order_with(&won.right)).await?;
    assert_ne!(second.ok()["orderId"], json!(first));
    // The unpaid order closes after the right has ended: it comes back, and its time is over.
    c.advance(SECONDS + 60).await?;
    won.world.settle_down().await?;
    assert_eq!(won.status().await?, QualificationStatus::Active);
    assert_eq!((won.world.stock(PRODUCT).await?, won.held("@qualified").await?), (49, 1));
    invalid(&won.submit(order_with(&won.right)).await?, "EXPIRED");
    won.world.finish().await
}

#[tokio::test]
async fn prepaid_money_pays_with_a_right() -> anyhow::Result<()> {
    let won = won().await?;
    let world = &won.world;
    let token = world.linked_member().await?;
    let right = win(&world.client, &token, 2, world.app.clock.now()).await?;
    let mut event = order_of(PRODUCT, 2);
    event["qualificationId"] = json!(right);
    event["paymentMethod"] = json!("prestore");
    event["pointsUsed"] = json!(3);
    let made = world.client.call("submitOrder", &token, event).await?;
    assert_eq!((&made.ok()["prepaidAmount"], &made.body["paymentAmount"]), (&json!(100), &json!(2998 - 3 - 100)));
    let found = world.violations().await?;
    assert!(found.is_empty(), "{found:?}");
    let cancel = json!({ "action": "cancel", "orderId": made.body["orderId"] });
    world.client.call("orders", &token, cancel).await?.ok();
    won.world.finish().await
}

#[tokio::test]
async fn the_audit_sees_a_right_and_an_order_that_disagree() -> anyhow::Result<()> {
    let won = won().await?;
    let bought = won.submit(order_with(&won.right)).await?.text("orderId");
    let free = win(&won.world.client, &won.token, 1, won.world.app.clock.now()).await?;
    let mut event = order_with(&free);
    event["requestId"] = json!("right-closed-1");
    let closed = won.submit(event).await?.text("orderId");
    let cancel = json!({ "action": "cancel", "orderId": closed });
    won.world.client.call("orders", &won.token, cancel).await?.ok();
    let found = won.world.violations().await?;
    assert!(found.is_empty(), "{found:?}");

    let (rights, orders) = ("lotteryQualifications", "orders");
    let damages: Vec<(&str, &str, &String, Document)> = vec![
        ("used and free at once", rights, &won.right, doc! { "$set": { "status": "active" } }),
        (
            "its order forgotten",
            rights,
            &won.right,
            doc! { "$unset": { "orderId": "" }, "$set": { "status": "active" } },
        ),
        ("used by a closed order", rights, &free, doc! { "$set": { "status": "used", "orderId": &closed } }),
        (
            "used by no order",
            rights,
            &free,
            doc! { "$set": { "status": "used", "orderId": "20260101000000ABCDEF0001" } },
        ),
        ("used by another right's order", rights, &free, doc! { "$set": { "status": "used", "orderId": &bought } }),
        ("another owner", rights, &won.right, doc! { "$set": { "userId": "u-demo" } }),
        ("other goods", rights, &won.right, doc! { "$set": { "productId": "p-apple" } }),
        ("another quantity", rights, &won.right, doc! { "$set": { "quantity": 2i64 } }),
        (
            "ended before it was used",
            rights,
            &won.right,
            doc! { "$set": { "expireTime": bson::DateTime::from_millis(0) } },
        ),
        ("another ticket", rights, &won.right, doc! { "$set": { "ticketId": "00" } }),
        ("an order without its right", orders, &bought, doc! { "$unset": { "qualificationId": "" } }),
        ("an order with an unknown right", orders, &bought, doc! { "$set": { "qualificationId": "r-1-00" } }),
        ("an order with the right of another", orders, &bought, doc! { "$set": { "qualificationId": &free } }),
        ("an ordinary order with a right", orders, &bought, doc! { "$set": { "type": "normal" } }),
    ];
    for (name, collection, id, change) in damages {
        let documents = won.db.collection::<Document>(collection);
        let before = documents.find_one(doc! { "_id": id }).await?.unwrap();
        let done = documents.update_one(doc! { "_id": id }, change).bypass_document_validation(true).await?;
        assert_eq!(done.modified_count, 1, "{name}");
        let found = won.world.violations().await?;
        assert!(found.iter().any(|v| v.starts_with("right:")), "{name}: {found:?}");
        documents.replace_one(doc! { "_id": id }, before).await?;
    }
    won.world.finish().await
}
