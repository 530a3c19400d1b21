//! Which frequencies of which detector pixels are displaced copies of the object and nothing else.
//!
//! For a weak object the spectrum of detector pixel `k` at `q` is made of two side bands, the beams `k - q` and `k + q`
//! interfering with `k`. Where both lie in the aperture they add up to `-2 sin χ(q) exp(-2πi q·d(k))` times the object: the
//! same for all pixels but for the displacement `d(k)`. Where only one does, its phase is off by `χ(q)` as well and pulls
//! every correlation towards smaller displacements; where `χ(q)` is small the double overlap has no contrast and what is
//! left is of second order. Both kinds of frequencies are left out.

use std::f64::consts::PI;

/// Detector pixels at the aperture's edge that belong to neither side.
const EDGE: f64 = 1.0;
/// Smallest `|χ(q)|` in radians.
const LEAST_PHASE: f64 = 1.0;
/// Smallest part of the disk whose pixels have both side bands.
const LEAST_OVERLAP: f64 = 0.3;

/// What the current displacements say about the optics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Optics {
    /// Detector to scan axes; a rotation, with exchanged axes a reflection.
    pub(super) turn: [[f64; 2]; 2],
    /// Symmetric: scan pixels per detector pixel, with `d(k) = -C turn k`.
    slope: [[f64; 2]; 2],
    /// Detector pixels per cycle per scan pixel.
    pixels_per_frequency: f64,
    /// Radius of the disk in detector pixels.
    pub(super) radius: f64,
}

impl Optics {
    /// From displacements (scan pixels) at places (detector pixels from the disk's centre); `None` when they do not
    /// determine a linear map.
    pub(super) fn new(
        places: &[[f64; 2]],
        displacements: &[[f64; 2]],
        pixels_per_frequency: f64,
        radius: f64,
    ) -> Option<Self> {
        let m = linear_map(places, displacements)?;
        let a = m.map(|row| row.map(|v| -v));
        // Polar decomposition of a 2 × 2 matrix: the matrix plus its cofactors is a multiple of the rotation.
        let det = a[0][0] * a[1][1] - a[0][1] * a[1][0];
        let sign = if det < 0.0 { -1.0 } else { 1.0 };
        let turn = [
            [a[0][0] + sign * a[1][1], a[0][1] - sign * a[1][0]],
            [a[1][0] - sign * a[0][1], a[1][1] + sign * a[0][0]],
        ];
        let length = turn[0][0].hypot(turn[1][0]);
        if length <= 0.0 || !length.is_finite() {
            return None;
        }
        let turn = turn.map(|row| row.map(|v| v / length));
        let slope = std::array::from_fn(|i| std::array::from_fn(|j| a[i][0] * turn[j][0] + a[i][1] * turn[j][1]));
        Some(Self { turn, slope, pixels_per_frequency, radius })
    }

    /// A place on the detector in scan axes and disk radii.
    pub(super) fn on_scan(&self, k: [f64; 2]) -> [f64; 2] {
        self.turn.map(|row| (row[0] * k[0] + row[1] * k[1]) / self.radius)
    }

    /// A scan frequency as a distance on the detector.
    pub(super) fn on_detector(&self, q: [f64; 2]) -> [f64; 2] {
        std::array::from_fn(|i| (self.turn[0][i] * q[0] + self.turn[1][i] * q[1]) * self.pixels_per_frequency)
    }

    fn phase(&self, q: [f64; 2]) -> f64 {
        let c = &self.slope;
        let cq = [c[0][0] * q[0] + c[0][1] * q[1], c[1][0] * q[0] + c[1][1] * q[1]];
        PI * self.pixels_per_frequency * (q[0] * cq[0] + q[1] * cq[1])
    }

    /// Whether a frequency (possibly beyond the scan's Nyquist frequency) measures displacements.
    pub(super) fn is_useful(&self, q: [f64; 2]) -> bool {
        let distance = q[0].hypot(q[1]) * self.pixels_per_frequency;
        overlap(distance, self.inner()) * (self.inner() / self.radius).powi(2) >= LEAST_OVERLAP
            && self.phase(q).abs() >= LEAST_PHASE
    }

    fn inner(&self) -> f64 {
        self.radius - EDGE
    }

