//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};

use anyhow::Result;
use serde::Serialize;
use store::audit::AuditReport;

use super::Scenario;
use super::load::{Round, Side};
use super::start::{Memory, StartTimes};
use super::stats::Spread;

/// Milliseconds until the first answer.
const START_MS_MAX: f64 = 30.0;
const IDLE_KIB_MAX: u64 = 12 * 1024;
/// Of the yardstick's throughput.
const RATIO_MIN: f64 = 0.8;

/// Everything that was measured. What was left out is `None` or empty.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) binary_bytes: u64,
    pub(super) start: Option<StartTimes>,
    pub(super) memory: Option<Memory>,
    pub(super) cells: Vec<Cell>,
    pub(super) audit: AuditLine,
}

/// One scenario with one number of clients; medians of the rounds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cell {
    scenario: Scenario,
    clients: usize,
    sides: BTreeMap<Side, Round>,
    /// Orders per second of the function ÷ of the yardstick, round by round.
    ratio: Option<Spread>,
    /// Processor time per order of all processes together, the yardstick's ÷ the function's. What the ratio would be on a machine
    /// whose processors are the limit and that has nothing else to do.
    cpu_ratio: Option<f64>,
}

/// What became of the books that the function wrote.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuditLine {
    documents: u64,
    violations: Vec<String>,
}

impl AuditLine {
    pub(super) fn of(report: &AuditReport) -> Self {
        let violations = report.violations.iter().map(|v| format!("{}: {}", v.invariant, v.message)).collect();
        Self { documents: report.checked.values().sum(), violations }
    }

    pub(super) fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }
}

impl Display for AuditLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { documents, violations } = self;
        write!(f, "{documents} documents checked, {} violations", violations.len())?;
        violations.iter().take(20).try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

impl Cell {
    pub(super) fn of(scenario: Scenario, clients: usize, rounds: &[(Side, Round)]) -> Self {
        let of_side = |side: Side| rounds.iter().filter(move |(s, _)| *s == side).map(|(_, round)| round);
        let sides: BTreeMap<Side, Round> = [Side::Function, Side::Direct, Side::InProcess]
            .into_iter()
            .filter_map(|side| Some((side, median(&of_side(side).collect::<Vec<_>>())?)))
            .collect();
        let pairs = of_side(Side::Function).zip(of_side(Side::Direct));
        let ratio = Spread::of(pairs.map(|(a, b)| a.orders_per_second / b.orders_per_second));
        let cpu = |side| {
            let by_process = &sides.get(&side)?.cpu_ms_per_order;
            Some(by_process.get("function")? + by_process.get("clients")? + by_process.get("mongod")?)
        };
        let cpu_ratio = cpu(Side::Direct).zip(cpu(Side::Function)).map(|(direct, function)| direct / function);
        Self { scenario, clients, sides, ratio, cpu_ratio }
    }
}

/// Each figure's own median.
fn median(rounds: &[&Round]) -> Option<Round> {
    let of = |figure: &dyn Fn(&Round) -> Option<f64>| {
        Some(Spread::of(rounds.iter().filter_map(|round| figure(round)))?.median)
    };
    let map = |pick: fn(&Round) -> &BTreeMap<&'static str, f64>| {
        let names = rounds.first().into_iter().flat_map(|round| pick(round).keys());
        names.filter_map(|name| Some((*name, of(&|round| pick(round).get(name).copied())?))).collect()
    };
    Some(Round {
        orders_per_second: of(&|r| Some(r.orders_per_second))?,
        p50_ms: of(&|r| Some(r.p50_ms))?,
        p99_ms: of(&|r| Some(r.p99_ms))?,
        cpu_ms_per_order: map(|r| &r.cpu_ms_per_order),
        server_per_order: map(|r| &r.server_per_order),
    })
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

impl Report {
    /// Whether the books that were written are in order.
    pub(super) fn is_sound(&self) -> bool {
        self.audit.is_sound()
    }

