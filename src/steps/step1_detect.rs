//! Step 1: the bright-field disk, from a sample of frames.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::axes::{CountRange, Crop, DetShape, Image};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::kernel::disk::{self, KnownDisk};
use crate::kernel::transpose::{RawFrames, Sum, count_range, sum_frames};
use crate::pipeline::Workers;
use crate::progress::CancelToken;
use crate::read::{FrameBlock, FrameSource};
use crate::with_sample_type;

/// Samples that are looked at. Whole small scans; of a 34 GB scan 0.2 %.
const SAMPLE_BYTES: usize = 64 << 20;
/// Neighbouring frames that are read together.
const RUN: usize = 8;
/// Runs of a group that the system fetches while another is looked at.
const AHEAD: usize = 8;
/// Groups of runs that are looked at side by side at most, and the memory that they may take.
const MOST_GROUPS: usize = 16;
const GROUPS_BYTES: usize = 8 << 20;

/// The bright-field disk and the crop around it, in detector pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrightDisk {
    /// Centre, `[row, col]`.
    pub center: [f64; 2],
    /// Radius.
    pub radius: f64,
    /// Half-width of the crop before it was clipped to the detector.
    pub crop_radius: usize,
    /// The detector pixels that take part.
    pub crop: Crop,
}

/// The result of step 1.
#[derive(Debug, Clone)]
pub struct Detected {
    /// The disk.
    pub disk: BrightDisk,
    /// Mean of the sampled frames, `[det row, det col]`.
    pub sampled_pattern: Image,
    /// The smallest and the largest sample of the sampled frames, over the whole detector; `None` for floats.
    pub counts: Option<CountRange>,
    /// What the user should know about the disk.
    pub warnings: Vec<String>,
}

/// Finds the bright-field disk in the mean of a sample of frames. What `config.disk` gives is not looked for.
///
/// The crop is `[cy - r, cy + r) × [cx - r, cx + r)`, clipped to the detector, where `cy`, `cx` are the centre
/// truncated to whole pixels and `r` is `disk.crop_radius`, or the rounded radius + 2.
///
/// # Errors
/// [`Input`](crate::error::ErrorKind::Input) when the frames hold no counts at all;
/// [`Unresolved`](crate::error::ErrorKind::Unresolved) when there is no disk, when it touches the detector's edge, or
/// when the crop lies outside the detector.
pub fn detect(source: &dyn FrameSource, config: &Config, workers: &Workers, cancel: &CancelToken) -> Result<Detected> {
    let info = source.info();
    let (pattern, counts) = sampled_pattern(source, workers, cancel)?;
    if pattern.iter().all(|&v| v == 0.0) {
        return Err(Error::input(&info.path, "frames with counts", "only zeros")
            .with_hint("was the beam blanked? `stemstream info` shows what the file says about itself"));
    }
    let wanted = &config.disk;
    if let Some(center) = wanted.center {
        crop_around(center, wanted.crop_radius.unwrap_or(1), info.det)?;
    }
    let known = KnownDisk { center: wanted.center, radius: wanted.radius };
    let disk = disk::find(&pattern, known).ok_or_else(|| {
        Error::unresolved(format!(
            "`{}`: no bright-field disk found in the mean diffraction pattern",
            info.path.display()
        ))
        .with_hint("give it with `--set \"disk.center=[ROW, COL]\" --set disk.radius=PIXELS`")
    })?;
    let crop_radius = wanted.crop_radius.unwrap_or(disk.radius.round() as usize + 2);
    let (crop, mut warnings) = crop_around([disk.row, disk.col], crop_radius, info.det)?;
    let found = format!("centre ({:.2}, {:.2}), radius {:.2}", disk.row, disk.col, disk.radius);
    if touches_edge(&disk, info.det) {
        let message = format!("the bright-field disk ({found}) touches the edge of the {} detector", info.det);
        if !wanted.allow_clipped && wanted.center.is_none() {
            return Err(Error::unresolved(message).with_hint(
                "if that is what you recorded, go on with `--set disk.allow_clipped=true`; if the disk was not recognised, give `--set \"disk.center=[ROW, COL]\" --set disk.radius=PIXELS`",
            ));
        }
        warnings.push(message);
    }
    let disk = BrightDisk { center: [disk.row, disk.col], radius: disk.radius, crop_radius, crop };
    Ok(Detected { disk, sampled_pattern: pattern, counts, warnings })
}

