//! The process is killed with SIGKILL inside and between the steps of a refund; repeated or not, everything is back once.

use std::path::Path;

use it::{Answer, Client, database_name, mongod_uri, order_of, settle_down, violations};
use serde_json::{Value, json};
use store::{Store, StoreConfig};

use crate::crash::{Host, free_port, persist, start};

/// A command of the shop's about a refund, repeated as long as that helps.
async fn shop(client: &Client, event: Value) -> anyhow::Result<Answer> {
    let mut answer = client.call_service("refunds", event.clone()).await?;
    for _ in 0..40 {
        if answer.body["retryable"] != true {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        answer = client.call_service("refunds", event.clone()).await?;
    }
    Ok(answer)
}

/// An order of two boxes, one of them asked back and approved: the session and the refund. Every step may be repeated.
async fn approved(client: &Client) -> anyhow::Result<(String, String)> {
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
    shop(client, json!({ "action": "approve", "refundId": refund })).await?;
    Ok((token, refund))
}

/// A refund until WeChat has done its part, as its buyer sees it.
async fn refund(client: &Client) -> anyhow::Result<Value> {
    let (token, refund) = approved(client).await?;
    deliver(client).await?;
    Ok(client.call("refunds", &token, json!({ "action": "get", "refundId": refund })).await?.body)
}

async fn deliver(client: &Client) -> anyhow::Result<()> {
    for _ in 0..6 {
        client.timer("deliverOutbox").await?;
        client.advance(130).await?;
    }
    Ok(())
}

/// The numbers that WeChat knows, with how each of them stands.
async fn at_wechat(client: &Client) -> anyhow::Result<Vec<(String, String)>> {
    let orders = client.get("/sim/control/orders").await?;
    let orders = orders["orders"].as_array().cloned().unwrap_or_default();
    let refunds = orders.iter().flat_map(|order| order["refunds"].as_array().cloned().unwrap_or_default());
    let text = |refund: &Value, field: &str| refund[field].as_str().unwrap_or_default().to_owned();
    Ok(refunds.map(|refund| (text(&refund, "outRefundNo"), text(&refund, "status"))).collect())
}

/// Where one of these tests plays.
struct Place {
    uri: String,
    database: String,
    folder: tempfile::TempDir,
    port: u16,
    store: Store,
}

impl Place {
    async fn new() -> anyhow::Result<Self> {
        let (uri, database) = (mongod_uri().await?, database_name());
        let store = Store::new(StoreConfig::new(&uri, &database));
        Ok(Self { uri, database, folder: tempfile::tempdir()?, port: free_port()?, store })
    }

    fn start(&self, crashpoint: Option<&str>) -> anyhow::Result<Host> {
        let folder: &Path = self.folder.path();
        start(&self.uri, &self.database, folder, self.port, crashpoint)
    }

    /// The numbers under which our books have the refund at WeChat; none before it is stored.
    async fn numbers(&self, refund: &str) -> anyhow::Result<Vec<String>> {
        let refund = self.store.refund(refund).await?;
        let numbers = refund.map(|refund| refund.numbers).unwrap_or_default();
        Ok(numbers.into_iter().map(|number| number.out_refund_no).collect())
    }

    /// Nothing is lost, doubled or stuck.
    async fn end(self, host: &Host, crashpoint: &str) -> anyhow::Result<()> {
        settle_down(&host.client).await?;
        #[expect(clippy::disallowed_methods, reason = "the audit's clock only has to be near")]
        let found = violations(&self.store, chrono::Utc::now()).await?;
        assert!(found.is_empty(), "{crashpoint}: {found:?}");
        let apples = self.store.product(&domain::ProductId::parse("p-apple")?).await?.map_or(0, |p| p.available());
        assert_eq!(apples, 999, "{crashpoint}");
        Ok(self.store.drop_database().await?)
    }
}

async fn survives(crashpoint: &str) -> anyhow::Result<()> {
    let place = Place::new().await?;
    let host = place.start(Some(crashpoint))?;
    let client = host.client.clone();
    host.killed_at(crashpoint, async { refund(&client).await.map(drop) }).await?;
    let host = place.start(None)?;
    // The killed one may hold its lease for two minutes, and its transaction its locks for some seconds.
    host.client.advance(130).await?;
    let before = at_wechat(&host.client).await?;
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
    // What was sent before the kill and what was sent after it is one number, the refund's own.
    let number = seen["refundId"].as_str().unwrap_or_default().to_owned();
    assert_eq!(at_wechat(&host.client).await?, [(number.clone(), "SUCCESS".to_owned())], "{crashpoint}");
    assert_eq!(place.numbers(&number).await?, std::slice::from_ref(&number), "{crashpoint}");
    let sent = matches!(crashpoint, "refund.sent" | "refund.concluding" | "refund.concluded");
    let known: Vec<&String> = before.iter().map(|(number, _)| number).collect();
    assert_eq!(known, if sent { vec![&number] } else { vec![] }, "{crashpoint}: known at WeChat after the kill");
    place.end(&host, crashpoint).await
}

/// WeChat has closed the refund, and staff decide: killed while they do, they decide again.
async fn decision_survives(action: &str, crashpoint: &str) -> anyhow::Result<()> {
    let place = Place::new().await?;
    let decide = async |client: &Client| {
        let (token, refund) = approved(client).await?;
        client.timer("deliverOutbox").await?;
        let closed = json!({ "outRefundNo": refund, "status": "CLOSED", "notify": "once" });
        client.control("refund", closed).await?;
        let get = json!({ "action": "get", "refundId": refund });
        let before = client.call("refunds", &token, get).await?.ok()["refund"]["status"].clone();
        let decided = shop(client, json!({ "action": action, "refundId": refund, "remark": "已转账" })).await?;
        anyhow::Ok((refund, before, decided))
    };
    let host = place.start(Some(crashpoint))?;
    let client = host.client.clone();
    host.killed_at(crashpoint, async { decide(&client).await.map(drop) }).await?;
    let host = place.start(None)?;
    host.client.advance(130).await?;
    let (refund, before, decided) = decide(&host.client).await?;
    assert_eq!(before, "failed", "{crashpoint}: what was not committed did not happen");
    assert!(decided.ok().get("replayed").is_none(), "{crashpoint}: {decided:?}");
    let again = shop(&host.client, json!({ "action": action, "refundId": refund, "remark": "已转账" })).await?;
    assert_eq!(again.ok()["replayed"], true, "{crashpoint}");
    deliver(&host.client).await?;
    let seen = host.client.call_service("refunds", json!({ "action": "get", "refundId": refund })).await?;
    let seen = seen.ok()["refund"].clone();
    let retried = action == "retry";
    assert_eq!((&seen["status"], &seen["settledElsewhere"]), (&json!("refunded"), &json!(!retried)), "{crashpoint}");
    let second = format!("{refund}-2");
    let (closed, done) = ((refund.clone(), "CLOSED".to_owned()), (second.clone(), "SUCCESS".to_owned()));
    let (known, booked) = match retried {
        true => (vec![closed, done], vec![refund.clone(), second]),
        false => (vec![closed], vec![refund.clone()]),
    };
    assert_eq!((at_wechat(&host.client).await?, place.numbers(&refund).await?), (known, booked), "{crashpoint}");
    place.end(&host, crashpoint).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_staff_decide_about_a_closed_refund() -> anyhow::Result<()> {
    decision_survives("retry", "refund.retried").await?;
    decision_survives("settle", "refund.settled").await
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
