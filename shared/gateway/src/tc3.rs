//! The signature of CloudBase's server SDKs on `POST /admin`: TC3-HMAC-SHA256 in the flavour of the `tcb` service.
//!
//! It is *not* the canonical form of the public Cloud API v3: the method is in lower case, the path carries the host,
//! and what is hashed is not the body but the body's parameters that `SignedParams` names. Hence only those
//! parameters may be used afterwards, and [`verify`] hands out nothing else.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const ALGORITHM: &str = "TC3-HMAC-SHA256";
const SERVICE: &str = "tcb";
/// How far a client's clock may run ahead of ours.
const SKEW: TimeDelta = TimeDelta::minutes(5);
/// `X-Signature-Expires` is not signed itself, so it may shorten the window but never stretch it. The SDKs send 600.
const LIFETIME_MAX_S: i64 = 600;
/// Without these a signature would say nothing about where the request goes or how its body is read.
const SIGNED_HEADERS_MIN: [&str; 2] = ["content-type", "host"];

/// The key pair that `/admin` accepts.
#[derive(Clone)]
pub struct Tc3Key {
    /// The public half, `AKID…`.
    pub secret_id: String,
    /// The secret half.
    pub secret_key: String,
}

impl fmt::Debug for Tc3Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tc3Key").field("secret_id", &self.secret_id).finish_non_exhaustive()
    }
}

/// Why a request was not accepted. The text goes to the client: it names the rule, never the expected value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(&'static str);

/// What a request presents besides its body.
#[derive(Debug)]
pub(crate) struct Presented<'a> {
    /// The request's method, `POST`.
    pub(crate) method: &'a str,
    /// The path as the client asked for it.
    pub(crate) path: &'a str,
    /// The raw query, without the question mark.
    pub(crate) query: &'a str,
    /// All headers.
    pub(crate) headers: &'a HeaderMap,
}

/// The body's signed parameters, by their names in lower case, when the signature is `key`'s and fresh at one of `now`.
///
/// Several instants may count as now, because the local cloud's clock can run ahead of the client's.
pub(crate) fn verify(
    key: &Tc3Key,
    request: &Presented<'_>,
    body: &[u8],
    now: &[DateTime<Utc>],
) -> Result<Map<String, Value>, Refused> {
    let authorization = Authorization::parse(text(request.headers, "authorization")?)?;
    let timestamp_text = text(request.headers, "x-timestamp")?;
    let timestamp = seconds(timestamp_text).ok_or(Refused("X-Timestamp is not a time in seconds"))?;
    let lifetime = seconds(text(request.headers, "x-signature-expires")?)
        .filter(|lifetime| *lifetime > 0)
        .ok_or(Refused("X-Signature-Expires is not a number of seconds"))?;
    let signed_at = DateTime::from_timestamp(timestamp, 0).ok_or(Refused("X-Timestamp is out of range"))?;
    let lifetime = TimeDelta::seconds(lifetime.min(LIFETIME_MAX_S));
    if !now.iter().any(|now| signed_at <= *now + SKEW && *now <= signed_at + lifetime) {
        return Err(Refused("the signature has expired or is from the future"));
    }
    let date = signed_at.format("%Y-%m-%d").to_string();
    let scope = format!("{date}/{SERVICE}/tc3_request");
    // The id is no secret, but an early answer to a wrong one would tell which ids exist.
    let id_matches = authorization.credential.strip_suffix(&scope).and_then(|id| id.strip_suffix('/'))
        == Some(key.secret_id.as_str());

    let parameters = parameters(body)?;
    let (signed, payload) = signed_parameters(&parameters, &authorization.signed_params)?;
    let canonical = canonical_request(request, &authorization.signed_headers, &hex::encode(payload))?;
    let to_sign = format!("{ALGORITHM}\n{timestamp_text}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let date_key = sign(format!("TC3{}", key.secret_key).as_bytes(), &date)?;
    let signing_key = sign(&sign(&date_key, SERVICE)?, "tc3_request")?;
    let expected = hex::encode(sign(&signing_key, &to_sign)?);
    let signature_matches = bool::from(expected.as_bytes().ct_eq(authorization.signature.as_bytes()));
    if id_matches && signature_matches { Ok(signed) } else { Err(Refused("the signature does not match")) }
}

struct Authorization<'a> {
    credential: &'a str,
    signed_params: Vec<&'a str>,
    signed_headers: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(value: &'a str) -> Result<Self, Refused> {
        const MALFORMED: Refused =
            Refused("Authorization is not TC3-HMAC-SHA256 with Credential, SignedParams, SignedHeaders and Signature");
        let fields = value.strip_prefix(ALGORITHM).and_then(|rest| rest.strip_prefix(' ')).ok_or(MALFORMED)?;
        let (mut credential, mut params, mut headers, mut signature) = (None, None, None, None);
        for field in fields.split(',') {
            let (name, value) = field.trim().split_once('=').ok_or(MALFORMED)?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedParams" => &mut params,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return Err(MALFORMED),
            };
            if slot.replace(value).is_some() {
                return Err(MALFORMED);
            }
        }
        let (Some(credential), Some(params), Some(headers), Some(signature)) = (credential, params, headers, signature)
        else {
            return Err(MALFORMED);
        };
        Ok(Self { credential, signed_params: distinct(params)?, signed_headers: distinct(headers)?, signature })
    }
}

