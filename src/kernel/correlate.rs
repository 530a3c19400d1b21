//! Spectra of single images out of packed pairs, and their correlation with the reference.
//!
//! Packed spectra are transposed (`[col, row]`, see [`fft2`](crate::kernel::fft2)); stored spectra are `[row, col]`.
//! A pair `z = a + i b` of real images has the spectra `A(q) = (Z(q) + Z*(-q)) / 2` and
//! `B(q) = (Z(q) - Z*(-q)) / 2i`. Because the reference `g` is real, `(A + iB) G*` transforms back into the two
//! correlations as real and imaginary part.
//!
//! Both ways to the correlation (straight from the packed pair, or from stored spectra) go through the same `A` and
//! `B` with the same roundings, so that their results are equal to the last bit.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use num_complex::Complex;

use crate::axes::ScanShape;
use crate::kernel::real::Real;
use crate::kernel::simd::dispatch;

#[inline(always)]
fn spectra_of_pair<T: Real>(z: Complex<T>, mirrored: Complex<T>, half: T) -> (Complex<T>, Complex<T>) {
    let m = mirrored.conj();
    let (s, d) = (z + m, z - m);
    (Complex::new(s.re * half, s.im * half), Complex::new(d.im * half, -d.re * half))
}

/// `(A + iB) conj(G)`.
#[inline(always)]
fn product<T: Real>(a: Complex<T>, b: Complex<T>, reference_conj: Complex<T>) -> Complex<T> {
    Complex::new(a.re - b.im, a.im + b.re) * reference_conj
}

/// Unpacks a pair's spectrum into the spectra of its images.
///
/// `packed` is transposed; `a` and `b` are written as `[row, col]`. The zero frequency, which the packed pair lacks
/// because the offsets were taken off, is set to the images' sums.
///
/// # Panics
/// When a slice does not have the shape's length.
pub fn unpack<T: Real>(
    packed: &[Complex<T>],
    shape: ScanShape,
    sums: (f64, f64),
    a: &mut [Complex<T>],
    mut b: Option<&mut [Complex<T>]>,
) {
    const BLOCK: usize = 16;
    let (rows, cols) = (shape.rows, shape.cols);
    assert!(packed.len() == shape.len() && a.len() == shape.len(), "spectrum of a wrong size");
    let half = T::round_from(0.5);
    for r0 in (0..rows).step_by(BLOCK) {
        for c0 in (0..cols).step_by(BLOCK) {
            for r in r0..(r0 + BLOCK).min(rows) {
                let mirrored_row = (rows - r) % rows;
                for c in c0..(c0 + BLOCK).min(cols) {
                    let z = packed[c * rows + r];
                    let m = packed[(cols - c) % cols * rows + mirrored_row];
                    let (fa, fb) = spectra_of_pair(z, m, half);
                    a[r * cols + c] = fa;
                    if let Some(b) = b.as_deref_mut() {
                        b[r * cols + c] = fb;
                    }
                }
            }
        }
    }
    a[0] = Complex::new(T::round_from(sums.0), T::default());
    if let Some(b) = b {
        b[0] = Complex::new(T::round_from(sums.1), T::default());
    }
}

/// Multiplies a packed pair by the conjugate reference, in place. Both are transposed.
///
/// # Panics
/// When a slice does not have the shape's length.
pub fn multiply_packed<T: Real>(packed: &mut [Complex<T>], reference_conj: &[Complex<T>], shape: ScanShape) {
    let (rows, cols) = (shape.rows, shape.cols);
    assert!(packed.len() == shape.len() && reference_conj.len() == shape.len(), "spectrum of a wrong size");
    dispatch(
        #[inline(always)]
        || {
            for c in 0..=cols / 2 {
                let mirrored = (cols - c) % cols;
                let (at, at_mirrored) = (c * rows, mirrored * rows);
                if mirrored == c {
                    multiply_own_mirror(&mut packed[at..at + rows], &reference_conj[at..at + rows]);
                } else {
                    let (left, right) = packed.split_at_mut(at_mirrored);
                    let references = (&reference_conj[at..at + rows], &reference_conj[at_mirrored..at_mirrored + rows]);
                    multiply_mirrored(&mut left[at..at + rows], &mut right[..rows], references);
                }
            }
        },
    );
    packed[0] = Complex::default();
}

