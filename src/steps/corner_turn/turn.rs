//! Turning: blocks of frames become pieces of slabs.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::blocks::{Frames, Layout, Place, RawBlock};
use super::slabs::{Geometry, SlabBuffer, SlabMaker};
use crate::axes::{Crop, DetShape};
use crate::error::{Error, Result};
use crate::kernel::transpose::{BadSamples, RawFrames, Sum, add_squares, sum_frames, turn, turn_narrow};
use crate::memory::AlignedBytes;
use crate::pipeline::{Block, Emitter, Pool, Pooled};
use crate::plan::Pieces;
use crate::progress::Progress;
use crate::read::FrameSource;
use crate::with_sample_type;

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
    pub(super) source: &'a dyn FrameSource,
    pub(super) geometry: Geometry,
    pub(super) slabs: SlabMaker,
    pub(super) parts: Pool,
    /// Where pieces are read to that nobody has read yet.
    pub(super) piece: Option<Pooled>,
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
        let RawBlock { place, frames, mut sums } = block;
        let totals = sums.cast_mut::<Sum>();
        totals.fill(Sum::default());
        let (samples, bad) = if place.start == 0 && place.frames == g.frames_in(place.slab) {
            let mut slab = self.slabs.make(out)?;
            let bytes = slab.bytes_mut()?;
            if place.frames < g.line() {
                bytes.fill(0);
            }
            let bad = self.turn_into((place, &frames), bytes, g.line(), totals)?;
            (TurnedSamples::WholeSlab(slab), bad)
        } else {
            let mut part = out.take(&self.parts)?;
            let bad = self.turn_into((place, &frames), &mut part, place.frames, totals)?;
            (TurnedSamples::Part(part), bad)
        };
        drop(frames);
        let bytes = (place.frames * g.frame_bytes()) as u64;
        out.count_bytes(bytes);
        self.progress.advance(bytes);
        out.send(Turned { place, samples, sums, bad })
    }
}

impl Turn<'_> {
    /// Turns a block into lines of `line` samples each, and adds up. Fails where a count does not fit in the stack's type.
    fn turn_into(
        &mut self,
        (place, from): (Place, &Frames),
        out: &mut AlignedBytes,
        line: usize,
        totals: &mut [Sum],
    ) -> Result<BadSamples> {
        let Geometry { crop, det, dtype, stored, .. } = self.geometry;
        let (counts, squares) = totals.split_at_mut(det.len());
        let pieces = Pieces::of(det, (dtype.size(), stored.size()), place.frames);
        let mut bad = BadSamples::default();
        let mut own = self.piece.take();
        let lines = &mut out[..crop.shape().len() * line * stored.size()];
        for first in (0..place.frames).step_by(pieces.frames) {
            let frames = first..(first + pieces.frames).min(place.frames);
            for row in (0..det.rows).step_by(pieces.rows) {
                let rows = row..(row + pieces.rows).min(det.rows);
                let piece = match (from, &mut own) {
                    (Frames::Read { buffer, layout }, _) => {
                        layout.frames(buffer, place.frames, det).part(frames.clone(), rows.clone(), dtype.size())
                    }
                    (Frames::InFile, Some(own)) => {
                        let base = own.as_ptr() as usize;
                        let wanted = place.first_frame + frames.start..place.first_frame + frames.end;
                        let layout = Layout::of(&self.source.read_rows(wanted, rows.clone(), own)?, base);
                        layout.frames(own, frames.len(), DetShape::new(rows.len(), det.cols))
                    }
                    _ => return Err(Error::bug("frames that nobody has read")),
                };
                // One frame after the other, which the processor foresees: the turn finds them in its cache.
                bad.merge(self.sum(&piece, &mut counts[rows.start * det.cols..rows.end * det.cols]), first);
                self.turn_piece(&piece, rows, lines, (line, first))?;
            }
        }
        self.piece = own;
        with_sample_type!(stored, N => {
            // Whole lines, one after the other: a piece's parts of them are far from each other.
            add_squares::<N>(bytemuck::cast_slice(lines), line, 0..place.frames, squares);
        });
        Ok(bad)
    }

    /// Turns detector rows `rows` of some frames, the first of which has the place `first` in each line.
    fn turn_piece(
        &self,
        piece: &RawFrames<'_>,
        rows: Range<usize>,
        lines: &mut [u8],
        (line, first): (usize, usize),
    ) -> Result<()> {
        let Geometry { crop, dtype, stored, .. } = self.geometry;
        let (row0, row1) = (crop.row0.max(rows.start), crop.row1.min(rows.end));
        if row0 >= row1 {
            return Ok(());
        }
        let part = Crop { row0: row0 - rows.start, row1: row1 - rows.start, ..crop };
        let (top, width) = (row0 - crop.row0, crop.shape().cols * line);
        let fits = with_sample_type!(stored, N => {
            let samples: &mut [N] = bytemuck::cast_slice_mut(lines);
            let lines = &mut samples[top * width..(top + row1 - row0) * width];
            if stored == dtype {
                turn::<N>(piece, part, lines, line, first);
                true
            } else {
                turn_narrow::<N>(piece, dtype, part, (lines, line, first))
            }
        });
        if fits {
            return Ok(());
        }
        self.misfit.store(true, Ordering::Relaxed);
        Err(Error::bug(format!("a count of {dtype} does not fit in {stored}")))
    }

    fn sum(&mut self, frames: &RawFrames<'_>, sums: &mut [Sum]) -> BadSamples {
        with_sample_type!(self.geometry.dtype, S => sum_frames::<S>(frames, sums, &mut self.small))
    }
}
