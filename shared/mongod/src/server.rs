//! A running `mongod`.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::wire;

const REPLICA_SET: &str = "rs0";
const START_TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// A log is for the last few runs; one that has grown past this starts anew.
const LOG_MAX_BYTES: u64 = 16 << 20;

/// For one shop's data on a developer's machine, perhaps several times side by side.
pub const CACHE_MIB: u32 = 256;

/// How a `mongod` is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program, from [`find_or_provision`](crate::find_or_provision).
    pub binary: PathBuf,
    /// Its data; created when missing, kept at the end.
    pub data_dir: PathBuf,
    /// The port on 127.0.0.1; a free one when `None`.
    pub port: Option<u16>,
    /// Refuse every query that has no index, and let dropped databases go soon.
    pub testing: bool,
    /// How much of its data it keeps in memory.
    pub cache_mib: u32,
    /// Where the server logs; `mongod.log` in the data folder when `None`.
    pub log_path: Option<PathBuf>,
}

impl Options {
    /// A server of `binary` with its data in `data_dir` on any free port.
    pub fn new(binary: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Options {
            binary: binary.into(),
            data_dir: data_dir.into(),
            port: None,
            testing: false,
            cache_mib: CACHE_MIB,
            log_path: None,
        }
    }

    fn log_path(&self) -> PathBuf {
        self.log_path.clone().unwrap_or_else(|| self.data_dir.join("mongod.log"))
    }
}

/// A `mongod` running as a replica set of one on 127.0.0.1, stopped when this is dropped or this process ends,
/// however it ends.
#[derive(Debug)]
pub struct Mongod {
    options: Options,
    port: u16,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    watchdog: Child,
    /// The other end of what the watchdog reads: closing it, also by dying, ends the server.
    leash: Option<ChildStdin>,
    pid: u32,
}

/// Starts the server, tells its process id, and stops it when its own standard input ends.
///
/// A SIGKILL gives us no chance to clean up, but the kernel closes our end of the pipe all the same. The shell is
/// in the process group of its own, so a Ctrl-C in the terminal reaches us first and the server last.
const WATCHDOG: &str = r#"
# Each collection and each index is an open file.
ulimit -n "$(ulimit -H -n)" 2>/dev/null
exec 3<&0
"$@" </dev/null >&2 3<&- &
pid=$!
echo "$pid"
exec >&-
(
  read -r _ <&3
  kill -TERM "$pid" || exit 0
  n=0
  while [ "$n" -lt 100 ]; do
    kill -0 "$pid" || exit 0
    sleep 0.1
    n=$((n + 1))
  done
  kill -KILL "$pid"
) 2>/dev/null &
watcher=$!
wait "$pid"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

impl Mongod {
    /// Starts a server and waits until it is a writable primary.
    ///
    /// When a server of an earlier run still holds the data folder, waits up to ten seconds for it to go.
    pub fn start(options: Options) -> Result<Mongod> {
        fs::create_dir_all(&options.data_dir)
            .with_context(|| format!("cannot create {}", options.data_dir.display()))?;
        // A port that was free a moment ago may be taken by the time the server binds it.
        let attempts = if options.port.is_some() { 1 } else { 5 };
        let mut last = None;
        for _ in 0..attempts {
            let port = match options.port {
                Some(port) => port,
                None => free_port()?,
            };
            let mut mongod = Mongod { options: options.clone(), port, running: None };
            match mongod.launch() {
                Ok(()) => return Ok(mongod),
                Err(error) if port_is_taken(port) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no free port")))
    }

    /// The connection string of the running server. It names the replica set, and asks for a direct connection so
    /// that a client does not wait for members that a set of one will never have.
    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?replicaSet={REPLICA_SET}&directConnection=true", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.pid)
    }

    /// Shuts the server down and waits for it; a server that does not go within ten seconds is killed.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        drop(running.leash.take());
        match wait(&mut running.watchdog, STOP_TIMEOUT)? {
            Some(_) => Ok(()),
            None => bail!("mongod (pid {}) did not stop", running.pid),
        }
    }

