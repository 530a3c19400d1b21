//! Promises about MIB and npy files: what was written is what is read, and damaged files end in a clear error.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::numbered;
use common::writers::{MibLayout, write_hdr, write_mib, write_npy, write_npy_shaped};
use ndarray::Array4;
use stemstream::axes::{DType, DetShape, ScanShape};
use stemstream::config::{Excess, Incomplete, SourceConfig};
use stemstream::error::Error;
use stemstream::read::{Confidence, FrameSource, decode_frames, open};

const SHAPE: (usize, usize, usize, usize) = (5, 7, 6, 4);

fn user(scan: [usize; 2]) -> SourceConfig {
    SourceConfig { scan: Some(scan), ..SourceConfig::default() }
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

fn expect_samples(source: &dyn FrameSource, data: &Array4<u16>) {
    let count = source.info().scan.len();
    let samples = decode_frames(source, 0, count).unwrap();
    let expected: Vec<f64> = data.iter().map(|&v| f64::from(v)).collect();
    assert_eq!(samples.len(), count * source.info().det.len());
    assert_eq!(samples, expected[..samples.len()]);
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn mib(&self, data: &Array4<u16>, layout: &MibLayout) -> PathBuf {
        let path = self.file("scan.mib");
        write_mib(&path, data, layout);
        path
    }
}

#[test]
fn every_mib_pixel_type_and_chip_count_reads_back() {
    let folder = Folder::new();
    for (pixel, dtype) in [("U08", DType::U8), ("U16", DType::U16), ("U32", DType::U32)] {
        for chips in [1, 4] {
            let data = numbered(SHAPE).mapv(|v| if pixel == "U08" { v % 256 } else { v });
            let path = folder.mib(&data, &MibLayout { pixel, chips, ..MibLayout::default() });
            let source = open(&path, &user([5, 7])).unwrap();
            assert_eq!((source.info().dtype, source.info().det), (dtype, DetShape::new(6, 4)));
            assert_eq!(source.info().payload_bytes, (5 * 7 * 24 * dtype.size()) as u64);
            expect_samples(&*source, &data);
        }
    }
}

#[test]
fn a_block_in_the_middle_holds_just_those_frames() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    let source = open(&folder.mib(&data, &MibLayout::default()), &user([5, 7])).unwrap();
    let all = decode_frames(&*source, 0, 35).unwrap();
    assert_eq!(decode_frames(&*source, 9, 3).unwrap(), all[9 * 24..12 * 24]);
}

