//! Who gets in over real HTTP, and every forgery that must not. Whatever is refused leaves nothing behind.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use edge::config::{ServiceKey, local};
use edge::{App, Clock, Config};
use gateway::{Gateway, Options};
use hmac::{Hmac, KeyInit, Mac};
use it::{Answer, Client, World, order_of, wechat_nonce};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};
use tokio::net::TcpListener;

use crate::input::snapshot;

/// Functions that only a signed-in user may call, each with an event that would otherwise do.
fn user_calls(order: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("submitOrder", order_of("p-apple", 1)),
        ("wxPay", json!({ "orderId": order })),
        ("orders", json!({ "action": "list" })),
        ("orders", json!({ "action": "get", "orderId": order })),
        ("orders", json!({ "action": "cancel", "orderId": order })),
        ("getUserPoints", json!({})),
        ("generateOrderId", json!({})),
    ]
}

const TIMERS: [&str; 4] = ["closeExpiredOrders", "reconcilePayments", "settleStockMarkers", "deliverOutbox"];

fn gift() -> Value {
    json!({ "openId": "o-demo", "points": 5, "type": "earn", "reason": "测试" })
}

fn hmac256(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A token put together by hand, with whatever header; HS512 where the header says so, else HS256.
fn token(header: &Value, claims: &Value, secret: &str) -> String {
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = match header["alg"].as_str() {
        Some("none") => Vec::new(),
        Some("HS512") => {
            let mut mac = Hmac::<Sha512>::new_from_slice(secret.as_bytes()).unwrap();
            mac.update(signed.as_bytes());
            mac.finalize().into_bytes().to_vec()
        }
        _ => hmac256(secret.as_bytes(), &signed),
    };
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Another instance with its own configuration on the same database.
async fn instance(config: Config, clock: Clock) -> anyhow::Result<Client> {
    let app = App::new(config, clock)?;
    let options = Options { env_id: "prod-1a2b3c".to_owned(), tc3: None, local: None };
    let router = Gateway::new(app, gateway::functions(), Vec::new(), options).router();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = Client::new(format!("http://{}", listener.local_addr()?))?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(client)
}

/// A request signed for one thing and sent as another, if its fields are made to differ.
#[derive(Clone)]
struct Signed {
    key: String,
    secret: String,
    at: i64,
    nonce: String,
    method: &'static str,
    path: String,
    body: String,
}

impl Signed {
    fn new(at: i64, path: &str, body: &Value) -> Self {
        Self {
            key: local::SERVICE_KEY_ID.to_owned(),
            secret: local::SERVICE_SECRET.to_owned(),
            at,
            nonce: wechat_nonce(),
            method: "POST",
            path: path.to_owned(),
            body: body.to_string(),
        }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let at = self.at.to_string();
        let secret = self.secret.as_bytes();
        let signature = edge::sign(secret, &at, &self.nonce, self.method, &self.path, self.body.as_bytes());
        vec![
            ("x-jinlu-key", self.key.clone()),
            ("x-jinlu-timestamp", at),
            ("x-jinlu-nonce", self.nonce.clone()),
            ("x-jinlu-signature", signature),
        ]
    }

    async fn send(&self, client: &Client) -> anyhow::Result<Answer> {
        self.send_as(client, &self.path, &self.body, &self.headers()).await
    }

    async fn send_as(
        &self,
        client: &Client,
        path: &str,
        body: &str,
        headers: &[(&'static str, String)],
    ) -> anyhow::Result<Answer> {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.post(path, &headers, body).await
    }
}

/// The result inside a wrapped reply, or the transport's own error as it is.
fn unwrapped(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = answer.body["data"]["response_data"].as_str().or_else(|| answer.body["resp_data"].as_str());
    text.map_or_else(|| answer.body.clone(), |text| serde_json::from_str(text).unwrap())
}

#[tokio::test]
async fn identity_in_headers_or_body_of_a_public_route_is_nobodys() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (demo, alice) = (c.login("demo").await?, c.login("alice").await?);
    let order = c.call("submitOrder", &demo, order_of("p-apple", 1)).await?.text("orderId");
    let before = snapshot(&world).await?;
    let headers = [
        ("x-wx-openid", "o-demo"),
        ("x-wx-source", "wx_devtools"),
        ("x-wx-unionid", "u-demo"),
        ("x-wx-appid", local::WECHAT_APPID),
        ("x-openid", "o-demo"),
        ("x-forwarded-user", "o-demo"),
        ("x-cloudbase-context", "eyJ1c2VySWQiOiJvLWRlbW8ifQ"),
        ("x-scf-session-token", "o-demo"),
    ];
    for (name, event) in user_calls(&order) {
        for prefix in ["", "/v1/functions"] {
            let answer = c.post(&format!("{prefix}/{name}"), &headers, event.to_string()).await?;
            answer.refused(401, "UNAUTHENTICATED");
        }
        let mut named = event.clone();
        named["openId"] = json!("o-demo");
        named["userInfo"] = json!({ "openId": "o-demo", "appId": local::WECHAT_APPID });
        named["tcbContext"] = json!({ "OPENID": "o-demo", "SOURCE": "wx_client" });
        named["caller"] = json!({ "kind": "user", "openId": "o-demo" });
        c.call(name, "", named).await?.refused(401, "UNAUTHENTICATED");
    }
    before.stands(&world).await?;
    // Beside a session the session decides.
    let mut beside = headers.to_vec();
    beside.push(("x-app-session", &alice));
    assert_eq!(c.post("/getUserPoints", &beside, "{}").await?.ok()["points"], 0);
    c.post("/orders", &beside, json!({ "action": "get", "orderId": order }).to_string())
        .await?
        .refused(403, "FORBIDDEN");
    // Where the deployment says that nobody else can set them they count, and only both together.
    let config = Config { trust_wx_headers: true, ..world.app.config.clone() };
    let trusting = instance(config, world.app.clock.clone()).await?;
    assert_eq!(trusting.post("/getUserPoints", &headers[..2], "{}").await?.ok()["points"], 100);
    trusting.post("/getUserPoints", &headers[..1], "{}").await?.refused(401, "UNAUTHENTICATED");
    let forged = [("x-wx-openid", "o demo"), ("x-wx-source", "wx_client")];
    trusting.post("/getUserPoints", &forged, "{}").await?.refused(401, "UNAUTHENTICATED");
    let twice = [("x-wx-openid", "o-alice"), ("x-wx-openid", "o-demo"), ("x-wx-source", "wx_client")];
    trusting.post("/getUserPoints", &twice, "{}").await?.refused(401, "UNAUTHENTICATED");
    world.finish().await
}

#[tokio::test]
async fn what_belongs_to_somebody_else_stays_theirs() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (demo, alice) = (c.login("demo").await?, c.login("alice").await?);
    let order = c.call("submitOrder", &demo, order_of("p-apple", 1)).await?.text("orderId");
    let begun = c.call("submitOrder", &demo, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &demo, json!({ "orderId": begun })).await?.ok();
    let before = snapshot(&world).await?;
    let mut named = order_of("p-apple", 1);
    named["openId"] = json!("o-demo");
    let mut cases = vec![
        ("submitOrder", named),
        ("getUserPoints", json!({ "openId": "o-demo" })),
        ("getUserPoints", json!({ "openId": "o-nobody" })),
        ("getUserPoints", json!({ "userId": "u-demo" })),
        ("getUserPoints", json!({ "userId": "u-nobody" })),
        ("getUserPoints", json!({ "userId": "u-demo", "openId": "o-alice" })),
    ];
    for id in [&order, &begun] {
        cases.extend([
            ("wxPay", json!({ "orderId": id })),
            ("wxPay", json!({ "orderId": id, "action": "query" })),
            ("orders", json!({ "action": "get", "orderId": id })),
            ("orders", json!({ "action": "cancel", "orderId": id })),
        ]);
    }
    for (name, event) in cases {
        let answer = c.call(name, &alice, event.clone()).await?;
        answer.refused(403, "FORBIDDEN");
        // Not a word about what is there.
        assert!(answer.body.get("details").is_none(), "{event}: {answer:?}");
    }
    let none = "20260101000000000AAAAAAAA";
    for (name, event) in [
        ("wxPay", json!({ "orderId": none })),
        ("wxPay", json!({ "orderId": none, "action": "query" })),
        ("orders", json!({ "action": "get", "orderId": none })),
        ("orders", json!({ "action": "cancel", "orderId": none })),
    ] {
        c.call(name, &alice, event).await?.refused(404, "ORDER_NOT_FOUND");
    }
    before.stands(&world).await?;
    // A list shows one's own, whoever is named; naming oneself is fine.
    let listed = c.call("orders", &alice, json!({ "action": "list", "openId": "o-demo", "userId": "u-demo" })).await?;
    assert_eq!(listed.ok()["data"], json!([]));
    assert_eq!(c.call("getUserPoints", &demo, json!({ "openId": "o-demo" })).await?.ok()["points"], 100);
    assert_eq!(c.call("getUserPoints", &demo, json!({ "userId": "u-demo" })).await?.ok()["points"], 100);
    world.finish().await
}

#[tokio::test]
async fn forged_tokens_open_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let demo = c.login("demo").await?;
    let order = c.call("submitOrder", &demo, order_of("p-apple", 1)).await?.text("orderId");
    let before = snapshot(&world).await?;
    let secret = local::SESSION_SECRET;
    let now = world.app.clock.now().timestamp();
    let header = |alg: &str| json!({ "typ": "JWT", "alg": alg, "kid": "local" });
    let claims = json!({ "kind": "user", "sub": "o-demo", "iat": now, "exp": now + 3600 });
    let claim = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    // The hand that forges is good enough: with the right secret it makes a token that works.
    let good = token(&header("HS256"), &claims, secret);
    assert_eq!(c.call("getUserPoints", &good, json!({})).await?.ok()["points"], 100);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (first, payload) = head.split_once('.').unwrap();
    let staff = URL_SAFE_NO_PAD.encode(claim("kind", json!("staff")).to_string());
    let public_key = simulators::keys::WECHATPAY_PUBLIC_KEY;
    let forged = [
        ("another secret", token(&header("HS256"), &claims, "local-session-secret-0123456789abcdee")),
        ("empty secret", token(&header("HS256"), &claims, "")),
        ("unknown kid", token(&json!({ "alg": "HS256", "kid": "k9" }), &claims, secret)),
        ("no kid", token(&json!({ "alg": "HS256" }), &claims, secret)),
        ("kid as a path", token(&json!({ "alg": "HS256", "kid": "../../dev/null" }), &claims, "")),
        (
            "key in the header",
            token(&json!({ "alg": "HS256", "kid": "local", "jwk": { "kty": "oct", "k": "eA" } }), &claims, "x"),
        ),
        ("alg none", token(&header("none"), &claims, secret)),
        (
            "alg none with a signature",
            format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode(header("none").to_string())),
        ),
        ("alg NONE", token(&header("NONE"), &claims, secret)),
        ("alg missing", token(&json!({ "kid": "local" }), &claims, secret)),
        ("HS512", token(&header("HS512"), &claims, secret)),
        (
            "HS256 that says it is HS512",
            format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode(header("HS512").to_string())),
        ),
        ("RS256 over the secret", token(&header("RS256"), &claims, secret)),
        ("HS256 over a public key", token(&header("HS256"), &claims, public_key)),
        ("RS256 over a public key", token(&header("RS256"), &claims, public_key)),
        ("changed payload", format!("{first}.{staff}.{signature}")),
        ("no signature", format!("{head}.")),
        ("no third part", head.to_owned()),
        ("a fourth part", format!("{good}.x")),
        ("cut signature", good.chars().take(good.len() - 4).collect()),
        ("unknown kind", token(&header("HS256"), &claim("kind", json!("admin")), secret)),
        ("no subject", token(&header("HS256"), &claim("sub", json!("")), secret)),
        ("an object as subject", token(&header("HS256"), &claim("sub", json!({ "$gt": "" })), secret)),
        ("expiry as text", token(&header("HS256"), &claim("exp", json!("9999999999")), secret)),
        ("expiry as a fraction", token(&header("HS256"), &claim("exp", json!(9e18)), secret)),
        ("longer than any", token(&header("HS256"), &claim("unionid", json!("u".repeat(900))), secret)),
        ("not a token", "o-demo".to_owned()),
        ("dots", "...".to_owned()),
    ];
    for (what, token) in &forged {
        let bearer = format!("Bearer {token}");
        // A credential that does not hold is refused even where none is needed.
        let mut calls = user_calls(&order);
        calls.extend([("products", json!({})), ("login", json!({ "code": "dev-demo" })), ("addPoints", gift())]);
        for (name, event) in calls {
            for pair in [("x-app-session", token.as_str()), ("authorization", bearer.as_str())] {
                let answer = c.post(&format!("/{name}"), &[pair], event.to_string()).await?;
                assert_eq!((answer.status, answer.code()), (401, "UNAUTHENTICATED"), "{what} {name} {}", pair.0);
            }
        }
    }
    // Two tokens are no token.
    let twice = [("x-app-session", good.as_str()), ("x-app-session", good.as_str())];
    c.post("/getUserPoints", &twice, "{}").await?.refused(401, "UNAUTHENTICATED");
    before.stands(&world).await?;

    // Seven days, and then it says that it expired.
    c.advance(6 * 86_400).await?.ok();
    c.call("getUserPoints", &demo, json!({})).await?.ok();
    c.advance(2 * 86_400).await?.ok();
    for (name, event) in user_calls(&order) {
        c.call(name, &demo, event).await?.refused(401, "SESSION_EXPIRED");
    }
    c.call("products", &demo, json!({})).await?.refused(401, "SESSION_EXPIRED");
    // An expired forgery is a forgery first.
    let forged = token(&header("HS256"), &claims, "another-secret-another-secret-another");
    c.call("getUserPoints", &forged, json!({})).await?.refused(401, "UNAUTHENTICATED");
    before.stands(&world).await?;
    world.finish().await
}

