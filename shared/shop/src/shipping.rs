//! Shipping orders, and reporting to WeChat what was paid through it: without the report it does not pay out, and may stop the
//! mini-program's payments.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::text::mask_phone;
use domain::{Code, Failure, Logistics, OpenId, OrderId, OrderStatus, Refusal, ShopRules};
use serde::{Deserialize, Serialize};
use store::orders::{Order, Shipping};
use store::outbox::OutboxItem;
use store::{Error, Store, Tx, crashpoint};
use wechat::Personal;
use wechat::open;
use wechat::shipping::{self, OrderKey, OrderState, ShippingClass, ShippingOrder, ShippingReport, item_desc};

use crate::delivery::{Outcome, Why};
use crate::messages::OUTCOME_UNKNOWN;
use crate::{after_sale, events, parcels};

/// `outbox.kind` of a report.
pub const KIND: &str = "shippingReport";

/// WeChat knows a payment about a minute after it was made. After this long it is not one that it will ever know: another
/// mini-program's, say.
const INDEX_LAG: Duration = Duration::from_secs(60);
const INDEXED: TimeDelta = TimeDelta::hours(6);

const TRACKING_NO_MAX: usize = 128;
const COMPANY_MAX: usize = 32;

/// The courier that wants to know whose parcel it is.
const SF: &str = "SF";

/// How the goods of an order reach the buyer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    logistics: Logistics,
    express_company: Option<String>,
    tracking_no: Option<String>,
}

impl Parcel {
    /// A courier's parcel has a courier and a number, and nothing else has. `INVALID_ARGUMENT` otherwise.
    pub fn parse(
        logistics: Logistics,
        express_company: Option<&str>,
        tracking_no: Option<&str>,
    ) -> Result<Self, Refusal> {
        let given = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let (express_company, tracking_no) = (given(express_company), given(tracking_no));
        let express = logistics == Logistics::Express;
        for (field, value) in [("expressCompany", &express_company), ("trackingNo", &tracking_no)] {
            match value {
                None if express => return Err(Refusal::invalid(field, format!("快递发货请填写 {field}"))),
                Some(_) if !express => return Err(Refusal::invalid(field, format!("只有快递发货需要 {field}"))),
                _ => {}
            }
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if express_company.as_ref().is_some_and(|code| code.len() > COMPANY_MAX || !code.chars().all(word)) {
            return Err(Refusal::invalid("expressCompany", "expressCompany 应为快递公司编码，例如 SF"));
        }
        let sign = |c: char| word(c) || c == '-';
        if tracking_no.as_ref().is_some_and(|no| no.len() > TRACKING_NO_MAX || !no.chars().all(sign)) {
            return Err(Refusal::invalid("trackingNo", "trackingNo 格式不正确"));
        }
        Ok(Self { logistics, express_company, tracking_no })
    }
}

/// An order that is shipped.
#[derive(Clone, Debug)]
pub struct Shipped {
    pub status: OrderStatus,
    pub shipping: Shipping,
    /// It was shipped with the same data before.
    pub replayed: bool,
}

/// `paid → shipped`, with the message to the buyer and the report to WeChat, at most once.
///
/// `ORDER_NOT_FOUND`; `ORDER_STATE_INVALID` for what is not paid, and for what was shipped otherwise.
pub async fn ship(
    store: &Store,
    rules: &ShopRules,
    id: &OrderId,
    parcel: &Parcel,
    by: &str,
    now: DateTime<Utc>,
) -> Result<Shipped, Failure> {
    let mut tries = 0;
    let shipped = loop {
        let shipped =
            store.transaction(|tx, _| Box::pin(async move { ship_in(tx, rules, id, parcel, by, now).await })).await;
        match shipped {
            Err(error) if parcels::met(&error, &mut tries) => {}
            done => break done?,
        }
    };
    crashpoint("ship.committed").await;
    Ok(shipped)
}

async fn ship_in(
    tx: &mut Tx,
    rules: &ShopRules,
    id: &OrderId,
    parcel: &Parcel,
    by: &str,
    now: DateTime<Utc>,
) -> Result<Shipped, Error> {
    let order = tx.order(id).await?.ok_or(Code::OrderNotFound)?;
    let Parcel { logistics, express_company, tracking_no } = parcel.clone();
    let reported = rules.shipping_reports && order.transaction_id.is_some();
    let by = by.to_owned();
    let mut shipping = Shipping {
        logistics,
        express_company,
        tracking_no,
        shipped_at: now,
        by,
        reported,
        parcel: None,
        untracked: None,
    };
    let refused = |message: &'static str| Refusal::new(Code::OrderStateInvalid).with_message(message);
    if let Some(before) = &order.shipping {
        if before.same_parcel(&shipping) {
            return Ok(Shipped { status: order.status, shipping: before.clone(), replayed: true });
        }
        return Err(refused("订单已发货，且物流信息不同").into());
    }
    if order.status != OrderStatus::Paid {
        return Err(refused("订单当前状态不能发货").into());
    }
    // Whoever asks for a refund writes the order too, so neither passes the other.
    after_sale::check_shippable(tx, &order).await?;
    parcels::put_in(tx, rules, &order, &mut shipping, now).await?;
    if !tx.mark_order_shipped(id, &shipping).await? {
        return Err(Error::Invariant(format!("order {id} changed within a snapshot")));
    }
    events::order_shipped(tx, &order, &shipping, rules, now).await?;
    // Signed for before the shop wrote down that it was sent, or with an earlier order. Messages of one moment have no order, so
    // this one is a moment later.
    if let Some(arrived_at) = shipping.parcel.as_ref().and_then(|parcel| parcel.arrived_at) {
        let later = now + TimeDelta::milliseconds(1);
        events::order_arrived(tx, &order, &shipping, arrived_at, &rules.tells, later).await?;
    }
    if let Some(report) = Report::of(&order, &shipping) {
        tx.enqueue(&report.item(id, now)?).await?;
    }
    crashpoint("ship.inside").await;
    Ok(Shipped { status: OrderStatus::Shipped, shipping, replayed: false })
}

/// The payload of a report in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// WeChat Pay's number of the payment.
    pub transaction_id: String,
    /// The payer.
    pub open_id: OpenId,
    pub logistics: Logistics,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub express_company: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_no: Option<String>,
    /// What is in it.
    pub item_desc: String,
    /// The receiver's masked phone, for the courier that asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver_contact: Option<String>,
}

