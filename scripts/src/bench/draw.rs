//! `jinlu bench draw`

use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use domain::draw::{TicketId, rank};
use edge::{App, Caller, Clock};
use serde::Serialize;
use serde_json::{Value, json};
use store::Store;
use store::baseline;
use store::collections::InitOptions;
use store::lottery::{Round, RoundStatus};

use super::report::AuditLine;
use super::server::Server;
use super::sign_up::{Answers, Place, Rates, add, compare, random_ticket, sign_up};
use super::{process, record};
use crate::cli::say;
use crate::local;
use crate::serve::Shutdown;

/// Of the driver's throughput.
const RATIO_MIN: f64 = 0.7;
const RANK_SECONDS_MAX: f64 = 2.0;
const DRAW_SECONDS_MAX: f64 = 60.0;
const PEAK_KIB_MAX: u64 = 1024 * 1024;

/// How long sign-up stays open on the functions' clock, in minutes.
const WINDOW_MINUTES: i64 = 180;
const PRODUCT: &str = "p-bench";

/// 性能测试：报名与抽签 · Measure signing up and drawing
///
/// 在进程内调用真正的 lottery 与 lotteryDraw，与驱动直接插入相同文档轮流比较；核对报名数，并用两种程序验证抽签。
/// Signs people up by the real lottery function inside of this process, in turns with the driver's inserts of the same
/// documents; adds second tries and late ones, and counts every answer. Then it draws by the real lotteryDraw, and checks
/// the public record by our verifier and by docs/verify_draw.py where there is a python3. Then it draws a big round, whose
/// tickets are inserted in bulk. In the end it audits and drops what it made. Exits 1 if a count or a draw is off.
///
/// Examples:
///   cargo build --release -p jinlu && target/release/jinlu bench draw
///   jinlu bench draw --sign-ups 20000 --tickets 0        only signing up
///   jinlu bench draw --sign-ups 1000 --winners 100000    many rights to hand out
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 报名人数 · People who sign up; a tenth tries twice, and a twentieth more come late
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    sign_ups: u32,
    /// 大场次的签数，0 为不测 · Tickets of the big round; 0 leaves it out
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(0..=5_000_000))]
    tickets: u32,
    /// 每场中签数 · Winners of each round
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    winners: u32,
    /// 并发客户端数 · Clients that sign up at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=512))]
    clients: u16,
    /// 轮数 · Rounds of the comparison
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// 不核对账目 · Leave the audit out, which reads every document
    #[arg(long)]
    no_audit: bool,
    #[command(flatten)]
    common: super::Common,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    sign_up: Rates,
    /// What people were answered, by code; `accepted` for those who are in.
    answers: Answers,
    tickets_stored: i64,
    draws: Vec<Draw>,
    audit: Option<AuditLine>,
    audit_seconds: Option<f64>,
    /// What is not as it has to be.
    deviations: Vec<String>,
}

/// One draw and how long its steps took, in seconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Draw {
    tickets: usize,
    winners: usize,
    runs: usize,
    /// Freezing the round and listing its tickets.
    list: Option<f64>,
    /// Ranking them, measured by itself.
    rank: f64,
    /// Reading the list, ranking it, and writing the ranking.
    draw: Option<f64>,
    /// Rights, pieces, coins and the winners' messages.
    rights: Option<f64>,
    /// The messages of all others.
    messages: Option<f64>,
    whole: f64,
    /// The most memory that this process held at once, and what it held before, with its drawing of load still in it.
    peak_kib: Option<u64>,
    before_kib: Option<u64>,
    verify: f64,
    python: Option<f64>,
}

