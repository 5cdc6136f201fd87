//! `messages`: messages and the receipts of their delivery; tries again what was given up.

mod view;

use chrono::TimeDelta;
use domain::{Code, CustomerId, Failure, OpenId, Refusal};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::{after_sale, assignments, messages, parcels, refunds, reviews, shipping, texts};
use store::outbox::{OutboxFilter, OutboxItem, OutboxStatus};
use store::page::PageRequest;

use view::{For, Receipt};

pub fn function() -> Function {
    Function::new("messages", handle)
        .summary("消息与投递回执")
        .accepts(&[Accept::User, Accept::Service("notify"), Accept::Staff("messages")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    List,
    Get,
    Redrive,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Status {
    Queued,
    Sent,
    Refused,
    Unknown,
    Dead,
}

impl From<Status> for OutboxStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Queued => Self::Pending,
            Status::Sent => Self::Delivered,
            Status::Refused => Self::Skipped,
            Status::Unknown => Self::Unknown,
            Status::Dead => Self::Dead,
        }
    }
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Message,
    MassMessage,
    Sms,
    Refund,
    AfterSaleRefund,
    ShippingReport,
    ParcelSubscription,
    ReviewCheck,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Message => messages::KIND,
            Self::MassMessage => messages::MASS_KIND,
            Self::Sms => texts::KIND,
            Self::Refund => refunds::KIND,
            Self::AfterSaleRefund => after_sale::wechat::KIND,
            Self::ShippingReport => shipping::KIND,
            Self::ParcelSubscription => parcels::KIND,
            Self::ReviewCheck => reviews::KIND,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `get` and `redrive`.
    message_id: Option<String>,
    /// For `redrive`: also a message that may have arrived.
    may_repeat: Option<bool>,
    /// For `list`, as the other filters.
    status: Option<Status>,
    kind: Option<Kind>,
    open_id: Option<String>,
    /// Messages about the assignment of this customer.
    customer_id: Option<String>,
    /// For `list`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    data: Vec<Receipt>,
    next_cursor: Option<String>,
}

/// What a caller may see.
struct Sight {
    kinds: &'static [&'static str],
    reader: For,
    /// The only person whose messages are shown.
    own: Option<OpenId>,
}

const OWN_KINDS: &[&str] = &[messages::KIND, messages::MASS_KIND];
const MESSAGE_KINDS: &[&str] = &[messages::KIND, messages::MASS_KIND, texts::KIND];
const ALL_KINDS: &[&str] = &[
    messages::KIND,
    messages::MASS_KIND,
    texts::KIND,
    refunds::KIND,
    after_sale::wechat::KIND,
    shipping::KIND,
    parcels::KIND,
    reviews::KIND,
];

const MESSAGE_ID_MAX: usize = 256;
/// A message that had expired is useful for so long after somebody asked for it again.
const USEFUL_AGAIN: TimeDelta = TimeDelta::hours(24);

impl Sight {
    fn of(caller: &Caller) -> Self {
        match caller {
            Caller::User { open_id, .. } => Self { kinds: OWN_KINDS, reader: For::User, own: Some(open_id.clone()) },
            Caller::Staff { .. } => Self { kinds: ALL_KINDS, reader: For::Operator, own: None },
            _ => Self { kinds: MESSAGE_KINDS, reader: For::Operator, own: None },
        }
    }

    fn shows(&self, item: &OutboxItem) -> bool {
        let theirs = self.own.as_ref().is_none_or(|own| item.queue.as_deref() == Some(own.as_str()));
        theirs && self.kinds.contains(&item.kind.as_str())
    }
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let sight = Sight::of(&ctx.caller);
    match input.action {
        Action::List => list(&ctx, &sight, input).await,
        Action::Get => {
            let id = message_id(input.message_id)?;
            let item = ctx.store().outbox_item(&id).await?.filter(|item| sight.shows(item)).ok_or_else(not_found)?;
            Reply::of(&Receipt::of(&item, sight.reader))
        }
        Action::Redrive => redrive(&ctx, &sight, input).await,
    }
}

