//! `coupons`, what the shop issues, and `userCoupons`, what users hold.
//!
//! *Handing out* without a hot row inside a transaction, in single guarded updates: the user's coupon is inserted as `claiming`
//! (its `seq` is unique per user, which is the limit per user); the definition counts it and keeps a marker of it (guarded by the
//! total); the coupon becomes `unused`; the marker is pulled. Where that broke off, whoever settles it looks at the marker: it was
//! counted and is opened, or it was not and is removed. A claimer that wakes up after that finds nothing to open and takes its
//! own count back, guarded by its marker. Ids are random and never used again, so a marker is of one coupon only.
//!
//! *Using*: an order locks it, its payment uses it, its closing releases it, its whole refund may return it. Each is one guarded
//! update in the transaction of its cause.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::{Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::coupon::{Definition, Held, Reason, Terms, Unfit, Validity, Window};
use domain::machine::coupon::State;
use domain::{Code, CouponId, OpenId, OrderId, Refusal, UserCouponId, UserId};
use futures_util::TryStreamExt;
use mongodb::options::ReadConcern;
use serde::{Deserialize, Serialize};

use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, crashpoint, date};

const COUPONS: &str = "coupons";
const HELD: &str = "userCoupons";

/// What has been under way for so long was left behind.
const LEFT_BEHIND: TimeDelta = TimeDelta::seconds(60);

/// A coupon that was counted and may not be open yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimMarker {
    pub id: UserCouponId,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
}

/// What the shop issues.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Coupon {
    #[serde(rename = "_id")]
    pub id: CouponId,
    pub name: String,
    pub terms: Terms,
    /// Days after the claim; none if the window is the same for everybody.
    #[serde(default, deserialize_with = "domain::money::whole_option", skip_serializing_if = "Option::is_none")]
    pub valid_days: Option<i64>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<DateTime<Utc>>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<DateTime<Utc>>,
    #[serde(with = "date")]
    pub claim_from: DateTime<Utc>,
    #[serde(with = "date")]
    pub claim_until: DateTime<Utc>,
    #[serde(default, deserialize_with = "domain::money::whole_option", skip_serializing_if = "Option::is_none")]
    pub per_user: Option<i64>,
    #[serde(default, deserialize_with = "domain::money::whole_option", skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    #[serde(default)]
    pub paused: bool,
    #[serde(deserialize_with = "domain::money::whole")]
    pub claimed: i64,
    #[serde(default)]
    pub markers: Vec<ClaimMarker>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<DateTime<Utc>>,
}

impl Coupon {
    /// A definition that nobody has claimed yet.
    pub fn new(definition: Definition, now: DateTime<Utc>) -> Self {
        let (valid_days, window) = match definition.validity {
            Validity::Days { days } => (Some(days), None),
            Validity::Fixed { window } => (None, Some(window)),
        };
        Self {
            id: definition.terms.coupon_id.clone(),
            name: definition.name,
            terms: definition.terms,
            valid_days,
            valid_from: window.map(|w| w.from),
            valid_until: window.map(|w| w.until),
            claim_from: definition.claim.from,
            claim_until: definition.claim.until,
            per_user: definition.per_user,
            total: definition.total,
            paused: definition.paused,
            claimed: 0,
            markers: Vec::new(),
            created_at: now,
            updated_at: None,
        }
    }

    /// As the rules know it.
    pub fn definition(&self) -> Result<Definition, Error> {
        let validity = match (self.valid_days, self.valid_from, self.valid_until) {
            (Some(days), _, _) => Validity::Days { days },
            (None, Some(from), Some(until)) => Validity::Fixed { window: Window { from, until } },
            _ => return Err(Error::Invariant(format!("coupon {} has no validity", self.id))),
        };
        Ok(Definition {
            name: self.name.clone(),
            terms: self.terms.clone(),
            validity,
            claim: Window { from: self.claim_from, until: self.claim_until },
            per_user: self.per_user,
            total: self.total,
            paused: self.paused,
        })
    }
}

impl Row for Coupon {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, self.id.as_str())
    }
}

/// How a user came to a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    #[serde(rename = "claim")]
    Claim,
    /// Staff gave it: beside the limit per user, the claim's window and a pause, and within the total.
    #[serde(rename = "grant")]
    Grant,
}

