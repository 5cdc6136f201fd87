//! Every pair of commands on one order, at the same moment, in two processes: the order ends where one of the two orders of the
//! commands leads by the tables of [`domain::machine`], the payer's money is where the book says it is, and the audit is clean.
//!
//! A command is one entry of [`COMMANDS`]. The tests run what fits into 30 seconds; `JINLU_LONG=1` runs it all a hundred times, or
//! as often as `JINLU_TIMES` says.
//! `JINLU_SEED=…` picks another schedule.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use domain::machine::order::{self, Event, State};
use domain::machine::refund;
use futures_util::future::{BoxFuture, FutureExt};
use it::{Answer, Client, World, asked, order_of};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use simulators::RefundStatus;

use crate::coins::{give, mug, verified};
use crate::shipping::parcel;

/// The states of the order and of its newest refund.
type End = (String, Option<String>);

/// What WeChat has of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wechat {
    Nothing,
    /// The payer may pay.
    Open,
    Paid,
    Closed,
}

/// An order as far as the commands differ by it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Model {
    status: State,
    wechat: Wechat,
    /// Its time to pay is over.
    overdue: bool,
    /// Bought for points and coins.
    mall: bool,
    /// How the newest refund stands, which is of everything.
    refund: Option<refund::State>,
    /// It wants the goods back.
    returns: bool,
    /// It was shipped so long ago that it is completed without its buyer.
    silent: bool,
}

impl Model {
    /// What happens to the refund, if it is for the state that it is in.
    fn refund_after(self, event: refund::Event) -> Self {
        let after = self.refund.and_then(|state| refund::next(state, event)).or(self.refund);
        Self { refund: after, ..self }
    }

    /// What is ours goes back in the same step.
    fn given_back(self, event: refund::Event) -> Self {
        let after = self.refund_after(event);
        if after.refund == Some(refund::State::Approved) { after.refund_after(refund::Event::Send) } else { after }
    }

    fn refunded_whole(self) -> bool {
        self.refund.is_some_and(refund::stands)
    }

    fn in_refund(self, states: &[refund::State]) -> bool {
        self.refund.is_some_and(|state| states.contains(&state))
    }

    /// After this event, if it is for the state that it is in; as it is otherwise.
    fn after(self, event: Event) -> Self {
        Self { status: order::next(self.status, event).unwrap_or(self.status), ..self }
    }

    /// Somebody gives it up. A payment that WeChat has wins.
    fn given_up(self, event: Event) -> Self {
        match (self.status, self.wechat) {
            (State::PendingPayment, Wechat::Paid) => self.after(Event::Pay),
            (State::PendingPayment, _) => Self { wechat: Wechat::Closed, ..self }.after(event),
            (State::Paid, _) if self.mall => self.after(Event::Recall),
            _ => self,
        }
    }

    /// What WeChat has is looked at.
    fn looked_at(self) -> Self {
        if self.wechat == Wechat::Paid { self.after(Event::Pay) } else { self }
    }

    fn end(self) -> End {
        (self.status.as_str().to_owned(), self.refund.map(|state| state.as_str().to_owned()))
    }

    fn payable(self) -> bool {
        self.wechat == Wechat::Open && !self.overdue
    }

    /// The payer pays, or has paid, and a notice comes.
    fn noticed(self) -> Self {
        let wechat = if self.payable() { Wechat::Paid } else { self.wechat };
        Self { wechat, ..self }.looked_at()
    }

    /// When an hour has passed and every timer has run.
    fn settled(self) -> Self {
        match (self.status, self.refund) {
            (State::PendingPayment, _) => Self { overdue: true, ..self }.given_up(Event::Expire),
            (_, Some(refund::State::Refunding)) => self.refund_after(refund::Event::Succeed),
            _ => self,
        }
    }
}

/// One command, in the process that a client speaks to.
struct Command {
    name: &'static str,
    run: for<'a> fn(&'a Client, &'a Case) -> BoxFuture<'a, anyhow::Result<Answer>>,
    /// Whether it makes sense to try it on such an order.
    fits: fn(Model) -> bool,
    /// What it leads to.
    effect: fn(Model) -> Model,
}

