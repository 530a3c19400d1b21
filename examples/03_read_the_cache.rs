//! Reads a finished cache: the manifest, the maps, and bigFT and the correlation of one detector pixel.
//!
//! `read_the_cache [CACHE.zarr]`. Every array is plain Zarr v3, so zarr-python, dask or napari can do this as well.
#![expect(clippy::print_stdout, reason = "an example prints")]

mod common;

use stemstream::cache::Step;
use stemstream::config::Config;
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::{Results, Session};

fn main() -> stemstream::Result<()> {
    let cache = match std::env::args().nth(1) {
        Some(folder) => folder.into(),
        None => make_a_cache()?,
    };
    let results = Results::read(&cache)?;
    let manifest = &results.manifest;
    println!("{} scan of {} pixels, written by {}", manifest.scan, manifest.det, manifest.software);
    for step in Step::ALL {
        println!("{:<12}{}", step.name(), if manifest.is_done(step) { "done" } else { "not done" });
    }

    let crop = results.disk.crop;
    let (row, col) = (crop.shape().rows / 2 + 3, crop.shape().cols / 2);
    println!("detector pixel ({}, {}):", crop.row0 + row, crop.col0 + col);
    let [y, x] = [&results.shift_y, &results.shift_x].map(|map| map[[row, col]]);
    println!("  peak at ({y:.2}, {x:.2}), quality {:.3}", results.quality[[row, col]]);
    // Zero frequency first: the sum of the pixel's image.
    results.for_each_spectrum(&cache, |r, c, spectrum| {
        if (r, c) == (row, col) {
            println!("  bigFT: {} frequencies, {:.0} counts in all", spectrum.len(), spectrum[0].re);
        }
        Ok(())
    })?;
    results.for_each_correlation(&cache, |r, c, correlation| {
        if (r, c) == (row, col) {
            println!("  correlation: largest {:.3}", correlation.iter().copied().fold(f64::MIN, f64::max));
        }
        Ok(())
    })
}

fn make_a_cache() -> stemstream::Result<std::path::PathBuf> {
    let input = common::write_scan("read_the_cache", &common::small_scan())?;
    let cancel = CancelToken::new();
    let session = Session::open(&input, Config::default(), false, &Silent, &cancel)?;
    session.run_to(Step::Reconstruct)?;
    Ok(session.cache_path())
}
