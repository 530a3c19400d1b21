//! Colours for numbers, built so that equal differences in a number look equally different.
//!
//! The colours are chosen in the `OKLab` space (B. Ottosson, "A perceptual color space for image processing",
//! 2020), where distance is meant to be perceived difference: a path through it is drawn and then walked in equal
//! steps. Lightness always changes in one direction, so that the maps also work in grey and for the colour-blind.

use std::sync::LazyLock;

use ndarray::Array2;

use super::tone::Tone;
use crate::axes::Image;
use crate::kernel::simd::dispatch;

/// Red, green, blue, as a screen wants them.
pub(super) type Rgb = [u8; 3];

/// Shown where there is no number: a colour that no map contains.
pub(super) const NOT_A_NUMBER: Rgb = [150, 40, 110];

/// A few less than a palette has, so that a picture of one map, with its ground, words and marks, needs no more.
const STEPS: usize = 248;
/// Numbers that are turned into colours together.
const TOGETHER: usize = 64;

/// A table of colours from the lowest to the highest number.
#[derive(Debug, Clone)]
pub(super) struct Colormap(Vec<Rgb>);

impl Colormap {
    /// Black to white, for images.
    pub(super) fn grey() -> Self {
        Self((0..STEPS).map(|i| [(i as f64 * 255.0 / (STEPS - 1) as f64).round() as u8; 3]).collect())
    }

    /// Dark violet over teal and green to light yellow, for quantities that begin somewhere.
    pub(super) fn sequential() -> Self {
        static WALKED: LazyLock<Vec<Rgb>> =
            LazyLock::new(|| walk(STEPS, |t| polar(0.20 + 0.75 * t, 0.07 + 0.10 * (t * (2.0 - t)), 305.0 - 200.0 * t)));
        Self(WALKED.clone())
    }

    /// Blue over near-white to red, for quantities with a zero. Both ends are equally dark.
    pub(super) fn diverging() -> Self {
        static WALKED: LazyLock<Vec<Rgb>> = LazyLock::new(|| {
            let half = |hue: f64| walk(STEPS / 2, move |t| polar(0.96 - 0.54 * t, 0.17 * t, hue));
            let mut colors: Vec<Rgb> = half(255.0).into_iter().rev().collect();
            colors.extend(half(32.0));
            colors
        });
        Self(WALKED.clone())
    }

    /// The colour at `at`, 0 the lowest to 1 the highest; beyond, the colour of the end.
    #[inline]
    pub(super) fn color(&self, at: f64) -> Rgb {
        self.0.get(usize::from(place(at))).copied().unwrap_or(NOT_A_NUMBER)
    }

    /// The map's colours, from the lowest to the highest number.
    pub(super) fn all(&self) -> &[Rgb] {
        &self.0
    }

    /// The map in what a sheet holds for each pixel, for [`paint`].
    pub(super) fn inks<P>(&self, of: impl Fn(Rgb) -> P) -> Vec<P> {
        self.0.iter().chain([&NOT_A_NUMBER]).map(|color| of(*color)).collect()
    }
}

/// [`Colormap::color`] of many numbers, for as many pixels, by the map's [inks](Colormap::inks); those beyond stay.
pub(super) fn paint<P: Copy>(inks: &[P], numbers: &[f64], pixels: &mut [P]) {
    let mut places = [0u16; TOGETHER];
    let missing = inks[inks.len() - 1];
    for (numbers, pixels) in numbers.chunks(TOGETHER).zip(pixels.chunks_mut(TOGETHER)) {
        dispatch(
            #[inline(always)]
            || places.iter_mut().zip(numbers).for_each(|(to, number)| *to = place(*number)),
        );
        for (pixel, at) in pixels.iter_mut().zip(&places[..numbers.len()]) {
            *pixel = inks.get(usize::from(*at)).copied().unwrap_or(missing);
        }
    }
}