/// Two mirrored frequencies `k` and `m` of a packed pair, whose images' spectra hang together.
#[inline(always)]
fn multiply_two<T: Real>(k: &mut Complex<T>, m: &mut Complex<T>, reference: (Complex<T>, Complex<T>)) {
    let half = T::round_from(0.5);
    let (ak, bk) = spectra_of_pair(*k, *m, half);
    let (am, bm) = spectra_of_pair(*m, *k, half);
    *k = product(ak, bk, reference.0);
    *m = product(am, bm, reference.1);
}

/// A frequency that is its own mirror image.
#[inline(always)]
fn multiply_one<T: Real>(z: &mut Complex<T>, reference: Complex<T>) {
    let (a, b) = spectra_of_pair(*z, *z, T::round_from(0.5));
    *z = product(a, b, reference);
}

/// A column and the one that it mirrors onto: row `r` meets row `rows - r`.
#[inline(always)]
fn multiply_mirrored<T: Real>(
    column: &mut [Complex<T>],
    mirrored: &mut [Complex<T>],
    reference: (&[Complex<T>], &[Complex<T>]),
) {
    let (Some((k, column)), Some((m, mirrored))) = (column.split_first_mut(), mirrored.split_first_mut()) else {
        return;
    };
    multiply_two(k, m, (reference.0[0], reference.1[0]));
    let references = reference.0[1..].iter().zip(reference.1[1..].iter().rev());
    for ((k, m), (gk, gm)) in column.iter_mut().zip(mirrored.iter_mut().rev()).zip(references) {
        multiply_two(k, m, (*gk, *gm));
    }
}

/// A column that mirrors onto itself.
#[inline(always)]
fn multiply_own_mirror<T: Real>(column: &mut [Complex<T>], reference: &[Complex<T>]) {
    let rows = column.len();
    multiply_one(&mut column[0], reference[0]);
    let (upper, lower) = column.split_at_mut(rows / 2 + 1);
    for r in 1..rows.div_ceil(2) {
        let mirrored = rows - r;
        multiply_two(&mut upper[r], &mut lower[mirrored - rows / 2 - 1], (reference[r], reference[mirrored]));
    }
    if rows.is_multiple_of(2) {
        multiply_one(&mut upper[rows / 2], reference[rows / 2]);
    }
}

/// Multiplies stored spectra (`[row, col]`) by the conjugate reference (transposed) into a packed pair (transposed).
///
/// # Panics
/// When a slice does not have the shape's length.
pub fn multiply_stored<T: Real>(
    a: &[Complex<T>],
    b: Option<&[Complex<T>]>,
    reference_conj: &[Complex<T>],
    shape: ScanShape,
    packed: &mut [Complex<T>],
) {
    const BLOCK: usize = 16;
    let (rows, cols) = (shape.rows, shape.cols);
    assert!(packed.len() == shape.len() && a.len() == shape.len(), "spectrum of a wrong size");
    for r0 in (0..rows).step_by(BLOCK) {
        for c0 in (0..cols).step_by(BLOCK) {
            for c in c0..(c0 + BLOCK).min(cols) {
                for r in r0..(r0 + BLOCK).min(rows) {
                    let fb = b.map_or_else(Complex::default, |b| b[r * cols + c]);
                    packed[c * rows + r] = product(a[r * cols + c], fb, reference_conj[c * rows + r]);
                }
            }
        }
    }
    packed[0] = Complex::default();
}

/// What turns a zero-mean correlation into the documented one, for one detector pixel.
///
/// With `c0 = IFFT(F G*)` over all frequencies but zero, the full correlation is `c0 + Σg ΣI / N`, and the documented
/// number is `C = (c0 + Σg ΣI / N)² / (Σg² ΣI²)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// `1 / N`: the inverse transform's factor.
    pub scale: f64,
    /// `Σg ΣI / N`.
    pub pedestal: f64,
    /// `Σg² ΣI²`, or 1 where that is below 1e-9.
    pub denominator: f64,
    /// `sqrt(Σ(g - ḡ)² Σ(I - Ī)²)`: what the zero-mean correlation is divided by, or 0 for a constant image.
    pub zero_mean: f64,
}

