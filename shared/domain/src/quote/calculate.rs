//! The calculation itself, step by step.

use std::collections::BTreeMap;

use super::proof::Calculator;
use super::{Adjustment, Input, Line, Pieces, Purse, Quote, RuleVersion, Share, Step, StepKind, Want};
use crate::money::AmountError;
use crate::prepaid::covered_value;
use crate::pricing::allocate;
use crate::{Code, Fen, Points, ProductId, Refusal, Yuan, coupon, freight};

/// A price and how it came about.
pub(super) struct Run {
    pub(super) quote: Quote,
    pub(super) steps: Vec<Step>,
    pub(super) versions: Vec<RuleVersion>,
}

fn too_large(_: AmountError) -> Refusal {
    Refusal::invalid("items", "订单金额超出范围")
}

/// Prices the input as this version of the calculator does and notes every step.
pub(super) fn run(input: &Input, calculator: Calculator) -> Result<Run, Refusal> {
    let mut desk = Desk::open(input, calculator)?;
    desk.coupon_and_freight()?;
    desk.points()?;
    desk.prepaid_goods()?;
    desk.money()?;
    desk.adjustments()?;
    desk.close()
}

/// The order in which lines are worked on: lines that are alike in every respect are interchangeable.
fn rank(line: &Line) -> impl Ord + '_ {
    let sku = line.sku_id.as_ref().map(|s| s.as_str());
    let template = line.template_id.as_ref().map(|t| t.as_str());
    (line.product_id.as_str(), sku, line.price, line.quantity, line.weight_g, line.category.as_str(), template)
}

/// A calculation under way. In each share `payment_amount` is what is still to pay.
struct Desk<'a> {
    input: &'a Input,
    calculator: Calculator,
    /// The input's lines in their rank, with their places there.
    lines: Vec<(usize, &'a Line)>,
    shares: Vec<Share>,
    freight: Share,
    /// What the templates ask for the place that the goods go to.
    fee: Fen,
    /// Fen that the freight was set above the fee, or below it.
    agreed: i64,
    steps: Vec<Step>,
    versions: Vec<RuleVersion>,
}

impl<'a> Desk<'a> {
    fn open(input: &'a Input, calculator: Calculator) -> Result<Self, Refusal> {
        if input.lines.is_empty() {
            return Err(Refusal::invalid("items", "没有商品"));
        }
        for (i, line) in input.lines.iter().enumerate() {
            if line.quantity < 1 {
                return Err(Refusal::invalid(&format!("items[{i}].quantity"), "数量须大于 0"));
            }
            if line.weight_g < 0 {
                return Err(Refusal::invalid(&format!("items[{i}].weightG"), "重量不能为负数"));
            }
        }
        let mut lines: Vec<(usize, &Line)> = input.lines.iter().enumerate().collect();
        lines.sort_by(|(_, a), (_, b)| rank(a).cmp(&rank(b)));
        let amounts = lines.iter().map(|(_, l)| l.price.checked_mul(l.quantity));
        let shares = amounts.map(|a| a.map(Share::unpaid)).collect::<Result<Vec<_>, _>>().map_err(too_large)?;
        let versions = vec![RuleVersion::new("shop", "rules", input.rules.version)];
        let mut desk = Self {
            input,
            calculator,
            lines,
            shares,
            freight: Share::default(),
            fee: Fen::ZERO,
            agreed: 0,
            steps: Vec::new(),
            versions,
        };
        let goods = desk.left().map_err(too_large)?;
        desk.step(StepKind::Goods, goods)?;
        Ok(desk)
    }

    /// What is still to pay.
    fn left(&self) -> Result<Fen, AmountError> {
        Fen::sum(self.shares.iter().chain([&self.freight]).map(|s| s.payment_amount))
    }

    fn step(&mut self, kind: StepKind, amount: Fen) -> Result<(), Refusal> {
        let left = self.left().map_err(too_large)?;
        self.steps.push(Step { kind, amount, left });
        Ok(())
    }

    /// Takes `total` off what is still to pay of the lines, and of the freight if it is to bear its part.
    fn take(
        &mut self,
        kind: StepKind,
        total: Fen,
        freight_too: bool,
        field: impl Fn(&mut Share) -> &mut Fen,
    ) -> Result<(), Refusal> {
        let freight = if freight_too { self.freight.payment_amount } else { Fen::ZERO };
        let rests: Vec<Fen> = self.shares.iter().map(|s| s.payment_amount).chain([freight]).collect();
        let parts = allocate(total, &rests);
        for (share, part) in self.shares.iter_mut().chain([&mut self.freight]).zip(parts) {
            share.payment_amount = share.payment_amount.checked_sub(part).map_err(too_large)?;
            let field = field(share);
            *field = field.checked_add(part).map_err(too_large)?;
        }
        self.step(kind, total)
    }

