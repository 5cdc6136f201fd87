//! The daily bill and our books, compared both ways: what WeChat knows is settled, what differs is recorded once.

use std::path::Path;
use std::process::Command;

use bson::doc;
use chrono::TimeDelta;
use domain::BusinessDay;
use futures_util::future::join_all;
use it::{Client, World, database_name, mongod_uri, order_of, settle_down, violations};
use serde_json::{Value, json};
use simulators::{BillMode, ChangeBill, Fault, FaultMode, LegacyMode, LegacyRefund, Target};
use store::{Store, StoreConfig};
use wechat::pay::bill::BillKind;

use crate::audit::{Edit, apply, database, undo};
use crate::crash::{free_port, start};

/// Moves the clock to an hour in Beijing, of the next day that has it still to come.
pub(crate) async fn to_hour(client: &Client, now: chrono::DateTime<chrono::Utc>, hour: i64) -> anyhow::Result<()> {
    let at = BusinessDay::of(now).start() + TimeDelta::hours(hour) + TimeDelta::minutes(15);
    let at = if at > now { at } else { at + TimeDelta::days(1) };
    // A second more: the clock has passed the hour then, whatever fraction it had.
    client.advance((at - now).num_seconds() + 1).await?;
    Ok(())
}

/// A world at noon in Beijing.
pub(crate) async fn noon() -> anyhow::Result<World> {
    let world = World::start().await?;
    to_hour(&world.client, world.app.clock.now(), 12).await?;
    Ok(world)
}

/// The next morning, when bills are ready.
pub(crate) async fn morning(world: &World) -> anyhow::Result<()> {
    world.settle_down().await?;
    to_hour(&world.client, world.app.clock.now(), 10).await
}

pub(crate) fn day(world: &World) -> String {
    BusinessDay::of(world.app.clock.now()).to_string()
}

/// An order of apples, begun to be paid.
pub(crate) async fn begun(client: &Client, token: &str) -> anyhow::Result<String> {
    let id = client.call("submitOrder", token, order_of("p-apple", 1)).await?.text("orderId");
    client.call("wxPay", token, json!({ "orderId": id })).await?.ok();
    Ok(id)
}

pub(crate) async fn paid(client: &Client, token: &str, notice: &str) -> anyhow::Result<String> {
    let id = begun(client, token).await?;
    client.pay(&id, notice).await?;
    Ok(id)
}

/// Money that fits no order and went back: the number of its refund.
async fn refunded(world: &World, token: &str) -> anyhow::Result<String> {
    let id = paid(&world.client, token, "wrongAppid").await?;
    for _ in 0..2 {
        world.client.advance(120).await?;
        world.client.timer("deliverOutbox").await?;
    }
    let refund = &world.sim.orders(&id)[0].refunds[0];
    Ok(refund.out_refund_no.clone())
}

pub(crate) async fn compared(client: &Client, date: &str) -> anyhow::Result<Value> {
    let answer = client.call_service("reconcileBill", json!({ "date": date })).await?;
    assert_eq!(answer.ok()["remaining"], json!([]), "{answer:?}");
    Ok(answer.body["days"][0].clone())
}

/// What is listed of a day: number, kind and status, in order.
pub(crate) async fn listed(client: &Client, date: &str) -> anyhow::Result<Vec<(String, String)>> {
    let list = client.call_service("exceptions", json!({ "action": "list", "date": date, "limit": 100 })).await?;
    let rows = list.ok()["data"].as_array().unwrap();
    let mut rows: Vec<(String, String)> =
        rows.iter().map(|row| (row["kind"].as_str().unwrap().to_owned(), row["status"].to_string())).collect();
    rows.sort();
    Ok(rows)
}

pub(crate) fn change(world: &World, number: &str, mode: BillMode, fen: i64) {
    world.sim.change_bill(ChangeBill { number: number.to_owned(), mode, fen });
}

#[tokio::test]
async fn a_bill_that_agrees_is_compared_once_and_leaves_nothing() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    for _ in 0..2 {
        paid(c, &token, "once").await?;
    }
    refunded(&world, &token).await?;
    let date = day(&world);
    // In the afternoon there is nothing but the day before, which had no trade.
    let first = c.timer("reconcileBill").await?;
    assert_eq!(first.ok()["days"][0]["status"], "none", "{first:?}");
    morning(&world).await?;
    let answer = c.timer("reconcileBill").await?;
    let found = &answer.ok()["days"];
    assert_eq!(found.as_array().unwrap().len(), 1, "{answer:?}");
    assert_eq!(
        found[0],
        json!({ "date": date, "status": "done", "payments": 3, "refunds": 1, "settled": 0, "differences": 0, "recorded": 0 })
    );
    assert_eq!(c.timer("reconcileBill").await?.ok()["days"], json!([]), "it is done");
    world.finish().await
}

