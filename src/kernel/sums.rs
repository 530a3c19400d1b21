//! Sums over frames, exact and in any groups.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::ops::Range;

use crate::axes::{CountRange, DType, Sample};
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

impl BadSamples {
    /// Adds what was found in a part of the frames that begins at frame `first`.
    pub fn merge(&mut self, other: Self, first: usize) {
        self.nan += other.nan;
        self.first_frame = match (self.first_frame, other.first_frame.map(|frame| frame + first)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
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
        dispatch(
            #[inline(always)]
            || sum_small::<S>(frames, sums, small),
        );
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

/// The smallest and the largest sample of all frames, over the whole detector; `None` for floats and without samples.
pub fn count_range<S: Sample>(frames: &RawFrames<'_>) -> Option<CountRange> {
    let pixels = frames.det.len();
    if S::DTYPE.is_float() || pixels == 0 || frames.frames == 0 {
        return None;
    }
    let first = load::<S>(frames.run::<S>(0, 0, 1), frames.swap);
    let (least, most) = dispatch(
        #[inline(always)]
        || {
            (0..frames.frames).fold((first, first), |range, f| {
                let samples = frames.run::<S>(f, 0, pixels).chunks_exact(size_of::<S>());
                samples.map(|bytes| load::<S>(bytes, frames.swap)).fold(range, |(least, most), v| {
                    (if v < least { v } else { least }, if v > most { v } else { most })
                })
            })
        },
    );
    // What is too large for an i64 becomes the largest one.
    Some(CountRange { least: least.to_f64() as i64, most: most.to_f64() as i64 })
}

/// Frames that are added up in registers before their sum goes to memory.
const TOGETHER: usize = 4;

/// Integers of up to 16 bits: of 32 764 frames the sum fits in an `i32`.
#[inline(always)]
fn sum_small<S: Sample>(frames: &RawFrames<'_>, sums: &mut [Sum], small: &mut Vec<i32>) {
    const MOST: usize = 32_767 / TOGETHER * TOGETHER;
    let pixels = sums.len();
    for f0 in (0..frames.frames).step_by(MOST) {
        let f1 = (f0 + MOST).min(frames.frames);
        small.clear();
        small.resize(pixels, 0);
        // What `swap` is must be known to the loop, or it is not made into vectors.
        if frames.swap {
            sum_range::<S>(frames, f0..f1, |bytes| load::<S>(bytes, true).to_i32(), small);
        } else {
            sum_range::<S>(frames, f0..f1, |bytes| load::<S>(bytes, false).to_i32(), small);
        }
        sums.iter_mut().zip(&*small).for_each(|(sum, &part)| sum.add(f64::from(part)));
    }
}

#[inline(always)]
fn sum_range<S: Sample>(frames: &RawFrames<'_>, range: Range<usize>, of: impl Fn(&[u8]) -> i32, small: &mut [i32]) {
    let pixels = small.len();
    let samples = |f: usize| frames.run::<S>(f, 0, pixels).chunks_exact(size_of::<S>());
    let whole = range.start + range.len() / TOGETHER * TOGETHER;
    for f in (range.start..whole).step_by(TOGETHER) {
        let [a, b, c, d]: [_; TOGETHER] = std::array::from_fn(|i| samples(f + i));
        for ((sum, (a, b)), (c, d)) in small.iter_mut().zip(a.zip(b)).zip(c.zip(d)) {
            *sum += of(a) + of(b) + of(c) + of(d);
        }
    }
    for f in whole..range.end {
        small.iter_mut().zip(samples(f)).for_each(|(sum, bytes)| *sum += of(bytes));
    }
}

/// The sum of the squares of finite samples: exact for integers of up to 16 bits.
pub fn square_sum<S: Sample>(samples: &[S]) -> Sum {
    let mut sum = [Sum::default()];
    add_squares(samples, samples.len().max(1), 0..samples.len(), &mut sum);
    sum[0]
}

/// Adds the squares of the samples `range` of each line of `lines`, `line` samples each, to that line's sum: exact for
/// integers of up to 16 bits. Samples must be finite.
///
/// # Panics
/// When `range` does not lie within a line.
pub fn add_squares<S: Sample>(lines: &[S], line: usize, range: Range<usize>, sums: &mut [Sum]) {
    dispatch(
        #[inline(always)]
        || {
            for (sum, samples) in sums.iter_mut().zip(lines.chunks_exact(line)) {
                let samples = &samples[range.clone()];
                if !S::SMALL {
                    samples.iter().map(|s| s.to_f64()).for_each(|v| sum.add(v * v));
                    continue;
                }
                // Of 2²⁰ squares of 32 bits the sum is still a whole number of an f64.
                for part in samples.chunks(1 << 20) {
                    sum.add(small_squares(part) as f64);
                }
            }
        },
    );
}

/// Squares of integers of up to 16 bits. What counting detectors deliver is far below the largest number of its type, and
/// squares of 24 bits are added in half the space that the largest ones need.
#[inline(always)]
fn small_squares<S: Sample>(samples: &[S]) -> u64 {
    const LOW: u16 = 0x0FFF;
    match S::DTYPE {
        DType::U8 => {
            let bytes: &[u8] = bytemuck::cast_slice(samples);
            let square = |&v: &u8| u32::from(v) * u32::from(v);
            bytes.chunks(1 << 15).map(|part| u64::from(part.iter().map(square).sum::<u32>())).sum()
        }
        DType::U16 => {
            let counts: &[u16] = bytemuck::cast_slice(samples);
            let low = |&v: &u16| u32::from(v & LOW) * u32::from(v & LOW);
            let sum_of = |part: &[u16]| {
                if part.iter().fold(0, |all, v| all | v) <= LOW {
                    u64::from(part.iter().map(low).sum::<u32>())
                } else {
                    part.iter().map(|&v| u64::from(u32::from(v) * u32::from(v))).sum()
                }
            };
            counts.chunks(1 << 8).map(sum_of).sum()
        }
        _ => samples.iter().map(|s| u64::from(s.to_i32().unsigned_abs().wrapping_pow(2))).sum(),
    }
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
