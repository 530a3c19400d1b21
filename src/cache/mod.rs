//! The working cache of one dataset: a Zarr group with the expensive intermediates, and the manifest that says which
//! of them can be relied on.
//!
//! `{base}_superres_cache_{YYYYMMDD_HHMMSS}.zarr/manifest.json` is the only truth about what is done. A tile is
//! marked there after its data are on disk; a step is marked after its result is. One process at a time holds the
//! lock; readers need none.

mod fingerprint;
mod lock;
mod manifest;
mod placed;
mod published;
mod resume;
mod tiles;
mod working;

pub use fingerprint::Fingerprint;
pub use lock::Lock;
pub use manifest::{FormatVersion, Layout, Manifest, Step, StepState};
pub use placed::Placed;
pub use published::{Curve, Extra};
pub use resume::{Candidate, find, list};
pub use tiles::TileSet;
pub use working::WorkingCache;
