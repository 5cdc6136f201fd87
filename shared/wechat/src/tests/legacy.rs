//! APIv2: published vectors, the XML reader, refund notices.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt as _, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest as _, Md5};
use serde_json::Value;

use super::vectors;
use crate::crypto::KeyError;
use crate::pay::RefundStatus;
use crate::pay::legacy::{ApiV2Key, LegacyError, SignType, open, read_refund, read_xml, sign, verify};

const KEY: &str = "192006250b4c09247ec02edce69f6a2d";

fn key() -> ApiV2Key {
    ApiV2Key::new(KEY).unwrap()
}

fn vector(id: &str) -> Value {
    vectors()["vectors"].as_array().unwrap().iter().find(|v| v["id"] == id).cloned().unwrap()
}

fn text(vector: &Value, field: &str) -> String {
    vector[field].as_str().unwrap().to_owned()
}

fn seal(plain: &str, key: &str) -> String {
    let key = hex::encode(Md5::digest(key));
    let cipher = Aes256::new_from_slice(key.as_bytes()).unwrap();
    let mut bytes = plain.as_bytes().to_vec();
    let padding = 16 - bytes.len() % 16;
    bytes.extend(std::iter::repeat_n(u8::try_from(padding).unwrap(), padding));
    for chunk in bytes.chunks_exact_mut(16) {
        let mut block = Array::try_from(&*chunk).unwrap();
        cipher.encrypt_block(&mut block);
        chunk.copy_from_slice(&block);
    }
    BASE64.encode(bytes)
}

fn notice(req_info: &str) -> String {
    format!(
        "<xml>\n<return_code>SUCCESS</return_code>\n<appid><![CDATA[wx8888888888888888]]></appid>\n<mch_id><![CDATA[1900000109]]></mch_id>\n\
         <nonce_str><![CDATA[TeqClE3i0mvn3DrK]]></nonce_str>\n<req_info><![CDATA[{req_info}]]></req_info>\n</xml>\n"
    )
}

#[test]
fn both_kinds_of_signatures_are_reproduced() {
    for (id, kind) in [("v2-sign-md5", SignType::Md5), ("v2-sign-hmac", SignType::HmacSha256)] {
        let vector = vector(id);
        let mut fields: std::collections::BTreeMap<String, String> =
            serde_json::from_value(vector["params"].clone()).unwrap();
        fields.insert("empty".to_owned(), String::new());
        let key = ApiV2Key::new(&text(&vector, "api_key")).unwrap();
        assert_eq!(sign(&fields, &key, kind), text(&vector, "sign"));
        assert_eq!(verify(&fields, &key), Err(LegacyError::Signature), "no signature is no proof");
        fields.insert("sign".to_owned(), text(&vector, "sign"));
        assert_eq!(verify(&fields, &key), Ok(()));
        fields.insert("body".to_owned(), "test2".to_owned());
        assert_eq!(verify(&fields, &key), Err(LegacyError::Signature));
    }
    assert_eq!(ApiV2Key::new("").unwrap_err(), KeyError::ApiV2KeyLength);
    assert_eq!(ApiV2Key::new("0123456789abcdef").unwrap_err(), KeyError::ApiV2KeyLength);
    assert!(!format!("{:?}", key()).contains(KEY));
}

#[test]
fn published_ciphertexts_open() {
    let vector = vector("v2-ecb-php");
    let key: [u8; 32] = text(&vector, "key").into_bytes().try_into().unwrap();
    assert_eq!(open(&text(&vector, "ciphertext"), &key).unwrap(), text(&vector, "plaintext").into_bytes());
    assert_eq!(open(&text(&vector, "ciphertext"), &[0; 32]), None);
    for odd in ["", "AAAA", "not base64", "AAAAAAAAAAAAAAAAAAAAAA"] {
        assert_eq!(open(odd, &key), None, "{odd}");
    }
}

#[test]
fn the_published_refund_is_read() {
    let vector = vector("v2-refund-req-info");
    assert_eq!(seal(&text(&vector, "plaintext"), KEY), text(&vector, "req_info"));
    let refund = read_refund(notice(&text(&vector, "req_info")).as_bytes(), &key()).unwrap();
    assert_eq!((refund.mchid.as_str(), refund.appid.as_str()), ("1900000109", "wx8888888888888888"));
    assert_eq!(refund.out_refund_no, "131811191610442717309");
    assert_eq!(refund.refund_id, "50000408942018111907145868882");
    assert_eq!(refund.out_trade_no, "71106718111915575302817");
    assert_eq!(refund.transaction_id, "4200000215201811190261405420");
    assert_eq!((refund.refund_fen, refund.total_fen), (3960, 3960));
    assert_eq!(refund.status, RefundStatus::Success);
    assert_eq!(refund.success_time, Some("2018-11-19T08:24:13Z".parse().unwrap()));
    assert_eq!(refund.source.as_deref(), Some("API"));
}

