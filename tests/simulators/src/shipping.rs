//! Reports of shipping, against the ledger of WeChat Pay: an order that was never paid cannot be shipped, and one that was is
//! re-shipped once.
//!
//! Where the documents do not say in which order mistakes are found, the request comes first, then the payment, then what was
//! reported before.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::openapi::{Refusal, body_json};
use crate::state::{Order, ShippedParcel, Shipping, State as Memory};
use crate::{Sim, keys};

const UPLOAD: &str = "/wxa/sec/order/upload_shipping_info";
const GET_ORDER: &str = "/wxa/sec/order/get_order";
const IS_MANAGED: &str = "/wxa/sec/order/is_trade_managed";
pub(crate) const PATHS: [&str; 3] = [UPLOAD, GET_ORDER, IS_MANAGED];

const PARCELS_MAX: usize = 15;
const ITEM_DESC_MAX: usize = 120;
const TEXT_MAX: usize = 128;
const EXPRESS: u8 = 1;
const UNIFIED: u8 = 1;
const SPLIT: u8 = 2;
/// The courier that wants to call somebody.
const SF: &str = "SF";

pub(crate) fn answer(sim: &Sim, path: &str, body: &[u8], now: DateTime<Utc>) -> Result<Value, Refusal> {
    match path {
        UPLOAD => upload(&mut sim.state(), body_json(body)?, now),
        GET_ORDER => get_order(&sim.state(), body_json(body)?, now),
        _ => is_managed(body_json(body)?),
    }
}

/// The types alone are checked here: an object where a list belongs is 47001.
#[derive(Deserialize)]
struct Upload {
    order_key: Option<OrderKey>,
    logistics_type: Option<i64>,
    delivery_mode: Option<i64>,
    is_all_delivered: Option<bool>,
    shipping_list: Vec<ShippedParcel>,
    upload_time: Option<String>,
    payer: Option<Payer>,
}

#[derive(Deserialize)]
struct OrderKey {
    order_number_type: Option<i64>,
    transaction_id: Option<String>,
    mchid: Option<String>,
    out_trade_no: Option<String>,
}

#[derive(Deserialize)]
struct Payer {
    openid: Option<String>,
}

fn upload(state: &mut Memory, request: Upload, now: DateTime<Utc>) -> Result<Value, Refusal> {
    let key = request.order_key.ok_or_else(|| Refusal::new(268_485_194, "order_key is missing"))?;
    let wanted = |value: Option<String>, code: i64, what: &str| {
        value.filter(|value| !value.is_empty()).ok_or_else(|| Refusal::new(code, format!("{what} is missing")))
    };
    let order = match key.order_number_type {
        Some(1) => {
            let mchid = wanted(key.mchid, 268_485_196, "order_key.mchid")?;
            let number = wanted(key.out_trade_no, 268_485_197, "order_key.out_trade_no")?;
            state.order(&number).filter(|_| mchid == keys::MCHID)
        }
        Some(2) => state.order_of_transaction(&wanted(key.transaction_id, 268_485_195, "order_key.transaction_id")?),
        _ => return Err(Refusal::new(268_485_194, "order_key.order_number_type must be 1 or 2")),
    };
    let logistics_type = u8::try_from(request.logistics_type.unwrap_or_default()).unwrap_or_default();
    if !(1..=4).contains(&logistics_type) {
        return Err(Refusal::new(10_060_005, "logistics_type must be 1 to 4"));
    }
    let delivery_mode = u8::try_from(request.delivery_mode.unwrap_or_default()).unwrap_or_default();
    if delivery_mode != UNIFIED && delivery_mode != SPLIT {
        return Err(Refusal::new(268_485_224, "delivery_mode must be 1 or 2"));
    }
    let finishes = match (delivery_mode, request.is_all_delivered) {
        (UNIFIED, _) => true,
        _ if logistics_type != EXPRESS => return Err(Refusal::new(10_060_006, "only express can be split")),
        (_, Some(all)) => all,
        (_, None) => return Err(Refusal::new(10_060_007, "is_all_delivered is missing")),
    };
    check_parcels(&request.shipping_list, logistics_type, delivery_mode)?;
    let upload_time = request
        .upload_time
        .as_deref()
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .ok_or_else(|| Refusal::new(268_485_216, "upload_time must be RFC 3339"))?
        .to_utc();
    let payer = request.payer.and_then(|payer| payer.openid).filter(|id| !id.is_empty());
    let payer = payer.ok_or_else(|| Refusal::new(10_060_014, "payer.openid is missing"))?;

    let lag = state.shipping_lag;
    let known = |order: &&Order| order.paid_at.is_some_and(|at| at + lag <= now);
    let order = order.filter(known).ok_or_else(|| Refusal::new(10_060_001, "no such payment"))?;
    if order.open_id != payer {
        return Err(Refusal::new(10_060_031, "the payment is another user's"));
    }
    if order.refunded_fen() >= order.ledger_fen() {
        return Err(Refusal::new(10_060_004, "the payment is refunded"));
    }
    let transaction_id = order.transaction_id.clone().unwrap_or_default();
    let fresh = Shipping {
        transaction_id: transaction_id.clone(),
        out_trade_no: order.out_trade_no.clone(),
        open_id: order.open_id.clone(),
        logistics_type,
        delivery_mode,
        finished: finishes,
        reships: 0,
        reports: 1,
        shipping_list: request.shipping_list,
        upload_time,
        reported_at: now,
        confirmed: false,
    };
    let next = match state.shipping(&transaction_id) {
        None => fresh,
        Some(before) => follow(before, fresh)?,
    };
    state.put_shipping(next);
    Ok(json!({ "errcode": 0, "errmsg": "ok" }))
}

