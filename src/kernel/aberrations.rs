//! Aberrations of any order: the phase that they give a wave, its slope, and how they look in other axes.
//!
//! `χ(α) = (2π/λ) Σ |α|^(m+1) / (m+1) · [Ca_mn cos nφ + Cb_mn sin nφ]`, with `α = [row, col]` in radians and φ from the row
//! axis towards the column axis (Ophus et al. 2016); coefficients in Å, `C10` is the negative of the defocus.
//!
//! Written with the complex number `z = α_row + iα_col`, a term is `|z|^(m+1-n) Re((Ca - iCb) zⁿ) / (m+1)`. As `m+1-n` is
//! even, this is a polynomial: it needs no trigonometry and nothing is singular on the axis.

mod names;

use std::f64::consts::TAU;

use num_complex::Complex64;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The highest `m` that is known.
pub const HIGHEST_ORDER: u8 = 7;
const POWERS: usize = HIGHEST_ORDER as usize + 2;

/// One aberration: `|α|^(m+1) / (m+1) · (a cos nφ + b sin nφ)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Order of the slope: 1 is defocus and twofold astigmatism, 2 coma and threefold, 3 spherical aberration, ….
    pub m: u8,
    /// Symmetry: the phase repeats `n` times around the axis; 0 is round.
    pub n: u8,
    /// Cosine part in Å.
    pub a: f64,
    /// Sine part in Å; 0 when `n` is.
    pub b: f64,
}

impl Term {
    /// A term from its cosine and sine parts in Å.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) when there is no such aberration (`1 <= m <= 7`, `n <= m + 1`, and
    /// `m + 1 - n` even), a round one has a sine part, or a part is not finite.
    pub fn new(m: u8, n: u8, a: f64, b: f64) -> Result<Self> {
        if !(1..=HIGHEST_ORDER).contains(&m) || n > m + 1 || !(m + 1 - n).is_multiple_of(2) {
            return Err(Error::config(format!("there is no aberration C{m}{n}")).with_hint(format!(
                "Cmn has m from 1 to {HIGHEST_ORDER} and n = m+1, m-1, …, not below 0: C10, C12, C21, C23, C30, C32, C34, …"
            )));
        }
        if !(a.is_finite() && b.is_finite()) || (n == 0 && b != 0.0) {
            let expected = if n == 0 { "one finite number" } else { "two finite numbers" };
            return Err(Error::config(format!("C{m}{n} must be {expected}, found ({a}, {b})")));
        }
        Ok(Self { m, n, a, b })
    }

    /// A term from its magnitude in Å and its direction in radians: `|α|^(m+1) / (m+1) · magnitude · cos n(φ - angle)`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn polar(m: u8, n: u8, magnitude: f64, angle_rad: f64) -> Result<Self> {
        let (sin, cos) = (f64::from(n) * angle_rad).sin_cos();
        Self::new(m, n, magnitude * cos, magnitude * sin)
    }

    /// `sqrt(a² + b²)` in Å; with its sign for round terms.
    pub fn magnitude(&self) -> f64 {
        if self.n == 0 { self.a } else { self.a.hypot(self.b) }
    }

    /// Direction in radians, between `-π/n` and `π/n`; 0 for round terms.
    pub fn angle(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.b.atan2(self.a) / f64::from(self.n) }
    }

    /// Whether the phase is the same at `α` and `-α`.
    pub fn is_even(&self) -> bool {
        self.m % 2 == 1
    }

    /// The path difference `λχ / 2π` of this term alone, in Å.
    pub fn path(&self, alpha: [f64; 2]) -> f64 {
        self.path_at(&Powers::new(alpha, self.m))
    }

    /// The slope of [`path`](Self::path): the shift that this term alone asks for, in Å.
    pub fn gradient(&self, alpha: [f64; 2]) -> [f64; 2] {
        self.gradient_at(&Powers::new(alpha, self.m))
    }

    fn complex(&self) -> Complex64 {
        Complex64::new(self.a, -self.b)
    }

    fn with_complex(self, c: Complex64) -> Self {
        Self { a: c.re, b: if self.n == 0 { 0.0 } else { -c.im }, ..self }
    }

    /// How often `|α|²` is a factor.
    fn rings(&self) -> usize {
        usize::from((self.m + 1 - self.n) / 2)
    }

    pub(crate) fn path_at(&self, at: &Powers) -> f64 {
        at.squares[self.rings()] * (self.complex() * at.z[usize::from(self.n)]).re / f64::from(self.m + 1)
    }

    pub(crate) fn gradient_at(&self, at: &Powers) -> [f64; 2] {
        let (rings, n) = (self.rings(), usize::from(self.n));
        let (c, scale) = (self.complex(), 1.0 / f64::from(self.m + 1));
        let [mut row, mut col] = [0.0; 2];
        if n > 0 {
            // d zⁿ / d row = n zⁿ⁻¹, d zⁿ / d col = i n zⁿ⁻¹.
            let slope = c * at.z[n - 1] * (n as f64 * at.squares[rings]);
            (row, col) = (slope.re, -slope.im);
        }
        if rings > 0 {
            let outward = (c * at.z[n]).re * 2.0 * rings as f64 * at.squares[rings - 1];
            (row, col) = (row + outward * at.alpha[0], col + outward * at.alpha[1]);
        }
        [row * scale, col * scale]
    }
}

