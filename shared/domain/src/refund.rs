//! What a refund gives back: shares frozen at payment, and how they are handed out piece by piece.
//!
//! Every line keeps what it was paid with ([`Share`]). Of a line's pieces those come back first that were paid with money, then
//! those that prepaid goods paid for: what was used last comes back first. After `k` pieces a line has had `⌊total × k / pieces⌋`
//! of each tender back, and one more refund gives what is due for the new count less what the refunds before it had: nothing is
//! lost or won by rounding, and any split of refunds in any order gives together, to the fen, what one refund of everything gives.
//!
//! What is *due* is counted separately from what is *given*: staff may give less, and what they withhold does not come back with
//! the next piece.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::money::{AmountError, whole};
use crate::pricing::allocate;
use crate::quote::{Quote, Share};
use crate::{Fen, Points, Refusal, Yuan};

/// A line as it was paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrozenLine {
    pub line_id: String,
    #[serde(deserialize_with = "whole")]
    pub quantity: i64,
    pub share: Share,
    /// Whether it is a product that grants the order's coin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grants_coin: bool,
}

/// An order as it was paid. Kept with it, and never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frozen {
    pub lines: Vec<FrozenLine>,
    pub freight: Share,
    /// Coins that the paid order granted; taken back with the last piece that grants one.
    #[serde(default, deserialize_with = "whole")]
    pub coins_earned: i64,
}

/// What makes a line of a quote a line of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineFacts<'a> {
    pub line_id: &'a str,
    pub quantity: i64,
    pub grants_coin: bool,
}

impl Frozen {
    /// Freezes a quote; none if it has another number of lines.
    pub fn of(quote: &Quote, facts: &[LineFacts<'_>], coins_earned: i64) -> Option<Self> {
        if quote.lines.len() != facts.len() {
            return None;
        }
        let line = |(share, facts): (&Share, &LineFacts<'_>)| FrozenLine {
            line_id: facts.line_id.to_owned(),
            quantity: facts.quantity,
            share: *share,
            grants_coin: facts.grants_coin,
        };
        let lines = quote.lines.iter().zip(facts).map(line).collect();
        Some(Self { lines, freight: quote.freight, coins_earned })
    }
}

impl Frozen {
    /// Freezes an order that was made before shares were kept, without coupon and freight.
    ///
    /// Of each line's share `amount`, `points_discount`, `prepaid_quantity`, `prepaid_covered` and, as `payment_amount`, what was left
    /// of the line to pay with money are given; the order's points, prepaid money and balance are spread over the lines as the
    /// calculator does. An error if they are more than that.
    pub fn of_totals(
        mut lines: Vec<FrozenLine>,
        points: Points,
        prepaid: Fen,
        balance: Fen,
        coins_earned: i64,
    ) -> Result<Self, AmountError> {
        let spread = |total: Fen, lines: &[FrozenLine], of: fn(&Share) -> Fen| {
            let weights: Vec<Fen> = lines.iter().map(|l| of(&l.share)).collect();
            allocate(total, &weights)
        };
        let parts = spread(Fen::new(points.get())?, &lines, |s| s.points_discount);
        for (line, part) in lines.iter_mut().zip(parts) {
            line.share.points_used = Points::new(part.get())?;
        }
        let parts = spread(prepaid, &lines, |s| s.payment_amount);
        for (line, part) in lines.iter_mut().zip(parts) {
            line.share.prepaid_amount = part;
            line.share.payment_amount = line.share.payment_amount.checked_sub(part)?;
        }
        let parts = spread(balance, &lines, |s| s.payment_amount);
        for (line, part) in lines.iter_mut().zip(parts) {
            line.share.balance_amount = part;
            line.share.payment_amount = line.share.payment_amount.checked_sub(part)?;
        }
        Ok(Self { lines, freight: Share::default(), coins_earned })
    }
}

/// What refunds that still stand have taken of a line: those that were applied for, are under way or are done. Withdrawn,
/// rejected and failed ones are taken out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenLine {
    #[serde(deserialize_with = "whole")]
    pub quantity: i64,
    pub due: Share,
}

/// What standing refunds have taken of an order, line by line as in [`Frozen`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    pub lines: Vec<TakenLine>,
    pub freight: Share,
    #[serde(default, deserialize_with = "whole")]
    pub coins_earned: i64,
}

impl Taken {
    /// Of an order without refunds.
    pub fn nothing(frozen: &Frozen) -> Self {
        Self { lines: vec![TakenLine::default(); frozen.lines.len()], ..Self::default() }
    }

