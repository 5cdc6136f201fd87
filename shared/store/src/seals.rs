//! Seals: one chained hash per business day over the ledger, so that an entry that is edited, added or removed afterwards shows.
//!
//! The hash of a day is the lower-case hex SHA-256 over this text, in UTF-8:
//!
//! ```text
//! <hash of the day before, or 64 zeros on the first day>\n
//! <day, YYYY-MM-DD>\n
//! <one line per entry, by (at, _id)>\n
//! ```
//!
//! An entry's line is the compact JSON array
//! `[_id, at, userId, orderId, [[account, asset, amount], …], reverses, void]`: `at` in milliseconds since 1970, `null` for an
//! absent field, postings in their order. JSON escapes quotes, backslashes and control characters, so no two entries share a
//! line and no entry can pretend to be two.

use bson::doc;
use chrono::{DateTime, TimeDelta, Utc};
use domain::BusinessDay;
use futures_util::TryStreamExt;
use mongodb::options::Hint;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::book::Entry;
use crate::{Error, Store, crashpoint, date};

/// What the first day's hash is chained to.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How long after its end a day is sealed. An entry's time is taken when its call begins; a call lives two minutes at most, a
/// transaction ten seconds, and the clocks of the machines differ by seconds. Two hours leave room for all of it.
pub const SETTLING: TimeDelta = TimeDelta::hours(2);

/// `ledgerSeals`: what the ledger held on one business day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    /// The day, `YYYY-MM-DD` in Asia/Shanghai.
    #[serde(rename = "_id")]
    pub day: String,
    #[serde(with = "date")]
    pub from: DateTime<Utc>,
    /// The first instant after the day.
    #[serde(with = "date")]
    pub to: DateTime<Utc>,
    #[serde(deserialize_with = "domain::money::whole")]
    pub entries: i64,
    pub hash: String,
    /// The hash of the day before.
    pub previous: String,
    #[serde(with = "date")]
    pub sealed_at: DateTime<Utc>,
}

/// Hashes one day, entry by entry.
pub struct DayHash {
    hash: Sha256,
    entries: i64,
}

impl DayHash {
    pub fn new(previous: &str, day: BusinessDay) -> Self {
        let mut hash = Sha256::new();
        hash.update(format!("{previous}\n{day}\n"));
        Self { hash, entries: 0 }
    }

    /// Entries come by `(at, _id)`.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        self.hash.update(line(entry)?);
        self.hash.update(b"\n");
        self.entries = self.entries.saturating_add(1);
        Ok(())
    }

    /// The number of entries and the hash.
    pub fn finish(self) -> (i64, String) {
        (self.entries, hex::encode(self.hash.finalize()))
    }
}

fn line(entry: &Entry) -> Result<String, Error> {
    let postings: Vec<(&str, &str, i64)> =
        entry.postings.iter().map(|p| (p.account.as_str(), p.asset.as_str(), p.amount)).collect();
    let fields = (
        &entry.id,
        entry.at.timestamp_millis(),
        entry.user_id.as_ref().map(|u| u.as_str()),
        entry.order_id.as_ref().map(|o| o.as_str()),
        postings,
        &entry.reverses,
        entry.void,
    );
    serde_json::to_string(&fields).map_err(|e| Error::Invariant(format!("entry {}: {e}", entry.id)))
}

/// The entries of a day.
pub(crate) fn entries_of(day: BusinessDay) -> bson::Document {
    doc! { "at": { "$gte": date::bson(day.start()), "$lt": date::bson(day.end()) } }
}

/// The order in which a day is hashed, and the index that has it.
pub(crate) fn hashing_order() -> bson::Document {
    doc! { "at": 1, "_id": 1 }
}

impl Store {
    /// The last day of the chain.
    pub async fn newest_seal(&self) -> Result<Option<Seal>, Error> {
        let seals = self.collection::<Seal>("ledgerSeals").await?;
        Ok(seals.find_one(doc! {}).hint(Hint::Keys(doc! { "_id": 1 })).sort(doc! { "_id": -1 }).await?)
    }

    /// The next day that can be sealed now, and the hash that it is chained to.
    pub async fn next_to_seal(
        &self,
        newest: Option<&Seal>,
        now: DateTime<Utc>,
    ) -> Result<Option<(BusinessDay, String)>, Error> {
        let next = match newest {
            Some(seal) => {
                let day = BusinessDay::parse(&seal.day)
                    .ok_or_else(|| Error::Invariant(format!("a seal of no day: {}", seal.day)))?;
                Some((day.next(), seal.hash.clone()))
            }
            None => {
                let ledger = self.collection::<Entry>("ledger").await?;
                let first = ledger.find_one(doc! {}).hint(Hint::Keys(hashing_order())).sort(hashing_order()).await?;
                first.map(|e| (BusinessDay::of(e.at), GENESIS.to_owned()))
            }
        };
        Ok(next.filter(|(day, _)| day.end() + SETTLING <= now))
    }

