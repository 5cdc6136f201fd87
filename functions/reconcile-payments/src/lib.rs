//! `reconcilePayments` (timer): asks WeChat about every attempt whose outcome is open, and settles or closes it.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::reconcile::{Checked, check_payment};

pub fn function() -> Function {
    Function::new("reconcilePayments", handle)
        .summary("定时核对未结的微信支付")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store, Need::Pay])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    checked: u64,
    paid: u64,
    closed: u64,
    failed: u64,
    remaining: bool,
}

const BATCH: i64 = 100;

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let mut sum = Output::default();
    loop {
        let due = ctx.store().payments_to_query(ctx.now, BATCH).await?;
        let found = due.len();
        for payment in due {
            if ctx.time_left() < Duration::from_secs(15) {
                sum.remaining = true;
                return Reply::of(&sum);
            }
            sum.checked = sum.checked.saturating_add(1);
            match check_payment(ctx.store(), ctx.pay()?, ctx.rules(), &payment, "reconcile", ctx.now).await {
                Ok(Checked::Paid(_)) => sum.paid = sum.paid.saturating_add(1),
                Ok(Checked::Closed) => sum.closed = sum.closed.saturating_add(1),
                Ok(Checked::NotPaid | Checked::Absent | Checked::Unclear(_)) => {}
                Err(error) => {
                    tracing::warn!(payment = payment.out_trade_no, %error, "a payment stays unchecked");
                    sum.failed = sum.failed.saturating_add(1);
                }
            }
        }
        // Each one that was asked about has its next query in the future, so the list shrinks.
        if found < usize::try_from(BATCH).unwrap_or(0) || sum.failed > 0 {
            sum.remaining = sum.failed > 0;
            return Reply::of(&sum);
        }
    }
}
