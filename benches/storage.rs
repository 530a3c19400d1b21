//! How fast files come in and go out: every reader in blocks of 8 MiB, chunks of the working cache, and a scan made at
//! the speed of the disk. The files are in the system's memory; on the disk itself, `stemstream bench` measures.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stemstream::axes::{DType, DetShape, ScanShape};
use stemstream::config::SourceConfig;
use stemstream::export::mib::{MibDepth, MibWriter, ParallelMib};
use stemstream::memory::MemoryBudget;
use stemstream::pipeline::Workers;
use stemstream::progress::{CancelToken, Silent};
use stemstream::read::{FrameSource, open};
use stemstream::simulate::{FastScan, SimulationSpec};
use stemstream::store::{ArraySpec, ChunkedArray, Group, Io, Place, PlacedArray, remove_file, write_out_path};

const SCAN: ScanShape = ScanShape { rows: 96, cols: 128 };
const DET: DetShape = DetShape { rows: 64, cols: 64 };
const BLOCK: usize = 8 << 20;

/// Counts that look like nothing in particular.
fn counts(n: usize) -> Vec<u16> {
    (0..n as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 53) as u16).collect()
}

/// The same counts in every format that needs no other program: 96 MiB.
fn sources(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let samples = counts(SCAN.len() * DET.len());
    let mib = folder.join("scan.mib");
    let mut writer = MibWriter::create(&mib, SCAN, DET, MibDepth::U16).expect("a new file");
    writer.push(&samples).expect("frames");
    writer.finish().expect("a complete file");
    let npy = folder.join("scan.npy");
    let shape = format!("({}, {}, {}, {})", SCAN.rows, SCAN.cols, DET.rows, DET.cols);
    let mut header = format!("{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}");
    header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
    std::fs::write(&npy, bytes).expect("written");
    let mut all = vec![("mib", mib), ("npy", npy)];
    all.extend(hdf5_sources(folder, &samples));
    all
}

#[cfg(feature = "hdf5")]
fn hdf5_sources(folder: &Path, samples: &[u16]) -> Vec<(&'static str, PathBuf)> {
    let path = folder.join("scan.h5");
    let file = hdf5::File::create(&path).expect("a new file");
    let data = file.new_dataset::<u16>().shape((SCAN.rows, SCAN.cols, DET.rows, DET.cols)).create("data");
    data.expect("a dataset").write_raw(samples).expect("written");
    vec![("hdf5, contiguous", path)]
}

#[cfg(not(feature = "hdf5"))]
fn hdf5_sources(_: &Path, _: &[u16]) -> Vec<(&'static str, PathBuf)> {
    Vec::new()
}

/// Reads the whole file and looks at a sample of every frame.
fn read_all(source: &dyn FrameSource, buffer: &mut [u8], frames: usize) -> u64 {
    let mut sum = 0;
    for first in (0..SCAN.len()).step_by(frames) {
        let count = frames.min(SCAN.len() - first);
        let block = source.read_block(first, count, buffer).expect("frames");
        sum +=
            (0..count).map(|frame| u64::from(block.frame(frame)[2 * 70] ^ block.frame(frame)[2 * 70 + 1])).sum::<u64>();
    }
    sum
}

fn readers(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let expected: u64 = counts(SCAN.len() * DET.len())
        .chunks_exact(DET.len())
        .map(|frame| u64::from(frame[70].to_le_bytes()[0] ^ frame[70].to_le_bytes()[1]))
        .sum();
    let mut group = c.benchmark_group("read");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes((SCAN.len() * DET.len() * 2) as u64));
    for (name, path) in sources(folder.path()) {
        let source = open(&path, &SourceConfig::default()).expect("a source");
        let frames = BLOCK / source.block_bytes(1);
        let mut buffer = vec![0; source.block_bytes(frames)];
        assert_eq!(read_all(&*source, &mut buffer, frames), expected, "{name} reads something else");
        group.bench_function(BenchmarkId::new(name, SCAN), |b| {
            b.iter(|| black_box(read_all(&*source, &mut buffer, frames)));
        });
    }
    group.finish();
}

