//! Gaussian smoothing with mirrored edges, as `scipy.ndimage.gaussian_filter` defines it (reflect, truncate 4).

use crate::axes::Image;

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
    let along_rows = Image::from_shape_fn((rows, cols), |(r, c)| filter(&kernel, radius, r, rows, |i| image[[i, c]]));
    Image::from_shape_fn((rows, cols), |(r, c)| filter(&kernel, radius, c, cols, |i| along_rows[[r, i]]))
}

fn filter(kernel: &[f64], radius: usize, at: usize, len: usize, sample: impl Fn(usize) -> f64) -> f64 {
    kernel
        .iter()
        .enumerate()
        .map(|(k, weight)| weight * sample(mirrored(at as isize + k as isize - radius as isize, len)))
        .sum()
}

fn mirrored(index: isize, len: usize) -> usize {
    let period = 2 * len as isize;
    let i = index.rem_euclid(period);
    if i < len as isize { i as usize } else { (period - 1 - i) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn edges_repeat_the_outermost_sample() {
        assert_eq!((-3..7).map(|i| mirrored(i, 3)).collect::<Vec<_>>(), [2, 1, 0, 0, 1, 2, 2, 1, 0, 0]);
    }
}
