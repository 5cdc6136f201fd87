//! What an operator enters, checked field by field.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::coupon::{Benefit, Definition, Scope, Terms, Validity, Window};
use domain::{CouponId, Fen, ProductId, Refusal, Yuan, text};
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Action {
    Create,
    Update,
    Pause,
    Grant,
    List,
    Stats,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Input {
    pub action: Action,
    /// For all but `list`: 1 to 64 of `[0-9A-Za-z_.-]`; for `create` the id that it shall have.
    pub coupon_id: Option<String>,
    /// For `update`: the version that was seen.
    pub version: Option<i64>,
    /// For `create` and `update`: the whole definition.
    pub coupon: Option<CouponInput>,
    /// For `pause`: false resumes it.
    pub paused: Option<bool>,
    /// For `grant`: 1 to 100 users.
    pub open_ids: Option<Vec<String>>,
    /// For `list`: 1 to 100, 20 unless given.
    pub limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    pub after: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Kind {
    /// 满减
    Off,
    /// 折扣
    Rate,
    /// 免运费
    Freight,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CouponInput {
    name: String,
    #[serde(rename = "type")]
    kind: Kind,
    /// For `off`.
    #[schemars(with = "Option<f64>")]
    off: Option<Yuan>,
    /// For `rate`: what is still paid, out of 10000; 8500 is 85 折.
    rate_bp: Option<i64>,
    /// For `rate` and `freight`: it takes off this much at most.
    #[schemars(with = "Option<f64>")]
    cap: Option<Yuan>,
    /// What the goods in scope must be worth; none unless given.
    #[schemars(with = "Option<f64>")]
    threshold: Option<Yuan>,
    /// Only goods of these categories.
    categories: Option<Vec<String>>,
    /// Only these products.
    product_ids: Option<Vec<String>>,
    /// Usable from the claim until the end of the Shanghai day so many days later.
    valid_days: Option<i64>,
    /// Or in one window for everybody; RFC 3339.
    valid_from: Option<String>,
    /// RFC 3339; not at it any more.
    valid_until: Option<String>,
    /// RFC 3339.
    claim_from: String,
    /// RFC 3339; not at it any more.
    claim_until: String,
    /// Coupons that one user may claim in all; no limit unless given.
    per_user: Option<i64>,
    /// Coupons that may be handed out in all; no limit unless given.
    total: Option<i64>,
    paused: Option<bool>,
}

impl Input {
    pub(crate) fn id(&self) -> Result<CouponId, Refusal> {
        let id = self.coupon_id.as_deref().ok_or_else(|| Refusal::invalid("couponId", "请填写 couponId"))?;
        CouponId::parse(id).map_err(|_| Refusal::invalid("couponId", "couponId 格式不正确"))
    }

    /// The definition that was entered, checked by the rules.
    pub(crate) fn definition(&self, id: CouponId, version: i64) -> Result<Definition, Refusal> {
        let coupon = self.coupon.as_ref().ok_or_else(|| Refusal::invalid("coupon", "请填写 coupon"))?;
        let definition = coupon.parse(id, version)?;
        definition.check()?;
        Ok(definition)
    }
}

fn needed<T>(field: &str, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::invalid(field, format!("缺少字段 {field}")))
}

fn instant(field: &str, text: &str) -> Result<DateTime<Utc>, Refusal> {
    let parsed = DateTime::parse_from_rfc3339(text).ok();
    // Cut to what the database keeps.
    let whole = parsed.and_then(|at| DateTime::from_timestamp_millis(at.timestamp_millis()));
    whole.ok_or_else(|| Refusal::invalid(field, format!("{field} 应为带时区的 ISO 8601 时间")))
}

impl CouponInput {
    fn parse(&self, coupon_id: CouponId, version: i64) -> Result<Definition, Refusal> {
        let cap = self.cap.map(|y| y.0);
        let benefit = match self.kind {
            Kind::Off => Benefit::Off { off: needed("coupon.off", self.off)?.0 },
            Kind::Rate => Benefit::Rate { rate_bp: needed("coupon.rateBp", self.rate_bp)?, cap },
            Kind::Freight => Benefit::Freight { cap },
        };
        let validity = match (self.valid_days, &self.valid_from, &self.valid_until) {
            (Some(days), None, None) => Validity::Days { days },
            (None, Some(from), Some(until)) => Validity::Fixed {
                window: Window {
                    from: instant("coupon.validFrom", from)?,
                    until: instant("coupon.validUntil", until)?,
                },
            },
            _ => return Err(Refusal::invalid("coupon.validDays", "请填写 validDays，或 validFrom 与 validUntil")),
        };
        Ok(Definition {
            name: text::required("coupon.name", &self.name, 60)?,
            terms: Terms {
                coupon_id,
                version,
                benefit,
                threshold: self.threshold.map_or(Fen::ZERO, |y| y.0),
                scope: self.scope()?,
            },
            validity,
            claim: Window {
                from: instant("coupon.claimFrom", &self.claim_from)?,
                until: instant("coupon.claimUntil", &self.claim_until)?,
            },
            per_user: self.per_user,
            total: self.total,
            paused: self.paused.unwrap_or(false),
        })
    }

    fn scope(&self) -> Result<Scope, Refusal> {
        match (&self.categories, &self.product_ids) {
            (None, None) => Ok(Scope::All),
            (Some(names), None) => {
                let name = |n: &String| text::required("coupon.categories", n, 60);
                Ok(Scope::Categories { categories: names.iter().map(name).collect::<Result<BTreeSet<_>, _>>()? })
            }
            (None, Some(ids)) => {
                let bad = |_| Refusal::invalid("coupon.productIds", "productIds 格式不正确");
                let id = |id: &String| ProductId::parse(id).map_err(bad);
                Ok(Scope::Products { products: ids.iter().map(id).collect::<Result<BTreeSet<_>, _>>()? })
            }
            (Some(_), Some(_)) => Err(Refusal::invalid("coupon.categories", "categories 与 productIds 只能填一种")),
        }
    }
}
