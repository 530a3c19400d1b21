//! `stemstream config` and `stemstream completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::args::Args;
use crate::cli::report;
use crate::config::Config;
use crate::error::Result;

pub(in crate::cli) fn run() -> Result<()> {
    report::text(Config::documented_defaults());
    Ok(())
}

pub(in crate::cli) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "stemstream", &mut script);
    report::text(&String::from_utf8_lossy(&script));
    Ok(())
}
