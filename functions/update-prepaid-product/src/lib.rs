//! `updatePrepaidProduct`: corrects the pieces of a prepaid record by hand, with a reason.

use domain::money::POINTS_MAX;
use domain::{Code, Failure, Refusal, text};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::prepaid::{Correction, correct};
use store::prepaid::PrepaidChange;

pub fn function() -> Function {
    Function::new("updatePrepaidProduct", handle)
        .summary("调整预存商品数量")
        .accepts(&[Accept::Service("prepaid"), Accept::Staff("prepaid")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum UpdateType {
    Increase,
    Decrease,
    Set,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    record_id: String,
    update_type: UpdateType,
    /// Whole pieces; 0 only for `set`.
    quantity: i64,
    reason: String,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    record_id: String,
    /// Pieces after the change.
    balance: i64,
    /// Pieces, signed.
    change: i64,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let record_id = text::required("recordId", &input.record_id, 64)?;
    let reason = text::required("reason", &input.reason, 100)?;
    let correction = correction(input.update_type, input.quantity)?;

    let key = ctx.command_key();
    let id = match &key {
        Some(key) => format!("prepaidProduct:{}:correct", key.id()),
        None => format!("prepaidProduct:{:032x}:correct", rand::random::<u128>()),
    };
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, record_id, reason, now) = (&id, &record_id, &reason, ctx.now);
            Box::pin(async move {
                // The book remembers a command for longer than its stored reply.
                if let Some(earlier) = tx.prepaid_change(id).await? {
                    return if is_of(&earlier, record_id, correction) {
                        Ok((output(&earlier), true))
                    } else {
                        Err(Code::Conflict.into())
                    };
                }
                Ok((output(&correct(tx, record_id, correction, reason, id, now).await?), false))
            })
        })
        .await?;
    let (output, repeated) = done.value;
    Ok(Reply::of(&output)?.with_replayed(done.replayed || repeated))
}

fn output(row: &PrepaidChange) -> Output {
    Output { record_id: row.record_id.clone(), balance: row.balance, change: row.change }
}

/// Whether an earlier row is what this command asks for.
fn is_of(row: &PrepaidChange, record_id: &str, correction: Correction) -> bool {
    let same = match correction {
        Correction::Increase(n) => row.update_type == "increase" && row.change == n,
        Correction::Decrease(n) => row.update_type == "decrease" && row.change == n.saturating_neg(),
        Correction::Set(n) => row.update_type == "set" && row.balance == n,
    };
    same && row.record_id == record_id
}

fn correction(update_type: UpdateType, quantity: i64) -> Result<Correction, Refusal> {
    let least = if matches!(update_type, UpdateType::Set) { 0 } else { 1 };
    if quantity < least {
        return Err(Refusal::invalid("quantity", format!("quantity 不能小于 {least}")));
    }
    if quantity > POINTS_MAX {
        return Err(Refusal::invalid("quantity", "quantity 超出范围"));
    }
    Ok(match update_type {
        UpdateType::Increase => Correction::Increase(quantity),
        UpdateType::Decrease => Correction::Decrease(quantity),
        UpdateType::Set => Correction::Set(quantity),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_set_may_be_zero() {
        for (update_type, quantity, expected) in [
            (UpdateType::Increase, 3, Some(Correction::Increase(3))),
            (UpdateType::Decrease, 3, Some(Correction::Decrease(3))),
            (UpdateType::Set, 0, Some(Correction::Set(0))),
            (UpdateType::Increase, 0, None),
            (UpdateType::Decrease, -3, None),
            (UpdateType::Set, -1, None),
            (UpdateType::Set, i64::MAX, None),
        ] {
            assert_eq!(correction(update_type, quantity).ok(), expected);
        }
    }
}
