//! Bills and what is learned late: refunds that only the bill has as done, payments and refunds that turn up after their day was
//! compared, and days that take many runs.

use std::sync::atomic::{AtomicI64, Ordering};

use bson::doc;
use domain::{BusinessDay, ShopRules};
use it::{World, mongod_uri};
use serde_json::{Value, json};
use shop::bills::{Comparison, Uncompared};
use simulators::{BillMode, Target};
use wechat::pay::bill::BillKind;

use crate::audit::{Edit, apply, database, undo};
use crate::bills::{begun, change, compared, day, listed, noon, paid, reconcile, to_hour};

async fn get(world: &World, token: &str, order: &str) -> anyhow::Result<Value> {
    Ok(world.client.call("orders", token, json!({ "action": "get", "orderId": order })).await?.ok().clone())
}

/// A refund of a paid order that the shop has agreed to and that WeChat has not heard of yet.
async fn approved(world: &World, token: &str) -> anyhow::Result<String> {
    let c = &world.client;
    let order = paid(c, token, "once").await?;
    let asked = c.call("refunds", token, json!({ "action": "apply", "orderId": order, "reason": "不想要了" })).await?;
    let refund = asked.ok()["refund"]["refundId"].as_str().unwrap().to_owned();
    c.call_service("refunds", json!({ "action": "approve", "refundId": refund })).await?.ok();
    Ok(refund)
}

/// Money that fits no order and that WeChat has been told to give back: the order, and the refund's number.
async fn misfit(world: &World, token: &str) -> anyhow::Result<(String, String)> {
    let order = paid(&world.client, token, "wrongAppid").await?;
    let refund = world.sim.orders(&order)[0].refunds[0].out_refund_no.clone();
    Ok((order, refund))
}

async fn ends(world: &World, refund: &str, status: &str, notify: &str) -> anyhow::Result<()> {
    let event = json!({ "outRefundNo": refund, "status": status, "notify": notify });
    world.client.control("refund", event).await?.ok();
    Ok(())
}

async fn refund(world: &World, id: &str) -> anyhow::Result<Value> {
    let seen = world.client.call_service("refunds", json!({ "action": "get", "refundId": id })).await?;
    Ok(seen.ok()["refund"].clone())
}

fn manual(kinds: &[&str]) -> Vec<(String, String)> {
    kinds.iter().map(|kind| ((*kind).to_owned(), "\"manual\"".to_owned())).collect()
}

/// The days that a run of the timer has compared, with what it found.
async fn timer(world: &World) -> anyhow::Result<Vec<(String, i64)>> {
    let answer = world.client.timer("reconcileBill").await?;
    let days = answer.ok()["days"].as_array().unwrap().clone();
    Ok(days.iter().map(|day| (day["date"].as_str().unwrap().to_owned(), day["recorded"].as_i64().unwrap())).collect())
}

