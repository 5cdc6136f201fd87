//! `lotteryAdmin`: creates and changes draw activities, enters public beacons, statistics.

mod input;

use domain::{Code, Failure, Refusal};
use edge::{Accept, Context, Function, Need, Reply};
use serde::{Deserialize, Serialize};
use shop::lottery::named;
use shop::lottery::publish::Publisher;
use shop::views::iso;
use store::lottery::{Activity, ActivityStatus, Round, RoundStatus};
use store::page::PageRequest;

use input::{Action, Input, checked_activity, public_value};

pub fn function() -> Function {
    Function::new("lotteryAdmin", handle)
        .summary("抢签活动管理")
        .accepts(&[Accept::Staff("lottery"), Accept::Service("lottery")])
        .needs(&[Need::Store, Need::Session, Need::FieldKeys, Need::Drand])
}

/// An activity as it stands; also what is remembered for a repeat.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    activity_id: String,
    activity: serde_json::Value,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActivityOutput {
    #[serde(flatten)]
    done: Done,
    /// Rounds that are published and will take place as they are.
    announced_rounds: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoundView {
    round_id: String,
    activity_id: String,
    activity_name: String,
    status: RoundStatus,
    opened_at: String,
    closed_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    drawn_at: Option<String>,
    entries: Option<i64>,
    winners: Option<i64>,
    /// Winners who have their rights.
    granted: i64,
    /// Tickets that neither won nor moved up.
    waiting: i64,
    beacon: domain::draw::BeaconRule,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_value: Option<String>,
}

impl From<Round> for RoundView {
    fn from(round: Round) -> Self {
        let drawn = round.status.is_drawn();
        Self {
            status: round.status,
            opened_at: iso(round.opens_at),
            closed_at: iso(round.closes_at),
            drawn_at: round.drawn_at.map(iso),
            entries: round.n,
            winners: round.k,
            granted: round.next_rank,
            waiting: if drawn { round.tickets().saturating_sub(round.next_waiting) } else { 0 },
            beacon: round.rules.beacon,
            public_value: round.public_value,
            round_id: round.id,
            activity_id: round.activity_id,
            activity_name: round.activity_name,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<RoundView>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    activity_id: String,
    rounds: i64,
    entries: i64,
    winners: i64,
    active: i64,
    used: i64,
    expired: i64,
    waiting: i64,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::Create => create(ctx, input).await,
        Action::Update => update(ctx, input).await,
        Action::Delete => delete(ctx, input).await,
        Action::Records => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let activity = input.activity_id.map(|id| named("activityId", Some(id))).transpose()?;
            let page = ctx.store().rounds(activity.as_deref(), &request).await?.map(RoundView::from);
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Stats => stats(ctx, input).await,
        Action::Beacon => beacon(ctx, input).await,
    }
}

async fn create(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let wish = input.activity.ok_or_else(|| Refusal::invalid("activity", "请填写 activity"))?;
    let id = format!("la{:020x}", rand::random::<u128>() >> 48);
    let activity = checked_activity(ctx.store(), wish, id, ctx.now).await?;
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let activity = &activity;
            Box::pin(async move {
                tx.insert_activity(activity).await?;
                Ok(described(activity, "活动已创建"))
            })
        })
        .await?;
    finish(&ctx, done.value, done.replayed).await
}

async fn update(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let id = named("activityId", input.activity_id)?;
    let wish = input.activity.ok_or_else(|| Refusal::invalid("activity", "请填写 activity"))?;
    let old = ctx.store().activity(&id).await?.ok_or_else(not_found)?;
    let mut activity = checked_activity(ctx.store(), wish.over(&old), id, ctx.now).await?;
    activity.created_at = old.created_at;
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (activity, read) = (&activity, old.updated_at);
            Box::pin(async move {
                if !tx.update_activity(activity, read).await? {
                    return Err(Refusal::new(Code::Conflict).with_message("活动已删除或刚被修改，请查看后再试").into());
                }
                Ok(described(activity, "活动已修改；已公布的场次按原规则进行"))
            })
        })
        .await?;
    finish(&ctx, done.value, done.replayed).await
}

