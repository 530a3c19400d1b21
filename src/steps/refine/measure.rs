//! One measurement of all detector pixels against each other, and what groups of them say.

use std::collections::BTreeMap;
use std::ops::Range;

use num_complex::Complex64;
use rayon::prelude::*;

use crate::kernel::crosspower::HalfSets;
use crate::kernel::crosspower::joint::MOST_FILTERS;
use crate::kernel::crosspower::residual::{Normal, Residuals, SPEEDS, Solution};
use crate::steps::context::RunContext;
use crate::steps::refine::pixels::PixelResidual;
use crate::steps::refine::regress::{Field, Residual, fit};

/// Pieces of one measurement: a fixed number, so that sums do not depend on the number of threads.
const PIECES: usize = 8;
/// An image whose power lies elsewhere, as part of the median, is not one of the object: nothing is left of a dead pixel but
/// rounding.
const POWERS: Range<f64> = 0.01..4.0;
/// A group that is weaker or stronger than predicted by more is not one of the object either.
const GAINS: Range<f64> = -0.5..1.0;

/// Memory in bytes beside the spectra, for so many detector pixels: normal equations and filters of each piece, and their
/// sums.
pub(in crate::steps) fn bytes(pixels: usize) -> usize {
    let filters = MOST_FILTERS * size_of::<Complex64>();
    pixels * (PIECES * (size_of::<[Normal; SPEEDS]>() + filters) + 2 * size_of::<[Normal; SPEEDS]>())
}

/// Pixels with counts and a power that the object can have.
pub(super) fn good_pixels(sets: &HalfSets, groups: &[Range<usize>], count: usize) -> Vec<bool> {
    let mut powers = Vec::with_capacity(count);
    for half in sets.halves.iter() {
        let mut sums = vec![0.0f64; half.pixels];
        for group in groups {
            let [re, im] = half.spectrum(sets.spectrum_of[group.start]);
            sums.iter_mut().zip(re.iter().zip(im)).for_each(|(s, (a, b))| *s += f64::from(a * a + b * b));
        }
        powers.extend(sums);
    }
    let mut sorted: Vec<f64> = powers.iter().copied().filter(|p| *p > 0.0).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    powers.into_iter().map(|p| p > 0.0 && POWERS.contains(&(p / middle))).collect()
}

/// A group of neighbouring detector pixels.
pub(super) struct Group {
    /// Places in the list of pixels.
    pub(super) members: Vec<usize>,
    /// Mean place on the scan's axes in disk radii.
    pub(super) place: [f64; 2],
    /// Colour of the checkerboard.
    pub(super) colour: usize,
    /// From all frequencies, from slow ones, from fast ones.
    pub(super) found: [Option<Solution>; 3],
}

/// Normal equations of all pixels: of all frequencies, of slow ones, of fast ones.
pub(super) struct Measured {
    pub(super) normals: Vec<[Normal; 3]>,
    pub(super) reach: f64,
}

/// A measurement cut into groups of one size.
pub(super) struct Level {
    pub(super) groups: Vec<Group>,
    pub(super) bin: usize,
    pub(super) reach: f64,
}

impl Level {
    /// Bins of `bin` × `bin` detector pixels, in order of row and column. `pixels` are crop indices, of a crop with so many
    /// columns; `place` is the mean place of some of them.
    pub(super) fn new(
        measured: &Measured,
        bin: usize,
        (pixels, cols): (&[usize], usize),
        place: impl Fn(&[usize]) -> [f64; 2],
    ) -> Self {
        let mut bins: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (index, pixel) in pixels.iter().enumerate() {
            if measured.normals[index][0] != Normal::default() {
                bins.entry((pixel / cols / bin, pixel % cols / bin)).or_default().push(index);
            }
        }
        let group = |((row, col), members): ((usize, usize), Vec<usize>)| {
            let found = [0, 1, 2].map(|band| {
                let mut sum = Normal::default();
                for &i in &members {
                    sum.add(&measured.normals[i][band]);
                }
                sum.solve().filter(|f| GAINS.contains(&f.gain))
            });
            Group { place: place(&members), colour: (row + col) % 2, members, found }
        };
        Self { groups: bins.into_iter().map(group).collect(), bin, reach: measured.reach }
    }

