//! Clients that were not written here: the official SDKs of the platform against our routes, and an independent implementation
//! of WeChat Pay against the simulator, our callback and our requests. They live in `tests/clients` and need Node.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use it::World;
use serde_json::Value;
use simulators::keys;
use wechat::Personal;
use wechat::crypto::{ApiV3Key, MerchantKey, PlatformKeys};
use wechat::pay::{self, PrepayOrder, RefundRequest, RefundStatus, TradeState};

/// The oldest Node whose test runner the clients are written for.
const NODE_MAJOR_MIN: u32 = 20;
/// How npm fails when it does not get through to the registry.
const NO_NETWORK: &[&str] =
    &["EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH", "ENOTFOUND", "ETIMEDOUT"];

#[tokio::test]
async fn official_clients_and_an_independent_wechat_pay_agree_with_us() -> anyhow::Result<()> {
    let Some(folder) = installed().await? else { return Ok(()) };
    let world = World::start().await?;
    let mut node = node(&folder);
    node.args(["--test", "--test-reporter=tap"]).env("JINLU_URL", &world.client.base);
    let output = tokio::task::spawn_blocking(move || node.output()).await??;
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    // A runner that finds no tests is content.
    assert!(!report.contains("# tests 0\n"), "{report}");
    world.finish().await
}

#[tokio::test]
async fn our_requests_verify_in_an_independent_wechat_pay_and_we_accept_its_answers() -> anyhow::Result<()> {
    let Some(folder) = installed().await? else { return Ok(()) };
    for serial in [keys::WECHATPAY_PUBLIC_KEY_ID, keys::PLATFORM_SERIAL] {
        let mut recorder = Recorder::start(&folder)?;
        let client = pay_client(recorder.port, serial)?;

        let now = now();
        let order = PrepayOrder {
            out_trade_no: "jl_recorded-1",
            description: "苹果 × 2 “大” \\ / 🍎",
            amount_fen: 1234,
            payer_openid: &Personal::new("o-recorder"),
            time_expire: now + chrono::TimeDelta::minutes(30),
            attach: Some("订单"),
        };
        let body = client.prepay_request(&order)?;
        assert_eq!(client.prepay(&body).await?.as_str(), "wx201410272009395522657a690389285100");
        let seen = recorder.next()?;
        assert_eq!((&seen["method"], seen["body"].as_str()), (&"POST".into(), Some(body.as_str())));

        let paid = client.query("jl_recorded-1").await?.context("the recorder knows the payment")?;
        assert_eq!((paid.trade_state, paid.amount_total), (TradeState::Success, Some(1234)));
        let path = "/prefix/v3/pay/transactions/out-trade-no/jl_recorded-1";
        assert_eq!(recorder.next()?["url"], format!("{path}?mchid={}", keys::MCHID));
        assert_eq!(client.query("missing-1").await?, None);
        recorder.next()?;

        client.close("jl_recorded-1").await?;
        assert_eq!(recorder.next()?["url"], format!("{path}/close"));

        let wanted = RefundRequest {
            transaction_id: "4200001234202601010000000001",
            out_refund_no: "jl_refund-1",
            refund_fen: 1000,
            total_fen: 1234,
            reason: "商品已售完",
            notify_url: "https://shop.example/payCallback",
        };
        let refund = client.refund(&wanted).await?;
        assert_eq!((refund.status, refund.amount_refund), (RefundStatus::Processing, 1000));
        recorder.next()?;
        assert!(client.query_refund("jl_refund-1").await?.is_some());
        recorder.next()?;
        assert_eq!(client.query_refund("missing-1").await?, None);
        recorder.next()?;
        recorder.stop()?;
    }
    Ok(())
}

/// A client of ours that knows one key of WeChat Pay, and so believes no other's signature.
fn pay_client(port: u16, serial: &str) -> anyhow::Result<pay::Client> {
    let platform_keys = PlatformKeys::new();
    let pem = if serial == keys::PLATFORM_SERIAL { keys::PLATFORM_CERTIFICATE } else { keys::WECHATPAY_PUBLIC_KEY };
    platform_keys.add_pem(serial, pem)?;
    Ok(pay::Client::new(pay::Config {
        // A path in front is signed too.
        base_url: format!("http://127.0.0.1:{port}/prefix/"),
        backup_base_url: None,
        mchid: keys::MCHID.to_owned(),
        appid: keys::APPID.to_owned(),
        merchant_key: MerchantKey::from_pem(keys::MERCHANT_SERIAL, keys::MERCHANT_PRIVATE_KEY)?,
        platform_keys,
        api_v3_key: ApiV3Key::new(keys::API_V3_KEY)?,
        notify_url: "https://shop.example/payCallback".to_owned(),
        timeout: Duration::from_secs(10),
        now: Arc::new(now),
    })?)
}

