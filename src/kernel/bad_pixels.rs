//! Detector pixels that do not measure what their neighbours measure: dead, hot, flickering or stuck ones.
//!
//! Each pixel is compared with the 5 × 5 pixels around it, by their median and by a scale that is the larger of what
//! counting noise allows (Poisson, with the variance per count that the neighbours show, so that units of counts do
//! not matter), of 5 % for the gain, and of the neighbours' own spread, so that fringes and other structure of the disk
//! count as such. Structure that is real also reaches at least one neighbour and the one opposite or beside it: unless
//! it is extreme, a pixel must stand out from all but one of the 3 × 3 pixels around it.
//!
//! - Well inside the disk (1.5 pixels from its edge): mean and variance over the scan.
//! - On the edge: only pixels without any count well within it, and those far brighter than all around them.
//! - Outside: only bright ones, compared with the second brightest of their neighbours, because scattering falls off
//!   steeply.

use std::ops::{Deref, DerefMut};

use ndarray::Array2;
use rayon::prelude::*;

use crate::axes::{Crop, Image};

/// Distance from the disk's edge in which neighbours are no measure, in detector pixels.
const EDGE: f64 = 1.5;
/// Frames below which a variance says too little.
const FEWEST_FRAMES: usize = 64;
/// Neighbours below which there is no measure.
const FEWEST_NEIGHBOURS: usize = 8;
/// Standard deviations of counting noise.
const SURE: f64 = 6.5;
/// Counts without which a pixel cannot be called dead for having none.
const ENOUGH_COUNTS: f64 = 30.0;
/// Relative spread of gains that nobody should be told about.
const GAIN_SPREAD: f64 = 0.05;
/// Share of pixels beyond which it is not the pixels that are bad.
const LARGEST_SHARE: f64 = 0.15;

/// What is wrong with a detector pixel. The discriminant is its number in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Counts nothing, or far less than its neighbours.
    Dead = 1,
    /// Counts far more than its neighbours.
    Hot = 2,
    /// Its mean is usual, but it varies over the scan far more or far less than its neighbours do.
    Outlier = 3,
}

impl Flaw {
    /// The flaw in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Hot => "hot",
            Self::Outlier => "outlier",
        }
    }
}

/// What the search works on.
#[derive(Debug, Clone, Copy)]
pub struct Statistics<'a> {
    /// Mean over the scan of every pixel of the whole detector.
    pub mean: &'a Image,
    /// Variance over the scan divided by the mean, of the crop's pixels; not finite where the mean is zero.
    pub dispersion: &'a Image,
    /// Where the crop lies.
    pub crop: Crop,
    /// Centre of the disk, `[row, col]` in detector pixels.
    pub center: [f64; 2],
    /// Radius of the disk.
    pub radius: f64,
    /// Scan positions.
    pub frames: usize,
}

/// The pixels found.
#[derive(Debug, Clone, PartialEq)]
pub struct BadPixels {
    /// 0 for good pixels, else the number of the [`Flaw`]; `[crop row, crop col]`.
    pub map: Image,
    /// The bad pixels `[row, col]` of the whole detector, in order.
    pub found: Vec<([usize; 2], Flaw)>,
    /// How many pixels looked bad, when those were too many to be believed; then none is marked.
    pub unbelievable: Option<usize>,
}

