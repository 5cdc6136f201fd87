//! Verified real names, and who looked at them.
