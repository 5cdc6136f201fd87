//! Bills out of the ledger: with a byte-order mark, CRLF, backticks and decimals, as the real ones.
//!
//! Fees are nothing here. Where the documents are silent this guesses: a used address may be used again while it lives, a refund
//! that was not done by ten in the morning is `PROCESSING`, and the accounts for operation and fees never have a bill.

use std::io::Write as _;

use chrono::{DateTime, FixedOffset, Months, NaiveDate, NaiveTime, TimeDelta, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{StatusCode, Uri};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::json;

use super::{Answer, Call, Refusal, header};
use crate::control::{BillMode, ChangeBill};
use crate::crypto::random_hex;
use crate::state::{BillFile, Order, Refund, RefundStatus};
use crate::{Sim, keys, query_value};

/// An address lives this long.
const TICKET_LIFE: TimeDelta = TimeDelta::minutes(5);
const MONTHS: Months = Months::new(3);
const BILL_MAX: usize = 100_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    All,
    Success,
    Refund,
}

/// A row of the trade bill, by column.
struct Row {
    at: DateTime<Utc>,
    values: Vec<(&'static str, String)>,
}

impl Row {
    fn value(&self, column: &str) -> &str {
        self.values.iter().find(|(name, _)| *name == column).map_or("", |(_, value)| value)
    }
}

const COLUMNS: [&str; 29] = [
    "交易时间",
    "公众账号ID",
    "商户号",
    "特约商户号",
    "设备号",
    "微信订单号",
    "商户订单号",
    "用户标识",
    "交易类型",
    "交易状态",
    "付款银行",
    "货币种类",
    "应结订单金额",
    "代金券金额",
    "退款申请时间",
    "退款成功时间",
    "微信退款单号",
    "商户退款单号",
    "退款金额",
    "充值券退款金额",
    "退款类型",
    "退款状态",
    "商品名称",
    "商户数据包",
    "手续费",
    "费率",
    "订单金额",
    "申请退款金额",
    "费率备注",
];
const OF_REFUNDS: [&str; 7] =
    ["微信退款单号", "商户退款单号", "退款金额", "充值券退款金额", "退款类型", "退款状态", "申请退款金额"];
const TIMES: [&str; 2] = ["退款申请时间", "退款成功时间"];

impl Kind {
    fn columns(self) -> Vec<&'static str> {
        let shown = |column: &&str| match self {
            Self::All => !TIMES.contains(column),
            Self::Success => !TIMES.contains(column) && !OF_REFUNDS.contains(column),
            Self::Refund => true,
        };
        COLUMNS.into_iter().filter(shown).collect()
    }
}

pub(super) fn trade(sim: &Sim, uri: &Uri, call: &Call<'_>, now: DateTime<Utc>) -> Result<Answer, Refusal> {
    let day = day(uri, &["bill_date", "bill_type", "tar_type"], now)?;
    let kind = match query_value(uri, "bill_type").as_deref() {
        None | Some("ALL") => Kind::All,
        Some("SUCCESS") => Kind::Success,
        Some("REFUND") => Kind::Refund,
        Some(_) => return Err(Refusal::param("bill_type", "ALL, SUCCESS or REFUND")),
    };
    let mut rows = Vec::new();
    let state = sim.state();
    let orders: Vec<&Order> = state.newest_orders().collect();
    for order in orders.into_iter().rev() {
        if let Some(paid_at) = order.paid_at.filter(|at| kind != Kind::Refund && beijing_day(*at) == Some(day)) {
            rows.push(paid(order, paid_at));
        }
        let refunds = order.refunds.iter().filter(|refund| beijing_day(refund.created_at) == Some(day));
        rows.extend(refunds.filter(|_| kind != Kind::Success).map(|refund| refunded(order, refund, day)));
    }
    for (at, change) in &state.bill_changes {
        apply(&mut rows, *at, change, day, kind);
    }
    drop(state);
    rows.sort_by_key(|row| row.at);
    rows.truncate(BILL_MAX);
    announce(sim, call, uri, &trade_text(kind, &rows).ok_or_else(nothing)?, now)
}

