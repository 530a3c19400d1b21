//! Transposes: of images between transforms, and of frames into the pixel-major stack (the corner turn).
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::ops::Range;

use crate::axes::{Crop, DetShape, Sample};
use crate::kernel::simd::dispatch;

/// `out[c][r] = input[r][c]` for a `rows` × `cols` input, block by block so that both sides stay in the cache.
///
/// # Panics
/// When a slice is not `rows * cols` long.
pub fn transpose<T: Copy>(input: &[T], out: &mut [T], rows: usize, cols: usize) {
    const BLOCK: usize = 16;
    assert!(input.len() == rows * cols && out.len() == rows * cols, "transpose of a wrong size");
    for r0 in (0..rows).step_by(BLOCK) {
        let r1 = (r0 + BLOCK).min(rows);
        for c0 in (0..cols).step_by(BLOCK) {
            let c1 = (c0 + BLOCK).min(cols);
            for c in c0..c1 {
                let line = &mut out[c * rows + r0..c * rows + r1];
                for (slot, r) in line.iter_mut().zip(r0..r1) {
                    *slot = input[r * cols + c];
                }
            }
        }
    }
}

/// Frames as they lie in a file: samples unaligned, in the file's byte order.
#[derive(Debug, Clone, Copy)]
pub struct RawFrames<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Bytes before the first frame's first sample.
    pub offset: usize,
    /// Bytes between the first samples of neighbouring frames.
    pub stride: usize,
    /// Number of frames.
    pub frames: usize,
    /// Detector rows and columns.
    pub det: DetShape,
    /// Whether samples are in the other byte order than this machine's.
    pub swap: bool,
}

impl<'a> RawFrames<'a> {
    /// Bytes of the samples `[first, first + count)` of one frame.
    #[inline(always)]
    fn run<S: Sample>(&self, frame: usize, first: usize, count: usize) -> &'a [u8] {
        let start = self.offset + frame * self.stride + first * size_of::<S>();
        &self.bytes[start..start + count * size_of::<S>()]
    }
}

#[inline(always)]
fn load<S: Sample>(bytes: &[u8], swap: bool) -> S {
    let value: S = bytemuck::pod_read_unaligned(bytes);
    if swap { value.swap_bytes() } else { value }
}

/// What the corner turn found wrong with the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BadSamples {
    /// How many samples of the whole detector were NaN or infinite.
    pub nan: u64,
    /// The first frame of the block that has one.
    pub first_frame: Option<usize>,
}

/// Detector pixels that are gathered side by side: of two-byte samples, a cache line of every frame.
const PIXELS: usize = 32;
/// Frames that are gathered of each.
const FRAMES: usize = 64;

/// The corner turn of one block: crops every frame and writes it pixel by pixel.
///
/// `out` holds the crop's pixels in C order, `line` samples each; frame `f` of the block goes to position
/// `start + f` of every pixel's line. NaN and infinity become zero.
///
/// Runs of 32 detector pixels × 64 frames are gathered in a small buffer first, because writing single samples at a
/// stride of `line` would touch a new cache line for each.
///
/// # Panics
/// When `out` is not `crop pixels * line` long or the frames do not fit in a line.
pub fn turn<S: Sample>(frames: &RawFrames<'_>, crop: Crop, out: &mut [S], line: usize, start: usize) {
    let shape = crop.shape();
    assert_eq!(out.len(), shape.len() * line, "stack block of a wrong size");
    assert!(start + frames.frames <= line, "frames beyond the end of a line");
    dispatch(|| {
        let mut cell = Cell::default();
        for f0 in (0..frames.frames).step_by(FRAMES) {
            let count = FRAMES.min(frames.frames - f0);
            for row in 0..shape.rows {
                for c0 in (0..shape.cols).step_by(PIXELS) {
                    let width = PIXELS.min(shape.cols - c0);
                    let first = (crop.row0 + row) * frames.det.cols + crop.col0 + c0;
                    if size_of::<S>() == 2 {
                        cell.gather_pairs::<S>(frames, f0..f0 + count, first, width);
                    } else {
                        cell.gather::<S>(frames, f0..f0 + count, first, width);
                    }
                    for p in 0..width {
                        let at = (row * shape.cols + c0 + p) * line + start + f0;
                        let samples = &mut cell.line_mut::<S>(p)[..count];
                        if S::DTYPE.is_float() {
                            samples.iter_mut().filter(|s| !s.is_finite()).for_each(|s| *s = S::default());
                        }
                        out[at..at + count].copy_from_slice(samples);
                    }
                }
            }
        }
    });
}

