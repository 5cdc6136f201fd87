//! A process that does nothing but get an access token, as any function of a deployment does: what many of them do to each
//! other is what its tests look at.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use edge::{App, Clock};
use jinlu::local;

/// What one process got.
#[derive(Debug)]
pub struct Got {
    /// The simulator's token, or why there is none.
    pub token: Result<String, String>,
    pub after: Duration,
}

/// A process that waits for [`Probe::go`].
pub struct Probe {
    child: Child,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Probe {
    /// Starts `program`, which is `jinlu-it`; `url` is where the simulators are.
    pub fn start(program: &str, uri: &str, database: &str, url: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(["token", uri, database, url]).env_remove("JINLU_CRASHPOINT");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self { child })
    }

    /// Waits until the process stands ready.
    pub fn ready(&mut self) -> anyhow::Result<()> {
        let mut line = [0; 6];
        self.child.stdout.as_mut().ok_or_else(|| anyhow::anyhow!("no output"))?.read_exact(&mut line)?;
        anyhow::ensure!(&line == b"ready\n", "unexpected {line:?}");
        Ok(())
    }

    /// Lets it ask for a token.
    pub fn go(&mut self) -> anyhow::Result<()> {
        self.child.stdin.as_mut().ok_or_else(|| anyhow::anyhow!("no input"))?.write_all(b"go\n")?;
        Ok(())
    }

    /// What it got; waits for that.
    pub fn got(mut self) -> anyhow::Result<Got> {
        let mut lines = BufReader::new(self.child.stdout.take().ok_or_else(|| anyhow::anyhow!("no output"))?).lines();
        let line = lines.next().ok_or_else(|| anyhow::anyhow!("the process ended"))??;
        let mut words = line.splitn(3, ' ');
        let (kind, ms, text) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let token = if kind == Some("token") { Ok(text.to_owned()) } else { Err(text.to_owned()) };
        Ok(Got { token, after: Duration::from_millis(ms.parse()?) })
    }

    /// Kills it wherever it stands.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// What the process itself does.
pub fn main(uri: &str, database: &str, url: &str) -> ExitCode {
    match run(uri, database, url) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the test reads it")]
fn run(uri: &str, database: &str, url: &str) -> anyhow::Result<()> {
    let app = App::new(local::config(url, 0, uri, database), Clock::system())?;
    println!("ready");
    std::io::stdin().lock().lines().next().transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let started = Instant::now();
        let token = app.open_api()?.access_token().await;
        let ms = started.elapsed().as_millis();
        match token {
            Ok(token) => println!("token {ms} {}", token.expose()),
            Err(error) => println!("error {ms} {error:?}"),
        }
        Ok(())
    })
}
