//! Scans of any size at the speed of a disk, with known aberrations.
//!
//! A small scan is simulated once, of an object that repeats itself after exactly that scan. The large scan of the same
//! object needs no further simulation: frame `(i, j)` expects what frame `(i mod p, j mod q)` of the small one does,
//! without a seam, and what is true of the shifts is true everywhere. Only the electrons are counted anew in every
//! frame, with noise that is independent of that of all other frames ([`PoissonTables`]): copies that shared their noise
//! would look like contrast to a fit.
//!
//! Beyond [`FIELD`] radii from the middle the detector stays dark.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use super::object::ObjectGeometry;
use super::spec::{HotPixel, ObjectKind, SimulationSpec, bad};
use super::{Bench, Faults, warn_about_wrapping};
use crate::axes::{Crop, DetShape, ScanShape};
use crate::error::Result;
use crate::kernel::forward::{ForwardPlan, fast_len};
use crate::kernel::poisson::{PoissonTables, random, stream_key};
use crate::progress::{CancelToken, Progress};

/// Largest period in scan positions.
const MOST_POSITIONS: usize = 128;
/// Bytes of the expectations of one period, at most.
const MOST_BYTES: usize = 128 << 20;
/// Half the side of the square that is simulated, in radii of the disk, and pixels added to it.
const FIELD: f64 = 1.5;
const FIELD_MARGIN: f64 = 2.0;
/// Pixels of the transforms for each pixel of the disk's radius: what is scattered further than that comes back on the
/// other side, and is less than 0.1 % of what is scattered.
const WINDOW: f64 = 4.5;
/// Displacements must be shorter than this part of the period, or a shift by a period would explain them as well.
const LARGEST_SHIFT: f64 = 0.25;
/// Brightest pixel that is expected, in units of the disk without an object; measured, and raised where it is not enough.
const BRIGHTEST: f64 = 4.0;
/// Random numbers of a frame's hot pixels begin here: far behind those of its other pixels.
const HOT: u64 = 1 << 40;

/// A large scan of a periodic object, of which any frame can be made at once. Threads may share it.
#[derive(Debug)]
pub struct FastScan {
    spec: SimulationSpec,
    period: ScanShape,
    /// The lit part of the detector.
    lit: Crop,
    tables: PoissonTables,
    /// Level of expectation of every lit pixel in every frame of a period, `[frame, row, col]`.
    levels: Vec<u8>,
    /// Index of each hot pixel, and its own counts.
    hot: Vec<(usize, PoissonTables)>,
}

impl FastScan {
    /// Simulates one period on the current rayon pool; the result does not depend on the number of its threads.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) for a specification that is out of range, of a crystal, or of
    /// displacements that the period is too short for; [`Interrupted`](crate::error::ErrorKind::Interrupted).
    pub fn prepare(spec: &SimulationSpec, cancel: &CancelToken, progress: &dyn Progress) -> Result<Self> {
        Self::check(spec)?;
        let (period, lit) = (period_of(spec), lit_part(spec));
        let small = small_spec(spec, period, lit);
        small.check()?;
        let geometry = ObjectGeometry::new(&small)?;
        warn_about_wrapping(&small, &geometry, progress);
        progress.begin("simulate", (period.len() * lit.shape().len()) as u64);
        let (mut brightest, mut made) = (BRIGHTEST, None);
        // Once more if a pixel is brighter than thought.
        while made.is_none() {
            let tables = PoissonTables::new((brightest * spec.counts).max(f64::MIN_POSITIVE));
            let (levels, found) = levels(&small, &geometry, &tables, (cancel, progress))?;
            if found <= brightest {
                made = Some((tables, levels));
            }
            brightest = 1.01 * found;
        }
        progress.end();
        let (tables, levels) = made.unwrap_or_else(|| (PoissonTables::new(1.0), Vec::new()));
        let dead = |at: &[usize; 2]| spec.dead_pixels.contains(at);
        let hot = spec.hot_pixels.iter().filter(|hot| hot.counts > 0.0 && !dead(&hot.at));
        let hot = hot.map(|hot| (hot.at[0] * spec.det.cols + hot.at[1], PoissonTables::single(hot.counts))).collect();
        Ok(Self { spec: spec.clone(), period, lit, tables, levels, hot })
    }

    /// Whether [`prepare`](Self::prepare) can work, without working.
    ///
    /// # Errors
    /// As there.
    pub fn check(spec: &SimulationSpec) -> Result<()> {
        spec.check()?;
        if let ObjectKind::Crystal { .. } = spec.object {
            return Err(bad("the object of a fast scan", "a film or vacuum", "a crystal")
                .with_hint("simulate a crystal without `--fast`: its lattice would have to fit into the period"));
        }
        let period = period_of(spec);
        let (rows, cols) = spec.true_shifts();
        let largest = rows.iter().zip(&cols).map(|(r, c)| r.hypot(*c)).fold(0.0, f64::max);
        let most = LARGEST_SHIFT * period.rows.min(period.cols) as f64;
        if largest > most {
            let expected = format!("at most {most:.1} scan pixels (the object's period is {period})");
            return Err(bad("the largest displacement of a fast scan", &expected, format!("{largest:.1}"))
                .with_hint("take less defocus, larger steps or more scan positions, or simulate without `--fast`"));
        }
        Ok(())
    }

    /// What is simulated: complete, with the large scan's shape.
    pub fn spec(&self) -> &SimulationSpec {
        &self.spec
    }

    /// Scan rows and columns after which the object repeats itself.
    pub fn period(&self) -> ScanShape {
        self.period
    }

    /// Bytes that a prepared scan holds.
    pub fn held_bytes(&self) -> u64 {
        self.levels.len() as u64
    }

