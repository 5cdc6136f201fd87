//! What happens once goods are sent: parcels move and Kuaidi100 tells of them in every way it can, buyers look, and say what they
//! think of what they got.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use simulators::{MoveParcel, PushMode};

use super::{History, MEMBERS, PRODUCTS};

/// Companies as the shop names them, and as Kuaidi100 does.
const COMPANIES: &[(&str, &str)] =
    &[("YTO", "yuantong"), ("YTO", "yuantong"), ("SF", "shunfeng"), ("ZTO", "zhongtong")];

/// From the label to the door; astray, back, lost.
const STATES: &[&str] =
    &["1", "103", "0", "1002", "1002", "5", "501", "3", "301", "304", "2", "201", "6", "4", "14", "401"];

impl History {
    /// A parcel that may be another order's, too.
    pub(super) fn waybill(&mut self) -> (&'static str, String) {
        let (company, _) = self.one_of(COMPANIES).unwrap_or(("YTO", "yuantong"));
        let number = match self.chance(92) {
            true => format!("YT00000000{:02}", self.below(4)),
            // Too short to be followed.
            false => format!("N{}", self.below(3)),
        };
        (company, number)
    }

    pub(super) async fn parcels(&mut self, member: usize) -> Result<()> {
        match self.below(8) {
            0..5 => self.parcel_moves().await,
            5 => {
                let Some(order) = self.order_in(member, &["shipped", "completed"]).await? else { return Ok(()) };
                let query = json!({ "action": "query", "orderId": order });
                self.member(member, "logistics", query).await?;
                self.member(member, "logistics", json!({ "action": "mine" })).await.map(drop)
            }
            6 => {
                let (company, number) = self.waybill();
                let mut query = json!({ "action": "query", "expressCompany": company, "trackingNo": number });
                if self.chance(50) {
                    query["phone"] = json!("13800138000");
                }
                self.service("logistics", query).await.map(drop)
            }
            _ => {
                let Some(order) = self.order_in(member, &["shipped"]).await? else { return Ok(()) };
                let subscribe = json!({ "action": "subscribe", "orderId": order });
                self.staff("logistics", subscribe).await?;
                self.staff("logistics", json!({ "action": "marked" })).await.map(drop)
            }
        }
    }

    async fn parcel_moves(&mut self) -> Result<()> {
        let known: Vec<_> = self.world.sim.parcels(None).into_iter().map(|parcel| (parcel.com, parcel.num)).collect();
        let known = if self.chance(85) { self.one_of(&known) } else { None };
        let (com, num) = match known {
            Some(known) => known,
            None => {
                let (_, com) = self.one_of(COMPANIES).unwrap_or(("YTO", "yuantong"));
                (com.to_owned(), format!("YT00000000{:02}", self.below(4)))
            }
        };
        let modes = [PushMode::Once, PushMode::Once, PushMode::Once, PushMode::None, PushMode::Duplicate];
        let modes = [&modes[..], &[PushMode::OutOfOrder, PushMode::Tampered, PushMode::WrongSalt, PushMode::Unsigned]];
        let push = self.one_of(&modes.concat()).unwrap_or_default();
        let minutes = if self.chance(15) { -i64::try_from(self.below(300))? } else { 0 };
        let moves = MoveParcel {
            com: Some(com),
            num,
            state: self.one_of(STATES).map(str::to_owned),
            // What a push that was tampered with changes.
            context: Some("ok".to_owned()),
            at: Some(self.now() + chrono::TimeDelta::minutes(minutes)),
            push: Some(push),
            retry: self.chance(20),
            ..MoveParcel::default()
        };
        let moved = self.world.sim.parcel(&moves).await.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        let told: Vec<_> = moved.pushes.iter().map(|push| push.status).collect();
        let line = format!("{} parcel {} {:?} {push:?} → {told:?}", self.stamp(), moves.num, moves.state);
        self.log.push(line.clone());
        let proven = matches!(push, PushMode::Once | PushMode::Duplicate | PushMode::OutOfOrder);
        for push in &moved.pushes {
            let status = push.status.context("no answer to a push")?;
            ensure!(status == if proven { 200 } else { 401 }, "{line}: {push:?}");
        }
        Ok(())
    }

