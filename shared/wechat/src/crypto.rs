//! Keys that cannot be swapped, and the three operations APIv3 needs: sign, verify, decrypt.
//!
//! The merchant signs with [`MerchantKey`]; WeChat's signatures are checked with [`PlatformKeys`]; resources in notices and
//! certificate lists are opened with [`ApiV3Key`]. The commonest integration error is to verify with one's own certificate,
//! hence three types and [`PlatformKeys::contains_key_of`].
//!
//! Sources: pay.weixin.qq.com/doc/v3/merchant/4012365342 (signing), 4013053249 and 4013053420 (verification with a public key
//! and with a platform certificate), 4012154180 (changing from one to the other), 4012071382 (AES-256-GCM).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::SystemRandom;
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Serials of public-key mode start with this; everything else is the serial of a platform certificate, in hex.
pub const PUBLIC_KEY_SERIAL_PREFIX: &str = "PUB_KEY_ID_";

/// A key could not be read, or could not be used. Never contains key material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No PEM section of the expected kind: `PRIVATE KEY`, `RSA PRIVATE KEY`, `PUBLIC KEY` or `CERTIFICATE`.
    #[error("{0} is not valid PEM of the expected kind")]
    Pem(&'static str),
    /// The PEM holds something other than an RSA key of at least 2048 bits.
    #[error("{0} is not an RSA key of 2048 bits or more")]
    NotRsa(&'static str),
    /// A serial is empty, too long, or has characters that never occur in one.
    #[error("a key serial must be 1 to 64 letters, digits or underscores")]
    Serial,
    /// The certificate's own serial differs from the one it was configured under.
    #[error("the certificate has serial {actual}, not {expected}")]
    SerialMismatch {
        /// The configured serial.
        expected: String,
        /// The serial inside the certificate.
        actual: String,
    },
    /// The APIv3 key is not 32 bytes.
    #[error("the APIv3 key must have exactly 32 bytes")]
    ApiV3KeyLength,
    /// The APIv2 key is not 32 bytes.
    #[error("the APIv2 key must have exactly 32 bytes")]
    ApiV2KeyLength,
    /// The nonce of a resource is not 12 bytes, or its ciphertext is not base64.
    #[error("the encrypted resource is malformed")]
    Sealed,
    /// The authentication tag does not match: other key, or changed data.
    #[error("the encrypted resource does not open with this APIv3 key")]
    Unsealed,
    /// The RSA operation failed.
    #[error("signing failed")]
    Sign,
}

/// Why a message is not proven to come from WeChat Pay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// A `Wechatpay-*` header is absent, empty, repeated or not text. Some proxies strip them.
    #[error("header {0} is missing")]
    MissingHeader(&'static str),
    /// `Wechatpay-Signature-Type` names an algorithm other than `WECHATPAY2-SHA256-RSA2048`.
    #[error("unsupported signature type")]
    Type,
    /// `Wechatpay-Timestamp` is not a whole number of seconds.
    #[error("the timestamp is not a number")]
    Timestamp,
    /// More than five minutes away from our clock: a replay, or a clock that drifts.
    #[error("the timestamp is {skew_seconds} s away from our clock")]
    Stale {
        /// Our time minus theirs.
        skew_seconds: i64,
    },
    /// No key is configured for this `Wechatpay-Serial` (cut to 64 characters).
    #[error("no key with serial {0}")]
    UnknownSerial(String),
    /// The platform certificate had expired.
    #[error("the certificate with serial {0} has expired")]
    Expired(String),
    /// The signature is not strict standard base64; WeChat's probes begin `WECHATPAY/SIGNTEST/`.
    #[error("the signature is not base64")]
    Base64,
    /// The signature does not belong to these bytes and this key.
    #[error("the signature does not match")]
    Mismatch,
}

/// The merchant's API private key, with the serial of the **merchant** certificate it belongs to. The two rotate together.
#[derive(Clone)]
pub struct MerchantKey {
    serial: String,
    key: Arc<RsaKeyPair>,
}

impl MerchantKey {
    /// Read a PKCS#8 (`PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`) PEM.
    pub fn from_pem(serial: &str, pem: &str) -> Result<Self, KeyError> {
        const WHAT: &str = "the merchant private key";
        let serial = checked_serial(serial)?;
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Pem(WHAT))?;
        let key = match &der {
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(KeyError::NotRsa(WHAT)),
        };
        Ok(Self { serial, key: Arc::new(key.map_err(|_| KeyError::NotRsa(WHAT))?) })
    }

    /// The serial of the merchant certificate.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256, as standard base64 without line breaks.
    pub fn sign(&self, message: &[u8]) -> Result<String, KeyError> {
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).map_err(|_| KeyError::Sign)?;
        Ok(BASE64.encode(signature))
    }
}

