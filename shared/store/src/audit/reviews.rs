//! Reviews, and the stars that are counted of them.

use std::collections::{BTreeSet, HashMap};

use bson::{Bson, Document, doc};
use domain::{OrderStatus, ProductId};
use futures_util::TryStreamExt;
use serde::Deserialize;

use super::{Audit, Batch};
use crate::Error;
use crate::book;
use crate::orders::Order;
use crate::outbox::{OutboxItem, OutboxStatus};
use crate::reviews::{Check, Review, ReviewStatus, Stars};

const NAME: &str = "review";

/// A row of `reviewStats`.
#[derive(Deserialize)]
struct Stats {
    #[serde(rename = "_id")]
    product: String,
    #[serde(flatten)]
    stars: Stars,
}

impl Audit<'_> {
    pub(super) async fn reviews(&mut self) -> Result<(), Error> {
        let mut products: BTreeSet<ProductId> = BTreeSet::new();
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Review> = self.batch("reviews", NAME, after).await?;
            let ids = batch.rows.iter().map(|review| review.order_id.as_str().to_owned()).collect();
            let orders: Vec<Order> = self.matching("orders", "_id", ids).await?;
            let unchecked = batch.rows.iter().filter(|review| review.check == Check::Unchecked);
            let ids = unchecked.map(|review| format!("reviewCheck:{}", review.id)).collect();
            let checks: Vec<OutboxItem> = self.matching("outbox", "_id", ids).await?;
            for review in &batch.rows {
                let order = orders.iter().find(|order| order.id == review.order_id);
                let check = checks.iter().find(|item| item.id == format!("reviewCheck:{}", review.id));
                for message in review_off(review, order, check) {
                    self.violation(NAME, message, format!("reviews/{}", review.id));
                }
                products.insert(review.product_id.clone());
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.stars(products).await
    }

    /// What is counted against what is there. A product with a mark is counted by whoever reads it next.
    async fn stars(&mut self, products: BTreeSet<ProductId>) -> Result<(), Error> {
        let mut stats: HashMap<String, Stars> = HashMap::new();
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Stats> = self.batch("reviewStats", NAME, after).await?;
            stats.extend(batch.rows.into_iter().map(|row| (row.product, row.stars)));
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut names: BTreeSet<String> = products.into_iter().map(String::from).collect();
        names.extend(stats.keys().cloned());
        let collection = self.collection("reviews").await?;
        for product in names {
            let pipeline = vec![
                doc! { "$match": { "productId": &product } },
                doc! { "$group": {
                    "_id": { "rating": "$rating", "published": { "$eq": ["$status", "published"] } },
                    "count": { "$sum": 1i64 },
                    "due": { "$max": { "$ifNull": ["$statsDue", false] } },
                } },
            ];
            let mut cursor = collection.aggregate(pipeline).session(&mut self.session).await?;
            let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
            if rows.iter().any(|row| row.get_bool("due").unwrap_or(false)) {
                continue;
            }
            let mut found = Stars::default();
            for row in &rows {
                let Ok(key) = row.get_document("_id") else { continue };
                if !key.get_bool("published").unwrap_or(false) {
                    continue;
                }
                let at = usize::try_from(book::number(key, "rating").saturating_sub(1)).unwrap_or(usize::MAX);
                if let Some(count) = found.ratings.get_mut(at) {
                    *count = book::number(row, "count");
                }
            }
            if stats.get(&product).cloned().unwrap_or_default() != found {
                self.violation(
                    NAME,
                    "the stars are not those of the published reviews",
                    format!("reviewStats/{product}"),
                );
            }
        }
        Ok(())
    }
}

fn review_off(review: &Review, order: Option<&Order>, check: Option<&OutboxItem>) -> Vec<&'static str> {
    let mut off = Vec::new();
    if review.id != Review::key(&review.order_id, &review.line_id) {
        off.push("the review is of another line than its key says");
    }
    let order = order.filter(|order| order.user_id == review.user_id && order.status == OrderStatus::Completed);
    let line = order.and_then(|order| order.items.iter().find(|line| line.line_id == review.line_id));
    if line.is_none_or(|line| line.product_id != review.product_id) {
        off.push("the review is of nothing that its author has received");
    }
    let by_staff = review.moderated_by.is_some();
    if by_staff != review.moderated_at.is_some() {
        off.push("who moderates does so at some time");
    }
    let fits = match review.status {
        _ if by_staff => true,
        ReviewStatus::Removed => true,
        status => status == Review::after(review.check, review.is_pictured()),
    };
    if !fits {
        off.push("the review is shown or not, other than what was found says");
    }
    if (review.status == ReviewStatus::Hidden) != review.reason.is_some() {
        off.push("a review has a reason exactly while it is hidden");
    }
    let written = !review.text.is_empty() || !review.images.is_empty();
    let named = review.nickname.is_some() || review.avatar.is_some() || review.reply.is_some();
    if review.status == ReviewStatus::Removed && (written || named) {
        off.push("something is left of a review that was taken back");
    }
    let waits = check.is_some_and(|item| item.status != OutboxStatus::Delivered);
    if review.check == Check::Unchecked && !waits {
        off.push("nobody will check what was written");
    }
    off
}
