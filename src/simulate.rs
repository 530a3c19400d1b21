//! Scans with known aberrations: what a method must find is known before it looks.
//!
//! A thin film of randomly placed atoms with a few crystalline particles in it, one slice, seen by a probe with
//! defocus and twofold astigmatism; counts are Poisson distributed. The same specification gives the same counts for
//! any number of threads: every frame draws from its own stream of random numbers. (Another kind of processor may
//! round an expected intensity differently and so change a few counts.)

use std::fmt::Display;

use ndarray::Array2;
use num_complex::Complex32;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Poisson};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::axes::{Calibration, DetShape, Image, ScanShape, wavelength_angstrom};
use crate::error::{Error, Result};
use crate::kernel::forward::{Aberrations, Beam, ForwardPlan, PhaseGrid, Transmission, fast_len, rotate};
use crate::progress::{CancelToken, Progress};

/// Width (sigma) of one projected atom in Å.
const ATOM_SIGMA: f64 = 0.70;
/// Atoms of the film per Å².
const FILM_DENSITY: f64 = 0.15;
/// Phase at the centre of an atom of the film and of a particle, in radians.
const FILM_PHASE: f64 = 0.22;
const PARTICLE_PHASE: f64 = 0.45;
/// Bounds of the object: pixels (16 GiB) and atoms (a minute of work).
const LARGEST_OBJECT: f64 = (1u64 << 31) as f64;
const MOST_ATOMS: f64 = 2e9;
/// Frames that one worker makes before they are handed on, at most.
const FRAMES_PER_WORKER: usize = 64;
/// Bytes of frames that one worker holds, at most (but at least one frame).
const BYTES_PER_WORKER: usize = 4 << 20;

/// A simulated scan. Vectors are `[row, col]`; angles run from the row axis towards the column axis.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulationSpec {
    /// Scan rows and columns.
    pub scan: ScanShape,
    /// Detector rows and columns.
    pub det: DetShape,
    /// Pixels of the transforms behind each pattern, at least as many as the detector has in either direction.
    pub window: usize,
    /// Radius of the bright-field disk in detector pixels.
    pub disk_radius_px: f64,
    /// Symmetric aberration in Å, the negative of the defocus.
    pub c10_angstrom: f64,
    /// Amplitude of twofold astigmatism in Å, in the detector's frame.
    pub c12_angstrom: f64,
    /// Direction of twofold astigmatism in degrees, in the detector's frame.
    pub phi12_deg: f64,
    /// Rotation between detector and scan axes in degrees: `k_scan = R(-rotation) k_det`.
    pub rotation_deg: f64,
    /// Distance between scan positions in Å.
    pub step_angstrom: f64,
    /// Mean counts of a detector pixel inside the disk and without an object.
    pub counts: f64,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Centre of the disk, in pixels from detector pixel `[rows / 2, cols / 2]`.
    pub center_offset: [f64; 2],
    /// Beam energy in eV.
    pub energy_ev: f64,
    /// Convergence semi-angle in mrad.
    pub semiangle_mrad: f64,
}

impl SimulationSpec {
    /// Names of the ready-made specifications.
    pub const PRESETS: [&str; 5] = ["small", "low", "rotated", "medium", "large"];