    /// What sending costs by the templates.
    fn fees(&self, to: &freight::Destination) -> Result<Vec<freight::Fee>, Refusal> {
        let Some(sending) = &self.input.sending else { return Ok(Vec::new()) };
        let items: Vec<freight::Item<'_>> = self.lines.iter().zip(&self.shares).map(item).collect();
        freight::fees(&sending.templates, &items, to)
    }

    fn coupon_and_freight(&mut self) -> Result<(), Refusal> {
        let input = self.input;
        let fees = match &input.sending {
            Some(sending) => self.fees(&sending.to)?,
            None => Vec::new(),
        };
        let fee = Fen::sum(fees.iter().map(|f| f.fee)).map_err(too_large)?;
        self.fee = fee;
        let mut freight_off = Fen::ZERO;
        if let Some(held) = &input.coupon {
            let goods: Vec<coupon::Goods<'_>> = self.lines.iter().zip(&self.shares).map(goods).collect();
            let saving = coupon::apply(held, &goods, fee, input.now)?;
            for (share, off) in self.shares.iter_mut().zip(&saving.lines) {
                share.coupon_discount = *off;
                share.payment_amount = share.payment_amount.checked_sub(*off).map_err(too_large)?;
            }
            self.versions.push(RuleVersion::new("coupon", held.terms.coupon_id.as_str(), held.terms.version));
            self.step(StepKind::Coupon, saving.goods)?;
            freight_off = saving.freight;
        }
        if input.sending.is_some() {
            self.versions.extend(fees.iter().map(|f| RuleVersion::new("freight", f.template.as_str(), f.version)));
            self.freight = Share::unpaid(fee);
            self.step(StepKind::Freight, fee)?;
        }
        if !freight_off.is_zero() {
            self.freight.coupon_discount = freight_off;
            self.freight.payment_amount = fee.checked_sub(freight_off).map_err(too_large)?;
            self.step(StepKind::FreightCoupon, freight_off)?;
        }
        Ok(())
    }

    fn points(&mut self) -> Result<(), Refusal> {
        let (points, rules) = (self.input.points, &self.input.rules);
        if points.is_zero() {
            return Ok(());
        }
        let all = self.left().map_err(too_large)?;
        let payable = match rules.points_pay_freight {
            true => all,
            false => all.checked_sub(self.freight.payment_amount).map_err(too_large)?,
        };
        let beyond = |_: AmountError| Refusal::invalid("pointsUsed", "积分数量超出范围");
        let value = Fen::new(rules.point_value_fen).map_err(beyond)?;
        let off = value.checked_mul(points.get()).map_err(beyond)?;
        if off > payable {
            let most = payable.get().checked_div(rules.point_value_fen).unwrap_or(0);
            return Err(Refusal::invalid("pointsUsed", format!("本单最多可用 {most} 积分")).detail("maxPoints", most));
        }
        self.take(StepKind::Points, off, rules.points_pay_freight, |share| &mut share.points_discount)?;
        // Each share also says how many of the points are its own, so that they come back with it.
        let worths: Vec<Fen> = self.shares.iter().chain([&self.freight]).map(|s| s.points_discount).collect();
        let parts = allocate(Fen::new(points.get()).map_err(beyond)?, &worths);
        for (share, part) in self.shares.iter_mut().chain([&mut self.freight]).zip(parts) {
            share.points_used = Points::new(part.get()).map_err(beyond)?;
        }
        Ok(())
    }

    /// Covers lines with the pieces there are. A line that costs nothing any more uses up none.
    fn prepaid_goods(&mut self) -> Result<(), Refusal> {
        let Some(pieces) = &self.input.prepaid_goods else { return Ok(()) };
        let mut there = pieces_by_product(pieces);
        let (mut matched, mut lacking, mut used) = (false, false, false);
        for ((_, line), share) in self.lines.iter().zip(&mut self.shares) {
            let Some(left) = there.get_mut(&line.product_id).filter(|_| line.sku_id.is_none()) else { continue };
            matched = true;
            if share.payment_amount.is_zero() {
                continue;
            }
            let quantity = line.quantity.min(*left);
            if quantity <= 0 {
                lacking = true;
                continue;
            }
            used = true;
            *left = left.saturating_sub(quantity);
            let value = covered_value(share.payment_amount, quantity, line.quantity);
            share.prepaid_quantity = quantity;
            share.prepaid_covered = value;
            share.payment_amount = share.payment_amount.checked_sub(value).map_err(too_large)?;
        }
        if !matched {
            return Err(Refusal::new(Code::PrepaidProductMismatch));
        }
        if lacking && !used {
            return Err(Refusal::new(Code::PrepaidInsufficient).with_message("预存商品数量不足"));
        }
        let value = Fen::sum(self.shares.iter().map(|s| s.prepaid_covered)).map_err(too_large)?;
        self.step(StepKind::PrepaidGoods, value)
    }

