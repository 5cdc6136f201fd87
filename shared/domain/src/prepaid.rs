//! Prepaid money and goods: which records pay, oldest first.

use crate::money::Fen;
use crate::pricing::allocate;

/// What one record gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The record's place in the list that was offered.
    pub index: usize,
    /// Balance before.
    pub before: i64,
    /// Taken, at least 1.
    pub take: i64,
}

/// Takes up to `want` from the balances in their order; gives what is there if they hold less.
pub fn draw(balances: &[i64], want: i64) -> Vec<Draw> {
    let mut left = want;
    let mut draws = Vec::new();
    for (index, before) in balances.iter().copied().enumerate() {
        let take = before.min(left);
        if take > 0 {
            draws.push(Draw { index, before, take });
            left = left.saturating_sub(take);
        }
    }
    draws
}

/// What each of these draws gets back of `amount` more, after `before` went back already: the last draw first, each up to what
/// it gave. In the order of `takes`; what goes beyond all of them is left out.
///
/// What a draw has had back depends on the sum alone, so that amounts in any split restore the same.
pub fn give_back(takes: &[i64], before: i64, amount: i64) -> Vec<i64> {
    let (mut before, mut amount) = (before.max(0), amount.max(0));
    let mut parts: Vec<i64> = takes
        .iter()
        .rev()
        .map(|take| {
            let had = before.min(*take).max(0);
            before = before.saturating_sub(had);
            let part = amount.min(take.saturating_sub(had)).max(0);
            amount = amount.saturating_sub(part);
            part
        })
        .collect();
    parts.reverse();
    parts
}

/// The sum of what was drawn.
pub fn drawn(draws: &[Draw]) -> i64 {
    draws.iter().fold(0i64, |sum, d| sum.saturating_add(d.take))
}

/// What `covered` of a line's `quantity` pieces are worth, out of the line's payable amount; the whole of it when all are covered.
pub fn covered_value(payable: Fen, covered: i64, quantity: i64) -> Fen {
    let weight = |n: i64| Fen::new(n.max(0)).unwrap_or(Fen::ZERO);
    let parts = allocate(payable, &[weight(covered), weight(quantity.saturating_sub(covered))]);
    if covered <= 0 { Fen::ZERO } else { parts.first().copied().unwrap_or(Fen::ZERO) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn oldest_first_and_never_more_than_there_is() {
        let flat = |draws: Vec<Draw>| draws.iter().map(|d| (d.index, d.take)).collect::<Vec<_>>();
        assert_eq!(flat(draw(&[30, 0, 50, 20], 60)), [(0, 30), (2, 30)]);
        assert_eq!(flat(draw(&[30, 50], 200)), [(0, 30), (1, 50)]);
        assert!(draw(&[], 5).is_empty() && draw(&[5], 0).is_empty());
    }

    #[test]
    fn what_was_drawn_last_comes_back_first() {
        assert_eq!(give_back(&[30, 20, 50], 0, 60), [0, 10, 50]);
        assert_eq!(give_back(&[30, 20, 50], 60, 40), [30, 10, 0]);
        assert_eq!(give_back(&[30, 20, 50], 90, 40), [10, 0, 0]);
        assert_eq!(give_back(&[], 0, 5), [0i64; 0]);
    }

    #[test]
    fn a_covered_line_costs_nothing() {
        let fen = |n| Fen::new(n).unwrap();
        assert_eq!(covered_value(fen(999), 3, 3), fen(999));
        assert_eq!(covered_value(fen(999), 0, 3), Fen::ZERO);
        assert_eq!(covered_value(fen(1000), 1, 3), fen(333));
    }

    proptest! {
        #[test]
        fn draws_sum_to_what_is_wanted_or_there(balances in prop::collection::vec(0i64..10_000, 0..20), want in 0i64..200_000) {
            let draws = draw(&balances, want);
            prop_assert_eq!(drawn(&draws), want.min(balances.iter().sum()));
            for d in &draws {
                prop_assert!(d.take > 0 && d.take <= balances[d.index] && d.before == balances[d.index]);
            }
        }

        #[test]
        fn what_was_drawn_comes_back_in_any_split(
            takes in prop::collection::vec(1i64..1000, 0..12), cuts in prop::collection::vec(0i64..2000, 0..12),
        ) {
            let all: i64 = takes.iter().sum();
            let mut back = vec![0; takes.len()];
            let mut before = 0;
            for amount in cuts.into_iter().chain([all]) {
                let amount = amount.min(all - before);
                let parts = give_back(&takes, before, amount);
                prop_assert_eq!(parts.iter().sum::<i64>(), amount);
                for ((sum, part), take) in back.iter_mut().zip(parts).zip(&takes) {
                    *sum += part;
                    prop_assert!(part >= 0 && *sum <= *take);
                }
                before += amount;
            }
            prop_assert_eq!(back, takes);
        }

        #[test]
        fn covered_and_paid_are_the_line(payable in 0i64..10_000_000, quantity in 1i64..1000, share in 0i64..1000) {
            let covered = share.min(quantity);
            let value = covered_value(Fen::new(payable).unwrap(), covered, quantity);
            prop_assert!(value.get() <= payable);
            prop_assert!((value.get() == payable) || covered < quantity || payable == 0);
        }
    }
}
