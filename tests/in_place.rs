//! Documented runs that keep bigFT and the correlations in the HDF5 cache alone: the same numbers, what is done stays done,
//! and a finished file is the user's.
#![cfg(feature = "hdf5")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::case::{Case, TILES, tiles_of};
use common::runs::{Bits, Watcher, config, manifest, marked};
use stemstream::cache::{Step, StepState, WorkingCache};
use stemstream::error::{Error, Result};
use stemstream::export::hdf5_in_place::{finish_in_place, lay_out_run};
use stemstream::session::Session;

/// A run that fills an HDF5 cache in place, as the command does it: the session's cache, and what was said.
fn run(case: &Case, settings: &[&str], watcher: &Watcher) -> Result<PathBuf> {
    let folder = format!("export.folder={:?}", case.path().display().to_string());
    let settings: Vec<&str> = settings.iter().copied().chain([folder.as_str()]).collect();
    let mut session = Session::open(&case.input, config(case.path(), &settings), false, watcher, &watcher.cancel)?;
    let results = case.path().to_owned();
    session.keep_large_arrays_in(Box::new(move |m, config, disk| lay_out_run(&results, "scan", (m, config, disk))));
    session.run_to(Step::Reconstruct)?;
    if let Some(file) = session.filled_file() {
        session.finish_large_arrays(&finish_in_place(&file, 5)?)?;
    }
    Ok(session.cache_path())
}

fn run_quietly(case: &Case, settings: &[&str]) -> PathBuf {
    run(case, settings, &Watcher::default()).unwrap_or_else(|e: Error| panic!("{e} ({:?})", e.hint()))
}

/// The HDF5 files, finished or not, by name.
fn hdf5_files(case: &Case) -> Vec<PathBuf> {
    let entries = fs::read_dir(case.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.display().to_string().contains(".h5")).collect();
    files.sort();
    files
}

fn finished_file(case: &Case) -> PathBuf {
    let files = hdf5_files(case);
    assert!(files.len() == 1 && files[0].extension().is_some_and(|e| e == "h5"), "{files:?}");
    files[0].clone()
}

/// All numbers of both arrays, as the library reads them.
fn numbers(file: &Path) -> [Vec<u64>; 2] {
    let file = hdf5::File::open(file).unwrap();
    let spectra = file.dataset("bigFT/data").unwrap().read_dyn::<num_complex::Complex<f64>>().unwrap();
    let correlations = file.dataset("correlations/data").unwrap().read_dyn::<f64>().unwrap();
    [
        spectra.iter().flat_map(|z| [z.re.to_bits(), z.im.to_bits()]).collect(),
        correlations.iter().map(|v| v.to_bits()).collect(),
    ]
}

#[test]
fn the_numbers_are_those_of_a_run_that_copies_them_in_either_precision() {
    for settings in [
        &["run.precision=f32"][..],
        &["run.precision=f64", "plan.tile_rows=2", "plan.tile_cols=4"],
        &["run.precision=f32", "plan.direct_writes=false", "plan.write_window=\"1 MiB\""],
    ] {
        let case = Case::new();
        let cache = run_quietly(&case, settings);
        assert!(!cache.join("bigFT").exists() && !cache.join("correlations").exists(), "nothing is there twice");
        let file = finished_file(&case);
        let found = Bits::of(&cache);
        found.must_equal(&case.expected(settings), "in place");
        // What the library reads is what the cache's own reader reads, pixel by pixel.
        let [spectra, correlations] = numbers(&file);
        let (mut ours, mut theirs) = (spectra, found.0["bigFT"].clone());
        ours.sort_unstable();
        theirs.sort_unstable();
        assert!(ours == theirs && correlations.len() * 2 == ours.len());
        assert_eq!(manifest(&cache).exports["hdf5"], file);
    }
}

#[test]
fn a_run_that_was_stopped_goes_on_in_the_same_file() {
    let case = Case::new();
    let settings: Vec<_> = TILES.into_iter().chain(["run.workers=2"]).collect();
    let watcher = Watcher::stopping_after_marks("align", 12);
    assert_eq!(run(&case, &settings, &watcher).map_err(|e| e.exit_code()), Err(130));
    let cache = case.cache();
    let (all, before) = (tiles_of(&cache), marked(&cache, Step::Correlate, tiles_of(&cache)));
    assert!(before > 0 && before < all, "{before} of {all} tiles are marked");
    let files = hdf5_files(&case);
    assert!(files.len() == 1 && files[0].display().to_string().ends_with(".h5.unfinished"), "{files:?}");
    let watcher = Watcher::default();
    run(&case, &settings, &watcher).unwrap();
    assert!(!watcher.said().contains("begin corner turn") && !watcher.said().contains("warn"), "{}", watcher.said());
    assert_eq!(finished_file(&case), files[0].with_extension(""));
    Bits::of(&cache).must_equal(&case.expected(&settings), "continued in place");
}

