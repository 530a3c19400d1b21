//! Step 1: the bright-field disk, from a sample of frames.

use serde::{Deserialize, Serialize};

use crate::axes::{CountRange, Crop, DetShape, Image};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::kernel::disk::{self, Care, Disk, KnownDisk};
use crate::pipeline::Workers;
use crate::progress::CancelToken;
use crate::read::FrameSource;
use crate::steps::sample::{self, Sample};

/// Detector pixels by which the disks of two halves of a sample may differ, in centre and radius, when half of it is not
/// needed: what both together say is then known several times better than the crop's whole pixels.
const AGREE: f64 = 0.1;

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
    let known = KnownDisk { center: config.disk.center, radius: config.disk.radius };
    let look = |pattern: &Image| disk::find(pattern, known, Care::Full);
    let glance = |pattern: &Image| disk::find(pattern, known, Care::Rough);
    let (Sample { pattern, counts }, disk) =
        sample::take(source, workers, cancel, (look, glance), |a, b| agree(a.as_ref(), b.as_ref()))?;
    if pattern.iter().all(|&v| v == 0.0) {
        return Err(Error::input(&info.path, "frames with counts", "only zeros")
            .with_hint("was the beam blanked? `stemstream info` shows what the file says about itself"));
    }
    let wanted = &config.disk;
    if let Some(center) = wanted.center {
        crop_around(center, wanted.crop_radius.unwrap_or(1), info.det)?;
    }
    let disk = disk.ok_or_else(|| {
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

/// Whether both halves of a sample showed the same disk.
fn agree(a: Option<&Disk>, b: Option<&Disk>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    [a.row - b.row, a.col - b.col, a.radius - b.radius].iter().all(|difference| difference.abs() <= AGREE)
}

fn touches_edge(disk: &Disk, det: DetShape) -> bool {
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

    #[test]
    fn halves_agree_when_they_show_the_same_disk() {
        let disk = |row: f64, radius: f64| {
            Image::from_shape_fn((48, 48), |(r, c)| {
                let from_edge = radius - (r as f64 - row).hypot(c as f64 - 24.0);
                100.0 * (from_edge + 0.5).clamp(0.0, 1.0) + 1.0
            })
        };
        let nothing = Image::from_elem((48, 48), 1.0);
        let cases = [
            (disk(23.0, 12.0), disk(23.0, 12.0), true),
            (disk(23.0, 12.0), disk(23.05, 12.05), true),
            (disk(23.0, 12.0), disk(23.4, 12.0), false),
            (disk(23.0, 12.0), disk(23.0, 12.4), false),
            (disk(23.0, 12.0), nothing.clone(), false),
            (nothing.clone(), nothing, false),
        ];
        for (number, (a, b, same)) in cases.into_iter().enumerate() {
            let [a, b] = [a, b].map(|half| disk::find(&half, KnownDisk::default(), Care::Rough));
            assert_eq!(agree(a.as_ref(), b.as_ref()), same, "{number}");
        }
        // What the user knows is not asked for.
        let known = KnownDisk { center: Some([9.0, 9.0]), radius: Some(4.0) };
        let blank = || disk::find(&Image::zeros((48, 48)), known, Care::Rough);
        assert!(agree(blank().as_ref(), blank().as_ref()));
    }
}
