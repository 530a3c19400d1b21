//! Climbing to a maximum: a quasi-Newton method for a handful of parameters.

/// The relative gain below which a climb ends.
const ENOUGH: f64 = 1e-7;
/// Shortest part of a step that is tried.
const SHORTEST: f64 = 1e-3;

/// A small square matrix.
pub(super) type Matrix = Vec<Vec<f64>>;

/// Where a climb ended.
pub(super) struct Summit {
    pub(super) at: Vec<f64>,
    /// The objective at the start and after each step.
    pub(super) values: Vec<f64>,
}

/// BFGS with backtracking. `objective` gives the value and its slopes; the parameters should have similar scales.
/// `inverse`, the inverse of the negative curvature, spares it the learning of that where it is known.
pub(super) fn climb(
    start: &[f64],
    inverse: Option<Matrix>,
    iterations: usize,
    objective: impl Fn(&[f64]) -> (f64, Vec<f64>),
) -> Summit {
    let n = start.len();
    let (mut at, (mut value, mut slope)) = (start.to_vec(), objective(start));
    let size = value.abs().max(f64::MIN_POSITIVE);
    let mut values = vec![value];
    let steepness = slope.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12 * size);
    let mut inverse = inverse.unwrap_or_else(|| identity(n, 0.05 / steepness));
    for _ in 0..iterations {
        let step = times(&inverse, &slope);
        let rise = dot(&step, &slope);
        let mut length = 1.0;
        let accepted = loop {
            let next: Vec<f64> = at.iter().zip(&step).map(|(x, s)| x + length * s).collect();
            let (there, slope) = objective(&next);
            if there >= value + 1e-4 * length * rise {
                break Some((next, there, slope));
            }
            length *= 0.4;
            if length < SHORTEST {
                break None;
            }
        };
        let Some((next, there, new)) = accepted else { break };
        let moved: Vec<f64> = step.iter().map(|s| s * length).collect();
        let change: Vec<f64> = slope.iter().zip(&new).map(|(a, b)| a - b).collect();
        update_inverse(&mut inverse, &moved, &change);
        let gained = there - value;
        (at, value, slope) = (next, there, new);
        values.push(value);
        if gained < ENOUGH * size {
            break;
        }
    }
    Summit { at, values }
}

pub(super) fn identity(n: usize, scale: f64) -> Matrix {
    (0..n).map(|i| (0..n).map(|j| if i == j { scale } else { 0.0 }).collect()).collect()
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn times(m: &Matrix, v: &[f64]) -> Vec<f64> {
    m.iter().map(|row| dot(row, v)).collect()
}

/// The BFGS update of the inverse of the negative curvature: `s` the step, `y` the loss of slope.
fn update_inverse(h: &mut Matrix, s: &[f64], y: &[f64]) {
    let sy = dot(s, y);
    if sy <= 0.0 {
        return;
    }
    let hy = times(h, y);
    let yhy = dot(y, &hy);
    for (i, row) in h.iter_mut().enumerate() {
        for (j, h) in row.iter_mut().enumerate() {
            *h += (sy + yhy) * s[i] * s[j] / (sy * sy) - (hy[i] * s[j] + s[i] * hy[j]) / sy;
        }
    }
}

/// The negative curvature from the slopes a little way along each parameter, made symmetric.
pub(super) fn curvature(at: &[f64], step: f64, here: &[f64], slope: impl Fn(&[f64]) -> Vec<f64>) -> Matrix {
    let n = at.len();
    let columns: Matrix = (0..n)
        .map(|p| {
            let mut moved = at.to_vec();
            moved[p] += step;
            here.iter().zip(slope(&moved)).map(|(a, b)| (a - b) / step).collect()
        })
        .collect();
    (0..n).map(|i| (0..n).map(|j| 0.5 * (columns[i][j] + columns[j][i])).collect()).collect()
}

/// The inverse of a symmetric positive matrix (Cholesky); `None` for another.
pub(super) fn inverse(a: &Matrix) -> Option<Matrix> {
    let n = a.len();
    let mut l = identity(n, 0.0);
    for i in 0..n {
        for j in 0..=i {
            let rest = a[i][j] - dot(&l[i][..j], &l[j][..j]);
            if i > j {
                l[i][j] = rest / l[j][j];
            } else if rest > 1e-12 * a[i][i] && rest.is_finite() {
                l[i][i] = rest.sqrt();
            } else {
                return None;
            }
        }
    }
    let columns = (0..n).map(|c| {
        let mut x: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i == c))).collect();
        for i in 0..n {
            x[i] = (x[i] - dot(&l[i][..i], &x[..i])) / l[i][i];
        }
        for i in (0..n).rev() {
            x[i] = (x[i] - (i + 1..n).map(|k| l[k][i] * x[k]).sum::<f64>()) / l[i][i];
        }
        x
    });
    // Symmetric: its columns are its rows.
    Some(columns.collect())
}