#[test]
fn an_unfinished_file_that_is_gone_is_begun_again() {
    let case = Case::new();
    let settings: Vec<_> = TILES.into_iter().collect();
    let watcher = Watcher::stopping_after_marks("align", 12);
    run(&case, &settings, &watcher).unwrap_err();
    fs::remove_file(&hdf5_files(&case)[0]).unwrap();
    let watcher = Watcher::default();
    let cache = run(&case, &settings, &watcher).unwrap();
    assert!(watcher.said().contains("was deleted or changed"), "{}", watcher.said());
    finished_file(&case);
    Bits::of(&cache).must_equal(&case.expected(&settings), "begun again");
}

#[test]
fn a_finished_file_is_not_touched_by_runs_with_other_parameters() {
    let case = Case::new();
    let cache = run_quietly(&case, &[]);
    let (file, bytes) = (finished_file(&case), fs::read(finished_file(&case)).unwrap());
    let change = "align.reference_smoothing=1.5";
    let watcher = Watcher::default();
    run(&case, &[change], &watcher).unwrap();
    // bigFT is read where it lies; the correlations go into the working cache, to be copied with it.
    assert!(!watcher.said().contains("begin corner turn"), "{}", watcher.said());
    assert!(!cache.join("bigFT").exists() && cache.join("correlations").exists());
    Bits::of(&cache).must_equal(&case.expected(&[change]), change);
    run_quietly(&case, &["run.precision=f64"]);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    let files = hdf5_files(&case);
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.iter().any(|f| f.display().to_string().ends_with("_2.h5")), "{files:?}");
    Bits::of(&cache).must_equal(&case.expected(&["run.precision=f64"]), "in the second file");
}

#[test]
fn other_parameters_begin_an_unfinished_file_again() {
    let case = Case::new();
    let settings: Vec<_> = TILES.into_iter().collect();
    run(&case, &settings, &Watcher::stopping_after_marks("align", 12)).unwrap_err();
    let settings: Vec<_> = TILES.into_iter().chain(["align.reference_smoothing=1.5"]).collect();
    let cache = run_quietly(&case, &settings);
    let file = hdf5::File::open(finished_file(&case)).unwrap();
    let smoothing = file.group("metadata").unwrap().attr("reference_smoothing").unwrap();
    assert!((smoothing.read_scalar::<f64>().unwrap() - 1.5).abs() < 1e-12);
    drop((smoothing, file));
    Bits::of(&cache).must_equal(&case.expected(&settings), "other parameters");
}

#[test]
fn a_file_that_the_user_deleted_or_changed_is_not_missed_and_not_believed() {
    for change in [
        |file: &Path| fs::remove_file(file).unwrap(),
        |file: &Path| {
            // Another program packs the file anew: the same name, other places.
            let bytes = fs::read(file).unwrap();
            fs::write(file, [&bytes[..4096], &vec![7; bytes.len()]].concat()).unwrap();
        },
    ] {
        let case = Case::new();
        let cache = run_quietly(&case, &[]);
        change(&finished_file(&case));
        let watcher = Watcher::default();
        run(&case, &["reconstruct.upscale=2"], &watcher).unwrap();
        let said = watcher.said();
        assert!(said.contains("was deleted or changed") && !said.contains("begin align"), "{said}");
        assert_eq!(manifest(&cache).state(Step::Fft), StepState::Absent);
        Bits::of(&cache).must_equal(&case.expected(&["reconstruct.upscale=2"]).lean(), "without the large arrays");
        let watcher = Watcher::default();
        run(&case, &["reconstruct.upscale=2"], &watcher).unwrap();
        assert_eq!(watcher.said(), "", "said once");
    }
}

#[test]
fn a_file_whose_folder_is_not_there_is_neither_forgotten_nor_replaced() {
    for stop in [true, false] {
        let case = Case::new();
        let results = case.path().join("disk");
        fs::create_dir(&results).unwrap();
        let go = |watcher: &Watcher| {
            let folder = results.clone();
            let mut session = Session::open(&case.input, config(case.path(), &TILES), false, watcher, &watcher.cancel)?;
            session.keep_large_arrays_in(Box::new(move |m, c, disk| lay_out_run(&folder, "scan", (m, c, disk))));
            session.run_to(Step::Reconstruct)?;
            session.filled_file().map_or(Ok(()), |file| session.finish_large_arrays(&finish_in_place(&file, 5)?))
        };
        let watcher = if stop { Watcher::stopping_after_marks("align", 12) } else { Watcher::default() };
        assert_eq!(go(&watcher).is_err(), stop);
        let before = manifest(&case.cache());
        // As when a disk is not mounted.
        let away = case.path().join("away");
        fs::rename(&results, &away).unwrap();
        let error = go(&Watcher::default()).unwrap_err();
        assert!(error.exit_code() == 6 && error.to_string().contains("its folder is not there"), "{error}");
        assert_eq!(manifest(&case.cache()).steps, before.steps);
        assert!(error.hint().is_some_and(|hint| hint.contains("make an empty one")), "{error}");
        fs::rename(&away, &results).unwrap();
        let watcher = Watcher::default();
        go(&watcher).unwrap();
        assert!(!watcher.said().contains("warn"), "{}", watcher.said());
        Bits::of(&case.cache()).must_equal(&case.expected(&TILES), "mounted again");
    }
}