/// A command about the order's first refund, by its buyer or by the shop.
fn about_refund<'a>(
    c: &'a Client,
    case: &'a Case,
    by_buyer: bool,
    action: &'a str,
) -> BoxFuture<'a, anyhow::Result<Answer>> {
    let event = json!({
        "action": action, "refundId": format!("{}-R1", case.order), "expressCompany": "YTO", "trackingNo": "YT9", "reason": "x",
        "remark": "x",
    });
    async move {
        match by_buyer {
            true => c.call("refunds", &case.token, event).await,
            false => c.call_service("refunds", event).await,
        }
    }
    .boxed()
}

fn apply<'a>(c: &'a Client, case: &'a Case, returns: bool) -> BoxFuture<'a, anyhow::Result<Answer>> {
    let kind = if returns { "returnGoods" } else { "refundOnly" };
    let event = json!({ "action": "apply", "orderId": case.order, "reason": "x", "type": kind });
    async move { c.call("refunds", &case.token, event).await }.boxed()
}

/// One call about several orders, of which this is the only one.
fn batch<'a>(c: &'a Client, event: Value) -> BoxFuture<'a, anyhow::Result<Answer>> {
    async move {
        let name = if event["action"].is_string() { "orders" } else { "batchUpdateOrders" };
        let answer = c.call_service(name, event).await?;
        let fared = &answer.ok()["results"][0];
        let known = fared["success"] == true || REFUSALS.contains(&fared["code"].as_str().unwrap_or_default());
        anyhow::ensure!(known, "in a batch: {answer:?}");
        Ok(answer)
    }
    .boxed()
}

/// What is asked back before anything else is, as far as the order goes by it.
fn asked_back(m: Model) -> Model {
    let for_money = m.status.is_paid() && !(m.mall && m.status == State::Paid);
    match for_money && !m.refunded_whole() {
        true => Model { refund: Some(refund::START), returns: false, ..m },
        false => m,
    }
}

fn shipped(m: Model) -> Model {
    if m.refunded_whole() { m } else { m.after(Event::Ship) }
}

