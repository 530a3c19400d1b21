//! The merged image and everything that is made beside it, in as few passes over the stack as the memory allows.

use serde::{Deserialize, Serialize};

use super::fourier::{Sums, pass};
use super::quality::{Field, Resolution};
use super::{Merged, Optics, Part, bilinear, reach};
use crate::axes::{Image, Plane, Sample};
use crate::cache::{Extra, Step};
use crate::config::{Contrast, Merge};
use crate::error::{Error, Result};
use crate::kernel::contrast;
use crate::kernel::merge::fourier::{FourierGrid, FourierMerge, SideBands};
use crate::steps::context::RunContext;
use crate::steps::parametric::AberrationFit;
use crate::steps::stack::Stack;
use crate::steps::step1_detect::BrightDisk;

/// Scan pixels beyond the largest shift that count as the image's edge.
const EDGE: f64 = 1.0;

/// How well the images that were made resolve the object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Resolutions {
    /// The plain image.
    pub image: Option<Resolution>,
    /// The phase from side bands.
    pub ssb: Option<Resolution>,
}

/// What a pass is to make.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wanted {
    Halves,
    Sides,
    /// The depth with this number.
    Depth(usize),
}

/// A run's merge: what goes in.
pub(in crate::steps) struct Job<'a> {
    pub(in crate::steps) ctx: &'a RunContext<'a>,
    pub(in crate::steps) disk: &'a BrightDisk,
    pub(in crate::steps) stack: &'a Stack,
    pub(in crate::steps) parts: &'a [Part],
    /// Output pixels per scan step.
    pub(in crate::steps) factor: usize,
}

/// What a merge has made and not published.
#[derive(Debug)]
pub(in crate::steps) struct Outcome {
    pub(in crate::steps) image: Image,
    pub(in crate::steps) weights: Image,
    /// Sum over the disk, by scan position.
    pub(in crate::steps) bright: Vec<f64>,
    pub(in crate::steps) resolutions: Resolutions,
}

