//! A cache that cannot be trusted is refused with its exit code and the way out, and a fresh run goes on beside it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::case::{Case, TILES, change_manifest, chunks};
use common::runs::{config, refused, run, run_fresh};
use stemstream::cache::{FormatVersion, Step};
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::Session;

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

#[test]
fn a_cache_of_a_newer_version_is_left_alone() {
    for (major, minor) in [(2, 0), (1, FormatVersion::CURRENT.minor + 1)] {
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
            let chunks = chunks(&cache.join(array));
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
                "truncated" => chunks(&folder).iter().for_each(|f| fs::write(f, b"123").unwrap()),
                "deleted" => chunks(&folder).iter().for_each(|f| fs::remove_file(f).unwrap()),
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
