//! What an answer or a push tells about a parcel.
//!
//! Samples write every scalar as text; numbers are read too, and what is null or absent is simply not known.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use domain::ParcelState;

use super::state::ParcelStatus;

/// A parcel's whole history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Kuaidi100's code of the company.
    pub company: Option<String>,
    /// The waybill number.
    pub number: Option<String>,
    /// Where the parcel is.
    pub status: ParcelStatus,
    /// `ischeck`: they consider it signed for. The state decides all the same.
    pub checked: bool,
    /// Newest first.
    pub nodes: Vec<Node>,
    /// Entries left out because their time could not be read.
    pub n_unreadable: usize,
    /// With [`super::ResultForm::Advanced`]: district names from where, through where, to where.
    pub route: Route,
}

impl Trace {
    /// When the newest entry happened.
    pub fn updated_at(&self) -> Option<DateTime<Utc>> {
        self.nodes.first().map(|node| node.at)
    }
}

/// Whether a trace may replace what is known of a parcel, given as state and time of the newest entry: pushes repeat, come late
/// and out of order. Nothing leads back from a receipt, a code nobody knows says nothing, and a trace that is older by its newest
/// entry is not news.
pub fn advances(
    known: Option<(ParcelState, Option<DateTime<Utc>>)>,
    new: (ParcelState, Option<DateTime<Utc>>),
) -> bool {
    match (known, new) {
        (_, (ParcelState::Unknown, _)) => false,
        (None, _) => true,
        (Some((ParcelState::Signed, _)), _) => false,
        (Some((_, Some(known))), (_, Some(new))) => new >= known,
        (Some((_, Some(_))), (_, None)) => false,
        (Some((_, None)), _) => true,
    }
}

/// One entry of a trace. Its text may hold names and phone numbers, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// When.
    pub at: DateTime<Utc>,
    /// What, in the courier's words.
    pub text: String,
    /// Where, if they say.
    pub location: Option<String>,
    /// The state at that moment, with `resultv2`.
    pub status: Option<ParcelStatus>,
    /// `CN` and twelve digits, with `resultv2`.
    pub area_code: Option<String>,
    /// Province, city and district, with `resultv2`.
    pub area_name: Option<String>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("at", &self.at).field("status", &self.status).finish_non_exhaustive()
    }
}

/// Names of districts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Sent from.
    pub from: Option<String>,
    /// Last seen in.
    pub current: Option<String>,
    /// Sent to.
    pub to: Option<String>,
}

/// `yyyy-MM-dd HH:mm:ss` in Beijing, which they write without a zone.
pub fn beijing_time(text: &str) -> Option<DateTime<Utc>> {
    let local = NaiveDateTime::parse_from_str(text.trim(), "%Y-%m-%d %H:%M:%S").ok()?;
    Some(local.checked_sub_signed(TimeDelta::hours(8))?.and_utc())
}

/// Text, or a number or boolean written where text belongs.
pub(super) fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    })
}

/// A list, or nothing where they write null.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<WireNode>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
pub(super) struct WireTrace {
    #[serde(default, deserialize_with = "scalar")]
    pub(super) status: Option<String>,
    #[serde(default, rename = "returnCode", deserialize_with = "scalar")]
    pub(super) return_code: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    pub(super) message: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    state: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    ischeck: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    com: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    nu: Option<String>,
    #[serde(default, deserialize_with = "list")]
    pub(super) data: Vec<WireNode>,
    #[serde(default, rename = "routeInfo")]
    route: Option<WireRoute>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireNode {
    #[serde(default, deserialize_with = "scalar")]
    time: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    ftime: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    context: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    location: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    status_code: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    area_code: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    area_name: Option<String>,
}

#[derive(Deserialize)]
struct WireRoute {
    from: Option<Place>,
    cur: Option<Place>,
    to: Option<Place>,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default, deserialize_with = "scalar")]
    name: Option<String>,
}

impl From<WireTrace> for Trace {
    fn from(wire: WireTrace) -> Self {
        let n_sent = wire.data.len();
        let mut nodes: Vec<Node> = wire.data.into_iter().filter_map(WireNode::read).collect();
        // Stable: entries of one second stay as they were sent, the newer one first.
        nodes.sort_by_key(|node| std::cmp::Reverse(node.at));
        let name = |place: Option<Place>| place.and_then(|place| place.name);
        Self {
            company: wire.com,
            number: wire.nu,
            status: ParcelStatus::of(wire.state.as_deref().unwrap_or_default()),
            checked: wire.ischeck.as_deref() == Some("1"),
            n_unreadable: n_sent.saturating_sub(nodes.len()),
            nodes,
            route: wire
                .route
                .map(|route| Route { from: name(route.from), current: name(route.cur), to: name(route.to) })
                .unwrap_or_default(),
        }
    }
}

impl WireNode {
    fn read(self) -> Option<Node> {
        let at = [&self.ftime, &self.time].into_iter().flatten().find_map(|text| beijing_time(text))?;
        Some(Node {
            at,
            text: self.context.unwrap_or_default(),
            location: self.location,
            status: self.status_code.as_deref().map(ParcelStatus::of),
            area_code: self.area_code,
            area_name: self.area_name,
        })
    }
}
