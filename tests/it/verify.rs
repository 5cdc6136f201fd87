//! Two checks of draws, ours and the one in `docs/verify_draw.py`, which was written from `docs/draw.md` alone: they must agree on
//! honest records and on tampered ones. And the command that people run.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use domain::draw::{self, Chain, Record, TicketId, TicketsHasher};
use it::World;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use simulators::{Fault, FaultMode, Target};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn example() -> Value {
    serde_json::from_str(include_str!("../../docs/draw_example.json")).unwrap()
}

/// Runs Python, which the machines that decide must have.
#[expect(clippy::disallowed_methods, reason = "CI says so in its environment")]
fn python(arguments: &[&str]) -> Option<Output> {
    match Command::new("python3").args(arguments).current_dir(root()).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var("CI").as_deref() != Ok("true") => {
            eprintln!("skipped: python3 is not installed");
            None
        }
        Err(error) => panic!("python3: {error}"),
    }
}

/// An honest record.
#[derive(Clone, Debug)]
struct Draw {
    openids: usize,
    quota: u64,
    rate: Option<u64>,
    auto: bool,
    beacon: u8,
    seed: [u8; 32],
    bare: bool,
}

fn draws() -> impl Strategy<Value = Draw> {
    let rate = prop_oneof![Just(None), (0..=10_000_u64).prop_map(Some)];
    (0..30_usize, 0..20_u64, rate, any::<bool>(), 0..3_u8, any::<[u8; 32]>(), any::<bool>()).prop_map(
        |(openids, quota, rate, auto, beacon, seed, bare)| Draw { openids, quota, rate, auto, beacon, seed, bare },
    )
}

fn record(draw: &Draw) -> Value {
    let mut record = example();
    let round = "轮次-1";
    let mut tickets: Vec<TicketId> =
        (0..draw.openids).map(|n| draw::ticket_id(&draw.seed, round, &format!("o-{n}"))).collect();
    tickets.sort_unstable();
    let mut hasher = TicketsHasher::new();
    tickets.iter().for_each(|ticket| hasher.push(ticket).unwrap());
    let hash = hasher.finish();
    record["roundId"] = json!(round);
    record["rules"]["mode"] = json!(if draw.auto { "auto" } else { "fixed" });
    record["rules"]["quota"] = json!(draw.quota);
    record["rules"]["winRateBp"] = json!(draw.rate);
    match draw.beacon {
        0 => {}
        1 => {
            record["rules"]["beacon"] = json!({ "source": "none" });
            record["beacon"] = json!("");
        }
        _ => {
            record["rules"]["beacon"] = json!({ "source": "public", "name": "上证指数 close" });
            record["beacon"] = json!("33303738e98791");
        }
    }
    if draw.beacon > 0 {
        record.as_object_mut().unwrap().remove("beaconSignature");
    }
    record["seed"] = json!(hex::encode(draw.seed));
    record["commit"] = json!(draw::commit(&draw.seed));
    let key = draw::draw_key(&draw.seed, round, &hash, record["beacon"].as_str().unwrap());
    let ranked = draw::rank(&key, tickets.clone());
    let typed: Record = serde_json::from_value(record.clone()).unwrap();
    let n = u64::try_from(tickets.len()).unwrap();
    let k = draw::winners_count(typed.rules.mode, draw.quota, draw.rate, n);
    let (winners, waiting) = ranked.split_at(usize::try_from(k).unwrap());
    record["rulesHash"] = json!(typed.expected_rules_hash());
    record["k"] = json!(k);
    record["tickets"] = json!(tickets);
    record["ticketsHash"] = json!(hash);
    record["winners"] = json!(winners);
    record["waiting"] = json!(waiting);
    if draw.bare {
        record.as_object_mut().unwrap().remove("rulesHash");
        record.as_object_mut().unwrap().remove("status");
    }
    record
}

