//! Clients that make one order after the other, each on its own connection, for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue};
use edge::{Function, Invocation, Proof};
use serde::Serialize;
use store::baseline::{self, Buyer, Yardstick};
use tokio::task::JoinSet;

use super::http::Connection;
use super::process;
use super::shop::Shop;
use super::stats::{count, nearest_rank};

/// Left out of the figures at the start of each round.
const WARM_UP: Duration = Duration::from_millis(500);

/// Who makes the orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Side {
    /// The function's process, over HTTP.
    Function,
    /// The driver, with the same statements.
    Direct,
    /// The function inside of this process, without HTTP.
    InProcess,
}

/// Everything a client needs.
pub(super) struct Place {
    pub(super) shop: Arc<Shop>,
    pub(super) yardstick: Yardstick,
    pub(super) function: Function,
    pub(super) port: u16,
    /// Whose processor time is counted for the function, and for the database if that is ours.
    pub(super) function_pid: Option<u32>,
    pub(super) mongod_pid: Option<u32>,
}

/// What one round came to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Round {
    pub(super) orders_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Processor time per order by process: `function`, `clients` (this process) and `mongod`.
    pub(super) cpu_ms_per_order: BTreeMap<&'static str, f64>,
    /// Commands that the server ran per order, and bytes that it read. Empty where it may not be asked.
    pub(super) server_per_order: BTreeMap<&'static str, f64>,
}

#[derive(Default)]
struct Tally {
    /// Also those outside of the measured time.
    orders: usize,
    latencies_us: Vec<u128>,
}

/// One round: `clients` clients order the first `products` products for `seconds`.
pub(super) async fn round(
    place: &Arc<Place>,
    side: Side,
    clients: usize,
    products: usize,
    seconds: u32,
) -> Result<Round> {
    let measured = Duration::from_secs(seconds.into());
    let (cpu, server) = (cpu_times(place), server_counts(place).await);
    let from = Instant::now() + WARM_UP;
    let until = from + measured;
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(client(Arc::clone(place), side, products, from, until));
    }
    let mut tally = Tally::default();
    while let Some(ended) = tasks.join_next().await {
        let one = ended??;
        tally.orders = tally.orders.saturating_add(one.orders);
        tally.latencies_us.extend(one.latencies_us);
    }
    let (cpu_after, server_after) = (cpu_times(place), server_counts(place).await);

    let orders = count(tally.orders).max(1.0);
    let cpu_ms_per_order = cpu_after
        .iter()
        .filter_map(|(name, after)| Some((*name, after.checked_sub(*cpu.get(name)?)?.as_secs_f64() * 1e3 / orders)))
        .collect();
    let server_per_order = server_after
        .iter()
        .filter_map(|(name, after)| {
            let more = u32::try_from(after.checked_sub(*server.get(name)?)?).ok()?;
            Some((*name, f64::from(more) / orders))
        })
        .collect();
    tally.latencies_us.sort_unstable();
    let ms = |percent| {
        let us = nearest_rank(&tally.latencies_us, percent).copied().unwrap_or_default();
        u32::try_from(us).map_or(f64::NAN, |us| f64::from(us) / 1e3)
    };
    Ok(Round {
        orders_per_second: count(tally.latencies_us.len()) / measured.as_secs_f64(),
        p50_ms: ms(50),
        p99_ms: ms(99),
        cpu_ms_per_order,
        server_per_order,
    })
}

async fn client(place: Arc<Place>, side: Side, products: usize, from: Instant, until: Instant) -> Result<Tally> {
    let mut connection = match side {
        Side::Function => Some(Connection::open(place.port).await?),
        Side::Direct | Side::InProcess => None,
    };
    let mut tally = Tally::default();
    loop {
        let begun = Instant::now();
        if begun >= until {
            return Ok(tally);
        }
        place.order(side, connection.as_mut(), products).await?;
        tally.orders = tally.orders.saturating_add(1);
        let done = Instant::now();
        if (from..=until).contains(&done) {
            tally.latencies_us.push(done.duration_since(begun).as_micros());
        }
    }
}

impl Place {
    /// Makes one order; anything but a new order is an error.
    async fn order(&self, side: Side, connection: Option<&mut Connection>, products: usize) -> Result<()> {
        let wish = self.shop.wish(products)?;
        let token = wish.buyer.token.as_str();
        match side {
            Side::Function => {
                let connection = connection.context("no connection")?;
                let response = connection.post(Some(token), &self.shop.body(&wish)).await?;
                if response.status != 200 {
                    bail!("submitOrder answered {}: {}", response.status, String::from_utf8_lossy(&response.body));
                }
            }
            Side::Direct => {
                let buyer = Buyer { user: &wish.buyer.user, open_id: &wish.buyer.open_id };
                self.yardstick.submit(wish.product, buyer, &wish.key(), self.shop.clock.now()).await?;
            }
            Side::InProcess => {
                let mut headers = HeaderMap::new();
                headers.insert("x-app-session", HeaderValue::from_str(token)?);
                let proof = Proof::Http { method: "POST".to_owned(), path: "/".to_owned(), query: String::new() };
                let body = Bytes::from(self.shop.body(&wish));
                let invocation = Invocation { proof, headers, body, trace_id: None };
                let answer = edge::invoke(&self.shop.app, &self.function, invocation).await;
                if answer.status != 200 {
                    bail!("submitOrder answered {}: {}", answer.status, answer.body.unwrap_or_default());
                }
            }
        }
        Ok(())
    }
}

fn cpu_times(place: &Place) -> BTreeMap<&'static str, Duration> {
    [("function", place.function_pid), ("clients", Some(std::process::id())), ("mongod", place.mongod_pid)]
        .into_iter()
        .filter_map(|(name, pid)| Some((name, process::cpu_time(pid?)?)))
        .collect()
}

/// Empty where the database does not let us ask: then the statements are not compared.
async fn server_counts(place: &Place) -> BTreeMap<&'static str, i64> {
    baseline::server_counts(place.shop.app.store()).await.unwrap_or_default()
}