/// `zⁿ` and `|z|²ʲ` as far as they are needed.
pub(crate) struct Powers {
    alpha: [f64; 2],
    z: [Complex64; POWERS],
    squares: [f64; POWERS / 2 + 1],
}

impl Powers {
    pub(crate) fn new(alpha: [f64; 2], highest: u8) -> Self {
        let (base, square) = (Complex64::new(alpha[0], alpha[1]), alpha[0] * alpha[0] + alpha[1] * alpha[1]);
        let (mut z, mut squares) = ([Complex64::from(1.0); POWERS], [1.0; POWERS / 2 + 1]);
        let last = usize::from(highest.min(HIGHEST_ORDER)) + 1;
        for i in 1..=last {
            z[i] = z[i - 1] * base;
        }
        for i in 1..=last / 2 {
            squares[i] = squares[i - 1] * square;
        }
        Self { alpha, z, squares }
    }
}

/// The aberrations of a probe: terms in the order of `m`, then `n`, none twice.
///
/// In files they are a table of names and Å: `C10 = -1500.0`, `C12a = 104.0`, `C12b = 60.0`, `C30 = 1e7`; the letter
/// tells the cosine from the sine part.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "std::collections::BTreeMap<String, f64>", into = "std::collections::BTreeMap<String, f64>")]
pub struct Aberrations {
    terms: Vec<Term>,
}

impl Aberrations {
    /// Collects terms.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) when a term is not valid (see [`Term::new`]) or comes twice.
    pub fn new(terms: impl IntoIterator<Item = Term>) -> Result<Self> {
        let mut all = Self::default();
        for term in terms {
            let term = Term::new(term.m, term.n, term.a, term.b)?;
            match all.place(term.m, term.n) {
                Ok(_) => return Err(Error::config(format!("the aberration C{}{} comes twice", term.m, term.n))),
                Err(place) => all.terms.insert(place, term),
            }
        }
        Ok(all)
    }

    /// Defocus (as C10, its negative) and twofold astigmatism in Å.
    pub fn quadratic(c10: f64, c12: [f64; 2]) -> Self {
        Self { terms: vec![Term { m: 1, n: 0, a: c10, b: 0.0 }, Term { m: 1, n: 2, a: c12[0], b: c12[1] }] }
    }

    /// A single valid term.
    pub(crate) fn of_term(term: Term) -> Self {
        Self { terms: vec![term] }
    }

    fn place(&self, m: u8, n: u8) -> std::result::Result<usize, usize> {
        self.terms.binary_search_by_key(&(m, n), |t| (t.m, t.n))
    }

