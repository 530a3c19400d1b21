//! From numbers to brightness: contrast limits that a few hot pixels cannot spoil, and images of another size.

use std::cmp::Ordering;
use std::ops::Range;

use ndarray::{CowArray, Ix2, s};

use crate::axes::Image;
use crate::kernel::simd::dispatch;

/// Which numbers become the darkest and the brightest, and how those between are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tone {
    /// The lowest number.
    pub(super) low: f64,
    /// The highest number.
    pub(super) high: f64,
    /// Spread by the square root, which shows the weak parts of a diffraction pattern.
    pub(super) sqrt: bool,
}

impl Tone {
    /// From the 0.5th to the 99.5th percentile of the finite values; both NaN when there are none.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = percentiles(values, 0.005, 0.995).unwrap_or((f64::NAN, f64::NAN));
        Self { low, high, sqrt: false }
    }

    /// [`of`](Self::of) an image.
    pub(super) fn of_image(image: &Image) -> Self {
        let image = image.as_standard_layout();
        let values = image.as_slice().unwrap_or_default();
        Self::of(spread(values.len()).map(|i| values[i]))
    }

    /// Symmetric around zero, to the 99th percentile of the absolute values.
    pub(super) fn around_zero(values: impl Iterator<Item = f64>) -> Self {
        let limit = percentiles(values.map(f64::abs), 0.0, 0.99).map_or(0.0, |(_, high)| high);
        // No shift anywhere: the middle colour between any limits.
        let limit = if limit > 0.0 { limit } else { 1.0 };
        Self { low: -limit, high: limit, sqrt: false }
    }

    /// The same limits with square-root contrast.
    pub(super) fn with_sqrt(self) -> Self {
        // `clamp` keeps NaN, `max` would make it zero.
        let positive = |v: f64| v.clamp(0.0, f64::INFINITY);
        Self { sqrt: true, low: positive(self.low), high: positive(self.high) }
    }

    /// Whether all numbers look the same.
    pub(super) fn is_flat(self) -> bool {
        self.low.partial_cmp(&self.high) != Some(Ordering::Less)
    }

    /// The number at the middle between dark and bright.
    pub(super) fn middle(self) -> f64 {
        if self.sqrt { (0.5 * (self.low.sqrt() + self.high.sqrt())).powi(2) } else { 0.5 * self.low + 0.5 * self.high }
    }

    /// Where `value` lies, 0 lowest to 1 highest; NaN for NaN, the middle when all are the same.
    #[inline]
    pub(super) fn position(self, value: f64) -> f64 {
        if value.is_nan() {
            f64::NAN
        } else if self.is_flat() {
            0.5
        } else if self.sqrt {
            let root = |v: f64| v.max(0.0).sqrt();
            (root(value) - root(self.low)) / (root(self.high) - root(self.low))
        } else {
            // Halved, because the difference of two numbers may be beyond the largest one.
            (0.5 * value - 0.5 * self.low) / (0.5 * self.high - 0.5 * self.low)
        }
    }

    /// [`position`](Self::position) of many values, with the ordinary kind of contrast several at a time.
    pub(super) fn positions(self, values: &[f64], out: &mut [f64]) {
        if self.sqrt || self.is_flat() {
            out.iter_mut().zip(values).for_each(|(out, value)| *out = self.position(*value));
            return;
        }
        let (low, span) = (0.5 * self.low, 0.5 * self.high - 0.5 * self.low);
        dispatch(
            #[inline(always)]
            || out.iter_mut().zip(values).for_each(|(out, value)| *out = (0.5 * value - low) / span),
        );
    }
}

/// Values that percentiles are found from; of more, every so many-th is taken.
const ENOUGH: usize = 1 << 15;

