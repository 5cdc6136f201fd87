//! `products`: what is for sale.

use domain::{Code, Failure, ProductId, Refusal, Yuan};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::views;
use store::page::PageRequest;
use store::products::{Product, SaleMode, Sku};

pub fn function() -> Function {
    Function::new("products", handle)
        .summary("商品列表与详情")
        .accepts(&[Accept::Anonymous, Accept::User, Accept::Service("products"), Accept::Staff("products")])
        .needs(&[Need::Store])
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    #[default]
    List,
    Get,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    #[serde(default)]
    action: Action,
    /// For `get`.
    product_id: Option<String>,
    /// For `list`: only this category.
    category: Option<String>,
    /// For `list`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SkuView {
    sku_id: String,
    name: String,
    price: Yuan,
    stock: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProductView {
    #[serde(rename = "_id")]
    id: String,
    name: String,
    description: String,
    category: String,
    images: Vec<String>,
    price: Yuan,
    /// Pieces that can be bought now, over all SKUs.
    stock: i64,
    skus: Vec<SkuView>,
    grants_coin: bool,
    /// `shop`, `lottery` (only with a right from a draw) or `mall` (only for coins and points).
    sale_mode: SaleMode,
    /// What one piece costs in the points mall.
    #[serde(skip_serializing_if = "Option::is_none")]
    points_price: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coin_price: Option<i64>,
    created_at: String,
}

impl From<Product> for ProductView {
    fn from(product: Product) -> Self {
        let sku = |s: &Sku| SkuView {
            sku_id: s.sku_id.as_str().to_owned(),
            name: s.name.clone(),
            price: Yuan(s.price),
            stock: s.stock,
        };
        Self {
            id: product.id.as_str().to_owned(),
            stock: product.available(),
            skus: product.skus.iter().map(sku).collect(),
            name: product.name,
            description: product.description,
            category: product.category,
            images: product.images,
            price: Yuan(product.price),
            grants_coin: product.grants_coin,
            sale_mode: product.sale_mode,
            points_price: (product.points_price > 0).then_some(product.points_price),
            coin_price: (product.coin_price > 0).then_some(product.coin_price),
            created_at: views::iso(product.created_at),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<ProductView>,
    next_cursor: Option<String>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::List => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let category = input.category.as_deref().map(|c| domain::text::required("category", c, 50)).transpose()?;
            let page = ctx.store().products_on_sale(category.as_deref(), &request).await?.map(ProductView::from);
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Get => {
            let text = input.product_id.ok_or_else(|| Refusal::invalid("productId", "请指定 productId"))?;
            let id = ProductId::parse(&text).map_err(|_| Refusal::invalid("productId", "productId 格式不正确"))?;
            let product = ctx.store().product(&id).await?.filter(Product::is_on_sale).ok_or(Code::ProductNotFound)?;
            Reply::of(&ProductView::from(product))
        }
    }
}
