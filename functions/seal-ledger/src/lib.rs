//! `sealLedger`: seals each day of the ledger with a chained hash.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;

pub fn function() -> Function {
    Function::new("sealLedger", handle)
        .summary("定时封存账本")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

async fn handle(_ctx: Context, _input: Input) -> Result<Reply, Failure> {
    Err(Failure::Unavailable("not there yet".into()))
}
