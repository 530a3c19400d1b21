//! Frames at equal distances in a file: Merlin MIB, npy and contiguous HDF5 datasets.

use super::file::DataFile;
use super::{DatasetInfo, FrameBlock, FrameSource};
use crate::axes::Endian;
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

    /// Refuses a frame whose header does not begin as it must.
    fn check_marks(&self, first: usize, bytes: &[u8]) -> Result<()> {
        if self.mark.is_empty() {
            return Ok(());
        }
        for (i, frame) in bytes.chunks_exact(self.stride()).enumerate() {
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
        self.check_marks(first, bytes)?;
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
}
