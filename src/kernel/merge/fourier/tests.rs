use super::*;
use crate::axes::Image;
use crate::kernel::fft2::Fft2;
use proptest::prelude::*;
use std::f64::consts::TAU;

type Shifted = (Vec<f64>, [f64; 2], f64);

/// Loads images two by two, as a run does.
pub(super) fn load<T: Real>(grid: FourierGrid, images: &[Shifted]) -> Vec<ShiftedSpectrum<T>> {
    let mut loader = Loader::new(grid, &Fft2::<T>::new(grid.padded()));
    let mut loaded: Vec<_> = images.iter().map(|_| ShiftedSpectrum::new(grid)).collect();
    let mut rest = ShiftedSpectrum::new(grid);
    for (images, spectra) in images.chunks(2).zip(loaded.chunks_mut(2)) {
        let item = |i: usize| {
            images.get(i).map(|(image, shift, weight)| super::Shifted { image, shift: *shift, weight: *weight })
        };
        match spectra {
            [a, b] => loader.load([item(0), item(1)], [a, b]),
            [a] => loader.load([item(0), None], [a, &mut rest]),
            _ => {}
        }
    }
    loaded
}

/// Adds an image to a sum, `lines` columns at a time; within a circle, or all that the sum takes.
pub(super) fn add<T: Real>(
    merge: &mut FourierMerge<T>,
    image: &ShiftedSpectrum<T>,
    lines: usize,
    circle: Option<Circle>,
) {
    let grid = merge.grid;
    let mut column = Column::new(grid);
    for mut band in merge.bands(lines) {
        for line in band.lines() {
            let runs = circle.map_or_else(|| band.runs(line), |circle| circle.runs(grid, line));
            column.load(image, image.phases(), line, &runs);
            band.add(&column, &runs);
        }
    }
}

fn merge<T: Real>(grid: FourierGrid, images: &[Shifted], lines: usize, limit: Option<f64>) -> Image {
    let mut merge = FourierMerge::new(grid);
    for spectrum in load::<T>(grid, images) {
        assert!(spectrum.weight() > 0.0);
        merge.note(&spectrum);
        add(&mut merge, &spectrum, lines, None);
    }
    merge.finish(limit)
}

