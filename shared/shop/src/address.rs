//! Where goods go, as it comes in.

use domain::{Code, Failure, Refusal, freight, text};
use schemars::JsonSchema;
use serde::Deserialize;
use store::Store;
use store::members::Member;
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

/// Where an order is to go: as written in the command, or an address of the member's by its id.
#[derive(Clone, Debug)]
pub enum Destination {
    Given(Address),
    Saved(String),
}

impl Destination {
    /// Exactly one of the two; a refusal names `address` or `addressId`.
    pub fn parse(address: Option<AddressInput>, id: Option<String>) -> Result<Self, Refusal> {
        match (address, id) {
            (Some(_), Some(_)) => Err(Refusal::invalid("addressId", "address 与 addressId 只能填写一个")),
            (Some(address), None) => Ok(Self::Given(address.parse()?)),
            (None, Some(id)) => Ok(Self::Saved(address_id(Some(id))?)),
            (None, None) => Err(Refusal::invalid("address", "请填写收货地址")),
        }
    }

    /// The address as it is now. `NOT_FOUND` with `details.field` if the member has none with this id.
    pub async fn resolve(&self, store: &Store, member: &Member) -> Result<Address, Failure> {
        let id = match self {
            Self::Given(address) => return Ok(address.clone()),
            Self::Saved(id) => id,
        };
        let saved = store.address(id).await?.filter(|saved| saved.is_visible_to(member));
        let saved = saved.ok_or_else(missing)?;
        // The CRM may know less of a customer than a courier needs.
        if [&saved.name, &saved.phone, &saved.detail].iter().any(|field| field.trim().is_empty()) {
            return Err(Refusal::invalid("addressId", "该地址不完整，请填写 address").into());
        }
        Ok(saved.address())
    }
}

/// The place of an address, as freight sees it.
pub fn place_of(address: &Address) -> freight::Destination {
    freight::Destination { province: address.province.clone(), city: address.city.clone(), code: None }
}

/// Where goods would go, for a price: a whole address, or its province and city alone.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlaceInput {
    #[serde(alias = "provinceName")]
    province: String,
    #[serde(default, alias = "cityName")]
    city: String,
}

impl PlaceInput {
    /// Checks every field; a refusal names it under `address`.
    pub fn parse(self) -> Result<freight::Destination, Refusal> {
        Ok(freight::Destination {
            province: text::required("address.province", &self.province, 50)?,
            city: text::clean("address.city", &self.city, 50)?,
            code: None,
        })
    }
}

/// What is answered where a member has no such address.
pub fn missing() -> Refusal {
    Refusal::new(Code::NotFound).with_message("收货地址不存在").detail("field", "addressId")
}

/// The id of an address as it comes in.
pub fn address_id(text: Option<String>) -> Result<String, Refusal> {
    let text = text.ok_or_else(|| Refusal::invalid("addressId", "请指定 addressId"))?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
        return Err(Refusal::invalid("addressId", "addressId 格式不正确"));
    }
    Ok(text)
}
