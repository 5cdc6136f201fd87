//! Real names: verified, refused, taken, erased, looked at, sealed again – and nowhere readable.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Barrier;

use domain::UserId;
use domain::vault::{FieldKeys, IndexKeys, KEY_BYTES};
use edge::{App, Config};
use it::{Answer, Client, World, database_name, id_number, mongod_uri, violations};
use serde_json::{Value, json};
use shop::address::Destination;
use store::collections::definitions;
use store::rotation::{RotateOptions, RotateReport, Rotation};
use store::{Store, StoreConfig};

use crate::coins::{give, mug, verified};

const NAME: &str = "欧阳明月";
const NUMBER: &str = "440524198801010011";
const OTHER: &str = "11010519491231002X";

fn claim(name: &str, number: &str) -> Value {
    json!({ "realName": name, "idCard": number, "consent": true })
}

async fn verify(client: &Client, token: &str, name: &str, number: &str) -> anyhow::Result<Answer> {
    client.call("verifyIdentity", token, claim(name, number)).await
}

async fn action(client: &Client, token: &str, action: &str) -> anyhow::Result<Answer> {
    client.call("verifyIdentity", token, json!({ "action": action })).await
}

async fn user_id(world: &World, name: &str) -> anyhow::Result<UserId> {
    let open_id = domain::OpenId::parse(&format!("o-{name}"))?;
    Ok(world.store.member_by_open_id(&open_id).await?.unwrap().id)
}

#[tokio::test]
async fn a_name_is_verified_once_and_shown_masked() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("ming").await?;
    assert_eq!(action(c, &token, "status").await?.ok()["verified"], false);
    let text = action(c, &token, "consent").await?;
    assert!(text.ok()["text"].as_str().unwrap().contains(text.body["textVersion"].as_str().unwrap()));
    assert_eq!(text.body["textHash"].as_str().unwrap().len(), 64);

    let done = verify(c, &token, NAME, " 440524 19880101 0011 ").await?;
    assert_eq!((&done.ok()["verified"], &done.body["maskedIdCard"]), (&json!(true), &json!("4405**********0011")));
    assert!(done.body["replayed"].is_null() && done.body["verifyTime"].is_string());
    let again = verify(c, &token, NAME, NUMBER).await?;
    assert_eq!((&again.ok()["replayed"], &again.body["verifyTime"]), (&json!(true), &done.body["verifyTime"]));
    verify(c, &token, NAME, OTHER).await?.refused(409, "CONFLICT");

    let status = action(c, &token, "status").await?;
    assert_eq!((&status.ok()["maskedName"], &status.body["verified"]), (&json!("欧*"), &json!(true)));
    let login = c.call("login", "", json!({ "code": "dev-ming" })).await?;
    assert_eq!(login.ok()["user"]["isVerified"], true);

    let stored = world.store.identity(&user_id(&world, "ming").await?).await?.unwrap();
    assert_eq!(stored.provider.as_ref().map(|p| p.result.as_str()), Some("0"));
    assert_eq!(stored.consent.text_hash, text.body["textHash"].as_str().unwrap());

    // The number is taken, without a question to the register.
    let other = c.login("other").await?;
    let taken = verify(c, &other, "李四", NUMBER).await?;
    taken.refused(409, "CONFLICT");
    assert_eq!(taken.body["message"], "该证件已被其他账号实名");
    world.finish().await
}

