//! Blocks of frames: where they lie in the scan, and how they are read.

use super::slabs::Geometry;
use crate::axes::{DetShape, Endian, ScanShape};
use crate::error::Result;
use crate::kernel::transpose::RawFrames;
use crate::pipeline::{Block, Emitter, Pool, Pooled};
use crate::read::{FrameBlock, FrameSource};

/// Some frames of one slab that are read together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Counts the blocks in the order of their frames.
    pub(super) id: usize,
    pub(super) slab: usize,
    /// Frame of the slab at which the block begins.
    pub(super) start: usize,
    pub(super) frames: usize,
    /// The same, counted from the beginning of the scan.
    pub(super) first_frame: usize,
}

/// All blocks of at most `frames` frames, in the order of the frames. None reaches over the end of a slab.
pub(super) fn places(scan: ScanShape, slab_rows: usize, frames: usize) -> impl Iterator<Item = Place> {
    let slab_frames = move |slab: usize| slab_rows.min(scan.rows - slab * slab_rows) * scan.cols;
    let of_slab = move |slab: usize| (0..slab_frames(slab)).step_by(frames.max(1)).map(move |start| (slab, start));
    (0..scan.rows.div_ceil(slab_rows)).flat_map(of_slab).enumerate().map(move |(id, (slab, start))| Place {
        id,
        slab,
        start,
        frames: frames.min(slab_frames(slab) - start),
        first_frame: slab * slab_rows * scan.cols + start,
    })
}

/// A block on its way to the turn, with the buffers that it will need. They are taken at the beginning, in the order of the
/// frames: a later block can never hold the last buffer that an earlier one waits for.
pub(super) struct RawBlock {
    pub(super) place: Place,
    pub(super) frames: Frames,
    pub(super) sums: Pooled,
}

/// Where the frames of a block are.
pub(super) enum Frames {
    /// In the file: who turns them reads them, piece by piece.
    InFile,
    /// In the file, and they are to be read into this buffer.
    Wanted(Pooled),
    /// Read, as they lie in the file.
    Read { buffer: Pooled, layout: Layout },
}

/// How frames lie in a buffer. A view of them becomes this, so that the buffer can travel to another thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    offset: usize,
    stride: usize,
    endian: Endian,
}

impl Layout {
    /// Of a view of the bytes that begin at the address `base`.
    pub(super) fn of(block: &FrameBlock<'_>, base: usize) -> Self {
        let offset = block.bytes.as_ptr() as usize - base + block.offset;
        Self { offset, stride: block.stride, endian: block.endian }
    }

    pub(super) fn frames(self, bytes: &[u8], frames: usize, det: DetShape) -> RawFrames<'_> {
        let Self { offset, stride, endian } = self;
        RawFrames { bytes, offset, stride, frames, det, swap: endian == Endian::Big }
    }
}

/// Blocks that the system fetches beyond the one that is read.
const AHEAD: usize = 3;

/// Cuts the scan into blocks and asks the system to fetch them ahead of the readers.
pub(super) struct Cut<'a> {
    pub(super) source: &'a dyn FrameSource,
    pub(super) geometry: Geometry,
    pub(super) frames: usize,
    /// Buffers to read to; none where who turns reads.
    pub(super) raw: Option<Pool>,
    pub(super) sums: Pool,
}

impl Block for Cut<'_> {
    type In = ();
    type Out = RawBlock;

    fn work(&mut self, (): (), out: &mut Emitter<'_, RawBlock>) -> Result<()> {
        let g = self.geometry;
        let (all, ahead) = (g.scan.len(), AHEAD * self.frames);
        let mut announced = 0;
        for place in places(g.scan, g.slab_rows, self.frames) {
            let frames = match &self.raw {
                Some(raw) => Frames::Wanted(out.take(raw)?),
                None => Frames::InFile,
            };
            let block = RawBlock { place, frames, sums: out.take(&self.sums)? };
            let until = (place.first_frame + place.frames + ahead).min(all);
            self.source.will_read(announced, until - announced);
            announced = until;
            out.count_bytes((place.frames * g.frame_bytes()) as u64);
            out.send(block)?;
        }
        Ok(())
    }
}

/// Reads blocks. Several at once: one waits for the disk while the other copies or decodes.
pub(super) struct Read<'a> {
    pub(super) source: &'a dyn FrameSource,
    pub(super) geometry: Geometry,
}

impl Block for Read<'_> {
    type In = RawBlock;
    type Out = RawBlock;

    fn work(&mut self, mut block: RawBlock, out: &mut Emitter<'_, RawBlock>) -> Result<()> {
        if let Frames::Wanted(mut buffer) = block.frames {
            let base = buffer.as_ptr() as usize;
            let layout =
                Layout::of(&self.source.read_block(block.place.first_frame, block.place.frames, &mut buffer)?, base);
            block.frames = Frames::Read { buffer, layout };
        }
        out.count_bytes((block.place.frames * self.geometry.frame_bytes()) as u64);
        out.send(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_each_other_and_end_with_their_slabs() {
        for (rows, cols, slab_rows, frames) in [(7, 5, 2, 3), (4, 8, 4, 100), (5, 3, 1, 3), (1, 9, 1, 2)] {
            let (mut next, mut id) = (0, 0);
            for place in places(ScanShape::new(rows, cols), slab_rows, frames) {
                assert_eq!((place.id, place.first_frame), (id, next), "{place:?}");
                assert_eq!(place.slab * slab_rows * cols + place.start, next, "{place:?}");
                assert!((1..=frames).contains(&place.frames));
                assert_eq!((next + place.frames - 1) / (slab_rows * cols), place.slab, "{place:?}");
                (next, id) = (next + place.frames, id + 1);
            }
            assert_eq!(next, rows * cols);
        }
    }
}