    /// The residuals of one band of frequencies (0 all, 1 slow, 2 fast), with the weights of all.
    pub(super) fn residuals(&self, band: usize) -> Vec<Residual> {
        let each = self.groups.iter().filter_map(|group| Some((group, group.found[0]?, group.found[band]?)));
        each.map(|(group, all, found)| Residual {
            place: group.place,
            shift: found.shift,
            weight: inverse(all.covariance),
            colour: group.colour,
        })
        .collect()
    }

    pub(super) fn found(&self) -> impl Iterator<Item = &Solution> {
        self.groups.iter().filter_map(|group| group.found[0].as_ref())
    }

    pub(super) fn median(&self, of: impl Fn(&Solution) -> f64) -> f64 {
        let mut all: Vec<f64> = self.found().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(0.0)
    }

    pub(super) fn spread(&self) -> f64 {
        robust_rms(&self.found().map(|f| f.shift).collect::<Vec<_>>())
    }
}

impl Measured {
    /// Measures `count` pixels at some groups of frequencies; `reach` is the part of the disk's radius that is looked at.
    pub(super) fn new(
        ctx: &RunContext<'_>,
        residuals: &Residuals<'_>,
        (groups, count): (&[Range<usize>], usize),
        reach: f64,
    ) -> Self {
        let piece = groups.len().div_ceil(PIECES);
        let parts: Vec<Vec<[Normal; SPEEDS]>> = ctx.workers.install(|| {
            let one = |some: &[Range<usize>]| {
                let normals = residuals.normals(some);
                ctx.progress.advance(some.len() as u64);
                normals
            };
            groups.par_chunks(piece).map(one).collect()
        });
        let mut classes = vec![[Normal::default(); SPEEDS]; count];
        for part in &parts {
            for (sum, part) in classes.iter_mut().zip(part) {
                sum.iter_mut().zip(part).for_each(|(sum, part)| sum.add(part));
            }
        }
        // Slow frequencies are those that have half of what is known about displacements.
        let known: Vec<f64> = (0..SPEEDS).map(|s| classes.iter().map(|c| c[s].information()).sum::<f64>()).collect();
        let half = known.iter().sum::<f64>() / 2.0;
        let upto = |s: usize| known[..s].iter().sum::<f64>();
        let cut = (1..SPEEDS).min_by(|a, b| (upto(*a) - half).abs().total_cmp(&(upto(*b) - half).abs())).unwrap_or(1);
        let normals = classes
            .iter()
            .map(|classes| {
                let mut bands = [Normal::default(); 3];
                for (s, class) in classes.iter().enumerate() {
                    bands[0].add(class);
                    bands[if s < cut { 1 } else { 2 }].add(class);
                }
                bands
            })
            .collect();
        Self { normals, reach }
    }
}

/// What single pixels say, without what is common to all.
pub(super) fn pixel_residuals(level: &Level) -> Vec<PixelResidual> {
    let common = fit(&level.residuals(0), &[]).unwrap_or_default();
    let each = level.groups.iter().filter_map(|group| {
        let [all, slow, fast] = group.found;
        let apart = |f: Solution| {
            let p = common.predict(group.place);
            PixelResidual::band([f.shift[0] - p[0], f.shift[1] - p[1]], f.covariance)
        };
        Some(PixelResidual { pixel: group.members[0], bands: [apart(all?), apart(slow?), apart(fast?)] })
    });
    each.collect()
}

/// What a field leaves of a level's residuals, with the pixels that they belong to.
pub(super) fn left_by(level: &Level, field: &Field) -> Vec<(Vec<usize>, [f64; 2])> {
    let each = level.groups.iter().filter_map(|group| Some((group, group.found[0]?)));
    each.map(|(group, found)| {
        let p = field.predict(group.place);
        (group.members.clone(), [found.shift[0] - p[0], found.shift[1] - p[1]])
    })
    .collect()
}

/// Inverse of a symmetric matrix: row row, row col, col col.
fn inverse([a, b, d]: [f64; 3]) -> [f64; 3] {
    let det = a * d - b * b;
    if det > 0.0 { [d / det, -b / det, a / det] } else { [0.0; 3] }
}

/// RMS length of two-dimensional residuals from their median: a normal distribution's squared lengths have the median
/// `2 ln 2` and the mean 2 variances.
pub(super) fn robust_rms(values: &[[f64; 2]]) -> f64 {
    let mut squares: Vec<f64> = values.iter().map(|v| v[0] * v[0] + v[1] * v[1]).collect();
    squares.sort_unstable_by(f64::total_cmp);
    (squares.get(squares.len() / 2).copied().unwrap_or(0.0) / std::f64::consts::LN_2).sqrt()
}
