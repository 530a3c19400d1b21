//! A Merlin file whose frames are made by several threads and written wherever they belong, as fast as the disk takes
//! them.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::axes::{DetShape, ScanShape};
use crate::error::Result;
use crate::export::files::{folder_of, require_free};
use crate::memory::{self, MemoryBudget};
use crate::pipeline::{Block, Emitter, Graph, GraphReport, Pool, Pooled};
use crate::progress::{CancelToken, Progress};
use crate::store::write_out_path;

use super::header::{HEADER_BYTES, Layout, MibDepth};
use super::new_file::{NewFile, refuse_existing};

/// Bytes that are made and written at once: enough for the disk's full speed.
const BLOCK_BYTES: usize = 4 << 20;

/// Writes a `.mib` file of two-byte counts and its `.hdr` sidecar, with frames in any order.
///
/// Both are written under hidden names and get their own names at the end; when that is not reached, nothing is left
/// behind.
#[derive(Debug)]
pub struct ParallelMib {
    layout: Layout,
    file: File,
    data: NewFile,
    sidecar: PathBuf,
}

impl ParallelMib {
    /// Begins a file of `scan` frames of `det` pixels at `path`, and its sidecar beside it.
    ///
    /// # Errors
    /// As [`MibWriter::create`](super::MibWriter::create); [`Disk`](crate::error::ErrorKind::Disk) when the folder
    /// has no room for both files.
    pub fn create(path: &Path, scan: ScanShape, det: DetShape) -> Result<Self> {
        let layout = Layout::new(path, scan, det, MibDepth::U16)?;
        let sidecar = path.with_extension("hdr");
        refuse_existing(path)?;
        refuse_existing(&sidecar)?;
        require_free(folder_of(path), layout.total_bytes())?;
        let (data, file) = NewFile::create(path)?;
        Ok(Self { layout, file, data, sidecar })
    }

    /// Writes all frames and gives both files (the `.mib` file and its sidecar) their names. `fill(index, counts)`
    /// makes a frame, `[det row, det col]` as big-endian 16-bit numbers, on one of `workers` threads; what it finds in
    /// `counts` is meaningless. The buffers, [`buffer_bytes`](Self::buffer_bytes) together, are charged to the budget.
    ///
    /// # Errors
    /// Whatever `fill` returns; [`Io`](crate::error::ErrorKind::Io), [`Disk`](crate::error::ErrorKind::Disk),
    /// [`Memory`](crate::error::ErrorKind::Memory) and [`Interrupted`](crate::error::ErrorKind::Interrupted);
    /// [`Config`](crate::error::ErrorKind::Config) when a file of one of the names has appeared meanwhile.
    pub fn write(
        mut self,
        workers: usize,
        budget: &MemoryBudget,
        (cancel, progress): (&CancelToken, &dyn Progress),
        fill: &(dyn Fn(usize, &mut [u8]) -> Result<()> + Sync),
    ) -> Result<([PathBuf; 2], GraphReport)> {
        let frames = self.frames_in_block();
        let pool = Pool::new(budget, "frames to be written", workers + SPARE, frames * self.layout.frame_bytes())?;
        progress.begin("write", self.layout.total_bytes());
        let mut graph = Graph::new("write", cancel);
        let blocks = graph.source("cut", workers, Cut { total: self.layout.scan.len(), frames });
        let layout = self.layout;
        let made = graph.stage("draw", workers, SPARE, blocks, || Draw { layout, pool: pool.clone(), fill });
        // What would push everything else out of the page cache goes to the disk at once, and leaves no pages behind.
        let large = self.layout.total_bytes() > memory::available().bytes / 2;
        let window = memory::write_window().or(large.then_some(WINDOW));
        graph.sink("write", made, Write { target: &self, progress, window, waiting: 0 });
        let report = graph.run()?;
        super::publish_both(&self.layout, &mut self.data, &self.sidecar)?;
        progress.end();
        Ok(([self.data.path.clone(), self.sidecar.clone()], report))
    }

    /// Bytes of the buffers that [`write`](Self::write) needs with this many workers.
    pub fn buffer_bytes(&self, workers: usize) -> u64 {
        Pool::bytes(workers + SPARE, self.frames_in_block() * self.layout.frame_bytes())
    }

    fn frames_in_block(&self) -> usize {
        (BLOCK_BYTES / self.layout.frame_bytes()).clamp(1, self.layout.scan.len())
    }
}

/// Bytes that may wait for the disk when a scan is larger than half of the free memory.
const WINDOW: u64 = 256 << 20;
/// Blocks that may be ready or on their way to the disk while all workers make further ones.
const SPARE: usize = 3;

/// Cuts the scan into blocks of frames.
struct Cut {
    total: usize,
    frames: usize,
}

impl Block for Cut {
    type In = ();
    type Out = Range<usize>;

    fn work(&mut self, (): (), out: &mut Emitter<'_, Range<usize>>) -> Result<()> {
        for first in (0..self.total).step_by(self.frames) {
            out.send(first..(first + self.frames).min(self.total))?;
        }
        Ok(())
    }
}

/// Some frames as they lie in the file.
struct Frames {
    first: usize,
    len: usize,
    buffer: Pooled,
}

/// Makes the frames of a block, headers and counts.
struct Draw<'a> {
    layout: Layout,
    pool: Pool,
    fill: &'a (dyn Fn(usize, &mut [u8]) -> Result<()> + Sync),
}

impl Block for Draw<'_> {
    type In = Range<usize>;
    type Out = Frames;

    fn work(&mut self, block: Range<usize>, out: &mut Emitter<'_, Frames>) -> Result<()> {
        let mut buffer = out.take(&self.pool)?;
        let size = self.layout.frame_bytes();
        let (first, len) = (block.start, block.len() * size);
        for (frame, index) in buffer[..len].chunks_exact_mut(size).zip(block) {
            out.check()?;
            let (header, counts) = frame.split_at_mut(HEADER_BYTES);
            header.copy_from_slice(&self.layout.header(index)?);
            (self.fill)(index, counts)?;
        }
        out.count_bytes(len as u64);
        out.send(Frames { first, len, buffer })
    }
}

/// Writes blocks where they belong.
struct Write<'a> {
    target: &'a ParallelMib,
    progress: &'a dyn Progress,
    /// Bytes that may wait for the disk.
    window: Option<u64>,
    waiting: u64,
}

impl Block for Write<'_> {
    type In = Frames;
    type Out = ();

    fn work(&mut self, block: Frames, out: &mut Emitter<'_, ()>) -> Result<()> {
        let ParallelMib { layout, file, data, .. } = self.target;
        let offset = block.first as u64 * layout.frame_bytes() as u64;
        file.write_all_at(&block.buffer[..block.len], offset).map_err(|e| data.failed("write the frames", e))?;
        drop(block.buffer);
        self.waiting += block.len as u64;
        if self.window.is_some_and(|window| self.waiting >= window) {
            write_out_path(&data.part)?;
            self.waiting = 0;
        }
        out.count_bytes(block.len as u64);
        self.progress.advance(block.len as u64);
        Ok(())
    }
}
