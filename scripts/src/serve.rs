//! `jinlu serve`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge::config::local;
use edge::{App, Clock, Config, Function, Need};
use gateway::{Gateway, Options, Tc3Key};
use tokio::net::TcpListener;

use crate::cli::say;

/// The timers that the platform would run.
pub(crate) const CLOUDBASERC: &str = include_str!("../../cloudbaserc.json");

/// 自托管服务器：一个端口上的全部函数 · The self-hosted server: all functions on one port
///
/// 没有模拟器和演示数据，配置全部来自环境变量。可对同一数据库运行多个进程，每个定时任务只由其中一个执行。
/// No simulators and no demo data; configured by environment variables. Several processes may serve one database,
/// each tick of a timer is run by one of them. Put a TLS-terminating proxy in front.
///
/// Examples:
///   jinlu init --uri "$MONGODB_URI"          once, and after each upgrade
///   PORT=9000 jinlu serve                    prints what is missing in the environment, if anything is
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 不运行定时任务 · Leave the timers to other processes
    #[arg(long)]
    no_timers: bool,
    /// 客户端须指明的环境 id · Environment id that clients of /admin, /web and /tcb must name
    #[arg(long, env = "ENV_ID", default_value = "jinlu")]
    env_id: String,
    /// /admin 接受的 SecretId · Key id that /admin accepts; without one it refuses everyone
    #[arg(long, env = "JINLU_TC3_SECRET_ID", requires = "tc3_secret_key")]
    tc3_secret_id: Option<String>,
    /// /admin 接受的 SecretKey · Its secret; better given by the environment
    #[arg(long, env = "JINLU_TC3_SECRET_KEY", hide_env_values = true, requires = "tc3_secret_id")]
    tc3_secret_key: Option<String>,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let functions = gateway::functions();
    let config = Config::from_env(&needs(&functions))?;
    edge::logs::init(config.log_level);
    let tc3 = match (args.tc3_secret_id, args.tc3_secret_key) {
        (Some(secret_id), Some(secret_key)) if !secret_id.is_empty() => Some(Tc3Key { secret_id, secret_key }),
        _ => None,
    };
    let published =
        |key: &Tc3Key| local::ALL.contains(&key.secret_id.as_str()) || local::ALL.contains(&key.secret_key.as_str());
    if tc3.as_ref().is_some_and(published) {
        bail!("the TC3 key is a published credential of the local cloud; make your own");
    }
    let port = config.port;
    let app = App::new(config, Clock::system())?;
    let options = Options { env_id: args.env_id, tc3, local: None };
    let gateway = Gateway::new(app.clone(), functions, gateway::timers(CLOUDBASERC)?, options);

    let shutdown = Shutdown::listen()?;
    let listener =
        TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("cannot listen on port {port} (PORT)"))?;
    say(format_args!("listening on port {port}"))?;
    let server = edge::host::serve(listener, gateway.router(), shutdown.wait(), DRAIN);
    tokio::select! {
        () = server => {}
        () = gateway.run_timers(), if !args.no_timers => {}
    }
    settle(&app).await;
    Ok(ExitCode::SUCCESS)
}

fn needs(functions: &[Function]) -> Vec<Need> {
    let mut needs = vec![Need::Store];
    for need in functions.iter().flat_map(Function::all_needs) {
        if !needs.contains(&need) {
            needs.push(need);
        }
    }
    needs
}

/// How long requests may go on after the signal to stop.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// Lets calls end whose client has gone, timers among them.
pub(crate) async fn settle(app: &App) {
    if tokio::time::timeout(DRAIN, app.idle()).await.is_err() {
        tracing::warn!("stopped with calls still running");
    }
}

/// SIGTERM or Ctrl-C, caught from the moment it is made, so that a signal during start-up is not lost.
#[derive(Clone)]
pub(crate) struct Shutdown(tokio::sync::watch::Receiver<bool>);

impl Shutdown {
    pub(crate) fn listen() -> Result<Self> {
        let (tell, told) = tokio::sync::watch::channel(false);
        let signal = edge::host::shutdown_signal()?;
        tokio::spawn(async move {
            signal.await;
            // Nobody left to tell means that we are stopping anyway.
            tell.send(true).ok();
        });
        Ok(Self(told))
    }

    /// Resolves once the signal has come.
    pub(crate) fn wait(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut told = self.0.clone();
        async move {
            if told.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
