//! The invariant `owed`: points and coins of refunded orders that were spent are paid back with the next ones.

use bson::doc;

use super::Audit;
use super::rules::{LOTS, legs, pooled, posted_on};
use crate::book::{self, Entry};
use crate::{Error, coins};

pub(super) const NAME: &str = "owed";

impl Audit<'_> {
    pub(super) async fn owed(&mut self) -> Result<(), Error> {
        let owes = doc! { "$match": { "pointsOwed": { "$gt": 0i64 }, "points": { "$gt": 0i64 } } };
        for id in self.ids_of("member_user", vec![owes]).await? {
            self.violation(NAME, "owes points and has some", format!("member_user/{id}"));
        }
        Ok(())
    }
}

/// The entry after which an entry pays what was owed: `repay:{cause}:{points or coins}`.
pub(super) fn cause_of(entry: &Entry) -> Option<&str> {
    Some(entry.id.strip_prefix("repay:")?.rsplit_once(':')?.0)
}

/// What does not fit in an entry that pays what was owed, if it is one.
pub(super) fn repayment_off(entry: &Entry, causes: &[Entry]) -> Option<&'static str> {
    let cause = cause_of(entry)?;
    let (Some(cause), Some(user)) = (causes.iter().find(|e| e.id == cause), &entry.user_id) else {
        return Some("it pays what is owed and nothing came in");
    };
    if (&cause.user_id, &cause.order_id, cause.at) != (&entry.user_id, &entry.order_id, entry.at) {
        return Some("it pays with what came to somebody else, or at another time");
    }
    let member = |field: &str| book::member_account(user, field);
    let of = |from: &str, to: &str, owed: &str, debts: &str, asset: &str, amount: i64| {
        let paid = Entry::new("", entry.at).transfer(asset, from, to, amount);
        paid.transfer(asset, &member(owed), debts, amount)
    };
    let (points, coins) = (posted_on(entry, book::ISSUED), posted_on(entry, book::COINS_ISSUED));
    let expected = match entry.id.ends_with(":points") {
        true => of(&member("points"), book::ISSUED, "pointsOwed", book::POINTS_OWED, "points", points),
        false => of(LOTS, book::COINS_ISSUED, "coinsOwed", book::COINS_OWED, coins::ASSET, coins),
    };
    if points.max(coins) < 1 || pooled(legs(entry)) != legs(&expected) {
        return Some("it moves something else than what is owed");
    }
    (points > posted_on(cause, &member("points"))).then_some("it takes more points than came in")
}