    /// Kills the server at once (SIGKILL), as a power failure would, and waits until it is gone.
    pub fn kill_hard(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        signal(running.pid, "KILL")?;
        match wait(&mut running.watchdog, STOP_TIMEOUT)? {
            Some(_) => Ok(()),
            None => bail!("mongod (pid {}) survived SIGKILL", running.pid),
        }
    }

    /// Starts the server again on the same port and data, after [`stop`](Self::stop) or
    /// [`kill_hard`](Self::kill_hard); a server that still runs is stopped first.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }

    fn launch(&mut self) -> Result<()> {
        wait_for_lock(&self.options.data_dir)?;
        // Asked first, since whatever listens there would otherwise be asked whether it is a MongoDB.
        if port_is_taken(self.port) {
            bail!("port {} is in use by another program", self.port);
        }
        let log_path = self.options.log_path();
        let log = open_log(&log_path)?;

        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCHDOG, "mongod-watchdog"]).arg(&self.options.binary);
        command.args(["--replSet", REPLICA_SET, "--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet"]);
        command.arg("--port").arg(self.port.to_string()).arg("--dbpath").arg(&self.options.data_dir);
        let cache_gb = f64::from(self.options.cache_mib) / 1024.0;
        command.arg("--wiredTigerCacheSizeGB").arg(cache_gb.to_string()).args(["--oplogSize", "64"]);
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
        // A transaction of a killed process keeps its documents locked until the server gives it up: by default for a minute,
        // although ours never live longer than ten seconds.
        command.args(["--setParameter", "transactionLifetimeLimitSeconds=12"]);
        if self.options.testing {
            command.args(["--setParameter", "notablescan=true"]);
            // The files of a dropped database stay open for as long as its past can be read.
            command.args(["--setParameter", "minSnapshotHistoryWindowInSeconds=60"]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).process_group(0);

        let mut watchdog = command.spawn().context("cannot start /bin/sh")?;
        let leash = watchdog.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = watchdog.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let pid = line.trim().parse().context("the watchdog did not tell mongod's process id")?;
        let running = self.running.insert(Running { watchdog, leash, pid });

        let outcome = become_primary(running, self.port);
        if outcome.is_err() {
            self.stop()?;
        }
        outcome.with_context(|| {
            format!("mongod did not start; its log is {}\n{}", log_path.display(), log_tail(&log_path))
        })
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

fn become_primary(running: &mut Running, port: u16) -> Result<()> {
    let started = Instant::now();
    let mut initiated = false;
    while started.elapsed() < START_TIMEOUT {
        if let Some(status) = running.watchdog.try_wait()? {
            bail!("{}", why_it_ended(status, port));
        }
        match wire::is_primary(port) {
            Ok(true) => return Ok(()),
            Ok(false) if !initiated => {
                wire::initiate(port, REPLICA_SET)?;
                initiated = true;
            }
            // Not listening yet, or not elected yet.
            Ok(false) | Err(_) => {}
        }
        sleep(POLL);
    }
    bail!("it was not ready within {} s", START_TIMEOUT.as_secs())
}

fn why_it_ended(status: ExitStatus, port: u16) -> String {
    match status.code() {
        Some(48) => format!("port {port} is in use by another program"),
        Some(62) => {
            "its data were written by another version of MongoDB; use that version, or another data folder".to_owned()
        }
        Some(100) => "another mongod uses the same data folder".to_owned(),
        _ => format!("it ended with {status}"),
    }
}

/// Whether a live `mongod` holds this data folder.
pub fn data_dir_is_in_use(data_dir: &Path) -> bool {
    // A running server keeps an flock on this file; a crashed one leaves the file without the lock.
    let Ok(file) = OpenOptions::new().read(true).write(true).open(data_dir.join("mongod.lock")) else { return false };
    file.try_lock().is_err()
}

fn wait_for_lock(data_dir: &Path) -> Result<()> {
    let started = Instant::now();
    while data_dir_is_in_use(data_dir) {
        if started.elapsed() > LOCK_TIMEOUT {
            let holder = fs::read_to_string(data_dir.join("mongod.lock")).unwrap_or_default();
            bail!(
                "the database in {} is in use by another mongod (pid {}); stop the local cloud that runs there, or use another --data-dir",
                data_dir.display(),
                holder.trim()
            );
        }
        sleep(POLL);
    }
    Ok(())
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_MAX_BYTES) {
        fs::remove_file(path)?;
    }
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

fn log_tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().map(|line| line.chars().take(300).collect::<String>()).collect::<Vec<_>>().join("\n")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn port_is_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > limit {
            return Ok(None);
        }
        sleep(Duration::from_millis(10));
    }
}

