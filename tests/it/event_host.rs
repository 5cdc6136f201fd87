//! The event flavour of a function, called by Node as the platform calls it: timers, identities of the platform, signed events,
//! and a binary that dies, hangs or never starts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, ensure};
use it::{World, mongod_uri};
use serde_json::{Value, json};

use crate::clients::node_is_there;

const SHIM: &str = include_str!("../../shared/edge/shim/index.js");
/// Made for this test.
const SESSION_SECRET: &str = "a-session-secret-of-the-event-tests-only";
const SERVICE_SECRET: &str = "a-service-secret-of-the-event-tests";

/// One instance of a function.
struct Instance {
    node: Child,
    input: Option<ChildStdin>,
    answers: mpsc::Receiver<Value>,
    early: BTreeMap<u64, Value>,
    count: u64,
    _folder: tempfile::TempDir,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.input.take();
        self.node.kill().ok();
        self.node.wait().ok();
    }
}

impl Instance {
    /// The platform unpacks the folder and loads `index.js`.
    async fn of(world: &World, function: &str) -> anyhow::Result<Self> {
        let program = format!("JINLU_IT_FUNCTION={function} exec {}", env!("CARGO_BIN_EXE_jinlu-it"));
        Self::running(world, &program).await
    }

    /// An instance whose binary is this shell program.
    async fn running(world: &World, program: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("index.js"), SHIM)?;
        let main = folder.path().join("main");
        std::fs::write(&main, format!("#!/bin/sh\n{program}\n"))?;
        std::fs::set_permissions(&main, std::fs::Permissions::from_mode(0o755))?;
        let harness = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/platform.mjs");
        let mut node = Command::new("node");
        node.arg(harness).arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        node.env("MONGODB_URI", mongod_uri().await?)
            .env("MONGODB_DATABASE", crate::audit::database(world).await?.name());
        node.env("SESSION_SECRETS", json!([{ "id": "k9", "secret": SESSION_SECRET }]).to_string());
        let key = json!([{ "id": "crm-9", "secret": SERVICE_SECRET, "scopes": ["points"] }]);
        node.env("SERVICE_KEYS", key.to_string());
        // Of an earlier call, as it may linger in the process.
        node.env("WX_OPENID", "o-demo").env("WX_CONTEXT_KEYS", "WX_OPENID");
        let mut node = node.spawn()?;
        let (input, out) = (node.stdin.take(), node.stdout.take().context("no output")?);
        let (send, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(serde_json::from_str(&line).unwrap_or(Value::Null)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { node, input, answers, early: BTreeMap::new(), count: 0, _folder: folder })
    }

    fn begin(&mut self, mut command: Value) -> anyhow::Result<u64> {
        self.count += 1;
        command["id"] = json!(self.count);
        writeln!(self.input.as_mut().context("closed")?, "{command}")?;
        Ok(self.count)
    }

    fn end(&mut self, id: u64) -> anyhow::Result<Value> {
        loop {
            if let Some(answer) = self.early.remove(&id) {
                return Ok(answer);
            }
            let answer = self.answers.recv_timeout(Duration::from_secs(60)).context("the instance is silent")?;
            self.early.insert(answer["id"].as_u64().context("no id")?, answer);
        }
    }

    /// What the client gets; `variables` are what the platform knows about the call.
    fn call(&mut self, event: Value, variables: Value) -> anyhow::Result<Value> {
        let id = self.begin(json!({ "event": event, "context": context(&variables) }))?;
        let answer = self.end(id)?;
        ensure!(answer["error"].is_null(), "{answer}");
        Ok(answer["result"].clone())
    }

    fn signal(&mut self, signal: &str) -> anyhow::Result<()> {
        let id = self.begin(json!({ "signal": signal }))?;
        ensure!(self.end(id)?["signalled"] == 1);
        // Until the shim has noticed.
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }
}

