//! The steps that are left, in order.

use crate::cache::Step;
use crate::config::Mode;
use crate::error::Result;
use crate::steps::{self, BrightDisk, Reconstruction, RunContext};

/// Runs everything that is not done yet, up to `target`; the stack is made or opened only when a step needs it. Returns
/// the image when it was made; the cache does not hold it yet.
pub(super) fn run_steps(ctx: &RunContext<'_>, disk: &BrightDisk, target: Step) -> Result<Option<Reconstruction>> {
    let turn = || steps::corner_turn(ctx, disk);
    match target {
        Step::Detect => return Ok(None),
        Step::Stack => return turn().map(|_| None),
        Step::Fft => return steps::fft(ctx, &turn()?).map(|_| None),
        Step::Correlate | Step::Peaks | Step::Shifts | Step::Reconstruct => {}
    }
    let mut stack = None;
    let shifts = if let Some(maps) = steps::ShiftMaps::finished(ctx)? {
        maps
    } else {
        let correlations = match steps::Spectra::finished(ctx) {
            Some(spectra) if ctx.config.run.mode == Mode::Documented => steps::correlate(ctx, &spectra)?,
            _ => steps::align(ctx, stack.insert(turn()?))?,
        };
        if target <= Step::Peaks {
            return Ok(None);
        }
        let fit = if ctx.config.is_parametric() {
            let stack = match &stack {
                Some(stack) => stack,
                None => stack.insert(turn()?),
            };
            let spectra = steps::fit_spectra(ctx, disk, stack)?;
            Some((steps::fit_aberrations(ctx, disk, &spectra)?, spectra))
        } else {
            None
        };
        steps::find_shifts(ctx, &correlations, disk, fit.as_ref().map(|(fit, spectra)| (fit, spectra)))?
    };
    if target == Step::Reconstruct && !ctx.is_done(Step::Reconstruct) {
        let stack = match stack {
            Some(stack) => stack,
            None => turn()?,
        };
        return steps::reconstruct(ctx, disk, &stack, &shifts).map(Some);
    }
    Ok(None)
}
