//! `pointsMall`: goods for coins and points.

use domain::{Failure, ProductId, Refusal, SkuId};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::address::{AddressInput, Destination};
use shop::mall::{QUANTITY_MAX, Redeem, Redeeming, redeem};
use store::page::PageRequest;
use store::products::Product;

pub fn function() -> Function {
    Function::new("pointsMall", handle)
        .summary("积分商城")
        .accepts(&[Accept::User])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    List,
    Redeem,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `list`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    after: Option<String>,
    /// For `redeem`.
    product_id: Option<String>,
    /// For `redeem`, where the goods have variants.
    sku_id: Option<String>,
    /// For `redeem`: pieces, 1 to 99.
    quantity: Option<i64>,
    /// For `redeem`: where the goods go.
    address: Option<AddressInput>,
    /// For `redeem`, instead of `address`: one of the member's, as `addresses` lists them.
    address_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SkuView {
    sku_id: String,
    name: String,
    stock: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GoodsView {
    #[serde(rename = "_id")]
    id: String,
    name: String,
    description: String,
    images: Vec<String>,
    /// What one piece costs: points and coins.
    points_price: i64,
    coin_price: i64,
    /// Pieces that can be had now, over all variants.
    stock: i64,
    skus: Vec<SkuView>,
}

impl From<Product> for GoodsView {
    fn from(product: Product) -> Self {
        let sku = |s: &store::products::Sku| SkuView {
            sku_id: s.sku_id.as_str().to_owned(),
            name: s.name.clone(),
            stock: s.stock,
        };
        Self {
            id: product.id.as_str().to_owned(),
            stock: product.available(),
            skus: product.skus.iter().map(sku).collect(),
            name: product.name,
            description: product.description,
            images: product.images,
            points_price: product.points_price,
            coin_price: product.coin_price,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<GoodsView>,
    next_cursor: Option<String>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::List => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let page = ctx.store().mall_products(&request).await?.map(GoodsView::from);
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Redeem => {
            let open_id = ctx.caller.acting_open_id(None)?;
            let (wanted, key) = (parse(input)?, ctx.command_key());
            let (store, rules, key) = (ctx.store(), ctx.rules(), key.as_ref());
            let redeeming =
                Redeeming { store, rules, open_id: &open_id, redeem: &wanted, key, random: rand::random, now: ctx.now };
            let done = redeem(&redeeming).await?;
            Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
        }
    }
}

/// Checks what `redeem` wants; a refusal names the field.
fn parse(input: Input) -> Result<Redeem, Refusal> {
    let product = input.product_id.ok_or_else(|| Refusal::invalid("productId", "请指定 productId"))?;
    let quantity = input.quantity.ok_or_else(|| Refusal::invalid("quantity", "请填写数量"))?;
    if !(1..=QUANTITY_MAX).contains(&quantity) {
        return Err(Refusal::invalid("quantity", format!("数量应在 1 到 {QUANTITY_MAX} 之间")));
    }
    let sku_id = match input.sku_id.as_deref() {
        None | Some("") => None,
        Some(text) => Some(SkuId::parse(text).map_err(|_| Refusal::invalid("skuId", "skuId 格式不正确"))?),
    };
    Ok(Redeem {
        product_id: ProductId::parse(&product).map_err(|_| Refusal::invalid("productId", "productId 格式不正确"))?,
        sku_id,
        quantity,
        destination: Destination::parse(input.address, input.address_id)?,
    })
}
