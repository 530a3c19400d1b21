//! One worker's transforms: from two detector pixels' images to their spectra, correlations and peaks.
//!
//! An [`Engine`] keeps spectra and correlations in the documented order, for those who want them; a [`PairEngine`] goes from
//! images to peaks and leaves nothing in between.

use num_complex::Complex;

use crate::axes::{Image, ScanShape};
use crate::error::Result;
use crate::kernel::convert::{PixelSums, offset, pack_pair, pack_windowed, pixel_sums};
use crate::kernel::correlate::{Normalisation, multiply_packed, multiply_stored, unpack};
use crate::kernel::fft2::Fft2;
use crate::kernel::lanes::{Cell, Layout, PairCorrelation};
use crate::kernel::peak::{Peak, find_pair};
use crate::kernel::real::Real;
use crate::memory::AlignedBytes;
use crate::memory::{Charge, MemoryBudget};
use crate::steps::stack::Stack;
use crate::steps::tile::Pair;
use crate::with_sample_type;

/// The reference's spectrum and sums; threads share it.
#[derive(Debug, Clone)]
pub(super) struct Reference<T: Real> {
    /// Conjugate spectrum, transposed.
    conj: Vec<Complex<T>>,
    sums: PixelSums,
}

impl<T: Real> Reference<T> {
    /// Transforms the reference image in double precision, whatever `T` is: it enters every correlation.
    pub(super) fn new(image: &Image, shape: ScanShape) -> Self {
        let numbers: Vec<f64> = image.iter().copied().collect();
        let sums = pixel_sums(&numbers);
        let fft = Fft2::<f64>::new(shape);
        let mean = sums.sum / shape.len() as f64;
        let mut work: Vec<_> = numbers.iter().map(|&v| Complex::new(v - mean, 0.0)).collect();
        let mut spectrum = vec![Complex::default(); work.len()];
        let mut scratch = vec![Complex::default(); fft.scratch_len()];
        fft.forward(&mut work, &mut spectrum, &mut scratch);
        let conj = spectrum.iter().map(|z| Complex::new(T::round_from(z.re), T::round_from(-z.im))).collect();
        Self { conj, sums }
    }
}

impl Reference<f32> {
    /// Plans the short way for images of this shape; `None` where a side is not a product of small primes.
    pub(super) fn planned(&self, shape: ScanShape) -> Option<PairCorrelation> {
        PairCorrelation::new(shape, &self.conj)
    }
}

/// Whatever finds the peaks of a pair of detector pixels.
pub(super) trait FindPeaks {
    /// The peaks of a pair's correlations with the reference; of a single pixel the second means nothing.
    ///
    /// # Errors
    /// As [`Stack::copy_image`].
    fn peaks(&mut self, stack: &Stack, pair: Pair) -> Result<[Peak; 2]>;
}

/// An engine with its reference.
pub(super) struct WithReference<'a, T: Real>(pub(super) Engine<T>, pub(super) &'a Reference<T>);

impl<T: Real> FindPeaks for WithReference<'_, T> {
    fn peaks(&mut self, stack: &Stack, pair: Pair) -> Result<[Peak; 2]> {
        let sums = self.0.load(stack, pair)?;
        Ok(self.0.correlate_loaded(self.1, &sums))
    }
}

/// One worker's buffers for the short way.
pub(super) struct PairEngine<'a> {
    plan: &'a PairCorrelation,
    reference: PixelSums,
    cells: Vec<Cell>,
    scratch: Vec<Cell>,
    samples: [AlignedBytes; 2],
    _charge: Charge,
}

impl<'a> PairEngine<'a> {
    /// Makes the buffers. `reference` is what the plan was made for.
    ///
    /// # Errors
    /// [`Memory`](crate::error::ErrorKind::Memory).
    pub(super) fn new(
        plan: &'a PairCorrelation,
        reference: &Reference<f32>,
        sample_bytes: usize,
        budget: &MemoryBudget,
    ) -> Result<Self> {
        let shape = plan.layout().shape();
        let (cells, scratch) = (plan.layout().cells(), plan.scratch_len());
        let image_bytes = shape.len() * sample_bytes;
        let bytes = Self::cell_bytes(shape) + 2 * image_bytes;
        let charge = budget.charge(bytes as u64, "transforms")?;
        Ok(Self {
            plan,
            reference: reference.sums,
            cells: vec![Cell::default(); cells],
            scratch: vec![Cell::default(); scratch],
            samples: [AlignedBytes::zeroed(image_bytes), AlignedBytes::zeroed(image_bytes)],
            _charge: charge,
        })
    }

