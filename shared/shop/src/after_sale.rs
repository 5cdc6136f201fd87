//! After-sale (售后): buyers ask for their money back, by line and quantity, and the shop gives it back.
//!
//! A command reads the order with all its refunds, decides by their state machine, and writes the refund and the order in one
//! transaction; both are guarded by what was read. What is ours goes back in the transaction that approves, together with the
//! order to WeChat Pay in the outbox; a refund is finished when WeChat says SUCCESS, or at once where nothing is left for it.
//!
//! Points-mall orders cost no money. Before they are shipped they are recalled by cancelling; afterwards they can be refunded as
//! others can, and give back points and coins.

mod give_back;
pub mod view;
pub mod wechat;

use chrono::{DateTime, TimeDelta, Utc};
use domain::machine::refund::{Event, START, State};
use domain::refund::{self, FreightRule, Frozen, Plan, Taken, WECHAT_DAYS_MAX, Wanted};
use domain::{Code, Failure, Fen, OrderId, OrderStatus, OrderType, Refusal, ShopRules, UserId};
use store::book::{self, Entry};
use store::orders::Order;
use store::outbox::OutboxStatus;
use store::refunds::{Moment, Refund, RefundItem, RefundType, ReturnParcel, refund_state};
use store::{Error, Store, Tx, crashpoint};

/// Refunds of one order, those that were withdrawn or rejected included.
const REFUNDS_MAX: usize = 100;
/// Of those, what the buyer may ask for: the shop can always do more.
const ASKED_MAX: usize = 30;

/// An order with everything that was ever asked back of it, read in one transaction.
struct Case {
    order: Order,
    frozen: Frozen,
    refunds: Vec<Refund>,
}

impl Case {
    async fn of(tx: &mut Tx, order: Order) -> Result<Self, Error> {
        let refunds = tx.refunds_of(&order.id).await?;
        Ok(Self { frozen: order.frozen()?, order, refunds })
    }

    async fn load(tx: &mut Tx, order: &OrderId) -> Result<Self, Error> {
        let order = tx.order(order).await?.ok_or(Code::OrderNotFound)?;
        Self::of(tx, order).await
    }

    /// A refund and its order.
    async fn of_refund(tx: &mut Tx, id: &str) -> Result<(Self, Refund), Error> {
        let refund = tx.refund(id).await?.ok_or(Code::NotFound)?;
        Ok((Self::load(tx, &refund.order_id).await?, refund))
    }

    /// What these refunds have taken together.
    fn taken(&self, which: impl Fn(&Refund) -> bool) -> Result<Taken, Error> {
        Ok(Taken::by(&self.frozen, self.refunds.iter().filter(|r| which(r)).map(|r| &r.plan))?)
    }

    /// Pieces that nobody has asked back.
    fn rest(&self) -> Result<Vec<Wanted>, Error> {
        Ok(Wanted::rest(&self.frozen, &self.taken(Refund::stands)?))
    }

    /// A refund's plan as it is carried out now, after what others have given back.
    fn carried_out(&self, refund: &Refund) -> Result<Plan, Error> {
        let others = self.refunds.iter().filter(|r| r.given.is_some() && r.id != refund.id);
        let given = Taken::by(&self.frozen, others.map(|r| &r.plan))?;
        let freight = FreightRule::default().at(self.order.status != OrderStatus::Paid);
        Ok(refund.plan.carried_out(&self.frozen, &given, freight)?)
    }

    /// Writes a refund, new if there was none before, and what it makes of its order.
    async fn save(&mut self, tx: &mut Tx, before: Option<&Refund>, mut after: Refund) -> Result<Refund, Error> {
        self.refunds.retain(|refund| refund.id != after.id);
        self.refunds.push(after.clone());
        let state = refund_state(&self.frozen, &self.refunds)?;
        after.revision = tx.bump_refunds(&self.order, state).await?;
        match before {
            None => tx.insert_refund(&after).await?,
            Some(before) => tx.update_refund(before, &after).await?,
        }
        Ok(after)
    }
}

