//! What happens is told: once, to the right person, with the right values, and only where the shop and the person want it.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Consent, Event, OpenId, OrderId, Tells};
use futures_util::future::join_all;
use it::{World, order_of};
use serde_json::{Value, json};
use shop::reminders::remind;
use store::outbox::{OutboxItem, OutboxStatus};
use store::subscriptions::{Choice, Subscription};
use wechat::subscribe::Template;

use crate::coins::{give, mug, verified};
use crate::lottery::{activity_open_at, create, draw, people, sign_up};
use crate::shipping::{paid, ship};

fn template(name: &str, fields: &[(&str, &str)]) -> Template {
    Template {
        name: name.to_owned(),
        template_id: format!("t-{name}"),
        fields: fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Template::default()
    }
}

/// One-time templates for everything.
pub(crate) fn templates() -> Vec<Template> {
    let order = [("character_string1", "orderNo"), ("amount2", "amount"), ("thing3", "products"), ("time4", "time")];
    vec![
        template("orderPaid", &[order.as_slice(), &[("phrase5", "status")]].concat()),
        template("orderRefunded", &[order.as_slice(), &[("thing5", "reason")]].concat()),
        template("orderArrived", &[("character_string1", "orderNo"), ("thing2", "products"), ("phrase3", "status")]),
        template(
            "orderShipped",
            &[
                ("character_string1", "orderNo"),
                ("thing2", "expressCompany"),
                ("character_string3", "trackingNo"),
                ("time4", "time"),
                ("phrase5", "status"),
            ],
        ),
        template(
            "lotteryResult",
            &[("thing1", "activityName"), ("phrase2", "result"), ("thing3", "productName"), ("thing4", "expireTime")],
        ),
        template(
            "coinExpiring",
            &[("number1", "coins"), ("number2", "balance"), ("time3", "expireTime"), ("thing4", "reason")],
        ),
    ]
}

pub(crate) async fn world() -> anyhow::Result<World> {
    World::start_with(|config| config.templates = templates()).await
}

/// `o-NAME` agrees to so many messages about an event.
pub(crate) async fn agree(world: &World, name: &str, event: &str, times: u32) -> anyhow::Result<()> {
    let (open_id, now) = (OpenId::parse(&format!("o-{name}"))?, world.app.clock.now());
    let template = format!("t-{event}");
    for _ in 0..times {
        let (open_id, template) = (&open_id, &template);
        world
            .store
            .transaction(|tx, _| {
                Box::pin(async move { tx.record_choice(open_id, template, Choice::Accept, now).await })
            })
            .await?;
    }
    Ok(())
}

async fn item(world: &World, id: &str) -> anyhow::Result<Option<OutboxItem>> {
    Ok(world.store.outbox_item(id).await?)
}

async fn status(world: &World, id: &str) -> anyhow::Result<(OutboxStatus, String)> {
    let item = item(world, id).await?.ok_or_else(|| anyhow::anyhow!("no {id}"))?;
    Ok((item.status, item.reason.unwrap_or_default()))
}

/// The values that arrived at `o-NAME` of a template.
fn arrived(world: &World, name: &str, event: &str) -> Vec<BTreeMap<String, String>> {
    let all = world.sim.messages(Some(&format!("o-{name}")));
    let of = all.iter().filter(|m| m.template_id == format!("t-{event}"));
    let values = |data: &Value| {
        let fields = data.as_object().unwrap().iter();
        fields.map(|(key, field)| (key.clone(), field["value"].as_str().unwrap().to_owned())).collect()
    };
    of.map(|m| values(&m.data)).collect()
}

async fn deliver(world: &World) -> anyhow::Result<()> {
    world.client.timer("deliverOutbox").await?.ok();
    Ok(())
}

