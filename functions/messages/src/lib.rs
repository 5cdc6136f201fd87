//! `messages`: messages and the receipts of their delivery.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;

pub fn function() -> Function {
    Function::new("messages", handle)
        .summary("消息与投递回执")
        .accepts(&[Accept::User, Accept::Service("notify"), Accept::Staff("messages")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

async fn handle(_ctx: Context, _input: Input) -> Result<Reply, Failure> {
    Err(Failure::invariant("not built yet"))
}
