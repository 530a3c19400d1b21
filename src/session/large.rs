//! bigFT and the correlations in an HDF5 file alone: laid out before the alignment, filled by it, finished by whoever knows the
//! format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cache::{Manifest, Placed, Step};
use crate::config::Config;
use crate::error::Result;
use crate::plan::Plan;
use crate::session::Session;
use crate::steps::BrightDisk;

/// Lays out an HDF5 file that a run fills with its large arrays as it goes, and says where they will lie; `None` where that
/// cannot be. The file is the cache's own until [`Session::finish_large_arrays`] is told its name.
pub type LayOut = dyn Fn(&Manifest, &Config, &BrightDisk) -> Result<Option<BTreeMap<Step, Placed>>> + Send + Sync;

impl Session<'_> {
    /// Has documented runs from now on write bigFT and the correlations to an HDF5 file alone, where the plan says so.
    pub fn keep_large_arrays_in(&mut self, lay_out: Box<LayOut>) {
        self.lay_out = Some(lay_out);
    }

    /// Lays out the file, unless the cache has one already.
    pub(super) fn place_large_arrays(&self, plan: &Plan, disk: &BrightDisk) -> Result<()> {
        let mut cache = self.cache();
        let begun = !cache.manifest().placed.is_empty();
        let Some(lay_out) = self.lay_out.as_ref().filter(|_| plan.in_place && !begun) else { return Ok(()) };
        match lay_out(cache.manifest(), &self.config, disk)? {
            Some(placed) => cache.place(placed),
            None => Ok(()),
        }
    }

    /// The HDF5 file in which both large arrays are complete and which has not got its name yet.
    pub fn filled_file(&self) -> Option<PathBuf> {
        let cache = self.cache();
        let m = cache.manifest();
        m.unfinished_file().filter(|_| m.is_done(Step::Fft) && m.is_done(Step::Correlate)).map(Path::to_owned)
    }

    /// Notes that the [filled file](Self::filled_file) is finished and called `file`: from now on it is the user's, and only
    /// read.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn finish_large_arrays(&self, file: &Path) -> Result<()> {
        self.cache().finish_placed(&std::path::absolute(file).unwrap_or_else(|_| file.to_owned()))
    }
}
