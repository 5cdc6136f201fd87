//! Every vector of `tests-data/tc3.json`, step by step.

use chrono::DateTime;
use serde_json::Value;

use crate::Secret;
use crate::tc3::{self, Call};

fn vectors() -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../tests-data/tc3.json")).unwrap();
    all["vectors"].as_array().unwrap().clone()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_else(|| panic!("no {field}"))
}

#[test]
fn every_step_of_every_vector_is_reproduced() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 9);
    for vector in vectors {
        let (name, input, expect) = (text(&vector, "name"), &vector["input"], &vector["expect"]);
        let now = DateTime::from_timestamp(input["timestamp"].as_i64().unwrap(), 0).unwrap();
        let service = text(input, "service");
        let headers: Vec<(&str, &str)> = input["signed_headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|header| match header.as_str().unwrap() {
                "content-type" => ("content-type", text(input, "content_type")),
                "host" => ("host", text(input, "host")),
                "x-tc-action" => ("x-tc-action", text(input, "action")),
                other => panic!("{name}: {other}"),
            })
            .collect();
        assert_eq!(text(input, "path"), "/", "{name}");

        let payload = text(input, "body_utf8").as_bytes();
        let canonical = tc3::canonical_request(text(input, "method"), text(input, "query"), &headers, payload);
        assert_eq!(canonical, text(expect, "canonical_request"), "{name}");
        let scope = tc3::scope(now, service);
        assert_eq!(scope, format!("{}/{service}/tc3_request", text(expect, "utc_date")), "{name}");
        let string = tc3::string_to_sign(now, &scope, &canonical);
        assert_eq!(string, text(expect, "string_to_sign"), "{name}");

        let secret = text(input, "secret_key");
        let date_key = tc3::mac(format!("TC3{secret}").as_bytes(), text(expect, "utc_date"));
        assert_eq!(hex::encode(date_key), text(expect, "secret_date_hex"), "{name}");
        assert_eq!(hex::encode(tc3::mac(date_key.as_ref(), service)), text(expect, "secret_service_hex"), "{name}");
        let key = tc3::signing_key(secret, now, service);
        assert_eq!(hex::encode(key), text(expect, "secret_signing_hex"), "{name}");
        assert_eq!(hex::encode(tc3::mac(key.as_ref(), &string)), text(expect, "signature"), "{name}");
    }
}

#[test]
fn the_whole_header_is_reproduced_where_three_headers_are_signed() {
    let mut seen = 0;
    for vector in vectors() {
        let (input, expect) = (&vector["input"], &vector["expect"]);
        if input["signed_headers"].as_array().unwrap().len() != 3 {
            continue;
        }
        seen += 1;
        assert_eq!(text(input, "content_type"), tc3::CONTENT_TYPE);
        let call = Call {
            service: text(input, "service"),
            host: text(input, "host"),
            action: text(input, "action"),
            payload: text(input, "body_utf8").as_bytes(),
        };
        let now = DateTime::from_timestamp(input["timestamp"].as_i64().unwrap(), 0).unwrap();
        let header = tc3::authorization(text(input, "secret_id"), &Secret::new(text(input, "secret_key")), &call, now);
        assert_eq!(header, text(expect, "authorization"), "{}", vector["name"]);
    }
    assert_eq!(seen, 2);
}

#[test]
fn until_eight_in_beijing_the_credential_is_of_the_day_before() {
    let scope = |at: &str| tc3::scope(at.parse().unwrap(), "sms");
    assert_eq!(scope("2026-11-22T00:00:00+08:00"), "2026-11-21/sms/tc3_request");
    assert_eq!(scope("2026-11-22T07:59:59+08:00"), "2026-11-21/sms/tc3_request");
    assert_eq!(scope("2026-11-22T08:00:00+08:00"), "2026-11-22/sms/tc3_request");
}