/// The items of the outbox whose key begins so.
async fn told(world: &World, prefix: &str) -> anyhow::Result<Vec<Value>> {
    let rows = world.store.peek("outbox", 1000).await?;
    Ok(rows.into_iter().filter(|row| row["_id"].as_str().unwrap().starts_with(prefix)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_an_order_arrives_with_its_values() -> anyhow::Result<()> {
    let world = world().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    for event in ["orderPaid", "orderShipped", "orderRefunded"] {
        agree(&world, "alice", event, 1).await?;
    }
    let id = paid(&world, &token).await?;
    let order = world.store.order(&OrderId::parse(&id)?).await?.unwrap();
    let planned = item(&world, &format!("message:order:{id}:paid")).await?.unwrap();
    assert_eq!((planned.kind.as_str(), planned.queue.as_deref()), ("message", Some("o-alice")));
    assert_eq!(planned.expires_at, Some(planned.created_at + TimeDelta::hours(24)));
    deliver(&world).await?;
    let paid_values = arrived(&world, "alice", "orderPaid");
    let [values] = paid_values.as_slice() else { panic!("{paid_values:?}") };
    assert_eq!(values["character_string1"], id);
    assert_eq!(values["amount2"], format!("{}元", domain::Yuan(order.payment_amount)));
    assert!(values["thing3"].ends_with("等3件"), "{values:?}");
    assert!(values["time4"].contains('年') && values["phrase5"] == "已支付", "{values:?}");

    ship(&world, &id, "YT1").await?.ok();
    deliver(&world).await?;
    let shipped = arrived(&world, "alice", "orderShipped");
    let [values] = shipped.as_slice() else { panic!("{shipped:?}") };
    assert_eq!((values["thing2"].as_str(), values["character_string3"].as_str()), ("圆通速递", "YT1"));

    // Paid once more: the second payment goes back.
    let second = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": second })).await?.ok();
    c.pay(&second, "wrongAmount").await?;
    for _ in 0..3 {
        c.advance(600).await?;
        deliver(&world).await?;
    }
    let refunded = arrived(&world, "alice", "orderRefunded");
    let [values] = refunded.as_slice() else { panic!("{refunded:?}: {:?}", told(&world, "").await?) };
    assert_eq!((values["character_string1"].as_str(), values["thing5"].as_str()), (&*second, "付款金额与订单不符"));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_named_where_it_is_caused_waits_for_whoever_has_its_template() -> anyhow::Result<()> {
    let named = [Event::OrderPaid, Event::OrderRefunded];
    let world = World::start_with(|config| (config.templates, config.told) = (Vec::new(), named.to_vec())).await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let id = paid(&world, &token).await?;
    ship(&world, &id, "YT1").await?.ok();
    let second = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": second })).await?.ok();
    c.pay(&second, "wrongAmount").await?;
    for _ in 0..3 {
        c.advance(600).await?;
        deliver(&world).await?;
    }
    let told = told(&world, "message:order:").await?;
    let mut events: Vec<&str> = told.iter().map(|row| row["_id"].as_str().unwrap()).collect();
    events.sort_unstable_by_key(|event| event.contains(":refund:"));
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0], format!("message:order:{id}:paid"));
    assert!(events[1].starts_with(&format!("message:order:{second}:refund:")), "{events:?}");
    // Here nobody has one.
    for event in events {
        assert_eq!(status(&world, event).await?, (OutboxStatus::Skipped, "NO_TEMPLATE".to_owned()));
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_are_paid_at_once_are_told_too() -> anyhow::Result<()> {
    let world = world().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    verified(&world.store, "mia", now).await?;
    give(&world.store, "mia", "q", 1, now).await?;
    let token = c.login("mia").await?;
    agree(&world, "mia", "orderPaid", 3).await?;
    let mut event = order_of("p-apple", 1);
    event["paymentMethod"] = json!("balance");
    c.call("submitOrder", &token, event).await?.ok();
    c.call("pointsMall", &token, mug(1)).await?.ok();
    let lin = world.linked_member().await?;
    agree(&world, "lin", "orderPaid", 1).await?;
    let mut event = order_of("p-apple", 1);
    event["paymentMethod"] = json!("prepaid");
    let prepaid = c.call("submitOrder", &lin, event).await?;
    assert_eq!(prepaid.ok()["status"], "paid");
    deliver(&world).await?;
    assert_eq!((arrived(&world, "mia", "orderPaid").len(), arrived(&world, "lin", "orderPaid").len()), (2, 1));
    let left = world.store.subscriptions(&OpenId::parse("o-mia")?).await?;
    assert_eq!((left[0].available, left[0].taken), (1, 2));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_the_message_ends_and_the_order_goes_on() -> anyhow::Result<()> {
    let world = world().await?;
    let token = world.client.login("alice").await?;
    let id = paid(&world, &token).await?;
    deliver(&world).await?;
    let wanted = (OutboxStatus::Skipped, "NO_SUBSCRIPTION".to_owned());
    assert_eq!(status(&world, &format!("message:order:{id}:paid")).await?, wanted);
    ship(&world, &id, "1").await?.ok();
    deliver(&world).await?;
    assert_eq!(status(&world, &format!("message:order:{id}:shipped")).await?, wanted);
    assert_eq!(status(&world, &format!("shipping:{id}:1")).await?.0, OutboxStatus::Delivered);
    let view = world.client.call("orders", &token, json!({ "action": "get", "orderId": id })).await?;
    assert_eq!(view.ok()["status"], "shipped");
    assert!(world.sim.messages(None).is_empty());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_template_is_not_told() -> anyhow::Result<()> {
    let world = World::start_with(|config| config.templates = Vec::new()).await?;
    let (c, now) = (&world.client, world.app.clock.now());
    let token = c.login("alice").await?;
    let id = paid(&world, &token).await?;
    ship(&world, &id, "1").await?.ok();
    verified(&world.store, "mia", now).await?;
    give(&world.store, "mia", "q", 1, now - TimeDelta::hours(47)).await?;
    c.timer("expireCoins").await?.ok();
    let activity = create(&world, activity_open_at(now)).await?;
    for token in people(c, 7).await? {
        sign_up(c, &token, &activity).await?.ok();
    }
    c.advance(660).await?;
    assert_eq!(draw(c).await?["drawn"][0]["winners"], 5);
    let all = told(&world, "").await?;
    assert_eq!(all.iter().map(|row| row["kind"].clone()).collect::<Vec<_>>(), [json!("shippingReport")], "{all:?}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_notices_are_one_message() -> anyhow::Result<()> {
    let world = world().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    agree(&world, "alice", "orderPaid", 5).await?;
    let id = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
    join_all((0..20).map(|_| c.pay(&id, "once"))).await;
    c.pay(&id, "duplicate").await?;
    c.call("wxPay", &token, json!({ "orderId": id, "action": "query" })).await?.ok();
    join_all((0..3).map(|_| c.timer("deliverOutbox"))).await;
    c.advance(120).await?;
    world.settle_down().await?;
    assert_eq!((arrived(&world, "alice", "orderPaid").len(), told(&world, "message:").await?.len()), (1, 1));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draw_tells_winners_and_the_losers_who_agreed() -> anyhow::Result<()> {
    let world = world().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    let activity = create(&world, activity_open_at(now)).await?;
    let tokens = people(c, 205).await?;
    for chunk in tokens.chunks(10) {
        for answer in join_all(chunk.iter().map(|token| sign_up(c, token, &activity))).await {
            answer?.ok();
        }
    }
    // Some of them win.
    for i in 0..22 {
        agree(&world, &format!("p{i}"), "lotteryResult", 1).await?;
    }
    c.advance(660).await?;
    let drawn = draw(c).await?;
    assert_eq!((&drawn["drawn"][0]["entries"], &drawn["drawn"][0]["winners"]), (&json!(205), &json!(5)));
    let rows = told(&world, "message:lottery:").await?;
    let kind = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).cloned().collect::<Vec<_>>();
    let (winners, losers) = (kind("message"), kind("massMessage"));
    let agreed = |row: &Value| {
        let number = row["queue"].as_str().unwrap().trim_start_matches("o-p").parse::<u32>().unwrap();
        number < 22
    };
    let lucky = winners.iter().filter(|row| agreed(row)).count();
    assert_eq!((winners.len(), losers.len()), (5, 22 - lucky), "{drawn}");
    assert!(losers.iter().all(agreed));
    let round = drawn["drawn"][0]["roundId"].as_str().unwrap();
    for row in &winners {
        let item = item(&world, row["_id"].as_str().unwrap()).await?.unwrap();
        let ticket = item.id.rsplit(':').next().unwrap();
        let right = world.store.qualification(&format!("{round}-{ticket}")).await?.unwrap();
        assert_eq!(item.expires_at, Some(right.expire_time));
    }
    deliver(&world).await?;
    let sent = world.sim.messages(None);
    assert_eq!(sent.len(), 22);
    let results = sent.iter().filter(|m| m.data["phrase2"]["value"] == "中签").count();
    assert_eq!(results, lucky);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_with_a_long_term_template_is_told_of_a_draw() -> anyhow::Result<()> {
    let long_term = |config: &mut edge::Config| {
        config.templates = templates();
        config.templates.iter_mut().for_each(|t| t.long_term = true);
    };
    let world = World::start_with(long_term).await?;
    let (c, now) = (&world.client, world.app.clock.now());
    let activity = create(&world, activity_open_at(now)).await?;
    for token in people(c, 9).await? {
        sign_up(c, &token, &activity).await?.ok();
    }
    c.advance(660).await?;
    draw(c).await?;
    deliver(&world).await?;
    assert_eq!((told(&world, "message:lottery:").await?.len(), world.sim.messages(None).len()), (9, 9));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn coins_about_to_expire_are_told_once_a_day() -> anyhow::Result<()> {
    let world = world().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    let granted = |hours_left: i64| now - TimeDelta::hours(48 - hours_left);
    for name in ["mia", "tim", "far", "old"] {
        verified(&world.store, name, now).await?;
    }
    for name in ["mia", "far", "old"] {
        agree(&world, name, "coinExpiring", 5).await?;
    }
    give(&world.store, "mia", "m1", 2, granted(3)).await?;
    give(&world.store, "mia", "m2", 1, granted(5)).await?;
    give(&world.store, "mia", "m3", 4, granted(20)).await?;
    give(&world.store, "tim", "t1", 1, granted(2)).await?;
    give(&world.store, "far", "f1", 1, granted(7)).await?;
    give(&world.store, "old", "o1", 1, granted(-1)).await?;
    let run = c.call_service("expireCoins", json!({})).await?;
    assert_eq!((&run.ok()["reminded"], &run.body["expiredLots"]), (&json!(1), &json!(1)), "{run:?}");
    let rows = told(&world, "message:coins:").await?;
    assert_eq!((rows.len(), &rows[0]["kind"]), (1, &json!("massMessage")));
    let planned = item(&world, rows[0]["_id"].as_str().unwrap()).await?.unwrap();
    assert_eq!(planned.expires_at, Some(granted(3) + TimeDelta::hours(48)));
    deliver(&world).await?;
    let values = arrived(&world, "mia", "coinExpiring");
    assert_eq!((values[0]["number1"].as_str(), values[0]["number2"].as_str()), ("3", "7"), "{values:?}");
    assert!(values[0]["time3"].contains('年') && values[0]["thing4"].contains('3'), "{values:?}");
    assert_eq!(c.call_service("expireCoins", json!({})).await?.ok()["reminded"], 0);
    // Those who were too early before are told later; who holds nothing any more is not.
    c.advance(3600 * 2).await?;
    assert_eq!(c.call_service("expireCoins", json!({})).await?.ok()["reminded"], 1);
    assert_eq!(told(&world, "message:coins:u-far:").await?.len(), 1);
    deliver(&world).await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reminders_of_many_go_on_where_they_stopped_and_never_twice() -> anyhow::Result<()> {
    let world = world().await?;
    let (store, now) = (&world.store, world.app.clock.now());
    let granted = |minutes: i64| now - TimeDelta::hours(48) + TimeDelta::minutes(minutes);
    for i in 0..12 {
        let name = format!("c{i}");
        verified(store, &name, now).await?;
        agree(&world, &name, "coinExpiring", 1).await?;
        // Several of them at the very same moment.
        give(store, &name, &format!("a{i}"), 1, granted(60 + i / 5)).await?;
        give(store, &name, &format!("b{i}"), 1, granted(90)).await?;
    }
    let consent = Consent::EachTime { template_id: "t-coinExpiring".to_owned() };
    let tells = Tells::new([(Event::CoinExpiring, consent)]);
    let step = |at: DateTime<Utc>| remind(store, &tells, 5, at);
    let first = step(now).await?;
    assert_eq!((first.lots, first.messages), (5, 5));
    // Processes that meet.
    let mut messages = first.messages;
    for _ in 0..20 {
        for step in join_all((0..4).map(|_| step(now))).await {
            messages += step?.messages;
        }
    }
    assert_eq!((messages, told(&world, "message:coins:").await?.len()), (12, 12));
    assert_eq!(step(now).await?.lots, 0);
    for i in 0..12 {
        let id = Subscription::key(&OpenId::parse(&format!("o-c{i}"))?, "t-coinExpiring");
        assert_eq!(store.permitted(std::slice::from_ref(&id)).await?, [id]);
    }
    deliver(&world).await?;
    assert_eq!(world.sim.messages(None).len(), 12);
    world.finish().await
}
