//! The command: what people and batch scripts talk to. Data go to stdout, talk and progress to stderr.

mod args;
mod commands;
mod progress;
mod report;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::error::Result;
use crate::progress::CancelToken;
use args::{Args, Command};
use report::Talk;

/// Parses the command line, runs it and returns the exit code of the table in the README.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::memory::give_large_buffers_back();
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // clap sends help to stdout and mistakes to stderr; its codes are 0 and 2, as ours.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let talk = Talk::new(args.quiet);
    let cancel = CancelToken::new();
    let token = cancel.clone();
    if let Err(error) = ctrlc::set_handler(move || token.cancel()) {
        talk.warn(&format!("Ctrl-C will not stop cleanly: {error}"));
    }
    let outcome = dispatch(args.command, &talk, &cancel);
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            talk.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: Command, talk: &Talk, cancel: &CancelToken) -> Result<u8> {
    use commands as c;
    match command {
        Command::Run(args) => return c::run::run(&args, talk, cancel),
        Command::Info(args) => c::info::run(&args)?,
        Command::Plan(args) => c::plan::run(&args, cancel)?,
        Command::Step(args) => c::step::run(&args, talk, cancel)?,
        Command::Cache(args) => c::cache::run(&args, talk)?,
        Command::Export(args) => c::export::run(&args, talk, cancel)?,
        Command::Simulate(args) => c::simulate::run(&args, talk, cancel)?,
        Command::Bench(args) => c::bench::run(&args, talk, cancel)?,
        Command::Config => c::config::run(),
        Command::Completions { shell } => c::config::completions(shell),
    }
    Ok(0)
}