/// A few frames of a few detector pixels, pixel by pixel, for samples of any type.
struct Cell([[u64; FRAMES]; PIXELS]);

impl Default for Cell {
    fn default() -> Self {
        Self([[0; FRAMES]; PIXELS])
    }
}

impl Cell {
    #[inline(always)]
    fn line_mut<S: Sample>(&mut self, pixel: usize) -> &mut [S] {
        bytemuck::cast_slice_mut(&mut self.0[pixel])
    }

    /// Sample by sample.
    #[inline(always)]
    fn gather<S: Sample>(&mut self, frames: &RawFrames<'_>, range: Range<usize>, first: usize, width: usize) {
        for (f, frame) in range.enumerate() {
            let run = frames.run::<S>(frame, first, width);
            for (p, bytes) in run.chunks_exact(size_of::<S>()).enumerate() {
                self.line_mut::<S>(p)[f] = load(bytes, frames.swap);
            }
        }
    }

    /// Samples of two bytes: four frames at a time, two pixels in one number, so that the exchange is done by shifts of
    /// whole registers and every store carries four frames.
    #[inline(always)]
    fn gather_pairs<S: Sample>(&mut self, frames: &RawFrames<'_>, range: Range<usize>, first: usize, width: usize) {
        let end = range.end;
        for (quad, f0) in range.step_by(4).enumerate() {
            let [a, b, c, d]: [Pairs; 4] = std::array::from_fn(|i| {
                // Beyond the last frame anything will do: it is not copied.
                let bytes = frames.run::<S>((f0 + i).min(end - 1), first, width);
                pairs(bytes, frames.swap)
            });
            for i in 0..PIXELS / 2 {
                let even = [(a[i] & 0xFFFF) | (b[i] << 16), (c[i] & 0xFFFF) | (d[i] << 16)];
                let odd = [(a[i] >> 16) | (b[i] & 0xFFFF_0000), (c[i] >> 16) | (d[i] & 0xFFFF_0000)];
                self.0[2 * i][quad] = u64::from(even[0]) | u64::from(even[1]) << 32;
                self.0[2 * i + 1][quad] = u64::from(odd[0]) | u64::from(odd[1]) << 32;
            }
        }
    }
}

/// Two neighbouring pixels in each number, the first in the lower half.
type Pairs = [u32; PIXELS / 2];

