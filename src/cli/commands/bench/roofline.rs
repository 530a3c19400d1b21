//! What a run cannot be faster than: the bytes that must move and the arithmetic that must be done.
//!
//! Counted is what any implementation of the method has to do, not what this one does:
//!
//! - bytes: the source is read once; in documented mode bigFT and the correlations are written once, as `f64` where the
//!   HDF5 file is wanted. The stack is not counted: with enough memory nobody would have to write it.
//! - flops: `5 N log2 N` for a complex transform of `N` samples, of which one serves two images. Every image of the crop
//!   is transformed there and back; the fit and the Fourier merge each transform every image of the disk
//!   once more, and the merge transforms two half-sets on the finer grid. Nothing else is counted.
//!
//! The *parts* are what this implementation has to do, one after the other as if nothing ran beside anything else: read the
//! source, fill new memory with the stack, transform, and write the stack and all results.

use serde::Serialize;

use crate::cli::commands::bench::machine::flops;
use crate::machine::MachineRates;

/// The work of a run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    /// Scan positions.
    pub(super) positions: f64,
    /// Detector pixels of the crop, and those inside the disk.
    pub(super) crop: f64,
    pub(super) disk: f64,
    /// Passes over the disk's images: fit and merge.
    pub(super) passes: f64,
    /// Whether half-sets are put together by transforms.
    pub(super) fourier: bool,
    /// Output pixels for each scan position along one axis.
    pub(super) upscale: f64,
    /// Bytes of the source.
    pub(super) source: f64,
    /// Bytes of results that grow with the source.
    pub(super) kept: f64,
    /// Bytes/s at which the source can be read.
    pub(super) read_rate: f64,
    /// Bytes of the stack.
    pub(super) stack: f64,
    /// Bytes of everything that the run has written, the stack included.
    pub(super) written: f64,
}

/// Seconds of the parts of a run, each at its measured rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Parts {
    /// Reading the source.
    pub(super) read: f64,
    /// New memory for the stack.
    pub(super) memory: f64,
    /// Transforms.
    pub(super) transforms: f64,
    /// Writing the stack and all results.
    pub(super) write: f64,
    /// All of them, one after the other.
    pub(super) sum: f64,
}

/// The bound, and what it consists of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Roofline {
    /// Bytes read and written.
    pub(super) bytes_read: f64,
    pub(super) bytes_written: f64,
    /// Floating-point operations.
    pub(super) flops: f64,
    /// Seconds that the bytes take at the measured rates, and the operations at that of the transforms.
    pub(super) bytes_seconds: f64,
    pub(super) flops_seconds: f64,
    /// The larger of the two.
    pub(super) seconds: f64,
    /// Which one it is: `bytes` or `flops`.
    pub(super) limit: &'static str,
    /// The bound in per cent of the run's time.
    pub(super) percent: f64,
    /// The parts of this implementation.
    pub(super) parts: Parts,
}

impl Roofline {
    /// The bound of a run that took `seconds`.
    pub(super) fn of(work: &Work, rates: &MachineRates, seconds: f64) -> Self {
        let one = flops(work.positions);
        let mut count = work.crop * one + 0.5 * work.passes * work.disk * one;
        if work.fourier {
            count += 2.0 * flops(work.positions * work.upscale * work.upscale);
        }
        let read = over(work.source, work.read_rate);
        let bytes_seconds = read + over(work.kept, rates.write);
        // Transforms of 512 × 512 do not fit in the processor's fastest cache any more, those of 256 × 256 do.
        let rate = if work.positions > 2.0 * 65536.0 { rates.fft_512_all } else { rates.fft_256_all };
        let flops_seconds = over(count, rate);
        let bound = bytes_seconds.max(flops_seconds);
        let (memory, write) = (over(work.stack, rates.new_memory), over(work.written, rates.write));
        let sum = read + memory + flops_seconds + write;
        Self {
            bytes_read: work.source,
            bytes_written: work.kept,
            flops: count,
            bytes_seconds,
            flops_seconds,
            seconds: bound,
            limit: if bytes_seconds >= flops_seconds { "bytes" } else { "flops" },
            percent: 100.0 * over(bound, seconds),
            parts: Parts { read, memory, transforms: flops_seconds, write, sum },
        }
    }
}

fn over(amount: f64, rate: f64) -> f64 {
    if rate > 0.0 { amount / rate } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_of_bytes_and_arithmetic_is_the_bound() {
        let rates = MachineRates {
            new_memory: 2e9,
            write: 5e8,
            fft_256_all: 1e10,
            fft_512_all: 5e9,
            ..MachineRates::default()
        };
        let work = Work { positions: 65536.0, crop: 100.0, source: 8e9, read_rate: 4e9, ..Work::default() };
        let warm = Roofline::of(&work, &rates, 10.0);
        assert_eq!((warm.limit, warm.seconds, warm.percent), ("bytes", 2.0, 20.0));
        assert!((warm.flops - 100.0 * 5.0 * 65536.0 * 16.0).abs() < 1.0);
        let cold = Work { read_rate: 1e9, kept: 1e9, stack: 4e9, written: 2e9, ..work };
        let cold = Roofline::of(&cold, &rates, 20.0);
        assert_eq!((cold.bytes_seconds, cold.percent), (10.0, 50.0));
        let Parts { read, memory, transforms, write, sum } = cold.parts;
        assert_eq!((read, memory, write), (8.0, 2.0, 4.0));
        assert!((sum - 14.0 - transforms).abs() < 1e-9 && transforms > 0.0);
        let busy = Work { disk: 2e4, passes: 3.0, fourier: true, upscale: 4.0, source: 1.0, ..work };
        let busy = Roofline::of(&busy, &rates, 100.0);
        let expected = 100.0 * 5_242_880.0 + 3e4 * 5_242_880.0 + 2.0 * 5.0 * 1_048_576.0 * 20.0;
        assert_eq!(busy.limit, "flops");
        assert!((busy.flops / expected - 1.0).abs() < 1e-12);
        let unknown = Work { read_rate: 0.0, ..work };
        assert!(Roofline::of(&unknown, &MachineRates::default(), 1.0).seconds <= 0.0, "nothing measured, no bound");
    }
}
