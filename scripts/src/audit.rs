//! `jinlu audit`

use std::process::ExitCode;

use anyhow::Result;
use edge::Clock;

use crate::cli::say;
use crate::database::DatabaseArgs;

/// 核对账目：检查全库不变量 · Check the invariants over the whole database
///
/// 每发现一处不符输出一行；只有一处都没有时退出码才为 0。只读，可在运行中使用。
/// Prints a line per violation and exits 0 only if there is none. It only reads, and may run beside live traffic.
///
/// Examples:
///   jinlu audit                          the local cloud in .jinlu, running or not
///   jinlu audit --json --uri mongodb://… any database, for a monitor to read
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 输出 JSON · Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let opened = args.database.open().await?;
    let report = opened.store.audit(Clock::system().now()).await;
    opened.close().await?;
    let report = report?;
    if args.json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        for violation in &report.violations {
            say(format_args!("{}: {} [{}]", violation.invariant, violation.message, violation.documents.join(", ")))?;
        }
        let checked: u64 = report.checked.values().sum();
        say(format_args!("{checked} documents checked, {} violations", report.violations.len()))?;
    }
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
