//! `lotteryTickets`, the sign-ups, and `lotteryLists`, the frozen list and the ranking of a round in chunks.

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use chrono::{DateTime, Utc};
use domain::draw::TicketId;
use domain::{OpenId, UserId};
use futures_util::TryStreamExt;
use mongodb::options::{Hint, ReadConcern};
use serde::{Deserialize, Serialize};

use crate::{Error, Store, Tx, date};

const TICKETS: &str = "lotteryTickets";
const LISTS: &str = "lotteryLists";

/// Tickets per chunk, but for the last of a list: 800 KB, far below the limit of a document.
pub const CHUNK: usize = 50_000;

/// Bytes of a ticket in a chunk.
const TICKET_BYTES: usize = 16;

/// A sign-up. `_id` is the ticket, which follows from round and user: one per user and round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    #[serde(rename = "_id")]
    pub id: String,
    pub round_id: String,
    pub activity_id: String,
    pub user_id: UserId,
    pub open_id: OpenId,
    /// The command that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_key: Option<String>,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
}

/// Which list a chunk is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Ascending by bytes.
    Tickets,
    /// In rank order.
    Ranking,
}

impl ListKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tickets => "tickets",
            Self::Ranking => "ranking",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Chunk {
    #[serde(rename = "_id")]
    id: String,
    round_id: String,
    run: String,
    kind: String,
    /// Packed tickets, 16 bytes each.
    ids: Binary,
}

/// Where chunks stand: `{round}:{run}:{kind}:{index}`, so that their `_id` order is the list's order.
fn chunk_prefix(round: &str, run: &str, kind: ListKind) -> String {
    format!("{round}:{run}:{}:", kind.as_str())
}

fn starting_with(prefix: &str) -> Document {
    // `;` is the character after `:`, with which every prefix ends.
    let end = format!("{};", prefix.trim_end_matches(':'));
    doc! { "_id": { "$gte": prefix, "$lt": end } }
}

pub(crate) fn unpack(ids: &[u8]) -> Vec<TicketId> {
    ids.as_chunks::<TICKET_BYTES>().0.iter().map(|bytes| TicketId::from(*bytes)).collect()
}

#[derive(Deserialize)]
struct IdOnly {
    #[serde(rename = "_id")]
    id: String,
}

impl Store {
    /// Signs up. `Duplicate` of `lotteryTickets` when the user has a ticket of this round, or the command made one before.
    pub async fn insert_ticket(&self, ticket: &Ticket) -> Result<(), Error> {
        self.collection::<Ticket>(TICKETS).await?.insert_one(ticket).await?;
        Ok(())
    }

    pub async fn ticket(&self, id: &str) -> Result<Option<Ticket>, Error> {
        Ok(self.collection::<Ticket>(TICKETS).await?.find_one(doc! { "_id": id }).await?)
    }

    /// The ticket that a command made, also where it was inserted a moment ago and the majority does not have it yet: a repeat
    /// that met it as a duplicate must find it.
    pub async fn ticket_by_request(&self, key: &str) -> Result<Option<Ticket>, Error> {
        let tickets = self.collection::<Ticket>(TICKETS).await?;
        let find = tickets.find_one(doc! { "requestKey": key }).read_concern(ReadConcern::linearizable());
        Ok(find.max_time(self.transaction_deadline()).await?)
    }

    /// Takes back a sign-up that came after the list was frozen.
    pub async fn delete_ticket(&self, id: &str) -> Result<(), Error> {
        self.collection::<Ticket>(TICKETS).await?.delete_one(doc! { "_id": id }).await?;
        Ok(())
    }

    pub async fn tickets_by_id(&self, ids: &[TicketId]) -> Result<Vec<Ticket>, Error> {
        let ids: Vec<String> = ids.iter().map(TicketId::to_string).collect();
        let found = self.collection::<Ticket>(TICKETS).await?.find(doc! { "_id": { "$in": ids } }).await?;
        Ok(found.try_collect().await?)
    }

    pub async fn count_tickets(&self, round: &str) -> Result<i64, Error> {
        let count = self.collection::<Ticket>(TICKETS).await?.count_documents(doc! { "roundId": round }).await?;
        i64::try_from(count).map_err(|_| Error::Invariant("too many tickets".to_owned()))
    }

