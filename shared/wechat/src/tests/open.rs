//! The Open API client against a server with its habits.

use std::sync::atomic::AtomicUsize;

use std::time::Instant;

use serde_json::json;

use super::*;
use crate::open::{CacheFuture, CachedToken, Client, Config, Error, Rest, TokenCache};
use crate::subscribe::SendClass;
use crate::{Secret, TransportKind};

const APPID: &str = "wxd678efh567hg6787";
const SECRET: &str = "app-secret-0123456789";

/// The second implementation of the cache; the real one lives in the database.
#[derive(Default)]
struct MemoryCache {
    token: Mutex<Option<CachedToken>>,
    /// Until when, by the real clock.
    lock: Mutex<Option<Instant>>,
    rest: Mutex<Option<Rest>>,
    broken: bool,
}

impl MemoryCache {
    fn answer<T: Send + 'static>(&self, value: T) -> CacheFuture<'static, T> {
        let broken = self.broken;
        Box::pin(async move { if broken { Err("cache down".into()) } else { Ok(value) } })
    }
}

impl TokenCache for MemoryCache {
    fn get(&self) -> CacheFuture<'_, Option<CachedToken>> {
        let token = self.token.lock().unwrap().clone();
        self.answer(token)
    }

    fn put<'a>(&'a self, token: &'a CachedToken) -> CacheFuture<'a, ()> {
        *self.token.lock().unwrap() = Some(token.clone());
        self.answer(())
    }

    fn remove<'a>(&'a self, token: &'a Secret) -> CacheFuture<'a, ()> {
        self.token.lock().unwrap().take_if(|held| held.token == *token);
        self.answer(())
    }

    fn try_lock(&self, ttl: Duration) -> CacheFuture<'_, bool> {
        let mut lock = self.lock.lock().unwrap();
        let free = lock.is_none_or(|until| until <= Instant::now());
        if free {
            *lock = Some(Instant::now() + ttl);
        }
        self.answer(free)
    }

    fn unlock(&self) -> CacheFuture<'_, ()> {
        *self.lock.lock().unwrap() = None;
        self.answer(())
    }

    fn rest(&self) -> CacheFuture<'_, Option<Rest>> {
        let rest = *self.rest.lock().unwrap();
        self.answer(rest)
    }

    fn set_rest<'a>(&'a self, rest: &'a Rest) -> CacheFuture<'a, ()> {
        let mut current = self.rest.lock().unwrap();
        if current.is_none_or(|current| current.until < rest.until) {
            *current = Some(*rest);
        }
        self.answer(())
    }
}

impl MemoryCache {
    fn holding(token: &str, expires_at: DateTime<Utc>) -> Arc<Self> {
        let token = CachedToken { token: Secret::new(token), expires_at };
        Arc::new(Self { token: Mutex::new(Some(token)), ..Self::default() })
    }

    fn lock_for(&self, time: Duration) {
        *self.lock.lock().unwrap() = Some(Instant::now() + time);
    }
}

pub(super) fn config(url: &str, clock: &Clock) -> Config {
    Config {
        base_url: url.to_owned(),
        appid: APPID.to_owned(),
        secret: Secret::new(SECRET),
        timeout: Duration::from_secs(5),
        now: clock.now(),
        cache: Arc::new(MemoryCache::default()),
    }
}

fn client_with(url: &str, clock: &Clock, cache: Arc<MemoryCache>) -> Client {
    Client::new(Config { cache, ..config(url, clock) }).unwrap()
}

pub(super) fn client(url: &str, clock: &Clock) -> Client {
    client_with(url, clock, Arc::default())
}

pub(super) fn text_plain(body: impl ToString) -> Answer {
    Answer::new(200, body.to_string()).header("Content-Type", "text/plain")
}

pub(super) fn token_answer(token: &str) -> Answer {
    text_plain(json!({"access_token": token, "expires_in": 7200}))
}

pub(super) const TOKEN_PATH: &str = "/cgi-bin/stable_token";
const PHONE_PATH: &str = "/wxa/business/getuserphonenumber";

