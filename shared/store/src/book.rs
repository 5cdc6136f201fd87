//! The one book: every quantity that matters changes by a double-entry journal entry.
//!
//! An account is a numeric field of a document (`member_user/{id}#points`) or a system account (`@wechat`). Posting an entry
//! moves the fields by guarded `$inc`s and inserts the entry in the same transaction, so a field always equals the sum of its
//! postings. Entries are never edited; a correction is a new entry that names the one it reverses.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use domain::{Code, OrderId, Refusal, UserId};
use futures_util::TryStreamExt;
use mongodb::options::ReturnDocument;
use serde::{Deserialize, Serialize};

use crate::{Error, Store, Tx, date};

/// Money that WeChat Pay holds for the shop (fen).
pub const WECHAT: &str = "@wechat";
/// Money and tenders that orders brought in (fen).
pub const SALES: &str = "@sales";
/// Payments that fit no order and go back to the payer (fen).
pub const EXCEPTIONS: &str = "@exceptions";
/// Points given out (points).
pub const ISSUED: &str = "@issued";
/// Points spent on orders (points).
pub const REDEEMED: &str = "@redeemed";
/// The other side of the carried spend remainder (spend, in fen).
pub const SPEND: &str = "@spend";
/// Pieces held by unpaid orders (stock).
pub const RESERVED: &str = "@reserved";
/// Pieces of paid orders (stock).
pub const SOLD: &str = "@sold";
/// The other side of prepayments: what customers have put in (fen, pieces).
pub const DEPOSITS: &str = "@deposits";
/// Prepaid money and goods that were used outside of our orders, and goods that our orders used (fen, pieces).
pub const PREPAID_USED: &str = "@prepaidUsed";
/// Coins given out (coins).
pub const COINS_ISSUED: &str = "@coinsIssued";
/// Coins spent in the points mall (coins).
pub const COINS_SPENT: &str = "@coinsSpent";
/// Coins that reached the end of their 48 hours (coins).
pub const COINS_EXPIRED: &str = "@coinsExpired";
/// The other side of coins that members owe (coins).
pub const COINS_OWED: &str = "@coinsOwed";
/// Money that goes back to buyers through WeChat Pay and is not back yet (fen).
pub const REFUNDS: &str = "@refunds";
/// Money that staff gave back outside of WeChat Pay (fen).
pub const ELSEWHERE: &str = "@elsewhere";
/// The other side of points that members owe (points).
pub const POINTS_OWED: &str = "@pointsOwed";
/// Pieces held for winners of a draw who have not bought yet (stock).
pub const QUALIFIED: &str = "@qualified";
/// The other side of pieces that came in, went out or were counted by hand (stock).
pub const INVENTORY: &str = "@inventory";
/// The other side of what stood there when the book was opened.
pub const OPENING: &str = "@opening";

/// No field account may hold more: what is beyond could not be read back.
const FIELD_MAX: i64 = domain::money::POINTS_MAX;

/// The unit of a posting: `fen`, `points`, `spend`, `coins`, `stock:{product}[/{sku}]` or `pieces:{product}`.
pub type Asset = String;

/// One leg of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting {
    /// `member_user/{id}#points`, `shopProducts/{id}#stock`, `shopProducts/{id}#skus.{skuId}.stock`, or `@system`.
    pub account: String,
    pub asset: Asset,
    #[serde(deserialize_with = "domain::money::whole")]
    pub amount: i64,
}

impl Posting {
    /// A move on a field of a document.
    pub fn field(collection: &str, id: &str, field: &str, asset: &str, amount: i64) -> Self {
        Self { account: format!("{collection}/{id}#{field}"), asset: asset.to_owned(), amount }
    }

    /// A move on a system account.
    pub fn system(account: &str, asset: &str, amount: i64) -> Self {
        Self { account: account.to_owned(), asset: asset.to_owned(), amount }
    }

    /// The stock of a product, or of one of its SKUs.
    pub fn stock(product: &str, sku: Option<&str>, amount: i64) -> Self {
        let field = sku.map_or_else(|| "stock".to_owned(), |sku| format!("skus.{sku}.stock"));
        Self::field("shopProducts", product, &field, &stock_asset(product, sku), amount)
    }
}

/// The asset of one product's pieces, or of one SKU's.
pub fn stock_asset(product: &str, sku: Option<&str>) -> Asset {
    sku.map_or_else(|| format!("stock:{product}"), |sku| format!("stock:{product}/{sku}"))
}

/// A journal entry. `_id` is its natural key `{source}:{sourceId}:{reason}`, so that each cause is booked once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    #[serde(rename = "_id")]
    pub id: String,
    /// Business time.
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    pub postings: Vec<Posting>,
    /// The entry that this one takes back; at most one entry reverses another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverses: Option<String>,
    /// A reservation that never became an order; holds its key so that it never can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub void: bool,
}

impl Entry {
    pub fn new(id: impl Into<String>, at: DateTime<Utc>) -> Self {
        Self { id: id.into(), at, user_id: None, order_id: None, postings: Vec::new(), reverses: None, void: false }
    }

    pub fn user(mut self, id: &UserId) -> Self {
        self.user_id = Some(id.clone());
        self
    }

    pub fn order(mut self, id: &OrderId) -> Self {
        self.order_id = Some(id.clone());
        self
    }

    /// Moves `amount` of an asset from one account to another; a zero amount adds nothing.
    pub fn transfer(mut self, asset: &str, from: &str, to: &str, amount: i64) -> Self {
        if amount != 0 {
            self.postings.push(Posting::system(from, asset, amount.saturating_neg()));
            self.postings.push(Posting::system(to, asset, amount));
        }
        self
    }

