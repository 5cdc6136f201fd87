//! Who a caller is to the shop.

use domain::{Code, Failure, OpenId};
use store::Store;
use store::members::Member;

/// The member with this openid; `USER_BLOCKED` if the shop has blocked them, `UNAUTHENTICATED` if they never signed in.
pub async fn active_member(store: &Store, open_id: &OpenId) -> Result<Member, Failure> {
    match store.member_by_open_id(open_id).await? {
        Some(member) if member.blocked => Err(Code::UserBlocked.into()),
        Some(member) => Ok(member),
        None => Err(Code::Unauthenticated.into()),
    }
}
