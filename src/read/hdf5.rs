//! EMD files of all dialects and other HDF5 files with a 4-D dataset.
//!
//! The library is asked for headers only. Contiguous samples are then read by positioned reads; chunks are read by
//! address and decoded here; only storage of other kinds goes through the library.

mod btree;
mod chunked;
mod contents;
mod dialect;
mod filters;
mod library;
mod table;
mod values;

use std::path::Path;

use hdf5::dataset::{ChunkOpts, Layout};
use hdf5::filters::Filter;
use hdf5::{Dataset, File};

use self::chunked::ChunkedSource;
use self::contents::{Contents, Entry};
use self::dialect::Dialect;
use self::filters::ChunkFilter;
use self::library::LibrarySource;
use self::table::{ChunkTable, Grid};
use super::file::{DataFile, checked_product, too_short};
use super::scan_shape::{FrameCount, resolve};
use super::strided::StridedSource;
use super::{Confidence, DatasetInfo, Evidence, FrameSource};
use crate::axes::{DetShape, Endian, ScanShape};
use crate::config::SourceConfig;
use crate::error::{Error, Result};
use crate::memory::ByteSize;

/// Chunks larger than this would not leave room for anything else.
const LARGEST_CHUNK: u64 = 1 << 30;

/// Opens the 4-D dataset of an HDF5 file, or a 3-D one whose scan shape the user gives.
pub(super) fn open(path: &Path, options: &SourceConfig) -> Result<Box<dyn FrameSource>> {
    let data = DataFile::open(path)?;
    let file = File::open(path).map_err(|e| cannot_open(&data, &e))?;
    let contents = Contents::of(&file);
    let entry = match &options.dataset {
        Some(name) => named(path, &file, name, &contents)?,
        None => {
            refuse_known(path, &file, &contents)?;
            contents.choose(path)?.clone()
        }
    };
    let dataset = file.dataset(&entry.path).map_err(|e| cannot_read(path, &e))?;
    let cube = Cube::of(path, &file, &contents, entry)?;
    let (info, skip) = cube.describe(path, &dataset, options)?;
    source(data, &file, &dataset, &cube, info, skip)
}

/// The reason deepest in the library's stack of errors, which is the one that says most.
fn reason(error: &hdf5::Error) -> String {
    let detail = match error {
        hdf5::Error::HDF5(stack) => {
            stack.clone().expand().ok().and_then(|frames| frames.last().map(|f| f.desc().to_owned()))
        }
        hdf5::Error::Internal(_) => None,
    };
    detail.unwrap_or_else(|| error.to_string())
}

fn cannot_open(file: &DataFile, error: &hdf5::Error) -> Error {
    let reason = reason(error);
    let found = format!("a file of {} bytes that HDF5 cannot open ({reason})", file.len());
    let hint = if reason.contains("lock") {
        "another program has the file open for writing, or the file system cannot lock files: \
         close the other program, or set the environment variable HDF5_USE_FILE_LOCKING=FALSE"
    } else {
        "the file is damaged or cut short; copy it again from where it was recorded"
    };
    Error::input(file.path(), "a complete HDF5 file", found).with_hint(hint)
}

/// The error for a part of a file that the library refuses to read.
fn cannot_read(path: &Path, error: &hdf5::Error) -> Error {
    Error::input(path, "a dataset that HDF5 can read", reason(error))
        .with_hint("the file is damaged or was changed by another program; copy it again from where it was recorded")
}

/// The dataset that the user names.
fn named(path: &Path, file: &File, name: &str, contents: &Contents) -> Result<Entry> {
    let dataset = file.dataset(name).map_err(|_| {
        let arrays = contents.datasets.iter().filter(|e| e.shape.len() >= 3).take(8);
        let list: Vec<_> = arrays.map(|e| format!("{} {:?}", e.path, e.shape)).collect();
        let list = if list.is_empty() { "no array of 3 or more dimensions".to_owned() } else { list.join(", ") };
        Error::input(path, format!("a dataset `{name}`"), list).with_hint("correct source.dataset")
    })?;
    let entry = Entry::of(&dataset, &format!("/{}", name.trim_matches('/')));
    if ![3, 4].contains(&entry.shape.len()) || entry.shape.contains(&0) || entry.sample.is_none() {
        let found = format!("shape {:?}", entry.shape);
        let error = Error::input(path, format!("`{name}` to be a 4-D array of real numbers"), found);
        return Err(error.with_hint("name another dataset with source.dataset"));
    }
    Ok(entry)
}

