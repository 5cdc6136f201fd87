//! `reviews`: what buyers say of what they received; everybody reads it once it was checked, the shop answers and moderates.

use chrono::TimeDelta;
use domain::{Code, Failure, OpenId, OrderId, OrderStatus, ProductId, Refusal, text};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::members::active_member;
use shop::pictures;
use shop::reviews::{self, CheckReview};
use shop::views::iso;
use store::orders::{Order, OrderItem};
use store::outbox::OutboxItem;
use store::page::PageRequest;
use store::reviews::{Check, Moderation, Review, ReviewFilter, ReviewReply, ReviewStatus, Stars};
use store::{Once, crashpoint};

/// After this long nobody says any more what they received.
const OPEN_FOR: TimeDelta = TimeDelta::days(90);
const TEXT_MAX: usize = 500;
const NICKNAME_MAX: usize = 20;
const REASON_MAX: usize = 200;
/// What staff and services need to see and do more than everybody.
const PERMISSION: &str = "reviews";

pub fn function() -> Function {
    Function::new("reviews", handle)
        .summary("商品评价：发表、列表、回复、审核")
        .accepts(&[Accept::User, Accept::Anonymous, Accept::Service(PERMISSION), Accept::Staff(PERMISSION)])
        .needs(&[Need::Store, Need::Session, Need::OpenApi])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    Add,
    List,
    Mine,
    /// By the buyer, with all that was written.
    Remove,
    Reply,
    Moderate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Decision {
    Publish,
    Hide,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `add`: a completed order of the caller's.
    order_id: Option<String>,
    /// For `add`: which line of it.
    line_id: Option<String>,
    /// For `add`: 1 to 5 stars. For `list`: only reviews with so many.
    rating: Option<i64>,
    /// For `add`: at most 500 characters, or none. For `reply`: 1 to 500 characters.
    text: Option<String>,
    /// For `add`: at most 9 cloud file ids or https addresses.
    images: Option<Vec<String>>,
    /// For `add`: show neither name nor picture.
    anonymous: Option<bool>,
    /// For `add`: at most 20 characters; shown masked.
    nickname: Option<String>,
    /// For `add`: the author's picture, a cloud file id or https address.
    avatar: Option<String>,
    /// For `list`.
    product_id: Option<String>,
    /// For `list`, by staff and services only: those in this state, of any product.
    status: Option<ReviewStatus>,
    /// For `remove`, `reply` and `moderate`.
    review_id: Option<String>,
    /// For `moderate`.
    decision: Option<Decision>,
    /// For `moderate`: why it is hidden; at most 200 characters.
    reason: Option<String>,
    /// For `list` and `mine`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list` and `mine`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
struct ReplyView {
    text: String,
    at: String,
}

/// What everybody sees.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PublicView {
    #[serde(rename = "_id")]
    id: String,
    review_id: String,
    product_id: String,
    sku_name: Option<String>,
    rating: i64,
    text: String,
    images: Vec<String>,
    /// Masked.
    name: String,
    avatar: Option<String>,
    anonymous: bool,
    created_at: String,
    reply: Option<ReplyView>,
}

/// What the author sees, and staff.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FullView {
    #[serde(rename = "_id")]
    id: String,
    review_id: String,
    order_id: String,
    line_id: String,
    product_id: String,
    product_name: String,
    sku_name: Option<String>,
    rating: i64,
    text: String,
    images: Vec<String>,
    nickname: Option<String>,
    avatar: Option<String>,
    anonymous: bool,
    status: ReviewStatus,
    /// Why it is hidden.
    reason: Option<String>,
    created_at: String,
    reply: Option<ReplyView>,
    /// What WeChat says of the text; for staff.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moderated_by: Option<String>,
}

#[derive(Serialize)]
struct Summary {
    count: i64,
    /// Stars with one decimal; null without reviews.
    average: Option<f64>,
    /// Reviews with one to five stars.
    ratings: [i64; 5],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

#[derive(Serialize)]
struct ReviewOutput {
    review: FullView,
    message: String,
}

/// What a command remembers under its `requestId`: nothing that was written, which its author may take back.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    review_id: String,
    message: String,
}

impl Done {
    fn new(id: &str, message: &str) -> Self {
        Self { review_id: id.to_owned(), message: message.to_owned() }
    }
}

