//! The objective for frequencies that the scan folds onto each other: all of a spectrum's together.
//!
//! What the scan records at one frequency of an undersampled scan is the sum over the frequencies `q_a` that it folds
//! there, `F_k = Σ_a o_a f_a*(k)`, with the filters `f_a` of [`crosspower`](super). The filters of two of them are not
//! orthogonal over the disk unless displacements are large, so that `Σ_k F_k f_a(k)` holds a share of `o_b` too. This
//! share is the same in both colours, is not noise, and moves with the parameters: taken one by one, the frequencies pull
//! the astigmatism of a little defocused scan by several Å. Least squares over the group take it apart:
//!
//! ```text
//! b_h,a = Σ_{k in colour h} F_k f_a(k),   G_ab = Σ_k f_a(k) f_b*(k) + δ_ab,   J = Re(b₀ᴴ G⁻¹ b₁)
//! ```
//!
//! For a group of one this is `Re(S₀ S₁*)` as before. With `x_h = G⁻¹ b_h` the gradient is
//! `Re(∂b₀ᴴ x₁ + x₀ᴴ ∂b₁ - x₀ᴴ ∂G x₁)`. Off the diagonal, `f_a f_b*` has the phase `2π (q_a - q_b)·Mk` with a difference of
//! whole cycles: along a row of the detector it is the same geometric series for all groups, so a piece of a row costs two
//! look-ups, and `G` little beside the sums over the data.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::f64::consts::TAU;
use std::ops::Range;
use std::sync::OnceLock;

use num_complex::Complex64;

use super::{
    Counts, Cuts, HalfSets, Kernel, Model, Objective, Phases, Run, SIDES, Sums, Weights, gradient_of_phase, half_sums,
};
use crate::kernel::simd::dispatch;

/// The most frequencies that share a spectrum: up to one period away on both axes.
pub const MOST_FOLDED: usize = 9;

/// Whole cycles between two frequencies reach this far.
const REACH: i32 = 2;

/// … and the most filters that are taken together: both side bands of each.
pub const MOST_FILTERS: usize = 2 * MOST_FOLDED;

pub(super) type Vector = [Complex64; MOST_FILTERS];
pub(super) type Square = [Vector; MOST_FILTERS];

/// The pixels of a run that the two sides have, `[first, end)` each.
type Pieces = [[u32; 2]; SIDES];

/// Places of the frequencies that share a spectrum, group by group.
///
/// Frequencies that share one must stand side by side, as those of [`HalfSets`] do.
pub fn groups(sets: &HalfSets) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (at, spectrum) in sets.spectrum_of.iter().enumerate() {
        match groups.last_mut() {
            Some(last) if sets.spectrum_of[last.start] == *spectrum && last.len() < MOST_FOLDED => last.end = at + 1,
            _ => groups.push(at..at + 1),
        }
    }
    groups
}

/// The objective of one model; groups may be evaluated side by side.
pub struct Joint<'a> {
    sets: &'a HalfSets,
    model: Model,
    kernel: Kernel,
    /// Pixels of the longest run.
    longest: usize,
    /// For each difference of whole cycles, made when it is first met: most groups have few.
    series: Vec<OnceLock<Series>>,
}

impl<'a> Joint<'a> {
    /// Prepares what all groups share.
    pub fn new(sets: &'a HalfSets, model: &Model, kernel: Kernel) -> Self {
        let longest = sets.halves.iter().flat_map(|h| &h.runs).map(|r| r.len).max().unwrap_or(0);
        let series = (0..(2 * REACH + 1).pow(2)).map(|_| OnceLock::new()).collect();
        Self { sets, model: *model, kernel, longest, series }
    }

    /// The objective of some [`groups`]; shares [add](Objective::add) up.
    ///
    /// # Panics
    /// When a group reaches beyond the frequencies, or has more than [`MOST_FOLDED`].
    pub fn objective(&self, groups: &[Range<usize>]) -> Objective {
        let mut phases = Phases::of(self.sets);
        let mut cuts = Cuts::for_sets(self.sets);
        let mut total = Objective::default();
        for group in groups {
            assert!(group.len() <= MOST_FOLDED, "{} frequencies share a spectrum", group.len());
            let mut members = Vec::with_capacity(2 * group.len());
            let share = dispatch(
                #[inline(always)]
                || {
                    for index in group.clone() {
                        let buffers = (&mut phases, &mut cuts);
                        self.add_member(index, buffers, group.len() > 1, &mut members);
                    }
                    self.group(&members)
                },
            );
            total.add(&share);
        }
        total
    }

