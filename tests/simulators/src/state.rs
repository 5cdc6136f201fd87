//! What the upstreams remember: orders with their prepays and refunds, tokens, messages of both kinds, permissions.
//!
//! Bounded, and kept in a journal when a state file is set: each change appends one JSON line with a single write, so that a
//! killed process loses nothing it answered for; at start and when the journal has grown it is rewritten through a temporary
//! file and a rename. A torn last line, from a kill in mid-write, is dropped: its request was never answered.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;
use crate::control::ChangeBill;
use crate::kuaidi100::{Parcel, Parcels};

const ORDERS_MAX: usize = 10_000;
const MESSAGES_MAX: usize = 100_000;
const SMS_MAX: usize = 10_000;
const CODES_MAX: usize = 10_000;
const QUOTAS_MAX: usize = 100_000;
const TOKENS_MAX: usize = 20;
const BILLS_MAX: usize = 20;
/// Byte-equal repeats of one order; only the newest ones can be paid.
const PREPAYS_MAX: usize = 20;
/// The upstream closes what nobody paid for a week.
const UNPAID_LIFE: TimeDelta = TimeDelta::days(7);
/// A `prepay_id` is valid for two hours whatever the order's `time_expire`.
const PREPAY_LIFE: TimeDelta = TimeDelta::hours(2);

/// One merchant order as WeChat Pay knows it. Amounts are fen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Position in the order of creation.
    pub sequence: u64,
    /// The merchant's number.
    pub out_trade_no: String,
    /// Text shown to the payer.
    pub description: String,
    /// Echoed to the merchant once paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<String>,
    /// Where the notice goes.
    pub notify_url: String,
    /// Who may pay.
    pub open_id: String,
    /// What the merchant asked for.
    pub total_fen: i64,
    /// What was paid; differs from `total_fen` only if the steering call said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_fen: Option<i64>,
    /// Last moment to pay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_expire: Option<DateTime<Utc>>,
    /// First prepay.
    pub created_at: DateTime<Utc>,
    /// Exact text of the first prepay: a repeat must equal it byte by byte.
    pub request: String,
    /// Prepays of this order, oldest first.
    pub prepays: Vec<Prepay>,
    /// Closed by the merchant.
    #[serde(default)]
    pub closed: bool,
    /// Present once paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
    /// Moment of payment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<DateTime<Utc>>,
    /// Refunds in the order they were accepted.
    #[serde(default)]
    pub refunds: Vec<Refund>,
}

/// One `prepay_id`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prepay {
    /// The id given to the mini program.
    pub id: String,
    /// Valid for two hours from here.
    pub created_at: DateTime<Utc>,
}

/// One refund. Amounts are fen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refund {
    /// WeChat Pay's number.
    pub refund_id: String,
    /// The merchant's number.
    pub out_refund_no: String,
    /// How much goes back.
    pub refund_fen: i64,
    /// Where the notice goes; without it none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify_url: Option<String>,
    /// The accepted request: a repeat must say the same.
    pub request: Value,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// Where it stands.
    pub status: RefundStatus,
    /// When the money arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_at: Option<DateTime<Utc>>,
}

/// State of a refund, spelled as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RefundStatus {
    /// Accepted, not done.
    Processing,
    /// The money arrived.
    Success,
    /// Failed; a new number may try again.
    Closed,
    /// Neither the original route nor the balance takes it.
    Abnormal,
}

impl RefundStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "PROCESSING",
            Self::Success => "SUCCESS",
            Self::Closed => "CLOSED",
            Self::Abnormal => "ABNORMAL",
        }
    }
}

/// `trade_state` of a JSAPI order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TradeState {
    NotPay,
    Success,
    Refund,
    Closed,
}

impl TradeState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotPay => "NOTPAY",
            Self::Success => "SUCCESS",
            Self::Refund => "REFUND",
            Self::Closed => "CLOSED",
        }
    }

    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::NotPay => "订单未支付",
            Self::Success => "支付成功",
            Self::Refund => "订单发生过退款，退款详情请查询退款单",
            Self::Closed => "订单已关闭",
        }
    }
}

