//! The text around the counts: the header of every frame, and the sidecar.

use std::fmt::Write as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::axes::{DetShape, ScanShape};
use crate::error::{Error, Result};

/// Bytes of a frame's header: 256 and 128 for each chip, of which there is one.
pub(super) const HEADER_BYTES: usize = 384;
/// Bytes of the sidecar, always.
pub(super) const SIDECAR_BYTES: usize = 2048;
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
    /// Bytes of a count.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U08 => 1,
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

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
    pub(super) fn time_of(&self, index: usize, cols: usize) -> Option<Timestamp> {
        let line = (index / cols) as i64;
        let jitter = ((index % 3) as i64 - 1) * TICK_NS;
        let after = (index as i64).checked_mul(self.period_ns)?.checked_add(line.checked_mul(self.flyback_ns)?)?;
        self.start.checked_add(SignedDuration::from_nanos(after.checked_add(jitter)?)).ok()
    }
}

/// What the headers say of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) scan: ScanShape,
    pub(super) det: DetShape,
    pub(super) depth: MibDepth,
    pub(super) timing: MibTiming,
}

impl Layout {
    /// Checks that `path` and the shapes can be those of a Merlin file.
    pub(super) fn new(path: &Path, scan: ScanShape, det: DetShape, depth: MibDepth) -> Result<Self> {
        if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("mib")) {
            return Err(Error::config(format!("`{}` does not end in `.mib`", path.display())));
        }
        if scan.is_empty() || det.is_empty() || det.rows > 9999 || det.cols > 9999 {
            return Err(Error::config(format!(
                "a `.mib` file holds frames of 1 to 9999 pixels a side, not a {scan} scan of {det} pixels"
            )));
        }
        Ok(Self { scan, det, depth, timing: MibTiming::default() })
    }

    /// Bytes of a frame with its header.
    pub(super) fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.det.len() * self.depth.bytes()
    }

    /// Bytes of both files.
    pub(super) fn total_bytes(&self) -> u64 {
        (self.scan.len() as u64).saturating_mul(self.frame_bytes() as u64).saturating_add(SIDECAR_BYTES as u64)
    }

    /// The header of frame `index`.
    pub(super) fn header(&self, index: usize) -> Result<[u8; HEADER_BYTES]> {
        let (name, bits) = self.depth.names();
        let time = self.timing.time_of(index, self.scan.cols);
        let time = time.ok_or_else(|| Error::bug("a time stamp out of range"))?.to_zoned(TimeZone::UTC);
        let exposure = self.timing.exposure_ns;
        let mut text = format!(
            "MQ1,{:06},{HEADER_BYTES:05},01,{:04},{:04},{name},   1x1,01,{},{:.6},0,0,0,{THRESHOLDS},3RX",
            index + 1,
            self.det.cols,
            self.det.rows,
            time.strftime("%Y-%m-%d %H:%M:%S%.6f"),
            exposure as f64 * 1e-9,
        );
        text.push_str(DACS);
        let _ = write!(text, ",MQ1A,{}Z,{exposure}ns,{bits},", time.strftime("%Y-%m-%dT%H:%M:%S%.9f"));
        let mut header = [0; HEADER_BYTES];
        let room = header.get_mut(..text.len());
        room.ok_or_else(|| Error::bug(format!("a frame header of {} bytes: {text}", text.len())))?
            .copy_from_slice(text.as_bytes());
        Ok(header)
    }

    /// The sidecar: lines `key:<TAB>value`, filled with blanks.
    pub(super) fn sidecar_text(&self) -> Vec<u8> {
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
const DACS: &str =
    ",128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128,128";
