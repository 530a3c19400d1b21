//! `stemstream config` and `stemstream completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::args::Args;
use crate::cli::report;
use crate::config::Config;

pub(in crate::cli) fn run() {
    report::text(Config::documented_defaults());
}

pub(in crate::cli) fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "stemstream", &mut script);
    report::text(&String::from_utf8_lossy(&script));
}
