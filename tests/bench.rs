//! The bench: what it prints, what it keeps, and that it leaves nothing behind.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stemstream::machine::MachineRates;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A bench with a home of its own, in the folder `scratch` of `home`.
fn bench(home: &Path, more: &[&str]) -> Command {
    let scratch = home.join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stemstream"));
    command.arg("bench").arg("--folder").arg(scratch).args(["--quick", "--workers=2"]).args(more);
    command.env("XDG_CACHE_HOME", home.join("cache"));
    command
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    names
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_generated_scan_gives_one_object_with_rates_graphs_and_the_roofline() {
    let home = folder();
    let done = bench(home.path(), &["--json", "--size=1 MiB"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    let all: Value = serde_json::from_str(&text).unwrap();
    for rate in
        ["cold_read", "warm_read", "write", "memory_copy", "new_memory", "fft_256_one", "fft_256_all", "fft_512_one"]
    {
        assert!(number(&all["machine"][rate]) > 1e6, "{rate}: {}", all["machine"]);
    }
    let run = &all["runs"][0];
    assert_eq!((run["mode"].as_str(), run["method"].as_str()), (Some("documented"), Some("parametric")));
    assert_eq!(run["scan"], serde_json::json!([48, 48]), "the smallest scan that there is");
    let seconds = number(&run["seconds"]);
    let stages: f64 = run["stages"].as_array().unwrap().iter().map(|stage| number(&stage["seconds"])).sum();
    assert!((stages - seconds).abs() < 0.05 * seconds + 0.01, "{stages} of {seconds}");
    let graphs = run["graphs"].as_array().unwrap();
    assert!(graphs.iter().any(|graph| graph["name"] == "corner turn") && graphs.iter().any(|g| g["name"] == "align"));
    for graph in graphs {
        let blocks = graph["blocks"].as_array().unwrap();
        assert!(blocks.iter().any(|block| block["name"] == graph["bottleneck"]), "{graph}");
        for key in ["items", "bytes", "busy_seconds", "starved_seconds", "blocked_seconds", "workers"] {
            assert!(blocks.iter().all(|block| block[key].is_number()), "{key}");
        }
    }
    let roof = &run["roofline"];
    // Source, and bigFT and correlations in the HDF5 file, or in the working cache where there is no such library.
    let samples = 48.0 * 48.0 * number(&run["crop"][0]) * number(&run["crop"][1]);
    assert!((number(&roof["bytes_read"]) - 48.0 * 48.0 * 64.0 * 64.0 * 2.0).abs() < 0.5);
    let kept = number(&roof["bytes_written"]) / samples;
    assert!((kept - 24.0).abs() < 1e-9 || (kept - 12.0).abs() < 1e-9, "{kept} bytes for each sample");
    let bound = number(&roof["bytes_seconds"]).max(number(&roof["flops_seconds"]));
    assert!((number(&roof["seconds"]) - bound).abs() < 1e-12 && bound > 0.0);
    assert!((number(&roof["percent"]) - 100.0 * bound / seconds).abs() < 1e-6);

    let saved = PathBuf::from(all["saved"].as_str().unwrap());
    assert_eq!(saved, home.path().join("cache/stemstream/machine.json"));
    let rates: MachineRates = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    assert!(rates.is_of_this_machine());
    let steps = &rates.steps;
    assert_eq!(steps.workers, 2);
    let align = if cfg!(feature = "hdf5") { steps.align_in_place } else { steps.align_documented };
    for rate in [steps.start, steps.corner_turn, align, steps.fit, steps.search, steps.merge] {
        assert!(rate > 0.0, "{steps:?}");
    }
    assert!(files(&home.path().join("scratch")).is_empty(), "nothing is left");

    // The classic method does not know what the default method takes, and keeps it.
    let done = bench(home.path(), &["--size=1 MiB", "--set", "align.method=classic", "--lean"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    for part in ["FFT 256×256, all", "lean mode, classic method", "graph `corner turn`", "bottleneck", "roofline"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let later: MachineRates = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    assert!(later.steps.deposit > 0.0 && later.steps.align_lean > 0.0);
    assert_eq!((later.steps.fit, later.steps.align_in_place), (steps.fit, steps.align_in_place));
}

#[test]
fn a_whole_bench_takes_the_fit_with_a_calibration_and_without_one() {
    let home = folder();
    let scratch = home.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_stemstream"))
        .args(["bench", "--json", "--lean", "--workers=2", "--size=1 MiB", "--folder"])
        .arg(&scratch)
        .env("XDG_CACHE_HOME", home.path().join("cache"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all: Value = serde_json::from_slice(&done.stdout).unwrap();
    let calibrated: Vec<_> = all["runs"].as_array().unwrap().iter().map(|run| run["calibrated"].as_bool()).collect();
    assert_eq!(calibrated, [Some(true), Some(false), Some(true)]);
    // Without a calibration nothing is refined: such a run says nothing about that, and little else.
    let stages = |run: usize| all["runs"][run]["stages"].as_array().unwrap().iter();
    assert!(stages(2).any(|stage| stage["name"] == "refine") && !stages(1).any(|stage| stage["name"] == "refine"));
    let steps = &all["machine"]["steps"];
    for rate in ["search", "search_uncalibrated", "refine_fixed", "merge"] {
        assert!(number(&steps[rate]) > 0.0, "{rate}: {steps}");
    }
    assert!(files(&scratch).is_empty(), "nothing is left");
}

#[test]
fn a_scan_of_the_user_is_left_as_it_is() {
    let home = folder();
    let data = home.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let input = data.join("scan.mib");
    let made = Command::new(env!("CARGO_BIN_EXE_stemstream"))
        .args(["-q", "simulate", "--scan=48,48", "--det=32,32", "--radius=9"])
        .arg(&input)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let before = files(&data);
    let bytes = std::fs::read(&input).unwrap();
    let config = input.with_extension("toml");
    let more = ["--json", "--size=8 MiB", "-c", config.to_str().unwrap(), input.to_str().unwrap()];
    let done = bench(home.path(), &more).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(all["runs"][0]["generated"], false);
    assert_eq!((files(&data), std::fs::read(&input).unwrap()), (before, bytes));
    assert!(files(&home.path().join("scratch")).is_empty());
    // What a scan of one's own takes depends on its disk, too: no rates of steps.
    let rates: MachineRates =
        serde_json::from_slice(&std::fs::read(home.path().join("cache/stemstream/machine.json")).unwrap()).unwrap();
    assert!(rates.write > 0.0 && rates.steps.corner_turn <= 0.0);
}

#[test]
fn failures_have_their_codes_and_leave_nothing_behind() {
    let home = folder();
    for (more, code) in [
        (vec!["--size=1 MiB", "missing.mib"], 3),
        (vec!["--size=1 MiB", "--set", "align.nothing=1"], 2),
        (vec!["--size=9000 TB"], 5),
    ] {
        let failed = bench(home.path(), &more).output().unwrap();
        assert_eq!(failed.status.code(), Some(code), "{}", String::from_utf8_lossy(&failed.stderr));
        assert!(failed.stdout.is_empty());
        assert!(files(&home.path().join("scratch")).is_empty());
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_stemstream"))
        .args(["bench", "--quick", "--folder"])
        .arg(home.path().join("missing"))
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(!home.path().join("missing").exists());
}

#[cfg(unix)]
#[test]
fn an_interrupted_bench_cleans_up() {
    let home = folder();
    let mut child = bench(home.path(), &["--size=64 MiB"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let scratch = home.path().join("scratch");
    let start = Instant::now();
    // As soon as it has made something.
    while files(&scratch).iter().all(|folder| files(folder).is_empty()) {
        assert!(start.elapsed() < Duration::from_mins(1) && child.try_wait().unwrap().is_none(), "it made nothing");
        std::thread::sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(files(&scratch).is_empty(), "{:?}", files(&scratch));
    assert!(!home.path().join("cache").exists(), "rates that were not measured are not saved");
}

#[cfg(unix)]
#[test]
fn the_batch_script_measures_and_runs() {
    let home = folder();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/06_bench_in_a_batch.sh");
    let done = Command::new("sh")
        .arg(script)
        .arg("missing.mib")
        .current_dir(home.path())
        .env("STEMSTREAM", env!("CARGO_BIN_EXE_stemstream"))
        .env("SCRATCH", home.path())
        .env("BENCH", "--quick --size=1MiB")
        .env("XDG_CACHE_HOME", home.path().join("cache"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.contains("missing.mib: exit code 3"), "{said}");
    let measured: Value = serde_json::from_slice(&std::fs::read(home.path().join("bench.json")).unwrap()).unwrap();
    assert!(measured["runs"][0]["roofline"]["percent"].is_number());
    let failure: Value = serde_json::from_slice(&std::fs::read(home.path().join("results.json")).unwrap()).unwrap();
    assert_eq!(failure["exit_code"], 3, "{failure}");
}
