//! Opens a scan, runs all five steps and looks at what was found: `run_a_scan [FILE]`.
#![expect(clippy::print_stdout, reason = "an example prints")]

mod common;

use stemstream::cache::Step;
use stemstream::config::Config;
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::{Results, Session};

fn main() -> stemstream::Result<()> {
    let input = match std::env::args().nth(1) {
        Some(file) => file.into(),
        None => common::write_scan("run_a_scan", &common::small_scan())?,
    };
    let cancel = CancelToken::new();
    let session = Session::open(&input, Config::default(), false, &Silent, &cancel)?;
    session.run_to(Step::Reconstruct)?;
    for report in session.reports() {
        let slowest = report.bottleneck().map_or("nothing", |block| &block.name);
        println!("{}: {:.2} s, waiting mostly for `{slowest}`", report.name, report.seconds);
    }

    let results = Results::read(&session.cache_path())?;
    let [row, col] = results.disk.center;
    println!("the disk: centre ({row:.2}, {col:.2}), radius {:.2} detector pixels", results.disk.radius);
    let used = results.quality.iter().filter(|q| **q > results.config.reconstruct.quality_threshold).count();
    println!("{used} of {} detector pixels aligned well enough", results.quality.len());
    let (scan, image) = (results.standard_bf.dim(), results.superres_image.dim());
    println!("bright field: {scan:?} pixels; super-resolved: {image:?} pixels");
    Ok(())
}