impl fmt::Debug for MerchantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MerchantKey").field("serial", &self.serial).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct PlatformKey {
    /// PKCS#1 `RSAPublicKey`, the form ring verifies with.
    der: Vec<u8>,
    not_after: Option<DateTime<Utc>>,
}

/// WeChat Pay's keys by serial: public keys (`PUB_KEY_ID_…`) and platform certificates side by side.
///
/// Both kinds sign during a change of mode, and an old and a new certificate overlap for days, so a message is always checked
/// with the key its serial names and never with "the newest". Clones share one map; keys can be added while it is in use.
#[derive(Clone, Default)]
pub struct PlatformKeys {
    inner: Arc<RwLock<Keys>>,
}

#[derive(Default)]
struct Keys {
    by_serial: HashMap<String, PlatformKey>,
    /// The first public-key serial added; requests ask for answers signed with it.
    preferred: Option<String>,
}

impl PlatformKeys {
    /// No keys. Enough to start with in certificate mode, where the first answer causes a download.
    pub fn new() -> Self {
        Self::default()
    }

    /// Add one key from PEM. A `PUBLIC KEY` is filed under the serial as given; a `CERTIFICATE` brings its own serial, which
    /// must equal the given one but for case.
    pub fn add_pem(&self, serial: &str, pem: &str) -> Result<(), KeyError> {
        let serial = checked_serial(serial)?;
        if pem.contains("-----BEGIN CERTIFICATE-----") {
            let (actual, key) = read_certificate(pem)?;
            // Tools disagree on whether a leading zero digit is written.
            let bare = |serial: &str| serial.trim_start_matches('0').to_ascii_uppercase();
            if bare(&actual) != bare(&serial) {
                return Err(KeyError::SerialMismatch { expected: serial, actual });
            }
            self.insert(actual, key);
        } else {
            const WHAT: &str = "the WeChat Pay public key";
            let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Pem(WHAT))?;
            let (rest, spki) = SubjectPublicKeyInfo::from_der(&spki).map_err(|_| KeyError::NotRsa(WHAT))?;
            if !rest.is_empty() {
                return Err(KeyError::Pem(WHAT));
            }
            let key = PlatformKey { der: rsa_der(&spki, WHAT)?, not_after: None };
            // Certificate serials are compared as WeChat writes them, in upper case; PUB_KEY_ID serials are upper case anyway.
            let serial =
                if serial.starts_with(PUBLIC_KEY_SERIAL_PREFIX) { serial } else { serial.to_ascii_uppercase() };
            self.insert(serial, key);
        }
        Ok(())
    }

    /// Add a platform certificate under its own serial, and return that serial (upper-case hex).
    pub fn add_certificate(&self, pem: &str) -> Result<String, KeyError> {
        let (serial, key) = read_certificate(pem)?;
        self.insert(serial.clone(), key);
        Ok(serial)
    }

    fn insert(&self, serial: String, key: PlatformKey) {
        let mut keys = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if keys.preferred.is_none() && serial.starts_with(PUBLIC_KEY_SERIAL_PREFIX) {
            keys.preferred = Some(serial.clone());
        }
        keys.by_serial.insert(serial, key);
    }

    fn get(&self, serial: &str) -> Option<PlatformKey> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_serial.get(serial).cloned()
    }

    /// Whether a key is filed under exactly this serial.
    pub fn contains(&self, serial: &str) -> bool {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_serial.contains_key(serial)
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_serial.is_empty()
    }

    /// The `PUB_KEY_ID_…` to ask for in `Wechatpay-Serial`; `None` in certificate mode.
    pub fn preferred_serial(&self) -> Option<String> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).preferred.clone()
    }

    /// Certificates that expire before `limit`, soonest first: what an operator wants to hear a month ahead.
    pub fn expiring_before(&self, limit: DateTime<Utc>) -> Vec<(String, DateTime<Utc>)> {
        let keys = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = keys
            .by_serial
            .iter()
            .filter_map(|(serial, key)| key.not_after.filter(|end| *end < limit).map(|end| (serial.clone(), end)))
            .collect();
        list.sort_by_key(|(_, end)| *end);
        list
    }

    /// Whether one of these keys is the merchant's own, which means that a merchant certificate was configured by mistake.
    pub fn contains_key_of(&self, merchant: &MerchantKey) -> bool {
        let own = merchant.key.public_key().as_ref();
        let keys = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        keys.by_serial.values().any(|key| key.der == own)
    }

    /// Check `signature` (standard base64) over `message` with the key that `serial` names.
    pub fn verify(
        &self,
        serial: &str,
        message: &[u8],
        signature: &str,
        now: DateTime<Utc>,
    ) -> Result<(), SignatureError> {
        let Some(key) = self.get(serial) else {
            return Err(SignatureError::UnknownSerial(serial.chars().take(64).collect()));
        };
        if key.not_after.is_some_and(|end| end < now) {
            return Err(SignatureError::Expired(serial.to_owned()));
        }
        let signature = BASE64.decode(signature).map_err(|_| SignatureError::Base64)?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.der)
            .verify(message, &signature)
            .map_err(|_| SignatureError::Mismatch)
    }
}

