//! Applies `collections/`: the single truth for validators, indexes, field accounts and demo data.
//!
//! Nothing is ever dropped. What stands in the database and not in `collections/`, or differs in a way that only a rebuild could
//! change, is reported as drift.

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::Deserialize;

use crate::book::{Entry, OPENING, Posting};
use crate::{Error, Store, date};

macro_rules! definitions {
    ($($name:literal),* $(,)?) => {
        const FILES: &[&str] = &[ $( include_str!(concat!("../../../collections/", $name, ".json")), )* ];
    };
}

definitions![
    "accessLogs",
    "accessTokens",
    "activityCoinLots",
    "activityCoinRecords",
    "assignments",
    "bills",
    "coupons",
    "carts",
    "cursors",
    "customerAddresses",
    "customerMergeHistory",
    "customers",
    "freightTemplates",
    "identities",
    "leases",
    "ledger",
    "ledgerSeals",
    "lotteryActivities",
    "lotteryLists",
    "lotteryQualifications",
    "lotteryRounds",
    "lotteryTickets",
    "member_points_log",
    "member_user",
    "nonces",
    "orders",
    "outbox",
    "parcels",
    "paymentExceptions",
    "payments",
    "prepaidDeductions",
    "prepaidRecords",
    "quotes",
    "rateLimits",
    "records",
    "refunds",
    "requests",
    "reviewStats",
    "reviews",
    "shopProducts",
    "staff",
    "subscriptions",
    "updatePrepaidProduct",
    "userCoupons",
    "verifyCodes",
];

/// One file of `collections/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub name: String,
    /// What it holds, for people.
    pub description: String,
    /// Who may read and write it through the platform's own database clients; ours is the only writer.
    pub access: String,
    /// Numeric fields that only the book may change.
    #[serde(default)]
    pub accounts: Vec<AccountField>,
    /// The `$jsonSchema` that the server enforces; its descriptions tell the units.
    pub schema: Document,
    #[serde(default)]
    pub indexes: Vec<Document>,
    /// Documents of the local cloud, in relaxed extended JSON.
    #[serde(default)]
    pub demo: Vec<Document>,
}

/// A field account: `{field, asset}`, where `{id}` and `{sku}` in the asset stand for the document and the array element, and
/// `{asset}` for the document's own `asset`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountField {
    /// `points`, or `skus[].stock` for the elements of an array that are told apart by `skuId`.
    pub field: String,
    pub asset: String,
}

/// A field account of one document, with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountValue {
    pub(crate) account: String,
    pub(crate) asset: String,
    pub(crate) value: i64,
}

impl Definition {
    /// The accounts that a document of this collection holds.
    pub(crate) fn account_values(&self, id: &str, document: &Document) -> Vec<AccountValue> {
        let mut values = Vec::new();
        for account in &self.accounts {
            let own = document.get_str("asset").unwrap_or_default();
            let asset = account.asset.replace("{id}", id).replace("{asset}", own);
            match account.field.split_once("[].") {
                None => values.push(AccountValue {
                    account: format!("{}/{id}#{}", self.name, account.field),
                    asset,
                    value: crate::book::number(document, &account.field),
                }),
                Some((array, field)) => {
                    let elements = document.get_array(array).map(Vec::as_slice).unwrap_or_default();
                    for element in elements.iter().filter_map(Bson::as_document) {
                        let sku = element.get_str("skuId").unwrap_or_default();
                        values.push(AccountValue {
                            account: format!("{}/{id}#{array}.{sku}.{field}", self.name),
                            asset: asset.replace("{sku}", sku),
                            value: crate::book::number(element, field),
                        });
                    }
                }
            }
        }
        values
    }
}

/// All definitions, by name.
pub fn definitions() -> Result<Vec<Definition>, Error> {
    FILES
        .iter()
        .map(|text| serde_json::from_str(text).map_err(|e| Error::Invariant(format!("collections file: {e}"))))
        .collect()
}

/// How to apply `collections/`.
#[derive(Debug, Clone, Copy, Default)]
pub struct InitOptions {
    /// Also insert the demo documents that are missing.
    pub demo: bool,
    /// Change nothing, only report.
    pub dry_run: bool,
}