    /// The next tickets of a round in ascending order, from the index alone.
    pub async fn ticket_ids(&self, round: &str, after: Option<TicketId>, limit: i64) -> Result<Vec<TicketId>, Error> {
        let mut filter = doc! { "roundId": round };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after.to_string() });
        }
        let tickets = self.collection::<IdOnly>(TICKETS).await?;
        let find = tickets.find(filter).projection(doc! { "_id": 1 }).sort(doc! { "_id": 1 }).limit(limit);
        let mut cursor = find.hint(Hint::Name("roundId".to_owned())).batch_size(10_000).await?;
        let mut ids = Vec::new();
        while let Some(row) = cursor.try_next().await? {
            let id = TicketId::parse(&row.id).ok_or_else(|| Error::Invariant(format!("ticket {}", row.id)))?;
            ids.push(id);
        }
        Ok(ids)
    }

    /// Writes one chunk of a list that `run` makes.
    pub async fn put_chunk(
        &self,
        round: &str,
        run: &str,
        kind: ListKind,
        index: usize,
        ids: &[TicketId],
    ) -> Result<(), Error> {
        let bytes = ids.iter().flat_map(|id| <[u8; TICKET_BYTES]>::from(*id)).collect();
        let chunk = Chunk {
            id: format!("{}{index:06}", chunk_prefix(round, run, kind)),
            round_id: round.to_owned(),
            run: run.to_owned(),
            kind: kind.as_str().to_owned(),
            ids: Binary { subtype: BinarySubtype::Generic, bytes },
        };
        self.collection::<Chunk>(LISTS).await?.insert_one(chunk).await?;
        Ok(())
    }

    /// A whole list of a run.
    pub async fn list(&self, round: &str, run: &str, kind: ListKind) -> Result<Vec<TicketId>, Error> {
        let filter = starting_with(&chunk_prefix(round, run, kind));
        let mut cursor = self.collection::<Chunk>(LISTS).await?.find(filter).sort(doc! { "_id": 1 }).await?;
        let mut ids = Vec::new();
        while let Some(chunk) = cursor.try_next().await? {
            ids.extend(unpack(&chunk.ids.bytes));
        }
        Ok(ids)
    }

    /// The places `from` to below `from + count` of a list of a run, read from the chunks that hold them.
    pub async fn list_part(
        &self,
        round: &str,
        run: &str,
        kind: ListKind,
        from: usize,
        count: usize,
    ) -> Result<Vec<TicketId>, Error> {
        let prefix = chunk_prefix(round, run, kind);
        let chunk = |place: usize| format!("{prefix}{:06}", place.div_euclid(CHUNK));
        let filter = doc! { "_id": { "$gte": chunk(from), "$lte": chunk(from.saturating_add(count)) } };
        let chunks = self.collection::<Chunk>(LISTS).await?.find(filter).sort(doc! { "_id": 1 }).await?;
        let chunks: Vec<Chunk> = chunks.try_collect().await?;
        let ids = chunks.iter().flat_map(|chunk| unpack(&chunk.ids.bytes));
        Ok(ids.skip(from.rem_euclid(CHUNK)).take(count).collect())
    }

    /// Removes what a run wrote that was not the first to finish.
    pub async fn delete_run(&self, round: &str, run: &str) -> Result<(), Error> {
        let filter = starting_with(&format!("{round}:{run}:"));
        self.collection::<Chunk>(LISTS).await?.delete_many(filter).await?;
        Ok(())
    }

    /// Removes what runs left behind that were killed; `keep` are those that finished first.
    pub async fn delete_other_runs(&self, round: &str, keep: &[&str]) -> Result<(), Error> {
        let mut filter = starting_with(&format!("{round}:"));
        filter.insert("run", doc! { "$nin": keep });
        self.collection::<Chunk>(LISTS).await?.delete_many(filter).await?;
        Ok(())
    }
}

impl Tx {
    pub async fn tickets_by_id(&mut self, ids: &[TicketId]) -> Result<Vec<Ticket>, Error> {
        let ids: Vec<String> = ids.iter().map(TicketId::to_string).collect();
        self.find(TICKETS, doc! { "_id": { "$in": ids } }).await
    }
}
