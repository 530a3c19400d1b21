//! What was gained: the middle of the scan before and after at the scale of pixels, and both power spectra on the
//! same axes.

use ndarray::Array2;

use super::canvas::AMBER;
use super::charts::Aperture;
use super::colormap::{Colormap, Rgb};
use super::inset::{Drawing, GROUND, Inset, SIDE};
use super::run::RunResults;
use super::spectrum::{Sampled, Spectra, Spectrum, Window};
use super::tone::{Tone, number, round_length};
use crate::axes::{Image, Plane};

/// Pixels of the sheet for a scan position, about.
const POSITION: usize = 12;
const LIMIT: Rgb = [70, 205, 235];
/// Decades of power that a spectrum shows at most.
const DECADES: f64 = 5.0;

/// The two details, of a run and its sampled image.
pub(super) fn details(run: &RunResults, superres: &Sampled<'_>) -> Vec<Inset> {
    let (detail, standard) = (Detail::of(run), Sampled::whole(&run.standard_bf));
    let (standard, superres) = rayon::join(
        || detail.inset(run, "standard", &standard, 1),
        || detail.inset(run, "super-resolved", superres, run.upscale),
    );
    vec![standard, superres]
}

/// The two spectra, on frequencies as far as the super-resolved image has them.
pub(super) fn spectra(run: &RunResults, spectra: &Spectra) -> Vec<Inset> {
    let limit = 0.5 * run.upscale as f64;
    let (superres, standard) = rayon::join(
        || spectrum(run, "super-resolved, power spectrum", &spectra.superres, limit),
        || spectrum(run, "standard, power spectrum", &spectra.standard, limit),
    );
    vec![standard, superres]
}

/// A window of the scan and how large it is shown.
struct Detail {
    window: Window,
    /// Pixels of the sheet per scan position: a whole number of them for every super-resolved pixel.
    scale: f64,
}

impl Detail {
    fn of(run: &RunResults) -> Self {
        let times = run.upscale;
        let most = SIDE / (times * (POSITION / times).max(1));
        let window = Window::central(run.scan, most);
        let whole = SIDE / (times * window.rows.max(window.cols));
        let scale = if whole > 0 { (whole * times) as f64 } else { SIDE as f64 / window.rows.max(window.cols) as f64 };
        Self { window, scale }
    }

    /// `times` pixels of `image` per scan position, every pixel a square around its place: pixel `times · i` lies at
    /// scan position `i`.
    fn inset(&self, run: &RunResults, name: &str, image: &Sampled<'_>, times: usize) -> Inset {
        let Window { row, col, rows, cols } = self.window;
        let side = |n: usize| ((n as f64 * self.scale).round() as usize).max(1);
        let ratio = run.upscale as f64 / times as f64;
        // From the edge of the first super-resolved pixel, half of one before its middle.
        let index = |pixel: usize, first: usize, length: usize| {
            let fine = (pixel as f64 + 0.5) / self.scale * run.upscale as f64 - 0.5 + (first * run.upscale) as f64;
            ((fine / ratio + 0.5).floor().max(0.0) as usize).min(length - 1)
        };
        let across: Vec<usize> = (0..side(cols)).map(|c| index(c, col, image.dim().1)).collect();
        let down: Vec<usize> = (0..side(rows)).map(|r| index(r, row, image.dim().0)).collect();
        let part = Image::from_shape_fn((down.len(), across.len()), |(r, c)| image.at(down[r], across[c]));
        let tone = Tone::of(part.iter().copied());
        let map = Colormap::grey();
        // Where no sample fell it is dark, as on the large image.
        let missing = map.color(if times > 1 { tone.position(tone.low) } else { f64::NAN });
        let step = run.pixel_size(Plane::Scan);
        let pixels = match step {
            Some(step) => format!("{} Å pixels", number(step / times as f64)),
            None if times == 1 => "pixels of the scan".to_owned(),
            None => format!("{times}×{times} per position"),
        };
        Inset {
            title: format!("{name}, {pixels}"),
            colors: map.colors(&part, tone, missing),
            drawings: Vec::new(),
            scale_bar: step.and_then(|step| scale_bar(step / self.scale, side(cols))),
            color_bar: None,
            caption: vec![format!("middle {rows}×{cols} of {}", run.scan)],
        }
    }
}

/// A round length of about a third of `width` pixels of `size` Å each.
fn scale_bar(size: f64, width: usize) -> Option<(usize, String)> {
    let whole = size * width as f64;
    let (unit, name) = if whole < 30.0 { (1.0, "Å") } else { (10.0, "nm") };
    let length = round_length(whole / 3.0 / unit);
    let pixels = (length * unit / size).round() as usize;
    ((1e-3..1e6).contains(&length) && pixels > 0).then(|| (pixels, format!("{} {name}", number(length))))
}

fn spectrum(run: &RunResults, title: &str, spectrum: &Spectrum, limit: f64) -> Inset {
    let view = spectrum.view(SIDE, limit);
    let per_cycle = SIDE as f64 / (2.0 * limit);
    let middle = 0.5 * SIDE as f64;
    let nyquist = 0.5 * per_cycle;
    let mut drawings = vec![Drawing::frame([middle - nyquist; 2], [middle + nyquist; 2], 1.0, AMBER)];
    let step = run.pixel_size(Plane::Scan);
    let mut caption = vec![match step {
        Some(step) => format!("frame: scan Nyquist, {} 1/Å", number(0.5 / step)),
        None => "frame: Nyquist of the scan".to_owned(),
    }];
    if let Some((step, aperture)) = step.zip(Aperture::of(run)) {
        let information = aperture.information_limit();
        if information * step * per_cycle < 1.5 * middle {
            drawings.push(Drawing::Circle {
                center: [middle; 2],
                radius: information * step * per_cycle,
                color: LIMIT,
            });
            caption.push(format!("circle: limit 2 k_max, {} 1/Å", number(information)));
        }
    }
    Inset { title: title.into(), colors: shades(&view), drawings, scale_bar: None, color_bar: None, caption }
}

/// Logarithms as greys: from the weaker half up to the strongest few pixels.
fn shades(view: &Image) -> Array2<Rgb> {
    let mut values: Vec<f64> = view.iter().copied().filter(|v| v.is_finite()).collect();
    let last = values.len().saturating_sub(1) as f64;
    let mut at = |share: f64| match values.len() {
        0 => f64::NAN,
        _ => *values.select_nth_unstable_by((share * last) as usize, f64::total_cmp).1,
    };
    let (low, high) = (at(0.02), at(0.9995));
    let tone = Tone { low: low.max(high - DECADES), high, sqrt: false };
    Colormap::grey().colors(view, tone, GROUND)
}
