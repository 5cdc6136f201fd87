//! `activityCoinLots` and their statement: coins that die after 48 hours.
