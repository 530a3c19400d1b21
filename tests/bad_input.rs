//! Whatever is wrong with the input, the configuration or the disk: a clear error with its exit code and, where there
//! is one, the way out; never a panic, and nothing that stands in the way of the next run.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::runs::{Bits, bits, config, folder, refused, run, run_watched, scan};
use common::writers::{MibLayout, write_hdr, write_mib, write_npy, write_npy_shaped};
use ndarray::{Array4, s};
use stemstream::config::Config;
use stemstream::error::Error;
use stemstream::progress::{CancelToken, Progress};

const SHAPE: (usize, usize, usize, usize) = (10, 12, 24, 22);

/// What a run says about a file with these bytes.
fn refusal_of(name: &str, bytes: &[u8], settings: &[&str], code: u8) -> Error {
    let dir = folder();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let error = refused(run(&path, dir.path(), settings), code);
    assert!(code != 3 || error.to_string().contains(name), "the file is not named: {error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count(), 0, "{error}");
    error
}

fn npy_bytes(data: &Array4<u16>, descr: &str) -> Vec<u8> {
    let dir = folder();
    let path = dir.path().join("a.npy");
    write_npy(&path, data, descr);
    fs::read(path).unwrap()
}

fn mib_bytes(data: &Array4<u16>) -> Vec<u8> {
    let dir = folder();
    let path = dir.path().join("a.mib");
    write_mib(&path, data, &MibLayout::default());
    fs::read(path).unwrap()
}

#[test]
fn files_that_are_none_or_not_ours_are_refused() {
    let dir = folder();
    let missing = dir.path().join("missing.mib");
    let error = refused(run(&missing, dir.path(), &[]), 3);
    assert!(error.to_string().contains("missing.mib"), "{error}");
    let sub = dir.path().join("folder.npy");
    fs::create_dir(&sub).unwrap();
    refused(run(&sub, dir.path(), &[]), 3);
    for name in ["empty.npy", "empty.mib", "empty.emd", "empty"] {
        refusal_of(name, b"", &[], 3);
    }
    for (name, bytes) in [
        ("text.npy", &b"this is no array at all, only some text that goes on for a while"[..]),
        ("text.emd", b"this is no HDF5 file"),
        ("text.mib", b"MQ1,garbage,garbage"),
        ("zeros.mib", &[0; 4096]),
        ("picture.tif", b"II*\0\x08\0\0\0"),
    ] {
        refusal_of(name, bytes, &[], 3);
    }
}

#[test]
fn a_truncated_last_frame_is_refused_and_can_be_trimmed() {
    let (npy, mib) = (npy_bytes(&scan(SHAPE), "<u2"), mib_bytes(&scan(SHAPE)));
    refusal_of("scan.npy", &npy[..npy.len() - 100], &[], 3);
    let error = refused_mib(&mib[..mib.len() - 100], &["source.scan=[10, 12]"]);
    assert!([3, 4].contains(&error.exit_code()), "{error}");
    assert!(error.hint().is_some(), "{error}");
    for (name, bytes) in [("scan.npy", &npy), ("scan.mib", &mib)] {
        let dir = folder();
        let path = dir.path().join(name);
        fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
        let settings = ["source.incomplete=trim", "source.scan=[10, 12]"];
        let trimmed = Bits::of(&run(&path, dir.path(), &settings).unwrap());
        write_npy(&path.with_extension("npy"), &scan(SHAPE).slice(s![..9, .., .., ..]).to_owned(), "<u2");
        trimmed.must_equal(&bits(&path.with_extension("npy"), folder().path(), &[]), "nine complete rows");
    }
}

fn refused_mib(bytes: &[u8], settings: &[&str]) -> Error {
    let dir = folder();
    let path = dir.path().join("scan.mib");
    fs::write(&path, bytes).unwrap();
    run(&path, dir.path(), settings).map(|_| ()).unwrap_err()
}

#[test]
fn headers_that_lie_about_sizes_are_refused() {
    let dir = folder();
    let path = dir.path().join("lie.npy");
    for shape in [
        "(10, 12, 24, 23)",
        "(1000000000, 1000000000, 24, 22)",
        "(18446744073709551615, 2, 24, 22)",
        "(4294967296, 4294967296, 4294967296, 4294967296)",
        "(10, 12, 0, 22)",
        "(10, 12, -24, 22)",
        "(10.5, 12, 24, 22)",
    ] {
        write_npy_shaped(&path, &scan(SHAPE), "<u2", shape, 1);
        refused(run(&path, dir.path(), &[]), 3);
    }
    let mib = mib_bytes(&scan(SHAPE));
    for (from, to) in [("0022,0024", "9999,9999"), ("0022,0024", "0000,0000"), (",00384,", ",99999,"), ("U16", "U99")] {
        let at = mib.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut lie = mib.clone();
        lie[at..at + from.len()].copy_from_slice(to.as_bytes());
        let error = refused_mib(&lie, &["source.scan=[10, 12]"]);
        assert!([3, 4].contains(&error.exit_code()), "{to}: {error}");
    }
}

#[test]
fn damage_anywhere_is_an_error_or_harmless_but_never_a_panic() {
    let small = scan((6, 6, 12, 12));
    for (name, whole) in [("a.npy", npy_bytes(&small, "<u2")), ("a.mib", mib_bytes(&small))] {
        let dir = folder();
        let path = dir.path().join(name);
        let check = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            match stemstream::read::open(&path, &config(dir.path(), &["source.scan=[6, 6]"]).source) {
                Ok(source) => {
                    let frames = source.info().scan.len();
                    assert!(frames * source.info().det.len() <= bytes.len(), "{what}");
                    stemstream::read::decode_frames(&*source, 0, frames).map(drop).unwrap_or_default();
                }
                Err(error) => assert!([3, 4].contains(&error.exit_code()), "{what}: {error}"),
            }
        };
        for len in (0..whole.len()).step_by(97).chain(0..140) {
            check(&whole[..len], &format!("{name} cut to {len}"));
        }
        for at in 0..400 {
            for value in [0, b'9', b',', 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                check(&bytes, &format!("{name} with {value} at {at}"));
            }
        }
    }
}

