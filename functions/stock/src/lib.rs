//! `stock`: pieces that come in, go out or are counted by hand, and what is running low.

use domain::money::POINTS_MAX;
use domain::{Code, Failure, ProductId, Refusal, SkuId, text};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::views;
use store::inventory::{Kind, Moved, Movement, StockMove};
use store::members::StockRecord;
use store::page::PageRequest;
use store::products::Product;

/// More lines at once are refused.
const ITEMS_MAX: usize = 100;
/// What is low unless a limit is given.
const LOW: i64 = 10;

pub fn function() -> Function {
    Function::new("stock", handle)
        .summary("库存：入库、出库、盘点、预警")
        .accepts(&[Accept::Service("stock"), Accept::Staff("stock")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    In,
    Out,
    Count,
    Records,
    Low,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `in`, `out` and `count`: at most 100, all or nothing.
    items: Option<Vec<ItemInput>>,
    /// For `in`, `out` and `count`: why; at most 100 characters.
    reason: Option<String>,
    /// For `records`: only of this product.
    product_id: Option<String>,
    /// For `low`: so many pieces or fewer; 10 unless given.
    limit_pieces: Option<i64>,
    /// For `records` and `low`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `records` and `low`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ItemInput {
    product_id: String,
    sku_id: Option<String>,
    /// For `in` and `out`: pieces, at least 1.
    quantity: Option<i64>,
    /// For `count`: what the shop showed when the pieces were counted.
    expected: Option<i64>,
    /// For `count`: what was there. The difference is booked on what the shop shows now, so that what was sold in between counts.
    counted: Option<i64>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MovedView {
    product_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sku_id: Option<String>,
    /// Pieces, signed.
    change: i64,
    /// Pieces that can be bought after it.
    stock: i64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MoveOutput {
    /// The entry of the book; null where a count found no difference.
    entry_id: Option<String>,
    items: Vec<MovedView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordView {
    #[serde(rename = "_id")]
    id: String,
    /// `in` or `out`.
    #[serde(rename = "type")]
    record_type: String,
    product_id: String,
    sku_id: Option<String>,
    quantity: i64,
    /// The order that it went with, or null where it was booked by hand.
    order_id: Option<String>,
    kind: Option<Kind>,
    reason: Option<String>,
    by: Option<String>,
    entry_id: String,
    created_at: String,
}

impl From<StockRecord> for RecordView {
    fn from(record: StockRecord) -> Self {
        Self {
            id: record.id,
            record_type: record.record_type,
            product_id: record.product_id.into(),
            sku_id: record.sku_id.map(String::from),
            quantity: record.quantity,
            order_id: record.order_id.map(String::from),
            kind: record.kind,
            reason: record.reason,
            by: record.by,
            entry_id: record.entry_id,
            created_at: views::iso(record.created_at),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LowSku {
    sku_id: String,
    name: String,
    stock: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LowView {
    product_id: String,
    name: String,
    /// Over all SKUs.
    stock: i64,
    /// Those SKUs that are low.
    skus: Vec<LowSku>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::In => book(&ctx, Kind::In, input).await,
        Action::Out => book(&ctx, Kind::Out, input).await,
        Action::Count => book(&ctx, Kind::Count, input).await,
        Action::Records => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let product = input.product_id.as_deref().map(|text| product_id("productId", text)).transpose()?;
            let page = ctx.store().stock_records(product.as_ref(), &request).await?.map(RecordView::from);
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Low => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let pieces = input.limit_pieces.unwrap_or(LOW);
            if !(0..=POINTS_MAX).contains(&pieces) {
                return Err(Refusal::invalid("limitPieces", "limitPieces 应为不小于 0 的整数").into());
            }
            let page = ctx.store().low_products(pieces, &request).await?.map(|product| low(&product, pieces));
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
    }
}

fn low(product: &Product, pieces: i64) -> LowView {
    let skus = product.skus.iter().filter(|sku| sku.stock <= pieces);
    let view = |sku: &store::products::Sku| LowSku {
        sku_id: sku.sku_id.as_str().to_owned(),
        name: sku.name.clone(),
        stock: sku.stock,
    };
    LowView {
        product_id: product.id.as_str().to_owned(),
        name: product.name.clone(),
        stock: product.available(),
        skus: skus.map(view).collect(),
    }
}

async fn book(ctx: &Context, kind: Kind, input: Input) -> Result<Reply, Failure> {
    let reason = text::required("reason", &input.reason.unwrap_or_default(), 100)?;
    let moves = moves(kind, input.items.unwrap_or_default())?;
    let key = ctx.command_key();
    let entry_id = match &key {
        Some(key) => format!("stock:{}:{}", key.id(), kind.as_str()),
        None => format!("stock:{:032x}:{}", rand::random::<u128>(), kind.as_str()),
    };
    let by = by_whom(&ctx.caller);
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (entry_id, reason, by, moves, now) = (&entry_id, &reason, &by, &moves, ctx.now);
            Box::pin(async move {
                // The book remembers a command for longer than its stored reply.
                if tx.entry(entry_id).await?.is_some() {
                    return Err(Code::Conflict.into());
                }
                let moved = tx.move_stock(&Movement { entry_id, kind, reason, by, moves, now }).await?;
                let entry_id = moved.iter().any(|one| one.change != 0).then(|| entry_id.clone());
                Ok(MoveOutput { entry_id, items: moved.into_iter().map(view).collect() })
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

fn view(moved: Moved) -> MovedView {
    MovedView {
        product_id: moved.product_id.into(),
        sku_id: moved.sku_id.map(String::from),
        change: moved.change,
        stock: moved.stock,
    }
}

fn product_id(field: &str, text: &str) -> Result<ProductId, Refusal> {
    ProductId::parse(text).map_err(|_| Refusal::invalid(field, "productId 格式不正确"))
}

fn moves(kind: Kind, items: Vec<ItemInput>) -> Result<Vec<StockMove>, Refusal> {
    if items.is_empty() || items.len() > ITEMS_MAX {
        return Err(Refusal::invalid("items", format!("items 应有 1 到 {ITEMS_MAX} 项")));
    }
    let mut moves: Vec<StockMove> = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let field = |name: &str| format!("items[{i}].{name}");
        let pieces = |name: &str, value: Option<i64>, least: i64| {
            let fits = value.filter(|n| (least..=POINTS_MAX).contains(n));
            fits.ok_or_else(|| Refusal::invalid(&field(name), format!("{name} 应为不小于 {least} 的整数")))
        };
        let change = match kind {
            Kind::In => pieces("quantity", item.quantity, 1)?,
            Kind::Out => pieces("quantity", item.quantity, 1)?.saturating_neg(),
            Kind::Count => pieces("counted", item.counted, 0)?.saturating_sub(pieces("expected", item.expected, 0)?),
        };
        let sku = item.sku_id.as_deref().filter(|text| !text.is_empty());
        let sku_id = sku.map(SkuId::parse).transpose();
        let sku_id = sku_id.map_err(|_| Refusal::invalid(&field("skuId"), "skuId 格式不正确"))?;
        let product_id = product_id(&field("productId"), &item.product_id)?;
        if moves.iter().any(|one| one.product_id == product_id && one.sku_id == sku_id) {
            return Err(Refusal::invalid(&field("productId"), "同一商品只能出现一次"));
        }
        moves.push(StockMove { product_id, sku_id, change });
    }
    // Of two commands at once that name the same goods, both go the same way.
    moves.sort_by(|a, b| (&a.product_id, &a.sku_id).cmp(&(&b.product_id, &b.sku_id)));
    Ok(moves)
}

fn by_whom(caller: &Caller) -> String {
    match caller {
        Caller::Staff { id, .. } => format!("staff {id}"),
        Caller::Service { key_id, .. } => format!("service {key_id}"),
        other => other.kind().to_owned(),
    }
}
