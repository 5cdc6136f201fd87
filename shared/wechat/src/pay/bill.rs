//! Yesterday's bill: ask where it is, fetch it, and prove that it is what was announced.
//!
//! The announcement is signed like every answer and carries the file's SHA-1; the file itself is not signed, so the digest is
//! what proves it. A bill is there after ten in the morning of the next day, and for three months.
//!
//! Sources: pay.weixin.qq.com/doc/v3/merchant/4013071227 (trade), 4013071238 (download).

pub(crate) mod file;

use std::fmt;
use std::io::Read as _;
use std::time::Duration;

use chrono::{Days, Months, NaiveDate, TimeDelta};
use flate2::read::MultiGzDecoder;
use http::{Method, StatusCode};
use reqwest::Url;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde::Deserialize;

use super::{Client, Error, Repeat, read};
pub use file::{BillFormatError, BillState, BillSummary, RefundPart, TradeBill, TradeRow};

/// The longest bill taken, after unpacking: half a million rows.
const BILL_MAX_BYTES: usize = 128 << 20;

/// A file takes longer than an answer.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// When to ask again for a bill that is being made.
pub const CREATING_RETRY_AFTER: Duration = Duration::from_secs(30 * 60);

/// Which bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BillKind {
    /// Payments and refunds.
    Trade,
    /// Payments only, without the columns of refunds.
    TradeSuccess,
    /// Refunds only, with the times of each.
    TradeRefund,
}

impl BillKind {
    fn parameter(self) -> &'static str {
        match self {
            Self::Trade => "bill_type=ALL",
            Self::TradeSuccess => "bill_type=SUCCESS",
            Self::TradeRefund => "bill_type=REFUND",
        }
    }
}

/// Where a bill is and what proves it. Good for half a minute to five; take a new one rather than keep it.
#[derive(Clone)]
pub struct BillTicket {
    url: Url,
    sha1: String,
}

impl fmt::Debug for BillTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address holds a token.
        f.debug_struct("BillTicket").field("sha1", &self.sha1).finish_non_exhaustive()
    }
}

impl BillTicket {
    /// SHA-1 of the file, unpacked, in lower-case hexadecimal. The same bill fetched twice has the same.
    pub fn sha1(&self) -> &str {
        &self.sha1
    }
}

/// No bill.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BillError {
    /// It is being made: again after [`CREATING_RETRY_AFTER`].
    #[error("the bill is not ready yet")]
    Creating,
    /// There was no trade on that day. Said without a signature: where our own books know of a payment, it is a difference.
    #[error("there is no bill for that day")]
    NoStatement,
    /// The ticket is used up or too old: take a new one.
    #[error("the bill's address has expired")]
    Expired,
    /// The file is not the one that was announced.
    #[error("the bill is not the one that was announced")]
    Digest,
    /// The file is packed, but cannot be unpacked, or becomes longer than any bill.
    #[error("the bill cannot be unpacked")]
    Packed,
    /// Anything else.
    #[error(transparent)]
    Pay(#[from] Error),
}

impl BillError {
    /// Whether the same bill may be there later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Creating | Self::Expired | Self::Digest | Self::Packed => true,
            Self::NoStatement => false,
            Self::Pay(error) => error.is_retryable(),
        }
    }
}

impl From<BillError> for domain::Failure {
    fn from(error: BillError) -> Self {
        match error {
            BillError::Pay(error) => error.into(),
            other => Self::Upstream(Box::new(other)),
        }
    }
}

#[derive(Deserialize)]
struct Announcement {
    hash_type: String,
    hash_value: String,
    download_url: String,
}

impl Client {
    /// Ask where the bill of a day in Beijing is. `gzip` saves three quarters of the way.
    pub async fn bill(&self, day: NaiveDate, kind: BillKind, gzip: bool) -> Result<BillTicket, BillError> {
        let today = (self.now)().naive_utc().checked_add_signed(TimeDelta::hours(8)).map(|local| local.date());
        let today = today.ok_or(Error::Misuse("the time is out of range"))?;
        let oldest = today.checked_sub_months(Months::new(3)).and_then(|day| day.checked_sub_days(Days::new(1)));
        if day >= today || oldest.is_some_and(|oldest| day < oldest) {
            return Err(Error::Misuse("bills are of days before today, within three months").into());
        }
        let packed = if gzip { "&tar_type=GZIP" } else { "" };
        let path = format!("/v3/bill/tradebill?bill_date={}&{}{packed}", day.format("%Y-%m-%d"), kind.parameter());
        let answer = match self.call(Method::GET, &path, None, Repeat::Once).await {
            Err(e) if e.is_rejection(StatusCode::BAD_REQUEST, "STATEMENT_CREATING") => return Err(BillError::Creating),
            Err(e) if e.is_rejection(StatusCode::BAD_REQUEST, "NO_STATEMENT_EXIST") => {
                return Err(BillError::NoStatement);
            }
            other => other?,
        };
        let Announcement { hash_type, hash_value, download_url } = read(&answer, "bill")?;
        let sha1 = hash_value.to_ascii_lowercase();
        if hash_type != "SHA1" || hex::decode(&sha1).map_or(0, |bytes| bytes.len()) != 20 {
            return Err(Error::Malformed("the bill's digest").into());
        }
        let url = Url::parse(&download_url).map_err(|_| Error::Malformed("the bill's address"))?;
        // Signed by WeChat Pay, and still nothing that may lead from https to http.
        if !matches!(url.scheme(), "http" | "https") || (self.base.scheme() == "https" && url.scheme() != "https") {
            return Err(Error::Malformed("the bill's address").into());
        }
        Ok(BillTicket { url, sha1 })
    }

    /// Fetch a bill, unpack it if it is packed, and prove it. Read it with [`TradeBill`].
    pub async fn download_bill(&self, ticket: &BillTicket) -> Result<Vec<u8>, BillError> {
        let mut reply =
            self.send_to(Method::GET, ticket.url.clone(), None, BILL_MAX_BYTES, Some(DOWNLOAD_TIMEOUT)).await?;
        if !reply.status.is_success() {
            let error = self.rejection(&reply);
            let expired = error.is_rejection(StatusCode::BAD_REQUEST, "INVALID_REQUEST");
            return Err(if expired { BillError::Expired } else { error.into() });
        }
        if holds(&reply.body, &ticket.sha1) {
            // Whether a packed file's digest is taken before or after packing is not said everywhere.
            return unpack(std::mem::take(&mut reply.body));
        }
        let unpacked = unpack(reply.body)?;
        if holds(&unpacked, &ticket.sha1) { Ok(unpacked) } else { Err(BillError::Digest) }
    }
}

fn holds(bytes: &[u8], sha1: &str) -> bool {
    hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes)) == sha1
}

/// What does not begin like gzip is not packed, whatever was asked for.
fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>, BillError> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let limit = u64::try_from(BILL_MAX_BYTES).unwrap_or(u64::MAX);
    let mut unpacked = Vec::new();
    let read = MultiGzDecoder::new(bytes.as_slice()).take(limit.saturating_add(1)).read_to_end(&mut unpacked);
    match read {
        Ok(length) if length <= BILL_MAX_BYTES => Ok(unpacked),
        _ => Err(BillError::Packed),
    }
}
