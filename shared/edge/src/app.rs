//! What the calls of one process share, and what one call is given.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::vault::{FieldKeys, IndexKeys, KEY_BYTES, VaultError};
use domain::{BoxError, Failure, OpenId, ShopRules};
use providers::drand;
use providers::faceid::TencentFaceId;
use providers::kuaidi100;
use providers::sms::TencentSms;
use store::verify::CodeKey;
use store::{CommandKey, Store};
use tokio::sync::Semaphore;
use wechat::crypto::{ApiV3Key, MerchantKey, PlatformKeys};
use wechat::pay::legacy::ApiV2Key;

use crate::caller::Caller;
use crate::clock::Clock;
use crate::config::{Config, DataKey, DrandConfig, FaceIdConfig, Kuaidi100Config, OpenApiConfig, PayConfig, SmsConfig};
use crate::input::RequestKey;
use crate::session::{IssueError, Kind, Sessions, USER_TOKEN_DAYS};
use crate::token_cache::StoreTokens;

/// How long one exchange with WeChat or another provider may take.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(6);

/// Pieces of work that may outlive their calls at once.
const AFTER_SLOTS: usize = 64;

/// The configuration, the clock and the clients of one process. Made once; does no IO until a call needs it.
pub struct App {
    pub config: Config,
    pub clock: Clock,
    store: Store,
    pay: Option<wechat::pay::Client>,
    api_v2_key: Option<ApiV2Key>,
    open_api: Option<wechat::open::Client>,
    sms: Option<TencentSms>,
    drand: Option<drand::Client>,
    faceid: Option<TencentFaceId>,
    kuaidi100: Option<kuaidi100::Account>,
    verify_codes: Option<CodeKey>,
    field_keys: Option<FieldKeys>,
    index_keys: Option<IndexKeys>,
    sessions: Sessions,
    slots: Arc<Semaphore>,
    /// For work that may outlive its call.
    after_slots: Arc<Semaphore>,
}

/// The configuration reads well but a client cannot be made from it.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A key or an address for a client of WeChat or another provider.
    #[error("{variable} is not usable")]
    Unusable { variable: &'static str, source: BoxError },
}

impl App {
    /// Make the clients. Connections are opened when they are first used.
    pub fn new(mut config: Config, clock: Clock) -> Result<Arc<Self>, AppError> {
        crate::install_tls_provider();
        config.rules.tells = wechat::subscribe::tells(&config.templates).and_elsewhere(&config.told);
        config.rules.parcels_followed |= config.kuaidi100.is_some();
        let store = match &config.store {
            Some(given) => store::StoreConfig::new(given.uri.expose(), given.database.as_str()),
            // Not an address, so that a function that forgot to declare its need fails at once and nowhere near a database.
            None => store::StoreConfig::new("MONGODB_URI is not configured", "jinlu"),
        };
        let store = Store::new(store);
        let pay = config.pay.as_ref().map(|pay| pay_client(pay, &clock)).transpose()?;
        let api_v2_key = config.pay.as_ref().and_then(|pay| pay.api_v2_key.as_ref());
        let api_v2_key = api_v2_key.map(|key| ApiV2Key::new(key.expose())).transpose();
        let api_v2_key = api_v2_key.map_err(unusable("WXPAY_API_V2_KEY"))?;
        let open_api = config.open_api.as_ref().map(|open| open_client(open, &clock, &store)).transpose()?;
        let sms = config.sms.as_ref().map(|sms| sms_client(sms, &clock)).transpose()?;
        let drand = config.drand.as_ref().map(drand_client).transpose()?;
        let faceid = config.faceid.as_ref().map(|faceid| faceid_client(faceid, &clock)).transpose()?;
        let kuaidi100 = config.kuaidi100.as_ref().map(kuaidi100_account).transpose()?;
        let verify_codes = config.verify_code_secret.as_ref().map(|secret| CodeKey::new(secret.expose().as_bytes()));
        let field_keys = vault_keys(&config.field_keys, "FIELD_KEYS", FieldKeys::new)?;
        let index_keys = vault_keys(&config.index_keys, "INDEX_KEYS", IndexKeys::new)?;
        let sessions = Sessions::new(&config.session_secrets);
        let slots = Arc::new(Semaphore::new(config.max_concurrent.min(Semaphore::MAX_PERMITS)));
        let after_slots = Arc::new(Semaphore::new(AFTER_SLOTS));
        Ok(Arc::new(Self {
            config,
            clock,
            store,
            pay,
            api_v2_key,
            open_api,
            sms,
            drand,
            faceid,
            kuaidi100,
            verify_codes,
            field_keys,
            index_keys,
            sessions,
            slots,
            after_slots,
        }))
    }