#[tokio::test]
async fn a_login_code_becomes_a_session() {
    let server = Server::start(|_, _| {
        text_plain(
            json!({"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o", "session_key": "tiihtNczf5v6AKRyjwEUhQ==", "unionid": ""}),
        )
    })
    .await;
    let session = client(&server.url, &Clock::new()).code2session("a b&c").await.unwrap();
    assert_eq!(&*session.openid, "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o");
    assert_eq!(session.unionid, None);
    assert_eq!(session.session_key.expose(), "tiihtNczf5v6AKRyjwEUhQ==");
    let shown = format!("{session:?}");
    assert!(!shown.contains("tiiht") && !shown.contains("oUpF8"), "{shown}");
    assert_eq!(
        server.seen()[0].target,
        format!("/sns/jscode2session?appid={APPID}&secret={SECRET}&js_code=a+b%26c&grant_type=authorization_code")
    );
}

#[tokio::test]
async fn login_errors_are_told_apart_and_nothing_is_repeated() {
    fn name(error: &Error) -> &'static str {
        match error {
            Error::InvalidCode { .. } => "code",
            Error::Blocked { .. } => "blocked",
            Error::RateLimited { .. } => "rate",
            Error::Busy { .. } => "busy",
            Error::Config { .. } => "config",
            Error::Rejected { .. } => "rejected",
            _ => "other",
        }
    }
    for (errcode, expected) in [
        (40029, "code"),
        (40163, "code"),
        (40226, "blocked"),
        (45011, "rate"),
        (-1, "busy"),
        (40125, "config"),
        (40001, "config"),
        (61010, "rejected"),
    ] {
        let server = Server::start(move |_, _| {
            text_plain(json!({"errcode": errcode, "errmsg": "js_code THE-CODE is bad, rid: 66aa-01bc-dd"}))
        })
        .await;
        let error = client(&server.url, &Clock::new()).code2session("THE-CODE").await.unwrap_err();
        assert_eq!(name(&error), expected, "{errcode}");
        assert_eq!(error.errcode(), Some(errcode));
        let shown = printed(&error);
        assert!(shown.contains("66aa-01bc-dd") && !shown.contains("THE-CODE"), "{shown}");
        assert_eq!(server.count(), 1);
    }
}

#[tokio::test]
async fn silence_on_login_is_not_repeated_and_prints_no_secret() {
    let server = Server::start(|_, _| text_plain("{}").after(Duration::from_secs(30))).await;
    let clock = Clock::new();
    let client = Client::new(Config {
        base_url: server.url.clone(),
        appid: APPID.to_owned(),
        secret: Secret::new(SECRET),
        timeout: Duration::from_millis(200),
        now: clock.now(),
        cache: Arc::new(MemoryCache::default()),
    })
    .unwrap();
    let error = client.code2session("THE-CODE").await.unwrap_err();
    assert!(matches!(&error, Error::Transport(e) if e.kind == TransportKind::Timeout), "{error:?}");
    assert_eq!(server.count(), 1);
    let shown = printed(&error);
    assert!(!shown.contains("THE-CODE") && !shown.contains(SECRET), "{shown}");
    assert!(error.outcome_unknown());
}

