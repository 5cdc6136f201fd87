//! The file of a bill, row by row: as long as it likes, in as little memory as one row.
//!
//! Its habits: UTF-8 with a byte-order mark, CRLF, a header without and values with a leading backtick, yuan as decimals, a summary
//! at the end with its own header. Columns are found by name, for they differ by kind of bill and by age of merchant. A file
//! counts only when its summary has come and agrees with the rows: one that was cut off looks like a quiet day.
//!
//! Sources: pay.weixin.qq.com/doc/v3/merchant/4013071227 and 4013071235; tests/fixtures/bill.ALL.csv of wechatpay-php.

use std::io::{BufRead, Read as _};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

use crate::Personal;

/// Longer than any row: the longest values are a description of 127 characters and merchant data of 128.
const LINE_MAX: u64 = 16 * 1024;

/// Decimals of the fee column.
const FEE_SCALE: u32 = 5;
/// What a fee in [`FEE_SCALE`] decimals and one in two may differ by: both rounding and cutting happen.
const FEE_ROUNDING: i64 = 1_000;

/// Why a file is not a whole bill. Nothing in it may be acted on then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BillFormatError {
    /// The file could not be read.
    #[error("the bill cannot be read")]
    Io(#[from] std::io::Error),
    /// A line is longer than any bill's, or is not UTF-8.
    #[error("line {0} of the bill is not a line of text")]
    Line(u64),
    /// A column that is needed is not there: another kind of bill, or another kind of file.
    #[error("the bill has no column {0}")]
    Header(&'static str),
    /// A row has more or fewer values than there are columns.
    #[error("line {0} of the bill has a wrong number of values")]
    Columns(u64),
    /// A value is not what its column promises.
    #[error("line {line} of the bill has no usable {column}")]
    Value {
        /// Counted from 1, the header's.
        line: u64,
        /// The column.
        column: &'static str,
    },
    /// The file ends before its summary.
    #[error("the bill ends before its summary")]
    Truncated,
    /// The summary disagrees with the rows.
    #[error("the bill's {0} is not the sum of its rows")]
    Summary(&'static str),
    /// Something follows the summary.
    #[error("line {0} of the bill follows its summary")]
    Trailing(u64),
}

/// A row of the trade bill: a payment, or a refund that was accepted that day. Refund rows are never updated later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TradeRow {
    /// Counted from 1, the header's.
    pub line: u64,
    /// When it was paid, or the refund accepted.
    pub at: DateTime<Utc>,
    /// The mini program.
    pub appid: String,
    /// The merchant.
    pub mchid: String,
    /// WeChat's number of the payment.
    pub transaction_id: String,
    /// Our number of the payment.
    pub out_trade_no: String,
    /// Who paid.
    pub openid: Option<Personal>,
    /// `JSAPI`, `NATIVE` …
    pub trade_type: String,
    /// Payment or refund.
    pub state: BillState,
    /// `CNY`.
    pub currency: String,
    /// Fen of the whole payment, to compare with `amount.total`; 0 in refund rows, absent for some old merchants.
    pub total_fen: Option<i64>,
    /// Fen that will be settled: the total less WeChat's own coupons.
    pub settlement_fen: i64,
    /// Fen of coupons.
    pub coupon_fen: i64,
    /// What the merchant gave along; empty when nothing.
    pub attach: String,
    /// WeChat's share, in hundred-thousandths of a yuan; negative when given back.
    pub fee_hundred_thousandths: i64,
    /// Such as `0.60%`.
    pub rate: String,
    /// In refund rows.
    pub refund: Option<RefundPart>,
}

/// What a refund row adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundPart {
    /// WeChat's number.
    pub refund_id: String,
    /// Our number.
    pub out_refund_no: String,
    /// Fen given back, less coupons.
    pub refund_fen: i64,
    /// Fen of coupons given back.
    pub coupon_refund_fen: i64,
    /// Fen that were asked for, to compare with `amount.refund`; absent for some old merchants.
    pub applied_fen: Option<i64>,
    /// `ORIGINAL` …
    pub channel: String,
    /// `SUCCESS`, `PROCESSING`, `FAIL` or `CHANGE`; not the states of the API.
    pub status: String,
    /// In refund bills.
    pub applied_at: Option<DateTime<Utc>>,
    /// In refund bills, once the money was back.
    pub success_at: Option<DateTime<Utc>>,
}

