//! The timer triggers of `cloudbaserc.json`, as the platform reads them: seven fields, to the second, in UTC+8.

use std::str::FromStr;

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use serde::Deserialize;

/// Asia/Shanghai, which has had no summer time since 1991.
const UTC_PLUS_8: FixedOffset = match FixedOffset::east_opt(8 * 3600) {
    Some(offset) => offset,
    None => FixedOffset::east_opt(0).unwrap(),
};

/// A timer trigger of one function.
#[derive(Debug, Clone)]
pub struct Timer {
    /// The function that it calls.
    pub function: String,
    /// The trigger's own name.
    pub trigger: String,
    /// The cron expression as it was written.
    pub expression: String,
    schedule: cron::Schedule,
}

/// The timers cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TimerError {
    /// The file is not JSON of the expected shape.
    #[error("cloudbaserc.json cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// An expression that the platform would refuse or read in more than one way.
    #[error("timer {trigger} of {function}: {problem}, found \"{expression}\"")]
    Expression {
        /// The function with the trigger.
        function: String,
        /// The trigger.
        trigger: String,
        /// Its expression.
        expression: String,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Deserialize)]
struct CloudbaseRc {
    #[serde(default)]
    functions: Vec<FunctionEntry>,
}

#[derive(Deserialize)]
struct FunctionEntry {
    name: String,
    #[serde(default)]
    triggers: Vec<TriggerEntry>,
}

#[derive(Deserialize)]
struct TriggerEntry {
    name: String,
    r#type: String,
    config: String,
}

/// All timer triggers in the text of a `cloudbaserc.json`.
pub fn timers(cloudbaserc: &str) -> Result<Vec<Timer>, TimerError> {
    let file: CloudbaseRc = serde_json::from_str(cloudbaserc)?;
    let mut timers = Vec::new();
    for function in file.functions {
        for trigger in function.triggers.into_iter().filter(|trigger| trigger.r#type == "timer") {
            timers.push(Timer::new(&function.name, &trigger.name, &trigger.config)?);
        }
    }
    Ok(timers)
}

impl Timer {
    /// A timer from a seven-field expression.
    pub fn new(function: &str, trigger: &str, expression: &str) -> Result<Self, TimerError> {
        let refuse = |problem: String| TimerError::Expression {
            function: function.to_owned(),
            trigger: trigger.to_owned(),
            expression: expression.to_owned(),
            problem,
        };
        let fields: Vec<&str> = expression.split_whitespace().collect();
        let [_, _, _, _, _, weekday, _] = fields.as_slice() else {
            return Err(refuse("needs seven fields (second minute hour day month weekday year)".to_owned()));
        };
        // Pages of the platform's own manual disagree on whether 0 or 1 is Sunday.
        if weekday.bytes().any(|byte| byte.is_ascii_digit()) {
            return Err(refuse("write weekdays as MON to SUN, their numbers are ambiguous".to_owned()));
        }
        let schedule = cron::Schedule::from_str(expression).map_err(|error| refuse(error.to_string()))?;
        Ok(Self {
            function: function.to_owned(),
            trigger: trigger.to_owned(),
            expression: expression.to_owned(),
            schedule,
        })
    }

    /// The first tick after an instant.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.schedule.after(&after.with_timezone(&UTC_PLUS_8)).next();
        next.map(|tick| tick.with_timezone(&Utc))
    }

    /// The latest tick in `(after, until]`: ticks that were slept through are made up for once.
    pub fn latest_due(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // The iterator's past is exclusive and counts whole seconds.
        let end = until.checked_add_signed(TimeDelta::seconds(1))?.with_timezone(&UTC_PLUS_8);
        let ticks = self.schedule.after(&end).rev().map(|tick| tick.with_timezone(&Utc));
        let latest = ticks.take(2).find(|tick| *tick <= until)?;
        (latest > after).then_some(latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn ticks_are_in_beijing_time() {
        let nightly = Timer::new("f", "t", "0 30 1 * * * *").unwrap();
        assert_eq!(nightly.next_after(at("2026-11-21T10:00:00Z")), Some(at("2026-11-21T17:30:00Z")));
        let monday = Timer::new("f", "t", "0 0 0 * * MON *").unwrap();
        assert_eq!(monday.next_after(at("2026-11-21T10:00:00Z")), Some(at("2026-11-22T16:00:00Z")));
    }

    #[test]
    fn the_latest_due_tick_is_found_once() {
        let minutely = Timer::new("f", "t", "5 * * * * * *").unwrap();
        let due = |after, until| minutely.latest_due(at(after), at(until));
        assert_eq!(due("2026-11-21T10:00:00Z", "2026-11-21T10:00:04.999Z"), None);
        assert_eq!(due("2026-11-21T10:00:00Z", "2026-11-21T10:00:05Z"), Some(at("2026-11-21T10:00:05Z")));
        assert_eq!(due("2026-11-21T10:00:05Z", "2026-11-21T10:00:59Z"), None);
        // After a jump of the clock, one run for all that was missed.
        assert_eq!(due("2026-11-21T10:00:05Z", "2026-11-23T10:00:05.500Z"), Some(at("2026-11-23T10:00:05Z")));
        assert_eq!(due("2026-11-21T10:00:05Z", "2026-11-23T10:00:04.500Z"), Some(at("2026-11-23T09:59:05Z")));
    }

    #[test]
    fn every_second_is_due_every_second() {
        let secondly = Timer::new("f", "t", "* * * * * * *").unwrap();
        let until = at("2026-11-21T10:00:05.250Z");
        assert_eq!(secondly.latest_due(at("2026-11-21T10:00:04Z"), until), Some(at("2026-11-21T10:00:05Z")));
        assert_eq!(secondly.latest_due(at("2026-11-21T10:00:05Z"), until), None);
    }

    #[test]
    fn ambiguous_and_short_expressions_are_refused() {
        for (expression, problem) in
            [("*/5 * * * *", "seven fields"), ("0 0 0 * * 1 *", "MON to SUN"), ("0 0 25 * * * *", "found")]
        {
            let error = Timer::new("f", "t", expression).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("timer t of f"), "{error}");
        }
    }

    #[test]
    fn the_project_file_has_its_timers() {
        let timers = timers(include_str!("../../../cloudbaserc.json")).unwrap();
        let mut functions: Vec<&str> = timers.iter().map(|timer| timer.function.as_str()).collect();
        functions.sort_unstable();
        assert_eq!(
            functions,
            [
                "autoComplete",
                "closeExpiredOrders",
                "deliverOutbox",
                "expireCoins",
                "expireCoupons",
                "followParcels",
                "lotteryDraw",
                "reconcileBill",
                "reconcilePayments",
                "sealLedger",
                "settleStockMarkers"
            ]
        );
        let seconds: std::collections::BTreeSet<_> =
            timers.iter().filter_map(|timer| timer.next_after(at("2026-11-21T10:00:00Z"))).collect();
        assert_eq!(seconds.len(), timers.len(), "staggered");
    }
}
