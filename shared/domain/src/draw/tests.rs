//! Tables and properties of the draw, and a table of cheats with what gives each of them away.

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;

/// Computed with Python's `hashlib` and `hmac` from what `docs/draw.md` says.
const EXAMPLE: &str = include_str!("../../../../docs/draw_example.json");
const KEY: &str = "89674d81c29bba6ee10acf641ba20bac3f971683690b8fb33326c055ea93f575";
const EXAMPLE_SEED: [u8; 32] = {
    let mut seed = [0; 32];
    let mut byte = 0;
    while byte < 32 {
        seed[byte as usize] = byte;
        byte += 1;
    }
    seed
};

fn example() -> Record {
    serde_json::from_str(EXAMPLE).unwrap()
}

fn tickets(record: &Record) -> Vec<TicketId> {
    record.tickets.iter().map(|ticket| ticket.parse().unwrap()).collect()
}

fn some_tickets(n: usize) -> Vec<TicketId> {
    (0..n).map(|number| ticket_id(&[7; 32], "r", &format!("o-{number}"))).collect()
}

fn hash_of(tickets: &[TicketId]) -> String {
    let mut hasher = TicketsHasher::new();
    tickets.iter().for_each(|ticket| hasher.push(ticket).unwrap());
    hasher.finish()
}

/// What a shop that cheats would do next: make everything that follows from seed, list, beacon and rules fit again.
fn drawn_again(mut record: Record) -> Record {
    let mut list = tickets(&record);
    list.sort_unstable();
    let hash = hash_of(&list);
    let mut seed = [0; 32];
    hex::decode_to_slice(record.seed.as_ref().unwrap(), &mut seed).unwrap();
    let key = draw_key(&seed, &record.round_id, &hash, &record.beacon);
    let n = u64::try_from(list.len()).unwrap();
    let k = winners_count(record.rules.mode, record.rules.quota, record.rules.win_rate_bp, n);
    let ranked: Vec<String> = rank(&key, list.clone()).iter().map(ToString::to_string).collect();
    let (winners, waiting) = ranked.split_at(usize::try_from(k).unwrap());
    record.tickets = list.iter().map(ToString::to_string).collect();
    (record.tickets_hash, record.k) = (Some(hash), Some(k));
    (record.winners, record.waiting) = (winners.to_vec(), waiting.to_vec());
    record.rules_hash = Some(record.expected_rules_hash());
    record
}

/// A copy that somebody saved: with the frozen list but without the draw.
fn frozen(mut record: Record) -> Record {
    (record.seed, record.k, record.drawn_at, record.beacon_signature) = (None, None, None, None);
    record.beacon.clear();
    record.winners.clear();
    record.waiting.clear();
    record.status = Some(Status::Closed);
    record
}

/// A copy from before the window.
fn announced(record: Record) -> Record {
    let mut record = frozen(record);
    record.tickets.clear();
    record.tickets_hash = None;
    record.status = Some(Status::Announced);
    record
}

#[test]
fn the_example_comes_out_as_another_program_computed_it() {
    let record = example();
    assert_eq!(commit(&EXAMPLE_SEED), record.commit);
    assert_eq!(ticket_id(&[0x42; 32], &record.round_id, "o-bob").to_string(), record.winners[0]);
    let hash = hash_of(&tickets(&record));
    assert_eq!(Some(&hash), record.tickets_hash.as_ref());
    let key = draw_key(&EXAMPLE_SEED, &record.round_id, &hash, &record.beacon);
    assert_eq!(hex::encode(key), KEY);
    let ranked = rank(&key, tickets(&record));
    let said: Vec<&String> = record.winners.iter().chain(&record.waiting).collect();
    assert!(ranked.iter().map(ToString::to_string).eq(said.into_iter().cloned()));
    assert_eq!(Some(record.expected_rules_hash()), record.rules_hash);
    let verdict = verify(&record).unwrap();
    assert_eq!((verdict.n, verdict.k, verdict.source, verdict.rules_hash), (7, 3, BeaconSource::Drand, true));
    let written: serde_json::Value = serde_json::to_value(&record).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(EXAMPLE).unwrap(), "nothing is lost or added");
}