/// Makes a bill differ from the ledger in one row.
fn apply(rows: &mut Vec<Row>, at: DateTime<Utc>, change: &ChangeBill, day: NaiveDate, kind: Kind) {
    let is_it = |row: &Row| {
        let refund = row.value("商户退款单号");
        if refund == "0" { row.value("商户订单号").starts_with(&change.number) } else { refund == change.number }
    };
    match change.mode {
        BillMode::None => {}
        BillMode::Missing => rows.retain(|row| !is_it(row)),
        BillMode::Amount => {
            for row in rows.iter_mut().filter(|row| is_it(row)) {
                let of_refund = row.value("商户退款单号") != "0";
                let columns = if of_refund {
                    ["退款金额", "申请退款金额"]
                } else {
                    ["应结订单金额", "订单金额"]
                };
                for (_, value) in row.values.iter_mut().filter(|(name, _)| columns.contains(name)) {
                    *value = yuan(change.fen);
                }
            }
        }
        BillMode::Failed => {
            for row in rows.iter_mut().filter(|row| is_it(row)) {
                for (_, value) in row.values.iter_mut().filter(|(name, _)| *name == "退款状态") {
                    "FAIL".clone_into(value);
                }
            }
        }
        BillMode::Extra if beijing_day(at) == Some(day) && kind != Kind::Refund => {
            let told = change.number.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
            let mut values = said(&change.number, &format!("42{told:026}"), "o-somebody", at, "SUCCESS");
            values.extend(amounts(change.fen));
            rows.push(Row { at, values });
        }
        BillMode::Extra => {}
    }
}

fn trade_text(kind: Kind, rows: &[Row]) -> Option<String> {
    if rows.is_empty() {
        return None;
    }
    let columns = kind.columns();
    let mut text = format!("\u{feff}{}\r\n", columns.join(","));
    for row in rows {
        text.push_str(&line(columns.iter().map(|column| row.value(column))));
    }
    let sum = |column: &str| {
        let values = rows.iter().flat_map(|row| row.values.iter().filter(|(name, _)| *name == column));
        yuan(values.filter_map(|(_, value)| value.replace('.', "").parse::<i64>().ok()).sum())
    };
    let mut summary = vec![
        ("总交易单数", format!("{}.0", rows.len())),
        ("应结订单总金额", sum("应结订单金额")),
        ("退款总金额", sum("退款金额")),
        ("充值券退款总金额", "0.0".to_owned()),
        ("手续费总金额", "0.00".to_owned()),
        ("订单总金额", sum("订单金额")),
        ("申请退款总金额", sum("申请退款金额")),
    ];
    if kind == Kind::Success {
        summary.retain(|(name, _)| !name.contains("退款"));
    }
    let names: Vec<&str> = summary.iter().map(|(name, _)| *name).collect();
    text.push_str(&format!("{}\r\n", names.join(",")));
    text.push_str(&line(summary.iter().map(|(_, value)| value.as_str())));
    Some(text)
}

fn common(order: &Order, at: DateTime<Utc>, state: &str) -> Vec<(&'static str, String)> {
    let transaction = order.transaction_id.as_deref().unwrap_or_default();
    let mut values = said(&order.out_trade_no, transaction, &order.open_id, at, state);
    values.extend([
        ("商品名称", escaped(&order.description)),
        ("商户数据包", escaped(order.attach.as_deref().unwrap_or_default())),
    ]);
    values
}

fn said(ours: &str, transaction: &str, open_id: &str, at: DateTime<Utc>, state: &str) -> Vec<(&'static str, String)> {
    vec![
        ("交易时间", beijing_text(at)),
        ("公众账号ID", keys::APPID.to_owned()),
        ("商户号", keys::MCHID.to_owned()),
        ("特约商户号", "0".to_owned()),
        ("微信订单号", transaction.to_owned()),
        ("商户订单号", ours.to_owned()),
        ("用户标识", open_id.to_owned()),
        ("交易类型", "JSAPI".to_owned()),
        ("交易状态", state.to_owned()),
        ("付款银行", "OTHERS".to_owned()),
        ("货币种类", "CNY".to_owned()),
        ("代金券金额", yuan(0)),
        ("充值券退款金额", yuan(0)),
        ("手续费", "0.00000".to_owned()),
        ("费率", "0.00%".to_owned()),
    ]
}

