//! Business days: calendar days in Asia/Shanghai, whatever the machine's own zone is.

use std::fmt;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};

/// Asia/Shanghai has had no summer time since 1991.
const UTC_PLUS_8: TimeDelta = TimeDelta::hours(8);

/// A calendar day in Asia/Shanghai; shown and parsed as `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusinessDay(NaiveDate);

impl BusinessDay {
    /// The day that an instant falls on.
    pub fn of(at: DateTime<Utc>) -> Self {
        Self(at.checked_add_signed(UTC_PLUS_8).unwrap_or(at).date_naive())
    }

    /// Exactly ten characters; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let day = Self(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?);
        (day.to_string() == text).then_some(day)
    }

    /// The first instant.
    pub fn start(self) -> DateTime<Utc> {
        let midnight = self.0.and_time(NaiveTime::MIN).and_utc();
        midnight.checked_sub_signed(UTC_PLUS_8).unwrap_or(midnight)
    }

    /// The first instant of the day after.
    pub fn end(self) -> DateTime<Utc> {
        self.next().start()
    }

    /// The day in the calendar.
    pub fn date(self) -> NaiveDate {
        self.0
    }

    pub fn next(self) -> Self {
        Self(self.0.checked_add_days(Days::new(1)).unwrap_or(NaiveDate::MAX))
    }
}

/// An instant as people in the shop read it, to the minute: `2026年11月21日 18:30`, in Asia/Shanghai.
pub fn clock_text(at: DateTime<Utc>) -> String {
    at.checked_add_signed(UTC_PLUS_8).unwrap_or(at).format("%Y年%m月%d日 %H:%M").to_string()
}

impl fmt::Display for BusinessDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%d"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn times_for_people_are_shanghais() {
        assert_eq!(clock_text(at("2026-11-21T16:05:59.999Z")), "2026年11月22日 00:05");
    }

    #[test]
    fn a_day_begins_at_midnight_in_shanghai() {
        for (instant, day) in [
            ("2026-11-21T15:59:59.999Z", "2026-11-21"),
            ("2026-11-21T16:00:00.000Z", "2026-11-22"),
            ("2026-12-31T16:00:00Z", "2027-01-01"),
            ("2028-02-28T16:00:00Z", "2028-02-29"),
        ] {
            let found = BusinessDay::of(at(instant));
            assert_eq!(found.to_string(), day, "{instant}");
            assert!(found.start() <= at(instant) && at(instant) < found.end());
            assert_eq!(BusinessDay::parse(day), Some(found));
        }
        let day = BusinessDay::parse("2026-11-22").unwrap();
        assert_eq!((day.start(), day.end()), (at("2026-11-21T16:00:00Z"), at("2026-11-22T16:00:00Z")));
    }

    #[test]
    fn only_the_ten_characters_are_a_day() {
        for text in ["", "2026-1-2", "2026-02-30", "2026-11-21 ", "+2026-11-21", "2026-11-21T00:00:00Z", "20261121"] {
            assert_eq!(BusinessDay::parse(text), None, "{text}");
        }
    }
}
