//! The plan in words.

use std::fmt::{self, Write};

use crate::config::Mode;
use crate::memory::ByteSize;
use crate::plan::{Choice, Plan};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (m, d) = (&self.memory_cost, &self.disk_cost);
        let size = |bytes: u64| ByteSize(bytes).to_string();
        writeln!(f, "memory budget   {}", size(self.memory))?;
        writeln!(f, "peak memory     {}", size(m.peak()))?;
        for (phase, bytes) in m.phases().into_iter().filter(|(_, bytes)| *bytes > 0) {
            writeln!(f, "  {phase:<14}{}", size(bytes))?;
        }
        writeln!(f, "read once       {}", size(d.source))?;
        writeln!(f, "working cache   {}", size(d.cache()))?;
        writeln!(f, "  stack         {}", size(d.stack))?;
        writeln!(f, "  bigFT         {}", size(d.bigft))?;
        writeln!(f, "  correlations  {}", size(d.correlations))?;
        writeln!(f, "HDF5 cache      {}", size(d.hdf5))?;
        writeln!(f, "results         {}", size(d.exports))?;
        writeln!(f, "bytes written   {}", size(d.total()))?;
        let place = self.place();
        writeln!(f, "corner turn     {place}, {} slabs of {} scan rows", self.slabs, self.slab_rows)?;
        writeln!(f, "read block      {} frames × {} buffers", self.read_frames, self.read_buffers)?;
        writeln!(f, "tiles           {} of {}×{} detector pixels", self.tiles, self.tile_rows, self.tile_cols)?;
        writeln!(f, "workers         {}, queues of {}", self.workers, self.queue)?;
        writeln!(f, "passes          1 over the source, 2 over the stack")?;
        Ok(())
    }
}

impl Plan {
    fn place(&self) -> &'static str {
        if self.in_memory { "in memory" } else { "out of core" }
    }

    /// For each choice the value, what decided it, and the key that changes it: one line each.
    pub fn explained(&self) -> String {
        let mut text = String::new();
        for Choice { choice, value, because, key } in &self.explain {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{choice:<20} {value:<34} {because} [{key}]");
        }
        text
    }

    /// One line for the log: "in memory, 2 workers, 52 tiles, 410 MiB of memory, 3.5 GiB of disk".
    pub fn summary(&self, mode: Mode) -> String {
        let place = self.place();
        let mode = if mode == Mode::Lean { "lean" } else { "documented" };
        format!(
            "{mode}, {place}, {} workers, {} tiles, about {} of memory and {} of disk",
            self.workers,
            self.tiles,
            ByteSize(self.memory_cost.peak()),
            ByteSize(self.disk_cost.total()),
        )
    }
}
