//! Medians and percentiles of few numbers.

use serde::Serialize;

/// Where a handful of measurements lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) p90: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` of no values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: *nearest_rank(&sorted, 50)?,
            p90: *nearest_rank(&sorted, 90)?,
            max: *sorted.last()?,
        })
    }
}

/// The smallest of the sorted values that at least `percent` of them do not exceed.
pub(super) fn nearest_rank<T>(sorted: &[T], percent: usize) -> Option<&T> {
    let rank = sorted.len().saturating_mul(percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1))
}

/// A number of things, for dividing.
pub(super) fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_values_that_were_measured() {
        let hundred: Vec<u32> = (1..=100).collect();
        let at = |percent| nearest_rank(&hundred, percent).copied();
        assert_eq!((at(0), at(50), at(99), at(100)), (Some(1), Some(50), Some(99), Some(100)));
        assert_eq!(nearest_rank(&[7], 99), Some(&7));
        assert_eq!(nearest_rank::<u8>(&[], 50), None);
    }

    #[test]
    fn a_spread_sorts_first() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { min: 1.0, median: 2.0, p90: 3.0, max: 3.0 });
        assert_eq!(Spread::of([]), None);
    }
}