#[inline(always)]
fn pairs(bytes: &[u8], swap: bool) -> Pairs {
    let mut run = [0u8; 2 * PIXELS];
    if let Ok(whole) = <&[u8; 2 * PIXELS]>::try_from(bytes) {
        run = *whole;
    } else {
        run[..bytes.len()].copy_from_slice(bytes);
    }
    let mut pairs: Pairs = bytemuck::pod_read_unaligned(&run);
    if swap {
        for pair in &mut pairs {
            *pair = (*pair & 0x00FF_00FF) << 8 | (*pair >> 8) & 0x00FF_00FF;
        }
    }
    pairs
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
        fn a_transpose_is_its_naive_twin(rows in 1usize..50, cols in 1usize..50) {
            let input: Vec<usize> = (0..rows * cols).collect();
            let mut out = vec![0; rows * cols];
            transpose(&input, &mut out, rows, cols);
            for r in 0..rows {
                for c in 0..cols {
                    prop_assert_eq!(out[c * rows + r], input[r * cols + c]);
                }
            }
        }

        #[test]
        fn the_corner_turn_is_its_naive_twin(
            frames in 1usize..150, rows in 1usize..9, cols in 1usize..40, header in 0usize..7, start in 0usize..5,
            swap in any::<bool>(), seed in any::<u16>(),
        ) {
            let det = DetShape::new(rows, cols);
            let value = |f: usize, p: usize| ((f * 131 + p * 7 + seed as usize) % 65_536) as u16;
            let mut bytes = vec![0xAB; 3];
            for f in 0..frames {
                bytes.extend(std::iter::repeat_n(0xCD, header));
                for p in 0..det.len() {
                    let v = if swap { value(f, p).swap_bytes() } else { value(f, p) };
                    bytes.extend(v.to_ne_bytes());
                }
            }
            let raw = RawFrames { bytes: &bytes, offset: 3 + header, stride: header + det.len() * 2, frames, det, swap };
            let crop = Crop { row0: rows / 3, row1: rows, col0: cols / 4, col1: cols };
            let line = frames + start + 2;
            let mut out = vec![9u16; crop.shape().len() * line];
            turn(&raw, crop, &mut out, line, start);
            let mut sums = vec![Sum::default(); det.len()];
            let bad = sum_frames::<u16>(&raw, &mut sums, &mut Vec::new());
            prop_assert_eq!(bad, BadSamples::default());
            for r in crop.row0..crop.row1 {
                for c in crop.col0..crop.col1 {
                    let p = (r - crop.row0) * crop.shape().cols + c - crop.col0;
                    for f in 0..frames {
                        prop_assert_eq!(out[p * line + start + f], value(f, r * cols + c));
                    }
                    prop_assert!(out[p * line..p * line + start].iter().all(|&x| x == 9), "wrote outside");
                }
            }
            for (p, sum) in sums.iter().enumerate() {
                prop_assert_eq!(sum.value(), (0..frames).map(|f| f64::from(value(f, p))).sum::<f64>());
            }
        }
    }

    /// Whatever the type, the samples arrive with the same bits.
    fn turned_as_the_naive_twin<S: Sample>(value: impl Fn(usize, usize) -> S, swap: bool) {
        let (frames, det) = (71, DetShape::new(3, 75));
        let crop = Crop { row0: 1, row1: 3, col0: 2, col1: 71 };
        let of = |f: usize, p: usize| if swap { value(f, p).swap_bytes() } else { value(f, p) };
        let samples: Vec<S> = (0..frames * det.len()).map(|i| of(i / det.len(), i % det.len())).collect();
        let raw = RawFrames {
            bytes: bytemuck::cast_slice(&samples),
            offset: 0,
            stride: det.len() * size_of::<S>(),
            frames,
            det,
            swap,
        };
        let mut out = vec![S::default(); crop.shape().len() * frames];
        turn(&raw, crop, &mut out, frames, 0);
        for (p, line) in out.chunks_exact(frames).enumerate() {
            let pixel = (crop.row0 + p / crop.shape().cols) * det.cols + crop.col0 + p % crop.shape().cols;
            for (f, sample) in line.iter().enumerate() {
                assert!(*sample == value(f, pixel), "{} frame {f} pixel {pixel}", S::DTYPE);
            }
        }
    }

    #[test]
    fn samples_of_every_size_are_turned() {
        for swap in [false, true] {
            turned_as_the_naive_twin(|f, p| (f * 131 + p * 7) as u8, swap);
            turned_as_the_naive_twin(|f, p| (f * 131 + p * 7) as i16, swap);
            turned_as_the_naive_twin(|f, p| (f * 13_100 + p * 7) as u32, swap);
            turned_as_the_naive_twin(|f, p| (f << 40) as u64 + p as u64, swap);
            turned_as_the_naive_twin(|f, p| f as f32 - p as f32 / 3.0, swap);
            turned_as_the_naive_twin(|f, p| f as f64 - p as f64 / 3.0, swap);
        }
    }

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

    #[test]
    fn what_is_not_finite_becomes_zero_and_is_counted() {
        let samples = [1.0f32, f32::NAN, 2.0, f32::INFINITY, f32::NAN, 3.0];
        let raw = RawFrames {
            bytes: bytemuck::cast_slice(&samples),
            offset: 0,
            stride: 8,
            frames: 3,
            det: DetShape::new(1, 2),
            swap: false,
        };
        let mut sums = vec![Sum::default(); 2];
        let bad = sum_frames::<f32>(&raw, &mut sums, &mut Vec::new());
        assert_eq!((bad.nan, bad.first_frame), (3, Some(0)));
        assert_eq!(sums.iter().map(|s| s.value()).collect::<Vec<_>>(), [3.0, 3.0]);
        let mut out = vec![7f32; 6];
        turn(&raw, Crop::full(raw.det), &mut out, 3, 0);
        assert_eq!(out, [1.0, 2.0, 0.0, 0.0, 0.0, 3.0]);
    }
}
