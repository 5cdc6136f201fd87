//! Tables and properties of the calculator.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::coupon::{Benefit, Held, Scope, Terms, Window};
use crate::freight::{Destination, Measure, Place, Rule, Tariff, Template};
use crate::ids::{CouponId, UserCouponId};
use crate::pricing;

pub(crate) fn fen(n: i64) -> Fen {
    Fen::new(n).unwrap()
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
}

fn product(n: u8) -> ProductId {
    ProductId::parse(&format!("p-{n:03}")).unwrap()
}

fn template_id(n: u8) -> TemplateId {
    TemplateId::parse(&format!("t-{n}")).unwrap()
}

pub(crate) fn line(n: u8, price: i64, quantity: i64) -> Line {
    Line {
        product_id: product(n),
        sku_id: None,
        category: if n.is_multiple_of(2) { "水果" } else { "茶叶" }.to_owned(),
        price: fen(price),
        quantity,
        weight_g: 0,
        template_id: None,
    }
}

pub(crate) fn input(lines: Vec<Line>) -> Input {
    Input {
        lines,
        coupon: None,
        points: Points::ZERO,
        prepaid_goods: None,
        prepaid_money: None,
        balance: None,
        sending: None,
        adjustments: Vec::new(),
        rules: Rules { version: 4, point_value_fen: 100, points_pay_freight: false },
        now: at(10),
    }
}

fn held(benefit: Benefit, threshold: i64, scope: Scope) -> Held {
    Held {
        id: UserCouponId::parse("u-1").unwrap(),
        terms: Terms {
            coupon_id: CouponId::parse("c-1").unwrap(),
            version: 2,
            benefit,
            threshold: fen(threshold),
            scope,
        },
        window: Window { from: at(0), until: at(1000) },
    }
}

fn template(n: u8, first_fee: i64, further_fee: i64, free_over: Option<i64>) -> Template {
    let tariff = Tariff {
        first: 1,
        first_fee: fen(first_fee),
        further: 1,
        further_fee: fen(further_fee),
        free_over_amount: free_over.map(fen),
        free_over_pieces: None,
    };
    let far = Rule { places: vec![Place { province: "西藏".to_owned(), city: None }], tariff: None };
    Template { id: template_id(n), version: 5, measure: Measure::Piece, rules: vec![far], default: Some(tariff) }
}

fn sending(templates: Vec<Template>) -> Option<Sending> {
    let to = Destination { province: "浙江省".to_owned(), city: "杭州市".to_owned(), code: None };
    Some(Sending { templates, to })
}

/// An order with everything: 2 × 50.00 fruit and 1 × 30.00 tea, 20 off fruit, freight 6 + 1, 10 points, one prepaid piece.
fn everything() -> Input {
    let mut lines = vec![line(2, 5000, 2), line(1, 3000, 1)];
    lines[0].template_id = Some(template_id(1));
    Input {
        coupon: Some(held(
            Benefit::Off { off: fen(2000) },
            10_000,
            Scope::Categories { categories: BTreeSet::from(["水果".to_owned()]) },
        )),
        points: Points::new(11).unwrap(),
        prepaid_goods: Some(vec![Pieces { product_id: product(2), pieces: 1 }]),
        prepaid_money: Some(Purse { available: fen(2000), want: Want::Most }),
        balance: Some(Purse { available: fen(9999), want: Want::Amount { amount: fen(1000) } }),
        sending: sending(vec![template(1, 600, 100, None), template(9, 1, 1, None)]),
        ..input(lines)
    }
}

