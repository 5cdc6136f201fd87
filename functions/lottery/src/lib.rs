//! `lottery`: draws for the right to buy: activities, sign-up, results, public records.

use std::sync::Arc;

use domain::draw::time_text;
use domain::{Code, Failure, OpenId, Refusal};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::lottery::named;
use shop::lottery::publish::Publisher;
use shop::lottery::record::{Lists, record, record_page, result};
use shop::lottery::signup::{Rounds, SignUp, sign_up};
use shop::members::active_member;
use shop::views::iso;
use store::lottery::{Activity, ActivityStatus, Round};
use store::page::PageRequest;

/// What one process remembers: published rounds and finished lists, which never change.
#[derive(Default)]
struct Memory {
    rounds: Rounds,
    lists: Lists,
}

pub fn function() -> Function {
    let memory = Arc::new(Memory::default());
    Function::new("lottery", move |ctx, input| handle(ctx, input, Arc::clone(&memory)))
        .summary("限时抢签：活动、报名、结果、公开记录")
        .accepts(&[Accept::User, Accept::Anonymous])
        .needs(&[Need::Store, Need::Session, Need::FieldKeys, Need::Drand])
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    #[default]
    List,
    Get,
    SignUp,
    Result,
    Record,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    #[serde(default)]
    action: Action,
    /// For `get` and `signUp`.
    activity_id: Option<String>,
    /// For `result` and `record`.
    round_id: Option<String>,
    /// For `record` of a round whose record comes in pages.
    page: Option<u64>,
    /// For `list`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoundView {
    round_id: String,
    status: domain::draw::Status,
    opened_at: String,
    closed_at: String,
    commit: String,
    rules_hash: String,
    rules: domain::draw::Rules,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActivityView {
    #[serde(rename = "_id")]
    id: String,
    activity_id: String,
    activity_name: String,
    product_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sku_id: Option<String>,
    windows: Vec<store::lottery::Window>,
    start_time: String,
    end_time: String,
    status: ActivityStatus,
    /// The round that takes sign-ups now.
    current_round: Option<RoundView>,
    next_round: Option<RoundView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<ActivityView>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SignUpOutput {
    round_id: String,
    ticket_id: String,
    status: &'static str,
    window_end: String,
}

async fn handle(ctx: Context, input: Input, memory: Arc<Memory>) -> Result<Reply, Failure> {
    match input.action {
        Action::List => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let page = ctx.store().activities(&request).await?;
            let ids: Vec<&str> = page.data.iter().map(|a| a.id.as_str()).collect();
            let known = ctx.store().coming_rounds(&ids, ctx.now).await?;
            let mut data = Vec::with_capacity(page.data.len());
            for activity in &page.data {
                let mine = known.iter().filter(|r| r.activity_id == activity.id).cloned().collect();
                let rounds = publisher(&ctx)?.complete(activity, mine, ctx.now).await?;
                data.push(view(&ctx, activity, &rounds));
            }
            Reply::of(&ListOutput { data, next_cursor: page.next_cursor })
        }
        Action::Get => {
            let id = named("activityId", input.activity_id)?;
            let found = ctx.store().activity(&id).await?;
            let activity = found.ok_or_else(|| not_found("活动不存在"))?;
            let rounds = publisher(&ctx)?.publish(&activity, ctx.now).await?;
            Reply::of(&view(&ctx, &activity, &rounds))
        }
        Action::SignUp => {
            let wish = SignUp {
                open_id: user(&ctx)?,
                activity_id: named("activityId", input.activity_id)?,
                request_key: ctx.command_key().map(|key| key.id().to_owned()),
            };
            let done = sign_up(&memory.rounds, &memory.lists, publisher(&ctx)?, &wish, ctx.now).await?;
            let output = SignUpOutput {
                round_id: done.round_id,
                ticket_id: done.ticket_id,
                status: "signedUp",
                window_end: iso(done.window_end),
            };
            Ok(Reply::of(&output)?.with_replayed(done.replayed))
        }
        Action::Result => {
            let open_id = user(&ctx)?;
            let round = round(&ctx, input.round_id).await?;
            active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
            let keys = ctx.field_keys()?;
            Reply::of(&result(ctx.store(), keys, &memory.lists, &round, &open_id, ctx.now).await?)
        }
        Action::Record => {
            let round = round(&ctx, input.round_id).await?;
            match input.page {
                Some(page) => Reply::of(&record_page(ctx.store(), &round, page).await?),
                None => Reply::of(&record(ctx.store(), &round, ctx.now).await?),
            }
        }
    }
}

fn publisher(ctx: &Context) -> Result<Publisher<'_>, Failure> {
    Ok(Publisher { store: ctx.store(), keys: ctx.field_keys()?, chain: ctx.drand()?.chain() })
}

/// Signing up and asking for one's own result are for users alone.
fn user(ctx: &Context) -> Result<OpenId, Refusal> {
    match &ctx.caller {
        Caller::User { open_id, .. } => Ok(open_id.clone()),
        _ => Err(Code::Unauthenticated.into()),
    }
}

fn not_found(message: &'static str) -> Failure {
    Refusal::new(Code::NotFound).with_message(message).into()
}

async fn round(ctx: &Context, id: Option<String>) -> Result<Round, Failure> {
    let id = named("roundId", id)?;
    ctx.store().round(&id).await?.ok_or_else(|| not_found("场次不存在"))
}

fn view(ctx: &Context, activity: &Activity, rounds: &[Round]) -> ActivityView {
    let show = |round: &Round| RoundView {
        round_id: round.id.clone(),
        status: round.public_status(ctx.now),
        opened_at: time_text(round.opens_at),
        closed_at: time_text(round.closes_at),
        commit: round.commit.clone(),
        rules_hash: round.rules_hash.clone(),
        rules: round.rules.clone(),
    };
    ActivityView {
        id: activity.id.clone(),
        activity_id: activity.id.clone(),
        activity_name: activity.activity_name.clone(),
        product_id: activity.product_id.as_str().to_owned(),
        sku_id: activity.sku_id.as_ref().map(|s| s.as_str().to_owned()),
        windows: activity.windows.clone(),
        start_time: iso(activity.start_time),
        end_time: iso(activity.end_time),
        status: activity.status,
        current_round: rounds.iter().find(|r| r.opens_at <= ctx.now && ctx.now < r.closes_at).map(show),
        next_round: rounds.iter().find(|r| ctx.now < r.opens_at).map(show),
    }
}