    /// Makes frame `index` (in scan order): `[det row, det col]` as big-endian 16-bit counts. The same specification
    /// gives the same counts, in any order and on any thread.
    ///
    /// # Panics
    /// When `out` does not have two bytes for each detector pixel.
    pub fn fill_be(&self, index: usize, out: &mut [u8]) {
        let (det, lit) = (self.spec.det, self.lit.shape());
        assert_eq!(out.len(), 2 * det.len(), "two bytes for each detector pixel");
        if lit != det {
            out.fill(0);
        }
        let (row, col) = (index / self.spec.scan.cols, index % self.spec.scan.cols);
        let place = (row % self.period.rows) * self.period.cols + col % self.period.cols;
        let levels = &self.levels[place * lit.len()..][..lit.len()];
        let key = stream_key(self.spec.seed, index as u64);
        let mut counter = 0;
        for (line, levels) in levels.chunks_exact(lit.cols).enumerate() {
            let start = 2 * ((self.lit.row0 + line) * det.cols + self.lit.col0);
            counter = self.tables.fill_be(levels, key, counter, &mut out[start..start + 2 * lit.cols]);
        }
        for ((pixel, counts), number) in self.hot.iter().zip(HOT..) {
            let mut more = [0; 2];
            counts.fill_be(&[0], key, number, &mut more);
            let slot = &mut out[2 * pixel..2 * pixel + 2];
            let sum = u16::from_be_bytes([slot[0], slot[1]]).saturating_add(u16::from_be_bytes(more));
            slot.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// Near-equal periods of at most [`MOST_POSITIONS`] in either direction, whose expectations fit in [`MOST_BYTES`].
fn period_of(spec: &SimulationSpec) -> ScanShape {
    let pixels = lit_part(spec).shape().len();
    let mut most = MOST_POSITIONS;
    loop {
        let side = |n: usize| n.div_ceil(n.div_ceil(most));
        let period = ScanShape::new(side(spec.scan.rows), side(spec.scan.cols));
        if most == 1 || period.len() * pixels <= MOST_BYTES {
            return period;
        }
        most = most * 7 / 8;
    }
}

/// The part of the detector around the disk that is simulated.
fn lit_part(spec: &SimulationSpec) -> Crop {
    let reach = FIELD * spec.disk_radius_px + FIELD_MARGIN;
    let range = |n: usize, offset: f64| {
        let half = ((reach + offset.abs()).ceil() as usize).min(n);
        ((n / 2).saturating_sub(half), (n / 2 + half).min(n))
    };
    let (row0, row1) = range(spec.det.rows, spec.center_offset[0]);
    let (col0, col1) = range(spec.det.cols, spec.center_offset[1]);
    Crop { row0, row1, col0, col1 }
}

/// The scan of one period with a detector that is the lit part.
fn small_spec(spec: &SimulationSpec, period: ScanShape, lit: Crop) -> SimulationSpec {
    let DetShape { rows, cols } = lit.shape();
    let needed = rows.max(cols).max((WINDOW * spec.disk_radius_px).ceil() as usize);
    let dead = spec
        .dead_pixels
        .iter()
        .filter(|at| (lit.row0..lit.row1).contains(&at[0]) && (lit.col0..lit.col1).contains(&at[1]));
    SimulationSpec {
        scan: period,
        det: lit.shape(),
        window: fast_len(needed),
        // Counts of hot pixels are added to those of the others frame by frame.
        hot_pixels: Vec::<HotPixel>::new(),
        dead_pixels: dead.map(|at| [at[0] - lit.row0, at[1] - lit.col0]).collect(),
        ..spec.clone()
    }
}

/// The levels of all pixels of one period, and the brightest expectation in units of the empty disk.
fn levels(
    small: &SimulationSpec,
    geometry: &ObjectGeometry,
    tables: &PoissonTables,
    (cancel, progress): (&CancelToken, &dyn Progress),
) -> Result<(Vec<u8>, f64)> {
    let object = match small.object {
        ObjectKind::Film => geometry.periodic_film(small),
        _ => geometry.object(small),
    };
    cancel.check()?;
    let (optical, pixels) = (small.optical_det(), small.det.len());
    let plan = ForwardPlan::new(&small.beam(), optical, small.window);
    let faults = Faults::new(small);
    let brightest = AtomicU32::new(0);
    let mut levels = vec![0u8; small.scan.len() * pixels];
    levels.par_chunks_exact_mut(pixels).enumerate().try_for_each_init(
        || Bench::new(&plan, pixels),
        |Bench { pattern, scratch }: &mut Bench, (index, levels): (usize, &mut [u8])| {
            cancel.check()?;
            plan.pattern(&object, geometry.position(small, index), pattern, scratch);
            // Bits of positive numbers are ordered as they are.
            brightest.fetch_max(pattern.iter().copied().fold(0.0, f32::max).to_bits(), Ordering::Relaxed);
            // No frame of the large scan has a stream of this number.
            let key = stream_key(small.seed, u64::MAX - index as u64);
            for (pixel, level) in levels.iter_mut().enumerate() {
                let [row, col] = small.before_exchange([pixel / small.det.cols, pixel % small.det.cols]);
                let gain = faults.0.get(pixel).map_or(1.0, |[gain, _]| *gain);
                let expected = f64::from(pattern[row * optical.cols + col]) * small.counts * gain;
                *level = tables.level(expected, random(key, pixel as u64));
            }
            progress.advance(pixels as u64);
            Ok(())
        },
    )?;
    Ok((levels, f64::from(f32::from_bits(brightest.into_inner()))))
}

#[cfg(test)]
mod tests;