    /// A ready-made specification: `small` (64×64 positions, 19 MB), `low` (little defocus), `rotated` (40° between
    /// detector and scan), `medium` (128×128, 302 MB) or `large` (256×256, 537 MB, few counts).
    pub fn preset(name: &str) -> Option<Self> {
        let small = Self {
            scan: ScanShape::new(64, 64),
            det: DetShape::new(48, 48),
            window: 96,
            disk_radius_px: 16.0,
            c10_angstrom: -1500.0,
            c12_angstrom: 120.0,
            phi12_deg: 30.0,
            rotation_deg: 0.0,
            step_angstrom: 4.0,
            counts: 120.0,
            seed: 11,
            center_offset: [0.35, -0.20],
            energy_ev: 80e3,
            semiangle_mrad: 10.0,
        };
        let off = [0.20, -0.30];
        Some(match name {
            "small" => small,
            "low" => Self { c10_angstrom: -300.0, c12_angstrom: 30.0, seed: 77, center_offset: off, ..small },
            "rotated" => Self { c12_angstrom: 400.0, rotation_deg: 40.0, seed: 78, center_offset: off, ..small },
            "medium" => Self {
                scan: ScanShape::new(128, 128),
                det: DetShape::new(96, 96),
                window: 192,
                disk_radius_px: 30.0,
                c10_angstrom: -1800.0,
                c12_angstrom: 150.0,
                phi12_deg: 20.0,
                rotation_deg: 15.0,
                counts: 400.0,
                seed: 22,
                center_offset: [0.30, 0.45],
                ..small
            },
            "large" => Self {
                scan: ScanShape::new(256, 256),
                det: DetShape::new(64, 64),
                window: 128,
                disk_radius_px: 24.0,
                c10_angstrom: -1600.0,
                c12_angstrom: 100.0,
                phi12_deg: -35.0,
                rotation_deg: -8.0,
                counts: 60.0,
                seed: 44,
                center_offset: [-0.25, 0.15],
                ..small
            },
            _ => return None,
        })
    }

    /// Where the disk's centre lies, `[row, col]` in detector pixels.
    pub fn true_center(&self) -> [f64; 2] {
        [(self.det.rows / 2) as f64 + self.center_offset[0], (self.det.cols / 2) as f64 + self.center_offset[1]]
    }

    /// By how many scan pixels the virtual image of each detector pixel is displaced from the axial one:
    /// (rows, columns), each `[det row, det col]`, NaN outside the disk.
    ///
    /// `R(-rotation) (-∇χ / 2π) / step`; the shift that undoes it is its negative.
    pub fn true_shifts(&self) -> (Image, Image) {
        let beam = self.beam();
        let center = self.true_center();
        let shape = (self.det.rows, self.det.cols);
        let (mut rows, mut cols) = (Array2::from_elem(shape, f64::NAN), Array2::from_elem(shape, f64::NAN));
        for ((row, col), slot) in rows.indexed_iter_mut() {
            let k = [(row as f64 - center[0]) * beam.k_step, (col as f64 - center[1]) * beam.k_step];
            if k[0].hypot(k[1]) * beam.wavelength_angstrom <= self.semiangle_mrad * 1e-3 {
                let moved = beam.aberrations.displacement(k, beam.wavelength_angstrom);
                let in_scan = rotate(moved, -self.rotation_deg.to_radians());
                *slot = in_scan[0] / self.step_angstrom;
                cols[[row, col]] = in_scan[1] / self.step_angstrom;
            }
        }
        (rows, cols)
    }

    /// The physical units of this scan, complete.
    pub fn calibration(&self) -> Calibration {
        Calibration {
            energy_ev: Some(self.energy_ev),
            semiangle_mrad: Some(self.semiangle_mrad),
            scan_step_angstrom: Some(self.step_angstrom),
            detector_mrad_per_px: Some(self.semiangle_mrad / self.disk_radius_px),
            rotation_deg: Some(self.rotation_deg),
            defocus_angstrom: Some(-self.c10_angstrom),
        }
    }

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

