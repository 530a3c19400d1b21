//! Sums over the runs of one colour: the hot loops of [`crosspower`](super).
//!
//! For each frequency there are two look-ups and one loop over the data. [`Phases`] has the factors `exp(i w·k)` as
//! products of a row's and a column's; [`Cuts`] says where the displaced apertures cut each run. Both are made for all rows
//! at once, without branches, because a run has only a few blocks of lanes and would wait for them otherwise. What is left
//! are dot products of whole blocks; the last one of a piece is masked instead of being cut short. Lanes are added up in
//! `f64` from run to run, in an order that is the same on every processor.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use num_complex::Complex;

use super::{Half, HalfSets, Run, Weights};

/// Sums over one colour and one region: `Σ F e^{iΦ}`, and the same weighted with the pixel's row and column.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) plain: Complex<f64>,
    pub(super) row: Complex<f64>,
    pub(super) col: Complex<f64>,
}

/// The three regions of the weak-phase kernel; the shift kernel has only the first.
pub(super) const REGIONS: usize = 3;

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

    /// Pieces of a run of one region each: `(region, first, end)`, some of them empty.
    #[inline(always)]
    pub(super) fn pieces(&self, index: usize, run: &Run, weights: &Weights) -> [(usize, usize, usize); 5] {
        if weights.overlap.is_none() {
            return [(0, 0, run.len), (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)];
        }
        let at = |cut: &[Vec<u32>; 2]| (cut[0][index] as usize, cut[1][index] as usize);
        let (m, p) = (at(&self.minus), at(&self.plus));
        [
            (1, m.0, m.1.min(p.0)),
            (2, p.0, p.1.min(m.0)),
            (0, m.0.max(p.0), m.1.min(p.1)),
            (1, m.0.max(p.1), m.1),
            (2, p.0.max(m.1), p.1),
        ]
    }
}

/// The pixels of each run within `radius` of `center`, as `[first, end)`; runs that have none get an empty range at
/// their end, which cuts nothing off another.
#[inline(always)]
fn inside(half: &Half, spacing: f64, (center, radius): ([f64; 2], f64), [first, end]: &mut [Vec<u32>; 2]) {
    let n = half.runs.len();
    let [row, col, len] = half.lines.each_ref().map(|line| &line[..n]);
    let (first, end) = (&mut first[..n], &mut end[..n]);
    let per_pixel = 1.0 / spacing;
    for i in 0..n {
        let height = radius * radius - (row[i] - center[0]) * (row[i] - center[0]);
        let reach = height.max(0.0).sqrt();
        let from = ((center[1] - reach - col[i]) * per_pixel).ceil().clamp(0.0, len[i]);
        let upto = (((center[1] + reach - col[i]) * per_pixel).floor() + 1.0).clamp(0.0, len[i]);
        let some = height >= 0.0 && from < upto;
        first[i] = if some { from } else { len[i] } as u32;
        end[i] = if some { upto } else { len[i] } as u32;
    }
}

/// `exp(i w·k)` on the lattice of the detector pixels, whose step is half the spacing of a run: all rows share the
/// columns' factors, and all columns the rows'.
pub(super) struct Phases {
    origin: [f64; 2],
    step: f64,
    rows: [Vec<f64>; 2],
    /// Every other place along a row, from its beginning.
    along: [Vec<f64>; 2],
    /// Real and imaginary parts for even and for odd places along a row.
    cols: [[Vec<f32>; 2]; 2],
}

impl Phases {
    pub(super) fn of(sets: &HalfSets) -> Self {
        let step = 0.5 * sets.spacing;
        let runs = || sets.halves.iter().flat_map(|h| &h.runs);
        let least = |of: fn(&Run) -> f64| runs().map(of).fold(f64::INFINITY, f64::min);
        let origin = [least(|r| r.row), least(|r| r.col)];
        let place = |at: f64, axis: usize| ((at - origin[axis]) / step).round() as usize;
        let lines = runs().map(|r| place(r.row, 0) + 1).max().unwrap_or(0);
        let places = runs().map(|r| place(r.col, 1) + 2 * r.len).max().unwrap_or(0) / 2 + 1 + LANES;
        let wide = |n: usize| [vec![0.0; n], vec![0.0; n]];
        let cols = || [vec![0.0; places], vec![0.0; places]];
        Self { origin, step, rows: wide(lines), along: wide(places), cols: [cols(), cols()] }
    }

    #[inline(always)]
    pub(super) fn fill(&mut self, w: [f64; 2]) {
        powers(&mut self.rows, w[0] * self.origin[0], w[0] * self.step);
        powers(&mut self.along, w[1] * self.origin[1], 2.0 * w[1] * self.step);
        let (sin, cos) = (w[1] * self.step).sin_cos();
        let n = self.along[0].len();
        let [from_re, from_im] = self.along.each_ref().map(|part| &part[..n]);
        let [[even_re, even_im], [odd_re, odd_im]] =
            self.cols.each_mut().map(|cols| cols.each_mut().map(|c| &mut c[..n]));
        for i in 0..n {
            let (re, im) = (from_re[i], from_im[i]);
            (even_re[i], even_im[i]) = (re as f32, im as f32);
            (odd_re[i], odd_im[i]) = ((re * cos - im * sin) as f32, (re * sin + im * cos) as f32);
        }
    }

