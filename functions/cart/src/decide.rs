//! What becomes of a cart.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::{Code, Fen, ProductId, Refusal, SkuId};
use serde::{Deserialize, Serialize};
use store::carts::CartLine;
use store::products::{Product, SaleMode};

/// More lines than this are refused.
pub(crate) const LINES_MAX: usize = 100;
/// More pieces of one line than this are refused, as `submitOrder` does.
pub(crate) const QUANTITY_MAX: i64 = 9_999;

/// Goods that are to go in.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) product_id: ProductId,
    pub(crate) sku_id: Option<SkuId>,
    pub(crate) quantity: i64,
}

/// Why a line cannot be bought as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Invalid {
    /// The product or the SKU is gone, or off the shelf.
    OffShelf,
    /// The product has SKUs by now: one must be chosen.
    SkuRequired,
    SoldOut,
    /// There are some, but fewer than wanted.
    Insufficient,
    /// Only with a right from a draw.
    LotteryOnly,
    /// Only for coins and points.
    MallOnly,
    /// The cart has no room for more lines.
    CartFull,
}

impl Invalid {
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::OffShelf => "商品已下架",
            Self::SkuRequired => "请重新选择规格",
            Self::SoldOut => "已售罄",
            Self::Insufficient => "库存不足",
            Self::LotteryOnly => "该商品需凭购买资格购买",
            Self::MallOnly => "该商品只能在积分商城兑换",
            Self::CartFull => "购物车已满",
        }
    }
}

/// What the store offers for a line now: price and pieces, or why it offers none.
pub(crate) fn offer(product: Option<&Product>, sku: Option<&SkuId>) -> Result<(Fen, i64), Invalid> {
    let product = product.filter(|product| product.is_on_sale()).ok_or(Invalid::OffShelf)?;
    match product.sale_mode {
        SaleMode::Shop => {}
        SaleMode::Lottery => return Err(Invalid::LotteryOnly),
        SaleMode::Mall => return Err(Invalid::MallOnly),
    }
    match sku {
        None if product.skus.is_empty() => Ok((product.price, product.stock)),
        None => Err(Invalid::SkuRequired),
        Some(id) => product.sku(id).map(|sku| (sku.price, sku.stock)).ok_or(Invalid::OffShelf),
    }
}

/// Why this many pieces cannot be bought, if so.
pub(crate) fn invalid(offer: Result<(Fen, i64), Invalid>, quantity: i64) -> Option<Invalid> {
    match offer {
        Err(reason) => Some(reason),
        Ok((_, stock)) if stock <= 0 => Some(Invalid::SoldOut),
        Ok((_, stock)) if stock < quantity => Some(Invalid::Insufficient),
        Ok(_) => None,
    }
}

fn find<'a>(products: &'a [Product], id: &ProductId) -> Option<&'a Product> {
    products.iter().find(|product| product.id == *id)
}

/// Puts goods in on top of what is there. The first that cannot go in refuses all.
pub(crate) fn add(
    mut lines: Vec<CartLine>,
    wanted: &[Wanted],
    products: &[Product],
    now: DateTime<Utc>,
) -> Result<Vec<CartLine>, Refusal> {
    for (i, want) in wanted.iter().enumerate() {
        let field = |name: &str| format!("items[{i}].{name}");
        let offer = offer(find(products, &want.product_id), want.sku_id.as_ref());
        let (price, _) = offer.map_err(|reason| match reason {
            Invalid::OffShelf => Refusal::new(Code::ProductNotFound).detail("productId", want.product_id.as_str()),
            Invalid::SkuRequired => Refusal::invalid(&field("skuId"), reason.message()),
            _ => Refusal::invalid(&field("productId"), reason.message()),
        })?;
        let key = CartLine::key(&want.product_id, want.sku_id.as_ref());
        let there = lines.iter().find(|line| line.line_id == key).map_or(0, |line| line.quantity);
        let quantity = there.saturating_add(want.quantity);
        if quantity > QUANTITY_MAX {
            let text = format!("数量应在 1 到 {QUANTITY_MAX} 之间");
            return Err(Refusal::invalid(&field("quantity"), text));
        }
        if !put(&mut lines, want, quantity, price, now) {
            let text = format!("购物车最多 {LINES_MAX} 种商品");
            return Err(Refusal::new(Code::Conflict).with_message(text).detail("reason", "CART_FULL"));
        }
    }
    Ok(lines)
}

/// What a merge left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Skipped {
    pub(crate) line_id: String,
    pub(crate) reason: Invalid,
}

/// Brings in a cart from before the sign-in. Of goods that are in both the greater number stays, so that the same merge again
/// changes nothing. What cannot go in is left out and told.
pub(crate) fn merge(
    mut lines: Vec<CartLine>,
    wanted: &[Wanted],
    products: &[Product],
    now: DateTime<Utc>,
) -> (Vec<CartLine>, Vec<Skipped>) {
    let mut skipped = Vec::new();
    for want in wanted {
        let line_id = CartLine::key(&want.product_id, want.sku_id.as_ref());
        let there = lines.iter().find(|line| line.line_id == line_id).map_or(0, |line| line.quantity);
        if there >= want.quantity {
            continue;
        }
        match offer(find(products, &want.product_id), want.sku_id.as_ref()) {
            Err(reason) => skipped.push(Skipped { line_id, reason }),
            Ok((price, _)) if put(&mut lines, want, want.quantity, price, now) => {}
            Ok(_) => skipped.push(Skipped { line_id, reason: Invalid::CartFull }),
        }
    }
    (lines, skipped)
}

/// Sets a line to this quantity, selected, in front; false if there is no room for another line.
fn put(lines: &mut Vec<CartLine>, want: &Wanted, quantity: i64, price: Fen, now: DateTime<Utc>) -> bool {
    let line_id = CartLine::key(&want.product_id, want.sku_id.as_ref());
    let known = lines.iter().any(|line| line.line_id == line_id);
    if !known && lines.len() >= LINES_MAX {
        return false;
    }
    lines.retain(|line| line.line_id != line_id);
    let (product_id, sku_id) = (want.product_id.clone(), want.sku_id.clone());
    lines.insert(0, CartLine { line_id, product_id, sku_id, quantity, selected: true, price, added_at: now });
    true
}

/// A change of lines that are there.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Of one line.
    Update {
        line_id: String,
        quantity: Option<i64>,
        selected: Option<bool>,
    },
    Remove(BTreeSet<String>),
    /// Of these lines, or of all.
    Select {
        line_ids: Option<BTreeSet<String>>,
        selected: bool,
    },
    Clear,
}

/// `NOT_FOUND` where `update` names a line that is not there; to remove or select such a line changes nothing.
pub(crate) fn change(mut lines: Vec<CartLine>, change: &Change) -> Result<Vec<CartLine>, Refusal> {
    match change {
        Change::Update { line_id, quantity, selected } => {
            let line = lines.iter_mut().find(|line| line.line_id == *line_id);
            let line = line.ok_or_else(|| Refusal::new(Code::NotFound).detail("field", "lineId"))?;
            line.quantity = quantity.unwrap_or(line.quantity);
            line.selected = selected.unwrap_or(line.selected);
        }
        Change::Remove(ids) => lines.retain(|line| !ids.contains(&line.line_id)),
        Change::Select { line_ids, selected } => {
            let meant = |line: &&mut CartLine| line_ids.as_ref().is_none_or(|ids| ids.contains(&line.line_id));
            lines.iter_mut().filter(meant).for_each(|line| line.selected = *selected);
        }
        Change::Clear => lines.clear(),
    }
    Ok(lines)
}
