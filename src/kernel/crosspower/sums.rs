//! Sums over the runs of one colour: the hot loops of [`crosspower`](super).
//!
//! For each frequency there are two look-ups and one loop over the data. [`Phases`] has the factors `exp(i w·k)` as
//! products of a row's and a column's; [`Cuts`] says where the displaced apertures cut each run. Both are made for all rows
//! at once, without branches, because a run has only a few blocks of lanes and would wait for them otherwise. For the same
//! reason nothing is summed across lanes before the last row, and what a side does not have is masked instead of being cut
//! off. The order of the sums is the same on every processor.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use num_complex::Complex;

use super::lattice::{Columns, LANES, Phases};
use super::{Half, HalfSets, Run, Weights};

/// Sums over one colour and one side: `Σ F e^{iΦ}`, and the same weighted with the pixel's row and column.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) plain: Complex<f64>,
    pub(super) row: Complex<f64>,
    pub(super) col: Complex<f64>,
}

/// The pixels `k` with `q-k` in the aperture, and those with `q+k`; the shift kernel has only the first side, and all pixels in
/// it.
pub(super) const SIDES: usize = 2;

/// How many pixels the sides have, and how many both.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) sides: [usize; SIDES],
    pub(super) both: usize,
}

/// Where the displaced apertures cut the runs of one colour at one frequency, `[first, end)` each: `q-k` inside, and
/// `q+k` inside.
#[derive(Default)]
pub(super) struct Cuts {
    minus: [Vec<u32>; 2],
    plus: [Vec<u32>; 2],
}

impl Cuts {
    /// Buffers for either colour of a set.
    pub(super) fn for_sets(sets: &HalfSets) -> Self {
        let count = sets.halves.iter().map(|half| half.runs.len()).max().unwrap_or(0);
        let pair = || [vec![0; count], vec![0; count]];
        Self { minus: pair(), plus: pair() }
    }

    /// Looks the cuts up; nothing to look up for the shift kernel.
    #[inline(always)]
    pub(super) fn fill(&mut self, half: &Half, spacing: f64, weights: &Weights) {
        if let Some((q, radius)) = weights.overlap {
            inside(half, spacing, (q, radius), &mut self.minus);
            inside(half, spacing, ([-q[0], -q[1]], radius), &mut self.plus);
        }
    }

    /// Adds the pixels of the runs.
    #[inline(always)]
    fn count(&self, runs: usize, counts: &mut Counts) {
        let [m0, m1] = self.minus.each_ref().map(|cut| &cut[..runs]);
        let [p0, p1] = self.plus.each_ref().map(|cut| &cut[..runs]);
        let (mut minus, mut plus, mut both) = (0, 0, 0);
        for i in 0..runs {
            minus += m1[i] - m0[i];
            plus += p1[i] - p0[i];
            both += m1[i].min(p1[i]).saturating_sub(m0[i].max(p0[i]));
        }
        counts.sides[0] += minus as usize;
        counts.sides[1] += plus as usize;
        counts.both += both as usize;
    }

    /// Where a run is cut: `[first, end)` of `q-k` inside, and of `q+k` inside.
    #[inline(always)]
    pub(super) fn of_run(&self, index: usize, run: &Run, weights: &Weights) -> [[u32; 2]; 2] {
        if weights.overlap.is_none() {
            return [[0, run.len as u32]; 2];
        }
        [[self.minus[0][index], self.minus[1][index]], [self.plus[0][index], self.plus[1][index]]]
    }
}

