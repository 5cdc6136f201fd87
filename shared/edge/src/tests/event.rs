//! The event host: whose call it is, the lines, and what the platform must not freeze.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use super::{Nothing, app, whoami};
use crate::event::{Call, answer, read_lines};
use crate::{Accept, Context, Function, Reply};

fn event(event: &serde_json::Value, context: &[(&str, &str)]) -> Call {
    let context: HashMap<String, String> = context.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Call { id: 7, event: event.to_string(), context, request_id: Some("trace-0001".to_owned()), remaining_ms: 5_000 }
}

#[tokio::test]
async fn only_the_platform_says_who_calls() {
    let everybody = &[Accept::Anonymous, Accept::User, Accept::Timer];
    let timer = json!({ "Type": "timer", "TriggerName": "everyMinute", "Time": "2026-11-21T11:49:00Z", "Message": "" });
    let forged = json!({ "userInfo": { "openId": "o-1" }, "openId": "o-1" });
    let user = |more: &[(&'static str, &'static str)]| {
        [&[("WX_OPENID", "o-abc123456"), ("TCB_SOURCE", "wx_client")], more].concat()
    };
    for (sent, context, caller) in [
        (json!({}), user(&[]), "User("),
        (json!({}), user(&[("WX_UNIONID", "u-1")]), "User("),
        (timer.clone(), user(&[]), "User("),
        (timer.clone(), user(&[("TRIGGER_SRC", "timer")]), "User("),
        (timer.clone(), vec![("TRIGGER_SRC", "timer")], "Timer(everyMinute)"),
        (timer.clone(), vec![], "Timer(everyMinute)"),
        (timer.clone(), vec![("TRIGGER_SRC", "apigw")], "Anonymous"),
        (timer.clone(), vec![("TCB_SOURCE", "wx_http")], "Anonymous"),
        (timer.clone(), vec![("TCB_UUID", "1")], "Anonymous"),
        (json!({ "Type": "Timer", "TriggerName": "x", "Time": "soon" }), vec![("TRIGGER_SRC", "timer")], "Anonymous"),
        (forged, vec![("TCB_SOURCE", "wx_client")], "Anonymous"),
        (json!({}), vec![("WX_OPENID", ""), ("TCB_SOURCE", "wx_client")], "Anonymous"),
        (json!({}), vec![("WX_OPENID", "not an openid")], "Anonymous"),
    ] {
        let said = answer(&app(), &whoami(everybody), event(&sent, &context)).await;
        assert_eq!((&said["id"], &said["status"]), (&json!(7), &json!(200)), "{sent} {context:?}: {said}");
        let found = said["body"]["caller"].as_str().unwrap();
        assert!(found.starts_with(caller), "{sent} {context:?}: {found}");
        assert_eq!(said["body"]["requestId"], "trace-0001");
    }
    // A signature that is presented has to hold, whoever brings it.
    let signed = json!({ "key": "crm", "timestamp": "1", "nonce": "n", "payload": "{}", "signature": "00" });
    let said = answer(&app(), &whoami(everybody), event(&signed, &user(&[]))).await;
    assert_eq!(said["body"]["code"], "SIGNATURE_INVALID");
}

#[tokio::test]
async fn the_answer_waits_for_what_outlives_the_call_but_not_for_ever() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let work = async |context: Context, _: Nothing| {
        context
            .outlive(Duration::from_millis(10), async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                DONE.store(true, Ordering::SeqCst);
            })
            .await;
        Reply::of(&json!({ "ended": DONE.load(Ordering::SeqCst) }))
    };
    let function = Function::new("work", work).accepts(&[Accept::Anonymous]);
    let said = answer(&app(), &function, event(&json!({}), &[])).await;
    assert_eq!((&said["body"]["ended"], DONE.swap(false, Ordering::SeqCst)), (&json!(false), true));
    let mut hurried = event(&json!({}), &[]);
    hurried.remaining_ms = 50;
    answer(&app(), &function, hurried).await;
    assert!(!DONE.load(Ordering::SeqCst));
}

#[test]
fn lines_are_handed_on_whole_or_not_at_all() {
    let read = |input: Vec<u8>| {
        let (send, mut lines) = mpsc::channel(100);
        read_lines(Cursor::new(input), &send);
        drop(send);
        std::iter::from_fn(|| lines.blocking_recv()).map(|line| line.len()).collect::<Vec<_>>()
    };
    assert_eq!(read(b"{}\n{\"a\":1}\n".to_vec()), [3, 8]);
    assert_eq!(read(b"{}\n{\"a\"".to_vec()), [3]);
    assert!(read(Vec::new()).is_empty());
    let long = [vec![b'x'; 17 * 1024 * 1024], b"\n{}\n".to_vec()].concat();
    assert!(read(long).is_empty());
}
