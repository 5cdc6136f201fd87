//! What the merchant portal and WeChat's bills tell: money that somebody gave back past the shop, rows that differ, and the person
//! who looks at what they leave behind.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use domain::BusinessDay;
use serde_json::json;
use simulators::{BillMode, ChangeBill, LegacyMode, LegacyRefund};

use super::History;

impl History {
    /// Somebody gives money back in the portal; the notice of it comes, or not.
    pub(super) async fn portal(&mut self, member: usize) -> Result<()> {
        let Some(order) = self.order_in(member, &["paid", "shipped", "completed"]).await? else { return Ok(()) };
        // Of a payment that fits no order the shop gives back everything, so that nothing would be left for one of the two.
        let paid = doc! { "orderId": &order, "status": "paid" };
        let paid = self.db.collection::<Document>("payments").find_one(paid).await?;
        let Some(number) = paid.and_then(|p| p.get_str("_id").ok().map(str::to_owned)) else { return Ok(()) };
        let modes = [LegacyMode::Once, LegacyMode::Once, LegacyMode::None, LegacyMode::Duplicate, LegacyMode::WrongKey];
        let modes = [&modes[..], &[LegacyMode::WrongAmount, LegacyMode::Doctype]].concat();
        let notify = self.one_of(&modes).unwrap_or_default();
        let fen = self.between(1..6_000);
        let request = LegacyRefund {
            out_trade_no: Some(number.clone()),
            refund_fen: Some(fen),
            notify: Some(notify),
            ..LegacyRefund::default()
        };
        let done = self.world.sim.legacy_refund(&request).await;
        let told = done.as_ref().map(|done| done.notice_status).map_err(|refused| refused.code);
        let line = format!("{} portal gives back {fen} of {number} {notify:?} → {told:?}", self.stamp());
        self.log.push(line.clone());
        let Ok(done) = done else { return Ok(()) };
        self.given_in_portal += fen;
        // What cannot be opened is refused; what can be is a hint to ask, and whoever is asked may fail.
        for notice in &done.notices {
            let unreadable = matches!(notify, LegacyMode::WrongKey | LegacyMode::Doctype);
            let status = notice.status.context("no answer to a notice")?;
            let good = if unreadable { status == 400 } else { status == 200 || status >= 500 };
            ensure!(good, "{line}: {notice:?}");
        }
        Ok(())
    }

    /// From now on a bill differs from what happened in one row.
    fn falsify(&mut self) -> Result<()> {
        let orders = self.world.sim.orders("");
        let paid = orders.iter().filter(|order| order.transaction_id.is_some());
        let mut numbers: Vec<String> = paid.clone().map(|order| order.out_trade_no.clone()).collect();
        // What the portal makes up is digits; of that nobody knows but the bill.
        let refunds = paid.flat_map(|order| &order.refunds).map(|refund| refund.out_refund_no.clone());
        numbers.extend(refunds.filter(|number| !number.bytes().all(|byte| byte.is_ascii_digit())));
        let mode = self.one_of(&[BillMode::Missing, BillMode::Amount, BillMode::Failed, BillMode::Extra]);
        let mode = mode.unwrap_or(BillMode::Missing);
        let number = match mode {
            BillMode::Extra => Some(format!("till-{}", self.below(3))),
            _ => self.one_of(&numbers),
        };
        let Some(number) = number else { return Ok(()) };
        self.log.push(format!("{} bill: {number} {mode:?}", self.stamp()));
        self.falsified.insert(number.clone());
        let fen = self.between(1..9_000);
        self.world.sim.change_bill(ChangeBill { number, mode, fen });
        Ok(())
    }

    /// A bill is compared by hand, and somebody looks at what was found.
    pub(super) async fn bills(&mut self) -> Result<()> {
        match self.below(6) {
            0 | 1 => self.falsify(),
            2 | 3 => {
                let yesterday = self.now() - chrono::TimeDelta::days(1 + i64::try_from(self.below(2))?);
                let date = BusinessDay::of(yesterday).to_string();
                self.service("reconcileBill", json!({ "date": date })).await.map(drop)
            }
            4 => self.staff("exceptions", json!({ "action": "list" })).await.map(drop),
            _ => {
                let seen = self.staff("exceptions", json!({ "action": "list", "status": "manual" })).await?;
                let ids: Vec<String> =
                    seen.rows().iter().filter_map(|row| row["exceptionId"].as_str().map(str::to_owned)).collect();
                let Some(id) = self.one_of(&ids) else { return Ok(()) };
                let input = json!({ "action": "resolve", "exceptionId": id, "remark": "已核实", "requestId": self.request_id() });
                self.staff("exceptions", input).await.map(drop)
            }
        }
    }

    /// Of rows that are as they happened no difference is told.
    pub(super) async fn check_bills(&self) -> Result<()> {
        for found in self.documents("paymentExceptions").await? {
            if !found.get_str("kind")?.starts_with("bill") {
                continue;
            }
            // Further attempts of an order have its number with an end.
            let numbers = [found.get_str("billRefundNo"), found.get_str("outTradeNo")];
            let known = |number: &str| self.falsified.iter().any(|known| number.starts_with(known.as_str()));
            let changed = numbers.into_iter().flatten().any(known);
            ensure!(changed, "a bill differs in what nobody changed: {found}");
        }
        // Yesterday's may not be made yet.
        let yesterday = BusinessDay::of(self.now() - chrono::TimeDelta::days(1)).to_string();
        for bill in self.documents("bills").await? {
            let compared = bill.get_str("status")? != "open" || bill.get_str("_id")? == yesterday;
            ensure!(compared, "a bill was never compared to its end: {bill}");
        }
        Ok(())
    }
}
