//! What is done stays done: a run that was cancelled or killed goes on where it stopped and ends with the same bits, a
//! changed parameter redoes what depends on it and nothing else, and a cache that cannot be trusted is refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::runs::{Bits, Watcher, bits, config, manifest, marked, refused, run, run_fresh, run_watched, scan};
use common::writers::write_npy;
use stemstream::cache::{Step, StepState};
use stemstream::progress::{CancelToken, Progress, Silent};
use stemstream::session::Session;

const SHAPE: (usize, usize, usize, usize) = (20, 28, 24, 22);

/// A folder with a scan, and the bits of an uninterrupted run on it.
struct Case {
    folder: tempfile::TempDir,
    input: PathBuf,
}

impl Case {
    fn new() -> Self {
        let folder = common::runs::folder();
        let input = folder.path().join("scan.npy");
        write_npy(&input, &scan(SHAPE), "<u2");
        Self { folder, input }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The bits of a run in a folder of its own.
    fn expected(&self, settings: &[&str]) -> Bits {
        bits(&self.input, common::runs::folder().path(), settings)
    }

    fn caches(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).unwrap().map(|e| e.unwrap().path());
        let mut caches: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "zarr")).collect();
        caches.sort();
        caches
    }

    /// The one cache that there is.
    fn cache(&self) -> PathBuf {
        let mut caches = self.caches();
        assert_eq!(caches.len(), 1, "{caches:?}");
        caches.remove(0)
    }

    /// Runs until the watcher stops it.
    fn interrupted(&self, settings: &[&str], watcher: &Watcher) {
        let config = config(self.path(), settings);
        refused(run_watched(&self.input, config, watcher, &watcher.cancel), 130);
    }

    /// Goes on, and reports what was done: names of graphs with the tiles or blocks of their first block.
    fn resumed(&self, settings: &[&str]) -> (Bits, Vec<(String, u64)>, String) {
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
const TILES: [&str; 2] = ["plan.tile_rows=1", "plan.tile_cols=4"];

/// Detector pixels of the crop in tiles of [`TILES`].
fn tiles_of(cache: &Path) -> usize {
    let disk = &manifest(cache).results[&Step::Detect];
    let crop: stemstream::axes::Crop = serde_json::from_value(disk["crop"].clone()).unwrap();
    crop.shape().rows * crop.shape().cols.div_ceil(4)
}

#[test]
fn a_run_cancelled_in_the_corner_turn_starts_it_again() {
    let case = Case::new();
    let settings = ["plan.slab_rows=1", "plan.read_block=\"5 KiB\""];
    case.interrupted(&settings, &Watcher::stopping("corner turn", 40));
    assert_eq!(manifest(&case.cache()).state(Step::Stack), StepState::Absent);
    let (found, _, said) = case.resumed(&settings);
    found.must_equal(&case.expected(&[]), "cancelled in the corner turn");
    assert!(said.contains("begin corner turn"), "{said}");
    case.cache();
}

fn cancelled_in_align(mode: &str) {
    let case = Case::new();
    let settings: Vec<_> = TILES.into_iter().chain([mode, "run.workers=2"]).collect();
    case.interrupted(&settings, &Watcher::stopping_after_marks("align", 12));
    let cache = case.cache();
    let (all, before) = (tiles_of(&cache), marked(&cache, Step::Shifts, tiles_of(&cache)));
    assert!(before >= 10 && before < all, "{before} of {all} tiles are marked");
    let (found, reports, said) = case.resumed(&settings);
    assert!(!said.contains("begin corner turn"), "{said}");
    let align = reports.iter().find(|r| r.0 == "align").unwrap();
    assert_eq!(align.1 as usize, all - before, "tiles that were marked are not done again");
    found.must_equal(&case.expected(&[mode]), mode);
}

#[test]
fn a_documented_run_cancelled_while_aligning_does_only_the_tiles_that_are_left() {
    cancelled_in_align("run.mode=documented");
}

#[test]
fn a_lean_run_cancelled_while_aligning_does_only_the_tiles_that_are_left() {
    cancelled_in_align("run.mode=lean");
}

#[test]
fn a_run_cancelled_while_reconstructing_does_only_that_again() {
    let case = Case::new();
    case.interrupted(&[], &Watcher::stopping("reconstruct", 3));
    assert!(manifest(&case.cache()).is_done(Step::Shifts));
    let (found, reports, said) = case.resumed(&[]);
    assert!(reports.is_empty(), "{reports:?}");
    assert!(said.contains("begin reconstruct") && !said.contains("begin align"), "{said}");
    found.must_equal(&case.expected(&[]), "cancelled while reconstructing");
}

#[test]
fn a_run_may_be_cancelled_again_and_again_and_change_its_workers_and_budget_between() {
    let case = Case::new();
    let settings: Vec<_> = TILES.into_iter().chain(["run.workers=1"]).collect();
    case.interrupted(&settings, &Watcher::stopping_after_marks("align", 3));
    let settings = ["run.workers=3", "plan.in_memory=false", "run.mode=lean"];
    case.interrupted(&settings, &Watcher::stopping_after_marks("align", 5));
    let settings = ["run.workers=2", "run.memory=\"40 MiB\""];
    case.interrupted(&settings, &Watcher::stopping("reconstruct", 1));
    let (found, _, _) = case.resumed(&[]);
    found.must_equal(&case.expected(&[]), "cancelled three times");
}

#[test]
fn a_finished_run_has_nothing_left_to_do() {
    let case = Case::new();
    run(&case.input, case.path(), &[]).unwrap();
    let (_, reports, said) = case.resumed(&[]);
    assert!(reports.is_empty() && said.is_empty(), "{reports:?} {said}");
    case.cache();
}

#[test]
fn a_lean_run_can_be_made_documented_afterwards() {
    let case = Case::new();
    run(&case.input, case.path(), &["run.mode=lean"]).unwrap();
    let (found, _, said) = case.resumed(&[]);
    assert!(!said.contains("begin corner turn"), "{said}");
    found.must_equal(&case.expected(&[]), "documented after lean");
}

#[test]
fn what_was_thrown_away_to_save_space_is_not_made_again_and_not_missed() {
    let case = Case::new();
    let watcher = Watcher::default();
    let keep = ["cache.keep=stack"];
    let session = Session::open(&case.input, config(case.path(), &keep), false, &watcher, &watcher.cancel).unwrap();
    session.run_to(Step::Reconstruct).unwrap();
    let cache = session.apply_retention().unwrap().unwrap();
    assert!(!cache.join("bigFT").exists() && !cache.join("correlations").exists());
    let (found, reports, _) = case.resumed(&keep);
    assert!(reports.is_empty());
    found.must_equal(&case.expected(&[]).lean(), "without the large arrays");
    let change = "align.reference_smoothing=1.5";
    let (found, _, said) = case.resumed(&[keep[0], change]);
    assert!(!said.contains("begin corner turn"), "{said}");
    found.lean().must_equal(&case.expected(&[change]).lean(), change);
    assert!(!cache.join("bigFT").exists(), "an array without chunks would read as zeros");
}

/// What a change of one setting redoes, by the stages that begin.
fn redone(change: &str) -> (Bits, String) {
    let case = Case::new();
    run(&case.input, case.path(), &[]).unwrap();
    let (found, _, said) = case.resumed(&[change]);
    found.must_equal(&case.expected(&[change]), change);
    case.cache();
    let stages: Vec<_> = said.lines().filter_map(|l| l.strip_prefix("begin ")).collect();
    let note = said.lines().find(|l| l.contains("changed")).unwrap_or_default();
    let key = change.split_once('=').unwrap().0;
    assert!(note.contains(key), "no note names {key}: {said}");
    (found, format!("{}: {note}", stages.join(", ")))
}

#[test]
fn a_changed_reconstruction_redoes_the_reconstruction_only_and_says_so() {
    for change in ["reconstruct.upscale=2", "reconstruct.detector_radius=3", "reconstruct.quality_threshold=0.3"] {
        let (_, said) = redone(change);
        assert!(said.starts_with("reconstruct: "), "{said}");
        assert!(said.ends_with("changed: reconstruct will be done again"), "{said}");
    }
}

#[test]
fn a_changed_reference_redoes_the_correlations_but_not_the_spectra() {
    let (_, said) = redone("align.reference_smoothing=1.5");
    assert!(
        said.starts_with("align, reconstruct: ") && said.contains(": correlate, shifts, reconstruct will"),
        "{said}"
    );
}

#[test]
fn a_changed_reference_leaves_the_stored_spectra_untouched() {
    let case = Case::new();
    let cache = run(&case.input, case.path(), &[]).unwrap();
    let times = || -> Vec<(PathBuf, SystemTime)> {
        files(&cache.join("bigFT"))
            .into_iter()
            .map(|p| (p.clone(), fs::metadata(&p).unwrap().modified().unwrap()))
            .collect()
    };
    let before = times();
    run(&case.input, case.path(), &["align.reference_smoothing=2"]).unwrap();
    assert_eq!(before, times());
}

#[test]
fn a_changed_precision_redoes_the_spectra_but_not_the_stack() {
    let (_, said) = redone("run.precision=f64");
    assert!(said.starts_with("align, reconstruct: "), "{said}");
    assert!(said.contains(": fft, correlate, shifts, reconstruct will"), "{said}");
}

#[test]
fn another_disk_gets_a_cache_of_its_own_and_the_old_one_stays() {
    let case = Case::new();
    let old = run(&case.input, case.path(), &[]).unwrap();
    let content = || files(&old).into_iter().map(|p| (p.clone(), fs::read(&p).unwrap())).collect::<Vec<_>>();
    let before = content();
    let watcher = Watcher::default();
    let change = ["disk.crop_radius=6"];
    let session = Session::open(&case.input, config(case.path(), &change), false, &watcher, &watcher.cancel).unwrap();
    assert!(!session.is_resumed());
    session.run_to(Step::Reconstruct).unwrap();
    Bits::of(&session.cache_path()).must_equal(&case.expected(&change), "another disk");
    assert!(watcher.said().contains("disk.crop_radius changed"), "{}", watcher.said());
    assert!(before == content() && case.caches().len() == 2);
}

#[test]
fn a_cache_alone_cannot_be_given_another_disk_and_loses_nothing() {
    let case = Case::new();
    let cache = run(&case.input, case.path(), &[]).unwrap();
    let watcher = Watcher::default();
    let settings = ["disk.crop_radius=6".to_owned()];
    let error = Session::from_cache(&cache, &settings, &watcher, &watcher.cancel).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(manifest(&cache).is_done(Step::Reconstruct));
}

#[test]
fn going_back_to_earlier_parameters_gives_the_earlier_bits() {
    let case = Case::new();
    let first = Bits::of(&run(&case.input, case.path(), &[]).unwrap());
    for change in ["reconstruct.upscale=2", "align.reference_smoothing=2", "disk.crop_radius=5"] {
        run(&case.input, case.path(), &[change]).unwrap();
        case.resumed(&[]).0.must_equal(&first, change);
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_source_that_changed_is_refused_unless_the_run_is_fresh() {
    type Change = fn(&Path);
    let touch = |path: &Path| {
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(SystemTime::now() + Duration::from_secs(5))
            .unwrap();
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.len() / 3;
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let lengthen = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes.extend([0; 7]);
        fs::write(path, bytes).unwrap();
    };
    for (what, change) in [("touched", touch as Change), ("flipped", flip), ("lengthened", lengthen)] {
        let case = Case::new();
        let first = run(&case.input, case.path(), &[]).unwrap();
        let before = fs::read(first.join("manifest.json")).unwrap();
        change(&case.input);
        let error = refused(run(&case.input, case.path(), &[]), 6);
        assert!(error.to_string().contains("source has changed"), "{what}: {error}");
        assert!(error.hint().is_some_and(|h| h.contains("--fresh")), "{what}: {:?}", error.hint());
        assert_eq!(fs::read(first.join("manifest.json")).unwrap(), before, "{what}: the old cache stays as it was");
        let second = run_fresh(&case.input, case.path(), &[]).unwrap();
        assert_ne!(first, second);
        assert_eq!(run(&case.input, case.path(), &[]).unwrap(), second, "{what}: the fresh cache is the one to resume");
    }
    let case = Case::new();
    run(&case.input, case.path(), &[]).unwrap();
    let bytes = fs::read(&case.input).unwrap();
    fs::write(&case.input, &bytes[..bytes.len() - 5000]).unwrap();
    refused(run(&case.input, case.path(), &[]), 3);
    let error = refused(run(&case.input, case.path(), &["source.incomplete=trim"]), 6);
    assert!(error.to_string().contains("its size was"), "{error}");
}

#[test]
fn a_source_that_moved_with_its_cache_is_recognised() {
    let case = Case::new();
    let cache = run(&case.input, case.path(), &[]).unwrap();
    let elsewhere = common::runs::folder();
    let input = elsewhere.path().join("scan.npy");
    fs::rename(&case.input, &input).unwrap();
    fs::rename(&cache, elsewhere.path().join(cache.file_name().unwrap())).unwrap();
    let watcher = Watcher::default();
    let config = config(elsewhere.path(), &[]);
    run_watched(&input, config, &watcher, &watcher.cancel).unwrap();
    assert_eq!(watcher.said(), "");
}

#[test]
fn any_number_of_caches_lie_side_by_side_and_the_fitting_one_is_resumed() {
    let case = Case::new();
    let smoothings = ["align.reference_smoothing=0", "align.reference_smoothing=1", "align.reference_smoothing=2"];
    let made: Vec<_> = smoothings.iter().map(|s| run_fresh(&case.input, case.path(), &[s]).unwrap()).collect();
    assert_eq!(case.caches().len(), 3);
    for (smoothing, cache) in smoothings.iter().zip(&made) {
        let watcher = Watcher::default();
        let config = config(case.path(), &[smoothing]);
        assert_eq!(&run_watched(&case.input, config, &watcher, &watcher.cancel).unwrap(), cache);
        assert_eq!(watcher.said(), "", "nothing is left to do");
    }
    // Another scan of a similar name in the same folder has nothing to do with them.
    let other = case.path().join("scan_2.npy");
    write_npy(&other, &scan((8, 8, 12, 12)), "<u2");
    run(&other, case.path(), &[]).unwrap();
    assert_eq!(case.caches().len(), 4);
}

#[test]
fn two_sessions_on_one_cache_are_one_too_many() {
    let case = Case::new();
    let cancel = CancelToken::new();
    let first = Session::open(&case.input, config(case.path(), &[]), false, &Silent, &cancel).unwrap();
    let second = Session::open(&case.input, config(case.path(), &[]), false, &Silent, &cancel);
    let error = refused(second, 6);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("--fresh")));
    refused(Session::from_cache(&first.cache_path(), &[], &Silent, &cancel), 6);
    Session::open(&case.input, config(case.path(), &[]), true, &Silent, &cancel).unwrap();
    first.run_to(Step::Detect).unwrap();
    drop(first);
    Session::open(&case.input, config(case.path(), &[]), false, &Silent, &cancel).unwrap();
}

fn change_manifest(cache: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = cache.join("manifest.json");
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, serde_json::to_vec(&value).unwrap()).unwrap();
}

