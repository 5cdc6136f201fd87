//! The audit sees what was done to the ledger after it was sealed, and to the seals themselves.

use bson::{Document, doc};
use chrono::TimeDelta;
use domain::BusinessDay;
use it::{World, mongod_uri};
use mongodb::{Client, Database};

use crate::seal::book;

/// The documents of both collections, to be put back.
async fn state(db: &Database) -> anyhow::Result<Vec<(&'static str, Vec<Document>)>> {
    let mut all = Vec::new();
    for name in ["ledger", "ledgerSeals"] {
        let mut cursor = db.collection::<Document>(name).find(doc! {}).hint(by_id()).await?;
        let mut documents = Vec::new();
        while cursor.advance().await? {
            documents.push(cursor.deserialize_current()?);
        }
        all.push((name, documents));
    }
    Ok(all)
}

fn by_id() -> mongodb::options::Hint {
    mongodb::options::Hint::Keys(doc! { "_id": 1 })
}

async fn restore(db: &Database, state: &[(&'static str, Vec<Document>)]) -> anyhow::Result<()> {
    for (name, documents) in state {
        let collection = db.collection::<Document>(name);
        collection.delete_many(doc! {}).hint(by_id()).await?;
        collection.insert_many(documents).bypass_document_validation(true).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_audit_sees_damage_under_a_seal() -> anyhow::Result<()> {
    let world = World::start().await?;
    let now = world.app.clock.now();
    let start = now - TimeDelta::days(8);
    for i in 0..5i64 {
        for n in 0..3 {
            let at = start + TimeDelta::days(i) + TimeDelta::milliseconds(n);
            book(&world.store, &format!("{i}-{n}"), at).await?;
        }
    }
    world.client.timer("sealLedger").await?.ok();
    let found = world.violations().await?;
    assert!(found.is_empty(), "{found:?}");
    let name = world.app.config.store.as_ref().map(|s| s.database.clone()).unwrap_or_default();
    let db = Client::with_uri_str(mongod_uri().await?).await?.database(&name);
    let (ledger, seals) = (db.collection::<Document>("ledger"), db.collection::<Document>("ledgerSeals"));
    let day = |i: i64| BusinessDay::of(start + TimeDelta::days(i)).to_string();
    let before = state(&db).await?;

    let set = |fields: Document| doc! { "$set": fields };
    // Edits of one document: what, where, which, change.
    let edits = [
        (
            "amounts",
            &ledger,
            "test:2-1:sale".to_owned(),
            set(doc! { "postings.0.amount": -7i64, "postings.1.amount": 7i64 }),
        ),
        ("an account", &ledger, "test:2-1:sale".to_owned(), set(doc! { "postings.0.account": "@exceptions" })),
        (
            "an asset",
            &ledger,
            "test:2-1:sale".to_owned(),
            set(doc! { "postings.0.asset": "points", "postings.1.asset": "points" }),
        ),
        (
            "a time within the day",
            &ledger,
            "test:2-1:sale".to_owned(),
            set(doc! { "at": bson::DateTime::from_chrono(start + TimeDelta::days(2)) }),
        ),
        ("a user", &ledger, "test:2-1:sale".to_owned(), set(doc! { "userId": "u-demo" })),
        ("an order", &ledger, "test:2-1:sale".to_owned(), set(doc! { "orderId": "A1" })),
        ("void", &ledger, "test:2-1:sale".to_owned(), set(doc! { "void": true })),
        (
            "moved to another day",
            &ledger,
            "test:2-1:sale".to_owned(),
            set(doc! { "at": bson::DateTime::from_chrono(start + TimeDelta::days(3)) }),
        ),
        (
            "moved before all days",
            &ledger,
            "test:2-1:sale".to_owned(),
            set(doc! { "at": bson::DateTime::from_millis(0) }),
        ),
        ("a hash", &seals, day(2), set(doc! { "hash": "ff".repeat(32) })),
        ("a chain", &seals, day(2), set(doc! { "previous": "ff".repeat(32) })),
        ("a beginning", &seals, day(0), set(doc! { "previous": "ff".repeat(32) })),
        ("a count", &seals, day(2), set(doc! { "entries": 4i64 })),
        ("bounds", &seals, day(2), set(doc! { "to": bson::DateTime::from_chrono(start) })),
        ("sealed before its end", &seals, day(2), set(doc! { "sealedAt": bson::DateTime::from_chrono(start) })),
        ("not readable", &seals, day(2), doc! { "$unset": { "hash": "" } }),
    ];
    for (name, collection, id, change) in edits {
        let done = collection.update_one(doc! { "_id": &id }, change).bypass_document_validation(true).await?;
        assert_eq!(done.modified_count, 1, "{name}");
        let found = world.violations().await?;
        assert!(found.iter().any(|v| v.starts_with("seal:")), "{name}: {found:?}");
        restore(&db, &before).await?;
    }

    let seen = async |name: &str| {
        let found = world.violations().await?;
        assert!(found.iter().any(|v| v.starts_with("seal:")), "{name}: {found:?}");
        restore(&db, &before).await?;
        let found = world.violations().await?;
        assert!(found.is_empty(), "after {name}: {found:?}");
        anyhow::Ok(())
    };
    ledger.delete_one(doc! { "_id": "test:1-0:sale" }).await?;
    seen("an entry removed").await?;
    book(&world.store, "backdated", start + TimeDelta::days(1)).await?;
    seen("an entry added").await?;
    book(&world.store, "ancient", start - TimeDelta::days(30)).await?;
    seen("an entry before the first day").await?;
    let old = ledger.find_one(doc! { "_id": "test:1-0:sale" }).await?.unwrap();
    let mut renamed = old.clone();
    renamed.insert("_id", "test:1-9:sale");
    ledger.delete_one(doc! { "_id": "test:1-0:sale" }).await?;
    ledger.insert_one(renamed).await?;
    seen("an entry under another key").await?;
    seals.delete_one(doc! { "_id": day(2) }).await?;
    seen("a seal removed in the middle").await?;
    seals.delete_one(doc! { "_id": day(0) }).await?;
    seen("the first seal removed").await?;
    let (a, b) = (
        seals.find_one(doc! { "_id": day(1) }).await?.unwrap(),
        seals.find_one(doc! { "_id": day(3) }).await?.unwrap(),
    );
    for (id, from) in [(day(1), &b), (day(3), &a)] {
        seals.update_one(doc! { "_id": id }, set(doc! { "hash": from.get_str("hash")? })).await?;
    }
    seen("the hashes of two seals swapped").await?;
    let mut odd = a.clone();
    odd.insert("_id", "2026-02-30");
    seals.insert_one(odd).await?;
    seen("a seal of no day").await?;
    let mut forged =
        seals.find_one(doc! { "_id": BusinessDay::of(now - TimeDelta::days(2)).to_string() }).await?.unwrap();
    let today = BusinessDay::of(now);
    forged.insert("_id", today.to_string());
    seals.insert_one(forged).await?;
    seen("a seal of a day that is not over").await?;
    world.finish().await
}
