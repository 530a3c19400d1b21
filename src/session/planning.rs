//! What the planner is asked: the dataset, the configuration, the machine and the folders.

use std::path::{Path, PathBuf};

use crate::axes::{DType, DetShape, ScanShape};
use crate::cache::{Manifest, Step, StepState, WorkingCache};
use crate::config::{Compression, Config, Merge, Mode, Refine};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{self, Available, ByteSize, GroupMemory};
use crate::plan::{Around, BudgetFrom, Exports, Folder, Folders, Plan, Request, Timing};
use crate::read::FrameSource;
use crate::steps::{self, BrightDisk};
use crate::store::{Group, device, free_disk, local_scratch, network_kind};

/// Never take more than this without being told to.
const MOST_MEMORY: u64 = 16 << 30;

/// The memory budget of a run, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) bytes: u64,
    pub(super) from: BudgetFrom,
}

impl Budget {
    /// The budget that the configuration gives or, without one, half of what is free.
    ///
    /// # Errors
    /// [`Group`](ErrorKind::Group) when the user gave one that this process's control group does not allow.
    pub(super) fn of(config: &Config) -> Result<Self> {
        Self::decide(config.run.memory, memory::available(), memory::group())
    }

    fn decide(wanted: Option<ByteSize>, free: Available, group: Option<GroupMemory>) -> Result<Self> {
        if let Some(wanted) = wanted {
            return match group {
                Some(group) if group.limit < wanted.0 => {
                    let most = (group.limit / 10 * 9) >> 20;
                    Err(Error::new(ErrorKind::Group { path: group.path, budget: wanted.0, limit: group.limit })
                        .with_hint(format!(
                            "give the group (the batch job) more memory, or this run less: `--memory \"{most} MiB\"`, or nothing for half of what is free"
                        )))
                }
                _ => Ok(Self { bytes: wanted.0, from: BudgetFrom::User }),
            };
        }
        let half = free.bytes / 2;
        let from = if half > MOST_MEMORY {
            BudgetFrom::Most { free: free.bytes }
        } else if free.from_cgroup {
            BudgetFrom::Group { free: free.bytes }
        } else {
            BudgetFrom::Machine { free: free.bytes }
        };
        Ok(Self { bytes: half.min(MOST_MEMORY), from })
    }

    /// Says so when a control group and not the machine made the budget what it is.
    pub(super) fn advice(&self) -> Option<String> {
        let BudgetFrom::Group { free } = self.from else { return None };
        Some(format!(
            "the control group of this process leaves {} of memory, less than the machine has: the budget is {}",
            ByteSize(free),
            ByteSize(self.bytes)
        ))
    }
}

/// Where results go: `export.folder`, or the input's own folder.
pub(super) fn export_folder(input: &Path, config: &Config) -> PathBuf {
    config.export.folder.clone().unwrap_or_else(|| {
        let parent = input.parent().filter(|p| !p.as_os_str().is_empty());
        parent.map_or_else(|| PathBuf::from("."), Path::to_owned)
    })
}

/// How the arrays of a cache are cut, where something in it relies on that: `(slab rows, tile rows, tile cols)`.
pub(super) fn fixed_layout(manifest: &Manifest) -> Option<(usize, usize, usize)> {
    let started = [Step::Fft, Step::Correlate, Step::Peaks].iter().any(|s| manifest.state(*s) != StepState::Absent);
    manifest.layout.filter(|_| started).map(|l| (l.slab_rows, l.tile_rows, l.tile_cols))
}

/// The type of the stack that a cache holds, where it is complete.
pub(super) fn stored_stack(manifest: &Manifest, group: &Group) -> Option<DType> {
    if manifest.is_done(Step::Stack) { steps::stored_type(group) } else { None }
}

/// As [`stored_stack`], for a cache that is only looked at.
pub(super) fn stored_stack_in(cache: &Path) -> Option<DType> {
    let cache = WorkingCache::open_for_reading(cache).ok()?;
    stored_stack(cache.manifest(), cache.group())
}

/// What the planner is asked for a dataset of this shape; the [surroundings](around), the range of its counts and what an
/// existing cache fixes are the caller's to add.
pub(super) fn request<'c>(
    config: &'c Config,
    (scan, det, dtype): (ScanShape, DetShape, DType),
    disk: &BrightDisk,
    source: Option<&dyn FrameSource>,
    budget: Budget,
) -> Request<'c> {
    let parametric = config.is_parametric();
    Request {
        scan,
        det,
        dtype,
        crop: disk.crop.shape(),
        frame_bytes: source.map_or(1, |source| source.block_bytes(1)),
        natural_frames: source.map_or(1, FrameSource::natural_frames),
        frames_in_line: source.is_some_and(FrameSource::frames_in_line),
        held_bytes: source.map_or(0, FrameSource::held_bytes) as u64,
        mode: config.run.mode,
        precision: config.run.precision,
        upscale: steps::upscale_factor(config, disk),
        half_sets: config.merge() != Merge::Nearest,
        images: steps::images_made(config, disk),
        fit_bytes: if parametric { steps::fit_bytes(disk, scan) } else { 0 },
        memory: budget.bytes,
        workers: config.run.workers.unwrap_or_else(cores),
        exports: exports(config),
        around: Around { budget: budget.from, ..Around::default() },
        fixed_layout: None,
        counts: None,
        stored_stack: None,
        overrides: &config.plan,
    }
}