#[test]
fn a_wrong_or_unknown_scan_shape_is_refused_with_what_would_fit() {
    let dir = folder();
    let mib = dir.path().join("scan.mib");
    write_mib(&mib, &scan(SHAPE), &MibLayout::default());
    // 120 frames, no sidecar, no pauses: nothing says how many of them are a row.
    let error = refused(run(&mib, dir.path(), &[]), 4);
    assert!(error.hint().is_some_and(|h| h.contains("--scan")), "{error} {:?}", error.hint());
    let error = refused(run(&mib, dir.path(), &["source.scan=[7, 9]"]), 4);
    assert!(format!("{error} {:?}", error.hint()).contains("120"), "{error} {:?}", error.hint());
    run(&mib, dir.path(), &["source.scan=[10, 12]"]).unwrap();
    refused(run(&mib, dir.path(), &["source.scan=[4294967296, 4294967297]"]), 4);
    refused(run(&mib, dir.path(), &["source.scan=[120, 1000000000000000000]"]), 4);
    refused(Config::default().with_settings(["source.scan=[0, 0]"]), 2);
    // A sidecar that contradicts the file.
    write_hdr(&mib, 120, Some([11, 12]), 1);
    let error = refused(run(&mib, dir.path(), &[]), 3);
    assert!(error.to_string().contains("132 frames") && error.to_string().contains("120"), "{error}");
}

#[test]
fn cubes_of_other_dimensions_are_refused_or_need_the_scan_shape() {
    let dir = folder();
    let path = dir.path().join("cube.npy");
    write_npy_shaped(&path, &scan(SHAPE), "<u2", "(120, 24, 22)", 1);
    let error = refused(run(&path, dir.path(), &[]), 4);
    assert!(error.hint().is_some_and(|h| h.contains("--scan")), "{error} {:?}", error.hint());
    let found = bits(&path, dir.path(), &["source.scan=[10, 12]"]);
    let four = dir.path().join("four.npy");
    write_npy(&four, &scan(SHAPE), "<u2");
    found.must_equal(&bits(&four, dir.path(), &[]), "a cube with its scan shape");
    for shape in ["(2880, 22)", "(63360,)", "()", "(2, 5, 12, 24, 22)"] {
        write_npy_shaped(&path, &scan(SHAPE), "<u2", shape, 1);
        let error = refused(run(&path, dir.path(), &[]), 3);
        assert!(error.to_string().contains("4-D"), "{error}");
    }
}

