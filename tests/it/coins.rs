//! Activity coins: granted once, spent in order, dead after 48 hours, written off once.

use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use domain::id_card::{IdNumber, RealName};
use domain::vault::{FieldKeys, IndexKeys};
use domain::{BusinessDay, OpenId, OrderId, UserId};
use edge::config::{DataKey, local};
use futures_util::future::join_all;
use it::{Answer, World, id_number, order_of};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use shop::address::Destination;
use shop::coins::{NewLot, TakenBack, grant, take_back};
use shop::identity::{Claim, Vault, verify};
use store::Store;
use store::coins::{CoinLot, CoinSource};
use store::identities::Consent;

/// A verified member with points who is known as `o-NAME`.
pub(crate) async fn verified(store: &Store, name: &str, now: DateTime<Utc>) -> anyhow::Result<UserId> {
    let member = json!({
        "_id": format!("u-{name}"), "openId": format!("o-{name}"), "points": 1000, "level": 1, "balance": 10_000_000,
        "carryFen": 0,
    });
    store.open_document("member_user", &member, now).await?;
    let user = UserId::parse(&format!("u-{name}"))?;
    let member = store.member(&user).await?.unwrap();
    static SEQUENCE: AtomicU32 = AtomicU32::new(0);
    let number = id_number(SEQUENCE.fetch_add(1, Ordering::Relaxed) % 1000);
    let text = |text: &str| text.to_owned();
    let consent = Consent {
        text_version: text("test"),
        text_hash: text("00"),
        at: now,
        channel: text("test"),
        purpose: text("test"),
        withdrawn_at: None,
    };
    let claim = Claim {
        name: RealName::parse("张三").unwrap(),
        number: IdNumber::parse(&number, BusinessDay::of(now).date()).unwrap(),
        consent,
    };
    // The local cloud's keys, so that the functions can open what is sealed here.
    let key =
        |key: &str| [(text(local::KEY_ID), DataKey { id: text(local::KEY_ID), key: key.into() }.bytes().unwrap())];
    let (field_keys, index_keys) = (FieldKeys::new(key(local::FIELD_KEY))?, IndexKeys::new(key(local::INDEX_KEY))?);
    let vault = Vault { field_keys: &field_keys, index_keys: &index_keys };
    verify(store, None, &vault, &member, &claim, now).await?;
    Ok(user)
}

/// Grants coins as a draw would, at a time of the test's choice.
pub(crate) async fn give(store: &Store, name: &str, id: &str, amount: i64, at: DateTime<Utc>) -> anyhow::Result<()> {
    let (user, open_id) = (UserId::parse(&format!("u-{name}"))?, OpenId::parse(&format!("o-{name}"))?);
    let granted = store.transaction(|tx, _| {
        let (user, open_id) = (&user, &open_id);
        Box::pin(async move {
            let lot = NewLot { id: format!("win:{id}"), user, open_id, amount, source: CoinSource::Win, source_id: id };
            grant(tx, lot, at).await
        })
    });
    granted.await?;
    Ok(())
}

pub(crate) fn mug(quantity: i64) -> Value {
    json!({ "action": "redeem", "productId": "p-mug", "quantity": quantity, "address": order_of("p-mug", 1)["address"] })
}

async fn account(world: &World, token: &str) -> anyhow::Result<(i64, i64, i64, i64, i64)> {
    let answer = world.client.call("coins", token, json!({ "action": "account" })).await?;
    let n = |field: &str| answer.ok()[field].as_i64().unwrap();
    Ok((n("balance"), n("totalEarned"), n("totalSpent"), n("totalExpired"), n("owed")))
}

async fn lot(store: &Store, user: &UserId, id: &str) -> anyhow::Result<CoinLot> {
    let lots = store.coin_lots(user).await?;
    lots.into_iter().find(|l| l.id == id).ok_or_else(|| anyhow::anyhow!("no lot {id}"))
}

async fn revoke(world: &World, order: &str) -> anyhow::Result<Option<TakenBack>> {
    let (id, now) = (OrderId::parse(order)?, world.app.clock.now());
    let order = world.store.order(&id).await?.unwrap();
    let take = world.store.transaction(|tx, _| {
        let order = &order;
        Box::pin(async move { take_back(tx, order, now).await })
    });
    Ok(take.await?)
}