    /// The factor of a run's row, and those of its columns.
    #[inline(always)]
    pub(super) fn of_run(&self, run: &Run) -> (Complex<f64>, [&[f32]; 2]) {
        let line = ((run.row - self.origin[0]) / self.step + 0.5) as usize;
        let place = ((run.col - self.origin[1]) / self.step + 0.5) as usize;
        let [re, im] = &self.cols[place % 2];
        (
            Complex::new(self.rows[0][line], self.rows[1][line]),
            [&re[place / 2..][..run.len + LANES], &im[place / 2..][..run.len + LANES]],
        )
    }
}

/// `exp(i (start + j turn))` for each place `j`. What is there is copied with one more turn, so that the parts double and
/// fill the lanes.
#[inline(always)]
fn powers([re, im]: &mut [Vec<f64>; 2], start: f64, turn: f64) {
    let n = re.len();
    if n == 0 {
        return;
    }
    (im[0], re[0]) = start.sin_cos();
    let mut step = Complex::cis(turn);
    let mut done = 1;
    while done < n {
        let more = done.min(n - done);
        let ((from_re, to_re), (from_im, to_im)) = (re.split_at_mut(done), im.split_at_mut(done));
        let (from_re, from_im) = (&from_re[..more], &from_im[..more]);
        let (to_re, to_im) = (&mut to_re[..more], &mut to_im[..more]);
        for i in 0..more {
            to_re[i] = from_re[i] * step.re - from_im[i] * step.im;
            to_im[i] = from_re[i] * step.im + from_im[i] * step.re;
        }
        step *= step;
        done += more;
    }
}

#[inline(always)]
pub(super) fn half_sums<const SLOPES: bool>(
    sets: &HalfSets,
    half: usize,
    index: usize,
    weights: &Weights,
    (phases, cuts, counts): (&Phases, &mut Cuts, &mut [usize; REGIONS]),
    regions: &mut [Sums; REGIONS],
) {
    let half = &sets.halves[half];
    let spectrum = half.with_lanes(sets.spectrum_of[index]);
    cuts.fill(half, sets.spacing, weights);
    for (place, run) in half.runs.iter().enumerate() {
        let (turn, factors) = phases.of_run(run);
        for (region, first, end) in cuts.pieces(place, run, weights) {
            if first >= end {
                continue;
            }
            let (from, upto) = (run.start + first, run.start + end + LANES);
            let samples = [&spectrum[0][from..upto], &spectrum[1][from..upto]];
            let factors = [&factors[0][first..end + LANES], &factors[1][first..end + LANES]];
            let (plain, moment) = dot::<SLOPES>(samples, factors);
            counts[region] += end - first;
            let plain = plain * turn;
            let sums = &mut regions[region];
            sums.plain += plain;
            if SLOPES {
                sums.row += plain * run.row;
                sums.col += plain * (run.col + sets.spacing * first as f64) + moment * turn * sets.spacing;
            }
        }
    }
}

/// Numbers that are multiplied side by side.
pub(super) const LANES: usize = 8;

/// `Σ a_j b_j` and, for slopes, `Σ j a_j b_j` of complex numbers with their parts apart. Behind the numbers there is a
/// block of lanes that does not count.
#[inline(always)]
fn dot<const SLOPES: bool>([a_re, a_im]: [&[f32]; 2], [b_re, b_im]: [&[f32]; 2]) -> (Complex<f64>, Complex<f64>) {
    let n = a_re.len() - LANES;
    let mut sums = [[0f32; LANES]; 4];
    let mut weight: [f32; LANES] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
    let whole = n - n % LANES;
    let mut at = 0;
    while at < whole {
        let block = at..at + LANES;
        let parts = (&a_re[block.clone()], &a_im[block.clone()], &b_re[block.clone()], &b_im[block]);
        add_block::<SLOPES>(parts, LANES, &weight, &mut sums);
        for w in &mut weight {
            *w += LANES as f32;
        }
        at += LANES;
    }
    if whole < n {
        let block = whole..whole + LANES;
        let parts = (&a_re[block.clone()], &a_im[block.clone()], &b_re[block.clone()], &b_im[block]);
        add_block::<SLOPES>(parts, n - whole, &weight, &mut sums);
    }
    (Complex::new(across(&sums[0]), across(&sums[1])), Complex::new(across(&sums[2]), across(&sums[3])))
}

/// Adds the first `count` products of a block to the lanes of `[Σ re, Σ im, Σ w re, Σ w im]`.
#[inline(always)]
fn add_block<const SLOPES: bool>(
    (ar, ai, br, bi): (&[f32], &[f32], &[f32], &[f32]),
    count: usize,
    weight: &[f32; LANES],
    sums: &mut [[f32; LANES]; 4],
) {
    let (ar, ai, br, bi) = (&ar[..LANES], &ai[..LANES], &br[..LANES], &bi[..LANES]);
    for l in 0..LANES {
        let counts = (l as u32) < count as u32;
        let re = if counts { ar[l] * br[l] - ai[l] * bi[l] } else { 0.0 };
        let im = if counts { ar[l] * bi[l] + ai[l] * br[l] } else { 0.0 };
        sums[0][l] += re;
        sums[1][l] += im;
        if SLOPES {
            sums[2][l] += re * weight[l];
            sums[3][l] += im * weight[l];
        }
    }
}

/// The sum over the lanes: halves are folded onto each other, which needs few steps.
#[inline(always)]
fn across(v: &[f32; LANES]) -> f64 {
    let (a, b) = (v[0] + v[4], v[1] + v[5]);
    let (c, d) = (v[2] + v[6], v[3] + v[7]);
    f64::from((a + c) + (b + d))
}
