//! What the integration tests stand on: one real `mongod` per test process with `notablescan` on, and a *world* per test –
//! its own database, all functions behind real HTTP, and a simulated WeChat – that ends with the audit.

#![expect(
    clippy::indexing_slicing,
    reason = "a missing field of a JSON reply reads as null, and a test that panics has failed as it should"
)]

pub mod post;
pub mod probe;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use edge::{App, Clock, Config};
use gateway::{Gateway, Local};
use jinlu::local;
use mongod::{Mongod, Options};
use serde_json::{Value, json};
use simulators::{Sim, SimConfig};
use store::Store;
use store::collections::InitOptions;
use tokio::net::TcpListener;

static SERVER: OnceLock<Mongod> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Kilobytes in memory that the shared server's files may need.
const MEMORY_KB: u64 = 4 << 20;

/// A folder in memory, where there is one with room: most of the tests' time is otherwise the disk's.
fn memory() -> Option<PathBuf> {
    let df = std::process::Command::new("df").args(["-Pk", "/dev/shm"]).output().ok()?;
    let free = String::from_utf8_lossy(&df.stdout).lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()?;
    (free >= MEMORY_KB).then(|| PathBuf::from("/dev/shm"))
}

/// Where a test's database server keeps its files; removed by the next run if this one is killed.
fn scratch(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let root = root.join("jinlu-it");
    std::fs::create_dir_all(&root)?;
    for entry in std::fs::read_dir(&root)?.flatten() {
        let pid = entry.file_name().to_string_lossy().split('-').next().and_then(|p| p.parse::<u32>().ok());
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
    let path = root.join(format!("{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// Starts a database server of this test's own, for tests that kill it.
pub fn own_mongod(name: &str) -> anyhow::Result<Mongod> {
    start_mongod(&std::env::temp_dir(), name)
}

fn start_mongod(root: &Path, name: &str) -> anyhow::Result<Mongod> {
    let cache = mongod::default_cache_dir(std::env::home_dir().as_deref());
    let binary = mongod::find_or_provision(&cache, &mut |line| eprintln!("{line}"))?;
    let mut options = Options::new(binary, scratch(root, name)?);
    options.testing = true;
    Mongod::start(options)
}

/// The URI of the process's shared database server.
pub async fn mongod_uri() -> anyhow::Result<String> {
    tokio::task::spawn_blocking(|| {
        if let Some(server) = SERVER.get() {
            return Ok(server.uri());
        }
        static STARTING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _guard = STARTING.lock().map_err(|_| anyhow::anyhow!("another test could not start mongod"))?;
        if SERVER.get().is_none() {
            let server = start_mongod(&memory().unwrap_or_else(std::env::temp_dir), "shared")?;
            SERVER.set(server).ok();
        }
        SERVER.get().map(Mongod::uri).ok_or_else(|| anyhow::anyhow!("no mongod"))
    })
    .await?
}

/// A database name of this test's own.
pub fn database_name() -> String {
    format!("t_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed))
}

/// A reply over HTTP.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The refusal's code, or `""`.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    /// The body of a success.
    #[track_caller]
    pub fn ok(&self) -> &Value {
        assert!(self.status == 200 && self.body["success"] == true, "not a success: {self:?}");
        &self.body
    }

    /// Asserts a refusal with this status and code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        assert_eq!(self.body["success"], false, "{self:?}");
        assert!(self.body["message"].as_str().is_some_and(|m| !m.is_empty()), "{self:?}");
    }

    pub fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_default().to_owned()
    }
}

/// A caller of the functions over HTTP, wherever they run.
#[derive(Clone)]
pub struct Client {
    pub base: String,
    http: reqwest::Client,
}

impl Client {
    pub fn new(base: impl Into<String>) -> anyhow::Result<Self> {
        // reqwest wants a TLS implementation even for plain HTTP; choosing one twice is no error here.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).tls_certs_only([]).build()?;
        Ok(Self { base: base.into(), http })
    }

    /// A POST to any path, with headers.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<String>) -> anyhow::Result<Answer> {
        let mut request = self.http.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = request.body(body.into()).send().await?;
        let status = reply.status().as_u16();
        let bytes = reply.bytes().await?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    /// A GET of JSON at any path.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let reply = self.http.get(format!("{}{path}", self.base)).send().await?;
        Ok(serde_json::from_slice(&reply.bytes().await?)?)
    }

    /// The last code sent to a phone in the simulated SMS service.
    pub async fn sms_code(&self, phone: &str) -> anyhow::Result<Option<String>> {
        let body = self.get(&format!("/sim/control/sms?phone={phone}")).await?;
        Ok(body["messages"][0]["code"].as_str().map(str::to_owned))
    }

    /// Calls a function as the user of `token`.
    pub async fn call(&self, name: &str, token: &str, event: Value) -> anyhow::Result<Answer> {
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("x-app-session", token)] };
        self.post(&format!("/{name}"), headers, event.to_string()).await
    }

    /// Calls a function as the CRM of the local cloud.
    pub async fn call_service(&self, name: &str, event: Value) -> anyhow::Result<Answer> {
        let (body, path) = (event.to_string(), format!("/{name}"));
        // The machine's clock: the functions' one may run ahead, and both are accepted locally.
        #[expect(clippy::disallowed_methods, reason = "a client has its own clock")]
        let timestamp = chrono::Utc::now().timestamp().to_string();
        let nonce = wechat_nonce();
        let secret = edge::config::local::SERVICE_SECRET;
        let signature = edge::sign(secret.as_bytes(), &timestamp, &nonce, "POST", &path, body.as_bytes());
        let headers = [
            ("x-jinlu-key", edge::config::local::SERVICE_KEY_ID),
            ("x-jinlu-timestamp", timestamp.as_str()),
            ("x-jinlu-nonce", nonce.as_str()),
            ("x-jinlu-signature", signature.as_str()),
        ];
        self.post(&path, &headers, body).await
    }

    /// Signs in as `o-NAME` and returns the session token.
    pub async fn login(&self, name: &str) -> anyhow::Result<String> {
        let answer = self.call("login", "", json!({ "code": format!("dev-{name}") })).await?;
        Ok(answer.ok()["token"].as_str().unwrap_or_default().to_owned())
    }

    /// Verifies the user of `token` with the identity number of this sequence.
    pub async fn verify_identity(&self, token: &str, sequence: u32) -> anyhow::Result<Answer> {
        let claim = json!({ "realName": "张三", "idCard": id_number(sequence), "consent": true });
        self.call("verifyIdentity", token, claim).await
    }

    /// Steers the simulators.
    pub async fn control(&self, what: &str, body: Value) -> anyhow::Result<Answer> {
        self.post(&format!("/sim/control/{what}"), &[], body.to_string()).await
    }

    /// The payer pays; the reply tells what became of the notices.
    pub async fn pay(&self, order: &str, notify: &str) -> anyhow::Result<Answer> {
        self.control("pay", json!({ "orderId": order, "notify": notify })).await
    }

    /// Runs a timer now.
    pub async fn timer(&self, name: &str) -> anyhow::Result<Answer> {
        self.control("timers", json!({ "name": name })).await
    }

    /// Moves the functions' and the simulators' clock.
    pub async fn advance(&self, seconds: i64) -> anyhow::Result<Answer> {
        self.control("clock", json!({ "advanceSeconds": seconds })).await
    }
}

