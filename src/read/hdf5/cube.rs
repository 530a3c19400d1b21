//! The dataset to read, with its axes put in order, and what its headers say.

use std::path::Path;

use hdf5::dataset::Layout;
use hdf5::filters::Filter;
use hdf5::{Dataset, File};

use super::contents::{Contents, Entry};
use super::dialect::{Axis, Dialect, axes as stored_axes, calibration as read_calibration};
use crate::axes::{Calibration, DetShape, Endian, ScanShape};
use crate::config::SourceConfig;
use crate::error::{Error, Result};
use crate::read::file::checked_product;
use crate::read::scan_shape::{FrameCount, resolve};
use crate::read::{Confidence, DatasetInfo, Evidence};

/// The dataset to read, with its axes put in order.
pub(super) struct Cube {
    pub(super) entry: Entry,
    pub(super) dialect: Dialect,
    axes: Vec<Axis>,
    /// Shape in our order of axes, rank 3 or 4.
    pub(super) shape: Vec<usize>,
    calibration: Calibration,
    facts: Vec<(String, String)>,
    pub(super) endian: Endian,
}

impl Cube {
    pub(super) fn of(path: &Path, file: &File, contents: &Contents, entry: Entry) -> Result<Self> {
        let rank = entry.shape.len();
        let dialect = Dialect::of(file, &entry.path);
        let mut axes = stored_axes(file, &entry.path, dialect, rank);
        let mut shape = entry.shape.clone();
        if dialect.reversed() {
            axes.reverse();
            shape.reverse();
        }
        if axes.last().is_some_and(|a| a.name == "_labels_") {
            return Err(Error::input(path, "a 4D-STEM scan", format!("a stack of arrays at {}", entry.path))
                .with_hint("name the dataset of a scan with source.dataset"));
        }
        if shape[rank - 2] == 1 {
            return Err(Error::input(path, "diffraction patterns", format!("spectra: shape {shape:?}")).with_hint(
                "the third axis has one element, as in spectrum images (EELS, EDX); a 4D-STEM scan is needed",
            ));
        }
        let (calibration, facts) = read_calibration(file, &entry.path, &axes, contents.energy_ev);
        let endian = entry.sample.map_or(Endian::Little, |(_, endian)| endian);
        Ok(Self { entry, dialect, axes, shape, calibration, facts, endian })
    }

    /// What the headers say, and the frames to skip.
    pub(super) fn describe(
        &self,
        path: &Path,
        dataset: &Dataset,
        options: &SourceConfig,
    ) -> Result<(DatasetInfo, usize)> {
        let rank = self.shape.len();
        let det = DetShape::new(self.shape[rank - 2], self.shape[rank - 1]);
        let Some((dtype, _)) = self.entry.sample else {
            return Err(Error::bug("a dataset without a sample type was chosen"));
        };
        checked_product(path, &[&self.shape[..], &[dtype.size()]].concat(), "a dataset")?;
        let frames: usize = self.shape[..rank - 2].iter().product();
        let evidence = match self.shape[..rank - 2] {
            [rows, cols] => {
                let source = "shape of the dataset".to_owned();
                vec![Evidence { source, scan: ScanShape::new(rows, cols), confidence: Confidence::Explicit }]
            }
            _ => vec![],
        };
        let resolved = resolve(path, FrameCount::exactly(frames), evidence, options)?;
        let mut warnings = resolved.warnings;
        warnings.extend(self.doubts());
        let mut metadata = vec![("dataset".to_owned(), format!("{} {:?}", self.entry.path, self.entry.shape))];
        for axis in self.axes.iter().filter(|a| !a.name.is_empty()) {
            let step = axis.step.map_or(String::new(), |s| format!("step {s} "));
            metadata.push((format!("axis {}", axis.name), format!("{step}{}", axis.units)));
        }
        metadata.extend(self.facts.iter().cloned());
        let writable = std::fs::metadata(path).is_ok_and(|m| !m.permissions().readonly());
        let info = DatasetInfo {
            path: path.to_owned(),
            format: format!("{}, {dtype}", self.dialect.name()),
            reader: "emd",
            can_embed_results: self.dialect.is_emd() && writable,
            scan: resolved.scan,
            det,
            dtype,
            payload_bytes: (resolved.scan.len() * det.len() * dtype.size()) as u64,
            layout: layout_text(dataset, self.endian),
            calibration: self.calibration,
            scan_evidence: resolved.evidence,
            warnings,
            metadata,
            files: vec![path.to_owned()],
        };
        Ok((info, resolved.skip))
    }

    /// Axis names that contradict the order of axes.
    fn doubts(&self) -> Option<String> {
        let names: Vec<_> = self.axes.iter().map(|a| a.name.to_ascii_lowercase()).collect();
        let [a, b, c, d] = &names[..] else {
            return None;
        };
        let reciprocal = |n: &str| n.starts_with('q') || n.starts_with('k');
        let real = |n: &str| n.starts_with('r') || n.contains("scan");
        (reciprocal(a) && reciprocal(b) || real(c) && real(d))
            .then(|| format!("the axes are named {}: are the scan axes really the first two?", names.join(", ")))
    }
}

fn layout_text(dataset: &Dataset, endian: Endian) -> String {
    let order = if endian == Endian::Big { "big" } else { "little" };
    if let Some(chunk) = dataset.chunk() {
        let names: Vec<_> = dataset.filters().iter().map(filter_name).collect();
        let filters = if names.is_empty() { "no filters".to_owned() } else { names.join(" + ") };
        return format!("chunks of {chunk:?}, {filters}, {order}-endian");
    }
    let place = match dataset.layout() {
        Layout::Virtual => "virtual",
        Layout::Compact => "compact",
        _ => "contiguous",
    };
    format!("{place}, {order}-endian")
}

/// A filter's name, for people.
pub(super) fn filter_name(filter: &Filter) -> String {
    match (filter, filter.id()) {
        (Filter::Deflate(_), _) => "gzip".to_owned(),
        (Filter::Shuffle, _) => "shuffle".to_owned(),
        (Filter::Fletcher32, _) => "fletcher32".to_owned(),
        (Filter::SZip(..), _) => "szip".to_owned(),
        (Filter::NBit, _) => "n-bit".to_owned(),
        (Filter::ScaleOffset(_), _) => "scale-offset".to_owned(),
        (_, 32_000) => "LZF".to_owned(),
        (_, 32_001) => "Blosc".to_owned(),
        (_, 32_004) => "LZ4".to_owned(),
        (_, 32_008) => "bitshuffle".to_owned(),
        (_, 32_015) => "Zstandard".to_owned(),
        (_, id) => format!("filter {id}"),
    }
}
