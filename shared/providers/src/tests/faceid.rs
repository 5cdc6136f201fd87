//! The identity check against a server that answers by script.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use domain::id_card::{IdNumber, RealName};

use crate::Secret;
use crate::faceid::{Checked, Config, FaceIdError, TencentFaceId, Verdict};

const NUMBER: &str = "11010519491231002X";

async fn asked(answer: &'static str) -> Result<Checked, FaceIdError> {
    let handler = move |headers: HeaderMap, body: Bytes| async move {
        assert_eq!(headers["x-tc-action"], "IdCardVerification");
        assert_eq!(headers["x-tc-version"], "2018-03-01");
        assert!(!headers.contains_key("x-tc-region"), "the service has no regions");
        assert_eq!(body, format!(r#"{{"IdCard":"{NUMBER}","Name":"张三"}}"#));
        answer
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/sim/faceid", listener.local_addr().unwrap());
    let app = axum::Router::new().route("/sim/faceid", post(handler));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let config = Config {
        base_url,
        secret_id: "id".to_owned(),
        secret_key: Secret::new("key"),
        timeout: Duration::from_secs(2),
        now: Arc::new(|| "2026-11-21T08:00:00Z".parse().unwrap()),
    };
    let number = IdNumber::parse(NUMBER, "2026-11-21".parse().unwrap()).unwrap();
    TencentFaceId::new(config).unwrap().check(&RealName::parse("张三").unwrap(), &number).await
}

#[tokio::test]
async fn only_zero_is_a_match() {
    for (answer, wanted) in [
        (r#"{"Response":{"Result":"0","Description":"x","RequestId":"r-1"}}"#, Verdict::Match),
        (r#"{"Response":{"Result":"-1","Description":"x","RequestId":"r-1"}}"#, Verdict::Mismatch),
        (r#"{"Response":{"Result":"-5","Description":"x","RequestId":"r-1"}}"#, Verdict::NoRecord),
    ] {
        let checked = asked(answer).await.unwrap();
        assert_eq!((checked.verdict, checked.request_id.as_str()), (wanted, "r-1"), "{answer}");
    }
}

#[tokio::test]
async fn everything_else_is_unknown_and_quotes_nothing() {
    for (answer, kind) in [
        (r#"{"Response":{"Result":"-2","RequestId":"r"}}"#, "malformed (-2"),
        (r#"{"Response":{"Result":"-3","RequestId":"r"}}"#, "malformed (-3"),
        (r#"{"Response":{"Result":"-4","RequestId":"r"}}"#, "cannot answer now"),
        (r#"{"Response":{"Result":"-6","RequestId":"r"}}"#, "cannot answer now"),
        (r#"{"Response":{"Result":"-7","RequestId":"r"}}"#, "too often"),
        (r#"{"Response":{"Result":"00","RequestId":"r"}}"#, "failed (00"),
        (r#"{"Response":{"Result":0,"RequestId":"r"}}"#, "not the envelope"),
        (r#"{"Response":{"RequestId":"r"}}"#, "not the envelope"),
        (
            r#"{"Response":{"Result":"0","Error":{"Code":"InternalError","Message":"张三"},"RequestId":"r"}}"#,
            "failed (Int",
        ),
        (r#"{"Response":{"Error":{"Code":"AuthFailure.SignatureFailure"},"RequestId":"r"}}"#, "configuration"),
        (r#"{"Response":{"Error":{"Code":"RequestLimitExceeded"},"RequestId":"r"}}"#, "cannot answer now"),
        ("<html>", "not the envelope"),
    ] {
        let error = asked(answer).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(kind) && !text.contains("张三") && !text.contains(NUMBER), "{answer}: {text}");
        assert_eq!(error.is_configuration(), kind == "configuration");
    }
}
