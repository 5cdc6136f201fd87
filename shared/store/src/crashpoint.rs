//! A place where a test may stop the process for good, to kill it between any two steps.
//!
//! Armed by name in a test host; in release builds the call is empty.

use std::sync::OnceLock;

static ARMED: OnceLock<String> = OnceLock::new();

/// Arms one point for this process: reaching it prints `crashpoint NAME` to standard error and never returns,
/// so that the test can send SIGKILL at exactly this step.
pub fn arm(name: &str) {
    ARMED.get_or_init(|| name.to_owned());
}

/// Marks a step of an operation. Does nothing unless a test armed this name.
pub async fn crashpoint(name: &str) {
    if cfg!(debug_assertions) && ARMED.get().is_some_and(|armed| armed == name) {
        eprintln!("crashpoint {name}");
        std::future::pending::<()>().await;
    }
}
