//! Super-resolved bright-field images from 4D-STEM scans larger than memory.
//!
//! Each pixel of the detector sees the specimen from its own direction. Out of focus, the images that different pixels
//! record during one scan are displaced against each other. stemstream measures these shifts and puts all images
//! together on a grid finer than the scan. It does so in five steps:
//!
//! 1. **detect**: the bright-field disk is found in the mean of a sample of frames, and a square crop around it says
//!    which detector pixels take part.
//! 2. **fft**: the file is read once and turned from frames into images (one for each detector pixel), the *stack*;
//!    each image is transformed over the scan. All spectra together are *bigFT*.
//! 3. **correlate**: each spectrum is multiplied by the conjugate spectrum of a reference (the smoothed image of the
//!    central detector pixel) and transformed back.
//! 4. **shifts**: the peak of each correlation gives the shift of its image, and its height the quality.
//! 5. **reconstruct**: every sample of every image that aligned well enough is put down where it belongs.
//!
//! The stack, bigFT, the correlations and the maps are kept in a [working cache](cache), a Zarr group beside the file:
//! an interrupted run goes on from there, and a changed parameter repeats only the steps that depend on it. In *lean*
//! mode bigFT and the correlations exist only one tile at a time.
//!
//! # Example
//!
//! A small simulated scan is written as a Merlin file, and all five steps are run on it:
//!
//! ```
//! use stemstream::cache::Step;
//! use stemstream::export::mib::{MibDepth, MibWriter};
//! use stemstream::pipeline::Workers;
//! use stemstream::simulate::{SimulationSpec, simulate};
//! use stemstream::{CancelToken, Config, Results, ScanShape, Session, Silent};
//!
//! # let folder = std::env::temp_dir().join(format!("stemstream-{}", std::process::id()));
//! # stemstream::store::create_folder(&folder)?;
//! let cancel = CancelToken::new();
//! let small = SimulationSpec::preset("small").ok_or("no such preset")?;
//! let spec = SimulationSpec { scan: ScanShape::new(40, 32), ..small };
//! let input = folder.join("scan.mib");
//! let mut file = MibWriter::create(&input, spec.scan, spec.det, MibDepth::U16)?;
//! let mut write = |_: usize, frames: &[u16]| file.push(frames);
//! Workers::new(2)?.install(|| simulate(&spec, 2, &cancel, &Silent, &mut write))?;
//! file.finish()?;
//!
//! let config = Config::default().with_settings(["run.mode=lean", "run.memory=\"200 MiB\""])?;
//! let session = Session::open(&input, config, false, &Silent, &cancel)?;
//! session.run_to(Step::Reconstruct)?;
//!
//! let results = Results::read(&session.cache_path())?;
//! assert!((results.disk.radius - spec.disk_radius_px).abs() < 0.5);
//! assert_eq!(results.superres_image.dim(), (4 * 40, 4 * 32));
//! // Shifts are absolute positions of peaks; the reference pixel has none, which is half the scan.
//! let middle = results.disk.crop.shape().rows / 2;
//! assert!((results.shift_y[[middle, middle]] - 20.0).abs() < 0.1);
//! # stemstream::store::remove_folder(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where things are
//!
//! | module | what it knows |
//! |---|---|
//! | [`session`] | one dataset with its cache: open, run to a step, preview, results |
//! | [`steps`] | the five steps |
//! | [`read`] | the files that microscopes write |
//! | [`export`] | the files that people and other programs want |
//! | [`cache`], [`store`] | the working cache and its Zarr arrays |
//! | [`plan`] | how to cut the work so that it fits in memory |
//! | [`pipeline`] | blocks, bounded channels, buffers |
//! | [`kernel`] | the arithmetic |
//! | [`simulate`] | scans with known aberrations |
//! | [`axes`], [`config`], [`error`], [`machine`], [`memory`], [`progress`] | what all others speak about |
//!
//! Axes are always `[scan row, scan column, detector row, detector column]`, in file orientation. A tour of the whole
//! house is in `ARCHITECTURE.md`; `examples/` shows the library at work.

pub mod axes;
pub mod cache;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod error;
pub mod export;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod read;
pub mod session;
pub mod simulate;
pub mod steps;
pub mod store;

pub use axes::{Calibration, Crop, DType, DetShape, Image, ScanShape};
pub use config::Config;
pub use error::{Error, ErrorKind, Result};
pub use memory::{ByteSize, MemoryBudget};
pub use progress::{CancelToken, Progress, Silent};
pub use session::{Preview, Results, Session};
