//! Which kind is next in a run.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::{Delivered, PER_KIND, Settled, group};

/// A kind of which nothing is due is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the workers of one run share.
pub(super) struct Run {
    deadline: Instant,
    board: Mutex<Board>,
}

struct Board {
    lanes: Vec<Lane>,
    /// Items that may still be claimed.
    left: u32,
    sum: Delivered,
}

/// One kind in a run.
struct Lane {
    kind: &'static str,
    at_work: usize,
    look_again: Option<Instant>,
    rests_until: Option<DateTime<Utc>>,
}

pub(super) enum Next {
    Kind(&'static str),
    /// Nothing to do as long as the others work.
    Wait,
    Stop,
}

impl Run {
    /// `kinds` with the time until which each rests, if it does; `limit` items at most.
    pub(super) fn new(kinds: Vec<(&'static str, Option<DateTime<Utc>>)>, limit: u32, deadline: Instant) -> Self {
        let lane = |(kind, rests_until)| Lane { kind, at_work: 0, look_again: None, rests_until };
        let lanes = kinds.into_iter().map(lane).collect();
        Self { deadline, board: Mutex::new(Board { lanes, left: limit, sum: Delivered::default() }) }
    }

    /// What it did until now.
    pub(super) fn sum(&self) -> Delivered {
        self.board().sum
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// The kind with the fewest at work among those that may have something due.
    pub(super) fn next(&self, now: DateTime<Utc>) -> Next {
        let mut board = self.board();
        if self.is_over() {
            return Next::Stop;
        }
        // Those at work may give back what they were allowed.
        let more = board.left > 0;
        let instant = Instant::now();
        let open = |lane: &&mut Lane| {
            more && lane.at_work < PER_KIND
                && lane.look_again.is_none_or(|again| again <= instant)
                && lane.rests_until.is_none_or(|until| until <= now)
        };
        // Of equals the first wins, hence the order of the kinds.
        if let Some(lane) = board.lanes.iter_mut().filter(open).min_by_key(|lane| lane.at_work) {
            lane.at_work = lane.at_work.saturating_add(1);
            let kind = lane.kind;
            board.left = board.left.saturating_sub(1);
            return Next::Kind(kind);
        }
        if board.lanes.iter().all(|lane| lane.at_work == 0) { Next::Stop } else { Next::Wait }
    }

    /// One more item, outside of the turns; false when there may be none.
    pub(super) fn another(&self) -> bool {
        let mut board = self.board();
        if self.is_over() || board.left == 0 {
            return false;
        }
        board.left = board.left.saturating_sub(1);
        true
    }

    /// Gives back what an item has cost that was not delivered.
    pub(super) fn uncharge(&self) {
        let mut board = self.board();
        board.left = board.left.saturating_add(1);
    }

    pub(super) fn settled(&self, settled: Settled) {
        self.board().sum.count(settled);
    }

    /// A worker is done with a kind for now; `found` says whether something was due.
    pub(super) fn leave(&self, kind: &str, found: bool, rests_until: Option<DateTime<Utc>>) {
        let mut board = self.board();
        if !found {
            board.left = board.left.saturating_add(1);
        }
        if let Some(lane) = board.lanes.iter_mut().find(|lane| lane.kind == kind) {
            lane.at_work = lane.at_work.saturating_sub(1);
            lane.look_again = (!found).then(|| Instant::now() + LOOK_AGAIN);
            lane.rests_until = rests_until.or(lane.rests_until);
        }
        if rests_until.is_some() {
            let group = group(kind);
            board.lanes.iter_mut().filter(|l| super::group(l.kind) == group).for_each(|l| l.rests_until = rests_until);
        }
    }
}
