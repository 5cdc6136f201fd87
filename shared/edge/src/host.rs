//! The hosts: what stands between a socket (or a Lambda runtime) and [`crate::invoke`].

use std::convert::Infallible;
use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use bytes::{Bytes, BytesMut};
use domain::{Code, Refusal};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::app::App;
use crate::caller::Proof;
use crate::clock::Clock;
use crate::config::{self, Config, HostKind};
use crate::event;
use crate::function::{Function, Need};
use crate::input::BODY_BYTES_MAX;
use crate::invoke::{Answer, Invocation, invoke, trace_id_of};
use crate::logs;

/// The platform lets 4 KB through; a self-hosted server may stand behind something more generous.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// Also how long an idle connection is kept.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(20);
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a body that is too long this much is read and thrown away, so that the client gets to see the answer.
const BODY_DRAIN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The platform allows a process 1024 file descriptors.
const CONNECTIONS_MAX: usize = 900;
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Hosted {
    app: Arc<App>,
    function: Function,
}

/// The HTTP host's routes for one function: `POST` on any path calls it, `GET /healthz` tells whether it can serve.
pub fn router(app: Arc<App>, function: Function) -> Router {
    Router::new().route("/healthz", get(health).fallback(call)).fallback(call).with_state(Hosted { app, function })
}

async fn call(State(hosted): State<Hosted>, request: Request) -> Response {
    let Hosted { app, function } = hosted;
    let (parts, body) = request.into_parts();
    let trace_id = trace_id_of(&parts.headers);
    if parts.method != Method::POST {
        let refusal = Refusal::invalid("method", "只支持 POST");
        let mut answer = Answer::refused_for(&function, &refusal, trace_id);
        answer.status = StatusCode::METHOD_NOT_ALLOWED.as_u16();
        let mut response = http_response(answer);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(refusal) => {
            tracing::info!(function = function.name(), trace_id, code = refusal.code.as_str(), "refused");
            return http_response(Answer::refused_for(&function, &refusal, trace_id));
        }
    };
    let proof = Proof::Http {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
    };
    let invocation = Invocation { proof, headers: parts.headers, body, trace_id: Some(trace_id) };
    http_response(invoke(&app, &function, invocation).await)
}

/// Read a request body of at most [`BODY_BYTES_MAX`]. Fails with `PAYLOAD_TOO_LARGE`, `TIMEOUT` (it came too slowly)
/// or `INVALID_JSON` (it broke off).
pub async fn read_body(mut body: Body) -> Result<Bytes, Refusal> {
    let read = async {
        let mut kept = BytesMut::new();
        let mut seen = 0_usize;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::new(Code::InvalidJson))?;
            let Ok(data) = frame.into_data() else { continue };
            seen = seen.saturating_add(data.len());
            if seen <= BODY_BYTES_MAX {
                kept.extend_from_slice(&data);
            } else if seen > BODY_DRAIN_BYTES_MAX {
                break;
            }
        }
        if seen > BODY_BYTES_MAX {
            return Err(Refusal::new(Code::PayloadTooLarge));
        }
        Ok(kept.freeze())
    };
    match tokio::time::timeout(BODY_READ_TIMEOUT, read).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::new(Code::Timeout).with_message("请求内容接收超时")),
    }
}

/// An answer as an HTTP response, with the trace id in `x-request-id`.
pub fn http_response(answer: Answer) -> Response {
    let Answer { status, body, trace_id } = answer;
    let (kind, body) = match body {
        None => (None, Body::empty()),
        Some(Value::String(xml)) => (Some("text/xml; charset=utf-8"), Body::from(xml)),
        Some(json) => (Some("application/json"), Body::from(json.to_string())),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Some(kind) = kind {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if let Ok(trace_id) = HeaderValue::try_from(trace_id) {
        headers.insert("x-request-id", trace_id);
    }
    response
}

async fn health(State(hosted): State<Hosted>) -> Response {
    let needs_store = hosted.function.all_needs().contains(&Need::Store);
    let serves = !needs_store || store_answers(&hosted.app).await;
    let (status, text) = if serves { (200, "ok") } else { (503, "unavailable") };
    http_response(Answer {
        status,
        body: Some(json!({ "status": text })),
        trace_id: trace_id_of(&http::HeaderMap::new()),
    })
}

/// Whether the database answers in time to call the process healthy.
pub async fn store_answers(app: &App) -> bool {
    matches!(tokio::time::timeout(HEALTH_TIMEOUT, app.store().ping()).await, Ok(Ok(())))
}

/// Serve a router until `shutdown` resolves, then let running requests finish for at most `drain`.
///
/// Slow or oversized headers end a connection, and connections beyond 900 wait in the kernel's queue.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>, drain: Duration) {
    let (stop, stopped) = watch::channel(());
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _peer)) => {
                let (router, mut stopped) = (router.clone(), stopped.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    connection(stream, router, &mut stopped).await;
                });
            }
            Err(error) => {
                // Out of descriptors, most likely. Others will be given back soon; spinning would not help.
                tracing::warn!(error = %error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // Keep the set from growing with every connection that ever was.
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    drop(stop);
    let all_done = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all_done).await.is_err() {
        tracing::warn!("stopped with requests still running");
    }
}