fn touches_edge(disk: &disk::Disk, det: DetShape) -> bool {
    let beyond = |centre: f64, len: usize| centre - disk.radius < 0.0 || centre + disk.radius > len as f64 - 1.0;
    beyond(disk.row, det.rows) || beyond(disk.col, det.cols)
}

fn crop_around(center: [f64; 2], radius: usize, det: DetShape) -> Result<(Crop, Vec<String>)> {
    let outside = || {
        let [row, col] = center;
        Error::unresolved(format!(
            "the crop of half-width {radius} around ({row:.2}, {col:.2}) lies outside the {det} detector"
        ))
        .with_hint("check `disk.center` ([row, col], in pixels from 0) and `disk.crop_radius`")
    };
    let axis = |centre: f64, len: usize| -> Result<(usize, usize)> {
        if !(centre >= 0.0 && centre < len as f64) {
            return Err(outside());
        }
        let centre = centre as usize;
        Ok((centre.saturating_sub(radius), (centre + radius).min(len)))
    };
    let ((row0, row1), (col0, col1)) = (axis(center[0], det.rows)?, axis(center[1], det.cols)?);
    let crop = Crop { row0, row1, col0, col1 };
    let shape = crop.shape();
    if shape.is_empty() {
        return Err(outside());
    }
    let mut warnings = Vec::new();
    if shape != DetShape::new(2 * radius, 2 * radius) {
        warnings.push(format!("the crop was clipped to the detector: {shape} instead of {0}×{0} pixels", 2 * radius));
    }
    Ok((crop, warnings))
}

/// Mean of frames spread over the scan, and the range of their counts. Which frames depends on the shape alone, so that the
/// same scan gives the same pattern from every file format. They are looked at in groups side by side; how many groups
/// depends on the shape, too, and they are put together in order: the number of workers changes nothing.
fn sampled_pattern(
    source: &dyn FrameSource,
    workers: &Workers,
    cancel: &CancelToken,
) -> Result<(Image, Option<CountRange>)> {
    let info = source.info();
    let (frames, pixels) = (info.scan.len(), info.det.len());
    let sample = (SAMPLE_BYTES / (pixels * info.dtype.size()).max(1)).clamp(RUN, frames.max(RUN)).min(frames);
    let runs = sample.div_ceil(RUN);
    let needs = source.block_bytes(RUN.min(frames)) + pixels * size_of::<Sum>();
    let groups = (GROUPS_BYTES / needs.max(1)).clamp(1, MOST_GROUPS).min(runs.max(1));
    let of_group = |group: usize| -> Result<Group> {
        let mut buffer = vec![0; source.block_bytes(RUN.min(frames))];
        let (mut sums, mut small) = (vec![Sum::default(); pixels], Vec::new());
        let (mut used, mut counts) = (0, None);
        // Runs lie evenly between the beginning and the end; all of them when the sample is the whole scan.
        let place = |run: usize| {
            let first = if sample == frames { run * RUN } else { run * (frames - RUN) / (runs - 1).max(1) };
            (first, RUN.min(frames - first))
        };
        let mine = group * runs / groups..(group + 1) * runs / groups;
        let mut announced = mine.start;
        for run in mine.clone() {
            cancel.check()?;
            while announced < mine.end.min(run + AHEAD + 1) {
                let (first, count) = place(announced);
                source.will_read(first, count);
                announced += 1;
            }
            let (first, count) = place(run);
            let block = source.read_block(first, count, &mut buffer)?;
            let raw = raw_frames(&block);
            let found = with_sample_type!(block.dtype, S => {
                sum_frames::<S>(&raw, &mut sums, &mut small);
                count_range::<S>(&raw)
            });
            counts = either(counts, found);
            used += count;
        }
        Ok(Group { sums, used, counts })
    };
    let parts: Vec<Group> =
        workers.install(|| (0..groups).into_par_iter().with_max_len(1).map(of_group).collect::<Result<_>>())?;
    let (mut sums, mut used, mut counts) = (vec![Sum::default(); pixels], 0, None);
    for part in parts {
        sums.iter_mut().zip(part.sums).for_each(|(sum, part)| sum.merge(part));
        used += part.used;
        counts = either(counts, part.counts);
    }
    let shape = (info.det.rows, info.det.cols);
    let mean = sums.iter().map(|s| s.value() / used as f64).collect();
    let pattern = Image::from_shape_vec(shape, mean).map_err(|e| Error::bug(e.to_string()))?;
    Ok((pattern, counts))
}

