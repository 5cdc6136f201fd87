//! Notices of refunds as APIv2 sends them: XML with encrypted content, unsigned. They come for refunds made in the merchant
//! portal, of which the merchant has not heard, and for those without a `notify_url`.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt as _, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use http::header::CONTENT_TYPE;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::control::{PaidReply, Refused};
use crate::crypto::random_hex;
use crate::notice::NoticeResult;
use crate::state::{Order, Refund, RefundStatus};
use crate::wxpay::trade_number;
use crate::{Error, Sim, keys};

const BLOCK: usize = 16;
const TIMES_MAX: u32 = 50;
const ANSWER_MAX: usize = 2_000;

/// What becomes of an XML notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LegacyMode {
    /// Sent once.
    #[default]
    Once,
    /// Lost.
    None,
    /// The same notice several times.
    Duplicate,
    /// Encrypted with another key.
    WrongKey,
    /// Claims one fen more than was given back; it opens all the same, for nothing protects it.
    WrongAmount,
    /// With a DOCTYPE in front.
    Doctype,
}

/// The body of `POST control/legacyRefund`: somebody refunds in the merchant portal (`outTradeNo` and `refundFen`), or the notice of
/// a known refund (`outRefundNo`) is sent in XML.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LegacyRefund {
    /// The payment; a refund of it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_trade_no: Option<String>,
    /// How much goes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_fen: Option<i64>,
    /// A refund there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_refund_no: Option<String>,
    /// Where the notice goes, as set in the portal; default where the refund's or the payment's notices go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What becomes of the notice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<LegacyMode>,
    /// How often it is sent; default 2 for `duplicate`, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

impl Sim {
    /// Refunds in the portal, or repeats the notice of a refund, and sends it as XML.
    pub async fn legacy_refund(&self, request: &LegacyRefund) -> Result<PaidReply, Refused> {
        let (order, refund) = self.commit_legacy(request)?;
        let mode = request.notify.unwrap_or_default();
        let times = match mode {
            LegacyMode::None => 0,
            LegacyMode::Duplicate => request.times.unwrap_or(2),
            _ => request.times.unwrap_or(1),
        };
        let url = request.url.as_ref().or(refund.notify_url.as_ref()).unwrap_or(&order.notify_url);
        let body = notice(&order, &refund, mode)?;
        let deliveries = (0..times.min(TIMES_MAX)).map(|_| self.deliver_xml(url, &body));
        let notices: Vec<NoticeResult> = futures_util::future::join_all(deliveries).await;
        Ok(PaidReply {
            success: true,
            out_trade_no: order.out_trade_no.clone(),
            transaction_id: order.transaction_id.clone().unwrap_or_default(),
            out_refund_no: Some(refund.out_refund_no.clone()),
            status: Some(refund.status),
            already_paid: true,
            notice_status: notices.first().and_then(|notice| notice.status),
            notices,
        })
    }

    fn commit_legacy(&self, request: &LegacyRefund) -> Result<(Order, Refund), Refused> {
        let refused = |status, code, message: &str| Refused { status, code, message: message.to_owned() };
        let now = self.now();
        let mut state = self.state();
        match (&request.out_trade_no, request.refund_fen, &request.out_refund_no) {
            (None, None, Some(number)) => {
                let order = state.order_of_refund(number).cloned();
                let refund = order.as_ref().and_then(|order| order.refunds.iter().find(|r| r.out_refund_no == *number));
                let refund = refund.cloned();
                order.zip(refund).ok_or_else(|| refused(404, "NOT_FOUND", "no refund with this outRefundNo"))
            }
            (Some(number), Some(fen), None) => {
                let paid = state.order(number).filter(|order| order.transaction_id.is_some());
                let mut order = paid.ok_or_else(|| refused(404, "NOT_FOUND", "no such payment"))?.clone();
                if fen < 1 || fen > order.ledger_fen().saturating_sub(order.refunded_fen()) {
                    return Err(refused(400, "INVALID_ARGUMENT", "refundFen is not what is left to refund"));
                }
                let refund = Refund {
                    refund_id: trade_number("5030", now),
                    // Made up by the portal, digits only.
                    out_refund_no: trade_number("1010", now),
                    refund_fen: fen,
                    notify_url: None,
                    request: json!({}),
                    created_at: now,
                    status: RefundStatus::Success,
                    success_at: Some(now),
                };
                order.refunds.push(refund.clone());
                state.put_order(order.clone());
                Ok((order, refund))
            }
            _ => Err(refused(400, "INVALID_ARGUMENT", "give outTradeNo and refundFen, or outRefundNo")),
        }
    }

