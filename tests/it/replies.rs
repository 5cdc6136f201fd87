//! What the shop's functions answer, field by field, as `docs/REPLIES.md` says it. The file is made of real replies:
//! `JINLU_WRITE=1 cargo test -p it replies::` writes it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bson::{Document, doc};
use chrono::TimeDelta;
use domain::BusinessDay;
use it::{World, asked, order_of};
use serde_json::{Value, json};
use simulators::{BillMode, ChangeBill};

use crate::audit::database;
use crate::bills::{morning, noon};
use crate::coupons::{claim, issue};
use crate::exceptions::misfit;
use crate::parcels::moved;
use crate::refunds::{applied, deliver, paid};
use crate::right::win;

/// Whose replies are written down.
const FUNCTIONS: [&str; 11] = [
    "products",
    "cart",
    "addresses",
    "orders",
    "refunds",
    "logistics",
    "reviews",
    "stock",
    "coupons",
    "couponAdmin",
    "exceptions",
];

const HEAD: &str = "# Replies

What the functions of the shop answer beside `success` and `requestId`, as real replies have it: made and compared by a test (`tests/it/replies.rs`).
`?` stands behind a field that may be left out, `|null` behind one that may be null; `nextCursor` is null on the last page.
Values and meaning: [API.md](API.md).
";

/// All that was seen in one place of replies.
#[derive(Default)]
struct Shape {
    seen: usize,
    nulls: usize,
    objects: usize,
    fields: BTreeMap<String, Shape>,
    items: Option<Box<Shape>>,
    plain: bool,
}

impl Shape {
    fn see(&mut self, value: &Value) {
        self.seen += 1;
        match value {
            Value::Null => self.nulls += 1,
            Value::Object(object) => {
                self.objects += 1;
                object.iter().for_each(|(name, value)| self.fields.entry(name.clone()).or_default().see(value));
            }
            Value::Array(items) => {
                let shape = self.items.get_or_insert_default();
                items.iter().for_each(|item| shape.see(item));
            }
            _ => self.plain = true,
        }
    }

    /// As the documents write it: `{a, b?, c:[{d|null}]}`.
    fn written(&self) -> String {
        if let Some(items) = &self.items {
            return format!("[{}]", items.written());
        }
        if self.objects == 0 {
            return String::new();
        }
        let field = |(name, shape): (&String, &Self)| {
            let left_out = if shape.seen < self.objects { "?" } else { "" };
            let null = if shape.nulls > 0 { "|null" } else { "" };
            let inside = shape.written();
            let inside = if inside.is_empty() { inside } else { format!(":{inside}") };
            format!("{name}{left_out}{null}{inside}")
        };
        format!("{{{}}}", self.fields.iter().map(field).collect::<Vec<_>>().join(", "))
    }

    /// Where nothing but null or an empty list was seen, which tells nothing.
    fn unseen(&self, path: &str, found: &mut Vec<String>) {
        let nothing = !self.plain && self.objects == 0 && self.items.as_ref().is_none_or(|items| items.seen == 0);
        if nothing && !path.ends_with(".nextCursor") {
            found.push(path.to_owned());
        }
        for (name, shape) in &self.fields {
            shape.unseen(&format!("{path}.{name}"), found);
        }
        if let Some(items) = self.items.as_ref().filter(|items| items.seen > 0) {
            items.unseen(&format!("{path}[]"), found);
        }
    }

    fn names(&self, found: &mut BTreeSet<String>) {
        found.extend(self.fields.keys().cloned());
        self.fields.values().for_each(|shape| shape.names(found));
        self.items.iter().for_each(|items| items.names(found));
    }
}

/// What calls answered, by function and by what is answered alike.
#[derive(Default)]
struct Replies {
    shapes: BTreeMap<(&'static str, &'static str), (BTreeSet<String>, Shape)>,
}