/// Refuses files of known kinds that hold something else than a scan in one dataset.
fn refuse_known(path: &Path, file: &File, contents: &Contents) -> Result<()> {
    let has = |name: &str| values::exists(file, name);
    let refuse = |found: &str, hint: String| Err(Error::input(path, "a dataset", found).with_hint(hint));
    if has("bigFT") || has("correlations") && has("metadata") {
        return refuse(
            "an HDF5 cache of results",
            "this is a cache, not a dataset; give the dataset itself".to_owned(),
        );
    }
    let hyperspy = values::attr_text(file, "file_format").is_some_and(|f| f == "HyperSpy" || f == "ZSpy");
    if hyperspy || has("Experiments") {
        let four = contents.datasets.iter().find(|e| e.shape.len() == 4 && e.sample.is_some());
        let hint = four.map_or("it holds no 4-D dataset either".to_owned(), |e| {
            format!("if its scan axes come first, name the dataset: `--set source.dataset={}`", e.path)
        });
        return refuse("a HyperSpy file (hspy), which is not supported yet", hint);
    }
    if has("entry/instrument/detector") || has("entry/data/data_000001") {
        let hint = "convert the scan to one 4-D dataset, or to npy, for example with rosettasciio";
        return refuse("a Dectris (NeXus) master file, which is not supported yet", hint.to_owned());
    }
    let version = file.dataset("Version").ok().and_then(|d| values::text(&d));
    if version.is_some_and(|v| v.contains("Velox")) {
        let hint = "Velox files hold images and spectra; export the 4D-STEM scan from the program that recorded it";
        return refuse("a Velox file", hint.to_owned());
    }
    Ok(())
}

/// The dataset to read, with its axes put in order.
struct Cube {
    entry: Entry,
    dialect: Dialect,
    axes: Vec<dialect::Axis>,
    /// Shape in our order of axes, rank 3 or 4.
    shape: Vec<usize>,
    calibration: crate::axes::Calibration,
    facts: Vec<(String, String)>,
    endian: Endian,
}

impl Cube {
    fn of(path: &Path, file: &File, contents: &Contents, entry: Entry) -> Result<Self> {
        let rank = entry.shape.len();
        let dialect = Dialect::of(file, &entry.path);
        let mut axes = dialect::axes(file, &entry.path, dialect, rank);
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
        let (calibration, facts) = dialect::calibration(file, &entry.path, &axes, contents.energy_ev);
        let endian = entry.sample.map_or(Endian::Little, |(_, endian)| endian);
        Ok(Self { entry, dialect, axes, shape, calibration, facts, endian })
    }

