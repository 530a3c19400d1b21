//! The HDF5 cache: the documented layout, whole or not there.
#![cfg(feature = "hdf5")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod export_common;

use std::fs;
use std::path::Path;

use export_common::{alone, check};
use num_complex::Complex;
use stemstream::axes::{Crop, DetShape, ScanShape};
use stemstream::config::Compression;
use stemstream::error::Result;
use stemstream::export::hdf5_cache::{CacheArray, CacheMeta, Hdf5CacheWriter, cache_file};
use stemstream::export::hdf5_copy::{Take, fill};
use stemstream::export::hdf5_in_place::{finish_in_place, lay_out_in_place};
use stemstream::memory::MemoryBudget;
use stemstream::progress::CancelToken;
use stemstream::store::{Io, PlacedArray};

fn meta() -> CacheMeta {
    CacheMeta {
        linked_emd_path: "/data/mydata.emd".into(),
        timestamp: "20250107_153045".into(),
        scan: ScanShape::new(6, 10),
        det: DetShape::new(14, 16),
        crop: Crop { row0: 2, row1: 11, col0: 3, col1: 14 },
        bf_center: [6.25, 8.5],
        crop_radius: 5,
        reference_smoothing: 0.5,
        normalization_applied: true,
        compression: Compression::None,
    }
}

/// The value that the checking program expects at `[i, j, row, col]`.
fn value(i: usize, j: usize, row: usize, col: usize) -> f64 {
    (i * 1000 + j * 100 + row * 10) as f64 + col as f64 / 16.0
}

fn spectrum(row: usize, col: usize) -> Vec<Complex<f64>> {
    let scan = meta().scan;
    (0..scan.len()).map(|p| Complex::new(value(p / scan.cols, p % scan.cols, row, col), -(p as f64))).collect()
}

fn correlation(row: usize, col: usize) -> Vec<f64> {
    let scan = meta().scan;
    (0..scan.len()).map(|p| value(p / scan.cols, p % scan.cols, row, col) / 7.0).collect()
}

fn write(path: &Path) -> Hdf5CacheWriter {
    let mut writer = Hdf5CacheWriter::create(path, &meta()).unwrap();
    let crop = meta().crop.shape();
    // Against the order of storage: any order must do.
    for pixel in (0..crop.len()).rev() {
        let (row, col) = (pixel / crop.cols, pixel % crop.cols);
        writer.write_bigft_pixel(row, col, &spectrum(row, col)).unwrap();
        writer.write_correlation_pixel(row, col, &correlation(row, col)).unwrap();
    }
    writer
}

#[test]
fn the_cache_has_the_documented_layout() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = cache_file(dir.path(), "mydata", "20250107_153045");
    assert_eq!(path.file_name().unwrap(), "mydata_superres_cache_20250107_153045.h5");
    let finished = write(&path).finish(5).unwrap();
    assert_eq!(finished, path);
    check(&["cache", path.to_str().unwrap()]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file may stay");
    assert!(fs::metadata(&path).unwrap().len() <= meta().file_bytes(), "the promise about the size must hold");
}

/// All images of both arrays, against the order of storage.
fn hand_over(take: &mut Take<'_>) -> Result<()> {
    let crop = meta().crop.shape();
    for pixel in (0..crop.len()).rev() {
        let (row, col) = (pixel / crop.cols, pixel % crop.cols);
        take(CacheArray::BigFt, row, col, bytemuck::cast_slice(&spectrum(row, col)))?;
        take(CacheArray::Correlations, row, col, bytemuck::cast_slice(&correlation(row, col)))?;
    }
    Ok(())
}

#[test]
fn a_cache_filled_by_several_threads_holds_the_same_compressed_or_not() {
    let _alone = alone();
    let mut sizes = Vec::new();
    for compression in [Compression::None, Compression::Gzip] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.h5");
        let mut writer = Hdf5CacheWriter::create(&path, &CacheMeta { compression, ..meta() }).unwrap();
        let budget = MemoryBudget::new(1 << 20);
        fill(&mut writer, Box::new(hand_over), (compression, 3), &budget, &CancelToken::new()).unwrap();
        assert_eq!(budget.used(), 0);
        writer.finish(5).unwrap();
        check(&["cache", path.to_str().unwrap()]);
        // And by the library itself, wherever Python is not to be had.
        let file = hdf5::File::open(&path).unwrap();
        let data = file.dataset("correlations/data").unwrap().read_dyn::<f64>().unwrap();
        assert_eq!(data[[3, 7, 2, 5]].to_bits(), (value(3, 7, 2, 5) / 7.0).to_bits());
        assert_eq!(file.dataset("bigFT/data").unwrap().filters().is_empty(), compression == Compression::None);
        sizes.push(fs::metadata(&path).unwrap().len());
    }
    assert!(sizes[1] < sizes[0], "{sizes:?}");
}

