//! How fast the kernels are, one thread, at three sizes. Bytes are those of the input.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use num_complex::Complex;
use stemstream::axes::{Crop, DType, DetShape, Image, ScanShape};
use stemstream::kernel::convert::{PixelSums, offset, pack_pair, pixel_sums};
use stemstream::kernel::correlate::{Normalisation, multiply_packed};
use stemstream::kernel::disk::{Care, KnownDisk, find};
use stemstream::kernel::fft2::Fft2;
use stemstream::kernel::lanes::{Cell, PairCorrelation};
use stemstream::kernel::peak::find_pair;
use stemstream::kernel::transpose::{RawFrames, Sum, sum_frames, transpose, turn, turn_narrow};
use stemstream::kernel::upsample::{Band, Counts, Grid, Pieces, Targets, deposit};

type C32 = Complex<f32>;

const SIDES: [usize; 3] = [64, 256, 512];

/// Counts that look like nothing in particular.
fn counts(n: usize, seed: u64) -> Vec<u16> {
    let mut state = seed.wrapping_add(1);
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u16
    })
    .take(n)
    .collect()
}

fn group<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(std::time::Duration::from_millis(300));
    group.measurement_time(std::time::Duration::from_secs(1));
    group
}

/// 256 frames of 16-bit counts, big-endian with a header each as in a Merlin file, cropped to the middle half.
fn corner_turn(c: &mut Criterion) {
    const FRAMES: usize = 256;
    let mut group = group(c, "corner_turn");
    for side in [64, 128, 256] {
        let det = DetShape::new(side, side);
        let samples = counts(FRAMES * det.len(), 1);
        let mut bytes = Vec::new();
        for frame in samples.chunks_exact(det.len()) {
            bytes.extend([b' '; 384]);
            bytes.extend(frame.iter().flat_map(|s| s.to_be_bytes()));
        }
        let swap = cfg!(target_endian = "little");
        let raw = RawFrames { bytes: &bytes, offset: 384, stride: 384 + 2 * det.len(), frames: FRAMES, det, swap };
        let (low, high) = (side / 4, side / 4 + side / 2);
        let crop = Crop { row0: low, row1: high, col0: low, col1: high };
        let mut out = vec![0u16; crop.shape().len() * FRAMES];
        let (mut sums, mut small) = (vec![Sum::default(); det.len()], Vec::new());
        turn(&raw, crop, &mut out, FRAMES, 0);
        assert_eq!(out[FRAMES + 3], samples[3 * det.len() + low * side + low + 1], "the turn is wrong");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_with_input(BenchmarkId::new("turn and sum", det), &raw, |b, raw| {
            b.iter(|| {
                turn(black_box(raw), crop, &mut out, FRAMES, 0);
                sum_frames::<u16>(raw, &mut sums, &mut small)
            });
        });
        let mut out = vec![0u8; crop.shape().len() * FRAMES];
        assert!(turn_narrow(&raw, DType::U16, crop, (&mut out, FRAMES, 0)), "counts of one byte");
        assert_eq!(u16::from(out[FRAMES + 3]), samples[3 * det.len() + low * side + low + 1], "the turn is wrong");
        group.bench_with_input(BenchmarkId::new("turn to u8 and sum", det), &raw, |b, raw| {
            b.iter(|| {
                turn_narrow(black_box(raw), DType::U16, crop, (&mut out[..], FRAMES, 0));
                sum_frames::<u16>(raw, &mut sums, &mut small)
            });
        });
    }
    group.finish();
}

