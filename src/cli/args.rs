//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::memory::ByteSize;

/// Super-resolved bright-field images from 4D-STEM scans larger than memory.
///
/// Five steps: detect the bright-field disk, transform over the scan (bigFT), correlate, find shift maps, reconstruct.
/// `stemstream run INPUT` does all of them and goes on where an earlier run stopped.
///
/// Exit codes: 0 done, 1 bug, 2 usage or configuration, 3 bad input file, 4 scan shape or parameters not determined,
/// 5 memory or disk budget, 6 cache stale, locked or damaged, 130 interrupted (run again to go on).
#[derive(Debug, Parser)]
#[command(name = "stemstream", version, max_term_width = 110)]
pub(super) struct Args {
    /// Say nothing but errors on stderr.
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Do all five steps, or the ones that are left, and write the results.
    Run(RunArgs),
    /// Show what a file's headers say.
    Info(InfoArgs),
    /// Show memory, disk, time, passes and tiles of a run without running it; writes nothing.
    Plan(PlanArgs),
    /// Run up to one step, from an input or from a cache, and export nothing.
    Step(StepArgs),
    /// List, show, shrink or delete working caches.
    Cache(CacheArgs),
    /// Write the results of a finished run again, from its cache.
    Export(ExportArgs),
    /// Make a scan with known aberrations.
    Simulate(SimulateArgs),
    /// Measure this machine, and how near a run comes to what it can do.
    Bench(BenchArgs),
    /// Print the default configuration, every key with its meaning.
    Config,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What every command takes that reads a configuration.
#[derive(Debug, Default, ClapArgs)]
pub(super) struct ConfigArgs {
    /// Configuration file (TOML); `stemstream config` prints all keys.
    #[arg(long, short, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Set one key; repeat for more. Wins over the file.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(super) settings: Vec<String>,
    /// Scan rows and columns, when the file does not say.
    #[arg(long, value_name = "ROWS,COLS")]
    pub(super) scan: Option<String>,
    /// Path of the 4-D dataset inside an HDF5 file.
    #[arg(long, value_name = "PATH")]
    pub(super) dataset: Option<String>,
    /// Memory budget, for example "2 GiB".
    #[arg(long, value_name = "SIZE")]
    pub(super) memory: Option<ByteSize>,
    /// Worker threads.
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<usize>,
    /// Keep neither bigFT nor correlations: fastest, and little disk.
    #[arg(long)]
    pub(super) lean: bool,
    /// Folder for the cache and all results.
    #[arg(long, value_name = "FOLDER")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct RunArgs {
    /// Scans to work on, one after the other.
    #[arg(required = true, value_name = "INPUT")]
    pub(super) inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Start a new cache even where one could be continued.
    #[arg(long)]
    pub(super) fresh: bool,
    /// One JSON object per input on stdout.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct InfoArgs {
    /// Files to look at.
    #[arg(required = true, value_name = "INPUT")]
    pub(super) inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// One JSON object per input on stdout.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct PlanArgs {
    /// The scan.
    #[arg(value_name = "INPUT")]
    pub(super) input: PathBuf,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// For each choice of the planner: the value, which limit decided it, and the key that changes it.
    #[arg(long)]
    pub(super) explain: bool,
    /// A JSON object on stdout.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct StepArgs {
    /// The step to run up to.
    #[arg(value_parser = ["detect", "stack", "fft", "correlate", "shifts", "reconstruct"])]
    pub(super) name: String,
    /// A scan, or a working cache (then the source is not touched).
    #[arg(value_name = "INPUT|CACHE")]
    pub(super) input: PathBuf,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Start a new cache even where one could be continued.
    #[arg(long)]
    pub(super) fresh: bool,
    /// A JSON object on stdout.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    pub(super) command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// List the caches in a folder, or those of an input.
    List {
        /// A folder, or an input file.
        #[arg(default_value = ".", value_name = "FOLDER|INPUT")]
        place: PathBuf,
        /// A JSON array on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Show what a cache holds.
    Show {
        /// The cache.
        cache: PathBuf,
        /// The manifest as JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Delete bigFT from caches and keep everything else.
    DropBigft {
        /// The caches.
        #[arg(required = true)]
        caches: Vec<PathBuf>,
    },
    /// Delete whole caches; needs `--yes`, without it only shows what would go.
    Rm {
        /// The caches.
        #[arg(required = true)]
        caches: Vec<PathBuf>,
        /// Really delete.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct ExportArgs {
    /// The cache of a finished run.
    pub(super) cache: PathBuf,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// A JSON object on stdout.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct SimulateArgs {
    /// The Merlin file to write; `.hdr`, `_truth.json`, `_shift_truth.npy` (the true displacements, rows and columns in
    /// scan pixels, of every detector pixel) and a configuration with the calibration go beside it.
    #[arg(value_name = "OUT.mib")]
    pub(super) output: PathBuf,
    /// What to simulate: small, low, rotated, medium or large.
    #[arg(long, default_value = "small")]
    pub(super) preset: String,
    /// Make a scan of any size at the speed of the disk: of an object that repeats itself, of which one period is
    /// simulated; every frame has its own noise. The detector is dark beyond 1.5 radii of the disk.
    #[arg(long)]
    pub(super) fast: bool,
    /// Seed of the random numbers.
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Scan rows and columns.
    #[arg(long, value_name = "ROWS,COLS")]
    pub(super) scan: Option<String>,
    /// Detector rows and columns.
    #[arg(long, value_name = "ROWS,COLS")]
    pub(super) det: Option<String>,
    /// Radius of the bright-field disk in detector pixels.
    #[arg(long, value_name = "PIXELS")]
    pub(super) radius: Option<f64>,
    /// Convergence semi-angle in mrad.
    #[arg(long, value_name = "MRAD")]
    pub(super) semiangle: Option<f64>,
    /// Distance between scan positions in Å.
    #[arg(long, value_name = "ANGSTROM")]
    pub(super) step: Option<f64>,
    /// C10 (the negative of the defocus) in Å.
    #[arg(long, allow_negative_numbers = true)]
    pub(super) c10: Option<f64>,
    /// Twofold astigmatism in Å.
    #[arg(long)]
    pub(super) c12: Option<f64>,
    /// Direction of twofold astigmatism in degrees.
    #[arg(long, allow_negative_numbers = true)]
    pub(super) phi12: Option<f64>,
    /// A further aberration in Å: C30=1e7, C21a=5000 and C21b=… (cosine and sine part), or C21=5000@30 (a direction in
    /// degrees); repeat for more.
    #[arg(long = "aberration", value_name = "NAME=VALUE")]
    pub(super) aberrations: Vec<String>,
    /// Rotation between detector and scan in degrees.
    #[arg(long, allow_negative_numbers = true)]
    pub(super) rotation: Option<f64>,
    /// Exchange the rows and columns of the detector.
    #[arg(long)]
    pub(super) transposed: bool,
    /// Mean counts of a detector pixel inside the disk.
    #[arg(long)]
    pub(super) counts: Option<f64>,
    /// What the beam sees: a film of atoms with a few crystals in it, one perfect crystal, or nothing.
    #[arg(long, value_parser = ["film", "crystal", "vacuum"], default_value = "film")]
    pub(super) object: String,
    /// Part of the object's strength that absorbs instead of shifting the phase, between 0 and 1.
    #[arg(long, value_name = "PART")]
    pub(super) absorption: Option<f64>,
    /// Distance between the atoms of the crystal in Å.
    #[arg(long, value_name = "ANGSTROM", default_value_t = 5.0)]
    pub(super) spacing: f64,
    /// A detector pixel that counts without electrons, so many in each frame; repeat for more.
    #[arg(long = "hot-pixel", value_name = "ROW,COL,COUNTS")]
    pub(super) hot_pixels: Vec<String>,
    /// A detector pixel that never counts; repeat for more.
    #[arg(long = "dead-pixel", value_name = "ROW,COL")]
    pub(super) dead_pixels: Vec<String>,
    /// Worker threads.
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<usize>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct BenchArgs {
    /// A scan to run on; without one, a scan is made. The scan's pages are dropped from memory first (but see `--warm`), and
    /// nothing is written beside it.
    #[arg(value_name = "INPUT")]
    pub(super) input: Option<PathBuf>,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Size of the scan that is made, and of the file that measures the disk (at most 1 GiB) [default: 512 MiB].
    #[arg(long, value_name = "SIZE")]
    pub(super) size: Option<ByteSize>,
    /// Have the system hold the given scan in memory before the run: how fast everything but its disk is.
    #[arg(long, requires = "input")]
    pub(super) warm: bool,
    /// A rough answer in a few seconds: 64 MiB, one run.
    #[arg(long)]
    pub(super) quick: bool,
    /// Where a folder is made for everything that is written, hence which disk is measured; it is deleted at the end
    /// [default: the system's folder for temporary files].
    #[arg(long, value_name = "DIR")]
    pub(super) folder: Option<PathBuf>,
    /// A JSON object on stdout.
    #[arg(long)]
    pub(super) json: bool,
}

impl ConfigArgs {
    /// The configuration file, then `--set`, then the short options.
    pub(super) fn config(&self) -> Result<Config> {
        let base = match &self.config {
            Some(path) => Config::from_toml(&crate::read::read_text(path)?, &path.display().to_string())?,
            None => Config::default(),
        };
        base.with_settings(self.all_settings()?.iter().map(String::as_str))
    }

    /// `--set` and the short options as settings.
    pub(super) fn all_settings(&self) -> Result<Vec<String>> {
        let mut settings = self.settings.clone();
        if let Some(scan) = &self.scan {
            let [rows, cols] = parse_scan(scan)?;
            settings.push(format!("source.scan=[{rows}, {cols}]"));
        }
        let quoted = |key: &str, text: &str| format!("{key}={}", toml::Value::String(text.to_owned()));
        if let Some(dataset) = &self.dataset {
            settings.push(quoted("source.dataset", dataset));
        }
        if let Some(memory) = self.memory {
            settings.push(format!("run.memory={}", memory.0));
        }
        if let Some(workers) = self.workers {
            settings.push(format!("run.workers={workers}"));
        }
        if self.lean {
            settings.push("run.mode=lean".to_owned());
        }
        if let Some(out) = &self.out {
            let folder = path_text(out)?;
            settings.push(quoted("cache.folder", folder));
            settings.push(quoted("export.folder", folder));
        }
        Ok(settings)
    }
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::config(format!("the folder name `{}` is not valid UTF-8", path.display())))
}

/// `ROWS,COLS` (also `ROWSxCOLS`) as two positive numbers.
pub(super) fn parse_scan(text: &str) -> Result<[usize; 2]> {
    let numbers: Vec<usize> = text.split([',', 'x', '×']).filter_map(|n| n.trim().parse().ok()).collect();
    match numbers[..] {
        [rows, cols] if rows > 0 && cols > 0 => Ok([rows, cols]),
        _ => Err(Error::config(format!("`--scan {text}`: expected ROWS,COLS, for example `--scan 256,256`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn short_options_are_settings() {
        let args = ConfigArgs {
            scan: Some("8,16".into()),
            memory: Some(ByteSize(1 << 30)),
            lean: true,
            out: Some("a b".into()),
            ..ConfigArgs::default()
        };
        let config = args.config().expect("valid");
        assert_eq!(config.source.scan, Some([8, 16]));
        assert_eq!(config.run.memory, Some(ByteSize(1 << 30)));
        assert_eq!(config.export.folder.as_deref(), Some(Path::new("a b")));
        assert_eq!(parse_scan("8").map_err(|e| e.exit_code()), Err(2));
    }
}
