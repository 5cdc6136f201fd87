//! Making an order: hold its pieces, one transaction, clear the markers.

use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Failure, OrderStatus, ShopRules};
use serde_json::Value;
use store::orders::Order;
use store::qualifications::Qualification;
use store::stock::{self, Reserve};
use store::{CommandKey, Error, Once, Store, crashpoint};

use crate::prepaid::Tender;
use crate::settle::{book_effects, book_tender};

/// One try at an order. Boxed, because the compiler cannot yet prove an async closure `Send` here.
pub type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Option<Value>, Failure>> + Send + 'a>>;

/// Runs `attempt`, which decides on an order and [`make`]s it, at most once per key, and answers with its reply.
pub async fn once<'a>(
    store: &Store,
    key: Option<&CommandKey>,
    attempt: impl Fn() -> Attempt<'a> + Send + Sync,
) -> Result<Once<Value>, Failure> {
    // A reservation can lose its key to the sweeper when this process was frozen; then it starts over.
    for _ in 0..3 {
        if let Some(key) = key
            && let Some(done) = store.replay(key).await?
        {
            return Ok(done);
        }
        match attempt().await {
            Ok(Some(value)) => return Ok(Once { value, replayed: false }),
            Ok(None) => {}
            // A twin may have taken the last piece for the very same command: then its reply is ours.
            Err(Failure::Refused(refusal)) => match key {
                Some(key) => return store.replay_of_twin(key).await?.ok_or(Failure::Refused(refusal)),
                None => return Err(Failure::Refused(refusal)),
            },
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::Unavailable("the order lost its reservation three times".into()))
}

/// An order that was decided on, and what its command answers.
pub struct Making<'a> {
    pub store: &'a Store,
    pub rules: &'a ShopRules,
    pub order: &'a Order,
    /// The prepaid money and goods that it uses.
    pub tender: Option<&'a Tender>,
    /// The right to buy that it uses.
    pub right: Option<&'a Qualification>,
    pub reply: &'a Value,
    pub key: Option<&'a CommandKey>,
    pub now: DateTime<Utc>,
}

/// Makes one order with everything it takes, and settles it if nothing is left to pay. `None` when it must be decided anew.
pub async fn make(making: &Making<'_>) -> Result<Option<Value>, Failure> {
    let Making { store, rules, order, tender, right, reply, key, now } = *making;
    // The pieces of a right were taken off the shelf when it was granted: there is nothing to hold, and nothing to undo.
    let wants = match right {
        Some(_) => Vec::new(),
        None => stock::wants(order.items.iter().map(|l| (l.product_id.clone(), l.sku_id.clone(), l.quantity))),
    };
    match store.reserve_stock(&order.id, key.map(CommandKey::id), &wants, now).await? {
        Reserve::Done => {}
        Reserve::Refused(refusal) => return Err(refusal.into()),
        Reserve::Twin => return wait_for_twin(store, key).await,
    }
    crashpoint("submit.reserved").await;

    let committed = store
        .transaction(|tx, _| {
            let wants = &wants;
            Box::pin(async move {
                let reserve = match right {
                    Some(right) => {
                        tx.use_qualification(right, &order.id, now).await?;
                        right.reserve_entry(&order.id, now)
                    }
                    None => stock::reserve_entry(&order.id, wants, now),
                };
                tx.post(&reserve).await?;
                if let Some(coupon) = &order.user_coupon_id {
                    tx.lock_user_coupon(coupon, &order.user_id, &order.id, now).await?;
                }
                book_tender(tx, order, tender, now).await?;
                crashpoint("submit.inside").await;
                let mut order = order.clone();
                if order.status == OrderStatus::Paid {
                    let earned = book_effects(tx, &order, rules, now).await?;
                    (order.points_earned, order.coins_earned) = (earned.points, earned.coins);
                    order.points_earn_fen = Some(earned.points_earn_fen);
                }
                tx.insert_order(&order).await?;
                if let Some(key) = key {
                    tx.remember(key, reply, now).await?;
                }
                Ok(())
            })
        })
        .await;
    crashpoint("submit.committed").await;

    match committed {
        Ok(()) => {
            // The order stands; a marker that stays is the sweeper's.
            if let Err(error) = store.pull_markers(&order.id, &order.shelf_products()).await {
                tracing::warn!(%error, "markers stay for the sweeper");
            }
            crashpoint("submit.pulled").await;
            Ok(Some(reply.clone()))
        }
        // Whether it was made is unknown: only the sweeper may decide about the stock.
        Err(error) if error.is_unavailable() => Err(error.into()),
        Err(error) => {
            if right.is_none()
                && let Err(error) = store.undo_reservation(&order.id, &order.products(), now).await
            {
                tracing::warn!(%error, "a reservation stays for the sweeper");
            }
            match error {
                Error::Duplicate { .. } => Ok(None),
                other => Err(other.into()),
            }
        }
    }
}

/// A twin of this command holds the stock: its reply will be ours, if it comes.
async fn wait_for_twin(store: &Store, key: Option<&CommandKey>) -> Result<Option<Value>, Failure> {
    let Some(key) = key else { return Ok(None) };
    for _ in 0..40 {
        if store.replay::<Value>(key).await?.is_some() {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(Failure::Unavailable("the same command is under way".into()))
}
