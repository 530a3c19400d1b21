//! An open cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::axes::{DType, DetShape, Image, Plane, ScanShape};
use crate::cache::fingerprint::Fingerprint;
use crate::cache::lock::Lock;
use crate::cache::manifest::{FormatVersion, Layout, Manifest, Step, StepState, boot_id};
use crate::cache::placed::Placed;
use crate::cache::published::{Curve, Extra};
use crate::cache::resume::folder_name;
use crate::cache::tiles::TileSet;
use crate::error::{Error, Result};
use crate::store::{Group, Io, create_folder, remove_file, remove_folder};

/// A cache that this process may write, or an opened one that it only reads.
#[derive(Debug)]
pub struct WorkingCache {
    path: PathBuf,
    group: Group,
    manifest: Manifest,
    lock: Option<Lock>,
    /// Whether the manifest was changed since it was written.
    unwritten: bool,
}

impl WorkingCache {
    /// Makes a new cache for a dataset in `folder`, locked, with the configuration of its run. A name that is taken gets a
    /// suffix.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io) when the folder cannot be written.
    pub fn create(
        folder: &Path,
        base: &str,
        timestamp: &str,
        source: Fingerprint,
        shape: (ScanShape, DetShape, DType),
        config: Value,
    ) -> Result<Self> {
        create_folder(folder)?;
        let (path, timestamp) = new_folder(folder, base, timestamp)?;
        Self::fill(&path, timestamp, source, shape, config).inspect_err(|_| {
            // Nothing is lost: a cache in which nothing is done.
            let _ = remove_folder(&path);
        })
    }

    /// The lock, the group and the first manifest of a new cache.
    fn fill(
        path: &Path,
        timestamp: String,
        source: Fingerprint,
        (scan, det, dtype): (ScanShape, DetShape, DType),
        config: Value,
    ) -> Result<Self> {
        let lock = Lock::acquire(path)?;
        let mut attributes = Map::new();
        attributes.insert("description".into(), json!("working cache of stemstream; manifest.json says what is done"));
        attributes.insert("source".into(), json!(source.path));
        let group = Group::create(path, attributes)?;
        let manifest = Manifest {
            format: FormatVersion::CURRENT,
            software: concat!("stemstream ", env!("CARGO_PKG_VERSION")).to_owned(),
            timestamp,
            source,
            scan,
            det,
            dtype,
            layout: None,
            counts: None,
            config,
            parameters: BTreeMap::default(),
            steps: BTreeMap::default(),
            results: BTreeMap::default(),
            extras: Vec::new(),
            curves: Vec::new(),
            exports: BTreeMap::default(),
            placed: BTreeMap::default(),
            warnings: Vec::new(),
        };
        manifest.write(path)?;
        Ok(Self { path: path.to_owned(), group, manifest, lock: Some(lock), unwritten: false })
    }

    /// Opens an existing cache for writing. What an older program wrote in another way counts as not done.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it is locked, damaged or newer.
    pub fn open(path: &Path) -> Result<Self> {
        // The manifest first: its message is the better one when this is no cache at all.
        let before = Manifest::read(path)?;
        if before.format > FormatVersion::CURRENT {
            before.write(path)?;
        }
        let lock = Lock::acquire(path)?;
        let mut manifest = Manifest::read(path)?;
        manifest.forget_outdated();
        Ok(Self { path: path.to_owned(), group: Group::open(path)?, manifest, lock: Some(lock), unwritten: false })
    }

    /// Opens an existing cache for reading, without the lock.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it is damaged or newer.
    pub fn open_for_reading(path: &Path) -> Result<Self> {
        let manifest = Manifest::read(path)?;
        Ok(Self { path: path.to_owned(), group: Group::open(path)?, manifest, lock: None, unwritten: false })
    }

    /// The cache's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cache's folder name.
    pub fn name(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The Zarr group with the arrays.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Chooses how chunks of arrays that are opened from now on are read and written.
    pub fn set_io(&mut self, io: Io) {
        self.group.set_io(io);
    }

    /// What is done.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Changes the manifest and writes it.
    ///
    /// # Errors
    /// As [`Manifest::write`]; [`Bug`](crate::error::ErrorKind::Bug) for a cache opened for reading.
    pub fn update(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        if self.lock.is_none() {
            return Err(Error::bug("a cache opened for reading was to be changed"));
        }
        self.update_soon(change);
        self.write_down()
    }

    /// Changes the manifest in memory alone: it is written with the next [`update`](Self::update), or
    /// [`write_down`](Self::write_down). For what is found again in no time should the process end before.
    pub fn update_soon(&mut self, change: impl FnOnce(&mut Manifest)) {
        change(&mut self.manifest);
        self.unwritten = true;
    }

    /// Writes the manifest where it was changed since it was written last.
    ///
    /// # Errors
    /// As [`Manifest::write`].
    pub fn write_down(&mut self) -> Result<()> {
        if self.unwritten && self.lock.is_some() {
            // What is written from now on is of this version.
            self.manifest.format = self.manifest.format.max(FormatVersion::CURRENT);
            concat!("stemstream ", env!("CARGO_PKG_VERSION")).clone_into(&mut self.manifest.software);
            self.manifest.write(&self.path)?;
            self.unwritten = false;
        }
        Ok(())
    }

    /// Marks tiles of a step whose data are on disk; all of them make the step done.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn mark_tiles(&mut self, marks: &[(Step, TileSet)]) -> Result<()> {
        self.update(|manifest| {
            for (step, tiles) in marks {
                let state = if tiles.is_full() {
                    StepState::Done { unsynced_boot: None }
                } else {
                    StepState::Partial(tiles.clone())
                };
                manifest.steps.insert(*step, state);
            }
        })
    }