#[test]
fn a_cache_laid_out_first_and_filled_in_place_is_the_same() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = cache_file(dir.path(), "mydata", "20250107_153045");
    let laid_out = lay_out_in_place(&path, &meta()).unwrap().unwrap();
    assert!(!path.exists() && laid_out.file.exists());
    assert!(fs::metadata(&laid_out.file).unwrap().len() <= meta().file_bytes(), "the promise about the size must hold");
    // Nothing but the layout is written before the numbers are.
    assert!(stemstream::store::disk_usage(&laid_out.file) < 300 << 10);
    let io = Io { map: true, window: None, direct: true };
    let [spectra, correlations] = [laid_out.bigft, laid_out.correlations]
        .map(|place| PlacedArray::open(&laid_out.file, place, true, io).unwrap());
    let crop = meta().crop.shape();
    for pixel in (0..crop.len()).rev() {
        let (row, col) = (pixel / crop.cols, pixel % crop.cols);
        let numbers = spectrum(row, col);
        spectra.write(pixel, bytemuck::cast_slice::<_, f64>(&numbers), |number| number).unwrap();
        correlations.write(pixel, &correlation(row, col), |number| number).unwrap();
    }
    assert_eq!(finish_in_place(&laid_out.file, 5).unwrap(), path);
    check(&["cache", path.to_str().unwrap()]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file may stay");
    let file = hdf5::File::open(&path).unwrap();
    let data = file.dataset("correlations/data").unwrap().read_dyn::<f64>().unwrap();
    assert_eq!(data[[3, 7, 2, 5]].to_bits(), (value(3, 7, 2, 5) / 7.0).to_bits());
}

#[test]
fn two_layouts_of_one_name_get_files_of_their_own_and_never_one_that_is_there() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.h5");
    let first = lay_out_in_place(&path, &meta()).unwrap().unwrap();
    let second = lay_out_in_place(&path, &meta()).unwrap().unwrap();
    assert_eq!(second.file, dir.path().join("c_2.h5.unfinished"));
    assert_eq!((first.bigft, first.correlations), (second.bigft, second.correlations));
    fs::write(&path, "precious").unwrap();
    // The name was free when the file was laid out.
    assert_eq!(finish_in_place(&first.file, 5).unwrap(), dir.path().join("c_2.h5"));
    assert_eq!(finish_in_place(&second.file, 5).unwrap(), dir.path().join("c_2_2.h5"));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_layout_that_cannot_be_leaves_nothing_behind() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.h5");
    let packed = CacheMeta { compression: Compression::Gzip, ..meta() };
    assert_eq!(lay_out_in_place(&path, &packed).unwrap(), None, "packed images have no place that is known before");
    let huge = CacheMeta { scan: ScanShape::new(1 << 20, 1 << 20), ..meta() };
    assert_eq!(lay_out_in_place(&path, &huge).unwrap_err().exit_code(), 5);
    assert_eq!(lay_out_in_place(&dir.path().join("no/c.h5"), &meta()).unwrap_err().exit_code(), 2);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn packed_images_do_not_go_into_a_cache_without_compression() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Hdf5CacheWriter::create(&dir.path().join("c.h5"), &meta()).unwrap();
    let error = writer.write_packed_pixel(CacheArray::BigFt, 0, 0, &[1, 2, 3]).unwrap_err();
    assert_eq!(error.exit_code(), 1, "{error}");
}

#[test]
fn a_cache_that_is_not_finished_never_bears_the_name_of_one() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.h5");
    let writer = write(&path);
    assert!(!path.exists() && dir.path().join("c.h5.part").exists());
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_finished_cache_is_never_overwritten() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.h5");
    fs::write(&path, "precious").unwrap();
    let writer = write(&path);
    assert_eq!(writer.path(), dir.path().join("c_2.h5"));
    assert_eq!(writer.finish(5).unwrap(), dir.path().join("c_2.h5"));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_step_whose_pixels_are_missing_is_not_called_complete() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.h5");
    let mut writer = Hdf5CacheWriter::create(&path, &meta()).unwrap();
    writer.write_bigft_pixel(0, 0, &spectrum(0, 0)).unwrap();
    let error = writer.finish(2).unwrap_err();
    assert!(error.to_string().contains("98 of 99 pixels of `bigFT`"), "{error}");
    assert!(!path.exists());
}

#[test]
fn pixels_outside_the_crop_and_images_of_another_size_are_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Hdf5CacheWriter::create(&dir.path().join("c.h5"), &meta()).unwrap();
    assert!(writer.write_correlation_pixel(9, 0, &correlation(0, 0)).is_err());
    assert!(writer.write_correlation_pixel(0, 11, &correlation(0, 0)).is_err());
    assert!(writer.write_correlation_pixel(0, 0, &correlation(0, 0)[1..]).is_err());
}

#[test]
fn a_disk_without_room_is_noticed_before_anything_is_written() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let huge = CacheMeta { scan: ScanShape::new(1 << 20, 1 << 20), ..meta() };
    let error = Hdf5CacheWriter::create(&dir.path().join("c.h5"), &huge).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("free disk"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
