//! `[reconstruct]`: how the image is put together.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Config;
use crate::axes::Calibration;
use crate::error::Error;

/// More depths than this are a slip of the pen.
const MOST_DEPTHS: usize = 64;

/// `[reconstruct]`: how the image is put together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReconstructConfig {
    /// Output pixels per scan step.
    pub upscale: Upscale,
    /// How samples are merged.
    pub merge: Merge,
    /// Sigma of the Gaussian that the bilinear merge puts over value and weight, in scan pixels.
    pub kde_sigma: f64,
    /// Whether phase contrast is made beside the plain image.
    pub contrast: Contrast,
    /// Defocus offsets in Å at which further images are made.
    pub depths_angstrom: Vec<f64>,
    /// Half-width of the square of detector pixels that are used, around the crop's centre.
    pub detector_radius: usize,
    /// Detector pixels with a quality above this are used.
    pub quality_threshold: f64,
}

impl Default for ReconstructConfig {
    fn default() -> Self {
        Self {
            upscale: Upscale::Auto,
            merge: Merge::Auto,
            kde_sigma: 0.125,
            contrast: Contrast::Auto,
            depths_angstrom: Vec::new(),
            detector_radius: 16,
            quality_threshold: 0.8,
        }
    }
}

/// Output pixels per scan step: a whole number or `"auto"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Upscale {
    /// Chosen by the method; 4 for the classic one.
    #[default]
    Auto,
    /// This many.
    Factor(usize),
}