/// The review as it is now, which is what a repeat gets, too.
async fn output(ctx: &Context, done: Once<Done>, for_staff: bool) -> Result<Reply, Failure> {
    let Done { review_id, message } = done.value;
    let review = ctx.store().review(&review_id).await?.ok_or_else(not_found)?;
    Ok(Reply::of(&ReviewOutput { review: FullView::of(review, for_staff), message })?.with_replayed(done.replayed))
}

fn reply_view(review: &Review) -> Option<ReplyView> {
    review.reply.as_ref().map(|reply| ReplyView { text: reply.text.clone(), at: iso(reply.at) })
}

/// `小**`: the first character only.
fn masked(review: &Review) -> String {
    match review.nickname.as_deref().and_then(|name| name.chars().next()) {
        _ if review.anonymous => "匿名用户".to_owned(),
        Some(first) => format!("{first}**"),
        None => "微信用户".to_owned(),
    }
}

impl From<Review> for PublicView {
    fn from(review: Review) -> Self {
        Self {
            name: masked(&review),
            reply: reply_view(&review),
            review_id: review.id.clone(),
            id: review.id,
            product_id: review.product_id.into(),
            sku_name: review.sku_name,
            rating: review.rating,
            text: review.text,
            images: review.images,
            avatar: review.avatar.filter(|_| !review.anonymous),
            anonymous: review.anonymous,
            created_at: iso(review.created_at),
        }
    }
}

impl FullView {
    fn of(review: Review, for_staff: bool) -> Self {
        Self {
            reply: reply_view(&review),
            review_id: review.id.clone(),
            id: review.id,
            order_id: review.order_id.into(),
            line_id: review.line_id,
            product_id: review.product_id.into(),
            product_name: review.product_name,
            sku_name: review.sku_name,
            rating: review.rating,
            text: review.text,
            images: review.images,
            nickname: review.nickname,
            avatar: review.avatar,
            anonymous: review.anonymous,
            status: review.status,
            reason: review.reason,
            created_at: iso(review.created_at),
            check: for_staff.then_some(review.check),
            moderated_by: review.moderated_by.filter(|_| for_staff),
        }
    }
}

impl From<Stars> for Summary {
    fn from(stars: Stars) -> Self {
        let tenths = stars.average_tenths().and_then(|tenths| i32::try_from(tenths).ok());
        Self { count: stars.count(), average: tenths.map(|tenths| f64::from(tenths) / 10.0), ratings: stars.ratings }
    }
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::Add => add(&ctx, input).await,
        Action::List => list(&ctx, input).await,
        Action::Mine => mine(&ctx, input).await,
        Action::Remove => remove(&ctx, input).await,
        Action::Reply => reply(&ctx, input).await,
        Action::Moderate => moderate(&ctx, input).await,
    }
}

/// The user who calls; others have nothing to say here.
fn author(caller: &Caller) -> Result<OpenId, Refusal> {
    match caller {
        Caller::User { open_id, .. } => Ok(open_id.clone()),
        Caller::Anonymous => Err(Code::Unauthenticated.into()),
        _ => Err(Code::Forbidden.into()),
    }
}

/// `FORBIDDEN` for whoever does not moderate.
fn moderator(caller: &Caller) -> Result<String, Refusal> {
    match caller {
        _ if caller.may(PERMISSION) => caller.operator(),
        Caller::Anonymous => Err(Code::Unauthenticated.into()),
        _ => Err(Code::Forbidden.into()),
    }
}

fn stars(rating: Option<i64>) -> Result<Option<i64>, Refusal> {
    match rating {
        Some(rating) if !(1..=5).contains(&rating) => Err(Refusal::invalid("rating", "rating 应为 1 到 5")),
        rating => Ok(rating),
    }
}