impl Normalisation {
    /// From the sums of the reference and of the image, over `n` scan positions.
    pub fn new(reference: super::convert::PixelSums, image: super::convert::PixelSums, n: usize) -> Self {
        let n = n as f64;
        let denominator = reference.sum_sq * image.sum_sq;
        let variance = |s: super::convert::PixelSums| (s.sum_sq - s.sum * s.sum / n).max(0.0);
        Self {
            scale: 1.0 / n,
            pedestal: reference.sum * image.sum / n,
            denominator: if denominator < 1e-9 { 1.0 } else { denominator },
            zero_mean: (variance(reference) * variance(image)).sqrt(),
        }
    }

    /// The documented correlation for one value of the inverse transform.
    #[inline]
    pub fn documented<T: Real>(&self, value: T) -> f64 {
        let c = value.widen() * self.scale + self.pedestal;
        c * c / self.denominator
    }

    /// The zero-mean normalised correlation (−1…1) for one value of the inverse transform; 0 for a constant image.
    pub fn zncc<T: Real>(&self, value: T) -> f64 {
        if self.zero_mean > 0.0 { value.widen() * self.scale / self.zero_mean } else { 0.0 }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the promise is equality to the last bit")]
mod tests {
    use super::*;
    use crate::kernel::convert::{offset, pack_pair, pixel_sums};
    use crate::kernel::fft2::Fft2;
    use proptest::prelude::*;

    fn images(shape: ScanShape, seed: u32) -> [Vec<u16>; 3] {
        let mut state = u64::from(seed) + 1;
        std::array::from_fn(|_| {
            (0..shape.len())
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as u16 % 300
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn both_ways_give_the_naive_correlation_and_equal_bits(rows in 1usize..12, cols in 1usize..12, seed in any::<u32>()) {
            let shape = ScanShape::new(rows, cols);
            let n = shape.len();
            let [a, b, g] = images(shape, seed);
            let fft = Fft2::<f64>::new(shape);
            let mut scratch = vec![Complex::default(); fft.scratch_len()];
            let (sa, sb, sg) = (pixel_sums(&a), pixel_sums(&b), pixel_sums(&g));
            let (mut image, mut reference, mut packed) =
                (vec![Complex::default(); n], vec![Complex::default(); n], vec![Complex::default(); n]);
            pack_pair((&g, 0.0), None, &mut image);
            fft.forward(&mut image, &mut reference, &mut scratch);
            for z in &mut reference {
                *z = z.conj();
            }
            pack_pair((&a, offset(sa, n)), Some((&b, offset(sb, n))), &mut image);
            fft.forward(&mut image, &mut packed, &mut scratch);

            let (mut fa, mut fb, mut again) =
                (vec![Complex::default(); n], vec![Complex::default(); n], vec![Complex::default(); n]);
            unpack(&packed, shape, (sa.sum, sb.sum), &mut fa, Some(&mut fb));
            prop_assert_eq!(fa[0].re, sa.sum);
            multiply_stored(&fa, Some(&fb), &reference, shape, &mut again);
            multiply_packed(&mut packed, &reference, shape);
            prop_assert_eq!(&packed, &again);

            fft.inverse(&mut packed, &mut image, &mut scratch);
            for (pixel, sums, part) in [(&a, sa, 0), (&b, sb, 1)] {
                let norm = Normalisation::new(sg, sums, n);
                for dr in 0..rows {
                    for dc in 0..cols {
                        let c: f64 = (0..n)
                            .map(|i| {
                                let (r, c) = (i / cols, i % cols);
                                f64::from(pixel[(r + dr) % rows * cols + (c + dc) % cols]) * f64::from(g[i])
                            })
                            .sum();
                        let z = image[dr * cols + dc];
                        let got = norm.documented(if part == 0 { z.re } else { z.im });
                        let expected = c * c / norm.denominator;
                        prop_assert!((got - expected).abs() <= 1e-12 * (1.0 + expected), "{} {}", got, expected);
                    }
                }
            }
        }
    }
}
