//! The process is killed with SIGKILL between any two steps; after a restart and the timers nothing is lost, doubled or stuck.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use it::{Answer, Client, database_name, mongod_uri, order_of, settle_down, violations};
use serde_json::{Value, json};
use store::{Store, StoreConfig};

/// A local cloud in a process of its own.
pub(crate) struct Host {
    child: Child,
    pub(crate) client: Client,
    /// Lines of its standard error.
    errors: mpsc::Receiver<String>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A port for both lives of the host: the stored prepay request names the address for notices.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(crate) fn start(
    uri: &str,
    database: &str,
    data_dir: &Path,
    port: u16,
    crashpoint: Option<&str>,
) -> anyhow::Result<Host> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jinlu-it"));
    command.args(["dev", "--no-timers", "--port", &port.to_string(), "--data-dir"]).arg(data_dir);
    command.env("MONGODB_URI", uri).env("MONGODB_DATABASE", database).env_remove("JINLU_CRASHPOINT");
    // The machine's zone must not matter: business days are Shanghai's.
    command.env("TZ", "America/New_York");
    if let Some(name) = crashpoint {
        command.env("JINLU_CRASHPOINT", name);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (send, errors) = mpsc::channel();
    std::thread::spawn(move || {
        for line in err.into_iter().flat_map(|e| BufReader::new(e).lines()).map_while(Result::ok) {
            send.send(line).ok();
        }
    });
    let mut lines = out.into_iter().flat_map(|o| BufReader::new(o).lines()).map_while(Result::ok);
    let base = lines.find_map(|line| line.strip_prefix("ready ").map(str::to_owned));
    std::thread::spawn(move || lines.for_each(drop));
    let base =
        base.ok_or_else(|| anyhow::anyhow!("the host did not start: {:?}", errors.try_iter().collect::<Vec<_>>()))?;
    Ok(Host { child, client: Client::new(base)?, errors })
}

impl Host {
    /// Runs `work` until the crash point is reached, then kills the process at exactly that step.
    pub(crate) async fn killed_at(
        mut self,
        name: &str,
        work: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let mut work = std::pin::pin!(work);
        self.stopped_at(name, work.as_mut()).await?;
        self.kill()
    }

