//! Activity coins: granting, spending, taking back, expiring.
