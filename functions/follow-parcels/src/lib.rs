//! `followParcels` (timer): subscribes to the news of parcels, and asks about those that nothing was heard of for a day.

use std::time::Duration;

use chrono::TimeDelta;
use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::deliver::Deliverer;
use shop::parcels;

pub fn function() -> Function {
    Function::new("followParcels", handle)
        .summary("定时订阅物流，补查久无消息的包裹")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    /// Subscriptions that were taken.
    subscribed: u64,
    retried: u64,
    skipped: u64,
    dead: u64,
    /// Parcels that were asked about.
    asked: u64,
}

const SUBSCRIPTIONS: u32 = 500;
const QUERIES: i64 = 100;
/// News come about every four hours as long as there are any, and some get lost.
const SILENT: TimeDelta = TimeDelta::hours(24);
/// Older ones are left to whoever asks about them.
const FORGOTTEN: TimeDelta = TimeDelta::days(60);
/// No exchange is begun that could not end in time.
const TIME_FOR_ONE: Duration = Duration::from_secs(15);

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let Some(account) = ctx.kuaidi100() else { return Reply::of(&Output::default()) };
    let clock = || ctx.app.clock.now();
    let deliverer = Deliverer {
        store: ctx.store(),
        pay: None,
        open: None,
        sms: None,
        kuaidi100: Some(account),
        text_template: None,
        templates: &[],
        tells: &ctx.rules().tells,
        clock: &clock,
    };
    let stop = ctx.deadline.checked_sub(TIME_FOR_ONE).unwrap_or(ctx.deadline);
    let sum = deliverer.deliver_due_of(parcels::KIND, SUBSCRIPTIONS, stop).await?;
    let mut asked = 0u64;
    let silent = ctx.store().silent_parcels(ctx.now - SILENT, ctx.now - FORGOTTEN, QUERIES).await?;
    for parcel in silent {
        if ctx.time_left() < TIME_FOR_ONE {
            break;
        }
        parcels::look(ctx.store(), Some(account), &ctx.rules().tells, parcel, None, ctx.now).await?;
        asked = asked.saturating_add(1);
    }
    Reply::of(&Output { subscribed: sum.delivered, retried: sum.retried, skipped: sum.skipped, dead: sum.dead, asked })
}
