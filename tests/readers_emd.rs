//! Promises about EMD and other HDF5 files: every dialect and storage reads back; damaged files end in a clear error.
#![cfg(feature = "hdf5")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::emd::{EmdDialect, SCAN_STEP_NM, Storage, set_int, set_text, write_dataset, write_emd};
use common::numbered;
use common::writers::{MibLayout, write_mib, write_npy};
use ndarray::{Array4, Axis, s};
use stemstream::axes::{DType, DetShape, ScanShape};
use stemstream::config::SourceConfig;
use stemstream::error::Error;
use stemstream::read::{FrameSource, decode_frames, open};

const SHAPE: (usize, usize, usize, usize) = (5, 7, 6, 4);
const STORAGES: [Storage; 8] = [
    Storage::Contiguous,
    Storage::Chunks([1, 1, 6, 4]),
    Storage::Gzip([1, 1, 6, 4]),
    Storage::Gzip([2, 3, 6, 4]),
    Storage::Gzip([2, 1, 4, 3]),
    Storage::Checked([1, 7, 3, 4]),
    Storage::Chunks([5, 7, 1, 1]),
    Storage::Gzip([3, 2, 5, 4]),
];

fn user(scan: [usize; 2]) -> SourceConfig {
    SourceConfig { scan: Some(scan), ..SourceConfig::default() }
}

fn named(dataset: &str) -> SourceConfig {
    SourceConfig { dataset: Some(dataset.to_owned()), ..SourceConfig::default() }
}

fn opened(path: &Path) -> Box<dyn FrameSource> {
    open(path, &SourceConfig::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn refusal(path: &Path, options: &SourceConfig) -> Error {
    match open(path, options) {
        Ok(source) => panic!("opened {}: {:?}", path.display(), source.info()),
        Err(error) => {
            assert!(error.hint().is_some(), "no hint: {error}");
            error
        }
    }
}

fn values(data: &Array4<u16>) -> Vec<f64> {
    data.iter().map(|&v| f64::from(v)).collect()
}

fn all_frames(source: &dyn FrameSource) -> Vec<f64> {
    decode_frames(source, 0, source.info().scan.len()).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn every_dialect_in_every_storage_decodes_like_mib_and_npy() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    let (mib, npy) = (folder.file("scan.mib"), folder.file("scan.npy"));
    write_mib(&mib, &data, &MibLayout::default());
    write_npy(&npy, &data, "<u2");
    let expected = all_frames(&*open(&mib, &user([5, 7])).unwrap());
    assert_eq!(expected, values(&data));
    assert_eq!(expected, all_frames(&*opened(&npy)));
    for dialect in EmdDialect::ALL {
        for (i, storage) in STORAGES.into_iter().enumerate() {
            let path = folder.file(&format!("{dialect:?}_{i}.h5"));
            write_emd(&path, dialect, &data, storage);
            let source = opened(&path);
            let info = source.info();
            assert_eq!((info.scan, info.det, info.dtype), (ScanShape::new(5, 7), DetShape::new(6, 4), DType::U16));
            assert_eq!(info.payload_bytes, 5 * 7 * 24 * 2);
            assert_eq!(all_frames(&*source), expected, "{dialect:?} {storage:?}");
            let emd = !matches!(dialect, EmdDialect::AbTem | EmdDialect::Plain);
            assert_eq!(info.can_embed_results, emd, "{dialect:?}");
        }
    }
}

#[test]
fn blocks_of_any_size_and_place_agree_with_the_whole() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    let expected = values(&data);
    for dialect in [EmdDialect::Emdfile, EmdDialect::HyperSpy] {
        for storage in STORAGES {
            let path = folder.file("scan.h5");
            write_emd(&path, dialect, &data, storage);
            let source = opened(&path);
            assert!(source.natural_frames() >= 1 && source.held_bytes() <= 64 << 20);
            for (first, count) in [(0, 1), (3, 8), (6, 1), (13, 15), (34, 1), (7, 14), (0, 35)] {
                let block = decode_frames(&*source, first, count).unwrap();
                assert_eq!(block, expected[first * 24..(first + count) * 24], "{storage:?} {first}+{count}");
            }
        }
    }
}

#[test]
fn several_threads_may_read_at_once() {
    let folder = Folder::new();
    let data = numbered((8, 8, 6, 4));
    let path = folder.file("scan.h5");
    write_emd(&path, EmdDialect::Emdfile, &data, Storage::Gzip([3, 2, 5, 4]));
    let (source, expected) = (opened(&path), values(&data));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (source, expected) = (&source, &expected);
            scope.spawn(move || {
                for first in (worker..60).step_by(3) {
                    let block = decode_frames(&**source, first, 4).unwrap();
                    assert_eq!(block, expected[first * 24..(first + 4) * 24]);
                }
            });
        }
    });
}