#[expect(clippy::disallowed_methods, reason = "the recorder has the machine's clock")]
fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

/// The Node process that stands in for WeChat Pay.
struct Recorder {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    port: u16,
}

impl Recorder {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut process = node(folder).arg("recorder.mjs").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().context("no pipe")?;
        let mut recorder = Self { process, lines: BufReader::new(stdout).lines(), port: 0 };
        recorder.port = u16::try_from(recorder.line()?["port"].as_u64().context("no port")?)?;
        Ok(recorder)
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.lines.next().context("the recorder ended")??)?)
    }

    /// The next request, written down before it was answered; it must have had no fault.
    fn next(&mut self) -> anyhow::Result<Value> {
        let request = self.line()?;
        ensure!(request["faults"] == Value::Array(Vec::new()), "the recorder found faults: {request}");
        Ok(request)
    }

    /// Ends the process; nothing may be left unread.
    fn stop(mut self) -> anyhow::Result<()> {
        drop(self.process.stdin.take());
        if let Some(line) = self.lines.next() {
            bail!("one request too many: {}", line?);
        }
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Node in the clients' folder, shielded from a proxy that would be asked for this machine itself.
fn node(folder: &Path) -> Command {
    let mut command = Command::new("node");
    command.current_dir(folder).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    command
}

/// The clients' folder with everything in it, or `None` where Node is not to be had. On CI it is.
async fn installed() -> anyhow::Result<Option<PathBuf>> {
    tokio::task::spawn_blocking(|| match install() {
        Ok(folder) => Ok(Some(folder)),
        Err(Missing::Tool(what)) if !on_ci() => {
            eprintln!("skipped: {what}");
            Ok(None)
        }
        Err(Missing::Tool(what)) => bail!("{what}"),
        Err(Missing::Error(error)) => Err(error),
    })
    .await?
}

#[expect(clippy::disallowed_methods, reason = "what may be missing on a desk may not on CI")]
fn on_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

enum Missing {
    /// This machine lacks something that the project's tests can do without.
    Tool(String),
    /// Something is wrong.
    Error(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Missing {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Whether there is a Node that can be used; on CI there must be.
pub(crate) fn node_is_there() -> anyhow::Result<bool> {
    match node_version() {
        Ok(()) => Ok(true),
        Err(Missing::Tool(what)) if !on_ci() => {
            eprintln!("skipped: {what}");
            Ok(false)
        }
        Err(Missing::Tool(what)) => bail!("{what}"),
        Err(Missing::Error(error)) => Err(error),
    }
}

fn node_version() -> Result<(), Missing> {
    let version = |tool: &str| {
        let output = Command::new(tool).arg("--version").output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().trim_start_matches('v').to_owned())
    };
    let (Some(node), Some(_)) = (version("node"), version("npm")) else {
        return Err(Missing::Tool("node is not installed".to_owned()));
    };
    if node.split('.').next().and_then(|major| major.parse().ok()).is_none_or(|major: u32| major < NODE_MAJOR_MIN) {
        return Err(Missing::Tool(format!("node {node} is installed, but {NODE_MAJOR_MIN} or newer is needed")));
    }
    Ok(())
}

fn install() -> Result<PathBuf, Missing> {
    node_version()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    // Tests run in processes of their own: the first one installs, the others wait.
    let manifest = File::open(folder.join("package.json"))?;
    manifest.lock()?;
    let changed = |file: &str| -> std::io::Result<SystemTime> { folder.join(file).metadata()?.modified() };
    // npm writes its own list last, so a broken-off installation has none.
    let fresh = matches!(changed("node_modules/.package-lock.json"), Ok(at) if at >= changed("package-lock.json")?);
    if !fresh {
        let npm = ["ci", "--no-audit", "--no-fund", "--prefer-offline"];
        let output = Command::new("npm").args(npm).current_dir(&folder).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let code = said.lines().find_map(|line| line.strip_prefix("npm error code ")).unwrap_or_default();
            return Err(match NO_NETWORK.contains(&code) {
                true => Missing::Tool(format!("npm cannot reach its registry: {code}")),
                false => Missing::Error(anyhow::anyhow!("npm ci failed: {said}")),
            });
        }
    }
    Ok(folder)
}
