//! Samples of a few neighbouring frames put together to words of eight bytes, as they are or in fewer bits.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::marker::PhantomData;

use crate::axes::Sample;

/// Detector pixels that are turned together in registers.
pub(super) const PIXELS: usize = 32;

/// One word of each pixel of a block: a few neighbouring frames.
pub(super) type Block = [u64; PIXELS];

/// How samples of neighbouring frames are put together to words.
pub(super) trait Words {
    /// One number for each pixel, the first frame lowest. `run(i)` are the bytes of frame `i`.
    fn put_together<'a>(&mut self, run: impl Fn(usize) -> &'a [u8], swap: bool, out: &mut Block);
}

/// Samples as they are.
pub(super) struct Same<S>(PhantomData<S>);

impl<S> Same<S> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S: Sample> Words for Same<S> {
    #[inline(always)]
    fn put_together<'a>(&mut self, run: impl Fn(usize) -> &'a [u8], swap: bool, out: &mut Block) {
        match size_of::<S>() {
            1 => {
                let four = |first: usize| -> [u32; PIXELS] {
                    let rows: [[u8; PIXELS]; 4] = std::array::from_fn(|i| padded(run(first + i)));
                    std::array::from_fn(|p| {
                        let byte = |i: usize| u32::from(rows[i][p]) << (8 * i);
                        byte(0) | byte(1) | byte(2) | byte(3)
                    })
                };
                words_of_halves(&four(0), &four(4), out);
            }
            2 => words_of_pairs(
                [pairs(run(0), swap), pairs(run(1), swap), pairs(run(2), swap), pairs(run(3), swap)],
                out,
            ),
            4 => {
                let [a, b]: [[u32; PIXELS]; 2] = std::array::from_fn(|i| {
                    let row: [u32; PIXELS] = padded(run(i));
                    row.map(|bits| {
                        let bits = if swap { bits.swap_bytes() } else { bits };
                        let all_ones = bits & 0x7F80_0000 == 0x7F80_0000;
                        if S::DTYPE.is_float() && all_ones { 0 } else { bits }
                    })
                });
                words_of_halves(&a, &b, out);
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
}

/// Samples `S` in the lower bytes that make up an `N`. What the others hold is not looked at one by one, but remembered: a
/// count that does not fit, and a negative one, leaves a bit there.
pub(super) struct Narrow<S, N> {
    seen: Seen,
    types: PhantomData<(S, N)>,
}

impl<S, N> Narrow<S, N> {
    pub(super) fn new() -> Self {
        Self { seen: Seen::default(), types: PhantomData }
    }

    /// Whether every sample was an `N`.
    pub(super) fn all_fit(&self) -> bool {
        self.seen.all() >> (8 * size_of::<N>()) == 0
    }
}

/// All bits that were ever set, in the lanes in which they came.
#[derive(Debug, Default)]
struct Seen {
    pairs: [u32; PIXELS / 2],
    halves: [u32; PIXELS],
    words: [u64; PIXELS],
}

impl Seen {
    fn all(&self) -> u64 {
        let pairs = self.pairs.iter().fold(0, |all, p| all | (p & 0xFFFF) | p >> 16);
        let halves = self.halves.iter().fold(0, |all, h| all | h);
        self.words.iter().fold(u64::from(pairs | halves), |all, w| all | w)
    }
}

impl<S: Sample, N: Sample> Words for Narrow<S, N> {
    #[inline(always)]
    fn put_together<'a>(&mut self, run: impl Fn(usize) -> &'a [u8], swap: bool, out: &mut Block) {
        let (bits, in_word) = (8 * size_of::<N>(), 8 / size_of::<N>());
        match size_of::<S>() {
            2 => {
                // Two frames become one of pairs of bytes, in the type that the samples had.
                let mut two = [[0; PIXELS / 2]; 4];
                for (i, two) in two.iter_mut().enumerate() {
                    let (a, b) = (pairs(run(2 * i), swap), pairs(run(2 * i + 1), swap));
                    for p in 0..PIXELS / 2 {
                        self.seen.pairs[p] |= a[p] | b[p];
                        two[p] = a[p] | b[p] << 8;
                    }
                }
                words_of_pairs(two, out);
            }
            4 => {
                let mut halves = [[0u32; PIXELS]; 2];
                for i in 0..in_word {
                    let row: [u32; PIXELS] = padded(run(i));
                    let (half, shift) = (&mut halves[i * 2 / in_word], bits * i % 32);
                    for p in 0..PIXELS {
                        let value = if swap { row[p].swap_bytes() } else { row[p] };
                        self.seen.halves[p] |= value;
                        half[p] |= value << shift;
                    }
                }
                words_of_halves(&halves[0], &halves[1], out);
            }
            _ => {
                out.fill(0);
                for i in 0..in_word {
                    let row: [u64; PIXELS] = padded(run(i));
                    for p in 0..PIXELS {
                        let value = if swap { row[p].swap_bytes() } else { row[p] };
                        self.seen.words[p] |= value;
                        out[p] |= value << (bits * i);
                    }
                }
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

#[inline(always)]
fn words_of_halves(low: &[u32; PIXELS], high: &[u32; PIXELS], out: &mut Block) {
    for (word, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *word = u64::from(*low) | u64::from(*high) << 32;
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