#[tokio::test]
async fn users_staff_and_nobody_do_not_stand_in_for_each_other() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let demo = c.login("demo").await?;
    let order = c.call("submitOrder", &demo, order_of("p-apple", 1)).await?.text("orderId");
    let now = world.app.clock.now();
    let staff = |id: &str, permissions: &[&str]| {
        let permissions: Vec<String> = permissions.iter().map(|p| (*p).to_owned()).collect();
        world.app.issue_staff_token(id, &permissions, TimeDelta::hours(1), now).map(|(token, _)| token)
    };
    let (all, orders, none) = (staff("lily", &["*"])?, staff("ann", &["orders"])?, staff("bob", &[])?);
    // A staff id that looks like an openid is still no user.
    let alike = staff("o-demo", &[])?;
    let before = snapshot(&world).await?;

    for (name, event) in user_calls(&order) {
        c.call(name, "", event.clone()).await?.refused(401, "UNAUTHENTICATED");
        for token in [&none, &alike] {
            c.call(name, token, event.clone()).await?.refused(403, "FORBIDDEN");
        }
    }
    for name in ["submitOrder", "wxPay"] {
        let event = if name == "wxPay" { json!({ "orderId": order }) } else { order_of("p-apple", 1) };
        c.call(name, &all, event).await?.refused(403, "FORBIDDEN");
    }
    c.call("getUserPoints", &orders, json!({ "openId": "o-demo" })).await?.refused(403, "FORBIDDEN");
    c.call("addPoints", "", gift()).await?.refused(401, "UNAUTHENTICATED");
    for token in [&demo, &orders, &none] {
        c.call("addPoints", token, gift()).await?.refused(403, "FORBIDDEN");
    }
    // Timers are the platform's. A body that looks like its event is only a body.
    for name in TIMERS {
        let events = [
            json!({}),
            json!({ "Type": "Timer", "TriggerName": name, "Time": "2026-11-21T00:00:00Z", "Message": "" }),
            json!({ "proof": { "timer": name }, "trigger": name }),
        ];
        let headers =
            [("x-scf-trigger-type", "timer"), ("x-cloudbase-trigger", "timer"), ("x-scf-event-type", "timer")];
        for event in events {
            c.post(&format!("/{name}"), &headers, event.to_string()).await?.refused(401, "UNAUTHENTICATED");
            for token in [&demo, &all] {
                c.call(name, token, event.clone()).await?.refused(403, "FORBIDDEN");
            }
            let body = json!({
                "action": "functions.invokeFunction", "env": "jinlu-local", "function_name": name,
                "request_data": event.to_string(),
            });
            let answer = c.post("/web?env=jinlu-local", &[], body.to_string()).await?;
            assert_eq!(unwrapped(&answer)["code"], "UNAUTHENTICATED", "{answer:?}");
            let path = format!("/tcb/invokecloudfunction?access_token=x&env=jinlu-local&name={name}");
            let answer = c.post(&path, &[], event.to_string()).await?;
            assert_eq!(unwrapped(&answer)["code"], "UNAUTHENTICATED", "{answer:?}");
        }
    }
    before.stands(&world).await?;

    // What each may do they can do.
    assert_eq!(c.call("orders", &orders, json!({ "action": "list" })).await?.ok()["data"].as_array().unwrap().len(), 1);
    c.call("orders", &all, json!({ "action": "get", "orderId": order })).await?.ok();
    assert_eq!(c.call("addPoints", &all, gift()).await?.ok()["points"], 105);
    c.call_service("closeExpiredOrders", json!({})).await?.ok();
    world.finish().await
}