#[test]
fn a_scan_with_one_chunk_per_frame_opens_in_time_that_grows_with_the_number_of_frames() {
    let folder = Folder::new();
    let data = numbered((128, 128, 2, 2));
    let path = folder.file("scan.h5");
    write_emd(&path, EmdDialect::Emdfile, &data, Storage::Chunks([1, 1, 2, 2]));
    let start = std::time::Instant::now();
    let source = opened(&path);
    // Asking the library for 16384 chunks one by one takes several seconds.
    assert!(start.elapsed().as_secs_f64() < 2.0, "{:?}", start.elapsed());
    assert!(source.info().warnings.is_empty(), "{:?}", source.info().warnings);
    assert_eq!(all_frames(&*source), values(&data));
}

/// Where the samples lie: addresses and sizes of the chunks, or of the one piece.
fn pieces(path: &Path, dataset: &str) -> Vec<(usize, usize)> {
    let file = hdf5::File::open(path).unwrap();
    let dataset = file.dataset(dataset).unwrap();
    if let Some(start) = dataset.offset() {
        return vec![(start as usize, dataset.storage_size() as usize)];
    }
    let chunk = |i| dataset.chunk_info(i).unwrap();
    (0..dataset.num_chunks().unwrap()).map(chunk).map(|c| (c.addr as usize, c.size as usize)).collect()
}

/// Byte in the file where the B-tree's entry for the chunk at `address` begins: size, filter mask, five offsets.
fn tree_entry(bytes: &[u8], address: usize) -> usize {
    let pointer = (address as u64).to_le_bytes();
    bytes.windows(8).position(|w| w == pointer).unwrap() - 48
}

#[test]
fn a_chunk_that_is_stored_unfiltered_among_filtered_ones_is_read() {
    let folder = Folder::new();
    // Noise in small chunks takes more room compressed than plain, so that the plain bytes fit in its place.
    let mut state = 1u32;
    let data = Array4::from_shape_fn(SHAPE, |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as u16
    });
    let path = folder.file("scan.h5");
    write_emd(&path, EmdDialect::Plain, &data, Storage::Gzip([1, 1, 6, 4]));
    let (address, size) = pieces(&path, "scan")[0];
    assert!(size >= 48);
    let mut bytes = fs::read(&path).unwrap();
    let plain: Vec<u8> = data.iter().take(24).flat_map(|v| v.to_le_bytes()).collect();
    bytes[address..address + 48].copy_from_slice(&plain);
    let entry = tree_entry(&bytes, address);
    bytes[entry..entry + 8].copy_from_slice(&[48, 0, 0, 0, 3, 0, 0, 0]);
    fs::write(&path, bytes).unwrap();
    assert_eq!(all_frames(&*opened(&path)), values(&data));
}