#[test]
fn the_description_shows_the_numbers_of_the_example() {
    let text = include_str!("../../../../docs/draw.md");
    let record = example();
    let mut shown = vec![KEY.to_owned(), record.commit.clone(), record.beacon.clone(), record.round_id.clone()];
    shown.extend([record.tickets_hash, record.rules_hash, record.seed, record.beacon_signature].map(Option::unwrap));
    shown.extend(record.tickets);
    for value in shown {
        assert!(text.contains(&value), "docs/draw.md lacks {value}");
    }
    // Ticket, then its HMAC, as the table of the example has it.
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('`').collect();
        let [_, ticket, _, mac, _] = cells[..] else { continue };
        let Some(ticket) = TicketId::parse(ticket) else { continue };
        let mut computed = keyed(&hex::decode(KEY).unwrap());
        computed.update(ticket.to_string().as_bytes());
        assert_eq!(hex::encode(computed.finalize().into_bytes()), mac);
    }
}

#[test]
fn the_fields_of_the_contract_alone_suffice() {
    let mut record: serde_json::Value = serde_json::from_str(EXAMPLE).unwrap();
    for name in ["rulesHash", "status"] {
        record.as_object_mut().unwrap().remove(name);
    }
    for name in ["quantity", "qualificationMinutes", "unused", "passUntil"] {
        record["rules"].as_object_mut().unwrap().remove(name);
    }
    record["rules"]["beacon"].as_object_mut().unwrap().remove("deadline");
    let record: Record = serde_json::from_value(record).unwrap();
    assert!(!verify(&record).unwrap().rules_hash);
}

#[test]
fn other_beacons_and_edges_hold() {
    let with = |source, beacon: &str, name: Option<&str>| {
        let mut record = example();
        record.rules.beacon =
            BeaconRule { source, chain: None, round: None, name: name.map(str::to_owned), deadline: None };
        (record.beacon, record.beacon_signature) = (beacon.to_owned(), None);
        drawn_again(record)
    };
    assert!(verify(&with(BeaconSource::None, "", None)).is_ok());
    let index = hex::encode("上证指数 2023-08-23 收盘 3078.40");
    assert!(verify(&with(BeaconSource::Public, &index, Some("上证指数收盘"))).is_ok());
    let mut empty = with(BeaconSource::None, "", None);
    empty.tickets.clear();
    let empty = drawn_again(empty);
    assert_eq!(verify(&empty).map(|verdict| (verdict.n, verdict.k)), Ok((0, 0)));
    assert_eq!(empty.tickets_hash, Some(hex::encode(Sha256::digest(b""))));
}

#[test]
fn rounds_are_strictly_later_than_thirty_seconds_after_the_close() {
    let chain = Chain::quicknet();
    let at = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert_eq!(chain.time_of(1000), Some(at("2023-08-23T15:59:24Z")));
    assert_eq!(chain.time_of(0), None);
    assert_eq!(chain.time_of(u64::MAX), None);
    for (closed, round) in [
        ("2023-08-23T15:58:53.999Z", 1000),
        ("2023-08-23T15:58:54.000Z", 1001),
        ("2023-08-23T15:58:54.001Z", 1001),
        ("2023-08-23T15:58:51.000Z", 1000),
        ("2000-01-01T00:00:00Z", 1),
    ] {
        assert_eq!(chain.round_at(at(closed)), round, "{closed}");
        let after = at(closed) + chrono::TimeDelta::seconds(30);
        assert!(chain.time_of(round).unwrap() > after);
        assert!(round == 1 || chain.time_of(round - 1).unwrap() <= after);
    }
}