/// The order that two commands meet at.
struct Case {
    token: String,
    staff: String,
    order: String,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "cancel",
        run: |c, case| {
            async move { c.call("orders", &case.token, json!({ "action": "cancel", "orderId": case.order })).await }
                .boxed()
        },
        fits: |_| true,
        effect: |m| m.given_up(Event::Cancel),
    },
    Command {
        name: "expire",
        run: |c, _| async move { c.timer("closeExpiredOrders").await }.boxed(),
        fits: |m| m.overdue,
        effect: |m| if m.overdue { m.given_up(Event::Expire) } else { m },
    },
    Command {
        name: "wxPay",
        run: |c, case| async move { c.call("wxPay", &case.token, json!({ "orderId": case.order })).await }.boxed(),
        fits: |m| m.status == State::PendingPayment,
        effect: |m| {
            let begins = m.status == State::PendingPayment && !m.overdue && m.wechat == Wechat::Nothing;
            if begins { Model { wechat: Wechat::Open, ..m } } else { m }
        },
    },
    Command {
        name: "pay",
        run: |c, case| async move { c.pay(&case.order, "once").await }.boxed(),
        fits: |m| m.payable(),
        effect: Model::noticed,
    },
    Command {
        name: "notices",
        run: |c, case| async move { c.pay(&case.order, "duplicate").await }.boxed(),
        fits: |m| m.wechat == Wechat::Paid,
        effect: Model::noticed,
    },
    Command {
        name: "query",
        run: |c, case| {
            async move { c.call("wxPay", &case.token, json!({ "orderId": case.order, "action": "query" })).await }
                .boxed()
        },
        fits: |m| m.wechat != Wechat::Nothing,
        effect: Model::looked_at,
    },
    Command {
        name: "reconcile",
        run: |c, _| async move { c.timer("reconcilePayments").await }.boxed(),
        fits: |m| m.wechat == Wechat::Paid,
        effect: Model::looked_at,
    },
    Command {
        name: "ship",
        run: |c, case| async move { c.call_service("orders", parcel(&case.order, "YT1")).await }.boxed(),
        fits: |m| !matches!(m.status, State::Closed),
        effect: shipped,
    },
    Command {
        name: "shipOtherwise",
        run: |c, case| async move { c.call_service("orders", parcel(&case.order, "YT2")).await }.boxed(),
        fits: |m| matches!(m.status, State::Paid) && m.refund.is_none(),
        effect: shipped,
    },
    Command {
        name: "applyRefund",
        run: |c, case| apply(c, case, false),
        fits: |m| m.status.is_paid() && !m.in_refund(&[refund::State::Refunded, refund::State::Failed]),
        effect: asked_back,
    },
    Command {
        // One of the two pieces: whoever asks for the rest next has the newest refund then.
        name: "applyPart",
        run: |c, case| {
            let items = json!([{ "lineId": "1", "quantity": 1 }]);
            let event = json!({ "action": "apply", "orderId": case.order, "reason": "x", "items": items });
            async move { c.call("refunds", &case.token, event).await }.boxed()
        },
        fits: |m| m.status.is_paid() && m.refund.is_none(),
        effect: asked_back,
    },
    Command {
        name: "applyReturn",
        run: |c, case| apply(c, case, true),
        fits: |m| m.status == State::Shipped && m.refund.is_none(),
        effect: |m| match matches!(m.status, State::Shipped | State::Completed) && !m.refunded_whole() {
            true => Model { refund: Some(refund::START), returns: true, ..m },
            false => m,
        },
    },
    Command {
        name: "withdraw",
        run: |c, case| about_refund(c, case, true, "withdraw"),
        fits: |m| m.in_refund(&[refund::State::Applied, refund::State::Returning]),
        effect: |m| m.refund_after(refund::Event::Withdraw),
    },
    Command {
        name: "reject",
        run: |c, case| about_refund(c, case, false, "reject"),
        fits: |m| m.in_refund(&[refund::State::Applied, refund::State::Returning, refund::State::ShippedBack]),
        effect: |m| m.refund_after(refund::Event::Reject),
    },
    Command {
        name: "approve",
        run: |c, case| about_refund(c, case, false, "approve"),
        fits: |m| m.in_refund(&[refund::State::Applied]),
        effect: |m| {
            if m.returns { m.refund_after(refund::Event::ApproveReturn) } else { m.given_back(refund::Event::Approve) }
        },
    },
    Command {
        name: "shipBack",
        run: |c, case| about_refund(c, case, true, "shipBack"),
        fits: |m| m.in_refund(&[refund::State::Returning]),
        effect: |m| m.refund_after(refund::Event::ShipBack),
    },
    Command {
        name: "receiveBack",
        run: |c, case| about_refund(c, case, false, "receive"),
        fits: |m| m.in_refund(&[refund::State::ShippedBack]),
        effect: |m| m.given_back(refund::Event::Receive),
    },
    Command {
        name: "refundSucceeds",
        run: |c, case| {
            let event = json!({ "outRefundNo": format!("{}-R1", case.order), "notify": "duplicate" });
            async move { c.control("refund", event).await }.boxed()
        },
        fits: |m| m.in_refund(&[refund::State::Refunding]),
        // What failed here was closed by WeChat, for which that is the end.
        effect: |m| if m.in_refund(&[refund::State::Refunding]) { m.refund_after(refund::Event::Succeed) } else { m },
    },
    Command {
        name: "retry",
        run: |c, case| about_refund(c, case, false, "retry"),
        fits: |m| m.in_refund(&[refund::State::Failed, refund::State::Refunding]),
        effect: |m| m.refund_after(refund::Event::Retry),
    },
    Command {
        name: "settleElsewhere",
        run: |c, case| about_refund(c, case, false, "settle"),
        fits: |m| m.in_refund(&[refund::State::Failed]),
        effect: |m| m.refund_after(refund::Event::Settle),
    },
    Command {
        name: "confirmReceipt",
        run: |c, case| {
            async move {
                c.call("orders", &case.token, json!({ "action": "confirmReceipt", "orderId": case.order })).await
            }
            .boxed()
        },
        fits: |m| matches!(m.status, State::Paid | State::Shipped),
        effect: |m| m.after(Event::Receive),
    },
    Command {
        name: "autoComplete",
        run: |c, _| async move { c.timer("autoComplete").await }.boxed(),
        fits: |m| m.silent,
        effect: |m| {
            let asked = [
                refund::State::Applied,
                refund::State::Returning,
                refund::State::ShippedBack,
                refund::State::Refunding,
            ];
            if m.silent && !m.in_refund(&asked) { m.after(Event::AutoComplete) } else { m }
        },
    },
    Command {
        name: "changePrice",
        run: |c, case| {
            let event = json!({ "action": "changePrice", "orderId": case.order, "amount": 0.15, "reason": "x" });
            async move { c.call("orders", &case.staff, event).await }.boxed()
        },
        fits: |m| m.status == State::PendingPayment,
        effect: |m| match (m.status, m.wechat) {
            // The attempt of the old price is over; a payment that WeChat has wins.
            (State::PendingPayment, Wechat::Open) if !m.overdue => Model { wechat: Wechat::Nothing, ..m },
            (State::PendingPayment, Wechat::Paid) if !m.overdue => m.after(Event::Pay),
            _ => m,
        },
    },
    Command {
        name: "batchClose",
        run: |c, case| {
            let event = json!({ "orderIds": [case.order], "status": "closed" });
            async move { c.call_service("batchUpdateOrders", event).await }.boxed()
        },
        fits: |m| matches!(m.status, State::PendingPayment) || m.mall,
        effect: |m| m.given_up(Event::Cancel),
    },
    Command {
        name: "staffCancels",
        run: |c, case| {
            let event = json!({ "action": "cancel", "orderId": case.order, "reason": "缺货" });
            async move { c.call("orders", &case.staff, event).await }.boxed()
        },
        fits: |m| matches!(m.status, State::PendingPayment) || m.mall,
        effect: |m| m.given_up(Event::Cancel),
    },
    Command {
        name: "changeAddress",
        run: |c, case| {
            let mut address = order_of("p-sticker", 1)["address"].clone();
            address["detail"] = json!("文二路 2 号");
            let event = json!({ "action": "changeAddress", "orderId": case.order, "address": address });
            async move { c.call("orders", &case.token, event).await }.boxed()
        },
        fits: |m| m.status == State::PendingPayment,
        // Sending is for nothing there as well, so that WeChat need not hear of it.
        effect: |m| m,
    },
    Command {
        name: "shipBatch",
        run: |c, case| {
            let mut shipment = parcel(&case.order, "YT1");
            shipment.as_object_mut().unwrap().remove("action");
            batch(c, json!({ "action": "shipBatch", "shipments": [shipment] }))
        },
        fits: |m| m.status == State::Paid,
        effect: shipped,
    },
    Command {
        name: "batchShip",
        run: |c, case| {
            let parcel = json!({ "expressCompany": "YTO", "trackingNo": "YT2" });
            let mut event = json!({ "orderIds": [case.order], "status": "shipped" });
            event.as_object_mut().unwrap().extend(parcel.as_object().unwrap().clone());
            batch(c, event)
        },
        fits: |m| m.status == State::Paid,
        effect: shipped,
    },
    Command {
        name: "batchComplete",
        run: |c, case| batch(c, json!({ "orderIds": [case.order], "status": "completed" })),
        fits: |m| matches!(m.status, State::Paid | State::Shipped),
        effect: |m| m.after(Event::Receive),
    },
    Command {
        // What waits is sent and asked for; a refund that was sent a moment ago is asked for later.
        name: "deliverOutbox",
        run: |c, _| async move { c.timer("deliverOutbox").await }.boxed(),
        fits: |m| m.status.is_paid(),
        effect: |m| m,
    },
];

