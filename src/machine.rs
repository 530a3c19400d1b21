//! How fast this machine is: what `stemstream bench` measures once, and what the time of a run is predicted from.
//!
//! A set of rates belongs to one machine; on another one (another host name or processor) it says nothing and is
//! ignored ([`MachineRates::is_of_this_machine`]). `store::read_rates` and `store::write_rates` keep it in a file.

use serde::{Deserialize, Serialize};

/// What one machine can do, and what one run on it took. Rates are of all workers together unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineRates {
    /// Version of this format; readers ignore files of another one.
    pub format: u32,
    /// Version of the program that measured.
    pub software: String,
    /// When it was measured, `YYYY-MM-DD HH:MM:SS`, local time.
    pub measured: String,
    /// The machine's name.
    pub host: String,
    /// The model of its processor.
    pub cpu: String,
    /// Logical processors.
    pub processors: usize,
    /// Reading a file that is not in memory, in order, bytes/s.
    pub cold_read: f64,
    /// Reading a file that the system holds in memory, bytes/s.
    pub warm_read: f64,
    /// Writing a new file and bringing it to the disk, bytes/s.
    pub write: f64,
    /// Copying memory on one thread, bytes/s (those copied: each is read once and written once).
    pub memory_copy: f64,
    /// Filling memory that the process did not have before, in pieces of some MiB, as a run does with its stack, bytes/s.
    pub new_memory: f64,
    /// Complex `f32` transforms of 256 × 256, on one thread, flop/s (`5 N log2 N` for each transform of `N` samples).
    pub fft_256_one: f64,
    /// The same on all workers.
    pub fft_256_all: f64,
    /// Complex `f32` transforms of 512 × 512, on one thread, flop/s.
    pub fft_512_one: f64,
    /// The same on all workers.
    pub fft_512_all: f64,
    /// What the steps of a run take.
    pub steps: StepRates,
}

/// Wall time that the steps of a run took with [`workers`](Self::workers) threads, for each unit of their work. Zero
/// where it was not measured. A *sample* is one detector pixel of the crop at one scan position.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRates {
    /// Threads of the run.
    pub workers: usize,
    /// Opening the source, finding the disk and making the cache, seconds.
    pub start: f64,
    /// Corner turn of a source that the system holds in memory, seconds for each byte that is [moved](Self::turned).
    pub corner_turn: f64,
    /// Alignment in lean mode, seconds for each sample.
    pub align_lean: f64,
    /// Alignment in documented mode (bigFT and correlations are written), seconds for each sample.
    pub align_documented: f64,
    /// The same where they are written to the HDF5 cache alone, seconds for each sample.
    pub align_in_place: f64,
    /// Exports with the HDF5 cache of documented mode, where it is copied from the working cache, seconds for each sample.
    pub export_hdf5: f64,
    /// The passes of the fit over the stack, seconds for each sample inside the disk.
    pub fit: f64,
    /// The search of the fit, which works on a bounded number of spectra, seconds.
    pub search: f64,
    /// The same without a calibration: displacements alone are fitted, and nothing is tried twice.
    pub search_uncalibrated: f64,
    /// The refinement, which works on a bounded number of spectra, seconds.
    pub refine_fixed: f64,
    /// The merge, seconds for each sample inside the disk.
    pub merge: f64,
    /// The classic method's deposit, seconds for each sample that takes part.
    pub deposit: f64,
    /// What no other rate covers, after the default method.
    pub finish: FinishRates,
    /// The same after the classic method, which makes other images.
    pub finish_classic: FinishRates,
}

/// Maps, pictures and exports without the HDF5 cache, and everything else that no other rate covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FinishRates {
    /// The part that does not grow with the scan, seconds.
    pub fixed: f64,
    /// The part that grows, seconds for each pixel of each upscaled image that is made.
    pub pixel: f64,
}

impl FinishRates {
    /// Seconds for images of so many pixels in all; 0 where nothing was measured.
    pub fn seconds(&self, pixels: f64) -> f64 {
        self.fixed + self.pixel * pixels
    }

    fn or(self, earlier: Self) -> Self {
        if self.seconds(1.0) > 0.0 { self } else { earlier }
    }
}

impl StepRates {
    /// What the corner turn's time grows with, in bytes: the source, and the stack, each byte of which costs about twice as much
    /// (measured with a source of 2.1 GB and a stack of 0.07 GB, and with 0.54 and 0.18 GB: 0.20 and 0.08 s).
    pub fn turned(source: f64, stack: f64) -> f64 {
        source + 2.2 * stack
    }