#[test]
fn states_keep_their_meaning() {
    let plain = text(&vector("v2-refund-req-info"), "plaintext");
    for (state, expected) in [
        ("CHANGE", RefundStatus::Abnormal),
        ("REFUNDCLOSE", RefundStatus::Closed),
        ("NEW", RefundStatus::Unknown("NEW".to_owned())),
    ] {
        let plain = plain.replace("<refund_status><![CDATA[SUCCESS", &format!("<refund_status><![CDATA[{state}"));
        assert_eq!(read_refund(notice(&seal(&plain, KEY)).as_bytes(), &key()).unwrap().status, expected);
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let vector = vector("v2-refund-req-info");
    let (plain, sealed) = (text(&vector, "plaintext"), text(&vector, "req_info"));
    let of = |body: String| read_refund(body.as_bytes(), &key()).unwrap_err();
    let good = notice(&sealed);
    assert_eq!(
        read_refund(good.as_bytes(), &ApiV2Key::new("0123456789abcdef0123456789abcdef").unwrap()),
        Err(LegacyError::Sealed)
    );
    assert_eq!(of(good.replace(">SUCCESS<", ">FAIL<")), LegacyError::Failed);
    assert_eq!(of(good.replace("return_code", "code")), LegacyError::Field("return_code"));
    assert_eq!(of(good.replace("req_info", "info")), LegacyError::Field("req_info"));
    assert_eq!(of(good.replace("mch_id", "mchid")), LegacyError::Field("mch_id"));
    assert_eq!(of(notice("")), LegacyError::Field("req_info"));
    assert_eq!(of(notice(sealed.get(..64).unwrap())), LegacyError::Sealed);
    let signed = |sign: &str| good.replace("<nonce_str>", &format!("<sign>{sign}</sign><nonce_str>"));
    for forged in ["", "x", "9A0A8659F005D6984697E2CA0A9CF3B7"] {
        assert_eq!(of(signed(forged)), LegacyError::Signature, "{forged}");
    }
    let fields = read_xml(good.as_bytes(), "xml").unwrap();
    assert!(read_refund(signed(&sign(&fields, &key(), SignType::Md5)).as_bytes(), &key()).is_ok());

    let inner = |from: &str, to: &str| of(notice(&seal(&plain.replace(from, to), KEY)));
    assert_eq!(inner("refund_fee>", "fee>"), LegacyError::Field("refund_fee"));
    for amount in ["-1", "39.60", "x", "99999999999999999999"] {
        assert_eq!(
            inner("<refund_fee><![CDATA[3960", &format!("<refund_fee><![CDATA[{amount}")),
            LegacyError::Field("refund_fee")
        );
    }
    assert_eq!(inner("<root>", "<!DOCTYPE root><root>"), LegacyError::Sealed);
    assert_eq!(inner("root>", "xml>"), LegacyError::Sealed);
}

#[test]
fn published_samples_are_read_and_attacks_are_not() {
    let fields = read_xml(text(&vector("v2-notify-sample"), "xml").as_bytes(), "xml").unwrap();
    assert_eq!(fields.len(), 20);
    assert_eq!((fields["attach"].as_str(), fields["total_fee"].as_str()), ("支付测试", "1"));
    let fields = read_xml(text(&vector("v2-unifiedorder-sample"), "xml").as_bytes(), "xml").unwrap();
    assert!(fields["detail"].contains("\"goods_id\":\"iphone6s_16G\""));
    let attack = text(&vector("v2-xxe-sample"), "xml");
    for root in ["foo", "xml"] {
        assert!(read_xml(attack.as_bytes(), root).is_err());
    }
    assert_eq!(read_refund(attack.as_bytes(), &key()), Err(LegacyError::Xml));
}

#[test]
fn the_reader_reads_flat_xml_and_nothing_else() {
    let read = |text: &str| read_xml(text.as_bytes(), "xml");
    let one = |text: &str| read(text).unwrap().remove("a").unwrap();
    assert_eq!(one("<xml><a>1</a></xml>"), "1");
    assert_eq!(one("\u{feff} <?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<xml>\n <a>1</a>\n</xml>\n"), "1");
    assert_eq!(one("<xml><a></a></xml>"), "");
    assert_eq!(one("<xml><a/></xml>"), "");
    assert_eq!(one("<xml><a /><b>2</b></xml>"), "");
    assert_eq!(one("<xml><a> x &lt;&amp;&gt; <![CDATA[<b>&amp;]]]]><![CDATA[>]]></a></xml>"), " x <&> <b>&amp;]]>");
    assert!(read("<xml></xml>").unwrap().is_empty());
    let many: String = (0..101).map(|n| format!("<a{n}>1</a{n}>")).collect();
    for odd in [
        "",
        "<xml>",
        "<xml/>",
        "<xml><a>1</a>",
        "<xml><a>1</b></xml>",
        "<xml><a>1</a></xml>x",
        "<xml><a>1</a></xml><xml></xml>",
        "<xml>text</xml>",
        "<root><a>1</a></root>",
        "<xml><a>1</a><a>2</a></xml>",
        "<xml><a><b>1</b></a></xml>",
        "<xml><a b=\"1\">1</a></xml>",
        "<xml a=\"1\"></xml>",
        "<xml><a>&xxe;</a></xml>",
        "<xml><a>&#65;</a></xml>",
        "<xml><a>&</a></xml>",
        "<xml><!-- c --><a>1</a></xml>",
        "<xml><a>1<!-- c --></a></xml>",
        "<xml><?pi x?></xml>",
        "<!DOCTYPE xml><xml><a>1</a></xml>",
        "<?xml version=\"1.0\"?><!DOCTYPE xml [<!ENTITY a \"b\">]><xml><a>&a;</a></xml>",
        "<?xml <!DOCTYPE x> ?><xml></xml>",
        "<xml><a><![CDATA[1</a></xml>",
        "<xml><a-b>1</a-b></xml>",
        "<xml><>1</></xml>",
        "<xml></a></xml>",
        &format!("<xml>{many}</xml>"),
        &format!("<xml><a>{}</a></xml>", "x".repeat(70_000)),
    ] {
        let shown: String = odd.chars().take(60).collect();
        assert!(read(odd).is_err(), "{shown}");
    }
    assert!(read_xml(b"<xml><a>\xff</a></xml>", "xml").is_err());
}
