//! The WeChat half of the cryptography, written against `ring` alone: sharing code with the client under test would hide the
//! mistakes both make.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeZone as _, Utc};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};

use crate::{Error, keys};

/// Which of the simulator's own keys signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    /// `PUB_KEY_ID_…`.
    PublicKey,
    /// The platform certificate.
    Certificate,
    /// The key nobody trusts, under the serial of the public key.
    Wrong,
    /// The key nobody trusts, under a serial nobody knows.
    Unknown,
}

impl Signer {
    pub(crate) fn serial(self) -> &'static str {
        match self {
            Self::PublicKey | Self::Wrong => keys::WECHATPAY_PUBLIC_KEY_ID,
            Self::Certificate => keys::PLATFORM_SERIAL,
            Self::Unknown => keys::UNKNOWN_SERIAL,
        }
    }
}

/// All keys of the simulated side, parsed once.
pub(crate) struct Keyring {
    public_key: RsaKeyPair,
    platform: RsaKeyPair,
    wrong: RsaKeyPair,
    /// `RSAPublicKey` DER out of the merchant certificate.
    merchant: Vec<u8>,
    pub(crate) platform_not_before: DateTime<Utc>,
    pub(crate) platform_not_after: DateTime<Utc>,
    random: SystemRandom,
}

impl Keyring {
    pub(crate) fn load() -> Result<Self, Error> {
        let merchant_der = pem_body(keys::MERCHANT_CERTIFICATE)?;
        let (_, merchant) =
            x509_parser::parse_x509_certificate(&merchant_der).map_err(|_| Error::Key("merchant certificate"))?;
        let platform_der = pem_body(keys::PLATFORM_CERTIFICATE)?;
        let (_, platform) =
            x509_parser::parse_x509_certificate(&platform_der).map_err(|_| Error::Key("platform certificate"))?;
        let instant =
            |seconds: i64| Utc.timestamp_opt(seconds, 0).single().ok_or(Error::Key("platform certificate validity"));
        Ok(Self {
            public_key: rsa(keys::WECHATPAY_PRIVATE_KEY)?,
            platform: rsa(keys::PLATFORM_PRIVATE_KEY)?,
            wrong: rsa(keys::WRONG_PRIVATE_KEY)?,
            merchant: merchant.public_key().subject_public_key.data.to_vec(),
            platform_not_before: instant(platform.validity().not_before.timestamp())?,
            platform_not_after: instant(platform.validity().not_after.timestamp())?,
            random: SystemRandom::new(),
        })
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256, base64.
    pub(crate) fn sign(&self, signer: Signer, message: &[u8]) -> Result<String, Error> {
        let key = match signer {
            Signer::PublicKey => &self.public_key,
            Signer::Certificate => &self.platform,
            Signer::Wrong | Signer::Unknown => &self.wrong,
        };
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature).map_err(|_| Error::Crypto("sign"))?;
        Ok(STANDARD.encode(signature))
    }

    /// Whether the merchant's key made `signature` over `message`.
    pub(crate) fn merchant_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.merchant).verify(message, signature).is_ok()
    }
}

/// AES-256-GCM under the APIv3 key: base64 of ciphertext and tag.
pub(crate) fn encrypt(nonce: &str, associated_data: &str, plaintext: &[u8]) -> Result<String, Error> {
    let key = UnboundKey::new(&AES_256_GCM, keys::API_V3_KEY.as_bytes()).map_err(|_| Error::Key("APIv3 key"))?;
    let nonce = Nonce::try_assume_unique_for_key(nonce.as_bytes()).map_err(|_| Error::Crypto("nonce length"))?;
    let mut buffer = plaintext.to_vec();
    LessSafeKey::new(key)
        .seal_in_place_append_tag(nonce, Aad::from(associated_data.as_bytes()), &mut buffer)
        .map_err(|_| Error::Crypto("encrypt"))?;
    Ok(STANDARD.encode(buffer))
}

/// A random text of `2 * N` hexadecimal characters.
pub(crate) fn random_hex<const N: usize>() -> String {
    hex::encode(rand::random::<[u8; N]>())
}

fn rsa(pem: &str) -> Result<RsaKeyPair, Error> {
    RsaKeyPair::from_pkcs8(&pem_body(pem)?).map_err(|_| Error::Key("RSA private key"))
}

/// The DER bytes of a PEM text with one block.
pub(crate) fn pem_body(pem: &str) -> Result<Vec<u8>, Error> {
    let encoded: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    STANDARD.decode(encoded).map_err(|_| Error::Key("PEM"))
}
