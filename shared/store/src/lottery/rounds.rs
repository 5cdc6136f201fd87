//! `lotteryRounds`: one window of one day of an activity.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use domain::draw::{self, Rules};
use domain::{ProductId, SkuId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::Activity;
use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

const ROUNDS: &str = "lotteryRounds";

/// `lotteryRounds.status`: how far the draw is. It only ever moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoundStatus {
    /// Published; takes sign-ups in its window.
    #[serde(rename = "open")]
    Open,
    /// Takes no sign-ups any more; the list of tickets is being made.
    #[serde(rename = "frozen")]
    Frozen,
    /// The list of tickets stands.
    #[serde(rename = "listed")]
    Listed,
    /// The ranking stands and the seed is revealed; rights and messages go out.
    #[serde(rename = "drawn")]
    Drawn,
    /// All winners have their rights and everybody was told.
    #[serde(rename = "granted")]
    Granted,
    /// Nothing is left to do.
    #[serde(rename = "settled")]
    Settled,
    /// The beacon did not appear in time: nobody wins.
    #[serde(rename = "void")]
    Void,
}

impl RoundStatus {
    /// Whether the ranking stands.
    pub fn is_drawn(self) -> bool {
        matches!(self, Self::Drawn | Self::Granted | Self::Settled)
    }
}

/// A round: what was published about it before its window, and how its draw went.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Round {
    #[serde(rename = "_id")]
    pub id: String,
    pub activity_id: String,
    pub activity_name: String,
    pub product_id: ProductId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<SkuId>,
    pub product_name: String,
    /// As published; never changed.
    pub rules: Rules,
    pub rules_hash: String,
    pub commit: String,
    /// Seed and ticket key, sealed.
    pub secrets: String,
    #[serde(with = "date")]
    pub opens_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub closes_at: DateTime<Utc>,
    /// When it was published.
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    pub status: RoundStatus,
    /// When there is something to do next; none when nothing is left.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub work_at: Option<DateTime<Utc>>,
    /// The public figure that the operator entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_value: Option<String>,
    /// Tickets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tickets_hash: Option<String>,
    /// Whose chunks of `lotteryLists` are the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_run: Option<String>,
    /// Winners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<i64>,
    /// In clear once it is drawn or void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// Lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon_signature: Option<String>,
    /// Whose chunks of `lotteryLists` are the ranking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_run: Option<String>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub drawn_at: Option<DateTime<Utc>>,
    /// Ranks below it have their rights.
    #[serde(default)]
    pub next_rank: i64,
    /// The first rank that the waiting list has not been served to.
    #[serde(default)]
    pub next_waiting: i64,
    /// Ranks from `k` to below it were told that they did not win; places in the list where the round is void.
    #[serde(default)]
    pub told: i64,
}

impl Round {
    /// Until when unused rights pass down the waiting list.
    pub fn pass_until(&self) -> Option<DateTime<Utc>> {
        instant(self.rules.pass_until.as_deref())
    }

    /// Until when the beacon must be there.
    pub fn deadline(&self) -> Option<DateTime<Utc>> {
        instant(self.rules.beacon.deadline.as_deref())
    }

    /// Pieces per right.
    pub fn quantity(&self) -> i64 {
        self.rules.quantity.and_then(|n| i64::try_from(n).ok()).unwrap_or(1)
    }

    pub fn tickets(&self) -> i64 {
        self.n.unwrap_or(0)
    }

    pub fn winners(&self) -> i64 {
        self.k.unwrap_or(0)
    }

    /// How far it is, as everybody may know.
    pub fn public_status(&self, now: DateTime<Utc>) -> draw::Status {
        match self.status {
            RoundStatus::Void => draw::Status::Void,
            status if status.is_drawn() => draw::Status::Drawn,
            _ if now < self.opens_at => draw::Status::Announced,
            RoundStatus::Open if now < self.closes_at => draw::Status::Open,
            _ => draw::Status::Closed,
        }
    }
}