/// What some of the sampled frames hold.
struct Group {
    sums: Vec<Sum>,
    used: usize,
    counts: Option<CountRange>,
}

fn either(a: Option<CountRange>, b: Option<CountRange>) -> Option<CountRange> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.or(b)),
        (a, b) => a.or(b),
    }
}

/// A reader's block in the kernels' terms.
pub(super) fn raw_frames<'a>(block: &FrameBlock<'a>) -> RawFrames<'a> {
    RawFrames {
        bytes: block.bytes,
        offset: block.offset,
        stride: block.stride,
        frames: block.frames,
        det: block.det,
        swap: block.endian == crate::axes::Endian::Big,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crop_truncates_the_centre_and_is_clipped_to_the_detector() {
        let det = DetShape::new(48, 48);
        let (crop, warnings) = crop_around([24.35, 23.8], 20, det).expect("inside");
        assert_eq!((crop.bounds(), warnings.len()), ([4, 44, 3, 43], 0));
        let (crop, warnings) = crop_around([5.9, 40.0], 10, det).expect("inside");
        assert_eq!((crop.bounds(), warnings.len()), ([0, 15, 30, 48], 1));
        for center in [[-1.0, 5.0], [48.0, 5.0], [5.0, f64::NAN]] {
            assert_eq!(crop_around(center, 10, det).map_err(|e| e.exit_code()).err(), Some(4));
        }
    }

    /// A scan of 40 × 30 frames of 12 × 10 pixels as an npy file.
    fn scan(folder: &std::path::Path, kind: &str, samples: impl Iterator<Item = Vec<u8>>) -> std::path::PathBuf {
        let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (40, 30, 12, 10), }}");
        header.push_str(&" ".repeat(117 - header.len()));
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        bytes.extend(header.bytes().chain(samples.flatten()));
        let path = folder.join("scan.npy");
        std::fs::write(&path, bytes).expect("write");
        path
    }

    #[test]
    fn the_pattern_is_the_same_for_any_number_of_workers() {
        let folder = tempfile::tempdir().expect("tempdir");
        let samples = 40 * 30 * 12 * 10;
        let count = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) % 1000;
        let counts = (0..samples).map(|i| (count(i) as u16).to_le_bytes().to_vec());
        let numbers = (0..samples).map(|i| (count(i) as f32 * 0.1 - 1e5 / (1 + i % 7) as f32).to_le_bytes().to_vec());
        for kind in ["<u2", "<f4"] {
            let path = if kind == "<u2" {
                scan(folder.path(), kind, counts.clone())
            } else {
                scan(folder.path(), kind, numbers.clone())
            };
            let source = crate::read::open(&path, &Config::default().source).expect("open");
            let found = [1, 2, 5].map(|workers| {
                let workers = Workers::new(workers).expect("threads");
                sampled_pattern(&*source, &workers, &CancelToken::new()).expect("pattern")
            });
            assert!(found.iter().all(|one| *one == found[0]), "{kind}");
            if kind == "<u2" {
                let naive = Image::from_shape_fn((12, 10), |(r, c)| {
                    let sum: usize = (0..1200).map(|frame| count(frame * 120 + r * 10 + c)).sum();
                    sum as f64 / 1200.0
                });
                assert_eq!((&found[0].0, found[0].1.map(|c| (c.least, c.most))), (&naive, Some((0, 999))));
            }
        }
    }
}
