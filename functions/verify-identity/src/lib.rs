//! `verifyIdentity`: real-name verification, and erasing it.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;

pub fn function() -> Function {
    Function::new("verifyIdentity", handle)
        .summary("实名认证")
        .accepts(&[Accept::User])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

async fn handle(_ctx: Context, _input: Input) -> Result<Reply, Failure> {
    Err(Failure::Unavailable("not there yet".into()))
}
