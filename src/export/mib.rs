//! Merlin `.mib` files with their `.hdr` sidecar, as one Medipix3 chip would write them.
//!
//! A file is a row of frames, each a 384-byte text header and a big-endian image. Law: a file that bears its final
//! name is complete, and no file that was there before is overwritten.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::axes::{DetShape, ScanShape};
use crate::error::{Error, Result};

/// Bytes of a frame's header: 256 and 128 for each chip, of which there is one.
const HEADER_BYTES: usize = 384;
/// Bytes of the sidecar, always.
const SIDECAR_BYTES: usize = 2048;
/// The detector's clock ticks in steps of 10 ns.
const TICK_NS: i64 = 10;

/// How many bytes a stored count takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MibDepth {
    /// One byte, `U08` (counters of 6 bits).
    U08,
    /// Two bytes, `U16` (counters of 12 bits).
    U16,
    /// Four bytes, `U32` (counters of 24 bits).
    U32,
}

impl MibDepth {
    /// The name in the header and the bits of the counter that it goes with.
    fn names(self) -> (&'static str, u32) {
        match self {
            Self::U08 => ("U08", 6),
            Self::U16 => ("U16", 12),
            Self::U32 => ("U32", 24),
        }
    }
}

/// When the frames were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MibTiming {
    /// Beginning of the first frame.
    pub start: Timestamp,
    /// Exposure of one frame.
    pub exposure_ns: i64,
    /// From the beginning of one frame to the beginning of the next one in the same line.
    pub period_ns: i64,
    /// Additional pause before the first frame of a line; zero for none.
    pub flyback_ns: i64,
}

impl Default for MibTiming {
    /// 1 ms per frame and 2 ms more at the end of a line. The date is always the same, so that files are too.
    fn default() -> Self {
        let start = Timestamp::new(1_735_722_000, 0).unwrap_or(Timestamp::UNIX_EPOCH);
        Self { start, exposure_ns: 950_000, period_ns: 1_000_000, flyback_ns: 2_000_000 }
    }
}

