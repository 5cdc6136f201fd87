//! Comparing a day's bill of WeChat Pay with our books, row by row and in both directions.
//!
//! A payment that the bill has and that is not settled with us is asked about and settled, and a refund that the bill has as done is
//! asked about and concluded. Everything else that the two tell differently becomes a document of `paymentExceptions` for a person
//! to look at; nothing is corrected by itself. The same difference has the same key, so a day may be compared again, and by two
//! processes at once.
//!
//! What the bill has as we do is marked with its day, and every payment and refund knows on which day's bill it belongs. So what is
//! not marked is missing, however late we learned of it: then its day is compared once more ([`store::Tx::learned_late`]). What was
//! asked about and compared stays so, and a run that has no more time is gone on with.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, Cursor};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{BusinessDay, Failure, Fen, OrderId, ShopRules};
use store::bills::{BILL_READY_AFTER, Bill, BillStatus, BillTotals, Finished, KnownRefund, Position, RefundProgress};
use store::payments::{ExceptionKind, ExceptionStatus, Payment, PaymentException, PaymentStatus};
use store::{Store, crashpoint};
use wechat::pay::bill::{BillError, BillFormatError, BillKind, BillState, CREATING_RETRY_AFTER, RefundPart};
use wechat::pay::bill::{TradeBill, TradeRow};
use wechat::pay::{self, RefundStatus};

use crate::after_sale::wechat::{Seen, conclude, record_portal_refund};
use crate::reconcile::{Checked, check_payment};
use crate::refunds::record_status;

/// Rows that are compared at once; what is left of them when there is no more time is compared again.
const CHUNK: usize = 100;
/// Rows of our books that are read at once.
const PAGE: i64 = 500;

/// WeChat says without a signature that a day had no trade. Where we know of some, it is believed only when the day is over for so
/// long.
const NONE_BELIEVED_AFTER: TimeDelta = TimeDelta::hours(48);

/// A bill that can be read from its beginning as often as needed.
pub trait BillFile: Sync {
    fn open(&self) -> io::Result<Box<dyn BufRead + Send + '_>>;
}

impl BillFile for Vec<u8> {
    fn open(&self) -> io::Result<Box<dyn BufRead + Send + '_>> {
        Ok(Box::new(Cursor::new(self.as_slice())))
    }
}

/// Why a bill was not compared, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Uncompared {
    /// It is being made.
    #[error("the bill is not ready yet")]
    Later,
    /// There is little time left; what was found is recorded.
    #[error("there was no time to compare all of it")]
    OutOfTime,
    /// Not a whole trade bill.
    #[error("the file is not a whole trade bill")]
    Format(#[from] BillFormatError),
    /// A payment or refund of the day was learned of while it was compared.
    #[error("something of the day was learned meanwhile")]
    Changed,
    /// Another merchant's, or another day's.
    #[error("{0}")]
    Other(String),
    /// WeChat or the store failed.
    #[error("{0}")]
    Failed(Failure),
}