fn exports(config: &Config) -> Exports {
    let e = &config.export;
    let library = cfg!(feature = "hdf5");
    Exports {
        hdf5: e.hdf5 && library,
        gzip: e.compression == Compression::Gzip,
        in_place: [false; 2],
        emd: library,
        npy: e.npy,
        tiff: e.tiff,
        pictures: e.pictures,
    }
}

/// Whether bigFT, and whether the correlations, lie in the HDF5 cache and not in the working cache whose manifest this is;
/// of a new run, whether they will.
pub(super) fn in_place(config: &Config, input: &Path, manifest: Option<&Manifest>) -> [bool; 2] {
    const LARGE: [Step; 2] = [Step::Fft, Step::Correlate];
    if let Some(m) = manifest.filter(|m| !m.placed.is_empty()) {
        return LARGE.map(|step| m.placed.contains_key(&step));
    }
    let begun = |m: &Manifest| LARGE.iter().any(|s| m.state(*s) != StepState::Absent || m.is_dropped(*s));
    let wanted = config.export.hdf5 && config.run.mode == Mode::Documented && cfg!(feature = "hdf5");
    let local = || network_kind(&export_folder(input, config)).is_none();
    let possible = config.export.compression == Compression::None && !manifest.is_some_and(begun);
    [wanted && possible && config.plan.hdf5_in_place.unwrap_or_else(local); 2]
}

/// The machine and the folders: the cache's, with `existing` bytes of it there already, and the one for results.
pub(super) fn around(
    budget: Budget,
    source: Option<&dyn FrameSource>,
    (cache, existing): (&Path, u64),
    export: &Path,
) -> Around {
    let free = memory::available();
    let folder = |path: &Path| {
        device(path).zip(free_disk(path)).map(|(device, free)| Folder { path: path.to_owned(), device, free })
    };
    Around {
        budget: budget.from,
        source_cached: source.and_then(FrameSource::is_cached),
        free_memory: (!free.from_cgroup).then_some(free.bytes),
        group_window: memory::write_window(),
        network: network_kind(cache),
        folders: Folders { cache: folder(cache), existing, export: folder(export), export_existing: 0 },
    }
}

/// What to do about a cache on a network file system; `None` for a local one.
pub(super) fn network_advice(cache: &Path, plan: &Plan) -> Option<String> {
    let kind = network_kind(cache)?;
    let how = if plan.mapped { "" } else { "it is read by positioned reads instead of memory maps; " };
    let advice = match local_scratch(plan.disk_cost.cache()) {
        Some(folder) => format!("`--set cache.folder={}` has room for it and is faster", folder.display()),
        None => "a local disk with `--set cache.folder=FOLDER` would be faster".to_owned(),
    };
    Some(format!("the working cache is on a network file system ({kind}): {how}{advice}"))
}

/// What the time of a run depends on.
pub(super) fn timing(config: &Config, disk: &BrightDisk, request: &Request<'_>) -> Timing {
    let scan = request.scan.len() as u64;
    let in_disk = (std::f64::consts::PI * disk.radius * disk.radius).min(request.crop.len() as f64) as u64;
    let side = |n: usize| n.min(2 * config.reconstruct.detector_radius + 1) as u64;
    let calibrated = config.calibration.is_complete();
    Timing {
        mode: request.mode,
        output: scan * (request.images * request.upscale * request.upscale) as u64,
        samples: scan * request.crop.len() as u64,
        disk_samples: scan * in_disk,
        deposited: scan * in_disk.min(side(request.crop.rows) * side(request.crop.cols)),
        parametric: config.is_parametric(),
        calibrated,
        refined: config.is_parametric() && config.align.refine == Refine::Auto && calibrated,
        from_disk: match request.around.source_cached {
            Some(cached) => !cached,
            None => scan * (request.det.len() * request.dtype.size()) as u64 > memory::available().bytes,
        },
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The memory budget in bytes, for work beside the steps: only an HDF5 export has such.
///
/// # Errors
/// [`Group`](ErrorKind::Group) when the user gave one that this process's control group does not allow.
#[cfg(feature = "hdf5")]
pub(crate) fn memory_limit(config: &Config) -> Result<u64> {
    Budget::of(config).map(|budget| budget.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "a process may be in no group")]
    fn group(limit: u64) -> Option<GroupMemory> {
        Some(GroupMemory { limit, path: "/sys/fs/cgroup/job".into(), free: limit })
    }

    #[test]
    fn a_budget_beyond_the_control_group_is_refused_and_a_default_one_stays_below() {
        let free = Available { bytes: 1 << 30, from_cgroup: true };
        let error = Budget::decide(Some(ByteSize(2 << 30)), free, group(1 << 30)).expect_err("too much");
        assert_eq!(error.exit_code(), 5);
        let text = error.to_string();
        assert!(text.contains("2 GiB") && text.contains("1 GiB") && text.contains("/sys/fs/cgroup/job"), "{text}");
        assert!(error.hint().is_some_and(|hint| hint.contains("--memory \"921 MiB\"")), "{:?}", error.hint());
        let fits = Budget::decide(Some(ByteSize(1 << 30)), free, group(1 << 30)).expect("as much as there is");
        assert_eq!((fits.bytes, fits.from), (1 << 30, BudgetFrom::User));
        let default = Budget::decide(None, free, group(1 << 30)).expect("half");
        assert_eq!((default.bytes, default.from), (1 << 29, BudgetFrom::Group { free: 1 << 30 }));
        let machine = Available { bytes: 1 << 40, from_cgroup: false };
        let most = Budget::decide(None, machine, None).expect("the most");
        assert_eq!((most.bytes, most.from), (MOST_MEMORY, BudgetFrom::Most { free: 1 << 40 }));
    }
}