#[tokio::test]
async fn what_cannot_be_verified_says_why() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("bad").await?;
    for (event, field) in [
        (json!({ "realName": NAME, "idCard": NUMBER }), "consent"),
        (json!({ "realName": NAME, "idCard": NUMBER, "consent": false }), "consent"),
        (json!({ "realName": NAME, "idCard": NUMBER, "consent": "true" }), "consent"),
        (json!({ "realName": NAME, "idCard": NUMBER, "consent": true, "textVersion": "1999-01-01" }), "textVersion"),
        (json!({ "idCard": NUMBER, "consent": true }), "realName"),
        (json!({ "realName": "Zhang", "idCard": NUMBER, "consent": true }), "realName"),
        (json!({ "realName": NAME, "consent": true }), "idCard"),
    ] {
        let answer = c.call("verifyIdentity", &token, event).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{answer:?}");
    }
    let young = id_number(1).replace("19900307", "20200307");
    for (text, reason) in [
        ("110105198803050012", "checksum"),
        ("110105491231002", "firstGeneration"),
        ("110105", "length"),
        (young.as_str(), "checksum"),
    ] {
        let answer = verify(c, &token, NAME, text).await?;
        answer.refused(422, "ID_CARD_INVALID");
        assert_eq!(
            (&answer.body["details"]["field"], &answer.body["details"]["reason"]),
            (&json!("idCard"), &json!(reason))
        );
    }
    // The register decides; what it does not know is never verified.
    for (name, status, code, reason) in [
        ("张不符", 422, "ID_CARD_INVALID", "mismatch"),
        ("张查无", 422, "ID_CARD_INVALID", "noRecord"),
        ("张坏号", 422, "ID_CARD_INVALID", "refused"),
        ("张断源", 502, "UPSTREAM_ERROR", ""),
        ("张升级", 502, "UPSTREAM_ERROR", ""),
        ("张超限", 429, "RATE_LIMITED", ""),
    ] {
        let token = c
            .login(&format!("reg-{}", name.chars().map(|c| format!("{:x}", u32::from(c))).collect::<String>()))
            .await?;
        let answer = verify(c, &token, name, &id_number(7)).await?;
        answer.refused(status, code);
        assert_eq!(answer.body["details"]["reason"].as_str().unwrap_or_default(), reason);
        assert_eq!(action(c, &token, "status").await?.ok()["verified"], false);
        c.advance(3_601).await?;
    }
    for fault in [
        json!({ "mode": "500" }),
        json!({ "mode": "reset" }),
        json!({ "mode": "dropAfterCommit" }),
        json!({ "mode": "errcode", "errcode": "InternalError" }),
        json!({ "mode": "429" }),
    ] {
        let mut order = fault;
        order["target"] = json!("faceid");
        order["count"] = json!(1);
        c.control("faults", order).await?.ok();
        verify(c, &token, NAME, NUMBER).await?.refused(502, "UPSTREAM_ERROR");
    }
    // Five questions that are billed, maybe: enough for a day, though more tries are allowed in the next hour.
    c.advance(3_601).await?;
    let limited = verify(c, &token, NAME, NUMBER).await?;
    limited.refused(429, "RATE_LIMITED");
    assert!(limited.body["details"]["retryAfterSeconds"].as_i64().unwrap() > 3_600);
    c.advance(86_401).await?;
    let token = c.login("bad").await?;
    verify(c, &token, NAME, NUMBER).await?.ok();
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_with_one_number_at_once_leave_one_verified() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let mut tokens = Vec::new();
    for name in ["r1", "r2", "r1", "r2"] {
        tokens.push(c.login(name).await?);
    }
    let calls = tokens.iter().map(|token| verify(c, token, NAME, NUMBER));
    let answers: Vec<Answer> = futures_util::future::try_join_all(calls).await?;
    let winners: BTreeSet<usize> =
        answers.iter().enumerate().filter(|(_, a)| a.status == 200).map(|(i, _)| i % 2).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    // Tries of one number at one moment may meet in its limit, too.
    assert!(answers.iter().all(|a| a.status == 200 || ["CONFLICT", "RATE_LIMITED"].contains(&a.code())), "{answers:?}");
    world.finish().await
}

#[tokio::test]
async fn an_erased_name_is_free_and_needs_a_new_consent() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (token, other) = (c.login("gone").await?, c.login("next").await?);
    assert_eq!(action(c, &token, "erase").await?.ok()["erased"], false);
    verify(c, &token, NAME, NUMBER).await?.ok();

    let user = user_id(&world, "gone").await?;
    let now = world.app.clock.now();
    let mut order = json!({ "_id": "20261121000000000MALLMALL", "userId": user.as_str(), "openId": "o-gone", "type": "pointsMall", "status": "shipped" });
    order["createdAt"] = json!({ "$date": { "$numberLong": now.timestamp_millis().to_string() } });
    raw(&world).await?.collection("orders").insert_one(bson_of(&order)).bypass_document_validation(true).await?;
    let refused = action(c, &token, "erase").await?;
    refused.refused(409, "CONFLICT");
    assert_eq!(refused.body["details"]["reason"], "openOrder");
    raw(&world)
        .await?
        .collection::<bson::Document>("orders")
        .delete_one(bson::doc! { "_id": "20261121000000000MALLMALL" })
        .await?;

    assert_eq!(action(c, &token, "erase").await?.ok()["erased"], true);
    assert_eq!(action(c, &token, "status").await?.ok()["verified"], false);
    let left = world.store.identity(&user).await?.unwrap();
    assert!(left.id_card.is_none() && left.id_index.is_empty() && left.masked_id_card.is_none());
    assert!(left.consent.withdrawn_at.is_some());
    assert!(world.violations().await?.is_empty());

    verify(c, &other, NAME, NUMBER).await?.ok();
    verify(c, &token, NAME, NUMBER).await?.refused(409, "CONFLICT");
    verify(c, &token, NAME, OTHER).await?.ok();
    let again = world.store.identity(&user).await?.unwrap();
    assert_eq!((again.earlier_consents.len(), again.consent.withdrawn_at), (1, None));
    world.finish().await
}