    /// Marks a step done, with its small results. `synced` says whether all its data are surely on disk.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn mark_done(&mut self, step: Step, result: Value, synced: bool) -> Result<()> {
        let unsynced_boot = if synced { None } else { boot_id() };
        if !synced && unsynced_boot.is_none() {
            return Ok(());
        }
        self.update(|manifest| {
            manifest.steps.insert(step, StepState::Done { unsynced_boot });
            manifest.results.insert(step, result);
        })
    }

    /// The tiles of a step that are done, out of `count`; a state with another count is worth nothing.
    pub fn tiles(&self, step: Step, count: usize) -> TileSet {
        match self.manifest.state(step) {
            StepState::Partial(tiles) if tiles.count() == count => tiles,
            StepState::Done { .. } => {
                let mut all = TileSet::empty(count);
                (0..count).for_each(|tile| all.insert(tile));
                all
            }
            _ => TileSet::empty(count),
        }
    }

    /// Forgets a step and all later ones, and deletes their arrays. The manifest forgets first.
    ///
    /// # Errors
    /// As [`update`](Self::update), and when an array cannot be deleted.
    pub fn invalidate_from(&mut self, step: Step) -> Result<()> {
        let unfinished = self.manifest.unfinished_file().map(Path::to_owned).filter(|_| step <= Step::Correlate);
        // A file that says with which parameters it was made is not filled with others.
        let step = if unfinished.is_some() { step.min(Step::Fft) } else { step };
        let gone: Vec<String> =
            self.manifest.extras.iter().filter(|e| e.step >= step).map(|e| e.name.clone()).collect();
        self.update(|manifest| {
            manifest.extras.retain(|e| e.step < step);
            manifest.curves.retain(|c| c.step < step);
            manifest.steps.retain(|s, _| *s < step);
            manifest.results.retain(|s, _| *s < step);
            manifest.parameters.retain(|s, _| *s < step);
            manifest.placed.retain(|s, _| *s < step);
            if step <= Step::Correlate {
                manifest.exports.clear();
            }
            if step <= Step::Detect {
                manifest.warnings.clear();
            }
            if step <= Step::Stack {
                manifest.layout = None;
            }
        })?;
        for later in Step::ALL.into_iter().filter(|s| *s >= step) {
            for array in arrays_of(later) {
                self.group.remove(array)?;
            }
        }
        unfinished.map_or(Ok(()), |file| remove_file(&file))?;
        gone.iter().try_for_each(|name| self.group.remove(name))
    }

    /// Keeps a further image of a step; one of the same name is replaced. Its axes are those of its plane.
    ///
    /// # Errors
    /// As [`update`](Self::update), and when the array cannot be written.
    pub fn publish(&mut self, extra: Extra, image: &Image) -> Result<()> {
        let dims = match extra.plane {
            Plane::Scan => ["scan_row", "scan_col"],
            Plane::Superres => ["row", "col"],
            Plane::Detector | Plane::Crop => ["det_row", "det_col"],
        };
        self.group.write_image(&extra.name, image, dims)?;
        self.record(vec![extra])
    }

    /// Notes further images of a step, whose arrays of these names were written before; as [`publish`](Self::publish),
    /// but with one change of the manifest for all of them.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn record(&mut self, extras: Vec<Extra>) -> Result<()> {
        self.update(|manifest| {
            manifest.extras.retain(|old| extras.iter().all(|new| old.name != new.name));
            manifest.extras.extend(extras);
        })
    }

    /// Keeps a curve of a step; one of the same name is replaced.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn publish_curve(&mut self, curve: Curve) -> Result<()> {
        self.update(|manifest| {
            manifest.curves.retain(|c| c.name != curve.name);
            manifest.curves.push(curve);
        })
    }

    /// Deletes the large array of a step that the user no longer needs (bigFT or correlations) and nothing else; it
    /// is not made again unless something else needs it.
    ///
    /// # Errors
    /// As [`invalidate_from`](Self::invalidate_from).
    pub fn drop_array(&mut self, step: Step) -> Result<()> {
        if self.manifest.unfinished_file().is_some() {
            self.forget_placed()?;
        }
        self.update(|manifest| {
            manifest.steps.remove(&step);
            manifest.placed.remove(&step);
            manifest.results.insert(step, json!({"dropped": true}));
        })?;
        arrays_of(step).first().map_or(Ok(()), |array| self.group.remove(array))
    }

    /// Records that the large arrays of these steps, of which nothing is there yet, lie in an HDF5 file.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn place(&mut self, placed: BTreeMap<Step, Placed>) -> Result<()> {
        self.update(|manifest| manifest.placed = placed)
    }

    /// Records that the HDF5 file with the large arrays is finished and called `file`.
    ///
    /// # Errors
    /// As [`update`](Self::update), and when the file cannot be read.
    pub fn finish_placed(&mut self, file: &Path) -> Result<()> {
        let finished = self.manifest.placed.iter().map(|(step, placed)| Ok((*step, placed.finished(file)?)));
        let finished = finished.collect::<Result<_>>()?;
        self.update(|manifest| {
            manifest.placed = finished;
            manifest.exports.insert("hdf5".to_owned(), file.to_owned());
        })
    }

    /// Looks for the HDF5 file with the large arrays. One that the user deleted, or another program changed, counts as
    /// thrown away like an array of this folder; an unfinished one is begun again. Returns the name of a lost file.
    ///
    /// # Errors
    /// As [`update`](Self::update), and [`Cache`](crate::error::ErrorKind::Cache) when the file's folder is not there or the
    /// file cannot be read: it may come back.
    pub fn forget_lost(&mut self) -> Result<Option<PathBuf>> {
        let mut lost = None;
        for placed in self.manifest.placed.values() {
            if !placed.is_there(&self.path)? {
                lost = Some(placed);
            }
        }
        let Some(lost) = lost else { return Ok(None) };
        let (file, unfinished) = (lost.file.clone(), lost.is_unfinished());
        if unfinished {
            self.forget_placed()?;
            return Ok(Some(file));
        }
        let steps: Vec<Step> = self.manifest.placed.keys().copied().collect();
        steps.into_iter().try_for_each(|step| self.drop_array(step))?;
        Ok(Some(file))
    }

    /// Forgets the large arrays that lie in an HDF5 file, and deletes the file if it is unfinished. What was found in
    /// them stays.
    fn forget_placed(&mut self) -> Result<()> {
        let unfinished = self.manifest.unfinished_file().map(Path::to_owned);
        let steps: Vec<Step> = self.manifest.placed.keys().copied().collect();
        self.update(|manifest| {
            for step in &steps {
                manifest.steps.remove(step);
                manifest.results.remove(step);
            }
            manifest.placed.clear();
        })?;
        unfinished.map_or(Ok(()), |file| remove_file(&file))
    }

    /// Deletes a cache, and the HDF5 file that it was filling when that is unfinished. Whoever calls this holds the lock,
    /// or knows that nobody does.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn delete(path: &Path) -> Result<()> {
        let manifest = Manifest::read(path).ok();
        manifest.as_ref().and_then(Manifest::unfinished_file).map_or(Ok(()), remove_file)?;
        remove_folder(path)
    }

    /// Records how the arrays are cut.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn set_layout(&mut self, layout: Layout) -> Result<()> {
        if self.manifest.layout == Some(layout) { Ok(()) } else { self.update(|m| m.layout = Some(layout)) }
    }
}

/// The arrays that a step owns.
fn arrays_of(step: Step) -> &'static [&'static str] {
    match step {
        Step::Detect => &["sampled_pattern"],
        Step::Stack => &["stack", "mean_pattern", "standard_bf"],
        Step::Fft => &["bigFT", "sums"],
        Step::Correlate => &["correlations", "reference_image"],
        Step::Peaks => &["peaks"],
        Step::Shifts => &["shift_y", "shift_x", "quality", "zncc"],
        Step::Reconstruct => &["superres_image", "weights", "virtual_bf"],
    }
}

/// Creates a folder of a new name: the time stamp, with a suffix when it is taken.
fn new_folder(folder: &Path, base: &str, timestamp: &str) -> Result<(PathBuf, String)> {
    for attempt in 1..1000 {
        let stamp = if attempt == 1 { timestamp.to_owned() } else { format!("{timestamp}_{attempt}") };
        let path = folder.join(folder_name(base, &stamp));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok((path, stamp)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io(&path, "create the cache folder", e)),
        }
    }
    Err(Error::bug("a thousand caches of one second"))
}
