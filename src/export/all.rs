//! Everything that the configuration asks for, in one call.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::canvas::Sheet;
use super::files::{Place, part_of, publish_folder, require_free, safe_name};
use super::panel::Panels;
use super::run::RunResults;
use super::{arrays, contact_sheet, picture};
use crate::config::ExportConfig;
use crate::error::{Error, Result};
use crate::pipeline::Workers;

/// What was written, for the report at the end of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The file with the EMD results; `None` only in a program built without HDF5.
    pub emd: Option<PathBuf>,
    /// Path of the run's group in that file: `/superres_results/run_…`.
    pub run: Option<String>,
    /// The pictures, the contact sheet first.
    pub pictures: Vec<PathBuf>,
    /// The `.npy` and TIFF files.
    pub arrays: Vec<PathBuf>,
    /// What did not go as the configuration said, and what was done instead.
    pub warnings: Vec<String>,
}

/// Writes the results of `run`: the EMD results, and arrays and pictures into a folder of the run,
/// `{base_name}_superres_{timestamp}` in `folder`, so that they do not clutter the place where the data lie.
///
/// `embed_into` is the user's own EMD file when the input is one and the results are to go into it (the caller
/// has closed it). When that file refuses them (read-only, open elsewhere, damaged), they go into a file of their
/// own in `folder`, with a warning: the results of a long run are not lost for the want of a place.
///
/// # Errors
/// A folder that cannot be written to, a full disk.
pub fn write_all(
    folder: &Path,
    embed_into: Option<&Path>,
    run: &RunResults,
    switches: &ExportConfig,
    workers: &Workers,
) -> Result<Written> {
    let mut written = Written::default();
    if !(switches.npy || switches.tiff || switches.pictures) {
        write_emd(folder, embed_into, run, switches, &mut written)?;
        return Ok(written);
    }
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create the folder for results", e))?;
    require_free(folder, file_bytes(run, switches))?;
    // Made under a name of their own: which one they will have only the results' group says, and a run that ends in the
    // same moment may want the same.
    let part = part_of(&run_folder(folder, run, None));
    fs::create_dir(&part).map_err(|e| Error::io(&part, "create the folder for arrays and pictures", e))?;
    let stem = file_stem(run, None);
    let emd = || write_emd(folder, embed_into, run, switches, &mut written);
    let place = Place::hidden(&part, &stem);
    let files = workers.install(|| {
        let files = Files::write(&place, emd, run, switches)?;
        place.settle().map(|()| files)
    });
    let named = files.and_then(|files| {
        let group = written.run.as_deref();
        let files = files.with_stem(&stem, &file_stem(run, group))?;
        files.published(&part, &run_folder(folder, run, group))
    });
    if named.is_err() {
        // Half of the files are of no use, and the disk may be full.
        let _ = fs::remove_dir_all(&part);
    }
    let files = named?;
    (written.pictures, written.arrays) = (files.pictures, files.arrays);
    Ok(written)
}

/// The arrays and pictures of a run.
struct Files {
    pictures: Vec<PathBuf>,
    arrays: Vec<PathBuf>,
}

/// Files that are still to be written, for several threads to take from.
struct Queue {
    tasks: Vec<Task>,
    next: AtomicUsize,
}

impl Queue {
    fn next(&self) -> Option<Task> {
        self.tasks.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
    }
}

/// One file, by the number of its result or curve; in the order in which they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Sheet,
    Picture(usize),
    Curve(usize),
    Npy(usize),
    Tiff(usize),
}

