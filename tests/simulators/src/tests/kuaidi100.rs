//! Parcels, with requests signed and written by hand.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use bytes::Bytes;
use chrono::TimeDelta;
use md5::{Digest as _, Md5};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

use super::{World, serve, state_file};
use crate::keys;

const NUMBER: &str = "YT0000000000001";
const SALT: &str = "0123456789abcdef";

fn md5(text: &str) -> String {
    hex::encode_upper(Md5::digest(text))
}

fn param(com: &str, num: &str, resultv2: &str) -> Value {
    json!({ "com": com, "num": num, "phone": "", "from": "", "to": "", "resultv2": resultv2, "show": "0", "order": "desc" })
}

fn form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))).collect();
    pairs.join("&")
}

impl World {
    async fn form(&self, path: &str, body: String) -> Value {
        let request = self.http.post(format!("{}/sim/kuaidi100{path}", self.base));
        let request = request.header("Content-Type", "application/x-www-form-urlencoded; charset=utf-8").body(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    async fn ask(&self, param: &Value) -> Value {
        let param = param.to_string();
        let sign = md5(&format!("{param}{}{}", keys::KUAIDI100_KEY, keys::KUAIDI100_CUSTOMER));
        let fields = [("customer", keys::KUAIDI100_CUSTOMER), ("sign", sign.as_str()), ("param", param.as_str())];
        self.form("/poll/query.do", form(&fields)).await
    }

    async fn follow(&self, param: &Value) -> Value {
        self.form("/poll", form(&[("schema", "json"), ("param", &param.to_string())])).await
    }

    async fn moved(&self, body: Value) -> Value {
        let got = self.control("/parcel", body).await;
        assert_eq!(got.status, 200, "{}", got.body);
        got.json()
    }
}

fn subscription(callback: &str, resultv2: &str) -> Value {
    json!({
        "company": "yuantong", "number": NUMBER, "from": "", "to": "", "key": keys::KUAIDI100_KEY,
        "parameters": { "callbackurl": callback, "salt": SALT, "resultv2": resultv2 },
    })
}

type Pushes = Arc<Mutex<Vec<(String, String)>>>;

/// A shop that writes pushes down, and answers with the next of `answers`, at last properly.
async fn shop(answers: &[&'static str]) -> (String, Pushes) {
    let pushes = Pushes::default();
    let state = (Arc::clone(&pushes), Arc::new(Mutex::new(answers.to_vec())));
    let handler = |State((pushes, answers)): State<(Pushes, Arc<Mutex<Vec<&'static str>>>)>, body: Bytes| async move {
        let body = String::from_utf8(body.to_vec()).unwrap();
        let field = |name: &str| {
            let value = body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap_or_default();
            percent_decode_str(value).decode_utf8().unwrap().into_owned()
        };
        pushes.lock().unwrap().push((field("param"), field("sign")));
        let mut answers = answers.lock().unwrap();
        if answers.is_empty() { r#"{"result":true,"returnCode":"200","message":"成功"}"# } else { answers.remove(0) }
    };
    let base = serve(Router::new().fallback(handler).with_state(state)).await;
    (format!("{base}/logisticsCallback?oid=o-1"), pushes)
}

fn holds((param, sign): &(String, String)) -> bool {
    md5(&format!("{param}{SALT}")) == *sign
}

#[tokio::test]
async fn a_query_shows_the_trace_in_the_form_asked_for() {
    let world = World::new().await;
    world.moved(json!({ "com": "yuantong", "num": NUMBER, "state": "103", "context": "已揽收", "at": "2026-11-20T01:00:00Z" })).await;
    world.moved(json!({ "num": NUMBER, "state": "1002", "context": "离开", "location": "杭州" })).await;
    let answer = world.ask(&param("yuantong", NUMBER, "4")).await;
    assert_eq!((&answer["status"], &answer["state"], &answer["ischeck"]), (&json!("200"), &json!("1002"), &json!("0")));
    assert_eq!(answer["data"][0]["ftime"], "2026-11-21 10:00:00");
    assert_eq!(answer["data"][1]["ftime"], "2026-11-20 09:00:00");
    assert_eq!(answer["data"][0]["statusCode"], "1002");
    assert!(answer["routeInfo"].is_object());

    world.clock.advance(TimeDelta::minutes(30));
    world.moved(json!({ "num": NUMBER, "state": "304" })).await;
    let mut plain = param("yuantong", NUMBER, "0");
    plain["order"] = json!("asc");
    let answer = world.ask(&plain).await;
    assert_eq!((&answer["state"], &answer["ischeck"]), (&json!("3"), &json!("1")));
    assert_eq!(answer["data"][0]["context"], "已揽收");
    assert_eq!(answer["data"][0].get("statusCode"), None);
    assert_eq!(answer.get("routeInfo"), None);
}

#[tokio::test]
async fn wrong_signatures_and_forms_are_refused() {
    let world = World::new().await;
    world.moved(json!({ "com": "yuantong", "num": NUMBER, "state": "1" })).await;
    let good = param("yuantong", NUMBER, "4").to_string();
    let sign = |param: &str| md5(&format!("{param}{}{}", keys::KUAIDI100_KEY, keys::KUAIDI100_CUSTOMER));
    let customer = ("customer", keys::KUAIDI100_CUSTOMER);
    let other = good.replace(NUMBER, "YT0000000000002");
    let ours = sign(&good);
    let lower = ours.to_lowercase();
    for (fields, code) in [
        (vec![customer, ("sign", lower.as_str()), ("param", &good)], "503"),
        (vec![customer, ("sign", &ours), ("param", &other)], "503"),
        (vec![("customer", "SOMEBODY"), ("sign", &ours), ("param", &good)], "503"),
        (vec![customer, ("param", &good)], "400"),
        (vec![customer, ("sign", &ours), ("param", &good), ("param", &good)], "400"),
        (vec![customer, ("sign", &ours), ("param", &good), ("token", "x")], "400"),
    ] {
        let answer = world.form("/poll/query.do", form(&fields)).await;
        assert_eq!((&answer["result"], &answer["returnCode"]), (&json!(false), &json!(code)), "{answer}");
    }
    let json_body = world.http.post(format!("{}/sim/kuaidi100/poll/query.do", world.base)).body(good.clone());
    let answer: Value = serde_json::from_str(&json_body.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(answer["returnCode"], "400");

    for (field, value) in [
        ("com", json!("YuanTong")),
        ("com", json!("nobody")),
        ("num", json!("12345")),
        ("num", Value::Null),
        ("resultv2", json!("8")),
        ("resultv2", json!("3")),
        ("show", json!("1")),
        ("token", json!("x")),
    ] {
        let mut wrong = param("yuantong", NUMBER, "4");
        wrong[field] = value;
        let answer = world.ask(&wrong).await;
        assert_eq!(answer["returnCode"], "400", "{field}: {answer}");
    }
    assert_eq!(world.ask(&param("yuantong", "YT0000000000009", "4")).await["returnCode"], "500");
    assert_eq!(world.http.get(format!("{}/sim/kuaidi100/x", world.base)).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn three_companies_want_a_phone_number() {
    let world = World::new().await;
    for com in ["shunfeng", "shunfengkuaiyun", "zhongtong"] {
        world.moved(json!({ "com": com, "num": "SF1234567890", "state": "1", "phone": "13800138000" })).await;
        for (phone, found) in [("", false), ("13900139000", false), ("8001", false), ("13800138000", true)] {
            world.clock.advance(TimeDelta::minutes(31));
            let mut asked = param(com, "SF1234567890", "4");
            asked["phone"] = json!(phone);
            let answer = world.ask(&asked).await;
            if found {
                assert_eq!(answer["status"], "200", "{com} {phone}: {answer}");
            } else {
                assert_eq!(answer["returnCode"], "408", "{com} {phone}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn asking_too_often_freezes_a_number_for_a_day() {
    let world = World::new().await;
    world.moved(json!({ "com": "yuantong", "num": NUMBER, "state": "1" })).await;
    let asked = param("yuantong", NUMBER, "0");
    let state = async || world.ask(&asked).await["state"].clone();
    assert_eq!(state().await, "1");
    world.clock.advance(TimeDelta::minutes(29));
    assert_eq!(state().await, "1");
    world.moved(json!({ "num": NUMBER, "state": "5" })).await;
    world.clock.advance(TimeDelta::hours(23));
    assert_eq!(state().await, "1", "frozen");
    assert!(world.look(&format!("/parcel?num={NUMBER}")).await["parcels"][0]["lockedUntil"].is_string());
    world.clock.advance(TimeDelta::hours(2));
    assert_eq!(state().await, "5");

    // Every half hour is fine for a day, and any longer too: 48 fit in.
    for _ in 0..60 {
        world.clock.advance(TimeDelta::minutes(30));
        state().await;
    }
    assert_eq!(world.look(&format!("/parcel?num={NUMBER}")).await["parcels"][0]["lockedUntil"], Value::Null);
}

#[tokio::test]
async fn who_subscribes_is_told_with_a_signature() {
    for (resultv2, state) in [("4", "304"), ("1", "3"), ("0", "3")] {
        let world = World::new().await;
        let (callback, pushes) = shop(&[]).await;
        let answer = world.follow(&subscription(&callback, resultv2)).await;
        assert_eq!((&answer["result"], &answer["returnCode"]), (&json!(true), &json!("200")), "{answer}");
        assert_eq!(world.follow(&subscription(&callback, resultv2)).await["returnCode"], "501");

        let moved = world.moved(json!({ "num": NUMBER, "com": "yuantong", "state": "103" })).await;
        assert_eq!(moved["pushStatus"], 200);
        world.moved(json!({ "num": NUMBER, "state": "304" })).await;
        let pushes = pushes.lock().unwrap().clone();
        assert!(pushes.len() == 2 && pushes.iter().all(holds));
        let last: Value = serde_json::from_str(&pushes[1].0).unwrap();
        assert_eq!((&last["status"], &last["lastResult"]["state"]), (&json!("shutdown"), &json!(state)));
        assert_eq!(last["lastResult"]["data"].as_array().unwrap().len(), 2);

        // It has ended: nobody is told, and half an hour later it may be renewed.
        assert_eq!(world.moved(json!({ "num": NUMBER })).await["pushes"], json!([]));
        assert_eq!(world.follow(&subscription(&callback, resultv2)).await["returnCode"], "501");
        world.clock.advance(TimeDelta::minutes(30));
        assert_eq!(world.follow(&subscription(&callback, resultv2)).await["returnCode"], "200");
    }
}

#[tokio::test]
async fn pushes_come_twice_changed_late_and_again() {
    let world = World::new().await;
    let (callback, pushes) = shop(&[]).await;
    world.follow(&subscription(&callback, "4")).await;
    let send = async |push: &str, state: &str| {
        pushes.lock().unwrap().clear();
        world.moved(json!({ "com": "yuantong", "num": NUMBER, "state": state, "push": push })).await;
        pushes.lock().unwrap().clone()
    };
    let state =
        |push: &(String, String)| serde_json::from_str::<Value>(&push.0).unwrap()["lastResult"]["state"].clone();
    assert!(send("none", "103").await.is_empty());
    let twice = send("duplicate", "1002").await;
    assert!(twice.len() == 2 && twice[0] == twice[1] && holds(&twice[0]));
    let order = send("outOfOrder", "5").await;
    assert!(order.iter().all(holds));
    assert_eq!((state(&order[0]), state(&order[1])), (json!("5"), json!("1002")));
    for forged in ["tampered", "wrongSalt", "unsigned"] {
        let sent = send(forged, "501").await;
        assert!(sent.len() == 1 && !holds(&sent[0]), "{forged}");
    }

    let (callback, pushes) = shop(&["success", r#"{"result":false,"returnCode":"500"}"#]).await;
    let mut other = subscription(&callback, "4");
    other["number"] = json!("YT0000000000002");
    world.follow(&other).await;
    let moved = world.moved(json!({ "com": "yuantong", "num": "YT0000000000002", "state": "1", "retry": true })).await;
    assert_eq!(moved["pushes"].as_array().unwrap().len(), 3);
    assert_eq!(pushes.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_company_put_right_is_told_by_two_pushes() {
    let world = World::new().await;
    let (callback, pushes) = shop(&[]).await;
    world.follow(&subscription(&callback, "4")).await;
    world.moved(json!({ "com": "yuantong", "num": NUMBER, "comNew": "ems" })).await;
    world.moved(json!({ "num": NUMBER, "state": "103" })).await;
    let told: Vec<Value> =
        pushes.lock().unwrap().iter().map(|(param, _)| serde_json::from_str(param).unwrap()).collect();
    let facts =
        |push: &Value| ["status", "comOld", "comNew", "autoCheck"].map(|name| push[name].as_str().unwrap().to_owned());
    assert_eq!(facts(&told[0]), ["abort", "yuantong", "ems", "0"]);
    assert_eq!(facts(&told[1]), ["polling", "yuantong", "ems", "1"]);
    assert_eq!(told[1]["lastResult"]["com"], "ems");
}

#[tokio::test]
async fn subscriptions_are_checked() {
    let world = World::new().await;
    let (callback, _) = shop(&[]).await;
    let with = |change: fn(&mut Value)| {
        let mut body = subscription(&callback, "4");
        change(&mut body);
        body
    };
    for (body, code) in [
        (with(|body| body["key"] = json!("wrong")), "600"),
        (with(|body| body["company"] = json!("nobody")), "701"),
        (with(|body| body["company"] = json!("")), "700"),
        (with(|body| body["number"] = json!("1")), "701"),
        (with(|body| body["parameters"]["callbackurl"] = json!("/callback")), "700"),
        (with(|body| body["parameters"]["salt"] = json!("0123456789abcdef0123456789abcdef0")), "700"),
        (with(|body| body["parameters"]["extra"] = json!("x")), "700"),
        (with(|body| body["company"] = json!("zhongtong")), "700"),
        (json!({ "company": "yuantong" }), "700"),
    ] {
        let answer = world.follow(&body).await;
        assert_eq!((&answer["result"], &answer["returnCode"]), (&json!(false), &json!(code)), "{body}");
    }
    for refused in [
        json!({ "num": NUMBER, "state": "1" }),
        json!({ "com": "x", "num": NUMBER }),
        json!({ "com": "ems", "num": NUMBER, "state": "signed" }),
    ] {
        assert_eq!(world.control("/parcel", refused).await.status, 400);
    }
}

#[tokio::test]
async fn faults_answer_in_every_shape() {
    let world = World::new().await;
    world.moved(json!({ "com": "yuantong", "num": NUMBER, "state": "1" })).await;
    let asked = param("yuantong", NUMBER, "4");
    let fault = async |mode: &str, errcode: Value| {
        let mut body = json!({ "target": "kuaidi100", "mode": mode, "path": "/sim/kuaidi100/poll/query.do" });
        if !errcode.is_null() {
            body["errcode"] = errcode;
        }
        world.control("/faults", body).await.status
    };
    assert_eq!(fault("errcode", json!("601")).await, 200);
    assert_eq!(world.ask(&asked).await, json!({ "result": false, "returnCode": "601", "message": "injected" }));
    assert_eq!(fault("errcode", json!(408)).await, 200);
    assert_eq!(world.ask(&asked).await, json!({ "status": "408", "message": "injected", "data": [] }));
    assert_eq!(fault("429", Value::Null).await, 200);
    assert_eq!(world.ask(&asked).await["returnCode"], "502");
    assert_eq!(fault("badSignature", Value::Null).await, 400);
    assert_eq!(fault("errcode", json!(true)).await, 400);
    assert_eq!(fault("500", Value::Null).await, 200);
    let url = format!("{}/sim/kuaidi100/poll/query.do", world.base);
    assert_eq!(world.http.post(&url).send().await.unwrap().status(), 500);
    assert_eq!(fault("reset", Value::Null).await, 200);
    let cut = world.http.post(&url).send().await;
    assert!(match cut {
        Ok(response) => response.text().await.is_err(),
        Err(_) => true,
    });
    assert_eq!(world.ask(&asked).await["status"], "200");
}

#[tokio::test]
async fn parcels_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let remember = |config: &mut crate::SimConfig| config.state_file = Some(state_file(folder.path()));
    let (callback, pushes) = shop(&[]).await;
    {
        let world = World::with(remember).await;
        world.follow(&subscription(&callback, "4")).await;
    }
    let world = World::with(remember).await;
    world.moved(json!({ "num": NUMBER, "state": "301" })).await;
    assert!(holds(&pushes.lock().unwrap()[0]));
}
