//! What can go wrong, in the user's words, and the exit code that each kind of failure has.
//!
//! Every message says what was looked at, what was expected, what was found and what to do. A kind maps to one
//! exit code; the table is in the README.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure with its kind and, where there is one, a hint about what to do next.
#[derive(Debug)]
pub struct Error {
    kind: Box<ErrorKind>,
    hint: Option<String>,
}

/// The kinds of failure. Each maps to one [exit code](Error::exit_code).
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A command line or a configuration that makes no sense.
    Config {
        /// What is wrong, as a lower-case fragment.
        message: String,
    },
    /// An input file that is missing, unreadable, damaged or of an unsupported kind.
    Input {
        /// The file.
        path: PathBuf,
        /// What a good file would have had there.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The scan shape or a parameter of the method could not be determined from the data.
    Unresolved {
        /// What could not be determined and why.
        message: String,
    },
    /// The work does not fit in the memory budget.
    Memory {
        /// What needed memory.
        what: String,
        /// Bytes that would have sufficed.
        needed: u64,
        /// Bytes that were allowed.
        available: u64,
    },
    /// The memory budget is larger than what the process may have at all.
    Group {
        /// The control group with the limit.
        path: PathBuf,
        /// The budget in bytes.
        budget: u64,
        /// The group's limit in bytes.
        limit: u64,
    },
    /// The work does not fit on the disk.
    Disk {
        /// The folder that was to be written to.
        path: PathBuf,
        /// Bytes that would have sufficed.
        needed: u64,
        /// Bytes that were free.
        available: u64,
    },
    /// A cache that is stale, locked, damaged or from a newer version.
    Cache {
        /// The cache.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file operation failed on something that is not an input file.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase: "create the cache folder".
        action: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A block of the pipeline failed.
    Block {
        /// The block's name.
        block: String,
        /// Its failure.
        source: Error,
    },
    /// A block of the pipeline panicked: a bug in this program.
    Panic {
        /// The block's name.
        block: String,
        /// The panic's message.
        message: String,
    },
    /// Something that this program believed impossible: a bug.
    Bug {
        /// What happened.
        message: String,
    },
    /// The user asked to stop.
    Interrupted,
}

impl Error {
    /// Wraps a kind without a hint.
    pub fn new(kind: ErrorKind) -> Self {
        Self { kind: Box::new(kind), hint: None }
    }

    /// Adds what the user can do about it, replacing an earlier hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A command line or configuration error.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config { message: message.into() })
    }

    /// A bad input file.
    pub fn input(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input { path: path.to_owned(), expected: expected.into(), found: found.into() })
    }

    /// A scan shape or parameter that the data do not determine.
    pub fn unresolved(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unresolved { message: message.into() })
    }

    /// A cache that cannot be used.
    pub fn cache(path: &Path, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cache { path: path.to_owned(), message: message.into() })
    }

    /// A failed file operation. A full disk becomes [`ErrorKind::Disk`].
    pub fn io(path: &Path, action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let denied = matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
        let error = Self::new(ErrorKind::Io { path: path.to_owned(), action, source });
        if full {
            error.with_hint("the disk is full: free some space or choose another folder with `--out FOLDER`, then run the same command again; it goes on where it stopped")
        } else if denied {
            error.with_hint("choose a folder that you may write to with `--out FOLDER`")
        } else {
            error
        }
    }

    /// A broken promise inside this program.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug { message: message.into() })
    }

    /// The user asked to stop.
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted)
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// What the user can do about it. For a block's failure, the inner hint.
    pub fn hint(&self) -> Option<&str> {
        match (&self.hint, &*self.kind) {
            (Some(hint), _) => Some(hint),
            (None, ErrorKind::Block { source, .. }) => source.hint(),
            _ => None,
        }
    }

    /// Whether the user asked to stop, in whichever block that was noticed.
    pub fn is_interrupted(&self) -> bool {
        match &*self.kind {
            ErrorKind::Interrupted => true,
            ErrorKind::Block { source, .. } => source.is_interrupted(),
            _ => false,
        }
    }

    /// The process exit code for this failure.
    ///
    /// 1 bug, 2 usage or configuration, 3 input file, 4 scan shape or parameters, 5 memory or disk,
    /// 6 cache, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match &*self.kind {
            ErrorKind::Panic { .. } | ErrorKind::Bug { .. } => 1,
            ErrorKind::Config { .. } => 2,
            ErrorKind::Input { .. } => 3,
            ErrorKind::Unresolved { .. } => 4,
            ErrorKind::Memory { .. } | ErrorKind::Group { .. } | ErrorKind::Disk { .. } => 5,
            ErrorKind::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => 5,
                _ => 2,
            },
            ErrorKind::Cache { .. } => 6,
            ErrorKind::Block { source, .. } => source.exit_code(),
            ErrorKind::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::memory::ByteSize;
        match &*self.kind {
            ErrorKind::Config { message } | ErrorKind::Unresolved { message } => f.write_str(message),
            ErrorKind::Input { path, expected, found } => {
                write!(f, "`{}`: expected {expected}, found {found}", path.display())
            }
            ErrorKind::Memory { what, needed, available } => {
                write!(f, "{what} needs {}, but the memory budget is {}", ByteSize(*needed), ByteSize(*available))
            }
            ErrorKind::Group { path, budget, limit } => {
                write!(
                    f,
                    "the memory budget is {}, but the control group `{}` that this process runs in allows {}",
                    ByteSize(*budget),
                    path.display(),
                    ByteSize(*limit)
                )
            }
            ErrorKind::Disk { path, needed, available } => {
                write!(
                    f,
                    "`{}`: needs {} of free disk, found {}",
                    path.display(),
                    ByteSize(*needed),
                    ByteSize(*available)
                )
            }
            ErrorKind::Cache { path, message } => write!(f, "cache `{}`: {message}", path.display()),
            ErrorKind::Io { path, action, source } => {
                write!(f, "`{}`: failed to {action}: {source}", path.display())
            }
            ErrorKind::Block { block, source } => write!(f, "in block `{block}`: {source}"),
            ErrorKind::Panic { block, message } => {
                write!(f, "block `{block}` stopped on an internal error (a bug): {message}")
            }
            ErrorKind::Bug { message } => write!(f, "internal error (a bug): {message}"),
            ErrorKind::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.kind {
            ErrorKind::Io { source, .. } => Some(source),
            ErrorKind::Block { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_documented_exit_code() {
        let path = Path::new("scan.mib");
        assert_eq!(Error::bug("x").exit_code(), 1);
        assert_eq!(Error::config("x").exit_code(), 2);
        assert_eq!(Error::input(path, "a", "b").exit_code(), 3);
        assert_eq!(Error::unresolved("x").exit_code(), 4);
        assert_eq!(Error::io(path, "write", io::Error::from(io::ErrorKind::StorageFull)).exit_code(), 5);
        assert_eq!(Error::cache(path, "x").exit_code(), 6);
        assert_eq!(Error::interrupted().exit_code(), 130);
    }

    #[test]
    fn a_block_passes_on_the_code_and_the_hint_of_its_failure() {
        let inner = Error::input(Path::new("a"), "b", "c").with_hint("do this");
        let outer = Error::new(ErrorKind::Block { block: "read".into(), source: inner });
        assert_eq!((outer.exit_code(), outer.hint()), (3, Some("do this")));
        assert_eq!(outer.to_string(), "in block `read`: `a`: expected b, found c");
    }
}
