//! The database server that is measured on: one of its own, or a replica set that is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use mongod::Mongod;

use crate::database::start_local;

/// A folder that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        // Tests measure several things at once in one process.
        static FOLDERS: AtomicU32 = AtomicU32::new(0);
        let n = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("jinlu-bench-{}-{n}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

pub(super) struct Server {
    // Dropped in this order: the server has to stop before its folder goes.
    mongod: Option<Mongod>,
    scratch: Scratch,
    pub(super) uri: String,
}

impl Server {
    /// Uses the one at `uri`, or starts one on `data_dir` or a temporary folder.
    pub(super) async fn start(uri: Option<&str>, data_dir: Option<&Path>, cache_mib: u32) -> Result<Self> {
        let scratch = Scratch::new()?;
        if let Some(uri) = uri {
            return Ok(Self { mongod: None, scratch, uri: uri.to_owned() });
        }
        let data_dir = data_dir.unwrap_or(&scratch.0);
        fs::create_dir_all(data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
        let mongod = start_local(data_dir, cache_mib).await?;
        let uri = mongod.uri();
        Ok(Self { mongod: Some(mongod), scratch, uri })
    }

    /// A folder for logs and the like.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch.0
    }

    /// If it is ours.
    pub(super) fn pid(&self) -> Option<u32> {
        self.mongod.as_ref().and_then(Mongod::pid)
    }

    /// Stops it if it is ours.
    pub(super) async fn stop(mut self) -> Result<()> {
        if let Some(mut mongod) = self.mongod.take() {
            tokio::task::spawn_blocking(move || mongod.stop()).await??;
        }
        Ok(())
    }
}