#[tokio::test]
async fn blocked_and_unknown_users_are_turned_away() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let demo = c.login("demo").await?;
    let order = c.call("submitOrder", &demo, order_of("p-apple", 1)).await?.text("orderId");
    let before = snapshot(&world).await?;
    let issue = |id: &str| {
        let id = domain::OpenId::parse(id).unwrap();
        world.app.issue_user_token(&id, None, world.app.clock.now()).map(|(token, _)| token)
    };
    let answer = c.call("login", "", json!({ "code": "dev-blocked" })).await?;
    answer.refused(403, "USER_BLOCKED");
    assert!(!answer.body.to_string().contains("token"), "{answer:?}");
    let blocked = issue("o-blocked")?;
    let ghost = issue("o-ghost")?;
    for (name, event) in user_calls(&order) {
        // A number alone tells nothing and binds nobody; everything else asks who it is.
        if name == "generateOrderId" {
            continue;
        }
        let answer = c.call(name, &blocked, event.clone()).await?;
        assert_eq!((answer.status, answer.code()), (403, "USER_BLOCKED"), "{name} {event}");
        let answer = c.call(name, &ghost, event.clone()).await?;
        assert_eq!((answer.status, answer.code()), (401, "UNAUTHENTICATED"), "{name} {event}");
    }
    // Nor does the CRM get them in.
    let mut event = order_of("p-apple", 1);
    event["openId"] = json!("o-blocked");
    c.call_service("submitOrder", event.clone()).await?.refused(403, "USER_BLOCKED");
    before.stands(&world).await?;
    world.finish().await
}