/// Every so many-th of `count` values, in order: all of few, and of many some that are spread over them. Limits of contrast
/// need no more.
pub(super) fn spread(count: usize) -> impl Iterator<Item = usize> + Clone {
    // An odd step, so that it does not keep to some columns of an image whose width is a power of two.
    (0..count).step_by(if count > 2 * ENOUGH { (count / ENOUGH) | 1 } else { 1 })
}

/// Two percentiles (0–1) of the finite values, or `None` without any.
fn percentiles(values: impl Iterator<Item = f64>, low: f64, high: f64) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    let last = values.len().checked_sub(1)?;
    let mut at = |share: f64| *values.select_nth_unstable_by((share * last as f64).round() as usize, f64::total_cmp).1;
    Some((at(low), at(high)))
}

/// `image` on `rows` × `cols` pixels, each the mean of what it covers; where a pixel covers a part of one only
/// (magnification), its value. NaN counts only where there is nothing else.
pub(super) fn resample(image: &Image, rows: usize, cols: usize) -> Image {
    let mut all = Image::zeros((rows, cols));
    let resampling = Resampling::new(image, rows, cols);
    resampling.rows(0..rows, |row, values| {
        if let Some(values) = values {
            all.row_mut(row).assign(&ndarray::aview1(values));
        } else {
            let (above, mut here) = all.multi_slice_mut((s![row - 1, ..], s![row, ..]));
            here.assign(&above);
        }
    });
    all
}

/// As [`resample`], some rows at a time.
pub(super) struct Resampling<'a> {
    image: CowArray<'a, f64, Ix2>,
    across: Vec<Cover>,
    down: Vec<Cover>,
}

impl<'a> Resampling<'a> {
    pub(super) fn new(image: &'a Image, rows: usize, cols: usize) -> Self {
        let (across, down) = (covers(image.ncols(), cols), covers(image.nrows(), rows));
        Self { image: image.as_standard_layout(), across, down }
    }

    /// Hands each of these rows of the result, its number and its values, to `take`, from above; `None` where they are those
    /// of the row before.
    pub(super) fn rows(&self, range: Range<usize>, mut take: impl FnMut(usize, Option<&[f64]>)) {
        let Self { image, across, down } = self;
        let width = image.ncols();
        let line = |row: usize| &image.as_slice().unwrap_or_default()[row * width..(row + 1) * width];
        let mut sums = Sums { parts: vec![0.0; width], weights: vec![0.0; width] };
        let mut out = vec![0.0; across.len()];
        let plain = image.ncols() == across.len();
        let mut before = None;
        for (number, down) in range.clone().zip(&down[range]) {
            if down.is_single() && before == Some(down.first) {
                take(number, None);
                continue;
            }
            before = down.is_single().then_some(down.first);
            if down.is_single() && plain {
                take(number, Some(line(down.first)));
                continue;
            }
            if down.is_single() {
                self.along(line(down.first), &mut out);
            } else {
                // First the rows under a row of the result, each with its share, several numbers at a time; then along it.
                sums.add_up(down.shares.iter().zip((down.first..).map(line)));
                self.along_sums(&sums, &mut out);
            }
            take(number, Some(&out));
        }
    }

    /// A row of the result that lies on one row of the image.
    fn along(&self, line: &[f64], out: &mut [f64]) {
        for (out, across) in out.iter_mut().zip(&self.across) {
            let Cover { first, shares } = across;
            *out = if let [_] = shares[..] {
                line[*first]
            } else {
                let known = shares.iter().zip(&line[*first..]).filter(|(_, value)| !value.is_nan());
                let (sum, weight) = known.fold((0.0, 0.0), |(s, w), (share, value)| (s + value * share, w + share));
                if weight > 0.0 { sum / weight } else { f64::NAN }
            };
        }
    }

    /// A row of the result that lies on several.
    fn along_sums(&self, Sums { parts, weights }: &Sums, out: &mut [f64]) {
        for (out, across) in out.iter_mut().zip(&self.across) {
            let (mut sum, mut weight) = (0.0, 0.0);
            for (share, (part, known)) in
                across.shares.iter().zip(parts[across.first..].iter().zip(&weights[across.first..]))
            {
                sum += part * share;
                weight += known * share;
            }
            *out = if weight > 0.0 { sum / weight } else { f64::NAN };
        }
    }
}

