//! `expireCoins` (timer): writes off coins that have expired. They cannot be spent any more before it runs.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub fn function() -> Function {
    Function::new("expireCoins", handle)
        .summary("定时作废到期的活动币")
        .accepts(&[Accept::Timer, Accept::Service("coins")])
        .needs(&[Need::Store])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    expired_lots: i64,
    expired_coins: i64,
    batches: u64,
    /// Whether there is more to write off: the next run goes on.
    remaining: bool,
}

const BATCH: i64 = 1_000;

/// A batch may be retried for eight seconds; one more is begun only while that fits.
const BATCH_TIME: Duration = Duration::from_secs(12);

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let mut sum = Output::default();
    let mut skip = 0;
    loop {
        if ctx.time_left() < BATCH_TIME {
            sum.remaining = true;
            return Reply::of(&sum);
        }
        let swept = match ctx.store().expire_coins(BATCH, skip, ctx.now).await.map_err(Failure::from) {
            Ok(swept) => swept,
            // Whatever is committed stays; the next run finds the rest.
            Err(Failure::Unavailable(error)) if sum.batches > 0 => {
                tracing::warn!(%error, "stopped writing off coins");
                sum.remaining = true;
                return Reply::of(&sum);
            }
            Err(failure) => return Err(failure),
        };
        if swept.lots == 0 {
            return Reply::of(&sum);
        }
        skip = swept.skipped;
        sum.batches = sum.batches.saturating_add(1);
        sum.expired_lots = sum.expired_lots.saturating_add(swept.lots);
        sum.expired_coins = sum.expired_coins.saturating_add(swept.coins);
    }
}