impl Colormap {
    /// The colours of an image; `missing` where there is no number.
    pub(super) fn colors(&self, image: &Image, tone: Tone, missing: Rgb) -> Array2<Rgb> {
        let image = image.as_standard_layout();
        let width = image.ncols().max(1);
        let mut colors = Array2::from_elem(image.dim(), missing);
        let lines = image.as_slice().unwrap_or_default().chunks(width);
        let (mut places, inks) = (vec![0.0; width], self.inks(|color| color));
        for (values, pixels) in lines.zip(colors.as_slice_mut().unwrap_or_default().chunks_mut(width)) {
            tone.positions(values, &mut places);
            paint(&inks, &places, pixels);
            let unknown = values.iter().zip(pixels).filter(|(value, _)| value.is_nan());
            unknown.for_each(|(_, pixel)| *pixel = missing);
        }
        colors
    }
}

/// From here on an `f64` has no fraction.
const WHOLE: f64 = (1u64 << 52) as f64;

/// Which colour of a map a number has; beyond all of them for what is no number.
#[inline(always)]
#[expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]
fn place(number: f64) -> u16 {
    // Comparisons and not `clamp`, and the lowest bits of a number so large that it has no fraction and not a cast: both are done
    // for many at a time.
    let held = if number > 0.0 { number } else { 0.0 };
    let held = if held < 1.0 { held } else { 1.0 };
    let place = (held * (STEPS - 1) as f64 + WHOLE).to_bits() as u16;
    if number.is_nan() { u16::MAX } else { place }
}

/// A colour in `OKLab`: lightness 0–1, and two opponent axes.
type Lab = [f64; 3];

/// Lightness, chroma and hue (degrees); the chroma is lowered until a screen can show the colour.
fn polar(lightness: f64, chroma: f64, hue: f64) -> Lab {
    let (sin, cos) = hue.to_radians().sin_cos();
    let at = |chroma: f64| [lightness, chroma * cos, chroma * sin];
    let (mut low, mut high) = (0.0, chroma);
    if visible(at(high)) {
        return at(high);
    }
    for _ in 0..30 {
        let middle = 0.5 * (low + high);
        if visible(at(middle)) { low = middle } else { high = middle }
    }
    at(low)
}

fn visible(color: Lab) -> bool {
    linear_rgb(color).iter().all(|v| (0.0..=1.0).contains(v))
}

