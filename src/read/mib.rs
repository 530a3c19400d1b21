//! Merlin MIB: processed frames of Medipix3 detectors by Quantum Detectors.
//!
//! A file is a row of frames, each with its own text header; pixels are big-endian unsigned integers in row order.
//! The scan shape comes from the `.hdr` file beside it (`ScanX`, `ScanY`, frames per trigger) or from the fly-back
//! time in the frames' time stamps.

mod header;
mod sidecar;

use std::path::Path;

use self::header::{FrameHeader, TEXT_BYTES};
use self::sidecar::Sidecar;
use super::file::{DataFile, checked_product};
use super::scan_shape::{FrameCount, Resolved, columns_from_times, resolve};
use super::strided::StridedSource;
use super::{Confidence, DatasetInfo, Evidence, FrameSource};
use crate::axes::{Calibration, Endian, ScanShape};
use crate::config::SourceConfig;
use crate::error::{Error, Result};

/// Headers whose time stamps are read at most: enough for lines of 2000 positions, at most 16 MiB of disk pages.
const TIMED_FRAMES: usize = 4096;

/// Opens a MIB file.
pub(super) fn open(path: &Path, options: &SourceConfig) -> Result<Box<dyn FrameSource>> {
    let file = DataFile::open(path)?;
    let first = FrameHeader::parse(path, &file.read_some(0, TEXT_BYTES)?, "frame 0")?;
    let image = checked_product(path, &[first.det.rows, first.det.cols, first.dtype.size()], "an image")?;
    let stride = image + first.header_bytes as u64;
    let frames = count_frames(&file, stride)?;
    let mut warnings = Vec::new();
    check_frames(&file, &first, stride, frames.whole, &mut warnings)?;
    let sidecar = Sidecar::beside(path, &mut warnings);
    let mut evidence = metadata_hints(frames.whole, sidecar.as_ref());
    if evidence.is_empty() && options.scan.is_none() {
        evidence.extend(timing_hint(&file, stride, frames.whole, &mut warnings)?);
    }
    let resolved = resolve(path, frames, evidence, options)?;
    warn(&first, sidecar.as_ref(), frames.whole, &mut warnings);
    let start = resolved.skip as u64 * stride;
    let info = describe(path, &first, sidecar.as_ref(), frames.whole, resolved, warnings)?;
    Ok(Box::new(StridedSource { info, file, start, lead: first.header_bytes, mark: b"MQ1,", endian: Endian::Big }))
}

fn count_frames(file: &DataFile, stride: u64) -> Result<FrameCount> {
    let (whole, rest) = (file.len() / stride, file.len() % stride);
    if whole == 0 {
        return Err(super::file::too_short(file.path(), stride, file.len(), "header and image of the first frame"));
    }
    Ok(FrameCount { whole: whole as usize, missing_bytes: if rest == 0 { 0 } else { stride - rest } })
}

fn header_at(file: &DataFile, stride: u64, index: usize) -> Result<FrameHeader> {
    // The offset fits: index is below the number of whole frames in the file.
    let bytes = file.read_some(index as u64 * stride, TEXT_BYTES.min(stride as usize))?;
    FrameHeader::parse(file.path(), &bytes, &format!("frame {index}"))
}

/// Looks at a few headers to make sure that all frames are alike and that each is one image of the scan.
fn check_frames(
    file: &DataFile,
    first: &FrameHeader,
    stride: u64,
    frames: usize,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let path = file.path();
    let refuse = |found: &str, hint: &str| Error::input(path, "one image per scan position", found).with_hint(hint);
    if first.colour {
        return Err(refuse("frames in colour mode", "colour mode is not supported; record in monochrome mode"));
    }
    let mut looked_at = vec![1, 2, 3, frames / 2, frames - 1];
    looked_at.retain(|&i| i > 0 && i < frames);
    looked_at.dedup();
    for index in looked_at {
        let header = header_at(file, stride, index)?;
        if !header.same_kind(first) {
            let expected = format!("{} frames of {} pixels as at frame 0", first.type_name, first.det);
            return Err(Error::input(path, expected, format!("{} {} at frame {index}", header.type_name, header.det))
                .with_hint("the file holds frames of different kinds: it was probably put together from several"));
        }
        if header.counter != first.counter {
            let hint = "record with one threshold, or separate the two counters first";
            return Err(refuse("frames of two counters (thresholds) in turn", hint));
        }
        if index == frames - 1 && header.sequence > first.sequence && frames < 1_000_000 {
            let span = header.sequence - first.sequence + 1;
            if span != frames as u64 {
                warnings.push(format!("the frame numbers span {span} frames, but the file holds {frames}"));
            }
        }
    }
    Ok(())
}

fn hint(source: &str, rows: usize, cols: usize, confidence: Confidence) -> Evidence {
    Evidence { source: source.to_owned(), scan: ScanShape::new(rows, cols), confidence }
}

