//! Brings documents of the old JavaScript system to the rules of `collections/`, and opens their accounts in the book.
//!
//! A document that its collection's schema accepts is *current* and is left alone. Any other one is old. In an old document the
//! type of each money field decides its unit: the old system wrote doubles, int32, decimals or text, always in yuan, and never
//! Int64; an Int64 is ours and counts fen. A document that carries a mark of ours (`asset`, `carryFen`, `stockMarkers`,
//! `migratedAt`) beside an amount that is no Int64 could be either, and is left for a person, as is everything that would have to
//! be guessed or rounded.
//!
//! Each document is one transaction: its new form, its old values under `legacy`, `migratedAt`, and the entry
//! `opening:{collection}/{id}:migrate`. So a run may be killed anywhere, and the next one goes on.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};

use bson::{Bson, Document, doc};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, Utc};
use domain::Fen;
use domain::money::{AmountError, POINTS_MAX};
use futures_util::TryStreamExt;
use mongodb::options::Hint;
use serde::Serialize;

use crate::book::{Entry, OPENING, Posting};
use crate::collections::{AccountValue, Definition, definitions};
use crate::customers::Customer;
use crate::members::Member;
use crate::prepaid::PrepaidRecord;
use crate::products::{Product, search_tokens};
use crate::{Error, Store, Tx, date};

/// The collections that the old system filled, in the order in which they are brought over.
const COLLECTIONS: [&str; 4] = ["customers", "member_user", "prepaidRecords", "shopProducts"];

const BATCH: usize = 200;

/// How to migrate.
#[derive(Debug, Clone, Copy, Default)]
pub struct MigrateOptions {
    /// Write nothing; the report is the same.
    pub dry_run: bool,
    /// Stop after so many documents were brought over; the next run goes on.
    pub limit: Option<u64>,
}

/// A document that was left alone, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `collection/_id`
    pub document: String,
    pub field: String,
    pub reason: String,
}

/// What happens while it runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// So many documents of a collection were looked at.
    Seen(&'a str, u64),
    Problem(&'a Problem),
}

/// What became of the documents of one collection.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub seen: u64,
    /// Already as the rules say.
    pub current: u64,
    pub migrated: u64,
    /// Listed as problems and left alone.
    pub left: u64,
}

/// What a run did, or would do.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrateReport {
    pub collections: BTreeMap<String, Counts>,
    /// Opening entries' sums by kind of asset: `fen`, `points`, `pieces`, `stock`.
    pub opened: BTreeMap<String, i64>,
    /// The limit was reached before the end.
    pub stopped_early: bool,
}

impl MigrateReport {
    /// Documents that were left for a person.
    pub fn left(&self) -> u64 {
        self.collections.values().fold(0u64, |sum, c| sum.saturating_add(c.left))
    }

    pub fn migrated(&self) -> u64 {
        self.collections.values().fold(0u64, |sum, c| sum.saturating_add(c.migrated))
    }
}

/// Why a field cannot be brought over.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    field: String,
    reason: String,
}

fn fault<T>(field: &str, reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { field: field.to_owned(), reason: reason.into() })
}

