//! How far out in frequency the image is more than noise: ring correlation between the two half-sets.

use ndarray::s;
use serde::{Deserialize, Serialize};

use crate::axes::Image;
use crate::cache::{self, Step};
use crate::kernel::forward::fast_len_within;
use crate::kernel::ring::{Criterion, Curve, Rings, resolution_beyond_dips, ring_correlation};

/// At most this part of the image is left out on each side.
const MOST_BORDER: f64 = 0.25;
/// Fewer pixels than this on a side are no image to speak of.
const LEAST_SIDE: usize = 16;

/// The frequency up to which both half-sets of detector pixels show the same, by two criteria.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Resolution {
    /// Half a bit of information in each Fourier sample, in cycles per scan pixel.
    pub half_bit: f64,
    /// Correlation 1/7, in cycles per scan pixel.
    pub one_seventh: f64,
    /// The highest frequency that there is (the information limit of a bright-field image, or the output's Nyquist
    /// frequency), in cycles per scan pixel. A resolution that is equal to it may be better.
    pub limit: f64,
    /// Distance of neighbouring scan positions in Å, where it is known.
    pub scan_step_angstrom: Option<f64>,
}

impl Resolution {
    /// Periods of the two criteria, `[half-bit, 1/7]`, in Å, or in scan pixels without a calibration. `None` where nothing
    /// is resolved.
    pub fn periods(&self) -> [Option<f64>; 2] {
        let unit = self.scan_step_angstrom.unwrap_or(1.0);
        [self.half_bit, self.one_seventh].map(|frequency| (frequency > 0.0).then(|| unit / frequency))
    }

    /// For people: `2.31 Å (half-bit), 2.09 Å or better (1/7)`.
    pub fn sentence(&self) -> String {
        let unit = if self.scan_step_angstrom.is_some() { "Å" } else { "scan pixels" };
        let one = |period: Option<f64>, frequency: f64, name: &str| {
            let better = if frequency >= self.limit { " or better" } else { "" };
            period.map_or_else(|| format!("none ({name})"), |p| format!("{p:.2} {unit}{better} ({name})"))
        };
        let [half_bit, seventh] = self.periods();
        format!("{}, {}", one(half_bit, self.half_bit, "half-bit"), one(seventh, self.one_seventh, "1/7"))
    }
}

/// Where the image was measured.
#[derive(Debug, Clone, Copy)]
pub(in crate::steps) struct Field {
    /// Output pixels per scan step.
    pub(in crate::steps) factor: usize,
    /// Scan pixels at the edges that not all images cover.
    pub(in crate::steps) border: f64,
    /// Cycles per scan pixel above which there is nothing.
    pub(in crate::steps) limit: Option<f64>,
    /// Scan step, where it is known.
    pub(in crate::steps) step_angstrom: Option<f64>,
}

impl Field {
    /// Correlates two half-sets inside the border, under a Hann window. `None` where the image is too small.
    pub(in crate::steps) fn correlate(&self, halves: [&Image; 2]) -> Option<Curve> {
        let (rows, cols) = halves[0].dim();
        let border = |n: usize| {
            let wanted = (self.border * self.factor as f64).ceil().max(0.0);
            wanted.min(MOST_BORDER * n as f64) as usize
        };
        let (r, c) = (border(rows), border(cols));
        if rows - 2 * r < LEAST_SIDE || cols - 2 * c < LEAST_SIDE {
            return None;
        }
        // A little less where that makes a length with small factors: transforms of others take many times as long.
        let (high, wide) = (fast_len_within(rows - 2 * r), fast_len_within(cols - 2 * c));
        let (r, c) = ((rows - high) / 2, (cols - wide) / 2);
        let inner = halves.map(|half| half.slice(s![r..r + high, c..c + wide]).to_owned());
        let mut curve = ring_correlation(&inner[0], &inner[1], Rings::default());
        // Behind the limit a window only smears what lies before it.
        let limit = self.limit();
        let factor = self.factor as f64;
        let count = curve.frequency.iter().take_while(|f| **f * factor <= limit).count();
        curve.frequency.truncate(count);
        curve.frc.truncate(count);
        curve.samples.truncate(count);
        (!curve.frequency.is_empty()).then_some(curve)
    }

