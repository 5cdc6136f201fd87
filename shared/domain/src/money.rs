//! Money and points. Inside the system money is whole fen; yuan exist only on the wire.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// No single amount, total or balance may exceed 100,000,000,000.00 yuan, which an `f64` of yuan still holds exactly.
pub const MAX_FEN: i64 = 10_000_000_000_000;

/// No member may hold more points.
pub const POINTS_MAX: i64 = 1_000_000_000_000;

/// Why a number is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    #[error("金额格式不正确")]
    NotANumber,
    #[error("金额最多两位小数")]
    TooPrecise,
    #[error("金额不能为负数")]
    Negative,
    #[error("金额超出范围")]
    OutOfRange,
}

/// Reads a whole number that JavaScript may have stored as int32, int64 or double.
struct WholeVisitor;

impl Visitor<'_> for WholeVisitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<i64, E> {
        Ok(v)
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<i64, E> {
        i64::try_from(v).map_err(E::custom)
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<i64, E> {
        // Display of an integral f64 is its exact decimal expansion, so no cast can lose anything.
        if v.fract() == 0.0 && v.abs() < 9e15 {
            return format!("{v}").parse().map_err(E::custom);
        }
        Err(E::custom("not a whole number"))
    }
}

/// `#[serde(deserialize_with = "domain::money::whole")]` for plain counts in stored documents.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(WholeVisitor)
}

/// `#[serde(default, deserialize_with = "domain::money::whole_option")]` for counts that may be missing.
pub fn whole_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    struct Whole(#[serde(deserialize_with = "whole")] i64);
    Ok(Option::<Whole>::deserialize(deserializer)?.map(|whole| whole.0))
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i64);

        impl $name {
            pub const ZERO: Self = Self(0);

            /// Refuses negative values and values beyond the limit.
            pub fn new(value: i64) -> Result<Self, AmountError> {
                if value < 0 {
                    Err(AmountError::Negative)
                } else if value > $max {
                    Err(AmountError::OutOfRange)
                } else {
                    Ok(Self(value))
                }
            }

            pub const fn get(self) -> i64 {
                self.0
            }

            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }

            pub fn checked_add(self, other: Self) -> Result<Self, AmountError> {
                self.0.checked_add(other.0).ok_or(AmountError::OutOfRange).and_then(Self::new)
            }

            pub fn checked_sub(self, other: Self) -> Result<Self, AmountError> {
                self.0.checked_sub(other.0).ok_or(AmountError::OutOfRange).and_then(Self::new)
            }

            pub fn checked_mul(self, times: i64) -> Result<Self, AmountError> {
                self.0.checked_mul(times).ok_or(AmountError::OutOfRange).and_then(Self::new)
            }

            /// The sum of all, or an error when it leaves the range.
            pub fn sum(items: impl IntoIterator<Item = Self>) -> Result<Self, AmountError> {
                items.into_iter().try_fold(Self::ZERO, Self::checked_add)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_i64(self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(whole(d)?).map_err(de::Error::custom)
            }
        }
    };
}

quantity! {
    /// Whole fen (1/100 yuan), never negative. Stored as Int64.
    Fen, MAX_FEN
}
quantity! {
    /// Whole points, never negative. Stored as Int64.
    Points, POINTS_MAX
}

impl Fen {
    /// Reads yuan written as a decimal: `50`, `50.5`, `"50.00"`. A third decimal is refused, even a zero one.
    pub fn from_yuan_text(text: &str) -> Result<Self, AmountError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
            return Err(AmountError::NotANumber);
        }
        if fraction.len() > 2 {
            return Err(AmountError::TooPrecise);
        }
        if whole.len() > 15 {
            return Err(AmountError::OutOfRange);
        }
        let fen: i64 = format!("{whole}{fraction:0<2}").parse().map_err(|_| AmountError::OutOfRange)?;
        if negative && fen != 0 {
            return Err(AmountError::Negative);
        }
        Self::new(fen)
    }
}

