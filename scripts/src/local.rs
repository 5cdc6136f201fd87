//! How a local cloud is put together: fixed test credentials, simulated upstreams, all functions behind one port.
//!
//! The command `dev` and the integration tests share it, so that the tests run what people run.

use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use domain::draw::Chain;
use edge::config::{
    DataKey, DrandConfig, FaceIdConfig, Kuaidi100Config, OpenApiConfig, PayConfig, PlatformKey, ServiceKey,
    SessionSecret, SmsConfig, StoreConfig, Template, local,
};
use edge::{App, Config};
use gateway::{Gateway, Local, Options, Tc3Key};
use simulators::{Sim, keys};

use crate::serve::CLOUDBASERC;

/// What clients of the platform name as their environment.
pub const ENV_ID: &str = "jinlu-local";

/// All routes of a local cloud, simulators and steering included.
pub fn assemble(app: &Arc<App>, sim: &Sim, place: Local) -> Result<(Gateway, Router)> {
    let options = Options {
        env_id: ENV_ID.to_owned(),
        tc3: Some(Tc3Key { secret_id: local::TC3_SECRET_ID.to_owned(), secret_key: local::TC3_SECRET_KEY.to_owned() }),
        local: Some(place),
    };
    let gateway = Gateway::new(app.clone(), gateway::functions(), gateway::timers(CLOUDBASERC)?, options);
    let router = gateway.router().nest("/sim", sim.router()).nest("/sim/control", gateway.control_router());
    Ok((gateway, router))
}

pub(crate) fn session_secrets() -> Vec<SessionSecret> {
    vec![SessionSecret { id: "local".to_owned(), secret: local::SESSION_SECRET.into() }]
}

/// What the local cloud seals with, and what it finds numbers by.
pub(crate) fn data_keys() -> (Vec<DataKey>, Vec<DataKey>) {
    let key = |key: &str| vec![DataKey { id: local::KEY_ID.to_owned(), key: key.into() }];
    (key(local::FIELD_KEY), key(local::INDEX_KEY))
}

/// A template for everything that the shop tells people. The results of draws come by a long-term one, so that both kinds are there.
fn templates() -> Vec<Template> {
    let template = |name: &str, id: &str, fields: &[(&str, &str)]| Template {
        name: name.to_owned(),
        template_id: format!("local-{id}"),
        fields: fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        long_term: name == "lotteryResult",
        ..Template::default()
    };
    vec![
        template(
            "assignment",
            "assignment",
            &[
                ("thing1", "customerName"),
                ("phone_number2", "customerPhone"),
                ("thing3", "assignedBy"),
                ("time4", "assignedAt"),
                ("thing5", "remark"),
            ],
        ),
        template(
            "orderPaid",
            "order-paid",
            &[("character_string1", "orderNo"), ("thing2", "products"), ("amount3", "amount"), ("time4", "time")],
        ),
        template(
            "orderShipped",
            "order-shipped",
            &[
                ("character_string1", "orderNo"),
                ("thing2", "products"),
                ("thing3", "expressCompany"),
                ("character_string4", "trackingNo"),
                ("time5", "time"),
            ],
        ),
        template(
            "orderArrived",
            "order-arrived",
            &[
                ("character_string1", "orderNo"),
                ("thing2", "products"),
                ("thing3", "expressCompany"),
                ("character_string4", "trackingNo"),
                ("time5", "time"),
            ],
        ),
        template(
            "orderRefunded",
            "order-refunded",
            &[("character_string1", "orderNo"), ("amount2", "amount"), ("thing3", "reason"), ("time4", "time")],
        ),
        template(
            "lotteryResult",
            "lottery-result",
            &[("thing1", "activityName"), ("phrase2", "result"), ("thing3", "productName")],
        ),
        template(
            "coinExpiring",
            "coin-expiring",
            &[("number1", "coins"), ("number2", "balance"), ("time3", "expireTime"), ("thing4", "reason")],
        ),
    ]
}