    /// Adds up the standing refunds of an order.
    pub fn by<'a>(frozen: &Frozen, standing: impl IntoIterator<Item = &'a Plan>) -> Result<Self, AmountError> {
        let mut taken = Self::nothing(frozen);
        for plan in standing {
            for part in &plan.lines {
                let at = frozen.lines.iter().position(|l| l.line_id == part.line_id);
                let line = at.and_then(|i| taken.lines.get_mut(i)).ok_or(AmountError::OutOfRange)?;
                line.quantity = line.quantity.saturating_add(part.quantity);
                line.due = line.due.checked_add(&part.due)?;
            }
            taken.freight = taken.freight.checked_add(&plan.freight)?;
            taken.coins_earned = taken.coins_earned.saturating_add(plan.coins_earned);
        }
        Ok(taken)
    }

    /// Whether nothing was taken beyond what was paid, of any line and tender. False is a bug.
    pub fn is_within(&self, frozen: &Frozen) -> bool {
        let line = |(taken, frozen): (&TakenLine, &FrozenLine)| {
            (0..=frozen.quantity).contains(&taken.quantity) && taken.due.is_within(&frozen.share)
        };
        self.lines.len() == frozen.lines.len()
            && self.lines.iter().zip(&frozen.lines).all(line)
            && self.freight.is_within(&frozen.freight)
            && self.coins_earned <= frozen.coins_earned
    }
}

/// Pieces of a line that shall come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    pub line_id: String,
    #[serde(deserialize_with = "whole")]
    pub quantity: i64,
}

impl Wanted {
    /// Everything that is not taken yet; empty if all is.
    pub fn rest(frozen: &Frozen, taken: &Taken) -> Vec<Self> {
        let left = |(line, taken): (&FrozenLine, &TakenLine)| Self {
            line_id: line.line_id.clone(),
            quantity: line.quantity.saturating_sub(taken.quantity),
        };
        frozen.lines.iter().zip(&taken.lines).map(left).filter(|w| w.quantity > 0).collect()
    }
}

/// What becomes of the freight when the last pieces come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FreightReturn {
    /// It comes back with them.
    #[serde(rename = "withLastPieces")]
    WithLastPieces,
    /// It was used: the shop keeps it.
    #[serde(rename = "keep")]
    Keep,
}

/// The shop's rule for freight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FreightRule {
    pub before_shipping: FreightReturn,
    pub after_shipping: FreightReturn,
}

impl Default for FreightRule {
    fn default() -> Self {
        Self { before_shipping: FreightReturn::WithLastPieces, after_shipping: FreightReturn::Keep }
    }
}

impl FreightRule {
    /// What holds for an order of which something was shipped, or nothing.
    pub fn at(self, shipped: bool) -> FreightReturn {
        if shipped { self.after_shipping } else { self.before_shipping }
    }
}

/// One line of a refund: its pieces and what is due for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanLine {
    pub line_id: String,
    #[serde(deserialize_with = "whole")]
    pub quantity: i64,
    pub due: Share,
}

/// A refund: what is due by line, and what is given. Of `given` the money tenders, points, prepaid pieces and coins go back;
/// `coupon_discount`, `points_discount`, `staff_discount` and `amount` only say what they were part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub lines: Vec<PlanLine>,
    pub freight: Share,
    pub given: Share,
    /// Coins that the order granted and that are taken back.
    #[serde(default, deserialize_with = "whole")]
    pub coins_earned: i64,
}

impl Plan {
    /// All that is due.
    pub fn due(&self) -> Result<Share, AmountError> {
        Share::sum(self.lines.iter().map(|l| &l.due).chain([&self.freight]))
    }

    /// The plan as it is carried out after what was `given` back by others: freight and granted coins go with the last pieces that
    /// are given back, since what was asked for may be withdrawn. Where less than was due was to be given, it stays less.
    pub fn carried_out(&self, frozen: &Frozen, given: &Taken, freight: FreightReturn) -> Result<Self, Refusal> {
        let lowered = self.given != self.due().map_err(broken)?;
        let pieces: Vec<i64> = frozen
            .lines
            .iter()
            .map(|line| self.lines.iter().find(|l| l.line_id == line.line_id).map_or(0, |l| l.quantity))
            .collect();
        let mut plan = self.clone();
        (plan.freight, plan.coins_earned) = with_last(frozen, given, &pieces, freight).map_err(broken)?;
        plan.given = plan.due().map_err(broken)?;
        if !lowered {
            return Ok(plan);
        }
        let most = plan.given.money().map_err(broken)?;
        let wanted = self.given.money().map_err(broken)?;
        plan.lower_to(wanted.min(most))
    }

