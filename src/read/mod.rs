//! Readers for the files that microscopes write.
//!
//! [`open`] recognises a file by its content, reads headers only and returns a [`FrameSource`]. Frames are read
//! in blocks, in file order, by positioned reads; integer data stay integers, nothing is flipped.

mod file;
#[cfg(feature = "hdf5")]
mod hdf5;
mod mib;
mod npy;
mod probe;
mod scan_shape;
mod strided;

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::axes::{Calibration, DType, DetShape, Endian, Sample, ScanShape};
use crate::config::SourceConfig;
use crate::error::{Error, Result};

/// What the headers of a dataset say.
#[derive(Debug, Clone, Serialize)]
pub struct DatasetInfo {
    /// The file that was opened.
    pub path: PathBuf,
    /// The file's kind in words, for people: "Merlin MIB, U16, 1 chip".
    pub format: String,
    /// Short name of the reader: `mib`, `emd`, `npy`.
    pub reader: &'static str,
    /// Whether EMD results can be added to this very file.
    pub can_embed_results: bool,
    /// Scan rows and columns.
    pub scan: ScanShape,
    /// Detector rows and columns.
    pub det: DetShape,
    /// Type of one sample in memory.
    pub dtype: DType,
    /// Bytes of all samples (`scan × det × dtype`), not of the file.
    pub payload_bytes: u64,
    /// How the samples lie in the file, for people: "contiguous, big-endian, 384-byte header per frame".
    pub layout: String,
    /// Physical units found in the file.
    pub calibration: Calibration,
    /// How the scan shape was found.
    pub scan_evidence: Vec<Evidence>,
    /// What the user should know before trusting the data.
    pub warnings: Vec<String>,
    /// Other facts from the header, in file order.
    pub metadata: Vec<(String, String)>,
    /// All files that belong to this dataset (the data file first).
    pub files: Vec<PathBuf>,
}

/// One hint about the scan shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Where it comes from: "user", ".hdr sidecar", "time stamps", "perfect square".
    pub source: String,
    /// The shape that it suggests.
    pub scan: ScanShape,
    /// How far it can be trusted.
    pub confidence: Confidence,
}

/// How far a hint about the scan shape can be trusted, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// The user said so.
    User,
    /// Metadata that name the scan shape.
    Explicit,
    /// Derived from trigger settings.
    Trigger,
    /// Derived from the pattern of time stamps.
    Timing,
    /// Found in a file beside the data.
    Sidecar,
    /// A guess that is never used without the user's word.
    Suggestion,
}

/// A dataset whose frames can be read in any order, by several threads at once.
pub trait FrameSource: Send + Sync {
    /// What the headers say.
    fn info(&self) -> &DatasetInfo;

    /// Bytes of buffer that [`read_block`](Self::read_block) needs for `frames` frames.
    fn block_bytes(&self, frames: usize) -> usize;

    /// Frames that are best read together: blocks of a multiple of this, beginning at a multiple, decode every
    /// chunk once. 1 where it makes no difference.
    fn natural_frames(&self) -> usize {
        1
    }

    /// Bytes that the source itself may hold at most besides the caller's buffers.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Whether the frames lie one after the other in the file, so that blocks of them can be read past the page cache.
    fn frames_in_line(&self) -> bool {
        false
    }

    /// Whether most of the file lay in the system's page cache when that was asked first; `None` where nobody says.
    fn is_cached(&self) -> Option<bool> {
        None
    }

    /// Says that all frames are now read once, in order. With `forget`, the page cache need not hold them: for files that
    /// would push everything else out; with `direct`, blocks are read past it if they do not lie there already. Only hints;
    /// the frames are the same.
    fn begin_pass(&self, forget: bool, direct: bool) {
        let _ = (forget, direct);
    }

    /// Says that frames `[first, first + count)` are read soon, so that the system can fetch them in the background.
    fn will_read(&self, first: usize, count: usize) {
        let _ = (first, count);
    }

    /// Whether the file is still as it was when it was opened: asked after the last read.
    ///
    /// # Errors
    /// [`Input`](crate::error::ErrorKind::Input) when its size, its time of change or the file itself is another one.
    fn check_unchanged(&self) -> Result<()>;

