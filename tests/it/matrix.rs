//! Every pair of commands on one order, at the same moment, in two processes: the order ends where one of the two orders of the
//! commands leads by the tables of [`domain::machine`], the payer's money is where the book says it is, and the audit is clean.
//!
//! A command is one entry of [`COMMANDS`]. The tests run what fits into 45 seconds; `JINLU_LONG=1` runs it all a hundred times.
//! `JINLU_SEED=…` picks another schedule.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use domain::machine::order::{self, Event, State};
use futures_util::future::{BoxFuture, FutureExt};
use it::{Answer, Client, World, order_of};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use simulators::RefundStatus;

use crate::coins::{give, mug, verified};
use crate::shipping::parcel;

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
}

impl Model {
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
        match self.status {
            State::PendingPayment => Self { overdue: true, ..self }.given_up(Event::Expire),
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
        effect: |m| m.after(Event::Ship),
    },
    Command {
        name: "shipOtherwise",
        run: |c, case| async move { c.call_service("orders", parcel(&case.order, "YT2")).await }.boxed(),
        fits: |m| matches!(m.status, State::Paid),
        effect: |m| m.after(Event::Ship),
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
];

/// Where the pairs start from.
const STARTS: &[Model] = {
    const NEW: Model = Model { status: State::PendingPayment, wechat: Wechat::Nothing, overdue: false, mall: false };
    const PAID: Model = Model { status: State::Paid, wechat: Wechat::Paid, ..NEW };
    &[
        NEW,
        Model { wechat: Wechat::Open, ..NEW },
        Model { wechat: Wechat::Paid, ..NEW },
        Model { overdue: true, ..NEW },
        Model { wechat: Wechat::Open, overdue: true, ..NEW },
        Model { wechat: Wechat::Paid, overdue: true, ..NEW },
        PAID,
        Model { status: State::Shipped, ..PAID },
        Model { wechat: Wechat::Nothing, mall: true, ..PAID },
        Model { status: State::Closed, wechat: Wechat::Closed, ..NEW },
    ]
};

/// What a command may be answered that loses.
const REFUSALS: &[&str] = &[
    "ORDER_STATE_INVALID",
    "CONFLICT",
    // The payer's, by the simulated WeChat.
    "NOT_FOUND",
    "ORDER_CLOSED",
    "ORDER_EXPIRED",
];

/// What is kept of a round until its batch is settled.
struct Round {
    what: String,
    order: String,
    ends: BTreeSet<&'static str>,
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
        if start.status == State::Shipped {
            c.call_service("orders", parcel(&order, "YT1")).await?.ok();
        }
        if start.status == State::Closed {
            c.call("orders", &token, json!({ "action": "cancel", "orderId": order })).await?.ok();
        }
        if start.overdue {
            c.advance(31 * 60).await?;
        }
        Ok(Case { token, staff: self.world.staff("orders")?, order })
    }

    async fn status(&self, order: &str) -> anyhow::Result<String> {
        let event = json!({ "action": "get", "orderId": order });
        Ok(self.world.client.call("orders", &self.token, event).await?.ok()["status"].as_str().unwrap().to_owned())
    }

    async fn round(&mut self, start: Model, a: &Command, b: &Command) -> anyhow::Result<()> {
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
        let allowed = BTreeSet::from(both.map(|m| m.status.as_str()));
        let status = self.status(&case.order).await?;
        assert!(allowed.contains(status.as_str()), "{what}: {status}, and not one of {allowed:?}");
        let ends = BTreeSet::from(both.map(|m| m.settled().status.as_str()));
        self.batch.push(Round { what, order: case.order, ends });
        Ok(())
    }

    /// Lets time pass and every timer run, and checks the orders of the batch: their ends, their money, their books.
    async fn settle(&mut self) -> anyhow::Result<()> {
        self.world.client.advance(3600).await?;
        self.world.settle_down().await?;
        for round in std::mem::take(&mut self.batch) {
            let Round { what, order, ends } = round;
            let status = self.status(&order).await?;
            assert!(ends.contains(status.as_str()), "{what}: in the end {status}, and not one of {ends:?}");
            let kept: i64 = self.world.sim.orders(&order).iter().map(kept).sum();
            let event = json!({ "action": "get", "orderId": order });
            let seen = self.world.client.call("orders", &self.token, event).await?;
            let owed = if status == "closed" { 0.0 } else { seen.ok()["paymentAmount"].as_f64().unwrap() };
            assert_eq!(kept, (owed * 100.0).round() as i64, "{what}: WeChat keeps another amount: {seen:?}");
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
    let long = std::env::var("JINLU_LONG").is_ok();
    let seed = std::env::var("JINLU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(6);
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
    let (mut done, times) = (0usize, if long { 100 } else { 1 });
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
        }
    }
    matrix.settle().await?;
    eprintln!("{done} rounds of {} pairs in {:.0?}, seed {seed}", pairs.len(), begun.elapsed());
    matrix.world.finish().await
}
