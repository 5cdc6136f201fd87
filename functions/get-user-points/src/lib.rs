//! `getUserPoints`: a member's points and statement.

use domain::{Code, Failure, Refusal, UserId, Yuan};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::members::active_member;
use shop::views;
use store::members::{Member, PointsLog};
use store::page::PageRequest;

pub fn function() -> Function {
    Function::new("getUserPoints", handle)
        .summary("查询积分与明细")
        .accepts(&[Accept::User, Accept::Service("points"), Accept::Staff("points")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    /// Services name the user by this or `userId`; a user may name only themselves.
    open_id: Option<String>,
    user_id: Option<String>,
    /// 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    points: i64,
    level: i64,
    /// Net spend that has not earned a point yet, in yuan.
    carry_amount: Yuan,
    /// Points of refunded orders that were spent; the next points pay them.
    owed: i64,
    logs: Logs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Logs {
    data: Vec<LogView>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogView {
    #[serde(rename = "_id")]
    id: String,
    change: i64,
    points: i64,
    #[serde(rename = "type")]
    log_type: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    created_at: String,
}

impl From<PointsLog> for LogView {
    fn from(log: PointsLog) -> Self {
        Self {
            id: log.id,
            change: log.change,
            points: log.points,
            log_type: log.log_type,
            reason: log.reason,
            order_id: log.order_id.map(String::from),
            created_at: views::iso(log.created_at),
        }
    }
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let member = member(&ctx, input.open_id.as_deref(), input.user_id.as_deref()).await?;
    let logs = ctx.store().points_log(&member.id, &request).await?.map(LogView::from);
    Reply::of(&Output {
        points: member.points.get(),
        level: member.level,
        carry_amount: Yuan(member.carry_fen),
        owed: member.points_owed,
        logs: Logs { data: logs.data, next_cursor: logs.next_cursor },
    })
}

async fn member(ctx: &Context, open_id: Option<&str>, user_id: Option<&str>) -> Result<Member, Failure> {
    let Some(user_id) = user_id else {
        let open_id = ctx.caller.acting_open_id(open_id)?;
        return active_member(ctx.store(), &open_id, ctx.caller.code_if_unknown()).await;
    };
    let id = UserId::parse(user_id).map_err(|_| Refusal::invalid("userId", "userId 格式不正确"))?;
    if let Caller::User { .. } = ctx.caller {
        let own = active_member(ctx.store(), &ctx.caller.acting_open_id(open_id)?, Code::Unauthenticated).await?;
        return if own.id == id { Ok(own) } else { Err(Code::Forbidden.into()) };
    }
    ctx.store().member(&id).await?.ok_or_else(|| Code::NotFound.into())
}
