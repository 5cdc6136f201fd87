//! `jinlu selfcheck`: small things done for real on the configured database.

use std::process::ExitCode;

use anyhow::Result;
use chrono::{DateTime, Utc};
use domain::{Code, CustomerId, ProductId};
use edge::Clock;
use serde_json::json;
use shop::prepaid::{self, Deduct, Deposit};
use store::Store;
use store::prepaid::{PrepaidDeduction, PrepaidType};

use crate::cli::say;
use crate::database::DatabaseArgs;

/// 自检：在所配置的数据库上真实执行一遍 · Do the real thing once on the configured database
///
/// prepaid：在带 selfcheck- 标记的一次性客户与记录上依次充值、扣减、重复扣减、归还，最后清空；账本分录保留，审计保持无误。
/// 每一步输出 ✓ 或 ✗；全部通过时退出码为 0。
/// prepaid: deposits, deducts, repeats, restores on a throw-away customer whose ids begin with `selfcheck-`, and empties its
/// records at the end. Ledger entries stay, and the audit stays clean. Prints ✓ or ✗ per step; exits 0 only if all hold.
///
/// Examples:
///   jinlu selfcheck prepaid                      the local cloud in .jinlu
///   jinlu selfcheck prepaid --uri mongodb://…    after a deployment or a migration
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 检查什么 · What to check
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    Prepaid,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let opened = args.database.open().await?;
    let mut steps = Vec::new();
    let What::Prepaid = args.what;
    let outcome = prepaid(&opened.store, Clock::system().now(), &mut |step| steps.push(step)).await;
    opened.close().await?;
    let mut failed = steps.iter().any(|step| !step.passed);
    for step in steps {
        say(step)?;
    }
    if let Err(error) = outcome {
        failed = true;
        say(format_args!("✗ {error:#}"))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What one step found.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: String,
    pub passed: bool,
    pub found: String,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if self.passed { '✓' } else { '✗' };
        write!(f, "{mark} {}: {}", self.name, self.found)
    }
}

/// The throw-away customer of one run.
struct Subject<'a> {
    store: &'a Store,
    customer: CustomerId,
    now: DateTime<Utc>,
}

/// One of its records: what goes in, what is taken, and of what.
struct Case {
    record: String,
    kind: PrepaidType,
    product: Option<ProductId>,
    total: i64,
    take: i64,
}

impl Subject<'_> {
    async fn deduct(&self, case: &Case, order: &str, amount: i64) -> Result<(PrepaidDeduction, bool), store::Error> {
        let records = [case.record.clone()];
        let deduct = Deduct {
            customer: &self.customer,
            order_id: order,
            prepaid_type: case.kind,
            product: case.product.as_ref(),
            amount,
            record_ids: Some(&records),
            allow_partial: false,
        };
        let (deduct, now) = (&deduct, self.now);
        self.store.transaction(|tx, _| Box::pin(async move { prepaid::deduct(tx, deduct, now).await })).await
    }

    async fn balance(&self, case: &Case) -> Result<Option<i64>, store::Error> {
        Ok(self.store.prepaid_record(&case.record).await?.map(|record| record.balance))
    }

    /// Deposit, deduct, repeat, overdraw, restore, repeat, empty.
    async fn check(&self, case: &Case, tell: &mut (dyn FnMut(Step) + Send)) -> Result<()> {
        let (now, label) = (self.now, case.kind.as_str());
        let mut step = |name: &str, passed: bool, found: String| {
            tell(Step { name: format!("{label} {name}"), passed, found });
        };
        let left = case.total.saturating_sub(case.take);
        let deposit = Deposit {
            record_id: case.record.clone(),
            prepaid_type: case.kind,
            amount: case.total,
            product: case.product.clone(),
            product_name: case.product.as_ref().map(|_| "自检商品".to_owned()),
            remark: "jinlu selfcheck，可忽略".to_owned(),
        };
        let (put, customer) = (&deposit, &self.customer);
        self.store.transaction(|tx, _| Box::pin(async move { prepaid::deposit(tx, customer, put, now).await })).await?;
        let balance = self.balance(case).await?;
        step("add", balance == Some(case.total), format!("record {} holds {}", case.record, shown(balance)));

        let order = format!("{}-order", case.record);
        let (row, replayed) = self.deduct(case, &order, case.take).await?;
        let balance = self.balance(case).await?;
        let right = !replayed && row.deducted_amount == case.take && balance == Some(left);
        step("deduct", right, format!("took {}, {} left", row.deducted_amount, shown(balance)));

        let (_, replayed) = self.deduct(case, &order, case.take).await?;
        let balance = self.balance(case).await?;
        step("deduct again", replayed && balance == Some(left), format!("replayed, {} left", shown(balance)));

        let refused = self.deduct(case, &format!("{order}-2"), case.total).await;
        let passed = matches!(&refused, Err(store::Error::Refused(r)) if r.code == Code::PrepaidInsufficient);
        let balance = self.balance(case).await?;
        let found = refused.map_or_else(|error| error.to_string(), |_| "was not refused".to_owned());
        step("deduct too much", passed && balance == Some(left), found);

        for (name, second) in [("restore", false), ("restore again", true)] {
            let id = row.id.as_str();
            let (_, replayed) =
                self.store.transaction(|tx, _| Box::pin(async move { prepaid::restore(tx, id, now).await })).await?;
            let balance = self.balance(case).await?;
            let right = replayed == second && balance == Some(case.total);
            step(name, right, format!("{} there", shown(balance)));
        }

        let record = case.record.as_str();
        self.store
            .transaction(|tx, _| {
                Box::pin(async move {
                    let deposit = tx.entry(&format!("prepaid:{record}:deposit")).await?;
                    let deposit =
                        deposit.ok_or_else(|| store::Error::Invariant("no entry of the deposit".to_owned()))?;
                    tx.post(&deposit.reversal(format!("prepaid:{record}:deposit-reversal"), now)).await
                })
            })
            .await?;
        let balance = self.balance(case).await?;
        step("empty", balance == Some(0), format!("{} there", shown(balance)));
        Ok(())
    }
}

fn shown(balance: Option<i64>) -> String {
    balance.map_or_else(|| "nothing".to_owned(), |n| n.to_string())
}

/// Runs the check and tells each step; amounts are fen and pieces. What it made stays, empty and marked by its ids.
pub async fn prepaid(store: &Store, now: DateTime<Utc>, tell: &mut (dyn FnMut(Step) + Send)) -> Result<()> {
    // Two runs at one moment must not meet.
    let mark = format!("selfcheck-{}-{}", now.timestamp_millis(), std::process::id());
    let customer = CustomerId::parse(&mark)?;
    let document =
        json!({ "_id": mark, "name": "自检 selfcheck", "status": "active", "remark": "jinlu selfcheck，可忽略" });
    store.open_document("customers", &document, now).await?;
    tell(Step { name: "customer".to_owned(), passed: true, found: mark.clone() });
    let subject = Subject { store, customer, now };
    let (kind, product) = (PrepaidType::Amount, None);
    let money = Case { record: format!("{mark}-amount"), kind, product, total: 10_000, take: 3_000 };
    subject.check(&money, tell).await?;
    let (kind, product) = (PrepaidType::Product, Some(ProductId::parse("selfcheck-goods")?));
    let goods = Case { record: format!("{mark}-goods"), kind, product, total: 5, take: 2 };
    subject.check(&goods, tell).await
}
