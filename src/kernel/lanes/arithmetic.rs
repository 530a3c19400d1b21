//! Complex numbers in registers: one register of real parts, one of imaginary parts.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use pulp::Simd;

use super::cell::{Cell, LANES};

/// As many complex numbers as a register has places.
pub(super) type Z<S> = (<S as Simd>::f32s, <S as Simd>::f32s);

/// Sixteen numbers as registers.
#[inline(always)]
pub(super) fn vectors<S: Simd>(lanes: &[f32; LANES]) -> &[S::f32s] {
    S::as_simd_f32s(lanes).0
}

/// Sixteen numbers as registers.
#[inline(always)]
pub(super) fn vectors_mut<S: Simd>(lanes: &mut [f32; LANES]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(lanes).0
}

#[inline(always)]
pub(super) fn multiply<S: Simd>(s: S, a: Z<S>, b: Z<S>) -> Z<S> {
    let (re, im) = (s.mul_f32s(a.1, b.1), s.mul_f32s(a.1, b.0));
    (s.mul_add_e_f32s(a.0, b.0, s.neg_f32s(re)), s.mul_add_e_f32s(a.0, b.1, im))
}

/// Multiplies cells by others.
#[inline(always)]
pub(super) fn multiply_cells<S: Simd>(s: S, cells: &mut [Cell], by: &[Cell]) {
    for (cell, by) in cells.iter_mut().zip(by) {
        for v in 0..LANES / S::F32_LANES {
            let z = (vectors::<S>(&cell.re)[v], vectors::<S>(&cell.im)[v]);
            let (re, im) = multiply(s, z, (vectors::<S>(&by.re)[v], vectors::<S>(&by.im)[v]));
            vectors_mut::<S>(&mut cell.re)[v] = re;
            vectors_mut::<S>(&mut cell.im)[v] = im;
        }
    }
}

#[inline(always)]
fn add<S: Simd>(s: S, a: Z<S>, b: Z<S>) -> Z<S> {
    (s.add_f32s(a.0, b.0), s.add_f32s(a.1, b.1))
}

#[inline(always)]
fn sub<S: Simd>(s: S, a: Z<S>, b: Z<S>) -> Z<S> {
    (s.sub_f32s(a.0, b.0), s.sub_f32s(a.1, b.1))
}

#[inline(always)]
fn scale<S: Simd>(s: S, a: Z<S>, factor: S::f32s) -> Z<S> {
    (s.mul_f32s(a.0, factor), s.mul_f32s(a.1, factor))
}

/// `a + factor b`, by a real factor.
#[inline(always)]
fn add_scaled<S: Simd>(s: S, a: Z<S>, b: Z<S>, factor: S::f32s) -> Z<S> {
    (s.mul_add_e_f32s(b.0, factor, a.0), s.mul_add_e_f32s(b.1, factor, a.1))
}

/// `(a - ib, a + ib)`; exchanged for the way back.
#[inline(always)]
fn add_turned<S: Simd, const BACK: bool>(s: S, a: Z<S>, b: Z<S>) -> [Z<S>; 2] {
    let less = (s.add_f32s(a.0, b.1), s.sub_f32s(a.1, b.0));
    let more = (s.sub_f32s(a.0, b.1), s.add_f32s(a.1, b.0));
    if BACK { [more, less] } else { [less, more] }
}

/// The transform of `R` numbers, without a factor: `y_k = Σ x_j exp(∓2πi jk / R)`.
#[inline(always)]
pub(super) fn dft<S: Simd, const R: usize, const BACK: bool>(s: S, x: [Z<S>; R]) -> [Z<S>; R] {
    let mut y = x;
    match R {
        2 => y.copy_from_slice(&[add(s, x[0], x[1]), sub(s, x[0], x[1])]),
        3 => y.copy_from_slice(&dft3::<S, BACK>(s, [x[0], x[1], x[2]])),
        4 => y.copy_from_slice(&dft4::<S, BACK>(s, [x[0], x[1], x[2], x[3]])),
        5 => y.copy_from_slice(&dft5::<S, BACK>(s, [x[0], x[1], x[2], x[3], x[4]])),
        8 => y.copy_from_slice(&dft8::<S, BACK>(s, [x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]])),
        _ => unreachable!("lines have stages of 2, 3, 4, 5 and 8"),
    }
    y
}

#[inline(always)]
fn dft3<S: Simd, const BACK: bool>(s: S, x: [Z<S>; 3]) -> [Z<S>; 3] {
    let (sum, difference) = (add(s, x[1], x[2]), sub(s, x[1], x[2]));
    let middle = add_scaled(s, x[0], sum, s.splat_f32s(-0.5));
    let turned = scale(s, difference, s.splat_f32s(0.866_025_4));
    let [y1, y2] = add_turned::<S, BACK>(s, middle, turned);
    [add(s, x[0], sum), y1, y2]
}

#[inline(always)]
fn dft4<S: Simd, const BACK: bool>(s: S, x: [Z<S>; 4]) -> [Z<S>; 4] {
    let (a, b) = (add(s, x[0], x[2]), sub(s, x[0], x[2]));
    let (c, d) = (add(s, x[1], x[3]), sub(s, x[1], x[3]));
    let [y1, y3] = add_turned::<S, BACK>(s, b, d);
    [add(s, a, c), y1, sub(s, a, c), y3]
}

#[inline(always)]
fn dft5<S: Simd, const BACK: bool>(s: S, x: [Z<S>; 5]) -> [Z<S>; 5] {
    // Cosines and sines of 72° and 144°.
    let [c1, c2, s1, s2] = [0.309_017, -0.809_017, 0.951_056_54, 0.587_785_24].map(|v| s.splat_f32s(v));
    let (p1, m1) = (add(s, x[1], x[4]), sub(s, x[1], x[4]));
    let (p2, m2) = (add(s, x[2], x[3]), sub(s, x[2], x[3]));
    let even1 = add_scaled(s, add_scaled(s, x[0], p1, c1), p2, c2);
    let even2 = add_scaled(s, add_scaled(s, x[0], p1, c2), p2, c1);
    let odd1 = add_scaled(s, scale(s, m1, s1), m2, s2);
    let odd2 = sub(s, scale(s, m1, s2), scale(s, m2, s1));
    let [y1, y4] = add_turned::<S, BACK>(s, even1, odd1);
    let [y2, y3] = add_turned::<S, BACK>(s, even2, odd2);
    [add(s, x[0], add(s, p1, p2)), y1, y2, y3, y4]
}

#[inline(always)]
fn dft8<S: Simd, const BACK: bool>(s: S, x: [Z<S>; 8]) -> [Z<S>; 8] {
    let even = dft4::<S, BACK>(s, [x[0], x[2], x[4], x[6]]);
    let odd = dft4::<S, BACK>(s, [x[1], x[3], x[5], x[7]]);
    let h = s.splat_f32s(std::f32::consts::FRAC_1_SQRT_2);
    // Turned by an eighth: (1 - i) / √2, and by three: -(1 + i) / √2 = -i (1 - i) / √2.
    let [one, _] = add_turned::<S, BACK>(s, odd[1], odd[1]);
    let [three, _] = add_turned::<S, BACK>(s, odd[3], odd[3]);
    let (one, three) = (scale(s, one, h), scale(s, three, h));
    let [y2, y6] = add_turned::<S, BACK>(s, even[2], odd[2]);
    let [y3, y7] = add_turned::<S, BACK>(s, even[3], three);
    [add(s, even[0], odd[0]), add(s, even[1], one), y2, y3, sub(s, even[0], odd[0]), sub(s, even[1], one), y6, y7]
}
