//! Putting blocks together to slabs, adding up in the order of the frames, and writing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::blocks::Place;
use super::slabs::{Geometry, SlabBuffer, SlabMaker};
use super::turn::{Turned, TurnedSamples};
use crate::error::Result;
use crate::kernel::convert::PixelSums;
use crate::kernel::transpose::Sum;
use crate::memory::AlignedBytes;
use crate::pipeline::{Block, Emitter, Pooled};
use crate::store::ChunkedArray;

/// Sums over all frames so far.
pub(super) struct Totals {
    /// Σ I of each pixel of the whole detector, then Σ I² of each pixel of the crop.
    sums: Vec<Sum>,
    detector: usize,
    /// Samples that were not finite.
    pub(super) nan: u64,
    pub(super) first_nan_frame: Option<usize>,
}

impl Totals {
    pub(super) fn zero(geometry: &Geometry) -> Self {
        let detector = geometry.det.len();
        let sums = vec![Sum::default(); Self::len(geometry)];
        Self { sums, detector, nan: 0, first_nan_frame: None }
    }

    /// How many sums there are.
    pub(super) fn len(geometry: &Geometry) -> usize {
        geometry.det.len() + geometry.crop.shape().len()
    }

    /// Σ I of each pixel of the whole detector.
    pub(super) fn counts(&self) -> &[Sum] {
        &self.sums[..self.detector]
    }

    /// The sums of each pixel of the crop.
    pub(super) fn of_crop(&self, geometry: &Geometry) -> impl Iterator<Item = PixelSums> {
        let Geometry { crop, det, .. } = *geometry;
        let pixels =
            (crop.row0..crop.row1).flat_map(move |row| (crop.col0..crop.col1).map(move |col| row * det.cols + col));
        let sums = pixels.zip(self.squares());
        sums.map(|(pixel, squares)| PixelSums { sum: self.counts()[pixel].value(), sum_sq: squares.value() })
    }

    /// Σ I² of each pixel of the crop.
    pub(super) fn squares(&self) -> &[Sum] {
        &self.sums[self.detector..]
    }
}

/// A slab with all its frames.
pub(super) struct Finished {
    slab: usize,
    buffer: SlabBuffer,
}

pub(super) struct Collect<'a> {
    pub(super) geometry: Geometry,
    pub(super) slabs: SlabMaker,
    /// Slabs that still lack frames, with the number of frames that they have.
    pub(super) open: BTreeMap<usize, (SlabBuffer, usize)>,
    /// Sums that wait for an earlier block, so that floats are added in the order of the frames.
    pub(super) waiting: BTreeMap<usize, Pooled>,
    pub(super) next: usize,
    pub(super) totals: &'a mut Totals,
}

impl Block for Collect<'_> {
    type In = Turned;
    type Out = Finished;

    fn work(&mut self, block: Turned, out: &mut Emitter<'_, Finished>) -> Result<()> {
        let Turned { place, samples, sums, bad } = block;
        self.totals.nan += bad.nan;
        if let Some(frame) = bad.first_frame {
            let frame = place.first_frame + frame;
            self.totals.first_nan_frame = Some(self.totals.first_nan_frame.map_or(frame, |f| f.min(frame)));
        }
        self.add_up(place.id, sums);
        match samples {
            TurnedSamples::WholeSlab(buffer) => out.send(Finished { slab: place.slab, buffer }),
            TurnedSamples::Part(part) => self.fill(place, part, out),
        }
    }
}

impl<'a> Collect<'a> {
    pub(super) fn new(geometry: Geometry, slabs: SlabMaker, totals: &'a mut Totals) -> Self {
        Self { geometry, slabs, open: BTreeMap::new(), waiting: BTreeMap::new(), next: 0, totals }
    }

    fn add_up(&mut self, id: usize, sums: Pooled) {
        self.waiting.insert(id, sums);
        while let Some(sums) = self.waiting.remove(&self.next) {
            self.totals.sums.iter_mut().zip(sums.cast::<Sum>()).for_each(|(total, sum)| total.merge(*sum));
            self.next += 1;
        }
    }

    fn fill(&mut self, place: Place, part: Pooled, out: &mut Emitter<'_, Finished>) -> Result<()> {
        let (mut buffer, have) = if let Some(open) = self.open.remove(&place.slab) {
            open
        } else {
            let mut buffer = self.slabs.make(out)?;
            if self.geometry.frames_in(place.slab) < self.geometry.line() {
                buffer.bytes_mut()?.fill(0);
            }
            (buffer, 0)
        };
        self.copy_part(&part, place, buffer.bytes_mut()?);
        drop(part);
        let have = have + place.frames;
        if have == self.geometry.frames_in(place.slab) {
            return out.send(Finished { slab: place.slab, buffer });
        }
        self.open.insert(place.slab, (buffer, have));
        Ok(())
    }

    fn copy_part(&self, part: &[u8], place: Place, slab: &mut [u8]) {
        let size = self.geometry.stored.size();
        let (line, run) = (self.geometry.line() * size, place.frames * size);
        let start = place.start * size;
        for (to, from) in slab.chunks_exact_mut(line).zip(part.chunks_exact(run)) {
            to[start..start + run].copy_from_slice(from);
        }
    }
}

/// Hands slabs to the system, several at once, and passes on those that stay in memory.
pub(super) struct Write<'a> {
    pub(super) array: &'a ChunkedArray,
}

impl Block for Write<'_> {
    type In = Finished;
    type Out = Finished;

    fn work(&mut self, item: Finished, out: &mut Emitter<'_, Finished>) -> Result<()> {
        let bytes = item.buffer.bytes();
        self.array.write_chunk(&[item.slab, 0, 0, 0], bytes)?;
        out.count_bytes(bytes.len() as u64);
        out.send(item)
    }
}

/// The end of the line: keeps the slabs that stay in memory and lets the others go.
pub(super) struct Keep<'a>(pub(super) &'a mut Vec<Option<Arc<AlignedBytes>>>);

impl Block for Keep<'_> {
    type In = Finished;
    type Out = ();

    fn work(&mut self, item: Finished, _: &mut Emitter<'_, ()>) -> Result<()> {
        if let SlabBuffer::Owned(bytes) = item.buffer {
            self.0[item.slab] = Some(bytes);
        }
        Ok(())
    }
}