    /// Bytes of the cells of one worker.
    fn cell_bytes(shape: ScanShape) -> usize {
        (Layout::new(shape).cells() + PairCorrelation::scratch_for(shape)) * size_of::<Cell>()
    }
}

impl FindPeaks for PairEngine<'_> {
    fn peaks(&mut self, stack: &Stack, pair: Pair) -> Result<[Peak; 2]> {
        let n = self.plan.layout().shape().len();
        let [first, second] = &mut self.samples;
        with_sample_type!(stack.dtype(), S => {
            let a = first.cast_mut::<S>();
            stack.copy_image(pair.pixel, a)?;
            let mut sums = [stack.sums_of(pair.pixel, a), PixelSums::default()];
            let a = (&*a, offset(sums[0], n));
            let b = if pair.both {
                let b = second.cast_mut::<S>();
                stack.copy_image(pair.pixel + 1, b)?;
                sums[1] = stack.sums_of(pair.pixel + 1, b);
                Some((&*b, offset(sums[1], n)))
            } else {
                None
            };
            let [norm_a, norm_b] = sums.map(|s| Normalisation::new(self.reference, s, n));
            Ok(self.plan.peaks((a, b), [&norm_a, &norm_b], &mut self.cells, &mut self.scratch))
        })
    }
}

/// The buffers and plans of one worker. Nothing is allocated after it is made.
pub(super) struct Engine<T: Real> {
    fft: Fft2<T>,
    shape: ScanShape,
    image: Vec<Complex<T>>,
    spectrum: Vec<Complex<T>>,
    scratch: Vec<Complex<T>>,
    samples: [AlignedBytes; 2],
    _charge: Charge,
}

impl<T: Real> Engine<T> {
    /// Makes the buffers for images of this shape and sample size.
    ///
    /// # Errors
    /// [`Memory`](crate::error::ErrorKind::Memory).
    pub(super) fn new(fft: &Fft2<T>, sample_bytes: usize, budget: &MemoryBudget) -> Result<Self> {
        let (shape, n) = (fft.shape(), fft.shape().len());
        let complex = 2 * T::DTYPE.size();
        let bytes = (2 * n + fft.scratch_len()) * complex + 2 * n * sample_bytes;
        let charge = budget.charge(bytes as u64, "transforms")?;
        Ok(Self {
            fft: fft.clone(),
            shape,
            image: vec![Complex::default(); n],
            spectrum: vec![Complex::default(); n],
            scratch: vec![Complex::default(); fft.scratch_len()],
            samples: [AlignedBytes::zeroed(n * sample_bytes), AlignedBytes::zeroed(n * sample_bytes)],
            _charge: charge,
        })
    }

    /// Fetches a pair from the stack and transforms it; the packed spectrum stays inside.
    ///
    /// # Errors
    /// As [`Stack::copy_image`].
    pub(super) fn load(&mut self, stack: &Stack, pair: Pair) -> Result<[PixelSums; 2]> {
        let n = self.shape.len();
        let [first, second] = &mut self.samples;
        let sums = with_sample_type!(stack.dtype(), S => {
            let a = first.cast_mut::<S>();
            stack.copy_image(pair.pixel, a)?;
            let sums_a = stack.sums_of(pair.pixel, a);
            let a = (&*a, offset(sums_a, n));
            if pair.both {
                let b = second.cast_mut::<S>();
                stack.copy_image(pair.pixel + 1, b)?;
                let sums_b = stack.sums_of(pair.pixel + 1, b);
                pack_pair(a, Some((&*b, offset(sums_b, n))), &mut self.image);
                [sums_a, sums_b]
            } else {
                pack_pair(a, None, &mut self.image);
                [sums_a, PixelSums::default()]
            }
        });
        self.fft.forward(&mut self.image, &mut self.spectrum, &mut self.scratch);
        Ok(sums)
    }

    /// As [`load`](Self::load), with each image's mean taken off and multiplied by `window`, both over the pair's own
    /// scale; returns the packed spectrum (transposed).
    ///
    /// # Errors
    /// As [`Stack::copy_image`].
    pub(super) fn load_windowed(&mut self, stack: &Stack, pair: Pair, window: &[f32]) -> Result<&[Complex<T>]> {
        let n = self.shape.len();
        let [first, second] = &mut self.samples;
        with_sample_type!(stack.dtype(), S => {
            let mut windowed = |pixel: usize, samples: &mut AlignedBytes, imaginary: bool| -> Result<()> {
                let samples = samples.cast_mut::<S>();
                stack.copy_image(pixel, samples)?;
                let mean = stack.sums_of(pixel, samples).sum / n as f64;
                pack_windowed(samples, (mean, window), imaginary, &mut self.image);
                Ok(())
            };
            windowed(pair.pixel, first, false)?;
            if pair.both {
                windowed(pair.pixel + 1, second, true)?;
            }
        });
        self.fft.forward(&mut self.image, &mut self.spectrum, &mut self.scratch);
        Ok(&self.spectrum)
    }

