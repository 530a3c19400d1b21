//! Transforms of 16 lines side by side, in place.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::f64::consts::TAU;

use pulp::Simd;

use super::arithmetic::{Z, dft, multiply, vectors, vectors_mut};
use super::cell::{Cell, LANES};

/// A planned transform of lines of one length.
///
/// Each stage cuts its blocks into `radix` parts, transforms across the parts and turns the results (decimation in
/// frequency); the way back goes through the stages in the opposite order and undoes them. So what the forward transform
/// leaves at place `p` is the number of frequency [`frequency(p)`](Self::frequency).
#[derive(Debug, Clone)]
pub(super) struct Line {
    stages: Vec<Stage>,
}

#[derive(Debug, Clone)]
struct Stage {
    radix: usize,
    /// Cells of a part.
    part: usize,
    /// `exp(-2πi j k / (radix part))` for each cell `j` of a part, for `k` from 1 on.
    turns: Vec<[f32; 2]>,
}

/// The stages for a length, `None` where it is not a product of 2, 3 and 5. The last ones turn least, so they are the
/// largest.
fn radices(len: usize) -> Option<Vec<usize>> {
    let mut rest = len;
    let mut found = Vec::new();
    for radix in [5, 3] {
        while rest > 0 && rest.is_multiple_of(radix) {
            found.push(radix);
            rest /= radix;
        }
    }
    if !rest.is_power_of_two() {
        return None;
    }
    let bits = rest.trailing_zeros() as usize;
    // Eights as far as they go; the bits that are left by fours, or by a two where there is no other way.
    let (small, eights): (&[usize], usize) = match (bits % 3, bits / 3) {
        (1, 0) => (&[2], 0),
        (1, eights) => (&[4, 4], eights - 1),
        (2, eights) => (&[4], eights),
        (_, eights) => (&[], eights),
    };
    found.extend(small);
    found.extend(std::iter::repeat_n(8, eights));
    Some(found)
}

impl Line {
    /// Plans lines of this length; `None` where it is not a product of 2, 3 and 5.
    pub(super) fn new(len: usize) -> Option<Self> {
        let mut block = len;
        let mut stages = Vec::new();
        for radix in radices(len)? {
            let part = block / radix;
            let turn = |j: usize, k: usize| -> [f32; 2] {
                let (sin, cos) = (-TAU * (j * k % block) as f64 / block as f64).sin_cos();
                [cos as f32, sin as f32]
            };
            let turns = (0..part).flat_map(|j| (1..radix).map(move |k| turn(j, k))).collect();
            stages.push(Stage { radix, part, turns });
            block = part;
        }
        Some(Self { stages })
    }

    /// The frequency whose number lies at this place after the forward transform.
    pub(super) fn frequency(&self, place: usize) -> usize {
        let (mut place, mut frequency, mut weight) = (place, 0, 1);
        for stage in &self.stages {
            frequency += place / stage.part * weight;
            place %= stage.part;
            weight *= stage.radix;
        }
        frequency
    }

    /// `exp(-2πi …)`, without a factor; cell `j` of `line` holds element `j` of 16 lines.
    #[inline(always)]
    pub(super) fn forward<S: Simd>(&self, simd: S, line: &mut [Cell]) {
        for stage in &self.stages {
            stage.run::<S, false>(simd, line);
        }
    }

    /// From the order of [`forward`](Self::forward) back, without a factor.
    #[inline(always)]
    pub(super) fn inverse<S: Simd>(&self, simd: S, line: &mut [Cell]) {
        for stage in self.stages.iter().rev() {
            stage.run::<S, true>(simd, line);
        }
    }
}

impl Stage {
    #[inline(always)]
    fn run<S: Simd, const BACK: bool>(&self, simd: S, line: &mut [Cell]) {
        match self.radix {
            2 => self.blocks::<S, 2, BACK>(simd, line),
            3 => self.blocks::<S, 3, BACK>(simd, line),
            4 => self.blocks::<S, 4, BACK>(simd, line),
            5 => self.blocks::<S, 5, BACK>(simd, line),
            _ => self.blocks::<S, 8, BACK>(simd, line),
        }
    }

    #[inline(always)]
    fn blocks<S: Simd, const R: usize, const BACK: bool>(&self, simd: S, line: &mut [Cell]) {
        if self.part == 1 {
            let none = [[0.0; 2]; R];
            for block in line.chunks_exact_mut(R) {
                if let Ok(cells) = <&mut [Cell; R]>::try_from(block) {
                    butterfly::<S, R, BACK, false>(simd, cells.each_mut(), &none);
                }
            }
            return;
        }
        for block in line.chunks_exact_mut(R * self.part) {
            let mut rest = block;
            let mut parts: [&mut [Cell]; R] = std::array::from_fn(|_| {
                let (part, others) = std::mem::take(&mut rest).split_at_mut(self.part);
                rest = others;
                part
            });
            for (j, turns) in self.turns.chunks_exact(R - 1).enumerate().take(self.part) {
                let mut turn = [[0.0; 2]; R];
                turn[1..].copy_from_slice(turns);
                butterfly::<S, R, BACK, true>(simd, parts.each_mut().map(|part| &mut part[j]), &turn);
            }
        }
    }
}

/// Transforms across `R` cells and turns the results by `turn` (on the way back: turns first, the other way round).
#[inline(always)]
fn butterfly<S: Simd, const R: usize, const BACK: bool, const TURNED: bool>(
    simd: S,
    mut cells: [&mut Cell; R],
    turn: &[[f32; 2]; R],
) {
    let by = |k: usize, sign: f32| (simd.splat_f32s(turn[k][0]), simd.splat_f32s(sign * turn[k][1]));
    for v in 0..LANES / S::F32_LANES {
        let mut x: [Z<S>; R] = std::array::from_fn(|k| (vectors::<S>(&cells[k].re)[v], vectors::<S>(&cells[k].im)[v]));
        if BACK && TURNED {
            for (k, x) in x.iter_mut().enumerate().skip(1) {
                *x = multiply(simd, *x, by(k, -1.0));
            }
        }
        let mut y = dft::<S, R, BACK>(simd, x);
        if !BACK && TURNED {
            for (k, y) in y.iter_mut().enumerate().skip(1) {
                *y = multiply(simd, *y, by(k, 1.0));
            }
        }
        for (cell, y) in cells.iter_mut().zip(y) {
            vectors_mut::<S>(&mut cell.re)[v] = y.0;
            vectors_mut::<S>(&mut cell.im)[v] = y.1;
        }
    }
}
