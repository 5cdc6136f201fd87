//! The environment, good and bad.

use domain::{Consent, Event};

use crate::config::{HostKind, OnUnknown, StoreConfig, host_kind_from, local};
use crate::{App, Clock, Config, Need};

const PEM: &str = r"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";

fn full() -> Vec<(&'static str, &'static str)> {
    vec![
        ("MONGODB_URI", "mongodb://shop:hunter2@db:27017/?replicaSet=rs0"),
        ("SESSION_SECRETS", r#"[{"id":"k1","secret":"0123456789abcdef0123456789abcdef"}]"#),
        ("SERVICE_KEYS", r#"[{"id":"crm","secret":"0123456789abcdef","scopes":["points"]}]"#),
        ("WECHAT_APPID", "wx0123456789abcdef"),
        ("WECHAT_SECRET", "hunter2-wechat"),
        ("WXPAY_MCHID", "1600000001"),
        ("WXPAY_SERIAL_NO", "ABCDEF"),
        ("WXPAY_PRIVATE_KEY", PEM),
        ("WXPAY_API_V3_KEY", "hunter2-hunter2-hunter2-hunter2-"),
        ("WXPAY_PUBLIC_KEYS", r#"[{"serial":"PUB_KEY_ID_01","pem":"-----BEGIN PUBLIC KEY-----\\nAA"}]"#),
        ("WXPAY_NOTIFY_URL", "https://shop.example/payCallback"),
        ("SMS_SECRET_ID", "AKID0123456789"),
        ("SMS_SECRET_KEY", "hunter2-sms"),
        ("SMS_APP_ID", "1400000001"),
        ("SMS_SIGN", "金鹿"),
        ("SMS_TEMPLATE_ID", "123456"),
        ("VERIFY_CODE_SECRET", "hunter2-hunter2-hunter2-hunter2-"),
        ("KUAIDI100_CUSTOMER", "0123456789ABCDEF"),
        ("KUAIDI100_KEY", "hunter2-parcels"),
        ("KUAIDI100_CALLBACK_URL", "https://shop.example/logisticsCallback"),
        ("KUAIDI100_SALT", "hunter2-hunter2-hunter2-hunter2-"),
    ]
}

const ALL: &[Need] = &[Need::Store, Need::Pay, Need::OpenApi, Need::Session, Need::Sms, Need::VerifyCodes];

fn parse(pairs: &[(&str, &str)], needs: &[Need]) -> Result<Config, String> {
    let get = |name: &str| pairs.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Config::parse(get, needs).map_err(|error| error.to_string())
}

#[test]
fn a_full_environment_reads() {
    let config = parse(&full(), ALL).unwrap();
    let StoreConfig { uri, database } = config.store.clone().unwrap();
    assert_eq!((uri.expose(), database.as_str()), ("mongodb://shop:hunter2@db:27017/?replicaSet=rs0", "jinlu"));
    let pay = config.pay.clone().unwrap();
    assert_eq!(pay.base_url, "https://api.mch.weixin.qq.com");
    assert_eq!(pay.backup_base_url.as_deref(), Some("https://api2.mch.weixin.qq.com"));
    assert_eq!(pay.private_key.expose().lines().count(), 3);
    assert_eq!(pay.platform_keys[0].pem.lines().count(), 2);
    assert_eq!((config.max_concurrent, config.port, config.rules.points_earn_fen), (100, 9000, 10_000));
    assert!(!config.local && !config.trust_wx_headers);
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("0123456789abcdef0123456789abcdef"), "{shown}");
}

#[test]
fn only_what_is_needed_is_demanded() {
    assert!(parse(&[], &[]).is_ok());
    let message = parse(&[], ALL).unwrap_err();
    let optional = |name: &str| name == "SERVICE_KEYS" || name.starts_with("KUAIDI100_");
    for name in full().iter().map(|(name, _)| name).filter(|name| !optional(name)) {
        assert!(message.contains(&format!("{name} is missing: set it to ")), "{name} in {message}");
    }
    assert!(parse(&[("MONGODB_URI", "  ")], &[Need::Store]).is_err(), "blank counts as missing");
}

#[test]
fn a_malformed_variable_is_named_and_its_value_is_not() {
    let cases = [
        ("MONGODB_URI", "postgres://hunter2"),
        ("MONGODB_DATABASE", "a/b"),
        ("SESSION_SECRETS", "hunter2"),
        ("SESSION_SECRETS", "[]"),
        ("SESSION_SECRETS", r#"[{"id":"k1","secret":"hunter2"}]"#),
        ("SESSION_SECRETS", r#"[{"id":"k1","secret":17}]"#),
        (
            "SESSION_SECRETS",
            r#"[{"id":"k1","secret":"hunter2-hunter2-hunter2-hunter2-1"},{"id":"k1","secret":"hunter2-hunter2-hunter2-hunter2-2"}]"#,
        ),
        ("SERVICE_KEYS", r#"{"id":"crm"}"#),
        ("SERVICE_KEYS", r#"[{"id":"a b","secret":"hunter2-hunter2-hunter2"}]"#),
        ("SERVICE_KEYS", r#"[{"id":"crm","secret":"hunter2"}]"#),
        (
            "SERVICE_KEYS",
            r#"[{"id":"crm","secret":"hunter2-hunter2-hunter2-1"},{"id":"crm","secret":"hunter2-hunter2-hunter2-2"},{"id":"crm","secret":"hunter2-hunter2-hunter2-3"}]"#,
        ),
        (
            "SERVICE_KEYS",
            r#"[{"id":"crm","secret":"hunter2-hunter2-hunter2-1"},{"id":"crm","secret":"hunter2-hunter2-hunter2-1"}]"#,
        ),
        ("JINLU_TRUST_WX_HEADERS", "hunter2"),
        ("WECHAT_API_BASE", "hunter2"),
        ("WXPAY_PRIVATE_KEY", "hunter2"),
        ("WXPAY_API_V3_KEY", "hunter2"),
        ("WXPAY_PUBLIC_KEYS", r#"["hunter2"]"#),
        ("WXPAY_NOTIFY_URL", "https://shop.example/payCallback?x=hunter2"),
        ("SMS_API_BASE", "hunter2"),
        ("VERIFY_CODE_SECRET", "hunter2"),
        ("KUAIDI100_SALT", "hunter2"),
        ("KUAIDI100_SALT", "hunter2-hunter2-hunter2-hunter2-,hunter2"),
        ("KUAIDI100_CALLBACK_URL", "https://shop.example/cb?x=hunter2"),
        ("KUAIDI100_API_BASE", "hunter2"),
        ("KUAIDI100_FOLLOW", "hunter2"),
        ("POINTS_EARN_FEN", "0"),
        ("POINT_VALUE_FEN", "1.5"),
        ("ORDER_EXPIRE_MINUTES", "-1"),
        ("AUTO_COMPLETE_DAYS", "0"),
        ("MAX_CONCURRENCY", "0"),
        ("LOG_LEVEL", "hunter2"),
        ("PORT", "70000"),
    ];
    for (name, value) in cases {
        let mut pairs = full();
        pairs.push((name, value));
        let message = parse(&pairs, ALL).unwrap_err();
        assert!(message.contains(name), "{name}={value}: {message}");
        assert!(!message.contains("hunter2"), "{name}={value}: {message}");
        assert_eq!(message.lines().count(), 2, "one problem: {message}");
    }
}

#[test]
fn an_account_for_parcels_is_whole_or_not_there() {
    let config = parse(&full(), ALL).unwrap();
    let account = config.kuaidi100.unwrap();
    assert_eq!((account.base_url.as_str(), account.salts.len()), ("https://poll.kuaidi100.com", 1));
    let parts: Vec<_> = full().into_iter().filter(|(name, _)| name.starts_with("KUAIDI100_")).collect();
    for (part, _) in &parts {
        let rest: Vec<_> = parts.iter().copied().filter(|(name, _)| name != part).collect();
        let message = parse(&rest, &[]).unwrap_err();
        assert!(message.contains(&format!("{part} is missing: set it to ")), "{message}");
    }
    let none = parse(&[("KUAIDI100_API_BASE", "http://localhost:1"), ("KUAIDI100_FOLLOW", "1")], &[]).unwrap();
    assert!(none.kuaidi100.is_none() && none.rules.parcels_followed);
    let local = [parts.as_slice(), &[("KUAIDI100_SALT", local::KUAIDI100_SALT)]].concat();
    assert!(parse(&local, &[]).unwrap_err().contains("KUAIDI100_SALT holds a published credential"));
}

#[test]
fn templates_are_checked_at_start() {
    let read = |value: &str| parse(&[full().as_slice(), &[("WECHAT_TEMPLATES", value)]].concat(), ALL);
    let good = r#"[{"name":"assignment","templateId":"T-1","fields":{"thing1":"customerName"},"onUnknown":"resend"},
        {"name":"lotteryResult","templateId":"T-2","fields":{"phrase2":"result"},"page":"pages/a","longTerm":true},
        {"name":"orderArrived","id":"T-3","fields":"thing1=products, time2=time"}]"#;
    let templates = read(good).unwrap().templates;
    assert_eq!(
        templates.iter().map(|t| (t.long_term, t.on_unknown)).collect::<Vec<_>>(),
        [(false, OnUnknown::Resend), (true, OnUnknown::Stop), (false, OnUnknown::Stop)]
    );
    assert_eq!((templates[2].template_id.as_str(), templates[2].fields["time2"].as_str()), ("T-3", "time"));
    for (value, wanted) in [
        ("{}", "WECHAT_TEMPLATES is malformed"),
        (r#"[{"name":"assignment"}]"#, "WECHAT_TEMPLATES is malformed"),
        (
            r#"[{"name":"assignment","templateId":"T","fields":{"thing":"customerName"}}]"#,
            r#"WECHAT_TEMPLATES has a mistake in template "assignment": field "thing" must be"#,
        ),
        (
            r#"[{"name":"assigned","templateId":"T","fields":{"thing1":"customerName"}}]"#,
            r#"WECHAT_TEMPLATES has a mistake in template "assigned": the name is unknown"#,
        ),
        (
            r#"[{"name":"assignment","templateId":"","fields":{"thing1":"customerName"}}]"#,
            r#"WECHAT_TEMPLATES has a mistake in template "assignment": templateId"#,
        ),
    ] {
        let message = read(value).unwrap_err();
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn an_event_is_told_for_its_template_or_for_its_name() {
    let template = r#"[{"name":"orderPaid","templateId":"T-1","fields":{"thing1":"products"}}]"#;
    let tells = |names: &str| {
        let config = parse(&[("WECHAT_TEMPLATES", template), ("WECHAT_TELLS", names)], &[])?;
        Ok::<_, String>(App::new(config, Clock::system()).unwrap().config.rules.tells.clone())
    };
    let of_its_template = Some(Consent::EachTime { template_id: "T-1".to_owned() });
    assert_eq!(tells("").unwrap().of(Event::OrderPaid).cloned(), of_its_template);
    let both = tells(" orderPaid, orderRefunded,").unwrap();
    assert_eq!(both.of(Event::OrderPaid).cloned(), of_its_template);
    assert_eq!(both.of(Event::OrderRefunded), Some(&Consent::Elsewhere));
    assert_eq!(both.of(Event::OrderShipped), None);
    // Nobody is told of an assignment by name alone.
    for wrong in ["orderPayed", "orderPaid;orderRefunded", "assignment", r#"["orderPaid"]"#] {
        assert!(tells(wrong).unwrap_err().contains("WECHAT_TELLS has an unknown name"), "{wrong}");
    }
}

#[test]
fn a_service_key_may_have_an_old_and_a_new_secret() {
    let two = r#"[{"id":"crm","secret":"the-new-secret-1234","scopes":["notify"]},{"id":"erp","secret":"the-old-secret-1234"},{"id":"crm","secret":"the-old-secret-1234","scopes":["points"]}]"#;
    let config = parse(&[("SERVICE_KEYS", two)], &[]).unwrap();
    let keys: Vec<_> = config.service_keys.iter().map(|key| (key.id.as_str(), key.scopes.clone())).collect();
    let scope = |name: &str| vec![name.to_owned()];
    assert_eq!(keys, [("crm", scope("notify")), ("erp", vec![]), ("crm", scope("points"))]);
}

#[test]
fn one_key_serves_once() {
    let needs = &[Need::FieldKeys, Need::IndexKeys];
    let [a, b, c] = [("QUFB", "QUE="), ("QkJC", "QkI="), ("Q0ND", "Q0M=")].map(|(most, end)| most.repeat(10) + end);
    let list = |ids: &[(&str, &str)]| {
        let keys: Vec<String> = ids.iter().map(|(id, key)| format!(r#"{{"id":"{id}","key":"{key}"}}"#)).collect();
        format!("[{}]", keys.join(","))
    };
    let read = |field: &[(&str, &str)], index: &[(&str, &str)]| {
        parse(&[("FIELD_KEYS", &list(field)), ("INDEX_KEYS", &list(index))], needs)
    };
    read(&[("f2", &a), ("f1", &b)], &[("i1", &c)]).unwrap();
    for (named, field, index) in [
        ("INDEX_KEYS has a key", vec![("k1", &*a)], vec![("k1", &*a)]),
        ("INDEX_KEYS has a key", vec![("f2", &b), ("f1", &a)], vec![("i2", &c), ("i1", &a)]),
        ("FIELD_KEYS has a key", vec![("f2", &a), ("f1", &a)], vec![("i1", &b)]),
        ("INDEX_KEYS has a key", vec![("f1", &a)], vec![("i2", &b), ("i1", &b)]),
    ] {
        let message = read(&field, &index).unwrap_err();
        assert!(message.contains(named) && !message.contains(&a) && !message.contains(&b), "{message}");
    }
}

#[test]
fn the_local_clouds_credentials_are_refused() {
    let session = format!(r#"[{{"id":"k1","secret":"{}"}}]"#, local::SESSION_SECRET);
    let key_id = format!(r#"[{{"id":"{}","secret":"0123456789abcdef"}}]"#, local::SERVICE_KEY_ID);
    let key_secret = format!(r#"[{{"id":"crm","secret":"{}"}}]"#, local::SERVICE_SECRET);
    let cases = [
        ("SESSION_SECRETS", session.as_str()),
        ("SERVICE_KEYS", &key_id),
        ("SERVICE_KEYS", &key_secret),
        ("WECHAT_APPID", local::WECHAT_APPID),
        ("WECHAT_SECRET", local::WECHAT_SECRET),
        ("WXPAY_API_V3_KEY", local::WXPAY_API_V3_KEY),
        ("SMS_SECRET_ID", local::SMS_SECRET_ID),
        ("SMS_SECRET_KEY", local::SMS_SECRET_KEY),
        ("SMS_APP_ID", local::SMS_APP_ID),
        ("SMS_SIGN", local::SMS_SIGN),
        ("SMS_TEMPLATE_ID", local::SMS_TEMPLATE_ID),
        ("VERIFY_CODE_SECRET", local::VERIFY_CODE_SECRET),
    ];
    for (name, value) in cases {
        let mut pairs = full();
        pairs.push((name, value));
        let message = parse(&pairs, ALL).unwrap_err();
        assert!(message.contains(name) && message.contains("local cloud"), "{message}");
    }
}

#[test]
fn redirected_addresses_have_no_second_one() {
    let mut pairs = full();
    pairs.extend([("WXPAY_API_BASE", "http://127.0.0.1:8900/sim/wxpay/"), ("PORT", "9100"), ("LOG_LEVEL", "debug")]);
    let config = parse(&pairs, ALL).unwrap();
    let pay = config.pay.unwrap();
    assert_eq!((pay.base_url.as_str(), pay.backup_base_url), ("http://127.0.0.1:8900/sim/wxpay", None));
    assert_eq!(config.port, 9100);
}

#[test]
fn a_key_may_be_its_base64_alone() {
    let bare = "QUJD".repeat(20);
    let public = format!(r#"[{{"serial":"PUB_KEY_ID_01","pem":"{bare}"}}]"#);
    let mut pairs = full();
    pairs.extend([("WXPAY_PRIVATE_KEY", bare.as_str()), ("WXPAY_PUBLIC_KEYS", public.as_str())]);
    let pay = parse(&pairs, ALL).unwrap().pay.unwrap();
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\n{bare}\n-----END {kind}-----\n");
    assert_eq!(pay.private_key.expose(), pem("PRIVATE KEY"));
    assert_eq!(pay.platform_keys[0].pem, pem("PUBLIC KEY"));
}

#[test]
fn an_unusable_key_names_its_variable() {
    let config = parse(&full(), ALL).unwrap();
    let error = App::new(config, Clock::system()).err().unwrap();
    assert!(error.to_string().contains("WXPAY_PRIVATE_KEY"), "{error}");
}

#[test]
fn the_host_is_chosen_from_the_environment() {
    let kind = |pairs: &'static [(&str, &str)]| {
        host_kind_from(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    };
    assert_eq!(kind(&[]).unwrap(), HostKind::Http);
    assert_eq!(kind(&[("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")]).unwrap(), HostKind::Lambda);
    assert_eq!(kind(&[("JINLU_HOST", "event")]).unwrap(), HostKind::Event);
    assert!(kind(&[("JINLU_HOST", "tomcat")]).unwrap_err().to_string().contains("JINLU_HOST"));
}
