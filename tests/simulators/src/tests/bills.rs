//! Bills, read by hand.

use std::io::Read as _;

use chrono::TimeDelta;
use flate2::read::GzDecoder;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Value, json};

use super::{Got, Made, NOWHERE, World, refund};
use crate::keys;

/// A day with two payments and a refund of one of them, seen from ten in the morning of the next.
async fn world() -> World {
    let world = World::new().await;
    for number in ["BILL-000001", "BILL-000002"] {
        world.prepay(number, NOWHERE).await;
        assert_eq!(world.control("/pay", json!({ "outTradeNo": number, "notify": "none" })).await.status, 200);
    }
    let got = world.post("/v3/refund/domestic/refunds", &refund("BILL-000002", "R-1", 234, NOWHERE)).await.good();
    assert_eq!(got.status, 200);
    world.get("/v3/refund/domestic/refunds/R-1").await.good();
    world.clock.advance(TimeDelta::hours(24));
    world
}

impl World {
    async fn announced(&self, path: &str) -> Value {
        let got = self.get(path).await.good();
        assert_eq!(got.status, 200, "{}", got.body);
        assert_eq!(got.json()["hash_type"], "SHA1");
        got.json()
    }

    /// The path and query of an address, without the prefix that [`Made`] adds.
    fn path(&self, announced: &Value) -> String {
        let url = announced["download_url"].as_str().unwrap();
        url.strip_prefix(&format!("{}/sim/wxpay", self.base)).unwrap().to_owned()
    }
}

