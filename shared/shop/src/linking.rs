//! Linking users to customers, one to one, and merging customers that turn out to be the same.
//!
//! The indexes of `member_user` and `customers` keep it one to one; what is checked here only finds the right words.

use chrono::{DateTime, Utc};
use domain::{Code, CustomerId, OpenId, Refusal, UserId};
use store::customers::{Customer, Link, Merge, MergeStatus};
use store::verify::RightCode;
use store::{Error, Tx, crashpoint};

/// A user whose phone is proven: by a code, by WeChat, or by the word of the CRM.
#[derive(Clone, Debug)]
pub struct Proven {
    pub user: UserId,
    pub open_id: OpenId,
    pub phone: String,
    /// Tells customers with the same phone apart.
    pub name: Option<String>,
    /// Consumed with the link.
    pub code: Option<RightCode>,
}

/// Who the user is to the CRM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    pub customer: CustomerId,
    /// How many prepaid records the customer has.
    pub records: u64,
    /// The link stood already.
    pub repeated: bool,
}

/// Links the user to the customer with their phone, with all of the customer's prepaid records.
///
/// `CUSTOMER_NOT_FOUND`; `CUSTOMER_AMBIGUOUS` if several have the phone and the name does not fit exactly one;
/// `PHONE_ALREADY_LINKED`; `CUSTOMER_ALREADY_LINKED` if either side has another link; `VERIFY_CODE_EXPIRED` if the code was used.
pub async fn link(tx: &mut Tx, proven: &Proven, now: DateTime<Utc>) -> Result<Linked, Error> {
    let member = tx.member(&proven.user).await?.ok_or(Code::NotFound)?;
    let candidates = tx.customers_by_phone(&proven.phone).await?;
    let customer = choose(candidates, proven.name.as_deref(), member.customer_id.as_ref())?;
    if member.customer_id.as_ref() == Some(&customer.id) && customer.linked_user_id.as_ref() == Some(&member.id) {
        // The code of a lost reply may be sent again: it opens nothing that is not open.
        if let Some(code) = &proven.code {
            tx.use_code(code, now).await?;
        }
        let records = tx.count_records(&customer.id).await?;
        return Ok(Linked { customer: customer.id, records, repeated: true });
    }
    if let Some(code) = &proven.code
        && !tx.use_code(code, now).await?
    {
        return Err(Code::VerifyCodeExpired.into());
    }
    if tx.phone_is_anothers(&proven.phone, &member.id).await? {
        return Err(Code::PhoneAlreadyLinked.into());
    }
    if member.customer_id.is_some_and(|own| own != customer.id) {
        return Err(Refusal::new(Code::CustomerAlreadyLinked).with_message("您已关联其他客户，请联系工作人员").into());
    }
    let link = Link { user_id: member.id, open_id: proven.open_id.clone(), at: now };
    let free = tx.link_customer(&customer.id, &link, now).await?
        && tx.link_member(&link.user_id, &customer.id, &proven.phone).await?;
    if !free {
        return Err(Code::CustomerAlreadyLinked.into());
    }
    crashpoint("link.inside").await;
    let records = tx.link_records(&customer.id, Some(&link)).await?;
    Ok(Linked { customer: customer.id, records, repeated: false })
}

/// The one that is meant. `own` is who the user is linked to already: asking again without a name means the same one.
fn choose(candidates: Vec<Customer>, name: Option<&str>, own: Option<&CustomerId>) -> Result<Customer, Refusal> {
    let several = candidates.len() > 1;
    let fits = |customer: &Customer| match name {
        _ if !several => true,
        Some(name) => customer.name == name,
        None => own.is_none_or(|own| *own == customer.id),
    };
    let mut fitting = candidates.into_iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(customer), None) => Ok(customer),
        (None, _) if !several => Err(Code::CustomerNotFound.into()),
        _ => Err(Code::CustomerAmbiguous.into()),
    }
}

/// What a clash of the unique indexes means, when the checks of [`link`] ran too early to see it.
pub fn refusal_of_clash(error: Error) -> Error {
    match error {
        error if error.is_duplicate_of("member_user") => Code::PhoneAlreadyLinked.into(),
        error if error.is_duplicate_of("customers") => Code::CustomerAlreadyLinked.into(),
        other => other,
    }
}

/// Two customers that are one, by whose word, under a new id.
#[derive(Clone, Debug)]
pub struct MergeOrder<'a> {
    pub id: &'a str,
    pub source: &'a CustomerId,
    pub target: &'a CustomerId,
    pub by: &'a str,
}

