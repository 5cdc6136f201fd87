//! The benchmarks keep working: their counts are exact, their draws hold and their questions are answered. Nothing is timed here.

use it::mongod_uri;

#[tokio::test(flavor = "multi_thread")]
async fn a_small_draw_adds_up() -> anyhow::Result<()> {
    assert_eq!(jinlu::bench::small_draw(&mongod_uri().await?).await?, [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lists_of_two_small_shops_are_read() -> anyhow::Result<()> {
    assert_eq!(jinlu::bench::small_lists(&mongod_uri().await?).await?, [""; 0]);
    Ok(())
}
