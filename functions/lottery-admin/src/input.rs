//! What an operator enters, checked field by field.

use chrono::{DateTime, TimeDelta, Utc};
use domain::draw::{BeaconSource, Mode, Unused};
use domain::{Failure, ProductId, Refusal, SkuId, text};
use schemars::JsonSchema;
use serde::Deserialize;
use shop::lottery::windows;
use store::Store;
use store::lottery::{Activity, ActivityStatus, BeaconChoice, Window};

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Action {
    Create,
    Update,
    Delete,
    Records,
    Stats,
    Beacon,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Input {
    pub action: Action,
    /// For `update`, `delete` and `stats`; for `records` to see one activity alone.
    pub activity_id: Option<String>,
    /// For `create` the whole activity; for `update` what changes, or the whole.
    pub activity: Option<ActivityInput>,
    /// For `beacon`.
    pub round_id: Option<String>,
    /// For `beacon`: the public figure, 1 to 200 characters.
    pub value: Option<String>,
    /// For `records`: 1 to 100, 20 unless given.
    pub limit: Option<i64>,
    /// For `records`: `nextCursor` of the page before.
    pub after: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ActivityInput {
    activity_name: Option<String>,
    product_id: Option<String>,
    sku_id: Option<String>,
    /// 1 to 24 daily windows in Shanghai.
    windows: Option<Vec<WindowInput>>,
    /// RFC 3339.
    start_time: Option<String>,
    /// RFC 3339, at most a year after the start.
    end_time: Option<String>,
    /// `fixed` or `auto`.
    #[schemars(with = "Option<String>")]
    mode: Option<Mode>,
    /// For `fixed`: 1 to 10000; without it the quota alone decides. `auto` has no rate.
    win_rate_bp: Option<i64>,
    /// Winners per round at most: 1 to 1000000.
    quota: Option<i64>,
    /// How long a right may be used: 1 to 10080, 30 unless given.
    qualification_minutes: Option<i64>,
    /// Pieces per winner, 1 unless given.
    quantity: Option<i64>,
    beacon: Option<BeaconInput>,
    /// `waitingList` (unless given) or `stock`.
    #[schemars(with = "Option<String>")]
    unused: Option<Unused>,
}

#[derive(Deserialize, JsonSchema)]
struct WindowInput {
    /// `HH:MM`.
    start: String,
    /// `HH:MM`, not the start; the next day where it is before it.
    end: String,
}

#[derive(Deserialize, JsonSchema)]
struct BeaconInput {
    /// `none`, `drand` or `public`.
    #[schemars(with = "String")]
    source: BeaconSource,
    /// For `public`: which figure.
    name: Option<String>,
}

/// A public figure as it is mixed in, byte for byte: nothing is trimmed.
pub(crate) fn public_value(value: Option<String>) -> Result<String, Refusal> {
    let value = value.ok_or_else(|| Refusal::invalid("value", "请填写 value"))?;
    if !(1..=200).contains(&value.chars().count()) || value.chars().any(char::is_control) {
        return Err(Refusal::invalid("value", "value 应为 1 到 200 个字，不含控制字符"));
    }
    Ok(value)
}

/// What a new activity cannot do without.
fn needed<T>(field: &str, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::invalid(field, format!("缺少字段 {field}")))
}

fn within(field: &str, number: i64, max: i64) -> Result<u64, Refusal> {
    match u64::try_from(number) {
        Ok(n) if (1..=max).contains(&number) => Ok(n),
        _ => Err(Refusal::invalid(field, format!("{field} 应在 1 到 {max} 之间"))),
    }
}

fn instant(field: &str, text: &str) -> Result<DateTime<Utc>, Refusal> {
    let parsed = DateTime::parse_from_rfc3339(text).ok();
    // Cut to what the database keeps.
    let whole = parsed.and_then(|at| DateTime::from_timestamp_millis(at.timestamp_millis()));
    whole.ok_or_else(|| Refusal::invalid(field, format!("{field} 应为带时区的 ISO 8601 时间")))
}

pub(crate) async fn checked_activity(
    store: &Store,
    wish: ActivityInput,
    id: String,
    now: DateTime<Utc>,
) -> Result<Activity, Failure> {
    let activity = wish.parse(id, now)?;
    let product = store.product(&activity.product_id).await?;
    let product = product.ok_or_else(|| Refusal::invalid("activity.productId", "商品不存在"))?;
    match &activity.sku_id {
        Some(sku) if product.sku(sku).is_none() => {
            return Err(Refusal::invalid("activity.skuId", "商品没有这个规格").into());
        }
        None if !product.skus.is_empty() => return Err(Refusal::invalid("activity.skuId", "请指定商品规格").into()),
        _ => {}
    }
    Ok(activity)
}

impl ActivityInput {
    /// With what it does not mention taken from the activity as it stands. A SKU belongs to its product and a rate to its mode.
    pub(crate) fn over(self, old: &Activity) -> Self {
        let whole = |number: u64| i64::try_from(number).ok();
        let windows = || {
            old.windows.iter().map(|w| WindowInput { start: w.start.clone(), end: w.end.clone() }).collect::<Vec<_>>()
        };
        let beacon = || BeaconInput { source: old.beacon.source, name: old.beacon.name.clone() };
        let old_sku = old.sku_id.as_ref().filter(|_| self.product_id.is_none());
        let old_rate = old.win_rate_bp.filter(|_| self.mode.is_none());
        Self {
            activity_name: self.activity_name.or_else(|| Some(old.activity_name.clone())),
            sku_id: self.sku_id.or_else(|| old_sku.map(|s| s.as_str().to_owned())),
            product_id: self.product_id.or_else(|| Some(old.product_id.as_str().to_owned())),
            windows: self.windows.or_else(|| Some(windows())),
            start_time: self.start_time.or_else(|| Some(old.start_time.to_rfc3339())),
            end_time: self.end_time.or_else(|| Some(old.end_time.to_rfc3339())),
            win_rate_bp: self.win_rate_bp.or_else(|| whole(old_rate?)),
            mode: self.mode.or(Some(old.mode)),
            quota: self.quota.or_else(|| whole(old.quota)),
            qualification_minutes: self.qualification_minutes.or_else(|| whole(old.qualification_minutes)),
            quantity: self.quantity.or_else(|| whole(old.quantity)),
            beacon: self.beacon.or_else(|| Some(beacon())),
            unused: self.unused.or(Some(old.unused)),
        }
    }

    fn parse(self, id: String, now: DateTime<Utc>) -> Result<Activity, Refusal> {
        let activity_name = needed("activity.activityName", self.activity_name)?;
        let activity_name = text::required("activity.activityName", &activity_name, 100)?;
        let product_id = ProductId::parse(&needed("activity.productId", self.product_id)?)
            .map_err(|_| Refusal::invalid("activity.productId", "productId 格式不正确"))?;
        let sku_id = self.sku_id.as_deref().map(SkuId::parse).transpose();
        let sku_id = sku_id.map_err(|_| Refusal::invalid("activity.skuId", "skuId 格式不正确"))?;
        let windows = needed("activity.windows", self.windows)?;
        let windows: Vec<Window> = windows.into_iter().map(|w| Window { start: w.start, end: w.end }).collect();
        windows::check(&windows)?;
        let start_time = instant("activity.startTime", &needed("activity.startTime", self.start_time)?)?;
        let end_time = instant("activity.endTime", &needed("activity.endTime", self.end_time)?)?;
        if end_time <= start_time || end_time - start_time > TimeDelta::days(366) {
            return Err(Refusal::invalid("activity.endTime", "结束时间应晚于开始时间，且不超过一年"));
        }
        if end_time <= now {
            return Err(Refusal::invalid("activity.endTime", "结束时间已过"));
        }
        let mode = needed("activity.mode", self.mode)?;
        let rate = self.win_rate_bp.map(|rate| within("activity.winRateBp", rate, 10_000)).transpose()?;
        let win_rate_bp = rate.filter(|_| mode == Mode::Fixed);
        let beacon = match self.beacon {
            None => BeaconChoice { source: BeaconSource::None, name: None },
            Some(choice) => {
                let name = text::clean("activity.beacon.name", choice.name.as_deref().unwrap_or_default(), 100)?;
                let public = choice.source == BeaconSource::Public;
                if public && name.is_empty() {
                    return Err(Refusal::invalid("activity.beacon.name", "请说明使用哪项公开数据"));
                }
                if name.contains('\n') {
                    return Err(Refusal::invalid("activity.beacon.name", "名称不能换行"));
                }
                BeaconChoice { source: choice.source, name: Some(name).filter(|_| public) }
            }
        };
        Ok(Activity {
            id,
            activity_name,
            product_id,
            sku_id,
            windows,
            start_time,
            end_time,
            mode,
            win_rate_bp,
            quota: within("activity.quota", needed("activity.quota", self.quota)?, 1_000_000)?,
            qualification_minutes: within(
                "activity.qualificationMinutes",
                self.qualification_minutes.unwrap_or(30),
                10_080,
            )?,
            quantity: within("activity.quantity", self.quantity.unwrap_or(1), 1_000)?,
            beacon,
            unused: self.unused.unwrap_or(Unused::WaitingList),
            status: ActivityStatus::Active,
            created_at: now,
            updated_at: now,
        })
    }
}
