//! What the refinement works on: spectra of the mean-normalised images at the strongest frequencies, gathered once.

use num_complex::Complex;
use rayon::prelude::*;

use crate::axes::ScanShape;
use crate::error::Result;
use crate::kernel::convert::pixel_sums;
use crate::kernel::fft2::Fft2;
use crate::memory::Charge;
use crate::pipeline::AlignedBytes;
use crate::steps::context::RunContext;
use crate::steps::engine::Engine;
use crate::steps::parametric::from_center;
use crate::steps::stack::Stack;
use crate::steps::step1_detect::BrightDisk;
use crate::steps::tile::Pair;
use crate::with_sample_type;

/// Scan pixels over which images are blended to their mean at the scan's edges.
const EDGE: f64 = 8.0;
/// Numbers kept at most, and frequencies at least and at most: what is kept must not depend on the memory budget.
const MOST_NUMBERS: usize = 1 << 21;
const FREQUENCIES: std::ops::RangeInclusive<usize> = 100..=2000;
/// Detector pixels that say which frequencies are strong.
const PROBED: usize = 96;
/// … and so many of them are held at once.
const PROBED_AT_ONCE: usize = 16;
/// An image whose power is this many times the median is not one of the object.
const OUTLIER_POWER: f64 = 4.0;

/// Spectra of detector pixels' images, each divided by its mean, at chosen frequencies.
#[derive(Debug)]
pub(super) struct Spectra {
    /// Crop index of each detector pixel.
    pub(super) pixels: Vec<usize>,
    /// Each from the disk's centre, `[row, col]`.
    pub(super) places: Vec<[f64; 2]>,
    /// `[row, col]` in cycles per scan pixel, one of each pair `q`, `-q`.
    pub(super) frequencies: Vec<[f64; 2]>,
    /// `[pixel, frequency]`.
    numbers: Vec<Complex<f32>>,
    /// Mean over the pixels of the squared modulus, at each frequency.
    pub(super) power: Vec<f64>,
    /// Images left out: no counts, or a power that the object cannot have.
    pub(super) left_out: usize,
    _charge: Charge,
}

impl Spectra {
    /// Gathers the spectra of `used` (crop indices in order) at the strongest of the frequencies `all`.
    ///
    /// # Errors
    /// [`Memory`](crate::error::ErrorKind::Memory), [`Interrupted`](crate::error::ErrorKind::Interrupted).
    pub(super) fn gather(
        ctx: &RunContext<'_>,
        disk: &BrightDisk,
        stack: &Stack,
        used: &[usize],
        all: &[Bin],
    ) -> Result<Self> {
        let reader = Reader { ctx, stack, fft: Fft2::new(ctx.scan), window: edge_window(ctx.scan) };
        let cols = disk.crop.shape().cols;
        let few: Vec<usize> = used.iter().copied().step_by(used.len().div_ceil(PROBED).max(1)).collect();
        let mut totals = vec![0.0; all.len()];
        // A few at a time: all frequencies of all of them would take more memory than everything that is kept.
        for group in few.chunks(PROBED_AT_ONCE) {
            let probed = reader.read(group, cols, all)?;
            for row in probed.numbers.chunks_exact(all.len().max(1)) {
                totals.iter_mut().zip(row).for_each(|(sum, z)| *sum += power_of(*z));
            }
        }
        let mut order: Vec<(f64, usize)> = totals.into_iter().zip(0..).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        order.truncate((MOST_NUMBERS / used.len().max(1)).clamp(*FREQUENCIES.start(), *FREQUENCIES.end()));
        let chosen: Vec<Bin> = order.iter().map(|&(_, i)| all[i]).collect();
        let Rows { mut numbers, charge } = reader.read(used, cols, &chosen)?;

        let len = chosen.len().max(1);
        let powers: Vec<f64> = numbers.chunks_exact(len).map(|row| row.iter().copied().map(power_of).sum()).collect();
        let mut sorted: Vec<f64> = powers.iter().copied().filter(|p| *p > 0.0).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let limit = OUTLIER_POWER * sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let good: Vec<usize> = (0..used.len()).filter(|&i| powers[i] > 0.0 && powers[i] <= limit).collect();
        let mut power = vec![0.0; chosen.len()];
        for (place, &i) in good.iter().enumerate() {
            numbers.copy_within(i * len..(i + 1) * len, place * len);
            power.iter_mut().zip(&numbers[place * len..]).for_each(|(sum, z)| *sum += power_of(*z));
        }
        numbers.truncate(good.len() * len);
        for p in &mut power {
            *p /= good.len().max(1) as f64;
        }
        let pixels: Vec<usize> = good.iter().map(|&i| used[i]).collect();
        Ok(Self {
            places: pixels.iter().map(|p| from_center(disk, p / cols, p % cols)).collect(),
            frequencies: chosen.iter().map(|bin| bin.frequency(ctx.scan)).collect(),
            numbers,
            power,
            left_out: used.len() - good.len(),
            pixels,
            _charge: charge,
        })
    }

