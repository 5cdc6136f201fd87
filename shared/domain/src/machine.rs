//! State machines as tables: order, payment, refund, coupon and the right to buy.
//!
//! Each is a list of edges `(from, event, to)`. What is not in the list does not happen: the guards of the store name the states
//! that an event may start from, and these tables say which those are. The pictures in `docs/states.md` are drawn from the same lists.

use std::fmt::Write;

/// A machine as texts, for drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub name: &'static str,
    /// The state in which a thing begins.
    pub start: &'static str,
    /// From, event, to.
    pub edges: Vec<(&'static str, &'static str, &'static str)>,
}

impl Picture {
    /// The machine as a Mermaid `stateDiagram-v2`. States without a way out lead to the end mark.
    pub fn mermaid(&self) -> String {
        let mut text = String::from("stateDiagram-v2\n");
        let mut line = |from: &str, to: &str, event: Option<&str>| {
            let event = event.map(|e| format!(": {e}")).unwrap_or_default();
            // Writing to a String cannot fail.
            writeln!(text, "    {from} --> {to}{event}").unwrap_or(());
        };
        line("[*]", self.start, None);
        for (from, event, to) in &self.edges {
            line(from, to, Some(event));
        }
        let mut ends: Vec<&str> = Vec::new();
        for (_, _, to) in &self.edges {
            if !ends.contains(to) && !self.edges.iter().any(|(from, _, _)| from == to) {
                ends.push(to);
            }
        }
        for end in ends {
            line(end, "[*]", None);
        }
        text
    }
}

/// All machines, in the order of the docs.
pub fn pictures() -> [Picture; 5] {
    [order::picture(), payment::picture(), refund::picture(), coupon::picture(), qualification::picture()]
}

/// An enum with a stored text for each value, and the list of all.
macro_rules! texts {
    ($(#[$doc:meta])* $name:ident { $( $(#[$value_doc:meta])* $value:ident $text:literal, )+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $( $(#[$value_doc])* #[serde(rename = $text)] $value, )+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[ $( Self::$value, )+ ];

            /// The text in the store and on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$value => $text, )+ }
            }
        }
    };
}

/// The table of a machine with the questions asked of it. `State` and `Event` must be in scope.
macro_rules! edges {
    ($name:literal, start $start:ident, { $( $from:ident, $event:ident => $to:ident; )+ }) => {
        /// The state in which it begins.
        pub const START: State = State::$start;

        /// Every move there is.
        pub const EDGES: &[(State, Event, State)] = &[ $( (State::$from, Event::$event, State::$to), )+ ];

        /// Where an event leads from here; none if it is not for this state.
        pub fn next(from: State, event: Event) -> Option<State> {
            EDGES.iter().find(|(f, e, _)| (*f, *e) == (from, event)).map(|(_, _, to)| *to)
        }

        /// The states that an event may start from: what a guard in the store has to ask for.
        pub fn sources(event: Event) -> Vec<State> {
            EDGES.iter().filter(|(_, e, _)| *e == event).map(|(from, _, _)| *from).collect()
        }

        /// Whether nothing leads away from here.
        pub fn is_final(state: State) -> bool {
            EDGES.iter().all(|(from, _, _)| *from != state)
        }

        /// The table as texts.
        pub fn picture() -> super::Picture {
            let edges = EDGES.iter().map(|(from, event, to)| (from.as_str(), event.as_str(), to.as_str())).collect();
            super::Picture { name: $name, start: START.as_str(), edges }
        }
    };
}

/// `orders.status`. After-sale runs beside it: what was paid is not closed, it is refunded.
pub mod order {
    use crate::OrderType;
    pub use crate::order::OrderStatus as State;

    texts! {
        /// What happens to an order.
        Event {
            /// The payment is settled, or nothing was left to pay.
            Pay "pay",
            /// The buyer or staff give it up before it is paid.
            Cancel "cancel",
            /// Its time to pay ran out.
            Expire "expire",
            /// The last parcel is on its way.
            Ship "ship",
            /// The buyer has it.
            Receive "receive",
            /// The buyer was silent for the days that the shop gives.
            AutoComplete "autoComplete",
            /// A points-mall order is given up before it is shipped: its buyer has had no money's worth.
            Recall "recall",
        }
    }

    edges! { "order", start PendingPayment, {
        PendingPayment, Pay => Paid;
        PendingPayment, Cancel => Closed;
        PendingPayment, Expire => Closed;
        Paid, Ship => Shipped;
        Paid, Recall => Closed;
        Shipped, Receive => Completed;
        Shipped, AutoComplete => Completed;
    } }

    /// Whether an event is for orders of this type at all.
    pub fn is_for(event: Event, order_type: OrderType) -> bool {
        event != Event::Recall || order_type == OrderType::PointsMall
    }
}