impl From<Failure> for Uncompared {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<store::Error> for Uncompared {
    fn from(error: store::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct Compared {
    pub day: BusinessDay,
    pub status: BillStatus,
    pub totals: BillTotals,
    /// Payments that were settled, and refunds that were concluded or, made in the portal, booked, because the bill has them.
    pub settled: i64,
    /// All differences that were found this time, recorded before or not.
    pub differences: Vec<PaymentException>,
    /// How many of them are new.
    pub recorded: i64,
}

/// How to compare.
pub struct Comparison<'a> {
    pub store: &'a Store,
    /// Without it nothing is asked about and settled: what the bill has and we have not is a difference then.
    pub client: Option<&'a pay::Client>,
    pub rules: &'a ShopRules,
    pub now: DateTime<Utc>,
    /// Only look; nothing is written.
    pub dry_run: bool,
    /// `bill` or `file`.
    pub source: &'static str,
    /// Whether there is time to go on.
    pub goes_on: &'a (dyn Fn() -> bool + Sync),
}

/// What a first reading of a bill tells: that it is whole, whose it is and of which day.
#[derive(Debug)]
pub struct Survey {
    pub totals: BillTotals,
    pub mchid: Option<String>,
    pub days: HashSet<BusinessDay>,
    has_payments: bool,
    has_refunds: bool,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    /// Our numbers of the payments and refunds that the bill has.
    seen: HashSet<String>,
    settled: i64,
    differences: Vec<PaymentException>,
    recorded: i64,
}

/// Reads a bill to its end. Nothing in it counts before that: a file that was cut off looks like a quiet day.
pub fn survey(file: &dyn BillFile) -> Result<Survey, BillFormatError> {
    let mut bill = TradeBill::new(file.open()?)?;
    let (has_payments, has_refunds) = (bill.has_payments(), bill.has_refunds());
    let mut survey =
        Survey { totals: BillTotals::default(), mchid: None, days: HashSet::new(), has_payments, has_refunds };
    // Where a row of a refund is of its payment's time, only the time of the application tells the bill's day.
    let mut refund_days = HashSet::new();
    for row in bill.by_ref() {
        let row = row?;
        let totals = &mut survey.totals;
        match &row.refund {
            Some(refund) => {
                totals.refunds = totals.refunds.saturating_add(1);
                totals.refund_fen = totals.refund_fen.saturating_add(refunded(refund));
                refund_days.insert(BusinessDay::of(refund.applied_at.unwrap_or(row.at)));
            }
            None => {
                totals.payments = totals.payments.saturating_add(1);
                totals.paid_fen = totals.paid_fen.saturating_add(paid(&row));
                survey.days.insert(BusinessDay::of(row.at));
            }
        }
        survey.mchid.get_or_insert(row.mchid);
    }
    if survey.days.is_empty() {
        survey.days = refund_days;
    }
    Ok(survey)
}

/// Fen of the whole payment.
fn paid(row: &TradeRow) -> i64 {
    row.total_fen.unwrap_or(row.settlement_fen.saturating_add(row.coupon_fen))
}

/// Fen that were asked back.
fn refunded(refund: &RefundPart) -> i64 {
    refund.applied_fen.unwrap_or(refund.refund_fen.saturating_add(refund.coupon_refund_fen))
}

fn fen(amount: i64) -> Fen {
    Fen::new(amount.max(0)).unwrap_or_default()
}

impl Comparison<'_> {
    /// Fetches the bill of a day and compares it.
    pub async fn fetch(&self, client: &pay::Client, day: BusinessDay) -> Result<Compared, Uncompared> {
        let begun = self.begin(day).await?;
        let compared = self.fetch_and_compare(client, day, begun.as_ref()).await;
        if let Err(why) = &compared
            && !self.dry_run
        {
            let next = self.now + TimeDelta::from_std(CREATING_RETRY_AFTER).unwrap_or_default();
            // Out of time means that it goes well: on with it at the next tick.
            let next = if matches!(why, Uncompared::OutOfTime | Uncompared::Changed) { self.now } else { next };
            self.store.postpone_bill(day, &why.to_string(), next).await?;
        }
        compared
    }

    async fn fetch_and_compare(
        &self,
        client: &pay::Client,
        day: BusinessDay,
        begun: Option<&Bill>,
    ) -> Result<Compared, Uncompared> {
        // What the store does for late news relies on it that no day is finished before.
        if self.now < day.end() + BILL_READY_AFTER {
            return Err(Uncompared::Later);
        }
        let ticket = match client.bill(day.date(), BillKind::Trade, true).await {
            Ok(ticket) => ticket,
            Err(BillError::Creating) => return Err(Uncompared::Later),
            Err(BillError::NoStatement) => return self.without_bill(day, begun).await,
            Err(error) => return Err(Uncompared::Failed(error.into())),
        };
        let file = client.download_bill(&ticket).await.map_err(Failure::from)?;
        let survey = survey(&file)?;
        if survey.mchid.as_deref().is_some_and(|mchid| mchid != client.mchid()) {
            return Err(Uncompared::Other("the bill is of another merchant".to_owned()));
        }
        self.compare_rows(day, &file, survey, Some(ticket.sha1()), begun).await
    }

    /// Compares a bill that was surveyed.
    pub async fn compare(&self, day: BusinessDay, file: &dyn BillFile, survey: Survey) -> Result<Compared, Uncompared> {
        check_day(day, &survey)?;
        let begun = self.begin(day).await?;
        self.compare_rows(day, file, survey, None, begun.as_ref()).await
    }