impl Order {
    pub(crate) fn trade_state(&self, now: DateTime<Utc>) -> TradeState {
        if self.transaction_id.is_some() {
            let refunded = self.refunds.iter().any(|refund| refund.status != RefundStatus::Closed);
            if refunded { TradeState::Refund } else { TradeState::Success }
        } else if self.closed || now - self.created_at > UNPAID_LIFE {
            TradeState::Closed
        } else {
            TradeState::NotPay
        }
    }

    /// Total as the ledger shows it.
    pub(crate) fn ledger_fen(&self) -> i64 {
        self.paid_fen.unwrap_or(self.total_fen)
    }

    /// Refunds that hold money: all but the failed ones.
    pub(crate) fn refunded_fen(&self) -> i64 {
        self.refunds
            .iter()
            .filter(|refund| refund.status != RefundStatus::Closed)
            .fold(0, |sum: i64, refund| sum.saturating_add(refund.refund_fen))
    }

    pub(crate) fn expired(&self, now: DateTime<Utc>) -> bool {
        self.time_expire.is_some_and(|at| now > at)
    }

    pub(crate) fn prepay_valid(prepay: &Prepay, now: DateTime<Utc>) -> bool {
        now - prepay.created_at <= PREPAY_LIFE
    }
}

/// A subscribe message that was accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Number given to the sender.
    pub msg_id: u64,
    /// The receiver.
    pub open_id: String,
    /// The template.
    pub template_id: String,
    /// Page the message opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// Keyword values, as sent.
    pub data: Value,
    /// `developer`, `trial` or `formal`.
    pub miniprogram_state: String,
    /// Language.
    pub lang: String,
    /// When.
    pub sent_at: DateTime<Utc>,
}

/// Messages that say the same to the same person.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Duplicate {
    /// The receiver.
    pub open_id: String,
    /// The template.
    pub template_id: String,
    /// What they say.
    pub data: Value,
    /// Their numbers, oldest first.
    pub msg_ids: Vec<u64>,
}

/// How many messages of a template a user still accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// The user.
    pub open_id: String,
    /// The template.
    pub template_id: String,
    /// What is left.
    pub left: u32,
}

/// What was reported about the shipping of a payment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shipping {
    /// The payment.
    pub transaction_id: String,
    /// The merchant's number of it.
    pub out_trade_no: String,
    /// Who paid.
    pub open_id: String,
    /// 1 express, 2 city, 3 virtual, 4 self pick-up.
    pub logistics_type: u8,
    /// 1 unified, 2 split.
    pub delivery_mode: u8,
    /// Nothing more will come.
    pub finished: bool,
    /// Reports after it was finished: one is allowed.
    pub reships: u32,
    /// Accepted reports, the unchanged ones not counted.
    pub reports: u32,
    /// What was sent.
    pub shipping_list: Vec<ShippedParcel>,
    /// `upload_time` of the last report.
    pub upload_time: DateTime<Utc>,
    /// When the last report came.
    pub reported_at: DateTime<Utc>,
    /// The user has confirmed the receipt.
    #[serde(default)]
    pub confirmed: bool,
}

/// One parcel of a shipping report, spelled as on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShippedParcel {
    /// The courier's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_no: Option<String>,
    /// The courier's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub express_company: Option<String>,
    /// What is in it.
    #[serde(default)]
    pub item_desc: String,
    /// Masked phone numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<Contact>,
}

/// Who can be called about a parcel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The sender's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consignor_contact: Option<String>,
    /// The receiver's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver_contact: Option<String>,
}

/// A text message that was accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sms {
    /// Number given to the sender.
    pub serial_no: String,
    /// The receiver: the eleven digits without a prefix.
    pub phone: String,
    /// The first template parameter.
    pub code: String,
    /// The template.
    pub template_id: String,
    /// All template parameters, as sent.
    pub params: Vec<String>,
    /// When.
    pub sent_at: DateTime<Utc>,
}

