//! An item of the outbox as the receipt of its delivery.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shop::views::iso;
use store::outbox::{OutboxItem, OutboxStatus, Try};

/// Who reads a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    User,
    Operator,
}

/// What a payload may tell, whatever its kind.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Payload {
    open_id: Option<String>,
    template: Option<String>,
    values: BTreeMap<String, String>,
    /// The customers that it is about.
    customer_ids: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    message_id: String,
    kind: String,
    template: Option<String>,
    open_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    status: &'static str,
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    attempts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tries: Option<Vec<TryView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_ids: Option<Vec<String>>,
    created_at: String,
    next_attempt_at: Option<String>,
    expires_at: Option<String>,
    finished_at: Option<String>,
    redrives: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TryView {
    at: String,
    /// Absent while under way, or when the process died in it.
    outcome: Option<String>,
    reason: Option<String>,
    errcode: Option<i64>,
    duration_ms: Option<i64>,
}

impl From<&Try> for TryView {
    fn from(tried: &Try) -> Self {
        Self {
            at: iso(tried.at),
            outcome: tried.outcome.clone(),
            reason: tried.reason.clone(),
            errcode: tried.errcode,
            duration_ms: tried.duration_ms,
        }
    }
}

impl Receipt {
    pub(crate) fn of(item: &OutboxItem, reader: For) -> Self {
        let payload: Payload = serde_json::from_str(&item.payload).unwrap_or_default();
        let waits = item.status == OutboxStatus::Pending;
        let operator = reader == For::Operator;
        Self {
            message_id: item.id.clone(),
            kind: item.kind.clone(),
            template: payload.template,
            open_id: payload.open_id,
            order_id: item.order_id.as_ref().map(|id| id.as_str().to_owned()),
            status: word(item.status),
            message: item.reason.as_deref().and_then(explained),
            reason: item.reason.clone(),
            attempts: item.attempts,
            tries: operator.then(|| item.tries.iter().map(TryView::from).collect()),
            values: (!operator).then_some(payload.values),
            customer_ids: operator.then_some(payload.customer_ids),
            created_at: iso(item.created_at),
            next_attempt_at: waits.then(|| iso(item.next_attempt_at)),
            expires_at: item.expires_at.map(iso),
            finished_at: item.finished_at.map(iso),
            redrives: item.redrives,
        }
    }
}

fn word(status: OutboxStatus) -> &'static str {
    match status {
        OutboxStatus::Pending => "queued",
        OutboxStatus::Delivered => "sent",
        OutboxStatus::Skipped => "refused",
        OutboxStatus::Unknown => "unknown",
        OutboxStatus::Dead => "dead",
    }
}

/// A reason for people.
fn explained(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "NO_SUBSCRIPTION" => "用户没有订阅此类消息，或订阅次数已用完",
        "NO_TEMPLATE" => "商城没有配置此类消息的模板",
        "OUTCOME_UNKNOWN" => "微信没有答复，消息可能已送达",
        "EXPIRED" => "消息已过时，不再发送",
        "ATTEMPTS_EXHAUSTED" => "多次投递失败，已放弃",
        "WECHAT_LIMIT" => "微信接口调用次数已达上限，稍后继续",
        "WECHAT_BUSY" | "CONCURRENT_MESSAGE" => "微信繁忙，稍后重试",
        "WECHAT_UNREACHABLE" => "暂时连接不上微信，稍后重试",
        "STORE_UNAVAILABLE" => "商城数据库暂时不可用，稍后重试",
        "WECHAT_CONFIG" => "微信拒绝了小程序的配置，请检查 appid、密钥与 IP 白名单",
        "OPENID_INVALID" => "接收人的 openid 不属于本小程序",
        "TEMPLATE_INVALID" => "消息模板不存在或已被删除",
        "MESSAGES_BANNED" => "小程序的订阅消息能力被封禁",
        "SENSITIVE_WORD" => "消息含有微信不允许的内容",
        "VALUES_REFUSED" => "消息内容与模板不符",
        "REFUSED_BY_WECHAT" => "微信拒绝了此消息",
        _ => return None,
    })
}
