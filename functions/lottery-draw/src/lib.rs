//! `lotteryDraw`: publishes rounds, draws closed ones, passes unused rights on.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;

pub fn function() -> Function {
    Function::new("lotteryDraw", handle)
        .summary("定时开签、递补与归还")
        .accepts(&[Accept::Timer, Accept::Service("lottery")])
        .needs(&[Need::Store])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

async fn handle(_ctx: Context, _input: Input) -> Result<Reply, Failure> {
    Err(Failure::Unavailable("not there yet".into()))
}
