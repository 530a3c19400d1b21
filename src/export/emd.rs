//! EMD results: one group `/superres_results/run_{timestamp}` per run, in the user's EMD file or in one of our own.
//!
//! ```text
//! /superres_results/run_20250107_153045/
//!   parameters                     group; the attributes: timestamp, bf_center, bf_radius, crop_bounds …
//!   shift_y, shift_x, quality      float64 [crop rows, crop cols]
//!   superres_image, weights        float64 [scan rows × f, scan cols × f]
//!   standard_bf, reference_image, virtual_bf   float64 [scan rows, scan cols]
//!   mean_pattern                   float64 [det rows, det cols]
//!   …                              further images that the steps made, float64
//!   curves/frc …                   groups, one dataset for each column
//! ```
//!
//! Law: a group called `run_…` is whole. It is written as `.run_….partial` and renamed when its data is in the
//! file; what a crash left behind is removed by the next run. Nothing else in a user's file is touched.

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use hdf5::{File, Group};

use super::files::{folder_of, part_of, publish, require_free, safe_name};
use super::h5::{self, H5Result, failed};
use super::run::RunResults;
use crate::cache::Curve;
use crate::error::{Error, ErrorKind, Result};

const RESULTS: &str = "superres_results";
const PARTIAL: &str = ".partial";
/// Room for group headers, attributes and the library's own blocks.
const OVERHEAD: u64 = 4 << 20;

/// How often, and after which pauses, a locked file is tried again.
const LOCK_TRIES: usize = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Which file the results go into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmdPath<'a> {
    /// An existing EMD or HDF5 file of the user; only `/superres_results` is added.
    Embed(&'a Path),
    /// A results file of our own, made when absent, otherwise added to.
    Own(&'a Path),
}

impl<'a> EmdPath<'a> {
    /// The file.
    pub fn path(self) -> &'a Path {
        match self {
            Self::Embed(path) | Self::Own(path) => path,
        }
    }
}

/// Name of our own results file for `base_name` in `folder`: `{base_name}_superres.emd`.
pub fn own_file(folder: &Path, base_name: &str) -> PathBuf {
    folder.join(format!("{}_superres.emd", safe_name(base_name)))
}

/// Adds `run` to the file and returns the path of its group, `/superres_results/run_{timestamp}`; a second run in
/// the same second gets `_2`, and so on.
///
/// The caller must have closed every reader of the same file: the HDF5 library refuses to open a file for writing
/// that this process holds open for reading.
///
/// # Errors
/// A file that is missing, damaged, read-only or open in another program, and a full disk. The file is then as it
/// was (at most with a hidden `.partial` group, which the next run removes).
pub fn write_run(target: &EmdPath<'_>, run: &RunResults) -> Result<String> {
    let path = target.path();
    let needed = run.bytes() + OVERHEAD;
    require_free(folder_of(path), needed)?;
    match target {
        EmdPath::Own(path) if !path.exists() => create_with(path, run),
        _ => {
            check_writable(path)?;
            let file = open_for_writing(path)?;
            let name = add_run(&file, path, run)?;
            file.close().map_err(failed(path, "close the EMD file"))?;
            h5::sync_chunk(path)?;
            Ok(name)
        }
    }
}

/// Makes our own file under a temporary name, so that a file of that name always holds at least one whole run.
fn create_with(path: &Path, run: &RunResults) -> Result<String> {
    let part = part_of(path);
    // Tried first by the operating system, whose errors are clearer than the library's.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&part)
        .map_err(|e| Error::io(path, "create the EMD file", e))?;
    let written = (|| {
        let file = h5::files().create(&part).map_err(failed(path, "create the EMD file"))?;
        tag_as_emd(&file).map_err(failed(path, "write the EMD header"))?;
        let name = add_run(&file, path, run)?;
        file.close().map_err(failed(path, "close the EMD file"))?;
        Ok(name)
    })();
    let name = written.inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })?;
    let published = publish(&part, path)?;
    if published == path {
        return Ok(name);
    }
    // Another process made the file meanwhile: the run belongs into that one.
    fs::remove_file(&published).map_err(|e| Error::io(&published, "remove a file that is not needed", e))?;
    write_run(&EmdPath::Own(path), run)
}

