//! Residual displacements of groups of detector pixels against the mean of all others.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use num_complex::Complex64;
use rayon::prelude::*;

use crate::error::Result;
use crate::kernel::subpixel::{PeakSearch, Phases, SubpixelPeak, Waves};
use crate::steps::context::RunContext;
use crate::steps::refine::optics::{Optics, aliases};
use crate::steps::refine::spectra::Spectra;

/// Detector pixels of one parallel piece: fixed, so that sums do not depend on the number of threads.
const PIECE: usize = 64;
/// A group must see at least this part of what one in the middle of the disk sees, in its worst direction: towards the
/// edge only frequencies across are left.
const LEAST_VIEW: f64 = 0.02;

/// The frequencies that are used, beyond the scan's Nyquist frequency too.
struct Useful {
    waves: Waves,
    /// Which of the gathered frequencies each one is measured at.
    sampled: Vec<u32>,
    on_detector: Vec<[f64; 2]>,
}

impl Useful {
    fn new(spectra: &Spectra, optics: &Optics) -> Self {
        let (mut all, mut sampled) = (Vec::new(), Vec::new());
        for (index, q) in spectra.frequencies.iter().enumerate() {
            for alias in aliases(*q).into_iter().filter(|q| optics.is_useful(*q)) {
                all.push(alias);
                sampled.push(index as u32);
            }
        }
        let on_detector = all.iter().map(|q| optics.on_detector(*q)).collect();
        Self { waves: Waves::new(&all), sampled, on_detector }
    }
}

/// Sums over detector pixels of their spectra, moved back by their displacements, where both side bands are there.
struct Sums {
    total: Vec<Complex64>,
    squares: Vec<f64>,
    pixels: Vec<f64>,
}

impl Sums {
    fn new(len: usize) -> Self {
        Self { total: vec![Complex64::default(); len], squares: vec![0.0; len], pixels: vec![0.0; len] }
    }

    fn clear(&mut self) {
        self.total.fill(Complex64::default());
        self.squares.fill(0.0);
        self.pixels.fill(0.0);
    }

    fn add(&mut self, other: &Self) {
        self.total.iter_mut().zip(&other.total).for_each(|(a, b)| *a += b);
        self.squares.iter_mut().zip(&other.squares).for_each(|(a, b)| *a += b);
        self.pixels.iter_mut().zip(&other.pixels).for_each(|(a, b)| *a += b);
    }
}

/// What is measured against what.
pub(super) struct Measurement<'a> {
    ctx: &'a RunContext<'a>,
    spectra: &'a Spectra,
    optics: Optics,
    /// Displacements assumed so far, one for each of the spectra's pixels.
    displacements: &'a [[f64; 2]],
    useful: Useful,
    reference: Sums,
    /// Matched weights of the frequencies: all, the slow ones, the fast ones.
    weights: [Vec<f64>; 3],
}

/// A group of neighbouring detector pixels.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Places in the spectra's list of pixels.
    pub(super) members: Vec<usize>,
    /// Mean place from the disk's centre, in detector pixels.
    pub(super) place: [f64; 2],
    /// Colour of the checkerboard.
    pub(super) colour: usize,
}

/// What one group says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Found {
    /// Residual displacement in scan pixels: from all frequencies, from slow ones, from fast ones.
    pub(super) shifts: [[f64; 2]; 3],
    /// Whether each of them is a maximum within reach.
    pub(super) converged: [bool; 3],
    /// Covariance from noise: row row, row col, col col.
    pub(super) covariance: [f64; 3],
    /// Height of the correlation over its noise.
    pub(super) significance: f64,
}

/// Bins of `bin` × `bin` detector pixels, in order of row and column.
pub(super) fn groups(spectra: &Spectra, cols: usize, bin: usize) -> Vec<Group> {
    let mut bins: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (index, pixel) in spectra.pixels.iter().enumerate() {
        bins.entry((pixel / cols / bin, pixel % cols / bin)).or_default().push(index);
    }
    bins.into_iter()
        .map(|((row, col), members)| {
            let mean = |a: usize| members.iter().map(|&i| spectra.places[i][a]).sum::<f64>() / members.len() as f64;
            Group { place: [mean(0), mean(1)], colour: (row + col) % 2, members }
        })
        .collect()
}

