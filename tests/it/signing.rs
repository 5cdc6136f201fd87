//! The service signature as `docs/SIGNING.md` tells it: its vector, its examples as programs, and what the shop promises there.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use edge::config::{ServiceKey, local};
use edge::{App, Clock, Config};
use gateway::{Gateway, Options};
use it::{Answer, Client, World, wechat_nonce};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tracing_subscriber::util::SubscriberInitExt;

const DOCUMENT: &str = include_str!("../../docs/SIGNING.md");

/// The program in the document that calls itself by this name.
fn program(name: &str) -> String {
    let mut blocks = DOCUMENT.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let block = blocks
        .find(|(_, text)| text.lines().next().is_some_and(|line| line.trim_start_matches(['/', '#', ' ']) == name));
    block.unwrap_or_else(|| panic!("no {name} in the document")).1.to_owned()
}

fn gift() -> Value {
    json!({ "openId": "o-demo", "points": 5, "type": "earn", "reason": "测试" })
}

fn demo() -> Value {
    json!({ "openId": "o-demo" })
}

#[expect(clippy::disallowed_methods, reason = "a client has its own clock")]
fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// The headers of a request; `secret` and what was signed may be another's.
fn headers(key: &str, secret: &str, nonce: &str, path: &str, body: &str) -> Vec<(&'static str, String)> {
    let at = now().to_string();
    let signature = edge::sign(secret.as_bytes(), &at, nonce, "POST", path, body.as_bytes());
    vec![
        ("x-jinlu-key", key.to_owned()),
        ("x-jinlu-timestamp", at),
        ("x-jinlu-nonce", nonce.to_owned()),
        ("x-jinlu-signature", signature),
    ]
}

fn event(secret: &str, nonce: &str, function: &str, payload: &str) -> Value {
    let at = now().to_string();
    let path = format!("/{function}");
    let signature = edge::sign(secret.as_bytes(), &at, nonce, "EVENT", &path, payload.as_bytes());
    json!({ "key": local::SERVICE_KEY_ID, "timestamp": at, "nonce": nonce, "payload": payload, "signature": signature })
}

