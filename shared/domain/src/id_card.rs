//! Resident identity numbers (GB 11643-1999) and the names on the card.
//!
//! Everything here is checked before an outside service is asked, because each question costs money and shows it the number.
//! County codes are not checked: they are retired and renamed, and a list of them refuses real people.

use std::fmt;

use chrono::{Datelike, NaiveDate};

use crate::{Code, Refusal};

/// Characters of a number.
const LENGTH: usize = 18;
/// Of the first 17 digits, in order (ISO 7064 MOD 11-2).
const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
/// The check character by the weighted sum modulo 11.
const CHECKS: &[u8; 11] = b"10X98765432";
/// The first two digits: provinces, residence permits of Hong Kong, Macau and Taiwan (81 to 83), foreign residents (91).
const PROVINCES: &[u32] = &[
    11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46, 50, 51, 52, 53, 54, 61, 62, 63,
    64, 65, 71, 81, 82, 83, 91,
];
/// Below this age only a guardian can consent (Personal Information Protection Law, article 31).
const AGE_MIN: i32 = 14;

const NAME_MIN: usize = 2;
const NAME_MAX: usize = 25;

/// Why a text is not the number of somebody who may verify themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdNumberError {
    Length,
    /// 15 digits, as issued until 1999 and not valid since 2013.
    FirstGeneration,
    Characters,
    Province,
    BirthDate,
    Checksum,
    /// Younger than fourteen.
    Minor,
}

impl IdNumberError {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Length,
        Self::FirstGeneration,
        Self::Characters,
        Self::Province,
        Self::BirthDate,
        Self::Checksum,
        Self::Minor,
    ];

    /// `details.reason` of the refusal; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::FirstGeneration => "firstGeneration",
            Self::Characters => "characters",
            Self::Province => "province",
            Self::BirthDate => "birthDate",
            Self::Checksum => "checksum",
            Self::Minor => "minor",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Length => "身份证号码应为 18 位",
            Self::FirstGeneration => "15 位旧号码已停用，请填写 18 位身份证号码",
            Self::Characters => "身份证号码只能包含数字，末位可以是 X",
            Self::Province => "身份证号码的地区不正确，请核对前两位",
            Self::BirthDate => "身份证号码中的出生日期不正确，请核对",
            Self::Checksum => "身份证号码校验不通过，请核对是否有输错的数字",
            Self::Minor => "未满 14 周岁，需由监护人办理实名认证",
        }
    }
}

impl From<IdNumberError> for Refusal {
    fn from(error: IdNumberError) -> Self {
        Refusal::new(Code::IdCardInvalid)
            .with_message(error.message())
            .detail("field", "idCard")
            .detail("reason", error.as_str())
    }
}

/// A valid number. Shows itself masked and cannot be serialized, so that it leaves only by [`IdNumber::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct IdNumber(String);

impl IdNumber {
    /// Accepts full-width digits and letters, spaces anywhere, and a small `x`. `today` is the business day in Shanghai.
    pub fn parse(text: &str, today: NaiveDate) -> Result<Self, IdNumberError> {
        let text = normalise(text);
        let length = text.chars().count();
        if length == 15 && text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(IdNumberError::FirstGeneration);
        }
        if length != LENGTH {
            return Err(IdNumberError::Length);
        }
        let (digits, check) = text.split_at_checked(WEIGHTS.len()).ok_or(IdNumberError::Characters)?;
        let right =
            digits.bytes().all(|b| b.is_ascii_digit()) && check.bytes().all(|b| b.is_ascii_digit() || b == b'X');
        if !right {
            return Err(IdNumberError::Characters);
        }
        let number = |range: std::ops::Range<usize>| digits.get(range).and_then(|part| part.parse::<u32>().ok());
        if !number(0..2).is_some_and(|province| PROVINCES.contains(&province)) {
            return Err(IdNumberError::Province);
        }
        let year = digits.get(6..10).and_then(|part| part.parse::<i32>().ok());
        let born = match (year, number(10..12), number(12..14)) {
            (Some(year), Some(month), Some(day)) => NaiveDate::from_ymd_opt(year, month, day),
            _ => None,
        };
        let born = born.filter(|born| born.year() >= 1900 && *born <= today).ok_or(IdNumberError::BirthDate)?;
        if check.bytes().next() != check_character(digits) {
            return Err(IdNumberError::Checksum);
        }
        if age(born, today) < AGE_MIN {
            return Err(IdNumberError::Minor);
        }
        Ok(Self(text))
    }

    /// The number itself, for sealing, indexing and the outside service. Every call is a place to look at when one leaks.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `3301**********1234`.
    pub fn masked(&self) -> String {
        mask(&self.0)
    }
}