/// Buys honey, which grants a coin, by balance.
async fn buy_honey(world: &World, token: &str) -> anyhow::Result<Answer> {
    let mut event = order_of("p-honey", 2);
    event["paymentMethod"] = json!("balance");
    world.client.call("submitOrder", token, event).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_with_the_right_goods_earns_one_coin_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    assert_eq!(account(&world, &token).await?, (0, 0, 0, 0, 0));
    // Through WeChat, with the notice twice and a query besides: still one. Not before it is paid.
    let made = c.call("submitOrder", &token, order_of("p-honey", 3)).await?;
    let id = made.ok()["orderId"].as_str().unwrap().to_owned();
    c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
    assert_eq!(account(&world, &token).await?.0, 0);
    assert_eq!(c.pay(&id, "duplicate").await?.body["noticeStatus"], 204);
    c.timer("reconcilePayments").await?;
    assert_eq!(account(&world, &token).await?, (1, 1, 0, 0, 0));
    let order = c.call("orders", &token, json!({ "action": "get", "orderId": id })).await?;
    assert_eq!(order.ok()["coinsEarned"], 1);
    // By balance, paid at once.
    assert_eq!(buy_honey(&world, &token).await?.ok()["status"], "paid");
    // Other goods earn none.
    let mut apples = order_of("p-apple", 1);
    apples["paymentMethod"] = json!("balance");
    c.call("submitOrder", &token, apples).await?.ok();
    assert_eq!(account(&world, &token).await?, (2, 2, 0, 0, 0));
    let first = c.call("coins", &token, json!({ "action": "records", "limit": 1 })).await?;
    let next = first.ok()["nextCursor"].clone();
    let second = c.call("coins", &token, json!({ "action": "records", "limit": 1, "after": next })).await?;
    assert_eq!(second.ok()["data"][0]["orderId"], json!(id));
    assert_eq!((&second.body["data"][0]["type"], &second.body["data"][0]["change"]), (&json!("earn"), &json!(1)));
    assert!(second.body["nextCursor"].is_null());
    // The expiry is told, and comes without any timer.
    let told = c.call("coins", &token, json!({ "action": "account" })).await?;
    let lots = world.store.coin_lots(&UserId::parse("u-demo")?).await?;
    assert_eq!(told.ok()["nextExpiry"], json!(shop::views::iso(lots[0].expires_at)));
    assert_eq!(lots[0].expires_at - lots[0].granted_at, TimeDelta::hours(48));
    c.advance(48 * 3600).await?;
    assert_eq!(account(&world, &token).await?, (0, 2, 0, 2, 0));
    let swept = c.call_service("expireCoins", json!({})).await?;
    assert_eq!(swept.ok()["expiredLots"], 2);
    assert_eq!((&swept.body["expiredCoins"], &swept.body["remaining"]), (&json!(2), &json!(false)));
    assert_eq!(account(&world, &token).await?, (0, 2, 0, 2, 0));
    world.client.timer("deliverOutbox").await?.ok();
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coin_is_good_for_48_hours_less_a_millisecond_with_or_without_the_timer() -> anyhow::Result<()> {
    use shop::mall::{Redeem, Redeeming, redeem};
    let world = World::start().await?;
    let now = world.app.clock.now();
    let user = verified(&world.store, "mia", now).await?;
    let open_id = OpenId::parse("o-mia")?;
    let mut address = store::orders::Address {
        name: "米娅".to_owned(),
        phone: "13800138000".to_owned(),
        province: String::new(),
        city: String::new(),
        district: String::new(),
        detail: "文三路 1 号".to_owned(),
    };
    address.city = "杭州市".to_owned();
    let wanted = Redeem {
        product_id: domain::ProductId::parse("p-mug")?,
        sku_id: None,
        quantity: 1,
        destination: Destination::Given(address),
    };
    let rules = &world.app.config.rules;
    let at = async |at: DateTime<Utc>| {
        let store = &world.store;
        let redeeming =
            Redeeming { store, rules, open_id: &open_id, redeem: &wanted, key: None, random: rand::random, now: at };
        redeem(&redeeming).await
    };
    let expires = now + TimeDelta::hours(48);
    give(&world.store, "mia", "r1", 1, now).await?;
    // 48:00:00.000 is too late, and no timer ran.
    let late = at(expires).await.unwrap_err();
    assert!(matches!(late, domain::Failure::Refused(r) if r.code == domain::Code::CoinsInsufficient));
    // A timer a millisecond early takes nothing, and 47:59:59.999 is in time.
    let early = expires - TimeDelta::milliseconds(1);
    assert_eq!(world.store.expire_coins(1000, 0, early).await?.lots, 0);
    at(early).await.unwrap();
    assert_eq!(lot(&world.store, &user, "win:r1").await?.remaining, 0);
    // The timer at the moment itself takes it, once.
    give(&world.store, "mia", "r2", 3, now).await?;
    let swept = world.store.expire_coins(1000, 0, expires).await?;
    assert_eq!((swept.lots, swept.coins), (1, 3));
    assert_eq!(world.store.expire_coins(1000, 0, expires).await?.lots, 0);
    let gone = lot(&world.store, &user, "win:r2").await?;
    assert_eq!((gone.remaining, gone.expired, gone.sweeps), (0, 3, 1));
    // The transaction guards it by itself, too, whatever was looked at before.
    give(&world.store, "mia", "r3", 1, now).await?;
    for (when, found) in [(early, 1), (expires, 0)] {
        let spendable = world.store.transaction(|tx, _| {
            let user = &user;
            Box::pin(async move { tx.spendable_lots(user, 10, when).await })
        });
        assert_eq!(spendable.await?.len(), found);
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_first_is_spent_first_across_lots() -> anyhow::Result<()> {
    let world = World::start().await?;
    let now = world.app.clock.now();
    let user = verified(&world.store, "mia", now).await?;
    let token = world.client.login("mia").await?;
    // Granted in another order than they expire.
    for (id, amount, hours) in [("new", 5, 1), ("old", 2, 40), ("dead", 9, 49), ("mid", 2, 20)] {
        give(&world.store, "mia", id, amount, now - TimeDelta::hours(hours)).await?;
    }
    assert_eq!(account(&world, &token).await?, (9, 18, 0, 9, 0));
    let made = world.client.call("pointsMall", &token, mug(3)).await?;
    assert_eq!((&made.ok()["coinsUsed"], &made.body["pointsUsed"]), (&json!(3), &json!(15)));
    let left = async || {
        let lots = world.store.coin_lots(&user).await?;
        anyhow::Ok(lots.into_iter().map(|l| (l.id, l.remaining)).collect::<Vec<_>>())
    };
    let is = |dead: i64, old: i64, mid: i64, new: i64| {
        [("dead", dead), ("old", old), ("mid", mid), ("new", new)].map(|(id, n)| (format!("win:{id}"), n)).to_vec()
    };
    assert_eq!(left().await?, is(9, 0, 1, 5));
    world.client.call("pointsMall", &token, mug(7)).await?.refused(422, "COINS_INSUFFICIENT");
    world.client.call("pointsMall", &token, mug(6)).await?.ok();
    assert_eq!(left().await?, is(9, 0, 0, 0));
    assert_eq!(account(&world, &token).await?, (0, 18, 9, 9, 0));
    world.client.timer("expireCoins").await?;
    assert_eq!(account(&world, &token).await?, (0, 18, 9, 9, 0));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_takes_the_coin_back_or_leaves_it_owed_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let user = verified(&world.store, "mia", world.app.clock.now()).await?;
    let c = &world.client;
    let token = c.login("mia").await?;
    // Still there: it leaves the lot.
    let kept = buy_honey(&world, &token).await?.text("orderId");
    assert_eq!(revoke(&world, &kept).await?, Some(TakenBack { revoked: 1, owed: 0 }));
    assert_eq!(revoke(&world, &kept).await?, None);
    assert_eq!(account(&world, &token).await?, (0, 0, 0, 0, 0));
    // Spent: it is owed. Given back later, it pays that.
    let spent = buy_honey(&world, &token).await?.text("orderId");
    let order = c.call("pointsMall", &token, mug(1)).await?.text("orderId");
    assert_eq!(revoke(&world, &spent).await?, Some(TakenBack { revoked: 0, owed: 1 }));
    assert_eq!(revoke(&world, &spent).await?, None);
    assert_eq!(account(&world, &token).await?, (0, 1, 1, 0, 1));
    c.call("orders", &token, json!({ "action": "cancel", "orderId": order })).await?.ok();
    assert_eq!(account(&world, &token).await?, (0, 0, 0, 0, 0));
    // Expired, written off or not: nothing to take, nothing owed.
    let (one, two) =
        (buy_honey(&world, &token).await?.text("orderId"), buy_honey(&world, &token).await?.text("orderId"));
    c.advance(48 * 3600 + 1).await?;
    let nothing = Some(TakenBack { revoked: 0, owed: 0 });
    assert_eq!(revoke(&world, &one).await?, nothing);
    c.timer("expireCoins").await?;
    assert_eq!(revoke(&world, &two).await?, nothing);
    assert_eq!(account(&world, &token).await?, (0, 2, 0, 2, 0));
    assert_eq!(lot(&world.store, &user, &format!("order:{one}")).await?.expired, 1);
    // An order that granted nothing has nothing to take back.
    let mut apples = order_of("p-apple", 1);
    apples["paymentMethod"] = json!("balance");
    let plain = c.call("submitOrder", &token, apples).await?.text("orderId");
    assert_eq!(revoke(&world, &plain).await?, None);
    world.client.timer("deliverOutbox").await?.ok();
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_take_one_coin_back_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    verified(&world.store, "mia", world.app.clock.now()).await?;
    let token = world.client.login("mia").await?;
    for _ in 0..4 {
        let owes = account(&world, &token).await?.4 > 0;
        let order = buy_honey(&world, &token).await?.text("orderId");
        // Two refunds and a redemption for the same coin.
        let (a, b, c) = tokio::join!(
            revoke(&world, &order),
            revoke(&world, &order),
            world.client.call("pointsMall", &token, mug(1))
        );
        // The one that lost may have met the other's key.
        let done: Vec<TakenBack> = [a, b].into_iter().filter_map(|r| r.ok().flatten()).collect();
        let bought = c?.status == 200;
        assert!(!bought || !owes, "a coin that pays what is owed was spent");
        let (revoked, owed) = if bought || owes { (0, 1) } else { (1, 0) };
        // Bought after the coin was taken back is impossible, whichever came first.
        assert_eq!(done, [TakenBack { revoked, owed }]);
    }
    world.finish().await
}

/// Fills the shop with lots that are over at `now`, many per transaction.
pub(crate) async fn fill(store: &Store, n: usize, at: DateTime<Utc>) -> anyhow::Result<()> {
    let (user, open_id) = (UserId::parse("u-demo")?, OpenId::parse("o-demo")?);
    let ids: Vec<String> = (0..n).map(|i| format!("fill-{i:06}")).collect();
    let chunks: Vec<&[String]> = ids.chunks(100).collect();
    for some in chunks.chunks(4) {
        let runs = some.iter().map(|chunk| {
            let (user, open_id) = (&user, &open_id);
            store.transaction(move |tx, _| {
                Box::pin(async move {
                    for id in chunk.iter() {
                        let id_of_lot = format!("win:{id}");
                        let lot =
                            NewLot { id: id_of_lot, user, open_id, amount: 2, source: CoinSource::Win, source_id: id };
                        grant(tx, lot, at).await?;
                    }
                    Ok(())
                })
            })
        });
        for run in join_all(runs).await {
            run?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_timers_at_once_write_5000_lots_off_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let now = world.app.clock.now();
    fill(&world.store, 5000, now - TimeDelta::hours(48)).await?;
    // Written off or not, they are gone.
    let token = world.client.login("demo").await?;
    assert_eq!(account(&world, &token).await?, (0, 10_000, 0, 10_000, 0));
    let runs = (0..3).map(|_| world.client.call_service("expireCoins", json!({})));
    let (mut lots, mut coins) = (0, 0);
    for answer in join_all(runs).await {
        let answer = answer?;
        // One that met others for too long says so and leaves the rest to the next run.
        if answer.status == 200 {
            lots += answer.body["expiredLots"].as_i64().unwrap();
            coins += answer.body["expiredCoins"].as_i64().unwrap();
        }
    }
    let rest = world.client.call_service("expireCoins", json!({})).await?;
    lots += rest.ok()["expiredLots"].as_i64().unwrap();
    coins += rest.body["expiredCoins"].as_i64().unwrap();
    assert_eq!((lots, coins, &rest.body["remaining"]), (5000, 10_000, &json!(false)));
    assert_eq!(account(&world, &token).await?, (0, 10_000, 0, 10_000, 0));
    world.finish().await
}

/// What a member's coins should be, computed the simple way.
#[derive(Default)]
struct Model {
    /// Hours since the beginning.
    hour: i64,
    lots: Vec<ModelLot>,
    owed: i64,
    /// Open points-mall orders: what each took from which lot.
    orders: Vec<(String, Vec<(usize, i64)>)>,
}

struct ModelLot {
    born: i64,
    granted: i64,
    remaining: i64,
    spent: i64,
    revoked: i64,
    order: Option<String>,
}

impl Model {
    fn alive(&self, lot: &ModelLot) -> bool {
        self.hour - lot.born < 48
    }

    fn account(&self) -> (i64, i64, i64, i64, i64) {
        let sum = |f: &dyn Fn(&ModelLot) -> i64| self.lots.iter().map(f).sum::<i64>();
        let balance = sum(&|l| if self.alive(l) { l.remaining } else { 0 });
        let earned = sum(&|l| l.granted - l.revoked);
        let spent = sum(&|l| l.spent);
        (balance, earned, spent, earned - spent - balance, self.owed)
    }

    /// Pays what is owed, with coins that live and with those that just came back.
    fn pay(&mut self, back: &[(usize, i64)]) {
        for i in 0..self.lots.len() {
            let came = back.iter().filter(|(lot, _)| *lot == i).map(|(_, n)| n).sum();
            let held = if self.alive(&self.lots[i]) { self.lots[i].remaining } else { came };
            let take = self.owed.min(held);
            self.lots[i].remaining -= take;
            self.lots[i].revoked += take;
            self.owed -= take;
        }
    }

    /// What was taken from which lot; nothing where there are not enough.
    fn spend(&mut self, wanted: i64) -> Option<Vec<(usize, i64)>> {
        if self.account().0 - self.owed < wanted {
            return None;
        }
        self.pay(&[]);
        let (mut left, mut takes) = (wanted, Vec::new());
        for i in 0..self.lots.len() {
            let take = if self.alive(&self.lots[i]) { left.min(self.lots[i].remaining) } else { 0 };
            if take > 0 {
                self.lots[i].remaining -= take;
                self.lots[i].spent += take;
                takes.push((i, take));
                left -= take;
            }
        }
        Some(takes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_leaves_the_coins_that_a_simple_model_says() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    for seed in 0..6u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let name = format!("model{seed}");
        verified(&world.store, &name, world.app.clock.now()).await?;
        let mut token = c.login(&name).await?;
        let mut model = Model::default();
        for step in 0..40 {
            match random.random_range(0..9) {
                0 | 1 => {
                    let amount = random.random_range(1..4);
                    give(&world.store, &name, &format!("{name}-{step}"), amount, world.app.clock.now()).await?;
                    model.lots.push(ModelLot {
                        born: model.hour,
                        granted: amount,
                        remaining: amount,
                        spent: 0,
                        revoked: 0,
                        order: None,
                    });
                }
                2 => {
                    let order = buy_honey(&world, &token).await?.text("orderId");
                    model.lots.push(ModelLot {
                        born: model.hour,
                        granted: 1,
                        remaining: 1,
                        spent: 0,
                        revoked: 0,
                        order: Some(order),
                    });
                    model.pay(&[]);
                }
                3 | 4 => {
                    let wanted = random.random_range(1..4);
                    let answer = c.call("pointsMall", &token, mug(wanted)).await?;
                    match model.spend(wanted) {
                        Some(takes) => {
                            answer.ok();
                            model.orders.push((answer.text("orderId"), takes));
                        }
                        None => answer.refused(422, "COINS_INSUFFICIENT"),
                    }
                }
                5 if !model.orders.is_empty() => {
                    let (order, takes) = model.orders.remove(random.random_range(0..model.orders.len()));
                    c.call("orders", &token, json!({ "action": "cancel", "orderId": order })).await?.ok();
                    for (i, take) in &takes {
                        model.lots[*i].remaining += take;
                        model.lots[*i].spent -= take;
                    }
                    model.pay(&takes);
                }
                6 => {
                    let hour = model.hour;
                    if let Some(lot) = model.lots.iter_mut().find(|l| l.order.is_some()) {
                        let taken = revoke(&world, &lot.order.take().unwrap()).await?.unwrap();
                        let revoked = if hour - lot.born < 48 { lot.remaining } else { 0 };
                        let owed = lot.spent + lot.revoked;
                        assert_eq!(taken, TakenBack { revoked, owed });
                        lot.remaining -= revoked;
                        lot.revoked += revoked;
                        model.owed += owed;
                        model.pay(&[]);
                    }
                }
                7 => {
                    c.timer("expireCoins").await?;
                }
                _ => {
                    // No sum of these is 48, so that the seconds of a slow machine do not matter.
                    let hours = [7, 19, 37][random.random_range(0..3)];
                    model.hour += hours;
                    c.advance(hours * 3600).await?;
                    token = c.login(&name).await?;
                }
            }
            assert_eq!(account(&world, &token).await?, model.account(), "seed {seed}, step {step}");
        }
        c.timer("deliverOutbox").await?.ok();
        let found = world.violations().await?;
        assert!(found.is_empty(), "seed {seed}: {found:?}");
    }
    world.finish().await
}
