//! What the fit works on: spectra of the disk's images at chosen frequencies.

use std::collections::BTreeMap;

use num_complex::Complex;
use rayon::prelude::*;

use crate::axes::DetShape;
use crate::error::Result;
use crate::kernel::crosspower::{Half, HalfSets, Run};
use crate::kernel::fft2::Fft2;
use crate::steps::context::RunContext;
use crate::steps::engine::Engine;
use crate::steps::parametric::{from_center, spectra_for};
use crate::steps::stack::Stack;
use crate::steps::step1_detect::BrightDisk;
use crate::steps::tile::Pair;

/// Scan pixels over which images are blended to their mean at the scan's edges.
const EDGE: f64 = 8.0;
/// Images whose whole spectra are held at once.
pub(super) const PROBED_AT_ONCE: usize = 16;

/// Spectra of the disk's images at the strongest frequencies.
pub(super) struct Samples {
    /// Crop index of each pixel.
    pixels: Vec<usize>,
    frequencies: Vec<[f64; 2]>,
    /// `[pixel, frequency]`, strongest frequency first.
    spectra: Vec<Complex<f32>>,
}

impl Samples {
    pub(super) fn gather(
        ctx: &RunContext<'_>,
        stack: &Stack,
        disk: &BrightDisk,
        pixels: &[usize],
        band: Band,
    ) -> Result<Self> {
        let window = edge_window(ctx);
        let fft = Fft2::<f32>::new(ctx.scan);
        let crop = disk.crop.shape();
        let few: Vec<_> = pixels.iter().copied().step_by(pixels.len().div_ceil(96)).collect();
        let all = half_plane(ctx);
        let mut totals = vec![0.0; all.len()];
        // A few at a time: the whole spectra of all of them would take more memory than everything that is kept.
        for group in few.chunks(PROBED_AT_ONCE) {
            let _charge =
                ctx.budget.charge((group.len() * all.len() * size_of::<f64>()) as u64, "strong frequencies")?;
            let power = each_spectrum(ctx, stack, &fft, &window, (crop, group), |spectrum, mirrored| {
                all.iter().map(|&(i, m)| f64::from(spectrum(i, m, mirrored).norm_sqr())).collect::<Vec<_>>()
            })?;
            for power in power {
                totals.iter_mut().zip(power).for_each(|(sum, p)| *sum += p);
            }
        }
        let rings: Vec<usize> = all.iter().map(|&(i, _)| ring(ctx, i)).collect();
        let totals = steadied(&totals, &rings, few.len());
        let mut order: Vec<usize> =
            (0..all.len()).filter(|&i| !band.unfold(frequency(ctx, all[i].0)).is_empty()).collect();
        order.sort_by(|a, b| totals[*b].total_cmp(&totals[*a]).then(a.cmp(b)));
        let bytes = 3 * size_of::<Complex<f32>>() as u64 * pixels.len() as u64;
        let count = spectra_for(pixels.len()).min(order.len());
        order.truncate(count);
        let _charge = ctx.budget.charge(bytes * count as u64, "spectra of the fit")?;
        let chosen: Vec<_> = order.iter().map(|&i| all[i]).collect();
        let rows = each_spectrum(ctx, stack, &fft, &window, (crop, pixels), |spectrum, mirrored| {
            chosen.iter().map(|&(i, m)| spectrum(i, m, mirrored)).collect::<Vec<_>>()
        })?;
        let frequencies = chosen.iter().map(|&(i, _)| frequency(ctx, i)).collect();
        Ok(Self { pixels: pixels.to_vec(), frequencies, spectra: rows.concat() })
    }

