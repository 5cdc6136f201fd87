//! `jinlu bench`
//!
//! Throughput of one machine says little by itself. So the function and a yardstick (the same statements, straight through the
//! driver) take turns on the same database server, and the ratio of the two is the figure to watch.

mod coins;
mod draw;
mod http;
mod lists;
mod load;
mod notify;
mod process;
mod record;
mod report;
mod server;
mod shop;
mod sign_up;
mod start;
mod stats;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use store::baseline::{Sample, Yardstick};

use crate::cli::say;
use crate::serve::Shutdown;
use load::{Place, Round, Side, round};
use process::Recipe;
use report::{AuditLine, Cell, Report};
use server::Server;
use shop::Shop;

/// 性能测试：submitOrder 的启动、内存与吞吐 · Measure how submitOrder starts, what it occupies and what it does
///
/// 启动 submit-order 的 release 程序和临时的 MongoDB，与驱动直接执行的相同语句轮流比较；结束时核对账目并删除测试数据。
/// Starts the release binary of submit-order and a MongoDB of its own, and lets the function and the same statements,
/// issued straight by the driver, take turns. In the end it audits the books and drops what it made. It builds nothing
/// and calls nobody but the database. Exits 1 if the books are off.
///
/// Examples:
///   cargo build --release -p submit-order -p jinlu && target/release/jinlu bench
///   jinlu bench --clients 16 --seconds 10 --rounds 5 --scenario spread --starts 0
///   jinlu bench --json > bench.json
///   jinlu bench draw            sign-ups, and the draw of a million tickets
///   jinlu bench coins           the write-off of a million lots by two processes
///   jinlu bench notify          notifyAssignment while WeChat is well, slow and away
///   jinlu bench lists           lists, single documents and searches of a small shop and of one a hundred times as large
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// 并发客户端数，逗号分隔 · Numbers of clients to measure with
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,16,64", value_parser = clap::value_parser!(u16).range(1..=512))]
    clients: Vec<u16>,
    /// 每轮秒数 · Seconds per round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// 轮数，0 为不测吞吐 · Rounds of each measurement; 0 leaves throughput out
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=100))]
    rounds: u32,
    /// 启动次数，0 为不测启动和内存 · Starts of each kind; 0 leaves starting and memory out
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=1000))]
    starts: u32,
    /// 场景，逗号分隔 · Where the orders go: over 16 products, or all to one
    #[arg(long, value_enum, value_delimiter = ',', default_value = "spread,hot")]
    scenario: Vec<Scenario>,
    /// 另测不经 HTTP 的进程内调用 · Also measure calls inside of this process, without HTTP
    #[arg(long)]
    in_process: bool,
    /// submit-order 程序，默认与本程序同目录 · The function's binary, if it is not beside this one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Where to measure and how to tell, the same for all of them.
#[derive(Debug, clap::Args)]
struct Common {
    /// 使用已有的副本集（新建的测试库用后删除）· Use this replica set; the databases made there are dropped afterwards
    #[arg(long, value_name = "URI", conflicts_with = "data_dir")]
    uri: Option<String>,
    /// 临时 MongoDB 的数据目录，决定所测的磁盘 · Folder for the MongoDB it starts, and so the disk that is measured; default a temporary one
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// 输出 JSON · Print the figures as JSON
    #[arg(long)]
    json: bool,
}

impl Common {
    async fn server(&self) -> Result<Server> {
        self.server_with(mongod::CACHE_MIB).await
    }

    /// One of its own keeps this much in memory.
    async fn server_with(&self, cache_mib: u32) -> Result<Server> {
        Server::start(self.uri.as_deref(), self.data_dir.as_deref(), cache_mib).await
    }
}

/// What else can be measured.
#[derive(Debug, Subcommand)]
enum Command {
    Draw(draw::Args),
    Coins(coins::Args),
    Notify(notify::Args),
    Lists(lists::Args),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "camelCase")]
enum Scenario {
    /// Each order takes another one of 16 products.
    Spread,
    /// All orders take the same product.
    Hot,
}

impl Scenario {
    fn products(self) -> usize {
        match self {
            Self::Spread => shop::PRODUCTS,
            Self::Hot => 1,
        }
    }
}

