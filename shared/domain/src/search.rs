//! Search for Chinese: the tokens that a document is found by, and those that a query looks up.
//!
//! A document keeps its tokens in an indexed field; a query is found where *all* of its tokens are. Tokens are single characters
//! and pairs of neighbours (bigrams) of Chinese text, beginnings of Latin words and of numbers, and, from every Chinese
//! character on, beginnings of the pinyin and of its initials: `苹果` is found by `苹`, `苹果`, `ping`, `pinggu`, `guo`, `pg`.
//! Looking up is exact, so an index over the field keeps the order that follows in it.
//!
//! Beginnings stop at [`LETTERS_MAX`] letters, so a long word is looked up by its first letters alone. [`relevance`] compares the whole
//! of it: what it calls none is to be left out, and the rest is ranked by it.

use std::collections::BTreeSet;

use pinyin::ToPinyin;

/// No document has more tokens; those of earlier fields, and Chinese before pinyin, are kept.
pub const TOKENS_MAX: usize = 256;
/// No query looks up more tokens; what comes later in it is left to [`relevance`].
pub const QUERY_TOKENS_MAX: usize = 8;
/// The longest beginning of a word, of pinyin or of initials that is a token.
pub const LETTERS_MAX: usize = 6;
/// So much of a field is looked at.
pub const FIELD_CHARS_MAX: usize = 60;
/// So much of a query is looked at.
pub const QUERY_CHARS_MAX: usize = 40;

/// The ways to read a stretch of characters stop at this many.
const SPELLINGS_MAX: usize = 8;

/// Readings that goods and places have beside the one that the pinyin table puts first.
const ALSO_READ: [(char, &str); 39] = [
    ('乐', "yue"),
    ('会', "kuai"),
    ('传', "zhuan"),
    ('佛', "fo"),
    ('便', "pian"),
    ('六', "lu"),
    ('厦', "xia"),
    ('单', "shan"),
    ('参', "shen"),
    ('咖', "ga"),
    ('埔', "bu"),
    ('弹', "tan"),
    ('模', "mu"),
    ('校', "jiao"),
    ('番', "pan"),
    ('盛', "cheng"),
    ('削', "xiao"),
    ('朝', "zhao"),
    ('粘', "nian"),
    ('系', "ji"),
    ('茄', "qie"),
    ('葚', "shen"),
    ('薄', "bo"),
    ('藏', "zang"),
    ('蚌', "beng"),
    ('蛤', "ge"),
    ('行', "hang"),
    ('觉', "jiao"),
    ('调', "tiao"),
    ('轧', "zha"),
    ('轧', "ga"),
    ('还', "huan"),
    ('都', "du"),
    ('重', "chong"),
    ('长', "chang"),
    ('什', "shi"),
    ('酵', "xiao"),
    ('血', "xie"),
    ('暴', "pu"),
];

/// One spelling of a text: full-width forms as half-width ones, small letters, one space between what white space separates.
pub fn normalise(text: &str) -> String {
    let half = |c: char| match c {
        '\u{3000}' => ' ',
        '\u{FF01}'..='\u{FF5E}' => u32::from(c).checked_sub(0xFEE0).and_then(char::from_u32).unwrap_or(c),
        'ü' | 'Ü' => 'v',
        c => c,
    };
    let small: String = text.chars().map(half).flat_map(char::to_lowercase).collect();
    small.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}' | '〇')
}

/// What a text is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Run {
    /// Neighbouring Chinese characters.
    Han(Vec<char>),
    /// Letters, or digits; `iphone15` is two.
    Word(String),
}

