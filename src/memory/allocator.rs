//! Large buffers go back to the system as soon as they are freed.
//!
//! glibc learns from the first large buffer that is freed to serve such buffers from its own heaps, one for each thread,
//! and keeps them. What one phase of a run has freed then stays resident while another phase's threads take more from
//! other heaps, and the peak is the sum of both. A fixed threshold ends that: what is larger is mapped and unmapped.

/// Buffers from this size on are given back at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 1 << 20;

/// Makes the allocator of this process give large buffers back when they are freed. To be called once, at the start of a
/// program; without effect where the C library is not glibc.
pub fn give_large_buffers_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number inside the allocator, under the allocator's own lock; blocks that exist are not touched.
    let _set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}