/// The configuration of a local cloud that serves at `url`, on the database at `uri`.
pub fn config(url: &str, port: u16, uri: &str, database: &str) -> Config {
    let (field_keys, index_keys) = data_keys();
    Config {
        local: true,
        store: Some(StoreConfig { uri: uri.into(), database: database.to_owned() }),
        session_secrets: session_secrets(),
        service_keys: vec![ServiceKey {
            id: local::SERVICE_KEY_ID.to_owned(),
            secret: local::SERVICE_SECRET.into(),
            scopes: vec!["*".to_owned()],
        }],
        open_api: Some(OpenApiConfig {
            base_url: format!("{url}/sim/wechat"),
            appid: keys::APPID.to_owned(),
            secret: keys::APP_SECRET.into(),
        }),
        pay: Some(PayConfig {
            base_url: format!("{url}/sim/wxpay"),
            backup_base_url: None,
            mchid: keys::MCHID.to_owned(),
            appid: keys::APPID.to_owned(),
            serial_no: keys::MERCHANT_SERIAL.to_owned(),
            private_key: keys::MERCHANT_PRIVATE_KEY.into(),
            api_v3_key: keys::API_V3_KEY.into(),
            api_v2_key: Some(keys::API_V2_KEY.into()),
            // Both ways in which WeChat Pay may sign: with its public key, or with a platform certificate.
            platform_keys: vec![
                PlatformKey {
                    serial: keys::WECHATPAY_PUBLIC_KEY_ID.to_owned(),
                    pem: keys::WECHATPAY_PUBLIC_KEY.to_owned(),
                },
                PlatformKey { serial: keys::PLATFORM_SERIAL.to_owned(), pem: keys::PLATFORM_CERTIFICATE.to_owned() },
            ],
            notify_url: format!("{url}/payCallback"),
        }),
        sms: Some(SmsConfig {
            base_url: format!("{url}/sim/sms"),
            secret_id: keys::SMS_SECRET_ID.to_owned(),
            secret_key: keys::SMS_SECRET_KEY.into(),
            region: "ap-guangzhou".to_owned(),
            app_id: keys::SMS_APP_ID.to_owned(),
            sign: keys::SMS_SIGN.to_owned(),
            template_id: keys::SMS_TEMPLATE.to_owned(),
        }),
        drand: Some(DrandConfig { base_url: format!("{url}/sim/drand"), chain: Chain::local() }),
        faceid: Some(FaceIdConfig {
            base_url: format!("{url}/sim/faceid"),
            secret_id: keys::FACEID_SECRET_ID.to_owned(),
            secret_key: keys::FACEID_SECRET_KEY.into(),
        }),
        kuaidi100: Some(Kuaidi100Config {
            base_url: format!("{url}/sim/kuaidi100"),
            customer: keys::KUAIDI100_CUSTOMER.to_owned(),
            key: keys::KUAIDI100_KEY.into(),
            callback_url: format!("{url}/logisticsCallback"),
            salts: vec![local::KUAIDI100_SALT.into()],
        }),
        templates: templates(),
        verify_code_secret: Some(local::VERIFY_CODE_SECRET.into()),
        field_keys,
        index_keys,
        port,
        // All functions share this one process, and load tests aim at it.
        max_concurrent: 1000,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulators_and_the_functions_share_their_credentials() {
        assert_eq!((local::WECHAT_APPID, local::WECHAT_SECRET), (keys::APPID, keys::APP_SECRET));
        assert_eq!(local::WXPAY_API_V3_KEY, keys::API_V3_KEY);
        assert_eq!((local::SMS_SECRET_ID, local::SMS_SECRET_KEY), (keys::SMS_SECRET_ID, keys::SMS_SECRET_KEY));
        assert_eq!((local::SMS_APP_ID, local::SMS_SIGN), (keys::SMS_APP_ID, keys::SMS_SIGN));
        assert_eq!(
            (local::FACEID_SECRET_ID, local::FACEID_SECRET_KEY),
            (keys::FACEID_SECRET_ID, keys::FACEID_SECRET_KEY)
        );
        assert_eq!((local::KUAIDI100_CUSTOMER, local::KUAIDI100_KEY), (keys::KUAIDI100_CUSTOMER, keys::KUAIDI100_KEY));
        assert_eq!(local::SMS_TEMPLATE_ID, keys::SMS_TEMPLATE);
        assert_eq!(local::SMS_ASSIGNMENT_TEMPLATE_ID, keys::SMS_ASSIGNMENT_TEMPLATE);
        let chain = Chain::local();
        assert_eq!((chain.hash.as_str(), chain.genesis_time), (keys::DRAND_CHAIN, keys::DRAND_GENESIS));
        assert_eq!(u64::try_from(chain.period).unwrap(), keys::DRAND_PERIOD);
        assert_eq!(chain.public_key, simulators::drand::public_key().unwrap());
    }
}
