//! `reviews`: what buyers say of what they bought, and `reviewStats`: how many stars a product has.
//!
//! The stars of a popular product are written by no transaction. A review that begins or ceases to be shown is marked as due; the
//! product's reviews are then counted by an index and the result is written under a version, so that of two counts the later one
//! stays; the mark goes last. Whoever reads the stars of a product with a mark counts first, so nothing is lost by a process that
//! dies in between.

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::{OpenId, OrderId, ProductId, UserId};
use futures_util::TryStreamExt;
use mongodb::options::ReadConcern;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, crashpoint, date};

/// Where WeChat serves the avatars of its users.
const WECHAT_AVATARS: [&str; 2] = ["https://thirdwx.qlogo.cn/", "https://wx.qlogo.cn/"];
const REVIEWS: &str = "reviews";
const STATS: &str = "reviewStats";

/// How often a count is begun again when somebody else was faster.
const COUNTS: u32 = 20;

/// `reviews.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReviewStatus {
    /// Not shown until WeChat or staff have looked.
    #[serde(rename = "pending")]
    Pending,
    #[serde(rename = "published")]
    Published,
    #[serde(rename = "hidden")]
    Hidden,
    /// By the buyer, with all that was written.
    #[serde(rename = "removed")]
    Removed,
}

impl ReviewStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Published => "published",
            Self::Hidden => "hidden",
            Self::Removed => "removed",
        }
    }
}

/// `reviews.check`: what WeChat says of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    #[serde(rename = "unchecked")]
    Unchecked,
    #[serde(rename = "pass")]
    Pass,
    /// A person should look.
    #[serde(rename = "review")]
    Review,
    #[serde(rename = "risky")]
    Risky,
}

impl Check {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Pass => "pass",
            Self::Review => "review",
            Self::Risky => "risky",
        }
    }
}

/// The shop's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReviewReply {
    pub text: String,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    pub by: String,
}

/// What a buyer says of a line of an order.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// [`Review::key`]
    #[serde(rename = "_id")]
    pub id: String,
    pub order_id: OrderId,
    pub line_id: String,
    pub user_id: UserId,
    pub open_id: OpenId,
    pub product_id: ProductId,
    pub product_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_name: Option<String>,
    #[serde(deserialize_with = "domain::money::whole")]
    pub rating: i64,
    pub text: String,
    pub images: Vec<String>,
    pub anonymous: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nickname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    pub check: Check,
    pub status: ReviewStatus,
    /// The stars do not count it yet as its status says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stats_due: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReviewReply>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub moderated_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moderated_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

impl std::fmt::Debug for Review {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, status, check, .. } = self;
        f.debug_struct("Review").field("id", id).field("status", status).field("check", check).finish_non_exhaustive()
    }
}

impl Review {
    /// A line is reviewed once. Everybody sees the key, and it does not tell the order.
    pub fn key(order: &OrderId, line: &str) -> String {
        hex::encode(Sha256::digest(format!("review\n{order}\n{line}")).iter().take(16).copied().collect::<Vec<u8>>())
    }

    /// Whether pictures are shown with it that nobody has looked at. WeChat has looked at the avatars it serves itself.
    pub fn is_pictured(&self) -> bool {
        let own = |avatar: &String| WECHAT_AVATARS.iter().any(|host| avatar.starts_with(host));
        !self.images.is_empty() || (!self.anonymous && self.avatar.as_ref().is_some_and(|avatar| !own(avatar)))
    }

    /// Whether it is shown, and why not, once WeChat has said this. Nobody at WeChat looks at pictures before they are shown, so a
    /// member of staff does.
    pub fn after(check: Check, pictured: bool) -> ReviewStatus {
        match check {
            Check::Pass if !pictured => ReviewStatus::Published,
            Check::Unchecked | Check::Pass | Check::Review => ReviewStatus::Pending,
            Check::Risky => ReviewStatus::Hidden,
        }
    }
}

impl Row for Review {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

/// Published reviews of a product with one to five stars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stars {
    pub ratings: [i64; 5],
}

