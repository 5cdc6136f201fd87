//! The database dies under load and comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use it::{World, order_of, own_mongod};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn mongod_is_killed_and_restarted_under_load() -> anyhow::Result<()> {
    let server = tokio::task::spawn_blocking(|| own_mongod("outage")).await??;
    let world = Arc::new(World::start_on(&server.uri()).await?);
    let server = Arc::new(Mutex::new(server));
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (client, stop) = (world.client.clone(), stop.clone());
            tokio::spawn(async move {
                let token = client.login(&format!("load{worker}")).await?;
                let mut made = Vec::new();
                let mut unavailable = 0;
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let mut event = order_of("p-sticker", 1);
                    event["requestId"] = json!(format!("load-{worker}-{n:06}"));
                    // The client repeats the same request until it has an answer, as a phone would.
                    loop {
                        let answer = client.call("submitOrder", &token, event.clone()).await?;
                        if answer.status == 200 {
                            made.push(answer.text("orderId"));
                            break;
                        }
                        assert!(matches!(answer.code(), "UNAVAILABLE" | "TIMEOUT"), "{answer:?}");
                        assert_eq!(answer.body["retryable"], true);
                        unavailable += 1;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                anyhow::Ok((made, unavailable))
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for _ in 0..2 {
        let server = server.clone();
        tokio::task::spawn_blocking(move || {
            let mut server = server.lock().unwrap();
            server.kill_hard()?;
            // Longer than the search for a primary, so that some calls give up and say so.
            std::thread::sleep(Duration::from_secs(5));
            server.restart()
        })
        .await??;
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut made, mut unavailable) = (Vec::new(), 0);
    for worker in workers {
        let (orders, refused) = worker.await??;
        made.extend(orders);
        unavailable += refused;
    }
    assert!(unavailable > 0, "nobody noticed the outage: the test proves nothing");
    let count = made.len();
    let ids: std::collections::BTreeSet<_> = made.into_iter().collect();
    assert_eq!(ids.len(), count, "two requests got one order");
    // Reservations that the outage cut off are settled; then each order holds its piece and nothing else does.
    world.client.advance(180).await?;
    world.client.timer("settleStockMarkers").await?;
    assert_eq!(world.stock("p-sticker").await?, 100_000 - i64::try_from(count)?);
    let found = world.violations().await?;
    assert!(found.is_empty(), "{found:?}");
    let mut server =
        Arc::try_unwrap(server).map_err(|_| anyhow::anyhow!("the server is still shared"))?.into_inner()?;
    tokio::task::spawn_blocking(move || server.stop()).await??;
    Ok(())
}