/// Stops a redemption between its look at the member and its transaction.
static LOOKED: Barrier = Barrier::new(2);
static GO_ON: Barrier = Barrier::new(2);

fn stopped() -> u64 {
    // Whatever else this thread had to do moves to another one.
    tokio::task::block_in_place(|| {
        LOOKED.wait();
        GO_ON.wait();
    });
    7
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_redeems_with_a_name_that_is_erased_meanwhile() -> anyhow::Result<()> {
    use shop::mall::{Redeem, Redeeming, redeem};
    let world = World::start().await?;
    let c = &world.client;
    let now = world.app.clock.now();
    let user = verified(&world.store, "eve", now).await?;
    give(&world.store, "eve", "e1", 3, now).await?;
    let token = c.login("eve").await?;
    let (store, rules) = (world.store.clone(), world.app.config.rules.clone());
    let task = tokio::spawn(async move {
        let address = store::orders::Address {
            name: "伊娃".to_owned(),
            phone: "13800138000".to_owned(),
            province: String::new(),
            city: "杭州市".to_owned(),
            district: String::new(),
            detail: "文三路 1 号".to_owned(),
        };
        let wanted = Redeem {
            product_id: domain::ProductId::parse("p-mug").unwrap(),
            sku_id: None,
            quantity: 1,
            destination: Destination::Given(address),
        };
        let open_id = domain::OpenId::parse("o-eve").unwrap();
        let (store, rules) = (&store, &rules);
        redeem(&Redeeming { store, rules, open_id: &open_id, redeem: &wanted, key: None, random: stopped, now }).await
    });
    tokio::task::spawn_blocking(|| LOOKED.wait()).await?;
    assert_eq!(action(c, &token, "erase").await?.ok()["erased"], true);
    tokio::task::spawn_blocking(|| GO_ON.wait()).await?;
    let refused = task.await?.unwrap_err();
    assert!(matches!(&refused, domain::Failure::Refused(r) if r.code == domain::Code::IdentityRequired), "{refused:?}");
    assert_eq!((world.stock("p-mug").await?, world.store.coin_lots(&user).await?[0].remaining), (80, 3));
    assert_eq!(world.violations().await?, Vec::<String>::new());

    // Verified again and redeemed, the name stays until the goods have arrived; the audit would see it otherwise.
    verify(c, &token, NAME, NUMBER).await?.ok();
    c.call("pointsMall", &token, mug(1)).await?.ok();
    action(c, &token, "erase").await?.refused(409, "CONFLICT");
    let members = raw(&world).await?.collection::<bson::Document>("member_user");
    for (verified, seen) in [(false, true), (true, false)] {
        let set = bson::doc! { "$set": { "isVerified": verified } };
        members.update_one(bson::doc! { "_id": user.as_str() }, set).await?;
        assert_eq!(world.violations().await?.iter().any(|line| line.contains("unverified")), seen);
    }
    world.finish().await
}

/// What is shown of a number leaves few to try, and the answer to the right one differs.
#[tokio::test]
async fn a_verified_number_cannot_be_found_by_trying() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("owner").await?;
    verify(c, &token, NAME, NUMBER).await?.ok();
    for i in 0..4 {
        verify(c, &token, NAME, &id_number(400 + i)).await?.refused(409, "CONFLICT");
    }
    for number in [id_number(404), NUMBER.to_owned()] {
        let refused = verify(c, &token, NAME, &number).await?;
        refused.refused(429, "RATE_LIMITED");
        assert!(refused.body["details"]["retryAfterSeconds"].as_i64().is_some_and(|s| s > 3000), "{refused:?}");
    }
    c.advance(3601).await?;
    assert_eq!(verify(c, &token, NAME, NUMBER).await?.ok()["replayed"], true);
    world.finish().await
}

