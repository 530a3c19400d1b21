//! Reading and turning: blocks of frames become pieces of slabs.

use std::sync::atomic::{AtomicBool, Ordering};

use super::slabs::{Geometry, SlabBuffer, SlabMaker};
use crate::axes::{Crop, DetShape, Endian};
use crate::error::{Error, Result};
use crate::kernel::transpose::{BadSamples, RUN, RawFrames, Sum, add_squares, sum_frames, turn, turn_narrow};
use crate::memory::AlignedBytes;
use crate::pipeline::{Block, Emitter, Pool, Pooled};
use crate::progress::Progress;
use crate::read::FrameSource;
use crate::with_sample_type;

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

/// A block that is to be read, with the buffers that it will need. They are taken here, in the order of the frames:
/// a later block can never hold the last buffer that an earlier one waits for.
pub(super) struct Job {
    place: Place,
    frames: Pooled,
    sums: Pooled,
}

/// Blocks that the system fetches beyond the one that is read.
const AHEAD: usize = 3;

/// Cuts the scan into blocks and asks the system to fetch them ahead of the readers.
pub(super) struct Cut<'a> {
    pub(super) source: &'a dyn FrameSource,
    pub(super) geometry: Geometry,
    pub(super) frames: usize,
    pub(super) raw: Pool,
    pub(super) sums: Pool,
}

impl Block for Cut<'_> {
    type In = ();
    type Out = Job;

    fn work(&mut self, (): (), out: &mut Emitter<'_, Job>) -> Result<()> {
        let all = self.geometry.scan.len();
        let (mut announced, ahead) = (0, AHEAD * self.frames);
        let mut place = Place { id: 0, slab: 0, start: 0, frames: 0, first_frame: 0 };
        for slab in 0..self.geometry.slabs {
            let in_slab = self.geometry.frames_in(slab);
            let mut start = 0;
            while start < in_slab {
                place = Place { slab, start, frames: self.frames.min(in_slab - start), ..place };
                let job = Job { place, frames: out.take(&self.raw)?, sums: out.take(&self.sums)? };
                let until = (place.first_frame + place.frames + ahead).min(all);
                self.source.will_read(announced, until - announced);
                announced = until;
                out.count_bytes((place.frames * self.geometry.frame_bytes()) as u64);
                out.send(job)?;
                start += place.frames;
                place = Place { id: place.id + 1, first_frame: place.first_frame + place.frames, ..place };
            }
        }
        Ok(())
    }
}

/// A block of frames as it lies in the file.
pub(super) struct RawBlock {
    place: Place,
    buffer: Pooled,
    sums: Pooled,
    offset: usize,
    stride: usize,
    endian: Endian,
}

/// Reads blocks. Several at once: one waits for the disk while the other copies or decodes.
pub(super) struct Read<'a> {
    pub(super) source: &'a dyn FrameSource,
    pub(super) geometry: Geometry,
}

impl Block for Read<'_> {
    type In = Job;
    type Out = RawBlock;

    fn work(&mut self, job: Job, out: &mut Emitter<'_, RawBlock>) -> Result<()> {
        let Job { place, frames: mut buffer, sums } = job;
        let base = buffer.as_ptr() as usize;
        let block = self.source.read_block(place.first_frame, place.frames, &mut buffer)?;
        // The view becomes an offset, so that the buffer can travel to another thread.
        let offset = block.bytes.as_ptr() as usize - base + block.offset;
        let (stride, endian) = (block.stride, block.endian);
        out.count_bytes((place.frames * self.geometry.frame_bytes()) as u64);
        out.send(RawBlock { place, buffer, sums, offset, stride, endian })
    }
}

/// A block of the crop, pixel by pixel, and what was added up on the way.
pub(super) struct Turned {
    pub(super) place: Place,
    pub(super) samples: TurnedSamples,
    /// As [`Totals`](super::collect::Totals) lays them out.
    pub(super) sums: Pooled,
    pub(super) bad: BadSamples,
}

pub(super) enum TurnedSamples {
    WholeSlab(SlabBuffer),
    Part(Pooled),
}

/// Crops and transposes blocks, and adds up the whole detector and the crop's squares.
pub(super) struct Turn<'a> {
    pub(super) geometry: Geometry,
    pub(super) slabs: SlabMaker,
    pub(super) parts: Pool,
    pub(super) small: Vec<i32>,
    /// Set where a count does not fit in the stack's type.
    pub(super) misfit: &'a AtomicBool,
    pub(super) progress: &'a dyn Progress,
}

