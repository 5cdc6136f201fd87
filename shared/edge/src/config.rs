//! Configuration: environment variables, read once at start into typed values.
//!
//! The fields are plain, so that the local cloud and tests build a [`Config`] without any environment.
//! Nothing else in the function crates reads the environment.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::vault::KEY_BYTES;
use domain::{Event, ShopRules};
use providers::drand::Chain;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;

use crate::function::Need;
use crate::signature::KEYS_PER_ID_MAX;
use wechat::{pay, subscribe};

/// The fixed, documented credentials of the local cloud.
///
/// Everybody knows them, so a configuration that comes from the environment and names one is refused.
pub mod local {
    /// TC3 key id of the local `/admin` route.
    pub const TC3_SECRET_ID: &str = "AKIDlocal";
    /// TC3 secret of the local `/admin` route.
    pub const TC3_SECRET_KEY: &str = "local-secret-key";
    /// Id of the local service key.
    pub const SERVICE_KEY_ID: &str = "local-crm";
    /// Secret of the local service key.
    pub const SERVICE_SECRET: &str = "local-crm-secret";
    /// Secret that signs the local cloud's session tokens.
    pub const SESSION_SECRET: &str = "local-session-secret-0123456789abcdef";
    /// The simulated mini-program.
    pub const WECHAT_APPID: &str = "wxlocal0000000001";
    /// The simulated mini-program's secret.
    pub const WECHAT_SECRET: &str = "local-wechat-secret";
    /// The simulated merchant's APIv3 key.
    pub const WXPAY_API_V3_KEY: &str = "local-apiv3-key-0123456789abcdef";
    /// The simulated merchant's APIv2 key.
    pub const WXPAY_API_V2_KEY: &str = "local-apiv2-key-0123456789abcdef";

    /// Key id of the simulated SMS service.
    pub const SMS_SECRET_ID: &str = "local-sms-id";
    /// Key of the simulated SMS service.
    pub const SMS_SECRET_KEY: &str = "local-sms-secret";
    /// The simulated SMS application.
    pub const SMS_APP_ID: &str = "local-sms-app";
    /// The simulated SMS service's one signature.
    pub const SMS_SIGN: &str = "local-金鹿";
    /// The simulated SMS service's one template.
    pub const SMS_TEMPLATE_ID: &str = "local-sms-code";
    /// The simulated SMS service's template for assignments.
    pub const SMS_ASSIGNMENT_TEMPLATE_ID: &str = "local-sms-assignment";
    /// What the local cloud's verification codes are hashed with.
    pub const VERIFY_CODE_SECRET: &str = "local-verify-code-secret-0123456789";

    /// Key id of the simulated identity service.
    pub const FACEID_SECRET_ID: &str = "local-faceid-id";
    /// Key of the simulated identity service.
    pub const FACEID_SECRET_KEY: &str = "local-faceid-secret";

    /// The shop's number at the simulated Kuaidi100.
    pub const KUAIDI100_CUSTOMER: &str = "LOCALKUAIDI100CUSTOMER";
    /// Its authorisation key.
    pub const KUAIDI100_KEY: &str = "local-kuaidi100-key";
    /// What the salts of the local cloud's subscriptions are made from.
    pub const KUAIDI100_SALT: &str = "local-kuaidi100-salt-0123456789abcdef";

    /// Id of the keys below.
    pub const KEY_ID: &str = "local-key";
    /// What the local cloud seals personal data and draw secrets with: 32 bytes in base64.
    pub const FIELD_KEY: &str = "bG9jYWwtZmllbGQta2V5LWxvY2FsLWZpZWxkLWtleS0=";
    /// What the local cloud finds identity numbers by: 32 bytes in base64.
    pub const INDEX_KEY: &str = "bG9jYWwtaW5kZXgta2V5LWxvY2FsLWluZGV4LWtleS0=";

    /// All of the above.
    pub const ALL: &[&str] = &[
        TC3_SECRET_ID,
        TC3_SECRET_KEY,
        SERVICE_KEY_ID,
        SERVICE_SECRET,
        SESSION_SECRET,
        WECHAT_APPID,
        WECHAT_SECRET,
        WXPAY_API_V3_KEY,
        WXPAY_API_V2_KEY,
        SMS_SECRET_ID,
        SMS_SECRET_KEY,
        SMS_APP_ID,
        SMS_SIGN,
        SMS_TEMPLATE_ID,
        SMS_ASSIGNMENT_TEMPLATE_ID,
        VERIFY_CODE_SECRET,
        FACEID_SECRET_ID,
        FACEID_SECRET_KEY,
        KUAIDI100_CUSTOMER,
        KUAIDI100_KEY,
        KUAIDI100_SALT,
        KEY_ID,
        FIELD_KEY,
        INDEX_KEY,
    ];
}

