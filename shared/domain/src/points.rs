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

    proptest! {
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
