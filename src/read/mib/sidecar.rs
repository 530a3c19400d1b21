//! The `.hdr` text file that Merlin software writes beside a `.mib` file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::file::DataFile;

/// The lines of a `.hdr` file that matter here.
#[derive(Debug, Default)]
pub(super) struct Sidecar {
    /// Where it was found.
    pub(super) path: PathBuf,
    values: BTreeMap<String, String>,
}

impl Sidecar {
    /// Finds and reads the sidecar of a `.mib` file; an unreadable one counts as absent, with a warning.
    pub(super) fn beside(mib: &Path, warnings: &mut Vec<String>) -> Option<Self> {
        let path = ["hdr", "HDR", "Hdr"].iter().map(|e| mib.with_extension(e)).find(|p| p != mib && p.is_file())?;
        match DataFile::open(&path).and_then(|f| f.read_some(0, 64 * 1024)) {
            Ok(bytes) if bytes.starts_with(b"HDR,") => Some(Self::parse(path, &bytes)),
            Ok(_) => {
                warnings.push(format!("`{}` is not a Merlin header file and is not used", path.display()));
                None
            }
            Err(error) => {
                warnings.push(format!("the header file is not used: {error}"));
                None
            }
        }
    }

    fn parse(path: PathBuf, bytes: &[u8]) -> Self {
        let text: String = bytes.iter().map(|&b| char::from(b)).collect();
        let values = text.lines().filter_map(|line| {
            let (key, value) = line.split_once('\t').or_else(|| line.split_once(':'))?;
            // "Frames per Trigger (Number):" and "Frames per Trigger" are the same key.
            let key = key.split('(').next().unwrap_or(key).trim().trim_end_matches(':').to_ascii_lowercase();
            Some((key, value.trim().to_owned()))
        });
        Self { path, values: values.collect() }
    }

    /// The value of a key, given without the part in brackets and in lower case.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// A positive whole number; zero means "not set" in these files.
    pub(super) fn count(&self, key: &str) -> Option<usize> {
        self.text(key)?.parse().ok().filter(|&n| n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_a_tab_and_a_zero_do_no_harm() {
        let text =
            b"HDR,\t\nnonsense\nFrames per Trigger (Number):\t0\nScanX:\t 4\nGap Fill Mode:\tDistribute\nEnd\t   ";
        let sidecar = Sidecar::parse(PathBuf::from("a.hdr"), text);
        assert_eq!(sidecar.count("scanx"), Some(4));
        assert_eq!(sidecar.count("frames per trigger"), None);
        assert_eq!(sidecar.text("gap fill mode"), Some("Distribute"));
    }
}
