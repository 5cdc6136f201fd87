//! `deliverOutbox` (timer): delivers what waits for the outside world.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::deliver::Deliverer;

pub fn function() -> Function {
    Function::new("deliverOutbox", handle)
        .summary("定时投递发件箱")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store, Need::Pay, Need::OpenApi, Need::Texts])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Serialize)]
struct Output {
    delivered: u64,
    retried: u64,
    skipped: u64,
    /// May have been delivered or not.
    unknown: u64,
    dead: u64,
    /// What waits now, due or not; null if it could not be counted.
    pending: Option<u64>,
}

const LIMIT: u32 = 5_000;
/// One delivery may take two calls of WeChat and, in between, the wait for another access token; none may begin that could not end
/// in time, for then its outcome would be unknown. The next run is ten seconds away.
const TIME_FOR_ONE: Duration = Duration::from_secs(45);

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let stop = ctx.deadline.checked_sub(TIME_FOR_ONE).unwrap_or(ctx.deadline);
    let clock = || ctx.app.clock.now();
    let deliverer = Deliverer {
        store: ctx.store(),
        pay: Some(ctx.pay()?),
        open: Some(ctx.open_api()?),
        // Optional: text messages without it end when they are of no use any more, and the log says that they wait.
        sms: ctx.sms().ok(),
        kuaidi100: ctx.kuaidi100(),
        text_template: ctx.app.config.assignment_sms_template.as_deref(),
        templates: &ctx.app.config.templates,
        tells: &ctx.rules().tells,
        clock: &clock,
    };
    let sum = deliverer.deliver_due(LIMIT, stop).await?;
    // What was done is done, whatever becomes of the count.
    let pending = ctx.store().outbox_pending().await.inspect_err(|error| {
        tracing::warn!(error = error.to_string(), "what waits in the outbox could not be counted");
    });
    Reply::of(&Output {
        delivered: sum.delivered,
        retried: sum.retried,
        skipped: sum.skipped,
        unknown: sum.unknown,
        dead: sum.dead,
        pending: pending.ok(),
    })
}
