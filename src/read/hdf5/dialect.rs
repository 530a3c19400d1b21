//! Which program's layout an HDF5 file follows, and the physical units that it gives.

use hdf5::{Container, File, Group};

use super::values::{attr_number, attr_text, exists, number, text};
use crate::axes::{Calibration, wavelength_angstrom};

/// The layouts of 4-D cubes in HDF5 files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// EMD 1.0, written by emdfile and py4DSTEM since 0.14.
    Emdfile,
    /// mib-viewer's first converter: EMD 1.0 root, cube under `version_1`.
    MibViewer,
    /// py4DSTEM 0.13.
    Py4dstem13,
    /// py4DSTEM 0.5 to 0.12.
    Py4dstem,
    /// The simulation program Prismatic.
    Prismatic,
    /// EMD 0.2 of the NCEM; `HyperSpy` stores its arrays with the axes in reverse order.
    Ncem {
        /// Whether the stored axes are reversed.
        reversed: bool,
    },
    /// The simulation program abTEM.
    AbTem,
    /// Any other HDF5 file.
    Other,
}

impl Dialect {
    /// Recognises the layout around the dataset at `path`.
    pub(super) fn of(file: &File, path: &str) -> Self {
        let top = path.trim_start_matches('/').split('/').next().unwrap_or("");
        let group_type = |name: &str| file.group(name).ok().and_then(|g| attr_text(&g, "emd_group_type"));
        if attr_text(file, "emd_group_type").as_deref() == Some("file") {
            let converter = attr_text(file, "authoring_program").is_some_and(|p| p.contains("mib-to-emd"));
            return if converter { Self::MibViewer } else { Self::Emdfile };
        }
        if path.starts_with("/version_1/data/datacubes/") {
            return Self::MibViewer;
        }
        if top == "4DSTEM_simulation" {
            return Self::Prismatic;
        }
        match group_type(top).as_deref() {
            Some("root") => return Self::Py4dstem13,
            Some("2") => return Self::Py4dstem,
            _ => {}
        }
        let version = (attr_number(file, "version_major"), attr_number(file, "version_minor"));
        if version == (Some(0.0), Some(2.0)) || group_type(parent(path)).as_deref() == Some("1") {
            return Self::Ncem { reversed: version == (Some(0.0), Some(2.0)) && top == "signals" };
        }
        if path == "/array" && exists(file, "sampling") {
            return Self::AbTem;
        }
        Self::Other
    }

    /// The layout's name, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Emdfile => "EMD 1.0 (emdfile, py4DSTEM)",
            Self::MibViewer => "EMD (mib-viewer)",
            Self::Py4dstem13 => "EMD (py4DSTEM 0.13)",
            Self::Py4dstem => "EMD (py4DSTEM 0.5 to 0.12)",
            Self::Prismatic => "EMD (Prismatic)",
            Self::Ncem { reversed: false } => "EMD 0.2 (NCEM)",
            Self::Ncem { reversed: true } => "EMD 0.2 (HyperSpy)",
            Self::AbTem => "HDF5 (abTEM)",
            Self::Other => "HDF5",
        }
    }

    /// Whether the file is an EMD file, to which results may be added.
    pub(super) fn is_emd(self) -> bool {
        !matches!(self, Self::AbTem | Self::Other)
    }

    /// Whether the axes are stored in reverse order.
    pub(super) fn reversed(self) -> bool {
        self == Self::Ncem { reversed: true }
    }
}

/// The part of an absolute path before the last component, without the leading slash.
fn parent(path: &str) -> &str {
    let inner = path.trim_start_matches('/');
    inner.rsplit_once('/').map_or("/", |(parent, _)| parent)
}

/// One axis of the cube.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Axis {
    pub(super) name: String,
    pub(super) units: String,
    pub(super) step: Option<f64>,
}

/// The four axes of the dataset at `path`, as stored; empty where the file says nothing.
pub(super) fn axes(file: &File, path: &str, dialect: Dialect, rank: usize) -> Vec<Axis> {
    if dialect == Dialect::AbTem {
        return abtem_axes(file, rank);
    }
    let Ok(group) = file.group(parent(path)) else {
        return vec![Axis::default(); rank];
    };
    let base = usize::from(!exists(&group, "dim0"));
    (0..rank).map(|i| axis(&group, &format!("dim{}", base + i))).collect()
}

fn axis(group: &Group, name: &str) -> Axis {
    if let Ok(dataset) = group.dataset(name) {
        let of = |attr: &str| attr_text(&dataset, attr).unwrap_or_default();
        return Axis { name: of("name"), units: of("units"), step: step(&dataset) };
    }
    // Some writers make a group of each axis, with or without a dataset of the same name in it.
    let Ok(inner) = group.group(name) else {
        return Axis::default();
    };
    let of = |attr: &str| attr_text(&inner, attr).unwrap_or_default();
    let step = inner.dataset(name).ok().and_then(|d| step(&d));
    Axis { name: of("name"), units: of("units"), step }
}

