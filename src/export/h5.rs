//! Small parts that both HDF5 writers use: attributes that h5py reads as plain values, and errors in our words.

use std::io;
use std::path::Path;

use hdf5::types::VarLenUnicode;
use hdf5::{FileBuilder, Group, H5Type, Location};

use crate::axes::Image;
use crate::error::{Error, Result};

/// Result of a call into the HDF5 library.
pub(super) type H5Result<T> = std::result::Result<T, hdf5::Error>;

/// Files in the format that all versions of the library read: from version 2.0 on they choose a newer one, which would also come
/// into a user's own file. What is written does not depend on which one this program is linked with.
pub(super) fn files() -> FileBuilder {
    let mut files = FileBuilder::new();
    files.with_fapl(|access| access.libver_earliest());
    files
}

/// A failed call on a file that is ours to write. The operating system's own error number, where the library
/// passes one on, decides the kind (a full disk, a missing permission).
pub(super) fn write_error(path: &Path, action: &str, error: &hdf5::Error) -> Error {
    let text = error.to_string();
    let source = match os_error(&text) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(text),
    };
    Error::io(path, action, source)
}

/// The `errno = 28` of the library's messages.
pub(super) fn os_error(text: &str) -> Option<i32> {
    let digits = text.split("errno = ").nth(1)?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().filter(|&code| code != 0)
}

/// A variable-length UTF-8 string, read by h5py as `str`. Zero characters, which HDF5 cannot hold, are left out.
fn unicode(text: &str) -> H5Result<VarLenUnicode> {
    text.replace('\0', "").parse().map_err(|e| hdf5::Error::Internal(format!("string for an attribute: {e}")))
}

/// Writes a string attribute.
pub(super) fn text(at: &Location, name: &str, value: &str) -> H5Result<()> {
    scalar(at, name, &unicode(value)?)
}

/// Writes an attribute that is a list of strings.
pub(super) fn texts(at: &Location, name: &str, values: &[String]) -> H5Result<()> {
    let values = values.iter().map(|v| unicode(v)).collect::<H5Result<Vec<_>>>()?;
    list(at, name, &values)
}

/// Writes an integer attribute (`int64`).
pub(super) fn int(at: &Location, name: &str, value: usize) -> H5Result<()> {
    scalar(at, name, &(value as i64))
}

/// Writes an attribute that is a list of integers (`int64`).
pub(super) fn ints(at: &Location, name: &str, values: &[usize]) -> H5Result<()> {
    list(at, name, &values.iter().map(|&v| v as i64).collect::<Vec<_>>())
}

/// Writes an attribute of one value: `f64`, `bool` …
pub(super) fn scalar<T: H5Type>(at: &Location, name: &str, value: &T) -> H5Result<()> {
    at.new_attr::<T>().create(name)?.write_scalar(value)
}

/// Writes an attribute of several values.
pub(super) fn list<T: H5Type>(at: &Location, name: &str, values: &[T]) -> H5Result<()> {
    at.new_attr::<T>().shape(values.len()).create(name)?.write_raw(values)
}

/// Writes an image as a `float64` dataset with its unit and meaning.
pub(super) fn image(group: &Group, name: &str, image: &Image, units: &str, meaning: &str) -> H5Result<()> {
    let image = image.as_standard_layout();
    let dataset = group.new_dataset_builder().with_data(image.view()).create(name)?;
    text(&dataset, "units", units)?;
    text(&dataset, "description", meaning)
}

/// Opens the group `name`, made when absent.
pub(super) fn group(parent: &Group, name: &str) -> H5Result<Group> {
    if parent.link_exists(name) { parent.group(name) } else { parent.create_group(name) }
}

/// [`write_error`] as the second half of `map_err`.
pub(super) fn failed<'a>(path: &'a Path, action: &'a str) -> impl Fn(hdf5::Error) -> Error + 'a {
    move |error| write_error(path, action, &error)
}

/// Brings the bytes of a closed file to the disk.
pub(super) fn sync_chunk(path: &Path) -> Result<()> {
    std::fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| Error::io(path, "bring the file to the disk", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_number_in_a_library_message_is_found() {
        assert_eq!(
            os_error("H5FDwrite(): file write failed: time = x, errno = 28, error message = 'No space'"),
            Some(28)
        );
        assert_eq!(os_error("no number here"), None);
        assert_eq!(os_error("errno = "), None);
    }
}