#[test]
fn rows_of_frames_are_those_of_whole_frames() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    let npy = folder.file("scan.npy");
    write_npy(&npy, &data, "<u2");
    for path in [folder.mib(&data, &MibLayout::default()), npy] {
        let source = open(&path, &user([5, 7])).unwrap();
        for forget in [false, true] {
            source.begin_pass(forget, false);
            for (frames, rows) in [(0..35, 0..6), (9..12, 0..2), (9..12, 2..6), (34..35, 5..6), (3..4, 0..6)] {
                let mut buffer = vec![0; source.block_bytes(frames.len())];
                let block = source.read_rows(frames.clone(), rows.clone(), &mut buffer).unwrap();
                assert_eq!((block.frames, block.det), (frames.len(), DetShape::new(rows.len(), 4)));
                let mut whole = vec![0; source.block_bytes(frames.len())];
                let all = source.read_block(frames.start, frames.len(), &mut whole).unwrap();
                for frame in 0..frames.len() {
                    assert_eq!(
                        block.frame(frame),
                        &all.frame(frame)[rows.start * 8..rows.end * 8],
                        "{frames:?} {rows:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_damaged_header_is_found_by_who_reads_a_frames_first_rows() {
    let folder = Folder::new();
    let path = folder.mib(&numbered(SHAPE), &MibLayout::default());
    let source = open(&path, &user([5, 7])).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let frame = bytes.len() / 35;
    bytes[20 * frame..20 * frame + 3].fill(b'x');
    fs::write(&path, bytes).unwrap();
    let mut buffer = vec![0; source.block_bytes(8)];
    assert!(source.read_rows(16..24, 3..6, &mut buffer).is_ok(), "these rows lie behind the header");
    for rows in [0..2, 0..6] {
        let error = source.read_rows(16..24, rows, &mut buffer).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("frame 20"), "{error}");
    }
}

#[test]
fn the_scan_shape_comes_from_scan_x_and_scan_y() {
    let folder = Folder::new();
    let path = folder.mib(&numbered(SHAPE), &MibLayout::default());
    write_hdr(&path, 35, Some([5, 7]), 0);
    let source = open(&path, &SourceConfig::default()).unwrap();
    assert_eq!(source.info().scan, ScanShape::new(5, 7));
    assert_eq!(source.info().scan_evidence[0].confidence, Confidence::Explicit);
    assert_eq!(source.info().files.len(), 2);
}

#[test]
fn the_scan_shape_comes_from_frames_per_trigger() {
    let folder = Folder::new();
    let path = folder.mib(&numbered(SHAPE), &MibLayout::default());
    write_hdr(&path, 35, None, 7);
    assert_eq!(open(&path, &SourceConfig::default()).unwrap().info().scan, ScanShape::new(5, 7));
}

#[test]
fn the_scan_shape_comes_from_the_fly_back_time() {
    let folder = Folder::new();
    let path = folder.mib(&numbered(SHAPE), &MibLayout { flyback_ns: 20_820, ..MibLayout::default() });
    let source = open(&path, &SourceConfig::default()).unwrap();
    assert_eq!(source.info().scan, ScanShape::new(5, 7));
    assert_eq!(source.info().scan_evidence[0].confidence, Confidence::Timing);
}

#[test]
fn a_scan_with_more_frames_than_are_timed_is_checked_at_its_end() {
    let folder = Folder::new();
    let path = folder.mib(&numbered((90, 50, 2, 2)), &MibLayout { flyback_ns: 50_000, ..MibLayout::default() });
    assert_eq!(open(&path, &SourceConfig::default()).unwrap().info().scan, ScanShape::new(90, 50));
}

#[test]
fn hints_that_disagree_and_shapes_that_do_not_fit_are_unresolved() {
    let folder = Folder::new();
    let path = folder.mib(&numbered((4, 9, 2, 2)), &MibLayout::default());
    assert_eq!(refusal(&path, &SourceConfig::default()).exit_code(), 4);
    let error = refusal(&path, &user([4, 8]));
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("4×9"), "{error}");
    write_hdr(&path, 36, Some([4, 9]), 6);
    let error = refusal(&path, &SourceConfig::default());
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("disagree"), "{error}");
}

#[test]
fn a_cut_last_frame_names_the_missing_bytes_and_trim_keeps_the_rows() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    let path = folder.mib(&data, &MibLayout::default());
    write_hdr(&path, 35, Some([5, 7]), 0);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    let error = refusal(&path, &SourceConfig::default());
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("lacks 10 bytes"), "{error}");
    assert!(error.hint().unwrap().contains("source.incomplete=trim"));
    let source = open(&path, &SourceConfig { incomplete: Incomplete::Trim, ..SourceConfig::default() }).unwrap();
    assert_eq!(source.info().scan, ScanShape::new(4, 7));
    expect_samples(&*source, &data);
}

#[test]
fn frames_at_both_ends_can_be_left_out() {
    let folder = Folder::new();
    let data = numbered((1, 14, 3, 3));
    let path = folder.mib(&data, &MibLayout::default());
    let options =
        SourceConfig { scan: Some([3, 4]), skip_frames: 1, excess: Excess::Ignore, ..SourceConfig::default() };
    let source = open(&path, &options).unwrap();
    let expected: Vec<f64> = data.iter().skip(9).take(12 * 9).map(|&v| f64::from(v)).collect();
    assert_eq!(decode_frames(&*source, 0, 12).unwrap(), expected);
}

