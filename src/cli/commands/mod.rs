//! One file per command.

pub(super) mod bench;
pub(super) mod cache;
pub(super) mod config;
pub(super) mod export;
pub(super) mod info;
pub(super) mod plan;
pub(super) mod run;
pub(super) mod simulate;
pub(super) mod step;
