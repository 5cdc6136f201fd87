//! How prepaid records and deductions look on the wire: money in yuan, goods in pieces.

use domain::{CustomerId, Failure, Fen, OpenId, Yuan};
use serde::Serialize;
use store::Store;
use store::prepaid::{
    DeductionDetail, DeductionStatus, LinkStatus, PrepaidDeduction, PrepaidRecord, PrepaidType as Type,
};

use crate::members::active_member;
use crate::views::iso;

/// An amount of prepaid: yuan of a record of money, pieces of a record of goods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Quantity {
    Money(Yuan),
    Pieces(i64),
}

impl Quantity {
    /// From the unit in which the store counts: fen or pieces.
    pub fn of(prepaid_type: Type, amount: i64) -> Result<Self, Failure> {
        match prepaid_type {
            Type::Amount => {
                let fen = Fen::new(amount).map_err(|e| Failure::Internal(Box::new(e)))?;
                Ok(Self::Money(Yuan(fen)))
            }
            Type::Product => Ok(Self::Pieces(amount)),
        }
    }
}

/// A record, as its customer and staff see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordView {
    #[serde(rename = "_id")]
    pub id: String,
    pub record_id: String,
    pub customer_id: String,
    #[serde(rename = "type")]
    pub prepaid_type: Type,
    pub balance: Quantity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_name: Option<String>,
    /// For staff alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    pub link_status: LinkStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_time: Option<String>,
    pub created_at: String,
}

impl RecordView {
    /// `for_staff` shows the remark too.
    pub fn of(record: PrepaidRecord, for_staff: bool) -> Result<Self, Failure> {
        Ok(Self {
            balance: Quantity::of(record.prepaid_type, record.balance)?,
            record_id: record.id.clone(),
            id: record.id,
            customer_id: record.customer_id.into(),
            prepaid_type: record.prepaid_type,
            product_id: record.product_id.map(String::from),
            product_name: record.product_name,
            remark: for_staff.then_some(record.remark),
            link_status: record.link_status,
            link_time: record.link_time.map(iso),
            created_at: iso(record.created_at),
        })
    }
}

/// What one record gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DetailView {
    pub record_id: String,
    pub before: Quantity,
    pub deducted: Quantity,
    pub after: Quantity,
}

impl DetailView {
    pub fn of(prepaid_type: Type, detail: &DeductionDetail) -> Result<Self, Failure> {
        Ok(Self {
            record_id: detail.record_id.clone(),
            before: Quantity::of(prepaid_type, detail.before)?,
            deducted: Quantity::of(prepaid_type, detail.deducted)?,
            after: Quantity::of(prepaid_type, detail.after)?,
        })
    }
}

/// What was taken for an order.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeductionView {
    #[serde(rename = "_id")]
    pub id: String,
    pub deduction_id: String,
    pub customer_id: String,
    pub order_id: String,
    pub prepaid_type: Type,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_id: Option<String>,
    pub total_amount: Quantity,
    pub deducted_amount: Quantity,
    pub details: Vec<DetailView>,
    pub status: DeductionStatus,
    pub created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<String>,
}

impl DeductionView {
    pub fn of(row: PrepaidDeduction) -> Result<Self, Failure> {
        let quantity = |amount| Quantity::of(row.prepaid_type, amount);
        Ok(Self {
            total_amount: quantity(row.total_amount)?,
            deducted_amount: quantity(row.deducted_amount)?,
            details: row.details.iter().map(|d| DetailView::of(row.prepaid_type, d)).collect::<Result<_, _>>()?,
            deduction_id: row.id.clone(),
            id: row.id,
            customer_id: row.customer_id.into(),
            order_id: row.order_id,
            prepaid_type: row.prepaid_type,
            product_id: row.product_id.map(String::from),
            status: row.status,
            created_at: iso(row.created_at),
            restored_at: row.restored_at.map(iso),
        })
    }
}

/// The customer that a user is linked to. Naming any other is `FORBIDDEN`, whether it exists or not; without a link and without
/// naming one it is `CUSTOMER_NOT_FOUND`.
pub async fn own_customer(store: &Store, open_id: &OpenId, named: Option<&CustomerId>) -> Result<CustomerId, Failure> {
    let member = active_member(store, open_id, domain::Code::Unauthenticated).await?;
    match (member.customer_id, named) {
        (Some(own), None) => Ok(own),
        (Some(own), Some(named)) if own == *named => Ok(own),
        (_, Some(_)) => Err(domain::Code::Forbidden.into()),
        (None, None) => Err(domain::Code::CustomerNotFound.into()),
    }
}