    async fn compare_rows(
        &self,
        day: BusinessDay,
        file: &dyn BillFile,
        survey: Survey,
        sha1: Option<&str>,
        begun: Option<&Bill>,
    ) -> Result<Compared, Uncompared> {
        check_day(day, &survey)?;
        let mut found = Found::default();
        let mut bill = TradeBill::new(file.open().map_err(BillFormatError::from)?)?;
        // Rows that a run before this one has compared are only known to be there.
        let same = begun.filter(|bill| sha1.is_some() && bill.compared_sha1.as_deref() == sha1);
        let mut left = same.map_or(0, |bill| bill.compared_rows);
        let mut done = 0i64;
        loop {
            let rows: Vec<TradeRow> = bill.by_ref().take(CHUNK).collect::<Result<_, _>>()?;
            let n_rows = i64::try_from(rows.len()).unwrap_or(i64::MAX);
            if rows.is_empty() {
                break;
            }
            done = done.saturating_add(n_rows);
            if left >= n_rows {
                left = left.saturating_sub(n_rows);
                found.seen.extend(rows.into_iter().map(number_of));
                continue;
            }
            left = 0;
            self.compare_payments(day, &rows, &mut found).await?;
            self.compare_refunds(day, &rows, &mut found).await?;
            if let Some(sha1) = sha1.filter(|_| !self.dry_run) {
                self.store.bill_compared(day, sha1, done).await?;
                crashpoint("bill.chunk").await;
            }
            self.must_go_on()?;
        }
        crashpoint("bill.compared").await;
        if survey.has_payments {
            self.missing_payments(day, &mut found).await?;
        }
        if survey.has_refunds {
            self.missing_refunds(day, &mut found).await?;
        }
        // A part of a bill, or a whole one without WeChat to ask, leaves the day to be compared as a whole.
        let whole = survey.has_payments && survey.has_refunds && self.client.is_some();
        let status = if whole { BillStatus::Done } else { BillStatus::Open };
        let late = begun.map_or(0, |bill| bill.late);
        let done = Finished { late, status, totals: survey.totals, source: self.source, sha1 };
        self.finish(day, &done, found).await
    }

    /// There is no bill: nobody paid on that day, and nothing was given back. Where we think otherwise, that is a difference, but not
    /// before it is certain.
    async fn without_bill(&self, day: BusinessDay, begun: Option<&Bill>) -> Result<Compared, Uncompared> {
        let mut found = Found::default();
        let believed = self.now >= day.end() + NONE_BELIEVED_AFTER;
        self.place_payments(day, believed, &mut found).await?;
        for of_orders in [false, true] {
            self.place_refunds(day, of_orders, believed, &mut found).await?;
        }
        if !believed && self.knows_of(day).await? {
            return Err(Uncompared::Later);
        }
        self.missing_payments(day, &mut found).await?;
        self.missing_refunds(day, &mut found).await?;
        let late = begun.map_or(0, |bill| bill.late);
        let totals = BillTotals::default();
        let done = Finished { late, status: BillStatus::None, totals, source: self.source, sha1: None };
        self.finish(day, &done, found).await
    }

    /// Whether our books have anything that the bill of a day may have to have.
    async fn knows_of(&self, day: BusinessDay) -> Result<bool, store::Error> {
        let any = |rows: Vec<(Position, Vec<KnownRefund>)>| rows.iter().any(|(_, refunds)| !refunds.is_empty());
        let store = self.store;
        let mut known = !store.payments_of_day(day, None, 1).await?.is_empty();
        known = known || !store.payments_learned_on(day, None, 1).await?.is_empty();
        for of_orders in [false, true] {
            known = known || any(store.refunds_of_day(day, of_orders, None, 1).await?);
            known = known || any(store.refunds_learned_on(day, of_orders, None, PAGE).await?);
        }
        Ok(known)
    }

    async fn begin(&self, day: BusinessDay) -> Result<Option<Bill>, store::Error> {
        if self.dry_run { Ok(None) } else { self.store.begin_bill(day, self.now).await.map(Some) }
    }

    async fn finish(&self, day: BusinessDay, done: &Finished<'_>, found: Found) -> Result<Compared, Uncompared> {
        if !self.dry_run && done.status != BillStatus::Open && !self.store.finish_bill(day, done, self.now).await? {
            return Err(Uncompared::Changed);
        }
        let Found { settled, differences, recorded, .. } = found;
        if !differences.is_empty() {
            tracing::warn!(day = day.to_string(), differences = differences.len(), recorded, "a bill differs");
        }
        Ok(Compared { day, status: done.status, totals: done.totals, settled, differences, recorded })
    }

