//! Reads from the API server that end.
//!
//! A connection that died half-way answers nothing, and a controller that waits for it holds up its whole turn while the
//! leader lease is renewed on another connection: an owner who presses stop would wait with it.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;

/// The longest that a read may take.
pub const READ: Duration = Duration::from_secs(5);

/// Why nothing was read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The API server said no, or could not be reached.
    #[error("reading {what}: {source}")]
    Failed {
        /// What was read.
        what: &'static str,
        /// What happened.
        source: Box<kube::Error>,
    },
    /// It did not answer.
    #[error("reading {what}: no answer within {} s", READ.as_secs())]
    NoAnswer {
        /// What was read.
        what: &'static str,
    },
}

/// Reads `what`, and gives up after [`READ`].
///
/// # Errors
/// See [`ReadError`].
pub async fn read<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ReadError> {
    match tokio::time::timeout(READ, request).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(source)) => Err(ReadError::Failed { what, source: Box::new(source) }),
        Err(_) => Err(ReadError::NoAnswer { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_given_up() {
        let silent = std::future::pending::<Result<(), kube::Error>>();
        let error = read("the reservations", silent).await.unwrap_err();
        assert_eq!(error.to_string(), "reading the reservations: no answer within 5 s");
    }
}