/// `OKLab` to linear sRGB, with the matrices of the publication.
fn linear_rgb([l, a, b]: Lab) -> [f64; 3] {
    let long = (l + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let medium = (l - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let short = (l - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    [
        4.076_741_662_1 * long - 3.307_711_591_3 * medium + 0.230_969_929_2 * short,
        -1.268_438_004_6 * long + 2.609_757_401_1 * medium - 0.341_319_396_5 * short,
        -0.004_196_086_3 * long - 0.703_418_614_7 * medium + 1.707_614_701_0 * short,
    ]
}

/// With the sRGB transfer curve (IEC 61966-2-1).
fn screen(color: Lab) -> Rgb {
    linear_rgb(color).map(|v| {
        let v = v.clamp(0.0, 1.0);
        let v = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
        (v * 255.0).round() as u8
    })
}

/// Walks `path` (parameter 0 to 1) in `count` steps of equal length in `OKLab`.
fn walk(count: usize, path: impl Fn(f64) -> Lab) -> Vec<Rgb> {
    const FINE: usize = 2000;
    let points: Vec<Lab> = (0..=FINE).map(|i| path(i as f64 / FINE as f64)).collect();
    let mut travelled = vec![0.0];
    for pair in points.windows(2) {
        travelled.push(travelled[travelled.len() - 1] + distance(pair[0], pair[1]));
    }
    let whole = travelled[FINE];
    (0..count)
        .map(|i| {
            let goal = whole * i as f64 / (count - 1) as f64;
            screen(points[travelled.partition_point(|&d| d < goal).min(FINE)])
        })
        .collect()
}

fn distance(a: Lab, b: Lab) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance of the screen colour, the measure of what grey print keeps.
    fn luminance(color: Rgb) -> f64 {
        let v = color.map(|v| (f64::from(v) / 255.0).powf(2.2));
        0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]
    }

    #[test]
    fn lightness_rises_through_the_sequential_map_and_falls_from_the_middle_of_the_diverging_one() {
        let map = Colormap::sequential();
        for pair in map.0.chunks(8).map(|c| luminance(c[0])).collect::<Vec<_>>().windows(2) {
            assert!(pair[0] < pair[1]);
        }
        let map = Colormap::diverging();
        let light = |at: f64| luminance(map.color(at));
        for i in 1..=20 {
            let out = f64::from(i) / 40.0;
            assert!(light(0.5 + out) < light(0.475 + out) && light(0.5 - out) < light(0.525 - out), "{out}");
            assert!((light(0.5 + out) - light(0.5 - out)).abs() < 0.06, "{out}: one side is darker");
        }
    }

    #[test]
    fn equal_steps_in_a_number_are_equal_steps_in_colour() {
        // Ottosson's forward transform, the inverse of `linear_rgb`.
        let lab = |color: Rgb| {
            let [r, g, b] = color.map(|v| {
                let v = f64::from(v) / 255.0;
                if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
            });
            let long = (0.412_221_470_8 * r + 0.536_332_536_3 * g + 0.051_445_992_9 * b).cbrt();
            let medium = (0.211_903_498_2 * r + 0.680_699_545_1 * g + 0.107_396_956_6 * b).cbrt();
            let short = (0.088_302_461_9 * r + 0.281_718_837_6 * g + 0.629_978_700_5 * b).cbrt();
            [
                0.210_454_255_3 * long + 0.793_617_785_0 * medium - 0.004_072_046_8 * short,
                1.977_998_495_1 * long - 2.428_592_205_0 * medium + 0.450_593_709_9 * short,
                0.025_904_037_1 * long + 0.782_771_766_2 * medium - 0.808_675_766_0 * short,
            ]
        };
        for (name, map) in [("sequential", Colormap::sequential()), ("diverging", Colormap::diverging())] {
            // Many entries at a time: single ones are rounded to whole numbers of the screen. Four parts on each side of the
            // middle, where a map may turn.
            const PART: usize = STEPS / 8;
            let steps: Vec<f64> = (0..7).map(|i| distance(lab(map.0[i * PART]), lab(map.0[(i + 1) * PART]))).collect();
            let mean = steps.iter().sum::<f64>() / steps.len() as f64;
            for step in steps {
                assert!((step / mean - 1.0).abs() < 0.15, "{name}: {step} of {mean}");
            }
        }
    }

    #[test]
    fn what_is_no_number_has_its_own_colour_and_infinities_those_of_the_ends() {
        for map in [Colormap::grey(), Colormap::sequential(), Colormap::diverging()] {
            assert_eq!(map.color(f64::NAN), NOT_A_NUMBER);
            assert!(!map.0.contains(&NOT_A_NUMBER));
            assert_eq!((map.color(f64::NEG_INFINITY), map.color(f64::INFINITY)), (map.0[0], map.0[STEPS - 1]));
        }
    }

    #[test]
    fn many_numbers_get_the_colours_of_single_ones() {
        let map = Colormap::sequential();
        let numbers: Vec<f64> =
            (0..200).map(|i| f64::from(i) / 150.0 - 0.1).chain([f64::NAN, f64::INFINITY, f64::NEG_INFINITY]).collect();
        // A row goes on beside the image.
        let mut pixels = vec![[1; 3]; numbers.len() + 30];
        paint(&map.inks(|color| color), &numbers, &mut pixels);
        let (painted, beyond) = pixels.split_at(numbers.len());
        assert_eq!(painted, numbers.iter().map(|number| map.color(*number)).collect::<Vec<_>>());
        assert!(beyond.iter().all(|pixel| *pixel == [1; 3]));
    }
}