/// Every notice of it was lost: the bill tells, and WeChat is asked.
#[tokio::test(flavor = "multi_thread")]
async fn refunds_that_only_the_bill_has_as_done_are_concluded() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (under_way, failed, settled) =
        (approved(&world, &token).await?, approved(&world, &token).await?, approved(&world, &token).await?);
    c.timer("deliverOutbox").await?;
    let (order, number) = misfit(&world, &token).await?;
    for id in [&failed, &settled] {
        ends(&world, id, "ABNORMAL", "once").await?;
        assert_eq!(refund(&world, id).await?["status"], "failed");
    }
    let settle = json!({ "action": "settle", "refundId": settled, "remark": "转账" });
    c.call_service("refunds", settle).await?.ok();
    for number in [&under_way, &failed, &settled, &number] {
        ends(&world, number, "SUCCESS", "none").await?;
    }
    let date = day(&world);
    to_hour(c, world.app.clock.now(), 10).await?;

    // A file alone cannot ask: it tells.
    let folder = tempfile::tempdir()?;
    let (pay, path) = (world.app.pay()?, folder.path().join("bill.csv"));
    std::fs::write(&path, pay.download_bill(&pay.bill(date.parse()?, BillKind::Trade, true).await?).await?)?;
    let name = world.app.config.store.as_ref().unwrap().database.clone();
    let (status, out, _) = reconcile(&path, &mongod_uri().await?, &name, &["--dry-run"])?;
    assert!(status == 1 && out.matches("退款状态不符").count() == 4, "{out}");

    let found = compared(c, &date).await?;
    assert_eq!((&found["settled"], &found["differences"]), (&json!(4), &json!(0)), "{found}");
    for id in [&under_way, &failed] {
        let seen = refund(&world, id).await?;
        assert_eq!((&seen["status"], &seen["settledElsewhere"]), (&json!("refunded"), &json!(false)), "{seen}");
    }
    assert_eq!(get(&world, &token, &order).await?["paymentExceptions"][0]["status"], "refunded");
    // What staff had given another way has gone back twice now.
    assert_eq!(refund(&world, &settled).await?["settledElsewhere"], true);
    let twice = c.call_service("exceptions", json!({ "action": "list", "kind": "refundedTwice" })).await?;
    assert_eq!(twice.ok()["data"][0]["outRefundNo"], json!(settled));
    assert_eq!(compared(c, &date).await?["settled"], 0, "once");
    c.timer("deliverOutbox").await?;
    world.finish().await
}

#[tokio::test]
async fn a_payment_that_turns_up_after_its_day_has_to_be_in_that_bill() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    paid(c, &token, "once").await?;
    // WeChat has them as paid, and its bill has not.
    let mut lost = Vec::new();
    for _ in 0..2 {
        let order = paid(c, &token, "none").await?;
        change(&world, &order, BillMode::Missing, 0);
        lost.push(order);
    }
    let date = day(&world);
    c.timer("deliverOutbox").await?;
    to_hour(c, world.app.clock.now(), 10).await?;
    assert_eq!(timer(&world).await?, [(date.clone(), 0)], "nobody knows of them");
    assert_eq!(timer(&world).await?, []);
    // One is found by its buyer, the other by the timer: the day is compared once more, and only that.
    c.call("wxPay", &token, json!({ "orderId": lost[0], "action": "query" })).await?.ok();
    assert_eq!(timer(&world).await?, [(date.clone(), 1)]);
    c.timer("reconcilePayments").await?;
    assert_eq!(get(&world, &token, &lost[1]).await?["paymentExceptions"][0]["kind"], Value::Null);
    assert_eq!(timer(&world).await?, [(date.clone(), 1)]);
    assert_eq!(timer(&world).await?, []);
    assert_eq!(listed(c, &date).await?, manual(&["billMissingPayment", "billMissingPayment"]));

    // A day without any bill is no other: empty books close it, and what turns up opens it again.
    let order = paid(c, &token, "none").await?;
    change(&world, &order, BillMode::Missing, 0);
    let date = day(&world);
    c.timer("deliverOutbox").await?;
    to_hour(c, world.app.clock.now(), 10).await?;
    let empty = c.timer("reconcileBill").await?;
    assert_eq!((&empty.ok()["days"][0]["date"], &empty.body["days"][0]["status"]), (&json!(date), &json!("none")));
    c.call("wxPay", &token, json!({ "orderId": order, "action": "query" })).await?.ok();
    assert_eq!(c.timer("reconcileBill").await?.ok()["remaining"], json!([date]), "not believed at once");
    c.timer("deliverOutbox").await?;
    c.advance(2 * 86_400).await?;
    assert!(timer(&world).await?.contains(&(date.clone(), 1)));
    assert_eq!(listed(c, &date).await?, manual(&["billMissingPayment"]));
    world.finish().await
}

