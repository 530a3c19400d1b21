//! Super-resolved bright-field images from 4D-STEM scans larger than memory.

pub mod axes;
pub mod cache;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod error;
pub mod export;
pub mod kernel;
pub mod memory;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod read;
pub mod session;
pub mod simulate;
pub mod steps;
pub mod store;

pub use error::{Error, Result};
