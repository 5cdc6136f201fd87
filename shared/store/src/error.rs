//! What the store can answer besides a result.

use domain::{Failure, Refusal};
use mongodb::error::{ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule of the shop, decided inside a transaction; nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A natural key is taken: somebody did this already.
    #[error("duplicate key in {collection}")]
    Duplicate { collection: String },
    /// The driver or the server failed.
    #[error("database")]
    Driver(#[source] Box<mongodb::error::Error>),
    /// What a transaction wanted to change is no longer its own; nothing was written.
    #[error("lost to another process")]
    Lost,
    /// A document does not have the shape that the rules require, or a caller broke a rule of the book.
    #[error("INVARIANT {0}")]
    Invariant(String),
}

impl From<mongodb::error::Error> for Error {
    fn from(error: mongodb::error::Error) -> Self {
        match duplicate_collection(&error) {
            Some(collection) => Error::Duplicate { collection },
            None => Error::Driver(Box::new(error)),
        }
    }
}

impl From<domain::Code> for Error {
    fn from(code: domain::Code) -> Self {
        Error::Refused(code.into())
    }
}

impl From<domain::money::AmountError> for Error {
    fn from(error: domain::money::AmountError) -> Self {
        Error::Invariant(format!("amount out of range: {error}"))
    }
}

impl From<bson::error::Error> for Error {
    fn from(error: bson::error::Error) -> Self {
        Error::Invariant(format!("document: {error}"))
    }
}

/// The server's text is `E11000 duplicate key error collection: db.name index: …`.
fn duplicate_collection(error: &mongodb::error::Error) -> Option<String> {
    let message = match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(e)) if e.code == 11000 => e.message.clone(),
        ErrorKind::Command(e) if e.code == 11000 => e.message.clone(),
        ErrorKind::InsertMany(e) => {
            e.write_errors.iter().flatten().find(|e| e.code == 11000).map(|e| e.message.clone())?
        }
        _ => return None,
    };
    let name = message.split("collection: ").nth(1)?.split_whitespace().next()?;
    Some(name.split_once('.').map_or(name, |(_, collection)| collection).to_owned())
}

impl Error {
    /// The whole transaction may be run again.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Error::Driver(e) if e.contains_label(TRANSIENT_TRANSACTION_ERROR))
    }

    /// The commit may be sent again.
    pub(crate) fn is_commit_unknown(&self) -> bool {
        matches!(self, Error::Driver(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT))
    }

    /// The database could not be reached, changed its primary or was too busy: the outcome may be unknown and a retry
    /// with the same key is right.
    pub fn is_unavailable(&self) -> bool {
        let Error::Driver(error) = self else { return false };
        if self.is_transient() || self.is_commit_unknown() || error.contains_label("RetryableWriteError") {
            return true;
        }
        match error.kind.as_ref() {
            ErrorKind::Io(_) | ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. } => true,
            ErrorKind::DnsResolve { .. } => true,
            // Shutdown, stepdown, interrupted, not primary, over its time: the server's own words for "try again".
            ErrorKind::Command(e) => {
                [6, 7, 50, 89, 91, 112, 189, 251, 262, 9001, 10107, 11600, 11601, 11602, 13435, 13436].contains(&e.code)
            }
            ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
            _ => false,
        }
    }

    /// Whether this is a duplicate of the named collection's key.
    pub fn is_duplicate_of(&self, name: &str) -> bool {
        matches!(self, Error::Duplicate { collection } if collection == name)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => Failure::Refused(refusal),
            other if other.is_unavailable() => Failure::Unavailable(Box::new(other)),
            other => Failure::Internal(Box::new(other)),
        }
    }
}
