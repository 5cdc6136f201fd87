//! Just enough of MongoDB's wire protocol (OP_MSG) to start a replica set.
//!
//! Only `store` may use the driver, and a driver for four administrative commands would be a heavy guest here:
//! one connection to the loopback address, one document each way, no authentication, no TLS.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};

const OP_MSG: i32 = 2013;
const HEADER: usize = 16;
/// MongoDB's own limit on a message.
const MESSAGE_MAX: usize = 48_000_000;

/// Runs one command (on the `admin` database, unless it names another in `$db`) on the server at `port` and returns its reply, be it `ok: 1` or an error.
pub(crate) fn command(port: u16, mut command: Document) -> Result<Document> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    command.entry("$db").or_insert("admin".into());
    stream.write_all(&encode(&command)?)?;

    let mut header = [0_u8; HEADER];
    stream.read_exact(&mut header)?;
    let length = usize::try_from(i32::from_le_bytes([header[0], header[1], header[2], header[3]]))?;
    ensure!((HEADER..=MESSAGE_MAX).contains(&length), "a reply of {length} bytes");
    let mut body = vec![0_u8; length - HEADER];
    stream.read_exact(&mut body)?;
    // The reply's body: 4 bytes of flags, 1 byte of section kind (0 = one document), the document.
    match body.split_first_chunk::<5>() {
        Some(([_, _, _, _, 0], document)) => Document::from_reader(document).context("malformed reply"),
        _ => bail!("an unexpected kind of reply"),
    }
}

fn encode(command: &Document) -> Result<Vec<u8>> {
    let document = command.to_vec()?;
    let mut message = Vec::with_capacity(HEADER + 5 + document.len());
    for field in [i32::try_from(HEADER + 5 + document.len())?, 1, 0, OP_MSG, 0] {
        message.extend_from_slice(&field.to_le_bytes());
    }
    message.push(0);
    message.extend_from_slice(&document);
    Ok(message)
}

/// Whether the server is the writable primary of its replica set.
pub(crate) fn is_primary(port: u16) -> Result<bool> {
    Ok(command(port, doc! { "hello": 1 })?.get_bool("isWritablePrimary").unwrap_or(false))
}

/// Makes the server a replica set of one, or tells the one that its data describe about its present port.
///
/// A replica set remembers the addresses of its members; a data folder started on another port would find itself
/// removed from its own set.
pub(crate) fn initiate(port: u16, set: &str) -> Result<()> {
    let host = format!("127.0.0.1:{port}");
    let config = doc! { "_id": set, "members": [{ "_id": 0, "host": &host }] };
    let reply = command(port, doc! { "replSetInitiate": config })?;
    if is_ok(&reply) {
        return Ok(());
    }
    const ALREADY_INITIALIZED: i32 = 23;
    ensure!(reply.get_i32("code").ok() == Some(ALREADY_INITIALIZED), "replSetInitiate: {}", message(&reply));

    let reply = command(port, doc! { "replSetGetConfig": 1 })?;
    ensure!(is_ok(&reply), "replSetGetConfig: {}", message(&reply));
    let mut config = reply.get_document("config")?.clone();
    let member = config.get_array_mut("members")?.first_mut().and_then(|member| member.as_document_mut());
    let member = member.context("a replica set without members")?;
    if member.get_str("host").is_ok_and(|known| known == host) {
        return Ok(());
    }
    member.insert("host", host);
    let version = config.get_i32("version")?;
    config.insert("version", version.saturating_add(1));
    let reply = command(port, doc! { "replSetReconfig": config, "force": true })?;
    ensure!(is_ok(&reply), "replSetReconfig: {}", message(&reply));
    Ok(())
}

fn is_ok(reply: &Document) -> bool {
    matches!(reply.get("ok"), Some(bson::Bson::Double(ok)) if *ok == 1.0) || reply.get_i32("ok").is_ok_and(|ok| ok == 1)
}

fn message(reply: &Document) -> &str {
    reply.get_str("errmsg").unwrap_or("no message")
}
