//! What the machine can do: disk, memory, transforms.

use std::path::Path;
use std::time::Instant;

use num_complex::Complex32;
use rayon::prelude::*;

use crate::axes::ScanShape;
use crate::error::Result;
use crate::kernel::convert::PixelSums;
use crate::kernel::correlate::Normalisation;
use crate::kernel::fft2::Fft2;
use crate::kernel::lanes::{Cell, PairCorrelation};
use crate::machine::MachineRates;
use crate::memory::AlignedBytes;
use crate::pipeline::Workers;
use crate::plan::MOST_READERS;
use crate::progress::CancelToken;
use crate::store;

/// Bytes of the file that measures the disk, at most.
const LARGEST_FILE: u64 = 1 << 30;
/// Bytes that are copied at once: more than any processor's cache.
const COPY: usize = 64 << 20;
/// Pieces of new memory that are filled side by side, and their length.
const NEW_PIECES: usize = 32;
const NEW_PIECE: usize = 4 << 20;
/// Seconds for which transforms run on one thread.
const FFT_SECONDS: f64 = 0.25;
const QUICK_FFT_SECONDS: f64 = 0.05;
/// Of so many measurements the best counts: whatever else the machine does only makes it slower.
const TIMES: usize = 3;

/// Measures everything but the steps of a run. `size` is that of the scan to come.
pub(super) fn measure(
    rates: &mut MachineRates,
    folder: &Path,
    (size, quick): (u64, bool),
    workers: &Workers,
    cancel: &CancelToken,
) -> Result<()> {
    rates.measured = store::local_time().strftime("%Y-%m-%d %H:%M:%S").to_string();
    let file = folder.join("disk_speed.bin");
    let (seconds, bytes) = store::time_writing(&file, size.min(LARGEST_FILE), cancel)?;
    rates.write = bytes as f64 / seconds;
    rates.cold_read = cold_read(&file, cancel)?;
    rates.warm_read = best(|| {
        let (seconds, bytes) = store::time_reading(&file, u64::MAX, cancel)?;
        Ok(bytes as f64 / seconds)
    })?;
    store::remove_file(&file)?;
    rates.new_memory = new_memory(workers, cancel)?;
    let from = vec![1u8; COPY];
    let mut to = vec![0u8; COPY];
    rates.memory_copy = best(|| {
        cancel.check()?;
        let start = Instant::now();
        std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(&from));
        Ok(COPY as f64 / start.elapsed().as_secs_f64())
    })?;
    let seconds = if quick { QUICK_FFT_SECONDS } else { FFT_SECONDS };
    (rates.fft_256_one, rates.fft_256_all) = fft(256, seconds, workers, cancel)?;
    (rates.fft_512_one, rates.fft_512_all) = fft(512, seconds, workers, cancel)?;
    Ok(())
}

/// Bytes/s of a file that is not in memory, read by as many threads as a run has for a source that is larger than memory.
fn cold_read(file: &Path, cancel: &CancelToken) -> Result<f64> {
    let (reading, workers) = (store::ColdRead::open(file)?, Workers::new(MOST_READERS)?);
    let start = Instant::now();
    let read = || (0..MOST_READERS).into_par_iter().map(|_| reading.take_part(cancel)).sum::<Result<u64>>();
    let bytes = workers.install(read)?;
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

/// Bytes/s of new memory. The mean counts, not the best: memory that was free for long may take several times as long as what
/// another process has just given back, above all on a virtual machine, and runs meet both.
fn new_memory(workers: &Workers, cancel: &CancelToken) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..TIMES {
        let fill = |_| {
            let mut piece = AlignedBytes::zeroed(NEW_PIECE);
            piece.fill(1);
            piece
        };
        let pieces: Vec<_> = workers.install(|| (0..NEW_PIECES).into_par_iter().map(fill).collect());
        std::hint::black_box(pieces);
        cancel.check()?;
    }
    Ok((TIMES * NEW_PIECES * NEW_PIECE) as f64 / start.elapsed().as_secs_f64())
}

fn best(mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut best = 0.0;
    for _ in 0..TIMES {
        best = measure()?.max(best);
    }
    Ok(best)
}

/// Floating-point operations of a complex transform of `samples`, by the usual count `5 N log2 N`.
pub(super) fn flops(samples: f64) -> f64 {
    5.0 * samples * samples.max(1.0).log2()
}