#[test]
fn an_order_with_everything_by_hand() {
    let proof = prove(everything()).unwrap();
    let steps: Vec<_> = proof.steps.iter().map(|s| (s.kind, s.amount.get(), s.left.get())).collect();
    assert_eq!(
        steps,
        [
            (StepKind::Goods, 13_000, 13_000),
            (StepKind::Coupon, 2000, 11_000),
            (StepKind::Freight, 700, 11_700),
            (StepKind::Points, 1100, 10_600),
            (StepKind::PrepaidGoods, 3600, 7000),
            (StepKind::PrepaidMoney, 2000, 5000),
            (StepKind::Balance, 1000, 4000),
            (StepKind::Payment, 4000, 4000),
        ]
    );
    let versions: Vec<_> = proof.versions.iter().map(|v| (v.kind.as_str(), v.id.as_str(), v.version)).collect();
    assert_eq!(versions, [("shop", "rules", 4), ("coupon", "c-1", 2), ("freight", "t-1", 5)]);
    let fruit = &proof.quote.lines[0];
    assert_eq!((fruit.amount.get(), fruit.coupon_discount.get(), fruit.points_discount.get()), (10_000, 2000, 800));
    assert_eq!((fruit.points_used.get(), fruit.prepaid_quantity, fruit.prepaid_covered.get()), (8, 1, 3600));
    let freight = &proof.quote.freight;
    assert_eq!((freight.amount.get(), freight.points_used.get(), freight.prepaid_amount.get()), (700, 0, 200));
    assert_eq!(proof.quote.discount().unwrap().get(), 3100);
    assert_eq!(verify(&proof), Ok(()));
    assert_eq!(proof.input.sending.unwrap().templates.len(), 1, "what no line uses is left out");
}

#[test]
fn a_coupon_larger_than_the_cart_makes_it_free_and_no_more() {
    let coupon = Some(held(Benefit::Off { off: fen(99_999) }, 0, Scope::All));
    let quote = calculate(&Input { coupon, ..input(vec![line(1, 10, 3)]) }).unwrap();
    assert_eq!((quote.total.coupon_discount.get(), quote.total.payment_amount.get()), (30, 0));
}

#[test]
fn free_freight_acts_on_freight_and_points_do_not_unless_a_rule_says_so() {
    let mut goods = line(1, 100, 1);
    goods.template_id = Some(template_id(1));
    let with_freight = Input { sending: sending(vec![template(1, 600, 0, None)]), ..input(vec![goods]) };
    let free = Some(held(Benefit::Freight { cap: Some(fen(400)) }, 0, Scope::All));
    let quote = calculate(&Input { coupon: free, ..with_freight.clone() }).unwrap();
    assert_eq!((quote.lines[0].coupon_discount.get(), quote.freight.coupon_discount.get()), (0, 400));
    assert_eq!(quote.total.payment_amount.get(), 300);

    let points = Points::new(2).unwrap();
    let refusal = calculate(&Input { points, ..with_freight.clone() }).unwrap_err();
    assert_eq!(refusal.details["maxPoints"], 1);
    let rules = Rules { points_pay_freight: true, ..with_freight.rules };
    let quote = calculate(&Input { points, rules, ..with_freight }).unwrap();
    assert_eq!((quote.lines[0].points_discount.get(), quote.freight.points_discount.get()), (29, 171));
    assert_eq!((quote.lines[0].points_used.get(), quote.freight.points_used.get()), (0, 2));
}

#[test]
fn free_over_looks_at_goods_before_the_coupon() {
    let mut goods = line(1, 5000, 2);
    goods.template_id = Some(template_id(1));
    let coupon = Some(held(Benefit::Off { off: fen(5000) }, 10_000, Scope::All));
    let sending = sending(vec![template(1, 600, 0, Some(10_000))]);
    let quote = calculate(&Input { coupon, sending, ..input(vec![goods]) }).unwrap();
    assert_eq!((quote.freight.amount, quote.total.payment_amount.get()), (Fen::ZERO, 5000));
}

