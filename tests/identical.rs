//! The same scan gives the same bits: from every file format, with any number of workers, however the work is cut,
//! in memory or out of core, with or without the large intermediates.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::path::{Path, PathBuf};

use common::runs::{Bits, bits, run, scan};
use common::writers::{MibLayout, write_hdr, write_mib, write_npy};
use ndarray::Array4;

type Shape = (usize, usize, usize, usize);

const SHAPE: Shape = (20, 28, 24, 22);
/// A scan whose sides are products of 2, 3 and 5: lean runs in single precision go a way of their own.
const SMOOTH: Shape = (20, 30, 24, 22);

fn npy(folder: &Path) -> PathBuf {
    let path = folder.join("scan.npy");
    write_npy(&path, &scan(SHAPE), "<u2");
    path
}

#[test]
fn npy_and_mib_give_the_same_bits() {
    let folder = common::runs::folder();
    let expected = bits(&npy(folder.path()), folder.path(), &[]);
    let big = folder.path().join("big.npy");
    write_npy(&big, &scan(SHAPE), ">u2");
    bits(&big, folder.path(), &[]).must_equal(&expected, "big-endian npy");
    for chips in [1, 4] {
        let mib = folder.path().join(format!("scan{chips}.mib"));
        write_mib(&mib, &scan(SHAPE), &MibLayout { chips, ..MibLayout::default() });
        write_hdr(&mib, SHAPE.0 * SHAPE.1, Some([SHAPE.0, SHAPE.1]), 1);
        bits(&mib, folder.path(), &[]).must_equal(&expected, "mib");
    }
    let timed = folder.path().join("timed.mib");
    write_mib(&timed, &scan(SHAPE), &MibLayout { flyback_ns: 50_000_000, ..MibLayout::default() });
    bits(&timed, folder.path(), &[]).must_equal(&expected, "mib whose shape is in its time stamps");
}

#[cfg(feature = "hdf5")]
#[test]
fn every_emd_dialect_gives_the_same_bits_contiguous_and_chunked() {
    use common::emd::{EmdDialect, Storage, write_emd};
    let folder = common::runs::folder();
    let expected = bits(&npy(folder.path()), folder.path(), &[]);
    for dialect in EmdDialect::ALL {
        for storage in [Storage::Contiguous, Storage::Gzip([3, 5, 7, 22])] {
            let path = folder.path().join("scan.emd");
            let _ = std::fs::remove_file(&path);
            write_emd(&path, dialect, &scan(SHAPE), storage);
            bits(&path, folder.path(), &[]).must_equal(&expected, &format!("{dialect:?} {storage:?}"));
        }
    }
    for storage in [Storage::Chunks([1, 1, 24, 22]), Storage::Checked([20, 28, 1, 1]), Storage::Chunks([4, 28, 5, 5])] {
        let path = folder.path().join("scan.h5");
        let _ = std::fs::remove_file(&path);
        write_emd(&path, EmdDialect::Plain, &scan(SHAPE), storage);
        bits(&path, folder.path(), &[]).must_equal(&expected, &format!("{storage:?}"));
    }
}

/// Ways to cut the work, all of which must lead to the same numbers.
const CUTS: [&[&str]; 13] = [
    &["run.workers=1"],
    &["run.workers=3"],
    &["plan.in_memory=false"],
    &["plan.in_memory=false", "run.workers=3", "plan.slab_rows=3"],
    &["plan.in_memory=false", "plan.access=read", "plan.slab_rows=6"],
    &["plan.tile_rows=1", "plan.tile_cols=2", "run.workers=3"],
    &["plan.tile_rows=5", "plan.tile_cols=4"],
    &["plan.tile_rows=3", "plan.tile_cols=6", "plan.queue=1", "run.workers=1"],
    &["plan.slab_rows=1", "plan.read_block=\"5 KiB\""],
    &["plan.slab_rows=7", "plan.read_block=\"7 KiB\"", "run.workers=3"],
    &["plan.in_memory=false", "plan.slab_rows=20", "plan.read_block=\"20 KiB\""],
    &["plan.in_memory=false", "plan.slab_rows=6", "plan.read_block=\"1 MiB\"", "plan.queue=7"],
    &["run.memory=\"36 MiB\""],
];

/// Every cut of a scan, documented and lean, against one run of its own kind of arithmetic.
fn check_cuts(input: &Path, folder: &Path, settings: &[&str]) {
    let expected = bits(input, folder, settings);
    check_cuts_against(&expected, &expected.clone().lean(), input, folder, settings);
}

fn check_cuts_against(documented: &Bits, lean: &Bits, input: &Path, folder: &Path, settings: &[&str]) {
    for cut in CUTS {
        let all: Vec<_> = settings.iter().chain(cut).copied().collect();
        bits(input, folder, &all).must_equal(documented, &format!("{all:?}"));
        let all: Vec<_> = all.into_iter().chain(["run.mode=lean"]).collect();
        bits(input, folder, &all).must_equal(lean, &format!("{all:?}"));
    }
}

#[test]
fn the_short_way_of_lean_runs_is_as_independent_of_how_the_work_is_cut_and_agrees_to_rounding() {
    let folder = common::runs::folder();
    let input = folder.path().join("smooth.npy");
    write_npy(&input, &scan(SMOOTH), "<u2");
    let documented = bits(&input, folder.path(), &[]);
    let lean = bits(&input, folder.path(), &["run.mode=lean"]);
    lean.must_agree(&documented, "lean and documented");
    check_cuts_against(&documented, &lean, &input, folder.path(), &[]);
    // In double precision there is one way only.
    check_cuts(&input, folder.path(), &["run.precision=f64"]);
}