/// Flop/s of complex transforms of `side` × `side`, on one thread and on all: those of the library or of the correlation in
/// lanes, whichever is faster.
fn fft(side: usize, seconds: f64, workers: &Workers, cancel: &CancelToken) -> Result<(f64, f64)> {
    let shape = ScanShape::new(side, side);
    let plan = Fft2::<f32>::new(shape);
    let (one, all) = rate_of(shape.len(), seconds / 2.0, (workers, cancel), || Transforms::new(&plan))?;
    let reference = vec![Complex32::new(1.0, 0.0); shape.len()];
    let Some(plan) = PairCorrelation::new(shape, &reference) else { return Ok((one, all)) };
    let in_lanes = rate_of(shape.len(), seconds / 2.0, (workers, cancel), || Correlations::new(&plan))?;
    Ok((one.max(in_lanes.0), all.max(in_lanes.1)))
}

/// Flop/s of bursts of transforms of `samples`, on one thread and on all.
fn rate_of<B: Burst>(
    samples: usize,
    seconds: f64,
    (workers, cancel): (&Workers, &CancelToken),
    new: impl Fn() -> B + Sync,
) -> Result<(f64, f64)> {
    let work = flops(samples as f64) * f64::from(2 * PAIRS);
    let rate = |bursts: usize, seconds: f64| work * bursts as f64 / seconds;
    // As many as one thread does in the time that was asked for.
    let (mut bursts, start, mut bench) = (0, Instant::now(), new());
    while bursts == 0 || start.elapsed().as_secs_f64() < seconds {
        cancel.check()?;
        bench.burst();
        bursts += 1;
    }
    let one = rate(bursts, start.elapsed().as_secs_f64());
    let total = bursts * workers.count();
    let all = best(|| {
        let start = Instant::now();
        workers.install(|| {
            (0..total).into_par_iter().try_for_each_init(&new, |bench, _| {
                bench.burst();
                cancel.check()
            })
        })?;
        Ok(rate(total, start.elapsed().as_secs_f64()))
    })?;
    Ok((one, all.max(one)))
}

/// Transforms there and back in one burst: every pair makes the numbers larger by the number of samples.
const PAIRS: u32 = 4;

/// Does [`PAIRS`] transforms there and back.
trait Burst {
    fn burst(&mut self);
}

/// One thread's images.
struct Transforms<'a> {
    plan: &'a Fft2<f32>,
    fresh: Vec<Complex32>,
    image: Vec<Complex32>,
    spectrum: Vec<Complex32>,
    scratch: Vec<Complex32>,
}

impl<'a> Transforms<'a> {
    fn new(plan: &'a Fft2<f32>) -> Self {
        let n = plan.shape().len();
        // So small that four pairs of the largest size stay within the range of the numbers.
        let fresh: Vec<_> = (0..n).map(|i| Complex32::new(1e-20 * ((i * 37) % 101) as f32, 0.0)).collect();
        let scratch = vec![Complex32::default(); plan.scratch_len()];
        Self { plan, image: fresh.clone(), spectrum: fresh.clone(), fresh, scratch }
    }
}

impl Burst for Transforms<'_> {
    fn burst(&mut self) {
        self.image.copy_from_slice(&self.fresh);
        for _ in 0..PAIRS {
            self.plan.forward(&mut self.image, &mut self.spectrum, &mut self.scratch);
            self.plan.inverse(&mut self.spectrum, &mut self.image, &mut self.scratch);
        }
        std::hint::black_box(&mut self.image);
    }
}

/// One thread's correlations of pairs, each of which is a transform there and back.
struct Correlations<'a> {
    plan: &'a PairCorrelation,
    image: Vec<u8>,
    cells: Vec<Cell>,
    scratch: Vec<Cell>,
}

impl<'a> Correlations<'a> {
    fn new(plan: &'a PairCorrelation) -> Self {
        let image = (0..plan.layout().shape().len()).map(|i| (i * 37 % 101) as u8).collect();
        let cells = vec![Cell::default(); plan.layout().cells()];
        Self { plan, image, cells, scratch: vec![Cell::default(); plan.scratch_len()] }
    }
}

impl Burst for Correlations<'_> {
    fn burst(&mut self) {
        let norm = Normalisation::new(PixelSums::default(), PixelSums::default(), self.image.len());
        let images = ((&self.image[..], 50.0), Some((&self.image[..], 51.0)));
        for _ in 0..PAIRS {
            std::hint::black_box(self.plan.peaks(images, [&norm; 2], &mut self.cells, &mut self.scratch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_stay_finite_and_are_counted_as_usual() {
        let plan = Fft2::<f32>::new(ScanShape::new(512, 512));
        let mut bench = Transforms::new(&plan);
        bench.burst();
        assert!(bench.image.iter().all(|z| z.re.is_finite() && z.im.is_finite()));
        assert!(bench.image[1].re > 1.0, "they were there and back four times");
        assert!((flops(65536.0) - 5.0 * 65536.0 * 16.0).abs() < 1e-6 && flops(0.0) <= 0.0);
    }
}
