//! Assignments while WeChat is slow or away, by text message, and in processes that die.

use std::time::Duration;

use edge::Config;
use edge::config::OpenApiConfig;
use it::{World, database_name, mongod_uri, violations};
use serde_json::{Value, json};
use store::{Store, StoreConfig};

use crate::crash::{free_port, start};
use crate::notify::{batch, configured, messages, one, permissions, person};

fn slow(count: u32, ms: u64) -> Value {
    json!({ "target": "wechat", "path": "subscribe/send", "mode": "slow", "ms": ms, "count": count })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_wechat_does_not_hold_the_crm_up() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    for n in 0..20 {
        person(&world, n, 10).await?;
    }
    // A token first, so that it is the messages that are slow.
    c.call_service("notifyAssignment", one("c-first", "s-li")).await?.ok();
    c.control("faults", slow(100, 3_000)).await?.ok();
    let entries = |round: usize| batch((0..20).map(|n| one(&format!("c-{round}-{n}"), &format!("s-{n}"))).collect());
    for round in 0..3 {
        let answer = c.call_service("notifyAssignment", entries(round)).await?;
        // None can have been heard of yet: the simulator answers after three seconds.
        assert_eq!(answer.ok()["queued"], 20, "{round}: {answer:?}");
        // Only the first call tried, and only a few; WeChat takes a message in before it answers slowly.
        assert_eq!(world.sim.messages(None).len(), 1 + 8, "{round}");
    }
    c.control("faults", slow(0, 0)).await?.ok();
    // What outlived its call ends by itself.
    world.app.idle().await;
    let (sent, queued) = tally(c, &entries(0)).await?;
    assert_eq!((sent, queued), (8, 12));
    for _ in 0..4 {
        c.timer("deliverOutbox").await?.ok();
        c.advance(30).await?.ok();
    }
    for round in 0..3 {
        assert_eq!(tally(c, &entries(round)).await?, (20, 0));
    }
    for n in 0..20 {
        assert_eq!(messages(&world, &format!("o-s{n}")), 3);
        assert_eq!(permissions(&world, &format!("o-s{n}")).await?, (7, 3));
    }
    world.finish().await
}

async fn tally(c: &it::Client, event: &Value) -> anyhow::Result<(i64, i64)> {
    let answer = c.call_service("notifyAssignment", event.clone()).await?;
    let count = |name: &str| answer.ok()[name].as_i64().unwrap();
    Ok((count("sent"), count("queued")))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_wechat_leaves_everything_queued() -> anyhow::Result<()> {
    let world = World::start().await?;
    person(&world, 1, 10).await?;
    let nowhere = OpenApiConfig {
        base_url: format!("http://127.0.0.1:{}", free_port()?),
        ..world.app.config.open_api.clone().unwrap()
    };
    let away = configured(&world, Config { open_api: Some(nowhere), ..world.app.config.clone() }).await?;
    for n in 0..3 {
        let answer = away.call_service("notifyAssignment", one(&format!("c-{n}"), "s-1")).await?;
        assert_eq!(answer.ok()["queued"], 1, "{answer:?}");
    }
    let tried = world.store.peek("outbox", 10).await?.iter().filter(|item| item["attempts"] != 0).count();
    assert_eq!(tried, 1, "after the first failure the timer is left to find out");
    world.client.advance(60).await?;
    world.settle_down().await?;
    world.client.advance(60).await?;
    world.settle_down().await?;
    assert_eq!((messages(&world, "o-s1"), permissions(&world, "o-s1").await?), (3, (7, 3)));
    world.finish().await
}

/// Who has no message of the mini-program gets a text, where the shop wants that; never two for one call.
#[tokio::test]
async fn without_a_message_a_text_tells_where_the_shop_wants_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let template = edge::config::local::SMS_ASSIGNMENT_TEMPLATE_ID.to_owned();
    let c = configured(&world, Config { assignment_sms_template: Some(template), ..world.app.config.clone() }).await?;
    let upsert = json!({ "action": "upsert", "userId": "s-zhang", "phone": "13700000002" });
    c.call_service("staff", upsert).await?.ok();

    let event = batch(vec![one("c-1", "s-zhang"), one("c-2", "s-zhang"), one("c-3", "s-li")]);
    let answer = c.call_service("notifyAssignment", event.clone()).await?;
    let results = answer.ok()["results"].clone();
    assert_eq!((&results[0]["status"], &results[0]["via"]), (&json!("queued"), &json!("sms")), "{answer:?}");
    assert_eq!((&results[0]["messageId"], &results[2]["status"]), (&results[1]["messageId"], &json!("sent")));
    assert!(world.sim.sms(Some("13700000002")).is_empty());
    c.timer("deliverOutbox").await?.ok();
    let texts = world.sim.sms(Some("13700000002"));
    assert_eq!(
        (texts.len(), texts[0].params.as_slice()),
        (1, ["王小明等2位客户".to_owned(), "系统".to_owned()].as_slice())
    );
    let again = c.call_service("notifyAssignment", event).await?;
    assert_eq!((&again.ok()["sent"], &again.body["results"][0]["via"]), (&json!(3), &json!("sms")));

    // WeChat finds out that there is no permission: the text follows.
    let refusal =
        json!({ "target": "wechat", "path": "subscribe/send", "mode": "errcode", "errcode": 43101, "count": 1 });
    c.control("faults", refusal).await?.ok();
    let late = c.call_service("notifyAssignment", one("c-4", "s-li")).await?;
    let result = &late.ok()["results"][0];
    assert_eq!((&result["status"], &result["via"]), (&json!("queued"), &json!("sms")), "{late:?}");
    c.timer("deliverOutbox").await?.ok();
    assert_eq!(world.sim.sms(Some("13700000001")).len(), 1);
    let again = c.call_service("notifyAssignment", one("c-4", "s-li")).await?;
    assert_eq!(again.ok()["sent"], 1, "{again:?}");
    let listed = c.call_service("messages", json!({ "action": "list", "customerId": "c-4" })).await?;
    let rows = listed.ok()["data"].as_array().unwrap().clone();
    assert_eq!(rows.iter().map(|row| row["kind"].clone()).collect::<Vec<_>>(), ["sms", "message"], "{rows:?}");
    assert!(rows.iter().all(|row| row["customerIds"] == json!(["c-4"])), "{rows:?}");

    // Ten in a day are enough for anybody.
    for n in 0..9 {
        c.call_service("notifyAssignment", one(&format!("d-{n}"), "s-zhang")).await?.ok();
    }
    let over = c.call_service("notifyAssignment", one("d-9", "s-zhang")).await?;
    assert_eq!(over.ok()["results"][0]["reason"], "NO_OPENID", "{over:?}");
    c.advance(86_400).await?.ok();
    let next_day = c.call_service("notifyAssignment", one("d-9", "s-zhang")).await?;
    assert_eq!(next_day.ok()["results"][0]["via"], "sms", "{next_day:?}");
    // Off by default.
    let plain = world.client.call_service("notifyAssignment", one("e-1", "s-zhang")).await?;
    assert_eq!(plain.ok()["results"][0]["reason"], "NO_OPENID");
    world.finish().await
}