/// Looks at every pixel of the crop, rows side by side.
///
/// # Panics
/// When the crop reaches beyond `mean`, or `dispersion` does not have its shape.
pub fn find(statistics: &Statistics<'_>) -> BadPixels {
    let shape = statistics.crop.shape();
    assert_eq!(statistics.dispersion.dim(), (shape.rows, shape.cols), "dispersion of another crop");
    let mut result = BadPixels { map: Image::zeros((shape.rows, shape.cols)), found: Vec::new(), unbelievable: None };
    if statistics.frames < FEWEST_FRAMES {
        return result;
    }
    let search = Search { s: statistics, zones: Zones::of(statistics), typical: statistics.typical_dispersion() };
    let (mut looked_at, mut found_in) = ([0usize; 2], [0usize; 2]);
    let of_row = |row: usize| -> Vec<_> {
        let looked_at = |col| ([row, col], search.zone(row, col) == Zone::Outside, search.flaw(row, col));
        (statistics.crop.col0..statistics.crop.col1).map(looked_at).collect()
    };
    let all: Vec<_> = (statistics.crop.row0..statistics.crop.row1).into_par_iter().map(of_row).collect();
    for (at, outside, flaw) in all.into_iter().flatten() {
        looked_at[usize::from(outside)] += 1;
        if let Some(flaw) = flaw {
            found_in[usize::from(outside)] += 1;
            result.found.push((at, flaw));
        }
    }
    if (0..2).any(|zone| found_in[zone] as f64 > (LARGEST_SHARE * looked_at[zone] as f64).max(1.0)) {
        result.unbelievable = Some(result.found.len());
        result.found.clear();
    }
    for ([row, col], flaw) in &result.found {
        result.map[[row - statistics.crop.row0, col - statistics.crop.col0]] = f64::from(*flaw as u8);
    }
    result
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    Inside,
    Edge,
    Outside,
}

impl Statistics<'_> {
    fn distance(&self, row: usize, col: usize) -> f64 {
        (row as f64 - self.center[0]).hypot(col as f64 - self.center[1])
    }

    fn zone(&self, row: usize, col: usize) -> Zone {
        match self.distance(row, col) - self.radius {
            d if d <= -EDGE => Zone::Inside,
            d if d <= EDGE => Zone::Edge,
            _ => Zone::Outside,
        }
    }

    /// The dispersion of a pixel, where it is known.
    fn dispersion_at(&self, row: usize, col: usize) -> Option<f64> {
        let c = self.crop;
        let inside = (c.row0..c.row1).contains(&row) && (c.col0..c.col1).contains(&col);
        inside.then(|| self.dispersion[[row - c.row0, col - c.col0]]).filter(|v| v.is_finite())
    }

    /// Median dispersion inside the disk, for places where the neighbours have none.
    fn typical_dispersion(&self) -> f64 {
        let c = self.crop;
        let all = (c.row0..c.row1).flat_map(|row| (c.col0..c.col1).map(move |col| (row, col)));
        let inside = all.filter(|&(row, col)| self.zone(row, col) == Zone::Inside);
        let mut values: Vec<f64> = inside.filter_map(|(row, col)| self.dispersion_at(row, col)).collect();
        if values.is_empty() { 1.0 } else { median(&mut values) }
    }
}

/// Rows and columns around a pixel that it is compared with.
const REACH: usize = 2;

/// The zones of the crop and of what its pixels are compared with.
struct Zones {
    row0: usize,
    col0: usize,
    all: Array2<Zone>,
}

impl Zones {
    fn of(s: &Statistics<'_>) -> Self {
        let (rows, cols) = s.mean.dim();
        let (row0, col0) = (s.crop.row0.saturating_sub(REACH), s.crop.col0.saturating_sub(REACH));
        let shape = ((s.crop.row1 + REACH).min(rows) - row0, (s.crop.col1 + REACH).min(cols) - col0);
        Self { row0, col0, all: Array2::from_shape_fn(shape, |(r, c)| s.zone(row0 + r, col0 + c)) }
    }
}

/// Pixels around one, at most [`REACH`] rows and columns away.
const MOST_AROUND: usize = (2 * REACH + 1) * (2 * REACH + 1) - 1;

/// Values of the pixels around one. Every pixel of the crop looks at some: they do not go to the heap.
#[derive(Clone, Copy)]
struct Around {
    values: [f64; MOST_AROUND],
    len: usize,
}

impl Deref for Around {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        &self.values[..self.len]
    }
}

impl DerefMut for Around {
    fn deref_mut(&mut self) -> &mut [f64] {
        &mut self.values[..self.len]
    }
}

struct Search<'a> {
    s: &'a Statistics<'a>,
    zones: Zones,
    typical: f64,
}

