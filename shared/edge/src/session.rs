//! Session tokens: HS256 with a key id, so that the secret can be replaced while old tokens run out.
//!
//! Expiry is checked against the caller's `now` and not by the JWT library, which would read the machine's clock.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Code, Refusal};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::config::SessionSecret;

/// How long a user's token is good for.
pub(crate) const USER_TOKEN_DAYS: i64 = 7;

/// Request headers together may hold 4 KB on the platform; a token takes at most a quarter of it.
const TOKEN_BYTES_MAX: usize = 1024;

/// What a token says, after its signature was checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(default)]
    pub kind: Kind,
    pub sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unionid: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    pub iat: i64,
    pub exp: i64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    #[default]
    #[serde(rename = "user")]
    User,
    #[serde(rename = "staff")]
    Staff,
}

/// A token could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// `SESSION_SECRETS` was not given to this function.
    #[error("no session secret is configured: set SESSION_SECRETS")]
    NoSecret,
    /// The claims do not fit into the header budget.
    #[error("the token would be {0} bytes, more than {TOKEN_BYTES_MAX}")]
    TooLong(usize),
    /// The library refused to sign.
    #[error("signing the token failed")]
    Sign(#[source] jsonwebtoken::errors::Error),
    /// The expiry lies outside of what a date can hold.
    #[error("the expiry is out of range")]
    Expiry,
}

/// The keys that tokens are signed and checked with.
pub(crate) struct Sessions {
    keys: Vec<SessionKey>,
}

struct SessionKey {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl Sessions {
    pub(crate) fn new(secrets: &[SessionSecret]) -> Self {
        let keys = secrets
            .iter()
            .map(|secret| SessionKey {
                id: secret.id.clone(),
                encoding: EncodingKey::from_secret(secret.secret.expose().as_bytes()),
                decoding: DecodingKey::from_secret(secret.secret.expose().as_bytes()),
            })
            .collect();
        Self { keys }
    }

    /// Sign with the first key. Returns the token and its expiry, which is a whole second.
    pub(crate) fn issue(
        &self,
        kind: Kind,
        sub: &str,
        unionid: Option<&str>,
        permissions: &[String],
        ttl: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<(String, DateTime<Utc>), IssueError> {
        let key = self.keys.first().ok_or(IssueError::NoSecret)?;
        let exp = now.checked_add_signed(ttl).ok_or(IssueError::Expiry)?.timestamp();
        let claims = Claims {
            kind,
            sub: sub.to_owned(),
            unionid: unionid.map(str::to_owned),
            permissions: permissions.to_vec(),
            iat: now.timestamp(),
            exp,
        };
        let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
        let token = jsonwebtoken::encode(&header, &claims, &key.encoding).map_err(IssueError::Sign)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(IssueError::TooLong(token.len()));
        }
        let expires_at = DateTime::from_timestamp(exp, 0).ok_or(IssueError::Expiry)?;
        Ok((token, expires_at))
    }

    /// Check a presented token. Fails with `UNAUTHENTICATED`, or `SESSION_EXPIRED` for one that was good once.
    pub(crate) fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, Refusal> {
        let refused = || Refusal::new(Code::Unauthenticated).with_message("登录凭证无效，请重新登录");
        // Longer than any token of ours: not worth decoding.
        if token.len() > TOKEN_BYTES_MAX {
            return Err(refused());
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| refused())?;
        // Named twice on purpose: here, and as the only algorithm the validation below allows.
        if header.alg != Algorithm::HS256 {
            return Err(refused());
        }
        let kid = header.kid.ok_or_else(refused)?;
        let key = self.keys.iter().find(|key| key.id == kid).ok_or_else(refused)?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation).map_err(|_| refused())?.claims;
        if claims.exp <= now.timestamp() {
            return Err(Refusal::new(Code::SessionExpired));
        }
        Ok(claims)
    }
}