pub use upstream::Secret;
pub use wechat::subscribe::{OnUnknown, Template};

/// Everything a function may be configured with. A section that is `None` was not given.
#[derive(Clone, Debug)]
pub struct Config {
    /// The local cloud, which alone may use [`local`] credentials and move the clock. Never true from the environment.
    pub local: bool,
    pub store: Option<StoreConfig>,
    /// The first secret signs, all of them verify.
    pub session_secrets: Vec<SessionSecret>,
    pub service_keys: Vec<ServiceKey>,
    /// Believe `x-wx-openid`. Only for a function without any public route.
    pub trust_wx_headers: bool,
    pub open_api: Option<OpenApiConfig>,
    pub pay: Option<PayConfig>,
    pub sms: Option<SmsConfig>,
    /// The approved template that tells an assignment to people whom no message of the mini-program reaches. Without it none does.
    pub assignment_sms_template: Option<String>,
    pub drand: Option<DrandConfig>,
    /// Identity numbers are also checked against the register. Without it their form alone is.
    pub faceid: Option<FaceIdConfig>,
    /// Where parcels are asked about and followed. Without it only what the shop itself knows of them is told.
    pub kuaidi100: Option<Kuaidi100Config>,
    /// The mini-program's templates for messages.
    pub templates: Vec<Template>,
    /// Events that are told although their templates are not here, for functions that cause messages and deliver none.
    pub told: Vec<Event>,
    /// Verification codes are kept as HMACs under it.
    pub verify_code_secret: Option<Secret>,
    /// Seal personal data and draw secrets; the first one seals, all of them open.
    pub field_keys: Vec<DataKey>,
    /// Find identity numbers; while two are live, both are written and looked up.
    pub index_keys: Vec<DataKey>,
    pub rules: ShopRules,
    /// Calls of this process that may run at once; one more is answered `UNAVAILABLE`.
    pub max_concurrent: usize,
    pub log_level: LevelFilter,
    pub port: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            local: false,
            store: None,
            session_secrets: Vec::new(),
            service_keys: Vec::new(),
            trust_wx_headers: false,
            open_api: None,
            pay: None,
            sms: None,
            assignment_sms_template: None,
            drand: None,
            faceid: None,
            kuaidi100: None,
            templates: Vec::new(),
            told: Vec::new(),
            verify_code_secret: None,
            field_keys: Vec::new(),
            index_keys: Vec::new(),
            rules: ShopRules::default(),
            max_concurrent: 100,
            log_level: LevelFilter::INFO,
            port: 9000,
        }
    }
}

/// `MONGODB_URI` (which carries a password) and `MONGODB_DATABASE`.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub uri: Secret,
    pub database: String,
}

/// One of `SESSION_SECRETS`.
#[derive(Clone, Debug, Deserialize)]
pub struct SessionSecret {
    pub id: String,
    pub secret: Secret,
}

