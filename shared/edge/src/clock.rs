//! The only place that reads the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// A source of "now", cut to milliseconds because that is what the database keeps.
///
/// Clones share one offset, so that moving the clock of a process moves it for everything in the process.
/// Only the local cloud and tests move it; a deployed function never does.
#[derive(Clone, Debug)]
pub struct Clock {
    /// A standing clock instead of the running one.
    standing: Option<DateTime<Utc>>,
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self { standing: None, offset_ms: Arc::default() }
    }

    /// A clock that stands at `at` until it is moved.
    pub fn standing_at(at: DateTime<Utc>) -> Self {
        Self { standing: Some(at), offset_ms: Arc::default() }
    }

    /// The time, in whole milliseconds.
    pub fn now(&self) -> DateTime<Utc> {
        let base = match self.standing {
            Some(at) => at,
            None => machine_time(),
        };
        base.checked_add_signed(self.shift()).unwrap_or(base).trunc_subsecs(3)
    }

    /// How far it has been moved.
    pub fn shift(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.offset_ms.load(Ordering::SeqCst))
    }

    /// The instants that count as now for what a client stamped: ours, and the unmoved one where ours was moved, because
    /// nobody moves the clocks of clients. A deployed function has only the first.
    pub fn client_times(&self) -> Vec<DateTime<Utc>> {
        let now = self.now();
        let unmoved = now.checked_sub_signed(self.shift()).filter(|at| *at != now);
        std::iter::once(now).chain(unmoved).collect()
    }

    /// A clock of the machine that was moved before.
    pub fn system_shifted_by(shift: TimeDelta) -> Self {
        let clock = Self::system();
        clock.offset_ms.store(shift.num_milliseconds(), Ordering::SeqCst);
        clock
    }

    /// Move this clock and all its clones forward.
    pub fn advance(&self, by: Duration) {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let add = |offset: i64| Some(offset.saturating_add(by_ms));
        // The closure never refuses, so neither does the update.
        self.offset_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).ok();
    }
}

#[expect(clippy::disallowed_methods, reason = "this is edge's clock, the one place that reads the time")]
fn machine_time() -> DateTime<Utc> {
    Utc::now()
}