impl<'a> Measurement<'a> {
    /// Makes the reference: the mean of all images moved back by their displacements.
    pub(super) fn new(
        ctx: &'a RunContext<'a>,
        spectra: &'a Spectra,
        optics: Optics,
        displacements: &'a [[f64; 2]],
    ) -> Result<Self> {
        let useful = Useful::new(spectra, &optics);
        let len = useful.waves.len();
        let mut this = Self {
            ctx,
            spectra,
            optics,
            displacements,
            useful,
            reference: Sums::new(len),
            weights: std::array::from_fn(|_| vec![0.0; len]),
        };
        let pixels: Vec<usize> = (0..spectra.pixels.len()).collect();
        let pieces = pixels.len().div_ceil(PIECE);
        let _charge = ctx.budget.charge((pieces * len * 32) as u64, "the reference of the refinement")?;
        let parts: Vec<Sums> = ctx.workers.install(|| {
            let sum = |members| {
                let mut sums = Sums::new(len);
                this.sum(members, &mut sums, &mut this.useful.waves.phases());
                sums
            };
            pixels.par_chunks(PIECE).map(sum).collect()
        });
        for part in &parts {
            this.reference.add(part);
        }
        this.weigh();
        Ok(this)
    }

    /// Frequencies in use.
    pub(super) fn frequencies(&self) -> usize {
        self.useful.waves.len()
    }

    fn sum(&self, members: &[usize], sums: &mut Sums, phases: &mut Phases) {
        let useful = &self.useful;
        for &member in members {
            phases.set(&useful.waves, self.displacements[member]);
            let (spectrum, place) = (self.spectra.of(member), self.spectra.places[member]);
            for (index, &sampled) in useful.sampled.iter().enumerate() {
                if self.optics.has_both(place, useful.on_detector[index]) {
                    let z = spectrum[sampled as usize];
                    let moved = Complex64::new(f64::from(z.re), f64::from(z.im)) * phases.get(&useful.waves, index);
                    sums.total[index] += moved;
                    sums.squares[index] += moved.norm_sqr();
                    sums.pixels[index] += 1.0;
                }
            }
        }
    }

    /// The matched filter's weights: how much of the reference is signal, over the noise of one image. The signal's
    /// power is that of products of different images, in which noise has no part.
    fn weigh(&mut self) {
        let sums = &self.reference;
        let mut importance = Vec::with_capacity(sums.total.len());
        for index in 0..sums.total.len() {
            let (n, total) = (sums.pixels[index], self.spectra.power[self.useful.sampled[index] as usize]);
            let signal =
                if n < 2.0 { 0.0 } else { (sums.total[index].norm_sqr() - sums.squares[index]) / (n * (n - 1.0)) };
            if signal > 0.0 && total > 0.0 {
                self.weights[0][index] = signal / (signal + total / n) / total;
            }
            let [r, c] = self.useful.waves.frequency(index);
            importance.push((r.hypot(c), self.weights[0][index] * signal.max(0.0) * (r * r + c * c) * n));
        }
        let mut order: Vec<usize> = (0..importance.len()).collect();
        order.sort_by(|a, b| importance[*a].0.total_cmp(&importance[*b].0).then(a.cmp(b)));
        let half = importance.iter().map(|i| i.1).sum::<f64>() / 2.0;
        let mut sum = 0.0;
        for index in order {
            let band = if sum < half { 1 } else { 2 };
            self.weights[band][index] = self.weights[0][index];
            sum += importance[index].1;
        }
    }

