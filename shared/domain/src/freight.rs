//! Freight: what sending an order costs, by template and region.
//!
//! Each line has a template. The lines of one template are one parcel: the first pieces or grams cost one fee, every started
//! further step another. With several templates in one order their fees add up; each template's free-shipping terms look at its
//! own goods only. What the goods are worth is measured before any discount, so that a coupon never makes freight appear and
//! costs its user nothing.

use serde::{Deserialize, Serialize};

use crate::money::{AmountError, whole, whole_option};
use crate::{Fen, ProductId, Refusal, TemplateId};

/// No template names more places.
pub const PLACES_MAX: usize = 1_000;

/// The provinces: the first two digits of their codes (GB/T 2260) and their short names.
const PROVINCES: [(&str, &str); 34] = [
    ("11", "北京"),
    ("12", "天津"),
    ("13", "河北"),
    ("14", "山西"),
    ("15", "内蒙古"),
    ("21", "辽宁"),
    ("22", "吉林"),
    ("23", "黑龙江"),
    ("31", "上海"),
    ("32", "江苏"),
    ("33", "浙江"),
    ("34", "安徽"),
    ("35", "福建"),
    ("36", "江西"),
    ("37", "山东"),
    ("41", "河南"),
    ("42", "湖北"),
    ("43", "湖南"),
    ("44", "广东"),
    ("45", "广西"),
    ("46", "海南"),
    ("50", "重庆"),
    ("51", "四川"),
    ("52", "贵州"),
    ("53", "云南"),
    ("54", "西藏"),
    ("61", "陕西"),
    ("62", "甘肃"),
    ("63", "青海"),
    ("64", "宁夏"),
    ("65", "新疆"),
    ("71", "台湾"),
    ("81", "香港"),
    ("82", "澳门"),
];

/// Where an order goes. Names as people write them; `code` is the six-digit administrative code if it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    #[serde(default)]
    pub province: String,
    #[serde(default)]
    pub city: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// A place of a template: a province, or one city of it. Names, or codes of two to six digits; `广东`, `广东省`, `44` and
/// `440000` are one province.
///
/// A city given by code is met only by a destination with a code; one given by name, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    pub province: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
}

/// How closely a place meets a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Province,
    City,
}

fn is_code(text: &str) -> bool {
    (2..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// One spelling per province: its two digits if it is known, else the trimmed text.
fn province_key(text: &str) -> &str {
    let text = text.trim();
    if is_code(text) {
        return text.get(..2).unwrap_or(text);
    }
    PROVINCES.iter().find(|(_, name)| text.starts_with(name)).map_or(text, |(code, _)| code)
}

/// One spelling per city name.
fn city_key(text: &str) -> &str {
    let text = text.trim();
    ["自治州", "地区", "市", "盟"]
        .iter()
        .find_map(|suffix| text.strip_suffix(suffix).filter(|rest| rest.chars().count() >= 2))
        .unwrap_or(text)
}

impl Destination {
    /// Whether it is clear which province it is in: otherwise no rule meets it, not even one that sends nothing there.
    /// `INVALID_ARGUMENT` on `address.province`
    pub fn check(&self) -> Result<(), Refusal> {
        let key = self.province_key();
        if PROVINCES.iter().any(|(code, _)| *code == key) {
            return Ok(());
        }
        Err(Refusal::invalid("address.province", "请填写收货地址的省份，例如 浙江省"))
    }

    fn province_key(&self) -> &str {
        match self.code.as_deref().map(str::trim) {
            Some(code) if is_code(code) => province_key(code),
            _ => province_key(&self.province),
        }
    }
}

impl Place {
    fn meets(&self, to: &Destination) -> Option<Nearness> {
        if province_key(&self.province).is_empty() || province_key(&self.province) != to.province_key() {
            return None;
        }
        let Some(city) = &self.city else { return Some(Nearness::Province) };
        let met = if is_code(city.trim()) {
            let four = |code: &str| code.trim().get(..4).map(str::to_owned);
            four(city).is_some() && to.code.as_deref().and_then(four) == four(city)
        } else {
            !city_key(city).is_empty() && city_key(city) == city_key(&to.city)
        };
        met.then_some(Nearness::City)
    }

    fn key(&self) -> (&str, &str) {
        (province_key(&self.province), self.city.as_deref().map_or("", city_key))
    }
}

/// What a template counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// 按件: pieces.
    #[serde(rename = "piece")]
    Piece,
    /// 按重量: grams.
    #[serde(rename = "weight")]
    Weight,
    /// 按单: `first_fee` once, whatever is sent.
    #[serde(rename = "order")]
    Order,
}

/// The price of sending to some region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tariff {
    /// Pieces or grams that `first_fee` covers.
    #[serde(deserialize_with = "whole")]
    pub first: i64,
    pub first_fee: Fen,
    /// Pieces or grams of each further step; zero if more costs nothing more.
    #[serde(deserialize_with = "whole")]
    pub further: i64,
    pub further_fee: Fen,
    /// 满额包邮: free when the template's goods are worth this much before discounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_over_amount: Option<Fen>,
    /// 满件包邮: free when there are this many pieces of them.
    #[serde(default, deserialize_with = "whole_option", skip_serializing_if = "Option::is_none")]
    pub free_over_pieces: Option<i64>,
}