/// What makes a file an EMD 1.0 file: the root's attributes, and one group tagged as the root of a tree.
fn tag_as_emd(file: &File) -> H5Result<()> {
    h5::text(file, "emd_group_type", "file")?;
    h5::int(file, "version_major", 1)?;
    h5::int(file, "version_minor", 0)?;
    h5::text(file, "authoring_program", "stemstream")?;
    h5::text(file, "authoring_user", "")?;
    h5::text(file, "UUID", &uuid())?;
    // Only here: a second tree in a user's own file would make the programs that read it ask which one is meant.
    let results = file.create_group(RESULTS)?;
    h5::text(&results, "emd_group_type", "root")?;
    h5::text(&results, "python_class", "Root")
}

/// A random (version 4) UUID. The randomness is what the standard library seeds its hash maps with: from the
/// operating system, and unlike in every process.
fn uuid() -> String {
    let random = || RandomState::new().hash_one(std::process::id());
    let high = random() & !0xf000 | 0x4000;
    let low = random() & !(0xc << 60) | (0x8 << 60);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

fn add_run(file: &File, path: &Path, run: &RunResults) -> Result<String> {
    if file.link_exists(RESULTS) && file.group(RESULTS).is_err() {
        return Err(Error::input(path, format!("a group `/{RESULTS}` or none"), "something else of that name")
            .with_hint("keep the results in a file of their own with `--set export.emd=sidecar`"));
    }
    let action = "write the results into the EMD file";
    let results = h5::group(file, RESULTS).map_err(failed(path, action))?;
    remove_leftovers(&results).map_err(failed(path, action))?;
    let name = free_run_name(&results, &run.timestamp);
    let partial = format!(".{name}{PARTIAL}");
    let written = write_group(&results, &partial, run)
        // First the data, then the name, each brought to the file on its own.
        .and_then(|()| file.flush())
        .and_then(|()| results.relink(&partial, &name))
        .and_then(|()| file.flush());
    if let Err(error) = written {
        let _ = results.unlink(&partial);
        return Err(h5::write_error(path, action, &error));
    }
    Ok(format!("/{RESULTS}/{name}"))
}

fn remove_leftovers(results: &Group) -> H5Result<()> {
    for name in results.member_names()? {
        if name.starts_with(".run_") && name.ends_with(PARTIAL) {
            results.unlink(&name)?;
        }
    }
    Ok(())
}

fn free_run_name(results: &Group, timestamp: &str) -> String {
    let first = format!("run_{}", timestamp.replace('/', "_"));
    let mut name = first.clone();
    let mut number = 1;
    while results.link_exists(&name) {
        number += 1;
        name = format!("{first}_{number}");
    }
    name
}

fn write_group(results: &Group, name: &str, run: &RunResults) -> H5Result<()> {
    let group = results.create_group(name)?;
    write_parameters(&group.create_group("parameters")?, run)?;
    for layer in run.layers() {
        h5::image(&group, layer.name, layer.image, layer.units, layer.title)?;
    }
    if !run.curves.is_empty() {
        let curves = group.create_group("curves")?;
        run.curves.iter().try_for_each(|curve| write_curve(&curves.create_group(&curve.name)?, curve))?;
    }
    Ok(())
}

/// One dataset for each column, the axis first.
fn write_curve(at: &Group, curve: &Curve) -> H5Result<()> {
    h5::text(at, "title", &curve.title)?;
    let (axis, units) = &curve.axis;
    h5::text(at, "axis", axis)?;
    let columns = curve.columns.iter().map(|(name, values)| (name, values, ""));
    for (name, values, units) in std::iter::once((axis, &curve.x, units.as_str())).chain(columns) {
        let data = at.new_dataset_builder().with_data(values.as_slice()).create(name.as_str())?;
        h5::text(&data, "units", units)?;
    }
    Ok(())
}

fn write_parameters(at: &Group, run: &RunResults) -> H5Result<()> {
    h5::text(at, "timestamp", &run.timestamp)?;
    h5::list(at, "bf_center", &run.bf_center)?;
    h5::int(at, "bf_radius", run.crop_radius)?;
    h5::ints(at, "crop_bounds", &run.crop.bounds())?;
    h5::int(at, "upscale_factor", run.upscale)?;
    h5::scalar(at, "reference_smoothing", &run.reference_smoothing)?;
    h5::int(at, "detector_radius", run.detector_radius)?;
    h5::scalar(at, "quality_threshold", &run.quality_threshold)?;
    h5::text(at, "cache_file", run.cache_file.as_deref().unwrap_or(""))?;
    // Ours, beyond the documented ones.
    h5::text(at, "method", &run.method)?;
    h5::text(at, "version", env!("CARGO_PKG_VERSION"))?;
    h5::text(at, "source_fingerprint", &run.fingerprint)?;
    h5::scalar(at, "disk_radius", &run.bf_radius)?;
    h5::ints(at, "data_shape", &[run.scan.rows, run.scan.cols, run.det.rows, run.det.cols])?;
    h5::texts(at, "warnings", &run.warnings)?;
    for (name, value) in &run.findings {
        h5::scalar(at, name, value)?;
    }
    let c = &run.calibration;
    for (name, value) in [
        ("energy_ev", c.energy_ev),
        ("semiangle_mrad", c.semiangle_mrad),
        ("scan_step_angstrom", c.scan_step_angstrom),
        ("detector_mrad_per_px", c.detector_mrad_per_px),
        ("rotation_deg", c.rotation_deg),
        ("defocus_angstrom", c.defocus_angstrom),
    ] {
        if let Some(value) = value {
            h5::scalar(at, name, &value)?;
        }
    }
    Ok(())
}

const SIDECAR_HINT: &str = "keep the results in a file of their own with `--set export.emd=sidecar`";

/// Refuses a file that is missing or that its owner has marked as not to be written to.
fn check_writable(path: &Path) -> Result<()> {
    let action = "open the EMD file for writing";
    let failed = |e| Error::io(path, action, e).with_hint(SIDECAR_HINT);
    let meta = fs::metadata(path).map_err(failed)?;
    // An administrator may write to every file; the mark still says what its owner wants.
    if meta.permissions().readonly() {
        return Err(failed(std::io::ErrorKind::PermissionDenied.into()));
    }
    OpenOptions::new().write(true).open(path).map_err(failed)?;
    Ok(())
}

/// Opens a file for writing; waits a moment for another run that is writing its results into the same file.
fn open_for_writing(path: &Path) -> Result<File> {
    for _ in 0..LOCK_TRIES {
        match h5::files().open_rw(path) {
            Err(e) if e.to_string().contains("unable to lock file") => thread::sleep(LOCK_PAUSE),
            opened => return opened.map_err(|e| open_error(path, &e)),
        }
    }
    h5::files().open_rw(path).map_err(|e| open_error(path, &e))
}

/// Why the library would not open a file for writing, in words that help.
fn open_error(path: &Path, error: &hdf5::Error) -> Error {
    let text = error.to_string();
    let busy = ["unable to lock file", "already open"].iter().any(|s| text.contains(s));
    if busy {
        let source = std::io::Error::new(std::io::ErrorKind::ResourceBusy, text);
        Error::new(ErrorKind::Io { path: path.to_owned(), action: "open the EMD file for writing".into(), source })
            .with_hint(format!("close the other program that has the file open, or {SIDECAR_HINT}"))
    } else if let Some(found) =
        ["truncated file", "file signature not found", "bad object header"].into_iter().find(|s| text.contains(s))
    {
        Error::input(path, "a complete HDF5 file", format!("{found} ({text})")).with_hint(SIDECAR_HINT)
    } else {
        Error::input(path, "an HDF5 file that can be written to", text).with_hint(SIDECAR_HINT)
    }
}
