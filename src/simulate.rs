//! Scans with known aberrations: what a method must find is known before it looks.
//!
//! A thin film of randomly placed atoms with a few crystalline particles in it (or a crystal, or nothing), one slice,
//! seen by a probe with aberrations of any order; counts are Poisson distributed. The same specification gives the same
//! counts for any number of threads: every frame draws from its own stream of random numbers. (Another kind of
//! processor may round an expected intensity differently and so change a few counts.)

mod fast;
mod object;
mod spec;

use num_complex::Complex32;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Poisson};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernel::aberrations::Term;
use crate::kernel::forward::ForwardPlan;
use crate::progress::{CancelToken, Progress};
pub use fast::FastScan;
use object::ObjectGeometry;
pub use spec::{HotPixel, ObjectKind, SimulationSpec};

/// Frames that one worker makes before they are handed on, at most.
const FRAMES_PER_WORKER: usize = 64;
/// Bytes of frames that one worker holds, at most (but at least one frame).
const BYTES_PER_WORKER: usize = 4 << 20;

impl SimulationSpec {
    /// Bytes that [`simulate`] takes for the object and its working space with this many workers.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn working_bytes(&self, workers: usize) -> Result<u64> {
        self.check()?;
        let object = ObjectGeometry::new(self)?;
        let per_worker = 32 * (self.window as u64).pow(2) + (self.frames_per_worker() * self.det.len() * 2) as u64;
        Ok((object.rows * object.cols * size_of::<Complex32>()) as u64 + workers.max(1) as u64 * per_worker)
    }

    fn frames_per_worker(&self) -> usize {
        (BYTES_PER_WORKER / (self.det.len() * 2)).clamp(1, FRAMES_PER_WORKER)
    }
}

/// Simulates a scan and hands its frames on in scan order: `sink(first frame, frames)`, where `frames` is a whole
/// number of patterns, `[frame, det row, det col]`. Memory stays bounded for any number of frames
/// ([`SimulationSpec::working_bytes`]).
///
/// The frames of a batch are computed on the current rayon pool by `workers` tasks; the result does not depend on
/// their number.
///
/// # Errors
/// A specification out of range, the sink's own errors, or
/// [`Interrupted`](crate::error::ErrorKind::Interrupted) once cancelled.
pub fn simulate(
    spec: &SimulationSpec,
    workers: usize,
    cancel: &CancelToken,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(usize, &[u16]) -> Result<()>,
) -> Result<()> {
    spec.check()?;
    let geometry = ObjectGeometry::new(spec)?;
    warn_about_wrapping(spec, &geometry, progress);
    let object = geometry.object(spec);
    cancel.check()?;
    let plan = ForwardPlan::new(&spec.beam(), spec.optical_det(), spec.window);
    let faults = Faults::new(spec);
    let pixels = spec.det.len();
    let per_worker = spec.frames_per_worker();
    let mut crew: Vec<Bench> = (0..workers.max(1)).map(|_| Bench::new(&plan, pixels)).collect();
    let mut frames = vec![0u16; crew.len() * per_worker * pixels];
    let total = spec.scan.len();
    progress.begin("simulate", (total * pixels * 2) as u64);
    for first in (0..total).step_by(crew.len() * per_worker) {
        let count = (total - first).min(crew.len() * per_worker);
        let batch = &mut frames[..count * pixels];
        batch.par_chunks_mut(per_worker * pixels).zip(&mut crew).enumerate().try_for_each(
            |(share, (chunk, bench))| {
                for (frame, index) in chunk.chunks_exact_mut(pixels).zip(first + share * per_worker..) {
                    cancel.check()?;
                    plan.pattern(&object, geometry.position(spec, index), &mut bench.pattern, &mut bench.scratch);
                    count_electrons(spec, &faults, index, &bench.pattern, frame);
                }
                Ok(())
            },
        )?;
        sink(first, batch)?;
        progress.advance((batch.len() * 2) as u64);
    }
    progress.end();
    Ok(())
}

/// What one worker needs for a pattern, allocated once.
struct Bench {
    pattern: Vec<f32>,
    scratch: Vec<Complex32>,
}

impl Bench {
    fn new(plan: &ForwardPlan, pixels: usize) -> Self {
        Self { pattern: vec![0.0; pixels], scratch: vec![Complex32::default(); plan.scratch_len()] }
    }
}

/// What every detector pixel makes of an expectation: `gain · expected + offset`, `[det row, det col]`; empty without
/// faults.
struct Faults(Vec<[f64; 2]>);

impl Faults {
    fn new(spec: &SimulationSpec) -> Self {
        if spec.hot_pixels.is_empty() && spec.dead_pixels.is_empty() {
            return Self(Vec::new());
        }
        let mut pixels = vec![[1.0, 0.0]; spec.det.len()];
        for hot in &spec.hot_pixels {
            pixels[hot.at[0] * spec.det.cols + hot.at[1]][1] += hot.counts;
        }
        for dead in &spec.dead_pixels {
            pixels[dead[0] * spec.det.cols + dead[1]] = [0.0; 2];
        }
        Self(pixels)
    }
}

/// Replaces expected intensities by Poisson counts; frame `index` has its own stream of random numbers.
fn count_electrons(spec: &SimulationSpec, faults: &Faults, index: usize, pattern: &[f32], frame: &mut [u16]) {
    let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
    // Stream 0 places the atoms.
    rng.set_stream(index as u64 + 1);
    for (pixel, count) in frame.iter_mut().enumerate() {
        let [row, col] = spec.before_exchange([pixel / spec.det.cols, pixel % spec.det.cols]);
        let expected = f64::from(pattern[row * spec.optical_det().cols + col]) * spec.counts;
        let expected = faults.0.get(pixel).map_or(expected, |[gain, offset]| gain * expected + offset);
        // An expectation of zero has no distribution but is, of course, zero counts.
        *count = Poisson::new(expected).map_or(0, |poisson| poisson.sample(&mut rng).min(f64::from(u16::MAX)) as u16);
    }
}

fn warn_about_wrapping(spec: &SimulationSpec, geometry: &ObjectGeometry, progress: &dyn Progress) {
    let alpha = spec.semiangle_mrad * 1e-3;
    let reach = |t: &Term| t.magnitude().abs() * alpha.powi(i32::from(t.m));
    let blur: f64 = spec.all_aberrations().terms().iter().map(reach).sum();
    let room = geometry.pixel * spec.window as f64 / 2.0;
    if blur > 0.9 * room {
        progress.warn(&format!(
            "the probe is {blur:.0} Å wide but the window only {room:.0} Å (half-widths): patterns will wrap around; \
             use a larger window"
        ));
    }
}