#[test]
fn a_cache_of_a_newer_version_is_left_alone() {
    for (major, minor) in [(2, 0), (1, 1)] {
        let case = Case::new();
        let cache = run(&case.input, case.path(), &[]).unwrap();
        change_manifest(&cache, |m| m["format"] = serde_json::json!({"major": major, "minor": minor}));
        let before = fs::read(cache.join("manifest.json")).unwrap();
        let error = refused(run(&case.input, case.path(), &[]), 6);
        assert!(error.to_string().contains(&format!("newer version (format {major}.{minor}")), "{error}");
        assert_eq!(fs::read(cache.join("manifest.json")).unwrap(), before);
        run_fresh(&case.input, case.path(), &[]).unwrap();
    }
}

#[test]
fn a_damaged_manifest_is_refused_and_a_fresh_run_goes_on() {
    for damage in ["", "{", "[1, 2]", "{\"format\": {\"major\": 1, \"minor\": 0}}", "\u{0}\u{0}\u{0}"] {
        let case = Case::new();
        let cache = run(&case.input, case.path(), &[]).unwrap();
        fs::write(cache.join("manifest.json"), damage).unwrap();
        let error = refused(run(&case.input, case.path(), &[]), 6);
        assert!(error.to_string().contains("manifest is damaged"), "{damage:?}: {error}");
        assert!(error.hint().is_some_and(|h| h.contains("--fresh")), "{damage:?}");
        run_fresh(&case.input, case.path(), &[]).unwrap();
    }
}

