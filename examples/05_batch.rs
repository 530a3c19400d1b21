//! Several scans in one go: a bad one does not stop the others. `batch [FILE]..`
#![expect(clippy::print_stdout, reason = "an example prints")]

mod common;

use std::path::{Path, PathBuf};

use stemstream::Result;
use stemstream::cache::Step;
use stemstream::config::Config;
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::{Results, Session};

fn main() -> Result<()> {
    let mut inputs: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    if inputs.is_empty() {
        let spec = common::small_scan();
        inputs.push(common::write_scan("batch_1", &spec)?);
        inputs.push("a_file_that_is_not_there.mib".into());
        inputs.push(common::write_scan("batch_2", &stemstream::simulate::SimulationSpec { seed: 2, ..spec })?);
    }
    // Only the stack, the maps and the images stay: a batch fills disks quickly.
    let config = Config::default().with_settings(["run.mode=lean"])?;
    let mut failed = Vec::new();
    for input in &inputs {
        match run(input, &config) {
            Ok(results) => println!("{}: image of {:?} pixels", input.display(), results.superres_image.dim()),
            Err(error) => failed.push((input, error)),
        }
    }
    println!("{} of {} scans done", inputs.len() - failed.len(), inputs.len());
    for (input, error) in &failed {
        println!("{}: exit code {}: {error}", input.display(), error.exit_code());
    }
    Ok(())
}

fn run(input: &Path, config: &Config) -> Result<Results> {
    let cancel = CancelToken::new();
    let session = Session::open(input, config.clone(), false, &Silent, &cancel)?;
    session.run_to(Step::Reconstruct)?;
    Results::read(&session.cache_path())
}
