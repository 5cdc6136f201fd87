//! Courier companies under the names that we, Kuaidi100 and WeChat have for them.
//!
//! Sources: Kuaidi100's own constants (java-demo, `CompanyConstant`) and its list of companies; for WeChat the samples of
//! `get_delivery_list`, whose ids are not those of `logistics.getAllDelivery` (Yunda is `YD` here and `YUNDA` there). Where no page
//! shows an id there is none here: take it from `get_delivery_list` before shipments of that company are reported.

/// A courier company. Two services of one house, such as parcels and freight, are two companies: a query under the other one
/// finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Company {
    /// Ours: stored with orders, never changed.
    pub code: &'static str,
    /// For people.
    pub name: &'static str,
    /// Kuaidi100's `com`.
    pub kuaidi100: &'static str,
    /// WeChat's `express_company` in shipping reports, where it is known.
    pub wechat: Option<&'static str>,
}

const fn company(
    code: &'static str,
    name: &'static str,
    kuaidi100: &'static str,
    wechat: Option<&'static str>,
) -> Company {
    Company { code, name, kuaidi100, wechat }
}

/// Every company we ship with or have met.
pub const COMPANIES: [Company; 21] = [
    company("SF", "顺丰速运", "shunfeng", Some("SF")),
    company("SF_FREIGHT", "顺丰快运", "shunfengkuaiyun", None),
    company("ZTO", "中通快递", "zhongtong", Some("ZTO")),
    company("ZTO_FREIGHT", "中通快运", "zhongtongkuaiyun", None),
    company("YTO", "圆通速递", "yuantong", Some("YTO")),
    company("STO", "申通快递", "shentong", Some("STO")),
    company("YD", "韵达快递", "yunda", Some("YD")),
    company("YD_FREIGHT", "韵达快运", "yundakuaiyun", None),
    company("JT", "极兔速递", "jtexpress", None),
    company("JD", "京东物流", "jd", Some("JD")),
    company("JD_FREIGHT", "京东快运", "jingdongkuaiyun", None),
    company("EMS", "EMS", "ems", None),
    company("POST_PARCEL", "邮政快递包裹", "youzhengguonei", None),
    company("POST_ECOMMERCE", "邮政电商标快", "youzhengdsbk", None),
    company("POST_STANDARD", "邮政标准快递", "youzhengbk", None),
    company("DB", "德邦快递", "debangkuaidi", None),
    company("BEST", "百世快递", "huitongkuaidi", None),
    company("DANNIAO", "丹鸟", "danniao", None),
    company("ZJS", "宅急送", "zhaijisong", None),
    company("ANE", "安能物流", "annengwuliu", None),
    company("KYE", "跨越速运", "kuayue", None),
];

/// Ids that are common in orders although no page shows them to be WeChat's, and whom they mean.
const ALIASES: [(&str, &str); 3] = [("JTSD", "JT"), ("DBL", "DB"), ("YZPY", "POST_PARCEL")];

impl Company {
    /// By our code.
    pub fn by_code(code: &str) -> Option<&'static Self> {
        COMPANIES.iter().find(|company| company.code == code)
    }

    /// By Kuaidi100's `com`, as in answers, pushes and corrections.
    pub fn by_kuaidi100(com: &str) -> Option<&'static Self> {
        COMPANIES.iter().find(|company| company.kuaidi100 == com)
    }

    /// By WeChat's `express_company`.
    pub fn by_wechat(id: &str) -> Option<&'static Self> {
        COMPANIES.iter().find(|company| company.wechat == Some(id))
    }

    /// By WeChat's id or by ours, as orders have it, in whichever case.
    pub fn of(id: &str) -> Option<&'static Self> {
        let is = |code: &str| code.eq_ignore_ascii_case(id);
        let alias = ALIASES.iter().find(|(alias, _)| is(alias)).map(|(_, code)| *code);
        COMPANIES
            .iter()
            .find(|company| company.wechat.is_some_and(is) || is(company.code) || alias == Some(company.code))
    }

    /// Whether nothing is found without a phone number of sender or receiver.
    pub fn needs_phone(&self) -> bool {
        needs_phone(self.kuaidi100)
    }

    /// Whether the last four digits of that number are enough.
    pub fn takes_four_digits(&self) -> bool {
        takes_four_digits(self.kuaidi100)
    }
}

/// Whether Kuaidi100 wants a phone number for this `com`.
pub(super) fn needs_phone(com: &str) -> bool {
    matches!(com, "shunfeng" | "shunfengkuaiyun" | "zhongtong")
}

/// Whether the last four digits of the phone number are enough for this `com`.
pub(super) fn takes_four_digits(com: &str) -> bool {
    matches!(com, "shunfeng" | "shunfengkuaiyun")
}
