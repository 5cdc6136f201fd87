//! Real names: verifying, erasing, showing one to staff.
//!
//! A number is compared by its blind indexes and leaves only sealed. *Unknown* is never *verified*: whatever the outside service
//! does other than confirm leads to a refusal or a failure.

use chrono::{DateTime, Utc};
use domain::id_card::{IdNumber, RealName};
use domain::vault::{FieldKeys, IndexKeys, VaultError};
use domain::{BusinessDay, Code, Failure, Refusal, UserId};
use providers::faceid::{self, FaceIdError, TencentFaceId, Verdict};
use store::Store;
use store::identities::{AccessLog, Actor, Confirmation, Consent, Identity, taken};
use store::members::Member;
use store::rotation::ID_LABEL;

/// What sealing and finding take.
pub struct Vault<'a> {
    pub field_keys: &'a FieldKeys,
    pub index_keys: &'a IndexKeys,
}

/// What a user wants verified.
pub struct Claim {
    pub name: RealName,
    pub number: IdNumber,
    pub consent: Consent,
}

/// Somebody's verified name and number, in clear.
pub struct Revealed {
    pub name: String,
    pub number: String,
    pub identity: Identity,
}

/// Verifies a member. The flag is true if they were verified with this number before; with another one it is `CONFLICT`, and so is
/// a number that another user has. `RATE_LIMITED`, `ID_CARD_INVALID` with a `reason`, `UPSTREAM_ERROR` while nobody knows.
pub async fn verify(
    store: &Store,
    provider: Option<&TencentFaceId>,
    vault: &Vault<'_>,
    member: &Member,
    claim: &Claim,
    now: DateTime<Utc>,
) -> Result<(Identity, bool), Failure> {
    let index = vault.index_keys.of(ID_LABEL, claim.number.expose()).map_err(broken)?;
    let known = |identity: Identity| match identity.is_of(&index) {
        true => Ok((identity, true)),
        false => Err(Failure::from(already())),
    };
    // Also for who is verified: the answer to a right number differs, and the masked one leaves few to try.
    store.count_identity_try(&member.id, &index, now).await?;
    if let Some(identity) = store.identity(&member.id).await?.filter(Identity::is_live) {
        return known(identity);
    }
    // Before the outside service is asked, for its answer would be paid for nothing.
    if store.number_is_anothers(&index, &member.id).await? {
        return Err(taken().into());
    }
    let confirmation = match provider {
        Some(provider) => {
            store.count_identity_question(&member.id, now).await?;
            Some(confirm(provider, claim, now).await?)
        }
        None => None,
    };
    store::crashpoint("identity.confirmed").await;

    let seal = |field: &str, text: &str| {
        let place = Identity::place(&member.id, field);
        vault.field_keys.seal(store::random()?, &place, text.as_bytes()).map_err(broken)
    };
    let identity = Identity {
        user_id: member.id.clone(),
        real_name: Some(seal("realName", claim.name.expose())?),
        id_card: Some(seal("idCard", claim.number.expose())?),
        id_index: index.clone(),
        masked_name: Some(claim.name.masked()),
        masked_id_card: Some(claim.number.masked()),
        provider: confirmation,
        verified_at: Some(now),
        erased_at: None,
        consent: claim.consent.clone(),
        earlier_consents: Vec::new(),
    };
    let row = &identity;
    let stored = store
        .transaction(|tx, _| {
            Box::pin(async move {
                // The member was read a moment ago.
                let stored = tx.put_identity(row.clone()).await?.ok_or(Code::UserBlocked)?;
                store::crashpoint("identity.inside").await;
                Ok(stored)
            })
        })
        .await;
    match stored {
        Ok(identity) => Ok((identity, false)),
        // A twin of this call, or another user with the same number, was first.
        Err(error) if error.is_duplicate_of("identities") => match store.identity(&member.id).await? {
            Some(identity) if identity.is_live() => known(identity),
            _ => Err(taken().into()),
        },
        Err(error) => Err(error.into()),
    }
}