/// `payments.status`: one attempt to pay an order through WeChat Pay.
pub mod payment {
    texts! {
        State {
            /// The request is stored; whether WeChat has it is unknown.
            Created "created",
            /// WeChat gave a prepay id; the user may pay.
            Prepaid "prepaid",
            /// Paid and settled.
            Paid "paid",
            /// Closed at WeChat, or never known there.
            Closed "closed",
            /// Paid in a way that fits no order; see `paymentExceptions`.
            Exception "exception",
        }
    }
    texts! {
        /// What happens to an attempt.
        Event {
            /// WeChat gave a prepay id; a repeat may give another.
            Prepay "prepay",
            /// WeChat has proven the payment and it pays the order. A closed attempt may still turn out paid.
            Settle "settle",
            /// WeChat has proven a payment that fits no order: paid twice, after the close, with another amount.
            Misfit "misfit",
            /// WeChat closed it, or the order closed.
            Close "close",
        }
    }

    edges! { "payment", start Created, {
        Created, Prepay => Prepaid;
        Created, Settle => Paid;
        Created, Misfit => Exception;
        Created, Close => Closed;
        Prepaid, Prepay => Prepaid;
        Prepaid, Settle => Paid;
        Prepaid, Misfit => Exception;
        Prepaid, Close => Closed;
        Closed, Settle => Paid;
        Closed, Misfit => Exception;
    } }
}

/// `refunds.status`: 仅退款, and 退货退款 by way of the goods coming back.
pub mod refund {
    texts! {
        State {
            /// The buyer asks.
            Applied "applied",
            /// Staff agree, and the goods have to come back first.
            Returning "returning",
            /// The buyer has sent them.
            ShippedBack "shippedBack",
            /// Staff agree or have the goods: money, points, pieces and coins are to go back.
            Approved "approved",
            /// WeChat was or is being told; what came of it is unknown until it says so.
            Refunding "refunding",
            /// Everything is back.
            Refunded "refunded",
            /// WeChat gave it up; its own number is used up and staff decide.
            Failed "failed",
            /// Staff say no, or the goods did not come back as they should.
            Rejected "rejected",
            /// The buyer changed their mind.
            Withdrawn "withdrawn",
        }
    }
    texts! {
        /// What happens to a refund.
        Event {
            /// Staff agree without wanting the goods.
            Approve "approve",
            /// Staff agree and want the goods.
            ApproveReturn "approveReturn",
            Reject "reject",
            Withdraw "withdraw",
            ShipBack "shipBack",
            /// The goods are here.
            Receive "receive",
            /// What is ours is given back in one transaction, and WeChat is to be told under the refund's own number.
            Send "send",
            /// All is ours: nothing is left for WeChat.
            Finish "finish",
            /// WeChat says SUCCESS.
            Succeed "succeed",
            /// WeChat says CLOSED or ABNORMAL.
            Fail "fail",
            /// Staff have it sent again, under a new number of the same refund after CLOSED.
            Retry "retry",
            /// Staff have given the money another way.
            Settle "settle",
        }
    }

    edges! { "refund", start Applied, {
        Applied, Approve => Approved;
        Applied, ApproveReturn => Returning;
        Applied, Reject => Rejected;
        Applied, Withdraw => Withdrawn;
        Returning, ShipBack => ShippedBack;
        Returning, Receive => Approved;
        Returning, Reject => Rejected;
        Returning, Withdraw => Withdrawn;
        ShippedBack, Receive => Approved;
        ShippedBack, Reject => Rejected;
        Approved, Send => Refunding;
        Approved, Finish => Refunded;
        Refunding, Succeed => Refunded;
        Refunding, Fail => Failed;
        Failed, Retry => Refunding;
        Failed, Succeed => Refunded;
        Failed, Settle => Refunded;
    } }

    /// Whether it still counts as taken of its order: all but those that were rejected or withdrawn. A failed one does too,
    /// since what is ours went back with it and its money is still owed.
    pub fn stands(state: State) -> bool {
        !matches!(state, State::Rejected | State::Withdrawn)
    }
}

/// `userCoupons.status`.
pub mod coupon {
    texts! {
        State {
            /// Being handed out: it is not counted for sure yet, and its holder does not see it.
            Claiming "claiming",
            /// May be used within its window.
            Unused "unused",
            /// An order that is not paid yet holds it.
            Locked "locked",
            /// An order was paid with it.
            Used "used",
            /// Its window is over.
            Expired "expired",
        }
    }
    texts! {
        /// What happens to a user's coupon.
        Event {
            /// It is counted among those handed out.
            Count "count",
            /// An order is made with it.
            Lock "lock",
            /// That order is paid.
            Use "use",
            /// That order closed; the coupon is as it was, its window too.
            Release "release",
            /// The paid order was refunded as a whole, and the shop's rule gives the coupon back.
            Return "return",
            Expire "expire",
        }
    }

    edges! { "coupon", start Claiming, {
        Claiming, Count => Unused;
        Unused, Lock => Locked;
        Unused, Expire => Expired;
        Locked, Use => Used;
        Locked, Release => Unused;
        Used, Return => Unused;
    } }
}