/// One of `SERVICE_KEYS`. Two of them may have the same id while a secret is being replaced; each has its own scopes.
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceKey {
    pub id: String,
    pub secret: Secret,
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// The mini-program's server interface.
#[derive(Clone, Debug)]
pub struct OpenApiConfig {
    pub base_url: String,
    pub appid: String,
    pub secret: Secret,
}

/// The merchant account.
#[derive(Clone, Debug)]
pub struct PayConfig {
    pub base_url: String,
    /// Tried when the first address cannot be reached.
    pub backup_base_url: Option<String>,
    pub mchid: String,
    pub appid: String,
    /// Serial number of the merchant's certificate.
    pub serial_no: String,
    /// PEM of the merchant's RSA key.
    pub private_key: Secret,
    pub api_v3_key: Secret,
    /// Opens the XML notices of refunds that somebody makes in the merchant portal. Without it they are refused.
    pub api_v2_key: Option<Secret>,
    /// Keys that WeChat Pay signs with.
    pub platform_keys: Vec<PlatformKey>,
    pub notify_url: String,
}

/// The SMS application that sends verification codes.
#[derive(Clone, Debug)]
pub struct SmsConfig {
    pub base_url: String,
    pub secret_id: String,
    pub secret_key: Secret,
    pub region: String,
    pub app_id: String,
    /// The approved signature's text.
    pub sign: String,
    /// The approved template: `{1}` is the code, `{2}` the minutes it is valid.
    pub template_id: String,
}

/// Where draws get public randomness from.
#[derive(Clone, Debug)]
pub struct DrandConfig {
    pub base_url: String,
    /// From the environment always [`Chain::quicknet`]: the local chain's secret key is public.
    pub chain: Chain,
}

/// The service that checks names and identity numbers.
#[derive(Clone, Debug)]
pub struct FaceIdConfig {
    pub base_url: String,
    pub secret_id: String,
    pub secret_key: Secret,
}

/// The account at Kuaidi100, and what its pushes are proven with.
#[derive(Clone, Debug)]
pub struct Kuaidi100Config {
    pub base_url: String,
    /// The shop's number there.
    pub customer: String,
    pub key: Secret,
    /// Public address of `logisticsCallback`.
    pub callback_url: String,
    /// The salts of subscriptions are made from the first one; all of them verify.
    pub salts: Vec<Secret>,
}

/// One of `WXPAY_PUBLIC_KEYS`: a public key or a platform certificate.
#[derive(Clone, Debug, Deserialize)]
pub struct PlatformKey {
    pub serial: String,
    pub pem: String,
}

/// One of `FIELD_KEYS` or `INDEX_KEYS`: 32 bytes in base64.
#[derive(Clone, Debug, Deserialize)]
pub struct DataKey {
    pub id: String,
    pub key: Secret,
}

impl DataKey {
    /// The key's bytes; none if it is not base64 of 32 bytes.
    pub fn bytes(&self) -> Option<[u8; KEY_BYTES]> {
        STANDARD.decode(self.key.expose()).ok()?.try_into().ok()
    }
}

/// What is wrong with the environment: every problem at once, each naming its variable.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is not usable:\n  {}", .0.join("\n  "))]
pub struct ConfigError(pub Vec<String>);

/// The variables, by the need that makes them mandatory, for `--help`.
pub(crate) const VARIABLES: &[(Option<Need>, &str, &str)] = &[
    (Some(Need::Store), "MONGODB_URI", "address of the replica set"),
    (None, "MONGODB_DATABASE", "database name, default jinlu"),
    (
        Some(Need::Session),
        "SESSION_SECRETS",
        r#"JSON list [{"id":"k1","secret":"32 bytes or more"}]; the first one signs"#,
    ),
    (None, "SERVICE_KEYS", r#"JSON list [{"id":"crm","secret":"…","scopes":["points"]}]"#),
    (None, "JINLU_TRUST_WX_HEADERS", "1 = believe x-wx-openid; only without a public route"),
    (Some(Need::OpenApi), "WECHAT_APPID", "mini-program id"),
    (Some(Need::OpenApi), "WECHAT_SECRET", "mini-program secret"),
    (None, "WECHAT_API_BASE", "default https://api.weixin.qq.com"),
    (
        None,
        "WECHAT_TEMPLATES",
        r#"JSON list [{"name":"lotteryResult","templateId":"…","fields":{"thing1":"activityName"},"page":"…"}] of subscribe messages"#,
    ),
    (
        None,
        "WECHAT_TELLS",
        "names of events that have templates elsewhere, e.g. orderPaid,orderRefunded; for functions that only cause messages",
    ),
    (Some(Need::Pay), "WXPAY_MCHID", "merchant number"),
    (Some(Need::Pay), "WXPAY_SERIAL_NO", "serial number of the merchant certificate"),
    (Some(Need::Pay), "WXPAY_PRIVATE_KEY", r"PEM of the merchant key, \n escapes accepted, or its base64 alone"),
    (Some(Need::Pay), "WXPAY_API_V3_KEY", "APIv3 key, 32 bytes"),
    (None, "WXPAY_API_V2_KEY", "APIv2 key, 32 bytes; for the notices of refunds made in the merchant portal"),
    (
        Some(Need::Pay),
        "WXPAY_PUBLIC_KEYS",
        r#"JSON list [{"serial":"PUB_KEY_ID_…","pem":"…"}]; of a public key its base64 alone will do"#,
    ),
    (Some(Need::Pay), "WXPAY_NOTIFY_URL", "public https address of payCallback"),
    (None, "WXPAY_API_BASE", "default https://api.mch.weixin.qq.com"),
    (Some(Need::Sms), "SMS_SECRET_ID", "Tencent Cloud key id that may send messages"),
    (Some(Need::Sms), "SMS_SECRET_KEY", "its key"),
    (Some(Need::Sms), "SMS_APP_ID", "number of the SMS application"),
    (Some(Need::Sms), "SMS_SIGN", "text of the approved signature"),
    (Some(Need::Sms), "SMS_TEMPLATE_ID", "approved template: {1} is the code, {2} the minutes it is valid"),
    (None, "SMS_REGION", "default ap-guangzhou"),
    (
        None,
        "ASSIGNMENT_SMS_TEMPLATE_ID",
        "approved template for assignments that no message of the mini-program can tell: {1} is the customer, {2} who assigned",
    ),
    (None, "SMS_API_BASE", "default https://sms.tencentcloudapi.com"),
    (None, "DRAND_API_BASE", "default https://api.drand.sh; any relay of quicknet, for answers are verified"),
    (Some(Need::VerifyCodes), "VERIFY_CODE_SECRET", "32 bytes or more; verification codes are hashed with it"),
    (None, "FACEID_SECRET_ID", "Tencent Cloud key id that may check identities; without it only their form is checked"),
    (None, "FACEID_SECRET_KEY", "its key"),
    (None, "FACEID_API_BASE", "default https://faceid.tencentcloudapi.com"),
    (None, "KUAIDI100_CUSTOMER", "the shop's number at Kuaidi100; without an account parcels are not followed"),
    (None, "KUAIDI100_KEY", "its authorisation key"),
    (None, "KUAIDI100_CALLBACK_URL", "public https address of logisticsCallback"),
    (
        None,
        "KUAIDI100_SALT",
        "32 bytes or more, which pushes are proven with; while it is replaced, the new one, a comma and the old one",
    ),
    (None, "KUAIDI100_API_BASE", "default https://poll.kuaidi100.com"),
    (None, "KUAIDI100_FOLLOW", "1 = the account is configured elsewhere; for functions that ship and deliver nothing"),
    (
        Some(Need::FieldKeys),
        "FIELD_KEYS",
        r#"JSON list [{"id":"f1","key":"base64 of 32 bytes"}]; the first one seals personal data and draw secrets"#,
    ),
    (
        Some(Need::IndexKeys),
        "INDEX_KEYS",
        r#"JSON list [{"id":"i1","key":"base64 of 32 bytes"}]; identity numbers are found by them"#,
    ),
    (None, "WECHAT_SHIPPING_REPORT", "off = do not report shipments to WeChat; default on"),
    (None, "POINTS_EARN_FEN", "net fen that earn one point, default 10000"),
    (None, "POINT_VALUE_FEN", "fen one point is worth at checkout, default 100"),
    (None, "ORDER_EXPIRE_MINUTES", "minutes until an unpaid order closes, default 30"),
    (None, "REFUND_DAYS", "days after its completion in which a buyer may ask for a refund, default 15"),
    (
        None,
        "COUPON_RETURN",
        "off = a coupon stays used when its order is refunded as a whole before shipping; default on",
    ),
    (None, "AUTO_COMPLETE_DAYS", "days after shipping until an order completes by itself, default 10"),
    (None, "MAX_CONCURRENCY", "calls at once per process, default 100"),
    (None, "LOG_LEVEL", "error, warn, info, debug or trace; default info"),
    (None, "PORT", "port of the HTTP host, default 9000"),
];

const SMS_REGION: &str = "ap-guangzhou";

const VERIFY_CODE_SECRET_BYTES_MIN: usize = 32;
const KUAIDI100_SALT_BYTES_MIN: usize = 32;
const SESSION_SECRET_BYTES_MIN: usize = 32;
const SERVICE_SECRET_BYTES_MIN: usize = 16;

impl Config {
    /// Read the environment. Sections that `needs` names must be there; the others may be.
    pub fn from_env(needs: &[Need]) -> Result<Self, ConfigError> {
        Self::parse(environment, needs)
    }

    /// As [`Config::from_env`], from any source of variables. An empty value counts as absent.
    pub fn parse(variable: impl Fn(&str) -> Option<String>, needs: &[Need]) -> Result<Self, ConfigError> {
        let mut reader = Reader { variable: &variable, problems: Vec::new() };
        let config = reader.config(needs);
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigError(reader.problems)) }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is edge's configuration, the one place that reads the environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Which host the environment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostKind {
    Http,
    Lambda,
    Event,
}

pub(crate) fn host_kind() -> Result<HostKind, ConfigError> {
    host_kind_from(environment)
}

pub(crate) fn host_kind_from(variable: impl Fn(&str) -> Option<String>) -> Result<HostKind, ConfigError> {
    match variable("JINLU_HOST").as_deref() {
        Some("event") => Ok(HostKind::Event),
        Some("lambda") => Ok(HostKind::Lambda),
        Some("http") => Ok(HostKind::Http),
        None | Some("") if variable("AWS_LAMBDA_RUNTIME_API").is_some() => Ok(HostKind::Lambda),
        None | Some("") => Ok(HostKind::Http),
        Some(_) => Err(ConfigError(vec![
            "JINLU_HOST must be http, lambda or event; leave it out to let the function choose".to_owned(),
        ])),
    }
}

/// Reads variables one by one and collects what is wrong, so that an operator sees all of it in one go.
struct Reader<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn config(&mut self, needs: &[Need]) -> Config {
        let needed = |need: Need| needs.contains(&need);
        let defaults = Config::default();
        let rules = ShopRules::default();
        let field_keys = self.data_keys("FIELD_KEYS", needed(Need::FieldKeys));
        let index_keys = self.data_keys("INDEX_KEYS", needed(Need::IndexKeys));
        self.distinct_keys(&field_keys, &index_keys);
        let assignment_sms_template = self.get("ASSIGNMENT_SMS_TEMPLATE_ID");
        let texts = needed(Need::Texts) && assignment_sms_template.is_some();
        Config {
            local: false,
            store: self.store(needed(Need::Store)),
            session_secrets: self.session_secrets(needed(Need::Session)),
            service_keys: self.service_keys(),
            trust_wx_headers: self.switch("JINLU_TRUST_WX_HEADERS"),
            open_api: needed(Need::OpenApi).then(|| self.open_api()),
            pay: needed(Need::Pay).then(|| self.pay()),
            sms: (needed(Need::Sms) || texts).then(|| self.sms()),
            assignment_sms_template,
            drand: needed(Need::Drand).then(|| self.drand()),
            faceid: self.faceid(),
            kuaidi100: self.kuaidi100(),
            templates: self.templates(),
            told: self.told(),
            verify_code_secret: needed(Need::VerifyCodes).then(|| self.verify_code_secret()),
            field_keys,
            index_keys,
            rules: ShopRules {
                points_earn_fen: self.number("POINTS_EARN_FEN", 1, 100_000_000, rules.points_earn_fen),
                point_value_fen: self.number("POINT_VALUE_FEN", 1, 1_000_000, rules.point_value_fen),
                order_expire_minutes: self.number("ORDER_EXPIRE_MINUTES", 1, 43_200, rules.order_expire_minutes),
                refund_days: self.number("REFUND_DAYS", 0, 365, rules.refund_days),
                coupon_return: self.on_unless_off("COUPON_RETURN"),
                auto_complete_days: self.number("AUTO_COMPLETE_DAYS", 1, 365, rules.auto_complete_days),
                // From the templates and the names told, when the process is put together.
                tells: rules.tells,
                shipping_reports: self.on_unless_off("WECHAT_SHIPPING_REPORT"),
                parcels_followed: self.switch("KUAIDI100_FOLLOW"),
            },
            max_concurrent: self.number("MAX_CONCURRENCY", 1, 10_000, defaults.max_concurrent),
            log_level: self.log_level(defaults.log_level),
            port: self.number("PORT", 1, u16::MAX, defaults.port),
        }
    }

    fn store(&mut self, needed: bool) -> Option<StoreConfig> {
        let uri = if needed {
            self.required("MONGODB_URI", "e.g. mongodb://user:password@host:27017/?replicaSet=rs0")
        } else {
            self.get("MONGODB_URI").unwrap_or_default()
        };
        let database = self.get("MONGODB_DATABASE").unwrap_or_else(|| "jinlu".to_owned());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if database.len() > 60 || !database.bytes().all(plain) {
            self.problem("MONGODB_DATABASE", "must be at most 60 letters, digits, '_' or '-'");
        }
        if uri.is_empty() {
            return None;
        }
        if !uri.starts_with("mongodb://") && !uri.starts_with("mongodb+srv://") {
            self.problem("MONGODB_URI", "must begin with mongodb:// or mongodb+srv://");
        }
        let uri = Secret::new(uri);
        Some(StoreConfig { uri, database })
    }

    fn session_secrets(&mut self, needed: bool) -> Vec<SessionSecret> {
        let how = r#"a JSON list [{"id":"k1","secret":"…"}] with secrets of at least 32 bytes; the first one signs"#;
        let secrets: Vec<SessionSecret> = self.list("SESSION_SECRETS", needed, how);
        let ids = secrets.iter().map(|secret| secret.id.as_str());
        self.distinct_ids("SESSION_SECRETS", ids);
        for secret in &secrets {
            self.not_local("SESSION_SECRETS", secret.secret.expose());
            if secret.secret.expose().len() < SESSION_SECRET_BYTES_MIN {
                self.problem(
                    "SESSION_SECRETS",
                    "has a secret of fewer than 32 bytes; make one with: openssl rand -hex 32",
                );
            }
        }
        secrets
    }

    fn service_keys(&mut self) -> Vec<ServiceKey> {
        let how = r#"a JSON list [{"id":"crm","secret":"…","scopes":["points"]}]"#;
        let keys: Vec<ServiceKey> = self.list("SERVICE_KEYS", false, how);
        for (at, key) in keys.iter().enumerate() {
            self.id_form("SERVICE_KEYS", &key.id);
            let before = keys.iter().take(at).filter(|other| other.id == key.id);
            if before.clone().count() >= KEYS_PER_ID_MAX {
                self.problem("SERVICE_KEYS", "has the same id more than twice: the old and the new secret are enough");
            }
            if before.clone().any(|other| other.secret.expose() == key.secret.expose()) {
                self.problem("SERVICE_KEYS", "has the same secret twice under one id");
            }
            self.not_local("SERVICE_KEYS", &key.id);
            self.not_local("SERVICE_KEYS", key.secret.expose());
            if key.secret.expose().len() < SERVICE_SECRET_BYTES_MIN {
                self.problem(
                    "SERVICE_KEYS",
                    "has a secret of fewer than 16 bytes; make one with: openssl rand -hex 32",
                );
            }
        }
        keys
    }

    fn open_api(&mut self) -> OpenApiConfig {
        OpenApiConfig {
            base_url: self.base_url("WECHAT_API_BASE", wechat::open::DEFAULT_BASE_URL),
            appid: self.credential("WECHAT_APPID", "the mini-program's id, wx…"),
            secret: Secret::new(
                self.credential("WECHAT_SECRET", "the mini-program's secret, from the WeChat admin page"),
            ),
        }
    }

    fn pay(&mut self) -> PayConfig {
        let base_url = self.base_url("WXPAY_API_BASE", pay::DEFAULT_BASE_URL);
        // A redirected base has no second address; the real one has.
        let backup_base_url = (base_url == pay::DEFAULT_BASE_URL).then(|| pay::DEFAULT_BACKUP_BASE_URL.to_owned());
        let private_key =
            self.credential("WXPAY_PRIVATE_KEY", r"PEM of the merchant key (apiclient_key.pem), line ends may be \n");
        let private_key = pem(&private_key, "PRIVATE KEY");
        if !private_key.is_empty() && !private_key.contains("-----BEGIN") {
            self.problem(
                "WXPAY_PRIVATE_KEY",
                r"must be a PEM beginning with -----BEGIN, or its base64 alone; line ends may be written as \n",
            );
        }
        let api_v3_key = self.credential("WXPAY_API_V3_KEY", "the 32-byte APIv3 key");
        if !api_v3_key.is_empty() && api_v3_key.len() != 32 {
            self.problem("WXPAY_API_V3_KEY", "must be exactly 32 bytes");
        }
        let api_v2_key = self.get("WXPAY_API_V2_KEY");
        if let Some(key) = &api_v2_key {
            self.not_local("WXPAY_API_V2_KEY", key);
            if key.len() != 32 {
                self.problem("WXPAY_API_V2_KEY", "must be exactly 32 bytes");
            }
        }
        let how = r#"a JSON list [{"serial":"PUB_KEY_ID_…","pem":"-----BEGIN PUBLIC KEY-----…"}]"#;
        let mut platform_keys: Vec<PlatformKey> = self.list("WXPAY_PUBLIC_KEYS", true, how);
        for key in &mut platform_keys {
            key.pem = pem(&key.pem, "PUBLIC KEY");
        }
        let notify_url = self.required("WXPAY_NOTIFY_URL", "the public https address of payCallback, without a query");
        if !notify_url.is_empty() && (!is_http_url(&notify_url) || notify_url.contains('?')) {
            self.problem("WXPAY_NOTIFY_URL", "must be an http(s) address without a query");
        }
        PayConfig {
            base_url,
            backup_base_url,
            mchid: self.required("WXPAY_MCHID", "the merchant number"),
            appid: self.credential("WECHAT_APPID", "the mini-program's id, wx…"),
            serial_no: self.required("WXPAY_SERIAL_NO", "the serial number of the merchant certificate"),
            private_key: Secret::new(private_key),
            api_v3_key: Secret::new(api_v3_key),
            api_v2_key: api_v2_key.map(Secret::new),
            platform_keys,
            notify_url,
        }
    }

    fn sms(&mut self) -> SmsConfig {
        SmsConfig {
            base_url: self.base_url("SMS_API_BASE", providers::sms::DEFAULT_BASE_URL),
            secret_id: self.credential("SMS_SECRET_ID", "the id of a Tencent Cloud key that may send messages"),
            secret_key: Secret::new(self.credential("SMS_SECRET_KEY", "the Tencent Cloud key")),
            region: self.get("SMS_REGION").unwrap_or_else(|| SMS_REGION.to_owned()),
            app_id: self.credential("SMS_APP_ID", "the number of the SMS application"),
            sign: self.credential("SMS_SIGN", "the text of the approved signature, without brackets"),
            template_id: self.credential("SMS_TEMPLATE_ID", "the number of the approved template"),
        }
    }

    fn drand(&mut self) -> DrandConfig {
        let base_url = self.base_url("DRAND_API_BASE", providers::drand::DEFAULT_BASE_URL);
        DrandConfig { base_url, chain: Chain::quicknet() }
    }

    /// There as soon as one half of the key is.
    fn faceid(&mut self) -> Option<FaceIdConfig> {
        self.get("FACEID_SECRET_ID").or_else(|| self.get("FACEID_SECRET_KEY"))?;
        Some(FaceIdConfig {
            base_url: self.base_url("FACEID_API_BASE", providers::faceid::DEFAULT_BASE_URL),
            secret_id: self.credential("FACEID_SECRET_ID", "the id of a Tencent Cloud key that may check identities"),
            secret_key: Secret::new(self.credential("FACEID_SECRET_KEY", "the Tencent Cloud key")),
        })
    }

    /// There as soon as one part of it is; then all of it must be.
    fn kuaidi100(&mut self) -> Option<Kuaidi100Config> {
        let parts = ["KUAIDI100_CUSTOMER", "KUAIDI100_KEY", "KUAIDI100_CALLBACK_URL", "KUAIDI100_SALT"];
        parts.iter().find_map(|name| self.get(name))?;
        let how = "the public https address of logisticsCallback, without a query";
        let callback_url = self.required("KUAIDI100_CALLBACK_URL", how);
        if !callback_url.is_empty() && (!is_http_url(&callback_url) || callback_url.contains(['?', '#'])) {
            self.problem("KUAIDI100_CALLBACK_URL", "must be an http(s) address without a query");
        }
        let salts = self.credential("KUAIDI100_SALT", "32 random bytes or more, e.g. from: openssl rand -hex 32");
        let salts: Vec<Secret> = salts.split(',').map(str::trim).filter(|s| !s.is_empty()).map(Secret::new).collect();
        if salts.iter().any(|salt| salt.expose().len() < KUAIDI100_SALT_BYTES_MIN) {
            self.problem("KUAIDI100_SALT", "has fewer than 32 bytes; make one with: openssl rand -hex 32");
        }
        Some(Kuaidi100Config {
            base_url: self.base_url("KUAIDI100_API_BASE", providers::kuaidi100::DEFAULT_BASE_URL),
            customer: self.credential("KUAIDI100_CUSTOMER", "the shop's number, from the pages of Kuaidi100"),
            key: Secret::new(self.credential("KUAIDI100_KEY", "the authorisation key, from the pages of Kuaidi100")),
            callback_url,
            salts,
        })
    }

    fn templates(&mut self) -> Vec<Template> {
        let how = r#"a JSON list [{"name":"lotteryResult","templateId":"…","fields":{"thing1":"activityName"}}], "page", "longTerm":true and "onUnknown":"stop"|"resend" optional"#;
        let templates: Vec<Template> = self.list("WECHAT_TEMPLATES", false, how);
        for problem in subscribe::problems(&templates, &subscribe::NAMES) {
            self.problem("WECHAT_TEMPLATES", &format!("has a mistake in {problem}"));
        }
        templates
    }

    fn told(&mut self) -> Vec<Event> {
        let text = self.get("WECHAT_TELLS").unwrap_or_default();
        let mut events = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match Event::ALL.into_iter().find(|event| event.as_str() == name) {
                Some(event) => events.push(event),
                None => {
                    let known = Event::ALL.map(Event::as_str).join(", ");
                    self.problem("WECHAT_TELLS", &format!("has an unknown name; it must be a list of {known}"));
                }
            }
        }
        events
    }

    fn verify_code_secret(&mut self) -> Secret {
        let secret = self.credential("VERIFY_CODE_SECRET", "32 random bytes or more, e.g. from: openssl rand -hex 32");
        if !secret.is_empty() && secret.len() < VERIFY_CODE_SECRET_BYTES_MIN {
            self.problem("VERIFY_CODE_SECRET", "has fewer than 32 bytes; make one with: openssl rand -hex 32");
        }
        Secret::new(secret)
    }

    fn data_keys(&mut self, name: &str, needed: bool) -> Vec<DataKey> {
        let how = r#"a JSON list [{"id":"k1","key":"…"}] with keys from: openssl rand -base64 32"#;
        let keys: Vec<DataKey> = self.list(name, needed, how);
        self.distinct_ids(name, keys.iter().map(|key| key.id.as_str()));
        for key in &keys {
            self.not_local(name, &key.id);
            self.not_local(name, key.key.expose());
            if key.bytes().is_none() {
                self.problem(name, "has a key that is not base64 of 32 bytes; make one with: openssl rand -base64 32");
            }
        }
        keys
    }

    /// One key under two ids is no rotation, and one that both seals and indexes gives up twice as much when it leaks.
    fn distinct_keys(&mut self, field_keys: &[DataKey], index_keys: &[DataKey]) {
        let mut seen = Vec::new();
        for (name, key) in
            field_keys.iter().map(|key| ("FIELD_KEYS", key)).chain(index_keys.iter().map(|key| ("INDEX_KEYS", key)))
        {
            match key.bytes() {
                Some(bytes) if seen.contains(&bytes) => {
                    self.problem(
                        name,
                        "has a key that FIELD_KEYS or INDEX_KEYS holds already; each key must be its own",
                    );
                }
                Some(bytes) => seen.push(bytes),
                None => {}
            }
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.trim().is_empty())
    }

    fn problem(&mut self, name: &str, what: &str) {
        let problem = format!("{name} {what}");
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn required(&mut self, name: &str, how: &str) -> String {
        match self.get(name) {
            Some(value) => value,
            None => {
                self.problem(name, &format!("is missing: set it to {how}"));
                String::new()
            }
        }
    }

    fn credential(&mut self, name: &str, how: &str) -> String {
        let value = self.required(name, how);
        self.not_local(name, &value);
        value
    }

    fn not_local(&mut self, name: &str, value: &str) {
        if local::ALL.iter().any(|known| value.contains(known)) {
            self.problem(name, "holds a published credential of the local cloud; make your own");
        }
    }

    /// A JSON list. The parser's own words may quote a secret, so they are not repeated.
    fn list<T: for<'de> Deserialize<'de>>(&mut self, name: &str, needed: bool, how: &str) -> Vec<T> {
        let text = if needed { self.required(name, how) } else { self.get(name).unwrap_or_default() };
        if text.is_empty() {
            return Vec::new();
        }
        match serde_json::from_str::<Vec<T>>(&text) {
            Ok(list) if list.is_empty() && needed => {
                self.problem(name, &format!("is an empty list: set it to {how}"));
                list
            }
            Ok(list) => list,
            Err(_) => {
                self.problem(name, &format!("is malformed: set it to {how}"));
                Vec::new()
            }
        }
    }

    fn distinct_ids<'i>(&mut self, name: &str, ids: impl Iterator<Item = &'i str>) {
        let mut seen = BTreeSet::new();
        for id in ids {
            self.id_form(name, id);
            if !seen.insert(id) {
                self.problem(name, "has the same id twice");
            }
        }
    }

    fn id_form(&mut self, name: &str, id: &str) {
        let well_formed =
            (1..=64).contains(&id.len()) && id.bytes().all(|byte| crate::is_token_byte(byte) || byte == b'.');
        if !well_formed {
            self.problem(name, "has an id that is not 1 to 64 letters, digits, '_', '-' or '.'");
        }
    }

    fn base_url(&mut self, name: &str, default: &str) -> String {
        let url = self.get(name).unwrap_or_else(|| default.to_owned());
        if !is_http_url(&url) {
            self.problem(name, "must begin with http:// or https://");
        }
        url.trim_end_matches('/').to_owned()
    }

    fn switch(&mut self, name: &str) -> bool {
        match self.get(name).as_deref() {
            None | Some("0" | "false") => false,
            Some("1" | "true") => true,
            Some(_) => {
                self.problem(name, "must be 1 or 0");
                false
            }
        }
    }

    fn on_unless_off(&mut self, name: &str) -> bool {
        match self.get(name).as_deref() {
            None | Some("on") => true,
            Some("off") => false,
            Some(_) => {
                self.problem(name, "must be on or off");
                true
            }
        }
    }

    fn number<T>(&mut self, name: &str, min: T, max: T, default: T) -> T
    where
        T: std::str::FromStr + PartialOrd + fmt::Display + Copy,
    {
        let Some(text) = self.get(name) else {
            return default;
        };
        match text.trim().parse::<T>() {
            Ok(value) if value >= min && value <= max => value,
            _ => {
                self.problem(name, &format!("must be a whole number from {min} to {max}"));
                default
            }
        }
    }

    fn log_level(&mut self, default: LevelFilter) -> LevelFilter {
        match self.get("LOG_LEVEL") {
            None => default,
            Some(text) => text.trim().parse().unwrap_or_else(|_| {
                self.problem("LOG_LEVEL", "must be error, warn, info, debug or trace");
                default
            }),
        }
    }
}

/// A key as PEM. It may be given without its first and last line and its line ends, because the platform takes 4 KB of variables.
fn pem(given: &str, kind: &str) -> String {
    let bare = given.len() > 64 && STANDARD.decode(given).is_ok();
    match bare {
        true => format!("-----BEGIN {kind}-----\n{given}\n-----END {kind}-----\n"),
        false => given.replace("\\n", "\n"),
    }
}

fn is_http_url(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}
