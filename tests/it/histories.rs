//! Random histories of the shop: members, staff, a CRM and timers do what their programs do, one after the other, while time passes
//! and the upstreams fail. Every reply is looked at; at the end everything is settled, the books are audited, and a few totals are
//! compared with a model that knows nothing of the shop's rules.
//!
//! A history follows from its seed: `JINLU_SEED=7` plays one again and prints its steps. The tests play what fits into a minute,
//! `JINLU_LONG=1` ten thousand, or as many as `JINLU_HISTORIES` says. What happens at the same moment is the matrix's business.

mod bills;
mod parcels;
mod shelf;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use axum::body::Bytes;
use axum::http::HeaderMap;
use bson::{Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::OpenId;
use edge::{Caller, Clock, Function, Invocation, Proof};
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use it::{World, asked, database_name, id_number, mongod_uri};
use mongodb::Database;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use simulators::{Fault, FaultMode, RefundStatus, Target};

/// Steps of a history before it is settled.
const STEPS: std::ops::Range<u32> = 25..70;
const MEMBERS: usize = 3;
/// What each of them has, in fen.
const BALANCE: i64 = 30_000;
const PRODUCTS: &[&str] =
    &["p-apple", "p-rice", "p-tea", "p-honey", "p-sticker", "p-eggs", "p-oil", "p-last", "p-off", "p-lottery", "p-mug"];
const SKUS: &[&str] = &["s-grade1", "s-grade2", "s-grade3"];

/// Codes that a caller must be ready for whatever it does. Everything else, `INTERNAL` above all, is a bug.
const REFUSALS: &[&str] = &[
    "AMOUNT_MISMATCH",
    "ALREADY_SIGNED_UP",
    "BALANCE_INSUFFICIENT",
    "COINS_INSUFFICIENT",
    "CONFLICT",
    "COUPON_NOT_APPLICABLE",
    "CUSTOMER_ALREADY_LINKED",
    "CUSTOMER_AMBIGUOUS",
    "CUSTOMER_NOT_FOUND",
    "IDENTITY_REQUIRED",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ORDER_NOT_FOUND",
    "ORDER_STATE_INVALID",
    "OUT_OF_STOCK",
    "PHONE_ALREADY_LINKED",
    "POINTS_INSUFFICIENT",
    "PREPAID_INSUFFICIENT",
    "PREPAID_PRODUCT_MISMATCH",
    "PRODUCT_NOT_FOUND",
    "QUALIFICATION_INVALID",
    "RATE_LIMITED",
    "SIGNUP_CLOSED",
    "UPSTREAM_ERROR",
];

/// A database that is brought back to its beginning between histories.
struct Stage {
    uri: String,
    name: String,
    db: Database,
    functions: Arc<Vec<Function>>,
    /// Every document that a new shop has.
    beginning: BTreeMap<String, Vec<Document>>,
}

impl Stage {
    async fn build() -> Result<Self> {
        let (uri, name) = (mongod_uri().await?, database_name());
        let db = mongodb::Client::with_uri_str(&uri).await?.database(&name);
        let opened = DateTime::parse_from_rfc3339("2066-03-01T00:00:00Z")?.to_utc();
        let world = World::serve(&uri, &name, Clock::standing_at(opened), |_| {}).await?;
        world.store.init(store::collections::InitOptions { demo: true, dry_run: false }, opened).await?;
        for n in 0..MEMBERS {
            let member = json!({
                "_id": format!("u-h{n}"), "openId": format!("o-h{n}"), "points": 60, "level": 1, "balance": BALANCE, "carryFen": 0,
            });
            world.store.open_document("member_user", &member, opened).await?;
            let customer =
                json!({ "_id": format!("c-h{n}"), "name": format!("客户{n}"), "phone": phone(n), "status": "active" });
            world.store.open_document("customers", &customer, opened).await?;
        }
        let mut beginning = BTreeMap::new();
        for collection in db.list_collection_names().await? {
            let all = doc! { "_id": { "$gt": bson::Bson::MinKey } };
            let documents = db.collection::<Document>(&collection).find(all).await?.try_collect().await?;
            beginning.insert(collection, documents);
        }
        Ok(Self { uri, name, db, functions: Arc::new(gateway::functions()), beginning })
    }

    async fn reset(&self) -> Result<()> {
        let all = self.beginning.iter().map(|(name, documents)| async move {
            let collection = self.db.collection::<Document>(name);
            collection.delete_many(doc! { "_id": { "$gt": bson::Bson::MinKey } }).await?;
            if !documents.is_empty() {
                collection.insert_many(documents).await?;
            }
            anyhow::Ok(())
        });
        try_join_all(all).await?;
        Ok(())
    }

    async fn play(&self, seed: u64, tally: &mut Tally) -> Result<()> {
        self.reset().await?;
        // Far ahead: the database server removes what has expired by its own clock, and nothing may have by that.
        let begins = DateTime::parse_from_rfc3339("2066-03-02T00:00:00Z")?.to_utc();
        let begins = begins + TimeDelta::minutes(i64::try_from(seed % (60 * 24 * 90))?);
        let world = World::serve(&self.uri, &self.name, Clock::standing_at(begins), |_| {}).await?;
        let mut history = History {
            world,
            functions: Arc::clone(&self.functions),
            db: self.db.clone(),
            random: StdRng::seed_from_u64(seed),
            members: (0..MEMBERS).map(|_| Member::default()).collect(),
            activities: Vec::new(),
            pieces: BTreeMap::new(),
            given_in_portal: 0,
            falsified: BTreeSet::new(),
            requests: 0,
            last_submit: None,
            tally: std::mem::take(tally),
            log: Vec::new(),
        };
        let played = history.play().await;
        *tally = std::mem::take(&mut history.tally);
        if asked("JINLU_SEED").is_some() {
            eprintln!("{}", history.log.join("\n"));
        }
        played.map_err(|error| {
            let tail = history.log.len().saturating_sub(40);
            let steps = history.log[tail..].join("\n");
            error.context(format!("JINLU_SEED={seed}; the last steps:\n{steps}"))
        })
    }
}

fn phone(n: usize) -> String {
    format!("1370000000{n}")
}

/// How often each action was asked for, and how often it was done.
type Tally = BTreeMap<String, (u64, u64)>;

/// What a member remembers.
#[derive(Default)]
struct Member {
    orders: Vec<String>,
    coupons: Vec<String>,
    rights: Vec<String>,
    rounds: Vec<String>,
    addresses: Vec<String>,
    quote: Option<(Value, Value)>,
}

struct History {
    world: World,
    functions: Arc<Vec<Function>>,
    db: Database,
    random: StdRng,
    members: Vec<Member>,
    activities: Vec<String>,
    /// What went in and out of the shelf by hand.
    pieces: BTreeMap<String, i64>,
    /// Fen that the merchant portal gave back past the shop.
    given_in_portal: i64,
    /// Rows of the bills that are not as it happened, or as it was told.
    falsified: BTreeSet<String>,
    requests: u32,
    last_submit: Option<(usize, Value)>,
    tally: Tally,
    log: Vec<String>,
}

/// A reply that was looked at.
struct Reply {
    ok: bool,
    body: Value,
}

impl Reply {
    fn text(&self, field: &str) -> Option<String> {
        self.body[field].as_str().filter(|_| self.ok).map(str::to_owned)
    }

    fn rows(&self) -> &[Value] {
        self.body["data"].as_array().map_or(&[], Vec::as_slice)
    }
}

impl History {
    fn now(&self) -> DateTime<Utc> {
        self.world.app.clock.now()
    }

    fn stamp(&self) -> String {
        self.now().format("%m-%dT%H:%M:%S").to_string()
    }

    fn time(&self, minutes: i64) -> String {
        (self.now() + TimeDelta::minutes(minutes)).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    }

    fn below(&mut self, n: usize) -> usize {
        self.random.random_range(0..n.max(1))
    }

    fn between(&mut self, range: std::ops::Range<i64>) -> i64 {
        self.random.random_range(range)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        of.choose(&mut self.random).cloned()
    }

    fn request_id(&mut self) -> String {
        self.requests += 1;
        format!("history-{:06}", self.requests)
    }

    /// Calls a function, and refuses every answer that no caller could make sense of.
    async fn invoke(&mut self, name: &str, caller: Caller, input: Value) -> Result<Reply> {
        let functions = Arc::clone(&self.functions);
        let function = functions.iter().find(|f| f.name() == name).with_context(|| format!("no function {name}"))?;
        let who = match &caller {
            Caller::User { open_id, .. } => open_id.as_str().to_owned(),
            other => other.kind().to_owned(),
        };
        let body = Bytes::from(input.to_string());
        let invocation = Invocation { proof: Proof::Caller(caller), headers: HeaderMap::new(), body, trace_id: None };
        let answer = edge::invoke(&self.world.app, function, invocation).await;
        let body = answer.body.unwrap_or_default();
        let code = body["code"].as_str().unwrap_or("");
        let line = format!("{} {who} {name} {input} → {} {code}", self.stamp(), answer.status);
        self.log.push(line.clone());
        let ok = answer.status == 200;
        let (asked, done) = self.tally.entry(format!("{name} {}", input["action"].as_str().unwrap_or(""))).or_default();
        (*asked, *done) = (*asked + 1, *done + u64::from(ok));
        ensure!(ok == (body["success"] == true) && ok == code.is_empty(), "no envelope: {line}: {body}");
        ensure!(ok || REFUSALS.contains(&code), "not an answer to give: {line}: {body}");
        let message = body["message"].as_str().is_some_and(|m| !m.is_empty());
        ensure!(ok || message, "nothing for people: {line}: {body}");
        if code == "INVALID_ARGUMENT" {
            ensure!(body["details"]["field"].is_string(), "no field: {line}: {body}");
        }
        ensure!(code != "UPSTREAM_ERROR" || body["retryable"] == true, "not retryable: {line}: {body}");
        Ok(Reply { ok, body })
    }

    fn caller(member: usize) -> Result<Caller> {
        Ok(Caller::User { open_id: OpenId::parse(&format!("o-h{member}"))?, union_id: None })
    }

    async fn member(&mut self, member: usize, name: &str, input: Value) -> Result<Reply> {
        self.invoke(name, Self::caller(member)?, input).await
    }

    async fn nobody(&mut self, name: &str, input: Value) -> Result<Reply> {
        self.invoke(name, Caller::Anonymous, input).await
    }

    async fn service(&mut self, name: &str, input: Value) -> Result<Reply> {
        self.invoke(name, Caller::Service { key_id: "crm".to_owned(), scopes: vec!["*".to_owned()] }, input).await
    }

    /// Staff with every permission.
    async fn staff(&mut self, name: &str, input: Value) -> Result<Reply> {
        let permissions = ["orders", "refunds", "products", "stock", "coupons", "lottery", "identity", "reviews"];
        let permissions = permissions.map(str::to_owned).to_vec();
        self.invoke(name, Caller::Staff { id: "s-1".to_owned(), permissions }, input).await
    }

    async fn timer(&mut self, name: &str) -> Result<()> {
        let answer = self.world.gateway.fire(name).await;
        let body = answer.body.unwrap_or_default();
        self.log.push(format!("{} timer {name} → {} {body}", self.stamp(), answer.status));
        ensure!(answer.status == 200, "the timer {name} was answered {}: {body}", answer.status);
        Ok(())
    }

    fn advance(&mut self, seconds: u64) {
        self.log.push(format!("{} +{seconds} s", self.stamp()));
        self.world.app.clock.advance(Duration::from_secs(seconds));
    }

    async fn play(&mut self) -> Result<()> {
        for n in 0..MEMBERS {
            self.nobody("login", json!({ "code": format!("dev-h{n}") })).await?;
        }
        for n in 0..MEMBERS {
            self.settle_in(n).await?;
        }
        // Bills are compared from the day on that this timer has seen first.
        self.timer("reconcileBill").await?;
        let steps = self.random.random_range(STEPS);
        for _ in 0..steps {
            self.step().await?;
            // Time passes a little in any case.
            let seconds = self.random.random_range(0..20);
            self.world.app.clock.advance(Duration::from_secs(seconds));
        }
        self.settle().await?;
        self.check().await
    }

    /// Most members are customers, known by name, with something prepaid.
    async fn settle_in(&mut self, member: usize) -> Result<()> {
        if self.chance(70) {
            let input = json!({ "openId": format!("o-h{member}"), "phone": phone(member) });
            self.service("linkUserToCustomer", input).await?;
        }
        if self.chance(70) {
            let claim = json!({ "realName": "张三", "idCard": id_number(u32::try_from(member)?), "consent": true });
            self.member(member, "verifyIdentity", claim).await?;
        }
        let (customer, amount) = (format!("c-h{member}"), self.between(50..300));
        for mut input in [
            json!({ "type": "amount", "amount": amount }),
            json!({ "type": "product", "quantity": amount % 7 + 1, "productId": "p-apple" }),
        ] {
            input["customerId"] = json!(customer);
            input["requestId"] = json!(self.request_id());
            self.service("addPrestore", input).await?;
        }
        Ok(())
    }

    /// One of a member's orders, mostly one in these states.
    async fn order_in(&mut self, member: usize, states: &[&str]) -> Result<Option<String>> {
        let mut orders = self.members[member].orders.clone();
        if self.chance(88) {
            let known = doc! { "_id": { "$in": &orders }, "status": { "$in": states } };
            let found: Vec<Document> =
                self.db.collection::<Document>("orders").find(known).await?.try_collect().await?;
            orders.retain(|id| found.iter().any(|order| order.get_str("_id").is_ok_and(|known| known == id)));
        }
        Ok(self.one_of(&orders))
    }

    /// An order that nothing goes wrong with, and mostly sent at once.
    async fn buy(&mut self, member: usize) -> Result<()> {
        let mut items = self.items();
        if self.chance(50) {
            items[0] = json!({ "productId": "p-honey", "quantity": 1 + self.below(3) });
        }
        let mut event = json!({ "items": items, "address": self.address(), "requestId": self.request_id() });
        self.tender(member, &mut event);
        let made = self.member(member, "submitOrder", event).await?;
        let Some(id) = made.text("orderId") else { return Ok(()) };
        self.members[member].orders.push(id.clone());
        if made.body["status"] == "pendingPayment" {
            self.member(member, "wxPay", json!({ "orderId": id })).await?;
            let paid = self.world.client.pay(&id, "once").await?;
            self.log.push(format!("{} payer pays {id} once → {}", self.stamp(), paid.status));
        }
        if self.chance(60) {
            let (company, number) = self.waybill();
            let ship = json!({ "action": "ship", "orderId": id, "logistics": "express", "expressCompany": company, "trackingNo": number });
            self.staff("orders", ship).await?;
            if self.chance(50) {
                self.member(member, "orders", json!({ "action": "confirmReceipt", "orderId": id })).await?;
            }
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<()> {
        let member = self.below(MEMBERS);
        match self.below(130) {
            0..3 => self.browse(member).await,
            3..8 => self.cart(member).await,
            8..10 => self.addresses(member).await,
            10..14 => self.coupons(member).await,
            14..18 => self.preview(member).await,
            18..35 => self.submit(member).await,
            35..55 => self.pay_or_cancel(member).await,
            55..63 => self.handle(member).await,
            63..73 => self.after_sale(member).await,
            73..76 => self.crm(member).await,
            76..78 => self.link(member).await,
            78..81 => self.mall(member).await,
            81..85 => self.draws(member).await,
            85..87 => self.stock().await,
            87..88 => self.tell(member).await,
            88..92 => self.fault(),
            92..96 => self.timers().await,
            96..103 => self.parcels(member).await,
            103..107 => self.reviews(member).await,
            107..110 => self.bills().await,
            110..112 => self.portal(member).await,
            112..114 => self.freight().await,
            114..116 => self.ship_many().await,
            116..126 => self.after_sale(member).await,
            _ => {
                let seconds = self.one_of(&[5, 60, 400, 1900, 7_200, 90_000]).unwrap_or(5);
                if seconds > 7_200 {
                    // What waits is delivered by timers every ten seconds, of which a jump makes none.
                    self.clear_faults();
                    self.timer("deliverOutbox").await?;
                }
                self.advance(seconds);
                Ok(())
            }
        }
    }

    async fn browse(&mut self, member: usize) -> Result<()> {
        let input = match self.below(6) {
            0 => json!({ "action": "list" }),
            1 => json!({ "action": "list", "sort": "priceAsc", "inStock": true, "limit": 3 }),
            2 => json!({ "action": "get", "productId": self.one_of(PRODUCTS) }),
            3 => json!({ "action": "search", "query": self.one_of(&["苹果", "lj", "dami", "不存在的"]) }),
            4 => json!({ "action": "categories" }),
            _ => {
                self.member(member, "getUserPoints", json!({})).await?;
                self.member(member, "coins", json!({ "action": "account" })).await?;
                let seen = self.member(member, "orders", json!({ "action": "list", "limit": 2 })).await?;
                ensure!(seen.ok && seen.rows().len() <= 2, "a page of orders: {}", seen.body);
                return self.member(member, "prepaid", json!({ "action": "records" })).await.map(drop);
            }
        };
        self.nobody("products", input).await.map(drop)
    }

    /// One to three lines of goods that may or may not be for sale.
    fn items(&mut self) -> Value {
        let lines = 1 + self.below(3);
        let mut items = Vec::new();
        for _ in 0..lines {
            let ordinary = self.chance(92);
            let product = self.one_of(if ordinary { &PRODUCTS[..7] } else { PRODUCTS }).unwrap_or("p-apple");
            let mut item = json!({ "productId": product, "quantity": 1 + self.below(3) });
            if product == "p-tea" && self.chance(95) {
                item["skuId"] = json!(self.one_of(SKUS));
            }
            items.push(item);
        }
        json!(items)
    }

    async fn cart(&mut self, member: usize) -> Result<()> {
        let items = self.items();
        let action = self.one_of(&["add", "add", "merge", "list", "update", "remove", "select"]).unwrap_or("list");
        if matches!(action, "add" | "merge") {
            return self.member(member, "cart", json!({ "action": action, "items": items })).await.map(drop);
        }
        let seen = self.member(member, "cart", json!({ "action": "list" })).await?;
        let lines: Vec<Value> = seen.rows().iter().map(|row| row["lineId"].clone()).collect();
        let Some(line) = self.one_of(&lines) else { return Ok(()) };
        let input = match action {
            "update" => json!({ "action": "update", "lineId": line, "quantity": 1 + self.below(4) }),
            "remove" => json!({ "action": "remove", "lineIds": [line] }),
            "select" => json!({ "action": "select", "lineIds": [line], "selected": self.chance(50) }),
            _ => return Ok(()),
        };
        self.member(member, "cart", input).await.map(drop)
    }

    fn address(&mut self) -> Value {
        let province = self.one_of(&["浙江省", "广东省", "西藏自治区"]);
        json!({ "name": "张三", "phone": "13800138000", "province": province, "city": "杭州市", "detail": "文三路 1 号" })
    }

    async fn addresses(&mut self, member: usize) -> Result<()> {
        let address = self.address();
        let known = self.one_of(&self.members[member].addresses.clone());
        match known {
            Some(id) if self.chance(40) => {
                self.member(member, "addresses", json!({ "action": "delete", "addressId": id })).await?;
            }
            Some(id) if self.chance(50) => {
                self.member(member, "addresses", json!({ "action": "setDefault", "addressId": id })).await?;
            }
            _ => {
                let made = self.member(member, "addresses", json!({ "action": "create", "address": address })).await?;
                self.members[member].addresses.extend(made.text("_id"));
            }
        }
        Ok(())
    }

    async fn coupons(&mut self, member: usize) -> Result<()> {
        let coupon = self.one_of(&["cp-off", "cp-rate", "cp-few", "cp-tea"]).unwrap_or("cp-off");
        match self.below(10) {
            0..3 => {
                let terms = match coupon {
                    "cp-off" => json!({ "type": "off", "off": 7.77, "threshold": 20 }),
                    "cp-rate" => json!({ "type": "rate", "rateBp": 8_850, "cap": 30 }),
                    "cp-few" => json!({ "type": "off", "off": 500, "total": 2, "perUser": 1 }),
                    _ => json!({ "type": "off", "off": 33.33, "categories": ["茶叶"] }),
                };
                let mut wanted = json!({
                    "name": "券", "validDays": 2, "claimFrom": self.time(-1), "claimUntil": self.time(60 * 24 * 3),
                });
                wanted.as_object_mut().context("no object")?.extend(terms.as_object().cloned().unwrap_or_default());
                self.service("couponAdmin", json!({ "action": "create", "couponId": coupon, "coupon": wanted }))
                    .await?;
            }
            3 => {
                let paused = self.chance(30);
                let input = json!({ "action": "pause", "couponId": coupon, "paused": paused });
                self.service("couponAdmin", input).await?;
            }
            4 => {
                let (request, open_ids) = (self.request_id(), ["o-h0", "o-h1"]);
                let input = json!({ "action": "grant", "couponId": coupon, "openIds": open_ids, "requestId": request });
                for _ in 0..1 + self.below(2) {
                    self.service("couponAdmin", input.clone()).await?;
                }
            }
            _ => {
                let claimed = self.member(member, "coupons", json!({ "action": "claim", "couponId": coupon })).await?;
                self.members[member].coupons.extend(claimed.text("userCouponId"));
                let mine = self.member(member, "coupons", json!({ "action": "mine" })).await?;
                let mine = mine.rows().iter().filter_map(|row| row["userCouponId"].as_str().map(str::to_owned));
                self.members[member].coupons = mine.collect();
            }
        }
        Ok(())
    }

    /// How it is paid, and what is taken off.
    fn tender(&mut self, member: usize, event: &mut Value) {
        let method = self.one_of(&["wechat", "wechat", "wechat", "balance", "prestore", "prepaid"]).unwrap_or("wechat");
        event["paymentMethod"] = json!(method);
        if matches!(method, "prestore" | "prepaid") && self.chance(50) {
            event["prepaidAmount"] = json!(f64::from(self.random.random_range(1..4_000)) / 100.0);
        }
        if self.chance(25) {
            event["pointsUsed"] = json!(self.below(12));
        }
        if self.chance(45)
            && let Some(coupon) = self.one_of(&self.members[member].coupons.clone())
        {
            event["userCouponId"] = json!(coupon);
        }
    }

    async fn preview(&mut self, member: usize) -> Result<()> {
        let mut event = json!({ "items": self.items() });
        self.tender(member, &mut event);
        let mut asked = event.clone();
        asked["action"] = json!("preview");
        let seen = self.member(member, "coupons", asked).await?;
        if seen.ok && seen.body["quote"]["quoteId"].is_string() {
            self.members[member].quote = Some((event, seen.body["quote"].clone()));
        }
        Ok(())
    }

    async fn submit(&mut self, member: usize) -> Result<()> {
        if self.chance(8)
            && let Some((member, event)) = self.last_submit.clone()
        {
            // The reply got lost: again, with the same key.
            let again = self.member(member, "submitOrder", event).await?;
            ensure!(!again.ok || again.body["replayed"] == true, "made twice: {}", again.body);
            return Ok(());
        }
        let quote = if self.chance(40) { self.members[member].quote.take() } else { None };
        let mut event = match &quote {
            Some((event, quote)) => {
                let mut event = event.clone();
                event["quoteId"] = quote["quoteId"].clone();
                event
            }
            None => {
                let mut event = json!({ "items": self.items() });
                self.tender(member, &mut event);
                event
            }
        };
        let known = self.one_of(&self.members[member].addresses.clone());
        match known {
            Some(id) if self.chance(50) => event["addressId"] = json!(id),
            _ => event["address"] = self.address(),
        }
        event["requestId"] = json!(self.request_id());
        let made = self.member(member, "submitOrder", event.clone()).await?;
        let Some(id) = made.text("orderId") else { return Ok(()) };
        if let Some((_, quote)) = quote {
            for field in ["totalAmount", "discountAmount", "paymentAmount", "prepaidAmount", "balanceAmount"] {
                ensure!(quote[field] == made.body[field], "{field} is not as shown: {quote} and {}", made.body);
            }
        }
        self.last_submit = Some((member, event));
        self.members[member].orders.push(id.clone());
        // Most go on to pay at once.
        if made.body["status"] == "pendingPayment" && self.chance(60) {
            self.member(member, "wxPay", json!({ "orderId": id })).await?;
            if self.chance(60) {
                self.notice(&id).await?;
            }
        }
        Ok(())
    }

    /// The payer pays, or has paid, and WeChat tells it in some way.
    async fn notice(&mut self, order: &str) -> Result<()> {
        let modes = [
            "once",
            "once",
            "once",
            "once",
            "none",
            "none",
            "duplicate",
            "tampered",
            "signtest",
            "wrongAmount",
            "certificate",
            "wrongKey",
            "stale",
            "wrongAppid",
        ];
        let mode = self.one_of(&modes).unwrap_or("once");
        let paid = self.world.client.pay(order, mode).await?;
        let line = format!("{} payer pays {order} {mode} → {} {}", self.stamp(), paid.status, paid.body);
        self.log.push(line.clone());
        // WeChat's own refusals are the payer's business.
        ensure!(paid.status < 500, "{line}");
        if mode == "wrongAmount" {
            // WeChat's notice tells another amount than its bill.
            self.falsified.insert(order.to_owned());
        }
        let proven = matches!(mode, "once" | "duplicate" | "certificate" | "wrongAmount" | "wrongAppid");
        // Nobody moves the clocks of others: what is stale by ours may be of this minute by theirs, which counts as well.
        let fresh_by_theirs = mode == "stale" && (self.world.app.clock.shift().num_seconds() - 600).abs() <= 310;
        if paid.status == 200 && mode != "none" && !fresh_by_theirs {
            let accepted = paid.body["noticeStatus"] == 204;
            ensure!(accepted == proven, "a notice was {}: {line}", if accepted { "believed" } else { "refused" });
        }
        Ok(())
    }

    async fn pay_or_cancel(&mut self, member: usize) -> Result<()> {
        let recent = self.members[member].orders.clone();
        let recent = &recent[recent.len().saturating_sub(4)..];
        let Some(order) = self.one_of(recent) else { return self.submit(member).await };
        match self.below(10) {
            0..3 => self.member(member, "wxPay", json!({ "orderId": order })).await.map(drop),
            3..7 => self.notice(&order).await,
            7 => self.member(member, "wxPay", json!({ "orderId": order, "action": "query" })).await.map(drop),
            8 => self.member(member, "orders", json!({ "action": "cancel", "orderId": order })).await.map(drop),
            _ => {
                let seen = self.member(member, "orders", json!({ "action": "get", "orderId": order })).await?;
                ensure!(seen.ok, "an order of one's own: {}", seen.body);
                // Nobody else sees it.
                let other = (member + 1) % MEMBERS;
                let name = "orders";
                let function = self.functions.iter().find(|f| f.name() == name).context("no orders")?.clone();
                let body = Bytes::from(json!({ "action": "get", "orderId": order }).to_string());
                let proof = Proof::Caller(Self::caller(other)?);
                let invocation = Invocation { proof, headers: HeaderMap::new(), body, trace_id: None };
                let answer = edge::invoke(&self.world.app, &function, invocation).await;
                ensure!(answer.status == 403, "somebody else's order: {answer:?}");
                Ok(())
            }
        }
    }

    /// What the shop does with an order, and its buyer at the end.
    async fn handle(&mut self, member: usize) -> Result<()> {
        let what = self.below(14);
        let states: &[&str] = match what {
            0 | 13 => &["shipped"],
            1..5 | 12 => &["pendingPayment"],
            5 => &["pendingPayment", "paid", "shipped"],
            _ => &["paid"],
        };
        let Some(order) = self.order_in(member, states).await? else { return self.buy(member).await };
        match what {
            12 => {
                let input = json!({ "action": "cancel", "orderId": order, "reason": "缺货" });
                return self.staff("orders", input).await.map(drop);
            }
            0 | 13 => {
                let input = json!({ "action": "confirmReceipt", "orderId": order });
                return self.member(member, "orders", input).await.map(drop);
            }
            1 => {
                let input = json!({
                    "action": "changeAddress", "orderId": order, "address": self.address(), "acceptFreight": self.chance(50),
                });
                return self.member(member, "orders", input).await.map(drop);
            }
            2..5 => {
                let field = self.one_of(&["amount", "amount", "freightAmount"]).unwrap_or("amount");
                let to = self.one_of(&[0.0, 0.05, 12.34, 40.0]);
                let mut input = json!({ "action": "changePrice", "orderId": order, "reason": "优惠" });
                input[field] = json!(to);
                input["requestId"] = json!(self.request_id());
                return self.staff("orders", input).await.map(drop);
            }
            5 => {
                let status = self.one_of(&["shipped", "completed", "closed"]);
                let others = self.members[(member + 1) % MEMBERS].orders.clone();
                let mut ids = vec![order];
                ids.extend(self.one_of(&others));
                let (company, number) = self.waybill();
                let input =
                    json!({ "orderIds": ids, "status": status, "expressCompany": company, "trackingNo": number });
                return self.service("batchUpdateOrders", input).await.map(drop);
            }
            _ => {}
        }
        let input = match self.chance(80) {
            true => {
                let (company, number) = self.waybill();
                json!({ "action": "ship", "orderId": order, "logistics": "express", "expressCompany": company, "trackingNo": number })
            }
            false => json!({ "action": "ship", "orderId": order, "logistics": "pickup" }),
        };
        self.staff("orders", input).await.map(drop)
    }

    async fn after_sale(&mut self, member: usize) -> Result<()> {
        if self.chance(30) {
            return self.ask_back(member).await;
        }
        let mine = self.member(member, "refunds", json!({ "action": "list", "limit": 100 })).await?;
        let mine = mine.rows().to_vec();
        let Some(refund) = self.one_of(&mine) else { return self.ask_back(member).await };
        let (id, order) = (refund["refundId"].clone(), refund["orderId"].as_str().unwrap_or_default().to_owned());
        // Mostly what is next, and sometimes what is not.
        let likely: &[&str] = match refund["status"].as_str().unwrap_or_default() {
            "applied" => &["approve", "approve", "approve", "reject", "withdraw"],
            "returning" => &["shipBack", "shipBack", "withdraw", "reject"],
            "shippedBack" => &["receive", "receive", "reject"],
            "refunding" => &["end"],
            "failed" => &["retry", "retry", "settle"],
            _ => &["get"],
        };
        let all = ["approve", "reject", "withdraw", "shipBack", "receive", "retry", "settle", "end"];
        let action = if self.chance(88) { self.one_of(likely) } else { self.one_of(&all) }.unwrap_or("get");
        let mut input = json!({ "action": action, "refundId": id });
        match action {
            "end" => return self.end_refund(&order).await,
            "reject" => input["reason"] = json!("不符合退款条件"),
            "settle" => input["remark"] = json!("已线下转账"),
            "shipBack" => {
                input["expressCompany"] = json!("YTO");
                input["trackingNo"] = json!("YT9");
            }
            "approve" if self.chance(15) => input["amount"] = json!(0.01),
            _ => {}
        }
        let by_member = matches!(action, "withdraw" | "shipBack" | "get");
        for _ in 0..if self.chance(15) { 2 } else { 1 } {
            match by_member {
                true => self.member(member, "refunds", input.clone()).await?,
                false => self.staff("refunds", input.clone()).await?,
            };
        }
        Ok(())
    }

    async fn ask_back(&mut self, member: usize) -> Result<()> {
        let states = ["paid", "shipped", "completed"];
        let Some(order) = self.order_in(member, &states).await? else { return self.buy(member).await };
        let mut input =
            json!({ "action": "apply", "orderId": order, "reason": "不想要了", "requestId": self.request_id() });
        if self.chance(40) {
            input["type"] = json!("returnGoods");
        }
        if self.chance(70) {
            let seen = self.member(member, "orders", json!({ "action": "get", "orderId": order })).await?;
            let lines: Vec<(Value, i64)> = seen.body["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|line| (line["lineId"].clone(), line["quantity"].as_i64().unwrap_or(1)))
                .collect();
            let chosen: Vec<_> = lines.iter().filter(|_| self.random.random_range(0..2) == 0).collect();
            let chosen = if chosen.is_empty() { lines.iter().take(1).collect() } else { chosen };
            let part = |(line, quantity): &(Value, i64)| json!({ "lineId": line, "quantity": self.random.random_range(1..=*quantity) });
            let items: Vec<Value> = chosen.into_iter().map(part).collect();
            if !items.is_empty() {
                input["items"] = json!(items);
            }
        }
        let by_staff = self.chance(20);
        if by_staff && self.chance(40) {
            input["amount"] = json!(f64::from(self.random.random_range(1..3_000)) / 100.0);
        }
        match by_staff {
            true => self.staff("refunds", input).await.map(drop),
            false => self.member(member, "refunds", input).await.map(drop),
        }
    }

    /// WeChat has done its part of a refund, or cannot.
    async fn end_refund(&mut self, order: &str) -> Result<()> {
        if self.chance(50) {
            self.timer("deliverOutbox").await?;
        }
        let orders = self.world.sim.orders(order);
        let waiting: Vec<String> = orders
            .iter()
            .flat_map(|o| &o.refunds)
            .filter(|r| r.status == RefundStatus::Processing)
            .map(|r| r.out_refund_no.clone())
            .collect();
        let Some(number) = self.one_of(&waiting) else { return Ok(()) };
        let status = self.one_of(&["SUCCESS", "SUCCESS", "SUCCESS", "CLOSED", "ABNORMAL"]).unwrap_or("SUCCESS");
        let notify = self.one_of(&["once", "duplicate", "none", "tampered"]).unwrap_or("once");
        let input = json!({ "outRefundNo": number, "status": status, "notify": notify });
        let ended = self.world.client.control("refund", input.clone()).await?;
        let line = format!("{} wechat refund {input} → {} {}", self.stamp(), ended.status, ended.body);
        self.log.push(line.clone());
        ensure!(ended.status < 500, "{line}");
        let accepted = ended.body["noticeStatus"] == 204;
        ensure!(notify == "none" || accepted == (notify != "tampered"), "a notice of a refund: {line}");
        Ok(())
    }

    async fn crm(&mut self, member: usize) -> Result<()> {
        let customer = format!("c-h{}", self.below(MEMBERS));
        let request = self.request_id();
        let input = match self.below(9) {
            0..3 => {
                let amount = f64::from(self.random.random_range(1..9_000)) / 100.0;
                let input = json!({ "customerId": customer, "type": "amount", "amount": amount, "requestId": request });
                return self.service("addPrestore", input).await.map(drop);
            }
            3 | 4 => {
                let quantity = 1 + self.below(5);
                let input = json!({
                    "customerId": customer, "type": "product", "quantity": quantity, "productId": "p-apple", "requestId": request,
                });
                return self.service("addPrestore", input).await.map(drop);
            }
            5 => {
                let kind = self.one_of(&["amount", "product"]);
                let mut input = json!({
                    "customerId": customer, "amount": 1 + self.below(3), "orderId": format!("OFFLINE{}", self.below(4)),
                    "prepaidType": kind, "productId": "p-apple",
                });
                if self.chance(30) {
                    input["restore"] = json!(true);
                }
                return self.service("updatePrepaidBalance", input).await.map(drop);
            }
            6 => {
                let (source, target) = (customer, format!("c-h{}", self.below(MEMBERS)));
                let merged = self
                    .service("customers", json!({ "action": "merge", "sourceId": source, "targetId": target }))
                    .await?;
                if let Some(merge) = merged.text("mergeId")
                    && self.chance(60)
                {
                    self.service("customers", json!({ "action": "unmerge", "mergeId": merge })).await?;
                }
                return Ok(());
            }
            7 => {
                json!({ "openId": format!("o-h{member}"), "points": 1 + self.below(20), "type": "earn", "reason": "活动", "requestId": request })
            }
            _ => {
                json!({ "openId": format!("o-h{member}"), "points": 1 + self.below(20), "type": "spend", "reason": "更正", "requestId": request })
            }
        };
        let first = self.service("addPoints", input.clone()).await?;
        let again = self.service("addPoints", input).await?;
        ensure!(!first.ok || again.body["replayed"] == true, "points twice: {}", again.body);
        Ok(())
    }

    async fn link(&mut self, member: usize) -> Result<()> {
        let phone = phone(self.below(MEMBERS));
        match self.chance(50) {
            true => {
                let input = json!({ "openId": format!("o-h{member}"), "phone": phone });
                self.service("linkUserToCustomer", input).await.map(drop)
            }
            false => {
                let input = json!({ "phoneCode": format!("phone-{phone}") });
                self.member(member, "linkUserToCustomer", input).await.map(drop)
            }
        }
    }

    async fn mall(&mut self, member: usize) -> Result<()> {
        if self.chance(30) {
            let number = id_number(u32::try_from(member)?);
            let claim = json!({ "realName": "张三", "idCard": number, "consent": true });
            return self.member(member, "verifyIdentity", claim).await.map(drop);
        }
        let input = json!({ "action": "redeem", "productId": "p-mug", "quantity": 1, "address": self.address(), "requestId": self.request_id() });
        let made = self.member(member, "pointsMall", input).await?;
        self.members[member].orders.extend(made.text("orderId"));
        Ok(())
    }

    async fn draws(&mut self, member: usize) -> Result<()> {
        let activity = self.one_of(&self.activities.clone());
        let Some(activity) = activity.filter(|_| self.chance(85)) else {
            // As many win as sign up, so that nothing hangs on luck that is not the seed's.
            let activity = json!({
                "activityName": "限量酒", "productId": "p-lottery", "mode": "auto", "quota": MEMBERS, "quantity": 1,
                "windows": [{ "start": "00:00", "end": "12:00" }, { "start": "12:00", "end": "00:00" }],
                "startTime": self.time(-60), "endTime": self.time(30),
            });
            let made = self.service("lotteryAdmin", json!({ "action": "create", "activity": activity })).await?;
            self.activities.extend(made.text("activityId"));
            return Ok(());
        };
        let signed = self.member(member, "lottery", json!({ "action": "signUp", "activityId": activity })).await?;
        self.members[member].rounds.extend(signed.text("roundId"));
        if self.chance(50) {
            self.advance(1_810);
            self.timer("lotteryDraw").await?;
        }
        for round in self.members[member].rounds.clone() {
            let seen = self.member(member, "lottery", json!({ "action": "result", "roundId": round })).await?;
            let Some(right) = seen.text("qualificationId") else { continue };
            if !self.members[member].rights.contains(&right) {
                self.members[member].rights.push(right);
            }
        }
        let Some(right) = self.one_of(&self.members[member].rights.clone()) else { return Ok(()) };
        let mut event = json!({
            "items": [{ "productId": "p-lottery", "quantity": 1 }], "address": self.address(), "qualificationId": right,
            "requestId": self.request_id(),
        });
        self.tender(member, &mut event);
        let made = self.member(member, "submitOrder", event).await?;
        let Some(order) = made.text("orderId") else { return Ok(()) };
        self.members[member].orders.push(order.clone());
        if self.chance(50) {
            self.member(member, "wxPay", json!({ "orderId": order })).await?;
            self.notice(&order).await?;
        }
        Ok(())
    }

    /// Messages, and the permissions for them.
    async fn tell(&mut self, member: usize) -> Result<()> {
        if self.chance(50) {
            let template =
                self.one_of(&["local-order-paid", "local-order-shipped", "local-order-refunded"]).unwrap_or_default();
            let results = json!({ template: self.one_of(&["accept", "accept", "reject"]) });
            let input = json!({ "action": "report", "results": results, "requestId": self.request_id() });
            return self.member(member, "subscriptions", input).await.map(drop);
        }
        let open_id = format!("o-h{member}");
        self.service("staff", json!({ "action": "upsert", "userId": "s-9", "name": "小李", "openId": open_id }))
            .await?;
        let input = json!({ "assignments": [{ "customerId": "c-h0", "customerName": "客户0", "assignedToUserId": "s-9" }], "wait": false });
        self.service("notifyAssignment", input).await.map(drop)
    }

    fn fault(&mut self) -> Result<()> {
        let targets = [Target::Wxpay, Target::Wxpay, Target::Wxpay, Target::Wechat, Target::Kuaidi100];
        let target = self.one_of(&targets).unwrap_or(Target::Wxpay);
        let modes = [
            FaultMode::Timeout,
            FaultMode::ServerError,
            FaultMode::TooMany,
            FaultMode::Reset,
            FaultMode::DropAfterCommit,
            FaultMode::BadSignature,
        ];
        let modes = if target == Target::Wxpay { &modes[..] } else { &modes[..5] };
        let mode = self.one_of(modes).unwrap_or(FaultMode::Reset);
        let mut fault = Fault::new(target, mode, self.random.random_range(1..4));
        fault.ms = Some(5);
        self.log.push(format!("{} fault {target:?} {mode:?} {:?}", self.stamp(), fault.count));
        self.world.sim.fault(fault);
        Ok(())
    }

    fn clear_faults(&self) {
        for target in [Target::Wxpay, Target::Wechat, Target::Kuaidi100] {
            self.world.sim.fault(Fault::new(target, FaultMode::Reset, 0));
        }
    }

    async fn timers(&mut self) -> Result<()> {
        let name = self.one_of(&TIMERS[..]).unwrap_or("deliverOutbox");
        self.timer(name).await
    }

    /// Nothing fails any more, time passes, and every timer runs until nothing waits.
    async fn settle(&mut self) -> Result<()> {
        self.clear_faults();
        for hours in [1, 72] {
            for name in TIMERS {
                self.timer(name).await?;
            }
            for _ in 0..8 {
                if self.world.store.outbox_pending().await? == 0 {
                    break;
                }
                self.advance(600);
                self.timer("deliverOutbox").await?;
            }
            self.advance(hours * 3_600);
        }
        for name in TIMERS {
            self.timer(name).await?;
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<()> {
        let found = self.world.violations().await?;
        ensure!(found.is_empty(), "the audit found:\n{}", found.join("\n"));
        self.check_money().await?;
        self.check_balances().await?;
        self.check_bills().await?;
        self.check_parcels()?;
        self.check_pieces().await
    }

    /// What WeChat keeps is what the book says it keeps, and what the orders cost.
    async fn check_money(&self) -> Result<()> {
        let kept = |order: &simulators::Order| {
            let paid = order.transaction_id.as_ref().map_or(0, |_| order.paid_fen.unwrap_or(order.total_fen));
            let back = order.refunds.iter().filter(|r| r.status == RefundStatus::Success);
            paid - back.map(|r| r.refund_fen).sum::<i64>()
        };
        let kept: i64 = self.world.sim.orders("").iter().map(kept).sum();
        let booked = self.posted("@wechat").await?;
        ensure!(kept == -booked, "WeChat keeps {kept} fen, and the book says {}", -booked);
        let mut cost = 0;
        for order in self.documents("orders").await? {
            if order.get_str("status")? == "pendingPayment" {
                bail!("an order hangs: {}", order.get_str("_id")?);
            }
            if order.get_str("status")? != "closed" {
                cost += order.get_i64("paymentAmount")?;
            }
        }
        for refund in self.documents("refunds").await? {
            let elsewhere = refund.get_bool("settledElsewhere").unwrap_or(false);
            if refund.get_str("status")? == "refunded" && !elsewhere {
                cost -= refund.get_document("plan")?.get_document("given")?.get_i64("paymentAmount")?;
            }
        }
        let portal = self.given_in_portal;
        ensure!(kept == cost - portal, "WeChat keeps {kept} fen for orders of {cost} fen, {portal} given back past us");
        Ok(())
    }

    /// Every member has what they had at the beginning, but for what orders took and did not give back.
    async fn check_balances(&self) -> Result<()> {
        let mut taken: BTreeMap<String, i64> = BTreeMap::new();
        for order in self.documents("orders").await? {
            if order.get_str("status")? != "closed" {
                *taken.entry(order.get_str("userId")?.to_owned()).or_default() += order.get_i64("balanceAmount")?;
            }
        }
        for refund in self.documents("refunds").await? {
            if refund.get_document("given").is_ok() {
                let back = refund.get_document("plan")?.get_document("given")?.get_i64("balanceAmount")?;
                *taken.entry(refund.get_str("userId")?.to_owned()).or_default() -= back;
            }
        }
        for n in 0..MEMBERS {
            let user = format!("u-h{n}");
            let member = self.db.collection::<Document>("member_user").find_one(doc! { "_id": &user }).await?;
            let (left, taken) =
                (member.context("no member")?.get_i64("balance")?, taken.get(&user).copied().unwrap_or(0));
            ensure!(left == BALANCE - taken, "{user} has {left} fen left of {BALANCE}, of which {taken} were taken");
        }
        Ok(())
    }

    /// The sum of what was posted on an account in fen.
    async fn posted(&self, account: &str) -> Result<i64> {
        let mut sum = 0;
        for entry in self.documents("ledger").await? {
            for posting in entry.get_array("postings")?.iter().filter_map(bson::Bson::as_document) {
                if posting.get_str("account")? == account && posting.get_str("asset")? == "fen" {
                    sum += posting.get_i64("amount")?;
                }
            }
        }
        Ok(sum)
    }

    async fn documents(&self, collection: &str) -> Result<Vec<Document>> {
        let all = doc! { "_id": { "$gt": bson::Bson::MinKey } };
        Ok(self.db.collection::<Document>(collection).find(all).await?.try_collect().await?)
    }

    /// Pieces at the beginning, and what went in by hand, are on the shelf or sold.
    async fn check_pieces(&self) -> Result<()> {
        let mut sold: BTreeMap<String, i64> = BTreeMap::new();
        for order in self.documents("orders").await? {
            if order.get_str("status")? == "closed" {
                continue;
            }
            for line in order.get_array("items")?.iter().filter_map(bson::Bson::as_document) {
                *sold.entry(line.get_str("productId")?.to_owned()).or_default() += line.get_i64("quantity")?;
            }
        }
        for refund in self.documents("refunds").await? {
            let Ok(given) = refund.get_document("given") else { continue };
            if !given.get_bool("restocked")? {
                continue;
            }
            for item in refund.get_array("items")?.iter().filter_map(bson::Bson::as_document) {
                *sold.entry(item.get_str("productId")?.to_owned()).or_default() -= item.get_i64("quantity")?;
            }
        }
        for (product, there) in [
            ("p-apple", 1_000),
            ("p-rice", 500),
            ("p-tea", 143),
            ("p-honey", 200),
            ("p-lottery", 50),
            ("p-mug", 80),
            ("p-sticker", 100_000),
            ("p-eggs", 300),
            ("p-last", 1),
            ("p-oil", 120),
        ] {
            let by_hand = self.pieces.get(product).copied().unwrap_or(0);
            let (left, sold) = (self.world.stock(product).await?, sold.get(product).copied().unwrap_or(0));
            ensure!(
                left == there + by_hand - sold,
                "{product}: {left} left of {there}, {by_hand} by hand, {sold} sold"
            );
        }
        Ok(())
    }
}

const TIMERS: [&str; 11] = [
    "autoComplete",
    "reconcilePayments",
    "closeExpiredOrders",
    "settleStockMarkers",
    "deliverOutbox",
    "lotteryDraw",
    "expireCoins",
    "expireCoupons",
    "sealLedger",
    "followParcels",
    "reconcileBill",
];

#[tokio::test(flavor = "multi_thread")]
async fn any_history_ends_with_books_that_add_up() -> Result<()> {
    let number = |name: &str| asked(name).and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("JINLU_SEED") {
        let stage = Stage::build().await?;
        stage.play(seed, &mut Tally::new()).await?;
        return Ok(stage.db.drop().await?);
    }
    let long = asked("JINLU_LONG").is_some();
    let all = number("JINLU_HISTORIES").unwrap_or(if long { 10_000 } else { 60 });
    let limit = Duration::from_secs(if long { 24 * 3_600 } else { 45 });
    let first = number("JINLU_FIRST").unwrap_or(1);
    let (begun, next) = (Instant::now(), Arc::new(AtomicU64::new(first)));
    // One at a time waits for the database more than it works.
    let workers = (0..if long { 4 } else { 2 }).map(|_| {
        let next = Arc::clone(&next);
        tokio::spawn(async move {
            let stage = Stage::build().await?;
            let (mut played, mut failed, mut tally) = (0u64, Vec::new(), Tally::new());
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + all || begun.elapsed() > limit {
                    break;
                }
                match stage.play(seed, &mut tally).await {
                    Ok(()) => played += 1,
                    // A long run tells of more than the first, but not without end.
                    Err(error) if long && failed.len() < 5 => {
                        eprintln!("{error:#}");
                        failed.push(seed);
                    }
                    Err(error) => return Err(error),
                }
                if long && seed.is_multiple_of(100) {
                    eprintln!("seed {seed} after {:.0?}", begun.elapsed());
                }
            }
            stage.db.drop().await?;
            anyhow::Ok((played, failed, tally))
        })
    });
    let (mut played, mut failed, mut tally) = (0, Vec::new(), Tally::new());
    for worker in workers.collect::<Vec<_>>() {
        let (some, seeds, counts) = worker.await??;
        played += some;
        failed.extend(seeds);
        for (what, (asked, done)) in counts {
            let sum = tally.entry(what).or_default();
            *sum = (sum.0 + asked, sum.1 + done);
        }
    }
    eprintln!("{played} histories in {:.0?}", begun.elapsed());
    if long {
        tally.iter().for_each(|(what, (asked, done))| eprintln!("{what}: {done} of {asked}"));
        // What is never done proves nothing about the books.
        let never: Vec<_> = tally.iter().filter(|(_, (_, done))| *done == 0).map(|(what, _)| what).collect();
        assert!(played < 1_000 || never.is_empty(), "never done: {never:?}");
    }
    assert!(failed.is_empty(), "histories failed, by their seeds: {failed:?}");
    assert!(played > 0, "no history was played to its end");
    Ok(())
}
