//! `coupons`: what can be claimed, what a user holds, and what each of those saves on some goods.

use domain::coupon::{Goods, Held, apply, best};
use domain::machine::coupon::State;
use domain::quote::Quote;
use domain::{Code, CouponId, Failure, Fen, Refusal, Yuan, freight};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::address::{Destination, PlaceInput, place_of};
use shop::coupons::{CouponView, UserCouponView};
use shop::members::active_member;
use shop::pricing::{ItemInput, Known, Method, Priced, WishInput, price, too_large};
use shop::views::iso;
use store::coupons::{Claim, UserCoupon, Via};
use store::members::Member;
use store::page::PageRequest;

/// Coupons that are tried on some goods at most: those that expire first.
const TRIED_MAX: i64 = 100;

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
    /// For `preview` and `best`: one of the member's addresses, to which the goods would go.
    address_id: Option<String>,
    /// For `preview` and `best`, instead of `addressId`: at least its province and city. Without either no freight is counted.
    address: Option<PlaceInput>,
    /// For `preview`, as in `submitOrder`; `wechat` unless given.
    payment_method: Option<Method>,
    /// For `preview`, as in `submitOrder`.
    points_used: Option<i64>,
    /// For `preview`, as in `submitOrder`.
    #[schemars(with = "Option<f64>")]
    prepaid_amount: Option<Yuan>,
    /// For `preview`, as in `submitOrder`.
    prepaid_record_ids: Option<Vec<String>>,
    /// For `preview`: the coupon to price with.
    user_coupon_id: Option<String>,
    /// For `preview`, as in `submitOrder`.
    qualification_id: Option<String>,
    /// For `list` and `mine`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list` and `mine`: `nextCursor` of the page before.
    after: Option<String>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    quote: Option<QuoteOutput>,
}

/// What the order would cost. Amounts in yuan.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QuoteOutput {
    quote_id: String,
    /// `submitOrder` knows it until then.
    expire_time: String,
    total_amount: Yuan,
    discount_amount: Yuan,
    coupon_discount: Yuan,
    freight_amount: Yuan,
    prepaid_amount: Yuan,
    balance_amount: Yuan,
    points_used: i64,
    payment_amount: Yuan,
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
        Action::Preview => preview(&ctx, &member, input, true).await,
        Action::Best => preview(&ctx, &member, input, false).await,
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

async fn preview(ctx: &Context, member: &Member, input: Input, all: bool) -> Result<Reply, Failure> {
    let wish = WishInput {
        items: input.items.unwrap_or_default(),
        payment_method: input.payment_method.unwrap_or_default(),
        points_used: input.points_used,
        prepaid_amount: input.prepaid_amount,
        prepaid_record_ids: input.prepaid_record_ids,
        user_coupon_id: input.user_coupon_id,
        qualification_id: input.qualification_id,
    };
    let wish = wish.parse()?;
    let to = destination(ctx, member, input.address, input.address_id).await?;
    let known = Known::read(ctx.store(), &wish, &member.open_id, Code::Unauthenticated).await?;
    let Priced { proof, .. } = price(&wish, &known, to.as_ref(), ctx.rules(), ctx.now)?;
    let lines = proof.input.lines.iter().zip(&proof.quote.lines);
    let goods: Vec<Goods<'_>> = lines
        .map(|(line, share)| Goods { product: &line.product_id, category: &line.category, amount: share.amount })
        .collect();
    let total = Fen::sum(goods.iter().map(|g| g.amount)).map_err(|_| too_large())?;
    let freight = proof.quote.freight.amount;
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
        quote: if all { Some(shown(ctx, member, &proof.quote).await?) } else { None },
        data: all.then(|| coupons.iter().zip(&held).map(tried).collect()),
    })
}

/// Where the goods would go, if it is said.
async fn destination(
    ctx: &Context,
    member: &Member,
    place: Option<PlaceInput>,
    id: Option<String>,
) -> Result<Option<freight::Destination>, Failure> {
    match (place, id) {
        (None, None) => Ok(None),
        (Some(place), None) => Ok(Some(place.parse()?)),
        (place, id) => {
            if place.is_some() {
                return Err(Refusal::invalid("addressId", "address 与 addressId 只能填写一个").into());
            }
            let address = Destination::parse(None, id)?.resolve(ctx.store(), member).await?;
            Ok(Some(place_of(&address)))
        }
    }
}

/// Keeps the price for the order to be held to.
async fn shown(ctx: &Context, member: &Member, quote: &Quote) -> Result<QuoteOutput, Failure> {
    let shown = ctx.store().show_quote(&member.open_id, quote, ctx.now).await?;
    let total = &quote.total;
    let sum = |a: Fen, b: Fen| a.checked_add(b).map_err(|_| too_large());
    Ok(QuoteOutput {
        quote_id: shown.id,
        expire_time: iso(shown.expires_at),
        total_amount: Yuan(total.amount),
        discount_amount: Yuan(quote.discount().map_err(|_| too_large())?),
        coupon_discount: Yuan(total.coupon_discount),
        freight_amount: Yuan(quote.freight.amount),
        prepaid_amount: Yuan(sum(total.prepaid_covered, total.prepaid_amount)?),
        balance_amount: Yuan(total.balance_amount),
        points_used: total.points_used.get(),
        payment_amount: Yuan(total.payment_amount),
    })
}
