//! The highest and lowest value of correlations in cells, found strip by strip.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use pulp::Simd;

use super::arithmetic::vectors;
use super::cell::{Cell, LANES, Layout};
use crate::axes::ScanShape;
use crate::kernel::peak::Extremes;

/// The best value so far and the place of its row in shifted order.
#[derive(Debug, Clone, Copy)]
struct Best {
    value: f32,
    place: usize,
}

/// Of one part: real or imaginary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    max: Best,
    min: Best,
}

impl Search {
    pub(super) fn new() -> Self {
        let none = |value| Best { value, place: usize::MAX };
        Self { max: none(f32::NEG_INFINITY), min: none(f32::INFINITY) }
    }

    /// Looks at one strip.
    #[inline(always)]
    pub(super) fn strip<S: Simd>(
        &mut self,
        simd: S,
        layout: Layout,
        (index, strip): (usize, &[Cell]),
        part: impl Fn(&Cell) -> &[f32; LANES],
    ) {
        let ScanShape { rows, cols } = layout.shape();
        // Lanes beyond the image's edge mean nothing.
        let width = LANES.min(cols - index * LANES);
        let (mut max, mut min) = ([f32::NEG_INFINITY; LANES], [f32::INFINITY; LANES]);
        for v in 0..LANES / S::F32_LANES {
            let start = vectors::<S>(part(&strip[0]))[v];
            let (mut high, mut low) = (start, start);
            for cell in strip {
                let x = vectors::<S>(part(cell))[v];
                high = simd.max_f32s(high, x);
                low = simd.min_f32s(low, x);
            }
            super::arithmetic::vectors_mut::<S>(&mut max)[v] = high;
            super::arithmetic::vectors_mut::<S>(&mut min)[v] = low;
        }
        let max = max[..width].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let min = min[..width].iter().copied().fold(f32::INFINITY, f32::min);
        if max >= self.max.value {
            self.max = better(self.max, max, max > self.max.value, place(strip, rows, width, max, &part));
        }
        if min <= self.min.value {
            self.min = better(self.min, min, min < self.min.value, place(strip, rows, width, min, &part));
        }
    }

    pub(super) fn found(self, rows: usize) -> Extremes<f32> {
        let unshifted = |best: Best| (best.value, (best.place + rows - rows / 2) % rows);
        Extremes { max: unshifted(self.max), min: unshifted(self.min) }
    }
}

/// Among equal values the first row in shifted order wins.
fn better(old: Best, value: f32, wins: bool, place: usize) -> Best {
    Best { value, place: if wins { place } else { old.place.min(place) } }
}

/// The first place, in shifted order, of the rows in which the value occurs.
#[inline(always)]
fn place(strip: &[Cell], rows: usize, width: usize, value: f32, part: impl Fn(&Cell) -> &[f32; LANES]) -> usize {
    let first = rows - rows / 2;
    let within = |cells: &[Cell]| cells.iter().position(|cell| part(cell)[..width].contains(&value));
    let later = || within(&strip[..first]).map(|row| row + rows / 2);
    within(&strip[first..]).or_else(later).unwrap_or(0)
}