async fn add(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let open_id = author(&ctx.caller)?;
    let order_id = OrderId::parse(&input.order_id.unwrap_or_default())
        .map_err(|_| Refusal::invalid("orderId", "orderId 格式不正确"))?;
    let line_id = text::required("lineId", &input.line_id.unwrap_or_default(), 10)?;
    let rating = stars(input.rating)?.ok_or_else(|| Refusal::invalid("rating", "rating 应为 1 到 5"))?;
    let words = text::clean("text", &input.text.unwrap_or_default(), TEXT_MAX)?;
    let images = pictures::parse("images", input.images.unwrap_or_default())?;
    let nickname = text::clean("nickname", &input.nickname.unwrap_or_default(), NICKNAME_MAX)?;
    let avatar = input.avatar.filter(|text| !text.is_empty());
    let avatar = avatar.map(|text| pictures::one("avatar", text)).transpose()?;
    let key = ctx.command_key();
    if let Some(key) = &key
        && let Some(done) = ctx.store().replay::<Done>(key).await?
    {
        return output(ctx, done, false).await;
    }
    let member = active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
    let order = ctx.store().order(&order_id).await?.filter(|order| order.user_id == member.id);
    let order = order.ok_or(Code::OrderNotFound)?;
    let line = reviewable(&order, &line_id, ctx.now)?;
    let id = Review::key(&order_id, &line_id);
    if ctx.store().review(&id).await?.is_some() {
        return Err(reviewed().into());
    }
    let nickname = Some(nickname).filter(|name| !name.is_empty());
    // What WeChat thinks is asked before anything is written, so that a call that dies leaves nothing half done.
    let check = reviews::check(ctx.open_api()?, open_id.as_str(), &words, nickname.as_deref()).await;
    if check == Check::Risky {
        let refusal = Refusal::invalid("text", "评价内容可能含有违规信息，请修改后再发表");
        return Err(refusal.into());
    }
    crashpoint("review.checked").await;
    let mut review = Review {
        id,
        order_id,
        line_id,
        user_id: member.id,
        open_id,
        product_id: line.product_id.clone(),
        product_name: line.name.clone(),
        sku_name: line.sku_name.clone(),
        rating,
        text: words,
        images,
        anonymous: input.anonymous.unwrap_or(false),
        nickname,
        avatar,
        check,
        status: ReviewStatus::Pending,
        stats_due: false,
        reply: None,
        moderated_at: None,
        moderated_by: None,
        reason: None,
        created_at: ctx.now,
    };
    review.status = Review::after(check, review.is_pictured());
    review.stats_due = review.status == ReviewStatus::Published;
    let message =
        if review.status == ReviewStatus::Published { "评价已发表" } else { "评价已提交，审核后展示" };
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let review = &review;
            Box::pin(async move {
                if tx.review(&review.id).await?.is_some() {
                    return Err(reviewed().into());
                }
                tx.insert_review(review).await?;
                if review.check == Check::Unchecked {
                    let check = CheckReview { review_id: review.id.clone() };
                    let mut item =
                        OutboxItem::new(reviews::item_id(&review.id), reviews::KIND, &check, review.created_at)?;
                    item.order_id = Some(review.order_id.clone());
                    tx.enqueue(&item).await?;
                }
                Ok(Done::new(&review.id, message))
            })
        })
        .await;
    let done = match done {
        // Somebody inserted it at the same moment.
        Err(error) if error.is_duplicate_of("reviews") => return Err(reviewed().into()),
        other => other?,
    };
    crashpoint("review.committed").await;
    if review.stats_due && !done.replayed {
        reviews::count(ctx.store(), &review).await;
    }
    output(ctx, done, false).await
}

fn reviewed() -> Refusal {
    Refusal::new(Code::Conflict).with_message("这件商品已经评价过了")
}

/// The line of an order that its buyer has, for as long as it may be reviewed.
fn reviewable<'a>(
    order: &'a Order,
    line_id: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<&'a OrderItem, Refusal> {
    let refused = |message: &'static str| Refusal::new(Code::OrderStateInvalid).with_message(message);
    if order.status != OrderStatus::Completed {
        return Err(refused("确认收货后才能评价"));
    }
    let received = order.completed_at.or(order.paid_at).unwrap_or(order.created_at);
    if now - received > OPEN_FOR {
        return Err(refused("已超过评价期限"));
    }
    let line = order.items.iter().find(|line| line.line_id == line_id);
    line.ok_or_else(|| Refusal::invalid("lineId", "订单中没有这件商品"))
}