    /// The shop's database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The merchant's client; a function that uses it declares [`crate::Need::Pay`].
    pub fn pay(&self) -> Result<&wechat::pay::Client, Failure> {
        self.pay
            .as_ref()
            .ok_or_else(|| Failure::invariant("WeChat Pay is not configured: the function must declare Need::Pay"))
    }

    /// What opens the notices of APIv2, where the shop has it.
    pub fn api_v2_key(&self) -> Option<&ApiV2Key> {
        self.api_v2_key.as_ref()
    }

    /// The mini-program's client; a function that uses it declares [`crate::Need::OpenApi`].
    pub fn open_api(&self) -> Result<&wechat::open::Client, Failure> {
        self.open_api.as_ref().ok_or_else(|| {
            Failure::invariant("the WeChat Open API is not configured: the function must declare Need::OpenApi")
        })
    }

    /// The chain that draws are made with; a function that uses it declares [`crate::Need::Drand`].
    pub fn drand(&self) -> Result<&drand::Client, Failure> {
        self.drand
            .as_ref()
            .ok_or_else(|| Failure::invariant("drand is not configured: the function must declare Need::Drand"))
    }

    /// The SMS application; a function that uses it declares [`crate::Need::Sms`].
    pub fn sms(&self) -> Result<&TencentSms, Failure> {
        self.sms
            .as_ref()
            .ok_or_else(|| Failure::invariant("SMS is not configured: the function must declare Need::Sms"))
    }

    /// The identity check, where the shop has one.
    pub fn faceid(&self) -> Option<&TencentFaceId> {
        self.faceid.as_ref()
    }

    /// The account that parcels are followed with, where the shop has one.
    pub fn kuaidi100(&self) -> Option<&kuaidi100::Account> {
        self.kuaidi100.as_ref()
    }

    /// What verification codes are hashed with; a function that uses it declares [`crate::Need::VerifyCodes`].
    pub fn verify_codes(&self) -> Result<&CodeKey, Failure> {
        self.verify_codes.as_ref().ok_or_else(|| {
            Failure::invariant("VERIFY_CODE_SECRET is not configured: the function must declare Need::VerifyCodes")
        })
    }

    /// What seals personal data and draw secrets; a function that uses it declares [`crate::Need::FieldKeys`].
    pub fn field_keys(&self) -> Result<&FieldKeys, Failure> {
        self.field_keys.as_ref().ok_or_else(|| {
            Failure::invariant("FIELD_KEYS is not configured: the function must declare Need::FieldKeys")
        })
    }

    /// What finds identity numbers; a function that uses it declares [`crate::Need::IndexKeys`].
    pub fn index_keys(&self) -> Result<&IndexKeys, Failure> {
        self.index_keys.as_ref().ok_or_else(|| {
            Failure::invariant("INDEX_KEYS is not configured: the function must declare Need::IndexKeys")
        })
    }

