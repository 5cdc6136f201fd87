//! The READMEs do what they say.

use std::process::Stdio;

use it::World;

/// The shell blocks that call the local cloud, one after the other.
fn walk_through(readme: &str) -> String {
    let blocks = readme.split("```sh\n").skip(1).filter_map(|b| b.split("```").next());
    blocks.filter(|b| b.contains("post ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_through_ends_with_a_paid_order_and_a_draw_that_holds() -> anyhow::Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for readme in [include_str!("../../README.md"), include_str!("../../README.zh-CN.md")] {
        let world = World::start().await?;
        let folder = tempfile::tempdir()?;
        let script = walk_through(readme);
        assert!(script.contains("submitOrder") && script.contains("verify-draw"), "no walk-through in the README");
        let script = script
            .replace("http://127.0.0.1:8900", &world.client.base)
            .replace("/tmp", folder.path().to_str().unwrap_or_default())
            .replace("cargo run -q --", env!("CARGO_BIN_EXE_jinlu-it"));
        let run = tokio::process::Command::new("bash")
            .args(["-eu", "-o", "pipefail", "-c", &script])
            .current_dir(&root)
            .stdin(Stdio::null())
            .output()
            .await?;
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success() && run.stderr.is_empty(), "{text}\n{}", String::from_utf8_lossy(&run.stderr));
        let replies: Vec<serde_json::Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        assert!(replies.iter().any(|reply| reply["status"] == "paid"), "{text}");
        assert!(replies.iter().any(|reply| reply["points"] == 1), "{text}");
        assert!(text.contains("4 tickets, 2 won") && text.matches("the draw holds").count() == 2, "{text}");
        world.finish().await?;
    }
    Ok(())
}
