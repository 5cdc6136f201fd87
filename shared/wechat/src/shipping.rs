//! Reports of shipping (发货信息管理): what was sent for a payment, so that WeChat tells the payer and settles.
//!
//! Everything that WeChat would refuse for its form is refused here first, with the field's name, because a refused report costs
//! time, and a wrong one the payment's only chance to be shipped again.
//!
//! Source: developers.weixin.qq.com/miniprogram/dev/platform-capabilities/business-capabilities/order-shipping/order-shipping.html

use std::time::Duration;

use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::open::{Client, Error};
use crate::subscribe::SendClass;

const UPLOAD: &str = "/wxa/sec/order/upload_shipping_info";
const GET_ORDER: &str = "/wxa/sec/order/get_order";
const IS_MANAGED: &str = "/wxa/sec/order/is_trade_managed";

/// The longest description of a parcel, in characters.
pub const ITEM_DESC_MAX: usize = 120;
const TEXT_MAX: usize = 128;
/// The courier that must be able to call somebody.
const SF: &str = "SF";

/// Which payment is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderKey {
    /// By WeChat Pay's number.
    Transaction(String),
    /// By the merchant's number.
    Merchant {
        /// The merchant.
        mchid: String,
        /// Its number of the payment.
        out_trade_no: String,
    },
}

/// How the goods get to the buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logistics {
    /// A courier with a tracking number.
    Express,
    /// Somebody of the same city.
    City,
    /// Nothing that could be carried.
    Virtual,
    /// The buyer comes for it.
    Pickup,
}

impl Logistics {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Express => 1,
            Self::City => 2,
            Self::Virtual => 3,
            Self::Pickup => 4,
        }
    }
}

/// One parcel.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Parcel {
    /// The courier's number; express only.
    pub tracking_no: Option<String>,
    /// The courier's code in WeChat's list, such as `SF` or `YTO`; express only.
    pub express_company: Option<String>,
    /// What is in it, at most [`ITEM_DESC_MAX`] characters; [`item_desc`] makes any text fit.
    pub item_desc: String,
    /// Phone number of the buyer. Sent for `SF` only, and masked to `189****1234`.
    pub receiver_phone: Option<String>,
}

impl std::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parcel")
            .field("tracking_no", &self.tracking_no)
            .field("express_company", &self.express_company)
            .field("item_desc", &self.item_desc)
            .finish_non_exhaustive()
    }
}

/// What was sent for one payment, all of it, in one parcel (`delivery_mode` 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShippingReport {
    /// The payment.
    pub order_key: OrderKey,
    /// How.
    pub logistics: Logistics,
    /// What.
    pub parcel: Parcel,
    /// When. A later report of the same payment must have a later time.
    pub upload_time: DateTime<Utc>,
    /// Who paid.
    pub openid: crate::Personal,
}

impl ShippingReport {
    /// The body as WeChat wants it, or what is wrong with a field.
    fn body(&self) -> Result<Value, Error> {
        let parcel = &self.parcel;
        let express = self.logistics == Logistics::Express;
        if parcel.item_desc.trim().is_empty() {
            return Err(Error::Misuse("item_desc is empty"));
        }
        if parcel.item_desc.encode_utf16().count() > ITEM_DESC_MAX {
            return Err(Error::Misuse("item_desc is longer than 120 characters"));
        }
        if parcel.item_desc.chars().any(char::is_control) {
            return Err(Error::Misuse("item_desc has a control character"));
        }
        if self.openid.is_empty() {
            return Err(Error::Misuse("payer.openid is empty"));
        }
        let mut sent = json!({ "item_desc": parcel.item_desc });
        let mut put = |name: &str, value: Value| {
            if let Some(fields) = sent.as_object_mut() {
                fields.insert(name.to_owned(), value);
            }
        };
        if express {
            let tracking_no = code(parcel.tracking_no.as_deref())
                .ok_or(Error::Misuse("tracking_no must be 1 to 128 letters, digits, - and _"))?;
            let company = code(parcel.express_company.as_deref())
                .ok_or(Error::Misuse("express_company must be a code of WeChat's list, such as YTO"))?;
            put("tracking_no", tracking_no.into());
            put("express_company", company.into());
            if company == SF {
                let contact = parcel.receiver_phone.as_deref().and_then(mask);
                let contact = contact.ok_or(Error::Misuse("SF wants the buyer's phone number"))?;
                put("contact", json!({ "receiver_contact": contact }));
            }
        } else if parcel.tracking_no.is_some() || parcel.express_company.is_some() {
            return Err(Error::Misuse("tracking_no and express_company are for express only"));
        }
        let order_key = match &self.order_key {
            OrderKey::Transaction(id) if !id.is_empty() => json!({ "order_number_type": 2, "transaction_id": id }),
            OrderKey::Merchant { mchid, out_trade_no } if !mchid.is_empty() && !out_trade_no.is_empty() => {
                json!({ "order_number_type": 1, "mchid": mchid, "out_trade_no": out_trade_no })
            }
            _ => return Err(Error::Misuse("order_key has an empty number")),
        };
        Ok(json!({
            "order_key": order_key,
            "logistics_type": self.logistics.number(),
            "delivery_mode": 1,
            "shipping_list": [sent],
            "upload_time": beijing(self.upload_time),
            "payer": { "openid": self.openid.as_str() },
        }))
    }
}

