//! For each choice: the value, which limit decided it, and the key that changes it.

use serde::Serialize;

use crate::axes::DType;
use crate::config::{Access, Mode};
use crate::memory::ByteSize;
use crate::plan::ways::{LINE_BYTES, READ_BLOCK, UNDER_WAY, slab_share, tile_bytes};
use crate::plan::{Plan, Reads, Request};

/// One choice of the planner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// What was chosen: `tile`, `workers` …
    pub choice: &'static str,
    /// The value, with its unit.
    pub value: String,
    /// Which limit decided it, with the figures.
    pub because: String,
    /// The key of the configuration that changes it.
    pub key: &'static str,
}

/// Why the memory budget is what it is. Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BudgetFrom {
    /// The user said so.
    #[default]
    User,
    /// Half of what is free on the machine.
    Machine {
        /// Free memory.
        free: u64,
    },
    /// Half of what is free in a memory control group.
    Group {
        /// Free in the group.
        free: u64,
    },
    /// No more is taken without being told to.
    Most {
        /// Free memory.
        free: u64,
    },
}

impl BudgetFrom {
    fn words(self) -> String {
        match self {
            Self::User => "your key".to_owned(),
            Self::Machine { free } => format!("memory: half of the {} that are free", ByteSize(free)),
            Self::Group { free } => {
                format!("control group: half of the {} that are free in this process's group", ByteSize(free))
            }
            Self::Most { free } => {
                format!("default: more is not taken unasked, though {} are free", ByteSize(free))
            }
        }
    }
}

/// The reasons of one plan.
struct Because<'a> {
    request: &'a Request<'a>,
    plan: &'a Plan,
    /// The plan that would be made with memory to spare.
    best: &'a Plan,
    /// The peak of the next more comfortable way, which the budget refused.
    refused: Option<u64>,
}

