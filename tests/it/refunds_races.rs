//! Commands of one order at the same moment: one of them wins, and the audit is clean whoever it was.

use futures_util::future::{join, join_all};
use it::{World, order_of};
use serde_json::json;

use crate::refunds::{applied, apply, deliver, get, given_back, item, order, paid, ship, shop};

#[tokio::test(flavor = "multi_thread")]
async fn two_who_ask_for_the_same_pieces_do_not_both_get_them() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    for _ in 0..4 {
        let id = paid(&world, &token, order_of("p-apple", 3)).await?;
        let calls = (0..6).map(|_| apply(&world, &token, &id, json!({ "items": item(1, 2) })));
        let answers = join_all(calls).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 1);
        for answer in answers.iter().filter(|a| a.status != 200) {
            answer.refused(400, "INVALID_ARGUMENT");
        }
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawn_or_approved_and_never_both() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    for round in 0..10 {
        let id = paid(&world, &token, order_of("p-apple", 1)).await?;
        let refund = applied(&world, &token, &id, json!({})).await?;
        let withdraw = async {
            if round % 2 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(round)).await;
            }
            world.client.call("refunds", &token, json!({ "action": "withdraw", "refundId": refund })).await
        };
        let reject = shop(&world, "reject", &refund, json!({ "reason": "x" }));
        let approvals = join_all((0..3).map(|_| shop(&world, "approve", &refund, json!({}))));
        let ((withdrawn, approved), rejected) = join(join(withdraw, approvals), reject).await;
        let (withdrawn, rejected) = (withdrawn?.status == 200, rejected?.status == 200);
        let approved =
            approved.into_iter().collect::<anyhow::Result<Vec<_>>>()?.iter().filter(|a| a.status == 200).count();
        let status = get(&world, &token, &refund).await?["status"].as_str().unwrap().to_owned();
        match status.as_str() {
            "withdrawn" => assert!(withdrawn && approved == 0 && !rejected),
            "rejected" => assert!(rejected && approved == 0 && !withdrawn),
            "refunding" => assert!(approved == 3 && !withdrawn && !rejected),
            other => panic!("{other}"),
        }
    }
    deliver(&world).await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn shipped_or_refunded_as_a_whole_and_never_both() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    for _ in 0..8 {
        let id = paid(&world, &token, order_of("p-apple", 2)).await?;
        let (shipped, asked) = join(ship(&world, &id), apply(&world, &token, &id, json!({}))).await;
        let (shipped, asked) = (shipped?.status == 200, asked?);
        let refund = asked.ok()["refund"].clone();
        let seen = order(&world, &token, &id).await?;
        // Asked first, there is nothing left to ship; shipped first, the buyer asks for what is on its way.
        assert_eq!(seen["status"], if shipped { "shipped" } else { "paid" });
        let refund = refund["refundId"].as_str().unwrap();
        let done = shop(&world, "approve", refund, json!({})).await?;
        assert_eq!(done.ok()["refund"]["restocked"], !shipped);
    }
    deliver(&world).await?;
    world.client.advance(600).await?;
    deliver(&world).await?;
    assert_eq!(given_back(&world), 80_000);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_on_one_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    for round in 0..4 {
        let mut event = order_of("p-apple", 4);
        event["pointsUsed"] = json!(3);
        let id = paid(&world, &token, event).await?;
        let first = applied(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
        let second = applied(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
        let notice = world.client.pay(&id, "duplicate");
        let commands = join_all([
            Box::pin(async { shop(&world, "approve", &first, json!({})).await })
                as futures_util::future::BoxFuture<'_, _>,
            Box::pin(async { shop(&world, "approve", &second, json!({ "amount": 10 })).await }),
            Box::pin(async { shop(&world, "reject", &first, json!({ "reason": "x" })).await }),
            Box::pin(async { ship(&world, &id).await }),
            Box::pin(async { apply(&world, &token, &id, json!({ "items": item(1, 2) })).await }),
            Box::pin(async { apply(&world, &token, &id, json!({})).await }),
            Box::pin(async { world.client.timer("deliverOutbox").await }),
            Box::pin(async { world.client.call("orders", &token, json!({ "action": "cancel", "orderId": id })).await }),
        ]);
        let (answers, notice) = join(commands, notice).await;
        assert_eq!(notice?.body["noticeStatus"], 204);
        for answer in answers {
            let answer = answer?;
            assert!(answer.status < 500, "{round}: {answer:?}");
        }
        let found = world.violations().await?;
        assert!(found.is_empty(), "{round}: {found:?}");
        deliver(&world).await?;
    }
    for _ in 0..8 {
        deliver(&world).await?;
    }
    assert_eq!(world.store.outbox_pending().await?, 0);
    world.finish().await
}
