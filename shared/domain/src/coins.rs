//! The rules of activity coins.

use chrono::{DateTime, TimeDelta, Utc};

/// How long a coin lives.
pub const LIFE: TimeDelta = TimeDelta::hours(48);

/// When coins granted at `granted_at` expire; none when that is beyond the calendar.
pub fn expiry(granted_at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    granted_at.checked_add_signed(LIFE)
}

/// Whether coins can still be spent: up to their expiry and not at it.
pub fn spendable(expires_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now < expires_at
}

/// How much of `wanted` each of these lots gives, in their order; none if they do not hold enough.
pub fn split(remaining: &[i64], wanted: i64) -> Option<Vec<i64>> {
    let mut left = wanted;
    let mut takes = Vec::new();
    for held in remaining {
        let take = left.min(*held).max(0);
        takes.push(take);
        left = left.saturating_sub(take);
    }
    (left == 0).then_some(takes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coin_lives_for_48_hours_and_not_a_millisecond_longer() {
        let granted = DateTime::from_timestamp_millis(1_767_225_600_123).unwrap();
        let expires = expiry(granted).unwrap();
        let after = |ms: i64| granted + TimeDelta::milliseconds(ms);
        assert_eq!(expires, after(172_800_000));
        assert!(spendable(expires, after(172_799_999)));
        assert!(!spendable(expires, after(172_800_000)));
        assert!(!spendable(expires, after(172_800_001)));
    }

    #[test]
    fn lots_give_in_order_and_all_or_nothing() {
        assert_eq!(split(&[1, 2, 3], 4), Some(vec![1, 2, 1]));
        assert_eq!(split(&[1, 2, 3], 1), Some(vec![1, 0, 0]));
        assert_eq!(split(&[1, 2], 4), None);
        assert_eq!(split(&[], 1), None);
    }
}
