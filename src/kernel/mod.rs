//! Numerical kernels: pure functions that know neither files, nor tiles, nor threads.
//!
//! Every kernel takes its input as slices, writes into slices that the caller owns and allocates nothing in its hot
//! loop. What works on one large image (transforms `…_wide`, filters, rings) cuts its loops for the rayon pool that it is
//! called in, into pieces whose number does not depend on the threads. Conventions: images are `[rows, cols]` in C order, the forward transform is `exp(-2πi …)` without factor,
//! the inverse carries `1/N`, spectra are in natural order (zero frequency at index 0).

pub mod aberrations;
pub mod bad_pixels;
pub mod contrast;
pub mod convert;
pub mod correlate;
pub mod crosspower;
pub mod disk;
pub mod fft2;
pub mod forward;
pub mod lanes;
pub mod merge;
pub mod noise_floor;
pub mod peak;
pub mod poisson;
pub mod real;
pub mod ring;
pub mod simd;
pub mod smooth;
pub mod sums;
pub mod transpose;
pub mod upsample;
pub mod wiener;
