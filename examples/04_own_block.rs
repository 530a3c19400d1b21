//! A block of your own in a graph: a virtual dark-field image while the frames stream by, in bounded memory.
#![expect(clippy::print_stdout, reason = "an example prints")]

mod common;

use stemstream::axes::Image;
use stemstream::config::SourceConfig;
use stemstream::pipeline::{Block, Emitter, Graph};
use stemstream::progress::CancelToken;
use stemstream::read::{FrameSource, decode_frames, open};
use stemstream::{Error, Result};

/// Numbers of scan rows, one after the other.
struct Rows(usize);

impl Block for Rows {
    type In = ();
    type Out = usize;
    fn work(&mut self, (): (), out: &mut Emitter<'_, usize>) -> Result<()> {
        (0..self.0).try_for_each(|row| out.send(row))
    }
}

/// Reads the frames of a scan row and sums the counts outside a circle on the detector.
struct DarkField<'a> {
    source: &'a dyn FrameSource,
    center: [f64; 2],
    radius: f64,
}

impl Block for DarkField<'_> {
    type In = usize;
    type Out = (usize, Vec<f64>);
    fn work(&mut self, row: usize, out: &mut Emitter<'_, (usize, Vec<f64>)>) -> Result<()> {
        let (scan, det) = (self.source.info().scan, self.source.info().det);
        let frames = decode_frames(self.source, row * scan.cols, scan.cols)?;
        out.count_bytes(frames.len() as u64 * 8);
        let is_dark = |pixel: usize| {
            let (y, x) = ((pixel / det.cols) as f64 - self.center[0], (pixel % det.cols) as f64 - self.center[1]);
            y.hypot(x) > self.radius
        };
        let dark = |frame: &[f64]| (0..det.len()).filter(|pixel| is_dark(*pixel)).map(|pixel| frame[pixel]).sum();
        out.send((row, frames.chunks_exact(det.len()).map(dark).collect()))
    }
}

/// Puts the rows where they belong: with several workers they come in any order.
struct Collect<'a>(&'a mut Image);

impl Block for Collect<'_> {
    type In = (usize, Vec<f64>);
    type Out = ();
    fn work(&mut self, (row, sums): (usize, Vec<f64>), _: &mut Emitter<'_, ()>) -> Result<()> {
        self.0.row_mut(row).assign(&ndarray::Array1::from(sums));
        Ok(())
    }
}

fn main() -> Result<()> {
    let spec = common::small_scan();
    let source = open(&common::write_scan("own_block", &spec)?, &SourceConfig::default())?;
    let mut image = Image::zeros((spec.scan.rows, spec.scan.cols));
    let mut graph = Graph::new("dark field", &CancelToken::new());
    let rows = graph.source("rows", 2, Rows(spec.scan.rows));
    let sums = graph.stage("dark field", 2, 2, rows, || DarkField {
        source: &*source,
        center: spec.true_center(),
        radius: spec.disk_radius_px + 1.0,
    });
    graph.sink("collect", sums, Collect(&mut image));
    let report = graph.run()?;
    let mean = image.mean().ok_or_else(|| Error::unresolved("an empty scan"))?;
    println!("{} rows by {} blocks, {mean:.1} counts per position", spec.scan.rows, report.blocks.len());
    Ok(())
}