/// Killed between the commit and the first try, and in the middle of it; the repeat finds what is planned.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_telling() -> anyhow::Result<()> {
    for (point, sent_by_then, status) in [
        ("once.inside", 0, "sent"),
        ("once.committed", 0, "sent"),
        ("notify.planned", 0, "sent"),
        ("deliver.claimed", 0, "sent"),
        // From here on nobody can know whether the message has left.
        ("deliver.begun", 0, "refused"),
        ("deliver.sent", 1, "refused"),
        ("deliver.ended", 1, "sent"),
    ] {
        let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
        let host = start(&uri, &database, folder.path(), port, Some(point))?;
        let client = host.client.clone();
        let event = json!({ "customerId": "c-1", "customerName": "王小明", "assignedToUserId": "s-li", "requestId": "crash-notify" });
        let work = async {
            client.call_service("notifyAssignment", event.clone()).await?;
            // The reply may come while the try stands still.
            tokio::time::sleep(Duration::from_secs(30)).await;
            Ok(())
        };
        host.killed_at(point, work).await?;

        let host = start(&uri, &database, folder.path(), port, None)?;
        let c = &host.client;
        let staff = c.get("/sim/control/messages?openId=o-staff").await?;
        assert_eq!(staff["messages"].as_array().map_or(0, Vec::len), sent_by_then, "{point}: {staff}");
        service(c, event.clone()).await?;
        // The lease of whoever died must run out first.
        c.advance(180).await?;
        c.timer("deliverOutbox").await?.ok();
        let answer = service(c, event.clone()).await?;
        assert_eq!(answer["results"][0]["status"], status, "{point}: {answer}");
        if status == "refused" {
            assert_eq!(answer["results"][0]["reason"], "OUTCOME_UNKNOWN", "{point}");
        }
        let staff = c.get("/sim/control/messages?openId=o-staff").await?;
        let told = staff["messages"].as_array().map_or(0, Vec::len);
        assert_eq!(told, if status == "sent" { 1 } else { sent_by_then }, "{point}: {staff}");
        let store = Store::new(StoreConfig::new(&uri, &database));
        #[expect(clippy::disallowed_methods, reason = "the host's clock is the machine's")]
        let now = chrono::Utc::now() + chrono::TimeDelta::seconds(180);
        assert_eq!(violations(&store, now).await?, Vec::<String>::new(), "{point}");
        store.drop_database().await?;
    }
    Ok(())
}

/// Repeats as long as that helps: a killed transaction keeps its documents for a while.
async fn service(c: &it::Client, event: Value) -> anyhow::Result<Value> {
    for _ in 0..40 {
        let answer = c.call_service("notifyAssignment", event.clone()).await?;
        if answer.body["retryable"] != true {
            return Ok(answer.ok().clone());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("notifyAssignment did not recover")
}
