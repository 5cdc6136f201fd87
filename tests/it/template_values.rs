//! Whatever a value is, what is made of it passes the check of the simulated WeChat, which knows nothing of how it was made.

use proptest::prelude::*;
use wechat::subscribe::fit;

const KEYS: [&str; 14] = [
    "thing1",
    "number2",
    "letter3",
    "symbol4",
    "character_string5",
    "time6",
    "date7",
    "amount8",
    "phone_number9",
    "car_number10",
    "name11",
    "phrase12",
    "const13",
    "enum14",
];

/// Pieces that have meant trouble somewhere.
const PIECES: [&str; 40] = [
    "👨‍👩‍👧‍👦",
    "🇨🇳",
    "👍🏽",
    "1️⃣",
    "❤️",
    "e\u{301}",
    "\u{200D}",
    "\u{FE0F}",
    "\u{202E}",
    "\u{FEFF}",
    "\n",
    "\t",
    "\u{0}",
    "\u{85}",
    "\u{2028}",
    "　",
    " ",
    "字",
    "𠮷",
    "々",
    "〇",
    "ａ１",
    "Abc",
    "0123456789",
    ".",
    "~",
    "～",
    "-",
    "¥",
    "￥",
    "$",
    "元",
    "+86",
    "(0571)",
    "年",
    "2026年11月21日",
    "2026-11-21",
    "T16:56:17.000Z",
    "15:01",
    "99:99",
];

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => proptest::sample::select(&PIECES[..]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => (0_u32..100_000).prop_map(|number| number.to_string()),
    ];
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_value_passes(value in text(), key in proptest::sample::select(&KEYS[..])) {
        let fitting = fit(key, &value);
        prop_assert_eq!(simulators::keyword(key, &fitting), Ok(()), "{} {:?} became {:?}", key, value, fitting);
        prop_assert_eq!(fit(key, &fitting), fitting.clone(), "{} {:?}", key, value);
    }
}

#[test]
fn a_long_name_and_an_empty_one_pass() {
    let long = ["王".repeat(200), "👨‍👩‍👧‍👦".repeat(200), "a".repeat(200), "\u{301}".repeat(200), String::new()];
    for key in KEYS {
        for value in &long {
            let fitting = fit(key, value);
            // Only the template knows its list, and nobody has 200 characters in one.
            if !key.starts_with("const") && !key.starts_with("enum") {
                assert_eq!(simulators::keyword(key, &fitting), Ok(()), "{key} {fitting:?}");
            }
            assert!(!fitting.is_empty());
        }
    }
}
