//! Writers of small HDF5 files in every dialect that has a reader.

use std::path::Path;

use hdf5::types::VarLenUnicode;
use hdf5::{Dataset, File, FileBuilder, Group, Location};
use ndarray::{Array4, ArrayView, Dimension};

/// The layouts of 4-D cubes in HDF5 files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmdDialect {
    /// EMD 1.0 by emdfile: `/datacube_root/datacube/data`.
    Emdfile,
    /// mib-viewer's first converter: EMD 1.0 root, `dim1` to `dim4` as datasets.
    MibViewerA,
    /// mib-viewer's second converter: no root attributes, `dim1` to `dim4` as groups.
    MibViewerB,
    /// py4DSTEM 0.13.
    Py4dstem13,
    /// py4DSTEM 0.5 to 0.12.
    Py4dstem05,
    /// Prismatic: the dataset is called `datacube`.
    Prismatic,
    /// EMD 0.2 in C order.
    Ncem,
    /// EMD 0.2 by HyperSpy: all axes in reverse order under `/signals`.
    HyperSpy,
    /// abTEM: `/array`, `/sampling`, `/units`.
    AbTem,
    /// A single dataset `/scan` and nothing else.
    Plain,
}

impl EmdDialect {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Emdfile,
        Self::MibViewerA,
        Self::MibViewerB,
        Self::Py4dstem13,
        Self::Py4dstem05,
        Self::Prismatic,
        Self::Ncem,
        Self::HyperSpy,
        Self::AbTem,
        Self::Plain,
    ];

    /// Path of the 4-D dataset.
    pub fn dataset(self) -> &'static str {
        match self {
            Self::Emdfile => "/datacube_root/datacube/data",
            Self::MibViewerA | Self::MibViewerB => "/version_1/data/datacubes/datacube_000/data",
            Self::Py4dstem13 => "/4DSTEM/datacube/data",
            Self::Py4dstem05 => "/4DSTEM_experiment/data/datacubes/datacube_0/data",
            Self::Prismatic => "/4DSTEM_simulation/data/datacubes/CBED_array_depth0000/datacube",
            Self::Ncem => "/data/scan/data",
            Self::HyperSpy => "/signals/scan/data",
            Self::AbTem => "/array",
            Self::Plain => "/scan",
        }
    }
}

/// How the samples are stored.
#[derive(Debug, Clone, Copy)]
pub enum Storage {
    /// In one piece.
    Contiguous,
    /// In chunks without filters.
    Chunks([usize; 4]),
    /// In chunks with shuffle and gzip.
    Gzip([usize; 4]),
    /// In chunks with shuffle, gzip and a checksum.
    Checked([usize; 4]),
}

/// Scan step that the writers note, in nm, where the dialect has room for it.
pub const SCAN_STEP_NM: f64 = 0.4;
/// Detector pixel that the writers note, in 1/Å.
pub const DET_STEP_PER_ANGSTROM: f64 = 0.015;

/// Writes a file with one 4-D scan.
pub fn write_emd(path: &Path, dialect: EmdDialect, data: &Array4<u16>, storage: Storage) {
    // The format without checksums, whichever version of the library it is: tests damage single bytes.
    let file = FileBuilder::new().with_fapl(|access| access.libver_earliest()).create(path).unwrap();
    let inner = dialect.dataset().trim_start_matches('/');
    let (folder, name) = inner.rsplit_once('/').unwrap_or(("", inner));
    let parent: Group = if folder.is_empty() { file.group("/").unwrap() } else { file.create_group(folder).unwrap() };
    if dialect == EmdDialect::HyperSpy {
        let reversed = data.view().reversed_axes().as_standard_layout().into_owned();
        let turn = |[a, b, c, d]: [usize; 4]| [d, c, b, a];
        let storage = match storage {
            Storage::Contiguous => Storage::Contiguous,
            Storage::Chunks(c) => Storage::Chunks(turn(c)),
            Storage::Gzip(c) => Storage::Gzip(turn(c)),
            Storage::Checked(c) => Storage::Checked(turn(c)),
        };
        write_dataset(&parent, name, reversed.view(), storage);
    } else {
        write_dataset(&parent, name, data.view(), storage);
    }
    label(&file, &parent, dialect);
}

/// Writes one dataset of `u16` samples; chunk shapes use as many leading axes as the data have.
pub fn write_dataset<D: Dimension>(
    group: &Group,
    name: &str,
    data: ArrayView<'_, u16, D>,
    storage: Storage,
) -> Dataset {
    let builder = group.new_dataset_builder();
    match storage {
        Storage::Contiguous => builder.no_chunk().with_data(data).create(name).unwrap(),
        Storage::Chunks(c) => builder.chunk(c).with_data(data).create(name).unwrap(),
        Storage::Gzip(c) => builder.chunk(c).shuffle().deflate(4).with_data(data).create(name).unwrap(),
        Storage::Checked(c) => builder.chunk(c).shuffle().deflate(4).fletcher32().with_data(data).create(name).unwrap(),
    }
}

