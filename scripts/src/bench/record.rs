//! A draw's public record, fetched as everybody can, and checked twice: by our own verifier and by the one in Python.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use domain::draw::{Record, verify};
use edge::Caller;
use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;

use super::sign_up::Place;

/// Written from the description of the draw alone, by nobody who saw our code.
const PYTHON: &str = include_str!("../../../docs/verify_draw.py");

#[derive(Deserialize)]
struct Page {
    tickets: Vec<String>,
    ranking: Vec<String>,
}

/// The whole record, its pages put together.
pub(super) async fn fetch(place: &Place, round: &str) -> Result<Record> {
    let head = place.call("lottery", Caller::Anonymous, json!({ "action": "record", "roundId": round })).await?;
    let mut record: Record = serde_json::from_value(head)?;
    let Some(pages) = record.pages.take() else { return Ok(record) };
    let mut ranking = Vec::new();
    for page in 0..pages {
        let input = json!({ "action": "record", "roundId": round, "page": page });
        let page: Page = serde_json::from_value(place.call("lottery", Caller::Anonymous, input).await?)?;
        record.tickets.extend(page.tickets);
        ranking.extend(page.ranking);
    }
    record.waiting = ranking.split_off(usize::try_from(record.k.unwrap_or_default())?.min(ranking.len()));
    record.winners = ranking;
    Ok(record)
}

/// Recomputes the draw.
pub(super) fn check(record: &Record) -> Result<()> {
    match verify(record) {
        Ok(_) => Ok(()),
        Err(faults) => {
            let faults: Vec<String> = faults.iter().take(5).map(ToString::to_string).collect();
            anyhow::bail!("the draw of {} does not hold: {}", record.round_id, faults.join("; "))
        }
    }
}

/// Lets Python recompute it, too; false where there is no Python. It ends well only with the same winners in the same order.
pub(super) async fn check_with_python(record: &Record, scratch: &Path) -> Result<bool> {
    let (script, file) = (scratch.join("verify_draw.py"), scratch.join("record.json"));
    fs::write(&script, PYTHON)?;
    fs::write(&file, serde_json::to_vec(record)?)?;
    let mut command = Command::new("python3");
    command.arg(&script).arg(&file).stdin(Stdio::null()).kill_on_drop(true);
    let done = match command.output().await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        done => done.context("cannot run python3")?,
    };
    let said = [done.stdout, done.stderr].concat();
    ensure!(done.status.success(), "verify_draw.py: {}", String::from_utf8_lossy(&said).trim());
    Ok(true)
}
