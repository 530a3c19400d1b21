//! What the Merlin files must look like, and that nothing is lost or left behind.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const SCAN: ScanShape = ScanShape { rows: 2, cols: 3 };
const DET: DetShape = DetShape { rows: 2, cols: 4 };

fn written(folder: &Path, depth: MibDepth, frames: &[u16]) -> Result<[PathBuf; 2]> {
    let mut writer = MibWriter::create(&folder.join("scan.mib"), SCAN, DET, depth)?;
    // Two batches of different sizes.
    let (first, second) = frames.split_at(DET.len() * 2);
    writer.push(first)?;
    writer.push(second)?;
    writer.finish()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn frames_are_headers_and_big_endian_images_in_every_depth() {
    let counts: Vec<u16> = (0..48).collect();
    for (depth, bytes, bits) in [(MibDepth::U08, 1, "6"), (MibDepth::U16, 2, "12"), (MibDepth::U32, 4, "24")] {
        let dir = tempfile::tempdir().unwrap();
        let [mib, hdr] = written(dir.path(), depth, &counts).unwrap();
        let data = fs::read(mib).unwrap();
        assert_eq!(data.len(), 6 * (384 + 8 * bytes));
        for (index, frame) in data.chunks(384 + 8 * bytes).enumerate() {
            let text: String = frame[..384].iter().take_while(|&&b| b != 0).map(|&b| char::from(b)).collect();
            let fields: Vec<&str> = text.split(',').collect();
            assert_eq!(fields[..6], ["MQ1", &format!("{:06}", index + 1), "00384", "01", "0004", "0002"]);
            assert_eq!(&fields[7..9], ["   1x1", "01"]);
            assert_eq!(fields[fields.len() - 5], "MQ1A");
            assert_eq!(fields[fields.len() - 2], bits);
            for (pixel, value) in frame[384..].chunks(bytes).enumerate() {
                let value = value.iter().fold(0, |v, &b| v << 8 | usize::from(b));
                assert_eq!(value, index * 8 + pixel, "{depth:?}");
            }
        }
        let hdr = fs::read_to_string(hdr).unwrap();
        assert!(hdr.len() == 2048 && hdr.starts_with("HDR,\t") && hdr.trim_end().ends_with("End"));
        assert!(hdr.contains("ScanX:\t3\r\n") && hdr.contains("ScanY:\t2\r\n"));
    }
}

#[test]
fn every_line_begins_after_the_fly_back() {
    let timing = MibTiming::default();
    let time = |i| timing.time_of(i, 3).unwrap().as_nanosecond();
    let gaps: Vec<_> = (0..8).map(|i| (time(i + 1) - time(i) + 500_000) / 1_000_000).collect();
    assert_eq!(gaps, [1, 1, 3, 1, 1, 3, 1, 1]);
    assert!(timing.time_of(usize::MAX / 2, 1).is_none(), "a date out of range is no panic");
}

#[test]
fn an_existing_file_is_never_overwritten() {
    for taken in ["scan.mib", "scan.hdr"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(taken), "mine").unwrap();
        assert_eq!(written(dir.path(), MibDepth::U16, &[0; 48]).unwrap_err().exit_code(), 2);
        // The name may also be taken while the frames are written.
        fs::remove_file(dir.path().join(taken)).unwrap();
        let mut writer = MibWriter::create(&dir.path().join("scan.mib"), SCAN, DET, MibDepth::U16).unwrap();
        writer.push(&[0; 48]).unwrap();
        fs::write(dir.path().join(taken), "mine").unwrap();
        assert_eq!(writer.finish().unwrap_err().exit_code(), 2);
        assert_eq!(fs::read_to_string(dir.path().join(taken)).unwrap(), "mine");
        assert_eq!(names(dir.path()), [taken]);
    }
}

#[test]
fn an_unfinished_or_impossible_file_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let create = || MibWriter::create(&dir.path().join("scan.mib"), SCAN, DET, MibDepth::U08).unwrap();
    drop(create());
    assert_eq!(create().finish().unwrap_err().exit_code(), 1, "frames are missing");
    assert_eq!(create().push(&[0; 7]).unwrap_err().exit_code(), 1, "a part of a frame");
    assert_eq!(create().push(&[0; 56]).unwrap_err().exit_code(), 1, "a frame too many");
    assert_eq!(create().push(&[256; 8]).unwrap_err().exit_code(), 2, "a count too large");
    assert_eq!(names(dir.path()), Vec::<String>::new());
}