/// Whether the order may be shipped now: everything that is asked back is decided, so that what is shipped is what is left, and
/// something is.
pub(crate) async fn check_shippable(tx: &mut Tx, order: &Order) -> Result<(), Error> {
    if order.refund_state.is_none() {
        return Ok(());
    }
    let case = Case::of(tx, order.clone()).await?;
    if case.refunds.iter().any(|refund| refund.status == State::Applied) {
        return Err(invalid_state("订单有未处理的退款申请，请先同意或拒绝")
            .detail("reason", "REFUND_UNDECIDED")
            .into());
    }
    if case.rest()?.is_empty() {
        return Err(invalid_state("订单商品已全部退款或正在退款，不能发货").detail("reason", "REFUNDED").into());
    }
    Ok(())
}

fn invalid_state(message: &'static str) -> Refusal {
    Refusal::new(Code::OrderStateInvalid).with_message(message)
}

/// Who does it: for the timeline, and whether it is the buyer, who may do less.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// `user`, `staff:…` or `service:…`.
    pub by: &'a str,
    pub user: Option<&'a UserId>,
}

impl Actor<'_> {
    /// Users see and change what is theirs. `FORBIDDEN`
    pub fn may_touch(&self, owner: &UserId) -> Result<(), Refusal> {
        match self.user {
            Some(user) if user != owner => Err(Code::Forbidden.into()),
            _ => Ok(()),
        }
    }
}

/// What became of a command.
#[derive(Clone, Debug)]
pub struct Done {
    pub refund: Refund,
    /// It was so already.
    pub replayed: bool,
}

impl Done {
    fn now(refund: Refund) -> Self {
        Self { refund, replayed: false }
    }

    fn before(refund: Refund) -> Self {
        Self { refund, replayed: true }
    }
}

/// What is asked back.
#[derive(Clone, Debug)]
pub struct Apply {
    pub order: OrderId,
    pub refund_type: RefundType,
    /// All that is left unless given.
    pub items: Option<Vec<Wanted>>,
    /// Less money than is due.
    pub amount: Option<Fen>,
    pub reason: String,
    pub description: String,
    pub images: Vec<String>,
}

/// Asks for a refund. `ORDER_NOT_FOUND`, `FORBIDDEN`, `ORDER_STATE_INVALID` for what is not paid, is all asked back already or
/// is too old, `INVALID_ARGUMENT` on `type`, `items` or `amount`.
pub async fn apply(
    tx: &mut Tx,
    rules: &ShopRules,
    actor: Actor<'_>,
    apply: &Apply,
    now: DateTime<Utc>,
) -> Result<Refund, Error> {
    let mut case = Case::load(tx, &apply.order).await?;
    actor.may_touch(&case.order.user_id)?;
    check_order(&case.order, actor, rules, now)?;
    if case.refunds.len() >= if actor.user.is_some() { ASKED_MAX } else { REFUNDS_MAX } {
        return Err(invalid_state("该订单售后次数过多，请联系商家").into());
    }
    let shipped = case.order.status != OrderStatus::Paid;
    if apply.refund_type == RefundType::ReturnGoods && !shipped {
        return Err(Refusal::invalid("type", "订单尚未发货，请申请仅退款").into());
    }
    let rest = case.rest()?;
    if rest.is_empty() {
        return Err(invalid_state("订单商品已全部退款或正在退款").into());
    }
    let wanted = apply.items.as_ref().unwrap_or(&rest);
    let freight = FreightRule::default().at(shipped);
    let mut plan = refund::plan(&case.frozen, &case.taken(Refund::stands)?, wanted, freight)?;
    if let Some(amount) = apply.amount {
        plan = plan.lower_to(amount)?;
    }
    let order = &case.order;
    let seq = i64::try_from(case.refunds.len()).unwrap_or(i64::MAX).saturating_add(1);
    let first = Moment { status: START, at: now, by: actor.by.to_owned(), remark: None };
    let refund = Refund {
        id: Refund::key(&order.id, seq),
        order_id: order.id.clone(),
        user_id: order.user_id.clone(),
        open_id: order.open_id.clone(),
        seq,
        revision: 0,
        refund_type: apply.refund_type,
        status: START,
        items: items(order, &plan),
        plan,
        reason: apply.reason.clone(),
        description: apply.description.clone(),
        images: apply.images.clone(),
        return_parcel: None,
        given: None,
        numbers: Vec::new(),
        sends: 0,
        failure: None,
        settled_elsewhere: false,
        stock_release: Vec::new(),
        timeline: vec![first],
        created_at: now,
        refunded_at: None,
    };
    let refund = case.save(tx, None, refund).await?;
    crashpoint("refund.applied").await;
    Ok(refund)
}

