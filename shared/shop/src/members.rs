//! Who a caller is to the shop.

use domain::{Code, Failure, OpenId, OrderId, Refusal};
use store::Store;
use store::members::Member;
use store::orders::Order;

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

/// A mainland mobile number as it is stored: eleven digits. `+86` in front is accepted, spaces and dashes are not.
pub fn mobile_phone(field: &str, text: &str) -> Result<String, Refusal> {
    let national = text.trim();
    let national = national.strip_prefix("+86").unwrap_or(national);
    let digits = national.len() == 11 && national.bytes().all(|byte| byte.is_ascii_digit());
    if digits && matches!(national.as_bytes(), [b'1', b'3'..=b'9', ..]) {
        Ok(national.to_owned())
    } else {
        Err(Refusal::invalid(field, "请填写正确的手机号"))
    }
}

/// An order's id as it came in. `INVALID_ARGUMENT` on `orderId`
pub fn order_id(id: Option<&str>) -> Result<OrderId, Refusal> {
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| Refusal::invalid("orderId", "请指定 orderId"))?;
    OrderId::parse(id).map_err(|_| Refusal::invalid("orderId", "orderId 格式不正确"))
}

/// The order, if `owner` bought it; without one the shop itself looks. `ORDER_NOT_FOUND`, `FORBIDDEN`
pub async fn visible_order(store: &Store, id: Option<&str>, owner: Option<&OpenId>) -> Result<Order, Failure> {
    let order = store.order(&order_id(id)?).await?.ok_or(Code::OrderNotFound)?;
    if let Some(owner) = owner
        && order.user_id != active_member(store, owner, Code::Unauthenticated).await?.id
    {
        return Err(Code::Forbidden.into());
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::mobile_phone;

    #[test]
    fn phones_are_eleven_digits_with_or_without_the_country() {
        for good in ["13800138000", "+8613800138000", " 19900000001 "] {
            assert_eq!(mobile_phone("phone", good).map(|p| p.len()).ok(), Some(11), "{good}");
        }
        for bad in [
            "",
            "12800138000",
            "1380013800",
            "138001380000",
            "+85213800138000",
            "138-0013-8000",
            "１３８００１３８０００",
        ] {
            assert_eq!(mobile_phone("phone", bad).unwrap_err().details["field"], "phone", "{bad}");
        }
    }
}
