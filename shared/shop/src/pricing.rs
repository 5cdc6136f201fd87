//! What somebody wants to buy, and what it costs: the same for a preview and for the order.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use domain::freight;
use domain::pricing::check_claim;
use domain::quote::{Input, Line, Pieces, Proof, Purse, Quote, Sending, Want, prove};
use domain::{
    Code, CustomerId, Failure, Fen, OpenId, PaymentMethod, Points, ProductId, Refusal, ShopRules, SkuId, TemplateId,
    UserCouponId, Yuan,
};
use schemars::JsonSchema;
use serde::Deserialize;
use store::Store;
use store::coupons::{self, UserCoupon};
use store::freight::FreightTemplate;
use store::members::Member;
use store::prepaid::{PrepaidRecord, PrepaidType};
use store::products::{Product, SaleMode};
use store::qualifications::{self, Qualification};

use crate::members::active_member;
use crate::offers::Offer;
use crate::prepaid::Tender;

/// More lines than this are refused.
pub const ITEMS_MAX: usize = 100;
/// More pieces of one line than this are refused.
pub const QUANTITY_MAX: i64 = 9_999;

/// One line on the wire.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ItemInput {
    product_id: String,
    sku_id: Option<String>,
    quantity: i64,
    /// What the client believes one piece costs. Never used as a price; a difference is refused.
    #[schemars(with = "Option<f64>")]
    price: Option<Yuan>,
}

/// How it is to be paid.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Method {
    #[default]
    Wechat,
    Balance,
    /// Prepaid money; the remainder is paid through WeChat.
    Prestore,
    /// Prepaid goods; the remainder is paid through WeChat.
    Prepaid,
}

/// One wanted line.
pub struct Wanted {
    pub product_id: ProductId,
    pub sku_id: Option<SkuId>,
    pub quantity: i64,
    claimed_price: Option<Fen>,
}

/// What somebody sent, unchecked.
pub struct WishInput {
    pub items: Vec<ItemInput>,
    pub payment_method: Method,
    pub points_used: Option<i64>,
    pub prepaid_amount: Option<Yuan>,
    pub prepaid_record_ids: Option<Vec<String>>,
    pub user_coupon_id: Option<String>,
    pub qualification_id: Option<String>,
}

/// What somebody wants to buy and with what to pay for it.
pub struct Wish {
    pub lines: Vec<Wanted>,
    pub method: PaymentMethod,
    pub points: Points,
    pub prepaid_amount: Option<Fen>,
    pub prepaid_record_ids: Option<Vec<String>>,
    pub user_coupon_id: Option<UserCouponId>,
    pub qualification_id: Option<String>,
}

impl WishInput {
    /// Checks every field; a refusal names it.
    pub fn parse(self) -> Result<Wish, Refusal> {
        if self.items.is_empty() {
            return Err(Refusal::invalid("items", "请选择商品"));
        }
        if self.items.len() > ITEMS_MAX {
            return Err(Refusal::invalid("items", format!("一个订单最多 {ITEMS_MAX} 行商品")));
        }
        let by_prepaid = matches!(self.payment_method, Method::Prestore | Method::Prepaid);
        let stray = |given: bool, field: &str| {
            // Dropped silently, the buyer would pay more than they think.
            let refusal = || Refusal::invalid(field, format!("{field} 只能用于 prestore 或 prepaid 支付方式"));
            if given && !by_prepaid { Err(refusal()) } else { Ok(()) }
        };
        stray(self.prepaid_amount.is_some(), "prepaidAmount")?;
        stray(self.prepaid_record_ids.is_some(), "prepaidRecordIds")?;
        if self.prepaid_amount.is_some_and(|a| a.0.is_zero()) {
            return Err(Refusal::invalid("prepaidAmount", "prepaidAmount 应大于 0"));
        }
        if self.prepaid_record_ids.as_ref().is_some_and(|ids| ids.is_empty() || ids.len() > 50) {
            return Err(Refusal::invalid("prepaidRecordIds", "prepaidRecordIds 应有 1 到 50 个"));
        }
        let points = Points::new(self.points_used.unwrap_or(0))
            .map_err(|_| Refusal::invalid("pointsUsed", "pointsUsed 应为不小于 0 的整数"))?;
        let mut lines: Vec<Wanted> = Vec::with_capacity(self.items.len());
        for (i, item) in self.items.into_iter().enumerate() {
            let wanted = item.parse(i)?;
            // The same goods on two lines are one line: stock, prices and refunds then have one answer.
            match lines.iter_mut().find(|l| l.product_id == wanted.product_id && l.sku_id == wanted.sku_id) {
                Some(line) => {
                    line.quantity = line.quantity.saturating_add(wanted.quantity);
                    check_quantity(i, line.quantity)?;
                }
                None => lines.push(wanted),
            }
        }
        Ok(Wish {
            lines,
            method: match self.payment_method {
                Method::Wechat => PaymentMethod::Wechat,
                Method::Balance => PaymentMethod::Balance,
                Method::Prestore => PaymentMethod::Prestore,
                Method::Prepaid => PaymentMethod::Prepaid,
            },
            points,
            prepaid_amount: self.prepaid_amount.map(|y| y.0),
            prepaid_record_ids: self.prepaid_record_ids,
            user_coupon_id: coupon_id(self.user_coupon_id.as_deref())?,
            qualification_id: self.qualification_id.filter(|id| !id.is_empty()),
        })
    }
}

