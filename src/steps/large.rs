//! Where a step's large array lies: in chunks of the working cache, or in the HDF5 cache from the beginning.

use std::path::PathBuf;

use crate::axes::DetShape;
use crate::cache::Step;
use crate::error::{Error, Result};
use crate::kernel::real::Real;
use crate::memory::Charge;
use crate::steps::context::RunContext;
use crate::steps::tile::Tile;
use crate::store::{ArraySpec, ChunkedArray, Group, Io, PlacedArray};

/// bigFT or the correlations, written and read by tiles.
#[derive(Debug)]
pub(super) struct Large {
    home: Home,
    crop: DetShape,
    /// Real numbers in one detector pixel's image: two for a complex one.
    reals: usize,
}

#[derive(Debug)]
enum Home {
    Chunks(ChunkedArray),
    Placed {
        array: PlacedArray,
        /// For the memory in which its writer converts numbers.
        _charge: Option<Charge>,
    },
}

impl Large {
    /// Opens the array of `step` when tiles in it are relied on, else makes it anew where it is to lie.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io), [`Cache`](crate::error::ErrorKind::Cache),
    /// [`Memory`](crate::error::ErrorKind::Memory).
    pub(super) fn open<T: Real>(ctx: &RunContext<'_>, step: Step, spec: ArraySpec, relied_on: bool) -> Result<Self> {
        let (crop, reals) = (ctx.crop.shape(), ctx.scan.len() * spec.stored.size() / size_of::<T>());
        let cache = ctx.cache();
        let home = match cache.manifest().placed.get(&step) {
            Some(placed) => {
                let io = Io { map: ctx.plan.mapped, window: ctx.plan.write_window, direct: ctx.plan.direct };
                let array = placed.open(cache.path(), io)?.holding(crop.len(), reals)?;
                let (stage, writes) = (ctx.plan.stage_bytes(ctx.scan), placed.is_unfinished());
                let charge = writes.then(|| ctx.budget.charge(stage as u64, "writing a tile")).transpose()?;
                Home::Placed { array: array.staged(stage), _charge: charge }
            }
            None => Home::Chunks(tile_array(cache.group(), spec, relied_on)?),
        };
        Ok(Self { home, crop, reals })
    }

    /// Writes a tile, whose images lie in `numbers` as in its chunk, and returns the file that is to be brought to the disk
    /// before the tile counts.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub(super) fn write<T: Real>(&self, tile: Tile, numbers: &[T]) -> Result<PathBuf> {
        let numbers = &numbers[..tile.slots() * self.reals];
        match &self.home {
            Home::Chunks(array) => {
                array.write_chunk(&[0, 0, tile.chunk[0], tile.chunk[1]], bytemuck::cast_slice(numbers))
            }
            Home::Placed { array, .. } => {
                for (pixel, slot, pixels) in tile.runs(self.crop) {
                    array.write(pixel, &numbers[slot * self.reals..(slot + pixels) * self.reals], T::widen)?;
                }
                Ok(array.path().to_owned())
            }
        }
    }

    /// Reads a tile that was written.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io), [`Cache`](crate::error::ErrorKind::Cache).
    pub(super) fn read<T: Real>(&self, tile: Tile, numbers: &mut [T]) -> Result<()> {
        match &self.home {
            Home::Chunks(array) => {
                let chunk = array.chunk(&[0, 0, tile.chunk[0], tile.chunk[1]])?;
                let stored = chunk.cast::<T>();
                numbers[..stored.len()].copy_from_slice(stored);
                Ok(())
            }
            Home::Placed { array, .. } => tile.places(self.crop).try_for_each(|(pixel, slot)| {
                array.read(pixel, &mut numbers[slot * self.reals..(slot + 1) * self.reals], T::round_from)
            }),
        }
    }
}

/// Opens the array when tiles in it are relied on, else makes it anew.
fn tile_array(group: &Group, spec: ArraySpec, relied_on: bool) -> Result<ChunkedArray> {
    if relied_on {
        let array = ChunkedArray::open(group, &spec.name)?;
        if *array.spec() == spec {
            return Ok(array);
        }
        return Err(Error::cache(group.path(), format!("`{}` is cut differently than the manifest says", spec.name))
            .with_hint("start over with `--fresh`"));
    }
    group.remove(&spec.name)?;
    ChunkedArray::create(group, spec)
}
