//! Transposes: of images between transforms, and of frames into the pixel-major stack (the corner turn).
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

mod words;

use std::ops::Range;

use self::words::{Block, Narrow, PIXELS, Same, Words};
use crate::axes::{Crop, DType, DetShape, Sample};
use crate::kernel::simd::dispatch;
pub use crate::kernel::sums::{BadSamples, Sum, add_squares, count_range, square_sum, sum_frames};
use crate::memory::CACHE_LINE;

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

/// Bytes of a detector pixel's image that are gathered before they are written: a cache line.
pub const RUN: usize = CACHE_LINE;
/// Eight-byte words in a run.
const WORDS: usize = RUN / 8;
/// Blocks of [`PIXELS`] whose runs are gathered together: 16 KiB, which stay in the fastest cache.
const BLOCKS: usize = 8;

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
    turn_words::<S, S>(frames, crop, (out, line, start), &mut Same::<S>::new());
}

/// As [`turn`], from integers of the type `source` into ones of fewer bytes without a sign. Returns whether every sample of
/// the crop fits in an `N`; where one does not, what is in `out` means nothing.
///
/// # Panics
/// As [`turn`], and when `N` is not `u8` or `u16`, or `source` is not a larger integer.
pub fn turn_narrow<N: Sample>(
    frames: &RawFrames<'_>,
    source: DType,
    crop: Crop,
    (out, line, start): (&mut [N], usize, usize),
) -> bool {
    assert!(!source.is_float() && source.size() > size_of::<N>(), "{source} is not narrowed to {}", N::DTYPE);
    match N::DTYPE {
        DType::U8 => narrow_to::<u8>(frames, source, crop, (bytemuck::cast_slice_mut(out), line, start)),
        DType::U16 => narrow_to::<u16>(frames, source, crop, (bytemuck::cast_slice_mut(out), line, start)),
        other => panic!("counts are not narrowed to {other}"),
    }
}

/// A negative number has bits set where no small count has: the types without a sign do for all.
fn narrow_to<N: Sample>(frames: &RawFrames<'_>, source: DType, crop: Crop, out: (&mut [N], usize, usize)) -> bool {
    fn narrow<S: Sample, N: Sample>(frames: &RawFrames<'_>, crop: Crop, out: (&mut [N], usize, usize)) -> bool {
        let mut words = Narrow::<S, N>::new();
        turn_words::<S, N>(frames, crop, out, &mut words);
        words.all_fit()
    }
    match source.size() {
        2 => narrow::<u16, N>(frames, crop, out),
        4 => narrow::<u32, N>(frames, crop, out),
        _ => narrow::<u64, N>(frames, crop, out),
    }
}