fn instant(text: Option<&str>) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text?).ok().map(|at| at.to_utc())
}

impl Row for Round {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

#[derive(Deserialize)]
struct StatusOnly {
    #[serde(rename = "_id")]
    id: String,
    status: RoundStatus,
}

#[derive(Deserialize)]
struct IdOnly {
    #[serde(rename = "_id")]
    id: String,
}

/// What a draw came to.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub k: i64,
    pub seed: String,
    pub beacon: String,
    pub beacon_signature: Option<String>,
    pub rank_run: String,
}

/// Sums over the rounds of an activity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTotals {
    pub rounds: i64,
    pub entries: i64,
    pub winners: i64,
    /// Tickets of drawn rounds that neither won nor moved up.
    pub waiting: i64,
}

impl Store {
    pub async fn round(&self, id: &str) -> Result<Option<Round>, Error> {
        Ok(self.collection::<Round>(ROUNDS).await?.find_one(doc! { "_id": id }).await?)
    }

    /// Which of these rounds are there, over or not.
    pub async fn published(&self, ids: &[&str]) -> Result<Vec<String>, Error> {
        let rounds = self.collection::<IdOnly>(ROUNDS).await?;
        let find = rounds.find(doc! { "_id": { "$in": ids } }).projection(doc! { "_id": 1 });
        let found: Vec<IdOnly> = find.await?.try_collect().await?;
        Ok(found.into_iter().map(|f| f.id).collect())
    }

    /// Publishes those of `rounds` that are not there and meet no published round, as long as the activity is what they were made
    /// from: one that was changed or deleted meanwhile publishes nothing by its old rules. Writing the activity makes publishers
    /// and changes of one activity take turns.
    pub async fn publish_rounds(&self, activity: &Activity, rounds: &[Round], now: DateTime<Utc>) -> Result<(), Error> {
        self.transaction(|tx, _| {
            Box::pin(async move {
                let guard =
                    doc! { "_id": &activity.id, "status": "active", "updatedAt": date::bson(activity.updated_at) };
                let change = doc! { "$set": { "publishedAt": date::bson(now) } };
                if !tx.update("lotteryActivities", guard, change).await? {
                    return Ok(());
                }
                let ids: Vec<&str> = rounds.iter().map(|r| r.id.as_str()).collect();
                let coming = doc! { "activityId": &activity.id, "closesAt": { "$gt": date::bson(now) } };
                let mut known: Vec<Round> = tx.find(ROUNDS, doc! { "_id": { "$in": ids } }).await?;
                known.extend(tx.find::<Round>(ROUNDS, coming).await?);
                let stands_alone = |r: &&Round| {
                    known.iter().all(|k| k.id != r.id && (k.closes_at <= r.opens_at || r.closes_at <= k.opens_at))
                };
                let fresh: Vec<Round> = rounds.iter().filter(stands_alone).cloned().collect();
                tx.insert_many(ROUNDS, &fresh).await
            })
        })
        .await
    }

    /// Published rounds of these activities that are not over, the earliest first.
    pub async fn coming_rounds(&self, activities: &[&str], now: DateTime<Utc>) -> Result<Vec<Round>, Error> {
        let filter = doc! { "activityId": { "$in": activities }, "closesAt": { "$gt": date::bson(now) } };
        let mut rounds: Vec<Round> = self.collection::<Round>(ROUNDS).await?.find(filter).await?.try_collect().await?;
        rounds.sort_by(|a, b| (a.closes_at, &a.id).cmp(&(b.closes_at, &b.id)));
        Ok(rounds)
    }

    /// Only the status, which is all of a published round that changes before its draw.
    pub async fn round_statuses(&self, ids: &[String]) -> Result<BTreeMap<String, RoundStatus>, Error> {
        let rounds = self.collection::<StatusOnly>(ROUNDS).await?;
        let found = rounds.find(doc! { "_id": { "$in": ids } }).projection(doc! { "status": 1 }).await?;
        found.map_ok(|f| (f.id, f.status)).map_err(Error::from).try_collect().await
    }

