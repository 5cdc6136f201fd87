//! The audit must *see*: each kind of damage, done behind the back of `store`, is named by its invariant – and nothing else is.

// The one place outside of `store` that names the driver: no function of ours can write what must never be written.
use bson::{Bson, Document, doc};
use it::{World, mongod_uri, order_of};
use mongodb::Client;
pub(crate) use mongodb::Database;
use mongodb::options::Hint;
use serde_json::{Value, json};

/// One change of one document.
pub(crate) enum Edit {
    /// An update with operators.
    Update(&'static str, String, Document),
    Delete(&'static str, String),
    Insert(&'static str, Document),
    /// A copy of a document under another `_id`, with other fields changed or, where `Null`, removed.
    Copy(&'static str, String, Document),
}

/// Damage, and the invariants of which at least one must be reported.
struct Damage {
    name: &'static str,
    invariants: &'static [&'static str],
    edits: Vec<Edit>,
}

/// What was there before an edit: `None` where nothing was.
pub(crate) struct Undo(&'static str, String, Option<Document>);

pub(crate) async fn apply(db: &Database, edit: &Edit) -> anyhow::Result<Undo> {
    let (collection, id) = match edit {
        Edit::Update(collection, id, _) | Edit::Delete(collection, id) => (*collection, id.clone()),
        Edit::Insert(collection, document) => (*collection, document.get_str("_id")?.to_owned()),
        Edit::Copy(collection, _, changes) => (*collection, changes.get_str("_id")?.to_owned()),
    };
    let documents = db.collection::<Document>(collection);
    let before = documents.find_one(doc! { "_id": &id }).await?;
    match edit {
        Edit::Update(_, _, change) => {
            let done = documents
                .update_one(doc! { "_id": &id }, change.clone())
                // The validators would refuse some of this; a restore or an operator's shell does not ask them.
                .bypass_document_validation(true)
                .await?;
            anyhow::ensure!(done.modified_count == 1, "{collection}/{id} was not changed by {change}");
        }
        Edit::Delete(..) => {
            anyhow::ensure!(documents.delete_one(doc! { "_id": &id }).await?.deleted_count == 1, "{collection}/{id}");
        }
        Edit::Insert(_, document) => {
            documents.insert_one(document).bypass_document_validation(true).await?;
        }
        Edit::Copy(_, source, changes) => {
            let found = documents.find_one(doc! { "_id": source }).await?;
            let mut copy = found.ok_or_else(|| anyhow::anyhow!("no {collection}/{source}"))?;
            for (name, value) in changes {
                match value {
                    Bson::Null => {
                        copy.remove(name);
                    }
                    value => {
                        copy.insert(name, value);
                    }
                }
            }
            documents.insert_one(copy).bypass_document_validation(true).await?;
        }
    }
    Ok(Undo(collection, id, before))
}

pub(crate) async fn undo(db: &Database, Undo(collection, id, before): Undo) -> anyhow::Result<()> {
    let documents = db.collection::<Document>(collection);
    documents.delete_one(doc! { "_id": id }).await?;
    if let Some(before) = before {
        documents.insert_one(before).bypass_document_validation(true).await?;
    }
    Ok(())
}

/// A shop in which something of everything has happened.
struct Shop {
    world: World,
    db: Database,
    /// Paid by WeChat and points: 3 × `p-apple`.
    paid: String,
    /// Paid by balance alone: 1 × `p-rice`.
    balance: String,
    /// Waits for payment, with points, balance untouched, no attempt begun: 1 × `p-tea` and 2 × `p-eggs`.
    pending: String,
    /// Waits for payment with an open attempt.
    begun: String,
    /// Cancelled: points came back.
    closed: String,
    /// Waits for payment; what was paid was the wrong amount and went back.
    wrong: String,
    /// The same, and the refund is still under way.
    refunding: String,
    /// The entry of points that the CRM gave.
    granted: String,
    /// Paid by prepaid goods and money.
    prepaid: String,
    /// Closed; its prepaid money went back.
    restored: String,
}

/// The world's database, past the store.
pub(crate) async fn database(world: &World) -> anyhow::Result<Database> {
    let name = world.app.config.store.as_ref().map(|s| s.database.clone()).unwrap_or_default();
    Ok(Client::with_uri_str(mongod_uri().await?).await?.database(&name))
}

async fn shop() -> anyhow::Result<Shop> {
    let world = World::start().await?;
    let db = database(&world).await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    c.login("alice").await?;
    let submit = async |event: Value| {
        let made = c.call("submitOrder", &token, event).await?;
        made.ok();
        anyhow::Ok(made.text("orderId"))
    };

    let mut event = order_of("p-apple", 3);
    event["pointsUsed"] = json!(20);
    let paid = submit(event).await?;
    c.call("wxPay", &token, json!({ "orderId": paid })).await?.ok();
    assert_eq!(c.pay(&paid, "once").await?.body["noticeStatus"], 204);

    let mut event = order_of("p-rice", 1);
    event["paymentMethod"] = json!("balance");
    let balance = submit(event).await?;

    let mut event = order_of("p-tea", 1);
    event["items"][0]["skuId"] = json!("s-grade1");
    event["items"].as_array_mut().unwrap().push(json!({ "productId": "p-eggs", "quantity": 2 }));
    event["pointsUsed"] = json!(10);
    let pending = submit(event).await?;

    let begun = submit(order_of("p-honey", 1)).await?;
    c.call("wxPay", &token, json!({ "orderId": begun })).await?.ok();

    let mut event = order_of("p-apple", 2);
    event["pointsUsed"] = json!(5);
    let closed = submit(event).await?;
    c.call("wxPay", &token, json!({ "orderId": closed })).await?.ok();
    c.call("orders", &token, json!({ "action": "cancel", "orderId": closed })).await?.ok();

    let granted = json!({ "openId": "o-demo", "points": 7, "type": "earn", "reason": "活动奖励" });
    let granted = c.call_service("addPoints", granted).await?.text("logId");

    let wrong = submit(order_of("p-sticker", 4)).await?;
    c.call("wxPay", &token, json!({ "orderId": wrong })).await?.ok();
    assert_eq!(c.pay(&wrong, "wrongAmount").await?.body["noticeStatus"], 204);
    c.advance(120).await?;
    c.timer("deliverOutbox").await?;
    c.advance(600).await?;
    c.timer("deliverOutbox").await?;
    let refunding = submit(order_of("p-sticker", 2)).await?;
    c.call("wxPay", &token, json!({ "orderId": refunding })).await?.ok();
    assert_eq!(c.pay(&refunding, "wrongAmount").await?.body["noticeStatus"], 204);

    // A linked member pays with prepaid goods and money, and cancels another such order.
    let lin = world.linked_member().await?;
    let mut event = order_of("p-apple", 2);
    event["paymentMethod"] = json!("prepaid");
    event["items"].as_array_mut().unwrap().push(json!({ "productId": "p-eggs", "quantity": 1 }));
    event["prepaidAmount"] = json!(45.5);
    let prepaid = c.call("submitOrder", &lin, event).await?;
    assert_eq!(prepaid.ok()["status"], "paid");
    let prepaid = prepaid.text("orderId");
    let mut event = order_of("p-rice", 1);
    event["paymentMethod"] = json!("prestore");
    event["prepaidAmount"] = json!(50);
    let restored = c.call("submitOrder", &lin, event).await?.text("orderId");
    c.call("orders", &lin, json!({ "action": "cancel", "orderId": restored })).await?.ok();

    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");
    Ok(Shop { world, db, paid, balance, pending, begun, closed, wrong, refunding, granted, prepaid, restored })
}

impl Shop {
    async fn one(&self, collection: &str, field: &str, value: &str) -> anyhow::Result<Document> {
        // Without an index on every field; the server here refuses to scan unless told by which index.
        let documents = self.db.collection::<Document>(collection);
        let found = documents.find_one(doc! { field: value }).hint(Hint::Keys(doc! { "_id": 1 })).await?;
        found.ok_or_else(|| anyhow::anyhow!("no {collection} with {field} = {value}"))
    }

    async fn damages(&self) -> anyhow::Result<Vec<Damage>> {
        let entry = |order: &str, reason: &str| format!("order:{order}:{reason}");
        let settle = entry(&self.paid, "settle");
        let exception = self.one("paymentExceptions", "orderId", &self.wrong).await?;
        assert_eq!(exception.get_str("status")?, "refunded");
        let transaction = exception.get_str("transactionId")?.to_owned();
        let booked = format!("payment:{transaction}:exception");
        let returned = format!("refund:{}:success", exception.get_str("outRefundNo")?);
        let under_way = self.one("paymentExceptions", "orderId", &self.refunding).await?;
        assert_eq!(under_way.get_str("status")?, "refunding");
        let refund = format!("refund:{}", under_way.get_str("outRefundNo")?);
        let under_way = under_way.get_str("_id")?.to_owned();
        let alice = self.one("member_user", "openId", "o-alice").await?.get_str("_id")?.to_owned();
        let long_ago = bson::DateTime::from_chrono(self.world.app.clock.now() - chrono::TimeDelta::days(15));
        let now = bson::DateTime::from_chrono(self.world.app.clock.now());
        let leg =
            |account: &str, asset: &str, amount: i64| doc! { "account": account, "asset": asset, "amount": amount };
        // Where the leg of an asset stands in an entry, so that it can be edited in place.
        let at = async |id: &str, account: &str, asset: &str| {
            let found = self.one("ledger", "_id", id).await?;
            let legs = found.get_array("postings")?.iter().filter_map(Bson::as_document);
            let at = legs.map(|l| (l.get_str("account").unwrap_or(""), l.get_str("asset").unwrap_or("")));
            let at = at.collect::<Vec<_>>().iter().position(|l| *l == (account, asset));
            at.map(|at| format!("postings.{at}.amount")).ok_or_else(|| anyhow::anyhow!("{id} has no {account} {asset}"))
        };
        let demo_points = "member_user/u-demo#points";

        let damage = |name, invariants, edits| Damage { name, invariants, edits };
        let set = |collection, id: &str, fields: Document| {
            vec![Edit::Update(collection, id.to_owned(), doc! { "$set": fields })]
        };
        let inc = |collection, id: &str, fields: Document| {
            vec![Edit::Update(collection, id.to_owned(), doc! { "$inc": fields })]
        };
        let unset = |collection, id: &str, field: &str| {
            vec![Edit::Update(collection, id.to_owned(), doc! { "$unset": { field: "" } })]
        };
        let delete = |collection, id: &str| vec![Edit::Delete(collection, id.to_owned())];

        let goods = format!("{}|product|p-apple", self.prepaid);
        let money = format!("{}|amount", self.prepaid);
        let back = format!("{}|amount", self.restored);
        Ok(vec![
            // Prepaid and links.
            damage("prepaid money grows", &["account-value"], inc("prepaidRecords", "pr-0", doc! { "balance": 1i64 })),
            damage(
                "prepaid goods shrink",
                &["account-value"],
                inc("prepaidRecords", "pr-3", doc! { "balance": -1i64 }),
            ),
            damage("a prepaid record vanishes", &["account-value"], delete("prepaidRecords", "pr-1")),
            damage(
                "prepaid goods become money",
                &["account-value"],
                set("prepaidRecords", "pr-3", doc! { "asset": "fen" }),
            ),
            damage("a deduction vanishes", &["order-effects"], delete("prepaidDeductions", &money)),
            damage(
                "a deduction takes more than its details",
                &["prepaid"],
                inc("prepaidDeductions", &money, doc! { "deductedAmount": 1i64 }),
            ),
            damage(
                "a detail took less",
                &["prepaid"],
                inc("prepaidDeductions", &goods, doc! { "details.0.deducted": -1i64 }),
            ),
            damage(
                "a detail stood elsewhere",
                &["prepaid"],
                inc("prepaidDeductions", &goods, doc! { "details.0.before": 1i64 }),
            ),
            damage(
                "a detail is of another record",
                &["prepaid"],
                set("prepaidDeductions", &money, doc! { "details.0.recordId": "pr-1" }),
            ),
            damage(
                "a deduction was given back and says no",
                &["prepaid", "order-effects"],
                set("prepaidDeductions", &back, doc! { "status": "deducted" }),
            ),
            damage(
                "a deduction says given back and was not",
                &["prepaid", "order-effects"],
                set("prepaidDeductions", &money, doc! { "status": "restored" }),
            ),
            damage(
                "a deduction of another customer",
                &["order-effects"],
                set("prepaidDeductions", &money, doc! { "customerId": "c-demo" }),
            ),
            damage(
                "an order used other prepaid money",
                &["order-amounts", "order-effects"],
                inc("orders", &self.prepaid, doc! { "prepaidAmount": 1i64 }),
            ),
            damage(
                "a line used other pieces",
                &["order-effects"],
                inc("orders", &self.prepaid, doc! { "items.0.prepaidQuantity": -1i64 }),
            ),
            damage("a user lost their customer", &["link"], unset("member_user", "u-lin", "customerId")),
            damage("a customer lost their user", &["link"], unset("customers", "c-lin", "linkedUserId")),
            damage("a record does not know the link", &["link"], unset("prepaidRecords", "pr-0", "linkedUserId")),
            damage(
                "a customer of nobody's choosing",
                &["link"],
                set("customers", "c-demo", doc! { "linkedUserId": "u-demo" }),
            ),
            // Field accounts.
            damage("a member's points grow", &["account-value"], inc("member_user", "u-demo", doc! { "points": 1i64 })),
            damage(
                "a member's balance shrinks",
                &["account-value"],
                inc("member_user", "u-demo", doc! { "balance": -1i64 }),
            ),
            damage(
                "a member's carried spend grows",
                &["account-value"],
                inc("member_user", "u-demo", doc! { "carryFen": 1i64 }),
            ),
            damage("points become text", &["account-value"], set("member_user", "u-demo", doc! { "points": "82" })),
            damage("points become a double", &["account-value"], set("member_user", "u-demo", doc! { "points": 81.5 })),
            damage(
                "a balance is negative",
                &["account-negative"],
                set("member_user", "u-demo", doc! { "balance": -1i64 }),
            ),
            damage("a balance field vanishes", &["account-value"], unset("member_user", "u-demo", "balance")),
            damage("a member vanishes", &["account-value"], delete("member_user", "u-demo")),
            damage("stock grows", &["account-value"], inc("shopProducts", "p-apple", doc! { "stock": 1i64 })),
            damage(
                "a SKU's stock shrinks",
                &["account-value"],
                inc("shopProducts", "p-tea", doc! { "skus.0.stock": -1i64 }),
            ),
            damage("stock is negative", &["account-negative"], set("shopProducts", "p-apple", doc! { "stock": -5i64 })),
            damage(
                "a SKU vanishes with its stock",
                &["account-value"],
                vec![Edit::Update(
                    "shopProducts",
                    "p-tea".to_owned(),
                    doc! { "$pull": { "skus": { "skuId": "s-grade3" } } },
                )],
            ),
            damage("a product vanishes", &["account-value"], delete("shopProducts", "p-apple")),
            damage(
                "a marker of no order",
                &["account-value"],
                vec![Edit::Update(
                    "shopProducts",
                    "p-apple".to_owned(),
                    doc! {
                        "$push": { "stockMarkers": { "orderId": "20260101000000000AAAAAAAA", "at": now, "items": [{ "quantity": 1i64 }] } },
                    },
                )],
            ),
            // Entries.
            damage("a grant's entry vanishes", &["account-value"], delete("ledger", &self.granted)),
            damage(
                "an opening entry vanishes",
                &["account-value"],
                delete("ledger", "opening:member_user/u-demo:demo"),
            ),
            damage("a settlement's entry vanishes", &["order-effects"], delete("ledger", &settle)),
            damage(
                "a reservation's entry vanishes",
                &["order-effects"],
                delete("ledger", &entry(&self.pending, "reserve")),
            ),
            damage("a tender's entry vanishes", &["order-effects"], delete("ledger", &entry(&self.pending, "tender"))),
            damage(
                "a reversal vanishes",
                &["order-effects"],
                delete("ledger", &entry(&self.closed, "reserve-reversal")),
            ),
            damage(
                "what a reversal reverses vanishes",
                &["entry-balance"],
                delete("ledger", &entry(&self.closed, "tender")),
            ),
            damage(
                "one leg is edited",
                &["entry-balance"],
                inc("ledger", &self.granted, doc! { "postings.0.amount": 1i64 }),
            ),
            damage(
                "both legs are edited",
                &["account-value"],
                inc(
                    "ledger",
                    &self.granted,
                    doc! {
                        at(&self.granted, demo_points, "points").await?: 1i64, at(&self.granted, "@issued", "points").await?: -1i64,
                    },
                ),
            ),
            damage(
                "an entry that does not balance",
                &["entry-balance"],
                vec![Edit::Insert(
                    "ledger",
                    doc! {
                        "_id": "manual:1:oops", "at": now, "postings": [leg("@issued", "points", -5), leg("@redeemed", "points", 4)],
                    },
                )],
            ),
            damage(
                "an entry that balances across assets only",
                &["entry-balance"],
                vec![Edit::Insert(
                    "ledger",
                    doc! {
                        "_id": "manual:2:oops", "at": now, "postings": [leg("@issued", "points", -5), leg("@redeemed", "fen", 5)],
                    },
                )],
            ),
            damage(
                "an entry on points without its statement",
                &["statement"],
                vec![
                    Edit::Insert(
                        "ledger",
                        doc! { "_id": "points:manual:earn", "at": now, "userId": "u-demo",
                        "postings": [leg("@issued", "points", -5), leg(demo_points, "points", 5)] },
                    ),
                    Edit::Update("member_user", "u-demo".to_owned(), doc! { "$inc": { "points": 5i64 } }),
                ],
            ),
            damage(
                "an entry on an account of nobody",
                &["account-value"],
                vec![Edit::Insert(
                    "ledger",
                    doc! {
                        "_id": "opening:manual:1", "at": now,
                        "postings": [leg("@opening", "fen", -5), leg("member_user/u-nobody#balance", "fen", 5)],
                    },
                )],
            ),
            damage(
                "an entry on a field that is no account",
                &["account-value"],
                vec![Edit::Insert(
                    "ledger",
                    doc! {
                        "_id": "opening:manual:2", "at": now,
                        "postings": [leg("@opening", "points", -5), leg("member_user/u-demo#level", "points", 5)],
                    },
                )],
            ),
            damage(
                "points are posted as fen",
                &["account-value", "entry-balance"],
                vec![Edit::Update(
                    "ledger",
                    self.granted.clone(),
                    doc! {
                        "$set": { "postings.0.asset": "fen", "postings.1.asset": "fen" },
                    },
                )],
            ),
            damage("a settlement is void", &["order-effects"], set("ledger", &settle, doc! { "void": true })),
            damage(
                "a settlement books other money",
                &["order-effects"],
                inc(
                    "ledger",
                    &settle,
                    doc! {
                        at(&settle, "@wechat", "fen").await?: -100i64, at(&settle, "@sales", "fen").await?: 100i64,
                    },
                ),
            ),
            damage(
                "a settlement sells fewer pieces",
                &["order-effects"],
                inc(
                    "ledger",
                    &settle,
                    doc! {
                        at(&settle, "@reserved", "stock:p-apple").await?: 1i64, at(&settle, "@sold", "stock:p-apple").await?: -1i64,
                    },
                ),
            ),
            damage(
                "an entry of no order",
                &["order-effects"],
                vec![Edit::Insert(
                    "ledger",
                    doc! {
                        "_id": "order:20260101000000000AAAAAAAA:reserve", "at": now, "orderId": "20260101000000000AAAAAAAA",
                        "postings": [leg("@sold", "stock:p-apple", -1), leg("@reserved", "stock:p-apple", 1)],
                    },
                )],
            ),
            damage(
                "an entry of an order under a reason of no rule",
                &["order-effects"],
                vec![Edit::Insert(
                    "ledger",
                    doc! {
                        "_id": entry(&self.pending, "gift"), "at": now, "orderId": &self.pending,
                        "postings": [leg("@wechat", "fen", -5), leg("@sales", "fen", 5)],
                    },
                )],
            ),
            // Statements.
            damage("a statement row vanishes", &["statement"], delete("member_points_log", &self.granted)),
            damage(
                "a statement row twice",
                &["statement"],
                vec![Edit::Copy("member_points_log", self.granted.clone(), doc! { "_id": "copy" })],
            ),
            damage(
                "a statement row says more",
                &["statement"],
                inc("member_points_log", &self.granted, doc! { "change": 1i64 }),
            ),
            damage(
                "a statement row of somebody else",
                &["statement"],
                set("member_points_log", &self.granted, doc! { "userId": &alice }),
            ),
            damage(
                "a statement row of no entry",
                &["statement"],
                vec![Edit::Copy(
                    "member_points_log",
                    self.granted.clone(),
                    doc! { "_id": "copy", "entryId": "points:none:earn" },
                )],
            ),
            damage(
                "a statement row with another standing",
                &["statement"],
                inc("member_points_log", &self.granted, doc! { "points": 1i64 }),
            ),
            damage("a stock record vanishes", &["order-effects"], delete("records", &format!("{settle}:1"))),
            damage(
                "a stock record twice",
                &["order-effects"],
                vec![Edit::Copy("records", format!("{settle}:1"), doc! { "_id": "copy" })],
            ),
            damage(
                "a stock record of fewer pieces",
                &["order-effects"],
                inc("records", &format!("{settle}:1"), doc! { "quantity": -1i64 }),
            ),
            damage(
                "a stock record of another product",
                &["order-effects"],
                set("records", &format!("{settle}:1"), doc! { "productId": "p-rice" }),
            ),
            damage(
                "a stock record of no order",
                &["order-effects"],
                vec![Edit::Copy(
                    "records",
                    format!("{settle}:1"),
                    doc! { "_id": "copy", "orderId": "20260101000000000AAAAAAAA" },
                )],
            ),
            // Orders.
            damage(
                "an order costs more",
                &["order-amounts"],
                inc("orders", &self.pending, doc! { "paymentAmount": 1i64 }),
            ),
            damage(
                "an order's total grows",
                &["order-amounts"],
                inc("orders", &self.pending, doc! { "totalAmount": 1i64 }),
            ),
            damage(
                "an order's discount grows for nothing",
                &["order-amounts"],
                inc(
                    "orders",
                    &self.pending,
                    doc! {
                    "discountAmount": 1i64, "paymentAmount": -1i64 },
                ),
            ),
            damage(
                "a line has more pieces",
                &["order-amounts", "order-effects"],
                inc("orders", &self.pending, doc! { "items.0.quantity": 1i64 }),
            ),
            damage(
                "a line costs less",
                &["order-amounts"],
                inc("orders", &self.pending, doc! { "items.0.price": -1i64 }),
            ),
            damage(
                "a line vanishes",
                &["order-amounts"],
                vec![Edit::Update("orders", self.pending.clone(), doc! { "$pop": { "items": 1 } })],
            ),
            damage(
                "a line is of another product",
                &["order-effects"],
                set("orders", &self.pending, doc! { "items.1.productId": "p-apple" }),
            ),
            damage(
                "a line is of another SKU",
                &["order-effects"],
                set("orders", &self.pending, doc! { "items.0.skuId": "s-grade2" }),
            ),
            damage(
                "another price, everything adds up",
                &["order-effects"],
                inc(
                    "orders",
                    &self.paid,
                    doc! {
                        "items.0.price": 100i64, "items.0.amount": 300i64, "items.0.payable": 300i64,
                        "totalAmount": 300i64, "paymentAmount": 300i64,
                    },
                ),
            ),
            damage(
                "a step of the price is another",
                &["order-price"],
                inc("orders", &self.pending, doc! { "priceProof.steps.0.amount": 1i64 }),
            ),
            damage(
                "a price of another input",
                &["order-price"],
                inc("orders", &self.pending, doc! { "priceProof.input.lines.0.price": 1i64 }),
            ),
            damage(
                "a price by rules of another version",
                &["order-price"],
                inc("orders", &self.pending, doc! { "priceProof.versions.0.version": 1i64 }),
            ),
            damage(
                "a share of the price is another",
                &["order-price"],
                inc("orders", &self.prepaid, doc! { "priceProof.quote.lines.0.prepaidAmount": 1i64 }),
            ),
            damage(
                "points move from line to line, everything adds up",
                &["order-price"],
                inc(
                    "orders",
                    &self.pending,
                    doc! {
                        "items.0.pointsDiscount": 1i64, "items.0.payable": -1i64,
                        "items.1.pointsDiscount": -1i64, "items.1.payable": 1i64,
                    },
                ),
            ),
            damage("other points used", &["order-effects"], inc("orders", &self.pending, doc! { "pointsUsed": -1i64 })),
            damage(
                "balance instead of WeChat",
                &["order-effects"],
                inc(
                    "orders",
                    &self.begun,
                    doc! {
                    "balanceAmount": 100i64, "paymentAmount": -100i64 },
                ),
            ),
            damage(
                "part of the balance becomes WeChat's",
                &["order-effects"],
                inc(
                    "orders",
                    &self.balance,
                    doc! {
                    "balanceAmount": -100i64, "paymentAmount": 100i64 },
                ),
            ),
            damage("other points earned", &["order-effects"], inc("orders", &self.paid, doc! { "pointsEarned": 1i64 })),
            damage(
                "an order of somebody else",
                &["order-effects"],
                set("orders", &self.paid, doc! { "userId": &alice }),
            ),
            damage(
                "a negative amount",
                &["order-amounts"],
                inc(
                    "orders",
                    &self.pending,
                    doc! {
                    "paymentAmount": -100_000i64, "balanceAmount": 100_000i64 },
                ),
            ),
            damage(
                "an unknown state",
                &["order-effects", "order-amounts"],
                set("orders", &self.pending, doc! { "status": "lost" }),
            ),
            damage(
                "a paid order is pending",
                &["order-effects"],
                set("orders", &self.paid, doc! { "status": "pendingPayment" }),
            ),
            damage(
                "a pending order is paid",
                &["order-effects"],
                set("orders", &self.pending, doc! { "status": "paid" }),
            ),
            damage(
                "a pending order is shipped",
                &["order-effects"],
                set("orders", &self.begun, doc! { "status": "shipped" }),
            ),
            damage(
                "a pending order is closed",
                &["order-effects"],
                set("orders", &self.pending, doc! { "status": "closed" }),
            ),
            damage(
                "a paid order is closed",
                &["order-effects"],
                set("orders", &self.paid, doc! { "status": "closed" }),
            ),
            damage(
                "a closed order is pending",
                &["order-effects"],
                set("orders", &self.closed, doc! { "status": "pendingPayment" }),
            ),
            damage("a paid order without its time", &["order-effects"], unset("orders", &self.paid, "paidAt")),
            damage(
                "a pending order with another's transaction",
                &["order-effects"],
                set("orders", &self.pending, doc! { "transactionId": &transaction }),
            ),
            damage("an order vanishes", &["order-effects"], delete("orders", &self.pending)),
            damage(
                "stock waits for release on a pending order",
                &["order-effects"],
                set("orders", &self.pending, doc! { "stockRelease": ["p-eggs"] }),
            ),
            damage(
                "stock waits for release again",
                &["account-value"],
                vec![
                    Edit::Update("orders", self.closed.clone(), doc! { "$set": { "stockRelease": ["p-apple"] } }),
                    Edit::Update("shopProducts", "p-apple".to_owned(), doc! { "$set": { "lastReleased": [] } }),
                ],
            ),
            damage(
                "stock waits for release of what was not ordered",
                &["order-effects"],
                set("orders", &self.closed, doc! { "stockRelease": ["p-rice"] }),
            ),
            // Payments.
            damage(
                "a paid attempt is closed",
                &["order-effects"],
                set("payments", &self.paid, doc! { "status": "closed" }),
            ),
            damage(
                "a paid attempt is of another amount",
                &["order-effects"],
                inc("payments", &self.paid, doc! { "amount": 1i64 }),
            ),
            damage(
                "a paid attempt is of another transaction",
                &["order-effects"],
                set("payments", &self.paid, doc! { "transactionId": "4200000000000000000" }),
            ),
            damage("a paid attempt vanishes", &["order-effects"], delete("payments", &self.paid)),
            damage(
                "an order is paid twice",
                &["order-effects"],
                vec![Edit::Copy(
                    "payments",
                    self.paid.clone(),
                    doc! {
                    "_id": format!("{}P2", self.paid), "attempt": 2i64, "transactionId": "4200000000000000001" },
                )],
            ),
            damage(
                "an open attempt is paid",
                &["order-effects"],
                vec![Edit::Update(
                    "payments",
                    self.begun.clone(),
                    doc! {
                    "$set": { "status": "paid", "transactionId": "4200000000000000002" }, "$unset": { "nextQueryAt": "" } },
                )],
            ),
            damage("an open attempt nobody asks about", &["payment"], unset("payments", &self.begun, "nextQueryAt")),
            damage(
                "a closed attempt is open again",
                &["payment"],
                set("payments", &self.closed, doc! { "status": "prepaid" }),
            ),
            damage(
                "an open attempt of a closed order",
                &["payment", "order-effects"],
                set(
                    "payments",
                    &self.closed,
                    doc! {
                    "status": "prepaid", "nextQueryAt": now },
                ),
            ),
            damage(
                "an open attempt of another amount",
                &["payment", "order-effects"],
                inc("payments", &self.begun, doc! { "amount": 1i64 }),
            ),
            damage(
                "a paid attempt of no order",
                &["payment", "order-effects"],
                vec![Edit::Copy(
                    "payments",
                    self.paid.clone(),
                    doc! {
                    "_id": "20260101000000000AAAAAAAA", "orderId": "20260101000000000AAAAAAAA", "transactionId": "4200000000000000003" },
                )],
            ),
            damage("an exception is not recorded", &["payment"], delete("paymentExceptions", &under_way)),
            damage(
                "an exception is of another transaction",
                &["payment"],
                set("paymentExceptions", &under_way, doc! { "transactionId": "4200000000000000004" }),
            ),
            damage(
                "an exception is of another amount",
                &["payment"],
                inc("paymentExceptions", &under_way, doc! { "amount": 1i64 }),
            ),
            damage("an exception was not booked", &["payment", "entry-balance"], delete("ledger", &booked)),
            damage("a refund was not booked", &["payment"], delete("ledger", &returned)),
            damage(
                "a refund is booked and not done",
                &["payment"],
                set("paymentExceptions", exception.get_str("_id")?, doc! { "status": "refunding" }),
            ),
            // Outbox.
            damage("undelivered for 15 days", &["outbox"], set("outbox", &refund, doc! { "createdAt": long_ago })),
            damage("a refund that nobody will deliver", &["outbox", "payment"], delete("outbox", &refund)),
            damage(
                "a refund delivered without an outcome",
                &["outbox", "payment"],
                set("outbox", &refund, doc! { "status": "delivered" }),
            ),
            damage(
                "a refund without a cause",
                &["outbox"],
                vec![Edit::Copy(
                    "outbox",
                    refund.clone(),
                    doc! {
                        "_id": "refund:RF4200000000000000005",
                        "payload": r#"{"outTradeNo":"20260101000000000AAAAAAAA","transactionId":"4200000000000000005","outRefundNo":"RF4200000000000000005"}"#,
                    },
                )],
            ),
        ])
    }
}

#[tokio::test]
async fn the_audit_sees_damage_of_every_kind() -> anyhow::Result<()> {
    let shop = shop().await?;
    let mut wrong = Vec::new();
    let damages = shop.damages().await?;
    let names: std::collections::BTreeSet<_> = damages.iter().map(|d| d.name).collect();
    assert_eq!(names.len(), damages.len(), "a name is used twice");
    for damage in &damages {
        let mut undos = Vec::new();
        for edit in &damage.edits {
            undos.push(apply(&shop.db, edit).await.map_err(|e| e.context(damage.name))?);
        }
        // An audit that gives up over a document it cannot read names neither the document nor what else is wrong.
        let (found, shown) = match shop.world.store.audit(shop.world.app.clock.now()).await {
            Ok(report) => {
                let found: Vec<&str> = report.violations.iter().map(|v| v.invariant).collect();
                (found, report.violations.iter().map(|v| format!("{} {}", v.invariant, v.message)).collect::<Vec<_>>())
            }
            Err(error) => (Vec::new(), vec![format!("the audit itself failed: {error}")]),
        };
        let seen = damage.invariants.iter().any(|invariant| found.contains(invariant));
        if !seen {
            wrong.push(format!("{}: wanted {:?}, got {shown:?}", damage.name, damage.invariants));
        }
        for step in undos.into_iter().rev() {
            undo(&shop.db, step).await?;
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), damages.len(), wrong.join("\n"));
    // Each damage was undone; what is left is as clean as before.
    shop.world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_clean_at_every_moment_of_live_traffic() -> anyhow::Result<()> {
    let world = World::start().await?;
    let workers: Vec<_> = (0..6)
        .map(|worker| {
            let client = world.client.clone();
            tokio::spawn(async move {
                let token = client.login(if worker < 3 { "demo" } else { "live" }).await?;
                for round in 0..8 {
                    let mut event = order_of("p-apple", 1 + round % 3);
                    event["items"].as_array_mut().unwrap().push(json!({ "productId": "p-eggs", "quantity": 1 }));
                    if worker < 3 {
                        event["pointsUsed"] = json!(1);
                    }
                    let order = client.call("submitOrder", &token, event).await?;
                    let id = order.ok()["orderId"].clone();
                    let id = id.as_str().unwrap();
                    if (worker + round) % 2 == 0 {
                        client.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
                    }
                    match (worker + round) % 4 {
                        0 => assert_eq!(client.pay(id, "duplicate").await?.body["noticeStatus"], 204),
                        1 => {}
                        _ => {
                            client.call("orders", &token, json!({ "action": "cancel", "orderId": id })).await?.ok();
                        }
                    }
                    let gift = json!({ "openId": "o-demo", "points": 2, "type": "earn", "reason": "x" });
                    client.call_service("addPoints", gift).await?.ok();
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let (mut audits, mut seen) = (0, Vec::new());
    while !workers.iter().all(tokio::task::JoinHandle::is_finished) {
        let found = world.violations().await?;
        seen.extend(found.into_iter().map(|line| format!("audit {audits}: {line}")));
        audits += 1;
    }
    for worker in workers {
        worker.await??;
    }
    assert!(audits > 2, "the traffic was over before it was looked at");
    assert!(seen.is_empty(), "of {audits} audits some found what was never there:\n{}", seen.join("\n"));
    world.finish().await
}
