//! The last calls, for the page: what was called, by what kind of caller, and how it ended. Never what was said.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;

const KEPT: usize = 200;

/// One call that was answered.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// When it was answered.
    pub at: DateTime<Utc>,
    /// The function's wire name.
    pub function: String,
    /// The route that it came in by.
    pub via: &'static str,
    /// The kind of credential that came with it: nothing about who it was.
    pub caller: &'static str,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The code of a refusal.
    pub code: Option<String>,
    /// How long the function took.
    pub duration_ms: u64,
    /// To find the call in the log.
    pub trace_id: String,
}

/// A bounded memory of calls, newest last.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<VecDeque<Call>>);

impl Calls {
    pub(crate) fn record(&self, call: Call) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= KEPT {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    /// Newest first.
    pub(crate) fn newest(&self) -> Vec<Call> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}
