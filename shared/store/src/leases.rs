//! What several processes must do one at a time or only once: leases, service nonces, shared tokens.

use bson::doc;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{Error, Store, date};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    #[serde(rename = "_id")]
    name: String,
    token: String,
    #[serde(with = "date")]
    expires_at: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lease {
    owner: String,
    #[serde(with = "date")]
    expires_at: DateTime<Utc>,
}

impl Store {
    /// Takes the lease `name` for `owner` until `now + ttl`, if it is free, over, or already this owner's.
    pub async fn acquire_lease(
        &self,
        name: &str,
        owner: &str,
        ttl: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let result = self
            .collection::<bson::Document>("leases")
            .await?
            .update_one(
                doc! { "_id": name, "$or": [ { "expiresAt": { "$lte": date::bson(now) } }, { "owner": owner } ] },
                doc! { "$set": { "owner": owner, "expiresAt": date::bson(now + ttl) } },
            )
            .upsert(true)
            .await;
        // The upsert meets the held lease's _id: somebody else has it.
        match result.map_err(Error::from) {
            Ok(_) => Ok(true),
            Err(Error::Duplicate { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the lease `name` back before its time, if it is still this owner's.
    pub async fn release_lease(&self, name: &str, owner: &str) -> Result<(), Error> {
        let leases = self.collection::<bson::Document>("leases").await?;
        leases.delete_one(doc! { "_id": name, "owner": owner }).await?;
        Ok(())
    }

    /// Tells all processes to leave `name` alone until then, and why; a longer pause that is already set stays as it is.
    pub async fn set_pause(&self, name: &str, reason: &str, until: DateTime<Utc>) -> Result<(), Error> {
        let result = self
            .collection::<bson::Document>("leases")
            .await?
            .update_one(
                doc! { "_id": name, "expiresAt": { "$lt": date::bson(until) } },
                doc! { "$set": { "owner": reason, "expiresAt": date::bson(until) } },
            )
            .upsert(true)
            .await;
        match result.map_err(Error::from) {
            // The upsert meets a pause that ends later.
            Ok(_) | Err(Error::Duplicate { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Why and until when `name` was last paused; it may be over.
    pub async fn pause(&self, name: &str) -> Result<Option<(String, DateTime<Utc>)>, Error> {
        let found = self.collection::<Lease>("leases").await?.find_one(doc! { "_id": name }).await?;
        Ok(found.map(|lease| (lease.owner, lease.expires_at)))
    }

    /// Consumes a nonce of a service key; false when it was used before.
    pub async fn use_nonce(&self, key_id: &str, nonce: &str, expires_at: DateTime<Utc>) -> Result<bool, Error> {
        let result = self
            .collection::<bson::Document>("nonces")
            .await?
            .insert_one(doc! { "_id": format!("{key_id}|{nonce}"), "expiresAt": date::bson(expires_at) })
            .await;
        match result.map_err(Error::from) {
            Ok(_) => Ok(true),
            Err(Error::Duplicate { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A token shared by all processes, with the instant at which it ends.
    pub async fn get_token(&self, name: &str) -> Result<Option<(String, DateTime<Utc>)>, Error> {
        let found = self.collection::<Token>("accessTokens").await?.find_one(doc! { "_id": name }).await?;
        Ok(found.map(|t| (t.token, t.expires_at)))
    }

    /// Replaces the shared token.
    pub async fn put_token(&self, name: &str, token: &str, expires_at: DateTime<Utc>) -> Result<(), Error> {
        let token = Token { name: name.to_owned(), token: token.to_owned(), expires_at };
        self.collection::<Token>("accessTokens").await?.replace_one(doc! { "_id": name }, &token).upsert(true).await?;
        Ok(())
    }

    /// Forgets the shared token if it is still this one.
    pub async fn drop_token(&self, name: &str, token: &str) -> Result<(), Error> {
        self.collection::<Token>("accessTokens").await?.delete_one(doc! { "_id": name, "token": token }).await?;
        Ok(())
    }
}
