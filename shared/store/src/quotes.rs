//! `quotes`: prices that were shown to somebody, for as long as they may be held to.

use bson::doc;
use chrono::{DateTime, TimeDelta, Utc};
use domain::quote::Quote;
use domain::{Code, OpenId, Refusal};
use serde::{Deserialize, Serialize};

use crate::{Error, Store, date};

/// How long a shown price is kept.
const KEEP: TimeDelta = TimeDelta::minutes(15);

/// A price that was shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownQuote {
    #[serde(rename = "_id")]
    pub id: String,
    pub open_id: OpenId,
    pub quote: Quote,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub expires_at: DateTime<Utc>,
}

impl Store {
    /// Keeps what is shown to somebody.
    pub async fn show_quote(&self, open_id: &OpenId, quote: &Quote, now: DateTime<Utc>) -> Result<ShownQuote, Error> {
        let shown = ShownQuote {
            id: hex::encode(crate::random::<16>()?),
            open_id: open_id.clone(),
            quote: quote.clone(),
            created_at: now,
            expires_at: now + KEEP,
        };
        self.collection::<ShownQuote>("quotes").await?.insert_one(&shown).await?;
        Ok(shown)
    }

    /// What this buyer was shown; `CONFLICT` with `details.reason` `QUOTE_EXPIRED` if that is over or was never.
    pub async fn shown_quote(&self, id: &str, open_id: &OpenId, now: DateTime<Utc>) -> Result<Quote, Error> {
        let found = self.collection::<ShownQuote>("quotes").await?.find_one(doc! { "_id": id }).await?;
        let valid = found.filter(|q| q.open_id == *open_id && now < q.expires_at);
        let expired =
            || Refusal::new(Code::Conflict).with_message("报价已过期，请刷新后再试").detail("reason", "QUOTE_EXPIRED");
        Ok(valid.ok_or_else(expired)?.quote)
    }
}