#[test]
fn refusals_name_what_is_wrong() {
    let one = || input(vec![line(1, 1000, 2)]);
    let code = |input: Input| calculate(&input).unwrap_err().code;
    let field = |input: Input| calculate(&input).unwrap_err().details["field"].clone();
    assert_eq!(field(input(vec![])), "items");
    assert_eq!(field(input(vec![line(1, 1000, 0)])), "items[0].quantity");
    assert_eq!(field(input(vec![Line { weight_g: -1, ..line(1, 1000, 1) }])), "items[0].weightG");
    assert_eq!(field(input(vec![line(1, crate::money::MAX_FEN, 2)])), "items");
    assert_eq!(field(Input { points: Points::new(21).unwrap(), ..one() }), "pointsUsed");
    let mut lost = one();
    lost.lines[0].template_id = Some(template_id(1));
    lost.sending = Some(Sending::default());
    assert_eq!(field(lost), "items");

    let purse = |available, want| Some(Purse { available: fen(available), want });
    let insufficient = Code::PrepaidInsufficient;
    assert_eq!(code(Input { prepaid_money: purse(0, Want::Most), ..one() }), insufficient);
    assert_eq!(code(Input { prepaid_money: purse(9, Want::Amount { amount: fen(10) }), ..one() }), insufficient);
    assert_eq!(code(Input { balance: purse(1999, Want::Rest), ..one() }), Code::BalanceInsufficient);
    let pieces = |n, pieces| Some(vec![Pieces { product_id: product(n), pieces }]);
    assert_eq!(code(Input { prepaid_goods: pieces(2, 5), ..one() }), Code::PrepaidProductMismatch);
    assert_eq!(code(Input { prepaid_goods: pieces(1, 0), ..one() }), insufficient);
    let mut sku = one();
    sku.lines[0].sku_id = Some(SkuId::parse("s").unwrap());
    assert_eq!(code(Input { prepaid_goods: pieces(1, 5), ..sku }), Code::PrepaidProductMismatch);
    let far = Some(held(Benefit::Off { off: fen(1) }, 2001, Scope::All));
    assert_eq!(calculate(&Input { coupon: far, ..one() }).unwrap_err().details["reason"], "BELOW_THRESHOLD");

    // More than is left is wanted, and the purse holds what is left.
    let quote = calculate(&Input { prepaid_money: purse(2000, Want::Amount { amount: fen(9999) }), ..one() }).unwrap();
    assert_eq!(quote.total.prepaid_amount.get(), 2000);
}

#[test]
fn a_line_that_costs_nothing_uses_up_no_prepaid_pieces() {
    let coupon = Some(held(Benefit::Off { off: fen(2000) }, 0, Scope::All));
    let prepaid_goods = Some(vec![Pieces { product_id: product(1), pieces: 5 }]);
    let quote = calculate(&Input { coupon, prepaid_goods, ..input(vec![line(1, 1000, 2)]) }).unwrap();
    assert_eq!((quote.total.prepaid_quantity, quote.total.payment_amount), (0, Fen::ZERO));
}

#[test]
fn points_may_pay_for_all_the_goods() {
    let rules = Rules { version: 1, point_value_fen: 100, points_pay_freight: false };
    let quote = calculate(&Input { points: Points::new(20).unwrap(), rules, ..input(vec![line(1, 1000, 2)]) }).unwrap();
    assert_eq!(quote.total.payment_amount, Fen::ZERO);
}

#[test]
fn two_lines_of_one_product_share_its_prepaid_pieces() {
    let prepaid_goods = Some(vec![
        Pieces { product_id: product(1), pieces: 1 },
        Pieces { product_id: product(1), pieces: 2 },
        Pieces { product_id: product(2), pieces: 0 },
    ]);
    let lines = vec![line(1, 1000, 2), line(1, 1000, 2), line(2, 500, 1)];
    let quote = calculate(&Input { prepaid_goods, ..input(lines) }).unwrap();
    let covered: Vec<_> = quote.lines.iter().map(|l| (l.prepaid_quantity, l.payment_amount.get())).collect();
    assert_eq!(covered, [(2, 0), (1, 1000), (0, 500)]);
}

