//! `staff`: whom the CRM assigns customers to.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;

pub fn function() -> Function {
    Function::new("staff", handle)
        .summary("接收通知的员工")
        .accepts(&[Accept::Service("notify"), Accept::Staff("staff")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

async fn handle(_ctx: Context, _input: Input) -> Result<Reply, Failure> {
    Err(Failure::invariant("not built yet"))
}
