//! The routes, with toy functions in place of the shop's. No database: nothing here needs a nonce or a lease.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use domain::{Code, Event, OpenId, Refusal};
use edge::config::{SessionSecret, local};
use edge::{Accept, Caller, Clock, Config, Context, Function, Need, Reply};
use http::{Request, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

#[derive(Deserialize, JsonSchema)]
struct Echo {
    #[serde(default)]
    text: String,
}

async fn echo(context: Context, input: Echo) -> Result<Reply, domain::Failure> {
    let who = match &context.caller {
        Caller::User { open_id, .. } => open_id.as_str().to_owned(),
        Caller::Service { key_id, scopes } => format!("{key_id} {scopes:?}"),
        other => other.kind().to_owned(),
    };
    Reply::of(&json!({ "text": input.text, "who": who }))
}

async fn refuse(_: Context, _: Echo) -> Result<Reply, domain::Failure> {
    Err(Refusal::new(Code::OutOfStock).into())
}

async fn tick(context: Context, _: Echo) -> Result<Reply, domain::Failure> {
    match context.caller {
        Caller::Timer { trigger, time } => Reply::of(&json!({ "trigger": trigger, "time": time })),
        _ => Err(Code::Forbidden.into()),
    }
}

fn gateway() -> Gateway {
    let session = SessionSecret { id: "k1".to_owned(), secret: local::SESSION_SECRET.into() };
    let config = Config { local: true, session_secrets: vec![session], ..Config::default() };
    let clock = Clock::standing_at("2026-11-21T10:00:00Z".parse().unwrap());
    let app = App::new(config, clock).unwrap();
    let functions = vec![
        Function::new("echo", echo).accepts(&[Accept::Anonymous]),
        Function::new("members", echo).accepts(&[Accept::User, Accept::Service("points")]),
        Function::new("refuse", refuse).accepts(&[Accept::Anonymous]),
        Function::new("tick", tick).accepts(&[Accept::Timer]),
    ];
    let timers = vec![Timer::new("tick", "everyMinute", "5 * * * * * *").unwrap()];
    let tc3 = Tc3Key { secret_id: local::TC3_SECRET_ID.to_owned(), secret_key: local::TC3_SECRET_KEY.to_owned() };
    let facts = Local {
        url: String::new(),
        data_dir: String::new(),
        database: String::new(),
        timers_run: false,
        clock_file: None,
    };
    Gateway::new(
        app,
        functions,
        timers,
        Options { env_id: "jinlu-local".to_owned(), tc3: Some(tc3), local: Some(facts) },
    )
}

fn token(gateway: &Gateway) -> String {
    let app = &gateway.inner.app;
    app.issue_user_token(&OpenId::parse("o-alice").unwrap(), None, app.clock.now()).unwrap().0
}

async fn send(gateway: &Gateway, method: &str, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut request = Request::builder().method(method).uri(uri).header("host", "127.0.0.1:8900");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let router = gateway.router().nest("/sim/control", gateway.control_router());
    router.oneshot(request.body(body.into()).unwrap()).await.unwrap()
}

async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn post(gateway: &Gateway, uri: &str, body: &str) -> (u16, Value) {
    read(send(gateway, "POST", uri, &[("content-type", "application/json")], body.to_owned()).await).await
}

#[tokio::test]
async fn the_plain_route_answers_with_the_result_itself() {
    let gateway = gateway();
    let (status, body) = post(&gateway, "/echo", r#"{"text":"你好"}"#).await;
    assert_eq!((status, &body["text"], &body["success"]), (200, &json!("你好"), &json!(true)));
    let (status, body) = post(&gateway, "/refuse", "{}").await;
    assert_eq!((status, &body["code"]), (409, &json!("OUT_OF_STOCK")));
    let (status, body) = post(&gateway, "/nothing", "{}").await;
    assert_eq!((status, &body["code"], &body["success"]), (404, &json!("FUNCTION_NOT_FOUND"), &json!(false)));
    let (status, body) = post(&gateway, "/echo", &format!(r#"{{"text":"{}"}}"#, "x".repeat(100 * 1024))).await;
    assert_eq!((status, &body["code"]), (413, &json!("PAYLOAD_TOO_LARGE")));

    let response = send(&gateway, "GET", "/echo", &[], "").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "POST");
}

#[tokio::test]
async fn the_clients_request_id_comes_back() {
    let gateway = gateway();
    let id = [("x-request-id", "1aba7615-46cc-4af3-8dfe-b8f8cbbc589a")];
    let response = send(&gateway, "POST", "/v1/functions/echo", &id, "{}").await;
    assert_eq!(response.headers()["x-request-id"], id[0].1);
    assert_eq!(read(response).await.1["requestId"], id[0].1);
}

#[tokio::test]
async fn the_http_api_takes_a_session_and_passes_over_tokens_of_the_platform() {
    let gateway = gateway();
    let ours = format!("Bearer {}", token(&gateway));
    let call = async |function: &str, bearer: &str| {
        read(send(&gateway, "POST", &format!("/v1/functions/{function}"), &[("authorization", bearer)], "{}").await)
            .await
    };
    assert_eq!(call("members", &ours).await.1["who"], "o-alice");
    assert_eq!(call("echo", "Bearer eyJ.publishable.key").await.1["who"], "anonymous");
    assert_eq!(call("members", "Bearer eyJ.publishable.key").await.1["code"], "UNAUTHENTICATED");
    // One that claims to be ours and is not stays a forgery.
    let forged = format!("{}x", ours);
    assert_eq!(call("echo", &forged).await.0, 401);
}

#[tokio::test]
async fn web_wraps_results_and_refusals_and_keeps_errors_for_itself() {
    let gateway = gateway();
    let call = async |function: &str, extra: Value| {
        let mut body = json!({ "action": "functions.invokeFunction", "function_name": function, "request_data": "{\"text\":\"a\"}", "env": "jinlu-local" });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        post(&gateway, "/web?env=jinlu-local", &body.to_string()).await
    };
    let result =
        |body: &Value| -> Value { serde_json::from_str(body["data"]["response_data"].as_str().unwrap()).unwrap() };

    let (status, body) = call("echo", json!({})).await;
    assert_eq!((status, &result(&body)["who"]), (200, &json!("anonymous")));
    assert_eq!(body["requestId"], result(&body)["requestId"]);
    let (_, body) = call("members", json!({ "access_token": token(&gateway) })).await;
    assert_eq!(result(&body)["who"], "o-alice");
    let (status, body) = call("refuse", json!({})).await;
    assert_eq!(
        (status, &result(&body)["success"], &result(&body)["code"]),
        (200, &json!(false), &json!("OUT_OF_STOCK"))
    );
    let (_, body) = call("echo", json!({ "parse": true })).await;
    assert_eq!(body["data"]["response_data"]["text"], "a");

    for (extra, code) in [
        (json!({ "function_name": "nothing" }), "FUNCTION_NOT_FOUND"),
        (json!({ "env": "other" }), "INVALID_ENV"),
        (json!({ "action": "database.getDocument" }), "INVALID_PARAM"),
    ] {
        let (status, body) = call("echo", extra).await;
        assert_eq!((status, &body["code"]), (200, &json!(code)));
        assert!(body["requestId"].is_string() && body["message"].is_string());
    }
}

#[tokio::test]
async fn admin_refuses_what_is_not_signed() {
    let gateway = gateway();
    let body = r#"{"action":"functions.invokeFunction","function_name":"echo","envName":"jinlu-local"}"#;
    let (status, body) = post(&gateway, "/admin?env=jinlu-local", body).await;
    assert_eq!((status, &body["code"]), (200, &json!("SIGN_PARAM_INVALID")));
    assert!(body["data"].is_null());
}

#[tokio::test]
async fn wechat_gets_errcodes() {
    let gateway = gateway();
    let (status, body) =
        post(&gateway, "/tcb/invokecloudfunction?access_token=t&env=jinlu-local&name=echo", r#"{"text":"a"}"#).await;
    let result: Value = serde_json::from_str(body["resp_data"].as_str().unwrap()).unwrap();
    assert_eq!((status, &body["errcode"], &result["who"]), (200, &json!(0), &json!("anonymous")));
    for (query, errcode) in [
        ("env=jinlu-local&name=echo", 41001),
        ("access_token=t&env=jinlu-local", 40101),
        ("access_token=t&env=other&name=echo", -501005),
        ("access_token=t&env=jinlu-local&name=nothing", -501000),
    ] {
        let (status, body) = post(&gateway, &format!("/tcb/invokecloudfunction?{query}"), "{}").await;
        assert_eq!((status, &body["errcode"]), (200, &json!(errcode)), "{query}");
    }
}

#[tokio::test]
async fn browsers_of_other_origins_may_call_functions_but_not_the_page() {
    let gateway = gateway();
    let preflight = [("origin", "http://localhost:5173"), ("access-control-request-method", "POST")];
    let response = send(&gateway, "OPTIONS", "/v1/functions/echo", &preflight, "").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(response.headers()["access-control-allow-origin"], "http://localhost:5173");
    assert!(response.headers()["access-control-allow-headers"].to_str().unwrap().contains("x-app-session"));

    let foreign = [("origin", "http://evil.example"), ("content-type", "application/json")];
    for uri in ["/local/invoke", "/sim/control/clock"] {
        let response = send(&gateway, "POST", uri, &foreign, "{}").await;
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{uri}");
        let response = send(&gateway, "OPTIONS", uri, &preflight, "").await;
        assert!(!response.headers().contains_key("access-control-allow-origin"), "{uri}");
    }
    let response = send(&gateway, "POST", "/local/invoke", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    // A name that somebody else pointed to 127.0.0.1.
    let request = Request::get("/local/state").header("host", "evil.example:8900").body(Body::empty()).unwrap();
    assert_eq!(gateway.router().oneshot(request).await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_page_has_a_policy_and_its_state_names_every_function() {
    let gateway = gateway();
    let response = send(&gateway, "GET", "/", &[], "").await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let page = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let page = std::str::from_utf8(&page).unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(page.contains(&format!("<script nonce=\"{nonce}\">")) && !page.contains("{{nonce}}"));

    post(&gateway, "/echo", r#"{"text":"secret words"}"#).await;
    let (_, state) = read(send(&gateway, "GET", "/local/state", &[], "").await).await;
    let names: Vec<&str> =
        state["functions"].as_array().unwrap().iter().map(|function| function["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["echo", "members", "refuse", "tick"]);
    assert_eq!(state["timers"][0]["next"], "2026-11-21T10:00:05Z");
    assert_eq!((&state["calls"][0]["function"], &state["calls"][0]["via"]), (&json!("echo"), &json!("http")));
    assert!(!state.to_string().contains("secret words"));
}

#[tokio::test]
async fn the_clock_moves_and_a_timer_can_be_fired() {
    let gateway = gateway();
    let (_, body) = post(&gateway, "/sim/control/clock", r#"{"advanceSeconds":3600}"#).await;
    assert_eq!((&body["now"], &body["offsetSeconds"]), (&json!("2026-11-21T11:00:00.000Z"), &json!(3600)));
    for body in [r#"{"advanceSeconds":-1}"#, r#"{"advanceSeconds":99999999999}"#, "{}"] {
        assert_eq!(post(&gateway, "/sim/control/clock", body).await.0, 400, "{body}");
    }
    let (status, body) = post(&gateway, "/sim/control/timers", r#"{"name":"tick"}"#).await;
    assert_eq!((status, &body["trigger"], &body["time"]), (200, &json!("everyMinute"), &json!("2026-11-21T11:00:00Z")));
    let (status, body) = post(&gateway, "/sim/control/timers", r#"{"name":"echo"}"#).await;
    assert_eq!((status, &body["details"]["timers"]), (404, &json!(["tick"])));
    assert!(gateway.timer_statuses()[0].last.is_some());
}

#[tokio::test]
async fn the_page_calls_as_whom_it_is_told() {
    let gateway = gateway();
    let token = token(&gateway);
    let call = async |body: Value| post(&gateway, "/local/invoke", &body.to_string()).await;
    assert_eq!(call(json!({ "function": "members", "as": "user", "token": token })).await.1["who"], "o-alice");
    assert_eq!(call(json!({ "function": "members", "as": "service" })).await.1["who"], r#"local-crm ["*"]"#);
    assert_eq!(call(json!({ "function": "members", "as": "anonymous" })).await.0, 401);
    assert_eq!(call(json!({ "function": "tick", "as": "timer" })).await.0, 200);
    assert_eq!(call(json!({ "function": "nothing", "as": "anonymous" })).await.0, 404);
    assert_eq!(call(json!({ "function": "members", "as": "root" })).await.0, 400);
}

#[test]
fn a_moved_clock_leaves_the_clients_time_valid() {
    let gateway = gateway();
    let before = gateway.inner.app.clock.client_times();
    gateway.advance_clock(Duration::from_secs(86_400)).unwrap();
    assert_eq!((before.len(), gateway.inner.app.clock.client_times().len()), (1, 2));
    assert!(gateway.inner.app.clock.client_times().contains(&before[0]));
}

#[test]
fn the_platform_file_deploys_every_function_with_what_it_needs() {
    let file: Value = serde_json::from_str(include_str!("../../../cloudbaserc.json")).unwrap();
    let entries = file["functions"].as_array().unwrap();
    let routes = file["gateway"]["routes"].as_array().unwrap();
    assert_eq!(entries.len(), functions().len());
    for function in functions() {
        let name = function.name();
        let entry =
            entries.iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("{name} is not deployed"));
        let variables = entry["envVariables"].as_object().unwrap();
        for need in function.all_needs() {
            let wanted: &[&str] = match need {
                Need::Store => &["MONGODB_URI"],
                Need::Session => &["SESSION_SECRETS"],
                Need::OpenApi => &["WECHAT_APPID", "WECHAT_SECRET"],
                Need::Sms => &["SMS_SECRET_ID", "SMS_SECRET_KEY", "SMS_APP_ID", "SMS_SIGN", "SMS_TEMPLATE_ID"],
                // Optional, and so are its variables.
                Need::Texts => &[],
                Need::VerifyCodes => &["VERIFY_CODE_SECRET"],
                Need::FieldKeys => &["FIELD_KEYS"],
                Need::IndexKeys => &["INDEX_KEYS"],
                // Its one variable has a default.
                Need::Drand => &[],
                Need::Pay => &[
                    "WECHAT_APPID",
                    "WXPAY_MCHID",
                    "WXPAY_SERIAL_NO",
                    "WXPAY_PRIVATE_KEY",
                    "WXPAY_API_V3_KEY",
                    "WXPAY_PUBLIC_KEYS",
                    "WXPAY_NOTIFY_URL",
                ],
            };
            for variable in wanted {
                assert_eq!(variables[*variable], format!("{{{{env.{variable}}}}}"), "{name}");
            }
        }
        assert!(
            entry["timeout"].as_u64().unwrap() >= function.time_limit().as_secs(),
            "{name} is cut off by the platform"
        );
        // Functions with timers must be of the event type, and only the others can have a route.
        let has_timer = function.callers().contains(&Accept::Timer);
        assert_eq!(entry["type"], if has_timer { "Event" } else { "HTTP" }, "{name}");
        assert_eq!(entry["triggers"].is_array(), has_timer, "{name}");
        let routed = routes.iter().any(|route| route["target"] == format!("function:{name}"));
        assert_eq!(routed, !has_timer, "{name}");
    }
}

/// What a shop that uses everything has in these variables: two of each key, as while one is being replaced.
fn realistic(variable: &str) -> String {
    let text = |length: usize| "x".repeat(length);
    let list = |count: usize, entry: String| format!("[{}]", vec![entry; count].join(","));
    let secret = |id: &str, more: &str| format!(r#"{{"id":"{id}","secret":"{}"{more}}}"#, text(64));
    match variable {
        "MONGODB_URI" => text(160),
        "SESSION_SECRETS" => list(2, secret("k1", "")),
        "SERVICE_KEYS" => list(2, secret("crm", r#","scopes":["notify","points","prepaid","orders"]"#)),
        "FIELD_KEYS" | "INDEX_KEYS" => list(2, format!(r#"{{"id":"f1","key":"{}"}}"#, text(44))),
        "WECHAT_APPID" => text(18),
        "WECHAT_SECRET" | "WXPAY_API_V3_KEY" => text(32),
        "WXPAY_MCHID" => text(10),
        "WXPAY_SERIAL_NO" => text(40),
        // Base64 of keys of 2048 bits, without the lines around it.
        "WXPAY_PRIVATE_KEY" => text(1624),
        "WXPAY_PUBLIC_KEYS" => list(2, format!(r#"{{"serial":"PUB_KEY_ID_{}","pem":"{}"}}"#, text(34), text(392))),
        "WXPAY_NOTIFY_URL" => text(60),
        "WECHAT_TEMPLATES" => {
            let fields = "thing1=products,amount2=amount,time3=time,thing4=status";
            list(7, format!(r#"{{"name":"orderShipped","id":"{}","fields":"{fields}"}}"#, text(43)))
        }
        "WECHAT_TELLS" => Event::ALL.map(Event::as_str).join(","),
        "WECHAT_SHIPPING_REPORT" => text(3),
        "WXPAY_API_V2_KEY" => text(32),
        "REFUND_DAYS" | "AUTO_COMPLETE_DAYS" => text(2),
        "COUPON_RETURN" => text(3),
        "KUAIDI100_CUSTOMER" => text(32),
        "KUAIDI100_KEY" => text(16),
        "KUAIDI100_CALLBACK_URL" => text(64),
        "KUAIDI100_SALT" => text(129),
        "KUAIDI100_FOLLOW" => text(1),
        "VERIFY_CODE_SECRET" => text(64),
        "SMS_SECRET_ID" | "SMS_SECRET_KEY" => text(36),
        "SMS_APP_ID" | "SMS_SIGN" | "SMS_TEMPLATE_ID" => text(12),
        other => panic!("{other} has no realistic value"),
    }
}

/// The platform takes 4 KB of names and values per function.
#[test]
fn the_platform_file_fits_into_what_the_platform_takes() {
    let file: Value = serde_json::from_str(include_str!("../../../cloudbaserc.json")).unwrap();
    for entry in file["functions"].as_array().unwrap() {
        let variables = entry["envVariables"].as_object().unwrap();
        let bytes: usize = variables.keys().map(|name| name.len() + realistic(name).len()).sum();
        assert!(bytes < 4096, "{}: {bytes} bytes", entry["name"]);
    }
}

#[test]
fn the_platform_file_says_what_is_told_to_whom_it_concerns() {
    let file: Value = serde_json::from_str(include_str!("../../../cloudbaserc.json")).unwrap();
    let having = |variable: &str| -> Vec<&str> {
        let entries = file["functions"].as_array().unwrap().iter();
        entries
            .filter(|entry| entry["envVariables"][variable] == format!("{{{{env.{variable}}}}}"))
            .map(|entry| entry["name"].as_str().unwrap())
            .collect()
    };
    // Those that cause messages about orders and deliver none.
    assert_eq!(
        having("WECHAT_TELLS"),
        [
            "submitOrder",
            "wxPay",
            "payCallback",
            "orders",
            "logistics",
            "logisticsCallback",
            "batchUpdateOrders",
            "refunds",
            "pointsMall",
            "exceptions",
            "closeExpiredOrders",
            "reconcilePayments",
            "reconcileBill",
            "followParcels",
        ]
    );
    // Those that deliver, or look for whom a template has permission.
    assert_eq!(
        having("WECHAT_TEMPLATES"),
        ["notifyAssignment", "subscriptions", "lotteryDraw", "expireCoins", "deliverOutbox"]
    );
}
