//! How a long computation talks to whoever watches it, and how it is asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Receives progress. All methods may be called from any thread; the defaults ignore everything.
pub trait Progress: Send + Sync {
    /// A stage begins; `total_bytes` is what [`advance`](Self::advance) will add up to.
    fn begin(&self, stage: &str, total_bytes: u64) {
        let _ = (stage, total_bytes);
    }

    /// `bytes` more of the current stage's input were processed.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The current stage is over.
    fn end(&self) {}

    /// Something that the user should read but that stops nothing.
    fn note(&self, message: &str) {
        let _ = message;
    }

    /// Something that the user should know before trusting the result.
    fn warn(&self, message: &str) {
        let _ = message;
    }
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}

/// A flag that asks running work to stop; clones share it.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks all holders of this token to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails with [`ErrorKind::Interrupted`](crate::error::ErrorKind::Interrupted) once cancelled.
    ///
    /// # Errors
    /// Only that one.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }
}
