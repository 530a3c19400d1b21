//! The classic method against an independent implementation, number by number.

mod common;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use stemstream::axes::Image;
use stemstream::cache::Step;
use stemstream::config::{Config, SourceConfig};
use stemstream::pipeline::Workers;
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::{Results, Session};

const SETTINGS: [&str; 6] = [
    "disk.center=[24.35, 23.80]",
    "disk.crop_radius=20",
    "align.method=classic",
    "reconstruct.merge=nearest",
    "reconstruct.upscale=4",
    "run.memory=\"1 GiB\"",
];

/// The little of `.npz` that is needed: version 1 headers, little-endian f64, i64 and complex128 as f64 pairs.
fn read_npz(path: &Path) -> HashMap<String, (Vec<usize>, Vec<f64>)> {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).expect("npz")).expect("zip");
    (0..archive.len())
        .map(|i| {
            let mut entry = archive.by_index(i).expect("entry");
            let name = entry.name().expect("name").trim_end_matches(".npy").to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("read");
            let header_len = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
            let header = String::from_utf8_lossy(&bytes[10..10 + header_len]).into_owned();
            let shape = header.split_once("'shape': (").expect("shape").1.split_once(')').expect("shape").0;
            let shape = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
            let words = bytes[10 + header_len..].chunks_exact(8).map(|w| w.try_into().expect("8 bytes"));
            let numbers = if header.contains("'<i8'") {
                words.map(|w| i64::from_le_bytes(w) as f64).collect()
            } else {
                words.map(f64::from_le_bytes).collect()
            };
            (name, (shape, numbers))
        })
        .collect()
}

fn run(folder: &Path, settings: &[&str]) -> Option<(Results, std::path::PathBuf)> {
    let input = common::shared("reference/A_small.npy")?;
    let cache = format!("cache.folder={}", folder.display());
    let settings = SETTINGS.iter().chain(settings).copied().chain([cache.as_str()]);
    let config = Config::default().with_settings(settings).expect("settings");
    let cancel = CancelToken::new();
    let session = Session::open(&input, config, true, &Silent, &cancel).expect("open");
    session.run_to(Step::Reconstruct).expect("run");
    let path = session.cache_path();
    Some((Results::read(&path).expect("results"), path))
}

fn largest(ours: &Image, theirs: &[f64], scale: impl Fn(f64) -> f64) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / scale(*b)).fold(0.0, f64::max)
}

#[test]
#[expect(clippy::float_cmp, reason = "whole numbers")]
fn double_precision_equals_the_independent_implementation() {
    let folder = tempfile::tempdir().expect("tempdir");
    let Some((ours, cache)) = run(folder.path(), &["run.precision=f64"]) else { return };
    let truth = read_npz(&common::shared("reference/A_small_classic.npz").expect("npz"));
    let of = |name: &str| &truth[name].1[..];
    assert_eq!(ours.disk.crop.bounds().map(|b| b as f64), of("crop_bounds"));
    let one = |_: f64| 1.0;
    assert!(largest(&ours.reference_image, of("reference_image"), one) <= 1e-10);
    assert!(largest(&ours.standard_bf, of("standard_bf"), one) == 0.0);
    assert!(largest(&ours.shift_y, of("shift_y"), one) <= 1e-6);
    assert!(largest(&ours.shift_x, of("shift_x"), one) <= 1e-6);
    assert!(largest(&ours.quality, of("quality"), one) <= 1e-10);
    assert!(largest(&ours.weights, of("samples_per_pixel"), one) == 0.0);
    assert!(largest(&ours.superres_image, of("superres_image"), one) <= 1e-9);

    // Every tenth detector pixel of the large arrays, [64, 64, 4, 4].
    let (mut worst, mut size) = (0f64, 0f64);
    ours.for_each_spectrum(&cache, |row, col, spectrum| {
        if row % 10 == 0 && col % 10 == 0 {
            for (i, z) in spectrum.iter().enumerate() {
                let at = 2 * (i * 16 + row / 10 * 4 + col / 10);
                let (re, im) = (of("bigft_every10")[at], of("bigft_every10")[at + 1]);
                worst = worst.max((z.re - re).hypot(z.im - im) / re.hypot(im));
                size = size.max(re.hypot(im));
            }
        }
        Ok(())
    })
    .expect("bigFT");
    assert!(worst <= 1e-10, "bigFT differs by {worst} relative (largest value {size})");
    let mut worst = 0f64;
    ours.for_each_correlation(&cache, |row, col, correlation| {
        if row % 10 == 0 && col % 10 == 0 {
            for (i, c) in correlation.iter().enumerate() {
                let expected = of("correlations_every10")[i * 16 + row / 10 * 4 + col / 10];
                worst = worst.max((c - expected).abs() / expected);
            }
        }
        Ok(())
    })
    .expect("correlations");
    assert!(worst <= 1e-10, "correlations differ by {worst} relative");
}

#[test]
fn single_precision_is_near_the_independent_implementation() {
    let folder = tempfile::tempdir().expect("tempdir");
    let Some((ours, _)) = run(folder.path(), &["run.precision=f32", "run.mode=lean"]) else { return };
    let truth = read_npz(&common::shared("reference/A_small_classic.npz").expect("npz"));
    let quality = &truth["quality"].1;
    for (i, &q) in quality.iter().enumerate() {
        let at = [i / 40, i % 40];
        assert!((ours.quality[at] - q).abs() <= 1e-5, "quality of {at:?}");
        if q > 0.8 {
            assert!((ours.shift_y[at] - truth["shift_y"].1[i]).abs() <= 2e-3, "shift of {at:?}");
            assert!((ours.shift_x[at] - truth["shift_x"].1[i]).abs() <= 2e-3, "shift of {at:?}");
        }
    }
}

#[test]
fn the_disk_is_found_without_help_at_full_dose_and_at_a_hundredth() {
    let Some(input) = common::shared("reference/A_small.npy") else { return };
    let bytes = std::fs::read(&input).expect("npy");
    let header = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let folder = tempfile::tempdir().expect("tempdir");
    let thin = folder.path().join("thin.npy");
    // Binomial thinning, one random number per electron.
    let mut state = 1u64;
    let mut thinned = bytes.clone();
    for sample in thinned[header..].chunks_exact_mut(2) {
        let counts = u16::from_le_bytes([sample[0], sample[1]]);
        let kept = (0..counts)
            .filter(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33).is_multiple_of(100)
            })
            .count() as u16;
        sample.copy_from_slice(&kept.to_le_bytes());
    }
    std::fs::write(&thin, thinned).expect("write");
    let workers = Workers::new(2).expect("threads");
    for path in [input, thin] {
        let source = stemstream::read::open(&path, &SourceConfig::default()).expect("open");
        let found =
            stemstream::steps::detect(&*source, &Config::default(), &workers, &CancelToken::new()).expect("disk").disk;
        let [row, col] = found.center;
        assert!((row - 24.35).abs() < 0.1 && (col - 23.80).abs() < 0.1, "{}: {found:?}", path.display());
        assert!((found.radius - 16.0).abs() < 0.5, "{}: {found:?}", path.display());
    }
}