async fn confirm(provider: &TencentFaceId, claim: &Claim, now: DateTime<Utc>) -> Result<Confirmation, Failure> {
    let checked = provider.check(&claim.name, &claim.number).await.map_err(|error| unknown(error, now))?;
    tracing::info!(result = checked.result, provider_request = checked.request_id, "the register was asked");
    match checked.verdict {
        Verdict::Match => Ok(Confirmation {
            name: faceid::NAME.to_owned(),
            result: checked.result,
            request_id: checked.request_id,
            at: checked.at,
        }),
        Verdict::Mismatch => Err(invalid("mismatch", "姓名与身份证号码不一致，请核对").into()),
        Verdict::NoRecord => Err(invalid("noRecord", "未查询到该证件信息，请核对；如确认无误请联系客服").into()),
    }
}

fn invalid(reason: &str, message: &'static str) -> Refusal {
    Refusal::new(Code::IdCardInvalid).with_message(message).detail("field", "idCard").detail("reason", reason)
}

/// The register gave no answer about the person.
fn unknown(error: FaceIdError, now: DateTime<Utc>) -> Failure {
    match error {
        FaceIdError::DailyLimit(_) => Refusal::new(Code::RateLimited)
            .with_message("该证件今日核验次数已达上限，请明天再试")
            .detail("retryAfterSeconds", BusinessDay::of(now).end().signed_duration_since(now).num_seconds().max(1))
            .into(),
        FaceIdError::Refused(_) => invalid("refused", "姓名或身份证号码未被受理，请核对").into(),
        error if error.is_configuration() => Failure::Internal(Box::new(error)),
        error => Failure::Upstream(Box::new(error)),
    }
}

fn already() -> Refusal {
    Refusal::new(Code::Conflict).with_message("您已用其他证件完成实名认证").detail("reason", "otherNumber")
}

/// Withdraws the consent: the name, the number and its indexes go, the consents stay. False if there was nothing.
/// `CONFLICT` while an order of the points mall needs the verification.
pub async fn erase(store: &Store, user: &UserId, now: DateTime<Utc>) -> Result<bool, Failure> {
    let erased = store
        .transaction(|tx, _| {
            Box::pin(async move {
                if let Some(order) = tx.open_mall_order(user).await? {
                    let refusal = Refusal::new(Code::Conflict)
                        .with_message("您有未完成的积分商城订单，订单完成后才能撤回实名信息")
                        .detail("reason", "openOrder")
                        .detail("orderId", order.as_str());
                    return Err(refusal.into());
                }
                tx.erase_identity(user, now).await
            })
        })
        .await;
    Ok(erased?)
}

/// Who looks, and why.
pub struct Look<'a> {
    pub staff: &'a str,
    pub role: &'a str,
    pub reason: &'a str,
    pub trace_id: &'a str,
}

/// Opens a member's name and number for staff, after recording it. `NOT_FOUND` if there is none.
pub async fn reveal(
    store: &Store,
    keys: &FieldKeys,
    user: &UserId,
    look: &Look<'_>,
    now: DateTime<Utc>,
) -> Result<Revealed, Failure> {
    let identity = store.identity(user).await?.ok_or(Code::NotFound)?;
    let (Some(name), Some(number)) = (&identity.real_name, &identity.id_card) else {
        return Err(Code::NotFound.into());
    };
    let log = AccessLog {
        id: hex::encode(rand::random::<[u8; 16]>()),
        at: now,
        actor: Actor { kind: "staff".to_owned(), id: look.staff.to_owned() },
        role: Some(look.role.to_owned()),
        user_id: user.clone(),
        collection: "identities".to_owned(),
        fields: vec!["realName".to_owned(), "idCard".to_owned()],
        purpose: "reveal".to_owned(),
        reason: Some(look.reason.to_owned()),
        trace_id: look.trace_id.to_owned(),
    };
    store.log_access(&[log]).await?;
    store::crashpoint("identity.logged").await;
    let open = |field: &str, sealed: &str| {
        let plain = keys.open(&Identity::place(user, field), sealed).map_err(broken)?;
        String::from_utf8(plain).map_err(|_| Failure::invariant(format!("identities/{user}: {field} is no text")))
    };
    Ok(Revealed { name: open("realName", name)?, number: open("idCard", number)?, identity })
}

fn broken(error: VaultError) -> Failure {
    Failure::Internal(Box::new(error))
}
