//! `jinlu dev`: the local cloud.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use axum::Router;
use edge::{App, Clock, Config};
use gateway::{Gateway, Local};
use mongod::Mongod;
use simulators::{Sim, SimConfig};
use store::collections::InitOptions;
use tokio::net::TcpListener;
use tracing::level_filters::LevelFilter;

use crate::cli::say;
use crate::database::{DEFAULT_DATA_DIR, start_local};
use crate::local;
use crate::serve::{DRAIN, Shutdown, settle};

/// 本地云：数据库、全部函数、模拟的微信、定时任务和页面 · The local cloud (the default command)
///
/// 启动 MongoDB（没有则下载一次），应用 collections/ 和演示数据，在一个端口上提供所有函数；就绪后输出 ready 一行。
/// Starts MongoDB (downloads it once if there is none), applies collections/ with demo data, and serves all functions,
/// a simulated WeChat, the timers and a page on one port. Prints a line `ready http://127.0.0.1:PORT` when it is.
/// Ctrl-C or SIGTERM stops everything it started. Several can run side by side with their own ports and folders.
///
/// Examples:
///   jinlu dev                                        then open http://127.0.0.1:8900
///   jinlu dev --fresh                                start over from the demo data
///   jinlu dev --port 8901 --data-dir .jinlu-two      a second one
///   MONGODB_URI=mongodb://127.0.0.1:27017/?replicaSet=rs0 jinlu dev
#[derive(Debug, Clone, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 端口，0 为任意空闲端口 · Port on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 8900)]
    pub(crate) port: u16,
    /// 数据目录 · Where its state is kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// 清空数据重新开始 · Empty the database and the simulators first
    #[arg(long)]
    pub(crate) fresh: bool,
    /// 不自动运行定时任务（页面上仍可手动运行）· Do not run timers by themselves
    #[arg(long)]
    no_timers: bool,
    /// 用这个 MongoDB 而不自己启动 · Use this MongoDB replica set instead of starting one
    #[arg(long, value_name = "URI", env = "MONGODB_URI", hide_env_values = true)]
    uri: Option<String>,
    /// 数据库名 · Name of the database
    #[arg(long, value_name = "NAME", env = "MONGODB_DATABASE", default_value = "jinlu")]
    database: String,
    /// 日志级别 error|warn|info|debug · Log level on standard error; info shows every call
    #[arg(long, value_name = "LEVEL", env = "LOG_LEVEL", default_value = "warn")]
    log_level: LevelFilter,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    log_to_stderr(args.log_level);
    let shutdown = Shutdown::listen()?;
    // A signal during start-up drops what was started so far; the database's watchdog does the rest.
    let started = tokio::select! {
        started = start(&args) => started?,
        () = shutdown.wait() => return Ok(ExitCode::SUCCESS),
    };
    let Started { listener, router, app, gateway, url, mut server, _lock } = started;

    eprintln!("  本地云页面 · page   {url}");
    eprintln!("  使用公开的测试凭证，不要用于真实业务 · published test credentials, not for real business");
    say(format_args!("ready {url}"))?;
    let serving = edge::host::serve(listener, router, shutdown.wait(), DRAIN);
    tokio::select! {
        () = serving => {}
        () = gateway.run_timers(), if !args.no_timers => {}
    }
    eprintln!("stopping…");
    settle(&app).await;
    if let Some(mut server) = server.take() {
        tokio::task::spawn_blocking(move || server.stop()).await??;
    }
    Ok(ExitCode::SUCCESS)
}

struct Started {
    listener: TcpListener,
    router: Router,
    app: std::sync::Arc<App>,
    gateway: Gateway,
    url: String,
    server: Option<Mongod>,
    _lock: File,
}

async fn start(args: &Args) -> Result<Started> {
    // The port first: it is the likeliest thing to be wrong, and nothing has to be undone.
    let listener = listen(args.port).await?;
    fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("cannot create the data folder {}", args.data_dir.display()))?;
    let data_dir = args.data_dir.canonicalize()?;
    let port = listener.local_addr()?.port();
    let url = format!("http://127.0.0.1:{port}");
    let lock = lock(&data_dir, &url)?;

    let given_uri = args.uri.as_ref().filter(|uri| !uri.is_empty());
    let (uri, server) = match given_uri {
        Some(uri) => {
            step("连接 MongoDB · connecting to the given MongoDB");
            (uri.clone(), None)
        }
        None => {
            step("启动 MongoDB · starting MongoDB");
            let server = start_local(&data_dir, mongod::CACHE_MIB).await?;
            (server.uri(), Some(server))
        }
    };
    if args.fresh && given_uri.is_some_and(|uri| !is_loopback(uri)) {
        bail!(
            "--fresh empties only databases on this machine; drop the one that MONGODB_URI names yourself if that is what you want"
        );
    }

    let clock_file = data_dir.join("clock");
    if args.fresh && clock_file.exists() {
        fs::remove_file(&clock_file)?;
    }
    let clock = clock(&clock_file)?;
    let app = App::new(
        Config { log_level: args.log_level, ..local::config(&url, port, &uri, &args.database) },
        clock.clone(),
    )?;
    app.store().ping().await.context("the database does not answer")?;
    let state_file = data_dir.join("simulators.jsonl");
    if args.fresh {
        step("清空数据 · emptying the database");
        app.store().drop_database().await?;
        if state_file.exists() {
            fs::remove_file(&state_file)?;
        }
    }
    step("应用 collections/ · applying collections and demo data");
    let report = app.store().init(InitOptions { demo: true, dry_run: false }, clock.now()).await?;
    for line in &report.drift {
        eprintln!("  drift: {line}");
    }

    step("启动函数和模拟器 · starting functions and simulators");
    let sim_clock = clock.clone();
    let sim = Sim::new(SimConfig { state_file: Some(state_file), ..SimConfig::new(move || sim_clock.now()) })?;
    let place = Local {
        url: url.clone(),
        data_dir: data_dir.display().to_string(),
        database: match &server {
            Some(server) => format!("mongodb://127.0.0.1:{}/{}", server.port(), args.database),
            None => format!("MONGODB_URI/{}", args.database),
        },
        timers_run: !args.no_timers,
        clock_file: Some(clock_file),
    };
    let (gateway, router) = local::assemble(&app, &sim, place)?;
    if !edge::host::store_answers(&app).await {
        bail!("the database stopped answering");
    }
    Ok(Started { listener, router, app, gateway, url, server, _lock: lock })
}

