//! A source that changes while it is read: noticed when the last frame was read, for every kind of file, and nothing
//! that was made from it counts.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::runs::{bits, config, folder, manifest, refused, run, run_watched, scan};
use common::writers::{MibLayout, write_mib, write_npy};
use stemstream::cache::Step;
use stemstream::progress::{CancelToken, Progress};

const SHAPE: (usize, usize, usize, usize) = (10, 12, 24, 22);
/// Many small blocks, so that the change comes between two of them.
const CUT: [&str; 3] = ["plan.slab_rows=1", "plan.read_block=\"2 KiB\"", "source.scan=[10, 12]"];

#[derive(Debug, Clone, Copy)]
enum Change {
    Grows,
    /// The same size, at another time.
    IsWrittenTo,
    IsReplaced,
    /// Its last bytes are gone.
    IsCutShort,
}

const CHANGES: [Change; 4] = [Change::Grows, Change::IsWrittenTo, Change::IsReplaced, Change::IsCutShort];

/// Changes the source when its first frames were turned.
struct Meddler<'a> {
    source: &'a Path,
    change: Change,
    turning: AtomicBool,
    done: AtomicBool,
}

impl Progress for Meddler<'_> {
    fn begin(&self, stage: &str, _: u64) {
        self.turning.store(stage == "corner turn", Ordering::SeqCst);
    }

    fn advance(&self, _: u64) {
        if self.turning.load(Ordering::SeqCst) && !self.done.swap(true, Ordering::SeqCst) {
            meddle(self.source, self.change);
        }
    }
}

fn meddle(source: &Path, change: Change) {
    match change {
        Change::Grows => OpenOptions::new().append(true).open(source).unwrap().write_all(b"more").unwrap(),
        Change::IsWrittenTo => {
            let file = OpenOptions::new().write(true).open(source).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }
        Change::IsReplaced => {
            let (other, modified) = (source.with_extension("new"), fs::metadata(source).unwrap().modified().unwrap());
            fs::copy(source, &other).unwrap();
            File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
            fs::rename(other, source).unwrap();
        }
        Change::IsCutShort => {
            let file = OpenOptions::new().write(true).open(source).unwrap();
            file.set_len(file.metadata().unwrap().len() - 8).unwrap();
        }
    }
}

/// Runs with every change; `write` makes the source anew each time.
fn every_change_is_noticed(name: &str, write: impl Fn(&Path)) {
    for change in CHANGES {
        let dir = folder();
        let source = dir.path().join(name);
        write(&source);
        let meddler = Meddler { source: &source, change, turning: false.into(), done: false.into() };
        let watched = run_watched(&source, config(dir.path(), &CUT), &meddler, &CancelToken::new());
        assert!(meddler.done.load(Ordering::SeqCst), "{name} {change:?}: never read");
        let error = refused(watched, 3);
        assert!(error.to_string().contains(name) && error.hint().is_some(), "{name} {change:?}: {error}");
        nothing_counts(dir.path(), &format!("{name} {change:?}"));
    }
}

/// No step of the cache is done, and the cache says why when the run came to the end of the file.
fn nothing_counts(folder: &Path, what: &str) {
    let caches: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "zarr"))
        .collect();
    assert_eq!(caches.len(), 1, "{what}");
    let manifest = manifest(&caches[0]);
    assert!(!manifest.is_done(Step::Stack) && !manifest.is_done(Step::Reconstruct), "{what}");
    let told = manifest.warnings.iter().any(|w| w.contains("nothing in this cache is reliable"));
    assert!(told || manifest.is_done(Step::Detect), "{what}: {:?}", manifest.warnings);
}

#[test]
fn an_npy_file_that_changes_is_noticed() {
    every_change_is_noticed("scan.npy", |path| write_npy(path, &scan(SHAPE), "<u2"));
}

#[test]
fn a_merlin_file_that_changes_is_noticed() {
    every_change_is_noticed("scan.mib", |path| write_mib(path, &scan(SHAPE), &MibLayout::default()));
}

#[cfg(feature = "hdf5")]
#[test]
fn an_emd_file_that_changes_is_noticed_however_it_is_stored() {
    use common::emd::{EmdDialect, Storage, write_emd};
    let chunk = [1, 4, 24, 22];
    for (name, storage) in [
        ("contiguous.emd", Storage::Contiguous),
        ("chunks.emd", Storage::Chunks(chunk)),
        ("gzip.emd", Storage::Gzip(chunk)),
    ] {
        every_change_is_noticed(name, |path| write_emd(path, EmdDialect::Emdfile, &scan(SHAPE), storage));
    }
    // Through the library, which cannot open a file that was cut short and says so itself.
    every_change_is_noticed("library.hspy.emd", |path| {
        write_emd(path, EmdDialect::HyperSpy, &scan(SHAPE), Storage::Chunks(chunk));
    });
}

#[test]
fn after_a_change_the_same_command_runs_as_if_nothing_had_been() {
    let dir = folder();
    let source = dir.path().join("scan.npy");
    write_npy(&source, &scan(SHAPE), "<u2");
    let meddler = Meddler { source: &source, change: Change::IsReplaced, turning: false.into(), done: false.into() };
    refused(run_watched(&source, config(dir.path(), &CUT), &meddler, &CancelToken::new()), 3);
    let fresh = folder();
    let expected = bits(&source, fresh.path(), &CUT);
    let cache = run(&source, dir.path(), &CUT).unwrap();
    common::runs::Bits::of(&cache).must_equal(&expected, "after a change");
    assert!(manifest(&cache).warnings.is_empty());
}