/// What whoever runs the tests asks for in the environment.
#[expect(
    clippy::disallowed_methods,
    reason = "how long tests run, and from which seed, is said where they are started"
)]
pub fn asked(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A valid identity number of an adult; `sequence` is at most three digits.
pub fn id_number(sequence: u32) -> String {
    let digits = format!("33010619900307{sequence:03}");
    let weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let sum: u32 = digits.chars().zip(weights).filter_map(|(c, weight)| Some(c.to_digit(10)? * weight)).sum();
    let check = usize::try_from(sum % 11).ok().and_then(|at| "10X98765432".chars().nth(at)).unwrap_or('?');
    format!("{digits}{check}")
}

/// 32 hex digits, enough for a nonce or a request id.
pub fn wechat_nonce() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{:012x}{:020x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An order of one product.
pub fn order_of(product: &str, quantity: i64) -> Value {
    json!({
        "items": [{ "productId": product, "quantity": quantity }],
        "address": { "name": "张三", "phone": "13800138000", "province": "浙江省", "city": "杭州市", "district": "西湖区", "detail": "文三路 1 号" },
        "paymentMethod": "wechat",
    })
}

/// Everything one test needs. Call [`World::finish`] at its end.
pub struct World {
    pub store: Store,
    pub app: Arc<App>,
    pub sim: Sim,
    pub gateway: Gateway,
    pub client: Client,
    _server: Server,
}

/// What serves a world, until the world goes.
struct Server(tokio::task::JoinHandle<std::io::Result<()>>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl World {
    /// A fresh database with the demo data, served on a free port.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_on(&mongod_uri().await?).await
    }

    /// The same on another database server.
    pub async fn start_on(uri: &str) -> anyhow::Result<Self> {
        Self::start_as(uri, |_| {}).await
    }

    /// A fresh world of a shop that is configured otherwise.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        Self::start_as(&mongod_uri().await?, change).await
    }

    async fn start_as(uri: &str, change: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let world = Self::serve(uri, &database_name(), clock.clone(), change).await?;
        world.store.init(InitOptions { demo: true, dry_run: false }, clock.now()).await?;
        Ok(world)
    }

    /// A world on a database that is there, by a clock of the test's.
    pub async fn serve(
        uri: &str,
        database: &str,
        clock: Clock,
        change: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        // What the functions log shows with a failing test.
        let level = tracing_subscriber::filter::LevelFilter::ERROR;
        tracing_subscriber::fmt().with_max_level(level).with_test_writer().compact().try_init().ok();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut config = local::config(&url, listener.local_addr()?.port(), uri, database);
        change(&mut config);
        let app = App::new(config, clock.clone())?;
        let sim = Sim::new(SimConfig::new(move || clock.now()))?;
        let place = Local {
            url: url.clone(),
            data_dir: String::new(),
            database: String::new(),
            timers_run: false,
            clock_file: None,
        };
        let (gateway, router) = local::assemble(&app, &sim, place)?;
        let server = Server(tokio::spawn(async move { axum::serve(listener, router).await }));
        Ok(Self { store: app.store().clone(), app, sim, gateway, client: Client::new(url)?, _server: server })
    }

    /// A second process with the same database and clock.
    pub async fn another(&self) -> anyhow::Result<(Gateway, Client)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let app = App::new(self.app.config.clone(), self.app.clock.clone())?;
        let place = Local {
            url: url.clone(),
            data_dir: String::new(),
            database: String::new(),
            timers_run: false,
            clock_file: None,
        };
        let (gateway, router) = local::assemble(&app, &self.sim, place)?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((gateway, Client::new(url)?))
    }

    /// Runs the timers until nothing is left to do, as an hour of them would.
    pub async fn settle_down(&self) -> anyhow::Result<()> {
        settle_down(&self.client).await
    }

    /// The audit's findings; none when all is well.
    pub async fn violations(&self) -> anyhow::Result<Vec<String>> {
        violations(&self.store, self.app.clock.now()).await
    }

    /// Audits, then removes the database.
    pub async fn finish(self) -> anyhow::Result<()> {
        let found = self.violations().await?;
        assert!(found.is_empty(), "the audit found:\n{}", found.join("\n"));
        self.store.drop_database().await?;
        Ok(())
    }

    /// Signs in `o-lin`, who is linked to `c-lin` with 100.00 yuan in two prepaid records and 5 boxes of apples in two others.
    pub async fn linked_member(&self) -> anyhow::Result<String> {
        let world = self;
        let now = world.app.clock.now();
        let member = json!({ "_id": "u-lin", "openId": "o-lin", "points": 20, "level": 1, "balance": 0, "carryFen": 0, "customerId": "c-lin" });
        let customer = json!({ "_id": "c-lin", "name": "林女士", "status": "active", "linkedUserId": "u-lin", "linkedOpenId": "o-lin" });
        world.store.open_document("member_user", &member, now).await?;
        world.store.open_document("customers", &customer, now).await?;
        for (i, (kind, asset, balance)) in [
            ("amount", "fen", 4000),
            ("amount", "fen", 6000),
            ("product", "pieces:p-apple", 2),
            ("product", "pieces:p-apple", 3),
        ]
        .iter()
        .enumerate()
        {
            let mut record = json!({
                "_id": format!("pr-{i}"), "customerId": "c-lin", "type": kind, "asset": asset, "balance": balance,
                "linkedUserId": "u-lin", "linkStatus": "linked", "createdAt": { "$date": format!("2026-01-0{}T00:00:00Z", i + 1) },
            });
            if *kind == "product" {
                record["productId"] = json!("p-apple");
            }
            world.store.open_document("prepaidRecords", &record, now).await?;
        }
        world.client.login("lin").await
    }

    /// The session of a member of the staff with this permission.
    pub fn staff(&self, permission: &str) -> anyhow::Result<String> {
        let permissions = [permission.to_owned()];
        Ok(self.app.issue_staff_token("lily", &permissions, chrono::TimeDelta::hours(1), self.app.clock.now())?.0)
    }

    /// The pieces of a product that can be bought now.
    pub async fn stock(&self, product: &str) -> anyhow::Result<i64> {
        let id = domain::ProductId::parse(product)?;
        Ok(self.store.product(&id).await?.map_or(0, |p| p.available()))
    }
}

/// Every sweeper twice: the second run must find what the first one caused.
pub async fn settle_down(client: &Client) -> anyhow::Result<()> {
    for _ in 0..2 {
        for name in ["reconcilePayments", "closeExpiredOrders", "settleStockMarkers", "deliverOutbox"] {
            client.timer(name).await?;
        }
    }
    Ok(())
}

/// The audit's findings as lines.
pub async fn violations(store: &Store, now: chrono::DateTime<chrono::Utc>) -> anyhow::Result<Vec<String>> {
    let report = store.audit(now).await?;
    Ok(report.violations.iter().map(|v| format!("{}: {} {:?}", v.invariant, v.message, v.documents)).collect())
}
