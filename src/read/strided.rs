//! Frames at equal distances in a file: Merlin MIB, npy and contiguous HDF5 datasets.

use std::ops::Range;

use super::file::DataFile;
use super::{DatasetInfo, FrameBlock, FrameSource};
use crate::axes::{DetShape, Endian};
use crate::error::{Error, Result};

/// A source whose frame `i` begins at `start + i * (lead + image bytes)`, `lead` header bytes before each image.
///
/// Any number of threads may read at once.
#[derive(Debug)]
pub(super) struct StridedSource {
    pub(super) info: DatasetInfo,
    pub(super) file: DataFile,
    /// Byte of the first frame's header (or image, when `lead` is 0).
    pub(super) start: u64,
    /// Header bytes before each image.
    pub(super) lead: usize,
    /// Bytes that every frame's header begins with.
    pub(super) mark: &'static [u8],
    pub(super) endian: Endian,
}

impl StridedSource {
    fn image_bytes(&self) -> usize {
        self.info.det.len() * self.info.dtype.size()
    }

    fn stride(&self) -> usize {
        self.lead + self.image_bytes()
    }

    /// Refuses a frame whose header does not begin as it must. `bytes` are the beginnings of frames, `stride` bytes each.
    fn check_marks(&self, first: usize, bytes: &[u8], stride: usize) -> Result<()> {
        if self.mark.is_empty() {
            return Ok(());
        }
        for (i, frame) in bytes.chunks_exact(stride).enumerate() {
            if !frame.starts_with(self.mark) {
                let index = first + i;
                return Err(Error::input(
                    self.file.path(),
                    format!("a header `{}` before frame {index}", String::from_utf8_lossy(self.mark)),
                    "other bytes",
                )
                .with_hint("the file is damaged from this frame on; copy it again from where it was recorded"));
            }
        }
        Ok(())
    }
}

impl FrameSource for StridedSource {
    fn info(&self) -> &DatasetInfo {
        &self.info
    }

    fn block_bytes(&self, frames: usize) -> usize {
        frames * self.stride()
    }

    fn frames_in_line(&self) -> bool {
        true
    }

    fn is_cached(&self) -> Option<bool> {
        self.file.is_cached()
    }

    fn begin_pass(&self, forget: bool, direct: bool) {
        self.file.begin_pass(forget, direct);
    }

    fn will_read(&self, first: usize, count: usize) {
        let stride = self.stride() as u64;
        self.file.will_read(self.start + first as u64 * stride, count as u64 * stride);
    }

    fn check_unchanged(&self) -> Result<()> {
        self.file.state().check(self.file.path())
    }

    fn read_block<'b>(&self, first: usize, count: usize, buffer: &'b mut [u8]) -> Result<FrameBlock<'b>> {
        assert!(first + count <= self.info.scan.len(), "frames {first}..{} out of range", first + count);
        let stride = self.stride();
        let range = self.file.read_in_pass(self.start + first as u64 * stride as u64, count * stride, buffer)?;
        let bytes = &buffer[range];
        self.check_marks(first, bytes, stride)?;
        Ok(FrameBlock {
            bytes,
            frames: count,
            offset: self.lead,
            stride,
            det: self.info.det,
            dtype: self.info.dtype,
            endian: self.endian,
        })
    }

    fn read_rows<'b>(&self, frames: Range<usize>, rows: Range<usize>, buffer: &'b mut [u8]) -> Result<FrameBlock<'b>> {
        let (info, whole) = (&self.info, self.stride());
        assert!(frames.end <= info.scan.len() && rows.end <= info.det.rows, "frames {frames:?}, rows {rows:?}");
        let row_bytes = info.det.cols * info.dtype.size();
        // Above the first row lies the header.
        let lead = if rows.start == 0 { self.lead } else { 0 };
        let stride = lead + rows.len() * row_bytes;
        let first = self.start + (frames.start * whole + self.lead + rows.start * row_bytes - lead) as u64;
        let bytes = &mut buffer[..frames.len() * stride];
        // Whole frames follow each other.
        let together = if stride == whole { bytes.len() } else { stride };
        for (i, part) in bytes.chunks_exact_mut(together.max(1)).enumerate() {
            self.file.fill(first + (i * whole) as u64, part)?;
        }
        if rows.end == info.det.rows {
            self.file.forget(self.start + (frames.start * whole) as u64, frames.len() * whole);
        }
        if lead > 0 {
            self.check_marks(frames.start, bytes, stride)?;
        }
        Ok(FrameBlock {
            bytes,
            frames: frames.len(),
            offset: lead,
            stride,
            det: DetShape::new(rows.len(), info.det.cols),
            dtype: info.dtype,
            endian: self.endian,
        })
    }
}