fn message_id(given: Option<String>) -> Result<String, Refusal> {
    let id = given.ok_or_else(|| Refusal::invalid("messageId", "请指定 messageId"))?;
    let good = (1..=MESSAGE_ID_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
    if good { Ok(id) } else { Err(Refusal::invalid("messageId", "messageId 格式不正确")) }
}

fn not_found() -> Failure {
    Refusal::new(Code::NotFound).with_message("消息不存在").into()
}

async fn list(ctx: &Context, sight: &Sight, input: Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let open_id = match (&sight.own, input.open_id) {
        (Some(_), named) => Some(ctx.caller.acting_open_id(named.as_deref())?),
        (None, Some(named)) => Some(ctx.caller.acting_open_id(Some(&named))?),
        (None, None) => None,
    };
    let kind = input.kind.map(Kind::as_str);
    let one = kind.map(|kind| [kind]);
    let kinds = one.as_ref().map_or(sight.kinds, |one| one.as_slice());
    if kinds.iter().any(|kind| !sight.kinds.contains(kind)) {
        return Err(Refusal::new(Code::Forbidden).into());
    }
    let ids = match input.customer_id {
        None => None,
        // Which customers somebody was told of is the shop's to know.
        Some(_) if sight.own.is_some() => return Err(Refusal::new(Code::Forbidden).into()),
        Some(id) => {
            let bad = |_| Refusal::invalid("customerId", "customerId 格式不正确");
            let messages = ctx.store().messages_about(CustomerId::parse(&id).map_err(bad)?.as_str()).await?;
            Some(assignments::with_texts(messages.iter().map(String::as_str)))
        }
    };
    // Whoever sees every kind needs no filter for it.
    let kinds = if kinds.len() == ALL_KINDS.len() { &[] } else { kinds };
    let queue = open_id.as_ref().map(OpenId::as_str);
    let filter = OutboxFilter { status: input.status.map(OutboxStatus::from), kinds, queue, ids };
    let page = ctx.store().outbox_items(&filter, &request).await?;
    let data = page.data.iter().map(|item| Receipt::of(item, sight.reader)).collect();
    Reply::of(&List { data, next_cursor: page.next_cursor })
}

async fn redrive(ctx: &Context, sight: &Sight, input: Input) -> Result<Reply, Failure> {
    let who = match &ctx.caller {
        Caller::Staff { id, .. } => id.as_str(),
        Caller::Service { key_id, .. } => key_id.as_str(),
        _ => return Err(Refusal::new(Code::Forbidden).into()),
    };
    let id = message_id(input.message_id)?;
    let may_repeat = input.may_repeat.unwrap_or(false);
    let mut from = vec![OutboxStatus::Dead];
    if may_repeat {
        from.push(OutboxStatus::Unknown);
    }
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, now, mut from) = (&id, ctx.now, from.clone());
            Box::pin(async move {
                let missing = || Refusal::new(Code::NotFound).with_message("消息不存在");
                let item = tx.outbox_item(id).await?.filter(|item| sight.shows(item)).ok_or_else(missing)?;
                if lacked_template(&item) {
                    from.push(OutboxStatus::Skipped);
                }
                if tx.redrive(id, &from, now + USEFUL_AGAIN, now).await?.is_none() {
                    return Err(Refusal::new(Code::Conflict).with_message(why_not(item.status)).into());
                }
                Ok(id.clone())
            })
        })
        .await?;
    if !done.replayed {
        tracing::info!(by = ctx.caller.kind(), who, may_repeat, "an outbox item is tried again");
    }
    let item = ctx.store().outbox_item(&done.value).await?.ok_or_else(not_found)?;
    Ok(Reply::of(&Receipt::of(&item, sight.reader))?.with_replayed(done.replayed))
}

/// Whether an item ended for want of a template that may be there now. Assignments are planned anew when they are told again.
fn lacked_template(item: &OutboxItem) -> bool {
    let template = || serde_json::from_str::<messages::Message>(&item.payload).map(|message| message.template);
    item.reason.as_deref() == Some(messages::NO_TEMPLATE)
        && template().is_ok_and(|template| template != assignments::TEMPLATE)
}

fn why_not(status: OutboxStatus) -> &'static str {
    match status {
        OutboxStatus::Pending => "消息正在等待投递，无需重新投递",
        OutboxStatus::Delivered => "消息已送达，不能重新投递",
        OutboxStatus::Skipped => "消息未获准发送，不能重新投递",
        OutboxStatus::Unknown => "消息可能已送达，确认可以重复发送后请带上 mayRepeat",
        OutboxStatus::Dead => "消息刚被重新投递，请查看后再试",
    }
}
