//! `closeExpiredOrders` (timer): closes what was not paid in time, at WeChat first, and gives back stock, points and balance.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::close::{Closed, close_order};

pub fn function() -> Function {
    Function::new("closeExpiredOrders", handle)
        .summary("定时关闭超时未付的订单")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store, Need::Pay])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    closed: u64,
    /// Found paid at the last moment.
    paid: u64,
    /// Left for the next run, because WeChat or the store gave no clear answer.
    failed: u64,
    remaining: bool,
}

const BATCH: i64 = 50;

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let mut sum = Output::default();
    loop {
        // What fails is not found again in this run, and comes last in the next: every order that is due gets its try.
        let orders = ctx.store().expired_orders(ctx.now, BATCH).await?;
        let found = orders.len();
        for order in orders {
            // One order may take a close and a query of WeChat; stop while that still fits.
            if ctx.time_left() < Duration::from_secs(25) {
                sum.remaining = true;
                return Reply::of(&sum);
            }
            match close_order(ctx.store(), ctx.pay()?, ctx.rules(), &order, "超时未支付", ctx.now).await {
                Ok(Closed::Closed | Closed::AlreadyClosed) => sum.closed = sum.closed.saturating_add(1),
                Ok(Closed::Paid) => sum.paid = sum.paid.saturating_add(1),
                Err(error) => {
                    tracing::warn!(%order, %error, "an expired order stays open");
                    ctx.store().close_tried(&order, ctx.now).await?;
                    sum.failed = sum.failed.saturating_add(1);
                }
            }
        }
        if found < usize::try_from(BATCH).unwrap_or(0) {
            sum.remaining = sum.failed > 0;
            return Reply::of(&sum);
        }
    }
}
