//! The configuration: one TOML file whose every key is documented in [`Config::documented_defaults`].
//!
//! An unknown key is an error that names the nearest known one. Sizes take units ("2 GiB").

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::axes::Calibration;
use crate::error::{Error, Result};
use crate::memory::ByteSize;

mod plan;
mod reconstruct;

pub(crate) use plan::bad_value;
pub use plan::{Access, PlanConfig};
pub use reconstruct::{Contrast, Merge, ReconstructConfig, Upscale};

/// Everything that a user may choose. The defaults are right for most scans.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How to read the input.
    pub source: SourceConfig,
    /// Physical units that the file does not give.
    pub calibration: Calibration,
    /// The bright-field disk.
    pub disk: DiskConfig,
    /// How images are aligned.
    pub align: AlignConfig,
    /// How the image is put together.
    pub reconstruct: ReconstructConfig,
    /// How the work is run.
    pub run: RunConfig,
    /// Overrides for the planner.
    pub plan: PlanConfig,
    /// The working cache.
    pub cache: CacheConfig,
    /// What is written at the end.
    pub export: ExportConfig,
}

/// `[source]`: how to read the input.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// Scan rows and columns, when the file does not say.
    pub scan: Option<[usize; 2]>,
    /// Path of the 4-D dataset inside an HDF5 file.
    pub dataset: Option<String>,
    /// What to do with fewer frames than scan positions.
    pub incomplete: Incomplete,
    /// What to do with more frames than scan positions.
    pub excess: Excess,
    /// Frames to skip at the start of the file.
    pub skip_frames: usize,
    /// What to do with NaN and infinite samples.
    pub nan: NanPolicy,
    /// Only for looking: a scan shape that cannot be found becomes one row of all frames, with a warning.
    #[serde(skip)]
    pub unknown_scan_as_row: bool,
}

/// What to do when a file holds fewer frames than the scan has positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Incomplete {
    /// Refuse.
    #[default]
    Error,
    /// Keep the complete scan rows.
    Trim,
}

/// What to do when a file holds more frames than the scan has positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Excess {
    /// Refuse.
    #[default]
    Error,
    /// Leave out the frames at the end.
    Ignore,
}

/// What to do with NaN and infinite samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NanPolicy {
    /// Refuse.
    #[default]
    Error,
    /// Count them, say so, and use zero.
    Zero,
}

/// `[disk]`: the bright-field disk on the detector, in pixels.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// Centre `[row, col]`; found when absent.
    pub center: Option<[f64; 2]>,
    /// Radius; found when absent.
    pub radius: Option<f64>,
    /// Half-width of the crop; the rounded radius + 2 when absent.
    pub crop_radius: Option<usize>,
    /// Go on with a disk that touches the detector's edge.
    pub allow_clipped: bool,
    /// What to do with detector pixels that were found to be bad.
    pub bad_pixels: BadPixelPolicy,
    /// Detector pixels `[row, col]` that the parametric method leaves out in any case.
    pub exclude: Vec<[usize; 2]>,
}

/// What to do with detector pixels that were found to be dead, hot or outliers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadPixelPolicy {
    /// The parametric method leaves them out.
    #[default]
    Auto,
    /// They are used like all others.
    Keep,
}

/// `[align]`: how images are aligned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlignConfig {
    /// The alignment method.
    pub method: Method,
    /// Sigma of the Gaussian on the reference image, in scan pixels.
    pub reference_smoothing: f64,
    /// The highest order `m` of aberrations `Cmn` that is looked for.
    pub max_order: u8,
    /// Known aberrations of higher orders, by name (`C30`, `C21a` …), in Å: where their search starts.
    pub known: BTreeMap<String, f64>,
    /// Whether the maps of a fit are refined by the images of the detector pixels.
    pub refine: Refine,
}

/// The highest order of aberrations that can be fitted.
const MOST_ORDER: u8 = 5;

impl Default for AlignConfig {
    fn default() -> Self {
        Self {
            method: Method::Auto,
            reference_smoothing: 0.5,
            max_order: 3,
            known: BTreeMap::new(),
            refine: Refine::Auto,
        }
    }
}

/// Whether the maps of a fit are refined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refine {
    /// Where the images justify it (parametric method only).
    #[default]
    Auto,
    /// The fit's maps as they are.
    Off,
}

/// An alignment method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The best that this version has: the parametric one.
    #[default]
    Auto,
    /// One correlation peak per detector pixel against the central one.
    Classic,
    /// One small model of the aberrations fitted to all images at once.
    Parametric,
}

/// `[run]`: how the work is run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Whether the large intermediates are kept.
    pub mode: Mode,
    /// Memory budget; half of what is free when absent.
    pub memory: Option<ByteSize>,
    /// Worker threads; one per core when absent.
    pub workers: Option<usize>,
    /// Arithmetic of the transforms.
    pub precision: Precision,
}

/// Whether the large intermediates are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// bigFT and correlations are kept in the cache and exported to HDF5.
    #[default]
    Documented,
    /// Neither is written: fastest, and little disk.
    Lean,
}

/// Arithmetic of the transforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Double precision.
    F64,
}

