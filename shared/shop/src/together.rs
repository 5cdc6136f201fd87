//! One read for all who wait for one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use domain::Failure;
use store::Error;

/// Looks documents up by key; calls that wait at the same time share one read.
///
/// While a read is under way, those that come wait for the next, which then is everybody's. So each call is answered by a read that
/// began after the call: what it saw is as fresh as if the call had read by itself.
pub struct Together<K, V> {
    waiting: Mutex<Vec<Arc<Slot<K, V>>>>,
    /// Whoever holds it reads.
    turn: tokio::sync::Mutex<()>,
}

struct Slot<K, V> {
    key: K,
    /// `None` inside: there is no such document.
    found: OnceLock<Option<V>>,
}

impl<K, V> Default for Together<K, V> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }
}

impl<K: Clone + Ord, V: Clone> Together<K, V> {
    /// The document of `key`. `read` is given the keys of all who wait, each once.
    pub async fn get<F>(&self, key: K, read: impl FnOnce(Vec<K>) -> F) -> Result<Option<V>, Failure>
    where
        F: Future<Output = Result<BTreeMap<K, V>, Error>>,
    {
        let slot = Arc::new(Slot { key, found: OnceLock::new() });
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&slot));
        let _turn = self.turn.lock().await;
        if let Some(found) = slot.found.get() {
            return Ok(found.clone());
        }
        let mut all = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        // A reader that failed or was given up took this call along without an answer.
        if !all.iter().any(|other| Arc::ptr_eq(other, &slot)) {
            all.push(Arc::clone(&slot));
        }
        let mut keys: Vec<K> = all.iter().map(|slot| slot.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let found = read(keys).await?;
        for slot in &all {
            // Only the holder of the turn answers, and each slot once.
            slot.found.set(found.get(&slot.key).cloned()).ok();
        }
        Ok(found.get(&slot.key).cloned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    struct Shop {
        together: Together<u32, u32>,
        reads: AtomicU32,
        /// So many reads wait to be released.
        slow: u32,
        release: Notify,
    }

    /// Read number `n` answers each key with `n`.
    async fn ask(shop: Arc<Shop>, key: u32) -> Result<Option<u32>, Failure> {
        let read = |keys: Vec<u32>| {
            let shop = Arc::clone(&shop);
            async move {
                let n = shop.reads.fetch_add(1, Ordering::SeqCst);
                if n < shop.slow {
                    shop.release.notified().await;
                }
                Ok(keys.into_iter().filter(|key| *key != 404).map(|key| (key, n)).collect())
            }
        };
        shop.together.get(key, read).await
    }

    fn shop(slow: u32) -> Arc<Shop> {
        Arc::new(Shop { together: Together::default(), reads: AtomicU32::new(0), slow, release: Notify::new() })
    }

    async fn until_reads(shop: &Shop, reads: u32) {
        while shop.reads.load(Ordering::SeqCst) < reads {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_read_that_began_before_is_nobody_elses() {
        let shop = shop(1);
        let first = tokio::spawn(ask(Arc::clone(&shop), 1));
        until_reads(&shop, 1).await;
        let later: Vec<_> =
            [1, 2, 3, 3, 404].map(|key| tokio::spawn(ask(Arc::clone(&shop), key))).into_iter().collect();
        tokio::task::yield_now().await;
        shop.release.notify_one();
        assert_eq!(first.await.unwrap().unwrap(), Some(0));
        let mut answers = Vec::new();
        for one in later {
            answers.push(one.await.unwrap().unwrap());
        }
        assert_eq!(answers, [Some(1), Some(1), Some(1), Some(1), None]);
        assert_eq!(shop.reads.load(Ordering::SeqCst), 2, "five calls share one read");
    }

    #[tokio::test]
    async fn who_was_taken_along_by_a_reader_that_ended_reads_again() {
        let shop = shop(2);
        let first = tokio::spawn(ask(Arc::clone(&shop), 1));
        until_reads(&shop, 1).await;
        let (second, third) = (tokio::spawn(ask(Arc::clone(&shop), 2)), tokio::spawn(ask(Arc::clone(&shop), 3)));
        tokio::task::yield_now().await;
        shop.release.notify_one();
        assert_eq!(first.await.unwrap().unwrap(), Some(0));
        // The second one reads for the third, too, and is given up in the middle.
        until_reads(&shop, 2).await;
        second.abort();
        assert!(second.await.is_err());
        assert_eq!(third.await.unwrap().unwrap(), Some(2));
        assert_eq!(ask(Arc::clone(&shop), 4).await.unwrap(), Some(3));
    }
}
