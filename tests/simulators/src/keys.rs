//! Fixed credentials of the simulated upstreams.
//!
//! TEST ONLY. Every key here was generated with `openssl` or made up for this project, is published with its source, and has
//! never been known to WeChat Pay, Tencent Cloud or Kuaidi100. A server that accepts money must never be configured with any of them.

/// Appid of the simulated mini program.
pub const APPID: &str = "wxlocal0000000001";
/// Secret of the simulated mini program, for code2Session and access tokens.
pub const APP_SECRET: &str = "local-wechat-secret";
/// Merchant number the simulated WeChat Pay knows.
pub const MCHID: &str = "1900000001";
/// APIv3 key: 32 ASCII characters, used as the AES-256-GCM key of notices.
pub const API_V3_KEY: &str = "local-apiv3-key-0123456789abcdef";

/// APIv2 key, another one: 32 ASCII characters; its MD5 encrypts XML notices of refunds.
pub const API_V2_KEY: &str = "local-apiv2-key-0123456789abcdef";

/// The merchant's private key (PKCS#8 PEM): signs requests and `paySign`.
pub const MERCHANT_PRIVATE_KEY: &str = include_str!("keys/merchant_private.pem");
/// The merchant's API certificate (X.509 PEM).
pub const MERCHANT_CERTIFICATE: &str = include_str!("keys/merchant_certificate.pem");
/// Serial number of [`MERCHANT_CERTIFICATE`], as the `serial_no` of `Authorization`.
pub const MERCHANT_SERIAL: &str = "4A494E4C550000000000000000000000000000A1";

/// Id of the WeChat Pay public key (public-key mode).
pub const WECHATPAY_PUBLIC_KEY_ID: &str = "PUB_KEY_ID_0119000000012026112100000000000001";
/// The public key (SubjectPublicKeyInfo PEM) a client in public-key mode verifies with.
pub const WECHATPAY_PUBLIC_KEY: &str = include_str!("keys/wechatpay_public.pem");
/// The private half of [`WECHATPAY_PUBLIC_KEY`]; the simulator signs with it.
pub const WECHATPAY_PRIVATE_KEY: &str = include_str!("keys/wechatpay_private.pem");

/// The platform certificate (X.509 PEM) a client in certificate mode verifies with.
pub const PLATFORM_CERTIFICATE: &str = include_str!("keys/platform_certificate.pem");
/// The private half of [`PLATFORM_CERTIFICATE`]; the simulator signs with it.
pub const PLATFORM_PRIVATE_KEY: &str = include_str!("keys/platform_private.pem");
/// Serial number of [`PLATFORM_CERTIFICATE`].
pub const PLATFORM_SERIAL: &str = "4A494E4C550000000000000000000000000000B2";

/// A private key that belongs to nobody: bad signatures are made with it.
pub const WRONG_PRIVATE_KEY: &str = include_str!("keys/wrong_private.pem");
/// The public half of [`WRONG_PRIVATE_KEY`].
pub const WRONG_PUBLIC_KEY: &str = include_str!("keys/wrong_public.pem");
/// A serial nobody issued, for notices that claim an unknown key.
pub const UNKNOWN_SERIAL: &str = "4A494E4C550000000000000000000000000000FF";

/// Id of the key pair the simulated SMS service knows.
pub const SMS_SECRET_ID: &str = "local-sms-id";
/// The secret half of [`SMS_SECRET_ID`]: signs requests.
pub const SMS_SECRET_KEY: &str = "local-sms-secret";
/// The SMS application; real ones are ten digits.
pub const SMS_APP_ID: &str = "local-sms-app";
/// The approved signature.
pub const SMS_SIGN: &str = "local-金鹿";
/// The approved template of verification codes: `{1}` is the code, `{2}` the minutes it is valid.
pub const SMS_TEMPLATE: &str = "local-sms-code";
/// The approved template of assignments: `{1}` is the customer, `{2}` who assigned them.
pub const SMS_ASSIGNMENT_TEMPLATE: &str = "local-sms-assignment";

/// The hash that names the simulated drand chain; read as text it says that it is no secret.
pub const DRAND_CHAIN: &str = "6a696e6c752d6c6f63616c2d746573742d636861696e2d6e6f742d7365637265";
/// The chain's secret key, a test key: whoever reads this can sign any round.
pub const DRAND_SECRET_KEY: &[u8; 32] = b"jinlu local drand: not a secret!";
/// Unix seconds of round 1.
pub const DRAND_GENESIS: i64 = 1_577_836_800;
/// Seconds between rounds.
pub const DRAND_PERIOD: u64 = 3;
/// The company's number at the simulated Kuaidi100.
pub const KUAIDI100_CUSTOMER: &str = "LOCALKUAIDI100CUSTOMER";
/// Its authorisation key: signs queries and travels in subscriptions.
pub const KUAIDI100_KEY: &str = "local-kuaidi100-key";

/// Id of the key pair the simulated identity service knows.
pub const FACEID_SECRET_ID: &str = "local-faceid-id";
/// The secret half of [`FACEID_SECRET_ID`]: signs requests.
pub const FACEID_SECRET_KEY: &str = "local-faceid-secret";