#[test]
fn every_cut_of_a_manifest_is_refused_without_a_panic() {
    let case = Case::new();
    let cache = run(&case.input, case.path(), &[]).unwrap();
    let path = cache.join("manifest.json");
    let whole = fs::read(&path).unwrap();
    for len in (0..whole.len() - 2).step_by(53) {
        fs::write(&path, &whole[..len]).unwrap();
        refused(run(&case.input, case.path(), &[]), 6);
    }
}

#[test]
fn a_cache_without_a_manifest_is_no_cache() {
    // What a run leaves that was killed in its first moment.
    let case = Case::new();
    let left = case.path().join("scan_superres_cache_20200101_000000.zarr");
    fs::create_dir(&left).unwrap();
    let cache = run(&case.input, case.path(), &[]).unwrap();
    assert_ne!(cache, left);
}

#[test]
fn damaged_and_missing_chunks_are_noticed_when_they_are_needed() {
    // bigFT is needed when the reference changes, the stack when the image does.
    for (array, change) in [("bigFT", "align.reference_smoothing=2"), ("stack", "reconstruct.upscale=2")] {
        for damage in ["truncated", "deleted"] {
            let case = Case::new();
            let settings: Vec<_> = TILES.to_vec();
            let cache = run(&case.input, case.path(), &settings).unwrap();
            let chunks: Vec<_> = files(&cache.join(array).join("c"));
            let chunk = &chunks[chunks.len() / 2];
            if damage == "truncated" {
                let file = fs::File::options().write(true).open(chunk).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            } else {
                fs::remove_file(chunk).unwrap();
            }
            let settings: Vec<_> = settings.into_iter().chain([change]).collect();
            let error = refused(run(&case.input, case.path(), &settings), 6);
            assert!(error.to_string().contains(array), "{array} {damage}: {error}");
            assert!(error.hint().is_some_and(|h| h.contains("--fresh")), "{array} {damage}: {:?}", error.hint());
            run_fresh(&case.input, case.path(), &settings).unwrap();
        }
    }
}

