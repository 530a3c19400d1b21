//! Real files of instruments and other programs decode to the known checksums. Skipped where they are absent.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};
use stemstream::axes::{DetShape, Sample};
use stemstream::config::SourceConfig;
use stemstream::read::{FrameSource, open};

/// Shape of all frames, sum, largest sample and the beginning of the SHA-256 of the little-endian samples.
#[derive(Debug, PartialEq)]
struct Digested {
    frames: usize,
    det: DetShape,
    sum: f64,
    max: f64,
    sha: String,
}

fn digest(source: &dyn FrameSource) -> Digested {
    let info = source.info();
    let frames = info.scan.len();
    let mut buffer = vec![0; source.block_bytes(frames)];
    let block = source.read_block(0, frames, &mut buffer).unwrap();
    let (mut sum, mut max, mut hash) = (0.0, 0.0_f64, Sha256::new());
    stemstream::with_sample_type!(block.dtype, T => {
        for frame in 0..frames {
            for bytes in block.frame(frame).chunks_exact(size_of::<T>()) {
                let mut bytes = bytes.to_vec();
                if block.endian == stemstream::axes::Endian::Big {
                    bytes.reverse();
                }
                let sample: T = bytemuck::pod_read_unaligned(&bytes);
                sum += Sample::to_f64(sample);
                max = max.max(Sample::to_f64(sample));
                hash.update(&bytes);
            }
        }
    });
    let mut sha = String::new();
    for byte in hash.finalize().iter().take(8) {
        write!(sha, "{byte:02x}").unwrap();
    }
    Digested { frames, det: info.det, sum, max, sha }
}

/// name, pixel type, frames, rows, cols, sum, max, sha.
type Row = (&'static str, &'static str, usize, usize, usize, f64, f64, &'static str);

const MERLIN: [Row; 18] = [
    ("001_4x2_6bit", "U08", 8, 256, 256, 3_623_664.0, 63.0, "ad4f95c4baa54eb1"),
    ("002_4x2_6bit_roi128", "U08", 8, 128, 256, 3_263_829.0, 63.0, "da74e20313731e5d"),
    ("Quad_1_Frame_CounterDepth_12_Rows_256", "U16", 1, 512, 512, 845_907.0, 4093.0, "4240a9ab437642ce"),
    ("Quad_1_Frame_CounterDepth_1_Rows_256", "U08", 1, 512, 512, 10_331.0, 1.0, "e024a50d4e46cd12"),
    ("Quad_1_Frame_CounterDepth_24_Rows_256", "U32", 1, 512, 512, 778_764.0, 4095.0, "9884ca652c3a08a7"),
    ("Quad_1_Frame_CounterDepth_6_Rows_256", "U08", 1, 512, 512, 115_263.0, 63.0, "755b88aadc305b7e"),
    ("Quad_9_Frame_CounterDepth_12_Rows_256", "U16", 9, 512, 512, 7_229_086.0, 4095.0, "da8d0d2ab3f822f8"),
    ("Quad_9_Frame_CounterDepth_1_Rows_256", "U08", 9, 512, 512, 92_639.0, 1.0, "be3fd5ba7a34fb0b"),
    ("Quad_9_Frame_CounterDepth_24_Rows_256", "U32", 9, 512, 512, 7_285_037.0, 4095.0, "91d2baadba4773a3"),
    ("Quad_9_Frame_CounterDepth_6_Rows_256", "U08", 9, 512, 512, 1_032_369.0, 63.0, "74ed0bada7432659"),
    ("Single_1_Frame_CounterDepth_12_Rows_256", "U16", 1, 256, 256, 28_911.0, 2239.0, "30cc90bfe5b2e130"),
    ("Single_1_Frame_CounterDepth_1_Rows_256", "U08", 1, 256, 256, 2398.0, 1.0, "c802e5eca96e4e0f"),
    ("Single_1_Frame_CounterDepth_24_Rows_256", "U32", 1, 256, 256, 29_416.0, 2255.0, "60b69317513cc1b2"),
    ("Single_1_Frame_CounterDepth_6_Rows_256", "U08", 1, 256, 256, 24_336.0, 63.0, "1e3927b628766222"),
    ("Single_9_Frame_CounterDepth_12_Rows_256", "U16", 9, 256, 256, 260_753.0, 2216.0, "f6319d514bda21cf"),
    ("Single_9_Frame_CounterDepth_1_Rows_256", "U08", 9, 256, 256, 21_614.0, 1.0, "5390a497acd2f1e8"),
    ("Single_9_Frame_CounterDepth_24_Rows_256", "U32", 9, 256, 256, 258_156.0, 2074.0, "000f995de099a0b1"),
    ("Single_9_Frame_CounterDepth_6_Rows_256", "U08", 9, 256, 256, 217_684.0, 63.0, "d0bbb81acecbed41"),
];

fn unpack_merlin(into: &Path) -> bool {
    let Some(folder) = common::real_files() else {
        return false;
    };
    for name in ["Merlin_Single_Quad.zip", "Merlin_navigation4x2_ROI.zip"] {
        let file = File::open(folder.join("merlin").join(name)).unwrap();
        zip::ZipArchive::new(file).unwrap().extract(into).unwrap();
    }
    true
}

#[test]
fn merlin_files_decode_to_the_known_checksums() {
    let folder = tempfile::tempdir().unwrap();
    if !unpack_merlin(folder.path()) {
        return;
    }
    for (name, pixel, frames, rows, cols, sum, max, sha) in MERLIN {
        let path = folder.path().join(format!("{name}.mib"));
        let scan = Some([1, frames]);
        let source = open(&path, &SourceConfig { scan, ..SourceConfig::default() }).unwrap();
        assert!(source.info().format.contains(pixel), "{name}: {}", source.info().format);
        let expected = Digested { frames, det: DetShape::new(rows, cols), sum, max, sha: sha.to_owned() };
        assert_eq!(digest(&*source), expected, "{name}");
    }
}

#[test]
fn only_the_two_real_line_scans_show_their_shape() {
    let folder = tempfile::tempdir().unwrap();
    if !unpack_merlin(folder.path()) {
        return;
    }
    for (name, ..) in MERLIN {
        let path = folder.path().join(format!("{name}.mib"));
        match open(&path, &SourceConfig::default()) {
            Ok(source) => {
                assert!(name.contains("4x2"), "{name}: {:?}", source.info().scan_evidence);
                assert_eq!((source.info().scan.rows, source.info().scan.cols), (2, 4), "{name}");
                assert!(source.info().files.len() == 2, "the header file is not listed");
            }
            Err(error) => {
                assert_eq!(error.exit_code(), 4, "{name}: {error}");
                assert!(!name.contains("4x2"), "{name}: {error}");
            }
        }
    }
}

#[test]
fn raw_merlin_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    if !unpack_merlin(folder.path()) {
        return;
    }
    for (chips, frames) in [("Quad", 1), ("Quad", 9), ("Single", 1), ("Single", 9)] {
        let path = folder.path().join(format!("{chips}_{frames}_Frame_CounterDepth_1_Rows_256RAW.mib"));
        let Err(error) = open(&path, &SourceConfig::default()) else {
            panic!("opened {}", path.display());
        };
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("R64"), "{error}");
    }
}

