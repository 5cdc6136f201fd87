//! Publishing rounds ahead of their windows: rules and commitment come first, then the sign-ups.

use chrono::{DateTime, TimeDelta, Utc};
use domain::Failure;
use domain::draw::{BeaconRule, BeaconSource, Chain, Rules, commit, rules_hash, time_text};
use domain::vault::FieldKeys;
use store::Store;
use store::lottery::{Activity, ActivityStatus, Round, RoundStatus};

use super::{Secrets, windows};

/// How far ahead rounds are published.
const AHEAD: TimeDelta = TimeDelta::hours(48);
/// How long after the close unused rights pass down the waiting list.
const PASS: TimeDelta = TimeDelta::hours(24);
/// How long after the close a beacon may take.
const BEACON: TimeDelta = TimeDelta::hours(72);

/// What publishing stands on.
#[derive(Clone, Copy)]
pub struct Publisher<'a> {
    pub store: &'a Store,
    pub keys: &'a FieldKeys,
    /// The chain that `drand` rounds are drawn with.
    pub chain: &'a Chain,
}

impl Publisher<'_> {
    /// Publishes what is missing and returns all rounds of the activity that are not over, the earliest first.
    ///
    /// A round whose window has begun opens now, so that its rules and its commitment are older than its first ticket. A window
    /// that meets a published round is left out: what is published stays.
    pub async fn publish(&self, activity: &Activity, now: DateTime<Utc>) -> Result<Vec<Round>, Failure> {
        let known = self.store.coming_rounds(&[&activity.id], now).await?;
        self.complete(activity, known, now).await
    }

    /// As [`Publisher::publish`], where the published rounds are known.
    pub async fn complete(
        &self,
        activity: &Activity,
        mut rounds: Vec<Round>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Round>, Failure> {
        if activity.status != ActivityStatus::Active || activity.end_time <= now {
            return Ok(rounds);
        }
        let mut missing = Vec::new();
        for window in windows::between(&activity.windows, now, now + AHEAD) {
            let opens = window.start.max(activity.start_time).max(now);
            let closes = window.end.min(activity.end_time);
            if opens >= closes || rounds.iter().any(|r| r.opens_at < closes && opens < r.closes_at) {
                continue;
            }
            missing.push((format!("{}-{}", activity.id, window.label), opens, closes));
        }
        if !missing.is_empty() {
            // A window that was made longer after its round was over has no second one.
            let ids: Vec<&str> = missing.iter().map(|(id, ..)| id.as_str()).collect();
            let over = self.store.published(&ids).await?;
            missing.retain(|(id, ..)| !over.contains(id));
        }
        if !missing.is_empty() {
            let product = self.store.product(&activity.product_id).await?;
            let name = product.map(|p| p.name).unwrap_or_default();
            let made =
                missing.into_iter().map(|(id, opens, closes)| self.make(activity, id, &name, opens, closes, now));
            let made = made.collect::<Result<Vec<_>, _>>()?;
            self.store.publish_rounds(activity, &made, now).await?;
            // Also those that another process was faster with.
            rounds = self.store.coming_rounds(&[&activity.id], now).await?;
        }
        rounds.sort_by(|a, b| (a.closes_at, &a.id).cmp(&(b.closes_at, &b.id)));
        Ok(rounds)
    }

    fn make(
        &self,
        activity: &Activity,
        id: String,
        product_name: &str,
        opens_at: DateTime<Utc>,
        closes_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Round, Failure> {
        let secrets = Secrets::make()?;
        let source = activity.beacon.source;
        let drand = source == BeaconSource::Drand;
        let rules = Rules {
            mode: activity.mode,
            quota: activity.quota,
            win_rate_bp: activity.win_rate_bp,
            beacon: BeaconRule {
                source,
                chain: drand.then(|| self.chain.hash.clone()),
                round: drand.then(|| self.chain.round_at(closes_at)),
                name: activity.beacon.name.clone(),
                deadline: (source != BeaconSource::None).then(|| time_text(closes_at + BEACON)),
            },
            quantity: Some(activity.quantity),
            qualification_minutes: Some(activity.qualification_minutes),
            unused: Some(activity.unused),
            pass_until: Some(time_text(closes_at + PASS)),
        };
        let commit = commit(&secrets.seed);
        let rules_hash = rules_hash(&activity.id, &id, &rules, &commit, &time_text(opens_at), &time_text(closes_at));
        Ok(Round {
            secrets: secrets.seal(self.keys, &id)?,
            activity_id: activity.id.clone(),
            activity_name: activity.activity_name.clone(),
            product_id: activity.product_id.clone(),
            sku_id: activity.sku_id.clone(),
            product_name: product_name.to_owned(),
            rules,
            rules_hash,
            commit,
            opens_at,
            closes_at,
            created_at: now,
            status: RoundStatus::Open,
            work_at: Some(closes_at),
            public_value: None,
            n: None,
            tickets_hash: None,
            list_run: None,
            k: None,
            seed: None,
            beacon: None,
            beacon_signature: None,
            rank_run: None,
            drawn_at: None,
            next_rank: 0,
            next_waiting: 0,
            told: 0,
            id,
        })
    }

    /// Publishes the rounds of all activities. One that fails keeps neither the others nor a draw from their turn.
    pub async fn publish_all(&self, now: DateTime<Utc>) -> Result<(), Failure> {
        for activity in &self.store.live_activities(now).await? {
            if let Err(error) = self.publish(activity, now).await {
                tracing::error!(activity = %activity.id, ?error, "rounds were not published");
            }
        }
        Ok(())
    }
}
