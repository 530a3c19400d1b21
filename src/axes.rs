//! Names for the four axes of a scan, its sample types and its calibration.
//!
//! A dataset is always `[scan row, scan column, detector row, detector column]` in C order and in file
//! orientation: the first row of the file is row 0 and nothing is flipped.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Rows and columns of the scan (real space).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScanShape {
    /// Scan rows, the slow axis.
    pub rows: usize,
    /// Scan columns, the fast axis.
    pub cols: usize,
}

/// Rows and columns of the detector (reciprocal space).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DetShape {
    /// Detector rows.
    pub rows: usize,
    /// Detector columns, contiguous in every file.
    pub cols: usize,
}

macro_rules! shape {
    ($name:ident, $new:literal) => {
        impl $name {
            #[doc = $new]
            pub fn new(rows: usize, cols: usize) -> Self {
                Self { rows, cols }
            }

            /// Rows times columns.
            pub fn len(self) -> usize {
                self.rows * self.cols
            }

            /// Whether an axis has no elements.
            pub fn is_empty(self) -> bool {
                self.len() == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}×{}", self.rows, self.cols)
            }
        }
    };
}
shape!(ScanShape, "A scan of `rows` × `cols` positions.");
shape!(DetShape, "A detector of `rows` × `cols` pixels.");

/// The rectangle of detector pixels that takes part: rows `[row0, row1)`, columns `[col0, col1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Crop {
    /// First detector row.
    pub row0: usize,
    /// One past the last detector row.
    pub row1: usize,
    /// First detector column.
    pub col0: usize,
    /// One past the last detector column.
    pub col1: usize,
}

impl Crop {
    /// The whole detector.
    pub fn full(det: DetShape) -> Self {
        Self { row0: 0, row1: det.rows, col0: 0, col1: det.cols }
    }

    /// Shape of the rectangle.
    pub fn shape(self) -> DetShape {
        DetShape::new(self.row1 - self.row0, self.col1 - self.col0)
    }

    /// The bounds as the documented layout stores them: `[y1, y2, x1, x2]`.
    pub fn bounds(self) -> [usize; 4] {
        [self.row0, self.row1, self.col0, self.col1]
    }
}

/// A pattern on the detector or an image on the scan, `[rows, cols]` in C order.
pub type Image = ndarray::Array2<f64>;

/// The type of one stored sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum DType {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
}

impl DType {
    /// Bytes of one sample.
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Whether samples are floating-point numbers (and may be NaN).
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// Bytes of a number that holds the sum of `count` samples exactly: 4 (`u32`) where they are unsigned integers of up
    /// to 16 bits and not too many, otherwise 8 (`f64`, which is exact for integers up to 2⁵³).
    pub fn sum_bytes(self, count: usize) -> usize {
        let largest = match self {
            Self::U8 => u32::from(u8::MAX),
            Self::U16 => u32::from(u16::MAX),
            _ => return 8,
        };
        if count as u64 <= u64::from(u32::MAX / largest) { 4 } else { 8 }
    }

    /// numpy's name: `uint16`, `float32` …
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }
}

/// The smallest and the largest of some whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountRange {
    /// The smallest.
    pub least: i64,
    /// The largest.
    pub most: i64,
}

impl CountRange {
    /// The range of both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    /// The smallest type that holds such counts with a quarter to spare, where it has fewer bits than `dtype`.
    pub fn narrow_type(self, dtype: DType) -> Option<DType> {
        let fits =
            |narrow: &(DType, i64)| narrow.0.size() < dtype.size() && self.least >= 0 && self.most <= narrow.1 / 4 * 3;
        let types = [(DType::U8, i64::from(u8::MAX)), (DType::U16, i64::from(u16::MAX))];
        types.into_iter().filter(|_| !dtype.is_float()).find(fits).map(|(narrow, _)| narrow)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Byte order of stored samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endian {
    /// Least significant byte first (npy `<`, most HDF5 files).
    Little,
    /// Most significant byte first (Merlin, npy `>`).
    Big,
}

/// A Rust number that a stack may hold. Implemented for the types of [`DType`]; sealed by [`bytemuck::Pod`] use.
pub trait Sample: bytemuck::Pod + Send + Sync + PartialOrd + Default + 'static {
    /// The type's name on disk.
    const DTYPE: DType;
    /// Whether every value fits in an `i32` and in the 24 bits of an `f32` exactly (integers of up to 16 bits).
    const SMALL: bool;
    /// The number as f64 (exact for all but the largest 64-bit integers).
    fn to_f64(self) -> f64;
    /// The number as i32: exact for [`SMALL`](Self::SMALL) types, meaningless for others.
    fn to_i32(self) -> i32;
    /// The same number with its bytes in the opposite order.
    #[must_use]
    fn swap_bytes(self) -> Self;
    /// Whether this is neither NaN nor infinite; always true for integers.
    fn is_finite(self) -> bool;
}

macro_rules! sample_int {
    ($($t:ty => $d:ident),*) => {$(
        impl Sample for $t {
            const DTYPE: DType = DType::$d;
            const SMALL: bool = size_of::<$t>() <= 2;
            #[inline(always)]
            fn to_f64(self) -> f64 { self as f64 }
            #[inline(always)]
            fn to_i32(self) -> i32 { self as i32 }
            #[inline(always)]
            fn swap_bytes(self) -> Self { <$t>::swap_bytes(self) }
            #[inline(always)]
            fn is_finite(self) -> bool { true }
        }
    )*};
}
sample_int!(u8 => U8, u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32, i64 => I64);

macro_rules! sample_float {
    ($($t:ty => $d:ident),*) => {$(
        impl Sample for $t {
            const DTYPE: DType = DType::$d;
            const SMALL: bool = false;
            #[inline(always)]
            fn to_f64(self) -> f64 { self as f64 }
            #[inline(always)]
            fn to_i32(self) -> i32 { self as i32 }
            #[inline(always)]
            fn swap_bytes(self) -> Self { Self::from_bits(self.to_bits().swap_bytes()) }
            #[inline(always)]
            fn is_finite(self) -> bool { <$t>::is_finite(self) }
        }
    )*};
}
sample_float!(f32 => F32, f64 => F64);

/// Runs `$body` with `$T` bound to the Rust type that a [`DType`] names.
#[macro_export]
macro_rules! with_sample_type {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::axes::DType::U8 => {
                type $T = u8;
                $body
            }
            $crate::axes::DType::U16 => {
                type $T = u16;
                $body
            }
            $crate::axes::DType::U32 => {
                type $T = u32;
                $body
            }
            $crate::axes::DType::U64 => {
                type $T = u64;
                $body
            }
            $crate::axes::DType::I8 => {
                type $T = i8;
                $body
            }
            $crate::axes::DType::I16 => {
                type $T = i16;
                $body
            }
            $crate::axes::DType::I32 => {
                type $T = i32;
                $body
            }
            $crate::axes::DType::I64 => {
                type $T = i64;
                $body
            }
            $crate::axes::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::axes::DType::F64 => {
                type $T = f64;
                $body
            }
        }
    };
}