    async fn compare_payments(&self, day: BusinessDay, rows: &[TradeRow], found: &mut Found) -> Result<(), Uncompared> {
        let rows: Vec<&TradeRow> = rows.iter().filter(|row| row.refund.is_none()).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let numbers: Vec<&str> = rows.iter().map(|row| row.out_trade_no.as_str()).collect();
        let both: Vec<(&str, &str)> =
            rows.iter().map(|row| (row.out_trade_no.as_str(), row.transaction_id.as_str())).collect();
        let mut payments = self.payments_by_number(&numbers).await?;
        let unsettled: Vec<&Payment> = rows
            .iter()
            .filter(|row| row.state == BillState::Success)
            .filter_map(|row| payments.get(&row.out_trade_no))
            .filter(|payment| !is_paid(payment))
            .collect();
        if self.settle(unsettled, found).await? {
            payments = self.payments_by_number(&numbers).await?;
        }
        let misfits = self.store.misfits_by_number(&both).await?;
        let (mut differences, mut same) = (Vec::new(), Vec::new());
        for row in rows {
            found.seen.insert(row.out_trade_no.clone());
            let payment = payments.get(&row.out_trade_no);
            let misfit = misfits.iter().find(|one| one.transaction_id == row.transaction_id);
            match payment_difference(row, payment, misfit) {
                Some(kind) => differences.push(self.of_payment(day, row, kind, payment)),
                None if payment.is_some_and(is_paid) => same.push(row.out_trade_no.as_str()),
                None => {}
            }
        }
        if !self.dry_run {
            self.store.mark_billed(&same, day).await?;
        }
        self.record(differences, found).await
    }

    async fn payments_by_number(&self, numbers: &[&str]) -> Result<HashMap<String, Payment>, store::Error> {
        let payments = self.store.payments_by_number(numbers).await?;
        Ok(payments.into_iter().map(|payment| (payment.out_trade_no.clone(), payment)).collect())
    }

    /// Asks WeChat about payments that the bill has and that are open or closed with us; true if something changed.
    async fn settle(&self, payments: Vec<&Payment>, found: &mut Found) -> Result<bool, Uncompared> {
        let Some(client) = self.client.filter(|_| !self.dry_run) else { return Ok(false) };
        let mut changed = false;
        for payment in payments {
            self.must_go_on()?;
            let checked = check_payment(self.store, client, self.rules, payment, "bill", self.now).await?;
            if matches!(checked, Checked::Paid(_)) {
                found.settled = found.settled.saturating_add(1);
                changed = true;
            }
        }
        Ok(changed)
    }

    async fn compare_refunds(&self, day: BusinessDay, rows: &[TradeRow], found: &mut Found) -> Result<(), Uncompared> {
        let rows: Vec<(&TradeRow, &RefundPart)> =
            rows.iter().filter_map(|row| Some((row, row.refund.as_ref()?))).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let numbers: Vec<&str> = rows.iter().map(|(_, refund)| refund.out_refund_no.as_str()).collect();
        let mut known = self.known_refunds(&numbers).await?;
        let payments: Vec<&str> = rows.iter().map(|(row, _)| row.out_trade_no.as_str()).collect();
        let payments = self.payments_by_number(&payments).await?;
        let of_portal: Vec<&str> = rows
            .iter()
            .filter(|(row, refund)| {
                payments.contains_key(&row.out_trade_no) && !known.contains_key(&refund.out_refund_no)
            })
            .map(|(_, refund)| refund.out_refund_no.as_str())
            .collect();
        if self.record_portal_refunds(&of_portal, found).await? {
            known = self.known_refunds(&numbers).await?;
        }
        let unconcluded: Vec<&str> = rows
            .iter()
            .filter(|(_, refund)| known.get(&refund.out_refund_no).is_some_and(|ours| !agrees(refund, ours)))
            .map(|(_, refund)| refund.out_refund_no.as_str())
            .collect();
        if self.conclude_refunds(&unconcluded, found).await? {
            known = self.known_refunds(&numbers).await?;
        }
        let (mut differences, mut same) = (Vec::new(), Vec::new());
        for (row, refund) in rows {
            found.seen.insert(refund.out_refund_no.clone());
            let ours = known.get(&refund.out_refund_no);
            let Some(kind) = refund_difference(refund, ours) else {
                same.push(refund.out_refund_no.as_str());
                continue;
            };
            let payment = payments.get(&row.out_trade_no);
            differences.push(PaymentException {
                order_id: payment.map(|payment| payment.order_id.clone()),
                amount: fen(refunded(refund)),
                expected_amount: ours.map(|ours| ours.amount),
                bill_refund_no: Some(refund.out_refund_no.clone()),
                ..self.difference(day, kind, &refund.out_refund_no, &row.out_trade_no, &row.transaction_id)
            });
        }
        if !self.dry_run {
            self.store.mark_refunds_billed(&same, day).await?;
        }
        self.record(differences, found).await
    }

