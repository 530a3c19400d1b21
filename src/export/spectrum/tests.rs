use super::*;

fn spectrum(image: &Image, step: f64) -> Spectrum {
    let (rows, cols) = image.dim();
    let image = Sampled::whole(image);
    Spectrum::of(ScanShape::new(rows, cols), step, |row, out| image.copy(row, 0, out))
}

/// A wave of `down` and `across` cycles per scan pixel, sampled every `step`.
fn wave(rows: usize, cols: usize, step: f64, down: f64, across: f64) -> Image {
    let turn = std::f64::consts::TAU;
    Image::from_shape_fn((rows, cols), |(r, c)| 5.0 + (turn * step * (down * r as f64 + across * c as f64)).cos())
}

#[test]
fn a_wave_is_bright_at_its_frequency_whatever_the_sampling() {
    for (rows, cols, step) in [(64, 64, 1.0), (256, 256, 0.25), (300, 120, 0.25), (60, 31, 1.0)] {
        let view = spectrum(&wave(rows, cols, step, 0.25, -0.125), step).view(160, 2.0);
        let brightest = view.indexed_iter().filter(|(_, v)| v.is_finite()).max_by(|a, b| a.1.total_cmp(b.1));
        let ((r, c), _) = brightest.unwrap();
        // 40 pixels per cycle; the spectrum of a real image is symmetric.
        let (r, c) = (r as f64 + 0.5 - 80.0, c as f64 + 0.5 - 80.0);
        let (r, c) = if r < 0.0 { (-r, -c) } else { (r, c) };
        assert!((r - 10.0).abs() < 2.0 && (c + 5.0).abs() < 2.0, "{rows}×{cols}: {r} {c}");
    }
}

#[test]
fn frequencies_that_the_image_does_not_have_are_no_numbers() {
    let view = spectrum(&wave(32, 48, 1.0, 0.2, 0.2), 1.0).view(100, 2.0);
    let known = view.iter().filter(|v| v.is_finite()).count();
    assert!((20 * 20..=28 * 28).contains(&known), "a quarter of each side, not {known} pixels");
    assert!(view[[50, 50]].is_finite() && view[[50, 5]].is_nan());
}

#[test]
fn the_density_of_white_noise_does_not_depend_on_the_sampling() {
    // A multiplicative generator is noise enough.
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
    };
    for step in [1.0, 0.25] {
        let spectrum = spectrum(&Image::from_shape_simple_fn((128, 96), &mut noise), step);
        let mean = spectrum.rotational_mean();
        assert!((mean[mean.len() - 1][0] * step - 0.5).abs() < 0.02);
        let average = mean.iter().map(|p| p[1]).sum::<f64>() / mean.len() as f64;
        let expected = step * step / 12.0;
        assert!((average / expected - 1.0).abs() < 0.15, "{average} {expected}");
    }
}

#[test]
fn images_of_one_row_without_contrast_or_with_nan_have_spectra() {
    for (rows, cols, value) in [(1, 7, 1.0), (7, 1, 1.0), (1, 1, 3.0), (4, 4, f64::NAN), (4, 4, f64::MAX)] {
        let spectrum = spectrum(&Image::from_elem((rows, cols), value), 1.0);
        assert_eq!(spectrum.view(10, 0.5).dim(), (10, 10));
        assert!(spectrum.rotational_mean().len() <= MOST_RINGS);
    }
}

/// Of the whole spectrum, zero in the middle.
fn power_at(spectrum: &Spectrum, (row, col): (usize, usize)) -> f64 {
    let ScanShape { rows, cols } = spectrum.shape;
    let (row, number) = if col >= cols / 2 { (row, col - cols / 2) } else { (opposite_row(row, rows), cols / 2 - col) };
    spectrum.half[number * rows + row]
}

#[test]
fn the_power_is_that_of_the_sum_as_it_is_defined() {
    for (rows, cols) in [(8, 6), (6, 7), (7, 6), (5, 9), (2, 3), (1, 4), (4, 1), (12, 10)] {
        let image = Image::from_shape_fn((rows, cols), |(r, c)| ((r * 31 + c * 17) % 13) as f64 - 0.3 * c as f64);
        let found = spectrum(&image, 0.5);
        let mean = image.mean().unwrap();
        let (down, across) = (hann(rows), hann(cols));
        let squares = |window: &[f64]| window.iter().map(|w| w * w).sum::<f64>();
        let factor = 0.25 / (squares(&down) * squares(&across));
        let turn = -std::f64::consts::TAU;
        for row in 0..rows {
            for col in 0..cols {
                let [u, v] = [row as f64 - (rows / 2) as f64, col as f64 - (cols / 2) as f64];
                let sum: Complex<f64> = image
                    .indexed_iter()
                    .map(|((r, c), value)| {
                        let angle = turn * (u * r as f64 / rows as f64 + v * c as f64 / cols as f64);
                        Complex::from_polar((value - mean) * down[r] * across[c], angle)
                    })
                    .sum();
                let (expected, power) = (sum.norm_sqr() * factor, power_at(&found, (row, col)));
                assert!(
                    (power - expected).abs() < 1e-5 * (1.0 + expected),
                    "{rows}×{cols} {row} {col}: {power} {expected}"
                );
            }
        }
    }
}

#[test]
fn every_pixel_of_the_view_is_the_mean_of_its_frequencies() {
    let spectrum = spectrum(&wave(96, 70, 0.5, 0.3, 0.1), 0.5);
    let (view, limit) = (spectrum.view(50, 1.2), 1.2);
    let (down, across) = (spectrum.bins(96, 50, limit), spectrum.bins(70, 50, limit));
    for ((r, c), value) in view.indexed_iter() {
        let (Some(rows), Some(cols)) = (&down[r], &across[c]) else {
            assert!(value.is_nan());
            continue;
        };
        let powers =
            rows.clone().flat_map(|row| cols.clone().map(move |col| (row, col))).map(|at| power_at(&spectrum, at));
        let mean = powers.sum::<f64>() / (rows.len() * cols.len()) as f64;
        assert!((value - mean.max(f64::MIN_POSITIVE).log10()).abs() < 1e-9, "{r} {c}");
    }
}
