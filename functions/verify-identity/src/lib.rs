//! `verifyIdentity`: real-name verification, its consent text, withdrawing it, and the one way for staff to see a full number.
//!
//! `requestId` is accepted and not stored: the hash of an input that holds an identity number can be searched for the number.
//! The number itself is the natural key; a repeat finds the user verified.

use domain::id_card::{IdNumber, RealName, holds_a_number};
use domain::{BusinessDay, Code, Failure, Refusal, UserId, text};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shop::identity::{self, Claim, Look, Vault};
use shop::members::active_member;
use shop::views;
use store::identities::{Consent, Identity};

/// What a user agrees to. A changed text needs a new version.
const CONSENT_TEXT: &str = include_str!("../consent.zh-CN.md");
const CONSENT_VERSION: &str = "2026-11-21";
const CONSENT_PURPOSE: &str = "实名认证";
const CONSENT_CHANNEL: &str = "mini-program";

/// The permission of staff who may see numbers.
const PERMISSION: &str = "identity";

const REASON_CHARS_MAX: usize = 200;

pub fn function() -> Function {
    Function::new("verifyIdentity", handle)
        .summary("实名认证")
        .accepts(&[Accept::User, Accept::Staff(PERMISSION)])
        .needs(&[Need::Store, Need::Session, Need::FieldKeys, Need::IndexKeys])
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    /// Verify the caller.
    #[default]
    Verify,
    /// The text to agree to.
    Consent,
    /// Whether the caller is verified.
    Status,
    /// Withdraw the consent: everything stored is erased.
    Erase,
    /// Staff: a user's full name and number; recorded.
    Reveal,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    #[serde(default)]
    action: Action,
    /// The name as it stands on the card.
    real_name: Option<String>,
    /// The 18-character number.
    id_card: Option<String>,
    /// `true`: the text of `consent` was shown and agreed to.
    consent: Option<bool>,
    /// The version that was shown; refused if there is a newer one.
    text_version: Option<String>,
    /// Staff: whose name to show.
    user_id: Option<String>,
    /// Staff: why.
    reason: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    masked_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    masked_id_card: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_time: Option<String>,
}

impl From<Option<Identity>> for Status {
    fn from(identity: Option<Identity>) -> Self {
        let live = identity.filter(Identity::is_live);
        Self {
            verified: live.is_some(),
            verify_time: live.as_ref().and_then(|i| i.verified_at).map(views::iso),
            masked_name: live.as_ref().and_then(|i| i.masked_name.clone()),
            masked_id_card: live.and_then(|i| i.masked_id_card),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConsentText {
    text_version: &'static str,
    text_hash: String,
    text: &'static str,
}

#[derive(Serialize)]
struct Erased {
    verified: bool,
    /// False if there was nothing to erase.
    erased: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Revealed {
    user_id: UserId,
    real_name: String,
    id_card: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_time: Option<String>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    if let Action::Consent = input.action {
        let text_hash = consent_hash();
        return Reply::of(&ConsentText { text_version: CONSENT_VERSION, text_hash, text: CONSENT_TEXT });
    }
    if let Caller::Staff { id, .. } = &ctx.caller {
        return match input.action {
            Action::Reveal => reveal(&ctx, id, &input).await,
            _ => Err(Code::Forbidden.into()),
        };
    }
    let store = ctx.store();
    let member = active_member(store, &ctx.caller.acting_open_id(None)?, Code::Unauthenticated).await?;
    match input.action {
        Action::Verify => {
            let claim = claim(&ctx, &input)?;
            let vault = Vault { field_keys: ctx.field_keys()?, index_keys: ctx.index_keys()? };
            let verified = identity::verify(store, ctx.faceid(), &vault, &member, &claim, ctx.now).await;
            let (identity, replayed) = verified?;
            Ok(Reply::of(&Status::from(Some(identity)))?.with_replayed(replayed))
        }
        Action::Status => Reply::of(&Status::from(store.identity(&member.id).await?)),
        Action::Erase => {
            let erased = identity::erase(store, &member.id, ctx.now).await?;
            Reply::of(&Erased { verified: false, erased })
        }
        Action::Reveal | Action::Consent => Err(Code::Forbidden.into()),
    }
}

fn claim(ctx: &Context, input: &Input) -> Result<Claim, Refusal> {
    if input.consent != Some(true) {
        return Err(Refusal::invalid("consent", "请先阅读并同意实名认证个人信息处理同意书"));
    }
    if input.text_version.as_deref().is_some_and(|version| version != CONSENT_VERSION) {
        return Err(Refusal::invalid("textVersion", "同意书已更新，请重新阅读"));
    }
    let name = input.real_name.as_deref().ok_or_else(|| Refusal::invalid("realName", "请填写姓名"))?;
    let number = input.id_card.as_deref().ok_or_else(|| Refusal::invalid("idCard", "请填写身份证号码"))?;
    Ok(Claim {
        name: RealName::parse(name)?,
        number: IdNumber::parse(number, BusinessDay::of(ctx.now).date())?,
        consent: Consent {
            text_version: CONSENT_VERSION.to_owned(),
            text_hash: consent_hash(),
            at: ctx.now,
            channel: CONSENT_CHANNEL.to_owned(),
            purpose: CONSENT_PURPOSE.to_owned(),
            withdrawn_at: None,
        },
    })
}

async fn reveal(ctx: &Context, staff: &str, input: &Input) -> Result<Reply, Failure> {
    let reason = text::required("reason", input.reason.as_deref().unwrap_or_default(), REASON_CHARS_MAX)?;
    if holds_a_number(&reason) {
        // It is kept in clear.
        return Err(Refusal::invalid("reason", "查看原因中请勿填写证件号码").into());
    }
    let user = input.user_id.as_deref().and_then(|id| UserId::parse(id).ok());
    let user = user.ok_or_else(|| Refusal::invalid("userId", "请指定 userId"))?;
    let look = Look { staff, role: PERMISSION, reason: &reason, trace_id: &ctx.trace_id };
    let shown = identity::reveal(ctx.store(), ctx.field_keys()?, &user, &look, ctx.now).await?;
    Reply::of(&Revealed {
        user_id: user,
        real_name: shown.name,
        id_card: shown.number,
        verify_time: shown.identity.verified_at.map(views::iso),
    })
}

fn consent_hash() -> String {
    hex::encode(Sha256::digest(CONSENT_TEXT.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_its_version_and_what_the_law_asks_for() {
        assert!(CONSENT_TEXT.contains(&format!("版本：{CONSENT_VERSION}")));
        for word in ["处理目的", "信息种类", "腾讯云", "保存期限", "撤回", "14 周岁"] {
            assert!(CONSENT_TEXT.contains(word), "{word}");
        }
        // A changed text without a new version would bear consents that were given to another one.
        assert!(CONSENT_VERSION == "2026-11-21" && consent_hash().starts_with("799366be"), "{}", consent_hash());
    }
}
