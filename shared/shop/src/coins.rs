//! Activity coins: granting, spending, taking back, expiring.
//!
//! Each grant is a lot that dies 48 hours later to the millisecond, whatever the timer does: only lots whose expiry is ahead are
//! ever spent. The timer writes the expiry down. The time of a call is when it began: one that began in time is in time, unless
//! the coins were written off meanwhile.

use chrono::{DateTime, Utc};
use domain::{Code, OpenId, OrderId, UserId};
use store::book::{self, Entry, Posting};
use store::coins::{ASSET, CoinLot, CoinRecord, CoinRecordType, CoinSource};
use store::orders::Order;
use store::{Error, Store, Tx, crashpoint};

use crate::owed;

/// Coins about to be granted.
#[derive(Clone, Debug)]
pub struct NewLot<'a> {
    /// The natural key: `win:{qualificationId}` or `order:{orderId}`.
    pub id: String,
    pub user: &'a UserId,
    pub open_id: &'a OpenId,
    pub amount: i64,
    pub source: CoinSource,
    pub source_id: &'a str,
}

/// The key of the entry that grants a lot by itself; an order's coin is granted by the entry that settles the order.
pub fn grant_key(lot_id: &str) -> String {
    format!("coins:{lot_id}:grant")
}

/// The lot of an order's coin.
pub fn order_lot(order: &OrderId) -> String {
    format!("order:{order}")
}

/// The key of the entry that takes an order's coin back.
pub fn revoke_key(order: &OrderId) -> String {
    format!("order:{order}:coin-revoke")
}

/// Grants a lot with an entry, which is returned, and a statement row of its own. A second grant of the same lot is a
/// `Duplicate`. What the member owes is the caller's to collect.
pub async fn grant(tx: &mut Tx, lot: NewLot<'_>, now: DateTime<Utc>) -> Result<Entry, Error> {
    let entry = Entry::new(grant_key(&lot.id), now).user(lot.user).transfer(
        ASSET,
        book::COINS_ISSUED,
        &CoinLot::account(&lot.id),
        lot.amount,
    );
    open(tx, &lot, &entry.id, None, now).await?;
    tx.post(&entry).await?;
    Ok(entry)
}

/// Inserts the empty lot that `entry_id` is about to fill, and its statement row.
async fn open(
    tx: &mut Tx,
    lot: &NewLot<'_>,
    entry_id: &str,
    order: Option<&OrderId>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let expires_at =
        domain::coins::expiry(now).ok_or_else(|| Error::Invariant(format!("lot {} never expires", lot.id)))?;
    let document = CoinLot {
        id: lot.id.clone(),
        user_id: lot.user.clone(),
        open_id: lot.open_id.clone(),
        granted: lot.amount,
        remaining: 0,
        expired: 0,
        revoked: 0,
        sweeps: 0,
        source: lot.source,
        source_id: lot.source_id.to_owned(),
        granted_at: now,
        expires_at,
    };
    tx.insert_coin_lot(&document).await?;
    let row = record(lot.user, &lot.id, CoinRecordType::Earn, lot.amount, entry_id, order, now);
    tx.insert_coin_records(&[row]).await
}

pub(crate) fn record(
    user: &UserId,
    lot_id: &str,
    record_type: CoinRecordType,
    change: i64,
    entry_id: &str,
    order: Option<&OrderId>,
    now: DateTime<Utc>,
) -> CoinRecord {
    CoinRecord {
        id: CoinRecord::key(entry_id, lot_id),
        user_id: user.clone(),
        lot_id: lot_id.to_owned(),
        record_type,
        change,
        entry_id: entry_id.to_owned(),
        order_id: order.cloned(),
        created_at: now,
    }
}

/// How many coins an order grants when it is paid: one, if it holds a product that grants a coin.
pub fn earned_by(order: &Order) -> i64 {
    let mall = order.order_type == domain::OrderType::PointsMall;
    i64::from(!mall && order.items.iter().any(|line| line.grants_coin))
}

/// Opens the lot of the coins that a paid order grants and returns the legs for its settle entry. Nothing if it grants none.
pub async fn grant_for_order(
    tx: &mut Tx,
    order: &Order,
    entry_id: &str,
    now: DateTime<Utc>,
) -> Result<Vec<Posting>, Error> {
    let amount = earned_by(order);
    if amount == 0 {
        return Ok(Vec::new());
    }
    let lot = NewLot {
        id: order_lot(&order.id),
        user: &order.user_id,
        open_id: &order.open_id,
        amount,
        source: CoinSource::Order,
        source_id: order.id.as_str(),
    };
    open(tx, &lot, entry_id, Some(&order.id), now).await?;
    Ok(vec![
        Posting::system(book::COINS_ISSUED, ASSET, amount.saturating_neg()),
        Posting::system(&CoinLot::account(&lot.id), ASSET, amount),
    ])
}

