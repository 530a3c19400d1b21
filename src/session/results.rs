//! What a finished run has found, read from its cache.

use std::path::Path;

use num_complex::Complex;

use crate::axes::{Image, Sample};
use crate::cache::{Extra, Manifest, Placed, Step, WorkingCache};
use crate::config::{Config, Precision};
use crate::error::{Error, Result};
use crate::steps::{AberrationFit, BrightDisk, ImageReport, Reconstruction, upscale_factor};
use crate::store::{ChunkedArray, Io};

/// The results of a finished run with everything needed to write them down.
#[derive(Debug, Clone)]
pub struct Results {
    /// The manifest of the cache.
    pub manifest: Manifest,
    /// The configuration of the run.
    pub config: Config,
    /// The disk and the crop.
    pub disk: BrightDisk,
    /// The fitted aberrations, when the shifts are those of a model.
    pub fit: Option<AberrationFit>,
    /// How finely the image is sampled and what it resolves.
    pub report: ImageReport,
    /// Mean over all frames, `[det row, det col]`.
    pub mean_pattern: Image,
    /// Row shifts, `[crop row, crop col]`, absolute.
    pub shift_y: Image,
    /// Column shifts, `[crop row, crop col]`, absolute.
    pub shift_x: Image,
    /// The documented correlation at the peak.
    pub quality: Image,
    /// The smoothed central image, `[scan row, scan col]`.
    pub reference_image: Image,
    /// The central image.
    pub standard_bf: Image,
    /// The sum over the disk.
    pub virtual_bf: Image,
    /// The super-resolved image, `[scan rows * f, scan cols * f]`.
    pub superres_image: Image,
    /// Samples in each of its pixels.
    pub weights: Image,
    /// Further images that the steps made.
    pub extras: Vec<(Extra, Image)>,
    /// Whether the cache holds the image.
    pub kept: bool,
}