/// Physical units of a scan, as far as the file or the user says. Unknown values stay `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calibration {
    /// Beam energy in eV.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_ev: Option<f64>,
    /// Convergence semi-angle in mrad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub semiangle_mrad: Option<f64>,
    /// Distance between neighbouring scan positions in Å.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan_step_angstrom: Option<f64>,
    /// Angle between neighbouring detector pixels in mrad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detector_mrad_per_px: Option<f64>,
    /// Rotation from detector to scan axes in degrees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_deg: Option<f64>,
    /// Defocus (`-C10`) in Å.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defocus_angstrom: Option<f64>,
}

impl Calibration {
    /// These values, with the gaps filled from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            energy_ev: self.energy_ev.or(other.energy_ev),
            semiangle_mrad: self.semiangle_mrad.or(other.semiangle_mrad),
            scan_step_angstrom: self.scan_step_angstrom.or(other.scan_step_angstrom),
            detector_mrad_per_px: self.detector_mrad_per_px.or(other.detector_mrad_per_px),
            rotation_deg: self.rotation_deg.or(other.rotation_deg),
            defocus_angstrom: self.defocus_angstrom.or(other.defocus_angstrom),
        }
    }

    /// Angle per detector pixel in mrad: given, or from the semi-angle and the disk's radius in pixels.
    pub fn pixel_mrad(&self, radius: f64) -> Option<f64> {
        self.detector_mrad_per_px.or_else(|| self.semiangle_mrad.map(|angle| angle / radius))
    }

    /// Whether frequencies of the scan can be put on the detector: the beam energy, the scan step, and the angle of a detector
    /// pixel or that of the whole disk are known.
    pub fn is_complete(&self) -> bool {
        [self.energy_ev, self.scan_step_angstrom, self.pixel_mrad(1.0)].iter().all(Option::is_some)
    }
}

/// Relativistic electron wavelength in Å for a beam energy in eV (`12.26426 / sqrt(E (1 + 0.978475e-6 E))`).
pub fn wavelength_angstrom(energy_ev: f64) -> f64 {
    12.264_26 / (energy_ev * (1.0 + 0.978_475e-6 * energy_ev)).sqrt()
}

/// What the two axes of a result stand for, hence what its pixels measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// One pixel per scan position.
    Scan,
    /// `upscale` × `upscale` pixels per scan position.
    Superres,
    /// The whole detector.
    Detector,
    /// The cropped detector.
    Crop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wavelengths_agree_with_the_tables() {
        assert!((wavelength_angstrom(300e3) - 0.019_687).abs() < 1e-6);
        assert!((wavelength_angstrom(80e3) - 0.041_757).abs() < 1e-6);
    }

    #[test]
    fn counts_get_a_smaller_type_only_with_room_to_spare() {
        let of = |dtype, least, most| CountRange { least, most }.narrow_type(dtype);
        assert_eq!(of(DType::U16, 0, 189), Some(DType::U8));
        assert_eq!(of(DType::U16, 0, 190), None, "two bytes already");
        assert_eq!(of(DType::U32, 0, 190), Some(DType::U16));
        assert_eq!(of(DType::I64, 0, 49_149), Some(DType::U16));
        assert_eq!(of(DType::I64, 0, 49_152), None);
        assert_eq!(of(DType::I16, -1, 5), None, "negative numbers");
        assert_eq!((of(DType::U8, 0, 1), of(DType::I8, 0, 1), of(DType::F32, 0, 1)), (None, None, None));
        let both = CountRange { least: 0, most: 3 }.or(CountRange { least: -2, most: 2 });
        assert_eq!(both, CountRange { least: -2, most: 3 });
    }

    #[test]
    fn the_file_fills_only_what_the_user_leaves_open() {
        let user = Calibration { energy_ev: Some(8e4), ..Calibration::default() };
        let file = Calibration { energy_ev: Some(3e5), rotation_deg: Some(4.0), ..Calibration::default() };
        let both = user.or(file);
        assert_eq!((both.energy_ev, both.rotation_deg), (Some(8e4), Some(4.0)));
    }
}
