//! `jinlu staff-token`

use std::process::ExitCode;

use anyhow::{Result, bail};
use chrono::TimeDelta;
use edge::{App, Clock, Config, Need};

use crate::cli::say;
use crate::local;

/// 签发员工令牌 · Issue a session token for a member of staff
///
/// 用 SESSION_SECRETS 的第一把密钥签名，输出令牌；调用时放在请求头 x-app-session 中。
/// Signed with the first of SESSION_SECRETS; send it in the header x-app-session.
///
/// Examples:
///   jinlu staff-token --id lily --permission points --permission orders
///   jinlu staff-token --local --id lily --permission '*'     for the local cloud
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 员工编号 · Who it is for; shows in logs and ledgers
    #[arg(long)]
    id: String,
    /// 权限，可重复 · A permission; may be repeated, * stands for all
    #[arg(long = "permission", required = true)]
    permissions: Vec<String>,
    /// 有效小时数 · Hours until it expires
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i64).range(1..=24 * 90))]
    hours: i64,
    /// 用本地云的密钥签名 · Sign with the published secret of the local cloud
    #[arg(long)]
    local: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@');
    if args.id.is_empty() || args.id.len() > 64 || !args.id.bytes().all(plain) {
        bail!("--id takes 1 to 64 letters, digits, '-', '_', '.' or '@'");
    }
    let config = match args.local {
        true => Config { local: true, session_secrets: local::session_secrets(), ..Config::default() },
        false => Config::from_env(&[Need::Session])?,
    };
    let clock = Clock::system();
    let app = App::new(config, clock.clone())?;
    let (token, expires_at) =
        app.issue_staff_token(&args.id, &args.permissions, TimeDelta::hours(args.hours), clock.now())?;
    eprintln!("expires {expires_at}");
    say(token)?;
    Ok(ExitCode::SUCCESS)
}