#[test]
fn alternating_counters_and_colour_mode_are_refused() {
    let folder = Folder::new();
    let path = folder.mib(&numbered(SHAPE), &MibLayout { two_counters: true, ..MibLayout::default() });
    assert!(refusal(&path, &user([5, 7])).to_string().contains("two counters"));
    let path = folder.mib(&numbered(SHAPE), &MibLayout::default());
    let text = fs::read(&path).unwrap();
    let at = text.windows(7).position(|w| w == b",0,0,0,").unwrap() + 3;
    let mut colour = text;
    colour[at] = b'1';
    fs::write(&path, colour).unwrap();
    assert!(refusal(&path, &user([5, 7])).to_string().contains("colour"));
}

#[test]
fn a_frame_of_another_size_is_noticed() {
    let folder = Folder::new();
    let path = folder.mib(&numbered(SHAPE), &MibLayout::default());
    let mut bytes = fs::read(&path).unwrap();
    let stride = bytes.len() / 35;
    bytes.drain(20 * stride..20 * stride + 2);
    bytes.extend([0, 0]);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(refusal(&path, &user([5, 7])).exit_code(), 3);
}

#[test]
fn a_damaged_header_between_the_checked_ones_stops_the_read() {
    let folder = Folder::new();
    let path = folder.mib(&numbered(SHAPE), &MibLayout::default());
    let mut bytes = fs::read(&path).unwrap();
    let stride = bytes.len() / 35;
    bytes[10 * stride] = b'X';
    fs::write(&path, &bytes).unwrap();
    let source = open(&path, &user([5, 7])).unwrap();
    let error = decode_frames(&*source, 8, 4).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("frame 10"), "{error}");
}

#[test]
fn every_npy_type_and_version_reads_back() {
    let folder = Folder::new();
    let data = numbered(SHAPE).mapv(|v| v % 100);
    let path = folder.file("scan.npy");
    for descr in ["|u1", "|i1", "|b1", "<u2", ">u2", "<u4", ">i4", "<i2", "<u8", ">i8", "<f4", ">f4", "<f8", ">f8"] {
        write_npy(&path, &data, descr);
        expect_samples(&*open(&path, &SourceConfig::default()).unwrap(), &data);
    }
    for version in [1, 2, 3] {
        write_npy_shaped(&path, &data, "<u2", "(5, 7, 6, 4)", version);
        expect_samples(&*open(&path, &SourceConfig::default()).unwrap(), &data);
    }
}

#[test]
fn a_3d_npy_needs_the_users_scan_and_other_dimensions_are_refused() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    let path = folder.file("scan.npy");
    write_npy_shaped(&path, &data, "<u2", "(35, 6, 4)", 1);
    assert_eq!(refusal(&path, &SourceConfig::default()).exit_code(), 4);
    expect_samples(&*open(&path, &user([5, 7])).unwrap(), &data);
    for shape in ["(35, 24)", "(840,)", "()", "(5, 7, 6, 2, 2)", "(5, 7, 0, 4)"] {
        write_npy_shaped(&path, &data, "<u2", shape, 1);
        assert_eq!(refusal(&path, &SourceConfig::default()).exit_code(), 3, "{shape}");
    }
}

#[test]
fn npy_files_that_are_not_plain_numbers_in_c_order_are_refused() {
    let folder = Folder::new();
    let path = folder.file("scan.npy");
    write_npy(&path, &numbered(SHAPE), "<u2");
    let good = fs::read(&path).unwrap();
    for (from, to, word) in [
        ("False,", "True, ", "Fortran"),
        ("'<u2'", "'|O '", "type"),
        ("'<u2'", "'|O' ", "objects"),
        ("'<u2'", "'<c8'", "complex"),
        ("'<u2'", "[('a'", "structured"),
        ("'<u2'", "'<f2'", "half"),
        ("(5, 7", "(5, x", "shape"),
    ] {
        let at = good.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bad = good.clone();
        bad[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, bad).unwrap();
        let error = refusal(&path, &SourceConfig::default());
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(word), "{to}: {error}");
    }
}