/// The pixels of each run within `radius` of `center`, as `[first, end)`; runs that have none get an empty range at
/// their end.
#[inline(always)]
fn inside(half: &Half, spacing: f64, (center, radius): ([f64; 2], f64), [first, end]: &mut [Vec<u32>; 2]) {
    let n = half.runs.len();
    let [row, col, len] = half.lines.each_ref().map(|line| &line[..n]);
    let (first, end) = (&mut first[..n], &mut end[..n]);
    let per_pixel = 1.0 / spacing;
    for i in 0..n {
        let height = radius * radius - (row[i] - center[0]) * (row[i] - center[0]);
        let reach = height.max(0.0).sqrt();
        // Not `clamp`: it looks whether the bounds are in order, and what may panic is not done in lanes.
        let from = ((center[1] - reach - col[i]) * per_pixel).ceil().max(0.0).min(len[i]);
        let upto = (((center[1] + reach - col[i]) * per_pixel).floor() + 1.0).max(0.0).min(len[i]);
        let some = height >= 0.0 && from < upto;
        first[i] = whole(if some { from } else { len[i] });
        end[i] = whole(if some { upto } else { len[i] });
    }
}

/// A small whole number as an integer: the lowest bits of one whose unit is its last bit. A conversion that looks after large
/// numbers is not done in lanes.
#[inline(always)]
fn whole(v: f64) -> u32 {
    (v + f64::from_bits(0x4330_0000_0000_0000)).to_bits() as u32
}

type Lanes = [f32; LANES];

type Bits = [u32; LANES];

/// Sums over some rows of the columns of a side, real and imaginary parts: plain, and weighted with the row.
#[derive(Clone, Copy, Default)]
struct OverRows {
    plain: [Lanes; 2],
    by_row: [Lanes; 2],
}

/// Sums over one colour by side, and how many pixels each side has.
///
/// The factor `exp(i w·k)` is one of the row times one of the column. So each row is multiplied by a single number and
/// added to the sums of its columns, and these are multiplied by theirs at the end.
#[inline(always)]
pub(super) fn half_sums(
    sets: &HalfSets,
    half: usize,
    index: usize,
    weights: &Weights,
    (phases, cuts, counts): (&Phases, &mut Cuts, &mut Counts),
    sides: &mut [Sums; SIDES],
) {
    let colour = &sets.halves[half];
    let spectrum = colour.with_lanes(sets.spectrum_of[index]);
    cuts.fill(colour, sets.spacing, weights);
    let mut sums = [[[[0f32; LANES]; 2]; 3]; SIDES];
    if weights.overlap.is_some() {
        cuts.count(colour.runs.len(), counts);
        for columns in &sets.lattice.columns[half] {
            let over_rows = add_rows::<true>(spectrum, columns, phases, cuts, &colour.runs);
            for (over_rows, sums) in over_rows.iter().zip(&mut sums) {
                add_columns(over_rows, columns, phases, sums);
            }
        }
    } else {
        counts.sides[0] += colour.pixels;
        for columns in &sets.lattice.columns[half] {
            let over_rows = add_rows::<false>(spectrum, columns, phases, cuts, &colour.runs);
            add_columns(&over_rows[0], columns, phases, &mut sums[0]);
        }
    }
    for (side, sums) in sides.iter_mut().zip(&sums) {
        let [plain, row, col] = sums.each_ref().map(|[re, im]| Complex::new(across(re), across(im)));
        *side = Sums { plain, row, col };
    }
}

