//! Our clients against the simulated upstreams, without anything between: parcels, bills, refund notices in XML. The two sides
//! share no code, so that a misreading of one shows in the other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use providers::Secret;
use providers::kuaidi100::push::{self, PushError, PushStatus};
use providers::kuaidi100::{
    self, Class, Kuaidi100, Kuaidi100Error, ParcelState, Query, ResultForm, Subscribed, Subscription,
};
use serde_json::json;
use simulators::{
    Fault, FaultMode, LegacyMode, LegacyRefund, MoveParcel, NoticeMode, Pay, PushMode, Sim, SimConfig, Target, keys,
};
use wechat::Personal;
use wechat::crypto::{ApiV3Key, MerchantKey, PlatformKeys};
use wechat::pay::bill::{BillError, BillKind, BillState, TradeBill};
use wechat::pay::legacy::{self, ApiV2Key, LegacyError};
use wechat::pay::{self, NoticeError, PrepayOrder, RefundRequest, RefundStatus, Verifier};

const PARCEL: &str = "SF1234567890";
const SALT: &str = "0123456789abcdef";

type Clock = Arc<Mutex<DateTime<Utc>>>;
type Received = Arc<Mutex<Vec<Bytes>>>;

struct Upstreams {
    sim: Sim,
    clock: Clock,
    base: String,
    /// Where notices and pushes go, and what came.
    inbox: String,
    received: Received,
}

impl Upstreams {
    async fn start() -> anyhow::Result<Self> {
        let clock: Clock = Arc::new(Mutex::new("2026-11-21T02:00:00Z".parse()?));
        let reader = clock.clone();
        let sim = Sim::new(SimConfig::new(move || *reader.lock().unwrap()))?;
        let base = serve(Router::new().nest("/sim", sim.router())).await?;
        let received = Received::default();
        let inbox = Router::new()
            .fallback(async |State(received): State<Received>, body: Bytes| {
                received.lock().unwrap().push(body);
                push::ACCEPTED
            })
            .with_state(received.clone());
        let inbox = format!("{}/inbox", serve(inbox).await?);
        Ok(Self { sim, clock, base, inbox, received })
    }

    fn advance(&self, by: TimeDelta) {
        *self.clock.lock().unwrap() += by;
    }

    fn now(&self) -> DateTime<Utc> {
        *self.clock.lock().unwrap()
    }

    fn parcels(&self) -> anyhow::Result<Kuaidi100> {
        Ok(Kuaidi100::new(kuaidi100::Config {
            base_url: format!("{}/sim/kuaidi100", self.base),
            customer: keys::KUAIDI100_CUSTOMER.to_owned(),
            key: Secret::new(keys::KUAIDI100_KEY),
            timeout: Duration::from_secs(5),
        })?)
    }

    fn platform_keys() -> anyhow::Result<PlatformKeys> {
        let platform_keys = PlatformKeys::new();
        platform_keys.add_pem(keys::WECHATPAY_PUBLIC_KEY_ID, keys::WECHATPAY_PUBLIC_KEY)?;
        Ok(platform_keys)
    }

    fn pay(&self) -> anyhow::Result<pay::Client> {
        let clock = self.clock.clone();
        Ok(pay::Client::new(pay::Config {
            base_url: format!("{}/sim/wxpay", self.base),
            backup_base_url: None,
            mchid: keys::MCHID.to_owned(),
            appid: keys::APPID.to_owned(),
            merchant_key: MerchantKey::from_pem(keys::MERCHANT_SERIAL, keys::MERCHANT_PRIVATE_KEY)?,
            platform_keys: Self::platform_keys()?,
            api_v3_key: ApiV3Key::new(keys::API_V3_KEY)?,
            notify_url: self.inbox.clone(),
            timeout: Duration::from_secs(5),
            now: Arc::new(move || *clock.lock().unwrap()),
        })?)
    }

    /// A payment of 12.34 yuan; WeChat's number.
    async fn paid(&self, client: &pay::Client, number: &str) -> anyhow::Result<String> {
        let order = PrepayOrder {
            out_trade_no: number,
            description: "苹果, 5 斤",
            amount_fen: 1234,
            payer_openid: &Personal::new("o-alice"),
            time_expire: self.now() + TimeDelta::minutes(30),
            attach: Some("a,b"),
        };
        client.prepay(&client.prepay_request(&order)?).await?;
        let pay = Pay { out_trade_no: Some(number.to_owned()), notify: Some(NoticeMode::None), ..Pay::default() };
        let paid = self.sim.pay(&pay).await.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        Ok(paid.transaction_id)
    }

    async fn moved(&self, change: MoveParcel) -> anyhow::Result<()> {
        let change = MoveParcel { num: PARCEL.to_owned(), ..change };
        self.sim.parcel(&change).await.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        Ok(())
    }

    fn taken(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

async fn serve(router: Router) -> anyhow::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(base)
}

fn query(phone: Option<&str>) -> Query<'_> {
    Query { company: "shunfeng", number: PARCEL, phone, from: None, to: None, form: ResultForm::Advanced }
}