    async fn known_refunds(&self, numbers: &[&str]) -> Result<HashMap<String, KnownRefund>, store::Error> {
        let known = self.store.known_refunds(numbers).await?;
        Ok(known.into_iter().map(|one| (one.out_refund_no.clone(), one)).collect())
    }

    /// Books refunds of our payments that somebody made in the portal and whose notices were lost; true if there were any.
    async fn record_portal_refunds(&self, numbers: &[&str], found: &mut Found) -> Result<bool, Uncompared> {
        let Some(client) = self.client.filter(|_| !self.dry_run) else { return Ok(false) };
        for number in numbers {
            // One that WeChat does not know when it is asked is a difference.
            if self.ask(client, number).await?.is_some() {
                record_portal_refund(self.store, client, number, self.now).await?;
                found.settled = found.settled.saturating_add(1);
            }
        }
        Ok(!numbers.is_empty())
    }

    /// Asks WeChat about refunds of ours that the bill has as done and that are under way, failed or given another way with us, and
    /// does what a notice of its answer would do; true if there were any.
    async fn conclude_refunds(&self, numbers: &[&str], found: &mut Found) -> Result<bool, Uncompared> {
        let Some(client) = self.client.filter(|_| !self.dry_run) else { return Ok(false) };
        let tells = &self.rules.tells;
        for number in numbers {
            let Some(theirs) = self.ask(client, number).await? else { continue };
            let seen = Seen::of(&theirs, "bill");
            if conclude(self.store, &seen, tells, self.now).await?.is_none() {
                record_status(self.store, &seen, tells, self.now).await?;
            }
            if theirs.status == RefundStatus::Success {
                found.settled = found.settled.saturating_add(1);
            }
        }
        Ok(!numbers.is_empty())
    }

    /// What WeChat knows of a refund. None also for a number that cannot even be asked for: another system's may have other
    /// characters.
    async fn ask(&self, client: &pay::Client, number: &str) -> Result<Option<pay::Refund>, Uncompared> {
        self.must_go_on()?;
        match client.query_refund(number).await {
            Err(error) if error.outcome_unknown() || error.is_retryable() => Err(Failure::from(error).into()),
            answer => Ok(answer.ok().flatten()),
        }
    }