/// A value as a problem's reason shows it.
fn show(value: &Bson) -> String {
    match value {
        Bson::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

fn fits(kind: &str, value: &Bson) -> bool {
    match kind {
        "string" => matches!(value, Bson::String(_)),
        "long" => matches!(value, Bson::Int64(_)),
        "date" => matches!(value, Bson::DateTime(_)),
        "bool" => matches!(value, Bson::Boolean(_)),
        "array" => matches!(value, Bson::Array(_)),
        "object" => matches!(value, Bson::Document(_)),
        // A kind that this check does not know is the server's to judge.
        _ => true,
    }
}

/// The first field that a schema of `collections/` does not accept: `required`, `bsonType`, `enum`, `minimum` and what is inside.
fn misfit(schema: &Document, value: &Bson, at: &str) -> Option<String> {
    if let Ok(kind) = schema.get_str("bsonType")
        && !fits(kind, value)
    {
        return Some(at.to_owned());
    }
    if let Ok(allowed) = schema.get_array("enum")
        && !allowed.contains(value)
    {
        return Some(at.to_owned());
    }
    if let (Some(Bson::Int32(least)), Bson::Int64(n)) = (schema.get("minimum"), value)
        && *n < i64::from(*least)
    {
        return Some(at.to_owned());
    }
    let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    match value {
        Bson::Document(document) => {
            let required = schema.get_array("required").map(Vec::as_slice).unwrap_or_default();
            let missing = required.iter().filter_map(Bson::as_str).find(|name| !document.contains_key(name));
            if let Some(name) = missing {
                return Some(below(name));
            }
            let properties = schema.get_document("properties").ok()?;
            properties
                .iter()
                .find_map(|(name, property)| misfit(property.as_document()?, document.get(name)?, &below(name)))
        }
        Bson::Array(items) => {
            let element = schema.get_document("items").ok()?;
            items.iter().enumerate().find_map(|(i, item)| misfit(element, item, &format!("{at}[{i}]")))
        }
        _ => None,
    }
}

/// What an old number reads as, in decimal.
fn decimal(field: &str, value: &Bson) -> Result<String, Fault> {
    match value {
        // Display gives the shortest decimal that reads back as this double: what the old program wrote.
        Bson::Double(n) if n.is_finite() => Ok(format!("{n}")),
        Bson::Int32(n) => Ok(n.to_string()),
        Bson::Int64(n) => Ok(n.to_string()),
        Bson::Decimal128(n) => Ok(n.to_string()),
        Bson::String(text) => Ok(text.trim().to_owned()),
        other => fault(field, format!("{} is no number", show(other))),
    }
}

/// Yuan of the old system as fen; an Int64 is fen already.
fn fen(field: &str, value: &Bson) -> Result<i64, Fault> {
    if let Bson::Int64(n) = value {
        return if *n < 0 { fault(field, format!("{n} fen is negative")) } else { Ok(*n) };
    }
    Fen::from_yuan_text(&decimal(field, value)?).map(Fen::get).or_else(|error| {
        let reason = match error {
            AmountError::NotANumber => "is no number",
            AmountError::TooPrecise => "has no exact fen",
            AmountError::Negative => "is negative",
            AmountError::OutOfRange => "is out of range",
        };
        fault(field, format!("{} yuan {reason}", show(value)))
    })
}

/// A whole number of points, pieces or levels: at least 0, at most what an account may hold.
fn whole(field: &str, value: &Bson) -> Result<i64, Fault> {
    let n = integer(field, value)?;
    if n > POINTS_MAX { fault(field, format!("{n} is out of range")) } else { Ok(n) }
}

/// A whole number, at least 0.
fn integer(field: &str, value: &Bson) -> Result<i64, Fault> {
    let text = decimal(field, value)?;
    // `5.00`, as a decimal or a text may say it, is whole.
    let digits = text
        .split_once('.')
        .map_or(text.as_str(), |(whole, fraction)| if fraction.bytes().all(|b| b == b'0') { whole } else { "" });
    match digits.parse::<i64>() {
        Ok(n) if n < 0 => fault(field, format!("{n} is negative")),
        Ok(n) => Ok(n),
        Err(_) => fault(field, format!("{} is no whole number", show(value))),
    }
}

/// An instant: a date, ISO 8601 text, text without a zone (Beijing time), or milliseconds since 1970.
fn instant(field: &str, value: &Bson) -> Result<bson::DateTime, Fault> {
    let unreadable = || fault(field, format!("{} is no date", show(value)));
    let at = match value {
        Bson::DateTime(at) => return Ok(*at),
        Bson::String(text) => {
            let text = text.trim();
            let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y/%m/%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"];
            let zoned = DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc());
            zoned.or_else(|| {
                let time = local.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
                let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|d| d.and_hms_opt(0, 0, 0));
                let beijing = FixedOffset::east_opt(8 * 3600)?;
                Some(time.or_else(day)?.and_local_timezone(beijing).single()?.to_utc())
            })
        }
        Bson::Double(_) | Bson::Int32(_) | Bson::Int64(_) => {
            // Between 2000 and 2100; seconds would be 1970 and are no guess of ours.
            let millis = integer(field, value).ok().filter(|n| (946_684_800_000..4_102_444_800_000).contains(n));
            millis.and_then(DateTime::from_timestamp_millis)
        }
        _ => return unreadable(),
    };
    at.map_or_else(unreadable, |at| Ok(bson::DateTime::from_chrono(at)))
}

/// A text; the old system kept some ids and phone numbers as numbers.
fn text(field: &str, value: &Bson) -> Result<String, Fault> {
    match value {
        Bson::String(text) => Ok(text.clone()),
        Bson::ObjectId(id) => Ok(id.to_hex()),
        Bson::Double(_) | Bson::Int32(_) | Bson::Int64(_) => integer(field, value).map(|n| n.to_string()),
        other => fault(field, format!("{} is no text", show(other))),
    }
}

/// 11 digits, without spaces, dashes and the country's code.
fn phone(field: &str, value: &Bson) -> Result<String, Fault> {
    let plain: String = text(field, value)?.chars().filter(|c| !matches!(c, ' ' | '-' | '(' | ')')).collect();
    let number = ["+86", "0086", "86"].iter().find_map(|code| plain.strip_prefix(code).filter(|n| n.len() == 11));
    let number = number.unwrap_or(&plain);
    if number.len() == 11 && number.starts_with('1') && number.bytes().all(|b| b.is_ascii_digit()) {
        Ok(number.to_owned())
    } else {
        // Not shown: it is somebody's.
        fault(field, "is no mobile number of 11 digits")
    }
}

/// An old document on its way.
struct Old<'a> {
    definition: &'a Definition,
    document: Document,
    link: &'a Link,
    now: DateTime<Utc>,
}

