//! The regularised correction: residual displacements of groups of detector pixels as a few smooth functions.
//!
//! A displacement field of order `m` is the slope of all aberrations `C_mn`, `n = m+1, m-1, …`; of order 1 also the turn
//! of the detector, so that it is any linear map. A common displacement of all images is fitted beside them and means
//! nothing.

use std::ops::Range;

use crate::kernel::aberrations::Term;

/// Orders that are tried.
pub(super) const ORDERS: [u8; 4] = [1, 2, 3, 4];
/// Tukey's constant: residuals beyond this many standard deviations count for nothing.
const TUKEY: f64 = 4.685;
const ITERATIONS: usize = 20;
/// Two corrections in a row of which the second is this part of the first, at least and at most, are continued as a series.
const SERIES: Range<f64> = 0.15..0.9;

/// One measured residual displacement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Residual {
    /// The group's middle from the disk's centre in scan axes, in disk radii.
    pub(super) place: [f64; 2],
    /// In scan pixels.
    pub(super) shift: [f64; 2],
    /// Inverse of its covariance from noise: row row, row col, col col.
    pub(super) weight: [f64; 3],
    /// Colour of the checkerboard.
    pub(super) colour: usize,
}

/// A smooth displacement field: coefficients of the chosen orders.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Field {
    orders: Vec<u8>,
    coefficients: Vec<f64>,
}

impl Field {
    /// The displacement at a place, without the common one.
    pub(super) fn at(&self, place: [f64; 2]) -> [f64; 2] {
        let functions = basis(&self.orders, place);
        let sum = |a: usize| functions.iter().zip(&self.coefficients).map(|(f, c)| f[a] * c).sum();
        [sum(0), sum(1)]
    }

    /// The displacement of a measured group, with the common one.
    pub(super) fn predict(&self, place: [f64; 2]) -> [f64; 2] {
        let [row, col] = self.at(place);
        let n = self.coefficients.len();
        if n < 2 { [row, col] } else { [row + self.coefficients[n - 2], col + self.coefficients[n - 1]] }
    }

    /// The part of one order.
    pub(super) fn part(&self, order: u8) -> Self {
        let mut start = 0;
        for &m in &self.orders {
            let len = basis(&[m], [0.0; 2]).len();
            if m == order {
                return Self { orders: vec![m], coefficients: self.coefficients[start..start + len].to_vec() };
            }
            start += len;
        }
        Self::default()
    }

    /// The orders that it has.
    pub(super) fn orders(&self) -> &[u8] {
        &self.orders
    }

    /// The same, `factor` times as strong.
    fn times(mut self, factor: f64) -> Self {
        self.coefficients.iter_mut().for_each(|c| *c *= factor);
        self
    }

    /// Which part of `other` this is, over places; `None` for other orders.
    fn part_of(&self, other: &Self, places: &[[f64; 2]]) -> Option<f64> {
        let both = places.iter().map(|p| (self.at(*p), other.at(*p)));
        let (product, square) = both.fold((0.0, 0.0), |(product, square), (a, b)| {
            (product + a[0] * b[0] + a[1] * b[1], square + b[0] * b[0] + b[1] * b[1])
        });
        (self.orders == other.orders && square > 0.0).then(|| product / square)
    }

    /// A smooth correction is found in part only, because the images that predict are displaced as well: what is left after
    /// it is a fixed part of it, and again. Two corrections in a row tell the sum of the series (Aitken 1926). `last` is the
    /// one before, if it was not continued itself.
    pub(super) fn continued(self, last: &mut Option<Self>, places: &[[f64; 2]]) -> Self {
        let part = last.take().and_then(|last| self.part_of(&last, places)).filter(|part| SERIES.contains(part));
        if let Some(part) = part {
            return self.times(1.0 / (1.0 - part));
        }
        *last = Some(self.clone());
        self
    }

    /// The difference of two fields of the same orders.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let coefficients = self.coefficients.iter().zip(&other.coefficients).map(|(a, b)| a - b).collect();
        Self { orders: self.orders.clone(), coefficients }
    }

    /// Root mean square over places, with the mean displacement taken off.
    pub(super) fn rms(&self, places: &[[f64; 2]]) -> f64 {
        let values: Vec<[f64; 2]> = places.iter().map(|p| self.at(*p)).collect();
        let n = values.len().max(1) as f64;
        let mean = [0, 1].map(|a| values.iter().map(|v| v[a]).sum::<f64>() / n);
        (values.iter().map(|v| (v[0] - mean[0]).powi(2) + (v[1] - mean[1]).powi(2)).sum::<f64>() / n).sqrt()
    }
}

/// The functions of the chosen orders at a place, each a displacement.
fn basis(orders: &[u8], place: [f64; 2]) -> Vec<[f64; 2]> {
    let mut all = Vec::new();
    for &m in orders {
        if m == 1 {
            all.push([-place[1], place[0]]);
        }
        for n in (0..=m + 1).filter(|n| (m + 1 - n).is_multiple_of(2)) {
            all.push(Term { m, n, a: 1.0, b: 0.0 }.gradient(place));
            if n > 0 {
                all.push(Term { m, n, a: 0.0, b: 1.0 }.gradient(place));
            }
        }
    }
    all
}