    /// The spectrum of one pixel, by its place in [`pixels`](Self::pixels).
    pub(super) fn of(&self, index: usize) -> &[Complex<f32>] {
        &self.numbers[index * self.frequencies.len()..(index + 1) * self.frequencies.len()]
    }
}

/// Bytes that the refinement of so many detector pixels takes: their spectra (or, before, the whole ones of a few), and the
/// sums of the reference.
pub(super) fn bytes(pixels: usize, scan: ScanShape) -> u64 {
    let count = (MOST_NUMBERS / pixels.max(1)).clamp(*FREQUENCIES.start(), *FREQUENCIES.end()).min(scan.len() / 2);
    let kept = size_of::<Complex<f32>>() * pixels * count;
    let probed = size_of::<Complex<f32>>() * PROBED_AT_ONCE * scan.len() / 2;
    // For each frequency in use, folded ones too: 32 bytes in each piece, and what is known of it.
    let sums = 2 * count * (32 * pixels.div_ceil(64) + 400);
    (kept + sums).max(probed) as u64 + 20 * scan.len() as u64
}

/// Place of a frequency and of its mirror in a transposed spectrum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bin {
    at: usize,
    mirror: usize,
}

impl Bin {
    fn frequency(self, scan: ScanShape) -> [f64; 2] {
        let signed = |i: usize, n: usize| if 2 * i > n { i as f64 - n as f64 } else { i as f64 } / n as f64;
        [signed(self.at % scan.rows, scan.rows), signed(self.at / scan.rows, scan.cols)]
    }
}

/// The frequencies of a scan that `wanted` accepts.
pub(super) fn wanted_bins(scan: ScanShape, wanted: impl Fn([f64; 2]) -> bool) -> Vec<Bin> {
    half_plane(scan).into_iter().filter(|bin| wanted(bin.frequency(scan))).collect()
}

/// One of each pair of mirrored frequencies; neither zero nor the Nyquist frequency, whose sign is ambiguous.
fn half_plane(scan: ScanShape) -> Vec<Bin> {
    let (rows, cols) = (scan.rows, scan.cols);
    let places = (0..cols.div_ceil(2)).flat_map(|c| (0..rows).map(move |r| (r, c)));
    let half = places.filter(|&(r, c)| 2 * r != rows && (c > 0 || (r > 0 && 2 * r < rows)));
    half.map(|(r, c)| Bin { at: c * rows + r, mirror: (cols - c) % cols * rows + (rows - r) % rows }).collect()
}

/// `sin²` towards the scan's edges, so that the wrap-around correlates with nothing.
fn edge_window(scan: ScanShape) -> Vec<f32> {
    let axis = |n: usize| -> Vec<f64> {
        let reach = EDGE.min(n as f64 / 4.0).max(0.5);
        let ramp = |i: usize| ((i as f64 + 0.5).min(n as f64 - 0.5 - i as f64) / reach).clamp(0.0, 1.0);
        (0..n).map(|i| (ramp(i) * std::f64::consts::FRAC_PI_2).sin().powi(2)).collect()
    };
    let (rows, cols) = (axis(scan.rows), axis(scan.cols));
    rows.iter().flat_map(|r| cols.iter().map(move |c| (r * c) as f32)).collect()
}

/// Spectra of some images, `[image, frequency]`.
struct Rows {
    numbers: Vec<Complex<f32>>,
    charge: Charge,
}