/// Everything in a record that can be bent, as a JSON pointer and what is put there.
fn bends(record: &Value) -> Vec<(String, Value)> {
    let mut bends: Vec<(String, Value)> = [
        ("/version", json!(2)),
        ("/roundId", json!("other")),
        ("/roundId", json!("a\nb")),
        ("/activityId", json!("a2")),
        ("/rules/quota", json!(3)),
        ("/rules/quota", json!(0)),
        ("/rules/winRateBp", json!(5_000)),
        ("/rules/winRateBp", json!(10_001)),
        ("/rules/winRateBp", Value::Null),
        ("/rules/mode", json!("auto")),
        ("/rules/mode", json!("fixed")),
        ("/rules/mode", json!("luck")),
        ("/rules/unused", json!("stock")),
        ("/rules/passUntil", Value::Null),
        ("/rules/beacon", json!({ "source": "none" })),
        ("/rules/beacon/source", json!("public")),
        ("/rules/beacon/source", json!("dice")),
        ("/rules/beacon/round", json!(999)),
        ("/rules/beacon/round", json!(0)),
        ("/rules/beacon/round", json!(990)),
        ("/rules/beacon/round", json!(5_000)),
        ("/rules/beacon/chain", json!("ab")),
        ("/rules/beacon/name", json!("x")),
        ("/rules/beacon/name", json!(" ")),
        ("/rulesHash", json!("00")),
        ("/commit", json!("00".repeat(32))),
        ("/seed", Value::Null),
        ("/seed", json!("00".repeat(32))),
        ("/seed", json!("AB".repeat(32))),
        ("/beacon", json!("")),
        ("/beacon", json!("ff")),
        ("/beacon", json!("00".repeat(32))),
        ("/beaconSignature", Value::Null),
        ("/beaconSignature", json!("00".repeat(48))),
        ("/ticketsHash", json!("00".repeat(32))),
        ("/ticketsHash", Value::Null),
        ("/k", json!(1)),
        ("/k", json!(-1)),
        ("/rules/quota", json!(-1)),
        ("/rules/quota", json!(5.5)),
        ("/openedAt", json!("2023-08-23")),
        ("/k", Value::Null),
        ("/openedAt", json!("2023-08-23T15:59:30.000Z")),
        ("/closedAt", json!("2023-08-23T15:59:30.000Z")),
        ("/closedAt", json!("2023-08-24T15:59:30.000Z")),
        ("/drawnAt", json!("2023-08-23T15:59:20.000Z")),
        ("/drawnAt", json!("2023-08-23T15:00:00.000Z")),
        ("/drawnAt", Value::Null),
        ("/drawnAt", json!("now")),
        ("/status", json!("void")),
        ("/status", json!("drawn")),
        ("/notice", json!("a sentence")),
    ]
    .map(|(at, value)| (at.to_owned(), value))
    .into();
    for name in ["tickets", "winners", "waiting"] {
        let list = record[name].as_array().unwrap();
        let mut bend = |change: fn(&mut Vec<Value>)| {
            let mut list = list.clone();
            change(&mut list);
            bends.push((format!("/{name}"), json!(list)));
        };
        bend(|list| list.push(json!("f".repeat(32))));
        bend(|list| list.insert(0, json!("nobody")));
        bend(|list| list.reverse());
        bend(|list| drop(list.pop()));
        bend(|list| list.extend(list.first().cloned()));
        bend(Vec::clear);
    }
    bends
}

/// What a tampered record looks like; a value that is not there is added.
fn bent(record: &Value, at: &str, value: &Value) -> Value {
    let mut record = record.clone();
    let (parent, name) = at.rsplit_once('/').unwrap();
    if let Some(parent) = record.pointer_mut(parent) {
        parent[name] = value.clone();
    }
    record
}

/// Our opinion, without the curve, which Python's standard library does not have.
fn holds(record: &Value) -> bool {
    serde_json::from_value::<Record>(record.clone()).is_ok_and(|record| draw::verify(&record).is_ok())
}

#[test]
fn two_implementations_agree_about_every_record() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut records = vec![example()];
    for _ in 0..40 {
        let draw = draws().new_tree(&mut runner).unwrap().current();
        let honest = record(&draw);
        assert!(holds(&honest), "{draw:?}");
        records.push(honest);
    }
    let mut all = Vec::new();
    for record in records {
        let bends = bends(&record);
        all.extend(bends.iter().map(|(at, value)| (format!("{at} = {value}"), bent(&record, at, value))));
        all.push(("honest".to_owned(), record));
    }
    let path = folder.path().join("records.json");
    std::fs::write(&path, serde_json::to_vec(&all.iter().map(|(_, record)| record).collect::<Vec<_>>())?)?;
    let script = "import json, sys; sys.path.insert(0, 'docs'); sys.dont_write_bytecode = True; import verify_draw as v\n\
                  def holds(record):\n\
                  \x20   try: return not v.faults(record)\n\
                  \x20   except (KeyError, TypeError, AttributeError, ValueError): return False\n\
                  print(json.dumps([holds(record) for record in json.load(open(sys.argv[1], encoding='utf-8'))]))";
    let Some(output) = python(&["-c", script, path.to_str().unwrap()]) else { return Ok(()) };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<bool> = serde_json::from_slice(&output.stdout)?;
    assert_eq!(theirs.len(), all.len());
    let mut counts = [0; 2];
    for ((what, record), theirs) in all.iter().zip(theirs) {
        let ours = holds(record);
        assert_eq!(ours, theirs, "{what}: ours {ours}, theirs {theirs}\n{record:#}");
        counts[usize::from(ours)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 100), "tampered and honest: {counts:?}");
    Ok(())
}

#[test]
fn the_python_program_runs_as_described() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(output) = python(&["docs/verify_draw.py", "docs/draw_example.json", "docs/draw_example.json"]) else {
        return Ok(());
    };
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), "the draw holds\n".as_bytes()));
    let path = folder.path().join("bent.json");
    std::fs::write(&path, bent(&example(), "/k", &json!(4)).to_string())?;
    let output = python(&["docs/verify_draw.py", path.to_str().unwrap()]).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), "k: the rules give 3\n".as_bytes()));
    let quota = bent(&example(), "/rules/quota", &json!(9));
    std::fs::write(&path, quota.to_string())?;
    let output = python(&["docs/verify_draw.py", "docs/draw_example.json", path.to_str().unwrap()]).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), "rules: not as announced\n".as_bytes()));
    std::fs::write(&path, "{}")?;
    let output = python(&["docs/verify_draw.py", path.to_str().unwrap()]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    Ok(())
}

