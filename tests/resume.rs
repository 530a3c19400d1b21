//! What is done stays done: a run that was cancelled or killed goes on where it stopped and ends with the same bits, a
//! changed parameter redoes what depends on it and nothing else.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::case::{Case, TILES, change_manifest, chunks, files, tiles_of};
use common::runs::{Bits, Watcher, config, manifest, marked, run, run_fresh, run_watched, scan};
use common::writers::write_npy;
use stemstream::cache::{FormatVersion, Step, StepState};
use stemstream::progress::{CancelToken, Progress};
use stemstream::session::Session;

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
    let (all, before) = (tiles_of(&cache), marked(&cache, Step::Peaks, tiles_of(&cache)));
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
fn an_image_that_was_made_and_not_kept_is_made_again() {
    let case = Case::new();
    let lean = ["run.mode=lean"];
    let image = |watcher: &Watcher| {
        let config = config(case.path(), &lean);
        Session::open(&case.input, config, false, watcher, &watcher.cancel).unwrap().make_image().unwrap()
    };
    let made = image(&Watcher::default());
    assert!(!made.kept && !manifest(&case.cache()).is_done(Step::Reconstruct));
    let (found, _, said) = case.resumed(&lean);
    assert!(said.contains("begin reconstruct") && !said.contains("begin align"), "{said}");
    found.must_equal(&case.expected(&lean), "not kept");
    // Of a finished run it is read.
    let watcher = Watcher::default();
    let read = image(&watcher);
    assert!(read.kept && watcher.said().is_empty(), "{}", watcher.said());
    assert_eq!((made.superres_image, made.weights), (read.superres_image, read.weights));
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

#[test]
fn peaks_of_an_older_program_are_found_again_when_they_are_needed() {
    for mode in ["run.mode=documented", "run.mode=lean"] {
        let case = Case::new();
        let cache = run(&case.input, case.path(), &[mode]).unwrap();
        // That program's table had four columns; without it, nobody can take it for a good one.
        change_manifest(&cache, |m| m["format"]["minor"] = 0.into());
        fs::remove_dir_all(cache.join("peaks")).unwrap();
        let (_, _, said) = case.resumed(&[mode]);
        assert!(said.is_empty(), "a finished run stays finished: {said}");
        let changed = [mode, "reconstruct.upscale=2"];
        let (found, _, said) = case.resumed(&changed);
        assert!(said.contains("begin align") && !said.contains("begin corner turn"), "{said}");
        found.must_equal(&case.expected(&changed), mode);
        assert_eq!(manifest(&cache).format, FormatVersion::CURRENT);
    }
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
fn another_alignment_method_keeps_spectra_correlations_and_peaks() {
    let case = Case::new();
    let cache = run(&case.input, case.path(), &[]).unwrap();
    let times = || -> Vec<SystemTime> {
        ["bigFT", "correlations", "peaks"]
            .iter()
            .flat_map(|array| files(&cache.join(array)))
            .map(|path| fs::metadata(path).unwrap().modified().unwrap())
            .collect()
    };
    let before = times();
    let settings = config(case.path(), &["align.method=parametric"]);
    let watcher = Watcher::default();
    let session = Session::open(&case.input, settings, false, &watcher, &watcher.cancel).unwrap();
    // Whether this little scan determines a model is another matter.
    let _ = session.run_to(Step::Shifts);
    assert!(watcher.said().contains("changed: shifts, reconstruct will be done again"), "{}", watcher.said());
    assert!(!before.is_empty() && before == times());
    assert!(manifest(&cache).is_done(Step::Peaks));
}

#[test]
fn a_changed_reference_redoes_the_correlations_but_not_the_spectra() {
    let (_, said) = redone("align.reference_smoothing=1.5");
    assert!(
        said.starts_with("align, reconstruct: ") && said.contains(": correlate, peaks, shifts, reconstruct will"),
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
    assert!(said.contains(": fft, correlate, peaks, shifts, reconstruct will"), "{said}");
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
fn a_stack_that_was_not_surely_on_disk_when_the_system_restarted_is_made_again() {
    let case = Case::new();
    let settings: Vec<_> = TILES.to_vec();
    case.interrupted(&settings, &Watcher::stopping_after_marks("align", 12));
    let cache = case.cache();
    let boot = manifest(&cache).steps[&Step::Stack].clone();
    assert!(matches!(boot, StepState::Done { unsynced_boot: Some(_) }), "{boot:?}");
    change_manifest(&cache, |m| m["steps"]["stack"]["done"]["unsynced_boot"] = "another boot".into());
    // Worse than lost: zeros where samples were.
    for chunk in chunks(&cache.join("stack")) {
        let len = fs::metadata(&chunk).unwrap().len() as usize;
        fs::write(&chunk, vec![0; len]).unwrap();
    }
    let before = marked(&cache, Step::Peaks, tiles_of(&cache));
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
            manifest(cache).is_done(Step::Stack) && marked(cache, Step::Peaks, tiles_of(cache)) > 0
        });
        let cache = case.cache();
        let (all, before) = (tiles_of(&cache), marked(&cache, Step::Peaks, tiles_of(&cache)));
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
    killed(&case, &settings, |cache| cache.join("stack").join("c.4.0.0.0").exists());
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
