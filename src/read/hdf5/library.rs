//! Frames read by the HDF5 library: slower, one thread at a time, for storage that is not decoded here.

use std::path::PathBuf;

use hdf5::types::H5Type;
use hdf5::{Dataset, File, Hyperslab};
use ndarray::{ArrayD, IxDyn};

use super::cannot_read;
use crate::axes::{Endian, Sample};
use crate::error::Result;
use crate::read::file::FileState;
use crate::read::{DatasetInfo, FrameBlock, FrameSource};

/// A dataset that is read through the library.
///
/// The file is opened anew for every block, so that results can be added to it while this source exists.
#[derive(Debug)]
pub(super) struct LibrarySource {
    pub(super) info: DatasetInfo,
    pub(super) path: PathBuf,
    /// What the file looked like when it was opened first.
    pub(super) state: FileState,
    pub(super) dataset: String,
    /// The dataset's own scan columns; 1 for a 3-D dataset.
    pub(super) cols: usize,
    /// 3 or 4.
    pub(super) rank: usize,
    /// Whether the axes are stored in reverse order.
    pub(super) reversed: bool,
    /// Frames left out at the start.
    pub(super) skip: usize,
}

impl LibrarySource {
    fn fill<T: Sample + H5Type>(&self, dataset: &Dataset, first: usize, bytes: &mut [u8]) -> Result<()> {
        let frame = self.info.det.len() * size_of::<T>();
        let mut at = first;
        let end = first + bytes.len() / frame;
        while at < end {
            let (row, col) = (at / self.cols, at % self.cols);
            // Whole rows at once where possible, else the part of one row.
            let whole = if col == 0 { (end - at) / self.cols } else { 0 };
            let (rows, cols) = if whole > 0 { (whole, self.cols) } else { (1, (end - at).min(self.cols - col)) };
            let part = self.read_part::<T>(dataset, (row, rows), (col, cols))?;
            let target = &mut bytes[(at - first) * frame..][..rows * cols * frame];
            for (out, value) in target.chunks_exact_mut(size_of::<T>()).zip(&part) {
                out.copy_from_slice(bytemuck::bytes_of(value));
            }
            at += rows * cols;
        }
        Ok(())
    }

    /// Scan rows and columns, each as start and count, in the order of frames.
    fn read_part<T: Sample + H5Type>(
        &self,
        dataset: &Dataset,
        rows: (usize, usize),
        cols: (usize, usize),
    ) -> Result<ArrayD<T>> {
        let det = self.info.det;
        let mut ranges = vec![rows.0..rows.0 + rows.1, cols.0..cols.0 + cols.1, 0..det.rows, 0..det.cols];
        if self.rank == 3 {
            ranges.remove(1);
        }
        if self.reversed {
            ranges.reverse();
        }
        let selection = Hyperslab::from(ranges.into_iter().map(Into::into).collect::<Vec<_>>());
        let part = dataset.read_slice::<T, _, IxDyn>(selection).map_err(|e| cannot_read(&self.path, &e))?;
        Ok(if self.reversed { part.reversed_axes() } else { part })
    }
}

impl FrameSource for LibrarySource {
    fn info(&self) -> &DatasetInfo {
        &self.info
    }

    fn block_bytes(&self, frames: usize) -> usize {
        frames * self.info.det.len() * self.info.dtype.size()
    }

    fn natural_frames(&self) -> usize {
        self.cols
    }

    fn check_unchanged(&self) -> Result<()> {
        self.state.check(&self.path)
    }

    fn read_block<'b>(&self, first: usize, count: usize, buffer: &'b mut [u8]) -> Result<FrameBlock<'b>> {
        assert!(first + count <= self.info.scan.len(), "frames {first}..{} out of range", first + count);
        let (det, dtype) = (self.info.det, self.info.dtype);
        let stride = det.len() * dtype.size();
        let bytes = &mut buffer[..count * stride];
        let file = File::open(&self.path).map_err(|e| cannot_read(&self.path, &e))?;
        let dataset = file.dataset(&self.dataset).map_err(|e| cannot_read(&self.path, &e))?;
        crate::with_sample_type!(dtype, T => self.fill::<T>(&dataset, self.skip + first, bytes)?);
        let endian = if cfg!(target_endian = "big") { Endian::Big } else { Endian::Little };
        Ok(FrameBlock { bytes, frames: count, offset: 0, stride, det, dtype, endian })
    }
}
