//! drand: rounds follow the clock, signatures hold, faults are what they say.

use blst::BLST_ERROR;
use blst::min_sig::{PublicKey, Signature};
use chrono::TimeDelta;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::World;
use crate::keys;
use crate::{Fault, FaultMode, Target};

async fn get(world: &World, path: &str) -> (u16, Value) {
    let reply = world.http.get(format!("{}/sim/drand/{path}", world.base)).send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap_or(Value::Null))
}

fn holds(info: &Value, beacon: &Value) -> bool {
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let key = PublicKey::from_bytes(&bytes(&info["public_key"])).unwrap();
    let signature = Signature::from_bytes(&bytes(&beacon["signature"])).unwrap();
    let message = Sha256::digest(beacon["round"].as_u64().unwrap().to_be_bytes());
    let dst = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";
    beacon["randomness"] == hex::encode(Sha256::digest(bytes(&beacon["signature"])))
        && signature.verify(true, &message, dst, &[], &key, true) == BLST_ERROR::BLST_SUCCESS
}

#[tokio::test]
async fn rounds_appear_with_the_clock_and_are_signed() {
    let world = World::new().await;
    let chain = keys::DRAND_CHAIN;
    let (_, info) = get(&world, &format!("{chain}/info")).await;
    assert_eq!((info["hash"].as_str(), info["period"].as_u64()), (Some(chain), Some(3)));
    let (_, latest) = get(&world, &format!("{chain}/public/latest")).await;
    let round = latest["round"].as_u64().unwrap();
    assert!(holds(&info, &latest));

    let next = format!("{chain}/public/{}", round + 1);
    assert_eq!(get(&world, &next).await.0, 404);
    world.clock.advance(TimeDelta::seconds(3));
    let (status, beacon) = get(&world, &next).await;
    assert_eq!((status, beacon["round"].as_u64()), (200, Some(round + 1)));
    assert!(holds(&info, &beacon));
    assert_eq!(get(&world, &next).await.1, beacon, "a round never changes");

    for unknown in [format!("{chain}/public/0"), format!("{chain}/public/x"), "00/public/1".to_owned(), "x".to_owned()]
    {
        assert_eq!(get(&world, &unknown).await.0, 404, "{unknown}");
    }
}

#[tokio::test]
async fn faults_forge_fail_and_cut() {
    let world = World::new().await;
    let path = format!("{}/public/1000", keys::DRAND_CHAIN);
    let (_, info) = get(&world, &format!("{}/info", keys::DRAND_CHAIN)).await;
    world.sim.fault(Fault::new(Target::Drand, FaultMode::BadSignature, 1));
    let (status, forged) = get(&world, &path).await;
    assert_eq!((status, forged["round"].as_u64()), (200, Some(1000)));
    assert!(!holds(&info, &forged));
    world.sim.fault(Fault::new(Target::Drand, FaultMode::ServerError, 1));
    assert_eq!(get(&world, &path).await.0, 500);
    world.sim.fault(Fault::new(Target::Drand, FaultMode::Reset, 1));
    let cut = world.http.get(format!("{}/sim/drand/{path}", world.base)).send().await;
    assert!(match cut {
        Err(_) => true,
        Ok(reply) => reply.bytes().await.is_err(),
    });
    assert!(holds(&info, &get(&world, &path).await.1));
}