    /// The terms, by `m`, then by `n`.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Cosine and sine part of one term in Å, zero where there is none.
    pub fn get(&self, m: u8, n: u8) -> [f64; 2] {
        self.place(m, n).map_or([0.0; 2], |at| [self.terms[at].a, self.terms[at].b])
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for term in &other.terms {
            match sum.place(term.m, term.n) {
                Ok(at) => (sum.terms[at].a, sum.terms[at].b) = (sum.terms[at].a + term.a, sum.terms[at].b + term.b),
                Err(at) => sum.terms.insert(at, *term),
            }
        }
        sum
    }

    /// The terms of orders above `m`.
    #[must_use]
    pub fn above(&self, m: u8) -> Self {
        Self { terms: self.terms.iter().filter(|t| t.m > m).copied().collect() }
    }

    /// The aberrations that, with the detector turned by another 180°, displace all images alike: seen in the turned
    /// axes, with the opposite sign. Even orders change their sign, odd ones do not.
    #[must_use]
    pub fn other_branch(&self) -> Self {
        let negated = |t: &Term| if t.is_even() { Term { a: -t.a, b: -t.b, ..*t } } else { *t };
        Self { terms: self.terms.iter().map(negated).collect() }
    }

    /// The phase `χ` in radians at `alpha`.
    pub fn chi(&self, alpha: [f64; 2], wavelength_angstrom: f64) -> f64 {
        self.chi_of(alpha, wavelength_angstrom, |_| true)
    }

    /// The part of `χ` that is the same at `alpha` and `-alpha`: defocus, astigmatism, spherical aberration, ….
    pub fn chi_even(&self, alpha: [f64; 2], wavelength_angstrom: f64) -> f64 {
        self.chi_of(alpha, wavelength_angstrom, Term::is_even)
    }

    /// The part of `χ` that changes its sign with `alpha`: coma, threefold astigmatism, ….
    pub fn chi_odd(&self, alpha: [f64; 2], wavelength_angstrom: f64) -> f64 {
        self.chi_of(alpha, wavelength_angstrom, |term| !term.is_even())
    }

    fn chi_of(&self, alpha: [f64; 2], wavelength_angstrom: f64, chosen: impl Fn(&Term) -> bool) -> f64 {
        let powers = self.powers(alpha);
        TAU / wavelength_angstrom * self.terms.iter().filter(|t| chosen(t)).map(|t| t.path_at(&powers)).sum::<f64>()
    }

    /// `∇χ / 2π` (the slope by `k = alpha / λ`) in Å: the shift that brings the virtual image of `alpha` onto the axial
    /// one. The image itself is displaced by the negative of it.
    pub fn gradient(&self, alpha: [f64; 2]) -> [f64; 2] {
        let powers = self.powers(alpha);
        self.terms.iter().map(|t| t.gradient_at(&powers)).fold([0.0; 2], |sum, g| [sum[0] + g[0], sum[1] + g[1]])
    }

    fn powers(&self, alpha: [f64; 2]) -> Powers {
        Powers::new(alpha, self.terms.last().map_or(0, |t| t.m))
    }

    /// The same aberrations seen in axes that are rotated by `angle` (from row towards column):
    /// `rotated(angle).chi(α) = chi(R(angle) α)`, `R = [[cos, -sin], [sin, cos]]`.
    #[must_use]
    pub fn rotated(&self, angle_rad: f64) -> Self {
        let turned = |t: &Term| t.with_complex(t.complex() * Complex64::cis(f64::from(t.n) * angle_rad));
        Self { terms: self.terms.iter().map(turned).collect() }
    }

    /// The same aberrations seen in axes that are exchanged: `transposed().chi([r, c]) = chi([c, r])`.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let quarter = [[1.0, 0.0], [0.0, -1.0], [-1.0, 0.0], [0.0, 1.0]].map(|[re, im]| Complex64::new(re, im));
        let turned = |t: &Term| t.with_complex(t.complex().conj() * quarter[usize::from(t.n % 4)]);
        Self { terms: self.terms.iter().map(turned).collect() }
    }
}

#[cfg(test)]
mod tests;