impl fmt::Debug for PlatformKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(keys.by_serial.keys()).finish()
    }
}

/// The 32-byte APIv3 key of the merchant portal.
#[derive(Clone)]
pub struct ApiV3Key(Arc<LessSafeKey>);

impl ApiV3Key {
    /// Take the key as set in the merchant portal: 32 bytes, used as they are.
    pub fn new(key: &str) -> Result<Self, KeyError> {
        let key = UnboundKey::new(&AES_256_GCM, key.as_bytes()).map_err(|_| KeyError::ApiV3KeyLength)?;
        Ok(Self(Arc::new(LessSafeKey::new(key))))
    }

    /// Open an `AEAD_AES_256_GCM` resource: `ciphertext` is base64 of cipher and 16-byte tag, `associated_data` may be empty.
    ///
    /// Every published live sample has a nonce of 12 bytes; others are refused, for no audited AEAD takes them.
    pub fn decrypt(&self, nonce: &str, associated_data: &str, ciphertext: &str) -> Result<Vec<u8>, KeyError> {
        let nonce: [u8; NONCE_LEN] = nonce.as_bytes().try_into().map_err(|_| KeyError::Sealed)?;
        let mut data = BASE64.decode(ciphertext).map_err(|_| KeyError::Sealed)?;
        let aad = Aad::from(associated_data.as_bytes());
        let plain = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut data)
            .map_err(|_| KeyError::Unsealed)?;
        let length = plain.len();
        data.truncate(length);
        Ok(data)
    }
}

impl fmt::Debug for ApiV3Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiV3Key(***)")
    }
}

fn checked_serial(serial: &str) -> Result<String, KeyError> {
    let serial = serial.trim();
    let fits = (1..=64).contains(&serial.len());
    if fits && serial.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Ok(serial.to_owned())
    } else {
        Err(KeyError::Serial)
    }
}

fn read_certificate(pem: &str) -> Result<(String, PlatformKey), KeyError> {
    const WHAT: &str = "the platform certificate";
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Pem(WHAT))?;
    let (rest, certificate) = X509Certificate::from_der(&der).map_err(|_| KeyError::Pem(WHAT))?;
    if !rest.is_empty() {
        return Err(KeyError::Pem(WHAT));
    }
    // DER puts a zero byte before a serial whose top bit is set; WeChat and openssl do not print it.
    let raw = certificate.raw_serial();
    let serial = hex::encode_upper(raw.strip_prefix(&[0]).unwrap_or(raw));
    let key = PlatformKey {
        der: rsa_der(certificate.public_key(), WHAT)?,
        not_after: DateTime::from_timestamp(certificate.validity().not_after.timestamp(), 0),
    };
    Ok((checked_serial(&serial)?, key))
}

fn rsa_der(spki: &SubjectPublicKeyInfo<'_>, what: &'static str) -> Result<Vec<u8>, KeyError> {
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= 2048 => Ok(spki.subject_public_key.data.to_vec()),
        _ => Err(KeyError::NotRsa(what)),
    }
}