/// A text that can be no id is answered as an unknown one, never dropped: the buyer would pay more than they think.
fn coupon_id(text: Option<&str>) -> Result<Option<UserCouponId>, Refusal> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => UserCouponId::parse(text).map(Some).map_err(|_| coupons::not_found()),
    }
}

fn check_quantity(i: usize, quantity: i64) -> Result<(), Refusal> {
    if (1..=QUANTITY_MAX).contains(&quantity) {
        return Ok(());
    }
    Err(Refusal::invalid(&format!("items[{i}].quantity"), format!("数量应在 1 到 {QUANTITY_MAX} 之间")))
}

impl ItemInput {
    fn parse(self, i: usize) -> Result<Wanted, Refusal> {
        check_quantity(i, self.quantity)?;
        let bad = |name: &str| Refusal::invalid(&format!("items[{i}].{name}"), format!("{name} 格式不正确"));
        let sku_id = match self.sku_id.as_deref() {
            None | Some("") => None,
            Some(text) => Some(SkuId::parse(text).map_err(|_| bad("skuId"))?),
        };
        Ok(Wanted {
            product_id: ProductId::parse(&self.product_id).map_err(|_| bad("productId"))?,
            sku_id,
            quantity: self.quantity,
            claimed_price: self.price.map(|y| y.0),
        })
    }
}

/// What the store knows of a wish's subjects.
pub struct Known {
    pub member: Member,
    pub products: Vec<Product>,
    /// What sends those products.
    pub templates: Vec<FreightTemplate>,
    /// The customer's prepaid records, if they may be used.
    pub records: Vec<PrepaidRecord>,
    /// The right to buy that the wish names, whosever it is.
    pub right: Option<Qualification>,
    /// The coupon that the wish names, whosever it is.
    pub coupon: Option<UserCoupon>,
}

impl Known {
    /// Reads it; `unknown` is the answer if the shop does not know the buyer.
    pub async fn read(store: &Store, wish: &Wish, buyer: &OpenId, unknown: Code) -> Result<Self, Failure> {
        let ids: Vec<ProductId> = wish.lines.iter().map(|l| l.product_id.clone()).collect();
        let right = async {
            match &wish.qualification_id {
                Some(id) => store.qualification(id).await,
                None => Ok(None),
            }
        };
        let coupon = async {
            match &wish.user_coupon_id {
                Some(id) => store.user_coupon(id).await,
                None => Ok(None),
            }
        };
        let (member, products, right, coupon) =
            tokio::join!(active_member(store, buyer, unknown), store.products_by_id(&ids), right, coupon);
        let (member, products, right, coupon) = (member?, products?, right?, coupon?);
        let templates = templates_of(store, products.iter().filter_map(|p| p.freight_template_id.as_ref())).await?;
        let by_prepaid = matches!(wish.method, PaymentMethod::Prestore | PaymentMethod::Prepaid);
        let records = match member.customer_id.as_ref().filter(|_| by_prepaid) {
            Some(customer) => store.all_prepaid_records(customer).await?,
            None => Vec::new(),
        };
        Ok(Self { member, products, templates, records, right, coupon })
    }
}

