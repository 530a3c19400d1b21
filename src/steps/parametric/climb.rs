//! The way up from a starting point to the maximum of the objective, with a quasi-Newton method.

use crate::kernel::crosspower::{HalfSets, Kernel, Model, Objective, Parameters};
use crate::steps::parametric::search::{Found, evaluate};

/// A relative gain below this ends a search: a thousandth of a pixel at the disk's edge gains more.
const ENOUGH: f64 = 1e-8;
/// A step below this, in scan pixels at the disk's edge, is none.
const NO_STEP: f64 = 1e-5;
/// How far the slope is compared for the curvature: scan pixels at the disk's edge, or radians.
const ASIDE: f64 = 0.01;

type Square = [[f64; 4]; 4];

/// BFGS with backtracking (Nocedal and Wright, Numerical Optimization, chapter 6), in displacements at the disk's edge and
/// radians.
pub(super) struct Climb<'a> {
    set: &'a HalfSets,
    kernel: Kernel,
    scale: Parameters,
    /// The inverse of the negative curvature of the objective over its power.
    inverse: Option<Square>,
}

impl<'a> Climb<'a> {
    pub(super) fn new(set: &'a HalfSets, kernel: Kernel, radius: f64) -> Self {
        Self { set, kernel, scale: [radius, radius, radius, 1.0], inverse: None }
    }

    /// Begins with this curvature instead of none.
    pub(super) fn with_curvature(self, inverse: Option<Square>) -> Self {
        Self { inverse, ..self }
    }

    /// The curvature as it is known at the end.
    pub(super) fn into_curvature(self) -> Option<Square> {
        self.inverse
    }

    /// The inverse curvature from slopes beside a model; `None` where the objective does not curve down on all sides.
    pub(super) fn inverse_curvature(&self, model: &Model) -> Option<Square> {
        let here = evaluate(self.set, model, self.kernel);
        let power = here.power.max(f64::MIN_POSITIVE);
        let slope = |o: &Objective| self.slope(o, power);
        let g = slope(&here);
        let mut curvature = [[0.0; 4]; 4];
        for p in 0..4 {
            let mut aside = *model;
            aside.parameters[p] += ASIDE / self.scale[p];
            let moved = slope(&evaluate(self.set, &aside, self.kernel));
            (0..4).for_each(|i| curvature[i][p] = (g[i] - moved[i]) / ASIDE);
        }
        let even = |i: usize, j: usize| 0.5 * (curvature[i][j] + curvature[j][i]);
        inverse_of_positive(&std::array::from_fn(|i| std::array::from_fn(|j| even(i, j))))
    }

    fn slope(&self, o: &Objective, power: f64) -> Parameters {
        std::array::from_fn(|i| o.gradient[i] / self.scale[i] / power)
    }

    pub(super) fn run(&mut self, start: Model, iterations: usize) -> Found {
        let mut model = start;
        let mut now = evaluate(self.set, &model, self.kernel);
        let power = now.power.max(f64::MIN_POSITIVE);
        let mut g = self.slope(&now, power);
        let mut inverse = self.inverse.unwrap_or_else(|| {
            let small = 0.05 / g.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
            std::array::from_fn(|i| std::array::from_fn(|j| if i == j { small } else { 0.0 }))
        });
        for _ in 0..iterations {
            let step: Parameters = std::array::from_fn(|i| (0..4).map(|j| inverse[i][j] * g[j]).sum());
            let rise: f64 = step.iter().zip(g).map(|(s, g)| s * g).sum();
            let mut length = 1.0;
            let accepted = loop {
                let mut next = model;
                (0..4).for_each(|i| next.parameters[i] += length * step[i] / self.scale[i]);
                let value = evaluate(self.set, &next, self.kernel);
                if value.value >= now.value + 1e-4 * length * rise * power {
                    break Some((next, value));
                }
                length *= 0.4;
                if length < 1e-4 {
                    break None;
                }
            };
            let Some((next, value)) = accepted else { break };
            let new = self.slope(&value, power);
            update_inverse(&mut inverse, step.map(|s| s * length), std::array::from_fn(|i| g[i] - new[i]));
            let gain = value.value - now.value;
            (model, now, g) = (next, value, new);
            let moved = step.iter().map(|s| (s * length).abs()).fold(0.0, f64::max);
            if gain < ENOUGH * now.value.abs() || moved < NO_STEP {
                break;
            }
        }
        self.inverse = Some(inverse);
        Found { model, value: now.value, coherence: now.value / now.power.max(f64::MIN_POSITIVE) }
    }
}

