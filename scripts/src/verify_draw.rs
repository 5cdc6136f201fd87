//! `jinlu verify-draw`

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use domain::draw::{
    BeaconSource, Chain, Fault, Place, Record, TicketId, Verdict, own_ticket, reused_secrets, round_time_fault, verify,
    verify_against,
};
use providers::drand;
use serde::{Deserialize, Serialize};
use serde_json::json;
use upstream::{Reply, exchange};

use crate::cli::say;

/// The longest record: a million tickets are some 80 MB.
const RECORD_MAX_BYTES: usize = 256 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(120);
/// More pages than any round has; a server cannot keep us asking forever.
const PAGES_MAX: u64 = 10_000;

/// 验证抽签：由公开记录重算 · Recompute a draw from its public record
///
/// 任何人都可运行，不需要数据库。全部相符时退出码为 0；否则逐行指出不符之处。
/// Anybody can run it, and it needs no database. Exits 0 only if everything holds, and otherwise names what does not.
/// The seed must fit the commitment, the list its hash, winners and waiting list the ranking, and a drand beacon its signature.
/// A record alone shows that it fits together: save it before the window opens, and pass that copy as --announced, to see that
/// rules, commitment and list are still those. How it works: docs/draw.md.
///
/// Examples:
///   jinlu verify-draw record.json                                     a saved record; - reads standard input
///   jinlu verify-draw record.json --announced saved.json              and nothing was changed since it was announced
///   jinlu verify-draw record.json --ticket 22a16e4d7b18a7713e552bdafb7888b4    and my ticket took part
///   jinlu verify-draw --cloud http://127.0.0.1:8900 --round R --save record.json    ask a shop, and keep what it said
///   jinlu verify-draw a.json b.json https://example.com/c.json        several rounds; none may use another's seed
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 公开记录：文件、网址，- 为标准输入 · Public records: files, http(s) addresses, or - for standard input
    #[arg(value_name = "FILE|URL", required_unless_present = "cloud")]
    records: Vec<String>,
    /// 商城地址，与 --round 同用 · Address of a shop, whose `lottery` is asked for the record of --round
    #[arg(long, value_name = "URL", requires = "round", conflicts_with = "records")]
    cloud: Option<String>,
    /// 轮次编号 · The round to ask for
    #[arg(long, value_name = "ID", requires = "cloud")]
    round: Option<String>,
    /// 把取得的记录存为文件 · Keep the fetched record as a file, also if there is no draw yet
    #[arg(long, value_name = "FILE", requires = "cloud")]
    save: Option<PathBuf>,
    /// 事先保存的副本 · A copy saved before the window or before the draw; only with one record
    #[arg(long, value_name = "FILE")]
    announced: Option<String>,
    /// 自己的签号 · Your own ticket, which must be in the list; only with one record
    #[arg(long, value_name = "ID")]
    ticket: Option<TicketId>,
    /// 另一条 drand 链的公钥 · Another drand chain: hash, public key, genesis (Unix seconds) and period (seconds)
    #[arg(long, value_name = "HASH=KEY:GENESIS:PERIOD", value_parser = chain)]
    chain_key: Vec<Chain>,
    /// 输出 JSON · Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What is known about one record after the check.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    from: String,
    round_id: String,
    holds: bool,
    faults: Vec<Fault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    /// What protects the draw, and what this check leaves open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<Place>,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut records = Vec::new();
    if let (Some(cloud), Some(round)) = (&args.cloud, &args.round) {
        let record = ask(cloud, round).await.with_context(|| format!("the record of round {round}"))?;
        if let Some(path) = &args.save {
            let text = serde_json::to_vec_pretty(&record)?;
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        records.push((format!("{cloud}, round {round}"), record));
    }
    for from in &args.records {
        records.push((from.clone(), read(from).await?));
    }
    let single = records.len() == 1;
    ensure!(single || (args.announced.is_none() && args.ticket.is_none()), "--announced and --ticket need one record");
    let announced = match &args.announced {
        Some(from) => Some(read(from).await?),
        None => None,
    };

    let mut outcomes: Vec<Outcome> = records
        .iter()
        .map(|(from, record)| check(from, record, announced.as_ref(), args.ticket, &args.chain_key))
        .collect();
    let all: Vec<&Record> = records.iter().map(|(_, record)| record).collect();
    let reused = reused_secrets(&all);
    let holds = reused.is_empty() && outcomes.iter().all(|outcome| outcome.holds);
    if args.json {
        say(serde_json::to_string_pretty(&json!({ "holds": holds, "records": outcomes, "reused": reused }))?)?;
    } else {
        for outcome in &mut outcomes {
            tell(outcome, args.ticket)?;
        }
        for fault in &reused {
            say(format_args!("rounds together: NOT in order\n  {fault}"))?;
        }
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(
    from: &str,
    record: &Record,
    announced: Option<&Record>,
    ticket: Option<TicketId>,
    chains: &[Chain],
) -> Outcome {
    let mut notes = Vec::new();
    let (verdict, mut faults) = match verify(record) {
        Ok(verdict) => (Some(verdict), Vec::new()),
        Err(faults) => (None, faults),
    };
    match record.rules.beacon.source {
        BeaconSource::None => {
            notes.push("no beacon: only the commitment protects this draw, so the shop has to be trusted".to_owned());
        }
        BeaconSource::Public => {
            let text = hex_text(&record.beacon).unwrap_or_default();
            let name = record.rules.beacon.name.as_deref().unwrap_or_default();
            notes.push(format!("beacon: look up yourself that {name:?} was {text:?}"));
        }
        BeaconSource::Drand => faults.extend(drand_faults(record, chains, &mut notes)),
    }
    match announced {
        Some(announced) => {
            let changed = verify_against(record, announced);
            if changed.is_empty() {
                notes.push("rules, commitment and times are those of the earlier copy".to_owned());
            }
            faults.extend(changed);
        }
        None => notes.push("not compared with an earlier copy (--announced)".to_owned()),
    }
    let place = ticket.and_then(|ticket| own_ticket(record, ticket));
    if let (Some(ticket), None) = (ticket, place) {
        faults.push(Fault::new("tickets", format!("your ticket {ticket} is not among them")));
    }
    let holds = faults.is_empty();
    let verdict = verdict.filter(|_| holds);
    Outcome { from: from.to_owned(), round_id: record.round_id.clone(), holds, faults, verdict, notes, ticket: place }
}

/// The curve arithmetic, which `domain` does not know; what is malformed or missing has been named by then.
fn drand_faults(record: &Record, chains: &[Chain], notes: &mut Vec<String>) -> Vec<Fault> {
    let rule = &record.rules.beacon;
    let (Some(hash), Some(round), Some(signature)) = (&rule.chain, rule.round, &record.beacon_signature) else {
        return Vec::new();
    };
    let known = Chain::known(hash);
    let given = chains.iter().find(|chain| chain.hash == *hash);
    let Some(chain) = known.as_ref().or(given) else {
        return vec![Fault::new(
            "rules.beacon.chain",
            "is not known here; if you trust it, give its key with --chain-key",
        )];
    };
    let mut faults = Vec::new();
    if known.is_none() {
        faults.extend(round_time_fault(record, chain, round));
    }
    match drand::verify(chain, round, signature) {
        Ok(_) => notes.push(format!("beacon: drand round {round} of chain {hash}, signature verified")),
        Err(error) => faults.push(Fault::new("beaconSignature", error.to_string())),
    }
    if *chain == Chain::local() {
        notes.push("the chain is the local test chain, whose key everybody has: it proves nothing".to_owned());
    }
    faults
}

fn tell(outcome: &Outcome, ticket: Option<TicketId>) -> Result<()> {
    let Outcome { from, round_id, faults, verdict, notes, ticket: place, .. } = outcome;
    if let Some(Verdict { n, k, rules_hash, .. }) = verdict {
        say(format_args!("{round_id}: the draw holds ({from})"))?;
        say(format_args!("  {n} tickets, {k} won; the seed fits its commitment, every place is as computed"))?;
        if !rules_hash {
            say("  the record has no rulesHash")?;
        }
    } else {
        say(format_args!("{round_id:?}: the draw does NOT hold ({from})"))?;
        for fault in faults {
            say(format_args!("  {fault}"))?;
        }
    }
    for note in notes {
        say(format_args!("  {note}"))?;
    }
    if let (Some(ticket), Some(place)) = (ticket, place) {
        match place {
            Place::Winner(place) => say(format_args!("  ticket {ticket} won, place {place}"))?,
            Place::Waiting(place) => say(format_args!("  ticket {ticket} is number {place} of the waiting list"))?,
            Place::Listed => say(format_args!("  ticket {ticket} is listed"))?,
        }
    }
    Ok(())
}

/// From a file, standard input or an address.
async fn read(from: &str) -> Result<Record> {
    let bytes = if from.starts_with("http://") || from.starts_with("https://") {
        let Reply { status, body, .. } =
            exchange(client()?.get(from), RECORD_MAX_BYTES).await.context(from.to_owned())?;
        ensure!(status.is_success(), "{from} answers {status}");
        body
    } else if from == "-" {
        bounded(std::io::stdin().lock()).context("standard input")?
    } else {
        bounded(std::fs::File::open(from).context(from.to_owned())?).context(from.to_owned())?
    };
    parse(&bytes).with_context(|| format!("{from} is not a record"))
}

fn bounded(source: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(u64::try_from(RECORD_MAX_BYTES)?.saturating_add(1)).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= RECORD_MAX_BYTES, "longer than {RECORD_MAX_BYTES} bytes");
    Ok(bytes)
}

fn client() -> Result<reqwest::Client> {
    Ok(upstream::client(TIMEOUT, 1)?)
}

/// A reply as the shop sends it: its fields beside `success`, or the record inside.
#[derive(Deserialize)]
struct Envelope {
    success: Option<bool>,
    message: Option<String>,
    record: Option<Record>,
}

fn parse(bytes: &[u8]) -> Result<Record> {
    let envelope: Envelope = serde_json::from_slice(bytes)?;
    if envelope.success == Some(false) {
        bail!("the shop says: {}", envelope.message.unwrap_or_else(|| "no".to_owned()));
    }
    match envelope.record {
        Some(record) => Ok(record),
        None => Ok(serde_json::from_slice(bytes)?),
    }
}

/// A page of the lists of a large round.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tickets: Vec<String>,
    #[serde(default)]
    ranking: Vec<String>,
}

