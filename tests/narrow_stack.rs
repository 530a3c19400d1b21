//! Counts that fit in fewer bits are kept in those. Results are the same to the last bit, whatever the counts turn out to
//! be, and a cache is continued whichever type its stack has.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::path::{Path, PathBuf};

use common::runs::{Bits, Watcher, bits, config, folder, manifest, run_watched, scan};
use common::writers::write_npy;
use ndarray::Array4;
use stemstream::axes::DType;
use stemstream::cache::{Step, WorkingCache};
use stemstream::progress::CancelToken;
use stemstream::session::Preview;
use stemstream::steps::stored_type;

const NARROW: &str = "plan.narrow_stack=true";
const WIDE: &str = "plan.narrow_stack=false";

/// Counts of at most a hundred.
fn few_counts(shape: (usize, usize, usize, usize)) -> Array4<u16> {
    scan(shape).mapv(|count| count / 4)
}

/// Runs and returns the cache and everything that was said.
fn run(input: &Path, folder: &Path, settings: &[&str]) -> (PathBuf, String) {
    let watcher = Watcher::default();
    let cache = run_watched(input, config(folder, settings), &watcher, &watcher.cancel).unwrap();
    (cache, watcher.said())
}

fn stack_type(cache: &Path) -> DType {
    stored_type(WorkingCache::open_for_reading(cache).unwrap().group()).unwrap()
}

#[test]
fn results_are_the_same_to_the_last_bit_in_fewer_bits_and_in_the_files_own() {
    for (data, dtype, own, expected) in [
        (few_counts((20, 28, 24, 22)), "<u2", DType::U16, DType::U8),
        (few_counts((20, 28, 24, 22)), ">u4", DType::U32, DType::U8),
        (scan((20, 28, 24, 22)), "<u4", DType::U32, DType::U16),
    ] {
        let dir = folder();
        let input = dir.path().join("scan.npy");
        write_npy(&input, &data, dtype);
        for settings in [
            &["run.mode=documented"][..],
            &["run.mode=lean", "plan.in_memory=false", "plan.read_block=\"9 KiB\"", "reconstruct.merge=bilinear"],
            &["run.mode=lean", "plan.in_memory=true"],
        ] {
            let with = |name: &str, key: &str| {
                let all: Vec<_> = settings.iter().copied().chain([key]).collect();
                let (cache, _) = run(&input, &dir.path().join(name), &all);
                let found = (Bits::of(&cache), stack_type(&cache));
                std::fs::remove_dir_all(cache).unwrap();
                found
            };
            let ((wide, wide_type), (narrow, narrow_type)) = (with("wide", WIDE), with("narrow", NARROW));
            assert_eq!((wide_type, narrow_type), (own, expected), "{dtype} {settings:?}");
            narrow.must_equal(&wide, dtype);
        }
    }
}

#[test]
fn one_count_that_no_sample_saw_makes_the_run_start_again_and_changes_nothing_else() {
    // Larger than the sample of frames in which the disk is looked for: frame 16 is between two of its runs.
    let mut data = few_counts((132, 132, 32, 32));
    data[[0, 16, 15, 17]] = 300;
    let dir = folder();
    let input = dir.path().join("scan.npy");
    write_npy(&input, &data, "<u4");
    drop(data);
    let settings = ["run.mode=lean", NARROW];
    let (cache, said) = run(&input, &dir.path().join("narrow"), &settings);
    assert!(said.contains("note a count does not fit in uint8") && said.contains("uint32"), "{said}");
    let result = manifest(&cache).results[&Step::Stack].clone();
    assert_eq!((&result["read_twice"], &result["stack_type"]), (&true.into(), &"uint32".into()));
    assert_eq!(stack_type(&cache), DType::U32);
    Bits::of(&cache).must_equal(&bits(&input, &dir.path().join("wide"), &["run.mode=lean", WIDE]), "one large count");
}

#[test]
fn negative_numbers_and_floats_keep_their_type() {
    let dir = folder();
    for (dtype, own) in [("<i2", DType::I16), ("<f4", DType::F32)] {
        let input = dir.path().join(format!("scan{}.npy", &dtype[1..]));
        let mut data = few_counts((12, 16, 16, 16));
        if dtype == "<i2" {
            // -1 as it lies in the file.
            data[[3, 4, 0, 0]] = u16::MAX;
        }
        write_npy(&input, &data, dtype);
        let (cache, _) = run(&input, &dir.path().join(dtype), &[NARROW]);
        assert_eq!(stack_type(&cache), own);
    }
}

#[test]
fn a_cache_is_continued_whichever_type_its_stack_has() {
    for (first, then, made) in [(NARROW, WIDE, DType::U8), (WIDE, NARROW, DType::U16)] {
        let dir = folder();
        let input = dir.path().join("scan.npy");
        write_npy(&input, &few_counts((20, 28, 24, 22)), "<u2");
        let expected = bits(&input, folder().path(), &[WIDE, "reconstruct.upscale=2"]);
        let (before, _) = run(&input, dir.path(), &[first]);
        let (cache, said) = run(&input, dir.path(), &[then, "reconstruct.upscale=2"]);
        assert_eq!(cache, before);
        assert!(said.contains("begin reconstruct") && !said.contains("begin corner turn"), "{said}");
        assert_eq!(stack_type(&cache), made);
        Bits::of(&cache).must_equal(&expected, first);
    }
}

#[test]
fn a_plan_says_in_which_type_the_stack_is_kept_and_why() {
    let dir = folder();
    let input = dir.path().join("scan.npy");
    write_npy(&input, &few_counts((20, 28, 24, 22)), "<u2");
    let plan = |settings: &[&str]| {
        let plan = Preview::of(&input, &config(dir.path(), settings), &CancelToken::new()).unwrap().plan;
        let choice = plan.explain.iter().find(|c| c.choice == "stack_type").unwrap().clone();
        assert_eq!((choice.key, choice.value), ("plan.narrow_stack", plan.stack_type.to_string()));
        (plan.stack_type, plan.disk_cost.stack, choice.because)
    };
    let (wide, narrow) = (plan(&[WIDE]), plan(&[NARROW]));
    assert_eq!((wide.0, narrow.0), (DType::U16, DType::U8));
    assert_eq!(wide.1, 2 * narrow.1, "the plan's costs are those of the type");
    assert!(wide.2 == "your key" && narrow.2 == "your key");
    let (dtype, _, because) = plan(&["plan.in_memory=false"]);
    assert!(dtype == DType::U16 && because.starts_with("default: ") && because.contains("uint8"), "{because}");
    run(&input, dir.path(), &[NARROW]);
    let (dtype, _, because) = plan(&[WIDE]);
    assert!(dtype == DType::U8 && because.starts_with("existing cache"), "{because}");
}
