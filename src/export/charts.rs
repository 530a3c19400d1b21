//! The curves that tell how good an image is: Fourier ring correlation, contrast transfer, power over frequency.

use std::f64::consts::{FRAC_2_PI, PI};

use super::canvas::{BRIGHT, DIM, Point};
use super::plot::{COLORS, Guide, Plot, PlotCurve};
use super::run::RunResults;
use super::spectrum::Spectra;
use super::ticks::Scale;
use super::tone::number;
use crate::axes::{Plane, wavelength_angstrom};
use crate::cache::Curve;

/// Points on a calculated curve: more than pixels, so that fast oscillations are not skipped.
const POINTS: usize = 3000;
/// Zeros of the contrast transfer that are marked.
const MOST_ZEROS: usize = 24;

/// Fourier ring correlation with the two common limits, and the resolutions where it falls below them.
///
/// The half-bit limit is that of van Heel and Schatz (2005), 1/7 that of single-particle work on half-sets.
pub(super) fn ring_correlation(run: &RunResults) -> Option<Plot> {
    let curve = run.curve("frc")?;
    let frc = points(curve, "frc")?;
    let last = frc.iter().map(|p| p[0]).fold(f64::NAN, f64::max);
    let lowest = frc.iter().map(|p| p[1]).fold(0.0, f64::min).max(-1.0);
    let mut curves = vec![PlotCurve { name: "FRC".into(), color: COLORS[0], points: frc }];
    if let Some(points) = points(curve, "half_bit") {
        curves.push(PlotCurve { name: "half-bit".into(), color: COLORS[1], points });
    }
    let in_angstrom = curve.axis.1.contains('Å');
    let mut places = vec![Guide { at: scan_nyquist(run, in_angstrom), name: "scan Nyquist".into(), color: DIM }];
    for (finding, name, color) in
        [("resolution_half_bit", "half-bit", COLORS[1]), ("resolution_one_seventh", "1/7", COLORS[3])]
    {
        if let Some((at, length)) = resolution(run, finding, in_angstrom) {
            places.push(Guide { at, name: format!("{name} {length}"), color });
        }
    }
    Some(Plot {
        title: "Fourier ring correlation".into(),
        x_name: axis_name(curve),
        x: Scale::linear(0.0, last),
        y: Scale::linear((lowest * 20.0).floor() / 20.0, 1.05),
        curves,
        levels: vec![Guide { at: 1.0 / 7.0, name: "1/7".into(), color: COLORS[3] }],
        places,
        dots: Vec::new(),
    })
}

/// Every column of a curve that has no drawing of its own.
pub(super) fn columns(curve: &Curve) -> Plot {
    let curves: Vec<PlotCurve> = curve
        .columns
        .iter()
        .zip(COLORS.iter().cycle())
        .map(|((name, values), color)| PlotCurve { name: name.clone(), color: *color, points: zip(&curve.x, values) })
        .collect();
    let all = || curves.iter().flat_map(|c| &c.points).filter(|p| p[0].is_finite() && p[1].is_finite());
    let range = |axis: usize| {
        let (low, high) = all().fold((f64::NAN, f64::NAN), |(l, h), p| (l.min(p[axis]), h.max(p[axis])));
        Scale::linear(low, if high > low { high + 0.03 * (high - low) } else { high })
    };
    Plot {
        title: curve.title.clone(),
        x_name: axis_name(curve),
        x: range(0),
        y: range(1),
        curves,
        levels: Vec::new(),
        places: Vec::new(),
        dots: Vec::new(),
    }
}