    /// Whether both side bands of a pixel at `k` lie in the aperture, `on_detector` being the frequency's distance.
    #[inline]
    pub(super) fn has_both(&self, k: [f64; 2], on_detector: [f64; 2]) -> bool {
        let squares = k[0] * k[0] + k[1] * k[1] + on_detector[0].powi(2) + on_detector[1].powi(2);
        squares + 2.0 * (k[0] * on_detector[0] + k[1] * on_detector[1]).abs() < self.inner().powi(2)
    }
}

/// The frequency itself and those that the scan's sampling mixes with it, up to twice the Nyquist frequency.
pub(super) fn aliases(q: [f64; 2]) -> [[f64; 2]; 4] {
    let far = q.map(|v| if v > 0.0 { v - 1.0 } else { v + 1.0 });
    [q, [far[0], q[1]], [q[0], far[1]], far]
}

/// The part of a disk of `radius` that lies in both its copies displaced by `distance` and by the opposite.
fn overlap(distance: f64, radius: f64) -> f64 {
    if radius <= 0.0 || distance >= radius {
        return 0.0;
    }
    let t = distance / radius;
    2.0 / PI * (t.acos() - t * (1.0 - t * t).sqrt())
}

/// The least-squares map `d = M k + constant`.
fn linear_map(places: &[[f64; 2]], displacements: &[[f64; 2]]) -> Option<[[f64; 2]; 2]> {
    let n = places.len() as f64;
    let mean = |all: &[[f64; 2]]| [0, 1].map(|a| all.iter().map(|v| v[a]).sum::<f64>() / n);
    let (k0, d0) = (mean(places), mean(displacements));
    let (mut kk, mut dk) = ([0.0; 3], [[0.0; 2]; 2]);
    for (k, d) in places.iter().zip(displacements) {
        let (k, d) = ([k[0] - k0[0], k[1] - k0[1]], [d[0] - d0[0], d[1] - d0[1]]);
        kk = [kk[0] + k[0] * k[0], kk[1] + k[0] * k[1], kk[2] + k[1] * k[1]];
        for i in 0..2 {
            for j in 0..2 {
                dk[i][j] += d[i] * k[j];
            }
        }
    }
    let det = kk[0] * kk[2] - kk[1] * kk[1];
    (det > 1e-9 * (kk[0] + kk[2]).powi(2))
        .then(|| dk.map(|row| [(row[0] * kk[2] - row[1] * kk[1]) / det, (row[1] * kk[0] - row[0] * kk[1]) / det]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_and_slope_come_back_and_exchanged_axes_are_a_reflection() {
        let places: Vec<[f64; 2]> = (0..25).map(|i| [f64::from(i / 5) - 1.7, f64::from(i % 5) - 2.2]).collect();
        let (sin, cos) = 0.4f64.sin_cos();
        for (turn, c) in [([[cos, -sin], [sin, cos]], 0.2), ([[sin, cos], [cos, -sin]], 0.3)] {
            let d: Vec<[f64; 2]> = places
                .iter()
                .map(|k| {
                    let [u, v] = turn.map(|row: [f64; 2]| row[0] * k[0] + row[1] * k[1]);
                    [0.5 - (c * u + 0.01 * v), 7.0 - (0.01 * u + c * v)]
                })
                .collect();
            let optics = Optics::new(&places, &d, 15.0, 10.0).unwrap();
            let off = optics.turn.iter().flatten().zip(turn.iter().flatten()).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f64::max) < 1e-9);
            assert!((optics.phase([0.2, 0.1]) - PI * 15.0 * (c * 0.05 + 0.01 * 0.04)).abs() < 1e-9);
        }
        assert!(Optics::new(&places, &vec![[1.0, 1.0]; 25], 15.0, 10.0).is_none());
        assert!(Optics::new(&[[1.0, 2.0]; 9], &[[1.0, 2.0]; 9], 15.0, 10.0).is_none());
    }

    #[test]
    fn a_frequency_needs_contrast_and_both_side_bands() {
        let places = [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]];
        let optics = Optics::new(&places, &places.map(|k| k.map(|v| 0.2 * v)), 16.0, 16.0).unwrap();
        assert!(!optics.is_useful([0.1, 0.0]) && optics.is_useful([0.4, 0.0]) && !optics.is_useful([0.9, 0.0]));
        assert!(optics.has_both([2.0, 0.0], [12.0, 0.0]) && !optics.has_both([2.0, 0.0], [13.5, 0.0]));
        assert_eq!((overlap(0.0, 1.0), overlap(1.0, 1.0)), (1.0, 0.0));
    }
}
