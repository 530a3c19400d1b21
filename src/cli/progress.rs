//! Progress bars: bytes, bytes per second and the time left, one bar per stage. Hidden when nobody looks.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::report::Talk;
use crate::progress::Progress;

/// Shows the library's progress on the terminal.
pub(super) struct Bars<'a> {
    talk: &'a Talk,
    current: Mutex<Option<ProgressBar>>,
}

impl<'a> Bars<'a> {
    pub(super) fn new(talk: &'a Talk) -> Self {
        if talk.quiet || !talk.terminal {
            talk.bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { talk, current: Mutex::new(None) }
    }

    fn set(&self, bar: Option<ProgressBar>) {
        if let Ok(mut current) = self.current.lock()
            && let Some(old) = std::mem::replace(&mut *current, bar)
        {
            old.finish_and_clear();
        }
    }
}

impl Progress for Bars<'_> {
    fn begin(&self, stage: &str, total_bytes: u64) {
        let bar = self.talk.bars.add(ProgressBar::new(total_bytes));
        let style = "{prefix:>12} {bar:30} {bytes:>11} of {total_bytes:<11} {binary_bytes_per_sec:>13}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(stage.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.set(Some(bar));
    }

    fn advance(&self, bytes: u64) {
        if let Ok(current) = self.current.lock()
            && let Some(bar) = &*current
        {
            bar.inc(bytes);
        }
    }

    fn end(&self) {
        self.set(None);
    }

    fn note(&self, message: &str) {
        self.talk.note(message);
    }

    fn warn(&self, message: &str) {
        self.talk.warn(message);
    }
}

impl Drop for Bars<'_> {
    fn drop(&mut self) {
        self.set(None);
    }
}
