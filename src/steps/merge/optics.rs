//! What the calibration and the fitted aberrations say about the image.

use crate::axes::{Calibration, wavelength_angstrom};
use crate::config::{Config, Contrast, Merge, Upscale};
use crate::kernel::merge::fourier::Circle;
use crate::steps::parametric::AberrationFit;
use crate::steps::step1_detect::BrightDisk;

/// Output pixels per scan step where nothing says how many are of use.
const USUAL_FACTOR: usize = 4;
/// The most that is chosen without being asked.
const MOST_AUTOMATIC: usize = 8;

/// The scales of an image with a calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::steps) struct Optics {
    /// Detector pixels per cycle per scan pixel, `λ / (Δα · step)`.
    pixels_per_frequency: f64,
    /// Shift in scan pixels of a detector pixel's image for each Å of C10, per detector pixel.
    shift_per_angstrom: f64,
    /// Radius of the disk in detector pixels.
    radius: f64,
}

impl Optics {
    /// `None` without a complete calibration.
    pub(in crate::steps) fn of(c: &Calibration, disk: &BrightDisk) -> Option<Self> {
        let mrad = c.pixel_mrad(disk.radius)?;
        let step = c.scan_step_angstrom?;
        let angle = mrad * 1e-3;
        let optics = Self {
            pixels_per_frequency: wavelength_angstrom(c.energy_ev?) / (angle * step),
            shift_per_angstrom: angle / step,
            radius: disk.radius,
        };
        (optics.limit().is_finite() && optics.limit() > 0.0).then_some(optics)
    }

    /// The information limit of a bright-field image, twice the aperture, in cycles per scan pixel.
    pub(in crate::steps) fn limit(&self) -> f64 {
        2.0 * self.radius / self.pixels_per_frequency
    }

    /// Even and odd part of the aberration function, in radians, of a frequency (`[row, col]`, cycles per scan pixel, scan
    /// axes). The only place that reads it out of a fit.
    pub(in crate::steps) fn chi(fit: &AberrationFit) -> impl Fn([f64; 2]) -> (f64, f64) + Sync + use<> {
        fit.chi()
    }

    /// The aperture around the frequency that detector pixel `k` (from the disk's centre) stands for.
    pub(in crate::steps) fn aperture(&self, fit: &AberrationFit, k: [f64; 2]) -> Circle {
        let [row, col] = fit.model().on_scan(k).map(|v| v / self.pixels_per_frequency);
        Circle { center: [row, col], radius: self.radius / self.pixels_per_frequency }
    }

    /// What an offset of the defocus (Å, positive: more underfocus, `C10` falls) adds to the shift to apply to the image
    /// of detector pixel `k`.
    pub(in crate::steps) fn refocus(&self, fit: &AberrationFit, defocus_offset: f64, k: [f64; 2]) -> [f64; 2] {
        fit.model().on_scan(k).map(|v| -defocus_offset * self.shift_per_angstrom * v)
    }
}

/// Output pixels per scan step. Chosen automatically, the nearest merge gets 4; the others get the smallest factor from 1
/// to 8 whose Nyquist frequency (`factor / 2` cycles per scan pixel) reaches the information limit, and 4 without a
/// calibration.
pub fn upscale_factor(config: &Config, disk: &BrightDisk) -> usize {
    match config.reconstruct.upscale {
        Upscale::Factor(factor) => factor,
        Upscale::Auto if config.merge() == Merge::Nearest => USUAL_FACTOR,
        Upscale::Auto => Optics::of(&config.calibration, disk)
            .map_or(USUAL_FACTOR, |optics| ((2.0 * optics.limit()).ceil() as usize).clamp(1, MOST_AUTOMATIC)),
    }
}

/// Upscaled images that a run makes: the image and its weights, those of the phase where the fit and a calibration say how,
/// and one for each further depth.
pub fn images_made(config: &Config, disk: &BrightDisk) -> usize {
    let modelled = config.is_parametric() && config.merge() != Merge::Nearest;
    if !modelled || Optics::of(&config.calibration, disk).is_none() {
        return 2;
    }
    let phase = if config.reconstruct.contrast == Contrast::Off { 0 } else { 3 };
    2 + phase + config.reconstruct.depths_angstrom.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axes::Crop;

    #[test]
    fn a_calibration_is_complete_where_it_says_what_the_optics_need() {
        let crop = Crop { row0: 0, row1: 16, col0: 0, col1: 16 };
        let disk = BrightDisk { center: [8.0, 8.0], radius: 6.0, crop_radius: 8, crop };
        for known in 0..16 {
            let given = |bit: u32, value: f64| (known >> bit & 1 == 1).then_some(value);
            let calibration = Calibration {
                energy_ev: given(0, 8e4),
                semiangle_mrad: given(1, 10.0),
                scan_step_angstrom: given(2, 4.0),
                detector_mrad_per_px: given(3, 0.6),
                ..Calibration::default()
            };
            assert_eq!(calibration.is_complete(), Optics::of(&calibration, &disk).is_some(), "{calibration:?}");
        }
    }
}
