//! Pushes: from the form as received to a proven statement about a parcel.
//!
//! Proven means signed with the salt that was given when subscribing; without one a push proves nothing, so there always is one.
//! The signature covers the text of `param` as the form decodes it, not the JSON in it. Answer [`ACCEPTED`] once it is stored:
//! anything else is repeated three times, 35 minutes apart.
//!
//! Source: java-demo of Kuaidi100, `SubscribePushParamResp`.

use md5::{Digest as _, Md5};
use percent_encoding::percent_decode;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::trace::{Trace, WireTrace, scalar};
use crate::Secret;

/// The body, under HTTP 200, that ends repetition.
pub const ACCEPTED: &str = r#"{"result":true,"returnCode":"200","message":"成功"}"#;

/// The longest push that is read: a parcel's whole trace, many times over.
pub const PUSH_MAX_BYTES: usize = 1 << 20;

/// Why a push is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The body is not a form with exactly one `param` and at most one `sign`.
    #[error("the push is not the form that was agreed on")]
    Form,
    /// No `sign`, or no salt to check it with.
    #[error("the push is not signed")]
    Unsigned,
    /// Signed with another salt, or changed.
    #[error("the push is not signed with this salt")]
    Signature,
    /// Signed, but not the JSON the documentation describes.
    #[error("the push cannot be read")]
    Malformed,
}

/// Why it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushStatus {
    /// News; more will come.
    Polling,
    /// Signed for; nothing more comes.
    Shutdown,
    /// Given up: three days without a record or sixty without news, or because the company was wrong (see [`Push::correction`]).
    Abort,
    /// Everything again.
    UpdateAll,
    /// Something newer than this list.
    Unknown(String),
}

impl PushStatus {
    /// Whether the subscription has ended. It may be renewed half an hour later.
    pub fn ends(&self) -> bool {
        matches!(self, Self::Shutdown | Self::Abort)
    }
}

/// A proven push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Why it came.
    pub status: PushStatus,
    /// They found that another company has the parcel: its code. With `abort` a new subscription has begun there.
    pub correction: Option<Correction>,
    /// The parcel's whole trace.
    pub trace: Option<Trace>,
    /// Its continuation abroad.
    pub destination: Option<Trace>,
    /// SHA-256 of `param`, lower-case hex: equal pushes have equal ones.
    pub param_sha256: String,
}

/// A company put right, by Kuaidi100's codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// What we said.
    pub from: Option<String>,
    /// What it is.
    pub to: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Param {
    #[serde(default, deserialize_with = "scalar")]
    status: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    com_old: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    com_new: Option<String>,
    last_result: Option<WireTrace>,
    dest_result: Option<WireTrace>,
}

/// MD5 of `param` and the salt, as they write it.
pub fn sign(param: &str, salt: &Secret) -> String {
    hex::encode_upper(Md5::new().chain_update(param).chain_update(salt.expose()).finalize())
}

/// Prove and read a push from its form body, as received.
pub fn verify_form(body: &[u8], salt: &Secret) -> Result<Push, PushError> {
    let form = Form::parse(body)?;
    verify(&form.param, form.sign.as_deref(), salt)
}

/// Prove and read a push whose form somebody else has decoded.
pub fn verify(param: &str, signature: Option<&str>, salt: &Secret) -> Result<Push, PushError> {
    let signature = signature.filter(|text| !text.is_empty() && !salt.expose().is_empty());
    let signature = signature.ok_or(PushError::Unsigned)?.to_ascii_uppercase();
    if !bool::from(sign(param, salt).as_bytes().ct_eq(signature.as_bytes())) {
        return Err(PushError::Signature);
    }
    // The parser's message can quote names and numbers, so it is not kept.
    let read: Param = serde_json::from_str(param).map_err(|_| PushError::Malformed)?;
    let status = match read.status.as_deref() {
        Some("polling") => PushStatus::Polling,
        Some("shutdown") => PushStatus::Shutdown,
        Some("abort") => PushStatus::Abort,
        Some("updateall") => PushStatus::UpdateAll,
        Some(other) => PushStatus::Unknown(other.chars().take(32).collect()),
        None => return Err(PushError::Malformed),
    };
    Ok(Push {
        status,
        correction: read.com_new.map(|to| Correction { from: read.com_old, to }),
        trace: read.last_result.map(Trace::from),
        destination: read.dest_result.map(Trace::from),
        param_sha256: hex::encode(digest(&SHA256, param.as_bytes())),
    })
}

/// The two fields of a push. Others are ignored; one that comes twice could be two texts to two readers and is refused.
struct Form {
    param: String,
    sign: Option<String>,
}

impl Form {
    fn parse(body: &[u8]) -> Result<Self, PushError> {
        if body.len() > PUSH_MAX_BYTES {
            return Err(PushError::Form);
        }
        let (mut param, mut sign) = (None, None);
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let name = decode(halves.next().unwrap_or_default())?;
            let slot = match name.as_str() {
                "param" => &mut param,
                "sign" => &mut sign,
                _ => continue,
            };
            if slot.replace(decode(halves.next().unwrap_or_default())?).is_some() {
                return Err(PushError::Form);
            }
        }
        Ok(Self { param: param.ok_or(PushError::Form)?, sign })
    }
}

fn decode(text: &[u8]) -> Result<String, PushError> {
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    let decoded = percent_decode(&spaced).decode_utf8().map_err(|_| PushError::Form)?;
    Ok(decoded.into_owned())
}
