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
    /// For `create` and `update`: the whole activity.
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
    activity_name: String,
    product_id: String,
    sku_id: Option<String>,
    /// 1 to 24 daily windows in Shanghai.
    windows: Vec<WindowInput>,
    /// RFC 3339.
    start_time: String,
    /// RFC 3339, at most a year after the start.
    end_time: String,
    /// `fixed` or `auto`.
    #[schemars(with = "String")]
    mode: Mode,
    /// For `fixed`: 1 to 10000.
    win_rate_bp: Option<i64>,
    /// Winners per round at most: 1 to 1000000.
    quota: i64,
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
    /// `HH:MM`; the next day where it is not after the start.
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

/// No operator enters an id by heart; a strange one is a mistake.
pub(crate) fn named(field: &str, text: Option<String>) -> Result<String, Refusal> {
    let text = text.ok_or_else(|| Refusal::invalid(field, format!("请指定 {field}")))?;
    let plain = (1..=96).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if plain { Ok(text) } else { Err(Refusal::invalid(field, format!("{field} 格式不正确"))) }
}

/// A public figure as it is mixed in, byte for byte: nothing is trimmed.
pub(crate) fn public_value(value: Option<String>) -> Result<String, Refusal> {
    let value = value.ok_or_else(|| Refusal::invalid("value", "请填写 value"))?;
    if !(1..=200).contains(&value.chars().count()) || value.chars().any(char::is_control) {
        return Err(Refusal::invalid("value", "value 应为 1 到 200 个字，不含控制字符"));
    }
    Ok(value)
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
    fn parse(self, id: String, now: DateTime<Utc>) -> Result<Activity, Refusal> {
        let activity_name = text::required("activity.activityName", &self.activity_name, 100)?;
        let product_id = ProductId::parse(&self.product_id)
            .map_err(|_| Refusal::invalid("activity.productId", "productId 格式不正确"))?;
        let sku_id = self.sku_id.as_deref().map(SkuId::parse).transpose();
        let sku_id = sku_id.map_err(|_| Refusal::invalid("activity.skuId", "skuId 格式不正确"))?;
        let windows: Vec<Window> = self.windows.into_iter().map(|w| Window { start: w.start, end: w.end }).collect();
        windows::check(&windows)?;
        let start_time = instant("activity.startTime", &self.start_time)?;
        let end_time = instant("activity.endTime", &self.end_time)?;
        if end_time <= start_time || end_time - start_time > TimeDelta::days(366) {
            return Err(Refusal::invalid("activity.endTime", "结束时间应晚于开始时间，且不超过一年"));
        }
        if end_time <= now {
            return Err(Refusal::invalid("activity.endTime", "结束时间已过"));
        }
        let win_rate_bp = match (self.mode, self.win_rate_bp) {
            (Mode::Fixed, Some(rate)) => Some(within("activity.winRateBp", rate, 10_000)?),
            (Mode::Fixed, None) => return Err(Refusal::invalid("activity.winRateBp", "fixed 模式须填写 winRateBp")),
            (Mode::Auto, Some(_)) => return Err(Refusal::invalid("activity.winRateBp", "auto 模式不能填写 winRateBp")),
            (Mode::Auto, None) => None,
        };
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
            mode: self.mode,
            win_rate_bp,
            quota: within("activity.quota", self.quota, 1_000_000)?,
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
