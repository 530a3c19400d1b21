//! From detector counts to the numbers that are transformed.
//!
//! Two real images travel through one complex transform: image `a` in the real part, image `b` in the imaginary part.
//! Before they are rounded to the working precision, a whole number near each image's mean is taken off, which is
//! exact for integer counts and keeps the mantissa for the signal; the mean comes back exactly through the sums.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use num_complex::Complex;

use crate::axes::Sample;
use crate::kernel::real::Real;
use crate::kernel::simd::dispatch;

/// Sums over the scan of one detector pixel's image. Exact for integer counts below 2⁵³.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PixelSums {
    /// `Σ I`.
    pub sum: f64,
    /// `Σ I²`.
    pub sum_sq: f64,
}

/// Accumulates [`PixelSums`] in a fixed order, so that the result does not depend on how the work was cut.
pub fn pixel_sums<S: Sample>(image: &[S]) -> PixelSums {
    dispatch(
        #[inline(always)]
        || if S::SMALL { sums_of_small(image) } else { sums_in_lanes(image) },
    )
}

/// Integers of up to 16 bits: whole numbers throughout, four times as fast as adding floats and exactly the same.
#[inline(always)]
fn sums_of_small<S: Sample>(image: &[S]) -> PixelSums {
    // Of 2¹⁵ samples the sum fits in an `i32`; squares fill 32 bits, and a `u64` holds as many as there are.
    const PIECE: usize = 1 << 15;
    let (mut sum, mut sum_sq) = (0i64, 0u64);
    for piece in image.chunks(PIECE) {
        sum += i64::from(piece.iter().map(|s| s.to_i32()).sum::<i32>());
        sum_sq += piece.iter().map(|s| u64::from(s.to_i32().unsigned_abs().wrapping_pow(2))).sum::<u64>();
    }
    PixelSums { sum: sum as f64, sum_sq: sum_sq as f64 }
}

#[inline(always)]
fn sums_in_lanes<S: Sample>(image: &[S]) -> PixelSums {
    const LANES: usize = 8;
    let (mut sum, mut sum_sq) = ([0f64; LANES], [0f64; LANES]);
    let chunks = image.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            let value = chunk[lane].to_f64();
            sum[lane] += value;
            sum_sq[lane] += value * value;
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        let value = value.to_f64();
        sum[lane] += value;
        sum_sq[lane] += value * value;
    }
    PixelSums { sum: sum.iter().sum(), sum_sq: sum_sq.iter().sum() }
}

/// The number taken off an image before it is rounded: its mean, rounded to a whole number so that integers stay exact.
pub fn offset(sums: PixelSums, len: usize) -> f64 {
    (sums.sum / len as f64).round()
}

/// Packs one or two images into `out`: `out[r] = (a[r] - offset_a) + i (b[r] - offset_b)`; without `b`, a zero
/// imaginary part.
///
/// # Panics
/// When the lengths differ.
pub fn pack_pair<S: Sample, T: Real>(a: (&[S], f64), b: Option<(&[S], f64)>, out: &mut [Complex<T>]) {
    let (a, offset_a) = a;
    assert_eq!(a.len(), out.len(), "image and buffer differ in length");
    let Some((b, offset_b)) = b else {
        for (z, &x) in out.iter_mut().zip(a) {
            *z = Complex::new(centred(x, offset_a), T::default());
        }
        return;
    };
    assert_eq!(b.len(), out.len(), "image and buffer differ in length");
    dispatch(
        #[inline(always)]
        || {
            for ((z, &x), &y) in out.iter_mut().zip(a).zip(b) {
                *z = Complex::new(centred(x, offset_a), centred(y, offset_b));
            }
        },
    );
}

/// Packs one image times a window: `(image[r] - mean) · window[r]` into the real parts (the imaginary ones become zero), or
/// into the imaginary parts.
///
/// # Panics
/// When the lengths differ.
pub fn pack_windowed<S: Sample, T: Real>(
    image: &[S],
    (mean, window): (f64, &[f32]),
    imaginary: bool,
    out: &mut [Complex<T>],
) {
    let n = out.len();
    assert!(image.len() == n && window.len() == n, "image, window and buffer differ in length");
    dispatch(
        #[inline(always)]
        || {
            let value = |i: usize| T::round_from((image[i].to_f64() - mean) * f64::from(window[i]));
            if imaginary {
                (0..n).for_each(|i| out[i].im = value(i));
            } else {
                (0..n).for_each(|i| out[i] = Complex::new(value(i), T::default()));
            }
        },
    );
}

/// A sample less a whole number: exact for integers of up to 16 bits.
#[inline(always)]
pub(super) fn centred<S: Sample, T: Real>(value: S, offset: f64) -> T {
    if S::SMALL {
        // At most 17 bits: exact in f32, and four times as fast as going through f64.
        T::exact_from((value.to_i32() - offset as i32) as f32)
    } else {
        T::round_from(value.to_f64() - offset)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the promise is equality to the last bit")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_equal_the_naive_sums_exactly(image in prop::collection::vec(any::<u16>(), 1..200)) {
            let sums = pixel_sums(&image);
            prop_assert_eq!(sums.sum, image.iter().map(|&x| u64::from(x)).sum::<u64>() as f64);
            prop_assert_eq!(sums.sum_sq, image.iter().map(|&x| u64::from(x).pow(2)).sum::<u64>() as f64);
        }

        #[test]
        fn a_window_is_applied_to_either_part(image in prop::collection::vec(any::<i16>(), 1..50), mean in -9.0..9.0f64) {
            let window: Vec<f32> = (0..image.len()).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut out = vec![Complex::new(5.0, 5.0); image.len()];
            pack_windowed(&image, (mean, &window), false, &mut out);
            prop_assert!(out.iter().all(|z| z.im == 0.0));
            let reversed: Vec<i16> = image.iter().rev().copied().collect();
            pack_windowed(&reversed, (mean, &window), true, &mut out);
            for (i, z) in out.iter().enumerate() {
                prop_assert_eq!(z.re, (f64::from(image[i]) - mean) * f64::from(window[i]));
                prop_assert_eq!(z.im, (f64::from(reversed[i]) - mean) * f64::from(window[i]));
            }
        }

        #[test]
        fn packing_is_exact_for_counts(pair in prop::collection::vec(any::<(u16, u16)>(), 1..100)) {
            let (a, b): (Vec<u16>, Vec<u16>) = pair.into_iter().unzip();
            let (oa, ob) = (offset(pixel_sums(&a), a.len()), offset(pixel_sums(&b), b.len()));
            let mut out = vec![Complex::<f32>::default(); a.len()];
            pack_pair((&a, oa), Some((&b, ob)), &mut out);
            for (i, z) in out.iter().enumerate() {
                prop_assert_eq!(f64::from(z.re) + oa, f64::from(a[i]));
                prop_assert_eq!(f64::from(z.im) + ob, f64::from(b[i]));
            }
        }
    }
}
