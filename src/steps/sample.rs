//! Frames spread over the scan: their mean, and the range of their counts. What a run knows before it reads the scan.

use std::ops::Range;

use rayon::prelude::*;

use crate::axes::{CountRange, Endian, Image};
use crate::error::{Error, Result};
use crate::kernel::transpose::{RawFrames, Sum, count_range, sum_frames};
use crate::pipeline::Workers;
use crate::progress::CancelToken;
use crate::read::{FrameBlock, FrameSource};
use crate::with_sample_type;

/// The whole sample, where all of it is needed: a small scan, or 0.2 % of one of 34 GB.
const SAMPLE_BYTES: usize = 64 << 20;
/// Neighbouring frames are read together, as many as a disk brings nearly as fast as one.
const RUN_BYTES: usize = 256 << 10;
const MOST_IN_RUN: usize = 32;
/// Of so many runs, one belongs to the first part of the sample.
const PARTS: usize = 4;
/// Runs that the first part has at least; a sample that is too small for that is taken at once.
const FIRST_RUNS: usize = 16;
/// A sample has at least so many frames, however large they are.
const LEAST_FRAMES: usize = 8;
/// Groups of runs that are looked at side by side at most, and the memory that they may take.
const MOST_GROUPS: usize = 16;
const GROUPS_BYTES: usize = 8 << 20;

/// What the sampled frames say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// Their mean, `[det row, det col]`.
    pub(super) pattern: Image,
    /// Their smallest and largest sample, over the whole detector; `None` for floats.
    pub(super) counts: Option<CountRange>,
}

/// A sample of the source's frames, and what `look` finds in its mean. It is taken in two parts: where `enough` says that the
/// two halves of the first quarter, both of frames from all over the scan, look the same at a `glance`, the rest is not read.
/// All three are looked at side by side.
///
/// Which frames depends on the shape, the type of the samples, and that decision alone, so that the same scan gives the
/// same sample from every file format and with any number of workers.
///
/// # Errors
/// Whatever the source says; `Interrupted`.
pub(super) fn take<T: Send, G: Send>(
    source: &dyn FrameSource,
    workers: &Workers,
    cancel: &CancelToken,
    (look, glance): (impl Fn(&Image) -> T + Sync, impl Fn(&Image) -> G + Sync),
    enough: impl Fn(&G, &G) -> bool + Sync,
) -> Result<(Sample, T)> {
    let places = Places::of(source);
    let seen = |part: &Part| {
        let sample = part.sample(source)?;
        let found = look(&sample.pattern);
        Ok((sample, found))
    };
    workers.install(|| {
        let rest = 0..places.runs - places.first;
        if places.first == 0 {
            return seen(&places.read(source, cancel, rest, |nth| nth)?);
        }
        let first = places.read(source, cancel, 0..places.first, Places::early)?;
        let half = |odd: usize| first.half(odd, source).map(|mean| glance(&mean));
        let (whole, (even, odd)) = rayon::join(|| seen(&first), || rayon::join(|| half(0), || half(1)));
        if enough(&even?, &odd?) {
            return whole;
        }
        seen(&first.and(places.read(source, cancel, rest, |nth| places.other(nth))?))
    })
}

/// Where the runs of the sample lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    /// Frames of the scan, and of each run.
    frames: usize,
    run: usize,
    /// Runs, evenly between the beginning and the end, and how many of them belong to the first part. No first part: 0.
    runs: usize,
    first: usize,
    /// Whether the sample is the whole scan.
    all: bool,
    /// Groups of runs that are looked at side by side.
    groups: usize,
}

impl Places {
    fn of(source: &dyn FrameSource) -> Self {
        let info = source.info();
        let (frames, pixels) = (info.scan.len(), info.det.len());
        let bytes = (pixels * info.dtype.size()).max(1);
        let run = (RUN_BYTES / bytes).clamp(1, MOST_IN_RUN).min(frames.max(1));
        let sample = (SAMPLE_BYTES / bytes).max(LEAST_FRAMES).min(frames);
        let all = sample == frames;
        // Complete rounds of parts, so that each part reaches from the beginning to the end.
        let runs = sample.div_ceil(run);
        let runs = if all { runs } else { (runs / PARTS).max(1) * PARTS };
        let needs = source.block_bytes(run) + pixels * size_of::<Sum>();
        let groups = (GROUPS_BYTES / needs.max(1)).clamp(1, MOST_GROUPS);
        let first = runs / PARTS;
        let first = if first >= FIRST_RUNS && groups > 1 { first } else { 0 };
        Self { frames, run, runs, first, all, groups }
    }