    /// Whether this specification can be simulated.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) that names the value that is out of range.
    pub fn check(&self) -> Result<()> {
        let sides = [self.scan.rows, self.scan.cols, self.det.rows, self.det.cols];
        if sides.iter().any(|&side| !(1..=1 << 16).contains(&side)) {
            return Err(bad("every side of scan and detector", "between 1 and 65536", format!("{sides:?}")));
        }
        let det = self.det.rows.max(self.det.cols);
        if self.window < det || self.window > 8192 {
            return Err(bad("the window", &format!("between {det} (the detector) and 8192"), self.window));
        }
        let largest = self.window as f64 / 2.0 - 1.0 - self.center_offset[0].abs().max(self.center_offset[1].abs());
        for (what, value, range) in [
            ("the disk radius (pixels)", self.disk_radius_px, 0.5..=largest),
            ("C10 (Å)", self.c10_angstrom.abs(), 0.0..=1e7),
            ("C12 (Å)", self.c12_angstrom.abs(), 0.0..=1e7),
            ("phi12 (degrees)", self.phi12_deg.abs(), 0.0..=1e4),
            ("the rotation (degrees)", self.rotation_deg.abs(), 0.0..=1e4),
            ("the scan step (Å)", self.step_angstrom, 1e-3..=1e5),
            ("the counts", self.counts, 0.0..=65535.0),
            ("the beam energy (eV)", self.energy_ev, 1e3..=1e7),
            ("the semi-angle (mrad)", self.semiangle_mrad, 1e-3..=200.0),
        ] {
            if !range.contains(&value) {
                return Err(bad(what, &format!("between {} and {}", range.start(), range.end()), value));
            }
        }
        Ok(())
    }

    fn beam(&self) -> Beam {
        let wavelength = wavelength_angstrom(self.energy_ev);
        Beam {
            wavelength_angstrom: wavelength,
            aberrations: Aberrations {
                c10_angstrom: self.c10_angstrom,
                c12_angstrom: self.c12_angstrom,
                phi12_rad: self.phi12_deg.to_radians(),
            },
            disk_radius_px: self.disk_radius_px,
            k_step: self.semiangle_mrad * 1e-3 / self.disk_radius_px / wavelength,
            center_offset: self.center_offset,
        }
    }

    fn frames_per_worker(&self) -> usize {
        (BYTES_PER_WORKER / (self.det.len() * 2)).clamp(1, FRAMES_PER_WORKER)
    }

    /// Å from the middle of the scan to the middle of its last row and column.
    fn half_scan(&self) -> [f64; 2] {
        [self.scan.rows, self.scan.cols].map(|n| n as f64 * self.step_angstrom / 2.0)
    }
}

