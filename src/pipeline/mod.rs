//! A graph of blocks that streams work through bounded channels.
//!
//! A [`Block`] takes items, does something with them and emits items. A [`Graph`] joins blocks by bounded channels and
//! gives each its threads. Large buffers come from a [`Pool`] that is charged against the run's memory budget; a
//! block that finds no free buffer waits, and so do those before it: that is the back-pressure.
//!
//! ```text
//! source ──channel──► block × workers ──┬──channel──► block × workers ──► …
//!                                       └──channel──► block
//! ```
//!
//! An error or a panic in any block stops the graph, joins every thread and comes back with the block's name; so does
//! a cancelled token. Every block is measured: items, bytes, and the time it was busy, starved (waiting for input)
//! and blocked (waiting for room or for a buffer), so that a run can name its bottleneck.
//!
//! [`Beside`] does small things that wait for the disk while the rest goes on.
//!
//! To write a block of your own, see `examples/04_own_block.rs`; to test it without threads, use [`Mock`].
//!
//! This module is the only one that starts threads.

mod beside;
mod block;
mod graph;
mod metrics;
mod mock;
mod pool;
mod workers;

pub use beside::Beside;
pub use block::{Block, Emitter};
pub use graph::{Graph, Port};
pub use metrics::{BlockReport, GraphReport};
pub use mock::Mock;
pub use pool::{Pool, Pooled};
pub use workers::Workers;
