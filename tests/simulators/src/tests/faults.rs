//! Faults that strike a share of the requests, and what was counted.

use super::*;
use crate::{Fault, FaultMode, Target};

const SEND: &str = "/cgi-bin/message/subscribe/send";

impl World {
    async fn send(&self, open_id: &str, value: &str) -> Result<Value, reqwest::Error> {
        let token = self.stable_token(false).await["access_token"].as_str().unwrap().to_owned();
        let body = json!({ "touser": open_id, "template_id": "t", "data": { "thing1": { "value": value } } });
        let url = format!("{}/sim/wechat{SEND}?access_token={token}", self.base);
        let reply = self.http.post(url).body(body.to_string()).timeout(Duration::from_secs(2)).send().await?;
        Ok(serde_json::from_str(&reply.text().await?).unwrap())
    }
}

async fn outcomes(seed: u64) -> Vec<i64> {
    let world = World::new().await;
    for (rate, errcode) in [(0.1, -1), (0.5, 43108)] {
        let fault = json!({ "target": "wechat", "path": SEND, "mode": "errcode", "errcode": errcode, "rate": rate, "seed": seed });
        assert_eq!(world.control("/faults", fault).await.status, 200);
    }
    let mut found = Vec::new();
    for n in 0..200 {
        found.push(world.send("o-a", &format!("{n}")).await.unwrap()["errcode"].as_i64().unwrap());
    }
    let faults = world.look("/faults").await["faults"].clone();
    let count = |errcode: i64| u64::try_from(found.iter().filter(|found| **found == errcode).count()).unwrap();
    // Who passes the first fault meets the second.
    assert_eq!((&faults[0]["seen"], &faults[0]["hits"]), (&json!(200), &json!(count(-1))));
    assert_eq!((&faults[1]["seen"], &faults[1]["hits"]), (&json!(200 - count(-1)), &json!(count(43108))));
    assert!((8..=36).contains(&count(-1)) && (60..=120).contains(&count(43108)), "{faults}");
    assert_eq!(u64::try_from(world.sim.messages(None).len()).unwrap(), count(0));
    assert_eq!(world.sim.requests(Target::Wechat, SEND), 200);
    assert_eq!(world.look("/requests").await["requests"]["wechat"], json!({ SEND: 200, "/cgi-bin/stable_token": 200 }));
    found
}

#[tokio::test]
async fn a_rate_strikes_the_same_requests_for_the_same_seed() {
    let first = outcomes(7).await;
    assert_eq!(first, outcomes(7).await);
    assert_ne!(first, outcomes(8).await);
}

#[tokio::test]
async fn a_rate_has_a_limit_if_it_is_given_one() {
    let world = World::new().await;
    let fault = Fault { count: Some(3), ..Fault::some(Target::Wechat, SEND, FaultMode::ServerError, 0.5, 1) };
    world.sim.fault(fault);
    let mut failed = 0;
    for _ in 0..40 {
        let token = world.stable_token(false).await["access_token"].as_str().unwrap().to_owned();
        let url = format!("{}/sim/wechat{SEND}?access_token={token}", world.base);
        failed += u32::from(world.http.post(url).body("{}").send().await.unwrap().status() == 500);
    }
    assert_eq!((failed, world.sim.waiting_faults().len()), (3, 0));
    for wrong in [json!(1.5), json!(-0.1), json!("x")] {
        let fault = json!({ "target": "wechat", "mode": "500", "rate": wrong });
        world.control("/faults", fault).await.refused(400, "INVALID_ARGUMENT");
    }
}

#[tokio::test]
async fn silence_may_come_before_or_after_the_effect() {
    let world = World::new().await;
    for (mode, effect) in [("timeout", 0), ("reset", 0), ("silence", 1), ("dropAfterCommit", 2)] {
        let fault = json!({ "target": "wechat", "path": SEND, "mode": mode, "ms": 50 });
        world.control("/faults", fault).await;
        assert!(world.send("o-a", "好").await.is_err(), "{mode}");
        assert_eq!(world.sim.messages(Some("o-a")).len(), effect, "{mode}");
    }
    // One who gives up first changes nothing about it.
    for (mode, effect) in [("timeout", 2), ("silence", 3)] {
        world.control("/faults", json!({ "target": "wechat", "path": SEND, "mode": mode })).await;
        assert!(world.send("o-a", "好").await.unwrap_err().is_timeout());
        assert_eq!(world.sim.messages(Some("o-a")).len(), effect, "{mode}");
    }
}

#[tokio::test]
async fn messages_are_paged_and_equal_ones_found() {
    let world = World::new().await;
    for (open_id, value) in [("o-a", "甲"), ("o-a", "乙"), ("o-b", "甲"), ("o-a", "甲")] {
        assert_eq!(world.send(open_id, value).await.unwrap()["errcode"], 0);
    }
    let page = world.look("/messages?after=1&limit=2").await;
    let ids: Vec<u64> = page["messages"].as_array().unwrap().iter().map(|m| m["msgId"].as_u64().unwrap()).collect();
    assert_eq!((ids, &page["total"]), (vec![2, 3], &json!(4)));
    assert_eq!(world.look("/messages?limit=1").await["messages"][0]["msgId"], 4, "the newest");
    let equal = world.look("/duplicates").await["duplicates"].clone();
    assert_eq!(equal.as_array().unwrap().len(), 1);
    assert_eq!((&equal[0]["openId"], &equal[0]["msgIds"]), (&json!("o-a"), &json!([1, 4])));

    world.control("/subscribe", json!({ "openId": "o-a", "templateId": "t", "count": 2 })).await;
    world.control("/subscribe", json!({ "openId": "o-b", "templateId": "t", "count": 1 })).await;
    world.send("o-a", "丙").await.unwrap();
    assert_eq!(
        world.look("/quota?openId=o-a").await["quotas"],
        json!([{ "openId": "o-a", "templateId": "t", "left": 1 }])
    );
    assert_eq!(world.look("/quota").await["quotas"].as_array().unwrap().len(), 2);
}