/// Which call made an access token; the two kinds do not affect each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum TokenKind {
    Stable,
    Legacy,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Token {
    pub(crate) value: String,
    pub(crate) kind: TokenKind,
    pub(crate) expires_at: DateTime<Utc>,
    /// Killed before its time: 40001, not 42001.
    pub(crate) revoked: bool,
}

/// A bill under its address.
pub(crate) struct BillFile {
    pub(crate) token: String,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) bytes: Vec<u8>,
}

/// One line of the journal; for a key that appears twice the later line counts.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Order(Order),
    Message(Message),
    Sms(Sms),
    Tokens(Vec<Token>),
    Quota { open_id: String, template_id: String, left: u32 },
    Code(String),
    Shipping(Shipping),
    Parcel(Parcel),
}

#[derive(Default)]
pub(crate) struct State {
    orders: BTreeMap<u64, Order>,
    by_out_trade_no: HashMap<String, u64>,
    by_prepay: HashMap<String, u64>,
    by_transaction: HashMap<String, u64>,
    by_refund: HashMap<String, u64>,
    next_sequence: u64,
    messages: VecDeque<Message>,
    next_message: u64,
    sms: VecDeque<Sms>,
    tokens: Vec<Token>,
    quotas: HashMap<(String, String), u32>,
    codes: VecDeque<String>,
    /// By transaction.
    shipping: HashMap<String, Shipping>,
    /// How long after its payment an order is not yet known to the reports of shipping.
    pub(crate) shipping_lag: TimeDelta,
    parcels: Parcels,
    /// Bills that can be downloaded; forgotten at a restart, like their addresses.
    bills: VecDeque<BillFile>,
    /// When users last opened the mini program; forgotten at a restart.
    visits: HashMap<String, DateTime<Utc>>,
    /// Where bills differ from the ledger, and since when.
    pub(crate) bill_changes: Vec<(DateTime<Utc>, ChangeBill)>,
    /// Forced token renewals; the limit is per day and forgotten at a restart.
    pub(crate) forced: VecDeque<DateTime<Utc>>,
    /// Refund calls that failed lately, for the limit on failing calls.
    pub(crate) failed_refunds: VecDeque<DateTime<Utc>>,
    journal: Option<Journal>,
}

struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl State {
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Error> {
        let mut state = Self { next_sequence: 1, next_message: 1, ..Self::default() };
        let Some(path) = path else { return Ok(state) };
        let failed = |source| Error::StateFile { path: path.to_owned(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let lines: Vec<&str> = text.lines().collect();
                for (index, line) in lines.iter().enumerate() {
                    match serde_json::from_str(line) {
                        Ok(line) => state.apply(line),
                        // Only the last line can be torn; an unreadable one before it means the file is not ours.
                        Err(_) if index.saturating_add(1) == lines.len() => {
                            tracing::warn!("dropped a torn line of the state file")
                        }
                        Err(error) => return Err(failed(io::Error::new(io::ErrorKind::InvalidData, error))),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        state.compact(path).map_err(failed)?;
        Ok(state)
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Order(order) => self.index(order),
            Line::Message(message) => {
                self.next_message = self.next_message.max(message.msg_id.saturating_add(1));
                self.messages.push_back(message);
                if self.messages.len() > MESSAGES_MAX {
                    self.messages.pop_front();
                }
            }
            Line::Sms(sms) => {
                self.sms.push_back(sms);
                if self.sms.len() > SMS_MAX {
                    self.sms.pop_front();
                }
            }
            Line::Tokens(tokens) => self.tokens = tokens,
            Line::Parcel(parcel) => self.parcels.put(parcel),
            Line::Quota { open_id, template_id, left } => {
                if self.quotas.len() < QUOTAS_MAX || self.quotas.contains_key(&(open_id.clone(), template_id.clone())) {
                    self.quotas.insert((open_id, template_id), left);
                }
            }
            Line::Shipping(shipping) => {
                if self.shipping.len() < ORDERS_MAX || self.shipping.contains_key(&shipping.transaction_id) {
                    self.shipping.insert(shipping.transaction_id.clone(), shipping);
                }
            }
            Line::Code(code) => {
                self.codes.push_back(code);
                if self.codes.len() > CODES_MAX {
                    self.codes.pop_front();
                }
            }
        }
    }

    fn index(&mut self, order: Order) {
        let sequence = order.sequence;
        self.next_sequence = self.next_sequence.max(sequence.saturating_add(1));
        self.by_out_trade_no.insert(order.out_trade_no.clone(), sequence);
        for prepay in &order.prepays {
            self.by_prepay.insert(prepay.id.clone(), sequence);
        }
        for refund in &order.refunds {
            self.by_refund.insert(refund.out_refund_no.clone(), sequence);
        }
        if let Some(id) = &order.transaction_id {
            self.by_transaction.insert(id.clone(), sequence);
        }
        self.orders.insert(sequence, order);
        while self.orders.len() > ORDERS_MAX {
            let Some((_, old)) = self.orders.pop_first() else { break };
            self.by_out_trade_no.remove(&old.out_trade_no);
            for prepay in &old.prepays {
                self.by_prepay.remove(&prepay.id);
            }
            for refund in &old.refunds {
                self.by_refund.remove(&refund.out_refund_no);
            }
            if let Some(id) = &old.transaction_id {
                self.by_transaction.remove(id);
            }
        }
    }

    /// Applies a change and writes it down before anybody is told.
    fn record(&mut self, line: Line) {
        if let Err(error) = self.append(&line) {
            // The simulated upstream goes on from memory; whoever restarts it finds out from this line.
            tracing::error!(error = %error, "simulator state was not saved");
        }
        self.apply(line);
        let live = self
            .orders
            .len()
            .saturating_add(self.messages.len())
            .saturating_add(self.sms.len())
            .saturating_add(self.quotas.len())
            .saturating_add(self.codes.len())
            .saturating_add(self.shipping.len())
            .saturating_add(self.parcels.len());
        let grown =
            self.journal.as_ref().filter(|journal| journal.lines > live.saturating_mul(4).saturating_add(1_000));
        if let Some(path) = grown.map(|journal| journal.path.clone())
            && let Err(error) = self.compact(&path)
        {
            tracing::error!(error = %error, "simulator state was not rewritten");
        }
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        journal.file.write_all(&text)?;
        journal.lines = journal.lines.saturating_add(1);
        Ok(())
    }

    /// Writes the whole state to a temporary file and renames it over the journal.
    fn compact(&mut self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let mut out = BufWriter::new(File::create(&temporary)?);
        let mut lines: usize = 0;
        let mut write = |line: &Line| -> io::Result<()> {
            serde_json::to_writer(&mut out, line)?;
            lines = lines.saturating_add(1);
            out.write_all(b"\n")
        };
        write(&Line::Tokens(self.tokens.clone()))?;
        for ((open_id, template_id), left) in &self.quotas {
            write(&Line::Quota { open_id: open_id.clone(), template_id: template_id.clone(), left: *left })?;
        }
        for code in &self.codes {
            write(&Line::Code(code.clone()))?;
        }
        for message in &self.messages {
            write(&Line::Message(message.clone()))?;
        }
        for sms in &self.sms {
            write(&Line::Sms(sms.clone()))?;
        }
        for shipping in self.shipping.values() {
            write(&Line::Shipping(shipping.clone()))?;
        }
        for order in self.orders.values() {
            write(&Line::Order(order.clone()))?;
        }
        for parcel in self.parcels.iter() {
            write(&Line::Parcel(parcel.clone()))?;
        }
        out.flush()?;
        drop(out);
        std::fs::rename(&temporary, path)?;
        let file = OpenOptions::new().append(true).open(path)?;
        self.journal = Some(Journal { path: path.to_owned(), file, lines });
        Ok(())
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(crate) fn order(&self, out_trade_no: &str) -> Option<&Order> {
        self.orders.get(self.by_out_trade_no.get(out_trade_no)?)
    }

    pub(crate) fn order_of_prepay(&self, prepay_id: &str) -> Option<&Order> {
        self.orders.get(self.by_prepay.get(prepay_id)?)
    }

    pub(crate) fn order_of_transaction(&self, transaction_id: &str) -> Option<&Order> {
        self.orders.get(self.by_transaction.get(transaction_id)?)
    }

    pub(crate) fn order_of_refund(&self, out_refund_no: &str) -> Option<&Order> {
        self.orders.get(self.by_refund.get(out_refund_no)?)
    }

    /// The newest order whose number is `prefix` or starts with it.
    pub(crate) fn newest_with_prefix(&self, prefix: &str) -> Option<&Order> {
        self.orders.values().rev().find(|order| order.out_trade_no.starts_with(prefix))
    }

    pub(crate) fn newest_orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.values().rev()
    }

    /// Stores a new or changed order.
    pub(crate) fn put_order(&mut self, mut order: Order) {
        while order.prepays.len() > PREPAYS_MAX {
            let old = order.prepays.remove(0);
            self.by_prepay.remove(&old.id);
        }
        self.record(Line::Order(order));
    }

    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    pub(crate) fn put_tokens(&mut self, mut tokens: Vec<Token>) {
        if let Some(extra) = tokens.len().checked_sub(TOKENS_MAX) {
            tokens.drain(..extra);
        }
        self.record(Line::Tokens(tokens));
    }

    pub(crate) fn quota(&self, open_id: &str, template_id: &str) -> Option<u32> {
        self.quotas.get(&(open_id.to_owned(), template_id.to_owned())).copied()
    }

    pub(crate) fn put_quota(&mut self, open_id: &str, template_id: &str, left: u32) {
        self.record(Line::Quota { open_id: open_id.to_owned(), template_id: template_id.to_owned(), left });
    }

    pub(crate) fn quotas(&self) -> impl Iterator<Item = Quota> {
        self.quotas.iter().map(|((open_id, template_id), left)| Quota {
            open_id: open_id.clone(),
            template_id: template_id.clone(),
            left: *left,
        })
    }

    pub(crate) fn shipping(&self, transaction_id: &str) -> Option<&Shipping> {
        self.shipping.get(transaction_id)
    }

    pub(crate) fn put_shipping(&mut self, shipping: Shipping) {
        self.record(Line::Shipping(shipping));
    }

    pub(crate) fn next_message(&self) -> u64 {
        self.next_message
    }

    pub(crate) fn put_message(&mut self, message: Message) {
        self.record(Line::Message(message));
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter()
    }

    pub(crate) fn put_sms(&mut self, sms: Sms) {
        self.record(Line::Sms(sms));
    }

    /// Text messages, newest first.
    pub(crate) fn newest_sms(&self) -> impl Iterator<Item = &Sms> {
        self.sms.iter().rev()
    }

    pub(crate) fn visited(&mut self, open_id: &str, at: DateTime<Utc>) {
        self.visits.insert(open_id.to_owned(), at);
    }

    /// When a user last opened the mini program, if that is known.
    pub(crate) fn last_visit(&self, open_id: &str) -> Option<DateTime<Utc>> {
        self.visits.get(open_id).copied()
    }

    pub(crate) fn keep_bill(&mut self, bill: BillFile) {
        self.bills.push_back(bill);
        if self.bills.len() > BILLS_MAX {
            self.bills.pop_front();
        }
    }

    /// The bill of an address that has not expired.
    pub(crate) fn bill(&self, token: &str, now: DateTime<Utc>) -> Option<&[u8]> {
        let bill = self.bills.iter().find(|bill| bill.token == token && now <= bill.expires_at)?;
        Some(&bill.bytes)
    }

    pub(crate) fn parcels(&self) -> &Parcels {
        &self.parcels
    }

    pub(crate) fn put_parcel(&mut self, parcel: Parcel) {
        self.record(Line::Parcel(parcel));
    }

    /// Marks a login code as used; false if it already was.
    pub(crate) fn use_code(&mut self, code: &str) -> bool {
        if self.codes.iter().any(|used| used == code) {
            return false;
        }
        self.record(Line::Code(code.to_owned()));
        true
    }
}
