//! `products`: what is for sale.

use std::collections::HashMap;

use domain::{Code, Failure, Fen, ProductId, Refusal, Yuan, search};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::views;
use store::page::PageRequest;
use store::products::{Candidate, Product, SaleMode, Sku, Wanted};

/// So many of the newest products that have all tokens are ranked.
const CANDIDATES_MAX: i64 = 300;

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
    Search,
    Categories,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Sort {
    #[default]
    Newest,
    PriceAsc,
    PriceDesc,
}

/// As `SaleMode`, as it comes in.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Mode {
    Shop,
    Lottery,
    Mall,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    #[serde(default)]
    action: Action,
    /// For `get`.
    product_id: Option<String>,
    /// For `search`: Chinese, pinyin or its initials; 1 to 40 characters.
    query: Option<String>,
    /// For `list` and `search`: only this category.
    category: Option<String>,
    /// For `list` and `search`: only what is had in this way.
    sale_mode: Option<Mode>,
    /// For `list` and `search`: leave out what is sold out.
    in_stock: Option<bool>,
    /// For `list` and `search`, in yuan, each inclusive. Of a product with SKUs its own price counts.
    #[schemars(with = "Option<f64>")]
    price_min: Option<Yuan>,
    #[schemars(with = "Option<f64>")]
    price_max: Option<Yuan>,
    /// For `list`; `newest` unless given.
    sort: Option<Sort>,
    /// For `list` and `search`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list` and `search`: `nextCursor` of the page before, with the same filters.
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
    sold_out: bool,
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
            sold_out: product.available() <= 0,
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

#[derive(Serialize)]
struct CategoryView {
    name: String,
    /// Products on sale, 1,000 at most.
    count: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CategoriesOutput {
    data: Vec<CategoryView>,
    next_cursor: Option<String>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::List => list(&ctx, &input).await,
        Action::Search => search(&ctx, &input).await,
        Action::Categories => {
            let rows = ctx.store().categories().await?.into_iter();
            let data = rows.map(|(name, count)| CategoryView { name, count }).collect();
            Reply::of(&CategoriesOutput { data, next_cursor: None })
        }
        Action::Get => {
            let text = input.product_id.ok_or_else(|| Refusal::invalid("productId", "请指定 productId"))?;
            let id = ProductId::parse(&text).map_err(|_| Refusal::invalid("productId", "productId 格式不正确"))?;
            let product = ctx.store().product(&id).await?.filter(Product::is_on_sale).ok_or(Code::ProductNotFound)?;
            Reply::of(&ProductView::from(product))
        }
    }
}

fn wanted(input: &Input) -> Result<Wanted, Refusal> {
    let category = input.category.as_deref().map(|c| domain::text::required("category", c, 50)).transpose()?;
    let sale_mode = input.sale_mode.map(|mode| match mode {
        Mode::Shop => SaleMode::Shop,
        Mode::Lottery => SaleMode::Lottery,
        Mode::Mall => SaleMode::Mall,
    });
    let (price_min, price_max) = (input.price_min.map(|y| y.0), input.price_max.map(|y| y.0));
    if price_min.zip(price_max).is_some_and(|(min, max)| min > max) {
        return Err(Refusal::invalid("priceMax", "priceMax 不能小于 priceMin"));
    }
    Ok(Wanted { category, sale_mode, in_stock: input.in_stock == Some(true), price_min, price_max })
}

async fn list(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let wanted = wanted(input)?;
    let descending = match input.sort.unwrap_or_default() {
        Sort::Newest => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let page = ctx.store().products_on_sale(&wanted, &request).await?.map(ProductView::from);
            return Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor });
        }
        Sort::PriceAsc => false,
        Sort::PriceDesc => true,
    };
    let (limit, after) = (limit(input.limit)?, input.after.as_deref().filter(|text| !text.is_empty()));
    let after = after.map(|text| price_cursor(text).ok_or_else(bad_cursor)).transpose()?;
    let more = limit.saturating_add(1);
    let mut found = ctx.store().products_by_price(&wanted, descending, more, after.as_ref()).await?;
    let is_more = found.len() > limit;
    found.truncate(limit);
    let place = |product: &Product| hex::encode(format!("price {} {}", product.price.get(), product.id.as_str()));
    let next_cursor = found.last().filter(|_| is_more).map(place);
    Reply::of(&ListOutput { data: found.into_iter().map(ProductView::from).collect(), next_cursor })
}

/// Of what the tokens find, the newest are compared with the query and ranked; a page is a stretch of the ranking.
async fn search(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let query = input.query.as_deref().ok_or_else(|| Refusal::invalid("query", "请输入搜索内容"))?;
    let query = domain::text::required("query", query, search::QUERY_CHARS_MAX)?;
    let (wanted, limit) = (wanted(input)?, limit(input.limit)?);
    let after = input.after.as_deref().filter(|text| !text.is_empty());
    let begin = after.map(|text| search_cursor(text).ok_or_else(bad_cursor)).transpose()?.unwrap_or(0);
    let tokens = search::query_tokens(&query);
    let candidates = match tokens.is_empty() {
        true => Vec::new(),
        false => ctx.store().products_with_tokens(&tokens, &wanted, CANDIDATES_MAX).await?,
    };
    let ranked = |candidate: Candidate| Some((search::relevance(&query, &candidate.search_fields())?, candidate.id));
    let mut ranked: Vec<_> = candidates.into_iter().filter_map(ranked).collect();
    // Stable: among equals the newest stay in front.
    ranked.sort_by_key(|(relevance, _)| std::cmp::Reverse(*relevance));
    let end = begin.saturating_add(limit);
    let next_cursor = (ranked.len() > end).then(|| hex::encode(format!("search {end}")));
    let page: Vec<ProductId> = ranked.into_iter().skip(begin).take(limit).map(|(_, id)| id).collect();
    // What is shown is read only now, of a page and not of all that was compared.
    let found = if page.is_empty() { Vec::new() } else { ctx.store().products_by_id(&page).await? };
    let mut found: HashMap<ProductId, Product> =
        found.into_iter().map(|product| (product.id.clone(), product)).collect();
    let data =
        page.iter().filter_map(|id| found.remove(id)).filter(Product::is_on_sale).map(ProductView::from).collect();
    Reply::of(&ListOutput { data, next_cursor })
}

fn limit(limit: Option<i64>) -> Result<usize, Refusal> {
    let fits = |n: &usize| (1..=100).contains(n);
    let limit = usize::try_from(limit.unwrap_or(20)).ok().filter(fits);
    limit.ok_or_else(|| Refusal::invalid("limit", "limit 应在 1 到 100 之间"))
}

fn bad_cursor() -> Refusal {
    Refusal::invalid("after", "after 不是有效的游标")
}

fn decoded(text: &str) -> Option<String> {
    hex::decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok())
}

fn price_cursor(text: &str) -> Option<(Fen, ProductId)> {
    let text = decoded(text)?;
    let (price, id) = text.strip_prefix("price ")?.split_once(' ')?;
    Some((Fen::new(price.parse().ok()?).ok()?, ProductId::parse(id).ok()?))
}

fn search_cursor(text: &str) -> Option<usize> {
    decoded(text)?.strip_prefix("search ")?.parse().ok()
}