/// What a row of the trade bill is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BillState {
    /// `SUCCESS`: paid.
    Success,
    /// `REFUND`: given back, in part or whole.
    Refund,
    /// `REVOKED`: cancelled at a till.
    Revoked,
    /// A value this version does not know.
    Unknown(String),
}

/// What a bill says of itself, agreed with its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BillSummary {
    /// Rows.
    pub n_rows: i64,
    /// Fen in: of orders (应结订单总金额).
    pub in_fen: i64,
    /// Fen out: of refunds (退款总金额).
    pub out_fen: i64,
}

/// Rows of a trade bill. Ends with an error unless the summary agrees; only then does [`TradeBill::summary`] have one.
#[derive(Debug)]
pub struct TradeBill<R> {
    table: Table<R>,
    sums: TradeSums,
    summary: Option<BillSummary>,
}

#[derive(Debug, Default)]
struct TradeSums {
    n_rows: i64,
    settlement: i64,
    refund: i64,
    coupon_refund: i64,
    fee: i64,
    total: i64,
    applied: i64,
}

impl<R: BufRead> TradeBill<R> {
    /// Read the header.
    pub fn new(reader: R) -> Result<Self, BillFormatError> {
        let table = Table::new(reader, "总交易单数")?;
        for column in ["交易时间", "商户号", "微信订单号", "商户订单号", "交易状态"] {
            if table.place(column).is_none() {
                return Err(BillFormatError::Header(column));
            }
        }
        Ok(Self { table, sums: TradeSums::default(), summary: None })
    }

    /// What the bill says of itself; present once all rows were read and agreed with.
    pub fn summary(&self) -> Option<&BillSummary> {
        self.summary.as_ref()
    }

    /// Whether it is of a kind that has the payments of its day: not a bill of refunds only.
    pub fn has_payments(&self) -> bool {
        self.table.place("退款申请时间").is_none()
    }

    /// Whether it is of a kind that has the refunds of its day: not a bill of payments only.
    pub fn has_refunds(&self) -> bool {
        self.table.place("微信退款单号").is_some()
    }

    fn advance(&mut self) -> Result<Option<TradeRow>, BillFormatError> {
        if self.summary.is_some() {
            return Ok(None);
        }
        match self.table.advance()? {
            Line::Row(row) => {
                let read = trade_row(&self.table, &row)?;
                self.sums.add(&read).ok_or(BillFormatError::Value { line: row.line, column: "应结订单金额" })?;
                Ok(Some(read))
            }
            Line::Summary(summary) => {
                self.summary = Some(self.sums.agree(&summary)?);
                Ok(None)
            }
        }
    }
}

impl<R: BufRead> Iterator for TradeBill<R> {
    type Item = Result<TradeRow, BillFormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.table.failed {
            return None;
        }
        let item = self.advance();
        self.table.failed = item.is_err();
        item.transpose()
    }
}

impl TradeSums {
    fn add(&mut self, row: &TradeRow) -> Option<()> {
        let plus = |sum: &mut i64, value: i64| {
            *sum = sum.checked_add(value)?;
            Some(())
        };
        plus(&mut self.n_rows, 1)?;
        plus(&mut self.settlement, row.settlement_fen)?;
        plus(&mut self.fee, row.fee_hundred_thousandths)?;
        plus(&mut self.total, row.total_fen.unwrap_or_default())?;
        if let Some(refund) = &row.refund {
            plus(&mut self.refund, refund.refund_fen)?;
            plus(&mut self.coupon_refund, refund.coupon_refund_fen)?;
            plus(&mut self.applied, refund.applied_fen.unwrap_or_default())?;
        }
        Some(())
    }

    fn agree(&self, summary: &Summary) -> Result<BillSummary, BillFormatError> {
        summary.count("总交易单数", self.n_rows)?;
        for (column, sum) in [
            ("应结订单总金额", self.settlement),
            ("退款总金额", self.refund),
            ("充值券退款总金额", self.coupon_refund),
            ("订单总金额", self.total),
            ("申请退款总金额", self.applied),
        ] {
            summary.amount(column, sum)?;
        }
        if let Some(fee) = summary.value("手续费总金额", FEE_SCALE)?
            && fee.abs_diff(self.fee) >= FEE_ROUNDING.unsigned_abs()
        {
            return Err(BillFormatError::Summary("手续费总金额"));
        }
        Ok(BillSummary { n_rows: self.n_rows, in_fen: self.settlement, out_fen: self.refund })
    }
}

