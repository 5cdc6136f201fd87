//! `jinlu migrate`

use std::process::ExitCode;

use anyhow::Result;
use edge::Clock;
use serde_json::json;
use store::migrate::{MigrateOptions, Progress};

use crate::cli::say;
use crate::database::DatabaseArgs;

/// 迁移旧系统的数据 · Bring documents of the old JavaScript system to the rules
///
/// 旧文档（以元为单位的小数、文本日期、缺少的字段）改为新规则并在账本中开账；旧值保存在 legacy 中。
/// 不能精确换算的金额会逐条列出并原样保留。可随时中断、重复执行；先用 --dry-run 看结果。
/// Old documents (yuan as doubles, dates as text, missing fields) get their new form and an opening entry in the book; their old
/// values stay under `legacy`. What has no exact value is listed and left alone. It may be killed and repeated at any time.
/// Exits 1 if something was listed.
///
/// Examples:
///   jinlu migrate --dry-run --uri mongodb://…   the report, and nothing written
///   jinlu migrate --uri mongodb://…             then `jinlu init` and `jinlu audit`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 只报告，不修改 · Report what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
    /// 迁移这么多条后停止 · Stop after so many documents; the next run goes on
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// 每行输出一个 JSON · One JSON object per line: each `problem`, then the `report`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let opened = args.database.open().await?;
    let options = MigrateOptions { dry_run: args.dry_run, limit: args.limit };
    let mut output = Ok(());
    let mut tell = |progress: Progress<'_>| match progress {
        Progress::Seen(collection, seen) => eprintln!("  {collection}: {seen} documents"),
        Progress::Problem(problem) => {
            let line = match args.json {
                true => json!({ "problem": problem }).to_string(),
                false => format!("left alone: {} {}: {}", problem.document, problem.field, problem.reason),
            };
            // A reader that went away must not stop half of a migration; it is told at the end.
            if let Err(error) = say(line) {
                output = Err(error);
            }
        }
    };
    let report = opened.store.migrate(options, Clock::system().now(), &mut tell).await;
    opened.close().await?;
    let report = report?;
    output?;
    if args.json {
        say(json!({ "report": report, "dryRun": args.dry_run }))?;
    } else {
        let done = if args.dry_run { "would be migrated" } else { "migrated" };
        for (name, counts) in &report.collections {
            say(format_args!(
                "{name}: {} seen, {} current, {} {done}, {} left alone",
                counts.seen, counts.current, counts.migrated, counts.left
            ))?;
        }
        for (asset, sum) in &report.opened {
            let shown = if asset == "fen" { yuan(*sum) } else { sum.to_string() };
            say(format_args!("opened in the book: {shown} {}", if asset == "fen" { "yuan" } else { asset }))?;
        }
        if report.stopped_early {
            say("stopped at the limit; run it again to go on")?;
        }
    }
    Ok(if report.left() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn yuan(fen: i64) -> String {
    format!("{}.{:02}", fen.div_euclid(100), fen.rem_euclid(100))
}
