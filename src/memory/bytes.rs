//! Buffers: aligned for every number and for the disk, and in huge pages where they are long.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use memmap2::{MmapMut, MmapRaw};

use crate::memory::BLOCK;

/// Bytes of a huge page on the usual machines.
const HUGE: usize = 2 << 20;
/// Buffers from this length on are mapped, so that they go back to the system when they are dropped.
const MAPPED: usize = 1 << 20;
/// The last huge page of a buffer may be so much longer than the buffer, as a part of the buffer: 1/32.
const MOST_WASTE: usize = 32;

/// One block of memory, aligned.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

/// Bytes that begin with a [`BLOCK`]: they can be viewed as any sample or complex type, and be written and read past the
/// page cache.
///
/// Long ones lie in huge pages, where the system has them. New memory is several times cheaper so (one request to the
/// system for 512 usual pages; the host of a virtual machine is asked as seldom), and so is finding a place in it.
#[derive(Debug, Default)]
pub struct AlignedBytes {
    held: Held,
    len: usize,
}

enum Held {
    Blocks(Vec<Block>),
    /// The bytes begin at `start`. No other buffer of the same map holds any of them.
    Map {
        map: Arc<MmapRaw>,
        start: usize,
    },
}

impl Default for Held {
    fn default() -> Self {
        Self::Blocks(Vec::new())
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Map { .. }) { "Map" } else { "Blocks" })
    }
}

impl AlignedBytes {
    /// `len` zero bytes. Long ones take memory only where they are written to.
    pub fn zeroed(len: usize) -> Self {
        Self::zeroed_together(1, len).pop().unwrap_or_default()
    }

    /// `count` buffers of `len` zero bytes that lie side by side in the same huge pages: the memory goes back to the system when
    /// the last of them is dropped.
    pub fn zeroed_together(count: usize, len: usize) -> Vec<Self> {
        let apart = len.next_multiple_of(BLOCK);
        let of = |held: Held| Self { held, len };
        match map(count.saturating_mul(apart)) {
            Some((map, first)) => {
                (0..count).map(|i| of(Held::Map { map: Arc::clone(&map), start: first + i * apart })).collect()
            }
            // The allocator ends the program in its own way when there is no memory.
            None => (0..count).map(|_| of(Held::Blocks(vec![Block::zeroed(); apart / BLOCK]))).collect(),
        }
    }

    /// The memory that a buffer of `len` bytes takes when it is full: its length, and what its last page has to spare.
    const fn held(len: usize) -> usize {
        if len < MAPPED {
            return len;
        }
        let huge = huge_part(len);
        if huge > len { huge } else { len }
    }

    /// The same for `count` buffers that lie [together](Self::zeroed_together).
    pub const fn held_together(count: usize, len: usize) -> usize {
        Self::held(count * len.next_multiple_of(BLOCK))
    }

    /// A view as numbers.
    ///
    /// # Panics
    /// When the length is not a multiple of the number's size.
    pub fn cast<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self)
    }

    /// A mutable view as numbers.
    ///
    /// # Panics
    /// As [`cast`](Self::cast).
    pub fn cast_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self)
    }
}

/// New memory for `len` bytes, and where in it they begin: where a huge page does. `None` for few bytes, and where there is no
/// memory.
fn map(len: usize) -> Option<(Arc<MmapRaw>, usize)> {
    if len < MAPPED {
        return None;
    }
    // With room to begin where a huge page does; addresses cost nothing.
    let map = MmapMut::map_anon(len.checked_next_multiple_of(HUGE)?.checked_add(HUGE)?).ok()?;
    let start = (map.as_ptr() as usize).next_multiple_of(HUGE) - map.as_ptr() as usize;
    // A wish: without huge pages everything works as well, only slower.
    #[cfg(target_os = "linux")]
    if huge_part(len) > 0 {
        let _ = map.advise_range(memmap2::Advice::HugePage, start, huge_part(len));
    }
    Some((Arc::new(map.into()), start))
}

/// How many of `len` bytes, from the first one on, to wish huge pages for; more than there are where the last page is nearly
/// full.
const fn huge_part(len: usize) -> usize {
    let rest = len % HUGE;
    let nearly_full = rest > 0 && (HUGE - rest) * MOST_WASTE <= len;
    if nearly_full { len - rest + HUGE } else { len - rest }
}