fn distinct(list: &str) -> Result<Vec<&str>, Refused> {
    let names: Vec<&str> = list.split(';').collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != names.len() || names.iter().any(|name| name.is_empty()) {
        return Err(Refused("a signed name is empty or comes twice"));
    }
    Ok(names)
}

/// The body's parameters by lower-case name; two that differ only in case are two readings of one signature.
fn parameters(body: &[u8]) -> Result<Map<String, Value>, Refused> {
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
        return Err(Refused("the body is not a JSON object"));
    };
    let mut parameters = Map::new();
    for (name, value) in body {
        if parameters.insert(name.trim().to_lowercase(), value).is_some() {
            return Err(Refused("a parameter comes twice"));
        }
    }
    Ok(parameters)
}

fn signed_parameters(
    parameters: &Map<String, Value>,
    names: &[&str],
) -> Result<(Map<String, Value>, [u8; 32]), Refused> {
    let mut hash = Sha256::new();
    let mut signed = Map::new();
    for name in names {
        let value = parameters.get(*name).ok_or(Refused("a signed parameter is missing"))?;
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            other => other.to_string(),
        };
        // The signer leaves empty values out.
        if text.is_empty() {
            return Err(Refused("a signed parameter is empty"));
        }
        hash.update(format!("&{name}={text}\r\n"));
        signed.insert((*name).to_owned(), value.clone());
    }
    Ok((signed, hash.finalize().into()))
}

fn canonical_request(request: &Presented<'_>, names: &[&str], payload: &str) -> Result<String, Refused> {
    if !names.is_sorted() || SIGNED_HEADERS_MIN.iter().any(|must| !names.contains(must)) {
        return Err(Refused("SignedHeaders must be sorted and name content-type and host"));
    }
    let mut headers = String::new();
    for name in names {
        headers.push_str(&format!("{name}:{}\n", text(request.headers, name)?.trim().to_lowercase()));
    }
    Ok(format!(
        "{}\n//{}{}\n{}\n{headers}\n{}\n{payload}",
        request.method.to_lowercase(),
        text(request.headers, "host")?,
        request.path,
        request.query,
        names.join(";"),
    ))
}

/// A header that is there exactly once.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, Refused> {
    let mut values = headers.get_all(name).iter();
    match (values.next().and_then(|value| std::str::from_utf8(value.as_bytes()).ok()), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(Refused("a header that the signature needs is missing, comes twice or is not text")),
    }
}