#[tokio::test]
async fn a_service_that_names_nobody_is_not_itself_unknown() -> anyhow::Result<()> {
    let world = World::start().await?;
    let before = snapshot(&world).await?;
    let mut order = order_of("p-apple", 1);
    order["openId"] = json!("o-nobody");
    let mut points = gift();
    points["openId"] = json!("o-nobody");
    // "Sign in first" would send the CRM looking for a fault in its signature.
    for (name, event) in
        [("submitOrder", order), ("addPoints", points), ("getUserPoints", json!({ "openId": "o-nobody" }))]
    {
        let answer = world.client.call_service(name, event).await?;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{name}: {answer:?}");
    }
    before.stands(&world).await?;
    world.finish().await
}

#[tokio::test]
async fn a_service_signature_holds_for_one_request_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    // A clock that stands, so that the edges of the window can be met to the second.
    let now = world.app.clock.now().timestamp();
    let clock = Clock::standing_at(chrono::DateTime::from_timestamp(now, 0).unwrap());
    let mut config = world.app.config.clone();
    let key = |id: &str, scopes: &[&str]| ServiceKey {
        id: id.to_owned(),
        secret: format!("{id}-secret-0123456789").into(),
        scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
    };
    config.service_keys.extend([key("points-only", &["points"]), key("nothing", &[])]);
    let (one, two) = (instance(config.clone(), clock.clone()).await?, instance(config, clock).await?);
    let before = snapshot(&world).await?;
    let base = Signed::new(now, "/addPoints", &gift());
    let fresh = || Signed { nonce: wechat_nonce(), ..base.clone() };

    let mut refused: Vec<(&str, Answer)> = Vec::new();
    for (what, signed) in [
        ("wrong secret", Signed { secret: "local-crm-secret-".to_owned(), ..fresh() }),
        ("empty secret", Signed { secret: String::new(), ..fresh() }),
        ("unknown key", Signed { key: "local-crm2".to_owned(), ..fresh() }),
        ("another's key", Signed { key: "points-only".to_owned(), ..fresh() }),
        ("empty key", Signed { key: String::new(), ..fresh() }),
        ("signed as GET", Signed { method: "GET", ..fresh() }),
        ("signed as post", Signed { method: "post", ..fresh() }),
        ("signed as an event", Signed { method: "EVENT", ..fresh() }),
        ("301 s old", Signed { at: now - 301, ..fresh() }),
        ("301 s ahead", Signed { at: now + 301, ..fresh() }),
        ("in milliseconds", Signed { at: now * 1000, ..fresh() }),
        ("before 1970", Signed { at: -1, ..fresh() }),
        ("short nonce", Signed { nonce: "n".repeat(15), ..fresh() }),
        ("long nonce", Signed { nonce: "n".repeat(65), ..fresh() }),
        ("nonce of other letters", Signed { nonce: "nonce nonce nonce".to_owned(), ..fresh() }),
        ("nonce with an operator", Signed { nonce: "{\"$gt\":\"\"}______".to_owned(), ..fresh() }),
    ] {
        refused.push((what, signed.send(&one).await?));
    }
    let signed = fresh();
    let other = gift().to_string().replace('5', "9");
    refused.push(("altered body", signed.send_as(&one, "/addPoints", &other, &signed.headers()).await?));
    let spaced = format!("{} ", signed.body);
    refused.push(("body with a space", signed.send_as(&one, "/addPoints", &spaced, &signed.headers()).await?));
    let elsewhere = Signed { path: "/products".to_owned(), ..fresh() };
    refused
        .push(("signed for products", elsewhere.send_as(&one, "/addPoints", &base.body, &elsewhere.headers()).await?));
    let elsewhere = Signed { path: "/v1/functions/addPoints".to_owned(), ..fresh() };
    refused.push(("signed for v1", elsewhere.send_as(&one, "/addPoints", &base.body, &elsewhere.headers()).await?));
    let elsewhere = Signed { path: "/addPoints?x=1".to_owned(), ..fresh() };
    refused.push((
        "signed with the query",
        elsewhere.send_as(&one, "/addPoints?x=1", &base.body, &elsewhere.headers()).await?,
    ));
    for missing in 0..4 {
        let signed = fresh();
        let mut headers = signed.headers();
        headers.remove(missing);
        refused.push(("a header missing", signed.send_as(&one, "/addPoints", &signed.body, &headers).await?));
        let mut headers = signed.headers();
        headers[missing].1.clear();
        refused.push(("a header empty", signed.send_as(&one, "/addPoints", &signed.body, &headers).await?));
        let mut headers = signed.headers();
        headers.push(headers[missing].clone());
        refused.push(("a header twice", signed.send_as(&one, "/addPoints", &signed.body, &headers).await?));
    }
    let signed = fresh();
    let mut headers = signed.headers();
    headers[3].1.make_ascii_uppercase();
    refused.push(("upper-case hex", signed.send_as(&one, "/addPoints", &signed.body, &headers).await?));
    for (what, answer) in &refused {
        assert_eq!((answer.status, answer.code()), (401, "SIGNATURE_INVALID"), "{what}: {answer:?}");
        assert_eq!(answer.body["retryable"], false, "{what}");
    }
    // Every reason to distrust a key reads the same.
    let message = |what: &str| refused.iter().find(|r| r.0 == what).map(|r| r.1.text("message"));
    assert_eq!(message("wrong secret"), message("unknown key"));

    // A right signature does not open what its key has no scope for.
    let by = |key: &str, path: &str, event: &Value| Signed {
        key: key.to_owned(),
        secret: format!("{key}-secret-0123456789"),
        ..Signed::new(now, path, event)
    };
    let mut order = order_of("p-apple", 1);
    order["openId"] = json!("o-demo");
    for (key, path, event) in [
        ("points-only", "/submitOrder", &order),
        ("points-only", "/generateOrderId", &json!({})),
        ("points-only", "/closeExpiredOrders", &json!({})),
        ("points-only", "/wxPay", &json!({ "orderId": "20260101000000000AAAAAAAA" })),
        ("points-only", "/orders", &json!({ "action": "list" })),
        ("nothing", "/addPoints", &gift()),
        ("nothing", "/getUserPoints", &json!({ "openId": "o-demo" })),
    ] {
        by(key, path, event).send(&one).await?.refused(403, "FORBIDDEN");
    }
    before.stands(&world).await?;
    // None of them cost the store a nonce: a forger cannot fill it, nor burn one of somebody else's.
    assert!(world.store.peek("nonces", 10).await?.is_empty());

    // Exactly on the edge it holds; used once, it is used up for every instance, in both orders.
    for at in [now - 300, now + 300] {
        let signed = Signed { at, ..fresh() };
        signed.send(&one).await?.ok();
        for instance in [&one, &two] {
            signed.send(instance).await?.refused(401, "SIGNATURE_INVALID");
        }
    }
    let signed = fresh();
    let (a, b) = tokio::join!(signed.send(&one), signed.send(&two));
    let mut codes = [a?.code().to_owned(), b?.code().to_owned()];
    codes.sort_unstable();
    assert_eq!(codes, ["", "SIGNATURE_INVALID"]);
    // A nonce that only forgeries carried is free; the query is no part of what is signed.
    let signed = fresh();
    Signed { secret: "x".to_owned(), ..signed.clone() }.send(&one).await?.refused(401, "SIGNATURE_INVALID");
    signed.send_as(&one, "/addPoints?trace=1", &signed.body, &signed.headers()).await?.ok();
    let v1 = Signed { path: "/v1/functions/addPoints".to_owned(), ..fresh() };
    v1.send(&two).await?.ok();
    by("points-only", "/addPoints", &gift()).send(&two).await?.ok();
    let points = by("points-only", "/getUserPoints", &json!({ "openId": "o-demo" })).send(&one).await?;
    assert_eq!(points.ok()["points"], 100 + 6 * 5);
    // Two identities in one request are refused, whichever is the better one.
    let session = world.client.login("demo").await?;
    let signed = fresh();
    let mut headers = signed.headers();
    headers.push(("x-app-session", session));
    signed.send_as(&one, "/addPoints", &signed.body, &headers).await?.refused(401, "UNAUTHENTICATED");
    world.finish().await
}

