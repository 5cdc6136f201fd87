//! Changing keys: everything sealed is sealed again under the newest field key, and identity numbers are indexed under every live
//! index key.
//!
//! Nothing is remembered between runs: what is not current yet is found by looking, so a run may be killed and repeated. Each
//! document is changed by one update that names the old values, so an erasure or another run at the same moment wins cleanly.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use domain::UserId;
use domain::vault::{BlindIndex, FieldKeys, IndexKeys, sealed_by};
use futures_util::TryStreamExt;
use mongodb::options::Hint;
use serde::Serialize;

use crate::identities::{AccessLog, Actor};
use crate::{Error, Store};

/// Collections with their sealed fields. A field's place is `collection|field|document id`.
const SEALED: &[(&str, &[&str])] = &[(IDENTITIES, &["realName", ID_CARD]), ("lotteryRounds", &["secrets"])];
const IDENTITIES: &str = "identities";
const ID_CARD: &str = "idCard";

/// What the index of an identity number is labelled with.
pub const ID_LABEL: &str = "id:v1:";

const BATCH: i64 = 200;

/// How to rotate.
#[derive(Clone, Copy, Debug, Default)]
pub struct RotateOptions {
    /// Change nothing, decrypt nothing, only count.
    pub dry_run: bool,
    /// Also remove what was indexed under keys that are not live any more.
    pub drop_retired: bool,
}

/// What was done, or would be.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RotateReport {
    /// Documents with something sealed.
    pub seen: u64,
    /// Fields sealed again.
    pub resealed: u64,
    /// Identities whose index was completed or cleared of retired keys.
    pub indexed: u64,
    /// Documents that somebody changed at the same moment; the next run looks at them.
    pub changed_meanwhile: u64,
    /// Documents that could not be opened or indexed.
    pub failed: u64,
    /// How many fields each field key still holds.
    pub field_keys: BTreeMap<String, u64>,
    /// How many identities each index key still holds.
    pub index_keys: BTreeMap<String, u64>,
}

/// Told while it runs.
#[derive(Debug)]
pub enum RotateProgress<'a> {
    /// So many documents of a collection have been looked at.
    Seen(&'a str, u64),
    /// A document that could not be opened, and why; never its content.
    Failed(String),
}

/// The keys of one run, and who runs it.
pub struct Rotation<'a> {
    pub field_keys: &'a FieldKeys,
    pub index_keys: &'a IndexKeys,
    pub options: RotateOptions,
    /// Stands in `accessLogs.traceId`.
    pub run_id: &'a str,
    pub now: DateTime<Utc>,
}

/// What is to be done with one document.
struct Plan {
    id: String,
    /// Field and old sealed text.
    reseal: Vec<(&'static str, String)>,
    /// The number's sealed text, if indexes are missing.
    index_from: Option<String>,
    old_index: Vec<BlindIndex>,
    drops: bool,
}

impl Plan {
    fn is_needed(&self) -> bool {
        !self.reseal.is_empty() || self.reindexes()
    }

    fn reindexes(&self) -> bool {
        self.index_from.is_some() || self.drops
    }

    fn opens(&self) -> bool {
        !self.reseal.is_empty() || self.index_from.is_some()
    }
}

impl Rotation<'_> {
    fn plan(&self, collection: &str, fields: &'static [&'static str], document: &Document) -> Result<Plan, Error> {
        let id = document.get_str("_id").unwrap_or_default().to_owned();
        let old = |field: &&'static str| {
            let sealed = document.get_str(field).ok()?;
            (sealed_by(sealed) != Some(self.field_keys.newest())).then(|| (*field, sealed.to_owned()))
        };
        let mut plan = Plan {
            id,
            reseal: fields.iter().filter_map(old).collect(),
            index_from: None,
            old_index: Vec::new(),
            drops: false,
        };
        if collection == IDENTITIES
            && let Ok(sealed) = document.get_str(ID_CARD)
        {
            let index = document.get_array("idIndex").cloned().unwrap_or_default();
            plan.old_index = bson::deserialize_from_bson(Bson::Array(index))?;
            let has = |id: &str| plan.old_index.iter().any(|index| index.kid == id);
            let missing = self.index_keys.ids().any(|id| !has(id));
            plan.index_from = missing.then(|| sealed.to_owned());
            let retired = |index: &BlindIndex| self.index_keys.ids().all(|id| id != index.kid);
            plan.drops = self.options.drop_retired && plan.old_index.iter().any(retired);
        }
        Ok(plan)
    }

    /// The guard and the change of one document.
    fn change(&self, collection: &str, plan: &Plan) -> Result<(Document, Document), String> {
        let mut guard = doc! { "_id": &plan.id };
        let mut set = Document::new();
        let open = |field: &str, sealed: &str| {
            let place = format!("{collection}|{field}|{}", plan.id);
            self.field_keys.open(&place, sealed).map(|plain| (place, plain)).map_err(|e| format!("{field}: {e}"))
        };
        for (field, sealed) in &plan.reseal {
            let (place, plain) = open(field, sealed)?;
            let nonce = crate::random().map_err(|e| e.to_string())?;
            let again = self.field_keys.seal(nonce, &place, &plain).map_err(|e| e.to_string())?;
            guard.insert(*field, sealed);
            set.insert(*field, again);
        }
        if plan.reindexes() {
            let mut index = plan.old_index.clone();
            if let Some(sealed) = &plan.index_from {
                let (_, plain) = open(ID_CARD, sealed)?;
                let number = String::from_utf8(plain).map_err(|_| "idCard: not a text".to_owned())?;
                let all = self.index_keys.of(ID_LABEL, &number).map_err(|e| e.to_string())?;
                index.retain(|old| all.iter().all(|new| new.kid != old.kid));
                index.extend(all);
                guard.insert(ID_CARD, sealed);
            }
            if self.options.drop_retired {
                index.retain(|index| self.index_keys.ids().any(|id| id == index.kid));
            }
            let as_bson = |index: &[BlindIndex]| {
                Bson::Array(index.iter().map(|i| Bson::Document(doc! { "kid": &i.kid, "mac": &i.mac })).collect())
            };
            guard.insert("idIndex", as_bson(&plan.old_index));
            set.insert("idIndex", as_bson(&index));
        }
        Ok((guard, doc! { "$set": set }))
    }

    fn log(&self, plan: &Plan) -> Option<AccessLog> {
        let mut fields: Vec<String> = plan.reseal.iter().map(|(field, _)| (*field).to_owned()).collect();
        if plan.index_from.is_some() && !fields.iter().any(|field| field == ID_CARD) {
            fields.push(ID_CARD.to_owned());
        }
        Some(AccessLog {
            id: hex::encode(rand::random::<[u8; 16]>()),
            at: self.now,
            actor: Actor { kind: "command".to_owned(), id: "rotate-keys".to_owned() },
            role: None,
            user_id: UserId::parse(&plan.id).ok()?,
            collection: IDENTITIES.to_owned(),
            fields,
            purpose: "rotateKeys".to_owned(),
            reason: None,
            trace_id: self.run_id.to_owned(),
        })
    }
}