impl Job<'_> {
    /// Merges the images of all parts (bilinear or in the Fourier domain), measures the resolution between half-sets, and
    /// publishes the curve, phase contrast and depths as far as they are wanted and possible.
    ///
    /// # Errors
    /// [`Unresolved`](crate::error::ErrorKind::Unresolved) when phase or depths are asked for without a fit and a
    /// calibration; [`Memory`](crate::error::ErrorKind::Memory), [`Io`](crate::error::ErrorKind::Io).
    pub(in crate::steps) fn run<S: Sample>(&self) -> Result<Outcome> {
        let ctx = self.ctx;
        let optics = Optics::of(&ctx.config.calibration, self.disk);
        let model = optics.zip(fit(ctx)?);
        let settings = &ctx.config.reconstruct;
        if model.is_none() && (settings.contrast == Contrast::On || !settings.depths_angstrom.is_empty()) {
            return Err(Error::unresolved("phase contrast and depths need fitted aberrations and a calibration")
                .with_hint("use `--set align.method=parametric` and give the calibration"));
        }
        let phase = model.as_ref().filter(|_| settings.contrast != Contrast::Off);
        let depths: Vec<Vec<[f64; 2]>> = model
            .as_ref()
            .map(|model| settings.depths_angstrom.iter().map(|&d| self.refocused(model, d)).collect())
            .unwrap_or_default();
        let field = Field {
            factor: self.factor,
            border: reach(self.parts, ctx.scan) + EDGE,
            limit: optics.map(|o| o.limit()),
            step_angstrom: ctx.config.calibration.scan_step_angstrom,
        };
        let image_bytes = ctx.scan.len() * self.factor * self.factor * size_of::<f64>();
        let _kept = ctx.budget.charge((6 * image_bytes + 8 * ctx.scan.len()) as u64, "the super-resolved image")?;
        let mut bright = vec![0.0; ctx.scan.len()];
        let mut resolutions = Resolutions::default();
        let mut merged = None;
        let mut wanted = vec![];
        if ctx.config.merge() == Merge::Bilinear {
            let made = bilinear::merge::<S>(ctx, self.stack, (self.parts, self.factor), &mut bright)?;
            resolutions.image = self.finish_halves(&made, &field, phase)?;
            merged = Some((made.image, made.weights));
        } else {
            wanted.push(Wanted::Halves);
        }
        wanted.extend(phase.map(|_| Wanted::Sides));
        wanted.extend((0..depths.len()).map(Wanted::Depth));
        let far = depths.iter().flatten().flatten().fold(reach(self.parts, ctx.scan), |most, s| most.max(s.abs()));
        let grid = FourierGrid::new(ctx.scan, self.factor, far);
        let filters = phase.map_or(0, |(optics, fit)| {
            let shape = (ctx.scan.rows * self.factor, ctx.scan.cols * self.factor);
            let chi = Optics::chi(fit);
            contrast::Optics { factor: self.factor, limit: optics.limit(), chi: &chi, pad: field.border }.bytes(shape)
        });
        while !wanted.is_empty() {
            let (now, bytes) = self.fitting::<S>(&wanted, grid, filters as u64);
            wanted.drain(..now.len());
            let _charge = ctx.budget.charge(bytes, "the Fourier merge")?;
            let mut sums = self.empty_sums(&now, (grid, &depths), phase);
            // The virtual bright field needs only one pass.
            let bright = (now[0] == Wanted::Halves).then_some(&mut bright[..]);
            pass::<S>(ctx, self.stack, (self.parts, grid), &mut sums, bright)?;
            if let Some(halves) = sums.halves.take() {
                let made = ctx.workers.install(|| FourierMerge::finish_halves(&halves, field.limit));
                drop(halves);
                let made = Merged { image: made.image, weights: made.weights, halves: made.halves };
                resolutions.image = self.finish_halves(&made, &field, phase)?;
                merged = Some((made.image, made.weights));
            }
            if let (Some((bands, _)), Some((optics, fit))) = (sums.sides.take(), phase) {
                resolutions.ssb = self.finish_sides(bands, &field, (optics, fit))?;
            }
            for (wanted, (sum, _)) in now.iter().filter(|w| matches!(w, Wanted::Depth(_))).zip(&sums.moved) {
                if let Wanted::Depth(index) = wanted {
                    self.publish_depth(*index, &ctx.workers.install(|| sum.finish(field.limit)))?;
                }
            }
        }
        let (image, weights) = merged.ok_or_else(|| Error::bug("no pass made the image"))?;
        Ok(Outcome { image, weights, bright, resolutions })
    }

    /// The shifts of all parts for another defocus.
    fn refocused(&self, (optics, fit): &(Optics, AberrationFit), offset: f64) -> Vec<[f64; 2]> {
        let moved = |part: &Part| {
            let [row, col] = part.shift(self.ctx.scan).unwrap_or_default();
            let [dr, dc] = optics.refocus(fit, offset, part.from_center);
            [row + dr, col + dc]
        };
        self.parts.iter().map(moved).collect()
    }

    /// As many of what is wanted, in order, as one pass may hold, at least one; and the bytes to charge. `filters` are the
    /// bytes that phase contrast will take.
    fn fitting<S: Sample>(&self, wanted: &[Wanted], grid: FourierGrid, filters: u64) -> (Vec<Wanted>, u64) {
        let ctx = self.ctx;
        let room = ctx.budget.limit().saturating_sub(ctx.budget.used());
        let (sum, finish) = Sums::bytes(grid, ctx.scan.len(), self.factor);
        let needed = |now: &[Wanted]| {
            let count = |w: &Wanted| match w {
                Wanted::Halves => 2,
                Wanted::Sides => 4,
                Wanted::Depth(_) => 1,
            };
            let moved = now.iter().filter(|w| matches!(w, Wanted::Depth(_))).count();
            now.iter().map(count).sum::<u64>() * sum + finish + Sums::pass_bytes::<S>(ctx, grid, moved)
        };
        // The filters work while the sums are still there.
        let reserve = |now: &[Wanted]| if now.contains(&Wanted::Halves) { filters } else { 0 };
        let fits = |n: &usize| needed(&wanted[..*n]) + reserve(&wanted[..*n]) <= room;
        let most = (1..=wanted.len()).rev().find(fits).unwrap_or(1);
        (wanted[..most].to_vec(), needed(&wanted[..most]))
    }

    fn empty_sums(
        &self,
        now: &[Wanted],
        (grid, depths): (FourierGrid, &[Vec<[f64; 2]>]),
        phase: Option<&(Optics, AberrationFit)>,
    ) -> Sums {
        let mut sums = Sums::default();
        let limit = phase.map(|(optics, _)| optics.limit());
        for wanted in now {
            match *wanted {
                Wanted::Halves => sums.halves = Some([(); 2].map(|()| FourierMerge::within(grid, limit))),
                Wanted::Sides => {
                    sums.sides = phase.map(|(optics, fit)| {
                        let circles = self.parts.iter().map(|part| optics.aperture(fit, part.from_center)).collect();
                        (SideBands::new(grid), circles)
                    });
                }
                Wanted::Depth(index) => sums.moved.push((FourierMerge::within(grid, limit), depths[index].clone())),
            }
        }
        sums
    }

    /// Resolution and, with a model, the phase that the plain image holds.
    fn finish_halves(
        &self,
        made: &Merged,
        field: &Field,
        phase: Option<&(Optics, AberrationFit)>,
    ) -> Result<Option<Resolution>> {
        let halves = [&made.halves[0], &made.halves[1]];
        let mut images = Vec::new();
        if let Some((optics, fit)) = phase {
            let chi = Optics::chi(fit);
            let filter = contrast::Optics { factor: self.factor, limit: optics.limit(), chi: &chi, pad: field.border };
            let bytes = filter.bytes(made.image.dim()) as u64;
            let _charge = self.ctx.budget.charge(bytes, "phase contrast")?;
            let [flipped, wiener] = self.ctx.workers.install(|| filter.images(&made.image, halves));
            images.push((("superres_phase_flipped", "phase contrast, signs put right (atoms bright)", ""), flipped));
            images.push((("superres_wiener", "phase, Wiener filter (atoms bright)", "rad"), wiener));
        }
        self.publish_and_correlate(&images, halves, field, ("frc", "Fourier ring correlation of half-sets"))
    }

    fn finish_sides(
        &self,
        bands: SideBands<f32>,
        field: &Field,
        (optics, fit): (&Optics, &AberrationFit),
    ) -> Result<Option<Resolution>> {
        let chi = Optics::chi(fit);
        let (image, [a, b]) = self.ctx.workers.install(|| bands.finish(&|q| chi(q).0, optics.limit()));
        let images = [(("superres_ssb", "phase, single side bands (atoms bright)", "rad"), image)];
        let curve = ("frc_ssb", "Fourier ring correlation of half-sets, single side bands");
        self.publish_and_correlate(&images, [&a, &b], field, curve)
    }

    /// Publishes images while the half-sets are correlated, and then the correlation.
    fn publish_and_correlate(
        &self,
        images: &[((&str, &str, &str), Image)],
        halves: [&Image; 2],
        field: &Field,
        (name, title): (&str, &str),
    ) -> Result<Option<Resolution>> {
        let publish = || images.iter().try_for_each(|(name, image)| self.publish(*name, image));
        let (published, curve) = self.ctx.workers.install(|| rayon::join(publish, || field.correlate(halves)));
        published?;
        let Some(curve) = curve else { return Ok(None) };
        self.ctx.cache().publish_curve(field.published(&curve, name, title))?;
        Ok(Some(field.resolution(&curve)))
    }

    fn publish_depth(&self, index: usize, image: &Image) -> Result<()> {
        let offset = self.ctx.config.reconstruct.depths_angstrom[index];
        let title = format!("super-resolved bright field, defocus {offset:+} Å");
        self.publish((&format!("depth_{index:02}"), &title, "counts"), image)
    }

    fn publish(&self, (name, title, units): (&str, &str, &str), image: &Image) -> Result<()> {
        let extra = Extra {
            name: name.to_owned(),
            title: title.to_owned(),
            units: units.to_owned(),
            plane: Plane::Superres,
            step: Step::Reconstruct,
        };
        self.ctx.cache().publish(extra, image)
    }
}

/// The fitted aberrations, where the shifts are those of a model.
fn fit(ctx: &RunContext<'_>) -> Result<Option<AberrationFit>> {
    if !ctx.config.is_parametric() {
        return Ok(None);
    }
    // This run may have found them a moment ago.
    ctx.beside.settle()?;
    let found = ctx.cache().manifest().results.get(&Step::Shifts).cloned();
    Ok(found.and_then(|found| serde_json::from_value(found).ok()))
}