/// What applying did, or would do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct InitReport {
    pub created: Vec<String>,
    pub validators_changed: Vec<String>,
    pub indexes_created: Vec<String>,
    pub demo_inserted: u64,
    /// Products that got the tokens that a search finds them by.
    pub made_searchable: u64,
    /// Differences that are left to a person.
    pub drift: Vec<String>,
}

impl InitReport {
    pub fn is_clean(&self) -> bool {
        self.created.is_empty()
            && self.validators_changed.is_empty()
            && self.indexes_created.is_empty()
            && self.drift.is_empty()
    }
}

/// Whole numbers are Int64 in the store, whatever the text suggests.
fn widen(value: &mut Bson) {
    match value {
        Bson::Int32(n) => *value = Bson::Int64(i64::from(*n)),
        Bson::Document(document) => document.iter_mut().for_each(|(_, v)| widen(v)),
        Bson::Array(items) => items.iter_mut().for_each(widen),
        _ => {}
    }
}

impl Store {
    /// Creates collections, validators and indexes as `collections/` says; running it again changes nothing.
    pub async fn init(&self, options: InitOptions, now: DateTime<Utc>) -> Result<InitReport, Error> {
        let db = self.db().await?;
        let mut report = InitReport::default();
        let existing: Vec<_> = db.list_collections().await?.try_collect().await?;
        let known = definitions()?;
        for definition in &known {
            let validator = doc! { "$jsonSchema": definition.schema.clone() };
            let current = existing.iter().find(|c| c.name == definition.name);
            match current {
                None => {
                    report.created.push(definition.name.clone());
                    if !options.dry_run {
                        db.create_collection(&definition.name).validator(validator).await?;
                    }
                }
                Some(c) if c.options.validator.as_ref() != Some(&validator) => {
                    report.validators_changed.push(definition.name.clone());
                    if !options.dry_run {
                        db.run_command(doc! { "collMod": &definition.name, "validator": validator }).await?;
                    }
                }
                Some(_) => {}
            }
            self.apply_indexes(definition, current.is_some(), options, &mut report).await?;
            if options.demo && !options.dry_run {
                self.insert_demo(definition, now, &mut report).await?;
            }
        }
        if let Some(products) = known.iter().find(|d| d.name == "shopProducts" && !options.dry_run) {
            report.made_searchable = self.backfill_search(products).await?;
        }
        for collection in &existing {
            if !collection.name.starts_with("system.") && !known.iter().any(|d| d.name == collection.name) {
                report.drift.push(format!("collection {} is not in collections/", collection.name));
            }
        }
        Ok(report)
    }

    /// One collection with its validator and indexes, if it is missing or lacks some.
    pub(crate) async fn init_collection(&self, name: &str, known: &[Definition]) -> Result<(), Error> {
        let db = self.db().await?;
        let Some(definition) = known.iter().find(|d| d.name == name) else { return Ok(()) };
        let exists = db.list_collection_names().await?.iter().any(|n| n == name);
        if !exists {
            let validator = doc! { "$jsonSchema": definition.schema.clone() };
            let created = db.create_collection(name).validator(validator).await;
            // Two that start at once both find it missing; one of them makes it.
            if created.is_err() && !db.list_collection_names().await?.iter().any(|n| n == name) {
                created?;
            }
        }
        self.apply_indexes(definition, exists, InitOptions::default(), &mut InitReport::default()).await
    }

