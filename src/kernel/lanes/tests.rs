use num_complex::Complex;
use proptest::prelude::*;

use super::*;
use crate::kernel::convert::{PixelSums, offset, pack_pair, pixel_sums};
use crate::kernel::correlate::{Normalisation, multiply_packed};
use crate::kernel::fft2::Fft2;
use crate::kernel::peak::{Extremes, find_pair};

fn image(n: usize, seed: u64) -> Vec<u16> {
    let mut state = seed.wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u16 % 300
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// A smooth reference, transformed by another library: its conjugate spectrum, transposed.
fn reference(shape: ScanShape, seed: u64) -> (Vec<u16>, Vec<Complex<f32>>) {
    let samples = image(shape.len(), seed);
    let fft = Fft2::<f64>::new(shape);
    let mut work: Vec<_> = samples.iter().map(|&v| Complex::new(f64::from(v), 0.0)).collect();
    let (mut spectrum, mut scratch) = (work.clone(), vec![Complex::default(); fft.scratch_len()]);
    fft.forward(&mut work, &mut spectrum, &mut scratch);
    (samples, spectrum.iter().map(|z| Complex::new(z.re as f32, -z.im as f32)).collect())
}

/// The sizes that can be planned, up to some length.
fn lengths(most: usize) -> Vec<usize> {
    let smooth =
        |n: usize| [2, 3, 5].iter().fold(n, |n, &p| (0..20).fold(n, |n, _| if n % p == 0 { n / p } else { n })) == 1;
    (1..=most).filter(|&n| smooth(n)).collect()
}

#[test]
fn products_of_two_three_and_five_can_be_planned_and_nothing_else() {
    let smooth = lengths(2000);
    for n in 0..2000 {
        assert_eq!(PairCorrelation::can(ScanShape::new(n, 8)), smooth.contains(&n), "{n}");
    }
}

#[test]
fn every_place_has_a_frequency_of_its_own() {
    for n in lengths(700) {
        let line = Line::new(n).expect("smooth");
        let mut found: Vec<_> = (0..n).map(|p| line.frequency(p)).collect();
        found.sort_unstable();
        assert!(found.iter().copied().eq(0..n), "{n}");
    }
}

fn check(shape: ScanShape, seed: u64, single: bool) {
    let n = shape.len();
    let (g, conj) = reference(shape, seed ^ 0x4D);
    let (a, b) = (image(n, seed), image(n, seed ^ 0x5));
    let (sa, sb, sg) = (pixel_sums(&a), pixel_sums(&b), pixel_sums(&g));
    let second = (!single).then(|| (&b[..], offset(sb, n)));

    let fft = Fft2::<f32>::new(shape);
    let (mut packed, mut spectrum) = (vec![Complex::default(); n], vec![Complex::default(); n]);
    let mut fft_scratch = vec![Complex::default(); fft.scratch_len()];
    pack_pair((&a, offset(sa, n)), second, &mut packed);
    fft.forward(&mut packed, &mut spectrum, &mut fft_scratch);
    multiply_packed(&mut spectrum, &conj, shape);
    fft.inverse(&mut spectrum, &mut packed, &mut fft_scratch);

    let plan = PairCorrelation::new(shape, &conj).expect("a smooth shape");
    let layout = plan.layout();
    // What lay there before must not matter.
    let dirty = Cell { re: [3e7; LANES], im: [-4e7; LANES] };
    let (mut cells, mut scratch) = (vec![dirty; layout.cells()], vec![dirty; plan.scratch_len()]);
    let norms = [sa, if single { PixelSums::default() } else { sb }].map(|s| Normalisation::new(sg, s, n));
    let norms = [&norms[0], &norms[1]];
    let found = plan.peaks(((&a[..], offset(sa, n)), second), norms, &mut cells, &mut scratch);

    let size = packed.iter().map(|z| z.norm()).fold(1.0, f32::max);
    for row in 0..shape.rows {
        for col in 0..shape.cols {
            let (cell, lane) = layout.at(row, col);
            let z = Complex::new(cells[cell].re[lane], cells[cell].im[lane]);
            let expected = packed[row * shape.cols + col];
            assert!((z - expected).norm() < 3e-6 * size, "{shape} ({row}, {col}): {z} instead of {expected}");
        }
    }
    // The peaks are those of these numbers, equal ones in the same order.
    let mut same = packed;
    for (i, z) in same.iter_mut().enumerate() {
        let (cell, lane) = layout.at(i / shape.cols, i % shape.cols);
        *z = Complex::new(cells[cell].re[lane], cells[cell].im[lane]);
    }
    let expected = find_pair(&same, shape, norms);
    assert_eq!(found[..=usize::from(!single)], expected[..=usize::from(!single)]);
}

#[test]
fn scans_of_the_usual_sizes_are_correlated_as_by_the_other_library() {
    for (rows, cols) in [(64, 64), (128, 96), (100, 75), (256, 32), (16, 512), (1, 1), (1, 30), (45, 1), (200, 150)] {
        check(ScanShape::new(rows, cols), 9, false);
    }
}

/// Processors without wide registers, or with narrower ones, run other code: it must work here too.
#[test]
fn every_kind_of_registers_gives_the_same_to_rounding() {
    for shape in [ScanShape::new(60, 40), ScanShape::new(32, 45), ScanShape::new(7 + 1, 100)] {
        let (a, b) = (image(shape.len(), 3), image(shape.len(), 4));
        let plan = PairCorrelation::new(shape, &reference(shape, 5).1).expect("a smooth shape");
        let images = ((&a[..], 150.0), Some((&b[..], 149.0)));
        let by = |run: &dyn Fn(Work<'_>)| {
            let mut cells = vec![Cell::default(); plan.layout().cells()];
            let mut scratch = vec![Cell::default(); plan.scratch_len()];
            let found = plan.walk(images, &mut cells, &mut scratch, run).map(|s| s.found(shape.rows));
            (cells, found)
        };
        let (expected, best) = by(&|work| plan.run(work));
        let size = expected.iter().flat_map(|c| c.re).fold(1f32, |most, v| most.max(v.abs()));
        let check = |(cells, found): (Vec<Cell>, [Extremes<f32>; 2]), what: &str| {
            for row in 0..shape.rows {
                for col in 0..shape.cols {
                    let (cell, lane) = plan.layout().at(row, col);
                    let apart = (cells[cell].re[lane] - expected[cell].re[lane]).abs()
                        + (cells[cell].im[lane] - expected[cell].im[lane]).abs();
                    assert!(apart < 3e-6 * size, "{what} {shape} ({row}, {col}): {apart}");
                }
            }
            for (found, best) in found.iter().zip(&best) {
                assert!((found.max.0 - best.max.0).abs() < 3e-6 * size && found.max.1 == best.max.1, "{what} {shape}");
            }
        };
        check(by(&|work| Simd::vectorize(pulp::Scalar::new(), Pass { plan: &plan, work, turn: Plain })), "scalar");
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            check(by(&|work| Simd::vectorize(simd, Pass { plan: &plan, work, turn: simd })), "AVX2");
        }
    }
}

