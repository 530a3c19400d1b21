//! Bad detector pixels, from the sums of the corner turn: a map for whoever wants it, a word for the user.

use serde_json::{Value, json};

use crate::axes::{Image, Plane};
use crate::cache::{Extra, Step, WorkingCache};
use crate::config::BadPixelPolicy;
use crate::error::Result;
use crate::kernel::bad_pixels::{BadPixels, Flaw, Statistics, find};
use crate::kernel::transpose::{Sum, square_sum};
use crate::steps::context::RunContext;
use crate::steps::stack::{Stack, central_pixel};
use crate::steps::step1_detect::BrightDisk;
use crate::with_sample_type;

/// The map's name in the cache and in every export.
pub(super) const MAP: &str = "bad_pixels";
/// How many are named.
const NAMED: usize = 5;

/// What the search found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The map, over the crop; see [`Flaw`].
    pub(super) map: Image,
    /// What is worth remembering in the manifest.
    pub(super) counts: Value,
    messages: Vec<String>,
}

impl Found {
    /// Notes the map, whose array [`MAP`] was written before, and what the user was told.
    pub(super) fn record(self, cache: &mut WorkingCache) -> Result<()> {
        let title = "Bad detector pixels (1 dead, 2 hot, 3 outlier)".to_owned();
        let extra = Extra { name: MAP.to_owned(), title, units: String::new(), plane: Plane::Crop, step: Step::Stack };
        cache.record(vec![extra])?;
        if self.messages.iter().all(|message| cache.manifest().warnings.contains(message)) {
            return Ok(());
        }
        cache.update(|m| {
            let new = self.messages.into_iter().filter(|message| !m.warnings.contains(message)).collect::<Vec<_>>();
            m.warnings.extend(new);
        })
    }
}

/// Finds bad pixels and tells the user.
///
/// `mean` is of the whole detector, `squares` (Σ I² over the scan) of the crop's pixels.
pub(super) fn look_for_bad_pixels(ctx: &RunContext<'_>, disk: &BrightDisk, mean: &Image, squares: &[Sum]) -> Found {
    let (crop, shape, frames) = (disk.crop, disk.crop.shape(), ctx.scan.len());
    let dispersion = Image::from_shape_fn((shape.rows, shape.cols), |(r, c)| {
        let mean = mean[[r + crop.row0, c + crop.col0]];
        (squares[r * shape.cols + c].value() / frames as f64 - mean * mean).max(0.0) / mean
    });
    let statistics =
        Statistics { mean, dispersion: &dispersion, crop, center: disk.center, radius: disk.radius, frames };
    let bad = ctx.workers.install(|| find(&statistics));
    let messages = messages(ctx, &bad);
    for message in &messages {
        ctx.progress.warn(message);
    }
    let count = |flaw: Flaw| bad.found.iter().filter(|(_, f)| *f == flaw).count();
    let counts = json!({
        "dead": count(Flaw::Dead),
        "hot": count(Flaw::Hot),
        "outlier": count(Flaw::Outlier),
        "unbelievable": bad.unbelievable,
    });
    Found { map: bad.map, counts, messages }
}

/// Σ I² of each pixel of a stack: the same numbers as the corner turn's.
pub(super) fn squares_of_stack(ctx: &RunContext<'_>, stack: &Stack) -> Result<Vec<Sum>> {
    with_sample_type!(stack.dtype(), S => {
        let mut image = vec![<S as Default>::default(); ctx.scan.len()];
        (0..ctx.crop.shape().len())
            .map(|pixel| {
                ctx.cancel.check()?;
                stack.copy_image(pixel, &mut image)?;
                Ok(square_sum(&image))
            })
            .collect()
    })
}

/// What the user should know.
fn messages(ctx: &RunContext<'_>, bad: &BadPixels) -> Vec<String> {
    let mut messages = Vec::new();
    if let Some(count) = bad.unbelievable {
        messages.push(format!(
            "{count} detector pixels differ from their neighbours: too many to call them bad, none is left out (name \
             bad ones with `disk.exclude`)"
        ));
    }
    if bad.found.is_empty() {
        return messages;
    }
    let mut named: Vec<_> =
        bad.found.iter().take(NAMED).map(|([row, col], flaw)| format!("[{row}, {col}] {}", flaw.name())).collect();
    if bad.found.len() > NAMED {
        named.push(format!("and {} more", bad.found.len() - NAMED));
    }
    let fate = match ctx.config.disk.bad_pixels {
        BadPixelPolicy::Auto => "the parametric method leaves them out",
        BadPixelPolicy::Keep => "they are used all the same (`disk.bad_pixels=keep`)",
    };
    let count = bad.found.len();
    let pixels = if count == 1 { "pixel" } else { "pixels" };
    messages.push(format!("{count} bad detector {pixels}: {}; {fate}", named.join(", ")));
    let center = central_pixel(ctx.crop.shape());
    let (row, col) = (ctx.crop.row0 + center / ctx.crop.shape().cols, ctx.crop.col0 + center % ctx.crop.shape().cols);
    if let Some((_, flaw)) = bad.found.iter().find(|(at, _)| *at == [row, col]) {
        messages.push(format!(
            "the central pixel of the crop, [{row}, {col}], is {}: what is correlated with it (classic shifts, quality) \
             means little; another `disk.center` moves it",
            match flaw {
                Flaw::Outlier => "an outlier",
                other => other.name(),
            }
        ));
    }
    messages
}