/// Distance between the first two positions of an axis.
fn step(dim: &Container) -> Option<f64> {
    if dim.ndim() != 1 || dim.size() < 2 {
        return None;
    }
    let first = dim.read_slice_1d::<f64, _>(0..2).ok()?;
    Some((first[1] - first[0]).abs()).filter(|s| s.is_finite() && *s > 0.0)
}

fn abtem_axes(file: &File, rank: usize) -> Vec<Axis> {
    let steps = file.dataset("sampling").ok().filter(|d| d.size() <= 16).and_then(|d| d.read_raw::<f64>().ok());
    let units = file.dataset("units").ok().and_then(|d| text(&d)).unwrap_or_default();
    let step = |i: usize| steps.as_ref().and_then(|s| s.get(i)).copied().filter(|s| s.is_finite() && *s > 0.0);
    (0..rank).map(|i| Axis { name: String::new(), units: units.clone(), step: step(i) }).collect()
}

/// Physical units, and the facts that could not be turned into them, for the list of metadata.
pub(super) fn calibration(
    file: &File,
    path: &str,
    axes: &[Axis],
    energy_ev: Option<f64>,
) -> (Calibration, Vec<(String, String)>) {
    let mut facts = Vec::new();
    let bundle = bundle(file, path);
    let (scan, det) = match axes {
        [scan, _, det, _] => (scan.clone(), det.clone()),
        _ => (Axis::default(), Axis::default()),
    };
    let (scan_step, scan_units) = bundle.scan.unwrap_or((scan.step.unwrap_or(0.0), scan.units));
    let (det_step, det_units) = bundle.det.unwrap_or((det.step.unwrap_or(0.0), det.units));
    let positive = |v: f64| Some(v).filter(|v| v.is_finite() && *v > 0.0);
    let scan_step_angstrom = length_in_angstrom(&scan_units).and_then(|unit| positive(scan_step * unit));
    let detector_mrad_per_px = match (angle_in_mrad(&det_units), frequency_per_angstrom(&det_units), energy_ev) {
        (Some(unit), ..) => positive(det_step * unit),
        // Small angles: an angle is the spatial frequency times the wavelength.
        (None, Some(unit), Some(energy)) => positive(det_step * unit * wavelength_angstrom(energy) * 1000.0),
        (None, Some(unit), None) => {
            facts.extend(positive(det_step * unit).map(|q| ("detector pixel (1/Å)".to_owned(), format!("{q:.6}"))));
            None
        }
        _ => None,
    };
    (Calibration { energy_ev, scan_step_angstrom, detector_mrad_per_px, ..Calibration::default() }, facts)
}

/// Pixel sizes and units of the calibration that emdfile keeps beside the cube.
#[derive(Debug, Default)]
struct Bundle {
    scan: Option<(f64, String)>,
    det: Option<(f64, String)>,
}

fn bundle(file: &File, path: &str) -> Bundle {
    let top = path.trim_start_matches('/').split('/').next().unwrap_or("");
    let Ok(group) = file.group(&format!("{top}/metadatabundle/calibration")) else {
        return Bundle::default();
    };
    let pair = |axis: &str| {
        let size = number(&*group.dataset(&format!("{axis}_pixel_size")).ok()?)?;
        let units = text(&*group.dataset(&format!("{axis}_pixel_units")).ok()?)?;
        Some((size, units))
    };
    Bundle { scan: pair("R"), det: pair("Q") }
}

/// Unit names without brackets and underscores: `[n_m^-1]` is `nm^-1`.
fn plain(units: &str) -> String {
    units.chars().filter(|c| !"[]_ ".contains(*c)).collect()
}

fn length_in_angstrom(units: &str) -> Option<f64> {
    match plain(units).as_str() {
        "A" | "Å" | "\u{212b}" | "angstrom" | "Angstrom" => Some(1.0),
        "pm" => Some(0.01),
        "nm" => Some(10.0),
        "um" | "µm" | "μm" => Some(1e4),
        "m" => Some(1e10),
        _ => None,
    }
}

fn angle_in_mrad(units: &str) -> Option<f64> {
    match plain(units).as_str() {
        "mrad" => Some(1.0),
        "rad" => Some(1000.0),
        _ => None,
    }
}

fn frequency_per_angstrom(units: &str) -> Option<f64> {
    let plain = plain(units);
    let length = plain.strip_suffix("^-1").or_else(|| plain.strip_prefix("1/")).or_else(|| plain.strip_suffix("-1"))?;
    length_in_angstrom(length).map(|unit| 1.0 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood_in_the_spellings_of_the_field() {
        assert_eq!(length_in_angstrom("[n_m]"), Some(10.0));
        assert_eq!(length_in_angstrom("pixels"), None);
        assert_eq!(frequency_per_angstrom("[n_m^-1]"), Some(0.1));
        assert_eq!(frequency_per_angstrom("A^-1"), Some(1.0));
        assert_eq!(frequency_per_angstrom("1/nm"), Some(0.1));
        assert_eq!(angle_in_mrad("mrad"), Some(1.0));
    }

    #[test]
    fn the_parent_of_a_dataset_at_the_root_is_the_root() {
        assert_eq!((parent("/array"), parent("/a/b/data")), ("/", "a/b"));
    }
}