async fn connection(stream: TcpStream, router: Router, stopped: &mut watch::Receiver<()>) {
    // Replies are small and complete; waiting to fill a packet only costs time. A socket that refuses still works.
    stream.set_nodelay(true).ok();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_header_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        // The sender is dropped on shutdown, which ends this wait.
        _ = stopped.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "connection ended");
    }
}

/// A wait for SIGTERM or Ctrl-C. The signals are caught from this call on, before the wait is polled.
/// Fails where the process may not catch signals.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// A mistake in how the program was started, as opposed to one while running.
const EXIT_USAGE: u8 = 2;

/// The whole `main` of a function: read the environment, choose the host, serve until told to stop.
pub fn run(function: Function) -> ExitCode {
    let started = Instant::now();
    match std::env::args().nth(1).as_deref() {
        Some("--help" | "-h") => return print(&help(&function)),
        Some("--version" | "-V") => return print(&format!("{} {}\n", function.name(), env!("CARGO_PKG_VERSION"))),
        Some("--schema") => return print(&format!("{:#}\n", function.input_schema())),
        Some(other) => return complain(&format!("unknown argument {other}; try --help")),
        None => {}
    }
    let host = match config::host_kind() {
        // Whoever sends a provider's notice wants an HTTP answer, and signs what an event does not have.
        Ok(HostKind::Event) if function.is_raw() => {
            return complain("JINLU_HOST=event: this function answers a provider over HTTP; leave JINLU_HOST out");
        }
        Ok(host) => host,
        Err(error) => return complain(&error.to_string()),
    };
    let config = match Config::from_env(&function.all_needs()) {
        Ok(config) => config,
        Err(error) => return complain(&error.to_string()),
    };
    match host {
        HostKind::Event => logs::init_on_stderr(config.log_level),
        HostKind::Http | HostKind::Lambda => logs::init(config.log_level),
    }
    logs::log_panics();
    let app = match App::new(config, Clock::system()) {
        Ok(app) => app,
        Err(error) => return complain(&logs::chain(&error)),
    };
    // One worker would do for the load; the second keeps health checks answering beside a busy one.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let served = match host {
        HostKind::Lambda => runtime.block_on(serve_lambda(app, function)),
        HostKind::Http => runtime.block_on(serve_http(app, function, started)),
        HostKind::Event => runtime.block_on(serve_events(app, function, started)),
    };
    // Whatever still hangs after the drain is cut off here.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

async fn serve_http(app: Arc<App>, function: Function, started: Instant) -> Result<(), domain::BoxError> {
    let port = app.config.port;
    // Before listening: a signal may come right after the first answer.
    let shutdown = shutdown_signal()?;
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let elapsed_ms = logs::millis(started.elapsed());
    tracing::info!(function = function.name(), port, elapsed_ms, "listening");
    let drain = function.time_limit();
    let routes = router(Arc::clone(&app), function.clone());
    serve(listener, routes, shutdown, drain).await;
    // A call outlives a client that hung up; let it finish too.
    let idle = tokio::time::timeout(drain, app.idle()).await.is_ok();
    tracing::info!(function = function.name(), idle, "stopped");
    Ok(())
}

async fn serve_events(app: Arc<App>, function: Function, started: Instant) -> Result<(), domain::BoxError> {
    tracing::info!(function = function.name(), elapsed_ms = logs::millis(started.elapsed()), "listening for events");
    let drain = function.time_limit();
    event::serve(app, function, drain).await?;
    Ok(())
}

async fn serve_lambda(app: Arc<App>, function: Function) -> Result<(), domain::BoxError> {
    let routes = router(app, function);
    let service = lambda_http::service_fn(move |request: lambda_http::Request| {
        let routes = routes.clone();
        async move { tower::ServiceExt::oneshot(routes, request).await }
    });
    lambda_http::run::<_, _, Infallible>(service).await
}

fn help(function: &Function) -> String {
    let needs = function.all_needs();
    let mut text = format!("{} – {}\n\n", function.name(), function.summary_text());
    text.push_str("A cloud function. Serves POST / and GET /healthz on 0.0.0.0:${PORT:-9000},\n");
    text.push_str("the Lambda runtime where AWS_LAMBDA_RUNTIME_API is set, or with JINLU_HOST=event the Node shim\n");
    text.push_str("that started it, over standard input and output. Stops on SIGTERM, or when its input ends.\n\n");
    text.push_str("  --schema    print the JSON Schema of the input\n  --version   print the version\n\n");
    text.push_str("Environment (* = this function does not start without it):\n");
    for (need, name, what) in config::VARIABLES {
        // WeChat Pay signs for an appid too, which is why it alone is listed under two needs.
        let needed =
            need.is_some_and(|need| needs.contains(&need)) || (*name == "WECHAT_APPID" && needs.contains(&Need::Pay));
        let mark = if needed { '*' } else { ' ' };
        text.push_str(&format!("  {mark} {name:<24}{what}\n"));
    }
    text
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(what: &str) -> ExitCode {
    // There is nowhere left to report a broken standard error to.
    writeln!(std::io::stderr(), "error: {what}").ok();
    ExitCode::from(EXIT_USAGE)
}

fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    tracing::error!(error = logs::chain(error), "could not serve");
    ExitCode::FAILURE
}
