//! Memory control groups, of version 1 or 2, for tests of what happens inside one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A memory control group below this process's own; removed when dropped.
pub struct Group(PathBuf);

impl Group {
    /// A group that may use so many bytes, page cache included. `None`, saying why, where there is no such thing or no
    /// right to make one.
    pub fn new(limit: u64) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let memory = |line: &&str| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == "memory"));
        let v1 = own.lines().find(memory);
        let line = v1.or_else(|| own.lines().find(|l| l.starts_with("0::"))).unwrap_or("0::/");
        let path = line.splitn(3, ':').nth(2).unwrap_or("/").trim_matches('/');
        let (root, file) = if v1.is_some() {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            ("/sys/fs/cgroup", "memory.max")
        };
        let name = format!("stemstream_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let group = Path::new(root).join(path).join(name);
        if let Err(error) = fs::create_dir(&group) {
            println!("skipped: no memory control group at {}: {error}", group.display());
            return None;
        }
        let group = Self(group);
        if let Err(error) = fs::write(group.0.join(file), limit.to_string()) {
            println!("skipped: the control group takes no memory limit: {error}");
            return None;
        }
        Some(group)
    }

    /// What a shell does to enter the group.
    pub fn enter(&self) -> String {
        format!("echo $$ > '{}/cgroup.procs'", self.0.display())
    }

    /// The most that the group used, where the system says.
    pub fn peak(&self) -> Option<u64> {
        ["memory.max_usage_in_bytes", "memory.peak"]
            .iter()
            .find_map(|name| fs::read_to_string(self.0.join(name)).ok()?.trim().parse().ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