impl Store {
    /// Brings everything sealed to the newest keys.
    pub async fn rotate_keys(
        &self,
        rotation: &Rotation<'_>,
        tell: &mut (dyn FnMut(RotateProgress<'_>) + Send),
    ) -> Result<RotateReport, Error> {
        let mut report = RotateReport::default();
        for (collection, fields) in SEALED {
            let mut after: Option<Bson> = None;
            let mut seen = 0u64;
            loop {
                let filter = after.map_or_else(|| doc! {}, |id| doc! { "_id": { "$gt": id } });
                let source = self.collection::<Document>(collection).await?;
                let find = source.find(filter).hint(Hint::Keys(doc! { "_id": 1 })).sort(doc! { "_id": 1 }).limit(BATCH);
                let rows: Vec<Document> = find.await?.try_collect().await?;
                let Some(last) = rows.last().and_then(|row| row.get("_id")).cloned() else { break };
                after = Some(last);
                seen = seen.saturating_add(u64::try_from(rows.len()).unwrap_or(0));
                self.rotate_batch(rotation, collection, fields, &rows, &mut report, tell).await?;
                tell(RotateProgress::Seen(collection, seen));
            }
        }
        self.count_keys(&mut report).await?;
        Ok(report)
    }

    async fn rotate_batch(
        &self,
        rotation: &Rotation<'_>,
        collection: &str,
        fields: &'static [&'static str],
        rows: &[Document],
        report: &mut RotateReport,
        tell: &mut (dyn FnMut(RotateProgress<'_>) + Send),
    ) -> Result<(), Error> {
        let mut plans = Vec::new();
        for row in rows.iter().filter(|row| fields.iter().any(|field| row.get_str(field).is_ok())) {
            report.seen = report.seen.saturating_add(1);
            plans.push(rotation.plan(collection, fields, row)?);
        }
        plans.retain(Plan::is_needed);
        if !rotation.options.dry_run && collection == IDENTITIES {
            let logs: Vec<AccessLog> = plans.iter().filter(|p| p.opens()).filter_map(|p| rotation.log(p)).collect();
            self.log_access(&logs).await?;
        }
        let target = self.collection::<Document>(collection).await?;
        for plan in &plans {
            if !rotation.options.dry_run {
                let outcome = match rotation.change(collection, plan) {
                    Ok((guard, change)) => match target.update_one(guard, change).await.map_err(Error::from) {
                        Ok(result) => Ok(result.matched_count == 1),
                        Err(Error::Duplicate { .. }) => Err("another user has the same number".to_owned()),
                        Err(error) => return Err(error),
                    },
                    Err(reason) => Err(reason),
                };
                match outcome {
                    Ok(true) => {}
                    Ok(false) => {
                        report.changed_meanwhile = report.changed_meanwhile.saturating_add(1);
                        continue;
                    }
                    Err(reason) => {
                        report.failed = report.failed.saturating_add(1);
                        tell(RotateProgress::Failed(format!("{collection}/{}: {reason}", plan.id)));
                        continue;
                    }
                }
                crate::crashpoint("rotate.document").await;
            }
            report.resealed = report.resealed.saturating_add(u64::try_from(plan.reseal.len()).unwrap_or(0));
            report.indexed = report.indexed.saturating_add(u64::from(plan.reindexes()));
        }
        Ok(())
    }

    /// Which keys the database still needs.
    async fn count_keys(&self, report: &mut RotateReport) -> Result<(), Error> {
        for (collection, fields) in SEALED {
            let source = self.collection::<Document>(collection).await?;
            let mut projection: Document = fields.iter().map(|field| ((*field).to_owned(), Bson::Int32(1))).collect();
            projection.insert("idIndex.kid", 1i32);
            let find = source.find(doc! {}).hint(Hint::Keys(doc! { "_id": 1 })).projection(projection);
            let mut rows = find.await?;
            while let Some(row) = rows.try_next().await? {
                for id in fields.iter().filter_map(|field| sealed_by(row.get_str(field).ok()?)) {
                    let count = report.field_keys.entry(id.to_owned()).or_default();
                    *count = count.saturating_add(1);
                }
                for index in row.get_array("idIndex").into_iter().flatten().filter_map(Bson::as_document) {
                    let count =
                        report.index_keys.entry(index.get_str("kid").unwrap_or_default().to_owned()).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
        Ok(())
    }
}