async fn delete(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let id = named("activityId", input.activity_id)?;
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, now) = (&id, ctx.now);
            Box::pin(async move {
                if !tx.delete_activity(id, now).await? {
                    return Err(Refusal::new(Code::NotFound).with_message("活动不存在").into());
                }
                let activity = tx.activity(id).await?;
                let activity = activity.ok_or_else(|| Refusal::new(Code::NotFound))?;
                Ok(described(&activity, "活动已停止；已公布的场次仍会进行到底"))
            })
        })
        .await?;
    finish(&ctx, done.value, done.replayed).await
}

/// Publishes what the change calls for and answers.
async fn finish(ctx: &Context, done: Done, replayed: bool) -> Result<Reply, Failure> {
    let publisher = Publisher { store: ctx.store(), keys: ctx.field_keys()?, chain: ctx.drand()?.chain() };
    let announced_rounds = match ctx.store().activity(&done.activity_id).await? {
        Some(activity) => publisher.publish(&activity, ctx.now).await?.into_iter().map(|r| r.id).collect(),
        None => Vec::new(),
    };
    Ok(Reply::of(&ActivityOutput { done, announced_rounds })?.with_replayed(replayed))
}

async fn stats(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let id = named("activityId", input.activity_id)?;
    ctx.store().activity(&id).await?.ok_or_else(not_found)?;
    let (totals, open) = ctx.store().round_totals(&id).await?;
    let mut entries = totals.entries;
    for round in &open {
        entries = entries.saturating_add(ctx.store().count_tickets(round).await?);
    }
    let rights = ctx.store().right_totals(&id).await?;
    let count = |status: &str| rights.get(status).copied().unwrap_or(0);
    Reply::of(&Stats {
        rounds: totals.rounds,
        entries,
        winners: totals.winners,
        active: count("active"),
        used: count("used"),
        expired: count("expired"),
        waiting: totals.waiting,
        activity_id: id,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BeaconOutput {
    round_id: String,
    value: String,
    /// As it is mixed in.
    beacon: String,
}

async fn beacon(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let id = named("roundId", input.round_id)?;
    let value = public_value(input.value)?;
    let store = ctx.store();
    let missing = || Refusal::new(Code::NotFound).with_message("场次不存在");
    let round = store.round(&id).await?.ok_or_else(missing)?;
    if round.rules.beacon.source != domain::draw::BeaconSource::Public {
        return Err(Refusal::invalid("roundId", "本场不使用公开数据作为信标").into());
    }
    let conflict = |message: &'static str| Failure::from(Refusal::new(Code::Conflict).with_message(message));
    if ctx.now < round.closes_at {
        return Err(conflict("报名截止后才能录入公开数据"));
    }
    if round.public_value.is_none() && round.deadline().is_some_and(|deadline| deadline <= ctx.now) {
        return Err(conflict("已过录入期限，本场作废"));
    }
    // Whoever knows the figure must not be able to add a ticket, whatever another process's clock says.
    store.freeze_round(&id, ctx.now).await?;
    let first = store.enter_public_value(&id, &value, ctx.now).await?;
    if !first {
        let stands = store.round(&id).await?.and_then(|r| r.public_value);
        match stands {
            Some(stands) if stands == value => {}
            Some(_) => return Err(conflict("本场的公开数据已录入，不能更改")),
            None => return Err(conflict("已过录入期限，本场作废")),
        }
    }
    let beacon = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    Ok(Reply::of(&BeaconOutput { round_id: id, value, beacon })?.with_replayed(!first))
}

fn not_found() -> Failure {
    Refusal::new(Code::NotFound).with_message("活动不存在").into()
}

fn described(activity: &Activity, message: &str) -> Done {
    let view = serde_json::json!({
        "_id": activity.id,
        "activityId": activity.id,
        "activityName": activity.activity_name,
        "productId": activity.product_id.as_str(),
        "skuId": activity.sku_id.as_ref().map(|s| s.as_str()),
        "windows": activity.windows,
        "startTime": iso(activity.start_time),
        "endTime": iso(activity.end_time),
        "mode": activity.mode,
        "winRateBp": activity.win_rate_bp,
        "quota": activity.quota,
        "qualificationMinutes": activity.qualification_minutes,
        "quantity": activity.quantity,
        "beacon": activity.beacon,
        "unused": activity.unused,
        "status": if activity.status == ActivityStatus::Active { "active" } else { "deleted" },
        "createdAt": iso(activity.created_at),
        "updatedAt": iso(activity.updated_at),
    });
    Done { activity_id: activity.id.clone(), activity: view, message: message.to_owned() }
}
