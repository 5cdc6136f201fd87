//! Coupons: what one takes off, from which goods, when it may be used, and how often it may be claimed.
//!
//! A user's coupon carries the [`Terms`] of the day it was claimed: a later edit of the definition changes what is handed out
//! from then on, never what somebody already holds. Whether a coupon is still unused is a state (`machine::coupon`), guarded in
//! the store; here is only what follows from terms, goods and time.

use std::borrow::Cow;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::money::{whole, whole_option};
use crate::pricing::allocate;
use crate::{BusinessDay, Code, CouponId, Fen, ProductId, Refusal, UserCouponId, Yuan};

/// A rate is out of this many basis points.
pub const WHOLE_BP: i64 = 10_000;

/// No scope lists more products or categories.
pub const SCOPE_MAX: usize = 500;

/// What a coupon does. The stored texts of `type` are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Benefit {
    /// 满减: a fixed amount off the goods in scope.
    #[serde(rename = "off")]
    Off { off: Fen },
    /// 折扣: `rate_bp` of the price is still paid (8,500 is 85 折). What is taken off is rounded down to the fen and is at
    /// most `cap`.
    #[serde(rename = "rate")]
    Rate {
        #[serde(deserialize_with = "whole")]
        rate_bp: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cap: Option<Fen>,
    },
    /// 免运费: the order's freight off, at most `cap`.
    #[serde(rename = "freight")]
    Freight {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cap: Option<Fen>,
    },
}

/// Which goods count: for the threshold, and as what the amount is taken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Scope {
    #[serde(rename = "all")]
    All,
    #[serde(rename = "categories")]
    Categories { categories: BTreeSet<String> },
    #[serde(rename = "products")]
    Products { products: BTreeSet<ProductId> },
}

impl Scope {
    /// Whether goods of this product and category count.
    pub fn holds(&self, product: &ProductId, category: &str) -> bool {
        match self {
            Self::All => true,
            Self::Categories { categories } => categories.contains(category),
            Self::Products { products } => products.contains(product),
        }
    }
}

/// What a coupon is worth and for what: everything that pricing needs of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    pub coupon_id: CouponId,
    /// Counts the edits of the definition.
    #[serde(deserialize_with = "whole")]
    pub version: i64,
    pub benefit: Benefit,
    /// What the goods in scope must be worth, before any discount; zero for 无门槛.
    #[serde(default)]
    pub threshold: Fen,
    pub scope: Scope,
}

/// From `from` up to `until`, and not at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

impl Window {
    pub fn holds(&self, now: DateTime<Utc>) -> bool {
        self.from <= now && now < self.until
    }
}

/// When a claimed coupon may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Validity {
    /// Within a window that is the same for everybody.
    #[serde(rename = "fixed")]
    Fixed { window: Window },
    /// From the claim until the end of the Shanghai day that comes `days` days later.
    #[serde(rename = "days")]
    Days {
        #[serde(deserialize_with = "whole")]
        days: i64,
    },
}

impl Validity {
    /// The window of a coupon that is claimed now; none when it is beyond the calendar.
    pub fn window(&self, now: DateTime<Utc>) -> Option<Window> {
        match self {
            Self::Fixed { window } => Some(*window),
            Self::Days { days } => {
                let later = now.checked_add_signed(chrono::TimeDelta::try_days(*days)?)?;
                Some(Window { from: now, until: BusinessDay::of(later).end() })
            }
        }
    }
}

/// What a shop issues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    pub name: String,
    pub terms: Terms,
    pub validity: Validity,
    /// When it may be claimed.
    pub claim: Window,
    /// Coupons that one user may claim in all.
    #[serde(default, deserialize_with = "whole_option", skip_serializing_if = "Option::is_none")]
    pub per_user: Option<i64>,
    /// Coupons that may be claimed in all.
    #[serde(default, deserialize_with = "whole_option", skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    #[serde(default)]
    pub paused: bool,
}