    /// Reads frames `[first, first + count)` (scan order) into `buffer`, as they lie in the file. A buffer that is longer by
    /// [`READ_SLACK`](crate::memory::READ_SLACK) can be read past the page cache.
    ///
    /// # Errors
    /// [`Input`](crate::error::ErrorKind::Input) when the file is shorter than its headers say or a frame is damaged.
    ///
    /// # Panics
    /// When `buffer` is shorter than [`block_bytes`](Self::block_bytes) or the frames are out of range.
    fn read_block<'b>(&self, first: usize, count: usize, buffer: &'b mut [u8]) -> Result<FrameBlock<'b>>;

    /// Reads detector rows `rows` of `frames` (scan order) into `buffer`, through the page cache: for a scan that lies there,
    /// as much at a time as stays in a core's own cache. Only where [`frames_in_line`](Self::frames_in_line). Who reads rows
    /// from the first on has the frames' headers checked.
    ///
    /// # Errors
    /// As [`read_block`](Self::read_block); [`Bug`](crate::error::ErrorKind::Bug) where frames do not lie in line.
    ///
    /// # Panics
    /// When `buffer` is shorter than these rows with what lies before each frame's first, or they are out of range.
    fn read_rows<'b>(&self, frames: Range<usize>, rows: Range<usize>, buffer: &'b mut [u8]) -> Result<FrameBlock<'b>> {
        let _ = buffer;
        Err(Error::bug(format!("rows {rows:?} of frames {frames:?} of a source whose frames do not lie in line")))
    }
}

/// Frames as they lie in the file. Samples need not be aligned.
#[derive(Debug, Clone, Copy)]
pub struct FrameBlock<'b> {
    /// The bytes, from the beginning of the block.
    pub bytes: &'b [u8],
    /// Number of frames.
    pub frames: usize,
    /// Bytes from the block's beginning to the first frame's first sample.
    pub offset: usize,
    /// Bytes from one frame's first sample to the next one's.
    pub stride: usize,
    /// Detector shape; samples of one frame are contiguous, `[det row, det col]`.
    pub det: DetShape,
    /// Type of one sample.
    pub dtype: DType,
    /// Byte order of the samples.
    pub endian: Endian,
}

impl<'b> FrameBlock<'b> {
    /// The bytes of frame `index` of this block.
    ///
    /// # Panics
    /// When `index` is not below `frames`.
    pub fn frame(&self, index: usize) -> &'b [u8] {
        assert!(index < self.frames, "frame {index} of {}", self.frames);
        let start = self.offset + index * self.stride;
        &self.bytes[start..start + self.det.len() * self.dtype.size()]
    }
}

/// Opens a dataset, recognised by its content. Reads headers only.
///
/// # Errors
/// [`Input`](crate::error::ErrorKind::Input) for a file that is missing, damaged or not supported;
/// [`Unresolved`](crate::error::ErrorKind::Unresolved) when the scan shape cannot be found.
pub fn open(path: &Path, options: &SourceConfig) -> Result<Box<dyn FrameSource>> {
    match probe::probe(path)? {
        probe::Kind::Mib => mib::open(path, options),
        probe::Kind::Npy => npy::open(path, options),
        probe::Kind::Hdf5 => open_hdf5(path, options),
    }
}

#[cfg(feature = "hdf5")]
fn open_hdf5(path: &Path, options: &SourceConfig) -> Result<Box<dyn FrameSource>> {
    hdf5::open(path, options)
}

#[cfg(not(feature = "hdf5"))]
fn open_hdf5(path: &Path, _: &SourceConfig) -> Result<Box<dyn FrameSource>> {
    Err(Error::input(path, "a dataset that this build can read", "an HDF5 file; this build has no HDF5 support")
        .with_hint("build with the feature `hdf5`, or save the 4-D array as npy"))
}

/// Reads frames `[first, first + count)` as f64, `[frame, det row, det col]` in C order. For looking, not for work:
/// it holds all of them in memory.
///
/// # Errors
/// As [`FrameSource::read_block`].
///
/// # Panics
/// When the frames are out of range.
pub fn decode_frames(source: &dyn FrameSource, first: usize, count: usize) -> Result<Vec<f64>> {
    let mut buffer = vec![0; source.block_bytes(count)];
    let block = source.read_block(first, count, &mut buffer)?;
    let mut samples = Vec::with_capacity(count * block.det.len());
    crate::with_sample_type!(block.dtype, T => {
        for frame in 0..count {
            samples.extend(block.frame(frame).chunks_exact(size_of::<T>()).map(|bytes| {
                let sample: T = bytemuck::pod_read_unaligned(bytes);
                let native = cfg!(target_endian = "big") == (block.endian == Endian::Big);
                (if native { sample } else { Sample::swap_bytes(sample) }).to_f64()
            }));
        }
    });
    Ok(samples)
}

/// Reads a small text file, such as a configuration.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io) when it cannot be read or is not UTF-8 text.
pub fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io(path, "read the text file", e))
}
