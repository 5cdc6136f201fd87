//! `linkUserToCustomer`: a user who has proven a phone becomes the CRM's customer with that phone.

use domain::{Code, Failure, Refusal, text};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::linking::{self, Proven};
use shop::members::{active_member, mobile_phone};
use store::members::Member;
use store::verify::{CodeSubject, RightCode};
use wechat::open;

pub fn function() -> Function {
    Function::new("linkUserToCustomer", handle)
        .summary("将微信用户关联到客户")
        .accepts(&[Accept::User, Accept::Service("customers")])
        .needs(&[Need::Store, Need::Session, Need::OpenApi, Need::VerifyCodes])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    /// Services name the user; a user may name only themselves.
    open_id: Option<String>,
    /// The customer's mobile number. May be left out with `phoneCode`.
    phone: Option<String>,
    /// From the message that `sendSMS` sent to `phone`.
    verify_code: Option<String>,
    /// From the phone-number button, instead of `verifyCode`.
    phone_code: Option<String>,
    /// Decides if several customers have the phone.
    name: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    customer_id: String,
    linked_records: u64,
    message: String,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let open_id = ctx.caller.acting_open_id(given(&input.open_id))?;
    let name = given(&input.name).map(|name| text::clean("name", name, 50)).transpose()?;
    let phone = given(&input.phone).map(|phone| mobile_phone("phone", phone)).transpose()?;
    let member = active_member(ctx.store(), &open_id, ctx.caller.code_if_unknown()).await?;

    // Before the proof, which is good for one time only.
    let key = ctx.command_key();
    if let Some(key) = &key
        && let Some(done) = ctx.store().replay::<Output>(key).await?
    {
        return Ok(Reply::of(&done.value)?.with_replayed(true));
    }
    let (phone, code) = prove(&ctx, &input, &member, phone).await?;
    let proven = Proven { user: member.id, open_id, phone, name, code };

    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (proven, now) = (&proven, ctx.now);
            Box::pin(async move {
                let linked = linking::link(tx, proven, now).await?;
                Ok(Output {
                    customer_id: linked.customer.as_str().to_owned(),
                    linked_records: linked.records,
                    message: "关联成功".to_owned(),
                })
            })
        })
        .await
        .map_err(linking::refusal_of_clash)?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

/// An empty text counts as none: clients send forms as they are.
fn given(field: &Option<String>) -> Option<&str> {
    field.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

/// The phone that is proven to be the member's, with the code that is to be consumed for it.
async fn prove(
    ctx: &Context,
    input: &Input,
    member: &Member,
    phone: Option<String>,
) -> Result<(String, Option<RightCode>), Failure> {
    let missing_phone = || Refusal::invalid("phone", "请填写手机号");
    if matches!(ctx.caller, Caller::Service { .. }) {
        return Ok((phone.ok_or_else(missing_phone)?, None));
    }
    match (given(&input.verify_code), given(&input.phone_code)) {
        (Some(code), None) => {
            let phone = phone.ok_or_else(missing_phone)?;
            if code.len() != 6 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Refusal::invalid("verifyCode", "验证码应为 6 位数字").into());
            }
            let subject = CodeSubject { user: &member.id, phone: &phone, purpose: "bind" };
            let right = ctx.store().try_code(ctx.verify_codes()?, &subject, code, ctx.now).await?;
            Ok((phone, Some(right)))
        }
        (None, Some(code)) => {
            if code.len() > 256 || !code.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Refusal::invalid("phoneCode", "phoneCode 格式不正确").into());
            }
            let number = ctx.open_api()?.phone_number(code, Some(member.open_id.as_str())).await.map_err(refused)?;
            let proven = mobile_phone("phoneCode", &number.pure_phone_number.into_string())?;
            if phone.is_some_and(|phone| phone != proven) {
                let message = "微信授权的手机号与填写的不一致";
                return Err(Refusal::new(Code::VerifyCodeInvalid)
                    .with_message(message)
                    .detail("field", "phone")
                    .into());
            }
            Ok((proven, None))
        }
        (None, None) => Err(Refusal::invalid("verifyCode", "请填写验证码").into()),
        (Some(_), Some(_)) => Err(Refusal::invalid("phoneCode", "verifyCode 与 phoneCode 只能填写一个").into()),
    }
}

/// WeChat's refusals that the user can do something about; everything else is an upstream failure.
fn refused(error: open::Error) -> Failure {
    match error {
        open::Error::InvalidCode { .. } => Refusal::new(Code::VerifyCodeInvalid)
            .with_message("手机号授权无效或已过期，请重新授权")
            .detail("field", "phoneCode")
            .into(),
        open::Error::Blocked { .. } => Code::UserBlocked.into(),
        open::Error::RateLimited { .. } => Refusal::new(Code::RateLimited).detail("retryAfterSeconds", 60).into(),
        other => other.into(),
    }
}
