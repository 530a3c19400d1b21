//! What a block is and how it emits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender, TrySendError};

use crate::error::{Error, Result};
use crate::pipeline::metrics::Counters;
use crate::pipeline::pool::{Pool, Pooled};
use crate::progress::CancelToken;

/// How often a waiting thread looks whether it should stop.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// A stage of a [`Graph`](crate::pipeline::Graph). With several workers, each has a block of its own.
///
/// # Stream inputs
/// One item per call of [`work`](Self::work), in no particular order when an earlier block has several workers.
///
/// # Stream outputs
/// Any number of items per call, through the [`Emitter`].
pub trait Block: Send {
    /// What it takes; a source takes one `()`.
    type In: Send;
    /// What it emits; a sink emits nothing, `()`.
    type Out: Send;

    /// Called once on the block's own thread, before the first item.
    ///
    /// # Errors
    /// Any error stops the graph.
    fn init(&mut self) -> Result<()> {
        Ok(())
    }

    /// Works on one item. A call should take well under a second, or ask [`Emitter::check`] now and then, so that
    /// the user can interrupt.
    ///
    /// # Errors
    /// Any error stops the graph.
    fn work(&mut self, item: Self::In, out: &mut Emitter<'_, Self::Out>) -> Result<()>;

    /// Called once after the last item.
    ///
    /// # Errors
    /// Any error stops the graph.
    fn finish(&mut self, out: &mut Emitter<'_, Self::Out>) -> Result<()> {
        let _ = out;
        Ok(())
    }
}

/// The state that all threads of one run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    pub(crate) failure: Mutex<Option<Error>>,
    pub(crate) cancel: CancelToken,
}

impl Shared {
    pub(crate) fn new(cancel: CancelToken) -> Self {
        Self { stop: AtomicBool::new(false), failure: Mutex::new(None), cancel }
    }

    /// Keeps the first failure and asks all threads to stop. A block that merely stopped may be faster than the
    /// one whose failure made it stop, so a failure replaces an interruption.
    pub(crate) fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if failure.as_ref().is_none_or(|first| first.is_interrupted() && !error.is_interrupted()) {
            *failure = Some(error);
        }
        drop(failure);
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { self.cancel.check() }
    }
}

/// One block's output: where items go.
pub(crate) struct Wire<T> {
    pub(crate) senders: Vec<Sender<T>>,
    pub(crate) clone: Option<fn(&T) -> T>,
}

pub(crate) enum Target<'a, T> {
    Wire(&'a Wire<T>),
    Collected(&'a mut Vec<T>),
}

/// Through which a block emits items, takes buffers and reports bytes.
pub struct Emitter<'a, T> {
    pub(crate) target: Target<'a, T>,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) counters: &'a Counters,
    pub(crate) count_sent: bool,
}

impl<T> Emitter<'_, T> {
    /// Hands an item on, waiting for room.
    ///
    /// # Errors
    /// [`Interrupted`](crate::error::ErrorKind::Interrupted) when the graph is stopping.
    pub fn send(&mut self, item: T) -> Result<()> {
        if self.count_sent {
            self.counters.items.fetch_add(1, Ordering::Relaxed);
        }
        match &mut self.target {
            Target::Collected(items) => {
                items.push(item);
                Ok(())
            }
            Target::Wire(wire) => {
                let Some((last, others)) = wire.senders.split_last() else { return Ok(()) };
                for sender in others {
                    let clone = wire.clone.ok_or_else(|| Error::bug("a split port without a way to clone"))?;
                    send_to(sender, clone(&item), self.shared, self.counters)?;
                }
                send_to(last, item, self.shared, self.counters)
            }
        }
    }

    /// A buffer from a pool, waiting until one is free.
    ///
    /// # Errors
    /// [`Interrupted`](crate::error::ErrorKind::Interrupted) when the graph is stopping.
    pub fn take(&mut self, pool: &Pool) -> Result<Pooled> {
        if let Some(buffer) = pool.try_take() {
            return Ok(buffer);
        }
        let start = Instant::now();
        let result = loop {
            if let Err(stopped) = self.shared.check() {
                break Err(stopped);
            }
            if let Some(buffer) = pool.take_within(POLL) {
                break Ok(buffer);
            }
        };
        Counters::add(&self.counters.blocked_ns, start.elapsed());
        result
    }

    /// Counts bytes for the block's report.
    pub fn count_bytes(&self, bytes: u64) {
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Fails when the graph is stopping; for blocks that work long on one item.
    ///
    /// # Errors
    /// [`Interrupted`](crate::error::ErrorKind::Interrupted).
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }
}

fn send_to<T>(sender: &Sender<T>, item: T, shared: &Shared, counters: &Counters) -> Result<()> {
    let mut item = match sender.try_send(item) {
        Ok(()) => return Ok(()),
        // The receiver is gone only when its block has failed and the graph is stopping.
        Err(TrySendError::Disconnected(_)) => return Err(Error::interrupted()),
        Err(TrySendError::Full(item)) => item,
    };
    let start = Instant::now();
    let result = loop {
        if let Err(stopped) = shared.check() {
            break Err(stopped);
        }
        match sender.send_timeout(item, POLL) {
            Ok(()) => break Ok(()),
            Err(SendTimeoutError::Disconnected(_)) => break Err(Error::interrupted()),
            Err(SendTimeoutError::Timeout(back)) => item = back,
        }
    };
    Counters::add(&counters.blocked_ns, start.elapsed());
    result
}