#[test]
fn samples_that_are_not_finite_are_refused_or_replaced_by_zero() {
    for (bad, descr) in [(f32::NAN, "<f4"), (f32::INFINITY, "<f4"), (f32::NEG_INFINITY, "<f4")] {
        let dir = folder();
        let path = dir.path().join("scan.npy");
        let mut bytes = npy_bytes(&scan(SHAPE), descr);
        // A pixel inside the disk of the last frame.
        let at = bytes.len() - (24 * 22 - (12 * 22 + 11)) * 4;
        bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let error = refused(run(&path, dir.path(), &[]), 3);
        assert!(error.to_string().contains("frame 119"), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("source.nan=zero")), "{:?}", error.hint());
        let replaced = Bits::of(&run(&path, dir.path(), &["source.nan=zero"]).unwrap());
        bytes[at..at + 4].copy_from_slice(&0f32.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        replaced.must_equal(&bits(&path, dir.path(), &[]), "zero in its place");
    }
}

#[test]
fn a_scan_without_counts_is_refused() {
    let error = refusal_with_cache(&Array4::zeros(SHAPE), &[], 3);
    assert!(error.to_string().contains("only zeros"), "{error}");
    let settings = ["disk.center=[12, 11]", "disk.radius=6"];
    assert_eq!(refusal_with_cache(&Array4::zeros(SHAPE), &settings, 3).exit_code(), 3);
}

#[test]
fn a_pattern_without_a_disk_is_refused_with_the_way_out() {
    let error = refusal_with_cache(&Array4::from_elem(SHAPE, 7), &[], 4);
    assert!(error.hint().is_some_and(|h| h.contains("disk.center") && h.contains("disk.radius")), "{:?}", error.hint());
}

/// What a run says about such a scan.
fn refusal_with_cache(data: &Array4<u16>, settings: &[&str], code: u8) -> Error {
    let dir = folder();
    let path = dir.path().join("scan.npy");
    write_npy(&path, data, "<u2");
    refused(run(&path, dir.path(), settings), code)
}

#[test]
fn a_disk_at_the_edge_needs_the_users_word() {
    let clipped = scan((10, 12, 26, 22)).slice(s![.., .., 9.., ..]).to_owned();
    let error = refusal_with_cache(&clipped, &[], 4);
    assert!(error.to_string().contains("touches the edge"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("disk.allow_clipped=true")), "{:?}", error.hint());
    let dir = folder();
    let path = dir.path().join("scan.npy");
    write_npy(&path, &clipped, "<u2");
    run(&path, dir.path(), &["disk.allow_clipped=true"]).unwrap();
}

#[test]
fn a_crop_outside_the_detector_is_refused() {
    for center in ["[100, 5]", "[-3, 5]", "[5, 22]", "[1e300, 5]"] {
        let error = refusal_with_cache(&scan(SHAPE), &[&format!("disk.center={center}"), "disk.radius=5"], 4);
        assert!(error.to_string().contains("outside the 24×22 detector"), "{error}");
    }
    // A huge crop is the whole detector.
    let dir = folder();
    let path = dir.path().join("scan.npy");
    write_npy(&path, &scan(SHAPE), "<u2");
    run(&path, dir.path(), &["disk.crop_radius=1000000"]).unwrap();
    run(&path, dir.path(), &["disk.crop_radius=9223372036854775807"]).unwrap();
    refused(Config::default().with_settings(["disk.crop_radius=0"]), 2);
}

#[test]
fn a_threshold_that_nothing_passes_names_one_that_works() {
    let dir = folder();
    let path = dir.path().join("scan.npy");
    write_npy(&path, &scan(SHAPE), "<u2");
    let error = refused(run(&path, dir.path(), &["reconstruct.quality_threshold=1e6"]), 4);
    let hint = error.hint().unwrap().to_owned();
    let setting = hint.split("--set ").nth(1).unwrap().trim_end_matches('`').to_owned();
    run(&path, dir.path(), &[&setting]).unwrap();
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    for (key, known) in [
        ("disk.centre=[1, 2]", "center"),
        ("run.worker=2", "workers"),
        ("reconstruct.upscal=2", "upscale"),
        ("exports.npy=true", "export"),
    ] {
        let error = refused(Config::default().with_settings([key]), 2);
        assert!(format!("{error} {:?}", error.hint()).contains(known), "{error} {:?}", error.hint());
    }
    for wrong in
        ["run.memory=lots", "run.workers=-1", "reconstruct.upscale=0", "align.reference_smoothing=-1", "nonsense"]
    {
        refused(Config::default().with_settings([wrong]), 2);
    }
}