impl Because<'_> {
    /// The user's key, the existing cache, the budget (where the comfortable way has another value), or `usual`.
    fn of(&self, user: bool, stored: bool, changed: Option<String>, usual: String) -> String {
        if stored && self.request.fixed_layout.is_some() {
            return "existing cache: its arrays are cut like this".to_owned();
        }
        if user {
            return "your key".to_owned();
        }
        match changed {
            Some(comfortable) => self.budget(&comfortable),
            None => usual,
        }
    }

    fn budget(&self, comfortable: &str) -> String {
        let peak = self.refused.unwrap_or_else(|| self.best.memory_cost.peak());
        format!(
            "budget: {comfortable} with memory to spare; the next more comfortable way needs {}, the budget is {}",
            ByteSize(peak),
            ByteSize(self.request.memory)
        )
    }

    fn number(&self, of: impl Fn(&Plan) -> usize, user: Option<usize>, usual: &str) -> String {
        let changed = (of(self.plan) != of(self.best)).then(|| of(self.best).to_string());
        self.of(user.is_some(), false, changed, usual.to_owned())
    }

    fn stack(&self) -> Choice {
        let (plan, request) = (self.plan, self.request);
        let samples = request.scan.len() as u64 * request.crop.len() as u64;
        let stack = ByteSize(samples * self.wide().size() as u64);
        let budget = ByteSize(request.memory);
        let value = if plan.in_memory { "in memory" } else { "on disk" };
        let because = match (request.overrides.in_memory, plan.in_memory) {
            (Some(_), _) => "your key".to_owned(),
            (None, true) => format!("budget: the cropped stack of {stack} fits in {budget}"),
            (None, false) => {
                format!("budget: the cropped stack of {stack} does not fit in {budget} beside the buffers")
            }
        };
        Choice { choice: "stack", value: value.to_owned(), because, key: "plan.in_memory" }
    }

    /// The type that the plan has room for.
    fn wide(&self) -> DType {
        self.request.stored_stack.unwrap_or(self.request.dtype)
    }

    fn stack_type(&self) -> Choice {
        let (plan, request) = (self.plan, self.request);
        let because = match (request.counts, request.narrow_type(), request.overrides.narrow_stack) {
            _ if request.stored_stack.is_some() => "existing cache: its stack is of this type".to_owned(),
            (None, ..) if request.dtype.is_float() => "source: only whole numbers can be kept in fewer bits".to_owned(),
            (None, ..) => "default: how large the counts are is not known".to_owned(),
            (_, Some(_), Some(_)) => "your key".to_owned(),
            (Some(counts), None, _) => format!(
                "source: the sampled counts, {} to {}, need this type with a quarter to spare",
                counts.least, counts.most
            ),
            (Some(counts), Some(narrow), None) if plan.stack_type == narrow => format!(
                "source: the sampled counts go up to {}; should one not fit, the source is read again, which is cheap from the page cache",
                counts.most
            ),
            (Some(counts), Some(narrow), None) => format!(
                "default: the sampled counts go up to {} and would fit in {narrow}, but only where the page cache holds the source is a second look cheap",
                counts.most
            ),
        };
        choice("stack_type", plan.stack_type.to_string(), because, "plan.narrow_stack")
    }

    fn workers(&self) -> Vec<Choice> {
        let (plan, o) = (self.plan, self.request.overrides);
        let asked = self.request.workers;
        let workers = if plan.workers < asked {
            self.budget(&asked.to_string())
        } else {
            "run.workers, or one per processor".to_owned()
        };
        let mut all = vec![choice("workers", plan.workers.to_string(), workers, "run.workers")];
        let mut one = |name, key, user: Option<usize>, of: fn(&Plan) -> usize| {
            all.push(choice(name, of(plan).to_string(), self.number(of, user, "default: as many as workers"), key));
        };
        one("turn_workers", "plan.turn_workers", o.turn_workers, |p| p.turn_workers);
        one("fft_workers", "plan.fft_workers", o.fft_workers, |p| p.fft_workers);
        if self.request.mode == Mode::Documented {
            one("correlate_workers", "plan.correlate_workers", o.correlate_workers, |p| p.correlate_workers);
        }
        all
    }

    fn reading(&self) -> Vec<Choice> {
        let (plan, request, o) = (self.plan, self.request, self.request.overrides);
        let block = |p: &Plan| p.read_frames as u64 * request.frame_bytes as u64;
        let usual = if plan.read_frames >= plan.slab_rows * request.scan.cols {
            format!("source: one slab of {} frames is read at once", plan.slab_rows * request.scan.cols)
        } else if request.frame_bytes > READ_BLOCK {
            format!("source: one frame is {}", ByteSize(request.frame_bytes as u64))
        } else {
            format!("default: {} are enough for a disk's full speed", ByteSize(READ_BLOCK as u64))
        };
        let changed = (block(plan) != block(self.best)).then(|| ByteSize(block(self.best)).to_string());
        let value = format!("{} ({} frames)", ByteSize(block(plan)), plan.read_frames);
        let direct = plan.reads == Reads::Direct;
        let each = if direct { "one for each reader" } else { "two to spare" };
        let each = format!("default: one for each worker and {each}, as far as there are blocks");
        let buffers = self.number(|p| p.read_buffers, o.read_buffers, &each);
        let readers = if direct {
            format!(
                "disk: nobody reads ahead past the page cache, so that {} are under way",
                ByteSize(UNDER_WAY as u64)
            )
        } else if plan.read_workers == 0 {
            "source: it lies in the page cache, and those that turn it read it piece by piece".to_owned()
        } else {
            "default: the system reads ahead".to_owned()
        };
        let readers = self.number(|p| p.read_workers, o.read_workers, &readers);
        vec![
            self.reads(),
            choice("read_workers", plan.read_workers.to_string(), readers, "plan.read_workers"),
            choice("read_block", value, self.of(o.read_block.is_some(), false, changed, usual), "plan.read_block"),
            choice("read_buffers", plan.read_buffers.to_string(), buffers, "plan.read_buffers"),
        ]
    }

    fn reads(&self) -> Choice {
        let (around, source) = (&self.request.around, ByteSize(self.plan.disk_cost.source));
        let value = match self.plan.reads {
            Reads::Kept => "through the page cache",
            Reads::Forgotten => "through the page cache, let go",
            Reads::Direct => "past the page cache",
        };
        let because = match (self.request.overrides.direct_reads, around.free_memory) {
            (Some(wanted), _) if wanted == (self.plan.reads == Reads::Direct) => "your key".to_owned(),
            _ if self.plan.reads == Reads::Forgotten => {
                "source: it would push out what is there, and its frames do not lie one after the other".to_owned()
            }
            _ if around.group_window.is_some() => {
                "control group: what the page cache holds counts as this process's memory there".to_owned()
            }
            (None, free) if free.is_none_or(|free| self.plan.disk_cost.source <= free / 2) && self.is_absent() => {
                "disk: it does not lie in memory, and reading it once past the page cache is faster".to_owned()
            }
            (_, None) => "default: how much memory is free is not known".to_owned(),
            (_, Some(free)) if self.plan.reads == Reads::Kept => {
                format!("free memory: {source} are no more than half of {}", ByteSize(free))
            }
            (_, Some(free)) => {
                format!(
                    "free memory: {source} are more than half of {}, and would push out what is there",
                    ByteSize(free)
                )
            }
        };
        choice("reads", value.to_owned(), because, "plan.direct_reads")
    }

    /// Whether the source would have to be brought to the page cache.
    fn is_absent(&self) -> bool {
        self.plan.reads == Reads::Direct && self.request.around.source_cached == Some(false)
    }

    fn slab(&self) -> Choice {
        let (plan, request) = (self.plan, self.request);
        let natural = request.natural_frames / request.scan.cols.max(1);
        let usual = if natural > 1 {
            format!("source: {natural} scan rows are decoded together")
        } else if plan.in_memory {
            "default: one slab is about one read block, and at least 256 samples of a pixel".to_owned()
        } else {
            format!(
                "disk: up to {} of a pixel side by side, as far as 1/{} of the budget goes",
                ByteSize(LINE_BYTES as u64),
                slab_share(request)
            )
        };
        let same_place = plan.in_memory == self.best.in_memory;
        let changed = (same_place && plan.slab_rows != self.best.slab_rows).then(|| self.best.slab_rows.to_string());
        let value = format!("{} scan rows, {} slabs", plan.slab_rows, plan.slabs);
        let because = self.of(request.overrides.slab_rows.is_some(), true, changed, usual);
        choice("slab_rows", value, because, "plan.slab_rows")
    }

    fn tiles(&self) -> Vec<Choice> {
        let (plan, request, o) = (self.plan, self.request, self.request.overrides);
        let shape = |p: &Plan| format!("{}×{}", p.tile_rows, p.tile_cols);
        let user = o.tile_rows.is_some() || o.tile_cols.is_some();
        let changed = (shape(plan) != shape(self.best)).then(|| shape(self.best));
        let row = request.scan.len() as u64 * 2 * request.precision.size() as u64 * request.crop.cols as u64;
        let most = tile_bytes(request) as u64;
        let usual = if row > most {
            format!("default: at most {} of spectra; one detector row has {}", ByteSize(most), ByteSize(row))
        } else {
            format!("default: at most {} of spectra, and at least 8 tiles for each worker", ByteSize(most))
        };
        let value = format!("{} detector pixels, {} tiles", shape(plan), plan.tiles);
        let key = if plan.tile_cols < request.crop.cols { "plan.tile_cols" } else { "plan.tile_rows" };
        let mut all = vec![choice("tile", value, self.of(user, true, changed, usual), key)];
        if request.mode == Mode::Documented {
            let spectra = self.number(
                |p| p.spectra_buffers,
                o.spectra_buffers,
                "default: one for each worker and two to spare, as far as there are tiles",
            );
            let correlations = self.number(
                |p| p.correlation_buffers,
                o.correlation_buffers,
                "default: one for each worker and one to spare, as far as there are tiles",
            );
            all.push(choice("spectra_buffers", plan.spectra_buffers.to_string(), spectra, "plan.spectra_buffers"));
            all.push(choice(
                "correlation_buffers",
                plan.correlation_buffers.to_string(),
                correlations,
                "plan.correlation_buffers",
            ));
        }
        all
    }

    fn files(&self) -> [Choice; 2] {
        let (plan, around) = (self.plan, &self.request.around);
        let window = plan.write_window.map_or_else(|| "as the system likes".to_owned(), |w| ByteSize(w).to_string());
        let because = match (self.request.overrides.write_window, around.group_window) {
            (Some(_), _) => "your key",
            (None, Some(_)) => {
                "control group: what waits for the disk counts as this process's memory there; 1/32 of what is free"
            }
            (None, None) => "default: no control group counts what waits for the disk",
        };
        let access = if plan.mapped { "memory maps" } else { "positioned reads" };
        let why = match (self.request.overrides.access, around.network) {
            (Access::Map | Access::Read, _) => "your key".to_owned(),
            (Access::Auto, Some(kind)) => format!("network file system: the cache is on {kind}"),
            (Access::Auto, None) => "default: the cache is on a local file system".to_owned(),
        };
        [
            choice("write_window", window, because.to_owned(), "plan.write_window"),
            choice("access", access.to_owned(), why, "plan.access"),
        ]
    }
}

