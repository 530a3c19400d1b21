//! Which of the two kernels explains the data: both are fitted, and judged at frequencies that their fit did not see.
//!
//! A weak phase object has the weak-phase kernel's contrast, which says more about a small defocus than displacements do. The
//! images of an absorbing or a strongly scattering object are displaced copies too, but their contrast is another. Both
//! objectives are divided by the power of their filters, so that what they explain can be compared.

use std::ops::Range;

use crate::kernel::crosspower::joint::groups;
use crate::kernel::crosspower::{HalfSets, Kernel, Model};
use crate::steps::parametric::KernelTrial;
use crate::steps::parametric::polish::Hill;

/// Groups of frequencies that are looked at, half of them by each fit: enough for a dozen standard errors where there are
/// counts.
const GROUPS: usize = 120;
/// Standard errors by which the shift kernel must explain more. Where it explains as much, the other kernel, which knows
/// what contrast does, is the safer one.
const CLEARLY_BETTER: f64 = 2.5;

/// Groups from which displacements alone are fitted.
const MORE_GROUPS: usize = 450;
/// Standard deviations between what contrast and displacements say, beyond which displacements are believed.
const CONTRADICTION: f64 = 3.0;

/// What displacements alone say about a model that contrast has helped to find.
pub(super) struct ByDisplacements {
    pub(super) model: Model,
    pub(super) deviations: [f64; 4],
    /// How many of its standard deviations the model lies from that with contrast.
    pub(super) apart: f64,
}

impl ByDisplacements {
    /// The maximum near `start` with a kernel that does not know the contrast; `None` where it is not determined.
    pub(super) fn near(sets: &HalfSets, start: &Model, kernel: Kernel, radius: f64) -> Option<Self> {
        let hill = Hill::new(sets, thinned(sets, MORE_GROUPS), kernel.with_overlap(start), radius, start.transposed);
        let (model, covariance) = hill.top_and_covariance(start)?;
        let apart = hill.apart(&model, start, &covariance)?;
        Some(Self { model, deviations: hill.deviations(&covariance), apart })
    }

    /// Both estimates are right for a weak phase object, and that with contrast is then the sharper one. For any other, only
    /// displacements are right. So a difference that noise does not explain decides (Hausman 1978).
    pub(super) fn contradicts(&self) -> bool {
        self.apart > CONTRADICTION
    }
}

impl KernelTrial {
    /// Compares both kernels over some of the groups of a set, each from its own start.
    pub(super) fn run(sets: &HalfSets, weak_phase: (Kernel, Model), shift: (Kernel, Model), radius: f64) -> Self {
        let some = some_groups(sets);
        let each = [weak_phase, shift].map(|(kernel, start)| unseen(sets, &some, kernel, start, radius));
        let differences = || each[0].iter().zip(&each[1]).map(|(a, b)| steadied(*a, *b));
        let spread = differences().map(|d| d * d).sum::<f64>().sqrt();
        Self {
            weak_phase: each[0].iter().sum(),
            shift: each[1].iter().sum(),
            lead: if spread > 0.0 { differences().sum::<f64>() / spread } else { 0.0 },
            contradiction: None,
            by_displacements: false,
        }
    }

    /// Whether the shift kernel is to be used.
    pub(super) fn prefers_shift(&self) -> bool {
        self.lead < -CLEARLY_BETTER
    }
}

/// The difference of what two kernels explain of one group, over the root of its size: a handful of slow frequencies are
/// orders of magnitude stronger than the others and would decide alone.
fn steadied(a: f64, b: f64) -> f64 {
    let size = a.abs() + b.abs();
    if size > 0.0 { (a - b) / size.sqrt() } else { 0.0 }
}

/// Groups enough to compare models.
pub(super) fn some_groups(sets: &HalfSets) -> Vec<Range<usize>> {
    thinned(sets, GROUPS)
}

/// At most `most` groups spread over all of a set's.
fn thinned(sets: &HalfSets, most: usize) -> Vec<Range<usize>> {
    let all = groups(sets);
    // An odd stride does not fall in step with the rows of the spectrum.
    let stride = all.len().div_ceil(most) | 1;
    all.into_iter().step_by(stride).collect()
}