/// The BFGS update of the inverse Hessian of the negative objective: `s` the step, `y` the change of the gradient.
fn update_inverse(h: &mut Square, s: Parameters, y: Parameters) {
    let sy: f64 = s.iter().zip(y).map(|(a, b)| a * b).sum();
    if sy <= 0.0 {
        return;
    }
    let hy: Parameters = std::array::from_fn(|i| (0..4).map(|j| h[i][j] * y[j]).sum());
    let yhy: f64 = y.iter().zip(hy).map(|(a, b)| a * b).sum();
    for i in 0..4 {
        for j in 0..4 {
            h[i][j] += (sy + yhy) * s[i] * s[j] / (sy * sy) - (hy[i] * s[j] + s[i] * hy[j]) / sy;
        }
    }
}

/// The inverse of a symmetric matrix by Cholesky's factors; `None` unless it is positive definite.
fn inverse_of_positive(a: &Square) -> Option<Square> {
    let mut l = [[0.0; 4]; 4];
    for i in 0..4 {
        for j in 0..=i {
            let rest = a[i][j] - (0..j).map(|k| l[i][k] * l[j][k]).sum::<f64>();
            if i == j && !(rest > 1e-12 * a[i][i].abs()) {
                return None;
            }
            l[i][j] = if i == j { rest.sqrt() } else { rest / l[j][j] };
        }
    }
    let mut inverse = [[0.0; 4]; 4];
    for c in 0..4 {
        let mut x: [f64; 4] = std::array::from_fn(|i| f64::from(u8::from(i == c)));
        for i in 0..4 {
            x[i] = (x[i] - (0..i).map(|k| l[i][k] * x[k]).sum::<f64>()) / l[i][i];
        }
        for i in (0..4).rev() {
            x[i] = (x[i] - (i + 1..4).map(|k| l[k][i] * x[k]).sum::<f64>()) / l[i][i];
        }
        (0..4).for_each(|r| inverse[r][c] = x[r]);
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_positive_matrix_times_its_inverse_is_one_and_others_have_none() {
        let a = [[4.0, 1.0, 0.5, 0.0], [1.0, 3.0, 0.2, 0.1], [0.5, 0.2, 2.0, 1.0], [0.0, 0.1, 1.0, 5.0]];
        let inverse = inverse_of_positive(&a).expect("positive");
        for i in 0..4 {
            for j in 0..4 {
                let product: f64 = (0..4).map(|k| a[i][k] * inverse[k][j]).sum();
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
        let mut saddle = a;
        saddle[2][2] = -1.0;
        assert!(inverse_of_positive(&saddle).is_none());
        assert!(inverse_of_positive(&[[f64::NAN; 4]; 4]).is_none());
    }

    #[test]
    fn an_update_turns_the_change_of_the_slope_into_the_step() {
        let mut h = [[0.0; 4]; 4];
        (0..4).for_each(|i| h[i][i] = 0.3);
        let (s, y) = ([1.0, -0.5, 0.2, 0.1], [2.0, -0.7, 0.4, 0.3]);
        update_inverse(&mut h, s, y);
        for i in 0..4 {
            let found: f64 = (0..4).map(|j| h[i][j] * y[j]).sum();
            assert!((found - s[i]).abs() < 1e-12);
        }
    }
}