impl Block for Turn<'_> {
    type In = RawBlock;
    type Out = Turned;

    fn work(&mut self, block: RawBlock, out: &mut Emitter<'_, Turned>) -> Result<()> {
        let g = self.geometry;
        let RawBlock { place, buffer, mut sums, offset, stride, endian } = block;
        let swap = endian == Endian::Big;
        let raw = RawFrames { bytes: &buffer, offset, stride, frames: place.frames, det: g.det, swap };
        let totals = sums.cast_mut::<Sum>();
        totals.fill(Sum::default());
        let (samples, bad) = if place.start == 0 && place.frames == g.frames_in(place.slab) {
            let mut slab = self.slabs.make(out)?;
            let bytes = slab.bytes_mut()?;
            if place.frames < g.line() {
                bytes.fill(0);
            }
            let bad = self.turn_into(&raw, bytes, g.line(), totals)?;
            (TurnedSamples::WholeSlab(slab), bad)
        } else {
            let mut part = out.take(&self.parts)?;
            let bad = self.turn_into(&raw, &mut part, place.frames, totals)?;
            (TurnedSamples::Part(part), bad)
        };
        drop(buffer);
        let bytes = (place.frames * g.frame_bytes()) as u64;
        out.count_bytes(bytes);
        self.progress.advance(bytes);
        out.send(Turned { place, samples, sums, bad })
    }
}

/// Bytes of frames that are summed and turned together: they stay in a core's own cache meanwhile.
const PIECE_BYTES: usize = 512 << 10;

/// How a block is cut into pieces of [`PIECE_BYTES`].
#[derive(Debug, Clone, Copy)]
struct Pieces {
    /// Frames in a piece: so many that they fill whole cache lines of a detector pixel.
    frames: usize,
    /// Detector rows in a piece: all of them, unless the frames that fill one cache line are too large already.
    rows: usize,
}

impl Pieces {
    /// For frames with samples of `sample` bytes that become `stored` bytes.
    fn of(det: DetShape, sample: usize, stored: usize) -> Self {
        let run = RUN / stored;
        let row_bytes = (det.cols * sample).max(1);
        let frames = (PIECE_BYTES / (row_bytes * det.rows.max(1)) / run * run).max(run);
        Self { frames, rows: (PIECE_BYTES / (frames * row_bytes)).clamp(1, det.rows.max(1)) }
    }
}

impl Turn<'_> {
    /// Turns a block into lines of `line` samples each, and adds up. Fails where a count does not fit in the stack's type.
    fn turn_into(
        &mut self,
        raw: &RawFrames<'_>,
        out: &mut AlignedBytes,
        line: usize,
        totals: &mut [Sum],
    ) -> Result<BadSamples> {
        let Geometry { crop, det, dtype, stored, .. } = self.geometry;
        let (counts, squares) = totals.split_at_mut(det.len());
        let (pieces, width) = (Pieces::of(det, dtype.size(), stored.size()), crop.shape().cols);
        let mut bad = BadSamples::default();
        with_sample_type!(stored, N => {
            let samples = &mut out.cast_mut::<N>()[..crop.shape().len() * line];
            for first in (0..raw.frames).step_by(pieces.frames) {
                let frames = first..(first + pieces.frames).min(raw.frames);
                for row in (0..det.rows).step_by(pieces.rows) {
                    let rows = row..(row + pieces.rows).min(det.rows);
                    let piece = raw.part(frames.clone(), rows.clone(), dtype.size());
                    // One frame after the other, which the processor foresees: the turn finds them in its cache.
                    bad.merge(self.sum(&piece, &mut counts[rows.start * det.cols..rows.end * det.cols]), first);
                    let (row0, row1) = (crop.row0.max(rows.start), crop.row1.min(rows.end));
                    if row0 < row1 {
                        let part = Crop { row0: row0 - rows.start, row1: row1 - rows.start, ..crop };
                        let pixels = (row0 - crop.row0) * width..(row1 - crop.row0) * width;
                        let lines = &mut samples[pixels.start * line..pixels.end * line];
                        if stored == dtype {
                            turn::<N>(&piece, part, lines, line, first);
                        } else if !turn_narrow::<N>(&piece, dtype, part, (lines, line, first)) {
                            self.misfit.store(true, Ordering::Relaxed);
                            return Err(Error::bug(format!("a count of {dtype} does not fit in {stored}")));
                        }
                    }
                }
            }
            // Whole lines, one after the other: a piece's parts of them are far from each other.
            add_squares(samples, line, 0..raw.frames, squares);
        });
        Ok(bad)
    }

    fn sum(&mut self, frames: &RawFrames<'_>, sums: &mut [Sum]) -> BadSamples {
        with_sample_type!(self.geometry.dtype, S => sum_frames::<S>(frames, sums, &mut self.small))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fill_cache_lines_and_stay_small_where_frames_let_them() {
        let shapes = [(1, 1), (16, 1), (64, 2), (128, 2), (256, 2), (256, 4), (1024, 8), (4096, 4)];
        for ((side, sample), stored) in shapes.into_iter().flat_map(|s| [(s, s.1), (s, 1)]) {
            let det = DetShape::new(side, side);
            let Pieces { frames, rows } = Pieces::of(det, sample, stored);
            assert!(
                (frames * stored).is_multiple_of(RUN) && (1..=side).contains(&rows),
                "{det}: {frames} frames, {rows} rows"
            );
            let bytes = frames * rows * side * sample;
            assert!(bytes <= PIECE_BYTES || rows == 1 && frames * stored == RUN, "{det}: {bytes}");
        }
    }
}
