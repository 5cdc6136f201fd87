//! What a shop has at Kuaidi100: its client, the address that pushes come to, and what they are signed with.

use ring::hmac;

use super::push::{self, Push, PushError};
use super::{Config, Kuaidi100, Kuaidi100Error};
use crate::Secret;

/// The name of a subscription in the query of its callback address.
const NAME: &str = "subscription";

/// An account with the means to follow parcels.
#[derive(Debug)]
pub struct Account {
    /// Asks and subscribes.
    pub client: Kuaidi100,
    callback_url: String,
    salts: Vec<Secret>,
}

impl Account {
    /// `callback_url` has no query; of `salts` the first one makes the salts of new subscriptions, and all of them verify.
    pub fn new(config: Config, callback_url: String, salts: Vec<Secret>) -> Result<Self, Kuaidi100Error> {
        if salts.is_empty() {
            return Err(Kuaidi100Error::Misuse("pushes need a salt"));
        }
        Ok(Self { client: Kuaidi100::new(config)?, callback_url, salts })
    }

    /// Where the pushes of a subscription go. Its name is letters, digits and hyphens.
    pub fn callback_url(&self, subscription: &str) -> String {
        format!("{}?{NAME}={subscription}", self.callback_url)
    }

    /// The name of the subscription in the query of a push.
    pub fn subscription_of(query: &str) -> Option<&str> {
        query.split('&').find_map(|pair| pair.strip_prefix(NAME)?.strip_prefix('=')).filter(|name| !name.is_empty())
    }

    /// What the pushes of a subscription are signed with. It is made anew each time, so that none has to be stored, and a
    /// subscription that is repeated because nobody saw its answer has the same.
    pub fn salt(&self, subscription: &str) -> Secret {
        self.salts.first().map_or_else(|| Secret::new(""), |salt| made_of(salt, subscription))
    }

    /// Prove that a push belongs to this subscription, and read it.
    pub fn prove(&self, subscription: &str, body: &[u8]) -> Result<Push, PushError> {
        let mut outcome = Err(PushError::Unsigned);
        for salt in &self.salts {
            outcome = push::verify_form(body, &made_of(salt, subscription));
            if !matches!(outcome, Err(PushError::Signature)) {
                break;
            }
        }
        outcome
    }
}

/// 32 hexadecimal digits, as many as a salt may have.
fn made_of(salt: &Secret, subscription: &str) -> Secret {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt.expose().as_bytes()), subscription.as_bytes());
    Secret::new(tag.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn account(salts: &[&str]) -> Account {
        let config = Config {
            base_url: "http://127.0.0.1:9".to_owned(),
            customer: "C".to_owned(),
            key: Secret::new("key"),
            timeout: Duration::from_secs(1),
        };
        Account::new(config, "https://shop.example/cb".to_owned(), salts.iter().copied().map(Secret::new).collect())
            .unwrap()
    }

    #[test]
    fn each_subscription_has_a_salt_of_its_own_and_an_old_secret_still_proves() {
        let before = account(&["old"]);
        assert_eq!(before.callback_url("a-1"), "https://shop.example/cb?subscription=a-1");
        assert_eq!(Account::subscription_of("x=1&subscription=a-1"), Some("a-1"));
        assert_eq!(Account::subscription_of("xsubscription=a-1&subscription="), None);
        let salt = before.salt("a-1");
        assert!(salt.expose().len() == 32 && salt.expose() != before.salt("a-2").expose());
        let param = r#"{"status":"polling","lastResult":{"state":"0"}}"#;
        let body = format!("sign={}&param={param}", push::sign(param, &salt));
        for salts in [&["old"][..], &["new", "old"]] {
            assert!(account(salts).prove("a-1", body.as_bytes()).is_ok(), "{salts:?}");
        }
        assert_eq!(account(&["new"]).prove("a-1", body.as_bytes()), Err(PushError::Signature));
        assert_eq!(before.prove("a-2", body.as_bytes()), Err(PushError::Signature));
        assert_eq!(before.prove("a-1", param.as_bytes()), Err(PushError::Form));
    }
}
