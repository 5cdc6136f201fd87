//! Bills: asking, fetching and proving against scripted servers, and the file's format.

use std::io::Write as _;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::json;

use super::*;
use crate::crypto::ApiV3Key;
use crate::pay::bill::file::decimal;
use crate::pay::bill::{BillError, BillFormatError, BillKind, BillState, TradeBill, TradeRow};
use crate::pay::{Client, Config, Error};

/// The day before the test clock's.
fn yesterday() -> NaiveDate {
    "2024-05-31".parse().unwrap()
}

fn client(url: &str, clock: &Clock) -> Client {
    Client::new(Config {
        base_url: url.to_owned(),
        backup_base_url: None,
        mchid: "1900000001".to_owned(),
        appid: "wxd678efh567hg6787".to_owned(),
        merchant_key: merchant_key(),
        platform_keys: public_keys(),
        api_v3_key: ApiV3Key::new("0123456789abcdef0123456789abcdef").unwrap(),
        notify_url: "https://shop.example/pay/callback".to_owned(),
        timeout: Duration::from_secs(5),
        now: clock.now(),
    })
    .unwrap()
}

fn sha1(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A file server that answers everything with these bytes, unsigned.
async fn files(status: u16, body: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v3/billdownload/file?token=6%2Bx&tartype=gzip", listener.local_addr().unwrap());
    let handler = move || {
        let body = body.clone();
        async move { (StatusCode::from_u16(status).unwrap(), body) }
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
    url
}

/// A server that announces `url` and `hash`.
async fn announcer(clock: &Clock, url: &str, hash: &str) -> Server {
    let body = json!({ "hash_type": "SHA1", "hash_value": hash, "download_url": url }).to_string();
    let clock = clock.clone();
    Server::start(move |_, _| Answer::new(200, body.clone()).signed(PUBLIC_SERIAL, clock.time())).await
}

async fn fetched(announced: &[u8], status: u16, sent: Vec<u8>) -> Result<Vec<u8>, BillError> {
    let clock = Clock::new();
    let server = announcer(&clock, &files(status, sent).await, &sha1(announced)).await;
    let client = client(&server.url, &clock);
    let ticket = client.bill(yesterday(), BillKind::Trade, true).await.unwrap();
    client.download_bill(&ticket).await
}

fn rows() -> Value {
    vectors()["vectors"].as_array().unwrap().iter().find(|v| v["id"] == "v3-bill-rows").cloned().unwrap()
}

/// The published rows as a file: with a byte-order mark and CRLF.
fn file(details: &[&str], summary: &str) -> String {
    let rows = rows();
    let mut text = format!("\u{feff}{}\r\n", rows["header"].as_str().unwrap());
    for line in details {
        text.push_str(&format!("{line}\r\n"));
    }
    text.push_str(&format!("{}\r\n{summary}\r\n", rows["summary_header"].as_str().unwrap()));
    text
}

const SUMMARY: &str = "`2.0,`0.03,`0.01,`0.0,`0.01,`0.03,`0.01";

fn published() -> String {
    let rows = rows();
    file(&[rows["refund_row"].as_str().unwrap(), rows["success_row"].as_str().unwrap()], SUMMARY)
}

fn read(text: &str) -> Result<Vec<TradeRow>, BillFormatError> {
    TradeBill::new(text.as_bytes())?.collect()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_bill_is_asked_for_fetched_and_proven() {
    let clock = Clock::new();
    let bill = published().into_bytes();
    for (kind, is_packed, target) in [
        (BillKind::Trade, false, "/v3/bill/tradebill?bill_date=2024-05-31&bill_type=ALL"),
        (BillKind::TradeRefund, true, "/v3/bill/tradebill?bill_date=2024-05-31&bill_type=REFUND&tar_type=GZIP"),
    ] {
        let sent = if is_packed { gzip(&bill) } else { bill.clone() };
        let server = announcer(&clock, &files(200, sent).await, &sha1(&bill).to_uppercase()).await;
        let client = client(&server.url, &clock);
        let ticket = client.bill(yesterday(), kind, is_packed).await.unwrap();
        assert_eq!(server.seen()[0].target, target);
        assert!(server.seen()[0].headers.contains_key("authorization"));
        assert_eq!(ticket.sha1(), sha1(&bill));
        assert!(!format!("{ticket:?}").contains("token"));
        assert_eq!(client.download_bill(&ticket).await.unwrap(), bill);
    }
}

#[tokio::test]
async fn the_download_is_signed_over_the_address_as_it_was_given() {
    let clock = Clock::new();
    let bill = published();
    let body = bill.clone();
    let files = Server::start(move |_, _| Answer::new(200, body.clone())).await;
    let url = format!("{}/v3/billdownload/file?token=a%2Bb%3D&x=", files.url);
    let server = announcer(&clock, &url, &sha1(bill.as_bytes())).await;
    let client = client(&server.url, &clock);
    let ticket = client.bill(yesterday(), BillKind::Trade, false).await.unwrap();
    client.download_bill(&ticket).await.unwrap();
    let seen = files.seen().remove(0);
    assert_eq!(seen.target, "/v3/billdownload/file?token=a%2Bb%3D&x=");
    let authorization = seen.headers["authorization"].to_str().unwrap();
    let field =
        |name: &str| authorization.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned();
    let message = format!("GET\n{}\n{}\n{}\n\n", seen.target, field("timestamp"), field("nonce_str"));
    assert_eq!(field("signature"), merchant_key().sign(message.as_bytes()).unwrap());
}

#[tokio::test]
async fn another_file_than_the_announced_one_is_refused() {
    let bill = published().into_bytes();
    assert!(matches!(fetched(&bill, 200, b"something else".to_vec()).await, Err(BillError::Digest)));
    assert!(matches!(fetched(&bill, 200, Vec::new()).await, Err(BillError::Digest)));
    assert!(matches!(fetched(&bill, 200, gzip(b"something else")).await, Err(BillError::Digest)));
    let mut torn = gzip(&bill);
    torn.truncate(torn.len() / 2);
    assert!(matches!(fetched(&bill, 200, torn).await, Err(BillError::Packed)));
    // The digest may have been taken of the packed file.
    let packed = gzip(&bill);
    assert_eq!(fetched(&packed, 200, packed.clone()).await.unwrap(), bill);
    // Plain although packed was asked for.
    assert_eq!(fetched(&bill, 200, bill.clone()).await.unwrap(), bill);

    let used = br#"{"code":"INVALID_REQUEST","message":"token expired"}"#.to_vec();
    assert!(matches!(fetched(&bill, 400, used).await, Err(BillError::Expired)));
    let denied = fetched(&bill, 403, br#"{"code":"NO_AUTH"}"#.to_vec()).await.unwrap_err();
    assert!(matches!(&denied, BillError::Pay(error) if error.code() == Some("NO_AUTH")), "{denied}");
}

#[tokio::test]
async fn what_is_not_there_yet_and_what_never_will_be_differ() {
    let clock = Clock::new();
    for (code, retryable) in [("STATEMENT_CREATING", true), ("NO_STATEMENT_EXIST", false), ("NOSTATEMENTEXIST", false)]
    {
        let body = json!({ "code": code, "message": "x" }).to_string();
        let server = Server::start(move |_, _| Answer::new(400, body.clone())).await;
        let error = client(&server.url, &clock).bill(yesterday(), BillKind::Trade, true).await.unwrap_err();
        assert_eq!(matches!(error, BillError::Creating), retryable, "{error}");
        assert_eq!(matches!(error, BillError::NoStatement), !retryable, "{error}");
        assert_eq!(error.is_retryable(), retryable);
        assert_eq!(server.count(), 1);
    }
}

#[tokio::test]
async fn a_bill_that_cannot_be_is_not_asked_for() {
    let clock = Clock::new();
    let server = announcer(&clock, "http://127.0.0.1:9/x", &sha1(b"")).await;
    let client = client(&server.url, &clock);
    // In Beijing it is June the first already.
    for day in ["2024-06-01", "2024-06-02", "2024-02-28"] {
        let error = client.bill(day.parse().unwrap(), BillKind::Trade, false).await.unwrap_err();
        assert!(matches!(error, BillError::Pay(Error::Misuse(_))), "{day}");
    }
    assert_eq!(server.count(), 0);
    assert!(client.bill("2024-03-01".parse().unwrap(), BillKind::Trade, false).await.is_ok());
    for (url, hash) in [("ftp://x/y", sha1(b"")), ("/v3/file", sha1(b"")), ("http://x/y", "00".to_owned())] {
        let server = announcer(&clock, url, &hash).await;
        let error = self::client(&server.url, &clock).bill(yesterday(), BillKind::Trade, false).await.unwrap_err();
        assert!(matches!(error, BillError::Pay(Error::Malformed(_))), "{url}");
    }
}

#[test]
fn the_published_rows_are_read() {
    let text = published();
    let mut bill = TradeBill::new(text.as_bytes()).unwrap();
    let rows: Vec<TradeRow> = bill.by_ref().map(Result::unwrap).collect();
    let summary = bill.summary().unwrap();
    assert_eq!((summary.n_rows, summary.in_fen, summary.out_fen), (2, 3, 1));

    let [given_back, paid] = rows.as_slice() else { panic!() };
    assert_eq!(given_back.state, BillState::Refund);
    assert_eq!((given_back.line, given_back.at), (2, at("2019-02-18T21:01:46Z")));
    assert_eq!(given_back.total_fen, Some(0));
    let refund = given_back.refund.as_ref().unwrap();
    assert_eq!(refund.refund_id, "50000709672019011908420787722");
    assert_eq!(refund.out_refund_no, "REF4200000263201902167700963919");
    assert_eq!((refund.refund_fen, refund.applied_fen, refund.coupon_refund_fen), (1, Some(1), 0));
    assert_eq!((refund.channel.as_str(), refund.status.as_str()), ("ORIGINAL", "SUCCESS"));

    assert_eq!(paid.state, BillState::Success);
    assert_eq!(
        (paid.transaction_id.as_str(), paid.out_trade_no.as_str()),
        ("4200000263201902167700134902", "autotest_20190219015232_89201")
    );
    assert_eq!((paid.mchid.as_str(), paid.appid.as_str()), ("1921000401", "wxab8acd895ab1638a"));
    assert_eq!((paid.total_fen, paid.settlement_fen, paid.coupon_fen), (Some(3), 3, 0));
    assert_eq!((paid.fee_hundred_thousandths, paid.rate.as_str()), (1_000, "39.00%"));
    assert_eq!((paid.refund.as_ref(), paid.attach.as_str(), paid.currency.as_str()), (None, "", "CNY"));
    assert!(!format!("{given_back:?}").contains("oHkLxtx0vUqe"));
    // Line feeds alone and no byte-order mark: what an editor leaves of it.
    assert_eq!(read(&text.replace("\r\n", "\n").replace('\u{feff}', "")).unwrap(), rows);
}

#[test]
fn columns_are_found_by_name() {
    let text = "\u{feff}商户订单号,微信订单号,交易时间,商户号,交易状态,应结订单金额,新列\r\n\
                `o-1,`42,`2026-11-20 23:59:59,`19,`SUCCESS,`1.5,`x,y\r\n\
                总交易单数,应结订单总金额,某总额\r\n`1,`1.50,`9.99\r\n";
    let row = read(text).unwrap().remove(0);
    assert_eq!((row.out_trade_no.as_str(), row.settlement_fen, row.total_fen), ("o-1", 150, None));
    assert_eq!(row.at, at("2026-11-20T15:59:59Z"));
    let missing = text.replace("交易状态", "状态");
    assert!(matches!(read(&missing), Err(BillFormatError::Header("交易状态"))));
    assert!(matches!(read("<html>"), Err(BillFormatError::Header(_))));
    assert!(matches!(read(""), Err(BillFormatError::Truncated)));
}

#[test]
fn a_file_that_is_not_whole_is_refused() {
    let text = published();
    // Cut anywhere, it is never a bill.
    for (end, _) in text.char_indices().filter(|(end, _)| *end + 2 < text.len()) {
        let cut = read(text.get(..end).unwrap());
        // Digits lost from the last amount leave another amount, and then the sums disagree.
        assert!(cut.is_err(), "cut at {end}: {cut:?}");
    }
    let wrong = |from: &str, to: &str| read(&text.replacen(from, to, 1)).unwrap_err();
    for (summary, column) in [
        ("`1.0,`0.03,`0.01,`0.0,`0.01,`0.03,`0.01", "总交易单数"),
        ("`2.0,`0.04,`0.01,`0.0,`0.01,`0.03,`0.01", "应结订单总金额"),
        ("`2.0,`0.03,`0.10,`0.0,`0.01,`0.03,`0.01", "退款总金额"),
        ("`2.0,`0.03,`0.01,`0.1,`0.01,`0.03,`0.01", "充值券退款总金额"),
        ("`2.0,`0.03,`0.01,`0.0,`0.02,`0.03,`0.01", "手续费总金额"),
        ("`2.0,`0.03,`0.01,`0.0,`0.01,`0.00,`0.01", "订单总金额"),
        ("`2.0,`0.03,`0.01,`0.0,`0.01,`0.03,`-0.01", "申请退款总金额"),
    ] {
        let error = wrong(SUMMARY, summary);
        assert!(matches!(error, BillFormatError::Summary(name) if name == column), "{column}: {error}");
    }
    assert!(matches!(
        wrong("`0.03,`0.00,`0,", "`0.03x,`0.00,`0,"),
        BillFormatError::Value { line: 3, column: "应结订单金额" }
    ));
    assert!(matches!(
        wrong("`2019-02-19 01:52:32", "`2019/02/19 01:52:32"),
        BillFormatError::Value { line: 3, column: "交易时间" }
    ));
    assert!(matches!(
        wrong("`autotest_20190219015232_89201", "`"),
        BillFormatError::Value { line: 3, column: "商户订单号" }
    ));
    assert!(matches!(wrong("`50000709672019011908420787722", "`0"), BillFormatError::Value { line: 2, .. }));
    assert!(matches!(wrong("`JSAPI,", ""), BillFormatError::Columns(2)));
    assert!(matches!(wrong("`2019-02-19 05", "2019-02-19 05"), BillFormatError::Columns(2)));
    assert!(matches!(wrong("autotest,", &"x".repeat(17_000)), BillFormatError::Line(3)));
    assert!(matches!(read(&format!("{text}more\r\n")), Err(BillFormatError::Trailing(6))));
    assert!(read(&format!("{text}\r\n\r\n")).is_ok());
    assert!(matches!(TradeBill::new(&b"\xff\xfe\n"[..]), Err(BillFormatError::Line(1))));
    // After an error there is nothing more.
    let broken = text.replacen("`JSAPI,", "", 1);
    let mut bill = TradeBill::new(broken.as_bytes()).unwrap();
    assert!(bill.next().unwrap().is_err());
    assert!(bill.next().is_none() && bill.summary().is_none());
}

#[test]
fn decimals_become_whole_numbers_without_floats() {
    for (text, scale, expected) in [
        ("0.00", 2, Some(0)),
        ("0.0", 2, Some(0)),
        ("45.0", 0, Some(45)),
        ("45", 0, Some(45)),
        ("0.29", 2, Some(29)),
        ("1.1", 2, Some(110)),
        ("-1.15", 2, Some(-115)),
        ("1.10000", 2, Some(110)),
        ("0.00600", 5, Some(600)),
        ("90071992547409.93", 2, Some(9_007_199_254_740_993)),
        ("1.101", 2, None),
        ("45.5", 0, None),
        ("", 2, None),
        (".5", 2, None),
        ("1.", 2, None),
        ("--1", 2, None),
        ("+1", 2, None),
        ("1e3", 2, None),
        ("１.00", 2, None),
        ("1,000.00", 2, None),
        ("99999999999999999999", 2, None),
    ] {
        assert_eq!(decimal(text, scale), expected, "{text}");
    }
}
