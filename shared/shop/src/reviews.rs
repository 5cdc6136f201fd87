//! Checking what buyers write before others read it: with WeChat when it is written, and later when WeChat is away.

use domain::Failure;
use serde::{Deserialize, Serialize};
use store::Store;
use store::reviews::{Check, Review};
use wechat::content::{Scene, Suggestion, Written};
use wechat::open;

use crate::delivery::{Outcome, Why};

/// `outbox.kind` of a check that has to be made up for.
pub const KIND: &str = "reviewCheck";

/// The payload of such a check. What is checked is read when it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReview {
    pub review_id: String,
}

/// `outbox._id` of the check of a review.
pub fn item_id(review_id: &str) -> String {
    format!("{KIND}:{review_id}")
}

/// What WeChat says of a text and the name that is shown with it. Where it does not take the question (the author has not opened
/// the mini-program for two hours, 61010), a person has to look; [`Check::Unchecked`] when it could not be asked.
pub async fn check(client: &open::Client, open_id: &str, text: &str, nickname: Option<&str>) -> Check {
    let content = if text.is_empty() { nickname.unwrap_or_default() } else { text };
    if content.is_empty() {
        return Check::Pass;
    }
    let written = Written { openid: open_id, scene: Scene::Comment, content, nickname };
    match client.check_text(&written).await {
        Ok(Suggestion::Pass) => Check::Pass,
        Ok(Suggestion::Review) => Check::Review,
        Ok(Suggestion::Risky) => Check::Risky,
        Err(error @ open::Error::Rejected { .. }) => {
            tracing::warn!(errcode = error.errcode(), rid = error.rid(), "WeChat does not check a review");
            Check::Review
        }
        Err(error) => {
            tracing::warn!(errcode = error.errcode(), %error, "a review is not checked yet");
            Check::Unchecked
        }
    }
}

/// Makes up for a check. A review that was checked or taken back meanwhile needs none.
pub async fn deliver(store: &Store, client: &open::Client, wanted: &CheckReview) -> Result<Outcome, Failure> {
    let Some(review) = store.review(&wanted.review_id).await? else {
        return Ok(Outcome::Dead(Why::new("NOT_FOUND", "there is no such review")));
    };
    if review.check != Check::Unchecked {
        count(store, &review).await;
        return Ok(Outcome::Delivered);
    }
    match check(client, review.open_id.as_str(), &review.text, review.nickname.as_deref()).await {
        Check::Unchecked => Ok(Outcome::later(Why::new("CHECK_FAILED", "WeChat did not check the text"))),
        known => {
            store.finish_check(&review, known).await?;
            count(store, &review).await;
            Ok(Outcome::Delivered)
        }
    }
}

/// Counts the stars of the review's product. If that fails, whoever reads them next does.
pub async fn count(store: &Store, review: &Review) {
    if let Err(error) = store.count_stars(&review.product_id).await {
        tracing::warn!(error = error.to_string(), "the stars of a product are counted later");
    }
}