/// Where the pairs start from.
const STARTS: &[Model] = {
    const NEW: Model = Model {
        status: State::PendingPayment,
        wechat: Wechat::Nothing,
        overdue: false,
        mall: false,
        refund: None,
        returns: false,
        silent: false,
    };
    const PAID: Model = Model { status: State::Paid, wechat: Wechat::Paid, ..NEW };
    const SHIPPED: Model = Model { status: State::Shipped, ..PAID };
    const RETURNS: Model = Model { returns: true, ..SHIPPED };
    &[
        NEW,
        Model { wechat: Wechat::Open, ..NEW },
        Model { wechat: Wechat::Paid, ..NEW },
        Model { overdue: true, ..NEW },
        Model { wechat: Wechat::Open, overdue: true, ..NEW },
        Model { wechat: Wechat::Paid, overdue: true, ..NEW },
        PAID,
        SHIPPED,
        Model { silent: true, ..SHIPPED },
        Model { status: State::Completed, ..SHIPPED },
        Model { refund: Some(refund::State::Applied), ..PAID },
        Model { refund: Some(refund::State::Refunding), ..PAID },
        Model { refund: Some(refund::State::Failed), ..PAID },
        Model { refund: Some(refund::State::Refunded), ..PAID },
        Model { refund: Some(refund::State::Applied), ..RETURNS },
        Model { refund: Some(refund::State::Returning), ..RETURNS },
        Model { refund: Some(refund::State::ShippedBack), ..RETURNS },
        Model { wechat: Wechat::Nothing, mall: true, ..PAID },
        Model { status: State::Closed, wechat: Wechat::Closed, ..NEW },
    ]
};

