//! Where the chunks of a dataset lie in the file, in the order of frames.

use hdf5::Dataset;

use super::btree::{StoredChunk, list_chunks};
use crate::read::file::DataFile;

/// Up to this many chunks the library may be asked one by one; it takes about the square of it in steps.
const ASKED_ONE_BY_ONE: usize = 4096;

/// Shape of a dataset and of its chunks as `[scan row, scan col, det row, det col]`.
///
/// A 3-D dataset has one scan column per row here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) shape: [usize; 4],
    pub(super) chunk: [usize; 4],
    /// Chunks along each axis.
    pub(super) counts: [usize; 4],
}

impl Grid {
    /// From shapes of rank 3 or 4; `None` when they do not fit together or are too large to count.
    pub(super) fn new(shape: &[usize], chunk: &[usize]) -> Option<Self> {
        let four = |s: &[usize]| match *s {
            [r, c, y, x] => Some([r, c, y, x]),
            [n, y, x] => Some([n, 1, y, x]),
            _ => None,
        };
        let (shape, chunk) = (four(shape)?, four(chunk)?);
        if chunk.contains(&0) || shape.contains(&0) {
            return None;
        }
        let counts = std::array::from_fn(|i| shape[i].div_ceil(chunk[i]));
        counts.iter().try_fold(1usize, |n, &c| n.checked_mul(c))?;
        chunk.iter().try_fold(8usize, |n, &c| n.checked_mul(c))?;
        Some(Self { shape, chunk, counts })
    }

    /// Number of chunks of a complete dataset.
    pub(super) fn chunks(&self) -> usize {
        self.counts.iter().product()
    }

    /// Samples of one chunk, complete also at the edges.
    pub(super) fn chunk_len(&self) -> usize {
        self.chunk.iter().product()
    }

    /// Running number of a chunk from its place along each axis.
    pub(super) fn index(&self, place: [usize; 4]) -> usize {
        place.iter().zip(self.counts).fold(0, |n, (&p, count)| n * count + p)
    }

    /// Running number of the chunk whose first sample is at `offset`; `None` for one outside of the dataset.
    fn index_of_offset(&self, offset: &[u64]) -> Option<usize> {
        let offset = match *offset {
            [r, c, y, x] => [r, c, y, x],
            [n, y, x] => [n, 0, y, x],
            _ => return None,
        };
        let mut place = [0; 4];
        for i in 0..4 {
            let chunk = self.chunk[i] as u64;
            place[i] = (offset[i] / chunk) as usize;
            if !offset[i].is_multiple_of(chunk) || place[i] >= self.counts[i] {
                return None;
            }
        }
        Some(self.index(place))
    }
}

/// Where one chunk lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) skipped: u32,
}

/// The chunks that were written, sorted by their running number.
#[derive(Debug)]
pub(super) struct ChunkTable(Vec<(usize, Place)>);

impl ChunkTable {
    /// Lists the chunks of a dataset; `None` when only the library can find them.
    pub(super) fn of(dataset: &Dataset, file: &DataFile, grid: &Grid) -> Option<Self> {
        let count = dataset.num_chunks()?;
        let stored = header_address(dataset)
            .and_then(|header| list_chunks(file, header, dataset.ndim()))
            .filter(|stored| agrees(stored, dataset, count))
            .or_else(|| ask_one_by_one(dataset, count))?;
        let mut places: Vec<_> = stored
            .iter()
            .filter_map(|c| {
                let place = Place { address: c.address, bytes: c.bytes, skipped: c.skipped };
                Some((grid.index_of_offset(&c.offset)?, place))
            })
            .collect();
        places.sort_by_key(|(index, _)| *index);
        places.dedup_by_key(|(index, _)| *index);
        Some(Self(places))
    }

    /// Number of chunks that were written.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Where a chunk lies; `None` when it was never written.
    pub(super) fn find(&self, index: usize) -> Option<Place> {
        self.0.binary_search_by_key(&index, |(i, _)| *i).ok().map(|at| self.0[at].1)
    }

    /// The largest end of a chunk in the file.
    pub(super) fn end(&self) -> u64 {
        self.0.iter().map(|(_, p)| p.address.saturating_add(p.bytes)).max().unwrap_or(0)
    }
}

/// The address of the dataset's object header. The wrapper keeps it private and shows it in its debug text only; a
/// wrong one does no harm, because the list that it leads to is compared with what the library says.
fn header_address(dataset: &Dataset) -> Option<u64> {
    let text = format!("{:?}", dataset.loc_info().ok()?.token);
    let inside = text.strip_prefix("LocationToken(")?.strip_suffix(')')?;
    if let Ok(address) = inside.parse() {
        return Some(address);
    }
    // Since HDF5 1.12 a token is 16 bytes; the first eight are the address.
    let (_, list) = inside.split_once('[')?;
    let bytes = list.split(']').next()?.split(',').take(8).map(|b| b.trim().parse::<u8>());
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().ok()?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn agrees(stored: &[StoredChunk], dataset: &Dataset, count: usize) -> bool {
    stored.len() == count
        && (count == 0
            || dataset.chunk_info(0).is_some_and(|first| {
                let same =
                    |c: &StoredChunk| c.offset == first.offset && c.address == first.addr && c.bytes == first.size;
                stored.iter().any(same)
            }))
}

fn ask_one_by_one(dataset: &Dataset, count: usize) -> Option<Vec<StoredChunk>> {
    if count > ASKED_ONE_BY_ONE {
        return None;
    }
    let chunk = |i| {
        let info = dataset.chunk_info(i)?;
        Some(StoredChunk { offset: info.offset, address: info.addr, bytes: info.size, skipped: info.filter_mask })
    };
    (0..count).map(chunk).collect()
}