#[tokio::test]
async fn a_payment_that_only_the_bill_knows_is_settled() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (lost, closed) = (paid(c, &token, "none").await?, begun(c, &token).await?);
    // Closed with us on a wrong belief and paid all the same.
    world.store.mark_payment_closed(&closed).await?;
    c.call("orders", &token, json!({ "action": "cancel", "orderId": closed })).await?.ok();
    c.pay(&closed, "none").await?;
    let date = day(&world);
    to_hour(c, world.app.clock.now(), 10).await?;
    let found = compared(c, &date).await?;
    assert_eq!((&found["settled"], &found["differences"]), (&json!(2), &json!(0)), "{found}");
    let order = c.call("orders", &token, json!({ "action": "get", "orderId": lost })).await?;
    assert_eq!(order.ok()["status"], "paid");
    let order = c.call("orders", &token, json!({ "action": "get", "orderId": closed })).await?;
    assert_eq!(order.ok()["paymentExceptions"][0]["kind"], "paidAfterClose", "{order:?}");
    world.settle_down().await?;
    assert_eq!(compared(c, &date).await?["settled"], 0);
    // They came in on the day after by our clock, and are no payments that its bill lacks.
    let next = day(&world);
    morning(&world).await?;
    assert_eq!(compared(c, &next).await?["differences"], 0);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_is_recorded_once_by_however_many_processes() -> anyhow::Result<()> {
    let world = noon().await?;
    let (_, second) = world.another().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (missing, amount) = (paid(c, &token, "once").await?, paid(c, &token, "once").await?);
    let portal = paid(c, &token, "once").await?;
    let mut refunds = Vec::new();
    for _ in 0..3 {
        refunds.push(refunded(&world, &token).await?);
    }
    // Somebody refunded in the portal, and the notice was lost.
    let portal = world.sim.orders(&portal)[0].out_trade_no.clone();
    let by_hand = LegacyRefund {
        out_trade_no: Some(portal),
        refund_fen: Some(100),
        notify: Some(LegacyMode::None),
        ..LegacyRefund::default()
    };
    world.sim.legacy_refund(&by_hand).await.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    change(&world, &missing, BillMode::Missing, 0);
    change(&world, &amount, BillMode::Amount, 1);
    change(&world, "somebody-else-1", BillMode::Extra, 7700);
    change(&world, &refunds[0], BillMode::Missing, 0);
    change(&world, &refunds[1], BillMode::Amount, 1);
    change(&world, &refunds[2], BillMode::Failed, 0);
    let date = day(&world);
    morning(&world).await?;
    let runs = [c, &second, c, &second].map(|client| compared(client, &date));
    let mut recorded = 0;
    for found in join_all(runs).await {
        let found = found?;
        assert_eq!(found["differences"], 6, "{found}");
        recorded += found["recorded"].as_i64().unwrap();
    }
    assert_eq!(recorded, 6, "each by one of them");
    let expected = [
        "billAmount",
        "billMissingPayment",
        "billMissingRefund",
        "billRefundAmount",
        "billRefundState",
        "billUnknownPayment",
    ];
    let manual = |kind: &str| (kind.to_owned(), "\"manual\"".to_owned());
    assert_eq!(listed(c, &date).await?, expected.map(manual));

    let portal = c.call_service("exceptions", json!({ "action": "list", "kind": "portalRefund" })).await?;
    assert_eq!((&portal.ok()["data"][0]["amount"], portal.body["data"].as_array().unwrap().len()), (&json!(1), 1));

    // Staff look, and say what they found.
    let (staff, _) =
        world.app.issue_staff_token("s-1", &["orders".to_owned()], TimeDelta::hours(1), world.app.clock.now())?;
    let list = json!({ "action": "list", "status": "manual", "kind": "billUnknownPayment" });
    let row = c.call("exceptions", &staff, list).await?.ok()["data"][0].clone();
    assert_eq!((&row["amount"], &row["expectedAmount"], &row["date"]), (&json!(77), &Value::Null, &json!(date)));
    let resolve = json!({ "action": "resolve", "exceptionId": row["exceptionId"], "remark": "门店收银台的付款",
        "requestId": "resolve-1" });
    let resolved = c.call("exceptions", &staff, resolve.clone()).await?;
    let seen = &resolved.ok()["exception"];
    assert_eq!((&seen["status"], &seen["resolvedBy"]), (&json!("resolved"), &json!("staff:s-1")), "{seen}");
    assert_eq!(c.call("exceptions", &staff, resolve.clone()).await?.ok()["replayed"], true);
    let mut again = resolve;
    again["requestId"] = json!("resolve-2");
    c.call("exceptions", &staff, again.clone()).await?.refused(409, "CONFLICT");
    again["exceptionId"] = json!("bill:nothing");
    c.call("exceptions", &staff, again.clone()).await?.refused(404, "NOT_FOUND");
    again["remark"] = json!(" ");
    c.call("exceptions", &staff, again).await?.refused(400, "INVALID_ARGUMENT");
    // Users see what became of their money, not what was compared.
    let order = c.call("orders", &token, json!({ "action": "get", "orderId": missing })).await?;
    assert_eq!(order.ok()["paymentExceptions"], json!([]));
    // A new run does not undo it.
    assert_eq!(compared(c, &date).await?["recorded"], 0);
    world.finish().await
}

