//! `cart`: what a member means to buy, and why they cannot buy it as it stands.

mod decide;

use std::collections::BTreeSet;

use domain::{Code, Failure, Fen, ProductId, Refusal, SkuId, Yuan};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::members::active_member;
use shop::views;
use store::carts::CartLine;
use store::members::Member;
use store::products::Product;

use decide::{Change, Invalid, LINES_MAX, QUANTITY_MAX, Skipped, Wanted};

pub fn function() -> Function {
    Function::new("cart", handle).summary("购物车").accepts(&[Accept::User]).needs(&[Need::Store, Need::Session])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    List,
    Add,
    Update,
    Remove,
    Select,
    Clear,
    Merge,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `add` and `merge`: at most 100.
    items: Option<Vec<ItemInput>>,
    /// For `update`.
    line_id: Option<String>,
    /// For `update`: 1 to 9999.
    quantity: Option<i64>,
    /// For `update` and `select`.
    selected: Option<bool>,
    /// For `remove` and `select`; `select` means all lines without it.
    line_ids: Option<Vec<String>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ItemInput {
    product_id: String,
    sku_id: Option<String>,
    quantity: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LineView {
    line_id: String,
    product_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sku_id: Option<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sku_name: Option<String>,
    image: Option<String>,
    /// Per piece, now.
    price: Yuan,
    /// What a piece cost when the line was last put in, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    earlier_price: Option<Yuan>,
    quantity: i64,
    /// Null beyond all amounts.
    amount: Option<Yuan>,
    /// Pieces that can be bought now.
    stock: i64,
    selected: bool,
    /// Null where the line can be bought as it stands.
    invalid_reason: Option<Invalid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid_message: Option<&'static str>,
    added_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CartOutput {
    data: Vec<LineView>,
    next_cursor: Option<String>,
    /// Pieces and amount of the selected lines that can be bought.
    selected_quantity: i64,
    selected_amount: Option<Yuan>,
    /// What `merge` left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<Skipped>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let open_id = ctx.caller.acting_open_id(None)?;
    let member = active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
    match input.action {
        Action::List => show(&ctx, &member, Vec::new(), false).await,
        Action::Add | Action::Merge => put_in(&ctx, &member, input).await,
        Action::Update => alter(&ctx, &member, update(input)?).await,
        Action::Remove => alter(&ctx, &member, remove(input)?).await,
        Action::Select => alter(&ctx, &member, select(input)?).await,
        Action::Clear => alter(&ctx, &member, Change::Clear).await,
    }
}

/// The cart as it is now: also what every command answers, so that a repeat shows nothing outdated.
async fn show(ctx: &Context, member: &Member, skipped: Vec<Skipped>, replayed: bool) -> Result<Reply, Failure> {
    let lines = ctx.store().cart(&member.id).await?;
    let products = products(ctx, lines.iter().map(|line| &line.product_id)).await?;
    let data: Vec<LineView> = lines.into_iter().map(|line| view(line, &products)).collect();
    let (mut selected_quantity, mut sum) = (0i64, Some(Fen::ZERO));
    for line in data.iter().filter(|line| line.selected && line.invalid_reason.is_none()) {
        selected_quantity = selected_quantity.saturating_add(line.quantity);
        sum = sum.zip(line.amount).and_then(|(sum, amount)| sum.checked_add(amount.0).ok());
    }
    let selected_amount = sum.map(Yuan);
    let output = CartOutput { data, next_cursor: None, selected_quantity, selected_amount, skipped };
    Ok(Reply::of(&output)?.with_replayed(replayed))
}

async fn products(ctx: &Context, ids: impl Iterator<Item = &ProductId>) -> Result<Vec<Product>, Failure> {
    let ids: BTreeSet<&ProductId> = ids.collect();
    let ids: Vec<ProductId> = ids.into_iter().cloned().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(ctx.store().products_by_id(&ids).await?)
}

fn view(line: CartLine, products: &[Product]) -> LineView {
    let product = products.iter().find(|product| product.id == line.product_id);
    let sku = product.zip(line.sku_id.as_ref()).and_then(|(product, id)| product.sku(id));
    let offer = decide::offer(product, line.sku_id.as_ref());
    let invalid_reason = decide::invalid(offer, line.quantity);
    let (price, stock) = offer.unwrap_or((line.price, 0));
    LineView {
        name: product.map(|product| product.name.clone()).unwrap_or_default(),
        sku_name: sku.map(|sku| sku.name.clone()),
        image: product.and_then(|product| product.images.first().cloned()),
        price: Yuan(price),
        earlier_price: (price != line.price).then_some(Yuan(line.price)),
        amount: price.checked_mul(line.quantity).ok().map(Yuan),
        stock,
        invalid_reason,
        invalid_message: invalid_reason.map(Invalid::message),
        line_id: line.line_id,
        product_id: line.product_id.into(),
        sku_id: line.sku_id.map(String::from),
        quantity: line.quantity,
        selected: line.selected,
        added_at: views::iso(line.added_at),
    }
}

async fn put_in(ctx: &Context, member: &Member, input: Input) -> Result<Reply, Failure> {
    let merging = matches!(input.action, Action::Merge);
    let wanted = items(input.items)?;
    let products = products(ctx, wanted.iter().map(|want| &want.product_id)).await?;
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (user, wanted, products, now) = (&member.id, &wanted, &products, ctx.now);
            Box::pin(async move {
                let before = tx.cart(user).await?;
                let (lines, skipped) = if merging {
                    decide::merge(before, wanted, products, now)
                } else {
                    (decide::add(before, wanted, products, now)?, Vec::new())
                };
                tx.write_cart(user, &lines, now).await?;
                Ok(skipped)
            })
        })
        .await?;
    show(ctx, member, done.value, done.replayed).await
}

async fn alter(ctx: &Context, member: &Member, change: Change) -> Result<Reply, Failure> {
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (user, change, now) = (&member.id, &change, ctx.now);
            Box::pin(async move {
                let lines = decide::change(tx.cart(user).await?, change)?;
                tx.write_cart(user, &lines, now).await?;
                Ok(Vec::<Skipped>::new())
            })
        })
        .await?;
    show(ctx, member, done.value, done.replayed).await
}

