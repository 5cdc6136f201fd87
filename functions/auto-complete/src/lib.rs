//! `autoComplete` (timer): completes what was shipped long ago and about which its buyer was silent.

use std::time::Duration;

use chrono::TimeDelta;
use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub fn function() -> Function {
    Function::new("autoComplete", handle)
        .summary("定时完成发货已久的订单")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    completed: u64,
    /// Whether there is more to do: the next run goes on.
    remaining: bool,
}

const BATCH: i64 = 500;

/// A batch is begun only while it fits.
const BATCH_TIME: Duration = Duration::from_secs(15);

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let before = ctx.now - TimeDelta::days(ctx.rules().auto_complete_days);
    let mut sum = Output::default();
    loop {
        if ctx.time_left() < BATCH_TIME {
            sum.remaining = true;
            break;
        }
        match ctx.store().complete_silent_orders(before, BATCH, ctx.now).await.map_err(Failure::from) {
            Ok((0, _)) => break,
            Ok((_, completed)) => sum.completed = sum.completed.saturating_add(completed),
            // What is completed stays so; the next run finds the rest.
            Err(Failure::Unavailable(error)) if sum.completed > 0 => {
                tracing::warn!(%error, "stopped completing orders");
                sum.remaining = true;
                break;
            }
            Err(failure) => return Err(failure),
        }
    }
    Reply::of(&sum)
}
