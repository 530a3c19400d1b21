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
use rayon::prelude::*;

use crate::axes::{Image, ScanShape};
use crate::kernel::fft2::Fft2;
use crate::kernel::forward::fast_len;
use crate::kernel::wiener::{Rings, Wiener};
use crate::memory::Numbers;

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
        let radius = (q[0] * q[0] + q[1] * q[1]).sqrt();
        if radius >= self.limit { 0.0 } else { self.overlap(radius) * (self.chi)(q).0.sin() }
    }

    /// `2 [A⋆A]` at a distance from zero in cycles per scan pixel.
    fn overlap(&self, radius: f64) -> f64 {
        let x = (radius / self.limit).min(1.0);
        2.0 * std::f64::consts::FRAC_2_PI * (x.acos() - x * (1.0 - x * x).sqrt())
    }

    /// A place of a transposed spectrum as `[row, col]` in cycles per scan pixel.
    fn frequency(&self, grid: ScanShape, row: usize, col: usize) -> [f64; 2] {
        let signed = |i: usize, n: usize| {
            let i = if 2 * i < n { i as f64 } else { i as f64 - n as f64 };
            i * self.factor as f64 / n as f64
        };
        [signed(row, grid.rows), signed(col, grid.cols)]
    }

    /// The spectrum of two padded images, each relative to its mean, as real and imaginary part; transposed: `[col, row]`.
    /// `work` is overwritten.
    fn spectrum(&self, pair: [&Image; 2], fft: &Fft2<f32>, work: &mut [Complex<f32>]) -> Numbers<Complex<f32>> {
        let fade = self.fade();
        let ramp = |i: usize, n: usize| {
            let from_edge = (i as f64 + 0.5).min(n as f64 - 0.5 - i as f64);
            (from_edge / fade.max(0.5)).min(1.0)
        };
        let rise = |part: f64| (part * std::f64::consts::FRAC_PI_2).sin().powi(2);
        let (rows, cols) = pair[0].dim();
        let [row_rise, col_rise] = [rows, cols].map(|n| (0..n).map(|i| rise(ramp(i, n))).collect::<Vec<f64>>());
        let [a, b] = pair.map(|image| {
            let mean = image.sum() / image.len().max(1) as f64;
            (image, mean, if mean == 0.0 { 0.0 } else { 1.0 / mean })
        });
        let grid = fft.shape();
        work.par_chunks_mut(grid.cols).enumerate().for_each(|(r, out)| {
            out.fill(Complex::default());
            if r < rows {
                let value = |(image, mean, scale): (&Image, f64, f64), c: usize| {
                    ((image[[r, c]] - mean) * scale * row_rise[r] * col_rise[c]) as f32
                };
                out[..cols].iter_mut().enumerate().for_each(|(c, z)| *z = Complex::new(value(a, c), value(b, c)));
            }
        });
        let mut spectrum = Numbers::zeroed(grid.len());
        fft.forward_wide(work, &mut spectrum);
        spectrum
    }

    /// The [image](Self::phase_flipped) with its signs put right and the [phase](Self::wiener) from two half-sets, which
    /// share two of three transforms. All threads of the pool work on each.
    ///
    /// # Panics
    /// When the images have different shapes.
    pub fn images(&self, image: &Image, halves: [&Image; 2]) -> [Image; 2] {
        assert!(halves.iter().all(|half| half.dim() == image.dim()), "images of different shapes");
        let grid = self.grid(image);
        let fft = Fft2::new(grid);
        let mut work = Numbers::<Complex<f32>>::zeroed(grid.len());
        let [whole, packed] = [[image, image], halves].map(|pair| self.spectrum(pair, &fft, &mut work));
        let wiener = self.measure(&packed, grid);
        work.par_chunks_mut(grid.rows).enumerate().for_each(|(col, out)| {
            let mirror = (grid.cols - col) % grid.cols * grid.rows;
            for (row, z) in out.iter_mut().enumerate() {
                let (at, mirrored) = (col * grid.rows + row, mirror + (grid.rows - row) % grid.rows);
                let q = self.frequency(grid, row, col);
                let radius = (q[0] * q[0] + q[1] * q[1]).sqrt();
                *z = Complex::default();
                if at == 0 || radius > self.limit {
                    continue;
                }
                let (even, odd) = (self.chi)(q);
                let turn = if odd == 0.0 { Complex::new(1.0, 0.0) } else { Complex::cis(-odd) };
                let sin = even.sin();
                // Both parts of `whole` are the image.
                let [flipped, _] = split(whole[at], whole[mirrored]);
                let flipped = flipped * turn * if sin >= 0.0 { 1.0 } else { -1.0 };
                let [a, b] = split(packed[at], packed[mirrored]);
                let transfer = self.overlap(radius) * sin;
                let gain = transfer / (2.0 * transfer * transfer + wiener.damping(radius));
                let phase = if transfer == 0.0 { Complex::default() } else { (a + b) * turn * gain };
                // Two real images in one complex one.
                *z = Complex::new((flipped.re - phase.im) as f32, (flipped.im + phase.re) as f32);
            }
        });
        drop(whole);
        let mut made = packed;
        fft.inverse_wide(&mut work, &mut made);
        let scale = 1.0 / grid.len() as f64;
        let part = |of: fn(&Complex<f32>) -> f32| {
            Image::from_shape_fn(image.dim(), |(r, c)| f64::from(of(&made[r * grid.cols + c])) * scale)
        };
        let (flipped, phase) = rayon::join(|| part(|z| z.re), || part(|z| z.im));
        [flipped, phase]
    }

    /// The image with its signs put right, relative to the image's mean, which becomes 0.
    pub fn phase_flipped(&self, image: &Image) -> Image {
        let [flipped, _] = self.images(image, [image, image]);
        flipped
    }

    /// The phase in radians from the images of two half-sets of detector pixels.
    ///
    /// # Panics
    /// When the images have different shapes.
    pub fn wiener(&self, halves: [&Image; 2]) -> Image {
        let [_, phase] = self.images(halves[0], halves);
        phase
    }

    /// How much of each ring is signal, from the packed spectra of two half-sets. Half of the frequencies say it all.
    fn measure(&self, packed: &[Complex<f32>], grid: ScanShape) -> Wiener {
        /// Columns whose sums are added up together, so that the result does not depend on the number of threads.
        const STRIP: usize = 64;
        let rings = || Rings::new(self.factor as f64 / grid.rows.min(grid.cols) as f64, self.limit);
        let columns = grid.cols / 2 + 1;
        let strip = |first: usize| {
            let mut rings = rings();
            for col in first..(first + STRIP).min(columns) {
                let mirror = (grid.cols - col) % grid.cols * grid.rows;
                for row in 0..grid.rows {
                    let q = self.frequency(grid, row, col);
                    let transfer = self.transfer(q);
                    if transfer != 0.0 {
                        let (at, mirrored) = (col * grid.rows + row, mirror + (grid.rows - row) % grid.rows);
                        let n = split(packed[at], packed[mirrored]).map(|z| z * transfer);
                        rings.add((q[0] * q[0] + q[1] * q[1]).sqrt(), n, [transfer * transfer; 2]);
                    }
                }
            }
            rings
        };
        let firsts: Vec<usize> = (0..columns).step_by(STRIP).collect();
        let mut all = rings();
        firsts.into_par_iter().map(strip).collect::<Vec<_>>().iter().for_each(|rings| all.absorb(rings));
        all.finish(2.0)
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

/// The spectra of the two images of a packed pair, from the numbers at `q` and at `-q`.
fn split(z: Complex<f32>, mirrored: Complex<f32>) -> [Complex<f64>; 2] {
    let wide = |z: Complex<f32>| Complex::new(f64::from(z.re), f64::from(z.im));
    let (z, m) = (wide(z), wide(mirrored).conj());
    let (sum, difference) = ((z + m) * 0.5, (z - m) * 0.5);
    [sum, Complex::new(difference.im, -difference.re)]
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

    /// A periodic image without its mean, over that mean, times a filter.
    fn filtered(optics: &Optics<'_>, image: &Image, filter: impl Fn([f64; 2]) -> f64) -> Image {
        let grid = ScanShape::new(N, N);
        let fft = Fft2::<f32>::new(grid);
        let mut work = vec![Complex::default(); grid.len()];
        let mut spectrum = optics.spectrum([image, image], &fft, &mut work);
        for (index, z) in spectrum.iter_mut().enumerate().skip(1) {
            *z *= filter(optics.frequency(grid, index % N, index / N)) as f32;
        }
        fft.inverse_wide(&mut spectrum, &mut work);
        Image::from_shape_fn((N, N), |(r, c)| f64::from(work[r * N + c].re) / (N * N) as f64)
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
        let blob = |q: [f64; 2]| (-4.0 * (q[0] * q[0] + q[1] * q[1])).exp();
        let white = Image::from_shape_fn((N, N), |_| 1.0 + 0.1 * rng.random_range(-1.0..1.0));
        let phase = filtered(&optics, &white, blob);
        let image = filtered(&optics, &(&phase + 1.0), |q| optics.transfer(q)) + 1.0;
        let mut noisy = || image.mapv(|v| v + rng.random_range(-1.0..1.0) * 0.03);
        let (a, b) = (noisy(), noisy());
        let (filtered, blunt) = (optics.wiener([&a, &b]), optics.phase_flipped(&((&a + &b) / 2.0)));
        let (fine, coarse) = (correlation(&filtered, &phase), correlation(&blunt, &phase));
        assert!(fine > coarse + 0.05, "{fine} {coarse}");
    }
}