#[test]
fn damaged_small_arrays_are_refused_without_a_panic() {
    for array in ["standard_bf", "sums", "mean_pattern", "shift_y"] {
        for damage in ["truncated", "deleted", "metadata", "no metadata"] {
            let case = Case::new();
            let cache = run(&case.input, case.path(), &[]).unwrap();
            let folder = cache.join(array);
            match damage {
                "truncated" => files(&folder.join("c")).iter().for_each(|f| fs::write(f, b"123").unwrap()),
                "deleted" => fs::remove_dir_all(folder.join("c")).unwrap(),
                "metadata" => fs::write(folder.join("zarr.json"), b"{\"zarr_format\": 3}").unwrap(),
                _ => fs::remove_file(folder.join("zarr.json")).unwrap(),
            }
            let change = if array == "shift_y" { "reconstruct.upscale=2" } else { "align.reference_smoothing=2" };
            match run(&case.input, case.path(), &[change]) {
                // The mean pattern is needed for the report only.
                Ok(cache) => {
                    assert_eq!(stemstream::session::Results::read(&cache).map(|_| ()).unwrap_err().exit_code(), 6);
                }
                Err(error) => {
                    assert_eq!(error.exit_code(), 6, "{array} {damage}: {error}");
                    assert!(error.hint().is_some(), "{array} {damage}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_stack_that_was_not_surely_on_disk_when_the_system_restarted_is_made_again() {
    let case = Case::new();
    let settings: Vec<_> = TILES.to_vec();
    case.interrupted(&settings, &Watcher::stopping_after_marks("align", 12));
    let cache = case.cache();
    let boot = manifest(&cache).steps[&Step::Stack].clone();
    assert!(matches!(boot, StepState::Done { unsynced_boot: Some(_) }), "{boot:?}");
    change_manifest(&cache, |m| m["steps"]["stack"]["done"]["unsynced_boot"] = "another boot".into());
    // Worse than lost: zeros where samples were.
    for chunk in files(&cache.join("stack").join("c")) {
        let len = fs::metadata(&chunk).unwrap().len() as usize;
        fs::write(&chunk, vec![0; len]).unwrap();
    }
    let before = marked(&cache, Step::Shifts, tiles_of(&cache));
    let (found, reports, said) = case.resumed(&settings);
    assert!(said.contains("begin corner turn"), "{said}");
    let align = reports.iter().find(|r| r.0 == "align").unwrap();
    assert_eq!(align.1 as usize, tiles_of(&cache) - before, "tiles that were synced stay");
    found.must_equal(&case.expected(&[]), "after a restart");
}

/// A run that takes its time, so that it can be killed half-way.
struct Slow;

impl Progress for Slow {
    fn advance(&self, bytes: u64) {
        if bytes > 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

/// Not a test by itself: the process that [`killed`] starts and kills.
#[test]
fn child_that_runs_slowly() {
    let Ok(input) = std::env::var("STEMSTREAM_TEST_INPUT") else { return };
    let input = PathBuf::from(input);
    let settings = std::env::var("STEMSTREAM_TEST_SETTINGS").unwrap();
    let settings: Vec<_> = settings.split(' ').collect();
    let config = config(input.parent().unwrap(), &settings);
    run_watched(&input, config, &Slow, &CancelToken::new()).unwrap();
}

/// Starts a run in another process and kills it as soon as `ready` says so.
fn killed(case: &Case, settings: &[&str], ready: impl Fn(&Path) -> bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_runs_slowly", "--exact"])
        .env("STEMSTREAM_TEST_INPUT", &case.input)
        .env("STEMSTREAM_TEST_SETTINGS", settings.join(" "))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !case.caches().first().is_some_and(|cache| cache.join("manifest.json").exists() && ready(cache)) {
        assert!(child.try_wait().unwrap().is_none(), "the child ended before it could be killed");
        assert!(start.elapsed() < Duration::from_secs(20), "the child does not come to the point");
        std::thread::sleep(Duration::from_millis(10));
    }
    // SIGKILL: nothing in the child can react to it.
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_run_killed_while_aligning_goes_on_and_ends_with_the_same_bits() {
    for mode in ["run.mode=documented", "run.mode=lean"] {
        let case = Case::new();
        let settings: Vec<_> = TILES.into_iter().chain([mode]).collect();
        killed(&case, &settings, |cache| {
            manifest(cache).is_done(Step::Stack) && marked(cache, Step::Shifts, tiles_of(cache)) > 0
        });
        let cache = case.cache();
        let (all, before) = (tiles_of(&cache), marked(&cache, Step::Shifts, tiles_of(&cache)));
        assert!(before > 0 && before < all);
        let (found, reports, said) = case.resumed(&settings);
        assert!(!said.contains("begin corner turn"), "{said}");
        assert_eq!(reports.iter().find(|r| r.0 == "align").unwrap().1 as usize, all - before);
        found.must_equal(&case.expected(&[mode]), mode);
    }
}

#[test]
fn a_run_killed_in_the_corner_turn_goes_on_and_ends_with_the_same_bits() {
    let case = Case::new();
    let settings = ["plan.slab_rows=1", "plan.read_block=\"10000\"", "plan.in_memory=false", "run.workers=1"];
    killed(&case, &settings, |cache| cache.join("stack").join("c").join("4").exists());
    assert_eq!(manifest(&case.cache()).state(Step::Stack), StepState::Absent);
    let (found, _, _) = case.resumed(&settings);
    found.must_equal(&case.expected(&[]), "killed in the corner turn");
}

/// Ctrl-C on the command: stopped cleanly with its own exit code, and the same command goes on.
#[cfg(feature = "cli")]
#[test]
fn an_interrupted_command_exits_with_130_and_goes_on_when_it_is_called_again() {
    // A length that is no product of small primes makes transforms slow enough to be interrupted.
    let dir = common::runs::folder();
    let input = dir.path().join("scan.npy");
    write_npy(&input, &scan((127, 131, 32, 32)), "<u2");
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stemstream"));
        command.arg("run").arg(&input).args(["--workers", "1", "--set", "run.precision=f64"]);
        command.args(["--set", "reconstruct.quality_threshold=0.01", "--set", "export.hdf5=false"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let child = command().spawn().unwrap();
    let started = || {
        let caches = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path().join("manifest.json"));
        caches.filter_map(|m| fs::read_to_string(m).ok()).any(|text| text.contains("nan_samples"))
    };
    let start = Instant::now();
    while !started() {
        assert!(start.elapsed() < Duration::from_secs(20), "the run does not come to the point");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("goes on from there") && !stderr.contains("panicked"), "{stderr}");
    let out = command().output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && stderr.contains("continuing"), "{stderr}");
}