#[tokio::test]
async fn the_crm_is_let_in_by_its_own_clock_after_the_local_one_was_moved() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.client.advance(7200).await?.ok();
    // Signed with the machine's time, as a client that knows nothing of the moved clock does.
    assert_eq!(world.client.call_service("addPoints", gift()).await?.ok()["points"], 105);
    // And with the functions' time.
    let signed = Signed::new(world.app.clock.now().timestamp(), "/addPoints", &gift());
    assert_eq!(signed.send(&world.client).await?.ok()["points"], 110);
    signed.send(&world.client).await?.refused(401, "SIGNATURE_INVALID");
    world.finish().await
}

/// A call of `/admin` as the official server SDK makes it, with room to do it wrong.
struct Tc3 {
    secret_id: String,
    secret_key: String,
    at: i64,
    expires: String,
    query: String,
    signed_params: &'static str,
    body: Value,
}

impl Tc3 {
    fn new(at: i64, function: &str, event: &Value) -> Self {
        Self {
            secret_id: local::TC3_SECRET_ID.to_owned(),
            secret_key: local::TC3_SECRET_KEY.to_owned(),
            at,
            expires: "600".to_owned(),
            query: "env=jinlu-local&seqId=1a1fcdfea05_1".to_owned(),
            signed_params: "action;envname;function_name;request_data",
            body: json!({
                "action": "functions.invokeFunction", "function_name": function, "request_data": event.to_string(),
                "envName": "jinlu-local", "wxCloudApiToken": "", "tcb_sessionToken": "",
            }),
        }
    }