impl Report {
    /// The report of an order that was paid through WeChat; none where nothing is to be reported.
    fn of(order: &Order, shipping: &Shipping) -> Option<Self> {
        let transaction_id = order.transaction_id.clone().filter(|_| shipping.reported)?;
        let by_sf = shipping.express_company.as_deref().is_some_and(|code| code.eq_ignore_ascii_case(SF));
        Some(Self {
            transaction_id,
            open_id: order.open_id.clone(),
            logistics: shipping.logistics,
            express_company: shipping.express_company.clone(),
            tracking_no: shipping.tracking_no.clone(),
            item_desc: description(order),
            receiver_contact: by_sf.then(|| mask_phone(&order.address.phone)),
        })
    }

    fn upload(&self, now: DateTime<Utc>) -> ShippingReport {
        ShippingReport {
            order_key: OrderKey::Transaction(self.transaction_id.clone()),
            logistics: match self.logistics {
                Logistics::Express => shipping::Logistics::Express,
                Logistics::City => shipping::Logistics::City,
                Logistics::Virtual => shipping::Logistics::Virtual,
                Logistics::Pickup => shipping::Logistics::Pickup,
            },
            parcel: shipping::Parcel {
                tracking_no: self.tracking_no.clone(),
                express_company: self.express_company.clone(),
                item_desc: self.item_desc.clone(),
                receiver_phone: self.receiver_contact.clone(),
            },
            upload_time: now,
            openid: Personal::new(self.open_id.as_str()),
        }
    }

    /// The first report of a shipment.
    fn item(&self, order: &OrderId, now: DateTime<Utc>) -> Result<OutboxItem, Error> {
        let queue = format!("shipping:{order}");
        let mut item = OutboxItem::new(format!("{queue}:1"), KIND, self, now)?;
        // WeChat wants the reports of one payment one after another.
        item.queue = Some(queue);
        item.order_id = Some(order.clone());
        Ok(item)
    }
}

/// `苹果×2；蜂蜜×1`
fn description(order: &Order) -> String {
    let lines: Vec<String> = order.items.iter().map(|line| format!("{}×{}", line.name, line.quantity)).collect();
    item_desc(&lines.join("；"))
}

/// What the tries before this one mean for it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// One of them may have been taken.
    in_doubt: bool,
    since: DateTime<Utc>,
}

impl Attempt {
    /// For the newest try of an item, which is among its tries.
    pub fn of(item: &OutboxItem) -> Self {
        let unseen = |t: &store::outbox::Try| t.outcome.is_none() || t.reason.as_deref() == Some(OUTCOME_UNKNOWN);
        let in_doubt = item.tries.iter().any(|t| t.n != item.attempts && unseen(t));
        Self { in_doubt, since: item.created_at }
    }
}

