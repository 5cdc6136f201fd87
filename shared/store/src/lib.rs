//! The document-store access crate: the only one that names the MongoDB driver.
//!
//! It connects once and lazily, runs transactions with a deadline, stores idempotency with the effect,
//! keeps the one book of every quantity that matters, reserves stock without hot rows, and holds the
//! outbox, leases and the checks over all of it. It knows neither HTTP nor WeChat.

pub mod addresses;
pub mod assignments;
pub mod audit;
pub mod baseline;
pub mod bills;
pub mod book;
pub mod carts;
pub mod coins;
pub mod collections;
pub mod coupons;
pub mod crashpoint;
pub mod customers;
pub mod date;
pub mod error;
pub mod freight;
pub mod identities;
pub mod inventory;
pub mod leases;
pub mod lottery;
pub mod members;
pub mod migrate;
pub mod orders;
pub mod outbox;
pub mod page;
pub mod parcels;
pub mod payments;
pub mod prepaid;
pub mod products;
pub mod qualifications;
pub mod quotes;
pub mod refunds;
pub mod reminders;
pub mod requests;
pub mod reviews;
pub mod rotation;
pub mod seals;
pub mod staff;
pub mod stock;
pub mod subscriptions;
mod tx;
pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::options::{ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern};
use mongodb::{Client, Collection, Database};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::OnceCell;

pub use crashpoint::crashpoint;
pub use error::Error;
pub use requests::{CommandKey, Once};
pub use tx::{Scope, Tx, Work};

/// Where the database is and how much of it one process may use.
#[derive(Clone)]
pub struct StoreConfig {
    /// A `mongodb://` URI of a replica set. May hold a password, hence no `Debug`.
    pub uri: String,
    pub database: String,
    /// Connections per process; small, because many function instances share one database.
    pub max_pool_size: u32,
    /// How long a transaction may be retried; below every function's own time limit.
    pub transaction_deadline: Duration,
    /// How long to look for a primary before a call is `UNAVAILABLE`.
    pub server_selection_timeout: Duration,
}

impl StoreConfig {
    pub fn new(uri: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            database: database.into(),
            max_pool_size: 8,
            transaction_deadline: Duration::from_secs(8),
            server_selection_timeout: Duration::from_secs(3),
        }
    }
}

/// A handle to the shop's database; cheap to clone, connects on first use.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    config: StoreConfig,
    database: OnceCell<Database>,
}

/// Bytes of the operating system's generator, for what must never come twice: a process that is copied while it runs has its
/// own generator copied, too.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| Error::Invariant(format!("no random bytes: {error}")))?;
    Ok(bytes)
}

impl Store {
    /// Does no IO.
    pub fn new(config: StoreConfig) -> Self {
        Self { inner: Arc::new(Inner { config, database: OnceCell::new() }) }
    }

    async fn connect(&self) -> Result<Database, mongodb::error::Error> {
        let config = &self.inner.config;
        let mut options = ClientOptions::parse(&config.uri).await?;
        options.app_name = Some("jinlu".to_owned());
        options.max_pool_size = Some(config.max_pool_size);
        options.min_pool_size = Some(0);
        options.max_idle_time = Some(Duration::from_secs(60));
        options.connect_timeout = Some(Duration::from_secs(2));
        options.server_selection_timeout = Some(config.server_selection_timeout);
        options.retry_writes = Some(true);
        options.retry_reads = Some(true);
        options.write_concern = Some(WriteConcern::majority());
        options.read_concern = Some(ReadConcern::majority());
        // A money read from a lagging secondary is a wrong money read.
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        Ok(Client::with_options(options)?.database(&config.database))
    }

    pub(crate) async fn db(&self) -> Result<&Database, Error> {
        Ok(self.inner.database.get_or_try_init(|| self.connect()).await?)
    }

    pub(crate) async fn collection<T: Send + Sync>(&self, name: &str) -> Result<Collection<T>, Error> {
        Ok(self.db().await?.collection(name))
    }

    pub(crate) fn transaction_deadline(&self) -> Duration {
        self.inner.config.transaction_deadline
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<(), Error> {
        self.db().await?.run_command(doc! { "ping": 1 }).await?;
        Ok(())
    }

    /// Removes the whole database. For the local cloud's fresh start and for tests.
    pub async fn drop_database(&self) -> Result<(), Error> {
        Ok(self.db().await?.drop().await?)
    }

    /// The documents of one collection, those made last first, as plain JSON. For tools and the local page.
    pub async fn peek(&self, collection: &str, limit: i64) -> Result<Vec<serde_json::Value>, Error> {
        use futures_util::TryStreamExt;
        let documents: Vec<Document> = self
            .collection::<Document>(collection)
            .await?
            .find(doc! {})
            .hint(mongodb::options::Hint::Keys(doc! { "_id": 1 }))
            .sort(doc! { "createdAt": -1, "_id": -1 })
            .limit(limit)
            .await?
            .try_collect()
            .await?;
        Ok(documents.into_iter().map(|d| bson::Bson::Document(d).into_relaxed_extjson()).collect())
    }
}