    fn headers(&self, client: &Client) -> Vec<(&'static str, String)> {
        let host = client.base.trim_start_matches("http://");
        let date = chrono::DateTime::from_timestamp(self.at, 0).unwrap().format("%Y-%m-%d").to_string();
        let mut hash = Sha256::new();
        let lower: std::collections::BTreeMap<String, &Value> =
            self.body.as_object().unwrap().iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        for name in self.signed_params.split(';') {
            let value = lower[name];
            let text = value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_owned());
            hash.update(format!("&{name}={text}\r\n"));
        }
        let names = "content-type;host;x-sdk-version";
        let canonical = format!(
            "post\n//{host}/admin\n{}\ncontent-type:application/json\nhost:{host}\nx-sdk-version:tcb-node-sdk/3.18.3\n\n{names}\n{}",
            self.query,
            hex::encode(hash.finalize()),
        );
        let scope = format!("{date}/tcb/tc3_request");
        let to_sign =
            format!("TC3-HMAC-SHA256\n{}\n{scope}\n{}", self.at, hex::encode(Sha256::digest(canonical.as_bytes())));
        let key = hmac256(format!("TC3{}", self.secret_key).as_bytes(), &date);
        let key = hmac256(&hmac256(&key, "tcb"), "tc3_request");
        let signature = hex::encode(hmac256(&key, &to_sign));
        let (id, params) = (&self.secret_id, self.signed_params);
        vec![
            ("x-sdk-version", "tcb-node-sdk/3.18.3".to_owned()),
            ("x-signature-expires", self.expires.clone()),
            ("x-timestamp", self.at.to_string()),
            (
                "authorization",
                format!(
                    "TC3-HMAC-SHA256 Credential={id}/{scope}, SignedParams={params}, SignedHeaders={names}, Signature={signature}"
                ),
            ),
        ]
    }

    async fn send(&self, client: &Client) -> anyhow::Result<Answer> {
        self.send_as(client, &self.query, &self.body, &self.headers(client)).await
    }

    async fn send_as(
        &self,
        client: &Client,
        query: &str,
        body: &Value,
        headers: &[(&'static str, String)],
    ) -> anyhow::Result<Answer> {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.post(&format!("/admin?{query}"), &headers, body.to_string()).await
    }
}

#[tokio::test]
async fn the_admin_route_takes_only_what_its_key_pair_signed() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let now = world.app.clock.now().timestamp();
    let base = || Tc3::new(now, "addPoints", &gift());
    let session = c.login("demo").await?;
    let before = snapshot(&world).await?;
    let mut refused = Vec::new();
    for (what, call) in [
        ("wrong secret", Tc3 { secret_key: "local-secret-kex".to_owned(), ..base() }),
        ("empty secret", Tc3 { secret_key: String::new(), ..base() }),
        ("unknown id", Tc3 { secret_id: "AKIDother".to_owned(), ..base() }),
        ("ten minutes old", Tc3 { at: now - 610, ..base() }),
        ("from the future", Tc3 { at: now + 400, ..base() }),
        ("old, the window stretched", Tc3 { at: now - 700, expires: "86400".to_owned(), ..base() }),
        ("window of no length", Tc3 { expires: "0".to_owned(), ..base() }),
        ("yesterday", Tc3 { at: now - 86_400, expires: "999999".to_owned(), ..base() }),
    ] {
        refused.push((what, call.send(c).await?));
    }
    let call = base();
    let headers = call.headers(c);
    let mut body = call.body.clone();
    body["request_data"] = json!(gift().to_string().replace('5', "9"));
    refused.push(("tampered event", call.send_as(c, &call.query, &body, &headers).await?));
    let mut body = call.body.clone();
    body["function_name"] = json!("deliverOutbox");
    refused.push(("tampered function", call.send_as(c, &call.query, &body, &headers).await?));
    let query = "env=jinlu-local&seqId=1a1fcdfea05_2";
    refused.push(("tampered query", call.send_as(c, query, &call.body, &headers).await?));
    for missing in ["authorization", "x-timestamp", "x-signature-expires"] {
        let headers: Vec<_> = headers.iter().filter(|(name, _)| *name != missing).cloned().collect();
        refused.push((missing, call.send_as(c, &call.query, &call.body, &headers).await?));
    }
    let mut shouted = call.body.clone();
    shouted["REQUEST_DATA"] = json!("{}");
    refused.push(("a parameter in two cases", call.send_as(c, &call.query, &shouted, &headers).await?));
    let bearer = [("authorization", format!("Bearer {session}")), ("x-app-session", session)];
    refused.push(("a user's session", call.send_as(c, &call.query, &call.body, &bearer).await?));
    for (what, answer) in refused {
        let body = unwrapped(&answer);
        assert_eq!(body["code"], "SIGN_PARAM_INVALID", "{what}: {answer:?}");
        assert!(body.get("data").is_none(), "{what}: {answer:?}");
        // The secret's own words do not come back.
        assert!(!body.to_string().contains("Signature="), "{what}: {answer:?}");
    }
    // What was not signed does not count: the event is as good as empty.
    let unsigned = Tc3 { signed_params: "action;envname;function_name", ..base() };
    let answer = unwrapped(&unsigned.send(c).await?);
    assert_eq!((&answer["success"], &answer["code"]), (&json!(false), &json!("INVALID_ARGUMENT")), "{answer}");
    let other = Tc3 { query: "env=prod-1a2b3c".to_owned(), ..base() };
    assert_eq!(unwrapped(&other.send(c).await?)["code"], "INVALID_ENV");
    // The service is no user.
    let pay = Tc3::new(now, "wxPay", &json!({ "orderId": "20260101000000000AAAAAAAA" }));
    assert_eq!(unwrapped(&pay.send(c).await?)["code"], "FORBIDDEN");
    before.stands(&world).await?;

    let answer = unwrapped(&base().send(c).await?);
    assert_eq!((&answer["success"], &answer["points"]), (&json!(true), &json!(105)), "{answer}");
    // A refusal of the function is a result, not a failure of the transport.
    let spend = json!({ "openId": "o-demo", "points": 999, "type": "spend", "reason": "x" });
    let answer = unwrapped(&Tc3::new(now, "addPoints", &spend).send(c).await?);
    assert_eq!((&answer["success"], &answer["code"]), (&json!(false), &json!("POINTS_INSUFFICIENT")));
    // Without a key pair nobody gets in, whatever they sign.
    let deployed = instance(world.app.config.clone(), world.app.clock.clone()).await?;
    let call = Tc3 { query: "env=prod-1a2b3c".to_owned(), ..base() };
    assert_eq!(unwrapped(&call.send(&deployed).await?)["code"], "SIGN_PARAM_INVALID");
    world.finish().await
}

