//! The access token among many processes: one of them fetches it, whatever happens to whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use edge::{App, StoreTokens};
use futures_util::future::join_all;
use it::World;
use it::probe::{Got, Probe};
use serde_json::json;
use simulators::{Fault, FaultMode, Target, keys};
use store::Store;
use wechat::Secret;
use wechat::open::{CachedToken, Error, TokenCache};
use wechat::subscribe::SendClass;

const TOKEN: &str = "/cgi-bin/stable_token";
const SEND: &str = "/cgi-bin/message/subscribe/send";

struct Scene {
    world: World,
    uri: String,
    database: String,
}

impl Scene {
    async fn new() -> anyhow::Result<Self> {
        let world = World::start().await?;
        let config = world.app.config.store.clone().unwrap();
        Ok(Self { world, uri: config.uri.expose().to_owned(), database: config.database })
    }

    /// Leaves a token in the store that ends so many seconds from now.
    async fn shared(&self, token: &str, seconds: i64) -> anyhow::Result<()> {
        let clock = &self.world.app.clock;
        let tokens = StoreTokens::new(self.world.store.clone(), clock.clone(), keys::APPID, keys::APP_SECRET)
            .map_err(|error| anyhow::anyhow!(error))?;
        let expires_at = clock.now() + TimeDelta::seconds(seconds);
        let token = CachedToken { token: Secret::new(token), expires_at };
        tokens.put(&token).await.map_err(|error| anyhow::anyhow!(error))
    }

    fn fault(&self, mode: FaultMode, ms: u64) {
        self.world.sim.fault(Fault {
            path: Some(TOKEN.to_owned()),
            ms: Some(ms),
            ..Fault::new(Target::Wechat, mode, 1)
        });
    }

    fn asked(&self) -> u64 {
        self.world.sim.requests(Target::Wechat, TOKEN)
    }