/// What a command may be answered that loses.
const REFUSALS: &[&str] = &[
    "ORDER_STATE_INVALID",
    "CONFLICT",
    // Goods that were not sent are not sent back.
    "INVALID_ARGUMENT",
    // The payer's, by the simulated WeChat.
    "NOT_FOUND",
    "REFUND_FINAL",
    "ORDER_CLOSED",
    "ORDER_EXPIRED",
];

/// What is kept of a round until its batch is settled.
struct Round {
    what: String,
    order: String,
    ends: BTreeSet<End>,
}

struct Matrix {
    world: World,
    other: Client,
    random: StdRng,
    token: String,
    prepared: u32,
    batch: Vec<Round>,
}

impl Matrix {
    async fn new(seed: u64) -> anyhow::Result<Self> {
        let world = World::start().await?;
        verified(&world.store, "mia", world.app.clock.now()).await?;
        let (_, other) = world.another().await?;
        let token = world.client.login("mia").await?;
        Ok(Self { world, other, random: StdRng::seed_from_u64(seed), token, prepared: 0, batch: Vec::new() })
    }

    /// An order of this kind.
    async fn prepare(&mut self, start: Model) -> anyhow::Result<Case> {
        let (c, now) = (&self.world.client, self.world.app.clock.now());
        let token = self.token.clone();
        self.prepared += 1;
        let order = if start.mall {
            give(&self.world.store, "mia", &format!("m{}", self.prepared), 1, now).await?;
            let points = json!({ "openId": "o-mia", "points": 5, "type": "earn", "reason": "x" });
            c.call_service("addPoints", points).await?.ok();
            c.call("pointsMall", &token, mug(1)).await?.ok()["orderId"].clone()
        } else {
            c.call("submitOrder", &token, order_of("p-sticker", 2)).await?.ok()["orderId"].clone()
        };
        let order = order.as_str().unwrap().to_owned();
        if matches!(start.wechat, Wechat::Open | Wechat::Paid) {
            c.call("wxPay", &token, json!({ "orderId": order })).await?.ok();
        }
        if start.wechat == Wechat::Paid {
            let lost = start.status == State::PendingPayment;
            c.pay(&order, if lost { "none" } else { "once" }).await?.ok();
            // From now on reconciliation asks about it.
            c.advance(6).await?;
        }
        if matches!(start.status, State::Shipped | State::Completed) {
            c.call_service("orders", parcel(&order, "YT1")).await?.ok();
        }
        if start.status == State::Completed {
            c.call("orders", &token, json!({ "action": "confirmReceipt", "orderId": order })).await?.ok();
        }
        if start.status == State::Closed {
            c.call("orders", &token, json!({ "action": "cancel", "orderId": order })).await?.ok();
        }
        if start.overdue {
            c.advance(31 * 60).await?;
        }
        if start.silent {
            // What waits for its hour is delivered before the days pass; sessions do not live so long.
            c.timer("deliverOutbox").await?;
            c.advance(16 * 86_400).await?;
            self.token = c.login("mia").await?;
        }
        let case = Case { token: self.token.clone(), staff: self.world.staff("orders")?, order };
        if let Some(state) = start.refund {
            self.ask_back(&case, start.returns, state).await?;
        }
        Ok(case)
    }

