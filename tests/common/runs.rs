//! Small scans with shifts to find, runs on them, and everything that a run has found, down to the last bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ndarray::Array4;
use stemstream::cache::{Manifest, Step, WorkingCache};
use stemstream::config::Config;
use stemstream::error::{Error, Result};
use stemstream::progress::{CancelToken, Progress, Silent};
use stemstream::session::{Results, Session};

/// What fits the scans of [`scan`]: the classic method, little memory, no quality threshold to speak of, no exports.
pub const SETTINGS: [&str; 5] = [
    "align.method=classic",
    "reconstruct.quality_threshold=0.01",
    "reconstruct.upscale=3",
    "run.memory=\"256 MiB\"",
    "run.workers=2",
];

/// A scan of an object that every detector pixel sees from another side: a bright disk a little off the centre, in
/// which the image of pixel `(y, x)` is the object moved by 0.4 positions per detector pixel. No noise.
pub fn scan((rows, cols, det_rows, det_cols): (usize, usize, usize, usize)) -> Array4<u16> {
    let center = [det_rows as f64 / 2.0 + 0.3, det_cols as f64 / 2.0 - 0.2];
    let radius = 0.3 * det_rows.min(det_cols) as f64;
    Array4::from_shape_fn((rows, cols, det_rows, det_cols), |(r, c, y, x)| {
        let (dy, dx) = (y as f64 - center[0], x as f64 - center[1]);
        let edge = 1.0 / (1.0 + ((dy.hypot(dx) - radius) / 0.4).exp());
        let value = object(r as f64 + 0.4 * dy, c as f64 + 0.4 * dx);
        // A few numbers that tell neighbouring detector pixels and frames apart.
        (3.0 + edge * (200.0 + 90.0 * value)).round() as u16 + ((r * 7 + c * 3 + y * 5 + x) % 3) as u16
    })
}

/// Waves of directions and lengths that have nothing to do with each other.
fn object(row: f64, col: f64) -> f64 {
    [(0.9, 0.31, 0.2), (-0.47, 1.13, 1.9), (1.61, 0.77, 4.0), (0.23, -1.7, 5.1), (1.05, 1.33, 0.7)]
        .iter()
        .map(|(a, b, phase)| (a * row + b * col + phase).sin())
        .sum::<f64>()
        / 2.5
}

/// A temporary folder, in memory where the system has one: hundreds of small runs would wait for the disk only.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

/// The default configuration with [`SETTINGS`], caches in `folder`, and `settings` on top.
pub fn config(folder: &Path, settings: &[&str]) -> Config {
    let cache = format!("cache.folder={}", folder.display());
    let all = SETTINGS.iter().copied().chain([cache.as_str()]).chain(settings.iter().copied());
    Config::default().with_settings(all).expect("settings")
}

/// Runs everything, resuming what is there; the path of the cache.
pub fn run(input: &Path, folder: &Path, settings: &[&str]) -> Result<PathBuf> {
    run_watched(input, config(folder, settings), &Silent, &CancelToken::new())
}

/// As [`run`], never resuming.
pub fn run_fresh(input: &Path, folder: &Path, settings: &[&str]) -> Result<PathBuf> {
    let cancel = CancelToken::new();
    let session = Session::open(input, config(folder, settings), true, &Silent, &cancel)?;
    session.run_to(Step::Reconstruct)?;
    Ok(session.cache_path())
}

/// As [`run`], with somebody who watches and may cancel.
pub fn run_watched(input: &Path, config: Config, progress: &dyn Progress, cancel: &CancelToken) -> Result<PathBuf> {
    let session = Session::open(input, config, false, progress, cancel)?;
    session.run_to(Step::Reconstruct)?;
    Ok(session.cache_path())
}

/// All numbers of a finished run as bits, by array.
#[derive(Debug, Clone)]
pub struct Bits(pub BTreeMap<String, Vec<u64>>);

impl Bits {
    /// Reads everything that the cache holds; bigFT and correlations only where they were kept.
    pub fn of(cache: &Path) -> Self {
        let results = Results::read(cache).expect("results");
        let zncc = WorkingCache::open_for_reading(cache).and_then(|c| c.group().read_image("zncc")).expect("zncc");
        let mut arrays: BTreeMap<_, Vec<u64>> = [
            ("mean_pattern", &results.mean_pattern),
            ("shift_y", &results.shift_y),
            ("shift_x", &results.shift_x),
            ("quality", &results.quality),
            ("zncc", &zncc),
            ("reference_image", &results.reference_image),
            ("standard_bf", &results.standard_bf),
            ("virtual_bf", &results.virtual_bf),
            ("superres_image", &results.superres_image),
            ("weights", &results.weights),
        ]
        .into_iter()
        .chain(results.extras.iter().map(|(extra, image)| (extra.name.as_str(), image)))
        .map(|(name, image)| (name.to_owned(), image.iter().map(|v| v.to_bits()).collect()))
        .collect();
        if results.has_large_arrays() {
            // Detector pixels come tile by tile: order them by their place in the crop.
            let mut by_pixel = BTreeMap::new();
            let each = results.for_each_spectrum(cache, |row, col, image| {
                by_pixel.insert((row, col), image.iter().flat_map(|z| [z.re.to_bits(), z.im.to_bits()]).collect());
                Ok(())
            });
            each.expect("bigFT");
            arrays.insert("bigFT".to_owned(), by_pixel.into_values().flat_map(|v: Vec<u64>| v).collect());
            let mut by_pixel = BTreeMap::new();
            let each = results.for_each_correlation(cache, |row, col, image| {
                by_pixel.insert((row, col), image.iter().map(|v| v.to_bits()).collect());
                Ok(())
            });
            each.expect("correlations");
            arrays.insert("correlations".to_owned(), by_pixel.into_values().flat_map(|v: Vec<u64>| v).collect());
        }
        let bits = Self(arrays);
        bits.must_mean_something();
        bits
    }

