//! `freight`: templates of what sending costs by region, and which products they are for.

use chrono::{DateTime, Utc};
use domain::freight::{Measure, PLACES_MAX, Place, Rule, Tariff};
use domain::money::POINTS_MAX;
use domain::{Code, Failure, Fen, ProductId, Refusal, TemplateId, Yuan, text};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::views;
use store::freight::FreightTemplate;
use store::page::PageRequest;

/// More products at once are refused.
const PRODUCTS_MAX: usize = 100;
const RULES_MAX: usize = 100;

pub fn function() -> Function {
    Function::new("freight", handle)
        .summary("运费模板")
        .accepts(&[Accept::Service("products"), Accept::Staff("products")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    List,
    Get,
    Create,
    Update,
    Delete,
    Assign,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `get`, `update` and `delete`; for `create` the new one's id, if it is to have this one; for `assign` the template of
    /// the products, which are sent for nothing without it.
    template_id: Option<String>,
    /// For `create` and `update`.
    template: Option<TemplateInput>,
    /// For `update`: the version that was read; another by now is `CONFLICT`.
    version: Option<i64>,
    /// For `assign`: 1 to 100.
    product_ids: Option<Vec<String>>,
    /// For `assign`: grams of one piece; left as they are without it.
    weight_g: Option<i64>,
    /// For `list`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    after: Option<String>,
}

/// What a template counts: pieces, grams, or nothing (`order`: `firstFee` once).
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum MeasureName {
    Piece,
    Weight,
    Order,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TemplateInput {
    name: String,
    measure: MeasureName,
    #[serde(default)]
    rules: Vec<RuleShape>,
    /// Everywhere else; nothing is sent there without it.
    default: Option<TariffShape>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RuleShape {
    places: Vec<PlaceShape>,
    /// Nothing is sent there without it.
    tariff: Option<TariffShape>,
}

/// A province, or one city of it; names or administrative codes.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PlaceShape {
    province: String,
    city: Option<String>,
}

/// Fees in yuan; `first` and `further` in pieces or grams.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TariffShape {
    first: i64,
    #[schemars(with = "f64")]
    first_fee: Yuan,
    further: i64,
    #[schemars(with = "f64")]
    further_fee: Yuan,
    #[schemars(with = "Option<f64>")]
    free_over_amount: Option<Yuan>,
    free_over_pieces: Option<i64>,
}

impl From<&Tariff> for TariffShape {
    fn from(tariff: &Tariff) -> Self {
        Self {
            first: tariff.first,
            first_fee: Yuan(tariff.first_fee),
            further: tariff.further,
            further_fee: Yuan(tariff.further_fee),
            free_over_amount: tariff.free_over_amount.map(Yuan),
            free_over_pieces: tariff.free_over_pieces,
        }
    }
}

impl From<TariffShape> for Tariff {
    fn from(shape: TariffShape) -> Self {
        let fen = |yuan: Yuan| -> Fen { yuan.0 };
        Self {
            first: shape.first,
            first_fee: fen(shape.first_fee),
            further: shape.further,
            further_fee: fen(shape.further_fee),
            free_over_amount: shape.free_over_amount.map(fen),
            free_over_pieces: shape.free_over_pieces,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TemplateView {
    #[serde(rename = "_id")]
    id: String,
    name: String,
    version: i64,
    measure: MeasureName,
    rules: Vec<RuleShape>,
    default: Option<TariffShape>,
    created_at: String,
    updated_at: String,
}

impl From<FreightTemplate> for TemplateView {
    fn from(template: FreightTemplate) -> Self {
        let place = |place: &Place| PlaceShape { province: place.province.clone(), city: place.city.clone() };
        let rule = |rule: &Rule| RuleShape {
            places: rule.places.iter().map(place).collect(),
            tariff: rule.tariff.as_ref().map(TariffShape::from),
        };
        Self {
            id: template.id.as_str().to_owned(),
            name: template.name,
            version: template.version,
            measure: match template.measure {
                Measure::Piece => MeasureName::Piece,
                Measure::Weight => MeasureName::Weight,
                Measure::Order => MeasureName::Order,
            },
            rules: template.rules.iter().map(rule).collect(),
            default: template.default.as_ref().map(TariffShape::from),
            created_at: views::iso(template.created_at),
            updated_at: views::iso(template.updated_at),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<TemplateView>,
    next_cursor: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeleteOutput {
    template_id: String,
    deleted: bool,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AssignOutput {
    assigned: usize,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::List => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let page = ctx.store().freight_templates(&request).await?.map(TemplateView::from);
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Get => {
            let id = required_id(input.template_id.as_deref())?;
            let template = ctx.store().freight_template(&id).await?.ok_or_else(missing)?;
            Reply::of(&TemplateView::from(template))
        }
        Action::Create => create(&ctx, input).await,
        Action::Update => update(&ctx, input).await,
        Action::Delete => delete(&ctx, &required_id(input.template_id.as_deref())?).await,
        Action::Assign => assign(&ctx, input).await,
    }
}

async fn create(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let id = match id(input.template_id.as_deref())? {
        Some(id) => id,
        None => required_id(Some(&format!("ft-{:024x}", rand::random::<u128>() >> 32)))?,
    };
    let template = parse(id, 1, input.template, ctx.now)?;
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let template = &template;
            Box::pin(async move {
                if tx.freight_template(&template.id).await?.is_some() {
                    return Err(Refusal::new(Code::Conflict).with_message("该模板已存在").into());
                }
                tx.insert_freight_template(template).await?;
                Ok(TemplateView::from(template.clone()))
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

async fn update(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let id = required_id(input.template_id.as_deref())?;
    let read = input.version.filter(|version| (1..POINTS_MAX).contains(version));
    let read = read.ok_or_else(|| Refusal::invalid("version", "请填写读取时的 version"))?;
    let template = parse(id, read.saturating_add(1), input.template, ctx.now)?;
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let template = &template;
            Box::pin(async move {
                let before = tx.freight_template(&template.id).await?.ok_or_else(missing)?;
                if !tx.change_freight_template(template).await? {
                    return Err(Refusal::new(Code::Conflict).detail("version", before.version).into());
                }
                Ok(TemplateView::from(FreightTemplate { created_at: before.created_at, ..template.clone() }))
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

async fn delete(ctx: &Context, id: &TemplateId) -> Result<Reply, Failure> {
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            Box::pin(async move {
                if let Some(product) = tx.product_of_template(id).await? {
                    let refusal = Refusal::new(Code::Conflict).with_message("仍有商品使用该模板");
                    return Err(refusal.detail("productId", product).into());
                }
                if !tx.delete_freight_template(id).await? {
                    return Err(missing().into());
                }
                Ok(DeleteOutput { template_id: id.as_str().to_owned(), deleted: true })
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

async fn assign(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let template = id(input.template_id.as_deref())?;
    let ids = input.product_ids.unwrap_or_default();
    if ids.is_empty() || ids.len() > PRODUCTS_MAX {
        return Err(Refusal::invalid("productIds", format!("productIds 应有 1 到 {PRODUCTS_MAX} 个")).into());
    }
    let weight_g = input.weight_g;
    if weight_g.is_some_and(|grams| !(0..=1_000_000).contains(&grams)) {
        return Err(Refusal::invalid("weightG", "weightG 应在 0 到 1000000 之间").into());
    }
    let parse = |(i, text): (usize, String)| {
        let field = format!("productIds[{i}]");
        ProductId::parse(&text).map_err(|_| Refusal::invalid(&field, "productId 格式不正确"))
    };
    let products = ids.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (template, products) = (template.as_ref(), &products);
            Box::pin(async move {
                if let Some(id) = template
                    && !tx.hold_freight_template(id).await?
                {
                    return Err(missing().into());
                }
                for product in products {
                    if !tx.send_product_by(product, template, weight_g).await? {
                        return Err(Refusal::new(Code::ProductNotFound).detail("productId", product.as_str()).into());
                    }
                }
                Ok(AssignOutput { assigned: products.len() })
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

fn missing() -> Refusal {
    Refusal::new(Code::NotFound).with_message("运费模板不存在").detail("field", "templateId")
}

fn id(text: Option<&str>) -> Result<Option<TemplateId>, Refusal> {
    let parse = |text| TemplateId::parse(text).map_err(|_| Refusal::invalid("templateId", "templateId 格式不正确"));
    text.map(parse).transpose()
}

fn required_id(text: Option<&str>) -> Result<TemplateId, Refusal> {
    id(text)?.ok_or_else(|| Refusal::invalid("templateId", "请指定 templateId"))
}

/// Checks every field; a refusal names it.
fn parse(
    id: TemplateId,
    version: i64,
    input: Option<TemplateInput>,
    now: DateTime<Utc>,
) -> Result<FreightTemplate, Refusal> {
    let input = input.ok_or_else(|| Refusal::invalid("template", "缺少字段 template"))?;
    let places: usize = input.rules.iter().map(|rule| rule.places.len()).sum();
    if input.rules.len() > RULES_MAX || places > PLACES_MAX {
        let text = format!("rules 最多 {RULES_MAX} 条，地区最多 {PLACES_MAX} 个");
        return Err(Refusal::invalid("template.rules", text));
    }
    let place = |shape: PlaceShape| {
        let city = shape.city.filter(|city| !city.trim().is_empty());
        Ok(Place {
            province: text::required("template.rules.places.province", &shape.province, 50)?,
            city: city.map(|city| text::required("template.rules.places.city", &city, 50)).transpose()?,
        })
    };
    let rule = |shape: RuleShape| {
        let places = shape.places.into_iter().map(place).collect::<Result<Vec<_>, Refusal>>()?;
        Ok(Rule { places, tariff: shape.tariff.map(Tariff::from) })
    };
    let template = FreightTemplate {
        id,
        name: text::required("template.name", &input.name, 50)?,
        version,
        measure: match input.measure {
            MeasureName::Piece => Measure::Piece,
            MeasureName::Weight => Measure::Weight,
            MeasureName::Order => Measure::Order,
        },
        rules: input.rules.into_iter().map(rule).collect::<Result<Vec<_>, Refusal>>()?,
        default: input.default.map(Tariff::from),
        created_at: now,
        updated_at: now,
    };
    template.template().check()?;
    Ok(template)
}
