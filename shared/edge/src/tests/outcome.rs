//! What goes out: envelopes, statuses, and what must stay inside.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use domain::{Code, Failure, Refusal};
use tokio::sync::Notify;

use super::*;
use crate::{RawReply, RawRequest, status};

const ANYONE: &[Accept] = &[Accept::Anonymous];

fn answering(result: fn() -> Result<Reply, Failure>) -> Function {
    Function::new("answers", move |_: Context, _: Nothing| async move { result() }).accepts(ANYONE)
}

async fn answer(function: &Function) -> Answer {
    call(&app(), function, http("/"), &[], "").await
}

#[tokio::test]
async fn a_success_has_its_fields_and_the_trace() {
    let fresh = answering(|| Reply::of(&json!({ "orderId": "1", "message": "好" })));
    let got = answer(&fresh).await;
    assert_eq!(got.status, 200);
    assert_eq!(got.body, Some(json!({ "success": true, "orderId": "1", "message": "好", "requestId": "trace-0001" })));
    let repeat = answering(|| Ok(Reply::replayed(json!({ "orderId": "1" }))));
    let expected = json!({ "success": true, "orderId": "1", "requestId": "trace-0001", "replayed": true });
    assert_eq!(answer(&repeat).await.body, Some(expected));
    let unit = answering(|| Reply::of(&()));
    assert_eq!(answer(&unit).await.body, Some(json!({ "success": true, "requestId": "trace-0001" })));
}

#[tokio::test]
async fn a_refusal_has_exactly_its_fields() {
    let plain = answering(|| Err(Code::PrepaidInsufficient.into()));
    let got = answer(&plain).await;
    assert_eq!(got.status, 422);
    let expected = json!({
        "success": false, "code": "PREPAID_INSUFFICIENT", "message": "预存余额不足", "requestId": "trace-0001", "retryable": false
    });
    assert_eq!(got.body, Some(expected));
    let limited = answering(|| Err(Refusal::new(Code::RateLimited).detail("retryAfterSeconds", 60).into()));
    let got = answer(&limited).await;
    assert_eq!(got.status, 429);
    assert_eq!(body(&got)["retryable"], true);
    assert_eq!(body(&got)["details"], json!({ "retryAfterSeconds": 60 }));
}

#[tokio::test]
async fn causes_stay_inside() {
    let cases: [(Function, u16, &str, bool); 6] = [
        (answering(|| Err(Failure::Internal("mongodb://root:password@db".into()))), 500, "INTERNAL", false),
        (answering(|| Err(Failure::Unavailable("mongodb://root:password@db".into()))), 503, "UNAVAILABLE", true),
        (answering(|| Err(Failure::Upstream("mongodb://root:password@db".into()))), 502, "UPSTREAM_ERROR", true),
        (answering(|| Err(Failure::Timeout)), 504, "TIMEOUT", true),
        (answering(|| Err(Refusal::new(Code::Internal).with_message("password").into())), 500, "INTERNAL", false),
        (
            answering(|| Err(Refusal::new(Code::UpstreamError).detail("url", "password").into())),
            502,
            "UPSTREAM_ERROR",
            true,
        ),
    ];
    for (function, status, expected, retryable) in cases {
        let got = answer(&function).await;
        assert_eq!((got.status, code(&got)), (status, expected));
        assert_eq!(body(&got)["retryable"], retryable);
        assert!(body(&got).get("details").is_none());
        assert!(!body(&got).to_string().contains("password"));
    }
}

#[tokio::test]
async fn a_reply_that_would_look_like_an_error_is_a_bug() {
    let bad: [fn() -> Result<Reply, Failure>; 6] = [
        || Reply::of(&json!({ "code": 0 })),
        || Reply::of(&json!({ "success": true })),
        || Reply::of(&json!({ "requestId": "x" })),
        || Reply::of(&json!({ "replayed": false })),
        || Reply::of(&json!([1])),
        || Ok(Reply::replayed(json!("text"))),
    ];
    for result in bad {
        let got = answer(&answering(result)).await;
        assert_eq!((got.status, code(&got)), (500, "INTERNAL"));
    }
}

#[test]
fn every_code_has_the_published_status() {
    for code in Code::ALL {
        assert!((400..=504).contains(&status(*code)), "{}", code.as_str());
        assert_eq!(status(*code) >= 500 || *code == Code::RateLimited, code.retryable() || *code == Code::Internal);
    }
    let table = [
        (Code::InvalidJson, 400),
        (Code::SessionExpired, 401),
        (Code::UserBlocked, 403),
        (Code::OrderNotFound, 404),
        (Code::OutOfStock, 409),
        (Code::PayloadTooLarge, 413),
        (Code::PointsInsufficient, 422),
        (Code::RateLimited, 429),
    ];
    for (code, expected) in table {
        assert_eq!(status(code), expected);
    }
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_call_over_its_time_is_dropped_and_answered() {
    let dropped = Arc::new(AtomicBool::new(false));
    let watch = Arc::clone(&dropped);
    let function = Function::new("hangs", move |_: Context, _: Nothing| {
        let guard = SetOnDrop(Arc::clone(&watch));
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Reply::of(&())
        }
    })
    .accepts(ANYONE)
    .timeout(Duration::from_millis(20));
    let got = answer(&function).await;
    assert_eq!((got.status, code(&got)), (504, "TIMEOUT"));
    assert_eq!(body(&got)["retryable"], true);
    assert!(dropped.load(Ordering::SeqCst), "the handler must not go on after the answer");
}