    async fn asked_at_least(&self, count: u64) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.asked() < count {
            anyhow::ensure!(started.elapsed() < Duration::from_secs(20), "nobody asks for a token");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Processes that stand ready.
    async fn probes(&self, count: usize) -> anyhow::Result<Vec<Probe>> {
        let (uri, database, url) = (self.uri.clone(), self.database.clone(), self.world.client.base.clone());
        tokio::task::spawn_blocking(move || {
            let program = env!("CARGO_BIN_EXE_jinlu-it");
            let started: anyhow::Result<Vec<Probe>> =
                (0..count).map(|_| Probe::start(program, &uri, &database, &url)).collect();
            let mut probes = started?;
            probes.iter_mut().try_for_each(Probe::ready)?;
            Ok(probes)
        })
        .await?
    }

    /// Nobody holds the lock, and no token is in the database in clear.
    async fn tidy(self, tokens: &[String]) -> anyhow::Result<()> {
        let leases = self.world.store.peek("leases", 100).await?;
        let lock = format!("wechat|{}", keys::APPID);
        assert!(leases.iter().all(|lease| lease["_id"] != lock.as_str()), "{leases:?}");
        let stored = json!([leases, self.world.store.peek("accessTokens", 100).await?]).to_string();
        assert!(tokens.iter().all(|token| !stored.contains(token.as_str())), "a token in clear");
        self.world.finish().await
    }
}

async fn all(probes: Vec<Probe>) -> anyhow::Result<Vec<Got>> {
    tokio::task::spawn_blocking(move || probes.into_iter().map(Probe::got).collect()).await?
}

fn tokens(got: &[Got]) -> Vec<String> {
    let mut tokens: Vec<String> = got.iter().map(|got| got.token.clone().unwrap()).collect();
    tokens.sort();
    tokens.dedup();
    tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_processes_with_an_expired_token_make_one_refresh() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    scene.shared("expired", -60).await?;
    let mut probes = scene.probes(30).await?;
    // Long enough for every one of them to come while it lasts.
    scene.fault(FaultMode::Slow, 1500);
    probes.iter_mut().try_for_each(Probe::go)?;
    let got = all(probes).await?;
    let tokens = tokens(&got);
    assert_eq!((got.len(), tokens.len(), scene.asked()), (30, 1, 1), "{got:?}");
    assert!(tokens[0].starts_with("sim-"), "{tokens:?}");
    scene.tidy(&tokens).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_process_renews_the_others_use_the_old_token() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    scene.shared("old-token", 200).await?;
    // One that takes as long as it likes, so that it does not matter how fast the others are.
    let (lock, now) = (format!("wechat|{}", keys::APPID), scene.world.app.clock.now());
    assert!(scene.world.store.acquire_lease(&lock, "one", TimeDelta::minutes(10), now).await?);
    let mut probes = scene.probes(8).await?;
    let mut last = probes.pop().unwrap();
    probes.iter_mut().try_for_each(Probe::go)?;
    let old = all(probes).await?;
    assert!(old.len() == 7 && old.iter().all(|got| got.token.as_deref() == Ok("old-token")), "{old:?}");
    // Who waited for the one would be back after thirteen seconds.
    assert!(old.iter().all(|got| got.after < Duration::from_secs(10)), "{old:?}");
    assert_eq!(scene.asked(), 0);
    scene.world.store.release_lease(&lock, "one").await?;
    last.go()?;
    let tokens = tokens(&all(vec![last]).await?);
    assert!(tokens[0].starts_with("sim-"), "{tokens:?}");
    assert_eq!(scene.asked(), 1);
    scene.tidy(&tokens).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_fetches_holds_nobody_up_for_long() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    scene.shared("expired", -60).await?;
    let mut probes = scene.probes(6).await?;
    scene.fault(FaultMode::Timeout, 60_000);
    let mut holder = probes.pop().unwrap();
    holder.go()?;
    scene.asked_at_least(1).await?;
    probes.iter_mut().try_for_each(Probe::go)?;
    holder.kill()?;
    let got = all(probes).await?;
    let tokens = tokens(&got);
    assert_eq!((got.len(), tokens.len(), scene.asked()), (5, 1, 2), "{got:?}");
    scene.tidy(&tokens).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_dies_in_the_middle_of_two_hundred_calls_is_renewed_once() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let world = &scene.world;
    // Two processes, as far as the token is concerned.
    let apps = [world.app.clone(), App::new(world.app.config.clone(), world.app.clock.clone())?];
    for app in &apps {
        app.open_api()?.access_token().await?;
    }
    assert_eq!(scene.asked(), 1);
    let send = |n: usize| {
        let app = apps[n % 2].clone();
        async move {
            tokio::time::sleep(Duration::from_millis(3 * u64::try_from(n).unwrap_or_default())).await;
            let data = [("thing1".to_owned(), format!("第{n}条"))].into();
            app.open_api().unwrap().send_subscribe_message(&format!("o-{n}"), "t", &data, None).await
        }
    };
    let calls = async { join_all((0..200).map(|n| tokio::spawn(send(n)))).await };
    let revoke = async {
        while world.sim.messages(None).len() < 50 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        world.sim.revoke_tokens();
    };
    let (results, ()) = tokio::join!(calls, revoke);
    for result in results {
        result?.map(drop)?;
    }
    assert_eq!(scene.asked(), 2);
    assert!(world.sim.requests(Target::Wechat, SEND) > 200, "some calls met the dead token");
    assert_eq!((world.sim.messages(None).len(), world.sim.duplicates()), (200, vec![]));
    scene.tidy(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_quota_stops_every_process_for_an_hour() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let world = &scene.world;
    let fault = Fault { errcode: Some(json!(45009)), ..Fault::some(Target::Wechat, TOKEN, FaultMode::Errcode, 1.0, 0) };
    world.sim.fault(fault);
    let apps: Vec<Arc<App>> =
        (0..5).map(|_| App::new(world.app.config.clone(), world.app.clock.clone())).collect::<Result<_, _>>()?;
    let ask = async || join_all(apps.iter().map(|app| async { app.open_api().unwrap().access_token().await })).await;
    for _ in 0..2 {
        for error in ask().await.into_iter().map(Result::unwrap_err) {
            assert!(
                matches!(error.send_class(), SendClass::Pause(time) if time > Duration::from_secs(3500)),
                "{error:?}"
            );
            assert!(matches!(error, Error::Token(_)) && error.errcode() == Some(45009), "{error:?}");
        }
    }
    assert_eq!(scene.asked(), 1);
    world.sim.fault(Fault::new(Target::Wechat, FaultMode::Errcode, 0));
    world.app.clock.advance(Duration::from_secs(3601));
    assert!(ask().await.iter().all(Result::is_ok));
    assert_eq!(scene.asked(), 2);
    scene.tidy(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_out_of_reach_costs_a_fetch_and_no_call() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let mut config = scene.world.app.config.clone();
    let mut store = config.store.clone().unwrap();
    store.uri = "mongodb://127.0.0.1:1/?directConnection=true".into();
    config.store = Some(store);
    let app = App::new(config, scene.world.app.clock.clone())?;
    let first = app.open_api()?.access_token().await?;
    assert_eq!(first, app.open_api()?.access_token().await?);
    assert_eq!(scene.asked(), 1);
    scene.tidy(&[first.expose().to_owned()]).await
}

#[tokio::test]
async fn a_pause_is_only_made_longer_and_a_lease_given_back_by_its_owner_alone() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (store, now): (&Store, _) = (&world.store, world.app.clock.now());
    let minute = TimeDelta::minutes(1);
    assert_eq!(store.pause("pause|test").await?, None);
    store.set_pause("pause|test", "45009", now + minute).await?;
    store.set_pause("pause|test", "45011", now).await?;
    assert_eq!(store.pause("pause|test").await?, Some(("45009".to_owned(), now + minute)));
    store.set_pause("pause|test", "40125", now + minute + minute).await?;
    assert_eq!(store.pause("pause|test").await?, Some(("40125".to_owned(), now + minute + minute)));

    assert!(store.acquire_lease("test", "a", minute, now).await?);
    store.release_lease("test", "b").await?;
    assert!(!store.acquire_lease("test", "b", minute, now).await?);
    store.release_lease("test", "a").await?;
    assert!(store.acquire_lease("test", "b", minute, now).await?);
    world.finish().await
}
