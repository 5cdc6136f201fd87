//! `notifyAssignment`: tells staff which customers they were assigned.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;

pub fn function() -> Function {
    Function::new("notifyAssignment", handle)
        .summary("客户分配通知")
        .accepts(&[Accept::Service("notify"), Accept::Staff("notify")])
        .needs(&[Need::Store, Need::Session, Need::OpenApi])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

async fn handle(_ctx: Context, _input: Input) -> Result<Reply, Failure> {
    Err(Failure::invariant("not built yet"))
}
