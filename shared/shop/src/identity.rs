//! Real names: verifying, erasing, rotating keys.
