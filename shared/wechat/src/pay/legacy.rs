//! What of APIv2 still arrives: notices of refunds in XML, for refunds made in the merchant portal or without a `notify_url`.
//!
//! Their content is encrypted without a check of integrity (AES-256-ECB) and the envelope is not signed, so whoever knows an old
//! notice can rearrange it. A notice is therefore a hint to ask [`super::Client::query_refund`] and nothing else; its type says so.
//!
//! Sources: pay.weixin.qq.com/wiki/doc/api/jsapi.php, chapters 9_16 (notice) and 4_3 (signature).

mod xml;

use std::fmt;

use aes::Aes256;
use aes::cipher::{Array, BlockCipherDecrypt as _, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use md5::{Digest as _, Md5};
use ring::hmac;
use subtle::ConstantTimeEq as _;

use self::xml::Fields;
#[cfg(test)]
pub(crate) use self::xml::read as read_xml;
use super::RefundStatus;
use super::bill::file::{beijing_time, decimal};
use crate::Secret;
use crate::crypto::KeyError;

/// The body, under HTTP 200, that ends repetition.
pub const ACCEPTED: &str =
    "<xml><return_code><![CDATA[SUCCESS]]></return_code><return_msg><![CDATA[OK]]></return_msg></xml>";
/// The body that asks for repetition.
pub const REFUSED: &str =
    "<xml><return_code><![CDATA[FAIL]]></return_code><return_msg><![CDATA[FAIL]]></return_msg></xml>";

const BLOCK: usize = 16;

/// The key of APIv2, another one than that of APIv3: 32 bytes, set in the merchant portal.
#[derive(Clone)]
pub struct ApiV2Key(Secret);

impl ApiV2Key {
    /// Take the key as it is in the portal.
    pub fn new(key: &str) -> Result<Self, KeyError> {
        if key.len() == 32 { Ok(Self(Secret::new(key))) } else { Err(KeyError::ApiV2KeyLength) }
    }

    /// What refunds are encrypted with: the key's MD5 as 32 lower-case digits, which are the bytes of an AES-256 key.
    fn refund_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        let text = hex::encode(Md5::digest(self.0.expose()));
        key.iter_mut().zip(text.bytes()).for_each(|(byte, digit)| *byte = digit);
        key
    }
}

impl fmt::Debug for ApiV2Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiV2Key(***)")
    }
}

/// Why an XML notice is refused. Answer [`REFUSED`], and find the refund in the next bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LegacyError {
    /// Not the flat XML that APIv2 sends, or XML that does more than that: a DOCTYPE, entities, elements within elements.
    #[error("the notice is not the XML of APIv2")]
    Xml,
    /// `return_code` is not `SUCCESS`: WeChat Pay tells of a failure of its own.
    #[error("the notice says that it failed")]
    Failed,
    /// A field is missing or unreadable.
    #[error("the notice has no usable {0}")]
    Field(&'static str),
    /// It carries a signature, and a wrong one.
    #[error("the notice's signature does not match")]
    Signature,
    /// `req_info` does not open with this key.
    #[error("the notice does not open with this APIv2 key")]
    Sealed,
}

/// What a notice claims about a refund. Nothing of it is proven: ask for the refund by its number, and believe that answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnprovenRefund {
    /// The merchant; compare it with ours.
    pub mchid: String,
    /// The mini program; compare it with ours.
    pub appid: String,
    /// Our number of the payment.
    pub out_trade_no: String,
    /// WeChat's number of the payment.
    pub transaction_id: String,
    /// The refund's number by which to ask. WeChat Pay makes one up for refunds of the portal.
    pub out_refund_no: String,
    /// WeChat's number.
    pub refund_id: String,
    /// What became of it.
    pub status: RefundStatus,
    /// Fen given back.
    pub refund_fen: i64,
    /// Fen of the whole payment.
    pub total_fen: i64,
    /// When the money was back.
    pub success_time: Option<DateTime<Utc>>,
    /// `API` for ours, `VENDOR_PLATFORM` for the portal's.
    pub source: Option<String>,
}