/// Of a payment.
fn amounts(fen: i64) -> [(&'static str, String); 6] {
    [
        ("应结订单金额", yuan(fen)),
        ("微信退款单号", "0".to_owned()),
        ("商户退款单号", "0".to_owned()),
        ("退款金额", yuan(0)),
        ("订单金额", yuan(fen)),
        ("申请退款金额", yuan(0)),
    ]
}

fn paid(order: &Order, at: DateTime<Utc>) -> Row {
    let mut values = common(order, at, "SUCCESS");
    values.extend(amounts(order.ledger_fen()));
    Row { at, values }
}

fn refunded(order: &Order, refund: &Refund, day: NaiveDate) -> Row {
    // Written down when the bill is made, and never changed.
    let done = refund.success_at.filter(|at| ready_at(day).is_some_and(|ready| *at < ready));
    let status = match (refund.status, done) {
        (RefundStatus::Closed, _) => "FAIL",
        (RefundStatus::Abnormal, _) => "CHANGE",
        (_, Some(_)) => "SUCCESS",
        _ => "PROCESSING",
    };
    let mut values = common(order, refund.created_at, "REFUND");
    values.extend([
        ("应结订单金额", yuan(0)),
        ("退款申请时间", beijing_text(refund.created_at)),
        ("退款成功时间", done.map(beijing_text).unwrap_or_default()),
        ("微信退款单号", refund.refund_id.clone()),
        ("商户退款单号", refund.out_refund_no.clone()),
        ("退款金额", yuan(refund.refund_fen)),
        ("退款类型", "ORIGINAL".to_owned()),
        ("退款状态", status.to_owned()),
        ("订单金额", yuan(0)),
        ("申请退款金额", yuan(refund.refund_fen)),
    ]);
    Row { at: refund.created_at, values }
}

/// Keeps the file for a while and tells where it is, by the host the request came to and the prefix it came under.
fn announce(sim: &Sim, call: &Call<'_>, uri: &Uri, text: &str, now: DateTime<Utc>) -> Result<Answer, Refusal> {
    let packed = match query_value(uri, "tar_type").as_deref() {
        None => false,
        Some("GZIP") => true,
        Some(_) => return Err(Refusal::param("tar_type", "GZIP, or left out")),
    };
    let failed = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "SYSTEM_ERROR", "gzip failed");
    let bytes = if packed {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).map_err(failed)?
    } else {
        text.as_bytes().to_vec()
    };
    let token = random_hex::<16>();
    sim.state().keep_bill(BillFile { token: token.clone(), expires_at: now + TICKET_LIFE, bytes });
    let host = header(call.headers, "host").unwrap_or("127.0.0.1");
    let prefix = call.original.strip_suffix(call.inner).unwrap_or_default();
    Ok(Answer::Json(json!({
        "hash_type": "SHA1",
        "hash_value": hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes())),
        "download_url": format!("http://{host}{prefix}/v3/billdownload/file?token={token}"),
    })))
}

pub(super) fn download(sim: &Sim, uri: &Uri, now: DateTime<Utc>) -> Result<Answer, Refusal> {
    let token = query_value(uri, "token").ok_or_else(|| Refusal::param("token", "missing"))?;
    let expired = || Refusal::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", "下载地址已失效，请重新获取");
    Ok(Answer::File(sim.state().bill(&token, now).ok_or_else(expired)?.to_vec()))
}

fn day(uri: &Uri, allowed: &[&str], now: DateTime<Utc>) -> Result<NaiveDate, Refusal> {
    let names = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split('=').next());
    let mut seen = Vec::new();
    for name in names {
        if !allowed.contains(&name) || seen.contains(&name) {
            return Err(Refusal::param(name, "unknown or given twice"));
        }
        seen.push(name);
    }
    let text = query_value(uri, "bill_date").ok_or_else(|| Refusal::param("bill_date", "missing"))?;
    let day = text.parse::<NaiveDate>().ok().filter(|_| text.len() == 10);
    let day = day.ok_or_else(|| Refusal::param("bill_date", "not of the form 2026-11-20"))?;
    let today = beijing_day(now).unwrap_or(day);
    if day >= today || today.checked_sub_months(MONTHS).is_some_and(|oldest| day < oldest) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            "bill_date: before today, within 3 months",
        ));
    }
    if ready_at(day).is_some_and(|ready| now < ready) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "STATEMENT_CREATING", "账单生成中，请稍后再试"));
    }
    Ok(day)
}

fn nothing() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "NO_STATEMENT_EXIST", "账单文件不存在")
}

/// Ten in the morning of the day after.
fn ready_at(day: NaiveDate) -> Option<DateTime<Utc>> {
    let ten = day.succ_opt()?.and_time(NaiveTime::from_hms_opt(10, 0, 0)?);
    Some((ten - TimeDelta::hours(8)).and_utc())
}

fn beijing_day(at: DateTime<Utc>) -> Option<NaiveDate> {
    FixedOffset::east_opt(8 * 3_600).map(|offset| at.with_timezone(&offset).date_naive())
}

fn beijing_text(at: DateTime<Utc>) -> String {
    (at.naive_utc() + TimeDelta::hours(8)).format("%Y-%m-%d %H:%M:%S").to_string()
}

fn yuan(fen: i64) -> String {
    let sign = if fen < 0 { "-" } else { "" };
    let fen = fen.unsigned_abs();
    format!("{sign}{}.{:02}", fen / 100, fen % 100)
}

fn line<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let values: Vec<String> = values.map(|value| format!("`{value}")).collect();
    format!("{}\r\n", values.join(","))
}

/// What the merchant wrote must not break the file.
fn escaped(text: &str) -> String {
    text.replace(',', "\\ ").replace('\n', "\\n").replace('`', "'")
}
