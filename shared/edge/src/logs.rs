//! Logs: JSON lines on standard output, or on standard error where that one is for answers. The platform collects both.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries that would write headers, bodies or statements at their more talkative levels.
const HELD_AT_INFO: &[&str] =
    &["axum", "h2", "hyper", "hyper_util", "lambda_http", "lambda_runtime", "mongodb", "reqwest", "rustls", "tower"];

/// Send logs of `level` and above to standard output as flat JSON, one event per line.
/// A second call keeps the first set-up, so that tests may call it freely.
pub fn init(level: LevelFilter) {
    init_on(level, BoxMakeWriter::new(std::io::stdout));
}

/// [`init`] on standard error.
pub(crate) fn init_on_stderr(level: LevelFilter) {
    init_on(level, BoxMakeWriter::new(std::io::stderr));
}

fn init_on(level: LevelFilter, writer: BoxMakeWriter) {
    let ours = Targets::new().with_default(level);
    let targets =
        HELD_AT_INFO.iter().fold(ours, |targets, name| targets.with_target(*name, level.min(LevelFilter::INFO)));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).json().flatten_event(true);
    let lines = lines.with_current_span(false).with_span_list(false);
    let already_set = tracing_subscriber::registry().with(targets).with(lines).try_init().is_err();
    if already_set {
        tracing::debug!("logs were set up before");
    }
}

/// Log a panic's place, and its text only when that is a literal: a formatted one could carry anything.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("");
        tracing::error!(place, text, "panic");
    }));
}

/// A duration as a number for a log line; the JSON layer writes 128-bit numbers as text.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An error with everything beneath it, outermost first.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
