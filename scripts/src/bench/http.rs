//! The leanest HTTP/1.1 client there is, so that what is measured is the function and not the client.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One kept-alive connection to a function on this machine.
pub(super) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// What came back.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(4096) })
    }

    pub(super) async fn get(&mut self, path: &str) -> Result<Response> {
        self.exchange(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await
    }

    pub(super) async fn post(&mut self, token: Option<&str>, body: &str) -> Result<Response> {
        let session = token.map_or_else(String::new, |token| format!("x-app-session: {token}\r\n"));
        self.post_with(&session, body).await
    }

    /// With header lines of the caller's, each ending in CRLF.
    pub(super) async fn post_with(&mut self, headers: &str, body: &str) -> Result<Response> {
        self.exchange(format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
    }

    async fn exchange(&mut self, request: String) -> Result<Response> {
        self.stream.write_all(request.as_bytes()).await?;
        self.received.clear();
        let head_bytes = loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at.saturating_add(4);
            }
            self.receive().await?;
        };
        let (status, body_bytes) = {
            let head = self.received.get(..head_bytes).unwrap_or_default();
            parse_head(std::str::from_utf8(head)?).context("the function did not answer in HTTP")?
        };
        while self.received.len() < head_bytes.saturating_add(body_bytes) {
            self.receive().await?;
        }
        Ok(Response { status, body: self.received.split_off(head_bytes) })
    }

    async fn receive(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => bail!("the function closed the connection"),
            _ => Ok(()),
        }
    }
}

/// The status and the length of the body.
fn parse_head(head: &str) -> Option<(u16, usize)> {
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())?;
    Some((status, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_in_any_case() {
        assert_eq!(parse_head("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"), Some((200, 12)));
        assert_eq!(parse_head("HTTP/1.1 401 Unauthorized\r\nx: y\r\ncontent-length:0\r\n\r\n"), Some((401, 0)));
        assert_eq!(parse_head("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(parse_head("nonsense"), None);
    }
}