fn state(code: &str) -> MoveParcel {
    MoveParcel { state: Some(code.to_owned()), ..MoveParcel::default() }
}

#[tokio::test]
async fn a_parcel_is_asked_about_and_followed() -> anyhow::Result<()> {
    let upstreams = Upstreams::start().await?;
    let client = upstreams.parcels()?;
    let unknown = client.query(&query(Some("13800138000"))).await.unwrap_err();
    ensure!(matches!(unknown, Kuaidi100Error::NoTrace(_)), "{unknown}");
    ensure!(client.query(&query(None)).await.is_err_and(|error| error.class() == Class::AskPhone));

    let first = MoveParcel { com: Some("shunfeng".to_owned()), phone: Some("13800138000".to_owned()), ..state("103") };
    upstreams.moved(first).await?;
    upstreams.advance(TimeDelta::minutes(30));
    let trace = client.query(&query(Some("8000"))).await?;
    assert_eq!((trace.status.state, trace.nodes.len()), (ParcelState::Collected, 1));
    assert_eq!(trace.updated_at(), Some("2026-11-21T02:00:00Z".parse()?));
    let wrong = client.query(&query(Some("13900139000"))).await.unwrap_err();
    assert_eq!(wrong.class(), Class::AskPhone);

    let callback = format!("{}?oid=o-1", upstreams.inbox);
    let salt = Secret::new(SALT);
    let subscription = Subscription {
        company: "shunfeng",
        number: PARCEL,
        phone: Some("13800138000"),
        from: None,
        to: None,
        callback_url: &callback,
        salt: &salt,
        form: ResultForm::Advanced,
    };
    assert_eq!(client.subscribe(&subscription).await?, Subscribed::New);
    assert_eq!(client.subscribe(&subscription).await?, Subscribed::Already);

    for (mode, expected) in [
        (PushMode::Once, None),
        (PushMode::Tampered, Some(PushError::Signature)),
        (PushMode::WrongSalt, Some(PushError::Signature)),
        (PushMode::Unsigned, Some(PushError::Unsigned)),
    ] {
        upstreams.moved(MoveParcel { push: Some(mode), ..state("1002") }).await?;
        let pushed = upstreams.taken();
        assert_eq!(push::verify_form(&pushed[0], &salt).err(), expected, "{mode:?}");
    }
    upstreams.moved(MoveParcel { push: Some(PushMode::Duplicate), ..state("5") }).await?;
    let twice: Vec<_> =
        upstreams.taken().iter().map(|body| push::verify_form(body, &salt)).collect::<Result<_, _>>()?;
    ensure!(twice.len() == 2 && twice[0].param_sha256 == twice[1].param_sha256);

    upstreams.advance(TimeDelta::minutes(1));
    upstreams.moved(MoveParcel { push: Some(PushMode::OutOfOrder), ..state("304") }).await?;
    let pushed: Vec<_> =
        upstreams.taken().iter().map(|body| push::verify_form(body, &salt)).collect::<Result<_, _>>()?;
    assert_eq!((pushed[0].status.clone(), pushed[1].status.clone()), (PushStatus::Shutdown, PushStatus::Polling));
    let known = |push: &push::Push| push.trace.as_ref().map(|trace| (trace.status.state, trace.updated_at()));
    let (news, old) = (known(&pushed[0]).context("no trace")?, known(&pushed[1]).context("no trace")?);
    assert_eq!(news.0, ParcelState::Signed);
    ensure!(kuaidi100::advances(Some(old), news) && !kuaidi100::advances(Some(news), old));
    Ok(())
}

