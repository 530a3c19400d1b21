//! `stemstream plan`: what a run would cost. Does nothing.

use serde_json::json;

use crate::cli::args::PlanArgs;
use crate::cli::report;
use crate::error::Result;
use crate::progress::CancelToken;
use crate::session::Preview;

pub(in crate::cli) fn run(args: &PlanArgs, cancel: &CancelToken) -> Result<()> {
    let config = args.config.config()?;
    let preview = Preview::of(&args.input, &config, cancel)?;
    let (plan, disk) = (&preview.plan, &preview.disk);
    if args.json {
        let json = json!({
            "input": args.input,
            "disk": disk,
            "plan": plan,
            "peak_memory_bytes": plan.memory_cost.peak(),
            "cache_bytes": plan.disk_cost.cache(),
            "hdf5_bytes": plan.disk_cost.hdf5,
            "continues": preview.cache,
            "warnings": preview.warnings,
        });
        report::data(&json.to_string());
        return Ok(());
    }
    let [row, col] = disk.center;
    report::data(&format!("scan            {} positions of {} pixels", preview.info.scan, preview.info.det));
    report::data(&format!("disk            centre ({row:.2}, {col:.2}), radius {:.2} pixels", disk.radius));
    report::data(&format!("crop            {} pixels, bounds {:?}", disk.crop.shape(), disk.crop.bounds()));
    report::text(&plan.to_string());
    if let Some(cache) = &preview.cache {
        report::data(&format!("continues       {}", cache.display()));
    }
    for warning in &preview.warnings {
        report::data(&format!("warning         {warning}"));
    }
    Ok(())
}
