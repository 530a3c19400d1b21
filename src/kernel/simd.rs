//! Loops compiled for the processor that the program runs on.
//!
//! Rust compiles for the oldest processor of a kind, which adds four numbers at a time where today's add eight or
//! sixteen. [`dispatch`] runs a closure in a version that was compiled for what is there (AVX2, AVX-512, NEON), found out
//! at run time by the crate `pulp`. Only what is inlined into the closure profits, so a kernel marks its inner functions
//! `#[inline(always)]`. The arithmetic is the same in every version: no multiplication is fused with an addition, and sums
//! are cut into lanes by the kernel's own code, so that results do not depend on the processor.

/// Runs `work` compiled for this processor.
#[inline(always)]
#[expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]
pub fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closure_runs_once_and_its_result_comes_back() {
        let numbers: Vec<f32> = (0..1000u16).map(f32::from).collect();
        let mut runs = 0;
        let sum = dispatch(|| {
            runs += 1;
            numbers.iter().map(|v| f64::from(*v)).sum::<f64>()
        });
        assert_eq!((sum, runs), (499_500.0, 1));
    }
}