#[test]
fn a_budget_that_is_too_small_names_the_smallest_that_works() {
    let dir = folder();
    let path = dir.path().join("scan.npy");
    write_npy(&path, &scan(SHAPE), "<u2");
    for mode in ["run.mode=lean", "run.mode=documented"] {
        let error = refused(run(&path, dir.path(), &[mode, "run.memory=\"1 MiB\""]), 5);
        let hint = error.hint().unwrap().to_owned();
        let size = hint.split('"').nth(1).unwrap();
        let memory = format!("run.memory=\"{size}\"");
        bits(&path, dir.path(), &[mode, &memory]).must_equal(&bits(&path, dir.path(), &[mode]), "the smallest budget");
        let less: u64 = size.trim_end_matches(" MiB").parse::<u64>().unwrap() - 1;
        refused(run(&path, folder().path(), &[mode, &format!("run.memory=\"{less} MiB\"")]), 5);
    }
}

#[test]
fn a_quota_is_kept() {
    let dir = folder();
    let path = dir.path().join("scan.npy");
    write_npy(&path, &scan(SHAPE), "<u2");
    let error = refused(run(&path, dir.path(), &["cache.quota=\"10 kB\""]), 5);
    assert!(error.hint().is_some_and(|h| h.contains("cache.quota")), "{:?}", error.hint());
}

/// A mounted file system; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, saying why, where this process may not mount.
    fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        let done = Command::new("mount").args(arguments).arg(at).output();
        if done.as_ref().is_ok_and(|out| out.status.success()) {
            return Some(Self(at.to_owned()));
        }
        println!("skipped: mounting is not allowed here: {done:?}");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named_with_the_way_out() {
    let dir = folder();
    let input = dir.path().join("scan.npy");
    write_npy(&input, &scan(SHAPE), "<u2");
    // Below a regular file nobody can make a folder, not even the superuser.
    let error = refused(run(&input, &input.join("sub"), &[]), 2);
    assert!(error.to_string().contains("scan.npy"), "{error}");
    let target = dir.path().join("readonly");
    fs::create_dir(&target).unwrap();
    let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "-o", "ro", "tmpfs"], &target) else { return };
    let error = refused(run(&input, &target, &[]), 2);
    assert!(error.to_string().contains("readonly"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("--out")), "{error} {:?}", error.hint());
}

/// Fills the disk when a stage has begun its work.
struct Filler {
    stage: &'static str,
    file: PathBuf,
    reached: AtomicBool,
    filled: AtomicBool,
}

impl Progress for Filler {
    fn begin(&self, stage: &str, _: u64) {
        self.reached.store(stage == self.stage, Ordering::SeqCst);
    }

    fn advance(&self, _: u64) {
        if self.reached.load(Ordering::SeqCst) && !self.filled.swap(true, Ordering::SeqCst) {
            let mut file = fs::File::create(&self.file).unwrap();
            while file.write_all(&[7; 4096]).is_ok() {}
        }
    }
}

/// Deletes a file and what is in it. A process that another test is just starting may hold the file for a moment.
fn make_room(file: &Path) {
    fs::File::create(file).unwrap();
    fs::remove_file(file).unwrap();
}