/// Moves the source's prepaid records, addresses and link to the target. The source becomes `merged`.
///
/// `CUSTOMER_NOT_FOUND`; `CONFLICT` if either was merged already; `CUSTOMER_ALREADY_LINKED` if both are linked.
pub async fn merge(tx: &mut Tx, order: &MergeOrder<'_>, now: DateTime<Utc>) -> Result<Merge, Error> {
    let source = active(tx, order.source).await?;
    let target = active(tx, order.target).await?;
    let (moving, staying) = (source.link(), target.link());
    if moving.is_some() && staying.is_some() {
        return Err(Refusal::new(Code::CustomerAlreadyLinked).with_message("两个客户都已关联用户，不能合并").into());
    }
    let (record_ids, address_ids) = tx.belongings(&source.id).await?;
    let merge = Merge {
        id: order.id.to_owned(),
        source_id: source.id,
        target_id: target.id,
        record_ids,
        address_ids,
        linked_user_id: moving.as_ref().map(|link| link.user_id.clone()),
        status: MergeStatus::Merged,
        merged_by: order.by.to_owned(),
        undone_by: None,
        created_at: now,
        undone_at: None,
    };
    let (from, to) = (&merge.source_id, &merge.target_id);
    let moved = tx.move_belongings(&merge, from, to).await?
        && tx.hold_customer(to, now).await?
        && hand_over_link(tx, moving.as_ref(), from, to, now).await?
        && tx.mark_customer_merged(from, to, now).await?;
    if !moved {
        return Err(Code::Conflict.into());
    }
    crashpoint("merge.inside").await;
    tx.link_records(to, moving.or(staying).as_ref()).await?;
    tx.insert_merge(&merge).await?;
    Ok(merge)
}

/// Moves back exactly what the merge moved. `NOT_FOUND`; `CONFLICT` if it was undone already, or if any of it has moved on.
pub async fn unmerge(tx: &mut Tx, id: &str, by: &str, now: DateTime<Utc>) -> Result<Merge, Error> {
    let merge = tx.merge(id).await?.ok_or(Code::NotFound)?;
    let (from, to) = (&merge.target_id, &merge.source_id);
    let target = tx.customer(from).await?.filter(Customer::is_active).ok_or(Code::Conflict)?;
    let link = target.link();
    let returning = link.clone().filter(|link| merge.linked_user_id.as_ref() == Some(&link.user_id));
    let undone = merge.status == MergeStatus::Merged
        && returning.is_some() == merge.linked_user_id.is_some()
        && tx.mark_merge_undone(id, by, now).await?
        && tx.move_belongings(&merge, from, to).await?
        && tx.hold_customer(from, now).await?
        && tx.mark_customer_active(to, from, now).await?
        && hand_over_link(tx, returning.as_ref(), from, to, now).await?;
    if !undone {
        return Err(Code::Conflict.into());
    }
    tx.link_records(to, returning.as_ref()).await?;
    if returning.is_some() {
        tx.link_records(from, None).await?;
    }
    Ok(Merge { status: MergeStatus::Undone, undone_by: Some(by.to_owned()), undone_at: Some(now), ..merge })
}

async fn active(tx: &mut Tx, id: &CustomerId) -> Result<Customer, Error> {
    let customer = tx.customer(id).await?.ok_or(Code::CustomerNotFound)?;
    if !customer.is_active() {
        return Err(Refusal::new(Code::Conflict).with_message("该客户已被合并").into());
    }
    Ok(customer)
}

/// The whole link, if there is one to move.
async fn hand_over_link(
    tx: &mut Tx,
    link: Option<&Link>,
    from: &CustomerId,
    to: &CustomerId,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let Some(link) = link else { return Ok(true) };
    // Off first: no two customers may have the same user, not even for a moment.
    Ok(tx.move_link(&link.user_id, from, to, now).await? && tx.link_customer(to, link, now).await?)
}

#[cfg(test)]
mod tests {
    use store::customers::CustomerStatus;

    use super::*;

    fn customer(id: &str, name: &str) -> Customer {
        Customer {
            id: CustomerId::parse(id).unwrap(),
            name: name.to_owned(),
            phone: None,
            status: CustomerStatus::Active,
            merged_into: None,
            linked_user_id: None,
            linked_open_id: None,
            link_time: None,
            remark: None,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_name_decides_only_among_several() {
        let (one, two, twin) = (customer("c-1", "王小明"), customer("c-2", "王晓明"), customer("c-3", "王小明"));
        let pair = [one.clone(), two.clone()];
        let check = |candidates: &[Customer], name: Option<&str>, own: Option<&str>, expected: Result<&str, Code>| {
            let own = own.map(|own| CustomerId::parse(own).unwrap());
            let found = choose(candidates.to_vec(), name, own.as_ref()).map(|c| c.id).map_err(|e| e.code);
            assert_eq!(found, expected.map(|id| CustomerId::parse(id).unwrap()));
        };
        check(&[], None, None, Err(Code::CustomerNotFound));
        check(std::slice::from_ref(&one), Some("另一个"), None, Ok("c-1"));
        check(&pair, None, None, Err(Code::CustomerAmbiguous));
        check(&pair, Some("王晓明"), None, Ok("c-2"));
        check(&pair, Some("王五"), None, Err(Code::CustomerAmbiguous));
        check(&[one, two, twin], Some("王小明"), None, Err(Code::CustomerAmbiguous));
        check(&pair, None, Some("c-2"), Ok("c-2"));
        check(&pair, None, Some("c-9"), Err(Code::CustomerAmbiguous));
    }
}