/// What a report after another one leads to.
fn follow(before: &Shipping, next: Shipping) -> Result<Shipping, Refusal> {
    let same_way = before.logistics_type == next.logistics_type && before.delivery_mode == next.delivery_mode;
    let continues = same_way && !before.finished;
    let mut shipping_list = if continues { before.shipping_list.clone() } else { Vec::new() };
    for parcel in next.shipping_list {
        if !shipping_list.contains(&parcel) {
            shipping_list.push(parcel);
        }
    }
    if same_way && before.shipping_list == shipping_list && before.finished == next.finished {
        return Err(Refusal::new(10_060_023, "nothing has changed"));
    }
    if before.confirmed {
        return Err(Refusal::new(10_060_002, "the order is complete"));
    }
    if !continues && before.reships > 0 {
        return Err(Refusal::new(10_060_003, "the one chance to ship again is used"));
    }
    if next.upload_time <= before.upload_time {
        return Err(Refusal::new(268_485_216, "upload_time must be later than that of the report before"));
    }
    if shipping_list.len() > PARCELS_MAX {
        return Err(Refusal::new(10_060_024, "too many parcels"));
    }
    Ok(Shipping {
        shipping_list,
        reships: before.reships.saturating_add(u32::from(!continues)),
        reports: before.reports.saturating_add(1),
        ..next
    })
}

fn check_parcels(parcels: &[ShippedParcel], logistics_type: u8, delivery_mode: u8) -> Result<(), Refusal> {
    if parcels.is_empty() {
        return Err(Refusal::new(10_060_014, "shipping_list is empty"));
    }
    if delivery_mode == UNIFIED && parcels.len() != 1 {
        return Err(Refusal::new(268_485_228, "unified delivery has one parcel"));
    }
    if parcels.len() > PARCELS_MAX {
        return Err(Refusal::new(10_060_024, "too many parcels"));
    }
    for parcel in parcels {
        if parcel.item_desc.trim().is_empty() {
            return Err(Refusal::new(10_060_008, "item_desc is missing"));
        }
        if parcel.item_desc.encode_utf16().count() > ITEM_DESC_MAX {
            return Err(Refusal::new(10_060_009, "item_desc is too long"));
        }
        let (number, company) =
            (parcel.tracking_no.as_deref().unwrap_or_default(), parcel.express_company.as_deref().unwrap_or_default());
        if company.len() > TEXT_MAX {
            return Err(Refusal::new(10_060_025, "express_company is too long"));
        }
        if number.len() > TEXT_MAX {
            return Err(Refusal::new(10_060_026, "tracking_no is too long"));
        }
        if logistics_type != EXPRESS {
            continue;
        }
        if number.is_empty() {
            return Err(Refusal::new(268_485_226, "tracking_no is missing"));
        }
        if company.is_empty() {
            return Err(Refusal::new(268_485_227, "express_company is missing"));
        }
        let contact = parcel.contact.as_ref();
        let numbers = [
            contact.and_then(|contact| contact.consignor_contact.as_deref()),
            contact.and_then(|contact| contact.receiver_contact.as_deref()),
        ];
        if company == SF && numbers.iter().flatten().count() == 0 {
            return Err(Refusal::new(10_060_014, "SF wants a contact"));
        }
        if !numbers.into_iter().flatten().all(is_masked) {
            return Err(Refusal::new(10_060_014, "contacts must be masked, such as 189****1234"));
        }
    }
    Ok(())
}