    /// Runs `work` until the crash point is reached. The process stands still there as long as `work` is not dropped.
    pub(crate) async fn stopped_at(
        &mut self,
        name: &str,
        work: Pin<&mut impl Future<Output = anyhow::Result<()>>>,
    ) -> anyhow::Result<()> {
        let wanted = format!("crashpoint {name}");
        let errors = std::mem::replace(&mut self.errors, mpsc::channel().1);
        let reached = tokio::task::spawn_blocking(move || {
            let limit = Duration::from_secs(30);
            std::iter::from_fn(|| errors.recv_timeout(limit).ok()).any(|line| line == wanted)
        });
        tokio::select! {
            outcome = work => anyhow::bail!("the work ended without reaching {name}: {outcome:?}"),
            reached = reached => anyhow::ensure!(reached?, "{name} was not reached"),
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Repeats a call as long as the answer says that repeating helps.
///
/// A transaction that was killed half-way keeps its documents locked until the server gives it up.
pub(crate) async fn persist(client: &Client, name: &str, token: &str, event: Value) -> anyhow::Result<Answer> {
    let mut last = None;
    for _ in 0..40 {
        let answer = client.call(name, token, event.clone()).await?;
        if answer.body["retryable"] != true {
            return Ok(answer);
        }
        if answer.code() == "RATE_LIMITED" {
            // A try that met such a lock has used up its minute.
            client.advance(61).await?;
        }
        last = Some(answer);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("{name} did not recover: {last:?}")
}

/// Links the demo member to the demo customer, whose 100 yuan and five boxes of apples then pay, too.
async fn link(uri: &str, database: &str) -> anyhow::Result<()> {
    let store = Store::new(StoreConfig::new(uri, database));
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    let now = chrono::Utc::now();
    let member = json!({ "_id": "u-lin", "openId": "o-lin", "points": 20, "level": 1, "balance": 0, "carryFen": 0, "customerId": "c-lin" });
    let customer = json!({ "_id": "c-lin", "name": "林女士", "status": "active", "linkedUserId": "u-lin" });
    store.open_document("member_user", &member, now).await?;
    store.open_document("customers", &customer, now).await?;
    for (id, balance) in [("pr-a", 6000), ("pr-b", 4000)] {
        let record = json!({ "_id": id, "customerId": "c-lin", "type": "amount", "asset": "fen", "balance": balance, "linkedUserId": "u-lin", "linkStatus": "linked" });
        store.open_document("prepaidRecords", &record, now).await?;
    }
    Ok(())
}

/// What a shopper does; every step may be repeated.
async fn shop(client: &Client, request: &str, cancel: bool) -> anyhow::Result<Value> {
    shop_as(client, "demo", request, cancel).await
}

async fn shop_as(client: &Client, name: &str, request: &str, cancel: bool) -> anyhow::Result<Value> {
    let token = client.login(name).await?;
    let mut event = order_of("p-honey", 2);
    event["items"] = json!([{ "productId": "p-honey", "quantity": 2 }, { "productId": "p-tea", "skuId": "s-grade2", "quantity": 1 }]);
    event["pointsUsed"] = json!(5);
    event["requestId"] = json!(request);
    if name == "lin" {
        event["paymentMethod"] = json!("prestore");
    }
    let order = persist(client, "submitOrder", &token, event).await?;
    let id = order.ok()["orderId"].as_str().unwrap_or_default().to_owned();
    let pay = persist(client, "wxPay", &token, json!({ "orderId": id })).await?;
    if cancel {
        persist(client, "orders", &token, json!({ "action": "cancel", "orderId": id })).await?;
    } else if pay.status == 200 {
        // WeChat repeats a notice that was not taken.
        for _ in 0..40 {
            let paid = client.pay(&id, "once").await?;
            if paid.body["noticeStatus"] == 204 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    Ok(client.call("orders", &token, json!({ "action": "get", "orderId": id })).await?.body)
}

async fn survives(crashpoint: &str, cancel: bool) -> anyhow::Result<()> {
    let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
    let request = format!("crash-{}", crashpoint.replace('.', "-"));
    let host = start(&uri, &database, folder.path(), port, Some(crashpoint))?;
    let client = host.client.clone();
    host.killed_at(crashpoint, async { shop(&client, &request, cancel).await.map(drop) }).await?;

    let host = start(&uri, &database, folder.path(), port, None)?;
    // Some shoppers come back and repeat, others never do: the timers must settle both.
    let order = shop(&host.client, &request, cancel).await?;
    assert_eq!(order["status"], if cancel { "closed" } else { "paid" }, "{crashpoint}: {order}");
    host.client.advance(3600).await?;
    settle_down(&host.client).await?;
    check(&uri, &database, crashpoint, if cancel { (200, 143) } else { (198, 142) }).await
}

/// As [`survives`], with prepaid money as tender; every record must be right afterwards.
async fn survives_with_prepaid(crashpoint: &str, cancel: bool) -> anyhow::Result<()> {
    let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
    let host = start(&uri, &database, folder.path(), port, Some(crashpoint))?;
    link(&uri, &database).await?;
    let client = host.client.clone();
    host.killed_at(crashpoint, async { shop_as(&client, "lin", "crash-prepaid", cancel).await.map(drop) }).await?;
    let host = start(&uri, &database, folder.path(), port, None)?;
    let order = shop_as(&host.client, "lin", "crash-prepaid", cancel).await?;
    assert_eq!(order["status"], if cancel { "closed" } else { "paid" }, "{crashpoint}: {order}");
    assert_eq!(order["prepaidAmount"], 100, "{crashpoint}: {order}");
    host.client.advance(3600).await?;
    settle_down(&host.client).await?;
    let store = Store::new(StoreConfig::new(&uri, &database));
    let records = store.all_prepaid_records(&domain::CustomerId::parse("c-lin")?).await?;
    let mut balances: Vec<i64> = records.iter().map(|r| r.balance).collect();
    balances.sort_unstable();
    assert_eq!(balances, if cancel { [4000, 6000] } else { [0, 0] }, "{crashpoint}");
    check(&uri, &database, crashpoint, if cancel { (200, 143) } else { (198, 142) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_prepaid_pays() -> anyhow::Result<()> {
    for point in ["submit.reserved", "submit.inside", "submit.committed", "settle.inside"] {
        survives_with_prepaid(point, false).await?;
    }
    for point in ["close.closedAtWechat", "close.inside", "close.committed"] {
        survives_with_prepaid(point, true).await?;
    }
    Ok(())
}

/// As [`survives`], with a right to buy: it is used once, or free again.
async fn survives_with_a_right(crashpoint: &str, cancel: bool) -> anyhow::Result<()> {
    let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
    let host = start(&uri, &database, folder.path(), port, Some(crashpoint))?;
    let client = host.client.clone();
    let token = client.login("winner").await?;
    #[expect(clippy::disallowed_methods, reason = "the host's clock was not moved")]
    let right = crate::right::win(&client, &token, 1, chrono::Utc::now()).await?;
    let buy = async |client: &Client| {
        let token = client.login("winner").await?;
        let mut event = order_of("p-lottery", 1);
        event["qualificationId"] = json!(right);
        event["requestId"] = json!("crash-right-1");
        let order = persist(client, "submitOrder", &token, event).await?;
        let id = order.ok()["orderId"].as_str().unwrap_or_default().to_owned();
        if cancel {
            persist(client, "orders", &token, json!({ "action": "cancel", "orderId": id })).await?;
        }
        anyhow::Ok(id)
    };
    host.killed_at(crashpoint, async { buy(&client).await.map(drop) }).await?;
    let host = start(&uri, &database, folder.path(), port, None)?;
    let id = buy(&host.client).await?;
    settle_down(&host.client).await?;
    let store = Store::new(StoreConfig::new(&uri, &database));
    let found = store.qualification(&right).await?.and_then(|q| q.order_id);
    assert_eq!(found.map(|o| o.as_str().to_owned()), (!cancel).then_some(id), "{crashpoint}");
    check(&uri, &database, crashpoint, (200, 143)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_right_is_used_and_given_back() -> anyhow::Result<()> {
    for point in ["submit.reserved", "submit.inside", "submit.committed"] {
        survives_with_a_right(point, false).await?;
    }
    for point in ["close.inside", "close.committed"] {
        survives_with_a_right(point, true).await?;
    }
    Ok(())
}

async fn abandoned(crashpoint: &str) -> anyhow::Result<()> {
    let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
    let host = start(&uri, &database, folder.path(), port, Some(crashpoint))?;
    let client = host.client.clone();
    host.killed_at(crashpoint, async { shop(&client, "crash-abandoned", false).await.map(drop) }).await?;
    let host = start(&uri, &database, folder.path(), port, None)?;
    let token = host.client.login("demo").await?;
    let mut statuses: Vec<Value> = Vec::new();
    for _ in 0..8 {
        host.client.advance(3600).await?;
        settle_down(&host.client).await?;
        let orders = host.client.call("orders", &token, json!({ "action": "list" })).await?;
        statuses = orders.ok()["data"].as_array().into_iter().flatten().map(|o| o["status"].clone()).collect();
        if !statuses.contains(&json!("pendingPayment")) {
            break;
        }
    }
    let paid = statuses.contains(&json!("paid"));
    assert!(!statuses.contains(&json!("pendingPayment")), "{crashpoint}: an order hangs: {statuses:?}");
    assert_eq!(paid, crashpoint.starts_with("settle."), "{crashpoint}: {statuses:?}");
    check(&uri, &database, crashpoint, if paid { (198, 142) } else { (200, 143) }).await
}

async fn check(uri: &str, database: &str, crashpoint: &str, stock: (i64, i64)) -> anyhow::Result<()> {
    let store = Store::new(StoreConfig::new(uri, database));
    #[expect(clippy::disallowed_methods, reason = "the audit's clock only has to be near")]
    let found = violations(&store, chrono::Utc::now()).await?;
    assert!(found.is_empty(), "{crashpoint}: {found:?}");
    let mut left = Vec::new();
    for id in ["p-honey", "p-tea"] {
        let product = store.product(&domain::ProductId::parse(id)?).await?.ok_or_else(|| anyhow::anyhow!("no {id}"))?;
        assert!(product.stock_markers.is_empty(), "{crashpoint}: a marker stays");
        left.push(product.available());
    }
    assert_eq!((left[0], left[1]), stock, "{crashpoint}");
    store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_submitting() -> anyhow::Result<()> {
    for point in ["submit.reservedOne", "submit.reserved", "submit.inside", "submit.committed", "submit.pulled"] {
        survives(point, false).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_paying_and_settling() -> anyhow::Result<()> {
    for point in ["pay.stored", "pay.prepaid", "settle.inside", "settle.committed"] {
        survives(point, false).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_closing() -> anyhow::Result<()> {
    for point in ["close.closedAtWechat", "close.inside", "close.committed", "release.cleared", "release.applied"] {
        survives(point, true).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_never_repeated() -> anyhow::Result<()> {
    for point in [
        "submit.reservedOne",
        "submit.reserved",
        "submit.committed",
        "pay.stored",
        "pay.prepaid",
        "settle.inside",
        "settle.committed",
    ] {
        abandoned(point).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_day_is_sealed() -> anyhow::Result<()> {
    let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
    let host = start(&uri, &database, folder.path(), port, Some("seal.hashed"))?;
    let moved = host.client.advance(3 * 86_400).await?;
    let now: chrono::DateTime<chrono::Utc> = moved.text("now").parse()?;
    let client = host.client.clone();
    host.killed_at("seal.hashed", async { client.timer("sealLedger").await.map(drop) }).await?;
    let host = start(&uri, &database, folder.path(), port, None)?;
    let sealed = host.client.timer("sealLedger").await?;
    let days: Vec<&str> =
        sealed.ok()["sealed"].as_array().into_iter().flatten().filter_map(|s| s["day"].as_str()).collect();
    // The host runs in another zone; the first day is the one on which it opened the book, in Shanghai.
    let first = domain::BusinessDay::of(now - chrono::TimeDelta::days(3)).to_string();
    assert_eq!(days.first(), Some(&first.as_str()), "{sealed:?}");
    assert!((2..=3).contains(&days.len()), "{sealed:?}");
    let state = host.client.get("/local/state").await?;
    let timers = state["timers"].as_array().cloned().unwrap_or_default();
    let seal = timers.iter().find(|t| t["function"] == "sealLedger").map(|t| t["next"].to_string());
    assert!(seal.is_some_and(|next| next.contains("T19:30:00")), "03:30 in Shanghai: {timers:?}");
    check(&uri, &database, "seal.hashed", (200, 143)).await
}

/// Calls as the CRM for as long as the answer says that repeating helps.
async fn persist_service(client: &Client, name: &str, event: Value) -> anyhow::Result<Answer> {
    for _ in 0..40 {
        let answer = client.call_service(name, event.clone()).await?;
        if answer.body["retryable"] != true {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("{name} did not recover")
}

/// Proves a phone, links, puts in, takes, gives back and merges; every step may be repeated.
async fn crm(client: &Client, later: i64) -> anyhow::Result<()> {
    const PHONE: &str = "13800138000";
    let token = client.login("carol").await?;
    // One code a minute, and the second host goes on at the time that the first one was moved to.
    client.advance(later).await?;
    persist(client, "sendSMS", &token, json!({ "phone": PHONE, "purpose": "bind" })).await?.ok();
    let code = client.sms_code(PHONE).await?;
    let linked = persist(client, "linkUserToCustomer", &token, json!({ "phone": PHONE, "verifyCode": code })).await?;
    assert_eq!(linked.ok()["customerId"], "c-demo", "{linked:?}");
    let put = json!({ "requestId": "crash-put-1", "customerId": "c-demo", "type": "amount", "amount": 50 });
    persist_service(client, "addPrestore", put).await?.ok();
    let take = json!({ "customerId": "c-demo", "prepaidType": "amount", "amount": 30, "orderId": "CRM-1" });
    persist_service(client, "updatePrepaidBalance", take.clone()).await?.ok();
    let other = json!({ "customerId": "c-demo", "prepaidType": "product", "productId": "p-apple", "amount": 2, "orderId": "CRM-2" });
    let taken = persist_service(client, "updatePrepaidBalance", other.clone()).await?;
    // Once it was given back, taking it again is refused: the order has had its turn.
    assert!(taken.status == 200 || taken.code() == "CONFLICT", "{taken:?}");
    let mut back = other;
    back["restore"] = json!(true);
    persist_service(client, "updatePrepaidBalance", back).await?.ok();
    let merge = json!({ "requestId": "crash-merge-1", "action": "merge", "sourceId": "c-demo", "targetId": "c-wang" });
    persist_service(client, "customers", merge).await?.ok();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_linking_deducting_and_merging() -> anyhow::Result<()> {
    for point in [
        "sms.recorded",
        "link.inside",
        "once.inside",
        "once.committed",
        "deduct.inside",
        "restore.inside",
        "merge.inside",
    ] {
        let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
        let host = start(&uri, &database, folder.path(), port, Some(point))?;
        let client = host.client.clone();
        host.killed_at(point, async { crm(&client, 61).await }).await?;
        // Killed after the first half: the whole of it again until it is through.
        let host = start(&uri, &database, folder.path(), port, None)?;
        crm(&host.client, 600).await?;
        let store = Store::new(StoreConfig::new(&uri, &database));
        let records = store.all_prepaid_records(&domain::CustomerId::parse("c-wang")?).await?;
        let mut balances: Vec<i64> = records.iter().map(|r| r.balance).collect();
        balances.sort_unstable();
        assert_eq!(balances, [5, 5000, 7000], "{point}");
        assert!(records.iter().all(|r| r.linked_user_id.is_some()), "{point}");
        check(&uri, &database, point, (200, 143)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_verifying_a_name_leaves_it_verified_or_not() -> anyhow::Result<()> {
    let uri = mongod_uri().await?;
    for name in ["identity.confirmed", "identity.inside"] {
        let (database, folder, port) = (database_name(), tempfile::tempdir()?, free_port()?);
        let claim = json!({ "realName": "张三", "idCard": "440524198801010011", "consent": true });
        let host = start(&uri, &database, folder.path(), port, Some(name))?;
        let client = host.client.clone();
        let work = async {
            let token = client.login("ming").await?;
            client.call("verifyIdentity", &token, claim.clone()).await?;
            anyhow::Ok(())
        };
        host.killed_at(name, work).await?;

        let host = start(&uri, &database, folder.path(), port, None)?;
        let token = host.client.login("ming").await?;
        let answer = persist(&host.client, "verifyIdentity", &token, claim).await?;
        assert_eq!(answer.ok()["verified"], true, "{name}");
        let store = Store::new(StoreConfig::new(&uri, &database));
        #[expect(clippy::disallowed_methods, reason = "the time of the process that wrote")]
        let now = chrono::Utc::now();
        assert_eq!(violations(&store, now).await?, Vec::<String>::new(), "{name}");
        store.drop_database().await?;
    }
    Ok(())
}