/// A pair of images on its way: packed, transformed, multiplied, transformed back, searched for its peaks.
fn alignment(c: &mut Criterion) {
    for side in SIDES {
        let shape = ScanShape::new(side, side);
        let n = shape.len();
        let (a, b) = (counts(n, 2), counts(n, 3));
        let (sa, sb): (PixelSums, PixelSums) = (pixel_sums(&a), pixel_sums(&b));
        let fft = Fft2::<f32>::new(shape);
        let mut scratch = vec![C32::default(); fft.scratch_len()];
        let (mut image, mut spectrum) = (vec![C32::default(); n], vec![C32::default(); n]);
        let pack = |image: &mut [C32]| pack_pair((&a, offset(sa, n)), Some((&b, offset(sb, n))), image);
        pack(&mut image);
        fft.forward(&mut image, &mut spectrum, &mut scratch);
        // Image `a` is the reference: its correlation with itself peaks at no shift.
        let mut reference = vec![C32::default(); n];
        pack_pair((&a, offset(sa, n)), None, &mut image);
        fft.forward(&mut image, &mut reference, &mut scratch);
        for z in &mut reference {
            *z = z.conj();
        }
        let packed = spectrum.clone();
        multiply_packed(&mut spectrum, &reference, shape);
        fft.inverse(&mut spectrum, &mut image, &mut scratch);
        let norms = [Normalisation::new(sa, sa, n), Normalisation::new(sa, sb, n)];
        let [peak, _] = find_pair(&image, shape, [&norms[0], &norms[1]]);
        assert!((peak.y - (side / 2) as f64).abs() < 0.5 && (peak.zncc - 1.0).abs() < 1e-3, "{peak:?}");
        let correlation = image.clone();

        let bytes = Throughput::Bytes((n * 2 * size_of::<u16>()) as u64);
        let mut pair = group(c, "pair of u16 images");
        pair.throughput(bytes);
        pair.bench_function(BenchmarkId::new("pack", shape), |b| b.iter(|| pack(black_box(&mut image))));
        pair.bench_function(BenchmarkId::new("fft2", shape), |b| {
            b.iter(|| {
                pack(&mut image);
                fft.forward(black_box(&mut image), &mut spectrum, &mut scratch);
            });
        });
        pair.bench_function(BenchmarkId::new("correlate", shape), |b| {
            b.iter(|| {
                spectrum.copy_from_slice(&packed);
                multiply_packed(black_box(&mut spectrum), &reference, shape);
                fft.inverse(&mut spectrum, &mut image, &mut scratch);
            });
        });
        pair.bench_function(BenchmarkId::new("peak", shape), |b| {
            b.iter(|| find_pair(black_box(&correlation), shape, [&norms[0], &norms[1]]));
        });
        if let Some(plan) = PairCorrelation::new(shape, &reference) {
            let mut cells = vec![Cell::default(); plan.layout().cells()];
            let mut line = vec![Cell::default(); plan.scratch_len()];
            let images = ((&a[..], offset(sa, n)), Some((&b[..], offset(sb, n))));
            let mut peaks = || plan.peaks(black_box(images), [&norms[0], &norms[1]], &mut cells, &mut line);
            let [in_lanes, _] = peaks();
            assert!((in_lanes.y - peak.y).abs() < 1e-3 && (in_lanes.x - peak.x).abs() < 1e-3, "{in_lanes:?}");
            pair.bench_function(BenchmarkId::new("all of it in lanes", shape), |b| b.iter(&mut peaks));
        }
        pair.finish();

        let mut turned = vec![C32::default(); n];
        transpose(&packed, &mut turned, side, side);
        assert_eq!(turned[1], packed[side], "the transpose is wrong");
        let mut plane = group(c, "complex32 plane");
        plane.throughput(Throughput::Bytes((n * size_of::<C32>()) as u64));
        plane.bench_function(BenchmarkId::new("transpose", shape), |b| {
            b.iter(|| transpose(black_box(&packed), &mut turned, side, side));
        });
        plane.finish();
    }
}

/// One detector pixel's image onto a four times finer grid.
fn upsampling(c: &mut Criterion) {
    let mut group = group(c, "deposit");
    for side in SIDES {
        let scan = ScanShape::new(side, side);
        let grid = Grid::new(scan, 4);
        let image = counts(scan.len(), 4);
        let mut value = vec![0u32; grid.native_rows() * grid.row_len()];
        let (mut targets, mut numbers) = (Targets::default(), Counts::new(grid));
        let middle = (side / 2) as f64;
        grid.targets(middle + 0.3, middle - 0.4, &mut targets);
        let pieces = [image.as_slice()];
        let image = Pieces { pieces: &pieces, rows: side };
        let rows = 0..grid.native_rows();
        deposit(grid, image, &targets, &mut Band { rows: rows.clone(), value: &mut value });
        numbers.add(&targets);
        // A row that is moved beyond the edge is cut off with the pad.
        let kept = (side - 1) * (side - 1);
        assert!(grid.finish(&value, numbers).1.sum() >= kept as f64, "samples were lost");
        group.throughput(Throughput::Bytes((scan.len() * size_of::<u16>()) as u64));
        group.bench_function(BenchmarkId::new("nearest ×4", scan), |b| {
            b.iter(|| {
                deposit(grid, black_box(image), &targets, &mut Band { rows: rows.clone(), value: &mut value });
            });
        });
    }
    group.finish();
}

/// The disk in a mean pattern, which a run looks for before it reads the scan.
fn disk(c: &mut Criterion) {
    let mut group = group(c, "disk");
    for side in SIDES {
        let (row, radius) = (side as f64 * 0.49, side as f64 * 0.12);
        let noise = counts(side * side, 3);
        let pattern = Image::from_shape_fn((side, side), |(r, c)| {
            let from_edge = radius - (r as f64 - row).hypot(c as f64 - row);
            100.0 * (from_edge + 0.5).clamp(0.0, 1.0) + f64::from(noise[r * side + c]) / 64.0
        });
        let found = find(&pattern, KnownDisk::default(), Care::Full).expect("a disk");
        assert!((found.row - row).abs() < 0.1 && (found.radius - radius).abs() < 0.3, "{found:?}");
        group.throughput(Throughput::Elements((side * side) as u64));
        group.bench_with_input(BenchmarkId::new("find", side), &pattern, |b, pattern| {
            b.iter(|| find(black_box(pattern), KnownDisk::default(), Care::Full));
        });
    }
}

criterion_group!(benches, corner_turn, alignment, upsampling, disk);
criterion_main!(benches);