/// The tariff of some places, or that nothing is sent there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub places: Vec<Place>,
    /// None: 不配送.
    #[serde(default)]
    pub tariff: Option<Tariff>,
}

/// A freight template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    pub id: TemplateId,
    /// Counts the edits.
    #[serde(deserialize_with = "whole")]
    pub version: i64,
    pub measure: Measure,
    /// A city's rule goes before its province's; of equal ones the first counts.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Everywhere else. None: nothing is sent to a place without a rule.
    #[serde(default)]
    pub default: Option<Tariff>,
}

impl Template {
    /// Refuses a template with a place named twice, too many places, or numbers below what they can be.
    pub fn check(&self) -> Result<(), Refusal> {
        let mut seen = std::collections::BTreeSet::new();
        for (i, rule) in self.rules.iter().enumerate() {
            for place in &rule.places {
                let field = format!("rules[{i}].places");
                if province_key(&place.province).is_empty() {
                    return Err(Refusal::invalid(&field, "请填写省份"));
                }
                if !seen.insert(place.key()) {
                    return Err(Refusal::invalid(&field, "同一地区不能出现两次"));
                }
            }
        }
        if seen.len() > PLACES_MAX {
            return Err(Refusal::invalid("rules", format!("地区最多 {PLACES_MAX} 个")));
        }
        let tariffs = self.rules.iter().filter_map(|r| r.tariff.as_ref()).chain(&self.default);
        for tariff in tariffs {
            if tariff.first < 0 || tariff.further < 0 || tariff.free_over_pieces.is_some_and(|n| n < 1) {
                return Err(Refusal::invalid("tariff", "件数和重量不能为负数"));
            }
        }
        Ok(())
    }

    /// The tariff of a destination; none if nothing is sent there.
    pub fn tariff(&self, to: &Destination) -> Option<&Tariff> {
        let mut nearest: Option<(Nearness, &Rule)> = None;
        for rule in &self.rules {
            for place in &rule.places {
                if let Some(nearness) = place.meets(to)
                    && nearest.is_none_or(|(before, _)| nearness > before)
                {
                    nearest = Some((nearness, rule));
                }
            }
        }
        match nearest {
            Some((_, rule)) => rule.tariff.as_ref(),
            None => self.default.as_ref(),
        }
    }
}

/// The goods of one template in an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parcel {
    pub pieces: i64,
    pub grams: i64,
    /// Worth before discounts.
    pub amount: Fen,
}

impl Tariff {
    /// What a parcel costs. Monotone in pieces and grams as long as no free-shipping term is met.
    pub fn fee(&self, measure: Measure, parcel: Parcel) -> Result<Fen, AmountError> {
        let free = self.free_over_amount.is_some_and(|over| parcel.amount >= over)
            || self.free_over_pieces.is_some_and(|over| parcel.pieces >= over);
        if free || parcel.pieces <= 0 {
            return Ok(Fen::ZERO);
        }
        let units = match measure {
            Measure::Piece => parcel.pieces,
            Measure::Weight => parcel.grams,
            Measure::Order => 0,
        };
        let beyond = units.saturating_sub(self.first).max(0);
        // Every started step counts: division rounded up.
        let steps = match beyond.checked_div_euclid(self.further) {
            None => 0,
            Some(full) => full.saturating_add(i64::from(beyond.checked_rem_euclid(self.further) != Some(0))),
        };
        self.first_fee.checked_add(self.further_fee.checked_mul(steps)?)
    }
}

/// One line as freight sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    pub product: &'a ProductId,
    /// None: sent for nothing.
    pub template: Option<&'a TemplateId>,
    pub quantity: i64,
    /// Grams of one piece.
    pub weight_g: i64,
    /// Worth before discounts.
    pub amount: Fen,
}

/// What one template's goods cost to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fee {
    pub template: TemplateId,
    pub version: i64,
    pub fee: Fen,
}