/// The runs of a text's first characters, normalised. Everything else separates.
fn runs(text: &str, chars_max: usize) -> Vec<Run> {
    #[derive(PartialEq, Clone, Copy)]
    enum Kind {
        Han,
        Letters,
        Digits,
        Gap,
    }
    let mut runs = Vec::new();
    let mut before = Kind::Gap;
    for c in normalise(text).chars().take(chars_max) {
        let kind = match c {
            c if is_han(c) => Kind::Han,
            c if c.is_numeric() => Kind::Digits,
            c if c.is_alphabetic() => Kind::Letters,
            _ => Kind::Gap,
        };
        match (runs.last_mut(), kind) {
            (_, Kind::Gap) => {}
            (Some(Run::Han(run)), Kind::Han) if before == kind => run.push(c),
            (Some(Run::Word(word)), Kind::Letters | Kind::Digits) if before == kind => word.push(c),
            (_, Kind::Han) => runs.push(Run::Han(vec![c])),
            (_, Kind::Letters | Kind::Digits) => runs.push(Run::Word(c.to_string())),
        }
        before = kind;
    }
    runs
}

/// The readings of a character without tones, the usual one first; `ü` may be typed as `v` or as `u`.
fn readings(c: char) -> Vec<String> {
    let Some(usual) = c.to_pinyin().map(|p| p.plain()) else { return Vec::new() };
    let mut all: Vec<String> = match usual.contains('ü') {
        true => vec![usual.replace('ü', "v"), usual.replace('ü', "u")],
        false => vec![usual.to_owned()],
    };
    all.extend(ALSO_READ.iter().filter(|(also, _)| *also == c).map(|(_, reading)| (*reading).to_owned()));
    all
}

/// The ways to spell what begins here, each cut to the longest beginning. `syllables` are the readings, character by character.
fn spellings(syllables: &[Vec<String>], initials: bool) -> Vec<String> {
    let mut all = vec![String::new()];
    for readings in syllables {
        if all.iter().all(|s| s.chars().count() >= LETTERS_MAX) || readings.is_empty() {
            break;
        }
        let part = |reading: &String| match initials {
            true => reading.chars().take(1).collect(),
            false => reading.clone(),
        };
        // The usual reading comes first, so that it is not what the limit cuts off.
        let mut parts: Vec<String> = Vec::new();
        for part in readings.iter().map(part) {
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        all = all.iter().flat_map(|s| parts.iter().map(move |part| format!("{s}{part}"))).take(SPELLINGS_MAX).collect();
    }
    all.iter().map(|s| cut(s)).collect()
}

fn cut(word: &str) -> String {
    word.chars().take(LETTERS_MAX).collect()
}

/// Tokens in the order in which they were found, each once, up to a limit.
struct Bag {
    list: Vec<String>,
    seen: BTreeSet<String>,
    max: usize,
}

impl Bag {
    fn new(max: usize) -> Self {
        Self { list: Vec::new(), seen: BTreeSet::new(), max }
    }

    fn add(&mut self, token: String) {
        if self.list.len() < self.max && !token.is_empty() && self.seen.insert(token.clone()) {
            self.list.push(token);
        }
    }

    /// Every beginning of a word.
    fn add_beginnings(&mut self, word: &str) {
        for n in 1..=word.chars().count().min(LETTERS_MAX) {
            self.add(word.chars().take(n).collect());
        }
    }

    fn add_pairs(&mut self, run: &[char]) {
        for pair in run.windows(2) {
            self.add(pair.iter().collect());
        }
    }
}

/// The tokens that a document is found by. Fields in the order of their weight: a product's name first, then SKUs, category,
/// keywords.
pub fn document_tokens(fields: &[&str]) -> Vec<String> {
    let fields: Vec<Vec<Run>> = fields.iter().map(|field| runs(field, FIELD_CHARS_MAX)).collect();
    let mut bag = Bag::new(TOKENS_MAX);
    for run in fields.iter().flatten() {
        match run {
            Run::Han(run) => {
                run.iter().for_each(|c| bag.add(c.to_string()));
                bag.add_pairs(run);
            }
            Run::Word(word) => bag.add_beginnings(word),
        }
    }
    for run in fields.iter().flatten() {
        let Run::Han(run) = run else { continue };
        let syllables: Vec<Vec<String>> = run.iter().map(|c| readings(*c)).collect();
        for start in 0..syllables.len() {
            let from_here = syllables.get(start..).unwrap_or_default();
            for initials in [false, true] {
                spellings(from_here, initials).iter().for_each(|spelling| bag.add_beginnings(spelling));
            }
        }
    }
    bag.list
}

/// The tokens that a query looks up: documents that have all of them may match. Empty if there is nothing to look for.
pub fn query_tokens(query: &str) -> Vec<String> {
    let mut bag = Bag::new(QUERY_TOKENS_MAX);
    for run in runs(query, QUERY_CHARS_MAX) {
        match run {
            Run::Han(run) if run.len() == 1 => bag.add(run.iter().collect()),
            Run::Han(run) => bag.add_pairs(&run),
            Run::Word(word) => bag.add(cut(&word)),
        }
    }
    bag.list
}

/// How well a document meets a query; the better one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relevance {
    /// Part of the query is only in another field than the first.
    OtherField,
    /// In the first field.
    Within,
    /// At the beginning of the first field.
    Start,
    /// It is the first field.
    Whole,
}

