//! Notices (callbacks): from raw bytes to a proven, decrypted statement.
//!
//! Needs only the platform keys and the APIv3 key, so it can run where no client exists. Does not know which orders exist:
//! the caller compares appid, number, amount and state with what it stored, and answers within five seconds.
//! Sources: pay.weixin.qq.com/doc/v3/merchant/4012791861 (payment), 4013071196 (refund), 4013053249 (verification),
//! 4012071382 (decryption).

use chrono::{DateTime, Utc};
use http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Secret;
use crate::crypto::{ApiV3Key, KeyError, PlatformKeys, SignatureError};
use crate::pay::signing;
use crate::pay::wire::{RefundNotice, RefundNoticeWire, Sealed, Transaction, TransactionWire};

const ALGORITHM: &str = "AEAD_AES_256_GCM";

/// Why a notice is refused. Answer 4xx; WeChat repeats real ones for a day, with fresh signatures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoticeError {
    /// Not proven to come from WeChat Pay, or replayed.
    #[error("the notice is not proven to come from WeChat Pay")]
    Signature(#[from] SignatureError),
    /// A v2 XML notice: a refund made in the merchant portal, or one without `notify_url`. Read it with
    /// [`super::legacy::read_refund`] and query the refund.
    #[error("the notice is v2 XML")]
    LegacyXml,
    /// Proven, but not the JSON the documentation describes.
    #[error("the notice cannot be read: {0}")]
    Malformed(&'static str),
    /// Proven, but it does not open with the configured APIv3 key, which was probably changed in the portal.
    #[error("the notice cannot be decrypted")]
    Decrypt(#[from] KeyError),
}

/// A proven notice.
#[derive(Debug, Clone)]
pub struct Notice {
    /// WeChat's id of the notice; the same in repetitions. Deduplicate on the business key, not only on this.
    pub id: String,
    /// `TRANSACTION.SUCCESS`, `REFUND.SUCCESS`, `REFUND.ABNORMAL`, `REFUND.CLOSED`, or something newer.
    pub event_type: String,
    /// SHA-256 of the raw body, lower-case hex.
    pub body_sha256: String,
    /// The serial of the key that signed it.
    pub serial: String,
    /// The decrypted content.
    pub resource: NoticeResource,
}

/// What a notice is about.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NoticeResource {
    /// A payment.
    Transaction(Box<Transaction>),
    /// A refund.
    Refund(Box<RefundNotice>),
    /// Anything else, decrypted but not read.
    Other {
        /// `original_type` of the resource.
        original_type: String,
        /// The decrypted JSON.
        plaintext: Secret,
    },
}

/// Checks and opens notices.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: PlatformKeys,
    api_v3_key: ApiV3Key,
}

#[derive(Deserialize)]
struct Envelope {
    id: String,
    event_type: String,
    resource: Sealed,
}

impl Verifier {
    /// Keys are shared with whoever else holds a clone of them.
    pub fn new(keys: PlatformKeys, api_v3_key: ApiV3Key) -> Self {
        Self { keys, api_v3_key }
    }

    /// Prove and open a notice. `body` must be the bytes as received.
    ///
    /// Order: headers, timestamp (five minutes), serial, base64, signature, and only then parse and decrypt. That a body
    /// decrypts is no proof of origin and replaces none of these.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: DateTime<Utc>) -> Result<Notice, NoticeError> {
        let serial = match signing::verify(&self.keys, headers, body, now) {
            Err(SignatureError::MissingHeader(_)) if body.trim_ascii_start().starts_with(b"<") => {
                return Err(NoticeError::LegacyXml);
            }
            other => other?,
        };
        let envelope: Envelope = read(body, "envelope")?;
        let sealed = envelope.resource;
        let original_type = sealed.original_type.ok_or(NoticeError::Malformed("original_type"))?;
        if sealed.algorithm != ALGORITHM {
            return Err(NoticeError::Malformed("unknown algorithm"));
        }
        let aad = sealed.associated_data.as_deref().unwrap_or_default();
        let plain = self.api_v3_key.decrypt(&sealed.nonce, aad, &sealed.ciphertext)?;
        let resource = match original_type.as_str() {
            "transaction" => {
                NoticeResource::Transaction(Box::new(read::<TransactionWire>(&plain, "transaction")?.into()))
            }
            "refund" => NoticeResource::Refund(Box::new(read::<RefundNoticeWire>(&plain, "refund")?.into())),
            _ => {
                let text = String::from_utf8(plain).map_err(|_| NoticeError::Malformed("not UTF-8"))?;
                NoticeResource::Other { original_type, plaintext: Secret::new(text) }
            }
        };
        Ok(Notice {
            id: envelope.id,
            event_type: envelope.event_type,
            body_sha256: hex::encode(ring::digest::digest(&ring::digest::SHA256, body)),
            serial,
            resource,
        })
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, NoticeError> {
    // The parser's message can quote values, so it is not kept.
    serde_json::from_slice(bytes).map_err(|_| NoticeError::Malformed(what))
}