/// The fee of each template that these items use, in the order of the templates' ids.
///
/// `INVALID_ARGUMENT` on `address` with `details.reason` `NOT_DELIVERABLE` and the products when something is not sent there, and
/// on `items` when an item's template is not among `templates`.
pub fn fees(templates: &[Template], items: &[Item<'_>], to: &Destination) -> Result<Vec<Fee>, Refusal> {
    let too_large = |_: AmountError| Refusal::invalid("items", "运费超出范围");
    let mut parcels: std::collections::BTreeMap<&TemplateId, Parcel> = std::collections::BTreeMap::new();
    for item in items {
        let Some(template) = item.template else { continue };
        let parcel = parcels.entry(template).or_default();
        parcel.pieces = parcel.pieces.saturating_add(item.quantity);
        parcel.grams = parcel.grams.saturating_add(item.weight_g.saturating_mul(item.quantity));
        parcel.amount = parcel.amount.checked_add(item.amount).map_err(too_large)?;
    }
    let mut fees = Vec::new();
    let mut refused = std::collections::BTreeSet::new();
    for (id, parcel) in parcels {
        let template = templates
            .iter()
            .find(|t| t.id == *id)
            .ok_or_else(|| Refusal::invalid("items", "商品的运费模板不存在").detail("templateId", id.as_str()))?;
        match template.tariff(to) {
            Some(tariff) => fees.push(Fee {
                template: template.id.clone(),
                version: template.version,
                fee: tariff.fee(template.measure, parcel).map_err(too_large)?,
            }),
            None => {
                let here = items.iter().filter(|i| i.template == Some(id));
                refused.extend(here.map(|i| i.product.as_str()));
            }
        }
    }
    if refused.is_empty() {
        return Ok(fees);
    }
    Err(Refusal::invalid("address", "部分商品不支持配送到该地区")
        .detail("reason", "NOT_DELIVERABLE")
        .detail("productIds", refused.into_iter().collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fen(n: i64) -> Fen {
        Fen::new(n).unwrap()
    }

    fn tariff(first: i64, first_fee: i64, further: i64, further_fee: i64) -> Tariff {
        Tariff {
            first,
            first_fee: fen(first_fee),
            further,
            further_fee: fen(further_fee),
            free_over_amount: None,
            free_over_pieces: None,
        }
    }

    fn place(province: &str, city: Option<&str>) -> Place {
        Place { province: province.to_owned(), city: city.map(str::to_owned) }
    }

    fn to(province: &str, city: &str) -> Destination {
        Destination { province: province.to_owned(), city: city.to_owned(), code: None }
    }

    fn id(text: &str) -> TemplateId {
        TemplateId::parse(text).unwrap()
    }

    fn template(name: &str) -> Template {
        Template {
            id: id(name),
            version: 3,
            measure: Measure::Piece,
            rules: vec![
                Rule {
                    places: vec![place("广东省", None), place("31", None)], tariff: Some(tariff(1, 600, 1, 100))
                },
                Rule {
                    places: vec![place("广东", Some("深圳市")), place("44", Some("4401"))],
                    tariff: Some(tariff(1, 0, 0, 0)),
                },
                Rule { places: vec![place("新疆维吾尔自治区", None), place("西藏", None)], tariff: None },
                Rule { places: vec![place("新疆", Some("乌鲁木齐"))], tariff: Some(tariff(1, 3000, 1, 2000)) },
            ],
            default: Some(tariff(1, 1000, 2, 300)),
        }
    }

    #[test]
    fn the_nearest_rule_counts() {
        let t = template("t");
        let first_fee = |to: &Destination| t.tariff(to).map(|t| t.first_fee.get());
        for (province, city, expected) in [
            ("广东省", "佛山市", Some(600)),
            ("广东", "深圳", Some(0)),
            ("上海市", "上海市", Some(600)),
            ("浙江省", "杭州市", Some(1000)),
            ("新疆", "喀什地区", None),
            ("新疆维吾尔自治区", "乌鲁木齐市", Some(3000)),
            ("西藏自治区", "拉萨市", None),
            ("", "", Some(1000)),
        ] {
            assert_eq!(first_fee(&to(province, city)), expected, "{province} {city}");
        }
        let mut twice = t.clone();
        twice.rules.push(Rule { places: vec![place("广东", None)], tariff: None });
        assert_eq!(twice.tariff(&to("广东", "佛山")), t.tariff(&to("广东", "佛山")), "of equal ones the first counts");
        // A code says more than names do.
        let by_code = |code: &str| first_fee(&Destination { code: Some(code.to_owned()), ..to("", "") });
        assert_eq!(by_code("440106"), Some(0));
        assert_eq!(by_code("440600"), Some(600));
        assert_eq!(by_code("650100"), None);
        assert_eq!(by_code("330100"), Some(1000));
    }

    #[test]
    fn every_province_is_found_under_its_full_name() {
        for (code, name) in PROVINCES {
            assert_eq!(province_key(name), code);
            assert_eq!(province_key(&format!("{name}省")), code);
            assert_eq!(province_key(&format!("{code}0000")), code);
        }
        assert_eq!(province_key("广西壮族自治区"), "45");
        assert_eq!(city_key("恩施土家族苗族自治州"), "恩施土家族苗族");
        assert_eq!(city_key("沙市"), "沙市");
    }

    #[test]
    fn first_and_every_started_further_step() {
        let check = |tariff: Tariff, measure, pieces, grams, expected: i64| {
            let fee = tariff.fee(measure, Parcel { pieces, grams, amount: fen(5000) }).unwrap();
            assert_eq!(fee.get(), expected, "{pieces} pieces, {grams} g");
        };
        let t = tariff(2, 1000, 3, 400);
        for (pieces, expected) in [(0, 0), (1, 1000), (2, 1000), (3, 1400), (5, 1400), (6, 1800)] {
            check(t, Measure::Piece, pieces, 0, expected);
        }
        let kilo = tariff(1000, 800, 500, 200);
        for (grams, expected) in [(1, 800), (1000, 800), (1001, 1000), (1500, 1000), (1501, 1200)] {
            check(kilo, Measure::Weight, 1, grams, expected);
        }
        check(t, Measure::Order, 99, 99_999, 1000);
        check(tariff(1, 500, 0, 100), Measure::Piece, 50, 0, 500);
        check(Tariff { free_over_amount: Some(fen(5000)), ..t }, Measure::Piece, 9, 0, 0);
        check(Tariff { free_over_amount: Some(fen(5001)), ..t }, Measure::Piece, 1, 0, 1000);
        check(Tariff { free_over_pieces: Some(3), ..t }, Measure::Piece, 3, 0, 0);
    }

    #[test]
    fn the_fees_of_several_templates_add_up_and_what_is_not_sent_is_named() {
        let (a, b) = (id("a"), id("b"));
        let templates = [template("b"), Template { default: None, ..template("a") }];
        let product = |n: u8| ProductId::parse(&format!("p-{n}")).unwrap();
        let products = [product(1), product(2), product(3)];
        let item =
            |n: usize, template| Item { product: &products[n], template, quantity: 2, weight_g: 0, amount: fen(1) };
        let items = [item(0, Some(&b)), item(1, Some(&a)), item(2, None)];
        let fees_to = |to: &Destination| fees(&templates, &items, to);
        let both: Vec<_> =
            fees_to(&to("广东", "佛山")).unwrap().into_iter().map(|f| (f.template, f.fee.get())).collect();
        assert_eq!(both, [(id("a"), 700), (id("b"), 700)]);
        let refusal = fees_to(&to("浙江", "杭州")).unwrap_err();
        assert_eq!(refusal.details["reason"], "NOT_DELIVERABLE");
        assert_eq!(refusal.details["productIds"], serde_json::json!(["p-2"]));
        let refusal = fees(&[], &items, &to("浙江", "杭州")).unwrap_err();
        assert_eq!(refusal.details["templateId"], "a");
    }

    #[test]
    fn templates_that_make_no_sense_are_refused() {
        assert_eq!(template("t").check(), Ok(()));
        let mut twice = template("t");
        twice.rules.push(Rule { places: vec![place("440000", None)], tariff: None });
        assert_eq!(twice.check().unwrap_err().details["field"], "rules[4].places");
        let negative = Template { default: Some(tariff(-1, 0, 0, 0)), ..template("t") };
        assert_eq!(negative.check().unwrap_err().details["field"], "tariff");
        let nowhere = Rule { places: vec![place(" ", None)], tariff: None };
        assert!(Template { rules: vec![nowhere], ..template("t") }.check().is_err());
    }

    #[test]
    fn stored_texts_are_a_contract() {
        let json = serde_json::to_value(template("t")).unwrap();
        assert_eq!(json["measure"], "piece");
        assert_eq!(json["default"], serde_json::json!({"first": 1, "firstFee": 1000, "further": 2, "furtherFee": 300}));
        assert_eq!(serde_json::from_value::<Template>(json).unwrap(), template("t"));
    }

    proptest! {
        #[test]
        fn more_goods_never_cost_less_to_send(
            t in (0i64..5, 0i64..3000, 0i64..5, 0i64..1000).prop_map(|(a, b, c, d)| tariff(a, b, c, d)),
            pieces in 0i64..1000, grams in 0i64..100_000, more in 0i64..100,
        ) {
            for measure in [Measure::Piece, Measure::Weight, Measure::Order] {
                let parcel = Parcel { pieces, grams, amount: Fen::ZERO };
                let larger = Parcel { pieces: pieces + more, grams: grams + more, amount: Fen::ZERO };
                prop_assert!(t.fee(measure, parcel).unwrap() <= t.fee(measure, larger).unwrap());
            }
        }
    }
}