/// What of a weak phase object reaches the aligned bright field: `[A⋆A](q) |sin χ(q)|`, along the directions of
/// strongest and weakest defocus, where they differ.
///
/// With `χ(q) = π λ q² (C10 + |C12| cos 2(φ − φ12))` and the overlap of two apertures at distance `q`.
pub(super) fn contrast_transfer(run: &RunResults) -> Option<Plot> {
    let optics = Optics::of(run)?;
    let limit = optics.information_limit();
    let nyquist = scan_nyquist(run, true);
    let last = 1.04 * if nyquist.is_finite() { limit.max(nyquist.min(3.0 * limit)) } else { limit };
    let mut curves = Vec::new();
    let mut dots = Vec::new();
    for ((name, c1), color) in optics.directions().into_iter().zip(COLORS) {
        let value = |q: f64| optics.overlap(q) * (PI * optics.wavelength * q * q * c1).sin().abs();
        let points = (0..=POINTS).map(|i| last * i as f64 / POINTS as f64).map(|q| [q, value(q)]).collect();
        curves.push(PlotCurve { name, color, points });
        let zeros = (1..=MOST_ZEROS).map(|n| (n as f64 / (optics.wavelength * c1.abs())).sqrt());
        dots.extend(zeros.take_while(|q| *q < limit).map(|q| ([q, 0.0], color)));
    }
    Some(Plot {
        title: "contrast transfer |sin χ|".into(),
        x_name: "spatial frequency (1/Å)".into(),
        x: Scale::linear(0.0, last),
        y: Scale::linear(-0.02, 1.05),
        curves,
        levels: Vec::new(),
        places: vec![
            Guide { at: nyquist, name: "scan Nyquist".into(), color: DIM },
            Guide { at: limit, name: format!("limit {} Å", number(1.0 / limit)), color: BRIGHT },
        ],
        dots,
    })
}

/// Power over frequency of the standard and the super-resolved image, means over all directions.
pub(super) fn power(run: &RunResults, spectra: &Spectra) -> Option<Plot> {
    let step = run.pixel_size(Plane::Scan);
    let per_pixel = step.unwrap_or(1.0);
    let curve = |name: &str, color, points: Vec<Point>| PlotCurve {
        name: name.into(),
        color,
        points: points
            .into_iter()
            .map(|[q, p]| [q / per_pixel, p])
            .filter(|p| p[1] > 0.0 && p[1].is_finite())
            .collect(),
    };
    let curves = vec![
        curve("standard", COLORS[1], spectra.standard.rotational_mean()),
        curve("super-resolved", COLORS[0], spectra.superres.rotational_mean()),
    ];
    let all = || curves.iter().flat_map(|c| &c.points);
    let highest = all().map(|p| p[1]).fold(f64::NAN, f64::max);
    // What a filter has left of the noise would take all of the height.
    let lowest = all().map(|p| p[1]).fold(f64::NAN, f64::min).max(1e-5 * highest);
    let last = all().map(|p| p[0]).fold(f64::NAN, f64::max);
    if !(highest > 0.0 && last > 0.0) {
        return None;
    }
    let mut places = vec![Guide { at: 0.5 / per_pixel, name: "scan Nyquist".into(), color: DIM }];
    if let (Some(optics), Some(_)) = (Aperture::of(run), step) {
        places.push(Guide { at: optics.information_limit(), name: "limit".into(), color: BRIGHT });
    }
    Some(Plot {
        title: "power spectra".into(),
        x_name: format!("spatial frequency ({})", if step.is_some() { "1/Å" } else { "1/scan pixel" }),
        x: Scale::linear(0.0, last),
        y: Scale::log(0.8 * lowest, 1.5 * highest),
        curves,
        levels: Vec::new(),
        places,
        dots: Vec::new(),
    })
}

/// Half a cycle per scan position, in 1/Å or per scan pixel; NaN where the step is not known.
pub(super) fn scan_nyquist(run: &RunResults, in_angstrom: bool) -> f64 {
    if in_angstrom { run.pixel_size(Plane::Scan).map_or(f64::NAN, |step| 0.5 / step) } else { 0.5 }
}

/// A resolution that was found, as a frequency in the axis' units and in words: in Å, else in scan pixels.
pub(super) fn resolution(run: &RunResults, finding: &str, in_angstrom: bool) -> Option<(f64, String)> {
    let step = run.pixel_size(Plane::Scan);
    let positive = |name: &str| run.finding(name).filter(|v| *v > 0.0);
    if let Some(length) = positive(&format!("{finding}_angstrom")) {
        let per_unit = if in_angstrom { 1.0 } else { step? };
        Some((per_unit / length, format!("{} Å", number(length))))
    } else {
        let length = positive(finding)?;
        let per_unit = if in_angstrom { 1.0 / step? } else { 1.0 };
        Some((per_unit / length, format!("{} px", number(length))))
    }
}