impl Precision {
    /// Bytes of one real number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// `[cache]`: the working cache.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Folder for caches; beside the input when absent.
    pub folder: Option<PathBuf>,
    /// What stays after a finished run.
    pub keep: Keep,
    /// Refuse to let one cache grow beyond this.
    pub quota: Option<ByteSize>,
}

/// What of a cache stays after a finished run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Everything.
    #[default]
    All,
    /// The stack and the results: enough to re-run the last steps.
    Stack,
    /// Nothing: the cache is deleted after the results are exported.
    None,
}

/// `[export]`: what is written at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportConfig {
    /// Folder for results; beside the input when absent.
    pub folder: Option<PathBuf>,
    /// Where EMD results go.
    pub emd: EmdTarget,
    /// Write the HDF5 cache (documented mode only).
    pub hdf5: bool,
    /// How the HDF5 cache's large arrays are stored.
    pub compression: Compression,
    /// Write PNG pictures.
    pub pictures: bool,
    /// Write `.npy` arrays.
    pub npy: bool,
    /// Write 32-bit TIFF images.
    pub tiff: bool,
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self {
            folder: None,
            emd: EmdTarget::Embed,
            hdf5: true,
            compression: Compression::None,
            pictures: true,
            npy: true,
            tiff: true,
        }
    }
}

/// How large exported arrays are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are: fastest.
    #[default]
    None,
    /// Shuffled and with gzip's fastest level: smaller, and slower unless the disk is.
    Gzip,
}

/// Where EMD results go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmdTarget {
    /// Into the input file when it is an EMD file, else into a new EMD file.
    #[default]
    Embed,
    /// Always into a separate EMD file.
    Sidecar,
}

impl Config {
    /// Whether one model of the aberrations is fitted to all images; else each image has its own peak.
    pub fn is_parametric(&self) -> bool {
        self.align.method != Method::Classic
    }

    /// The default configuration as a commented TOML text: every key with its meaning.
    pub fn documented_defaults() -> &'static str {
        include_str!("config_defaults.toml")
    }

    /// Reads a configuration from TOML text; `origin` names it in messages.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) with the line, or with the nearest known key for an unknown one.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self> {
        let table: toml::Table = toml::from_str(text)
            .map_err(|e| Error::config(format!("`{origin}` is not valid TOML: {}", e.to_string().trim_end())))?;
        Self::from_table(table, origin)
    }

    fn from_table(table: toml::Table, origin: &str) -> Result<Self> {
        check_keys(&table, origin)?;
        let config: Self = toml::Value::Table(table)
            .try_into()
            .map_err(|e| Error::config(format!("`{origin}`: {}", e.to_string().trim_end().replace('\n', " "))))?;
        config.validate()?;
        Ok(config)
    }

    /// This configuration with `section.key=value` settings applied in order. Values are TOML; a bare word is a string.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml).
    pub fn with_settings<'a>(&self, settings: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut table = toml::Table::try_from(self).map_err(|e| Error::bug(format!("configuration to TOML: {e}")))?;
        for setting in settings {
            let usage = || Error::config(format!("`--set {setting}`: expected `section.key=value`"));
            let (path, value) = setting.split_once('=').ok_or_else(usage)?;
            let (section, key) = path.trim().split_once('.').ok_or_else(usage)?;
            let value = value.trim();
            let parsed = toml::from_str::<toml::Table>(&format!("v = {value}"))
                .ok()
                .and_then(|mut t| t.remove("v"))
                .unwrap_or_else(|| toml::Value::String(value.to_owned()));
            let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            entry.as_table_mut().ok_or_else(usage)?.insert(key.trim().to_owned(), parsed);
            check_keys(&table, &format!("--set {setting}"))?;
        }
        Self::from_table(table, "--set")
    }

    fn validate(&self) -> Result<()> {
        let positive = |value: Option<f64>, key: &str| match value {
            Some(v) if !(v.is_finite() && v > 0.0) => {
                Err(Error::config(format!("{key} must be a positive number, found {v}")))
            }
            _ => Ok(()),
        };
        let finite = |value: Option<f64>, key: &str| match value {
            Some(v) if !v.is_finite() => Err(Error::config(format!("{key} must be a finite number, found {v}"))),
            _ => Ok(()),
        };
        let c = &self.calibration;
        positive(c.energy_ev, "calibration.energy_ev")?;
        positive(c.semiangle_mrad, "calibration.semiangle_mrad")?;
        positive(c.scan_step_angstrom, "calibration.scan_step_angstrom")?;
        positive(c.detector_mrad_per_px, "calibration.detector_mrad_per_px")?;
        finite(c.rotation_deg, "calibration.rotation_deg")?;
        finite(c.defocus_angstrom, "calibration.defocus_angstrom")?;
        positive(self.disk.radius, "disk.radius")?;
        for coordinate in self.disk.center.into_iter().flatten() {
            finite(Some(coordinate), "disk.center")?;
        }
        let sigma = self.align.reference_smoothing;
        if !(sigma.is_finite() && (0.0..=100.0).contains(&sigma)) {
            return Err(Error::config(format!(
                "align.reference_smoothing must be between 0 and 100 scan pixels, found {sigma}"
            )));
        }
        let order = self.align.max_order;
        if !(1..=MOST_ORDER).contains(&order) {
            return Err(Error::config(format!("align.max_order must be between 1 and {MOST_ORDER}, found {order}")));
        }
        self.check_reconstruct()?;
        self.plan.check()?;
        for (value, key) in [(self.run.workers, "run.workers"), (self.disk.crop_radius, "disk.crop_radius")] {
            if value == Some(0) {
                return Err(Error::config(format!("{key} must be at least 1")));
            }
        }
        if self.source.scan.is_some_and(|scan| scan.contains(&0)) {
            return Err(Error::config("source.scan must be two positive numbers, [rows, cols]"));
        }
        Ok(())
    }
}