    fn money(&mut self) -> Result<(), Refusal> {
        if let Some(purse) = &self.input.prepaid_money {
            let amount = draw(purse, self.left().map_err(too_large)?, Code::PrepaidInsufficient)?;
            self.take(StepKind::PrepaidMoney, amount, true, |share| &mut share.prepaid_amount)?;
        }
        if let Some(purse) = &self.input.balance {
            let amount = draw(purse, self.left().map_err(too_large)?, Code::BalanceInsufficient)?;
            self.take(StepKind::Balance, amount, true, |share| &mut share.balance_amount)?;
        }
        Ok(())
    }

    fn adjustments(&mut self) -> Result<(), Refusal> {
        let input = self.input;
        for adjustment in &input.adjustments {
            match adjustment {
                Adjustment::Price { to } => self.lower_to(*to)?,
                Adjustment::Freight { to } => {
                    self.agreed = to.get().saturating_sub(self.fee.get());
                    self.set_freight(*to)?;
                }
                Adjustment::Place { to } => {
                    let fee = Fen::sum(self.fees(to)?.iter().map(|f| f.fee)).map_err(too_large)?;
                    if fee != self.fee {
                        self.fee = fee;
                        self.set_freight(self.freight_there(fee)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn lower_to(&mut self, to: Fen) -> Result<(), Refusal> {
        let left = self.left().map_err(too_large)?;
        let off = left.checked_sub(to).map_err(|_| {
            let most = Yuan(left).to_string();
            Refusal::invalid("amount", format!("只能改低，当前应付 {most} 元")).detail("max", most)
        })?;
        self.take(StepKind::PriceChange, off, true, |share| &mut share.staff_discount)
    }

    /// The freight at a place with this fee: what was agreed on is kept as an amount above or below the fee, so that going there
    /// and back changes nothing. It takes off no more than there is to take off.
    fn freight_there(&self, fee: Fen) -> Result<Fen, Refusal> {
        match self.calculator {
            // Whatever had been agreed on was lost.
            Calculator::V1 => Ok(fee),
            Calculator::V2 => {
                let least = fee.min(self.settled_freight()?);
                let there = fee.get().saturating_add(self.agreed).max(least.get());
                Fen::new(there).map_err(too_large)
            }
        }
    }

    /// What of the freight is paid or taken off otherwise.
    fn settled_freight(&self) -> Result<Fen, Refusal> {
        self.freight.amount.checked_sub(self.freight.payment_amount).map_err(too_large)
    }

    /// What of the freight is paid or taken off otherwise stays so: it cannot become less than that.
    fn set_freight(&mut self, to: Fen) -> Result<(), Refusal> {
        let settled = self.settled_freight()?;
        let share = &mut self.freight;
        share.payment_amount = to.checked_sub(settled).map_err(|_| {
            let least = Yuan(settled).to_string();
            Refusal::invalid("freightAmount", format!("运费最低可改为 {least} 元")).detail("min", least)
        })?;
        share.amount = to;
        self.step(StepKind::FreightChange, to)
    }

    fn close(mut self) -> Result<Run, Refusal> {
        let payment = self.left().map_err(too_large)?;
        self.step(StepKind::Payment, payment)?;
        let total = Share::sum(self.shares.iter().chain([&self.freight])).map_err(too_large)?;
        let mut lines: Vec<(usize, Share)> = self.lines.iter().map(|(place, _)| *place).zip(self.shares).collect();
        lines.sort_by_key(|(place, _)| *place);
        let lines = lines.into_iter().map(|(_, share)| share).collect();
        Ok(Run { quote: Quote { lines, freight: self.freight, total }, steps: self.steps, versions: self.versions })
    }
}

fn item<'a>(((_, line), share): (&(usize, &'a Line), &Share)) -> freight::Item<'a> {
    freight::Item {
        product: &line.product_id,
        template: line.template_id.as_ref(),
        quantity: line.quantity,
        weight_g: line.weight_g,
        amount: share.amount,
    }
}

fn goods<'a>(((_, line), share): (&(usize, &'a Line), &Share)) -> coupon::Goods<'a> {
    coupon::Goods { product: &line.product_id, category: &line.category, amount: share.amount }
}

fn pieces_by_product(pieces: &[Pieces]) -> BTreeMap<&ProductId, i64> {
    let mut there: BTreeMap<&ProductId, i64> = BTreeMap::new();
    for Pieces { product_id, pieces } in pieces {
        let sum = there.entry(product_id).or_default();
        *sum = sum.saturating_add((*pieces).max(0));
    }
    there
}

/// What to take from a purse of what is left; refuses with `code` if it holds less than is wanted.
fn draw(purse: &Purse, left: Fen, code: Code) -> Result<Fen, Refusal> {
    let (wanted, required) = match purse.want {
        Want::Most if purse.available.is_zero() => (left, left),
        Want::Most => return Ok(left.min(purse.available)),
        Want::Amount { amount } => (amount.min(left), amount),
        Want::Rest => (left, left),
    };
    if wanted <= purse.available {
        return Ok(wanted);
    }
    Err(Refusal::new(code)
        .detail("required", Yuan(required).to_string())
        .detail("available", Yuan(purse.available).to_string()))
}