/// What the sidecar says about the scan shape.
fn metadata_hints(frames: usize, sidecar: Option<&Sidecar>) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    let Some(sidecar) = sidecar else {
        return evidence;
    };
    if let (Some(cols), Some(rows)) = (sidecar.count("scanx"), sidecar.count("scany")) {
        evidence.push(hint(".hdr sidecar, ScanX and ScanY", rows, cols, Confidence::Explicit));
    }
    // A trigger for every frame says nothing, nor does one for the whole scan.
    let per_trigger = sidecar.count("frames per trigger").filter(|&f| f > 1 && f < frames);
    if let Some(cols) = per_trigger.filter(|&f| frames.is_multiple_of(f)) {
        evidence.push(hint(".hdr sidecar, frames per trigger", frames / cols, cols, Confidence::Trigger));
    }
    evidence
}

/// What the clock says about the scan shape.
fn timing_hint(file: &DataFile, stride: u64, frames: usize, warnings: &mut Vec<String>) -> Result<Option<Evidence>> {
    let Some((cols, jumps)) = timing(file, stride, frames)? else {
        return Ok(None);
    };
    let rows = frames.div_ceil(cols);
    if jumps == 1 {
        warnings.push(format!(
            "the scan shape {rows}×{cols} rests on a single pause between frames {} and {cols}: check it",
            cols - 1
        ));
    }
    Ok(Some(hint("fly-back in the time stamps", rows, cols, Confidence::Timing)))
}

/// Columns and number of pauses from the time stamps of the first frames, checked at two lines further on.
fn timing(file: &DataFile, stride: u64, frames: usize) -> Result<Option<(usize, usize)>> {
    let time = |index: usize| header_at(file, stride, index).map(|h| h.time_ns);
    let mut times = Vec::new();
    for index in 0..frames.min(TIMED_FRAMES) {
        match time(index)? {
            Some(t) => times.push(t),
            None => return Ok(None),
        }
    }
    let Some((cols, jumps)) = columns_from_times(&times) else {
        return Ok(None);
    };
    let typical = times[1] - times[0];
    for line in [frames / cols / 2, (frames - 1) / cols] {
        let at = line * cols;
        if at < times.len() || at + 1 >= frames {
            continue;
        }
        let (Some(before), Some(here), Some(after)) = (time(at - 1)?, time(at)?, time(at + 1)?) else {
            return Ok(None);
        };
        let pause = here - before;
        if pause <= after - here || pause <= typical {
            return Ok(None);
        }
    }
    Ok(Some((cols, jumps)))
}

fn warn(first: &FrameHeader, sidecar: Option<&Sidecar>, frames: usize, warnings: &mut Vec<String>) {
    if first.type_name == "U01" {
        warnings.push("one-bit pixels (U01) are read as one byte each; no real file could be checked".to_owned());
    }
    let Some(sidecar) = sidecar else {
        return;
    };
    if let Some(planned) = sidecar.count("frames in acquisition").filter(|&n| n != frames) {
        warnings.push(format!("the header file announces {planned} frames, the data file holds {frames}"));
    }
    if sidecar.text("gap fill mode").is_some_and(|mode| mode.eq_ignore_ascii_case("distribute")) {
        warnings.push("the pixels between the chips are interpolated (gap fill mode `Distribute`)".to_owned());
    }
}

fn describe(
    path: &Path,
    first: &FrameHeader,
    sidecar: Option<&Sidecar>,
    frames: usize,
    resolved: Resolved,
    mut warnings: Vec<String>,
) -> Result<DatasetInfo> {
    let scan = resolved.scan;
    let sizes = [scan.rows, scan.cols, first.det.rows, first.det.cols, first.dtype.size()];
    warnings.extend(resolved.warnings);
    let mut metadata = vec![
        ("frames in the file".to_owned(), frames.to_string()),
        ("chip layout".to_owned(), first.layout.clone()),
        ("time of the first frame".to_owned(), first.local_time.clone()),
        ("exposure (s)".to_owned(), first.exposure.clone()),
    ];
    metadata.extend(first.counter_bits.map(|bits| ("counter bits".to_owned(), bits.to_string())));
    for key in ["software version", "assembly size", "gap fill mode", "chip id"] {
        metadata.extend(sidecar.and_then(|s| s.text(key)).map(|v| (key.to_owned(), v.to_owned())));
    }
    let chips = if first.chips == 1 { "1 chip".to_owned() } else { format!("{} chips", first.chips) };
    Ok(DatasetInfo {
        path: path.to_owned(),
        format: format!("Merlin MIB, {}, {chips}", first.type_name),
        reader: "mib",
        can_embed_results: false,
        scan,
        det: first.det,
        dtype: first.dtype,
        payload_bytes: checked_product(path, &sizes, "a dataset")?,
        layout: format!("contiguous, big-endian, {}-byte header per frame", first.header_bytes),
        calibration: Calibration::default(),
        scan_evidence: resolved.evidence,
        warnings,
        metadata,
        files: std::iter::once(path.to_owned()).chain(sidecar.map(|s| s.path.clone())).collect(),
    })
}
