//! `activityCoinLots` and their statement: coins that die after 48 hours.

use std::sync::atomic::{AtomicU64, Ordering};

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use domain::{OpenId, OrderId, UserId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::book::{COINS_EXPIRED, Entry, number};
use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, crashpoint, date};

/// The asset of the book that coins are.
pub const ASSET: &str = "coins";

/// What granted a lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoinSource {
    /// A draw; `sourceId` is the right to buy.
    #[serde(rename = "win")]
    Win,
    /// A paid order.
    #[serde(rename = "order")]
    Order,
}

/// Coins of one grant. `granted = remaining + spent + expired + revoked`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoinLot {
    /// `{source}:{sourceId}`: each cause grants once.
    #[serde(rename = "_id")]
    pub id: String,
    pub user_id: UserId,
    pub open_id: OpenId,
    #[serde(deserialize_with = "domain::money::whole")]
    pub granted: i64,
    /// Only the book moves it.
    #[serde(deserialize_with = "domain::money::whole")]
    pub remaining: i64,
    #[serde(deserialize_with = "domain::money::whole")]
    pub expired: i64,
    #[serde(deserialize_with = "domain::money::whole")]
    pub revoked: i64,
    /// How often coins were written off.
    #[serde(deserialize_with = "domain::money::whole")]
    pub sweeps: i64,
    pub source: CoinSource,
    pub source_id: String,
    #[serde(with = "date")]
    pub granted_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub expires_at: DateTime<Utc>,
}

impl CoinLot {
    /// The account of its coins.
    pub fn account(id: &str) -> String {
        format!("activityCoinLots/{id}#remaining")
    }

    /// The lot whose coins an account is.
    pub fn id_of(account: &str) -> Option<&str> {
        account.strip_prefix("activityCoinLots/")?.strip_suffix("#remaining")
    }

    /// Coins that orders hold.
    pub fn spent(&self) -> i64 {
        self.granted.saturating_sub(self.remaining).saturating_sub(self.expired).saturating_sub(self.revoked)
    }
}

/// `activityCoinRecords.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoinRecordType {
    #[serde(rename = "earn")]
    Earn,
    #[serde(rename = "spend")]
    Spend,
    /// A cancelled order gave them back.
    #[serde(rename = "return")]
    Return,
    #[serde(rename = "expire")]
    Expire,
    /// A refunded order took them back.
    #[serde(rename = "revoke")]
    Revoke,
}

/// What a member reads of one move of one lot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoinRecord {
    /// [`CoinRecord::key`]
    #[serde(rename = "_id")]
    pub id: String,
    pub user_id: UserId,
    pub lot_id: String,
    #[serde(rename = "type")]
    pub record_type: CoinRecordType,
    /// Signed.
    #[serde(deserialize_with = "domain::money::whole")]
    pub change: i64,
    pub entry_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

impl CoinRecord {
    /// An entry moves a lot once.
    pub fn key(entry_id: &str, lot_id: &str) -> String {
        format!("{entry_id}|{lot_id}")
    }
}

impl Row for CoinRecord {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

/// The key of the entry that writes a lot off for the `n`th time, from 1.
pub fn expire_key(lot_id: &str, n: i64) -> String {
    format!("coins:{lot_id}:expire-{n}")
}

/// What one batch of the write-off did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub lots: i64,
    pub coins: i64,
    /// Where it began: how many due lots it left to another run. Where the next batch of this run had best begin, too.
    pub skipped: u64,
}

/// Runs that meet keep out of each other's way by at most so many batches.
const APART: u64 = 8;

/// The sums of a member's lots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoinTotals {
    pub granted: i64,
    pub remaining: i64,
    /// The part of `remaining` that has not expired.
    pub spendable: i64,
    pub expired: i64,
    pub revoked: i64,
    /// When the first of the spendable coins expire.
    pub next_expiry: Option<DateTime<Utc>>,
}

