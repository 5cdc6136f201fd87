//! What staff do with the goods: pieces come and go, are counted, and what sending them costs changes.

use anyhow::{Result, ensure};
use rand::RngExt;
use serde_json::json;

use super::History;

const GOODS: &[(&str, Option<&str>)] = &[
    ("p-apple", None),
    ("p-rice", None),
    ("p-eggs", None),
    ("p-last", None),
    ("p-tea", Some("s-grade1")),
    ("p-tea", Some("s-grade3")),
];

impl History {
    pub(super) async fn stock(&mut self) -> Result<()> {
        let (action, sign) = self.one_of(&[("in", 1), ("in", 1), ("out", -1), ("count", 1)]).unwrap_or(("in", 1));
        let (mut items, mut moved) = (Vec::new(), Vec::new());
        for (product, sku) in GOODS {
            if !items.is_empty() && self.chance(80) || items.is_empty() && self.chance(70) {
                continue;
            }
            let quantity = i64::try_from(1 + self.below(5))?;
            let mut item = json!({ "productId": product, "quantity": quantity });
            let mut change = sign * quantity;
            if action == "count" {
                change = self.between(-4..4);
                item = json!({ "productId": product, "expected": 20, "counted": 20 + change });
            }
            if let Some(sku) = sku {
                item["skuId"] = json!(sku);
            }
            items.push(item);
            moved.push((*product, change));
        }
        if items.is_empty() {
            return self.staff("stock", json!({ "action": "low", "limitPieces": 10 })).await.map(drop);
        }
        let input = json!({ "action": action, "items": items, "reason": "盘点", "requestId": self.request_id() });
        let done = self.staff("stock", input.clone()).await?;
        if done.ok {
            for (product, change) in moved {
                *self.pieces.entry(product.to_owned()).or_default() += change;
            }
            let again = self.staff("stock", input).await?;
            ensure!(again.body["replayed"] == true, "stock twice: {}", again.body);
        }
        Ok(())
    }

    /// Sending costs something else from now on, or is for nothing.
    pub(super) async fn freight(&mut self) -> Result<()> {
        let template = self.one_of(&["ft-near", "ft-heavy"]).unwrap_or("ft-near");
        if self.chance(45) {
            let templates = [json!(template), json!(template), json!(null)];
            let product = self.one_of(&["p-apple", "p-rice", "p-honey", "p-oil"]);
            let input = json!({
                "action": "assign", "templateId": self.one_of(&templates), "productIds": [product], "weightG": 100 * (1 + self.below(30)),
            });
            return self.staff("freight", input).await.map(drop);
        }
        let fee = |history: &mut Self| f64::from(history.random.random_range(0..1_500)) / 100.0;
        let (first, further, free) = (fee(self), fee(self), self.chance(50));
        let mut tariff = json!({ "first": 1, "firstFee": first, "further": 1, "furtherFee": further });
        if free {
            tariff["freeOverAmount"] = json!(99);
        }
        let measure = self.one_of(&["piece", "order"]);
        let whole = json!({
            "name": "运费", "measure": measure, "default": tariff,
            "rules": [{ "places": [{ "province": "西藏" }], "tariff": null }],
        });
        let seen = self.staff("freight", json!({ "action": "get", "templateId": template })).await?;
        let input = match seen.body["version"].as_i64() {
            Some(version) => {
                json!({ "action": "update", "templateId": template, "version": version, "template": whole })
            }
            None => json!({ "action": "create", "templateId": template, "template": whole }),
        };
        self.staff("freight", input).await.map(drop)
    }
}
