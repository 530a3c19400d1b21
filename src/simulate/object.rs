//! The object: atoms on a grid in the detector's frame, large enough for every probe.

use std::f64::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::spec::{ObjectKind, SimulationSpec, bad};
use crate::error::Result;
use crate::kernel::forward::{PhaseGrid, Transmission, fast_len, rotate};

/// Width (sigma) of one projected atom in Å.
const ATOM_SIGMA: f64 = 0.70;
/// Atoms of the film per Å².
const FILM_DENSITY: f64 = 0.15;
/// Phase at the centre of an atom of the film and of a crystal, in radians.
const FILM_PHASE: f64 = 0.22;
const CRYSTAL_PHASE: f64 = 0.45;
/// Bounds of the object: pixels (16 GiB) and atoms (a minute of work).
const LARGEST_OBJECT: f64 = (1u64 << 31) as f64;
const MOST_ATOMS: f64 = 2e9;

/// How the object lies on its grid, in the detector's frame; the scan's middle is at `middle`.
pub(super) struct ObjectGeometry {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Å per grid pixel.
    pub(super) pixel: f64,
    middle: [f64; 2],
}

impl ObjectGeometry {
    /// A grid that holds every probe's window, with a margin so that no window sees the periodic border.
    pub(super) fn new(spec: &SimulationSpec) -> Result<Self> {
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
        let atoms = density(spec) * needed * pixel * pixel;
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
    pub(super) fn position(&self, spec: &SimulationSpec, frame: usize) -> [f64; 2] {
        let (row, col) = (frame / spec.scan.cols, frame % spec.scan.cols);
        let from_middle = |index: usize, n: usize| (index as f64 - (n as f64 - 1.0) / 2.0) * spec.step_angstrom;
        self.place(spec, [from_middle(row, spec.scan.rows), from_middle(col, spec.scan.cols)])
    }

    /// What the beam passes, all of the grid filled.
    pub(super) fn object(&self, spec: &SimulationSpec) -> Transmission {
        let mut grid = PhaseGrid::new(self.rows, self.cols);
        // Weights are integrals in radians times grid pixels.
        let area = TAU * (ATOM_SIGMA / self.pixel).powi(2);
        match spec.object {
            ObjectKind::Vacuum => return Transmission::vacuum(self.rows, self.cols),
            ObjectKind::Film => self.place_film(spec, area, &mut grid),
            ObjectKind::Crystal { spacing_angstrom, angle_deg } => {
                // From the middle to a corner.
                let reach = self.pixel * self.middle[0].hypot(self.middle[1]);
                let lattice = Lattice { center: [0.0; 2], radius: reach, spacing: spacing_angstrom, angle_deg };
                self.place_lattice(spec, &lattice, |at| self.holds(at), area, &mut grid);
            }
        }
        grid.blur(ATOM_SIGMA / self.pixel);
        grid.into_transmission(spec.absorption)
    }

    /// A film and particles that repeat themselves after the scan's own rows and columns, for ever: the scan that goes
    /// on beyond the last row or column sees what it saw at the first.
    pub(super) fn periodic_film(&self, spec: &SimulationSpec) -> Transmission {
        let mut grid = PhaseGrid::new(self.rows, self.cols);
        let area = TAU * (ATOM_SIGMA / self.pixel).powi(2);
        let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
        let half = spec.half_scan();
        let cell = half.map(|half| 2.0 * half);
        let copies = cell.map(|side| (self.pixel * self.middle[0].hypot(self.middle[1]) / side + 0.5).ceil() as i32);
        let mut everywhere = |point: [f64; 2], weight: f64| {
            for (a, b) in (-copies[0]..=copies[0]).flat_map(|a| (-copies[1]..=copies[1]).map(move |b| (a, b))) {
                let copy = [point[0] + f64::from(a) * cell[0], point[1] + f64::from(b) * cell[1]];
                let position = self.place(spec, copy);
                if self.holds(position) {
                    grid.deposit(position, weight);
                }
            }
        };
        for _ in 0..(FILM_DENSITY * cell[0] * cell[1]) as u64 {
            let point = half.map(|half| rng.random_range(-half..half));
            everywhere(point, FILM_PHASE * area * rng.random_range(0.7..1.3));
        }
        for lattice in particles(half, &mut rng) {
            // Brought back into the cell, so that the copies around it fill the grid.
            let inside = |x: f64, axis: usize| (x + half[axis]).rem_euclid(cell[axis]) - half[axis];
            for site in lattice.sites() {
                everywhere([inside(site[0], 0), inside(site[1], 1)], CRYSTAL_PHASE * area);
            }
        }
        grid.blur(ATOM_SIGMA / self.pixel);
        grid.into_transmission(spec.absorption)
    }

    /// A film of atoms over the whole grid and particles with square lattices within the scan.
    fn place_film(&self, spec: &SimulationSpec, area: f64, grid: &mut PhaseGrid) {
        let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
        let atoms = FILM_DENSITY * (self.rows * self.cols) as f64 * self.pixel * self.pixel;
        for _ in 0..atoms as u64 {
            let position = [rng.random_range(0.0..self.rows as f64), rng.random_range(0.0..self.cols as f64)];
            grid.deposit(position, FILM_PHASE * area * rng.random_range(0.7..1.3));
        }
        for lattice in particles(spec.half_scan(), &mut rng) {
            self.place_lattice(spec, &lattice, |_| true, area, grid);
        }
    }

    fn place_lattice(
        &self,
        spec: &SimulationSpec,
        lattice: &Lattice,
        keep: impl Fn([f64; 2]) -> bool,
        area: f64,
        grid: &mut PhaseGrid,
    ) {
        for site in lattice.sites() {
            let position = self.place(spec, site);
            if keep(position) {
                grid.deposit(position, CRYSTAL_PHASE * area);
            }
        }
    }

    /// Whether a position lies on the grid: as it is periodic, what lies beyond comes back on the other side.
    fn holds(&self, at: [f64; 2]) -> bool {
        (0.0..self.rows as f64).contains(&at[0]) && (0.0..self.cols as f64).contains(&at[1])
    }
}

/// A round piece of a square lattice, in the scan's frame and in Å from its middle.
struct Lattice {
    center: [f64; 2],
    radius: f64,
    spacing: f64,
    angle_deg: f64,
}

impl Lattice {
    /// Where its atoms are.
    fn sites(&self) -> impl Iterator<Item = [f64; 2]> {
        let reach = (self.radius / self.spacing) as i32 + 1;
        let angle = self.angle_deg.to_radians();
        let all = (-reach..=reach).flat_map(move |a| (-reach..=reach).map(move |b| (a, b)));
        all.map(move |(a, b)| rotate([f64::from(a) * self.spacing, f64::from(b) * self.spacing], angle))
            .filter(|site| site[0].hypot(site[1]) < self.radius)
            .map(|site| [site[0] + self.center[0], site[1] + self.center[1]])
    }
}

/// Crystalline particles at random places of a field that reaches `half` Å from its middle, more in a larger one.
fn particles(half: [f64; 2], rng: &mut ChaCha8Rng) -> Vec<Lattice> {
    let number = (10.0 * half[0] * half[1] / (256.0 * 256.0)).max(4.0);
    (0..number as u64)
        .map(|_| {
            let center = half.map(|half| rng.random_range(-0.9 * half..0.9 * half));
            let (radius, spacing) = (rng.random_range(18.0..40.0), rng.random_range(3.2..6.0));
            Lattice { center, radius, spacing, angle_deg: rng.random_range(0.0..90.0f64) }
        })
        .collect()
}

/// Atoms per Å².
fn density(spec: &SimulationSpec) -> f64 {
    match spec.object {
        ObjectKind::Film => FILM_DENSITY,
        ObjectKind::Crystal { spacing_angstrom, .. } => spacing_angstrom.powi(-2),
        ObjectKind::Vacuum => 0.0,
    }
}