/// The whole record from a shop's `lottery`, its pages put together.
async fn ask(cloud: &str, round: &str) -> Result<Record> {
    let http = client()?;
    let url = format!("{}/lottery", cloud.trim_end_matches('/'));
    let mut left = RECORD_MAX_BYTES;
    let mut post = async |body: serde_json::Value| -> Result<Vec<u8>> {
        let Reply { status, body, .. } = exchange(http.post(&url).json(&body), left).await?;
        left = left.saturating_sub(body.len());
        if !status.is_success() {
            // The envelope says more than the status.
            parse(&body)?;
            bail!("{url} answers {status}");
        }
        Ok(body)
    };
    let mut record = parse(&post(json!({ "action": "record", "roundId": round })).await?)?;
    ensure!(record.round_id == round, "asked for round {round}, got {:?}", record.round_id);
    let Some(pages) = record.pages.take() else { return Ok(record) };
    ensure!(pages <= PAGES_MAX, "the record has {pages} pages");
    let mut ranking = Vec::new();
    for page in 0..pages {
        let body = post(json!({ "action": "record", "roundId": round, "page": page })).await?;
        let page: Page = serde_json::from_slice(&body)?;
        record.tickets.extend(page.tickets);
        ranking.extend(page.ranking);
    }
    let k = usize::try_from(record.k.unwrap_or_default())?.min(ranking.len());
    record.waiting = ranking.split_off(k);
    record.winners = ranking;
    Ok(record)
}

