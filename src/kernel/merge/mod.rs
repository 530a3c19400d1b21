//! Merging of many shifted images of one object into one image that is `f` times finer.
//!
//! Every detector pixel `k` of a bright-field disk sees the same object displaced by its own, in general fractional,
//! number of scan pixels. With `s_k` the shift to *apply* (`[row, col]`, scan pixels, signed, 0 = none), the sample
//! `n` of image `k` is a sample of the object at `n + s_k`: together the images sample the object more finely than
//! the scan does. Two estimators, both with the sample `(i, j)` of an unshifted image at output pixel `(f i, f j)`:
//!
//! * [`bilinear`]: each sample is shared among the four nearest output pixels, then value is divided by weight.
//!   Needs nothing but additions and keeps samples at the edges apart; attenuates the finest detail and leaves
//!   holes where no sample falls.
//! * [`fourier`]: each sample is spread with the ideal interpolating kernel of the fine grid. No holes, no
//!   attenuation; needs a transform of each image.
//!
//! Gain: every image is divided by its own mean before, and the result is multiplied by the mean of the means, so
//! that the brightness of a detector pixel (its gain, its place at the soft edge of the disk) does not become a
//! pattern in the result. An image may carry a statistical weight beside it: 1 for a plain average, its mean for
//! counting noise (the variance of an image divided by its mean goes as one over the mean).

pub mod bilinear;
mod coverage;
pub mod fourier;

use crate::axes::Sample;
use crate::kernel::convert::pixel_sums;

/// The mean of an image; `None` where a division by it makes no sense (empty, not finite, or not above zero).
pub fn gain<S: Sample>(image: &[S]) -> Option<f64> {
    let mean = pixel_sums(image).sum / image.len() as f64;
    (mean.is_finite() && mean > 0.0).then_some(mean)
}