/// Reports a shipment to WeChat. A payment can be shipped again once and no more, so after any doubt WeChat is asked what it knows
/// before it is told again.
pub async fn deliver(client: &open::Client, report: &Report, attempt: Attempt, now: DateTime<Utc>) -> Outcome {
    let upload = report.upload(now);
    if attempt.in_doubt {
        match client.get_shipping_order(&upload.order_key).await {
            Ok(order) if order.matches(&upload) => return Outcome::Delivered,
            Ok(order) if order.state == OrderState::ToShip => {}
            Ok(order) => return known_otherwise(&order, None),
            Err(error) => match failed(error, attempt, now) {
                // Of a payment that it does not know yet it knows no shipment either.
                Failed::NotYetKnown(_) => {}
                Failed::CheckOrder(why) => return Outcome::later(why),
                Failed::Ends(outcome) => return outcome,
            },
        }
    }
    let Err(error) = client.upload_shipping_info(&upload).await else { return Outcome::Delivered };
    match failed(error, attempt, now) {
        Failed::Ends(outcome) | Failed::NotYetKnown(outcome) => outcome,
        Failed::CheckOrder(why) => match client.get_shipping_order(&upload.order_key).await {
            Ok(order) if order.matches(&upload) => Outcome::Delivered,
            Ok(order) => known_otherwise(&order, Some(why)),
            Err(error) => match failed(error, attempt, now) {
                Failed::Ends(outcome) | Failed::NotYetKnown(outcome) => outcome,
                Failed::CheckOrder(why) => Outcome::later(why),
            },
        },
    }
}

/// What a failure of WeChat means for a report.
enum Failed {
    Ends(Outcome),
    /// The payment is not in its index yet; the outcome if that is all.
    NotYetKnown(Outcome),
    /// It takes no report any more; whether it knows what it should must be asked.
    CheckOrder(Why),
}

fn failed(error: open::Error, attempt: Attempt, now: DateTime<Utc>) -> Failed {
    let why = Why::from(&error);
    Failed::Ends(match ShippingClass::of(&Err(error)) {
        ShippingClass::Done => Outcome::Delivered,
        ShippingClass::RetryLater | ShippingClass::NotSent => Outcome::later(why),
        ShippingClass::NotYetKnown => {
            let why = why.because("PAYMENT_NOT_KNOWN");
            let known_by = attempt.since.checked_add_signed(INDEXED).unwrap_or(now);
            return Failed::NotYetKnown(match now < known_by {
                true => Outcome::Later { why, at_least: INDEX_LAG },
                false => Outcome::Dead(why),
            });
        }
        ShippingClass::CheckOrder => return Failed::CheckOrder(why),
        ShippingClass::FixData(_) => Outcome::Dead(why.because("DATA_REFUSED")),
        ShippingClass::Pause(pause) => Outcome::Paused { why, pause },
        ShippingClass::Operator(code) => Outcome::Dead(why.because(code)),
        ShippingClass::Unknown => Outcome::later(why.because(OUTCOME_UNKNOWN)),
    })
}

/// WeChat has the payment in a state in which it does not take, or should not get, this report.
fn known_otherwise(order: &ShippingOrder, refused: Option<Why>) -> Outcome {
    let why = match order.state {
        OrderState::Refunded => Why::new("PAYMENT_REFUNDED", "WeChat has the payment as refunded"),
        OrderState::ToShip => {
            Why::new("REFUSED_BY_WECHAT", "WeChat takes no report of a payment that it has as unshipped")
        }
        _ => Why::new("SHIPPED_OTHERWISE", "WeChat has the payment as shipped with other data"),
    };
    let (errcode, rid) = refused.map_or((None, None), |refused| (refused.errcode, refused.rid));
    Outcome::Dead(Why { errcode, rid, ..why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_couriers_parcel_has_a_courier_and_a_number() {
        let check = |logistics, company: Option<&str>, number: Option<&str>| {
            Parcel::parse(logistics, company, number).map_err(|r| r.details["field"].as_str().unwrap().to_owned())
        };
        let good = check(Logistics::Express, Some(" SF "), Some("SF-123_4\n")).unwrap();
        assert_eq!((good.express_company.as_deref(), good.tracking_no.as_deref()), (Some("SF"), Some("SF-123_4")));
        for (company, number, field) in [
            (None, Some("1"), "expressCompany"),
            (Some(" "), Some("1"), "expressCompany"),
            (Some("顺丰"), Some("1"), "expressCompany"),
            (Some("A-B"), Some("1"), "expressCompany"),
            (Some(&*"A".repeat(33)), Some("1"), "expressCompany"),
            (Some("SF"), None, "trackingNo"),
            (Some("SF"), Some("单号"), "trackingNo"),
            (Some("SF"), Some("1\n2"), "trackingNo"),
            (Some("SF"), Some("1 2"), "trackingNo"),
            (Some("SF"), Some(&*"1".repeat(129)), "trackingNo"),
        ] {
            assert_eq!(check(Logistics::Express, company, number).unwrap_err(), field, "{company:?} {number:?}");
        }
        for logistics in [Logistics::City, Logistics::Virtual, Logistics::Pickup] {
            assert!(check(logistics, None, None).is_ok());
            assert_eq!(check(logistics, None, Some("1")).unwrap_err(), "trackingNo");
            assert_eq!(check(logistics, Some("SF"), None).unwrap_err(), "expressCompany");
        }
    }
}
