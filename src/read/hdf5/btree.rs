//! Reads the list of chunks of a dataset straight from the file.
//!
//! The library finds chunk `i` by walking over all chunks before it, so that listing n chunks takes n² steps: minutes
//! for a scan with one chunk per frame. The list itself is a version 1 B-tree (HDF5 file format specification 3.0,
//! section III.A.1), which takes n steps. Everything is checked; for what is not understood the answer is `None` and
//! the library is asked instead.

use super::super::file::DataFile;

/// Where one chunk lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredChunk {
    /// Position of its first sample along each axis.
    pub(super) offset: Vec<u64>,
    pub(super) address: u64,
    pub(super) bytes: u64,
    /// Bit `i` says that filter `i` was left out.
    pub(super) skipped: u32,
}

const UNDEFINED: u64 = u64::MAX;
const LAYOUT_MESSAGE: u16 = 8;
const CONTINUATION_MESSAGE: u16 = 16;

/// All chunks of the dataset whose object header lies at `header`, for a dataset of `rank` axes.
pub(super) fn list_chunks(file: &DataFile, header: u64, rank: usize) -> Option<Vec<StoredChunk>> {
    if size_of_offsets(file)? != 8 {
        return None;
    }
    let layout = layout_message(file, header)?;
    // Version 3, class 2 (chunked), rank + 1 dimensions, address of the tree.
    if layout.len() < 11 || layout[0] != 3 || layout[1] != 2 || layout[2] as usize != rank + 1 {
        return None;
    }
    let tree = u64_at(&layout, 3)?;
    let mut chunks = Vec::new();
    if tree != UNDEFINED {
        let mut nodes_left = file.len() / 24;
        visit_node(file, tree, None, rank, &mut chunks, &mut nodes_left)?;
    }
    Some(chunks)
}

fn size_of_offsets(file: &DataFile) -> Option<u8> {
    let head = file.read_some(0, 16).ok()?;
    match *head.get(8)? {
        0 | 1 => head.get(13).copied(),
        2 | 3 => head.get(9).copied(),
        _ => None,
    }
}

/// The data of the layout message in an object header of version 1 or 2.
fn layout_message(file: &DataFile, header: u64) -> Option<Vec<u8>> {
    let head = file.read_some(header, 48).ok()?;
    let modern = head.starts_with(b"OHDR");
    let (flags, start, length) = if modern {
        let flags = *head.get(5)?;
        let width = 1usize << (flags & 3);
        let at = 6 + if flags & 0x20 != 0 { 16 } else { 0 } + if flags & 0x10 != 0 { 4 } else { 0 };
        let length = head.get(at..at + width)?.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        (flags, header + (at + width) as u64, length)
    } else if head.first() == Some(&1) {
        (0, header + 16, u64::from(u32_at(&head, 8)?))
    } else {
        return None;
    };
    let mut blocks = vec![(start, length)];
    let mut done = 0;
    while let Some(&(at, length)) = blocks.get(done) {
        done += 1;
        if length > 1 << 20 || done > 64 {
            return None;
        }
        let bytes = file.read_some(at, length as usize).ok()?;
        if let Some(layout) = search_block(&bytes, modern, flags, &mut blocks) {
            return Some(layout);
        }
    }
    None
}

/// Looks for the layout message among a block's messages and notes where the header goes on.
fn search_block(bytes: &[u8], modern: bool, flags: u8, blocks: &mut Vec<(u64, u64)>) -> Option<Vec<u8>> {
    let prefix = if !modern {
        8
    } else if flags & 4 != 0 {
        6
    } else {
        4
    };
    let mut at = 0;
    while at + prefix <= bytes.len() {
        let (kind, size) = if modern {
            (u16::from(bytes[at]), u16::from_le_bytes([bytes[at + 1], bytes[at + 2]]))
        } else {
            let pair = |i: usize| u16::from_le_bytes([bytes[at + i], bytes[at + i + 1]]);
            (pair(0), pair(2))
        };
        let data = bytes.get(at + prefix..at + prefix + size as usize)?;
        if kind == LAYOUT_MESSAGE {
            return Some(data.to_vec());
        }
        if kind == CONTINUATION_MESSAGE {
            let (offset, length) = (u64_at(data, 0)?, u64_at(data, 8)?);
            // Blocks of the newer kind are framed by a signature and a checksum of four bytes each.
            blocks.push(if modern { (offset.checked_add(4)?, length.checked_sub(8)?) } else { (offset, length) });
        }
        at += prefix + size as usize;
    }
    None
}

fn visit_node(
    file: &DataFile,
    address: u64,
    level: Option<u8>,
    rank: usize,
    chunks: &mut Vec<StoredChunk>,
    nodes_left: &mut u64,
) -> Option<()> {
    *nodes_left = nodes_left.checked_sub(1)?;
    let head = file.read_some(address, 24).ok()?;
    // Node type 1 holds chunks; levels go down by one, so that a loop in the tree ends.
    if head.len() < 24 || &head[..4] != b"TREE" || head[4] != 1 || level.is_some_and(|l| head[5] != l) {
        return None;
    }
    let level = head[5];
    let entries = u16::from_le_bytes([head[6], head[7]]) as usize;
    let key = 8 + 8 * (rank + 1);
    let body = file.read_some(address.checked_add(24)?, entries * (key + 8)).ok()?;
    if body.len() < entries * (key + 8) {
        return None;
    }
    for entry in body.chunks_exact(key + 8) {
        let child = u64_at(entry, key)?;
        if level > 0 {
            visit_node(file, child, Some(level - 1), rank, chunks, nodes_left)?;
        } else {
            let offset = (0..rank).map(|i| u64_at(entry, 8 + 8 * i)).collect::<Option<_>>()?;
            let (bytes, skipped) = (u64::from(u32_at(entry, 0)?), u32_at(entry, 4)?);
            chunks.push(StoredChunk { offset, address: child, bytes, skipped });
        }
    }
    Some(())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32_at(bytes, at)?) | u64::from(u32_at(bytes, at + 4)?) << 32)
}