/// Rows added up with their shares: what is no number is not in the sum, nor its share in the weight.
struct Sums {
    parts: Vec<f64>,
    weights: Vec<f64>,
}

impl Sums {
    fn add_up<'l>(&mut self, lines: impl Iterator<Item = (&'l f64, &'l [f64])>) {
        self.parts.fill(0.0);
        self.weights.fill(0.0);
        for (share, line) in lines {
            dispatch(
                #[inline(always)]
                || {
                    for ((sum, weight), value) in self.parts.iter_mut().zip(&mut self.weights).zip(line) {
                        let known = !value.is_nan();
                        *sum += if known { value * share } else { 0.0 };
                        *weight += if known { *share } else { 0.0 };
                    }
                },
            );
        }
    }
}

/// What lies under one pixel: of the pixels from `first` on these parts.
struct Cover {
    first: usize,
    shares: Vec<f64>,
}

impl Cover {
    fn is_single(&self) -> bool {
        self.shares.len() == 1
    }
}

/// Which of `from` pixels lie under each of `to` pixels of the same length together.
fn covers(from: usize, to: usize) -> Vec<Cover> {
    let step = from as f64 / to as f64;
    let of = |index: usize| {
        let (start, end) = (index as f64 * step, (index + 1) as f64 * step);
        let share = |i: usize| end.min((i + 1) as f64) - start.max(i as f64);
        // Rounding lets a pixel reach a hair's breadth into its neighbour.
        let touched = |i: &usize| share(*i) > 1e-9;
        let reached = start.floor() as usize..(end.ceil() as usize).min(from);
        let first = reached.clone().find(touched).unwrap_or(0);
        Cover { first, shares: reached.filter(touched).map(share).collect() }
    };
    (0..to).map(of).collect()
}

