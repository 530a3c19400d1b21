//! Sizes in bytes, the memory that this process may use, the budget that all large buffers are charged to, and the buffers.

mod allocator;
mod bytes;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use allocator::{give_large_buffers_back, reuse_large_buffers};
pub use bytes::{AlignedBytes, Numbers};

use crate::error::{Error, ErrorKind, Result};

/// A number of bytes that reads and prints with units: `"2 GiB"`, `"500 MB"`, `"4096"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if value.fract() == 0.0 {
            write!(f, "{value:.0} {}", UNITS[unit])
        } else {
            write!(f, "{value:.1} {}", UNITS[unit])
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let bad = || format!("`{text}` is not a size; write for example \"2 GiB\", \"500 MB\" or \"1048576\"");
        let value: f64 = number.parse().map_err(|_| bad())?;
        let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024f64.powi(2),
            "g" | "gib" => 1024f64.powi(3),
            "t" | "tib" => 1024f64.powi(4),
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            _ => return Err(bad()),
        };
        let bytes = value * factor;
        if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(Self(bytes.round() as u64)) } else { Err(bad()) }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"2 GiB\" or a number of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom("a size cannot be negative"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The most memory that the large buffers of one run may take together. Clones share the account.
///
/// Everything whose size grows with the data is charged here before it is allocated; charges are returned when
/// the [`Charge`] is dropped.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Account>);

#[derive(Debug)]
struct Account {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Account { limit, used: AtomicU64::new(0), peak: AtomicU64::new(0) }))
    }

    /// The budget in bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Bytes charged at this moment.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were charged at any moment.
    pub fn peak(&self) -> u64 {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Takes `bytes` from the budget for `what`.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] when they are not left.
    pub fn charge(&self, bytes: u64, what: &str) -> Result<Charge> {
        let account = &self.0;
        let mut used = account.used.load(Ordering::Relaxed);
        loop {
            let next = used.saturating_add(bytes);
            if next > account.limit {
                return Err(Error::new(ErrorKind::Memory {
                    what: what.to_owned(),
                    needed: next,
                    available: account.limit,
                })
                .with_hint("give more memory with `--memory`, or let `stemstream plan` say how little is enough"));
            }
            match account.used.compare_exchange_weak(used, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    account.peak.fetch_max(next, Ordering::Relaxed);
                    return Ok(Charge { budget: self.clone(), bytes });
                }
                Err(now) => used = now,
            }
        }
    }
}

/// Bytes taken from a [`MemoryBudget`]; given back on drop.
#[derive(Debug)]
pub struct Charge {
    budget: MemoryBudget,
    bytes: u64,
}

impl Charge {
    /// How many bytes this charge holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What this process may still allocate, and which limit says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// Whether a control group, not the machine, sets the limit.
    pub from_cgroup: bool,
}

/// Peak resident memory of this process in bytes, or 0 where the system does not say.
pub fn peak_resident() -> u64 {
    // `ru_maxrss` would need an unsafe call; the kernel prints the same number as text.
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024)
}

/// Free memory, with the limits of the process's own control group (v1 and v2, all ancestors) respected.
pub fn available() -> Available {
    let machine = sysinfo::System::new().map_or(u64::MAX, |mut system| {
        system.refresh_memory();
        system.available_memory()
    });
    match cgroup_free() {
        Some(bytes) if bytes < machine => Available { bytes, from_cgroup: true },
        _ => Available { bytes: machine, from_cgroup: false },
    }
}

/// Bytes of a line of the processor's cache.
pub const CACHE_LINE: usize = 64;
/// The block of every usual disk and file system: what goes past the page cache begins and ends with one, on the disk and
/// in memory.
pub const BLOCK: usize = 4096;
/// Bytes that a buffer must be longer than what is read into it, so that it can be read past the page cache: to the first
/// block in the buffer, before the first byte that is wanted, and behind the last one.
pub const READ_SLACK: usize = 3 * BLOCK;

/// Bytes that may wait in the page cache for the disk, where a control group counts them as this process's memory;
/// `None` without one. A group of version 1 kills instead of slowing a writer down, so writers have to hold back.
pub fn write_window() -> Option<u64> {
    let Available { bytes, from_cgroup } = available();
    from_cgroup.then(|| (bytes / 32).clamp(1 << 20, 64 << 20))
}

