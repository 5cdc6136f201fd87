//! `logisticsCallback`: the news of parcels that Kuaidi100 pushes.
//!
//! The raw form is verified before anything is read from it. What is not answered as Kuaidi100 wants it is repeated three times,
//! 35 minutes apart; taking the same push twice does no harm.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, RawReply, RawRequest};
use providers::kuaidi100::Account;
use providers::kuaidi100::push::{ACCEPTED, PushError};
use serde_json::json;
use shop::parcels::{self, Received};

pub fn function() -> Function {
    Function::raw("logisticsCallback", handle)
        .summary("快递100 物流推送")
        .accepts(&[Accept::Provider])
        .needs(&[Need::Store])
        .timeout(Duration::from_secs(10))
}

fn refused(status: u16, message: &str) -> RawReply {
    RawReply { status, body: Some(json!({ "result": false, "returnCode": "500", "message": message })) }
}

async fn handle(ctx: Context, request: RawRequest) -> Result<RawReply, Failure> {
    let Some(account) = ctx.kuaidi100() else {
        tracing::warn!("a push came, but Kuaidi100 is not configured here");
        return Ok(refused(503, "未启用物流推送"));
    };
    let name = Account::subscription_of(&request.query);
    let Some((name, (reference, n))) = name.and_then(|name| Some((name, parcels::read_name(name)?))) else {
        return Ok(refused(400, "推送地址不正确"));
    };
    let push = match account.prove(name, &request.body) {
        Ok(push) => push,
        Err(error) => {
            tracing::warn!(%error, "a push was refused");
            return Ok(match error {
                PushError::Unsigned | PushError::Signature => refused(401, "签名验证失败"),
                _ => refused(400, "推送格式不正确"),
            });
        }
    };
    let received = parcels::receive(ctx.store(), &ctx.rules().tells, reference, n, &push, ctx.now).await?;
    match received {
        Received::Taken | Received::Repeated => {
            let body = serde_json::from_str(ACCEPTED).map_err(|error| Failure::Internal(Box::new(error)))?;
            Ok(RawReply { status: 200, body: Some(body) })
        }
        Received::Unknown => {
            tracing::warn!("a push about a parcel that is not there");
            Ok(refused(404, "单号未知"))
        }
        Received::OtherParcel => {
            tracing::error!("a push about another parcel than the one that was subscribed to");
            Ok(refused(400, "单号与订阅不符"))
        }
    }
}