    /// Staff give less money than is due: `amount` is spread over prepaid money, balance and WeChat money in proportion, by
    /// largest remainder. Points, prepaid pieces and coins come back as they are due. More than is due is `INVALID_ARGUMENT`
    /// on `amount` with `details.max` in yuan.
    pub fn lower_to(mut self, amount: Fen) -> Result<Self, Refusal> {
        let due = self.due().map_err(broken)?;
        let most = due.money().map_err(broken)?;
        if amount > most {
            let most = Yuan(most).to_string();
            return Err(Refusal::invalid("amount", format!("最多可退 {most} 元")).detail("max", most));
        }
        let parts = allocate(amount, &[due.prepaid_amount, due.balance_amount, due.payment_amount]);
        if let [prepaid, balance, payment] = parts.as_slice() {
            self.given.prepaid_amount = *prepaid;
            self.given.balance_amount = *balance;
            self.given.payment_amount = *payment;
        }
        Ok(self)
    }
}

/// Amounts within those of an order cannot leave their range; a document that was tampered with can.
fn broken(_: AmountError) -> Refusal {
    Refusal::invalid("items", "订单金额超出范围")
}

/// What of `total` is due after `k` of `n` parts: the whole when all are, rounded down before.
fn cumulative(total: i64, k: i64, n: i64) -> i64 {
    if k >= n {
        return total;
    }
    let product = i128::from(total).saturating_mul(i128::from(k.max(0)));
    product.checked_div_euclid(i128::from(n)).and_then(|part| i64::try_from(part).ok()).unwrap_or(0)
}

/// What is due for `quantity` more pieces of a line.
fn line_due(line: &FrozenLine, taken: &TakenLine, quantity: i64) -> Result<Share, AmountError> {
    let share = &line.share;
    let covered = share.prepaid_quantity.clamp(0, line.quantity);
    let bought = line.quantity.saturating_sub(covered);
    // Pieces paid with money come back first.
    let covered_before = taken.due.prepaid_quantity;
    let bought_before = taken.quantity.saturating_sub(covered_before);
    let now_bought = quantity.min(bought.saturating_sub(bought_before)).max(0);
    let all = taken.quantity.saturating_add(quantity);
    let of_bought = bought_before.saturating_add(now_bought);
    let of_covered = covered_before.saturating_add(quantity.saturating_sub(now_bought));

    // What was taken for the pieces before may be a fen more than those would have now, if an earlier refund was withdrawn.
    let fen = |total: Fen, had: Fen, k, n| Fen::new(cumulative(total.get(), k, n).saturating_sub(had.get()).max(0));
    let count = |total: i64, had: i64| cumulative(total, all, line.quantity).saturating_sub(had).max(0);
    let had = &taken.due;
    Ok(Share {
        amount: fen(share.amount, had.amount, all, line.quantity)?,
        coupon_discount: fen(share.coupon_discount, had.coupon_discount, all, line.quantity)?,
        points_used: Points::new(count(share.points_used.get(), had.points_used.get()))?,
        points_discount: fen(share.points_discount, had.points_discount, all, line.quantity)?,
        prepaid_quantity: quantity.saturating_sub(now_bought),
        prepaid_covered: fen(share.prepaid_covered, had.prepaid_covered, of_covered, covered)?,
        prepaid_amount: fen(share.prepaid_amount, had.prepaid_amount, of_bought, bought)?,
        balance_amount: fen(share.balance_amount, had.balance_amount, of_bought, bought)?,
        payment_amount: fen(share.payment_amount, had.payment_amount, of_bought, bought)?,
        staff_discount: fen(share.staff_discount, had.staff_discount, of_bought, bought)?,
        coins_used: count(share.coins_used, had.coins_used),
    })
}

