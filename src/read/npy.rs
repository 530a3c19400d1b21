//! numpy's `.npy` files: one array after a short text header.

use std::path::Path;

use super::file::{DataFile, checked_product, too_short};
use super::scan_shape::{FrameCount, resolve};
use super::strided::StridedSource;
use super::{Confidence, DatasetInfo, Evidence, FrameSource};
use crate::axes::{Calibration, DType, DetShape, Endian, ScanShape};
use crate::config::{Incomplete, SourceConfig};
use crate::error::{Error, Result};

/// A header longer than this is not a header.
const HEADER_LIMIT: usize = 1 << 20;

/// Opens an npy file with a 4-D array, or a 3-D one whose scan shape the user gives.
pub(super) fn open(path: &Path, options: &SourceConfig) -> Result<Box<dyn FrameSource>> {
    let file = DataFile::open(path)?;
    let (text, start) = header_text(&file)?;
    let header = Header::parse(path, &text)?;
    let (det, frames, evidence) = axes_of(path, &header.shape)?;
    let frame_bytes = checked_product(path, &[det.rows, det.cols, header.dtype.size()], "a frame")?;
    checked_product(path, &[frames, frame_bytes as usize], "an array")?;
    let (count, mut warnings) = count_frames(&file, start, frame_bytes, frames, options)?;
    let resolved = resolve(path, count, evidence, options)?;
    warnings.extend(resolved.warnings);
    let order = if header.endian == Endian::Big { "big" } else { "little" };
    let info = DatasetInfo {
        path: path.to_owned(),
        format: format!("npy, {}", header.dtype),
        reader: "npy",
        can_embed_results: false,
        scan: resolved.scan,
        det,
        dtype: header.dtype,
        payload_bytes: resolved.scan.len() as u64 * frame_bytes,
        layout: format!("contiguous, {order}-endian"),
        calibration: Calibration::default(),
        scan_evidence: resolved.evidence,
        warnings,
        metadata: vec![("array shape".to_owned(), format!("{:?}", header.shape))],
        files: vec![path.to_owned()],
    };
    let start = start + resolved.skip as u64 * frame_bytes;
    Ok(Box::new(StridedSource { info, file, start, lead: 0, mark: b"", endian: header.endian }))
}

/// The header's text and the byte where the array begins.
fn header_text(file: &DataFile) -> Result<(String, u64)> {
    let damaged = |found: String| {
        Error::input(file.path(), "a complete npy header", found).with_hint("save the array again with `numpy.save`")
    };
    let head = file.read_some(0, 12)?;
    let (&[major], true) = (&head.get(6..7).map_or([0], |b| [b[0]]), head.len() == 12) else {
        return Err(damaged(format!("a file of {} bytes", file.len())));
    };
    let (length, start) = match major {
        1 => (u16::from_le_bytes([head[8], head[9]]) as usize, 10),
        2 | 3 => (u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize, 12),
        _ => return Err(damaged(format!("format version {major} (1, 2 and 3 are known)"))),
    };
    let end = start + length as u64;
    if length > HEADER_LIMIT || end > file.len() {
        return Err(damaged(format!("a header of {length} bytes in a file of {} bytes", file.len())));
    }
    let bytes = file.read_some(start, length)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), end))
}

/// Detector shape, number of frames and, for a 4-D array, the scan shape.
fn axes_of(path: &Path, shape: &[usize]) -> Result<(DetShape, usize, Vec<Evidence>)> {
    let (det, frames, evidence) = match *shape {
        [rows, cols, dy, dx] => {
            let scan = ScanShape::new(rows, cols);
            let frames = checked_product(path, &[rows, cols], "a scan")? as usize;
            let source = "shape of the array".to_owned();
            (DetShape::new(dy, dx), frames, vec![Evidence { source, scan, confidence: Confidence::Explicit }])
        }
        [frames, dy, dx] => (DetShape::new(dy, dx), frames, vec![]),
        _ => {
            let found = format!("a {}-D array of shape {shape:?}", shape.len());
            return Err(Error::input(path, "a 4-D array [scan row, scan col, detector row, detector col]", found)
                .with_hint(
                    "a 3-D array [frame, detector row, detector col] is accepted too, with `--scan ROWS,COLS`",
                ));
        }
    };
    if frames == 0 || det.rows == 0 || det.cols == 0 {
        return Err(Error::input(path, "an array with data", format!("an empty array of shape {shape:?}"))
            .with_hint("was the recording interrupted, or a slice empty?"));
    }
    Ok((det, frames, evidence))
}