/// One chunk of 16 MiB after the other: over a chunk that is there, and read through its memory map.
fn chunks(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let group_of_arrays = Group::create(&folder.path().join("a.zarr"), serde_json::Map::new()).expect("a group");
    let n = (16 << 20) / 2;
    let array = ChunkedArray::create(&group_of_arrays, ArraySpec::plain("a", &[n], DType::U16, &["n"])).expect("array");
    let samples = counts(n);
    let bytes: &[u8] = bytemuck::cast_slice(&samples);
    array.write_chunk(&[0], bytes).expect("written");
    let sum = |numbers: &[u16]| numbers.iter().map(|&v| u64::from(v)).sum::<u64>();
    let expected = sum(&samples);
    assert_eq!(sum(array.chunk(&[0]).expect("a chunk").cast::<u16>()), expected, "another chunk comes back");
    let mut group = c.benchmark_group("store");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("write a chunk", |b| b.iter(|| array.write_chunk(&[0], black_box(bytes)).expect("written")));
    group.bench_function("map and sum a chunk", |b| {
        b.iter(|| black_box(sum(array.chunk(&[0]).expect("a chunk").cast::<u16>())));
    });
    group.finish();
}

/// Images of complex `f32` widened to their places in a large file, and brought to the disk: past the page cache and
/// through it.
fn placed_images(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let (images, reals) = (128, 2 * 256 * 256);
    let place = Place { start: 4096, image_bytes: (reals * 8) as u64, images: images as u64 };
    let numbers: Vec<f32> = (0..8 * reals).map(|i| (i % 1009) as f32).collect();
    let mut group = c.benchmark_group("placed images");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Bytes(place.image_bytes * place.images));
    for (name, direct) in [("past the page cache", true), ("through the page cache", false)] {
        let path = folder.path().join(name);
        std::fs::File::create(&path).and_then(|file| file.set_len(place.end())).expect("a new file");
        let io = Io { map: false, window: None, direct };
        let array = PlacedArray::open(&path, place, true, io).expect("an array");
        let write_all = || {
            for first in (0..images).step_by(8) {
                array.write(first, black_box(&numbers), f64::from).expect("written");
            }
            write_out_path(&path).expect("on the disk");
        };
        write_all();
        let mut last = vec![0.0f32; reals];
        array.read(images - 1, &mut last, |number| number as f32).expect("read");
        assert!(last == numbers[7 * reals..], "something else comes back");
        group.bench_function(name, |b| b.iter(write_all));
    }
    group.finish();
}

/// Frames of a fast scan: drawn on one thread, and as a whole file with the disk's own time.
fn fast_scans(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let large = SimulationSpec::preset("large").expect("a preset");
    let mut group = c.benchmark_group("fast scan");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for (det, radius) in [(64, 24.0), (128, 24.0), (256, 28.0)] {
        let det = DetShape::new(det, det);
        let scan = ScanShape::new(64, 64);
        let spec = SimulationSpec { scan, det, disk_radius_px: radius, window: 256, ..large.clone() };
        let workers = Workers::new(2).expect("threads");
        let cancel = CancelToken::new();
        let fast = workers.install(|| FastScan::prepare(&spec, &cancel, &Silent)).expect("a scan");
        let mut frame = vec![0; 2 * det.len()];
        fast.fill_be(5, &mut frame);
        let centre = 2 * (det.rows / 2 * det.cols + det.cols / 2);
        let count = f64::from(u16::from_be_bytes([frame[centre], frame[centre + 1]]));
        assert!((0.2..5.0).contains(&(count / spec.counts)), "{count} counts in the middle of the disk");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new("draw a frame", det), |b| {
            b.iter(|| fast.fill_be(5, black_box(&mut frame)));
        });
        group.throughput(Throughput::Bytes((scan.len() * (384 + 2 * det.len())) as u64));
        group.bench_function(BenchmarkId::new("write a file", det), |b| {
            b.iter(|| {
                let path = folder.path().join("fast.mib");
                let writer = ParallelMib::create(&path, scan, det).expect("a new file");
                let budget = MemoryBudget::new(writer.buffer_bytes(2));
                let fill = |index: usize, out: &mut [u8]| {
                    fast.fill_be(index, out);
                    Ok(())
                };
                let ([mib, hdr], _) = writer.write(2, &budget, (&cancel, &Silent), &fill).expect("a file");
                remove_file(&mib).and_then(|()| remove_file(&hdr)).expect("deleted");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, readers, chunks, placed_images, fast_scans);
criterion_main!(benches);
