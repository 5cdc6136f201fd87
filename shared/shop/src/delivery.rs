//! How one try to deliver an item of the outbox ended.

use std::time::Duration;

/// Why a try did not deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// A stable code, e.g. `NO_SUBSCRIPTION`.
    pub reason: &'static str,
    /// For operators; without personal data.
    pub text: String,
    /// The other side's number for the error.
    pub errcode: Option<i64>,
    /// The other side's id of the request.
    pub rid: Option<String>,
}

impl Why {
    pub fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), errcode: None, rid: None }
    }

    pub fn because(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }
}

/// The end of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// Certainly not delivered; try again after the usual pause, and not before `at_least`.
    Later {
        why: Why,
        at_least: Duration,
    },
    /// Certainly not delivered, and neither would anything else of this kind be for so long. Does not count as a try.
    Paused {
        why: Why,
        pause: Duration,
    },
    /// Nobody wants it. Final.
    Skipped(Why),
    /// It may have been delivered or not. Final.
    Unknown(Why),
    /// Certainly not delivered, and it never will be by itself. Final until an operator looks.
    Dead(Why),
}

impl From<&wechat::open::Error> for Why {
    /// With WeChat's numbers, but not its text, which may repeat what was sent.
    fn from(error: &wechat::open::Error) -> Self {
        let rid = error.rid().filter(|rid| *rid != "-").map(str::to_owned);
        Self { errcode: error.errcode(), rid, ..Self::new("REFUSED_BY_WECHAT", error.to_string()) }
    }
}

impl Outcome {
    /// Not delivered; try again after the usual pause.
    pub fn later(why: Why) -> Self {
        Self::Later { why, at_least: Duration::ZERO }
    }
}
