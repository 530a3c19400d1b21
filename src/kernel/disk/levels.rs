//! How bright a pattern is: medians, which hot pixels cannot move, without dead rows and columns; and the level between
//! dark and bright.

use ndarray::{Array2, Axis};

use crate::axes::Image;
use crate::kernel::simd::dispatch;

/// Rows or columns without a count that still count as dead ones between live ones, side by side.
const DEAD_LINES: usize = 4;

/// Pixels that say nothing about the disk: rows and columns without a single count between others that have some, and
/// pieces of them within what is bright. None on a detector without flaws.
pub(super) fn missing(pattern: &Image) -> Array2<bool> {
    let mut missing = Array2::from_elem(pattern.dim(), false);
    if pattern.iter().all(|v| *v != 0.0) {
        return missing;
    }
    let bright = otsu(pattern).unwrap_or(f64::INFINITY);
    for axis in [Axis(0), Axis(1)] {
        let live: Vec<f64> = pattern.axis_iter(axis).map(|line| f64::from(line.iter().any(|v| *v != 0.0))).collect();
        for line in short_gaps(&live, 0.0) {
            missing.index_axis_mut(axis, line).fill(true);
        }
        for (values, mut missing) in pattern.lanes(axis).into_iter().zip(missing.lanes_mut(axis)) {
            for at in short_gaps(&values.to_vec(), bright) {
                missing[at] = true;
            }
        }
    }
    missing
}

/// Places of at most [`DEAD_LINES`] zeros in a row between two values above `level`.
fn short_gaps(values: &[f64], level: f64) -> Vec<usize> {
    let mut places = Vec::new();
    let mut last = None;
    for (at, value) in values.iter().enumerate().filter(|(_, v)| **v != 0.0) {
        if let Some(before) = last.filter(|&before| at - before - 1 <= DEAD_LINES && values[before] > level)
            && *value > level
        {
            places.extend(before + 1..at);
        }
        last = Some(at);
    }
    places
}

/// 3 × 3 median of what is not missing; at the edges, of the neighbours that exist. Where all nine are missing, of as
/// many more as it takes.
pub(super) fn median3(pattern: &Image, missing: &Array2<bool>) -> Image {
    let (rows, cols) = pattern.dim();
    let whole = pattern.as_standard_layout();
    let line = |r: usize| &whole.as_slice().unwrap_or_default()[r * cols..(r + 1) * cols];
    // Where there are nine neighbours, many pixels at a time; all others one by one.
    let mut medians = Image::zeros((rows, cols));
    let apart = |r: usize, c: usize| {
        let near = |at: usize, len: usize| at.saturating_sub(1)..(at + 2).min(len);
        let neighbours = missing.slice(ndarray::s![near(r, rows), near(c, cols)]);
        neighbours.len() < 9 || neighbours.iter().any(|missing| *missing)
    };
    let flawless = !missing.iter().any(|missing| *missing);
    for r in 0..rows {
        let mut out = medians.row_mut(r);
        let Some(out) = out.as_slice_mut().filter(|_| r > 0 && r + 1 < rows && cols > 2) else { continue };
        let (above, here, below) = (line(r - 1), line(r), line(r + 1));
        dispatch(
            #[inline(always)]
            || medians_of_nine([above, here, below], &mut out[1..cols - 1]),
        );
    }
    let mut values = Vec::with_capacity(9);
    for ((r, c), median) in medians.indexed_iter_mut() {
        let inside = r > 0 && c > 0 && r + 1 < rows && c + 1 < cols;
        if (flawless && inside) || !apart(r, c) {
            continue;
        }
        values.clear();
        for reach in 1..=DEAD_LINES {
            for i in r.saturating_sub(reach)..=(r + reach).min(rows - 1) {
                for j in c.saturating_sub(reach)..=(c + reach).min(cols - 1) {
                    if !missing[[i, j]] {
                        values.push(pattern[[i, j]]);
                    }
                }
            }
            if !values.is_empty() {
                break;
            }
        }
        *median = middle(&mut values).unwrap_or(0.0);
    }
    medians
}