    fn limit(&self) -> f64 {
        self.limit.unwrap_or(f64::INFINITY).min(self.factor as f64 / 2.0)
    }

    /// What a curve resolves.
    pub(in crate::steps) fn resolution(&self, curve: &Curve) -> Resolution {
        let limit = self.limit();
        let at = |criterion| resolution_beyond_dips(curve, criterion).map_or(limit, |f| f * self.factor as f64);
        Resolution {
            half_bit: at(Criterion::HalfBit),
            one_seventh: at(Criterion::ONE_SEVENTH),
            limit,
            scan_step_angstrom: self.step_angstrom,
        }
    }

    /// A curve to be written down and drawn.
    pub(in crate::steps) fn published(&self, curve: &Curve, name: &str, title: &str) -> cache::Curve {
        // A finite number for files and axes where both halves are equal.
        let ssnr = curve.ssnr().into_iter().map(|v| v.min(1e9)).collect();
        let unit = if self.step_angstrom.is_some() { "1/Å" } else { "cycles per scan pixel" };
        let pixel = self.step_angstrom.unwrap_or(1.0) / self.factor as f64;
        cache::Curve {
            name: name.to_owned(),
            title: title.to_owned(),
            axis: ("spatial_frequency".to_owned(), unit.to_owned()),
            x: curve.frequency_per_length(pixel),
            columns: vec![
                ("frc".to_owned(), curve.frc.clone()),
                ("ssnr".to_owned(), ssnr),
                ("half_bit".to_owned(), curve.thresholds(Criterion::HalfBit)),
            ],
            step: Step::Reconstruct,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_says_what_is_resolved_and_in_which_unit() {
        let resolution = Resolution { half_bit: 1.6, one_seventh: 1.9, limit: 1.9, scan_step_angstrom: Some(4.0) };
        assert_eq!(resolution.sentence(), "2.50 Å (half-bit), 2.11 Å or better (1/7)");
        let nothing = Resolution { half_bit: 0.0, one_seventh: 0.5, scan_step_angstrom: None, ..resolution };
        assert_eq!(nothing.sentence(), "none (half-bit), 2.00 scan pixels (1/7)");
        assert_eq!(nothing.periods(), [None, Some(2.0)]);
    }

    #[test]
    fn borders_are_left_out_and_the_limit_cuts_the_curve() {
        let field = Field { factor: 2, border: 3.0, limit: Some(0.6), step_angstrom: Some(2.0) };
        let object = Image::from_shape_fn((60, 50), |(r, c)| ((r * 31 + c * 17) % 23) as f64 + ((r * c) % 7) as f64);
        let mut other = object.clone();
        // What differs only at the border does not count.
        other.slice_mut(s![..6, ..]).fill(1e3);
        let curve = field.correlate([&object, &other]).unwrap();
        assert!(curve.frc.iter().all(|frc| (frc - 1.0).abs() < 1e-12));
        assert!(curve.frequency.iter().all(|f| 2.0 * f <= 0.6));
        let resolution = field.resolution(&curve);
        assert_eq!((resolution.half_bit, resolution.one_seventh), (0.6, 0.6));
        let published = field.published(&curve, "frc", "t");
        assert!(published.columns[1].1.iter().all(|v| v.is_finite()));
        assert!((published.x.last().unwrap() * 2.0 - curve.frequency.last().unwrap() * 2.0).abs() < 1e-12);
        assert!(field.correlate([&Image::zeros((12, 60)), &Image::zeros((12, 60))]).is_none());
    }
}