/// Covariances of the parameters from the curvature and the scatter of the slope between groups of frequencies,
/// `H⁻¹ (Σ g gᵀ) H⁻¹` (White 1982): this needs no model of the noise.
pub(super) fn sandwich(inverse: &Matrix, slopes: impl Iterator<Item = Vec<f64>>) -> Matrix {
    let n = inverse.len();
    let mut out = identity(n, 0.0);
    for g in slopes {
        let v = times(inverse, &g);
        for (row, a) in out.iter_mut().zip(&v) {
            row.iter_mut().zip(&v).for_each(|(o, b)| *o += a * b);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `-½ (x - t)ᵀ A (x - t)`, bent a little.
    fn hill(x: &[f64]) -> (f64, Vec<f64>) {
        let d = [x[0] - 0.7, x[1] + 1.2, x[2] - 0.1];
        let a = [[4.0, 1.0, 0.0], [1.0, 3.0, -0.5], [0.0, -0.5, 9.0]];
        let ad: Vec<f64> = a.iter().map(|row| dot(row, &d)).collect();
        (5.0 - 0.5 * dot(&d, &ad) - 0.1 * d[0].powi(4), vec![-ad[0] - 0.4 * d[0].powi(3), -ad[1], -ad[2]])
    }

    #[test]
    fn a_climb_ends_on_the_top_and_never_loses_height() {
        for known in [false, true] {
            let start = vec![0.0; 3];
            let bend = curvature(&start, 1e-4, &hill(&start).1, |x| hill(x).1);
            let summit = climb(&start, inverse(&bend).filter(|_| known), 40, hill);
            assert!(summit.at.iter().zip([0.7, -1.2, 0.1]).all(|(a, b)| (a - b).abs() < 2e-3), "{:?}", summit.at);
            assert!(
                summit.values.windows(2).all(|v| v[1] >= v[0]) && (summit.values.last().unwrap() - 5.0).abs() < 1e-5
            );
            assert!(!known || summit.values.len() < 8, "{:?}", summit.values);
        }
    }

    #[test]
    fn a_matrix_times_its_inverse_is_one_and_one_that_is_not_positive_has_none() {
        let a = vec![vec![4.0, 1.0, 0.5], vec![1.0, 3.0, 0.2], vec![0.5, 0.2, 2.0]];
        let b = inverse(&a).unwrap();
        for (i, row) in a.iter().enumerate() {
            // The inverse is symmetric: its rows are its columns.
            for (j, column) in b.iter().enumerate() {
                assert!((dot(row, column) - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
        assert!(inverse(&vec![vec![1.0; 3]; 3]).is_none() && inverse(&identity(2, -1.0)).is_none());
    }

    #[test]
    fn the_scatter_of_slopes_gives_the_variance_of_a_mean() {
        // J = -½ Σ (y_i - x)²: H = n, g_i = y_i - x, and the variance of x is that of the mean.
        let y = [1.0, 2.0, 4.0, 5.0];
        let mean = 3.0;
        let variance = sandwich(&vec![vec![0.25]], y.iter().map(|y| vec![y - mean]))[0][0];
        assert!((variance - 10.0 / 16.0).abs() < 1e-12);
    }
}