    /// The two colours of bins of `bin` × `bin` detector pixels, at the `most` strongest spectra that have a frequency
    /// in `band`.
    pub(super) fn half_sets(&self, disk: &BrightDisk, bin: usize, most: usize, band: Band) -> HalfSets {
        let cols = disk.crop.shape().cols;
        let all = (0..self.frequencies.len()).map(|i| (i, band.unfold(self.frequencies[i])));
        let chosen: Vec<_> = all.filter(|(_, unfolded)| !unfolded.is_empty()).take(most).collect();
        // Bins in order of row and column; only whole ones.
        let mut bins: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (place, pixel) in self.pixels.iter().enumerate() {
            bins.entry((pixel / cols / bin, pixel % cols / bin)).or_default().push(place);
        }
        bins.retain(|_, members| members.len() == bin * bin);
        let halves = [0, 1].map(|colour| {
            let members: Vec<_> = bins.iter().filter(|((r, c), _)| (r + c) % 2 == colour).collect();
            let mut runs: Vec<Run> = Vec::new();
            let mut last = None;
            for (place, ((row, col), _)) in members.iter().enumerate() {
                if last == Some((*row, col.wrapping_sub(2)))
                    && let Some(run) = runs.last_mut()
                {
                    run.len += 1;
                } else {
                    let middle = (bin - 1) as f64 / 2.0;
                    let [r, c] = from_center(disk, row * bin, col * bin);
                    runs.push(Run { row: r + middle, col: c + middle, len: 1, start: place });
                }
                last = Some((*row, *col));
            }
            let mut spectra = Vec::with_capacity(chosen.len() * members.len());
            for (frequency, _) in &chosen {
                for (_, places) in &members {
                    let all = places.iter().map(|&p| self.spectra[p * self.frequencies.len() + frequency]);
                    spectra.push(all.sum());
                }
            }
            Half::new(runs, members.len(), &spectra)
        });
        let unfolded = chosen.iter().enumerate().flat_map(|(i, (_, q))| q.iter().map(move |q| (*q, i)));
        let (frequencies, spectrum_of) = unfolded.unzip();
        HalfSets::new(frequencies, spectrum_of, 2.0 * bin as f64, halves)
    }
}

/// Which frequencies are used, in cycles per scan pixel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    /// The highest one.
    pub(super) limit: f64,
    /// Whether those beyond the scan's Nyquist frequency are used, up to twice that on each axis.
    pub(super) folded: bool,
}

impl Band {
    /// The frequencies of the band that the scan folds onto `q`.
    fn unfold(self, q: [f64; 2]) -> Vec<[f64; 2]> {
        let periods: &[f64] = if self.folded { &[-1.0, 0.0, 1.0] } else { &[0.0] };
        let all = periods.iter().flat_map(|r| periods.iter().map(move |c| [q[0] + r, q[1] + c]));
        all.filter(|q| q[0].abs() <= 1.0 && q[1].abs() <= 1.0 && q[0].hypot(q[1]) <= self.limit).collect()
    }
}

/// `sin²` towards the scan's edges, so that the wrap-around correlates with nothing.
fn edge_window(ctx: &RunContext<'_>) -> Vec<f32> {
    let axis = |n: usize| -> Vec<f64> {
        let reach = EDGE.min(n as f64 / 4.0).max(0.5);
        let ramp = |i: usize| ((i as f64 + 0.5).min(n as f64 - 0.5 - i as f64) / reach).clamp(0.0, 1.0);
        (0..n).map(|i| (ramp(i) * std::f64::consts::FRAC_PI_2).sin().powi(2)).collect()
    };
    let (rows, cols) = (axis(ctx.scan.rows), axis(ctx.scan.cols));
    rows.iter().flat_map(|r| cols.iter().map(move |c| (r * c) as f32)).collect()
}

/// Indices into the transposed spectrum of one of each pair of mirrored frequencies, with the mirrored one's; neither
/// zero nor the Nyquist frequency, whose sign is ambiguous.
fn half_plane(ctx: &RunContext<'_>) -> Vec<(usize, usize)> {
    let (rows, cols) = (ctx.scan.rows, ctx.scan.cols);
    let mut all = Vec::new();
    for c in 0..cols.div_ceil(2) {
        for r in 0..rows {
            let nyquist = (rows.is_multiple_of(2) && r == rows / 2) || (c == 0 && r > rows / 2);
            if !(nyquist || (c == 0 && r == 0)) {
                all.push((c * rows + r, (cols - c) % cols * rows + (rows - r) % rows));
            }
        }
    }
    all
}

/// Frequency `[row, col]` in cycles per scan pixel of a place in the transposed spectrum.
fn frequency(ctx: &RunContext<'_>, index: usize) -> [f64; 2] {
    let signed = |i: usize, n: usize| if i > n / 2 { i as f64 - n as f64 } else { i as f64 } / n as f64;
    [signed(index % ctx.scan.rows, ctx.scan.rows), signed(index / ctx.scan.rows, ctx.scan.cols)]
}

/// Number of the ring of frequencies that a place in the transposed spectrum belongs to.
fn ring(ctx: &RunContext<'_>, index: usize) -> usize {
    let [row, col] = frequency(ctx, index);
    (row.hypot(col) * ctx.scan.rows.min(ctx.scan.cols) as f64).round() as usize
}