/// Sends a signal through the shell: the standard library cannot, and this crate has no unsafe code.
fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("/bin/sh").args(["-c", &format!("kill -{name} {pid}")]).status()?;
    if !status.success() {
        bail!("cannot send SIG{name} to mongod (pid {pid})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn options(data_dir: &Path) -> Options {
        let cache = crate::default_cache_dir(None);
        let binary = crate::find_or_provision(&cache, &mut |_| {}).unwrap();
        Options::new(binary, data_dir)
    }

    fn insert(port: u16, id: i32) {
        let command = doc! { "insert": "things", "$db": "test", "documents": [{ "_id": id }], "writeConcern": { "w": "majority" } };
        assert_eq!(wire::command(port, command).unwrap().get_i32("n").unwrap(), 1);
    }

    fn count(port: u16) -> i32 {
        wire::command(port, doc! { "count": "things", "$db": "test" }).unwrap().get_i32("n").unwrap()
    }

    fn is_alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}/status")).exists()
            && !fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default().contains("State:\tZ")
    }

    #[test]
    fn data_survive_a_stop_a_kill_and_a_new_port() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Mongod::start(options(folder.path())).unwrap();
        let port = first.port();
        insert(port, 1);
        assert!(data_dir_is_in_use(folder.path()));

        first.kill_hard().unwrap();
        first.restart().unwrap();
        assert_eq!(first.port(), port);
        insert(port, 2);
        first.stop().unwrap();
        assert!(!data_dir_is_in_use(folder.path()));

        let second = Mongod::start(options(folder.path())).unwrap();
        assert!(wire::is_primary(second.port()).unwrap());
        assert_eq!(count(second.port()), 2);
    }

    #[test]
    fn a_query_without_an_index_fails_with_notablescan() {
        let folder = tempfile::tempdir().unwrap();
        let server = Mongod::start(Options { testing: true, ..options(folder.path()) }).unwrap();
        insert(server.port(), 1);
        let reply =
            wire::command(server.port(), doc! { "find": "things", "$db": "test", "filter": { "x": 1 } }).unwrap();
        assert_eq!(reply.get_i32("code").unwrap(), 291, "{reply}");
    }

    #[test]
    fn a_port_in_use_is_told_plainly() {
        let folder = tempfile::tempdir().unwrap();
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = Mongod::start(Options { port: Some(port), ..options(folder.path()) }).unwrap_err();
        assert!(format!("{error:#}").contains("is in use by another program"), "{error:#}");
    }

    /// The helper process of the next test: starts a server, tells its pid, and waits to be killed.
    #[test]
    fn helper_that_waits() {
        let Some(folder) = std::env::var_os("MONGOD_TEST_DATA_DIR") else { return };
        let server = Mongod::start(options(Path::new(&folder))).unwrap();
        fs::write(Path::new(&folder).join("pid"), server.pid().unwrap().to_string()).unwrap();
        sleep(Duration::from_secs(60));
    }

    #[test]
    fn the_server_ends_when_its_parent_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut helper = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server::tests::helper_that_waits"])
            .env("MONGOD_TEST_DATA_DIR", folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let pid: u32 = loop {
            if let Some(pid) = fs::read_to_string(folder.path().join("pid")).ok().and_then(|text| text.parse().ok()) {
                break pid;
            }
            assert!(started.elapsed() < Duration::from_secs(60));
            sleep(POLL);
        };
        assert!(is_alive(pid));
        helper.kill().unwrap();
        helper.wait().unwrap();
        let killed = Instant::now();
        while is_alive(pid) {
            assert!(killed.elapsed() < Duration::from_secs(12), "mongod {pid} outlived its parent");
            sleep(POLL);
        }
    }
}