#[test]
fn a_changed_price_is_told_with_both_amounts() {
    let shown = calculate(&input(vec![line(1, 1000, 2)])).unwrap();
    let now = calculate(&input(vec![line(1, 1100, 2)])).unwrap();
    assert_eq!(check_unchanged(&shown, &shown), Ok(()));
    let refusal = check_unchanged(&shown, &now).unwrap_err();
    assert_eq!(refusal.code, Code::AmountMismatch);
    assert_eq!(
        refusal.details["differences"],
        serde_json::json!([
            {"field": "totalAmount", "expected": "22.00", "actual": "20.00"},
            {"field": "paymentAmount", "expected": "22.00", "actual": "20.00"},
        ])
    );
}

/// What of a quote no adjustment may move.
fn tenders(quote: &Quote) -> Vec<Share> {
    let still =
        |share: &Share| Share { amount: Fen::ZERO, payment_amount: Fen::ZERO, staff_discount: Fen::ZERO, ..*share };
    quote.lines.iter().chain([&quote.freight]).map(still).collect()
}

/// 110.00 left of 2 × 50.00 goods and 10.00 freight, which is 25.00 to 新疆.
fn far_and_near() -> Input {
    let mut asked = input(vec![line(2, 5000, 2)]);
    asked.lines[0].template_id = Some(template_id(1));
    let mut near = template(1, 1000, 0, None);
    let far = Rule { places: vec![Place { province: "新疆".to_owned(), city: None }], tariff: near.default };
    near.rules.push(far);
    near.rules[1].tariff.as_mut().unwrap().first_fee = fen(2500);
    asked.sending = sending(vec![near]);
    asked
}

fn place(province: &str) -> Adjustment {
    Adjustment::Place { to: Destination { province: province.to_owned(), city: String::new(), code: None } }
}

/// Orders from before the freight moved by a difference keep their price, and change as they always did.
#[test]
fn a_proof_is_verified_and_changed_by_the_calculator_that_made_it() {
    let adjustments = vec![Adjustment::Freight { to: fen(300) }, place("新疆")];
    let moved = Input { adjustments, ..far_and_near() };
    let old = proof::prove_with(proof::Calculator::V1, moved.clone()).unwrap();
    assert_eq!((old.calculator, old.quote.freight.amount.get()), (1, 2500));
    let new = prove(moved).unwrap();
    assert_eq!((new.calculator, new.quote.freight.amount.get()), (2, 1800));
    assert_eq!((verify(&old), verify(&new)), (Ok(()), Ok(())));
    for (number, proof) in [(2, &old), (1, &new)] {
        let forged = Proof { calculator: number, ..proof.clone() };
        assert!(matches!(verify(&forged), Err(ProofError::Step { .. })), "{number}");
    }
    for (proof, there, back) in [(&old, 2500, 1000), (&new, 1800, 300)] {
        let returned = adjust(proof, place("江苏")).unwrap();
        assert_eq!((returned.calculator, returned.quote.freight.amount.get()), (proof.calculator, back));
        assert_eq!(verify(&returned), Ok(()));
        let before: Vec<_> = (0..=3).map(|n| quote_before(&returned, n).unwrap().freight.amount.get()).collect();
        assert_eq!(before, [1000, 300, there, back]);
    }
    let unknown = Proof { calculator: 3, ..new };
    assert_eq!(verify(&unknown), Err(ProofError::UnknownCalculator(3)));
    assert_eq!(adjust(&unknown, place("江苏")).unwrap_err().code, Code::Conflict);
}