/// What a refund of these pieces gives back, after the refunds that stand.
///
/// `INVALID_ARGUMENT` on `items` for an unknown line, a line named twice, no pieces, or more pieces than are left
/// (`details.refundable`).
pub fn plan(frozen: &Frozen, taken: &Taken, wanted: &[Wanted], freight: FreightReturn) -> Result<Plan, Refusal> {
    if taken.lines.len() != frozen.lines.len() {
        return Err(broken(AmountError::OutOfRange));
    }
    if wanted.is_empty() {
        return Err(Refusal::invalid("items", "没有可退的商品"));
    }
    let mut asked: Vec<i64> = vec![0; frozen.lines.len()];
    for (i, want) in wanted.iter().enumerate() {
        let field = |name: &str| format!("items[{i}].{name}");
        let place = frozen.lines.iter().position(|l| l.line_id == want.line_id);
        let found = place.and_then(|p| Some((asked.get_mut(p)?, frozen.lines.get(p)?, taken.lines.get(p)?)));
        let Some((asked, line, taken)) = found else {
            return Err(Refusal::invalid(&field("lineId"), "订单中没有这一行"));
        };
        if *asked > 0 {
            return Err(Refusal::invalid(&field("lineId"), "同一行不能出现两次"));
        }
        let left = line.quantity.saturating_sub(taken.quantity);
        if want.quantity < 1 || want.quantity > left {
            let refusal = Refusal::invalid(&field("quantity"), format!("该商品可退 {left} 件"));
            return Err(refusal.detail("refundable", left));
        }
        *asked = want.quantity;
    }
    let mut lines = Vec::new();
    for ((line, taken), quantity) in frozen.lines.iter().zip(&taken.lines).zip(&asked) {
        if *quantity > 0 {
            let due = line_due(line, taken, *quantity).map_err(broken)?;
            lines.push(PlanLine { line_id: line.line_id.clone(), quantity: *quantity, due });
        }
    }
    let (freight, coins_earned) = with_last(frozen, taken, &asked, freight).map_err(broken)?;
    let mut plan = Plan { lines, freight, given: Share::default(), coins_earned };
    plan.given = plan.due().map_err(broken)?;
    Ok(plan)
}

/// The freight and the granted coins that go with `pieces` of each line, after what was taken: all of them with the last pieces,
/// or with the last ones that grant a coin.
fn with_last(
    frozen: &Frozen,
    taken: &Taken,
    pieces: &[i64],
    freight: FreightReturn,
) -> Result<(Share, i64), AmountError> {
    let (mut all_back, mut granting_back, mut granting) = (true, true, false);
    for ((line, taken), quantity) in frozen.lines.iter().zip(&taken.lines).zip(pieces) {
        let back = taken.quantity.saturating_add(*quantity) >= line.quantity;
        all_back &= back;
        granting_back &= back || !line.grants_coin;
        granting |= line.grants_coin && *quantity > 0;
    }
    let freight = match freight {
        FreightReturn::WithLastPieces if all_back => frozen.freight.checked_sub(&taken.freight)?,
        FreightReturn::WithLastPieces | FreightReturn::Keep => Share::default(),
    };
    let coins =
        if granting && granting_back { frozen.coins_earned.saturating_sub(taken.coins_earned).max(0) } else { 0 };
    Ok((freight, coins))
}

/// WeChat Pay takes refunds for so long after the payment.
pub const WECHAT_DAYS_MAX: i64 = 365;
/// WeChat Pay takes so many partial refunds per payment.
pub const WECHAT_COUNT_MAX: usize = 50;
/// WeChat Pay wants so much time between two refunds of one payment.
pub const WECHAT_GAP: TimeDelta = TimeDelta::minutes(1);

/// Why WeChat Pay would not take a refund now. <https://pay.weixin.qq.com/doc/v3/merchant/4013071036>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WechatLimit {
    /// The payment is too old: the money has to go another way.
    TooLate,
    /// There were too many: the money has to go another way, unless this is a number that was sent before.
    TooMany,
    /// Too soon after the one before: the same refund may be sent from then on.
    TooSoon { from: DateTime<Utc> },
}

