//! Missed, doubled and parallel ticks change nothing in the end.

use std::time::{Duration, Instant};

use it::{World, order_of};
use serde_json::json;

const ALL: [&str; 11] = [
    "autoComplete",
    "reconcileBill",
    "lotteryDraw",
    "expireCoins",
    "expireCoupons",
    "followParcels",
    "sealLedger",
    "closeExpiredOrders",
    "reconcilePayments",
    "settleStockMarkers",
    "deliverOutbox",
];

/// What the timers write, by collection.
async fn written(world: &World) -> anyhow::Result<Vec<String>> {
    let mut rows = Vec::new();
    for name in
        ["ledger", "ledgerSeals", "orders", "outbox", "activityCoinLots", "lotteryRounds", "lotteryQualifications"]
    {
        for row in world.store.peek(name, 1000).await? {
            rows.push(format!("{name} {row}"));
        }
    }
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn doubled_and_parallel_runs_change_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (_, second) = world.another().await?;
    let first = &world.client;
    let token = first.login("demo").await?;
    // One order is paid, one is left to expire.
    let paid = first.call("submitOrder", &token, order_of("p-honey", 1)).await?.text("orderId");
    first.call("wxPay", &token, json!({ "orderId": paid })).await?.ok();
    first.pay(&paid, "once").await?;
    first.call("submitOrder", &token, order_of("p-honey", 2)).await?.ok();
    // After a jump of days all ticks at once, twice from each of two processes.
    first.advance(3 * 86_400 + 7200).await?;
    let clients = [first, &second, first, &second];
    let runs = ALL.iter().flat_map(|name| clients.map(|c| c.timer(name)));
    for answer in futures_util::future::join_all(runs).await {
        // A run that meets another may say that it could not; the next tick is through.
        let answer = answer?;
        assert!(answer.status == 200 || answer.body["retryable"] == true, "{answer:?}");
    }
    for name in ALL {
        first.timer(name).await?;
    }
    let settled = written(&world).await?;
    assert!(settled.iter().any(|row| row.starts_with("ledgerSeals")), "nothing was sealed");
    for client in clients {
        for name in ALL {
            client.timer(name).await?;
        }
    }
    assert_eq!(written(&world).await?, settled);
    assert_eq!(world.stock("p-honey").await?, 199);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_run_one_tick_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (second, _) = world.another().await?;
    let first = world.gateway.clone();
    let gateways = [first, second];
    let schedulers = gateways.clone().map(|gateway| tokio::spawn(async move { gateway.run_timers().await }));
    // Both must have looked at the clock before it jumps.
    tokio::time::sleep(Duration::from_millis(600)).await;
    world.client.advance(3 * 86_400).await?;
    let ran = || {
        let runs = gateways.iter().flat_map(it_ran);
        runs.collect::<Vec<_>>()
    };
    let limit = Instant::now() + Duration::from_secs(20);
    while ran().is_empty() && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Time for the other one to notice the tick, too.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let runs = ran();
    assert_eq!(runs.len(), 1, "one tick for all that was missed, by one of the two: {runs:?}");
    for scheduler in schedulers {
        scheduler.abort();
    }
    while gateways.iter().any(|g| g.timer_statuses().iter().any(|t| t.running)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.finish().await
}

/// The ticks for which a process has run `sealLedger`.
fn it_ran(gateway: &gateway::Gateway) -> Option<String> {
    let statuses = gateway.timer_statuses();
    let seal = statuses.into_iter().find(|t| t.function == "sealLedger")?;
    seal.last.map(|run| format!("{} {}", run.tick, run.result))
}