#[test]
fn adjustments_by_hand() {
    let asked = far_and_near();
    let quoted = |adjustments: &[Adjustment]| {
        let proof = prove(Input { adjustments: adjustments.to_vec(), ..asked.clone() })?;
        assert_eq!(verify(&proof), Ok(()));
        let (line, freight) = (proof.quote.lines[0], proof.quote.freight);
        assert_eq!(proof.quote.discount(), line.staff_discount.checked_add(freight.staff_discount));
        Ok::<_, Refusal>(
            [line.payment_amount, line.staff_discount, freight.amount, freight.payment_amount].map(Fen::get),
        )
    };
    let (price, freight) = (|to| Adjustment::Price { to: fen(to) }, |to| Adjustment::Freight { to: fen(to) });
    assert_eq!(quoted(&[]).unwrap(), [10000, 0, 1000, 1000]);
    assert_eq!(quoted(&[price(9900)]).unwrap(), [9000, 1000, 1000, 900]);
    assert_eq!(quoted(&[price(9900), price(0)]).unwrap(), [0, 10000, 1000, 0]);
    assert_eq!(quoted(&[freight(300), price(5150)]).unwrap(), [5000, 5000, 300, 150]);
    assert_eq!(quoted(&[freight(0), freight(1234)]).unwrap(), [10000, 0, 1234, 1234]);
    // What staff took off the freight stays taken off.
    assert_eq!(quoted(&[price(9900), freight(100)]).unwrap(), [9000, 1000, 100, 0]);
    assert_eq!(quoted(&[price(9900), freight(99)]).unwrap_err().details["min"], "1.00");
    assert_eq!(quoted(&[price(9900), price(9901)]).unwrap_err().details["max"], "99.00");
    // What staff set moves by the difference of the fees, 10.00 here and 25.00 there, and comes back by it.
    assert_eq!(quoted(&[freight(0), place("江苏")]).unwrap(), [10000, 0, 0, 0]);
    assert_eq!(quoted(&[freight(0), place("新疆")]).unwrap(), [10000, 0, 1500, 1500]);
    assert_eq!(quoted(&[freight(0), place("新疆"), place("江苏")]).unwrap(), [10000, 0, 0, 0]);
    assert_eq!(quoted(&[freight(1300), place("新疆")]).unwrap(), [10000, 0, 2800, 2800]);
    // Nothing is given to the buyer beyond the freight of the other place, and nothing is lost on the way.
    assert_eq!(quoted(&[place("新疆"), freight(500), place("江苏")]).unwrap(), [10000, 0, 0, 0]);
    assert_eq!(quoted(&[place("新疆"), freight(500), place("江苏"), place("新疆")]).unwrap(), [10000, 0, 500, 500]);
    assert_eq!(quoted(&[freight(0), place("新疆"), freight(2000), place("江苏")]).unwrap(), [10000, 0, 500, 500]);
    // A lower price keeps what it took off the freight, which the freight cannot go below.
    assert_eq!(quoted(&[price(9900), place("新疆")]).unwrap(), [9000, 1000, 2500, 2400]);
    assert_eq!(quoted(&[place("新疆"), price(9375), freight(700), place("江苏")]).unwrap(), [7500, 2500, 625, 0]);
    assert_eq!(quoted(&[place("西藏")]).unwrap_err().details["reason"], "NOT_DELIVERABLE");
}

/// Every path to a number outside of `input`.
fn numbers(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Number(_) => found.push(path.to_owned()),
        serde_json::Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                numbers(item, &format!("{path}/{i}"), found);
            }
        }
        serde_json::Value::Object(fields) => {
            for (key, item) in fields.iter().filter(|(key, _)| *key != "input") {
                numbers(item, &format!("{path}/{key}"), found);
            }
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::String(_) => {}
    }
}

#[test]
fn no_number_of_a_proof_can_be_changed() {
    let honest = serde_json::to_value(prove(everything()).unwrap()).unwrap();
    let mut paths = Vec::new();
    numbers(&honest, "", &mut paths);
    assert!(paths.len() > 40, "{}", paths.len());
    for path in paths {
        let mut forged = honest.clone();
        let number = forged.pointer_mut(&path).unwrap();
        *number = (number.as_i64().unwrap() + 1).into();
        let forged: Proof = serde_json::from_value(forged).unwrap();
        assert!(verify(&forged).is_err(), "{path}");
    }
    let mut forged: Proof = serde_json::from_value(honest).unwrap();
    forged.steps.pop();
    assert!(matches!(verify(&forged), Err(ProofError::Step { place: 7, recorded: None, .. })));
}