/// All sections with their keys, read from the documented defaults so that the two cannot differ.
fn known_keys() -> Vec<(String, Vec<String>)> {
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for line in Config::documented_defaults().lines() {
        let line = line.trim_start_matches("# ").trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')).filter(|n| !n.contains([',', ' ']))
        {
            sections.push((name.to_owned(), Vec::new()));
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && let Some((_, keys)) = sections.last_mut()
        {
            keys.push(key.to_owned());
        }
    }
    sections
}

fn check_keys(table: &toml::Table, origin: &str) -> Result<()> {
    let known = known_keys();
    for (section, value) in table {
        let Some((_, keys)) = known.iter().find(|(name, _)| name == section) else {
            let nearest = nearest(section, known.iter().map(|(name, _)| name.as_str()));
            return Err(Error::config(format!("`{origin}`: unknown section `[{section}]`"))
                .with_hint(format!("did you mean `[{nearest}]`?")));
        };
        let Some(entries) = value.as_table() else {
            return Err(Error::config(format!("`{origin}`: `{section}` must be a section, `[{section}]`")));
        };
        for key in entries.keys() {
            if !keys.contains(key) {
                let all = known.iter().flat_map(|(s, keys)| keys.iter().map(move |k| (s, k)));
                let here = nearest(key, keys.iter().map(String::as_str));
                // A key that is right but stands in the wrong section is the more helpful guess.
                let hint = all.into_iter().find(|(_, k)| *k == key).map_or_else(
                    || format!("did you mean `{section}.{here}`? `stemstream config` prints all keys"),
                    |(s, k)| format!("did you mean `{s}.{k}`?"),
                );
                return Err(Error::config(format!("`{origin}`: unknown key `{section}.{key}`")).with_hint(hint));
            }
        }
    }
    Ok(())
}

/// The candidate with the smallest edit distance to `word`; empty without candidates.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> &'a str {
    candidates.min_by_key(|candidate| edit_distance(word, candidate)).unwrap_or("")
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let read = Config::from_toml(Config::documented_defaults(), "defaults").expect("valid");
        assert_eq!(read, Config::default());
    }

    #[test]
    fn every_documented_key_is_a_key_and_every_key_is_documented() {
        let text: String = Config::documented_defaults()
            .lines()
            .map(|line| {
                line.strip_prefix("# ").filter(|l| l.contains(" = ") && !l.contains("  ")).unwrap_or(line).to_owned()
                    + "\n"
            })
            .collect();
        // With every optional key switched on, the text must still be a configuration…
        let full = Config::from_toml(&text, "all keys").expect("all documented keys are keys");
        // … and writing it out again must not produce a key that the text lacks.
        let known = known_keys();
        for (section, value) in toml::Table::try_from(&full).expect("serializable") {
            let keys = &known.iter().find(|(name, _)| *name == section).expect("documented section").1;
            for key in value.as_table().expect("section").keys() {
                assert!(keys.contains(key), "{section}.{key} is not documented");
            }
        }
        assert!(full.disk.center.is_some() && full.plan.tile_cols.is_some());
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let error = Config::from_toml("[disk]\ncentre = [1, 2]", "my.toml").expect_err("unknown");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("disk.centre"), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("disk.center")), "{:?}", error.hint());
        let error = Config::from_toml("[run]\nupscale = 4", "my.toml").expect_err("wrong section");
        assert!(error.hint().is_some_and(|h| h.contains("reconstruct.upscale")), "{:?}", error.hint());
    }

    #[test]
    fn settings_take_toml_values_and_bare_words() {
        let config = Config::default()
            .with_settings(["disk.center=[24.35, 23.8]", "run.mode=lean", "run.memory=2 GiB", "reconstruct.upscale=3"])
            .expect("valid");
        assert_eq!(config.disk.center, Some([24.35, 23.8]));
        assert_eq!((config.run.mode, config.run.memory), (Mode::Lean, Some(ByteSize(2 << 30))));
        assert_eq!(config.reconstruct.upscale, Upscale::Factor(3));
        for bad in
            ["run.mode", "mode=lean", "run.mode=fast", "run.workers=0", "disk.radius=-3", "reconstruct.upscale=0"]
        {
            assert_eq!(Config::default().with_settings([bad]).map_err(|e| e.exit_code()), Err(2), "{bad}");
        }
    }
}
