//! `coupons`: what can be claimed, what a user holds, and what each of those saves on some goods.

use domain::coupon::{Goods, Held, apply, best};
use domain::machine::coupon::State;
use domain::{Code, CouponId, Failure, Fen, ProductId, Refusal, SkuId, Yuan};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::coupons::{CouponView, UserCouponView};
use shop::members::active_member;
use shop::offers::Offer;
use store::coupons::{Claim, UserCoupon, Via};
use store::members::Member;
use store::page::PageRequest;

/// Coupons that are tried on some goods at most: those that expire first.
const TRIED_MAX: i64 = 100;

/// As in `submitOrder`.
const ITEMS_MAX: usize = 100;
const QUANTITY_MAX: i64 = 9_999;

pub fn function() -> Function {
    Function::new("coupons", handle)
        .summary("优惠券：可领、领取、我的、试算、最优")
        .accepts(&[Accept::User])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    /// What can be claimed now.
    List,
    Claim,
    Mine,
    /// What each coupon saves on the goods, or why it does not fit.
    Preview,
    /// The coupon that saves most on the goods.
    Best,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `claim`.
    coupon_id: Option<String>,
    /// For `mine`: `unused`, `locked`, `used` or `expired`; all unless given.
    #[schemars(with = "Option<String>")]
    status: Option<State>,
    /// For `preview` and `best`: 1 to 100 lines.
    items: Option<Vec<ItemInput>>,
    /// For `list` and `mine`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list` and `mine`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ItemInput {
    product_id: String,
    sku_id: Option<String>,
    quantity: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClaimOutput {
    user_coupon_id: String,
    coupon: UserCouponView,
    message: &'static str,
}

/// A coupon tried on goods.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tried {
    #[serde(flatten)]
    coupon: UserCouponView,
    fits: bool,
    /// What it takes off goods and freight.
    saving: Yuan,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    /// What the goods lack to the threshold.
    #[serde(skip_serializing_if = "Option::is_none")]
    lacks: Option<Yuan>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PreviewOutput {
    goods_amount: Yuan,
    /// The coupon that saves most; none if none fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    best_user_coupon_id: Option<String>,
    saving: Yuan,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<Tried>>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let open_id = ctx.caller.acting_open_id(None)?;
    let member = active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
    match input.action {
        Action::List => {
            let page = ctx.store().claimable_coupons(ctx.now, &request).await?.map(|c| CouponView::from(&c));
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Claim => claim(&ctx, &member, input.coupon_id).await,
        Action::Mine => {
            let status = input.status.filter(|s| *s != State::Claiming);
            let page = ctx.store().user_coupons(&member.id, status, &request).await?.map(|c| UserCouponView::from(&c));
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Preview => preview(&ctx, &member, input.items, true).await,
        Action::Best => preview(&ctx, &member, input.items, false).await,
    }
}

async fn claim(ctx: &Context, member: &Member, id: Option<String>) -> Result<Reply, Failure> {
    let id = id.ok_or_else(|| Refusal::invalid("couponId", "请填写 couponId"))?;
    let id = CouponId::parse(&id).map_err(|_| Refusal::invalid("couponId", "couponId 格式不正确"))?;
    let key = ctx.command_key();
    let claim = Claim {
        coupon: &id,
        user: &member.id,
        open_id: &member.open_id,
        via: Via::Claim,
        request_key: key.as_ref().map(|k| k.id()),
    };
    let (coupon, replayed) = ctx.store().claim_coupon(&claim, ctx.now).await?;
    let output =
        ClaimOutput {
            user_coupon_id: coupon.id.as_str().to_owned(), coupon: (&coupon).into(), message: "领取成功"
        };
    Ok(Reply::of(&output)?.with_replayed(replayed))
}

async fn preview(ctx: &Context, member: &Member, items: Option<Vec<ItemInput>>, all: bool) -> Result<Reply, Failure> {
    let wanted = wanted(items.unwrap_or_default())?;
    let ids: Vec<ProductId> = wanted.iter().map(|(product, _, _)| product.clone()).collect();
    let products = ctx.store().products_by_id(&ids).await?;
    let mut lines = Vec::with_capacity(wanted.len());
    for (i, (product, sku, quantity)) in wanted.iter().enumerate() {
        let line = Offer::find(i, product, sku.as_ref(), &products)?.line(*quantity);
        let amount = line.price.checked_mul(*quantity).map_err(|_| too_large())?;
        lines.push((line, amount));
    }
    let goods: Vec<Goods<'_>> = lines
        .iter()
        .map(|(line, amount)| Goods { product: &line.product_id, category: &line.category, amount: *amount })
        .collect();
    let total = Fen::sum(goods.iter().map(|g| g.amount)).map_err(|_| too_large())?;
    let freight = Fen::ZERO;
    let coupons = ctx.store().usable_coupons(&member.id, ctx.now, TRIED_MAX).await?;
    let held: Vec<Held> = coupons.iter().map(UserCoupon::held).collect();
    let best = best(&held, &goods, freight, ctx.now);
    let tried = |(coupon, held): (&UserCoupon, &Held)| {
        let tried = apply(held, &goods, freight, ctx.now);
        let unfit = tried.as_ref().err();
        Tried {
            coupon: coupon.into(),
            fits: tried.is_ok(),
            saving: Yuan(tried.as_ref().map_or(Fen::ZERO, |s| s.total())),
            reason: unfit.map(|u| u.reason.as_str()),
            message: unfit.map(|u| u.reason.message()),
            lacks: unfit.and_then(|u| u.lacks).map(Yuan),
        }
    };
    Reply::of(&PreviewOutput {
        goods_amount: Yuan(total),
        best_user_coupon_id: best.as_ref().and_then(|(i, _)| held.get(*i)).map(|h| h.id.as_str().to_owned()),
        saving: Yuan(best.as_ref().map_or(Fen::ZERO, |(_, saving)| saving.total())),
        data: all.then(|| coupons.iter().zip(&held).map(tried).collect()),
    })
}

fn too_large() -> Refusal {
    Refusal::invalid("items", "订单金额超出范围")
}

fn wanted(items: Vec<ItemInput>) -> Result<Vec<(ProductId, Option<SkuId>, i64)>, Refusal> {
    if items.is_empty() {
        return Err(Refusal::invalid("items", "请选择商品"));
    }
    if items.len() > ITEMS_MAX {
        return Err(Refusal::invalid("items", format!("一个订单最多 {ITEMS_MAX} 行商品")));
    }
    let parse = |(i, item): (usize, ItemInput)| {
        let bad = |name: &str| Refusal::invalid(&format!("items[{i}].{name}"), format!("{name} 格式不正确"));
        if !(1..=QUANTITY_MAX).contains(&item.quantity) {
            let message = format!("数量应在 1 到 {QUANTITY_MAX} 之间");
            return Err(Refusal::invalid(&format!("items[{i}].quantity"), message));
        }
        let sku = item.sku_id.as_deref().filter(|s| !s.is_empty());
        let sku = sku.map(SkuId::parse).transpose().map_err(|_| bad("skuId"))?;
        Ok((ProductId::parse(&item.product_id).map_err(|_| bad("productId"))?, sku, item.quantity))
    };
    items.into_iter().enumerate().map(parse).collect()
}
