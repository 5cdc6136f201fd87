//! Damage to draws, done behind the back of `store`: the audit names it, and nothing once it is undone.

use bson::{Bson, Document, doc};
use it::mongod_uri;
use mongodb::Client;
use serde_json::json;

use crate::lottery::{drawn_round, last_right};

#[tokio::test]
async fn the_audit_sees_every_kind_of_damage_to_draws() -> anyhow::Result<()> {
    let (world, round) = drawn_round().await?;
    let name = world.app.config.store.as_ref().map(|s| s.database.clone()).unwrap_or_default();
    let db = Client::with_uri_str(mongod_uri().await?).await?.database(&name);
    assert!(world.violations().await?.is_empty());
    let stored = world.store.round(&round).await?.unwrap();
    let (right, ticket) = last_right(&world, &round).await?;
    let list = format!("{round}:{}:tickets:000000", stored.list_run.clone().unwrap());
    let ranking = format!("{round}:{}:ranking:000000", stored.rank_run.clone().unwrap());
    let set = |field: &str, value: Bson| Some(doc! { "$set": { field: value } });
    let zeros = |n: usize| Bson::from("0".repeat(n));
    // Update, or delete where there is none.
    let damages: Vec<(&str, &str, String, Option<Document>)> = vec![
        ("another seed", "lotteryRounds", round.clone(), set("seed", zeros(64))),
        ("another commitment", "lotteryRounds", round.clone(), set("commit", zeros(64))),
        ("a quota changed later", "lotteryRounds", round.clone(), set("rules.quota", Bson::Int64(6))),
        ("a close moved later", "lotteryRounds", round.clone(), set("closesAt", Bson::from(bson::DateTime::MAX))),
        (
            "published after it opened",
            "lotteryRounds",
            round.clone(),
            set("createdAt", Bson::from(bson::DateTime::MAX)),
        ),
        ("another beacon", "lotteryRounds", round.clone(), set("beacon", Bson::from("00"))),
        ("another hash of the list", "lotteryRounds", round.clone(), set("ticketsHash", zeros(64))),
        ("more winners", "lotteryRounds", round.clone(), set("k", Bson::Int64(4))),
        ("fewer tickets", "lotteryRounds", round.clone(), set("n", Bson::Int64(5))),
        ("a rank served twice", "lotteryRounds", round.clone(), set("nextRank", Bson::Int64(2))),
        ("a waiting list that moved", "lotteryRounds", round.clone(), set("nextWaiting", Bson::Int64(4))),
        ("a seed without a draw", "lotteryRounds", round.clone(), set("status", Bson::from("listed"))),
        ("secrets in clear", "lotteryRounds", round.clone(), set("secrets", zeros(128))),
        ("a list that is gone", "lotteryLists", list, None),
        ("a ranking that is gone", "lotteryLists", ranking, None),
        ("a ticket that is gone", "lotteryTickets", ticket.clone(), None),
        ("another's ticket", "lotteryTickets", ticket, set("userId", Bson::from("u-else"))),
        ("a right that is gone", "lotteryQualifications", right.clone(), None),
        ("a right of another rank", "lotteryQualifications", right.clone(), set("rank", Bson::Int64(5))),
        ("a right to more pieces", "lotteryQualifications", right.clone(), set("quantity", Bson::Int64(2))),
        (
            "a right that lasts longer",
            "lotteryQualifications",
            right.clone(),
            set("expireTime", Bson::from(bson::DateTime::MAX)),
        ),
        ("a right used by nothing", "lotteryQualifications", right.clone(), set("status", Bson::from("used"))),
        (
            "a right ended without its pieces",
            "lotteryQualifications",
            right.clone(),
            set("status", Bson::from("expired")),
        ),
        ("a right of no round", "lotteryQualifications", right.clone(), set("roundId", Bson::from("none"))),
        ("a grant that the book forgot", "ledger", format!("qualification:{right}:grant"), None),
        ("a coin that was not granted", "activityCoinLots", format!("win:{right}"), None),
    ];
    for (name, collection, id, change) in damages {
        let documents = db.collection::<Document>(collection);
        let before = documents.find_one(doc! { "_id": &id }).await?;
        let before = before.ok_or_else(|| anyhow::anyhow!("{name}: no {collection}/{id}"))?;
        match change {
            Some(change) => {
                documents.update_one(doc! { "_id": &id }, change).bypass_document_validation(true).await?;
            }
            None => {
                documents.delete_one(doc! { "_id": &id }).await?;
            }
        }
        let found = world.violations().await?;
        assert!(found.iter().any(|v| v.starts_with("draw:")), "{name} was not seen: {found:?}");
        documents.delete_one(doc! { "_id": &id }).await?;
        documents.insert_one(before).bypass_document_validation(true).await?;
    }
    assert_eq!(json!(world.violations().await?), json!([]));
    world.finish().await
}