    #[inline(always)]
    fn group(&self, members: &[Member]) -> Objective {
        let n = members.len();
        let mut gram: Square = [Vector::default(); MOST_FILTERS];
        let mut slopes = Vec::with_capacity(n * n / 2);
        for (a, member) in members.iter().enumerate() {
            gram[a][a] = Complex64::from(member.norm);
            for (b, other) in members.iter().enumerate().skip(a + 1) {
                let (value, slope) = self.pair(member, other);
                (gram[a][b], gram[b][a]) = (value, value.conj());
                slopes.push((a, b, slope));
            }
        }
        let Some(factor) = cholesky(&gram, n) else { return Objective::default() };
        let sums = [0, 1].map(|h| -> Vector {
            std::array::from_fn(|a| members.get(a).map_or_else(Complex64::default, |m| m.sums[h]))
        });
        let x = sums.map(|b| solve(&factor, b, n));
        let product = |a: &Vector, b: &Vector| (0..n).map(|i| (a[i].conj() * b[i]).re).sum::<f64>();
        let mut out = Objective {
            value: product(&sums[0], &x[1]),
            power: 0.5 * (product(&sums[0], &x[0]) + product(&sums[1], &x[1])),
            gradient: [0.0; 4],
        };
        for (p, slope) in out.gradient.iter_mut().enumerate() {
            for (a, m) in members.iter().enumerate() {
                *slope += (m.slopes[0][p].conj() * x[1][a] + x[0][a].conj() * m.slopes[1][p]).re;
                *slope -= (x[0][a].conj() * x[1][a]).re * m.norm_slope[p];
            }
            for (a, b, of_pair) in &slopes {
                let d = of_pair[p];
                *slope -= (x[0][*a].conj() * d * x[1][*b] + x[0][*b].conj() * d.conj() * x[1][*a]).re;
            }
        }
        out
    }

    /// One frequency's sums over the data, or those of both of its side bands.
    #[inline(always)]
    fn add_member(
        &self,
        index: usize,
        (phases, cuts): (&mut Phases, &mut Cuts),
        with_pieces: bool,
        members: &mut Vec<Member>,
    ) {
        let q = self.sets.frequencies[index];
        let (weights, other) = Weights::new(&self.model, self.kernel, q);
        let with_pieces = with_pieces || other.is_some();
        phases.fill(gradient_of_phase(&self.model.matrix(), q));
        let mut counts = Counts::default();
        let mut sides = [[Sums::default(); SIDES]; 2];
        let mut pieces = Vec::new();
        // Not a map: its closure would not be compiled for this processor.
        for (h, sums) in sides.iter_mut().enumerate() {
            half_sums(self.sets, h, index, &weights, (phases, cuts, &mut counts), sums);
            if with_pieces {
                for (place, run) in self.sets.halves[h].runs.iter().enumerate() {
                    pieces.push(cuts.of_run(place, run, &weights));
                }
            }
        }
        if let Some(other) = other {
            members.push(self.member_of(q, other, &sides, &counts, pieces.clone()));
        }
        members.push(self.member_of(q, weights, &sides, &counts, pieces));
    }

    fn member_of(
        &self,
        q: [f64; 2],
        weights: Weights,
        sides: &[[Sums; SIDES]; 2],
        counts: &Counts,
        pieces: Vec<Pieces>,
    ) -> Member {
        let derivatives = self.model.derivatives();
        let slopes = sides.map(|sides| {
            std::array::from_fn(|p| {
                let u = gradient_of_phase(&derivatives[p], q);
                let moved = weights.apply(&sides, |s| s.row * u[0] + s.col * u[1]);
                Complex64::i() * moved + weights.derivative(&sides, p)
            })
        });
        let zero = Complex64::default();
        let only = (0..SIDES).find(|side| weights.factor[1 - side] == zero);
        Member {
            q,
            only,
            sums: sides.map(|sides| weights.apply(&sides, |s| s.plain)),
            slopes,
            norm: weights.norm(counts),
            norm_slope: std::array::from_fn(|p| weights.norm_derivative(counts, p)),
            pieces,
            weights,
        }
    }

