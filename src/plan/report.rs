//! The plan in words.

use std::fmt;

use crate::config::Mode;
use crate::memory::ByteSize;
use crate::plan::{Plan, Request};

/// Why each choice was made.
pub(super) fn reasons(request: &Request<'_>, plan: &Plan) -> Vec<(String, String)> {
    let o = request.overrides;
    let stack = ByteSize(request.stack_bytes());
    let memory = ByteSize(request.memory);
    let mut reasons = Vec::new();
    let mut say = |choice: &str, why: String| reasons.push((choice.to_owned(), why));
    say(
        "in_memory",
        match (o.in_memory, plan.in_memory) {
            (Some(_), _) => "set in the configuration".to_owned(),
            (None, true) => format!("the cropped stack of {stack} fits in {memory}"),
            (None, false) => format!("the cropped stack of {stack} does not fit in {memory} beside the buffers"),
        },
    );
    say(
        "workers",
        if plan.workers < request.workers {
            format!("reduced from {} to fit in {memory}", request.workers)
        } else {
            "as asked for, or one per core".to_owned()
        },
    );
    say(
        "slab_rows",
        match (request.fixed_layout, o.slab_rows) {
            (Some(_), _) => "as in the existing cache".to_owned(),
            (None, Some(_)) => "set in the configuration".to_owned(),
            (None, None) => {
                if plan.in_memory {
                    "one slab is about one read block, and at least 256 samples of a pixel".to_owned()
                } else {
                    "up to 64 KiB of a pixel side by side, as far as an eighth of the memory goes".to_owned()
                }
            }
        },
    );
    say(
        "tile",
        match (request.fixed_layout, o.tile_rows.is_some() || o.tile_cols.is_some()) {
            (Some(_), _) => "as in the existing cache".to_owned(),
            (None, true) => "set in the configuration".to_owned(),
            (None, false) => {
                "at most 32 MiB of spectra, less when memory is short, at least 8 tiles per worker".to_owned()
            }
        },
    );
    reasons
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (m, d) = (&self.memory_cost, &self.disk_cost);
        let size = |bytes: u64| ByteSize(bytes).to_string();
        writeln!(f, "memory budget   {}", size(self.memory))?;
        writeln!(f, "peak memory     {}", size(m.peak()))?;
        writeln!(f, "  corner turn   {}", size(m.corner_turn))?;
        writeln!(f, "  alignment     {}", size(m.alignment))?;
        writeln!(f, "  image         {}", size(m.reconstruction))?;
        writeln!(f, "read once       {}", size(d.source))?;
        writeln!(f, "working cache   {}", size(d.cache()))?;
        writeln!(f, "  stack         {}", size(d.stack))?;
        writeln!(f, "  bigFT         {}", size(d.bigft))?;
        writeln!(f, "  correlations  {}", size(d.correlations))?;
        writeln!(f, "HDF5 cache      {}", size(d.hdf5))?;
        writeln!(f, "bytes written   {}", size(d.cache() + d.hdf5))?;
        let place = if self.in_memory { "in memory" } else { "on disk" };
        writeln!(f, "corner turn     {place}, {} slabs of {} scan rows", self.slabs, self.slab_rows)?;
        writeln!(f, "read block      {} frames × {} buffers", self.read_frames, self.read_buffers)?;
        writeln!(f, "tiles           {} of {}×{} detector pixels", self.tiles, self.tile_rows, self.tile_cols)?;
        writeln!(f, "workers         {}, queues of {}", self.workers, self.queue)?;
        writeln!(f, "passes          1 over the source, 2 over the stack")?;
        for (choice, why) in &self.reasons {
            writeln!(f, "  {choice}: {why}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// One line for the log: "in memory, 2 workers, 52 tiles, 410 MiB of memory, 3.5 GiB of disk".
    pub fn summary(&self, mode: Mode) -> String {
        let place = if self.in_memory { "in memory" } else { "out of core" };
        let mode = if mode == Mode::Lean { "lean" } else { "documented" };
        format!(
            "{mode}, {place}, {} workers, {} tiles, about {} of memory and {} of disk",
            self.workers,
            self.tiles,
            ByteSize(self.memory_cost.peak()),
            ByteSize(self.disk_cost.cache() + self.disk_cost.hdf5),
        )
    }
}