#[tokio::test]
async fn a_bill_that_is_late_or_was_missed_is_made_up_for() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let empty = day(&world);
    to_hour(c, world.app.clock.now(), 10).await?;
    assert_eq!(c.timer("reconcileBill").await?.ok()["days"][0]["status"], "none");
    paid(c, &token, "once").await?;
    let date = day(&world);
    world.settle_down().await?;
    // Nine in the morning: not ready.
    to_hour(c, world.app.clock.now(), 9).await?;
    let early = c.timer("reconcileBill").await?;
    assert_eq!((&early.ok()["days"], &early.body["remaining"]), (&json!([]), &json!([date])), "{early:?}");
    assert_eq!(c.timer("reconcileBill").await?.ok()["remaining"], json!([]), "not before half an hour has passed");
    // Then nobody could reach WeChat, and after that the timer stood still for days.
    to_hour(c, world.app.clock.now(), 10).await?;
    let path = Some("/tradebill".to_owned());
    world.sim.fault(Fault { path, ..Fault::new(Target::Wxpay, FaultMode::ServerError, 10) });
    assert_eq!(c.timer("reconcileBill").await?.ok()["remaining"], json!([date]));
    world.sim.fault(Fault::new(Target::Wxpay, FaultMode::ServerError, 0));
    c.timer("deliverOutbox").await?;
    c.advance(3 * 86_400).await?;
    let late = c.timer("reconcileBill").await?;
    let days = late.ok()["days"].as_array().unwrap();
    assert_eq!(days.len(), 4, "{late:?}");
    // What was not tried yet comes first.
    assert_eq!((&days[3]["date"], &days[3]["status"], &days[3]["payments"]), (&json!(date), &json!("done"), &json!(1)));
    assert!(days[..3].iter().all(|day| day["status"] == "none"), "{late:?}");
    for (wrong, field) in [(json!(day(&world)), "date"), (json!("2020-01-01"), "date"), (json!("yesterday"), "date")] {
        let refused = c.call_service("reconcileBill", json!({ "date": wrong })).await?;
        refused.refused(400, "INVALID_ARGUMENT");
        assert_eq!(refused.body["details"]["field"], field, "{refused:?}");
    }
    assert_eq!(compared(c, &empty).await?["status"], "none");
    world.finish().await
}

/// What was given back of an order is in the bill as it is with us, by its own number.
#[tokio::test]
async fn refunds_of_orders_are_compared_too() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut numbers = Vec::new();
    for _ in 0..4 {
        let order = paid(c, &token, "once").await?;
        let apply = json!({ "action": "apply", "orderId": order, "reason": "不想要了" });
        let refund = c.call("refunds", &token, apply).await?.ok()["refund"]["refundId"].as_str().unwrap().to_owned();
        c.call_service("refunds", json!({ "action": "approve", "refundId": refund })).await?.ok();
        for _ in 0..2 {
            c.advance(120).await?;
            c.timer("deliverOutbox").await?;
        }
        numbers.push(world.sim.orders(&order)[0].refunds[0].out_refund_no.clone());
    }
    let date = day(&world);
    morning(&world).await?;
    change(&world, &numbers[0], BillMode::Missing, 0);
    change(&world, &numbers[1], BillMode::Amount, 1);
    change(&world, &numbers[2], BillMode::Failed, 0);
    // The fourth agrees.
    assert_eq!(compared(c, &date).await?["recorded"], 3);
    assert_eq!(compared(c, &date).await?["recorded"], 0);
    let kinds: Vec<String> = listed(c, &date).await?.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["billMissingRefund", "billRefundAmount", "billRefundState"]);
    world.finish().await
}

