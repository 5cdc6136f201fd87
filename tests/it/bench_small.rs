//! The benchmark keeps working: its counts are exact and its draws hold. Nothing is timed here.

use it::mongod_uri;

#[tokio::test(flavor = "multi_thread")]
async fn a_small_draw_adds_up() -> anyhow::Result<()> {
    assert_eq!(jinlu::bench::small_draw(&mongod_uri().await?).await?, [""; 0]);
    Ok(())
}
