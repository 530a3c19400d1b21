//! `[plan]`: every choice of the planner, for those who want to make it themselves.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::memory::ByteSize;

/// Threads and buffers of one block at most: far beyond any machine, and small enough to be counted.
const MOST: usize = 1024;
/// The smallest and the largest amount that may wait for the disk.
const WINDOW: [u64; 2] = [1 << 20, 64 << 30];
/// The most that is read at once.
const MOST_READ: u64 = 1 << 30;

/// `[plan]`: overrides for the planner; everything absent is chosen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanConfig {
    /// Hold the cropped stack in memory (`true`) or on disk (`false`).
    pub in_memory: Option<bool>,
    /// Keep counts in fewer bits than the source where they fit: also for scans that come from the disk (`true`), or never.
    pub narrow_stack: Option<bool>,
    /// Scan rows in one slab (chunk) of the stack.
    pub slab_rows: Option<usize>,
    /// Bytes read from the source at once.
    pub read_block: Option<ByteSize>,
    /// Buffers for blocks of frames.
    pub read_buffers: Option<usize>,
    /// Threads that read the source.
    pub read_workers: Option<usize>,
    /// Read the source past the page cache (`true`), or through it (`false`).
    pub direct_reads: Option<bool>,
    /// Threads that crop and transpose.
    pub turn_workers: Option<usize>,
    /// Detector rows in one tile (chunk) of bigFT and correlations.
    pub tile_rows: Option<usize>,
    /// Detector columns in one tile (even, or the crop's width).
    pub tile_cols: Option<usize>,
    /// Buffers for the spectra of a tile (documented mode).
    pub spectra_buffers: Option<usize>,
    /// Buffers for the correlations of a tile (documented mode).
    pub correlation_buffers: Option<usize>,
    /// Threads that transform; in lean mode they correlate too.
    pub fft_workers: Option<usize>,
    /// Threads that correlate (documented mode).
    pub correlate_workers: Option<usize>,
    /// Items that may wait between two blocks.
    pub queue: Option<usize>,
    /// Write bigFT and the correlations to the HDF5 cache alone (`true`), or to the working cache first (`false`).
    pub hdf5_in_place: Option<bool>,
    /// Write large arrays (bigFT, correlations, a stack that is held in memory) past the page cache (`true`), or through it
    /// (`false`).
    pub direct_writes: Option<bool>,
    /// Bytes of a written file that may wait for the disk.
    pub write_window: Option<ByteSize>,
    /// How the cache's chunks are read.
    pub access: Access,
}

/// How the cache's chunks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Memory maps, and positioned reads on network file systems.
    #[default]
    Auto,
    /// Memory maps.
    Map,
    /// Positioned reads.
    Read,
}

impl PlanConfig {
    /// What can be said without knowing the scan.
    pub(super) fn check(&self) -> Result<()> {
        for (value, key) in
            [(self.slab_rows, "slab_rows"), (self.tile_rows, "tile_rows"), (self.tile_cols, "tile_cols")]
        {
            within(value, key, [1, usize::MAX])?;
        }
        for (value, key) in [
            (self.read_buffers, "read_buffers"),
            (self.turn_workers, "turn_workers"),
            (self.spectra_buffers, "spectra_buffers"),
            (self.correlation_buffers, "correlation_buffers"),
            (self.fft_workers, "fft_workers"),
            (self.correlate_workers, "correlate_workers"),
            (self.queue, "queue"),
        ] {
            within(value, key, [1, MOST])?;
        }
        within(self.read_workers, "read_workers", [0, MOST])?;
        within(self.read_block, "read_block", [ByteSize(1), ByteSize(MOST_READ)])?;
        within(self.write_window, "write_window", WINDOW.map(ByteSize))
    }
}

fn within<T: Copy + Ord + Display>(value: Option<T>, key: &str, [least, most]: [T; 2]) -> Result<()> {
    match value {
        Some(v) if v < least => Err(bad_value(key, &format!("at least {least}"), &v, &least)),
        Some(v) if v > most => Err(bad_value(key, &format!("at most {most}"), &v, &most)),
        _ => Ok(()),
    }
}

/// The error for a value of `[plan]` that cannot be, with the nearest one that can.
pub(crate) fn bad_value(key: &str, must: &str, found: &dyn Display, nearest: &dyn Display) -> Error {
    Error::config(format!("plan.{key} must be {must}, found {found}"))
        .with_hint(format!("the nearest value that works is `--set plan.{key}={nearest}`"))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_value_that_cannot_be_names_the_nearest_that_can() {
        for (setting, nearest) in [
            ("queue=0", "queue=1"),
            ("queue=5000", "queue=1024"),
            ("slab_rows=0", "slab_rows=1"),
            ("read_buffers=0", "read_buffers=1"),
            ("turn_workers=0", "turn_workers=1"),
            ("fft_workers=2000", "fft_workers=1024"),
            ("correlate_workers=0", "correlate_workers=1"),
            ("spectra_buffers=0", "spectra_buffers=1"),
            ("correlation_buffers=0", "correlation_buffers=1"),
            ("read_block=0", "read_block=1 B"),
            ("read_block=2 GiB", "read_block=1 GiB"),
            ("write_window=1 KiB", "write_window=1 MiB"),
        ] {
            let error = Config::default().with_settings([format!("plan.{setting}").as_str()]).expect_err(setting);
            assert_eq!(error.exit_code(), 2, "{setting}");
            assert!(error.hint().is_some_and(|hint| hint.contains(nearest)), "{setting}: {:?}", error.hint());
            assert!(Config::default().with_settings([format!("plan.{nearest}").as_str()]).is_ok(), "{nearest}");
        }
        assert_eq!(Config::default().with_settings(["plan.access=mmap"]).map_err(|e| e.exit_code()), Err(2));
    }
}