    /// Brings a refund of everything to this state.
    async fn ask_back(&self, case: &Case, returns: bool, state: refund::State) -> anyhow::Result<()> {
        use refund::State::{Applied, Failed, Refunded, Returning, ShippedBack};
        let c = &self.world.client;
        apply(c, case, returns).await?.ok();
        if state == Applied {
            return Ok(());
        }
        about_refund(c, case, false, "approve").await?.ok();
        if returns {
            if state == ShippedBack {
                about_refund(c, case, true, "shipBack").await?.ok();
            }
            assert!(matches!(state, Returning | ShippedBack));
            return Ok(());
        }
        // WeChat is asked.
        c.timer("deliverOutbox").await?;
        if matches!(state, Failed | Refunded) {
            let status = if state == Failed { "CLOSED" } else { "SUCCESS" };
            let event = json!({ "outRefundNo": format!("{}-R1", case.order), "status": status, "notify": "once" });
            assert_eq!(c.control("refund", event).await?.body["noticeStatus"], 204);
        }
        Ok(())
    }

    /// How the order and its newest refund stand, and what went back through WeChat, in yuan.
    async fn seen(&self, order: &str) -> anyhow::Result<(End, f64)> {
        let (c, token) = (&self.world.client, &self.token);
        let seen = c.call("orders", token, json!({ "action": "get", "orderId": order })).await?;
        let status = seen.ok()["status"].as_str().unwrap().to_owned();
        let refunds = c.call("refunds", token, json!({ "action": "list", "orderId": order })).await?;
        let refunds = refunds.ok()["data"].as_array().unwrap();
        let newest = refunds.first().map(|r| r["status"].as_str().unwrap().to_owned());
        let back = refunds.iter().filter(|r| r["status"] == "refunded" && r["settledElsewhere"] == false);
        let back: f64 = back.map(|r| r["paymentAmount"].as_f64().unwrap()).sum();
        let owed = if status == "closed" { 0.0 } else { seen.body["paymentAmount"].as_f64().unwrap() };
        Ok(((status, newest), owed - back))
    }

    async fn round(&mut self, start: Model, a: &Command, b: &Command) -> anyhow::Result<()> {
        if start.silent {
            // The days that pass for it complete whatever else was shipped.
            self.settle().await?;
        }
        let case = self.prepare(start).await?;
        let what = format!("{} and {} on {start:?} ({})", a.name, b.name, case.order);
        let pause = |random: &mut StdRng| Duration::from_micros(random.random_range(0..6_000));
        let (first, second) = (pause(&mut self.random), pause(&mut self.random));
        let one = async {
            tokio::time::sleep(first).await;
            (a.run)(&self.world.client, &case).await
        };
        let two = async {
            tokio::time::sleep(second).await;
            (b.run)(&self.other, &case).await
        };
        let (one, two) = tokio::join!(one, two);
        for (name, answer) in [(a.name, one?), (b.name, two?)] {
            let known = answer.status == 200 || REFUSALS.contains(&answer.code());
            assert!(known, "{what}: {name} was answered {answer:?}");
        }
        let both = [(b.effect)((a.effect)(start)), (a.effect)((b.effect)(start))];
        let allowed = BTreeSet::from(both.map(Model::end));
        let (end, _) = self.seen(&case.order).await?;
        assert!(allowed.contains(&end), "{what}: {end:?}, and not one of {allowed:?}");
        let ends = BTreeSet::from(both.map(|m| m.settled().end()));
        self.batch.push(Round { what, order: case.order, ends });
        if start.silent {
            // In the long run the timer that completes it comes with rounds of other orders, too.
            self.settle().await?;
        }
        Ok(())
    }

