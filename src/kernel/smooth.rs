//! Gaussian smoothing with mirrored edges, as `scipy.ndimage.gaussian_filter` defines it (reflect, truncate 4).

use ndarray::{ArrayView1, ArrayViewMut1, s};

use crate::axes::Image;
use crate::kernel::simd::dispatch;

/// Smooths `image` with a Gaussian of `sigma` pixels along both axes. `sigma = 0` returns a copy.
///
/// Edges are mirrored with the edge sample repeated (`d c b a | a b c d | d c b a`); the kernel is cut at
/// `floor(4 sigma + 0.5)` pixels and normalised to a sum of one.
pub fn gaussian(image: &Image, sigma: f64) -> Image {
    let radius = (4.0 * sigma + 0.5) as usize;
    if sigma <= 0.0 || radius == 0 {
        return image.clone();
    }
    let mut kernel: Vec<f64> = (0..=2 * radius)
        .map(|i| {
            let x = i as f64 - radius as f64;
            (-0.5 * x * x / (sigma * sigma)).exp()
        })
        .collect();
    let total: f64 = kernel.iter().sum();
    for weight in &mut kernel {
        *weight /= total;
    }
    let (rows, cols) = image.dim();
    let (image, mut down) = (image.as_standard_layout(), Image::zeros((rows, cols)));
    for (r, mut out) in down.rows_mut().into_iter().enumerate() {
        for (weight, at) in kernel.iter().zip(reach(r, radius)) {
            add_weighted(&mut out, &image.row(mirrored(at, rows)), *weight);
        }
    }
    let mut both = Image::zeros((rows, cols));
    // Columns that no kernel takes beyond an edge are added up together, those at the edges one by one.
    let inner = radius.min(cols)..cols.saturating_sub(radius).max(radius.min(cols));
    for (line, mut out) in down.rows().into_iter().zip(both.rows_mut()) {
        for (k, weight) in kernel.iter().enumerate().filter(|_| !inner.is_empty()) {
            let from = inner.start + k - radius;
            let samples = line.slice(s![from..from + inner.len()]);
            add_weighted(&mut out.slice_mut(s![inner.clone()]), &samples, *weight);
        }
        for c in (0..cols).filter(|c| !inner.contains(c)) {
            let samples = reach(c, radius).map(|at| line[mirrored(at, cols)]);
            out[c] = kernel.iter().zip(samples).map(|(weight, sample)| weight * sample).sum();
        }
    }
    both
}

/// Where the samples of a kernel of this radius lie, also beyond the edges.
fn reach(at: usize, radius: usize) -> impl Iterator<Item = isize> {
    let (at, radius) = (at as isize, radius as isize);
    at - radius..=at + radius
}

fn add_weighted(sums: &mut ArrayViewMut1<'_, f64>, samples: &ArrayView1<'_, f64>, weight: f64) {
    if let (Some(sums), Some(samples)) = (sums.as_slice_mut(), samples.as_slice()) {
        dispatch(
            #[inline(always)]
            || sums.iter_mut().zip(samples).for_each(|(sum, sample)| *sum += weight * sample),
        );
    }
}

fn mirrored(index: isize, len: usize) -> usize {
    let period = 2 * len as isize;
    let i = index.rem_euclid(period);
    if i < len as isize { i as usize } else { (period - 1 - i) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::ShapeBuilder;
    use proptest::prelude::*;

    #[test]
    fn a_point_becomes_the_kernel_and_a_constant_stays() {
        let mut point = Image::zeros((9, 11));
        point[[4, 5]] = 1.0;
        let smooth = gaussian(&point, 0.5);
        // exp(-2) and exp(-8), normalised: the kernel of sigma 0.5 has radius 2.
        let (w1, w2) = ((-2f64).exp(), (-8f64).exp());
        let w0 = 1.0 / (1.0 + 2.0 * w1 + 2.0 * w2);
        assert!((smooth[[4, 5]] - w0 * w0).abs() < 1e-15);
        assert!((smooth[[4, 7]] - w0 * w0 * w2).abs() < 1e-15);
        assert!((smooth[[4, 8]]).abs() < 1e-300);
        let flat = gaussian(&Image::from_elem((3, 2), 7.0), 3.0);
        assert!(flat.iter().all(|v| (v - 7.0).abs() < 1e-13), "edges are mirrored, however small the image");
    }

    proptest! {
        #[test]
        fn it_is_its_naive_twin(rows in 1usize..20, cols in 1usize..20, sigma in 0.13..2.5f64, seed in any::<u32>()) {
            let value = |r: usize, c: usize| f64::from((seed ^ (r * 40 + c) as u32).wrapping_mul(2_654_435_761) >> 12);
            let image = Image::from_shape_fn((rows, cols), |(r, c)| value(r, c));
            let radius = (4.0 * sigma + 0.5) as isize;
            let weight = |k: isize| (-0.5 * (k * k) as f64 / (sigma * sigma)).exp();
            let total: f64 = (-radius..=radius).map(weight).sum();
            let line = |at: usize, len: usize, of: &dyn Fn(usize) -> f64| -> f64 {
                (-radius..=radius).map(|k| weight(k) / total * of(mirrored(at as isize + k, len))).sum()
            };
            let smooth = gaussian(&image, sigma);
            let mut by_columns = Image::zeros((rows, cols).f());
            by_columns.assign(&image);
            prop_assert_eq!(&smooth, &gaussian(&by_columns, sigma), "it matters how an image lies in memory");
            for r in 0..rows {
                for c in 0..cols {
                    let naive = line(c, cols, &|c| line(r, rows, &|r| image[[r, c]]));
                    prop_assert!((smooth[[r, c]] - naive).abs() <= 1e-9 * naive.abs());
                }
            }
        }
    }

    #[test]
    fn edges_repeat_the_outermost_sample() {
        assert_eq!((-3..7).map(|i| mirrored(i, 3)).collect::<Vec<_>>(), [2, 1, 0, 0, 1, 2, 2, 1, 0, 0]);
    }
}
