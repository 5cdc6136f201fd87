//! `sendSMS`: sends a code by text message, with which a user proves a phone.

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use ring::rand::{SecureRandom, SystemRandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::members::{active_member, mobile_phone};
use shop::views;
use store::verify::{CODE_MINUTES, CodeSubject};

/// What the limits allow next, when nothing but the shortest one stands in the way.
const RETRY_AFTER_SECONDS: i64 = 60;

pub fn function() -> Function {
    Function::new("sendSMS", handle).summary("发送手机验证码").accepts(&[Accept::User]).needs(&[
        Need::Store,
        Need::Session,
        Need::Sms,
        Need::VerifyCodes,
    ])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Purpose {
    Bind,
}

impl Purpose {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Bind => "bind",
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    /// A mainland mobile number; `+86` in front is accepted.
    phone: String,
    /// `bind`: to link the user to their customer record.
    purpose: Purpose,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    expires_at: String,
    retry_after_seconds: i64,
}

/// Nothing here looks at whose phone it is, so the answer tells nothing about it.
async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let phone = mobile_phone("phone", &input.phone)?;
    let member = active_member(ctx.store(), &ctx.caller.acting_open_id(None)?, ctx.caller.code_if_unknown()).await?;
    let key = ctx.command_key();
    if let Some(key) = &key
        && let Some(done) = ctx.store().replay::<Output>(key).await?
    {
        return Ok(Reply::of(&done.value)?.with_replayed(true));
    }

    let subject = CodeSubject { user: &member.id, phone: &phone, purpose: input.purpose.as_str() };
    let (store, secret) = (ctx.store(), ctx.verify_codes()?);
    store.count_sending(&subject, ctx.now).await?;
    let code = new_code()?;
    // Recorded before it is sent: a message whose answer got lost must still work.
    let expires_at = store.put_code(secret, &subject, &code, ctx.now).await?;
    store::crashpoint("sms.recorded").await;
    match ctx.sms()?.send_code(&phone, &code, CODE_MINUTES).await {
        Ok(receipt) => tracing::info!(serial_no = receipt.serial_no, "a verification code was sent"),
        Err(error) => {
            if !error.outcome_unknown() {
                store.drop_code(secret, &subject, &code).await?;
            }
            return Err(error.into());
        }
    }
    let output = Output { expires_at: views::iso(expires_at), retry_after_seconds: RETRY_AFTER_SECONDS };
    if let Some(key) = &key {
        let reply = &output;
        let remember = store.once(Some(key), ctx.now, |_, _| Box::pin(async move { Ok(reply.clone()) }));
        remember.await?;
    }
    Reply::of(&output)
}

/// Six digits from the operating system's generator.
fn new_code() -> Result<String, Failure> {
    let mut bytes = [0u8; 8];
    let random = SystemRandom::new();
    random.fill(&mut bytes).map_err(|_| Failure::invariant("the operating system gave no random bytes"))?;
    // 2^64 is so much more than a million that no code is noticeably likelier than another.
    Ok(format!("{:06}", u64::from_be_bytes(bytes) % 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_six_digits_and_differ() {
        let codes: std::collections::BTreeSet<String> = (0..50).map(|_| new_code().unwrap()).collect();
        assert!(codes.iter().all(|code| code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit())));
        assert!(codes.len() > 40);
    }
}
