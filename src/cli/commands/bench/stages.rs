//! When each stage of a run began and ended, as its progress tells.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::progress::Progress;

/// One stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Stage {
    /// What it does.
    pub(super) name: String,
    /// From the beginning of the run to the stage's, seconds.
    pub(super) begin: f64,
    /// What it took, seconds.
    pub(super) seconds: f64,
    /// The part of that until the last of its data had been looked at; the rest is work on what was found in them.
    pub(super) streaming_seconds: f64,
    /// Bytes of its input that it reported.
    pub(super) bytes: u64,
}

/// Keeps the stages and passes everything on.
pub(super) struct Recorder<'a> {
    next: &'a dyn Progress,
    start: Instant,
    stages: Mutex<(Option<Stage>, Vec<Stage>)>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(next: &'a dyn Progress) -> Self {
        Self { next, start: Instant::now(), stages: Mutex::default() }
    }

    /// Seconds since the beginning.
    pub(super) fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Times a task that reports no progress of its own as a stage.
    pub(super) fn time<T>(&self, name: &str, task: impl FnOnce() -> T) -> T {
        let begin = self.now();
        let result = task();
        let seconds = self.now() - begin;
        let stage = Stage { name: name.to_owned(), begin, seconds, streaming_seconds: seconds, bytes: 0 };
        self.with(|(_, done)| done.push(stage));
        result
    }

    /// All stages in order, and between them (as `other`) what no stage says of itself.
    pub(super) fn finish(self) -> Vec<Stage> {
        let total = self.now();
        self.close();
        let (_, stages) = self.stages.into_inner().unwrap_or_else(PoisonError::into_inner);
        let covered: f64 = stages.iter().map(|stage| stage.seconds).sum();
        let first = stages.first().map_or(total, |stage| stage.begin);
        let plain = |name: &str, begin: f64, seconds: f64| Stage {
            name: name.to_owned(),
            begin,
            seconds,
            streaming_seconds: 0.0,
            bytes: 0,
        };
        let mut all = vec![plain("start", 0.0, first)];
        all.extend(stages);
        all.push(plain("other", total, (total - first - covered).max(0.0)));
        all
    }

    fn with<T>(&self, change: impl FnOnce(&mut (Option<Stage>, Vec<Stage>)) -> T) -> T {
        change(&mut self.stages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the open stage. The same one again is one stage with a pause, which `other` has.
    fn close(&self) {
        let now = self.now();
        self.with(|(open, done)| {
            let Some(mut stage) = open.take() else { return };
            stage.seconds = now - stage.begin;
            match done.iter_mut().find(|earlier| earlier.name == stage.name) {
                Some(earlier) => {
                    earlier.seconds += stage.seconds;
                    earlier.streaming_seconds += stage.streaming_seconds;
                    earlier.bytes += stage.bytes;
                }
                None => done.push(stage),
            }
        });
    }
}

impl Progress for Recorder<'_> {
    fn begin(&self, stage: &str, total_bytes: u64) {
        self.close();
        let begin = self.now();
        let stage_now = Stage { name: stage.to_owned(), begin, seconds: 0.0, streaming_seconds: 0.0, bytes: 0 };
        self.with(|(open, _)| *open = Some(stage_now));
        self.next.begin(stage, total_bytes);
    }

    fn advance(&self, bytes: u64) {
        let now = self.now();
        self.with(|(open, _)| {
            if let Some(stage) = open {
                stage.bytes += bytes;
                stage.streaming_seconds = now - stage.begin;
            }
        });
        self.next.advance(bytes);
    }

    fn end(&self) {
        self.close();
        self.next.end();
    }

    fn note(&self, message: &str) {
        self.next.note(message);
    }

    fn warn(&self, message: &str) {
        self.next.warn(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn stages_and_what_lies_between_them_add_up_to_the_run() {
        let recorder = Recorder::new(&Silent);
        for (name, bytes) in [("a", 3), ("b", 4), ("a", 5)] {
            recorder.begin(name, 10);
            recorder.advance(bytes);
            recorder.end();
        }
        recorder.time("c", || ());
        // One that never ended.
        recorder.begin("d", 1);
        let before = recorder.now();
        let stages = recorder.finish();
        let names: Vec<_> = stages.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["start", "a", "b", "c", "d", "other"]);
        assert_eq!((stages[1].bytes, stages[2].bytes), (8, 4));
        assert!(stages.iter().all(|s| s.seconds >= s.streaming_seconds && s.streaming_seconds >= 0.0));
        assert!(stages.iter().map(|s| s.seconds).sum::<f64>() >= before);
    }
}
