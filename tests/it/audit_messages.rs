//! The audit must see each kind of damage to the outbox, to permissions and to assignments.

use bson::{Bson, doc};
use it::World;
use it::post::{FREE, NOTE, NOTE_ID, Post, agreed, note};
use serde_json::json;
use shop::messages::Message;
use simulators::{Fault, FaultMode, Target};

use crate::audit::{Edit, apply, database, undo};

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_sees_damage_to_messages_of_every_kind() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (db, post) = (database(&world).await?, Post::of(&world)?);
    let now = post.now();
    agreed(&post.store, "o-a", NOTE_ID, 3, now).await?;
    agreed(&post.store, "o-b", NOTE_ID, 1, now).await?;
    let mut told = Message::new(domain::OpenId::parse("o-a")?, NOTE, [("no".to_owned(), "sent".to_owned())].into());
    told.customer_ids = vec!["c-1".to_owned(), "c-2".to_owned()];
    post.enqueue(&[shop::messages::item("sent", &told, now)?, note("free", "o-c", FREE, now)?]).await?;
    post.run().await?;
    let mut broken = Fault::new(Target::Wechat, FaultMode::Errcode, 1);
    broken.errcode = Some(json!(47003));
    broken.path = Some("/cgi-bin/message/subscribe/send".to_owned());
    world.sim.fault(broken.clone());
    post.enqueue(&[note("dead", "o-b", NOTE, now)?]).await?;
    post.run().await?;
    broken.errcode = Some(json!(-1));
    world.sim.fault(broken);
    post.enqueue(&[note("waits", "o-a", NOTE, now)?]).await?;
    post.run().await?;
    for customer in ["c-1", "c-2"] {
        let date = json!({ "$date": now.to_rfc3339() });
        let row = json!({
            "_id": format!("{customer}|u:s-li|-"), "customerId": customer, "assignedTo": "u:s-li", "openId": "o-a",
            "messageId": "message:sent", "plannedAt": date, "createdAt": date,
        });
        post.store.open_document("assignments", &row, now).await?;
    }
    // From before tries were kept: one that was delivered, one that was given up, and one that was tried once more since.
    let date = json!({ "$date": now.to_rfc3339() });
    for (id, status, fields) in [
        ("old-sent", "delivered", json!({ "finishedAt": date })),
        ("old-dead", "dead", json!({ "finishedAt": date, "lastError": "refused" })),
        ("old-waits", "pending", json!({ "tries": [{ "n": 3, "at": date, "outcome": "retry", "durationMs": 5 }] })),
    ] {
        let mut row = json!({
            "_id": id, "kind": "message", "payload": "{}", "status": status, "attempts": 3, "claim": 3,
            "nextAttemptAt": date, "createdAt": date,
        });
        row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        post.store.open_document("outbox", &row, now).await?;
    }
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");

    let at = |days: i64| bson::DateTime::from_chrono(now + chrono::TimeDelta::days(days));
    let set = |id: &str, fields| vec![Edit::Update("outbox", format!("message:{id}"), doc! { "$set": fields })];
    let unset =
        |id: &str, field: &str| vec![Edit::Update("outbox", format!("message:{id}"), doc! { "$unset": { field: "" } })];
    let quota = |change| vec![Edit::Update("subscriptions", format!("o-a|{NOTE_ID}"), change)];
    let row = |change| vec![Edit::Update("assignments", "c-1|u:s-li|-".to_owned(), change)];
    let (outbox, quotas, assignment): (&[&str], &[&str], &[&str]) = (&["outbox"], &["subscription"], &["assignment"]);
    let both: &[&str] = &["outbox", "subscription"];
    let damages: Vec<(&str, &[&str], Vec<Edit>)> = vec![
        ("waits for weeks", outbox, set("waits", doc! { "createdAt": at(-15) })),
        ("waits after its expiry", outbox, set("waits", doc! { "expiresAt": at(-2) })),
        ("waits and has ended", outbox, set("waits", doc! { "finishedAt": at(0) })),
        ("was tried too often", outbox, set("waits", doc! { "attempts": 31i64 })),
        ("is sent by nobody", outbox, set("waits", doc! { "sendingAt": at(0) })),
        ("ended at no time", outbox, unset("sent", "finishedAt")),
        ("ended and is leased", outbox, set("sent", doc! { "leaseUntil": at(0) })),
        ("ended and is being sent", outbox, set("sent", doc! { "sendingAt": at(0) })),
        ("delivered and waits again", outbox, set("sent", doc! { "status": "pending" })),
        ("delivered without a try", outbox, set("sent", doc! { "attempts": 0i64, "tries": [] })),
        ("delivered although its try failed", outbox, set("sent", doc! { "tries.0.outcome": "dead" })),
        ("dead although it was delivered", outbox, set("free", doc! { "status": "dead", "reason": "EXPIRED" })),
        ("dead for no reason", outbox, unset("dead", "reason")),
        ("a try is missing", outbox, set("dead", doc! { "attempts": 2i64 })),
        ("a try has another number", outbox, set("dead", doc! { "tries.0.n": 2i64 })),
        ("a try took no time", outbox, unset("dead", "tries.0.durationMs")),
        ("more tries do not count than were made", outbox, set("waits", doc! { "uncounted": 2i64 })),
        ("dead and holds a permission", both, set("dead", doc! { "permission": format!("o-b|{NOTE_ID}") })),
        ("holds another's permission", both, set("free", doc! { "permission": format!("o-a|{NOTE_ID}") })),
        ("holds one that nobody gave", quotas, set("free", doc! { "permission": format!("o-c|{NOTE_ID}") })),
        (
            "a refund holds a permission",
            both,
            set("free", doc! { "kind": "sms", "permission": format!("o-c|{NOTE_ID}") }),
        ),
        ("a message lost its permission", quotas, unset("sent", "permission")),
        ("one more is available", quotas, quota(doc! { "$inc": { "available": 1i64 } })),
        ("one more was agreed to", quotas, quota(doc! { "$inc": { "accepted": 1i64 } })),
        ("one more is taken", quotas, quota(doc! { "$inc": { "taken": 1i64, "available": -1i64 } })),
        ("less than nothing is void", quotas, quota(doc! { "$inc": { "voided": -1i64, "available": 1i64 } })),
        ("it is somebody else's", quotas, quota(doc! { "$set": { "openId": "o-z" } })),
        ("told by a message that is gone", &["assignment"], row(doc! { "$set": { "messageId": "message:gone" } })),
        ("told by a message about others", assignment, row(doc! { "$set": { "messageId": "message:free" } })),
        ("about another customer", assignment, row(doc! { "$set": { "customerId": "c-3" } })),
        ("told and never made", assignment, vec![Edit::Delete("assignments", "c-2|u:s-li|-".to_owned())]),
        (
            "the message does not name the customer",
            assignment,
            set(
                "sent",
                doc! { "payload": r#"{"openId":"o-a","template":"assignment","values":{},"customerIds":["c-2"]}"# },
            ),
        ),
        (
            "a text beside a message that was delivered",
            outbox,
            vec![Edit::Insert(
                "outbox",
                doc! {
                    "_id": "message:sent:sms", "kind": "sms", "payload": "{}", "status": "pending", "attempts": 0i64,
                    "claim": 0i64, "nextAttemptAt": at(0), "createdAt": at(0),
                },
            )],
        ),
        ("unreadable", outbox, set("free", doc! { "status": Bson::Int64(7) })),
    ];
    let mut wrong = Vec::new();
    for (name, invariants, edits) in damages {
        let mut undos = Vec::new();
        for edit in &edits {
            undos.push(apply(&db, edit).await?);
        }
        let found = world.violations().await?;
        let hit = |line: &String| invariants.iter().any(|i| line.starts_with(&format!("{i}: ")));
        if found.is_empty() || !found.iter().all(hit) {
            wrong.push(format!("{name}: {found:?}"));
        }
        for one in undos.into_iter().rev() {
            undo(&db, one).await?;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.finish().await
}