#[tokio::test]
async fn a_refund_that_is_done_after_its_day_has_to_be_in_that_bill() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (there, missing) = (approved(&world, &token).await?, approved(&world, &token).await?);
    c.timer("deliverOutbox").await?;
    let (_, misfit) = misfit(&world, &token).await?;
    for number in [&missing, &misfit] {
        change(&world, number, BillMode::Missing, 0);
    }
    let date = day(&world);
    to_hour(c, world.app.clock.now(), 10).await?;
    assert_eq!(timer(&world).await?, [(date.clone(), 0)], "they are under way, and the bill says so of one");
    // That one is done, and nothing has to be looked at again.
    ends(&world, &there, "SUCCESS", "once").await?;
    assert_eq!(timer(&world).await?, []);
    // WeChat has said when it accepted the second one; the third one's notice does not say.
    ends(&world, &missing, "SUCCESS", "once").await?;
    ends(&world, &misfit, "SUCCESS", "once").await?;
    assert_eq!(timer(&world).await?, [(date.clone(), 1)]);
    assert_eq!(listed(c, &date).await?, manual(&["billMissingRefund"]));
    let next = day(&world);
    c.timer("deliverOutbox").await?;
    to_hour(c, world.app.clock.now(), 10).await?;
    assert_eq!(timer(&world).await?, [(next, 0)], "it is asked about with the day on which it was learned");
    assert_eq!(timer(&world).await?, [(date.clone(), 1)]);
    assert_eq!(listed(c, &date).await?, manual(&["billMissingRefund", "billMissingRefund"]));
    assert_eq!(timer(&world).await?, []);
    c.timer("deliverOutbox").await?;
    world.finish().await
}

/// Compares a day in runs that have little time each; returns how many it took and how many differences were recorded.
async fn in_runs(world: &World, date: &str, steps: i64, runs_max: usize) -> anyhow::Result<(usize, i64)> {
    let (rules, day) = (ShopRules::default(), BusinessDay::parse(date).unwrap());
    let mut rows = 0;
    for run in 1..=runs_max {
        let left = AtomicI64::new(steps);
        let goes_on = || left.fetch_sub(1, Ordering::Relaxed) > 0;
        let comparison = Comparison {
            store: &world.store,
            client: Some(world.app.pay()?),
            rules: &rules,
            now: world.app.clock.now(),
            dry_run: false,
            source: "bill",
            goes_on: &goes_on,
        };
        let found = comparison.fetch(world.app.pay()?, day).await;
        let bill = world.store.bill(day).await?.unwrap();
        match found {
            Ok(_) => {
                assert_eq!((bill.compared_rows, bill.compared_sha1), (0, None));
                return Ok((run, bill.differences));
            }
            Err(Uncompared::OutOfTime) => {
                assert!(bill.compared_rows >= rows, "what is compared stays so");
                rows = bill.compared_rows;
            }
            Err(other) => return Err(other.into()),
        }
    }
    anyhow::bail!("{date} was not finished in {runs_max} runs")
}

#[tokio::test]
async fn a_day_that_takes_many_runs_is_finished() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut late = Vec::new();
    for _ in 0..7 {
        let (_, refund) = misfit(&world, &token).await?;
        change(&world, &refund, BillMode::Missing, 0);
        late.push(refund);
    }
    for n in 0..230 {
        change(&world, &format!("somebody-else-{n}"), BillMode::Extra, 100 + n);
    }
    let date = day(&world);
    to_hour(c, world.app.clock.now(), 10).await?;
    let (runs, recorded) = in_runs(&world, &date, 80, 5).await?;
    assert_eq!(recorded, 230);
    assert!(runs > 2, "{runs}");
    // Seven refunds are done a day late, and each has to be asked about: four in a run, and none of them twice.
    for refund in &late {
        ends(&world, refund, "SUCCESS", "once").await?;
    }
    let next = day(&world);
    c.timer("deliverOutbox").await?;
    to_hour(c, world.app.clock.now(), 10).await?;
    let asked = || world.sim.requests(Target::Wxpay, "/v3/refund/domestic/refunds/RF");
    let before = asked();
    let (runs, recorded) = in_runs(&world, &next, 4, 5).await?;
    assert_eq!((runs, recorded, asked() - before), (3, 0, 7));
    let (_, recorded) = in_runs(&world, &date, 80, 5).await?;
    assert_eq!(recorded, 237, "their own day's bill has none of them");
    c.timer("deliverOutbox").await?;
    world.finish().await
}

