//! What is simulated: the scan, the beam, the object and the detector's faults, and what is true of them.

use std::fmt::Display;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::axes::{Calibration, DetShape, Image, ScanShape, wavelength_angstrom};
use crate::error::{Error, Result};
use crate::kernel::aberrations::{Aberrations, Term};
use crate::kernel::forward::{Beam, rotate};

/// Bound of further aberrations in Å (100 m): every lens is better.
const LARGEST_ABERRATION: f64 = 1e12;

/// What the beam sees.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A thin film of randomly placed atoms with a few crystalline particles.
    #[default]
    Film,
    /// A perfect square lattice that fills the field: shifts by whole unit cells look alike.
    Crystal {
        /// Distance between neighbouring atoms in Å.
        spacing_angstrom: f64,
        /// Direction of the lattice from the scan's row axis towards its column axis, in degrees.
        angle_deg: f64,
    },
    /// Nothing.
    Vacuum,
}

/// A detector pixel that counts without electrons.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotPixel {
    /// Which one, `[row, col]`.
    pub at: [usize; 2],
    /// Mean of its additional counts in each frame.
    pub counts: f64,
}

/// A simulated scan. Vectors are `[row, col]`; angles run from the row axis towards the column axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Further aberrations in the detector's frame; they add to C10 and C12.
    #[serde(default)]
    pub aberrations: Aberrations,
    /// What the beam sees.
    #[serde(default)]
    pub object: ObjectKind,
    /// Part of the object's strength that absorbs instead of shifting the phase: 0 a phase object, 1 one that only absorbs.
    #[serde(default)]
    pub absorption: f64,
    /// Whether the detector's rows and columns are exchanged before they are stored. Shape, centre, true shifts and
    /// faulty pixels are those of the stored patterns; aberrations and rotation refer to the detector before that.
    #[serde(default)]
    pub transposed_detector: bool,
    /// Pixels that count without electrons.
    #[serde(default)]
    pub hot_pixels: Vec<HotPixel>,
    /// Pixels `[row, col]` that never count.
    #[serde(default)]
    pub dead_pixels: Vec<[usize; 2]>,
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
            aberrations: Aberrations::default(),
            object: ObjectKind::Film,
            absorption: 0.0,
            transposed_detector: false,
            hot_pixels: Vec::new(),
            dead_pixels: Vec::new(),
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

    /// All aberrations together, in the detector's frame (before its axes are exchanged).
    pub fn all_aberrations(&self) -> Aberrations {
        let (sin, cos) = (2.0 * self.phi12_deg.to_radians()).sin_cos();
        let quadratic = Aberrations::quadratic(self.c10_angstrom, [self.c12_angstrom * cos, self.c12_angstrom * sin]);
        quadratic.plus(&self.aberrations)
    }

    /// By how many scan pixels the virtual image of each detector pixel is displaced from the axial one:
    /// (rows, columns), each `[det row, det col]`, NaN outside the disk.
    ///
    /// `R(-rotation) (-∇χ / 2π) / step` with all aberrations; the shift that undoes it is its negative.
    pub fn true_shifts(&self) -> (Image, Image) {
        let beam = self.beam();
        let center = self.true_center();
        let shape = (self.det.rows, self.det.cols);
        let (mut rows, mut cols) = (Array2::from_elem(shape, f64::NAN), Array2::from_elem(shape, f64::NAN));
        for ((row, col), slot) in rows.indexed_iter_mut() {
            let stored = [row as f64 - center[0], col as f64 - center[1]];
            let alpha = beam.angle(self.before_exchange(stored));
            if alpha[0].hypot(alpha[1]) <= self.semiangle_mrad * 1e-3 {
                let shift = beam.aberrations.gradient(alpha);
                let in_scan = rotate(shift.map(|s| -s), -self.rotation_deg.to_radians());
                *slot = in_scan[0] / self.step_angstrom;
                cols[[row, col]] = in_scan[1] / self.step_angstrom;
            }
        }
        (rows, cols)
    }

    /// A pair of the stored detector's axes, on its axes before they are exchanged (and the other way round).
    pub(super) fn before_exchange<T: Copy>(&self, pair: [T; 2]) -> [T; 2] {
        if self.transposed_detector { [pair[1], pair[0]] } else { pair }
    }

    /// The detector before its axes are exchanged.
    pub(super) fn optical_det(&self) -> DetShape {
        let [rows, cols] = self.before_exchange([self.det.rows, self.det.cols]);
        DetShape::new(rows, cols)
    }

    /// The physical units of this scan, complete.
    pub fn calibration(&self) -> Calibration {
        Calibration {
            energy_ev: Some(self.energy_ev),
            semiangle_mrad: Some(self.semiangle_mrad),
            scan_step_angstrom: Some(self.step_angstrom),
            detector_mrad_per_px: Some(self.semiangle_mrad / self.disk_radius_px),
            rotation_deg: Some(self.rotation_deg),
            defocus_angstrom: Some(-self.all_aberrations().get(1, 0)[0]),
        }
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
            ("the absorption", self.absorption, 0.0..=1.0),
            ("the counts", self.counts, 0.0..=65535.0),
            ("the beam energy (eV)", self.energy_ev, 1e3..=1e7),
            ("the semi-angle (mrad)", self.semiangle_mrad, 1e-3..=200.0),
        ] {
            if !range.contains(&value) {
                return Err(bad(what, &format!("between {} and {}", range.start(), range.end()), value));
            }
        }
        self.check_object_and_detector()
    }

    fn check_object_and_detector(&self) -> Result<()> {
        let largest = self.aberrations.terms().iter().map(|t: &Term| t.magnitude().abs()).fold(0.0, f64::max);
        if largest > LARGEST_ABERRATION {
            return Err(bad("every aberration (Å)", &format!("at most {LARGEST_ABERRATION:e}"), largest));
        }
        if let ObjectKind::Crystal { spacing_angstrom, angle_deg } = self.object
            && !((0.5..=1e4).contains(&spacing_angstrom) && angle_deg.abs() <= 1e4)
        {
            let found = format!("{spacing_angstrom} Å at {angle_deg}°");
            return Err(bad("the lattice's spacing", "between 0.5 and 10000 Å, at an angle", found));
        }
        for at in self.hot_pixels.iter().map(|hot| hot.at).chain(self.dead_pixels.iter().copied()) {
            if at[0] >= self.det.rows || at[1] >= self.det.cols {
                return Err(bad("a faulty pixel", &format!("inside the detector of {}", self.det), format!("{at:?}")));
            }
        }
        match self.hot_pixels.iter().find(|hot| !(0.0..=65535.0).contains(&hot.counts)) {
            Some(hot) => Err(bad("the counts of a hot pixel", "between 0 and 65535", hot.counts)),
            None => Ok(()),
        }
    }

    pub(super) fn beam(&self) -> Beam {
        let wavelength = wavelength_angstrom(self.energy_ev);
        Beam {
            wavelength_angstrom: wavelength,
            aberrations: self.all_aberrations(),
            disk_radius_px: self.disk_radius_px,
            k_step: self.semiangle_mrad * 1e-3 / self.disk_radius_px / wavelength,
            center_offset: self.before_exchange(self.center_offset),
        }
    }

    /// Å from the middle of the scan to the middle of its last row and column.
    pub(super) fn half_scan(&self) -> [f64; 2] {
        [self.scan.rows, self.scan.cols].map(|n| n as f64 * self.step_angstrom / 2.0)
    }
}

pub(super) fn bad(what: &str, expected: &str, found: impl Display) -> Error {
    Error::config(format!("cannot simulate: {what} must be {expected}, found {found}"))
        .with_hint(format!("start from one of the presets: {}", SimulationSpec::PRESETS.join(", ")))
}
