//! The worst bugs of shops like this one, each held off by a test of its name.
//!
//! | bug | test |
//! |---|---|
//! | two lines of one stock item oversell it | [`two_lines_of_one_stock_item_do_not_oversell`] |
//! | a coupon larger than the cart makes the shop pay | `coupons::coupon_larger_than_the_cart` |
//! | a partial refund of a discounted order restores everything | `refunds_money::partial_refund_of_a_discounted_order_restores_only_its_part` |
//! | a refund is retried under a new number and paid twice | `refunds_wechat::refund_is_retried_under_its_own_number` |
//! | an order is paid through two channels, and nobody notices | [`an_order_paid_through_two_channels_is_paid_once`] |
//! | a refunded order is reopened by a late notice | `refunds::a_late_notice_does_not_reopen_a_refunded_order` |
//! | a coupon is returned twice | `refunds::a_coupon_comes_back_once` |
//! | the prepaid deduction fails and the order is kept | [`a_failed_prepaid_deduction_keeps_no_order`] |
//! | cancelling races with paying | `race::cancel_racing_with_pay`, and every other pair in `matrix` |
//! | a double submit makes two orders | `race::double_submit_makes_one_order` |

use std::collections::BTreeSet;
use std::process::Command;

use futures_util::future::join_all;
use it::{World, order_of};
use serde_json::json;

/// What this program would run, or would leave out.
fn listed(more: &[&str]) -> anyhow::Result<BTreeSet<String>> {
    let listed = Command::new(std::env::current_exe()?).arg("--list").args(more).output()?;
    let text = String::from_utf8(listed.stdout)?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned)).collect())
}

#[test]
fn every_bug_has_its_test() -> anyhow::Result<()> {
    let (tests, ignored) = (listed(&[])?, listed(&["--ignored"])?);
    let here = include_str!("peers.rs");
    let mut bugs = 0;
    for line in here.lines().filter(|line| line.starts_with("//! | ") && !line.starts_with("//! | bug")) {
        let name = line.rsplit('|').nth(1).unwrap().trim().split('`').nth(1).unwrap();
        let name = if name.contains("::") { name.to_owned() } else { format!("peers::{name}") };
        assert!(tests.contains(&name) && !ignored.contains(&name), "no test {name} is run");
        bugs += 1;
    }
    assert_eq!(bugs, 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lines_of_one_stock_item_do_not_oversell() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    // Three pieces of the dearest tea, asked for in two lines.
    let tea = |first: i64, second: i64| {
        let mut event = order_of("p-tea", first);
        event["items"] = json!([
            { "productId": "p-tea", "skuId": "s-grade3", "quantity": first },
            { "productId": "p-apple", "quantity": 1 },
            { "productId": "p-tea", "skuId": "s-grade3", "quantity": second },
        ]);
        event
    };
    let before = (world.stock("p-tea").await?, world.stock("p-apple").await?);
    c.call("submitOrder", &token, tea(2, 2)).await?.refused(409, "OUT_OF_STOCK");
    assert_eq!((world.stock("p-tea").await?, world.stock("p-apple").await?), before);
    // Many at once: each wants all three, in two lines.
    let answers = join_all((0..8).map(|_| c.call("submitOrder", &token, tea(2, 1)))).await;
    let answers = answers.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 1);
    for refused in answers.iter().filter(|a| a.status != 200) {
        refused.refused(409, "OUT_OF_STOCK");
    }
    assert_eq!((world.stock("p-tea").await?, world.stock("p-apple").await?), (before.0 - 3, before.1 - 1));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_paid_through_two_channels_is_paid_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (_, other) = world.another().await?;
    // Prepaid money pays all of it: WeChat is not to be asked any more.
    let token = world.linked_member().await?;
    let mut event = order_of("p-apple", 1);
    event["paymentMethod"] = json!("prestore");
    let paid = c.call("submitOrder", &token, event).await?;
    assert_eq!(paid.ok()["status"], "paid");
    let id = paid.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": id })).await?.refused(409, "ORDER_STATE_INVALID");
    // Two attempts, both open at WeChat because the first was wrongly taken for closed, are paid at the same moment; each tells
    // another process.
    for _ in 0..3 {
        let id = c.call("submitOrder", &token, order_of("p-apple", 2)).await?.text("orderId");
        c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
        world.store.mark_payment_closed(&id).await?;
        c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
        let second = format!("{id}P2");
        c.control("pay", json!({ "outTradeNo": second, "notify": "none" })).await?.ok();
        let query = json!({ "orderId": id, "action": "query" });
        let (one, two) = tokio::join!(
            c.control("pay", json!({ "outTradeNo": id, "notify": "duplicate" })),
            other.call("wxPay", &token, query)
        );
        assert_eq!((&one?.body["noticeStatus"], &two?.ok()["tradeState"]), (&json!(204), &json!("SUCCESS")));
        world.settle_down().await?;
        c.advance(600).await?;
        c.timer("deliverOutbox").await?;
        let order = c.call("orders", &token, json!({ "action": "get", "orderId": id })).await?;
        assert_eq!((&order.ok()["status"], &order.body["pointsEarned"]), (&json!("paid"), &json!(1)));
        let exceptions = order.body["paymentExceptions"].as_array().unwrap();
        assert_eq!(exceptions.len(), 1, "{order:?}");
        assert_eq!((&exceptions[0]["kind"], &exceptions[0]["status"]), (&json!("paidTwice"), &json!("refunded")));
        let back: Vec<i64> = world.sim.orders(&id).iter().flat_map(|o| &o.refunds).map(|r| r.refund_fen).collect();
        assert_eq!(back, [10_000]);
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_prepaid_deduction_keeps_no_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (_, other) = world.another().await?;
    let token = world.linked_member().await?;
    let stock = world.stock("p-apple").await?;
    // 100.00 yuan for orders of 50.00 each: the deductions of the others fail after their pieces were held.
    let event = |n: usize| {
        let mut event = order_of("p-apple", 1);
        event["paymentMethod"] = json!("prestore");
        event["prepaidAmount"] = json!(50);
        event["requestId"] = json!(format!("prepaid-race-{n}"));
        event
    };
    let calls = (0..10).map(|n| if n % 2 == 0 { c } else { &other }.call("submitOrder", &token, event(n)));
    let answers = join_all(calls).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 2);
    for (n, refused) in answers.iter().enumerate().filter(|(_, a)| a.status != 200) {
        refused.refused(422, "PREPAID_INSUFFICIENT");
        // A refusal is not remembered as an order, either.
        c.call("submitOrder", &token, event(n)).await?.refused(422, "PREPAID_INSUFFICIENT");
    }
    let orders = c.call("orders", &token, json!({ "action": "list", "limit": 100 })).await?;
    let orders = orders.ok()["data"].as_array().unwrap();
    assert_eq!(orders.len(), 2);
    assert!(orders.iter().all(|o| o["status"] == "paid" && o["prepaidAmount"] == 50));
    assert_eq!(world.stock("p-apple").await?, stock - 2);
    let records = world.store.all_prepaid_records(&domain::CustomerId::parse("c-lin")?).await?;
    let money: i64 = records.iter().take(2).map(|r| r.balance).sum();
    assert_eq!(money, 0);
    world.finish().await
}
