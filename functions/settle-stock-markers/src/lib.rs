//! `settleStockMarkers` (timer): settles reservations and releases that a killed process left half-done.

use chrono::TimeDelta;
use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub fn function() -> Function {
    Function::new("settleStockMarkers", handle)
        .summary("定时清理中断的库存占用")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store])
        .timeout(std::time::Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    /// Markers settled.
    settled: u64,
    /// Closed orders whose pieces went back to the shelf.
    released: u64,
}

/// Well beyond any call's time limit. Correctness does not rest on it: an order and the sweeper contend for one key.
const AGE: TimeDelta = TimeDelta::minutes(2);

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let settled = ctx.store().settle_markers(AGE, ctx.now).await?;
    let released = ctx.store().release_all_stock().await?;
    Reply::of(&Output { settled, released })
}