#[test]
fn a_disk_that_fills_up_on_the_way_is_reported_and_the_run_goes_on_when_there_is_room() {
    let dir = folder();
    let input = dir.path().join("scan.npy");
    write_npy(&input, &scan(SHAPE), "<u2");
    let expected = bits(&input, folder().path(), &[]);
    for stage in ["corner turn", "align", "reconstruct"] {
        let target = dir.path().join(stage.replace(' ', "_"));
        fs::create_dir(&target).unwrap();
        let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "-o", "size=24m", "tmpfs"], &target) else { return };
        let file = target.join("filler");
        let filler = Filler { stage, file: file.clone(), reached: false.into(), filled: false.into() };
        let settings = ["plan.slab_rows=1", "plan.read_block=\"2 KiB\"", "plan.tile_rows=1", "plan.tile_cols=2"];
        let error = refused(run_watched(&input, config(&target, &settings), &filler, &CancelToken::new()), 5);
        assert!(error.hint().is_some_and(|h| h.contains("free some space")), "{stage}: {error} {:?}", error.hint());
        let again = refused(run(&input, &target, &settings), 5);
        assert!(again.hint().is_some(), "{stage}: {again}");
        make_room(&file);
        Bits::of(&run(&input, &target, &settings).unwrap()).must_equal(&expected, stage);
    }
}

#[test]
fn a_full_disk_at_the_very_beginning_leaves_nothing_in_the_way() {
    let dir = folder();
    let input = dir.path().join("scan.npy");
    write_npy(&input, &scan(SHAPE), "<u2");
    let target = dir.path().join("full");
    fs::create_dir(&target).unwrap();
    let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "-o", "size=16m", "tmpfs"], &target) else { return };
    // From not a byte free to nearly enough for the first small files.
    for left in [0usize, 1, 2, 3, 4, 6, 8, 12, 16, 24] {
        let filler = target.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
        let len = file.metadata().unwrap().len();
        file.set_len(len - 4096 * left as u64).unwrap();
        drop(file);
        refused(run(&input, &target, &[]), 5);
        make_room(&filler);
        run(&input, &target, &[]).unwrap();
        for entry in fs::read_dir(&target).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }
}

/// The command says the same as the library, on stderr, with the same code.
#[cfg(feature = "cli")]
mod command {
    use super::*;

    fn stemstream(arguments: &[&str]) -> (i32, String, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_stemstream")).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
    }

    #[test]
    fn every_kind_of_failure_has_its_exit_code_and_leaves_stdout_empty() {
        let dir = folder();
        let good = dir.path().join("good.npy");
        write_npy(&good, &scan(SHAPE), "<u2");
        let zeros = dir.path().join("zeros.npy");
        write_npy(&zeros, &Array4::zeros(SHAPE), "<u2");
        let shapeless = dir.path().join("shapeless.mib");
        write_mib(&shapeless, &scan(SHAPE), &MibLayout::default());
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (good, zeros, shapeless) = (text(&good), text(&zeros), text(&shapeless));
        let threshold = "reconstruct.quality_threshold=0.01";
        for (arguments, code, words) in [
            (vec!["run"], 2, "INPUT"),
            (vec!["run", &good, "--set", "disk.centre=[1,2]"], 2, "center"),
            (vec!["run", &good, "-c", "/nowhere/at/all.toml"], 2, "all.toml"),
            (vec!["run", "/nowhere/at/all.mib"], 3, "all.mib"),
            (vec!["info", "/nowhere/at/all.mib"], 3, "all.mib"),
            (vec!["run", &zeros], 3, "only zeros"),
            (vec!["run", &shapeless], 4, "--scan"),
            (vec!["plan", &shapeless], 4, "--scan"),
            (vec!["run", &good, "--memory", "1 MiB"], 5, "--memory"),
            (vec!["cache", "show", &good], 6, ""),
        ] {
            let (found, stdout, stderr) = stemstream(&arguments);
            assert_eq!(found, code, "{arguments:?}: {stderr}");
            assert!(stderr.contains(words) && !stderr.contains("panicked"), "{arguments:?}: {stderr}");
            assert_eq!(stdout, "", "{arguments:?}");
        }
        let classic = "align.method=classic";
        let (code, stdout, stderr) = stemstream(&["run", &good, "--set", threshold, "--set", classic, "--json"]);
        assert_eq!(code, 0, "{stderr}");
        let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert!(Path::new(json["cache"].as_str().unwrap()).is_dir(), "{json}");
        fs::File::options().append(true).open(&good).unwrap().write_all(b"more").unwrap();
        let (code, _, stderr) = stemstream(&["run", &good, "--set", threshold, "--set", classic]);
        assert_eq!(code, 6, "{stderr}");
        assert!(stderr.contains("--fresh"), "{stderr}");
        assert_eq!(stemstream(&["run", &good, "--set", threshold, "--set", classic, "--fresh"]).0, 0);
    }
}