#[tokio::test]
async fn the_web_route_knows_nobody_without_a_token() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let call = async |function: &str, event: Value, token: Option<&str>| {
        let mut body = json!({
            "action": "functions.invokeFunction", "env": "jinlu-local", "function_name": function,
            "request_data": event.to_string(), "dataVersion": "2020-01-10",
        });
        if let Some(token) = token {
            body["access_token"] = json!(token);
        }
        anyhow::Ok(unwrapped(&c.post("/web?env=jinlu-local", &[], body.to_string()).await?))
    };
    let signed_in = call("login", json!({ "code": "dev-demo" }), None).await?;
    assert_eq!(signed_in["success"], true, "{signed_in}");
    let demo = signed_in["token"].as_str().unwrap().to_owned();
    let order = c.call("submitOrder", &demo, order_of("p-apple", 1)).await?.text("orderId");
    let before = snapshot(&world).await?;
    let now = world.app.clock.now().timestamp();
    let claims = json!({ "kind": "user", "sub": "o-demo", "iat": now, "exp": now + 60 });
    let forged = token(&json!({ "alg": "HS256", "kid": "local" }), &claims, "forged-forged-forged-forged-forged");
    let none = token(&json!({ "alg": "none", "kid": "local" }), &claims, "");
    // A token of the platform's own anonymous sign-in is no credential of ours.
    for token in [None, Some(""), Some("local-anonymous"), Some(forged.as_str()), Some(none.as_str()), Some("a.b.c")] {
        for (name, event) in user_calls(&order).into_iter().chain([("addPoints", gift())]) {
            let answer = call(name, event, token).await?;
            assert_eq!(
                (&answer["success"], &answer["code"]),
                (&json!(false), &json!("UNAUTHENTICATED")),
                "{token:?} {name}"
            );
        }
    }
    assert_eq!(call("addPoints", gift(), Some(&demo)).await?["code"], "FORBIDDEN");
    // Credentials in headers mean nothing here, where anybody's page may set them.
    let body = json!({
        "action": "functions.invokeFunction", "env": "jinlu-local", "function_name": "getUserPoints", "request_data": "{}",
    });
    let headers = [("x-app-session", demo.as_str()), ("x-wx-openid", "o-demo"), ("x-wx-source", "x")];
    let answer = unwrapped(&c.post("/web?env=jinlu-local", &headers, body.to_string()).await?);
    assert_eq!(answer["code"], "UNAUTHENTICATED");
    before.stands(&world).await?;
    let made = call("submitOrder", order_of("p-apple", 1), Some(&demo)).await?;
    assert_eq!(made["success"], true, "{made}");
    world.finish().await
}