/// What each group explains under the model that was fitted to every other group.
fn unseen(sets: &HalfSets, some: &[Range<usize>], kernel: Kernel, start: Model, radius: f64) -> Vec<f64> {
    let kernel = kernel.with_overlap(&start);
    let half = |h: usize| {
        let groups = some.iter().skip(h).step_by(2).cloned().collect();
        Hill::new(sets, groups, kernel, radius, start.transposed)
    };
    let halves = [half(0), half(1)];
    let values = |h: usize| halves[h].values(&halves[1 - h].top(&start));
    [values(0), values(1)].concat()
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use num_complex::{Complex, Complex64};

    use super::*;
    use crate::kernel::crosspower::{Half, Run};

    const PER_FREQUENCY: f64 = 9.0;
    const RADIUS: f64 = 6.0;

    /// A disk of detector pixels whose images have, at each frequency, a random object times `of(χ(q), inside k-q, inside
    /// k+q) · exp(-2πi q·d(k))`, and noise of the same strength.
    fn planted(truth: &Model, of: impl Fn(f64, bool, bool) -> Complex64) -> HalfSets {
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let frequencies: Vec<[f64; 2]> = (0..160).map(|_| [0.05 + 0.4 * random(), 0.9 * random() - 0.45]).collect();
        let mut halves = [(Vec::new(), 0), (Vec::new(), 0)];
        let mut pixels: [Vec<[f64; 2]>; 2] = Default::default();
        for row in -6i32..=6 {
            for colour in 0..2 {
                let width = (RADIUS * RADIUS - f64::from(row * row)).max(0.0).sqrt();
                let columns: Vec<f64> = (-6i32..=6)
                    .filter(|c| (row + c).rem_euclid(2) == colour && f64::from(c.abs()) <= width)
                    .map(f64::from)
                    .collect();
                let (runs, count) = &mut halves[colour as usize];
                if let Some(&col) = columns.first() {
                    runs.push(Run { row: f64::from(row), col, len: columns.len(), start: *count });
                    *count += columns.len();
                    pixels[colour as usize].extend(columns.iter().map(|c| [f64::from(row), *c]));
                }
            }
        }
        let objects: Vec<Complex64> = frequencies.iter().map(|_| Complex64::cis(TAU * random())).collect();
        let halves = [0, 1].map(|h| {
            let mut spectra = Vec::new();
            for (q, object) in frequencies.iter().zip(&objects) {
                for k in &pixels[h] {
                    let d = truth.displacement(*k);
                    let chi = std::f64::consts::PI * PER_FREQUENCY * truth.parameters[0] * (q[0] * q[0] + q[1] * q[1]);
                    let inside = |sign: f64| {
                        (PER_FREQUENCY * q[0] + sign * k[0]).hypot(PER_FREQUENCY * q[1] + sign * k[1]) <= RADIUS
                    };
                    let moved = Complex64::cis(-TAU * (q[0] * d[0] + q[1] * d[1]));
                    let noise = Complex64::new(random() - 0.5, random() - 0.5);
                    let z = object * of(chi, inside(-1.0), inside(1.0)) * moved + noise;
                    spectra.push(Complex::new(z.re as f32, z.im as f32));
                }
            }
            Half::new(std::mem::take(&mut halves[h].0), halves[h].1, &spectra)
        });
        let spectrum_of = (0..frequencies.len()).collect();
        HalfSets::new(frequencies, spectrum_of, 2.0, halves)
    }

    #[test]
    fn each_kernel_wins_on_its_own_kind_of_object() {
        let truth = Model { parameters: [0.3, 0.0, 0.0, 0.0], transposed: false };
        let start = Model { parameters: [0.29, 0.01, 0.0, 0.02], transposed: false };
        let kernel = Kernel::WeakPhase { pixels_per_frequency: PER_FREQUENCY, radius: RADIUS, overlap_rotation: None };
        let one = |inside: bool| f64::from(u8::from(inside));
        // The complex conjugate of the filter: what a weak phase object does.
        let phase = planted(&truth, |chi, minus, plus| {
            let i = Complex64::i();
            -i * Complex64::cis(-chi) * one(minus) + i * Complex64::cis(chi) * one(plus)
        });
        // An absorbing object: its side bands add up.
        let copies =
            planted(&truth, |chi, minus, plus| Complex64::cis(-chi) * one(minus) + Complex64::cis(chi) * one(plus));
        let trial = |sets: &HalfSets| KernelTrial::run(sets, (kernel, start), (Kernel::Shift, start), RADIUS);
        let (phase, copies) = (trial(&phase), trial(&copies));
        assert!(phase.lead > CLEARLY_BETTER && phase.weak_phase > phase.shift && !phase.prefers_shift(), "{phase:?}");
        assert!(
            copies.lead < -CLEARLY_BETTER && copies.weak_phase < copies.shift && copies.prefers_shift(),
            "{copies:?}"
        );
        // Noise alone prefers nothing.
        let noise = trial(&planted(&truth, |_, _, _| Complex64::default()));
        assert!(noise.lead.abs() < CLEARLY_BETTER && !noise.prefers_shift(), "{noise:?}");
    }
}