    /// Two runs that both found nothing would agree as well.
    fn must_mean_something(&self) {
        for name in ["shift_y", "superres_image", "mean_pattern", "quality"] {
            let values = &self.0[name];
            assert!(values.iter().all(|&v| f64::from_bits(v).is_finite()), "{name} is not finite");
            assert!(values.len() == 1 || values.iter().any(|v| *v != values[0]), "{name} is constant");
        }
    }

    /// The same without bigFT and correlations.
    #[must_use]
    pub fn lean(mut self) -> Self {
        self.0.remove("bigFT");
        self.0.remove("correlations");
        self
    }

    /// Fails unless the maps agree to the rounding of `f32`: lean and documented runs go different ways there. Where an image
    /// has nothing to do with the reference, equal heights are many, and rounding decides which of them is found.
    #[track_caller]
    pub fn must_agree(&self, other: &Self, what: &str) {
        let number = |bits: u64| f64::from_bits(bits);
        let sure: Vec<_> = self.0["zncc"].iter().map(|&z| number(z) > 0.5).collect();
        assert!(sure.contains(&true), "{what}: nothing to compare");
        for (name, most) in [("shift_y", 1e-3), ("shift_x", 1e-3), ("quality", 1e-5), ("zncc", 1e-5)] {
            let (ours, theirs) = (&self.0[name], &other.0[name]);
            assert_eq!(ours.len(), theirs.len(), "{what}: size of {name}");
            for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
                let (a, b) = (number(*a), number(*b));
                let compared = sure[i] || !name.starts_with("shift");
                assert!(!compared || (a - b).abs() <= most, "{what}: {name} at {i}: {a} and {b}");
            }
        }
    }

    /// Fails naming the first number that differs.
    #[track_caller]
    pub fn must_equal(&self, other: &Self, what: &str) {
        assert_eq!(self.0.keys().collect::<Vec<_>>(), other.0.keys().collect::<Vec<_>>(), "{what}: arrays");
        for (name, ours) in &self.0 {
            let theirs = &other.0[name];
            assert_eq!(ours.len(), theirs.len(), "{what}: size of {name}");
            let differ: Vec<_> = (0..ours.len()).filter(|&i| ours[i] != theirs[i]).collect();
            if let Some(&i) = differ.first() {
                let (a, b) = (f64::from_bits(ours[i]), f64::from_bits(theirs[i]));
                panic!(
                    "{what}: {name} differs at {} of {} places, first at {i}: {a:e} and {b:e}",
                    differ.len(),
                    ours.len()
                );
            }
        }
    }
}

/// Runs afresh and reads everything.
#[track_caller]
pub fn bits(input: &Path, folder: &Path, settings: &[&str]) -> Bits {
    let cache = run_fresh(input, folder, settings).unwrap_or_else(|e| panic!("{settings:?}: {e} ({:?})", e.hint()));
    Bits::of(&cache)
}

/// The manifest of a cache.
pub fn manifest(cache: &Path) -> Manifest {
    Manifest::read(cache).expect("manifest")
}

/// Tiles that are marked, of a step that is begun or done.
pub fn marked(cache: &Path, step: Step, count: usize) -> usize {
    WorkingCache::open_for_reading(cache).map_or(0, |c| c.tiles(step, count).len())
}

/// The error of a run that must fail, with its exit code and without a panic.
#[track_caller]
pub fn refused<T>(result: Result<T>, code: u8) -> Error {
    let error = result.map(|_| ()).expect_err("this must be refused");
    assert_eq!(error.exit_code(), code, "{error} ({:?})", error.hint());
    error
}

/// Watches a run: notes what is said, and stops it after so many steps of one stage.
#[derive(Debug, Default)]
pub struct Watcher {
    /// The stage in which to stop, and after how many advances.
    pub stop: Option<(&'static str, u64)>,
    /// How long the advance before the last one takes, so that the tiles so far are marked.
    pub pause: Duration,
    /// What to cancel.
    pub cancel: CancelToken,
    stage: Mutex<String>,
    count: AtomicU64,
    /// Stages that began, notes and warnings, in order.
    pub said: Mutex<Vec<String>>,
}

impl Watcher {
    /// Cancels at advance number `count` of `stage`.
    pub fn stopping(stage: &'static str, count: u64) -> Self {
        Self { stop: Some((stage, count)), ..Self::default() }
    }

    /// As [`stopping`](Self::stopping), with a pause before that lets the first tiles be marked.
    pub fn stopping_after_marks(stage: &'static str, count: u64) -> Self {
        Self { pause: Duration::from_millis(1050), ..Self::stopping(stage, count) }
    }

    /// Everything that was said, one item a line.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").join("\n")
    }
}

impl Progress for Watcher {
    fn begin(&self, stage: &str, _: u64) {
        self.said.lock().expect("no panic").push(format!("begin {stage}"));
        stage.clone_into(&mut self.stage.lock().expect("no panic"));
        self.count.store(0, Ordering::SeqCst);
    }

    fn advance(&self, bytes: u64) {
        let Some((stage, count)) = self.stop else { return };
        if bytes == 0 || *self.stage.lock().expect("no panic") != stage {
            return;
        }
        let n = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if n + 1 == count {
            std::thread::sleep(self.pause);
        }
        if n == count {
            self.cancel.cancel();
        }
    }

    fn note(&self, message: &str) {
        self.said.lock().expect("no panic").push(format!("note {message}"));
    }

    fn warn(&self, message: &str) {
        self.said.lock().expect("no panic").push(format!("warn {message}"));
    }
}
