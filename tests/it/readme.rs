//! The READMEs do what they say.

use std::process::Stdio;

use it::World;

/// The shell block that calls the local cloud.
fn walk_through(readme: &str) -> String {
    let blocks = readme.split("```sh\n").skip(1).filter_map(|b| b.split("```").next());
    blocks.filter(|b| b.starts_with("api=")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_through_ends_with_a_paid_order_and_a_point() -> anyhow::Result<()> {
    for readme in [include_str!("../../README.md"), include_str!("../../README.zh-CN.md")] {
        let world = World::start().await?;
        let script = walk_through(readme);
        assert!(script.contains("submitOrder"), "no walk-through in the README");
        let script = script.replace("http://127.0.0.1:8900", &world.client.base);
        let run =
            tokio::process::Command::new("bash").args(["-eu", "-c", &script]).stdin(Stdio::null()).output().await?;
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success() && run.stderr.is_empty(), "{text}\n{}", String::from_utf8_lossy(&run.stderr));
        let last: Vec<serde_json::Value> =
            text.lines().rev().take(2).filter_map(|l| serde_json::from_str(l).ok()).collect();
        assert_eq!((&last[0]["points"], &last[1]["status"]), (&1.into(), &"paid".into()), "{text}");
        world.finish().await?;
    }
    Ok(())
}