/// A coupon that a user holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserCoupon {
    #[serde(rename = "_id")]
    pub id: UserCouponId,
    pub coupon_id: CouponId,
    pub user_id: UserId,
    pub open_id: OpenId,
    pub via: Via,
    /// 1, 2, … among what the user claimed of it; 0 for a grant.
    #[serde(deserialize_with = "domain::money::whole")]
    pub seq: i64,
    pub name: String,
    pub terms: Terms,
    #[serde(with = "date")]
    pub valid_from: DateTime<Utc>,
    #[serde(with = "date")]
    pub valid_until: DateTime<Utc>,
    pub status: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// Paid orders that were refunded and gave it back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returned_from: Vec<OrderId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_key: Option<String>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub locked_at: Option<DateTime<Utc>>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub used_at: Option<DateTime<Utc>>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

impl UserCoupon {
    /// As pricing knows it.
    pub fn held(&self) -> Held {
        Held { id: self.id.clone(), terms: self.terms.clone(), window: self.window() }
    }

    pub fn window(&self) -> Window {
        Window { from: self.valid_from, until: self.valid_until }
    }

    /// Whether an order may lock it now; `COUPON_NOT_APPLICABLE` with the reason if not.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), Refusal> {
        let reason = match self.status {
            State::Claiming => return Err(not_found()),
            State::Locked => Reason::Locked,
            State::Used => Reason::Used,
            State::Expired => Reason::Expired,
            State::Unused if now < self.valid_from => Reason::NotStarted,
            State::Unused if now >= self.valid_until => Reason::Expired,
            State::Unused => return Ok(()),
        };
        Err(Unfit::from(reason).into())
    }
}

impl Row for UserCoupon {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, self.id.as_str())
    }
}

/// The same answer for a coupon that is not there and one of somebody else.
pub fn not_found() -> Refusal {
    Refusal::new(Code::CouponNotApplicable).with_message("没有这张优惠券").detail("reason", "NOT_FOUND")
}

/// Who is to get a coupon.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub coupon: &'a CouponId,
    pub user: &'a UserId,
    pub open_id: &'a OpenId,
    pub via: Via,
    /// The command: a repeat gets what the first one got.
    pub request_key: Option<&'a str>,
}

/// What a run over what was left behind did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimsSettled {
    pub opened: u64,
    pub removed: u64,
    pub uncounted: u64,
}

impl Store {
    pub async fn coupon(&self, id: &CouponId) -> Result<Option<Coupon>, Error> {
        Ok(self.collection::<Coupon>(COUPONS).await?.find_one(doc! { "_id": id.as_str() }).await?)
    }

    /// Coupons, newest first.
    pub async fn coupons(&self, page: &PageRequest) -> Result<Page<Coupon>, Error> {
        let all = doc! { "createdAt": { "$gt": date::bson(DateTime::<Utc>::UNIX_EPOCH) } };
        self.page(COUPONS, all, page).await
    }

    /// Coupons that may be claimed now, newest first.
    pub async fn claimable_coupons(&self, now: DateTime<Utc>, page: &PageRequest) -> Result<Page<Coupon>, Error> {
        let filter = doc! {
            "createdAt": { "$gt": date::bson(DateTime::<Utc>::UNIX_EPOCH) }, "paused": { "$ne": true },
            "claimFrom": { "$lte": date::bson(now) }, "claimUntil": { "$gt": date::bson(now) },
        };
        self.page(COUPONS, filter, page).await
    }

    pub async fn user_coupon(&self, id: &UserCouponId) -> Result<Option<UserCoupon>, Error> {
        Ok(self.collection::<UserCoupon>(HELD).await?.find_one(doc! { "_id": id.as_str() }).await?)
    }

    /// What a user holds, newest first; without a state everything that was handed out.
    pub async fn user_coupons(
        &self,
        user: &UserId,
        status: Option<State>,
        page: &PageRequest,
    ) -> Result<Page<UserCoupon>, Error> {
        let mut filter = doc! { "userId": user.as_str() };
        match status {
            Some(status) => filter.insert("status", status.as_str()),
            None => filter.insert("status", doc! { "$ne": State::Claiming.as_str() }),
        };
        self.page(HELD, filter, page).await
    }