/// Whether WeChat Pay takes one more refund of a payment now. `sent` are the times at which the refunds with other numbers were
/// last sent, whatever became of them; sending one number again is no new refund.
pub fn wechat_takes(paid_at: DateTime<Utc>, sent: &[DateTime<Utc>], now: DateTime<Utc>) -> Result<(), WechatLimit> {
    if now.signed_duration_since(paid_at) > TimeDelta::days(WECHAT_DAYS_MAX) {
        return Err(WechatLimit::TooLate);
    }
    if sent.len() >= WECHAT_COUNT_MAX {
        return Err(WechatLimit::TooMany);
    }
    let from = sent.iter().max().and_then(|last| last.checked_add_signed(WECHAT_GAP));
    match from {
        Some(from) if now < from => Err(WechatLimit::TooSoon { from }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quote::tests::any_order;
    use proptest::prelude::*;

    fn fen(n: i64) -> Fen {
        Fen::new(n).unwrap()
    }

    fn wanted(line: usize, quantity: i64) -> Wanted {
        Wanted { line_id: (line + 1).to_string(), quantity }
    }

    fn freeze(quote: &Quote, quantities: &[i64], coins_earned: i64) -> Frozen {
        let ids: Vec<String> = (1..=quantities.len()).map(|i| i.to_string()).collect();
        let facts = ids.iter().zip(quantities).enumerate();
        let facts =
            facts.map(|(i, (line_id, quantity))| LineFacts { line_id, quantity: *quantity, grants_coin: i % 2 == 0 });
        Frozen::of(quote, &facts.collect::<Vec<_>>(), coins_earned).unwrap()
    }

    /// 3 pieces of 10.00, one of them prepaid, with 1.00 off and one point; the rest is 5.00 of balance and WeChat money.
    fn frozen() -> Frozen {
        let share = Share {
            amount: fen(3000),
            coupon_discount: fen(100),
            points_used: Points::new(1).unwrap(),
            points_discount: fen(100),
            prepaid_quantity: 1,
            prepaid_covered: fen(933),
            prepaid_amount: Fen::ZERO,
            balance_amount: fen(500),
            payment_amount: fen(1367),
            staff_discount: Fen::ZERO,
            coins_used: 0,
        };
        assert!(share.adds_up());
        let line = FrozenLine { line_id: "1".to_owned(), quantity: 3, share, grants_coin: true };
        Frozen { lines: vec![line], freight: Share::unpaid(fen(600)), coins_earned: 1 }
    }

    #[test]
    fn three_refunds_of_one_piece_by_hand() {
        let frozen = frozen();
        let mut standing = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let taken = Taken::by(&frozen, &standing).unwrap();
            let plan = plan(&frozen, &taken, &[wanted(0, 1)], FreightReturn::WithLastPieces).unwrap();
            let given = &plan.given;
            seen.push((
                given.balance_amount.get(),
                given.payment_amount.get(),
                given.prepaid_quantity,
                given.points_used.get(),
                plan.coins_earned,
            ));
            standing.push(plan);
        }
        // The piece that prepaid goods paid for comes last and gives no money but the freight's.
        assert_eq!(seen, [(250, 683, 0, 0, 0), (250, 684, 0, 0, 0), (0, 600, 1, 1, 1)]);
        let taken = Taken::by(&frozen, &standing).unwrap();
        assert_eq!(taken.lines[0].due, frozen.lines[0].share);
        let refusal = plan(&frozen, &taken, &[wanted(0, 1)], FreightReturn::Keep).unwrap_err();
        assert_eq!(refusal.details["refundable"], 0);
        assert!(Wanted::rest(&frozen, &taken).is_empty());
    }

    #[test]
    fn freight_and_coin_go_with_the_last_piece_that_is_given_back_whoever_asked_last() {
        let frozen = frozen();
        let by = FreightReturn::WithLastPieces;
        let first = plan(&frozen, &Taken::nothing(&frozen), &[wanted(0, 2)], by).unwrap();
        let second = plan(&frozen, &Taken::by(&frozen, [&first]).unwrap(), &[wanted(0, 1)], by).unwrap();
        assert_eq!((second.freight.amount, second.coins_earned), (fen(600), 1), "as it is asked for");
        // The second is given back while the first may still be withdrawn.
        let early = second.carried_out(&frozen, &Taken::nothing(&frozen), by).unwrap();
        assert_eq!((early.freight, early.coins_earned, early.given.payment_amount), (Share::default(), 0, Fen::ZERO));
        let given = Taken::by(&frozen, [&early]).unwrap();
        let late = first.carried_out(&frozen, &given, by).unwrap();
        assert_eq!((late.freight.amount, late.coins_earned), (fen(600), 1));
        let all = Taken::by(&frozen, [&early, &late]).unwrap();
        assert_eq!((all.freight, all.coins_earned), (frozen.freight, 1));
        assert!(all.is_within(&frozen));
        // What was lowered stays lowered, and is never raised.
        let lowered = second.lower_to(fen(200)).unwrap().carried_out(&frozen, &Taken::nothing(&frozen), by).unwrap();
        assert_eq!(lowered.given.money().unwrap(), Fen::ZERO);
        let lowered = first.lower_to(fen(200)).unwrap().carried_out(&frozen, &given, by).unwrap();
        assert_eq!(lowered.given.money().unwrap(), fen(200));
    }

    #[test]
    fn partial_refund_of_a_discounted_order_gives_only_its_part() {
        let share = |amount, coupon, points, paid| Share {
            amount: fen(amount),
            coupon_discount: fen(coupon),
            points_used: Points::new(points).unwrap(),
            points_discount: fen(points * 100),
            payment_amount: fen(paid),
            ..Share::default()
        };
        // 100.00 less a coupon of 20.00 and 10 points, as two lines of 60.00 and 40.00.
        let line = |id: &str, share| FrozenLine { line_id: id.to_owned(), quantity: 1, share, grants_coin: false };
        let lines = vec![line("1", share(6000, 1200, 6, 4200)), line("2", share(4000, 800, 4, 2800))];
        assert!(lines.iter().all(|l| l.share.adds_up()));
        let frozen = Frozen { lines, freight: Share::default(), coins_earned: 0 };
        let plan = plan(&frozen, &Taken::nothing(&frozen), &[wanted(1, 1)], FreightReturn::WithLastPieces).unwrap();
        assert_eq!((plan.given.payment_amount.get(), plan.given.points_used.get()), (2800, 4));
    }

    #[test]
    fn the_coin_goes_with_the_last_piece_that_grants_one_and_with_no_other() {
        let line = |id: &str, grants_coin| FrozenLine {
            line_id: id.to_owned(),
            quantity: 1,
            share: Share::unpaid(fen(100)),
            grants_coin,
        };
        let coins = |grants: [bool; 3], wanted: &[Wanted]| {
            let lines = vec![line("1", grants[0]), line("2", grants[1]), line("3", grants[2])];
            let frozen = Frozen { lines, freight: Share::default(), coins_earned: 1 };
            plan(&frozen, &Taken::nothing(&frozen), wanted, FreightReturn::Keep).unwrap().coins_earned
        };
        let two = [true, false, true];
        assert_eq!(coins(two, &[wanted(0, 1)]), 0);
        assert_eq!(coins(two, &[wanted(0, 1), wanted(1, 1)]), 0);
        assert_eq!(coins(two, &[wanted(0, 1), wanted(2, 1)]), 1);
        assert_eq!(coins([false; 3], &[wanted(0, 1), wanted(1, 1), wanted(2, 1)]), 0);
    }

    #[test]
    fn shipped_freight_is_kept_by_the_usual_rule() {
        let frozen = frozen();
        let rule = FreightRule::default();
        let refund = |shipped| {
            let plan = plan(&frozen, &Taken::nothing(&frozen), &[wanted(0, 3)], rule.at(shipped)).unwrap();
            (plan.freight.payment_amount.get(), plan.given.payment_amount.get())
        };
        assert_eq!((refund(false), refund(true)), ((600, 1967), (0, 1367)));
    }

    #[test]
    fn what_staff_withhold_does_not_come_back_with_the_next_piece() {
        let frozen = frozen();
        let first = plan(&frozen, &Taken::nothing(&frozen), &[wanted(0, 1)], FreightReturn::Keep).unwrap();
        let refusal = first.clone().lower_to(fen(934)).unwrap_err();
        assert_eq!(refusal.details["max"], "9.33");
        let first = first.lower_to(fen(100)).unwrap();
        assert_eq!((first.given.balance_amount.get(), first.given.payment_amount.get()), (27, 73));
        let taken = Taken::by(&frozen, [&first]).unwrap();
        let rest = plan(&frozen, &taken, &Wanted::rest(&frozen, &taken), FreightReturn::Keep).unwrap();
        assert_eq!((rest.given.balance_amount.get(), rest.given.payment_amount.get()), (250, 684));
    }

    #[test]
    fn what_cannot_be_refunded_is_refused_by_name() {
        let frozen = frozen();
        let field = |wanted: &[Wanted]| {
            let refusal = plan(&frozen, &Taken::nothing(&frozen), wanted, FreightReturn::Keep).unwrap_err();
            refusal.details["field"].clone()
        };
        assert_eq!(field(&[]), "items");
        assert_eq!(field(&[wanted(1, 1)]), "items[0].lineId");
        assert_eq!(field(&[wanted(0, 0)]), "items[0].quantity");
        assert_eq!(field(&[wanted(0, -1)]), "items[0].quantity");
        assert_eq!(field(&[wanted(0, 4)]), "items[0].quantity");
        assert_eq!(field(&[wanted(0, 1), wanted(0, 1)]), "items[1].lineId");
    }

    #[test]
    fn a_points_mall_order_gives_points_and_coins_back() {
        let share = Share { points_used: Points::new(100).unwrap(), coins_used: 3, ..Share::default() };
        let line = FrozenLine { line_id: "1".to_owned(), quantity: 2, share, grants_coin: false };
        let frozen = Frozen { lines: vec![line], freight: Share::default(), coins_earned: 0 };
        let first = plan(&frozen, &Taken::nothing(&frozen), &[wanted(0, 1)], FreightReturn::Keep).unwrap();
        assert_eq!((first.given.points_used.get(), first.given.coins_used), (50, 1));
        let taken = Taken::by(&frozen, [&first]).unwrap();
        let second = plan(&frozen, &taken, &[wanted(0, 1)], FreightReturn::Keep).unwrap();
        assert_eq!((second.given.points_used.get(), second.given.coins_used), (50, 2));
    }

    #[test]
    fn wechat_has_limits() {
        let paid = DateTime::from_timestamp(1_760_000_000, 0).unwrap();
        let after = |seconds| paid + TimeDelta::seconds(seconds);
        let year = 365 * 24 * 3600;
        assert_eq!(wechat_takes(paid, &[], after(year)), Ok(()));
        assert_eq!(wechat_takes(paid, &[], after(year + 1)), Err(WechatLimit::TooLate));
        assert_eq!(
            wechat_takes(paid, &[after(100), after(40)], after(159)),
            Err(WechatLimit::TooSoon { from: after(160) })
        );
        assert_eq!(wechat_takes(paid, &[after(100), after(40)], after(160)), Ok(()));
        assert_eq!(wechat_takes(paid, &[after(0); 49], after(60)), Ok(()));
        assert_eq!(wechat_takes(paid, &[after(0); 50], after(60)), Err(WechatLimit::TooMany));
    }

    /// An order, and a mill that deals pieces out in a random order and in random bundles.
    fn dealt() -> impl Strategy<Value = (Frozen, Vec<Vec<Wanted>>)> {
        (any_order(), any::<u64>(), 1u64..12, 0i64..2).prop_map(|((input, quote), seed, bundle, coins)| {
            let quantities: Vec<i64> = input.lines.iter().map(|l| l.quantity).collect();
            let frozen = freeze(&quote, &quantities, coins);
            let mut state = seed;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let mut left = quantities;
            let mut refunds = Vec::new();
            while left.iter().any(|n| *n > 0) {
                let mut refund: Vec<Wanted> = Vec::new();
                for (i, n) in left.iter_mut().enumerate() {
                    let take = i64::try_from(random(bundle + 1)).unwrap().min(*n);
                    if take > 0 {
                        *n -= take;
                        refund.push(wanted(i, take));
                    }
                }
                if random(2) == 0 {
                    refund.reverse();
                }
                if !refund.is_empty() {
                    refunds.push(refund);
                }
            }
            (frozen, refunds)
        })
    }

    fn total(plans: &[Plan]) -> (Share, i64) {
        let sum = Share::sum(plans.iter().map(|p| &p.given)).unwrap();
        (sum, plans.iter().map(|p| p.coins_earned).sum())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(250))]

        #[test]
        fn any_split_of_refunds_gives_what_one_full_refund_gives((frozen, refunds) in dealt(), shipped in any::<bool>()) {
            let freight = FreightRule::default().at(shipped);
            let nothing = Taken::nothing(&frozen);
            let full = plan(&frozen, &nothing, &Wanted::rest(&frozen, &nothing), freight).unwrap();
            let mut plans: Vec<Plan> = Vec::new();
            for refund in &refunds {
                let taken = Taken::by(&frozen, &plans).unwrap();
                plans.push(plan(&frozen, &taken, refund, freight).unwrap());
                prop_assert!(Taken::by(&frozen, &plans).unwrap().is_within(&frozen));
            }
            prop_assert_eq!(total(&plans), total(std::slice::from_ref(&full)));
            let paid = Share::sum(frozen.lines.iter().map(|l| &l.share)).unwrap();
            let freight_back = if shipped { Share::default() } else { frozen.freight };
            prop_assert_eq!(full.given, paid.checked_add(&freight_back).unwrap());
            let granting = frozen.lines.iter().any(|l| l.grants_coin);
            prop_assert_eq!(full.coins_earned, if granting { frozen.coins_earned } else { 0 });
        }

        #[test]
        fn withdrawn_refunds_leave_nothing_behind((frozen, refunds) in dealt(), withdrawn in any::<u64>()) {
            let freight = FreightReturn::WithLastPieces;
            let mut standing: Vec<Plan> = Vec::new();
            for (i, refund) in refunds.iter().enumerate() {
                let taken = Taken::by(&frozen, &standing).unwrap();
                let plan = plan(&frozen, &taken, refund, freight).unwrap();
                // Each may be taken back at once or while later ones stand.
                standing.push(plan);
                if withdrawn.rotate_left(u32::try_from(i % 64).unwrap()) & 1 == 1 {
                    let at = usize::try_from(withdrawn % 1000).unwrap() % standing.len();
                    standing.remove(at);
                }
                prop_assert!(Taken::by(&frozen, &standing).unwrap().is_within(&frozen));
            }
            let taken = Taken::by(&frozen, &standing).unwrap();
            let rest = Wanted::rest(&frozen, &taken);
            if !rest.is_empty() {
                standing.push(plan(&frozen, &taken, &rest, freight).unwrap());
            }
            let all = Share::sum(frozen.lines.iter().map(|l| &l.share).chain([&frozen.freight])).unwrap();
            prop_assert_eq!(total(&standing).0, all);
        }

        #[test]
        fn lowered_refunds_give_exactly_that_and_never_more_of_a_tender((frozen, refunds) in dealt(), share in 0i64..=1000) {
            let mut plans: Vec<Plan> = Vec::new();
            for refund in &refunds {
                let taken = Taken::by(&frozen, &plans).unwrap();
                let plan = plan(&frozen, &taken, refund, FreightReturn::WithLastPieces).unwrap();
                let due = plan.due().unwrap();
                let money = fen(due.money().unwrap().get() * share / 1000);
                let lowered = plan.lower_to(money).unwrap();
                prop_assert_eq!(lowered.given.money().unwrap(), money);
                prop_assert!(lowered.given.is_within(&due));
                plans.push(lowered);
            }
            let taken = Taken::by(&frozen, &plans).unwrap();
            prop_assert!(taken.is_within(&frozen) && Wanted::rest(&frozen, &taken).is_empty());
        }

        /// Orders from before shares were kept are frozen as the calculator would have.
        #[test]
        fn totals_are_spread_as_the_calculator_does((mut input, _) in any_order()) {
            input.coupon = None;
            input.sending = None;
            input.lines.sort_by(|a, b| (&a.product_id, &a.sku_id, a.price, a.quantity).cmp(&(&b.product_id, &b.sku_id, b.price, b.quantity)));
            for line in &mut input.lines {
                line.weight_g = 0;
                line.template_id = None;
            }
            if let Ok(quote) = crate::quote::calculate(&input) {
                let quantities: Vec<i64> = input.lines.iter().map(|l| l.quantity).collect();
                let frozen = freeze(&quote, &quantities, 1);
                let mut lines = frozen.lines.clone();
                for line in &mut lines {
                    let share = &mut line.share;
                    let payment_amount = share.money().unwrap();
                    *share = Share { payment_amount, points_used: Points::ZERO, prepaid_amount: Fen::ZERO, balance_amount: Fen::ZERO, ..*share };
                }
                let t = quote.total;
                let again = Frozen::of_totals(lines, t.points_used, t.prepaid_amount, t.balance_amount, 1);
                prop_assert_eq!(again, Ok(frozen));
            }
        }

        /// One piece more or less than its fair part: rounding never moves more than a fen a tender.
        #[test]
        fn each_refund_is_fair_to_the_fen((frozen, refunds) in dealt()) {
            let mut plans: Vec<Plan> = Vec::new();
            for refund in &refunds {
                let taken = Taken::by(&frozen, &plans).unwrap();
                let plan = plan(&frozen, &taken, refund, FreightReturn::Keep).unwrap();
                for part in &plan.lines {
                    let line = frozen.lines.iter().find(|l| l.line_id == part.line_id).unwrap();
                    let bought = i128::from(line.quantity - line.share.prepaid_quantity);
                    let pieces = i128::from(part.quantity - part.due.prepaid_quantity);
                    let fair = i128::from(line.share.payment_amount.get()) * pieces;
                    let given = i128::from(part.due.payment_amount.get()) * bought;
                    prop_assert!((fair - given).abs() <= bought, "{fair} {given} {bought}");
                }
                plans.push(plan);
            }
        }
    }
}