/// A context as SCF makes it.
fn context(variables: &Value) -> Value {
    json!({
        "request_id": "11111111-2222-3333-4444-555555555555", "time_limit_in_ms": 20_000, "memory_limit_in_mb": 128,
        "function_name": "x", "namespace": "demo-1a2b3c", "environment": variables.to_string(),
    })
}

fn user(open_id: &str) -> Value {
    json!({
        "WX_CONTEXT_KEYS": "WX_OPENID,WX_APPID", "WX_OPENID": open_id, "WX_APPID": "wx0000000000000000", "TCB_SOURCE": "wx_client",
    })
}

fn timer() -> Value {
    json!({ "Type": "Timer", "TriggerName": "everyMinute", "Time": "2026-11-21T11:49:00Z", "Message": "" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_the_mini_program_is_who_the_platform_says() -> anyhow::Result<()> {
    if !node_is_there()? {
        return Ok(());
    }
    let world = World::start().await?;
    let mut points = Instance::of(&world, "getUserPoints").await?;
    let seen = points.call(json!({}), user("o-demo"))?;
    assert_eq!((&seen["success"], &seen["points"]), (&json!(true), &json!(100)), "{seen}");
    assert_eq!(seen["requestId"], "11111111-2222-3333-4444-555555555555");
    // As older platforms write it.
    let old =
        json!({ "request_id": "r", "environ": "WX_CONTEXT_KEYS=WX_OPENID;WX_OPENID=o-demo;TCB_SOURCE=wx_client" });
    let id = points.begin(json!({ "event": {}, "context": old }))?;
    assert_eq!(points.end(id)?["result"]["points"], 100);
    // What is written into the event says nothing, nor does what is left in the process from an earlier call.
    let forged = json!({ "userInfo": { "openId": "o-demo" }, "WX_OPENID": "o-demo", "openId": "o-demo" });
    assert_eq!(points.call(forged, json!({ "TCB_SOURCE": "wx_http" }))?["code"], "UNAUTHENTICATED");
    assert_eq!(points.call(json!({ "openId": "o-demo" }), user("o-lin"))?["code"], "FORBIDDEN");
    assert_eq!(points.call(timer(), json!({ "TRIGGER_SRC": "timer" }))?["code"], "FORBIDDEN");
    // Refusals name the field, and an event that is no object is one.
    assert_eq!(points.call(json!({ "limit": 0 }), user("o-demo"))?["details"]["field"], "limit");
    assert_eq!(points.call(json!([1]), user("o-demo"))?["code"], "INVALID_JSON");
    assert_eq!(points.call(json!({ "x": "长".repeat(40_000) }), user("o-demo"))?["code"], "PAYLOAD_TOO_LARGE");
    // Several at once, each with its own answer.
    let ids: Vec<u64> = (0..20)
        .map(|n| {
            let open_id = if n % 2 == 0 { "o-demo" } else { "o-nobody" };
            points.begin(json!({ "event": {}, "context": context(&user(open_id)) }))
        })
        .collect::<anyhow::Result<_>>()?;
    for (n, id) in ids.into_iter().enumerate() {
        let answer = points.end(id)?;
        assert_eq!(answer["result"]["success"] == true, n % 2 == 0, "{answer}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_and_signed_events_come_through_and_forged_ones_do_not() -> anyhow::Result<()> {
    if !node_is_there()? {
        return Ok(());
    }
    let world = World::start().await?;
    let mut expire = Instance::of(&world, "expireCoins").await?;
    for variables in [json!({ "TRIGGER_SRC": "timer" }), json!({})] {
        let done = expire.call(timer(), variables)?;
        assert_eq!((&done["success"], &done["expiredLots"]), (&json!(true), &json!(0)), "{done}");
    }
    for variables in [user("o-demo"), json!({ "TCB_SOURCE": "wx_http" }), json!({ "LOGINTYPE": "ANONYMOUS" })] {
        assert_eq!(expire.call(timer(), variables.clone())?["success"], false, "{variables}");
    }
    assert_eq!(expire.call(json!({ "Type": "Timer" }), json!({ "TRIGGER_SRC": "timer" }))?["code"], "UNAUTHENTICATED");

    // The CRM calls through WeChat, with a signature in the event.
    let mut points = Instance::of(&world, "addPoints").await?;
    let payload = json!({ "openId": "o-demo", "points": 5, "type": "earn", "reason": "测试" }).to_string();
    let event = |nonce: &str, secret: &str, payload: &str| {
        #[expect(clippy::disallowed_methods, reason = "a client has its own clock")]
        let at = chrono::Utc::now().timestamp().to_string();
        let signature = edge::sign(secret.as_bytes(), &at, nonce, "EVENT", "/addPoints", payload.as_bytes());
        json!({ "key": "crm-9", "timestamp": at, "nonce": nonce, "payload": payload, "signature": signature })
    };
    let good = event("nonce-of-an-event-1", SERVICE_SECRET, &payload);
    let done = points.call(good.clone(), json!({ "TCB_SOURCE": "wx_http" }))?;
    assert_eq!((&done["success"], &done["change"]), (&json!(true), &json!(5)), "{done}");
    // Again, with another secret, or with other words.
    assert_eq!(points.call(good.clone(), json!({}))?["details"]["reason"], "nonce");
    let wrong = event("nonce-of-an-event-2", "another-secret-of-somebody", &payload);
    assert_eq!(points.call(wrong, json!({}))?["code"], "SIGNATURE_INVALID");
    let mut changed = event("nonce-of-an-event-3", SERVICE_SECRET, &payload);
    changed["payload"] = json!(payload.replace('5', "5000"));
    assert_eq!(points.call(changed, user("o-demo"))?["code"], "SIGNATURE_INVALID");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_that_dies_or_hangs_costs_its_calls_and_no_more() -> anyhow::Result<()> {
    if !node_is_there()? {
        return Ok(());
    }
    let world = World::start().await?;
    let mut points = Instance::of(&world, "getUserPoints").await?;
    assert_eq!(points.call(json!({}), user("o-demo"))?["points"], 100);
    // Killed between two calls: the next one starts another.
    points.signal("SIGKILL")?;
    assert_eq!(points.call(json!({}), user("o-demo"))?["points"], 100);
    // Killed, or frozen, with a call in its hands. A stopped process answers nothing until the time is over.
    points.signal("SIGSTOP")?;
    let held = points.begin(json!({ "event": {}, "context": context(&user("o-demo")) }))?;
    points.signal("SIGKILL")?;
    let lost = points.end(held)?["result"].clone();
    assert_eq!((&lost["code"], &lost["retryable"]), (&json!("UNAVAILABLE"), &json!(true)), "{lost}");
    assert_eq!(points.call(json!({}), user("o-demo"))?["points"], 100);
    points.signal("SIGSTOP")?;
    let mut short = context(&user("o-demo"));
    short["time_limit_in_ms"] = json!(1_500);
    let id = points.begin(json!({ "event": {}, "context": short }))?;
    let late = points.end(id)?["result"].clone();
    assert_eq!((&late["code"], &late["retryable"]), (&json!("TIMEOUT"), &json!(true)), "{late}");
    assert_eq!(points.call(json!({}), user("o-demo"))?["points"], 100);
    // One that cannot start is a failure of the deployment, not an answer.
    for program in ["exit 2", "echo nonsense; sleep 20", "exec /nonexistent"] {
        let mut broken = Instance::running(&world, program).await?;
        for _ in 0..2 {
            let id = broken.begin(json!({ "event": {}, "context": context(&json!({})) }))?;
            let answer = broken.end(id)?;
            assert!(answer["error"].as_str().is_some_and(|e| e.starts_with("the binary")), "{program}: {answer}");
        }
    }
    // A notice of a provider is no event.
    let mut notice = Instance::of(&world, "payCallback").await?;
    let id = notice.begin(json!({ "event": {}, "context": context(&json!({})) }))?;
    assert!(notice.end(id)?["error"].is_string());
    world.finish().await
}