#[test]
fn tickets_have_one_text() {
    let good = "00ff22a16e4d7b18a7713e552bdafb78";
    assert_eq!(TicketId::parse(good).unwrap().to_string(), good);
    assert_eq!(serde_json::from_str::<TicketId>(&format!("\"{good}\"")).unwrap(), TicketId::parse(good).unwrap());
    for bad in ["", "00", &good.to_uppercase(), &format!("{good}00"), "zz", &good.replacen('0', " ", 1)] {
        assert!(TicketId::parse(bad).is_none(), "{bad}");
    }
    let mut hasher = TicketsHasher::new();
    let ticket = TicketId::parse(good).unwrap();
    hasher.push(&ticket).unwrap();
    assert_eq!(hasher.push(&ticket), Err(NotAscending(ticket)));
    assert!(hasher.push(&TicketId::from([0; 16])).is_err());
}

/// A cheat, how it is done to the example, and what must be said about it.
type Cheat = (&'static str, fn(&mut Record), &'static str);

/// A ticket that did not take part.
const STRANGER: &str = "5dddddddddddddddddddddddddddddd5";

const CHEATS: &[Cheat] = &[
    ("late ticket", |r| r.tickets.insert(3, STRANGER.into()), "ticketsHash: the tickets give"),
    ("dropped ticket", |r| drop(r.tickets.remove(1)), "ticketsHash: the tickets give"),
    ("replaced ticket", |r| r.tickets[2] = STRANGER.into(), "winners: place"),
    ("unsorted", |r| r.tickets.swap(0, 1), "tickets: not sorted ascending"),
    ("ticket twice", |r| r.tickets.insert(0, r.tickets[0].clone()), "is listed twice"),
    ("no ticket", |r| r.tickets[0] = "me".into(), "tickets: place 1 is not 32"),
    ("upper-case ticket", |r| r.tickets[0] = r.tickets[0].to_uppercase(), "tickets: place 1 is not 32"),
    ("other hash", |r| r.tickets_hash = Some("00".repeat(32)), "ticketsHash: the tickets give"),
    ("no hash", |r| r.tickets_hash = None, "ticketsHash: is missing"),
    (
        "second draw",
        |r| {
            r.seed = Some("11".repeat(32));
            *r = drawn_again(r.clone());
        },
        "seed: SHA-256 of the seed is not the published commit",
    ),
    ("other commit", |r| r.commit = "22".repeat(32), "seed: SHA-256 of the seed is not the published commit"),
    ("short commit", |r| r.commit.truncate(63), "commit: is not 64"),
    ("seed hidden", |r| r.seed = None, "seed: is not revealed"),
    ("seed short", |r| r.seed = Some("00".repeat(31)), "seed: is not 64"),
    ("seed upper case", |r| r.seed = r.seed.as_ref().map(|seed| seed.to_uppercase()), "seed: is not 64"),
    ("quota", |r| r.rules.quota = 2, "k: the rules give 2 for 7 tickets, the record says 3"),
    ("rate", |r| r.rules.win_rate_bp = Some(6_000), "k: the rules give 4 for 7 tickets, the record says 3"),
    ("rate above all", |r| r.rules.win_rate_bp = Some(10_001), "rules.winRateBp: is 10001, above 10000"),
    ("mode", |r| r.rules.mode = Mode::Auto, "k: the rules give 5 for 7 tickets, the record says 3"),
    ("rules kept, hash kept", |r| r.rules.quota = 4, "rulesHash: rules, roundId, activityId, times and commit give"),
    ("minutes", |r| r.rules.qualification_minutes = Some(1), "rulesHash: rules"),
    ("k", |r| r.k = Some(4), "k: the rules give 3 for 7 tickets, the record says 4"),
    ("no k", |r| r.k = None, "k: is missing"),
    ("winner swapped", |r| std::mem::swap(&mut r.winners[2], &mut r.waiting[0]), "winners: place 3 is"),
    ("winners' order", |r| r.winners.swap(0, 1), "winners: place 1 is"),
    (
        "winner from outside",
        |r| r.winners[1] = STRANGER.into(),
        "winners: 5dddddddddddddddddddddddddddddd5 is not among",
    ),
    ("winner twice", |r| r.winners[1] = r.winners[0].clone(), "is there twice"),
    ("one winner more", |r| r.winners.push(r.waiting[0].clone()), "winners: should hold 3 tickets, holds 4; \""),
    (
        "a winner waiting, too",
        |r| r.waiting.push(r.winners[0].clone()),
        "waiting: should hold 4 tickets, holds 5; \"b48180c171479a814bc2d8fdf93fd85c\" does not belong here",
    ),
    ("waiting reordered", |r| r.waiting.swap(1, 3), "waiting: place 2 is"),
    (
        "waiting dropped",
        |r| drop(r.waiting.pop()),
        "waiting: should hold 4 tickets, holds 3; 2b8dcc3275d4b2e4720444076edf162f is missing",
    ),
    ("beacon", |r| r.beacon = "33".repeat(32), "beacon: is not SHA-256 of beaconSignature"),
    ("no signature", |r| r.beacon_signature = None, "beaconSignature: is missing"),
    ("malformed signature", |r| r.beacon_signature = Some("b4".into()), "beaconSignature: is not 96"),
    ("source none", |r| r.rules.beacon.source = BeaconSource::None, "beacon: must be empty for source none"),
    (
        "source public",
        |r| r.rules.beacon.source = BeaconSource::Public,
        "rules.beacon.name: the public figure is not named",
    ),
    ("a round already out", |r| r.rules.beacon.round = Some(980), "round 980 was published before the close"),
    ("a round still to come", |r| r.rules.beacon.round = Some(2_000), "drawnAt: is before round 2000 was published"),
    ("no round", |r| r.rules.beacon.round = None, "rules.beacon.round: is missing"),
    ("no chain", |r| r.rules.beacon.chain = None, "rules.beacon.chain: is not 64"),
    ("other round's result", |r| r.round_id = "20230824-2330-a1".into(), "winners: place"),
    ("line break", |r| r.rules.beacon.name = Some("a\nb".into()), "rules.beacon.name: contains a line break"),
    ("window reversed", |r| std::mem::swap(&mut r.opened_at, &mut r.closed_at), "closedAt: is not after openedAt"),
    ("drawn before the close", |r| r.drawn_at = Some(r.opened_at.clone()), "drawnAt: is before closedAt"),
    ("no time", |r| r.opened_at = "soon".into(), "openedAt: is not a time"),
    (
        "lists on pages",
        |r| {
            r.tickets.clear();
            r.pages = Some(1);
        },
        "pages: the lists come in pages",
    ),
    ("version", |r| r.version = 2, "version: this check knows version 1, the record says 2"),
    ("void", |r| r.status = Some(Status::Void), "status: is void, so there is no draw to check"),
];