fn bad(what: &str, expected: &str, found: impl Display) -> Error {
    Error::config(format!("cannot simulate: {what} must be {expected}, found {found}"))
        .with_hint(format!("start from one of the presets: {}", SimulationSpec::PRESETS.join(", ")))
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
    let plan = ForwardPlan::new(&spec.beam(), spec.det, spec.window);
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
                    count_electrons(spec, index, &bench.pattern, frame);
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

/// Replaces expected intensities by Poisson counts; frame `index` has its own stream of random numbers.
fn count_electrons(spec: &SimulationSpec, index: usize, pattern: &[f32], frame: &mut [u16]) {
    let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
    // Stream 0 places the atoms.
    rng.set_stream(index as u64 + 1);
    for (count, &intensity) in frame.iter_mut().zip(pattern) {
        // An expectation of zero has no distribution but is, of course, zero counts.
        *count = Poisson::new(f64::from(intensity) * spec.counts)
            .map_or(0, |poisson| poisson.sample(&mut rng).min(f64::from(u16::MAX)) as u16);
    }
}

fn warn_about_wrapping(spec: &SimulationSpec, geometry: &ObjectGeometry, progress: &dyn Progress) {
    let blur = (spec.c10_angstrom.abs() + spec.c12_angstrom.abs()) * spec.semiangle_mrad * 1e-3;
    let room = geometry.pixel * spec.window as f64 / 2.0;
    if blur > 0.9 * room {
        progress.warn(&format!(
            "the probe is {blur:.0} Å wide but the window only {room:.0} Å (half-widths): patterns will wrap around; \
             use a larger window"
        ));
    }
}

/// How the object lies on its grid, in the detector's frame; the scan's middle is at `middle`.
struct ObjectGeometry {
    rows: usize,
    cols: usize,
    /// Å per grid pixel.
    pixel: f64,
    middle: [f64; 2],
}

impl ObjectGeometry {
    /// A grid that holds every probe's window, with a margin so that no window sees the periodic border.
    fn new(spec: &SimulationSpec) -> Result<Self> {
        let pixel = 1.0 / (spec.window as f64 * spec.beam().k_step);
        let half = spec.half_scan();
        let (sin, cos) = spec.rotation_deg.to_radians().sin_cos();
        let reach = [half[0] * cos.abs() + half[1] * sin.abs(), half[0] * sin.abs() + half[1] * cos.abs()];
        let side = |reach: f64| 2.0 * (reach + 5.0 * ATOM_SIGMA) / pixel + spec.window as f64 + 4.0;
        let needed = side(reach[0]) * side(reach[1]);
        let smaller = "take fewer scan positions, a smaller step or a smaller window";
        if needed > LARGEST_OBJECT {
            return Err(bad("the pixels of the object", &format!("at most {LARGEST_OBJECT}"), format!("{needed:.0}"))
                .with_hint(smaller));
        }
        let atoms = FILM_DENSITY * needed * pixel * pixel;
        if atoms > MOST_ATOMS {
            return Err(bad("the atoms of the object", &format!("at most {MOST_ATOMS}"), format!("{atoms:.0}"))
                .with_hint(smaller));
        }
        let (rows, cols) = (fast_len(side(reach[0]).ceil() as usize), fast_len(side(reach[1]).ceil() as usize));
        Ok(Self { rows, cols, pixel, middle: [rows as f64 / 2.0, cols as f64 / 2.0] })
    }

    /// Grid position of a point given in Å from the middle of the scan, in the scan's frame.
    fn place(&self, spec: &SimulationSpec, point: [f64; 2]) -> [f64; 2] {
        let turned = rotate(point, spec.rotation_deg.to_radians());
        [self.middle[0] + turned[0] / self.pixel, self.middle[1] + turned[1] / self.pixel]
    }

    /// Grid position of a frame's probe.
    fn position(&self, spec: &SimulationSpec, frame: usize) -> [f64; 2] {
        let (row, col) = (frame / spec.scan.cols, frame % spec.scan.cols);
        let from_middle = |index: usize, n: usize| (index as f64 - (n as f64 - 1.0) / 2.0) * spec.step_angstrom;
        self.place(spec, [from_middle(row, spec.scan.rows), from_middle(col, spec.scan.cols)])
    }

    /// A film of atoms over the whole grid and particles with square lattices within the scan.
    fn object(&self, spec: &SimulationSpec) -> Transmission {
        let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
        let mut grid = PhaseGrid::new(self.rows, self.cols);
        // Weights are integrals in radians times grid pixels.
        let area = std::f64::consts::TAU * (ATOM_SIGMA / self.pixel).powi(2);
        let atoms = FILM_DENSITY * (self.rows * self.cols) as f64 * self.pixel * self.pixel;
        for _ in 0..atoms as u64 {
            let position = [rng.random_range(0.0..self.rows as f64), rng.random_range(0.0..self.cols as f64)];
            grid.deposit(position, FILM_PHASE * area * rng.random_range(0.7..1.3));
        }
        let half = spec.half_scan();
        let particles = (10.0 * half[0] * half[1] / (256.0 * 256.0)).max(4.0);
        for _ in 0..particles as u64 {
            let center = half.map(|half| rng.random_range(-0.9 * half..0.9 * half));
            let (radius, spacing) = (rng.random_range(18.0..40.0), rng.random_range(3.2..6.0));
            let angle = rng.random_range(0.0..90.0f64).to_radians();
            let reach = (radius / spacing) as i32 + 1;
            for (a, b) in (-reach..=reach).flat_map(|a| (-reach..=reach).map(move |b| (a, b))) {
                let site = rotate([f64::from(a) * spacing, f64::from(b) * spacing], angle);
                if site[0].hypot(site[1]) < radius {
                    let position = self.place(spec, [site[0] + center[0], site[1] + center[1]]);
                    grid.deposit(position, PARTICLE_PHASE * area);
                }
            }
        }
        grid.blur(ATOM_SIGMA / self.pixel);
        grid.into_transmission()
    }
}
