//! Filling an HDF5 cache: images are fetched, packed by several threads where that is wanted, written by one, and brought
//! to the disk meanwhile by another.
//!
//! ```text
//! fetch ──► (pack × workers) ──► write ──► flush
//! ```
//!
//! Without the last block the whole file would wait in the page cache until it is closed.

use std::path::PathBuf;

use num_complex::Complex;

use super::hdf5_cache::{CacheArray, Hdf5CacheWriter, packed};
use crate::config::Compression;
use crate::error::Result;
use crate::memory::{MemoryBudget, write_window};
use crate::pipeline::{Block, Emitter, Graph, GraphReport, Pool, Pooled};
use crate::progress::CancelToken;
use crate::store::write_out_path;

/// Takes one image: which array, crop row, crop column, numbers in C order as bytes.
pub type Take<'t> = dyn FnMut(CacheArray, usize, usize, &[u8]) -> Result<()> + 't;
/// Hands all images of both arrays to somebody, in any order.
pub type Feed<'f> = Box<dyn FnOnce(&mut Take<'_>) -> Result<()> + Send + 'f>;

/// Bytes after which the disk is asked to go on, where nothing else limits what may wait for it.
const FLUSH_BYTES: u64 = 256 << 20;
/// Images that may wait between two blocks.
const QUEUE: usize = 2;

/// Copies all images that `feed` hands over into the cache that `writer` has begun.
///
/// # Errors
/// What `feed` and the writer say; [`Memory`](crate::error::ErrorKind::Memory) when the budget has not a few images left;
/// [`Interrupted`](crate::error::ErrorKind::Interrupted).
pub fn fill<'f>(
    writer: &'f mut Hdf5CacheWriter,
    feed: Feed<'f>,
    (compression, workers): (Compression, usize),
    budget: &MemoryBudget,
    cancel: &CancelToken,
) -> Result<GraphReport> {
    let workers = workers.max(1);
    let image_bytes = writer.image_bytes();
    let pool = Pool::new(budget, "images for the HDF5 cache", workers + 2 * QUEUE, image_bytes)?;
    let mut graph = Graph::new("HDF5 cache", cancel);
    let path = writer.growing_path().to_owned();
    let write = Write { writer, waiting: 0, window: write_window().unwrap_or(FLUSH_BYTES) };
    let images = graph.source("fetch", QUEUE, Fetch { feed: Some(feed), pool });
    let images = match compression {
        Compression::None => images,
        Compression::Gzip => graph.stage("pack", workers, QUEUE, images, || Pack),
    };
    let mut write = Some(write);
    // A single worker: the factory is called once.
    let flushes =
        graph.stage("write", 1, 1, images, || write.take().unwrap_or_else(|| unreachable!("a single worker")));
    graph.sink("flush", flushes, Flush(path));
    graph.run()
}

/// One image on its way.
struct Image {
    array: CacheArray,
    row: usize,
    col: usize,
    bytes: Bytes,
}

enum Bytes {
    Plain { buffer: Pooled, len: usize },
    Packed(Vec<u8>),
}

struct Fetch<'f> {
    feed: Option<Feed<'f>>,
    pool: Pool,
}

impl Block for Fetch<'_> {
    type In = ();
    type Out = Image;

    fn work(&mut self, (): (), out: &mut Emitter<'_, Image>) -> Result<()> {
        let Some(feed) = self.feed.take() else { return Ok(()) };
        feed(&mut |array, row, col, image| {
            let mut buffer = out.take(&self.pool)?;
            buffer[..image.len()].copy_from_slice(image);
            out.count_bytes(image.len() as u64);
            out.send(Image { array, row, col, bytes: Bytes::Plain { buffer, len: image.len() } })
        })
    }
}

struct Pack;

impl Block for Pack {
    type In = Image;
    type Out = Image;

    fn work(&mut self, image: Image, out: &mut Emitter<'_, Image>) -> Result<()> {
        let bytes = match image.bytes {
            Bytes::Plain { buffer, len } => Bytes::Packed(packed(image.array, &buffer[..len])),
            done @ Bytes::Packed(_) => done,
        };
        out.send(Image { bytes, ..image })
    }
}

/// Writes images; every so many bytes it wakes the next block.
struct Write<'w> {
    writer: &'w mut Hdf5CacheWriter,
    waiting: u64,
    window: u64,
}

impl Block for Write<'_> {
    type In = Image;
    type Out = ();

    fn work(&mut self, image: Image, out: &mut Emitter<'_, ()>) -> Result<()> {
        let Image { array, row, col, bytes } = image;
        let written = match (&bytes, array) {
            (Bytes::Packed(bytes), _) => {
                self.writer.write_packed_pixel(array, row, col, bytes)?;
                bytes.len()
            }
            (Bytes::Plain { buffer, len }, CacheArray::BigFt) => {
                self.writer.write_bigft_pixel(row, col, bytemuck::cast_slice::<u8, Complex<f64>>(&buffer[..*len]))?;
                *len
            }
            (Bytes::Plain { buffer, len }, CacheArray::Correlations) => {
                self.writer.write_correlation_pixel(row, col, bytemuck::cast_slice::<u8, f64>(&buffer[..*len]))?;
                *len
            }
        };
        out.count_bytes(written as u64);
        self.waiting += written as u64;
        if self.waiting < self.window {
            return Ok(());
        }
        self.waiting = 0;
        out.send(())
    }
}

/// Waits for the disk, so that the writer need not, and lets the pages go: nobody reads them again soon.
struct Flush(PathBuf);

impl Block for Flush {
    type In = ();
    type Out = ();

    fn work(&mut self, (): (), _: &mut Emitter<'_, ()>) -> Result<()> {
        write_out_path(&self.0)
    }
}