impl Stars {
    pub fn count(&self) -> i64 {
        self.ratings.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Tenths of a star, rounded half up; none without reviews.
    pub fn average_tenths(&self) -> Option<i64> {
        let sum =
            self.ratings.iter().zip(1i64..).fold(0i64, |sum, (n, stars)| sum.saturating_add(n.saturating_mul(stars)));
        let count = self.count();
        sum.saturating_mul(20).saturating_add(count).checked_div(count.saturating_mul(2))
    }
}

#[derive(Deserialize)]
struct Stats {
    #[serde(deserialize_with = "domain::money::whole")]
    version: i64,
    ratings: [i64; 5],
}

/// Which reviews to list.
#[derive(Clone, Debug, Default)]
pub struct ReviewFilter<'a> {
    pub product: Option<&'a ProductId>,
    pub user: Option<&'a UserId>,
    pub status: Option<ReviewStatus>,
    pub rating: Option<i64>,
}

/// What staff make of a review.
#[derive(Clone, Copy, Debug)]
pub struct Moderation<'a> {
    pub status: ReviewStatus,
    pub by: &'a str,
    pub reason: Option<&'a str>,
}

impl Store {
    pub async fn review(&self, id: &str) -> Result<Option<Review>, Error> {
        Ok(self.collection::<Review>(REVIEWS).await?.find_one(doc! { "_id": id }).await?)
    }

    /// Reviews, newest first; by product, user or state at least.
    pub async fn reviews(&self, filter: &ReviewFilter<'_>, request: &PageRequest) -> Result<Page<Review>, Error> {
        let mut wanted = Document::new();
        if let Some(product) = filter.product {
            wanted.insert("productId", product.as_str());
        }
        if let Some(user) = filter.user {
            wanted.insert("userId", user.as_str());
        }
        if let Some(status) = filter.status {
            wanted.insert("status", status.as_str());
        }
        if let Some(rating) = filter.rating {
            wanted.insert("rating", rating);
        }
        self.page(REVIEWS, wanted, request).await
    }

    /// The stars of a product, counted before if something is due.
    pub async fn stars(&self, product: &ProductId) -> Result<Stars, Error> {
        let due = doc! { "statsDue": true, "productId": product.as_str() };
        if self.collection::<Document>(REVIEWS).await?.find_one(due).await?.is_some() {
            return self.count_stars(product).await;
        }
        let stats = self.collection::<Stats>(STATS).await?.find_one(doc! { "_id": product.as_str() }).await?;
        Ok(stats.map(|stats| Stars { ratings: stats.ratings }).unwrap_or_default())
    }

    /// Counts the stars of a product and takes the marks of what is counted by that.
    pub async fn count_stars(&self, product: &ProductId) -> Result<Stars, Error> {
        let id = product.as_str();
        let reviews = self.collection::<Document>(REVIEWS).await?;
        let stats = self.collection::<Stats>(STATS).await?;
        for _ in 0..COUNTS {
            // First what is due, then the version, then the count: what becomes due later is counted by whoever made it so.
            let due = reviews
                .find(doc! { "statsDue": true, "productId": id })
                .projection(doc! { "status": 1i32, "moderatedAt": 1i32 });
            let due: Vec<Document> = due.await?.try_collect().await?;
            let version = stats.find_one(doc! { "_id": id }).read_concern(ReadConcern::linearizable());
            let version = version.max_time(self.transaction_deadline()).await?.map_or(0, |stats| stats.version);
            let mut ratings = [0i64; 5];
            for (count, rating) in ratings.iter_mut().zip(1i64..) {
                let published = doc! { "productId": id, "status": "published", "rating": rating };
                *count = i64::try_from(reviews.count_documents(published).await?).unwrap_or(i64::MAX);
            }
            let counted = doc! { "$set": { "ratings": ratings.to_vec(), "version": version.saturating_add(1) } };
            let guard = doc! { "_id": id, "version": version };
            let written = match version {
                0 => {
                    let first = doc! { "_id": id, "version": 1i64, "ratings": ratings.to_vec() };
                    match self.collection::<Document>(STATS).await?.insert_one(first).await.map_err(Error::from) {
                        Ok(_) => true,
                        Err(error) if error.is_duplicate_of(STATS) => false,
                        Err(error) => return Err(error),
                    }
                }
                _ => stats.update_one(guard, counted).await?.matched_count == 1,
            };
            if !written {
                continue;
            }
            crashpoint("review.counted").await;
            for review in due {
                let was = |field: &str| review.get(field).cloned();
                let unchanged = doc! {
                    "_id": was("_id"), "status": was("status"), "moderatedAt": was("moderatedAt"), "statsDue": true,
                };
                reviews.update_one(unchanged, doc! { "$unset": { "statsDue": "" } }).await?;
            }
            return Ok(Stars { ratings });
        }
        Err(domain::Code::Conflict.into())
    }