impl Definition {
    /// Refuses a definition that can never be used, that names too much or that gives nothing; `INVALID_ARGUMENT` with the
    /// field as it is entered.
    pub fn check(&self) -> Result<(), Refusal> {
        let positive = |field: &str, value: Option<i64>| match value {
            Some(value) if value <= 0 => Err(Refusal::invalid(field, "必须大于 0")),
            _ => Ok(()),
        };
        match self.terms.benefit {
            Benefit::Off { off } => {
                positive("coupon.off", Some(off.get()))?;
                if !self.terms.threshold.is_zero() && off > self.terms.threshold {
                    return Err(Refusal::invalid("coupon.off", "减免金额不能超过使用门槛"));
                }
            }
            Benefit::Rate { rate_bp, cap } => {
                if !(1..WHOLE_BP).contains(&rate_bp) {
                    return Err(Refusal::invalid("coupon.rateBp", "折扣须在 1 到 9999 之间"));
                }
                positive("coupon.cap", cap.map(Fen::get))?;
            }
            Benefit::Freight { cap } => positive("coupon.cap", cap.map(Fen::get))?,
        }
        let (field, listed) = match &self.terms.scope {
            Scope::All => ("coupon", 1),
            Scope::Categories { categories } => ("coupon.categories", categories.len()),
            Scope::Products { products } => ("coupon.productIds", products.len()),
        };
        if !(1..=SCOPE_MAX).contains(&listed) {
            return Err(Refusal::invalid(field, format!("适用范围须有 1 到 {SCOPE_MAX} 项")));
        }
        positive("coupon.perUser", self.per_user)?;
        positive("coupon.total", self.total)?;
        if self.claim.from >= self.claim.until {
            return Err(Refusal::invalid("coupon.claimUntil", "领取时间的结束须晚于开始"));
        }
        match self.validity {
            Validity::Fixed { window } if window.from >= window.until => {
                Err(Refusal::invalid("coupon.validUntil", "有效期的结束须晚于开始"))
            }
            Validity::Fixed { window } if window.until <= self.claim.from => {
                Err(Refusal::invalid("coupon.validUntil", "有效期在领取开始前已结束"))
            }
            Validity::Days { days } if !(0..=3660).contains(&days) => {
                Err(Refusal::invalid("coupon.validDays", "有效天数须在 0 到 3660 之间"))
            }
            Validity::Fixed { .. } | Validity::Days { .. } => Ok(()),
        }
    }

    /// Whether a user who has claimed `by_user` of the `claimed` in all may claim one more now.
    ///
    /// The counters are guarded again where they are counted up; this names the reason.
    pub fn may_claim(&self, by_user: i64, claimed: i64, now: DateTime<Utc>) -> Result<(), Unfit> {
        let reason = if self.paused {
            Reason::Paused
        } else if now < self.claim.from {
            Reason::ClaimNotStarted
        } else if now >= self.claim.until {
            Reason::ClaimEnded
        } else if self.validity.window(now).is_none_or(|w| w.until <= now) {
            Reason::Expired
        } else if self.per_user.is_some_and(|most| by_user >= most) {
            Reason::PerUserLimit
        } else if self.total.is_some_and(|most| claimed >= most) {
            Reason::AllClaimed
        } else {
            return Ok(());
        };
        Err(reason.into())
    }
}

/// A coupon in a user's hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub id: UserCouponId,
    pub terms: Terms,
    pub window: Window,
}

/// Why a coupon does not fit. The texts are stable; programs read them in `details.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    NotStarted,
    Expired,
    OutOfScope,
    BelowThreshold,
    NoFreight,
    NothingToTakeOff,
    Locked,
    Used,
    Paused,
    ClaimNotStarted,
    ClaimEnded,
    PerUserLimit,
    AllClaimed,
}