/// The templates with these ids, each once.
pub(crate) async fn templates_of<'a>(
    store: &Store,
    ids: impl Iterator<Item = &'a TemplateId>,
) -> Result<Vec<FreightTemplate>, Failure> {
    let ids: BTreeSet<&TemplateId> = ids.collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(store.freight_templates_by_id(&ids.into_iter().cloned().collect::<Vec<_>>()).await?)
}

/// How lines are sent to a place; none if all of them are sent for nothing, wherever it is.
fn sending(
    lines: &[Line],
    templates: &[FreightTemplate],
    to: &freight::Destination,
) -> Result<Option<Sending>, Refusal> {
    if lines.iter().all(|line| line.template_id.is_none()) {
        return Ok(None);
    }
    to.check()?;
    Ok(Some(Sending { templates: templates.iter().map(FreightTemplate::template).collect(), to: to.clone() }))
}

/// A wish at its price.
pub struct Priced<'k> {
    pub offers: Vec<Offer<'k>>,
    pub proof: Proof,
    /// The prepaid money and goods that it takes.
    pub tender: Option<Tender>,
    pub right: Option<&'k Qualification>,
}

/// Prices a wish at the store's prices; refuses what cannot be bought. `to` is where it goes: without it no freight is in the
/// price. Pure.
pub fn price<'k>(
    wish: &Wish,
    known: &'k Known,
    to: Option<&freight::Destination>,
    rules: &ShopRules,
    now: DateTime<Utc>,
) -> Result<Priced<'k>, Refusal> {
    let Known { member, products, templates, records, right, coupon } = known;
    let right = wish.qualification_id.as_ref().map(|_| check_right(wish, right.as_ref(), member, now)).transpose()?;
    let offers = wish
        .lines
        .iter()
        .enumerate()
        .map(|(i, w)| Offer::find(i, &w.product_id, w.sku_id.as_ref(), products))
        .collect::<Result<Vec<_>, _>>()?;
    for (i, (wanted, offer)) in wish.lines.iter().zip(&offers).enumerate() {
        check_sale_mode(i, offer.product, right)?;
        check_claim(&format!("items[{i}].price"), wanted.claimed_price, offer.price)?;
    }
    let held = wish.user_coupon_id.as_ref().map(|_| check_coupon(coupon.as_ref(), member, now)).transpose()?;
    let offered = Offered::of(wish, member, records)?;
    let by_balance = wish.method == PaymentMethod::Balance;
    let lines: Vec<Line> = wish.lines.iter().zip(&offers).map(|(wanted, offer)| offer.line(wanted.quantity)).collect();
    let proof = prove(Input {
        sending: to.map(|to| sending(&lines, templates, to)).transpose()?.flatten(),
        lines,
        coupon: held.map(UserCoupon::held),
        points: wish.points,
        prepaid_goods: offered.as_ref().and_then(|o| o.goods.clone()),
        prepaid_money: offered.as_ref().and_then(|o| o.money),
        balance: by_balance.then_some(Purse { available: member.balance, want: Want::Rest }),
        adjustments: Vec::new(),
        rules: rules.into(),
        now,
    })?;
    let tender = offered.and_then(|o| o.tender(wish, &proof.quote));
    Ok(Priced { offers, proof, tender, right })
}

/// The coupon that the wish names, if it is the member's and unused. The transaction guards that again; whether it fits the
/// goods is for the price to say.
fn check_coupon<'a>(
    coupon: Option<&'a UserCoupon>,
    member: &Member,
    now: DateTime<Utc>,
) -> Result<&'a UserCoupon, Refusal> {
    let coupon = coupon.filter(|c| c.user_id == member.id).ok_or_else(coupons::not_found)?;
    coupon.check(now)?;
    Ok(coupon)
}

/// The right that the wish names, if it is the member's and for exactly the wanted goods.
fn check_right<'a>(
    wish: &Wish,
    right: Option<&'a Qualification>,
    member: &Member,
    now: DateTime<Utc>,
) -> Result<&'a Qualification, Refusal> {
    let right = right.filter(|r| r.user_id == member.id).ok_or_else(qualifications::not_found)?;
    // Whether it still holds is told before what it is for.
    right.check(&right.product_id, right.sku_id.as_ref(), right.quantity, now)?;
    let [line] = wish.lines.as_slice() else {
        return Err(qualifications::invalid("PRODUCT_MISMATCH", "使用购买资格时只能购买该商品"));
    };
    right.check(&line.product_id, line.sku_id.as_ref(), line.quantity, now)?;
    Ok(right)
}

