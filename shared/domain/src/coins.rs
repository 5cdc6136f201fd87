//! The rules of activity coins.
