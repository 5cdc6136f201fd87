//! What the store sells under the lines that somebody wants.

use domain::quote::Line;
use domain::{Code, Fen, ProductId, Refusal, SkuId};
use store::products::{Product, Sku};

/// A product, or one of its SKUs, at its price.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    pub product: &'a Product,
    pub sku: Option<&'a Sku>,
    pub price: Fen,
}

impl<'a> Offer<'a> {
    /// What line `i` of the wanted ones is; `PRODUCT_NOT_FOUND` also where it is not on sale, `INVALID_ARGUMENT` on the SKU that
    /// was not chosen.
    pub fn find(i: usize, product: &ProductId, sku: Option<&SkuId>, products: &'a [Product]) -> Result<Self, Refusal> {
        let missing = || Refusal::new(Code::ProductNotFound).detail("productId", product.as_str());
        let product = products.iter().find(|p| p.id == *product && p.is_on_sale()).ok_or_else(missing)?;
        match sku {
            None if product.skus.is_empty() => Ok(Self { product, sku: None, price: product.price }),
            None => Err(Refusal::invalid(&format!("items[{i}].skuId"), "请选择规格")),
            Some(id) => {
                let sku = product.sku(id).ok_or_else(|| missing().detail("skuId", id.as_str()))?;
                Ok(Self { product, sku: Some(sku), price: sku.price })
            }
        }
    }

    /// Pieces of it, as they are priced.
    pub fn line(&self, quantity: i64) -> Line {
        Line {
            product_id: self.product.id.clone(),
            sku_id: self.sku.map(|s| s.sku_id.clone()),
            category: self.product.category.clone(),
            price: self.price,
            quantity,
            weight_g: self.product.weight_g,
            template_id: self.product.freight_template_id.clone(),
        }
    }
}