async fn send(client: &Client, path: &str, headers: &[(&'static str, String)], body: &str) -> anyhow::Result<Answer> {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    client.post(path, &headers, body).await
}

/// Through WeChat: the result inside the answer.
async fn through_wechat(client: &Client, function: &str, event: &Value) -> anyhow::Result<Value> {
    let path = format!("/tcb/invokecloudfunction?access_token=any&env=jinlu-local&name={function}");
    let answer = client.post(&path, &[], event.to_string()).await?;
    assert_eq!(answer.body["errcode"], 0, "{answer:?}");
    Ok(serde_json::from_str(answer.body["resp_data"].as_str().unwrap_or_default())?)
}

/// A process of its own on the same database.
async fn process(config: Config) -> anyhow::Result<Client> {
    let app = App::new(config, Clock::system())?;
    let options = Options { env_id: "prod-1a2b3c".to_owned(), tc3: None, local: None };
    let router = Gateway::new(app, gateway::functions(), Vec::new(), options).router();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = Client::new(format!("http://{}", listener.local_addr()?))?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(client)
}

#[test]
fn the_vector_of_the_document_holds() {
    let body = DOCUMENT.split("```json\n").nth(2).and_then(|block| block.split("\n```").next()).unwrap();
    let bytes = body.len();
    assert!(body.contains("陈女士") && DOCUMENT.contains(&format!("this body of {bytes} bytes")), "{bytes}: {body}");
    let secret = local::SERVICE_SECRET.as_bytes();
    for (method, row) in [("POST", "signature, `POST`"), ("EVENT", "signature, `EVENT`")] {
        let signature =
            edge::sign(secret, "1700000000", "0123456789abcdef", method, "/notifyAssignment", body.as_bytes());
        assert!(DOCUMENT.contains(&format!("| {row} | `{signature}` |")), "{method}: {signature}");
    }
    use sha2::Digest as _;
    let hash = hex::encode(sha2::Sha256::digest(body));
    assert!(DOCUMENT.contains(&format!("| SHA-256 of the body | `{hash}` |")), "{hash}");
    for name in ["README.md", "README.zh-CN.md", "docs/API.md"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        assert!(std::fs::read_to_string(path).unwrap().contains("SIGNING.md"), "{name} does not lead there");
    }
}

#[expect(clippy::disallowed_methods, reason = "what may be missing on a desk may not on CI")]
fn on_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

fn installed(tool: &str, version: &str) -> bool {
    let found = Command::new(tool).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = found.is_ok_and(|status| status.success());
    assert!(there || !on_ci(), "{tool} is missing");
    if !there {
        eprintln!("skipped: {tool} is not installed");
    }
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_document_are_let_in() -> anyhow::Result<()> {
    let world = World::start().await?;
    let folder = tempfile::tempdir()?;
    let grant =
        json!({ "grant_type": "client_credential", "appid": local::WECHAT_APPID, "secret": local::WECHAT_SECRET });
    let token = world.client.post("/sim/wechat/cgi-bin/stable_token", &[], grant.to_string()).await?;
    let environment = [
        ("JINLU_URL", world.client.base.clone()),
        ("JINLU_WECHAT", world.client.base.clone()),
        ("JINLU_ENV", "jinlu-local".to_owned()),
        ("ACCESS_TOKEN", token.text("access_token")),
        ("NO_PROXY", "127.0.0.1".to_owned()),
        ("no_proxy", "127.0.0.1".to_owned()),
    ];
    let mut points = 100;
    for (name, tool, needs) in [
        ("sign.mjs", "node", vec![("node", "--version")]),
        ("event.mjs", "node", vec![("node", "--version")]),
        ("sign.py", "python3", vec![("python3", "--version")]),
        ("sign.sh", "sh", vec![("curl", "--version"), ("openssl", "version")]),
    ] {
        let file = folder.path().join(name);
        std::fs::File::create(&file)?.write_all(program(name).as_bytes())?;
        if !needs.iter().all(|(tool, version)| installed(tool, version)) {
            continue;
        }
        let run = async |input: &str, secret: &str| {
            let mut command = tokio::process::Command::new(tool);
            command.arg(&file).args(["addPoints", input]).envs(environment.clone()).env("JINLU_SECRET", secret);
            let output = command.stdin(Stdio::null()).output().await?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{name}: {said}\n{complaint}");
            anyhow::Ok(serde_json::from_str::<Value>(&said).unwrap_or_else(|_| panic!("{name}: {said}\n{complaint}")))
        };
        let answer = run(&gift().to_string(), local::SERVICE_SECRET).await?;
        points += 5;
        assert_eq!((&answer["success"], &answer["points"]), (&json!(true), &json!(points)), "{name}: {answer}");
        let answer = run(&gift().to_string(), "another-secret").await?;
        let told = (&answer["code"], &answer["details"]["reason"]);
        assert_eq!(told, (&json!("SIGNATURE_INVALID"), &json!("signature")), "{name}: {answer}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_copies_at_once_on_two_processes_one_is_let_in() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (_, other) = world.another().await?;
    for round in 1..=3 {
        let body = gift().to_string();
        let headers = headers(local::SERVICE_KEY_ID, local::SERVICE_SECRET, &wechat_nonce(), "/addPoints", &body);
        let copies = (0..20).map(|copy| {
            let client = if copy % 2 == 0 { &world.client } else { &other };
            send(client, "/addPoints", &headers, &body)
        });
        let answers = futures_util::future::try_join_all(copies).await?;
        let let_in = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(let_in, 1, "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            answer.refused(401, "SIGNATURE_INVALID");
            assert_eq!(answer.body["details"]["reason"], "nonce");
        }
        let points = world.client.call_service("getUserPoints", demo()).await?;
        assert_eq!(points.ok()["points"], 100 + 5 * round);
    }
    world.finish().await
}

#[tokio::test]
async fn forgers_burn_no_nonce_in_either_form() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let body = gift().to_string();
    let (key, secret) = (local::SERVICE_KEY_ID, local::SERVICE_SECRET);
    let (one, two) = (wechat_nonce(), wechat_nonce());
    let good = headers(key, secret, &one, "/addPoints", &body);
    let signed = event(secret, &two, "addPoints", &body);

    send(c, "/addPoints", &headers(key, "guessed", &one, "/addPoints", &body), &body)
        .await?
        .refused(401, "SIGNATURE_INVALID");
    send(c, "/addPoints", &headers("guessed", secret, &one, "/addPoints", &body), &body)
        .await?
        .refused(401, "SIGNATURE_INVALID");
    // The right signature of something else.
    send(c, "/getUserPoints", &good, &body).await?.refused(401, "SIGNATURE_INVALID");
    send(c, "/addPoints", &good, &demo().to_string()).await?.refused(401, "SIGNATURE_INVALID");
    send(c, "/v1/functions/addPoints", &good, &body).await?.refused(401, "SIGNATURE_INVALID");
    assert_eq!(through_wechat(c, "getUserPoints", &signed).await?["code"], "SIGNATURE_INVALID");
    let mut altered = signed.clone();
    altered["payload"] = json!(body.replace('5', "9"));
    assert_eq!(through_wechat(c, "addPoints", &altered).await?["code"], "SIGNATURE_INVALID");
    // As an object, and a signed event within a signed event.
    altered["payload"] = gift();
    assert_eq!(through_wechat(c, "addPoints", &altered).await?["code"], "SIGNATURE_INVALID");
    let nested = event(secret, &wechat_nonce(), "addPoints", &signed.to_string());
    let answer = through_wechat(c, "addPoints", &nested).await?;
    assert_eq!((&answer["code"], &answer["details"]["reason"]), (&json!("SIGNATURE_INVALID"), &json!("form")));
    assert!(world.store.peek("nonces", 10).await?.is_empty());

    send(c, "/addPoints", &good, &body).await?.ok();
    assert_eq!(through_wechat(c, "addPoints", &signed).await?["points"], 110);
    world.finish().await
}

#[tokio::test]
async fn both_forms_at_once_count_as_the_one_of_the_route() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (key, secret) = (local::SERVICE_KEY_ID, local::SERVICE_SECRET);
    let wrapped = event(secret, &wechat_nonce(), "addPoints", &gift().to_string()).to_string();
    // Over headers the event is a body like any other: who signed it is known, and its own fields are not the input's.
    let outer = headers(key, secret, &wechat_nonce(), "/addPoints", &wrapped);
    send(c, "/addPoints", &outer, &wrapped).await?.refused(400, "INVALID_ARGUMENT");
    // Headers that do not hold are not made up for by an event that does.
    let forged = headers(key, "guessed", &wechat_nonce(), "/addPoints", &wrapped);
    send(c, "/addPoints", &forged, &wrapped).await?.refused(401, "SIGNATURE_INVALID");
    // Through WeChat headers are not looked at.
    let path = "/tcb/invokecloudfunction?access_token=any&env=jinlu-local&name=addPoints";
    let body = gift().to_string();
    let answer = send(c, path, &headers(key, secret, &wechat_nonce(), "/addPoints", &body), &body).await?;
    assert!(answer.body["resp_data"].as_str().is_some_and(|text| text.contains("UNAUTHENTICATED")), "{answer:?}");
    let answer = send(c, path, &forged, &wrapped).await?;
    assert!(answer.body["resp_data"].as_str().is_some_and(|text| text.contains("\"points\":105")), "{answer:?}");
    world.finish().await
}

#[tokio::test]
async fn a_secret_is_replaced_without_a_gap() -> anyhow::Result<()> {
    let world = World::start().await?;
    let key = |secret: &str, scopes: &[&str]| ServiceKey {
        id: "crm".to_owned(),
        secret: secret.into(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    };
    let (old, new) = ("the-old-secret-of-the-crm", "the-new-secret-of-the-crm");
    let body = gift().to_string();
    let call = async |client: &Client, secret: &str, nonce: &str| {
        let answer = send(client, "/addPoints", &headers("crm", secret, nonce, "/addPoints", &body), &body).await?;
        anyhow::Ok(answer.code().to_owned())
    };
    let with = async |keys: Vec<ServiceKey>| process(Config { service_keys: keys, ..world.app.config.clone() }).await;

    let before = with(vec![key(old, &["points"])]).await?;
    let between = with(vec![key(old, &["points"]), key(new, &["points"])]).await?;
    let after = with(vec![key(new, &["points"])]).await?;
    for (client, of_old, of_new) in
        [(&before, "", "SIGNATURE_INVALID"), (&between, "", ""), (&after, "SIGNATURE_INVALID", "")]
    {
        assert_eq!(call(client, old, &wechat_nonce()).await?, of_old);
        assert_eq!(call(client, new, &wechat_nonce()).await?, of_new);
    }
    // The nonces are the key's, whichever secret signed.
    let nonce = wechat_nonce();
    assert_eq!(call(&between, old, &nonce).await?, "");
    assert_eq!(call(&between, new, &nonce).await?, "SIGNATURE_INVALID");
    let narrower = with(vec![key(new, &["points"]), key(old, &["prepaid"])]).await?;
    assert_eq!(call(&narrower, old, &wechat_nonce()).await?, "FORBIDDEN");
    assert_eq!(call(&narrower, new, &wechat_nonce()).await?, "");
    world.finish().await
}

/// Log lines kept in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::ErrorKind::Other)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// On one thread, so that the subscriber of this thread sees everything.
#[tokio::test(flavor = "current_thread")]
async fn no_secret_and_no_signature_is_logged_at_any_level() -> anyhow::Result<()> {
    let world = World::start().await?;
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let guard = subscriber.set_default();
    let c = &world.client;
    let (key, secret) = (local::SERVICE_KEY_ID, local::SERVICE_SECRET);
    let body = gift().to_string();
    let mut hidden = vec![secret.to_owned(), "guessed-by-a-forger".to_owned()];
    for (key, secret) in [(key, secret), (key, "guessed-by-a-forger"), ("unknown", secret)] {
        let headers = headers(key, secret, &wechat_nonce(), "/addPoints", &body);
        hidden.push(headers.last().unwrap().1.clone());
        // The first time, and as a replay.
        send(c, "/addPoints", &headers, &body).await?;
        send(c, "/addPoints", &headers, &body).await?.refused(401, "SIGNATURE_INVALID");
        let event = event(secret, &wechat_nonce(), "addPoints", &body);
        hidden.push(event["signature"].as_str().unwrap().to_owned());
        through_wechat(c, "addPoints", &event).await?;
    }
    drop(guard);
    let said = String::from_utf8(lines.0.lock().unwrap().clone())?;
    assert!(said.contains("addPoints") && said.contains("SIGNATURE_INVALID") && said.contains("TRACE"), "{said}");
    for secret in hidden {
        assert!(!said.contains(&secret), "{secret} is in the log");
    }
    world.finish().await
}