impl Store {
    /// The sums of a member's lots at `now`, however many there are.
    pub async fn coin_totals(&self, user: &UserId, now: DateTime<Utc>) -> Result<CoinTotals, Error> {
        let alive = doc! { "$gt": ["$expiresAt", date::bson(now)] };
        let held = doc! { "$and": [&alive, { "$gt": ["$remaining", 0i64] }] };
        let mut sums = doc! {
            "_id": Bson::Null,
            "spendable": { "$sum": { "$cond": [alive, "$remaining", 0i64] } },
            "nextExpiry": { "$min": { "$cond": [held, "$expiresAt", Bson::Null] } },
        };
        for field in ["granted", "remaining", "expired", "revoked"] {
            sums.insert(field, doc! { "$sum": format!("${field}") });
        }
        let pipeline = vec![doc! { "$match": { "userId": user.as_str() } }, doc! { "$group": sums }];
        let lots = self.collection::<Document>("activityCoinLots").await?;
        let found = lots.aggregate(pipeline).await?.try_next().await?.unwrap_or_default();
        let sum = |field: &str| number(&found, field);
        Ok(CoinTotals {
            granted: sum("granted"),
            remaining: sum("remaining"),
            spendable: sum("spendable"),
            expired: sum("expired"),
            revoked: sum("revoked"),
            next_expiry: found.get_datetime("nextExpiry").ok().map(|at| at.to_chrono()),
        })
    }

    /// All lots of a member, the first to expire first.
    pub async fn coin_lots(&self, user: &UserId) -> Result<Vec<CoinLot>, Error> {
        let lots = self.collection::<CoinLot>("activityCoinLots").await?;
        let found = lots.find(doc! { "userId": user.as_str() }).sort(doc! { "expiresAt": 1, "_id": 1 });
        Ok(found.await?.try_collect().await?)
    }

    /// A member's statement, newest first.
    pub async fn coin_records(&self, user: &UserId, page: &PageRequest) -> Result<Page<CoinRecord>, Error> {
        self.page("activityCoinRecords", doc! { "userId": user.as_str() }, page).await
    }

    /// Writes off up to `limit` lots whose time is over, oldest first from the `skip`th on, in one transaction; from the first
    /// one on where there are not so many. Nothing is left when it returns no lots.
    ///
    /// Runs of two processes that meet in the same lots: one commits, the other starts over somewhere else. A spend that began
    /// before the expiry is met the same way.
    pub async fn expire_coins(&self, limit: i64, skip: u64, now: DateTime<Utc>) -> Result<Swept, Error> {
        let place = AtomicU64::new(skip);
        let place = &place;
        let swept = self
            .transaction(|tx, _| {
                Box::pin(async move {
                    let skip = place.load(Ordering::Relaxed);
                    // Taken by the next try, if this one meets somebody.
                    let batches = rand::random_range(0..APART);
                    place.store(batches.saturating_mul(limit.unsigned_abs()), Ordering::Relaxed);
                    match tx.expire_coins(limit, skip, now).await? {
                        none if none.lots == 0 && skip > 0 => tx.expire_coins(limit, 0, now).await,
                        swept => Ok(swept),
                    }
                })
            })
            .await?;
        crashpoint("expire.committed").await;
        Ok(swept)
    }
}

impl Tx {
    pub async fn coin_lot(&mut self, id: &str) -> Result<Option<CoinLot>, Error> {
        self.find_by_id("activityCoinLots", id).await
    }

    pub async fn insert_coin_lot(&mut self, lot: &CoinLot) -> Result<(), Error> {
        self.insert("activityCoinLots", lot).await
    }

    pub async fn insert_coin_records(&mut self, rows: &[CoinRecord]) -> Result<(), Error> {
        self.insert_many("activityCoinRecords", rows).await
    }

    /// A member's lots that can be spent at `now`, the first to expire first; at most `limit`.
    pub async fn spendable_lots(
        &mut self,
        user: &UserId,
        limit: i64,
        now: DateTime<Utc>,
    ) -> Result<Vec<CoinLot>, Error> {
        let filter = doc! {
            "userId": user.as_str(), "expiresAt": { "$gt": date::bson(now) }, "remaining": { "$gt": 0i64 },
        };
        self.lots(filter, limit).await
    }

