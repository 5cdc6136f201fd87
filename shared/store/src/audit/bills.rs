//! Days that were compared with WeChat's bills, and what was found.

use std::collections::{BTreeSet, HashMap};

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use domain::BusinessDay;
use futures_util::TryStreamExt;

use super::rules::resolution_off;
use super::{Audit, Batch};
use crate::Error;
use crate::bills::{Bill, BillStatus};
use crate::book;
use crate::payments::{ExceptionKind, ExceptionStatus, Payment, PaymentException, PaymentStatus};
use crate::refunds::Refund;

const NAME: &str = "bill";
const OF_PAYMENTS: [ExceptionKind; 3] =
    [ExceptionKind::BillMissingPayment, ExceptionKind::BillAmount, ExceptionKind::BillState];
const OF_REFUNDS: [ExceptionKind; 3] =
    [ExceptionKind::BillMissingRefund, ExceptionKind::BillRefundAmount, ExceptionKind::BillRefundState];

/// What the bill of a day has to have.
struct Belongs {
    id: String,
    day: String,
    /// What may be recorded where the bill has not, or otherwise.
    differences: Vec<String>,
}

impl Belongs {
    /// None for a refund that a bill has, or of which it is not known when it was accepted.
    fn of_refund(id: String, number: &str, at: Option<DateTime<Utc>>, bill_day: Option<&str>) -> Option<Self> {
        let day = BusinessDay::of(at.filter(|_| bill_day.is_none())?).to_string();
        let differences = OF_REFUNDS.map(|kind| PaymentException::difference_id(&day, kind, number));
        Some(Self { id, day, differences: differences.to_vec() })
    }
}

