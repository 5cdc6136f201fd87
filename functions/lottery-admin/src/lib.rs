//! `lotteryAdmin`: creates and changes draw activities, enters public beacons, statistics.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;

pub fn function() -> Function {
    Function::new("lotteryAdmin", handle)
        .summary("抢签活动管理")
        .accepts(&[Accept::Staff("lottery"), Accept::Service("lottery")])
        .needs(&[Need::Store])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

async fn handle(_ctx: Context, _input: Input) -> Result<Reply, Failure> {
    Err(Failure::Unavailable("not there yet".into()))
}
