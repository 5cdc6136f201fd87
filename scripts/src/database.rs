//! Which database a command works on, and the `mongod` of the local cloud.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mongod::Mongod;
use serde::{Deserialize, Serialize};
use store::{Store, StoreConfig};

/// The database that a command works on.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DatabaseArgs {
    /// 数据库地址 · Address of a MongoDB replica set
    #[arg(long, value_name = "URI", conflicts_with = "data_dir")]
    uri: Option<String>,
    /// 本地云的数据目录 · Data folder of a local cloud that runs, or ran, there
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// 数据库名 · Name of the database
    #[arg(long, value_name = "NAME", env = "MONGODB_DATABASE", default_value = "jinlu")]
    database: String,
    // Separate from --uri, so that --data-dir on the command line wins over the environment.
    #[arg(long, hide = true, env = "MONGODB_URI", hide_env_values = true)]
    env_uri: Option<String>,
}

/// An open database. Keep it until the work is done: it may own the server.
pub(crate) struct Opened {
    pub(crate) store: Store,
    server: Option<Mongod>,
}

impl DatabaseArgs {
    /// `--uri`, else `--data-dir`, else `MONGODB_URI`, else `.jinlu`.
    ///
    /// A local cloud that runs is shared; one that does not is started for as long as the command takes.
    pub(crate) async fn open(&self) -> Result<Opened> {
        let env_uri = self.env_uri.as_ref().filter(|uri| !uri.is_empty());
        let uri = match (&self.uri, &self.data_dir, env_uri) {
            (Some(uri), _, _) | (None, None, Some(uri)) => uri.clone(),
            (None, data_dir, _) => {
                return self.open_local(data_dir.as_deref().unwrap_or(Path::new(DEFAULT_DATA_DIR))).await;
            }
        };
        let store = Store::new(StoreConfig::new(uri, self.database.as_str()));
        store.ping().await.context("the database does not answer; check --uri or MONGODB_URI")?;
        Ok(Opened { store, server: None })
    }

    async fn open_local(&self, data_dir: &Path) -> Result<Opened> {
        let mongo_dir = mongo_dir(data_dir);
        if !mongo_dir.is_dir() {
            bail!(
                "there is no database in {}: start the local cloud there with `jinlu dev --data-dir {0}`, or name a database with --uri",
                data_dir.display()
            );
        }
        let running = if mongod::data_dir_is_in_use(&mongo_dir) { Recorded::read(data_dir) } else { None };
        let server = match running {
            Some(_) => None,
            None => Some(start_local(data_dir, mongod::CACHE_MIB).await?),
        };
        let uri = match (&running, &server) {
            (Some(running), _) => running.uri(),
            (None, Some(server)) => server.uri(),
            (None, None) => bail!("the database did not start"),
        };
        let store = Store::new(StoreConfig::new(uri, self.database.as_str()));
        store
            .ping()
            .await
            .with_context(|| format!("the database of the local cloud in {} does not answer", data_dir.display()))?;
        Ok(Opened { store, server })
    }
}

impl Opened {
    /// Stops the server if it was started for this command.
    pub(crate) async fn close(self) -> Result<()> {
        match self.server {
            Some(mut server) => tokio::task::spawn_blocking(move || server.stop()).await?,
            None => Ok(()),
        }
    }
}

/// Where the local cloud keeps its state unless it is told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = ".jinlu";

/// `mongod.json` in a data folder: where the folder's server listens, for the next start and for other commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Recorded {
    port: u16,
}

impl Recorded {
    fn read(data_dir: &Path) -> Option<Self> {
        let text = fs::read(data_dir.join("mongod.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write(&self, data_dir: &Path) -> Result<()> {
        let temporary = data_dir.join("mongod.json.new");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        Ok(fs::rename(temporary, data_dir.join("mongod.json"))?)
    }

    fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?replicaSet=rs0&directConnection=true", self.port)
    }
}

fn mongo_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("mongo")
}

/// Finds or provisions MongoDB and starts it on a data folder, telling each step on standard error.
pub(crate) async fn start_local(data_dir: &Path, cache_mib: u32) -> Result<Mongod> {
    let data_dir = data_dir.to_owned();
    let start = move || {
        let mut progress = |line: &str| eprintln!("  {line}");
        let binary = mongod::find_or_provision(&mongod::default_cache_dir(None), &mut progress)?;
        let options = mongod::Options {
            log_path: Some(data_dir.join("mongod.log")),
            cache_mib,
            ..mongod::Options::new(binary, mongo_dir(&data_dir))
        };
        // The same port as last time, so that a shell that was left open still reaches it; any other will do as well.
        let before = Recorded::read(&data_dir).map(|recorded| recorded.port).filter(|port| is_free(*port));
        let server = Mongod::start(mongod::Options { port: before, ..options })?;
        Recorded { port: server.port() }.write(&data_dir)?;
        Ok(server)
    };
    tokio::task::spawn_blocking(start).await?
}

fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_without_a_database_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let args = DatabaseArgs {
            uri: None,
            data_dir: Some(folder.path().to_owned()),
            database: "jinlu".to_owned(),
            // The command line wins over the environment.
            env_uri: Some("mongodb://127.0.0.1:1".to_owned()),
        };
        let error = args.open().await.map(drop).unwrap_err().to_string();
        assert!(error.contains("there is no database in") && error.contains("jinlu dev --data-dir"), "{error}");
    }

    #[test]
    fn the_port_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Recorded::read(folder.path()).is_none());
        Recorded { port: 4711 }.write(folder.path()).unwrap();
        assert_eq!(Recorded::read(folder.path()).unwrap().port, 4711);
    }
}