    /// Lets time pass and every timer run, and checks the orders of the batch: their ends, their money, their books.
    async fn settle(&mut self) -> anyhow::Result<()> {
        self.world.client.advance(3600).await?;
        self.world.settle_down().await?;
        for _ in 0..2 {
            self.world.client.advance(600).await?;
            self.world.client.timer("deliverOutbox").await?;
        }
        for round in std::mem::take(&mut self.batch) {
            let Round { what, order, ends } = round;
            let (end, owed) = self.seen(&order).await?;
            assert!(ends.contains(&end), "{what}: in the end {end:?}, and not one of {ends:?}");
            let kept: i64 = self.world.sim.orders(&order).iter().map(kept).sum();
            let off = owed * 100.0 - f64::from(i32::try_from(kept)?);
            assert!(off.abs() < 0.5, "{what}: WeChat keeps {kept} fen of {owed} yuan");
        }
        let found = self.world.violations().await?;
        assert!(found.is_empty(), "{found:?}");
        // Sessions last a week of the moved clock.
        self.token = self.world.client.login("mia").await?;
        Ok(())
    }
}

/// What WeChat holds of a payment, in fen.
fn kept(order: &simulators::Order) -> i64 {
    let paid = order.transaction_id.as_ref().map_or(0, |_| order.paid_fen.unwrap_or(order.total_fen));
    let back = order.refunds.iter().filter(|r| r.status == RefundStatus::Success);
    paid - back.map(|r| r.refund_fen).sum::<i64>()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_of_commands_ends_as_one_after_the_other() -> anyhow::Result<()> {
    let long = asked("JINLU_LONG").is_some();
    let seed = asked("JINLU_SEED").and_then(|s| s.parse().ok());
    // Another schedule each time, since 30 seconds are too few for all pairs.
    let seed = seed.unwrap_or(u64::from(std::process::id()));
    eprintln!("JINLU_SEED={seed}");
    let mut pairs = Vec::new();
    for start in STARTS {
        let fits = |command: &&Command| (command.fits)(*start);
        // In the long run everything is tried against what fits.
        let rivals: Vec<&Command> = COMMANDS.iter().filter(|c| long || fits(c)).collect();
        for (i, a) in COMMANDS.iter().filter(fits).enumerate() {
            let earlier: Vec<_> = COMMANDS.iter().filter(fits).take(i).map(|c| c.name).collect();
            pairs.extend(rivals.iter().filter(|b| !earlier.contains(&b.name)).map(|b| (*start, a, *b)));
        }
    }
    let (begun, limit) = (Instant::now(), Duration::from_secs(if long { 4 * 3600 } else { 30 }));
    let mut matrix = Matrix::new(seed).await?;
    let times = asked("JINLU_TIMES").and_then(|times| times.parse().ok()).unwrap_or(if long { 100 } else { 1 });
    let mut done = 0usize;
    'all: for _ in 0..times {
        pairs.shuffle(&mut matrix.random);
        for (start, a, b) in &pairs {
            if begun.elapsed() > limit {
                break 'all;
            }
            matrix.round(*start, a, b).await?;
            done += 1;
            if matrix.batch.len() == 40 {
                matrix.settle().await?;
            }
            if long && done.is_multiple_of(500) {
                eprintln!("{done} rounds after {:.0?}", begun.elapsed());
            }
        }
    }
    matrix.settle().await?;
    assert!(done > 0, "no pair was raced");
    eprintln!("{done} rounds of {} pairs in {:.0?}", pairs.len(), begun.elapsed());
    matrix.world.finish().await
}
