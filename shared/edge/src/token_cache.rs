//! WeChat's access token, shared by all processes through the store.
//!
//! Whoever holds the token acts as the shop, so the database only ever sees it encrypted, under a key that every
//! process derives from the app secret it has anyway.

use std::time::Duration;

use chrono::TimeDelta;
use domain::BoxError;
use hmac::{Hmac, KeyInit, Mac};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::Sha256;
use store::Store;
use wechat::Secret;
use wechat::open::{CacheFuture, CachedToken, Rest, TokenCache};

use crate::clock::Clock;

/// The store as a [`TokenCache`].
pub struct StoreTokens {
    store: Store,
    clock: Clock,
    name: String,
    /// Under what all processes find that WeChat has refused a token.
    pause: String,
    /// Tells this process's leases from the others'.
    owner: String,
    cipher: Cipher,
}

impl StoreTokens {
    /// The token of `appid`, readable by every process that has the same app secret.
    pub fn new(store: Store, clock: Clock, appid: &str, secret: &str) -> Result<Self, BoxError> {
        let owner = hex::encode(rand::random::<[u8; 8]>());
        let cipher = Cipher::new(appid, secret)?;
        let (name, pause) = (format!("wechat|{appid}"), format!("pause|token|{appid}"));
        Ok(Self { store, clock, name, pause, owner, cipher })
    }
}

impl TokenCache for StoreTokens {
    fn get(&self) -> CacheFuture<'_, Option<CachedToken>> {
        Box::pin(async move {
            let Some((sealed, expires_at)) = self.store.get_token(&self.name).await? else {
                return Ok(None);
            };
            // Sealed under another app secret, after it was changed: as good as absent.
            let token = self.cipher.open(&sealed);
            Ok(token.map(|token| CachedToken { token: Secret::new(token), expires_at }))
        })
    }

    fn put<'a>(&'a self, token: &'a CachedToken) -> CacheFuture<'a, ()> {
        Box::pin(async move {
            let sealed = self.cipher.seal(token.token.expose())?;
            Ok(self.store.put_token(&self.name, &sealed, token.expires_at).await?)
        })
    }

    fn remove<'a>(&'a self, token: &'a Secret) -> CacheFuture<'a, ()> {
        Box::pin(async move {
            let sealed = self.cipher.seal(token.expose())?;
            Ok(self.store.drop_token(&self.name, &sealed).await?)
        })
    }

    fn try_lock(&self, ttl: Duration) -> CacheFuture<'_, bool> {
        Box::pin(async move {
            let ttl = TimeDelta::from_std(ttl)?;
            Ok(self.store.acquire_lease(&self.name, &self.owner, ttl, self.clock.now()).await?)
        })
    }

    fn unlock(&self) -> CacheFuture<'_, ()> {
        Box::pin(async move { Ok(self.store.release_lease(&self.name, &self.owner).await?) })
    }

    fn rest(&self) -> CacheFuture<'_, Option<Rest>> {
        Box::pin(async move {
            let pause = self.store.pause(&self.pause).await?;
            // A reason that is no number was written by somebody else; that there is a pause still counts.
            Ok(pause.map(|(reason, until)| Rest { errcode: reason.parse().unwrap_or_default(), until }))
        })
    }

    fn set_rest<'a>(&'a self, rest: &'a Rest) -> CacheFuture<'a, ()> {
        Box::pin(async move { Ok(self.store.set_pause(&self.pause, &rest.errcode.to_string(), rest.until).await?) })
    }
}

/// AES-256-GCM with a nonce made from the plain text, so that the same token always seals to the same text and
/// "remove it if it is still this one" can be asked of the database.
struct Cipher {
    key: LessSafeKey,
    nonce_key: [u8; 32],
}

/// The token could not be sealed.
#[derive(Debug, thiserror::Error)]
#[error("sealing the access token failed")]
struct SealError;

impl Cipher {
    fn new(appid: &str, secret: &str) -> Result<Self, BoxError> {
        let derive =
            |purpose: &str| hmac(secret.as_bytes(), format!("jinlu access token\n{purpose}\n{appid}").as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, &derive("key")?).map_err(|_| SealError)?;
        Ok(Self { key: LessSafeKey::new(key), nonce_key: derive("nonce")? })
    }

    fn seal(&self, token: &str) -> Result<String, BoxError> {
        let mac = hmac(&self.nonce_key, token.as_bytes())?;
        let nonce: [u8; NONCE_LEN] = mac.get(..NONCE_LEN).ok_or(SealError)?.try_into()?;
        let mut text = token.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
            .map_err(|_| SealError)?;
        Ok(format!("{}.{}", hex::encode(nonce), hex::encode(text)))
    }

    fn open(&self, sealed: &str) -> Option<String> {
        let (nonce, text) = sealed.split_once('.')?;
        let nonce = Nonce::try_assume_unique_for_key(&hex::decode(nonce).ok()?).ok()?;
        let mut text = hex::decode(text).ok()?;
        let plain = self.key.open_in_place(nonce, Aad::empty(), &mut text).ok()?;
        String::from_utf8(plain.to_vec()).ok()
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Result<[u8; 32], BoxError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(text);
    Ok(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::Cipher;

    #[test]
    fn a_token_comes_back_and_only_with_its_secret() {
        let cipher = Cipher::new("wx1", "app-secret").unwrap();
        let sealed = cipher.seal("63_TOKEN").unwrap();
        assert!(!sealed.contains("63_TOKEN"));
        assert_eq!(cipher.open(&sealed).as_deref(), Some("63_TOKEN"));
        assert_eq!(sealed, cipher.seal("63_TOKEN").unwrap(), "so that it can be removed by value");
        assert_ne!(sealed, cipher.seal("63_OTHER").unwrap());
        assert_eq!(Cipher::new("wx1", "new-secret").unwrap().open(&sealed), None);
        for broken in ["", ".", "zz.zz", "00.00", sealed.trim_end_matches(|c| c != '.')] {
            assert_eq!(cipher.open(broken), None, "{broken}");
        }
    }
}
