//! `reconcileBill` (timer): compares yesterday's bill of WeChat Pay, and those of days that were missed, with our books.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::Days;
use domain::{BusinessDay, Failure, Refusal};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::bills::{Compared, Comparison, Uncompared};
use store::bills::{BILL_KEPT_DAYS, Bill, BillStatus};

/// Days without any comparison that are made up for.
const DAYS_MAX: u64 = 30;
/// A run stops when less is left: as long as one exchange with WeChat and the writes after it may take.
const RESERVE: Duration = Duration::from_secs(15);

pub fn function() -> Function {
    Function::new("reconcileBill", handle)
        .summary("每日核对微信支付账单")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store, Need::Pay])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
struct Input {
    /// `YYYY-MM-DD` in Asia/Shanghai: this day, compared before or not; within three months. Without it yesterday and, up to 30, the
    /// days that were missed.
    date: Option<String>,
}

#[derive(Default, Serialize)]
struct Output {
    /// What was compared now.
    days: Vec<DayOutput>,
    /// Days that are not compared yet: the next tick goes on with them.
    remaining: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DayOutput {
    date: String,
    /// `done`, or `none` for a day without trade.
    status: &'static str,
    payments: i64,
    refunds: i64,
    /// Payments and refunds that were settled because the bill has them.
    settled: i64,
    /// Differences found now; `exceptions` lists them.
    differences: usize,
    /// How many of them are new.
    recorded: i64,
}

impl From<Compared> for DayOutput {
    fn from(compared: Compared) -> Self {
        Self {
            date: compared.day.to_string(),
            status: compared.status.as_str(),
            payments: compared.totals.payments,
            refunds: compared.totals.refunds,
            settled: compared.settled,
            differences: compared.differences.len(),
            recorded: compared.recorded,
        }
    }
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let today = BusinessDay::of(ctx.now);
    let wanted = input.date.filter(|text| !text.is_empty()).map(|text| day(&text, today)).transpose()?;
    let days = match wanted {
        Some(day) => vec![day],
        None => missed(&ctx, today).await?,
    };
    let goes_on = || ctx.time_left() > RESERVE;
    let comparison = Comparison {
        store: ctx.store(),
        client: Some(ctx.pay()?),
        rules: ctx.rules(),
        now: ctx.now,
        dry_run: false,
        source: "bill",
        goes_on: &goes_on,
    };
    let mut output = Output::default();
    for day in days {
        if !goes_on() {
            output.remaining.push(day.to_string());
            continue;
        }
        match comparison.fetch(ctx.pay()?, day).await {
            Ok(compared) => output.days.push(compared.into()),
            // Asked for by hand, so whoever asks is told.
            Err(Uncompared::Failed(failure)) if wanted.is_some() => return Err(failure),
            Err(why) => {
                match &why {
                    Uncompared::Later | Uncompared::OutOfTime | Uncompared::Changed => {}
                    other => {
                        let error: &dyn std::error::Error = other;
                        tracing::warn!(day = day.to_string(), error, "a bill is not compared yet");
                    }
                }
                output.remaining.push(day.to_string());
            }
        }
    }
    Reply::of(&output)
}

fn day(text: &str, today: BusinessDay) -> Result<BusinessDay, Refusal> {
    let wrong = || Refusal::invalid("date", "date 应为三个月内、今天以前的日期，格式 YYYY-MM-DD");
    let day = BusinessDay::parse(text).ok_or_else(wrong)?;
    let oldest = today.date().checked_sub_months(chrono::Months::new(3)).ok_or_else(wrong)?;
    if day < today && day.date() >= oldest { Ok(day) } else { Err(wrong()) }
}

/// The days up to yesterday that are not compared and whose next try is due: what was not tried yet first, the oldest day first,
/// then what has waited longest, so that a day that takes many runs holds up no other. Where there are none yet, only yesterday:
/// what was before is not the shop's to explain.
async fn missed(ctx: &Context, today: BusinessDay) -> Result<Vec<BusinessDay>, Failure> {
    let back = |days: u64| {
        let date = today.date().checked_sub_days(Days::new(days)).unwrap_or_default();
        BusinessDay::parse(&date.format("%Y-%m-%d").to_string()).unwrap_or(today)
    };
    let limit = i64::try_from(BILL_KEPT_DAYS).unwrap_or(i64::MAX);
    // Any older day that was compared may have to be compared again.
    let known = ctx.store().bills_from(back(BILL_KEPT_DAYS), limit).await?;
    let known: BTreeMap<BusinessDay, Bill> =
        known.into_iter().filter_map(|bill| Some((BusinessDay::parse(&bill.day)?, bill))).collect();
    let mut day = known.range(back(DAYS_MAX)..).next().map_or_else(|| back(1), |(day, _)| *day);
    let mut days: BTreeSet<BusinessDay> = known.keys().copied().filter(|known| *known < today).collect();
    while day < today {
        days.insert(day);
        day = day.next();
    }
    let next = |day: &BusinessDay| known.get(day).and_then(|bill| bill.next_attempt_at);
    let due = |day: &BusinessDay| {
        let open = known.get(day).is_none_or(|bill| bill.status == BillStatus::Open);
        open && next(day).is_none_or(|at| at <= ctx.now)
    };
    let mut days: Vec<BusinessDay> = days.into_iter().filter(due).collect();
    days.sort_by_key(next);
    Ok(days)
}
