//! Chooses how the frames of a dataset are read.

use hdf5::dataset::{ChunkOpts, Layout};
use hdf5::filters::Filter;
use hdf5::{Dataset, File};

use super::chunked::ChunkedSource;
use super::cube::{Cube, filter_name};
use super::filters::ChunkFilter;
use super::library::LibrarySource;
use super::table::{ChunkTable, Grid};
use crate::axes::Endian;
use crate::error::{Error, Result};
use crate::memory::ByteSize;
use crate::read::file::{DataFile, too_short};
use crate::read::strided::StridedSource;
use crate::read::{DatasetInfo, FrameSource};

/// Chunks larger than this would not leave room for anything else.
const LARGEST_CHUNK: u64 = 1 << 30;

/// The fastest way to the frames that the dataset's storage allows; `skip` frames at the start are left out.
pub(super) fn source(
    data: DataFile,
    file: &File,
    dataset: &Dataset,
    cube: &Cube,
    (mut info, skip): (DatasetInfo, usize),
) -> Result<Box<dyn FrameSource>> {
    // Data in other files, or behind a user block, have addresses that do not count from the beginning of this file.
    let plain = !cube.dialect.reversed() && file.userblock() == 0 && dataset.filename() == file.filename();
    if let (true, Some(start)) = (plain && !dataset.is_chunked(), dataset.offset()) {
        return contiguous(data, start, cube, info, skip);
    }
    if dataset.storage_size() == 0 && dataset.layout() != Layout::Virtual {
        return Err(Error::input(data.path(), "a dataset with data", "one into which nothing was ever written")
            .with_hint("the recording or conversion was interrupted; run it again"));
    }
    if plain && dataset.is_chunked() {
        match chunks(&data, dataset, cube, &info)? {
            Ok(chunks) => return Ok(chunked(data, dataset, cube.endian, (info, skip), chunks)),
            Err(why) => info.warnings.push(format!("{why}: frames are read by the HDF5 library, one thread at a time")),
        }
    } else if cube.dialect.reversed() {
        info.warnings.push(
            "HyperSpy stores this kind of file with the scan axes last: every block of frames is gathered from the \
             whole file, which is slow for a large one"
                .to_owned(),
        );
    } else if dataset.layout() != Layout::Compact {
        info.warnings.push(
            "the samples lie behind a user block or in another file: frames are read by the HDF5 library, one thread \
             at a time"
                .to_owned(),
        );
    }
    through_library(&data, dataset, cube, info, skip)
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
    endian: Endian,
    (mut info, skip): (DatasetInfo, usize),
    (grid, table, filters): Chunks,
) -> Box<dyn FrameSource> {
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
    let fill = fill_value(dataset, &info, endian);
    Box::new(ChunkedSource { info, file: data, grid, table, filters, endian, fill, skip, cache })
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
    data: &DataFile,
    dataset: &Dataset,
    cube: &Cube,
    info: DatasetInfo,
    skip: usize,
) -> Result<Box<dyn FrameSource>> {
    if let Some(filter) = dataset.filters().iter().find(|f| !f.is_available()) {
        let found = format!("chunks compressed with {}", filter_name(filter));
        return Err(Error::input(data.path(), "chunks that can be decompressed (gzip, shuffle)", found)
            .with_hint(repack("gzip compression")));
    }
    let rank = cube.shape.len();
    Ok(Box::new(LibrarySource {
        info,
        path: data.path().to_owned(),
        state: data.state(),
        dataset: cube.entry.path.clone(),
        cols: if rank == 4 { cube.shape[1] } else { 1 },
        rank,
        reversed: cube.dialect.reversed(),
        skip,
    }))
}
