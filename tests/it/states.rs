//! What is not drawn in `docs/states.md` does not happen: every move that the tables do not declare is tried on the real
//! operations, which refuse it and change nothing. And the pictures are those of the tables.

use bson::{Document, doc};
use domain::machine::{self, coupon, order, payment, qualification, refund};
use domain::{OrderId, OrderType, Points, UserCouponId};
use it::{Answer, World, mongod_uri, order_of};
use mongodb::Database;
use serde_json::json;
use shop::after_sale::wechat::{Seen, conclude};
use store::orders::{Earned, Shipping};
use store::payments::PaymentStatus;
use wechat::pay::RefundStatus;

use crate::coins::{give, mug, verified};
use crate::coupons::{claim, issue};
use crate::input::snapshot;
use crate::right::win;
use crate::shipping::{parcel, ship};

#[test]
fn the_pictures_in_the_docs_are_those_of_the_tables() {
    let docs = include_str!("../../docs/states.md");
    for picture in machine::pictures() {
        let wanted = format!("<!-- picture: {} -->\n```mermaid\n{}```\n", picture.name, picture.mermaid());
        assert!(docs.contains(&wanted), "docs/states.md should hold:\n{wanted}");
    }
    assert_eq!(docs.matches("<!-- picture:").count(), machine::pictures().len());
}

/// A world with its database for looking at documents, and raw changes where no operation leads to a state.
struct Place {
    world: World,
    db: Database,
    token: String,
}

impl Place {
    async fn new() -> anyhow::Result<Self> {
        let world = World::start().await?;
        let name = world.app.config.store.as_ref().map(|s| s.database.clone()).unwrap_or_default();
        let db = mongodb::Client::with_uri_str(&mongod_uri().await?).await?.database(&name);
        verified(&world.store, "mia", world.app.clock.now()).await?;
        give(&world.store, "mia", "w1", 20, world.app.clock.now()).await?;
        let token = world.client.login("mia").await?;
        Ok(Self { world, db, token })
    }

    async fn one(&self, collection: &str, id: &str) -> anyhow::Result<Document> {
        let found = self.db.collection::<Document>(collection).find_one(doc! { "_id": id }).await?;
        found.ok_or_else(|| anyhow::anyhow!("no {collection}/{id}"))
    }

    async fn set(&self, collection: &str, id: &str, set: Document) -> anyhow::Result<()> {
        self.db.collection::<Document>(collection).update_one(doc! { "_id": id }, doc! { "$set": set }).await?;
        Ok(())
    }

    async fn submit(&self, event: serde_json::Value) -> anyhow::Result<String> {
        Ok(self.world.client.call("submitOrder", &self.token, event).await?.ok()["orderId"]
            .as_str()
            .unwrap()
            .to_owned())
    }

    async fn cancel(&self, id: &str) -> anyhow::Result<Answer> {
        self.world.client.call("orders", &self.token, json!({ "action": "cancel", "orderId": id })).await
    }

    async fn confirm(&self, id: &str) -> anyhow::Result<Answer> {
        self.world.client.call("orders", &self.token, json!({ "action": "confirmReceipt", "orderId": id })).await
    }

    async fn pay(&self, id: &str) -> anyhow::Result<()> {
        self.world.client.call("wxPay", &self.token, json!({ "orderId": id })).await?.ok();
        assert_eq!(self.world.client.pay(id, "once").await?.body["noticeStatus"], 204);
        Ok(())
    }

    /// An order of this type in this state.
    async fn order_in(&self, order_type: OrderType, state: order::State) -> anyhow::Result<String> {
        let mall = order_type == OrderType::PointsMall;
        let id = match mall {
            true => self.world.client.call("pointsMall", &self.token, mug(1)).await?.ok()["orderId"]
                .as_str()
                .unwrap()
                .to_owned(),
            false => self.submit(order_of("p-apple", 1)).await?,
        };
        use order::State::{Closed, Completed, Paid, PendingPayment, Shipped};
        if state == Closed {
            self.cancel(&id).await?.ok();
        }
        if matches!(state, Paid | Shipped | Completed) && !mall {
            self.pay(&id).await?;
        }
        if matches!(state, Shipped | Completed) {
            ship(&self.world, &id, "YT1").await?.ok();
        }
        if state == Completed {
            self.confirm(&id).await?.ok();
        }
        assert!(state != PendingPayment || !mall);
        assert_eq!(self.one("orders", &id).await?.get_str("status")?, state.as_str());
        Ok(id)
    }

