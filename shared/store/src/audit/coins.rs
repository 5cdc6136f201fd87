//! The invariant `coins`: every lot, its moves in the book, and its statement.

use std::collections::{BTreeSet, HashMap};

use bson::{Bson, doc};

use super::rules::posted_on;
use super::{Audit, Batch, key};
use crate::Error;
use crate::book::{self, Entry};
use crate::coins::{CoinLot, CoinRecord, CoinRecordType, CoinSource, expire_key};
use crate::orders::Order;

impl Audit<'_> {
    pub(super) async fn coins(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<CoinLot> = self.batch("activityCoinLots", "coins", after).await?;
            self.check_lots(&batch.rows).await?;
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let lotless = |local: &str| {
            vec![
                doc! { "$lookup": { "from": "activityCoinLots", "localField": local, "foreignField": "_id", "as": "lots" } },
                doc! { "$match": { "lots": { "$size": 0i32 } } },
            ]
        };
        let mut revokes = vec![
            doc! { "$match": { "_id": { "$regex": "^order:[0-9A-Z]+:coin-revoke$" } } },
            doc! { "$set": { "lot": { "$concat": ["order:", "$orderId"] } } },
        ];
        revokes.extend(lotless("lot"));
        let owed = vec![doc! { "$match": {
            "_id": { "$not": { "$regex": "^(order:[0-9A-Z]+:coin-revoke$|repay:.*:coins$|opening:)" } },
            "postings.account": { "$regex": "^member_user/.*#coinsOwed$" },
        } }];
        for (collection, pipeline, message) in [
            ("activityCoinRecords", lotless("lotId"), "a row belongs to no lot"),
            ("ledger", revokes, "takes back a coin that no order granted"),
            ("ledger", owed, "changes owed coins and neither takes a coin back nor pays any"),
        ] {
            for id in self.ids_of(collection, pipeline).await? {
                self.violation("coins", message, format!("{collection}/{id}"));
            }
        }
        Ok(())
    }

    async fn check_lots(&mut self, lots: &[CoinLot]) -> Result<(), Error> {
        let accounts = lots.iter().map(|l| CoinLot::account(&l.id)).collect();
        let mut entries: Vec<Entry> = self.matching("ledger", "postings.account", accounts).await?;
        // One that only notes what is owed does not touch the lot.
        let revokes = lots.iter().filter(|l| l.source == CoinSource::Order).map(revoke_key).collect();
        let known: BTreeSet<String> = entries.iter().map(|e| e.id.clone()).collect();
        let revokes: Vec<Entry> = self.matching("ledger", "_id", revokes).await?;
        entries.extend(revokes.into_iter().filter(|e| !known.contains(&e.id)));
        let mut by_lot: HashMap<&str, Vec<&Entry>> = HashMap::new();
        for entry in &entries {
            let on_lots: BTreeSet<&str> = entry.postings.iter().filter_map(|p| CoinLot::id_of(&p.account)).collect();
            for lot in on_lots {
                by_lot.entry(lot).or_default().push(entry);
            }
        }
        let ids = lots.iter().map(|l| l.id.clone()).collect();
        let rows: Vec<CoinRecord> = self.matching("activityCoinRecords", "lotId", ids).await?;
        let mut rows_by_lot: HashMap<&str, Vec<&CoinRecord>> = HashMap::new();
        for row in &rows {
            rows_by_lot.entry(&row.lot_id).or_default().push(row);
        }
        let sources = lots.iter().filter(|l| l.source == CoinSource::Order).map(|l| l.source_id.clone()).collect();
        let orders: Vec<Order> = self.matching("orders", "_id", sources).await?;
        for lot in lots {
            let moves = by_lot.get(lot.id.as_str()).map(Vec::as_slice).unwrap_or_default();
            let rows = rows_by_lot.get(lot.id.as_str()).map(Vec::as_slice).unwrap_or_default();
            let order = orders.iter().find(|o| o.id.as_str() == lot.source_id);
            let revoke = entries.iter().find(|e| e.id == revoke_key(lot));
            for message in lot_off(lot, moves, rows, order, revoke) {
                self.violation("coins", message, format!("activityCoinLots/{}", lot.id));
            }
        }
        Ok(())
    }
}

fn revoke_key(lot: &CoinLot) -> String {
    format!("order:{}:coin-revoke", lot.source_id)
}

/// What kind of move of a lot an entry is, by its key; `None` for an opening, `Err` if no rule makes it.
fn kind_of(lot: &CoinLot, entry: &Entry) -> Result<Option<CoinRecordType>, ()> {
    let id = entry.id.as_str();
    let granted_by = match lot.source {
        CoinSource::Win => format!("coins:{}:grant", lot.id),
        CoinSource::Order => format!("order:{}:settle", lot.source_id),
    };
    let of_order = |reason: &str| entry.order_id.as_ref().is_some_and(|o| id == key(o, reason));
    if id.starts_with("opening:") {
        Ok(None)
    } else if id == granted_by {
        Ok(Some(CoinRecordType::Earn))
    } else if of_order("tender") {
        Ok(Some(CoinRecordType::Spend))
    } else if of_order("tender-reversal") || of_refund(entry) {
        Ok(Some(CoinRecordType::Return))
    } else if (1..=lot.sweeps).any(|n| id == expire_key(&lot.id, n)) {
        Ok(Some(CoinRecordType::Expire))
    } else if (lot.source == CoinSource::Order && id == revoke_key(lot)) || repays(entry) {
        Ok(Some(CoinRecordType::Revoke))
    } else {
        Err(())
    }
}