fn points(curve: &Curve, column: &str) -> Option<Vec<Point>> {
    let (_, values) = curve.columns.iter().find(|(name, _)| name == column)?;
    let points = zip(&curve.x, values);
    points.iter().any(|p| p[0].is_finite() && p[1].is_finite()).then_some(points)
}

fn zip(x: &[f64], y: &[f64]) -> Vec<Point> {
    x.iter().zip(y).map(|(x, y)| [*x, *y]).collect()
}

fn axis_name(curve: &Curve) -> String {
    let (name, unit) = &curve.axis;
    let name = name.replace('_', " ");
    if unit.is_empty() { name } else { format!("{name} ({unit})") }
}

/// The probe-forming aperture in reciprocal space.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aperture {
    wavelength: f64,
    k_max: f64,
}

impl Aperture {
    /// From the energy and the semi-angle, or the disk's radius where that is not given.
    pub(super) fn of(run: &RunResults) -> Option<Self> {
        let c = &run.calibration;
        let wavelength = wavelength_angstrom(c.energy_ev?);
        let mrad = c.semiangle_mrad.or_else(|| Some(run.bf_radius * run.pixel_size(Plane::Crop)?))?;
        let k_max = mrad * 1e-3 / wavelength;
        let usable = |v: f64| v.is_finite() && v > 0.0;
        (usable(wavelength) && usable(k_max) && usable(1.0 / k_max)).then_some(Self { wavelength, k_max })
    }

    /// Twice the aperture's radius in 1/Å: no bright-field image holds more.
    pub(super) fn information_limit(self) -> f64 {
        2.0 * self.k_max
    }

    /// Overlap of two apertures at distance `q`, as a part of one.
    fn overlap(self, q: f64) -> f64 {
        let x = (q / self.information_limit()).clamp(0.0, 1.0);
        FRAC_2_PI * (x.acos() - x * (1.0 - x * x).sqrt())
    }
}

/// The aperture and the first-order aberrations that were found.
struct Optics {
    aperture: Aperture,
    wavelength: f64,
    c10: f64,
    c12: [f64; 2],
}

impl Optics {
    fn of(run: &RunResults) -> Option<Self> {
        let aperture = Aperture::of(run)?;
        let c12 = ["c12a_angstrom", "c12b_angstrom"].map(|name| run.finding(name).unwrap_or(0.0));
        Some(Self { aperture, wavelength: aperture.wavelength, c10: run.finding("c10_angstrom")?, c12 })
    }

    fn information_limit(&self) -> f64 {
        self.aperture.information_limit()
    }

    fn overlap(&self, q: f64) -> f64 {
        self.aperture.overlap(q)
    }

    /// The directions of strongest and weakest defocus with their names; one where they are alike.
    fn directions(&self) -> Vec<(String, f64)> {
        let size = self.c12[0].hypot(self.c12[1]);
        let limit = self.information_limit();
        let defocus = |c1: f64| format!("defocus {} Å", number(-c1));
        // Radians between the two at the limit.
        if 2.0 * PI * self.wavelength * limit * limit * size < 0.3 {
            return vec![(defocus(self.c10), self.c10)];
        }
        let angle = astigmatism_angle(self.c12);
        [(size, angle), (-size, angle + 90.0)]
            .map(|(part, angle)| (format!("{} at {:.0}°", defocus(self.c10 + part), half_turn(angle)), self.c10 + part))
            .to_vec()
    }
}

/// Direction of the largest C1 in degrees from the row axis (down) towards the column axis (right).
pub(super) fn astigmatism_angle([a, b]: [f64; 2]) -> f64 {
    half_turn(0.5 * b.atan2(a).to_degrees())
}

/// A direction without a sign: 0 to 180 degrees.
fn half_turn(degrees: f64) -> f64 {
    degrees.rem_euclid(180.0)
}
