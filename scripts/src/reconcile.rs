//! `jinlu reconcile`

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use domain::money::Yuan;
use domain::{BusinessDay, Fen, ShopRules};
use edge::Clock;
use shop::bills::{BillFile, Compared, Comparison, survey};
use store::Store;
use store::payments::{ExceptionKind, PaymentException};

use crate::cli::say;
use crate::database::DatabaseArgs;

/// 用下载的微信支付账单核对账目 · Compare a downloaded WeChat Pay bill with the books
///
/// 交易账单（ALL、SUCCESS、REFUND 均可）从商户平台下载，解压后原样传入：带 BOM、反引号、小数金额、末尾汇总均可识别；
/// 汇总与明细不符或文件不完整则拒绝。逐条双向核对，每处差异输出一行并登记到 paymentExceptions（--dry-run 只输出）；
/// 同一份账单重复核对不会重复登记。没有差异时退出码为 0，有差异为 1。
/// 本命令不联系微信：账单已付而本地未结的付款、账单已退而本地未退的退款只作为差异登记，由 reconcileBill {date} 查询并处理。
/// Takes a trade bill of any kind as it comes from the merchant portal, unpacked. Prints a line per difference and records it
/// (not with --dry-run); comparing the same bill again records nothing twice. Exits 0 without differences, 1 with them.
/// It does not call WeChat Pay: a payment that the bill has and that is not settled is a difference, and so is a refund that the bill
/// has as done and that is not done with us; `reconcileBill {date}` asks about them. Refunds of ours that the bill has not are
/// found only where WeChat has said when it accepted them; `reconcileBill` asks about the others.
///
/// Examples:
///   jinlu reconcile --file bill.csv --dry-run             look first; the local cloud in .jinlu
///   jinlu reconcile --file bill.csv --uri mongodb://…     record the differences for staff to resolve
///   jinlu reconcile --file refunds.csv --date 2026-11-20  refuse a bill of any other day
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 账单文件 · The bill
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// 账单日期 · The bill's day, YYYY-MM-DD in Asia/Shanghai; told by the bill itself unless given
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
    /// 商户号 · Refuse a bill of any other merchant
    #[arg(long, value_name = "MCHID", env = "WXPAY_MCHID")]
    mchid: Option<String>,
    /// 只输出，不登记 · Only print the differences
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

struct OnDisk(PathBuf);

impl BillFile for OnDisk {
    fn open(&self) -> io::Result<Box<dyn BufRead + Send + '_>> {
        Ok(Box::new(BufReader::new(File::open(&self.0)?)))
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let opened = args.database.open().await?;
    let compared = compare(&args, &opened.store, &Clock::system()).await;
    opened.close().await?;
    let compared = compared?;
    for difference in &compared.differences {
        say(line(difference))?;
    }
    let totals = compared.totals;
    let recorded = if args.dry_run { "nothing recorded".to_owned() } else { format!("{} new", compared.recorded) };
    say(format_args!(
        "{}: {} payments of {}, {} refunds of {}; {} differences, {recorded}",
        compared.day,
        totals.payments,
        yuan(totals.paid_fen),
        totals.refunds,
        yuan(totals.refund_fen),
        compared.differences.len(),
    ))?;
    Ok(if compared.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn compare(args: &Args, store: &Store, clock: &Clock) -> Result<Compared> {
    let file = OnDisk(args.file.clone());
    let shown = args.file.display();
    let surveyed = survey(&file).with_context(|| format!("{shown} is not a whole trade bill"))?;
    if let (Some(wanted), Some(found)) = (&args.mchid, &surveyed.mchid)
        && wanted != found
    {
        bail!("{shown} is a bill of merchant {found}, not of {wanted}");
    }
    let given =
        args.date.as_deref().map(|text| BusinessDay::parse(text).context("--date is not of the form 2026-11-20"));
    let day = match (given.transpose()?, surveyed.days.iter().next()) {
        (Some(day), _) => day,
        (None, Some(day)) if surveyed.days.len() == 1 => *day,
        (None, Some(_)) => bail!("{shown} has several days: download one day at a time"),
        (None, None) => bail!("{shown} has no rows, so it does not tell its day: name it with --date"),
    };
    let rules = ShopRules::default();
    let comparison = Comparison {
        store,
        client: None,
        rules: &rules,
        now: clock.now(),
        dry_run: args.dry_run,
        source: "file",
        goes_on: &|| true,
    };
    Ok(comparison.compare(day, &file, surveyed).await?)
}

fn yuan(fen: i64) -> Yuan {
    Yuan(Fen::new(fen.max(0)).unwrap_or_default())
}

fn line(difference: &PaymentException) -> String {
    let what = match difference.kind {
        ExceptionKind::BillUnknownPayment => "账单有、系统无的付款 · in the bill and not ours",
        ExceptionKind::BillMissingPayment => "系统已付、账单无 · ours and not in the bill",
        ExceptionKind::BillAmount => "付款金额不符 · another amount",
        ExceptionKind::BillState => "付款状态不符 · another state",
        ExceptionKind::BillUnknownRefund => "账单有、系统无的退款 · a refund that is not ours",
        ExceptionKind::BillMissingRefund => "系统已退、账单无 · our refund is not in the bill",
        ExceptionKind::BillRefundAmount => "退款金额不符 · another amount of a refund",
        ExceptionKind::BillRefundState => "退款状态不符 · another state of a refund",
        _ => "其他 · something else",
    };
    let number = difference.bill_refund_no.as_deref().unwrap_or(&difference.out_trade_no);
    let expected = difference.expected_amount.map_or_else(|| "-".to_owned(), |fen| Yuan(fen).to_string());
    format!("{number} {what}: {} / {expected} [paymentExceptions/{}]", Yuan(difference.amount), difference.id)
}
