//! `expireCoins` (timer): writes off coins that have expired, and reminds of those that soon will. Expired coins cannot be spent any
//! more before it runs.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::reminders::remind;

pub fn function() -> Function {
    Function::new("expireCoins", handle)
        .summary("定时作废到期的活动币，提醒即将到期的")
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
    /// Members who were told that coins of theirs expire soon.
    reminded: i64,
    /// Whether there is more to do: the next run goes on.
    remaining: bool,
}

const BATCH: i64 = 1_000;

/// Lots that are looked at in one go before they expire.
const REMINDERS: i64 = 500;

/// A batch of each may be retried for eight seconds; more are begun only while that fits.
const BATCH_TIME: Duration = Duration::from_secs(20);

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let mut sum = Output::default();
    let mut skip = 0;
    let (mut expiring, mut reminding) = (true, true);
    // In turns, so that neither waits until the other has nothing to do.
    while expiring || reminding {
        if ctx.time_left() < BATCH_TIME {
            sum.remaining = true;
            break;
        }
        if expiring {
            let swept = match ctx.store().expire_coins(BATCH, skip, ctx.now).await.map_err(Failure::from) {
                Ok(swept) => swept,
                // Whatever is committed stays; the next run finds the rest.
                Err(Failure::Unavailable(error)) if sum.batches > 0 => {
                    tracing::warn!(%error, "stopped writing off coins");
                    sum.remaining = true;
                    break;
                }
                Err(failure) => return Err(failure),
            };
            expiring = swept.lots > 0;
            skip = swept.skipped;
            sum.batches = sum.batches.saturating_add(u64::from(expiring));
            sum.expired_lots = sum.expired_lots.saturating_add(swept.lots);
            sum.expired_coins = sum.expired_coins.saturating_add(swept.coins);
        }
        if reminding {
            match remind(ctx.store(), &ctx.rules().tells, REMINDERS, ctx.now).await {
                Ok(reminded) => {
                    reminding = reminded.lots > 0;
                    sum.reminded = sum.reminded.saturating_add(reminded.messages);
                }
                // Coins are written off all the same; the cursor stays for the next run.
                Err(error) => {
                    tracing::error!(?error, "stopped reminding of coins");
                    (reminding, sum.remaining) = (false, true);
                }
            }
        }
    }
    Reply::of(&sum)
}
