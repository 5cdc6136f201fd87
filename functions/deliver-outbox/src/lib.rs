//! `deliverOutbox` (timer): delivers what waits for the outside world.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::deliver::deliver_due;
use shop::messages::Messenger;

pub fn function() -> Function {
    Function::new("deliverOutbox", handle)
        .summary("定时投递发件箱")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store, Need::Pay, Need::OpenApi])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Serialize)]
struct Output {
    delivered: u64,
    retried: u64,
    dead: u64,
    pending: u64,
}

const LIMIT: u32 = 500;

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    // One delivery may take three calls of WeChat; none may begin that could not end in time.
    let stop = ctx.deadline.checked_sub(Duration::from_secs(25)).unwrap_or(ctx.deadline);
    let messenger = Messenger { client: ctx.open_api()?, templates: &ctx.app.config.templates };
    let sum = deliver_due(ctx.store(), ctx.pay()?, Some(&messenger), LIMIT, stop, ctx.now).await?;
    let pending = ctx.store().outbox_pending().await?;
    Reply::of(&Output { delivered: sum.delivered, retried: sum.retried, dead: sum.dead, pending })
}
