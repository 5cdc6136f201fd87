//! The wire input and what it means.

use domain::quote::Quote;
use domain::{Fen, Refusal, Yuan, text};
use schemars::JsonSchema;
use serde::Deserialize;
use shop::address::{AddressInput, Destination};
use shop::pricing::{ItemInput, Method, Wish, WishInput};

/// The event of `submitOrder`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    items: Vec<ItemInput>,
    address: Option<AddressInput>,
    /// Instead of `address`: one of the member's, as `addresses` lists them.
    address_id: Option<String>,
    payment_method: Method,
    /// Points to use; whole, at most what the goods are worth.
    points_used: Option<i64>,
    remark: Option<String>,
    /// Services name the user here; a user may name only themselves.
    pub(crate) open_id: Option<String>,
    /// What the client believes the goods cost. Never used as a price; a difference is refused.
    #[schemars(with = "Option<f64>")]
    total_amount: Option<Yuan>,
    /// What the client believes is left to pay. Never used as a price; a difference is refused.
    #[schemars(with = "Option<f64>")]
    payment_amount: Option<Yuan>,
    /// Prepaid money to use, in yuan. With `prestore` as much as possible unless given; with `prepaid` none unless given.
    #[schemars(with = "Option<f64>")]
    prepaid_amount: Option<Yuan>,
    /// Only these prepaid records may pay.
    prepaid_record_ids: Option<Vec<String>>,
    /// A coupon that the user holds, for the whole order.
    user_coupon_id: Option<String>,
    /// A right to buy that a draw gave: the order has then one line, of exactly its goods.
    qualification_id: Option<String>,
    /// What a preview showed, valid for 15 minutes. A price that has changed since is refused with the differences.
    quote_id: Option<String>,
}

/// A checked command.
pub(crate) struct Command {
    pub(crate) wish: Wish,
    pub(crate) destination: Destination,
    pub(crate) remark: String,
    pub(crate) claimed_total: Option<Fen>,
    pub(crate) claimed_payment: Option<Fen>,
    pub(crate) quote_id: Option<String>,
    /// What the buyer was shown under that id.
    pub(crate) shown: Option<Quote>,
}

impl Input {
    /// Checks every field; a refusal names it.
    pub(crate) fn parse(self) -> Result<Command, Refusal> {
        let wish = WishInput {
            items: self.items,
            payment_method: self.payment_method,
            points_used: self.points_used,
            prepaid_amount: self.prepaid_amount,
            prepaid_record_ids: self.prepaid_record_ids,
            user_coupon_id: self.user_coupon_id,
            qualification_id: self.qualification_id,
        };
        let wish = wish.parse()?;
        Ok(Command {
            wish,
            destination: Destination::parse(self.address, self.address_id)?,
            remark: text::clean("remark", &self.remark.unwrap_or_default(), 200)?,
            claimed_total: self.total_amount.map(|y| y.0),
            claimed_payment: self.payment_amount.map(|y| y.0),
            quote_id: self.quote_id.filter(|id| !id.is_empty()),
            shown: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Command, Refusal> {
        serde_json::from_str::<Input>(json).unwrap().parse()
    }

    const ADDRESS: &str = r#""address":{"name":"张三","phone":"13800138000","detail":"文三路 1 号"}"#;

    fn with_items(items: &str) -> Result<Command, Refusal> {
        parse(&format!(r#"{{"items":{items},{ADDRESS},"paymentMethod":"wechat"}}"#))
    }

    #[test]
    fn same_goods_become_one_line() {
        let command = with_items(r#"[{"productId":"p","quantity":2},{"productId":"p","skuId":"","quantity":3},{"productId":"p","skuId":"s","quantity":1}]"#).ok().unwrap();
        let lines: Vec<_> = command.wish.lines.iter().map(|l| (l.sku_id.is_some(), l.quantity)).collect();
        assert_eq!(lines, [(false, 5), (true, 1)]);
    }

    #[test]
    fn each_refusal_names_its_field() {
        let many = format!("[{}]", vec![r#"{"productId":"p","quantity":1}"#; 101].join(","));
        let cases = [
            ("[]", "items"),
            (many.as_str(), "items"),
            (r#"[{"productId":"p","quantity":0}]"#, "items[0].quantity"),
            (r#"[{"productId":"p","quantity":-1}]"#, "items[0].quantity"),
            (r#"[{"productId":"p","quantity":9999},{"productId":"p","quantity":1}]"#, "items[1].quantity"),
            (r#"[{"productId":"{\"$ne\":1}","quantity":1}]"#, "items[0].productId"),
        ];
        for (items, field) in cases {
            let refusal = with_items(items).err().unwrap();
            assert_eq!(refusal.details["field"], field, "{items}");
        }
    }

    #[test]
    fn the_address_of_wx_choose_address_is_taken() {
        let json = r#"{"items":[{"productId":"p","quantity":1}],"paymentMethod":"balance","address":{"userName":"李四","telNumber":"020-81167888","provinceName":"广东省","cityName":"广州市","countyName":"海珠区","detailInfo":"新港中路397号"}}"#;
        let Destination::Given(address) = parse(json).ok().unwrap().destination else { panic!("not as it was given") };
        assert_eq!((address.name.as_str(), address.district.as_str()), ("李四", "海珠区"));
        let none = parse(r#"{"items":[{"productId":"p","quantity":1}],"paymentMethod":"wechat"}"#).err().unwrap();
        assert_eq!(none.details["field"], "address");
    }
}
