//! `sealLedger`: finished days are sealed once, in order, whoever runs it how often.

use chrono::{DateTime, TimeDelta, Utc};
use domain::BusinessDay;
use it::{World, order_of};
use serde_json::{Value, json};
use store::Store;
use store::book::{Entry, SALES, WECHAT};
use store::seals::{DayHash, GENESIS, SETTLING};

/// Books one fen at a business time.
pub(crate) async fn book(store: &Store, id: &str, at: DateTime<Utc>) -> anyhow::Result<Entry> {
    let entry = Entry::new(format!("test:{id}:sale"), at).transfer("fen", WECHAT, SALES, 1);
    let run = store.transaction(|tx, _| {
        let entry = &entry;
        Box::pin(async move { tx.post(entry).await.map(drop) })
    });
    run.await?;
    Ok(entry)
}

fn days(reply: &Value) -> Vec<(String, i64)> {
    let seals = reply["sealed"].as_array().into_iter().flatten();
    seals.map(|s| (s["day"].as_str().unwrap().to_owned(), s["entries"].as_i64().unwrap())).collect()
}

#[tokio::test]
async fn entries_around_midnight_fall_on_their_shanghai_day() -> anyhow::Result<()> {
    let world = World::start().await?;
    let yesterday = BusinessDay::of(world.app.clock.now() - TimeDelta::days(3));
    let midnight = yesterday.end();
    let last = book(&world.store, "last", midnight - TimeDelta::milliseconds(1)).await?;
    let first = book(&world.store, "first", midnight).await?;
    let answer = world.client.timer("sealLedger").await?;
    let found = days(answer.ok());
    assert_eq!(found[..2], [(yesterday.to_string(), 1), (yesterday.next().to_string(), 1)], "{answer:?}");
    // By hand: the chain begins with zeros, and each day is chained to the one before.
    let mut hash = DayHash::new(GENESIS, yesterday);
    hash.push(&last)?;
    let one = hash.finish().1;
    let mut hash = DayHash::new(&one, yesterday.next());
    hash.push(&first)?;
    assert_eq!(
        (&answer.body["sealed"][0]["hash"], &answer.body["sealed"][1]["hash"]),
        (&json!(one), &json!(hash.finish().1))
    );
    world.finish().await
}

#[tokio::test]
async fn a_day_is_sealed_two_hours_after_its_end_and_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    // Nothing of today can be sealed.
    let none = c.timer("sealLedger").await?;
    assert_eq!((days(none.ok()), &none.body["remaining"], &none.body["newest"]), (vec![], &json!(false), &Value::Null));
    let token = c.login("demo").await?;
    let today = BusinessDay::of(world.app.clock.now());
    c.call("submitOrder", &token, order_of("p-apple", 1)).await?.ok();
    let wait = today.end() + SETTLING - world.app.clock.now();
    c.advance(wait.num_seconds() - 60).await?;
    assert_eq!(days(c.timer("sealLedger").await?.ok()), []);
    c.advance(61).await?;
    let sealed = c.timer("sealLedger").await?;
    assert_eq!(days(sealed.ok()).iter().map(|d| d.0.as_str()).collect::<Vec<_>>(), [today.to_string()]);
    assert!(days(&sealed.body)[0].1 > 1);
    assert_eq!(sealed.body["newest"], sealed.body["sealed"][0]);
    // Again, also as a service: nothing new, and the newest is told.
    let again = c.call_service("sealLedger", json!({})).await?;
    assert_eq!((days(again.ok()), &again.body["newest"]), (vec![], &sealed.body["newest"]));
    c.call("sealLedger", &token, json!({})).await?.refused(403, "FORBIDDEN");
    // The reversals of the closed order are booked on their own day.
    world.settle_down().await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_days_are_sealed_in_bounded_runs_by_many_at_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let now = world.app.clock.now();
    let start = now - TimeDelta::days(900);
    book(&world.store, "old", start).await?;
    book(&world.store, "middle", start + TimeDelta::days(450)).await?;
    let mut runs = 0;
    loop {
        let (one, two, three) = tokio::join!(
            world.client.timer("sealLedger"),
            world.client.timer("sealLedger"),
            world.client.timer("sealLedger")
        );
        let answers = [one?, two?, three?];
        for answer in &answers {
            assert!(answer.ok()["sealed"].as_array().unwrap().len() <= 400);
        }
        runs += 1;
        if answers.iter().all(|a| a.body["remaining"] == false) {
            break;
        }
    }
    assert!(runs >= 3, "{runs}");
    let newest = world.store.newest_seal().await?.unwrap();
    assert_eq!(BusinessDay::parse(&newest.day).unwrap().end().max(now - TimeDelta::days(2)), newest.to);
    world.finish().await
}

#[tokio::test]
async fn a_day_sealed_with_another_hash_is_an_error() -> anyhow::Result<()> {
    let world = World::start().await?;
    let at = world.app.clock.now() - TimeDelta::days(10);
    book(&world.store, "one", at).await?;
    let day = BusinessDay::of(at);
    world.store.seal_day(day, GENESIS, world.app.clock.now()).await?;
    // The same again is the same; with another entry it is not.
    world.store.seal_day(day, GENESIS, world.app.clock.now()).await?;
    book(&world.store, "late", at).await?;
    let error = world.store.seal_day(day, GENESIS, world.app.clock.now()).await.unwrap_err();
    assert!(error.to_string().contains("another hash"), "{error}");
    let found = world.violations().await?;
    assert!(found.iter().all(|v| v.starts_with("seal:")) && found.len() == 2, "{found:?}");
    world.store.drop_database().await?;
    Ok(())
}