    /// A session token for a user, and when it expires: seven days, under 1 KB.
    pub fn issue_user_token(
        &self,
        open_id: &OpenId,
        union_id: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(String, DateTime<Utc>), Failure> {
        let ttl = TimeDelta::days(USER_TOKEN_DAYS);
        self.sessions.issue(Kind::User, open_id.as_str(), union_id, &[], ttl, now).map_err(internal)
    }

    /// A session token for a member of staff.
    pub fn issue_staff_token(
        &self,
        id: &str,
        permissions: &[String],
        ttl: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<(String, DateTime<Utc>), Failure> {
        self.sessions.issue(Kind::Staff, id, None, permissions, ttl, now).map_err(internal)
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(crate) fn slots(&self) -> &Arc<Semaphore> {
        &self.slots
    }

    /// Wait until no call is running, those included whose client has gone away, nor what outlived its call.
    pub async fn idle(&self) {
        let all = u32::try_from(self.config.max_concurrent).unwrap_or(u32::MAX);
        // The semaphore is never closed, so there is nothing to fail.
        self.slots.acquire_many(all).await.ok();
        self.nothing_left().await;
    }

    /// Wait until nothing is running that outlived its call.
    pub(crate) async fn nothing_left(&self) {
        self.after_slots.acquire_many(u32::try_from(AFTER_SLOTS).unwrap_or(u32::MAX)).await.ok();
    }
}

/// The configured keys made usable; none if none is configured.
fn vault_keys<K>(
    given: &[DataKey],
    variable: &'static str,
    make: impl FnOnce(Vec<(String, [u8; KEY_BYTES])>) -> Result<K, VaultError>,
) -> Result<Option<K>, AppError> {
    if given.is_empty() {
        return Ok(None);
    }
    let key = |key: &DataKey| Some((key.id.clone(), key.bytes()?));
    let keys: Option<Vec<_>> = given.iter().map(key).collect();
    keys.ok_or(VaultError::NoKey).and_then(make).map(Some).map_err(unusable(variable))
}

fn pay_client(given: &PayConfig, clock: &Clock) -> Result<wechat::pay::Client, AppError> {
    let merchant_key = MerchantKey::from_pem(&given.serial_no, given.private_key.expose())
        .map_err(unusable("WXPAY_PRIVATE_KEY or WXPAY_SERIAL_NO"))?;
    let platform_keys = PlatformKeys::new();
    for key in &given.platform_keys {
        platform_keys.add_pem(&key.serial, &key.pem).map_err(unusable("WXPAY_PUBLIC_KEYS"))?;
    }
    let api_v3_key = ApiV3Key::new(given.api_v3_key.expose()).map_err(unusable("WXPAY_API_V3_KEY"))?;
    let config = wechat::pay::Config {
        base_url: given.base_url.clone(),
        backup_base_url: given.backup_base_url.clone(),
        mchid: given.mchid.clone(),
        appid: given.appid.clone(),
        merchant_key,
        platform_keys,
        api_v3_key,
        notify_url: given.notify_url.clone(),
        timeout: UPSTREAM_TIMEOUT,
        now: now_of(clock),
    };
    // The library's text says which of them it is.
    wechat::pay::Client::new(config)
        .map_err(unusable("WXPAY_MCHID, WXPAY_NOTIFY_URL, WXPAY_API_BASE or WXPAY_PUBLIC_KEYS"))
}

fn open_client(given: &OpenApiConfig, clock: &Clock, store: &Store) -> Result<wechat::open::Client, AppError> {
    let cache = StoreTokens::new(store.clone(), clock.clone(), &given.appid, given.secret.expose())
        .map_err(|source| AppError::Unusable { variable: "WECHAT_SECRET", source })?;
    let config = wechat::open::Config {
        base_url: given.base_url.clone(),
        appid: given.appid.clone(),
        secret: given.secret.clone(),
        timeout: UPSTREAM_TIMEOUT,
        now: now_of(clock),
        cache: Arc::new(cache),
    };
    wechat::open::Client::new(config).map_err(unusable("WECHAT_API_BASE"))
}

fn sms_client(given: &SmsConfig, clock: &Clock) -> Result<TencentSms, AppError> {
    let config = providers::sms::Config {
        base_url: given.base_url.clone(),
        secret_id: given.secret_id.clone(),
        secret_key: given.secret_key.clone(),
        region: given.region.clone(),
        sdk_app_id: given.app_id.clone(),
        sign_name: given.sign.clone(),
        template_id: given.template_id.clone(),
        timeout: UPSTREAM_TIMEOUT,
        now: now_of(clock),
    };
    // The library's text says which of them it is.
    TencentSms::new(config).map_err(unusable("SMS_API_BASE, SMS_SECRET_ID or SMS_REGION"))
}

fn drand_client(given: &DrandConfig) -> Result<drand::Client, AppError> {
    let config =
        drand::Config { base_url: given.base_url.clone(), chain: given.chain.clone(), timeout: UPSTREAM_TIMEOUT };
    drand::Client::new(config).map_err(unusable("DRAND_API_BASE"))
}

fn faceid_client(given: &FaceIdConfig, clock: &Clock) -> Result<TencentFaceId, AppError> {
    let config = providers::faceid::Config {
        base_url: given.base_url.clone(),
        secret_id: given.secret_id.clone(),
        secret_key: given.secret_key.clone(),
        timeout: UPSTREAM_TIMEOUT,
        now: now_of(clock),
    };
    TencentFaceId::new(config).map_err(unusable("FACEID_API_BASE or FACEID_SECRET_ID"))
}

fn kuaidi100_account(given: &Kuaidi100Config) -> Result<kuaidi100::Account, AppError> {
    let config = kuaidi100::Config {
        base_url: given.base_url.clone(),
        customer: given.customer.clone(),
        key: given.key.clone(),
        timeout: UPSTREAM_TIMEOUT,
    };
    kuaidi100::Account::new(config, given.callback_url.clone(), given.salts.clone())
        .map_err(unusable("KUAIDI100_API_BASE, KUAIDI100_CUSTOMER, KUAIDI100_KEY or KUAIDI100_SALT"))
}

fn now_of(clock: &Clock) -> wechat::Now {
    let clock = clock.clone();
    Arc::new(move || clock.now())
}

fn unusable<E: Into<BoxError>>(variable: &'static str) -> impl FnOnce(E) -> AppError {
    move |source| AppError::Unusable { variable, source: source.into() }
}

fn internal(error: IssueError) -> Failure {
    Failure::Internal(Box::new(error))
}

/// What one call is given.
#[derive(Clone)]
pub struct Context {
    /// The function's wire name.
    pub function: &'static str,
    pub caller: Caller,
    /// The time of the call, in whole milliseconds.
    pub now: DateTime<Utc>,
    pub trace_id: String,
    /// When the call will be given up.
    pub deadline: tokio::time::Instant,
    /// The input's idempotency key, if it has one.
    pub request: Option<RequestKey>,
    pub app: Arc<App>,
}

impl Context {
    /// The shop's database.
    pub fn store(&self) -> &Store {
        self.app.store()
    }

    /// See [`App::pay`].
    pub fn pay(&self) -> Result<&wechat::pay::Client, Failure> {
        self.app.pay()
    }

    /// See [`App::open_api`].
    pub fn open_api(&self) -> Result<&wechat::open::Client, Failure> {
        self.app.open_api()
    }

    /// See [`App::sms`].
    pub fn sms(&self) -> Result<&TencentSms, Failure> {
        self.app.sms()
    }

    /// See [`App::drand`].
    pub fn drand(&self) -> Result<&drand::Client, Failure> {
        self.app.drand()
    }

    /// See [`App::faceid`].
    pub fn faceid(&self) -> Option<&TencentFaceId> {
        self.app.faceid()
    }

    /// See [`App::kuaidi100`].
    pub fn kuaidi100(&self) -> Option<&kuaidi100::Account> {
        self.app.kuaidi100()
    }

    /// See [`App::field_keys`].
    pub fn field_keys(&self) -> Result<&FieldKeys, Failure> {
        self.app.field_keys()
    }

    /// See [`App::index_keys`].
    pub fn index_keys(&self) -> Result<&IndexKeys, Failure> {
        self.app.index_keys()
    }

    /// See [`App::verify_codes`].
    pub fn verify_codes(&self) -> Result<&CodeKey, Failure> {
        self.app.verify_codes()
    }

    /// The numbers the shop set for itself.
    pub fn rules(&self) -> &ShopRules {
        &self.app.config.rules
    }

    /// See [`App::issue_user_token`].
    pub fn issue_user_token(
        &self,
        open_id: &OpenId,
        union_id: Option<&str>,
    ) -> Result<(String, DateTime<Utc>), Failure> {
        self.app.issue_user_token(open_id, union_id, self.now)
    }

    /// The store's key for this command, if the input carries a `requestId`. Different callers never share a key.
    pub fn command_key(&self) -> Option<CommandKey> {
        let request = self.request.as_ref()?;
        let caller = match &self.caller {
            Caller::User { open_id, .. } => format!("u:{}", open_id.as_str()),
            Caller::Staff { id, .. } => format!("a:{id}"),
            Caller::Service { key_id, .. } => format!("s:{key_id}"),
            other => other.kind().to_owned(),
        };
        Some(CommandKey::new(self.function, &caller, &request.id, &request.input_hash))
    }

    /// Runs `work` and waits for it, but no longer than `budget`: then the call goes on and the work ends by itself. `None` when it
    /// did not end in time, panicked, or was not begun because too much other work is still at it.
    ///
    /// The platform may freeze or end the process after the reply, so this is only for work that the store knows about and
    /// somebody else can tell the end of, such as one try of an outbox item. Cutting such a try off at the budget would be worse:
    /// its exchange would have happened, and nobody would know how it ended.
    pub async fn outlive<T: Send + 'static>(
        &self,
        budget: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let slot = Arc::clone(&self.app.after_slots).try_acquire_owned().ok()?;
        let task = tokio::spawn(async move {
            let _slot = slot;
            work.await
        });
        match tokio::time::timeout(budget.min(self.time_left()), task).await {
            Ok(Ok(done)) => Some(done),
            Ok(Err(_panic)) => {
                let (function, trace_id) = (self.function, self.trace_id.as_str());
                tracing::error!(function, trace_id, "INVARIANT_NO_PANIC work beside a call panicked");
                None
            }
            Err(_elapsed) => None,
        }
    }

    /// How much of the time limit is left, e.g. for a first delivery right after the commit.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(tokio::time::Instant::now())
    }
}
