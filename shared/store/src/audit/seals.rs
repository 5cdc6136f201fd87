//! Seals: every sealed day has the entries that it was sealed with, and the days form one chain.

use bson::{Bson, Document, doc};
use domain::BusinessDay;
use futures_util::TryStreamExt;
use mongodb::options::Hint;

use super::{Audit, Batch};
use crate::book::Entry;
use crate::seals::{DayHash, GENESIS, SETTLING, Seal, entries_of, hashing_order};
use crate::{Error, date};

/// Where the chain stands.
struct Link {
    day: BusinessDay,
    hash: String,
}

impl Audit<'_> {
    pub(super) async fn seals(&mut self) -> Result<(), Error> {
        let mut link: Option<Link> = None;
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Seal> = self.batch("ledgerSeals", "seal", after).await?;
            for seal in &batch.rows {
                link = self.check_seal(seal, link).await?;
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn check_seal(&mut self, seal: &Seal, link: Option<Link>) -> Result<Option<Link>, Error> {
        let here = format!("ledgerSeals/{}", seal.day);
        let Some(day) = BusinessDay::parse(&seal.day) else {
            self.violation("seal", "the seal is of no day", here);
            return Ok(link);
        };
        match &link {
            None if seal.previous != GENESIS => {
                self.violation("seal", "the chain does not begin here: days before it are missing", here.clone());
            }
            None => {}
            Some(before) if before.day.next() != day => {
                let message = format!("the days from {} on are missing", before.day.next());
                self.violation("seal", message, here.clone());
            }
            Some(before) if before.hash != seal.previous => {
                self.violation("seal", "the seal is not chained to the day before", here.clone());
            }
            Some(_) => {}
        }
        if (seal.from, seal.to) != (day.start(), day.end()) {
            self.violation("seal", "the seal's bounds are not its day's", here.clone());
        }
        if seal.sealed_at < day.end() + SETTLING {
            self.violation("seal", "the day was sealed before it had settled", here.clone());
        }
        if link.is_none() && self.entry_before(day).await? {
            self.violation("seal", "the ledger has entries older than its first sealed day", here.clone());
        }
        let (entries, hash) = self.day_hash(&seal.previous, day).await?;
        if entries != seal.entries {
            let message = format!("the day has {entries} entries and was sealed with {}", seal.entries);
            self.violation("seal", message, here.clone());
        }
        if hash != seal.hash {
            self.violation("seal", "the day's entries are not those that it was sealed with", here);
        }
        Ok(Some(Link { day, hash: seal.hash.clone() }))
    }

    async fn entry_before(&mut self, day: BusinessDay) -> Result<bool, Error> {
        let collection = self.collection("ledger").await?;
        let filter = doc! { "at": { "$lt": date::bson(day.start()) } };
        let find = collection.find_one(filter).hint(Hint::Keys(hashing_order()));
        Ok(find.session(&mut self.session).await?.is_some())
    }

    async fn day_hash(&mut self, previous: &str, day: BusinessDay) -> Result<(i64, String), Error> {
        let collection = self.collection("ledger").await?;
        let find = collection.find(entries_of(day)).hint(Hint::Keys(hashing_order())).sort(hashing_order());
        let mut cursor = find.batch_size(1000).session(&mut self.session).await?;
        let mut documents = cursor.stream(&mut self.session);
        let mut hash = DayHash::new(previous, day);
        while let Some(document) = documents.try_next().await? {
            let document: Document = document;
            // One that cannot be read is reported as an entry; here it is one that is missing.
            if let Ok(entry) = bson::deserialize_from_document::<Entry>(document) {
                hash.push(&entry)?;
            }
        }
        Ok(hash.finish())
    }
}
