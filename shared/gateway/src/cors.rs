//! Cross-origin answers for the local cloud, where a page under development is served from another port.
//!
//! There are no cookies anywhere, so what a foreign origin can read here it could have asked for itself.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// What the platform's browser SDKs send, and our own credentials.
const ALLOWED_HEADERS: &str = "authorization,content-type,x-request-id,x-sdk-version,x-device-id,x-seqid,x-tcb-webfn,x-client-timestamp,x-tcb-source,x-tcb-region,x-app-session,x-jinlu-key,x-jinlu-timestamp,x-jinlu-nonce,x-jinlu-signature";
const ALLOWED_METHODS: &str = "GET,POST,PUT,PATCH,DELETE,OPTIONS";

pub(crate) fn layer(router: Router) -> Router {
    router.layer(middleware::from_fn(answer))
}

async fn answer(request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else {
        return next.run(request).await;
    };
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight { preflight() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    set(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, "x-request-id");
    response
}

fn preflight() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    set(headers, header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
    set(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
    set(headers, header::ACCESS_CONTROL_MAX_AGE, "600");
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}