    /// Rounds by their publication, the newest first.
    pub async fn rounds(&self, activity: Option<&str>, page: &PageRequest) -> Result<Page<Round>, Error> {
        let mut filter = doc! { "createdAt": { "$gt": date::bson(DateTime::UNIX_EPOCH) } };
        if let Some(id) = activity {
            filter.insert("activityId", id);
        }
        self.page(ROUNDS, filter, page).await
    }

    /// Rounds that have something to do, the longest waiting first.
    pub async fn due_rounds(&self, now: DateTime<Utc>, limit: i64) -> Result<Vec<String>, Error> {
        let filter = doc! { "workAt": { "$lte": date::bson(now) } };
        let rounds = self.collection::<IdOnly>(ROUNDS).await?;
        let find = rounds.find(filter).projection(doc! { "_id": 1 }).sort(doc! { "workAt": 1 }).limit(limit);
        let found: Vec<IdOnly> = find.await?.try_collect().await?;
        Ok(found.into_iter().map(|f| f.id).collect())
    }

    /// One guarded change of one round; false when the guard did not hold.
    async fn change_round(&self, guard: Document, change: Document) -> Result<bool, Error> {
        let done = self.collection::<Document>(ROUNDS).await?.update_one(guard, change).await?;
        Ok(done.matched_count == 1)
    }

    /// Ends the sign-up, if its time has come.
    pub async fn freeze_round(&self, id: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        self.change_round(
            doc! { "_id": id, "status": "open", "closesAt": { "$lte": date::bson(now) } },
            doc! { "$set": { "status": "frozen", "frozenAt": date::bson(now) } },
        )
        .await
    }

    /// Makes `run`'s chunks the list of tickets, if no other run was first.
    pub async fn round_listed(&self, id: &str, run: &str, n: i64, tickets_hash: &str) -> Result<bool, Error> {
        self.change_round(
            doc! { "_id": id, "status": "frozen" },
            doc! { "$set": { "status": "listed", "listRun": run, "n": n, "ticketsHash": tickets_hash } },
        )
        .await
    }

    /// Records the draw and reveals the seed, if no other run was first.
    pub async fn round_drawn(&self, id: &str, drawn: &Drawn, now: DateTime<Utc>) -> Result<bool, Error> {
        let mut set = doc! {
            "status": "drawn", "k": drawn.k, "seed": &drawn.seed, "beacon": &drawn.beacon, "rankRun": &drawn.rank_run,
            "drawnAt": date::bson(now), "nextRank": 0i64, "nextWaiting": drawn.k, "told": drawn.k, "workAt": date::bson(now),
        };
        if let Some(signature) = &drawn.beacon_signature {
            set.insert("beaconSignature", signature);
        }
        self.change_round(doc! { "_id": id, "status": "listed" }, doc! { "$set": set }).await
    }

    /// Ends a round whose beacon did not appear, and reveals the seed that was never used. One that was entered meanwhile counts.
    pub async fn round_void(&self, id: &str, seed: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let set = doc! { "status": "void", "seed": seed, "voidedAt": date::bson(now), "told": 0i64 };
        let guard = doc! { "_id": id, "status": "listed", "publicValue": { "$exists": false } };
        self.change_round(guard, doc! { "$set": set }).await
    }

    /// Enters the public figure, once, after the freeze: while tickets can still be added nobody may know it.
    pub async fn enter_public_value(&self, id: &str, value: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        self.change_round(
            doc! {
                "_id": id, "status": { "$in": ["frozen", "listed"] }, "rules.beacon.source": "public",
                "publicValue": { "$exists": false },
            },
            doc! { "$set": { "publicValue": value, "publicValueAt": date::bson(now), "workAt": date::bson(now) } },
        )
        .await
    }

