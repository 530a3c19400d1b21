//! A scan in a folder of its own, with runs that stop and go on.

use std::fs;
use std::path::{Path, PathBuf};

use stemstream::cache::Step;
use stemstream::session::Session;

use super::runs::{Bits, Watcher, bits, config, manifest, refused, run_watched, scan};
use super::writers::write_npy;

const SHAPE: (usize, usize, usize, usize) = (20, 28, 24, 22);

/// A folder with a scan, and the bits of an uninterrupted run on it.
pub struct Case {
    pub folder: tempfile::TempDir,
    pub input: PathBuf,
}

impl Case {
    pub fn new() -> Self {
        let folder = super::runs::folder();
        let input = folder.path().join("scan.npy");
        write_npy(&input, &scan(SHAPE), "<u2");
        Self { folder, input }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The bits of a run in a folder of its own.
    pub fn expected(&self, settings: &[&str]) -> Bits {
        bits(&self.input, super::runs::folder().path(), settings)
    }

    pub fn caches(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).unwrap().map(|e| e.unwrap().path());
        let mut caches: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "zarr")).collect();
        caches.sort();
        caches
    }

    /// The one cache that there is.
    pub fn cache(&self) -> PathBuf {
        let mut caches = self.caches();
        assert_eq!(caches.len(), 1, "{caches:?}");
        caches.remove(0)
    }

    /// Runs until the watcher stops it.
    pub fn interrupted(&self, settings: &[&str], watcher: &Watcher) {
        let config = config(self.path(), settings);
        refused(run_watched(&self.input, config, watcher, &watcher.cancel), 130);
    }

    /// Goes on, and reports what was done: names of graphs with the tiles or blocks of their first block.
    pub fn resumed(&self, settings: &[&str]) -> (Bits, Vec<(String, u64)>, String) {
        let watcher = Watcher::default();
        let config = config(self.path(), settings);
        let session = Session::open(&self.input, config, false, &watcher, &watcher.cancel).unwrap();
        assert!(session.is_resumed());
        session.run_to(Step::Reconstruct).unwrap();
        let reports = session.reports().into_iter().map(|r| (r.name.clone(), r.blocks[0].items)).collect();
        (Bits::of(&session.cache_path()), reports, watcher.said())
    }
}

/// Many small tiles, so that there is a middle to stop in.
pub const TILES: [&str; 2] = ["plan.tile_rows=1", "plan.tile_cols=4"];

/// Detector pixels of the crop in tiles of [`TILES`].
pub fn tiles_of(cache: &Path) -> usize {
    let disk = &manifest(cache).results[&Step::Detect];
    let crop: stemstream::axes::Crop = serde_json::from_value(disk["crop"].clone()).unwrap();
    crop.shape().rows * crop.shape().cols.div_ceil(4)
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The chunk files of an array of a cache.
pub fn chunks(array: &Path) -> Vec<PathBuf> {
    files(array).into_iter().filter(|path| !path.ends_with("zarr.json")).collect()
}

pub fn change_manifest(cache: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = cache.join("manifest.json");
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, serde_json::to_vec(&value).unwrap()).unwrap();
}