/// WeChat says, unsigned, that nobody paid on a day on which we were paid.
#[tokio::test]
async fn a_day_without_a_bill_on_which_we_were_paid_is_a_difference_in_the_end() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let id = paid(c, &token, "once").await?;
    change(&world, &id, BillMode::Missing, 0);
    let date = day(&world);
    morning(&world).await?;
    assert_eq!(c.timer("reconcileBill").await?.ok()["remaining"], json!([date]), "not believed at once");
    c.advance(2 * 86_400).await?;
    let late = c.timer("reconcileBill").await?;
    assert_eq!(
        (&late.ok()["days"][2]["date"], &late.body["days"][2]["differences"]),
        (&json!(date), &json!(1)),
        "{late:?}"
    );
    assert_eq!(listed(c, &date).await?, [("billMissingPayment".to_owned(), "\"manual\"".to_owned())]);
    world.finish().await
}

pub(crate) fn reconcile(
    file: &Path,
    uri: &str,
    database: &str,
    more: &[&str],
) -> anyhow::Result<(i32, String, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jinlu-it"));
    command.args(["reconcile", "--uri", uri, "--database", database, "--file"]).arg(file).args(more);
    let output = command.env_remove("WXPAY_MCHID").output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downloaded_bill_is_compared_by_the_command() -> anyhow::Result<()> {
    let world = noon().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (_, lost) = (paid(c, &token, "once").await?, paid(c, &token, "none").await?);
    let refund = refunded(&world, &token).await?;
    let date = day(&world);
    c.timer("deliverOutbox").await?;
    to_hour(c, world.app.clock.now(), 10).await?;
    let folder = tempfile::tempdir()?;
    let (pay, day) = (world.app.pay()?, date.parse()?);
    let file = async |name: &str, kind: BillKind| {
        let bill = pay.download_bill(&pay.bill(day, kind, true).await?).await?;
        let path = folder.path().join(name);
        std::fs::write(&path, bill)?;
        anyhow::Ok(path)
    };
    let all = file("all.csv", BillKind::Trade).await?;
    let (uri, database) = (mongod_uri().await?, world.app.config.store.as_ref().unwrap().database.clone());
    let run = |path: &Path, more: &[&str]| reconcile(path, &uri, &database, more);

    let (status, out, _) = run(&all, &["--dry-run"])?;
    assert_eq!(status, 1, "{out}");
    assert!(
        out.contains("付款状态不符") && out.contains(&lost) && out.contains("1 differences, nothing recorded"),
        "{out}"
    );
    assert_eq!(listed(c, &date).await?, []);
    let (status, out, _) = run(&all, &[])?;
    assert!(status == 1 && out.contains("1 differences, 1 new"), "{out}");
    let (status, out, _) = run(&all, &["--date", &date, "--mchid", pay.mchid()])?;
    assert!(status == 1 && out.contains("1 differences, 0 new"), "{out}");
    assert_eq!(listed(c, &date).await?.len(), 1);
    // The function asks WeChat and settles what the command could only note.
    assert_eq!(compared(c, &date).await?["settled"], 1);
    for (name, kind) in [("success.csv", BillKind::TradeSuccess), ("refund.csv", BillKind::TradeRefund)] {
        let (status, out, err) = run(&file(name, kind).await?, &[])?;
        assert_eq!(status, 0, "{name}: {out} {err}");
    }
    change(&world, &refund, BillMode::Amount, 100);
    let (status, out, _) = run(&file("changed.csv", BillKind::TradeRefund).await?, &["--dry-run"])?;
    assert!(status == 1 && out.contains("退款金额不符") && out.contains(&refund), "{out}");

    // What is no whole bill, or not the one that was meant, is refused as a whole.
    let text = std::fs::read_to_string(&all)?;
    let cut = folder.path().join("cut.csv");
    std::fs::write(&cut, text.rsplit_once("总交易单数").unwrap().0)?;
    let refused = [
        (run(&cut, &[])?, "not a whole trade bill"),
        (run(&all, &["--date", "2020-01-01"])?, "not of 2020-01-01 alone"),
        (run(&all, &["--mchid", "1900000000"])?, "bill of merchant"),
        (run(&folder.path().join("none.csv"), &[])?, "not a whole trade bill"),
    ];
    for ((status, out, err), word) in refused {
        assert!(status == 1 && out.is_empty() && err.contains(word), "{word}: {out} {err}");
    }
    let help = Command::new(env!("CARGO_BIN_EXE_jinlu-it")).args(["reconcile", "--help"]).output()?;
    let help = String::from_utf8(help.stdout)?;
    assert!(help.contains("退出码") && help.contains("jinlu reconcile --file bill.csv --dry-run"), "{help}");
    world.finish().await
}

#[tokio::test]
async fn the_audit_sees_damaged_bills() -> anyhow::Result<()> {
    let world = noon().await?;
    let db = database(&world).await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (fine, missing) = (paid(c, &token, "once").await?, paid(c, &token, "once").await?);
    change(&world, &missing, BillMode::Missing, 0);
    let date = day(&world);
    morning(&world).await?;
    compared(c, &date).await?;
    let list = c.call_service("exceptions", json!({ "action": "list", "date": date })).await?;
    let id = list.ok()["data"][0]["exceptionId"].as_str().unwrap().to_owned();
    let payment = world.sim.orders(&fine)[0].out_trade_no.clone();
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");
    let difference = |change: bson::Document| Edit::Update("paymentExceptions", id.clone(), change);
    let bill = |change: bson::Document| Edit::Update("bills", date.clone(), change);
    let damages = [
        ("counted once more", bill(doc! { "$inc": { "differences": 1i64 } })),
        ("a difference vanishes", Edit::Delete("paymentExceptions", id.clone())),
        ("its day vanishes", Edit::Delete("bills", date.clone())),
        ("compared and not finished", bill(doc! { "$unset": { "finishedAt": "" } })),
        ("finished and waiting", bill(doc! { "$set": { "nextAttemptAt": bson::DateTime::from_millis(0) } })),
        ("no trade with trade", bill(doc! { "$set": { "status": "none" } })),
        ("of another kind", difference(doc! { "$set": { "kind": "billAmount" } })),
        ("of another payment", difference(doc! { "$set": { "transactionId": "4200000000000000009" } })),
        ("refunds something", difference(doc! { "$set": { "status": "refunding" } })),
        ("resolved by nobody", difference(doc! { "$set": { "status": "resolved" } })),
        ("a remark on what is open", difference(doc! { "$set": { "remark": "?" } })),
        (
            "in a bill that was never compared",
            Edit::Update("payments", payment, doc! { "$set": { "billDay": "2020-01-01" } }),
        ),
    ];
    for (name, edit) in &damages {
        let step = apply(&db, edit).await.map_err(|e| e.context(*name))?;
        let report = world.store.audit(world.app.clock.now()).await?;
        assert!(report.violations.iter().any(|v| v.invariant == "bill"), "{name}: {:?}", report.violations);
        undo(&db, step).await?;
    }
    world.finish().await
}

/// Killed between any two steps, the next run completes the day.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_bill_is_compared() -> anyhow::Result<()> {
    for point in ["bill.chunk", "bill.compared", "bill.inside", "bill.recorded", "settle.inside", "settle.committed"] {
        let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
        let host = start(&uri, &database, folder.path(), port, Some(point))?;
        let client = host.client.clone();
        #[expect(clippy::disallowed_methods, reason = "the host's clock was not moved")]
        let now = chrono::Utc::now();
        to_hour(&client, now, 12).await?;
        let token = client.login("alice").await?;
        paid(&client, &token, "none").await?;
        for number in ["somebody-else-1", "somebody-else-2"] {
            let body = json!({ "number": number, "mode": "extra", "fen": 100 }).to_string();
            client.post("/sim/control/bill", &[], body).await?;
        }
        client.advance(22 * 3600).await?;
        host.killed_at(point, async { client.timer("reconcileBill").await.map(drop) }).await?;

        let host = start(&uri, &database, folder.path(), port, None)?;
        for number in ["somebody-else-1", "somebody-else-2"] {
            let body = json!({ "number": number, "mode": "extra", "fen": 100 }).to_string();
            host.client.post("/sim/control/bill", &[], body).await?;
        }
        let mut done = Value::Null;
        for _ in 0..40 {
            host.client.advance(1800).await?;
            done = host.client.timer("reconcileBill").await?.body;
            if done["remaining"] == json!([]) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        assert_eq!(done["remaining"], json!([]), "{point}: {done}");
        settle_down(&host.client).await?;
        let store = Store::new(StoreConfig::new(&uri, &database));
        let counted = store.peek("bills", 10).await?;
        assert!(counted.iter().any(|bill| bill.to_string().contains("done")), "{point}: {counted:?}");
        #[expect(clippy::disallowed_methods, reason = "later than all that was written")]
        let now = chrono::Utc::now() + TimeDelta::days(3);
        let found = violations(&store, now).await?;
        assert!(found.is_empty(), "{point}: {}", found.join("\n"));
        store.drop_database().await?;
    }
    Ok(())
}