impl Files {
    /// Writes what the configuration asks for, and the EMD results, side by side: drawing takes the processor's time, and
    /// bringing files to the disk takes waiting. What takes longest begins first, the contact sheet before all.
    fn write(
        place: &Place<'_>,
        emd: impl FnOnce() -> Result<()> + Send,
        run: &RunResults,
        switches: &ExportConfig,
    ) -> Result<Self> {
        let panels = Panels::of(run);
        let numbers = || 0..panels.layers.len();
        let largest_first = |mut tasks: Vec<Task>| {
            tasks.sort_by_key(|task| match *task {
                Task::Picture(number) | Task::Npy(number) | Task::Tiff(number) => {
                    Reverse(panels.layers[number].image.len())
                }
                Task::Curve(_) | Task::Sheet => Reverse(0),
            });
            Queue { tasks, next: AtomicUsize::new(0) }
        };
        let pictures = numbers().map(Task::Picture).chain((0..run.curves.len()).map(Task::Curve));
        let pictures = largest_first(pictures.filter(|_| switches.pictures).collect());
        let arrays = numbers().map(Task::Npy).filter(|_| switches.npy);
        let arrays = largest_first(arrays.chain(numbers().map(Task::Tiff).filter(|_| switches.tiff)).collect());
        let results = Mutex::new(Vec::new());
        let write = |task: Task, sheet: Option<&Sheet>| {
            let result = match (task, sheet) {
                (Task::Sheet, Some(sheet)) => contact_sheet::write_drawn(place, run, sheet),
                (Task::Sheet, None) => Err(Error::bug("the contact sheet was not drawn")),
                (Task::Picture(number), _) => picture::write_layer(place, &panels, number),
                (Task::Curve(number), _) => picture::write_curve(place, run, &run.curves[number]),
                (Task::Npy(number), _) => arrays::write_layer_npy(place, &panels.layers[number]),
                (Task::Tiff(number), _) => arrays::write_layer_tiff(place, &panels.layers[number]),
            };
            results.lock().unwrap_or_else(PoisonError::into_inner).push((task, result));
        };
        let write_all_of = |queue: &Queue| {
            while let Some(task) = queue.next() {
                write(task, None);
            }
        };
        let mut done = Ok(());
        rayon::scope_fifo(|scope| {
            scope.spawn_fifo(|scope| {
                // The sheet takes longest. Threads that wait for a part of it take up whatever else was given to the pool, and
                // it would be last: the others begin when it is drawn. Only arrays, which need little of the processor, are
                // written meanwhile, by the thread that wrote the EMD results.
                let sheet = switches.pictures.then(|| contact_sheet::draw(&panels));
                for _ in 0..rayon::current_num_threads() {
                    scope.spawn_fifo(|_| {
                        write_all_of(&pictures);
                        write_all_of(&arrays);
                    });
                }
                if sheet.is_some() {
                    write(Task::Sheet, sheet.as_ref());
                }
            });
            done = emd();
            write_all_of(&arrays);
        });
        done?;
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(task, _)| *task);
        let (mut pictures, mut arrays) = (Vec::new(), Vec::new());
        for (task, path) in results {
            let list = if matches!(task, Task::Npy(_) | Task::Tiff(_)) { &mut arrays } else { &mut pictures };
            list.push(path?);
        }
        Ok(Self { pictures, arrays })
    }

    /// Every file with another name, or with an error where the first cannot be given one.
    fn each(self, name: impl Fn(&Path) -> Result<PathBuf>) -> Result<Self> {
        let all = |paths: Vec<PathBuf>| paths.iter().map(|path| name(path)).collect::<Result<Vec<_>>>();
        Ok(Self { pictures: all(self.pictures)?, arrays: all(self.arrays)? })
    }

    /// The same files, their names beginning with `new` and not with `old`.
    fn with_stem(self, old: &str, new: &str) -> Result<Self> {
        if old == new {
            return Ok(self);
        }
        self.each(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let to = path.with_file_name(format!("{new}{}", name.strip_prefix(old).unwrap_or(&name)));
            fs::rename(path, &to).map_err(|e| Error::io(&to, "give the file its name", e))?;
            Ok(to)
        })
    }

    /// Gives the complete folder `part` the name `target`, or the first numbered one that is free.
    fn published(self, part: &Path, target: &Path) -> Result<Self> {
        let folder = publish_folder(part, target)?;
        self.each(|path| Ok(folder.join(path.file_name().unwrap_or_default())))
    }
}

/// About what the arrays and pictures take on the disk.
fn file_bytes(run: &RunResults, switches: &ExportConfig) -> u64 {
    let bytes = run.bytes();
    let when = |wanted: bool, bytes: u64| if wanted { bytes } else { 0 };
    // A picture is three bytes a pixel before compression, and there are small ones with their labels.
    when(switches.npy, bytes) + when(switches.tiff, bytes / 2) + when(switches.pictures, bytes / 4 + (6 << 20))
}

/// The folder for a run's arrays and pictures.
fn run_folder(folder: &Path, run: &RunResults, group: Option<&str>) -> PathBuf {
    folder.join(format!("{}_superres_{}", safe_name(&run.base_name), safe_name(run_time(run, group))))
}

/// The run's time stamp, with the number that its group got when another one bears the same second.
fn run_time<'a>(run: &'a RunResults, group: Option<&'a str>) -> &'a str {
    group.and_then(|group| group.rsplit_once("/run_")).map_or(run.timestamp.as_str(), |(_, time)| time)
}

/// `{base_name}_{timestamp}`, with the number that the run's group got when another one bears the same second.
fn file_stem(run: &RunResults, group: Option<&str>) -> String {
    format!("{}_{}", safe_name(&run.base_name), safe_name(run_time(run, group)))
}

#[cfg(feature = "hdf5")]
fn write_emd(
    folder: &Path,
    embed_into: Option<&Path>,
    run: &RunResults,
    switches: &ExportConfig,
    written: &mut Written,
) -> Result<()> {
    use std::borrow::Cow;

    use super::emd::{EmdPath, own_file, write_run};
    use super::files::numbered;
    use crate::config::EmdTarget;
    use crate::error::ErrorKind;

    let own = own_file(folder, &run.base_name);
    // The second one for when a file of that name is there and takes no results.
    let second = numbered(&own, 2);
    let user = embed_into.filter(|_| switches.emd == EmdTarget::Embed).map(EmdPath::Embed);
    let targets = user.into_iter().chain([EmdPath::Own(&own), EmdPath::Own(&second)]);
    let mut last = Error::bug("no place for the results");
    for target in targets {
        let mut told = Cow::Borrowed(run);
        if !written.warnings.is_empty() {
            told.to_mut().warnings.extend(written.warnings.iter().cloned());
        }
        match write_run(&target, &told) {
            Ok(group) => {
                written.emd = Some(target.path().to_owned());
                written.run = Some(group);
                return Ok(());
            }
            // Another file in the same folder fares no better.
            Err(error) if matches!(target, EmdPath::Own(path) if !path.exists()) => return Err(error),
            Err(error) => {
                if matches!(error.kind(), ErrorKind::Bug { .. }) {
                    return Err(error);
                }
                written.warnings.push(format!("the results are not in `{}`: {error}", target.path().display()));
                last = error;
            }
        }
    }
    Err(last)
}

#[cfg(not(feature = "hdf5"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as with HDF5")]
fn write_emd(
    _folder: &Path,
    _embed_into: Option<&Path>,
    _run: &RunResults,
    _switches: &ExportConfig,
    written: &mut Written,
) -> Result<()> {
    written.warnings.push("no EMD results: this program was built without HDF5".to_owned());
    Ok(())
}
