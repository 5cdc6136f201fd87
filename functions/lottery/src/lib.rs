//! `lottery`: draws for the right to buy: activities, sign-up, results, public records.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;

pub fn function() -> Function {
    Function::new("lottery", handle)
        .summary("限时抢签：活动、报名、结果、公开记录")
        .accepts(&[Accept::User, Accept::Anonymous])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

async fn handle(_ctx: Context, _input: Input) -> Result<Reply, Failure> {
    Err(Failure::Unavailable("not there yet".into()))
}