fn seconds(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn sign(key: &[u8], text: &str) -> Result<[u8; 32], Refused> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Refused("the key cannot be used"))?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"action":"functions.invokeFunction","function_name":"products","request_data":"{\"action\":\"list\",\"s\":\" 中文 \"}","envName":"jinlu-local","wxCloudApiToken":"","wxCloudbaseAccesstoken":"","tcb_sessionToken":"","crossAuthorizationToken":""}"#;
    const QUERY: &str = "env=jinlu-local&seqId=1a1fdbc9b2c_1";

    fn key() -> Tc3Key {
        Tc3Key { secret_id: "AKIDlocal".to_owned(), secret_key: "local-secret-key".to_owned() }
    }

    /// As @cloudbase/node-sdk 3.18.3 sent it.
    fn recorded() -> HeaderMap {
        let headers = [
            ("content-type", "application/json"),
            ("user-agent", "tcb-node-sdk/3.18.3"),
            ("x-tcb-source", ",unknown"),
            ("x-client-timestamp", "1795258358572"),
            ("x-sdk-version", "tcb-node-sdk/3.18.3"),
            ("host", "127.0.0.1:8897"),
            ("x-tcb-region", "ap-shanghai"),
            (
                "authorization",
                "TC3-HMAC-SHA256 Credential=AKIDlocal/2026-11-21/tcb/tc3_request, SignedParams=action;envname;function_name;request_data, SignedHeaders=content-type;host;user-agent;x-client-timestamp;x-sdk-version;x-tcb-region;x-tcb-source, Signature=16f40a1fab4e92c689d7351731326d30c871c5e4cd3e21b8d1c2be76440618d9",
            ),
            ("x-signature-expires", "600"),
            ("x-timestamp", "1795258357"),
        ];
        headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_258_357 + seconds, 0).unwrap()
    }

    fn check(headers: &HeaderMap, query: &str, body: &str, now: DateTime<Utc>) -> Result<Map<String, Value>, Refused> {
        let request = Presented { method: "POST", path: "/admin", query, headers };
        verify(&key(), &request, body.as_bytes(), &[now])
    }

    #[test]
    fn a_recorded_request_of_the_official_sdk_verifies() {
        let signed = check(&recorded(), QUERY, BODY, at(1)).unwrap();
        assert_eq!(signed["function_name"], "products");
        assert_eq!(signed["envname"], "jinlu-local");
        // What was not signed is not handed out.
        assert!(!signed.contains_key("tcb_sessiontoken"));
    }

    #[test]
    fn any_change_is_refused() {
        let mismatch = Err(Refused("the signature does not match"));
        assert_eq!(check(&recorded(), "env=other&seqId=1a1fdbc9b2c_1", BODY, at(1)), mismatch);
        assert_eq!(check(&recorded(), QUERY, &BODY.replace("products", "orders"), at(1)), mismatch);
        for (name, value) in [("host", "evil:8897"), ("x-sdk-version", "x"), ("x-timestamp", "1795258356")] {
            let mut headers = recorded();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(check(&headers, QUERY, BODY, at(1)), mismatch, "{name}");
        }
        let other = Tc3Key { secret_id: "AKIDother".to_owned(), ..key() };
        let headers = recorded();
        let request = Presented { method: "POST", path: "/admin", query: QUERY, headers: &headers };
        assert_eq!(verify(&other, &request, BODY.as_bytes(), &[at(1)]), mismatch);
    }

    #[test]
    fn the_window_is_kept_and_cannot_be_stretched() {
        let expired = Err(Refused("the signature has expired or is from the future"));
        assert!(check(&recorded(), QUERY, BODY, at(600)).is_ok());
        assert_eq!(check(&recorded(), QUERY, BODY, at(601)), expired);
        assert!(check(&recorded(), QUERY, BODY, at(-300)).is_ok());
        assert_eq!(check(&recorded(), QUERY, BODY, at(-301)), expired);
        let mut headers = recorded();
        headers.insert("x-signature-expires", "86400".parse().unwrap());
        assert_eq!(check(&headers, QUERY, BODY, at(601)), expired);
        for value in ["", "-1", "+600", "0", "99999999999999999999"] {
            headers.insert("x-signature-expires", value.parse().unwrap());
            assert!(check(&headers, QUERY, BODY, at(1)).is_err(), "{value}");
        }
    }

    #[test]
    fn malformed_requests_are_refused_not_misread() {
        let twice = BODY.replacen('{', r#"{"ACTION":"x","#, 1);
        assert_eq!(check(&recorded(), QUERY, &twice, at(1)), Err(Refused("a parameter comes twice")));
        assert!(check(&recorded(), QUERY, "[]", at(1)).is_err());
        assert!(check(&HeaderMap::new(), QUERY, BODY, at(1)).is_err());
        let mut headers = recorded();
        headers.append("host", "127.0.0.1:8897".parse().unwrap());
        assert!(check(&headers, QUERY, BODY, at(1)).is_err());
        for authorization in [
            "Bearer x",
            "TC3-HMAC-SHA256 ",
            "TC3-HMAC-SHA256 Credential=AKIDlocal/2026-11-21/tcb/tc3_request, SignedHeaders=content-type;host, Signature=00",
            "TC3-HMAC-SHA256 Credential=a, Credential=b, SignedParams=action, SignedHeaders=content-type;host, Signature=00",
            "TC3-HMAC-SHA256 Credential=a, SignedParams=action;action, SignedHeaders=content-type;host, Signature=00",
            "TC3-HMAC-SHA256 Credential=a, SignedParams=action, SignedHeaders=host, Signature=00",
        ] {
            headers = recorded();
            headers.insert("authorization", authorization.parse().unwrap());
            assert!(check(&headers, QUERY, BODY, at(1)).is_err(), "{authorization}");
        }
    }

    #[test]
    fn the_secret_is_not_in_debug() {
        assert!(!format!("{:?}", key()).contains("local-secret-key"));
    }
}
