//! Whether large buffers go back to the system as soon as they are freed.
//!
//! glibc learns from the first large buffer that is freed to serve such buffers from its own heaps, one for each thread,
//! and keeps them. What one phase of a run has freed then stays resident while another phase's threads take more from
//! other heaps, and the peak is the sum of both. A fixed threshold ends that: what is larger is mapped and unmapped.
//!
//! Each page of a buffer that is mapped anew costs a fault. While results are written and drawn, dozens of buffers of some
//! MiB come and go, and those faults were a quarter of the processor's time. The large buffers of the run are gone then.

/// Buffers from this size on are given back at once.
const LARGE: i32 = 1 << 20;
/// The largest number that glibc takes for that.
const LARGEST: i32 = 32 << 20;
/// Free memory at the end of a heap that is kept: glibc's own choice, and more than anything leaves behind.
const KEPT: i32 = 128 << 10;
const KEPT_FOR_REUSE: i32 = 1 << 30;

/// Makes the allocator of this process give large buffers back when they are freed, and what it has kept so far. To be
/// called at the start of a program or of a run; without effect where the C library is not glibc.
pub fn give_large_buffers_back() {
    set(LARGE, KEPT);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: gives free memory back, under the allocator's own locks; blocks that exist are not touched.
    let _given = unsafe { libc::malloc_trim(0) };
}

/// Makes the allocator of this process keep buffers that are freed for others, until
/// [`give_large_buffers_back`]. For the end of a run, when the large ones are gone.
pub fn reuse_large_buffers() {
    set(LARGEST, KEPT_FOR_REUSE);
}

#[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), expect(unused_variables, reason = "nothing to set"))]
fn set(mapped_from: i32, kept: i32) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (name, value) in [(libc::M_MMAP_THRESHOLD, mapped_from), (libc::M_TRIM_THRESHOLD, kept)] {
        // SAFETY: sets a number inside the allocator, under the allocator's own lock; blocks that exist are not touched.
        let _set = unsafe { libc::mallopt(name, value) };
    }
}