fn sha1(text: &str) -> String {
    hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

#[tokio::test]
async fn the_trade_bill_is_the_ledger_of_a_day() {
    let world = world().await;
    let announced = world.announced("/v3/bill/tradebill?bill_date=2026-11-21").await;
    let file = world.get(&world.path(&announced)).await;
    assert!(file.headers.get("wechatpay-signature").is_none());
    assert_eq!(announced["hash_value"], sha1(&file.body));

    let lines: Vec<&str> = file.body.strip_suffix("\r\n").unwrap().split("\r\n").collect();
    assert!(lines[0].starts_with("\u{feff}交易时间,公众账号ID,") && lines[0].ends_with(",申请退款金额,费率备注"));
    assert_eq!(lines[0].split(',').count(), 27);
    assert_eq!(lines.len(), 6);
    let cells = |line: &str| line.split(',').map(|cell| cell.strip_prefix('`').unwrap().to_owned()).collect::<Vec<_>>();
    for line in &lines[1..4] {
        assert_eq!(cells(line).len(), 27, "{line}");
        assert_eq!(cells(line)[0], "2026-11-21 10:00:00");
        assert_eq!(cells(line)[2], keys::MCHID);
    }
    let refunded = lines.iter().find(|line| line.contains("`REFUND")).unwrap();
    assert_eq!(
        cells(refunded)[12..20],
        ["0.00", "0.00", &cells(refunded)[14], "R-1", "2.34", "0.00", "ORIGINAL", "SUCCESS"]
    );
    assert_eq!(lines.iter().filter(|line| line.contains("`SUCCESS,`OTHERS,`CNY,`12.34")).count(), 2);
    assert_eq!(
        lines[4],
        "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
    );
    assert_eq!(lines[5], "`3.0,`24.68,`2.34,`0.0,`0.00,`24.68,`2.34");
}

#[tokio::test]
async fn kinds_of_bills_have_their_own_columns() {
    let world = world().await;
    for (path, n_columns, n_rows) in [
        ("/v3/bill/tradebill?bill_date=2026-11-21&bill_type=ALL", 27, 3),
        ("/v3/bill/tradebill?bill_date=2026-11-21&bill_type=SUCCESS", 20, 2),
        ("/v3/bill/tradebill?bill_date=2026-11-21&bill_type=REFUND", 29, 1),
    ] {
        let file = world.get(&world.path(&world.announced(path).await)).await.body;
        let lines: Vec<&str> = file.split("\r\n").collect();
        assert_eq!(lines[0].split(',').count(), n_columns, "{path}");
        assert_eq!(lines.iter().filter(|line| line.starts_with('`')).count(), n_rows + 1, "{path}");
        for line in &lines[1..=n_rows] {
            assert_eq!(line.split(",`").count(), n_columns, "{line}");
        }
    }
}

#[tokio::test]
async fn packed_bills_have_the_digest_of_the_plain_ones() {
    let world = world().await;
    let plain = world.announced("/v3/bill/tradebill?bill_date=2026-11-21").await;
    let packed = world.announced("/v3/bill/tradebill?bill_date=2026-11-21&tar_type=GZIP").await;
    assert_eq!(plain["hash_value"], packed["hash_value"]);
    let path = world.path(&packed);
    let timestamp = world.clock.now().timestamp();
    let message = format!("GET\n/sim/wxpay{path}\n{timestamp}\nnonce0123456789\n\n");
    let authorization = format!(
        "WECHATPAY2-SHA256-RSA2048 mchid=\"{}\",nonce_str=\"nonce0123456789\",signature=\"{}\",timestamp=\"{timestamp}\",serial_no=\"{}\"",
        keys::MCHID,
        super::rsa_sign(keys::MERCHANT_PRIVATE_KEY, &message),
        keys::MERCHANT_SERIAL
    );
    let url = packed["download_url"].as_str().unwrap();
    let bytes = world.http.get(url).header("Authorization", authorization).send().await.unwrap().bytes().await.unwrap();
    let mut text = String::new();
    GzDecoder::new(bytes.as_ref()).read_to_string(&mut text).unwrap();
    assert_eq!(packed["hash_value"], sha1(&text));
}

#[tokio::test]
async fn bills_have_their_time() {
    let world = world().await;
    let code = |got: Got| (got.status, got.json()["code"].as_str().unwrap_or_default().to_owned());
    let bill = async |query: &str| code(world.get(&format!("/v3/bill/tradebill?{query}")).await);
    let is = |got: (u16, String), code: &str| assert_eq!(got, (400, code.to_owned()));
    is(bill("bill_date=2026-11-22").await, "INVALID_REQUEST");
    is(bill("bill_date=2026-08-21").await, "INVALID_REQUEST");
    is(bill("bill_date=2026-11-20").await, "NO_STATEMENT_EXIST");
    is(bill("bill_date=20261121").await, "PARAM_ERROR");
    is(bill("bill_date=2026-11-21&bill_type=BASIC").await, "PARAM_ERROR");
    is(bill("bill_date=2026-11-21&tar_type=ZIP").await, "PARAM_ERROR");
    is(bill("bill_date=2026-11-21&account_type=BASIC").await, "PARAM_ERROR");
    is(bill("bill_type=ALL").await, "PARAM_ERROR");

    let announced = world.announced("/v3/bill/tradebill?bill_date=2026-11-21").await;
    let path = world.path(&announced);
    // Whoever asks must sign, and not too late.
    let unsigned = world.make(Made { key: keys::WRONG_PRIVATE_KEY, ..Made::new("GET", &path, "") }).await;
    unsigned.refused(401, "SIGN_ERROR");
    is(code(world.get("/v3/billdownload/file?token=other").await), "INVALID_REQUEST");
    world.clock.advance(TimeDelta::minutes(6));
    is(code(world.get(&path).await), "INVALID_REQUEST");

    // The night after, it is not made yet.
    world.clock.advance(TimeDelta::hours(23) - TimeDelta::minutes(6));
    is(bill("bill_date=2026-11-22").await, "STATEMENT_CREATING");
    world.clock.advance(TimeDelta::hours(2));
    is(bill("bill_date=2026-11-22").await, "NO_STATEMENT_EXIST");
}

#[tokio::test]
async fn a_spoilt_bill_has_another_digest() {
    let world = world().await;
    let announced = world.announced("/v3/bill/tradebill?bill_date=2026-11-21").await;
    let fault = json!({ "target": "wxpay", "mode": "badSignature", "path": "/billdownload" });
    assert_eq!(world.control("/faults", fault).await.status, 200);
    let path = world.path(&announced);
    assert_ne!(announced["hash_value"], sha1(&world.get(&path).await.body));
    let whole = world.get(&path).await.body;
    assert_eq!(announced["hash_value"], sha1(&whole));
}
