//! The search: a grid, a quasi-Newton method from its best points, and what its height and its rivals say.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernel::crosspower::{HalfSets, Kernel, Model, Objective, objective, objective_of_each};
use crate::steps::context::RunContext;
use crate::steps::parametric::climb::climb;
use crate::steps::parametric::kernels::ByDisplacements;
use crate::steps::parametric::outcome::{Null, Outcome, Rival, SIGNIFICANT, closest, outcome};
use crate::steps::parametric::polish::{Found, Polished, polish};
use crate::steps::parametric::{GRID_LIMIT, KernelTrial, pixels_per_frequency, side_bands};
use crate::steps::step1_detect::BrightDisk;

/// Frequencies of one parallel piece: fixed, so that sums do not depend on the number of threads.
const PIECE: usize = 64;
/// Points of each grid from which the search goes on.
const CANDIDATES: usize = 6;
/// How many maxima are looked at with all detector pixels, and the share of the best one's objective that they need.
const FINALISTS: usize = 3;
const HOPEFUL: f64 = 0.6;
/// They are looked at with every so many of the frequencies, and small displacements with fewer. Odd: not in step with the
/// frequencies that are folded onto each other.
const THINNED: usize = 7;
const SPARSE: usize = 29;
/// Spacing of the finest grid and its largest displacement, in scan pixels at the disk's edge.
const FINEST: f64 = 0.5;
const SMALL: f64 = 3.0;
/// Starting points that are followed.
const PROMISING: usize = 14;
/// Iterations from each of them, and from the best maxima.
const FIRST_ITERATIONS: usize = 6;
const NEXT_ITERATIONS: usize = 12;
/// Starting points that are followed with the shift kernel, to compare the kernels.
const FEW: usize = 4;
/// Wrong models that say what chance gets.
const NULL_MODELS: usize = 100;
/// Displacements of the first octave of the grid, in scan pixels.
const OCTAVE: f64 = 8.0;
/// Displacements at the disk's edge, in scan pixels, from which they say more than contrast does.
pub(super) const DISPLACED: f64 = 1.5;
/// Models whose displacements at the disk's edge differ by less than this many scan pixels are the same.
const SAME: f64 = 0.5;
/// The search for the model that explains the images best.
pub(super) struct Fit<'a> {
    pub(super) ctx: &'a RunContext<'a>,
    pub(super) disk: &'a BrightDisk,
    /// All detector pixels, all chosen frequencies.
    pub(super) fine: &'a HalfSets,
    /// Binned detector pixels at slow frequencies: for large displacements.
    pub(super) coarse: &'a HalfSets,
    /// Binned detector pixels at all frequencies: for small displacements, which slow frequencies do not feel.
    pub(super) wide: &'a HalfSets,
}

