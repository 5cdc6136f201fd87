//! A deliverer of the outbox that a test steers: with its own clock, templates and patience, here or as a process of its own.

use std::collections::BTreeMap;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use domain::{OpenId, Tells};
use edge::StoreTokens;
use jinlu::local;
use shop::deliver::{Delivered, Deliverer};
use shop::messages::Message;
use store::outbox::{OutboxItem, OutboxStatus};
use store::{Store, StoreConfig};
use tokio::time::Instant;
use wechat::open::{self, Template};
use wechat::subscribe::OnUnknown;

use crate::World;

/// A template of which each message needs a permission.
pub const NOTE: &str = "assignment";
pub const NOTE_ID: &str = "t-note";
/// One whose messages are better seen twice than never; needs a permission, too.
pub const TWICE: &str = "orderPaid";
/// A long-term one.
pub const FREE: &str = "lotteryResult";

/// How long it waits for WeChat: short for a test, long for a simulator on a busy machine.
pub const PATIENCE: Duration = Duration::from_millis(800);

fn templates() -> Vec<Template> {
    let one = |name: &str, id: &str| Template {
        name: name.to_owned(),
        template_id: id.to_owned(),
        fields: BTreeMap::from([("character_string1".to_owned(), "no".to_owned())]),
        ..Template::default()
    };
    vec![
        one(NOTE, NOTE_ID),
        Template { on_unknown: OnUnknown::Resend, ..one(TWICE, "t-twice") },
        Template { long_term: true, ..one(FREE, "t-free") },
    ]
}

/// Where a deliverer works.
#[derive(Clone, Debug)]
pub struct Place {
    /// Of the simulators.
    pub url: String,
    pub uri: String,
    pub database: String,
    /// From `epoch_ms` on its clock runs so many times as fast as the machine's.
    pub speed: i32,
    pub epoch_ms: i64,
}

impl Place {
    pub fn of(world: &World, speed: i32) -> anyhow::Result<Self> {
        let config = world.app.config.store.as_ref().ok_or_else(|| anyhow::anyhow!("no store"))?;
        let (uri, database) = (config.uri.expose().to_owned(), config.database.clone());
        Ok(Self { url: world.client.base.clone(), uri, database, speed, epoch_ms: machine_now().timestamp_millis() })
    }

    /// The time that is on its clocks.
    pub fn now(&self) -> DateTime<Utc> {
        let epoch = Utc.timestamp_millis_opt(self.epoch_ms).single().unwrap_or_default();
        epoch + (machine_now() - epoch) * self.speed
    }

    /// A process that delivers until it is killed.
    pub fn spawn(&self, program: &str, crashpoint: Option<&str>) -> anyhow::Result<Killed> {
        let mut command = Command::new(program);
        let (speed, epoch) = (self.speed.to_string(), self.epoch_ms.to_string());
        command.args(["deliver", &self.url, &self.uri, &self.database, &speed, &epoch]);
        command.env_remove("JINLU_CRASHPOINT").stdin(Stdio::null()).stderr(Stdio::piped());
        if let Some(name) = crashpoint {
            command.env("JINLU_CRASHPOINT", name);
        }
        Ok(Killed(command.spawn()?))
    }
}

/// A process that does not outlive its test.
pub struct Killed(pub Child);

impl Killed {
    /// With SIGKILL.
    pub fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

fn machine_now() -> DateTime<Utc> {
    #[expect(clippy::disallowed_methods, reason = "a test's own clock")]
    Utc::now()
}

/// A deliverer's means.
pub struct Post {
    pub store: Store,
    client: open::Client,
    templates: Vec<Template>,
    tells: Tells,
    clock: Box<dyn Fn() -> DateTime<Utc> + Send + Sync>,
}

impl Post {
    fn new(
        place: &Place,
        store: Store,
        clock: impl Fn() -> DateTime<Utc> + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let config = local::config(&place.url, 1, &place.uri, &place.database);
        let config = config.open_api.ok_or_else(|| anyhow::anyhow!("no Open API"))?;
        let tokens = StoreTokens::new(store.clone(), edge::Clock::system(), &config.appid, config.secret.expose());
        let client = open::Client::new(open::Config {
            base_url: config.base_url,
            appid: config.appid,
            secret: config.secret,
            timeout: PATIENCE,
            now: Arc::new(clock.clone()),
            cache: Arc::new(tokens.map_err(|error| anyhow::anyhow!("{error}"))?),
        })?;
        Ok(Self { store, client, templates: templates(), tells: Tells::default(), clock: Box::new(clock) })
    }

