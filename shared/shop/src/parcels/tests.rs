//! What news, queries and failures make of a parcel.

use providers::kuaidi100::{Node, Route};

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn trace(code: &str, times: &[&str]) -> Trace {
    let node = |time: &&str| Node {
        at: at(time),
        text: format!("{code}，快递员 13800138000"),
        location: None,
        status: Some(ParcelStatus::of(code)),
        area_code: None,
        area_name: None,
    };
    Trace {
        company: None,
        number: None,
        status: ParcelStatus::of(code),
        checked: false,
        nodes: times.iter().map(node).collect(),
        n_unreadable: 0,
        route: Route::default(),
    }
}

const T1: &str = "2026-11-20T01:00:00Z";
const T2: &str = "2026-11-20T02:00:00Z";
const NOW: &str = "2026-11-21T00:00:00Z";

fn parcel() -> Parcel {
    Parcel::new("YTO", "yuantong", "YT123456", at(T1)).unwrap()
}

#[test]
fn an_older_trace_never_replaces_a_newer_one() {
    let mut parcel = parcel();
    assert!(take_trace(&mut parcel, &trace("1002", &[T2, T1]), at(NOW)));
    let known = parcel.clone();
    for old in [trace("1", &[T1]), trace("1", &[T2]), trace("5", &[])] {
        assert!(!take_trace(&mut parcel, &old, at(NOW)));
        assert_eq!(parcel, known);
    }
    assert!(take_trace(&mut parcel, &trace("5", &[T2, T2, T1]), at(NOW)));
    assert_eq!((parcel.state, parcel.trace_count), (ParcelState::Delivering, 3));
    assert!(!parcel.traces[0].text.contains("13800138000"), "{:?}", parcel.traces[0].text);
}

#[test]
fn nothing_leads_back_from_a_receipt_but_a_return_is_noticed() {
    for code in ["3", "301", "302", "303", "304"] {
        let mut parcel = parcel();
        assert!(take_trace(&mut parcel, &trace(code, &[T1]), at(NOW)));
        assert_eq!((parcel.state, parcel.signed_at), (ParcelState::Signed, Some(at(T1))), "{code}");
        assert!(take_trace(&mut parcel, &trace("6", &[T2, T1]), at(NOW)));
        assert_eq!((parcel.state, parcel.attention), (ParcelState::Signed, Some(Attention::Returning)), "{code}");
        assert_eq!(parcel.signed_at, Some(at(T1)));
    }
    for code in ["4", "6", "14", "401"] {
        let mut parcel = parcel();
        assert!(take_trace(&mut parcel, &trace(code, &[T1]), at(NOW)));
        assert_eq!((parcel.signed_at, parcel.attention), (None, Some(Attention::Returning)), "{code}");
    }
}

#[test]
fn a_code_that_nobody_knows_is_kept_and_changes_no_state() {
    let mut parcel = parcel();
    take_trace(&mut parcel, &trace("5", &[T1]), at(NOW));
    assert!(take_trace(&mut parcel, &trace("777", &[T2, T1]), at(NOW)));
    assert_eq!((parcel.state, parcel.code.as_str(), parcel.traces.len()), (ParcelState::Delivering, "777", 2));
}

#[test]
fn an_entry_from_the_far_future_hides_nothing() {
    let mut parcel = parcel();
    assert!(take_trace(&mut parcel, &trace("5", &["2036-01-01T00:00:00Z", T1]), at(NOW)));
    assert_eq!(parcel.newest_at, Some(at(T1)));
    assert!(take_trace(&mut parcel, &trace("3", &[T2, T1]), at(NOW)));
    assert_eq!(parcel.state, ParcelState::Signed);
}

#[test]
fn nothing_is_asked_that_is_told_anyway() {
    let now = at(NOW);
    let mut parcel = parcel();
    assert!(is_worth_asking(&parcel, now));
    parcel.asked(now - TimeDelta::minutes(29));
    assert!(!is_worth_asking(&parcel, now));
    assert!(is_worth_asking(&parcel, now + TimeDelta::minutes(1)));
    parcel.subscription = Some(ParcelSubscription { n: 1, state: Following::Active, reason: None });
    parcel.last_push_at = Some(now);
    assert!(!is_worth_asking(&parcel, now + TimeDelta::hours(3)));
    assert!(is_worth_asking(&parcel, now + TimeDelta::hours(4)));
    parcel.open = false;
    assert!(!is_worth_asking(&parcel, now + TimeDelta::hours(4)));
}

#[test]
fn the_pauses_after_failures_grow() {
    let mut parcel = parcel();
    let pauses: Vec<i64> = (0..6)
        .map(|_| {
            take_answer(&mut parcel, Err(&Kuaidi100Error::Malformed("x")), at(NOW));
            (parcel.next_query_at.unwrap() - at(NOW)).num_minutes()
        })
        .collect();
    assert_eq!(pauses, [30, 60, 120, 240, 240, 240]);
    take_answer(&mut parcel, Ok(&trace("5", &[T1])), at(NOW));
    assert_eq!((parcel.failures, parcel.query_error), (0, None));
}

#[test]
fn a_company_gets_no_more_of_a_phone_than_it_wants() {
    let of = |id: &str| Company::of(id).unwrap();
    assert_eq!(as_wanted(of("sf"), "13800138000"), "8000");
    assert_eq!(as_wanted(of("ZTO"), "13800138000"), "13800138000");
    assert_eq!((of("JTSD").kuaidi100, of("yto").code), ("jtexpress", "YTO"));
    assert_eq!(Waybill::of("NOBODY", "123456").unwrap_err(), "COMPANY_UNKNOWN");
    assert_eq!(Waybill::of("YTO", "1").unwrap_err(), "NUMBER_UNKNOWN");
}
