//! The audit sees each way in which real names can be wrong.

use bson::{Document, doc};
use it::{World, mongod_uri};
use serde_json::json;

#[tokio::test]
async fn the_audit_sees_damaged_identities() -> anyhow::Result<()> {
    let world = World::start().await?;
    let name = world.app.config.store.as_ref().map(|s| s.database.clone()).unwrap_or_default();
    let db = mongodb::Client::with_uri_str(mongod_uri().await?).await?.database(&name);
    let mut users = Vec::new();
    for (who, number) in [("a", "440524198801010011"), ("b", "11010519491231002X"), ("c", "810000199408230021")] {
        let token = world.client.login(who).await?;
        let claim = json!({ "realName": "张三", "idCard": number, "consent": true });
        world.client.call("verifyIdentity", &token, claim).await?.ok();
        let member = world.store.member_by_open_id(&domain::OpenId::parse(&format!("o-{who}"))?).await?.unwrap();
        users.push(member.id.as_str().to_owned());
        if who == "c" {
            world.client.call("verifyIdentity", &token, json!({ "action": "erase" })).await?.ok();
        }
    }
    assert_eq!(world.violations().await?, Vec::<String>::new());
    let demo = "c-demo".to_owned();
    let [a, b, c] = users.as_slice() else { panic!("three users") };
    let identities = db.collection::<Document>("identities");
    let index = identities.find_one(doc! { "_id": a }).await?.unwrap().get_array("idIndex")?.clone();
    // Only without its index can the database hold one number twice.
    identities.drop_index("idIndex_mac").await?;
    let set = |field: &str, value: bson::Bson| doc! { "$set": { field: value } };
    let damages: Vec<(&str, &str, &String, Document)> = vec![
        ("verified without an identity", "member_user", c, set("isVerified", true.into())),
        ("an identity the member does not know", "member_user", a, set("isVerified", false.into())),
        ("a number twice", "identities", b, set("idIndex", index.into())),
        ("no index", "identities", b, doc! { "$unset": { "idIndex": 1 } }),
        ("a hash that is none", "identities", b, set("idIndex.0.mac", "11".into())),
        ("a number in clear", "identities", a, set("idCard", "440524198801010011".into())),
        ("a number in a note", "identities", a, set("note", "证件 440524198801010011。".into())),
        ("a number at its member", "member_user", a, set("idCard", "440524198801010011".into())),
        ("a number at a customer", "customers", &demo, set("remark", "证件 11010519491231002X".into())),
        ("a number in a list", "identities", c, set("earlierConsents.0.purpose", "11010519491231002x".into())),
        ("a name in clear", "identities", a, set("realName", "张三".into())),
        ("no sealed number", "identities", a, doc! { "$unset": { "idCard": 1 } }),
        ("not masked", "identities", a, set("maskedIdCard", "440524".into())),
        ("a withdrawn consent", "identities", a, set("consent.withdrawnAt", bson::DateTime::now().into())),
        ("a mask after an erasure", "identities", c, set("maskedName", "张*".into())),
        ("unreadable", "identities", a, set("consent", 1.into())),
    ];
    let mut missed = Vec::new();
    for (what, collection, id, change) in damages {
        let documents = db.collection::<Document>(collection);
        let before = documents.find_one(doc! { "_id": id }).await?.unwrap();
        documents.update_one(doc! { "_id": id }, change).bypass_document_validation(true).await?;
        let found = world.violations().await?;
        if !found.iter().any(|line| line.starts_with("identity:")) || found.iter().any(|l| !l.starts_with("identity:"))
        {
            missed.push(format!("{what}: {found:?}"));
        }
        documents.replace_one(doc! { "_id": id }, before).bypass_document_validation(true).await?;
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    world.finish().await
}
