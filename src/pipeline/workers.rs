//! The thread pool for work that is cut by rows or bands inside one step.

use crate::error::{Error, Result};

/// A fixed number of threads for data-parallel loops (rayon), named so that they can be told apart in a debugger.
#[derive(Debug)]
pub struct Workers(rayon::ThreadPool);

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// [`Bug`](crate::error::ErrorKind::Bug) when the system refuses threads.
    pub fn new(count: usize) -> Result<Self> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("worker-{i}"))
            .build()
            .map(Self)
            .map_err(|e| Error::bug(format!("cannot start {count} worker threads: {e}")))
    }

    /// How many threads.
    pub fn count(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs `task` inside the pool: rayon's parallel iterators use its threads.
    pub fn install<R: Send>(&self, task: impl FnOnce() -> R + Send) -> R {
        self.0.install(task)
    }
}
