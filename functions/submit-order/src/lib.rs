//! `submitOrder`: makes an order at the store's prices, holds its stock, takes its points and balance.
//!
//! An order that nothing is left to pay for is paid at once. An order whose tender fails is not made.

mod decide;
mod input;
mod place;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};

use place::{Buyer, Placing, place};

pub use input::Input;

pub fn function() -> Function {
    Function::new("submitOrder", handle)
        .summary("提交订单")
        .accepts(&[Accept::User, Accept::Service("orders")])
        .needs(&[Need::Store, Need::Session])
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let open_id = ctx.caller.acting_open_id(input.open_id.as_deref())?;
    let mut command = input.parse()?;
    let key = ctx.command_key();
    let buyer = Buyer { open_id, code_if_unknown: ctx.caller.code_if_unknown() };
    let (store, rules, now) = (ctx.store(), ctx.rules(), ctx.now);
    if let Some(id) = &command.quote_id {
        command.shown = Some(store.shown_quote(id, &buyer.open_id, now).await?);
    }
    let placing = Placing { store, rules, buyer: &buyer, command: &command, key: key.as_ref(), now };
    let placed = place(&placing).await?;
    Ok(Reply::of(&placed.value)?.with_replayed(placed.replayed))
}