impl Results {
    /// Reads the results of the cache in `path`. Needs neither the source nor the lock.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when the run is not finished or the cache is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_rest(path, None)
    }

    /// As [`read`](Self::read), with the image that this process has just made.
    pub(super) fn read_rest(path: &Path, made: Option<Reconstruction>) -> Result<Self> {
        let cache = WorkingCache::open_for_reading(path)?;
        let manifest = cache.manifest().clone();
        let kept = made.is_none();
        if kept && !manifest.is_done(Step::Reconstruct) {
            return Err(Error::cache(path, "its run is not finished")
                .with_hint("finish it with `stemstream run INPUT`, which goes on where it stopped"));
        }
        let damaged = |what: &str, e: serde_json::Error| Error::cache(path, format!("its {what} is damaged: {e}"));
        let disk = manifest.results.get(&Step::Detect).cloned().unwrap_or_default();
        let group = cache.group();
        let made = if let Some(made) = made {
            made
        } else {
            let report = manifest.results.get(&Step::Reconstruct).cloned().unwrap_or_default();
            Reconstruction {
                image: group.read_image("superres_image")?,
                weights: group.read_image("weights")?,
                virtual_bf: group.read_image("virtual_bf")?,
                report: serde_json::from_value(report).map_err(|e| damaged("image report", e))?,
            }
        };
        Ok(Self {
            disk: serde_json::from_value(disk).map_err(|e| damaged("disk", e))?,
            config: serde_json::from_value(manifest.config.clone()).map_err(|e| damaged("configuration", e))?,
            fit: manifest.results.get(&Step::Shifts).and_then(|fit| serde_json::from_value(fit.clone()).ok()),
            report: made.report,
            mean_pattern: group.read_image("mean_pattern")?,
            shift_y: group.read_image("shift_y")?,
            shift_x: group.read_image("shift_x")?,
            quality: group.read_image("quality")?,
            reference_image: group.read_image("reference_image")?,
            standard_bf: group.read_image("standard_bf")?,
            virtual_bf: made.virtual_bf,
            superres_image: made.image,
            weights: made.weights,
            extras: manifest
                .extras
                .iter()
                .map(|extra| Ok((extra.clone(), group.read_image(&extra.name)?)))
                .collect::<Result<_>>()?,
            kept,
            manifest,
        })
    }

    /// Output pixels per scan step.
    pub fn upscale(&self) -> usize {
        self.report.upscale.unwrap_or_else(|| upscale_factor(&self.config, &self.disk))
    }

    /// Whether the cache in `path` holds both bigFT and the correlations, complete.
    pub fn has_large_arrays(&self) -> bool {
        self.manifest.is_done(Step::Fft) && self.manifest.is_done(Step::Correlate)
    }

    /// Hands the images of bigFT to `take`, one detector pixel at a time: `(crop row, crop col, spectrum)`.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) for a damaged cache; whatever `take` returns.
    pub fn for_each_spectrum(
        &self,
        path: &Path,
        mut take: impl FnMut(usize, usize, &[Complex<f64>]) -> Result<()>,
    ) -> Result<()> {
        let mut wide = vec![Complex::default(); self.manifest.scan.len()];
        if let Some(placed) = self.manifest.placed.get(&Step::Fft) {
            return self.for_each_placed(path, placed, &mut wide, take);
        }
        match self.precision() {
            Precision::F32 => for_each_image::<Complex<f32>>(path, "bigFT", |row, col, image| {
                wide.iter_mut().zip(image).for_each(|(w, z)| *w = Complex::new(f64::from(z.re), f64::from(z.im)));
                take(row, col, &wide)
            }),
            Precision::F64 => for_each_image::<Complex<f64>>(path, "bigFT", take),
        }
    }

    /// Hands the correlations to `take`, one detector pixel at a time: `(crop row, crop col, correlation)`.
    ///
    /// # Errors
    /// As [`for_each_spectrum`](Self::for_each_spectrum).
    pub fn for_each_correlation(
        &self,
        path: &Path,
        mut take: impl FnMut(usize, usize, &[f64]) -> Result<()>,
    ) -> Result<()> {
        let mut wide = vec![0.0; self.manifest.scan.len()];
        if let Some(placed) = self.manifest.placed.get(&Step::Correlate) {
            return self.for_each_placed(path, placed, &mut wide, take);
        }
        match self.precision() {
            Precision::F32 => for_each_image::<f32>(path, "correlations", |row, col, image| {
                wide.iter_mut().zip(image).for_each(|(w, &c)| *w = c.to_f64());
                take(row, col, &wide)
            }),
            Precision::F64 => for_each_image::<f64>(path, "correlations", take),
        }
    }

    /// Reads the images of an array that lies in an HDF5 cache.
    fn for_each_placed<N: bytemuck::Pod>(
        &self,
        path: &Path,
        placed: &Placed,
        image: &mut [N],
        mut take: impl FnMut(usize, usize, &[N]) -> Result<()>,
    ) -> Result<()> {
        let crop = self.disk.crop.shape();
        let numbers = size_of_val(image) / size_of::<f64>();
        let array = placed.open(path, Io::of(path))?.holding(crop.len(), numbers)?;
        for pixel in 0..crop.len() {
            array.read::<f64>(pixel, bytemuck::cast_slice_mut(image), |number| number)?;
            take(pixel / crop.cols, pixel % crop.cols, image)?;
        }
        Ok(())
    }

    fn precision(&self) -> Precision {
        self.manifest.layout.map_or(self.config.run.precision, |l| l.precision)
    }
}

fn for_each_image<N: bytemuck::Pod>(
    path: &Path,
    name: &str,
    mut take: impl FnMut(usize, usize, &[N]) -> Result<()>,
) -> Result<()> {
    let cache = WorkingCache::open_for_reading(path)?;
    let array = ChunkedArray::open(cache.group(), name)?;
    let spec = array.spec().clone();
    let (&[sy, sx, rows, cols], &[_, _, tile_rows, tile_cols]) = (&spec.shape[..], &spec.chunk[..]) else {
        return Err(Error::cache(path, format!("`{name}` is not four-dimensional")));
    };
    if spec.stored.size() != size_of::<N>() {
        return Err(Error::cache(path, format!("`{name}` holds numbers of another size than the manifest says")));
    }
    let n = sy * sx;
    for tile_row in 0..rows.div_ceil(tile_rows) {
        for tile_col in 0..cols.div_ceil(tile_cols) {
            let chunk = array.chunk(&[0, 0, tile_row, tile_col])?;
            let numbers = chunk.cast::<N>();
            for row in tile_row * tile_rows..((tile_row + 1) * tile_rows).min(rows) {
                for col in tile_col * tile_cols..((tile_col + 1) * tile_cols).min(cols) {
                    let slot = (row % tile_rows) * tile_cols + col % tile_cols;
                    take(row, col, &numbers[slot * n..(slot + 1) * n])?;
                }
            }
        }
    }
    Ok(())
}