#[test]
fn changed_inputs_are_found_by_the_steps() {
    let mut forged = prove(everything()).unwrap();
    forged.input.lines[0].price = fen(4999);
    assert!(matches!(verify(&forged), Err(ProofError::Refused(_)) | Err(ProofError::Step { .. })));
    let mut forged = prove(everything()).unwrap();
    forged.input.rules.version = 5;
    assert_eq!(verify(&forged), Err(ProofError::Versions));
}

fn any_line() -> impl Strategy<Value = Line> {
    let price = prop_oneof![0i64..200, 0i64..1_000_000];
    (0u8..8, prop::option::of(0u8..3), price, 1i64..30, 0i64..3000, prop::option::of(1u8..3)).prop_map(
        |(n, sku, price, quantity, weight_g, template)| Line {
            sku_id: sku.map(|s| SkuId::parse(&format!("s-{s}")).unwrap()),
            weight_g,
            template_id: template.map(template_id),
            ..line(n, price, quantity)
        },
    )
}

fn any_coupon() -> impl Strategy<Value = Held> {
    let benefit = prop_oneof![
        (1i64..50_000).prop_map(|off| Benefit::Off { off: fen(off) }),
        (1i64..10_000, prop::option::of(1i64..9000))
            .prop_map(|(rate_bp, cap)| Benefit::Rate { rate_bp, cap: cap.map(fen) }),
        prop::option::of(1i64..900).prop_map(|cap| Benefit::Freight { cap: cap.map(fen) }),
    ];
    let scope = prop_oneof![
        Just(Scope::All),
        Just(Scope::Categories { categories: BTreeSet::from(["水果".to_owned()]) }),
        prop::collection::btree_set((0u8..8).prop_map(product), 1..5).prop_map(|products| Scope::Products { products }),
    ];
    (benefit, prop_oneof![Just(0), 0i64..20_000], scope).prop_map(|(b, t, s)| held(b, t, s))
}

fn any_purse() -> impl Strategy<Value = Purse> {
    let want = prop_oneof![Just(Want::Most), (0i64..100_000).prop_map(|n| Want::Amount { amount: fen(n) })];
    (1i64..300_000, want).prop_map(|(available, want)| Purse { available: fen(available), want })
}

/// Any order that could be asked for; many are refused.
fn any_input() -> impl Strategy<Value = Input> {
    let templates = (0i64..2000, 0i64..300, prop::option::of(0i64..100_000));
    let templates = (templates.clone(), templates)
        .prop_map(|((a, b, c), (d, e, f))| vec![template(1, a, b, c), template(2, d, e, f)]);
    (
        prop::collection::vec(any_line(), 1..8),
        prop::option::of(any_coupon()),
        prop_oneof![Just(0), 0i64..50],
        prop::option::of(prop::collection::vec((0u8..8, 0i64..20), 1..4)),
        prop::option::of(any_purse()),
        prop::option::of(any_purse()),
        prop::option::of(templates),
        (1i64..200, any::<bool>()),
    )
        .prop_map(|(lines, coupon, points, pieces, prepaid_money, balance, templates, (value, freight))| Input {
            coupon,
            points: Points::new(points).unwrap(),
            prepaid_goods: pieces
                .map(|p| p.into_iter().map(|(n, pieces)| Pieces { product_id: product(n), pieces }).collect()),
            prepaid_money,
            balance,
            sending: templates.and_then(sending),
            rules: Rules { version: 1, point_value_fen: value, points_pay_freight: freight },
            ..input(lines)
        })
}

