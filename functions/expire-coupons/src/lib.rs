//! `expireCoupons` (timer): marks coupons whose window is over, and ends claims that were left behind. An expired coupon cannot be
//! used any more before it runs.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub fn function() -> Function {
    Function::new("expireCoupons", handle)
        .summary("定时作废到期的优惠券，了结中断的领取")
        .accepts(&[Accept::Timer, Accept::Service("coupons")])
        .needs(&[Need::Store])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    expired: u64,
    /// Claims that were counted and are open now.
    opened: u64,
    /// Claims that were not counted and are gone.
    removed: u64,
    /// Counts of coupons that are gone.
    uncounted: u64,
    /// Whether there is more to do: the next run goes on.
    remaining: bool,
}

const BATCH: i64 = 1_000;

/// A batch is begun only while it fits.
const BATCH_TIME: Duration = Duration::from_secs(15);

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let settled = ctx.store().settle_claims(ctx.now, BATCH).await?;
    let (opened, removed, uncounted) = (settled.opened, settled.removed, settled.uncounted);
    let mut sum = Output { opened, removed, uncounted, ..Output::default() };
    loop {
        if ctx.time_left() < BATCH_TIME {
            sum.remaining = true;
            break;
        }
        match ctx.store().expire_coupons(ctx.now, BATCH).await.map_err(Failure::from) {
            Ok(0) => break,
            Ok(expired) => sum.expired = sum.expired.saturating_add(expired),
            // What is marked stays marked; the next run finds the rest.
            Err(Failure::Unavailable(error)) if sum.expired > 0 => {
                tracing::warn!(%error, "stopped marking coupons");
                sum.remaining = true;
                break;
            }
            Err(failure) => return Err(failure),
        }
    }
    Reply::of(&sum)
}
