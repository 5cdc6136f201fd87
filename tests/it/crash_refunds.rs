//! The process is killed with SIGKILL inside and between the steps of a refund; repeated or not, everything is back once.

use it::{Client, database_name, mongod_uri, order_of, settle_down, violations};
use serde_json::{Value, json};
use store::{Store, StoreConfig};

use crate::crash::{free_port, persist, start};

/// An order of two boxes, one of them asked back and approved; every step may be repeated.
async fn refund(client: &Client) -> anyhow::Result<Value> {
    let token = client.login("demo").await?;
    let mut event = order_of("p-apple", 2);
    event["pointsUsed"] = json!(5);
    event["requestId"] = json!("crash-refund-order");
    let order = persist(client, "submitOrder", &token, event).await?;
    let id = order.ok()["orderId"].as_str().unwrap_or_default().to_owned();
    persist(client, "wxPay", &token, json!({ "orderId": id })).await?;
    for _ in 0..40 {
        if client.pay(&id, "once").await?.body["noticeStatus"] == 204 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    let apply = json!({
        "action": "apply", "orderId": id, "items": [{ "lineId": "1", "quantity": 1 }], "reason": "x",
        "requestId": "crash-refund-apply",
    });
    let applied = persist(client, "refunds", &token, apply).await?;
    let refund = applied.ok()["refund"]["refundId"].as_str().unwrap_or_default().to_owned();
    for _ in 0..40 {
        let approve = json!({ "action": "approve", "refundId": refund });
        if client.call_service("refunds", approve).await?.body["retryable"] != true {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    for _ in 0..6 {
        client.timer("deliverOutbox").await?;
        client.advance(130).await?;
    }
    Ok(client.call("refunds", &token, json!({ "action": "get", "refundId": refund })).await?.body)
}

async fn survives(crashpoint: &str) -> anyhow::Result<()> {
    let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
    let host = start(&uri, &database, folder.path(), port, Some(crashpoint))?;
    let client = host.client.clone();
    host.killed_at(crashpoint, async { refund(&client).await.map(drop) }).await?;

    let host = start(&uri, &database, folder.path(), port, None)?;
    // The killed one may hold its lease for two minutes, and its transaction its locks for some seconds.
    host.client.advance(130).await?;
    refund(&host.client).await?;
    let mut seen = Value::Null;
    for _ in 0..20 {
        seen = refund(&host.client).await?["refund"].clone();
        if seen["status"] == "refunded" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
    }
    assert_eq!(seen["status"], "refunded", "{crashpoint}: {seen}");
    settle_down(&host.client).await?;
    let store = Store::new(StoreConfig::new(&uri, &database));
    #[expect(clippy::disallowed_methods, reason = "the audit's clock only has to be near")]
    let found = violations(&store, chrono::Utc::now()).await?;
    assert!(found.is_empty(), "{crashpoint}: {found:?}");
    let apples = store.product(&domain::ProductId::parse("p-apple")?).await?.map_or(0, |p| p.available());
    assert_eq!(apples, 999, "{crashpoint}");
    let sims = host.client.get("/sim/control/orders").await?;
    let refunds: Vec<&Value> = sims["orders"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|o| o["refunds"].as_array().into_iter().flatten())
        .collect();
    assert!(refunds.len() <= 1, "{crashpoint}: {sims}");
    store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_refund_is_asked_for_and_approved() -> anyhow::Result<()> {
    for point in ["refund.applied", "refund.inside"] {
        survives(point).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_pieces_of_a_refund_go_back() -> anyhow::Result<()> {
    for point in ["release.cleared", "release.applied"] {
        survives(point).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_wechat_is_told() -> anyhow::Result<()> {
    for point in ["refund.sending", "refund.sent", "refund.concluding", "refund.concluded"] {
        survives(point).await?;
    }
    Ok(())
}
