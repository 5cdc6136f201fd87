//! Points and coins that a member owes: orders that were refunded had earned them, and they were spent by then.
//!
//! They are taken as soon as the member has some again, in the transaction that gives them: whoever owes points has none.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::UserId;
use store::book::{self, Entry, Posting};
use store::coins::{ASSET, CoinLot, CoinRecordType};
use store::members::PointsLog;
use store::{Error, Tx, crashpoint};

use crate::coins;

/// The key of the entry that takes owed points after `cause` gave some; its statement row has it too.
pub fn points_key(cause: &str) -> String {
    format!("repay:{cause}:points")
}

/// Takes what the member owes out of what `cause`, which was just posted, gave them. `after` is what posting it returned.
pub async fn collect(
    tx: &mut Tx,
    cause: &Entry,
    after: &BTreeMap<String, i64>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let Some(user) = &cause.user_id else { return Ok(()) };
    let account = book::member_account(user, "points");
    let gains = cause.postings.iter().any(|p| p.amount > 0 && (p.account == account || p.asset == ASSET));
    if !gains {
        return Ok(());
    }
    let member = tx.member(user).await?.ok_or_else(|| Error::Invariant(format!("no member {}", user.as_str())))?;
    let points = after.get(&account).copied().unwrap_or(0).min(member.points_owed);
    if points > 0 {
        let mut entry = Entry::new(points_key(&cause.id), now)
            .user(user)
            .transfer("points", &account, book::ISSUED, points)
            .transfer("points", &book::member_account(user, "pointsOwed"), book::POINTS_OWED, points);
        entry.order_id = cause.order_id.clone();
        let after = tx.post(&entry).await?;
        tx.insert_points_log(&PointsLog {
            id: entry.id.clone(),
            user_id: user.clone(),
            open_id: member.open_id.clone(),
            change: points.saturating_neg(),
            points: after.get(&account).copied().unwrap_or(0),
            log_type: "spend".to_owned(),
            reason: "扣还退款时欠的积分".to_owned(),
            order_id: entry.order_id.clone(),
            entry_id: entry.id,
            created_at: now,
        })
        .await?;
    }
    collect_coins(tx, user, member.coins_owed, cause, now).await?;
    crashpoint("repay.inside").await;
    Ok(())
}

/// Takes up to `owed` coins, which the member owes, out of their lots: those that can be spent, the first to expire first, and
/// what `cause` put back into others, because coins that nobody had use of are not owed.
pub async fn collect_coins(
    tx: &mut Tx,
    user: &UserId,
    owed: i64,
    cause: &Entry,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if owed <= 0 {
        return Ok(());
    }
    let put = cause.postings.iter().filter(|p| p.amount > 0);
    let put: BTreeMap<&str, i64> = put.filter_map(|p| Some((CoinLot::id_of(&p.account)?, p.amount))).collect();
    let lots = tx.lots_to_take_from(user, &put.keys().copied().collect::<Vec<_>>(), owed, now).await?;
    let held = |lot: &CoinLot| match domain::coins::spendable(lot.expires_at, now) {
        true => lot.remaining,
        false => put.get(lot.id.as_str()).copied().unwrap_or(0).min(lot.remaining),
    };
    let held: Vec<i64> = lots.iter().map(held).collect();
    let taken = held.iter().fold(0i64, |sum, n| sum.saturating_add(*n)).min(owed);
    if taken == 0 {
        return Ok(());
    }
    let takes = domain::coins::split(&held, taken).unwrap_or_default();
    let mut entry = Entry::new(format!("repay:{}:coins", cause.id), now).user(user);
    entry.order_id = cause.order_id.clone();
    let mut rows = Vec::new();
    for (lot, take) in lots.iter().zip(takes).filter(|(_, take)| *take > 0) {
        let change = take.saturating_neg();
        entry.postings.push(Posting::system(&CoinLot::account(&lot.id), ASSET, change));
        tx.count_revoked(&lot.id, take).await?;
        let order = entry.order_id.as_ref();
        rows.push(coins::record(user, &lot.id, CoinRecordType::Revoke, change, &entry.id, order, now));
    }
    entry.postings.push(Posting::system(book::COINS_ISSUED, ASSET, taken));
    let entry = entry.transfer(ASSET, &book::member_account(user, "coinsOwed"), book::COINS_OWED, taken);
    tx.post(&entry).await?;
    tx.insert_coin_records(&rows).await
}