/// Three significant digits, without an exponent where a person would not write one.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.1e}")
    } else {
        let digits = (2 - size.log10().floor() as i32).clamp(0, 5) as usize;
        let text = format!("{value:.digits$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    }
}

/// A length for a scale bar: 1, 2 or 5 times a power of ten, at most `longest`, and within a factor 2.5 of it.
pub(super) fn round_length(longest: f64) -> f64 {
    let decade = 10f64.powf(longest.log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|n| n * decade).find(|&l| l <= longest * (1.0 + 1e-9)).unwrap_or(decade)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn a_few_hot_pixels_and_infinities_do_not_spoil_the_contrast() {
        let values = (0..1000).map(f64::from).chain([1e12, f64::INFINITY, f64::NAN, f64::NEG_INFINITY]);
        let tone = Tone::of(values);
        assert_eq!((tone.low, tone.high), (5.0, 995.0));
        assert!(tone.position(f64::NAN).is_nan());
        assert_eq!(tone.position(995.0), 1.0);
    }

    #[test]
    fn images_without_contrast_or_without_numbers_are_shown() {
        assert_eq!(Tone::of([3.0; 9].into_iter()).position(3.0), 0.5);
        assert_eq!(Tone::of(std::iter::empty()).position(3.0), 0.5);
        assert_eq!(Tone::around_zero([0.0; 4].into_iter()).position(0.0), 0.5);
        assert!(Tone::of([-f64::MAX, f64::MAX].into_iter()).position(0.0) == 0.5);
    }

    #[test]
    fn many_values_lie_where_single_ones_do() {
        let values = [-3.0, 0.0, 0.1, 1.0 / 3.0, 7.5, 1e300, -f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        let tones = [(0.1, 7.3), (-f64::MAX, f64::MAX), (2.0, 2.0), (f64::NAN, f64::NAN), (-4.0, 9.0)];
        for tone in
            tones.map(|(low, high)| Tone { low, high, sqrt: false }).into_iter().flat_map(|t| [t, t.with_sqrt()])
        {
            let mut places = [0.0; 10];
            tone.positions(&values, &mut places);
            for (value, place) in values.iter().zip(places) {
                let single = tone.position(*value);
                assert!(place == single || (place.is_nan() && single.is_nan()), "{tone:?} {value}: {place}, {single}");
            }
        }
    }

    #[test]
    fn magnifying_by_a_whole_number_repeats_pixels_and_reducing_takes_means() {
        let image = ndarray::arr2(&[[1.0, 2.0], [3.0, f64::NAN]]);
        assert_eq!(resample(&image, 2, 2).row(0), image.row(0));
        let large = resample(&image, 6, 4);
        assert_eq!((large[[0, 0]], large[[2, 1]], large[[0, 2]], large[[5, 0]]), (1.0, 1.0, 2.0, 3.0));
        assert!(large[[5, 3]].is_nan());
        assert_eq!(resample(&image, 1, 1)[[0, 0]], 2.0);
        let sum: f64 = resample(&Image::from_elem((7, 9), 2.0), 5, 4).sum();
        assert!((sum - 40.0).abs() < 1e-9);
    }

    #[test]
    fn scale_bars_have_round_lengths() {
        for (longest, length) in [(7.3, 5.0), (49.0, 20.0), (1.0, 1.0), (0.0021, 0.002), (199.0, 100.0), (50.0, 50.0)] {
            assert!((round_length(longest) / length - 1.0).abs() < 1e-9, "{longest}");
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in
            [(0.0, "0"), (1234.6, "1235"), (0.01234, "0.0123"), (-2.5, "-2.5"), (1e-9, "1.0e-9"), (2e7, "2.0e7")]
        {
            assert_eq!(number(value), text);
        }
    }

    /// The mean over what a pixel covers, value by value.
    fn naive(image: &Image, rows: usize, cols: usize) -> Image {
        let share = |i: usize, n: usize, from: usize, to: usize| {
            let step = from as f64 / to as f64;
            (((n + 1) as f64 * step).min((i + 1) as f64) - (n as f64 * step).max(i as f64)).max(0.0)
        };
        Image::from_shape_fn((rows, cols), |(r, c)| {
            let (mut sum, mut weight) = (0.0, 0.0);
            for ((i, j), value) in image.indexed_iter().filter(|(_, value)| !value.is_nan()) {
                let part = share(i, r, image.nrows(), rows) * share(j, c, image.ncols(), cols);
                sum += value * part;
                weight += part;
            }
            if weight > 1e-9 { sum / weight } else { f64::NAN }
        })
    }

    #[test]
    fn resampling_agrees_with_the_mean_pixel_by_pixel() {
        let image = Image::from_shape_fn((23, 41), |(r, c)| match (r * 41 + c) * 7919 % 100 {
            0..10 => f64::NAN,
            k => k as f64 - 30.0,
        });
        for (rows, cols) in [(5, 7), (22, 41), (23, 40), (46, 41), (60, 100), (1, 1)] {
            let (fast, slow) = (resample(&image, rows, cols), naive(&image, rows, cols));
            for (a, b) in fast.iter().zip(&slow) {
                assert!((a - b).abs() < 1e-9 || (a.is_nan() && b.is_nan()), "{rows}×{cols}: {a} {b}");
            }
        }
    }

    #[test]
    fn limits_of_a_large_image_come_from_all_over_it() {
        let image = Image::from_shape_fn((1024, 1024), |(r, c)| (r * 1024 + c) as f64);
        let tone = Tone::of_image(&image);
        assert!((tone.low / (1 << 20) as f64 - 0.005).abs() < 1e-3, "{tone:?}");
        assert!((tone.high / (1 << 20) as f64 - 0.995).abs() < 1e-3, "{tone:?}");
    }
}