impl MibTiming {
    /// Beginning of frame `index` of a scan with `cols` columns, with a tick of jitter as real clocks have.
    fn time_of(&self, index: usize, cols: usize) -> Option<Timestamp> {
        let line = (index / cols) as i64;
        let jitter = ((index % 3) as i64 - 1) * TICK_NS;
        let after = (index as i64).checked_mul(self.period_ns)?.checked_add(line.checked_mul(self.flyback_ns)?)?;
        self.start.checked_add(SignedDuration::from_nanos(after.checked_add(jitter)?)).ok()
    }
}

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
    scan: ScanShape,
    det: DetShape,
    depth: MibDepth,
    timing: MibTiming,
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
        if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("mib")) {
            return Err(Error::config(format!("`{}` does not end in `.mib`", path.display())));
        }
        if scan.is_empty() || det.is_empty() || det.rows > 9999 || det.cols > 9999 {
            return Err(Error::config(format!(
                "a `.mib` file holds frames of 1 to 9999 pixels a side, not a {scan} scan of {det} pixels"
            )));
        }
        let sidecar = path.with_extension("hdr");
        refuse_existing(path)?;
        refuse_existing(&sidecar)?;
        let (data, file) = NewFile::create(path)?;
        Ok(Self {
            scan,
            det,
            depth,
            timing: MibTiming::default(),
            frames: 0,
            out: BufWriter::with_capacity(1 << 20, file),
            data,
            sidecar,
            buffer: Vec::new(),
        })
    }

    /// Takes the frames' time stamps from `timing`. To be called before the first frame is pushed.
    #[must_use]
    pub fn with_timing(mut self, timing: MibTiming) -> Self {
        self.timing = timing;
        self
    }

    /// Appends whole frames, `[frame, det row, det col]`, in scan order.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) for a count that does not fit in the depth;
    /// [`Io`](crate::error::ErrorKind::Io) or [`Disk`](crate::error::ErrorKind::Disk) when the file cannot be
    /// written; a [`Bug`](crate::error::ErrorKind::Bug) for a broken frame or one too many.
    pub fn push(&mut self, frames: &[u16]) -> Result<()> {
        let pixels = self.det.len();
        if !frames.len().is_multiple_of(pixels) || frames.len() / pixels > self.scan.len() - self.frames {
            return Err(Error::bug(format!(
                "{} counts after {} frames of a {} scan of {} pixels",
                frames.len(),
                self.frames,
                self.scan,
                self.det
            )));
        }
        for frame in frames.chunks_exact(pixels) {
            self.buffer.clear();
            self.header()?;
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
        if self.frames != self.scan.len() {
            return Err(Error::bug(format!("{} frames of a {} scan were written", self.frames, self.scan)));
        }
        self.out.flush().map_err(|e| self.data.failed("write the frames", e))?;
        let (mut sidecar, mut file) = NewFile::create(&self.sidecar)?;
        file.write_all(&self.sidecar_text()).map_err(|e| sidecar.failed("write the header file", e))?;
        // The sidecar first: whoever sees the data sees both.
        sidecar.publish()?;
        if let Err(error) = self.data.publish() {
            let _ = fs::remove_file(&self.sidecar);
            return Err(error);
        }
        Ok([self.data.path.clone(), self.sidecar.clone()])
    }

    /// The header of the next frame, into the buffer.
    fn header(&mut self) -> Result<()> {
        let (name, bits) = self.depth.names();
        let time = self.timing.time_of(self.frames, self.scan.cols);
        let time = time.ok_or_else(|| Error::bug("a time stamp out of range"))?.to_zoned(TimeZone::UTC);
        let exposure = self.timing.exposure_ns;
        let mut text = format!(
            "MQ1,{:06},{HEADER_BYTES:05},01,{:04},{:04},{name},   1x1,01,{},{:.6},0,0,0,{THRESHOLDS},3RX",
            self.frames + 1,
            self.det.cols,
            self.det.rows,
            time.strftime("%Y-%m-%d %H:%M:%S%.6f"),
            exposure as f64 * 1e-9,
        );
        for dac in DACS {
            let _ = write!(text, ",{dac:03}");
        }
        let _ = write!(text, ",MQ1A,{}Z,{exposure}ns,{bits},", time.strftime("%Y-%m-%dT%H:%M:%S%.9f"));
        if text.len() > HEADER_BYTES {
            return Err(Error::bug(format!("a frame header of {} bytes: {text}", text.len())));
        }
        self.buffer.extend_from_slice(text.as_bytes());
        self.buffer.resize(HEADER_BYTES, 0);
        Ok(())
    }

    /// The counts of a frame, into the buffer.
    fn image(&mut self, frame: &[u16]) -> Result<()> {
        match self.depth {
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

    /// The sidecar: lines `key:<TAB>value`, filled with blanks.
    fn sidecar_text(&self) -> Vec<u8> {
        let start = self.timing.start.to_zoned(TimeZone::UTC).strftime("%d/%m/%Y %H:%M:%S").to_string();
        let (frames, bits) = (self.scan.len().to_string(), self.depth.names().1.to_string());
        let (scan_x, scan_y) = (self.scan.cols.to_string(), self.scan.rows.to_string());
        let lines = [
            ("Time and Date Stamp (day, mnth, yr, hr, min, s)", start.as_str()),
            ("Chip ID", "simulated"),
            ("Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX)", "Medipix 3RX"),
            ("Assembly Size (NX1, 2X2)", "   1x1"),
            ("Chip Mode  (SPM, CSM, CM, CSCM)", "SPM"),
            ("Counter Depth (number)", &bits),
            ("Active Counters", "Counter 0"),
            ("Thresholds (keV)", THRESHOLDS),
            ("Gap Fill Mode", "None"),
            ("Acquisition Type (Normal, Th_scan, Config)", "Normal"),
            ("Frames in Acquisition (Number)", &frames),
            ("Frames per Trigger (Number)", &scan_x),
            ("ScanX", &scan_x),
            ("ScanY", &scan_y),
            ("Software Version", concat!("stemstream ", env!("CARGO_PKG_VERSION"))),
        ];
        let mut text = String::from("HDR,\t\r\n");
        for (key, value) in lines {
            let _ = write!(text, "{key}:\t{value}\r\n");
        }
        text.push_str("End\t");
        let mut bytes = text.into_bytes();
        bytes.resize(SIDECAR_BYTES, b' ');
        bytes
    }
}

/// The eight energy thresholds, in keV.
const THRESHOLDS: &str =
    "2.000000E+1,5.110000E+2,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0";
/// Settings of the chip's 27 converters; mid-scale, for no chip has made these data.
const DACS: [u16; 27] = [128; 27];

/// A file under its hidden name, removed again unless it is published.
#[derive(Debug)]
struct NewFile {
    path: PathBuf,
    part: PathBuf,
    published: bool,
}

impl NewFile {
    fn create(path: &Path) -> Result<(Self, File)> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(name);
        // A leftover of a crashed process that had the same number.
        let _ = fs::remove_file(&part);
        let file = OpenOptions::new().write(true).create_new(true).open(&part);
        let file = file.map_err(|e| Error::io(path, "create the file", e))?;
        Ok((Self { path: path.to_owned(), part, published: false }, file))
    }

    fn failed(&self, action: &str, source: io::Error) -> Error {
        Error::io(&self.path, action, source)
    }

    /// Brings the file to the disk and gives it its name, which must still be free.
    fn publish(&mut self) -> Result<()> {
        let synced = File::open(&self.part).and_then(|file| file.sync_all());
        synced.map_err(|e| self.failed("bring the file to the disk", e))?;
        // A hard link fails when the name is taken; a rename would silently replace the other file.
        if fs::hard_link(&self.part, &self.path).is_ok() {
            let _ = fs::remove_file(&self.part);
        } else {
            refuse_existing(&self.path)?;
            // File systems without hard links.
            fs::rename(&self.part, &self.path).map_err(|e| self.failed("give the finished file its name", e))?;
        }
        self.published = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.part);
        }
    }
}