impl Reason {
    pub const ALL: [Self; 13] = [
        Self::NotStarted,
        Self::Expired,
        Self::OutOfScope,
        Self::BelowThreshold,
        Self::NoFreight,
        Self::NothingToTakeOff,
        Self::Locked,
        Self::Used,
        Self::Paused,
        Self::ClaimNotStarted,
        Self::ClaimEnded,
        Self::PerUserLimit,
        Self::AllClaimed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "NOT_STARTED",
            Self::Expired => "EXPIRED",
            Self::OutOfScope => "OUT_OF_SCOPE",
            Self::BelowThreshold => "BELOW_THRESHOLD",
            Self::NoFreight => "NO_FREIGHT",
            Self::NothingToTakeOff => "NOTHING_TO_TAKE_OFF",
            Self::Locked => "LOCKED",
            Self::Used => "USED",
            Self::Paused => "PAUSED",
            Self::ClaimNotStarted => "CLAIM_NOT_STARTED",
            Self::ClaimEnded => "CLAIM_ENDED",
            Self::PerUserLimit => "PER_USER_LIMIT",
            Self::AllClaimed => "ALL_CLAIMED",
        }
    }

    /// The message for the person holding the phone.
    pub fn message(self) -> &'static str {
        match self {
            Self::NotStarted => "优惠券未到使用时间",
            Self::Expired => "优惠券已过期",
            Self::OutOfScope => "没有适用该优惠券的商品",
            Self::BelowThreshold => "未达到优惠券使用门槛",
            Self::NoFreight => "本单无需运费，不必使用免运费券",
            Self::NothingToTakeOff => "优惠券对本单没有优惠",
            Self::Locked => "优惠券已被其他订单占用",
            Self::Used => "优惠券已使用",
            Self::Paused => "优惠券已停止领取",
            Self::ClaimNotStarted => "优惠券尚未开始领取",
            Self::ClaimEnded => "优惠券领取已结束",
            Self::PerUserLimit => "您已达到领取上限",
            Self::AllClaimed => "优惠券已领完",
        }
    }
}

/// A coupon that does not fit, and by how much the goods are too few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit {
    pub reason: Reason,
    /// What the goods in scope lack to the threshold.
    pub lacks: Option<Fen>,
}

impl From<Reason> for Unfit {
    fn from(reason: Reason) -> Self {
        Self { reason, lacks: None }
    }
}

impl From<Unfit> for Refusal {
    /// `COUPON_NOT_APPLICABLE` with `details.reason`, and `details.lacks` in yuan below the threshold.
    fn from(unfit: Unfit) -> Self {
        let message = match unfit.lacks {
            Some(lacks) => Cow::Owned(format!("还差 {} 元可用该优惠券", Yuan(lacks))),
            None => Cow::Borrowed(unfit.reason.message()),
        };
        let refusal =
            Self::new(Code::CouponNotApplicable).with_message(message).detail("reason", unfit.reason.as_str());
        match unfit.lacks {
            Some(lacks) => refusal.detail("lacks", Yuan(lacks).to_string()),
            None => refusal,
        }
    }
}

/// One line as a coupon sees it: its worth before any discount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goods<'a> {
    pub product: &'a ProductId,
    pub category: &'a str,
    pub amount: Fen,
}

/// What a coupon takes off: from each line, and from the freight. One of the two is always zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saving {
    pub lines: Vec<Fen>,
    pub goods: Fen,
    pub freight: Fen,
}

impl Saving {
    /// What it saves in all. Only one of the two is not zero.
    pub fn total(&self) -> Fen {
        self.goods.max(self.freight)
    }
}

