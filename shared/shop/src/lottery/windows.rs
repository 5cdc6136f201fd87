//! Daily windows: `HH:MM` in Shanghai, and the instants they stand for.

use chrono::{DateTime, Days, FixedOffset, NaiveDate, TimeDelta, TimeZone, Utc};
use domain::Refusal;
use store::lottery::Window;

const DAY: i64 = 24 * 60;

/// Shanghai has had no summer time since 1991.
const SHANGHAI_SECONDS: i32 = 8 * 3600;

/// Minutes since midnight.
fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { part.parse::<i64>().ok() } else { None }
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then(|| hours.saturating_mul(60).saturating_add(minutes))
}

/// Start and end in minutes since midnight; the end may be on the next day.
fn span(window: &Window) -> Option<(i64, i64)> {
    let (start, end) = (minutes(&window.start)?, minutes(&window.end)?);
    Some((start, if end <= start { end.saturating_add(DAY) } else { end }))
}

/// Checks what an operator entered: 1 to 24 windows that do not overlap, over midnight neither.
pub fn check(windows: &[Window]) -> Result<(), Refusal> {
    if windows.is_empty() || windows.len() > 24 {
        return Err(Refusal::invalid("activity.windows", "请设置 1 到 24 个抢签时段"));
    }
    let mut spans: Vec<(i64, i64)> = Vec::new();
    for (i, window) in windows.iter().enumerate() {
        for (name, text) in [("start", &window.start), ("end", &window.end)] {
            if minutes(text).is_none() {
                let field = format!("activity.windows[{i}].{name}");
                return Err(Refusal::invalid(&field, "时间格式应为 HH:MM"));
            }
        }
        if window.start == window.end {
            let field = format!("activity.windows[{i}].end");
            return Err(Refusal::invalid(&field, "时段的结束时间不能等于开始时间"));
        }
        let Some((start, end)) = span(window) else { continue };
        // The windows of the day before and the day after count, too.
        let meets = |(s, e): &(i64, i64)| {
            [-DAY, 0, DAY].iter().any(|shift| s.saturating_add(*shift) < end && start < e.saturating_add(*shift))
        };
        if spans.iter().any(meets) {
            return Err(Refusal::invalid(&format!("activity.windows[{i}].start"), "抢签时段不能重叠"));
        }
        spans.push((start, end));
    }
    Ok(())
}

/// A window of one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    /// `{yyyyMMdd}-{HHmm}` of the start in Shanghai.
    pub label: String,
}

fn shanghai() -> FixedOffset {
    FixedOffset::east_opt(SHANGHAI_SECONDS).unwrap_or_else(|| {
        // Eight hours are a valid offset; this branch is never taken.
        chrono::Offset::fix(&Utc)
    })
}

fn instant(day: NaiveDate, minutes: i64) -> Option<DateTime<Utc>> {
    let midnight = shanghai().from_local_datetime(&day.and_hms_opt(0, 0, 0)?).single()?;
    midnight.checked_add_signed(TimeDelta::minutes(minutes)).map(|at| at.to_utc())
}

/// The windows that begin before `until` and end after `from`, in time order.
pub fn between(windows: &[Window], from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<Occurrence> {
    let mut found = Vec::new();
    let last = until.with_timezone(&shanghai()).date_naive();
    // One that began yesterday may still be open.
    let mut day = from.with_timezone(&shanghai()).date_naive().checked_sub_days(Days::new(1));
    while let Some(date) = day.filter(|date| *date <= last) {
        for window in windows {
            let Some((start, end)) = span(window) else { continue };
            let (Some(opens), Some(closes)) = (instant(date, start), instant(date, end)) else { continue };
            if opens < until && closes > from {
                let label = format!("{}-{}", date.format("%Y%m%d"), window.start.replace(':', ""));
                found.push(Occurrence { start: opens, end: closes, label });
            }
        }
        day = date.checked_add_days(Days::new(1));
    }
    found.sort_by_key(|o| o.start);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: &str, end: &str) -> Window {
        Window { start: start.to_owned(), end: end.to_owned() }
    }

    fn refused(windows: &[Window]) -> String {
        check(windows).unwrap_err().details["field"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn windows_do_not_overlap_over_midnight_either() {
        assert!(check(&[window("09:00", "09:30"), window("09:30", "10:00"), window("23:50", "00:10")]).is_ok());
        assert!(check(&[window("00:00", "23:59")]).is_ok());
        assert_eq!(refused(&[]), "activity.windows");
        assert_eq!(refused(&vec![window("09:00", "09:01"); 25]), "activity.windows");
        assert_eq!(refused(&[window("9:00", "09:30")]), "activity.windows[0].start");
        assert_eq!(refused(&[window("09:00", "24:00")]), "activity.windows[0].end");
        assert_eq!(refused(&[window("09:00", "09:00")]), "activity.windows[0].end");
        assert_eq!(refused(&[window("09:00", "10:00"), window("09:59", "11:00")]), "activity.windows[1].start");
        assert_eq!(refused(&[window("23:50", "00:10"), window("00:09", "01:00")]), "activity.windows[1].start");
        assert_eq!(refused(&[window("00:09", "01:00"), window("23:50", "00:10")]), "activity.windows[1].start");
        assert_eq!(
            refused(&[window("10:00", "09:00"), window("09:30", "09:40"), window("08:00", "08:30")]),
            "activity.windows[2].start"
        );
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_starts() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let found =
            between(&[window("23:50", "00:10")], at("2026-03-01T00:05:00+08:00"), at("2026-03-02T00:00:00+08:00"));
        let labels: Vec<_> = found.iter().map(|o| o.label.as_str()).collect();
        assert_eq!(labels, ["20260228-2350", "20260301-2350"]);
        assert_eq!(found[0].start, at("2026-02-28T15:50:00Z"));
        assert_eq!(found[0].end, at("2026-02-28T16:10:00Z"));
    }

    #[test]
    fn days_are_shanghais_at_the_ends_of_months_and_years() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let labels = |from: &str, until: &str| -> Vec<String> {
            let windows = [window("23:50", "00:10"), window("07:59", "08:01"), window("00:10", "00:11")];
            between(&windows, at(from), at(until)).into_iter().map(|o| o.label).collect()
        };
        // 08:00 in Shanghai is midnight in UTC: the day before there, the same day here.
        assert_eq!(labels("2026-12-31T23:58:00Z", "2027-01-01T00:02:00Z"), ["20270101-0759"]);
        assert_eq!(labels("2027-12-31T15:55:00Z", "2027-12-31T16:11:00Z"), ["20271231-2350", "20280101-0010"]);
        assert_eq!(labels("2028-02-28T16:00:00Z", "2028-02-29T15:51:00Z")[..2], ["20280228-2350", "20280229-0010"]);
        assert_eq!(labels("2028-02-29T16:05:00Z", "2028-02-29T16:09:00Z"), ["20280229-2350"]);
        // Over at its end, to the millisecond.
        assert!(labels("2028-02-29T16:11:00Z", "2028-02-29T16:11:00.001Z").is_empty());
    }
}
