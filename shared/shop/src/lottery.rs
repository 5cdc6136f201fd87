//! The life of a draw: publishing, freezing, ranking, granting, passing on.