#[test]
fn every_cheat_is_named() {
    for (name, cheat, expected) in CHEATS {
        let mut record = example();
        cheat(&mut record);
        let faults = verify(&record).expect_err(name);
        let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|fault| fault.contains(expected)), "{name}: {said:#?}");
    }
}

/// What fits in itself and shows only beside a copy that somebody saved.
const CONSISTENT_CHEATS: &[Cheat] = &[
    (
        "another seed with its commit",
        |r| {
            r.seed = Some("44".repeat(32));
            r.commit = commit(&[0x44; 32]);
        },
        "commit: was announced as",
    ),
    ("quota with its hash", |r| r.rules.quota = 1, "rules.quota: was announced as \"5\", is now \"1\""),
    ("rate with its hash", |r| r.rules.win_rate_bp = Some(9_000), "rules.winRateBp: was announced as"),
    ("mode with its hash", |r| r.rules.mode = Mode::Auto, "rules.mode: was announced as"),
    ("pieces with their hash", |r| r.rules.quantity = Some(9), "rules.quantity: was announced as"),
    ("hand-on with its hash", |r| r.rules.unused = Some(Unused::Stock), "rules.unused: was announced as"),
    ("deadline with its hash", |r| r.rules.beacon.deadline = None, "rules.beacon.deadline: was announced as"),
    (
        "no beacon after all",
        |r| {
            r.rules.beacon =
                BeaconRule { source: BeaconSource::None, chain: None, round: None, name: None, deadline: None };
            r.beacon.clear();
            r.beacon_signature = None;
        },
        "rules.beacon.source: was announced as",
    ),
    ("later close", |r| r.closed_at = "2023-08-23T15:58:59.000Z".into(), "closedAt: was announced as"),
    ("record of another round", |r| r.round_id = "20230824-2330-a1".into(), "roundId: was announced as"),
    ("record of another activity", |r| r.activity_id = "a2".into(), "activityId: was announced as"),
];