#[tokio::test]
async fn staff_see_a_number_only_with_a_reason_and_a_record() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("seen").await?;
    verify(c, &token, NAME, NUMBER).await?.ok();
    let user = user_id(&world, "seen").await?;
    let event = json!({ "action": "reveal", "userId": user.as_str(), "reason": "公安机关调证 第 12 号" });
    c.call("verifyIdentity", &token, event.clone()).await?.refused(403, "FORBIDDEN");
    c.call("verifyIdentity", &world.staff("orders")?, event.clone()).await?.refused(403, "FORBIDDEN");
    let lily = world.staff("identity")?;
    let mut silent = event.clone();
    silent["reason"] = json!(" ");
    c.call("verifyIdentity", &lily, silent.clone()).await?.refused(400, "INVALID_ARGUMENT");
    // The reason is kept in clear.
    silent["reason"] = json!(format!("核对{NUMBER}。"));
    c.call("verifyIdentity", &lily, silent).await?.refused(400, "INVALID_ARGUMENT");
    assert_eq!(world.store.peek("accessLogs", 10).await?.len(), 0);
    c.call("verifyIdentity", &lily, claim(NAME, NUMBER)).await?.refused(403, "FORBIDDEN");

    let shown = c.call("verifyIdentity", &lily, event).await?;
    assert_eq!((&shown.ok()["idCard"], &shown.body["realName"]), (&json!(NUMBER), &json!(NAME)));
    let logs = world.store.peek("accessLogs", 10).await?;
    assert_eq!((logs.len(), &logs[0]["actor"]), (1, &json!({ "kind": "staff", "id": "lily" })));
    assert_eq!((&logs[0]["userId"], &logs[0]["reason"]), (&json!(user.as_str()), &json!("公安机关调证 第 12 号")));
    assert_eq!(logs[0]["traceId"], shown.body["requestId"]);
    world.finish().await
}

fn key(n: u8) -> [u8; KEY_BYTES] {
    [n; KEY_BYTES]
}

/// The world's own keys, behind new ones.
fn newer(world: &World, fields: &[&str], indexes: &[&str]) -> (FieldKeys, IndexKeys) {
    let own =
        |keys: &[edge::config::DataKey]| keys.iter().map(|k| (k.id.clone(), k.bytes().unwrap())).collect::<Vec<_>>();
    let new = |ids: &[&str]| {
        ids.iter().enumerate().map(|(i, id)| ((*id).to_owned(), key(u8::try_from(i).unwrap() + 1))).collect::<Vec<_>>()
    };
    let config = &world.app.config;
    let keys = |ids: &[&str], given: &[edge::config::DataKey]| [new(ids), own(given)].concat();
    (
        FieldKeys::new(keys(fields, &config.field_keys)).unwrap(),
        IndexKeys::new(keys(indexes, &config.index_keys)).unwrap(),
    )
}

async fn rotate(world: &World, keys: &(FieldKeys, IndexKeys), options: RotateOptions) -> anyhow::Result<RotateReport> {
    let now = world.app.clock.now();
    let rotation = Rotation { field_keys: &keys.0, index_keys: &keys.1, options, run_id: "run-1", now };
    Ok(world.store.rotate_keys(&rotation, &mut |_| {}).await?)
}