impl Search<'_> {
    /// Of a pixel of the crop, or one at most [`REACH`] beside it.
    fn zone(&self, row: usize, col: usize) -> Zone {
        let Zones { row0, col0, all } = &self.zones;
        all[[row - row0, col - col0]]
    }

    fn flaw(&self, row: usize, col: usize) -> Option<Flaw> {
        match self.zone(row, col) {
            Zone::Inside => self.flaw_inside(row, col),
            Zone::Edge => self.flaw_at_the_edge(row, col),
            Zone::Outside => self.is_hot_outside(row, col).then_some(Flaw::Hot),
        }
    }

    /// Values of the pixels at most `reach` rows and columns away that `take` accepts, without the pixel itself.
    fn around(&self, (row, col): (usize, usize), reach: usize, take: impl Fn(usize, usize) -> Option<f64>) -> Around {
        let (rows, cols) = self.s.mean.dim();
        let mut around = Around { values: [0.0; MOST_AROUND], len: 0 };
        for r in row.saturating_sub(reach)..=(row + reach).min(rows - 1) {
            for c in col.saturating_sub(reach)..=(col + reach).min(cols - 1) {
                if (r, c) == (row, col) {
                    continue;
                }
                if let (Some(place), Some(value)) = (around.values.get_mut(around.len), take(r, c)) {
                    *place = value;
                    around.len += 1;
                }
            }
        }
        around
    }

    fn mean_at(&self, row: usize, col: usize) -> Option<f64> {
        Some(self.s.mean[[row, col]]).filter(|v| v.is_finite())
    }

    fn flaw_inside(&self, row: usize, col: usize) -> Option<Flaw> {
        let inside = |r, c| self.zone(r, c) == Zone::Inside;
        let mut means = self.around((row, col), REACH, |r, c| self.mean_at(r, c).filter(|_| inside(r, c)));
        if means.len() < FEWEST_NEIGHBOURS {
            return self.counts_nothing(row, col).then_some(Flaw::Dead);
        }
        let (level, spread) = level_and_spread(&mut means);
        if level <= 0.0 {
            return None;
        }
        let mut varied = self.around((row, col), REACH, |r, c| self.s.dispersion_at(r, c).filter(|_| inside(r, c)));
        let dispersion = if varied.is_empty() { (self.typical, 0.0) } else { level_and_spread(&mut varied) };
        let value = self.s.mean[[row, col]];
        let ratio = (value / level).max(0.0);
        let sure = deviance(self.counts(level, dispersion.0), ratio) > SURE
            && (value - level).abs() > 6.0 * (GAIN_SPREAD * level).hypot(spread);
        let close = || self.around((row, col), 1, |r, c| self.mean_at(r, c));
        if ratio > 1.5 && sure && (ratio > 10.0 || stands_above(value, level, &close())) {
            return Some(Flaw::Hot);
        }
        if (ratio < 0.5 && sure && (ratio < 0.02 || stands_below(value, level, &close())))
            || self.counts_nothing(row, col)
        {
            return Some(Flaw::Dead);
        }
        self.varies_unusually((row, col), dispersion, varied.len()).then_some(Flaw::Outlier)
    }

    /// Whether the variance over the scan is more than three times, or less than a fifth of, what the neighbours show.
    fn varies_unusually(&self, at: (usize, usize), (level, spread): (f64, f64), neighbours: usize) -> bool {
        let Some(value) = self.s.dispersion_at(at.0, at.1) else { return false };
        if level <= 0.0 || neighbours < FEWEST_NEIGHBOURS {
            return false;
        }
        // A variance out of n samples has a relative standard deviation of sqrt(2 / n).
        let noise = level * (2.0 / self.s.frames as f64).sqrt();
        let close = || self.around(at, 1, |r, c| self.s.dispersion_at(r, c));
        let more = value > 3.0 * level && value - level > 8.0 * noise.hypot(spread);
        let less = value < 0.2 * level && level - value > 5.0 * noise.max(spread);
        (more && stands_above(value, level, &close())) || (less && stands_below(value, level, &close()))
    }

    /// Whether a pixel without any count lies between pixels that all but surely would count.
    fn counts_nothing(&self, row: usize, col: usize) -> bool {
        if self.s.mean[[row, col]] != 0.0 {
            return false;
        }
        let mut close = self.around((row, col), 1, |r, c| self.mean_at(r, c).filter(|v| *v > 0.0));
        close.sort_unstable_by(f64::total_cmp);
        // A dead row takes two of the eight.
        close.len() >= 5 && self.counts(close[1], self.typical) > ENOUGH_COUNTS
    }

    fn flaw_at_the_edge(&self, row: usize, col: usize) -> Option<Flaw> {
        if self.s.distance(row, col) <= self.s.radius - 0.5 && self.counts_nothing(row, col) {
            return Some(Flaw::Dead);
        }
        let around = self.around((row, col), REACH, |r, c| self.mean_at(r, c));
        self.is_far_above((row, col), around).then_some(Flaw::Hot)
    }

    fn is_hot_outside(&self, row: usize, col: usize) -> bool {
        let around =
            self.around((row, col), REACH, |r, c| self.mean_at(r, c).filter(|_| self.zone(r, c) == Zone::Outside));
        around.len() >= FEWEST_NEIGHBOURS / 2 && self.is_far_above((row, col), around)
    }

    /// Whether a pixel is more than three times as bright as the second brightest of `around`.
    fn is_far_above(&self, (row, col): (usize, usize), mut around: Around) -> bool {
        around.sort_unstable_by(f64::total_cmp);
        let Some(second) = around.len().checked_sub(2).map(|i| around[i]) else { return false };
        // Where nothing was counted, one count is not unusual.
        let level = second.max(self.typical / self.s.frames as f64);
        let ratio = self.s.mean[[row, col]] / level;
        ratio > 3.0 && deviance(self.counts(level, self.typical), ratio) > SURE
    }

    /// Independent counts that a mean of `level` stands for: infinite for data without noise.
    fn counts(&self, level: f64, dispersion: f64) -> f64 {
        if dispersion > 0.0 { self.s.frames as f64 * level / dispersion } else { f64::INFINITY }
    }
}

