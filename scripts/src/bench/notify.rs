//! `jinlu bench notify`

use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use domain::OpenId;
use edge::config::{OpenApiConfig, local};
use edge::{App, Clock, Config};
use gateway::Local;
use serde::Serialize;
use serde_json::{Value, json};

use simulators::{Fault, FaultMode, Sim, SimConfig, Target};
use store::collections::InitOptions;
use tokio::net::TcpListener;

use super::report::AuditLine;
use super::stats::nearest_rank;
use crate::cli::say;
use crate::serve::Shutdown;

/// Assignments of one call; the most there may be.
const BATCH: u32 = 100;
/// How late a slow WeChat answers.
const SLOW_MS: u64 = 3_000;
/// What the CRM was promised.
const CALL_MS_MAX: f64 = 2_000.0;
const QUEUED_MS_MAX: f64 = 100.0;

/// 性能测试：客户分配通知的响应时间 · Measure how fast notifyAssignment answers
///
/// 每次 100 条分配，先后在微信正常、3 秒才响应、无法连接时调用，再测 wait:false 只入队的调用；结束时核对账目。
/// Sends batches of a hundred assignments while the simulated WeChat is well, answers after three seconds and is away, and then
/// such that only plan (wait: false). In the end it audits the books. Exits 1 if they are off or a promise was missed: p99 under
/// 2 s always, under 100 ms where everything is only queued.
///
/// Examples:
///   cargo build --release -p jinlu && target/release/jinlu bench notify
///   jinlu bench notify --calls 50 --people 10
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 每种情形的调用次数 · Calls for each state of WeChat
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    calls: u32,
    /// 一批分给多少人 · Over how many people a batch is spread
    #[arg(long, default_value_t = BATCH, value_parser = clap::value_parser!(u32).range(1..=100))]
    people: u32,
    #[command(flatten)]
    common: super::Common,
}

/// The calls made in one state of WeChat.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    state: &'static str,
    calls: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    p99_ms_max: f64,
    sent: u64,
    queued: u64,
    refused: u64,
}

impl Row {
    fn is_met(&self) -> bool {
        self.p99_ms < self.p99_ms_max
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    batch: u32,
    people: u32,
    rows: Vec<Row>,
    audit: AuditLine,
}

impl Report {
    fn text(&self) -> Result<String> {
        let mut out = String::new();
        writeln!(out, "notifyAssignment, batches of {} for {} people", self.batch, self.people)?;
        writeln!(out, "  WeChat              calls   p50 ms   p99 ms   max ms     sent   queued  refused")?;
        for row in &self.rows {
            write!(out, "  {:<18}{:>7}", row.state, row.calls)?;
            write!(out, "{:>9.1}{:>9.1}{:>9.1}", row.p50_ms, row.p99_ms, row.max_ms)?;
            write!(out, "{:>9}{:>9}{:>9}", row.sent, row.queued, row.refused)?;
            let verdict = if row.is_met() { "met" } else { "MISSED" };
            writeln!(out, "   target p99 < {}: {verdict}", row.p99_ms_max)?;
        }
        write!(out, "\naudit: {}", self.audit)?;
        Ok(out)
    }
}

pub(super) async fn run(args: Args) -> Result<ExitCode> {
    let shutdown = Shutdown::listen()?;
    let server = tokio::select! {
        server = args.common.server() => server?,
        () = shutdown.wait() => return Ok(ExitCode::FAILURE),
    };
    let place = Place::start(&server.uri, &format!("jinlu_bench_{}_call", std::process::id())).await?;
    let measured = tokio::select! {
        measured = figures(&args, &place) => measured.map(Some),
        () = shutdown.wait() => Ok(None),
    };
    let dropped = place.app.store().drop_database().await;
    server.stop().await?;
    let report = measured?;
    dropped?;
    let Some(report) = report else { return Ok(ExitCode::FAILURE) };
    say(if args.common.json { serde_json::to_string_pretty(&report)? } else { report.text()? })?;
    let good = report.audit.is_sound() && report.rows.iter().all(Row::is_met);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A local cloud of its own, called as the CRM calls it.
struct Place {
    app: Arc<App>,
    clock: Clock,
    sim: Sim,
    http: reqwest::Client,
}

/// The answers to one batch, or to many.
#[derive(Default)]
struct Told {
    sent: u64,
    queued: u64,
    refused: u64,
}

impl Place {
    async fn start(uri: &str, database: &str) -> Result<Self> {
        let clock = Clock::system();
        let sim_clock = clock.clone();
        let sim = Sim::new(SimConfig::new(move || sim_clock.now()))?;
        let config = crate::local::config("http://127.0.0.1:9", 9, uri, database);
        let app = App::new(config, clock.clone())?;
        app.store().init(InitOptions { demo: true, dry_run: false }, clock.now()).await?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).tls_certs_only([]).build()?;
        Ok(Self { app, clock, sim, http })
    }

    /// Serves all functions in a state of their own; returns where. `reachable` says whether there is a WeChat.
    async fn serve(&self, reachable: bool) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let url = format!("http://{address}");
        let given = &self.app.config;
        let store = given.store.as_ref().context("no store")?;
        let mut config = crate::local::config(&url, address.port(), store.uri.expose(), &store.database);
        if !reachable {
            // Nobody listens on the port for discarding.
            let open_api = config.open_api.context("no Open API")?;
            config.open_api = Some(OpenApiConfig { base_url: "http://127.0.0.1:9".to_owned(), ..open_api });
        }
        let app = App::new(Config { max_concurrent: 1_000, ..config }, self.clock.clone())?;
        let (data_dir, database) = (String::new(), String::new());
        let place = Local { url: url.clone(), data_dir, database, timers_run: false, clock_file: None };
        let (_gateway, router) = crate::local::assemble(&app, &self.sim, place)?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(url)
    }

