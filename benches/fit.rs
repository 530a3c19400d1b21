//! How fast the fit of the aberrations goes through spectra, one thread. Bytes are those of the numbers that are looked at,
//! once for each frequency.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use num_complex::Complex;
use stemstream::kernel::crosspower::general::{Aperture, Filter, GeneralModel, general_objective, unit_terms};
use stemstream::kernel::crosspower::joint::{Joint, groups};
use stemstream::kernel::crosspower::residual::{Optics, Residuals, places};
use stemstream::kernel::crosspower::{Half, HalfSets, Kernel, Model, Run, objective};

const SPECTRA: usize = 48;
/// Detector pixels per cycle per scan pixel, for a disk of this radius: displaced disks overlap in part.
const PER_FREQUENCY: f64 = 1.2;

/// A disk of both colours, made-up spectra, four frequencies for each.
fn sets(radius: i32) -> HalfSets {
    let mut state = 7u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 1e7 - 0.8
    };
    let halves = [0, 1].map(|colour| {
        let (mut runs, mut pixels) = (Vec::new(), 0);
        for row in -radius..=radius {
            let inside = |col: &i32| row * row + col * col <= radius * radius && (row + col).rem_euclid(2) == colour;
            let cols: Vec<i32> = (-radius..=radius).filter(inside).collect();
            if let Some(&first) = cols.first() {
                runs.push(Run { row: f64::from(row), col: f64::from(first), len: cols.len(), start: pixels });
                pixels += cols.len();
            }
        }
        let spectra: Vec<_> = (0..pixels * SPECTRA).map(|_| Complex::new(random(), random())).collect();
        Half::new(runs, pixels, &spectra)
    });
    let (mut frequencies, mut spectrum_of) = (Vec::new(), Vec::new());
    for spectrum in 0..SPECTRA {
        let base = [0.05 + 0.008 * spectrum as f64, 0.45 - 0.011 * spectrum as f64];
        for cycles in [[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [-1.0, -1.0]] {
            frequencies.push([base[0] + cycles[0], base[1] + cycles[1]]);
            spectrum_of.push(spectrum);
        }
    }
    HalfSets::new(frequencies, spectrum_of, 2.0, halves)
}

fn fit(c: &mut Criterion) {
    let mut bench = c.benchmark_group("fit");
    bench.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for radius in [23, 60] {
        let sets = sets(radius);
        let all = sets.frequencies.len();
        let model = Model { parameters: [4.0 / f64::from(radius), 0.01, -0.005, 0.2], transposed: false };
        let (pixels_per_frequency, radius) = (PER_FREQUENCY * f64::from(radius), f64::from(radius));
        let weak = Kernel::WeakPhase { pixels_per_frequency, radius, overlap_rotation: None };
        let sides = Kernel::SideBands { pixels_per_frequency, radius, overlap_rotation: None };
        let pixels = places(&sets).len();
        bench.throughput(Throughput::Bytes((all * pixels * size_of::<Complex<f32>>()) as u64));
        bench.bench_function(BenchmarkId::new("one by one", radius), |b| {
            b.iter(|| objective(black_box(&sets), &model, weak, 0..all));
        });
        let groups = groups(&sets);
        for (name, kernel) in [("joint, weak phase", weak), ("joint, side bands", sides)] {
            bench.bench_function(BenchmarkId::new(name, radius), |b| {
                b.iter(|| Joint::new(black_box(&sets), &model, kernel).objective(&groups));
            });
        }
        let general = GeneralModel {
            basis: (1..=2).flat_map(unit_terms).collect(),
            coefficients: vec![4.0, 0.3, -0.2, 0.1, 0.1, 0.05, -0.05],
            rotation: 0.2,
            transposed: false,
        };
        let aperture = Aperture { pixels_per_frequency, radius, filter: Filter::WeakPhase { overlap_rotation: 0.2 } };
        bench.bench_function(BenchmarkId::new("general", radius), |b| {
            b.iter(|| general_objective(black_box(&sets), &general, aperture, 0..all));
        });
        let optics = Optics { model, pixels_per_frequency, radius, higher: None };
        let displacements: Vec<[f64; 2]> = places(&sets).into_iter().map(|k| model.displacement(k)).collect();
        let residuals = Residuals::new(&sets, &optics, &displacements, &vec![true; displacements.len()]);
        bench.bench_function(BenchmarkId::new("residual", radius), |b| {
            b.iter(|| black_box(&residuals).normals(&groups));
        });
    }
    bench.finish();
}

criterion_group!(benches, fit);
criterion_main!(benches);
