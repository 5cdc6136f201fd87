//! The draw, exactly: tickets, commitment, ranking, and the check of a public record.