/// Whether the order is one of which something can be asked back now.
fn check_order(order: &Order, actor: Actor<'_>, rules: &ShopRules, now: DateTime<Utc>) -> Result<(), Refusal> {
    if !order.status.is_paid() {
        return Err(invalid_state("订单未支付，不能申请退款"));
    }
    if order.order_type == OrderType::PointsMall && order.status == OrderStatus::Paid {
        return Err(invalid_state("积分商城订单发货前请直接取消"));
    }
    // What staff agree to is theirs to say.
    if actor.user.is_none() {
        return Ok(());
    }
    let over = |since: Option<DateTime<Utc>>, days: i64| since.is_some_and(|at| now - at > TimeDelta::days(days));
    if order.status == OrderStatus::Completed && over(order.completed_at, rules.refund_days) {
        return Err(invalid_state("订单完成已久，不能再申请退款，请联系商家").detail("days", rules.refund_days));
    }
    if over(order.paid_at, WECHAT_DAYS_MAX) {
        return Err(invalid_state("订单付款已超过一年，请联系商家").detail("days", WECHAT_DAYS_MAX));
    }
    Ok(())
}

fn items(order: &Order, plan: &Plan) -> Vec<RefundItem> {
    let of_line = |line: &refund::PlanLine| {
        let bought = order.items.iter().find(|item| item.line_id == line.line_id)?;
        Some(RefundItem {
            line_id: line.line_id.clone(),
            product_id: bought.product_id.clone(),
            sku_id: bought.sku_id.clone(),
            name: bought.name.clone(),
            quantity: line.quantity,
        })
    };
    plan.lines.iter().filter_map(of_line).collect()
}

/// The buyer changed their mind. `NOT_FOUND`, `FORBIDDEN`, `ORDER_STATE_INVALID` once it was approved.
pub async fn withdraw(tx: &mut Tx, actor: Actor<'_>, id: &str, now: DateTime<Utc>) -> Result<Done, Error> {
    let (case, refund) = Case::of_refund(tx, id).await?;
    actor.may_touch(&refund.user_id)?;
    if refund.status == State::Withdrawn {
        return Ok(Done::before(refund));
    }
    step(tx, case, refund, Event::Withdraw, actor.by, None, now).await
}

/// Staff say no. `NOT_FOUND`, `ORDER_STATE_INVALID` once it was approved.
pub async fn reject(tx: &mut Tx, by: &str, id: &str, reason: &str, now: DateTime<Utc>) -> Result<Done, Error> {
    let (case, refund) = Case::of_refund(tx, id).await?;
    if refund.status == State::Rejected {
        return Ok(Done::before(refund));
    }
    step(tx, case, refund, Event::Reject, by, Some(reason), now).await
}

