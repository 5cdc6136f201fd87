//! Documents of the old system come over exactly, or are listed and left; a run may end anywhere. And the self-check checks.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

// The second place outside of `store` that names the driver: only the old system writes documents of its shapes.
use bson::{Bson, Document, doc};
use it::{World, database_name, mongod_uri, violations};
use mongodb::options::Hint;
use mongodb::{Client, Database};
use serde_json::Value;
use store::collections::InitOptions;
use store::migrate::{Counts, MigrateOptions, MigrateReport, Progress};
use store::{Store, StoreConfig};

const COLLECTIONS: [&str; 4] = ["customers", "member_user", "prepaidRecords", "shopProducts"];

/// A database as the old system left it: no validators, no indexes, no book.
struct Legacy {
    store: Store,
    db: Database,
    name: String,
}

impl Legacy {
    async fn start() -> anyhow::Result<Self> {
        let (uri, name) = (mongod_uri().await?, database_name());
        let db = Client::with_uri_str(&uri).await?.database(&name);
        let data: BTreeMap<String, Vec<Value>> = serde_json::from_str(include_str!("data/legacy.json"))?;
        for (collection, documents) in data {
            for document in documents {
                let Bson::Document(document) = Bson::try_from(document)? else { anyhow::bail!("no document") };
                db.collection::<Document>(&collection).insert_one(document).await?;
            }
        }
        Ok(Self { store: Store::new(StoreConfig::new(uri, name.clone())), db, name })
    }

    /// Everything that is there. NaN equals nothing, hence text.
    async fn contents(&self) -> anyhow::Result<BTreeMap<String, String>> {
        use futures_util::TryStreamExt;
        let mut found = BTreeMap::new();
        for collection in COLLECTIONS.iter().chain(&["ledger"]) {
            let documents = self.db.collection::<Document>(collection);
            let documents: Vec<Document> =
                documents.find(doc! {}).hint(Hint::Keys(doc! { "_id": 1 })).await?.try_collect().await?;
            for document in documents {
                let id = document.get("_id").unwrap();
                found.insert(format!("{collection}/{}", id.as_str().unwrap_or("an ObjectId")), document.to_string());
            }
        }
        Ok(found)
    }

    async fn migrate(&self, dry_run: bool, limit: Option<u64>) -> anyhow::Result<(MigrateReport, BTreeSet<String>)> {
        let mut problems = BTreeSet::new();
        let mut tell = |progress: Progress<'_>| {
            if let Progress::Problem(problem) = progress {
                assert!(!problem.field.is_empty() && !problem.reason.is_empty(), "{problem:?}");
                problems.insert(problem.document.clone());
            }
        };
        let now = edge::Clock::system().now();
        let report = self.store.migrate(MigrateOptions { dry_run, limit }, now, &mut tell).await?;
        Ok((report, problems))
    }

    /// What a person does about members that were left alone before `init` can make its unique index on `openId`.
    async fn settle_open_ids(&self) -> anyhow::Result<()> {
        let members = self.db.collection::<Document>("member_user");
        members.delete_one(doc! { "_id": "lu-bad-twin-a" }).await?;
        for left in ["lu-bad-thirds", "lu-bad-drift", "lu-bad-points", "lu-bad-twin-b"] {
            let rename = doc! { "$rename": { "_openid": "openId" } };
            members.update_one(doc! { "_id": left }, rename).await?;
        }
        Ok(())
    }

    /// The audit's findings about anything else than what was left alone, under the rules of `collections/`.
    async fn audit(&self) -> anyhow::Result<Vec<String>> {
        let now = edge::Clock::system().now();
        self.store.init(InitOptions::default(), now).await?;
        Ok(violations(&self.store, now).await?.into_iter().filter(|line| !is_bad(line)).collect())
    }

    async fn document(&self, collection: &str, id: &str) -> anyhow::Result<Document> {
        let found = self.db.collection::<Document>(collection).find_one(doc! { "_id": id }).await?;
        found.ok_or_else(|| anyhow::anyhow!("no {collection}/{id}"))
    }
}

/// Documents that were left alone, in their lists and in the audit's lines.
fn is_bad(document: &str) -> bool {
    ["-bad-", "ObjectId", "customers/?"].iter().any(|mark| document.contains(mark))
}

