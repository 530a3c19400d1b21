//! Writers of small Merlin MIB and npy files.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use ndarray::Array4;

/// How a MIB file is to look.
#[derive(Debug, Clone)]
pub struct MibLayout {
    /// Pixel type: `U08`, `U16` or `U32`. Samples that do not fit are cut.
    pub pixel: &'static str,
    /// 1 or 4 chips: headers of 384 or 768 bytes.
    pub chips: usize,
    /// Fly-back time in ns before the first frame of each scan row; 0 for none.
    pub flyback_ns: u64,
    /// Whether the two counters alternate from frame to frame.
    pub two_counters: bool,
}

impl Default for MibLayout {
    fn default() -> Self {
        Self { pixel: "U16", chips: 1, flyback_ns: 0, two_counters: false }
    }
}

/// Writes a MIB file without a sidecar.
pub fn write_mib(path: &Path, data: &Array4<u16>, layout: &MibLayout) {
    let (_, cols, det_rows, det_cols) = data.dim();
    let mut bytes = Vec::new();
    for (index, frame) in
        data.outer_iter().flat_map(|row| row.outer_iter().map(|f| f.to_owned()).collect::<Vec<_>>()).enumerate()
    {
        let time = 1_000_000 * index as u64 + (index / cols) as u64 * layout.flyback_ns;
        bytes.extend(mib_header(index, det_rows, det_cols, time, layout));
        for &value in &frame {
            match layout.pixel {
                "U08" => bytes.push(value as u8),
                "U16" => bytes.extend(value.to_be_bytes()),
                "U32" => bytes.extend(u32::from(value).to_be_bytes()),
                other => panic!("no writer for {other}"),
            }
        }
    }
    fs::write(path, bytes).unwrap();
}

fn mib_header(index: usize, det_rows: usize, det_cols: usize, time_ns: u64, layout: &MibLayout) -> Vec<u8> {
    let size = 256 + 128 * layout.chips;
    let (arrangement, mask) = if layout.chips == 4 { ("2x2", "0F") } else { ("1x1", "01") };
    let counter = if layout.two_counters { index % 2 } else { 0 };
    let (seconds, nanos) = (time_ns / 1_000_000_000, time_ns % 1_000_000_000);
    let mut text = format!(
        "MQ1,{:06},{size:05},{:02},{det_cols:04},{det_rows:04},{},{arrangement:>6},{mask},",
        index + 1,
        layout.chips,
        layout.pixel
    );
    write!(text, "2024-03-01 12:00:{seconds:02}.{:06},0.001000,{counter},0,0,", nanos / 1000).unwrap();
    text += "4.0E+1,5.1E+2,0.0E+0,0.0E+0,0.0E+0,0.0E+0,0.0E+0,0.0E+0,";
    text += &"3RX,068,511,000,".repeat(layout.chips);
    write!(text, "MQ1A,2024-03-01T11:00:{seconds:02}.{nanos:09}Z,1000000ns,12,").unwrap();
    let mut header = text.into_bytes();
    assert!(header.len() <= size);
    header.resize(size, 0);
    header
}

/// Writes the `.hdr` file beside `mib`; `scan` is rows and columns as `ScanY` and `ScanX`.
pub fn write_hdr(mib: &Path, frames: usize, scan: Option<[usize; 2]>, frames_per_trigger: usize) {
    let mut text = format!(
        "HDR,\t\nChip ID:\tW1_A1, - , - , - \nGap Fill Mode:\tNone\nFrames in Acquisition (Number):\t{frames}\n\
         Frames per Trigger (Number):\t{frames_per_trigger}\nSoftware Version:\t1.5.0\n"
    );
    if let Some([rows, cols]) = scan {
        write!(text, "ScanX:\t{cols}\nScanY:\t{rows}\n").unwrap();
    }
    text += "End\t";
    fs::write(mib.with_extension("hdr"), format!("{text:<2048}")).unwrap();
}

/// Writes an npy file of the 4-D scan; `descr` is `|u1`, `<u2`, `>u2`, `<u4`, `<i4`, `<f4`, `>f8` …
pub fn write_npy(path: &Path, data: &Array4<u16>, descr: &str) {
    let (rows, cols, det_rows, det_cols) = data.dim();
    write_npy_shaped(path, data, descr, &format!("({rows}, {cols}, {det_rows}, {det_cols})"), 1);
}

/// As [`write_npy`], with the shape's text and the format version chosen freely.
pub fn write_npy_shaped(path: &Path, data: &Array4<u16>, descr: &str, shape: &str, version: u8) {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let prefix = if version == 1 { 10 } else { 12 };
    let padded = (prefix + text.len() + 1).next_multiple_of(64) - prefix - 1;
    text = format!("{text:<padded$}\n");
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    if version == 1 {
        bytes.extend((text.len() as u16).to_le_bytes());
    } else {
        bytes.extend((text.len() as u32).to_le_bytes());
    }
    bytes.extend(text.as_bytes());
    for &value in data {
        bytes.extend(sample_bytes(value, descr));
    }
    fs::write(path, bytes).unwrap();
}

fn sample_bytes(value: u16, descr: &str) -> Vec<u8> {
    let mut bytes = match &descr[1..] {
        "u1" | "b1" | "i1" => vec![value as u8],
        "u2" | "i2" => value.to_le_bytes().to_vec(),
        "u4" | "i4" => u32::from(value).to_le_bytes().to_vec(),
        "u8" | "i8" => u64::from(value).to_le_bytes().to_vec(),
        "f4" => f32::from(value).to_le_bytes().to_vec(),
        "f8" => f64::from(value).to_le_bytes().to_vec(),
        other => panic!("no writer for {other}"),
    };
    if descr.starts_with('>') {
        bytes.reverse();
    }
    bytes
}