/// Orders that are not refused: whatever the calculator will not take is left away.
pub(crate) fn any_order() -> impl Strategy<Value = (Input, Quote)> {
    any_input().prop_map(|mut input| {
        let mends: [fn(&mut Input); 6] = [
            |i| i.coupon = None,
            |i| i.points = Points::ZERO,
            |i| i.prepaid_goods = None,
            |i| i.balance = None,
            |i| i.prepaid_money = None,
            |i| i.sending = None,
        ];
        for mend in mends {
            match calculate(&input) {
                Ok(quote) => return (input, quote),
                Err(refusal) => {
                    let first = match refusal.code {
                        Code::CouponNotApplicable => mends[0],
                        Code::PrepaidProductMismatch => mends[2],
                        Code::BalanceInsufficient => mends[3],
                        Code::PrepaidInsufficient if input.prepaid_goods.is_some() => mends[2],
                        _ => mend,
                    };
                    first(&mut input);
                }
            }
        }
        input = super::tests::input(input.lines);
        let quote = calculate(&input).unwrap();
        (input, quote)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_part_sums_and_none_exceeds_its_worth((input, quote) in any_order()) {
        let all = || quote.lines.iter().chain([&quote.freight]);
        prop_assert!(all().all(Share::adds_up) && quote.total.adds_up());
        prop_assert_eq!(Share::sum(all()).unwrap(), quote.total);
        prop_assert_eq!(quote.total.points_used, input.points);
        for (line, share) in input.lines.iter().zip(&quote.lines) {
            prop_assert_eq!(share.amount.get(), line.price.get() * line.quantity);
            prop_assert!(share.prepaid_quantity <= line.quantity);
            let used = |(l, s): (&Line, &Share)| if l.product_id == line.product_id { s.prepaid_quantity } else { 0 };
            let used: i64 = input.lines.iter().zip(&quote.lines).map(used).sum();
            let there = input.prepaid_goods.iter().flatten().filter(|p| p.product_id == line.product_id);
            prop_assert!(used <= there.map(|p| p.pieces).sum());
            prop_assert!(share.prepaid_quantity < line.quantity || share.money().unwrap().is_zero());
        }
        prop_assert_eq!((quote.freight.prepaid_quantity, quote.freight.prepaid_covered), (0, Fen::ZERO));
        if !input.rules.points_pay_freight {
            prop_assert_eq!(quote.freight.points_discount, Fen::ZERO);
        }
        for purse in [(input.prepaid_money, quote.total.prepaid_amount), (input.balance, quote.total.balance_amount)] {
            prop_assert!(purse.1 <= purse.0.map_or(Fen::ZERO, |p| p.available));
        }
    }

    #[test]
    fn the_order_of_the_lines_changes_no_total((mut input, quote) in any_order(), seed in any::<u64>()) {
        let n = input.lines.len();
        let mut places: Vec<usize> = (0..n).collect();
        places.sort_by_key(|i| seed.rotate_left(u32::try_from(i * 7).unwrap()).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        input.lines = places.iter().map(|i| input.lines[*i].clone()).collect();
        let other = calculate(&input).unwrap();
        prop_assert_eq!(other.total, quote.total);
        prop_assert_eq!(other.freight, quote.freight);
        let sorted = |lines: &[Share]| {
            let mut texts: Vec<String> = lines.iter().map(|l| format!("{l:?}")).collect();
            texts.sort();
            texts
        };
        prop_assert_eq!(sorted(&other.lines), sorted(&quote.lines));
    }

    #[test]
    fn a_proof_survives_storing_and_proves_its_price((input, quote) in any_order()) {
        let proof = prove(input).unwrap();
        prop_assert_eq!(&proof.quote, &quote);
        let stored: Proof = serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap();
        prop_assert_eq!(&stored, &proof);
        prop_assert_eq!(verify(&stored), Ok(()));
        let last = proof.steps.last().unwrap();
        prop_assert_eq!((last.amount, last.left), (quote.total.payment_amount, quote.total.payment_amount));
    }

    /// Thresholds, free-over and prepaid pieces are the shop's gifts for more; without them more costs more.
    #[test]
    fn more_pieces_never_cost_less((mut input, _) in any_order(), place in 0usize..8, more in 1i64..20) {
        input.prepaid_goods = None;
        if let Some(held) = &mut input.coupon {
            held.terms.threshold = Fen::ZERO;
        }
        for template in input.sending.iter_mut().flat_map(|s| &mut s.templates) {
            template.default.as_mut().unwrap().free_over_amount = None;
        }
        let n = input.lines.len();
        let mut larger = input.clone();
        larger.lines[place % n].quantity += more;
        // An amount wanted of a purse may be more than the purse holds once there is more to pay.
        if let (Ok(quote), Ok(larger)) = (calculate(&input), calculate(&larger)) {
            prop_assert!(quote.total.amount <= larger.total.amount);
            prop_assert!(quote.freight.amount <= larger.freight.amount);
            prop_assert!(quote.total.coupon_discount <= larger.total.coupon_discount);
            prop_assert!(quote.total.payable().unwrap() <= larger.total.payable().unwrap());
            prop_assert!(quote.total.payment_amount <= larger.total.payment_amount);
        }
    }

    /// Any adjustments that can be made leave every other tender where it was, add up, and are proven.
    #[test]
    fn adjustments_move_only_what_is_left_for_wechat(
        (mut input, quote) in any_order(),
        changes in prop::collection::vec((any::<bool>(), 0i64..=1200), 1..6),
    ) {
        let mut last = quote.clone();
        for (lower, parts) in changes {
            let change = match lower {
                true => {
                    let left = last.total.payment_amount.get();
                    Adjustment::Price { to: fen(left * parts.min(1000) / 1000) }
                }
                false => Adjustment::Freight { to: fen(parts) },
            };
            input.adjustments.push(change.clone());
            match prove(input.clone()) {
                Ok(proof) => {
                    let now = &proof.quote;
                    let all = || now.lines.iter().chain([&now.freight]);
                    prop_assert!(all().all(Share::adds_up) && now.total.adds_up());
                    prop_assert_eq!(Share::sum(all()).unwrap(), now.total);
                    prop_assert_eq!(tenders(now), tenders(&quote));
                    prop_assert!(now.lines.iter().zip(&quote.lines).all(|(n, q)| n.amount == q.amount));
                    match change {
                        Adjustment::Price { to } => prop_assert_eq!(now.total.payment_amount, to),
                        Adjustment::Freight { to } => prop_assert_eq!(now.freight.amount, to),
                        Adjustment::Place { .. } => {}
                    }
                    let stored: Proof = serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap();
                    prop_assert_eq!(verify(&stored), Ok(()));
                    last = proof.quote;
                }
                Err(refusal) => {
                    prop_assert_eq!(&refusal.details["field"], "freightAmount");
                    input.adjustments.pop();
                }
            }
        }
    }

    /// What the first version of pricing knew is priced as it was, line by line.
    #[test]
    fn goods_and_points_alone_cost_what_they_did(
        lines in prop::collection::vec((0i64..1_000_000, 1i64..1000), 1..100),
        points in 0i64..200_000, value in 0i64..300,
    ) {
        let points = Points::new(points).unwrap();
        let old_lines: Vec<_> = lines.iter().map(|(p, quantity)| pricing::Line { price: fen(*p), quantity: *quantity }).collect();
        let old = pricing::quote(&old_lines, points, value);
        let named = lines.iter().enumerate().map(|(i, (p, q))| line(u8::try_from(i).unwrap(), *p, *q)).collect();
        let rules = Rules { version: 1, point_value_fen: value, points_pay_freight: false };
        let new = calculate(&Input { points, rules, ..input(named) });
        match (old, new) {
            (Ok(old), Ok(new)) => {
                prop_assert_eq!(old.total, new.total.amount);
                prop_assert_eq!(old.points_discount, new.total.points_discount);
                prop_assert_eq!(old.payable, new.total.payment_amount);
                for (old, new) in old.lines.iter().zip(&new.lines) {
                    prop_assert_eq!((old.amount, old.points_discount, old.payable), (new.amount, new.points_discount, new.payment_amount));
                }
            }
            (old, new) => prop_assert_eq!(old.unwrap_err(), new.unwrap_err()),
        }
    }
}
