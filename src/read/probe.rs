//! Recognises a file by its first bytes; the extension only makes a refusal more helpful.

use std::path::Path;

use super::file::{DataFile, unreadable};
use crate::error::{Error, Result};

/// The kinds of file that have a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Merlin MIB.
    Mib,
    /// numpy's array file.
    Npy,
    /// HDF5; the signature's offset is not 0 when a user block precedes it.
    Hdf5,
}

const HDF5_SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";
const SUPPORTED: &str = "supported are Merlin MIB, EMD and other HDF5 files with a 4-D dataset, and npy";

/// Says which reader a file needs.
///
/// # Errors
/// [`Input`](crate::error::ErrorKind::Input) for what is missing, empty, a folder, unknown or known but not supported.
pub(super) fn probe(path: &Path) -> Result<Kind> {
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    if metadata.is_dir() {
        return Err(folder(path));
    }
    if !metadata.is_file() {
        return Err(Error::input(path, "a regular file", "something else, such as a pipe or a device"));
    }
    let file = DataFile::open(path)?;
    if file.len() == 0 {
        return Err(Error::input(path, "a dataset", "an empty file")
            .with_hint("the recording or the copy may have been interrupted"));
    }
    let head = file.read_some(0, 4096)?;
    if head.starts_with(b"MQ1,") {
        Ok(Kind::Mib)
    } else if head.starts_with(b"\x93NUMPY") {
        Ok(Kind::Npy)
    } else if is_hdf5(&file, &head)? {
        Ok(Kind::Hdf5)
    } else {
        Err(refusal(&file, &head))
    }
}

/// Whether the HDF5 signature stands at byte 0, 512, 1024, 2048 …
fn is_hdf5(file: &DataFile, head: &[u8]) -> Result<bool> {
    if head.starts_with(HDF5_SIGNATURE) {
        return Ok(true);
    }
    let mut at = 512u64;
    while at < file.len().min(1 << 30) {
        if file.read_some(at, HDF5_SIGNATURE.len())? == HDF5_SIGNATURE {
            return Ok(true);
        }
        at *= 2;
    }
    Ok(false)
}

fn unsupported(path: &Path, what: &str, hint: &str) -> Error {
    Error::input(path, "a supported dataset", what).with_hint(format!("{hint}; {SUPPORTED}"))
}

fn folder(path: &Path) -> Error {
    let has = |name: &str| path.join(name).exists();
    if has("manifest.json") && has("zarr.json") {
        return Error::input(path, "a dataset", "a working cache of stemstream")
            .with_hint("give the dataset itself; `stemstream cache show` describes a cache");
    }
    if has(".zgroup") || has(".zarray") || has("zarr.json") {
        return unsupported(path, "a Zarr folder", "save the 4-D array as npy or in an HDF5 file");
    }
    Error::input(path, "a data file", "a folder").with_hint("give one of the files in it")
}

/// The kindest possible refusal of a file that has no reader.
fn refusal(file: &DataFile, head: &[u8]) -> Error {
    let path = file.path();
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if let Some((what, hint)) = by_content(file, head) {
        return unsupported(path, what, hint);
    }
    match extension.as_str() {
        "mib" => Error::input(path, "a Merlin MIB file that begins with `MQ1,`", "other bytes")
            .with_hint("the file may be damaged, or its beginning was cut off"),
        "npy" => Error::input(path, "an npy file that begins with `\\x93NUMPY`", "other bytes")
            .with_hint("save the array again with `numpy.save`"),
        "h5" | "hdf5" | "emd" | "hspy" => Error::input(path, "an HDF5 file", "a file without the HDF5 signature")
            .with_hint("the file may be damaged, or its beginning was cut off"),
        "hdr" => Error::input(path, "a dataset", "a Merlin header file")
            .with_hint("give the .mib file beside it; the header is found by its name"),
        "raw" => unsupported(path, "a raw file without a header (EMPAD?)", "save the array as npy"),
        "toml" => Error::input(path, "a dataset", "a configuration file").with_hint("give it with `-c FILE.toml`"),
        _ => Error::input(path, "a dataset", "a file of an unknown kind").with_hint(SUPPORTED.to_owned()),
    }
}