impl Replies {
    /// Calls as the user or member of staff of `token`, or as the CRM without one, and keeps the reply under `alike`.
    async fn call(
        &mut self,
        world: &World,
        token: Option<&str>,
        function: &'static str,
        alike: &'static str,
        event: Value,
    ) -> anyhow::Result<Value> {
        let answer = match token {
            Some(token) => world.client.call(function, token, event.clone()).await?,
            None => world.client.call_service(function, event.clone()).await?,
        };
        let mut reply = answer.ok().clone();
        let fields = reply.as_object_mut().unwrap();
        for name in ["success", "requestId", "replayed"] {
            fields.remove(name);
        }
        let (actions, shape) = self.shapes.entry((function, alike)).or_default();
        actions.insert(event["action"].as_str().unwrap_or_default().to_owned());
        shape.see(&reply);
        Ok(reply)
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for function in FUNCTIONS {
            text.push_str(&format!("\n## `{function}`\n\n"));
            for ((_, alike), (actions, shape)) in self.shapes.iter().filter(|((name, _), _)| *name == function) {
                let actions: Vec<String> = actions.iter().map(|action| format!("`{action}`")).collect();
                text.push_str(&format!("- {alike} ({}): `{}`\n", actions.join(", "), shape.written()));
            }
        }
        text
    }
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// The values of the `action` of a function's input.
fn actions(function: &str) -> BTreeSet<String> {
    let schema = gateway::functions().iter().find(|f| f.name() == function).unwrap().input_schema();
    let action = &schema["$defs"]["Action"];
    let named = action["enum"].as_array().into_iter().flatten();
    let described = action["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|one| one["enum"].as_array().into_iter().flatten().chain(one.get("const")));
    named.chain(described).map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The fields that the outputs in `docs/API.md` name for a function.
fn documented(function: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(docs("API.md")).unwrap();
    let (_, section) = text.split_once(&format!("\n- `{function}` ")).unwrap();
    let section = section.split("\n- ").next().unwrap();
    let mut names = BTreeSet::new();
    for code in section.split('`').skip(1).step_by(2).filter(|code| code.starts_with('{')) {
        // What is in braces and says no action is an output, or the one input with a name of its own.
        if code.starts_with("{action") || section.contains(&format!("`coupon`: `{code}`")) {
            continue;
        }
        let plain: String = code.split('"').step_by(2).collect::<Vec<_>>().join(" ");
        let words = plain.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '…');
        let is_name = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && *word != "null";
        // In `ratings:[of 1 star, … of 5]` they are words.
        names.extend(words.filter(is_name).filter(|word| !["of", "star"].contains(word)).map(str::to_owned));
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_have_the_fields_that_the_documents_name() -> anyhow::Result<()> {
    let world = noon().await?;
    let mut replies = Replies::default();
    goods(&world, &mut replies).await?;
    carts(&world, &mut replies).await?;
    addresses(&world, &mut replies).await?;
    coupons(&world, &mut replies).await?;
    stock(&world, &mut replies).await?;
    orders(&world, &mut replies).await?;
    refunds(&world, &mut replies).await?;
    parcels(&world, &mut replies).await?;
    reviews(&world, &mut replies).await?;
    exceptions(&world, &mut replies).await?;

    let mut wrong = Vec::new();
    for function in FUNCTIONS {
        let (mut called, mut names) = (BTreeSet::new(), BTreeSet::new());
        for ((_, alike), (actions, shape)) in replies.shapes.iter().filter(|((name, _), _)| *name == function) {
            called.extend(actions.clone());
            shape.unseen(&format!("{function} {alike}"), &mut wrong);
            shape.names(&mut names);
        }
        wrong.extend(actions(function).difference(&called).map(|action| format!("{function} {action} is not called")));
        // Only an outage causes it.
        names.insert("retryable".to_owned());
        let unknown = documented(function).difference(&names).cloned().collect::<Vec<_>>();
        wrong.extend(unknown.iter().map(|name| format!("API.md: {function} answers no {name}")));
    }
    let text = replies.text();
    if asked("JINLU_WRITE").is_some() {
        std::fs::write(docs("REPLIES.md"), &text)?;
    } else if std::fs::read_to_string(docs("REPLIES.md")).unwrap_or_default() != text {
        wrong.push(format!("docs/REPLIES.md is not what the functions answer:\n{text}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.finish().await
}

async fn goods(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let images = doc! { "$set": { "images": ["https://img.example/apple.png"] } };
    database(world).await?.collection::<Document>("shopProducts").update_one(doc! { "_id": "p-apple" }, images).await?;
    for event in [json!({ "action": "list", "limit": 100 }), json!({ "action": "search", "query": "苹果" })] {
        r.call(world, Some(""), "products", "a list", event).await?;
    }
    r.call(world, Some(""), "products", "categories", json!({ "action": "categories" })).await?;
    for id in ["p-apple", "p-tea", "p-mug"] {
        r.call(world, Some(""), "products", "one", json!({ "action": "get", "productId": id })).await?;
    }
    Ok(())
}

async fn carts(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let alice = world.client.login("alice").await?;
    let items = json!([
        { "productId": "p-apple", "quantity": 1 }, { "productId": "p-tea", "skuId": "s-grade1", "quantity": 2 },
        { "productId": "p-last", "quantity": 1 },
    ]);
    let merged = json!([{ "productId": "p-nowhere", "quantity": 1 }, { "productId": "p-apple", "quantity": 2 }]);
    let add = json!({ "action": "add", "items": items });
    let cart = r.call(world, Some(&alice), "cart", "the cart", add).await?;
    let line = |id: &str| {
        let mut lines = cart["data"].as_array().unwrap().iter();
        lines.find(|line| line["productId"] == id).unwrap()["lineId"].clone()
    };
    let apple = doc! { "$set": { "price": 4500i64 } };
    database(world).await?.collection::<Document>("shopProducts").update_one(doc! { "_id": "p-apple" }, apple).await?;
    for event in [
        json!({ "action": "list" }),
        json!({ "action": "update", "lineId": line("p-last"), "quantity": 2 }),
        json!({ "action": "select", "selected": true }),
        json!({ "action": "merge", "items": merged }),
        json!({ "action": "remove", "lineIds": [line("p-tea")] }),
        json!({ "action": "clear" }),
    ] {
        r.call(world, Some(&alice), "cart", "the cart", event).await?;
    }
    Ok(())
}

async fn addresses(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let alice = world.client.login("alice").await?;
    let place = json!({ "name": "张三", "phone": "13800138000", "detail": "文三路 1 号" });
    let create = json!({ "action": "create", "address": place });
    let id = r.call(world, Some(&alice), "addresses", "one", create).await?["_id"].clone();
    for event in [
        json!({ "action": "get", "addressId": id }),
        json!({ "action": "update", "addressId": id, "address": place }),
        json!({ "action": "setDefault", "addressId": id }),
    ] {
        r.call(world, Some(&alice), "addresses", "one", event).await?;
    }
    r.call(world, Some(&alice), "addresses", "a list", json!({ "action": "list" })).await?;
    // The next one takes its place, the last one leaves none.
    let second = json!({ "action": "create", "address": place });
    let second = r.call(world, Some(&alice), "addresses", "one", second).await?["_id"].clone();
    for id in [id, second] {
        let delete = json!({ "action": "delete", "addressId": id });
        r.call(world, Some(&alice), "addresses", "what was deleted", delete).await?;
    }
    Ok(())
}

async fn coupons(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let c = &world.client;
    let alice = c.login("alice").await?;
    c.login("bob").await?;
    let time = |hours: i64| {
        let at = world.app.clock.now() + TimeDelta::hours(hours);
        at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    issue(world, "rp-off", json!({ "threshold": 20, "total": 9, "perUser": 2, "productIds": ["p-apple"] })).await?;
    issue(world, "rp-high", json!({ "threshold": 900 })).await?;
    let rate = json!({
        "name": "折扣券", "type": "rate", "rateBp": 9000, "cap": 20, "threshold": 1, "categories": ["水果"],
        "validFrom": time(-1), "validUntil": time(24), "claimFrom": time(-1), "claimUntil": time(24),
    });
    let one = |event: Value| ("the definition", event);
    for (alike, event) in [
        one(json!({ "action": "create", "couponId": "rp-rate", "coupon": rate })),
        one(json!({ "action": "update", "couponId": "rp-rate", "version": 1, "coupon": rate })),
        one(json!({ "action": "pause", "couponId": "rp-high" })),
        one(json!({ "action": "pause", "couponId": "rp-high", "paused": false })),
    ] {
        r.call(world, None, "couponAdmin", alike, event).await?;
    }
    for id in ["rp-off", "rp-rate", "rp-high"] {
        let event = json!({ "action": "claim", "couponId": id });
        r.call(world, Some(&alice), "coupons", "what was claimed", event).await?;
    }
    let grant =
        json!({ "action": "grant", "couponId": "rp-off", "openIds": ["o-bob", "o-nobody"], "requestId": "grant-0001" });
    r.call(world, None, "couponAdmin", "what was granted", grant).await?;
    r.call(world, None, "couponAdmin", "a list", json!({ "action": "list" })).await?;
    for id in ["rp-off", "rp-high"] {
        r.call(world, None, "couponAdmin", "the states", json!({ "action": "stats", "couponId": id })).await?;
    }

    let list = json!({ "action": "list" });
    r.call(world, Some(&alice), "coupons", "what can be claimed", list).await?;
    let items = json!([{ "productId": "p-apple", "quantity": 2 }]);
    let preview = json!({ "action": "preview", "items": items });
    let shown = r.call(world, Some(&alice), "coupons", "a preview", preview).await?;
    r.call(world, Some(&alice), "coupons", "the best", json!({ "action": "best", "items": items })).await?;
    let mut none = json!([{ "productId": "p-sticker", "quantity": 1 }]);
    for (action, alike) in [("preview", "a preview"), ("best", "the best")] {
        let event = json!({ "action": action, "items": none.take() });
        none = event["items"].clone();
        r.call(world, Some(&alice), "coupons", alike, event).await?;
    }
    let mut order = order_of("p-apple", 2);
    order["userCouponId"] = shown["bestUserCouponId"].clone();
    paid(world, &alice, order).await?;
    r.call(world, Some(&alice), "coupons", "what they hold", json!({ "action": "mine" })).await?;
    Ok(())
}

async fn stock(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let items = json!([
        { "productId": "p-eggs", "quantity": 3 }, { "productId": "p-tea", "skuId": "s-grade1", "quantity": 2 },
    ]);
    let count = |counted: i64| json!([{ "productId": "p-last", "expected": 1, "counted": counted }]);
    for event in [
        json!({ "action": "in", "items": items, "reason": "到货" }),
        json!({ "action": "out", "items": items, "reason": "报损" }),
        json!({ "action": "count", "items": count(2), "reason": "盘点" }),
        json!({ "action": "count", "items": count(1), "reason": "盘点无误" }),
    ] {
        r.call(world, None, "stock", "what moved", event).await?;
    }
    // Orders that were closed left rows, too.
    let alice = world.client.login("alice").await?;
    let order = world.client.call("submitOrder", &alice, order_of("p-eggs", 1)).await?.text("orderId");
    world.client.call("orders", &alice, json!({ "action": "cancel", "orderId": order })).await?.ok();
    paid(world, &alice, order_of("p-eggs", 1)).await?;
    r.call(world, None, "stock", "records", json!({ "action": "records", "limit": 100 })).await?;
    r.call(world, None, "stock", "what runs low", json!({ "action": "low" })).await?;
    Ok(())
}

/// An order of boxes of apples that is paid.
async fn apples(world: &World, token: &str, quantity: i64) -> anyhow::Result<String> {
    paid(world, token, order_of("p-apple", quantity)).await
}

async fn orders(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let c = &world.client;
    // Demo has points and a balance.
    let demo = c.login("demo").await?;
    let staff = world.staff("orders")?;
    issue(world, "rp-demo", json!({})).await?;
    let coupon = claim(world, &demo, "rp-demo").await?.text("userCouponId");
    let mut open = order_of("p-tea", 1);
    open["items"][0]["skuId"] = json!("s-grade1");
    open["pointsUsed"] = json!(5);
    open["userCouponId"] = json!(coupon);
    open["remark"] = json!("轻放");
    let open = c.call("submitOrder", &demo, open).await?.text("orderId");
    let moved_to = json!({ "name": "李四", "phone": "13800138001", "province": "江苏省", "city": "南京市", "district": "玄武区", "detail": "中山路 1 号" });
    let change = json!({ "action": "changeAddress", "orderId": open, "address": moved_to });
    r.call(world, Some(&demo), "orders", "what it costs", change).await?;
    let price = json!({ "action": "changePrice", "orderId": open, "amount": 100, "reason": "老客户" });
    r.call(world, Some(&staff), "orders", "what it costs", price).await?;
    for text in ["先打电话", "已经打过"] {
        let note = json!({ "action": "note", "orderId": open, "text": text });
        r.call(world, Some(&staff), "orders", "notes", note).await?;
    }
    c.call("wxPay", &demo, json!({ "orderId": open })).await?.ok();
    c.pay(&open, "once").await?;

    // With a right from a draw.
    let right = win(c, &demo, 1, world.app.clock.now()).await?;
    let mut wine = order_of("p-lottery", 1);
    wine["qualificationId"] = json!(right);
    let wine = c.call("submitOrder", &demo, wine).await?.text("orderId");

    let others = [apples(world, &demo, 1).await?, apples(world, &demo, 1).await?];
    let ship = json!({ "action": "ship", "orderId": open, "logistics": "express", "expressCompany": "YTO", "trackingNo": "YT0000000901" });
    r.call(world, None, "orders", "what was shipped", ship).await?;
    let pickup = json!({ "action": "ship", "orderId": others[0], "logistics": "pickup" });
    r.call(world, None, "orders", "what was shipped", pickup).await?;
    let unknown = "20260101000000000AAAAAAAA";
    let one = |id: &str| json!({ "orderId": id, "logistics": "express", "expressCompany": "YTO", "trackingNo": "YT0000000902" });
    let undecided = apples(world, &demo, 1).await?;
    applied(world, &demo, &undecided, json!({})).await?;
    let shipments = json!([one(&others[1]), one(unknown), one(&undecided)]);
    let batch = json!({ "action": "shipBatch", "shipments": shipments });
    r.call(world, None, "orders", "how each fared", batch).await?;
    let confirm = json!({ "action": "confirmReceipt", "orderId": others[0] });
    r.call(world, Some(&demo), "orders", "what was received", confirm).await?;
    let cancelled = c.call("submitOrder", &demo, order_of("p-rice", 1)).await?.text("orderId");
    let cancel = json!({ "action": "cancel", "orderId": cancelled, "reason": "不要了" });
    r.call(world, Some(&demo), "orders", "what was cancelled", cancel).await?;
    let refund = applied(world, &demo, &open, json!({})).await?;
    c.call("refunds", &demo, json!({ "action": "withdraw", "refundId": refund })).await?.ok();
    let seen = json!({ "type": "returnGoods", "images": ["https://img.example/1.png"] });
    applied(world, &demo, &others[1], seen).await?;
    // Paid twice over: what was too much goes back.
    let wrong = c.call("submitOrder", &demo, order_of("p-rice", 1)).await?.text("orderId");
    c.call("wxPay", &demo, json!({ "orderId": wrong })).await?.ok();
    c.pay(&wrong, "wrongAmount").await?;
    world.client.timer("deliverOutbox").await?;
    moved(world, "YT0000000901", json!({ "state": "301" })).await?;
    moved(world, "YT0000000902", json!({ "state": "2", "context": "地址不详" })).await?;
    for token in [&demo, &staff] {
        r.call(world, Some(token), "orders", "a list", json!({ "action": "list" })).await?;
        for id in [&open, &wine, &others[0], &others[1], &cancelled, &wrong] {
            r.call(world, Some(token), "orders", "one", json!({ "action": "get", "orderId": id })).await?;
        }
    }
    for id in [&open, &cancelled] {
        r.call(world, Some(&staff), "orders", "its book", json!({ "action": "book", "orderId": id })).await?;
    }
    Ok(())
}

async fn refunds(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let c = &world.client;
    let alice = c.login("alice").await?;
    let apply = |order: &str, more: Value| {
        let mut event = json!({ "action": "apply", "orderId": order, "reason": "不想要了", "description": "拍错了",
            "images": ["https://img.example/1.png"] });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let about = |action: &str, refund: &Value| json!({ "action": action, "refundId": refund });
    let mut tea = order_of("p-tea", 1);
    tea["items"][0]["skuId"] = json!("s-grade2");
    let tea = paid(world, &alice, tea).await?;
    let asked =
        r.call(world, Some(&alice), "refunds", "the refund", apply(&tea, json!({}))).await?["refund"]["refundId"]
            .clone();
    r.call(world, Some(&alice), "refunds", "the refund", about("withdraw", &asked)).await?;
    let asked =
        r.call(world, Some(&alice), "refunds", "the refund", apply(&tea, json!({}))).await?["refund"]["refundId"]
            .clone();
    let mut reject = about("reject", &asked);
    reject["reason"] = json!("已经包好");
    r.call(world, None, "refunds", "the refund", reject).await?;

    // WeChat cannot give it back, and staff do.
    let order = apples(world, &alice, 1).await?;
    let failed =
        r.call(world, Some(&alice), "refunds", "the refund", apply(&order, json!({}))).await?["refund"]["refundId"]
            .clone();
    r.call(world, None, "refunds", "the refund", about("approve", &failed)).await?;
    c.timer("deliverOutbox").await?;
    c.control("refund", json!({ "outRefundNo": failed, "status": "ABNORMAL", "notify": "once" })).await?.ok();
    r.call(world, None, "refunds", "the refund", about("get", &failed)).await?;
    r.call(world, None, "refunds", "the refund", about("retry", &failed)).await?;
    deliver(world).await?;
    let mut settle = about("settle", &failed);
    settle["remark"] = json!("转账 45 元");
    r.call(world, None, "refunds", "the refund", settle).await?;

    // Goods that come back.
    let order = apples(world, &alice, 1).await?;
    c.call_service("orders", json!({ "action": "ship", "orderId": order, "logistics": "pickup" })).await?.ok();
    let goods = apply(&order, json!({ "type": "returnGoods" }));
    let back = r.call(world, Some(&alice), "refunds", "the refund", goods).await?["refund"]["refundId"].clone();
    r.call(world, None, "refunds", "the refund", about("approve", &back)).await?;
    let mut sent = about("shipBack", &back);
    sent["expressCompany"] = json!("SF");
    sent["trackingNo"] = json!("SF0000000001");
    r.call(world, Some(&alice), "refunds", "the refund", sent).await?;
    r.call(world, None, "refunds", "the refund", about("receive", &back)).await?;
    deliver(world).await?;
    r.call(world, Some(&alice), "refunds", "the refund", about("get", &back)).await?;
    r.call(world, Some(&alice), "refunds", "a list", json!({ "action": "list" })).await?;
    r.call(world, None, "refunds", "a list", json!({ "action": "list" })).await?;
    Ok(())
}

async fn parcels(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let c = &world.client;
    let alice = c.login("alice").await?;
    let (order, number) = (apples(world, &alice, 1).await?, "YT0000000911");
    c.call_service("orders", crate::shipping::parcel(&order, number)).await?.ok();
    let subscribe = json!({ "action": "subscribe", "orderId": order });
    r.call(world, None, "logistics", "what is subscribed to", subscribe.clone()).await?;
    c.timer("deliverOutbox").await?;
    moved(world, number, json!({ "state": "1002", "context": "已揽件", "location": "杭州" })).await?;
    moved(world, number, json!({ "state": "2", "context": "地址不详" })).await?;
    let waybill = json!({ "action": "query", "expressCompany": "YTO", "trackingNo": "YT0000000912" });
    let query = json!({ "action": "query", "orderId": order });
    let mine = json!({ "action": "mine" });
    r.call(world, Some(&alice), "logistics", "what is known of it", query.clone()).await?;
    r.call(world, None, "logistics", "what is known of it", waybill).await?;
    r.call(world, Some(&alice), "logistics", "a list", mine).await?;
    r.call(world, None, "logistics", "a list", json!({ "action": "marked" })).await?;
    moved(world, number, json!({ "state": "301" })).await?;
    r.call(world, Some(&alice), "logistics", "what is known of it", query).await?;
    r.call(world, None, "logistics", "what is subscribed to", subscribe).await?;
    // Carried by nobody who could tell.
    let order = apples(world, &alice, 1).await?;
    c.call_service("orders", json!({ "action": "ship", "orderId": order, "logistics": "pickup" })).await?.ok();
    let query = json!({ "action": "query", "orderId": order });
    r.call(world, Some(&alice), "logistics", "what is known of it", query).await?;
    c.timer("deliverOutbox").await?;
    Ok(())
}

async fn reviews(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let c = &world.client;
    let alice = c.login("alice").await?;
    let mut ids = Vec::new();
    for pictured in [true, false] {
        let mut order = order_of("p-tea", 1);
        order["items"][0]["skuId"] = json!("s-grade1");
        let (product, order) = if pictured {
            ("p-tea", paid(world, &alice, order).await?)
        } else {
            ("p-apple", apples(world, &alice, 1).await?)
        };
        c.call_service("orders", json!({ "action": "ship", "orderId": order, "logistics": "pickup" })).await?.ok();
        c.call("orders", &alice, json!({ "action": "confirmReceipt", "orderId": order })).await?.ok();
        let mut add = json!({ "action": "add", "orderId": order, "lineId": "1", "rating": 5, "text": "很好" });
        if pictured {
            add["images"] = json!(["https://img.example/2.png"]);
            add["nickname"] = json!("小明");
            add["avatar"] = json!("https://thirdwx.qlogo.cn/a.png");
        }
        let review = r.call(world, Some(&alice), "reviews", "the review", add).await?;
        ids.push((product, review["review"]["reviewId"].clone()));
    }
    c.timer("deliverOutbox").await?;
    for (_, id) in &ids {
        let hide = json!({ "action": "moderate", "reviewId": id, "decision": "hide", "reason": "与商品无关" });
        r.call(world, None, "reviews", "the review", hide).await?;
    }
    let hidden = json!({ "action": "list", "status": "hidden" });
    r.call(world, None, "reviews", "what staff see", hidden).await?;
    r.call(world, Some(&alice), "reviews", "their own", json!({ "action": "mine" })).await?;
    for (_, id) in &ids {
        let publish = json!({ "action": "moderate", "reviewId": id, "decision": "publish" });
        r.call(world, None, "reviews", "the review", publish).await?;
    }
    let reply = json!({ "action": "reply", "reviewId": ids[0].1, "text": "谢谢" });
    r.call(world, None, "reviews", "the review", reply).await?;
    for product in ["p-tea", "p-apple", "p-oil"] {
        let list = json!({ "action": "list", "productId": product });
        r.call(world, Some(""), "reviews", "what everybody sees", list).await?;
    }
    r.call(world, Some(&alice), "reviews", "their own", json!({ "action": "mine" })).await?;
    let published = json!({ "action": "list", "status": "published" });
    r.call(world, None, "reviews", "what staff see", published).await?;
    let remove = json!({ "action": "remove", "reviewId": ids[1].1 });
    r.call(world, Some(&alice), "reviews", "the review", remove).await?;
    Ok(())
}

async fn exceptions(world: &World, r: &mut Replies) -> anyhow::Result<()> {
    let refunded =
        world.sim.orders("").into_iter().flat_map(|order| order.refunds).find(|one| one.success_at.is_some());
    let refunded = refunded.map(|refund| refund.out_refund_no).unwrap();
    for (number, mode, fen) in [("somebody-else-1", BillMode::Extra, 7_700), (refunded.as_str(), BillMode::Amount, 1)] {
        world.sim.change_bill(ChangeBill { number: number.to_owned(), mode, fen });
    }
    let date = BusinessDay::of(world.app.clock.now()).to_string();
    morning(world).await?;
    world.client.call_service("reconcileBill", json!({ "date": date })).await?.ok();
    let manual = json!({ "action": "list", "status": "manual" });
    let listed = r.call(world, None, "exceptions", "a list", manual).await?;
    for row in listed["data"].as_array().unwrap() {
        let resolve = json!({ "action": "resolve", "exceptionId": row["exceptionId"], "remark": "门店收银台的付款" });
        r.call(world, None, "exceptions", "the exception", resolve).await?;
    }
    // Two that WeChat would not give back: one is tried again, the other given another way.
    let token = world.client.login("alice").await?;
    let refused = json!({
        "target": "wxpay", "path": "/v3/refund/domestic/refunds", "mode": "errcode", "errcode": "USER_ACCOUNT_ABNORMAL",
        "count": 1,
    });
    for mut event in [json!({ "action": "retry" }), json!({ "action": "settle", "remark": "转账" })] {
        world.client.control("faults", refused.clone()).await?.ok();
        event["exceptionId"] = misfit(world, &token).await?.1["exceptionId"].clone();
        r.call(world, None, "exceptions", "the exception", event).await?;
    }
    r.call(world, None, "exceptions", "a list", json!({ "action": "list", "limit": 100 })).await?;
    Ok(())
}
