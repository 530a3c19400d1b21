//! The `stemstream` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    stemstream::cli::run(std::env::args_os())
}
