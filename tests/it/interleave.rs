//! Any order of notices, queries, closing, cancelling and timers, some of them at the same moment.

use futures_util::future::join_all;
use it::{World, order_of};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

#[derive(Debug, Clone, Copy)]
enum Step {
    Pay(&'static str),
    Query,
    Reconcile,
    CloseExpired,
    Cancel,
    WxPay,
    Outbox,
    Sweep,
    Advance(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::sample::select(vec!["once", "duplicate", "none", "tampered", "signtest", "certificate"]).prop_map(Step::Pay),
        2 => Just(Step::Query),
        2 => Just(Step::Reconcile),
        2 => Just(Step::CloseExpired),
        1 => Just(Step::Cancel),
        1 => Just(Step::WxPay),
        1 => Just(Step::Outbox),
        1 => Just(Step::Sweep),
        2 => prop::sample::select(vec![6i64, 40, 1900]).prop_map(Step::Advance),
    ]
}

async fn run(world: &World, token: &str, id: &str, step: Step) -> anyhow::Result<()> {
    let c = &world.client;
    match step {
        Step::Pay(mode) => c.pay(id, mode).await?,
        Step::Query => c.call("wxPay", token, json!({ "orderId": id, "action": "query" })).await?,
        Step::Reconcile => c.timer("reconcilePayments").await?,
        Step::CloseExpired => c.timer("closeExpiredOrders").await?,
        Step::Cancel => c.call("orders", token, json!({ "action": "cancel", "orderId": id })).await?,
        Step::WxPay => c.call("wxPay", token, json!({ "orderId": id })).await?,
        Step::Outbox => c.timer("deliverOutbox").await?,
        Step::Sweep => c.timer("settleStockMarkers").await?,
        Step::Advance(seconds) => c.advance(seconds).await?,
    };
    Ok(())
}

/// Runs groups of steps, each group at once, then lets time pass and checks what must be true of the one order.
async fn case(world: &World, number: usize, groups: &[Vec<Step>]) -> anyhow::Result<()> {
    let token = world.client.login(&format!("case{number}")).await?;
    let id = world.client.call("submitOrder", &token, order_of("p-apple", 2)).await?.text("orderId");
    world.client.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
    for group in groups {
        for outcome in join_all(group.iter().map(|step| run(world, &token, &id, *step))).await {
            outcome?;
        }
    }
    world.client.advance(3600).await?;
    world.settle_down().await?;
    let order = world.client.call("orders", &token, json!({ "action": "get", "orderId": id })).await?;
    let paid_at_wechat = world.sim.orders(&id).iter().filter(|o| o.transaction_id.is_some()).count();
    let points = world.client.call("getUserPoints", &token, json!({})).await?.ok()["points"].clone();
    match order.ok()["status"].as_str() {
        Some("paid") => assert_eq!(points, 1),
        Some("closed") => {
            assert_eq!(points, 0);
            let exceptions = order.body["paymentExceptions"].as_array().map_or(0, Vec::len);
            assert_eq!(exceptions, paid_at_wechat, "money for a closed order must go back: {order:?}");
        }
        other => anyhow::bail!("the order hangs in {other:?}"),
    }
    let found = world.violations().await?;
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}

#[test]
fn any_interleaving_pays_once_or_not_at_all() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::start()).unwrap();
    let number = std::cell::Cell::new(0);
    let config = Config { cases: 24, max_shrink_iters: 20, failure_persistence: None, ..Config::default() };
    let groups = prop::collection::vec(prop::collection::vec(step(), 1..4), 2..6);
    TestRunner::new(config)
        .run(&groups, |groups| {
            number.set(number.get() + 1);
            runtime.block_on(case(&world, number.get(), &groups)).map_err(|e| TestCaseError::fail(e.to_string()))
        })
        .unwrap();
    runtime.block_on(world.finish()).unwrap();
}
