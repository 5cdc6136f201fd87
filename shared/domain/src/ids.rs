//! Identifiers. Each kind is its own type, so that two kinds cannot be swapped, and each is checked
//! for length and alphabet when it is parsed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind}")]
pub struct IdError {
    pub kind: &'static str,
}

fn check(kind: &'static str, text: &str, max: usize) -> Result<(), IdError> {
    let ok = !text.is_empty()
        && text.len() <= max
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'|' | b'*' | b'@'));
    if ok { Ok(()) } else { Err(IdError { kind }) }
}

/// `abc***`: enough to recognise one's own, too little to use.
pub fn mask(text: &str) -> String {
    let head: String = text.chars().take(4).collect();
    format!("{head}***")
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $max:literal, $masked:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks length and alphabet.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check(stringify!($name), text, $max)?;
                Ok(Self(text.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                check(stringify!($name), &text, $max)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if $masked { f.write_str(&mask(&self.0)) } else { f.write_str(&self.0) }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id! {
    /// A person as one mini-program knows them. Masked in `Debug` and `Display`; use `as_str` to store it.
    OpenId, 64, true
}
id! {
    /// `member_user._id`.
    UserId, 64, false
}
id! {
    /// `orders._id`, and the base of the payment's `out_trade_no`.
    OrderId, 32, false
}
id! {
    /// `shopProducts._id`.
    ProductId, 64, false
}
id! {
    /// `skus[].skuId` of a product.
    SkuId, 64, false
}
id! {
    /// `customers._id` of the CRM.
    CustomerId, 64, false
}
id! {
    /// `staff._id`: the CRM's id of somebody who is assigned customers.
    StaffId, 64, false
}

id! {
    /// `coupons._id`: what a shop issues.
    CouponId, 64, false
}
id! {
    /// `userCoupons._id`: one coupon that a user holds.
    UserCouponId, 64, false
}
id! {
    /// `freightTemplates._id`.
    TemplateId, 64, false
}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl OrderId {
    /// An order number: Shanghai time to the millisecond, then 40 random bits, 25 characters of `[0-9A-Z]`.
    ///
    /// It sorts by time and is safe as WeChat Pay's `out_trade_no`.
    pub fn generate(now: chrono::DateTime<chrono::Utc>, random: u64) -> Self {
        let shanghai = now + chrono::TimeDelta::hours(8);
        let mut text = shanghai.format("%Y%m%d%H%M%S%3f").to_string();
        for i in (0..8u32).rev() {
            let five_bits = usize::try_from((random >> (i * 5)) & 31).unwrap_or(0);
            if let Some(c) = CROCKFORD.get(five_bits) {
                text.push(char::from(*c));
            }
        }
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personal_ids_are_masked() {
        let id = OpenId::parse("oABCDEFGHIJK").unwrap();
        assert_eq!(format!("{id:?} {id}"), "oABC*** oABC***");
        assert_eq!(id.as_str(), "oABCDEFGHIJK");
    }

    #[test]
    fn bad_ids_do_not_parse() {
        for text in ["", "a b", "订单", "a\0", "{\"$gt\":1}", &"x".repeat(33)] {
            assert!(OrderId::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn order_numbers_sort_by_time_and_use_their_alphabet() {
        let at = |s: &str| s.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        let a = OrderId::generate(at("2026-11-21T15:59:59.999Z"), u64::MAX);
        let b = OrderId::generate(at("2026-11-21T16:00:00.000Z"), 0);
        assert_eq!(a.as_str(), "20261121235959999ZZZZZZZZ");
        assert_eq!(b.as_str(), "2026112200000000000000000");
        assert!(a < b);
        assert!(a.as_str().bytes().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()));
    }
}