/// Where bigFT and the correlations are kept, where there is an HDF5 cache that could keep them.
fn large_arrays(request: &Request<'_>, plan: &Plan) -> Option<Choice> {
    let wanted = request.mode == Mode::Documented && request.exports.hdf5;
    let value = if plan.in_place { "in the HDF5 cache alone" } else { "in the working cache, then copied" };
    let because = match request.overrides.hdf5_in_place {
        Some(chosen) if chosen == plan.in_place => "your key",
        _ if plan.in_place => "default: the same numbers need not be written twice",
        _ if request.exports.gzip => "source: compressed images have no place that is known before",
        _ => "default: the HDF5 cache is on a network file system, or the working cache holds them already",
    };
    wanted.then(|| choice("large_arrays", value.to_owned(), because.to_owned(), "plan.hdf5_in_place"))
}

/// How large arrays are written.
fn direct_writes(request: &Request<'_>, plan: &Plan) -> Choice {
    let value = if plan.direct { "past the page cache" } else { "through the page cache" };
    let because = match request.overrides.direct_writes {
        Some(_) => "your key",
        None if plan.in_memory => {
            "default: nobody reads large arrays again soon; where the disk is slow the page cache takes chunks"
        }
        None => {
            "default: nobody reads large arrays again soon; a stack on disk goes through the page cache all the same"
        }
    };
    choice("direct_writes", value.to_owned(), because.to_owned(), "plan.direct_writes")
}

