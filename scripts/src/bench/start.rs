//! From nothing to the first answer, and what the process then occupies.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use domain::OrderId;
use serde::Serialize;
use serde_json::Value;
use store::baseline::Sample;
use tokio::task::JoinSet;

use super::http::Connection;
use super::process::{Recipe, Running, resident_kib};
use super::shop::Shop;
use super::stats::Spread;

/// How long a process is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(5);

/// Milliseconds from the process's start to an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartTimes {
    /// A call that is answered without the database: nobody is signed in.
    pub(super) refusal_ms: Spread,
    /// `GET /healthz`, which asks the database whether it is there.
    pub(super) health_ms: Spread,
    /// An order, made.
    pub(super) order_ms: Spread,
}

/// Starts the function `times` times for each kind of answer, by turns.
pub(super) async fn measure(recipe: &Recipe, shop: &Shop, times: u32) -> Result<Option<StartTimes>> {
    let (mut refusals, mut healths, mut orders) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        let mut process = recipe.spawn()?;
        let response = process.connect().await?.post(None, "{}").await?;
        refusals.push(ms(&process));
        ensure!(response.status == 401, "an anonymous call was answered {}", response.status);
        process.stop().await?;

        let mut process = recipe.spawn()?;
        let response = process.connect().await?.get("/healthz").await?;
        healths.push(ms(&process));
        ensure!(response.status == 200, "/healthz answered {}", response.status);
        process.stop().await?;

        let mut process = recipe.spawn()?;
        let mut connection = process.connect().await?;
        order(shop, &mut connection, super::shop::PRODUCTS).await?;
        orders.push(ms(&process));
        process.stop().await?;
    }
    let all = (Spread::of(refusals), Spread::of(healths), Spread::of(orders));
    let (Some(refusal_ms), Some(health_ms), Some(order_ms)) = all else { return Ok(None) };
    Ok(Some(StartTimes { refusal_ms, health_ms, order_ms }))
}

fn ms(process: &Running) -> f64 {
    process.started.elapsed().as_secs_f64() * 1e3
}

/// Makes one order and tells what it became.
pub(super) async fn order(shop: &Shop, connection: &mut Connection, products: usize) -> Result<Sample> {
    let wish = shop.wish(products)?;
    let response = connection.post(Some(&wish.buyer.token), &shop.body(&wish)).await?;
    let text = String::from_utf8_lossy(&response.body);
    ensure!(response.status == 200, "submitOrder answered {}: {text}", response.status);
    let reply: Value = serde_json::from_str(&text)?;
    let order = reply.get("orderId").and_then(Value::as_str).context("a reply without orderId")?;
    let product = shop.products.get(wish.product).context("no such product")?.clone();
    Ok(Sample { product, order: OrderId::parse(order)?, key: wish.key() })
}

/// Resident memory of an idle process, in KiB.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Memory {
    /// Started and never called.
    pub(super) idle_kib: u64,
    /// Of that, not shared with a file.
    pub(super) idle_anonymous_kib: u64,
    /// After `orders` orders by `clients` clients.
    pub(super) used_kib: u64,
    pub(super) used_anonymous_kib: u64,
    pub(super) orders: u32,
    pub(super) clients: u32,
}

/// `None` where the kernel does not tell.
pub(super) async fn memory(recipe: &Recipe, shop: &Arc<Shop>) -> Result<Option<Memory>> {
    let (orders, clients) = (1000u32, 8u32);
    let mut process = recipe.spawn()?;
    let mut connections = vec![process.connect().await?];
    tokio::time::sleep(IDLE).await;
    let resident = |process: &Running| process.pid().and_then(resident_kib);
    let Some((idle_kib, idle_anonymous_kib)) = resident(&process) else { return Ok(None) };
    while connections.len() < usize::try_from(clients)? {
        connections.push(process.connect().await?);
    }
    let rounds = orders.div_ceil(clients);
    let mut calls = JoinSet::new();
    for mut connection in connections {
        let shop = Arc::clone(shop);
        calls.spawn(async move {
            for _ in 0..rounds {
                order(&shop, &mut connection, super::shop::PRODUCTS).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    tokio::time::sleep(IDLE).await;
    let Some((used_kib, used_anonymous_kib)) = resident(&process) else { return Ok(None) };
    process.stop().await?;
    Ok(Some(Memory { idle_kib, idle_anonymous_kib, used_kib, used_anonymous_kib, orders, clients }))
}
