//! The manifest: what a cache is of, how it was made and what in it is done.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::axes::{CountRange, DType, DetShape, ScanShape};
use crate::cache::fingerprint::Fingerprint;
use crate::cache::placed::Placed;
use crate::cache::published::{Curve, Extra};
use crate::cache::tiles::TileSet;
use crate::config::Precision;
use crate::error::{Error, Result};
use crate::store::atomic_write;

/// Version of the cache's layout on disk. Readers accept a newer minor version; nobody writes into a newer cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormatVersion {
    /// Changes when older programs would misread the cache.
    pub major: u32,
    /// Changes when something was added.
    pub minor: u32,
}

impl FormatVersion {
    /// What this program writes.
    pub const CURRENT: Self = Self { major: 1, minor: 2 };
    /// The first one whose table of peaks says how sharp they are.
    const WITH_CURVATURES: Self = Self { major: 1, minor: 1 };
}

impl fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What is computed and kept, in the order in which it depends on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The bright-field disk and the crop.
    Detect,
    /// The cropped, pixel-major stack.
    Stack,
    /// bigFT.
    Fft,
    /// Correlations.
    Correlate,
    /// The correlations' peaks, which are kept in every mode.
    Peaks,
    /// Shift maps.
    Shifts,
    /// The super-resolved image.
    Reconstruct,
}

impl Step {
    /// All, in order.
    pub const ALL: [Self; 7] =
        [Self::Detect, Self::Stack, Self::Fft, Self::Correlate, Self::Peaks, Self::Shifts, Self::Reconstruct];

    /// The step's name as commands and configuration write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Stack => "stack",
            Self::Fft => "fft",
            Self::Correlate => "correlate",
            Self::Peaks => "peaks",
            Self::Shifts => "shifts",
            Self::Reconstruct => "reconstruct",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum StepState {
    /// Nothing that can be relied on.
    #[default]
    Absent,
    /// Some tiles are on disk.
    Partial(TileSet),
    /// Everything is there. With a boot id, only while the system has not been restarted since: the data were handed
    /// to the system, which writes them when it likes.
    Done {
        /// The boot during which the data were handed over; absent when they are surely on disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unsynced_boot: Option<String>,
    },
}

/// How the arrays are cut. Fixed when the stack is made, so that tile numbers keep their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Scan rows in one slab (chunk) of the stack.
    pub slab_rows: usize,
    /// Detector rows in one tile (chunk of bigFT and correlations).
    pub tile_rows: usize,
    /// Detector columns in one tile.
    pub tile_cols: usize,
    /// Arithmetic, and so the type of bigFT and correlations.
    pub precision: Precision,
}

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the layout on disk.
    pub format: FormatVersion,
    /// Who wrote it last: "stemstream 0.1.0".
    pub software: String,
    /// `YYYYMMDD_HHMMSS` of the cache's creation, as in its name.
    pub timestamp: String,
    /// The source.
    pub source: Fingerprint,
    /// Scan shape.
    pub scan: ScanShape,
    /// Detector shape.
    pub det: DetShape,
    /// Type of the samples.
    pub dtype: DType,
    /// How arrays are cut, once that is decided.
    pub layout: Option<Layout>,
    /// The configuration of the last run.
    #[serde(default)]
    pub config: Value,
    /// The parameters that each step was computed with.
    pub parameters: BTreeMap<Step, Value>,
    /// How far each step is.
    pub steps: BTreeMap<Step, StepState>,
    /// The smallest and the largest sample of the frames in which the disk was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<CountRange>,
    /// Small results of steps (the disk, sums), by step.
    pub results: BTreeMap<Step, Value>,
    /// Further images that the steps made; the arrays bear their names.
    #[serde(default)]
    pub extras: Vec<Extra>,
    /// Curves that the steps made.
    #[serde(default)]
    pub curves: Vec<Curve>,
    /// Files that were exported from the large arrays as they are now, by kind: `hdf5`.
    #[serde(default)]
    pub exports: BTreeMap<String, std::path::PathBuf>,
    /// Large arrays that lie in the HDF5 cache and not in this folder, by step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub placed: BTreeMap<Step, Placed>,
    /// What the user should know before trusting the data.
    pub warnings: Vec<String>,
}

impl Manifest {
    /// The file's name inside a cache.
    pub const FILE: &'static str = "manifest.json";

    /// Reads the manifest of the cache in `folder`.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it is missing, damaged or of a newer major version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        let text = std::fs::read_to_string(&path).map_err(|e| {
            Error::cache(folder, format!("failed to read its manifest: {e}"))
                .with_hint("an unfinished or damaged cache can be deleted with `stemstream cache rm`")
        })?;
        let value: Value = serde_json::from_str(&text).map_err(|e| damaged(folder, &e))?;
        let format: FormatVersion = serde_json::from_value(value["format"].clone()).map_err(|e| damaged(folder, &e))?;
        if format.major > FormatVersion::CURRENT.major {
            return Err(newer(folder, format));
        }
        serde_json::from_value(value).map_err(|e| damaged(folder, &e))
    }

    /// Writes the manifest, atomically.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) for a cache of a newer version, [`Io`](crate::error::ErrorKind::Io).
    pub fn write(&self, folder: &Path) -> Result<()> {
        if self.format > FormatVersion::CURRENT {
            return Err(newer(folder, self.format));
        }
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::bug(format!("manifest to JSON: {e}")))?;
        atomic_write(&folder.join(Self::FILE), text.as_bytes())
    }

    /// Forgets what an older program wrote in another way than this one does; it is made again when it is needed.
    pub(super) fn forget_outdated(&mut self) {
        if self.format < FormatVersion::WITH_CURVATURES {
            self.steps.remove(&Step::Peaks);
        }
    }

    /// How far a step is. What was not surely on disk before the system restarted counts as absent.
    pub fn state(&self, step: Step) -> StepState {
        match self.steps.get(&step) {
            Some(StepState::Done { unsynced_boot: Some(boot) }) if boot_id().as_ref() != Some(boot) => {
                StepState::Absent
            }
            Some(state) => state.clone(),
            None => StepState::Absent,
        }
    }

    /// The HDF5 file that large arrays are being written to, while it is unfinished and so this cache's own.
    pub fn unfinished_file(&self) -> Option<&Path> {
        self.placed.values().find(|placed| placed.is_unfinished()).map(|placed| &*placed.file)
    }

    /// Whether the user threw away what a step had made.
    pub fn is_dropped(&self, step: Step) -> bool {
        self.results.get(&step).is_some_and(|result| result["dropped"] == true)
    }

    /// Whether a step is complete.
    pub fn is_done(&self, step: Step) -> bool {
        matches!(self.state(step), StepState::Done { .. })
    }
}

/// The running system's boot id, where it has one.
pub(crate) fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

fn damaged(folder: &Path, e: &serde_json::Error) -> Error {
    Error::cache(folder, format!("its manifest is damaged: {e}"))
        .with_hint("start over with `--fresh`, or delete the cache with `stemstream cache rm`")
}

fn newer(folder: &Path, found: FormatVersion) -> Error {
    let known = FormatVersion::CURRENT;
    Error::cache(folder, format!("was written by a newer version (format {found}, this program knows {known})"))
        .with_hint("use the newer program, or start a cache of your own with `--fresh`")
}
