//! `stemstream plan`: what a run would cost. Does nothing.

use serde_json::json;

use crate::cli::args::PlanArgs;
use crate::cli::report;
use crate::error::Result;
use crate::plan::StepTime;
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
            "export_bytes": plan.disk_cost.exports,
            "explain": plan.explain,
            "time": preview.time.as_ref().map(|(steps, missing)| json!({
                "steps": steps,
                "seconds": total(steps),
                "not_measured": missing,
            })),
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
    tell_time(preview.time.as_ref());
    if args.explain {
        report::text(&plan.explained());
    }
    if let Some(cache) = &preview.cache {
        report::data(&format!("continues       {}", cache.display()));
    }
    for warning in &preview.warnings {
        report::data(&format!("warning         {warning}"));
    }
    Ok(())
}

fn total(steps: &[StepTime]) -> f64 {
    steps.iter().map(|step| step.seconds).sum()
}

fn tell_time(time: Option<&(Vec<StepTime>, Vec<&'static str>)>) {
    let Some((steps, missing)) = time else {
        report::data("time            not calibrated: run `stemstream bench` without a scan");
        return;
    };
    report::data(&format!("time            {:.1} s", total(steps)));
    for StepTime { step, seconds } in steps {
        report::data(&format!("  {step:<14}{seconds:.1} s"));
    }
    if !missing.is_empty() {
        report::data(&format!("  not measured  {}", missing.join(", ")));
    }
}