fn largest_difference(a: &Image, b: &Image) -> f64 {
    assert_eq!(a.dim(), b.dim());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The average of Dirichlet kernels, as the module's text says.
fn naive(scan: ScanShape, f: usize, images: &[Shifted]) -> Image {
    let kernel = |at: usize, sample: usize, n: usize, shift: f64| {
        let x = at as f64 / f as f64 - sample as f64 - shift;
        (0..n * f).map(|j| (TAU * (j as f64 / n as f64 - ((n * f) / 2) as f64 / n as f64) * x).cos()).sum::<f64>()
            / n as f64
    };
    let mean = |image: &[f64]| image.iter().sum::<f64>() / image.len() as f64;
    let level = images.iter().map(|(image, ..)| mean(image)).sum::<f64>() / images.len() as f64;
    let total: f64 = images.iter().map(|(.., w)| w).sum();
    Image::from_shape_fn((scan.rows * f, scan.cols * f), |(y, x)| {
        let mut sum = 0.0;
        for (image, s, w) in images {
            for (i, sample) in image.iter().enumerate() {
                let spread = kernel(y, i / scan.cols, scan.rows, s[0]) * kernel(x, i % scan.cols, scan.cols, s[1]);
                sum += w * (sample / mean(image) - 1.0) * spread;
            }
        }
        level * (1.0 + sum / total)
    })
}

proptest! {
    #[test]
    fn the_tiled_spectra_are_the_average_of_ideal_kernels_whatever_the_bands(
        rows in 1usize..6, cols in 1usize..6, f in 1usize..5, lines in 1usize..9,
        shifts in prop::collection::vec((-5.0..5.0f64, -5.0..5.0f64, 0.5..2.0f64), 1..5),
    ) {
        let scan = ScanShape::new(rows, cols);
        let images: Vec<Shifted> = shifts.iter().enumerate().map(|(k, &(y, x, w))| {
            ((0..scan.len()).map(|i| (1 + (i * 7 + k * 13) % 11) as f64).collect(), [y, x], w)
        }).collect();
        let grid = FourierGrid::periodic(scan, f);
        let found = merge::<f64>(grid, &images, lines, None);
        prop_assert!(largest_difference(&found, &naive(scan, f, &images)) < 1e-10);
        prop_assert_eq!(merge::<f64>(grid, &images, grid.lines(), None), found);
    }
}

/// A sum of waves of up to `f/2` cycles per scan pixel, periodic in the scan, none of them an alias of the mean.
fn waves(scan: ScanShape, f: usize) -> impl Fn(f64, f64) -> f64 {
    let nyquist = |n: usize| ((n * f - 1) / 2) as f64;
    let (top_row, top_col) = (nyquist(scan.rows), nyquist(scan.cols));
    let waves = [(1.0, 2.0, 0.3), (top_row, -1.0, 1.1), (-3.0, top_col, 2.0), (top_row, top_col, 0.7), (5.0, 0.0, 0.1)];
    let (rows, cols) = (scan.rows as f64, scan.cols as f64);
    move |y, x| {
        let wave = |(u, v, turn): (f64, f64, f64)| (TAU * (u * y / rows + v * x / cols) + turn).cos();
        20.0 + waves.into_iter().map(wave).sum::<f64>()
    }
}

fn sampled(scan: ScanShape, object: &impl Fn(f64, f64) -> f64, s: [f64; 2]) -> Vec<f64> {
    (0..scan.len()).map(|i| object((i / scan.cols) as f64 + s[0], (i % scan.cols) as f64 + s[1])).collect()
}

#[test]
fn shifts_that_cover_the_phases_unfold_a_band_limited_object_exactly() {
    for f in 1..=4 {
        let scan = ScanShape::new(12, 9);
        let object = waves(scan, f);
        let expected = Image::from_shape_fn((scan.rows * f, scan.cols * f), |(r, c)| {
            object(r as f64 / f as f64, c as f64 / f as f64)
        });
        // Whole pixels and a common offset beside the phases must not matter.
        let images: Vec<Shifted> = (0..f * f)
            .map(|k| {
                let phase = |k: usize| (k as f64 + 0.37) / f as f64;
                let s = [phase(k / f) - 2.0, phase(k % f) + (k % 3) as f64];
                (sampled(scan, &object, s), s, 1.0)
            })
            .collect();
        let grid = FourierGrid::periodic(scan, f);
        assert!(largest_difference(&merge::<f64>(grid, &images, 5, None), &expected) < 1e-11, "factor {f}");
        assert!(largest_difference(&merge::<f32>(grid, &images, 5, None), &expected) < 1e-4, "factor {f}");
    }
}

#[test]
fn a_limit_removes_what_lies_above_it_and_the_mean_stays() {
    let (scan, f) = (ScanShape::new(8, 10), 2);
    let object = |y: f64, x: f64| 5.0 + (TAU * y / 8.0).sin() + (TAU * 7.0 * x / 10.0).cos();
    let images: Vec<Shifted> =
        [[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [0.5, 0.5]].map(|s| (sampled(scan, &object, s), s, 2.0)).to_vec();
    let found = merge::<f64>(FourierGrid::periodic(scan, f), &images, 3, Some(0.5));
    let expected = Image::from_shape_fn((16, 20), |(r, _)| 5.0 + (TAU * r as f64 / 16.0).sin());
    assert!(largest_difference(&found, &expected) < 1e-12);
}

#[test]
fn a_constant_stays_a_constant_and_gains_do_not_show() {
    let scan = ScanShape::new(7, 5);
    let images: Vec<Shifted> =
        (1..5).map(|k| (vec![f64::from(k); 35], [f64::from(k) * 0.3, f64::from(-k) * 0.7], 1.0)).collect();
    let found = merge::<f64>(FourierGrid::new(scan, 3, 3.0), &images, 4, None);
    assert!(found.iter().all(|v| (v - 2.5).abs() < 1e-12));
}

#[test]
fn images_that_cannot_be_merged_are_refused_and_add_nothing() {
    let grid = FourierGrid::new(ScanShape::new(4, 4), 2, 1.5);
    let uneven: Vec<f64> = (1..17).map(f64::from).collect();
    let good = (uneven.clone(), [0.5, -0.25], 2.0);
    let bad = [
        (vec![0.0; 16], [0.0, 0.0], 1.0, "dark"),
        (vec![f64::NAN; 16], [0.0, 0.0], 1.0, "not a number"),
        (uneven.clone(), [0.0, -1.6], 1.0, "would wrap around"),
        (uneven.clone(), [f64::NAN, 0.0], 1.0, "no shift known"),
        (uneven, [0.0, 0.0], 0.0, "no weight"),
    ];
    let alone = load::<f64>(grid, std::slice::from_ref(&good)).remove(0);
    for (image, shift, weight, why) in bad {
        let [refused, beside] = <[_; 2]>::try_from(load::<f64>(grid, &[(image, shift, weight), good.clone()])).unwrap();
        assert_eq!(refused.weight().to_bits(), 0.0f64.to_bits(), "{why}");
        let differs =
            |part: usize| beside.spectrum[part].iter().zip(&alone.spectrum[part]).any(|(a, b)| (a - b).abs() > 1e-12);
        assert!(beside.weight() > 0.0 && !differs(0) && !differs(1), "{why}: its neighbour is not itself");
        let mut merge = FourierMerge::new(grid);
        merge.note(&refused);
        assert_eq!(merge.images(), 0);
        assert_eq!(merge.finish(None), Image::zeros((8, 8)));
    }
}

#[test]
fn two_half_sets_and_both_together_are_the_sums_each_for_itself() {
    let scan = ScanShape::new(9, 12);
    let grid = FourierGrid::new(scan, 3, 2.0);
    let images: Vec<Shifted> = (0..7)
        .map(|k| {
            let image = (0..scan.len()).map(|i| 3.0 + ((i * 7 + k * k * 13) % 11) as f64).collect();
            (image, [(k as f64 * 0.37) % 2.0, (k as f64 * -0.61) % 2.0], 1.0 + k as f64)
        })
        .collect();
    let mut sums = [(); 3].map(|()| FourierMerge::<f64>::within(grid, Some(1.2)));
    for (k, spectrum) in load(grid, &images).iter().enumerate() {
        for sum in [k % 2, 2] {
            sums[sum].note(spectrum);
            add(&mut sums[sum], spectrum, 5, None);
        }
    }
    let [a, b, all] = sums;
    let halves = [a, b];
    let made = FourierMerge::finish_halves(&halves, Some(1.2));
    assert!(largest_difference(&made.image, &all.finish(Some(1.2))) < 1e-12);
    for (half, image) in halves.iter().zip(&made.halves) {
        assert!(largest_difference(image, &half.finish(Some(1.2))) < 1e-12);
    }
    // In the middle all seven cover a pixel.
    assert!((made.weights[[13, 18]] - 7.0).abs() < 1e-9, "{}", made.weights[[13, 18]]);
}

#[test]
fn an_object_that_does_not_repeat_keeps_its_edges() {
    let (scan, f) = (ScanShape::new(20, 24), 4);
    let object = |y: f64, x: f64| 10.0 + (0.9 * y + 0.4).sin() * 2.0 + (2.6 * x - 4.9 * y).cos();
    let spread = |k: usize, step: f64| (k as f64 * step).fract() * 3.0 - 1.5;
    let images: Vec<Shifted> = (0..400)
        .map(|k| {
            let s = [spread(k, 0.754_877_666), spread(k, 0.569_840_291)];
            (sampled(scan, &object, s), s, 1.0)
        })
        .collect();
    let expected = Image::from_shape_fn((80, 96), |(r, c)| object(r as f64 / 4.0, c as f64 / 4.0));
    let errors = |grid| {
        let error = merge::<f64>(grid, &images, 5, None) - &expected;
        let rms = |part: ndarray::ArrayView2<'_, f64>| (part.mapv(|e| e * e).sum() / part.len() as f64).sqrt();
        (rms(error.slice(ndarray::s![16..64, 16..80])), rms(error.view()))
    };
    // Of a contrast of 1.6 (RMS): a few percent inside, where the phases are covered only evenly, not regularly.
    let ((inside, all), (_, wrapped)) =
        (errors(FourierGrid::new(scan, f, 1.5)), errors(FourierGrid::periodic(scan, f)));
    assert!(inside < 0.1 && all < 0.2 && all < 0.6 * wrapped, "{inside} {all} {wrapped}");
}