    /// Several are shipped in one call; each fares by itself.
    pub(super) async fn ship_many(&mut self) -> Result<()> {
        let mut shipments = Vec::new();
        for member in 0..MEMBERS {
            let Some(order) = self.order_in(member, &["paid"]).await? else { continue };
            let (company, number) = self.waybill();
            shipments.push(match self.chance(85) {
                true => {
                    json!({ "orderId": order, "logistics": "express", "expressCompany": company, "trackingNo": number })
                }
                false => json!({ "orderId": order, "logistics": "city" }),
            });
        }
        if shipments.is_empty() {
            return Ok(());
        }
        let wanted = shipments.len();
        let input = json!({ "action": "shipBatch", "shipments": shipments, "requestId": self.request_id() });
        let done = self.staff("orders", input.clone()).await?;
        ensure!(done.body["results"].as_array().map(Vec::len) == Some(wanted), "not each has a result: {}", done.body);
        if self.chance(30) {
            let again = self.staff("orders", input).await?;
            ensure!(again.body["results"] == done.body["results"], "shipped twice: {} and {}", done.body, again.body);
        }
        Ok(())
    }

    pub(super) async fn reviews(&mut self, member: usize) -> Result<()> {
        match self.below(10) {
            0..5 => {
                let Some(order) = self.order_in(member, &["completed"]).await? else { return self.buy(member).await };
                let mut input = json!({
                    "action": "add", "orderId": order, "lineId": (1 + self.below(2)).to_string(), "rating": 1 + self.below(5),
                    "text": self.one_of(&["很甜", "", "包装破了"]), "anonymous": self.chance(30), "requestId": self.request_id(),
                });
                if self.chance(20) {
                    input["images"] = json!(["cloud://a/b.png"]);
                }
                let added = self.member(member, "reviews", input.clone()).await?;
                if added.ok && self.chance(40) {
                    let again = self.member(member, "reviews", input).await?;
                    ensure!(again.body["replayed"] == true, "reviewed twice: {}", again.body);
                }
                Ok(())
            }
            5 => {
                let mine = self.member(member, "reviews", json!({ "action": "mine" })).await?;
                let Some(id) = self.one_of(&ids(mine.rows())) else { return Ok(()) };
                self.member(member, "reviews", json!({ "action": "remove", "reviewId": id })).await.map(drop)
            }
            6..9 => {
                let status = self.one_of(&["pending", "published", "hidden"]);
                let listed = self.staff("reviews", json!({ "action": "list", "status": status })).await?;
                let Some(id) = self.one_of(&ids(listed.rows())) else { return Ok(()) };
                let input = match self.chance(70) {
                    true => {
                        let decision = self.one_of(&["publish", "publish", "hide"]);
                        json!({ "action": "moderate", "reviewId": id, "decision": decision, "reason": "与商品无关" })
                    }
                    false => json!({ "action": "reply", "reviewId": id, "text": "谢谢支持" }),
                };
                self.staff("reviews", input).await.map(drop)
            }
            _ => {
                let product = self.one_of(PRODUCTS);
                let listed = self.nobody("reviews", json!({ "action": "list", "productId": product })).await?;
                let shown = i64::try_from(listed.rows().len())?;
                let whole = listed.body["nextCursor"].is_null();
                let count = &listed.body["summary"]["count"];
                ensure!(!listed.ok || !whole || *count == shown, "{shown} reviews are shown: {}", listed.body);
                Ok(())
            }
        }
    }

    /// Nobody was asked about a parcel more often than Kuaidi100 wants it.
    pub(super) fn check_parcels(&self) -> Result<()> {
        for parcel in self.world.sim.parcels(None) {
            ensure!(parcel.locked_until.is_none(), "Kuaidi100 locked {}: {:?}", parcel.num, parcel.queries);
        }
        Ok(())
    }
}

fn ids(rows: &[Value]) -> Vec<String> {
    rows.iter().filter_map(|row| row["reviewId"].as_str().map(str::to_owned)).collect()
}
