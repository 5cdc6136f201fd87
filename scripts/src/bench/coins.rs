//! `jinlu bench coins`

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{OpenId, UserId};
use edge::Clock;
use serde::Serialize;
use serde_json::{Value, json};
use store::Store;
use store::baseline::{self, WriteOff};
use store::coins::{CoinLot, CoinSource};
use store::collections::InitOptions;
use tokio::task::JoinSet;

use super::process::{self, Recipe, Running};
use super::report::AuditLine;
use super::stats::count;
use crate::cli::say;
use crate::serve::Shutdown;

/// Processes that write off at once.
const PROCESSES: u64 = 2;
/// Lots that the yardstick takes at once, as many as the function.
const BATCH: i64 = 1_000;
/// More are not audited unless asked for: it would take longer than everything else.
const AUDITED_MAX: u32 = 100_000;
const HOLDERS: u64 = 1_000;

/// 性能测试：活动币到期作废 · Measure the write-off of expired coins
///
/// 两个 expire-coins 进程同时作废大量到期的币；--kill 在中途强行结束其一再重新启动。最后逐笔核对。
/// Lets two processes of the release binary of expire-coins write off many expired lots at once, beside the same bulk
/// statements by the driver. With --kill one of them is killed half-way and started again. In the end every lot must have
/// been written off exactly once. Exits 1 if a count is off.
///
/// Examples:
///   cargo build --release -p expire-coins -p jinlu && target/release/jinlu bench coins --kill
///   jinlu bench coins --lots 50000 --processes 1
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 到期的币批数 · Expired lots
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=5_000_000))]
    lots: u32,
    /// 进程数 · Processes that write off at once
    #[arg(long, default_value_t = PROCESSES, value_parser = clap::value_parser!(u64).range(1..=8))]
    processes: u64,
    /// 中途强行结束一个进程 · Kill one of the processes half-way, and start it again
    #[arg(long)]
    kill: bool,
    /// 一定核对账目 · Audit, however many lots there are
    #[arg(long)]
    audit: bool,
    /// expire-coins 程序，默认与本程序同目录 · The function's binary, if it is not beside this one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    #[command(flatten)]
    common: super::Common,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    processes: u64,
    lots: u32,
    killed: u64,
    seconds: f64,
    lots_per_second: f64,
    /// The driver alone, with the same bulk statements outside of transactions.
    direct_lots_per_second: f64,
    ratio: f64,
    /// What the processes said they wrote off; less than all where one was killed after a commit.
    answered_lots: u64,
    counted: WriteOff,
    audit: Option<AuditLine>,
    deviations: Vec<String>,
}

