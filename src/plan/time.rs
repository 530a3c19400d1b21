//! How long the steps of a run will take on a machine that was measured (`stemstream bench`).

use serde::Serialize;

use crate::config::Mode;
use crate::machine::{MachineRates, StepRates};
use crate::plan::{DiskCost, Plan};

/// The time that one step is expected to take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepTime {
    /// The step.
    pub step: &'static str,
    /// Seconds of wall time.
    pub seconds: f64,
}

/// What the steps' work depends on beyond the plan. A *sample* is one detector pixel at one scan position.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Whether bigFT and correlations are kept.
    pub mode: Mode,
    /// Pixels of all upscaled images that are made.
    pub output: u64,
    /// Samples of the crop.
    pub samples: u64,
    /// Samples inside the disk.
    pub disk_samples: u64,
    /// Samples that the classic method puts into its image.
    pub deposited: u64,
    /// Whether aberrations are fitted.
    pub parametric: bool,
    /// Whether the fit has a calibration, and with it a second kernel.
    pub calibrated: bool,
    /// Whether the shifts are refined.
    pub refined: bool,
    /// Whether the source comes from the disk, and does not lie in memory.
    pub from_disk: bool,
}

impl Timing {
    /// Expected seconds, step by step. Steps whose rate was not measured are left out; the second value names them.
    ///
    pub fn of(&self, plan: &Plan, rates: &MachineRates) -> (Vec<StepTime>, Vec<&'static str>) {
        let s = &rates.steps;
        // Rates are of so many threads; these steps have work for all of them.
        let share = if s.workers > 0 { s.workers as f64 / plan.workers.max(1) as f64 } else { 1.0 };
        let per = |rate: f64, amount: u64| rate * amount as f64;
        let align = match self.mode {
            Mode::Lean => s.align_lean,
            Mode::Documented if plan.in_place => s.align_in_place,
            Mode::Documented => s.align_documented,
        };
        let moved = StepRates::turned(plan.disk_cost.source as f64, plan.disk_cost.stack as f64);
        let mut all = vec![
            ("start", s.start),
            ("corner turn", (s.corner_turn * moved).max(self.read(&plan.disk_cost, rates))),
            ("alignment", per(align, self.samples) * share),
        ];
        if self.parametric {
            let search = if self.calibrated { s.search } else { s.search_uncalibrated };
            // Without the search, which is most of it, the passes say little.
            let passes = if search > 0.0 { per(s.fit, self.disk_samples) } else { 0.0 };
            all.push(("fit", (passes + search) * share));
        }
        if self.parametric && self.refined {
            all.push(("refinement", s.refine_fixed * share));
        }
        if self.parametric {
            all.push(("image", per(s.merge, self.disk_samples) * share));
        } else {
            all.push(("image", per(s.deposit, self.deposited) * share));
        }
        if plan.disk_cost.hdf5 > 0 && !plan.in_place {
            all.push(("HDF5 cache", per(s.export_hdf5, self.samples)));
        }
        let finish = if self.parametric { s.finish } else { s.finish_classic };
        all.push(("results", finish.seconds(self.output as f64)));
        let missing = all.iter().filter(|(_, seconds)| *seconds <= 0.0).map(|(step, _)| *step).collect();
        let known = all.into_iter().filter(|(_, seconds)| *seconds > 0.0);
        (known.map(|(step, seconds)| StepTime { step, seconds }).collect(), missing)
    }

    /// Seconds that the disk takes for a source that does not lie in memory.
    fn read(&self, cost: &DiskCost, rates: &MachineRates) -> f64 {
        let cold = self.from_disk && rates.cold_read > 0.0;
        if cold { cost.source as f64 / rates.cold_read } else { 0.0 }
    }
}