    /// Measures all groups against the mean of all images that are not their own.
    pub(super) fn measure(&self, groups: &[Group]) -> Result<Vec<Option<Found>>> {
        let len = self.frequencies();
        let full = self.information(&self.reference.pixels.iter().map(|_| 1.0).collect::<Vec<_>>(), len);
        let piece = groups.len().div_ceil(4 * self.ctx.workers.count()).max(1);
        let parts: Vec<Result<Vec<_>>> = self.ctx.workers.install(|| {
            groups
                .par_chunks(piece)
                .map(|groups| {
                    let mut search = PeakSearch::new(&self.useful.waves);
                    let mut phases = self.useful.waves.phases();
                    let (mut own, mut cross) = (Sums::new(len), vec![Complex64::default(); len]);
                    let mut out = Vec::with_capacity(groups.len());
                    for group in groups {
                        self.ctx.cancel.check()?;
                        own.clear();
                        self.sum(&group.members, &mut own, &mut phases);
                        out.push(self.locate(group, &own, full, &mut search, &mut cross));
                    }
                    Ok(out)
                })
                .collect()
        });
        let mut all = Vec::with_capacity(groups.len());
        for part in parts {
            all.extend(part?);
        }
        Ok(all)
    }

    fn rest(&self, own: &Sums, index: usize) -> Complex64 {
        let n = self.reference.pixels[index] - own.pixels[index];
        if n < 1.0 { Complex64::default() } else { (self.reference.total[index] - own.total[index]) / n }
    }

    /// Curvature that the correlation of `pixels` images has without noise.
    fn information(&self, pixels: &[f64], len: usize) -> [f64; 3] {
        let mut sum = [0.0; 3];
        for (index, pixels) in pixels.iter().enumerate().take(len) {
            let n = self.reference.pixels[index].max(1.0);
            let [r, c] = self.useful.waves.frequency(index);
            let value = (self.reference.total[index] / n).norm_sqr() * self.weights[0][index] * pixels * TAU * TAU;
            sum = [sum[0] + r * r * value, sum[1] + r * c * value, sum[2] + c * c * value];
        }
        sum
    }

    fn locate(
        &self,
        group: &Group,
        own: &Sums,
        full: [f64; 3],
        search: &mut PeakSearch,
        cross: &mut [Complex64],
    ) -> Option<Found> {
        let seen = self.information(&own.pixels, own.pixels.len());
        if least(seen) < LEAST_VIEW * least(full) * group.members.len() as f64 {
            return None;
        }
        // Noise of the correlation's height and slope.
        let (mut height, mut slope) = (0.0, [0.0; 3]);
        for (index, x) in cross.iter_mut().enumerate() {
            let rest = self.rest(own, index);
            *x = own.total[index] * rest.conj();
            let total = self.spectra.power[self.useful.sampled[index] as usize];
            let variance = self.weights[0][index].powi(2) * rest.norm_sqr() * own.pixels[index] * total / 2.0;
            let [r, c] = self.useful.waves.frequency(index);
            height += variance;
            let variance = variance * TAU * TAU;
            slope = [slope[0] + r * r * variance, slope[1] + r * c * variance, slope[2] + c * c * variance];
        }
        let peak = search.find(cross, &self.weights[0]);
        if !peak.converged {
            return None;
        }
        let bands = [1, 2].map(|band| search.climb(cross, &self.weights[band], peak.position));
        let all: [SubpixelPeak; 3] = [peak, bands[0], bands[1]];
        Some(Found {
            shifts: all.map(|p| p.position),
            converged: all.map(|p| p.converged),
            covariance: sandwich(peak.curvature, slope),
            significance: peak.height / height.sqrt().max(f64::MIN_POSITIVE),
        })
    }
}

/// Smallest eigenvalue of a symmetric matrix.
fn least([a, b, d]: [f64; 3]) -> f64 {
    f64::midpoint(a, d) - (0.5 * (a - d)).hypot(b)
}

/// `H⁻¹ N H⁻¹` for symmetric matrices.
fn sandwich([a, b, d]: [f64; 3], n: [f64; 3]) -> [f64; 3] {
    let det = a * d - b * b;
    let h = [[d / det, -b / det], [-b / det, a / det]];
    let n = [[n[0], n[1]], [n[1], n[2]]];
    let times = |x: [[f64; 2]; 2], y: [[f64; 2]; 2]| -> [[f64; 2]; 2] {
        std::array::from_fn(|i| std::array::from_fn(|j| x[i][0] * y[0][j] + x[i][1] * y[1][j]))
    };
    let c = times(times(h, n), h);
    [c[0][0], c[0][1], c[1][1]]
}