#[tokio::test]
async fn keys_are_rotated_and_old_ones_are_not_needed_any_more() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    for i in 0..5 {
        let token = c.login(&format!("k{i}")).await?;
        verify(c, &token, NAME, &id_number(100 + i)).await?.ok();
    }
    let keys = newer(&world, &["f2"], &["i2"]);
    let dry = rotate(&world, &keys, RotateOptions { dry_run: true, ..Default::default() }).await?;
    assert_eq!((dry.seen, dry.resealed, dry.indexed), (5, 10, 5));
    assert!(dry.field_keys.contains_key("local-key") && world.store.peek("accessLogs", 9).await?.is_empty());

    let done = rotate(&world, &keys, RotateOptions::default()).await?;
    assert_eq!((done.resealed, done.indexed, done.failed, done.changed_meanwhile), (10, 5, 0, 0));
    assert_eq!((done.field_keys.get("f2"), done.field_keys.get("local-key")), (Some(&10), None));
    assert_eq!((done.index_keys.get("i2"), done.index_keys.get("local-key")), (Some(&5), Some(&5)));
    let logs = world.store.peek("accessLogs", 9).await?;
    assert!(logs.len() == 5 && logs.iter().all(|l| l["actor"]["id"] == "rotate-keys" && l["traceId"] == "run-1"));
    let again = rotate(&world, &keys, RotateOptions::default()).await?;
    assert_eq!((again.resealed, again.indexed, world.store.peek("accessLogs", 9).await?.len()), (0, 0, 5));

    // Functions under the old index key alone still find a number; the old one goes when nothing knows it any more.
    let other = c.login("k9").await?;
    verify(c, &other, NAME, &id_number(100)).await?.refused(409, "CONFLICT");
    let only_new = (FieldKeys::new([("f2".to_owned(), key(1))])?, IndexKeys::new([("i2".to_owned(), key(1))])?);
    let dropped = rotate(&world, &only_new, RotateOptions { drop_retired: true, ..Default::default() }).await?;
    assert_eq!((dropped.indexed, dropped.failed, dropped.index_keys.get("local-key")), (5, 0, None));
    assert_eq!(world.store.peek("accessLogs", 9).await?.len(), 5, "dropping an index decrypts nothing");
    let user = user_id(&world, "k3").await?;
    let stored = world.store.identity(&user).await?.unwrap();
    let place = store::identities::Identity::place(&user, "idCard");
    assert_eq!(only_new.0.open(&place, stored.id_card.as_deref().unwrap())?, id_number(103).as_bytes());

    // Without the key that sealed them nothing is lost, and it is told.
    let strange = (FieldKeys::new([("f3".to_owned(), key(3))])?, IndexKeys::new([("i3".to_owned(), key(3))])?);
    let failed = rotate(&world, &strange, RotateOptions::default()).await?;
    assert_eq!((failed.failed, failed.resealed), (5, 0));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_and_erasures_at_once_leave_everything_readable_or_gone() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let mut tokens = Vec::new();
    for i in 0..12 {
        let token = c.login(&format!("m{i}")).await?;
        verify(c, &token, NAME, &id_number(200 + i)).await?.ok();
        tokens.push(token);
    }
    let keys = newer(&world, &["f2"], &["i2"]);
    let erasures = async {
        for token in tokens.iter().step_by(3) {
            let answer = action(c, token, "erase").await?;
            assert!(answer.body["erased"] == true || answer.body["retryable"] == true, "{answer:?}");
        }
        anyhow::Ok(())
    };
    let options = RotateOptions::default();
    let (a, b, erased) = tokio::join!(rotate(&world, &keys, options), rotate(&world, &keys, options), erasures);
    erased?;
    assert_eq!((a?.failed, b?.failed), (0, 0));
    let last = rotate(&world, &keys, options).await?;
    assert_eq!((last.changed_meanwhile, last.field_keys.get("local-key")), (0, None));
    for i in 0..12 {
        let user = user_id(&world, &format!("m{i}")).await?;
        if let Some(sealed) = world.store.identity(&user).await?.unwrap().id_card {
            let place = store::identities::Identity::place(&user, "idCard");
            assert_eq!(keys.0.open(&place, &sealed)?, id_number(200 + i).as_bytes());
        }
    }
    world.finish().await
}

fn key_list(keys: &[(&str, u8)]) -> String {
    use base64::Engine;
    let one = |(id, n): &(&str, u8)| {
        let key = base64::engine::general_purpose::STANDARD.encode(key(*n));
        json!({ "id": id, "key": key })
    };
    Value::from_iter(keys.iter().map(one)).to_string()
}

