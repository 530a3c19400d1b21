//! The search with both side bands apart: what replaces the weak-phase kernel where that does not explain the data.
//!
//! Filters that do not know the contrast are nearly the same for all frequencies that the scan folds onto each other where
//! displacements are small. One by one they would all explain the same once more, and prefer no displacement at all; so the
//! search takes them together from the beginning, and looks at some groups of frequencies only.

use std::ops::Range;

use crate::error::Result;
use crate::kernel::crosspower::{HalfSets, Kernel, Model};
use crate::progress::CancelToken;
use crate::steps::parametric::kernels::some_groups;
use crate::steps::parametric::outcome::Null;
use crate::steps::parametric::polish::{Found, Hill};

/// What one model explains of each group.
struct Looked {
    model: Model,
    values: Vec<f64>,
}

impl Looked {
    fn total(&self) -> f64 {
        self.values.iter().sum()
    }
}

/// A search and all that it has looked at.
pub(super) struct Search<'a> {
    sets: &'a HalfSets,
    groups: Vec<Range<usize>>,
    kernel: Kernel,
    radius: f64,
    looked: Vec<Looked>,
}

impl<'a> Search<'a> {
    /// Looks at all `models`.
    pub(super) fn new(
        sets: &'a HalfSets,
        (kernel, radius): (Kernel, f64),
        models: &[Model],
        cancel: &CancelToken,
    ) -> Result<Self> {
        let mut this =
            Self { sets, groups: some_groups(sets), kernel, radius, looked: Vec::with_capacity(models.len()) };
        for model in models {
            cancel.check()?;
            let looked = this.look(model);
            this.looked.push(looked);
        }
        this.looked.sort_by(|a, b| b.total().total_cmp(&a.total()));
        Ok(this)
    }

    fn hill(&self, model: &Model) -> Hill<'a> {
        let kernel = self.kernel.with_overlap(model);
        Hill::new(self.sets, self.groups.clone(), kernel, self.radius, model.transposed)
    }

    fn look(&self, model: &Model) -> Looked {
        Looked { model: *model, values: self.hill(model).values(model) }
    }

    /// At most `most` maxima near the best models, best first, all `apart` from each other.
    pub(super) fn maxima(
        &self,
        most: usize,
        apart: impl Fn(&Model, &Model) -> bool,
        cancel: &CancelToken,
    ) -> Result<Vec<Found>> {
        let mut found: Vec<Found> = Vec::new();
        for start in &self.looked {
            if found.len() == most {
                break;
            }
            cancel.check()?;
            let model = self.hill(&start.model).top(&start.model);
            if found.iter().all(|f| apart(&f.model, &model)) {
                found.push(Found { model, value: self.look(&model).total() });
            }
        }
        found.sort_by(|a, b| b.value.total_cmp(&a.value));
        Ok(found)
    }

    /// How far a model stands above wrong ones, in robust standard deviations. Every group counts by the root of the most that
    /// any model explains of it: slow frequencies are strong, and much the same for all models.
    pub(super) fn significance(&self, best: &Model, wrong: impl Iterator<Item = Model>) -> f64 {
        let best = self.look(best);
        let wrong: Vec<Looked> = wrong.map(|model| self.look(&model)).collect();
        let all = || wrong.iter().chain([&best]);
        let scale: Vec<f64> = (0..self.groups.len())
            .map(|g| all().map(|l| l.values[g].abs()).fold(0.0, f64::max))
            .map(|most| if most > 0.0 { 1.0 / most.sqrt() } else { 0.0 })
            .collect();
        let height = |l: &Looked| l.values.iter().zip(&scale).map(|(v, s)| v * s).sum::<f64>();
        Null::new(&wrong.iter().map(height).collect::<Vec<_>>()).significance(height(&best))
    }

    /// By how many standard errors of the groups' scatter one model explains less than another.
    pub(super) fn distance(&self, better: &Model, other: &Model) -> f64 {
        let (better, other) = (self.look(better), self.look(other));
        let differences = || better.values.iter().zip(&other.values).map(|(a, b)| a - b);
        differences().sum::<f64>() / differences().map(|d| d * d).sum::<f64>().sqrt().max(f64::MIN_POSITIVE)
    }
}
