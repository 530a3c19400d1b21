//! EMD files of all dialects and other HDF5 files with a 4-D dataset.
//!
//! The library is asked for headers only. Contiguous samples are then read by positioned reads; chunks are read by
//! address and decoded here; only storage of other kinds goes through the library.

mod btree;
mod chunked;
mod contents;
mod cube;
mod dialect;
mod filters;
mod library;
mod storage;
mod table;
mod values;

use std::path::Path;

use hdf5::File;

use self::contents::{Contents, Entry};
use self::cube::Cube;
use super::FrameSource;
use super::file::DataFile;
use crate::config::SourceConfig;
use crate::error::{Error, Result};

/// Opens the 4-D dataset of an HDF5 file, or a 3-D one whose scan shape the user gives.
pub(super) fn open(path: &Path, options: &SourceConfig) -> Result<Box<dyn FrameSource>> {
    let data = DataFile::open(path)?;
    let file = File::open(path).map_err(|e| cannot_open(&data, &e))?;
    let contents = Contents::of(&file);
    let entry = if let Some(name) = &options.dataset {
        named(path, &file, name, &contents)?
    } else {
        refuse_known(path, &file, &contents)?;
        contents.choose(path)?.clone()
    };
    let dataset = file.dataset(&entry.path).map_err(|e| cannot_read(path, &e))?;
    let cube = Cube::of(path, &file, &contents, entry)?;
    let (info, skip) = cube.describe(path, &dataset, options)?;
    storage::source(data, &file, &dataset, &cube, (info, skip))
}

/// The reason deepest in the library's stack of errors, which is the one that says most.
fn reason(error: &hdf5::Error) -> String {
    let detail = match error {
        hdf5::Error::HDF5(stack) => {
            stack.clone().expand().ok().and_then(|frames| frames.last().map(|f| f.desc().to_owned()))
        }
        hdf5::Error::Internal(_) => None,
    };
    detail.unwrap_or_else(|| error.to_string())
}

fn cannot_open(file: &DataFile, error: &hdf5::Error) -> Error {
    let reason = reason(error);
    let found = format!("a file of {} bytes that HDF5 cannot open ({reason})", file.len());
    let hint = if reason.contains("lock") {
        "another program has the file open for writing, or the file system cannot lock files: \
         close the other program, or set the environment variable HDF5_USE_FILE_LOCKING=FALSE"
    } else {
        "the file is damaged or cut short; copy it again from where it was recorded"
    };
    Error::input(file.path(), "a complete HDF5 file", found).with_hint(hint)
}

/// The error for a part of a file that the library refuses to read.
fn cannot_read(path: &Path, error: &hdf5::Error) -> Error {
    Error::input(path, "a dataset that HDF5 can read", reason(error))
        .with_hint("the file is damaged or was changed by another program; copy it again from where it was recorded")
}

/// The dataset that the user names.
fn named(path: &Path, file: &File, name: &str, contents: &Contents) -> Result<Entry> {
    let dataset = file.dataset(name).map_err(|_| {
        let arrays = contents.datasets.iter().filter(|e| e.shape.len() >= 3).take(8);
        let list: Vec<_> = arrays.map(|e| format!("{} {:?}", e.path, e.shape)).collect();
        let list = if list.is_empty() { "no array of 3 or more dimensions".to_owned() } else { list.join(", ") };
        Error::input(path, format!("a dataset `{name}`"), list).with_hint("correct source.dataset")
    })?;
    let entry = Entry::of(&dataset, &format!("/{}", name.trim_matches('/')));
    if ![3, 4].contains(&entry.shape.len()) || entry.shape.contains(&0) || entry.sample.is_none() {
        let found = format!("shape {:?}", entry.shape);
        let error = Error::input(path, format!("`{name}` to be a 4-D array of real numbers"), found);
        return Err(error.with_hint("name another dataset with source.dataset"));
    }
    Ok(entry)
}

/// Refuses files of known kinds that hold something else than a scan in one dataset.
fn refuse_known(path: &Path, file: &File, contents: &Contents) -> Result<()> {
    let has = |name: &str| values::exists(file, name);
    let refuse = |found: &str, hint: String| Err(Error::input(path, "a dataset", found).with_hint(hint));
    if has("bigFT") || has("correlations") && has("metadata") {
        return refuse(
            "an HDF5 cache of results",
            "this is a cache, not a dataset; give the dataset itself".to_owned(),
        );
    }
    let hyperspy = values::attr_text(file, "file_format").is_some_and(|f| f == "HyperSpy" || f == "ZSpy");
    if hyperspy || has("Experiments") {
        let four = contents.datasets.iter().find(|e| e.shape.len() == 4 && e.sample.is_some());
        let hint = four.map_or("it holds no 4-D dataset either".to_owned(), |e| {
            format!("if its scan axes come first, name the dataset: `--set source.dataset={}`", e.path)
        });
        return refuse("a HyperSpy file (hspy), which is not supported yet", hint);
    }
    if has("entry/instrument/detector") || has("entry/data/data_000001") {
        let hint = "convert the scan to one 4-D dataset, or to npy, for example with rosettasciio";
        return refuse("a Dectris (NeXus) master file, which is not supported yet", hint.to_owned());
    }
    let version = file.dataset("Version").ok().and_then(|d| values::text(&d));
    if version.is_some_and(|v| v.contains("Velox")) {
        let hint = "Velox files hold images and spectra; export the 4D-STEM scan from the program that recorded it";
        return refuse("a Velox file", hint.to_owned());
    }
    Ok(())
}