/// What the memory control groups around this process allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMemory {
    /// The lowest limit in bytes.
    pub limit: u64,
    /// The group that has it.
    pub path: PathBuf,
    /// Bytes left in the tightest group.
    pub free: u64,
}

/// The memory control groups around this process; `None` when none has a limit.
pub fn group() -> Option<GroupMemory> {
    // sysinfo looks only at the root of the hierarchy, which is right in a container but not for a group made by a
    // batch system.
    group_in(&std::fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

fn cgroup_free() -> Option<u64> {
    group().map(|group| group.free)
}

/// `groups` as in `/proc/self/cgroup`, which lie under `root`.
fn group_in(groups: &str, root: &Path) -> Option<GroupMemory> {
    let mut tightest: Option<GroupMemory> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, limit, usage) = if controllers.is_empty() {
            (root.to_owned(), "memory.max", "memory.current")
        } else if controllers.split(',').any(|c| c == "memory") {
            (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        // The group itself and all that it is in.
        for folder in Path::new(path.trim_matches('/')).ancestors().map(|group| root.join(group)) {
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
            // "max" does not parse, and v1 writes a number near 2^63 for "no limit".
            let Some(limit) = read(limit).filter(|&limit| limit < 1 << 60) else { continue };
            // The page cache counts as usage but is given up under pressure.
            let free = limit.saturating_sub(read(usage).unwrap_or(0).saturating_sub(cached_bytes(&folder)));
            let before = tightest.take();
            let free = before.as_ref().map_or(free, |t| t.free.min(free));
            tightest = match before {
                Some(before) if before.limit <= limit => Some(GroupMemory { free, ..before }),
                _ => Some(GroupMemory { limit, path: folder, free }),
            };
        }
    }
    tightest
}

fn cached_bytes(folder: &Path) -> u64 {
    let Ok(stat) = std::fs::read_to_string(folder.join("memory.stat")) else { return 0 };
    stat.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| matches!(*key, "total_cache" | "file"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_with_and_without_units() {
        for (text, bytes) in
            [("2 GiB", 2 << 30), ("1.5MiB", 3 << 19), ("500 MB", 500_000_000), ("4096", 4096), ("7 b", 7)]
        {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GiB", "2 GiBi", "-1", "1e99 GiB", "nan"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_with_units() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (2 << 30, "2 GiB")] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn a_budget_refuses_more_than_it_has_and_takes_back_what_is_dropped() {
        let budget = MemoryBudget::new(100);
        let first = budget.charge(60, "a").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(budget.charge(41, "b").map(|c| c.bytes()).map_err(|e| e.exit_code()), Err(5));
        drop(first);
        assert_eq!(budget.charge(100, "c").map(|c| c.bytes()).ok(), Some(100));
        assert_eq!((budget.used(), budget.peak()), (0, 100));
    }

    #[test]
    fn the_tightest_of_nested_control_groups_counts_in_both_versions() {
        let root = tempfile::tempdir().expect("tempdir");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("folder")).expect("folder");
            std::fs::write(path, text).expect("written");
        };
        write("batch/memory.max", "1000000\n");
        write("batch/memory.current", "700000\n");
        write("batch/memory.stat", "anon 1\nfile 100000\n");
        write("batch/job/memory.max", "max\n");
        let found = group_in("0::/batch/job\n", root.path()).expect("a limit");
        assert_eq!((found.limit, found.free), (1_000_000, 400_000));
        assert_eq!(found.path, root.path().join("batch"));
        write("memory/a/memory.limit_in_bytes", "500\n");
        write("memory/a/memory.usage_in_bytes", "450\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let found = group_in("5:cpu:/x\n4:memory:/a\n", root.path()).expect("a limit");
        assert_eq!((found.limit, found.free), (500, 50));
        assert_eq!(group_in("4:memory:/none\n", root.path()), None);
    }

    #[test]
    fn some_memory_is_available() {
        assert!(available().bytes > 1 << 20);
    }
}
