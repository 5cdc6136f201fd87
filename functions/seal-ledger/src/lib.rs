//! `sealLedger` (timer): seals each finished business day of the ledger with a hash that is chained to the day before.

use std::time::Duration;

use domain::Failure;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::seals::Seal;

/// At most so many days in one run: the reply lists them.
const DAYS_MAX: usize = 400;
/// No day is begun with less time left: a day is hashed in one go.
const TIME_FOR_A_DAY: Duration = Duration::from_secs(30);

pub fn function() -> Function {
    Function::new("sealLedger", handle)
        .summary("定时封存账本")
        .accepts(&[Accept::Timer, Accept::Service("ops")])
        .needs(&[Need::Store])
        .timeout(Duration::from_secs(58))
}

#[derive(Deserialize, JsonSchema)]
struct Input {}

#[derive(Serialize)]
struct Sealed {
    day: String,
    entries: i64,
    hash: String,
}

impl From<&Seal> for Sealed {
    fn from(seal: &Seal) -> Self {
        Self { day: seal.day.clone(), entries: seal.entries, hash: seal.hash.clone() }
    }
}

#[derive(Default, Serialize)]
struct Output {
    sealed: Vec<Sealed>,
    /// The last day of the chain: what to keep outside of the database.
    newest: Option<Sealed>,
    remaining: bool,
}

async fn handle(ctx: Context, _input: Input) -> Result<Reply, Failure> {
    let store = ctx.store();
    let mut newest = store.newest_seal().await?;
    let mut output = Output::default();
    while let Some((day, previous)) = store.next_to_seal(newest.as_ref(), ctx.now).await? {
        if output.sealed.len() >= DAYS_MAX || ctx.time_left() < TIME_FOR_A_DAY {
            output.remaining = true;
            break;
        }
        let seal = store.seal_day(day, &previous, ctx.now).await?;
        // The log is kept elsewhere than the database: a chain that is forged as a whole does not match it.
        tracing::info!(day = seal.day, entries = seal.entries, hash = seal.hash, "ledger sealed");
        output.sealed.push(Sealed::from(&seal));
        newest = Some(seal);
    }
    output.newest = newest.as_ref().map(Sealed::from);
    Reply::of(&output)
}