/// A draw with the local chain, whose rounds the simulator signs.
fn local_draw() -> Value {
    let chain = Chain::local();
    let mut record = example();
    let closed = "2026-11-21T01:30:00.000Z";
    let round = chain.round_at(closed.parse().unwrap());
    record["openedAt"] = json!("2026-11-21T01:00:00.000Z");
    record["closedAt"] = json!(closed);
    record["drawnAt"] = json!("2026-11-21T01:30:40.000Z");
    record["rules"]["beacon"] = json!({ "source": "drand", "chain": chain.hash, "round": round });
    let signature = simulators::drand::signature(round).unwrap();
    record["beacon"] = json!(draw::beacon_of(&signature).unwrap());
    record["beaconSignature"] = json!(signature);
    let seed: [u8; 32] = hex::decode(record["seed"].as_str().unwrap()).unwrap().try_into().unwrap();
    let typed: Record = serde_json::from_value(record.clone()).unwrap();
    let hash = typed.tickets_hash.clone().unwrap();
    let key = draw::draw_key(&seed, &typed.round_id, &hash, &typed.beacon);
    let ranked = draw::rank(&key, typed.tickets.iter().map(|ticket| ticket.parse().unwrap()).collect());
    record["winners"] = json!(ranked[..3]);
    record["waiting"] = json!(ranked[3..]);
    record["rulesHash"] = json!(typed.expected_rules_hash());
    record
}

#[tokio::test]
async fn the_local_cloud_has_rounds_that_verify() -> anyhow::Result<()> {
    let world = World::start().await?;
    let config = providers::drand::Config {
        base_url: format!("{}/sim/drand", world.client.base),
        chain: Chain::local(),
        timeout: Duration::from_secs(5),
    };
    let client = providers::drand::Client::new(config)?;
    let beacon = client.fetch(1000).await?.unwrap();
    assert_eq!(Some(&beacon.randomness), draw::beacon_of(&beacon.signature).as_ref());
    assert_eq!(client.fetch(1_000_000_000).await?, None);
    world.sim.fault(Fault::new(Target::Drand, FaultMode::BadSignature, 1));
    assert!(matches!(client.fetch(1000).await, Err(providers::drand::DrandError::Forged(_))));
    assert_eq!(client.fetch(1000).await?, Some(beacon));
    world.finish().await
}

pub(crate) fn jinlu(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_jinlu-it"))
        .arg("verify-draw")
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_command_tells_what_holds_and_what_does_not() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let save = |name: &str, record: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, record.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mine = example()["winners"][1].as_str().unwrap().to_owned();
    let (ok, text) = jinlu(&["docs/draw_example.json", "--announced", "docs/draw_example.json", "--ticket", &mine]);
    assert!(ok && text.contains("the draw holds") && text.contains("signature verified"), "{text}");
    assert!(text.contains(&format!("ticket {mine} won, place 2")), "{text}");

    let local = save("local.json", &json!({ "success": true, "record": local_draw() }));
    let (ok, text) = jinlu(&[&local]);
    assert!(ok && text.contains("it proves nothing"), "{text}");
    let forged = save("forged.json", &bent(&local_draw(), "/rules/beacon/round", &json!(217_300_000)));
    let (ok, text) = jinlu(&[&forged]);
    assert!(!ok && text.contains("beaconSignature: the signature is not this chain's for this round"), "{text}");

    let other = save("other.json", &bent(&example(), "/quota", &json!(1)));
    assert!(jinlu(&[&other, "docs/draw_example.json"]).0, "unknown fields change nothing");
    let announced = save("announced.json", &bent(&example(), "/rules/quota", &json!(9)));
    let (ok, text) = jinlu(&["docs/draw_example.json", "--announced", &announced]);
    assert!(!ok && text.contains("rules.quota: was announced as \"9\", is now \"5\""), "{text}");
    let (ok, text) = jinlu(&["docs/draw_example.json", "--ticket", &"0".repeat(32)]);
    assert!(!ok && text.contains("your ticket 00000000000000000000000000000000 is not among them"), "{text}");
    let second = save("second.json", &bent(&example(), "/roundId", &json!("second")));
    let (ok, text) = jinlu(&["docs/draw_example.json", &second]);
    assert!(!ok && text.contains("rounds 20230823-2330-a1 and second have the same seed"), "{text}");

    let (ok, text) = jinlu(&["--json", &second]);
    let report: Value = serde_json::from_str(&text)?;
    assert!(!ok && report["holds"] == false && report["records"][0]["faults"][0]["field"] == "rulesHash", "{text}");
    for wrong in [vec!["missing.json"], vec!["README.md"], vec![], vec!["--cloud", "http://127.0.0.1:1"]] {
        assert!(!jinlu(&wrong).0, "{wrong:?}");
    }
    Ok(())
}