#[tokio::test]
async fn a_panic_is_one_callers_trouble() {
    let app = app_with(Config { max_concurrent: 1, ..config() });
    let later = Function::new("panics", async |_: Context, _: Nothing| -> Result<Reply, Failure> { panic!("boom") });
    let at_once = Function::new("panics", |_: Context, _: Nothing| -> std::future::Ready<Result<Reply, Failure>> {
        panic!("boom")
    });
    for function in [later.accepts(ANYONE), at_once.accepts(ANYONE)] {
        let got = call(&app, &function, http("/"), &[], "").await;
        assert_eq!((got.status, code(&got)), (500, "INTERNAL"));
    }
    // Its slot is free again.
    assert_eq!(call(&app, &whoami(ANYONE), http("/"), &[], "").await.status, 200);
}

#[tokio::test]
async fn one_call_too_many_is_sent_away() {
    let app = app_with(Config { max_concurrent: 2, ..config() });
    let (go, running) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (wait, count) = (Arc::clone(&go), Arc::clone(&running));
    let function = Function::new("waits", move |_: Context, _: Nothing| {
        let (wait, count) = (Arc::clone(&wait), Arc::clone(&count));
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            wait.notified().await;
            Reply::of(&())
        }
    })
    .accepts(ANYONE);
    let start = || {
        let (app, function) = (Arc::clone(&app), function.clone());
        tokio::spawn(async move { call(&app, &function, http("/"), &[], "").await })
    };
    let (first, second) = (start(), start());
    while running.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    let third = call(&app, &function, http("/"), &[], "").await;
    assert_eq!((third.status, code(&third)), (503, "UNAVAILABLE"));
    // A client that hangs up does not stop its call.
    first.abort();
    assert!(first.await.is_err());
    assert_eq!(code(&call(&app, &function, http("/"), &[], "").await), "UNAVAILABLE");
    go.notify_waiters();
    assert_eq!(second.await.unwrap().status, 200);
    app.idle().await;
    assert_eq!(call(&app, &whoami(ANYONE), http("/"), &[], "").await.status, 200);
}

#[tokio::test]
async fn a_raw_function_sees_the_request_and_answers_as_it_likes() {
    let function = Function::raw("payCallback", async |context: Context, request: RawRequest| {
        assert_eq!(format!("{:?}", context.caller), "Provider");
        assert!(request.headers.get("wechatpay-serial").is_some());
        assert!(request.headers.keys().all(|name| !name.as_str().starts_with("x-scf-")));
        match request.body.as_ref() {
            b"good" => Ok(RawReply { status: 204, body: None }),
            b"bad" => Err(Refusal::new(Code::SignatureInvalid).into()),
            _ => Err(Failure::Unavailable("secret".into())),
        }
    })
    .accepts(&[Accept::Provider]);
    let app = app();
    let pairs = [("wechatpay-serial", "x"), ("x-scf-secret-key", "s"), ("X-Scf-Session-Token", "s")];
    let good = call(&app, &function, http("/payCallback"), &pairs, "good").await;
    assert_eq!((good.status, good.body), (204, None));
    let bad = call(&app, &function, http("/payCallback"), &pairs, "bad").await;
    assert_eq!((bad.status, bad.body), (401, Some(json!({ "code": "FAIL", "message": "签名无效" }))));
    let busy = call(&app, &function, http("/payCallback"), &pairs, "busy").await;
    assert_eq!((busy.status, busy.body), (503, Some(json!({ "code": "FAIL", "message": "服务繁忙，请稍后再试" }))));
    let long = call(&app, &function, http("/payCallback"), &pairs, "x".repeat(102_401)).await;
    assert_eq!((long.status, code(&long)), (413, "FAIL"));
}

#[tokio::test]
async fn the_trace_id_is_the_gateways_if_usable() {
    let function = answering(|| Reply::of(&()));
    let app = app();
    let trace = async |pairs: &[(&str, &str)]| {
        let invocation = Invocation { proof: http("/"), headers: headers(pairs), body: Bytes::new(), trace_id: None };
        let answer = invoke(&app, &function, invocation).await;
        assert_eq!(body(&answer)["requestId"], answer.trace_id);
        answer.trace_id
    };
    assert_eq!(trace(&[("x-request-id", "abc-1234")]).await, "abc-1234");
    assert_eq!(trace(&[("x-request-id", "no good"), ("x-scf-request-id", "scf-1234")]).await, "scf-1234");
    let made = trace(&[("x-request-id", "\"><script>")]).await;
    assert_eq!(made.len(), 32);
    assert_ne!(made, trace(&[]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_may_outlive_its_call_but_not_the_process() {
    let (app, ended) = (app(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&ended);
    let slow = Function::new("slow", move |ctx: Context, _: Nothing| {
        let count = Arc::clone(&count);
        async move {
            let quick = ctx.outlive(Duration::from_secs(5), async { 1 }).await;
            let panicked: Option<()> = ctx.outlive(Duration::from_secs(5), async { panic!("a bug") }).await;
            let late = async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                count.fetch_add(1, Ordering::SeqCst)
            };
            let late = ctx.outlive(Duration::from_millis(1), late).await;
            Reply::of(&json!({ "quick": quick, "panicked": panicked.is_none(), "late": late }))
        }
    })
    .accepts(ANYONE);
    let got = call(&app, &slow, http("/"), &[], "").await;
    assert_eq!((&body(&got)["quick"], &body(&got)["panicked"]), (&json!(1), &json!(true)), "{got:?}");
    assert_eq!(body(&got)["late"], Value::Null);
    app.idle().await;
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}
