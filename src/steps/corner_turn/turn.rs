//! Reading and turning: blocks of frames become pieces of slabs.

use super::slabs::{Geometry, SlabBuffer, SlabMaker};
use crate::axes::Endian;
use crate::error::Result;
use crate::kernel::transpose::{BadSamples, RawFrames, Sum, square_sum, sum_frames, turn};
use crate::pipeline::{AlignedBytes, Block, Emitter, Pool, Pooled};
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
            let bad = self.turn_into(&raw, bytes, g.line(), totals);
            (TurnedSamples::WholeSlab(slab), bad)
        } else {
            let mut part = out.take(&self.parts)?;
            let bad = self.turn_into(&raw, &mut part, place.frames, totals);
            (TurnedSamples::Part(part), bad)
        };
        drop(buffer);
        let bytes = (place.frames * g.frame_bytes()) as u64;
        out.count_bytes(bytes);
        self.progress.advance(bytes);
        out.send(Turned { place, samples, sums, bad })
    }
}

impl Turn<'_> {
    fn turn_into(
        &mut self,
        raw: &RawFrames<'_>,
        out: &mut AlignedBytes,
        line: usize,
        totals: &mut [Sum],
    ) -> BadSamples {
        let crop = self.geometry.crop;
        let (counts, squares) = totals.split_at_mut(self.geometry.det.len());
        with_sample_type!(self.geometry.dtype, S => {
            let samples = &mut out.cast_mut::<S>()[..crop.shape().len() * line];
            turn::<S>(raw, crop, samples, line, 0);
            for (square, image) in squares.iter_mut().zip(samples.chunks_exact(line)) {
                *square = square_sum(&image[..raw.frames]);
            }
            sum_frames::<S>(raw, counts, &mut self.small)
        })
    }
}