/// An amount on the wire: yuan as a JSON number with at most two decimals, or such a number as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Yuan(pub Fen);

impl fmt::Display for Yuan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fen = self.0.get();
        write!(f, "{}.{:02}", fen.div_euclid(100), fen.rem_euclid(100))
    }
}

impl Serialize for Yuan {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let fen = self.0.get();
        if fen.rem_euclid(100) == 0 {
            return s.serialize_i64(fen.div_euclid(100));
        }
        // Parsing the decimal gives the nearest double, which prints as that decimal again.
        s.serialize_f64(self.to_string().parse().map_err(serde::ser::Error::custom)?)
    }
}

struct YuanVisitor;

impl Visitor<'_> for YuanVisitor {
    type Value = Yuan;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount in yuan")
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Yuan, E> {
        self.visit_str(&v.to_string())
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Yuan, E> {
        self.visit_str(&v.to_string())
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Yuan, E> {
        if !v.is_finite() {
            return Err(E::custom(AmountError::NotANumber));
        }
        // Display gives the shortest decimal that reads back as this double: what the sender wrote.
        self.visit_str(&format!("{v}"))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Yuan, E> {
        Fen::from_yuan_text(v).map(Yuan).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Yuan {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(YuanVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str) -> Result<i64, String> {
        serde_json::from_str::<Yuan>(json).map(|y| y.0.get()).map_err(|e| e.to_string())
    }

    #[test]
    fn yuan_as_old_clients_send_it() {
        for (json, fen) in [
            ("50", 5000),
            ("50.5", 5050),
            ("50.00", 5000),
            ("\"50.00\"", 5000),
            ("\"0.1\"", 10),
            ("0.29", 29),
            ("1.1", 110),
            ("4.35", 435),
            ("-0", 0),
            ("-0.0", 0),
            ("\"-0\"", 0),
            ("1e2", 10000),
            ("99999999999.99", 9_999_999_999_999),
        ] {
            assert_eq!(read(json), Ok(fen), "{json}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for json in [
            "0.001",
            "1.005",
            "\"1.000\"",
            "0.30000000000000004",
            "1e400",
            "\"12.3.4\"",
            "-0.01",
            "-1",
            "\"\"",
            "\" 1\"",
            "\"1e3\"",
            "\"NaN\"",
            "\"+1\"",
            "\".5\"",
            "\"5.\"",
            "\"１\"",
            "null",
            "true",
            "[]",
            "{}",
            "100000000000.01",
            "9223372036854775807",
            "1e22",
            "\"999999999999999999999\"",
            "1e-7",
            "\"-\"",
        ] {
            assert!(read(json).is_err(), "{json} was accepted");
        }
    }

    #[test]
    fn stored_numbers_may_be_doubles_but_only_whole_ones() {
        assert_eq!(serde_json::from_str::<Fen>("100.0").unwrap().get(), 100);
        assert!(serde_json::from_str::<Fen>("100.5").is_err());
        assert!(serde_json::from_str::<Fen>("-1").is_err());
    }

    proptest! {
        #[test]
        fn wire_round_trip_is_exact(fen in 0..=MAX_FEN) {
            let amount = Yuan(Fen::new(fen).unwrap());
            let json = serde_json::to_string(&amount).unwrap();
            prop_assert_eq!(read(&json), Ok(fen));
            prop_assert_eq!(read(&format!("\"{amount}\"")), Ok(fen));
        }

        #[test]
        fn sums_of_cents_never_drift(parts in prop::collection::vec(0i64..100_000, 0..50)) {
            // Adding the same amounts as doubles of yuan would drift; fen cannot.
            let sum = Fen::sum(parts.iter().map(|p| Fen::new(*p).unwrap())).unwrap();
            prop_assert_eq!(sum.get(), parts.iter().sum::<i64>());
        }
    }
}
