//! Seals: one chained hash per business day over the ledger.