    async fn call(&self, url: &str, event: &Value) -> Result<Value> {
        let (path, body) = ("/notifyAssignment", event.to_string());
        let timestamp = self.clock.now().timestamp().to_string();
        let nonce = nonce()?;
        let signature = edge::sign(local::SERVICE_SECRET.as_bytes(), &timestamp, &nonce, "POST", path, body.as_bytes());
        let request = self
            .http
            .post(format!("{url}{path}"))
            .header("content-type", "application/json")
            .header("x-jinlu-key", local::SERVICE_KEY_ID)
            .header("x-jinlu-timestamp", timestamp)
            .header("x-jinlu-nonce", nonce)
            .header("x-jinlu-signature", signature);
        let reply = request.body(body).send().await?;
        let status = reply.status().as_u16();
        let answer: Value = serde_json::from_slice(&reply.bytes().await?)?;
        ensure!(status == 200, "notifyAssignment answered {status}: {answer}");
        Ok(answer)
    }
}

fn nonce() -> Result<String> {
    let bytes: [u8; 16] = store::random()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How WeChat is, and what the CRM asks for.
struct Scene {
    state: &'static str,
    reachable: bool,
    slow: bool,
    wait: bool,
    p99_ms_max: f64,
}

const SCENES: [Scene; 5] = [
    Scene { state: "well", reachable: true, slow: false, wait: true, p99_ms_max: CALL_MS_MAX },
    Scene { state: "after 3 s", reachable: true, slow: true, wait: true, p99_ms_max: CALL_MS_MAX },
    Scene { state: "away", reachable: false, slow: false, wait: true, p99_ms_max: CALL_MS_MAX },
    Scene { state: "well, only queued", reachable: true, slow: false, wait: false, p99_ms_max: QUEUED_MS_MAX },
    Scene { state: "away, only queued", reachable: false, slow: false, wait: false, p99_ms_max: QUEUED_MS_MAX },
];

impl Scene {
    /// For the names of its people and customers.
    fn key(&self) -> String {
        self.state.chars().filter(char::is_ascii_alphanumeric).collect()
    }
}

async fn figures(args: &Args, place: &Place) -> Result<Report> {
    let mut rows = Vec::new();
    for scene in &SCENES {
        eprintln!("  {}", scene.state);
        // Who still waits for an earlier message gets no first try, so each scene has people of its own.
        hire(args, place, &scene.key()).await?;
        if scene.slow {
            let fault = Fault { ms: Some(SLOW_MS), ..Fault::new(Target::Wechat, FaultMode::Slow, u32::MAX) };
            place.sim.fault(fault);
        }
        let url = place.serve(scene.reachable).await?;
        rows.push(row(args, place, &url, scene).await?);
        place.sim.fault(Fault::new(Target::Wechat, FaultMode::Slow, 0));
    }
    // What outlived its call is still being heard of.
    tokio::time::sleep(Duration::from_millis(SLOW_MS).saturating_mul(2)).await;
    eprintln!("  核对 · audit");
    let audit = place.app.store().audit(place.clock.now()).await?;
    Ok(Report { batch: BATCH, people: args.people, rows, audit: AuditLine::of(&audit) })
}

/// People who allow any number of messages.
async fn hire(args: &Args, place: &Place, key: &str) -> Result<()> {
    let now = place.clock.now();
    for n in 0..args.people {
        let open_id = OpenId::parse(&format!("o-{key}-{n:05}"))?;
        let staff = json!({ "_id": format!("s-{key}-{n}"), "name": "导购", "openId": open_id.as_str(), "active": true, "updatedAt": { "$date": "2026-01-01T00:00:00Z" } });
        place.app.store().open_document("staff", &staff, now).await?;
        let many = json!({ "$numberLong": "1000000" });
        let allowed = json!({
            "_id": format!("{}|local-assignment", open_id.as_str()), "openId": open_id.as_str(), "templateId": "local-assignment",
            "choice": "accept", "available": many, "accepted": many, "taken": { "$numberLong": "0" },
            "voided": { "$numberLong": "0" }, "updatedAt": { "$date": "2026-01-01T00:00:00Z" },
        });
        place.app.store().open_document("subscriptions", &allowed, now).await?;
    }
    Ok(())
}

/// Runs the timer until nothing waits.
async fn drain(place: &Place, url: &str) -> Result<()> {
    for _ in 0..100 {
        let request = place.http.post(format!("{url}/sim/control/timers")).header("content-type", "application/json");
        let reply = request.body(json!({ "name": "deliverOutbox" }).to_string()).send().await?;
        let answer: Value = serde_json::from_slice(&reply.bytes().await?)?;
        match answer.get("pending").and_then(Value::as_u64) {
            Some(0) => return Ok(()),
            Some(_) => place.clock.advance(Duration::from_secs(60)),
            None => bail!("deliverOutbox answered {answer}"),
        }
    }
    bail!("the outbox does not get empty")
}

/// Calls once after the other. Where WeChat is well the outbox is empty before each call, as it is where the timer keeps up.
async fn row(args: &Args, place: &Place, url: &str, scene: &Scene) -> Result<Row> {
    // A process's first call opens its connections, which is nobody's to wait for here.
    place.call(url, &json!({ "customerId": "c-warm", "customerName": "王小明", "assignedToUserId": "nobody" })).await?;
    let key = scene.key();
    let mut told = Told::default();
    let mut times = Vec::new();
    for call in 0..args.calls {
        let entries: Vec<Value> = (0..BATCH)
            .map(|n| {
                let person = n.checked_rem(args.people).unwrap_or(0);
                json!({
                    "customerId": format!("{key}-{call}-{n}"), "customerName": "王小明", "customerPhone": "13812345678",
                    "assignedToUserId": format!("s-{key}-{person}"), "assignedByName": "店长", "source": "门店",
                    "assignedAt": place.clock.now().to_rfc3339(), "remark": "意向高",
                })
            })
            .collect();
        let event = json!({ "assignments": entries, "wait": scene.wait });
        if scene.wait && scene.reachable && !scene.slow {
            drain(place, url).await?;
        }
        let started = Instant::now();
        let answer = place.call(url, &event).await?;
        let elapsed = started.elapsed();
        times.push(elapsed);
        let count = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
        told.sent = told.sent.saturating_add(count("sent"));
        told.queued = told.queued.saturating_add(count("queued"));
        told.refused = told.refused.saturating_add(count("refused"));
    }
    times.sort_unstable();
    let ms = |at: Option<&Duration>| at.map_or(f64::NAN, |at| at.as_secs_f64() * 1_000.0);
    Ok(Row {
        state: scene.state,
        calls: times.len(),
        p50_ms: ms(nearest_rank(&times, 50)),
        p99_ms: ms(nearest_rank(&times, 99)),
        max_ms: ms(times.last()),
        p99_ms_max: scene.p99_ms_max,
        sent: told.sent,
        queued: told.queued,
        refused: told.refused,
    })
}