/// One character or word of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unit {
    Han(char),
    Word(String),
}

fn units(text: &str, chars_max: usize) -> Vec<Unit> {
    let split = |run| match run {
        Run::Han(run) => run.into_iter().map(Unit::Han).collect(),
        Run::Word(word) => vec![Unit::Word(word)],
    };
    runs(text, chars_max).into_iter().flat_map(split).collect()
}

/// How far a word reaches in these units when it is spelled out or by its initials from the first of them on: the number of units
/// that it takes up.
fn spelled(word: &str, units: &[Unit], initials: bool) -> Option<usize> {
    let (first, rest) = units.split_first()?;
    let Unit::Han(c) = first else { return None };
    readings(*c).iter().find_map(|reading| {
        let reading = match initials {
            true => reading.char_indices().nth(1).and_then(|(end, _)| reading.get(..end)).unwrap_or(reading),
            false => reading,
        };
        if reading.starts_with(word) {
            return Some(1);
        }
        let left = word.strip_prefix(reading)?;
        spelled(left, rest, initials)?.checked_add(1)
    })
}

/// Where a run of the query is in these units: the first place, and how many units it takes up there.
fn find(run: &Run, units: &[Unit]) -> Option<(usize, usize)> {
    let here = |place: usize| {
        let from_here = units.get(place..)?;
        match run {
            Run::Han(run) => {
                let same = run.len() <= from_here.len() && run.iter().zip(from_here).all(|(c, u)| *u == Unit::Han(*c));
                same.then_some(run.len())
            }
            Run::Word(word) => match from_here.first()? {
                Unit::Word(there) => there.starts_with(word.as_str()).then_some(1),
                Unit::Han(_) => spelled(word, from_here, false).or_else(|| spelled(word, from_here, true)),
            },
        }
    };
    (0..units.len()).find_map(|place| here(place).map(|length| (place, length)))
}