/// `lotteryQualifications.status`: the right to buy that a draw gave.
pub mod qualification {
    texts! {
        State {
            /// May be used until its time runs out.
            Active "active",
            /// An order holds it.
            Used "used",
            /// Its time ran out; the pieces went to the next of the waiting list or back to the shelf.
            Expired "expired",
        }
    }
    texts! {
        /// What happens to a right to buy.
        Event {
            /// An order is made with it.
            Use "use",
            /// That order closed.
            GiveBack "giveBack",
            Expire "expire",
        }
    }

    edges! { "qualification", start Active, {
        Active, Use => Used;
        Active, Expire => Expired;
        Used, GiveBack => Active;
    } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Tries every event in every state of a machine against its table as texts.
    macro_rules! every_move {
        ($machine:ident, $states:expr) => {{
            let declared: BTreeSet<_> = $machine::picture().edges.into_iter().collect();
            assert_eq!(declared.len(), $machine::EDGES.len(), "an edge is there twice");
            let mut refused = 0;
            let mut reached = BTreeSet::from([$machine::START.as_str()]);
            for from in $states {
                for event in $machine::Event::ALL {
                    let to = $machine::next(*from, *event);
                    match to {
                        Some(to) => {
                            assert!(declared.contains(&(from.as_str(), event.as_str(), to.as_str())));
                            assert!($machine::sources(*event).contains(from) && !$machine::is_final(*from));
                            reached.insert(to.as_str());
                        }
                        None => {
                            refused += 1;
                            assert!(!declared.iter().any(|(f, e, _)| (*f, *e) == (from.as_str(), event.as_str())));
                            assert!(!$machine::sources(*event).contains(from));
                        }
                    }
                    // One event leads to one state.
                    assert!($machine::EDGES.iter().filter(|(f, e, _)| (f, e) == (from, event)).count() <= 1);
                }
                assert_eq!(serde_json::to_value(from).unwrap(), from.as_str());
            }
            assert_eq!(refused + $machine::EDGES.len(), $states.len() * $machine::Event::ALL.len());
            assert_eq!(reached.len(), $states.len(), "every state is reached");
            for event in $machine::Event::ALL {
                assert!(!$machine::sources(*event).is_empty(), "{event:?} never happens");
                assert_eq!(serde_json::to_value(event).unwrap(), event.as_str());
            }
        }};
    }

    #[test]
    fn every_undeclared_move_is_refused() {
        every_move!(order, &order::State::ALL);
        every_move!(payment, payment::State::ALL);
        every_move!(refund, refund::State::ALL);
        every_move!(coupon, coupon::State::ALL);
        every_move!(qualification, qualification::State::ALL);
    }

    #[test]
    fn what_is_over_stays_over() {
        let over: Vec<_> = refund::State::ALL.iter().filter(|s| refund::is_final(**s)).map(|s| s.as_str()).collect();
        assert_eq!(over, ["refunded", "rejected", "withdrawn"]);
        let over: Vec<_> = payment::State::ALL.iter().filter(|s| payment::is_final(**s)).map(|s| s.as_str()).collect();
        assert_eq!(over, ["paid", "exception"]);
        assert!(order::is_final(order::State::Closed) && order::is_final(order::State::Completed));
        assert!(coupon::is_final(coupon::State::Expired) && qualification::is_final(qualification::State::Expired));
    }

    #[test]
    fn coupon_returned_twice_is_refused() {
        use coupon::{Event, State, next};
        for back in [Event::Release, Event::Return] {
            for state in [State::Unused, State::Expired] {
                assert_eq!(next(state, back), None);
            }
        }
        // Once used, an order that closes late does not free it; before it is used, a refund does not.
        assert_eq!((next(State::Used, Event::Release), next(State::Locked, Event::Return)), (None, None));
    }

    #[test]
    fn refunded_order_is_not_reopened_by_a_late_notice() {
        use payment::{Event, State, next};
        for state in [State::Paid, State::Exception] {
            for event in Event::ALL {
                assert_eq!(next(state, *event), None);
            }
        }
        for event in order::Event::ALL {
            assert_eq!(order::next(order::State::Closed, *event), None);
        }
        assert!(refund::is_final(refund::State::Refunded));
    }

    #[test]
    fn a_refund_counts_until_it_is_rejected_or_withdrawn() {
        let gone: Vec<_> = refund::State::ALL.iter().filter(|s| !refund::stands(**s)).collect();
        assert_eq!(gone, [&refund::State::Rejected, &refund::State::Withdrawn]);
        // What has once been given back cannot be undone by rejecting or withdrawing.
        for state in [refund::State::Refunding, refund::State::Refunded, refund::State::Failed] {
            for event in [refund::Event::Reject, refund::Event::Withdraw] {
                assert_eq!(refund::next(state, event), None);
            }
        }
    }
}