fn counts(seen: u64, current: u64, migrated: u64) -> Counts {
    Counts { seen, current, migrated, left: seen - current - migrated }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_documents_come_over_exactly_and_bad_ones_are_left_alone() -> anyhow::Result<()> {
    let legacy = Legacy::start().await?;
    let before = legacy.contents().await?;

    let (dry, dry_problems) = legacy.migrate(true, None).await?;
    assert_eq!(legacy.contents().await?, before, "a dry run wrote something");
    let (report, problems) = legacy.migrate(false, None).await?;
    assert_eq!((&report, &problems), (&dry, &dry_problems), "the dry run (right) told another story");
    assert_eq!(
        report.collections,
        BTreeMap::from([
            ("customers".to_owned(), counts(6, 0, 3)),
            ("member_user".to_owned(), counts(9, 0, 3)),
            ("prepaidRecords".to_owned(), counts(14, 0, 5)),
            ("shopProducts".to_owned(), counts(4, 0, 2)),
        ])
    );
    // 88.80 + 0.29 of members, 100.50 + 50 + 12.30 of records; the pieces of both kinds of shelf.
    let opened = [("fen", 8880 + 29 + 10050 + 5000 + 1230), ("pieces", 8), ("points", 127), ("stock", 37)];
    assert_eq!(report.opened, opened.map(|(asset, sum)| (asset.to_owned(), sum)).into());

    let after = legacy.contents().await?;
    for (id, old) in &before {
        if is_bad(id) {
            assert_eq!(after.get(id), Some(old), "{id} was touched");
        }
    }
    assert_eq!(problems.iter().filter(|p| is_bad(p)).count(), problems.len(), "{problems:?}");
    assert_eq!(problems.len() as u64, report.left());

    let record = legacy.document("prepaidRecords", "lr-1").await?;
    assert_eq!(
        (record.get_i64("balance")?, record.get_str("type")?, record.get_str("asset")?),
        (10050, "amount", "fen")
    );
    assert_eq!((record.get_str("linkStatus")?, record.get_str("remark")?), ("unlinked", "老系统"));
    assert_eq!(record.get_document("legacy")?, &doc! { "balance": 100.5, "createdAt": "2023-07-01T00:00:00.000Z" });
    record.get_datetime("migratedAt")?;
    let goods = legacy.document("prepaidRecords", "lr-4").await?;
    assert_eq!((goods.get_i64("balance")?, goods.get_str("asset")?), (5, "pieces:p-apple"));
    assert_eq!(legacy.document("prepaidRecords", "lr-5").await?.get_str("linkStatus")?, "linked");
    let instants: BTreeSet<i64> = [
        legacy.document("prepaidRecords", "lr-1").await?,
        legacy.document("prepaidRecords", "lr-2").await?,
        legacy.document("prepaidRecords", "lr-3").await?,
    ]
    .iter()
    .map(|d| d.get_datetime("createdAt").unwrap().timestamp_millis())
    .collect();
    assert_eq!(instants, [1_688_169_600_000].into(), "text, milliseconds and Beijing time of one moment");
    // A link holds if both sides name each other; else the user links again, by a proof.
    let linked = legacy.document("customers", "lc-li").await?;
    assert_eq!(linked.get_str("linkedUserId")?, "lu-1");
    assert_eq!(
        linked.get_datetime("linkTime")?,
        legacy.document("prepaidRecords", "lr-5").await?.get_datetime("linkTime")?
    );
    for (collection, id) in [("customers", "lc-zhao"), ("prepaidRecords", "lr-2")] {
        let unlinked = legacy.document(collection, id).await?;
        assert!(!unlinked.contains_key("linkedUserId") && !unlinked.contains_key("linkTime"), "{unlinked}");
        assert_eq!(unlinked.get_document("legacy")?.get_str("linkedUserId")?, "lu-2");
    }
    let member = legacy.document("member_user", "lu-1").await?;
    assert_eq!(
        (member.get_str("openId")?, member.get_i64("points")?, member.get_i64("balance")?),
        ("o-legacy-1", 120, 8880)
    );
    assert!(!member.contains_key("_openid") && member.get_document("legacy")?.get_str("_openid")? == "o-legacy-1");
    // Nothing of what the old system verified is stored here.
    assert!(!member.get_bool("isVerified")? && member.get_document("legacy")?.get_bool("isVerified")?);
    let customer = legacy.document("customers", "lc-wang").await?;
    assert_eq!((customer.get_str("phone")?, customer.get_str("status")?), ("13900001111", "active"));
    assert_eq!(customer.get_str("source")?, "wechat", "a field that we do not know stays");

    // Again: nothing changes.
    let (again, _) = legacy.migrate(false, None).await?;
    assert_eq!(legacy.contents().await?, after);
    assert_eq!((again.migrated(), again.left()), (0, report.left()));
    assert!(again.opened.is_empty());

    // A person settles the twins; then the rules apply, and the shop reads what came over.
    legacy.settle_open_ids().await?;
    let (settled, _) = legacy.migrate(false, None).await?;
    assert_eq!(settled.migrated(), 1);
    assert_eq!(legacy.audit().await?, Vec::<String>::new());
    // Under the validators a document can still come over once it is mended.
    legacy
        .db
        .collection::<Document>("prepaidRecords")
        .update_one(doc! { "_id": "lr-bad-thirds" }, doc! { "$set": { "balance": "12.34" } })
        .bypass_document_validation(true)
        .await?;
    let (mended, _) = legacy.migrate(false, None).await?;
    assert_eq!((mended.migrated(), mended.opened.get("fen")), (1, Some(&1234)));
    assert_eq!(legacy.audit().await?, Vec::<String>::new());
    legacy.store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_half_way_is_continued() -> anyhow::Result<()> {
    let (whole, pieces) = (Legacy::start().await?, Legacy::start().await?);
    let (report, _) = whole.migrate(false, None).await?;
    let mut migrated = 0;
    for _ in 0..20 {
        let (part, _) = pieces.migrate(false, Some(2)).await?;
        assert!(part.migrated() <= 2);
        migrated += part.migrated();
        if !part.stopped_early {
            break;
        }
    }
    assert_eq!(migrated, report.migrated());
    // The same documents and entries; only the moments differ.
    assert_eq!(
        whole.contents().await?.into_keys().collect::<Vec<_>>(),
        pieces.contents().await?.into_keys().collect::<Vec<_>>()
    );
    // Two at once bring each document over once.
    let raced = Legacy::start().await?;
    let (left, right) = tokio::join!(raced.migrate(false, None), raced.migrate(false, None));
    assert_eq!(left?.0.migrated() + right?.0.migrated(), report.migrated());
    for legacy in [whole, pieces, raced] {
        legacy.settle_open_ids().await?;
        assert_eq!(legacy.audit().await?, Vec::<String>::new());
        legacy.store.drop_database().await?;
    }
    Ok(())
}

async fn cli(args: &[&str], database: &str) -> anyhow::Result<(Option<i32>, String)> {
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_jinlu-it"))
        .args(args)
        .args(["--uri", &mongod_uri().await?, "--database", database])
        .stdin(Stdio::null())
        .output()
        .await?;
    Ok((run.status.code(), String::from_utf8(run.stdout)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_say_what_they_did() -> anyhow::Result<()> {
    let legacy = Legacy::start().await?;
    let before = legacy.contents().await?;
    let (code, text) = cli(&["migrate", "--dry-run", "--json"], &legacy.name).await?;
    assert_eq!(code, Some(1), "{text}");
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let last = lines.last().unwrap();
    assert_eq!((&last["dryRun"], &last["report"]["opened"]["fen"]), (&true.into(), &25189.into()), "{text}");
    assert!(
        lines
            .iter()
            .any(|l| l["problem"]["document"] == "prepaidRecords/lr-bad-nan" && l["problem"]["field"] == "balance")
    );
    assert_eq!(legacy.contents().await?, before);
    let (code, text) = cli(&["migrate"], &legacy.name).await?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("prepaidRecords: 14 seen, 0 current, 5 migrated, 9 left alone"), "{text}");
    assert!(text.contains("opened in the book: 251.89 yuan"), "{text}");
    legacy.store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_self_check_passes_and_leaves_the_audit_clean() -> anyhow::Result<()> {
    let world = World::start().await?;
    let name = world.app.config.store.as_ref().map(|s| s.database.clone()).unwrap_or_default();
    for _ in 0..2 {
        let (code, text) = cli(&["selfcheck", "prepaid"], &name).await?;
        assert_eq!(code, Some(0), "{text}");
        assert!(!text.contains('✗') && text.lines().count() == 15, "{text}");
        for step in ["✓ amount add", "✓ amount deduct", "✓ amount restore", "✓ product empty"] {
            assert!(text.contains(step), "{step} is missing in:\n{text}");
        }
    }
    world.finish().await
}