    /// The tables, for people.
    pub(super) fn text(&self) -> Result<String> {
        let mut out = String::new();
        let mib = |kib: u64| u32::try_from(kib).map_or(f64::NAN, |kib| f64::from(kib) / 1024.0);
        writeln!(out, "submit-order, release binary: {:.2} MiB", mib(self.binary_bytes / 1024))?;
        if let Some(start) = &self.start {
            writeln!(out, "\nms from process start to        median     p90     max")?;
            for (what, spread, has_target) in [
                ("a refusal, without database", start.refusal_ms, true),
                ("200 from /healthz", start.health_ms, false),
                ("the first order made", start.order_ms, true),
            ] {
                write!(out, "  {what:<28}{:>8.1}{:>8.1}{:>8.1}", spread.median, spread.p90, spread.max)?;
                match has_target {
                    true => writeln!(out, "   target ≤ {START_MS_MAX}: {}", verdict(spread.median <= START_MS_MAX))?,
                    false => writeln!(out)?,
                }
            }
        }
        if let Some(memory) = &self.memory {
            writeln!(out, "\nMiB resident                       all  not shared with files")?;
            let met = verdict(memory.idle_kib <= IDLE_KIB_MAX);
            let (idle, idle_anonymous) = (mib(memory.idle_kib), mib(memory.idle_anonymous_kib));
            writeln!(out, "  idle, never called          {idle:>8.1}{idle_anonymous:>8.1}   target ≤ 12: {met}")?;
            let (used, used_anonymous) = (mib(memory.used_kib), mib(memory.used_anonymous_kib));
            let after = format!("idle after {} orders", memory.orders);
            let met = verdict(memory.used_kib <= IDLE_KIB_MAX);
            writeln!(out, "  {after:<28}{used:>8.1}{used_anonymous:>8.1}   target ≤ 12: {met}")?;
        }
        if !self.cells.is_empty() {
            self.throughput(&mut out)?;
        }
        writeln!(out, "\naudit of the function's database: {}", self.audit)?;
        Ok(out.trim_end().to_owned())
    }

    fn throughput(&self, out: &mut String) -> Result<()> {
        writeln!(out, "\nsubmitOrder beside the same statements issued directly by the driver; medians of the rounds")?;
        writeln!(out, "                              orders/s  p50 ms  p99 ms   CPU ms per order, by process")?;
        for cell in &self.cells {
            for (side, round) in &cell.sides {
                let label = format!("{:?} {:>3} {side:?}", cell.scenario, cell.clients);
                let (rate, p50, p99) = (round.orders_per_second, round.p50_ms, round.p99_ms);
                write!(out, "  {label:<26}{rate:>10.1}{p50:>8.2}{p99:>8.2}  ")?;
                for (name, ms) in &round.cpu_ms_per_order {
                    write!(out, " {name} {ms:.2}")?;
                }
                writeln!(out)?;
            }
        }
        writeln!(out, "\nfunction ÷ direct, orders/s     median     min     max  by CPU")?;
        for cell in &self.cells {
            let Some(ratio) = cell.ratio else { continue };
            let label = format!("{:?}, clients: {}", cell.scenario, cell.clients);
            let met = verdict(ratio.median >= RATIO_MIN);
            let by_cpu = cell.cpu_ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            writeln!(
                out,
                "  {label:<28}{:>8.3}{:>8.3}{:>8.3}{by_cpu:>8}   target ≥ {RATIO_MIN}: {met}",
                ratio.median, ratio.min, ratio.max
            )?;
        }
        let Some(cell) = self.cells.first() else { return Ok(()) };
        writeln!(out, "\nper order, as the server counts ({:?}, clients: {})", cell.scenario, cell.clients)?;
        for (side, round) in &cell.sides {
            write!(out, "  {:<12}", format!("{side:?}"))?;
            for (name, n) in round.server_per_order.iter().filter(|(_, n)| **n >= 0.005) {
                write!(out, " {name} {n:.2}")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(orders_per_second: f64) -> Round {
        Round {
            orders_per_second,
            p50_ms: 1.0,
            p99_ms: 2.0,
            cpu_ms_per_order: BTreeMap::from([("function", orders_per_second), ("clients", 0.0), ("mongod", 0.0)]),
            server_per_order: BTreeMap::from([("find", 3.0)]),
        }
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        let rounds = [(100.0, 200.0), (90.0, 100.0), (50.0, 100.0)];
        let rounds: Vec<(Side, Round)> =
            rounds.into_iter().flat_map(|(a, b)| [(Side::Function, round(a)), (Side::Direct, round(b))]).collect();
        let cell = Cell::of(Scenario::Hot, 16, &rounds);
        assert_eq!(cell.ratio.map(|r| (r.min, r.median, r.max)), Some((0.5, 0.5, 0.9)));
        assert_eq!(cell.sides[&Side::Function].orders_per_second, 90.0);
        assert_eq!(cell.sides[&Side::Direct].cpu_ms_per_order["function"], 100.0);
        assert!(!cell.sides.contains_key(&Side::InProcess));
        assert_eq!(cell.cpu_ratio, Some(100.0 / 90.0));

        let audit = AuditLine { documents: 1, violations: Vec::new() };
        let report = Report { binary_bytes: 1 << 20, start: None, memory: None, cells: vec![cell], audit };
        let text = report.text().unwrap();
        assert!(text.contains("1.00 MiB") && text.contains("target ≥ 0.8: MISSED") && report.is_sound(), "{text}");
    }
}
