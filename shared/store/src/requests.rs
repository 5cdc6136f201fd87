//! Idempotent commands: the key, the input's hash and the reply are written in the transaction of the effect.

use std::sync::Arc;

use bson::doc;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Code, Refusal};
use mongodb::options::ReadConcern;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Scope, Store, Tx, Work, crashpoint, date};

/// How long a key is remembered. Natural keys guard what is older.
const REMEMBER_DAYS: i64 = 30;

/// A command that must take effect once: who asked for what, under which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandKey {
    id: String,
    input_hash: String,
}

impl CommandKey {
    /// `caller` keeps the keys of different callers apart; `input_hash` is the hash of the whole input.
    pub fn new(function: &str, caller: &str, request_id: &str, input_hash: &str) -> Self {
        Self { id: format!("{function}|{caller}|{request_id}"), input_hash: input_hash.to_owned() }
    }

    pub fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(rename = "_id")]
    id: String,
    input_hash: String,
    /// JSON text, so that the reply comes back byte for byte.
    reply: String,
    #[serde(with = "date")]
    created_at: DateTime<Utc>,
    #[serde(with = "date")]
    expires_at: DateTime<Utc>,
}

/// The outcome of an idempotent command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once<T> {
    pub value: T,
    /// Whether the value is the stored one of an earlier call.
    pub replayed: bool,
}

impl Store {
    /// The stored reply of an earlier command with this key; the same key with another input is refused.
    pub async fn replay<T: DeserializeOwned>(&self, key: &CommandKey) -> Result<Option<Once<T>>, Error> {
        self.reply(key, ReadConcern::majority()).await
    }

    /// As [`Store::replay`], for a command that was just refused or met a duplicate.
    ///
    /// A transaction that does not commit may have read what its twin committed a moment ago and the majority does not have
    /// yet: an ordinary read after it could miss the twin's reply, and a repeat would be refused because of itself.
    pub async fn replay_of_twin<T: DeserializeOwned>(&self, key: &CommandKey) -> Result<Option<Once<T>>, Error> {
        self.reply(key, ReadConcern::linearizable()).await
    }

    async fn reply<T: DeserializeOwned>(
        &self,
        key: &CommandKey,
        concern: ReadConcern,
    ) -> Result<Option<Once<T>>, Error> {
        let requests = self.collection::<Request>("requests").await?;
        let find = requests.find_one(doc! { "_id": &key.id }).read_concern(concern);
        let Some(request) = find.max_time(self.transaction_deadline()).await? else { return Ok(None) };
        if request.input_hash != key.input_hash {
            return Err(Refusal::new(Code::IdempotencyKeyReused).into());
        }
        let value = serde_json::from_str(&request.reply).map_err(|e| Error::Invariant(format!("stored reply: {e}")))?;
        Ok(Some(Once { value, replayed: true }))
    }

    /// Runs `work` in a transaction at most once per key, and answers repeats with the stored value.
    pub async fn once<'env, T, F>(
        &self,
        key: Option<&'env CommandKey>,
        now: DateTime<Utc>,
        work: F,
    ) -> Result<Once<T>, Error>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'env,
        F: for<'t> Fn(&'t mut Tx, Scope<'t, 'env>) -> Work<'t, T> + Send + Sync + 'env,
    {
        if let Some(key) = key
            && let Some(done) = self.replay(key).await?
        {
            return Ok(done);
        }
        let work = Arc::new(work);
        let result = self
            .transaction(move |tx, scope| {
                let work = Arc::clone(&work);
                Box::pin(async move {
                    let value = work(tx, scope).await?;
                    if let Some(key) = key {
                        tx.remember(key, &value, now).await?;
                    }
                    crashpoint("once.inside").await;
                    Ok(value)
                })
            })
            .await;
        crashpoint("once.committed").await;
        match (result, key) {
            (Ok(value), _) => Ok(Once { value, replayed: false }),
            // A twin may have been first: its reply is the truth, whatever stopped this one.
            (Err(error), Some(key)) if !error.is_unavailable() => match self.replay_of_twin(key).await? {
                Some(done) => Ok(done),
                None => Err(error),
            },
            (Err(error), _) => Err(error),
        }
    }
}

impl Tx {
    /// Stores the reply under the key; `Duplicate` of `requests` if a twin was first.
    pub async fn remember<T: Serialize>(
        &mut self,
        key: &CommandKey,
        reply: &T,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let reply = serde_json::to_string(reply).map_err(|e| Error::Invariant(format!("reply: {e}")))?;
        let request = Request {
            id: key.id.clone(),
            input_hash: key.input_hash.clone(),
            reply,
            created_at: now,
            expires_at: now + TimeDelta::days(REMEMBER_DAYS),
        };
        self.insert("requests", &request).await
    }
}