    /// Number of the `nth` run of the first part.
    fn early(nth: usize) -> usize {
        nth * PARTS + PARTS / 2
    }

    /// Number of the `nth` run that does not belong to the first part.
    fn other(&self, nth: usize) -> usize {
        let (round, place) = (nth / (PARTS - 1), nth % (PARTS - 1));
        if round < self.first { round * PARTS + place + usize::from(place >= PARTS / 2) } else { self.first + nth }
    }

    /// First frame and number of frames of a run.
    fn frames(&self, number: usize) -> (usize, usize) {
        let Self { frames, run, runs, all, .. } = *self;
        let first = if all { number * run } else { number * (frames - run) / (runs - 1).max(1) };
        (first, run.min(frames - first))
    }

    /// Reads runs, the `nth` of which has the number that `number` says. They are looked at in groups side by side and put
    /// together in order; how many groups does not depend on the workers.
    fn read(
        &self,
        source: &dyn FrameSource,
        cancel: &CancelToken,
        nth: Range<usize>,
        number: impl Fn(usize) -> usize + Sync,
    ) -> Result<Part> {
        // All at once: a disk that has many to choose from is fast.
        nth.clone().into_par_iter().for_each(|nth| {
            let (first, count) = self.frames(number(nth));
            source.will_read(first, count);
        });
        let groups = self.groups.min(nth.len()).max(1);
        let of_group = |group: usize| {
            let mine = group * nth.len() / groups..(group + 1) * nth.len() / groups;
            self.read_group(source, cancel, &mine.map(&number).collect::<Vec<_>>())
        };
        let groups = (0..groups).into_par_iter().with_max_len(1).map(of_group).collect::<Result<_>>()?;
        Ok(Part { groups })
    }

    fn read_group(&self, source: &dyn FrameSource, cancel: &CancelToken, runs: &[usize]) -> Result<Group> {
        let mut buffer = vec![0; source.block_bytes(self.run)];
        let (mut sums, mut small) = (vec![Sum::default(); source.info().det.len()], Vec::new());
        let (mut used, mut counts) = (0, None);
        for run in runs {
            cancel.check()?;
            let (first, count) = self.frames(*run);
            let block = source.read_block(first, count, &mut buffer)?;
            let raw = raw_frames(&block);
            let found = with_sample_type!(block.dtype, S => {
                sum_frames::<S>(&raw, &mut sums, &mut small);
                count_range::<S>(&raw)
            });
            counts = either(counts, found);
            used += count;
        }
        Ok(Group { sums, used, counts })
    }
}

/// What groups of runs hold, in order.
struct Part {
    groups: Vec<Group>,
}

struct Group {
    sums: Vec<Sum>,
    used: usize,
    counts: Option<CountRange>,
}

impl Part {
    fn and(mut self, other: Self) -> Self {
        self.groups.extend(other.groups);
        self
    }

    /// The mean of every other group, the first of them or the one after it.
    fn half(&self, odd: usize, source: &dyn FrameSource) -> Result<Image> {
        mean(self.groups.iter().skip(odd).step_by(2), source)
    }

    fn sample(&self, source: &dyn FrameSource) -> Result<Sample> {
        let counts = self.groups.iter().map(|group| group.counts).fold(None, either);
        Ok(Sample { pattern: mean(self.groups.iter(), source)?, counts })
    }
}

fn mean<'a>(groups: impl Iterator<Item = &'a Group>, source: &dyn FrameSource) -> Result<Image> {
    let det = source.info().det;
    let (mut sums, mut used) = (vec![Sum::default(); det.len()], 0);
    for group in groups {
        sums.iter_mut().zip(&group.sums).for_each(|(sum, part)| sum.merge(*part));
        used += group.used;
    }
    let mean = sums.iter().map(|s| s.value() / used as f64).collect();
    Image::from_shape_vec((det.rows, det.cols), mean).map_err(|e| Error::bug(e.to_string()))
}

fn either(a: Option<CountRange>, b: Option<CountRange>) -> Option<CountRange> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.or(b)),
        (a, b) => a.or(b),
    }
}

