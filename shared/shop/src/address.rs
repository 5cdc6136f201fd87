//! Where goods go, as it comes in.

use domain::{Refusal, text};
use schemars::JsonSchema;
use serde::Deserialize;
use store::orders::Address;

/// An address as clients send it. Besides its own names it takes those of `wx.chooseAddress`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressInput {
    #[serde(
        alias = "userName",
        alias = "receiver",
        alias = "receiverName",
        alias = "contactName",
        alias = "consignee"
    )]
    name: String,
    #[serde(alias = "telNumber", alias = "mobile", alias = "receiverPhone", alias = "contactPhone")]
    phone: String,
    #[serde(default, alias = "provinceName")]
    province: String,
    #[serde(default, alias = "cityName")]
    city: String,
    #[serde(default, alias = "countyName", alias = "county")]
    district: String,
    #[serde(alias = "detailInfo", alias = "detailAddress", alias = "address")]
    detail: String,
}

impl AddressInput {
    /// Checks every field; a refusal names it under `address`.
    pub fn parse(self) -> Result<Address, Refusal> {
        let phone = text::required("address.phone", &self.phone, 20)?;
        if !phone.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b' ')) {
            return Err(Refusal::invalid("address.phone", "收货电话格式不正确"));
        }
        Ok(Address {
            name: text::required("address.name", &self.name, 50)?,
            phone,
            province: text::clean("address.province", &self.province, 50)?,
            city: text::clean("address.city", &self.city, 50)?,
            district: text::clean("address.district", &self.district, 50)?,
            detail: text::required("address.detail", &self.detail, 200)?,
        })
    }
}