/// The link that holds for a document: a customer and a user that name each other. Anything less proves nothing any more, and
/// the user links again.
#[derive(Debug, Default)]
struct Link {
    /// The customer's user.
    user: Option<String>,
    /// When they were linked, as the customer says.
    time: Option<Bson>,
    /// Whether the member's real name is stored. Without it *verified* proves nothing, and the user verifies again.
    named: bool,
}

impl Old<'_> {
    fn get(&self, field: &str) -> Option<&Bson> {
        self.document.get(field).filter(|value| **value != Bson::Null)
    }

    /// The first of these fields that is there.
    fn first<'f>(&self, fields: &[&'f str]) -> Option<(&'f str, &Bson)> {
        fields.iter().find_map(|field| self.get(field).map(|value| (*field, value)))
    }

    fn set(&mut self, field: &str, value: impl Into<Bson>) {
        self.document.insert(field, value.into());
    }

    fn default(&mut self, field: &str, value: impl Into<Bson>) {
        if self.get(field).is_none() {
            self.set(field, value);
        }
    }

    /// Brings a money field to fen; absent is `missing`, or a fault without one.
    fn money(&mut self, field: &str, missing: Option<i64>) -> Result<(), Fault> {
        let value = match (self.get(field), missing) {
            (Some(value), _) => fen(field, value)?,
            (None, Some(value)) => value,
            (None, None) => return fault(field, "is missing"),
        };
        self.set(field, value);
        Ok(())
    }

    fn count(&mut self, field: &str, missing: Option<i64>) -> Result<(), Fault> {
        let value = match (self.get(field), missing) {
            (Some(value), _) => whole(field, value)?,
            (None, Some(value)) => value,
            (None, None) => return fault(field, "is missing"),
        };
        self.set(field, value);
        Ok(())
    }

    /// A document with a mark of ours whose amounts are not ours could count fen or yuan.
    fn unambiguous(&self, marks: &[&str], amounts: &[&str]) -> Result<(), Fault> {
        let mark = self.first(marks).or_else(|| self.first(&["migratedAt"]));
        let odd = amounts.iter().find(|f| self.get(f).is_some_and(|v| !matches!(v, Bson::Int64(_))));
        match (mark, odd) {
            (Some((mark, _)), Some(field)) => {
                fault(field, format!("has {mark} beside an amount that is no Int64: fen or yuan?"))
            }
            _ => Ok(()),
        }
    }

    fn customer(&mut self) -> Result<(), Fault> {
        if self.get("name").is_none()
            && let Some((field, value)) = self.first(&["customerName"])
        {
            let name = text(field, value)?;
            self.set("name", name);
        }
        self.default("status", "active");
        if self.link.user.is_none() {
            self.unlink(&["linkedUserId", "linkedOpenId", "linkTime"]);
        }
        self.phone()
    }

    fn unlink(&mut self, fields: &[&str]) {
        for field in fields {
            self.document.remove(field);
        }
    }

    fn phone(&mut self) -> Result<(), Fault> {
        match self.get("phone") {
            // The old forms wrote an empty text for none.
            Some(Bson::String(text)) if text.trim().is_empty() => {
                self.document.remove("phone");
            }
            Some(value) => {
                let number = phone("phone", value)?;
                self.set("phone", number);
            }
            None => {}
        }
        Ok(())
    }

    fn member(&mut self) -> Result<(), Fault> {
        self.unambiguous(&["carryFen"], &["balance"])?;
        if self.get("openId").is_none() {
            let Some((field, value)) = self.first(&["_openid", "openid"]) else { return fault("openId", "is missing") };
            let open_id = text(field, value)?;
            self.document.remove(field);
            self.set("openId", open_id);
        }
        self.count("points", Some(0))?;
        self.money("balance", Some(0))?;
        self.money("carryFen", Some(0))?;
        self.count("level", Some(1))?;
        if self.document.get_i64("level").is_ok_and(|level| level == 0) {
            self.set("level", 1i64);
        }
        if self.link.user.is_none() {
            self.unlink(&["customerId"]);
        }
        if !self.link.named && self.get("isVerified").is_some() {
            self.set("isVerified", false);
        }
        self.phone()
    }

    fn record(&mut self) -> Result<(), Fault> {
        self.unambiguous(&["asset"], &["balance"])?;
        let named = self.get("productId").is_some() || self.get("productName").is_some();
        let counted = self.get("quantity").is_some();
        let kind = match self.get("type") {
            Some(Bson::String(kind)) => kind.clone(),
            Some(other) => return fault("type", format!("{} is neither amount nor product", show(other))),
            None if named && counted => "product".to_owned(),
            None if named || counted => {
                return fault("type", "is missing, and the other fields do not tell money from goods");
            }
            None => "amount".to_owned(),
        };
        match kind.as_str() {
            "amount" => {
                self.money("balance", None)?;
                self.set("asset", "fen");
            }
            "product" => {
                let Some(product) = self.get("productId") else {
                    return fault("productId", "is missing: which product the pieces are of is unknown");
                };
                let product = text("productId", product)?;
                let pieces = |field: &str| self.get(field).map(|value| whole(field, value)).transpose();
                let pieces = match (pieces("balance")?, pieces("quantity")?) {
                    (Some(balance), Some(quantity)) if balance != quantity => {
                        return fault("balance", format!("is {balance}, but quantity is {quantity}"));
                    }
                    (Some(pieces), _) | (None, Some(pieces)) => pieces,
                    (None, None) => return fault("balance", "is missing"),
                };
                self.set("balance", pieces);
                self.set("asset", format!("pieces:{product}"));
            }
            other => return fault("type", format!("{other:?} is neither amount nor product")),
        }
        self.set("type", kind);
        // As the customer's link is, whatever the record believed.
        let link = self.link;
        match &link.user {
            Some(user) => {
                self.set("linkedUserId", user.clone());
                let at = link.time.clone().unwrap_or(date::bson(self.now));
                self.default("linkTime", at);
            }
            None => self.unlink(&["linkedUserId", "linkTime"]),
        }
        let linked = if link.user.is_some() { "linked" } else { "unlinked" };
        self.set("linkStatus", linked);
        Ok(())
    }

    fn product(&mut self) -> Result<(), Fault> {
        self.unambiguous(&["stockMarkers", "releaseVersion"], &["price"])?;
        let ours = matches!(self.get("price"), Some(Bson::Int64(_)));
        self.money("price", None)?;
        self.default("status", "onSale");
        self.default("skus", Bson::Array(Vec::new()));
        let Ok(skus) = self.document.get_array("skus").cloned() else { return fault("skus", "is no list") };
        let mut names = BTreeSet::new();
        let mut total = 0i64;
        let mut brought = Vec::with_capacity(skus.len());
        for (i, sku) in skus.into_iter().enumerate() {
            let at = |field: &str| format!("skus[{i}].{field}");
            let Bson::Document(mut sku) = sku else { return fault(&format!("skus[{i}]"), "is no document") };
            let price = sku.get("price").unwrap_or(&Bson::Null);
            if ours != matches!(price, Bson::Int64(_)) {
                return fault(&at("price"), "is of another kind than the product's: fen or yuan?");
            }
            let price = fen(&at("price"), price)?;
            let stock = whole(&at("stock"), sku.get("stock").unwrap_or(&Bson::Null))?;
            let id = text(&at("skuId"), sku.get("skuId").unwrap_or(&Bson::Null))?;
            total = total.saturating_add(stock);
            if !names.insert(id.clone()) {
                return fault(&at("skuId"), format!("{id} is there twice"));
            }
            sku.insert("skuId", id);
            sku.insert("price", price);
            sku.insert("stock", stock);
            brought.push(Bson::Document(sku));
        }
        let has_skus = !brought.is_empty();
        self.set("skus", brought);
        self.count("stock", has_skus.then_some(0))?;
        if has_skus {
            // The old system also kept the sum; here the SKUs alone hold the stock.
            match self.document.get_i64("stock") {
                Ok(0) => {}
                Ok(own) if own == total => self.set("stock", 0i64),
                _ => return fault("stock", format!("differs from the sum of its SKUs, {total}")),
            }
        }
        Ok(())
    }

    /// What the schema says of the fields that need no thought: dates, texts, and `null` for none.
    fn plain_fields(&mut self) -> Result<(), Fault> {
        if self.get("createdAt").is_none() {
            let found = self.first(&["createTime", "_createTime"]).map(|(field, value)| instant(field, value));
            let at = found.transpose()?.unwrap_or_else(|| bson::DateTime::from_chrono(self.now));
            self.set("createdAt", at);
        }
        let Ok(properties) = self.definition.schema.get_document("properties") else { return Ok(()) };
        for (name, property) in properties {
            let kind = property.as_document().and_then(|p| p.get_str("bsonType").ok()).unwrap_or_default();
            match self.document.get(name) {
                Some(Bson::Null) => {
                    self.document.remove(name);
                }
                Some(value) if !fits(kind, value) => {
                    let value: Bson = match kind {
                        "date" => instant(name, value)?.into(),
                        "string" if name != "_id" => text(name, value)?.into(),
                        _ => return fault(name, format!("{} is no {kind}", show(value))),
                    };
                    self.set(name, value);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A document in its new form, with its accounts.
struct Migrated {
    document: Document,
    accounts: Vec<AccountValue>,
}

/// The new form of a document; `None` if it is current.
fn bring_over(
    definition: &Definition,
    before: &Document,
    link: &Link,
    now: DateTime<Utc>,
) -> Result<Option<Migrated>, Fault> {
    let current = is_current(definition, before);
    if current && (link.named || !says_verified(definition, before)) {
        return Ok(None);
    }
    let schema = &definition.schema;
    let Ok(id) = before.get_str("_id") else { return fault("_id", "is no text; such ids come from an import") };
    // Brought over by a run that did not look at what `isVerified` stands on.
    if current {
        let mut document = before.clone();
        let mut legacy = before.get_document("legacy").cloned().unwrap_or_default();
        legacy.insert("isVerified", true);
        document.insert("legacy", legacy);
        document.insert("isVerified", false);
        let accounts = definition.account_values(id, &document);
        return Ok(Some(Migrated { document, accounts }));
    }
    if before.contains_key("legacy") {
        return fault("legacy", "is taken, so that the old values have no place");
    }
    let mut old = Old { definition, document: before.clone(), link, now };
    match definition.name.as_str() {
        "customers" => old.customer()?,
        "member_user" => old.member()?,
        "prepaidRecords" => old.record()?,
        "shopProducts" => old.product()?,
        other => return fault("_id", format!("{other} is no collection of the old system")),
    }
    old.plain_fields()?;
    let mut document = old.document;
    let mut legacy = Document::new();
    for (name, value) in before {
        if document.get(name) != Some(value) {
            legacy.insert(name, value.clone());
        }
    }
    document.insert("legacy", legacy);
    document.insert("migratedAt", date::bson(now));
    if definition.name == "shopProducts" {
        document.insert("searchTokens", search_tokens(&document));
    }
    if let Some(field) = misfit(schema, &Bson::Document(document.clone()), "") {
        let value =
            document.get(&field).map_or_else(|| "is missing".to_owned(), |v| format!("{} does not fit", show(v)));
        return fault(&field, value);
    }
    // The shop's own types are stricter than the schema: ids have an alphabet, amounts a limit.
    let readable = match definition.name.as_str() {
        "customers" => bson::deserialize_from_document::<Customer>(document.clone()).map(drop),
        "member_user" => bson::deserialize_from_document::<Member>(document.clone()).map(drop),
        "prepaidRecords" => bson::deserialize_from_document::<PrepaidRecord>(document.clone()).map(drop),
        _ => bson::deserialize_from_document::<Product>(document.clone()).map(drop),
    };
    if let Err(error) = readable {
        return fault("_id", format!("the shop cannot read it: {error}"));
    }
    if id.contains(['#', '/']) {
        return fault("_id", "holds a character that the book needs for itself");
    }
    let accounts = definition.account_values(id, &document);
    if let Some(account) = accounts.iter().find(|a| a.value > POINTS_MAX) {
        return fault(&account.account, "is out of range");
    }
    Ok(Some(Migrated { document, accounts }))
}

pub(crate) fn is_current(definition: &Definition, document: &Document) -> bool {
    misfit(&definition.schema, &Bson::Document(document.clone()), "").is_none()
}

fn says_verified(definition: &Definition, document: &Document) -> bool {
    definition.name == "member_user" && document.get_bool("isVerified").unwrap_or(false)
}

/// What unique indexes will hold of a member, by field, whatever the document calls it now. Links are unique by themselves.
fn unique_keys(collection: &str, document: &Document) -> Vec<(&'static str, String)> {
    if collection != "member_user" {
        return Vec::new();
    }
    let open_id = ["openId", "_openid", "openid"].iter().find_map(|f| document.get_str(f).ok());
    let open_id = open_id.filter(|id| !id.is_empty()).map(|id| ("openId", id.to_owned()));
    let phone = document.get("phone").and_then(|value| phone("phone", value).ok()).map(|number| ("phone", number));
    open_id.into_iter().chain(phone).collect()
}

fn hash_of(key: &(&str, String)) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// The opening entry for accounts of which the book says `booked`; a fault if the book knows another story.
fn opening(
    id: String,
    migrated: &Migrated,
    booked: &BTreeMap<String, i64>,
    now: DateTime<Utc>,
) -> Result<Entry, Fault> {
    let mut entry = Entry::new(id, now);
    for account in &migrated.accounts {
        match booked.get(&account.account) {
            Some(sum) if *sum == account.value => {}
            Some(sum) => {
                return fault(&account.account, format!("would be {}, but the book already says {sum}", account.value));
            }
            None if account.value == 0 => {}
            None => {
                entry.postings.push(Posting::system(OPENING, &account.asset, account.value.saturating_neg()));
                entry.postings.push(Posting {
                    account: account.account.clone(),
                    asset: account.asset.clone(),
                    amount: account.value,
                });
            }
        }
    }
    Ok(entry)
}

/// What became of one document.
enum Outcome {
    Current,
    Migrated(Entry),
    Left(Fault),
}

struct Migration<'a> {
    store: &'a Store,
    options: MigrateOptions,
    now: DateTime<Utc>,
    report: MigrateReport,
}

fn booked_sums(entries: &[Entry], migrated: &Migrated) -> BTreeMap<String, i64> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for posting in entries.iter().flat_map(|e| &e.postings) {
        if migrated.accounts.iter().any(|a| a.account == posting.account) {
            let sum = sums.entry(posting.account.clone()).or_default();
            *sum = sum.saturating_add(posting.amount);
        }
    }
    sums
}

impl Tx {
    /// The link that holds for an old document, whichever of its sides were brought over already.
    async fn link_of(&mut self, collection: &str, document: &Document) -> Result<Link, Error> {
        let field = match collection {
            "customers" => "_id",
            "member_user" | "prepaidRecords" => "customerId",
            _ => return Ok(Link::default()),
        };
        let Some(id) = document.get(field).and_then(|id| text(field, id).ok()) else { return Ok(Link::default()) };
        let Some(customer) = self.find_by_id::<Document>("customers", &id).await? else { return Ok(Link::default()) };
        let Ok(user) = customer.get_str("linkedUserId") else { return Ok(Link::default()) };
        let member: Option<Document> = self.find_by_id("member_user", user).await?;
        let mutual = member.is_some_and(|m| m.get_str("customerId").is_ok_and(|c| c == id))
            && (collection != "member_user" || document.get_str("_id").is_ok_and(|id| id == user));
        if !mutual {
            return Ok(Link::default());
        }
        let time = customer.get("linkTime").and_then(|at| instant("linkTime", at).ok()).map(Bson::DateTime);
        Ok(Link { user: Some(user.to_owned()), time, named: false })
    }

    /// The new form of one document and its opening entry; nothing is written in a dry run.
    async fn migrate_document(
        &mut self,
        definition: &Definition,
        id: &Bson,
        now: DateTime<Utc>,
        dry_run: bool,
    ) -> Result<Outcome, Error> {
        let documents = self.collection::<Document>(&definition.name);
        let Some(before) = documents.find_one(doc! { "_id": id }).session(&mut self.session).await? else {
            return Ok(Outcome::Current);
        };
        let mut link = self.link_of(&definition.name, &before).await?;
        if says_verified(definition, &before) {
            let stored = doc! { "_id": id, "erasedAt": { "$exists": false } };
            let identities = self.collection::<Document>("identities");
            link.named = identities.find_one(stored).session(&mut self.session).await?.is_some();
        }
        let migrated = match bring_over(definition, &before, &link, now) {
            Ok(None) => return Ok(Outcome::Current),
            Ok(Some(migrated)) => migrated,
            Err(fault) => return Ok(Outcome::Left(fault)),
        };
        let mut booked = Vec::new();
        if !migrated.accounts.is_empty() {
            let accounts: Vec<&str> = migrated.accounts.iter().map(|a| a.account.as_str()).collect();
            let ledger = self.collection::<Entry>("ledger");
            let find = ledger.find(doc! { "postings.account": { "$in": accounts } });
            let mut cursor = find.session(&mut self.session).await?;
            booked = cursor.stream(&mut self.session).try_collect().await?;
        }
        let key = format!("opening:{}/{}:migrate", definition.name, id.as_str().unwrap_or_default());
        let entry = match opening(key, &migrated, &booked_sums(&booked, &migrated), now) {
            Ok(entry) => entry,
            Err(fault) => return Ok(Outcome::Left(fault)),
        };
        if !dry_run {
            documents.replace_one(doc! { "_id": id }, &migrated.document).session(&mut self.session).await?;
            if !entry.postings.is_empty() {
                self.insert("ledger", &entry).await?;
            }
        }
        Ok(Outcome::Migrated(entry))
    }
}

impl Migration<'_> {
    /// Hashes of the keys that more than one document of a collection would have under a unique index. Eight bytes for each key
    /// are kept meanwhile.
    async fn shared_keys(&self, collection: &str) -> Result<HashSet<u64>, Error> {
        let (mut once, mut twice) = (HashSet::new(), HashSet::new());
        if collection != "member_user" {
            return Ok(twice);
        }
        let documents = self.store.collection::<Document>(collection).await?;
        let fields = doc! { "openId": 1i32, "_openid": 1i32, "openid": 1i32, "phone": 1i32 };
        let find = documents.find(doc! {}).hint(Hint::Keys(doc! { "_id": 1 })).projection(fields);
        let mut cursor = find.await?;
        while let Some(document) = cursor.try_next().await? {
            for key in unique_keys(collection, &document).iter().map(hash_of) {
                if !once.insert(key) {
                    twice.insert(key);
                }
            }
        }
        Ok(twice)
    }

    /// The next documents in `_id` order, whatever the type of their `_id`.
    async fn batch(&self, collection: &str, after: Option<&Bson>) -> Result<Vec<Document>, Error> {
        let documents = self.store.collection::<Document>(collection).await?;
        let limit = i64::try_from(BATCH).unwrap_or(200).saturating_add(1);
        let mut find = documents.find(doc! {}).hint(Hint::Keys(doc! { "_id": 1 })).sort(doc! { "_id": 1 }).limit(limit);
        if let Some(after) = after {
            // An index bound goes across types, as a comparison does not; it includes the last one.
            find = find.min(doc! { "_id": after });
        }
        let mut found: Vec<Document> = find.await?.try_collect().await?;
        found.retain(|d| d.get("_id") != after);
        found.truncate(BATCH);
        Ok(found)
    }

    async fn run(&mut self, definition: &Definition, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<(), Error> {
        let name = definition.name.as_str();
        let shared = self.shared_keys(name).await?;
        let mut counts = Counts::default();
        let mut after: Option<Bson> = None;
        'all: loop {
            let batch = self.batch(name, after.as_ref()).await?;
            let Some(last) = batch.last().and_then(|d| d.get("_id")).cloned() else { break };
            for document in &batch {
                if self.options.limit.is_some_and(|most| self.report.migrated().saturating_add(counts.migrated) >= most)
                {
                    self.report.stopped_early = true;
                    break 'all;
                }
                counts.seen = counts.seen.saturating_add(1);
                match self.one(definition, document, &shared).await? {
                    Outcome::Current => counts.current = counts.current.saturating_add(1),
                    Outcome::Migrated(entry) => {
                        counts.migrated = counts.migrated.saturating_add(1);
                        for posting in entry.postings.iter().filter(|p| !p.account.starts_with('@')) {
                            let kind = posting.asset.split(':').next().unwrap_or_default().to_owned();
                            let sum = self.report.opened.entry(kind).or_default();
                            *sum = sum.saturating_add(posting.amount);
                        }
                    }
                    Outcome::Left(fault) => {
                        counts.left = counts.left.saturating_add(1);
                        let id = document.get("_id").map_or_else(String::new, |id| match id {
                            Bson::String(text) => text.clone(),
                            other => other.to_string(),
                        });
                        let problem =
                            Problem { document: format!("{name}/{id}"), field: fault.field, reason: fault.reason };
                        tell(Progress::Problem(&problem));
                    }
                }
            }
            tell(Progress::Seen(name, counts.seen));
            after = Some(last);
        }
        self.report.collections.insert(name.to_owned(), counts);
        Ok(())
    }

    async fn one(&self, definition: &Definition, document: &Document, shared: &HashSet<u64>) -> Result<Outcome, Error> {
        // Most documents of a second run are current; those cost no transaction.
        if is_current(definition, document) && !says_verified(definition, document) {
            return Ok(Outcome::Current);
        }
        let keys = unique_keys(&definition.name, document);
        if let Some((field, _)) = keys.iter().find(|key| shared.contains(&hash_of(key))) {
            let reason = "another document has the same".to_owned();
            return Ok(Outcome::Left(Fault { field: (*field).to_owned(), reason }));
        }
        let Some(id) = document.get("_id") else { return Ok(Outcome::Current) };
        let (now, dry_run) = (self.now, self.options.dry_run);
        let done = self
            .store
            .transaction(|tx, _| Box::pin(async move { tx.migrate_document(definition, id, now, dry_run).await }))
            .await;
        match done {
            // Somebody else took the key meanwhile.
            Err(Error::Duplicate { collection }) => {
                Ok(Outcome::Left(Fault { field: "_id".to_owned(), reason: format!("duplicate key in {collection}") }))
            }
            done => done,
        }
    }
}

impl Store {
    /// Brings the old system's documents to the rules. Running it again goes on where it stopped and changes nothing else.
    ///
    /// Works before and after [`Store::init`]; the ledger and its index are made here if they are missing, because every opening
    /// asks it.
    pub async fn migrate(
        &self,
        options: MigrateOptions,
        now: DateTime<Utc>,
        tell: &mut (dyn FnMut(Progress<'_>) + Send),
    ) -> Result<MigrateReport, Error> {
        let definitions = definitions()?;
        if !options.dry_run {
            self.init_collection("ledger", &definitions).await?;
        }
        let mut migration = Migration { store: self, options, now, report: MigrateReport::default() };
        for name in COLLECTIONS {
            if let Some(definition) = definitions.iter().find(|d| d.name == name)
                && !migration.report.stopped_early
            {
                migration.run(definition, tell).await?;
            }
        }
        Ok(migration.report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migrate(collection: &str, document: Document) -> Result<Document, String> {
        let definitions = definitions().unwrap();
        let definition = definitions.iter().find(|d| d.name == collection).unwrap();
        let now = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
        match bring_over(definition, &document, &Link::default(), now) {
            Ok(Some(migrated)) => Ok(migrated.document),
            Ok(None) => Err("current".to_owned()),
            Err(fault) => Err(format!("{}: {}", fault.field, fault.reason)),
        }
    }

    #[test]
    fn yuan_of_every_type_become_fen_and_int64_is_fen() {
        for (old, new) in [
            (Bson::Double(100.5), Some(10050)),
            (Bson::Double(0.29), Some(29)),
            (Bson::Double(-0.0), Some(0)),
            (Bson::Int32(50), Some(5000)),
            (Bson::Int64(50), Some(50)),
            (Bson::String(" 88.80 ".into()), Some(8880)),
            (Bson::Double(0.1 + 0.2), None),
            (Bson::Double(12.345), None),
            (Bson::Double(f64::NAN), None),
            (Bson::Double(f64::INFINITY), None),
            (Bson::Double(-1.0), None),
            (Bson::Int64(-1), None),
            (Bson::String("一百".into()), None),
            (Bson::Double(1e22), None),
            (Bson::Boolean(true), None),
        ] {
            assert_eq!(fen("balance", &old).ok(), new, "{old:?}");
        }
    }

    #[test]
    fn dates_of_every_shape() {
        let noon = 1_704_081_600_000i64;
        for old in [
            Bson::String("2024-01-01T04:00:00.000Z".into()),
            Bson::String("2024-01-01T12:00:00+08:00".into()),
            Bson::String("2024-01-01 12:00:00".into()),
            Bson::String("2024/01/01 12:00:00".into()),
            Bson::Double(1_704_081_600_000.0),
            Bson::Int64(noon),
            Bson::DateTime(bson::DateTime::from_millis(noon)),
        ] {
            assert_eq!(instant("createdAt", &old).unwrap().timestamp_millis(), noon, "{old:?}");
        }
        let day = instant("createdAt", &Bson::String("2024-01-01".into())).unwrap();
        assert_eq!(day.timestamp_millis(), noon - 12 * 3_600_000);
        for bad in
            [Bson::String("昨天".into()), Bson::Int32(1_704_081_600), Bson::Double(f64::NAN), Bson::Boolean(true)]
        {
            assert!(instant("createdAt", &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_record_keeps_its_old_values() {
        let old = doc! { "_id": "r1", "customerId": 42i32, "balance": 100.5, "createdAt": "2024-01-01T04:00:00Z", "linkedUserId": Bson::Null };
        let new = migrate("prepaidRecords", old).unwrap();
        assert_eq!(new.get_i64("balance").unwrap(), 10050);
        assert_eq!((new.get_str("type").unwrap(), new.get_str("asset").unwrap()), ("amount", "fen"));
        assert_eq!((new.get_str("customerId").unwrap(), new.get_str("linkStatus").unwrap()), ("42", "unlinked"));
        let legacy = new.get_document("legacy").unwrap();
        assert_eq!((legacy.get_f64("balance").unwrap(), legacy.get_i32("customerId").unwrap()), (100.5, 42));
        assert_eq!(migrate("prepaidRecords", new).unwrap_err(), "current");
    }

    #[test]
    fn who_was_verified_without_a_stored_name_verifies_again() {
        let old = doc! { "_id": "u1", "_openid": "o1", "isVerified": true, "createdAt": "2024-01-01T04:00:00Z" };
        let new = migrate("member_user", old.clone()).unwrap();
        assert!(!new.get_bool("isVerified").unwrap());
        assert!(new.get_document("legacy").unwrap().get_bool("isVerified").unwrap());
        let odd = Document::from_iter(
            old.into_iter().map(|(k, v)| if k == "isVerified" { (k, 1i32.into()) } else { (k, v) }),
        );
        assert!(!migrate("member_user", odd).unwrap().get_bool("isVerified").unwrap());
        // As an earlier run brought it over.
        let mut early = new;
        early.insert("isVerified", true);
        let again = migrate("member_user", early).unwrap();
        assert!(!again.get_bool("isVerified").unwrap());
        assert_eq!(again.get_document("legacy").unwrap().get_str("_openid").unwrap(), "o1");
        assert_eq!(migrate("member_user", again).unwrap_err(), "current");
    }

    #[test]
    fn what_could_be_fen_or_yuan_or_goods_is_left() {
        let base = doc! { "_id": "r1", "customerId": "c", "balance": 5.0 };
        let with = |extra: Document| {
            let mut document = base.clone();
            document.extend(extra);
            migrate("prepaidRecords", document).unwrap_err()
        };
        assert!(with(doc! { "asset": "fen" }).contains("fen or yuan"));
        assert!(with(doc! { "migratedAt": bson::DateTime::from_millis(0) }).contains("fen or yuan"));
        assert!(with(doc! { "productId": "p" }).starts_with("type"));
        assert!(with(doc! { "productName": "苹果", "quantity": 5 }).starts_with("productId"));
        assert!(with(doc! { "productId": "p", "quantity": 6 }).starts_with("balance"));
        assert!(with(doc! { "type": "coupon" }).starts_with("type"));
        assert!(with(doc! { "legacy": 1 }).starts_with("legacy"));
    }

    #[test]
    fn phones_lose_their_ornaments() {
        for text in ["13800138000", "+86 138-0013-8000", "8613800138000", "0086 13800138000"] {
            assert_eq!(phone("phone", &Bson::String(text.into())).unwrap(), "13800138000");
        }
        assert_eq!(phone("phone", &Bson::Double(13_800_138_000.0)).unwrap(), "13800138000");
        let error = phone("phone", &Bson::String("0571-8888888".into())).unwrap_err();
        assert!(!error.reason.contains("8888"), "a phone number is shown");
    }
}