impl Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.held {
            Held::Blocks(blocks) => &bytemuck::cast_slice(blocks)[..self.len],
            // SAFETY: `zeroed_together` made the map long enough for all of its buffers and gave each a part of its own; the
            // map lives as long as the last of them, its bytes are always initialised, and who has this buffer borrowed
            // for writing has it alone.
            Held::Map { map, start } => unsafe { std::slice::from_raw_parts(map.as_ptr().add(*start), self.len) },
        }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.held {
            Held::Blocks(blocks) => &mut bytemuck::cast_slice_mut(blocks)[..self.len],
            // SAFETY: as for reading.
            Held::Map { map, start } => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().add(*start), self.len)
            },
        }
    }
}

/// Numbers in [`AlignedBytes`]: for the large ones that come and go while images are made, each page of which would be asked
/// for by itself otherwise.
#[derive(Debug, Default)]
pub struct Numbers<T> {
    bytes: AlignedBytes,
    kind: PhantomData<T>,
}

impl<T: Pod> Numbers<T> {
    /// `count` zeros.
    pub fn zeroed(count: usize) -> Self {
        Self { bytes: AlignedBytes::zeroed(count * size_of::<T>()), kind: PhantomData }
    }
}

impl<T: Pod> Deref for Numbers<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.bytes.cast()
    }
}

impl<T: Pod> DerefMut for Numbers<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.bytes.cast_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_many_zeros_as_were_asked_for() {
        for count in [0, 1, 3, MAPPED / 8 - 1, HUGE / 8 + 5] {
            let mut numbers = Numbers::<u64>::zeroed(count);
            assert!(numbers.len() == count && numbers.iter().all(|v| *v == 0), "{count}");
            numbers.fill(5);
            assert!(numbers.iter().all(|v| *v == 5), "{count}");
        }
    }

    #[test]
    fn buffers_of_every_length_are_zero_aligned_and_writable_to_the_last_byte() {
        for len in [0, 1, 16, BLOCK, BLOCK + 1, MAPPED - 1, MAPPED, HUGE, HUGE + 1, 2 * HUGE - BLOCK, 5 * HUGE / 2] {
            let mut bytes = AlignedBytes::zeroed(len);
            assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == 0), "{len}");
            assert!(len == 0 || (bytes.as_ptr() as usize).is_multiple_of(BLOCK), "{len}");
            bytes.fill(7);
            assert!(bytes.iter().all(|byte| *byte == 7), "{len}");
            if len.is_multiple_of(16) {
                assert_eq!((bytes.cast::<u128>().len(), bytes.cast_mut::<f64>().len()), (len / 16, len / 8));
            }
        }
        assert!(AlignedBytes::default().is_empty());
    }

    #[test]
    fn buffers_that_lie_together_are_apart() {
        for (count, len) in [(0, 7), (3, 5), (7, BLOCK), (5, MAPPED - 3), (3, HUGE + 1)] {
            let mut all = AlignedBytes::zeroed_together(count, len);
            assert_eq!(all.len(), count);
            for (i, bytes) in all.iter_mut().enumerate() {
                assert!(bytes.len() == len && (bytes.as_ptr() as usize).is_multiple_of(BLOCK), "{count} {len}");
                assert!(bytes.iter().all(|byte| *byte == 0), "{count} {len}");
                bytes.fill(i as u8 + 1);
            }
            // One after the other goes; what is left stays.
            while let Some(bytes) = all.pop() {
                assert!(bytes.iter().all(|byte| *byte == all.len() as u8 + 1), "{count} {len}");
                drop(bytes);
                assert!(all.iter().zip(1..).all(|(bytes, i)| bytes.iter().all(|byte| *byte == i)), "{count} {len}");
            }
        }
        assert_eq!(AlignedBytes::held_together(3, BLOCK + 1), 6 * BLOCK);
        assert_eq!(AlignedBytes::held_together(100, HUGE / 2), 50 * HUGE);
    }

    #[test]
    fn a_buffer_holds_little_more_than_its_length() {
        assert_eq!(AlignedBytes::held(5), 5);
        assert_eq!(AlignedBytes::held(3 * HUGE), 3 * HUGE);
        assert_eq!(AlignedBytes::held(3 * HUGE + HUGE / 2), 3 * HUGE + HUGE / 2, "half a page stays in usual ones");
        assert_eq!(AlignedBytes::held(3 * HUGE - BLOCK), 3 * HUGE, "a page that is nearly full is whole");
        for len in (0..40 * HUGE).step_by(100_003) {
            let held = AlignedBytes::held(len);
            assert!(held >= len && (held - len) * MOST_WASTE <= len, "{len}: {held}");
        }
    }
}