#[test]
fn a_saved_copy_gives_consistent_cheats_away() {
    let copy = announced(example());
    assert_eq!(verify_against(&example(), &copy), []);
    assert_eq!(verify_against(&example(), &frozen(example())), []);
    assert_eq!(verify_against(&example(), &example()), []);
    for (name, cheat, expected) in CONSISTENT_CHEATS {
        let mut record = example();
        cheat(&mut record);
        let record = drawn_again(record);
        assert!(verify(&record).is_ok(), "{name} fits in itself: {:?}", verify(&record));
        let said: Vec<String> = verify_against(&record, &copy).iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|fault| fault.contains(expected)), "{name}: {said:#?}");
        assert!(said.iter().any(|fault| fault.starts_with("rulesHash: ")), "{name}: {said:#?}");
    }
}

#[test]
fn a_frozen_list_gives_late_and_dropped_tickets_away() {
    let copy = frozen(example());
    let mut late = example();
    late.tickets.push(STRANGER.into());
    let late = drawn_again(late);
    assert!(verify(&late).is_ok() && verify_against(&late, &announced(example())).is_empty());
    let said: Vec<String> = verify_against(&late, &copy).iter().map(ToString::to_string).collect();
    assert!(said[0].starts_with("ticketsHash: was announced as"), "{said:?}");
    assert_eq!(said[1], format!("tickets: {STRANGER} was added after the list was frozen"));

    let mut dropped = example();
    let mine: TicketId = dropped.tickets.remove(0).parse().unwrap();
    let dropped = drawn_again(dropped);
    assert!(verify(&dropped).is_ok());
    let said: Vec<String> = verify_against(&dropped, &copy).iter().map(ToString::to_string).collect();
    assert_eq!(said[1], format!("tickets: {mine} was in the frozen list and is gone"));
    assert_eq!(own_ticket(&dropped, mine), None);
    assert_eq!(own_ticket(&example(), mine), Some(Place::Waiting(1)));
    assert_eq!(own_ticket(&example(), example().winners[1].parse().unwrap()), Some(Place::Winner(2)));
    assert_eq!(own_ticket(&copy, mine), Some(Place::Listed));
    assert_eq!(own_ticket(&example(), example().waiting[3].parse().unwrap()), Some(Place::Waiting(4)));

    let mut changed = example();
    changed.winners.swap(0, 1);
    assert_eq!(verify_against(&changed, &example())[0].to_string(), "winners: are not those of the earlier copy");
}

#[test]
fn a_seed_serves_one_round() {
    let (first, mut second) = (example(), example());
    assert_eq!(reused_secrets(&[&first, &second]), [], "the same round twice is no re-use");
    second.round_id = "other".to_owned();
    let said: Vec<String> = reused_secrets(&[&first, &second]).iter().map(ToString::to_string).collect();
    assert_eq!(said[0], "commit: rounds 20230823-2330-a1 and other have the same commitment");
    assert_eq!(said[1], "seed: rounds 20230823-2330-a1 and other have the same seed");
}