/// Killed between two documents, a rotation goes on where it stopped; without a key that is still needed it says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_goes_on() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    for i in 0..4 {
        let token = c.login(&format!("x{i}")).await?;
        verify(c, &token, NAME, &id_number(300 + i)).await?.ok();
    }
    // The local cloud's own keys are refused outside of it.
    let keys = newer(&world, &["f2"], &["i1", "i2"]);
    rotate(&world, &keys, RotateOptions::default()).await?;
    let (uri, database) = (mongod_uri().await?, world.app.config.store.as_ref().unwrap().database.clone());
    let command = |fields: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jinlu-it"));
        command.args(["rotate-keys", "--json", "--uri", &uri]).args(args);
        command.env("MONGODB_DATABASE", &database).env("FIELD_KEYS", fields);
        command.env("INDEX_KEYS", key_list(&[("i3", 8), ("i2", 2)]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let right = key_list(&[("f3", 9), ("f2", 1)]);
    let mut killed = command(&right, &[]).env("JINLU_CRASHPOINT", "rotate.document").spawn()?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(killed.stderr.take().unwrap()));
    assert!(lines.any(|line| line.is_ok_and(|line| line == "crashpoint rotate.document")));
    killed.kill()?;
    killed.wait()?;
    let report = |output: std::process::Output| -> (bool, Value) {
        (output.status.success(), serde_json::from_slice(&output.stdout).unwrap())
    };
    let (clean, stuck) = report(command(&key_list(&[("f3", 9)]), &[]).output()?);
    assert_eq!((clean, &stuck["failed"], &stuck["fieldKeys"]["f2"]), (false, &json!(3), &json!(6)), "{stuck}");
    let (clean, done) = report(command(&right, &[]).output()?);
    assert_eq!((clean, &done["resealed"], &done["fieldKeys"]), (true, &json!(6), &json!({ "f3": 8 })), "{done}");
    let (clean, done) = report(command(&key_list(&[("f3", 9)]), &["--drop-retired"]).output()?);
    assert_eq!((clean, &done["indexKeys"]), (true, &json!({ "i2": 4, "i3": 4 })), "{done}");
    let keys = FieldKeys::new([("f3".to_owned(), key(9))])?;
    for i in 0..4 {
        let user = user_id(&world, &format!("x{i}")).await?;
        let sealed = world.store.identity(&user).await?.unwrap().id_card.unwrap();
        let place = store::identities::Identity::place(&user, "idCard");
        assert_eq!(keys.open(&place, &sealed)?, id_number(300 + i).as_bytes());
    }
    world.finish().await
}

async fn raw(world: &World) -> anyhow::Result<mongodb::Database> {
    let name = world.app.config.store.as_ref().map(|s| s.database.clone()).unwrap_or_default();
    Ok(mongodb::Client::with_uri_str(mongod_uri().await?).await?.database(&name))
}

fn bson_of(value: &Value) -> bson::Document {
    let value: bson::Bson = value.clone().try_into().unwrap();
    value.as_document().unwrap().clone()
}