impl Fit<'_> {
    /// Searches from a grid and from the models in `guesses`.
    pub(super) fn run(&self, guesses: &[Model]) -> Result<Outcome> {
        let kernel = self.kernel();
        let mut starts = self.octaves(kernel);
        if kernel != Kernel::Shift {
            // Where displacements are small, slow frequencies are no guide; where they are large, contrast is none.
            starts.extend(self.best_of(self.wide, &self.small_models(), FINEST, kernel));
            starts.extend(self.octaves(Kernel::Shift));
        }
        starts.extend(guesses);
        let found = self.maxima(&starts, kernel)?;
        let mut polished = self.polished(&found, kernel)?;
        let mut trial = None;
        if kernel != Kernel::Shift {
            let mut by_shift = self.maxima_by_shift(&starts)?;
            let from = by_shift.first().copied().unwrap_or(polished.best.model);
            let mut compared =
                KernelTrial::run(self.fine, (kernel, polished.best.model), (Kernel::Shift, from), self.disk.radius);
            if compared.prefers_shift() {
                by_shift.push(polished.best.model);
                return self.by_side_bands(&by_shift, compared);
            }
            if self.at_edge(&polished.best.model) > DISPLACED {
                self.check_contrast(&mut polished, &mut compared);
            }
            trial = Some(compared);
        }
        let significance = self.significance(&polished.best, kernel);
        let rival = self.rival(&polished.best, &found, kernel);
        outcome(polished, (kernel, trial), significance, rival)
    }

    /// The maxima with all detector pixels, best first, from the most promising of the starts.
    fn maxima(&self, starts: &[Model], kernel: Kernel) -> Result<Vec<Found>> {
        let starts = self.promising(starts, kernel, PROMISING);
        let found = self.search(self.wide, &starts, kernel, FIRST_ITERATIONS)?;
        let found = self.search(self.wide, &self.finalists(&found), kernel, NEXT_ITERATIONS)?;
        let mut starts = self.finalists(&found);
        if kernel != Kernel::Shift && starts.iter().any(|m| self.at_edge(m) < SMALL) {
            // Where displacements are small, the frequencies that the scan does not fold may all prefer a wrong model: on a
            // strong scatterer its second order looks like another defocus there.
            starts.extend(self.best_of(&self.some_of_fine(SPARSE), &self.small_models(), FINEST, kernel));
        }
        let mut found = self.search(&self.some_of_fine(THINNED), &starts, kernel, NEXT_ITERATIONS)?;
        found.sort_by(|a, b| b.value.total_cmp(&a.value));
        Ok(found)
    }

    /// Takes what displacements alone say where it contradicts the model that contrast has helped to find.
    fn check_contrast(&self, polished: &mut Polished, compared: &mut KernelTrial) {
        let (start, radius) = (polished.best.model, self.disk.radius);
        let Some(by) = ByDisplacements::near(self.fine, &start, self.side_bands(), radius) else { return };
        compared.contradiction = Some(by.apart);
        if by.contradicts() && self.distance(&by.model, &start) < SAME {
            compared.by_displacements = true;
            polished.best.model = by.model;
            polished.deviations = Some(by.deviations);
        }
    }

    /// What the shift kernel makes of the starts, with binned detector pixels.
    fn maxima_by_shift(&self, starts: &[Model]) -> Result<Vec<Model>> {
        let starts = self.promising(starts, Kernel::Shift, FEW);
        Ok(self.finalists(&self.search(self.wide, &starts, Kernel::Shift, FIRST_ITERATIONS)?))
    }

    /// The model whose displacements explain the data best, whatever the contrast: from those of the finest grid, and some
    /// more.
    fn by_side_bands(&self, starts: &[Model], compared: KernelTrial) -> Result<Outcome> {
        let kernel = self.side_bands();
        let models: Vec<Model> = starts.iter().copied().chain(self.small_models()).collect();
        let search = side_bands::Search::new(self.fine, (kernel, self.disk.radius), &models, self.ctx.cancel)?;
        let found = search.maxima(CANDIDATES, |a, b| self.distance(a, b) > SAME, self.ctx.cancel)?;
        let polished = self.polished(&found, kernel)?;
        let best = polished.best.model;
        let significance = search.significance(&best, self.wrong_models(&best).into_iter());
        let apart = found.iter().filter(|o| self.distance(&o.model, &best) > SAME);
        let rivals = apart.map(|o| Rival { model: o.model, distance: search.distance(&best, &o.model) });
        outcome(polished, (kernel, Some(compared)), significance, closest(rivals))
    }

    /// The top with everything, from the best maximum; and from the best one of the other orientation of the detector
    /// where that is nearly as high, because only frequencies taken together tell them apart when displacements are small.
    fn polished(&self, found: &[Found], kernel: Kernel) -> Result<Polished> {
        let Some(first) = found.first() else { return Err(Error::bug("a grid without points")) };
        let best = polish(self.fine, first.model, kernel, self.disk.radius);
        let turned = found.iter().find(|f| f.model.transposed != first.model.transposed);
        let Some(turned) = turned.filter(|f| f.value >= HOPEFUL * first.value) else { return Ok(best) };
        self.ctx.cancel.check()?;
        let other = polish(self.fine, turned.model, kernel, self.disk.radius);
        Ok(if other.best.value > best.best.value { other } else { best })
    }

    /// The filter of a weak phase object, when the sampling is known.
    fn kernel(&self) -> Kernel {
        pixels_per_frequency(self.ctx, self.disk).map_or(Kernel::Shift, |pixels_per_frequency| Kernel::WeakPhase {
            pixels_per_frequency,
            radius: self.disk.radius,
            overlap_rotation: None,
        })
    }

    /// What replaces the plain shift where the sampling is known.
    fn side_bands(&self) -> Kernel {
        pixels_per_frequency(self.ctx, self.disk).map_or(Kernel::Shift, |pixels_per_frequency| Kernel::SideBands {
            pixels_per_frequency,
            radius: self.disk.radius,
            overlap_rotation: None,
        })
    }

    /// How far the best model stands above wrong ones: with binned pixels where that is clear, else with all.
    fn significance(&self, best: &Found, kernel: Kernel) -> f64 {
        let wrong = self.wrong_models(&best.model);
        let mut most = 0.0f64;
        for set in [self.wide, self.fine] {
            let values: Vec<f64> = wrong.iter().map(|m| evaluate(set, m, kernel).value).collect();
            most = most.max(Null::new(&values).significance(evaluate(set, &best.model, kernel).value));
            if most > 2.0 * SIGNIFICANT {
                break;
            }
        }
        most
    }

    /// Models of all displacements that are not near the best one.
    fn wrong_models(&self, best: &Model) -> Vec<Model> {
        let grid = self.models(self.reach() / 12.0, 0.0, self.reach());
        let some = grid.iter().step_by((grid.len() / NULL_MODELS).max(1));
        some.copied().filter(|m| self.distance(m, best) > 2.0 * SAME).collect()
    }

    /// Whether another maximum is as good: both are compared frequency by frequency, so that a crystal, in which few
    /// frequencies say the same, is not more certain than it can be.
    fn rival(&self, best: &Found, others: &[Found], kernel: Kernel) -> Option<Rival> {
        let each = |model: &Model| -> Vec<f64> {
            let each = |range| objective_of_each(self.fine, model, kernel, range);
            pieces_of(self.fine).map(each).collect::<Vec<_>>().concat()
        };
        let of_best = each(&best.model);
        let apart = others.iter().filter(|o| self.distance(&o.model, &best.model) > SAME);
        let rivals = apart.map(|other| {
            let differences: Vec<f64> = of_best.iter().zip(each(&other.model)).map(|(a, b)| a - b).collect();
            let spread = differences.iter().map(|d| d * d).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            Rival { model: other.model, distance: differences.iter().sum::<f64>() / spread }
        });
        closest(rivals)
    }

    /// All detector pixels at some of the frequencies: enough to come near.
    fn some_of_fine(&self, every: usize) -> HalfSets {
        self.fine.with_frequencies((0..self.fine.frequencies.len()).step_by(every))
    }

    /// Displacement of a model at the disk's edge in scan pixels (root mean square over all directions).
    fn at_edge(&self, model: &Model) -> f64 {
        let squares: f64 = model.matrix().iter().flatten().map(|m| m * m).sum();
        (squares / 2.0).sqrt() * self.disk.radius
    }

    /// The finest grid.
    fn small_models(&self) -> Vec<Model> {
        self.models(FINEST, 0.0, self.reach().min(SMALL))
    }

    /// The best maxima, none near a better one and none far below the best; the best of either orientation in any case.
    fn finalists(&self, found: &[Found]) -> Vec<Model> {
        let mut order: Vec<&Found> = found.iter().collect();
        order.sort_by(|a, b| b.value.total_cmp(&a.value));
        let high = order.first().map_or(0.0, |best| HOPEFUL * best.value);
        let mut kept: Vec<Model> = Vec::new();
        for found in order.into_iter().filter(|f| f.value >= high) {
            let enough = kept.len() < FINALISTS || kept.iter().all(|k| k.transposed != found.model.transposed);
            if enough && kept.iter().all(|k| self.distance(k, &found.model) > SAME) {
                kept.push(found.model);
            }
        }
        kept
    }

    fn reach(&self) -> f64 {
        self.ctx.scan.rows.min(self.ctx.scan.cols) as f64 / 4.0
    }

    /// Models without astigmatism whose displacements at the disk's edge lie between `from` and `to` scan pixels,
    /// `spacing` apart, in all directions and both orientations.
    fn models(&self, spacing: f64, from: f64, to: f64) -> Vec<Model> {
        let n = (to / spacing).floor() as i32;
        let edge = spacing / self.disk.radius;
        let mut models = Vec::new();
        for transposed in [false, true] {
            for a in -n..=n {
                // Half a plane of rotations, with both signs: the other half is the same.
                for b in 0..=n {
                    let (a, b) = (f64::from(a), f64::from(b));
                    let here = from <= a.hypot(b) * spacing && a.hypot(b) <= f64::from(n);
                    if here && (b > 0.0 || a >= 0.0) {
                        let (c1, theta) = (a.hypot(b) * edge, b.atan2(a));
                        models.push(Model { parameters: [c1, 0.0, 0.0, theta], transposed });
                        models.push(Model { parameters: [-c1, 0.0, 0.0, theta], transposed });
                    }
                }
            }
        }
        models
    }

    /// The most promising models of large displacements: in octaves, each with frequencies so slow that its spacing is
    /// fine enough.
    fn octaves(&self, kernel: Kernel) -> Vec<Model> {
        let (mut spacing, mut from) = (1.0, 0.0);
        let mut all = Vec::new();
        let mut set = self.coarse.clone();
        while from < self.reach() {
            let to = (OCTAVE * spacing).min(self.reach());
            all.extend(self.best_of(&set, &self.models(spacing, from, to), spacing, kernel));
            (from, spacing) = (to, 2.0 * spacing);
            set = slower(&set, GRID_LIMIT / spacing);
        }
        all
    }

    /// The models of a grid with this `spacing` that have the highest objective over a set, best first, none next to a
    /// better one.
    fn best_of(&self, set: &HalfSets, models: &[Model], spacing: f64, kernel: Kernel) -> Vec<Model> {
        let all = set.frequencies.len();
        let values: Vec<f64> = models.par_iter().map(|m| objective(set, m, kernel, 0..all).value).collect();
        let mut order: Vec<usize> = (0..models.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
        // Neighbours lead to the same maximum: only models apart from all better ones. Those of the finest grid are less than
        // a scan pixel apart in either orientation of the detector.
        let mut starts: Vec<Model> = Vec::new();
        for i in order {
            if starts.len() == CANDIDATES {
                break;
            }
            if starts.iter().all(|s| self.distance(s, &models[i]) > 1.1 * spacing) {
                starts.push(models[i]);
            }
        }
        starts
    }

    /// Largest difference of two models' displacements at the disk's edge, in scan pixels. The two branches (turned by
    /// 180°, all signs reversed) are the same: they differ in the sign of every sum only.
    fn distance(&self, a: &Model, b: &Model) -> f64 {
        let (ma, mb) = (a.matrix(), b.matrix());
        let difference: f64 = (0..4).map(|i| (ma[i / 2][i % 2] - mb[i / 2][i % 2]).powi(2)).sum();
        difference.sqrt() * self.disk.radius
    }

    /// The `most` starting points that explain most as they are.
    fn promising(&self, starts: &[Model], kernel: Kernel, most: usize) -> Vec<Model> {
        let values: Vec<f64> = starts.iter().map(|m| evaluate(self.wide, m, kernel).value).collect();
        let mut order: Vec<usize> = (0..starts.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
        order.into_iter().take(most).map(|i| starts[i]).collect()
    }

    /// The maxima that the search reaches from each starting point, in so many iterations.
    fn search(&self, set: &HalfSets, starts: &[Model], kernel: Kernel, iterations: usize) -> Result<Vec<Found>> {
        let each = starts.iter().map(|start| {
            self.ctx.cancel.check()?;
            Ok(self.refine(set, start, kernel.with_overlap(start), iterations))
        });
        each.collect()
    }

    /// The way up in displacements at the disk's edge and radians. Which disks overlap is fixed: pixels that change sides
    /// would make the objective jump.
    fn refine(&self, set: &HalfSets, start: &Model, kernel: Kernel, iterations: usize) -> Found {
        let scale = [self.disk.radius, self.disk.radius, self.disk.radius, 1.0];
        let model = |x: &[f64]| Model { parameters: std::array::from_fn(|p| x[p] / scale[p]), ..*start };
        let from: Vec<f64> = start.parameters.iter().zip(scale).map(|(p, s)| p * s).collect();
        let summit = climb(&from, None, iterations, |x| {
            let o = evaluate(set, &model(x), kernel);
            (o.value, o.gradient.iter().zip(scale).map(|(g, s)| g / s).collect())
        });
        let value = summit.values.last().copied().unwrap_or(0.0);
        Found { model: model(&summit.at), value }
    }
}

/// The frequencies of a set up to a limit.
fn slower(set: &HalfSets, limit: f64) -> HalfSets {
    let slow = |i: &usize| set.frequencies[*i][0].hypot(set.frequencies[*i][1]) <= limit;
    set.with_frequencies((0..set.frequencies.len()).filter(slow))
}

/// The frequencies of a set in pieces that are worked on side by side.
fn pieces_of(set: &HalfSets) -> impl IndexedParallelIterator<Item = std::ops::Range<usize>> {
    let all = set.frequencies.len();
    (0..all.div_ceil(PIECE)).into_par_iter().map(move |i| i * PIECE..((i + 1) * PIECE).min(all))
}

/// The objective over all frequencies of a set.
pub(super) fn evaluate(set: &HalfSets, model: &Model, kernel: Kernel) -> Objective {
    let pieces: Vec<Objective> = pieces_of(set).map(|range| objective(set, model, kernel, range)).collect();
    let mut total = Objective::default();
    for piece in &pieces {
        total.add(piece);
    }
    total
}