    async fn apply_indexes(
        &self,
        definition: &Definition,
        exists: bool,
        options: InitOptions,
        report: &mut InitReport,
    ) -> Result<(), Error> {
        let db = self.db().await?;
        let mut present: Vec<Document> = Vec::new();
        if exists {
            let reply =
                db.run_command(doc! { "listIndexes": &definition.name, "cursor": { "batchSize": 1000 } }).await?;
            let batch = reply
                .get_document("cursor")
                .ok()
                .and_then(|c| c.get_array("firstBatch").ok())
                .cloned()
                .unwrap_or_default();
            present =
                batch.into_iter().filter_map(|b| if let Bson::Document(d) = b { Some(d) } else { None }).collect();
        }
        let mut missing = Vec::new();
        let mut names = Vec::new();
        for index in &definition.indexes {
            let name = index.get_str("name").unwrap_or_default().to_owned();
            match present.iter().find(|p| p.get_str("name").is_ok_and(|n| n == name)) {
                None => {
                    report.indexes_created.push(format!("{}.{name}", definition.name));
                    missing.push(Bson::Document(index.clone()));
                }
                Some(p) => {
                    let differs = |key: &str| p.get(key).filter(|v| **v != Bson::Boolean(false)) != index.get(key);
                    if ["key", "unique", "sparse", "partialFilterExpression", "expireAfterSeconds"]
                        .iter()
                        .any(|k| differs(k))
                    {
                        report.drift.push(format!(
                            "index {}.{name} differs; drop it by hand and run init again",
                            definition.name
                        ));
                    }
                }
            }
            names.push(name);
        }
        for index in &present {
            let name = index.get_str("name").unwrap_or_default();
            if name != "_id_" && !names.iter().any(|n| n == name) {
                report.drift.push(format!("index {}.{name} is not in collections/", definition.name));
            }
        }
        if !missing.is_empty() && !options.dry_run {
            db.run_command(doc! { "createIndexes": &definition.name, "indexes": missing }).await?;
        }
        Ok(())
    }

    async fn insert_demo(
        &self,
        definition: &Definition,
        now: DateTime<Utc>,
        report: &mut InitReport,
    ) -> Result<(), Error> {
        for value in &definition.demo {
            let mut demo = value.clone();
            demo.iter_mut().for_each(|(_, v)| widen(v));
            demo.entry("createdAt").or_insert(date::bson(now));
            if definition.name == "shopProducts" {
                demo.insert("searchTokens", crate::products::search_tokens(&demo));
            }
            let id =
                demo.get_str("_id").map_err(|_| Error::Invariant("demo document without _id".to_owned()))?.to_owned();
            let mut entry = Entry::new(format!("opening:{}/{id}:demo", definition.name), now);
            for account in definition.account_values(&id, &demo).into_iter().filter(|a| a.value != 0) {
                entry.postings.push(Posting::system(OPENING, &account.asset, account.value.saturating_neg()));
                entry.postings.push(Posting { account: account.account, asset: account.asset, amount: account.value });
            }
            let inserted = self
                .transaction(|tx, _| {
                    let (id, demo, entry) = (&id, &demo, &entry);
                    Box::pin(async move {
                        if tx.find_by_id::<Document>(&definition.name, id).await?.is_some() {
                            return Ok(false);
                        }
                        tx.insert(&definition.name, demo).await?;
                        if !entry.postings.is_empty() {
                            tx.insert("ledger", entry).await?;
                        }
                        Ok(true)
                    })
                })
                .await?;
            report.demo_inserted = report.demo_inserted.saturating_add(u64::from(inserted));
        }
        Ok(())
    }

    /// Inserts documents as they are, with opening entries for their accounts. For migration and tests.
    pub async fn open_document(
        &self,
        collection: &str,
        value: &serde_json::Value,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let mut definition = definitions()?
            .into_iter()
            .find(|d| d.name == collection)
            .ok_or_else(|| Error::Invariant(format!("no collection {collection}")))?;
        let Bson::Document(document) =
            Bson::try_from(value.clone()).map_err(|e| Error::Invariant(format!("extended JSON: {e}")))?
        else {
            return Err(Error::Invariant("not a document".to_owned()));
        };
        definition.demo = vec![document];
        let mut report = InitReport::default();
        self.insert_demo(&definition, now, &mut report).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_names_its_indexes() {
        for definition in definitions().unwrap() {
            assert!(!definition.description.is_empty());
            for index in &definition.indexes {
                assert!(index.get("name").is_some() && index.get("key").is_some(), "{}: {index}", definition.name);
            }
        }
    }

    #[test]
    fn accounts_of_a_product_with_skus() {
        let definitions = definitions().unwrap();
        let products = definitions.iter().find(|d| d.name == "shopProducts").unwrap();
        let doc = doc! { "stock": 0i64, "skus": [ { "skuId": "s", "stock": 3i64 } ] };
        let values = products.account_values("p", &doc);
        assert_eq!(values[0].account, "shopProducts/p#stock");
        assert_eq!(
            values[1],
            AccountValue { account: "shopProducts/p#skus.s.stock".into(), asset: "stock:p/s".into(), value: 3 }
        );
    }
}