fn check_quantity(field: &str, quantity: i64) -> Result<i64, Refusal> {
    if (1..=QUANTITY_MAX).contains(&quantity) {
        return Ok(quantity);
    }
    Err(Refusal::invalid(field, format!("数量应在 1 到 {QUANTITY_MAX} 之间")))
}

fn items(items: Option<Vec<ItemInput>>) -> Result<Vec<Wanted>, Refusal> {
    let items = items.ok_or_else(|| Refusal::invalid("items", "请选择商品"))?;
    if items.is_empty() || items.len() > LINES_MAX {
        return Err(Refusal::invalid("items", format!("items 应有 1 到 {LINES_MAX} 项")));
    }
    let parse = |(i, item): (usize, ItemInput)| {
        let bad = |name: &str| Refusal::invalid(&format!("items[{i}].{name}"), format!("{name} 格式不正确"));
        let sku = item.sku_id.as_deref().filter(|text| !text.is_empty());
        Ok(Wanted {
            product_id: ProductId::parse(&item.product_id).map_err(|_| bad("productId"))?,
            sku_id: sku.map(|text| SkuId::parse(text).map_err(|_| bad("skuId"))).transpose()?,
            quantity: check_quantity(&format!("items[{i}].quantity"), item.quantity)?,
        })
    };
    items.into_iter().enumerate().map(parse).collect()
}

fn missing(field: &str) -> Refusal {
    Refusal::invalid(field, format!("缺少字段 {field}"))
}

fn line_ids(ids: Option<Vec<String>>) -> Result<Option<BTreeSet<String>>, Refusal> {
    match ids {
        Some(ids) if ids.is_empty() || ids.len() > LINES_MAX => {
            Err(Refusal::invalid("lineIds", format!("lineIds 应有 1 到 {LINES_MAX} 项")))
        }
        ids => Ok(ids.map(|ids| ids.into_iter().collect())),
    }
}

fn update(input: Input) -> Result<Change, Refusal> {
    let quantity = input.quantity.map(|quantity| check_quantity("quantity", quantity)).transpose()?;
    if quantity.is_none() && input.selected.is_none() {
        return Err(missing("quantity"));
    }
    let line_id = input.line_id.ok_or_else(|| missing("lineId"))?;
    Ok(Change::Update { line_id, quantity, selected: input.selected })
}

fn remove(input: Input) -> Result<Change, Refusal> {
    Ok(Change::Remove(line_ids(input.line_ids)?.ok_or_else(|| missing("lineIds"))?))
}

fn select(input: Input) -> Result<Change, Refusal> {
    let selected = input.selected.ok_or_else(|| missing("selected"))?;
    Ok(Change::Select { line_ids: line_ids(input.line_ids)?, selected })
}
