//! Lists newest first, paged by a cursor that names the last row seen.

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use domain::Refusal;
use futures_util::TryStreamExt;
use serde::de::DeserializeOwned;

use crate::{Error, Store, date};

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Pass as `after` for the next page; none at the end.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The same page with each row turned into something else.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { data: self.data.into_iter().map(f).collect(), next_cursor: self.next_cursor }
    }
}

/// Which page: `limit` rows after `after`.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    limit: Option<i64>,
    after: Option<(DateTime<Utc>, String)>,
}

impl PageRequest {
    /// Checks what a caller sent: `limit` 1–100 (default 20), `after` a cursor of ours.
    pub fn parse(limit: Option<i64>, after: Option<&str>) -> Result<Self, Refusal> {
        if limit.is_some_and(|n| !(1..=100).contains(&n)) {
            return Err(Refusal::invalid("limit", "limit 应在 1 到 100 之间"));
        }
        let bad = || Refusal::invalid("after", "after 不是有效的游标");
        let after = match after {
            None | Some("") => None,
            Some(text) => {
                let decoded = hex::decode(text).ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(bad)?;
                let (millis, id) = decoded.split_once(' ').ok_or_else(bad)?;
                let at = millis.parse().ok().and_then(DateTime::from_timestamp_millis).ok_or_else(bad)?;
                Some((at, id.to_owned()))
            }
        };
        Ok(Self { limit, after })
    }
}

/// What a row is sorted by: its creation time, then its id.
pub(crate) trait Row {
    fn position(&self) -> (DateTime<Utc>, &str);
}

/// A row as it is stored.
impl Row for Document {
    fn position(&self) -> (DateTime<Utc>, &str) {
        let at = self.get_datetime("createdAt").map(|at| at.to_chrono()).unwrap_or_default();
        (at, self.get_str("_id").unwrap_or_default())
    }
}

impl Store {
    /// Rows that match `filter`, newest first. The collection needs an index on the filter's fields, then `createdAt`, then `_id`.
    pub(crate) async fn page<T: Row + DeserializeOwned + Send + Sync + Unpin>(
        &self,
        collection: &str,
        filter: Document,
        request: &PageRequest,
    ) -> Result<Page<T>, Error> {
        self.page_without(collection, None, filter, request).await
    }

    /// The same, but for fields that no row needs; `without` is their projection.
    pub(crate) async fn page_without<T: Row + DeserializeOwned + Send + Sync + Unpin>(
        &self,
        collection: &str,
        without: Option<Document>,
        mut filter: Document,
        request: &PageRequest,
    ) -> Result<Page<T>, Error> {
        let limit = request.limit.unwrap_or(20);
        if let Some((at, id)) = &request.after {
            let at = date::bson(*at);
            filter.insert(
                "$or",
                Bson::Array(vec![
                    Bson::Document(doc! { "createdAt": { "$lt": at.clone() } }),
                    Bson::Document(doc! { "createdAt": at, "_id": { "$lt": id } }),
                ]),
            );
        }
        let rows = self.collection::<T>(collection).await?;
        let mut find = rows.find(filter).sort(doc! { "createdAt": -1, "_id": -1 }).limit(limit + 1);
        if let Some(without) = without {
            find = find.projection(without);
        }
        let mut data: Vec<T> = find.await?.try_collect().await?;
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = data.len() > wanted;
        data.truncate(wanted);
        let next_cursor = data.last().filter(|_| more).map(|row| {
            let (at, id) = row.position();
            hex::encode(format!("{} {id}", at.timestamp_millis()))
        });
        Ok(Page { data, next_cursor })
    }
}
