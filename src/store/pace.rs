//! How fast a disk takes what is written past the page cache.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bytes that a disk takes from one writer in a second, below which the system is left to write while the work goes on.
const SLOW: f64 = 200e6;
/// Writes that are shorter say nothing about the disk.
const TELLING: usize = 1 << 20;
/// Nor does less time: any disk lets one write wait now and then.
const ENOUGH: Duration = Duration::from_millis(250);

/// Bytes and the time that they took, over all writers.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Written>);

#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Written {
    bytes: u64,
    time: Duration,
}

impl Pace {
    /// What was written so far, with `bytes` that have just taken `time`.
    pub(super) fn after(&self, bytes: usize, time: Duration) -> Written {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes >= TELLING {
            written.bytes += bytes as u64;
            written.time += time;
        }
        *written
    }
}

impl Written {
    /// Whether this tells of a slow disk.
    pub(super) fn is_slow(self) -> bool {
        self.time >= ENOUGH && self.time.as_secs_f64() * SLOW > self.bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a disk is taken for slow after any of these writes of MiB and milliseconds.
    fn slow(writes: &[(f64, u64)]) -> bool {
        let pace = Pace::default();
        let of = |&(mib, ms): &(f64, u64)| {
            pace.after((mib * f64::from(1 << 20)) as usize, Duration::from_millis(ms)).is_slow()
        };
        writes.iter().map(of).fold(false, |before, slow| before | slow)
    }

    #[test]
    fn one_write_that_waits_does_not_make_a_slow_disk_but_many_do() {
        assert!(!slow(&[(4.0, 2), (4.0, 100), (4.0, 2)]));
        assert!(slow(&[(4.0, 90); 3]), "47 MB/s");
        assert!(!slow(&[(4.0, 4); 1000]), "1 GB/s");
        let mut hiccups = [(4.0, 4); 100];
        hiccups[50] = (4.0, 300);
        assert!(!slow(&hiccups));
        assert!(!slow(&[(0.1, 50); 100]), "short ones take what any takes");
    }
}
