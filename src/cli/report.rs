//! Talking: stdout for data, stderr for everything else.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use indicatif::MultiProgress;

use crate::error::Error;
use crate::pipeline::GraphReport;

/// Writes one line of data to stdout. A closed pipe (`| head`) is no error.
pub(super) fn data(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes a block of data to stdout as it is.
pub(super) fn text(block: &str) {
    let _ = write!(std::io::stdout().lock(), "{block}");
}

/// Everything that goes to stderr, in step with the progress bars.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) bars: MultiProgress,
    pub(super) quiet: bool,
    pub(super) terminal: bool,
    colour: bool,
    warnings: Mutex<Vec<String>>,
}

impl Talk {
    pub(super) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { bars: MultiProgress::new(), quiet, terminal, colour, warnings: Mutex::default() }
    }

    fn line(&self, line: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        });
    }

    /// Colours only repeat what the word says.
    fn tag(&self, word: &str, code: &str) -> String {
        if self.colour { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word.to_owned() }
    }

    pub(super) fn note(&self, message: &str) {
        if !self.quiet {
            self.line(message);
        }
    }

    pub(super) fn warn(&self, message: &str) {
        if let Ok(mut warnings) = self.warnings.lock() {
            warnings.push(message.to_owned());
        }
        if !self.quiet {
            self.line(&format!("{}: {message}", self.tag("warning", "33")));
        }
    }

    pub(super) fn error(&self, error: &Error) {
        self.line(&format!("{}: {error}", self.tag("error", "31")));
        if let Some(hint) = error.hint() {
            self.line(&format!("\n{}: {hint}", self.tag("hint", "36")));
        }
    }

    /// The warnings since the last call.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        self.warnings.lock().map(|mut w| std::mem::take(&mut *w)).unwrap_or_default()
    }
}

/// One line about a graph that ran: how long, and which block was busiest.
pub(super) fn bottleneck(graph: &GraphReport) -> Option<String> {
    let block = graph.bottleneck()?;
    let load = 100.0 * block.busy_seconds / (graph.seconds * block.workers as f64).max(1e-9);
    Some(format!(
        "{}: {:.2} s, busiest block `{}` ({load:.0} % of {} thread(s))",
        graph.name, graph.seconds, block.name, block.workers
    ))
}
