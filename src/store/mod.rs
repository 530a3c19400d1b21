//! Zarr v3 arrays on disk: metadata written by zarrs, chunk bytes written with positioned writes and read through
//! memory maps.
//!
//! Chunks are stored with the `bytes` codec alone, so that a chunk file is the plain little-endian array; where the
//! memory order differs from the array's axis order, the `transpose` codec says so. Any Zarr v3 reader opens them.
//!
//! Different chunks may be written at once, by any number of threads; the same chunk never.

mod array;
mod batch;
mod chunk_bytes;
mod chunk_source;
mod clock;
mod direct;
mod file;
mod group;
mod images;
mod mmap;
mod pace;
mod placed;
mod rates;
mod spec;
mod speed;
mod stream;

pub use array::ChunkedArray;
pub use batch::begin_writing_out;
pub use chunk_bytes::ChunkBytes;
pub use chunk_source::ChunkSource;
pub use clock::local_time;
pub use file::{
    atomic_write, create_folder, device, disk_usage, free_disk, is_network, local_scratch, network_kind, remove_file,
    remove_folder, sync_chunk, write_out_path,
};
pub use group::{Group, Io};
pub use placed::{Place, PlacedArray};
pub use rates::{rates_path, read_rates, write_rates};
pub use spec::{ArraySpec, StoredType};
pub use speed::{ColdRead, drop_pages, time_reading, time_writing};
pub use stream::Stream;

#[cfg(target_endian = "big")]
compile_error!("chunk files are little-endian and mapped as they are: this needs a little-endian machine");