/// How well these fields, as they were given to [`document_tokens`], meet a query; none if part of it is in none of them.
pub fn relevance(query: &str, fields: &[&str]) -> Option<Relevance> {
    let runs = runs(query, QUERY_CHARS_MAX);
    let fields: Vec<Vec<Unit>> = fields.iter().map(|field| units(field, FIELD_CHARS_MAX)).collect();
    let mut worst = Relevance::Whole;
    let mut starts = false;
    let mut covered = 0usize;
    for run in &runs {
        let (field, place, length) =
            fields.iter().enumerate().find_map(|(field, units)| find(run, units).map(|(p, l)| (field, p, l)))?;
        worst = worst.min(if field == 0 { Relevance::Within } else { Relevance::OtherField });
        starts |= (field, place) == (0, 0);
        covered = covered.saturating_add(length);
    }
    match (worst, starts) {
        (Relevance::Within, true) if fields.first().is_some_and(|units| units.len() == covered) => {
            Some(Relevance::Whole)
        }
        (Relevance::Within, true) => Some(Relevance::Start),
        _ if runs.is_empty() => None,
        _ => Some(worst),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOODS: [[&str; 2]; 24] = [
        ["红富士苹果", "水果"],
        ["苹果", "水果"],
        ["苹果醋饮料 500ml", "饮料"],
        ["Apple iPhone15 Pro", "手机 苹果"],
        ["青皮菠萝", "水果"],
        ["菠萝蜜", "水果"],
        ["西湖龙井茶 250g", "茶叶"],
        ["安溪铁观音", "茶叶"],
        ["重庆火锅底料", "调料"],
        ["长白山人参", "滋补 参茸"],
        ["云南普洱茶饼 357克", "茶叶"],
        ["绿茶", "茶叶"],
        ["东北五常大米 5kg", "粮油"],
        ["番茄酱", "调料"],
        ["女士短袖 T恤", "服装"],
        ["Ｌａｍｙ 钢笔", "文具"],
        ["厦门馅饼", "糕点"],
        ["六安瓜片", "茶叶"],
        ["薄荷糖", "零食"],
        ["牛轧糖", "零食"],
        ["咖喱块", "调料"],
        ["大枣夹核桃", "零食"],
        ["维生素C片 100片", "保健"],
        ["A4打印纸", "文具"],
    ];

    /// What a store does: look up all tokens, leave out what is not relevant, the best first.
    fn search(query: &str) -> Vec<&'static str> {
        let wanted = query_tokens(query);
        let mut found: Vec<(Relevance, &str)> = GOODS
            .iter()
            .filter(|fields| {
                let tokens = document_tokens(*fields);
                !wanted.is_empty() && wanted.iter().all(|t| tokens.contains(t))
            })
            .filter_map(|fields| relevance(query, fields).map(|relevance| (relevance, fields[0])))
            .collect();
        found.sort_by_key(|(relevance, _)| std::cmp::Reverse(*relevance));
        found.into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn what_people_type_finds_what_they_mean() {
        let cases: &[(&str, &[&str])] = &[
            // Chinese: the thing itself before what only begins with it or holds it.
            ("苹果", &["苹果", "苹果醋饮料 500ml", "红富士苹果", "Apple iPhone15 Pro"]),
            ("苹", &["苹果", "苹果醋饮料 500ml", "红富士苹果", "Apple iPhone15 Pro"]),
            ("富士苹果", &["红富士苹果"]),
            ("果苹", &[]),
            ("菠萝", &["菠萝蜜", "青皮菠萝"]),
            ("红富士 苹果", &["红富士苹果"]),
            ("水果 苹果", &["红富士苹果", "苹果"]),
            ("大米", &["东北五常大米 5kg"]),
            ("龙井", &["西湖龙井茶 250g"]),
            // Pinyin, whole and unfinished, from the middle of a name too.
            ("pingguo", &["苹果", "苹果醋饮料 500ml", "红富士苹果", "Apple iPhone15 Pro"]),
            ("pingg", &["苹果", "苹果醋饮料 500ml", "红富士苹果", "Apple iPhone15 Pro"]),
            ("hongfushi", &["红富士苹果"]),
            ("hongfushan", &[]),
            ("longjing", &["西湖龙井茶 250g"]),
            ("tieguanyin", &["安溪铁观音"]),
            ("long jing", &["西湖龙井茶 250g"]),
            // Initials.
            ("pg", &["苹果", "苹果醋饮料 500ml", "红富士苹果", "Apple iPhone15 Pro"]),
            ("hfspg", &["红富士苹果"]),
            ("tgy", &["安溪铁观音"]),
            ("wcdm", &["东北五常大米 5kg"]),
            // Characters with several readings.
            ("chongqing", &["重庆火锅底料"]),
            ("cqhg", &["重庆火锅底料"]),
            ("changbaishan", &["长白山人参"]),
            ("renshen", &["长白山人参"]),
            ("tiaoliao", &["重庆火锅底料", "番茄酱", "咖喱块"]),
            ("fanqie", &["番茄酱"]),
            ("xiamen", &["厦门馅饼"]),
            ("luan", &["六安瓜片"]),
            ("bohe", &["薄荷糖"]),
            ("niuzhatang", &["牛轧糖"]),
            ("gali", &["咖喱块"]),
            ("kali", &["咖喱块"]),
            // ü is typed as v, by some as u.
            ("lvcha", &["绿茶"]),
            ("lucha", &["绿茶"]),
            ("lücha", &["绿茶"]),
            ("nvshi", &["女士短袖 T恤"]),
            // Latin words and numbers, in any case and width, beginnings too.
            ("iphone", &["Apple iPhone15 Pro"]),
            ("IPHONE 15", &["Apple iPhone15 Pro"]),
            ("iphone15", &["Apple iPhone15 Pro"]),
            ("ｉｐｈ", &["Apple iPhone15 Pro"]),
            ("iphonex", &[]),
            ("lamy", &["Ｌａｍｙ 钢笔"]),
            ("500", &["苹果醋饮料 500ml"]),
            ("357克", &["云南普洱茶饼 357克"]),
            ("普洱 357", &["云南普洱茶饼 357克"]),
            ("a4纸", &["A4打印纸"]),
            ("维生素c", &["维生素C片 100片"]),
            ("puer茶", &["云南普洱茶饼 357克"]),
            // Nothing to look for.
            ("", &[]),
            (" ，。!🌶️ ", &[]),
            ("不存在的东西", &[]),
        ];
        for (query, expected) in cases {
            assert_eq!(search(query), *expected, "{query}: {:?}", query_tokens(query));
        }
    }

    #[test]
    fn a_name_and_its_tokens() {
        let tokens = document_tokens(&["苹果", "A4"]);
        assert_eq!(
            tokens,
            ["苹", "果", "苹果", "a", "4", "p", "pi", "pin", "ping", "pingg", "pinggu", "pg", "g", "gu", "guo",]
        );
        assert_eq!(query_tokens("ＡＰＰＬＥ　苹果汁"), ["apple", "苹果", "果汁"]);
        assert_eq!(normalise("　Ａ4\t纸 "), "a4 纸");
    }

    #[test]
    fn other_readings_are_others() {
        let same = |(c, reading): &(char, &str)| c.to_pinyin().unwrap().plain() == *reading;
        assert_eq!(ALSO_READ.into_iter().filter(same).collect::<Vec<_>>(), []);
    }

    fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => prop::char::range('\u{4E00}', '\u{9FFF}').prop_map(|c| c.to_string()),
            1 => prop::sample::select(vec!["重", "长", "乐", "行", "参", "调", "轧"]).prop_map(str::to_owned),
            1 => "[a-zA-Z0-9 ]{1,8}",
            1 => any::<char>().prop_map(|c| c.to_string()),
        ];
        prop::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn counts_and_lengths_are_bounded(name in any_text(), other in any_text()) {
            let tokens = document_tokens(&[&name, &other]);
            prop_assert!(tokens.len() <= TOKENS_MAX);
            let distinct: BTreeSet<_> = tokens.iter().collect();
            prop_assert_eq!(distinct.len(), tokens.len());
            prop_assert!(tokens.iter().all(|t| !t.is_empty() && t.chars().count() <= LETTERS_MAX));
            let query = query_tokens(&name);
            prop_assert!(query.len() <= QUERY_TOKENS_MAX);
            let _relevance = relevance(&name, &[&other]);
        }

        /// A short name is found by every part of its Chinese, by its pinyin and by its initials.
        #[test]
        fn a_name_is_found_by_its_parts(
            name in prop::collection::vec(prop::sample::select("红富士苹果重庆长白山人参绿茶铁观音番茄厦门薄荷核桃".chars().collect::<Vec<_>>()), 1..10),
            from in 0usize..10, length in 1usize..10,
        ) {
            let from = from % name.len();
            let part: Vec<char> = name.iter().copied().skip(from).take(length).collect();
            let name: String = name.iter().collect();
            let tokens = document_tokens(&[&name]);
            let spell = |f: fn(&str) -> String| part.iter().map(|c| f(&readings(*c)[0])).collect::<String>();
            let queries = [part.iter().collect(), spell(str::to_owned), spell(|s| s.chars().take(1).collect())];
            for query in queries {
                for token in query_tokens(&query) {
                    prop_assert!(tokens.contains(&token), "{} of {}", token, name);
                }
                prop_assert!(relevance(&query, &[&name]).is_some(), "{} in {}", query, name);
            }
        }
    }
}
