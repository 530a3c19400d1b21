//! Asks what a run would need under several memory budgets, without running: `plan_before_you_run [FILE]`.
#![expect(clippy::print_stdout, reason = "an example prints")]

mod common;

use stemstream::config::Config;
use stemstream::memory::ByteSize;
use stemstream::progress::CancelToken;
use stemstream::session::Preview;

fn main() -> stemstream::Result<()> {
    let input = match std::env::args().nth(1) {
        Some(file) => file.into(),
        None => common::write_scan("plan_before_you_run", &common::small_scan())?,
    };
    for budget in ["1 MiB", "28 MiB", "80 MiB", "1 GiB"] {
        let settings = [format!("run.memory=\"{budget}\""), "run.workers=2".to_owned()];
        let config = Config::default().with_settings(settings.iter().map(String::as_str))?;
        match Preview::of(&input, &config, &CancelToken::new()) {
            Ok(Preview { plan, .. }) => {
                let stack = if plan.in_memory { "in memory" } else { "on disk" };
                let (peak, disk) = (ByteSize(plan.memory_cost.peak()), ByteSize(plan.disk_cost.cache()));
                let (workers, tiles) = (plan.workers, plan.tiles);
                println!("{budget}: stack {stack}, {workers} workers, {tiles} tiles, peak {peak}, cache of {disk}");
            }
            // Too small a budget is told with the smallest one that would do.
            Err(error) => println!("{budget}: {error} ({})", error.hint().unwrap_or("no hint")),
        }
    }
    Ok(())
}