#[tokio::test]
async fn answers_that_are_not_the_documented_json_are_refused() {
    for (answer, http) in [
        (Answer::new(200, "<html>"), false),
        (Answer::new(200, "[]"), false),
        (Answer::new(200, r#"{"errcode":"none"}"#), false),
        (Answer::new(200, r#"{"openid":"","session_key":"k"}"#), false),
        (Answer::new(502, "bad gateway"), true),
    ] {
        let server = Server::start(move |_, _| answer.clone()).await;
        let error = client(&server.url, &Clock::new()).code2session("c").await.unwrap_err();
        assert_eq!(matches!(error, Error::Http(_)), http, "{error:?}");
        assert_eq!(matches!(error, Error::Malformed(_)), !http, "{error:?}");
    }
}

#[tokio::test]
async fn an_impossible_code_is_refused_without_a_call() {
    let client = client(&closed_port().await, &Clock::new());
    for code in ["", "a\nb", &"x".repeat(513)] {
        assert!(matches!(client.code2session(code).await, Err(Error::InvalidCode { errcode: 40029, .. })));
        assert!(matches!(client.phone_number(code, None).await, Err(Error::InvalidCode { .. })));
    }
}

fn phone_answer(appid: &str, country_code: serde_json::Value) -> Answer {
    text_plain(json!({"errcode": 0, "errmsg": "ok", "phone_info": {
        "phoneNumber": "13580006666", "purePhoneNumber": "13580006666", "countryCode": country_code,
        "watermark": {"timestamp": 1_637_744_274, "appid": appid},
    }}))
}

#[tokio::test]
async fn a_phone_code_becomes_a_number_of_this_app() {
    for country_code in [json!("86"), json!(86)] {
        let server = Server::start(move |seen, _| match seen.target.as_str() {
            TOKEN_PATH => token_answer("T+1"),
            _ => phone_answer(APPID, country_code.clone()),
        })
        .await;
        let number = client(&server.url, &Clock::new()).phone_number("code", Some("openid")).await.unwrap();
        assert_eq!((&*number.pure_phone_number, number.country_code.as_str()), ("13580006666", "86"));
        assert!(!format!("{number:?}").contains("1358000"));
        let seen = server.seen();
        assert_eq!(
            serde_json::from_str::<Value>(&seen[0].body).unwrap(),
            json!({"grant_type": "client_credential", "appid": APPID, "secret": SECRET, "force_refresh": false})
        );
        assert_eq!(seen[1].target, format!("{PHONE_PATH}?access_token=T%2B1"));
        assert_eq!(serde_json::from_str::<Value>(&seen[1].body).unwrap(), json!({"code": "code", "openid": "openid"}));
    }
    let server = Server::start(move |seen, _| match seen.target.as_str() {
        TOKEN_PATH => token_answer("T1"),
        _ => phone_answer("wxsomebodyelse", json!("86")),
    })
    .await;
    let error = client(&server.url, &Clock::new()).phone_number("code", None).await.unwrap_err();
    assert!(matches!(error, Error::OtherApp));
}

#[tokio::test]
async fn a_process_fetches_one_token_however_many_ask() {
    let server = Server::start(|_, _| token_answer("T1").after(Duration::from_millis(50))).await;
    let client = Arc::new(client(&server.url, &Clock::new()));
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.access_token().await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().expose(), "T1");
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn instances_share_one_fetch_through_the_cache() {
    let server = Server::start(|_, _| token_answer("T1").after(Duration::from_millis(150))).await;
    let (clock, cache) = (Clock::new(), Arc::new(MemoryCache::default()));
    let clients: Vec<_> = (0..3).map(|_| client_with(&server.url, &clock, cache.clone())).collect();
    let tasks: Vec<_> =
        clients.into_iter().map(|client| tokio::spawn(async move { client.access_token().await.unwrap() })).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().expose(), "T1");
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_lock_whose_holder_died_stops_the_others_only_until_it_ends() {
    let server = Server::start(|_, _| token_answer("T1").after(Duration::from_millis(100))).await;
    let (clock, cache) = (Clock::new(), Arc::new(MemoryCache::default()));
    cache.lock_for(Duration::from_millis(400));
    let started = Instant::now();
    let clients: Vec<_> = (0..5).map(|_| client_with(&server.url, &clock, cache.clone())).collect();
    let tasks: Vec<_> =
        clients.into_iter().map(|client| tokio::spawn(async move { client.access_token().await.unwrap() })).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().expose(), "T1");
    }
    assert!(started.elapsed() >= Duration::from_millis(400));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn the_old_token_is_used_while_another_instance_renews_it() {
    let clock = Clock::new();
    let server = Server::start(|_, _| token_answer("T1")).await;
    let cache = MemoryCache::holding("OLD", clock.time() + TimeDelta::seconds(200));
    cache.lock_for(Duration::from_secs(60));
    let client = client_with(&server.url, &clock, cache.clone());
    let started = Instant::now();
    assert_eq!(client.access_token().await.unwrap().expose(), "OLD");
    // Who waited for the other would be back after thirteen seconds.
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(server.count(), 0);
    // The other has finished.
    cache
        .put(&CachedToken { token: Secret::new("NEW"), expires_at: clock.time() + TimeDelta::seconds(7200) })
        .await
        .unwrap();
    assert_eq!(client.access_token().await.unwrap().expose(), "NEW");
    // A token that ends within seconds is no token.
    clock.advance(TimeDelta::seconds(7196));
    cache.unlock().await.unwrap();
    assert_eq!(client.access_token().await.unwrap().expose(), "T1");
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn within_a_process_one_renews_and_the_rest_go_on_with_the_old_token() {
    let clock = Clock::new();
    let server = Server::start(|_, _| token_answer("T1").after(Duration::from_secs(3))).await;
    let cache = MemoryCache::holding("OLD", clock.time() + TimeDelta::seconds(200));
    let client = Arc::new(client_with(&server.url, &clock, cache));
    let first = {
        let client = client.clone();
        tokio::spawn(async move { client.access_token().await.unwrap() })
    };
    while server.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Who waited would get the new one.
    for _ in 0..20 {
        assert_eq!(client.access_token().await.unwrap().expose(), "OLD");
    }
    assert_eq!(first.await.unwrap().expose(), "T1");
    assert_eq!((client.access_token().await.unwrap().expose(), server.count()), ("T1", 1));
}

#[tokio::test]
async fn after_a_refusal_nobody_asks_until_the_rest_is_over() {
    for (errcode, rest) in [
        (-1, 2),
        (45011, 60),
        (45009, 3600),
        (40001, 300),
        (40013, 300),
        (40125, 300),
        (40164, 300),
        (40243, 300),
        (50007, 300),
        (41002, 300),
        (41004, 300),
        (40002, 300),
        (43002, 300),
        (89503, 300),
        (89506, 300),
        (89507, 300),
        // Not in the documentation.
        (61234, 300),
    ] {
        let tries = if errcode == -1 { 2 } else { 1 };
        let server = Server::start(move |_, count| {
            if count < tries {
                text_plain(json!({"errcode": errcode, "errmsg": "no rid: 7"}))
            } else {
                token_answer("T1")
            }
        })
        .await;
        let (clock, cache) = (Clock::new(), Arc::new(MemoryCache::default()));
        let (first, second) =
            (client_with(&server.url, &clock, cache.clone()), client_with(&server.url, &clock, cache.clone()));
        let error = first.access_token().await.unwrap_err();
        assert!(matches!(&error, Error::Token(_)), "{error:?}");
        assert_eq!((error.errcode(), error.rid(), error.outcome_unknown()), (Some(errcode), Some("7"), false));
        assert!(!printed(&error).contains(SECRET));
        assert!(cache.lock.lock().unwrap().is_none(), "the lock is given back");

        // Neither this process nor another asks again, and both say why.
        clock.advance(TimeDelta::seconds(rest - 1));
        for client in [&first, &second] {
            let error = client.access_token().await.unwrap_err();
            let Error::Token(inner) = &error else { panic!("{error:?}") };
            assert!(matches!(**inner, Error::Resting { left, .. } if left == Duration::from_secs(1)), "{error:?}");
            assert_eq!(error.errcode(), Some(errcode));
            assert!(error.is_retryable());
        }
        assert_eq!(server.count(), tries);
        clock.advance(TimeDelta::seconds(1));
        assert_eq!(second.access_token().await.unwrap().expose(), "T1");
        assert_eq!(first.access_token().await.unwrap().expose(), "T1");
        assert_eq!(server.count(), tries + 1);
    }
}

#[tokio::test]
async fn while_the_old_token_lasts_a_failed_renewal_stops_nobody() {
    let clock = Clock::new();
    let server = Server::start(|_, count| match count {
        0 => text_plain(json!({"errcode": 45009, "errmsg": "reach max api daily quota limit"})),
        _ => token_answer("T1"),
    })
    .await;
    let cache = MemoryCache::holding("OLD", clock.time() + TimeDelta::seconds(250));
    let client = client_with(&server.url, &clock, cache);
    for _ in 0..3 {
        assert_eq!(client.access_token().await.unwrap().expose(), "OLD");
    }
    assert_eq!(server.count(), 1);
    clock.advance(TimeDelta::seconds(246));
    let error = client.access_token().await.unwrap_err();
    assert_eq!(error.send_class(), SendClass::Pause(Duration::from_secs(3600 - 246)));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_token_that_wechat_has_not_renewed_yet_is_not_asked_for_all_the_time() {
    let clock = Clock::new();
    let server = Server::start(|_, count| match count {
        0 => text_plain(json!({"access_token": "OLD", "expires_in": 290})),
        _ => token_answer("T1"),
    })
    .await;
    let client = client(&server.url, &clock);
    for _ in 0..3 {
        assert_eq!(client.access_token().await.unwrap().expose(), "OLD");
    }
    assert_eq!(server.count(), 1);
    clock.advance(TimeDelta::seconds(15));
    assert_eq!((client.access_token().await.unwrap().expose(), server.count()), ("T1", 2));
}

#[tokio::test]
async fn without_the_cache_a_process_still_rests() {
    let server = Server::start(|_, _| text_plain(json!({"errcode": 45011, "errmsg": "slow down"}))).await;
    let cache = Arc::new(MemoryCache { broken: true, ..MemoryCache::default() });
    let client = client_with(&server.url, &Clock::new(), cache);
    for _ in 0..3 {
        client.access_token().await.unwrap_err();
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_silent_token_service_is_given_up_before_the_lock_ends() {
    let server = Server::start(|_, _| token_answer("T1").after(Duration::from_secs(60))).await;
    let client = Client::new(Config {
        base_url: server.url.clone(),
        appid: APPID.to_owned(),
        secret: Secret::new(SECRET),
        // Longer than a token is waited for.
        timeout: Duration::from_secs(30),
        now: Clock::new().now(),
        cache: Arc::new(MemoryCache::default()),
    })
    .unwrap();
    let started = Instant::now();
    let error = client.access_token().await.unwrap_err();
    // The lock ends after eleven seconds.
    assert!((8..11).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!((server.count(), error.send_class()), (2, SendClass::NotSent));
}

#[tokio::test]
async fn many_calls_whose_token_is_refused_at_once_make_one_refresh() {
    let tokens = AtomicUsize::new(0);
    let server = Server::start(move |seen, _| match seen.target.as_str() {
        TOKEN_PATH => {
            token_answer(&format!("T{}", tokens.fetch_add(1, Ordering::SeqCst))).after(Duration::from_millis(50))
        }
        target if target.ends_with("=T0") => {
            text_plain(json!({"errcode": 42001, "errmsg": "expired rid: 1"})).after(Duration::from_millis(50))
        }
        _ => phone_answer(APPID, json!("86")),
    })
    .await;
    let (clock, cache) = (Clock::new(), Arc::new(MemoryCache::default()));
    let clients: Vec<_> = (0..4).map(|_| Arc::new(client_with(&server.url, &clock, cache.clone()))).collect();
    for client in &clients {
        assert_eq!(client.access_token().await.unwrap().expose(), "T0");
    }
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let client = clients[n % 4].clone();
            tokio::spawn(async move { client.phone_number("code", None).await.map(drop) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(server.count_of(TOKEN_PATH), 2);
    assert!(server.count_of(PHONE_PATH) <= 400);
}

#[tokio::test]
async fn a_broken_cache_costs_a_fetch_and_nothing_else() {
    let server = Server::start(|_, _| token_answer("T1")).await;
    let cache = Arc::new(MemoryCache { broken: true, ..MemoryCache::default() });
    let client = client_with(&server.url, &Clock::new(), cache);
    client.access_token().await.unwrap();
    client.access_token().await.unwrap();
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_token_is_renewed_five_minutes_before_its_end() {
    let clock = Clock::new();
    let server = Server::start(|_, count| token_answer(&format!("T{count}"))).await;
    let client = client(&server.url, &clock);
    assert_eq!(client.access_token().await.unwrap().expose(), "T0");
    clock.advance(TimeDelta::seconds(6899));
    assert_eq!(client.access_token().await.unwrap().expose(), "T0");
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(client.access_token().await.unwrap().expose(), "T1");
}

#[tokio::test]
async fn a_refused_token_is_dropped_and_the_call_made_once_more() {
    for errcode in [40001, 40014, 42001] {
        let tokens = AtomicUsize::new(0);
        let server = Server::start(move |seen, _| match seen.target.as_str() {
            TOKEN_PATH => token_answer(&format!("T{}", tokens.fetch_add(1, Ordering::SeqCst))),
            target if target.ends_with("=T0") => {
                text_plain(json!({"errcode": errcode, "errmsg": "invalid credential rid: 1"}))
            }
            _ => phone_answer(APPID, json!("86")),
        })
        .await;
        let client = client(&server.url, &Clock::new());
        client.phone_number("code", None).await.unwrap();
        assert_eq!((server.count_of(TOKEN_PATH), server.count_of(PHONE_PATH)), (2, 2));
        client.phone_number("code", None).await.unwrap();
        assert_eq!((server.count_of(TOKEN_PATH), server.count_of(PHONE_PATH)), (2, 3));
    }
}

#[tokio::test]
async fn a_token_refused_twice_is_an_error_and_not_a_loop() {
    let server = Server::start(|seen, _| match seen.target.as_str() {
        TOKEN_PATH => token_answer("T0"),
        _ => text_plain(json!({"errcode": 40001, "errmsg": "invalid credential rid: 1"})),
    })
    .await;
    let error = client(&server.url, &Clock::new()).phone_number("code", None).await.unwrap_err();
    assert!(matches!(error, Error::InvalidToken { errcode: 40001, .. }));
    assert_eq!((server.count_of(TOKEN_PATH), server.count_of(PHONE_PATH)), (2, 2));
    assert!(!printed(&error).contains("T0"));
}

#[tokio::test]
async fn another_instances_newer_token_is_used_instead_of_fetching() {
    let (clock, cache) = (Clock::new(), Arc::new(MemoryCache::default()));
    let newer = CachedToken { token: Secret::new("NEW"), expires_at: clock.time() + TimeDelta::seconds(7000) };
    let shared = cache.clone();
    let server = Server::start(move |seen, _| match seen.target.as_str() {
        TOKEN_PATH => token_answer("OLD"),
        target if target.ends_with("=OLD") => {
            // Meanwhile somebody else has replaced it.
            *shared.token.lock().unwrap() = Some(newer.clone());
            text_plain(json!({"errcode": 40001, "errmsg": "invalid credential rid: 1"}))
        }
        _ => phone_answer(APPID, json!("86")),
    })
    .await;
    client_with(&server.url, &clock, cache.clone()).phone_number("code", None).await.unwrap();
    assert_eq!(server.count_of(TOKEN_PATH), 1);
    assert_eq!(cache.token.lock().unwrap().as_ref().unwrap().token.expose(), "NEW");
}

#[tokio::test]
async fn a_busy_token_service_is_asked_twice_and_a_wrong_secret_once() {
    let server = Server::start(|_, count| match count {
        0 => text_plain(json!({"errcode": -1, "errmsg": "system error"})),
        _ => token_answer("T1"),
    })
    .await;
    client(&server.url, &Clock::new()).access_token().await.unwrap();
    assert_eq!(server.count(), 2);

    let server =
        Server::start(|_, _| text_plain(json!({"errcode": 40125, "errmsg": "invalid appsecret rid: 1"}))).await;
    let error = client(&server.url, &Clock::new()).access_token().await.unwrap_err();
    assert!(matches!(&error, Error::Token(inner) if matches!(**inner, Error::Config { errcode: 40125, .. })));
    assert_eq!(server.count(), 1);
    assert!(matches!(domain::Failure::from(error), domain::Failure::Internal(_)));
}

#[tokio::test]
async fn any_call_with_a_token_can_be_made_and_a_query_of_its_own_is_kept() {
    let server = Server::start(|seen, _| match seen.target.as_str() {
        TOKEN_PATH => token_answer("T1"),
        target if target.contains("subscribe") => text_plain(json!({"errcode": 43101, "errmsg": "refused rid: 1"})),
        _ => text_plain(json!({"errcode": 0, "resp_data": "{}"})),
    })
    .await;
    let client = client(&server.url, &Clock::new());
    let answer = client.post("/tcb/invokecloudfunction?env=e&name=n", &json!({"a": "中"})).await.unwrap();
    assert_eq!(answer["resp_data"], "{}");
    assert_eq!(server.seen()[1].target, "/tcb/invokecloudfunction?env=e&name=n&access_token=T1");
    assert_eq!(server.seen()[1].body, r#"{"a":"中"}"#);
    let error = client.post("/cgi-bin/message/subscribe/send", &json!({})).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { errcode: 43101, .. }) && !error.is_retryable());
    assert!(matches!(client.post("cgi-bin", &json!({})).await, Err(Error::Misuse(_))));
}
