//! Sealed fields: AES-256-GCM with a key id, bound to the place where the text is stored; and blind indexes to find it again.
//!
//! A sealed text is `v1.{key id}.{base64 of nonce, ciphertext and tag}`. Its associated data is `jinlu|{place}|{key id}`, so a
//! ciphertext that is copied to another document, field or key id does not open. Nonces are random and come from the caller; a
//! key may seal at most 2^32 texts (NIST SP 800-38D).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Why a text cannot be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("no key is configured")]
    NoKey,
    #[error("the sealed text names a key that is not configured")]
    UnknownKey,
    #[error("the sealed text is malformed, changed, or belongs to another place")]
    Broken,
}

/// The keys that seal fields. The first one seals, all of them open.
pub struct FieldKeys {
    keys: Vec<(String, LessSafeKey)>,
}

impl std::fmt::Debug for FieldKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FieldKeys(***)")
    }
}

impl FieldKeys {
    /// From key ids and keys.
    pub fn new(keys: impl IntoIterator<Item = (String, [u8; KEY_BYTES])>) -> Result<Self, VaultError> {
        let mut made = Vec::new();
        for (id, key) in keys {
            let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| VaultError::NoKey)?;
            made.push((id, LessSafeKey::new(key)));
        }
        if made.is_empty() { Err(VaultError::NoKey) } else { Ok(Self { keys: made }) }
    }

    /// The id of the key that seals.
    pub fn newest(&self) -> &str {
        self.keys.first().map_or("", |(id, _)| id.as_str())
    }

    /// The ids of all keys, newest first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    /// Seals `plain` for `place` (`collection|field|document id`).
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], place: &str, plain: &[u8]) -> Result<String, VaultError> {
        let (id, key) = self.keys.first().ok_or(VaultError::NoKey)?;
        let mut text = plain.to_vec();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_of, Aad::from(associated(place, id)), &mut text)
            .map_err(|_| VaultError::Broken)?;
        let bytes = [nonce.as_slice(), text.as_slice()].concat();
        Ok(format!("v1.{id}.{}", STANDARD.encode(bytes)))
    }

    /// Opens what was sealed for `place`.
    pub fn open(&self, place: &str, sealed: &str) -> Result<Vec<u8>, VaultError> {
        let (id, body) = parts(sealed).ok_or(VaultError::Broken)?;
        let (id, key) = self.keys.iter().find(|(known, _)| known == id).ok_or(VaultError::UnknownKey)?;
        let mut bytes = STANDARD.decode(body).map_err(|_| VaultError::Broken)?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_BYTES).ok_or(VaultError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::Broken)?;
        let plain = key.open_in_place(nonce, Aad::from(associated(place, id)), text).map_err(|_| VaultError::Broken)?;
        Ok(plain.to_vec())
    }
}

/// The id of the key that sealed a text.
pub fn sealed_by(sealed: &str) -> Option<&str> {
    parts(sealed).map(|(id, _)| id)
}

/// Whether a text has the form of a sealed one; only its key can tell whether it opens.
pub fn is_sealed(text: &str) -> bool {
    let body = parts(text).filter(|(id, _)| !id.is_empty()).and_then(|(_, body)| STANDARD.decode(body).ok());
    // A nonce and a tag of 16 bytes, around at least one byte.
    body.is_some_and(|bytes| bytes.len() > NONCE_BYTES.saturating_add(16))
}

fn parts(sealed: &str) -> Option<(&str, &str)> {
    // Key ids may hold dots; base64 holds none.
    sealed.strip_prefix("v1.")?.rsplit_once('.')
}

fn associated(place: &str, key_id: &str) -> String {
    format!("jinlu|{place}|{key_id}")
}

/// One keyed hash of a text, with the id of its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindIndex {
    pub kid: String,
    /// Lower-case hex of HMAC-SHA256.
    pub mac: String,
}

/// The keys of blind indexes. The first one is the newest; while two are live, both are written and looked up.
pub struct IndexKeys {
    keys: Vec<(String, [u8; KEY_BYTES])>,
}

impl std::fmt::Debug for IndexKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IndexKeys(***)")
    }
}

impl IndexKeys {
    /// From key ids and keys.
    pub fn new(keys: impl IntoIterator<Item = (String, [u8; KEY_BYTES])>) -> Result<Self, VaultError> {
        let keys: Vec<_> = keys.into_iter().collect();
        if keys.is_empty() { Err(VaultError::NoKey) } else { Ok(Self { keys }) }
    }

    /// The ids of the live keys, newest first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    /// The indexes of a normalised text under every live key. `label` keeps kinds of text apart (`id:v1:`).
    pub fn of(&self, label: &str, text: &str) -> Result<Vec<BlindIndex>, VaultError> {
        self.keys
            .iter()
            .map(|(id, key)| {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| VaultError::NoKey)?;
                mac.update(label.as_bytes());
                mac.update(text.as_bytes());
                Ok(BlindIndex { kid: id.clone(), mac: hex::encode(mac.finalize().into_bytes()) })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(ids: &[&str]) -> FieldKeys {
        FieldKeys::new(ids.iter().map(|id| ((*id).to_owned(), [u8::try_from(id.len()).unwrap(); KEY_BYTES]))).unwrap()
    }

    #[test]
    fn a_sealed_text_opens_only_in_its_place_and_unchanged() {
        let one = keys(&["a.1"]);
        let sealed = one.seal([7; NONCE_BYTES], "identities|idCard|u-1", b"secret").unwrap();
        assert_eq!(sealed_by(&sealed), Some("a.1"));
        assert!(is_sealed(&sealed) && !is_sealed("v1.a.1.AAAA") && !is_sealed("11010519491231002X"));
        assert_eq!(one.open("identities|idCard|u-1", &sealed).unwrap(), b"secret");
        assert_eq!(one.open("identities|idCard|u-2", &sealed), Err(VaultError::Broken));
        assert_eq!(keys(&["other"]).open("identities|idCard|u-1", &sealed), Err(VaultError::UnknownKey));
        let mut chars: Vec<char> = sealed.chars().collect();
        let at = chars.len() - 6;
        chars[at] = if chars[at] == 'A' { 'B' } else { 'A' };
        let changed: String = chars.into_iter().collect();
        assert_eq!(one.open("identities|idCard|u-1", &changed), Err(VaultError::Broken));
        for broken in ["", "v1.", "v1.a.1.", "v1.a.1.AAAA", "v2.a.1.AAAA", "v1.a.1.***"] {
            assert!(one.open("identities|idCard|u-1", broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn after_a_rotation_old_texts_open_and_new_ones_use_the_new_key() {
        let old = keys(&["old"]).seal([1; NONCE_BYTES], "p", b"x").unwrap();
        let both = keys(&["newer", "old"]);
        assert_eq!(both.open("p", &old).unwrap(), b"x");
        let new = both.seal([2; NONCE_BYTES], "p", b"x").unwrap();
        assert_eq!((sealed_by(&new), both.newest()), (Some("newer"), "newer"));
    }

    #[test]
    fn an_index_needs_its_key_and_label() {
        let index = IndexKeys::new([("i1".to_owned(), [1; KEY_BYTES]), ("i2".to_owned(), [2; KEY_BYTES])]).unwrap();
        let of = index.of("id:v1:", "11010519491231002X").unwrap();
        assert_eq!(of.len(), 2);
        assert_ne!(of[0].mac, of[1].mac);
        assert_eq!(of, index.of("id:v1:", "11010519491231002X").unwrap());
        assert_ne!(of[0].mac, index.of("id:v2:", "11010519491231002X").unwrap()[0].mac);
    }
}