    /// A member's lots that hold coins and can be spent at `now` or are among `lots`, the first to expire first; at most `limit`.
    pub async fn lots_to_take_from(
        &mut self,
        user: &UserId,
        lots: &[&str],
        limit: i64,
        now: DateTime<Utc>,
    ) -> Result<Vec<CoinLot>, Error> {
        let any = vec![doc! { "expiresAt": { "$gt": date::bson(now) } }, doc! { "_id": { "$in": lots } }];
        self.lots(doc! { "userId": user.as_str(), "remaining": { "$gt": 0i64 }, "$or": any }, limit).await
    }

    async fn lots(&mut self, filter: Document, limit: i64) -> Result<Vec<CoinLot>, Error> {
        let lots = self.collection::<CoinLot>("activityCoinLots");
        let find = lots.find(filter).sort(doc! { "expiresAt": 1, "_id": 1 }).limit(limit);
        let mut cursor = find.session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    /// Counts coins of a lot as taken back; the book moves `remaining` by itself.
    pub async fn count_revoked(&mut self, lot_id: &str, coins: i64) -> Result<bool, Error> {
        self.update("activityCoinLots", doc! { "_id": lot_id }, doc! { "$inc": { "revoked": coins } }).await
    }

    /// Makes sure that a member has the field of what they owe; members from before it lack it.
    pub async fn open_coins_owed(&mut self, user: &UserId) -> Result<(), Error> {
        let missing = doc! { "_id": user.as_str(), "coinsOwed": { "$exists": false } };
        self.update("member_user", missing, doc! { "$set": { "coinsOwed": 0i64 } }).await?;
        Ok(())
    }

    async fn expire_coins(&mut self, limit: i64, skip: u64, now: DateTime<Utc>) -> Result<Swept, Error> {
        let over = doc! { "remaining": { "$gt": 0i64 }, "expiresAt": { "$lte": date::bson(now) } };
        let lots = self.collection::<CoinLot>("activityCoinLots");
        let find = lots.find(over.clone()).sort(doc! { "expiresAt": 1, "_id": 1 }).skip(skip).limit(limit);
        let mut cursor = find.session(&mut self.session).await?;
        let found: Vec<CoinLot> = cursor.stream(&mut self.session).try_collect().await?;
        if found.is_empty() {
            return Ok(Swept::default());
        }
        let ids: Vec<&str> = found.iter().map(|l| l.id.as_str()).collect();
        let mut guard = over;
        guard.insert("_id", doc! { "$in": ids });
        // The snapshot that was read is the one that is written: a lot that moved since is a conflict, not a match. So each
        // lot's own remainder can leave it in one update for all.
        let change = vec![doc! { "$set": {
            "expired": { "$add": ["$expired", "$remaining"] }, "sweeps": { "$add": ["$sweeps", 1i64] }, "remaining": 0i64,
        } }];
        let documents = self.collection::<Document>("activityCoinLots");
        let updated = documents.update_many(guard, change).session(&mut self.session).await?;
        if updated.matched_count != u64::try_from(found.len()).unwrap_or(0) {
            return Err(Error::Invariant("a batch of expired coins changed inside its transaction".to_owned()));
        }
        crashpoint("expire.updated").await;
        let mut entries = Vec::with_capacity(found.len());
        let mut rows = Vec::with_capacity(found.len());
        let mut coins = 0i64;
        for lot in found {
            let key = expire_key(&lot.id, lot.sweeps.saturating_add(1));
            let account = CoinLot::account(&lot.id);
            coins = coins.saturating_add(lot.remaining);
            rows.push(CoinRecord {
                id: CoinRecord::key(&key, &lot.id),
                user_id: lot.user_id.clone(),
                lot_id: lot.id,
                record_type: CoinRecordType::Expire,
                change: lot.remaining.saturating_neg(),
                entry_id: key.clone(),
                order_id: None,
                created_at: now,
            });
            entries.push(Entry::new(key, now).user(&lot.user_id).transfer(
                ASSET,
                &account,
                COINS_EXPIRED,
                lot.remaining,
            ));
        }
        self.insert_many("ledger", &entries).await?;
        self.insert_many("activityCoinRecords", &rows).await?;
        crashpoint("expire.inside").await;
        Ok(Swept { lots: i64::try_from(rows.len()).unwrap_or(i64::MAX), coins, skipped: skip })
    }
}