/// A courier's code or number.
fn code(text: Option<&str>) -> Option<&str> {
    text.filter(|text| {
        (1..=TEXT_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    })
}

/// `189****1234`, whatever stands between the digits and before the last eleven; a shorter number shows its last four only. One
/// that is masked already stays as it is.
fn mask(phone: &str) -> Option<String> {
    let end = phone.len().checked_sub(4).and_then(|from| phone.get(from..)).unwrap_or_default();
    let masked = phone.contains('*') && phone.bytes().all(|byte| byte.is_ascii_digit() || b"*+- ".contains(&byte));
    if masked && end.len() == 4 && end.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(phone.to_owned());
    }
    let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
    let (head, tail) = digits.split_at_checked(digits.len().checked_sub(4)?)?;
    let shown = head.len().checked_sub(7).and_then(|from| head.get(from..)?.get(..3)).unwrap_or_default();
    Some(format!("{shown}****{tail}"))
}

/// RFC 3339 with milliseconds at +08:00.
fn beijing(at: DateTime<Utc>) -> String {
    match FixedOffset::east_opt(8 * 3600) {
        Some(offset) => at.with_timezone(&offset).to_rfc3339_opts(SecondsFormat::Millis, false),
        None => at.to_rfc3339_opts(SecondsFormat::Millis, false),
    }
}

/// A text as a parcel's description: without control characters, cut between graphemes; `商品` if nothing is left.
pub fn item_desc(text: &str) -> String {
    let fitting = crate::subscribe::shorten(text, ITEM_DESC_MAX);
    if fitting.is_empty() { "商品".to_owned() } else { fitting }
}

/// Where a payment stands in the shipping administration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderState {
    /// To be shipped. (1)
    ToShip,
    /// Shipped. (2)
    Shipped,
    /// The user has confirmed the receipt. (3)
    Confirmed,
    /// The trade is done. (4)
    Done,
    /// Refunded. (5)
    Refunded,
    /// The money is being settled. (6)
    Settling,
    /// A number that the documents do not know.
    Other(i64),
}

/// A payment in the shipping administration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShippingOrder {
    /// WeChat Pay's number.
    pub transaction_id: String,
    /// The merchant's number.
    pub merchant_trade_no: String,
    /// Where it stands.
    pub state: OrderState,
    /// Everything has been reported as shipped.
    pub finished: bool,
    /// How often it has been: 1 after the first time, 2 when it was shipped again.
    pub finished_count: i64,
    /// 1 to 4 as [`Logistics::number`]; 0 when nothing was reported.
    pub logistics_type: i64,
    /// Tracking number and courier of each parcel; both are empty but for express.
    pub parcels: Vec<(String, String)>,
}

impl ShippingOrder {
    /// Whether WeChat knows everything that the report says, or the trade is past the point where it matters. The descriptions
    /// are not compared: WeChat may shorten them.
    pub fn matches(&self, report: &ShippingReport) -> bool {
        match self.state {
            OrderState::Confirmed | OrderState::Done | OrderState::Settling => return true,
            OrderState::Refunded => return false,
            OrderState::ToShip | OrderState::Shipped | OrderState::Other(_) => {}
        }
        let wanted = (
            report.parcel.tracking_no.as_deref().unwrap_or_default(),
            report.parcel.express_company.as_deref().unwrap_or_default(),
        );
        let same_parcel = report.logistics != Logistics::Express
            || matches!(self.parcels.as_slice(), [(number, company)] if (number.as_str(), company.as_str()) == wanted);
        self.finished && self.logistics_type == i64::from(report.logistics.number()) && same_parcel
    }
}

/// What the outcome of a report means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShippingClass {
    /// WeChat knows it. (0, 10060023)
    Done,
    /// Report again soon: nothing has happened. (-1, 10060012, 10060019, HTTP 429)
    RetryLater,
    /// WeChat does not know the payment yet. Report again, from a minute after the payment on for some hours; after that the
    /// payment is not one of this mini program. (10060001)
    NotYetKnown,
    /// No further report is taken. [`Client::get_shipping_order`] tells whether WeChat knows what it should. (10060002, 10060003,
    /// 10060004)
    CheckOrder,
    /// Final: a field must be corrected first. The code says which (100600xx, 2684851xx, 2684852xx, 47001); 0 when the report was
    /// refused here, with [`Error::Misuse`].
    FixData(i64),
    /// Nothing was reported, and for this long nothing will be.
    Pause(Duration),
    /// Final: somebody must change something first. The code says what.
    Operator(&'static str),
    /// It may have been taken. Reporting the same again is safe: then it is answered by 10060023.
    Unknown,
    /// It never left: no connection, or no access token. Try again later.
    NotSent,
}

