//! `payCallback`: WeChat Pay's notices of payments and refunds.
//!
//! The raw body is verified before anything is read from it. WeChat wants an answer within five seconds, repeats what is not
//! answered 2xx for a day, and repeats more often than that; settling does not mind.
//!
//! Refunds of the merchant portal are told in the XML of APIv2, which proves nothing: WeChat is asked for the refund, and only
//! the answer counts.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, RawReply, RawRequest};
use serde_json::{Value, json};
use shop::after_sale::wechat::{self as after_sale, Seen};
use shop::deliver::Deliverer;
use shop::refunds;
use shop::settle::{Merchant, Settlement, settle};
use wechat::crypto::SignatureError;
use wechat::pay::Client;
use wechat::pay::legacy::{self, ApiV2Key};
use wechat::pay::notice::{Notice, NoticeError, NoticeResource};

pub fn function() -> Function {
    Function::raw("payCallback", handle)
        .summary("微信支付通知（支付与退款）")
        .accepts(&[Accept::Provider])
        .needs(&[Need::Store, Need::Pay])
        .timeout(Duration::from_secs(10))
}

const ACCEPTED: RawReply = RawReply { status: 204, body: None };

fn refused(status: u16, message: &str) -> RawReply {
    RawReply { status, body: Some(json!({ "code": "FAIL", "message": message })) }
}

async fn handle(ctx: Context, request: RawRequest) -> Result<RawReply, Failure> {
    let pay = ctx.pay()?;
    if let Some(key) = ctx.app.api_v2_key().filter(|_| request.body.trim_ascii_start().starts_with(b"<")) {
        return Ok(legacy_notice(&ctx, pay, key, &request.body).await);
    }
    let notice = match verified(&ctx, pay, &request).await {
        Ok(notice) => notice,
        Err(error) => {
            tracing::warn!(%error, "a notice was refused");
            return Ok(match error {
                NoticeError::Signature(_) => refused(401, "签名验证失败"),
                // Our key may be the wrong one: WeChat should try again after it is put right.
                NoticeError::Decrypt(_) => refused(500, "解密失败"),
                _ => refused(400, "通知格式不正确"),
            });
        }
    };
    match notice.resource {
        NoticeResource::Transaction(transaction) => {
            let settled =
                settle(ctx.store(), Merchant::of(pay), ctx.rules(), &transaction, "callback", ctx.now).await?;
            if matches!(settled, Settlement::Exception(_)) {
                refund_at_once(&ctx, transaction.transaction_id.as_deref().unwrap_or_default()).await;
            }
        }
        NoticeResource::Refund(refund) => refunded(&ctx, pay, &Seen::of_notice(&refund)).await?,
        _ => tracing::warn!(event = notice.event_type, "a notice of an unknown kind"),
    }
    Ok(ACCEPTED)
}

/// Acts on what is proven of a refund: one of an order, one of money that fits no order, or one that we never asked for.
async fn refunded(ctx: &Context, pay: &Client, seen: &Seen<'_>) -> Result<(), Failure> {
    let (store, tells) = (ctx.store(), &ctx.rules().tells);
    if after_sale::noticed(store, pay, seen, tells, ctx.now).await?
        || refunds::record_status(store, seen, tells, ctx.now).await?
    {
        return Ok(());
    }
    after_sale::record_portal_refund(store, pay, seen.out_refund_no, ctx.now).await
}

/// A notice of APIv2, answered in its own form.
async fn legacy_notice(ctx: &Context, pay: &Client, key: &ApiV2Key, body: &[u8]) -> RawReply {
    let reply = |status, text: &str| RawReply { status, body: Some(Value::from(text)) };
    let claimed = match legacy::read_refund(body, key) {
        Ok(claimed) if (claimed.mchid.as_str(), claimed.appid.as_str()) == (pay.mchid(), pay.appid()) => claimed,
        Ok(_) => {
            tracing::warn!("a notice of APIv2 for somebody else was refused");
            return reply(400, legacy::REFUSED);
        }
        Err(error) => {
            tracing::warn!(%error, "a notice of APIv2 was refused");
            return reply(400, legacy::REFUSED);
        }
    };
    match legacy_refund(ctx, pay, &claimed.out_refund_no).await {
        Ok(()) => reply(200, legacy::ACCEPTED),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "a notice of APIv2 could not be confirmed");
            reply(500, legacy::REFUSED)
        }
    }
}

/// Only the number is taken from the notice; everything else WeChat is asked for.
async fn legacy_refund(ctx: &Context, pay: &Client, out_refund_no: &str) -> Result<(), Failure> {
    let found = pay.query_refund(out_refund_no).await?;
    let found = found.ok_or_else(|| Failure::Upstream("WeChat does not know the refund".into()))?;
    refunded(ctx, pay, &Seen::of(&found, "query")).await
}

/// The notice, proven at one of the times that count as now for others.
async fn verified(ctx: &Context, pay: &Client, request: &RawRequest) -> Result<Notice, NoticeError> {
    let mut outcome = pay.verify_notice(&request.headers, &request.body, ctx.now).await;
    for now in ctx.app.clock.client_times().into_iter().skip(1) {
        if matches!(outcome, Err(NoticeError::Signature(SignatureError::Stale { .. }))) {
            outcome = pay.verify_notice(&request.headers, &request.body, now).await;
        }
    }
    outcome
}

/// A first try within the time WeChat gives us; whatever it leaves undone is the timer's.
async fn refund_at_once(ctx: &Context, transaction_id: &str) {
    let clock = || ctx.app.clock.now();
    let deliverer = Deliverer {
        store: ctx.store(),
        pay: ctx.pay().ok(),
        open: None,
        sms: None,
        kuaidi100: None,
        text_template: None,
        templates: &ctx.app.config.templates,
        tells: &ctx.rules().tells,
        clock: &clock,
    };
    let limit = ctx.time_left().min(Duration::from_secs(4));
    let item = [refunds::item_id(&refunds::refund_no(transaction_id))];
    match tokio::time::timeout(limit, deliverer.deliver_ids(&item)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the refund waits for the timer"),
        Err(_) => tracing::warn!("the refund takes too long and waits for the timer"),
    }
}
