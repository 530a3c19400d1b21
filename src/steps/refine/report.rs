//! What the refinement did, in numbers.

use serde::{Deserialize, Serialize};

/// What the refinement did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RefineReport {
    /// Why it ended, in words.
    pub outcome: String,
    /// Whether the maps were changed.
    pub changed: bool,
    /// RMS of the whole change over the used detector pixels, in scan pixels.
    pub rms_change: f64,
    /// RMS of the groups' residual displacements from the final maps, without outliers, in scan pixels.
    pub rms_residual: Option<f64>,
    /// Spectra in use; each of them serves all frequencies that the scan folds there.
    pub frequencies: usize,
    /// Detector pixels that were left out: without counts, or with a power that the object cannot have.
    pub pixels_left_out: usize,
    /// One after another.
    pub iterations: Vec<RefineIteration>,
    /// What single pixels could explain beyond smooth fields, where it was asked.
    #[serde(default)]
    pub pixels: Option<PixelTrial>,
}

/// What corrections of single detector pixels could explain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PixelTrial {
    /// Standard deviation in scan pixels (one component) of displacements that slow and fast frequencies agree on.
    pub spread: f64,
    /// The same over its standard error.
    pub significance: f64,
    /// Spreads of what slow and of what fast frequencies say alone, without noise.
    pub each: [f64; 2],
    /// Whether each pixel was moved by its own displacement, shortened by what noise has to do with it.
    pub taken: bool,
}

/// One iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefineIteration {
    /// Detector pixels along the side of a group.
    pub bin: usize,
    /// Part of the disk's radius that was looked at.
    #[serde(default)]
    pub reach: f64,
    /// Groups that were measured.
    pub groups: usize,
    /// Groups that could not be measured, and those that the fit took for outliers.
    pub rejected: [usize; 2],
    /// Median precision of a group from noise, in scan pixels (standard deviation of one component).
    pub precision: f64,
    /// Median height of the groups' correlations over its noise.
    pub significance: f64,
    /// Mean squared error of held-out groups in units of their noise, before the correction and with it.
    pub error: [f64; 2],
    /// The orders that were tried and how each one stood.
    pub orders: Vec<OrderTrial>,
    /// RMS of the correction over the used detector pixels, in scan pixels.
    pub rms_change: f64,
}

/// What one order of aberrations could explain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderTrial {
    /// 1: defocus, astigmatism and rotation; 2: coma and threefold astigmatism; ….
    pub order: u8,
    /// Fall of the held-out groups' error in standard deviations.
    pub significance: f64,
    /// RMS of this order's correction in scan pixels.
    pub rms: f64,
    /// Half of the difference between what slow and fast frequencies say, RMS in scan pixels.
    pub disagreement: f64,
    /// Whether it was taken.
    pub taken: bool,
}

impl std::fmt::Display for RefineIteration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "refinement: {} groups of {bin}×{bin} pixels, {} + {} rejected, precision {:.4}, error of held-out groups {:.2} → {:.2}, change {:.4} scan pixels",
            self.groups,
            self.rejected[0],
            self.rejected[1],
            self.precision,
            self.error[0],
            self.error[1],
            self.rms_change,
            bin = self.bin,
        )
    }
}
