//! `stemstream plan` says what it chose and why, the choices are honoured, and limits are noticed before anything is
//! written.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::group::Group;
use common::runs;
use common::writers::write_npy;
use serde_json::Value;

/// A small scan with its folder.
fn scan(folder: &Path) -> String {
    let path = folder.join("scan.npy");
    write_npy(&path, &runs::scan((16, 20, 16, 16)), "<u2");
    path.to_str().unwrap().to_owned()
}

fn stemstream(arguments: &[&str], cache_home: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stemstream")).args(arguments).env("XDG_CACHE_HOME", cache_home).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_choice_is_explained_in_words_and_as_json() {
    let dir = runs::folder();
    let input = scan(dir.path());
    let common = ["plan", &input, "--memory", "300 MiB", "--set", "plan.queue=3"];
    let text = stemstream(&[&common[..], &["--explain"]].concat(), dir.path());
    let text = String::from_utf8(text.stdout).unwrap();
    for key in [
        "run.memory",
        "plan.in_memory",
        "plan.queue",
        "plan.tile_",
        "plan.read_block",
        "plan.access",
        "export.compression",
    ] {
        assert!(text.contains(&format!("[{key}")), "{key}: {text}");
    }
    assert!(text.contains("not calibrated: run `stemstream bench`"), "{text}");
    let plan = json(&stemstream(&[&common[..], &["--json"]].concat(), dir.path()));
    let all = plan["explain"].as_array().unwrap();
    assert!(all.iter().all(|c| ["choice", "value", "because", "key"].iter().all(|k| c[k].is_string())), "{all:?}");
    let queue = all.iter().find(|c| c["choice"] == "queue").unwrap();
    assert_eq!((&queue["value"], &queue["because"]), (&"3".into(), &"your key".into()));
    assert!(plan["time"].is_null());
    // The machine was measured, but no step of a run was.
    let home = tempfile::tempdir().unwrap();
    let rates = serde_json::to_string(&stemstream::machine::MachineRates::of_this_machine()).unwrap();
    fs::create_dir(home.path().join("stemstream")).unwrap();
    fs::write(home.path().join("stemstream/machine.json"), rates).unwrap();
    let text = stemstream(&common, home.path());
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("not calibrated: run `stemstream bench`"), "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a plan writes nothing");
}

#[test]
fn choices_that_cannot_be_end_with_code_2_and_the_nearest_value() {
    let dir = runs::folder();
    let input = scan(dir.path());
    for (bad, nearest) in [
        ("plan.tile_cols=3", "plan.tile_cols=4"),
        ("plan.slab_rows=17", "plan.slab_rows=16"),
        ("plan.tile_rows=900", "plan.tile_rows="),
        ("plan.queue=0", "plan.queue=1"),
    ] {
        for command in ["plan", "run"] {
            let done = stemstream(&[command, &input, "--memory", "300 MiB", "--set", bad], dir.path());
            let text = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(2), "{command} {bad}: {text}");
            assert!(text.contains(nearest), "{command} {bad}: {text}");
        }
    }
}

#[test]
fn workers_and_buffers_are_those_of_the_keys_and_results_do_not_depend_on_them() {
    let dir = runs::folder();
    let input = dir.path().join("scan.npy");
    write_npy(&input, &runs::scan((16, 20, 16, 16)), "<u2");
    // Documented and lean runs go different ways in single precision.
    let mut expected: [Option<runs::Bits>; 2] = [None, None];
    for (name, settings) in [
        ("a", &[][..]),
        (
            "b",
            &[
                "plan.turn_workers=3",
                "plan.fft_workers=1",
                "plan.correlate_workers=4",
                "plan.read_buffers=1",
                "plan.spectra_buffers=1",
                "plan.correlation_buffers=1",
                "plan.read_block=\"3 KiB\"",
                "plan.in_memory=false",
                "plan.access=read",
                "plan.write_window=\"1 MiB\"",
                "plan.read_workers=3",
                "plan.direct_reads=true",
            ][..],
        ),
        ("pieces", &["plan.read_workers=0", "plan.turn_workers=3"][..]),
        ("blocks", &["plan.read_workers=1", "plan.direct_reads=false"][..]),
        ("lean", &["run.mode=lean"][..]),
        ("lean pieces", &["run.mode=lean", "plan.read_workers=0", "plan.slab_rows=3"][..]),
        ("c", &["run.mode=lean", "plan.fft_workers=3", "plan.in_memory=false", "plan.read_buffers=1"][..]),
    ] {
        let cache = runs::run(&input, &dir.path().join(name), settings).unwrap();
        let bits = runs::Bits::of(&cache).lean();
        let expected = &mut expected[usize::from(settings.contains(&"run.mode=lean"))];
        match expected {
            Some(expected) => bits.must_equal(expected, name),
            None => *expected = Some(bits),
        }
    }
}

#[test]
fn a_budget_beyond_the_control_group_is_refused_at_the_start() {
    // Inside a group with a limit of its own the test can make no group: then the one around must be the answer.
    let dir = runs::folder();
    let input = scan(dir.path());
    let Some(group) = Group::new(200 << 20) else { return };
    let inside = |arguments: &str| {
        let script = format!("{} && exec '{}' {arguments}", group.enter(), env!("CARGO_BIN_EXE_stemstream"));
        Command::new("sh").args(["-c", &script]).output().unwrap()
    };
    let refused = inside(&format!("run '{input}' --memory '300 MiB'"));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    let default = inside(&format!("plan '{input}' --json"));
    drop(group);
    assert_eq!(refused.status.code(), Some(5), "{text}");
    assert!(text.contains("300 MiB") && text.contains("200 MiB") && text.contains("control group"), "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is written");
    let plan = json(&default);
    let memory = plan["explain"].as_array().unwrap().iter().find(|c| c["choice"] == "memory").unwrap();
    assert!(memory["because"].as_str().unwrap().starts_with("control group"), "{memory}");
    assert!(plan["plan"]["memory"].as_u64().unwrap() <= 100 << 20);
}
