//! The five steps. Each takes the previous one's output, so that the wrong order does not compile:
//!
//! ```text
//! detect        → Detected        the bright-field disk and the crop
//! corner_turn   → CroppedStack    the cropped, pixel-major stack (the first half of step 2)
//! fft           → Spectra         bigFT
//! correlate     → Correlations    correlations and their peaks
//! find_shifts   → ShiftMaps
//! reconstruct   → Reconstruction  the super-resolved image
//! ```
//!
//! [`align`] does `fft` and `correlate` in one pass, which is what a run does; in lean mode nothing of it is written.

mod bad_pixels;
mod commit;
mod context;
mod corner_turn;
mod engine;
mod large;
mod merge;
mod parametric;
mod refine;
mod sample;
mod selection;
mod stack;
mod step1_detect;
mod step2_fft;
mod step3_correlate;
mod step4_shifts;
mod step5_reconstruct;
mod tile;

pub use context::RunContext;
pub use corner_turn::corner_turn;
pub use merge::{Resolution, Resolutions, images_made, upscale_factor};
pub use parametric::{AberrationFit, FitSpectra, fit_aberrations, fit_bytes, fit_spectra};
pub use refine::{OrderTrial, PixelTrial, RefineIteration, RefineReport, refine};
pub use selection::usable_pixels;
pub use stack::{CroppedStack, Stack, stored_type};
pub use step1_detect::{BrightDisk, Detected, detect};
pub use step2_fft::{Spectra, fft};
pub use step3_correlate::{Correlations, align, correlate};
pub use step4_shifts::{ShiftMaps, find_shifts, pixel_findings};
pub use step5_reconstruct::{ImageReport, Reconstruction, keep_image, reconstruct};