/// What a coupon takes off these goods and this freight now, or why nothing.
///
/// Never more than the goods in scope are worth, and never a fen off goods out of scope. What is taken off goods is spread over
/// those in scope in proportion to their amounts, by largest remainder. 免运费 takes off the whole order's freight; its scope
/// and threshold only decide whether it may.
pub fn apply(held: &Held, goods: &[Goods<'_>], freight: Fen, now: DateTime<Utc>) -> Result<Saving, Unfit> {
    if now < held.window.from {
        return Err(Reason::NotStarted.into());
    }
    if now >= held.window.until {
        return Err(Reason::Expired.into());
    }
    let scope = &held.terms.scope;
    if !goods.iter().any(|g| scope.holds(g.product, g.category)) {
        return Err(Reason::OutOfScope.into());
    }
    let weights: Vec<Fen> =
        goods.iter().map(|g| if scope.holds(g.product, g.category) { g.amount } else { Fen::ZERO }).collect();
    let worth = Fen::sum(weights.iter().copied()).map_err(|_| Unfit::from(Reason::NothingToTakeOff))?;
    if let Ok(lacks) = held.terms.threshold.checked_sub(worth)
        && !lacks.is_zero()
    {
        return Err(Unfit { reason: Reason::BelowThreshold, lacks: Some(lacks) });
    }
    let (off_goods, off_freight) = match held.terms.benefit {
        Benefit::Off { off } => (off.min(worth), Fen::ZERO),
        Benefit::Rate { rate_bp, cap } => {
            let off = rate_off_rounded_down(worth, rate_bp);
            (cap.map_or(off, |cap| off.min(cap)), Fen::ZERO)
        }
        Benefit::Freight { .. } if freight.is_zero() => return Err(Reason::NoFreight.into()),
        Benefit::Freight { cap } => (Fen::ZERO, cap.map_or(freight, |cap| freight.min(cap))),
    };
    if off_goods.is_zero() && off_freight.is_zero() {
        return Err(Reason::NothingToTakeOff.into());
    }
    let lines = if off_goods.is_zero() { vec![Fen::ZERO; goods.len()] } else { allocate(off_goods, &weights) };
    Ok(Saving { lines, goods: off_goods, freight: off_freight })
}

/// What a rate takes off an amount; nothing if the rate is none.
fn rate_off_rounded_down(amount: Fen, rate_bp: i64) -> Fen {
    let off_bp = WHOLE_BP.saturating_sub(rate_bp).clamp(0, WHOLE_BP);
    let off = i128::from(amount.get()).saturating_mul(i128::from(off_bp)).div_euclid(i128::from(WHOLE_BP));
    i64::try_from(off).ok().and_then(|off| Fen::new(off).ok()).unwrap_or(Fen::ZERO)
}

/// The coupon that saves most, with its place in the list; none if none fits.
///
/// Of equal savings the one that expires first is used, then the one with the smaller id: the choice does not depend on the
/// order of the list.
pub fn best(held: &[Held], goods: &[Goods<'_>], freight: Fen, now: DateTime<Utc>) -> Option<(usize, Saving)> {
    held.iter()
        .enumerate()
        .filter_map(|(i, h)| apply(h, goods, freight, now).ok().map(|saving| (i, h, saving)))
        .min_by_key(|(_, h, saving)| (std::cmp::Reverse(saving.total()), h.window.until, h.id.clone()))
        .map(|(i, _, saving)| (i, saving))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fen(n: i64) -> Fen {
        Fen::new(n).unwrap()
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
    }

    fn product(n: u8) -> ProductId {
        ProductId::parse(&format!("p-{n}")).unwrap()
    }

    fn held(id: &str, benefit: Benefit, threshold: i64, scope: Scope) -> Held {
        Held {
            id: UserCouponId::parse(id).unwrap(),
            terms: Terms {
                coupon_id: CouponId::parse("c").unwrap(),
                version: 1,
                benefit,
                threshold: fen(threshold),
                scope,
            },
            window: Window { from: at(0), until: at(1000) },
        }
    }

    fn off(n: i64) -> Benefit {
        Benefit::Off { off: fen(n) }
    }

    fn fruit() -> Scope {
        Scope::Categories { categories: BTreeSet::from(["水果".to_owned()]) }
    }

    #[test]
    fn a_coupon_by_hand() {
        let (apple, tea) = (product(1), product(2));
        let goods = [
            Goods { product: &apple, category: "水果", amount: fen(3000) },
            Goods { product: &tea, category: "茶叶", amount: fen(7000) },
        ];
        let check = |held: &Held, freight: i64| {
            apply(held, &goods, fen(freight), at(10))
                .map(|s| (s.lines.iter().map(|l| l.get()).collect::<Vec<_>>(), s.freight.get()))
                .map_err(|u| (u.reason, u.lacks.map(Fen::get)))
        };
        let rate = |rate_bp, cap: Option<i64>| Benefit::Rate { rate_bp, cap: cap.map(fen) };
        let tea_only = Scope::Products { products: BTreeSet::from([product(2)]) };
        let unknown = Scope::Products { products: BTreeSet::from([product(9)]) };
        for (benefit, threshold, scope, freight, expected) in [
            (off(1000), 10_000, Scope::All, 0, Ok((vec![300, 700], 0))),
            (off(1000), 10_001, Scope::All, 0, Err((Reason::BelowThreshold, Some(1)))),
            // Larger than the goods in scope: they cost nothing, the others their price.
            (off(5000), 0, fruit(), 0, Ok((vec![3000, 0], 0))),
            (off(1000), 5000, fruit(), 0, Err((Reason::BelowThreshold, Some(2000)))),
            (off(1000), 0, unknown, 0, Err((Reason::OutOfScope, None))),
            (rate(8500, None), 0, Scope::All, 0, Ok((vec![450, 1050], 0))),
            (rate(8500, Some(1000)), 0, Scope::All, 0, Ok((vec![300, 700], 0))),
            (rate(9999, None), 0, tea_only, 0, Err((Reason::NothingToTakeOff, None))),
            (Benefit::Freight { cap: None }, 0, Scope::All, 1200, Ok((vec![0, 0], 1200))),
            (Benefit::Freight { cap: Some(fen(800)) }, 0, Scope::All, 1200, Ok((vec![0, 0], 800))),
            (Benefit::Freight { cap: None }, 0, Scope::All, 0, Err((Reason::NoFreight, None))),
        ] {
            assert_eq!(
                check(&held("u", benefit, threshold, scope.clone()), freight),
                expected,
                "{benefit:?} {scope:?}"
            );
        }
    }

    #[test]
    fn a_coupon_is_used_within_its_window_and_not_at_its_end() {
        let apple = product(1);
        let goods = [Goods { product: &apple, category: "水果", amount: fen(3000) }];
        let held = held("u", off(100), 0, Scope::All);
        let check = |now| apply(&held, &goods, Fen::ZERO, now).err().map(|u| u.reason);
        assert_eq!(check(at(-1)), Some(Reason::NotStarted));
        assert_eq!((check(at(0)), check(at(999))), (None, None));
        assert_eq!(check(at(1000)), Some(Reason::Expired));
    }

    #[test]
    fn a_refusal_names_its_reason_and_what_is_lacking() {
        let refusal = Refusal::from(Unfit { reason: Reason::BelowThreshold, lacks: Some(fen(1250)) });
        assert_eq!(refusal.code, Code::CouponNotApplicable);
        assert_eq!(refusal.message, "还差 12.50 元可用该优惠券");
        assert_eq!(
            (&refusal.details["reason"], &refusal.details["lacks"]),
            (&"BELOW_THRESHOLD".into(), &"12.50".into())
        );
        let texts: BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(texts.len(), Reason::ALL.len());
    }

    #[test]
    fn of_equal_coupons_the_first_to_expire_is_used() {
        let apple = product(1);
        let goods = [Goods { product: &apple, category: "水果", amount: fen(3000) }];
        let mut all = [held("u1", off(100), 0, Scope::All), held("u2", off(100), 0, Scope::All)];
        let best_of = |all: &[Held]| best(all, &goods, Fen::ZERO, at(1)).unwrap().0;
        assert_eq!(best_of(&all), 0);
        all[1].window.until = at(999);
        assert_eq!(best_of(&all), 1);
        all[0].terms.benefit = off(101);
        assert_eq!(best_of(&all), 0);
        assert_eq!(best(&all, &goods, Fen::ZERO, at(1000)), None);
    }

    fn definition() -> Definition {
        Definition {
            name: "满100减10".to_owned(),
            terms: held("u", off(1000), 10_000, Scope::All).terms,
            validity: Validity::Days { days: 7 },
            claim: Window { from: at(0), until: at(1000) },
            per_user: Some(2),
            total: Some(100),
            paused: false,
        }
    }

    #[test]
    fn claims_have_limits() {
        let claim = |d: &Definition, by_user, claimed, s| d.may_claim(by_user, claimed, at(s)).err().map(|u| u.reason);
        let d = definition();
        assert_eq!(claim(&d, 1, 99, 0), None);
        assert_eq!(claim(&d, 2, 99, 0), Some(Reason::PerUserLimit));
        assert_eq!(claim(&d, 0, 100, 0), Some(Reason::AllClaimed));
        assert_eq!(claim(&d, 0, 0, -1), Some(Reason::ClaimNotStarted));
        assert_eq!(claim(&d, 0, 0, 1000), Some(Reason::ClaimEnded));
        assert_eq!(claim(&Definition { paused: true, ..definition() }, 0, 0, 0), Some(Reason::Paused));
        let over = Validity::Fixed { window: Window { from: at(0), until: at(500) } };
        assert_eq!(claim(&Definition { validity: over, ..definition() }, 0, 0, 500), Some(Reason::Expired));
        let free = Definition { per_user: None, total: None, ..definition() };
        assert_eq!(claim(&free, i64::MAX, i64::MAX, 0), None);
    }

    #[test]
    fn days_end_with_the_shanghai_day() {
        let now = "2026-11-21T15:00:00Z".parse().unwrap();
        let window = Validity::Days { days: 1 }.window(now).unwrap();
        assert_eq!((window.from, window.until), (now, "2026-11-22T16:00:00Z".parse().unwrap()));
    }

    #[test]
    fn definitions_that_make_no_sense_are_refused() {
        assert_eq!(definition().check(), Ok(()));
        let field = |change: &dyn Fn(&mut Definition)| {
            let mut d = definition();
            change(&mut d);
            d.check().unwrap_err().details["field"].clone()
        };
        assert_eq!(field(&|d| d.terms.benefit = off(0)), "coupon.off");
        assert_eq!(field(&|d| d.terms.benefit = off(10_001)), "coupon.off");
        assert_eq!(field(&|d| d.terms.benefit = Benefit::Rate { rate_bp: 10_000, cap: None }), "coupon.rateBp");
        assert_eq!(field(&|d| d.terms.benefit = Benefit::Rate { rate_bp: 0, cap: None }), "coupon.rateBp");
        assert_eq!(field(&|d| d.terms.benefit = Benefit::Freight { cap: Some(Fen::ZERO) }), "coupon.cap");
        assert_eq!(field(&|d| d.terms.scope = Scope::Products { products: BTreeSet::new() }), "coupon.productIds");
        assert_eq!(field(&|d| d.per_user = Some(0)), "coupon.perUser");
        assert_eq!(field(&|d| d.total = Some(-1)), "coupon.total");
        assert_eq!(field(&|d| d.claim.until = at(0)), "coupon.claimUntil");
        assert_eq!(field(&|d| d.validity = Validity::Days { days: -1 }), "coupon.validDays");
        let over = Window { from: at(-10), until: at(0) };
        assert_eq!(field(&|d| d.validity = Validity::Fixed { window: over }), "coupon.validUntil");
    }

    #[test]
    fn stored_texts_are_a_contract() {
        let json = serde_json::to_value(definition()).unwrap();
        assert_eq!(
            json["terms"],
            serde_json::json!({
                "couponId": "c", "version": 1, "benefit": {"type": "off", "off": 1000}, "threshold": 10_000,
                "scope": {"type": "all"},
            })
        );
        assert_eq!(json["validity"], serde_json::json!({"type": "days", "days": 7}));
        assert_eq!(serde_json::from_value::<Definition>(json).unwrap(), definition());
        let rate: Benefit = serde_json::from_str(r#"{"type":"rate","rateBp":8500.0,"cap":100}"#).unwrap();
        assert_eq!(rate, Benefit::Rate { rate_bp: 8500, cap: Some(fen(100)) });
        let mut json = serde_json::to_value(definition()).unwrap();
        json["total"] = serde_json::json!(50.0);
        json["perUser"] = serde_json::Value::Null;
        let read: Definition = serde_json::from_value(json).unwrap();
        assert_eq!((read.total, read.per_user), (Some(50), None));
    }

    fn any_benefit() -> impl Strategy<Value = Benefit> {
        prop_oneof![
            (1i64..50_000).prop_map(off),
            (1i64..10_000, prop::option::of(1i64..20_000))
                .prop_map(|(rate_bp, cap)| Benefit::Rate { rate_bp, cap: cap.map(fen) }),
            prop::option::of(1i64..3000).prop_map(|cap| Benefit::Freight { cap: cap.map(fen) }),
        ]
    }

    fn any_scope() -> impl Strategy<Value = Scope> {
        prop_oneof![
            Just(Scope::All),
            Just(fruit()),
            prop::collection::btree_set((0u8..6).prop_map(product), 1..4)
                .prop_map(|products| Scope::Products { products }),
        ]
    }

    proptest! {
        #[test]
        fn a_coupon_never_takes_more_than_its_goods_are_worth(
            lines in prop::collection::vec((0u8..6, any::<bool>(), 0i64..100_000), 0..20),
            benefit in any_benefit(), scope in any_scope(), threshold in 0i64..20_000, freight in 0i64..3000,
        ) {
            let products: Vec<ProductId> = (0..6).map(product).collect();
            let goods: Vec<Goods<'_>> = lines
                .iter()
                .map(|(p, fruit, amount)| Goods {
                    product: &products[usize::from(*p)],
                    category: if *fruit { "水果" } else { "茶叶" },
                    amount: fen(*amount),
                })
                .collect();
            let held = held("u", benefit, threshold, scope.clone());
            let in_scope = |g: &Goods<'_>| scope.holds(g.product, g.category);
            let worth: i64 = goods.iter().filter(|g| in_scope(g)).map(|g| g.amount.get()).sum();
            match apply(&held, &goods, fen(freight), at(1)) {
                Ok(saving) => {
                    prop_assert!(worth >= threshold);
                    prop_assert_eq!(saving.lines.iter().map(|l| l.get()).sum::<i64>(), saving.goods.get());
                    prop_assert!(saving.goods.get() <= worth && saving.freight.get() <= freight);
                    prop_assert!(saving.goods.is_zero() != saving.freight.is_zero());
                    for (line, g) in saving.lines.iter().zip(&goods) {
                        let most = if in_scope(g) { g.amount } else { Fen::ZERO };
                        prop_assert!(*line <= most);
                    }
                }
                Err(unfit) => {
                    let below = worth < threshold && goods.iter().any(in_scope);
                    prop_assert_eq!(unfit.reason == Reason::BelowThreshold, below);
                    prop_assert_eq!(unfit.lacks.map(Fen::get), below.then_some(threshold - worth));
                }
            }
        }

        #[test]
        fn the_best_coupon_saves_most_in_whatever_order_they_come(
            coupons in prop::collection::vec((any_benefit(), any_scope(), 0i64..20_000, 1i64..5), 0..8),
            amount in 0i64..50_000, freight in 0i64..3000, rotate in 0usize..8,
        ) {
            let apple = product(1);
            let goods = [Goods { product: &apple, category: "水果", amount: fen(amount) }];
            let mut all: Vec<Held> = coupons
                .into_iter()
                .enumerate()
                .map(|(i, (benefit, scope, threshold, life))| {
                    let mut held = held(&format!("u{i}"), benefit, threshold, scope);
                    held.window.until = at(life);
                    held
                })
                .collect();
            let choose = |all: &[Held]| best(all, &goods, fen(freight), at(2)).map(|(i, s)| (all[i].id.clone(), s));
            let first = choose(&all);
            for held in &all {
                if let Ok(saving) = apply(held, &goods, fen(freight), at(2)) {
                    prop_assert!(saving.total() <= first.as_ref().unwrap().1.total());
                }
            }
            let n = all.len().max(1);
            all.rotate_left(rotate % n);
            prop_assert_eq!(choose(&all), first);
        }
    }
}
