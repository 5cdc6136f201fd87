//! What WeChat Pay says about payments and refunds, read into types that keep unknown values instead of failing on them.
//!
//! Sources: pay.weixin.qq.com/doc/v3/merchant/4012791870 (states), 4013071036 and 4013071041 (refunds),
//! 4012791861 and 4013071196 (notices). Amounts are whole fen.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Personal;

/// Identifies a prepared payment for two hours. Asking again with the same request gives a fresh one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepayId(pub(crate) String);

impl PrepayId {
    /// Take a stored id.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id, without `prepay_id=`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the payer is asked for. Turn it into bytes once with `Client::prepay_request`, store those, and send those.
#[derive(Debug, Clone)]
pub struct PrepayOrder<'a> {
    /// Our number: 6 to 32 of `[0-9A-Za-z_-]`, unique per merchant.
    pub out_trade_no: &'a str,
    /// Shown to the payer. Control characters and characters outside the BMP (emoji) are dropped; cut at 127 characters.
    pub description: &'a str,
    /// Whole fen, at least 1.
    pub amount_fen: i64,
    /// The payer's openid under the configured appid.
    pub payer_openid: &'a Personal,
    /// The last moment to pay. Between one minute and seven days ahead; set by the first call, later changes are errors.
    pub time_expire: DateTime<Utc>,
    /// Up to 128 bytes, given back in queries and notices once paid.
    pub attach: Option<&'a str>,
}

/// What `wx.requestPayment` takes, under its names. `appId` is signed but not passed.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PayParams {
    /// Seconds since 1970, as text.
    pub time_stamp: String,
    /// At most 32 characters.
    pub nonce_str: String,
    /// `prepay_id=wx…`.
    pub package: String,
    /// Always `RSA`.
    pub sign_type: String,
    /// Signature by the merchant key.
    pub pay_sign: String,
}

impl fmt::Debug for PayParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayParams").field("package", &self.package).finish_non_exhaustive()
    }
}

macro_rules! wire_states {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
        #[serde(from = "String")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A value this version does not know. Decide nothing from it.
            Unknown(String),
        }

        impl $name {
            /// The value on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown(text) => text,
                }
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$variant,)*
                    _ => Self::Unknown(text),
                }
            }
        }
    };
}

wire_states! {
    /// `trade_state`.
    TradeState {
        /// Paid.
        Success = "SUCCESS",
        /// Paid, and then refunded in part or whole.
        Refund = "REFUND",
        /// Not paid; the payer can still pay.
        NotPay = "NOTPAY",
        /// Closed unpaid, for good.
        Closed = "CLOSED",
        /// Revoked (code payments only).
        Revoked = "REVOKED",
        /// The payer is typing the password (code payments only).
        UserPaying = "USERPAYING",
        /// Failed (code payments only).
        PayError = "PAYERROR",
    }
}

wire_states! {
    /// `status` of a refund, `refund_status` in its notice.
    RefundStatus {
        /// The money is back.
        Success = "SUCCESS",
        /// Failed for good; refund again under a **new** number.
        Closed = "CLOSED",
        /// Taken, not finished.
        Processing = "PROCESSING",
        /// The original way and the balance both refuse it; somebody must act in the merchant portal.
        Abnormal = "ABNORMAL",
    }
}

/// A payment as WeChat Pay sees it, from a query or a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The appid it was prepared under.
    pub appid: String,
    /// The merchant.
    pub mchid: String,
    /// Our number.
    pub out_trade_no: String,
    /// WeChat's number; absent until paid.
    pub transaction_id: Option<String>,
    /// The state.
    pub trade_state: TradeState,
    /// `JSAPI` for mini programs.
    pub trade_type: Option<String>,
    /// The order's amount in fen. Compare with what was asked for.
    pub amount_total: Option<i64>,
    /// What the payer spent in fen, after WeChat's own coupons.
    pub amount_payer_total: Option<i64>,
    /// Currency of `amount_total`, `CNY`.
    pub currency: Option<String>,
    /// Who paid; absent until paid.
    pub payer_openid: Option<Personal>,
    /// When it was paid.
    pub success_time: Option<DateTime<Utc>>,
    /// Our own text from the prepay request.
    pub attach: Option<String>,
}

impl Transaction {
    /// Whether the payer has paid. `REFUND` counts: it means "was paid, then some of it was given back".
    pub fn is_paid(&self) -> bool {
        matches!(self.trade_state, TradeState::Success | TradeState::Refund)
    }
}

/// A refund to ask for. The same number is the same refund, so keep it and send equal values again.
#[derive(Debug, Clone)]
pub struct RefundRequest<'a> {
    /// WeChat's number of the payment.
    pub transaction_id: &'a str,
    /// Our number for the refund: 1 to 64 of `[0-9A-Za-z_-]`.
    pub out_refund_no: &'a str,
    /// Fen to give back, at least 1.
    pub refund_fen: i64,
    /// Fen of the whole payment.
    pub total_fen: i64,
    /// Shown to the payer; cut at 80 characters.
    pub reason: &'a str,
    /// Always sent: without it the notice may arrive as v2 XML somewhere else.
    pub notify_url: &'a str,
}

