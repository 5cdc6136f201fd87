//! The HTTP host over a real socket.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::{Need, host, router};

struct Server {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

async fn server(function: Function) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        stopped.await.ok();
    };
    let serving = tokio::spawn(host::serve(listener, router(app(), function), shutdown, Duration::from_secs(5)));
    Server { port, stop: Some(stop), serving }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// Send a text and read until the server closes.
    async fn exchange(&self, text: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(text).await.unwrap();
        read_all(stream).await
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        self.exchange(text.as_bytes()).await
    }
}

async fn read_all(mut stream: TcpStream) -> String {
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.ok();
    String::from_utf8(reply).unwrap()
}

fn json_of(reply: &str) -> Value {
    serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn every_path_is_the_function() {
    let server = server(whoami(&[Accept::Anonymous])).await;
    for path in ["/", "/whoami", "/whoami/sub/path?q=1", "/healthz"] {
        let reply = server.post(path, "x-request-id: trace-0002\r\n", "{}").await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{path}: {reply}");
        assert!(reply.contains("content-type: application/json\r\n"), "{reply}");
        assert!(reply.contains("x-request-id: trace-0002\r\n"), "{reply}");
        let expected = json!({ "success": true, "caller": "Anonymous", "requestId": "trace-0002" });
        assert_eq!(json_of(&reply), expected);
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let reply = server
            .exchange(format!("{method} /whoami HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await;
        assert!(reply.starts_with("HTTP/1.1 405"), "{reply}");
        assert!(reply.contains("allow: POST\r\n"), "{reply}");
        assert_eq!(json_of(&reply)["success"], false);
    }
}

#[tokio::test]
async fn refusals_keep_their_status_and_no_header_comes_back() {
    let server = server(whoami(&[Accept::User])).await;
    let reply = server.post("/", "x-scf-secret-key: topsecret\r\nx-app-session: topsecret\r\n", "{}").await;
    assert!(reply.starts_with("HTTP/1.1 401"), "{reply}");
    assert_eq!(json_of(&reply)["code"], "UNAUTHENTICATED");
    assert!(!reply.contains("topsecret"), "{reply}");
}

#[tokio::test]
async fn too_long_a_body_gets_its_answer() {
    let server = server(whoami(&[Accept::Anonymous])).await;
    let reply = server.post("/", "", &"x".repeat(1_000_000)).await;
    assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
    assert_eq!(json_of(&reply)["code"], "PAYLOAD_TOO_LARGE");
    // In chunks, so that no length warns of it.
    let chunk = "x".repeat(60_000);
    let text = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{0:x}\r\n{1}\r\n{0:x}\r\n{1}\r\n0\r\n\r\n",
        chunk.len(),
        chunk
    );
    let reply = server.exchange(text.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
}

#[tokio::test]
async fn oversized_headers_end_the_connection() {
    let server = server(whoami(&[Accept::Anonymous])).await;
    let reply = server.post("/", &format!("x-a: {}\r\n", "a".repeat(8_000)), "{}").await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let reply = server.post("/", &format!("x-a: {}\r\n", "a".repeat(20_000)), "{}").await;
    assert!(!reply.contains(" 200 "), "{reply}");
    let many: String = (0..150).map(|n| format!("x-{n}: 1\r\n")).collect();
    let reply = server.post("/", &many, "{}").await;
    assert!(!reply.contains(" 200 "), "{reply}");
}

#[tokio::test]
async fn health_is_the_databases_where_there_is_one() {
    let get = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let without = server(whoami(&[Accept::Anonymous])).await.exchange(get).await;
    assert!(without.starts_with("HTTP/1.1 200"), "{without}");
    assert_eq!(json_of(&without), json!({ "status": "ok" }));
    for function in [whoami(&[Accept::User]).needs(&[Need::Store]), whoami(&[Accept::Service("points")])] {
        let with = server(function).await.exchange(get).await;
        assert!(with.starts_with("HTTP/1.1 503"), "{with}");
        assert_eq!(json_of(&with), json!({ "status": "unavailable" }));
    }
}

#[tokio::test]
async fn shutdown_lets_a_running_call_finish_and_takes_no_new_one() {
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&started), Arc::clone(&go));
    let function = Function::new("slow", move |_: Context, _: Nothing| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            tell.notify_one();
            wait.notified().await;
            Reply::of(&json!({ "finished": true }))
        }
    })
    .accepts(&[Accept::Anonymous]);
    let mut server = server(function).await;
    let idle = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    started.notified().await;
    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(read_all(idle).await, "", "an idle connection is closed at once");
    assert!(TcpStream::connect(("127.0.0.1", server.port)).await.is_err());
    assert!(!server.serving.is_finished());
    go.notify_one();
    let reply = read_all(busy).await;
    assert_eq!(json_of(&reply)["finished"], true);
    server.serving.await.unwrap();
}
