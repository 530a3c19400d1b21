//! Aberrations by name, in files and for people.

use std::collections::BTreeMap;
use std::fmt;

use super::{Aberrations, Term};
use crate::error::{Error, Result};

/// `C12b` → `(1, 2, Some('b'))`.
fn parse_name(name: &str) -> Result<(u8, u8, Option<char>)> {
    let unknown = || {
        Error::config(format!("`{name}` is not the name of an aberration"))
            .with_hint("names are C10, C30, … for round ones and C12a, C12b, C21a, … (cosine and sine part) for others")
    };
    let mut letters = name.chars();
    let digit = |c: Option<char>| c.and_then(|c| c.to_digit(10)).map(|d| d as u8).ok_or_else(unknown);
    if !matches!(letters.next(), Some('C' | 'c')) {
        return Err(unknown());
    }
    let (m, n) = (digit(letters.next())?, digit(letters.next())?);
    let part = letters.next();
    if letters.next().is_some() || !matches!(part, None | Some('a' | 'b')) {
        return Err(unknown());
    }
    Ok((m, n, part))
}

impl Aberrations {
    /// Aberrations from names and Å: `C10`, `C12a`, `C12b`, `C30`, ….
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config) for an unknown name, a name that comes twice, or a number that is not
    /// finite.
    pub fn from_named<S: AsRef<str>>(values: impl IntoIterator<Item = (S, f64)>) -> Result<Self> {
        let mut parts: BTreeMap<(u8, u8), [Option<f64>; 2]> = BTreeMap::new();
        for (name, value) in values {
            let name = name.as_ref();
            let (m, n, part) = parse_name(name)?;
            Term::new(m, n, value, 0.0)?;
            let slot = match (n, part) {
                (0, None) | (1.., Some('a')) => 0,
                (1.., Some(_)) => 1,
                (0, Some(_)) => return Err(Error::config(format!("`{name}`: a round aberration has one part, C{m}0"))),
                (1.., None) => {
                    return Err(Error::config(format!("`{name}` alone says no direction"))
                        .with_hint(format!("give `{name}a` (cosine part) and `{name}b` (sine part)")));
                }
            };
            if parts.entry((m, n)).or_default()[slot].replace(value).is_some() {
                return Err(Error::config(format!("`{name}` comes twice")));
            }
        }
        let terms = parts.into_iter().map(|((m, n), [a, b])| Term { m, n, a: a.unwrap_or(0.0), b: b.unwrap_or(0.0) });
        Self::new(terms)
    }

    /// Aberrations from texts: `C30=1e7`, `C12a=104`, or `C12=120@30` with a magnitude in Å and a direction in degrees.
    ///
    /// # Errors
    /// As [`from_named`](Self::from_named).
    pub fn parse<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut named = Vec::new();
        for text in texts {
            let text = text.as_ref();
            let bad = || {
                Error::config(format!("`{text}` is not an aberration"))
                    .with_hint("write C30=1e7, C12a=104 or, with a direction in degrees, C12=120@30 (all in Å)")
            };
            let (name, value) = text.split_once('=').ok_or_else(bad)?;
            let number = |text: &str| text.trim().parse::<f64>().map_err(|_| bad());
            let name = name.trim();
            let Some((magnitude, angle)) = value.split_once('@') else {
                named.push((name.to_owned(), number(value)?));
                continue;
            };
            let (m, n, None) = parse_name(name)? else { return Err(bad()) };
            let term = Term::polar(m, n, number(magnitude)?, number(angle)?.to_radians())?;
            named.extend(term.named());
        }
        Self::from_named(named)
    }
}

impl Term {
    /// `C30`, `C12`, …, without the letter of a part.
    pub fn name(&self) -> String {
        format!("C{}{}", self.m, self.n)
    }

    fn named(&self) -> Vec<(String, f64)> {
        let name = self.name();
        if self.n == 0 { vec![(name, self.a)] } else { vec![(format!("{name}a"), self.a), (name + "b", self.b)] }
    }
}

impl From<Aberrations> for BTreeMap<String, f64> {
    fn from(aberrations: Aberrations) -> Self {
        aberrations.terms.iter().flat_map(Term::named).collect()
    }
}

impl TryFrom<BTreeMap<String, f64>> for Aberrations {
    type Error = Error;

    fn try_from(named: BTreeMap<String, f64>) -> Result<Self> {
        Self::from_named(named)
    }
}

impl fmt::Display for Term {
    /// `C12 = 120 Å at 30.0°`, `C30 = 1.20 mm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.magnitude();
        write!(f, "{} = ", self.name())?;
        match value.abs() {
            size if size < 100.0 => write!(f, "{value:.1} Å")?,
            size if size < 1e4 => write!(f, "{value:.0} Å")?,
            size if size < 1e7 => write!(f, "{:.2} µm", value / 1e4)?,
            _ => write!(f, "{:.2} mm", value / 1e7)?,
        }
        if self.n > 0 { write!(f, " at {:.1}°", self.angle().to_degrees()) } else { Ok(()) }
    }
}

impl fmt::Display for Aberrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            write!(f, "{}{term}", if i == 0 { "" } else { ", " })?;
        }
        if self.terms.is_empty() { write!(f, "none") } else { Ok(()) }
    }
}
