//! Who pays what part of an amount.

use serde::{Deserialize, Serialize};

use crate::money::{AmountError, whole};
use crate::{Fen, Points};

fn is_zero(n: &i64) -> bool {
    *n == 0
}

fn is_nothing(fen: &Fen) -> bool {
    fen.is_zero()
}

/// An amount and everything that it was paid with: of a line, of the freight, of a whole order, of what goes back.
///
/// `amount = coupon_discount + points_discount + staff_discount + prepaid_covered + prepaid_amount + balance_amount +
/// payment_amount`; the counts (`points_used`, `prepaid_quantity`, `coins_used`) stand beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// At list price.
    pub amount: Fen,
    /// What the coupon took off.
    pub coupon_discount: Fen,
    pub points_used: Points,
    /// What those points took off.
    pub points_discount: Fen,
    /// Pieces that prepaid goods pay for.
    #[serde(deserialize_with = "whole")]
    pub prepaid_quantity: i64,
    /// What those pieces are worth after coupon and points.
    pub prepaid_covered: Fen,
    /// From prepaid money.
    pub prepaid_amount: Fen,
    /// From the member's balance.
    pub balance_amount: Fen,
    /// Through WeChat Pay.
    pub payment_amount: Fen,
    /// What staff took off before it was paid.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub staff_discount: Fen,
    /// Coins that a points-mall order cost.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "is_zero")]
    pub coins_used: i64,
}

impl Share {
    /// A share in which nothing is paid yet: all of it is left for WeChat Pay.
    pub fn unpaid(amount: Fen) -> Self {
        Self { amount, payment_amount: amount, ..Self::default() }
    }

    fn numbers(&self) -> [i64; 11] {
        [
            self.amount.get(),
            self.coupon_discount.get(),
            self.points_used.get(),
            self.points_discount.get(),
            self.prepaid_quantity,
            self.prepaid_covered.get(),
            self.prepaid_amount.get(),
            self.balance_amount.get(),
            self.payment_amount.get(),
            self.staff_discount.get(),
            self.coins_used,
        ]
    }

    /// The share whose every number is `f` of these shares' numbers; an error if one leaves its range.
    pub(crate) fn zip(&self, other: &Self, f: impl Fn(i64, i64) -> i64) -> Result<Self, AmountError> {
        let (a, b) = (self.numbers(), other.numbers());
        let mut pairs = a.into_iter().zip(b);
        let mut next = || pairs.next().map(|(a, b)| f(a, b)).ok_or(AmountError::OutOfRange);
        let count = |n: i64| if n < 0 { Err(AmountError::Negative) } else { Ok(n) };
        Ok(Self {
            amount: Fen::new(next()?)?,
            coupon_discount: Fen::new(next()?)?,
            points_used: Points::new(next()?)?,
            points_discount: Fen::new(next()?)?,
            prepaid_quantity: count(next()?)?,
            prepaid_covered: Fen::new(next()?)?,
            prepaid_amount: Fen::new(next()?)?,
            balance_amount: Fen::new(next()?)?,
            payment_amount: Fen::new(next()?)?,
            staff_discount: Fen::new(next()?)?,
            coins_used: count(next()?)?,
        })
    }

    pub fn checked_add(&self, other: &Self) -> Result<Self, AmountError> {
        self.zip(other, i64::saturating_add)
    }

    /// An error if any number would be negative.
    pub fn checked_sub(&self, other: &Self) -> Result<Self, AmountError> {
        self.zip(other, i64::saturating_sub)
    }

    /// The sum of all; an error when a number leaves its range.
    pub fn sum<'a>(shares: impl IntoIterator<Item = &'a Self>) -> Result<Self, AmountError> {
        shares.into_iter().try_fold(Self::default(), |sum, share| sum.checked_add(share))
    }

    /// Whether no number is larger than the other's.
    pub fn is_within(&self, most: &Self) -> bool {
        self.numbers().iter().zip(most.numbers()).all(|(n, most)| *n <= most)
    }

    /// What coupon, points and staff took off.
    pub fn discount(&self) -> Result<Fen, AmountError> {
        Fen::sum([self.coupon_discount, self.points_discount, self.staff_discount])
    }

    /// What is left of the amount after that.
    pub fn payable(&self) -> Result<Fen, AmountError> {
        self.amount.checked_sub(self.discount()?)
    }

    /// Prepaid money, balance and WeChat money: what was really paid, and what can go back as money.
    pub fn money(&self) -> Result<Fen, AmountError> {
        Fen::sum([self.prepaid_amount, self.balance_amount, self.payment_amount])
    }

    /// Whether what it was paid with is exactly its amount.
    #[cfg(test)]
    pub(crate) fn adds_up(&self) -> bool {
        let paid = [self.coupon_discount, self.points_discount, self.staff_discount, self.prepaid_covered].into_iter();
        let paid = paid.chain([self.prepaid_amount, self.balance_amount, self.payment_amount]);
        Fen::sum(paid) == Ok(self.amount)
    }
}