/// One step without any effect.
async fn step(
    tx: &mut Tx,
    mut case: Case,
    before: Refund,
    event: Event,
    by: &str,
    remark: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Done, Error> {
    let mut after = before.clone();
    after.step(event, by, remark, now)?;
    Ok(Done::now(case.save(tx, Some(&before), after).await?))
}

/// Staff agree: what is ours goes back at once, or the goods have to come back first. `amount` may be less than is due.
///
/// A repeat answers as before; with another amount it is `CONFLICT`.
pub async fn approve(
    tx: &mut Tx,
    rules: &ShopRules,
    by: &str,
    id: &str,
    amount: Option<Fen>,
    remark: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Done, Error> {
    let (mut case, before) = Case::of_refund(tx, id).await?;
    if before.status != State::Applied && before.stands() {
        let same = amount.is_none_or(|amount| before.plan.given.money() == Ok(amount));
        return if same { Ok(Done::before(before)) } else { Err(Code::Conflict.into()) };
    }
    let mut after = before.clone();
    if after.refund_type == RefundType::RefundOnly {
        after.plan = case.carried_out(&after)?;
    }
    if let Some(amount) = amount {
        after.plan = after.plan.lower_to(amount)?;
    }
    match after.refund_type {
        RefundType::ReturnGoods => after.step(Event::ApproveReturn, by, remark, now)?,
        RefundType::RefundOnly => {
            after.step(Event::Approve, by, remark, now)?;
            give_back::give_back(tx, &case, &mut after, rules, now).await?;
        }
    }
    let refund = case.save(tx, Some(&before), after).await?;
    crashpoint("refund.inside").await;
    Ok(Done::now(refund))
}

/// The buyer has sent the goods. Again with the same parcel it changes nothing.
pub async fn ship_back(
    tx: &mut Tx,
    actor: Actor<'_>,
    id: &str,
    express_company: &str,
    tracking_no: &str,
    now: DateTime<Utc>,
) -> Result<Done, Error> {
    let (mut case, before) = Case::of_refund(tx, id).await?;
    actor.may_touch(&before.user_id)?;
    let same =
        |p: &ReturnParcel| (p.express_company.as_str(), p.tracking_no.as_str()) == (express_company, tracking_no);
    if before.return_parcel.as_ref().is_some_and(same) && before.stands() {
        return Ok(Done::before(before));
    }
    let mut after = before.clone();
    after.step(Event::ShipBack, actor.by, None, now)?;
    let (express_company, tracking_no) = (express_company.to_owned(), tracking_no.to_owned());
    after.return_parcel = Some(ReturnParcel { express_company, tracking_no, at: now });
    Ok(Done::now(case.save(tx, Some(&before), after).await?))
}

/// The goods are here: what is ours goes back.
pub async fn receive(
    tx: &mut Tx,
    rules: &ShopRules,
    by: &str,
    id: &str,
    remark: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Done, Error> {
    let (mut case, before) = Case::of_refund(tx, id).await?;
    if before.given.is_some() && before.refund_type == RefundType::ReturnGoods {
        return Ok(Done::before(before));
    }
    let mut after = before.clone();
    after.step(Event::Receive, by, remark, now)?;
    after.plan = case.carried_out(&after)?;
    give_back::give_back(tx, &case, &mut after, rules, now).await?;
    let refund = case.save(tx, Some(&before), after).await?;
    crashpoint("refund.inside").await;
    Ok(Done::now(refund))
}

/// Staff have a failed one sent again: under its own number, and only if WeChat has closed that one under a new number. One that is
/// under way and was given up after too many tries is taken up again.
pub async fn retry(tx: &mut Tx, by: &str, id: &str, now: DateTime<Utc>) -> Result<Done, Error> {
    let (mut case, before) = Case::of_refund(tx, id).await?;
    if before.status == State::Refunding {
        let again = tx.redrive(&before.item_id(), &[OutboxStatus::Dead], now, now).await?;
        return Ok(Done { refund: before, replayed: again.is_none() });
    }
    let mut after = before.clone();
    after.step(Event::Retry, by, None, now)?;
    match after.numbers.last_mut() {
        // Whatever WeChat said of it, it is asked again what it says now.
        Some(number) if !number.is_closed() => number.state = None,
        _ => after.numbers.push(before.next_number()),
    }
    give_back::send(tx, &mut after, now).await?;
    let refund = case.save(tx, Some(&before), after).await?;
    crashpoint("refund.retried").await;
    Ok(Done::now(refund))
}

/// Staff have given WeChat's part another way. [`wechat::is_over`] comes first, so that it is not given twice.
pub async fn settle(tx: &mut Tx, by: &str, id: &str, remark: &str, now: DateTime<Utc>) -> Result<Done, Error> {
    let (mut case, before) = Case::of_refund(tx, id).await?;
    if before.settled_elsewhere {
        return Ok(Done::before(before));
    }
    let mut after = before.clone();
    after.step(Event::Settle, by, Some(remark), now)?;
    after.settled_elsewhere = true;
    let amount = after.plan.given.payment_amount;
    let entry = Entry::new(after.paid_key(), now).user(&after.user_id).order(&after.order_id);
    tx.post(&entry.transfer("fen", book::REFUNDS, book::ELSEWHERE, amount.get())).await?;
    let refund = case.save(tx, Some(&before), after).await?;
    crashpoint("refund.settled").await;
    Ok(Done::now(refund))
}

/// Puts the pieces back on the shelf that a refund has given back. The sweeper does it too.
pub async fn finish_release(store: &Store, refund: &Refund) -> Result<(), Failure> {
    for product in &refund.stock_release {
        store.release_stock(product).await?;
    }
    Ok(())
}