    async fn deliver_xml(&self, url: &str, body: &str) -> NoticeResult {
        let request = self.http().post(url).header(CONTENT_TYPE, "text/xml").header("User-Agent", "Mozilla/4.0");
        let failed = |status, error: reqwest::Error| NoticeResult {
            status,
            body: String::new(),
            error: Some(format!("{error:?}")),
        };
        match request.body(body.to_owned()).send().await {
            Ok(response) => {
                let status = Some(response.status().as_u16());
                match response.text().await {
                    Ok(text) => NoticeResult { status, body: text.chars().take(ANSWER_MAX).collect(), error: None },
                    Err(error) => failed(status, error),
                }
            }
            Err(error) => failed(None, error),
        }
    }
}

fn notice(order: &Order, refund: &Refund, mode: LegacyMode) -> Result<String, Error> {
    let status = match refund.status {
        RefundStatus::Success | RefundStatus::Processing => "SUCCESS",
        RefundStatus::Closed => "REFUNDCLOSE",
        RefundStatus::Abnormal => "CHANGE",
    };
    let extra = i64::from(mode == LegacyMode::WrongAmount);
    let fen = refund.refund_fen.saturating_add(extra).to_string();
    let total = order.ledger_fen().to_string();
    let time = refund.success_at.map(beijing_text).unwrap_or_default();
    let source = if refund.notify_url.is_some() { "API" } else { "VENDOR_PLATFORM" };
    let fields = [
        ("out_refund_no", refund.out_refund_no.as_str()),
        ("out_trade_no", &order.out_trade_no),
        ("refund_account", "REFUND_SOURCE_RECHARGE_FUNDS"),
        ("refund_fee", &fen),
        ("refund_id", &refund.refund_id),
        // Misspelt by WeChat.
        ("refund_recv_accout", "支付用户零钱"),
        ("refund_request_source", source),
        ("refund_status", status),
        ("settlement_refund_fee", &fen),
        ("settlement_total_fee", &total),
        ("success_time", &time),
        ("total_fee", &total),
        ("transaction_id", order.transaction_id.as_deref().unwrap_or_default()),
    ];
    let element = |(name, value): &(&str, &str)| format!("<{name}><![CDATA[{value}]]></{name}>\n");
    let plain = format!("<root>\n{}</root>", fields.iter().map(element).collect::<String>());
    let key = if mode == LegacyMode::WrongKey { "another-key-another-key-another-" } else { keys::API_V2_KEY };
    let (req_info, nonce) = (seal(plain, key)?, random_hex::<16>());
    let outer = [
        ("return_code", "SUCCESS"),
        ("appid", keys::APPID),
        ("mch_id", keys::MCHID),
        ("nonce_str", nonce.as_str()),
        ("req_info", req_info.as_str()),
    ];
    let doctype = if mode == LegacyMode::Doctype { "<!DOCTYPE xml>\n" } else { "" };
    Ok(format!("{doctype}<xml>\n{}</xml>", outer.iter().map(element).collect::<String>()))
}

/// AES-256-ECB with PKCS#7 padding under the key's MD5 in lower-case digits.
fn seal(plain: String, key: &str) -> Result<String, Error> {
    let failed = |_| Error::Crypto("AES-256-ECB");
    let key = hex::encode(Md5::digest(key));
    let cipher = Aes256::new_from_slice(key.as_bytes()).map_err(|_| Error::Crypto("AES-256-ECB"))?;
    let mut bytes = plain.into_bytes();
    let padding = BLOCK.saturating_sub(bytes.len() % BLOCK);
    bytes.extend(std::iter::repeat_n(u8::try_from(padding).map_err(|_| Error::Crypto("padding"))?, padding));
    for chunk in bytes.chunks_exact_mut(BLOCK) {
        let mut block = Array::try_from(&*chunk).map_err(failed)?;
        cipher.encrypt_block(&mut block);
        chunk.copy_from_slice(&block);
    }
    Ok(STANDARD.encode(bytes))
}

fn beijing_text(at: DateTime<Utc>) -> String {
    (at.naive_utc() + TimeDelta::hours(8)).format("%Y-%m-%d %H:%M:%S").to_string()
}