    /// `G_ab` and its slopes.
    #[inline(always)]
    fn pair(&self, a: &Member, b: &Member) -> (Complex64, [Complex64; 4]) {
        let cycles = [0, 1].map(|axis| (a.q[axis] - b.q[axis]).round());
        let side = 2 * REACH + 1;
        let place = (cycles[0] as i32 + REACH) * side + cycles[1] as i32 + REACH;
        let new = || Series::new(self.sets, &self.model, cycles, self.longest);
        let series = self.series[place as usize].get_or_init(new);
        let overlaps = self.overlaps(a, b, series);
        let (fa, fb) = (a.weights.factor, b.weights.factor);
        let (sa, sb) = (a.weights.factor_slopes(), b.weights.factor_slopes());
        let (mut all, mut by_a, mut by_b) = (Sums::default(), Complex64::default(), Complex64::default());
        for (ra, row) in overlaps.iter().enumerate() {
            for (rb, sums) in row.iter().enumerate() {
                let both = fa[ra] * fb[rb].conj();
                all.plain += both * sums.plain;
                all.row += both * sums.row;
                all.col += both * sums.col;
                by_a += sa[ra] * fb[rb].conj() * sums.plain;
                by_b += fa[ra] * sb[rb].conj() * sums.plain;
            }
        }
        let derivatives = self.model.derivatives();
        let slopes = std::array::from_fn(|p| {
            let u = gradient_of_phase(&derivatives[p], cycles);
            let chi = |m: &Member| m.weights.chi_slope.get(p).copied().unwrap_or(0.0);
            by_a * chi(a) + by_b * chi(b) + Complex64::i() * (all.row * u[0] + all.col * u[1])
        });
        (all.plain, slopes)
    }

    /// `Σ_k e^{iΦ}` over what each side of one and each side of the other have in common, plain and weighted with the
    /// pixel's row and column.
    #[inline(always)]
    fn overlaps(&self, a: &Member, b: &Member, series: &Series) -> [[Sums; SIDES]; SIDES] {
        let mut out = [[Sums::default(); SIDES]; SIDES];
        if let (Some(i), Some(j)) = (a.only, b.only) {
            let [[sums]] = series.over([i], &a.pieces, [j], &b.pieces);
            out[i][j] = self.sums_of(&sums);
        } else {
            let sums = series.over([0, 1], &a.pieces, [0, 1], &b.pieces);
            for (out, sums) in out.iter_mut().flatten().zip(sums.iter().flatten()) {
                *out = self.sums_of(sums);
            }
        }
        out
    }

    #[inline(always)]
    fn sums_of(&self, [[re, im, j_re, j_im], [row_re, row_im, col_re, col_im]]: &[[f64; 4]; 2]) -> Sums {
        Sums {
            plain: Complex64::new(*re, *im),
            row: Complex64::new(*row_re, *row_im),
            col: Complex64::new(*col_re, *col_im) + Complex64::new(*j_re, *j_im) * self.sets.spacing,
        }
    }
}

/// What one frequency of a group has.
struct Member {
    q: [f64; 2],
    /// The only side that its filter has.
    only: Option<usize>,
    weights: Weights,
    /// `b_h`, and its slopes by the parameters.
    sums: [Complex64; 2],
    slopes: [[Complex64; 4]; 2],
    norm: f64,
    norm_slope: [f64; 4],
    /// Those of each run of both colours.
    pieces: Vec<Pieces>,
}

/// `e^{iv·k}` with `v = 2π Mᵀn` for whole cycles `n`, summed along the runs.
struct Series {
    /// The runs of both colours.
    lines: Vec<Line>,
    /// `Σ_{j<i} z^j` and `Σ_{j<i} j z^j`, `z` the factor from one pixel of a run to the next.
    upto: Vec<[f64; 4]>,
}

