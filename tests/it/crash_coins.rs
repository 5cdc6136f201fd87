//! Killed between any two steps of a redemption, its cancelling and the write-off of coins.

use chrono::TimeDelta;
use it::{Client, database_name, mongod_uri, settle_down, violations};
use serde_json::{Value, json};
use store::{Store, StoreConfig};

use crate::coins::{fill, give, mug, verified};
use crate::crash::{free_port, persist, start};

/// Redeems two mugs and cancels them if asked to; every step may be repeated.
async fn redeem(client: &Client, cancel: bool) -> anyhow::Result<Value> {
    let token = client.login("mia").await?;
    let mut event = mug(2);
    event["requestId"] = json!("crash-mall-1");
    let made = persist(client, "pointsMall", &token, event).await?;
    let id = made.ok()["orderId"].clone();
    if cancel {
        persist(client, "orders", &token, json!({ "action": "cancel", "orderId": id })).await?.ok();
    }
    Ok(client.call("orders", &token, json!({ "action": "get", "orderId": id })).await?.body)
}

async fn survives(crashpoint: &str, cancel: bool) -> anyhow::Result<()> {
    let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
    let host = start(&uri, &database, folder.path(), port, Some(crashpoint))?;
    let store = Store::new(StoreConfig::new(&uri, &database));
    #[expect(clippy::disallowed_methods, reason = "the host's clock is the machine's")]
    let now = chrono::Utc::now();
    let user = verified(&store, "mia", now).await?;
    give(&store, "mia", "a", 1, now - TimeDelta::hours(2)).await?;
    give(&store, "mia", "b", 2, now - TimeDelta::hours(1)).await?;
    let client = host.client.clone();
    host.killed_at(crashpoint, async { redeem(&client, cancel).await.map(drop) }).await?;
    let host = start(&uri, &database, folder.path(), port, None)?;
    let order = redeem(&host.client, cancel).await?;
    assert_eq!(order["status"], if cancel { "closed" } else { "paid" }, "{crashpoint}: {order}");
    host.client.advance(3600).await?;
    settle_down(&host.client).await?;
    let found = violations(&store, now).await?;
    assert!(found.is_empty(), "{crashpoint}: {found:?}");
    let left: Vec<i64> = store.coin_lots(&user).await?.iter().map(|l| l.remaining).collect();
    assert_eq!(left, if cancel { [1, 2] } else { [0, 1] }, "{crashpoint}");
    let mugs = store.product(&domain::ProductId::parse("p-mug")?).await?.unwrap();
    assert_eq!((mugs.available(), mugs.stock_markers.len()), (if cancel { 80 } else { 78 }, 0), "{crashpoint}");
    assert_eq!(store.member(&user).await?.unwrap().points.get(), if cancel { 1000 } else { 990 }, "{crashpoint}");
    store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_redeeming() -> anyhow::Result<()> {
    for point in ["submit.reservedOne", "submit.reserved", "submit.inside", "submit.committed", "submit.pulled"] {
        survives(point, false).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_cancelling_a_redemption() -> anyhow::Result<()> {
    for point in ["close.closedAtWechat", "close.inside", "close.committed", "release.cleared", "release.applied"] {
        survives(point, true).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_writing_coins_off() -> anyhow::Result<()> {
    for point in ["expire.updated", "expire.inside", "expire.committed"] {
        let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
        let host = start(&uri, &database, folder.path(), port, Some(point))?;
        let store = Store::new(StoreConfig::new(&uri, &database));
        #[expect(clippy::disallowed_methods, reason = "the host's clock is the machine's")]
        let now = chrono::Utc::now();
        fill(&store, 1500, now - TimeDelta::hours(48)).await?;
        let client = host.client.clone();
        host.killed_at(point, async { client.call_service("expireCoins", json!({})).await.map(drop) }).await?;
        let host = start(&uri, &database, folder.path(), port, None)?;
        let mut lots = 0;
        for _ in 0..40 {
            // The killed transaction holds its lots until the server gives it up.
            let answer = host.client.call_service("expireCoins", json!({})).await?;
            lots += answer.body["expiredLots"].as_i64().unwrap_or(0);
            if answer.status == 200 && answer.body["remaining"] == false {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        let killed = if point == "expire.committed" { 1000 } else { 0 };
        assert_eq!(lots + killed, 1500, "{point}");
        let found = violations(&store, now).await?;
        assert!(found.is_empty(), "{point}: {found:?}");
        store.drop_database().await?;
    }
    Ok(())
}

/// One process stands still in the midst of a batch, holding its lots; another one goes on, before and after the first is killed.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_that_write_coins_off_one_is_killed() -> anyhow::Result<()> {
    for point in ["expire.updated", "expire.inside", "expire.committed"] {
        let (uri, database, folders) =
            (mongod_uri().await?, database_name(), [tempfile::tempdir()?, tempfile::tempdir()?]);
        let mut first = start(&uri, &database, folders[0].path(), free_port()?, Some(point))?;
        let second = start(&uri, &database, folders[1].path(), free_port()?, None)?;
        let store = Store::new(StoreConfig::new(&uri, &database));
        #[expect(clippy::disallowed_methods, reason = "the hosts' clock is the machine's")]
        let now = chrono::Utc::now();
        fill(&store, 1500, now - TimeDelta::hours(48)).await?;
        let client = first.client.clone();
        let mut work = Box::pin(async move { client.call_service("expireCoins", json!({})).await.map(drop) });
        first.stopped_at(point, work.as_mut()).await?;
        let meanwhile = second.client.call_service("expireCoins", json!({})).await?;
        assert!(meanwhile.status == 200 || meanwhile.body["retryable"] == true, "{point}: {meanwhile:?}");
        first.kill()?;
        drop(work);
        let mut lots = meanwhile.body["expiredLots"].as_i64().unwrap_or(0);
        for _ in 0..40 {
            let answer = second.client.call_service("expireCoins", json!({})).await?;
            lots += answer.body["expiredLots"].as_i64().unwrap_or(0);
            if answer.status == 200 && answer.body["remaining"] == false {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        assert_eq!(lots, if point == "expire.committed" { 500 } else { 1500 }, "{point}");
        let totals = store.coin_totals(&domain::UserId::parse("u-demo")?, now).await?;
        assert_eq!((totals.granted, totals.expired, totals.remaining), (3000, 3000, 0), "{point}");
        let found = violations(&store, now).await?;
        assert!(found.is_empty(), "{point}: {found:?}");
        store.drop_database().await?;
    }
    Ok(())
}