/// How the HDF5 cache is stored, where there will be one.
fn compression(request: &Request<'_>) -> Option<Choice> {
    let wanted = request.mode == Mode::Documented && request.exports.hdf5;
    let (value, because) = if request.exports.gzip {
        ("gzip", "your key; the HDF5 cache becomes smaller than the size that is planned for, which is that without")
    } else {
        ("none", "default: most disks are faster than compression")
    };
    wanted.then(|| choice("compression", value.to_owned(), because.to_owned(), "export.compression"))
}

fn choice(choice: &'static str, value: String, because: String, key: &'static str) -> Choice {
    Choice { choice, value, because, key }
}

/// All choices of a plan. `best` is what memory to spare would give, `refused` the peak of the next better way.
pub(super) fn choices(request: &Request<'_>, plan: &Plan, best: &Plan, refused: Option<u64>) -> Vec<Choice> {
    let because = Because { request, plan, best, refused };
    let budget = choice("memory", ByteSize(request.memory).to_string(), request.around.budget.words(), "run.memory");
    let mut all = vec![budget, because.stack(), because.stack_type()];
    all.extend(because.workers());
    all.extend(because.reading());
    all.push(because.slab());
    all.extend(because.tiles());
    let queue = because.number(|p| p.queue, request.overrides.queue, "default: as many as spare buffers");
    all.push(choice("queue", plan.queue.to_string(), queue, "plan.queue"));
    all.extend(because.files());
    all.extend(large_arrays(request, plan));
    all.push(direct_writes(request, plan));
    all.extend(compression(request));
    all
}
