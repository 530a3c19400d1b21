//! Phase contrast out of a tilt-corrected bright-field image.
//!
//! For a weak phase object `exp(iφ)` the sum of all shifted images of a disk of semi-angle `k_max` is, relative to its mean,
//! `1 + CTF φ` with
//!
//! `CTF(q) = 2 [A⋆A](q) sin χ(q)`,  `[A⋆A](q) = 2/π (acos x - x √(1 - x²))`,  `x = |q| / 2 k_max`,
//!
//! so contrast changes its sign wherever `sin χ` does (Yu et al., Nature Methods 2025). Two ways back to the phase:
//!
//! * [`phase_flipped`](Optics::phase_flipped): only the signs are put right, `sgn(sin χ_even) exp(-i χ_odd)`, mean 0; no
//!   frequency is raised;
//! * [`wiener`](Optics::wiener): `CTF / (CTF² + σ²/|φ|²)` with the ratio of noise to phase measured ring by ring from two
//!   half-sets (see [`wiener`](crate::kernel::wiener)); in radians, mean 0.
//!
//! Both are positive where the object advances the phase: atoms are bright, whatever the defocus.

use num_complex::Complex;

use crate::axes::{Image, ScanShape};
use crate::kernel::fft2::Fft2;
use crate::kernel::forward::fast_len;
use crate::kernel::wiener::Rings;

/// Even and odd part of the aberration function at a frequency, in radians.
pub type Aberrations<'a> = &'a (dyn Fn([f64; 2]) -> (f64, f64) + Sync);

/// What the microscope does to an image whose pixels are `1 / factor` of a scan pixel.
#[derive(Clone, Copy)]
pub struct Optics<'a> {
    /// Pixels per scan pixel.
    pub factor: usize,
    /// Twice the aperture, in cycles per scan pixel.
    pub limit: f64,
    /// `χ` at a frequency (`[row, col]`, cycles per scan pixel).
    pub chi: Aberrations<'a>,
    /// Scan pixels of pad, so that what the filter spreads does not come back at the opposite edge. Over half as many the
    /// image fades to its mean at its edges, which would ring otherwise.
    pub pad: f64,
}

impl std::fmt::Debug for Optics<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Optics").field("factor", &self.factor).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Optics<'_> {
    /// The contrast transfer of the phase at a frequency: `2 [A⋆A] sin χ_even`; 0 beyond the limit.
    pub fn transfer(&self, q: [f64; 2]) -> f64 {
        let x = q[0].hypot(q[1]) / self.limit;
        if x >= 1.0 {
            return 0.0;
        }
        let overlap = std::f64::consts::FRAC_2_PI * (x.acos() - x * (1.0 - x * x).sqrt());
        2.0 * overlap * (self.chi)(q).0.sin()
    }

    /// The image with its signs put right, relative to the image's mean, which becomes 0.
    pub fn phase_flipped(&self, image: &Image) -> Image {
        let mut spectrum = Spectrum::of(image, self.grid(image), self.fade());
        spectrum.apply(self.factor, |q| {
            let (even, odd) = (self.chi)(q);
            let sign = if even.sin() >= 0.0 { 1.0 } else { -1.0 };
            if q[0].hypot(q[1]) > self.limit { Complex::default() } else { Complex::cis(-odd) * sign }
        });
        spectrum.image(image.dim())
    }

    /// The phase in radians from the images of two half-sets of detector pixels.
    ///
    /// # Panics
    /// When the images have different shapes.
    pub fn wiener(&self, halves: [&Image; 2]) -> Image {
        assert_eq!(halves[0].dim(), halves[1].dim(), "halves of different shapes");
        let grid = self.grid(halves[0]);
        let [mut sum, other] = halves.map(|half| Spectrum::of(half, grid, self.fade()));
        let width = self.factor as f64 / grid.rows.min(grid.cols) as f64;
        let mut rings = Rings::new(width, self.limit);
        for index in 0..grid.len() {
            let q = sum.frequency(index, self.factor);
            let radius = q[0].hypot(q[1]);
            let transfer = self.transfer(q);
            if transfer != 0.0 {
                let n = [sum.numbers[index], other.numbers[index]].map(|z| wide(z) * transfer);
                rings.add(radius, n, [transfer * transfer; 2]);
            }
        }
        let wiener = rings.finish(2.0);
        sum.numbers.iter_mut().zip(&other.numbers).for_each(|(a, b)| *a += b);
        drop(other);
        sum.apply(self.factor, |q| {
            let (transfer, odd) = (self.transfer(q), (self.chi)(q).1);
            let gain = transfer / (2.0 * transfer * transfer + wiener.damping(q[0].hypot(q[1])));
            if transfer == 0.0 { Complex::default() } else { Complex::cis(-odd) * gain }
        });
        sum.image(halves[0].dim())
    }

    /// Output pixels over which the image fades.
    fn fade(&self) -> f64 {
        0.5 * self.pad * self.factor as f64
    }

    fn grid(&self, image: &Image) -> ScanShape {
        let pad = (self.pad * self.factor as f64).ceil().max(0.0) as usize;
        ScanShape::new(fast_len(image.nrows() + pad), fast_len(image.ncols() + pad))
    }

    /// Bytes that the filters hold at once for an image of this shape, beside the images themselves.
    pub fn bytes(&self, shape: (usize, usize)) -> usize {
        let padded = |n: usize| fast_len(n + (self.pad * self.factor as f64).ceil().max(0.0) as usize);
        3 * padded(shape.0) * padded(shape.1) * size_of::<Complex<f32>>()
    }
}

