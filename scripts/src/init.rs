//! `jinlu init`

use std::process::ExitCode;

use anyhow::Result;
use edge::Clock;
use store::collections::InitOptions;

use crate::cli::say;
use crate::database::DatabaseArgs;

/// 初始化数据库：应用 collections/ · Apply collections/ to a database
///
/// 建立集合、校验规则和索引，并报告差异；从不删除任何数据，可重复执行。
/// Creates collections, validators and indexes, and reports drift. It never drops anything and may be repeated.
///
/// Examples:
///   jinlu init --uri mongodb://…             before the first deployment, and after each upgrade
///   jinlu init --dry-run --uri mongodb://…   only report; exits 1 if something would change or has drifted
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 只报告，不修改 · Report what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let opened = args.database.open().await?;
    let options = InitOptions { demo: false, dry_run: args.dry_run };
    let report = opened.store.init(options, Clock::system().now()).await;
    opened.close().await?;
    let report = report?;
    let done = if args.dry_run { "would be " } else { "" };
    for name in &report.created {
        say(format_args!("collection {name}: {done}created"))?;
    }
    for name in &report.validators_changed {
        say(format_args!("collection {name}: validator {done}changed"))?;
    }
    for name in &report.indexes_created {
        say(format_args!("index {name}: {done}created"))?;
    }
    for line in &report.drift {
        say(format_args!("drift: {line}"))?;
    }
    if report.made_searchable > 0 {
        say(format_args!("search: {} products made searchable", report.made_searchable))?;
    }
    if report.is_clean() && report.made_searchable == 0 {
        say("nothing to do: the database is as collections/ says")?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if args.dry_run { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
