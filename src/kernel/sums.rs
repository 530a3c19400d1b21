//! Sums over frames, exact and in any groups.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use crate::axes::Sample;
use crate::kernel::simd::dispatch;
use crate::kernel::transpose::{RawFrames, load};

/// What the corner turn found wrong with the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BadSamples {
    /// How many samples of the whole detector were NaN or infinite.
    pub nan: u64,
    /// The first frame of the block that has one.
    pub first_frame: Option<usize>,
}

/// A sum that keeps what rounding takes from it (two-sum, Knuth 1969), so that its value is the same in whichever
/// groups the numbers are added: exact for counts, and for floats to some 32 digits before the final rounding.
#[derive(Debug, Clone, Copy, PartialEq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    /// Adds one number.
    #[inline(always)]
    pub fn add(&mut self, value: f64) {
        let sum = self.high + value;
        let added = sum - self.high;
        self.low += (self.high - (sum - added)) + (value - added);
        self.high = sum;
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Self) {
        self.add(other.high);
        self.low += other.low;
    }

    /// The sum, rounded.
    pub fn value(self) -> f64 {
        self.high + self.low
    }
}

/// Adds all frames of a block, over the whole detector, into `sums` (`[det row, det col]`); NaN and infinity count as
/// zero.
///
/// # Panics
/// When `sums` is not one number per detector pixel.
pub fn sum_frames<S: Sample>(frames: &RawFrames<'_>, sums: &mut [Sum], small: &mut Vec<i32>) -> BadSamples {
    let pixels = frames.det.len();
    assert_eq!(sums.len(), pixels, "sum of a wrong size");
    let mut bad = BadSamples::default();
    if S::SMALL {
        dispatch(|| sum_small::<S>(frames, sums, small));
        return bad;
    }
    for f in 0..frames.frames {
        let mut nan = 0;
        for (sum, bytes) in sums.iter_mut().zip(frames.run::<S>(f, 0, pixels).chunks_exact(size_of::<S>())) {
            let value = load::<S>(bytes, frames.swap);
            if value.is_finite() {
                sum.add(value.to_f64());
            } else {
                nan += 1;
            }
        }
        if nan > 0 {
            bad.nan += nan;
            bad.first_frame.get_or_insert(f);
        }
    }
    bad
}

/// Integers of up to 16 bits: of 32 767 frames the sum fits in an `i32`.
#[inline(always)]
fn sum_small<S: Sample>(frames: &RawFrames<'_>, sums: &mut [Sum], small: &mut Vec<i32>) {
    let pixels = sums.len();
    for f0 in (0..frames.frames).step_by(32_767) {
        small.clear();
        small.resize(pixels, 0);
        for f in f0..(f0 + 32_767).min(frames.frames) {
            let samples = frames.run::<S>(f, 0, pixels).chunks_exact(size_of::<S>());
            if frames.swap {
                small.iter_mut().zip(samples).for_each(|(sum, bytes)| *sum += load::<S>(bytes, true).to_i32());
            } else {
                small.iter_mut().zip(samples).for_each(|(sum, bytes)| *sum += load::<S>(bytes, false).to_i32());
            }
        }
        sums.iter_mut().zip(&*small).for_each(|(sum, &part)| sum.add(f64::from(part)));
    }
}

/// The sum of the squares of finite samples: exact for integers of up to 16 bits.
pub fn square_sum<S: Sample>(samples: &[S]) -> Sum {
    let mut sum = Sum::default();
    if S::SMALL {
        // Squares of 16 bits fill 32; of 2²⁰ of them the sum is still a whole number of an f64.
        dispatch(|| {
            for part in samples.chunks(1 << 20) {
                let squares = part.iter().map(|s| u64::from(s.to_i32().unsigned_abs().wrapping_pow(2)));
                sum.add(squares.sum::<u64>() as f64);
            }
        });
    } else {
        samples.iter().map(|s| s.to_f64()).for_each(|v| sum.add(v * v));
    }
    sum
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the promise is equality to the last bit")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sum_does_not_depend_on_its_groups(values in prop::collection::vec(-1e9f64..1e9, 1..200), cut in 0usize..200) {
            let of = |values: &[f64]| {
                let mut sum = Sum::default();
                for v in values {
                    sum.add(v * v * v);
                }
                sum
            };
            let cut = cut.min(values.len());
            let mut parts = of(&values[..cut]);
            parts.merge(of(&values[cut..]));
            prop_assert_eq!(parts.value(), of(&values).value());
        }
    }

    proptest! {
        #[test]
        fn square_sums_are_exact_and_do_not_depend_on_their_groups(
            counts in prop::collection::vec(any::<u16>(), 1..300), cut in 0usize..300, signed in prop::collection::vec(any::<i16>(), 9),
        ) {
            let cut = cut.min(counts.len());
            let mut parts = square_sum(&counts[..cut]);
            parts.merge(square_sum(&counts[cut..]));
            prop_assert_eq!(parts.value(), counts.iter().map(|&c| u64::from(c).pow(2)).sum::<u64>() as f64);
            prop_assert_eq!(square_sum(&signed).value(), signed.iter().map(|&c| i64::from(c).pow(2)).sum::<i64>() as f64);
            let floats: Vec<f32> = counts.iter().map(|&c| f32::from(c) * 1.37e-3).collect();
            let mut parts = square_sum(&floats[..cut]);
            parts.merge(square_sum(&floats[cut..]));
            prop_assert_eq!(parts.value(), square_sum(&floats).value());
        }
    }
}
