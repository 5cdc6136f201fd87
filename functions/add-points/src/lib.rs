//! `addPoints`: gives points to a member or takes them, by the CRM or by staff.

use domain::{Code, Failure, OpenId, OrderId, Points, Refusal, UserId, text};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::owed;
use store::book::{self, Entry};
use store::members::{Member, PointsLog};
use store::{Error, Tx};

pub fn function() -> Function {
    Function::new("addPoints", handle)
        .summary("增加或扣减积分")
        .accepts(&[Accept::Service("points"), Accept::Staff("points")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Earn,
    Spend,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    /// Either this or `openId`.
    user_id: Option<String>,
    open_id: Option<String>,
    /// Whole and not 0. To `spend`, old clients send it negative; both signs take points away.
    points: i64,
    #[serde(rename = "type")]
    kind: Kind,
    reason: String,
    /// With it, and without `requestId`, the same order, type and reason counts once.
    order_id: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    /// After the change, and after what the member owed was taken.
    points: i64,
    change: i64,
    log_id: String,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let change = signed(input.points, input.kind)?;
    let reason = text::required("reason", &input.reason, 100)?;
    let order_id = match input.order_id.as_deref() {
        None | Some("") => None,
        Some(id) => Some(OrderId::parse(id).map_err(|_| Refusal::invalid("orderId", "orderId 格式不正确"))?),
    };

    let member = find(&ctx, input.user_id.as_deref(), input.open_id.as_deref()).await?;

    let key = ctx.command_key();
    let id = entry_id(&member.id, key.as_ref().map(store::CommandKey::id), order_id.as_ref(), input.kind, &reason);
    let mut entry = Entry::new(id.clone(), ctx.now).user(&member.id).transfer(
        "points",
        book::ISSUED,
        &book::member_account(&member.id, "points"),
        change,
    );
    entry.order_id = order_id.clone();
    let log = |points: i64| PointsLog {
        id: id.clone(),
        user_id: member.id.clone(),
        open_id: member.open_id.clone(),
        change,
        points,
        log_type: if change > 0 { "earn" } else { "spend" }.to_owned(),
        reason: reason.clone(),
        order_id: order_id.clone(),
        entry_id: id.clone(),
        created_at: ctx.now,
    };

    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, entry, member, log) = (&id, &entry, &member, &log);
            Box::pin(async move {
                if let Some(earlier) = tx.points_log(id).await? {
                    return if earlier.change == change {
                        Ok((output(tx, &earlier).await?, true))
                    } else {
                        Err(Code::Conflict.into())
                    };
                }
                let after = tx.post(entry).await?;
                let row = log(after.get(&book::member_account(&member.id, "points")).copied().unwrap_or(0));
                tx.insert_points_log(&row).await?;
                owed::collect(tx, entry, &after, ctx.now).await?;
                Ok((output(tx, &row).await?, false))
            })
        })
        .await?;
    let (output, repeated) = done.value;
    Ok(Reply::of(&output)?.with_replayed(done.replayed || repeated))
}

async fn output(tx: &mut Tx, log: &PointsLog) -> Result<Output, Error> {
    let repaid = tx.points_log(&owed::points_key(&log.id)).await?;
    let points = repaid.map_or(log.points, |repaid| repaid.points);
    Ok(Output { points, change: log.change, log_id: log.id.clone() })
}

fn signed(points: i64, kind: Kind) -> Result<i64, Refusal> {
    let bad = |reason: &'static str| Refusal::invalid("points", reason);
    if points == 0 {
        return Err(bad("points 不能为 0"));
    }
    let size = points.checked_abs().and_then(|n| Points::new(n).ok()).ok_or_else(|| bad("points 超出范围"))?.get();
    match kind {
        Kind::Earn if points < 0 => Err(bad("type 为 earn 时 points 应为正数")),
        Kind::Earn => Ok(size),
        Kind::Spend => Ok(size.saturating_neg()),
    }
}

/// The natural key: the command's own, else the order with type and reason, else none and every call counts.
fn entry_id(user: &UserId, command: Option<&str>, order: Option<&OrderId>, kind: Kind, reason: &str) -> String {
    let kind = if kind == Kind::Earn { "earn" } else { "spend" };
    match (command, order) {
        (Some(command), _) => format!("points:{command}:{kind}"),
        (None, Some(order)) => format!("points:{}|{order}|{reason}:{kind}", user.as_str()),
        (None, None) => format!("points:{:032x}:{kind}", rand::random::<u128>()),
    }
}

async fn find(ctx: &Context, user_id: Option<&str>, open_id: Option<&str>) -> Result<Member, Failure> {
    let found = match (user_id, open_id) {
        (Some(id), None) => {
            let id = UserId::parse(id).map_err(|_| Refusal::invalid("userId", "userId 格式不正确"))?;
            ctx.store().member(&id).await?
        }
        (None, Some(id)) => {
            let id = OpenId::parse(id).map_err(|_| Refusal::invalid("openId", "openId 格式不正确"))?;
            ctx.store().member_by_open_id(&id).await?
        }
        _ => return Err(Refusal::invalid("userId", "请指定 userId 或 openId 之一").into()),
    };
    found.ok_or_else(|| Refusal::new(Code::NotFound).with_message("用户不存在").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_clients_may_spend_with_either_sign() {
        for (points, kind, change) in [
            (5, Kind::Earn, Some(5)),
            (5, Kind::Spend, Some(-5)),
            (-5, Kind::Spend, Some(-5)),
            (-5, Kind::Earn, None),
            (0, Kind::Earn, None),
            (i64::MIN, Kind::Spend, None),
        ] {
            assert_eq!(signed(points, kind).ok(), change);
        }
    }
}
