//! What several tests share: small datasets and writers for every format that has a reader.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::doc_markdown,
    reason = "each test file uses its own part of this"
)]

pub mod case;
#[cfg(feature = "hdf5")]
pub mod emd;
pub mod group;
pub mod runs;
pub mod writers;

use std::path::{Path, PathBuf};

use ndarray::Array4;

/// A scan `[scan row, scan col, det row, det col]` whose samples are all different enough to catch a swapped axis.
pub fn numbered(shape: (usize, usize, usize, usize)) -> Array4<u16> {
    Array4::from_shape_fn(shape, |(r, c, y, x)| ((r * 7919 + c * 641 + y * 53 + x * 3) % 65_521) as u16)
}

/// A file of the shared reference material, when it is there; says so when it is not.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    if path.exists() {
        Some(path)
    } else {
        println!("skipped: no shared material at {}", path.display());
        None
    }
}

/// The folder with real files, when it is there; says so when it is not.
pub fn real_files() -> Option<PathBuf> {
    shared("realfiles")
}
