//! `stemstream step`: run up to one step and stop.

use serde_json::json;

use crate::cache::{Manifest, Step};
use crate::cli::args::StepArgs;
use crate::cli::progress::Bars;
use crate::cli::report::{self, Talk};
use crate::error::{Error, Result};
use crate::progress::CancelToken;
use crate::session::Session;

pub(in crate::cli) fn run(args: &StepArgs, talk: &Talk, cancel: &CancelToken) -> Result<()> {
    let step = Step::ALL
        .into_iter()
        .find(|step| step.name() == args.name)
        .ok_or_else(|| Error::bug(format!("step `{}` passed the command line's check", args.name)))?;
    let bars = Bars::new(talk);
    let session = if args.input.join(Manifest::FILE).is_file() {
        Session::from_cache(&args.input, &args.config.all_settings()?, &bars, cancel)?
    } else {
        Session::open(&args.input, args.config.config()?, args.fresh, &bars, cancel)?
    };
    session.run_to(step)?;
    let manifest = session.manifest();
    if args.json {
        let json = json!({
            "input": session.input(),
            "cache": session.cache_path(),
            "step": step.name(),
            "result": manifest.results.get(&step),
            "reports": session.reports(),
            "warnings": talk.take_warnings(),
        });
        report::data(&json.to_string());
    } else {
        talk.note(&format!("step {step} is done in {}", session.cache_path().display()));
        report::data(&session.cache_path().display().to_string());
    }
    Ok(())
}
