//! The small file that keeps the rates of this machine: `stemstream/machine.json` in the user's cache folder.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::machine::MachineRates;
use crate::store::{atomic_write, create_folder};

/// Where the rates of this machine are kept: `$XDG_CACHE_HOME/stemstream/machine.json`, else
/// `~/.cache/stemstream/machine.json`; `None` without a home.
pub fn rates_path() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("stemstream/machine.json"))
}

/// The rates in a file, if it is there, can be read, and belongs to this machine; `None` otherwise: without rates
/// everything works, so that a damaged file is no error.
pub fn read_rates(path: &Path) -> Option<MachineRates> {
    // Far more than such a file ever has.
    if fs::metadata(path).ok()?.len() > 1 << 20 {
        return None;
    }
    let rates: MachineRates = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    rates.is_of_this_machine().then_some(rates)
}

/// Replaces the file by these rates; a reader sees the old ones or the new ones. Its folder is made.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io) when the folder or the file cannot be written.
pub fn write_rates(path: &Path, rates: &MachineRates) -> Result<()> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let text = serde_json::to_string_pretty(rates).map_err(|e| Error::bug(format!("rates to JSON: {e}")))?;
    atomic_write(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_back_only_to_the_machine_that_they_were_measured_on() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("a/machine.json");
        assert_eq!(read_rates(&path), None);
        let rates = MachineRates { write: 1.5e9, ..MachineRates::of_this_machine() };
        write_rates(&path, &rates).expect("written");
        assert_eq!(read_rates(&path), Some(rates.clone()));
        write_rates(&path, &MachineRates { host: "another".into(), ..rates }).expect("written");
        assert_eq!(read_rates(&path), None);
        fs::write(&path, "{").expect("written");
        assert_eq!(read_rates(&path), None, "a damaged file is as good as none");
    }
}