/// The whole flow in a process of its own at its most talkative level: neither its output nor any collection holds the number, the
/// name or the phone in clear.
#[tokio::test(flavor = "multi_thread")]
async fn no_number_name_or_phone_is_readable_in_logs_or_database() -> anyhow::Result<()> {
    let (uri, database, folder) = (mongod_uri().await?, database_name(), tempfile::tempdir()?);
    let mut child = Command::new(env!("CARGO_BIN_EXE_jinlu-it"))
        .args(["dev", "--no-timers", "--port", "0", "--log-level", "trace", "--data-dir"])
        .arg(folder.path())
        .env("MONGODB_URI", &uri)
        .env("MONGODB_DATABASE", &database)
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(folder.path().join("stderr.log"))?)
        .stdin(Stdio::null())
        .spawn()?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let base = lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix("ready ").map(str::to_owned));
    let flow = async {
        let c = Client::new(base.ok_or_else(|| anyhow::anyhow!("the host did not start"))?)?;
        let token = c.login("leak").await?;
        let wrong = "440524198801010012";
        verify(&c, &token, NAME, wrong).await?.refused(422, "ID_CARD_INVALID");
        verify(&c, &token, "欧阳不符", NUMBER).await?.refused(422, "ID_CARD_INVALID");
        c.control("faults", json!({ "target": "faceid", "mode": "500", "count": 1 })).await?.ok();
        verify(&c, &token, NAME, NUMBER).await?.refused(502, "UPSTREAM_ERROR");
        let mut event = claim(NAME, NUMBER);
        event["requestId"] = json!("leak-request-1");
        c.call("verifyIdentity", &token, event.clone()).await?.ok();
        c.call("verifyIdentity", &token, event).await?.ok();
        // Broken input is where values are quoted most easily.
        c.call("verifyIdentity", &token, json!({ "realName": [NAME], "idCard": { "no": NUMBER }, "consent": true }))
            .await?
            .refused(400, "INVALID_ARGUMENT");
        c.call("verifyIdentity", &token, json!({ "action": NUMBER, "realName": 1 }))
            .await?
            .refused(400, "INVALID_ARGUMENT");
        let broken = format!("{{\"realName\":\"{NAME}\",\"idCard\":\"{NUMBER}\"");
        c.post("/verifyIdentity", &[("x-app-session", token.as_str())], broken).await?.refused(400, "INVALID_JSON");
        c.call("sendSMS", &token, json!({ "phone": "13911112222", "purpose": "bind" })).await?.ok();
        // Messages to staff: one that goes out, one that WeChat refuses, and broken ones.
        let staff = json!({ "action": "upsert", "userId": "s-zhang", "openId": "o-zhang", "phone": "13911113333" });
        c.call_service("staff", staff).await?.ok();
        let assigned = json!({
            "customerId": "c-leak", "customerName": "泄漏客户", "customerPhone": "13911114444", "assignedToUserId": "s-li",
        });
        c.call_service("notifyAssignment", assigned.clone()).await?.ok();
        let fault =
            json!({ "target": "wechat", "path": "subscribe/send", "mode": "errcode", "errcode": 47003, "count": 1 });
        c.control("faults", fault).await?.ok();
        let mut refused = assigned.clone();
        refused["customerId"] = json!("c-leak2");
        c.call_service("notifyAssignment", refused).await?.ok();
        let mut broken = assigned;
        broken["customerPhone"] = json!(["13911114444", "泄漏客户"]);
        c.call_service("notifyAssignment", broken).await?.refused(400, "INVALID_ARGUMENT");
        c.timer("deliverOutbox").await?.ok();
        anyhow::Ok(())
    };
    let outcome = flow.await;
    child.kill()?;
    child.wait()?;
    outcome?;

    let mut logs = String::new();
    std::fs::File::open(folder.path().join("stderr.log"))?.read_to_string(&mut logs)?;
    logs.extend(lines.map_while(Result::ok));
    assert!(
        logs.contains("verifyIdentity") && logs.contains("IdCardVerification") && logs.contains("notifyAssignment"),
        "nothing was captured: {logs}"
    );
    let secrets = [NUMBER, "440524198801010012", NAME, "欧阳不符", "19880101"];
    let of_messages = ["13911113333", "13911114444", "泄漏客户", "local-crm-secret", "local-wechat-secret"];
    for secret in secrets.iter().chain(&["13911112222"]).chain(&of_messages) {
        let at = logs.lines().find(|line| line.contains(secret));
        assert!(at.is_none(), "the log holds {secret}: {at:?}");
    }
    let store = Store::new(StoreConfig::new(&uri, &database));
    for definition in definitions()? {
        for document in store.peek(&definition.name, 10_000).await? {
            let text = document.to_string();
            for secret in secrets {
                assert!(!text.contains(secret), "{} holds {secret}: {text}", definition.name);
            }
        }
    }
    #[expect(clippy::disallowed_methods, reason = "the time of the process that wrote")]
    let now = chrono::Utc::now();
    assert_eq!(violations(&store, now).await?, Vec::<String>::new());
    Ok(store.drop_database().await?)
}

#[tokio::test]
async fn without_a_provider_the_form_alone_is_checked() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("plain").await?;
    let config = Config { faceid: None, ..world.app.config.clone() };
    let app = App::new(config, world.app.clock.clone())?;
    let options = gateway::Options { env_id: "prod-1a2b3c".to_owned(), tc3: None, local: None };
    let router = gateway::Gateway::new(app, gateway::functions(), Vec::new(), options).router();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let client = Client::new(format!("http://{}", listener.local_addr()?))?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    verify(&client, &token, "张不符", NUMBER).await?.ok();
    let stored = world.store.identity(&user_id(&world, "plain").await?).await?.unwrap();
    assert!(stored.provider.is_none());
    world.finish().await
}