fn hex_text(hexed: &str) -> Option<String> {
    let digits = hexed.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Option<Vec<u8>> = digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
    String::from_utf8(bytes?).ok()
}

fn chain(text: &str) -> Result<Chain, String> {
    let parts = || {
        let (hash, rest) = text.split_once('=')?;
        let [public_key, genesis, period] = rest.split(':').collect::<Vec<_>>().try_into().ok()?;
        let chain = Chain {
            hash: hash.to_owned(),
            public_key: public_key.to_owned(),
            genesis_time: genesis.parse().ok()?,
            period: period.parse().ok().filter(|period| *period > 0)?,
        };
        (hash.len() == 64 && public_key.len() == 192).then_some(chain)
    };
    parts().ok_or_else(|| "must be HASH=KEY:GENESIS:PERIOD, 64 and 192 hexadecimal digits and two numbers".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Record {
        parse(include_bytes!("../../docs/draw_example.json")).unwrap()
    }

    fn said(record: &Record, chains: &[Chain]) -> Vec<String> {
        check("here", record, None, None, chains).faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_example_holds_with_its_signature() {
        let record = example();
        let ticket: TicketId = record.winners[0].parse().unwrap();
        let outcome = check("here", &record, Some(&record), Some(ticket), &[]);
        assert!(outcome.holds, "{:?}", outcome.faults);
        assert_eq!(outcome.ticket, Some(Place::Winner(1)));
        assert!(outcome.notes.iter().any(|note| note.ends_with("signature verified")), "{:?}", outcome.notes);
        let stranger = check("here", &record, None, Some(TicketId::from([1; 16])), &[]);
        assert_eq!(
            stranger.faults[0].to_string(),
            format!("tickets: your ticket {} is not among them", "01".repeat(16))
        );
    }

    #[test]
    fn a_forged_beacon_is_seen_although_everything_else_fits() {
        let mut forged = example();
        // A real point and a real hash, but another round's.
        forged.beacon_signature = Some(simulators::drand::signature(1000).unwrap());
        forged.beacon = domain::draw::beacon_of(forged.beacon_signature.as_deref().unwrap()).unwrap();
        let faults = said(&forged, &[]);
        assert!(
            faults.contains(&"beaconSignature: the signature is not this chain's for this round".to_owned()),
            "{faults:?}"
        );
        let mut moved = example();
        moved.rules.beacon.round = Some(1001);
        assert!(said(&moved, &[]).iter().any(|fault| fault.starts_with("beaconSignature: the signature is not")));
        let mut local = example();
        local.rules.beacon.chain = Some(Chain::local().hash);
        assert!(said(&local, &[]).iter().any(|fault| fault.starts_with("beaconSignature: the signature is not")));
    }

    #[test]
    fn an_unknown_chain_needs_its_key() {
        let mut record = example();
        let hash = "ab".repeat(32);
        record.rules.beacon.chain = Some(hash.clone());
        record.rules_hash = Some(record.expected_rules_hash());
        assert_eq!(
            said(&record, &[]),
            ["rules.beacon.chain: is not known here; if you trust it, give its key with --chain-key"]
        );
        let key = Chain::quicknet().public_key;
        let given = chain(&format!("{hash}={key}:1692803367:3")).unwrap();
        assert_eq!(said(&record, std::slice::from_ref(&given)), [""; 0]);
        let late = Chain { genesis_time: 1_692_800_000, ..given };
        assert_eq!(said(&record, &[late]), ["rules.beacon.round: round 1000 was published before the close"]);
        assert!(chain("ab=cd").is_err() && chain(&format!("{hash}={key}:1:0")).is_err());
    }

    #[test]
    fn records_come_bare_or_in_a_reply() {
        let bare = serde_json::to_value(example()).unwrap();
        let mut beside = bare.clone();
        beside["success"] = true.into();
        for form in [bare.clone(), beside, json!({ "success": true, "record": bare })] {
            assert_eq!(parse(form.to_string().as_bytes()).unwrap(), example());
        }
        let refused = json!({ "success": false, "errorCode": "NOT_FOUND", "message": "没有这一轮" }).to_string();
        assert_eq!(parse(refused.as_bytes()).unwrap_err().to_string(), "the shop says: 没有这一轮");
        assert!(parse(b"{}").is_err() && parse(b"[]").is_err() && parse(b"").is_err());
        assert_eq!(hex_text("e98791").as_deref(), Some("金"));
        assert_eq!((hex_text("e"), hex_text("e9")), (Some("\u{e}".to_owned()), None));
    }

    #[tokio::test]
    async fn pages_are_put_together() {
        let (whole, mut head) = (example(), example());
        let ranking = [whole.winners.clone(), whole.waiting.clone()].concat();
        (head.pages, head.tickets, head.winners, head.waiting) = (Some(2), Vec::new(), Vec::new(), Vec::new());
        let tickets = whole.tickets.clone();
        let answer = move |body: String| {
            let asked: serde_json::Value = serde_json::from_str(&body).unwrap();
            let reply = match asked["page"].as_u64() {
                None => serde_json::to_value(&head).unwrap(),
                Some(0) => json!({ "success": true, "tickets": tickets[..4], "ranking": ranking[..4] }),
                Some(_) => json!({ "success": true, "tickets": tickets[4..], "ranking": ranking[4..] }),
            };
            let known = asked["action"] == "record" && asked["roundId"] == head.round_id.as_str();
            let refused = json!({ "success": false, "message": "没有这一轮" });
            async move {
                if known {
                    (axum::http::StatusCode::OK, axum::Json(reply))
                } else {
                    (axum::http::StatusCode::NOT_FOUND, axum::Json(refused))
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cloud = format!("http://{}/", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/lottery", axum::routing::post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        assert_eq!(ask(&cloud, &whole.round_id).await.unwrap(), whole);
        assert_eq!(ask(&cloud, "other").await.unwrap_err().to_string(), "the shop says: 没有这一轮");
    }
}