/// Open a refund's XML notice; `body` as received.
///
/// The documents know no signature of this notice; one that is there all the same must match.
pub fn read_refund(body: &[u8], key: &ApiV2Key) -> Result<UnprovenRefund, LegacyError> {
    let outer = xml::read(body, "xml").map_err(|_| LegacyError::Xml)?;
    if field(&outer, "return_code")? != "SUCCESS" {
        return Err(LegacyError::Failed);
    }
    if outer.contains_key("sign") {
        verify(&outer, key)?;
    }
    let plain = open(field(&outer, "req_info")?, &key.refund_key()).ok_or(LegacyError::Sealed)?;
    // Noise that happens to be padded well is told apart from nothing: both do not open.
    let inner = xml::read(&plain, "root").map_err(|_| LegacyError::Sealed)?;
    let text = |name| field(&inner, name).map(str::to_owned);
    let fen = |name| {
        let value = field(&inner, name)?;
        decimal(value, 0).filter(|fen| *fen >= 0 && !value.contains('.')).ok_or(LegacyError::Field(name))
    };
    Ok(UnprovenRefund {
        mchid: field(&outer, "mch_id")?.to_owned(),
        appid: field(&outer, "appid")?.to_owned(),
        out_trade_no: text("out_trade_no")?,
        transaction_id: text("transaction_id")?,
        out_refund_no: text("out_refund_no")?,
        refund_id: text("refund_id")?,
        status: match field(&inner, "refund_status")? {
            "SUCCESS" => RefundStatus::Success,
            "REFUNDCLOSE" => RefundStatus::Closed,
            "CHANGE" => RefundStatus::Abnormal,
            other => RefundStatus::Unknown(other.to_owned()),
        },
        refund_fen: fen("refund_fee")?,
        total_fen: fen("total_fee")?,
        success_time: inner.get("success_time").and_then(|time| beijing_time(time)),
        source: inner.get("refund_request_source").filter(|source| !source.is_empty()).cloned(),
    })
}

fn field<'f>(fields: &'f Fields, name: &'static str) -> Result<&'f str, LegacyError> {
    fields.get(name).map(String::as_str).filter(|value| !value.is_empty()).ok_or(LegacyError::Field(name))
}

/// The two ways APIv2 signs; a signature's length tells which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignType {
    Md5,
    HmacSha256,
}

/// All fields with a value, by name, and the key; in upper-case hexadecimal.
pub(crate) fn sign(fields: &Fields, key: &ApiV2Key, kind: SignType) -> String {
    let signed = fields.iter().filter(|(name, value)| *name != "sign" && !value.is_empty());
    let mut text: String = signed.map(|(name, value)| format!("{name}={value}&")).collect();
    text.push_str("key=");
    text.push_str(key.0.expose());
    match kind {
        SignType::Md5 => hex::encode_upper(Md5::digest(text)),
        SignType::HmacSha256 => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key.0.expose().as_bytes());
            hex::encode_upper(hmac::sign(&key, text.as_bytes()))
        }
    }
}

pub(crate) fn verify(fields: &Fields, key: &ApiV2Key) -> Result<(), LegacyError> {
    let given = fields.get("sign").map(String::as_str).unwrap_or_default();
    let kind = match given.len() {
        32 => SignType::Md5,
        64 => SignType::HmacSha256,
        _ => return Err(LegacyError::Signature),
    };
    let matches = bool::from(sign(fields, key, kind).as_bytes().ct_eq(given.as_bytes()));
    if matches { Ok(()) } else { Err(LegacyError::Signature) }
}

/// AES-256-ECB with PKCS#7 padding, out of base64.
pub(crate) fn open(sealed: &str, key: &[u8; 32]) -> Option<Vec<u8>> {
    let mut bytes = BASE64.decode(sealed.trim()).ok()?;
    if bytes.is_empty() || bytes.len() % BLOCK != 0 {
        return None;
    }
    let cipher = Aes256::new(&Array::from(*key));
    for chunk in bytes.chunks_exact_mut(BLOCK) {
        cipher.decrypt_block(chunk.try_into().ok()?);
    }
    let padding = *bytes.last()?;
    let length = bytes.len().checked_sub(usize::from(padding))?;
    let good = (1..=BLOCK).contains(&usize::from(padding)) && bytes.get(length..)?.iter().all(|byte| *byte == padding);
    bytes.truncate(length);
    good.then_some(bytes)
}
