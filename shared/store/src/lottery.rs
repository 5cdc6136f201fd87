//! Draws: activities, rounds, tickets, lists and rights to buy.