proptest! {
    #[test]
    fn the_order_of_the_input_does_not_matter(n in 0_usize..200, key: [u8; 32], turn in 0_usize..200) {
        let list = some_tickets(n);
        let ranked = rank(&key, list.clone());
        let mut other = list.clone();
        other.reverse();
        other.rotate_left(turn.checked_rem(n).unwrap_or(0));
        prop_assert_eq!(&ranked, &rank(&key, other));
        let (mut all, mut again) = (list, ranked);
        all.sort_unstable();
        again.sort_unstable();
        prop_assert_eq!(all, again, "a permutation");
    }

    #[test]
    fn winners_are_rounded_down_and_capped(quota: u64, rate in 0..=RATE_MAX_BP, n: u64) {
        let k = winners_count(Mode::Fixed, quota, Some(rate), n);
        prop_assert!(k <= quota && k <= n);
        let exact = u128::from(n) * u128::from(rate) / 10_000;
        prop_assert_eq!(u128::from(k), exact.min(u128::from(quota)));
        prop_assert_eq!(winners_count(Mode::Auto, quota, Some(rate), n), quota.min(n));
        prop_assert_eq!(winners_count(Mode::Fixed, quota, None, n), quota.min(n));
    }

    #[test]
    fn honest_records_hold_and_come_back_from_json(n in 0_usize..60, quota in 0_u64..70, rate in 0..=RATE_MAX_BP, seed: [u8; 32]) {
        let mut record = example();
        record.tickets = some_tickets(n).iter().map(ToString::to_string).collect();
        (record.rules.quota, record.rules.win_rate_bp) = (quota, Some(rate));
        (record.seed, record.commit) = (Some(hex::encode(seed)), commit(&seed));
        let record = drawn_again(record);
        prop_assert!(verify(&record).is_ok());
        let text = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn any_record_can_be_checked(text in ".{0,20}", hexed in "[0-9a-f]{0,97}", round: Option<u64>) {
        let mut record = example();
        record.rules.beacon.round = round;
        (record.closed_at, record.drawn_at) = (text.clone(), Some(text.clone()));
        (record.commit, record.seed, record.beacon) = (hexed.clone(), Some(hexed.clone()), hexed.clone());
        record.tickets[0] = text;
        (record.winners[0], record.beacon_signature) = (hexed.clone(), Some(hexed));
        prop_assert!(verify(&record).is_err());
    }
}

#[test]
fn winners_of_none_are_none() {
    for (mode, quota, rate, n) in
        [(Mode::Fixed, 0, Some(10_000), 9), (Mode::Fixed, 9, Some(0), 9), (Mode::Auto, 9, None, 0)]
    {
        assert_eq!(winners_count(mode, quota, rate, n), 0);
    }
    assert_eq!(winners_count(Mode::Fixed, u64::MAX, Some(10_000), u64::MAX), u64::MAX);
    assert_eq!(winners_count(Mode::Fixed, 10, Some(3_333), 3), 0, "0.9999 winners are none");
}

/// Over many seeds each ticket wins equally often and takes every place equally often. Seeds come from a counter, so that the
/// outcome is the same at every run: a failure is a bias and not bad luck.
///
/// Critical values of chi-square at 0.001: 29.588 for 10 degrees of freedom, 149.449 for 100 (NIST/SEMATECH e-Handbook of
/// Statistical Methods, 1.3.6.7.4). Wins within a draw exclude each other, and so do places, which the factor (n - 1) / n makes up
/// for: the statistics then have n - 1 and (n - 1)² degrees of freedom.
#[test]
fn the_draw_is_fair() {
    const DRAWS: u32 = 2_000;
    const N: usize = 11;
    const K: usize = 3;
    let mut list = some_tickets(N);
    list.sort_unstable();
    let hash = hash_of(&list);
    let mut places = [[0_u32; N]; N];
    for draw in 0..DRAWS {
        let seed: [u8; 32] = Sha256::digest(format!("fairness {draw}")).into();
        let key = draw_key(&seed, "r", &hash, "");
        for (place, ticket) in rank(&key, list.clone()).iter().enumerate() {
            places[list.binary_search(ticket).unwrap()][place] += 1;
        }
    }
    let (draws, n, k) = (f64::from(DRAWS), 11.0, 3.0);
    let corrected = (n - 1.0) / n;
    let share = k / n;
    let wins: f64 = places
        .iter()
        .map(|places| places[..K].iter().sum::<u32>())
        .map(|wins| (f64::from(wins) - draws * share).powi(2) / (draws * share * (1.0 - share)))
        .sum();
    assert!(wins * corrected < 29.588, "wins: chi-square {}", wins * corrected);
    let expected = draws / n;
    let spread: f64 = places.iter().flatten().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    assert!(spread * corrected < 149.449, "places: chi-square {}", spread * corrected);
    println!("wins {:.2} of 29.588, places {:.2} of 149.449", wins * corrected, spread * corrected);
}