/// Sets a text attribute.
pub fn set_text(object: &Location, name: &str, value: &str) {
    let value: VarLenUnicode = value.parse().unwrap();
    object.new_attr::<VarLenUnicode>().create(name).unwrap().write_scalar(&value).unwrap();
}

/// Sets an integer attribute.
pub fn set_int(object: &Location, name: &str, value: i32) {
    object.new_attr::<i32>().create(name).unwrap().write_scalar(&value).unwrap();
}

fn dim_dataset(group: &Group, name: &str, step: f64, title: &str, units: &str) {
    let dim = group.new_dataset_builder().with_data(&[0.0, step]).create(name).unwrap();
    set_text(&dim, "name", title);
    set_text(&dim, "units", units);
}

/// The four axes as datasets `dim{first}` …, with the units of the dialect.
fn dims(group: &Group, first: usize, length: &str, frequency: &str) {
    let names = ["R_x", "R_y", "Q_x", "Q_y"];
    for (i, name) in names.iter().enumerate() {
        let (step, units) = if i < 2 { (SCAN_STEP_NM, length) } else { (DET_STEP_PER_ANGSTROM, frequency) };
        dim_dataset(group, &format!("dim{}", first + i), step, name, units);
    }
}

/// Everything around the samples that makes the dialect.
fn label(file: &File, cube: &Group, dialect: EmdDialect) {
    match dialect {
        EmdDialect::Emdfile => {
            emd_root(file, "emdfile");
            set_text(&file.group("datacube_root").unwrap(), "emd_group_type", "root");
            set_text(cube, "emd_group_type", "array");
            dims(cube, 0, "nm", "A^-1");
            emdfile_calibration(file);
        }
        EmdDialect::MibViewerA => {
            emd_root(file, "mib-to-emd-converter");
            set_text(&file.group("version_1").unwrap(), "emd_group_type", "root");
            for i in 1..5 {
                dim_dataset(cube, &format!("dim{i}"), 1.0, "axis", "pixel");
            }
        }
        EmdDialect::MibViewerB => {
            let version = file.group("version_1").unwrap();
            set_int(&version, "major", 1);
            set_int(&version, "minor", 0);
            set_int(cube, "emd_group_type", 1);
            for i in 1..5 {
                set_text(&cube.create_group(&format!("dim{i}")).unwrap(), "units", "pixels");
            }
        }
        EmdDialect::Py4dstem13 => {
            let root = file.group("4DSTEM").unwrap();
            set_text(&root, "emd_group_type", "root");
            set_int(&root, "version_major", 0);
            set_int(&root, "version_minor", 13);
            set_int(cube, "emd_group_type", 1);
            dims(cube, 0, "nm", "A^-1");
        }
        EmdDialect::Py4dstem05 | EmdDialect::Prismatic => {
            let top = dialect.dataset().split('/').nth(1).unwrap();
            let top = file.group(top).unwrap();
            set_int(&top, "emd_group_type", 2);
            set_int(&top, "version_major", 0);
            set_int(&top, "version_minor", 5);
            set_int(cube, "emd_group_type", 1);
            if dialect == EmdDialect::Prismatic {
                dims(cube, 1, "[n_m]", "[Å^-1]");
                let parameters = top.create_group("metadata/metadata_0/original/simulation_parameters").unwrap();
                parameters.new_attr::<f32>().create("E").unwrap().write_scalar(&80.0).unwrap();
            } else {
                dims(cube, 1, "nm", "A^-1");
            }
        }
        EmdDialect::Ncem | EmdDialect::HyperSpy => {
            // Some writers store these numbers as text.
            set_text(file, "version_major", "0");
            set_text(file, "version_minor", "2");
            set_int(cube, "emd_group_type", 1);
            if dialect == EmdDialect::Ncem {
                dims(cube, 1, "[n_m]", "[Å^-1]");
            }
        }
        EmdDialect::AbTem => {
            cube.new_dataset_builder().with_data(&[4.0, 4.0, 0.015, 0.015]).create("sampling").unwrap();
        }
        EmdDialect::Plain => {}
    }
}

fn emd_root(file: &File, program: &str) {
    set_text(file, "emd_group_type", "file");
    set_int(file, "version_major", 1);
    set_int(file, "version_minor", 0);
    set_text(file, "authoring_program", program);
}

fn emdfile_calibration(file: &File) {
    let group = file.create_group("datacube_root/metadatabundle/calibration").unwrap();
    let number = |name: &str, value: f64| {
        group.new_dataset::<f64>().create(name).unwrap().write_scalar(&value).unwrap();
    };
    let text = |name: &str, value: &str| {
        let value: VarLenUnicode = value.parse().unwrap();
        group.new_dataset::<VarLenUnicode>().create(name).unwrap().write_scalar(&value).unwrap();
    };
    number("R_pixel_size", SCAN_STEP_NM);
    text("R_pixel_units", "nm");
    number("Q_pixel_size", DET_STEP_PER_ANGSTROM);
    text("Q_pixel_units", "A^-1");
    number("accelerating_voltage", 80_000.0);
}
