//! Marking tiles: first the data on disk, then the tile's mark in the manifest. The last ones of a graph are marked beside what
//! comes next.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::axes::DetShape;
use crate::cache::{Step, TileSet, WorkingCache};
use crate::error::{Error, Result};
use crate::kernel::convert::PixelSums;
use crate::kernel::peak::Peak;
use crate::pipeline::{Block, Emitter};
use crate::steps::context::{RunContext, locked};
use crate::steps::tile::Tile;
use crate::store::{ArraySpec, ChunkedArray, Group, sync_chunk};

/// How often tiles are synced and marked. More often costs time; less often costs work after a crash.
const INTERVAL: Duration = Duration::from_secs(1);

/// A few numbers for each detector pixel of the crop, `[crop row, crop col, column]`; NaN where not known yet.
#[derive(Debug, Clone)]
pub(super) struct Table {
    name: &'static str,
    crop: DetShape,
    columns: usize,
    numbers: Vec<f64>,
}

impl Table {
    /// `y, x, quality, zncc, curvature y, curvature x` of each detector pixel.
    pub(super) fn peaks(crop: DetShape) -> Self {
        Self::empty("peaks", crop, 6)
    }

    /// `Σ I, Σ I²` of each detector pixel.
    pub(super) fn sums(crop: DetShape) -> Self {
        Self::empty("sums", crop, 2)
    }

    fn empty(name: &'static str, crop: DetShape, columns: usize) -> Self {
        Self { name, crop, columns, numbers: vec![f64::NAN; crop.len() * columns] }
    }

    fn spec(&self) -> ArraySpec {
        let shape = [self.crop.rows, self.crop.cols, self.columns];
        ArraySpec::plain(self.name, &shape, crate::axes::DType::F64, &["det_row", "det_col", self.name])
    }

    /// Reads the table from a cache in which tiles are marked, and so must have it.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it has not, or one of another size.
    pub(super) fn load(&mut self, group: &Group) -> Result<()> {
        let array = ChunkedArray::open(group, self.name)?;
        if *array.spec() != self.spec() {
            return Err(Error::cache(group.path(), format!("its `{}` are of another crop", self.name))
                .with_hint("the cache is damaged; start over with `--fresh`"));
        }
        self.numbers.copy_from_slice(array.chunk(&[0, 0, 0])?.cast());
        Ok(())
    }

    fn save(&self, group: &Group) -> Result<()> {
        let array = ChunkedArray::ensure(group, self.spec())?;
        array.replace_chunk(&[0, 0, 0], bytemuck::cast_slice(&self.numbers))
    }

    pub(super) fn row(&self, pixel: usize) -> &[f64] {
        &self.numbers[pixel * self.columns..(pixel + 1) * self.columns]
    }

    fn set_row(&mut self, pixel: usize, values: &[f64]) {
        self.numbers[pixel * self.columns..(pixel + 1) * self.columns].copy_from_slice(values);
    }

    pub(super) fn sums_of(&self, pixel: usize) -> Option<PixelSums> {
        let &[sum, sum_sq] = self.row(pixel) else { return None };
        (!sum.is_nan()).then_some(PixelSums { sum, sum_sq })
    }
}

/// A tile whose numbers are computed and whose chunk, if it has one, is written but perhaps not yet on disk.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) tile: Tile,
    pub(super) chunk: Option<PathBuf>,
    /// Rows of the table, one for each pixel of the tile in row order.
    pub(super) rows: Vec<Vec<f64>>,
}

/// One row of the peak table.
pub(super) fn peak_row(peak: &Peak) -> Vec<f64> {
    vec![peak.y, peak.x, peak.quality, peak.zncc, peak.curvature[0], peak.curvature[1]]
}

/// One row of the sum table.
pub(super) fn sum_row(sums: &PixelSums) -> Vec<f64> {
    vec![sums.sum, sums.sum_sq]
}

/// Collects written tiles, and about once a second syncs their chunks, saves the table and marks the tiles.
pub(super) struct Commit<'a> {
    ctx: &'a RunContext<'a>,
    table: &'a mut Table,
    /// The steps whose tile sets these tiles belong to.
    sets: Vec<(Step, TileSet)>,
    waiting: Vec<Written>,
    last: Instant,
    bytes_per_pixel: u64,
}

impl<'a> Commit<'a> {
    /// `bytes_per_pixel` is what the progress advances by for each detector pixel; 0 where another block reports.
    pub(super) fn new(
        ctx: &'a RunContext<'a>,
        table: &'a mut Table,
        sets: Vec<(Step, TileSet)>,
        bytes_per_pixel: u64,
    ) -> Self {
        Self { ctx, table, sets, waiting: Vec::new(), last: Instant::now(), bytes_per_pixel }
    }

    /// The files of the tiles that wait; those tiles count as done from now on.
    fn take_waiting(&mut self) -> BTreeSet<PathBuf> {
        for (_, set) in &mut self.sets {
            self.waiting.iter().for_each(|written| set.insert(written.tile.id));
        }
        // Tiles in one large file share it.
        self.waiting.drain(..).filter_map(|written| written.chunk).collect()
    }
}

/// Brings the files of tiles and then the table to the disk, and marks what is there.
fn commit(
    cache: &Mutex<WorkingCache>,
    files: &BTreeSet<PathBuf>,
    table: &Table,
    sets: &[(Step, TileSet)],
) -> Result<()> {
    files.iter().try_for_each(|file| sync_chunk(file))?;
    let group = locked(cache).group().clone();
    table.save(&group)?;
    locked(cache).mark_tiles(sets)
}

impl Block for Commit<'_> {
    type In = Written;
    type Out = ();

    fn work(&mut self, written: Written, _: &mut Emitter<'_, ()>) -> Result<()> {
        let tile = written.tile;
        if written.rows.len() != tile.pixels() {
            return Err(Error::bug(format!("tile {} came with {} rows", tile.id, written.rows.len())));
        }
        let mut rows = written.rows.iter();
        for row in tile.row0..tile.row1 {
            for (col, values) in (tile.col0..tile.col1).zip(&mut rows) {
                self.table.set_row(row * self.table.crop.cols + col, values);
            }
        }
        self.ctx.progress.advance(tile.pixels() as u64 * self.bytes_per_pixel);
        self.waiting.push(written);
        if self.last.elapsed() >= INTERVAL {
            let files = self.take_waiting();
            commit(self.ctx.cache, &files, self.table, &self.sets)?;
            self.last = Instant::now();
        }
        Ok(())
    }

    fn finish(&mut self, _: &mut Emitter<'_, ()>) -> Result<()> {
        if !self.waiting.is_empty() {
            let (files, table, sets) = (self.take_waiting(), self.table.clone(), self.sets.clone());
            self.ctx.beside.later(move |cache| commit(cache, &files, &table, &sets));
        }
        Ok(())
    }
}
