//! What each block did with its time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// Counters of one block, shared by its workers.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) items: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) total_ns: AtomicU64,
    pub(crate) starved_ns: AtomicU64,
    pub(crate) blocked_ns: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, time: Duration) {
        counter.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn report(&self, name: &str, workers: usize) -> BlockReport {
        let seconds = |c: &AtomicU64| c.load(Ordering::Relaxed) as f64 * 1e-9;
        let (total, starved, blocked) = (seconds(&self.total_ns), seconds(&self.starved_ns), seconds(&self.blocked_ns));
        BlockReport {
            name: name.to_owned(),
            workers,
            items: self.items.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            busy_seconds: (total - starved - blocked).max(0.0),
            starved_seconds: starved,
            blocked_seconds: blocked,
        }
    }
}

/// One block's share of a finished run. Times are sums over its workers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockReport {
    /// The block's name.
    pub name: String,
    /// Threads that ran it.
    pub workers: usize,
    /// Items that it took (a source: emitted).
    pub items: u64,
    /// Bytes that it reported.
    pub bytes: u64,
    /// Time spent working.
    pub busy_seconds: f64,
    /// Time spent waiting for input.
    pub starved_seconds: f64,
    /// Time spent waiting for room in a channel or for a free buffer.
    pub blocked_seconds: f64,
}

/// A finished run of a graph.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GraphReport {
    /// The graph's name.
    pub name: String,
    /// Wall time.
    pub seconds: f64,
    /// All blocks, in the order in which they were added.
    pub blocks: Vec<BlockReport>,
}

impl GraphReport {
    /// The block whose threads were busy for the largest part of the run.
    pub fn bottleneck(&self) -> Option<&BlockReport> {
        let load = |b: &BlockReport| b.busy_seconds / b.workers.max(1) as f64;
        self.blocks.iter().max_by(|a, b| load(a).total_cmp(&load(b)))
    }
}
