//! `deleteProduct`: takes a product off the shelf for good.
//!
//! Its document stays, because orders, rights and the book name it; nobody is shown it any more.

use domain::{Code, Failure, ProductId, Refusal};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub fn function() -> Function {
    Function::new("deleteProduct", handle)
        .summary("删除商品")
        .accepts(&[Accept::Service("products"), Accept::Staff("products")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    product_id: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    product_id: String,
    deleted: bool,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let id = ProductId::parse(&input.product_id);
    let id = id.map_err(|_| Refusal::invalid("productId", "productId 格式不正确"))?;
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, now) = (&id, ctx.now);
            Box::pin(async move {
                if !tx.delete_product(id, now).await? {
                    return Err(Code::ProductNotFound.into());
                }
                Ok(Output { product_id: id.as_str().to_owned(), deleted: true })
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}
