//! Merlin `.mib` files with their `.hdr` sidecar, as one Medipix3 chip would write them.
//!
//! A file is a row of frames, each a 384-byte text header and a big-endian image. Law: a file that bears its final
//! name is complete, and no file that was there before is overwritten.

mod header;
mod new_file;
mod parallel;

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use crate::axes::{DetShape, ScanShape};
use crate::error::{Error, Result};
use crate::export::files::{folder_of, require_free};

pub use header::{MibDepth, MibTiming};
pub use parallel::ParallelMib;

use header::Layout;
use new_file::{NewFile, refuse_existing};

/// Writes a `.mib` file and its `.hdr` sidecar frame by frame.
///
/// Both are written under hidden names and get their own names in [`finish`](Self::finish); a writer that is dropped
/// before leaves nothing behind.
///
/// ```
/// use stemstream::axes::{DetShape, ScanShape};
/// use stemstream::export::mib::{MibDepth, MibWriter};
///
/// # let folder = std::env::temp_dir().join(format!("stemstream-mib-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let (scan, det) = (ScanShape::new(2, 3), DetShape::new(4, 5));
/// let mut writer = MibWriter::create(&folder.join("scan.mib"), scan, det, MibDepth::U16)?;
/// for _ in 0..scan.len() {
///     writer.push(&[7; 20])?;
/// }
/// let [data, _sidecar] = writer.finish()?;
/// assert_eq!(std::fs::metadata(data)?.len(), 6 * (384 + 2 * 20));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MibWriter {
    layout: Layout,
    frames: usize,
    out: BufWriter<File>,
    data: NewFile,
    sidecar: PathBuf,
    /// One frame as it goes into the file.
    buffer: Vec<u8>,
}

impl MibWriter {
    /// Begins a file of `scan` frames of `det` pixels at `path`, and its sidecar beside it.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) when `path` does not end in `.mib`, a shape is empty or does not
    /// fit in the header, or one of the two files is there already; [`Io`](crate::error::ErrorKind::Io) when the
    /// folder cannot be written to.
    pub fn create(path: &Path, scan: ScanShape, det: DetShape, depth: MibDepth) -> Result<Self> {
        let layout = Layout::new(path, scan, det, depth)?;
        let sidecar = path.with_extension("hdr");
        refuse_existing(path)?;
        refuse_existing(&sidecar)?;
        require_free(folder_of(path), layout.total_bytes())?;
        let (data, file) = NewFile::create(path)?;
        Ok(Self { layout, frames: 0, out: BufWriter::with_capacity(1 << 20, file), data, sidecar, buffer: Vec::new() })
    }

    /// Takes the frames' time stamps from `timing`. To be called before the first frame is pushed.
    #[must_use]
    pub fn with_timing(mut self, timing: MibTiming) -> Self {
        self.layout.timing = timing;
        self
    }

    /// Appends whole frames, `[frame, det row, det col]`, in scan order.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) for a count that does not fit in the depth;
    /// [`Io`](crate::error::ErrorKind::Io) or [`Disk`](crate::error::ErrorKind::Disk) when the file cannot be
    /// written; a [`Bug`](crate::error::ErrorKind::Bug) for a broken frame or one too many.
    pub fn push(&mut self, frames: &[u16]) -> Result<()> {
        let pixels = self.layout.det.len();
        if !frames.len().is_multiple_of(pixels) || frames.len() / pixels > self.layout.scan.len() - self.frames {
            return Err(Error::bug(format!(
                "{} counts after {} frames of a {} scan of {} pixels",
                frames.len(),
                self.frames,
                self.layout.scan,
                self.layout.det
            )));
        }
        for frame in frames.chunks_exact(pixels) {
            self.buffer.clear();
            self.buffer.extend_from_slice(&self.layout.header(self.frames)?);
            self.image(frame)?;
            self.out.write_all(&self.buffer).map_err(|e| self.data.failed("write the frames", e))?;
            self.frames += 1;
        }
        Ok(())
    }

    /// Completes both files and gives them their names: the `.mib` file and its `.hdr` sidecar.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) when a file of one of these names has appeared meanwhile; as
    /// [`push`](Self::push) otherwise, also when frames are missing.
    pub fn finish(mut self) -> Result<[PathBuf; 2]> {
        if self.frames != self.layout.scan.len() {
            return Err(Error::bug(format!("{} frames of a {} scan were written", self.frames, self.layout.scan)));
        }
        self.out.flush().map_err(|e| self.data.failed("write the frames", e))?;
        publish_both(&self.layout, &mut self.data, &self.sidecar)?;
        Ok([self.data.path.clone(), self.sidecar.clone()])
    }

    /// The counts of a frame, into the buffer.
    fn image(&mut self, frame: &[u16]) -> Result<()> {
        match self.layout.depth {
            MibDepth::U08 => {
                for &count in frame {
                    self.buffer.push(u8::try_from(count).map_err(|_| {
                        let at = self.frames;
                        Error::config(format!("a count of {count} in frame {at} does not fit in one byte (U08)"))
                            .with_hint("write two bytes for a count (U16)")
                    })?);
                }
            }
            MibDepth::U16 => self.buffer.extend(frame.iter().flat_map(|count| count.to_be_bytes())),
            MibDepth::U32 => self.buffer.extend(frame.iter().flat_map(|&count| u32::from(count).to_be_bytes())),
        }
        Ok(())
    }
}

/// Writes the sidecar and gives both files their names. The sidecar first: whoever sees the data sees both.
fn publish_both(layout: &Layout, data: &mut NewFile, sidecar: &Path) -> Result<()> {
    let (mut small, mut file) = NewFile::create(sidecar)?;
    file.write_all(&layout.sidecar_text()).map_err(|e| small.failed("write the header file", e))?;
    small.publish()?;
    if let Err(error) = data.publish() {
        let _ = fs::remove_file(sidecar);
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
