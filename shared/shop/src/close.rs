//! Closing an order that is not paid: at WeChat first, then in the store, then the stock goes back. Paid wins, always; except in
//! the points mall, where an order is paid at once and may be closed until it is shipped.

use chrono::{DateTime, Utc};
use domain::{Code, Failure, OrderId, OrderStatus, Refusal, ShopRules};
use store::orders::Order;
use store::payments::Payment;
use store::{Store, crashpoint};
use wechat::pay;

use crate::reconcile::{Checked, check_payment};
use crate::settle::{Settlement, book_close};

/// How closing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Closed now, and everything given back.
    Closed,
    /// It was closed before.
    AlreadyClosed,
    /// It turned out to be paid: it stays paid.
    Paid,
}

/// Closes an order that is not paid, or one of the points mall that is not shipped.
///
/// An attempt that may be open at WeChat is closed there first; if that fails, the attempt is queried, and a payment found then
/// is settled. `UPSTREAM_ERROR` when WeChat gives no clear answer: nothing has changed and the call may be repeated.
pub async fn close_order(
    store: &Store,
    client: &pay::Client,
    rules: &ShopRules,
    id: &OrderId,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<Closed, Failure> {
    // A payment attempt that begins meanwhile makes the guarded update miss; then look again.
    for _ in 0..5 {
        let order = store.order(id).await?.ok_or(Code::OrderNotFound)?;
        if order.status == OrderStatus::Closed {
            finish_release(store, &order).await?;
            return Ok(Closed::AlreadyClosed);
        }
        if !order.status.may_become(order.order_type, OrderStatus::Closed) {
            return Ok(Closed::Paid);
        }
        for payment in store.payments_of(id).await?.iter().filter(|p| p.status.is_open()) {
            if close_at_wechat(store, client, rules, payment, now).await? {
                return Ok(Closed::Paid);
            }
        }
        crashpoint("close.closedAtWechat").await;
        let closed = store
            .transaction(|tx, _| {
                let order = &order;
                Box::pin(async move {
                    if !tx.mark_order_closed(order, reason, now).await? {
                        return Ok(false);
                    }
                    tx.close_payments(&order.id).await?;
                    book_close(tx, order, now).await?;
                    crashpoint("close.inside").await;
                    Ok(true)
                })
            })
            .await?;
        if closed {
            crashpoint("close.committed").await;
            finish_release(store, &order).await?;
            return Ok(Closed::Closed);
        }
    }
    Err(Refusal::new(Code::Conflict).into())
}

async fn finish_release(store: &Store, order: &Order) -> Result<(), Failure> {
    for product in order.shelf_products() {
        store.release_stock(&product).await?;
    }
    Ok(())
}

/// Makes sure that an attempt cannot be paid any more; true if it turns out to have paid its order, now.
///
/// Money that fits no order (a wrong amount, say) is recorded and goes back: its attempt is over, and the order is as unpaid as it
/// was. What another process has settled meanwhile the caller's guard on the order finds out.
pub(crate) async fn close_at_wechat(
    store: &Store,
    client: &pay::Client,
    rules: &ShopRules,
    payment: &Payment,
    now: DateTime<Utc>,
) -> Result<bool, Failure> {
    let Err(error) = client.close(&payment.out_trade_no).await else { return Ok(false) };
    match check_payment(store, client, rules, payment, "close", now).await? {
        Checked::Paid(settlement) => Ok(settlement == Settlement::Settled),
        Checked::Closed => Ok(false),
        // Nobody ever got a prepay id for it, so nobody can pay it, whatever WeChat has.
        Checked::Absent if payment.prepay_id.is_none() => Ok(false),
        Checked::NotPaid | Checked::Absent | Checked::Unclear(_) => Err(error.into()),
    }
}