async fn list(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let rating = stars(input.rating)?;
    let product = input.product_id.filter(|text| !text.is_empty());
    let product = product.map(|text| ProductId::parse(&text)).transpose();
    let product = product.map_err(|_| Refusal::invalid("productId", "productId 格式不正确"))?;
    if let Some(status) = input.status {
        moderator(&ctx.caller)?;
        if rating.is_some() && product.is_none() {
            return Err(Refusal::invalid("productId", "按 rating 筛选时请指定 productId").into());
        }
        let filter = ReviewFilter { product: product.as_ref(), status: Some(status), rating, user: None };
        let page = ctx.store().reviews(&filter, &request).await?.map(|review| FullView::of(review, true));
        return Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor, summary: None });
    }
    let product = product.ok_or_else(|| Refusal::invalid("productId", "请指定 productId"))?;
    let filter = ReviewFilter { product: Some(&product), status: Some(ReviewStatus::Published), rating, user: None };
    let page = ctx.store().reviews(&filter, &request).await?.map(PublicView::from);
    let summary = Some(ctx.store().stars(&product).await?.into());
    Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor, summary })
}

async fn mine(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let member = active_member(ctx.store(), &author(&ctx.caller)?, Code::Unauthenticated).await?;
    let filter = ReviewFilter { user: Some(&member.id), ..ReviewFilter::default() };
    let page = ctx.store().reviews(&filter, &request).await?.map(|review| FullView::of(review, false));
    Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor, summary: None })
}

fn review_id(text: Option<String>) -> Result<String, Refusal> {
    text::required("reviewId", &text.unwrap_or_default(), 64)
}

fn not_found() -> Refusal {
    Refusal::new(Code::NotFound).with_message("没有这条评价")
}

async fn remove(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let open_id = author(&ctx.caller)?;
    let id = review_id(input.review_id)?;
    let member = active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
    let done = ctx
        .store()
        .once(ctx.command_key().as_ref(), ctx.now, |tx, _| {
            let (id, user) = (&id, &member.id);
            Box::pin(async move {
                tx.review(id).await?.filter(|review| review.user_id == *user).ok_or_else(not_found)?;
                // Done before is done.
                tx.remove_review(id, user).await?;
                Ok(Done::new(id, "评价已删除"))
            })
        })
        .await?;
    recount(ctx, &id).await?;
    output(ctx, done, false).await
}

async fn reply(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let by = moderator(&ctx.caller)?;
    let id = review_id(input.review_id)?;
    let text = text::required("text", &input.text.unwrap_or_default(), TEXT_MAX)?;
    let reply = ReviewReply { text, at: ctx.now, by };
    let done = ctx
        .store()
        .once(ctx.command_key().as_ref(), ctx.now, |tx, _| {
            let (id, reply) = (&id, &reply);
            Box::pin(async move {
                if !tx.reply_to_review(id, reply).await? {
                    return Err(not_found().into());
                }
                Ok(Done::new(id, "已回复"))
            })
        })
        .await?;
    output(ctx, done, true).await
}

async fn moderate(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let by = moderator(&ctx.caller)?;
    let id = review_id(input.review_id)?;
    let decision = input.decision.ok_or_else(|| Refusal::invalid("decision", "decision 应为 publish 或 hide"))?;
    let reason = input.reason.unwrap_or_default();
    let (status, reason) = match decision {
        Decision::Publish => (ReviewStatus::Published, None),
        Decision::Hide => (ReviewStatus::Hidden, Some(text::required("reason", &reason, REASON_MAX)?)),
    };
    let done = ctx
        .store()
        .once(ctx.command_key().as_ref(), ctx.now, |tx, _| {
            let (id, by, reason, now) = (&id, &by, reason.as_deref(), ctx.now);
            Box::pin(async move {
                tx.review(id).await?.ok_or_else(not_found)?;
                if !tx.moderate_review(id, &Moderation { status, by, reason }, now).await? {
                    return Err(Refusal::new(Code::Conflict).with_message("这条评价已是该状态，或已被买家删除").into());
                }
                Ok(Done::new(id, "已处理"))
            })
        })
        .await?;
    recount(ctx, &id).await?;
    output(ctx, done, true).await
}

async fn recount(ctx: &Context, id: &str) -> Result<(), Failure> {
    crashpoint("review.committed").await;
    if let Some(review) = ctx.store().review(id).await?.filter(|review| review.stats_due) {
        reviews::count(ctx.store(), &review).await;
    }
    Ok(())
}
