//! What a bench has found, for people.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::commands::bench::run::{Outcome, mode_name};
use crate::machine::MachineRates;
use crate::pipeline::GraphReport;

/// The whole report.
pub(super) fn report(rates: &MachineRates, saved: Option<&Path>, runs: &[Outcome]) -> String {
    let mut text = machine(rates);
    for run in runs {
        text.push('\n');
        text.push_str(&of_run(run));
    }
    if let Some(path) = saved {
        let _ = write!(text, "\nrates saved in {}\n", path.display());
    }
    text
}

fn machine(rates: &MachineRates) -> String {
    let mut text = format!("{} ({}, {} processors)\n", rates.host, rates.cpu, rates.processors);
    for (name, value, unit) in [
        ("disk, read", rates.cold_read, "B/s"),
        ("read from memory", rates.warm_read, "B/s"),
        ("disk, write", rates.write, "B/s"),
        ("memory copy, 1 thread", rates.memory_copy, "B/s"),
        ("new memory, all", rates.new_memory, "B/s"),
        ("FFT 256×256, 1 thread", rates.fft_256_one, "flop/s"),
        ("FFT 256×256, all", rates.fft_256_all, "flop/s"),
        ("FFT 512×512, 1 thread", rates.fft_512_one, "flop/s"),
        ("FFT 512×512, all", rates.fft_512_all, "flop/s"),
    ] {
        let _ = writeln!(text, "  {name:<22} {:>14}", with_unit(value, unit));
    }
    text
}

fn of_run(run: &Outcome) -> String {
    let (scan, det, dtype) = run.shape;
    let method = match (run.config.is_parametric(), run.config.calibration.is_complete()) {
        (true, true) => "default method",
        (true, false) => "default method without a calibration",
        (false, _) => "classic method",
    };
    let mut text = format!(
        "{} mode, {method}: {scan} positions of {det} {dtype}, crop {}, {} workers, {} source\n",
        mode_name(&run.config),
        run.crop,
        run.workers,
        if run.warm { "warm" } else { "cold" },
    );
    let _ = writeln!(text, "  {:<14} {:>9} {:>6} {:>13}", "stage", "seconds", "%", "input");
    for stage in &run.stages {
        let part = 100.0 * stage.seconds / run.seconds.max(1e-9);
        let rate = if stage.bytes > 0 {
            with_unit(stage.bytes as f64 / stage.seconds.max(1e-9), "B/s")
        } else {
            String::new()
        };
        let _ = writeln!(text, "  {:<14} {:>9.3} {part:>6.1} {rate:>13}", stage.name, stage.seconds);
    }
    for graph in &run.graphs {
        text.push_str(&of_graph(graph));
    }
    if let Some(stage) = run.longest() {
        let inside = run.graphs.iter().find(|graph| graph.name == stage.name).and_then(GraphReport::bottleneck);
        let block = inside.map_or_else(String::new, |block| format!(", in it `{}`", block.name));
        let _ = writeln!(text, "  bottleneck of the run: {}{block}", stage.name);
    }
    let r = &run.roofline;
    let _ = writeln!(
        text,
        "  {:.2} s; the roofline is {:.2} s ({}: {} read, {} written in {:.2} s; {} in {:.2} s), {:.0} % of the time",
        run.seconds,
        r.seconds,
        r.limit,
        with_unit(r.bytes_read, "B"),
        with_unit(r.bytes_written, "B"),
        r.bytes_seconds,
        with_unit(r.flops, "flop"),
        r.flops_seconds,
        r.percent,
    );
    let p = &r.parts;
    let _ = writeln!(
        text,
        "  its parts one after the other: {:.2} s (read {:.2}, new memory {:.2}, transforms {:.2}, write {:.2}), {:.0} % of the time",
        p.sum,
        p.read,
        p.memory,
        p.transforms,
        p.write,
        100.0 * p.sum / run.seconds.max(1e-9),
    );
    text
}

fn of_graph(graph: &GraphReport) -> String {
    let mut text = format!("  graph `{}`, {:.3} s\n", graph.name, graph.seconds);
    let _ = writeln!(
        text,
        "    {:<20} {:>7} {:>8} {:>10} {:>13} {:>8} {:>8} {:>8}",
        "block", "threads", "items", "items/s", "bytes/s", "busy s", "starved", "blocked"
    );
    for block in &graph.blocks {
        let per_second = |amount: u64| amount as f64 / graph.seconds.max(1e-9);
        let _ = writeln!(
            text,
            "    {:<20} {:>7} {:>8} {:>10.1} {:>13} {:>8.3} {:>8.3} {:>8.3}",
            block.name,
            block.workers,
            block.items,
            per_second(block.items),
            with_unit(per_second(block.bytes), "B/s"),
            block.busy_seconds,
            block.starved_seconds,
            block.blocked_seconds,
        );
    }
    if let Some(block) = graph.bottleneck() {
        let load = 100.0 * block.busy_seconds / (graph.seconds * block.workers.max(1) as f64).max(1e-9);
        let _ = writeln!(text, "    bottleneck: `{}`, busy {load:.0} % of the time", block.name);
    }
    text
}

/// A number with a decimal prefix: `1.91 GB/s`.
fn with_unit(value: f64, unit: &str) -> String {
    let (mut value, mut prefix) = (value, "");
    for next in ["k", "M", "G", "T"] {
        if value < 1000.0 {
            break;
        }
        (value, prefix) = (value / 1000.0, next);
    }
    let decimals = if prefix.is_empty() { 0 } else { 2 };
    format!("{value:.decimals$} {prefix}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_decimal_prefixes() {
        for (value, text) in
            [(0.0, "0 B"), (999.0, "999 B"), (1910.0, "1.91 kB"), (3.2e9, "3.20 GB"), (5e15, "5000.00 TB")]
        {
            assert_eq!(with_unit(value, "B"), text);
        }
    }
}