/// A reader's block in the kernels' terms.
fn raw_frames<'a>(block: &FrameBlock<'a>) -> RawFrames<'a> {
    RawFrames {
        bytes: block.bytes,
        offset: block.offset,
        stride: block.stride,
        frames: block.frames,
        det: block.det,
        swap: block.endian == Endian::Big,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A scan of 60 × 40 frames of 12 × 10 pixels as an npy file.
    fn scan(folder: &std::path::Path, kind: &str, samples: impl Iterator<Item = Vec<u8>>) -> std::path::PathBuf {
        let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (60, 40, 12, 10), }}");
        header.push_str(&" ".repeat(117 - header.len()));
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        bytes.extend(header.bytes().chain(samples.flatten()));
        let path = folder.join("scan.npy");
        std::fs::write(&path, bytes).expect("write");
        path
    }

    fn count(i: usize) -> usize {
        (i.wrapping_mul(2_654_435_761) >> 7) % 1000
    }

    #[test]
    fn the_pattern_is_the_same_for_any_number_of_workers() {
        let folder = tempfile::tempdir().expect("tempdir");
        let samples = 60 * 40 * 12 * 10;
        let counts = (0..samples).map(|i| (count(i) as u16).to_le_bytes().to_vec());
        let numbers = (0..samples).map(|i| (count(i) as f32 * 0.1 - 1e5 / (1 + i % 7) as f32).to_le_bytes().to_vec());
        for (kind, enough) in [("<u2", false), ("<f4", false), ("<u2", true), ("<f4", true)] {
            let path = if kind == "<u2" {
                scan(folder.path(), kind, counts.clone())
            } else {
                scan(folder.path(), kind, numbers.clone())
            };
            let source = crate::read::open(&path, &Config::default().source).expect("open");
            let found = [1, 2, 5].map(|workers| {
                let workers = Workers::new(workers).expect("threads");
                take(&*source, &workers, &CancelToken::new(), (|_: &Image| (), |_: &Image| ()), |(), ()| enough)
                    .expect("sample")
                    .0
            });
            assert!(found.iter().all(|one| *one == found[0]), "{kind}");
            if kind == "<u2" {
                // 75 runs of 32 frames, of which every fourth is looked at first.
                let taken = |frame: &usize| !enough || frame / 32 % 4 == 2 && frame / 32 < 72;
                let frames: Vec<usize> = (0..2400).filter(taken).collect();
                let naive = Image::from_shape_fn((12, 10), |(r, c)| {
                    let sum: usize = frames.iter().map(|frame| count(frame * 120 + r * 10 + c)).sum();
                    sum as f64 / frames.len() as f64
                });
                let Sample { pattern, counts } = &found[0];
                assert_eq!((pattern, counts.map(|c| (c.least, c.most))), (&naive, Some((0, 999))));
            }
        }
    }

    #[test]
    fn both_halves_reach_over_the_whole_scan() {
        let folder = tempfile::tempdir().expect("tempdir");
        // Brighter from frame to frame.
        let samples = (0..60 * 40 * 120).map(|i| (i as u32 / 120).to_le_bytes().to_vec());
        let source = crate::read::open(&scan(folder.path(), "<u4", samples), &Config::default().source).expect("open");
        let workers = Workers::new(2).expect("threads");
        let look = |half: &Image| half.mean().unwrap_or(f64::NAN);
        let compared = std::sync::Mutex::new(Vec::new());
        let enough = |a: &f64, b: &f64| {
            compared.lock().expect("unpoisoned").extend([*a, *b]);
            true
        };
        let (sample, seen) = take(&*source, &workers, &CancelToken::new(), (look, look), enough).expect("sample");
        let means = compared.into_inner().expect("unpoisoned");
        assert!(means.len() == 2 && means.iter().all(|mean| (900.0..1500.0).contains(mean)), "{means:?}");
        assert!((seen - look(&sample.pattern)).abs() < 1e-9, "what was seen in the whole of it");
    }

    #[test]
    fn every_run_belongs_to_one_part() {
        for runs in 1..140 {
            let first = runs / PARTS;
            let places = Places { frames: 10 * runs, run: 2, runs, first, all: false, groups: 1 };
            let mut all: Vec<usize> = (0..first).map(Places::early).collect();
            all.extend((0..runs - first).map(|nth| places.other(nth)));
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..runs), "{runs}: {all:?}");
        }
    }
}