/// A refund as WeChat Pay sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// Our number.
    pub out_refund_no: String,
    /// WeChat's number.
    pub refund_id: String,
    /// Our number of the payment.
    pub out_trade_no: String,
    /// WeChat's number of the payment.
    pub transaction_id: String,
    /// How far it is. HTTP 200 only means "taken".
    pub status: RefundStatus,
    /// Fen given back.
    pub amount_refund: i64,
    /// Fen of the whole payment.
    pub amount_total: i64,
    /// When WeChat took it.
    pub create_time: Option<DateTime<Utc>>,
    /// When the money was back.
    pub success_time: Option<DateTime<Utc>>,
}

/// A refund notice. Has fewer fields than a query and calls the state `refund_status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundNotice {
    /// The merchant.
    pub mchid: String,
    /// Our number of the payment.
    pub out_trade_no: String,
    /// WeChat's number of the payment.
    pub transaction_id: String,
    /// Our number.
    pub out_refund_no: String,
    /// WeChat's number.
    pub refund_id: String,
    /// `SUCCESS`, `CLOSED` or `ABNORMAL`.
    pub status: RefundStatus,
    /// Fen given back.
    pub amount_refund: i64,
    /// Fen of the whole payment.
    pub amount_total: i64,
    /// When the money was back.
    pub success_time: Option<DateTime<Utc>>,
}

/// A platform certificate, decrypted and added to the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformCertificate {
    /// Upper-case hex.
    pub serial: String,
    /// The certificate.
    pub pem: String,
}

// The shapes on the wire. Times are read leniently: a payment must not get lost over the format of a timestamp.

#[derive(Deserialize)]
pub(crate) struct TransactionWire {
    appid: String,
    mchid: String,
    out_trade_no: String,
    transaction_id: Option<String>,
    trade_state: TradeState,
    trade_type: Option<String>,
    amount: Option<AmountWire>,
    payer: Option<PayerWire>,
    success_time: Option<String>,
    attach: Option<String>,
}

#[derive(Deserialize)]
struct AmountWire {
    total: Option<i64>,
    payer_total: Option<i64>,
    currency: Option<String>,
}

#[derive(Deserialize)]
struct PayerWire {
    openid: Option<String>,
}

impl From<TransactionWire> for Transaction {
    fn from(wire: TransactionWire) -> Self {
        let (amount_total, amount_payer_total, currency) =
            wire.amount.map_or((None, None, None), |a| (a.total, a.payer_total, a.currency));
        Self {
            appid: wire.appid,
            mchid: wire.mchid,
            out_trade_no: wire.out_trade_no,
            transaction_id: text(wire.transaction_id),
            trade_state: wire.trade_state,
            trade_type: text(wire.trade_type),
            amount_total,
            amount_payer_total,
            currency: text(currency),
            payer_openid: text(wire.payer.and_then(|p| p.openid)).map(Personal::new),
            success_time: time(wire.success_time),
            attach: text(wire.attach),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct RefundWire {
    out_refund_no: String,
    refund_id: String,
    out_trade_no: String,
    transaction_id: String,
    status: RefundStatus,
    amount: RefundAmountWire,
    create_time: Option<String>,
    success_time: Option<String>,
}

#[derive(Deserialize)]
struct RefundAmountWire {
    refund: i64,
    total: i64,
}

impl From<RefundWire> for Refund {
    fn from(wire: RefundWire) -> Self {
        Self {
            out_refund_no: wire.out_refund_no,
            refund_id: wire.refund_id,
            out_trade_no: wire.out_trade_no,
            transaction_id: wire.transaction_id,
            status: wire.status,
            amount_refund: wire.amount.refund,
            amount_total: wire.amount.total,
            create_time: time(wire.create_time),
            success_time: time(wire.success_time),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct RefundNoticeWire {
    mchid: String,
    out_trade_no: String,
    transaction_id: String,
    out_refund_no: String,
    refund_id: String,
    refund_status: RefundStatus,
    amount: RefundAmountWire,
    success_time: Option<String>,
}

impl From<RefundNoticeWire> for RefundNotice {
    fn from(wire: RefundNoticeWire) -> Self {
        Self {
            mchid: wire.mchid,
            out_trade_no: wire.out_trade_no,
            transaction_id: wire.transaction_id,
            out_refund_no: wire.out_refund_no,
            refund_id: wire.refund_id,
            status: wire.refund_status,
            amount_refund: wire.amount.refund,
            amount_total: wire.amount.total,
            success_time: time(wire.success_time),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Sealed {
    /// In notices only.
    pub(crate) original_type: Option<String>,
    pub(crate) algorithm: String,
    pub(crate) nonce: String,
    pub(crate) associated_data: Option<String>,
    pub(crate) ciphertext: String,
}

#[derive(Deserialize)]
pub(crate) struct CertificateList {
    pub(crate) data: Vec<CertificateItem>,
}

#[derive(Deserialize)]
pub(crate) struct CertificateItem {
    pub(crate) serial_no: String,
    pub(crate) encrypt_certificate: Sealed,
}

fn text(value: Option<String>) -> Option<String> {
    value.filter(|v| !v.is_empty())
}

fn time(value: Option<String>) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(&value?).ok().map(|t| t.to_utc())
}