#[tokio::test]
async fn a_signed_event_counts_once_and_an_unsigned_one_is_nobodys() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let call = async |function: &str, event: &Value| {
        let path = format!("/tcb/invokecloudfunction?access_token=any&env=jinlu-local&name={function}");
        let answer = c.post(&path, &[], event.to_string()).await?;
        anyhow::ensure!(answer.body["errcode"] == 0, "{answer:?}");
        anyhow::Ok(unwrapped(&answer))
    };
    let now = world.app.clock.now().timestamp();
    let event = |function: &str, method: &'static str, secret: &str, payload: &Value| {
        let signed = Signed { method, secret: secret.to_owned(), ..Signed::new(now, &format!("/{function}"), payload) };
        let headers = signed.headers();
        json!({
            "key": signed.key, "timestamp": signed.at, "nonce": signed.nonce, "payload": signed.body, "signature": headers[3].1,
        })
    };
    let secret = local::SERVICE_SECRET;
    let before = snapshot(&world).await?;
    // Unsigned it is anonymous: enough for the catalogue, and for nothing else.
    assert_eq!(call("products", &json!({})).await?["success"], true);
    for (name, input) in user_calls("20260101000000000AAAAAAAA").into_iter().chain([("addPoints", gift())]) {
        assert_eq!(call(name, &input).await?["code"], "UNAUTHENTICATED", "{name}");
    }
    let mut wrong = vec![
        ("another secret", event("addPoints", "EVENT", "local-crm-secret-", &gift())),
        ("signed as a request", event("addPoints", "POST", secret, &gift())),
        ("signed for another function", event("products", "EVENT", secret, &gift())),
    ];
    let good = event("addPoints", "EVENT", secret, &gift());
    for (what, field, value) in [
        ("tampered payload", "payload", json!(gift().to_string().replace('5', "9"))),
        ("payload as an object", "payload", gift()),
        ("another time", "timestamp", json!(now - 1)),
        ("another nonce", "nonce", json!(wechat_nonce())),
        ("another key", "key", json!("other")),
        ("no key", "key", Value::Null),
        ("no signature", "signature", json!("")),
        ("an operator as key", "key", json!({ "$gt": "" })),
    ] {
        let mut event = good.clone();
        event[field] = value;
        wrong.push((what, event));
    }
    for (what, event) in wrong {
        let answer = call("addPoints", &event).await?;
        assert_eq!(
            (&answer["success"], &answer["code"]),
            (&json!(false), &json!("SIGNATURE_INVALID")),
            "{what}: {answer}"
        );
    }
    // Fields beside the payload are not signed and do not count.
    let mut beside = event("addPoints", "EVENT", secret, &json!({}));
    for (name, value) in gift().as_object().unwrap() {
        beside[name.as_str()] = value.clone();
    }
    assert_eq!(call("addPoints", &beside).await?["code"], "INVALID_ARGUMENT");
    before.stands(&world).await?;

    let answer = call("addPoints", &good).await?;
    assert_eq!((&answer["success"], &answer["points"]), (&json!(true), &json!(105)), "{answer}");
    assert_eq!(call("addPoints", &good).await?["code"], "SIGNATURE_INVALID");
    // The nonce is used up for the other ways in, too.
    let mut again = Signed::new(now, "/addPoints", &gift());
    again.nonce = good["nonce"].as_str().unwrap().to_owned();
    again.send(c).await?.refused(401, "SIGNATURE_INVALID");
    assert_eq!(c.call("getUserPoints", &c.login("demo").await?, json!({})).await?.ok()["points"], 105);
    // The plain route has headers: there such an event is only a body.
    let fresh = event("addPoints", "EVENT", secret, &gift());
    c.post("/addPoints", &[], fresh.to_string()).await?.refused(401, "UNAUTHENTICATED");
    world.finish().await
}