/// A run, in the order of four lanes.
struct Line {
    /// The factor at its first pixel, to multiply two complex numbers by it: what a part is multiplied by, and the other part.
    cos: [f64; 4],
    sin: [f64; 4],
    /// Row and first column, for both parts each.
    place: [f64; 4],
}

impl Series {
    fn new(sets: &HalfSets, model: &Model, cycles: [f64; 2], longest: usize) -> Self {
        let v = gradient_of_phase(&model.matrix(), cycles);
        let at = |run: &Run| {
            let Complex64 { re, im } = Complex64::cis((v[0] * run.row + v[1] * run.col) % TAU);
            Line { cos: [re; 4], sin: [-im, im, -im, im], place: [run.row, run.row, run.col, run.col] }
        };
        let lines = sets.halves.iter().flat_map(|h| &h.runs).map(at).collect();
        let mut sums = [0.0; 4];
        let mut upto = vec![sums];
        for j in 0..longest {
            let place = j as f64;
            let z = Complex64::cis((v[1] * sets.spacing * place) % TAU);
            for (sum, more) in sums.iter_mut().zip([z.re, z.im, place * z.re, place * z.im]) {
                *sum += more;
            }
            upto.push(sums);
        }
        Self { lines, upto }
    }

    /// `Σ` and `Σ j` of the factors, then `Σ row` and `Σ col₀`, over what each of some sides of one frequency has in common
    /// with each of some of another one: `j` is the place in the run and `col₀` the run's first column.
    ///
    /// Nothing is asked on the way, neither which pieces are empty nor whether they meet, because a processor could not
    /// foresee the answer; what is empty adds nothing.
    #[inline(always)]
    fn over<const A: usize, const B: usize>(
        &self,
        of_a: [usize; A],
        a: &[Pieces],
        of_b: [usize; B],
        b: &[Pieces],
    ) -> [[[[f64; 4]; 2]; B]; A] {
        let mut sums = [[[[0.0; 4]; 2]; B]; A];
        for ((line, a), b) in self.lines.iter().zip(a).zip(b) {
            for (i, sums) in of_a.into_iter().zip(&mut sums) {
                for (j, sum) in of_b.into_iter().zip(sums) {
                    let first = a[i][0].max(b[j][0]);
                    let end = a[i][1].min(b[j][1]).max(first);
                    let (upto, before) = (&self.upto[end as usize], &self.upto[first as usize]);
                    // Step by step for four numbers each, which is what processors do at once.
                    let mut here = [0.0; 4];
                    for l in 0..4 {
                        here[l] = upto[l] - before[l];
                    }
                    let mut turned = [0.0; 4];
                    for l in 0..4 {
                        turned[l] = here[l] * line.cos[l] + here[l ^ 1] * line.sin[l];
                    }
                    for l in 0..4 {
                        sum[0][l] += turned[l];
                    }
                    for l in 0..4 {
                        sum[1][l] += turned[l & 1] * line.place[l];
                    }
                }
            }
        }
        sums
    }
}

/// The lower triangle `L` of a Hermitian positive matrix `L Lᴴ`; `None` when it is not positive.
pub(super) fn cholesky(a: &Square, n: usize) -> Option<Square> {
    let mut l: Square = [Vector::default(); MOST_FILTERS];
    for i in 0..n {
        for j in 0..=i {
            let rest = a[i][j] - (0..j).map(|k| l[i][k] * l[j][k].conj()).sum::<Complex64>();
            if i == j {
                if rest.re <= 0.0 || !rest.re.is_finite() {
                    return None;
                }
                l[i][i] = Complex64::from(rest.re.sqrt());
            } else {
                l[i][j] = rest / l[j][j].re;
            }
        }
    }
    Some(l)
}

/// Solves `L Lᴴ x = b`.
pub(super) fn solve(l: &Square, mut b: Vector, n: usize) -> Vector {
    for i in 0..n {
        b[i] = (b[i] - (0..i).map(|k| l[i][k] * b[k]).sum::<Complex64>()) / l[i][i].re;
    }
    for i in (0..n).rev() {
        b[i] = (b[i] - (i + 1..n).map(|k| l[k][i].conj() * b[k]).sum::<Complex64>()) / l[i][i].re;
    }
    b
}

#[cfg(test)]
pub(super) mod tests;