    /// Seals one day. A day that is sealed already must have the same hash.
    pub async fn seal_day(&self, day: BusinessDay, previous: &str, now: DateTime<Utc>) -> Result<Seal, Error> {
        let mut hash = DayHash::new(previous, day);
        let ledger = self.collection::<Entry>("ledger").await?;
        let find = ledger.find(entries_of(day)).hint(Hint::Keys(hashing_order())).sort(hashing_order());
        let mut entries = find.batch_size(1000).await?;
        while let Some(entry) = entries.try_next().await? {
            hash.push(&entry)?;
        }
        let (entries, hash) = hash.finish();
        let seal = Seal {
            day: day.to_string(),
            from: day.start(),
            to: day.end(),
            entries,
            hash,
            previous: previous.to_owned(),
            sealed_at: now,
        };
        crashpoint("seal.hashed").await;
        let seals = self.collection::<Seal>("ledgerSeals").await?;
        match seals.insert_one(&seal).await.map_err(Error::from) {
            Ok(_) => Ok(seal),
            Err(Error::Duplicate { .. }) => {
                let theirs = seals.find_one(doc! { "_id": &seal.day }).await?;
                let theirs = theirs.filter(|t| t.hash == seal.hash && t.previous == seal.previous);
                theirs.ok_or_else(|| Error::Invariant(format!("{day} was sealed with another hash")))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{SALES, WECHAT};

    #[test]
    fn the_text_of_an_entry_is_fixed() {
        let at = DateTime::from_timestamp_millis(1_795_276_799_999).unwrap();
        let entry = Entry::new("order:\"1\"\n:settle", at).transfer("fen", WECHAT, SALES, 5);
        let expected =
            r#"["order:\"1\"\n:settle",1795276799999,null,null,[["@wechat","fen",-5],["@sales","fen",5]],null,false]"#;
        assert_eq!(line(&entry).unwrap(), expected);
        let user = domain::UserId::parse("u-1").unwrap();
        let order = domain::OrderId::parse("A1").unwrap();
        let void = Entry { void: true, ..entry.reversal("b", at).user(&user).order(&order) };
        assert_eq!(
            line(&void).unwrap(),
            r#"["b",1795276799999,"u-1","A1",[["@wechat","fen",5],["@sales","fen",-5]],"order:\"1\"\n:settle",true]"#
        );
    }

    /// Computed with `printf … | sha256sum`.
    #[test]
    fn an_empty_day_has_its_known_hash() {
        let day = BusinessDay::parse("2026-11-21").unwrap();
        let (entries, hash) = DayHash::new(GENESIS, day).finish();
        assert_eq!((entries, hash.as_str()), (0, "9339b38b8081c2c67a865b0087a4c424f816ee770c9005c4f277f094e93cf0dc"));
    }

    #[test]
    fn every_field_and_the_order_of_postings_count() {
        let at = DateTime::from_timestamp_millis(0).unwrap();
        let day = BusinessDay::of(at);
        let entry = Entry::new("a", at).transfer("fen", WECHAT, SALES, 5);
        let hash = |previous: &str, entries: &[&Entry]| {
            let mut hash = DayHash::new(previous, day);
            entries.iter().for_each(|e| hash.push(e).unwrap());
            hash.finish().1
        };
        let mut turned = entry.clone();
        turned.postings.reverse();
        let others = [
            Entry { id: "b".to_owned(), ..entry.clone() },
            Entry { at: at + TimeDelta::milliseconds(1), ..entry.clone() },
            entry.clone().user(&domain::UserId::parse("u").unwrap()),
            entry.clone().order(&domain::OrderId::parse("A").unwrap()),
            Entry::new("a", at).transfer("fen", WECHAT, SALES, 6),
            turned,
            Entry { reverses: Some("x".to_owned()), ..entry.clone() },
            Entry { void: true, ..entry.clone() },
        ];
        let mut seen: std::collections::BTreeSet<String> = others.iter().map(|o| hash(GENESIS, &[o])).collect();
        seen.insert(hash(GENESIS, &[&entry]));
        seen.insert(hash(GENESIS, &[&entry, &entry]));
        seen.insert(hash("1", &[&entry]));
        assert_eq!(seen.len(), others.len() + 3);
    }
}
