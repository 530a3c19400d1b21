//! Tiles of the crop and the pairs of detector pixels in them.

use crate::axes::DetShape;
use crate::plan::Plan;

/// A rectangle of the crop, `[row0, row1) × [col0, col1)` in crop coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) id: usize,
    /// Index of the chunk: tile row and tile column.
    pub(super) chunk: [usize; 2],
    pub(super) row0: usize,
    pub(super) row1: usize,
    pub(super) col0: usize,
    pub(super) col1: usize,
    /// Columns of a full tile: the width of a line of the chunk, also at the right edge.
    pub(super) chunk_cols: usize,
}

/// Two detector pixels that travel through one transform. The second is missing at the end of an odd row.
///
/// Pairs are columns `(2k, 2k + 1)` of one row of the crop, whatever the tiles are, so that results do not depend on
/// how the crop is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    /// Linear crop index of the first pixel; the second one is the next.
    pub(super) pixel: usize,
    /// Position of the first pixel in the tile's chunk; the second one is the next.
    pub(super) slot: usize,
    pub(super) both: bool,
}

impl Tile {
    /// All tiles of a crop, in the order of their numbers.
    pub(super) fn all(plan: &Plan, crop: DetShape) -> Vec<Self> {
        let per_row = plan.tiles_per_row(crop);
        (0..plan.tiles)
            .map(|id| {
                let chunk = [id / per_row, id % per_row];
                let (row0, col0) = (chunk[0] * plan.tile_rows, chunk[1] * plan.tile_cols);
                Self {
                    id,
                    chunk,
                    row0,
                    row1: (row0 + plan.tile_rows).min(crop.rows),
                    col0,
                    col1: (col0 + plan.tile_cols).min(crop.cols),
                    chunk_cols: plan.tile_cols,
                }
            })
            .collect()
    }

    /// Number of detector pixels.
    pub(super) fn pixels(&self) -> usize {
        (self.row1 - self.row0) * (self.col1 - self.col0)
    }

    /// Places of the chunk up to the last one that is used.
    pub(super) fn slots(&self) -> usize {
        (self.row1 - self.row0 - 1) * self.chunk_cols + self.col1 - self.col0
    }

    /// The detector pixels, in order: linear crop index, and place in the tile's chunk.
    pub(super) fn places(self, crop: DetShape) -> impl Iterator<Item = (usize, usize)> {
        (self.row0..self.row1).flat_map(move |row| {
            let slot = (row - self.row0) * self.chunk_cols;
            (self.col0..self.col1).map(move |col| (row * crop.cols + col, slot + col - self.col0))
        })
    }

    /// The same in as few runs as possible, in which both numbers go up by one: where they begin, and detector pixels.
    pub(super) fn runs(self, crop: DetShape) -> impl Iterator<Item = (usize, usize, usize)> {
        let (width, rows) = (self.col1 - self.col0, self.row1 - self.row0);
        let whole = width == crop.cols && width == self.chunk_cols;
        let (runs, pixels) = if whole { (1, rows * width) } else { (rows, width) };
        (0..runs).map(move |run| ((self.row0 + run) * crop.cols + self.col0, run * self.chunk_cols, pixels))
    }

    /// The pairs, in order.
    pub(super) fn pairs(self, crop: DetShape) -> impl Iterator<Item = Pair> {
        (self.row0..self.row1).flat_map(move |row| {
            (self.col0..self.col1).step_by(2).map(move |col| Pair {
                pixel: row * crop.cols + col,
                slot: (row - self.row0) * self.chunk_cols + col - self.col0,
                both: col + 1 < self.col1,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axes::{DType, ScanShape};
    use crate::config::{Mode, PlanConfig, Precision};
    use crate::plan::{Around, Exports, Request};

    #[test]
    fn tiles_cover_the_crop_once_and_pairs_do_not_depend_on_them() {
        let crop = DetShape::new(5, 7);
        let mut expected: Option<Vec<(usize, bool)>> = None;
        for (rows, cols) in [(1, 2), (2, 4), (5, 7), (3, 6)] {
            let overrides = PlanConfig { tile_rows: Some(rows), tile_cols: Some(cols), ..Default::default() };
            let plan = Plan::make(&Request {
                scan: ScanShape::new(8, 8),
                det: crop,
                dtype: DType::U16,
                crop,
                frame_bytes: 70,
                natural_frames: 1,
                frames_in_line: true,
                held_bytes: 0,
                mode: Mode::Lean,
                precision: Precision::F32,
                upscale: 4,
                half_sets: false,
                images: 2,
                fit_bytes: 0,
                memory: 1 << 30,
                workers: 2,
                exports: Exports::default(),
                around: Around::default(),
                fixed_layout: None,
                counts: None,
                stored_stack: None,
                overrides: &overrides,
            })
            .expect("fits");
            let tiles = Tile::all(&plan, crop);
            let mut pairs: Vec<_> = tiles.iter().flat_map(|t| t.pairs(crop)).map(|p| (p.pixel, p.both)).collect();
            for tile in &tiles {
                let of_pairs = tile.pairs(crop).flat_map(|p| {
                    [(p.pixel, p.slot), (p.pixel + 1, p.slot + 1)].into_iter().take(1 + usize::from(p.both))
                });
                assert!(tile.places(crop).eq(of_pairs), "pixels one by one are those of the pairs");
                let of_runs = tile.runs(crop).flat_map(|(pixel, slot, n)| (0..n).map(move |i| (pixel + i, slot + i)));
                assert!(tile.places(crop).eq(of_runs), "and of the runs");
            }
            pairs.sort_unstable();
            assert_eq!(pairs.iter().map(|p| 1 + usize::from(p.1)).sum::<usize>(), crop.len());
            assert!(tiles.iter().all(|t| t.pairs(crop).all(|p| p.slot + usize::from(p.both) < t.slots())));
            assert_eq!(expected.get_or_insert_with(|| pairs.clone()), &pairs);
        }
    }
}
