//! `staff`: the people whom the CRM assigns customers to, and where messages reach them.

use domain::{Code, Failure, OpenId, Refusal, StaffId, text};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::members::mobile_phone;
use shop::views;
use store::Error;
use store::members::Phone;
use store::page::PageRequest;
use store::staff::{StaffChange, StaffMember};

pub fn function() -> Function {
    Function::new("staff", handle)
        .summary("接收通知的员工")
        .accepts(&[Accept::Service("notify"), Accept::Staff("staff")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    Upsert,
    Get,
    List,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `upsert` and `get`: the CRM's id of the person.
    user_id: Option<String>,
    /// For `upsert`; needed for somebody new.
    name: Option<String>,
    /// For `upsert`: the person in the mini-program; empty takes it away.
    open_id: Option<String>,
    /// For `upsert`: a mainland mobile number; empty takes it away.
    phone: Option<String>,
    /// For `upsert`: false = gets no messages; true for somebody new unless given.
    active: Option<bool>,
    /// For `list`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StaffView {
    user_id: String,
    name: String,
    open_id: Option<String>,
    phone: Option<String>,
    active: bool,
    created_at: String,
    updated_at: String,
}

impl From<StaffMember> for StaffView {
    fn from(member: StaffMember) -> Self {
        Self {
            user_id: member.id.into(),
            name: member.name,
            open_id: member.open_id.map(String::from),
            phone: member.phone.map(|phone| phone.0),
            active: member.active,
            created_at: views::iso(member.created_at),
            updated_at: views::iso(member.updated_at),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<StaffView>,
    next_cursor: Option<String>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::Get => {
            let found = ctx.store().staff_member(&id(&input)?).await?;
            let member = found.ok_or_else(|| Refusal::new(Code::NotFound).with_message("没有这位员工"))?;
            Reply::of(&StaffView::from(member))
        }
        Action::List => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let page = ctx.store().staff_page(&request).await?.map(StaffView::from);
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Upsert => upsert(&ctx, &input).await,
    }
}

async fn upsert(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let id = id(input)?;
    let open_id = |text: &str| OpenId::parse(text).map_err(|_| Refusal::invalid("openId", "openId 格式不正确"));
    let phone = |text: &str| mobile_phone("phone", text).map(Phone);
    let change = StaffChange {
        name: input.name.as_deref().map(|name| text::required("name", name, 50)).transpose()?,
        open_id: input.open_id.as_deref().map(|text| unless_empty(text, open_id)).transpose()?,
        phone: input.phone.as_deref().map(|text| unless_empty(text, phone)).transpose()?,
        active: input.active,
    };
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, change, now) = (&id, &change, ctx.now);
            Box::pin(async move {
                if !tx.change_staff_member(id, change, now).await? {
                    let change = change.clone();
                    let name = change.name.ok_or_else(|| Refusal::invalid("name", "请填写 name"))?;
                    let (open_id, phone) = (change.open_id.flatten(), change.phone.flatten());
                    let active = change.active.unwrap_or(true);
                    let (created_at, updated_at) = (now, now);
                    let member = StaffMember { id: id.clone(), name, open_id, phone, active, created_at, updated_at };
                    tx.insert_staff_member(&member).await?;
                }
                Ok(id.clone())
            })
        })
        .await
        .map_err(taken)?;
    // A repeat is told how the person stands: only who it was is remembered, no phone.
    let member = ctx.store().staff_member(&done.value).await?.ok_or(Code::NotFound)?;
    Ok(Reply::of(&StaffView::from(member))?.with_replayed(done.replayed))
}

/// The openid is unique; nothing else of a person is.
fn taken(error: Error) -> Failure {
    if error.is_duplicate_of("staff") {
        return Refusal::new(Code::Conflict).with_message("该 openId 已属于其他员工").into();
    }
    error.into()
}

fn id(input: &Input) -> Result<StaffId, Refusal> {
    let text = input.user_id.as_deref().unwrap_or_default();
    if text.is_empty() {
        return Err(Refusal::invalid("userId", "请指定 userId"));
    }
    StaffId::parse(text).map_err(|_| Refusal::invalid("userId", "userId 格式不正确"))
}

/// An empty text takes the field away.
fn unless_empty<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, Refusal>) -> Result<Option<T>, Refusal> {
    if text.trim().is_empty() { Ok(None) } else { parse(text).map(Some) }
}