impl Serialize for Upscale {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Factor(factor) => serializer.serialize_u64(*factor as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Upscale {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl Visitor {
            fn factor<E: serde::de::Error>(value: i128) -> Result<Upscale, E> {
                match usize::try_from(value) {
                    Ok(factor @ 1..=32) => Ok(Upscale::Factor(factor)),
                    _ => {
                        Err(E::custom(format!("upscale must be \"auto\" or a whole number from 1 to 32, not {value}")))
                    }
                }
            }
        }
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Upscale;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a whole number from 1 to 32")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Upscale, E> {
                if text == "auto" {
                    Ok(Upscale::Auto)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Upscale, E> {
                Self::factor(value.into())
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Upscale, E> {
                Self::factor(value.into())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// How samples are merged into the output image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Merge {
    /// `fourier` for the parametric alignment, `nearest` for the classic one.
    #[default]
    Auto,
    /// Each sample goes to the nearest output pixel.
    Nearest,
    /// Each sample is shared among the four nearest output pixels, then value is divided by weight.
    Bilinear,
    /// Images are shifted and averaged in the Fourier domain: exact below a pixel, without holes.
    Fourier,
}

/// Whether phase contrast is made beside the plain image: `true`, `false` or `"auto"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Contrast {
    /// Where fitted aberrations and a calibration say how.
    #[default]
    Auto,
    /// Yes; without aberrations and calibration that is an error.
    On,
    /// No.
    Off,
}

impl Serialize for Contrast {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::On => serializer.serialize_bool(true),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Contrast {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Contrast;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false or \"auto\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Contrast, E> {
                if text == "auto" {
                    Ok(Contrast::Auto)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Contrast, E> {
                Ok(if on { Contrast::On } else { Contrast::Off })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Config {
    /// How samples are merged, never [`Auto`](Merge::Auto).
    pub fn merge(&self) -> Merge {
        match self.reconstruct.merge {
            Merge::Auto if self.is_parametric() => Merge::Fourier,
            Merge::Auto => Merge::Nearest,
            chosen => chosen,
        }
    }

    /// Refuses, before any work, what a run without a complete calibration could not make at its end. To be asked once the
    /// file's calibration has filled the gaps.
    ///
    /// # Errors
    /// [`Config`](crate::error::ErrorKind::Config).
    pub fn check_calibration(&self) -> crate::error::Result<()> {
        match (self.needs_optics(), missing(&self.calibration)) {
            (Some(key), Some(missing)) => Err(Error::config(format!("`{key}` needs {missing}"))
                .with_hint("give the calibration of the microscope, or leave the key out")),
            _ => Ok(()),
        }
    }

    /// The key that cannot do without fitted aberrations and a calibration, where one is set.
    fn needs_optics(&self) -> Option<&'static str> {
        let r = &self.reconstruct;
        if r.contrast == Contrast::On {
            Some("reconstruct.contrast = true")
        } else {
            (!r.depths_angstrom.is_empty()).then_some("reconstruct.depths_angstrom")
        }
    }

    pub(super) fn check_reconstruct(&self) -> crate::error::Result<()> {
        let r = &self.reconstruct;
        if !r.quality_threshold.is_finite() {
            return Err(Error::config("reconstruct.quality_threshold must be a finite number"));
        }
        if !(r.kde_sigma.is_finite() && (0.0..=10.0).contains(&r.kde_sigma)) {
            return Err(Error::config(format!(
                "reconstruct.kde_sigma must be between 0 and 10 scan pixels, found {}",
                r.kde_sigma
            )));
        }
        if let Some(depth) = r.depths_angstrom.iter().find(|d| !(d.is_finite() && d.abs() <= 1e6)) {
            return Err(Error::config(format!(
                "reconstruct.depths_angstrom must be numbers between -1e6 and 1e6 Å, found {depth}"
            )));
        }
        if r.depths_angstrom.len() > MOST_DEPTHS {
            return Err(Error::config(format!(
                "reconstruct.depths_angstrom may have {MOST_DEPTHS} depths at most, found {}",
                r.depths_angstrom.len()
            )));
        }
        let Some(key) = self.needs_optics() else { return Ok(()) };
        if !self.is_parametric() {
            return Err(Error::config(format!("`{key}` needs fitted aberrations"))
                .with_hint("use `--set align.method=parametric`"));
        }
        if self.merge() == Merge::Nearest {
            return Err(Error::config(format!("`{key}` cannot be made with `reconstruct.merge = \"nearest\"`"))
                .with_hint("use `--set reconstruct.merge=fourier`"));
        }
        Ok(())
    }
}

/// What of a calibration the optics of an image lack.
fn missing(c: &Calibration) -> Option<&'static str> {
    if c.energy_ev.is_none() {
        Some("`calibration.energy_ev`")
    } else if c.scan_step_angstrom.is_none() {
        Some("`calibration.scan_step_angstrom`")
    } else if c.detector_mrad_per_px.is_none() && c.semiangle_mrad.is_none() {
        Some("`calibration.detector_mrad_per_px` or `calibration.semiangle_mrad`")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_merge_follows_the_method_unless_it_is_chosen() {
        let set = |settings: &[&str]| Config::default().with_settings(settings.iter().copied()).map(|c| c.merge());
        assert_eq!(set(&["align.method=classic"]).ok(), Some(Merge::Nearest));
        assert_eq!(set(&[]).ok(), Some(Merge::Fourier));
        assert_eq!(set(&["align.method=parametric", "reconstruct.merge=bilinear"]).ok(), Some(Merge::Bilinear));
    }

    #[test]
    fn what_cannot_be_made_is_refused_beforehand() {
        for bad in [
            &["reconstruct.kde_sigma=-1"][..],
            &["reconstruct.kde_sigma=nan"],
            &["reconstruct.contrast=maybe"],
            &["align.method=classic", "reconstruct.contrast=true"],
            &["align.method=classic", "reconstruct.depths_angstrom=[100]"],
            &["align.method=parametric", "reconstruct.depths_angstrom=[inf]"],
            &["align.method=parametric", "reconstruct.contrast=true", "reconstruct.merge=nearest"],
        ] {
            assert_eq!(
                Config::default().with_settings(bad.iter().copied()).map_err(|e| e.exit_code()),
                Err(2),
                "{bad:?}"
            );
        }
        let good = ["align.method=parametric", "reconstruct.contrast=true", "reconstruct.depths_angstrom=[-50, 50.5]"];
        let config = Config::default().with_settings(good).expect("valid");
        assert_eq!(config.reconstruct.depths_angstrom, [-50.0, 50.5]);
        let c = Calibration { energy_ev: Some(8e4), scan_step_angstrom: Some(4.0), ..Calibration::default() };
        let mut config = Config { calibration: c, ..config };
        assert_eq!(config.check_calibration().map_err(|e| e.exit_code()), Err(2));
        config.calibration.semiangle_mrad = Some(10.0);
        assert!(config.check_calibration().is_ok());
    }
}
