//! Runs one block alone, without threads or channels.

use std::sync::Arc;

use crate::error::Result;
use crate::pipeline::block::{Block, Emitter, Shared, Target};
use crate::pipeline::metrics::Counters;
use crate::progress::CancelToken;

/// A bench for one block: give it items, look at what it emits.
///
/// ```
/// use stemstream::pipeline::{Block, Emitter, Mock};
///
/// struct Double;
/// impl Block for Double {
///     type In = u32;
///     type Out = u32;
///     fn work(&mut self, item: u32, out: &mut Emitter<'_, u32>) -> stemstream::Result<()> {
///         out.send(2 * item)
///     }
/// }
///
/// let mut mock = Mock::new(Double);
/// assert_eq!(mock.run([1, 2, 3])?, [2, 4, 6]);
/// # Ok::<(), stemstream::Error>(())
/// ```
#[derive(Debug)]
pub struct Mock<B> {
    block: B,
    shared: Arc<Shared>,
    counters: Counters,
}

impl<B: Block> Mock<B> {
    /// Puts a block on the bench.
    pub fn new(block: B) -> Self {
        Self { block, shared: Arc::new(Shared::new(CancelToken::new())), counters: Counters::default() }
    }

    /// `init`, `work` for each item, `finish`; everything that was emitted, in order.
    ///
    /// # Errors
    /// Whatever the block returns.
    pub fn run(&mut self, items: impl IntoIterator<Item = B::In>) -> Result<Vec<B::Out>> {
        let mut emitted = Vec::new();
        let mut out = Emitter {
            target: Target::Collected(&mut emitted),
            shared: &self.shared,
            counters: &self.counters,
            count_sent: false,
        };
        self.block.init()?;
        for item in items {
            self.block.work(item, &mut out)?;
        }
        self.block.finish(&mut out)?;
        Ok(emitted)
    }

    /// The block, for a look inside.
    pub fn into_block(self) -> B {
        self.block
    }
}