#[test]
fn trailing_bytes_warn_and_missing_ones_are_counted() {
    let folder = Folder::new();
    let path = folder.file("scan.npy");
    write_npy(&path, &numbered(SHAPE), "<u2");
    let good = fs::read(&path).unwrap();
    fs::write(&path, [&good[..], b"extra"].concat()).unwrap();
    assert_eq!(open(&path, &SourceConfig::default()).unwrap().info().warnings.len(), 1);
    fs::write(&path, &good[..good.len() - 3]).unwrap();
    let error = refusal(&path, &SourceConfig::default());
    assert!(error.to_string().contains("3 B missing"), "{error}");
    let trim = SourceConfig { incomplete: Incomplete::Trim, ..SourceConfig::default() };
    assert_eq!(open(&path, &trim).unwrap().info().scan, ScanShape::new(4, 7));
}

#[test]
fn sizes_that_overflow_are_refused_before_anything_is_allocated() {
    let folder = Folder::new();
    let data = numbered(SHAPE);
    let path = folder.file("scan.npy");
    for shape in [
        "(4294967296, 4294967296, 6, 4)",
        "(5, 7, 4294967296, 4294967296)",
        "(18446744073709551615, 1, 1, 1)",
        "(99999999999999999999999, 1, 1, 1)",
        "(1000000, 1000000, 256, 256)",
    ] {
        write_npy_shaped(&path, &data, "<u2", shape, 1);
        assert_eq!(refusal(&path, &SourceConfig::default()).exit_code(), 3, "{shape}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_a_correct_beginning() {
    let folder = Folder::new();
    let data = numbered((3, 4, 5, 2));
    let npy = folder.file("scan.npy");
    write_npy(&npy, &data, ">u2");
    let mib = folder.mib(&data, &MibLayout::default());
    write_hdr(&mib, 12, Some([3, 4]), 0);
    for path in [npy, mib] {
        let whole = fs::read(&path).unwrap();
        for incomplete in [Incomplete::Error, Incomplete::Trim] {
            let options = SourceConfig { incomplete, ..SourceConfig::default() };
            for length in (0..whole.len()).step_by(7).chain(whole.len() - 5..whole.len()) {
                fs::write(&path, &whole[..length]).unwrap();
                match open(&path, &options) {
                    Ok(source) => {
                        assert_eq!(incomplete, Incomplete::Trim, "{length} bytes were accepted");
                        expect_samples(&*source, &data);
                    }
                    Err(error) => assert!([3, 4].contains(&error.exit_code()), "{length}: {error}"),
                }
            }
        }
    }
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error() {
    let folder = Folder::new();
    let path = folder.file("scan.npy");
    write_npy(&path, &numbered(SHAPE), "<u2");
    let source = open(&path, &SourceConfig::default()).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(500).unwrap();
    assert_eq!(decode_frames(&*source, 0, 35).unwrap_err().exit_code(), 3);
}

#[cfg(not(feature = "hdf5"))]
#[test]
fn a_build_without_hdf5_says_so() {
    let folder = Folder::new();
    let path = folder.file("scan.h5");
    fs::write(&path, b"\x89HDF\r\n\x1a\n and more").unwrap();
    let error = refusal(&path, &SourceConfig::default());
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("this build has no HDF5 support"), "{error}");
}

#[test]
fn a_text_file_is_read_and_a_missing_one_is_named() {
    let folder = Folder::new();
    let path = folder.file("run.toml");
    fs::write(&path, "[source]\n").unwrap();
    assert_eq!(stemstream::read::read_text(&path).unwrap(), "[source]\n");
    let error = stemstream::read::read_text(&folder.file("none.toml")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("none.toml"), "{error}");
}
