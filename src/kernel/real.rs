//! The two precisions in which transforms run.

use crate::axes::DType;

/// `f32` or `f64`.
pub trait Real: rustfft::FftNum + bytemuck::Pod + PartialOrd + Default {
    /// The real type's name on disk.
    const DTYPE: DType;
    /// Rounds to this precision.
    fn round_from(value: f64) -> Self;
    /// Exact.
    fn widen(self) -> f64;
    /// Exact.
    fn exact_from(value: f32) -> Self;
    /// The larger of two numbers (no NaN).
    #[must_use]
    fn maximum(self, other: Self) -> Self;
    /// The smaller of two numbers (no NaN).
    #[must_use]
    fn minimum(self, other: Self) -> Self;
}

macro_rules! real {
    ($t:ty, $d:ident) => {
        impl Real for $t {
            const DTYPE: DType = DType::$d;
            #[inline(always)]
            fn round_from(value: f64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn widen(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn exact_from(value: f32) -> Self {
                value as Self
            }
            // A plain comparison compiles to one instruction; `f32::max` has to treat NaN and does not.
            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                if self > other { self } else { other }
            }
            #[inline(always)]
            fn minimum(self, other: Self) -> Self {
                if self < other { self } else { other }
            }
        }
    };
}
real!(f32, F32);
real!(f64, F64);
