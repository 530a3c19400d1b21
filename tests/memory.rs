//! A scan larger than the memory that the system allows: a run in a memory control group ends with the same bits as
//! one without.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::group::Group;
use common::runs::Bits;

/// What the group may use, page cache included, and what the program is told: a tenth less.
const GROUP_BYTES: u64 = 282 << 20;
const BUDGET: &str = "256 MiB";
const SCAN: usize = 128;
const DET: usize = 96;

/// 288 MiB of counts: a random object, seen by every pixel of the disk from another side.
fn write_scan(path: &Path) {
    let mut state = 7u64;
    let object: Vec<u16> = (0..SCAN * SCAN)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            100 + (state >> 33) as u16 % 200
        })
        .collect();
    let mut file = BufWriter::with_capacity(1 << 20, fs::File::create(path).unwrap());
    let text = format!("{{'descr': '<u2', 'fortran_order': False, 'shape': ({SCAN}, {SCAN}, {DET}, {DET}), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(117u16.to_le_bytes());
    writeln!(header, "{text:<116}").unwrap();
    file.write_all(&header).unwrap();
    let mut frame = vec![0u8; DET * DET * 2];
    for (row, col) in (0..SCAN * SCAN).map(|i| (i / SCAN, i % SCAN)) {
        for (pixel, sample) in frame.chunks_exact_mut(2).enumerate() {
            let (dy, dx) = (pixel / DET, pixel % DET);
            let inside = (dy as f64 - 47.6).hypot(dx as f64 - 48.2) <= 24.0;
            let (r, c) = ((row + SCAN + dy / 8 - 6) % SCAN, (col + SCAN + dx / 8 - 6) % SCAN);
            let counts = if inside { object[r * SCAN + c] } else { 2 + (pixel % 3) as u16 };
            sample.copy_from_slice(&counts.to_le_bytes());
        }
        file.write_all(&frame).unwrap();
    }
    file.flush().unwrap();
}

/// Runs the command, in a control group when there is one; the cache and the peak of resident memory.
fn run(input: &Path, out: &Path, group: Option<&Group>, arguments: &[&str]) -> (PathBuf, u64) {
    let mut command = Command::new("sh");
    // The shell enters the group and then becomes the program.
    let enter = group.map_or(String::new(), |g| format!("{} && ", g.enter()));
    command.args(["-c", &format!("{enter}exec \"$@\""), "sh", env!("CARGO_BIN_EXE_stemstream"), "run"]);
    command.arg(input).arg("--out").arg(out).args([
        "--json",
        "--set",
        "export.hdf5=false",
        "--set",
        "export.tiff=false",
    ]);
    command.args(["--set", "export.pictures=false", "--set", "reconstruct.quality_threshold=0.01"]).args(arguments);
    let done = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{arguments:?}: {}: {stderr}", done.status);
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    (json["cache"].as_str().unwrap().into(), json["peak_memory_bytes"].as_u64().unwrap())
}

#[test]
fn a_scan_larger_than_its_memory_gives_the_same_bits_as_one_with_plenty() {
    let Some(group) = Group::new(GROUP_BYTES) else { return };
    // On a real disk: a folder in memory would count as memory.
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("scan.npy");
    write_scan(&input);
    assert!(fs::metadata(&input).unwrap().len() > 256 << 20);
    for mode in ["lean", "documented"] {
        let setting = format!("run.mode={mode}");
        let plenty = dir.path().join(format!("plenty {mode}"));
        let (plenty, _) = run(&input, &plenty, None, &["--memory", "2 GiB", "--set", &setting]);
        let expected = Bits::of(&plenty).lean();
        let out = dir.path().join(mode);
        let (cache, resident) = run(&input, &out, Some(&group), &["--memory", BUDGET, "--set", &setting]);
        println!("{mode}: resident {} MiB, group {:?} MiB", resident >> 20, group.peak().map(|p| p >> 20));
        assert!(group.peak().is_none_or(|peak| peak <= GROUP_BYTES));
        Bits::of(&cache).lean().must_equal(&expected, mode);
    }
}
