//! Recognising a source again, and noticing that it has changed.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::read::FrameSource;

/// Frames whose samples go into the hash: enough that another scan of the same shape never looks the same, few
/// enough that a file on a slow disk is checked in well under a second.
const SAMPLED_FRAMES: usize = 16;

/// What a source looked like when its cache was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Where the file was.
    pub path: PathBuf,
    /// Bytes of the file.
    pub size: u64,
    /// Time of the last change, nanoseconds since 1970.
    pub modified_ns: u64,
    /// SHA-256 of shape, type and the samples of frames spread over the scan.
    pub content: String,
    /// Whether results may be added to the file itself, which changes its size and time but not its frames.
    pub may_grow: bool,
}

impl Fingerprint {
    /// Looks at a source as it is now.
    ///
    /// # Errors
    /// [`Input`](crate::error::ErrorKind::Input) when the file cannot be read.
    pub fn of(source: &dyn FrameSource) -> Result<Self> {
        let info = source.info();
        let metadata =
            std::fs::metadata(&info.path).map_err(|e| Error::input(&info.path, "a readable file", e.to_string()))?;
        let modified = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            path: std::fs::canonicalize(&info.path).unwrap_or_else(|_| info.path.clone()),
            size: metadata.len(),
            modified_ns: modified.map_or(0, |t| t.as_nanos() as u64),
            content: hash_content(source)?,
            may_grow: info.can_embed_results,
        })
    }

    /// Whether `now` is the source that this fingerprint was taken of, wherever it lies now.
    pub fn matches(&self, now: &Self) -> bool {
        self.content == now.content && (self.may_grow || (self.size == now.size && self.modified_ns == now.modified_ns))
    }

    /// What differs, for a message; empty when nothing does.
    pub fn difference(&self, now: &Self) -> String {
        let mut parts = Vec::new();
        if self.size != now.size && !self.may_grow {
            parts.push(format!("its size was {} bytes and is {}", self.size, now.size));
        }
        if self.content != now.content {
            parts.push("its frames differ".to_owned());
        }
        if parts.is_empty() && !self.matches(now) {
            parts.push("it was written again since".to_owned());
        }
        parts.join(", ")
    }

    /// The first 16 digits of the hash, for results.
    pub fn short(&self) -> &str {
        self.content.get(..16).unwrap_or(&self.content)
    }
}

fn hash_content(source: &dyn FrameSource) -> Result<String> {
    let info = source.info();
    let frames = info.scan.len();
    let mut hash = Sha256::new();
    hash.update(format!("{} {} {}", info.scan, info.det, info.dtype));
    let mut buffer = vec![0; source.block_bytes(1)];
    let count = SAMPLED_FRAMES.min(frames);
    let sampled = |i: usize| if count > 1 { i * (frames - 1) / (count - 1) } else { 0 };
    // All at once: a disk that has many to choose from is fast.
    (0..count).for_each(|i| source.will_read(sampled(i), 1));
    for i in 0..count {
        hash.update(source.read_block(sampled(i), 1, &mut buffer)?.frame(0));
    }
    let mut text = String::with_capacity(64);
    for byte in &hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