/// From samples `S` to samples `N`, which `words` makes of them.
fn turn_words<S: Sample, N: Sample>(
    frames: &RawFrames<'_>,
    crop: Crop,
    (out, line, start): (&mut [N], usize, usize),
    words: &mut impl Words,
) {
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
                    for f0 in (0..frames.frames).step_by(RUN / size_of::<N>()) {
                        let range = f0..(f0 + RUN / size_of::<N>()).min(frames.frames);
                        gather::<S, N>(frames, crop, &range, (&rows, &cols), words, &mut cell);
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
fn gather<S: Sample, N: Sample>(
    frames: &RawFrames<'_>,
    crop: Crop,
    range: &Range<usize>,
    (rows, cols): (&Range<usize>, &Range<usize>),
    words: &mut impl Words,
    cell: &mut [[Block; BLOCKS]; WORDS],
) {
    let in_word = 8 / size_of::<N>();
    for (cell, f0) in cell.iter_mut().zip(range.clone().step_by(in_word)) {
        let mut blocks = cell.iter_mut();
        for row in rows.clone() {
            let first = (crop.row0 + row) * frames.det.cols + crop.col0;
            for col in cols.clone().step_by(PIXELS) {
                let pixels = PIXELS.min(cols.end - col);
                // Beyond the last frame anything will do: it is not copied.
                let run = |i: usize| frames.run::<S>((f0 + i).min(range.end - 1), first + col, pixels);
                if let Some(block) = blocks.next() {
                    words.put_together(run, frames.swap, block);
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the promise is equality to the last bit")]
mod tests {
    use super::*;
    use crate::axes::CountRange;
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

    /// Turns counts into `N`, the naive way and ours.
    fn narrowed_as_the_naive_twin<S: Sample, N: Sample + TryFrom<S>>(
        value: &dyn Fn(usize) -> S,
        (frames, rows, cols): (usize, usize, usize),
        (start, swap): (usize, bool),
    ) {
        let det = DetShape::new(rows, cols);
        let of = |i: usize| if swap { value(i).swap_bytes() } else { value(i) };
        let samples: Vec<S> = (0..frames * det.len()).map(of).collect();
        // Not where a number of this type would lie.
        let mut bytes = vec![0xAB; 3];
        bytes.extend_from_slice(bytemuck::cast_slice(&samples));
        let raw = RawFrames { bytes: &bytes, offset: 3, stride: det.len() * size_of::<S>(), frames, det, swap };
        let crop = Crop { row0: rows / 3, row1: rows, col0: cols / 4, col1: cols };
        let line = start + frames + 1;
        let mut out = vec![N::default(); crop.shape().len() * line];
        let fit = turn_narrow::<N>(&raw, S::DTYPE, crop, (&mut out, line, start));
        let mut all = true;
        for (p, line) in out.chunks_exact(line).enumerate() {
            let pixel = (crop.row0 + p / crop.shape().cols) * cols + crop.col0 + p % crop.shape().cols;
            for f in 0..frames {
                match N::try_from(value(f * det.len() + pixel)) {
                    Ok(count) => assert!(!fit || line[start + f] == count, "frame {f}, pixel {pixel}"),
                    Err(_) => all = false,
                }
            }
            let outside = line[..start].iter().chain(&line[start + frames..]);
            assert!(outside.into_iter().all(|n| *n == N::default()), "wrote outside");
        }
        assert_eq!(fit, all, "{} to {}", S::DTYPE, N::DTYPE);
    }

    proptest! {
        #[test]
        fn counts_in_fewer_bits_are_the_same_and_one_that_does_not_fit_is_found_wherever_it_is(
            shape in (1usize..150, 1usize..9, 1usize..75), place in (0usize..5, any::<bool>()), seed in any::<u32>(),
            odd in prop::option::of((any::<prop::sample::Index>(), any::<i32>())),
        ) {
            let len = shape.0 * shape.1 * shape.2;
            let odd = odd.map(|(index, value)| (index.index(len), value));
            let small = |i: usize, most: u32| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7 & most;
            macro_rules! twin {
                ($S:ty, $N:ty) => {
                    let of = |i: usize| match odd {
                        Some((at, value)) if at == i => value as $S,
                        _ => small(i, u32::from(<$N>::MAX)) as $S,
                    };
                    narrowed_as_the_naive_twin::<$S, $N>(&of, shape, place);
                };
            }
            twin!(u16, u8);
            twin!(i16, u8);
            twin!(u32, u8);
            twin!(u32, u16);
            twin!(i32, u16);
            twin!(u64, u8);
            twin!(i64, u16);
        }
    }

    #[test]
    fn the_range_of_counts_is_that_of_all_samples_and_floats_have_none() {
        let samples: Vec<i16> = (0..600).map(|i| (i * 37 % 101) as i16 - 20).collect();
        for swap in [false, true] {
            let stored: Vec<i16> = samples.iter().map(|s| if swap { s.swap_bytes() } else { *s }).collect();
            let det = DetShape::new(4, 5);
            let raw = RawFrames { bytes: bytemuck::cast_slice(&stored), offset: 0, stride: 40, frames: 30, det, swap };
            let (least, most) = (*samples.iter().min().expect("some"), *samples.iter().max().expect("some"));
            assert_eq!(count_range::<i16>(&raw), Some(CountRange { least: least.into(), most: most.into() }));
            assert_eq!(count_range::<f32>(&RawFrames { frames: 15, ..raw }), None);
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
