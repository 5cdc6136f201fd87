//! `customers`: the CRM's own view of its customers; two that are one are merged, and a merge can be undone.

use domain::{Code, CustomerId, Failure, Refusal, text};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::linking::{self, MergeOrder};
use shop::members::mobile_phone;
use shop::views;
use store::customers::{Customer, CustomerChange, CustomerStatus, Merge, MergeStatus};
use store::members::Phone;
use store::page::PageRequest;

pub fn function() -> Function {
    Function::new("customers", handle)
        .summary("客户查询、登记、合并")
        .accepts(&[Accept::Service("customers"), Accept::Staff("customers")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    Get,
    Search,
    Upsert,
    Merge,
    Unmerge,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `get`; for `upsert` the customer to change, or the new one's id.
    customer_id: Option<String>,
    /// For `upsert`; for `search` how it begins.
    name: Option<String>,
    /// For `search` and `upsert`.
    phone: Option<String>,
    /// For `upsert`.
    remark: Option<String>,
    /// For `merge`: who becomes part of the target.
    source_id: Option<String>,
    /// For `merge`: who stays.
    target_id: Option<String>,
    /// For `unmerge`.
    merge_id: Option<String>,
    /// For `search`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `search`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CustomerView {
    #[serde(rename = "_id")]
    id: String,
    customer_id: String,
    name: String,
    phone: Option<String>,
    status: CustomerStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    merged_into: Option<String>,
    linked_user_id: Option<String>,
    linked_open_id: Option<String>,
    link_time: Option<String>,
    remark: String,
    created_at: String,
}

impl From<Customer> for CustomerView {
    fn from(customer: Customer) -> Self {
        Self {
            id: customer.id.as_str().to_owned(),
            customer_id: customer.id.into(),
            name: customer.name,
            phone: customer.phone.map(|phone| phone.0),
            status: customer.status,
            merged_into: customer.merged_into.map(String::from),
            linked_user_id: customer.linked_user_id.map(String::from),
            linked_open_id: customer.linked_open_id.map(String::from),
            link_time: customer.link_time.map(views::iso),
            remark: customer.remark.unwrap_or_default(),
            created_at: views::iso(customer.created_at),
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MergeView {
    merge_id: String,
    source_id: String,
    target_id: String,
    status: MergeStatus,
    moved_records: usize,
    moved_addresses: usize,
    moved_link: bool,
}

impl From<Merge> for MergeView {
    fn from(merge: Merge) -> Self {
        Self {
            merge_id: merge.id,
            source_id: merge.source_id.into(),
            target_id: merge.target_id.into(),
            status: merge.status,
            moved_records: merge.record_ids.len(),
            moved_addresses: merge.address_ids.len(),
            moved_link: merge.linked_user_id.is_some(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<CustomerView>,
    next_cursor: Option<String>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::Get => {
            let id = id("customerId", input.customer_id.as_deref())?;
            let customer = ctx.store().customer(&id).await?.ok_or(Code::CustomerNotFound)?;
            Reply::of(&CustomerView::from(customer))
        }
        Action::Search => search(&ctx, &input).await,
        Action::Upsert => upsert(&ctx, &input).await,
        Action::Merge => merge(&ctx, &input).await,
        Action::Unmerge => unmerge(&ctx, &input).await,
    }
}

async fn search(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let page = match (given(&input.phone), given(&input.name)) {
        (Some(phone), None) => ctx.store().customers_by_phone(&mobile_phone("phone", phone)?, &request).await?,
        (None, Some(name)) => ctx.store().customers_by_name(&text::clean("name", name, 50)?, &request).await?,
        _ => return Err(Refusal::invalid("phone", "请指定 phone 或 name 之一").into()),
    };
    let page = page.map(CustomerView::from);
    Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
}

async fn upsert(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let named = given(&input.customer_id).map(|text| id("customerId", Some(text))).transpose()?;
    let change = CustomerChange {
        name: given(&input.name).map(|name| text::required("name", name, 50)).transpose()?,
        phone: given(&input.phone).map(|phone| mobile_phone("phone", phone)).transpose()?,
        remark: input.remark.as_deref().map(|remark| text::clean("remark", remark, 500)).transpose()?,
    };
    let customer_id = match &named {
        Some(id) => id.clone(),
        None => id("customerId", Some(&new_id("c")))?,
    };
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (customer_id, change, now) = (&customer_id, &change, ctx.now);
            Box::pin(async move {
                match tx.customer(customer_id).await? {
                    Some(known) if !known.is_active() => {
                        return Err(Refusal::new(Code::Conflict).with_message("该客户已被合并").into());
                    }
                    Some(_) => {
                        tx.change_customer(customer_id, change, now).await?;
                    }
                    None => tx.insert_customer(&new_customer(customer_id, change, now)?).await?,
                }
                Ok(customer_id.clone())
            })
        })
        .await?;
    // A repeat is told how the customer stands: only who it was is remembered, no phone.
    let customer = ctx.store().customer(&done.value).await?.ok_or(Code::CustomerNotFound)?;
    Ok(Reply::of(&CustomerView::from(customer))?.with_replayed(done.replayed))
}

fn new_customer(
    id: &CustomerId,
    change: &CustomerChange,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Customer, Refusal> {
    Ok(Customer {
        id: id.clone(),
        name: change.name.clone().ok_or_else(|| Refusal::invalid("name", "请填写 name"))?,
        phone: change.phone.clone().map(Phone),
        status: CustomerStatus::Active,
        merged_into: None,
        linked_user_id: None,
        linked_open_id: None,
        link_time: None,
        remark: change.remark.clone(),
        created_at: now,
    })
}

async fn merge(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let source = id("sourceId", input.source_id.as_deref())?;
    let target = id("targetId", input.target_id.as_deref())?;
    if source == target {
        return Err(Refusal::invalid("targetId", "不能合并到自己").into());
    }
    let merge_id = new_id("m");
    let (key, by) = (ctx.command_key(), by_whom(&ctx.caller));
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (order, now) = (MergeOrder { id: &merge_id, source: &source, target: &target, by: &by }, ctx.now);
            Box::pin(async move { Ok(MergeView::from(linking::merge(tx, &order, now).await?)) })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

async fn unmerge(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    // Ours have the alphabet of customers' ids.
    let merge_id = id("mergeId", input.merge_id.as_deref())?;
    let (key, by) = (ctx.command_key(), by_whom(&ctx.caller));
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (merge_id, by, now) = (merge_id.as_str(), by.as_str(), ctx.now);
            Box::pin(async move { Ok(MergeView::from(linking::unmerge(tx, merge_id, by, now).await?)) })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

/// An empty text counts as none.
fn given(field: &Option<String>) -> Option<&str> {
    field.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

fn id(field: &'static str, text: Option<&str>) -> Result<CustomerId, Refusal> {
    let text = text.ok_or_else(|| Refusal::invalid(field, format!("请指定 {field}")))?;
    CustomerId::parse(text).map_err(|_| Refusal::invalid(field, format!("{field} 格式不正确")))
}

fn new_id(prefix: &str) -> String {
    format!("{prefix}-{:024x}", rand::random::<u128>() >> 32)
}

fn by_whom(caller: &Caller) -> String {
    match caller {
        Caller::Staff { id, .. } => format!("staff {id}"),
        Caller::Service { key_id, .. } => format!("service {key_id}"),
        other => other.kind().to_owned(),
    }
}