impl fmt::Debug for IdNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Display for IdNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whether a text is a number as far as it can be told without the date: what the audit looks for.
pub fn looks_like_a_number(text: &str) -> bool {
    let Some((digits, check)) = text.split_at_checked(WEIGHTS.len()) else { return false };
    text.len() == LENGTH
        && digits.bytes().all(|b| b.is_ascii_digit())
        && check.bytes().next().map(|b| b.to_ascii_uppercase()) == check_character(digits)
}

/// Whether a text holds a number as a word of its own; hashes and sealed texts are longer words.
pub fn holds_a_number(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(looks_like_a_number)
}

/// The last character that 17 digits call for.
fn check_character(digits: &str) -> Option<u8> {
    let sum: u32 = digits.chars().zip(WEIGHTS).filter_map(|(c, weight)| c.to_digit(10)?.checked_mul(weight)).sum();
    CHECKS.get(usize::try_from(sum.checked_rem(11)?).ok()?).copied()
}

/// The first and last four characters, the rest as stars.
fn mask(number: &str) -> String {
    number.chars().enumerate().map(|(i, c)| if (4..14).contains(&i) { '*' } else { c }).collect()
}

/// Whole years; who was born on 29 February turns older on 1 March.
fn age(born: NaiveDate, today: NaiveDate) -> i32 {
    let passed = (today.month(), today.day()) >= (born.month(), born.day());
    today.year().saturating_sub(born.year()).saturating_sub(i32::from(!passed))
}

fn normalise(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| match c {
            // Full-width forms stand 0xFEE0 above ASCII.
            '\u{FF10}'..='\u{FF19}' | '\u{FF21}'..='\u{FF3A}' | '\u{FF41}'..='\u{FF5A}' => {
                u32::from(c).checked_sub(0xFEE0).and_then(char::from_u32).unwrap_or(c)
            }
            c => c,
        })
        .map(|c| c.to_ascii_uppercase())
        .collect()
}

/// A name as it stands on a card. Shows itself masked and cannot be serialized.
#[derive(Clone, PartialEq, Eq)]
pub struct RealName(String);

impl RealName {
    /// 2 to 25 Han characters of any plane, with `·` between them; its look-alikes are accepted. `INVALID_ARGUMENT` of `realName`.
    ///
    /// There is no Unicode normalization, because it changes characters that are on people's cards.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refusal = |message| Refusal::invalid("realName", message);
        let name: String = text
            .trim()
            .chars()
            .map(|c| match c {
                '\u{2022}' | '\u{30FB}' | '\u{FF65}' | '\u{2027}' | '\u{FF0E}' => '·',
                c => c,
            })
            .collect();
        if !(NAME_MIN..=NAME_MAX).contains(&name.chars().count()) {
            return Err(refusal("姓名应为 2 至 25 个汉字"));
        }
        let whole = !name.starts_with('·') && !name.ends_with('·') && !name.contains("··");
        if !whole || !name.chars().all(|c| c == '·' || is_han(c)) {
            return Err(refusal("姓名只能包含汉字和间隔号“·”，请与身份证一致"));
        }
        Ok(Self(name))
    }

    /// The name itself; see [`IdNumber::expose`].
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `张*`: the first character, and one star however long the name is.
    pub fn masked(&self) -> String {
        self.0.chars().take(1).chain(['*']).collect()
    }
}

