//! The text header that stands before every Merlin frame.

use std::path::Path;

use crate::axes::{DType, DetShape};
use crate::error::{Error, Result};

/// Bytes that are enough for every header's text.
pub(super) const TEXT_BYTES: usize = 2048;

/// What one frame's header says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FrameHeader {
    /// Number of the frame within its acquisition, from 1.
    pub(super) sequence: u64,
    /// Bytes from the header's first byte to the image's first.
    pub(super) header_bytes: usize,
    /// Number of Medipix chips.
    pub(super) chips: u32,
    /// Detector rows and columns.
    pub(super) det: DetShape,
    /// Type of one pixel, big-endian.
    pub(super) dtype: DType,
    /// The pixel type's name in the file: `U08`.
    pub(super) type_name: String,
    /// How the chips are arranged: `1x1`, `2x2G`.
    pub(super) layout: String,
    /// Local time at the beginning of the frame.
    pub(super) local_time: String,
    /// Exposure in seconds, as written.
    pub(super) exposure: String,
    /// Which of the two counters this frame shows.
    pub(super) counter: u32,
    /// Whether the detector was in colour mode.
    pub(super) colour: bool,
    /// Nanoseconds since midnight (UTC), from the time stamp with nanosecond digits.
    pub(super) time_ns: Option<i64>,
    /// Bits per counter: 1, 6, 12 or 24.
    pub(super) counter_bits: Option<u32>,
}

impl FrameHeader {
    /// Reads the header at the beginning of `bytes`; `at` names it in messages ("frame 0").
    pub(super) fn parse(path: &Path, bytes: &[u8], at: &str) -> Result<Self> {
        if !bytes.starts_with(b"MQ1,") {
            return Err(bad(path, format!("a header `MQ1,` at {at}"), "other bytes".to_owned()));
        }
        let text: String = bytes.iter().take_while(|&&b| b != 0).map(|&b| char::from(b)).collect();
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        let field = |index: usize, what: &str| match fields.get(index) {
            Some(text) if !text.is_empty() => Ok(*text),
            _ => Err(bad(path, format!("{what} in the header of {at}"), "a header without it".to_owned())),
        };
        let number = |index: usize, what: &str, range: std::ops::RangeInclusive<u64>| {
            let text = field(index, what)?;
            let value = text.parse::<u64>().ok().filter(|v| range.contains(v));
            value.ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                bad(path, format!("{what} from {low} to {high} in the header of {at}"), format!("`{text}`"))
            })
        };
        let type_name = field(6, "the pixel type")?.to_owned();
        let dtype = pixel_type(path, &type_name)?;
        let det_cols = number(4, "the width", 1..=65_536)? as usize;
        let det_rows = number(5, "the height", 1..=65_536)? as usize;
        let (time_ns, counter_bits) = extended(&fields);
        Ok(Self {
            sequence: fields.get(1).and_then(|t| t.parse().ok()).unwrap_or(0),
            header_bytes: number(2, "the header's size", 64..=65_536)? as usize,
            chips: number(3, "the number of chips", 1..=64)? as u32,
            det: DetShape::new(det_rows, det_cols),
            dtype,
            type_name,
            layout: fields.get(7).map_or(String::new(), ToString::to_string),
            local_time: fields.get(9).map_or(String::new(), ToString::to_string),
            exposure: fields.get(10).map_or(String::new(), ToString::to_string),
            counter: fields.get(11).and_then(|t| t.parse().ok()).unwrap_or(0),
            colour: fields.get(12).is_some_and(|t| *t == "1"),
            time_ns,
            counter_bits,
        })
    }

    /// Whether frames with this header and with `other` can lie in one dataset.
    pub(super) fn same_kind(&self, other: &Self) -> bool {
        (self.header_bytes, self.det, self.dtype) == (other.header_bytes, other.det, other.dtype)
    }
}

fn bad(path: &Path, expected: String, found: String) -> Error {
    Error::input(path, expected, found).with_hint("the file is damaged; copy it again from where it was recorded")
}

fn pixel_type(path: &Path, name: &str) -> Result<DType> {
    match name {
        // U01 has been seen for one-bit images; each pixel still takes one byte.
        "U08" | "U01" => Ok(DType::U8),
        "U16" => Ok(DType::U16),
        "U32" => Ok(DType::U32),
        "U64" => Ok(DType::U64),
        "R64" => Err(Error::input(path, "processed Merlin frames (U08, U16, U32)", "raw Merlin frames (R64)").with_hint(
            "raw MIB files are not read yet: record with the raw mode off, or convert the file, for example with LiberTEM",
        )),
        _ => Err(bad(path, "a pixel type U08, U16, U32 or U64".to_owned(), format!("`{name}`"))),
    }
}

/// Time and counter depth behind the token `MQ1A`: `MQ1A,2021-05-07T16:51:10.905800928Z,100000000ns,6,`.
fn extended(fields: &[&str]) -> (Option<i64>, Option<u32>) {
    let Some(at) = fields.iter().position(|f| *f == "MQ1A") else {
        return (None, None);
    };
    let time = fields.get(at + 1).and_then(|text| nanoseconds(text));
    let bits = fields.get(at + 3).and_then(|text| text.parse().ok());
    (time, bits)
}

/// Nanoseconds since midnight of `…T16:51:10.905800928Z`.
fn nanoseconds(stamp: &str) -> Option<i64> {
    let (_, clock) = stamp.trim_end_matches('Z').split_once('T')?;
    let mut parts = clock.splitn(3, ':');
    let hours: i64 = parts.next()?.parse().ok().filter(|h| (0..24).contains(h))?;
    let minutes: i64 = parts.next()?.parse().ok().filter(|m| (0..60).contains(m))?;
    let (seconds, fraction) = parts.next()?.split_once('.')?;
    let seconds: i64 = seconds.parse().ok().filter(|s| (0..61).contains(s))?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = "MQ1,000001,00384,01,0256,0128,U08,   1x1,01,2021-05-07 18:51:10.905800,0.100000,0,0,0,4.0E+0,\
        0,0,0,0,0,0,0,3RX,068,511,MQ1A,2021-05-07T16:51:10.905800928Z,100000000ns,6,\0\0\0";

    fn parse(text: &str) -> Result<FrameHeader> {
        FrameHeader::parse(Path::new("a.mib"), text.as_bytes(), "frame 0")
    }

    #[test]
    fn width_comes_before_height_and_time_has_nanoseconds() {
        let header = parse(REAL).unwrap();
        assert_eq!(header.det, DetShape::new(128, 256));
        assert_eq!((header.header_bytes, header.chips, header.counter_bits), (384, 1, Some(6)));
        assert_eq!(header.time_ns, Some((16 * 3600 + 51 * 60 + 10) * 1_000_000_000 + 905_800_928));
    }

    #[test]
    fn an_old_header_with_one_empty_threshold_field_is_read() {
        let header = parse("MQ1,000001,00768,04,0512,0512,U16,  2x2,0F,01/02/2015 10:00:00,0.001,0,0,0,,").unwrap();
        assert_eq!((header.chips, header.time_ns), (4, None));
    }

    #[test]
    fn lies_and_raw_frames_are_refused() {
        for (from, to) in
            [("0256,", "0000,"), ("00384", "99999999"), ("U08", "R64"), ("U08", "F32"), ("MQ1,0", "XX1,0")]
        {
            assert_eq!(parse(&REAL.replacen(from, to, 1)).unwrap_err().exit_code(), 3, "{to}");
        }
        for end in 0..60 {
            let _ = parse(&REAL[..end]);
        }
    }
}
