//! The text that is signed, in each direction, and the headers that carry it.
//!
//! Everything here works on the bytes that travel: a body that was parsed and written again has another signature.
//! Sources: pay.weixin.qq.com/doc/v3/merchant/4012365342, 4012365336, 4012365344 (requests), 4013053249 (responses, notices),
//! 4012365339 (`wx.requestPayment`).

use chrono::{DateTime, Utc};
use http::HeaderMap;

use crate::crypto::{KeyError, MerchantKey, PlatformKeys, SignatureError};

pub(crate) const SCHEME: &str = "WECHATPAY2-SHA256-RSA2048";

/// How far `Wechatpay-Timestamp` may be from our clock, either way.
const WINDOW_SECONDS: u64 = 300;

/// Five lines, each ended by a line feed, the last one too. `target` is the path and query as on the request line.
pub(crate) fn request_message(method: &str, target: &str, timestamp: i64, nonce: &str, body: &str) -> String {
    format!("{method}\n{target}\n{timestamp}\n{nonce}\n{body}\n")
}

/// The value of `Authorization`. `serial_no` is the merchant certificate's, not the `Wechatpay-Serial` of the request.
pub(crate) fn authorization(
    key: &MerchantKey,
    mchid: &str,
    timestamp: i64,
    nonce: &str,
    message: &str,
) -> Result<String, KeyError> {
    let signature = key.sign(message.as_bytes())?;
    Ok(authorization_value(SCHEME, mchid, nonce, timestamp, key.serial(), &signature))
}

pub(crate) fn authorization_value(
    scheme: &str,
    mchid: &str,
    nonce: &str,
    timestamp: i64,
    serial: &str,
    signature: &str,
) -> String {
    format!(
        r#"{scheme} mchid="{mchid}",nonce_str="{nonce}",timestamp="{timestamp}",serial_no="{serial}",signature="{signature}""#
    )
}

/// Four lines for `wx.requestPayment` in a mini program. The fourth is the whole `package`; only APP payments sign the bare id.
pub(crate) fn pay_message(appid: &str, timestamp: i64, nonce: &str, package: &str) -> String {
    format!("{appid}\n{timestamp}\n{nonce}\n{package}\n")
}

/// Prove that `body` was sent by WeChat Pay; returns the serial of the key that signed it.
///
/// Checks in this order: all headers present, timestamp within five minutes, serial known, base64 strict, signature. A probe
/// (`WECHATPAY/SIGNTEST/…`) has no path of its own; it fails like any other wrong signature, which is what WeChat tests for.
pub(crate) fn verify(
    keys: &PlatformKeys,
    headers: &HeaderMap,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<String, SignatureError> {
    let timestamp = header(headers, "Wechatpay-Timestamp")?;
    let nonce = header(headers, "Wechatpay-Nonce")?;
    let signature = header(headers, "Wechatpay-Signature")?;
    let serial = header(headers, "Wechatpay-Serial")?;
    // Older samples lack this header, so its absence says nothing; another algorithm does.
    if let Some(kind) = headers.get("Wechatpay-Signature-Type")
        && kind.as_bytes() != SCHEME.as_bytes()
    {
        return Err(SignatureError::Type);
    }

    if !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SignatureError::Timestamp);
    }
    let seconds: i64 = timestamp.parse().map_err(|_| SignatureError::Timestamp)?;
    let skew_seconds = now.timestamp().saturating_sub(seconds);
    if skew_seconds.unsigned_abs() > WINDOW_SECONDS {
        return Err(SignatureError::Stale { skew_seconds });
    }

    // The timestamp is signed as it was sent, leading zeros and all.
    let mut message = format!("{timestamp}\n{nonce}\n").into_bytes();
    message.extend_from_slice(body);
    message.push(b'\n');
    keys.verify(serial, &message, signature, now)?;
    Ok(serial.to_owned())
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, SignatureError> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(SignatureError::MissingHeader(name));
    };
    match value.to_str() {
        Ok(text) if !text.is_empty() => Ok(text),
        _ => Err(SignatureError::MissingHeader(name)),
    }
}
