//! The command line. `jinlu` without a command is `jinlu dev`.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    audit, bench, dev, init, migrate, package, reconcile, rotate_keys, selfcheck, serve, staff_token, types,
    verify_draw,
};

/// 金鹿微信商城后端 · jinlu, the back end of a WeChat mini-program shop
///
/// 不带命令即启动本地云（等于 jinlu dev）。
/// Without a command it starts the local cloud, as `jinlu dev` does.
#[derive(Debug, Parser)]
#[command(name = "jinlu", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    dev: dev::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Args),
    Serve(serve::Args),
    Init(init::Args),
    Audit(audit::Args),
    Migrate(migrate::Args),
    Reconcile(reconcile::Args),
    RotateKeys(rotate_keys::Args),
    Selfcheck(selfcheck::Args),
    StaffToken(staff_token::Args),
    Package(package::Args),
    Types(types::Args),
    Bench(bench::Args),
    VerifyDraw(verify_draw::Args),
}

/// The whole program: reads the arguments, runs the command, and tells in words what went wrong.
pub fn main() -> ExitCode {
    let Cli { command, dev } = Cli::parse();
    let outcome = match command.unwrap_or(Command::Dev(dev)) {
        Command::Dev(args) => on_runtime(dev::run(args)),
        Command::Serve(args) => on_runtime(serve::run(args)),
        Command::Init(args) => on_runtime(init::run(args)),
        Command::Audit(args) => on_runtime(audit::run(args)),
        Command::Migrate(args) => on_runtime(migrate::run(args)),
        Command::Reconcile(args) => on_runtime(reconcile::run(args)),
        Command::RotateKeys(args) => on_runtime(rotate_keys::run(args)),
        Command::Selfcheck(args) => on_runtime(selfcheck::run(args)),
        Command::StaffToken(args) => staff_token::run(&args),
        Command::Package(args) => package::run(&args),
        Command::Types(args) => types::run(&args),
        Command::Bench(args) => on_runtime(bench::run(args)),
        Command::VerifyDraw(args) => on_runtime(verify_draw::run(args)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn on_runtime(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(command);
    // A download or a database that is still starting must not hold up a Ctrl-C.
    runtime.shutdown_background();
    outcome
}

/// Writes a line to standard output, where results go; progress and complaints go to standard error.
pub(crate) fn say(line: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound_and_every_command_teaches() {
        Cli::command().debug_assert();
        let mut command = Cli::command();
        for sub in command.get_subcommands_mut() {
            assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
            assert!(sub.render_long_help().to_string().contains("jinlu "), "{} shows no example", sub.get_name());
        }
    }

    #[test]
    fn no_command_means_dev() {
        let cli = Cli::try_parse_from(["jinlu"]).unwrap();
        assert!(cli.command.is_none() && cli.dev.port == 8900 && !cli.dev.fresh);
        let cli = Cli::try_parse_from(["jinlu", "--port", "9100"]).unwrap();
        assert_eq!(cli.dev.port, 9100);
        let cli = Cli::try_parse_from(["jinlu", "dev", "--port", "9100", "--fresh"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Dev(args)) if args.fresh && args.port == 9100));
    }

    #[test]
    fn a_database_is_named_in_one_way() {
        assert!(Cli::try_parse_from(["jinlu", "audit", "--uri", "mongodb://x", "--data-dir", "y"]).is_err());
        assert!(Cli::try_parse_from(["jinlu", "init", "--dry-run", "--data-dir", "y"]).is_ok());
    }
}