fn trade_row<R>(table: &Table<R>, row: &Row) -> Result<TradeRow, BillFormatError> {
    let text = |column| table.text(row, column);
    let state = match text("交易状态") {
        "SUCCESS" => BillState::Success,
        "REFUND" => BillState::Refund,
        "REVOKED" => BillState::Revoked,
        other => BillState::Unknown(other.to_owned()),
    };
    // An absent number is written as 0.
    let refund_id = Some(text("微信退款单号")).filter(|id| !matches!(*id, "" | "0"));
    let refund = match refund_id {
        None => None,
        Some(refund_id) => Some(RefundPart {
            refund_id: refund_id.to_owned(),
            out_refund_no: table.needed(row, "商户退款单号")?.to_owned(),
            refund_fen: table.fen(row, "退款金额")?.unwrap_or_default(),
            coupon_refund_fen: table.fen(row, "充值券退款金额")?.unwrap_or_default(),
            applied_fen: table.fen(row, "申请退款金额")?,
            channel: text("退款类型").to_owned(),
            status: text("退款状态").to_owned(),
            applied_at: table.time(row, "退款申请时间")?,
            success_at: table.time(row, "退款成功时间")?,
        }),
    };
    if refund.is_none() && state == BillState::Refund {
        return Err(BillFormatError::Value { line: row.line, column: "微信退款单号" });
    }
    Ok(TradeRow {
        line: row.line,
        at: table.time(row, "交易时间")?.ok_or(BillFormatError::Value { line: row.line, column: "交易时间" })?,
        appid: text("公众账号ID").to_owned(),
        mchid: table.needed(row, "商户号")?.to_owned(),
        transaction_id: table.needed(row, "微信订单号")?.to_owned(),
        out_trade_no: table.needed(row, "商户订单号")?.to_owned(),
        openid: Some(text("用户标识")).filter(|id| !id.is_empty()).map(Personal::new),
        trade_type: text("交易类型").to_owned(),
        state,
        currency: text("货币种类").to_owned(),
        total_fen: table.fen(row, "订单金额")?,
        settlement_fen: table.fen(row, "应结订单金额")?.unwrap_or_default(),
        coupon_fen: table.fen(row, "代金券金额")?.unwrap_or_default(),
        attach: text("商户数据包").to_owned(),
        fee_hundred_thousandths: table.number(row, "手续费", FEE_SCALE)?.unwrap_or_default(),
        rate: text("费率").to_owned(),
        refund,
    })
}

/// The common shape of bills.
#[derive(Debug)]
struct Table<R> {
    reader: R,
    columns: Vec<String>,
    /// How the header of the summary begins.
    summary_starts: &'static str,
    line: u64,
    failed: bool,
}

struct Row {
    line: u64,
    values: Vec<String>,
}

struct Summary {
    columns: Vec<String>,
    row: Row,
}

enum Line {
    Row(Row),
    Summary(Summary),
}

impl<R: BufRead> Table<R> {
    fn new(reader: R, summary_starts: &'static str) -> Result<Self, BillFormatError> {
        let mut table = Self { reader, columns: Vec::new(), summary_starts, line: 0, failed: false };
        let header = table.text_line()?.ok_or(BillFormatError::Truncated)?;
        table.columns = header.trim_start_matches('\u{feff}').split(',').map(|name| name.trim().to_owned()).collect();
        Ok(table)
    }

    /// The next row, or the summary that ends the file.
    fn advance(&mut self) -> Result<Line, BillFormatError> {
        let text = self.text_line()?.ok_or(BillFormatError::Truncated)?;
        if text.starts_with('`') {
            return Ok(Line::Row(Row { line: self.line, values: self.values(&text, self.columns.len())? }));
        }
        if !text.starts_with(self.summary_starts) {
            return Err(BillFormatError::Columns(self.line));
        }
        let columns: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let text = self.text_line()?.ok_or(BillFormatError::Truncated)?;
        let row = Row { line: self.line, values: self.values(&text, columns.len())? };
        while let Some(text) = self.text_line()? {
            if !text.trim().is_empty() {
                return Err(BillFormatError::Trailing(self.line));
            }
        }
        Ok(Line::Summary(Summary { columns, row }))
    }

