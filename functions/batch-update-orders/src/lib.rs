//! `batchUpdateOrders`: many orders, what is to become of each, and how each fared. Each takes the way that its own command takes:
//! no status is ever just written.

use std::time::Duration;

use domain::{Failure, Logistics, Refusal, text};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::Deserialize;
use shop::batch::{Batch, Job, ORDERS_MAX, Step};
use shop::shipping::Parcel;

pub fn function() -> Function {
    Function::new("batchUpdateOrders", handle)
        .summary("批量更新订单：发货、完成、关闭")
        .accepts(&[Accept::Service("orders"), Accept::Staff("orders")])
        .needs(&[Need::Store, Need::Session, Need::Pay])
        .timeout(Duration::from_secs(55))
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    /// 1 to 100 orders that the other fields are for.
    order_ids: Option<Vec<String>>,
    /// Instead of `orderIds`: 1 to 100 orders, each with fields of its own.
    orders: Option<Vec<OrderInput>>,
    /// `shipped`, `completed` or `closed`.
    status: Option<String>,
    /// For `shipped`: `express` (unless given), `city`, `virtual` or `pickup`.
    #[schemars(with = "Option<String>")]
    logistics: Option<Logistics>,
    /// For `shipped` by `express`: the courier by WeChat's id, e.g. `SF`.
    express_company: Option<String>,
    /// For `shipped` by `express`.
    tracking_no: Option<String>,
    /// For `closed`.
    reason: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OrderInput {
    order_id: String,
    /// `shipped`, `completed` or `closed`.
    status: Option<String>,
    /// For `shipped`: `express` (unless given), `city`, `virtual` or `pickup`.
    #[schemars(with = "Option<String>")]
    logistics: Option<Logistics>,
    /// For `shipped` by `express`: the courier by WeChat's id, e.g. `SF`.
    express_company: Option<String>,
    /// For `shipped` by `express`.
    tracking_no: Option<String>,
    /// For `closed`.
    reason: Option<String>,
}

/// What is to become of an order.
struct Update {
    status: Option<String>,
    logistics: Option<Logistics>,
    express_company: Option<String>,
    tracking_no: Option<String>,
    reason: Option<String>,
}

impl Update {
    fn step(&self) -> Result<Step, Refusal> {
        match self.status.as_deref() {
            Some("shipped") => {
                let (company, number) = (self.express_company.as_deref(), self.tracking_no.as_deref());
                Parcel::parse(self.logistics.unwrap_or(Logistics::Express), company, number).map(Step::Ship)
            }
            Some("completed") => Ok(Step::Complete),
            Some("closed") => {
                let reason = text::clean("reason", self.reason.as_deref().unwrap_or("商家关闭"), 100)?;
                Ok(Step::Close { reason })
            }
            Some(_) => Err(Refusal::invalid("status", "status 应为 shipped、completed 或 closed")),
            None => Err(Refusal::invalid("status", "请指定 status")),
        }
    }
}

impl OrderInput {
    fn job(self) -> Job {
        let Self { order_id, status, logistics, express_company, tracking_no, reason } = self;
        let update = Update { status, logistics, express_company, tracking_no, reason };
        Job { order_id, step: update.step() }
    }
}

impl Input {
    /// One job per order that is named, also where it is named twice.
    fn jobs(self) -> Result<Vec<Job>, Refusal> {
        let Self { order_ids, orders, status, logistics, express_company, tracking_no, reason } = self;
        let (field, jobs) = match (order_ids, orders) {
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid("orders", "orderIds 与 orders 只能填写一个"));
            }
            (Some(ids), None) => {
                // What is wrong for all is told once.
                let step = Update { status, logistics, express_company, tracking_no, reason }.step()?;
                let job = |order_id| Job { order_id, step: Ok(step.clone()) };
                ("orderIds", ids.into_iter().map(job).collect::<Vec<_>>())
            }
            (None, Some(orders)) => ("orders", orders.into_iter().map(OrderInput::job).collect()),
            (None, None) => ("orderIds", Vec::new()),
        };
        if jobs.is_empty() || jobs.len() > ORDERS_MAX {
            return Err(Refusal::invalid(field, format!("{field} 应有 1 到 {ORDERS_MAX} 个")));
        }
        Ok(jobs)
    }
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let by = ctx.caller.operator()?;
    let jobs = input.jobs()?;
    let key = ctx.command_key();
    let batch = Batch {
        store: ctx.store(),
        client: ctx.pay()?,
        rules: ctx.rules(),
        by: &by,
        key: key.as_ref(),
        time_left: &|| ctx.time_left(),
        now: ctx.now,
    };
    let done = batch.run(&jobs).await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}