pub(super) async fn run(args: Args) -> Result<ExitCode> {
    let binary = process::find("expire-coins", args.binary.as_deref())?;
    let shutdown = Shutdown::listen()?;
    let server = tokio::select! {
        server = args.common.server() => server?,
        () = shutdown.wait() => return Ok(ExitCode::FAILURE),
    };
    let name = |side: &str| format!("jinlu_bench_{}_{side}", std::process::id());
    let open = |side| Store::new(store::StoreConfig::new(&server.uri, name(side)));
    let (store, direct) = (open("call"), open("bare"));
    // The function listens on every interface, so its key must not be known; random for the minutes that it is used.
    let secret: String = (0..4u8).map(|n| format!("{:016x}", RandomState::new().hash_one(n))).collect();
    let keys = json!([{ "id": "bench", "secret": &secret, "scopes": ["coins"] }]).to_string();
    let recipe = Recipe {
        binary,
        uri: server.uri.clone(),
        database: name("call"),
        environment: vec![("SERVICE_KEYS", keys)],
        log: server.scratch().join("expire-coins.log"),
    };
    let measured = tokio::select! {
        measured = figures(&args, &recipe, &secret, &store, &direct) => measured.map(Some),
        () = shutdown.wait() => Ok(None),
    };
    if measured.is_err() {
        eprintln!("{}", super::last_lines(&recipe.log));
    }
    let dropped = (store.drop_database().await, direct.drop_database().await);
    server.stop().await?;
    let report = measured?;
    dropped.0?;
    dropped.1?;
    let Some(report) = report else { return Ok(ExitCode::FAILURE) };
    say(if args.common.json { serde_json::to_string_pretty(&report)? } else { report.text()? })?;
    let sound = report.deviations.is_empty() && report.audit.as_ref().is_none_or(AuditLine::is_sound);
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn figures(args: &Args, recipe: &Recipe, secret: &str, store: &Store, direct: &Store) -> Result<Report> {
    let clock = Clock::system();
    let all = u64::from(args.lots);
    // Enough for a steady figure.
    let yardstick = (all / 5).max(1_000);
    eprintln!("  插入 · inserting {all} expired lots");
    for (store, lots) in [(store, all), (direct, yardstick)] {
        store.init(InitOptions { demo: false, dry_run: false }, clock.now()).await?;
        fill(store, lots, clock.now()).await?;
    }
    eprintln!("  驱动 · by the driver");
    let direct_rate = by_driver(direct, clock.now()).await?;

    eprintln!("  作废 · by {} process(es)", args.processes);
    let swept = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    let mut killed = 0;
    for n in 0..args.processes {
        // The last one is killed when a third is done.
        let kill_after = (args.kill && n.saturating_add(1) == args.processes).then_some(begun);
        killed = if kill_after.is_some() { 1 } else { killed };
        let process = recipe.spawn()?;
        let again = recipe.clone();
        let caller = Caller { secret: secret.to_owned(), clock: clock.clone(), swept: Arc::clone(&swept) };
        let store = store.clone();
        tasks.spawn(async move {
            if kill_after.is_none() {
                return caller.until_done(process).await;
            }
            let mut process = process;
            let mut call = caller.start(&mut process).await?;
            tokio::select! {
                done = &mut call => { done??; }
                done = third_done(&store, all) => done?,
            }
            // The call dies with it, in the middle of a batch.
            process.stop().await?;
            call.abort();
            caller.until_done(again.spawn()?).await
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let counted = WriteOff::count(store).await?;
    let wanted = WriteOff { lots: all, once: all, entries: all, entries_again: 0, rows: all };
    let mut deviations = Vec::new();
    if counted != wanted {
        deviations.push(format!("{counted:?} instead of {wanted:?}"));
    }
    let answered_lots = swept.load(Ordering::Relaxed);
    if !args.kill && answered_lots != all {
        deviations.push(format!("the processes say that they wrote off {answered_lots} of {all} lots"));
    }
    let audit = if args.audit || args.lots <= AUDITED_MAX {
        eprintln!("  核对 · audit");
        Some(AuditLine::of(&store.audit(clock.now()).await?))
    } else {
        None
    };
    let lots_per_second = count(usize::try_from(args.lots)?) / seconds;
    Ok(Report {
        processes: args.processes,
        lots: args.lots,
        killed,
        seconds,
        lots_per_second,
        direct_lots_per_second: direct_rate,
        ratio: lots_per_second / direct_rate,
        answered_lots,
        counted,
        audit,
        deviations,
    })
}

/// Lots of one coin each, whose time ran out in the last hours.
async fn fill(store: &Store, lots: u64, now: DateTime<Utc>) -> Result<()> {
    let mut people = Vec::new();
    for n in 0..HOLDERS {
        people.push((UserId::parse(&format!("u-bench-{n:07}"))?, OpenId::parse(&format!("oBench-{n:021}"))?));
    }
    baseline::insert_members(store, &people, now).await?;
    let numbers: Vec<u64> = (0..lots).collect();
    for some in numbers.chunks(5_000) {
        let mut batch = Vec::with_capacity(some.len());
        for n in some {
            let (user, open_id) = people.get(usize::try_from(n % HOLDERS)?).context("nobody")?;
            let expires_at = now - TimeDelta::milliseconds(i64::try_from(lots.saturating_sub(*n))?);
            let granted_at = expires_at - TimeDelta::hours(48);
            batch.push(CoinLot {
                id: lot_id(*n),
                user_id: user.clone(),
                open_id: open_id.clone(),
                granted: 1,
                remaining: 1,
                expired: 0,
                revoked: 0,
                sweeps: 0,
                source: CoinSource::Win,
                source_id: format!("bench-{n:010}"),
                granted_at,
                expires_at,
            });
        }
        baseline::insert_lots(store, &batch).await?;
    }
    Ok(())
}

/// Lots per second by the driver.
async fn by_driver(store: &Store, now: DateTime<Utc>) -> Result<f64> {
    let begun = Instant::now();
    let mut lots = 0usize;
    loop {
        match baseline::write_off(store, BATCH, now).await? {
            0 => return Ok(count(lots) / begun.elapsed().as_secs_f64()),
            n => lots = lots.saturating_add(n),
        }
    }
}

/// Returns when about a third of the lots is written off: the oldest go first.
async fn third_done(store: &Store, all: u64) -> Result<()> {
    while !baseline::is_written_off(store, &lot_id(all / 3)).await? {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn lot_id(n: u64) -> String {
    format!("win:bench-{n:010}")
}

/// Calls a process as a service, as long as it says that there is more.
#[derive(Clone)]
struct Caller {
    secret: String,
    clock: Clock,
    swept: Arc<AtomicU64>,
}

impl Caller {
    async fn start(&self, process: &mut Running) -> Result<tokio::task::JoinHandle<Result<()>>> {
        let mut connection = process.connect().await?;
        let caller = self.clone();
        Ok(tokio::spawn(async move {
            for call in 0u64.. {
                let (timestamp, nonce) = (caller.clock.now().timestamp().to_string(), nonce(call));
                let signature = edge::sign(caller.secret.as_bytes(), &timestamp, &nonce, "POST", "/", b"{}");
                let signed = format!(
                    "x-jinlu-key: bench\r\nx-jinlu-timestamp: {timestamp}\r\nx-jinlu-nonce: {nonce}\r\nx-jinlu-signature: {signature}\r\n"
                );
                let response = connection.post_with(&signed, "{}").await?;
                let text = String::from_utf8_lossy(&response.body);
                let reply: Value = serde_json::from_str(&text)?;
                // The server may be too busy for a moment; the next run goes on, as with a timer.
                if response.status == 503 {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
                if response.status != 200 {
                    bail!("expireCoins answered {}: {text}", response.status);
                }
                let lots = reply.get("expiredLots").and_then(Value::as_u64).context("a reply without expiredLots")?;
                caller.swept.fetch_add(lots, Ordering::Relaxed);
                if reply.get("remaining") != Some(&Value::Bool(true)) {
                    break;
                }
            }
            Ok(())
        }))
    }

    async fn until_done(&self, mut process: Running) -> Result<()> {
        self.start(&mut process).await?.await??;
        process.stop().await
    }
}

/// One that no other call of any process uses.
fn nonce(call: u64) -> String {
    format!("bench-{:016x}", RandomState::new().hash_one(call))
}

impl Report {
    fn text(&self) -> Result<String> {
        let mut out = String::new();
        writeln!(
            out,
            "{} lots, {} process(es), {} of them killed half-way and started again: {:.1} s",
            self.lots, self.processes, self.killed, self.seconds
        )?;
        writeln!(out, "  lots/s                {:>9.0}", self.lots_per_second)?;
        writeln!(out, "  by the driver         {:>9.0}", self.direct_lots_per_second)?;
        writeln!(out, "  ratio                 {:>9.3}", self.ratio)?;
        let WriteOff { lots, once, entries, entries_again, rows } = self.counted;
        writeln!(
            out,
            "counted: {once} of {lots} lots written off once, {entries} entries and {entries_again} more, {rows} rows"
        )?;
        match &self.audit {
            Some(audit) => writeln!(out, "audit: {audit}")?,
            None => writeln!(out, "not audited (--audit)")?,
        }
        for deviation in &self.deviations {
            writeln!(out, "OFF: {deviation}")?;
        }
        Ok(out.trim_end().to_owned())
    }
}
