//! How fast whole runs are: the corner turn alone, and runs in lean and in documented mode and of the classic method,
//! from a file that the system holds in its cache. Bytes are those of the source's samples.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stemstream::axes::{DetShape, ScanShape};
use stemstream::cache::Step;
use stemstream::config::Config;
use stemstream::export::mib::{MibDepth, MibWriter};
use stemstream::pipeline::Workers;
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::{Results, Session};
use stemstream::simulate::{SimulationSpec, simulate};

fn write_scan(folder: &Path, spec: &SimulationSpec) -> PathBuf {
    let path = folder.join(format!("scan_{}.mib", spec.scan.rows));
    let mut file = MibWriter::create(&path, spec.scan, spec.det, MibDepth::U16).expect("a new file");
    let workers = Workers::new(2).expect("threads");
    let mut push = |_: usize, frames: &[u16]| file.push(frames);
    workers.install(|| simulate(spec, 2, &CancelToken::new(), &Silent, &mut push)).expect("a simulation");
    file.finish().expect("a complete file");
    path
}

/// The time of one run into a cache of its own, which is deleted afterwards.
fn run(input: &Path, folder: &Path, target: Step, settings: &[&str]) -> (Duration, Option<Results>) {
    let caches = tempfile::tempdir_in(folder).expect("a folder");
    let place = format!("cache.folder=\"{}\"", caches.path().display());
    let settings = settings.iter().copied().chain([place.as_str()]);
    let config = Config::default().with_settings(settings).expect("settings");
    let cancel = CancelToken::new();
    let start = Instant::now();
    let session = Session::open(input, config, true, &Silent, &cancel).expect("open");
    session.run_to(target).expect("run");
    let elapsed = start.elapsed();
    (elapsed, (target == Step::Reconstruct).then(|| Results::read(&session.cache_path()).expect("results")))
}

fn runs(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let small = SimulationSpec::preset("small").expect("a preset");
    let larger =
        SimulationSpec { scan: ScanShape::new(128, 128), det: DetShape::new(64, 64), window: 128, ..small.clone() };
    for spec in [small, larger] {
        let input = write_scan(folder.path(), &spec);
        let (_, results) = run(&input, folder.path(), Step::Reconstruct, &["run.mode=lean"]);
        let found = results.expect("results").disk.center;
        let [row, col] = spec.true_center();
        assert!((found[0] - row).hypot(found[1] - col) < 0.2, "found {found:?}, true ({row}, {col})");

        let mut group = c.benchmark_group("scan");
        group.sample_size(10).throughput(Throughput::Bytes((spec.scan.len() * spec.det.len() * 2) as u64));
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        let name = format!("{} of {}", spec.scan, spec.det);
        let (lean, documented, classic) = ("run.mode=lean", "run.mode=documented", "align.method=classic");
        for (what, target, settings) in [
            ("corner turn", Step::Stack, &[lean][..]),
            ("lean run", Step::Reconstruct, &[lean]),
            ("documented run", Step::Reconstruct, &[documented]),
            ("classic lean run", Step::Reconstruct, &[lean, classic]),
        ] {
            group.bench_function(BenchmarkId::new(what, &name), |b| {
                b.iter_custom(|times| (0..times).map(|_| run(&input, folder.path(), target, settings).0).sum());
            });
        }
        group.finish();
    }
}

criterion_group!(benches, runs);
criterion_main!(benches);
