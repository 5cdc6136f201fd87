//! The identity check as Tencent Cloud's `IdCardVerification` of 2018-03-01: a strict signature, the checksum of the number, and
//! a result that the name asks for. A name without a mark matches every valid number.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use http::Method;
use http::request::Parts;
use serde_json::{Map, Value, json};

use crate::faults::Target;
use crate::tc3::{self, Credential, Refusal, header, text};
use crate::{Sim, keys};

const CREDENTIAL: Credential =
    Credential { service: "faceid", secret_id: keys::FACEID_SECRET_ID, secret_key: keys::FACEID_SECRET_KEY };
const ACTION: &str = "IdCardVerification";
const VERSION: &str = "2018-03-01";

/// What a name must hold for each result.
const MARKS: [(&str, &str, &str); 7] = [
    ("不符", "-1", "姓名和身份证号不一致"),
    ("坏号", "-2", "非法身份证号"),
    ("坏名", "-3", "非法姓名"),
    ("断源", "-4", "证件库服务异常"),
    ("查无", "-5", "证件库中无此身份证记录"),
    ("升级", "-6", "权威比对系统升级中，请稍后再试"),
    ("超限", "-7", "认证次数超过当日限制"),
];

pub(crate) fn router(sim: Sim) -> Router {
    Router::new().route("/faceid", any(entry)).route("/faceid/", any(entry)).with_state(sim)
}

async fn entry(State(sim): State<Sim>, request: Request) -> Response {
    tc3::serve(&sim, Target::FaceId, request, |parts, body, injected| answer(&sim, parts, body, injected)).await
}

fn answer(sim: &Sim, parts: &Parts, body: &[u8], injected: Option<&str>) -> Result<Value, Refusal> {
    if parts.method != Method::POST {
        return Err(Refusal::new("UnsupportedProtocol", "use POST"));
    }
    let action = header(&parts.headers, "x-tc-action").map_err(|()| Refusal::missing("Action"))?;
    tc3::verify(&CREDENTIAL, parts, body, sim.now())?;
    if header(&parts.headers, "x-tc-version") != Ok(VERSION) {
        return Err(Refusal::new("NoSuchVersion", format!("only version {VERSION} is simulated")));
    }
    if action != ACTION {
        return Err(Refusal::new("InvalidAction", format!("only {ACTION} is simulated")));
    }
    if let Some(code) = injected {
        return Err(Refusal::new(code, "injected"));
    }
    let Ok(Value::Object(mut fields)) = serde_json::from_slice::<Value>(body) else {
        return Err(Refusal::new("InvalidRequest", "the body is not a JSON object"));
    };
    let (result, description) = result(&mut fields)?;
    Ok(json!({ "Result": result, "Description": description }))
}

fn result(fields: &mut Map<String, Value>) -> Result<(&'static str, &'static str), Refusal> {
    let number = text(fields, "IdCard")?.ok_or_else(|| Refusal::missing("IdCard"))?;
    let name = text(fields, "Name")?.ok_or_else(|| Refusal::missing("Name"))?;
    if let Some(name) = fields.keys().next() {
        return Err(Refusal::new("UnknownParameter", format!("The parameter `{name}` is not recognized.")));
    }
    if !is_valid(&number) {
        return Ok(("-2", "非法身份证号"));
    }
    if name.trim().is_empty() {
        return Ok(("-3", "非法姓名"));
    }
    let marked = MARKS.iter().find(|(mark, ..)| name.contains(mark));
    Ok(marked.map_or(("0", "姓名和身份证号一致"), |(_, result, description)| (result, description)))
}

/// The checksum of GB 11643-1999: with each character's weight, the power of two of its place, the sum is 1 modulo 11.
fn is_valid(number: &str) -> bool {
    let ten = |(place, c): (usize, char)| if place == 0 && c == 'X' { Some(10) } else { c.to_digit(10) };
    let digits: Option<Vec<u32>> = number.chars().rev().enumerate().map(ten).collect();
    let Some(digits) = digits.filter(|digits| digits.len() == 18) else { return false };
    digits.iter().rev().fold(0, |sum, digit| (sum * 2 + digit) % 11) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_checked_in_another_way_than_the_client_does() {
        for number in ["11010519491231002X", "440524198801010011", "810000199408230021", "83000019991231122X"] {
            assert!(is_valid(number), "{number}");
        }
        for number in ["110105198803050012", "11010519491231002x", "X10105194912310020", "1101051949123100", ""] {
            assert!(!is_valid(number), "{number}");
        }
    }

    #[test]
    fn names_ask_for_results() {
        let result = |name: &str| {
            let fields = json!({ "IdCard": "11010519491231002X", "Name": name });
            super::result(&mut fields.as_object().unwrap().clone()).unwrap().0
        };
        assert_eq!((result("张三"), result("张不符"), result("张查无"), result(" ")), ("0", "-1", "-5", "-3"));
        for (mark, wanted, _) in MARKS {
            assert_eq!(result(mark), wanted);
        }
    }
}
