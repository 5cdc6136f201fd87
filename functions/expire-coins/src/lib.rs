//! `expireCoins`: writes off coins that have expired.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;

pub fn function() -> Function {
    Function::new("expireCoins", handle)
        .summary("定时作废到期的活动币")
        .accepts(&[Accept::Timer, Accept::Service("coins")])
        .needs(&[Need::Store])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

async fn handle(_ctx: Context, _input: Input) -> Result<Reply, Failure> {
    Err(Failure::Unavailable("not there yet".into()))
}