    /// Comes back to a round later, if nobody took it further or called it back since it was read.
    pub async fn postpone_round(&self, round: &Round, at: DateTime<Utc>) -> Result<bool, Error> {
        self.change_round(
            doc! {
                "_id": &round.id, "status": bson::serialize_to_bson(&round.status)?,
                "publicValue": round.public_value.as_deref(),
            },
            doc! { "$set": { "workAt": date::bson(at) } },
        )
        .await
    }

    /// All rights are granted and everybody was told.
    pub async fn round_granted(&self, round: &Round, next: DateTime<Utc>) -> Result<bool, Error> {
        self.change_round(
            doc! { "_id": &round.id, "status": "drawn", "nextRank": round.winners(), "told": round.tickets() },
            doc! { "$set": { "status": "granted", "workAt": date::bson(next) } },
        )
        .await
    }

    /// Nothing is left to do; a void round keeps its status.
    pub async fn round_settled(&self, round: &Round) -> Result<bool, Error> {
        let (guard, change) = if round.status == RoundStatus::Void {
            (doc! { "_id": &round.id, "status": "void" }, doc! { "$unset": { "workAt": "" } })
        } else {
            let change = doc! { "$set": { "status": "settled" }, "$unset": { "workAt": "" } };
            (doc! { "_id": &round.id, "status": "granted" }, change)
        };
        self.change_round(guard, change).await
    }

    /// Sums over the listed rounds of an activity, and the ids of those whose tickets nobody has counted yet.
    pub async fn round_totals(&self, activity: &str) -> Result<(RoundTotals, Vec<String>), Error> {
        let waiting =
            doc! { "$cond": [ { "$gt": ["$rankRun", Bson::Null] }, { "$subtract": ["$n", "$nextWaiting"] }, 0i64 ] };
        let pipeline = vec![
            doc! { "$match": { "activityId": activity } },
            doc! { "$group": {
                "_id": Bson::Null, "rounds": { "$sum": 1i64 }, "entries": { "$sum": "$n" }, "winners": { "$sum": "$k" },
                "waiting": { "$sum": waiting },
            } },
        ];
        let rounds = self.collection::<Document>(ROUNDS).await?;
        let found: Vec<Document> = rounds.aggregate(pipeline).await?.try_collect().await?;
        let sum = |field: &str| found.first().map_or(0, |d| crate::book::number(d, field));
        let totals = RoundTotals {
            rounds: sum("rounds"),
            entries: sum("entries"),
            winners: sum("winners"),
            waiting: sum("waiting"),
        };
        let open: Vec<IdOnly> = self
            .collection::<IdOnly>(ROUNDS)
            .await?
            .find(doc! { "activityId": activity, "status": { "$in": ["open", "frozen"] } })
            .projection(doc! { "_id": 1 })
            .await?
            .try_collect()
            .await?;
        Ok((totals, open.into_iter().map(|f| f.id).collect()))
    }

    /// How many rights of an activity there are, by status.
    pub async fn right_totals(&self, activity: &str) -> Result<BTreeMap<String, i64>, Error> {
        let pipeline = vec![
            doc! { "$match": { "activityId": activity } },
            doc! { "$group": { "_id": "$status", "n": { "$sum": 1i64 } } },
        ];
        let rights = self.collection::<Document>("lotteryQualifications").await?;
        let found: Vec<Document> = rights.aggregate(pipeline).await?.try_collect().await?;
        let pair = |d: &Document| (d.get_str("_id").unwrap_or_default().to_owned(), crate::book::number(d, "n"));
        Ok(found.iter().map(pair).collect())
    }
}

impl Tx {
    pub async fn round(&mut self, id: &str) -> Result<Option<Round>, Error> {
        self.find_by_id(ROUNDS, id).await
    }

    /// Moves one of a round's cursors (`nextRank`, `nextWaiting`, `told`) on; false when somebody else moved it.
    pub async fn move_cursor(&mut self, id: &str, cursor: &str, from: i64, to: i64) -> Result<bool, Error> {
        self.update(ROUNDS, doc! { "_id": id, cursor: from }, doc! { "$set": { cursor: to } }).await
    }
}