/// The medians of the nine pixels around each of a row's inner pixels, from the rows above, of, and below it: 19
/// comparisons each (A. W. Paeth, "Median finding on a 3 × 3 grid", Graphics Gems, 1990, in the order of N. Devillard),
/// which do not depend on the values.
#[inline(always)]
#[expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]
fn medians_of_nine([above, here, below]: [&[f64]; 3], out: &mut [f64]) {
    for (number, out) in out.chunks_mut(TOGETHER).enumerate() {
        let first = number * TOGETHER;
        let mut p = [[0.0; TOGETHER]; 9];
        for (row, line) in [above, here, below].into_iter().enumerate() {
            for (shift, values) in p[3 * row..3 * row + 3].iter_mut().enumerate() {
                values[..out.len()].copy_from_slice(&line[first + shift..][..out.len()]);
            }
        }
        // One by one, so that all of it stays in registers.
        exchange(&mut p, 1, 2);
        exchange(&mut p, 4, 5);
        exchange(&mut p, 7, 8);
        exchange(&mut p, 0, 1);
        exchange(&mut p, 3, 4);
        exchange(&mut p, 6, 7);
        exchange(&mut p, 1, 2);
        exchange(&mut p, 4, 5);
        exchange(&mut p, 7, 8);
        exchange(&mut p, 0, 3);
        exchange(&mut p, 5, 8);
        exchange(&mut p, 4, 7);
        exchange(&mut p, 3, 6);
        exchange(&mut p, 1, 4);
        exchange(&mut p, 2, 5);
        exchange(&mut p, 4, 7);
        exchange(&mut p, 4, 2);
        exchange(&mut p, 6, 4);
        exchange(&mut p, 4, 2);
        out.copy_from_slice(&p[4][..out.len()]);
    }
}

/// Pixels of a row that are sorted together: a register of them.
const TOGETHER: usize = 8;

/// Puts the smaller of each two numbers first.
#[inline(always)]
#[expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]
fn exchange(p: &mut [[f64; TOGETHER]; 9], low: usize, high: usize) {
    let (smaller, larger) = (p[low], p[high]);
    for (i, (x, y)) in smaller.into_iter().zip(larger).enumerate() {
        p[low][i] = if x < y { x } else { y };
        p[high][i] = if x < y { y } else { x };
    }
}

/// The value in the middle of all (of an even number the upper one); `None` of none. Changes the order.
pub(super) fn middle(values: &mut [f64]) -> Option<f64> {
    let half = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(half, f64::total_cmp).1)
}

/// The threshold that separates the histogram into the two most different classes (Otsu 1979); `None` for a constant.
pub(super) fn otsu(pattern: &Image) -> Option<f64> {
    const BINS: usize = 512;
    let mut values: Vec<f64> = pattern.iter().copied().filter(|v| v.is_finite()).collect();
    let low = values.iter().copied().min_by(f64::total_cmp)?;
    let nearly_all = (values.len() - 1) * 999 / 1000;
    let high = *values.select_nth_unstable_by(nearly_all, f64::total_cmp).1;
    if high <= low {
        return None;
    }
    let mut counts = [0f64; BINS];
    for v in &values {
        counts[(((v - low) / (high - low) * BINS as f64) as usize).min(BINS - 1)] += 1.0;
    }
    let total: f64 = counts.iter().sum();
    let total_mean: f64 = counts.iter().enumerate().map(|(i, n)| i as f64 * n).sum::<f64>() / total;
    let (mut weight, mut moment) = (0.0, 0.0);
    let (mut best, mut best_bin) = (-1.0, 0);
    for (i, n) in counts.iter().enumerate() {
        weight += n;
        moment += i as f64 * n;
        let between = (total_mean * weight - moment).powi(2) / (weight * (total - weight)).max(1e-12);
        if weight < total && between > best {
            (best, best_bin) = (between, i);
        }
    }
    Some(low + (best_bin as f64 + 1.0) / BINS as f64 * (high - low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn medians_equal_those_of_sorted_neighbours(
            rows in 1usize..9, cols in 1usize..12, values in prop::collection::vec(0u8..20, 108), dead in 0usize..12,
        ) {
            let pattern = Image::from_shape_fn((rows, cols), |(r, c)| f64::from(values[r * cols + c]));
            let missing = Array2::from_shape_fn((rows, cols), |(_, c)| c == dead);
            let naive = Image::from_shape_fn((rows, cols), |(r, c)| {
                let mut near = Vec::new();
                for reach in 1..=DEAD_LINES {
                    let window = |at: usize, len: usize| at.saturating_sub(reach)..(at + reach + 1).min(len);
                    let places = window(r, rows).flat_map(|i| window(c, cols).map(move |j| [i, j]));
                    near.extend(places.filter(|at| !missing[*at]).map(|at| pattern[at]));
                    if !near.is_empty() {
                        break;
                    }
                }
                near.sort_unstable_by(f64::total_cmp);
                near.get(near.len() / 2).copied().unwrap_or(0.0)
            });
            prop_assert_eq!(median3(&pattern, &missing), naive);
        }
    }
}
