//! Instants in documents: a BSON date in the store, `chrono` in Rust. For `#[serde(with = "…")]`.

use bson::DateTime;
use chrono::{DateTime as ChronoDateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub fn serialize<S: Serializer>(at: &ChronoDateTime<Utc>, s: S) -> Result<S::Ok, S::Error> {
    DateTime::from_chrono(*at).serialize(s)
}

pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ChronoDateTime<Utc>, D::Error> {
    DateTime::deserialize(d).map(|at| at.to_chrono())
}

/// The same for an instant that may be absent; absent fields are not written.
pub mod option {
    use super::*;

    pub fn serialize<S: Serializer>(at: &Option<ChronoDateTime<Utc>>, s: S) -> Result<S::Ok, S::Error> {
        at.map(DateTime::from_chrono).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<ChronoDateTime<Utc>>, D::Error> {
        Ok(Option::<DateTime>::deserialize(d)?.map(|at| at.to_chrono()))
    }
}

/// As a BSON value, for queries.
pub(crate) fn bson(at: ChronoDateTime<Utc>) -> bson::Bson {
    bson::Bson::DateTime(DateTime::from_chrono(at))
}
