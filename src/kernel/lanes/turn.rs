//! The exchange of rows and columns of a block of 16 × 16 cells' lanes.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use super::cell::{Cell, LANES};

type Block = [[f32; LANES]; LANES];

/// A way to turn blocks.
pub(super) trait Turn: Copy {
    /// `out[c][r] = block[r][c]`.
    #[expect(clippy::large_types_passed_by_value, reason = "in registers: it is inlined everywhere")]
    fn exchanged(self, block: Block) -> Block;

    /// Lane `i` of cell `k` goes to lane `k` of cell `i`, real and imaginary parts alike.
    ///
    /// # Panics
    /// When there are not 16 cells on both sides.
    #[inline(always)]
    fn turn(self, from: &[Cell], to: &mut [Cell]) {
        assert!(from.len() == LANES && to.len() == LANES, "a block of a wrong size");
        let re = self.exchanged(std::array::from_fn(|k| from[k].re));
        let im = self.exchanged(std::array::from_fn(|k| from[k].im));
        for (cell, (re, im)) in to.iter_mut().zip(re.into_iter().zip(im)) {
            *cell = Cell { re, im };
        }
    }
}

/// One number after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

impl Turn for Plain {
    #[inline(always)]
    fn exchanged(self, block: Block) -> Block {
        std::array::from_fn(|c| std::array::from_fn(|r| block[r][c]))
    }
}

/// By exchanges within registers: pairs of numbers, pairs of those, and quarters of registers.
#[cfg(target_arch = "x86_64")]
impl Turn for pulp::x86::V4 {
    #[inline(always)]
    fn exchanged(self, block: Block) -> Block {
        use core::arch::x86_64::{__m512, __m512d};
        const EVEN: i32 = 0x88;
        const ODD: i32 = 0xDD;
        let s = self.avx512f;
        let pairs = |x: __m512| -> __m512d { pulp::cast(x) };
        let singles = |x: __m512d| -> __m512 { pulp::cast(x) };
        let rows: [__m512; LANES] = pulp::cast(block);
        let mut twos = rows;
        for i in (0..LANES).step_by(2) {
            twos[i] = s._mm512_unpacklo_ps(rows[i], rows[i + 1]);
            twos[i + 1] = s._mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let mut fours = twos;
        for i in (0..LANES).step_by(4) {
            let (a, b, c, d) = (pairs(twos[i]), pairs(twos[i + 1]), pairs(twos[i + 2]), pairs(twos[i + 3]));
            fours[i] = singles(s._mm512_unpacklo_pd(a, c));
            fours[i + 1] = singles(s._mm512_unpackhi_pd(a, c));
            fours[i + 2] = singles(s._mm512_unpacklo_pd(b, d));
            fours[i + 3] = singles(s._mm512_unpackhi_pd(b, d));
        }
        // Quarter q of `fours[4 g + k]` is column 4 q + k of rows 4 g to 4 g + 3.
        let mut out = fours;
        for k in 0..4 {
            let [a, b, c, d] = [fours[k], fours[4 + k], fours[8 + k], fours[12 + k]];
            let even = [s._mm512_shuffle_f32x4::<EVEN>(a, b), s._mm512_shuffle_f32x4::<EVEN>(c, d)];
            let odd = [s._mm512_shuffle_f32x4::<ODD>(a, b), s._mm512_shuffle_f32x4::<ODD>(c, d)];
            out[k] = s._mm512_shuffle_f32x4::<EVEN>(even[0], even[1]);
            out[4 + k] = s._mm512_shuffle_f32x4::<EVEN>(odd[0], odd[1]);
            out[8 + k] = s._mm512_shuffle_f32x4::<ODD>(even[0], even[1]);
            out[12 + k] = s._mm512_shuffle_f32x4::<ODD>(odd[0], odd[1]);
        }
        pulp::cast(out)
    }
}

/// Four blocks of 8 × 8, by the same exchanges in registers of half the size.
#[cfg(target_arch = "x86_64")]
impl Turn for pulp::x86::V3 {
    #[inline(always)]
    fn exchanged(self, block: Block) -> Block {
        use core::arch::x86_64::{__m256, __m256d};
        const HALF: usize = LANES / 2;
        let s = self.avx;
        let pairs = |x: __m256| -> __m256d { pulp::cast(x) };
        let singles = |x: __m256d| -> __m256 { pulp::cast(x) };
        let mut out: [[[f32; HALF]; 2]; LANES] = [[[0.0; HALF]; 2]; LANES];
        for (r, c) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let rows: [__m256; HALF] = std::array::from_fn(|i| {
                let [low, high]: [[f32; HALF]; 2] = pulp::cast(block[r * HALF + i]);
                pulp::cast(if c == 0 { low } else { high })
            });
            let mut twos = rows;
            for i in (0..HALF).step_by(2) {
                twos[i] = s._mm256_unpacklo_ps(rows[i], rows[i + 1]);
                twos[i + 1] = s._mm256_unpackhi_ps(rows[i], rows[i + 1]);
            }
            let mut fours = twos;
            for i in (0..HALF).step_by(4) {
                let (a, b, c, d) = (pairs(twos[i]), pairs(twos[i + 1]), pairs(twos[i + 2]), pairs(twos[i + 3]));
                fours[i] = singles(s._mm256_unpacklo_pd(a, c));
                fours[i + 1] = singles(s._mm256_unpackhi_pd(a, c));
                fours[i + 2] = singles(s._mm256_unpacklo_pd(b, d));
                fours[i + 3] = singles(s._mm256_unpackhi_pd(b, d));
            }
            for k in 0..4 {
                let [low, high] = [fours[k], fours[4 + k]];
                out[c * HALF + k][r] = pulp::cast(s._mm256_permute2f128_ps::<0x20>(low, high));
                out[c * HALF + 4 + k][r] = pulp::cast(s._mm256_permute2f128_ps::<0x31>(low, high));
            }
        }
        pulp::cast(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        std::array::from_fn(|r| std::array::from_fn(|c| (r * 100 + c) as f32))
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "numbers are moved, not changed")]
    fn every_way_of_turning_is_the_plain_one() {
        let expected = Plain.exchanged(block());
        assert!((0..LANES * LANES).all(|i| expected[i % LANES][i / LANES] == block()[i / LANES][i % LANES]));
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V3::try_new() {
                assert_eq!(simd.exchanged(block()), expected);
            }
            if let Some(simd) = pulp::x86::V4::try_new() {
                assert_eq!(simd.exchanged(block()), expected);
            }
        }
    }
}
