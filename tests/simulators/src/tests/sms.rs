//! Text messages. Requests are signed by hand, with `ring` where the simulator uses `hmac` and `sha2`.

use chrono::{DateTime, TimeDelta, Utc};
use ring::{digest, hmac};
use serde_json::{Value, json};

use super::{World, state_file};
use crate::keys;

fn body(phone: &str, code: &str) -> Value {
    json!({
        "PhoneNumberSet": [phone], "SmsSdkAppId": keys::SMS_APP_ID, "SignName": keys::SMS_SIGN,
        "TemplateId": keys::SMS_TEMPLATE, "TemplateParamSet": [code, "5"], "SessionContext": "order-1",
    })
}

fn without(mut body: Value, field: &str) -> Value {
    body.as_object_mut().unwrap().remove(field);
    body
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

/// How a request is signed and sent; the default is a proper one.
struct Sms {
    body: String,
    sent_body: Option<String>,
    content_type: &'static str,
    sent_content_type: Option<&'static str>,
    signed: &'static str,
    /// What is signed in place of the proper canonical request.
    canonical: fn(String) -> String,
    secret_id: &'static str,
    secret_key: &'static str,
    service: &'static str,
    /// The credential's date, as hours off UTC.
    date_offset: i64,
    age: TimeDelta,
    version: Option<&'static str>,
    action: Option<&'static str>,
    region: Option<&'static str>,
    authorization: fn(String) -> String,
    path: &'static str,
}

impl Sms {
    fn new(body: &Value) -> Self {
        Self {
            body: body.to_string(),
            sent_body: None,
            content_type: "application/json; charset=utf-8",
            sent_content_type: None,
            signed: "content-type;host;x-tc-action",
            canonical: |text| text,
            secret_id: keys::SMS_SECRET_ID,
            secret_key: keys::SMS_SECRET_KEY,
            service: "sms",
            date_offset: 0,
            age: TimeDelta::zero(),
            version: Some("2021-01-11"),
            action: Some("SendSms"),
            region: Some("ap-guangzhou"),
            authorization: |text| text,
            path: "",
        }
    }

    fn authorization(&self, host: &str, at: DateTime<Utc>) -> String {
        let sha = |bytes: &[u8]| hex::encode(digest::digest(&digest::SHA256, bytes));
        let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let action = self.action.unwrap_or_default().to_lowercase();
        let headers: String = self
            .signed
            .split(';')
            .map(|name| match name {
                "content-type" => format!("content-type:{}\n", self.content_type.to_lowercase()),
                "host" => format!("host:{host}\n"),
                "x-tc-action" => format!("x-tc-action:{action}\n"),
                other => panic!("{other}"),
            })
            .collect();
        let canonical =
            (self.canonical)(format!("POST\n/\n\n{headers}\n{}\n{}", self.signed, sha(self.body.as_bytes())));
        let date = (at + TimeDelta::hours(self.date_offset)).format("%Y-%m-%d").to_string();
        let scope = format!("{date}/{}/tc3_request", self.service);
        let string = format!("TC3-HMAC-SHA256\n{}\n{scope}\n{}", at.timestamp(), sha(canonical.as_bytes()));
        let mut key = mac(format!("TC3{}", self.secret_key).as_bytes(), &date);
        for part in [self.service, "tc3_request"] {
            key = mac(key.as_ref(), part);
        }
        let signature = hex::encode(mac(key.as_ref(), &string));
        (self.authorization)(format!(
            "TC3-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
            self.secret_id, self.signed
        ))
    }
}

impl World {
    async fn try_sms(&self, sms: Sms) -> Result<Value, reqwest::Error> {
        let at = self.clock.now() - sms.age;
        let host = self.base.strip_prefix("http://").unwrap();
        let authorization = sms.authorization(host, at);
        let content_type = sms.sent_content_type.unwrap_or(sms.content_type);
        let mut request = self
            .http
            .post(format!("{}/sim/sms{}", self.base, sms.path))
            .header("Authorization", authorization)
            .header("Content-Type", content_type)
            .header("X-TC-Timestamp", at.timestamp())
            .body(sms.sent_body.unwrap_or(sms.body));
        for (name, value) in [("X-TC-Action", sms.action), ("X-TC-Version", sms.version), ("X-TC-Region", sms.region)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let response = request.send().await?;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        let answer: Value = serde_json::from_str(&response.text().await?).unwrap();
        assert_eq!(answer["Response"]["RequestId"].as_str().unwrap().len(), 36);
        Ok(answer["Response"].clone())
    }

    async fn sms(&self, sms: Sms) -> Value {
        self.try_sms(sms).await.unwrap()
    }

    /// The code of the only number.
    async fn sent(&self, body: &Value) -> String {
        let answer = self.sms(Sms::new(body)).await;
        let statuses = answer["SendStatusSet"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(statuses.len(), 1);
        let accepted = statuses[0]["Code"] == "Ok";
        assert_eq!(statuses[0]["Fee"], u8::from(accepted));
        assert_eq!(!statuses[0]["SerialNo"].as_str().unwrap().is_empty(), accepted);
        statuses[0]["Code"].as_str().unwrap().to_owned()
    }

    async fn inbox(&self, query: &str) -> Vec<Value> {
        let look = self.look(&format!("/sms{query}")).await;
        assert_eq!(look["success"], true);
        look["messages"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn a_message_is_accepted_and_shown_newest_first() {
    let world = World::new().await;
    assert!(world.inbox("?phone=13800138000").await.is_empty());
    let answer = world.sms(Sms::new(&body("+8613800138000", "111111"))).await;
    let status = &answer["SendStatusSet"][0];
    assert_eq!(
        (&status["Code"], &status["PhoneNumber"], &status["Fee"]),
        (&json!("Ok"), &json!("+8613800138000"), &json!(1))
    );
    assert_eq!((&status["SessionContext"], &status["IsoCode"]), (&json!("order-1"), &json!("CN")));

    world.clock.advance(TimeDelta::seconds(1));
    for phone in ["8613800138000", "008613800138000", "13800138000"] {
        assert_eq!(world.sent(&body(phone, &phone.len().to_string())).await, "Ok", "{phone}");
    }
    let both = Sms { path: "/", ..Sms::new(&body("+8613900139000", "222222")) };
    assert_eq!(world.sms(both).await["SendStatusSet"][0]["Code"], "Ok", "with or without the slash");

    for query in ["?phone=13800138000", "?phone=%2B8613800138000"] {
        let inbox = world.inbox(query).await;
        let codes: Vec<&Value> = inbox.iter().map(|message| &message["code"]).collect();
        assert_eq!(codes, ["11", "15", "13", "111111"], "{query}");
        let oldest = &inbox[3];
        assert_eq!((&oldest["phone"], &oldest["templateId"]), (&json!("13800138000"), &json!(keys::SMS_TEMPLATE)));
        assert_eq!((&oldest["params"], &oldest["sentAt"]), (&json!(["111111", "5"]), &json!("2026-11-21T02:00:00Z")));
        assert_eq!(oldest["serialNo"], status["SerialNo"]);
    }
    assert_eq!(world.inbox("").await.len(), 5);
    assert_eq!(world.sim.sms(Some("13900139000"))[0].code, "222222");
}

#[tokio::test]
async fn two_signed_headers_are_enough() {
    let world = World::new().await;
    let sms = Sms { signed: "content-type;host", ..Sms::new(&body("13800138000", "1")) };
    assert_eq!(world.sms(sms).await["SendStatusSet"][0]["Code"], "Ok");
}

#[tokio::test]
async fn a_wrong_signature_is_refused_and_explained() {
    let world = World::new().await;
    let proper = body("+8613800138000", "111111");
    let sms = || Sms::new(&proper);
    let failure = "AuthFailure.SignatureFailure";
    let authorization = "AuthFailure.InvalidAuthorization";
    let cases: Vec<(Sms, &str, &str)> = vec![
        (Sms { secret_key: "local-sms-secre", ..sms() }, failure, "must be"),
        (Sms { sent_body: Some(proper.to_string().replace("111111", "111112")), ..sms() }, failure, "must be"),
        (Sms { sent_body: Some(format!("{proper} ")), ..sms() }, failure, "must be"),
        (Sms { sent_content_type: Some("application/json"), ..sms() }, failure, "content-type:application/json\\n"),
        (Sms { canonical: |text| text.replace("sendsms", "SendSms"), ..sms() }, failure, "x-tc-action:sendsms"),
        (Sms { canonical: |text| text.replacen("POST\n/\n", "POST\n/sim/sms\n", 1), ..sms() }, failure, "POST\\n/\\n"),
        (Sms { canonical: |text| text.replace("\n\n", "\n"), ..sms() }, failure, "must be"),
        (Sms { date_offset: 24, ..sms() }, failure, "UTC date"),
        (Sms { service: "tcb", ..sms() }, failure, "service"),
        (
            Sms { authorization: |text| text.to_uppercase().replace("CREDENTIAL", "Credential"), ..sms() },
            authorization,
            "",
        ),
        (Sms { authorization: |text| format!("{text}00"), ..sms() }, failure, "must be"),
        (Sms { authorization: |text| format!("{text}zz"), ..sms() }, failure, "hexadecimal"),
        (
            Sms { authorization: |text| text.replace("TC3-HMAC-SHA256", "TC3-HMAC-SHA1"), ..sms() },
            authorization,
            "begin",
        ),
        (Sms { authorization: |text| text.replace("tc3_request", "tc3"), ..sms() }, authorization, "SecretId/DATE"),
        (
            Sms { authorization: |text| text.replace(", Signature", ", Credential=a, Signature"), ..sms() },
            authorization,
            "twice",
        ),
        (Sms { authorization: |text| text.replace(";host", ""), ..sms() }, authorization, "sorted"),
        (
            Sms { authorization: |text| text.replace("host;x-tc-action", "host;host"), ..sms() },
            authorization,
            "distinct",
        ),
        (Sms { authorization: |text| text.replace("x-tc-action", "x-tc-nothing"), ..sms() }, failure, "x-tc-nothing"),
        (Sms { secret_id: "AKIDother", ..sms() }, "AuthFailure.SecretIdNotFound", ""),
        (Sms { age: TimeDelta::seconds(301), ..sms() }, "AuthFailure.SignatureExpire", "five minutes"),
        (Sms { age: TimeDelta::seconds(-301), ..sms() }, "AuthFailure.SignatureExpire", "five minutes"),
        (Sms { content_type: "text/plain", ..sms() }, "InvalidParameter", "application/json"),
        (Sms { version: Some("2019-07-11"), ..sms() }, "NoSuchVersion", ""),
        (Sms { action: Some("PullSmsSendStatus"), ..sms() }, "InvalidAction", ""),
        (Sms { action: None, ..sms() }, "MissingParameter", "Action"),
        (Sms { region: None, ..sms() }, "MissingParameter", "Region"),
        (Sms { region: Some("guangzhou"), ..sms() }, "UnsupportedRegion", ""),
    ];
    for (index, (sms, code, explained)) in cases.into_iter().enumerate() {
        let answer = world.sms(sms).await;
        assert_eq!(answer["Error"]["Code"], code, "{index}: {answer}");
        let message = answer["Error"]["Message"].as_str().unwrap();
        assert!(message.contains(explained), "{index}: {explained:?} not in {message}");
        assert!(!message.contains(keys::SMS_SECRET_KEY));
    }
    for (seconds, code) in [(300, "1"), (-300, "2")] {
        let sms = Sms { age: TimeDelta::seconds(seconds), ..Sms::new(&body("13800138000", code)) };
        assert_eq!(world.sms(sms).await["SendStatusSet"][0]["Code"], "Ok");
    }
    assert_eq!(world.inbox("").await.len(), 2);
}

#[tokio::test]
async fn the_credential_is_of_the_utc_day() {
    let world = World::new().await;
    // 02:00 UTC is 10:00 in Beijing; sixteen hours later it is tomorrow there and still today here.
    world.clock.advance(TimeDelta::hours(16));
    let beijing = Sms { date_offset: 8, ..Sms::new(&body("13800138000", "1")) };
    assert_eq!(world.sms(beijing).await["Error"]["Code"], "AuthFailure.SignatureFailure");
    assert_eq!(world.sent(&body("13800138000", "1")).await, "Ok");
}

#[tokio::test]
async fn the_request_is_checked_as_a_whole() {
    let world = World::new().await;
    let good = || body("+8613800138000", "111111");
    let many: Vec<String> = (0..201).map(|n| format!("+861380013{n:04}")).collect();
    let cases = [
        (without(good(), "PhoneNumberSet"), "MissingParameter"),
        (with(good(), "PhoneNumberSet", json!([])), "MissingParameter"),
        (without(good(), "SmsSdkAppId"), "MissingParameter"),
        (without(good(), "TemplateId"), "MissingParameter"),
        (with(good(), "PhoneNumberSet", json!("+8613800138000")), "InvalidParameter"),
        (with(good(), "TemplateParamSet", json!(["1", 5])), "InvalidParameter"),
        (with(good(), "SmsSdkAppId", json!(1_400_006_666)), "InvalidParameter"),
        (with(good(), "SmsSdkAppid", json!(keys::SMS_APP_ID)), "UnknownParameter"),
        (with(good(), "PhoneNumberSet", json!(many)), "LimitExceeded.PhoneNumberCountLimit"),
        (with(good(), "SessionContext", json!("x".repeat(512))), "InvalidParameterValue"),
        (json!([]), "InvalidRequest"),
    ];
    for (body, code) in cases {
        assert_eq!(world.sms(Sms::new(&body)).await["Error"]["Code"], code, "{body}");
    }
    let got = world.http.get(format!("{}/sim/sms", world.base)).send().await.unwrap();
    assert!(got.text().await.unwrap().contains("UnsupportedProtocol"));
    assert!(world.inbox("").await.is_empty());
}

#[tokio::test]
async fn refusals_are_said_for_each_number() {
    let world = World::new().await;
    let good = || body("+8613800138000", "111111");
    let cases = [
        (with(good(), "SmsSdkAppId", json!("1400006666")), "InvalidParameterValue.SdkAppIdNotExist"),
        (with(good(), "SignName", json!("金鹿")), "FailedOperation.SignatureIncorrectOrUnapproved"),
        (without(good(), "SignName"), "FailedOperation.SignatureIncorrectOrUnapproved"),
        (with(good(), "TemplateId", json!("1110")), "FailedOperation.TemplateUnapprovedOrNotExist"),
        (with(good(), "TemplateParamSet", json!(["1"])), "FailedOperation.TemplateParamSetNotMatchApprovedTemplate"),
        (without(good(), "TemplateParamSet"), "FailedOperation.TemplateParamSetNotMatchApprovedTemplate"),
        (with(good(), "TemplateParamSet", json!(["12a", "5"])), "InvalidParameterValue.TemplateParameterFormatError"),
        (
            with(good(), "TemplateParamSet", json!(["1234567", "5"])),
            "InvalidParameterValue.TemplateParameterFormatError",
        ),
    ];
    for (body, code) in cases {
        assert_eq!(world.sent(&body).await, code, "{body}");
    }
    for phone in ["12800138000", "1380013800", "+85291234567", "+86138001380001", "1380013800a", ""] {
        assert_eq!(world.sent(&body(phone, "1")).await, "InvalidParameterValue.IncorrectPhoneNumber", "{phone}");
    }
    // One of three is no number, one is the first again.
    let mixed = with(good(), "PhoneNumberSet", json!(["13800138000", "123", "+8613800138000"]));
    let answer = world.sms(Sms::new(&mixed)).await;
    let codes: Vec<&Value> = answer["SendStatusSet"].as_array().unwrap().iter().map(|status| &status["Code"]).collect();
    assert_eq!(
        codes,
        ["Ok", "InvalidParameterValue.IncorrectPhoneNumber", "LimitExceeded.PhoneNumberThirtySecondLimit"]
    );
    assert_eq!(world.inbox("").await.len(), 1);
}

#[tokio::test]
async fn numbers_are_throttled_by_content_and_day() {
    let world = World::new().await;
    let limit = |name: &str| format!("LimitExceeded.PhoneNumber{name}Limit");
    assert_eq!(world.sent(&body("13800138000", "1")).await, "Ok");
    world.clock.advance(TimeDelta::seconds(29));
    assert_eq!(world.sent(&body("+8613800138000", "1")).await, limit("ThirtySecond"));
    assert_eq!(world.sent(&body("13800138000", "2")).await, "Ok", "another content");
    assert_eq!(world.sent(&body("13900139000", "1")).await, "Ok", "another number");
    world.clock.advance(TimeDelta::seconds(1));
    assert_eq!(world.sent(&body("13800138000", "1")).await, "Ok");
    for code in 4..=10 {
        assert_eq!(world.sent(&body("13800138000", &code.to_string())).await, "Ok");
    }
    assert_eq!(world.sent(&body("13800138000", "11")).await, limit("Daily"));
    // It was ten in the morning in Beijing; the day ends at midnight there.
    world.clock.advance(TimeDelta::hours(13));
    assert_eq!(world.sent(&body("13800138000", "11")).await, limit("Daily"));
    world.clock.advance(TimeDelta::hours(1));
    assert_eq!(world.sent(&body("13800138000", "11")).await, "Ok");
}

#[tokio::test]
async fn a_restarted_service_remembers_its_messages() {
    let folder = tempfile::tempdir().unwrap();
    let first = World::with(|config| config.state_file = Some(state_file(folder.path()))).await;
    for code in ["1", "2"] {
        assert_eq!(first.sent(&body("13800138000", code)).await, "Ok");
    }
    let inbox = first.inbox("?phone=13800138000").await;
    // The second restart reads what the first one rewrote.
    for _ in 0..2 {
        let second = World::with(|config| config.state_file = Some(state_file(folder.path()))).await;
        assert_eq!(second.inbox("?phone=13800138000").await, inbox);
        assert_eq!(second.sent(&body("13800138000", "2")).await, "LimitExceeded.PhoneNumberThirtySecondLimit");
    }
}

#[tokio::test]
async fn faults_fail_messages_before_or_after_they_are_kept() {
    let world = World::new().await;
    let fault = async |mode: &str| {
        let got = world.control("/faults", json!({ "target": "sms", "mode": mode, "count": 1, "ms": 20 })).await;
        assert_eq!(got.status, 200, "{}", got.body);
    };
    for mode in ["timeout", "reset"] {
        fault(mode).await;
        assert!(world.try_sms(Sms::new(&body("13800138000", "1"))).await.is_err(), "{mode}");
    }
    fault("500").await;
    let got = world.http.post(format!("{}/sim/sms", world.base)).send().await.unwrap();
    assert_eq!(got.status(), 500);
    fault("429").await;
    assert_eq!(world.sms(Sms::new(&body("13800138000", "1"))).await["Error"]["Code"], "RequestLimitExceeded");

    let errcode = async |code: &str| {
        let fault = json!({ "target": "sms", "path": "/sim/sms", "mode": "errcode", "errcode": code });
        assert_eq!(world.control("/faults", fault).await.status, 200);
    };
    for code in [
        "LimitExceeded.PhoneNumberThirtySecondLimit",
        "FailedOperation.InsufficientBalanceInSmsPackage",
        "InvalidParameterValue.IncorrectPhoneNumber",
        "InternalError.Timeout",
    ] {
        errcode(code).await;
        assert_eq!(world.sent(&body("13800138000", "1")).await, code);
    }
    for code in ["AuthFailure.SignatureFailure", "InternalError", "RequestLimitExceeded.UinLimitExceeded"] {
        errcode(code).await;
        assert_eq!(world.sms(Sms::new(&body("13800138000", "1"))).await["Error"]["Code"], code);
    }
    assert!(world.inbox("").await.is_empty());

    fault("dropAfterCommit").await;
    assert!(world.try_sms(Sms::new(&body("13800138000", "1"))).await.is_err());
    assert_eq!(world.inbox("?phone=13800138000").await.len(), 1, "it was sent all the same");
    fault("slow").await;
    assert_eq!(world.sent(&body("13800138000", "2")).await, "Ok");

    for wrong in [
        json!({ "target": "sms", "mode": "badSignature" }),
        json!({ "target": "sms", "mode": "errcode" }),
        json!({ "target": "sms", "mode": "errcode", "errcode": 45011 }),
    ] {
        world.control("/faults", wrong).await.refused(400, "INVALID_ARGUMENT");
    }
    // Others' faults are not ours.
    world.control("/faults", json!({ "target": "wechat", "mode": "500" })).await;
    assert_eq!(world.sent(&body("13800138000", "3")).await, "Ok");
}
