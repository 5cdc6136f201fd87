//! Resident identity numbers (GB 11643-1999) and names.