    /// Values begin with a backtick, which shows a comma inside one for what it is.
    fn values(&self, text: &str, n_columns: usize) -> Result<Vec<String>, BillFormatError> {
        let text = text.strip_prefix('`').ok_or(BillFormatError::Columns(self.line))?;
        let values: Vec<String> = text.split(",`").map(|value| value.trim().to_owned()).collect();
        if values.len() == n_columns { Ok(values) } else { Err(BillFormatError::Columns(self.line)) }
    }

    fn text_line(&mut self) -> Result<Option<String>, BillFormatError> {
        let mut bytes = Vec::new();
        let length = (&mut self.reader).take(LINE_MAX).read_until(b'\n', &mut bytes)?;
        if length == 0 {
            return Ok(None);
        }
        self.line = self.line.saturating_add(1);
        if u64::try_from(length).is_ok_and(|length| length == LINE_MAX) && !bytes.ends_with(b"\n") {
            return Err(BillFormatError::Line(self.line));
        }
        let mut text = String::from_utf8(bytes).map_err(|_| BillFormatError::Line(self.line))?;
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        Ok(Some(text))
    }
}

impl<R> Table<R> {
    fn place(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| name == column)
    }

    /// The value, or nothing where the bill has no such column.
    fn text<'r>(&self, row: &'r Row, column: &str) -> &'r str {
        self.place(column).and_then(|place| row.values.get(place)).map_or("", String::as_str)
    }

    fn needed<'r>(&self, row: &'r Row, column: &'static str) -> Result<&'r str, BillFormatError> {
        match self.text(row, column) {
            "" | "0" => Err(BillFormatError::Value { line: row.line, column }),
            text => Ok(text),
        }
    }

    fn number(&self, row: &Row, column: &'static str, scale: u32) -> Result<Option<i64>, BillFormatError> {
        match self.text(row, column) {
            "" => Ok(None),
            text => decimal(text, scale).map(Some).ok_or(BillFormatError::Value { line: row.line, column }),
        }
    }

    fn fen(&self, row: &Row, column: &'static str) -> Result<Option<i64>, BillFormatError> {
        self.number(row, column, 2)
    }

    fn time(&self, row: &Row, column: &'static str) -> Result<Option<DateTime<Utc>>, BillFormatError> {
        match self.text(row, column) {
            "" => Ok(None),
            text => beijing_time(text).map(Some).ok_or(BillFormatError::Value { line: row.line, column }),
        }
    }
}

impl Summary {
    fn value(&self, column: &'static str, scale: u32) -> Result<Option<i64>, BillFormatError> {
        let value = self.columns.iter().position(|name| name == column).and_then(|place| self.row.values.get(place));
        value.map(|text| decimal(text, scale).ok_or(BillFormatError::Value { line: self.row.line, column })).transpose()
    }

    /// A count is written as a decimal too.
    fn count(&self, column: &'static str, expected: i64) -> Result<(), BillFormatError> {
        agree(column, self.value(column, 0)?, expected)
    }

    fn amount(&self, column: &'static str, expected: i64) -> Result<(), BillFormatError> {
        agree(column, self.value(column, 2)?, expected)
    }
}

/// A column that is not in this kind of summary agrees with everything.
fn agree(column: &'static str, value: Option<i64>, expected: i64) -> Result<(), BillFormatError> {
    if value.is_none_or(|value| value == expected) { Ok(()) } else { Err(BillFormatError::Summary(column)) }
}

/// A decimal as a whole number of its `scale`-th decimal place: with 2, yuan become fen. More places must be zeros.
pub(crate) fn decimal(text: &str, scale: u32) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let scale = usize::try_from(scale).ok()?;
    let kept = fraction.get(..scale.min(fraction.len()))?;
    if fraction.get(kept.len()..)?.bytes().any(|byte| byte != b'0') {
        return None;
    }
    let value: i64 = format!("{whole}{kept:0<scale$}").parse().ok()?;
    if negative { value.checked_neg() } else { Some(value) }
}

/// `yyyy-MM-dd HH:mm:ss` in Beijing.
pub(crate) fn beijing_time(text: &str) -> Option<DateTime<Utc>> {
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()?;
    Some(local.checked_sub_signed(TimeDelta::hours(8))?.and_utc())
}