/// Whether an entry pays what its member owed.
fn repays(entry: &Entry) -> bool {
    entry.id.starts_with("repay:")
}

/// Whether an entry gives back what is ours of a refund of its order.
fn of_refund(entry: &Entry) -> bool {
    let order = entry.order_id.as_ref();
    order.is_some_and(|order| entry.id.starts_with(&format!("afterSale:{order}-R")) && entry.id.ends_with(":back"))
}

/// What does not fit in a lot.
fn lot_off(
    lot: &CoinLot,
    moves: &[&Entry],
    rows: &[&CoinRecord],
    order: Option<&Order>,
    revoke: Option<&Entry>,
) -> Vec<String> {
    let mut off = Vec::new();
    let mut say = |message: &str| off.push(message.to_owned());
    if domain::coins::expiry(lot.granted_at) != Some(lot.expires_at) {
        say("the lot does not live for 48 hours");
    }
    let source = match lot.source {
        CoinSource::Win => "win",
        CoinSource::Order => "order",
    };
    if lot.id != format!("{source}:{}", lot.source_id) {
        say("the lot has another cause than its key says");
    }
    if lot.source == CoinSource::Order
        && order.is_none_or(|o| {
            (&o.user_id, o.coins_earned, o.paid_at) != (&lot.user_id, lot.granted, Some(lot.granted_at))
        })
    {
        say("the order that granted the lot does not know of it");
    }
    let account = CoinLot::account(&lot.id);
    let mut sums: HashMap<&'static str, i64> = HashMap::new();
    let mut add = |name: &'static str, n: i64| {
        let sum = sums.entry(name).or_default();
        *sum = sum.saturating_add(n);
    };
    let mut with_row = 0usize;
    for entry in moves {
        let amount = posted_on(entry, &account);
        let Ok(kind) = kind_of(lot, entry) else {
            say(&format!("{} moves its coins under no rule", entry.id));
            continue;
        };
        let Some(kind) = kind else {
            add("granted", amount);
            continue;
        };
        if entry.user_id.as_ref() != Some(&lot.user_id) {
            say(&format!("{} moves coins of somebody else", entry.id));
        }
        let in_time = match kind {
            CoinRecordType::Earn => entry.at == lot.granted_at,
            CoinRecordType::Spend => (lot.granted_at..lot.expires_at).contains(&entry.at),
            // What is owed is paid with coins that come back, too, even if their time is over.
            CoinRecordType::Revoke => entry.at < lot.expires_at || amount == 0 || repays(entry),
            CoinRecordType::Expire => entry.at >= lot.expires_at,
            CoinRecordType::Return => true,
        };
        if !in_time {
            say(&format!("{} is at a time at which it cannot be", entry.id));
        }
        let (name, gain) = match kind {
            CoinRecordType::Earn => ("granted", true),
            CoinRecordType::Spend => ("spent", false),
            CoinRecordType::Return => ("returned", true),
            CoinRecordType::Expire => ("expired", false),
            CoinRecordType::Revoke => ("revoked", false),
        };
        if (amount > 0) != gain {
            say(&format!("{} moves the coins the wrong way", entry.id));
        }
        add(name, if gain { amount } else { amount.saturating_neg() });
        if kind == CoinRecordType::Expire {
            add("sweeps", 1);
        }
        with_row = with_row.saturating_add(1);
        let row = rows.iter().find(|r| r.id == CoinRecord::key(&entry.id, &lot.id));
        let told = row.is_some_and(|r| {
            (r.record_type, r.change, r.entry_id.as_str(), r.created_at, &r.user_id)
                == (kind, amount, entry.id.as_str(), entry.at, &lot.user_id)
                && r.order_id == entry.order_id
        });
        if !told {
            say(&format!("{} has no row that says the same", entry.id));
        }
    }
    if rows.len() != with_row {
        say("there are other rows than moves");
    }
    let sum = |name: &str| sums.get(name).copied().unwrap_or(0);
    let spent = sum("spent").saturating_sub(sum("returned"));
    for (what, field, booked) in [
        ("granted", lot.granted, sum("granted")),
        ("expired", lot.expired, sum("expired")),
        ("revoked", lot.revoked, sum("revoked")),
        ("sweeps", lot.sweeps, sum("sweeps")),
        ("spent", lot.spent(), spent),
    ] {
        if field != booked {
            say(&format!("{what} is {field}, the book says {booked}"));
        }
    }
    if spent < 0 {
        say("more coins came back than were spent");
    }
    if let Some(revoke) = revoke {
        let owed_by = book::member_account(&lot.user_id, "coinsOwed");
        let owed = posted_on(revoke, &owed_by);
        let elsewhere = revoke.postings.iter().any(|p| p.account.ends_with("#coinsOwed") && p.account != owed_by);
        let repaid = moves.iter().filter(|e| repays(e)).fold(0i64, |s, e| s.saturating_sub(posted_on(e, &account)));
        if owed < 0 || owed > sum("spent").saturating_add(repaid) || elsewhere {
            say("more is owed than was spent or paid with, or by somebody else");
        }
    }
    off
}