    /// What the headers say, and the frames to skip.
    fn describe(&self, path: &Path, dataset: &Dataset, options: &SourceConfig) -> Result<(DatasetInfo, usize)> {
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
    match dataset.chunk() {
        Some(chunk) => {
            let names: Vec<_> = dataset.filters().iter().map(filter_name).collect();
            let filters = if names.is_empty() { "no filters".to_owned() } else { names.join(" + ") };
            format!("chunks of {chunk:?}, {filters}, {order}-endian")
        }
        None => format!("{}, {order}-endian", if dataset.offset().is_some() { "contiguous" } else { "compact" }),
    }
}

fn filter_name(filter: &Filter) -> String {
    match (filter, filter.id()) {
        (Filter::Deflate(_), _) => "gzip".to_owned(),
        (Filter::Shuffle, _) => "shuffle".to_owned(),
        (Filter::Fletcher32, _) => "fletcher32".to_owned(),
        (_, 32_000) => "LZF".to_owned(),
        (_, 32_001) => "Blosc".to_owned(),
        (_, 32_004) => "LZ4".to_owned(),
        (_, 32_008) => "bitshuffle".to_owned(),
        (_, 32_015) => "Zstandard".to_owned(),
        (_, id) => format!("filter {id}"),
    }
}

/// The fastest way to the frames that the dataset's storage allows.
fn source(
    data: DataFile,
    file: &File,
    dataset: &Dataset,
    cube: &Cube,
    mut info: DatasetInfo,
    skip: usize,
) -> Result<Box<dyn FrameSource>> {
    // Data in other files, or behind a user block, have addresses that do not count from the beginning of this file.
    let plain = !cube.dialect.reversed() && file.userblock() == 0 && dataset.filename() == file.filename();
    if plain && !dataset.is_chunked() {
        if let Some(start) = dataset.offset() {
            return contiguous(data, start, cube, info, skip);
        }
    }
    if dataset.storage_size() == 0 && dataset.layout() != Layout::Virtual {
        return Err(Error::input(data.path(), "a dataset with data", "one into which nothing was ever written")
            .with_hint("the recording or conversion was interrupted; run it again"));
    }
    if plain && dataset.is_chunked() {
        match chunks(&data, dataset, cube, &info)? {
            Ok((grid, table, filters)) => return chunked(data, dataset, cube, info, skip, (grid, table, filters)),
            Err(why) => info.warnings.push(format!("{why}: frames are read by the HDF5 library, one thread at a time")),
        }
    } else if cube.dialect.reversed() {
        info.warnings.push(
            "HyperSpy stores this kind of file with the scan axes last: every block of frames is gathered from the \
             whole file, which is slow for a large one"
                .to_owned(),
        );
    }
    through_library(data.path(), dataset, cube, info, skip)
}

fn contiguous(data: DataFile, start: u64, cube: &Cube, info: DatasetInfo, skip: usize) -> Result<Box<dyn FrameSource>> {
    let frame = (info.det.len() * info.dtype.size()) as u64;
    let frames: usize = cube.shape[..cube.shape.len() - 2].iter().product();
    let end = start.saturating_add(frames as u64 * frame);
    if end > data.len() {
        return Err(too_short(data.path(), end, data.len(), "end of the dataset"));
    }
    let start = start + skip as u64 * frame;
    Ok(Box::new(StridedSource { info, file: data, start, lead: 0, mark: b"", endian: cube.endian }))
}

type Chunks = (Grid, ChunkTable, Vec<ChunkFilter>);

/// All that is needed to decode chunks here, or the reason why this is not possible.
fn chunks(data: &DataFile, dataset: &Dataset, cube: &Cube, info: &DatasetInfo) -> Result<Result<Chunks, String>> {
    let mut filters = Vec::new();
    for filter in dataset.filters() {
        filters.push(match filter {
            Filter::Deflate(_) => ChunkFilter::Deflate,
            Filter::Shuffle => ChunkFilter::Shuffle,
            Filter::Fletcher32 => ChunkFilter::Fletcher32,
            other => return Ok(Err(format!("the chunks are compressed with {}", filter_name(&other)))),
        });
    }
    let partial = dataset.dcpl().ok().and_then(|p| p.chunk_opts());
    if partial.is_some_and(|o| o.contains(ChunkOpts::DONT_FILTER_PARTIAL_CHUNKS)) && !filters.is_empty() {
        return Ok(Err("the chunks at the edges are stored in another way".to_owned()));
    }
    let chunk = dataset.chunk().unwrap_or_default();
    let Some(grid) = Grid::new(&cube.shape, &chunk) else {
        return Ok(Err(format!("the chunks {chunk:?} are of an unusual shape")));
    };
    let chunk_bytes = grid.chunk_len() as u64 * info.dtype.size() as u64;
    if chunk_bytes > LARGEST_CHUNK {
        let limit = format!("chunks of at most {}", ByteSize(LARGEST_CHUNK));
        return Err(Error::input(data.path(), limit, format!("chunks {chunk:?} of {}", ByteSize(chunk_bytes)))
            .with_hint(repack("one chunk per frame")));
    }
    let Some(table) = ChunkTable::of(dataset, data, &grid) else {
        return Ok(Err("the list of chunks has an unusual form".to_owned()));
    };
    if table.end() > data.len() {
        return Err(too_short(data.path(), table.end(), data.len(), "end of the last chunk"));
    }
    Ok(Ok((grid, table, filters)))
}

fn repack(what: &str) -> String {
    format!("rewrite the file with {what}, for example with the program h5repack")
}

fn chunked(
    data: DataFile,
    dataset: &Dataset,
    cube: &Cube,
    mut info: DatasetInfo,
    skip: usize,
    (grid, table, filters): Chunks,
) -> Result<Box<dyn FrameSource>> {
    let missing = grid.chunks() - table.len().min(grid.chunks());
    if missing > 0 {
        let percent = 100.0 * missing as f64 / grid.chunks() as f64;
        info.warnings.push(format!(
            "{missing} of {} chunks ({percent:.1} %) were never written and read as the fill value: \
             was the conversion interrupted?",
            grid.chunks()
        ));
    }
    let cache = ChunkedSource::cache_for(&grid, info.dtype.size());
    let fill = fill_value(dataset, &info, cube.endian);
    let endian = cube.endian;
    Ok(Box::new(ChunkedSource { info, file: data, grid, table, filters, endian, fill, skip, cache }))
}

/// The bytes of one sample that was never written.
fn fill_value(dataset: &Dataset, info: &DatasetInfo, endian: Endian) -> Vec<u8> {
    let properties = dataset.dcpl().ok();
    crate::with_sample_type!(info.dtype, T => {
        let value: T = properties.and_then(|p| p.fill_value_as::<T>()).unwrap_or_default();
        let mut bytes = bytemuck::bytes_of(&value).to_vec();
        if (endian == Endian::Big) != cfg!(target_endian = "big") {
            bytes.reverse();
        }
        bytes
    })
}

fn through_library(
    path: &Path,
    dataset: &Dataset,
    cube: &Cube,
    info: DatasetInfo,
    skip: usize,
) -> Result<Box<dyn FrameSource>> {
    if let Some(filter) = dataset.filters().iter().find(|f| !f.is_available()) {
        let found = format!("chunks compressed with {}", filter_name(filter));
        return Err(Error::input(path, "chunks that can be decompressed (gzip, shuffle)", found)
            .with_hint(repack("gzip compression")));
    }
    let rank = cube.shape.len();
    Ok(Box::new(LibrarySource {
        info,
        path: path.to_owned(),
        dataset: cube.entry.path.clone(),
        cols: if rank == 4 { cube.shape[1] } else { 1 },
        rank,
        reversed: cube.dialect.reversed(),
        skip,
    }))
}