/// Adds up the rows of some columns. What a side does not have is masked.
#[inline(always)]
fn add_rows<const OVERLAP: bool>(
    spectrum: [&[f32]; 2],
    columns: &Columns,
    phases: &Phases,
    cuts: &Cuts,
    runs: &[Run],
) -> [OverRows; SIDES] {
    let mut sums = [OverRows::default(); SIDES];
    // One small loop after the other: each of them becomes a single instruction.
    for piece in &columns.pieces {
        let [c, s] = [0, 1].map(|part| phases.rows[part][piece.line] as f32);
        let [re, im] = spectrum.map(|part| &part[piece.start..][..LANES]);
        let (mut x, mut y) = ([0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            x[l] = re[l] * c - im[l] * s;
        }
        for l in 0..LANES {
            y[l] = re[l] * s + im[l] * c;
        }
        if OVERLAP {
            let minus = between([cuts.minus[0][piece.run], cuts.minus[1][piece.run]], piece.from);
            let plus = between([cuts.plus[0][piece.run], cuts.plus[1][piece.run]], piece.from);
            add_masked([&x, &y], &minus, piece.row, &mut sums[0]);
            add_masked([&x, &y], &plus, piece.row, &mut sums[1]);
        } else {
            let all = between([0, runs[piece.run].len as u32], piece.from);
            add_masked([&x, &y], &all, piece.row, &mut sums[0]);
        }
    }
    sums
}

/// Bits that let the first lanes pass: those from place `LANES - n` on do so for `n` of them.
static FIRST: [u32; 2 * LANES] = {
    let mut out = [0; 2 * LANES];
    let mut l = 0;
    while l < LANES {
        out[l] = u32::MAX;
        l += 1;
    }
    out
};

/// The lanes of the pixels `[first, end)` of a run, of which the first one is pixel `from`.
#[inline(always)]
fn between(pixels: [u32; 2], from: i32) -> Bits {
    let [first, end] = pixels.map(|at| {
        let before = (at as i32 - from).clamp(0, LANES as i32) as usize;
        &FIRST[LANES - before..][..LANES]
    });
    let mut out = [0; LANES];
    for l in 0..LANES {
        out[l] = first[l] ^ end[l];
    }
    out
}

#[inline(always)]
fn add_masked(parts: [&Lanes; 2], mask: &Bits, row: f32, sums: &mut OverRows) {
    for (part, of) in parts.into_iter().enumerate() {
        let mut some = [0f32; LANES];
        for l in 0..LANES {
            some[l] = f32::from_bits(of[l].to_bits() & mask[l]);
        }
        let plain = &mut sums.plain[part];
        for l in 0..LANES {
            plain[l] += some[l];
        }
        let by_row = &mut sums.by_row[part];
        for l in 0..LANES {
            by_row[l] += some[l] * row;
        }
    }
}

/// Multiplies the sums of columns by their factors and adds them up: plain, weighted with the row, and with the column.
#[inline(always)]
fn add_columns(over_rows: &OverRows, columns: &Columns, phases: &Phases, [plain, row, col]: &mut [[Lanes; 2]; 3]) {
    let factors = phases.cols[usize::from(columns.odd)].each_ref().map(|part| &part[columns.first..][..LANES]);
    let here = turned(&over_rows.plain, factors);
    for (sum, here) in plain.iter_mut().zip(here) {
        for l in 0..LANES {
            sum[l] += here[l];
        }
    }
    let by_row = turned(&over_rows.by_row, factors);
    let lattice = phases.lattice;
    let (first, step) = (lattice.column(columns.odd, columns.first) as f32, 2.0 * lattice.step as f32);
    for part in 0..2 {
        for l in 0..LANES {
            row[part][l] += by_row[part][l];
        }
        for l in 0..LANES {
            col[part][l] += here[part][l] * (first + l as f32 * step);
        }
    }
}

/// Complex numbers times others.
#[inline(always)]
fn turned([x, y]: &[Lanes; 2], [c, s]: [&[f32]; 2]) -> [Lanes; 2] {
    let mut out = [[0.0; LANES]; 2];
    for l in 0..LANES {
        out[0][l] = x[l] * c[l] - y[l] * s[l];
    }
    for l in 0..LANES {
        out[1][l] = x[l] * s[l] + y[l] * c[l];
    }
    out
}

/// The sum over the lanes: halves are folded onto each other, which needs few steps.
#[inline(always)]
fn across(v: &Lanes) -> f64 {
    let (a, b) = (v[0] + v[4], v[1] + v[5]);
    let (c, d) = (v[2] + v[6], v[3] + v[7]);
    f64::from((a + c) + (b + d))
}