pub(crate) async fn run(mut args: Args) -> Result<ExitCode> {
    match args.command.take() {
        Some(Command::Draw(args)) => return draw::run(args).await,
        Some(Command::Coins(args)) => return coins::run(args).await,
        Some(Command::Notify(args)) => return notify::run(args).await,
        Some(Command::Lists(args)) => return lists::run(args).await,
        None => {}
    }
    let binary = process::find("submit-order", args.binary.as_deref())?;
    let Some(report) = measure(&args, binary, &Shutdown::listen()?).await? else {
        return Ok(ExitCode::FAILURE);
    };
    if args.common.json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        say(report.text()?)?;
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Signs a few people up and draws two small rounds on the server at `uri`, as `jinlu bench draw` does with many; returns what is off.
pub async fn small_draw(uri: &str) -> Result<Vec<String>> {
    draw::small(uri).await
}

/// Reads lists of two shops on the server at `uri`, as `jinlu bench lists` does with larger ones; returns what is off.
pub async fn small_lists(uri: &str) -> Result<Vec<String>> {
    lists::small(uri).await
}

/// `None` when it was interrupted. Whatever was started is stopped, and the two databases are dropped, in any case.
async fn measure(args: &Args, binary: PathBuf, shutdown: &Shutdown) -> Result<Option<Report>> {
    let server = tokio::select! {
        server = args.common.server() => server?,
        () = shutdown.wait() => return Ok(None),
    };
    let uri = server.uri.clone();
    // Names of one length, since every statement carries them.
    let name = |side: &str| format!("jinlu_bench_{}_{side}", std::process::id());
    let clients_max = args.clients.iter().copied().max().unwrap_or(1);
    // The platform's limit, unless more clients than that were asked for.
    let max_concurrency = usize::from(clients_max).max(100);
    let shop = Arc::new(Shop::new(&uri, &name("call"), &name("bare"), max_concurrency)?);
    let recipe = Recipe {
        binary,
        uri,
        database: name("call"),
        environment: vec![
            ("SESSION_SECRETS", shop.session_secrets.clone()),
            ("MAX_CONCURRENCY", max_concurrency.to_string()),
        ],
        log: server.scratch().join("submit-order.log"),
    };
    let measured = tokio::select! {
        measured = figures(args, &recipe, &shop, server.pid()) => measured.map(Some),
        () = shutdown.wait() => Ok(None),
    };
    let dropped = (shop.app.store().drop_database().await, shop.direct.drop_database().await);
    if measured.is_err() {
        eprintln!("{}", last_lines(&recipe.log));
    }
    let report = measured?;
    dropped.0?;
    dropped.1?;
    server.stop().await?;
    Ok(report)
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.reverse();
    lines.join("\n")
}

async fn figures(args: &Args, recipe: &Recipe, shop: &Arc<Shop>, mongod_pid: Option<u32>) -> Result<Report> {
    let binary_bytes = fs::metadata(&recipe.binary)?.len();
    shop.fill().await?;
    let (start, memory) = match args.starts {
        0 => (None, None),
        times => {
            eprintln!("  启动 · starting it 3 × {times} times");
            let start = start::measure(recipe, shop, times).await?;
            eprintln!("  内存 · memory");
            (start, start::memory(recipe, shop).await?)
        }
    };

    let mut process = recipe.spawn()?;
    let mut connection = process.connect().await?;
    let mut samples: Vec<Sample> = Vec::new();
    for id in &shop.products {
        while !samples.iter().any(|sample| sample.product == *id) {
            samples.push(start::order(shop, &mut connection, shop::PRODUCTS).await?);
        }
    }
    samples.sort_by(|a, b| a.product.cmp(&b.product));
    let place = Arc::new(Place {
        shop: Arc::clone(shop),
        yardstick: Yardstick::copy(shop.app.store(), &shop.direct, &samples).await?,
        function: submit_order()?,
        port: process.port,
        function_pid: process.pid(),
        mongod_pid,
    });
    let mut cells = Vec::new();
    for scenario in args.scenario.iter().filter(|_| args.rounds > 0) {
        for clients in &args.clients {
            eprintln!("  吞吐 · throughput: {scenario:?}, clients: {clients}");
            cells.push(cell(args, &place, *scenario, usize::from(*clients)).await?);
        }
    }
    process.stop().await?;

    eprintln!("  核对 · audit");
    let audit = shop.app.store().audit(shop.clock.now()).await?;
    Ok(Report { binary_bytes, start, memory, cells, audit: AuditLine::of(&audit) })
}

/// All rounds of one scenario with so many clients.
async fn cell(args: &Args, place: &Arc<Place>, scenario: Scenario, clients: usize) -> Result<Cell> {
    let mut sides = vec![Side::Function, Side::Direct];
    if args.in_process {
        sides.push(Side::InProcess);
    }
    let mut rounds: Vec<(Side, Round)> = Vec::new();
    for _ in 0..args.rounds {
        for side in &sides {
            rounds.push((*side, round(place, *side, clients, scenario.products(), args.seconds).await?));
        }
        // The other way round next time, so that a machine that slows down slows down both.
        sides.reverse();
    }
    Ok(Cell::of(scenario, clients, &rounds))
}

fn submit_order() -> Result<edge::Function> {
    gateway::functions().into_iter().find(|f| f.name() == "submitOrder").context("there is no submitOrder")
}