/// Compares the array's size with the file's.
fn count_frames(
    file: &DataFile,
    start: u64,
    frame_bytes: u64,
    frames: usize,
    options: &SourceConfig,
) -> Result<(FrameCount, Vec<String>)> {
    let have = file.len() - start;
    let need = frames as u64 * frame_bytes;
    if have >= need {
        let extra = have - need;
        let note = format!("{extra} bytes after the array are not used");
        return Ok((FrameCount::exactly(frames), if extra > 0 { vec![note] } else { vec![] }));
    }
    let whole = (have / frame_bytes) as usize;
    if options.incomplete == Incomplete::Error || whole == 0 {
        let short =
            too_short(file.path(), need + start, file.len(), &format!("{frames} frames of {frame_bytes} bytes"));
        return Err(short.with_hint(
            "the file is cut short: copy it again; `--set source.incomplete=trim` keeps the complete scan rows",
        ));
    }
    Ok((FrameCount::exactly(whole), vec![format!("the file ends after {whole} of {frames} frames")]))
}

/// The three entries of an npy header.
#[derive(Debug)]
struct Header {
    dtype: DType,
    endian: Endian,
    shape: Vec<usize>,
}

impl Header {
    fn parse(path: &Path, text: &str) -> Result<Self> {
        let bad = |what: &str| {
            Error::input(path, format!("an npy header with {what}"), format!("`{}`", shorten(text)))
                .with_hint("save the array again with `numpy.save`")
        };
        let descr = entry(text, "descr").ok_or_else(|| bad("a `descr`"))?;
        let (dtype, endian) = sample_type(path, descr)?;
        let order = entry(text, "fortran_order").ok_or_else(|| bad("a `fortran_order`"))?;
        let shape = entry(text, "shape").and_then(tuple).ok_or_else(|| bad("a `shape`"))?;
        if order.starts_with("True") {
            return Err(Error::input(path, "an array in C order", "an array in Fortran order")
                .with_hint("save it with `numpy.save(file, numpy.ascontiguousarray(array))`"));
        }
        if !order.starts_with("False") {
            return Err(bad("`fortran_order` True or False"));
        }
        Ok(Self { dtype, endian, shape })
    }
}

fn shorten(text: &str) -> String {
    text.trim().chars().take(80).collect()
}

/// The text that follows `'key':`.
fn entry<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let at = ["'", "\""].iter().find_map(|q| {
        let quoted = format!("{q}{key}{q}");
        text.find(&quoted).map(|i| i + quoted.len())
    })?;
    text[at..].trim_start().strip_prefix(':').map(str::trim_start)
}

/// The numbers of a Python tuple at the beginning of `text`.
fn tuple(text: &str) -> Option<Vec<usize>> {
    let inside = text.strip_prefix('(')?.split_once(')')?.0;
    let numbers = inside.split(',').map(|n| n.trim().trim_end_matches('L')).filter(|n| !n.is_empty());
    numbers.map(|n| n.parse().ok()).collect()
}

fn sample_type(path: &Path, descr: &str) -> Result<(DType, Endian)> {
    let refuse = |found: String, hint: &str| Err(Error::input(path, "an array of real numbers", found).with_hint(hint));
    let Some(name) = descr.strip_prefix(['\'', '"']).and_then(|d| d.split(['\'', '"']).next()) else {
        return refuse("a structured array".to_owned(), "save one field of it: `numpy.save(file, array['field'])`");
    };
    let (order, code) = name.split_at_checked(1).unwrap_or(("", name));
    let endian = if order == ">" { Endian::Big } else { Endian::Little };
    let dtype = match code {
        // Booleans are bytes 0 and 1.
        "u1" | "b1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "c8" | "c16" => {
            return refuse(format!("complex numbers (`{name}`)"), "4D-STEM intensities are real: save `abs(array)**2`");
        }
        "O" => {
            return refuse("Python objects".to_owned(), "save a plain array: `numpy.save(file, numpy.stack(array))`");
        }
        "f2" => return refuse("half-precision numbers (`f2`)".to_owned(), "save `array.astype('float32')`"),
        _ => {
            return refuse(
                format!("samples of type `{name}`"),
                "convert it, for example with `array.astype('float32')`",
            );
        }
    };
    Ok((dtype, endian))
}
