//! One finished run as plain arrays: what every writer of this module takes.

use crate::axes::{Calibration, Crop, DetShape, Image, Plane, ScanShape};
use crate::cache::{Curve, Extra};

/// One finished run, ready to be written. Images are `[rows, cols]` in C order.
#[derive(Debug, Clone, PartialEq)]
pub struct RunResults {
    /// When the run began, local time, `YYYYMMDD_HHMMSS`.
    pub timestamp: String,
    /// Stem of the input's file name.
    pub base_name: String,
    /// Centre of the bright-field disk, `[row, col]` in pixels of the whole detector.
    pub bf_center: [f64; 2],
    /// Fitted radius of the bright-field disk in detector pixels.
    pub bf_radius: f64,
    /// Half-width of the crop in detector pixels: what the documented layout calls `bf_radius`.
    pub crop_radius: usize,
    /// The detector pixels that took part.
    pub crop: Crop,
    /// The scan.
    pub scan: ScanShape,
    /// The whole detector.
    pub det: DetShape,
    /// Output pixels per scan step.
    pub upscale: usize,
    /// Sigma of the Gaussian on the reference image in scan pixels.
    pub reference_smoothing: f64,
    /// Half-width of the square of used detector pixels.
    pub detector_radius: usize,
    /// Detector pixels with a quality above this were used.
    pub quality_threshold: f64,
    /// The alignment method: `classic` …
    pub method: String,
    /// Fingerprint of the source data.
    pub fingerprint: String,
    /// Physical units, as far as they are known.
    pub calibration: Calibration,
    /// Name of the HDF5 cache; where none was written, of the working cache.
    pub cache_file: Option<String>,
    /// Mean diffraction pattern, `[det rows, det cols]`, counts.
    pub mean_pattern: Image,
    /// Row shifts as absolute peak positions, `[crop rows, crop cols]`, scan pixels; no shift is `scan.rows / 2`.
    pub shift_y: Image,
    /// Column shifts, likewise; no shift is `scan.cols / 2`.
    pub shift_x: Image,
    /// Quality of the alignment of each detector pixel, `[crop rows, crop cols]`.
    pub quality: Image,
    /// The image that all others were aligned to, `[scan rows, scan cols]`.
    pub reference_image: Image,
    /// The bright-field image of the centre pixel, `[scan rows, scan cols]`, counts.
    pub standard_bf: Image,
    /// The sum over the whole disk, `[scan rows, scan cols]`, counts.
    pub virtual_bf: Image,
    /// The super-resolved image, `[scan rows × upscale, scan cols × upscale]`.
    pub superres_image: Image,
    /// How many samples each pixel of the super-resolved image received (their weights), same shape.
    pub weights: Image,
    /// Further images that the steps made, after the documented ones.
    pub extras: Vec<(Extra, Image)>,
    /// Curves that the steps made.
    pub curves: Vec<Curve>,
    /// Further numbers that the method found, by the name of their attribute: aberrations, significance.
    pub findings: Vec<(String, f64)>,
    /// What the user should know before trusting the result.
    pub warnings: Vec<String>,
}

/// One result with its name and what its numbers mean.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Name in files: `shift_y` …
    pub name: &'a str,
    /// Name for people: `shift, rows` …
    pub title: &'a str,
    /// Unit of the values.
    pub units: &'a str,
    /// What the axes are.
    pub plane: Plane,
    /// The values.
    pub image: &'a Image,
}

impl RunResults {
    /// Every two-dimensional result, the documented ones first.
    pub fn layers(&self) -> Vec<Layer<'_>> {
        let layer = |name, title, units, plane, image| Layer { name, title, units, plane, image };
        let documented = [
            layer("shift_y", "shift, rows", "scan pixels", Plane::Crop, &self.shift_y),
            layer("shift_x", "shift, columns", "scan pixels", Plane::Crop, &self.shift_x),
            layer("quality", "alignment quality", "", Plane::Crop, &self.quality),
            layer("superres_image", "super-resolved bright field", "counts", Plane::Superres, &self.superres_image),
            layer("standard_bf", "standard bright field", "counts", Plane::Scan, &self.standard_bf),
            layer("reference_image", "reference image", "counts", Plane::Scan, &self.reference_image),
            layer("weights", "samples per pixel", "", Plane::Superres, &self.weights),
            layer("virtual_bf", "sum over the disk", "counts", Plane::Scan, &self.virtual_bf),
            layer("mean_pattern", "mean pattern", "counts", Plane::Detector, &self.mean_pattern),
        ];
        let extras = self.extras.iter().map(|(e, image)| layer(&e.name, &e.title, &e.units, e.plane, image));
        documented.into_iter().chain(extras).collect()
    }

    /// What the shift maps hold where there is no shift, `[rows, cols]`: `N // 2` on each axis.
    pub fn no_shift(&self) -> [f64; 2] {
        [(self.scan.rows / 2) as f64, (self.scan.cols / 2) as f64]
    }

    /// Width of a pixel of `plane` in Å (scan) or mrad (detector), where it is known.
    pub fn pixel_size(&self, plane: Plane) -> Option<f64> {
        let known = |size: Option<f64>| size.filter(|s| s.is_finite() && *s > 0.0);
        match plane {
            Plane::Scan => known(self.calibration.scan_step_angstrom),
            Plane::Superres => known(self.calibration.scan_step_angstrom).map(|step| step / self.upscale.max(1) as f64),
            Plane::Detector | Plane::Crop => known(self.calibration.detector_mrad_per_px),
        }
    }

    /// A number that the method found, where it is one.
    pub(super) fn finding(&self, name: &str) -> Option<f64> {
        self.findings.iter().find(|(n, _)| n == name).map(|(_, value)| *value).filter(|v| v.is_finite())
    }

    /// A curve by its name.
    pub(super) fn curve(&self, name: &str) -> Option<&Curve> {
        self.curves.iter().find(|curve| curve.name == name)
    }

    /// A further image by its name.
    pub(super) fn extra(&self, name: &str) -> Option<(&Extra, &Image)> {
        self.extras.iter().find(|(extra, _)| extra.name == name).map(|(extra, image)| (extra, image))
    }

    /// Bytes of all two-dimensional results as 64-bit numbers.
    pub(super) fn bytes(&self) -> u64 {
        self.layers().iter().map(|layer| layer.image.len() as u64 * 8).sum()
    }
}