impl Audit<'_> {
    pub(super) async fn bills(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Bill> = self.batch("bills", NAME, after).await?;
            let counts = self.differences_of(&batch.rows).await?;
            for bill in &batch.rows {
                for message in bill_off(bill, counts.get(&bill.day).copied().unwrap_or(0)) {
                    self.violation(NAME, message, format!("bills/{}", bill.day));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// How many differences each of these days has.
    async fn differences_of(&mut self, bills: &[Bill]) -> Result<HashMap<String, i64>, Error> {
        let days: Vec<&str> = bills.iter().map(|bill| bill.day.as_str()).collect();
        if days.is_empty() {
            return Ok(HashMap::new());
        }
        let collection = self.collection("paymentExceptions").await?;
        let pipeline = vec![
            doc! { "$match": { "day": { "$in": days } } },
            doc! { "$group": { "_id": "$day", "count": { "$sum": 1i64 } } },
        ];
        let mut cursor = collection.aggregate(pipeline).session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        Ok(rows
            .iter()
            .map(|row| (row.get_str("_id").unwrap_or_default().to_owned(), book::number(row, "count")))
            .collect())
    }

    /// The differences among these exceptions.
    pub(super) async fn check_days_of(&mut self, exceptions: &[PaymentException]) -> Result<(), Error> {
        let days: BTreeSet<String> = exceptions.iter().filter_map(|one| one.day.clone()).collect();
        let bills: Vec<Bill> = self.matching("bills", "_id", days.into_iter().collect()).await?;
        for exception in exceptions.iter().filter(|one| one.kind.is_difference() || one.day.is_some()) {
            let known = bills.iter().any(|bill| Some(&bill.day) == exception.day.as_ref());
            for message in difference_off(exception, known) {
                self.violation(NAME, message, format!("paymentExceptions/{}", exception.id));
            }
        }
        self.check_bill_days_of_misfits(exceptions).await
    }

    /// What payments say of the bills that they are in.
    pub(super) async fn check_bill_days_of(&mut self, payments: &[Payment]) -> Result<(), Error> {
        let days: BTreeSet<String> = payments.iter().filter_map(|one| one.bill_day.clone()).collect();
        let bills: Vec<Bill> = self.matching("bills", "_id", days.into_iter().collect()).await?;
        for payment in payments.iter().filter(|one| one.bill_day.is_some()) {
            let id = || format!("payments/{}", payment.out_trade_no);
            if !bills.iter().any(|bill| Some(&bill.day) == payment.bill_day.as_ref()) {
                self.violation(NAME, "the payment is in the bill of a day that was never compared", id());
            }
            if !matches!(payment.status, PaymentStatus::Paid | PaymentStatus::Exception) {
                self.violation(NAME, "a payment that is in a bill as with us is not paid", id());
            }
        }
        let belongs = |payment: &Payment| {
            let paid = matches!(payment.status, PaymentStatus::Paid | PaymentStatus::Exception);
            let id = format!("payments/{}", payment.out_trade_no);
            let day = BusinessDay::of(payment.success_at.filter(|_| paid && payment.bill_day.is_none())?).to_string();
            let transaction = payment.transaction_id.as_deref().unwrap_or_default();
            let differences = OF_PAYMENTS.map(|kind| PaymentException::difference_id(&day, kind, transaction));
            Some(Belongs { id, day, differences: differences.to_vec() })
        };
        let belonging = payments.iter().filter_map(belongs).collect();
        self.check_missing(belonging).await
    }

    /// The same of refunds of orders.
    pub(super) async fn check_bill_days_of_refunds(&mut self, refunds: &[Refund]) -> Result<(), Error> {
        let numbers = || refunds.iter().flat_map(|refund| refund.numbers.iter().map(move |number| (refund, number)));
        let belonging = numbers().filter(|(_, number)| number.state.as_deref() == Some("SUCCESS"));
        let belonging = belonging.filter_map(|(refund, number)| {
            let id = format!("refunds/{}", refund.id);
            Belongs::of_refund(id, &number.out_refund_no, number.accepted_at, number.bill_day.as_deref())
        });
        self.check_missing(belonging.collect()).await?;
        let marked =
            numbers().filter_map(|(refund, number)| Some((format!("refunds/{}", refund.id), number.bill_day.clone()?)));
        self.check_marked(marked.collect()).await
    }

    /// The same of refunds of money that fits no order.
    async fn check_bill_days_of_misfits(&mut self, exceptions: &[PaymentException]) -> Result<(), Error> {
        let done = exceptions.iter().filter(|one| one.status == ExceptionStatus::Refunded);
        let belonging = done.filter_map(|one| {
            let (id, number) = (format!("paymentExceptions/{}", one.id), one.out_refund_no.as_deref()?);
            Belongs::of_refund(id, number, one.refund_accepted_at, one.refund_bill_day.as_deref())
        });
        self.check_missing(belonging.collect()).await?;
        let marked = exceptions
            .iter()
            .filter_map(|one| Some((format!("paymentExceptions/{}", one.id), one.refund_bill_day.clone()?)));
        self.check_marked(marked.collect()).await
    }

    async fn check_marked(&mut self, marked: Vec<(String, String)>) -> Result<(), Error> {
        let days: BTreeSet<String> = marked.iter().map(|(_, day)| day.clone()).collect();
        let bills: Vec<Bill> = self.matching("bills", "_id", days.into_iter().collect()).await?;
        for (id, _) in marked.into_iter().filter(|(_, day)| !bills.iter().any(|bill| bill.day == *day)) {
            self.violation(NAME, "the refund is in the bill of a day that was never compared", id);
        }
        Ok(())
    }

    /// What belongs to a day that was compared to its end is in its bill as with us, or somebody was told that it is not.
    async fn check_missing(&mut self, mut belonging: Vec<Belongs>) -> Result<(), Error> {
        let days: BTreeSet<String> = belonging.iter().map(|one| one.day.clone()).collect();
        let bills: Vec<Bill> = self.matching("bills", "_id", days.into_iter().collect()).await?;
        let compared = |day: &str| bills.iter().any(|bill| bill.day == day && bill.status != BillStatus::Open);
        belonging.retain(|one| compared(&one.day));
        let ids = belonging.iter().flat_map(|one| one.differences.clone()).collect();
        let told: Vec<PaymentException> = self.matching("paymentExceptions", "_id", ids).await?;
        for one in belonging {
            if !told.iter().any(|difference| one.differences.contains(&difference.id)) {
                let message = format!("the bill of {} was compared, does not have it, and nobody was told", one.day);
                self.violation(NAME, message, one.id);
            }
        }
        Ok(())
    }
}

fn bill_off(bill: &Bill, differences: i64) -> Vec<String> {
    let mut off = Vec::new();
    if bill.differences != differences {
        off.push(format!("{} differences are counted and {differences} are recorded", bill.differences));
    }
    let open = bill.status == BillStatus::Open;
    if open == bill.finished_at.is_some() {
        off.push("a day has the time of its comparison exactly if it was compared".to_owned());
    }
    if !open && bill.next_attempt_at.is_some() {
        off.push("a day that was compared waits for a next try".to_owned());
    }
    if bill.status == BillStatus::None && (bill.payments, bill.refunds) != (0, 0) {
        off.push("a day without trade has trade".to_owned());
    }
    off
}

fn difference_off(exception: &PaymentException, day_known: bool) -> Vec<&'static str> {
    let mut off = Vec::new();
    let number = exception.bill_refund_no.as_deref().unwrap_or(&exception.transaction_id);
    let day = exception.day.as_deref().unwrap_or_default();
    if !exception.kind.is_difference() || exception.id != PaymentException::difference_id(day, exception.kind, number) {
        off.push("the difference is not what its key says");
    }
    if !day_known {
        off.push("a difference of a day that was never compared");
    }
    if !matches!(exception.status, ExceptionStatus::Manual | ExceptionStatus::Resolved)
        || exception.out_refund_no.is_some()
    {
        off.push("a difference is for a person to resolve, and moves no money by itself");
    }
    off.extend(resolution_off(exception));
    off
}
