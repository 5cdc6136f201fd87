//! Checks of text: what is asked, and what the answers mean.

use serde_json::json;

use super::open::{TOKEN_PATH, client, text_plain, token_answer};
use super::*;
use crate::content::{Scene, Suggestion, TEXT_MAX, Written};
use crate::open::Error;

const GOOD: Written<'_> =
    Written { openid: "o-alice", scene: Scene::Comment, content: "很甜", nickname: Some("小明") };

async fn answering(answer: Value) -> Server {
    Server::start(move |seen, _| match seen.target.as_str() {
        TOKEN_PATH => token_answer("T1"),
        _ => text_plain(answer.clone()),
    })
    .await
}

#[tokio::test]
async fn a_text_is_asked_about_as_documented() {
    for (suggest, suggestion) in [
        ("pass", Suggestion::Pass),
        ("review", Suggestion::Review),
        ("risky", Suggestion::Risky),
        ("something new", Suggestion::Review),
    ] {
        let answer = json!({ "errcode": 0, "errmsg": "ok", "result": { "suggest": suggest, "label": 100 } });
        let server = answering(answer).await;
        assert_eq!(client(&server.url, &Clock::new()).check_text(&GOOD).await.unwrap(), suggestion);
        assert_eq!(server.seen()[1].target, "/wxa/msg_sec_check?access_token=T1");
        let sent: Value = serde_json::from_str(&server.seen()[1].body).unwrap();
        let wanted = json!({ "version": 2, "openid": "o-alice", "scene": 2, "content": "很甜", "nickname": "小明" });
        assert_eq!(sent, wanted);
    }
}

#[tokio::test]
async fn an_answer_without_a_verdict_is_no_pass() {
    for (answer, code) in [
        (json!({ "errcode": 61010, "errmsg": "code is expired" }), Some(61010)),
        (json!({ "errcode": 0, "errmsg": "ok" }), None),
        (json!({ "errcode": 0, "result": { "label": 100 } }), None),
    ] {
        let server = answering(answer).await;
        let error = client(&server.url, &Clock::new()).check_text(&GOOD).await.unwrap_err();
        assert_eq!(error.errcode(), code, "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_checked_is_not_sent() {
    let client = client(&closed_port().await, &Clock::new());
    let long = "字".repeat(TEXT_MAX + 1);
    for content in ["", &long] {
        let error = client.check_text(&Written { content, ..GOOD }).await.unwrap_err();
        assert!(matches!(error, Error::Misuse(_)), "{error}");
    }
}