#[test]
fn files_of_kinds_without_a_reader_are_refused_kindly() {
    let Some(folder) = common::real_files() else {
        return;
    };
    for (name, word) in [
        ("blockfile/test1.blo", "blockfile"),
        ("empad/map4x4.xml", "EMPAD"),
        ("zspy/signal1d_10x10-ZipStore.zspy", "zipped Zarr"),
        ("zspy/signal1d_10x10-DirectoryStore.zspy", "Zarr folder"),
    ] {
        let Err(error) = open(&folder.join(name), &SourceConfig::default()) else {
            panic!("opened {name}");
        };
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(word) && error.hint().is_some(), "{name}: {error}");
    }
}

#[cfg(feature = "hdf5")]
#[test]
fn the_real_py4dstem_file_decodes_to_the_known_checksum() {
    let Some(folder) = common::real_files() else {
        return;
    };
    let source = open(&folder.join("emd/py4DSTEM_size2x3x4x5.h5"), &SourceConfig::default()).unwrap();
    let info = source.info();
    assert_eq!((info.scan.rows, info.scan.cols), (2, 3));
    assert_eq!(info.dtype, stemstream::axes::DType::F32);
    assert!(info.calibration.scan_step_angstrom.is_some(), "{info:?}");
    let found = digest(&*source);
    assert_eq!((found.det, found.sha.as_str()), (DetShape::new(4, 5), "4cf80807a75612f1"));
    assert!((found.sum - 28_255.876_953).abs() < 0.01, "{}", found.sum);
}

#[cfg(feature = "hdf5")]
#[test]
fn the_two_cubes_of_the_real_prismatic_file_are_offered_and_read_by_name() {
    let Some(folder) = common::real_files() else {
        return;
    };
    let path = folder.join("emd/Si100_4D.emd");
    let Err(error) = open(&path, &SourceConfig::default()) else {
        panic!("one of two cubes was chosen without a word");
    };
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("CBED_array_depth0001/datacube"), "{error}");
    let mut sum = 0.0;
    for depth in 0..2 {
        let dataset = format!("/4DSTEM_simulation/data/datacubes/CBED_array_depth000{depth}/datacube");
        let source = open(&path, &SourceConfig { dataset: Some(dataset), ..SourceConfig::default() }).unwrap();
        let info = source.info();
        assert_eq!((info.scan.rows, info.det), (11, DetShape::new(8, 8)));
        assert_eq!(info.calibration.energy_ev, Some(100_000.0));
        assert!(info.calibration.detector_mrad_per_px.is_some(), "{info:?}");
        sum += digest(&*source).sum;
    }
    assert!((sum - 221.275_695_8).abs() < 1e-3, "{sum}");
}

#[cfg(feature = "hdf5")]
#[test]
fn real_hdf5_files_without_a_scan_are_refused_kindly() {
    let Some(folder) = common::real_files() else {
        return;
    };
    for (name, code, word) in [
        ("emd/example_image.emd", 3, "/signals/__unnamed__/data [3, 3]"),
        ("emd/example_signal.emd", 4, "3 frames"),
        ("hspy/example2_v3.1.hspy", 3, "HyperSpy"),
        ("hspy/example2_v2.2.hspy", 3, "HyperSpy"),
        ("arina/test_00_master.h5", 3, "Dectris"),
    ] {
        let Err(error) = open(&folder.join(name), &SourceConfig::default()) else {
            panic!("opened {name}");
        };
        assert_eq!(error.exit_code(), code, "{name}: {error}");
        assert!(error.to_string().contains(word) && error.hint().is_some(), "{name}: {error}");
    }
}
