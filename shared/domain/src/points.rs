//! Earning points from spending, with the remainder carried over.

use crate::money::{AmountError, Fen, Points};

/// What a paid amount does to a member's points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earned {
    /// Points to add.
    pub points: Points,
    /// The remainder that stands afterwards, always below one point's worth.
    pub carry: Fen,
}

/// Adds `paid` to the carried remainder and turns every full `fen_per_point` into a point.
///
/// Two orders of half a point's worth earn one point between them.
pub fn earn(carry: Fen, paid: Fen, fen_per_point: i64) -> Result<Earned, AmountError> {
    let total = carry.checked_add(paid)?.get();
    let points = total.checked_div_euclid(fen_per_point).ok_or(AmountError::OutOfRange)?;
    let rest = total.checked_rem_euclid(fen_per_point).ok_or(AmountError::OutOfRange)?;
    Ok(Earned { points: Points::new(points)?, carry: Fen::new(rest)? })
}

/// What a refunded spend takes back from a member's points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenBack {
    /// Points to take; what the member no longer has of them is recorded as owed.
    pub points: Points,
    /// The remainder that stands afterwards.
    pub carry: Fen,
}

/// Takes `refunded` off the spend that earned points: the exact reverse of [`earn`].
///
/// Whatever order payments and refunds come in, the points are those that the net spend earns.
pub fn take_back(carry: Fen, refunded: Fen, fen_per_point: i64) -> Result<TakenBack, AmountError> {
    if let Ok(carry) = carry.checked_sub(refunded) {
        return Ok(TakenBack { points: Points::ZERO, carry });
    }
    let below = carry.get().saturating_sub(refunded.get());
    let points = below.checked_div_euclid(fen_per_point).ok_or(AmountError::OutOfRange)?;
    let carry = below.checked_rem_euclid(fen_per_point).ok_or(AmountError::OutOfRange)?;
    Ok(TakenBack { points: Points::new(points.saturating_neg())?, carry: Fen::new(carry)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fen(n: i64) -> Fen {
        Fen::new(n).unwrap()
    }

    #[test]
    fn two_halves_make_one_point() {
        let first = earn(Fen::ZERO, fen(5000), 10_000).unwrap();
        assert_eq!((first.points.get(), first.carry.get()), (0, 5000));
        let second = earn(first.carry, fen(5000), 10_000).unwrap();
        assert_eq!((second.points.get(), second.carry.get()), (1, 0));
    }

    #[test]
    fn a_rate_of_zero_is_an_error_not_a_panic() {
        assert!(earn(Fen::ZERO, fen(1), 0).is_err());
    }

    #[test]
    fn a_refund_takes_back_what_the_rest_no_longer_earns() {
        let back = |carry, refunded| {
            let back = take_back(fen(carry), fen(refunded), 10_000).unwrap();
            (back.points.get(), back.carry.get())
        };
        assert_eq!(back(5000, 5000), (0, 0));
        assert_eq!(back(5000, 5001), (1, 9999));
        assert_eq!(back(0, 10_000), (1, 0));
        assert_eq!(back(0, 0), (0, 0));
        // A remainder from when points were dearer stays whole.
        assert_eq!(back(15_000, 1000), (0, 14_000));
        assert!(take_back(fen(0), fen(1), 0).is_err());
    }

    proptest! {
        #[test]
        fn refunds_in_any_split_leave_what_the_net_spend_earns(
            parts in prop::collection::vec((0i64..1_000_000, 0i64..=100), 1..40), rate in 1i64..50_000,
        ) {
            let (mut carry, mut points, mut net) = (Fen::ZERO, 0, 0);
            for (paid, percent) in &parts {
                let earned = earn(carry, fen(*paid), rate).unwrap();
                let refunded = paid * percent / 100;
                let back = take_back(earned.carry, fen(refunded), rate).unwrap();
                points += earned.points.get() - back.points.get();
                net += paid - refunded;
                carry = back.carry;
            }
            prop_assert_eq!((points, carry.get()), (net / rate, net % rate));
        }

        #[test]
        fn any_split_of_spending_earns_the_same(parts in prop::collection::vec(0i64..1_000_000, 1..40), rate in 1i64..50_000) {
            let (mut carry, mut points) = (Fen::ZERO, 0);
            for part in &parts {
                let earned = earn(carry, fen(*part), rate).unwrap();
                prop_assert!(earned.carry.get() < rate);
                points += earned.points.get();
                carry = earned.carry;
            }
            let total: i64 = parts.iter().sum();
            prop_assert_eq!(points, total / rate);
            prop_assert_eq!(carry.get(), total % rate);
        }
    }
}
