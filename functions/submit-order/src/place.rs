//! Making the order: reserve, one transaction, clear the markers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Code, Failure, OpenId, OrderId, OrderStatus, PaymentMethod, ProductId, ShopRules, Yuan};
use serde::Serialize;
use shop::settle::{book_effects, book_tender};
use shop::views::{self, ItemView};
use store::orders::Order;
use store::stock::{self, Reserve};
use store::{CommandKey, Error, Once, Store, crashpoint};

use crate::decide::{Decision, decide};
use crate::input::Command;

/// Whom the order is for.
pub(crate) struct Buyer {
    pub(crate) open_id: OpenId,
    /// What to answer if the shop does not know them.
    pub(crate) code_if_unknown: Code,
}

/// The reply. Amounts in yuan.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    order_id: String,
    status: OrderStatus,
    total_amount: Yuan,
    discount_amount: Yuan,
    prepaid_amount: Yuan,
    balance_amount: Yuan,
    points_used: i64,
    payment_amount: Yuan,
    expire_time: String,
    items: Vec<ItemView>,
}

fn output(order: &Order) -> Result<serde_json::Value, Failure> {
    let output = Output {
        order_id: order.id.as_str().to_owned(),
        status: order.status,
        total_amount: Yuan(order.total_amount),
        discount_amount: Yuan(order.discount_amount),
        prepaid_amount: Yuan(order.prepaid_total()?),
        balance_amount: Yuan(order.balance_amount),
        points_used: order.points_used.get(),
        payment_amount: Yuan(order.payment_amount),
        expire_time: views::iso(order.expire_time),
        items: order.items.iter().map(ItemView::from).collect(),
    };
    serde_json::to_value(output).map_err(|e| Failure::Internal(e.into()))
}

/// One command on its way to an order.
pub(crate) struct Placing<'a> {
    pub(crate) store: &'a Store,
    pub(crate) rules: &'a ShopRules,
    pub(crate) buyer: &'a Buyer,
    pub(crate) command: &'a Command,
    pub(crate) key: Option<&'a CommandKey>,
    pub(crate) now: DateTime<Utc>,
}

/// Makes the order at most once per key and answers with its reply.
pub(crate) async fn place(placing: &Placing<'_>) -> Result<Once<serde_json::Value>, Failure> {
    let Placing { store, key, .. } = *placing;
    // A reservation can lose its key to the sweeper when this process was frozen; then it starts over.
    for _ in 0..3 {
        if let Some(key) = key
            && let Some(done) = store.replay(key).await?
        {
            return Ok(done);
        }
        match try_once(placing).await {
            Ok(Some(value)) => return Ok(Once { value, replayed: false }),
            Ok(None) => {}
            // A twin may have taken the last piece for the very same command: then its reply is ours.
            Err(Failure::Refused(refusal)) => match key {
                Some(key) => return store.replay(key).await?.ok_or(Failure::Refused(refusal)),
                None => return Err(Failure::Refused(refusal)),
            },
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::Unavailable("the order lost its reservation three times".into()))
}

/// `None` when it must be tried again.
async fn try_once(placing: &Placing<'_>) -> Result<Option<serde_json::Value>, Failure> {
    let Placing { store, rules, buyer, command, key, now } = *placing;
    let ids: Vec<ProductId> = command.lines.iter().map(|l| l.product_id.clone()).collect();
    let (member, products) = tokio::join!(
        shop::members::active_member(store, &buyer.open_id, buyer.code_if_unknown),
        store.products_by_id(&ids)
    );
    let (member, products) = (member?, products?);
    let by_prepaid = matches!(command.method, PaymentMethod::Prestore | PaymentMethod::Prepaid);
    let records = match member.customer_id.as_ref().filter(|_| by_prepaid) {
        Some(customer) => store.all_prepaid_records(customer).await?,
        None => Vec::new(),
    };
    let id = OrderId::generate(now, rand::random());
    let Decision { order, tender } = decide(command, &products, &member, &records, rules, id, now)?;
    let wants = stock::wants(order.items.iter().map(|l| (l.product_id.clone(), l.sku_id.clone(), l.quantity)));

    match store.reserve_stock(&order.id, key.map(CommandKey::id), &wants, now).await? {
        Reserve::Done => {}
        Reserve::Refused(refusal) => return Err(refusal.into()),
        Reserve::Twin => return wait_for_twin(store, key).await,
    }
    crashpoint("submit.reserved").await;

    let reply = output(&order)?;
    let committed = store
        .transaction(|tx, _| {
            let (order, wants, tender, reply) = (&order, &wants, tender.as_ref(), &reply);
            Box::pin(async move {
                tx.post(&stock::reserve_entry(&order.id, wants, now)).await?;
                book_tender(tx, order, tender, now).await?;
                crashpoint("submit.inside").await;
                let mut order = order.clone();
                if order.status == OrderStatus::Paid {
                    order.points_earned = book_effects(tx, &order, rules, now).await?;
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
            if let Err(error) = store.pull_markers(&order.id, &order.products()).await {
                tracing::warn!(%error, "markers stay for the sweeper");
            }
            crashpoint("submit.pulled").await;
            Ok(Some(reply))
        }
        // Whether it was made is unknown: only the sweeper may decide about the stock.
        Err(error) if error.is_unavailable() => Err(error.into()),
        Err(error) => {
            if let Err(error) = store.undo_reservation(&order.id, &order.products(), now).await {
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
async fn wait_for_twin(store: &Store, key: Option<&CommandKey>) -> Result<Option<serde_json::Value>, Failure> {
    let Some(key) = key else { return Ok(None) };
    for _ in 0..40 {
        if store.replay::<serde_json::Value>(key).await?.is_some() {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(Failure::Unavailable("the same command is under way".into()))
}