/// Tukey's loss of a squared residual in units of its scale, between 0 and 1; and its weight.
fn tukey(square: f64) -> (f64, f64) {
    let u = 1.0 - square / (TUKEY * TUKEY);
    if u > 0.0 { (1.0 - u * u * u, u * u) } else { (1.0, 0.0) }
}

fn squared(residual: &Residual, field: &Field) -> f64 {
    let p = field.predict(residual.place);
    let left = [residual.shift[0] - p[0], residual.shift[1] - p[1]];
    dot(left, residual.weight, left)
}

/// `aᵀ W b` of a symmetric matrix.
fn dot(a: [f64; 2], w: [f64; 3], b: [f64; 2]) -> f64 {
    a[0] * (w[0] * b[0] + w[1] * b[1]) + a[1] * (w[1] * b[0] + w[2] * b[1])
}

/// Robust scale: the median of a two-dimensional normal distribution's squared length is `2 ln 2` variances.
fn scale(residuals: &[Residual], field: &Field) -> f64 {
    let mut squares: Vec<f64> = residuals.iter().map(|r| squared(r, field)).collect();
    squares.sort_unstable_by(f64::total_cmp);
    (squares.get(squares.len() / 2).copied().unwrap_or(0.0) / (2.0 * std::f64::consts::LN_2)).max(1e-300)
}

/// Fits the chosen orders to the residuals by iteratively reweighted least squares; `None` when they are too few.
pub(super) fn fit(residuals: &[Residual], orders: &[u8]) -> Option<Field> {
    let functions: Vec<Vec<[f64; 2]>> = residuals
        .iter()
        .map(|r| {
            let mut f = basis(orders, r.place);
            f.extend([[1.0, 0.0], [0.0, 1.0]]);
            f
        })
        .collect();
    let n = functions.first()?.len();
    if residuals.len() < 2 * n {
        return None;
    }
    let mut field = Field { orders: orders.to_vec(), coefficients: vec![0.0; n] };
    let mut robust = vec![1.0; residuals.len()];
    for _ in 0..ITERATIONS {
        let mut matrix = vec![0.0; n * n];
        let mut right = vec![0.0; n];
        for ((r, f), w) in residuals.iter().zip(&functions).zip(&robust) {
            let w = r.weight.map(|v| v * w);
            for i in 0..n {
                right[i] += dot(f[i], w, r.shift);
                for j in 0..=i {
                    matrix[i * n + j] += dot(f[i], w, f[j]);
                }
            }
        }
        let next = solve(matrix, right)?;
        let moved = next.iter().zip(&field.coefficients).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        field.coefficients = next;
        if moved < 1e-7 {
            break;
        }
        let s = scale(residuals, &field);
        robust.iter_mut().zip(residuals).for_each(|(w, r)| *w = tukey(squared(r, &field) / s).1);
    }
    Some(field)
}

/// Solves a symmetric positive definite system, of which the lower triangle is given, by Cholesky's method.
fn solve(mut m: Vec<f64>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let n = right.len();
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| m[i * n + k] * m[j * n + k]).sum();
            let rest = m[i * n + j] - dot;
            if i == j {
                if rest <= 1e-10 * m[i * n + i] {
                    return None;
                }
                m[i * n + i] = rest.sqrt();
            } else {
                m[i * n + j] = rest / m[j * n + j];
            }
        }
    }
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| m[i * n + k] * right[k]).sum();
        right[i] = (right[i] - dot) / m[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| m[k * n + i] * right[k]).sum();
        right[i] = (right[i] - dot) / m[i * n + i];
    }
    Some(right)
}

/// How well groups of one colour are predicted by those of the other, with fewer and with more orders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Validation {
    /// Robust mean squared error of held-out groups in units of their noise, with fewer orders and with more.
    pub(super) before: f64,
    pub(super) after: f64,
    /// Mean fall of the error over its standard deviation.
    pub(super) significance: f64,
}

/// Cross-validates `more` against `fewer` orders; `None` when there are too few groups.
pub(super) fn validate(residuals: &[Residual], fewer: &[u8], more: &[u8]) -> Option<Validation> {
    let s = scale(residuals, &fit(residuals, more)?);
    let mut falls = Vec::with_capacity(residuals.len());
    let (mut before, mut after) = (0.0, 0.0);
    for colour in 0..2 {
        let (held, rest): (Vec<_>, Vec<_>) = residuals.iter().copied().partition(|r| r.colour == colour);
        let (small, large) = (fit(&rest, fewer)?, fit(&rest, more)?);
        for r in &held {
            let loss = |field: &Field| tukey(squared(r, field) / s).0 * TUKEY * TUKEY / 3.0 * s;
            let (b, a) = (loss(&small), loss(&large));
            before += b;
            after += a;
            falls.push(b - a);
        }
    }
    let n = falls.len() as f64;
    let mean = falls.iter().sum::<f64>() / n;
    let variance = falls.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / n;
    let significance = if variance > 0.0 { mean / (variance / n).sqrt() } else { 0.0 };
    Some(Validation { before: before / n, after: after / n, significance })
}

/// Which residuals the fit takes for outliers.
pub(super) fn outliers(residuals: &[Residual], field: &Field) -> usize {
    let s = scale(residuals, field);
    residuals.iter().filter(|r| tukey(squared(r, field) / s).1 == 0.0).count()
}

#[cfg(test)]
mod tests;