    /// In this process, by the world's clock.
    pub fn of(world: &World) -> anyhow::Result<Self> {
        let clock = world.app.clock.clone();
        Self::new(&Place::of(world, 1)?, world.store.clone(), move || clock.now())
    }

    /// In this process, with connections of its own and the clock of the place.
    pub fn at(place: &Place) -> anyhow::Result<Self> {
        let store = Store::new(StoreConfig::new(&place.uri, &place.database));
        let clock = place.clone();
        Self::new(place, store, move || clock.now())
    }

    pub fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    pub fn deliverer(&self) -> Deliverer<'_> {
        Deliverer {
            store: &self.store,
            pay: None,
            open: Some(&self.client),
            sms: None,
            kuaidi100: None,
            text_template: Some(edge::config::local::SMS_ASSIGNMENT_TEMPLATE_ID),
            templates: &self.templates,
            tells: &self.tells,
            clock: &*self.clock,
        }
    }

    /// What one run of the timer does.
    pub async fn run(&self) -> anyhow::Result<Delivered> {
        Ok(self.deliverer().deliver_due(5_000, Instant::now() + Duration::from_secs(20)).await?)
    }

    /// Writes messages to the outbox, one after the other.
    pub async fn enqueue(&self, items: &[OutboxItem]) -> anyhow::Result<()> {
        for part in items.chunks(500) {
            self.store.transaction(|tx, _| Box::pin(async move { tx.enqueue_all(part).await })).await?;
        }
        Ok(())
    }

    pub async fn item(&self, id: &str) -> anyhow::Result<OutboxItem> {
        let found = self.store.outbox_item(&format!("message:{id}")).await?;
        found.ok_or_else(|| anyhow::anyhow!("no item {id}"))
    }

    pub async fn status(&self, id: &str) -> anyhow::Result<(OutboxStatus, String)> {
        let item = self.item(id).await?;
        Ok((item.status, item.reason.unwrap_or_default()))
    }
}

/// A message whose only value is its own id.
pub fn note(id: &str, open_id: &str, template: &str, now: DateTime<Utc>) -> anyhow::Result<OutboxItem> {
    let values = BTreeMap::from([("no".to_owned(), id.to_owned())]);
    Ok(shop::messages::item(id, &Message::new(OpenId::parse(open_id)?, template, values), now)?)
}

/// The permissions of a user who agreed to so many messages of a template.
pub async fn agreed(store: &Store, open_id: &str, template_id: &str, n: i64, now: DateTime<Utc>) -> anyhow::Result<()> {
    let at = (now - TimeDelta::minutes(1)).to_rfc3339();
    let row = serde_json::json!({
        "_id": format!("{open_id}|{template_id}"), "openId": open_id, "templateId": template_id, "choice": "accept",
        "available": n, "accepted": n, "taken": 0, "voided": 0,
        "acceptedAt": { "$date": at }, "updatedAt": { "$date": at },
    });
    Ok(store.open_document("subscriptions", &row, now).await?)
}

/// The program's other life: `deliver URL URI DATABASE SPEED EPOCH`.
pub fn main(arguments: &[&str]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|r| r.block_on(deliver_for_ever(arguments)));
    if let Err(error) = ended {
        eprintln!("{error:?}");
    }
    ExitCode::FAILURE
}

async fn deliver_for_ever(arguments: &[&str]) -> anyhow::Result<()> {
    let [url, uri, database, speed, epoch] = arguments else { anyhow::bail!("five arguments") };
    let [url, uri, database] = [url, uri, database].map(|text| (*text).to_owned());
    let post = Post::at(&Place { url, uri, database, speed: speed.parse()?, epoch_ms: epoch.parse()? })?;
    loop {
        if let Err(error) = post.run().await {
            eprintln!("a run failed: {error:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
