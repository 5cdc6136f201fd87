//! Transactions: snapshot reads, majority writes, retried within a deadline.

use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::options::{ReadConcern, WriteConcern};
use mongodb::{ClientSession, Collection, Database};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{Error, Store};

/// One transaction in progress. Only database calls belong inside: the closure may run again.
pub struct Tx {
    pub(crate) session: ClientSession,
    database: Database,
}

impl Tx {
    pub(crate) fn collection<T: Send + Sync>(&self, name: &str) -> Collection<T> {
        self.database.collection(name)
    }

    pub(crate) async fn insert<T: Serialize + Send + Sync>(
        &mut self,
        collection: &str,
        document: &T,
    ) -> Result<(), Error> {
        let target = self.collection::<T>(collection);
        target.insert_one(document).session(&mut self.session).await?;
        Ok(())
    }

    pub(crate) async fn insert_many<T: Serialize + Send + Sync>(
        &mut self,
        collection: &str,
        documents: &[T],
    ) -> Result<(), Error> {
        if documents.is_empty() {
            return Ok(());
        }
        let target = self.collection::<T>(collection);
        target.insert_many(documents).session(&mut self.session).await?;
        Ok(())
    }

    pub(crate) async fn find_by_id<T: DeserializeOwned + Send + Sync>(
        &mut self,
        collection: &str,
        id: &str,
    ) -> Result<Option<T>, Error> {
        let target = self.collection::<T>(collection);
        Ok(target.find_one(doc! { "_id": id }).session(&mut self.session).await?)
    }

    pub(crate) async fn find<T: DeserializeOwned + Send + Sync>(
        &mut self,
        collection: &str,
        filter: Document,
    ) -> Result<Vec<T>, Error> {
        let mut cursor = self.collection::<T>(collection).find(filter).session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    /// Updates the one document that the guard matches; false when none does.
    pub(crate) async fn update(&mut self, collection: &str, guard: Document, change: Document) -> Result<bool, Error> {
        let target = self.collection::<Document>(collection);
        let result = target.update_one(guard, change).session(&mut self.session).await?;
        Ok(result.matched_count == 1)
    }
}

/// What a transaction's closure returns. Boxed, because the compiler cannot yet prove an async closure `Send` here.
pub type Work<'t, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 't>>;

/// Tells the compiler that one run (`'t`) ends before what the closure borrows (`'env`); callers ignore it.
pub type Scope<'t, 'env> = PhantomData<&'t &'env ()>;

/// A pause before try number `attempt`, with jitter, so that rivals do not meet again in step.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let ceiling = 4u64.saturating_mul(1 << attempt.min(6));
    Duration::from_millis(1 + rand::random_range(0..ceiling))
}

impl Store {
    /// Runs `work` in one transaction and commits it.
    ///
    /// `work` is run again after a transient conflict, and the commit is sent again when its result is unknown, until the
    /// deadline. An error that `work` returns aborts the transaction: a refusal therefore writes nothing. Errors of the
    /// driver must be returned, never swallowed.
    pub async fn transaction<'env, T, F>(&self, work: F) -> Result<T, Error>
    where
        F: for<'t> Fn(&'t mut Tx, Scope<'t, 'env>) -> Work<'t, T> + Send + Sync + 'env,
    {
        let database = self.db().await?.clone();
        let deadline = Instant::now() + self.transaction_deadline();
        let session = database.client().start_session().await?;
        let mut tx = Tx { session, database };
        for attempt in 0.. {
            tx.session
                .start_transaction()
                .read_concern(ReadConcern::snapshot())
                .write_concern(WriteConcern::majority())
                .await?;
            let error = match work(&mut tx, PhantomData).await {
                Ok(value) => match commit(&mut tx, deadline).await {
                    Ok(()) => return Ok(value),
                    Err(error) => error,
                },
                Err(error) => {
                    // The server drops an abandoned transaction by itself; the first error is the one to tell.
                    let _unused: Result<(), _> = tx.session.abort_transaction().await;
                    error
                }
            };
            let pause = backoff(attempt);
            if !error.is_transient() || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
        Err(Error::Invariant("a transaction ran out of attempts".to_owned()))
    }
}

async fn commit(tx: &mut Tx, deadline: Instant) -> Result<(), Error> {
    for attempt in 0.. {
        let error = match tx.session.commit_transaction().await {
            Ok(()) => return Ok(()),
            Err(error) => Error::from(error),
        };
        let pause = backoff(attempt);
        if !error.is_commit_unknown() || Instant::now() + pause >= deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
    Ok(())
}