#[test]
fn headers_that_lie_about_sizes_are_refused_before_anything_is_allocated() {
    let folder = Folder::new();
    let path = folder.file("scan.h5");
    for storage in [Storage::Contiguous, Storage::Gzip([1, 1, 6, 4])] {
        write_emd(&path, EmdDialect::Plain, &numbered(SHAPE), storage);
        let good = fs::read(&path).unwrap();
        let rows = [5u64, 7, 6].map(u64::to_le_bytes).concat();
        let at = good.windows(24).position(|w| w == rows).unwrap();
        for lie in [1u64 << 40, u64::MAX / 2] {
            let mut bytes = good.clone();
            bytes[at + 8..at + 16].copy_from_slice(&lie.to_le_bytes());
            fs::write(&path, &bytes).unwrap();
            match open(&path, &SourceConfig::default()) {
                // Chunks that were never written are no lie, whatever their number.
                Ok(source) => assert!(source.info().warnings.iter().any(|w| w.contains("never written"))),
                Err(error) => assert_eq!(error.exit_code(), 3, "{error}"),
            }
        }
    }
    let (address, _) = pieces_of_fresh(&path);
    let mut bytes = fs::read(&path).unwrap();
    let entry = tree_entry(&bytes, address);
    bytes[entry..entry + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert_eq!(refusal(&path, &SourceConfig::default()).exit_code(), 3);
}

fn pieces_of_fresh(path: &Path) -> (usize, usize) {
    write_emd(path, EmdDialect::Plain, &numbered(SHAPE), Storage::Gzip([1, 1, 6, 4]));
    pieces(path, "scan")[0]
}

#[test]
fn chunks_that_were_never_written_read_as_the_fill_value_with_a_warning() {
    let folder = Folder::new();
    let data = numbered((4, 4, 3, 3));
    let path = folder.file("scan.h5");
    let file = hdf5::File::create(&path).unwrap();
    let builder = file.new_dataset::<u16>().chunk((1, 1, 3, 3)).deflate(1).fill_value(7u16);
    let dataset = builder.shape((4, 4, 3, 3)).create("scan").unwrap();
    dataset.write_slice(data.slice(s![0..3, .., .., ..]), s![0..3, .., .., ..]).unwrap();
    drop((file, dataset));
    let source = opened(&path);
    assert!(source.info().warnings.iter().any(|w| w.contains("4 of 16 chunks (25.0 %)")), "{:?}", source.info());
    let samples = all_frames(&*source);
    assert_eq!(samples[..108], values(&data)[..108]);
    assert_eq!(samples[108..], [7.0; 36]);
}

#[test]
fn a_dataset_into_which_nothing_was_written_is_refused() {
    let folder = Folder::new();
    for chunked in [true, false] {
        let path = folder.file("scan.h5");
        let file = hdf5::File::create(&path).unwrap();
        let builder = file.new_dataset::<u16>().shape((4, 4, 3, 3));
        let builder = if chunked { builder.chunk((1, 1, 3, 3)) } else { builder.no_chunk() };
        builder.create("scan").unwrap();
        drop(file);
        assert!(refusal(&path, &SourceConfig::default()).to_string().contains("nothing was ever written"));
    }
}

#[test]
fn big_endian_samples_are_read() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    for storage in [Storage::Contiguous, Storage::Gzip([2, 3, 6, 4])] {
        let path = folder.file("scan.h5");
        write_emd(&path, EmdDialect::Plain, &data, storage);
        // The datatype message of a little-endian u16; its second byte's lowest bit is the byte order.
        let mut bytes = fs::read(&path).unwrap();
        let message = [0x10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 16, 0];
        let at = bytes.windows(12).position(|w| w == message).unwrap();
        bytes[at + 1] = 1;
        fs::write(&path, bytes).unwrap();
        let swapped: Vec<f64> = data.iter().map(|v| f64::from(v.swap_bytes())).collect();
        assert_eq!(all_frames(&*opened(&path)), swapped, "{storage:?}");
    }
}

#[test]
fn calibrations_are_read_in_angstrom_and_mrad() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    for (dialect, energy) in [
        (EmdDialect::Emdfile, true),
        (EmdDialect::Prismatic, true),
        (EmdDialect::Ncem, false),
        (EmdDialect::Py4dstem05, false),
        (EmdDialect::Py4dstem13, false),
    ] {
        let path = folder.file("scan.h5");
        write_emd(&path, dialect, &data, Storage::Contiguous);
        let calibration = opened(&path).info().calibration;
        let step = calibration.scan_step_angstrom.unwrap();
        assert!((step - SCAN_STEP_NM * 10.0).abs() < 1e-9, "{dialect:?}: {step}");
        assert_eq!(calibration.energy_ev, energy.then_some(80_000.0), "{dialect:?}");
        // 0.015 1/Å at 80 keV: 0.015 × 0.041757 Å = 0.6264 mrad.
        let angle = calibration.detector_mrad_per_px;
        assert_eq!(angle.is_some(), energy, "{dialect:?}");
        assert!(angle.is_none_or(|a| (a - 0.626_36).abs() < 1e-4), "{dialect:?}: {angle:?}");
    }
}

#[test]
fn a_3d_dataset_needs_the_users_scan() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    for storage in [Storage::Contiguous, Storage::Gzip([1, 1, 6, 4])] {
        let path = folder.file("frames.h5");
        let file = hdf5::File::create(&path).unwrap();
        let frames = data.to_shape((35, 6, 4)).unwrap();
        let builder = file.new_dataset_builder();
        match storage {
            Storage::Contiguous => builder.with_data(frames.view()).create("frames").unwrap(),
            _ => builder.chunk((4, 6, 3)).deflate(2).with_data(frames.view()).create("frames").unwrap(),
        };
        drop(file);
        let error = refusal(&path, &SourceConfig::default());
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("5×7"), "{error}");
        assert_eq!(all_frames(&*open(&path, &user([5, 7])).unwrap()), values(&data));
    }
}

#[test]
fn the_right_dataset_among_several_must_be_named() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    let path = folder.file("two.h5");
    let file = hdf5::File::create(&path).unwrap();
    write_dataset(&file, "first", data.view(), Storage::Contiguous);
    write_dataset(&file, "second", (&data + 1).view(), Storage::Contiguous);
    write_dataset(&file, "image", data.index_axis(Axis(0), 0).index_axis(Axis(0), 0), Storage::Contiguous);
    drop(file);
    let error = refusal(&path, &SourceConfig::default());
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("/first") && error.hint().unwrap().contains("source.dataset"), "{error}");
    assert_eq!(all_frames(&*open(&path, &named("/second")).unwrap()), values(&(&data + 1)));
    for bad in ["/third", "image"] {
        assert_eq!(refusal(&path, &named(bad)).exit_code(), 3);
    }
}