proptest! {
    #[test]
    fn pairs_are_correlated_as_by_the_other_library(
        rows in prop::sample::select(lengths(60)), cols in prop::sample::select(lengths(60)), seed in any::<u64>(), single in any::<bool>(),
    ) {
        check(ScanShape::new(rows, cols), seed, single);
    }

    #[test]
    fn the_first_of_equal_values_is_found_strip_by_strip(
        rows in 1usize..20, cols in 1usize..40, values in prop::collection::vec(-3i8..3, 800),
    ) {
        let shape = ScanShape::new(rows, cols);
        let layout = Layout::new(shape);
        let flat: Vec<_> = (0..shape.len()).map(|i| Complex::new(f32::from(values[i]), f32::from(values[799 - i]))).collect();
        // Larger and smaller than anything within, where it must not count.
        let mut cells = vec![Cell { re: [9.0; LANES], im: [-9.0; LANES] }; layout.cells()];
        for (i, z) in flat.iter().enumerate() {
            let (cell, lane) = layout.at(i / cols, i % cols);
            (cells[cell].re[lane], cells[cell].im[lane]) = (z.re, z.im);
        }
        let mut search = [Search::new(); 2];
        for (i, strip) in cells.chunks_exact(layout.stride()).enumerate() {
            search[0].strip(pulp::Scalar::new(), layout, (i, &strip[..rows]), |cell| &cell.re);
            search[1].strip(pulp::Scalar::new(), layout, (i, &strip[..rows]), |cell| &cell.im);
        }
        let norm = Normalisation { scale: 1.0, pedestal: 0.123, denominator: 1.0, zero_mean: 1.0 };
        let value = |part: usize| {
            let cells = &cells;
            move |row: usize, col: usize| {
                let (cell, lane) = layout.at(row, col);
                if part == 0 { cells[cell].re[lane] } else { cells[cell].im[lane] }
            }
        };
        let found = [0, 1].map(|part| refine(shape, &norm, &search[part].found(rows), value(part)));
        prop_assert_eq!(found, find_pair(&flat, shape, [&norm; 2]));
    }
}