#[test]
fn workers_tiles_slabs_blocks_memory_and_mode_change_no_bit_in_single_precision() {
    let folder = common::runs::folder();
    check_cuts(&npy(folder.path()), folder.path(), &[]);
}

#[test]
fn workers_tiles_slabs_blocks_memory_and_mode_change_no_bit_in_double_precision() {
    let folder = common::runs::folder();
    check_cuts(&npy(folder.path()), folder.path(), &["run.precision=f64"]);
}

/// As `write_npy`, with samples that are no whole numbers and of very different sizes.
fn float_npy(folder: &Path, descr: &str) -> PathBuf {
    let path = folder.join("float.npy");
    let counts: Array4<u16> = scan(SHAPE);
    write_npy(&path, &counts, descr);
    let mut bytes = std::fs::read(&path).unwrap();
    let size = if descr.ends_with('4') { 4 } else { 8 };
    let start = bytes.len() - counts.len() * size;
    for (i, (value, place)) in counts.iter().zip(bytes[start..].chunks_exact_mut(size)).enumerate() {
        let scale = if i % 97 == 0 { 3.1e-5 } else { 0.1 };
        let sample = f64::from(*value) * scale + 1e-7 * (i % 1013) as f64;
        if size == 4 {
            place.copy_from_slice(&(sample as f32).to_le_bytes());
        } else {
            place.copy_from_slice(&sample.to_le_bytes());
        }
    }
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn float_samples_are_as_independent_of_how_the_work_is_cut() {
    let folder = common::runs::folder();
    for (descr, precision) in [("<f4", "run.precision=f32"), ("<f8", "run.precision=f64")] {
        check_cuts(&float_npy(folder.path(), descr), folder.path(), &[precision]);
    }
}

#[test]
fn odd_scans_odd_crops_and_single_pixels_are_cut_without_a_difference() {
    let folder = common::runs::folder();
    let shapes: [(Shape, &[&str]); 6] = [
        ((19, 23, 17, 15), &[]),
        ((7, 31, 12, 12), &[]),
        // Clipped at two edges: 7 rows, 9 columns.
        ((12, 10, 16, 16), &["disk.center=[2.0, 11.0]", "disk.radius=3", "disk.crop_radius=5"]),
        // One column of detector pixels, then one row, then a single one.
        ((12, 11, 16, 16), &["disk.center=[8.0, 0.4]", "disk.radius=1", "disk.crop_radius=1"]),
        ((11, 12, 16, 16), &["disk.center=[0.4, 8.0]", "disk.radius=1", "disk.crop_radius=1"]),
        ((9, 9, 16, 16), &["disk.center=[0.0, 0.0]", "disk.radius=1", "disk.crop_radius=1"]),
    ];
    for (shape, settings) in shapes {
        let path = folder.path().join("odd.npy");
        write_npy(&path, &scan(shape), "<u2");
        let settings: Vec<_> = settings.iter().copied().chain(["reconstruct.quality_threshold=0"]).collect();
        let expected = bits(&path, folder.path(), &settings);
        let lean = bits(&path, folder.path(), &settings.iter().copied().chain(["run.mode=lean"]).collect::<Vec<_>>());
        lean.must_agree(&expected, &format!("{shape:?}"));
        for cut in [
            &["run.workers=3", "plan.tile_rows=2", "plan.tile_cols=2", "plan.in_memory=false"][..],
            &["run.workers=1", "plan.tile_rows=1", "plan.slab_rows=5", "plan.read_block=\"1 KiB\""],
            &["run.mode=lean", "plan.slab_rows=2", "run.workers=3"],
        ] {
            // Tiles larger than the crop are refused.
            let fits = |s: &&&str| !(s.starts_with("plan.tile_") && settings.contains(&"disk.crop_radius=1"));
            let all: Vec<_> = settings.iter().chain(cut.iter().filter(fits)).copied().collect();
            let found = bits(&path, folder.path(), &all);
            let expected = if cut.contains(&"run.mode=lean") { &lean } else { &expected };
            found.must_equal(expected, &format!("{shape:?} {all:?}"));
        }
    }
}

#[test]
fn step_by_step_gives_the_same_bits_as_all_at_once() {
    use stemstream::cache::Step;
    use stemstream::progress::{CancelToken, Silent};
    use stemstream::session::Session;
    let folder = common::runs::folder();
    let input = npy(folder.path());
    let expected = bits(&input, folder.path(), &[]);
    let steps = common::runs::folder();
    let cancel = CancelToken::new();
    for step in Step::ALL {
        let config = common::runs::config(steps.path(), &["run.workers=3"]);
        let session = Session::open(&input, config, false, &Silent, &cancel).unwrap();
        assert_eq!(session.is_resumed(), step != Step::Detect);
        session.run_to(step).unwrap_or_else(|e| panic!("{step}: {e}"));
        assert!(session.manifest().is_done(step), "{step}");
        // Peaks are found while correlations are made.
        let last = if step == Step::Correlate { Step::Peaks } else { step };
        assert!(Step::ALL.into_iter().filter(|s| *s > last).all(|s| !session.manifest().is_done(s)), "{step}");
    }
    Bits::of(&run(&input, steps.path(), &[]).unwrap()).must_equal(&expected, "step by step");
}