fn power_of(z: Complex<f32>) -> f64 {
    f64::from(z.norm_sqr())
}

/// Reads images from the stack and transforms them, two at a time.
struct Reader<'a> {
    ctx: &'a RunContext<'a>,
    stack: &'a Stack,
    fft: Fft2<f32>,
    window: Vec<f32>,
}

impl Reader<'_> {
    /// The spectra of `pixels` at `bins`, each divided by the image's mean; all zero where that is not above zero.
    fn read(&self, pixels: &[usize], cols: usize, bins: &[Bin]) -> Result<Rows> {
        let bytes = size_of::<Complex<f32>>() * pixels.len() * bins.len();
        let charge = self.ctx.budget.charge(bytes as u64, "spectra of the refinement")?;
        let mut numbers = vec![Complex::default(); pixels.len() * bins.len()];
        let pairs = pair_up(pixels, cols);
        let piece = pairs.len().div_ceil(4 * self.ctx.workers.count()).max(1);
        let mut jobs = Vec::new();
        let mut rest = numbers.as_mut_slice();
        for pairs in pairs.chunks(piece) {
            let images: usize = pairs.iter().map(|pair| 1 + usize::from(pair.both)).sum();
            let (mine, others) = rest.split_at_mut(images * bins.len());
            jobs.push((pairs, mine));
            rest = others;
        }
        self.ctx
            .workers
            .install(|| jobs.into_par_iter().try_for_each(|(pairs, mine)| self.read_piece(pairs, bins, mine)))?;
        Ok(Rows { numbers, charge })
    }

    fn read_piece(&self, pairs: &[Pair], bins: &[Bin], out: &mut [Complex<f32>]) -> Result<()> {
        let bytes = self.stack.dtype().size();
        let mut engine = Engine::new(&self.fft, bytes, self.ctx.budget)?;
        let mut samples = AlignedBytes::zeroed(self.ctx.scan.len() * bytes);
        let mut rows = out.chunks_exact_mut(bins.len().max(1));
        for pair in pairs {
            self.ctx.cancel.check()?;
            let spectrum = engine.load_windowed(self.stack, *pair, &self.window)?;
            // Two real images travel as one complex one; their spectra are its even and odd parts.
            let mut fill = |pixel: usize, part: &dyn Fn(Complex<f32>, Complex<f32>) -> Complex<f32>| -> Result<()> {
                let scale = self.over_mean(pixel, &mut samples)?;
                for (z, bin) in rows.next().into_iter().flatten().zip(bins) {
                    *z = part(spectrum[bin.at], spectrum[bin.mirror].conj()) * scale;
                }
                Ok(())
            };
            fill(pair.pixel, &|z, w| (z + w) * 0.5)?;
            if pair.both {
                fill(pair.pixel + 1, &|z, w| Complex::new((z - w).im * 0.5, -(z - w).re * 0.5))?;
            }
            self.ctx.progress.advance((1 + u64::from(pair.both)) * self.ctx.scan.len() as u64);
        }
        Ok(())
    }

    /// One over the mean of an image; 0 when that is not a positive number.
    fn over_mean(&self, pixel: usize, samples: &mut AlignedBytes) -> Result<f32> {
        let sum = with_sample_type!(self.stack.dtype(), S => {
            let samples = samples.cast_mut::<S>();
            self.stack.copy_image(pixel, samples)?;
            pixel_sums(samples).sum
        });
        let mean = sum / self.ctx.scan.len() as f64;
        Ok(if mean > 0.0 && mean.is_finite() { (1.0 / mean) as f32 } else { 0.0 })
    }
}

/// Pairs `(2k, 2k + 1)` of a row where both are wanted: whatever else is, a pixel has the same partner.
fn pair_up(pixels: &[usize], cols: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut i = 0;
    while i < pixels.len() {
        let pixel = pixels[i];
        let both = (pixel % cols).is_multiple_of(2)
            && pixels.get(i + 1) == Some(&(pixel + 1))
            && !(pixel + 1).is_multiple_of(cols);
        pairs.push(Pair { pixel, slot: 0, both });
        i += 1 + usize::from(both);
    }
    pairs
}
