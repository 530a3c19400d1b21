//! Everything that is written for people and for other programs: EMD results, the HDF5 cache, arrays and pictures.
//!
//! Law: a file that bears its final name is complete, and no file that was there before is overwritten. Only the
//! group `/superres_results` is ever added to a user's own EMD file.
//!
//! | module | writes |
//! |---|---|
//! | [`emd`] | `/superres_results/run_*` into the user's EMD file or into `{base}_superres.emd` |
//! | [`hdf5_cache`] | `{base}_superres_cache_{timestamp}.h5` with bigFT and correlations |
//! | [`hdf5_copy`] | that cache, filled by several threads |
//! | [`hdf5_in_place`] | that cache, laid out for a run that fills it as it goes |
//! | [`arrays`] | `.npy` and 32-bit TIFF of every result |
//! | [`picture`], [`contact_sheet`] | PNG of every result and curve, and all of them on one sheet |
//! | [`mib`] | Merlin scans, for simulations and conversions |
//! | [`all`] | whatever of these the configuration asks for |

pub mod all;
pub mod arrays;
mod before_after;
mod canvas;
mod charts;
#[cfg(feature = "hdf5")]
mod chunk_write;
mod colormap;
pub mod contact_sheet;
#[cfg(feature = "hdf5")]
pub mod emd;
mod encode;
mod files;
mod font;
#[cfg(feature = "hdf5")]
mod h5;
#[cfg(feature = "hdf5")]
pub mod hdf5_cache;
#[cfg(feature = "hdf5")]
pub mod hdf5_copy;
#[cfg(feature = "hdf5")]
pub mod hdf5_in_place;
mod ink;
mod inset;
pub mod mib;
mod panel;
pub mod picture;
mod plot;
mod quiver;
mod run;
mod spectrum;
mod summary;
mod ticks;
mod tone;

pub use all::{Written, write_all};
pub use run::{Layer, RunResults};