    /// The entry that takes this one back.
    pub fn reversal(&self, id: impl Into<String>, at: DateTime<Utc>) -> Self {
        let postings =
            self.postings.iter().map(|p| Posting { amount: p.amount.saturating_neg(), ..p.clone() }).collect();
        Self { id: id.into(), at, postings, reverses: Some(self.id.clone()), ..self.clone() }
    }

    pub(crate) fn check_balanced(&self) -> Result<(), Error> {
        let mut sums: BTreeMap<&str, i128> = BTreeMap::new();
        for posting in &self.postings {
            let sum = sums.entry(&posting.asset).or_default();
            *sum = sum.saturating_add(i128::from(posting.amount));
        }
        match sums.iter().find(|(_, sum)| **sum != 0) {
            None => Ok(()),
            Some((asset, sum)) => Err(Error::Invariant(format!("entry {} is off by {sum} {asset}", self.id))),
        }
    }
}

/// The account of a member's field.
pub fn member_account(user: &UserId, field: &str) -> String {
    format!("member_user/{}#{field}", user.as_str())
}

/// A field account taken apart.
struct FieldAccount<'a> {
    collection: &'a str,
    id: &'a str,
    field: &'a str,
}

fn field_account(account: &str) -> Option<FieldAccount<'_>> {
    let (collection, rest) = account.split_once('/')?;
    let (id, field) = rest.rsplit_once('#')?;
    Some(FieldAccount { collection, id, field })
}

/// The refusal when a guarded field holds less than is to be taken.
fn insufficient(collection: &str, field: &str) -> Error {
    match field {
        "points" => Code::PointsInsufficient.into(),
        "balance" if collection == "prepaidRecords" => Code::PrepaidInsufficient.into(),
        "balance" => Code::BalanceInsufficient.into(),
        "remaining" => Code::CoinsInsufficient.into(),
        other => Error::Invariant(format!("field {other} would go below zero")),
    }
}

impl Store {
    /// The entries of an order, oldest first, at most `limit`.
    pub async fn book_of(&self, order: &OrderId, limit: i64) -> Result<Vec<Entry>, Error> {
        Ok(self
            .collection::<Entry>("ledger")
            .await?
            .find(doc! { "orderId": order.as_str() })
            .sort(doc! { "at": 1, "_id": 1 })
            .limit(limit)
            .await?
            .try_collect()
            .await?)
    }
}

impl Tx {
    /// Books an entry and moves its field accounts, except stock, whose field a reservation or a release moves by itself.
    ///
    /// A field that would go below zero refuses the whole entry. Returns the values after the move by account.
    pub async fn post(&mut self, entry: &Entry) -> Result<BTreeMap<String, i64>, Error> {
        entry.check_balanced()?;
        let mut by_document: BTreeMap<(&str, &str), Vec<(&str, i64)>> = BTreeMap::new();
        for posting in &entry.postings {
            if let Some(account) = field_account(&posting.account)
                && !posting.asset.starts_with("stock:")
            {
                by_document.entry((account.collection, account.id)).or_default().push((account.field, posting.amount));
            }
        }
        let mut after = BTreeMap::new();
        for ((collection, id), moves) in by_document {
            let mut guard = doc! { "_id": id };
            let mut inc = Document::new();
            for (field, amount) in &moves {
                inc.insert(*field, *amount);
                let bound = if *amount < 0 {
                    doc! { "$gte": amount.saturating_neg() }
                } else {
                    doc! { "$lte": FIELD_MAX.saturating_sub(*amount) }
                };
                guard.insert(*field, bound);
            }
            let updated = self
                .collection::<Document>(collection)
                .find_one_and_update(guard, doc! { "$inc": inc })
                .return_document(ReturnDocument::After)
                .session(&mut self.session)
                .await?;
            let Some(document) = updated else {
                let current: Option<Document> = self.find_by_id(collection, id).await?;
                let current =
                    current.ok_or_else(|| Error::Invariant(format!("no document {collection}/{id} to post to")))?;
                let standing = |field: &str, amount: i64| number(&current, field).saturating_add(amount);
                if let Some((field, _)) = moves.iter().find(|(field, amount)| standing(field, *amount) > FIELD_MAX) {
                    return Err(Refusal::invalid(field, "数额超出上限").into());
                }
                let short = moves.iter().find(|(field, amount)| standing(field, *amount) < 0);
                return Err(short.map_or_else(
                    || Error::Invariant(format!("cannot post to {collection}/{id}")),
                    |(f, _)| insufficient(collection, f),
                ));
            };
            for (field, _) in moves {
                after.insert(format!("{collection}/{id}#{field}"), number(&document, field));
            }
        }
        self.insert("ledger", entry).await?;
        Ok(after)
    }

    /// An entry by its natural key.
    pub async fn entry(&mut self, id: &str) -> Result<Option<Entry>, Error> {
        self.find_by_id("ledger", id).await
    }
}

pub(crate) fn number(document: &Document, field: &str) -> i64 {
    match document.get(field) {
        Some(Bson::Int64(n)) => *n,
        Some(Bson::Int32(n)) => i64::from(*n),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_must_balance_per_asset() {
        let at = DateTime::from_timestamp_millis(0).unwrap();
        let ok = Entry::new("a", at).transfer("fen", WECHAT, SALES, 5).transfer("points", ISSUED, REDEEMED, 0);
        assert!(ok.check_balanced().is_ok());
        assert_eq!(ok.postings.len(), 2);
        let mut bad = ok.clone();
        bad.postings.push(Posting::system(WECHAT, "points", 1));
        assert!(bad.check_balanced().is_err());
        let back = ok.reversal("b", at);
        assert_eq!(back.reverses.as_deref(), Some("a"));
        assert_eq!(back.postings[0].amount, 5);
    }
}
