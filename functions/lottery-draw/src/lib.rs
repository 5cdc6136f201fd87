//! `lotteryDraw`: publishes rounds, draws closed ones, passes unused rights on.

use std::time::Duration;

use domain::{Code, Failure, Refusal};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::lottery::draw::Drawer;
use shop::lottery::publish::Publisher;
use shop::lottery::rights::end_expired;

pub fn function() -> Function {
    Function::new("lotteryDraw", handle)
        .summary("定时开签、递补与归还")
        .accepts(&[Accept::Timer, Accept::Service("lottery")])
        .needs(&[Need::Store, Need::FieldKeys, Need::Drand])
        .timeout(Duration::from_secs(110))
}

/// Rounds looked at in one run.
const ROUNDS: i64 = 500;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    /// Only this round.
    round_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DrawnRound {
    round_id: String,
    entries: i64,
    winners: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Skipped {
    round_id: String,
    /// `NOT_CLOSED`, `BEACON_PENDING`, `BEACON_UNAVAILABLE`, `OUT_OF_STOCK`, `OUT_OF_TIME`, `VOID` or `FAILED`.
    reason: &'static str,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    /// Drawn by this run.
    drawn: Vec<DrawnRound>,
    skipped: Vec<Skipped>,
    /// Rights whose time ran out.
    expired: i64,
    /// Of these, how many passed to the next of the waiting list.
    passed: i64,
    /// Of these, how many gave their pieces back.
    returned: i64,
    /// Whether time ran out before everything was done.
    remaining: bool,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let (store, keys, drand, tells) = (ctx.store(), ctx.field_keys()?, ctx.drand()?, &ctx.rules().tells);
    let drawer = Drawer { store, keys, drand, tells, now: ctx.now, deadline: ctx.deadline };
    let mut output = Output::default();
    let rounds = match input.round_id {
        Some(id) => {
            let missing = || Refusal::new(Code::NotFound).with_message("场次不存在");
            vec![store.round(&id).await?.ok_or_else(missing)?.id]
        }
        None => {
            Publisher { store, keys, chain: drand.chain() }.publish_all(ctx.now).await?;
            store.due_rounds(ctx.now, ROUNDS).await?
        }
    };
    for round_id in rounds {
        if !drawer.has_time() {
            output.remaining = true;
            break;
        }
        match drawer.advance(&round_id).await {
            Ok(outcome) => {
                if let Some((entries, winners)) = outcome.drawn {
                    output.drawn.push(DrawnRound { round_id: round_id.clone(), entries, winners });
                }
                if let Some(reason) = outcome.skipped {
                    output.remaining |= reason == "OUT_OF_TIME";
                    output.skipped.push(Skipped { round_id, reason });
                }
            }
            // One round that fails must not keep the others from their draw; the next run tries again.
            Err(error) => {
                tracing::error!(round = %round_id, error = ?error, "a round was not drawn");
                output.skipped.push(Skipped { round_id, reason: "FAILED" });
            }
        }
    }
    let mut failed = Vec::new();
    loop {
        if !drawer.has_time() {
            output.remaining = true;
            break;
        }
        let before = failed.len();
        let ended = end_expired(store, &mut failed, tells, ctx.now).await?;
        if ended.expired == 0 && failed.len() == before {
            break;
        }
        output.expired = output.expired.saturating_add(ended.expired);
        output.passed = output.passed.saturating_add(ended.passed);
        output.returned = output.returned.saturating_add(ended.returned);
    }
    output.skipped.extend(failed.into_iter().map(|round_id| Skipped { round_id, reason: "FAILED" }));
    Reply::of(&output)
}
