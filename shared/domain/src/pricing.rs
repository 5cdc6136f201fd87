//! What an order costs. Prices come from the store, never from the client.

use crate::money::{AmountError, Fen, Points};
use crate::{Code, Refusal};

/// Splits `total` over `weights` in proportion, by largest remainder; ties go to the earlier weight.
///
/// The parts sum to `total` exactly and no part exceeds its weight as long as `total` does not exceed their sum.
/// All-zero weights put everything on the first part.
pub fn allocate(total: Fen, weights: &[Fen]) -> Vec<Fen> {
    let sum: i128 = weights.iter().map(|w| i128::from(w.get())).sum();
    if sum == 0 {
        return weights.iter().enumerate().map(|(i, _)| if i == 0 { total } else { Fen::ZERO }).collect();
    }
    let shares: Vec<(i128, i128)> = weights
        .iter()
        .map(|w| {
            let product = i128::from(total.get()).saturating_mul(i128::from(w.get()));
            (product.div_euclid(sum), product.rem_euclid(sum))
        })
        .collect();
    let floor_sum: i128 = shares.iter().map(|(floor, _)| floor).sum();
    let left = usize::try_from(i128::from(total.get()).saturating_sub(floor_sum)).unwrap_or(0);
    let mut by_remainder: Vec<usize> = (0..shares.len()).collect();
    by_remainder.sort_by_key(|i| std::cmp::Reverse(shares.get(*i).map_or(0, |s| s.1)));
    let winners: std::collections::BTreeSet<usize> = by_remainder.into_iter().take(left).collect();
    shares
        .iter()
        .enumerate()
        .map(|(i, (floor, _))| {
            let part = floor.saturating_add(i128::from(winners.contains(&i)));
            i64::try_from(part).ok().and_then(|p| Fen::new(p).ok()).unwrap_or(Fen::ZERO)
        })
        .collect()
}

/// One line as it is priced: unit price and pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub price: Fen,
    pub quantity: i64,
}

/// A priced line: `amount` = price × quantity, `payable` = amount − its share of every discount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PricedLine {
    pub amount: Fen,
    pub points_discount: Fen,
    pub payable: Fen,
}

/// A priced order. `total` = sum of the lines' amounts = `points_discount` + `payable`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    pub lines: Vec<PricedLine>,
    pub total: Fen,
    pub points_discount: Fen,
    pub payable: Fen,
}

/// Prices an order in the fixed order of deductions: goods total, then points.
///
/// Points beyond the goods' worth are refused rather than burned. Whether the member *has* the points is not
/// known here; the guarded deduction decides that.
pub fn quote(lines: &[Line], points: Points, point_value_fen: i64) -> Result<Quote, Refusal> {
    let too_large = |_: AmountError| Refusal::invalid("items", "订单金额超出范围");
    let amounts =
        lines.iter().map(|l| l.price.checked_mul(l.quantity)).collect::<Result<Vec<_>, _>>().map_err(too_large)?;
    let total = Fen::sum(amounts.iter().copied()).map_err(too_large)?;
    let value = Fen::new(point_value_fen).map_err(too_large)?;
    let points_discount =
        value.checked_mul(points.get()).map_err(|_| Refusal::invalid("pointsUsed", "积分数量超出范围"))?;
    if points_discount > total {
        let most = total.get().checked_div(point_value_fen).unwrap_or(0);
        return Err(Refusal::invalid("pointsUsed", format!("本单最多可用 {most} 积分")).detail("maxPoints", most));
    }
    let shares = allocate(points_discount, &amounts);
    let priced = amounts
        .iter()
        .zip(shares)
        .map(|(amount, share)| {
            Ok(PricedLine { amount: *amount, points_discount: share, payable: amount.checked_sub(share)? })
        })
        .collect::<Result<Vec<_>, AmountError>>()
        .map_err(too_large)?;
    let payable = total.checked_sub(points_discount).map_err(too_large)?;
    Ok(Quote { lines: priced, total, points_discount, payable })
}

/// Compares an amount that a client believes in with ours; a difference is `AMOUNT_MISMATCH` with both values in yuan.
pub fn check_claim(field: &str, claimed: Option<Fen>, ours: Fen) -> Result<(), Refusal> {
    match claimed {
        Some(claimed) if claimed != ours => Err(Refusal::new(Code::AmountMismatch)
            .detail("field", field)
            .detail("expected", crate::Yuan(ours).to_string())
            .detail("actual", crate::Yuan(claimed).to_string())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fen(n: i64) -> Fen {
        Fen::new(n).unwrap()
    }

    #[test]
    fn largest_remainder_by_hand() {
        let parts = allocate(fen(100), &[fen(1), fen(1), fen(1)]);
        assert_eq!(parts.iter().map(|p| p.get()).collect::<Vec<_>>(), [34, 33, 33]);
        let parts = allocate(fen(10), &[fen(333), fen(666), fen(1)]);
        assert_eq!(parts.iter().map(|p| p.get()).collect::<Vec<_>>(), [3, 7, 0]);
        assert_eq!(allocate(fen(5), &[Fen::ZERO, Fen::ZERO]), [fen(5), Fen::ZERO]);
        assert!(allocate(fen(5), &[]).is_empty());
    }

    #[test]
    fn points_pay_at_most_the_goods() {
        let lines = [Line { price: fen(250), quantity: 1 }];
        let refusal = quote(&lines, Points::new(3).unwrap(), 100).unwrap_err();
        assert_eq!(refusal.details["maxPoints"], 2);
        let ok = quote(&lines, Points::new(2).unwrap(), 100).unwrap();
        assert_eq!((ok.total, ok.points_discount, ok.payable), (fen(250), fen(200), fen(50)));
    }

    #[test]
    fn an_overflowing_order_is_refused() {
        let lines = [Line { price: fen(crate::money::MAX_FEN), quantity: 9999 }];
        assert_eq!(quote(&lines, Points::ZERO, 100).unwrap_err().code, Code::InvalidArgument);
    }

    proptest! {
        #[test]
        fn allocation_sums_exactly_and_never_exceeds_a_weight(
            weights in prop::collection::vec(0i64..10_000_000_000, 1..60),
            share in 0u32..=10_000,
        ) {
            let sum: i64 = weights.iter().sum();
            let total = i64::try_from(i128::from(sum) * i128::from(share) / 10_000).unwrap();
            let weights: Vec<Fen> = weights.iter().map(|w| fen(*w)).collect();
            let parts = allocate(fen(total), &weights);
            prop_assert_eq!(parts.iter().map(|p| p.get()).sum::<i64>(), total);
            for (part, weight) in parts.iter().zip(&weights) {
                if sum > 0 {
                    prop_assert!(part <= weight);
                }
            }
        }

        #[test]
        fn a_quote_adds_up(
            lines in prop::collection::vec((0i64..1_000_000, 1i64..1000), 1..100),
            points in 0i64..2_000_000,
        ) {
            let lines: Vec<Line> = lines.into_iter().map(|(p, quantity)| Line { price: fen(p), quantity }).collect();
            if let Ok(q) = quote(&lines, Points::new(points).unwrap(), 100) {
                prop_assert_eq!(q.total.get(), q.points_discount.get() + q.payable.get());
                prop_assert_eq!(q.lines.iter().map(|l| l.payable.get()).sum::<i64>(), q.payable.get());
                prop_assert_eq!(q.lines.iter().map(|l| l.points_discount.get()).sum::<i64>(), q.points_discount.get());
                prop_assert_eq!(q.points_discount.get(), points * 100);
            }
        }
    }
}