/// Kinds that are known and not supported, by their content.
fn by_content(file: &DataFile, head: &[u8]) -> Option<(&'static str, &'static str)> {
    let word = |at: usize| head.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let text = String::from_utf8_lossy(head);
    if head.starts_with(b"MPX,") {
        Some(("a stream of a Merlin detector, not a file", "save it as a MIB file without the `MPX,` prefixes"))
    } else if head.starts_with(b"PK\x03\x04") {
        Some(zipped(file))
    } else if head.starts_with(b"HDR,") {
        Some(("a Merlin header file", "give the .mib file beside it"))
    } else if text.contains("<raw_file") && text.contains("filename=") {
        Some(("an EMPAD description (XML)", "EMPAD files are not read yet: save the array as npy"))
    } else if head.starts_with(b"IMGBLO") {
        Some(("a blockfile (.blo)", "convert it to npy or HDF5, for example with rosettasciio"))
    } else if [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| head.starts_with(*magic)) {
        Some(("a TIFF image", "a 4D-STEM scan is needed, not an image"))
    } else if (word(0) == 3 && word(8) <= 1) || (word(0) == 4 && word(12) <= 1 && word(4) < 0x1000) {
        Some(("a Gatan DM3 or DM4 file", "convert it to HDF5 or npy, for example with rosettasciio"))
    } else if head.starts_with(b"\x89PNG") || head.starts_with(b"\xff\xd8\xff") {
        Some(("a picture", "a 4D-STEM scan is needed"))
    } else {
        None
    }
}

/// What a zip archive holds, judged by the names in its directory at the end.
fn zipped(file: &DataFile) -> (&'static str, &'static str) {
    let tail_len = 1 << 18;
    let start = file.len().saturating_sub(tail_len);
    let tail = file.read_some(start, tail_len as usize).unwrap_or_default();
    let has = |name: &[u8]| tail.windows(name.len()).any(|w| w == name);
    if has(b".zgroup") || has(b".zarray") || has(b"zarr.json") {
        ("a zipped Zarr archive", "save the 4-D array as npy or in an HDF5 file")
    } else if has(b".npy") {
        ("an npz archive", "save the one array with `numpy.save`")
    } else {
        ("a zip archive", "unpack it first")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, content: &[u8]) -> (u8, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = probe(&path).unwrap_err();
        assert!(error.hint().is_some(), "no hint: {error}");
        (error.exit_code(), error.to_string())
    }

    #[test]
    fn known_kinds_without_a_reader_are_refused_by_name() {
        for (name, content, expected) in [
            ("a.blo", &b"IMGBLO\x02\x01"[..], "blockfile"),
            ("a.tif", b"II*\0\x08\0\0\0", "TIFF"),
            ("a.dm4", b"\0\0\0\x04\0\0\0\0\0\x10\0\0\0\0\0\x01", "DM4"),
            ("a.zip", b"PK\x03\x04..... .zgroup", "zipped Zarr"),
            ("a.npz", b"PK\x03\x04.....arr_0.npy", "npz"),
            ("a.xml", b"<root><raw_file filename=\"x.raw\"/></root>", "EMPAD"),
            ("a.MIB", b"nothing of the kind", "MQ1,"),
            ("a.raw", b"\0\0\0\0\0\0\0\0", "raw file"),
            ("empty.mib", b"", "empty file"),
        ] {
            let (code, message) = refused(name, content);
            assert_eq!(code, 3);
            assert!(message.contains(expected), "{name}: {message}");
        }
    }

    #[test]
    fn content_wins_over_the_extension() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scan.h5");
        std::fs::write(&path, b"MQ1,000001,").unwrap();
        assert_eq!(probe(&path).unwrap(), Kind::Mib);
    }

    #[test]
    fn folders_and_missing_files_are_input_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(probe(dir.path()).unwrap_err().exit_code(), 3);
        assert_eq!(probe(&dir.path().join("none.mib")).unwrap_err().exit_code(), 3);
    }
}
