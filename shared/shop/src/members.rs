//! Who a caller is to the shop.

use domain::{Code, Failure, OpenId};
use store::Store;
use store::members::Member;

/// The member with this openid; `USER_BLOCKED` if the shop has blocked them, `unknown` if they never signed in.
///
/// A user who is unknown must sign in (`UNAUTHENTICATED`); a service that names somebody unknown is told `NOT_FOUND`.
pub async fn active_member(store: &Store, open_id: &OpenId, unknown: Code) -> Result<Member, Failure> {
    match store.member_by_open_id(open_id).await? {
        Some(member) if member.blocked => Err(Code::UserBlocked.into()),
        Some(member) => Ok(member),
        None => Err(unknown.into()),
    }
}
