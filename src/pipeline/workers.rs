//! The thread pool for work that is cut by rows or bands inside one step.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

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

    /// Lets every thread begin on a processor of its own where there are as many as processors: before loops that take long.
    pub fn spread(&self) {
        self.0.broadcast(|thread| begin_apart(thread.index(), thread.num_threads()));
    }

    /// Runs `task` inside the pool: rayon's parallel iterators use its threads.
    pub fn install<R: Send>(&self, task: impl FnOnce() -> R + Send) -> R {
        self.0.install(task)
    }
}

/// Puts this thread, one of several, on a processor of its own where there are as many as processors; after that the system
/// moves it as it likes.
///
/// Linux wakes a thread where it ran last or where it is woken from, and on machines with few processors it does not look for
/// an idle one when all were busy just before: two workers shared one processor for up to 40 ms while the other was idle.
pub(super) fn begin_apart(number: usize, count: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    if allowed.count() as usize != count {
        return;
    }
    let Some(mine) = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).nth(number) else { return };
    let mut one = CpuSet::new();
    one.set(mine);
    // Only a hint: where it is refused, nothing is lost.
    if sched_setaffinity(None, &one).is_ok() {
        let _ = sched_setaffinity(None, &allowed);
    }
}