    /// Lets something happen to an order, in every way that there is. What an order is asked for twice may be answered as the
    /// first time; whatever is answered, the order must be as it was.
    async fn happen(&self, id: &str, event: order::Event, state: order::State) -> anyhow::Result<()> {
        use order::Event::{AutoComplete, Cancel, Expire, Pay, Recall, Receive, Ship};
        let (c, now) = (&self.world.client, self.world.app.clock.now());
        let order = OrderId::parse(id)?;
        match event {
            Pay => {
                c.call("wxPay", &self.token, json!({ "orderId": id })).await?.refused(409, "ORDER_STATE_INVALID");
                let nothing = Earned { points: Points::ZERO, points_earn_fen: 10_000, coins: 0 };
                let moved = self.world.store.transaction(|tx, _| {
                    let order = &order;
                    Box::pin(async move { tx.mark_order_paid(order, Some("4200"), nothing, now).await })
                });
                assert!(!moved.await?);
            }
            Cancel | Recall => {
                let answer = self.cancel(id).await?;
                match state {
                    order::State::Closed => assert_eq!(answer.ok()["status"], "closed"),
                    _ => answer.refused(409, "ORDER_STATE_INVALID"),
                }
            }
            Expire => {
                c.timer("closeExpiredOrders").await?;
            }
            Ship => {
                let other = self.world.client.call_service("orders", parcel(id, "YT2")).await?;
                other.refused(409, "ORDER_STATE_INVALID");
                let shipping = Shipping {
                    logistics: domain::Logistics::Pickup,
                    express_company: None,
                    tracking_no: None,
                    shipped_at: now,
                    by: "staff:test".to_owned(),
                    reported: false,
                    parcel: None,
                    untracked: None,
                };
                let moved = self.world.store.transaction(|tx, _| {
                    let (order, shipping) = (&order, &shipping);
                    Box::pin(async move { tx.mark_order_shipped(order, shipping).await })
                });
                assert!(!moved.await?);
            }
            Receive => {
                let answer = self.confirm(id).await?;
                match state {
                    order::State::Completed => assert_eq!(answer.ok()["replayed"], true),
                    _ => answer.refused(409, "ORDER_STATE_INVALID"),
                }
            }
            AutoComplete => {
                // Shipped orders are young here; the next test lets the days pass.
                let ran = c.timer("autoComplete").await?;
                assert_eq!(ran.ok()["completed"], 0);
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_makes_no_move_that_is_not_declared() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let mut refused = 0;
    for order_type in [OrderType::Normal, OrderType::PointsMall] {
        let mut orders = Vec::new();
        for state in order::State::ALL {
            if order_type == OrderType::PointsMall && state == order::State::PendingPayment {
                continue;
            }
            orders.push((state, place.order_in(order_type, state).await?));
        }
        // What is not paid by now expires, which is declared; it is the last to be tried.
        orders.reverse();
        for (state, id) in orders {
            let before = snapshot(&place.world).await?;
            for event in order::Event::ALL.iter().copied() {
                if order::next(state, event).is_some() && order::is_for(event, order_type) {
                    continue;
                }
                // One command leads to both; which of them it means is said by the state and the type.
                let mall = order_type == OrderType::PointsMall;
                if event == order::Event::Cancel && mall && state == order::State::Paid
                    || event == order::Event::Recall && state == order::State::PendingPayment
                {
                    continue;
                }
                place.happen(&id, event, state).await?;
                before.stands(&place.world).await?;
                refused += 1;
            }
        }
    }
    let all = order::State::ALL.len() * order::Event::ALL.len();
    // Recalling what is not paid and cancelling what is of the mall is one command, which is declared there under its other name.
    let (normal, mall) = (all - (order::EDGES.len() - 1) - 1, all - order::Event::ALL.len() - 4 - 1);
    assert_eq!(refused, normal + mall);
    place.world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn days_complete_what_was_shipped_and_nothing_else() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let c = &place.world.client;
    let mut orders = Vec::new();
    for order_type in [OrderType::Normal, OrderType::PointsMall] {
        for state in order::State::ALL {
            if order_type == OrderType::Normal || state != order::State::PendingPayment {
                orders.push((state, place.order_in(order_type, state).await?));
            }
        }
    }
    // What waits for its hour is delivered before the days pass.
    c.timer("deliverOutbox").await?;
    let mut before = Vec::new();
    for (_, id) in &orders {
        before.push(place.one("orders", id).await?);
    }
    c.advance(12 * 86_400).await?;
    assert_eq!(c.timer("autoComplete").await?.ok()["completed"], 2);
    for ((state, id), before) in orders.iter().zip(before) {
        let after = place.one("orders", id).await?;
        match order::next(*state, order::Event::AutoComplete) {
            Some(to) => assert_eq!(after.get_str("status")?, to.as_str()),
            None => assert_eq!(after, before, "{state:?}"),
        }
    }
    assert_eq!(c.timer("autoComplete").await?.ok()["completed"], 0);
    place.world.settle_down().await?;
    place.world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_to_pay_makes_no_move_that_is_not_declared() -> anyhow::Result<()> {
    use payment::{Event, State};
    let place = Place::new().await?;
    let (c, store) = (&place.world.client, &place.world.store);
    let mut refused = 0;
    for state in State::ALL.iter().copied() {
        let id = place.submit(order_of("p-apple", 1)).await?;
        match state {
            State::Created => {
                c.control("faults", json!({ "target": "wxpay", "mode": "500", "count": 9 })).await?;
                c.call("wxPay", &place.token, json!({ "orderId": id })).await?.refused(502, "UPSTREAM_ERROR");
                c.control("faults", json!({ "target": "wxpay", "mode": "500", "count": 0 })).await?;
            }
            State::Prepaid | State::Closed | State::Exception => {
                c.call("wxPay", &place.token, json!({ "orderId": id })).await?.ok();
                match state {
                    State::Closed => drop(place.cancel(&id).await?.ok()),
                    State::Exception => drop(c.pay(&id, "wrongAmount").await?),
                    _ => {}
                }
            }
            State::Paid => place.pay(&id).await?,
        }
        assert_eq!(place.one("payments", &id).await?.get_str("status")?, state.as_str());
        let before = snapshot(&place.world).await?;
        for event in Event::ALL.iter().copied().filter(|event| payment::next(state, *event).is_none()) {
            let now = place.world.app.clock.now();
            let finish = async |status: PaymentStatus| {
                let moved = store.transaction(|tx, _| {
                    let id = &id;
                    Box::pin(async move { tx.finish_payment(id, status, "4200X", None, now).await })
                });
                moved.await
            };
            match event {
                Event::Prepay => assert!(!store.record_prepay(&id, "wx-new", now).await?),
                Event::Settle => assert!(!finish(PaymentStatus::Paid).await?),
                Event::Misfit => assert!(!finish(PaymentStatus::Exception).await?),
                Event::Close => store.mark_payment_closed(&id).await?,
            }
            before.stands(&place.world).await?;
            refused += 1;
        }
    }
    assert_eq!(refused, State::ALL.len() * Event::ALL.len() - payment::EDGES.len());
    c.advance(3600).await?;
    place.world.settle_down().await?;
    place.world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_makes_no_move_that_is_not_declared() -> anyhow::Result<()> {
    use refund::{Event, State};
    let place = Place::new().await?;
    let c = &place.world.client;
    let command = async |by_buyer: bool, action: &str, id: &str| {
        let event = json!({
            "action": action, "refundId": id, "expressCompany": "YTO", "trackingNo": "YT9", "reason": "x", "remark": "x",
        });
        match by_buyer {
            true => c.call("refunds", &place.token, event).await,
            false => c.call_service("refunds", event).await,
        }
    };
    let end = async |id: &str, status: &str| {
        c.control("refund", json!({ "outRefundNo": id, "status": status, "notify": "once" })).await
    };
    let mut refused = 0;
    for state in State::ALL.iter().copied() {
        let returns = matches!(state, State::Returning | State::ShippedBack);
        let order =
            place.order_in(OrderType::Normal, if returns { order::State::Shipped } else { order::State::Paid }).await?;
        let kind = if returns { "returnGoods" } else { "refundOnly" };
        let apply = json!({ "action": "apply", "orderId": order, "reason": "x", "type": kind });
        let id = c.call("refunds", &place.token, apply).await?.ok()["refund"]["refundId"].as_str().unwrap().to_owned();
        let applied = place.one("refunds", &id).await?;
        let transaction = place.one("orders", &order).await?.get_str("transactionId")?.to_owned();
        match state {
            State::Applied => {}
            // What is approved goes on in the same transaction, so only damage leaves one there.
            State::Approved => {
                let number = doc! { "outRefundNo": &id };
                place.set("refunds", &id, doc! { "status": "approved", "numbers": [number] }).await?;
            }
            State::Rejected => drop(command(false, "reject", &id).await?.ok()),
            State::Withdrawn => drop(command(true, "withdraw", &id).await?.ok()),
            State::Returning | State::ShippedBack => {
                command(false, "approve", &id).await?.ok();
                if state == State::ShippedBack {
                    command(true, "shipBack", &id).await?.ok();
                }
            }
            State::Refunding | State::Refunded | State::Failed => {
                command(false, "approve", &id).await?.ok();
                c.timer("deliverOutbox").await?;
                match state {
                    State::Refunded => drop(end(&id, "SUCCESS").await?),
                    State::Failed => drop(end(&id, "CLOSED").await?),
                    _ => {}
                }
            }
        }
        let before = (place.one("refunds", &id).await?, snapshot(&place.world).await?);
        assert_eq!(before.0.get_str("status")?, state.as_str());
        for event in Event::ALL.iter().copied().filter(|event| refund::next(state, *event).is_none()) {
            let answer = match event {
                Event::Approve | Event::ApproveReturn => command(false, "approve", &id).await?,
                Event::Reject => command(false, "reject", &id).await?,
                Event::Withdraw => command(true, "withdraw", &id).await?,
                Event::ShipBack => command(true, "shipBack", &id).await?,
                Event::Receive => command(false, "receive", &id).await?,
                Event::Retry => command(false, "retry", &id).await?,
                Event::Settle => command(false, "settle", &id).await?,
                Event::Succeed | Event::Fail => {
                    let (said, text) = match event {
                        Event::Succeed => (RefundStatus::Success, "SUCCESS"),
                        _ => (RefundStatus::Closed, "CLOSED"),
                    };
                    // Also where WeChat would not say it: as if a notice were there.
                    let refund = place.world.store.refund(&id).await?.unwrap();
                    let seen = Seen {
                        out_refund_no: &id,
                        out_trade_no: order.as_str(),
                        transaction_id: &transaction,
                        status: &said,
                        amount: refund.plan.given.payment_amount.get(),
                        accepted_at: None,
                        source: "query",
                    };
                    conclude(
                        &place.world.store,
                        &seen,
                        &place.world.app.config.rules.tells,
                        place.world.app.clock.now(),
                    )
                    .await
                    .map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
                    end(&id, text).await?
                }
                // Steps of the shop's own, which no command names.
                Event::Send | Event::Finish => continue,
            };
            // A repeat may be answered as the first time.
            let known = ["", "ORDER_STATE_INVALID", "CONFLICT", "NOT_FOUND", "REFUND_FINAL"].contains(&answer.code());
            assert!(known, "{state:?} {event:?}: {answer:?}");
            assert_eq!(place.one("refunds", &id).await?, before.0, "{state:?} {event:?}");
            before.1.stands(&place.world).await?;
            refused += 1;
        }
        if state == State::Approved {
            place.db.collection::<Document>("refunds").replace_one(doc! { "_id": &id }, applied).await?;
        }
    }
    // Sending and finishing are steps of the shop's own, which no command names; they are declared in one state.
    assert_eq!(refused, State::ALL.len() * Event::ALL.len() - refund::EDGES.len() - 2 * (State::ALL.len() - 1));
    for _ in 0..3 {
        c.advance(3600).await?;
        place.world.settle_down().await?;
    }
    place.world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_makes_no_move_that_is_not_declared() -> anyhow::Result<()> {
    use coupon::{Event, State};
    let place = Place::new().await?;
    let (c, store) = (&place.world.client, &place.world.store);
    let other = OrderId::parse("NOBODYS1")?;
    let mut refused = 0;
    for state in State::ALL.iter().copied() {
        let definition = format!("cp-{}", state.as_str());
        issue(&place.world, &definition, json!({ "off": 10, "validDays": 1, "perUser": 9 })).await?;
        let id = claim(&place.world, &place.token, &definition).await?.text("userCouponId");
        let mut event = order_of("p-apple", 2);
        event["userCouponId"] = json!(id);
        let mut order = other.clone();
        match state {
            State::Claiming => place.set("userCoupons", &id, doc! { "status": "claiming" }).await?,
            State::Unused => {}
            State::Locked => order = OrderId::parse(&place.submit(event).await?)?,
            State::Used => {
                order = OrderId::parse(&place.submit(event).await?)?;
                place.pay(order.as_str()).await?;
            }
            State::Expired => place.set("userCoupons", &id, doc! { "status": "expired" }).await?,
        }
        let coupon = UserCouponId::parse(&id)?;
        let user = domain::UserId::parse("u-mia")?;
        let before = place.one("userCoupons", &id).await?;
        assert_eq!(before.get_str("status")?, state.as_str());
        for event in Event::ALL.iter().copied().filter(|event| coupon::next(state, *event).is_none()) {
            let now = place.world.app.clock.now();
            let moved = store.transaction(|tx, _| {
                let (coupon, user, order) = (&coupon, &user, &order);
                Box::pin(async move {
                    match event {
                        Event::Lock => tx.lock_user_coupon(coupon, user, order, now).await,
                        Event::Use => tx.use_user_coupon(coupon, order, now).await.and_then(held),
                        Event::Release => tx.release_user_coupon(coupon, order).await.and_then(held),
                        Event::Return => tx.return_user_coupon(coupon, order).await.and_then(held),
                        Event::Count | Event::Expire => Ok(()),
                    }
                })
            });
            let moved = moved.await;
            match event {
                // Only what waits to be counted is looked at, and only what is unused expires; the others must not be found.
                Event::Count => drop(store.settle_claims(now, 100).await?),
                // The unused ones of other rounds expire with it, which is declared.
                Event::Expire => drop(store.expire_coupons(now + chrono::TimeDelta::days(9), 100).await?),
                _ => assert!(moved.is_err(), "{state:?} {event:?}"),
            }
            assert_eq!(place.one("userCoupons", &id).await?, before, "{state:?} {event:?}");
            refused += 1;
        }
        if state == State::Claiming {
            place.set("userCoupons", &id, doc! { "status": "unused" }).await?;
        }
    }
    assert_eq!(refused, State::ALL.len() * Event::ALL.len() - coupon::EDGES.len());
    c.advance(3600).await?;
    place.world.settle_down().await?;
    place.world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_buy_makes_no_move_that_is_not_declared() -> anyhow::Result<()> {
    use qualification::{Event, State};
    let place = Place::new().await?;
    let (c, store) = (&place.world.client, &place.world.store);
    let mut refused = 0;
    for state in State::ALL.iter().copied() {
        let id = win(c, &place.token, 1, place.world.app.clock.now()).await?;
        let mut order = OrderId::parse("NOBODYS1")?;
        match state {
            State::Active => {}
            State::Used => {
                let mut event = order_of("p-lottery", 1);
                event["qualificationId"] = json!(id);
                order = OrderId::parse(&place.submit(event).await?)?;
                place.pay(order.as_str()).await?;
            }
            State::Expired => {
                c.advance(1900).await?;
                c.call_service("lotteryDraw", json!({})).await?.ok();
            }
        }
        let before = place.one("lotteryQualifications", &id).await?;
        assert_eq!(before.get_str("status")?, state.as_str());
        let right = store.qualification(&id).await?.unwrap();
        for event in Event::ALL.iter().copied().filter(|event| qualification::next(state, *event).is_none()) {
            let now = place.world.app.clock.now();
            match event {
                Event::Use | Event::GiveBack => {
                    let moved = store.transaction(|tx, _| {
                        let (right, order) = (&right, &order);
                        Box::pin(async move {
                            match event {
                                Event::Use => tx.use_qualification(right, order, now).await,
                                _ => tx.give_back_qualification(&right.id, order).await,
                            }
                        })
                    });
                    assert!(moved.await.is_err(), "{state:?} {event:?}");
                }
                Event::Expire => {
                    c.advance(1900).await?;
                    c.call_service("lotteryDraw", json!({})).await?.ok();
                }
            }
            assert_eq!(place.one("lotteryQualifications", &id).await?, before, "{state:?} {event:?}");
            refused += 1;
        }
    }
    assert_eq!(refused, State::ALL.len() * Event::ALL.len() - qualification::EDGES.len());
    c.advance(3600).await?;
    place.world.settle_down().await?;
    c.call_service("lotteryDraw", json!({})).await?.ok();
    place.world.finish().await
}

/// A coupon that its order does not hold stops no order, and is not moved.
fn held(held: bool) -> Result<(), store::Error> {
    held.then_some(()).ok_or_else(|| store::Error::Invariant("not held".to_owned()))
}