impl fmt::Debug for RealName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Display for RealName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The Unicode script Han, as far as it occurs in names: ideographs of all planes and `〇`.
fn is_han(c: char) -> bool {
    matches!(
        c,
        '\u{3007}'
            | '\u{3400}'..='\u{4DBF}'
            | '\u{4E00}'..='\u{9FFF}'
            | '\u{F900}'..='\u{FAFF}'
            | '\u{20000}'..='\u{2FA1F}'
            | '\u{30000}'..='\u{33479}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TODAY: &str = "2026-11-21";

    fn parse(text: &str) -> Result<IdNumber, IdNumberError> {
        IdNumber::parse(text, TODAY.parse().unwrap())
    }

    /// A number of these 17 digits with its check character.
    fn completed(digits: &str) -> String {
        format!("{digits}{}", char::from(check_character(digits).unwrap()))
    }

    #[test]
    fn published_numbers_are_valid_and_masked() {
        for number in ["11010519491231002X", "440524198801010011", "810000199408230021", "83000019991231122X"] {
            let parsed = parse(number).unwrap();
            assert_eq!(parsed.expose(), number);
            let shown = format!("{parsed} {parsed:?}");
            assert!(!shown.contains(number) && looks_like_a_number(number), "{shown}");
            assert_eq!(parsed.masked().chars().count(), 18);
        }
        assert_eq!(parse("11010519491231002X").unwrap().to_string(), "1101**********002X");
    }

    #[test]
    fn what_people_type_is_normalised() {
        for text in [
            "11010519491231002x",
            " 110105 19491231 002X ",
            "１１０１０５１９４９１２３１００２Ｘ",
            "11010519491231002ｘ",
        ] {
            assert_eq!(parse(text).unwrap().expose(), "11010519491231002X", "{text}");
        }
    }

    #[test]
    fn each_fault_has_its_reason() {
        use IdNumberError::*;
        let born = |date: &str| completed(&format!("330106{date}001"));
        let cases = [
            (String::new(), Length),
            ("1101051949123100".to_owned(), Length),
            ("11010519491231002X0".to_owned(), Length),
            ("110105491231002".to_owned(), FirstGeneration),
            ("1101051949123100AX".to_owned(), Characters),
            ("110105X9491231002X".to_owned(), Characters),
            ("11010519491231002Y".to_owned(), Characters),
            ("一一〇一〇五一九四九一二三一〇〇二X".to_owned(), Characters),
            (completed("10010519491231002"), Province),
            (completed("72010519491231002"), Province),
            (born("20010229"), BirthDate),
            (born("19000229"), BirthDate),
            (born("20010431"), BirthDate),
            (born("20011301"), BirthDate),
            (born("20010100"), BirthDate),
            (born("18991231"), BirthDate),
            (born("20261122"), BirthDate),
            ("110105198803050012".to_owned(), Checksum),
            (born("20121122"), Minor),
            (born("20261121"), Minor),
        ];
        for (text, reason) in cases {
            assert_eq!(parse(&text), Err(reason), "{text}");
            let refusal = Refusal::from(reason);
            assert_eq!((refusal.code, &refusal.details["field"]), (Code::IdCardInvalid, &"idCard".into()));
            assert_eq!(refusal.details["reason"], reason.as_str());
            assert!(text.is_empty() || !refusal.message.contains(&text));
        }
        for good in ["20000229", "19000101", "20121121"] {
            assert!(parse(&born(good)).is_ok(), "{good}");
        }
        let reasons: std::collections::BTreeSet<_> = IdNumberError::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(reasons.len(), IdNumberError::ALL.len());
    }

    #[test]
    fn who_was_born_on_29_february_turns_fourteen_on_1_march() {
        let number = completed("33010620120229001");
        let at = |day: &str| IdNumber::parse(&number, day.parse().unwrap()).map(|_| ());
        assert_eq!(at("2026-02-28"), Err(IdNumberError::Minor));
        assert_eq!(at("2026-03-01"), Ok(()));
    }

    #[test]
    fn names_of_all_planes_pass_unchanged() {
        for (text, name, masked) in [
            ("张三", "张三", "张*"),
            (" 欧阳娜娜 ", "欧阳娜娜", "欧*"),
            ("买买提•阿不都拉", "买买提·阿不都拉", "买*"),
            ("迪丽热巴・迪力木拉提", "迪丽热巴·迪力木拉提", "迪*"),
            ("〇二", "〇二", "〇*"),
            ("𠮷𪚥", "𠮷𪚥", "𠮷*"),
            // A compatibility ideograph that normalization would replace.
            ("\u{F9D3}明", "\u{F9D3}明", "\u{F9D3}*"),
        ] {
            let parsed = RealName::parse(text).unwrap();
            assert_eq!((parsed.expose(), format!("{parsed} {parsed:?}")), (name, format!("{masked} {masked}")));
        }
        assert!(RealName::parse(&"张".repeat(25)).is_ok());
    }

    #[test]
    fn other_names_are_refused() {
        let long = "张".repeat(26);
        for text in [
            "",
            "张",
            "Zhang San",
            "张三1",
            "张 三",
            "·张三",
            "张三·",
            "张··三",
            "张三🦌",
            "张\u{0}三",
            "ｱｲ",
            long.as_str(),
        ] {
            let refusal = RealName::parse(text).unwrap_err();
            assert_eq!(
                (refusal.code, &refusal.details["field"]),
                (Code::InvalidArgument, &"realName".into()),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn numbers_are_found_and_every_wrong_digit_is_noticed(
            province in prop::sample::select(PROVINCES),
            county in 0u32..10_000,
            days in 0i64..40_000,
            sequence in 0u32..1_000,
            place in 0usize..18,
            other in 0u8..11,
        ) {
            let born = NaiveDate::from_ymd_opt(1900, 1, 1).unwrap() + chrono::TimeDelta::days(days);
            let number = completed(&format!("{province}{county:04}{}{sequence:03}", born.format("%Y%m%d")));
            let parsed = parse(&number).unwrap();
            prop_assert_eq!(parsed.expose(), number.as_str());

            let mut changed: Vec<char> = number.chars().collect();
            let given = if other == 10 { if place == 17 { 'X' } else { '0' } } else { char::from(b'0' + other) };
            if changed[place] != given {
                changed[place] = given;
                let changed: String = changed.into_iter().collect();
                prop_assert!(parse(&changed).is_err());
                prop_assert!(!looks_like_a_number(&changed));
            }
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,30}") {
            parse(&text).ok();
            RealName::parse(&text).ok();
            looks_like_a_number(&text);
        }
    }
}