    /// The coupons that a user could use now, those that expire first in front, at most `limit`.
    pub async fn usable_coupons(
        &self,
        user: &UserId,
        now: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<UserCoupon>, Error> {
        let filter = doc! {
            "userId": user.as_str(), "status": State::Unused.as_str(),
            "validFrom": { "$lte": date::bson(now) }, "validUntil": { "$gt": date::bson(now) },
        };
        let held = self.collection::<UserCoupon>(HELD).await?;
        let find = held.find(filter).sort(doc! { "validUntil": 1, "_id": 1 });
        Ok(find.limit(limit).await?.try_collect().await?)
    }

    /// How many coupons of a definition are in each state.
    pub async fn coupon_stats(&self, id: &CouponId) -> Result<Vec<(State, i64)>, Error> {
        let held = self.collection::<Document>(HELD).await?;
        let mut stats = Vec::new();
        for state in State::ALL {
            let filter = doc! { "couponId": id.as_str(), "status": state.as_str() };
            let count = held.count_documents(filter).await?;
            stats.push((*state, i64::try_from(count).unwrap_or(i64::MAX)));
        }
        Ok(stats)
    }

    async fn coupon_by_request(&self, key: &str) -> Result<Option<UserCoupon>, Error> {
        // What a twin inserted a moment ago must be found, though the majority may not have it yet.
        let held = self.collection::<UserCoupon>(HELD).await?;
        let find = held.find_one(doc! { "requestKey": key }).read_concern(ReadConcern::linearizable());
        Ok(find.max_time(self.transaction_deadline()).await?)
    }

    /// Hands out a coupon at most once per command; true if an earlier call did.
    ///
    /// `COUPON_NOT_APPLICABLE` with the reason when a limit, the window or a pause forbids it; `NOT_FOUND` for an unknown coupon;
    /// `IDEMPOTENCY_KEY_REUSED` when the command was for another coupon.
    pub async fn claim_coupon(&self, claim: &Claim<'_>, now: DateTime<Utc>) -> Result<(UserCoupon, bool), Error> {
        for _ in 0..8 {
            if let Some(key) = claim.request_key
                && let Some(row) = self.coupon_by_request(key).await?
                && let Some(row) = self.wait_until_open(row, now).await?
            {
                let same = row.coupon_id == *claim.coupon && row.user_id == *claim.user;
                return if same { Ok((row, true)) } else { Err(Code::IdempotencyKeyReused.into()) };
            }
            let coupon = self.coupon(claim.coupon).await?.ok_or(Code::NotFound)?;
            if let Some(row) = self.try_claim(claim, &coupon, now).await? {
                return Ok((row, false));
            }
        }
        Err(Code::Conflict.into())
    }

    /// None when somebody was faster and it must be looked at again.
    async fn try_claim(
        &self,
        claim: &Claim<'_>,
        coupon: &Coupon,
        now: DateTime<Utc>,
    ) -> Result<Option<UserCoupon>, Error> {
        let definition = coupon.definition()?;
        let seq = match claim.via {
            Via::Claim => {
                let taken = self.taken_seqs(claim, now).await?;
                let by_user = i64::try_from(taken.len()).unwrap_or(i64::MAX);
                definition.may_claim(by_user, coupon.claimed, now).map_err(Refusal::from)?;
                (1..=i64::MAX).find(|n| !taken.contains(n)).unwrap_or(i64::MAX)
            }
            Via::Grant if coupon.total.is_some_and(|most| coupon.claimed >= most) => {
                return Err(Refusal::from(Unfit::from(Reason::AllClaimed)).into());
            }
            Via::Grant => 0,
        };
        let expired = || Refusal::from(Unfit::from(Reason::Expired));
        let window = definition.validity.window(now).filter(|w| now < w.until).ok_or_else(expired)?;
        let id = UserCouponId::parse(&hex::encode(crate::random::<16>()?));
        let mut row = UserCoupon {
            id: id.map_err(|e| Error::Invariant(e.to_string()))?,
            coupon_id: coupon.id.clone(),
            user_id: claim.user.clone(),
            open_id: claim.open_id.clone(),
            via: claim.via,
            seq,
            name: coupon.name.clone(),
            terms: coupon.terms.clone(),
            valid_from: window.from,
            valid_until: window.until,
            status: State::Claiming,
            order_id: None,
            returned_from: Vec::new(),
            request_key: claim.request_key.map(str::to_owned),
            locked_at: None,
            used_at: None,
            created_at: now,
        };
        match self.collection::<UserCoupon>(HELD).await?.insert_one(&row).await.map_err(Error::from) {
            Ok(_) => {}
            Err(error) if error.is_duplicate_of(HELD) => return Ok(None),
            Err(error) => return Err(error),
        }
        crashpoint("claim.inserted").await;
        if !self.count_claim(&row, now).await? {
            self.remove_claim(&row.id).await?;
            return Ok(None);
        }
        crashpoint("claim.counted").await;
        if !self.open_claim(&row.id).await? && self.user_coupon(&row.id).await?.is_none() {
            // It was taken for dead and removed.
            self.uncount_claim(&row.coupon_id, &row.id).await?;
            return Ok(None);
        }
        crashpoint("claim.opened").await;
        if let Err(error) = self.pull_claim_marker(&row.coupon_id, &row.id).await {
            tracing::warn!(%error, "a marker of a claim stays for the timer");
        }
        row.status = State::Unused;
        Ok(Some(row))
    }

    /// The numbers among a user's claims of a coupon that are taken.
    async fn taken_seqs(&self, claim: &Claim<'_>, now: DateTime<Utc>) -> Result<BTreeSet<i64>, Error> {
        let filter = doc! { "couponId": claim.coupon.as_str(), "userId": claim.user.as_str(), "via": "claim" };
        let rows: Vec<UserCoupon> =
            self.collection::<UserCoupon>(HELD).await?.find(filter).await?.try_collect().await?;
        let mut taken = BTreeSet::new();
        for row in rows {
            let dead = row.status == State::Claiming && row.created_at + LEFT_BEHIND <= now;
            if !dead || self.settle_claim(&row).await? {
                taken.insert(row.seq);
            }
        }
        Ok(taken)
    }

    /// Waits for a twin to finish; none if what it began is gone.
    async fn wait_until_open(&self, mut row: UserCoupon, now: DateTime<Utc>) -> Result<Option<UserCoupon>, Error> {
        if row.status == State::Claiming && row.created_at + LEFT_BEHIND <= now {
            self.settle_claim(&row).await?;
        }
        for _ in 0..40 {
            if row.status != State::Claiming {
                return Ok(Some(row));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            match self.user_coupon(&row.id).await? {
                Some(found) => row = found,
                None => return Ok(None),
            }
        }
        Err(Code::Conflict.into())
    }

    /// Counts a coupon, guarded by the total and by what it was made from.
    async fn count_claim(&self, row: &UserCoupon, now: DateTime<Utc>) -> Result<bool, Error> {
        let mut guard = doc! {
            "_id": row.coupon_id.as_str(), "terms.version": row.terms.version, "markers.id": { "$ne": row.id.as_str() },
            "$expr": { "$lt": ["$claimed", { "$ifNull": ["$total", i64::MAX] }] },
        };
        if row.via == Via::Claim {
            guard.insert("paused", doc! { "$ne": true });
        }
        let marker = ClaimMarker { id: row.id.clone(), at: now };
        let change = doc! { "$inc": { "claimed": 1i64 }, "$push": { "markers": bson::serialize_to_bson(&marker)? } };
        self.update_one(COUPONS, guard, change).await
    }

    /// Takes a count back, once.
    async fn uncount_claim(&self, coupon: &CouponId, id: &UserCouponId) -> Result<bool, Error> {
        let guard = doc! { "_id": coupon.as_str(), "markers.id": id.as_str() };
        let change = doc! { "$inc": { "claimed": -1i64 }, "$pull": { "markers": { "id": id.as_str() } } };
        self.update_one(COUPONS, guard, change).await
    }

    async fn pull_claim_marker(&self, coupon: &CouponId, id: &UserCouponId) -> Result<bool, Error> {
        let guard = doc! { "_id": coupon.as_str(), "markers.id": id.as_str() };
        self.update_one(COUPONS, guard, doc! { "$pull": { "markers": { "id": id.as_str() } } }).await
    }

    /// `claiming → unused`.
    async fn open_claim(&self, id: &UserCouponId) -> Result<bool, Error> {
        let guard = doc! { "_id": id.as_str(), "status": State::Claiming.as_str() };
        self.update_one(HELD, guard, doc! { "$set": { "status": State::Unused.as_str() } }).await
    }

    async fn remove_claim(&self, id: &UserCouponId) -> Result<bool, Error> {
        let guard = doc! { "_id": id.as_str(), "status": State::Claiming.as_str() };
        Ok(self.collection::<Document>(HELD).await?.delete_one(guard).await?.deleted_count == 1)
    }

    async fn update_one(&self, collection: &str, guard: Document, change: Document) -> Result<bool, Error> {
        Ok(self.collection::<Document>(collection).await?.update_one(guard, change).await?.matched_count == 1)
    }

    /// Ends a claim that was left behind; true if the coupon is there now.
    async fn settle_claim(&self, row: &UserCoupon) -> Result<bool, Error> {
        let counted = doc! { "_id": row.coupon_id.as_str(), "markers.id": row.id.as_str() };
        if self.collection::<Document>(COUPONS).await?.find_one(counted).await?.is_none() {
            // If its claimer opened it meanwhile, it stays.
            return Ok(!self.remove_claim(&row.id).await? && self.user_coupon(&row.id).await?.is_some());
        }
        self.open_claim(&row.id).await?;
        self.pull_claim_marker(&row.coupon_id, &row.id).await?;
        Ok(self.user_coupon(&row.id).await?.is_some())
    }

    /// Ends what claims left behind, `limit` of each kind at most.
    pub async fn settle_claims(&self, now: DateTime<Utc>, limit: i64) -> Result<ClaimsSettled, Error> {
        let before = date::bson(now - LEFT_BEHIND);
        let mut settled = ClaimsSettled::default();
        let add = |n: &mut u64| *n = n.saturating_add(1);
        let stale = doc! { "status": State::Claiming.as_str(), "createdAt": { "$lte": before.clone() } };
        let held = self.collection::<UserCoupon>(HELD).await?;
        let rows = held.find(stale).sort(doc! { "createdAt": 1 }).limit(limit);
        let rows: Vec<UserCoupon> = rows.await?.try_collect().await?;
        for row in &rows {
            if self.settle_claim(row).await? { add(&mut settled.opened) } else { add(&mut settled.removed) }
        }
        let coupons = self.collection::<Coupon>(COUPONS).await?;
        let marked: Vec<Coupon> =
            coupons.find(doc! { "markers.at": { "$lte": before } }).limit(limit).await?.try_collect().await?;
        for coupon in &marked {
            for marker in coupon.markers.iter().filter(|m| m.at + LEFT_BEHIND <= now) {
                // The coupon is inserted before its marker: where it is not, it was removed.
                match self.user_coupon(&marker.id).await? {
                    None => {
                        if self.uncount_claim(&coupon.id, &marker.id).await? {
                            add(&mut settled.uncounted);
                        }
                    }
                    Some(row) if row.status == State::Claiming => {
                        self.settle_claim(&row).await?;
                        add(&mut settled.opened);
                    }
                    Some(_) => {
                        self.pull_claim_marker(&coupon.id, &marker.id).await?;
                    }
                }
            }
        }
        Ok(settled)
    }

    /// `unused → expired` for coupons whose window is over, `limit` at most; the number that was changed.
    pub async fn expire_coupons(&self, now: DateTime<Utc>, limit: i64) -> Result<u64, Error> {
        let filter = doc! { "status": State::Unused.as_str(), "validUntil": { "$lte": date::bson(now) } };
        let held = self.collection::<Document>(HELD).await?;
        let find = held.find(filter.clone()).projection(doc! { "_id": 1 }).sort(doc! { "validUntil": 1 }).limit(limit);
        let rows: Vec<Document> = find.await?.try_collect().await?;
        let ids: Vec<&str> = rows.iter().filter_map(|r| r.get_str("_id").ok()).collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let mut guard = filter;
        guard.insert("_id", doc! { "$in": ids });
        let change = doc! { "$set": { "status": State::Expired.as_str() } };
        Ok(held.update_many(guard, change).await?.modified_count)
    }

    /// Edits a definition in the version that was read and raises it; false if it is another by now, or if more were handed out
    /// than the new total.
    pub async fn edit_coupon(&self, edited: &Coupon, version: i64, now: DateTime<Utc>) -> Result<bool, Error> {
        let mut guard = doc! { "_id": edited.id.as_str(), "terms.version": version };
        if let Some(total) = edited.total {
            guard.insert("claimed", doc! { "$lte": total });
        }
        let mut terms = edited.terms.clone();
        terms.version = version.saturating_add(1);
        let mut set = doc! {
            "name": &edited.name, "terms": bson::serialize_to_bson(&terms)?, "paused": edited.paused,
            "claimFrom": date::bson(edited.claim_from), "claimUntil": date::bson(edited.claim_until),
            "updatedAt": date::bson(now),
        };
        let mut unset = Document::new();
        let mut put = |field: &str, value: Option<bson::Bson>| match value {
            Some(value) => set.insert(field, value),
            None => unset.insert(field, ""),
        };
        put("validDays", edited.valid_days.map(bson::Bson::Int64));
        put("validFrom", edited.valid_from.map(date::bson));
        put("validUntil", edited.valid_until.map(date::bson));
        put("perUser", edited.per_user.map(bson::Bson::Int64));
        put("total", edited.total.map(bson::Bson::Int64));
        let mut change = doc! { "$set": set };
        if !unset.is_empty() {
            change.insert("$unset", unset);
        }
        self.update_one(COUPONS, guard, change).await
    }

    /// Stops or resumes the claims of a coupon; false if there is none.
    pub async fn pause_coupon(&self, id: &CouponId, paused: bool, now: DateTime<Utc>) -> Result<bool, Error> {
        let change = doc! { "$set": { "paused": paused, "updatedAt": date::bson(now) } };
        self.update_one(COUPONS, doc! { "_id": id.as_str() }, change).await
    }
}

impl Tx {
    /// A new definition; `Duplicate` of `coupons` if the id is taken.
    pub async fn insert_coupon(&mut self, coupon: &Coupon) -> Result<(), Error> {
        self.insert(COUPONS, coupon).await
    }

    pub async fn user_coupon(&mut self, id: &UserCouponId) -> Result<Option<UserCoupon>, Error> {
        self.find_by_id(HELD, id.as_str()).await
    }

    /// `unused → locked` by an order; `COUPON_NOT_APPLICABLE` if another was first or its time is over.
    pub async fn lock_user_coupon(
        &mut self,
        id: &UserCouponId,
        user: &UserId,
        order: &OrderId,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let guard = doc! {
            "_id": id.as_str(), "userId": user.as_str(), "status": State::Unused.as_str(),
            "validFrom": { "$lte": date::bson(now) }, "validUntil": { "$gt": date::bson(now) },
        };
        let change = doc! { "$set": {
            "status": State::Locked.as_str(), "orderId": order.as_str(), "lockedAt": date::bson(now),
        } };
        if self.update(HELD, guard, change).await? {
            return Ok(());
        }
        let current = self.user_coupon(id).await?.filter(|c| c.user_id == *user).ok_or_else(not_found)?;
        current.check(now)?;
        Err(Error::Invariant(format!("the coupon {id} can be locked and cannot")))
    }

    /// `locked → used` when the order that holds it is paid; false if the order does not hold it, which the audit reports.
    pub async fn use_user_coupon(
        &mut self,
        id: &UserCouponId,
        order: &OrderId,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let change = doc! { "$set": { "status": State::Used.as_str(), "usedAt": date::bson(now) } };
        self.move_user_coupon(id, State::Locked, order, change).await
    }

    /// `locked → unused` when the order that holds it closes unpaid; false if the order does not hold it, which the audit reports.
    /// Its window is not prolonged.
    pub async fn release_user_coupon(&mut self, id: &UserCouponId, order: &OrderId) -> Result<bool, Error> {
        let change = doc! { "$set": { "status": State::Unused.as_str() }, "$unset": { "orderId": "", "lockedAt": "" } };
        self.move_user_coupon(id, State::Locked, order, change).await
    }

    /// `used → unused` when the paid order was refunded as a whole; once per order; false if the order did not use it. Its window is
    /// not prolonged.
    pub async fn return_user_coupon(&mut self, id: &UserCouponId, order: &OrderId) -> Result<bool, Error> {
        let change = doc! {
            "$set": { "status": State::Unused.as_str() }, "$push": { "returnedFrom": order.as_str() },
            "$unset": { "orderId": "", "lockedAt": "", "usedAt": "" },
        };
        self.move_user_coupon(id, State::Used, order, change).await
    }

    async fn move_user_coupon(
        &mut self,
        id: &UserCouponId,
        from: State,
        order: &OrderId,
        change: Document,
    ) -> Result<bool, Error> {
        let guard = doc! { "_id": id.as_str(), "status": from.as_str(), "orderId": order.as_str() };
        self.update(HELD, guard, change).await
    }
}