/// The clock as it was left: entries must not be older than the days that are sealed.
fn clock(file: &Path) -> Result<Clock> {
    let shift = gateway::clock_file::read(file)
        .with_context(|| format!("cannot read {}: delete it, or start over with --fresh", file.display()))?;
    if shift.num_seconds() > 0 {
        step(&format!(
            "时钟仍快 {0} 秒（--fresh 复位）· the clock stays {0} s ahead, as it was left; --fresh sets it back",
            shift.num_seconds()
        ));
    }
    Ok(Clock::system_shifted_by(shift))
}

fn step(what: &str) {
    eprintln!("- {what}");
}

async fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {port} is in use, perhaps by another local cloud: stop that one, or choose another with --port {} --data-dir .jinlu-two",
            port.checked_add(1).unwrap_or(8901)
        ),
        _ => anyhow::Error::new(error).context(format!("cannot listen on 127.0.0.1:{port}")),
    })
}

/// Claims the data folder for this process. The kernel gives the lock back however the process ends.
fn lock(data_dir: &Path, url: &str) -> Result<File> {
    let path = data_dir.join("dev.lock");
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder)?;
        bail!(
            "another local cloud ({}) uses the data folder {}: stop that one, or choose another folder with --data-dir",
            holder.trim(),
            data_dir.display()
        );
    }
    file.set_len(0)?;
    writeln!(file, "{url}, pid {}", std::process::id())?;
    Ok(file)
}

/// Whether every host of a connection string is this machine.
fn is_loopback(uri: &str) -> bool {
    let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
    let hosts = rest.split(['/', '?']).next().unwrap_or_default();
    let hosts = hosts.rsplit_once('@').map_or(hosts, |(_, hosts)| hosts);
    hosts.split(',').all(|host| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        matches!(name, "127.0.0.1" | "localhost" | "[::1]")
    })
}

/// Readable lines on standard error; standard output is for the `ready` line.
fn log_to_stderr(level: LevelFilter) {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).compact();
    let ours = tracing_subscriber::filter::Targets::new().with_default(LevelFilter::WARN).with_targets(
        ["edge", "gateway", "jinlu", "providers", "shop", "store", "wechat", "simulators"]
            .map(|target| (target, level)),
    );
    tracing_subscriber::registry().with(lines).with(ours).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_counts_as_loopback() {
        for uri in [
            "mongodb://127.0.0.1:27017/?replicaSet=rs0",
            "mongodb://localhost/x",
            "mongodb://u:p@127.0.0.1:1,localhost:2/?a=b",
        ] {
            assert!(is_loopback(uri), "{uri}");
        }
        for uri in [
            "mongodb://db.example:27017",
            "mongodb+srv://x.example/",
            "mongodb://127.0.0.1,db.example",
            "mongodb://localhost@db.example",
            "",
        ] {
            assert!(!is_loopback(uri), "{uri}");
        }
    }

    #[test]
    fn a_data_folder_has_one_local_cloud() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path(), "http://127.0.0.1:1").unwrap();
        let error = lock(folder.path(), "http://127.0.0.1:2").unwrap_err().to_string();
        assert!(error.contains("http://127.0.0.1:1") && error.contains("--data-dir"), "{error}");
        drop(first);
        lock(folder.path(), "http://127.0.0.1:2").unwrap();
    }

    #[test]
    fn a_moved_clock_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock");
        assert_eq!(clock(&file).unwrap().shift(), chrono::TimeDelta::zero());
        gateway::clock_file::write(&file, chrono::TimeDelta::days(3)).unwrap();
        assert_eq!(clock(&file).unwrap().shift(), chrono::TimeDelta::days(3));
        for text in ["", "soon", "-1", "99999999999999999999"] {
            fs::write(&file, text).unwrap();
            let error = format!("{:#}", clock(&file).unwrap_err());
            assert!(error.contains("--fresh"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_a_way_out() {
        let holder = listen(0).await.unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = listen(port).await.unwrap_err().to_string();
        assert!(error.contains("is in use") && error.contains("--port"), "{error}");
    }
}