/// Powers without what a few images leave to chance: each is drawn towards the mean of its ring, the more the less the
/// powers of the ring differ beyond the scatter of a sum over `images` spectra of noise (shrinkage, James and Stein 1961).
/// With counts to spare nothing changes; with few, the strongest frequencies would be those that noise made strong.
fn steadied(powers: &[f64], rings: &[usize], images: usize) -> Vec<f64> {
    let count = rings.iter().max().map_or(0, |most| most + 1);
    let (mut number, mut sum, mut squares) = (vec![0.0; count], vec![0.0; count], vec![0.0; count]);
    for (&power, &ring) in powers.iter().zip(rings) {
        number[ring] += 1.0;
        sum[ring] += power;
        squares[ring] += power * power;
    }
    let steady = |(&power, &ring): (&f64, &usize)| {
        let mean = sum[ring] / number[ring];
        let variance = squares[ring] / number[ring] - mean * mean;
        let chance = mean * mean / images.max(1) as f64;
        let own = if variance > chance { 1.0 - chance / variance } else { 0.0 };
        mean + own * (power - mean)
    };
    powers.iter().zip(rings).map(steady).collect()
}

/// Reads one number out of a packed spectrum: place, mirrored place, and whether of the second image of the pair.
type Pick<'p> = &'p dyn Fn(usize, usize, bool) -> Complex<f32>;

/// Transforms the images of `pixels` and lets `take` pick from each; results are in the order of the pixels.
fn each_spectrum<R: Send>(
    ctx: &RunContext<'_>,
    stack: &Stack,
    fft: &Fft2<f32>,
    window: &[f32],
    (crop, pixels): (DetShape, &[usize]),
    take: impl Fn(Pick<'_>, bool) -> R + Sync,
) -> Result<Vec<R>> {
    // Neighbours travel together wherever both are wanted.
    let pairs: Vec<(Pair, bool)> = pair_up(pixels, crop.cols);
    let make = || Engine::new(fft, stack.dtype().size(), ctx.budget);
    let piece = pairs.len().div_ceil(4 * ctx.workers.count()).max(1);
    let parts: Vec<Result<Vec<R>>> = ctx.workers.install(|| {
        pairs
            .par_chunks(piece)
            .map(|pairs| {
                let mut engine = make()?;
                let mut out = Vec::with_capacity(2 * pairs.len());
                for (pair, both) in pairs {
                    ctx.cancel.check()?;
                    let spectrum = engine.load_windowed(stack, *pair, window)?;
                    let pick = |i: usize, m: usize, second: bool| {
                        let (z, w) = (spectrum[i], spectrum[m].conj());
                        if second {
                            let d = z - w;
                            Complex::new(d.im * 0.5, -d.re * 0.5)
                        } else {
                            (z + w) * 0.5
                        }
                    };
                    out.push(take(&pick, false));
                    if *both {
                        out.push(take(&pick, true));
                    }
                    ctx.progress.advance((1 + u64::from(*both)) * ctx.scan.len() as u64);
                }
                Ok(out)
            })
            .collect()
    });
    let mut all = Vec::with_capacity(pixels.len());
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}

fn pair_up(pixels: &[usize], cols: usize) -> Vec<(Pair, bool)> {
    let mut pairs = Vec::new();
    let mut i = 0;
    while i < pixels.len() {
        let pixel = pixels[i];
        let both = pixels.get(i + 1) == Some(&(pixel + 1)) && !(pixel + 1).is_multiple_of(cols);
        pairs.push((Pair { pixel, slot: 0, both }, both));
        i += 1 + usize::from(both);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_drawn_to_its_ring_and_what_stands_out_stays() {
        // A hundred images: sums of noise scatter by a tenth.
        let noise = [1.0, 1.1, 0.9, 1.05, 0.95];
        let signal = [20.0, 3.0, 9.0, 1.0, 5.0];
        let powers: Vec<f64> = noise.into_iter().chain(signal).collect();
        let rings: Vec<usize> = (0..10).map(|i| i / 5).collect();
        let found = steadied(&powers, &rings, 100);
        assert!(found[..5].iter().all(|p| (p - 1.0).abs() < 1e-12), "{found:?}");
        assert!(found[5..].iter().zip(&signal).all(|(a, b)| (a - b).abs() < 0.2), "{found:?}");
        assert!(steadied(&[], &[], 3).is_empty());
    }
}
