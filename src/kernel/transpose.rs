//! Transposes: of images between transforms, and of frames into the pixel-major stack (the corner turn).
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::ops::Range;

use crate::axes::{Crop, DetShape, Sample};
use crate::kernel::simd::dispatch;
pub use crate::kernel::sums::{BadSamples, Sum, square_sum, sum_frames};

/// `out[c][r] = input[r][c]` for a `rows` × `cols` input, block by block so that both sides stay in the cache: a cache line wide,
/// for lines whose distance is a power of two compete for the same few places.
///
/// # Panics
/// When a slice is not `rows * cols` long.
pub fn transpose<T: Copy>(input: &[T], out: &mut [T], rows: usize, cols: usize) {
    assert!(input.len() == rows * cols && out.len() == rows * cols, "transpose of a wrong size");
    let block = (64 / size_of::<T>().max(1)).clamp(4, 16);
    for r0 in (0..rows).step_by(block) {
        let r1 = (r0 + block).min(rows);
        for c0 in (0..cols).step_by(block) {
            let c1 = (c0 + block).min(cols);
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
    pub(super) fn run<S: Sample>(&self, frame: usize, first: usize, count: usize) -> &'a [u8] {
        let start = self.offset + frame * self.stride + first * size_of::<S>();
        &self.bytes[start..start + count * size_of::<S>()]
    }
}

#[inline(always)]
pub(super) fn load<S: Sample>(bytes: &[u8], swap: bool) -> S {
    let value: S = bytemuck::pod_read_unaligned(bytes);
    if swap { value.swap_bytes() } else { value }
}

/// Detector pixels of two bytes that are turned together in registers.
const PIXELS: usize = 32;
/// Frames that are gathered of each pixel.
const FRAMES: usize = 32;
/// Eight-byte words of the buffer in which they are gathered: it stays in the fastest cache.
const CELL_WORDS: usize = 2048;

/// The corner turn of one block: crops every frame and writes it pixel by pixel.
///
/// `out` holds the crop's pixels in C order, `line` samples each; frame `f` of the block goes to position
/// `start + f` of every pixel's line. NaN and infinity become zero.
///
/// A band of detector rows of 32 frames is gathered in a small buffer first: written straight to `out`, every sample would
/// touch a cache line of its own. The band is as high as the buffer allows, because frames lie kilobytes apart, and only
/// what is read in one piece is fetched ahead by the processor.
///
/// # Panics
/// When `out` is not `crop pixels * line` long or the frames do not fit in a line.
pub fn turn<S: Sample>(frames: &RawFrames<'_>, crop: Crop, out: &mut [S], line: usize, start: usize) {
    let shape = crop.shape();
    assert_eq!(out.len(), shape.len() * line, "stack block of a wrong size");
    assert!(start + frames.frames <= line, "frames beyond the end of a line");
    let mut words = [0u64; CELL_WORDS];
    dispatch(|| {
        let cell: &mut [S] = bytemuck::cast_slice_mut(&mut words);
        let most = cell.len() / FRAMES;
        let (width, height) = (most.min(shape.cols), (most / shape.cols).clamp(1, shape.rows));
        for f0 in (0..frames.frames).step_by(FRAMES) {
            let range = f0..(f0 + FRAMES).min(frames.frames);
            for row0 in (0..shape.rows).step_by(height) {
                for c0 in (0..shape.cols).step_by(width) {
                    let rows = row0..(row0 + height).min(shape.rows);
                    let cols = c0..(c0 + width).min(shape.cols);
                    if size_of::<S>() == 2 {
                        gather_pairs(frames, crop, &range, (&rows, &cols), cell);
                    } else {
                        gather(frames, crop, &range, (&rows, &cols), cell);
                    }
                    let pixels = rows.flat_map(|row| cols.clone().map(move |col| row * shape.cols + col));
                    for (pixel, samples) in pixels.zip(cell.chunks_exact_mut(FRAMES)) {
                        let samples = &mut samples[..range.len()];
                        if S::DTYPE.is_float() {
                            samples.iter_mut().filter(|s| !s.is_finite()).for_each(|s| *s = S::default());
                        }
                        let at = pixel * line + start + f0;
                        out[at..at + range.len()].copy_from_slice(samples);
                    }
                }
            }
        }
    });
}

/// Gathers a band pixel by pixel, [`FRAMES`] places each: sample by sample.
#[inline(always)]
fn gather<S: Sample>(
    frames: &RawFrames<'_>,
    crop: Crop,
    range: &Range<usize>,
    (rows, cols): (&Range<usize>, &Range<usize>),
    cell: &mut [S],
) {
    let width = cols.len();
    for (f, frame) in range.clone().enumerate() {
        for (band, row) in cell.chunks_exact_mut(width * FRAMES).zip(rows.clone()) {
            let first = (crop.row0 + row) * frames.det.cols + crop.col0 + cols.start;
            let run = frames.run::<S>(frame, first, width).chunks_exact(size_of::<S>());
            for (samples, bytes) in band.chunks_exact_mut(FRAMES).zip(run) {
                samples[f] = load(bytes, frames.swap);
            }
        }
    }
}

/// As [`gather`] for samples of two bytes: four frames at a time, two pixels in one number, so that the exchange is done
/// by shifts of whole registers and every store carries four frames.
#[inline(always)]
fn gather_pairs<S: Sample>(
    frames: &RawFrames<'_>,
    crop: Crop,
    range: &Range<usize>,
    (rows, cols): (&Range<usize>, &Range<usize>),
    cell: &mut [S],
) {
    const WORDS: usize = FRAMES / 4;
    let cell: &mut [u64] = bytemuck::cast_slice_mut(cell);
    let width = cols.len();
    for (word, f0) in range.clone().step_by(4).enumerate() {
        for (band, row) in cell.chunks_exact_mut(width * WORDS).zip(rows.clone()) {
            let row_start = (crop.row0 + row) * frames.det.cols + crop.col0 + cols.start;
            for (c0, part) in band.chunks_mut(PIXELS * WORDS).enumerate() {
                let pixels = part.len() / WORDS;
                let [a, b, c, d]: [Pairs; 4] = std::array::from_fn(|i| {
                    // Beyond the last frame anything will do: it is not copied.
                    let frame = (f0 + i).min(range.end - 1);
                    pairs(frames.run::<S>(frame, row_start + c0 * PIXELS, pixels), frames.swap)
                });
                for (i, two) in part.chunks_mut(2 * WORDS).enumerate() {
                    let even = [(a[i] & 0xFFFF) | (b[i] << 16), (c[i] & 0xFFFF) | (d[i] << 16)];
                    two[word] = u64::from(even[0]) | u64::from(even[1]) << 32;
                    if let Some(second) = two.get_mut(WORDS + word) {
                        let odd = [(a[i] >> 16) | (b[i] & 0xFFFF_0000), (c[i] >> 16) | (d[i] & 0xFFFF_0000)];
                        *second = u64::from(odd[0]) | u64::from(odd[1]) << 32;
                    }
                }
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
