//! Coupons whose claimer is killed between any two steps: nobody gets one too many, and nobody is left without.

use it::{database_name, mongod_uri, settle_down, violations};
use serde_json::json;
use store::{Store, StoreConfig};

use crate::crash::{free_port, persist, start};

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_coupon_is_claimed() -> anyhow::Result<()> {
    for (point, repeats) in [
        ("claim.inserted", true),
        ("claim.inserted", false),
        ("claim.counted", true),
        ("claim.counted", false),
        ("claim.opened", true),
        ("claim.opened", false),
    ] {
        let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
        let host = start(&uri, &database, folder.path(), port, Some(point))?;
        let client = host.client.clone();
        #[expect(clippy::disallowed_methods, reason = "the host's clock was not moved")]
        let now = chrono::Utc::now();
        let at =
            |hours: i64| (now + chrono::TimeDelta::hours(hours)).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        // One for each of two users, and there are two.
        let coupon = json!({ "name": "满减券", "type": "off", "off": 10, "validDays": 1, "perUser": 1, "total": 2,
            "claimFrom": at(-1), "claimUntil": at(24) });
        let issue = json!({ "action": "create", "couponId": "cp", "coupon": coupon });
        client.call_service("couponAdmin", issue).await?.ok();
        let (alice, bob) = (client.login("alice").await?, client.login("bob").await?);
        let claim = json!({ "action": "claim", "couponId": "cp", "requestId": "claim-the-coupon" });
        host.killed_at(point, async { client.call("coupons", &alice, claim.clone()).await.map(drop) }).await?;

        let host = start(&uri, &database, folder.path(), port, None)?;
        let c = &host.client;
        if !repeats {
            // She never comes back with the same command; a minute later the timer settles what she left.
            c.advance(61).await?;
            c.timer("expireCoupons").await?.ok();
        }
        c.advance(61).await?;
        let again = if repeats { claim.clone() } else { json!({ "action": "claim", "couponId": "cp" }) };
        let answer = persist(c, "coupons", &alice, again).await?;
        let has_one = point != "claim.inserted" && !repeats;
        if has_one {
            answer.refused(422, "COUPON_NOT_APPLICABLE");
        } else {
            answer.ok();
        }
        persist(c, "coupons", &bob, claim.clone()).await?.ok();
        for token in [&alice, &bob] {
            let mine = c.call("coupons", token, json!({ "action": "mine", "status": "unused" })).await?;
            assert_eq!(mine.ok()["data"].as_array().map(Vec::len), Some(1), "{point}: {mine:?}");
        }
        let stats = c.call_service("couponAdmin", json!({ "action": "stats", "couponId": "cp" })).await?;
        assert_eq!((&stats.ok()["claimed"], &stats.body["left"]), (&json!(2), &json!(0)), "{point}: {stats:?}");
        c.advance(61).await?;
        c.timer("expireCoupons").await?.ok();
        settle_down(c).await?;
        let store = Store::new(StoreConfig::new(&uri, &database));
        let found = violations(&store, now + chrono::TimeDelta::hours(1)).await?;
        assert!(found.is_empty(), "{point}: {}", found.join("\n"));
        store.drop_database().await?;
    }
    Ok(())
}
