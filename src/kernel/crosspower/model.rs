//! The linear model of displacements.

/// Parameters of the model: `[c1, c2a, c2b, θ]`; the first three in scan pixels per detector pixel, θ in radians.
pub type Parameters = [f64; 4];

/// The linear model `d(k) = M k` with `M = -C R(θ)`, `C = [[c1 + c2a, c2b], [c2b, c1 - c2a]]`, on (row, col) vectors;
/// on a transposed detector `k` has its coordinates exchanged first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// `[c1, c2a, c2b, θ]`.
    pub parameters: Parameters,
    /// Whether the detector's axes are exchanged.
    pub transposed: bool,
}

pub(super) type Matrix = [[f64; 2]; 2];

fn times(a: &Matrix, b: &Matrix) -> Matrix {
    std::array::from_fn(|i| std::array::from_fn(|j| a[i][0] * b[0][j] + a[i][1] * b[1][j]))
}

impl Model {
    /// `M`, from detector pixels to displacements in scan pixels.
    pub fn matrix(&self) -> Matrix {
        self.oriented(&times(&self.symmetric(), &self.rotation()))
    }

    /// Displacement of the image of detector pixel `k` (`[row, col]` from the disk's centre), in scan pixels.
    pub fn displacement(&self, k: [f64; 2]) -> [f64; 2] {
        let m = self.matrix();
        [m[0][0] * k[0] + m[0][1] * k[1], m[1][0] * k[0] + m[1][1] * k[1]]
    }

    /// A detector pixel's place on the scan's axes, `k_scan = R(θ) k_det`, in detector pixels.
    pub fn on_scan(&self, k: [f64; 2]) -> [f64; 2] {
        let m = self.oriented(&self.rotation());
        [m[0][0] * k[0] + m[0][1] * k[1], m[1][0] * k[0] + m[1][1] * k[1]]
    }

    fn symmetric(&self) -> Matrix {
        let [c1, c2a, c2b, _] = self.parameters;
        [[-(c1 + c2a), -c2b], [-c2b, -(c1 - c2a)]]
    }

    fn rotation(&self) -> Matrix {
        let (s, c) = self.parameters[3].sin_cos();
        [[c, -s], [s, c]]
    }

    fn oriented(&self, m: &Matrix) -> Matrix {
        if self.transposed { [[m[0][1], m[0][0]], [m[1][1], m[1][0]]] } else { *m }
    }

    /// `∂M/∂p` for the four parameters.
    pub(super) fn derivatives(&self) -> [Matrix; 4] {
        let r = self.rotation();
        let (s, c) = self.parameters[3].sin_cos();
        let of = |m: Matrix| self.oriented(&times(&m, &r));
        [
            of([[-1.0, 0.0], [0.0, -1.0]]),
            of([[-1.0, 0.0], [0.0, 1.0]]),
            of([[0.0, -1.0], [-1.0, 0.0]]),
            self.oriented(&times(&self.symmetric(), &[[-s, -c], [c, -s]])),
        ]
    }

    /// Rotates a scan frequency into the detector's axes: `k_det` with `R(θ) k_det = q`.
    pub(super) fn on_detector(&self, q: [f64; 2]) -> [f64; 2] {
        let r = self.rotation();
        let k = [r[0][0] * q[0] + r[1][0] * q[1], r[0][1] * q[0] + r[1][1] * q[1]];
        if self.transposed { [k[1], k[0]] } else { k }
    }
}

/// `2π Mᵀq`: how the phase changes per detector pixel.
pub(super) fn gradient_of_phase(m: &Matrix, q: [f64; 2]) -> [f64; 2] {
    let tau = std::f64::consts::TAU;
    [tau * (m[0][0] * q[0] + m[1][0] * q[1]), tau * (m[0][1] * q[0] + m[1][1] * q[1])]
}
