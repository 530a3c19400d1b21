//! EMD and other HDF5 files.

use std::path::Path;

use super::FrameSource;
use crate::config::SourceConfig;
use crate::error::{Error, Result};

/// Opens the 4-D dataset of an HDF5 file.
pub(super) fn open(path: &Path, _: &SourceConfig) -> Result<Box<dyn FrameSource>> {
    Err(Error::input(path, "a dataset", "an HDF5 file, which is not read yet"))
}
