//! From bytes to a typed input, and from a parser's complaint to a refusal that names the field.
//!
//! The parser's own words quote what the caller sent, so they are never passed on, neither to the caller nor to the log.

use domain::{Code, Refusal};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub(crate) type TypedError = serde_path_to_error::Error<serde_json::Error>;

/// The longest body a function takes: what the platform lets through as text.
pub const BODY_BYTES_MAX: usize = 100 * 1024;

/// The idempotency key of a command, and what it was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// `requestId` of the input: 8 to 64 of `[0-9A-Za-z_-]`.
    pub id: String,
    /// Lower-case hex SHA-256 of the input as JSON with sorted keys, without `requestId`.
    pub input_hash: String,
}

pub(crate) fn typed<T: DeserializeOwned>(body: &[u8]) -> Result<T, TypedError> {
    // From the text and not from a parsed value, so that a field that is there twice is noticed.
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(body))
}

/// An empty body stands for `{}`.
pub(crate) fn text_of(body: &[u8]) -> &[u8] {
    if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body }
}

/// Parse the body as a JSON object. `probe` finds the field where a text is JSON but not representable, such as `1e400`.
pub(crate) fn object(body: &[u8], probe: fn(&[u8]) -> Option<TypedError>) -> Result<Map<String, Value>, Refusal> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Refusal::new(Code::InvalidJson)),
        Err(error) if is_out_of_range(&error) => match probe(body) {
            Some(typed) if typed.path().iter().next().is_some() => Err(explain(&typed, &Map::new())),
            _ => Err(Refusal::new(Code::InvalidJson)),
        },
        Err(_) => Err(Refusal::new(Code::InvalidJson)),
    }
}

fn is_out_of_range(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("number out of range")
}

/// Refuses an array where the schema wants an object: the parser would take its elements for the fields in order.
pub(crate) fn no_array_for_object(schema: &Value, fields: &Map<String, Value>) -> Result<(), Refusal> {
    let properties = schema.get("properties");
    for (name, value) in fields {
        let Some(schema_of_field) = properties.and_then(|p| p.get(name)) else { continue };
        if let Some(field) = array_for_object(schema, schema_of_field, value, name) {
            return Err(Refusal::invalid(&field, format!("字段 {field} 类型不正确")));
        }
    }
    Ok(())
}

fn array_for_object(root: &Value, schema: &Value, value: &Value, path: &str) -> Option<String> {
    let options = alternatives(root, schema);
    match value {
        Value::Array(items) => {
            let lists: Vec<&Value> = options.iter().filter_map(|s| s.get("items")).collect();
            if lists.is_empty() && options.iter().any(|s| s.get("properties").is_some()) {
                return Some(path.to_owned());
            }
            items.iter().enumerate().find_map(|(i, item)| {
                lists.iter().find_map(|s| array_for_object(root, s, item, &format!("{path}[{i}]")))
            })
        }
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let inner = options.iter().find_map(|s| s.get("properties")?.get(name))?;
            array_for_object(root, inner, value, &format!("{path}.{name}"))
        }),
        _ => None,
    }
}

/// A schema with its references followed and its `anyOf`s taken apart.
fn alternatives<'s>(root: &'s Value, schema: &'s Value) -> Vec<&'s Value> {
    let referred = schema.get("$ref").and_then(Value::as_str).and_then(|r| root.pointer(r.strip_prefix('#')?));
    let any_of = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let mut found = vec![schema];
    found.extend(referred.into_iter().chain(any_of).flat_map(|s| alternatives(root, s)));
    found
}

/// The idempotency key of the input, if it has one.
pub(crate) fn request_key(fields: &Map<String, Value>) -> Result<Option<RequestKey>, Refusal> {
    let id = match fields.get("requestId") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(id)) if is_request_id(id) => id.clone(),
        Some(_) => {
            return Err(Refusal::invalid("requestId", "requestId 须为 8 到 64 位字母、数字、下划线或连字符"));
        }
    };
    let mut hash = Sha256::new();
    digest_object(fields.iter().filter(|(name, _)| *name != "requestId"), &mut hash);
    let input_hash = hex::encode(hash.finalize());
    Ok(Some(RequestKey { id, input_hash }))
}

pub(crate) fn is_request_id(text: &str) -> bool {
    (8..=64).contains(&text.len()) && text.bytes().all(crate::is_token_byte)
}

/// Feed a value to the hash as JSON with sorted keys. Written out instead of relying on the order of `Map`, which
/// any crate in the build could change by a feature.
fn digest(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(fields) => digest_object(fields.iter(), hash),
        Value::Array(items) => {
            hash.update(b"[");
            for (at, item) in items.iter().enumerate() {
                hash.update(if at == 0 { "" } else { "," });
                digest(item, hash);
            }
            hash.update(b"]");
        }
        scalar => hash.update(scalar.to_string().as_bytes()),
    }
}

fn digest_object<'v>(fields: impl Iterator<Item = (&'v String, &'v Value)>, hash: &mut Sha256) {
    let mut sorted: Vec<_> = fields.collect();
    sorted.sort_by_key(|(name, _)| *name);
    hash.update(b"{");
    for (at, (name, value)) in sorted.into_iter().enumerate() {
        hash.update(if at == 0 { "" } else { "," });
        hash.update(Value::from(name.as_str()).to_string().as_bytes());
        hash.update(b":");
        digest(value, hash);
    }
    hash.update(b"}");
}

/// The refusal for an input that is JSON but not of the right shape.
pub(crate) fn explain(error: &TypedError, fields: &Map<String, Value>) -> Refusal {
    let said = error.inner().to_string();
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(text, _)| text);
    let parent = match error.path().iter().next() {
        Some(_) => error.path().to_string(),
        None => String::new(),
    };
    let child = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
    if let Some(name) = quoted_after(said, "missing field ") {
        let field = child(name);
        return Refusal::invalid(&field, format!("缺少字段 {field}"));
    }
    if let Some(name) = quoted_after(said, "duplicate field ") {
        let field = child(name);
        return Refusal::invalid(&field, format!("字段 {field} 重复"));
    }
    let field = if parent.is_empty() { guess(said, fields) } else { parent };
    let reason = if said.starts_with("invalid type") {
        format!("字段 {field} 类型不正确")
    } else if said.starts_with("number out of range") {
        format!("字段 {field} 超出范围")
    } else if said.is_ascii() || is_parsers_own(said) {
        format!("字段 {field} 的值不正确")
    } else {
        // A domain type said why, in words meant for people.
        format!("字段 {field}：{said}")
    };
    Refusal::invalid(&field, reason)
}

/// Words that quote the input, which may be Chinese too.
fn is_parsers_own(said: &str) -> bool {
    ["invalid ", "unknown ", "missing ", "duplicate ", "trailing "].iter().any(|start| said.starts_with(start))
}

fn quoted_after<'s>(said: &'s str, start: &str) -> Option<&'s str> {
    said.strip_prefix(start)?.split('`').nth(1)
}

/// A tagged enum reports no path. An unknown variant can still be found by its value; anything else is "input".
fn guess(said: &str, fields: &Map<String, Value>) -> String {
    quoted_after(said, "unknown variant ")
        .and_then(|variant| fields.iter().find(|(_, value)| value.as_str() == Some(variant)))
        .map_or_else(|| "input".to_owned(), |(name, _)| name.clone())
}