fn refuse_existing(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::config(format!("`{}` is there already and is not overwritten", path.display()))
            .with_hint("choose another name, or remove the file first"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCAN: ScanShape = ScanShape { rows: 2, cols: 3 };
    const DET: DetShape = DetShape { rows: 2, cols: 4 };

    fn written(folder: &Path, depth: MibDepth, frames: &[u16]) -> Result<[PathBuf; 2]> {
        let mut writer = MibWriter::create(&folder.join("scan.mib"), SCAN, DET, depth)?;
        // Two batches of different sizes.
        let (first, second) = frames.split_at(DET.len() * 2);
        writer.push(first)?;
        writer.push(second)?;
        writer.finish()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn frames_are_headers_and_big_endian_images_in_every_depth() {
        let counts: Vec<u16> = (0..48).collect();
        for (depth, bytes, bits) in [(MibDepth::U08, 1, "6"), (MibDepth::U16, 2, "12"), (MibDepth::U32, 4, "24")] {
            let dir = tempfile::tempdir().unwrap();
            let [mib, hdr] = written(dir.path(), depth, &counts).unwrap();
            let data = fs::read(mib).unwrap();
            assert_eq!(data.len(), 6 * (384 + 8 * bytes));
            for (index, frame) in data.chunks(384 + 8 * bytes).enumerate() {
                let text: String = frame[..384].iter().take_while(|&&b| b != 0).map(|&b| char::from(b)).collect();
                let fields: Vec<&str> = text.split(',').collect();
                assert_eq!(fields[..6], ["MQ1", &format!("{:06}", index + 1), "00384", "01", "0004", "0002"]);
                assert_eq!(&fields[7..9], ["   1x1", "01"]);
                assert_eq!(fields[fields.len() - 5], "MQ1A");
                assert_eq!(fields[fields.len() - 2], bits);
                for (pixel, value) in frame[384..].chunks(bytes).enumerate() {
                    let value = value.iter().fold(0, |v, &b| v << 8 | usize::from(b));
                    assert_eq!(value, index * 8 + pixel, "{depth:?}");
                }
            }
            let hdr = fs::read_to_string(hdr).unwrap();
            assert!(hdr.len() == 2048 && hdr.starts_with("HDR,\t") && hdr.trim_end().ends_with("End"));
            assert!(hdr.contains("ScanX:\t3\r\n") && hdr.contains("ScanY:\t2\r\n"));
        }
    }

    #[test]
    fn every_line_begins_after_the_fly_back() {
        let timing = MibTiming::default();
        let time = |i| timing.time_of(i, 3).unwrap().as_nanosecond();
        let gaps: Vec<_> = (0..8).map(|i| (time(i + 1) - time(i) + 500_000) / 1_000_000).collect();
        assert_eq!(gaps, [1, 1, 3, 1, 1, 3, 1, 1]);
        assert!(timing.time_of(usize::MAX / 2, 1).is_none(), "a date out of range is no panic");
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        for taken in ["scan.mib", "scan.hdr"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(taken), "mine").unwrap();
            assert_eq!(written(dir.path(), MibDepth::U16, &[0; 48]).unwrap_err().exit_code(), 2);
            // The name may also be taken while the frames are written.
            fs::remove_file(dir.path().join(taken)).unwrap();
            let mut writer = MibWriter::create(&dir.path().join("scan.mib"), SCAN, DET, MibDepth::U16).unwrap();
            writer.push(&[0; 48]).unwrap();
            fs::write(dir.path().join(taken), "mine").unwrap();
            assert_eq!(writer.finish().unwrap_err().exit_code(), 2);
            assert_eq!(fs::read_to_string(dir.path().join(taken)).unwrap(), "mine");
            assert_eq!(names(dir.path()), [taken]);
        }
    }

    #[test]
    fn an_unfinished_or_impossible_file_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let create = || MibWriter::create(&dir.path().join("scan.mib"), SCAN, DET, MibDepth::U08).unwrap();
        drop(create());
        assert_eq!(create().finish().unwrap_err().exit_code(), 1, "frames are missing");
        assert_eq!(create().push(&[0; 7]).unwrap_err().exit_code(), 1, "a part of a frame");
        assert_eq!(create().push(&[0; 56]).unwrap_err().exit_code(), 1, "a frame too many");
        assert_eq!(create().push(&[256; 8]).unwrap_err().exit_code(), 2, "a count too large");
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }
}