pub(super) async fn run(args: Args) -> Result<ExitCode> {
    let shutdown = Shutdown::listen()?;
    let measured = tokio::select! {
        server = args.common.server() => server?,
        () = shutdown.wait() => return Ok(ExitCode::FAILURE),
    };
    let report = measure(&args, &measured, &shutdown).await;
    measured.stop().await?;
    let Some(report) = report? else { return Ok(ExitCode::FAILURE) };
    if args.common.json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        say(report.text()?)?;
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The same with few people and tickets; returns what is off.
pub(super) async fn small(uri: &str) -> Result<Vec<String>> {
    let uri = Some(uri.to_owned());
    let args = Args {
        sign_ups: 500,
        tickets: 21_000,
        winners: 20,
        clients: 8,
        rounds: 2,
        no_audit: false,
        common: super::Common { uri, data_dir: None, json: false },
    };
    let server = args.common.server().await?;
    let report = measure(&args, &server, &Shutdown::listen()?).await?.context("it was interrupted")?;
    let mut off = report.deviations;
    if let Some(audit) = report.audit.filter(|audit| !audit.is_sound()) {
        off.push(audit.to_string());
    }
    Ok(off)
}

/// `None` when it was interrupted. The two databases are dropped in any case.
async fn measure(args: &Args, server: &Server, shutdown: &Shutdown) -> Result<Option<Report>> {
    // Names of one length, since every statement carries them.
    let name = |side: &str| format!("jinlu_bench_{}_{side}", std::process::id());
    let clock = Clock::system();
    // Nobody can call this process, so the local cloud's credentials will do.
    let app = App::new(local::config("http://127.0.0.1:9", 9, &server.uri, &name("call")), clock.clone())?;
    let direct = Store::new(store::StoreConfig::new(&server.uri, name("bare")));
    let (store, bare) = (app.store().clone(), direct.clone());
    let measured = tokio::select! {
        measured = figures(args, server, app, clock, direct) => measured.map(Some),
        () = shutdown.wait() => Ok(None),
    };
    let dropped = (store.drop_database().await, bare.drop_database().await);
    let report = measured?;
    dropped.0?;
    dropped.1?;
    Ok(report)
}

async fn figures(args: &Args, server: &Server, app: Arc<App>, clock: Clock, direct: Store) -> Result<Report> {
    let begun = clock.now();
    for store in [app.store(), &direct] {
        store.init(InitOptions { demo: false, dry_run: false }, begun).await?;
    }
    let product = json!({
        "_id": PRODUCT, "name": "限量纪念酒", "description": "", "category": "抢签", "images": [], "price": 149_900,
        "status": "onSale", "stock": 10_000_000, "saleMode": "lottery", "skus": [], "grantsCoin": false,
    });
    app.store().open_document("shopProducts", &product, begun).await?;

    let n = usize::try_from(args.sign_ups)?;
    let (twice, late) = (n / 10, n / 20);
    eprintln!("  会员 · {} members", n.saturating_add(late));
    let place = Arc::new(Place::new(app, clock, direct, n.saturating_add(late)).await?);
    let (activity, round) = open_round(&place, args.winners).await?;
    let (_, big_round) = open_round(&place, args.winners).await?;

    eprintln!("  报名 · sign-ups, and inserts by the driver");
    let clients = usize::from(args.clients);
    let first = n.saturating_sub(twice);
    let (mut answers, rates) =
        compare(&place, clients, usize::from(args.rounds), (0..first).collect(), (&round, &activity)).await?;
    // The rest among people who are in already.
    let mixed = (0..twice).flat_map(|i| [first.saturating_add(i), i]).collect();
    add(&mut answers, sign_up(&place, clients, mixed, &activity).await?.0);
    place.clock.advance(Duration::from_secs(u64::try_from(WINDOW_MINUTES)?.saturating_mul(60)));
    let late_ones = (n..n.saturating_add(late)).collect();
    add(&mut answers, sign_up(&place, clients, late_ones, &activity).await?.0);
    if let Some(accepted) = answers.remove("") {
        answers.insert("accepted".to_owned(), accepted);
    }
    let store = place.app.store();
    let tickets_stored = store.count_tickets(&round).await?;
    let mut deviations = Vec::new();
    for (code, wanted) in [("accepted", n), ("ALREADY_SIGNED_UP", twice), ("SIGNUP_CLOSED", late)] {
        let counted = answers.get(code).copied().unwrap_or(0);
        if counted != wanted {
            deviations.push(format!("{counted} answers {code} instead of {wanted}"));
        }
    }
    if answers.len() > 3 {
        deviations.push("there were answers of another kind".to_owned());
    }
    if tickets_stored != i64::try_from(n)? {
        deviations.push(format!("{tickets_stored} tickets are stored instead of {n}"));
    }

    let mut draws = Vec::new();
    draws.push(draw(&place, server, &round, n, args.winners, &mut deviations).await?);
    let big = usize::try_from(args.tickets)?;
    if big > 0 {
        eprintln!("  插入 · inserting {big} tickets");
        fill(&place, &big_round, big).await?;
        draws.push(draw(&place, server, &big_round, big, args.winners, &mut deviations).await?);
    }
    let (mut audit, mut audit_seconds) = (None, None);
    if !args.no_audit {
        eprintln!("  核对 · audit");
        let begun = Instant::now();
        let checked = store.audit(place.clock.now()).await?;
        audit_seconds = Some(begun.elapsed().as_secs_f64());
        audit = Some(AuditLine::of(&checked));
    }
    Ok(Report { sign_up: rates, answers, tickets_stored, draws, audit, audit_seconds, deviations })
}

/// An activity that takes sign-ups now, and the round that does.
async fn open_round(place: &Place, winners: u32) -> Result<(String, String)> {
    let now = place.clock.now();
    let activity = json!({
        "activityName": "限量纪念酒", "productId": PRODUCT,
        "windows": [{ "start": clock_time(now, -1)?, "end": clock_time(now, WINDOW_MINUTES.saturating_sub(1))? }],
        "startTime": (now - TimeDelta::days(1)).to_rfc3339(), "endTime": (now + TimeDelta::days(2)).to_rfc3339(),
        "mode": "auto", "quota": winners, "beacon": { "source": "none" },
    });
    let made = place.call_service("lotteryAdmin", json!({ "action": "create", "activity": activity })).await?;
    let id = text(&made, "/activityId")?;
    let seen = place.call("lottery", Caller::Anonymous, json!({ "action": "get", "activityId": &id })).await?;
    let round = text(&seen, "/currentRound/roundId")?;
    Ok((id, round))
}

fn text(body: &Value, path: &str) -> Result<String> {
    let found = body.pointer(path).and_then(Value::as_str);
    found.map(str::to_owned).with_context(|| format!("no {path} in {body}"))
}

/// `HH:MM` in Shanghai, `minutes` from now.
fn clock_time(now: DateTime<Utc>, minutes: i64) -> Result<String> {
    let shanghai = FixedOffset::east_opt(8 * 3600).context("no such offset")?;
    Ok((now + TimeDelta::minutes(minutes)).with_timezone(&shanghai).format("%H:%M").to_string())
}

/// Signs many up in bulk, some people more than once: who has a ticket does not matter to the draw.
async fn fill(place: &Place, round: &str, tickets: usize) -> Result<()> {
    let found = place.app.store().round(round).await?.context("no such round")?;
    let mut left = tickets;
    while left > 0 {
        let people = place.people.iter().take(left.min(50_000));
        let some: Vec<_> = people.map(|p| random_ticket(round, &found.activity_id, p, &place.clock)).collect();
        left = left.saturating_sub(some.len());
        baseline::insert_tickets(place.app.store(), &some).await?;
    }
    Ok(())
}

/// When the round was seen to reach each step.
#[derive(Default)]
struct Seen {
    listed: Option<Instant>,
    drawn: Option<Instant>,
    granted: Option<Instant>,
}

impl Seen {
    fn note(&mut self, round: &Round) {
        let now = Instant::now();
        if !matches!(round.status, RoundStatus::Open | RoundStatus::Frozen) {
            self.listed.get_or_insert(now);
        }
        if round.status.is_drawn() {
            self.drawn.get_or_insert(now);
            if round.next_rank == round.winners() {
                self.granted.get_or_insert(now);
            }
        }
    }
}

/// Draws a round to its end, and checks what became of it.
async fn draw(
    place: &Place,
    server: &Server,
    round: &str,
    tickets: usize,
    winners: u32,
    deviations: &mut Vec<String>,
) -> Result<Draw> {
    eprintln!("  抽签 · drawing {tickets} tickets");
    let store = place.app.store();
    let before_kib = process::resident_kib(std::process::id()).map(|(all, _)| all);
    process::forget_peak();
    let begun = Instant::now();
    let mut seen = Seen::default();
    let mut runs = 0usize;
    loop {
        let mut run = std::pin::pin!(place.call_service("lotteryDraw", json!({ "roundId": round })));
        let done = loop {
            tokio::select! {
                done = &mut run => break done?,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            // Looked at while it runs, since the function does not tell its steps.
            if let Some(found) = store.round(round).await? {
                seen.note(&found);
            }
        };
        runs = runs.saturating_add(1);
        if done.get("remaining") != Some(&Value::Bool(true)) {
            break;
        }
    }
    let whole = begun.elapsed();
    let peak_kib = process::peak_kib();
    let found = store.round(round).await?.context("no such round")?;
    seen.note(&found);
    let k = usize::try_from(winners)?.min(tickets);
    if found.status != RoundStatus::Granted
        || usize::try_from(found.tickets())? != tickets
        || usize::try_from(found.winners())? != k
    {
        deviations.push(format!(
            "{round}: {:?} with {} tickets and {} winners instead of {tickets} and {k}",
            found.status,
            found.tickets(),
            found.winners()
        ));
    }

    eprintln!("  验证 · verifying");
    let public = record::fetch(place, round).await?;
    let at = Instant::now();
    if let Err(fault) = record::check(&public) {
        deviations.push(fault.to_string());
    }
    let verify = at.elapsed().as_secs_f64();
    let at = Instant::now();
    let python = match record::check_with_python(&public, server.scratch()).await {
        Ok(true) => Some(at.elapsed().as_secs_f64()),
        Ok(false) => None,
        Err(fault) => {
            deviations.push(fault.to_string());
            None
        }
    };
    let list: Vec<TicketId> = public.tickets.iter().filter_map(|id| TicketId::parse(id)).collect();
    let at = Instant::now();
    let ranked = rank(&[7; 32], list);
    let rank = at.elapsed().as_secs_f64();
    if ranked.len() != tickets {
        deviations.push(format!("{round}: {} tickets are published instead of {tickets}", ranked.len()));
    }
    let between = |from: Option<Instant>, to: Option<Instant>| Some(to?.duration_since(from?).as_secs_f64());
    Ok(Draw {
        tickets,
        winners: k,
        runs,
        list: between(Some(begun), seen.listed),
        rank,
        draw: between(seen.listed, seen.drawn),
        rights: between(seen.drawn, seen.granted),
        messages: between(seen.granted, begun.checked_add(whole)),
        whole: whole.as_secs_f64(),
        peak_kib,
        before_kib,
        verify,
        python,
    })
}

impl Draw {
    /// List, draw and rights together.
    fn until_rights(&self) -> Option<f64> {
        Some(self.list? + self.draw? + self.rights?)
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

impl Report {
    /// Whether all counts are exact, the draws hold and the books are in order.
    fn is_sound(&self) -> bool {
        self.deviations.is_empty() && self.audit.as_ref().is_none_or(AuditLine::is_sound)
    }

    /// The tables, for people.
    fn text(&self) -> Result<String> {
        let mut out = String::new();
        let Rates { clients, rounds, sign_ups_per_second, inserts_per_second, ratio } = &self.sign_up;
        writeln!(out, "{clients} clients, {rounds} rounds by turns      median     min     max")?;
        for (what, spread) in [("sign-ups/s", sign_ups_per_second), ("inserts/s by the driver", inserts_per_second)] {
            let Some(s) = spread else { continue };
            writeln!(out, "  {what:<32}{:>8.0}{:>8.0}{:>8.0}", s.median, s.min, s.max)?;
        }
        if let Some(s) = ratio {
            let met = verdict(s.median >= RATIO_MIN);
            let (median, min, max) = (s.median, s.min, s.max);
            writeln!(out, "  {:<32}{median:>8.3}{min:>8.3}{max:>8.3}   target ≥ {RATIO_MIN}: {met}", "ratio")?;
        }
        write!(out, "answers:")?;
        for (code, n) in &self.answers {
            write!(out, " {code} {n}")?;
        }
        writeln!(out, "; tickets stored: {}", self.tickets_stored)?;
        for draw in &self.draws {
            draw.tell(&mut out)?;
        }
        if let (Some(audit), Some(seconds)) = (&self.audit, self.audit_seconds) {
            writeln!(out, "\naudit in {seconds:.1} s: {audit}")?;
        }
        for deviation in &self.deviations {
            writeln!(out, "OFF: {deviation}")?;
        }
        Ok(out.trim_end().to_owned())
    }
}

impl Draw {
    fn tell(&self, out: &mut String) -> Result<()> {
        writeln!(
            out,
            "\n{} tickets, {} winners: {:.1} s in {} run(s)",
            self.tickets, self.winners, self.whole, self.runs
        )?;
        let seconds = |s: Option<f64>| s.map_or_else(|| "-".to_owned(), |s| format!("{s:.2}"));
        writeln!(out, "  {:<32}{:>8} s", "list", seconds(self.list))?;
        writeln!(out, "  {:<32}{:>8} s", "read, rank and write", seconds(self.draw))?;
        let met = verdict(self.rank < RANK_SECONDS_MAX);
        writeln!(out, "  {:<32}{:>8.2} s   target < {RANK_SECONDS_MAX} s: {met}", "of that computing", self.rank)?;
        writeln!(out, "  {:<32}{:>8} s", "rights", seconds(self.rights))?;
        if let Some(all) = self.until_rights() {
            let met = verdict(all < DRAW_SECONDS_MAX);
            writeln!(out, "  {:<32}{all:>8.2} s   target < {DRAW_SECONDS_MAX} s: {met}", "until all rights are there")?;
        }
        writeln!(out, "  {:<32}{:>8} s", "messages of all others", seconds(self.messages))?;
        if let (Some(peak), Some(before)) = (self.peak_kib, self.before_kib) {
            let met = verdict(peak < PEAK_KIB_MAX);
            let more = peak.saturating_sub(before) / 1024;
            writeln!(
                out,
                "  {:<32}{:>8} MiB target < 1024 MiB: {met}; {more} MiB more than before",
                "peak memory",
                peak / 1024
            )?;
        }
        let python = self.python.map_or_else(|| "not checked".to_owned(), |s| format!("{s:.1} s"));
        writeln!(out, "  verified in {:.1} s; by verify_draw.py: {python}", self.verify)?;
        Ok(())
    }
}
