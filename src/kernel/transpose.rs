//! Transposes: of images between transforms, and of frames into the pixel-major stack (the corner turn).
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::ops::Range;

use crate::axes::{Crop, DetShape, Sample};
use crate::kernel::simd::dispatch;
pub use crate::kernel::sums::{BadSamples, Sum, add_squares, square_sum, sum_frames};

/// `out[c][r] = input[r][c]` for a `rows` × `cols` input, block by block so that both sides stay in the cache: a cache line wide,
/// for lines whose distance is a power of two compete for the same few places.
///
/// # Panics
/// When a slice is not `rows * cols` long.
pub fn transpose<T: Copy>(input: &[T], out: &mut [T], rows: usize, cols: usize) {
    assert!(out.len() == rows * cols, "transpose of a wrong size");
    transpose_band(input, out, (rows, cols), 0);
}

/// As [`transpose`], only some lines of `out`: those of the input's columns from `first` on, as many as `out` holds.
///
/// # Panics
/// When a slice has a wrong length.
pub fn transpose_band<T: Copy>(input: &[T], out: &mut [T], (rows, cols): (usize, usize), first: usize) {
    let width = out.len().checked_div(rows).unwrap_or(0);
    assert!(input.len() == rows * cols && out.len() == rows * width, "transpose of a wrong size");
    assert!(first + width <= cols, "transpose of columns that do not exist");
    let block = (64 / size_of::<T>().max(1)).clamp(4, 16);
    for r0 in (0..rows).step_by(block) {
        let r1 = (r0 + block).min(rows);
        for c0 in (0..width).step_by(block) {
            let c1 = (c0 + block).min(width);
            for c in c0..c1 {
                let line = &mut out[c * rows + r0..c * rows + r1];
                for (slot, r) in line.iter_mut().zip(r0..r1) {
                    *slot = input[r * cols + first + c];
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
    /// Some of the frames, and of each only some detector rows, `sample` bytes to a sample.
    #[must_use]
    pub fn part(&self, frames: Range<usize>, rows: Range<usize>, sample: usize) -> Self {
        let offset = self.offset + frames.start * self.stride + rows.start * self.det.cols * sample;
        Self { offset, frames: frames.len(), det: DetShape::new(rows.len(), self.det.cols), ..*self }
    }

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

/// Detector pixels that are turned together in registers.
const PIXELS: usize = 32;
/// Bytes of a detector pixel's image that are gathered before they are written: a cache line.
pub const RUN: usize = 64;
/// Eight-byte words in a run.
const WORDS: usize = RUN / 8;
/// Blocks of [`PIXELS`] whose runs are gathered together: 16 KiB, which stay in the fastest cache.
const BLOCKS: usize = 8;

/// One word of each pixel of a block: a few neighbouring frames.
type Block = [u64; PIXELS];

/// The corner turn of one block: crops every frame and writes it pixel by pixel.
///
/// `out` holds the crop's pixels in C order, `line` samples each; frame `f` of the block goes to position
/// `start + f` of every pixel's line. NaN and infinity become zero.
///
/// A band of detector rows of as many frames as fill a cache line is gathered in a small buffer first: written straight to
/// `out`, every sample would touch a line of its own. Neighbouring frames of a pixel are put together to words of eight
/// bytes by arithmetic on whole registers, so that the exchange proper moves words and not samples. All frames
/// go through one band before the next, so that the band's lines in `out` stay in the cache until they are full.
///
/// # Panics
/// When `out` is not `crop pixels * line` long or the frames do not fit in a line.
pub fn turn<S: Sample>(frames: &RawFrames<'_>, crop: Crop, out: &mut [S], line: usize, start: usize) {
    let shape = crop.shape();
    assert_eq!(out.len(), shape.len() * line, "stack block of a wrong size");
    assert!(start + frames.frames <= line, "frames beyond the end of a line");
    let mut cell: [[Block; BLOCKS]; WORDS] = [[[0; PIXELS]; BLOCKS]; WORDS];
    dispatch(
        #[inline(always)]
        || {
            let width = shape.cols.clamp(1, BLOCKS * PIXELS);
            let height = BLOCKS / width.div_ceil(PIXELS);
            for row0 in (0..shape.rows).step_by(height) {
                for c0 in (0..shape.cols).step_by(width) {
                    let rows = row0..(row0 + height).min(shape.rows);
                    let cols = c0..(c0 + width).min(shape.cols);
                    for f0 in (0..frames.frames).step_by(RUN / size_of::<S>()) {
                        let range = f0..(f0 + RUN / size_of::<S>()).min(frames.frames);
                        gather::<S>(frames, crop, &range, (&rows, &cols), &mut cell);
                        for (row, blocks) in rows.clone().zip((0..BLOCKS).step_by(cols.len().div_ceil(PIXELS))) {
                            for (i, col) in cols.clone().enumerate() {
                                let at = (row * shape.cols + col) * line + start + f0;
                                let to: &mut [u8] = bytemuck::cast_slice_mut(&mut out[at..at + range.len()]);
                                let run = |word: usize| cell[word][blocks + i / PIXELS][i % PIXELS].to_le_bytes();
                                if to.len() == RUN {
                                    for word in 0..WORDS {
                                        to[word * 8..word * 8 + 8].copy_from_slice(&run(word));
                                    }
                                } else {
                                    to.chunks_mut(8).enumerate().for_each(|(i, part)| {
                                        part.copy_from_slice(&run(i)[..part.len()]);
                                    });
                                }
                            }
                        }
                    }
                }
            }
        },
    );
}

/// Gathers a band: `cell[word][block]` for each row of the band its blocks, one after the other.
#[inline(always)]
fn gather<S: Sample>(
    frames: &RawFrames<'_>,
    crop: Crop,
    range: &Range<usize>,
    (rows, cols): (&Range<usize>, &Range<usize>),
    cell: &mut [[Block; BLOCKS]; WORDS],
) {
    let in_word = 8 / size_of::<S>();
    for (cell, f0) in cell.iter_mut().zip(range.clone().step_by(in_word)) {
        let mut blocks = cell.iter_mut();
        for row in rows.clone() {
            let first = (crop.row0 + row) * frames.det.cols + crop.col0;
            for col in cols.clone().step_by(PIXELS) {
                let pixels = PIXELS.min(cols.end - col);
                // Beyond the last frame anything will do: it is not copied.
                let run = |i: usize| frames.run::<S>((f0 + i).min(range.end - 1), first + col, pixels);
                if let Some(block) = blocks.next() {
                    words::<S>(run, frames.swap, block);
                }
            }
        }
    }
}

/// The samples of a few neighbouring frames put together to one number for each pixel, the first frame lowest. `run(i)` are
/// the bytes of frame `i`.
#[inline(always)]
fn words<'a, S: Sample>(run: impl Fn(usize) -> &'a [u8], swap: bool, out: &mut Block) {
    match size_of::<S>() {
        1 => {
            let four = |first: usize| -> [u32; PIXELS] {
                let rows: [[u8; PIXELS]; 4] = std::array::from_fn(|i| padded(run(first + i)));
                std::array::from_fn(|p| {
                    let byte = |i: usize| u32::from(rows[i][p]) << (8 * i);
                    byte(0) | byte(1) | byte(2) | byte(3)
                })
            };
            let (low, high) = (four(0), four(4));
            for (word, (low, high)) in out.iter_mut().zip(low.iter().zip(&high)) {
                *word = u64::from(*low) | u64::from(*high) << 32;
            }
        }
        2 => {
            words_of_pairs([pairs(run(0), swap), pairs(run(1), swap), pairs(run(2), swap), pairs(run(3), swap)], out);
        }
        4 => {
            let [a, b]: [[u32; PIXELS]; 2] = std::array::from_fn(|i| {
                let row: [u32; PIXELS] = padded(run(i));
                row.map(|bits| {
                    let bits = if swap { bits.swap_bytes() } else { bits };
                    let all_ones = bits & 0x7F80_0000 == 0x7F80_0000;
                    if S::DTYPE.is_float() && all_ones { 0 } else { bits }
                })
            });
            for (word, (a, b)) in out.iter_mut().zip(a.iter().zip(&b)) {
                *word = u64::from(*a) | u64::from(*b) << 32;
            }
        }
        _ => {
            let row: [u64; PIXELS] = padded(run(0));
            for (word, bits) in out.iter_mut().zip(row) {
                let bits = if swap { bits.swap_bytes() } else { bits };
                let all_ones = bits & 0x7FF0_0000_0000_0000 == 0x7FF0_0000_0000_0000;
                *word = if S::DTYPE.is_float() && all_ones { 0 } else { bits };
            }
        }
    }
}

/// Samples of two bytes, two neighbouring pixels in each number, the first in the lower half.
#[inline(always)]
fn pairs(bytes: &[u8], swap: bool) -> [u32; PIXELS / 2] {
    let pairs: [u32; PIXELS / 2] = padded(bytes);
    if swap { pairs.map(|p| (p & 0x00FF_00FF) << 8 | (p >> 8) & 0x00FF_00FF) } else { pairs }
}

/// The words of samples of two bytes in four frames, two neighbouring pixels in each number.
#[inline(always)]
fn words_of_pairs([a, b, c, d]: [[u32; PIXELS / 2]; 4], out: &mut Block) {
    for (i, two) in out.chunks_exact_mut(2).enumerate() {
        let even = [(a[i] & 0xFFFF) | (b[i] << 16), (c[i] & 0xFFFF) | (d[i] << 16)];
        let odd = [(a[i] >> 16) | (b[i] & 0xFFFF_0000), (c[i] >> 16) | (d[i] & 0xFFFF_0000)];
        two[0] = u64::from(even[0]) | u64::from(even[1]) << 32;
        two[1] = u64::from(odd[0]) | u64::from(odd[1]) << 32;
    }
}

/// A run of bytes as numbers; zeros where it is too short.
#[inline(always)]
fn padded<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> T {
    if bytes.len() == size_of::<T>() {
        return bytemuck::pod_read_unaligned(bytes);
    }
    let mut whole = [0u8; 8 * PIXELS];
    whole[..bytes.len()].copy_from_slice(bytes);
    bytemuck::pod_read_unaligned(&whole[..size_of::<T>()])
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
