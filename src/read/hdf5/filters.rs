//! Undoes the filters that HDF5 applies to chunks: deflate, shuffle and the Fletcher-32 checksum.

use std::io::Read;

/// A filter that is undone here, without the HDF5 library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkFilter {
    Deflate,
    Shuffle,
    Fletcher32,
}

/// The chunk's samples from its stored bytes. `filters` is in the order of writing; bit `i` of `skipped` says that
/// filter `i` was left out for this chunk. `sample` is the size of one sample, `expected` the size of the result.
pub(super) fn decode(
    mut bytes: Vec<u8>,
    filters: &[ChunkFilter],
    skipped: u32,
    sample: usize,
    expected: usize,
) -> Result<Vec<u8>, String> {
    for (i, filter) in filters.iter().enumerate().rev() {
        if skipped >> i & 1 == 1 {
            continue;
        }
        bytes = match filter {
            ChunkFilter::Deflate => inflate(&bytes, expected)?,
            ChunkFilter::Shuffle => unshuffle(&bytes, sample),
            ChunkFilter::Fletcher32 => checked(bytes)?,
        };
    }
    if bytes.len() == expected { Ok(bytes) } else { Err(format!("{} bytes instead of {expected}", bytes.len())) }
}

/// At most the expected bytes and a checksum come out, whatever the stream claims.
fn inflate(bytes: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(expected + 4);
    let limit = expected as u64 + 4 + 1;
    flate2::read::ZlibDecoder::new(bytes)
        .take(limit)
        .read_to_end(&mut out)
        .map_err(|e| format!("damaged compressed data ({e})"))?;
    Ok(out)
}

/// Shuffled data hold the first bytes of all samples, then all second bytes …; a rest is not shuffled.
fn unshuffle(bytes: &[u8], sample: usize) -> Vec<u8> {
    if sample < 2 {
        return bytes.to_vec();
    }
    let count = bytes.len() / sample;
    let mut out = vec![0; bytes.len()];
    for (place, plane) in bytes[..count * sample].chunks_exact(count.max(1)).enumerate() {
        for (target, &byte) in out[place..].iter_mut().step_by(sample).zip(plane) {
            *target = byte;
        }
    }
    out[count * sample..].copy_from_slice(&bytes[count * sample..]);
    out
}

/// Takes the checksum off the end and compares it.
fn checked(mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let Some(at) = bytes.len().checked_sub(4) else {
        return Err("no room for a checksum".to_owned());
    };
    let tail = bytes.split_off(at);
    let stored = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let sum = fletcher32(&bytes);
    // Very old versions of the library stored the two bytes of each half in the other order.
    let swapped = (sum & 0x00ff_00ff) << 8 | (sum & 0xff00_ff00) >> 8;
    if stored == sum || stored == swapped { Ok(bytes) } else { Err("a wrong checksum".to_owned()) }
}

/// The Fletcher-32 checksum over big-endian 16-bit words (Fletcher, IEEE Trans. Comm. 30, 247, 1982).
fn fletcher32(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (0u32, 0u32);
    // 360 words can be summed before 32 bits overflow.
    for block in bytes.chunks(720) {
        for pair in block.chunks(2) {
            low += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            high += low;
        }
        low = (low & 0xffff) + (low >> 16);
        high = (high & 0xffff) + (high >> 16);
    }
    low = (low & 0xffff) + (low >> 16);
    high = (high & 0xffff) + (high >> 16);
    high << 16 | low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_bytes_come_back_in_order_and_a_rest_stays() {
        assert_eq!(unshuffle(&[1, 3, 5, 2, 4, 6, 9], 2), [1, 2, 3, 4, 5, 6, 9]);
        assert_eq!(unshuffle(&[1, 3, 2, 4], 2), [1, 2, 3, 4]);
    }

    #[test]
    fn a_skipped_filter_is_not_undone() {
        let stored = vec![1, 2, 3, 4];
        let filters = [ChunkFilter::Shuffle, ChunkFilter::Deflate];
        assert_eq!(decode(stored.clone(), &filters, 0b11, 2, 4).unwrap(), stored);
        assert_eq!(decode(stored.clone(), &filters, 0b10, 2, 4).unwrap(), [1, 3, 2, 4]);
        assert!(decode(stored, &filters, 0b01, 2, 4).is_err());
    }
}