#[tokio::test]
async fn failures_of_the_courier_service_have_their_class() -> anyhow::Result<()> {
    let upstreams = Upstreams::start().await?;
    let client = upstreams.parcels()?;
    upstreams.moved(MoveParcel { com: Some("shunfeng".to_owned()), ..state("1") }).await?;
    for (code, class) in
        [("400", Class::Config), ("408", Class::AskPhone), ("500", Class::WaitHalfHour), ("601", Class::Alarm)]
    {
        for errcode in [json!(code), json!(code.parse::<u32>()?)] {
            let mode = FaultMode::Errcode;
            upstreams.sim.fault(Fault { errcode: Some(errcode), ..Fault::new(Target::Kuaidi100, mode, 1) });
            let error = client.query(&query(Some("8000"))).await.unwrap_err();
            assert_eq!(error.class(), class, "{error}");
        }
    }
    for mode in [FaultMode::ServerError, FaultMode::TooMany, FaultMode::Reset, FaultMode::DropAfterCommit] {
        upstreams.sim.fault(Fault::new(Target::Kuaidi100, mode, 1));
        let error = client.query(&query(Some("8000"))).await.unwrap_err();
        assert_eq!(error.class(), Class::Retry, "{mode:?}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn the_bill_of_yesterday_is_what_was_paid() -> anyhow::Result<()> {
    let upstreams = Upstreams::start().await?;
    let client = upstreams.pay()?;
    let transaction_id = upstreams.paid(&client, "jl_bill-1").await?;
    upstreams.paid(&client, "jl_bill-2").await?;
    let refund = RefundRequest {
        transaction_id: &transaction_id,
        out_refund_no: "jl_refund-1",
        refund_fen: 234,
        total_fen: 1234,
        reason: "不要了",
        notify_url: &upstreams.inbox,
    };
    client.refund(&refund).await?;
    assert_eq!(client.query_refund("jl_refund-1").await?.map(|refund| refund.status), Some(RefundStatus::Success));

    let day: NaiveDate = "2026-11-21".parse()?;
    // Midnight in Beijing is past, ten in the morning is not.
    upstreams.advance(TimeDelta::hours(15));
    let early = client.bill(day, BillKind::Trade, true).await.unwrap_err();
    ensure!(matches!(early, BillError::Creating), "{early}");
    upstreams.advance(TimeDelta::hours(9));
    let none = client.bill(day - TimeDelta::days(1), BillKind::Trade, true).await.unwrap_err();
    ensure!(matches!(none, BillError::NoStatement), "{none}");

    for (kind, gzip, n_rows) in [
        (BillKind::Trade, true, 3),
        (BillKind::Trade, false, 3),
        (BillKind::TradeSuccess, true, 2),
        (BillKind::TradeRefund, false, 1),
    ] {
        let ticket = client.bill(day, kind, gzip).await?;
        let file = client.download_bill(&ticket).await?;
        let mut bill = TradeBill::new(file.as_slice())?;
        let rows = bill.by_ref().collect::<Result<Vec<_>, _>>()?;
        assert_eq!(bill.summary().map(|summary| summary.n_rows), Some(n_rows), "{kind:?}");
        for row in &rows {
            assert_eq!(row.mchid, keys::MCHID);
            match (&row.state, &row.refund) {
                (BillState::Success, None) => assert_eq!((row.total_fen, row.settlement_fen), (Some(1234), 1234)),
                (BillState::Refund, Some(refund)) => {
                    assert_eq!((refund.out_refund_no.as_str(), refund.refund_fen), ("jl_refund-1", 234));
                    assert_eq!(refund.applied_at.is_some(), kind == BillKind::TradeRefund);
                }
                other => anyhow::bail!("{other:?}"),
            }
        }
    }
    let ticket = client.bill(day, BillKind::Trade, false).await?;
    let path = Some("/billdownload".to_owned());
    upstreams.sim.fault(Fault { path, ..Fault::new(Target::Wxpay, FaultMode::BadSignature, 1) });
    ensure!(matches!(client.download_bill(&ticket).await, Err(BillError::Digest)));
    upstreams.advance(TimeDelta::minutes(6));
    ensure!(matches!(client.download_bill(&ticket).await, Err(BillError::Expired)));
    Ok(())
}

#[tokio::test]
async fn a_refund_of_the_portal_is_a_hint_to_query() -> anyhow::Result<()> {
    let upstreams = Upstreams::start().await?;
    let client = upstreams.pay()?;
    upstreams.paid(&client, "jl_portal-1").await?;
    let key = ApiV2Key::new(keys::API_V2_KEY)?;
    let verifier = Verifier::new(Upstreams::platform_keys()?, ApiV3Key::new(keys::API_V3_KEY)?);
    for mode in [LegacyMode::Once, LegacyMode::WrongAmount, LegacyMode::WrongKey, LegacyMode::Doctype] {
        let refund = LegacyRefund {
            out_trade_no: Some("jl_portal-1".to_owned()),
            refund_fen: Some(100),
            notify: Some(mode),
            ..LegacyRefund::default()
        };
        upstreams.sim.legacy_refund(&refund).await.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        let body = upstreams.taken().remove(0);
        let judged = verifier.verify(&HeaderMap::new(), &body, upstreams.now());
        ensure!(matches!(judged, Err(NoticeError::LegacyXml)), "{judged:?}");
        let read = legacy::read_refund(&body, &key);
        match mode {
            LegacyMode::WrongKey => assert_eq!(read, Err(LegacyError::Sealed)),
            LegacyMode::Doctype => assert_eq!(read, Err(LegacyError::Xml)),
            _ => {
                let claimed = read?;
                assert_eq!((claimed.mchid.as_str(), claimed.appid.as_str()), (keys::MCHID, keys::APPID));
                assert_eq!(claimed.source.as_deref(), Some("VENDOR_PLATFORM"));
                let known = client.query_refund(&claimed.out_refund_no).await?.context("no such refund")?;
                assert_eq!((known.status, known.amount_refund), (RefundStatus::Success, 100));
                assert_eq!(claimed.refund_fen == known.amount_refund, mode == LegacyMode::Once);
            }
        }
    }
    Ok(())
}