    /// These rates, with those that were not measured taken from `earlier`. Both are of the same number of threads, or
    /// nothing is taken.
    #[must_use]
    pub fn or(self, earlier: &Self) -> Self {
        if self.workers == 0 {
            return earlier.clone();
        }
        if self.workers != earlier.workers {
            return self;
        }
        let or = |now: f64, before: f64| if now > 0.0 { now } else { before };
        Self {
            workers: self.workers,
            start: or(self.start, earlier.start),
            corner_turn: or(self.corner_turn, earlier.corner_turn),
            align_lean: or(self.align_lean, earlier.align_lean),
            align_documented: or(self.align_documented, earlier.align_documented),
            align_in_place: or(self.align_in_place, earlier.align_in_place),
            export_hdf5: or(self.export_hdf5, earlier.export_hdf5),
            fit: or(self.fit, earlier.fit),
            search: or(self.search, earlier.search),
            search_uncalibrated: or(self.search_uncalibrated, earlier.search_uncalibrated),
            refine_fixed: or(self.refine_fixed, earlier.refine_fixed),
            merge: or(self.merge, earlier.merge),
            deposit: or(self.deposit, earlier.deposit),
            finish: self.finish.or(earlier.finish),
            finish_classic: self.finish_classic.or(earlier.finish_classic),
        }
    }
}

impl MachineRates {
    /// The format that this program writes and reads.
    pub const FORMAT: u32 = 5;

    /// Rates of this machine with nothing measured yet.
    pub fn of_this_machine() -> Self {
        let (host, cpu, processors) = identity();
        Self {
            format: Self::FORMAT,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            host,
            cpu,
            processors,
            ..Self::default()
        }
    }

    /// Whether these rates are in the current format and were measured on the machine that this process runs on.
    pub fn is_of_this_machine(&self) -> bool {
        let (host, cpu, processors) = identity();
        (self.format, &self.host, &self.cpu, self.processors) == (Self::FORMAT, &host, &cpu, processors)
    }
}

/// Host name, model of the processor, and logical processors.
fn identity() -> (String, String, usize) {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let model = sysinfo::System::new().ok().and_then(|mut system| {
        system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
        system.cpus().first().map(|cpu| cpu.brand().trim().to_owned())
    });
    (host, model.unwrap_or_default(), std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_another_machine_or_format_do_not_count() {
        let here = MachineRates::of_this_machine();
        assert!(here.is_of_this_machine() && here.processors > 0);
        assert!(!MachineRates { host: "another".into(), ..here.clone() }.is_of_this_machine());
        assert!(!MachineRates { cpu: "another".into(), ..here.clone() }.is_of_this_machine());
        assert!(!MachineRates { format: MachineRates::FORMAT - 1, ..here }.is_of_this_machine());
    }

    #[test]
    fn rates_that_were_not_measured_stay_as_they_were() {
        let earlier = StepRates { workers: 2, start: 0.5, merge: 1.0, ..StepRates::default() };
        let now = StepRates { workers: 2, start: 0.25, fit: 2.0, ..StepRates::default() };
        let both = StepRates { workers: 2, start: 0.25, fit: 2.0, merge: 1.0, ..StepRates::default() };
        assert_eq!(now.clone().or(&earlier), both);
        assert_eq!(StepRates::default().or(&earlier), earlier, "nothing was measured");
        let [classic, default] = [1e-9, 3e-9].map(|pixel| FinishRates { fixed: 0.5, pixel });
        let earlier = StepRates { finish_classic: classic, ..earlier };
        let both = StepRates { finish: default, ..now.clone() }.or(&earlier);
        assert_eq!((both.finish, both.finish_classic), (default, classic), "one method's does not replace the other's");
        assert!((default.seconds(1e9) - 3.5).abs() < 1e-12);
        assert_eq!(now.clone().or(&StepRates { workers: 4, ..earlier }), now, "of another number of threads");
    }

    #[test]
    fn what_an_older_file_lacks_was_not_measured() {
        let rates: MachineRates = serde_json::from_str(r#"{"write": 1e9, "steps": {"start": 0.1}}"#).expect("valid");
        assert_eq!((rates.write, rates.steps.start), (1e9, 0.1));
        assert!(rates.steps.merge <= 0.0 && rates.host.is_empty());
    }
}