/// Whether the product may be bought in this way.
fn check_sale_mode(i: usize, product: &Product, right: Option<&Qualification>) -> Result<(), Refusal> {
    match (product.sale_mode, right) {
        (SaleMode::Shop, _) | (SaleMode::Lottery, Some(_)) => Ok(()),
        (SaleMode::Lottery, None) => Err(qualifications::invalid("REQUIRED", "该商品需中签后凭购买资格购买")
            .detail("productId", product.id.as_str())),
        (SaleMode::Mall, _) => Err(Refusal::invalid(&format!("items[{i}].productId"), "该商品只能在积分商城兑换")),
    }
}

pub fn too_large() -> Refusal {
    Refusal::invalid("items", "订单金额超出范围")
}

/// What a customer's prepaid records offer an order.
struct Offered {
    customer: CustomerId,
    /// None: none are to be used.
    goods: Option<Vec<Pieces>>,
    money: Option<Purse>,
}

impl Offered {
    /// `records` are the customer's, whatever they hold. None if the order is not paid by prepaid.
    fn of(wish: &Wish, member: &Member, records: &[PrepaidRecord]) -> Result<Option<Self>, Refusal> {
        if !matches!(wish.method, PaymentMethod::Prestore | PaymentMethod::Prepaid) {
            return Ok(None);
        }
        let customer = member.customer_id.clone().ok_or_else(|| Refusal::new(Code::CustomerNotFound))?;
        let ids = wish.prepaid_record_ids.as_deref();
        if let Some(unknown) = ids.and_then(|ids| ids.iter().find(|id| !records.iter().any(|r| r.id == **id))) {
            return Err(Refusal::invalid("prepaidRecordIds", "没有这条预存记录").detail("recordId", unknown.as_str()));
        }
        let usable: Vec<&PrepaidRecord> =
            records.iter().filter(|r| ids.is_none_or(|ids| ids.contains(&r.id))).collect();
        let by_goods = wish.method == PaymentMethod::Prepaid;
        let want = match wish.prepaid_amount {
            Some(amount) => Some(Want::Amount { amount }),
            None if by_goods => None,
            None => Some(Want::Most),
        };
        let money = match want {
            Some(want) => Some(Purse { available: money_in(&usable)?, want }),
            None => None,
        };
        Ok(Some(Self { customer, goods: by_goods.then(|| pieces_in(wish, &usable)), money }))
    }

    /// What the order takes of it.
    fn tender(self, wish: &Wish, quote: &Quote) -> Option<Tender> {
        let mut pieces: BTreeMap<ProductId, i64> = BTreeMap::new();
        for (wanted, share) in wish.lines.iter().zip(&quote.lines).filter(|(_, s)| s.prepaid_quantity > 0) {
            let sum = pieces.entry(wanted.product_id.clone()).or_default();
            *sum = sum.saturating_add(share.prepaid_quantity);
        }
        let amount = quote.total.prepaid_amount;
        let takes = !pieces.is_empty() || !amount.is_zero();
        takes.then(|| Tender { customer: self.customer, record_ids: wish.prepaid_record_ids.clone(), pieces, amount })
    }
}

fn money_in(usable: &[&PrepaidRecord]) -> Result<Fen, Refusal> {
    let money = usable.iter().filter(|r| r.prepaid_type == PrepaidType::Amount);
    Fen::new(money.fold(0i64, |sum, r| sum.saturating_add(r.balance))).map_err(|_| too_large())
}

/// The pieces of wanted products, by product.
fn pieces_in(wish: &Wish, usable: &[&PrepaidRecord]) -> Vec<Pieces> {
    let mut there: BTreeMap<&ProductId, i64> = BTreeMap::new();
    for record in usable.iter().filter(|r| r.prepaid_type == PrepaidType::Product) {
        let product = record.product_id.as_ref();
        if let Some(product) = product.filter(|p| wish.lines.iter().any(|l| l.product_id == **p)) {
            let sum = there.entry(product).or_default();
            *sum = sum.saturating_add(record.balance);
        }
    }
    there.into_iter().map(|(product, pieces)| Pieces { product_id: product.clone(), pieces }).collect()
}
