//! Frames from a chunked dataset, decoded here: the HDF5 library is not called while frames are read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::filters::{ChunkFilter, decode};
use super::table::{ChunkTable, Grid};
use crate::axes::Endian;
use crate::error::{Error, Result};
use crate::read::file::DataFile;
use crate::read::{DatasetInfo, FrameBlock, FrameSource};

/// Decoded chunks that may be kept, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// A chunked dataset. Any number of threads may read at once.
#[derive(Debug)]
pub(super) struct ChunkedSource {
    pub(super) info: DatasetInfo,
    pub(super) file: DataFile,
    pub(super) grid: Grid,
    pub(super) table: ChunkTable,
    pub(super) filters: Vec<ChunkFilter>,
    pub(super) endian: Endian,
    /// Bytes of one sample that was never written.
    pub(super) fill: Vec<u8>,
    /// Frames left out at the start.
    pub(super) skip: usize,
    pub(super) cache: ChunkCache,
}

impl ChunkedSource {
    /// Bytes of decoded chunks that reading in order profits from: two rows of chunks, at most 64 MiB.
    pub(super) fn cache_for(grid: &Grid, sample: usize) -> ChunkCache {
        let chunk = grid.chunk_len() * sample;
        if grid.chunk[0] * grid.chunk[1] == 1 {
            return ChunkCache::new(0);
        }
        let row = (grid.counts[1] * grid.counts[2] * grid.counts[3]).saturating_mul(chunk);
        ChunkCache::new(row.saturating_mul(2).min(CACHE_BYTES).max(chunk))
    }

    fn chunk(&self, place: [usize; 4]) -> Result<Arc<Vec<u8>>> {
        let index = self.grid.index(place);
        if let Some(chunk) = self.cache.get(index) {
            return Ok(chunk);
        }
        let sample = self.info.dtype.size();
        let expected = self.grid.chunk_len() * sample;
        let chunk = match self.table.find(index) {
            None => self.fill.repeat(self.grid.chunk_len()),
            Some(stored) => {
                // The size was compared with the file's length when the dataset was opened.
                let mut bytes = vec![0; stored.bytes as usize];
                self.file.read_at(stored.address, &mut bytes)?;
                decode(bytes, &self.filters, stored.skipped, sample, expected).map_err(|found| {
                    Error::input(self.file.path(), format!("a chunk of {expected} bytes at scan {place:?}"), found)
                        .with_hint("the file is damaged; copy it again from where it was recorded")
                })?
            }
        };
        let chunk = Arc::new(chunk);
        self.cache.put(index, &chunk);
        Ok(chunk)
    }

    /// Frames of the range that lie in the chunks at scan place (`row`, `col`): number in the range, number in the chunk.
    fn shared_frames(&self, row: usize, col: usize, range: &std::ops::Range<usize>, out: &mut Vec<(usize, usize)>) {
        let Grid { shape, chunk, .. } = self.grid;
        out.clear();
        for r in row * chunk[0]..((row + 1) * chunk[0]).min(shape[0]) {
            for c in col * chunk[1]..((col + 1) * chunk[1]).min(shape[1]) {
                let frame = r * shape[1] + c;
                if range.contains(&frame) {
                    out.push((frame - range.start, (r - row * chunk[0]) * chunk[1] + (c - col * chunk[1])));
                }
            }
        }
    }

    /// Copies the part of the detector that a chunk holds, for these frames.
    fn copy(&self, chunk: &[u8], place: [usize; 4], frames: &[(usize, usize)], out: &mut [u8]) {
        let Grid { shape: [_, _, det_rows, det_cols], chunk: [_, _, rows, cols], .. } = self.grid;
        let sample = self.info.dtype.size();
        let (y0, x0) = (place[2] * rows, place[3] * cols);
        let (height, width) = (rows.min(det_rows - y0), cols.min(det_cols - x0));
        for &(target, source) in frames {
            if cols == det_cols {
                let from = source * rows * cols * sample;
                let to = (target * det_rows + y0) * det_cols * sample;
                let length = height * cols * sample;
                out[to..to + length].copy_from_slice(&chunk[from..from + length]);
                continue;
            }
            for y in 0..height {
                let from = (source * rows + y) * cols * sample;
                let to = ((target * det_rows + y0 + y) * det_cols + x0) * sample;
                out[to..to + width * sample].copy_from_slice(&chunk[from..from + width * sample]);
            }
        }
    }
}

impl FrameSource for ChunkedSource {
    fn info(&self) -> &DatasetInfo {
        &self.info
    }

    fn block_bytes(&self, frames: usize) -> usize {
        frames * self.info.det.len() * self.info.dtype.size()
    }

    fn natural_frames(&self) -> usize {
        let Grid { shape, chunk, .. } = self.grid;
        if chunk[0] > 1 { chunk[0].min(shape[0]) * shape[1] } else { chunk[1].min(shape[1]) }
    }

    fn held_bytes(&self) -> usize {
        self.cache.limit
    }

    fn begin_pass(&self, forget: bool, _: bool) {
        self.file.begin_pass(forget, false);
    }

    fn check_unchanged(&self) -> Result<()> {
        self.file.state().check(self.file.path())
    }

    fn read_block<'b>(&self, first: usize, count: usize, buffer: &'b mut [u8]) -> Result<FrameBlock<'b>> {
        assert!(first + count <= self.info.scan.len(), "frames {first}..{} out of range", first + count);
        let bytes = &mut buffer[..count * self.info.det.len() * self.info.dtype.size()];
        let range = self.skip + first..self.skip + first + count;
        let Grid { shape, chunk, counts } = self.grid;
        let rows = range.start / shape[1] / chunk[0]..(range.end.div_ceil(shape[1])).div_ceil(chunk[0]);
        let mut frames = Vec::new();
        for row in rows {
            for col in 0..counts[1] {
                self.shared_frames(row, col, &range, &mut frames);
                if frames.is_empty() {
                    continue;
                }
                for (y, x) in (0..counts[2]).flat_map(|y| (0..counts[3]).map(move |x| (y, x))) {
                    let place = [row, col, y, x];
                    self.copy(&self.chunk(place)?, place, &frames, bytes);
                }
            }
        }
        let stride = self.info.det.len() * self.info.dtype.size();
        let (det, dtype) = (self.info.det, self.info.dtype);
        Ok(FrameBlock { bytes, frames: count, offset: 0, stride, det, dtype, endian: self.endian })
    }
}

/// The chunks that were used last, up to a number of bytes.
#[derive(Debug)]
pub(super) struct ChunkCache {
    limit: usize,
    kept: Mutex<VecDeque<(usize, Arc<Vec<u8>>)>>,
}

impl ChunkCache {
    fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    fn get(&self, index: usize) -> Option<Arc<Vec<u8>>> {
        if self.limit == 0 {
            return None;
        }
        // A panic elsewhere leaves whole entries behind, so a poisoned lock does no harm.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(i, _)| *i == index)?;
        let entry = kept.remove(at)?;
        let chunk = Arc::clone(&entry.1);
        kept.push_back(entry);
        Some(chunk)
    }

    fn put(&self, index: usize, chunk: &Arc<Vec<u8>>) {
        if chunk.len() > self.limit {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().any(|(i, _)| *i == index) {
            return;
        }
        // All chunks have the same size.
        while (kept.len() + 1) * chunk.len() > self.limit {
            kept.pop_front();
        }
        kept.push_back((index, Arc::clone(chunk)));
    }
}