/// A day that ran out of time has its next turn after the days that were not tried since.
#[tokio::test]
async fn a_day_that_is_gone_on_with_holds_up_no_other() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut dates = Vec::new();
    for _ in 0..3 {
        paid(c, &token, "once").await?;
        dates.push(day(&world));
        c.timer("deliverOutbox").await?;
        to_hour(c, world.app.clock.now(), 12).await?;
    }
    let oldest = BusinessDay::parse(&dates[0]).unwrap();
    world.store.begin_bill(oldest, world.app.clock.now()).await?;
    world.store.postpone_bill(oldest, "there was no time to compare all of it", world.app.clock.now()).await?;
    c.advance(1).await?;
    let order: Vec<String> = timer(&world).await?.into_iter().map(|(date, _)| date).collect();
    assert_eq!(order, [&dates[1], &dates[2], &dates[0]].map(Clone::clone));
    world.finish().await
}

#[tokio::test]
async fn the_audit_sees_what_a_compared_bill_lacks() -> anyhow::Result<()> {
    let world = noon().await?;
    let db = database(&world).await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let order = paid(c, &token, "once").await?;
    let refund = approved(&world, &token).await?;
    c.timer("deliverOutbox").await?;
    let (misfit, number) = misfit(&world, &token).await?;
    for number in [&refund, &number] {
        ends(&world, number, "SUCCESS", "none").await?;
    }
    let lost = begun(c, &token).await?;
    c.pay(&lost, "once").await?;
    change(&world, &lost, BillMode::Missing, 0);
    let date = day(&world);
    c.timer("deliverOutbox").await?;
    c.advance(120).await?;
    c.timer("deliverOutbox").await?;
    to_hour(c, world.app.clock.now(), 10).await?;
    assert_eq!(timer(&world).await?, [(date.clone(), 1)]);
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");
    let listed = c.call_service("exceptions", json!({ "action": "list", "date": date })).await?;
    let difference = listed.ok()["data"][0]["exceptionId"].as_str().unwrap().to_owned();
    let payment = world.sim.orders(&order)[0].out_trade_no.clone();
    let misfit = world.store.exceptions_of(&domain::OrderId::parse(&misfit)?).await?[0].id.clone();
    let elsewhere = || doc! { "$set": { "refundBillDay": "2020-01-01" } };
    let damages = [
        ("a payment is in no bill", Edit::Update("payments", payment, doc! { "$unset": { "billDay": "" } })),
        (
            "a refund is in no bill",
            Edit::Update("refunds", refund.clone(), doc! { "$unset": { "numbers.0.billDay": "" } }),
        ),
        (
            "a refund is in the bill of no day",
            Edit::Update("refunds", refund, doc! { "$set": { "numbers.0.billDay": "2020-01-01" } }),
        ),
        (
            "a misfit's refund is in no bill",
            Edit::Update("paymentExceptions", misfit.clone(), doc! { "$unset": { "refundBillDay": "" } }),
        ),
        ("a misfit's refund is in the bill of no day", Edit::Update("paymentExceptions", misfit, elsewhere())),
        ("nobody was told", Edit::Delete("paymentExceptions", difference)),
    ];
    for (name, edit) in &damages {
        let step = apply(&db, edit).await.map_err(|e| e.context(*name))?;
        let report = world.store.audit(world.app.clock.now()).await?;
        assert!(report.violations.iter().any(|v| v.invariant == "bill"), "{name}: {:?}", report.violations);
        undo(&db, step).await?;
    }
    world.finish().await
}
