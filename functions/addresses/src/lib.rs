//! `addresses`: where a member has goods sent.

use domain::{Code, Failure, Refusal};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::address::{AddressInput, address_id, missing};
use shop::members::active_member;
use shop::views;
use store::Once;
use store::addresses::SavedAddress;
use store::members::Member;

/// More than this a member may not keep.
const ADDRESSES_MAX: usize = 20;

pub fn function() -> Function {
    Function::new("addresses", handle).summary("收货地址").accepts(&[Accept::User]).needs(&[Need::Store, Need::Session])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    List,
    Get,
    Create,
    Update,
    Delete,
    SetDefault,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For all but `list` and `create`.
    address_id: Option<String>,
    /// For `create` and `update`: the whole address, also as `wx.chooseAddress` gives it.
    address: Option<AddressInput>,
    /// For `create` and `update`: make it the default. The first address is the default anyway.
    is_default: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AddressView {
    #[serde(rename = "_id")]
    id: String,
    name: String,
    phone: String,
    province: String,
    city: String,
    district: String,
    detail: String,
    is_default: bool,
    /// Whether the member may change it; what the shop knows of its customer they may only use.
    editable: bool,
    created_at: String,
}

impl AddressView {
    fn new(saved: SavedAddress, member: &Member, default: Option<&str>) -> Self {
        Self {
            is_default: default == Some(saved.id.as_str()),
            editable: saved.is_own(&member.id),
            id: saved.id,
            name: saved.name,
            phone: saved.phone,
            province: saved.province,
            city: saved.city,
            district: saved.district,
            detail: saved.detail,
            created_at: views::iso(saved.created_at),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<AddressView>,
    next_cursor: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeleteOutput {
    address_id: String,
    /// What is the default now.
    default_address_id: Option<String>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let open_id = ctx.caller.acting_open_id(None)?;
    let member = active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
    match input.action {
        Action::List => list(&ctx, &member).await,
        Action::Get => {
            let id = address_id(input.address_id)?;
            let saved = ctx.store().address(&id).await?.filter(|saved| saved.is_visible_to(&member));
            let default = member.default_address_id.as_deref();
            Reply::of(&AddressView::new(saved.ok_or_else(missing)?, &member, default))
        }
        Action::Create => create(&ctx, &member, input).await,
        Action::Update => update(&ctx, &member, input).await,
        Action::Delete => delete(&ctx, &member, address_id(input.address_id)?).await,
        Action::SetDefault => set_default(&ctx, &member, address_id(input.address_id)?).await,
    }
}

/// The default first, then the member's own, then the customer's; all on one page.
async fn list(ctx: &Context, member: &Member) -> Result<Reply, Failure> {
    let default = member.default_address_id.as_deref();
    let saved = ctx.store().addresses(member).await?;
    let mut data: Vec<AddressView> = saved.into_iter().map(|saved| AddressView::new(saved, member, default)).collect();
    data.sort_by_key(|view| !view.is_default);
    Reply::of(&ListOutput { data, next_cursor: None })
}

fn wanted(address: Option<AddressInput>) -> Result<store::orders::Address, Refusal> {
    address.ok_or_else(|| Refusal::invalid("address", "请填写收货地址"))?.parse()
}

async fn create(ctx: &Context, member: &Member, input: Input) -> Result<Reply, Failure> {
    let id = format!("a-{:024x}", rand::random::<u128>() >> 32);
    let saved = SavedAddress::of_member(id, &member.id, wanted(input.address)?, ctx.now);
    let (key, chosen) = (ctx.command_key(), input.is_default == Some(true));
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (saved, user) = (&saved, &member.id);
            Box::pin(async move {
                let member = tx.hold_addresses(user).await?.ok_or(Code::Unauthenticated)?;
                let there = tx.own_addresses(user).await?;
                if there.len() >= ADDRESSES_MAX {
                    let text = format!("最多保存 {ADDRESSES_MAX} 个收货地址");
                    return Err(Refusal::new(Code::Conflict).with_message(text).into());
                }
                tx.insert_address(saved).await?;
                // The one that was the default may have gone with a customer that the member is not linked to any more.
                let default = match &member.default_address_id {
                    Some(id) => tx.address(id).await?.filter(|saved| saved.is_visible_to(&member)),
                    None => None,
                };
                let is_default = chosen || default.is_none();
                if is_default {
                    tx.set_default_address(user, Some(&saved.id)).await?;
                }
                Ok(saved.id.clone())
            })
        })
        .await?;
    output(ctx, member, done).await
}

async fn update(ctx: &Context, member: &Member, input: Input) -> Result<Reply, Failure> {
    let id = address_id(input.address_id)?;
    let address = wanted(input.address)?;
    let (key, chosen) = (ctx.command_key(), input.is_default == Some(true));
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, address, user, now) = (&id, &address, &member.id, ctx.now);
            Box::pin(async move {
                let member = tx.hold_addresses(user).await?.ok_or(Code::Unauthenticated)?;
                if !tx.change_address(id, user, address, now).await? {
                    return Err(not_own(tx.address(id).await?, &member).into());
                }
                if chosen {
                    tx.set_default_address(user, Some(id)).await?;
                }
                Ok(id.clone())
            })
        })
        .await?;
    output(ctx, member, done).await
}

async fn delete(ctx: &Context, member: &Member, id: String) -> Result<Reply, Failure> {
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, user) = (&id, &member.id);
            Box::pin(async move {
                let member = tx.hold_addresses(user).await?.ok_or(Code::Unauthenticated)?;
                if !tx.delete_address(id, user).await? {
                    return Err(not_own(tx.address(id).await?, &member).into());
                }
                let mut default_address_id = member.default_address_id;
                if default_address_id.as_ref() == Some(id) {
                    // The newest that is left takes its place.
                    default_address_id = tx.own_addresses(user).await?.into_iter().next().map(|saved| saved.id);
                    tx.set_default_address(user, default_address_id.as_deref()).await?;
                }
                Ok(DeleteOutput { address_id: id.clone(), default_address_id })
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

async fn set_default(ctx: &Context, member: &Member, id: String) -> Result<Reply, Failure> {
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, user) = (&id, &member.id);
            Box::pin(async move {
                let member = tx.hold_addresses(user).await?.ok_or(Code::Unauthenticated)?;
                tx.address(id).await?.filter(|saved| saved.is_visible_to(&member)).ok_or_else(missing)?;
                tx.set_default_address(user, Some(id)).await?;
                Ok(id.clone())
            })
        })
        .await?;
    output(ctx, member, done).await
}

/// The address as it is now. A command remembers only which it was: a name and a phone are gone once their owner deletes them.
async fn output(ctx: &Context, member: &Member, done: Once<String>) -> Result<Reply, Failure> {
    let member = ctx.store().member(&member.id).await?.ok_or(Code::Unauthenticated)?;
    let saved = ctx.store().address(&done.value).await?.filter(|saved| saved.is_visible_to(&member));
    let view = AddressView::new(saved.ok_or_else(missing)?, &member, member.default_address_id.as_deref());
    Ok(Reply::of(&view)?.with_replayed(done.replayed))
}

/// Why a member may not change an address: it is the shop's, or not there for them.
fn not_own(saved: Option<SavedAddress>, member: &Member) -> Refusal {
    match saved.filter(|saved| saved.is_visible_to(member)) {
        Some(_) => Refusal::new(Code::Forbidden).with_message("该地址由店铺维护，不能修改"),
        None => missing(),
    }
}
