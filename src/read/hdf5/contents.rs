//! Lists what an HDF5 file holds and chooses the dataset to read.

use std::path::Path;

use hdf5::datatype::ByteOrder;
use hdf5::types::{FloatSize, IntSize, TypeDescriptor};
use hdf5::{Dataset, File, Group, LinkType, LocationType};

use super::values::{attr_number, number};
use crate::axes::{DType, Endian};
use crate::error::{Error, Result};

/// A file with more objects or deeper groups than this is not searched further.
const MOST_OBJECTS: usize = 20_000;
const DEEPEST: usize = 12;

/// Names under which programs store the beam energy or the accelerating voltage.
const ENERGY_NAMES: [&str; 7] =
    ["beam_energy", "accelerating_voltage", "voltage", "energy", "high_tension", "acceleration_voltage", "E"];

/// One dataset of the file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Absolute path inside the file.
    pub(super) path: String,
    pub(super) shape: Vec<usize>,
    /// Type and byte order of a sample, when it is a real number of a common size.
    pub(super) sample: Option<(DType, Endian)>,
}

impl Entry {
    /// What a dataset is, from its header.
    pub(super) fn of(dataset: &Dataset, path: &str) -> Self {
        Self { path: path.to_owned(), shape: dataset.shape(), sample: sample_type(dataset) }
    }

    fn describe(&self) -> String {
        let kind = self.sample.map_or("other", |(dtype, _)| dtype.name());
        format!("{} {:?} {kind}", self.path, self.shape)
    }
}

/// What the walk through a file has found.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) datasets: Vec<Entry>,
    /// Beam energy in eV.
    pub(super) energy_ev: Option<f64>,
    visited: usize,
}

impl Contents {
    /// Walks through all groups; links to other files and broken ones are left out.
    pub(super) fn of(file: &File) -> Self {
        let mut contents = Self::default();
        contents.walk(file, "", 0);
        contents
    }

    fn walk(&mut self, group: &Group, path: &str, depth: usize) {
        self.note_energy(group, path);
        let mut names = Vec::new();
        // A group that cannot be listed is treated as empty: the file may be damaged elsewhere only.
        let _ = group.iter_visit_default(|name, info| {
            if info.link_type == LinkType::Hard {
                names.push(name.to_owned());
            }
            Ok(())
        });
        for name in names {
            self.visited += 1;
            if self.visited > MOST_OBJECTS {
                return;
            }
            let child = format!("{path}/{name}");
            match group.loc_type_by_name(&name) {
                Ok(LocationType::Group) if depth < DEEPEST => {
                    if let Ok(inner) = group.group(&name) {
                        self.walk(&inner, &child, depth + 1);
                    }
                }
                Ok(LocationType::Dataset) => {
                    if let Ok(dataset) = group.dataset(&name) {
                        if dataset.is_scalar() && ENERGY_NAMES.contains(&name.as_str()) {
                            self.energy_ev = self.energy_ev.or_else(|| number(&dataset).and_then(electron_volts));
                        }
                        self.datasets.push(Entry::of(&dataset, &child));
                    }
                }
                _ => {}
            }
        }
    }

    fn note_energy(&mut self, group: &Group, path: &str) {
        // `E` is a name for anything, except among the parameters of a simulation.
        let simulation = path.ends_with("simulation_parameters");
        let names = ENERGY_NAMES.iter().filter(|name| simulation || name.len() > 1);
        let found = names.filter_map(|name| attr_number(group, name)).find_map(electron_volts);
        self.energy_ev = self.energy_ev.or(found);
    }

    /// The dataset to read: the only 4-D one, or the only 3-D one when there is none.
    pub(super) fn choose(&self, path: &Path) -> Result<&Entry> {
        let of_rank = |rank: usize| {
            let fits = move |e: &&Entry| e.shape.len() == rank && e.sample.is_some() && !e.shape.contains(&0);
            self.datasets.iter().filter(fits).collect::<Vec<_>>()
        };
        for rank in [4, 3] {
            match of_rank(rank)[..] {
                [] => {}
                [only] => return Ok(only),
                ref several => return Err(ask(path, several, rank)),
            }
        }
        Err(self.nothing(path))
    }

    fn nothing(&self, path: &Path) -> Error {
        let mut arrays: Vec<&Entry> = self.datasets.iter().filter(|e| !e.shape.is_empty()).collect();
        arrays.sort_by_key(|e| std::cmp::Reverse(e.shape.len()));
        let list: Vec<_> = arrays.iter().take(8).map(|e| e.describe()).collect();
        let found = match (list.is_empty(), arrays.len() > list.len()) {
            (true, _) => "a file without arrays".to_owned(),
            (false, false) => format!("only {}", list.join(", ")),
            (false, true) => format!("only {} and {} more", list.join(", "), arrays.len() - list.len()),
        };
        Error::input(path, "a 4-D dataset [scan row, scan col, detector row, detector col] of real numbers", found)
            .with_hint("this file does not hold a 4D-STEM scan; was it exported from another step of the work?")
    }
}

fn ask(path: &Path, several: &[&Entry], rank: usize) -> Error {
    let list: Vec<_> = several.iter().take(12).map(|e| e.describe()).collect();
    let more = if several.len() > 12 { format!(" and {} more", several.len() - 12) } else { String::new() };
    Error::unresolved(format!(
        "`{}` holds {} datasets with {rank} dimensions: {}{more}",
        path.display(),
        several.len(),
        list.join(", ")
    ))
    .with_hint(format!("name the one to use, for example with `--set source.dataset={}`", several[0].path))
}

/// Volts or kilovolts to eV; numbers that can be neither are dropped.
fn electron_volts(value: f64) -> Option<f64> {
    match value {
        v if (10.0..=3000.0).contains(&v) => Some(v * 1000.0),
        v if (10_000.0..=3e6).contains(&v) => Some(v),
        _ => None,
    }
}

fn sample_type(dataset: &Dataset) -> Option<(DType, Endian)> {
    let dtype = dataset.dtype().ok()?;
    let sample = match dtype.to_descriptor().ok()? {
        TypeDescriptor::Unsigned(IntSize::U1) | TypeDescriptor::Boolean => DType::U8,
        TypeDescriptor::Unsigned(IntSize::U2) => DType::U16,
        TypeDescriptor::Unsigned(IntSize::U4) => DType::U32,
        TypeDescriptor::Unsigned(IntSize::U8) => DType::U64,
        TypeDescriptor::Integer(IntSize::U1) => DType::I8,
        TypeDescriptor::Integer(IntSize::U2) => DType::I16,
        TypeDescriptor::Integer(IntSize::U4) => DType::I32,
        TypeDescriptor::Integer(IntSize::U8) => DType::I64,
        TypeDescriptor::Float(FloatSize::U4) => DType::F32,
        TypeDescriptor::Float(FloatSize::U8) => DType::F64,
        _ => return None,
    };
    let endian = match dtype.byte_order() {
        ByteOrder::BigEndian => Endian::Big,
        ByteOrder::LittleEndian | ByteOrder::None => Endian::Little,
        ByteOrder::Vax | ByteOrder::Mixed => return None,
    };
    (dtype.size() == sample.size()).then_some((sample, endian))
}