/// Standard deviations by which `ratio` times the expected number of counts is off: the signed root of the Poisson
/// deviance, which is closer to a normal distribution in the tails than the difference over its root.
fn deviance(expected: f64, ratio: f64) -> f64 {
    let logarithm = if ratio > 0.0 { ratio * ratio.ln() } else { 0.0 };
    (2.0 * expected * (logarithm - ratio + 1.0).max(0.0)).sqrt()
}

/// Whether all but one of `close` lie below the middle between `level` and `value`.
fn stands_above(value: f64, level: f64, close: &[f64]) -> bool {
    let middle = f64::midpoint(value, level);
    close.iter().filter(|v| **v > middle).count() <= 1
}

/// Whether all but one lie above it; zeros left out, because a row of dead pixels is not what a dead pixel should be compared
/// with.
fn stands_below(value: f64, level: f64, close: &[f64]) -> bool {
    let middle = f64::midpoint(value, level);
    close.iter().filter(|v| **v != 0.0 && **v < middle).count() <= 1
}

/// Median, and median of the distances from it in terms of a standard deviation. The distances take the values' place.
fn level_and_spread(values: &mut [f64]) -> (f64, f64) {
    let level = median(values);
    for value in &mut *values {
        *value = (*value - level).abs();
    }
    (level, 1.4826 * median(values))
}

fn median(values: &mut [f64]) -> f64 {
    let (half, even) = (values.len() / 2, values.len().is_multiple_of(2));
    let (below, middle, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    // The largest of those below is the other one in the middle.
    let other = below.iter().copied().max_by(f64::total_cmp).filter(|_| even);
    other.map_or(*middle, |other| f64::midpoint(other, *middle))
}

#[cfg(test)]
mod tests;
