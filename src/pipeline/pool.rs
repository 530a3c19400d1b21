//! Reusable buffers that are charged against the memory budget.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::error::Result;
use crate::memory::{AlignedBytes, Charge, MemoryBudget};

/// A fixed number of equal buffers. Clones share them; any thread may take and return them.
///
/// They lie side by side: of each alone, what does not fill a huge page would be hundreds of usual pages, which the disk is
/// told of one by one where it writes to them.
#[derive(Debug, Clone)]
pub struct Pool {
    free: Receiver<AlignedBytes>,
    back: Sender<AlignedBytes>,
    buffer_len: usize,
    _charge: std::sync::Arc<Charge>,
}

impl Pool {
    /// `count` buffers of `buffer_len` bytes for `what`, all charged at once.
    ///
    /// # Errors
    /// [`Memory`](crate::error::ErrorKind::Memory) when the budget does not have them left.
    pub fn new(budget: &MemoryBudget, what: &str, count: usize, buffer_len: usize) -> Result<Self> {
        let charge = budget.charge(Self::bytes(count, buffer_len), what)?;
        let (back, free) = bounded(count.max(1));
        for buffer in AlignedBytes::zeroed_together(count, buffer_len) {
            // The channel has room for exactly these.
            let _ = back.send(buffer);
        }
        Ok(Self { free, back, buffer_len, _charge: std::sync::Arc::new(charge) })
    }

    /// What `count` buffers of `buffer_len` bytes are charged with.
    pub fn bytes(count: usize, buffer_len: usize) -> u64 {
        AlignedBytes::held_together(count, buffer_len) as u64
    }

    /// Bytes of one buffer.
    pub fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// A free buffer, without waiting.
    pub fn try_take(&self) -> Option<Pooled> {
        self.free.try_recv().ok().map(|buffer| self.wrap(buffer))
    }

    pub(crate) fn take_within(&self, timeout: Duration) -> Option<Pooled> {
        match self.free.recv_timeout(timeout) {
            Ok(buffer) => Some(self.wrap(buffer)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    fn wrap(&self, buffer: AlignedBytes) -> Pooled {
        Pooled { buffer, back: self.back.clone() }
    }
}

/// A buffer from a [`Pool`]; it goes back on drop. Its content is whatever the last user left.
#[derive(Debug)]
pub struct Pooled {
    buffer: AlignedBytes,
    back: Sender<AlignedBytes>,
}

impl Deref for Pooled {
    type Target = AlignedBytes;
    fn deref(&self) -> &AlignedBytes {
        &self.buffer
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut AlignedBytes {
        &mut self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        // Fails only when the pool is gone, and then the memory is simply freed.
        let _ = self.back.try_send(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::BLOCK;

    #[test]
    fn a_pool_charges_the_budget_and_takes_buffers_back() {
        let budget = MemoryBudget::new(3 * BLOCK as u64 - 1);
        assert_eq!(Pool::new(&budget, "x", 3, 40).map(|_| ()).map_err(|e| e.exit_code()), Err(5));
        let pool = Pool::new(&budget, "x", 2, 40).expect("fits");
        assert_eq!(budget.used(), 2 * BLOCK as u64, "as much as they take");
        let (a, b) = (pool.try_take().expect("free"), pool.try_take().expect("free"));
        assert!(pool.try_take().is_none());
        assert_eq!((a.cast::<f64>().len(), b.len()), (5, 40));
        drop(a);
        assert!(pool.try_take().is_some());
        drop((b, pool));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn buffers_of_a_pool_lie_side_by_side() {
        let len = (1 << 20) + 5;
        let pool = Pool::new(&MemoryBudget::new(1 << 30), "x", 5, len).expect("fits");
        let buffers: Vec<_> = (0..5).map(|_| pool.try_take().expect("free")).collect();
        let places: Vec<_> = buffers.iter().map(|buffer| buffer.as_ptr() as usize).collect();
        let apart: Vec<_> = places.windows(2).map(|pair| pair[0].abs_diff(pair[1])).collect();
        assert_eq!(apart, [len.next_multiple_of(BLOCK); 4]);
    }
}
