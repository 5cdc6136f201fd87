//! `jinlu rotate-keys`

use std::process::ExitCode;

use anyhow::Result;
use edge::{App, Clock, Config, Need};
use store::rotation::{RotateOptions, RotateProgress, Rotation};

use crate::cli::say;
use crate::database::DatabaseArgs;
use crate::local;

/// 轮换密钥：用最新密钥重新加密 · Seal everything again under the newest key
///
/// 密钥来自 FIELD_KEYS 和 INDEX_KEYS：把新密钥加在列表最前，重新部署，再运行本命令，最后移除旧密钥。
/// 逐条修改，可随时中断、重复执行；每次解密实名信息都会写入 accessLogs。
/// Keys come from FIELD_KEYS and INDEX_KEYS: put the new key first, deploy, run this, then remove the old key. Documents are
/// changed one by one, so it may be killed and repeated; each decryption of a real name is recorded in accessLogs.
/// Exits 1 if something could not be opened or was changed meanwhile.
///
/// Examples:
///   jinlu rotate-keys --dry-run --uri mongodb://…        what would be done; decrypts nothing
///   jinlu rotate-keys --drop-retired --uri mongodb://…   also removes indexes under keys that are no longer listed
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 只报告，不解密、不修改 · Only count; decrypt and change nothing
    #[arg(long)]
    dry_run: bool,
    /// 删除已停用索引密钥的索引 · Remove what was indexed under keys that are not in INDEX_KEYS
    #[arg(long)]
    drop_retired: bool,
    /// 输出 JSON · Print the report as JSON
    #[arg(long)]
    json: bool,
    /// 使用本地云的密钥 · Use the published keys of the local cloud
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let config = match args.local {
        true => {
            let (field_keys, index_keys) = local::data_keys();
            Config { local: true, field_keys, index_keys, ..Config::default() }
        }
        false => Config::from_env(&[Need::FieldKeys, Need::IndexKeys])?,
    };
    let clock = Clock::system();
    let keys = App::new(config, clock.clone())?;
    let now = clock.now();
    let rotation = Rotation {
        field_keys: keys.field_keys()?,
        index_keys: keys.index_keys()?,
        options: RotateOptions { dry_run: args.dry_run, drop_retired: args.drop_retired },
        run_id: &format!("rotate-keys-{}-{}", now.timestamp_millis(), std::process::id()),
        now,
    };
    let opened = args.database.open().await?;
    let mut tell = |progress: RotateProgress<'_>| match progress {
        RotateProgress::Seen(collection, seen) => eprintln!("  {collection}: {seen} documents"),
        RotateProgress::Failed(what) => eprintln!("  left alone: {what}"),
    };
    let report = opened.store.rotate_keys(&rotation, &mut tell).await;
    opened.close().await?;
    let report = report?;
    if args.json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        let done = if args.dry_run { "would be " } else { "" };
        say(format_args!("{} documents with sealed fields", report.seen))?;
        say(format_args!("{} fields {done}sealed again, {} indexes {done}changed", report.resealed, report.indexed))?;
        if report.failed > 0 {
            say(format_args!("{} could not be opened: add the keys that sealed them and run it again", report.failed))?;
        }
        if report.changed_meanwhile > 0 {
            say(format_args!("{} changed meanwhile: run it again", report.changed_meanwhile))?;
        }
        for (kind, newest, ids, used) in [
            ("FIELD_KEYS", rotation.field_keys.newest(), rotation.field_keys.ids().collect(), &report.field_keys),
            ("INDEX_KEYS", "", rotation.index_keys.ids().collect::<Vec<_>>(), &report.index_keys),
        ] {
            for (id, count) in used {
                let known = if ids.contains(&id.as_str()) { "" } else { " (not configured)" };
                say(format_args!("{kind} {id}{known}: {count} in use"))?;
            }
            for id in ids.iter().filter(|id| !newest.is_empty() && **id != newest && !used.contains_key(**id)) {
                say(format_args!("{kind} {id}: no longer needed"))?;
            }
        }
        // All of them index the same numbers, so the first one suffices once it covers what any other covers.
        let first = rotation.index_keys.ids().next().unwrap_or_default();
        let covered = report.index_keys.get(first).copied().unwrap_or(0);
        if report.index_keys.values().all(|count| *count <= covered) {
            for id in rotation.index_keys.ids().skip(1) {
                say(format_args!("INDEX_KEYS {id}: no longer needed once every function knows {first}"))?;
            }
        }
    }
    let clean = report.failed == 0 && report.changed_meanwhile == 0;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
