//! `generateOrderId`: a fresh order number. Nothing is reserved; `submitOrder` makes its own.

use domain::{Failure, OrderId};
use edge::{Accept, Context, Function, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub fn function() -> Function {
    Function::new("generateOrderId", handle)
        .summary("生成订单号")
        .accepts(&[Accept::User, Accept::Service("orders"), Accept::Staff("orders")])
        .needs(&[edge::Need::Session])
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    order_id: String,
}

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let order_id = OrderId::generate(ctx.now, rand::random()).as_str().to_owned();
    Reply::of(&Output { order_id })
}