    /// Writes down what WeChat says of a review that was not checked; false if that is known, or staff have decided.
    pub async fn finish_check(&self, review: &Review, check: Check) -> Result<bool, Error> {
        let status = Review::after(check, review.is_pictured());
        let mut set = doc! { "check": check.as_str(), "status": status.as_str() };
        match status {
            ReviewStatus::Published => drop(set.insert("statsDue", true)),
            ReviewStatus::Hidden => drop(set.insert("reason", RISKY)),
            ReviewStatus::Pending | ReviewStatus::Removed => {}
        }
        let reviews = self.collection::<Document>(REVIEWS).await?;
        let waiting = doc! { "_id": &review.id, "check": "unchecked", "status": "pending" };
        if reviews.update_one(waiting, doc! { "$set": set }).await?.matched_count == 1 {
            return Ok(true);
        }
        // Staff were faster with their own judgement, or the buyer took it back: only what WeChat says is still missing.
        let decided = doc! { "_id": &review.id, "check": "unchecked" };
        reviews.update_one(decided, doc! { "$set": { "check": check.as_str() } }).await?;
        Ok(false)
    }
}

/// `reviews.reason` of what WeChat holds to be risky.
const RISKY: &str = "内容未通过微信安全检测";

impl Tx {
    pub async fn review(&mut self, id: &str) -> Result<Option<Review>, Error> {
        self.find_by_id(REVIEWS, id).await
    }

    pub async fn insert_review(&mut self, review: &Review) -> Result<(), Error> {
        self.insert(REVIEWS, review).await
    }

    /// The shop's answer in place of an earlier one; false if the buyer has taken the review back.
    pub async fn reply_to_review(&mut self, id: &str, reply: &ReviewReply) -> Result<bool, Error> {
        let there = doc! { "_id": id, "status": { "$ne": "removed" } };
        let reply = bson::serialize_to_document(reply)?;
        self.update(REVIEWS, there, doc! { "$set": { "reply": reply } }).await
    }

    /// Shows or hides a review; false if it is so already or was taken back.
    pub async fn moderate_review(
        &mut self,
        id: &str,
        moderation: &Moderation<'_>,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let status = moderation.status.as_str();
        let guard = doc! { "_id": id, "status": { "$nin": [status, "removed"] } };
        let mut set = doc! {
            "status": status, "statsDue": true, "moderatedBy": moderation.by, "moderatedAt": date::bson(now),
        };
        let change = match moderation.reason {
            Some(reason) => {
                set.insert("reason", reason);
                doc! { "$set": set }
            }
            None => doc! { "$set": set, "$unset": { "reason": "" } },
        };
        self.update(REVIEWS, guard, change).await
    }

    /// Takes a review back with all that its buyer wrote; false if that was done before.
    pub async fn remove_review(&mut self, id: &str, user: &UserId) -> Result<bool, Error> {
        self.update(
            REVIEWS,
            doc! { "_id": id, "userId": user.as_str(), "status": { "$ne": "removed" } },
            doc! {
                "$set": { "status": "removed", "statsDue": true, "text": "", "images": [] },
                "$unset": { "nickname": "", "avatar": "", "reply": "", "reason": "" },
            },
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_is_rounded_half_up_to_a_tenth() {
        let average = |ratings| Stars { ratings }.average_tenths();
        assert_eq!(average([0; 5]), None);
        assert_eq!(average([0, 0, 0, 0, 1]), Some(50));
        assert_eq!(average([1, 0, 0, 0, 2]), Some(37));
        assert_eq!(average([0, 0, 0, 3, 1]), Some(43), "4.25");
        assert_eq!(average([1, 0, 0, 0, 1]), Some(30));
    }

    #[test]
    fn only_checked_text_without_pictures_is_shown_at_once() {
        for (check, pictured, status) in [
            (Check::Pass, false, ReviewStatus::Published),
            (Check::Pass, true, ReviewStatus::Pending),
            (Check::Unchecked, false, ReviewStatus::Pending),
            (Check::Review, false, ReviewStatus::Pending),
            (Check::Risky, true, ReviewStatus::Hidden),
        ] {
            assert_eq!(Review::after(check, pictured), status);
        }
    }
}
