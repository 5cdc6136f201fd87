//! The CRM's module of `clients/crm`: its own tests, the same against a real shop, and types that fit the functions.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use it::World;

/// The oldest Node that the module is for.
const NODE_MAJOR_MIN: u32 = 18;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/crm")
}

#[expect(clippy::disallowed_methods, reason = "what may be missing on a desk may not on CI")]
fn on_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Whether there is a Node to run it with. On CI there is.
fn node_is_installed() -> bool {
    let output = Command::new("node").arg("--version").output().ok().filter(|output| output.status.success());
    let version =
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().trim_start_matches('v').to_owned());
    let major = version.as_deref().and_then(|v| v.split('.').next()).and_then(|major| major.parse::<u32>().ok());
    let fits = major.is_some_and(|major| major >= NODE_MAJOR_MIN);
    assert!(fits || !on_ci(), "node {NODE_MAJOR_MIN} or newer is needed: {version:?}");
    if !fits {
        eprintln!("skipped: node {NODE_MAJOR_MIN} or newer is needed");
    }
    fits
}

#[tokio::test(flavor = "multi_thread")]
async fn the_module_holds_alone_and_against_the_shop() -> anyhow::Result<()> {
    if !node_is_installed() {
        return Ok(());
    }
    let world = World::start().await?;
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=tap"]).current_dir(folder()).stdin(Stdio::null());
    node.env("JINLU_URL", &world.client.base).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let output = tokio::task::spawn_blocking(move || node.output()).await??;
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    // A runner that finds no tests, or skips them, is content.
    assert!(report.contains("# skipped 0\n") && !report.contains("# tests 0\n"), "{report}");
    world.settle_down().await?;
    world.finish().await
}

#[test]
fn the_types_are_those_of_the_functions() -> anyhow::Result<()> {
    let file = folder().join("types.d.ts");
    let output = Command::new(env!("CARGO_BIN_EXE_jinlu-it")).args(["types", "--check", "--out"]).arg(file).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\nto write it: cargo run -- types --out clients/crm/types.d.ts");
    Ok(())
}