#[test]
fn a_cache_and_its_file_may_be_moved_together() {
    let case = Case::new();
    let cache = run_quietly(&case, &[]);
    let before = Bits::of(&cache);
    let elsewhere = case.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for path in [&cache, &finished_file(&case)] {
        fs::rename(path, elsewhere.join(path.file_name().unwrap())).unwrap();
    }
    let moved = elsewhere.join(cache.file_name().unwrap());
    Bits::of(&moved).must_equal(&before, "moved");
    // Without the source: correlations from bigFT where it lies now.
    fs::remove_file(&case.input).unwrap();
    let watcher = Watcher::default();
    let session =
        Session::from_cache(&moved, &["align.reference_smoothing=1.0".to_owned()], &watcher, &watcher.cancel).unwrap();
    session.run_to(Step::Correlate).unwrap();
    assert!(session.manifest().is_done(Step::Correlate) && !watcher.said().contains("warn"), "{}", watcher.said());
}

#[test]
fn deleting_a_cache_takes_its_unfinished_file_along_and_leaves_a_finished_one() {
    let case = Case::new();
    run(&case, &TILES, &Watcher::stopping_after_marks("align", 12)).unwrap_err();
    WorkingCache::delete(&case.cache()).unwrap();
    assert!(hdf5_files(&case).is_empty() && case.caches().is_empty());
    let cache = run_quietly(&case, &[]);
    WorkingCache::delete(&cache).unwrap();
    finished_file(&case);
}

#[test]
fn an_array_that_is_dropped_half_way_is_not_made_and_the_other_goes_to_the_cache() {
    let case = Case::new();
    run(&case, &TILES, &Watcher::stopping_after_marks("align", 12)).unwrap_err();
    WorkingCache::open(&case.cache()).unwrap().drop_array(Step::Fft).unwrap();
    assert!(hdf5_files(&case).is_empty());
    let cache = run_quietly(&case, &TILES);
    assert!(!cache.join("bigFT").exists() && cache.join("correlations").exists() && hdf5_files(&case).is_empty());
    let dropped = manifest(&cache);
    assert!(dropped.is_dropped(Step::Fft) && dropped.is_done(Step::Correlate));
}

#[test]
fn a_manifest_with_another_place_is_an_error_and_no_panic() {
    let case = Case::new();
    let cache = run_quietly(&case, &[]);
    common::case::change_manifest(&cache, |m| m["placed"]["fft"]["place"]["images"] = serde_json::json!(3));
    let error = stemstream::session::Results::read(&cache)
        .and_then(|results| results.for_each_spectrum(&cache, |_, _, _| Ok(())))
        .unwrap_err();
    assert_eq!(error.exit_code(), 6, "{error}");
}

/// The command: where the arrays lie, and how to get rid of them.
#[cfg(feature = "cli")]
#[test]
fn the_command_fills_the_file_and_says_where_bigft_is_to_be_deleted() {
    use std::process::Command;
    let case = Case::new();
    let command = |arguments: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_stemstream")).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let input = case.input.to_str().unwrap();
    let settings = ["--set", "align.method=classic", "--set", "reconstruct.quality_threshold=0.01"];
    let (code, json, said) = command(&[&["run", input, "--json"][..], &settings].concat());
    assert_eq!(code, Some(0), "{said}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let (cache, file) = (json["cache"].as_str().unwrap(), finished_file(&case));
    assert_eq!(json["hdf5_cache"].as_str().map(Path::new), Some(&*file));
    let (code, _, said) = command(&["cache", "drop-bigft", cache]);
    assert!(code == Some(6) && said.contains(file.to_str().unwrap()) && said.contains("delete that file"), "{said}");
    // An export to somewhere else copies it.
    let elsewhere = case.path().join("elsewhere");
    let folder = format!("export.folder={:?}", elsewhere.display().to_string());
    let (code, _, said) = command(&["export", cache, "--set", &folder]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(numbers(&elsewhere.join(file.file_name().unwrap())), numbers(&file));
    let (code, explained, said) = command(&[&["plan", input, "--explain"][..], &settings].concat());
    assert!(code == Some(0) && explained.contains("in the HDF5 cache alone"), "{explained}{said}");
}
