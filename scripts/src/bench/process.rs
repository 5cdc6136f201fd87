//! The function's release binary as a process, and what the kernel says of a process.

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use super::http::Connection;

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The binary that was named, or the one of that function beside this program.
pub(super) fn find(function: &str, named: Option<&Path>) -> Result<PathBuf> {
    let build = format!("cargo build --release -p {function} -p jinlu");
    if cfg!(debug_assertions) {
        bail!("a debug build measures nothing; build with `{build}` and run target/release/jinlu bench");
    }
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name(format!("{function}{}", std::env::consts::EXE_SUFFIX)),
    };
    if !path.is_file() {
        bail!("there is no {}; build it with `{build}`, or name it with --binary", path.display());
    }
    Ok(path)
}

/// How to start the function.
#[derive(Clone)]
pub(super) struct Recipe {
    pub(super) binary: PathBuf,
    pub(super) uri: String,
    pub(super) database: String,
    /// What else it is configured with.
    pub(super) environment: Vec<(&'static str, String)>,
    /// Where its log goes: writing it is part of what a call costs.
    pub(super) log: PathBuf,
}

/// A running function; killed when dropped.
pub(super) struct Running {
    child: Child,
    pub(super) port: u16,
    pub(super) started: Instant,
}

impl Recipe {
    pub(super) fn spawn(&self) -> Result<Running> {
        // A port that was free a moment ago; should somebody else take it, the function says so and the benchmark ends.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let started = Instant::now();
        let child = Command::new(&self.binary)
            .env_clear()
            .env("PORT", port.to_string())
            .env("MONGODB_URI", &self.uri)
            .env("MONGODB_DATABASE", &self.database)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        Ok(Running { child, port, started })
    }
}

impl Running {
    /// Connects as soon as the function listens.
    pub(super) async fn connect(&mut self) -> Result<Connection> {
        loop {
            match Connection::open(self.port).await {
                Ok(connection) => return Ok(connection),
                Err(_) if self.started.elapsed() < START_TIMEOUT => {}
                Err(error) => return Err(error).context("the function does not listen"),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the function ended with {status}");
            }
            // Blocks this thread on purpose: the runtime's timers count whole milliseconds.
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Resident memory in KiB: all of it, and the part that is not shared with a file. Only where there is a `/proc`.
pub(super) fn resident_kib(pid: u32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Some((field("VmRSS")?, field("RssAnon")?))
}

/// From now on the peak counts anew, where the kernel allows it.
pub(super) fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").ok();
}

/// The most memory of this process that was resident at once, in KiB. Only where there is a `/proc`.
pub(super) fn peak_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// The processor time that a process has used. Only where there is a `/proc`.
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<Duration> {
    // The program's name may hold anything, even a parenthesis; the numbers begin after the last one.
    let (_, numbers) = stat.rsplit_once(')')?;
    let mut numbers = numbers.split_whitespace().skip(11);
    let user: u64 = numbers.next()?.parse().ok()?;
    let system: u64 = numbers.next()?.parse().ok()?;
    // Linux counts hundredths of a second here, whatever its own clock does.
    Some(Duration::from_millis(user.saturating_add(system).saturating_mul(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_time_is_user_plus_system() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_resident() {
        let (all, anonymous) = resident_kib(std::process::id()).unwrap();
        assert!(all > anonymous && anonymous > 0);
        assert!(cpu_time(std::process::id()).is_some());
    }
}
