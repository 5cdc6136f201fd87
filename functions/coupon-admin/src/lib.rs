//! `couponAdmin`: issues coupons, changes and pauses them, gives them to users, counts them.

mod input;

use std::collections::BTreeMap;

use domain::coupon::Definition;
use domain::{Code, CouponId, Failure, OpenId, Refusal};
use edge::{Accept, Context, Function, Need, Reply};
use serde::Serialize;
use shop::coupons::CouponView;
use shop::members::active_member;
use store::coupons::{Claim, Coupon, Via};
use store::page::PageRequest;

use input::{Action, Input};

/// Users per call.
const GRANTS_MAX: usize = 100;

pub fn function() -> Function {
    Function::new("couponAdmin", handle)
        .summary("优惠券管理")
        .accepts(&[Accept::Staff("coupons"), Accept::Service("coupons")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CouponOutput {
    coupon_id: String,
    coupon: CouponView,
    message: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<CouponView>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Granted {
    open_id: String,
    /// `granted` or `refused`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_coupon_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GrantOutput {
    granted: usize,
    refused: usize,
    results: Vec<Granted>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatsOutput {
    coupon_id: String,
    /// Handed out in all.
    claimed: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<i64>,
    /// By state.
    states: BTreeMap<&'static str, i64>,
}

fn output(coupon: &Coupon, message: &'static str, replayed: bool) -> Result<Reply, Failure> {
    let output = CouponOutput { coupon_id: coupon.id.as_str().to_owned(), coupon: coupon.into(), message };
    Ok(Reply::of(&output)?.with_replayed(replayed))
}

fn not_found() -> Refusal {
    Refusal::new(Code::NotFound).with_message("优惠券不存在")
}

/// Whether two definitions are the same but for their version.
fn same(a: &Definition, b: &Definition) -> bool {
    let mut b = b.clone();
    b.terms.version = a.terms.version;
    *a == b
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::Create => create(&ctx, input).await,
        Action::Update => update(&ctx, input).await,
        Action::Pause => {
            let id = input.id()?;
            let paused = input.paused.unwrap_or(true);
            if !ctx.store().pause_coupon(&id, paused, ctx.now).await? {
                return Err(not_found().into());
            }
            let coupon = ctx.store().coupon(&id).await?.ok_or_else(not_found)?;
            output(&coupon, if paused { "已停止领取" } else { "已恢复领取" }, false)
        }
        Action::Grant => grant(&ctx, input).await,
        Action::List => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let page = ctx.store().coupons(&request).await?.map(|c| CouponView::from(&c));
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Stats => {
            let id = input.id()?;
            let coupon = ctx.store().coupon(&id).await?.ok_or_else(not_found)?;
            let states = ctx.store().coupon_stats(&id).await?.into_iter().map(|(s, n)| (s.as_str(), n)).collect();
            let left = coupon.total.map(|total| total.saturating_sub(coupon.claimed).max(0));
            Reply::of(&StatsOutput { coupon_id: id.as_str().to_owned(), claimed: coupon.claimed, left, states })
        }
    }
}

/// The id is the natural key: the same definition again is answered as it stands, another one under the id is refused.
async fn create(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let id = input.id()?;
    let definition = input.definition(id.clone(), 1)?;
    let coupon = Coupon::new(definition.clone(), ctx.now);
    let key = ctx.command_key();
    let made = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let coupon = &coupon;
            Box::pin(async move {
                tx.insert_coupon(coupon).await?;
                Ok(CouponView::from(coupon))
            })
        })
        .await;
    match made {
        Ok(done) => {
            let coupon_id = done.value.coupon_id.clone();
            let output = CouponOutput { coupon_id, coupon: done.value, message: "优惠券已创建" };
            Ok(Reply::of(&output)?.with_replayed(done.replayed))
        }
        Err(error) if error.is_duplicate_of("coupons") => {
            let there = ctx.store().coupon(&id).await?.ok_or_else(|| Refusal::new(Code::Conflict))?;
            if same(&definition, &there.definition()?) {
                return output(&there, "优惠券已创建", true);
            }
            Err(Refusal::new(Code::Conflict).with_message("该编号的优惠券已存在").into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whoever edits names the version that they saw; what users hold keeps its terms.
async fn update(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let id = input.id()?;
    let version = input.version.ok_or_else(|| Refusal::invalid("version", "请填写 version"))?;
    let there = ctx.store().coupon(&id).await?.ok_or_else(not_found)?;
    let definition = input.definition(id.clone(), version)?;
    if there.terms.version == version.saturating_add(1) && same(&definition, &there.definition()?) {
        return output(&there, "优惠券已修改；已领取的按原规则使用", true);
    }
    if definition.total.is_some_and(|total| total < there.claimed) {
        return Err(Refusal::invalid("coupon.total", format!("已发出 {} 张，总数不能更少", there.claimed)).into());
    }
    let edited = Coupon::new(definition, there.created_at);
    if !ctx.store().edit_coupon(&edited, version, ctx.now).await? {
        return Err(Refusal::new(Code::Conflict).with_message("优惠券刚被修改，请查看后再试").into());
    }
    let coupon = ctx.store().coupon(&id).await?.ok_or_else(not_found)?;
    output(&coupon, "优惠券已修改；已领取的按原规则使用", false)
}

async fn grant(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let id = input.id()?;
    // Nothing else tells a repeat from a second gift.
    let key = ctx.command_key().ok_or_else(|| Refusal::invalid("requestId", "发放优惠券须带 requestId"))?;
    let users = input.open_ids.unwrap_or_default();
    if !(1..=GRANTS_MAX).contains(&users.len()) {
        return Err(Refusal::invalid("openIds", format!("openIds 应有 1 到 {GRANTS_MAX} 个")).into());
    }
    ctx.store().coupon(&id).await?.ok_or_else(not_found)?;
    // What the command is, before anything of it is done: each gift is repeated under its own key, but other people under the same
    // key would be another command.
    ctx.store().once(Some(&key), ctx.now, |_, _| Box::pin(async { Ok(()) })).await?;
    let mut results = Vec::with_capacity(users.len());
    for open_id in users {
        let result = match one_grant(ctx, &id, &open_id, key.id()).await {
            Ok(user_coupon_id) => {
                Granted { open_id, status: "granted", user_coupon_id: Some(user_coupon_id), code: None, message: None }
            }
            Err(Failure::Refused(refusal)) => Granted {
                open_id,
                status: "refused",
                user_coupon_id: None,
                code: Some(refusal.code.as_str()),
                message: Some(refusal.message.to_string()),
            },
            // What was given stays given; the same call again goes on.
            Err(failure) => return Err(failure),
        };
        results.push(result);
    }
    let granted = results.iter().filter(|r| r.status == "granted").count();
    let refused = results.len().saturating_sub(granted);
    Reply::of(&GrantOutput { granted, refused, results })
}

async fn one_grant(ctx: &Context, id: &CouponId, open_id: &str, key: &str) -> Result<String, Failure> {
    let open_id = OpenId::parse(open_id).map_err(|_| Refusal::invalid("openIds", "openId 格式不正确"))?;
    let member = active_member(ctx.store(), &open_id, Code::NotFound).await?;
    let request_key = format!("{key}|{}", member.id);
    let claim = Claim {
        coupon: id,
        user: &member.id,
        open_id: &member.open_id,
        via: Via::Grant,
        request_key: Some(&request_key),
    };
    let (coupon, _replayed) = ctx.store().claim_coupon(&claim, ctx.now).await?;
    Ok(coupon.id.as_str().to_owned())
}
