//! The invariant `stock`: pieces that were moved by hand.

use bson::doc;

use super::Audit;
use crate::Error;
use crate::book::{Entry, INVENTORY, Posting, stock_asset};
use crate::members::StockRecord;

impl Audit<'_> {
    pub(super) async fn stock(&mut self) -> Result<(), Error> {
        let by_hand = vec![doc! { "$match": { "_id": { "$regex": "^stock:" } } }];
        let ids = self.ids_of("ledger", by_hand).await?;
        for batch in ids.chunks(super::BATCH) {
            let entries: Vec<Entry> = self.matching("ledger", "_id", batch.to_vec()).await?;
            let records: Vec<StockRecord> = self.matching("records", "entryId", batch.to_vec()).await?;
            for entry in &entries {
                let own: Vec<&StockRecord> = records.iter().filter(|r| r.entry_id == entry.id).collect();
                if !is_told(entry, &own) {
                    let message = "pieces moved by hand and their rows differ";
                    self.violation("stock", message, format!("ledger/{}", entry.id));
                }
            }
        }
        let strays = vec![
            doc! { "$match": { "orderId": { "$exists": false } } },
            doc! { "$lookup": { "from": "ledger", "localField": "entryId", "foreignField": "_id", "as": "entries" } },
            doc! { "$match": { "$or": [{ "entries": { "$size": 0i32 } }, { "entryId": { "$not": { "$regex": "^stock:" } } }] } },
        ];
        let elsewhere = vec![doc! { "$match": {
            "_id": { "$not": { "$regex": "^stock:" } }, "postings.account": INVENTORY,
        } }];
        let sold = vec![doc! { "$match": { "deletedAt": { "$exists": true }, "status": "onSale" } }];
        for (collection, pipeline, message) in [
            ("records", strays, "pieces moved by hand without an entry"),
            ("ledger", elsewhere, "moves pieces by hand under another name"),
            ("shopProducts", sold, "is deleted and on sale"),
        ] {
            for id in self.ids_of(collection, pipeline).await? {
                self.violation("stock", message, format!("{collection}/{id}"));
            }
        }
        Ok(())
    }
}

/// Whether the rows say exactly what the entry books.
fn is_told(entry: &Entry, rows: &[&StockRecord]) -> bool {
    let postings = rows.iter().flat_map(|row| {
        let (product, sku) = (row.product_id.as_str(), row.sku_id.as_ref().map(domain::SkuId::as_str));
        let change = if row.record_type == "out" { row.quantity.saturating_neg() } else { row.quantity };
        let other = Posting::system(INVENTORY, &stock_asset(product, sku), change.saturating_neg());
        [Posting::stock(product, sku, change), other]
    });
    let mut told: Vec<Posting> = postings.collect();
    let mut booked = entry.postings.clone();
    let order = |a: &Posting, b: &Posting| (&a.account, &a.asset, a.amount).cmp(&(&b.account, &b.asset, b.amount));
    told.sort_by(order);
    booked.sort_by(order);
    let by_hand = |row: &&StockRecord| {
        row.order_id.is_none() && row.kind.is_some() && row.reason.is_some() && row.by.is_some() && row.quantity > 0
    };
    told == booked && rows.iter().all(by_hand)
}