fn wide(z: Complex<f32>) -> Complex<f64> {
    Complex::new(f64::from(z.re), f64::from(z.im))
}

/// The spectrum of a padded image relative to its mean, transposed: `[col, row]`.
struct Spectrum {
    grid: ScanShape,
    fft: Fft2<f32>,
    numbers: Vec<Complex<f32>>,
}

impl Spectrum {
    fn of(image: &Image, grid: ScanShape, fade: f64) -> Self {
        let ramp = |i: usize, n: usize| {
            let from_edge = (i as f64 + 0.5).min(n as f64 - 0.5 - i as f64);
            (from_edge / fade.max(0.5)).min(1.0)
        };
        let rise = |part: f64| (part * std::f64::consts::FRAC_PI_2).sin().powi(2);
        let (rows, cols) = image.dim();
        let [rows, cols] = [rows, cols].map(|n| (0..n).map(|i| rise(ramp(i, n))).collect::<Vec<f64>>());
        let mean = image.sum() / image.len().max(1) as f64;
        let scale = if mean == 0.0 { 0.0 } else { 1.0 / mean };
        let mut work = vec![Complex::default(); grid.len()];
        for ((r, c), value) in image.indexed_iter() {
            work[r * grid.cols + c].re = ((value - mean) * scale * rows[r] * cols[c]) as f32;
        }
        let fft = Fft2::new(grid);
        let mut numbers = vec![Complex::default(); grid.len()];
        fft.forward(&mut work, &mut numbers, &mut vec![Complex::default(); fft.scratch_len()]);
        Self { grid, fft, numbers }
    }

    /// `[row, col]` in cycles per scan pixel.
    fn frequency(&self, index: usize, factor: usize) -> [f64; 2] {
        let signed = |i: usize, n: usize| {
            let i = if 2 * i < n { i as f64 } else { i as f64 - n as f64 };
            i * factor as f64 / n as f64
        };
        [signed(index % self.grid.rows, self.grid.rows), signed(index / self.grid.rows, self.grid.cols)]
    }

    fn apply(&mut self, factor: usize, filter: impl Fn([f64; 2]) -> Complex<f64>) {
        for index in 0..self.numbers.len() {
            let gain = if index == 0 { Complex::default() } else { filter(self.frequency(index, factor)) };
            let z = wide(self.numbers[index]) * gain;
            self.numbers[index] = Complex::new(z.re as f32, z.im as f32);
        }
    }