/// The last four digits can be seen, and not the whole number.
fn is_masked(number: &str) -> bool {
    let visible = number.bytes().rev().take_while(u8::is_ascii_digit).count();
    let allowed = number.bytes().all(|byte| byte.is_ascii_digit() || b"*+- ".contains(&byte));
    allowed && visible >= 4 && number.contains('*')
}

#[derive(Deserialize)]
struct GetOrder {
    transaction_id: Option<String>,
    merchant_id: Option<String>,
    merchant_trade_no: Option<String>,
}

fn get_order(state: &Memory, request: GetOrder, now: DateTime<Utc>) -> Result<Value, Refusal> {
    let order = match (&request.transaction_id, &request.merchant_id, &request.merchant_trade_no) {
        (Some(id), ..) => state.order_of_transaction(id),
        (None, Some(merchant), Some(number)) => state.order(number).filter(|_| merchant == keys::MCHID),
        _ => return Err(Refusal::new(268_485_194, "give transaction_id or merchant_id and merchant_trade_no")),
    };
    let paid = order.and_then(|order| Some((order, order.paid_at?, order.transaction_id.as_deref()?)));
    let (order, paid_at, transaction_id) = paid
        .filter(|(_, at, _)| *at + state.shipping_lag <= now)
        .ok_or_else(|| Refusal::new(10_060_001, "no such payment"))?;
    let shipping = state.shipping(transaction_id);
    let order_state = match shipping {
        _ if order.refunded_fen() >= order.ledger_fen() => 5,
        Some(shipping) if shipping.confirmed => 3,
        Some(shipping) if shipping.finished => 2,
        _ => 1,
    };
    let mut view = json!({
        "transaction_id": transaction_id,
        "merchant_id": keys::MCHID,
        "sub_merchant_id": "",
        "merchant_trade_no": order.out_trade_no,
        "description": order.description,
        "paid_amount": order.ledger_fen(),
        "openid": order.open_id,
        "trade_create_time": order.created_at.timestamp(),
        "pay_time": paid_at.timestamp(),
        "order_state": order_state,
        "in_complaint": false,
    });
    if let (Some(shipping), Some(fields)) = (shipping, view.as_object_mut()) {
        let parcels: Vec<Value> = shipping
            .shipping_list
            .iter()
            .map(|parcel| {
                json!({
                    "tracking_no": parcel.tracking_no.as_deref().unwrap_or_default(),
                    "express_company": parcel.express_company.as_deref().unwrap_or_default(),
                    "goods_desc": parcel.item_desc,
                    "upload_time": shipping.upload_time.timestamp(),
                    "contact": parcel.contact,
                })
            })
            .collect();
        let times_finished = if shipping.finished { shipping.reships.saturating_add(1) } else { shipping.reships };
        let shown = json!({
            "delivery_mode": shipping.delivery_mode,
            "logistics_type": shipping.logistics_type,
            "finish_shipping": shipping.finished,
            "goods_desc": shipping.shipping_list.first().map(|parcel| parcel.item_desc.as_str()).unwrap_or_default(),
            "finish_shipping_count": times_finished,
            "shipping_list": parcels,
        });
        fields.insert("shipping".to_owned(), shown);
    }
    Ok(json!({ "errcode": 0, "errmsg": "ok", "order": view }))
}

#[derive(Deserialize)]
struct IsManaged {
    appid: Option<String>,
}

fn is_managed(request: IsManaged) -> Result<Value, Refusal> {
    match request.appid.as_deref() {
        Some(keys::APPID) => Ok(json!({ "errcode": 0, "errmsg": "ok", "is_trade_managed": true })),
        _ => Err(Refusal::new(40013, "invalid appid")),
    }
}
