//! `login`: a `wx.login` code becomes a session token; the member is created on first sight.

use domain::{Code, Failure, Fen, OpenId, Points, Refusal, UserId, Yuan};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::members::{Member, Phone};
use wechat::open;

pub fn function() -> Function {
    Function::new("login", handle).summary("微信登录，换取会话令牌").accepts(&[Accept::Anonymous]).needs(&[
        Need::Store,
        Need::OpenApi,
        Need::Session,
    ])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    /// From `wx.login`; usable once, for five minutes.
    code: String,
    /// From the phone-number button; another code than `code`.
    phone_code: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    token: String,
    expires_at: String,
    user: User,
    is_new: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct User {
    #[serde(rename = "_id")]
    id: String,
    open_id: String,
    nick_name: String,
    phone: Option<String>,
    points: i64,
    level: i64,
    balance: Yuan,
    customer_id: Option<String>,
    is_verified: bool,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let code = code_text("code", &input.code)?;
    let phone_code = input.phone_code.as_deref().map(|c| code_text("phoneCode", c)).transpose()?;

    let api = ctx.open_api()?;
    let session = api.code2session(code).await.map_err(|e| refused("code", e))?;
    let phone = match phone_code {
        None => None,
        Some(code) => {
            let number =
                api.phone_number(code, Some(session.openid.as_str())).await.map_err(|e| refused("phoneCode", e))?;
            Some(number.pure_phone_number.into_string())
        }
    };
    let open_id = OpenId::parse(&session.openid).map_err(|e| Failure::Upstream(e.into()))?;
    let union_id = session.unionid.map(wechat::Personal::into_string);

    let (member, is_new) = find_or_create(&ctx, &open_id, union_id, phone).await?;
    let (token, expires_at) = ctx.issue_user_token(&open_id, member.union_id.as_deref())?;
    Reply::of(&Output {
        token,
        expires_at: shop::views::iso(expires_at),
        user: User {
            id: member.id.as_str().to_owned(),
            open_id: open_id.as_str().to_owned(),
            nick_name: member.nick_name,
            phone: member.phone.map(|p| p.0),
            points: member.points.get(),
            level: member.level,
            balance: Yuan(member.balance),
            customer_id: member.customer_id.map(String::from),
            is_verified: member.is_verified,
        },
        is_new,
    })
}

fn code_text<'a>(field: &str, code: &'a str) -> Result<&'a str, Refusal> {
    let fits = (1..=256).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(code) } else { Err(Refusal::invalid(field, format!("{field} 格式不正确"))) }
}

/// WeChat's refusals that the user can do something about; everything else is an upstream failure.
fn refused(field: &str, error: open::Error) -> Failure {
    match error {
        open::Error::InvalidCode { .. } => Refusal::new(Code::Unauthenticated)
            .with_message("登录凭证无效或已过期，请重试")
            .detail("field", field)
            .into(),
        open::Error::Blocked { .. } => Code::UserBlocked.into(),
        open::Error::RateLimited { .. } => Refusal::new(Code::RateLimited).detail("retryAfterSeconds", 60).into(),
        other => other.into(),
    }
}

async fn find_or_create(
    ctx: &Context,
    open_id: &OpenId,
    union_id: Option<String>,
    phone: Option<String>,
) -> Result<(Member, bool), Failure> {
    let store = ctx.store();
    if store.member_by_open_id(open_id).await?.is_none() {
        let member = Member {
            id: UserId::parse(&format!("u-{:024x}", rand::random::<u128>() >> 32))
                .map_err(|e| Failure::Internal(e.into()))?,
            open_id: open_id.clone(),
            union_id: union_id.clone(),
            nick_name: String::new(),
            phone: phone.clone().map(Phone),
            points: Points::ZERO,
            level: 1,
            balance: Fen::ZERO,
            carry_fen: Fen::ZERO,
            coins_owed: 0,
            points_owed: 0,
            customer_id: None,
            default_address_id: None,
            is_verified: false,
            blocked: false,
            created_at: ctx.now,
        };
        match store.insert_member(&member).await {
            Ok(()) => return Ok((member, true)),
            // Two first sign-ins at once, and the other one made the member; or the phone is somebody else's.
            Err(store::Error::Duplicate { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if phone.is_some() && store.member_by_open_id(open_id).await?.is_none() {
            // One phone proves one member. A second one signs in without it; staff sort out whose it is.
            let member = Member { phone: None, ..member };
            match store.insert_member(&member).await {
                Ok(()) => return Ok((member, true)),
                Err(store::Error::Duplicate { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let mut member = store
        .member_by_open_id(open_id)
        .await?
        .ok_or_else(|| Failure::invariant("the member vanished during login"))?;
    if member.blocked {
        return Err(Code::UserBlocked.into());
    }
    let updated = store.update_member_contact(&member.id, union_id.as_deref(), phone.as_deref()).await;
    let phone = match updated {
        Ok(()) => phone,
        Err(store::Error::Duplicate { .. }) => {
            store.update_member_contact(&member.id, union_id.as_deref(), None).await?;
            None
        }
        Err(error) => return Err(error.into()),
    };
    member.union_id = union_id.or(member.union_id);
    member.phone = phone.map(Phone).or(member.phone);
    Ok((member, false))
}