#[test]
fn files_without_a_scan_say_what_they_hold() {
    let folder = Folder::new();
    let path = folder.file("images.h5");
    let file = hdf5::File::create(&path).unwrap();
    file.new_dataset_builder().with_data(&ndarray::arr2(&[[1.0, 2.0], [3.0, 4.0]])).create("image").unwrap();
    drop(file);
    let error = refusal(&path, &SourceConfig::default());
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("/image [2, 2] float64"), "{error}");
}

#[test]
fn known_kinds_that_are_no_scan_are_refused_by_name() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    let refused = |name: &str, make: &dyn Fn(&hdf5::File)| {
        let path = folder.file(name);
        let file = hdf5::File::create(&path).unwrap();
        make(&file);
        drop(file);
        let error = refusal(&path, &SourceConfig::default());
        assert_eq!(error.exit_code(), 3);
        format!("{error}; {}", error.hint().unwrap())
    };
    let cache = refused("cache.h5", &|file| {
        write_dataset(&file.create_group("correlations").unwrap(), "data", data.view(), Storage::Contiguous);
        file.create_group("bigFT").unwrap();
    });
    assert!(cache.contains("a cache, not a dataset"), "{cache}");
    let hspy = refused("a.hspy", &|file| {
        set_text(file, "file_format", "HyperSpy");
        write_dataset(&file.create_group("Experiments/a").unwrap(), "data", data.view(), Storage::Contiguous);
    });
    assert!(hspy.contains("HyperSpy") && hspy.contains("/Experiments/a/data"), "{hspy}");
    let master = refused("a_master.h5", &|file| {
        file.create_group("entry/instrument/detector").unwrap();
    });
    assert!(master.contains("Dectris"), "{master}");
    let spectra = refused("eels.emd", &|file| {
        let group = file.create_group("version_1/data/datacubes/datacube_000").unwrap();
        set_int(&group, "emd_group_type", 1);
        write_dataset(&group, "data", numbered((5, 7, 1, 24)).view(), Storage::Contiguous);
    });
    assert!(spectra.contains("spectra"), "{spectra}");
    let complex = refused("complex.h5", &|file| {
        let zeros = Array4::<num_complex::Complex64>::zeros(SHAPE);
        file.new_dataset_builder().with_data(&zeros).create("wave").unwrap();
    });
    assert!(complex.contains("/wave [5, 7, 6, 4] other"), "{complex}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = Folder::new();
    let path = folder.file("scan.h5");
    for storage in [Storage::Contiguous, Storage::Gzip([2, 2, 5, 3]), Storage::Checked([1, 1, 3, 3])] {
        write_emd(&path, EmdDialect::Emdfile, &numbered((3, 4, 5, 3)), storage);
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(whole.len() / 100).chain([whole.len() - 1]) {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(refusal(&path, &SourceConfig::default()).exit_code(), 3, "{length} bytes");
        }
    }
}

#[test]
fn damaged_samples_are_an_error_or_other_numbers_and_with_a_checksum_always_an_error() {
    let folder = Folder::new();
    let path = folder.file("scan.h5");
    for storage in [Storage::Contiguous, Storage::Gzip([2, 2, 5, 3]), Storage::Checked([1, 1, 3, 3])] {
        write_emd(&path, EmdDialect::Emdfile, &numbered((3, 4, 5, 3)), storage);
        let whole = fs::read(&path).unwrap();
        for (start, size) in pieces(&path, EmdDialect::Emdfile.dataset()) {
            for at in (start..start + size).step_by(7) {
                let mut damaged = whole.clone();
                damaged[at] ^= 0xff;
                fs::write(&path, &damaged).unwrap();
                match decode_frames(&*opened(&path), 0, 12) {
                    Ok(samples) => {
                        assert_eq!(samples.len(), 12 * 15);
                        assert!(!matches!(storage, Storage::Checked(_)), "byte {at}");
                    }
                    Err(error) => assert_eq!(error.exit_code(), 3),
                }
            }
        }
    }
}

#[test]
fn results_can_be_added_while_a_source_is_open() {
    let folder = Folder::new();
    for (dialect, storage) in
        [(EmdDialect::Emdfile, Storage::Gzip([2, 2, 5, 3])), (EmdDialect::HyperSpy, Storage::Contiguous)]
    {
        let path = folder.file("scan.emd");
        let data = numbered((3, 4, 5, 3));
        write_emd(&path, dialect, &data, storage);
        let source = opened(&path);
        let file = hdf5::File::open_rw(&path).unwrap();
        file.create_group("superres_results").unwrap();
        drop(file);
        assert_eq!(all_frames(&*source), values(&data));
    }
}