    /// Writes the loaded pair's spectra (`[scan row, scan col]`).
    pub(super) fn spectra(&self, sums: &[PixelSums; 2], a: &mut [Complex<T>], b: Option<&mut [Complex<T>]>) {
        unpack(&self.spectrum, self.shape, (sums[0].sum, sums[1].sum), a, b);
    }

    /// Correlates the loaded pair with the reference.
    pub(super) fn correlate_loaded(&mut self, reference: &Reference<T>, sums: &[PixelSums; 2]) -> [Peak; 2] {
        multiply_packed(&mut self.spectrum, &reference.conj, self.shape);
        self.finish(reference, sums)
    }

    /// Correlates stored spectra with the reference: the same bits as [`correlate_loaded`](Self::correlate_loaded).
    pub(super) fn correlate_stored(
        &mut self,
        a: &[Complex<T>],
        b: Option<&[Complex<T>]>,
        reference: &Reference<T>,
        sums: &[PixelSums; 2],
    ) -> [Peak; 2] {
        multiply_stored(a, b, &reference.conj, self.shape, &mut self.spectrum);
        self.finish(reference, sums)
    }

    fn finish(&mut self, reference: &Reference<T>, sums: &[PixelSums; 2]) -> [Peak; 2] {
        self.fft.inverse(&mut self.spectrum, &mut self.image, &mut self.scratch);
        let norms = self.normalisations(reference, sums);
        find_pair(&self.image, self.shape, [&norms[0], &norms[1]])
    }

    fn normalisations(&self, reference: &Reference<T>, sums: &[PixelSums; 2]) -> [Normalisation; 2] {
        sums.map(|s| Normalisation::new(reference.sums, s, self.shape.len()))
    }

    /// Writes the documented correlations of the pair that was correlated last (`[scan row, scan col]`).
    pub(super) fn correlations(
        &self,
        reference: &Reference<T>,
        sums: &[PixelSums; 2],
        a: &mut [T],
        b: Option<&mut [T]>,
    ) {
        let [norm_a, norm_b] = self.normalisations(reference, sums);
        for (c, z) in a.iter_mut().zip(&self.image) {
            *c = T::round_from(norm_a.documented(z.re));
        }
        if let Some(b) = b {
            for (c, z) in b.iter_mut().zip(&self.image) {
                *c = T::round_from(norm_b.documented(z.im));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axes::DType;
    use std::sync::Arc;

    fn check<T: Real>() {
        let shape = ScanShape::new(6, 10);
        let budget = MemoryBudget::new(1 << 20);
        let mut slab = AlignedBytes::zeroed(2 * 60 * 2);
        slab.cast_mut::<u16>().iter_mut().enumerate().for_each(|(i, s)| *s = (i * i * 31 % 997) as u16);
        let charge = budget.charge(1, "test").expect("fits");
        let stack = Stack::in_memory(vec![Arc::new(slab)], charge, (DType::U16, shape, 6));
        let reference = Reference::<T>::new(&Image::from_shape_fn((6, 10), |(r, c)| (r * 7 + c * 3) as f64), shape);
        let mut engine = Engine::new(&Fft2::new(shape), 2, &budget).expect("fits");
        let pair = Pair { pixel: 0, slot: 0, both: true };
        let sums = engine.load(&stack, pair).expect("in memory");
        let (mut a, mut b) = (vec![Complex::default(); 60], vec![Complex::default(); 60]);
        engine.spectra(&sums, &mut a, Some(&mut b));
        let direct = engine.correlate_loaded(&reference, &sums);
        let mut c1 = vec![T::default(); 60];
        engine.correlations(&reference, &sums, &mut c1, None);
        let stored = engine.correlate_stored(&a, Some(&b), &reference, &sums);
        let mut c2 = vec![T::default(); 60];
        engine.correlations(&reference, &sums, &mut c2, None);
        assert_eq!(direct, stored);
        assert_eq!(c1, c2);
    }

    #[test]
    fn fused_and_stored_ways_agree_to_the_last_bit_in_both_precisions() {
        check::<f32>();
        check::<f64>();
    }
}
