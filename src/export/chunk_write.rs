//! Writing one whole chunk of an HDF5 dataset as it will lie in the file: the library is handed compressed bytes and
//! compresses nothing itself, so that this can be done by several threads.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use hdf5::Dataset;
use hdf5_sys::h5::hsize_t;
use hdf5_sys::h5d::H5Dwrite_chunk;
use hdf5_sys::h5p::H5P_DEFAULT;

use super::h5::H5Result;

/// The fastest level: higher ones gain little on numbers like these and take several times as long.
pub(super) const LEVEL: u8 = 1;

/// Numbers of `size` bytes as the filters shuffle and deflate leave them: first bytes of all numbers first.
pub(super) fn compressed(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(bytes.len() / 2), Compression::new(u32::from(LEVEL)));
    // Writing to memory cannot fail.
    let _ = encoder.write_all(&shuffled(bytes, size));
    encoder.finish().unwrap_or_default()
}

/// All first bytes, then all second ones, and so on: the nearly constant exponents come together, and the zeros at the
/// end of numbers that were single precision once.
fn shuffled(bytes: &[u8], size: usize) -> Vec<u8> {
    let count = bytes.len() / size.max(1);
    let mut out = vec![0; bytes.len()];
    for (byte, plane) in out.chunks_exact_mut(count.max(1)).enumerate() {
        plane.iter_mut().zip(bytes.chunks_exact(size)).for_each(|(to, number)| *to = number[byte]);
    }
    out
}

/// Puts a chunk, filtered as the dataset's filters would, at `place` (element indices of its first number).
///
/// Law: `data` has four axes, and `place` is the beginning of one of its chunks; the library refuses anything else.
pub(super) fn write_chunk(data: &Dataset, place: [usize; 4], bytes: &[u8]) -> H5Result<()> {
    let place = place.map(|index| index as hsize_t);
    let (id, start) = (data.id(), bytes.as_ptr().cast());
    hdf5::sync::sync(|| {
        // SAFETY: `id` is that of a dataset which `data` keeps open during the call; `place` has as many numbers as the
        // dataset has axes; the library reads exactly `bytes.len()` bytes from `start` and keeps no pointer. The lock of
        // `sync` is the one that all calls of the crate hold.
        let code = unsafe { H5Dwrite_chunk(id, H5P_DEFAULT, 0, place.as_ptr(), bytes.len(), start) };
        if code >= 0 {
            return Ok(());
        }
        Err(hdf5::Error::query().unwrap_or_else(|e| e))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_brings_equal_places_together() {
        assert_eq!(shuffled(&[1, 2, 3, 4, 5, 6], 2), [1, 3, 5, 2, 4, 6]);
        assert_eq!(shuffled(&[1, 2, 3], 1), [1, 2, 3]);
        assert!(shuffled(&[], 8).is_empty());
    }
}