    /// Payments of that day that the bill has not.
    async fn missing_payments(&self, day: BusinessDay, found: &mut Found) -> Result<(), Uncompared> {
        self.place_payments(day, true, found).await?;
        let mut after: Option<Position> = None;
        loop {
            let page = self.store.payments_of_day(day, after.as_ref(), PAGE).await?;
            after = page.last().and_then(|last| Some((last.success_at?, last.out_trade_no.clone())));
            let missing = page.iter().filter(|payment| !found.seen.contains(&payment.out_trade_no));
            let differences = missing.map(|payment| self.missing_payment(day, payment)).collect();
            self.record(differences, found).await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Asks WeChat when payments were paid that we learned of on that day and of which nobody said so. What it does not know is a
    /// difference of that day, to be recorded if it is time to `tell`.
    async fn place_payments(&self, day: BusinessDay, tell: bool, found: &mut Found) -> Result<(), Uncompared> {
        let mut after: Option<Position> = None;
        loop {
            let page = self.store.payments_learned_on(day, after.as_ref(), PAGE).await?;
            after = page.last().and_then(|last| Some((last.paid_at?, last.out_trade_no.clone())));
            for payment in &page {
                let difference = self.missing_payment(day, payment);
                if found.seen.contains(&payment.out_trade_no) || self.store.is_recorded(&difference.id).await? {
                    continue;
                }
                match self.paid_at(&payment.out_trade_no).await? {
                    Some(at) if !self.dry_run => {
                        self.store.payment_succeeded(&payment.out_trade_no, at, day, self.now).await?;
                    }
                    Some(at) if BusinessDay::of(at) != day => {}
                    _ if tell => self.record(vec![difference], found).await?,
                    _ => {}
                }
            }
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn missing_payment(&self, day: BusinessDay, payment: &Payment) -> PaymentException {
        let transaction = payment.transaction_id.as_deref().unwrap_or_default();
        let kind = ExceptionKind::BillMissingPayment;
        PaymentException {
            order_id: Some(payment.order_id.clone()),
            amount: payment.amount,
            expected_amount: Some(payment.amount),
            ..self.difference(day, kind, transaction, &payment.out_trade_no, transaction)
        }
    }

    /// When a payment was paid by WeChat's account.
    async fn paid_at(&self, out_trade_no: &str) -> Result<Option<DateTime<Utc>>, Uncompared> {
        let Some(client) = self.client else { return Ok(None) };
        self.must_go_on()?;
        let transaction = client.query(out_trade_no).await.map_err(Failure::from)?;
        let paid = transaction.filter(|transaction| transaction.is_paid());
        Ok(paid.and_then(|transaction| transaction.success_time))
    }

    /// Refunds that WeChat accepted on that day and that the bill has not.
    async fn missing_refunds(&self, day: BusinessDay, found: &mut Found) -> Result<(), Uncompared> {
        for of_orders in [false, true] {
            self.place_refunds(day, of_orders, true, found).await?;
            let mut after: Option<Position> = None;
            loop {
                let page = self.store.refunds_of_day(day, of_orders, after.as_ref(), PAGE).await?;
                let mut differences = Vec::new();
                for refund in page.iter().flat_map(|(_, refunds)| refunds) {
                    if !found.seen.contains(&refund.out_refund_no) {
                        differences.push(self.missing_refund(day, refund).await?);
                    }
                }
                self.record(differences, found).await?;
                after = page.into_iter().next_back().map(|(position, _)| position);
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Asks WeChat when it accepted refunds that we learned on that day to be done: notices do not say so. What it does not know is
    /// a difference of that day, to be recorded if it is time to `tell`.
    async fn place_refunds(
        &self,
        day: BusinessDay,
        of_orders: bool,
        tell: bool,
        found: &mut Found,
    ) -> Result<(), Uncompared> {
        // Only WeChat knows when it accepted a refund.
        let Some(client) = self.client else { return Ok(()) };
        let mut after: Option<Position> = None;
        loop {
            let page = self.store.refunds_learned_on(day, of_orders, after.as_ref(), PAGE).await?;
            for refund in page.iter().flat_map(|(_, refunds)| refunds) {
                let difference = self.missing_refund(day, refund).await?;
                if found.seen.contains(&refund.out_refund_no) || self.store.is_recorded(&difference.id).await? {
                    continue;
                }
                let theirs = self.ask(client, &refund.out_refund_no).await?;
                let theirs = theirs.filter(|theirs| theirs.status == RefundStatus::Success);
                match theirs.and_then(|theirs| theirs.create_time) {
                    Some(at) if !self.dry_run => self.store.refund_placed(refund, at, day, self.now).await?,
                    Some(at) if BusinessDay::of(at) != day => {}
                    _ if tell => self.record(vec![difference], found).await?,
                    _ => {}
                }
            }
            after = page.into_iter().next_back().map(|(position, _)| position);
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn missing_refund(&self, day: BusinessDay, refund: &KnownRefund) -> Result<PaymentException, store::Error> {
        let (kind, number) = (ExceptionKind::BillMissingRefund, &refund.out_refund_no);
        let (mut ours, mut transaction) = (refund.out_trade_no.clone(), refund.transaction_id.clone());
        // A refund of an order is of the payment that paid it.
        if let Some(order) = refund.order_id.as_ref().filter(|_| ours.is_empty()) {
            let payments = self.store.payments_of(order).await?;
            if let Some(paid) = payments.into_iter().find(|payment| payment.status == PaymentStatus::Paid) {
                (ours, transaction) = (paid.out_trade_no, paid.transaction_id.unwrap_or_default());
            }
        }
        Ok(PaymentException {
            order_id: refund.order_id.clone(),
            amount: refund.amount,
            expected_amount: Some(refund.amount),
            bill_refund_no: Some(number.clone()),
            ..self.difference(day, kind, number, &ours, &transaction)
        })
    }

    fn must_go_on(&self) -> Result<(), Uncompared> {
        if (self.goes_on)() { Ok(()) } else { Err(Uncompared::OutOfTime) }
    }

    fn of_payment(
        &self,
        day: BusinessDay,
        row: &TradeRow,
        kind: ExceptionKind,
        payment: Option<&Payment>,
    ) -> PaymentException {
        let order_id: Option<OrderId> = payment.map(|payment| payment.order_id.clone());
        PaymentException {
            order_id,
            amount: fen(paid(row)),
            expected_amount: payment.map(|payment| payment.amount),
            ..self.difference(day, kind, &row.transaction_id, &row.out_trade_no, &row.transaction_id)
        }
    }

    fn difference(
        &self,
        day: BusinessDay,
        kind: ExceptionKind,
        number: &str,
        out_trade_no: &str,
        transaction_id: &str,
    ) -> PaymentException {
        let day = day.to_string();
        PaymentException {
            id: PaymentException::difference_id(&day, kind, number),
            kind,
            out_trade_no: out_trade_no.to_owned(),
            transaction_id: transaction_id.to_owned(),
            order_id: None,
            amount: Fen::default(),
            expected_amount: None,
            status: ExceptionStatus::Manual,
            out_refund_no: None,
            day: Some(day),
            bill_refund_no: None,
            refund_accepted_at: None,
            refund_bill_day: None,
            settled_elsewhere: false,
            source: self.source.to_owned(),
            created_at: self.now,
            resolved_at: None,
            resolved_by: None,
            remark: None,
        }
    }

    async fn record(&self, differences: Vec<PaymentException>, found: &mut Found) -> Result<(), Uncompared> {
        if !self.dry_run {
            for difference in self.store.new_differences(differences.clone()).await? {
                self.must_go_on()?;
                if self.store.record_difference(&difference).await? {
                    found.recorded = found.recorded.saturating_add(1);
                }
                crashpoint("bill.recorded").await;
            }
        }
        found.differences.extend(differences);
        self.must_go_on()
    }
}

fn is_paid(payment: &Payment) -> bool {
    matches!(payment.status, PaymentStatus::Paid | PaymentStatus::Exception)
}

/// What a row about a payment and our books tell differently.
fn payment_difference(
    row: &TradeRow,
    payment: Option<&Payment>,
    misfit: Option<&PaymentException>,
) -> Option<ExceptionKind> {
    let paid_row = row.state == BillState::Success;
    let Some(payment) = payment else {
        return match misfit {
            Some(misfit) if paid_row => (misfit.amount.get() != paid(row)).then_some(ExceptionKind::BillAmount),
            // Taken back at a till, and never ours.
            None if row.state == BillState::Revoked => None,
            _ if paid_row => Some(ExceptionKind::BillUnknownPayment),
            _ => Some(ExceptionKind::BillState),
        };
    };
    let same = payment.transaction_id.as_deref() == Some(row.transaction_id.as_str());
    if !paid_row || !is_paid(payment) || !same {
        return Some(ExceptionKind::BillState);
    }
    let ours = misfit.map_or(payment.amount, |misfit| misfit.amount);
    (ours.get() != paid(row)).then_some(ExceptionKind::BillAmount)
}

/// What a row about a refund and our books tell differently.
fn refund_difference(refund: &RefundPart, ours: Option<&KnownRefund>) -> Option<ExceptionKind> {
    let Some(ours) = ours else { return Some(ExceptionKind::BillUnknownRefund) };
    if ours.amount.get() != refunded(refund) {
        return Some(ExceptionKind::BillRefundAmount);
    }
    let failed = refund.status == "FAIL" && ours.progress == RefundProgress::Done;
    (failed || !agrees(refund, ours)).then_some(ExceptionKind::BillRefundState)
}

/// Whether our books have a refund as done that the bill has as done. Rows are never updated, so one that is under way says nothing.
fn agrees(refund: &RefundPart, ours: &KnownRefund) -> bool {
    refund.status != "SUCCESS" || ours.progress == RefundProgress::Done
}

fn check_day(day: BusinessDay, survey: &Survey) -> Result<(), Uncompared> {
    if survey.days.iter().any(|found| *found != day) {
        return Err(Uncompared::Other(format!("the bill is not of {day} alone")));
    }
    Ok(())
}

/// The number of ours that a row is about.
fn number_of(row: TradeRow) -> String {
    row.refund.map_or(row.out_trade_no, |refund| refund.out_refund_no)
}
