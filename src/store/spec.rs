//! What arrays look like, and their Zarr metadata.

use serde_json::{Value, json};

use crate::axes::DType;

/// What stands between the indices in the name of a chunk file. A folder for each index would be made, brought to the disk
/// and deleted again; on scans of a second that took a tenth of the time.
pub(super) const FLAT: char = '.';
/// What stood there before, and stands where Zarr metadata say nothing.
const NESTED: char = '/';

/// The type of stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// A real or integer sample.
    Sample(DType),
    /// Two `f32`: real and imaginary part.
    Complex64,
    /// Two `f64`.
    Complex128,
}

impl StoredType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::Sample(dtype) => dtype.size(),
            Self::Complex64 => 8,
            Self::Complex128 => 16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sample(dtype) => dtype.name(),
            Self::Complex64 => "complex64",
            Self::Complex128 => "complex128",
        }
    }

    fn fill_value(self) -> Value {
        match self {
            Self::Sample(dtype) if dtype.is_float() => json!(0.0),
            Self::Sample(_) => json!(0),
            Self::Complex64 | Self::Complex128 => json!([0.0, 0.0]),
        }
    }
}

/// What an array looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArraySpec {
    /// Name within the group.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Length of each axis in one chunk.
    pub chunk: Vec<usize>,
    /// Type of the numbers.
    pub stored: StoredType,
    /// The axes in the order in which they lie in a chunk file, slowest first, when not their own order.
    pub memory_order: Option<Vec<usize>>,
    /// Names of the axes.
    pub dims: Vec<String>,
}

impl ArraySpec {
    /// An array in one chunk, in its own axis order.
    pub fn plain(name: &str, shape: &[usize], dtype: DType, dims: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            chunk: shape.to_vec(),
            stored: StoredType::Sample(dtype),
            memory_order: None,
            dims: dims.iter().map(|&d| d.to_owned()).collect(),
        }
    }

    /// Bytes of one chunk file.
    pub fn chunk_bytes(&self) -> usize {
        // Saturating: the shape may come from a damaged cache, whose chunk files are compared with this length.
        self.chunk.iter().fold(self.stored.size(), |bytes, n| bytes.saturating_mul(*n))
    }

    /// Bytes of all chunk files.
    pub fn total_bytes(&self) -> u64 {
        let chunks: usize = self.shape.iter().zip(&self.chunk).map(|(n, c)| n.div_ceil(*c)).product();
        chunks as u64 * self.chunk_bytes() as u64
    }

    /// The array's Zarr metadata.
    pub(super) fn metadata(&self) -> Value {
        let mut codecs = Vec::new();
        if let Some(order) = &self.memory_order {
            codecs.push(json!({"name": "transpose", "configuration": {"order": order}}));
        }
        codecs.push(json!({"name": "bytes", "configuration": {"endian": "little"}}));
        json!({
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.shape,
            "data_type": self.stored.name(),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": FLAT.to_string()}},
            "fill_value": self.stored.fill_value(),
            "codecs": codecs,
            "dimension_names": self.dims,
        })
    }

    /// What Zarr metadata say; `None` when they are not laid out as this module writes them.
    pub(super) fn from_metadata(name: &str, metadata: &Value) -> Option<Self> {
        let numbers = |value: &Value| -> Option<Vec<usize>> {
            value.as_array()?.iter().map(|n| n.as_u64().map(|n| n as usize)).collect()
        };
        let codecs = metadata["codecs"].as_array()?;
        let codec_name = |codec: &Value| codec["name"].as_str().or(codec.as_str()).map(str::to_owned);
        let memory_order = match codecs.len() {
            1 => None,
            2 if codec_name(&codecs[0])? == "transpose" => Some(numbers(&codecs[0]["configuration"]["order"])?),
            _ => return None,
        };
        if codec_name(codecs.last()?)? != "bytes" {
            return None;
        }
        let stored = match metadata["data_type"].as_str()? {
            "complex64" => StoredType::Complex64,
            "complex128" => StoredType::Complex128,
            other => StoredType::Sample(serde_json::from_value(json!(short_name(other)?)).ok()?),
        };
        let dims = metadata["dimension_names"].as_array()?.iter().map(|d| d.as_str().unwrap_or("").to_owned());
        Some(Self {
            name: name.to_owned(),
            shape: numbers(&metadata["shape"])?,
            chunk: numbers(&metadata["chunk_grid"]["configuration"]["chunk_shape"])?,
            stored,
            memory_order,
            dims: dims.collect(),
        })
    }
}

/// What stands between the indices in the names of an array's chunk files; `None` for names that this module does not know.
pub(super) fn separator(metadata: &Value) -> Option<char> {
    let encoding = &metadata["chunk_key_encoding"];
    if encoding["name"].as_str().or(encoding.as_str())? != "default" {
        return None;
    }
    match encoding["configuration"]["separator"].as_str() {
        None | Some("/") => Some(NESTED),
        Some(".") => Some(FLAT),
        Some(_) => None,
    }
}

/// serde's name of a [`DType`] from Zarr's: `uint16` → `u16`.
fn short_name(name: &str) -> Option<String> {
    for (long, short) in [("uint", "u"), ("int", "i"), ("float", "f")] {
        if let Some(bits) = name.strip_prefix(long) {
            return Some(format!("{short}{bits}"));
        }
    }
    None
}
