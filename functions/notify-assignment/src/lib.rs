//! `notifyAssignment`: tells staff which customers they were assigned.

mod input;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use serde::Serialize;
use shop::assignments::{self, Means, Plan, TEMPLATE, Told};
use shop::deliver::Deliverer;
use store::assignments::Progress;
use tokio::time::Instant;

use crate::input::Input;

/// How long a call waits for first tries.
const BUDGET: Duration = Duration::from_secs(1);
/// Messages that a call tries at once; the timer takes care of the others.
const FIRST_TRIES: usize = 8;
/// How long this process leaves first tries to the timer after WeChat was slow or out of reach.
const REST: Duration = Duration::from_secs(30);

pub fn function() -> Function {
    let circuit = Arc::new(Circuit::default());
    Function::new("notifyAssignment", move |ctx, input| handle(ctx, input, Arc::clone(&circuit)))
        .summary("客户分配通知")
        .accepts(&[Accept::Service("notify"), Accept::Staff("notify")])
        .needs(&[Need::Store, Need::Session, Need::OpenApi])
}

#[derive(Serialize)]
struct Output {
    sent: usize,
    queued: usize,
    refused: usize,
    results: Vec<Told>,
}

async fn handle(ctx: Context, input: Input, circuit: Arc<Circuit>) -> Result<Reply, Failure> {
    let wait = input.wait.unwrap_or(true);
    let assigned = input.parse()?;

    let config = &ctx.app.config;
    let means = Means {
        template: config.templates.iter().find(|template| template.name == TEMPLATE),
        text_template: config.assignment_sms_template.as_deref(),
    };
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (assigned, now) = (&assigned, ctx.now);
            Box::pin(async move { assignments::plan(tx, assigned, means, now).await })
        })
        .await?;
    store::crashpoint("notify.planned").await;

    if wait && !done.replayed {
        first_tries(&ctx, &done.value.fresh, &circuit).await;
    }
    Ok(Reply::of(&output(&ctx, &done.value).await?)?.with_replayed(done.replayed))
}

/// What has become of the plan by now.
async fn output(ctx: &Context, plan: &Plan) -> Result<Output, Failure> {
    let ids = assignments::with_texts(plan.results.iter().filter_map(|one| one.message_id.as_deref()));
    let mut progress: BTreeMap<String, Progress> = BTreeMap::new();
    if !ids.is_empty() {
        progress.extend(ctx.store().progress(&ids).await?.into_iter().map(|one| (one.id.clone(), one)));
    }
    let results: Vec<Told> = plan.results.iter().map(|one| assignments::told(one, &progress)).collect();
    let count = |status: &str| results.iter().filter(|one| one.status == status).count();
    Ok(Output { sent: count("sent"), queued: count("queued"), refused: count("refused"), results })
}

/// Tries the first few messages at once. What does not end in time ends beside the next calls; whatever happens to it, the outbox
/// knows, and the answer says how far each message is.
async fn first_tries(ctx: &Context, fresh: &[String], circuit: &Circuit) {
    if fresh.is_empty() || !circuit.is_closed(Instant::now()) {
        return;
    }
    let tries = {
        let (app, ids) = (Arc::clone(&ctx.app), fresh.iter().take(FIRST_TRIES).cloned().collect::<Vec<_>>());
        async move {
            let open = app.open_api()?;
            let clock = || app.clock.now();
            let deliverer = Deliverer {
                store: app.store(),
                pay: None,
                open: Some(open),
                sms: None,
                kuaidi100: None,
                text_template: app.config.assignment_sms_template.as_deref(),
                templates: &app.config.templates,
                tells: &app.config.rules.tells,
                clock: &clock,
            };
            deliverer.deliver_ids(&ids).await
        }
    };
    match ctx.outlive(BUDGET, tries).await {
        // Put back: WeChat could not be reached, or is not to be asked for a while.
        Some(Ok(sum)) if sum.retried == 0 => {}
        _ => circuit.open(Instant::now()),
    }
}

/// Remembers in this process that first tries are of no use for now. It may be wrong; then messages come a little later.
#[derive(Default)]
struct Circuit {
    open_until: Mutex<Option<Instant>>,
}

impl Circuit {
    fn is_closed(&self, now: Instant) -> bool {
        self.open_until.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|until| until <= now)
    }

    fn open(&self, now: Instant) {
        *self.open_until.lock().unwrap_or_else(PoisonError::into_inner) = now.checked_add(REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_trouble_first_tries_rest_for_a_while() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        assert!(circuit.is_closed(now));
        circuit.open(now);
        assert!(!circuit.is_closed(now + REST - Duration::from_millis(1)));
        assert!(circuit.is_closed(now + REST));
    }
}