/// Takes `order.coins_used` coins for an order, the first to expire first, writes the statement rows and returns the legs for
/// the entry. `COINS_INSUFFICIENT` if the lots that have not expired hold less. Nothing for no coins.
///
/// The entry guards each lot's remainder, so two orders at once cannot take one coin twice.
pub async fn spend(tx: &mut Tx, order: &Order, entry_id: &str, now: DateTime<Utc>) -> Result<Vec<Posting>, Error> {
    let wanted = order.coins_used;
    if wanted == 0 {
        return Ok(Vec::new());
    }
    // Each lot holds a coin at least, so that many lots are always enough.
    let lots = tx.spendable_lots(&order.user_id, wanted, now).await?;
    let held: Vec<i64> = lots.iter().map(|l| l.remaining).collect();
    let takes = domain::coins::split(&held, wanted).ok_or(Code::CoinsInsufficient)?;
    let mut postings = Vec::new();
    let mut rows = Vec::new();
    for (lot, take) in lots.iter().zip(takes).filter(|(_, take)| *take > 0) {
        let change = take.saturating_neg();
        postings.push(Posting::system(&CoinLot::account(&lot.id), ASSET, change));
        rows.push(record(&order.user_id, &lot.id, CoinRecordType::Spend, change, entry_id, Some(&order.id), now));
    }
    postings.push(Posting::system(book::COINS_SPENT, ASSET, wanted));
    tx.insert_coin_records(&rows).await?;
    Ok(postings)
}

/// Writes the statement rows of coins that a reversal puts back into their lots.
pub(crate) async fn log_return(tx: &mut Tx, order: &Order, entry: &Entry, now: DateTime<Utc>) -> Result<(), Error> {
    let back = entry.postings.iter().filter_map(|p| {
        let lot = CoinLot::id_of(&p.account)?;
        Some(record(&order.user_id, lot, CoinRecordType::Return, p.amount, &entry.id, Some(&order.id), now))
    });
    let rows: Vec<CoinRecord> = back.collect();
    tx.insert_coin_records(&rows).await
}

/// What a member's coins come to. `balance = earned − spent − expired`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Coins that can be spent now.
    pub balance: i64,
    /// When the first of them expire.
    pub next_expiry: Option<DateTime<Utc>>,
    /// Granted and not taken back.
    pub earned: i64,
    /// Spent and not given back.
    pub spent: i64,
    /// Expired, whether it is written down yet or not.
    pub expired: i64,
}

/// A member's coins at `now`.
pub async fn account(store: &Store, user: &UserId, now: DateTime<Utc>) -> Result<Account, Error> {
    let totals = store.coin_totals(user, now).await?;
    let earned = totals.granted.saturating_sub(totals.revoked);
    Ok(Account {
        balance: totals.spendable,
        next_expiry: totals.next_expiry,
        earned,
        spent: earned.saturating_sub(totals.remaining).saturating_sub(totals.expired),
        expired: totals.expired.saturating_add(totals.remaining).saturating_sub(totals.spendable),
    })
}

/// What taking back an order's coin came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// Coins that left the lot.
    pub revoked: i64,
    /// Coins that were spent, or paid what was owed before, and are owed now.
    pub owed: i64,
}

/// Takes back the coin that a refunded order granted, once per order: what its lot still holds leaves it, what was spent is
/// recorded as owed, and so is what paid older debts. A coin that expired, written off or not, did its owner no good and is not
/// owed. `None` if it was done before, or the order granted nothing.
///
/// What is owed is taken from the member's other coins at once, as far as there are any, and from the next ones else.
pub async fn take_back(tx: &mut Tx, order: &Order, now: DateTime<Utc>) -> Result<Option<TakenBack>, Error> {
    let key = revoke_key(&order.id);
    if tx.entry(&key).await?.is_some() {
        return Ok(None);
    }
    let Some(lot) = tx.coin_lot(&order_lot(&order.id)).await? else { return Ok(None) };
    let revoked = if domain::coins::spendable(lot.expires_at, now) { lot.remaining } else { 0 };
    let taken = TakenBack { revoked, owed: lot.spent().saturating_add(lot.revoked) };
    let entry = Entry::new(key, now)
        .user(&lot.user_id)
        .order(&order.id)
        .transfer(ASSET, &CoinLot::account(&lot.id), book::COINS_ISSUED, taken.revoked)
        .transfer(ASSET, book::COINS_OWED, &book::member_account(&lot.user_id, "coinsOwed"), taken.owed);
    if taken.owed > 0 {
        tx.open_coins_owed(&lot.user_id).await?;
    }
    let after = tx.post(&entry).await?;
    crashpoint("revoke.inside").await;
    if taken.revoked > 0 {
        tx.count_revoked(&lot.id, taken.revoked).await?;
        let change = taken.revoked.saturating_neg();
        let row = record(&lot.user_id, &lot.id, CoinRecordType::Revoke, change, &entry.id, Some(&order.id), now);
        tx.insert_coin_records(&[row]).await?;
    }
    let owed = after.get(&book::member_account(&lot.user_id, "coinsOwed")).copied().unwrap_or(0);
    owed::collect_coins(tx, &lot.user_id, owed, &entry, now).await?;
    Ok(Some(taken))
}
