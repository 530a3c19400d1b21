//! Putting the shifted images together, and what comes with it: half-sets, resolution, phase contrast, depths.
//!
//! ```text
//! fourier   one pass over the stack for many sums: two half-sets, their side bands, one image for each depth
//! bilinear  one pass for the two half-sets
//! quality   ring correlation between the half-sets
//! passes    what is made in which pass; phase contrast and depths
//! optics    what the calibration and the fitted aberrations say
//! ```

mod bilinear;
mod fourier;
mod optics;
mod passes;
mod quality;

pub(super) use optics::Optics;
pub use optics::{images_made, upscale_factor};
pub(super) use passes::Job;
pub use passes::Resolutions;
pub use quality::Resolution;

use rayon::prelude::*;

use crate::axes::{Image, Sample, ScanShape};

/// A detector pixel that takes part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Crop index.
    pub(super) pixel: usize,
    /// `[row, col]` from the disk's centre, in detector pixels.
    pub(super) from_center: [f64; 2],
    /// Colour on the checkerboard of detector pixels: which half-set it belongs to.
    pub(super) half: usize,
    /// Where its correlation peaks (absolute, `[row, col]` in scan pixels); `None` where it is not used for the image.
    pub(super) peak: Option<[f64; 2]>,
    /// Whether it belongs to the virtual bright field.
    pub(super) in_disk: bool,
}

impl Part {
    /// The shift that brings its image onto the axial one: the negative of where its correlation peaks.
    pub(super) fn shift(&self, scan: ScanShape) -> Option<[f64; 2]> {
        let none = [(scan.rows / 2) as f64, (scan.cols / 2) as f64];
        self.peak.map(|[y, x]| [none[0] - y, none[1] - x])
    }
}

/// An image from two half-sets of detector pixels.
#[derive(Debug)]
pub(super) struct Merged {
    /// From all pixels.
    pub(super) image: Image,
    /// What stands behind each output pixel.
    pub(super) weights: Image,
    /// From each half alone.
    pub(super) halves: [Image; 2],
}

/// The largest shift in scan pixels.
pub(super) fn reach(parts: &[Part], scan: ScanShape) -> f64 {
    parts.iter().filter_map(|p| p.shift(scan)).flatten().fold(0f64, |most, s| most.max(s.abs()))
}

/// Adds a batch of images (those of the disk) to the virtual bright field, pieces side by side.
pub(super) fn add_bright<S: Sample>(images: &[S], group: &[Part], bright: &mut [f64], pieces: usize) {
    let n = bright.len();
    let piece = n.div_ceil(pieces);
    bright.par_chunks_mut(piece).enumerate().for_each(|(i, bright)| {
        for (image, _) in images.chunks_exact(n).zip(group).filter(|(_, part)| part.in_disk) {
            let samples = &image[i * piece..i * piece + bright.len()];
            bright.iter_mut().zip(samples).for_each(|(sum, s)| *sum += s.to_f64());
        }
    });
}