    fn image(mut self, shape: (usize, usize)) -> Image {
        let mut work = vec![Complex::default(); self.grid.len()];
        let mut scratch = vec![Complex::default(); self.fft.scratch_len()];
        self.fft.inverse(&mut self.numbers, &mut work, &mut scratch);
        let scale = 1.0 / self.grid.len() as f64;
        Image::from_shape_fn(shape, |(r, c)| f64::from(work[r * self.grid.cols + c].re) * scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use std::f64::consts::TAU;

    const N: usize = 48;
    const FACTOR: usize = 2;

    /// Defocus and astigmatism, no odd part.
    fn chi(q: [f64; 2]) -> (f64, f64) {
        (-9.0 * (q[0] * q[0] + q[1] * q[1]) + 2.0 * q[0] * q[1], 0.0)
    }

    fn optics() -> Optics<'static> {
        Optics { factor: FACTOR, limit: 0.9, chi: &chi, pad: 0.0 }
    }

    /// Periodic waves: the phase, and the image of mean 7 that the transfer makes of it.
    fn phase_and_image(optics: &Optics<'_>) -> (Image, Image) {
        let waves = [(3, 1, 0.3), (-5, 6, 1.0), (10, 2, 0.1), (9, -12, 2.0), (1, 15, 0.7), (4, 4, 1.4)];
        let (mut phase, mut image) = (Image::zeros((N, N)), Image::from_elem((N, N), 7.0));
        for (u, v, turn) in waves {
            let q = [u, v].map(|i| f64::from(i) * FACTOR as f64 / N as f64);
            let wave = Image::from_shape_fn((N, N), |(r, c)| {
                0.05 * (TAU * (f64::from(u) * r as f64 + f64::from(v) * c as f64) / N as f64 + turn).cos()
            });
            image = image + &wave * (7.0 * optics.transfer(q));
            phase += &wave;
        }
        (phase, image)
    }

    fn correlation(a: &Image, b: &Image) -> f64 {
        (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()
    }

    #[test]
    fn without_noise_the_filter_gives_the_phase_in_radians_back() {
        let optics = optics();
        let (phase, image) = phase_and_image(&optics);
        let found = optics.wiener([&image, &image]);
        // The floor of the damping takes a few percent where the transfer is small.
        assert!(correlation(&found, &phase) > 0.9, "{}", correlation(&found, &phase));
        let slope = (&found * &phase).sum() / (&phase * &phase).sum();
        assert!((0.6..1.0).contains(&slope), "{slope}");
        assert!(found.sum().abs() < 1e-3);
    }

    #[test]
    fn flipping_puts_all_signs_right_and_changes_no_amplitude() {
        let optics = optics();
        let (phase, image) = phase_and_image(&optics);
        let found = optics.phase_flipped(&image);
        assert!(correlation(&(&image - 7.0), &phase) < 0.3 && correlation(&found, &phase) > 0.8);
        let power = (&image / 7.0 - 1.0).mapv(|v| v * v).sum();
        assert!(((&found * &found).sum() / power - 1.0).abs() < 1e-4);
    }

    #[test]
    fn noise_is_damped() {
        let optics = optics();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        // Random phases whose power falls off, as of any object.
        let blob = |q: [f64; 2]| Complex::from((-4.0 * (q[0] * q[0] + q[1] * q[1])).exp());
        let white = Image::from_shape_fn((N, N), |_| 1.0 + 0.1 * rng.random_range(-1.0..1.0));
        let mut object = Spectrum::of(&white, optics.grid(&white), 0.0);
        object.apply(FACTOR, blob);
        let phase = object.image((N, N));
        let mut seen = Spectrum::of(&(&phase + 1.0), optics.grid(&white), 0.0);
        seen.apply(FACTOR, |q| Complex::from(optics.transfer(q)));
        let image = seen.image((N, N)) + 1.0;
        let mut noisy = || image.mapv(|v| v + rng.random_range(-1.0..1.0) * 0.03);
        let (a, b) = (noisy(), noisy());
        let (filtered, blunt) = (optics.wiener([&a, &b]), optics.phase_flipped(&((&a + &b) / 2.0)));
        let (fine, coarse) = (correlation(&filtered, &phase), correlation(&blunt, &phase));
        assert!(fine > coarse + 0.05, "{fine} {coarse}");
    }
}