impl ShippingClass {
    /// What the result of [`Client::upload_shipping_info`] means.
    pub fn of(result: &Result<(), Error>) -> Self {
        let Err(error) = result else { return Self::Done };
        if let Error::Rejected { errcode, .. } = error {
            return match errcode {
                10_060_023 => Self::Done,
                10_060_012 | 10_060_019 => Self::RetryLater,
                10_060_001 => Self::NotYetKnown,
                10_060_002..=10_060_004 => Self::CheckOrder,
                // What was sent is not JSON as they want it: a mistake of this program, but one of the data's form.
                47_001 | 10_060_000..=10_060_999 | 268_485_000..=268_485_999 => Self::FixData(*errcode),
                40_003 => Self::Operator("OPENID_INVALID"),
                // The shipping administration is not open to this mini program.
                48_001 => Self::Operator("WECHAT_CONFIG"),
                _ => Self::Operator("REFUSED_BY_WECHAT"),
            };
        }
        if let Error::Misuse(_) = error {
            return Self::FixData(0);
        }
        match error.send_class() {
            SendClass::Retry | SendClass::Concurrent => Self::RetryLater,
            SendClass::Pause(time) => Self::Pause(time),
            SendClass::NotSubscribed => Self::Operator("REFUSED_BY_WECHAT"),
            SendClass::Operator(code) => Self::Operator(code),
            SendClass::Unknown => Self::Unknown,
            SendClass::NotSent => Self::NotSent,
        }
    }
}

impl Client {
    /// Tells WeChat what was sent for a payment. A first report finishes the shipment; one with other content ships it again, for
    /// which a payment has one chance; the same again changes nothing and is refused with 10060023. [`ShippingClass::of`] says
    /// what the result means.
    ///
    /// [`Error::Misuse`] names the field that WeChat would refuse; nothing was sent then.
    pub async fn upload_shipping_info(&self, report: &ShippingReport) -> Result<(), Error> {
        self.post(UPLOAD, &report.body()?).await.map(drop)
    }

    /// Where a payment stands. Safe to repeat. 10060001: WeChat does not know it, or not yet.
    pub async fn get_shipping_order(&self, key: &OrderKey) -> Result<ShippingOrder, Error> {
        #[derive(Deserialize)]
        struct Answer {
            order: Order,
        }
        #[derive(Deserialize)]
        struct Order {
            #[serde(default)]
            transaction_id: String,
            #[serde(default)]
            merchant_trade_no: String,
            order_state: i64,
            shipping: Option<Shipping>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Shipping {
            logistics_type: i64,
            finish_shipping: bool,
            finish_shipping_count: i64,
            shipping_list: Vec<Sent>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Sent {
            tracking_no: Option<String>,
            express_company: Option<String>,
        }
        // Other names than in the report.
        let body = match key {
            OrderKey::Transaction(id) => json!({ "transaction_id": id }),
            OrderKey::Merchant { mchid, out_trade_no } => {
                json!({ "merchant_id": mchid, "merchant_trade_no": out_trade_no })
            }
        };
        let Answer { order } = crate::open::read(self.post(GET_ORDER, &body).await?, "shipping order")?;
        let shipping = order.shipping.unwrap_or_default();
        Ok(ShippingOrder {
            transaction_id: order.transaction_id,
            merchant_trade_no: order.merchant_trade_no,
            state: match order.order_state {
                1 => OrderState::ToShip,
                2 => OrderState::Shipped,
                3 => OrderState::Confirmed,
                4 => OrderState::Done,
                5 => OrderState::Refunded,
                6 => OrderState::Settling,
                other => OrderState::Other(other),
            },
            finished: shipping.finish_shipping,
            finished_count: shipping.finish_shipping_count,
            logistics_type: shipping.logistics_type,
            parcels: shipping
                .shipping_list
                .into_iter()
                .map(|sent| (sent.tracking_no.unwrap_or_default(), sent.express_company.unwrap_or_default()))
                .collect(),
        })
    }

    /// Whether this mini program must report its shipping.
    pub async fn is_trade_managed(&self) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Answer {
            is_trade_managed: bool,
        }
        let answer = self.post(IS_MANAGED, &json!({ "appid": self.appid() })).await?;
        crate::open::read::<Answer>(answer, "trade management").map(|answer| answer.is_trade_managed)
    }
}
