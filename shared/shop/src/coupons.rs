//! How coupons look on the wire: yuan and ISO times.

use domain::Yuan;
use domain::coupon::{Benefit, Scope, Terms};
use domain::machine::coupon::State;
use serde::{Deserialize, Serialize};
use store::coupons::{Coupon, UserCoupon};

use crate::views::iso;

/// What a coupon is worth and for what.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TermsView {
    /// `off`, `rate` or `freight`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<Yuan>,
    /// What is still paid, out of 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bp: Option<i64>,
    /// It takes off this much at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<Yuan>,
    pub threshold: Yuan,
    pub scope: Scope,
}

impl From<&Terms> for TermsView {
    fn from(terms: &Terms) -> Self {
        let (kind, off, rate_bp, cap) = match terms.benefit {
            Benefit::Off { off } => ("off", Some(off), None, None),
            Benefit::Rate { rate_bp, cap } => ("rate", None, Some(rate_bp), cap),
            Benefit::Freight { cap } => ("freight", None, None, cap),
        };
        Self {
            kind: kind.to_owned(),
            off: off.map(Yuan),
            rate_bp,
            cap: cap.map(Yuan),
            threshold: Yuan(terms.threshold),
            scope: terms.scope.clone(),
        }
    }
}

/// A coupon that the shop issues.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CouponView {
    pub coupon_id: String,
    pub name: String,
    pub version: i64,
    pub terms: TermsView,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_days: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
    pub claim_from: String,
    pub claim_until: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_user: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    /// How many can still be had; none where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<i64>,
    pub paused: bool,
    pub created_at: String,
}

impl From<&Coupon> for CouponView {
    fn from(coupon: &Coupon) -> Self {
        Self {
            coupon_id: coupon.id.as_str().to_owned(),
            name: coupon.name.clone(),
            version: coupon.terms.version,
            terms: (&coupon.terms).into(),
            valid_days: coupon.valid_days,
            valid_from: coupon.valid_from.map(iso),
            valid_until: coupon.valid_until.map(iso),
            claim_from: iso(coupon.claim_from),
            claim_until: iso(coupon.claim_until),
            per_user: coupon.per_user,
            total: coupon.total,
            left: coupon.total.map(|total| total.saturating_sub(coupon.claimed).max(0)),
            paused: coupon.paused,
            created_at: iso(coupon.created_at),
        }
    }
}

/// A coupon that a user holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserCouponView {
    pub user_coupon_id: String,
    pub coupon_id: String,
    pub name: String,
    pub status: State,
    pub terms: TermsView,
    pub valid_from: String,
    pub valid_until: String,
    /// The order that holds or used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    pub created_at: String,
}

impl From<&UserCoupon> for UserCouponView {
    fn from(coupon: &UserCoupon) -> Self {
        Self {
            user_coupon_id: coupon.id.as_str().to_owned(),
            coupon_id: coupon.coupon_id.as_str().to_owned(),
            name: coupon.name.clone(),
            status: coupon.status,
            terms: (&coupon.terms).into(),
            valid_from: iso(coupon.valid_from),
            valid_until: iso(coupon.valid_until),
            order_id: coupon.order_id.as_ref().map(|id| id.as_str().to_owned()),
            created_at: iso(coupon.created_at),
        }
    }
}
